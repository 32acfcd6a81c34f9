//! `burn ingest` reads OpenCode's databases of both generations while OpenCode has them open.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::{Connection, params};
use serde_json::{Value, json};

const CREATED_MS: i64 = 1_777_629_600_000;

fn tokens() -> Value {
    // The total shows that output does not include reasoning.
    json!({"total": 1_020_000, "input": 1_000_000, "output": 10_000, "reasoning": 10_000, "cache": {"read": 0, "write": 0}})
}

/// Fills a database like one generation of OpenCode.
type Fill = fn(&Connection);

fn create(user: &Path) -> Connection {
    let folder = user.join(".local/share/opencode");
    fs::create_dir_all(&folder).unwrap();
    let database = Connection::open(folder.join("opencode.db")).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database
}

/// Messages and parts in separate tables.
fn first_generation(database: &Connection) {
    database
        .execute_batch(
            "CREATE TABLE session(id TEXT PRIMARY KEY, parent_id TEXT, directory TEXT, version TEXT, time_created INTEGER,
               time_updated INTEGER);
             CREATE TABLE message(id TEXT PRIMARY KEY, session_id TEXT, time_created INTEGER, time_updated INTEGER, data TEXT);
             CREATE TABLE part(id TEXT PRIMARY KEY, message_id TEXT, session_id TEXT, time_created INTEGER,
               time_updated INTEGER, data TEXT);
             INSERT INTO session VALUES('ses_1', NULL, '/w/p', '1.4.0', 1777629600000, 1777629600000);",
        )
        .unwrap();
    let prompt = json!({"role": "user", "time": {"created": CREATED_MS}});
    let answer = json!({"role": "assistant", "time": {"created": CREATED_MS + 1000, "completed": CREATED_MS + 5000},
        "modelID": "claude-opus-4-7", "providerID": "anthropic", "parentID": "msg_1", "path": {"cwd": "/w/p"},
        "tokens": tokens(), "finish": "stop"});
    for (id, data) in [("msg_1", prompt), ("msg_2", answer)] {
        let row = params![id, "ses_1", CREATED_MS, CREATED_MS, data.to_string()];
        database.execute("INSERT INTO message VALUES(?, ?, ?, ?, ?)", row).unwrap();
    }
    for (id, message, text) in [("prt_1", "msg_1", "hello"), ("prt_2", "msg_2", "hi")] {
        let data = json!({"type": "text", "text": text}).to_string();
        let row = params![id, message, "ses_1", CREATED_MS, CREATED_MS, data];
        database.execute("INSERT INTO part VALUES(?, ?, ?, ?, ?, ?)", row).unwrap();
    }
}

/// One table of messages, with the parts in their content. The tables of the first generation may still exist.
fn second_generation(database: &Connection) {
    database
        .execute_batch(
            "CREATE TABLE session_v2(id TEXT PRIMARY KEY, parent_id TEXT, directory TEXT, version TEXT, time_created INTEGER,
               time_updated INTEGER);
             CREATE TABLE session_message(id TEXT PRIMARY KEY, session_id TEXT, type TEXT, seq INTEGER, time_created INTEGER,
               time_updated INTEGER, data TEXT);
             INSERT INTO session_v2 VALUES('ses_1', NULL, '/w/p', '2.0.0', 1777629600000, 1777629600000);",
        )
        .unwrap();
    let prompt = json!({"time": {"created": CREATED_MS}, "content": [{"type": "text", "text": "hello"}]});
    let answer = json!({"time": {"created": CREATED_MS + 1000, "completed": CREATED_MS + 5000},
        "model": {"id": "claude-opus-4-7", "providerID": "anthropic"}, "tokens": tokens(), "finish": "stop",
        "content": [{"type": "text", "text": "hi"}]});
    for (seq, id, kind, data) in [(1, "msg_1", "user", prompt), (2, "msg_2", "assistant", answer)] {
        let row = params![id, "ses_1", kind, seq, CREATED_MS, CREATED_MS, data.to_string()];
        database.execute("INSERT INTO session_message VALUES(?, ?, ?, ?, ?, ?, ?)", row).unwrap();
    }
}

fn ingest(user: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    for name in ["CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CODEX_HOME", "OPENCODE_DB"] {
        command.env_remove(name);
    }
    command.args(["ingest", "--agent", "opencode", "--json"]).env("HOME", user);
    command.env("RELAYBURN_HOME", user.join("burn")).output().unwrap()
}

fn turns(user: &Path) -> Vec<Value> {
    let ledger = fs::read_to_string(user.join("burn/ledger.jsonl")).unwrap();
    let lines = ledger.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "turn").map(|mut line| line["record"].take()).collect()
}

#[test]
fn both_generations_are_read_beside_their_writer_each_message_once() {
    let generations: [(&str, &[Fill]); 3] = [
        ("first", &[first_generation]),
        ("second", &[second_generation]),
        ("second, with the tables of the first", &[first_generation, second_generation]),
    ];
    for (name, fill) in generations {
        let user = tempfile::tempdir().unwrap();
        let database = create(user.path());
        fill.iter().for_each(|fill| fill(&database));
        for run in 0..2 {
            let output = ingest(user.path());
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let turns = turns(user.path());
            assert_eq!(turns.len(), 1, "{name}, run {run}: {turns:?}");
            assert_eq!(turns[0]["messageId"], "msg_2", "{name}");
            assert_eq!(turns[0]["sessionId"], "ses_1", "{name}");
            assert_eq!(turns[0]["model"], "anthropic/claude-opus-4-7", "{name}");
            let usage = &turns[0]["usage"];
            let counts = ["input", "output", "reasoning"].map(|class| usage[class].as_u64().unwrap());
            assert_eq!(counts, [1_000_000, 10_000, 10_000], "{name}");
        }
        // The writer's log is untouched: nothing was checkpointed or locked.
        database.execute("DELETE FROM session_v2", []).ok();
        assert_eq!(
            database.query_row("PRAGMA quick_check", [], |row| row.get::<_, String>(0)).unwrap(),
            "ok"
        );
    }
}

#[test]
fn a_damaged_database_is_named_and_the_rest_is_read() {
    let user = tempfile::tempdir().unwrap();
    first_generation(&create(user.path()));
    let damaged = user.path().join(".local/share/opencode/opencode-dev.db");
    fs::write(&damaged, b"SQLite format 3\0 and nothing that follows from it").unwrap();
    let output = ingest(user.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(damaged.to_str().unwrap()), "{said}");
    assert_eq!(turns(user.path()).len(), 1);
    assert!(!output.stdout.is_empty());
}

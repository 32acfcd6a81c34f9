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

/// Adds an answer of the second generation to a session.
fn add_answer(database: &Connection, session: &str, id: &str, at_ms: i64, content: Value) {
    let data = json!({"time": {"created": CREATED_MS + at_ms, "completed": CREATED_MS + at_ms + 500},
        "model": {"id": "claude-opus-4-7", "providerID": "anthropic"}, "tokens": tokens(), "content": content});
    let row = params![id, session, "assistant", at_ms, CREATED_MS, CREATED_MS, data.to_string()];
    database.execute("INSERT INTO session_message VALUES(?, ?, ?, ?, ?, ?, ?)", row).unwrap();
}

fn records(user: &Path, kind: &str) -> Vec<Value> {
    let ledger = fs::read_to_string(user.join("burn/ledger.jsonl")).unwrap();
    let lines = ledger.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).map(|mut line| line["record"].take()).collect()
}

#[test]
fn answers_that_a_fork_copied_are_counted_once() {
    let user = tempfile::tempdir().unwrap();
    let database = create(user.path());
    second_generation(&database);
    database
        .execute_batch(
            "ALTER TABLE session_v2 ADD fork_session_id TEXT; ALTER TABLE session_v2 ADD fork_boundary TEXT;
             INSERT INTO session_v2 VALUES('ses_2', NULL, '/w/p', '2.0.0', 1777629600000, 1777629600000, 'ses_1', 'msg_4');",
        )
        .unwrap();
    add_answer(&database, "ses_1", "msg_3", 6_000, json!([]));
    add_answer(&database, "ses_1", "msg_4", 8_000, json!([]));
    // Copies of msg_3, which is before the fork, and of msg_4, which is not; and an answer of the fork's own.
    add_answer(&database, "ses_2", "msg_5", 6_000, json!([]));
    add_answer(&database, "ses_2", "msg_6", 8_000, json!([]));
    add_answer(&database, "ses_2", "msg_7", 9_000, json!([]));
    for run in 0..2 {
        let output = ingest(user.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut ids: Vec<Value> = turns(user.path()).iter().map(|turn| turn["messageId"].clone()).collect();
        ids.sort_by_key(|id| id.to_string());
        assert_eq!(ids, ["msg_2", "msg_3", "msg_4", "msg_6", "msg_7"], "run {run}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["leftOut"].get("replay"), (run == 0).then(|| json!(1)).as_ref());
    }
    let rows = records(user.path(), "relationship");
    let fork: Vec<&Value> = rows.iter().filter(|row| row["relationshipType"] == "fork").collect();
    assert_eq!(fork.len(), 1);
    assert_eq!((&fork[0]["sessionId"], &fork[0]["relatedSessionId"]), (&json!("ses_2"), &json!("ses_1")));
}

#[test]
fn agents_of_equal_usage_are_counted_and_name_the_calls_that_started_them() {
    let user = tempfile::tempdir().unwrap();
    let database = create(user.path());
    second_generation(&database);
    let call = |id: &str, child: &str| {
        json!({"type": "tool", "id": id, "name": "task", "state": {"status": "completed", "output": "x",
            "input": {"subagent_type": "reviewer", "description": "look", "prompt": "p"}, "metadata": {"sessionId": child}}})
    };
    add_answer(&database, "ses_1", "msg_3", 6_000, json!([call("call_a", "ses_a"), call("call_b", "ses_b")]));
    for child in ["a", "b"] {
        let row = params![format!("ses_{child}"), CREATED_MS];
        let text = "INSERT INTO session_v2 VALUES(?1, 'ses_1', '/w/p', '2.0.0', ?2, ?2)";
        database.execute(text, row).unwrap();
        // Both work side by side: the same time, model and counts.
        add_answer(&database, &format!("ses_{child}"), &format!("msg_{child}"), 7_000, json!([]));
    }
    assert!(ingest(user.path()).status.success());
    let turns = turns(user.path());
    assert_eq!(turns.len(), 4, "{turns:?}");
    let rows = records(user.path(), "relationship");
    for child in ["a", "b"] {
        let (session, call) = (json!(format!("ses_{child}")), json!(format!("call_{child}")));
        let turn = turns.iter().find(|turn| turn["sessionId"] == session).unwrap();
        assert_eq!(turn["subagent"]["agentId"], session, "{turn}");
        let is_row = |row: &&Value| row["sessionId"] == session && row["relationshipType"] == "subagent";
        let row = rows.iter().find(is_row).unwrap();
        assert_eq!((&row["agentId"], &row["parentToolUseId"]), (&session, &call), "{row}");
        assert_eq!(
            (&row["subagentType"], &row["description"]),
            (&json!("reviewer"), &json!("look")),
            "{row}"
        );
    }
}

#[test]
fn a_database_whose_time_lies_in_the_future_comes_to_rest() {
    let user = tempfile::tempdir().unwrap();
    let database = create(user.path());
    database.pragma_update(None, "journal_mode", "delete").unwrap();
    first_generation(&database);
    // The answer is not complete.
    database
        .execute("UPDATE message SET data = json_remove(data, '$.time.completed', '$.finish')", [])
        .unwrap();
    drop(database);
    let file = fs::File::open(user.path().join(".local/share/opencode/opencode.db")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(86_400)).unwrap();
    let told = || -> Value { serde_json::from_slice(&ingest(user.path()).stdout).unwrap() };
    for run in 0..2 {
        let told = told();
        assert_eq!(
            (&told["appended"]["turns"], &told["skippedFiles"]),
            (&json!(0), &json!([])),
            "run {run}: {told}"
        );
    }
    // Runs have seen it as it is for a day.
    crate::histories::forget_when_it_was_seen(&user.path().join("burn"));
    assert_eq!(told()["appended"]["turns"], 1);
    assert_eq!(turns(user.path()).len(), 1);
}

/// Changes the answer `msg_2`, in a database that was last written `hours` ago.
fn change_answer(user: &Path, sql: &str, hours: u64) {
    let path = user.join(".local/share/opencode/opencode.db");
    let database = Connection::open(&path).unwrap();
    database.execute_batch(sql).unwrap();
    let updated = format!("UPDATE message SET time_updated = (unixepoch() - {hours} * 3600) * 1000");
    database.execute_batch(&updated).unwrap();
    crate::ingest::age(&path, hours * 3600);
}

/// OpenCode stores a prompt at once, also while an answer runs, and the tokens of an answer when its tools have ended.
#[test]
fn an_answer_without_tokens_waits_for_them_whatever_comes_meanwhile() {
    let running = "UPDATE message SET data = json_set(json_remove(data, '$.time.completed', '$.finish'),
           '$.tokens', json('{\"input\":0,\"output\":0,\"reasoning\":0,\"cache\":{\"read\":0,\"write\":0}}')) WHERE id = 'msg_2';
         INSERT INTO message VALUES('msg_3', 'ses_1', 1777629602000, 1777629602000,
           json_object('role', 'user', 'time', json_object('created', 1777629602000)));";
    let completed = format!(
        "UPDATE message SET data = json_set(data, '$.time.completed', {}, '$.tokens', json('{}')) WHERE id = 'msg_2'",
        CREATED_MS + 5000,
        tokens()
    );
    let told = |user: &Path| -> Value { serde_json::from_slice(&ingest(user).stdout).unwrap() };
    let start = || {
        let user = tempfile::tempdir().unwrap();
        let database = create(user.path());
        database.pragma_update(None, "journal_mode", "delete").unwrap();
        first_generation(&database);
        drop(database);
        change_answer(user.path(), running, 1);
        let first = told(user.path());
        assert_eq!((&first["appended"]["turns"], &first["openMessages"]), (&json!(0), &json!(1)), "{first}");
        user
    };

    let user = start();
    change_answer(user.path(), &completed, 0);
    assert_eq!(told(user.path())["appended"]["turns"], 1);
    assert_eq!(turns(user.path())[0]["usage"]["input"], 1_000_000);

    // An answer that got no tokens for a day gets none any more, whatever happens to the rest of the database.
    let user = start();
    change_answer(user.path(), "", 25);
    crate::ingest::age(&user.path().join(".local/share/opencode/opencode.db"), 3600);
    assert_eq!(told(user.path())["appended"]["turns"], 1);
    assert_eq!(turns(user.path())[0]["usage"]["input"], 0);
    assert_eq!(told(user.path())["agents"][0]["unchangedFiles"], 1);
}

//! `burn ingest --from-burn`: a database of burn 2 to 4, made here as that program makes it, becomes lines of the ledger.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::processes::{burn, failure};
use rusqlite::Connection;
use serde_json::{Value, json};

/// The tables of schema 7 that have records or stamps, with the columns that are not empty.
const TABLES: &str = "
    CREATE TABLE turns (source TEXT NOT NULL, session_id TEXT NOT NULL, message_id TEXT NOT NULL, ts TEXT NOT NULL, project TEXT,
        project_key TEXT, record_json TEXT NOT NULL, content_fingerprint TEXT NOT NULL, stop_reason TEXT, subagent_id TEXT,
        PRIMARY KEY (source, session_id, message_id)) STRICT;
    CREATE TABLE compactions (id_fingerprint TEXT PRIMARY KEY, record_json TEXT NOT NULL) STRICT;
    CREATE TABLE relationships (id_fingerprint TEXT PRIMARY KEY, record_json TEXT NOT NULL) STRICT;
    CREATE TABLE tool_result_events (id_fingerprint TEXT PRIMARY KEY, record_json TEXT NOT NULL) STRICT;
    CREATE TABLE user_turns (id_fingerprint TEXT PRIMARY KEY, record_json TEXT NOT NULL) STRICT;
    CREATE TABLE stamps (source TEXT NOT NULL DEFAULT '', session_id TEXT, ts TEXT NOT NULL, selector_json TEXT NOT NULL,
        enrichment_json TEXT NOT NULL, written_at TEXT NOT NULL, PRIMARY KEY (source, session_id, ts, written_at));
    CREATE TABLE archive_state (id INTEGER PRIMARY KEY CHECK (id = 1), schema_version INTEGER NOT NULL);
    INSERT INTO archive_state VALUES (1, 7);";

const TS: &str = "2026-04-20T00:00:01.000Z";

struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Self {
        Sandbox(tempfile::tempdir().unwrap())
    }

    fn database(&self) -> PathBuf {
        self.0.path().join("old/burn.sqlite")
    }

    fn ingest(&self, words: &[&str]) -> Output {
        let mut command = burn(&self.0.path().join("home"));
        command.env("HOME", self.0.path()).env_remove("RELAYBURN_CONTENT_STORE");
        command.args(["ingest", "--from-burn"]).arg(self.database()).args(words).output().unwrap()
    }

    fn document(&self) -> Value {
        let output = self.ingest(&["--json", "--quiet"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn ledger(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.0.path().join("home/ledger.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn turn(id: &str, ts: &str, output: u64) -> Value {
    json!({"v": 1, "source": "claude-code", "sessionId": "s", "messageId": id, "turnIndex": 0, "ts": ts, "model": "claude-opus-4-7",
        "usage": {"input": 1, "output": output, "reasoning": 0, "cacheRead": 2, "cacheCreate5m": 0, "cacheCreate1h": 0},
        "toolCalls": [], "stopReason": "end-turn"})
}

fn add(database: &Connection, table: &str, id: &str, record: &str) {
    match table {
        "turns" => database.execute(
            "INSERT INTO turns VALUES ('claude-code', 's', ?1, 't', NULL, NULL, ?2, ?1, NULL, NULL)",
            [id, record],
        ),
        _ => database.execute(&format!("INSERT INTO {table} VALUES (?1, ?2)"), [id, record]),
    }
    .unwrap();
}

/// A database with two records of each kind, stamps, content, and rows that cannot become lines.
fn fill(path: &Path) -> Connection {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let database = Connection::open(path).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.execute_batch(TABLES).unwrap();
    for number in [1, 2] {
        let id = format!("m{number}");
        add(&database, "turns", &id, &turn(&id, TS, number).to_string());
        let ts = format!("2026-04-20T00:00:0{number}.000Z");
        let of = |more: Value| {
            let mut record = json!({"v": 1, "source": "claude-code", "sessionId": "s", "ts": ts});
            record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            record.to_string()
        };
        add(&database, "compactions", &id, &of(json!({"tokensBeforeCompact": 5})));
        let related = of(json!({"relationshipType": "fork", "relatedSessionId": id}));
        add(&database, "relationships", &id, &related);
        let event = of(
            json!({"toolUseId": id, "eventIndex": number, "status": "completed", "eventSource": "tool_result"}),
        );
        add(&database, "tool_result_events", &id, &event);
        add(&database, "user_turns", &id, &of(json!({"userUuid": format!("u{number}"), "blocks": []})));
        let stamp = "INSERT INTO stamps VALUES ('', 's', ?1, '{\"sessionId\":\"s\"}', '{\"k\":\"v\"}', ?1)";
        database.execute(stamp, [&ts]).unwrap();
    }
    add(&database, "turns", "broken", "{\"v\":1");
    add(&database, "turns", "list", "[]");
    add(&database, "turns", "no time", &turn("m3", "yesterday", 3).to_string());
    let content = Connection::open(path.with_file_name("content.sqlite")).unwrap();
    content
        .execute_batch(
            "CREATE TABLE content (rowid INTEGER PRIMARY KEY, session_id TEXT, body TEXT NOT NULL);",
        )
        .unwrap();
    let body = json!({"v": 1, "source": "claude-code", "sessionId": "s", "messageId": "m1", "ts": TS, "role": "assistant",
        "kind": "text", "text": "done"});
    content.execute("INSERT INTO content VALUES (1, 's', ?1)", [body.to_string()]).unwrap();
    database
}

#[test]
fn each_row_becomes_a_line_or_is_counted_by_its_reason() {
    let sandbox = Sandbox::new();
    // Its writer has it open.
    let database = fill(&sandbox.database());
    let document = sandbox.document();
    let appended = json!({"turns": 2, "content": 1, "compactions": 2, "relationships": 2, "toolResultEvents": 2, "userTurns": 2});
    assert_eq!(document["appended"], appended);
    assert_eq!(document["leftOut"], json!({"malformed": 1, "notARecord": 1, "refused": 1}));
    let ledger = sandbox.ledger();
    assert_eq!(ledger.len(), 12);
    assert_eq!(ledger.iter().filter(|line| line["kind"] == "stamp").count(), 2);
    assert!(ledger.iter().any(|line| line["record"] == turn("m2", TS, 2)));
    let agent = &document["agents"][0];
    assert_eq!((&agent["agent"], &agent["lines"]), (&json!("burn"), &json!(16)));
    let content = fs::read_to_string(sandbox.0.path().join("home/content/s.jsonl")).unwrap();
    assert!(content.contains("\"text\":\"done\""));

    // Another time nothing is new, and what burn has written meanwhile is.
    let again = sandbox.document();
    assert_eq!((&again["appended"]["turns"], &again["duplicates"]), (&json!(0), &json!(13)));
    add(&database, "turns", "m9", &turn("m9", TS, 9).to_string());
    assert_eq!(sandbox.document()["appended"]["turns"], 1);
    assert_eq!(sandbox.ledger().len(), 13);
    drop(database);
    assert_eq!(sandbox.document()["duplicates"], 14, "without its writer the database has no shared memory");
}

/// Adds a turn whose session and time make another row of the same message.
fn add_of_session(database: &Connection, session: &str, id: &str, ts: &str) {
    let mut record = turn(id, ts, 7);
    record["sessionId"] = json!(session);
    let text = "INSERT INTO turns VALUES ('claude-code', ?1, ?2, 't', NULL, NULL, ?3, ?2, NULL, NULL)";
    database.execute(text, [session, id, &record.to_string()]).unwrap();
}

#[test]
fn a_message_of_two_sessions_counts_once_whatever_is_between_its_rows() {
    const ID: &str = "msg_01ABCDEFGHIJKLMNOPQRSTUV";
    for between in [0, 5, 1_200] {
        let sandbox = Sandbox::new();
        let database = fill(&sandbox.database());
        database.execute_batch("DELETE FROM turns; BEGIN").unwrap();
        add_of_session(&database, "s2", ID, TS);
        for number in 0..between {
            let ts = format!("2026-04-21T00:00:00.{number:04}Z");
            add_of_session(&database, "s2", &format!("m{number}"), &ts);
        }
        // A copy of the message with another time, and a turn that only its fingerprint tells.
        add_of_session(&database, "s3", ID, "2026-04-20T00:00:02.000Z");
        add_of_session(&database, "s4", "another", TS);
        database.execute_batch("COMMIT").unwrap();
        let document = sandbox.document();
        let counts = (&document["appended"]["turns"], &document["leftOut"], &document["duplicates"]);
        assert_eq!(counts, (&json!(between + 1), &json!({"replay": 1}), &json!(1)), "{between} rows between");
        let ledger = sandbox.ledger();
        let with_message = ledger.iter().filter(|line| line["record"]["messageId"] == ID);
        assert_eq!(with_message.map(|line| &line["record"]["sessionId"]).collect::<Vec<_>>(), ["s2"]);
        let again = sandbox.document();
        assert_eq!((&again["appended"]["turns"], &again["leftOut"]), (&json!(0), &json!({"replay": 1})));
    }
}

#[test]
fn rows_of_a_session_are_not_compared_with_each_other() {
    for between in [0, 1_200] {
        let sandbox = Sandbox::new();
        let database = fill(&sandbox.database());
        database.execute_batch("DELETE FROM turns; BEGIN").unwrap();
        for id in ["m1", "m2", "m3"] {
            add_of_session(&database, "s1", id, TS);
            for number in 0..between {
                let ts = format!("2026-04-21T00:00:00.{number:04}Z");
                add_of_session(&database, &format!("other {id}"), &format!("{id} {number}"), &ts);
            }
        }
        database.execute_batch("COMMIT").unwrap();
        let document = sandbox.document();
        let of_session = |sandbox: &Sandbox| {
            sandbox
                .ledger()
                .iter()
                .filter(|line| {
                    line["record"]["messageId"].as_str().is_some_and(|id| id.len() == 2)
                        && line["kind"] == "turn"
                })
                .count()
        };
        assert_eq!(of_session(&sandbox), 3, "{between}: {document}");
        // What an earlier version left out of an import comes with the next.
        let ledger = sandbox.0.path().join("home/ledger.jsonl");
        let text = fs::read_to_string(&ledger).unwrap();
        let without: String =
            text.lines().filter(|line| !line.contains("\"m2\"")).map(|line| format!("{line}\n")).collect();
        fs::write(&ledger, without).unwrap();
        let rebuilt = burn(&sandbox.0.path().join("home"))
            .args(["state", "rebuild", "index", "--force"])
            .output()
            .unwrap();
        assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
        assert_eq!(sandbox.document()["appended"]["turns"], 1);
        assert_eq!(of_session(&sandbox), 3);
        assert_eq!(sandbox.document()["appended"]["turns"], 0);
    }
}

#[test]
fn stamps_alone_are_appended() {
    let sandbox = Sandbox::new();
    let database = fill(&sandbox.database());
    let tables = ["turns", "compactions", "relationships", "tool_result_events", "user_turns"];
    for table in tables {
        database.execute(&format!("DELETE FROM {table}"), []).unwrap();
    }
    fs::remove_file(sandbox.database().with_file_name("content.sqlite")).unwrap();
    sandbox.document();
    let ledger = sandbox.ledger();
    assert_eq!(ledger.iter().map(|line| &line["kind"]).collect::<Vec<_>>(), ["stamp", "stamp"]);
}

#[cfg(unix)]
#[test]
fn a_linked_database_is_read_with_its_log() {
    let sandbox = Sandbox::new();
    let path = sandbox.database();
    let elsewhere = path.parent().unwrap().join("elsewhere.sqlite");
    // The rows are only in the write-ahead log while their writer has the database open.
    let writer = fill(&elsewhere);
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert_eq!(sandbox.document()["appended"]["turns"], 2);
    drop(writer);
    assert_eq!(sandbox.document()["duplicates"], 13);
}

/// Runs a command that must fail before anyone writes into its pipe.
#[cfg(unix)]
fn said_without_waiting(sandbox: &Sandbox) -> String {
    let mut command = burn(&sandbox.0.path().join("home"));
    command.env("HOME", sandbox.0.path()).env_remove("RELAYBURN_CONTENT_STORE");
    command.args(["ingest", "--from-burn"]).arg(sandbox.database());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it waits for a writer of the pipe");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    failure(&child.wait_with_output().unwrap())
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    for name in ["burn.sqlite", "burn.sqlite-wal", "burn.sqlite-shm", "burn.sqlite-journal", "content.sqlite"]
    {
        let sandbox = Sandbox::new();
        drop(fill(&sandbox.database()));
        let path = sandbox.database().with_file_name(name);
        let _ = fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let said = said_without_waiting(&sandbox);
        assert!(said.contains(&format!("/{name}: it is no regular file")), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn content_that_cannot_be_reached_is_an_error_that_names_it() {
    // A link to itself, and a link to a file on a disk that is away.
    for target in ["content.sqlite", "away/content.sqlite"] {
        let sandbox = Sandbox::new();
        drop(fill(&sandbox.database()));
        let path = sandbox.database().with_file_name("content.sqlite");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        let said = failure(&sandbox.ingest(&[]));
        assert!(said.contains("old/content.sqlite"), "{said}");
        // Texts that are not kept are not looked for.
        let mut command = burn(&sandbox.0.path().join("home"));
        command.env("HOME", sandbox.0.path()).env("RELAYBURN_CONTENT_STORE", "off");
        let output = command.args(["ingest", "--from-burn"]).arg(sandbox.database()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn rows_that_are_left_out_are_named() {
    let sandbox = Sandbox::new();
    let database = fill(&sandbox.database());
    add_of_session(&database, "s2", "m1", TS);
    let stamp = "INSERT INTO stamps VALUES ('', 's', ?1, '{}', '{\"k\":\"v\"}', 'later')";
    database.execute(stamp, [TS]).unwrap();
    let content = Connection::open(sandbox.database().with_file_name("content.sqlite")).unwrap();
    content.execute("INSERT INTO content VALUES (8, 's', '[]')", []).unwrap();
    drop((database, content));
    let report = sandbox.0.path().join("report.jsonl");
    let output = sandbox.ingest(&["--report", report.to_str().unwrap()]);
    assert!(output.status.success());
    let text = fs::read_to_string(report).unwrap();
    let details: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["detail"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(details.len(), 6);
    for (place, reason) in [
        ("row 3 of turns: ", ""),
        ("row 4 of turns", ""),
        ("row 5 of turns: ", "yesterday"),
        ("row 6 of turns", ""),
        ("row 3 of stamps: ", "selector"),
        ("row 8 of content", ""),
    ] {
        let is_named = |detail: &&String| detail.starts_with(place) && detail.contains(reason);
        assert_eq!(details.iter().filter(is_named).count(), 1, "{place}: {details:?}");
    }
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("burn.sqlite: row 5 of turns is not written: "), "{notes}");
}

#[test]
fn a_database_of_another_kind_is_refused_by_name() {
    let sandbox = Sandbox::new();
    let database = fill(&sandbox.database());
    database.execute("UPDATE archive_state SET schema_version = 8", []).unwrap();
    let said = failure(&sandbox.ingest(&[]));
    assert!(said.contains("its schema is 8") && said.contains("burn.sqlite"), "{said}");
    database.execute_batch("UPDATE archive_state SET schema_version = 3; DROP TABLE user_turns").unwrap();
    let said = failure(&sandbox.ingest(&[]));
    assert!(said.contains("user_turns has no column record_json"), "{said}");
    database.execute("DROP TABLE archive_state", []).unwrap();
    assert!(failure(&sandbox.ingest(&[])).contains("no burn.sqlite of burn 2 to 4"));
    fs::write(sandbox.database(), "no database").unwrap();
    let _ = fs::remove_file(sandbox.database().with_extension("sqlite-wal"));
    assert!(failure(&sandbox.ingest(&[])).contains("burn.sqlite"));
    assert!(!sandbox.0.path().join("home").exists(), "nothing was written");
}

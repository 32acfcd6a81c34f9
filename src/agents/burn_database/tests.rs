//! The lines of an import do not depend on how many rows are read and appended together.
#![allow(clippy::unwrap_used)]

use rusqlite::Connection;
use serde_json::{Value, json};

use super::*;
use crate::agents::{IngestOptions, NoObserver};
use crate::home::Home;

const TABLES_OF_BURN: &str = "CREATE TABLE turns (record_json TEXT); CREATE TABLE compactions (record_json TEXT);
    CREATE TABLE relationships (record_json TEXT); CREATE TABLE tool_result_events (record_json TEXT);
    CREATE TABLE user_turns (record_json TEXT);
    CREATE TABLE stamps (ts TEXT, selector_json TEXT, enrichment_json TEXT, written_at TEXT);
    CREATE TABLE archive_state (id INTEGER, schema_version INTEGER); INSERT INTO archive_state VALUES (1, 7);";

fn event(session: &str, call: &str, number: u64, status: &str) -> Value {
    json!({"v": 1, "source": "claude-code", "sessionId": session, "toolUseId": call, "callIndex": 0, "eventIndex": number,
        "status": status, "eventSource": "tool_result", "contentHash": format!("{call}{status}")})
}

/// An event of a log, which has a message and a time.
fn logged(session: &str, call: &str, number: u64) -> Value {
    let mut event = event(session, call, number, "completed");
    event["messageId"] = json!(format!("message of {call}"));
    event["ts"] = json!("2026-04-20T00:00:01.000Z");
    event
}

/// Events of sessions with and without hooks. Some have the numbers of others, some repeat what the ledger has.
fn rows() -> Vec<Value> {
    let mut rows =
        vec![logged("plain", "twice", 1), logged("plain", "twice", 2), logged("plain", "known", 4)];
    for number in 0..20 {
        let (call, other) = (format!("a{number}"), format!("b{number}"));
        rows.push(logged("hooked", &call, 3 * number));
        // A hook began the call, and its log has the result under the same number.
        rows.push(event("hooked", &other, 3 * number + 1, "running"));
        rows.push(logged("hooked", &other, 3 * number + 1));
        // A hook reported a result before its log.
        rows.push(event("hooked", &format!("c{number}"), 3 * number + 2, "completed"));
        rows.push(logged("hooked", &format!("c{number}"), 3 * number + 2));
        rows.push(logged("begun", &call, number));
        rows.push(logged("plain", &call, 10 + number));
    }
    // Without a message, a notification is told by its content.
    for session in ["hooked", "begun"] {
        let mut told = event(session, "b0", 1, "completed");
        told["ts"] = json!("2026-04-20T00:00:02.000Z");
        told["eventSource"] = json!("subagent_notification");
        rows.push(told);
    }
    rows
}

fn line(record: &Value) -> String {
    json!({"v": 1, "kind": "tool_result_event", "record": record}).to_string() + "\n"
}

fn lines(home: &Home) -> Vec<String> {
    let text = std::fs::read_to_string(home.ledger()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn the_lines_do_not_depend_on_the_size_of_the_portions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("burn.sqlite");
    let database = Connection::open(&path).unwrap();
    database.execute_batch(TABLES_OF_BURN).unwrap();
    for row in rows() {
        let text = "INSERT INTO tool_result_events VALUES (?1)";
        database.execute(text, [row.to_string()]).unwrap();
    }
    drop(database);
    let mut wanted = None;
    for (rows_together, flush_bytes) in
        [(1_000, None), (1_000, Some(1)), (7, None), (7, Some(1)), (1, Some(1))]
    {
        let home = Home::at(folder.path().join(format!("home-{rows_together}-{}", flush_bytes.is_some())));
        std::fs::create_dir(home.root()).unwrap();
        let before = [
            logged("plain", "known", 99),
            // Hooks of sessions of which the database has only the log.
            event("begun", "a3", 3, "running"),
            event("begun", "b0", 1, "running"),
        ];
        std::fs::write(home.ledger(), before.iter().map(line).collect::<String>()).unwrap();
        let portions = ImportPortions { rows: rows_together, flush_bytes };
        let import = || {
            let mut ingest = Ingest::new(home.clone(), IngestOptions::default());
            ingest.take_portions(&path, portions, &mut NoObserver, &Interrupt::new()).unwrap()
        };
        let report = import();
        let found = (lines(&home), report.appended, report.left_out.get("replay").copied());
        // 20 results after a hook, and one that the ledger has under another number.
        assert_eq!(
            (found.1.tool_result_events, found.2),
            (rows().len() as u64 - 21, Some(21)),
            "{portions:?}"
        );
        assert_eq!(found.0.len(), rows().len() - 21 + before.len(), "{portions:?}");
        assert_eq!(wanted.get_or_insert(found.clone()), &found, "{portions:?}");
        assert_eq!(import().appended.total(), 0, "{portions:?}");
        assert_eq!(lines(&home), found.0, "{portions:?}");
    }
}

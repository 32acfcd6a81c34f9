//! What `burn ledger append` takes and refuses, and in how much memory.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn burn(home: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(args)
        .env("RELAYBURN_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

const TURN: &str = r#"{"source":"codex","sessionId":"s1","messageId":"m1","turnIndex":0,"ts":"2026-04-20T00:00:00.123456+02:00","model":"m","usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0},"toolCalls":[{"name":"N","collapsedCalls":2}]}"#;
const STAMP: &str = r#"{"v":1,"kind":"stamp","ts":"2026-04-20T00:00:00Z","selector":{"sessionId":"s1","range":{"fromTs":"2026-04-20T00:00:00Z"}},"enrichment":{"tier":"gold"}}"#;
const USER_TURN: &str = r#"{"source":"codex","sessionId":"s1","userUuid":"u1","ts":"2026-04-20T00:00:00Z","blocks":[{"kind":"text","byteLen":1,"approxTokens":1}]}"#;
const RELATIONSHIP: &str =
    r#"{"source":"codex","sessionId":"s1","relationshipType":"root","ts":"2026-04-20T00:00:00Z"}"#;

/// Kind, a good record, what is changed in it, and how the refusal begins.
const DOUBTFUL: [(&str, &str, [&str; 2], &str); 9] = [
    ("turns", TURN, ["2026-04-20T00:00:00.123456+02:00", "yesterday"], "ts is \"yesterday\""),
    ("turns", TURN, ["\"input\":1", "\"input\":-5"], "usage.input is -5"),
    ("turns", TURN, ["\"output\":2", "\"output\":1e30"], "usage.output is 1e30"),
    ("turns", TURN, ["\"model\":\"m\"", "\"model\":\"\""], "model is \"\""),
    ("turns", TURN, ["collapsedCalls\":2", "collapsedCalls\":-2"], "toolCalls[0].collapsedCalls is -2"),
    ("stamp", STAMP, ["2026-04-20T00:00:00Z\",\"sel", "\\u001b[2J\",\"sel"], "ts is \"\\u001b[2J\""),
    ("stamp", STAMP, ["\"fromTs\":\"2026-04-20T00:00:00Z", "\"fromTs\":\"today"], "selector.range.fromTs is"),
    ("user-turns", USER_TURN, ["\"byteLen\":1", "\"byteLen\":0.5"], "blocks[0].byteLen is 0.5"),
    ("relationships", RELATIONSHIP, ["2026-04-20T00:00:00Z", "20 April"], "ts is \"20 April\""),
];

#[test]
fn a_value_that_no_agent_means_is_refused_by_line_member_and_remedy() {
    for (kind, good, [from, to], begin) in DOUBTFUL {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        // Another record, so that the two are no duplicates.
        let good = good.replace("s1", "s2");
        let input = format!("{good}\n{bad}\n");
        for more in [&[][..], &["--via-journal"]] {
            let home = tempfile::tempdir().unwrap();
            let args = [&["ledger", "append", "--kind", kind], more].concat();
            let refused = burn(home.path(), &args, &input);
            let said = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(1), "{kind}: {said}");
            let place = format!("standard input, line 2 (byte {}): {begin}", good.len() + 1);
            assert!(said.contains(&place), "{kind}: no {place} in {said}");
            assert!(said.contains("nothing was written") && said.contains("--lenient"), "{said}");
            assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "{kind}: something was written");

            let lenient = burn(home.path(), &[&args[..], &["--lenient"]].concat(), &input);
            assert!(lenient.status.success(), "{kind}: {}", String::from_utf8_lossy(&lenient.stderr));
        }
    }
}

#[test]
fn a_check_counts_what_a_strict_append_would_refuse_without_calling_it_a_fault() {
    let home = tempfile::tempdir().unwrap();
    let mut first = None;
    for (number, (kind, good, [from, to], _)) in DOUBTFUL.into_iter().enumerate() {
        for (session, is_good) in [("good", true), ("bad", false)] {
            let record = good.replace("s1", &format!("{session}{number}"));
            let record = if is_good { record } else { record.replacen(from, to, 1) };
            if !is_good {
                let len_bytes = fs::metadata(home.path().join("ledger.jsonl")).unwrap().len();
                first = first.or(Some(len_bytes));
            }
            // All turns of this test would have one fingerprint.
            let record = record.replace("\"model\":\"m\"", &format!("\"model\":\"m{session}{number}\""));
            let done =
                burn(home.path(), &["ledger", "append", "--lenient", "--json", "--kind", kind], &record);
            let done: Value = serde_json::from_slice(&done.stdout).unwrap();
            assert_eq!(done["appended"], 1, "{record}");
        }
    }
    let checked = burn(home.path(), &["ledger", "check", "--json"], "");
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let expected = serde_json::json!({
        "lines": 9, "firstOffset": first, "badTimes": 4, "badCounts": 4, "emptyTexts": 1,
    });
    assert_eq!(report["strictRefusals"], expected);
    assert_eq!((checked.status.code(), &report["ok"]), (Some(0), &Value::Bool(true)));
    let text = String::from_utf8(burn(home.path(), &["ledger", "check"], "").stdout).unwrap();
    assert!(text.lines().any(|line| line.trim() == "not for strict append  9"), "{text}");
}

//! The records that `burn ledger append` accepts and refuses, and its memory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::common::everything::finish;
use crate::common::processes;

fn burn(home: &Path, args: &[&str], input: &str) -> Output {
    let mut command = processes::burn(home);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().unwrap(), input)
}

const TURN: &str = r#"{"source":"codex","sessionId":"s1","messageId":"m1","turnIndex":0,"ts":"2026-04-20T00:00:00.123456+02:00","model":"m","usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0},"toolCalls":[{"name":"N","collapsedCalls":2}]}"#;
const STAMP: &str = r#"{"v":1,"kind":"stamp","ts":"2026-04-20T00:00:00Z","selector":{"sessionId":"s1","range":{"fromTs":"2026-04-20T00:00:00Z"}},"enrichment":{"tier":"gold"}}"#;
const USER_TURN: &str = r#"{"source":"codex","sessionId":"s1","userUuid":"u1","ts":"2026-04-20T00:00:00Z","blocks":[{"kind":"text","byteLen":1,"approxTokens":1}]}"#;
const RELATIONSHIP: &str =
    r#"{"source":"codex","sessionId":"s1","relationshipType":"root","ts":"2026-04-20T00:00:00Z"}"#;

/// Kind, a good record, the change of it, and the beginning of the refusal.
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
            // Otherwise all turns of this test would have one fingerprint.
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

/// Runs an append. Also returns its peak of anonymous memory in KiB.
fn append_measured(home: &Path, args: &[&str], input: impl Fn(&mut dyn Write) + Send) -> (u64, Output) {
    let mut command = processes::burn(home);
    command.args(["ledger", "append", "--json"]).args(args);
    processes::peak_anonymous(command, input)
}

/// `count` turns of 1 MiB each, all with one fingerprint.
fn long_turns(count: usize, out: &mut dyn Write) {
    let text = "p".repeat(1 << 20);
    for number in 0..count {
        let id = format!("\"m{number}\",\"project\":\"{text}\"");
        // A command that has refused a record does not read on.
        let _ = writeln!(out, "{}", TURN.replace("\"m1\"", &id));
    }
}

#[test]
fn a_large_input_is_one_batch_in_the_memory_of_a_piece() {
    let home = tempfile::tempdir().unwrap();
    let (peak_kib, output) =
        append_measured(home.path(), &["--kind", "turns"], |stdin| long_turns(120, stdin));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // As in a small batch, turns of one batch are not compared by their fingerprints.
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["appended"], &done["duplicates"]), (&Value::from(120), &Value::from(0)));
    let ledger = fs::read_to_string(home.path().join("ledger.jsonl")).unwrap();
    for (number, line) in ledger.lines().enumerate() {
        assert!(line.contains(&format!("\"messageId\":\"m{number}\"")), "line {number}");
    }
    assert_eq!(ledger.lines().count(), 120);
    println!("120 lines of 1 MiB: {peak_kib} KiB");
    if cfg!(target_os = "linux") {
        assert!(peak_kib > 0 && peak_kib < 100 << 10, "{peak_kib} KiB");
    }
    let names: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");

    // All again, and one more turn of the same fingerprint.
    let (_, output) = append_measured(home.path(), &["--kind", "turns"], |stdin| long_turns(121, stdin));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["appended"], &done["duplicates"]), (&Value::from(0), &Value::from(121)));

    // The journal also gets pieces, and delivers them as one batch.
    let home = tempfile::tempdir().unwrap();
    let (peak_kib, output) =
        append_measured(home.path(), &["--kind", "turns", "--via-journal"], |stdin| long_turns(40, stdin));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["queued"], done["offsets"].as_array().unwrap().len()), (&Value::from(40), 40));
    println!("40 lines of 1 MiB into the journal: {peak_kib} KiB");
}

#[test]
fn a_bad_line_at_the_end_of_a_large_input_leaves_nothing_written() {
    let home = tempfile::tempdir().unwrap();
    let (_, output) = append_measured(home.path(), &["--kind", "turns"], |stdin| {
        long_turns(20, stdin);
        let _ = stdin.write_all(b"{}\n");
    });
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let mut before = Vec::new();
    long_turns(20, &mut before);
    assert!(said.contains(&format!("standard input, line 21 (byte {}): ", before.len())), "{said}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_line_that_would_take_too_much_memory_is_refused_by_its_place() {
    let home = tempfile::tempdir().unwrap();
    let (_, output) = append_measured(home.path(), &["--kind", "turns"], |stdin| {
        let piece = vec![b' '; 1 << 20];
        let _ = writeln!(stdin, "{TURN}");
        for _ in 0..33 {
            let _ = stdin.write_all(&piece);
        }
    });
    let said = String::from_utf8(output.stderr).unwrap();
    let place = format!("standard input, line 2 (byte {}): longer than 33,554,432 bytes", TURN.len() + 1);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&place) && said.contains("nothing was written"), "{said}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn archive_and_ledger_agree_on_a_lone_surrogate_in_an_enrichment() {
    let home = tempfile::tempdir().unwrap();
    let stamp = STAMP.replace("\"tier\":\"gold\"", r#""tier":"\ud800x","mood":"\ud800y""#);
    let stamp = stamp.replace("2026-04-20T00:00:00Z\"}}", "2026-01-01T00:00:00Z\"}}");
    assert!(burn(home.path(), &["ledger", "append", "--kind", "turns"], TURN).status.success());
    assert!(burn(home.path(), &["ledger", "append", "--kind", "stamp"], &stamp).status.success());
    assert!(burn(home.path(), &["state", "rebuild", "archive"], "").status.success());
    for (wanted, count) in [("tier=\u{fffd}x", 1), ("mood=\u{fffd}y", 1), ("tier=x", 0)] {
        for from in ["archive", "ledger"] {
            let args = ["query", "turns", "--from", from, "--enrichment", wanted, "--json"];
            let answer = burn(home.path(), &args, "");
            assert!(answer.status.success());
            // serde_json reads no lone surrogates.
            let found = String::from_utf8(answer.stdout).unwrap().matches("\"messageId\"").count();
            assert_eq!(found, count, "{from}: {wanted}");
        }
    }
}

//! Compares queries with the answers of the TypeScript package, from the archive and from the ledger.
//!
//! Cases come from `fixtures/query/<case>` (ledger and queries) and from the folders `query` and `archive` of
//! `BURN_GOLDEN` (by default `../shared/golden`). The printed answers are compared, with keys and their order.

use std::fs;
use std::path::{Path, PathBuf};

use relayburn_ledger::scan::json::{Document, Value};

use crate::common;

/// Name, ledger and queries of every case.
fn cases() -> Vec<(String, PathBuf, PathBuf)> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(common::fixture("query")).unwrap() {
        let path = entry.unwrap().path();
        cases.push((path.display().to_string(), path.join("ledger.jsonl"), path.join("queries.jsonl")));
    }
    if let Some(golden) = common::golden() {
        cases.extend(fs::read_dir(golden.join("query")).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let ledger = golden.join("archive").join(&name).join("ledger.jsonl");
            (name, ledger, path)
        }));
    }
    cases
}

fn burn(home: &Path, args: &[&str]) -> String {
    let (code, stdout, stderr) = super::burn(home, args);
    assert_eq!(code, 0, "{args:?}: {stderr}");
    stdout
}

fn arguments(query: Value<'_>) -> Vec<String> {
    let mut arguments = Vec::new();
    for (key, value) in query.members() {
        let key = key.to_utf8_lossy();
        match &*key {
            "enrichment" => {
                for (key, value) in value.members() {
                    let pair = format!("{}={}", key.to_utf8_lossy(), value.as_str().unwrap());
                    arguments.extend(["--enrichment".to_owned(), pair]);
                }
            }
            "sessionId" => arguments.extend(["--session".to_owned(), value.as_str().unwrap().into_owned()]),
            other => arguments.extend([format!("--{other}"), value.as_str().unwrap().into_owned()]),
        }
    }
    arguments
}

#[test]
fn every_answer_is_the_same() {
    let mut queries = 0;
    for (case, ledger, file) in cases() {
        let home = tempfile::tempdir().unwrap();
        fs::copy(ledger, home.path().join("ledger.jsonl")).unwrap();
        burn(home.path(), &["state", "rebuild", "archive", "--full"]);
        for line in fs::read_to_string(file).unwrap().lines() {
            let mut document = Document::default();
            let case_line = document.parse(line.as_bytes()).unwrap();
            let filter = arguments(case_line.get("query").unwrap());
            let ask = |kind: &str, from: &str, form: &str| {
                let mut args = vec!["query", kind, "--from", from, form];
                // Only turns have a project. For other kinds the reference ignores this filter, and the command refuses
                // it.
                let pairs = filter.chunks(2).filter(|pair| kind == "turns" || pair[0] != "--project");
                args.extend(pairs.flatten().map(String::as_str));
                burn(home.path(), &args)
            };
            for from in ["archive", "ledger"] {
                let expected: String =
                    case_line.get(from).unwrap().items().map(|turn| format!("{turn}\n")).collect();
                assert_eq!(ask("turns", from, "--jsonl"), expected, "{case}, {from}: {filter:?}");
                let mut whole = Document::default();
                let text = ask("turns", from, "--json");
                let whole = whole.parse(text.trim_end().as_bytes()).unwrap();
                assert_eq!(whole.to_string(), case_line.get(from).unwrap().to_string(), "{case}: {filter:?}");
            }
            for (kind, key) in [
                ("compactions", "compactions"),
                ("relationships", "relationships"),
                ("tool-result-events", "toolResultEvents"),
                ("user-turns", "userTurns"),
            ] {
                let expected = case_line.get(key).and_then(Value::as_number).unwrap().as_i64().unwrap();
                let found = ask(kind, "ledger", "--jsonl").lines().count();
                assert_eq!(found as i64, expected, "{case}, {kind}: {filter:?}");
            }
            queries += 1;
        }
    }
    println!("{queries} queries");
    assert!(queries > 0);
}

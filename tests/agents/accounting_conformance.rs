//! `burn ingest` on homes of agents' logs whose true totals are known. Each case names the public thread that describes
//! its trouble.
//!
//! The cases are in `fixtures/accounting`. The cases of the folder BURN_GOLDEN (default `../shared/golden`) run as
//! well.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::common::processes::burn;
use serde_json::{Value, json};

const COUNTS: [&str; 6] = ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"];

/// Copies a folder. Every file gets the date 2026-10-01, so that no rule waits for a recent file.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
        let file = fs::File::open(&target).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_812_800)).unwrap();
    }
}

fn add(table: &mut BTreeMap<String, BTreeMap<&'static str, f64>>, key: &str, usage: &Value) {
    let entry = table.entry(key.to_owned()).or_default();
    *entry.entry("turns").or_default() += 1.0;
    for count in COUNTS {
        *entry.entry(count).or_default() += usage[count].as_f64().unwrap();
    }
}

/// The totals of a ledger in the form of `expect.json`.
fn totals(ledger: &Path) -> Value {
    let text = fs::read_to_string(ledger).unwrap_or_default();
    let (mut models, mut sessions, mut days) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["kind"] != "turn" {
            continue;
        }
        let record = &line["record"];
        let text = |key: &str| record[key].as_str().unwrap();
        add(&mut models, text("model"), &record["usage"]);
        add(&mut sessions, &format!("{}:{}", text("source"), text("sessionId")), &record["usage"]);
        add(&mut days, &text("ts")[..10], &record["usage"]);
        add(&mut all, "all", &record["usage"]);
    }
    let mut tokens = all.remove("all").unwrap_or_default();
    let turns = tokens.remove("turns").unwrap_or(0.0);
    json!({
        "turns": turns, "sessions": sessions.len() as f64, "tokens": tokens, "models": models,
        "bySession": sessions, "byDayUtc": days,
    })
}

/// The part of `expect.json` that a ledger shows. Costs belong to another command.
fn wanted(expect: &Value) -> Value {
    let number = |value: &Value| json!(value.as_f64().unwrap());
    let counts = |entry: &Value| -> Value {
        let members = entry.as_object().unwrap().iter().filter(|(key, _)| *key != "costUsd");
        members.map(|(key, value)| (key.clone(), number(value))).collect::<serde_json::Map<_, _>>().into()
    };
    let table = |key: &str| -> Value {
        let members = expect[key].as_object().unwrap().iter();
        members.map(|(key, entry)| (key.clone(), counts(entry))).collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "turns": number(&expect["turns"]), "sessions": number(&expect["sessions"]), "tokens": counts(&expect["tokens"]),
        "models": table("models"), "bySession": table("bySession"), "byDayUtc": table("byDayUtc"),
    })
}

fn ingest(user: &Path, home: &Path) {
    let output = burn(home)
        .arg("ingest")
        .env("HOME", user)
        .env_remove("CODEX_HOME")
        .env_remove("CLAUDE_CONFIG_DIR")
        .env_remove("GEMINI_CLI_HOME")
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("OPENCODE_DB")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The difference of a case, if there is one.
fn run(case: &Path) -> Option<String> {
    let expect: Value = serde_json::from_slice(&fs::read(case.join("expect.json")).unwrap()).unwrap();
    let sandbox = tempfile::tempdir().unwrap();
    let (user, home) = (sandbox.path().join("user"), sandbox.path().join("ledger"));
    copy(&case.join("home"), &user);
    let steps = expect["steps"].as_array().cloned().unwrap_or_else(|| vec![json!({"ingest": true})]);
    for step in &steps {
        if let Some(removed) = step["rm"].as_array() {
            for path in removed {
                let path = user.join(path.as_str().unwrap());
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
            }
        } else if let Some(moved) = step["mv"].as_array() {
            let [from, to] = [0, 1].map(|at| user.join(moved[at].as_str().unwrap()));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(from, to).unwrap();
        } else {
            ingest(&user, &home);
        }
    }
    let (got, want) = (totals(&home.join("ledger.jsonl")), wanted(&expect));
    (got != want).then(|| {
        format!("{} ({}, {}):\n  want {want}\n  got  {got}", case.display(), expect["note"], expect["thread"])
    })
}

#[test]
fn the_totals_of_every_home_are_right() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden =
        std::env::var_os("BURN_GOLDEN").map_or_else(|| package.join("../shared/golden"), PathBuf::from);
    let mut names = BTreeSet::new();
    let mut cases: Vec<PathBuf> = Vec::new();
    for folder in [package.join("fixtures/accounting"), golden.join("accounting")] {
        let Ok(entries) = fs::read_dir(&folder) else {
            println!("no {}", folder.display());
            continue;
        };
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        for case in found {
            // A database may be missing if only its log was copied.
            let database = case.join("home/.local/share/opencode/opencode.db");
            if !case.join("home").is_dir() || (case.ends_with("opencode-db-wal") && !database.exists()) {
                println!("{} has no logs", case.display());
            } else if names.insert(case.file_name().unwrap().to_owned()) {
                cases.push(case);
            }
        }
    }
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| run(case)).collect();
    println!("{} homes", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

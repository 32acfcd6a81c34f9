//! Many processes on one home: no record is lost, joined with another or written twice, while archives are built and
//! processes are killed.
//!
//! `APPEND_PROCESSES` (default 100) is the size of the crowd, `APPEND_SECONDS` (default 5) the time of appends beside
//! rebuilds, `APPEND_KILLS` (default 20) the number of killed appends.
#![cfg(unix)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}

fn turn(name: &str, number: usize) -> String {
    format!(
        r#"{{"source":"codex","sessionId":"{name}","messageId":"{name}-{number}","turnIndex":{number},"ts":"2026-04-20T00:00:00.{number:06}Z","model":"{name}","usage":{{"input":{number},"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]}}"#
    )
}

fn burn(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.args(args).env("RELAYBURN_HOME", home).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts an append and writes its input.
fn start(home: &Path, lines: &str) -> Child {
    let mut child =
        burn(home, &["ledger", "append", "--kind", "turns"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child
}

fn run(home: &Path, args: &[&str]) {
    let output = burn(home, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Returns whether the child succeeded. A crowd may keep one process from the lock for its whole eleven seconds, which
/// is no fault here.
fn did(child: Child) -> bool {
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || error.contains("was held by a live process"), "{error}");
    output.status.success()
}

/// The number of lines of each message id in the ledger. Every line must be a complete turn.
fn messages(home: &Path) -> HashMap<String, usize> {
    let (messages, torn) = messages_and_torn(home);
    assert_eq!(torn, Vec::<String>::new());
    messages
}

/// The number of lines of each message id in the ledger, and the lines that are no complete turn.
fn messages_and_torn(home: &Path) -> (HashMap<String, usize>, Vec<String>) {
    let text = fs::read_to_string(home.join("ledger.jsonl")).unwrap();
    assert!(text.ends_with('\n'));
    let (mut messages, mut torn) = (HashMap::new(), Vec::new());
    for line in text.lines() {
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(line) => {
                *messages.entry(line["record"]["messageId"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            Err(_) => torn.push(line.to_owned()),
        }
    }
    (messages, torn)
}

#[test]
fn a_crowd_appends_one_record_each_and_all_of_them_land() {
    let home = tempfile::tempdir().unwrap();
    let count = number_from_env("APPEND_PROCESSES", 100) as usize;
    let children: Vec<Child> = (0..count).map(|number| start(home.path(), &turn("crowd", number))).collect();
    assert!(children.into_iter().all(did));
    let messages = messages(home.path());
    assert_eq!(messages.len(), count);
    assert!(messages.values().all(|times| *times == 1));
    run(home.path(), &["ledger", "check"]);
}

#[test]
fn twenty_processes_with_one_record_write_it_once() {
    let home = tempfile::tempdir().unwrap();
    let line = turn("same", 1);
    let children: Vec<Child> = (0..20).map(|_| start(home.path(), &line)).collect();
    assert!(children.into_iter().any(did));
    assert_eq!(messages(home.path()), HashMap::from([("same-1".to_owned(), 1)]));
    run(home.path(), &["ledger", "check"]);
}

#[test]
fn appends_go_on_while_archives_are_built_and_none_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let until = Instant::now() + Duration::from_secs(number_from_env("APPEND_SECONDS", 5));
    let is_over = AtomicBool::new(false);
    let written: Vec<String> = std::thread::scope(|scope| {
        for build in [&["state", "rebuild", "archive", "--full"][..], &["state", "rebuild", "archive"]] {
            let (home, is_over) = (home.path(), &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    run(home, build);
                }
            });
        }
        let appenders: Vec<_> = (0..8)
            .map(|process| {
                let home = home.path();
                scope.spawn(move || {
                    let name = format!("p{process}");
                    let mut written = Vec::new();
                    let mut number = 0;
                    while Instant::now() < until {
                        // The first record of each batch was in the batch before.
                        let batch: String = (number..number + 4).map(|n| turn(&name, n) + "\n").collect();
                        if did(start(home, &batch)) {
                            written.extend((number..number + 4).map(|n| format!("{name}-{n}")));
                            number += 3;
                        }
                    }
                    written
                })
            })
            .collect();
        let written = appenders.into_iter().flat_map(|appender| appender.join().unwrap()).collect();
        is_over.store(true, Ordering::Relaxed);
        written
    });
    let expected: HashSet<&String> = written.iter().collect();
    let messages = messages(home.path());
    println!("{} turns", messages.len());
    assert_eq!(messages.keys().collect::<HashSet<_>>(), expected);
    assert!(messages.values().all(|times| *times == 1));
    run(home.path(), &["ledger", "check"]);

    run(home.path(), &["state", "rebuild", "archive"]);
    let live = rows(&home.path().join("archive.sqlite"));
    let (ledger, fresh) = (home.path().join("ledger.jsonl"), home.path().join("fresh.sqlite"));
    let [ledger, fresh] = [&ledger, &fresh].map(|path| path.to_str().unwrap());
    run(home.path(), &["state", "rebuild", "archive", "--full", "--ledger", ledger, "--archive", fresh]);
    assert_eq!(rows(Path::new(fresh)), live);
    assert_eq!(live.iter().filter(|row| row.starts_with("turns")).count(), messages.len());
}

/// Every row of every table except the state, in order, with rowids.
fn rows(archive: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(archive).unwrap();
    let mut found = Vec::new();
    for table in
        relayburn_ledger::archive::schema::TABLES.iter().filter(|table| table.name != "archive_state")
    {
        let order = if table.name == "sessions" { "source, session_id" } else { "rowid" };
        let columns = table.columns.join(", ");
        let sql = format!("SELECT {columns} FROM {} ORDER BY {order}", table.name);
        let mut statement = connection.prepare(&sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<rusqlite::types::Value> =
                (0..table.columns.len()).map(|column| row.get(column).unwrap()).collect();
            found.push(format!("{}: {values:?}", table.name));
        }
    }
    found
}

/// The kernel may stop the single write of a killed process in the middle. The next append ends such a half line; the
/// half line stays, and no other record is lost.
#[test]
fn appends_that_are_killed_can_be_repeated_and_cost_no_record() {
    let home = tempfile::tempdir().unwrap();
    let kills = number_from_env("APPEND_KILLS", 20);
    let mut expected = HashSet::new();
    for kill in 0..kills {
        let name = format!("k{kill}");
        let batch: String = (0..400).map(|number| turn(&name, number) + "\n").collect();
        let mut child = start(home.path(), &batch);
        std::thread::sleep(Duration::from_micros(kill * 997 % 12_000));
        child.kill().unwrap();
        child.wait().unwrap();
        // Another process would wait until the locks of the dead process are stale.
        for lock in ["ledger.lock", "ledger-index.lock"] {
            let _ = fs::remove_file(home.path().join(lock));
        }
        assert!(did(start(home.path(), &batch)));
        expected.extend((0..400).map(|number| format!("{name}-{number}")));
    }
    let (messages, torn) = messages_and_torn(home.path());
    assert_eq!(messages.keys().cloned().collect::<HashSet<_>>(), expected);
    assert!(messages.values().all(|times| *times == 1));
    println!("{} half lines of {kills} kills", torn.len());
    assert!(torn.len() as u64 <= kills);
    for half in &torn {
        let member = |key: &str, end: char| Some(half.split_once(key)?.1.split_once(end)?.0.to_owned());
        let number = member(r#""turnIndex":"#, ',').and_then(|number| number.parse().ok());
        // A shorter half line does not show which record it belongs to.
        if let (Some(name), Some(number)) = (member(r#""sessionId":""#, '"'), number) {
            let whole = format!(r#"{{"v":1,"kind":"turn","record":{}}}"#, turn(&name, number));
            assert!(whole.starts_with(half.as_str()), "{half}");
        }
    }
    let output = burn(home.path(), &["ledger", "check", "--json"]).stdout(Stdio::piped()).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["malformedLines"], torn.len());
    // The index may also have half lines, but no id is missing and none is too many.
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.iter().filter(|found| found["problem"] != "notAnId").count(), torn.len(), "{report}");
}

#[test]
fn a_check_beside_eight_who_append_finds_nothing_wrong() {
    let home = tempfile::tempdir().unwrap();
    assert!(did(start(home.path(), &turn("first", 0))));
    let until = Instant::now() + Duration::from_secs(number_from_env("APPEND_SECONDS", 5));
    let checks = std::thread::scope(|scope| {
        for process in 0..8 {
            let home = home.path();
            scope.spawn(move || {
                let mut number = 0;
                while Instant::now() < until {
                    // Batches of several hundred kB, so that a kill can come during the write.
                    let batch: String =
                        (0..500).map(|more| turn(&format!("p{process}"), number + more) + "\n").collect();
                    number += 500;
                    did(start(home, &batch));
                }
            });
        }
        let mut checks = 0;
        let mut seen = HashSet::new();
        while Instant::now() < until {
            let output =
                burn(home.path(), &["ledger", "check", "--json"]).stdout(Stdio::piped()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let error = String::from_utf8_lossy(&output.stderr);
            // Beside eight other processes a check may not get the lock, like an append.
            if output.stdout.is_empty() && error.contains("was held by a live process") {
                continue;
            }
            assert_eq!(output.status.code(), Some(0), "{said}{error}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            seen.insert(report["lines"].as_u64().unwrap());
            checks += 1;
        }
        assert!(seen.len() > 1, "the ledger did not grow: {seen:?}");
        checks
    });
    assert!(checks > 3, "{checks} checks");
    println!("{checks} checks beside eight appending processes");
}

//! `burn book` from the command line: results, exit codes, JSON, a closed pipe, a full disk.
#![cfg(unix)]

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::everything::finish;
use crate::common::processes::with_signals;

fn burn(args: &[&str], stdin: &str) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_burn")).arg("book").args(args), stdin)
}

fn run(command: &mut Command, stdin: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().unwrap(), stdin)
}

fn ok(args: &[&str], stdin: &str) -> String {
    let output = burn(args, stdin);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str], stdin: &str) -> Value {
    let output = burn(args, stdin);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
}

fn sale(key: &str, minor: i64) -> String {
    format!(
        "{{\"idempotency_key\":\"{key}\",\"postings\":[\
         {{\"account\":\"shop:cash\",\"amount\":{{\"minor\":{minor},\"asset\":\"USD\"}},\"direction\":\"debit\"}},\
         {{\"account\":{{\"book\":\"shop\",\"path\":\"sales\"}},\"amount\":{{\"minor\":{minor},\"asset\":\"USD\"}},\"direction\":\"credit\"}}]}}\n"
    )
}

fn shop(directory: &Path) -> String {
    let dir = directory.join("store").to_str().unwrap().to_owned();
    ok(&["init", &dir], "");
    ok(&["asset", &dir, "USD", "--precision", "2", "--name", "US dollar"], "");
    ok(&["account", &dir, "shop:cash", "--asset", "USD", "--kind", "asset", "--min-balance", "-500"], "");
    ok(&["account", &dir, "shop:sales", "--asset", "USD", "--kind", "income"], "");
    dir
}

#[test]
fn a_signal_ends_a_post_that_waits_for_lines_and_its_document_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    for (number, signal, code) in [(1, libc::SIGTERM, 143), (2, libc::SIGINT, 130)] {
        let mut child = with_signals()
            .args(["book", "post", &dir, "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(sale(&format!("k{number}"), 5).as_bytes()).unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut document = String::new();
        // The error is reported at once, and not at the end of the input.
        while !document.contains("\"key\"") {
            assert_ne!(stdout.read_line(&mut document).unwrap(), 0, "{document}");
        }
        let started = Instant::now();
        // SAFETY: a call without pointers, for a child that was not waited for yet.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        stdout.read_to_string(&mut document).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(started.elapsed() < Duration::from_millis(1900), "{:?}", started.elapsed());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("interrupted; what was answered is committed"), "{said}");
        let document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!((&document["committed"], &document["rejected"]), (&1.into(), &0.into()));
        let history = json(&["history", &dir, "shop:cash", "--json"], "");
        assert_eq!(history.as_array().unwrap().len(), number);
        drop(stdin);
    }
}

#[test]
fn a_book_is_made_posted_to_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    let lines = format!("{}\n{}{}", sale("r1", 1250), sale("r2", 199), sale("r1", 7));
    let posted = ok(&["post", &dir], &lines);
    let rows: Vec<Vec<&str>> = posted.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[0][0], rows[1][0]), ("3", "4"));
    assert_eq!(rows[0], rows[2]);
    assert_eq!(json(&["balance", &dir, "shop:cash", "--json"], "")[0]["minor"], 1449);
    assert_eq!(json(&["balance", &dir, "--as-of", rows[0][2], "--json"], "").as_array().unwrap().len(), 2);
    assert_eq!(
        json(&["balance", &dir, "shop:cash", "--as-of", "2001-01-01T00:00:00Z", "--json"], "")[0]["minor"],
        0
    );
    assert!(ok(&["balance", &dir], "").contains("14.49"));
    let trial = json(&["trial-balance", &dir, "shop", "--json"], "");
    assert_eq!((&trial[0]["debits"], &trial[0]["credits"]), (&1449.into(), &1449.into()));
    assert!(ok(&["trial-balance", &dir], "").contains("0.00"));
    assert_eq!(json(&["history", &dir, "shop:sales", "--json"], "")[1]["direction"], "credit");
    assert_eq!(ok(&["history", &dir, "shop:sales", "--limit", "1"], "").lines().count(), 2);
    assert_eq!(json(&["events", &dir, "shop", "--from", "3", "--json"], "").as_array().unwrap().len(), 2);
    let events = ok(&["events", &dir, "shop", "--from", "4"], "");
    let event: Value = serde_json::from_str(&events).unwrap();
    assert_eq!(event["event"]["idempotency_key"], "r2");
    let found = json(&["transaction", &dir, rows[1][1], "--json"], "");
    assert_eq!(found["seq"], 4);
    // The lines that were read can be posted again without effect.
    let again = ok(&["post", &dir], &format!("{}\n", event["event"]));
    assert_eq!(again.trim_end(), posted.lines().nth(1).unwrap());
    assert_eq!(json(&["account", &dir, "--json"], "")[0]["minBalance"], -500);
    assert_eq!(json(&["asset", &dir, "--json"], "")[0]["precision"], 2);
    assert_eq!(json(&["snapshot", &dir, "--json"], "")["books"][0], "shop");
    let report = json(&["check", &dir, "--json"], "");
    assert_eq!((&report["ok"], &report["books"][1]["snapshots"]), (&true.into(), &1.into()));
}

#[test]
fn what_is_refused_is_named_and_the_rest_goes_through() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    let lines = format!("{}not json\n{}{}", sale("a", 1), sale("b", -9999), sale("c", 1));
    let output = burn(&["post", &dir], &lines);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout.split(|byte| *byte == b'\n').count(), 3);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("line 2 (byte ") && complaint.contains("line 3 (byte "), "{complaint}");
    let document = json(&["post", &dir, "--json"], &lines);
    assert_eq!((&document["committed"], &document["rejected"]), (&2.into(), &2.into()));
    assert_eq!(document["results"][2]["line"], 3);
}

#[test]
fn exit_codes_tell_failure_from_wrong_usage() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    let nowhere = directory.path().join("nowhere");
    for (args, code) in [
        (vec!["balance", nowhere.to_str().unwrap()], 1),
        (vec!["check", nowhere.to_str().unwrap()], 1),
        (vec!["balance", &dir, "shop:nobody"], 1),
        (vec!["balance", &dir, "no-colon"], 2),
        (vec!["account", &dir, "shop:x"], 2),
        (vec!["account", &dir, "shop:cash", "--asset", "USD", "--kind", "asset"], 1),
        (vec!["events", &dir, "nobook"], 1),
        (vec!["trial-balance", &dir, "nobook"], 1),
        (vec!["transaction", &dir, "00000000-0000-0000-0000-000000000000"], 1),
        (vec!["frobnicate", &dir], 2),
    ] {
        let output = burn(&args, "");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    assert!(!nowhere.exists());
    let segment = Path::new(&dir).join("books/shop/segment-00000000000000000001.log");
    fs::OpenOptions::new().append(true).open(&segment).unwrap().write_all(b"torn").unwrap();
    let report = burn(&["check", &dir, "--json"], "");
    assert_eq!(report.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["findings"][0]["verdict"], "tornTail");
    assert_eq!(report["findings"][0]["offset"], fs::metadata(&segment).unwrap().len() - 4);
    let told = String::from_utf8(burn(&["balance", &dir], "").stderr).unwrap();
    assert!(told.contains("what was cut was an unfinished frame, not kept"), "{told}");
}

#[test]
fn a_book_behind_a_link_is_named_by_every_command_and_is_a_finding() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    let books = Path::new(&dir).join("books");
    fs::rename(books.join("shop"), directory.path().join("moved")).unwrap();
    std::os::unix::fs::symlink("../../moved", books.join("shop")).unwrap();
    let named = "books/shop: a symbolic link is no book";
    let output = burn(&["balance", &dir], "");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains(named), "{output:?}");
    let output = burn(&["check", &dir], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains(named), "{output:?}");
}

#[test]
fn an_asset_without_a_registration_is_named_once() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    for file in fs::read_dir(Path::new(&dir).join("books/_system")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let said = String::from_utf8(burn(&["balance", &dir], "").stderr).unwrap();
    let named = "USD is not registered, so its amounts are minor units";
    assert_eq!(said.matches(named).count(), 1, "{said}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    let lines: String = (0..3000).map(|number| sale(&format!("k{number}"), 1)).collect();
    ok(&["post", &dir], &lines);
    let script = format!("{} book events {dir} shop | head -1", env!("CARGO_BIN_EXE_burn"));
    let output = run(Command::new("bash").args(["-o", "pipefail", "-c", &script]), "");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_file_that_cannot_grow_is_never_acknowledged_into() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    let lines: String = (0..2000).map(|number| sale(&format!("k{number}"), 1)).collect();
    for round in 0..3 {
        // The limit is in blocks of 1024 bytes. It is reached in the middle of a frame.
        let script = format!(
            "trap '' XFSZ; ulimit -f {}; exec {} book post {dir} --batch 7",
            20 + 17 * round,
            env!("CARGO_BIN_EXE_burn")
        );
        let output = run(Command::new("bash").args(["-c", &script]), &lines);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no more writes"));
        let told: HashSet<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.split('\t').nth(1).unwrap().to_owned())
            .collect();
        assert!(told.len() > 10);
        let events = ok(&["events", &dir, "shop"], "");
        let there: HashSet<String> = events
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["event"]["id"].as_str().map(str::to_owned)
            })
            .collect();
        assert!(told.is_subset(&there), "{} acknowledged, {} there", told.len(), there.len());
    }
    ok(&["post", &dir], &lines);
    assert_eq!(json(&["balance", &dir, "shop:cash", "--json"], "")[0]["minor"], 2000);
    assert_eq!(json(&["check", &dir, "--json"], "")["ok"], true);
}

#[test]
fn init_refuses_a_directory_of_something_else_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    fs::write(directory.path().join("notes"), "mine").unwrap();
    let refused = burn(&["init", path], "");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(path) && said.contains("choose another directory"), "{said}");
    let names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["notes"]);
    // An empty directory, a directory with only a LOCK, and a store with files beside it are accepted.
    fs::remove_file(directory.path().join("notes")).unwrap();
    ok(&["init", path], "");
    fs::remove_dir(directory.path().join("books")).unwrap();
    ok(&["init", path], "");
    fs::write(directory.path().join("notes"), "mine").unwrap();
    ok(&["init", path], "");
}

/// When another program holds the lock, the store is refused before any file is created.
#[test]
fn a_store_in_the_directory_of_an_open_journal_makes_nothing() {
    use relayburn_ledger::book::LogTaleaStore;
    let directory = tempfile::tempdir().unwrap();
    let journal = relayburn_ledger::journal::Journal::open(directory.path()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert!(runtime.block_on(LogTaleaStore::open(directory.path())).is_err());
    assert!(!directory.path().join("books").exists());
    journal.close().unwrap();
}

#[test]
fn a_line_that_cannot_be_read_is_explained_without_words_of_rust_or_of_the_parser() {
    let directory = tempfile::tempdir().unwrap();
    let dir = shop(directory.path());
    let sound = sale("k1", 1);
    let with = |more: &str| sound.replacen('{', &format!("{{{more},"), 1);
    let deep = format!("\"metadata\":{}1{}", "[".repeat(130), "]".repeat(130));
    for (line, reason) in [
        (with("\"metadata\":{\"a\":1e999}"), "byte 9 of its metadata: a number is too large"),
        (with("\"metadata\":\"\\ud800\""), "of its metadata: a text has half of a surrogate pair"),
        (with(&deep), "of its metadata: the JSON text nests too deep"),
        (with("\"occurred_at\":\"yesterday\""), "occurred_at is not a time such as \"2026-04-20T12:00:00Z\""),
        (with("\"id\":\"zz\""), "id is not a UUID"),
        (with("\"external_refs\":[1]"), "expected an object with kind and value"),
        (sound.replacen("\"shop:cash\"", "5", 1), "an account is a text such as \"shop:cash\", or an object"),
        (
            sound.replacen("{\"minor\":1,\"asset\":\"USD\"}", "1", 1),
            "expected an object with minor and asset",
        ),
        (sound.replacen("\"minor\":1,", "\"minor\":1.5,", 1), "expected a whole number of 64 bits"),
        (sound.replacen("debit", "up", 1), "unknown word `up`, expected `debit` or `credit`"),
        (sound.trim_end().trim_end_matches('}').to_owned(), "the line ends before its JSON text does"),
        (sound.replacen("[", "5,\"x\":[", 1), "expected a list"),
        ("nonsense\n".to_owned(), "byte 1 of the line: it is not JSON"),
        ("5\n".to_owned(), "expected an object with postings and idempotency_key"),
    ] {
        let output = burn(&["post", &dir], &line);
        let said = std::str::from_utf8(&output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(said.contains(reason), "{line}{said}");
        for word in ["struct ", "enum ", "variant", "i64", "ident", "line 1 column", "EOF", "recursion"] {
            assert!(!said.replace("idempotency", "").contains(word), "{word}: {said}");
        }
    }
}

//! Records, names and words of the command line may have characters that a terminal obeys. No command prints them.
//!
//! A JSON document escapes only what JSON requires, so it may have C1 controls and marks of direction, but never an
//! ESC.
#![cfg(unix)]

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

const HOSTILE: &str = "a\u{1b}]0;t\u{7}\u{1b}[31m\u{9b}2J\r\u{7f}\u{202e}b";

fn burn(directory: &Path, words: &[impl AsRef<OsStr>], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(words)
        .current_dir(directory)
        .env("RELAYBURN_HOME", directory.join("home"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that refuses its arguments reads nothing.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

fn is_obeyed(character: char) -> bool {
    (character.is_control() && !matches!(character, '\n' | '\t')) || character == '\u{202e}'
}

/// Both outputs. Panics if they have characters that a terminal obeys.
fn said(words: &[impl AsRef<OsStr> + std::fmt::Debug], output: &Output) -> String {
    let said = String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap();
    let is_bad = |c: char| {
        let is_document = words.iter().any(|word| word.as_ref() == "--json" || word.as_ref() == "events");
        if is_document { c == '\u{1b}' } else { is_obeyed(c) }
    };
    assert!(!said.contains(is_bad), "{words:?}: {said:?}");
    said
}

#[test]
fn words_of_the_command_line_are_cleaned_where_they_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let option = format!("--{HOSTILE}");
    for words in [
        &[HOSTILE][..],
        &["query", HOSTILE],
        &["query", "turns", &option],
        &["query", "turns", "--since", HOSTILE],
        &["query", "turns", "--tz", HOSTILE],
        &["query", "turns", "--from", HOSTILE],
        &["query", "turns", "--enrichment", HOSTILE],
        &["state", "rebuild", "archive", "--threads", HOSTILE],
        &["state", "rebuild", "archive", "--memory", HOSTILE],
        &["book", "balance", "b", HOSTILE],
        &["book", "balance", "b", "--as-of", HOSTILE],
        &["book", "transaction", "b", HOSTILE],
        &["journal", "read", "j", "--from", HOSTILE],
        &["session", "rollback", "s", HOSTILE],
        &["completions", HOSTILE],
    ] {
        let output = burn(directory.path(), words, b"");
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(said(words, &output).contains("--help"), "{words:?}: {output:?}");
    }
    // A payload that is no text.
    let words = [OsStr::new("query"), OsStr::from_bytes(b"\x1b[31m\xff")];
    let output = burn(directory.path(), &words, b"");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&words, &output).contains("--help"), "{output:?}");
}

#[test]
fn books_of_hostile_names_are_shown_without_what_a_terminal_obeys() {
    let directory = tempfile::tempdir().unwrap();
    let run = |words: &[&str], input: &str| {
        let output = burn(directory.path(), &[&["book"], words].concat(), input.as_bytes());
        (said(words, &output), output.status.code())
    };
    let account = format!("shop:{HOSTILE}");
    assert_eq!(run(&["init", "b"], "").1, Some(0));
    for asset in ["USD", HOSTILE] {
        let words = [
            "asset",
            "b",
            asset,
            "--precision",
            "2",
            "--name",
            HOSTILE,
            "--network",
            HOSTILE,
            "--native-id",
            HOSTILE,
        ];
        run(&words, "");
    }
    run(&["asset", "b", "EUR", "--precision", "2", "--name", HOSTILE], "");
    let shown = run(&["asset", "b"], "");
    assert!(shown.1 == Some(0) && shown.0.contains("EUR") && shown.0.contains('\u{fffd}'), "{shown:?}");
    for (name, kind) in [(account.as_str(), "asset"), ("shop:sales", "income"), ("shop:cash", "asset")] {
        run(&["account", "b", name, "--asset", "EUR", "--kind", kind], "");
    }
    let post = |key: &str, debit: &str| {
        let amount = json!({"minor": 5, "asset": "EUR"});
        let line = json!({
            "idempotency_key": key, "metadata": {HOSTILE: HOSTILE}, "external_refs": [],
            "postings": [
                {"account": debit, "amount": amount, "direction": "debit"},
                {"account": "shop:sales", "amount": amount, "direction": "credit"},
            ],
        });
        format!("{line}\n")
    };
    let lines = [
        post(HOSTILE, "shop:cash"),
        post("k", &account),
        post("l", &format!("shop:no-{HOSTILE}")),
        format!("{HOSTILE}\n"),
        format!("{{\"{HOSTILE}\":1}}\n"),
    ];
    for form in [&["post", "b"][..], &["post", "b", "--json"]] {
        let (text, code) = run(form, &lines.concat());
        assert_eq!(code, Some(1), "{text}");
    }
    let events = run(&["events", "b", "shop"], "").0;
    assert!(events.contains("\\u001b"), "the key is in no event: {events}");
    for words in [
        &["account", "b"][..],
        &["balance", "b"],
        &["balance", "b", &account],
        &["history", "b", "shop:cash"],
        &["history", "b", &account],
        &["trial-balance", "b"],
        &["trial-balance", "b", HOSTILE],
        &["events", "b", "_system"],
        &["events", "b", HOSTILE],
        &["snapshot", "b"],
        &["snapshot", "b", HOSTILE],
        &["check", "b"],
    ] {
        run(words, "");
        run(&[words, &["--json"]].concat(), "");
    }
    let path = directory.path().join("b/books/shop").join(format!("segment-{HOSTILE}.log"));
    std::fs::write(path, HOSTILE).unwrap();
    let first = "b/books/shop/segment-00000000000000000001.log";
    let mut bytes = std::fs::read(directory.path().join(first)).unwrap();
    let at = bytes.len() / 2;
    bytes[at..at + 5].copy_from_slice(b"\x1b[31m");
    std::fs::write(directory.path().join(first), bytes).unwrap();
    assert_eq!(run(&["check", "b"], "").1, Some(1));
    run(&["balance", "b"], "");
    // A directory with a hostile name.
    std::fs::rename(directory.path().join("b"), directory.path().join(HOSTILE)).unwrap();
    for words in [&["check", HOSTILE][..], &["balance", HOSTILE], &["post", HOSTILE]] {
        run(words, &lines.concat());
    }
}

#[test]
fn journals_of_hostile_records_are_shown_without_what_a_terminal_obeys() {
    let directory = tempfile::tempdir().unwrap();
    let run = |words: &[&str], input: &[u8]| {
        let output = burn(directory.path(), &[&["journal"], words].concat(), input);
        (said(words, &output), output.status.code())
    };
    for dir in ["j", HOSTILE] {
        assert_eq!(run(&["append", dir], format!("{HOSTILE}\n\x1b\n").as_bytes()).1, Some(0));
        let (read, _) = run(&["read", dir], b"");
        assert!(read.contains("\\x1b[31m"), "{read}");
        run(&["read", dir, "--json"], b"");
        run(&["read", dir, "--from", "7"], b"");
        for form in [&[][..], &["--json"]] {
            for command in ["status", "recover", "cleanup"] {
                run(&[&[command, dir], form].concat(), b"");
            }
        }
        run(&["drain", dir, "--store", &format!("{dir}-store")], b"");
        // Messages about damage and about files with hostile names are clean too.
        let segments = std::fs::read_dir(directory.path().join(dir)).unwrap();
        let segment = segments
            .map(|entry| entry.unwrap().path())
            .find(|path| path.is_file() && std::fs::metadata(path).unwrap().len() > 100)
            .unwrap();
        let mut bytes = std::fs::read(&segment).unwrap();
        let at = bytes.len() - 40;
        bytes[at] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        for name in [HOSTILE, "cursor-\u{1b}[31m"] {
            std::fs::write(directory.path().join(dir).join(name), HOSTILE).unwrap();
        }
        run(&["read", dir], b"");
        run(&["status", dir], b"");
        run(&["recover", dir], b"");
        run(&["recover", dir, "--skip-corrupt"], b"");
    }
}

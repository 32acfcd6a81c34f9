//! Documents of all logs have one form, wrong usage has its exit code, and messages name file, place and remedy.
#![cfg(unix)]

use std::fs;
use std::process::{Output, Stdio};

use crate::common::everything::{Everything, finish};
use serde_json::{Value, json};

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:?} {}", output.stdout, said(output)))
}

/// `class` and `message`, and the place in the input if there is one.
#[track_caller]
fn is_failure(error: &Value, class: &str, line: Option<(u64, u64)>) {
    assert_eq!(error["class"], class, "{error}");
    assert!(error["message"].as_str().unwrap().len() > 10, "{error}");
    let place = (error["line"].as_u64(), error["offset"].as_u64());
    assert_eq!(place, (line.map(|(line, _)| line), line.map(|(_, offset)| offset)), "{error}");
}

#[test]
fn a_repaired_migration_ledger_is_in_the_report() {
    for json in [true, false] {
        let made = Everything::new();
        let ledger = made.path("session/migrations/ledger.jsonl");
        fs::write(&ledger, "{\"x").unwrap();
        let words = ["session", "reindex", "session", "--repair-ledger"];
        let output = made.run(&[&words[..], if json { &["--json"] } else { &[] }].concat(), "");
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        if json {
            let cut = json!({
                "file": "migrations/ledger.jsonl", "length": 0, "fromLength": 3, "reason": "its last line is torn",
                "savedAs": "migrations/ledger.jsonl.cut",
            });
            assert_eq!(document(&output)["recovery"]["truncated"], json!([cut]));
        }
        let told = "session/migrations/ledger.jsonl was cut from 3 to 0 bytes (its last line is torn); what was cut is \
                    saved as session/migrations/ledger.jsonl.cut";
        assert!(said(&output).contains(told), "{}", said(&output));
        assert_eq!(fs::read(made.path("session/migrations/ledger.jsonl.cut")).unwrap(), b"{\"x");
    }
}

#[test]
fn cuts_and_files_set_aside_have_the_same_members_in_every_log() {
    let made = Everything::new();
    let torn = |name: &str, more: &[u8]| {
        let mut bytes = fs::read(made.path(name)).unwrap();
        bytes.extend_from_slice(more);
        fs::write(made.path(name), bytes).unwrap();
    };
    torn("session/segments/0000000000000001.seg", b"{\"schema\":");
    torn("book/books/shop/segment-00000000000000000001.log", b"\x20\0\0\0abc");
    let mut wal = fs::read_dir(made.path("journal")).unwrap().map(|entry| entry.unwrap().path());
    let wal = wal.find(|path| path.extension().is_some_and(|extension| extension == "wal")).unwrap();
    torn(wal.to_str().unwrap(), b"\x20\0\0\0abc");
    for (words, report) in [
        (["session", "reindex", "session"], "/recovery"),
        (["book", "init", "book"], "/recovery"),
        (["journal", "recover", "journal"], ""),
    ] {
        let output = made.run(&[&words[..], &["--json"]].concat(), "");
        let whole = document(&output);
        let report = whole.pointer(report).unwrap();
        let cut = &report["truncated"][0];
        for member in ["file", "length", "fromLength", "reason", "savedAs"] {
            assert!(cut.get(member).is_some(), "{words:?}: no {member}: {whole}");
        }
        assert!(made.path(words[2]).join(cut["file"].as_str().unwrap()).exists(), "{words:?}: {cut}");
        assert!(!cut["file"].as_str().unwrap().starts_with(&format!("{}/", words[2])), "{words:?}: {cut}");
        assert!(report["quarantined"].is_array(), "{words:?}: {whole}");
    }
    // A message does not advise the command that just failed.
    fs::write(made.path("session/index/offsets.jsonl"), "no row\n").unwrap();
    let output = made.run(&["session", "reindex", "session", "--json"], "");
    let reason = document(&output)["recovery"]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("offsets.jsonl at byte 0") && !reason.contains("burn session reindex"),
        "{reason}"
    );
}

#[test]
fn errors_in_documents_have_one_shape() {
    let made = Everything::new();
    // A damaged record with sound records after it.
    let mut wal = fs::read_dir(made.path("journal")).unwrap().map(|entry| entry.unwrap().path());
    let wal = wal.find(|path| path.extension().is_some_and(|extension| extension == "wal")).unwrap();
    let mut bytes = fs::read(&wal).unwrap();
    let at = bytes.windows(5).position(|window| window == b"first").unwrap();
    bytes[at] ^= 1;
    fs::write(&wal, bytes).unwrap();
    for command in ["read", "recover"] {
        let output = made.run(&["journal", command, "journal", "--json"], "");
        assert_eq!(output.status.code(), Some(1), "{command}");
        is_failure(&document(&output)["error"], "corrupt", None);
        let name = wal.file_name().unwrap().to_str().unwrap();
        assert_eq!(said(&output).matches(name).count(), 1, "told once: {}", said(&output));
    }
    let refused = document(&made.run(&["journal", "recover", "journal", "--json"], ""));
    assert_eq!(refused["damages"][0]["verdict"], "checksum");

    let good = "{\"entryId\":\"e9\",\"entryType\":\"message\",\"payload\":1}\n";
    let output = made.run(&["session", "append", "session", "--json"], &format!("{good}no entry\n{good}"));
    let report = document(&output);
    assert_eq!(
        (output.status.code(), &report["ok"], &report["appended"]),
        (Some(1), &json!(false), &json!(1))
    );
    assert_eq!(report["head"]["entryId"], "e9");
    is_failure(&report["error"], "invalid_argument", Some((2, good.len() as u64)));
    let place = format!("standard input, line 2 (byte {}): ", good.len());
    assert!(said(&output).contains(&place), "{}", said(&output));

    let odd = "{\"idempotency_key\":\"k\",\"postings\":[{\"account\":\"shop:nope\",\"amount\":{\"minor\":1,\"asset\":\"USD\"},\
               \"direction\":\"debit\"}]}\n";
    let report = document(&made.run(&["book", "post", "book", "--json"], &format!("{odd}no line\n")));
    is_failure(&report["results"][0]["error"], "unknown_account", Some((1, 0)));
    is_failure(&report["results"][1]["error"], "invalid_line", Some((2, odd.len() as u64)));
}

#[test]
fn findings_have_file_offset_verdict_and_reason_in_every_check() {
    let made = Everything::new();
    let torn = |name: &str, more: &[u8]| {
        let mut bytes = fs::read(made.path(name)).unwrap();
        bytes.extend_from_slice(more);
        fs::write(made.path(name), bytes).unwrap();
    };
    torn("home/ledger.jsonl", b"no json\n");
    torn("book/books/shop/segment-00000000000000000001.log", b"\x20\0\0\0abc");
    for (words, verdict) in
        [(["ledger", "check", "home/ledger.jsonl"], "malformed"), (["book", "check", "book"], "tornTail")]
    {
        let output = made.run(&[&words[..], &["--json"]].concat(), "");
        let report = document(&output);
        assert_eq!((output.status.code(), &report["ok"]), (Some(1), &json!(false)));
        let finding = &report["findings"][0];
        assert_eq!(finding["verdict"], verdict, "{finding}");
        let file = finding["file"].as_str().unwrap();
        assert!(made.path(file).is_file(), "{finding}");
        assert!(finding["offset"].is_u64() && finding["reason"].is_string(), "{finding}");
        // Standard error has the reason of the exit code, even when nobody reads the document.
        assert_eq!(said(&output).lines().count(), 1, "{words:?}: {}", said(&output));
        let text = made.run(&words, "");
        let line = format!("{file} at byte {}", finding["offset"]);
        assert!(String::from_utf8_lossy(&text.stdout).contains(&line), "{line}");
    }
}

#[test]
fn wrong_usage_has_exit_code_2_wherever_it_is_seen() {
    let made = Everything::new();
    let ledger = fs::read(made.path("home/ledger.jsonl")).unwrap();
    let same = ["--ledger", "home/ledger.jsonl", "--archive", "home/ledger.jsonl"];
    for (words, usage) in [
        (&[&["state", "rebuild", "archive", "--full"][..], &same].concat()[..], "state rebuild archive"),
        (&[&["state", "rebuild", "archive"][..], &same].concat(), "state rebuild archive"),
        (&["state", "rebuild", "archive", "--report", "home/ledger.jsonl"], "state rebuild archive"),
        (&["state", "rebuild", "archive", "--report", "home/archive.sqlite"], "state rebuild archive"),
        (&["session", "export", "session", "--json"], "session export"),
        (&["session", "append", "session", "--max-segment-bytes", "0"], ""),
        (&["state", "prune", "--days", "99999999999999999999"], ""),
        (&["ledger", "append", "--kind", "content", "--via-journal"], "ledger append"),
        (&["query", "user-turns", "--from", "archive"], "query"),
    ] {
        let output = made.run(words, "");
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(2), &b""[..]),
            "{words:?}: {}",
            said(&output)
        );
        assert!(
            usage.is_empty() || said(&output).contains(&format!("Usage: burn {usage}")),
            "{}",
            said(&output)
        );
        assert!(!said(&output).contains("max_segment_bytes"), "{}", said(&output));
    }
    assert_eq!(fs::read(made.path("home/ledger.jsonl")).unwrap(), ledger);
}

#[test]
fn remedies_fit_what_went_wrong() {
    let made = Everything::new();
    let told = |words: &[&str]| {
        let output = made.run(words, "");
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        said(&output).to_owned()
    };
    let taken = told(&["session", "checkpoint", "session", "--number", "1"]);
    assert!(taken.contains("choose another number") && !taken.contains("restore"), "{taken}");
    let none = told(&["session", "rollback", "session", "9"]);
    assert!(none.contains("no such checkpoint; `burn session checkpoint"), "{none}");
    let nowhere = told(&["dev", "generate-ledger", "nodir/x", "--size", "1KB"]);
    assert!(nowhere.contains("cannot create nodir/x: ") && !nowhere.contains(".burn-generate"), "{nowhere}");
    let report = told(&["state", "rebuild", "archive", "--report", "nodir/r"]);
    assert!(
        report.find("(os error").unwrap() < report.find("; its directory must exist").unwrap(),
        "{report}"
    );
    fs::remove_file(made.path("session/segments/0000000000000001.seg")).unwrap();
    let missing = told(&["session", "check", "session"]);
    assert_eq!(missing.matches("cannot open").count(), 1, "{missing}");

    let snapshot = made.path("book/books/shop/snapshot-00000000000000000003.snap");
    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[9] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let output = made.run(&["book", "check", "book"], "");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(shown.matches(".snap").count(), 1, "{shown}");
}

#[test]
fn asking_for_what_is_not_there_is_answered_with_a_note() {
    let made = Everything::new();
    for words in [
        &["session", "show", "session", "--from", "99"][..],
        &["book", "events", "book", "shop", "--from", "99"],
        &["book", "events", "book", "shop", "--from", "99", "--json"],
    ] {
        let output = made.run(words, "");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", said(&output));
        assert!(said(&output).contains(" has no e"), "{words:?}: {}", said(&output));
        if words.contains(&"--json") {
            assert_eq!(document(&output), json!([]));
        }
    }
}

#[test]
fn an_entry_that_is_not_there_is_a_failure() {
    let made = Everything::new();
    for words in
        [&["session", "path", "session", "nope"][..], &["session", "show", "session", "--entry", "nope"]]
    {
        for json in [&[][..], &["--json"]] {
            let output = made.run(&[words, json].concat(), "");
            assert_eq!(output.status.code(), Some(1), "{words:?}: {}", said(&output));
            assert!(said(&output).contains("session has no entry \"nope\""), "{words:?}: {}", said(&output));
            if !json.is_empty() {
                let report = document(&output);
                assert_eq!(report["ok"], json!(false), "{report}");
                is_failure(&report["error"], "entry_not_found", None);
            }
        }
    }
}

#[test]
fn an_import_that_is_refused_names_the_line_in_its_document() {
    let made = Everything::new();
    let line = |id: &str, parent: &str| {
        format!(
            "{{\"entryId\":\"{id}\",\"parentEntryId\":{parent},\"entryType\":\"custom\",\"payload\":1}}\n"
        )
    };
    let good = line("n1", "null");
    for (bad, class) in [
        ("no entry\n".to_owned(), "invalid_argument"),
        (line("n1", "null"), "duplicate_entry_id"),
        (line("n2", "\"nobody\""), "missing_parent"),
        (line("n2", "\"n2\""), "cyclic_parent"),
        (line(&"n".repeat(4097), "null"), "invalid_argument"),
    ] {
        let output = made.run(
            &["session", "import", "session", "--json"],
            &format!("{good}\n{bad}{}", line("n3", "null")),
        );
        let report = document(&output);
        assert_eq!((output.status.code(), &report["ok"]), (Some(1), &json!(false)), "{report}");
        is_failure(&report["error"], class, Some((3, good.len() as u64 + 1)));
        let place = format!("standard input, line 3 (byte {})", good.len() + 1);
        assert!(said(&output).contains(&place), "{}", said(&output));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_output_is_named() {
    let made = Everything::new();
    for words in [
        &["journal", "read", "journal"][..],
        &["journal", "read", "journal", "--json"],
        &["journal", "status", "journal"],
        &["journal", "status", "journal", "--json"],
        &["journal", "recover", "journal"],
        &["journal", "cleanup", "journal"],
        &["session", "show", "session"],
        &["session", "path", "session"],
        &["session", "export", "session"],
        &["book", "events", "book", "shop"],
        &["book", "events", "book", "shop", "--json"],
        &["query", "turns"],
        &["ledger", "check"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = finish(made.burn(words).stdout(Stdio::from(full)).spawn().unwrap(), "");
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(said(&output).contains("cannot write to standard output: "), "{words:?}: {}", said(&output));
    }
}

#[test]
fn no_command_makes_a_store_among_the_files_of_another_program() {
    let made = Everything::new();
    let foreign: [(&str, &[&str]); 5] = [
        ("website", &["index.html"]),
        ("rails", &["tmp/", "migrations/", "config.ru"]),
        ("leveldb", &["LOCK", "CURRENT"]),
        ("duckdb", &["a.duckdb.wal"]),
        ("extension", &["manifest.json", "icon.png"]),
    ];
    let turned = "{\"entryId\":\"e1\",\"entryType\":\"message\",\"payload\":{}}\n";
    let commands: [(&[&str], &str); 5] = [
        (&["journal", "append"], "a\n"),
        (&["session", "append"], turned),
        (&["session", "import"], turned),
        (&["book", "init"], ""),
        (&["journal", "drain", "journal", "--store"], ""),
    ];
    for (name, files) in foreign {
        let directory = made.path(name);
        fs::create_dir(&directory).unwrap();
        for file in files {
            match file.strip_suffix('/') {
                Some(inside) => fs::create_dir(directory.join(inside)).unwrap(),
                None => fs::write(directory.join(file), "x").unwrap(),
            }
        }
        for (command, input) in commands {
            let output = made.run(&[command, &[name]].concat(), input);
            assert_eq!(output.status.code(), Some(1), "{command:?} {name}");
            assert!(said(&output).contains(&format!("{name} has files and no ")), "{}", said(&output));
            assert_eq!(fs::read_dir(&directory).unwrap().count(), files.len(), "{command:?} {name}");
        }
    }
    // Other stores are the files of another program, too.
    for (command, input) in commands {
        let own = if command[1] == "drain" { "store" } else { command[0] };
        for other in ["journal", "session", "book"].into_iter().filter(|other| *other != own) {
            let output = made.run(&[command, &[other]].concat(), input);
            assert_eq!(output.status.code(), Some(1), "{command:?} {other}");
        }
    }
    // A new file system has lost+found.
    for (number, (command, input)) in commands.into_iter().enumerate() {
        let name = format!("disk{number}");
        fs::create_dir_all(made.path(&name).join("lost+found")).unwrap();
        for _ in 0..2 {
            let input = if command[0] == "session" { "" } else { input };
            let output = made.run(&[command, &[&*name]].concat(), input);
            assert_eq!(output.status.code(), Some(0), "{command:?} {}", said(&output));
        }
    }
}

#[test]
fn a_manifest_names_a_format_of_entries_that_there_is() {
    let made = Everything::new();
    let words = ["session", "manifest", "session", "--write", "--source-format"];
    let output = made.run(&[&words[..], &["foo"]].concat(), "");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("jsonl_v3, sqlite_v1, native_v2"), "{}", said(&output));
    let output = made.run(&[&words[..], &["sqlite_v1", "--json"]].concat(), "");
    assert_eq!(document(&output)["sourceFormat"], "sqlite_v1");
}

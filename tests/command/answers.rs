//! Answers of commands are true: a command reports what is missing, damaged, skipped or repeated, and half an answer
//! never looks complete.
#![cfg(unix)]

use crate::common;
use std::fs;
use std::process::Output;

use crate::common::everything::Everything;
use serde_json::Value;

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn shown(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", shown(output), said(output)))
}

fn compaction(number: u32) -> String {
    format!("{{\"source\":\"x\",\"sessionId\":\"s1\",\"ts\":\"2026-04-20T00:00:{number:02}.000Z\"}}\n")
}

#[test]
fn sums_in_a_table_count_numbers_that_are_no_integers() {
    let made = Everything::new();
    let ledger = made.path("odd/ledger.jsonl");
    fs::create_dir_all(ledger.parent().unwrap()).unwrap();
    let line = r#"{"v":1,"kind":"turn","record":{"source":"x","sessionId":"s","messageId":"m","turnIndex":0,"ts":"2026-04-20T00:00:00.000Z","model":"m","usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":7.5,"cacheCreate1h":2},"toolCalls":[]}}"#;
    fs::write(&ledger, format!("{line}\n{}\n", line.replace("\"m\",\"turnIndex", "\"n\",\"turnIndex")))
        .unwrap();
    let home = made.path("odd");
    let words = [
        "query",
        "turns",
        "--from",
        "ledger",
        "--home",
        home.to_str().unwrap(),
        "--columns",
        "usage.input,cache w",
    ];
    let table = made.run(&words, "");
    let lines: Vec<Vec<&str>> = shown(&table).lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines.iter().filter(|cells| cells[..] == ["1", "9.5"]).count(),
        2,
        "{}{}",
        shown(&table),
        said(&table)
    );
}

#[test]
fn an_array_that_a_failure_cuts_short_does_not_parse() {
    let made = Everything::new();
    let records: String = (0..4000)
        .map(|number| {
            format!(
                "{{\"source\":\"x\",\"sessionId\":\"s\",\"messageId\":\"m{number}\",\"turnIndex\":{number},\
                 \"ts\":\"2026-04-20T00:00:00.{number:06}Z\",\"model\":\"m\",\"usage\":{{\"input\":1,\"output\":2,\"reasoning\":0,\
                 \"cacheRead\":0,\"cacheCreate5m\":0,\"cacheCreate1h\":0}},\"toolCalls\":[],\"project\":\"{number:0200}\"}}\n"
            )
        })
        .collect();
    assert!(made.run(&["ledger", "append", "--kind", "turns"], &records).status.success());
    assert!(made.run(&["state", "rebuild", "archive", "--full"], "").status.success());
    let query = || made.run(&["query", "turns", "--json"], "");
    assert_eq!(document(&query()).as_array().unwrap().len(), 4001);

    // Pages in the middle are overwritten one after another, until one of them belongs to the table.
    let archive = made.path("home/archive.sqlite");
    let sound = fs::read(&archive).unwrap();
    let pages = sound.len() / 16384;
    let mut half = 0;
    for page in (2..pages).rev() {
        let mut bytes = sound.clone();
        bytes[page * 16384..(page + 1) * 16384].fill(0xA5);
        fs::write(&archive, &bytes).unwrap();
        let output = query();
        if output.status.success() {
            continue;
        }
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("archive.sqlite"), "{}", said(&output));
        assert!(
            serde_json::from_slice::<Value>(&output.stdout).is_err(),
            "page {page}: half an answer parses"
        );
        half += usize::from(shown(&output).starts_with("[\n"));
    }
    assert!(half > 0, "no page ended an answer half-way");
}

#[test]
fn a_session_store_without_its_index_is_not_called_sound() {
    let made = Everything::new();
    fs::remove_file(made.path("session/index/offsets.jsonl")).unwrap();
    let output = made.run(&["session", "check", "session", "--json"], "");
    let report = document(&output);
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &Value::from(false)), "{report}");
    // The format's own check compares only rows, and finds no fault in them.
    assert!(report["error"].is_null(), "{report}");
    let length = fs::metadata(made.path("session/segments/0000000000000001.seg")).unwrap().len();
    assert_eq!(
        report["unindexed"],
        serde_json::json!([{"file": "segments/0000000000000001.seg", "offset": 0, "length": length}])
    );
    let text = made.run(&["session", "check", "session"], "");
    assert!(!shown(&text).starts_with("sound"), "{}", shown(&text));
    for command in ["show", "export", "path"] {
        let output = made.run(&["session", command, "session"], "");
        assert!(said(&output).contains("`burn session reindex`"), "{command}: {}", said(&output));
    }
    assert!(made.run(&["session", "reindex", "session"], "").status.success());
    let mended = made.run(&["session", "check", "session", "--json"], "");
    assert_eq!((mended.status.code(), &document(&mended)["unindexed"]), (Some(0), &serde_json::json!([])));

    // Half a line is an unfinished write: it is reported, and no entry is missing.
    let segment = made.path("session/segments/0000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes.extend_from_slice(b"{\"schema\"");
    fs::write(&segment, &bytes).unwrap();
    let torn = made.run(&["session", "check", "session", "--json"], "");
    assert_eq!((torn.status.code(), &document(&torn)["unindexed"][0]["length"]), (Some(0), &Value::from(9)));
    assert!(said(&torn).contains("an unfinished write"), "{}", said(&torn));
}

#[test]
fn an_empty_directory_is_no_store() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    fs::create_dir(made.path("empty")).unwrap();
    for words in [["session", "check"], ["session", "show"], ["session", "reindex"], ["book", "check"]] {
        let output = made.run(&[&words[..], &["empty"]].concat(), "");
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(
            said(&output).contains("there is no") && said(&output).contains("makes one"),
            "{}",
            said(&output)
        );
    }
    assert_eq!(common::names(&made.path("empty")), Vec::<String>::new());
}

#[test]
fn a_ledger_that_is_not_there_is_not_called_sound() {
    let made = Everything::new();
    let index = fs::read(made.path("home/ledger.idx")).unwrap();
    fs::remove_file(made.path("home/ledger.jsonl")).unwrap();
    let output = made.run(&["ledger", "check", "--json"], "");
    let report = document(&output);
    assert_eq!((output.status.code(), &report["exists"]), (Some(1), &Value::from(false)));
    let findings = report["findings"].as_array().unwrap();
    assert_eq!((findings.len(), &findings[0]["verdict"]), (1, &Value::from("noLedger")), "{report}");
    let reason = findings[0]["reason"].as_str().unwrap();
    assert!(reason.contains("put the ledger back") && !reason.contains("rebuild"), "{reason}");

    // The index is the only record of what the ledger had.
    for what in ["index", "all"] {
        let output = made.run(&["state", "rebuild", what], "");
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(said(&output).contains("ledger.jsonl") && said(&output).contains("put the ledger back"));
        assert_eq!(fs::read(made.path("home/ledger.idx")).unwrap(), index, "{what}");
    }
    // An empty home has no fault, and is not called sound either.
    fs::remove_dir_all(made.path("home")).unwrap();
    for words in [&["ledger", "check"][..], &["state", "rebuild", "index"], &["state", "rebuild", "all"]] {
        let output = made.run(words, "");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", said(&output));
        assert!(said(&output).contains("there is no ledger at"), "{words:?}: {}", said(&output));
        assert!(!shown(&output).contains("nothing is wrong"), "{words:?}: {}", shown(&output));
    }
}

#[test]
fn a_wrong_question_is_told_of_with_its_place() {
    let made = Everything::new();
    fs::create_dir(made.path("empty")).unwrap();
    fs::write(made.path("file"), "junk\n").unwrap();
    let ask = |words: &[&str]| {
        let output = made.run(words, "");
        (output.status.code().unwrap(), said(&output).to_owned())
    };
    // A directory with other files, and an empty directory.
    for (words, kind) in [
        (&["journal", "read"][..], "journal"),
        (&["journal", "status"], "journal"),
        (&["journal", "recover"], "journal"),
        (&["journal", "cleanup"], "journal"),
        (&["book", "balance"], "book store"),
        (&["book", "check"], "book store"),
        (&["book", "asset"], "book store"),
        (&["session", "show"], "session store"),
        (&["session", "check"], "session store"),
    ] {
        for store in ["empty", "home", "journal", "session", "book"] {
            if kind.starts_with(store) {
                continue;
            }
            let before = common::names(&made.path(store));
            let (code, text) = ask(&[words, &[store]].concat());
            assert_eq!(code, 1, "{words:?} {store}: {text}");
            assert!(text.contains(&format!("there is no {kind} at {store}")), "{words:?} {store}: {text}");
            assert_eq!(common::names(&made.path(store)), before, "{words:?} {store}");
        }
    }
    // The message about a missing part of a book names the directory.
    for words in [
        &["book", "balance", "book", "shop:nope"][..],
        &["book", "history", "book", "shop:nope"],
        &["book", "events", "book", "nope"],
        &["book", "trial-balance", "book", "nope"],
        &["book", "snapshot", "book", "nope"],
        &["book", "transaction", "book", "00000000-0000-0000-0000-000000000000"],
        &["book", "account", "book", "shop:x", "--asset", "NOPE", "--kind", "asset"],
    ] {
        let (code, text) = ask(words);
        assert!(code == 1 && text.starts_with("burn: book: there is no "), "{words:?}: {text}");
    }
    let (code, text) = ask(&["book", "history", "book", "shop:cash", "--after", "99"]);
    assert!(code == 0 && text.contains("no event after 99"), "{text}");
    let (code, text) = ask(&["book", "balance", "book", "--as-of", "2026-01-31"]);
    assert!(code == 2 && text.contains("2026-01-31T23:59:59Z is needed"), "{text}");
    let (code, text) = ask(&["session", "import", "new", "nope"]);
    assert!(code == 1 && text.contains("cannot read nope: ") && text.contains("; name a file"), "{text}");
    // Times that no record can have, and a home without a ledger.
    let upside_down =
        ["query", "turns", "--since", "2026-04-21T00:00:00Z", "--until", "2026-04-20T00:00:00Z"];
    for more in [&[][..], &["--json"], &["--from", "ledger", "--jsonl"]] {
        let (code, text) = ask(&[&upside_down, more].concat());
        assert!(code == 0 && text.contains("is after --until"), "{more:?}: {text}");
    }
    fs::remove_file(made.path("home/ledger.jsonl")).unwrap();
    for more in [&[][..], &["--json"], &["--jsonl"]] {
        let (code, text) = ask(&[&["query", "turns", "--from", "ledger"], more].concat());
        assert!(code == 0 && text.contains("there is no ledger at"), "{more:?}: {text}");
    }
}

#[test]
fn lines_that_a_query_passes_over_are_told_of() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    let lines = compaction(1) + &compaction(2);
    assert!(made.run(&["ledger", "append", "--kind", "compactions"], &lines).status.success());
    let ledger = made.path("home/ledger.jsonl");
    let sound = fs::read_to_string(&ledger).unwrap();
    let first = sound.lines().next().unwrap();
    let query = || made.run(&["query", "compactions", "--jsonl"], "");
    assert_eq!((said(&query()), shown(&query()).lines().count()), ("", 2));

    // Two writes in one line, and half a line.
    fs::write(&ledger, format!("{sound}{}{first}\n{}\n", &first[..30], &first[..30])).unwrap();
    let output = query();
    assert_eq!((output.status.code(), shown(&output).lines().count()), (Some(0), 2));
    let place = format!("ledger.jsonl at byte {} ({} bytes): malformed", sound.len(), first.len() + 31);
    assert!(said(&output).contains(&place), "{}", said(&output));
    assert!(said(&output).contains("the first of 2 such lines"), "{}", said(&output));
    assert_eq!(said(&output).lines().count(), 1);
}

#[test]
fn ingest_counts_what_the_ledger_had_and_names_what_it_sets_aside() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    let append = |more: &[&str]| {
        let words = [&["ledger", "append", "--kind", "compactions"], more].concat();
        assert!(made.run(&words, &compaction(1)).status.success());
    };
    append(&[]);
    append(&["--via-journal"]);
    append(&["--via-journal"]);
    let report = document(&made.run(&["journal", "drain", "--json"], ""));
    assert_eq!(
        (&report["ledgerLines"], &report["duplicates"]),
        (&Value::from(0), &Value::from(2)),
        "{report}"
    );
    assert_eq!(fs::read_to_string(made.path("home/ledger.jsonl")).unwrap().lines().count(), 1);

    assert!(made.run(&["journal", "append", "odd"], "x\ny\n1\n2\n3\n4\n5\n").status.success());
    let output = made.run(&["journal", "drain", "odd", "--store", "store"], "");
    assert!(shown(&output).contains("7 set aside"), "{}", shown(&output));
    let told = said(&output);
    assert_eq!(told.matches("set aside: ").count(), 5, "{told}");
    assert!(told.contains("odd at offset 0 (1 byte): set aside: "), "{told}");
    assert!(told.contains("2 more records set aside") && told.contains("store, under Q:"), "{told}");
}

#[test]
fn registrations_that_are_lost_are_found_by_who_needs_them() {
    let made = Everything::new();
    assert_eq!(made.run(&["book", "check", "book"], "").status.code(), Some(0));
    let segment = made.path("book/books/_system/segment-00000000000000000001.log");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[30] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    assert!(made.run(&["book", "init", "book"], "").status.success());
    let output = made.run(&["book", "check", "book", "--json"], "");
    let report = document(&output);
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &Value::from(false)), "{report}");
    let finding = &report["findings"][0];
    assert_eq!(finding["verdict"], "unregisteredAsset");
    let reason = finding["reason"].as_str().unwrap();
    assert!(reason.contains("account shop:cash holds USD (and 1 more"), "{reason}");
    let aside = |book: usize| report["books"][book]["setAside"].as_array().unwrap().len();
    assert_eq!((aside(0), aside(1)), (1, 0), "{report}");
    // After the asset is registered again, there is no finding.
    assert!(made.run(&["book", "asset", "book", "USD", "--precision", "2"], "").status.success());
    assert_eq!(made.run(&["book", "check", "book"], "").status.code(), Some(0));
}

#[test]
fn a_book_out_of_balance_is_told_of() {
    let made = Everything::new();
    let line = r#"{"idempotency_key":"odd","postings":[{"account":"shop:cash","amount":{"minor":500,"asset":"USD"},"direction":"debit"}]}"#;
    assert!(made.run(&["book", "post", "book"], line).status.success());
    let output = made.run(&["book", "trial-balance", "book"], "");
    assert!(said(&output).contains("differ by 5.00"), "{}", said(&output));
    let output = made.run(&["book", "check", "book"], "");
    assert_eq!(output.status.code(), Some(0));
    assert!(shown(&output).contains("unbalanced  shop: USD"), "{}", shown(&output));
}

#[test]
fn what_cannot_be_looked_at_is_not_called_missing() {
    let made = Everything::new();
    let dangle = |name: &str| {
        let path = made.path(name);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        std::os::unix::fs::symlink(path.file_name().unwrap(), &path).unwrap();
    };
    // A link to itself cannot be read, like a file without permission; root cannot read it either.
    dangle("home/archive.sqlite");
    dangle("session/segments");
    dangle("book/books");
    for words in
        [&["query", "turns"][..], &["state"], &["session", "check", "session"], &["book", "check", "book"]]
    {
        let output = made.run(words, "");
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}{}", shown(&output), said(&output));
        assert!(!said(&output).contains("there is no"), "{words:?}: {}", said(&output));
    }
}

//! Reports of recovery have one form for all logs: a journal, a session store, a book.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::everything::{Everything, files_in};
use serde_json::Value;

/// A log, the command that recovers it, the place of the report in the document, and a function that damages its end.
struct Case {
    root: &'static str,
    file_ends_in: &'static str,
    command: [&'static str; 3],
    report: &'static str,
    damage: fn(&mut Vec<u8>),
}

const CASES: [Case; 3] = [
    Case {
        root: "journal",
        file_ends_in: ".wal",
        command: ["journal", "recover", "journal"],
        report: "",
        // A record with a length of 32 bytes that has only three.
        damage: |bytes| bytes.extend_from_slice(b"\x20\0\0\0abc"),
    },
    Case {
        root: "session",
        file_ends_in: ".seg",
        command: ["session", "reindex", "session"],
        report: "/recovery",
        damage: |bytes| bytes.extend_from_slice(b"{\"schema\":\"pi.ses"),
    },
    Case {
        root: "book/books/shop",
        file_ends_in: ".log",
        command: ["book", "init", "book"],
        report: "/recovery",
        // The last frame fails its checksum.
        damage: |bytes| *bytes.last_mut().unwrap() ^= 1,
    },
];

fn the_log(made: &Everything, case: &Case) -> PathBuf {
    let mut files = Vec::new();
    files_in(&made.path(case.root), &mut files);
    files.retain(|file| file.to_str().unwrap().ends_with(case.file_ends_in));
    files.sort();
    files.pop().unwrap()
}

/// A path in a report, which may be relative to the store.
fn named(made: &Everything, case: &Case, name: &Value) -> PathBuf {
    let name = Path::new(name.as_str().unwrap());
    let in_store = made.path(case.command[2]).join(name);
    if in_store.exists() { in_store } else { made.path("").join(name) }
}

#[test]
fn a_cut_is_told_with_file_lengths_and_copy() {
    for case in &CASES {
        for json in [false, true] {
            let made = Everything::new();
            let log = the_log(&made, case);
            let mut bytes = fs::read(&log).unwrap();
            (case.damage)(&mut bytes);
            fs::write(&log, &bytes).unwrap();
            let mut words = case.command.to_vec();
            words.extend(json.then_some("--json"));
            let output = made.run(&words, "");
            let said = String::from_utf8_lossy(&output.stderr);
            let shown = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
            let length = fs::metadata(&log).unwrap().len();
            assert!(length < bytes.len() as u64, "{words:?} cut nothing");
            if json {
                let document: Value = serde_json::from_slice(&output.stdout).unwrap();
                let report = document.pointer(case.report).unwrap();
                // A snapshot of events that the book's log no longer has is renamed.
                let renamed = report["quarantined"].as_array().unwrap();
                assert_eq!(renamed.len(), usize::from(case.command[0] == "book"), "{shown}");
                for renamed in renamed {
                    assert!(!named(&made, case, &renamed["file"]).exists(), "{shown}");
                    assert!(named(&made, case, &renamed["savedAs"]).exists(), "{shown}");
                }
                let cut = &report["truncated"][0];
                assert_eq!(cut["length"], length, "{shown}");
                assert_eq!(cut["fromLength"], bytes.len() as u64, "{shown}");
                assert_eq!(named(&made, case, &cut["file"]), log, "{shown}");
                let saved = fs::read(named(&made, case, &cut["savedAs"])).unwrap();
                assert_eq!(saved, bytes[length as usize..], "{shown}");
            } else {
                let sentence = format!("was cut from {} to {length} bytes", bytes.len());
                let line = said.lines().chain(shown.lines()).find(|line| line.contains(&sentence));
                assert!(
                    line.is_some_and(|line| line.contains("; what was cut is saved as ")),
                    "{said}{shown}"
                );
            }
            // A repaired log is not repaired again.
            let again = made.run(&words, "");
            let told = [again.stderr, again.stdout].map(|text| String::from_utf8(text).unwrap()).concat();
            assert!(
                again.status.success() && !told.contains("was cut") && !told.contains("fromLength"),
                "{told}"
            );
        }
    }
}

#[test]
fn what_is_refused_is_told_with_its_class_and_its_place() {
    for case in &CASES {
        let made = Everything::new();
        let log = the_log(&made, case);
        let mut bytes = fs::read(&log).unwrap();
        // Damage with sound records after it; for a book, in a segment that is not the last.
        if case.command[0] == "book" {
            bytes.truncate(400);
            let next = log.with_file_name("segment-00000000000000000009.log");
            fs::copy(&log, next).unwrap();
        }
        bytes[20] ^= 0x01;
        fs::write(&log, &bytes).unwrap();
        let words = [case.command[0], case.command[1], case.command[2], "--json"];
        let output = made.run(&words, "");
        let said = String::from_utf8_lossy(&output.stderr);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}{shown}");
        assert_eq!(fs::read(&log).unwrap(), bytes, "{words:?} changed what it refused");
        assert!(
            said.contains("byte ") && said.contains(log.file_name().unwrap().to_str().unwrap()),
            "{said}"
        );
        if !shown.is_empty() {
            let document: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(document["ok"], false);
            for key in ["class", "message"] {
                assert!(document["error"][key].is_string(), "{shown}");
            }
        }
    }
}

//! Options that several commands share mean the same in each of them, and a command refuses those that it has no use for.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::everything::{Everything, Names, Walked, commands, finish, is_civil};

fn said(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[test]
fn json_may_follow_a_group_or_its_command() {
    for (group, command) in [
        ("state", &["rebuild", "index"][..]),
        ("state", &["prune"]),
        ("ledger", &["check"]),
        ("session", &["check", "session"]),
        ("book", &["balance", "book"]),
    ] {
        let made = Everything::new();
        let document = |words: &[&str]| {
            let output = made.run(words, "");
            let document: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", said(&output)));
            document.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>())
        };
        let last = document(&[&[group], command, &["--json"]].concat());
        assert_eq!(document(&[&[group, "--json"], command].concat()), last, "{group} {command:?}");
    }
}

#[test]
fn commands_without_a_document_refuse_json() {
    let made = Everything::new();
    for words in [
        &["journal", "append", "journal"][..],
        &["completions", "bash"],
        &["man"],
        &["statusline"],
        &["dev", "sqlite-options"],
        &["dev", "generate-ledger", "new", "--size", "1KB"],
    ] {
        let output = made.run(&[words, &["--json"]].concat(), "");
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]), "{words:?}");
        assert!(said(&output).contains("unexpected argument '--json'"), "{words:?}: {}", said(&output));
    }
    assert!(!made.path("new").exists());
}

#[cfg(not(feature = "parquet"))]
#[test]
fn exports_are_refused_with_the_feature_that_they_need() {
    let made = Everything::new();
    for words in [
        &["export", "parquet", "--out", "exports"][..],
        &["export", "gc", "--out", "exports"],
        &["export", "forget", "--out", "exports", "--home-id", "a"],
    ] {
        let output = made.run(words, "");
        is_civil(&words.join(" "), &output);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(said(&output).contains("cargo install --path . --features parquet"), "{}", said(&output));
    }
    assert!(!made.path("exports").exists() && !made.path("home/export.json").exists());
}

/// What `--home` names, a command sees, whatever the environment says.
#[test]
fn a_home_that_is_named_goes_before_the_one_of_the_environment() {
    let made = Everything::new();
    let elsewhere = made.path("elsewhere");
    // What is drained or merged once is not there again.
    let is_walked = |walked: &&Walked| {
        walked.has_flag("home") && !["journal drain", "ledger merge"].contains(&walked.name().as_str())
    };
    for walked in commands().iter().filter(|walked| walked.is_leaf()).filter(is_walked) {
        let words = made.arguments(walked, &Names::sound()).unwrap();
        let run = |variable: &Path, more: &[&str]| {
            let mut burn =
                made.burn(&[words.clone(), more.iter().map(|word| (*word).to_owned()).collect()].concat());
            let output = finish(
                burn.env("RELAYBURN_HOME", variable).env("BURN_NOW", "2026-04-20T12:00:00Z").spawn().unwrap(),
                made.input(walked),
            );
            is_civil(&walked.name(), &output);
            (output.status.code(), said(&output))
        };
        let _ = fs::remove_dir_all(&elsewhere);
        let _ = fs::remove_file(made.path("new"));
        let by_variable = run(&elsewhere, &[]);
        let _ = fs::remove_dir_all(&elsewhere);
        let by_option = run(Path::new("/nonexistent"), &["--home", "elsewhere"]);
        // The option names it relatively, and times of day differ.
        let plain = |(code, text): (Option<i32>, String)| {
            let text = text.replace(elsewhere.to_str().unwrap(), "elsewhere");
            let is_number = |c: char| c.is_ascii_digit() || c == '.';
            (code, text.split(is_number).collect::<String>())
        };
        assert_eq!(plain(by_option), plain(by_variable), "{}", walked.name());
    }
    let homeless = ["session", "book", "completions", "man", "dev"];
    for walked in commands().iter().filter(|walked| walked.is_leaf()) {
        let group = walked.path[0].as_str();
        let uses_home = match group {
            "journal" => ["drain", "get"].contains(&walked.path[1].as_str()),
            group => !homeless.contains(&group),
        };
        assert_eq!(walked.has_flag("home"), uses_home, "{}", walked.name());
    }
}

/// A copy of a ledger and an archive of it are asked as those of a home are.
#[test]
fn ledger_and_archive_can_be_named() {
    let made = Everything::new();
    fs::create_dir(made.path("copy")).unwrap();
    fs::rename(made.path("home/ledger.jsonl"), made.path("copy/l.jsonl")).unwrap();
    fs::rename(made.path("home/archive.sqlite"), made.path("copy/a.sqlite")).unwrap();
    let files = ["--ledger", "copy/l.jsonl", "--archive", "copy/a.sqlite"];
    let found = |words: &[&str]| {
        let output = made.run(&[words, &files].concat(), "");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(found(&["query", "turns", "--jsonl"]).contains("\"sessionId\":\"s1\""));
    assert!(found(&["query", "turns", "--from", "ledger", "--jsonl"]).contains("\"sessionId\":\"s1\""));
    let usage: serde_json::Value =
        serde_json::from_str(&found(&["usage", "--by", "model", "--json"])).unwrap();
    assert_eq!((&usage["total"]["turns"], &usage["ledger"]["path"]), (&1.into(), &"copy/l.jsonl".into()));
    let page = found(&["report", "--since", "2020", "--out", "-"]);
    assert!(page.starts_with("<!doctype html>") && page.contains("</html>"), "{page}");
    let status: serde_json::Value = serde_json::from_str(&found(&["state", "status", "--json"])).unwrap();
    assert_eq!((&status["archivePath"], &status["upToDate"]), (&"copy/a.sqlite".into(), &true.into()));
    // Index and content are those of a home.
    assert!(!found(&["state", "status"]).contains("content"));
    for words in [&["query", "turns"][..], &["usage"], &["report"], &["state", "vacuum"]] {
        let alone = made.run(&[words, &files[..2]].concat(), "");
        assert_eq!(alone.status.code(), Some(2), "{words:?}: {}", said(&alone));
        let nowhere = ["--ledger", "nowhere.jsonl", "--archive", "copy/a.sqlite"];
        let output = made.run(&[words, &nowhere].concat(), "");
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(said(&output).contains("there is no ledger at nowhere.jsonl; "), "{}", said(&output));
    }
    assert!(!made.path("home/ledger.jsonl").exists() && !made.path("home/archive.sqlite").exists());
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full");
        return;
    }
    for word in ["--help", "--version", "help"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_burn")).arg(word).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{word}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"), "{output:?}");
    }
}

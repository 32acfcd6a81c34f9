//! Runs every command of `burn`'s command tree: help, wrong usage, JSON, a closed pipe, wrong names. A new command is
//! covered without a change here.
#![cfg(unix)]

use crate::common;
use std::fs;
use std::process::Stdio;

use crate::common::everything::{Everything, Names, commands, finish, is_civil};
use clap::Parser as _;
use relayburn_ledger::cli::Cli;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn help_says_what_a_command_does_and_explains_everything() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    common::in_parallel(&commands(), |walked| {
        let name = walked.name();
        for (help, columns) in [("--help", "100"), ("-h", "100"), ("--help", "40")] {
            let words = [walked.path.clone(), vec![help.to_owned()]].concat();
            let output = made.burn(&words).env("COLUMNS", columns).output().unwrap();
            assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{name}");
            let said = text(&output.stdout);
            let first = said.lines().next().unwrap();
            assert!(first.len() > 10 && first.starts_with(char::is_uppercase), "{name}: {first:?}");
            assert!(said.contains("\nUsage: burn"), "{name}: {said}");
            let longest = said.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(columns != "100" || longest.chars().count() <= 100, "{name}: {longest:?}");
        }
        for arg in walked.command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name}: {} is not explained", arg.get_id());
        }
        let notes = walked.command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(notes.contains("Example"), "{name} has no example");
        // clap fills paragraphs itself, so a line that ends inside a sentence would be printed torn.
        for pair in notes.lines().collect::<Vec<_>>().windows(2) {
            let ends = pair[0].is_empty() || pair[0].starts_with(' ') || pair[0].ends_with(['.', ':', ';']);
            assert!(ends || pair[1].is_empty() || pair[1].starts_with(' '), "{name}: torn: {pair:?}");
        }
    });
}

/// Splits words like a shell. Examples use only single quotes and blanks.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted, mut is_word) = (Vec::new(), String::new(), false, false);
    for character in line.chars() {
        match character {
            '\'' => (is_quoted, is_word) = (!is_quoted, true),
            ' ' if !is_quoted => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => {
                word.push(other);
                is_word = true;
            }
        }
    }
    words.extend(is_word.then_some(word));
    words
}

#[test]
fn the_examples_are_command_lines() {
    let mut examples = 0;
    for walked in commands() {
        let notes = walked.command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in notes.lines().filter(|line| line.starts_with("  ")) {
            // Columns of explanation, redirections, pipes, lists.
            let line = line.trim().split("   ").next().unwrap();
            let all = words(line);
            for part in all.split(|word| ["|", "&&", ";"].contains(&word.as_str())) {
                let part: Vec<&String> =
                    part.iter().take_while(|word| !["<", ">"].contains(&word.as_str())).collect();
                if part.first().is_some_and(|word| *word == "burn") {
                    examples += 1;
                    Cli::try_parse_from(&part).unwrap_or_else(|error| panic!("{line}: {error}"));
                    let is_own = part.iter().skip(1).zip(&walked.path).all(|(word, own)| *word == own);
                    let path = &walked.path;
                    assert!(
                        is_own || path == &["journal", "drain"] || line.contains("&&"),
                        "{path:?} explains {line}"
                    );
                }
            }
        }
    }
    assert!(examples > 60, "{examples} examples");
}

#[test]
fn wrong_usage_is_told_on_stderr_with_exit_code_2() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    common::in_parallel(&commands(), |walked| {
        let name = walked.name();
        let mut wrong = vec![vec!["--no-such-flag"], vec!["--no-such-flag=1", "--json"]];
        if walked.command.get_arguments().any(|arg| arg.is_required_set())
            || walked.command.is_subcommand_required_set()
        {
            wrong.push(Vec::new());
        }
        if !walked.is_leaf() {
            wrong.push(vec!["no-such-command"]);
        }
        for more in wrong {
            let words: Vec<&str> = walked.path.iter().map(String::as_str).chain(more).collect();
            let output = made.run(&words, "");
            let said = text(&output.stderr);
            assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{name}: {said}");
            assert!(said.contains("Usage: burn") && said.contains("--help"), "{name}: {said}");
        }
    });
    // No file was created.
    assert_eq!(common::names(made.directory.path()), Vec::<String>::new());
}

/// Commands without `--json`, whose output is for another program or has one record a line.
const WITHOUT_JSON: [&str; 8] = [
    "journal append",
    "ledger export",
    "dev generate-ledger",
    "dev naive-load",
    "dev price",
    "dev sqlite-options",
    "completions",
    "man",
];

#[test]
fn json_is_one_document_and_nothing_else() {
    for walked in commands().iter().filter(|walked| walked.is_leaf()) {
        let name = walked.name();
        assert_eq!(walked.has_flag("json"), !WITHOUT_JSON.contains(&name.as_str()), "{name}");
        let made = Everything::new();
        let mut words = made
            .arguments(walked, &Names::sound())
            .unwrap_or_else(|| panic!("{name} has an argument that this test has no value for"));
        if walked.has_flag("json") {
            words.push("--json".to_owned());
        }
        let output = made.run(&words, made.input(walked));
        let said = text(&output.stderr);
        is_civil(&name, &output);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
        if walked.has_flag("json") {
            let document: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", text(&output.stdout)));
            assert!(document.is_object() || document.is_array(), "{name}: {document}");
            assert!(output.stdout.ends_with(b"\n"), "{name}");
        }
        assert!(!said.contains("\u{1b}[") && !text(&output.stdout).contains("\u{1b}["), "{name}: colours");
    }
}

/// Further forms of commands, with another effect than the first form.
const OTHER_FORMS: [(&[&str], &str); 16] = [
    (&["book", "asset", "book", "EUR", "--precision", "2"], ""),
    (&["book", "account", "book", "shop:rent", "--asset", "USD", "--kind", "expense"], ""),
    (&["book", "balance", "book", "shop:cash", "--as-of", "2026-01-31T23:59:59Z"], ""),
    (&["journal", "recover", "journal", "--skip-corrupt"], ""),
    (&["ledger", "append", "--kind", "content"], "{\"sessionId\":\"s2\"}\n"),
    (&["ledger", "append", "--kind", "compactions", "--via-journal"], ""),
    (&["ledger", "check", "home/ledger.jsonl"], ""),
    (&["query", "turns", "--from", "ledger", "--enrichment", "tier=gold"], ""),
    (&["query", "turns", "--until", "2000-01-01"], ""),
    (&["session", "checkpoint", "session", "--list"], ""),
    (&["session", "manifest", "session", "--write"], ""),
    (&["session", "show", "session", "--tail", "1"], ""),
    (&["state", "prune", "--days", "0", "--force"], ""),
    (&["state", "rebuild", "archive", "--full"], ""),
    (&["state", "vacuum"], ""),
    (&["state", "reset", "--everything", "--force"], ""),
];

#[test]
fn every_form_has_one_document() {
    for (words, input) in OTHER_FORMS {
        let made = Everything::new();
        let output = made.run(&[words, &["--json"]].concat(), input);
        is_civil(&words.join(" "), &output);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", text(&output.stdout)));
    }
}

#[test]
fn a_reader_that_has_gone_ends_a_command_quietly() {
    let made = Everything::new();
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for walked in commands() {
        let help = [walked.path.clone(), vec!["--help".to_owned()]].concat();
        let output = finish(made.burn(&help).stdout(closed()).spawn().unwrap(), "");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{help:?}");
        if !walked.is_leaf() {
            continue;
        }
        let plain = made.arguments(&walked, &Names::sound()).unwrap();
        let mut forms = vec![plain.clone()];
        for flag in ["json", "jsonl"].into_iter().filter(|flag| walked.has_flag(flag)) {
            forms.push([plain.clone(), vec![format!("--{flag}")]].concat());
        }
        for words in forms {
            let _ = fs::remove_file(made.path("new"));
            let child = made.burn(&words).stdout(closed()).spawn().unwrap();
            let output = finish(child, made.input(&walked));
            is_civil(&words.join(" "), &output);
            let said = text(&output.stderr);
            assert!(output.status.success(), "{words:?}: {said}");
            assert!(!said.contains("pipe"), "{words:?}: {said}");
        }
    }
}

#[test]
fn with_nobody_to_tell_a_command_ends_as_it_would() {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for walked in commands().iter().filter(|walked| walked.is_leaf()) {
        let made = Everything { directory: tempfile::tempdir().unwrap() };
        for wrong in [None, Some("--no-such-flag")] {
            let mut words = made.arguments(walked, &Names::all("missing/deeper")).unwrap();
            words.extend(wrong.map(str::to_owned));
            let told = made.run(&words, made.input(walked)).status.code();
            let _ = fs::remove_dir_all(made.path("missing"));
            let _ = fs::remove_dir_all(made.path("home"));
            let child = made.burn(&words).stdout(closed()).stderr(closed()).spawn().unwrap();
            let untold = finish(child, made.input(walked)).status;
            assert!(untold.code() == told || untold.success(), "{words:?}: {told:?}, unheard {untold}");
            let _ = fs::remove_dir_all(made.path("missing"));
            let _ = fs::remove_dir_all(made.path("home"));
        }
    }
}

/// Commands that create a missing store on purpose.
const MAKES: [&str; 6] = [
    "journal append",
    "session append",
    "session import",
    "book init",
    "dev generate-ledger",
    "ledger append",
];

#[test]
fn names_that_are_wrong_are_named_with_a_remedy() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    fs::write(made.path("file"), "no store\n").unwrap();
    fs::create_dir(made.path("empty")).unwrap();
    for walked in commands().iter().filter(|walked| walked.is_leaf()) {
        let name = walked.name();
        for wrong in ["missing/deeper", "file", "file/inside"] {
            let is_path = ["session", "book", "journal"].contains(&walked.path[0].as_str())
                || ["dev generate-ledger", "ledger merge"].contains(&name.as_str());
            // If the command names no path, it uses the home.
            let mut burn = made.burn(&made.arguments(walked, &Names::all(wrong)).unwrap());
            if !is_path {
                burn.env("RELAYBURN_HOME", made.path(wrong));
            }
            let output = finish(burn.spawn().unwrap(), made.input(walked));
            let (said, code) = (text(&output.stderr), output.status.code());
            let what = format!("{name} with {wrong}: {code:?} {said}{}", text(&output.stdout));
            is_civil(&what, &output);
            let makes_it = MAKES.contains(&name.as_str());
            // A missing home counts as empty.
            let may_do = !wrong.starts_with("file") && (makes_it || !is_path)
                || ["completions", "man", "dev price", "dev sqlite-options"].contains(&name.as_str())
                // A ledger may consist of damaged lines, which are named and kept.
                || name == "ledger merge" && wrong == "file";
            if may_do {
                continue;
            }
            assert_eq!(code, Some(1), "{what}");
            // The message names the path, or the part of it that is in the way.
            assert!(said.contains(wrong.split('/').next().unwrap()), "{what}");
            assert!(said.contains("; ") || said.contains(": move it away"), "no remedy: {what}");
            assert_eq!(fs::read_to_string(made.path("file")).unwrap(), "no store\n", "{what}");
        }
        if !MAKES.contains(&name.as_str()) {
            assert!(!made.path("missing").join("deeper").join("books").exists(), "{name} makes a store");
        }
        let _ = fs::remove_dir_all(made.path("missing"));
    }
}

#[test]
fn an_empty_home_is_told_of_plainly() {
    for walked in commands().iter().filter(|walked| walked.is_leaf()) {
        let made = Everything { directory: tempfile::tempdir().unwrap() };
        let is_of_the_home = ["state", "ledger", "query"].contains(&walked.path[0].as_str());
        if !is_of_the_home || walked.name() == "ledger merge" {
            continue;
        }
        let words = made.arguments(walked, &Names::sound()).unwrap();
        let output = made.run(&words, "");
        is_civil(&walked.name(), &output);
        let said = text(&output.stderr);
        // Turns are read from the archive, so the archive must be built once.
        let is_told = walked.name() == "query" && said.contains("`burn state rebuild archive` builds it");
        assert!(output.status.success() || is_told, "{words:?}: {said}");
    }
}

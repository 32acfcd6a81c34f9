//! Damaged, cut and replaced files: with any files in a home or a store, every command does its work or ends with a
//! message that names the file. No command panics, and none reports damage as wrong usage.
//!
//! `BURN_TEST_SCALE` multiplies the amount of damage, `BURN_TEST_SEED` changes the places.
#![cfg(unix)]

use crate::common;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::everything::{Everything, Names, Walked, commands, files_in, is_civil};

/// Deterministic.
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % count
    }
}

fn copy(from: &Path, to: &Path) {
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700)
        .recursive(true)
        .create(to)
        .unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copied = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &copied) } else { fs::copy(&path, copied).map(drop).unwrap() }
    }
}

/// Commands that use files of this directory, each with its words.
fn commands_for<'w>(root: &str, all: &'w [Walked]) -> Vec<&'w Walked> {
    let is_for = |walked: &&Walked| {
        let first = walked.path.first().map_or("", String::as_str);
        walked.is_leaf()
            && match root {
                "home" => ["state", "ledger", "query"].contains(&first) || walked.name() == "journal drain",
                other => first == other,
            }
    };
    all.iter().filter(is_for).collect()
}

enum Damage {
    Flip { at: usize },
    Cut { to: usize },
    Zeros { from: usize },
    Tail,
    Directory,
}

fn damage(path: &Path, kind: &Damage) {
    let mut bytes = fs::read(path).unwrap();
    match kind {
        Damage::Flip { at } => bytes[*at] ^= 0x41,
        Damage::Cut { to } => bytes.truncate(*to),
        Damage::Zeros { from } => bytes[*from..].fill(0),
        Damage::Tail => bytes.extend_from_slice(b"\xFF{\"v\":1,\0"),
        Damage::Directory => {
            fs::remove_file(path).unwrap();
            return fs::create_dir(path).unwrap();
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_of_any_file_ends_in_words() {
    let sound = Everything::new();
    // Also a store of the queued records.
    assert!(sound.run(&["journal", "drain"], "").status.success());
    let all = commands();
    let mut jobs: Vec<(PathBuf, String, Damage)> = Vec::new();
    let seed = std::env::var("BURN_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ seed);
    for root in ["home", "session", "book", "journal"] {
        let mut files = Vec::new();
        files_in(&sound.path(root), &mut files);
        files.sort();
        for file in files {
            let name = file.strip_prefix(sound.directory.path()).unwrap().to_owned();
            let len = fs::metadata(&file).unwrap().len() as usize;
            let mut push = |kind| jobs.push((name.clone(), root.to_owned(), kind));
            push(Damage::Directory);
            push(Damage::Tail);
            for _ in 0..common::scale().min(len) {
                push(Damage::Flip { at: random.below(len) });
                push(Damage::Cut { to: random.below(len) });
                push(Damage::Zeros { from: random.below(len) });
            }
        }
    }
    let runs = std::sync::atomic::AtomicUsize::new(0);
    common::in_parallel(&jobs, |(name, root, kind)| {
        let what = match kind {
            Damage::Flip { at } => format!("byte {at} of {} flipped", name.display()),
            Damage::Cut { to } => format!("{} cut to {to} bytes", name.display()),
            Damage::Zeros { from } => format!("{} zeros from byte {from}", name.display()),
            Damage::Tail => format!("more behind {}", name.display()),
            Damage::Directory => format!("a directory for {}", name.display()),
        };
        let mut names = Names::sound();
        for walked in commands_for(root, &all) {
            // A fresh copy for each command, because many commands repair what they find.
            let made = Everything { directory: tempfile::tempdir().unwrap() };
            copy(&sound.path(root), &made.path(root));
            damage(&made.path("").join(name), kind);
            let journal = if root == "home" { "home/journal" } else { "journal" };
            journal.clone_into(&mut names.journal);
            let words = made.arguments(walked, &names).unwrap();
            for json in [false, true] {
                if json && !walked.has_flag("json") {
                    continue;
                }
                let words = [words.clone(), vec!["--json".to_owned(); usize::from(json)]].concat();
                let _ = fs::remove_file(made.path("new"));
                let output = made.run(&words, made.input(walked));
                runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let said = String::from_utf8_lossy(&output.stderr);
                let shown = String::from_utf8_lossy(&output.stdout);
                let what = format!("{}, {what}", words.join(" "));
                is_civil(&what, &output);
                assert_ne!(output.status.code(), Some(2), "{what}: {said}");
                if output.status.code() == Some(1) {
                    assert!(!said.is_empty() || !shown.is_empty(), "{what}: failed without a word");
                }
                // An array has no place for the failure, so it is left open.
                let is_open = walked.path[0] == "query" && output.status.code() == Some(1);
                if json && !shown.is_empty() && !is_open {
                    serde_json::from_str::<serde_json::Value>(&shown)
                        .unwrap_or_else(|error| panic!("{what}: {error}: {shown}"));
                }
                if output.status.code() == Some(1) && said.contains("burn: ") {
                    let names_it = [
                        "/",
                        "ledger",
                        "segment",
                        "journal",
                        "session",
                        "book",
                        "account",
                        "entry",
                        "transaction",
                    ]
                    .iter()
                    .any(|word| said.contains(word));
                    assert!(names_it, "{what}: {said}");
                    if std::env::var_os("BURN_TEST_SHOW").is_some() {
                        println!("{what}\n    {}", said.trim_end().replace('\n', "\n    "));
                    }
                }
            }
        }
    });
    println!("{} kinds of damage, {runs:?} commands", jobs.len());
    assert!(jobs.len() > 100, "{} kinds of damage", jobs.len());
}

#[test]
fn a_negative_number_in_the_archive_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let burn = |args: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_burn"))
            .args(args)
            .env("RELAYBURN_HOME", directory.path())
            .output()
            .unwrap()
    };
    fs::write(directory.path().join("ledger.jsonl"), "  \n").unwrap();
    assert!(burn(&["state", "rebuild", "archive"]).status.success());
    let archive = rusqlite::Connection::open(directory.path().join("archive.sqlite")).unwrap();
    archive.execute("UPDATE archive_state SET ledger_offset_bytes = -5", []).unwrap();
    archive.close().unwrap();
    let status = burn(&["state", "status"]);
    let told = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
    assert!(
        told.contains("lacks 3 bytes of the ledger") && told.contains("0 of 3 bytes in the archive"),
        "{told}"
    );
}

//! Compares appends with those of the TypeScript package: the same batches through the command line give the same files
//! in the home, byte for byte.
//!
//! Cases come from `fixtures/append` and from the folder `append` of `BURN_GOLDEN` (by default `../shared/golden`).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use relayburn_ledger::scan::json::{Document, Value};

fn cases(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::env::var_os("BURN_GOLDEN").map_or(root.join("../shared/golden"), PathBuf::from);
    let mut cases = Vec::new();
    for parent in [root.join("fixtures").join(folder), golden.join(folder)] {
        match fs::read_dir(&parent) {
            Ok(entries) => cases.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => println!("{} is not there: its cases are not run", parent.display()),
        }
    }
    cases
}

fn append(home: &Path, kind: &str, lines: &str) {
    let mut burn = Command::new(env!("CARGO_BIN_EXE_burn"))
        // The reference accepts any time, count and text.
        .args(["ledger", "append", "--lenient", "--kind", kind])
        .env("RELAYBURN_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    burn.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(burn.wait().unwrap().success(), "{kind}: {lines}");
}

fn burn(home: &Path, args: &[&str]) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_burn")).args(args).env("RELAYBURN_HOME", home).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
}

/// The files of a home by name, without the files that only this program keeps.
fn files(home: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![home.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if !path.ends_with("ledger.idx.sorted") {
                let name = path.strip_prefix(home).unwrap().to_owned();
                found.insert(name, String::from_utf8(fs::read(&path).unwrap()).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_batch_leaves_the_same_bytes() {
    let cases = cases("append");
    assert!(!cases.is_empty());
    for case in &cases {
        let home = tempfile::tempdir().unwrap();
        for op in fs::read_to_string(case.join("ops.jsonl")).unwrap().lines() {
            let mut document = Document::default();
            let op = document.parse(op.as_bytes()).unwrap();
            let kind = match op.get("op").and_then(Value::as_str).as_deref() {
                // The reference drops its caches here; each run of ours starts without caches.
                None => continue,
                Some("rebuildIndex") => {
                    burn(home.path(), &["state", "rebuild", "index"]);
                    continue;
                }
                Some("appendTurns") => "turns",
                Some("appendCompactions") => "compactions",
                Some("appendRelationships") => "relationships",
                Some("appendToolResultEvents") => "tool-result-events",
                Some("appendUserTurns") => "user-turns",
                Some("appendContent") => "content",
                Some("appendStamp") => "stamp",
                Some(other) => panic!("{}: unknown operation {other}", case.display()),
            };
            let records = op.get("records").into_iter().flat_map(Value::items);
            let lines: String = records.chain(op.get("line")).map(|record| format!("{record}\n")).collect();
            append(home.path(), kind, &lines);
        }
        assert_eq!(files(home.path()), files(&case.join("home")), "{}", case.display());
        burn(home.path(), &["ledger", "check"]);
        let before = files(home.path());
        burn(home.path(), &["state", "rebuild", "index"]);
        let mut after = files(home.path());
        // A rebuild writes both files, even if there are no fingerprints.
        after.retain(|name, content| before.contains_key(name) || !content.is_empty());
        assert_eq!(after, before, "{}", case.display());
    }
    println!("{} cases of appends", cases.len());
}

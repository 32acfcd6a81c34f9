//! Compares appends with those of the TypeScript package: the same batches through the command line give the same files
//! in the home, byte for byte.
//!
//! Cases come from `fixtures/append` and from the folder `append` of `BURN_GOLDEN` (by default `../shared/golden`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use relayburn_ledger::scan::json::{Document, Value};

use crate::common::everything::{files_in, finish};
use crate::common::{fixture, golden, processes};

fn cases() -> Vec<PathBuf> {
    let folders = [Some(fixture("append")), golden().map(|golden| golden.join("append"))];
    let entries = folders.into_iter().flatten().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn append(home: &Path, kind: &str, lines: &str) {
    let mut append = processes::burn(home);
    // The reference accepts any time, count and text.
    append
        .args(["ledger", "append", "--lenient", "--kind", kind])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let output = finish(append.spawn().unwrap(), lines);
    assert!(output.status.success(), "{kind}: {lines}");
}

fn burn(home: &Path, args: &[&str]) {
    let output = processes::burn(home).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
}

/// The files of a home by name, without the files that only this program keeps.
fn files(home: &Path) -> BTreeMap<PathBuf, String> {
    let mut paths = Vec::new();
    files_in(home, &mut paths);
    paths.retain(|path| !path.ends_with("ledger.idx.sorted"));
    let file =
        |path: PathBuf| (path.strip_prefix(home).unwrap().to_owned(), fs::read_to_string(&path).unwrap());
    paths.into_iter().map(file).collect()
}

#[test]
fn every_batch_leaves_the_same_bytes() {
    let cases = cases();
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

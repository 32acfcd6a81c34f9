//! The journal against torn writes, flipped bits, lost files, failing disks, power cuts and a model.

#![allow(clippy::unwrap_used)]

mod damage;
mod faults;
mod model;
mod writing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::format::{EncodedRecord, MAX_OFFSET};
use super::*;

/// Options with segments so small that a few records fill one.
fn small_segments(max_segment_bytes: u64) -> JournalOptions {
    JournalOptions { max_segment_bytes, ..JournalOptions::default() }
}

/// Opens a journal for a caller that does not need the report.
fn open_with(directory: &Path, options: JournalOptions) -> Result<Journal> {
    Ok(open(directory, &options)?.0)
}

/// A payload that tells its number, of a length that follows from it.
fn payload(number: usize) -> Vec<u8> {
    let mut payload = format!("record {number} ").into_bytes();
    payload.extend((0..number * 7 % 23).map(|i| (i * number) as u8));
    payload
}

/// Appends `count` records and closes; answers their offsets and payloads.
fn filled(directory: &Path, count: usize, max_segment_bytes: u64) -> BTreeMap<u64, Vec<u8>> {
    let journal = open_with(directory, small_segments(max_segment_bytes)).unwrap();
    let records =
        (0..count).map(|number| (journal.append(&payload(number)).unwrap(), payload(number))).collect();
    journal.close().unwrap();
    records
}

/// A directory with a journal of `count` records; answers their offsets and payloads, too.
fn journal_of(count: usize, max_segment_bytes: u64) -> (tempfile::TempDir, BTreeMap<u64, Vec<u8>>) {
    let directory = tempfile::tempdir().unwrap();
    let records = filled(directory.path(), count, max_segment_bytes);
    (directory, records)
}

/// Everything a reader finds, from the start on.
fn read_all(directory: &Path) -> BTreeMap<u64, Vec<u8>> {
    let mut reader = JournalReader::open(directory).unwrap();
    let mut offset = reader.start();
    let mut records = BTreeMap::new();
    while let Some(record) = reader.read(offset).unwrap() {
        records.insert(record.offset, record.payload.to_vec());
        offset = record.next_offset;
    }
    assert_eq!(reader.end().unwrap(), reader_end(directory));
    records
}

fn reader_end(directory: &Path) -> u64 {
    status(directory).unwrap().end
}

/// Path and content of every file but the lock.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else if !path.ends_with("LOCK") {
            files.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    files
}

fn copy_of(files: &BTreeMap<PathBuf, Vec<u8>>, from: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let target = copy.path().join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, content).unwrap();
    }
    copy
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    status(directory).unwrap().segments.iter().map(|segment| directory.join(segment.file_name())).collect()
}

/// The segment files by name, for directories that cannot be opened.
fn segment_paths(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = snapshot(directory).into_keys().collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths
}

/// Rewrites a file.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// The base of a segment, from its name.
fn base_of(segment: impl AsRef<Path>) -> u64 {
    u64::from_str_radix(segment.as_ref().file_stem().unwrap().to_str().unwrap(), 16).unwrap()
}

fn quarantined(directory: &Path) -> Vec<Vec<u8>> {
    let quarantine = directory.join("quarantine");
    if quarantine.exists() { snapshot(&quarantine).into_values().collect() } else { Vec::new() }
}

/// A second recovery finds nothing to do and changes no byte.
fn assert_settled(directory: &Path) {
    let before = snapshot(directory);
    let report = recover(directory, OnCorruption::SetAside).unwrap();
    assert!(report.recovery.is_empty() && report.quarantined.is_empty(), "{report:?}");
    assert_eq!(snapshot(directory), before);
}

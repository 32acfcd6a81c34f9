//! What a store promises across its parts: faults, power cuts, and a generator of JSON.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::{EntryPayload, NewEntry, SessionOptions, SessionStoreV2};

#[cfg(unix)]
mod crash;
mod format;
#[cfg(unix)]
mod loss;

/// Any JSON value of moderate size.
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "\\PC{0,12}|[\"\\\\/\n\t\u{1}]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,6}", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An entry whose payload has `len_bytes` and a little more.
fn entry(id: &str, parent_id: Option<&str>, len_bytes: usize) -> NewEntry<'static> {
    NewEntry {
        id: id.to_owned().into(),
        parent_id: parent_id.map(|id| id.to_owned().into()),
        entry_type: "message".into(),
        payload: EntryPayload::from_value(&serde_json::json!({"text": "x".repeat(len_bytes)})).unwrap(),
    }
}

fn options(max_segment_bytes: u64) -> SessionOptions {
    SessionOptions { max_segment_bytes, ..SessionOptions::default() }
}

/// A directory, and the path of a store in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("s");
    (directory, root)
}

/// Opens a store for a caller that does not need the report.
fn open(root: &Path, options: &SessionOptions) -> SessionStoreV2 {
    SessionStoreV2::create(root, options).unwrap().0
}

/// Appends entries without parents.
fn fill(store: &mut SessionStoreV2, ids: &[impl AsRef<str>], len_bytes: usize) {
    ids.iter().for_each(|id| drop(store.append_entry(&entry(id.as_ref(), None, len_bytes)).unwrap()));
}

/// The ids `e0`, `e1` and so on.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("e{number}")).collect()
}

/// Every file below `root` with its content.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

//! Random stores are damaged at random, then opened: no panic, no good frame is lost, no entry of the index is dropped
//! without a request, a refusal changes nothing, a second recovery changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use relayburn_ledger::session::{
    EntryPayload, Loss, NewEntry, SessionErrorClass, SessionOptions, SessionStoreV2, Verify,
};

use crate::common::everything::files_in;

/// A damage of a file. Its numbers are taken modulo the sizes in the store.
#[derive(Debug, Clone)]
enum Damage {
    CutSegment { segment: usize, at: usize },
    FlipInSegment { segment: usize, at: usize, bit: u8 },
    ZeroInSegment { segment: usize, at: usize, len: usize },
    AppendToSegment { segment: usize, bytes: Vec<u8> },
    DropLineOfSegment { segment: usize, line: usize },
    DeleteSegment { segment: usize },
    DeleteIndex,
    CutIndex { at: usize },
    FlipInIndex { at: usize, bit: u8 },
    DropRows { from: usize, count: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let n = any::<usize>;
    prop_oneof![
        3 => (n(), n()).prop_map(|(segment, at)| Damage::CutSegment { segment, at }),
        3 => (n(), n(), 0u8..8).prop_map(|(segment, at, bit)| Damage::FlipInSegment { segment, at, bit }),
        1 => (n(), n(), 1usize..700).prop_map(|(segment, at, len)| Damage::ZeroInSegment { segment, at, len }),
        1 => (n(), prop_oneof![Just(b"\n \n".to_vec()), Just(b"{\"schema\":".to_vec()), proptest::collection::vec(any::<u8>(), 1..40)])
            .prop_map(|(segment, bytes)| Damage::AppendToSegment { segment, bytes }),
        1 => (n(), n()).prop_map(|(segment, line)| Damage::DropLineOfSegment { segment, line }),
        1 => n().prop_map(|segment| Damage::DeleteSegment { segment }),
        3 => Just(Damage::DeleteIndex),
        2 => n().prop_map(|at| Damage::CutIndex { at }),
        2 => (n(), 0u8..8).prop_map(|(at, bit)| Damage::FlipInIndex { at, bit }),
        2 => (n(), 1usize..5).prop_map(|(from, count)| Damage::DropRows { from, count }),
    ]
}

impl Damage {
    /// Returns whether the damage affects only the index.
    fn spares_segments(&self) -> bool {
        matches!(
            self,
            Self::DeleteIndex | Self::CutIndex { .. } | Self::FlipInIndex { .. } | Self::DropRows { .. }
        )
    }

    /// Returns whether the damage alters rows of the index, which may then name entries that never existed.
    fn flips_index(&self) -> bool {
        matches!(self, Self::FlipInIndex { .. })
    }

    fn apply(&self, root: &Path) {
        let index = root.join("index/offsets.jsonl");
        let segment = |number: usize| {
            let mut all: Vec<PathBuf> =
                fs::read_dir(root.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
            all.sort();
            (!all.is_empty()).then(|| all[number % all.len()].clone())
        };
        let change = |path: Option<PathBuf>, change: &dyn Fn(&mut Vec<u8>)| {
            let Some(path) = path else { return };
            let Ok(mut bytes) = fs::read(&path) else { return };
            if !bytes.is_empty() {
                change(&mut bytes);
                fs::write(path, bytes).unwrap();
            }
        };
        let cut = |path, at: usize| change(path, &|bytes| bytes.truncate(at % bytes.len()));
        let flip = |path, at: usize, bit: u8| {
            change(path, &|bytes| {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            });
        };
        match self {
            Self::CutSegment { segment: number, at } => cut(segment(*number), *at),
            Self::FlipInSegment { segment: number, at, bit } => flip(segment(*number), *at, *bit),
            Self::ZeroInSegment { segment: number, at, len } => {
                change(segment(*number), &|bytes| {
                    let at = at % bytes.len();
                    let end = bytes.len().min(at + len);
                    bytes[at..end].fill(0);
                });
            }
            Self::AppendToSegment { segment: number, bytes: more } => {
                change(segment(*number), &|bytes| bytes.extend_from_slice(more));
            }
            Self::DropLineOfSegment { segment: number, line } => {
                change(segment(*number), &|bytes| {
                    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                    lines.remove(line % lines.len());
                    *bytes = lines.concat();
                });
            }
            Self::DeleteSegment { segment: number } => {
                if let Some(path) = segment(*number) {
                    fs::remove_file(path).unwrap();
                }
            }
            Self::DeleteIndex => drop(fs::remove_file(index)),
            Self::CutIndex { at } => cut(Some(index), *at),
            Self::FlipInIndex { at, bit } => flip(Some(index), *at, *bit),
            Self::DropRows { from, count } => {
                change(Some(index), &|bytes| {
                    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                    let from = from % lines.len();
                    lines.drain(from..lines.len().min(from + count));
                    *bytes = lines.concat();
                });
            }
        }
    }
}

fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut paths = Vec::new();
    files_in(root, &mut paths);
    paths.retain(|path| !path.ends_with("store.mutation.lock"));
    let content = |path: &PathBuf| fs::read(path).unwrap();
    paths.into_iter().map(|path| (path.clone(), content(&path))).collect()
}

/// Every complete line in a file of `segments/`, with any name.
fn lines(root: &Path) -> BTreeSet<Vec<u8>> {
    let of = |bytes: &Vec<u8>| -> Vec<Vec<u8>> {
        bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    files(&root.join("segments")).values().flat_map(of).collect()
}

/// A store: for each entry the length of its payload and its parent (an earlier entry, if any).
fn build(root: &Path, entries: &[(usize, Option<usize>)], max_segment_bytes: u64) {
    let options = SessionOptions { max_segment_bytes, ..SessionOptions::default() };
    let (mut store, _) = SessionStoreV2::create(root, &options).unwrap();
    let new: Vec<NewEntry<'_>> = entries
        .iter()
        .enumerate()
        .map(|(number, (len, parent))| NewEntry {
            id: format!("e{number}").into(),
            parent_id: parent.filter(|_| number > 0).map(|parent| format!("e{}", parent % number).into()),
            entry_type: "message".into(),
            payload: EntryPayload::from_value(&"é\"x".repeat(*len)).unwrap(),
        })
        .collect();
    store.append_entries(&new).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(400, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn damaged_stores_recover_or_are_refused_untouched(
        entries in proptest::collection::vec((0usize..120, proptest::option::of(any::<usize>())), 1..14),
        max_segment_bytes in prop_oneof![Just(700u64), Just(1500), Just(1 << 20)],
        damages in proptest::collection::vec(damage(), 1..4),
        rows_only in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        build(&root, &entries, max_segment_bytes);
        let sound = lines(&root);
        damages.iter().for_each(|damage| damage.apply(&root));
        let (damaged, survivors) = (files(&root), lines(&root).intersection(&sound).cloned().collect::<BTreeSet<_>>());

        // A reader never panics and never returns an altered frame.
        let mut reader = SessionStoreV2::open_for_inspection(&root, &SessionOptions::default()).unwrap();
        if let Ok(view) = reader.view() {
            let _ = (view.validate_integrity(), view.chain_hash(), view.unindexed());
            for frame in view.read_all_entries().flatten() {
                let text = serde_json::from_str::<String>(frame.payload.get()).unwrap();
                prop_assert!(entries.iter().any(|(len, _)| text == "é\"x".repeat(*len)));
            }
            for number in 0..entries.len() {
                let _ = (view.read_active_path(&format!("e{number}")), view.lookup_entry(number as u64));
            }
        }
        prop_assert_eq!(&files(&root), &damaged);

        let verify = if rows_only { Verify::Rows } else { Verify::Full };
        let mut options = SessionOptions { max_segment_bytes, verify, ..SessionOptions::default() };
        let indexed: BTreeSet<String> = SessionStoreV2::open_for_inspection(&root, &options).unwrap()
            .view().map(|view| view.entry_ids().map(str::to_owned).collect()).unwrap_or_default();
        let mut opened = SessionStoreV2::create(&root, &options);
        match &opened {
            Err(error) if error.class() == SessionErrorClass::EntriesWouldBeLost => {
                prop_assert_eq!(&files(&root), &damaged, "refused with {}, yet changed", error);
                prop_assert!(!damages.iter().all(Damage::spares_segments), "{}", error);
                options.loss = Loss::Accept;
                opened = SessionStoreV2::create(&root, &options);
            }
            Ok((store, report)) => {
                prop_assert!(report.lost_entries.is_empty(), "{:?}", report);
                // Rows of entries that never existed come from flipped bits in the index.
                let now: BTreeSet<&str> = store.entry_ids().collect();
                for id in indexed.iter().filter(|id| id.strip_prefix('e').and_then(|number| number.parse().ok()).is_some_and(|number: usize| number < entries.len())) {
                    prop_assert!(now.contains(&**id) || damages.iter().any(Damage::flips_index), "{} left the store: {:?}", id, report);
                }
            }
            Err(_) => {}
        }
        match opened {
            Err(error) => {
                prop_assert_eq!(&files(&root), &damaged, "refused with {}, yet changed", error);
                prop_assert!(!damages.iter().all(Damage::spares_segments), "{}", error);
            }
            Ok((store, report)) => {
                drop(store);
                let after = files(&root);
                let (mut store, second) = SessionStoreV2::create(&root, &options).unwrap();
                prop_assert!(!second.changed_files(), "{:?} after {:?}", second, report);
                prop_assert_eq!(&files(&root), &after);
                // Every good frame that survived the damage is still in a file: indexed, cut away or set aside.
                let there = lines(&root);
                for line in &survivors {
                    prop_assert!(there.contains(line), "{} is gone: {:?}", String::from_utf8_lossy(line), report);
                }
                if damages.iter().all(Damage::spares_segments) {
                    prop_assert_eq!(store.row_count(), entries.len(), "{:?}", report);
                }
                // All bytes of the damaged segments are still there.
                let bytes = |files: &BTreeMap<PathBuf, Vec<u8>>| -> usize {
                    files.iter().filter(|(path, _)| path.parent().unwrap().ends_with("segments")).map(|(_, bytes)| {
                        // Blank lines are not kept. A vertical tab is blank too.
                        bytes.iter().filter(|byte| !byte.is_ascii_whitespace() && **byte != 0x0b).count()
                    }).sum()
                };
                prop_assert_eq!(bytes(&after), bytes(&damaged));
                let head = store.head().map(|head| head.entry_id);
                store.append_entry(&NewEntry {
                    id: "probe".into(),
                    parent_id: head.map(Into::into),
                    entry_type: "custom".into(),
                    payload: EntryPayload::from_value(&"probe").unwrap(),
                }).unwrap();
                if !rows_only {
                    store.validate_integrity().unwrap();
                }
            }
        }
    }
}

/// Flips one bit in every byte of a small store: it is opened, or refused without a change.
#[test]
fn every_byte_of_a_small_store_may_flip() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    build(&root, &[(3, None), (5, Some(0)), (2, Some(1))], 700);
    let sound = files(&root);
    for (path, bytes) in &sound {
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(path, &flipped).unwrap();
            let damaged = files(&root);
            let is_index = path.ends_with("index/offsets.jsonl");
            match SessionStoreV2::create(&root, &SessionOptions::default()) {
                Ok((store, _)) => {
                    assert!(!is_index || store.row_count() == 3, "byte {at} of {path:?}")
                }
                Err(error) => {
                    assert!(!is_index, "byte {at} of the index: {error}");
                    assert_eq!(files(&root), damaged, "byte {at} of {path:?}: {error}");
                }
            }
            fs::remove_dir_all(&root).unwrap();
            for (path, bytes) in &sound {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
    }
}

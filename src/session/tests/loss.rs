//! Damage of stores whose index is whole, and what killed writers left: nothing acknowledged leaves the store unasked, and
//! what is left half-done disturbs nobody.

use std::fs;
use std::path::Path;

use super::{entry, files, open, options, place};
use crate::disk::faults::{Fault, Harness};
use crate::session::{Loss, SessionError, SessionErrorClass, SessionOptions, SessionStoreV2};
use crate::store::Durability;

/// Entries `e1` to `e<count>`.
fn store_of(root: &Path, options: &SessionOptions, count: usize) {
    let mut store = open(root, options);
    let entries: Vec<_> = (1..=count).map(|number| entry(&format!("e{number}"), None, 60)).collect();
    store.append_entries(&entries).unwrap();
}

fn segment(root: &Path, number: u64) -> std::path::PathBuf {
    root.join(format!("segments/{number:016}.seg"))
}

fn replace_once(path: &Path, from: &str, to: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let at = text.find(from).unwrap();
    fs::write(path, text.replacen(from, to, 1)).unwrap();
    text[..at].rfind('\n').map_or(0, |end| end as u64 + 1)
}

#[test]
fn one_flipped_digit_drops_no_entry_unless_it_is_asked_for() {
    for lose_index in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let refusing = options(1 << 20);
        store_of(root, &refusing, 1000);
        let line = replace_once(&segment(root, 1), "\"frameSeq\":10,", "\"frameSeq\":11,");
        if lose_index {
            fs::write(root.join("index/offsets.jsonl"), "{\"torn").unwrap();
        }
        let before = files(root);
        match SessionStoreV2::create(root, &refusing).unwrap_err() {
            SessionError::EntriesWouldBeLost { path, offset, count, reason } => {
                assert_eq!((path, offset, count), (segment(root, 1), line, 991));
                assert_eq!(reason, "frameSeq is 11, 10 was expected");
            }
            other => panic!("{other}"),
        }
        assert_eq!(files(root), before, "a refusal changes nothing");

        let accepting = SessionOptions { loss: Loss::Accept, ..refusing.clone() };
        let (store, report) = SessionStoreV2::create(root, &accepting).unwrap();
        assert_eq!(store.row_count(), 9);
        assert_eq!(report.lost_entries.len(), if lose_index { 0 } else { 991 });
        assert_eq!(report.recovery.truncated[0].reason, "frameSeq is 11, 10 was expected");
        let saved = root.join(report.recovery.truncated[0].saved_as.as_ref().unwrap());
        assert_eq!(fs::read(saved).unwrap(), before[&segment(root, 1)][line as usize..]);
        drop(store);
        assert!(!SessionStoreV2::create(root, &refusing).unwrap().1.changed_files());
    }
}

#[test]
fn segments_that_end_before_the_index_does_are_not_taken_for_the_truth() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    store_of(root, &options(1 << 20), 5);
    let text = fs::read_to_string(segment(root, 1)).unwrap();
    fs::write(segment(root, 1), text.split_inclusive('\n').take(3).collect::<String>()).unwrap();
    let error = SessionStoreV2::create(root, &options(1 << 20)).unwrap_err();
    assert!(matches!(error, SessionError::EntriesWouldBeLost { count: 2, .. }), "{error}");
    let accepting = SessionOptions { loss: Loss::Accept, ..options(1 << 20) };
    let lost = SessionStoreV2::create(root, &accepting).unwrap().1.lost_entries;
    assert_eq!(lost.iter().map(|lost| lost.entry_seq).collect::<Vec<_>>(), [4, 5]);
}

/// An altered row is the index's fault: no entry is lost, whatever it says.
#[test]
fn an_altered_row_is_no_lost_entry() {
    for (from, to) in [
        ("\"entrySeq\":4,", "\"entrySeq\":6,"),
        ("\"entryId\":\"e4\"", "\"entryId\":\"e9\""),
        ("\"frameSeq\":4,", "\"frameSeq\":5,"),
        ("\"segmentSeq\":1,", "\"segmentSeq\":3,"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        store_of(directory.path(), &options(1 << 20), 5);
        replace_once(&directory.path().join("index/offsets.jsonl"), from, to);
        let (store, report) = SessionStoreV2::create(directory.path(), &options(1 << 20)).unwrap();
        assert_eq!(store.row_count(), 5, "{to}");
        assert!(report.index_rebuilt && report.lost_entries.is_empty(), "{to}: {report:?}");
    }
}

#[test]
fn a_stray_segment_of_the_highest_number_leaves_the_others_alone() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let options = options(400);
    store_of(root, &options, 4);
    let stray = segment(root, u64::MAX);
    fs::write(&stray, "stray\n").unwrap();
    let before = files(root);
    let (mut store, report) = SessionStoreV2::create(root, &options).unwrap();
    assert_eq!(store.row_count(), 4);
    assert!(report.recovery.set_aside.is_empty(), "{report:?}");
    for (path, bytes) in before.iter().filter(|(path, _)| **path != stray) {
        assert_eq!(&fs::read(path).unwrap(), bytes, "{}", path.display());
    }
    assert_eq!(fs::read(root.join("segments/18446744073709551615.seg.cut")).unwrap(), b"stray\n");
    store.append_entry(&entry("next", None, 10)).unwrap();
}

#[test]
fn a_stray_line_behind_a_sealed_segment_is_set_aside_when_it_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let refusing = options(900);
    store_of(root, &refusing, 8);
    let sound = files(root);
    let sealed = segment(root, 1);
    let mut bytes = sound[&sealed].clone();
    bytes.extend_from_slice(b"what is this\n");
    fs::write(&sealed, &bytes).unwrap();
    let (store, report) = SessionStoreV2::create(root, &refusing).unwrap();
    assert!(!report.changed_files() && report.unindexed.len() == 1, "{report:?}");
    drop(store);
    let (store, report) =
        SessionStoreV2::create(root, &SessionOptions { loss: Loss::Accept, ..refusing }).unwrap();
    assert!(report.unindexed.is_empty() && report.lost_entries.is_empty(), "{report:?}");
    assert_eq!(store.row_count(), 8);
    assert!(store.unindexed().unwrap().is_empty());
    let mut after = files(root);
    assert_eq!(after.remove(&root.join("segments/0000000000000001.seg.cut")).unwrap(), b"what is this\n");
    assert_eq!(after, sound);
}

#[test]
fn an_altered_schema_is_damage_where_the_index_knows_better() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    store_of(root, &options(1 << 20), 3);
    replace_once(
        &segment(root, 1),
        "segment_frame.v1\",\"segmentSeq\":1,\"frameSeq\":2",
        "segment_frame.v3\",\"segmentSeq\":1,\"frameSeq\":2",
    );
    let error = SessionStoreV2::create(root, &options(1 << 20)).unwrap_err();
    assert_eq!(error.class(), SessionErrorClass::SegmentFrameCorrupt, "{error}");
    assert!(error.to_string().contains("CRC-32C") && !error.to_string().contains("newer"), "{error}");
    // Without the index nobody can tell.
    fs::remove_file(root.join("index/offsets.jsonl")).unwrap();
    let error = SessionStoreV2::create(root, &options(1 << 20)).unwrap_err();
    assert_eq!(error.class(), SessionErrorClass::UnsupportedSchema, "{error}");
}

/// A full disk stops recovery; readers go on with the rows that were there.
#[test]
fn a_recovery_that_fails_leaves_no_half_row_to_readers() {
    let mut failed = 0;
    for fail_at in 0.. {
        let (_directory, root) = place();
        store_of(&root, &options(1 << 20), 4);
        let index = root.join("index/offsets.jsonl");
        let rows = fs::read_to_string(&index).unwrap();
        fs::write(&index, rows.split_inclusive('\n').take(2).collect::<String>()).unwrap();
        let harness = Harness::failing(Fault::PartialWrite, fail_at);
        let opened = harness.run(|| SessionStoreV2::create(&root, &options(1 << 20)).map(drop));
        let mut reader = SessionStoreV2::open_for_inspection(&root, &options(1 << 20)).unwrap();
        let shown = reader.view().unwrap_or_else(|error| panic!("{harness:?}: {error}")).row_count();
        if opened.is_ok() {
            assert_eq!(shown, 4);
            break;
        }
        assert_eq!(shown, 2, "{harness:?}");
        failed += 1;
    }
    assert!(failed > 0);
}

/// "This id is taken" must not be forgotten by a power cut: its writer was killed before it synced anything.
#[test]
fn what_a_killed_writer_did_not_sync_is_durable_before_it_is_answered_from() {
    let (directory, root) = place();
    let options = SessionOptions { durability: Durability::Os, ..options(1 << 20) };
    store_of(&root, &options, 1);
    let scratch = tempfile::tempdir().unwrap();
    let two = scratch.path().join("s");
    store_of(&two, &options, 2);
    // The second entry with its row, as a writer leaves them that never syncs.
    let harness = Harness::recording(directory.path());
    let mut answered = usize::MAX;
    harness.run(|| {
        for name in ["segments/0000000000000001.seg", "index/offsets.jsonl"] {
            let whole = fs::read(two.join(name)).unwrap();
            let file = crate::disk::File::create_new(&root.join(name).with_extension("new")).unwrap();
            file.write_all(&whole).unwrap();
            crate::disk::rename(file.path(), &root.join(name)).unwrap();
        }
        let (mut store, report) = SessionStoreV2::create(&root, &options).unwrap();
        assert!(!report.changed_files(), "{report:?}");
        let refused = store.append_entry(&entry("e2", None, 60)).unwrap_err();
        assert_eq!(refused.class(), SessionErrorClass::DuplicateEntryId);
        answered = harness.events();
    });
    let mut images = 0;
    harness.each_image(|image| {
        if image.after_events() >= answered {
            images += 1;
            let mut reader = SessionStoreV2::open_for_inspection(image.path().join("s"), &options).unwrap();
            let view = reader.view().unwrap_or_else(|error| panic!("{image}: {error}"));
            assert_eq!(view.entry_ids().collect::<Vec<_>>(), ["e1", "e2"], "{image}");
            view.validate_integrity().unwrap_or_else(|error| panic!("{image}: {error}"));
        }
    });
    assert!(images > 0);
}

#[test]
fn a_path_is_read_an_entry_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path(), &options(900));
    for (id, parent) in [("a", None), ("b", Some("a")), ("c", None), ("d", Some("b"))] {
        store.append_entry(&entry(id, parent, 60)).unwrap();
    }
    let view = &*store;
    for (leaf, wanted) in [("d", &["a", "b", "d"][..]), ("c", &["c"]), ("nope", &[])] {
        let path = view.read_active_path(leaf).unwrap();
        assert_eq!(path.len(), wanted.len());
        assert_eq!(path.map(|frame| frame.unwrap().entry_id).collect::<Vec<_>>(), wanted);
    }
    assert_eq!(view.read_active_path("d").unwrap().len(), 3);
}

#[test]
fn a_store_behind_a_link_is_as_private_as_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (root, link) = (directory.path().join("s"), directory.path().join("link"));
    store_of(&root, &options(900), 1);
    std::os::unix::fs::symlink(&root, &link).unwrap();
    let (store, report) = SessionStoreV2::create(&link, &options(900)).unwrap();
    assert!(report.wide_directories.is_empty(), "{report:?}");
    drop(store);
    let wide = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&root, wide).unwrap();
    let (_, report) = SessionStoreV2::create(&link, &options(900)).unwrap();
    assert_eq!(report.wide_directories.len(), 1, "{report:?}");
}

#[test]
fn blanks_after_the_last_entry_are_no_unfinished_write() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    store_of(root, &options(1 << 20), 2);
    let sound = fs::read(segment(root, 1)).unwrap();
    for (tail, findings) in [("\n \t\r\n", 0), ("\n x", 1)] {
        fs::write(segment(root, 1), [&sound, tail.as_bytes()].concat()).unwrap();
        let check = crate::session::check(root).unwrap();
        assert_eq!(check.findings.len(), findings, "{check:?}");
        assert!(check.ok);
    }
}

//! Power cuts and failing operations: what was acknowledged is there, nothing else is, a second recovery changes nothing.

use std::path::Path;

use super::{entry, files, fill, names, open, options, place};
use crate::disk::faults::{Harness, Image, Survival, each_failure};
use crate::session::{
    Loss, MigrationEvent, NewEntry, SessionError, SessionErrorClass, SessionOptions, SessionStoreV2,
};
use crate::store::Durability;

/// Opens an image twice: the second time nothing changes. Answers the ids and the store.
fn recover(
    image: &Path,
    options: &SessionOptions,
    told: &dyn std::fmt::Display,
) -> (Vec<String>, SessionStoreV2) {
    let (store, _) = SessionStoreV2::create(image, options).unwrap_or_else(|error| panic!("{told}: {error}"));
    drop(store);
    let after = files(image);
    let (store, report) =
        SessionStoreV2::create(image, options).unwrap_or_else(|error| panic!("{told}, again: {error}"));
    assert!(!report.changed_files(), "{told}: {report:?}");
    assert_eq!(files(image), after, "{told}");
    store.validate_integrity().unwrap_or_else(|error| panic!("{told}: {error}"));
    let ids = store.entry_ids().map(str::to_owned).collect();
    (ids, store)
}

/// What `scenario` acknowledged, as (events recorded by then, number of entries).
struct AcknowledgedEntries(Vec<(usize, usize)>);

impl AcknowledgedEntries {
    fn at(&self, image: &Image) -> usize {
        let known = self.0.iter().filter(|(events, _)| *events <= image.after_events());
        known.map(|(_, entries)| *entries).max().unwrap_or(0)
    }
}

/// Every image must hold a prefix of `all` that is at least what was acknowledged.
fn check_images(
    harness: &Harness,
    acknowledged: &AcknowledgedEntries,
    options: &SessionOptions,
    all: &[String],
) {
    let mut images = 0;
    harness.each_image(|image| {
        let (ids, mut store) = recover(&image.path().join("s"), options, image);
        assert!(
            ids.len() >= acknowledged.at(image),
            "{image}: {} acknowledged, {ids:?} there",
            acknowledged.at(image)
        );
        assert_eq!(ids, all[..ids.len()], "{image}");
        let next = entry("next", ids.last().map(String::as_str), 3);
        store.append_entry(&next).unwrap_or_else(|error| panic!("{image}: {error}"));
        images += 1;
    });
    assert!(images > 50, "{images}");
}

/// Cuts the power at every moment of `scenario`, which tells how many entries are acknowledged.
fn cut_everywhere(
    options: &SessionOptions,
    all: &[String],
    scenario: impl FnOnce(&Path, &mut dyn FnMut(usize)),
) {
    let (directory, root) = place();
    let harness = Harness::recording(directory.path());
    let mut acknowledged = AcknowledgedEntries(Vec::new());
    harness.run(|| scenario(&root, &mut |entries| acknowledged.0.push((harness.events(), entries))));
    check_images(&harness, &acknowledged, options, all);
}

#[test]
fn appends_and_rotations_survive_a_power_cut_at_any_point() {
    let (options, all) = (options(2500), names(7));
    cut_everywhere(&options, &all, |root, acknowledge| {
        let mut store = open(root, &options);
        let mut parent: Option<&str> = None;
        for (done, id) in all.iter().enumerate() {
            store.append_entry(&entry(id, parent, 900)).unwrap();
            acknowledge(done + 1);
            parent = Some(id);
        }
    });
}

#[test]
fn groups_survive_a_power_cut_at_any_point() {
    let (options, all) = (SessionOptions { durability: Durability::Os, ..options(4000) }, names(9));
    cut_everywhere(&options, &all, |root, acknowledge| {
        let mut store = open(root, &options);
        for (done, id) in all.iter().enumerate() {
            store.append_entry(&entry(id, None, 700)).unwrap();
            if done % 3 == 2 {
                store.sync().unwrap();
                acknowledge(done + 1);
            }
        }
    });
}

#[test]
fn a_group_into_an_empty_store_survives_a_power_cut_at_any_point() {
    let (options, all) = (options(3000), names(6));
    cut_everywhere(&options, &all, |root, acknowledge| {
        let mut store = open(root, &options);
        let entries: Vec<NewEntry<'_>> = all.iter().map(|id| entry(id, None, 800)).collect();
        store.append_entries(&entries).unwrap();
        acknowledge(all.len());
    });
}

/// What a failed group wrote and synced must not come back under or behind what is written in its place.
#[test]
fn what_follows_a_failed_group_survives_a_power_cut_at_any_point() {
    for before in [0, 1] {
        let (directory, root) = place();
        let options = options(2500);
        let harness = Harness::recording(directory.path());
        let old = &names(1)[..before];
        let with =
            |more: &[&str]| [old, &more.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()].concat();
        let (group, after) = (with(&["g0", "g1", "g2", "g3", "g4"]), with(&["after"]));
        let mut done = usize::MAX;
        harness.run(|| {
            let mut store = open(&root, &options);
            fill(&mut store, old, 900);
            let mut entries: Vec<_> = group[before..].iter().map(|id| entry(id, None, 900)).collect();
            entries.push(entry("bad", Some("ghost"), 1));
            store.append_entries(&entries).unwrap_err();
            store.append_entry(&entry("after", None, 800)).unwrap();
            done = harness.events();
        });
        harness.each_image(|image| {
            let (ids, _) = recover(&image.path().join("s"), &options, image);
            if image.after_events() >= done {
                assert_eq!(ids, after, "{image}");
            } else {
                assert!(group.starts_with(&ids) || ids == after, "{image}: {ids:?}");
            }
        });
    }
}

/// Six entries of which each but the last names the next as its parent.
fn backwards(all: &[String]) -> Vec<NewEntry<'static>> {
    all.iter().enumerate().map(|(at, id)| entry(id, all.get(at + 1).map(String::as_str), 700)).collect()
}

#[test]
fn an_import_is_there_wholly_or_not_at_all_after_a_power_cut() {
    for before in [0, 2] {
        let (directory, root) = place();
        let options = options(2500);
        fill(&mut open(&root, &options), &["old0", "old1"][..before], 300);
        let harness = Harness::recording(directory.path());
        let mut done = usize::MAX;
        harness.run(|| {
            let mut store = open(&root, &options);
            store.import(&backwards(&names(6))).unwrap();
            done = harness.events();
        });
        let (mut with, mut without) = (0, 0);
        harness.each_image(|image| {
            let (ids, mut store) = recover(&image.path().join("s"), &options, image);
            if ids.len() == before {
                without += 1;
                assert!(image.after_events() < done, "{image}");
            } else {
                with += 1;
                assert_eq!(ids[before..], names(6), "{image}");
            }
            assert!(!image.path().join("s/tmp/import.intent.json").exists(), "{image}");
            store.append_entry(&entry("next", ids.last().map(String::as_str), 3)).unwrap();
        });
        assert!(with > 3 && without > 20, "{with} {without}");
    }
}

#[test]
fn a_failing_import_is_there_wholly_or_not_at_all() {
    each_failure(|harness| {
        let (_directory, root) = place();
        let options = options(2000);
        fill(&mut open(&root, &options), &["old"], 700);
        let grouped = SessionOptions { durability: Durability::Os, ..options.clone() };
        let told = harness.run(|| {
            let (mut store, _) = SessionStoreV2::create(&root, &grouped).ok()?;
            let imported = store.import(&backwards(&names(5))).is_ok();
            // What the handle takes after a failed import must not be taken back with it, not even without a row.
            let next = store.append_entry(&entry("next", None, 10)).is_ok();
            kill(store);
            Some((imported, next))
        });
        let (ids, _) = recover(&root, &options, &format!("{harness:?}"));
        let there = ids.iter().filter(|id| id.starts_with('e')).count();
        assert!([0, 5].contains(&there), "{harness:?}: {ids:?}");
        if let Some((imported, next)) = told {
            assert!(!imported || there == 5, "{harness:?}");
            assert!(!next || ids.contains(&"next".to_owned()), "{harness:?}");
        }
    });
}

/// A store of four entries in two segments, with one more frame and half a frame behind the index.
fn leave_a_tail(root: &Path, options: &SessionOptions) {
    fill(&mut open(root, options), &names(4), 600);
    let index = root.join("index/offsets.jsonl");
    let rows = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, rows.lines().take(3).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let segment = root.join("segments/0000000000000002.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.extend_from_slice(b"{\"schema\":\"pi.session_store_v2.segment_frame.v1\",\"segm");
    std::fs::write(&segment, bytes).unwrap();
}

#[test]
fn recovery_itself_survives_a_power_cut_at_any_point() {
    for lose_index in [false, true] {
        let (directory, root) = place();
        let options = options(2000);
        leave_a_tail(&root, &options);
        if lose_index {
            std::fs::write(root.join("index/offsets.jsonl"), b"{\"torn").unwrap();
        }
        let harness = Harness::recording(directory.path());
        harness.run(|| drop(SessionStoreV2::create(&root, &options).unwrap()));
        check_images(&harness, &AcknowledgedEntries(vec![(0, 4)]), &options, &names(4));
    }
}

#[test]
fn a_cut_with_later_segments_survives_a_power_cut_at_any_point() {
    let (directory, root) = place();
    let options = SessionOptions { loss: Loss::Accept, ..options(1500) };
    fill(&mut open(&root, &options), &names(7), 400);
    let segment = root.join("segments/0000000000000002.seg");
    let text = std::fs::read_to_string(&segment).unwrap();
    let altered = text.replacen("\"frameSeq\":1", "\"frameSeq\":8", 1);
    assert_ne!(text, altered);
    std::fs::write(&segment, altered).unwrap();
    let kept = text.lines().count();
    let harness = Harness::recording(directory.path());
    harness.run(|| drop(SessionStoreV2::create(&root, &options).unwrap()));
    let left = open(&root, &options).row_count();
    assert!(kept >= 1 && left < 7 - kept);
    harness.each_image(|image| {
        let (ids, _) = recover(&image.path().join("s"), &options, image);
        assert_eq!(ids, names(7)[..left], "{image}: the same outcome whenever the power went");
    });
}

#[test]
fn checkpoints_and_manifests_are_whole_or_absent_after_a_power_cut() {
    let (directory, root) = place();
    let options = options(2000);
    {
        let mut store = open(&root, &options);
        store.append_entry(&entry("e0", None, 10)).unwrap();
        store.write_manifest("talk", "native_v2").unwrap();
    }
    let harness = Harness::recording(directory.path());
    let mut done = (usize::MAX, usize::MAX);
    harness.run(|| {
        let mut store = open(&root, &options);
        store.append_entry(&entry("e1", Some("e0"), 700)).unwrap();
        store.create_checkpoint(1, "manual").unwrap();
        done.0 = harness.events();
        store.write_manifest("talk", "native_v2").unwrap();
        done.1 = harness.events();
    });
    harness.each_image(|image| {
        let root = image.path().join("s");
        let mut reader = SessionStoreV2::open_for_inspection(&root, &options).unwrap();
        let view = reader.view().unwrap_or_else(|error| panic!("{image}: {error}"));
        let checkpoint = view.read_checkpoint(1).unwrap_or_else(|error| panic!("{image}: {error}"));
        assert!(checkpoint.is_some() || image.after_events() < done.0, "{image}");
        let manifest = view.read_manifest().unwrap_or_else(|error| panic!("{image}: {error}")).unwrap();
        assert!([1, 2].contains(&manifest.counters.entries_total), "{image}");
        assert!(manifest.counters.entries_total == 2 || image.after_events() < done.1, "{image}");
        let (ids, store) = recover(&root, &options, image);
        if let Some(checkpoint) = checkpoint {
            assert_eq!(ids, names(2), "{image}: what a checkpoint certifies is durable");
            assert_eq!(store.chain_hash().unwrap(), checkpoint.chain_hash, "{image}");
        }
    });
}

/// Seven entries over several segments; checkpoint 1 at the third, 2 at the last; a manifest.
fn with_checkpoints(root: &Path, options: &SessionOptions) {
    let mut store = open(root, options);
    for (number, id) in names(7).iter().enumerate() {
        store.append_entry(&entry(id, None, 400)).unwrap();
        if number == 2 {
            store.create_checkpoint(1, "manual").unwrap();
        }
    }
    store.create_checkpoint(2, "manual").unwrap();
    store.write_manifest("talk", "native_v2").unwrap();
}

#[test]
fn a_rollback_happens_wholly_or_not_at_all() {
    let (directory, root) = place();
    let options = options(1500);
    with_checkpoints(&root, &options);
    let harness = Harness::recording(directory.path());
    let mut done = usize::MAX;
    harness.run(|| {
        let mut store = open(&root, &options);
        store.rollback_to_checkpoint(1, "m", "c").unwrap();
        done = harness.events();
    });
    let (mut back, mut forth) = (0, 0);
    harness.each_image(|image| {
        let root = image.path().join("s");
        let (ids, store) = recover(&root, &options, image);
        let view = &*store;
        let manifest = view.read_manifest().unwrap().unwrap();
        assert!(view.manifest_differences(&manifest).unwrap().is_empty(), "{image}");
        let ledger = view.read_migration_events().unwrap();
        assert!(ledger.torn.is_none(), "{image}");
        if ids.len() == 3 {
            back += 1;
            assert_eq!(ledger.events.len(), 1, "{image}: {:?}", ledger.events);
            assert_eq!(view.checkpoints().unwrap(), [1], "{image}");
            assert_eq!(view.chain_hash().unwrap(), view.read_checkpoint(1).unwrap().unwrap().chain_hash);
        } else {
            forth += 1;
            assert_eq!(ids, names(7), "{image}");
            assert!(image.after_events() < done && ledger.events.is_empty(), "{image}");
            assert_eq!(view.checkpoints().unwrap(), [1, 2], "{image}");
        }
    });
    assert!(back > 20 && forth > 20, "{back} {forth}");
}

#[test]
fn a_failing_append_leaves_store_and_handle_as_they_were() {
    each_failure(|harness| {
        let (_directory, root) = place();
        let options = options(2500);
        let mut acknowledged = Vec::new();
        harness.run(|| {
            let Ok((mut store, _)) = SessionStoreV2::create(&root, &options) else { return };
            for id in names(6) {
                let before = (store.row_count(), store.head());
                match store.append_entry(&entry(&id, None, 700)) {
                    Ok(row) => acknowledged.push(row.entry_id),
                    Err(error) => {
                        assert!(error.to_string().contains(&*root.to_string_lossy()), "{error}");
                        assert_eq!((store.row_count(), store.head()), before, "{harness:?}");
                    }
                }
            }
        });
        let (ids, mut store) = recover(&root, &options, &format!("{harness:?}"));
        for id in &acknowledged {
            assert!(ids.contains(id), "{harness:?}: {id} was acknowledged, {ids:?} there");
        }
        store.append_entry(&entry("after", None, 10)).unwrap();
    });
}

#[test]
fn a_handle_goes_on_after_a_full_disk_was_cleared() {
    let (_directory, root) = place();
    let mut store = open(&root, &options(2500));
    store.append_entry(&entry("e0", None, 700)).unwrap();
    for fail_at in 0..2 {
        let harness = Harness::failing(crate::disk::faults::Fault::PartialWrite, fail_at);
        let failed = harness.run(|| store.append_entry(&entry("full", None, 700))).unwrap_err();
        assert!(matches!(failed, SessionError::Disk(_)), "{failed}");
    }
    store.append_entry(&entry("e1", Some("e0"), 700)).unwrap();
    drop(store);
    let (store, report) = SessionStoreV2::create(&root, &options(2500)).unwrap();
    assert!(!report.changed_files(), "nothing was left behind: {report:?}");
    assert_eq!(store.entry_ids().collect::<Vec<_>>(), ["e0", "e1"]);
}

#[test]
fn a_failing_group_is_not_there_at_all() {
    each_failure(|harness| {
        let (_directory, root) = place();
        let options = options(2000);
        fill(&mut open(&root, &options), &["old"], 700);
        let outcome = harness.run(|| {
            let (mut store, _) = SessionStoreV2::create(&root, &options)?;
            let entries: Vec<NewEntry<'static>> =
                names(5).iter().map(|id| entry(id, Some("old"), 600)).collect();
            store.append_entries(&entries)
        });
        let (ids, _) = recover(&root, &options, &format!("{harness:?}"));
        if outcome.is_ok() {
            assert_eq!(ids.len(), 6, "{harness:?}");
        }
        assert_eq!(ids[0], "old");
    });
}

#[test]
fn a_failing_rollback_is_completed_by_the_next_handle_or_never_happened() {
    each_failure(|harness| {
        let (_directory, root) = place();
        let options = options(1500);
        with_checkpoints(&root, &options);
        let mut acknowledged = false;
        let outcome = harness.run(|| {
            let (mut store, _) = SessionStoreV2::create(&root, &options)?;
            let outcome = store.rollback_to_checkpoint(1, "m", "c");
            if let Err(error) = &outcome {
                let next = store.append_entry(&entry("next", None, 10));
                acknowledged = next.is_ok();
                let poisoned =
                    next.as_ref().is_err_and(|next| next.class() == SessionErrorClass::PoisonedHandle);
                assert!(poisoned || store.row_count() == 8 || next.is_err(), "{harness:?}: {error}");
            }
            outcome
        });
        let (ids, store) = recover(&root, &options, &format!("{harness:?}"));
        let events = store.read_migration_events().unwrap().events;
        let ok_events = events.iter().filter(|event| event.outcome == "ok").count();
        assert_eq!(ids.iter().any(|id| id == "next"), acknowledged, "{harness:?}: {ids:?}");
        if ids.len() == 3 {
            assert_eq!(ok_events, 1, "{harness:?}: {events:?}");
        } else {
            assert!(outcome.is_err() && ids.len() >= 7 && ok_events == 0, "{harness:?}: {ids:?} {events:?}");
        }
    });
}

#[test]
fn a_failing_recovery_leaves_what_the_next_one_recovers() {
    each_failure(|harness| {
        let (_directory, root) = place();
        let options = options(2000);
        leave_a_tail(&root, &options);
        let _ = harness.run(|| SessionStoreV2::create(&root, &options).map(drop));
        let (ids, _) = recover(&root, &options, &format!("{harness:?}"));
        assert_eq!(ids, names(4), "{harness:?}");
    });
}

#[test]
fn a_failing_refresh_gives_no_row_twice() {
    each_failure(|harness| {
        let (_directory, root) = place();
        let options = options(1 << 20);
        let mut store = open(&root, &options);
        store.append_entry(&entry("e0", None, 10)).unwrap();
        let mut reader = SessionStoreV2::open_for_inspection(&root, &options).unwrap();
        reader.view().unwrap();
        store.append_entry(&entry("e1", None, 10)).unwrap();
        let first = harness.run(|| reader.view().map(|view| view.row_count()));
        assert!(first.as_ref().map_or(true, |rows| *rows == 2), "{harness:?}: {first:?}");
        // A reader takes no space: a full disk is met by the writer alone.
        harness.run(|| store.append_entry(&entry("e2", None, 10))).ok();
        let rows = store.row_count();
        let view = reader.view().unwrap();
        assert_eq!(view.entry_ids().collect::<Vec<_>>(), names(rows), "{harness:?}: {first:?}");
    });
}

/// Ends a handle as SIGKILL does: what it wrote is there, unsynced; only the kernel lets go of the lock.
fn kill(mut store: SessionStoreV2) {
    store.poison(&SessionError::InvalidArgument { reason: "killed".to_owned() });
}

/// What a store says after a power cut: every row leads to its frame.
fn check_rows_lead_to_frames(root: &Path, options: &SessionOptions, told: &dyn std::fmt::Display) {
    let mut reader = SessionStoreV2::open_for_inspection(root, options).unwrap();
    // A torn last row is no row.
    let Ok(view) = reader.view() else { return };
    for (row, found) in view.read_all_entries().enumerate() {
        found.unwrap_or_else(|error| panic!("{told}: row {row}: {error}"));
    }
}

#[test]
fn what_recovery_takes_in_from_a_killed_writer_is_durable_before_it_is_a_row() {
    for lose_index in [false, true] {
        let (directory, root) = place();
        let options = SessionOptions { durability: Durability::Os, ..options(2000) };
        let all = names(6);
        let harness = Harness::recording(directory.path());
        let (mut acknowledged, mut certified) = (AcknowledgedEntries(Vec::new()), usize::MAX);
        harness.run(|| {
            let mut store = open(&root, &options);
            fill(&mut store, &all, 600);
            kill(store);
            if lose_index {
                crate::disk::remove_file(&root.join("index/offsets.jsonl")).unwrap();
            }
            let (mut store, report) = SessionStoreV2::create(&root, &options).unwrap();
            assert!(report.changed_files(), "{report:?}");
            assert!(store.head().unwrap().segment_seq > 1);
            acknowledged.0.push((harness.events(), all.len()));
            store.create_checkpoint(1, "manual").unwrap();
            certified = harness.events();
            kill(store);
        });
        let mut certificates = 0;
        harness.each_image(|image| {
            let root = image.path().join("s");
            check_rows_lead_to_frames(&root, &options, image);
            let checkpoint =
                SessionStoreV2::open_for_inspection(&root, &options).unwrap().view().ok().and_then(|view| {
                    view.read_checkpoint(1).unwrap_or_else(|error| panic!("{image}: {error}"))
                });
            let (ids, store) = recover(&root, &options, image);
            assert_eq!(ids, all[..ids.len()], "{image}");
            assert!(ids.len() >= acknowledged.at(image), "{image}: {ids:?}");
            assert!(checkpoint.is_some() || image.after_events() < certified, "{image}");
            if let Some(checkpoint) = checkpoint {
                certificates += 1;
                assert_eq!(ids, all, "{image}: what a checkpoint certifies is durable");
                assert_eq!(store.chain_hash().unwrap(), checkpoint.chain_hash, "{image}");
            }
        });
        assert!(certificates > 5, "{certificates}");
    }
}

#[test]
fn an_index_row_that_a_killed_writer_did_not_sync_is_durable_before_a_checkpoint_names_it() {
    let (directory, root) = place();
    let options = options(1 << 20);
    fill(&mut open(&root, &options), &["e0"], 10);
    let harness = Harness::recording(directory.path());
    harness.run(|| {
        let index = root.join("index/offsets.jsonl");
        let mut store = open(&root, &options);
        store.append_entry(&entry("e1", None, 10)).unwrap();
        drop(store);
        // The row once more, this time without its sync.
        let rows = std::fs::read(&index).unwrap();
        let kept = rows.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let (file, _) = crate::disk::File::open_append(&index).unwrap();
        file.set_len(kept as u64).unwrap();
        file.sync_data().unwrap();
        file.write_all(&rows[kept..]).unwrap();
        let (mut store, report) = SessionStoreV2::create(&root, &options).unwrap();
        assert!(!report.changed_files(), "{report:?}");
        store.create_checkpoint(1, "manual").unwrap();
    });
    let mut certificates = 0;
    harness.each_image(|image| {
        let root = image.path().join("s");
        let mut reader = SessionStoreV2::open_for_inspection(&root, &options).unwrap();
        let view = match reader.view() {
            Ok(view) if view.read_checkpoint(1).unwrap().is_some() => view,
            _ => return,
        };
        certificates += 1;
        assert_eq!(view.row_count(), 2, "{image}");
    });
    assert!(certificates > 3, "{certificates}");
}

#[test]
fn an_empty_segment_of_a_killed_writer_gets_a_durable_name() {
    let (options, all) = (options(1000), names(2));
    cut_everywhere(&options, &all, |root, acknowledge| {
        let mut store = open(root, &options);
        store.append_entry(&entry(&all[0], None, 700)).unwrap();
        drop(store);
        drop(crate::disk::File::create_new(&root.join("segments/0000000000000002.seg")).unwrap());
        let mut store = open(root, &options);
        assert_eq!(store.append_entry(&entry(&all[1], None, 700)).unwrap().segment_seq, 2);
        acknowledge(2);
    });
}

/// The first append may create the migration ledger and fail before it syncs the name.
#[test]
fn a_migration_event_is_durable_in_a_ledger_whose_name_nobody_synced() {
    let (directory, root) = place();
    let harness = Harness::recording(directory.path());
    harness.run(|| {
        let mut store = open(&root, &options(1000));
        drop(crate::disk::File::create_new(&root.join("migrations/ledger.jsonl")).unwrap());
        store.append_migration_event(MigrationEvent::default()).unwrap();
    });
    let image = tempfile::tempdir().unwrap();
    harness.lay_out(harness.events(), Survival::Nothing, image.path());
    let mut reader = SessionStoreV2::open_for_inspection(image.path().join("s"), &options(1000)).unwrap();
    assert_eq!(reader.view().unwrap().read_migration_events().unwrap().events.len(), 1);
}

/// A canary: an append that does not sync must be caught by the images.
#[test]
fn the_images_catch_rows_that_are_not_durable() {
    let (directory, root) = place();
    let options = SessionOptions { durability: Durability::Os, ..options(1 << 20) };
    let harness = Harness::recording(directory.path());
    harness.run(|| {
        let mut store = open(&root, &options);
        store.append_entry(&entry("e0", None, 10)).unwrap();
        store.append_entry(&entry("e1", None, 10)).unwrap();
        std::mem::forget(store);
    });
    let mut lost = 0;
    harness.each_image(|image| {
        if image.after_events() == harness.events() {
            lost += usize::from(recover(&image.path().join("s"), &options, image).0.len() < 2);
        }
    });
    assert!(lost > 0);
}

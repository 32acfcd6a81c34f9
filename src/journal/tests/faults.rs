//! Failing operations and power cuts: nothing acknowledged is lost, nothing invented, a second recovery changes nothing.

use super::*;
use crate::disk::faults::{Harness, Survival, each_failure};

/// What a scenario tried to append, by offset, and after how many events it was acknowledged, if it was.
type Attempts = Vec<(Option<u64>, Vec<u8>, Option<usize>)>;

/// Opens after a failure or power cut, setting damage aside where open refuses, as the documentation says it may when
/// several unsynced records were written.
fn reopened(directory: &Path, may_refuse: bool) {
    match open_with(directory, small_segments(300)) {
        Ok(_) => {}
        Err(JournalError::Corrupt { damages, .. }) if may_refuse => {
            assert!(!damages.is_empty());
            recover(directory, OnCorruption::SetAside).unwrap();
        }
        Err(other) => panic!("{other}"),
    }
}

/// Opens as [`reopened`] does: what was acknowledged within `events` is there, and nothing that was never appended.
fn check_attempts(directory: &Path, attempts: &Attempts, events: usize, may_refuse: bool) {
    reopened(directory, may_refuse);
    let records = read_all(directory);
    for (offset, payload, acknowledged) in attempts {
        if acknowledged.is_some_and(|at| at <= events) {
            let offset = offset.unwrap();
            assert_eq!(records.get(&offset), Some(payload), "the record at {offset} was acknowledged");
        }
    }
    for payload in records.values() {
        assert!(attempts.iter().any(|(_, tried, _)| tried == payload), "{payload:?} was never appended");
    }
    assert_settled(directory);
}

/// Single appends, a batch and a guard over several segments; every acknowledgement noted.
fn appends(
    directory: &Path,
    harness: &Harness,
    durability: DurabilityLevel,
) -> (Attempts, Result<(), JournalError>) {
    let mut attempts = Attempts::new();
    let outcome = (|| {
        let options = JournalOptions { durability, ..small_segments(300) };
        let journal = open_with(directory, options)?;
        for number in 0..4 {
            attempts.push((None, payload(number), None));
            let offset = journal.append(&payload(number))?;
            *attempts.last_mut().unwrap() = (Some(offset), payload(number), Some(harness.events()));
        }
        let batch: Vec<Vec<u8>> = (4..9).map(payload).collect();
        attempts.extend(batch.iter().map(|payload| (None, payload.clone(), None)));
        let offsets = journal.append_batch(&batch)?;
        for (attempt, offset) in attempts[4..].iter_mut().zip(offsets) {
            (attempt.0, attempt.2) = (Some(offset), Some(harness.events()));
        }
        let mut guard = journal.fsync_guard();
        for number in 9..12 {
            attempts.push((None, payload(number), None));
            attempts.last_mut().unwrap().0 = Some(guard.append(&payload(number))?);
        }
        guard.commit()?;
        attempts[9..].iter_mut().for_each(|attempt| attempt.2 = Some(harness.events()));
        journal.close()
    })();
    (attempts, outcome)
}

#[test]
fn any_operation_of_append_and_rotation_may_fail() {
    each_failure(|harness| {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        let (attempts, outcome) = harness.run(|| appends(&journal, harness, DurabilityLevel::Immediate));
        if let Err(error) = &outcome {
            assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
        }
        std::fs::create_dir_all(&journal).unwrap();
        check_attempts(&journal, &attempts, usize::MAX, false);
    });
}

#[test]
fn every_power_cut_during_append_and_rotation_keeps_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let (attempts, outcome) = harness.run(|| appends(directory.path(), &harness, DurabilityLevel::Immediate));
    outcome.unwrap();
    assert!(segment_paths(directory.path()).len() >= 3);
    harness.each_image(|image| {
        check_attempts(image.path(), &attempts, image.after_events(), true);
    });
}

#[test]
fn a_power_cut_with_one_record_under_way_is_never_refused() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let mut attempts = Attempts::new();
    harness.run(|| {
        let journal = open_with(directory.path(), small_segments(2000)).unwrap();
        for number in 0..6 {
            // Longer than a sector, so that it can tear.
            let payload = vec![number as u8 + 1; 700];
            let offset = journal.append(&payload).unwrap();
            attempts.push((Some(offset), payload, Some(harness.events())));
        }
        journal.close().unwrap();
    });
    harness.each_image(|image| {
        check_attempts(image.path(), &attempts, image.after_events(), false);
    });
}

/// The canary: the same images must show that records which were not synced get lost.
#[test]
fn a_missing_sync_is_caught() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let (attempts, outcome) = harness.run(|| appends(directory.path(), &harness, DurabilityLevel::Os));
    outcome.unwrap();
    let mut lost = 0;
    harness.each_image(|image| {
        reopened(image.path(), true);
        let records = read_all(image.path());
        lost += attempts
            .iter()
            .filter(|(offset, payload, acknowledged)| {
                acknowledged.unwrap() <= image.after_events()
                    && records.get(&offset.unwrap()) != Some(payload)
            })
            .count();
    });
    assert!(lost > 0);
}

#[test]
fn recovery_may_be_cut_off_anywhere_and_comes_to_the_same_end() {
    let (original, mut records) = journal_of(9, 260);
    let paths = segments(original.path());
    let mut files = snapshot(original.path());
    // A damaged record, a damaged header and a torn tail at once.
    files.get_mut(&paths[0]).unwrap()[32 + 45] ^= 1;
    files.get_mut(&paths[1]).unwrap()[20] ^= 1;
    let last = files.get_mut(paths.last().unwrap()).unwrap();
    last.truncate(last.len() - 3);
    records.remove(&0);
    records.pop_last();

    let clean = copy_of(&files, original.path());
    let expected_end = recover(clean.path(), OnCorruption::SetAside).unwrap().end;

    let recorded = copy_of(&files, original.path());
    let harness = Harness::recording(recorded.path());
    harness.run(|| recover(recorded.path(), OnCorruption::SetAside)).unwrap();
    harness.each_image(|image| {
        let report = recover(image.path(), OnCorruption::SetAside).unwrap();
        assert_eq!(report.end, expected_end);
        assert_eq!(read_all(image.path()), records);
        assert_settled(image.path());
    });
    each_failure(|harness| {
        let copy = copy_of(&files, original.path());
        let _ = harness.run(|| recover(copy.path(), OnCorruption::SetAside));
        assert_eq!(recover(copy.path(), OnCorruption::SetAside).unwrap().end, expected_end);
        assert_eq!(read_all(copy.path()), records);
        assert_settled(copy.path());
    });
}

#[test]
fn cursors_and_cleanup_survive_failures_and_power_cuts() {
    let (original, records) = journal_of(12, 260);
    let files = snapshot(original.path());
    let middle = *records.keys().nth(8).unwrap();
    let scenario = |directory: &Path| -> Result<(), JournalError> {
        let mut cursor = Cursor::open(directory, "c")?;
        cursor.set(middle)?;
        let journal = open_with(directory, small_segments(260))?;
        journal.cleanup()?;
        journal.close()
    };
    let check = |directory: &Path| {
        reopened(directory, false);
        let cursor = Cursor::open(directory, "c").unwrap();
        assert!([0, middle].contains(&cursor.offset()));
        let left = read_all(directory);
        let start = JournalReader::open(directory).unwrap().start();
        assert!(start <= cursor.offset());
        assert_eq!(left, records.range(start..).map(|(o, p)| (*o, p.clone())).collect());
        assert_settled(directory);
    };
    each_failure(|harness| {
        let copy = copy_of(&files, original.path());
        let _ = harness.run(|| scenario(copy.path()));
        check(copy.path());
    });
    let recorded = copy_of(&files, original.path());
    let harness = Harness::recording(recorded.path());
    harness.run(|| scenario(recorded.path())).unwrap();
    harness.each_image(|image| check(image.path()));
}

/// A writer that is killed leaves records that nobody synced, and a segment whose name nobody synced. Opening makes both
/// durable, before anybody takes them for synced.
#[test]
fn opening_makes_durable_what_a_killed_writer_left() {
    for is_recovered in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let harness = Harness::recording(directory.path());
        let mut opened = usize::MAX;
        harness.run(|| {
            let file = crate::disk::File::create_new(&directory.path().join("0000000000000000.wal")).unwrap();
            file.write_all_at(&FileKind::Segment.encode(0), 0).unwrap();
            file.write_all_at(EncodedRecord::new(b"inherited").bytes(), 32).unwrap();
            if is_recovered {
                recover(directory.path(), OnCorruption::Refuse).unwrap();
                opened = harness.events();
            } else {
                let journal = Journal::open(directory.path()).unwrap();
                assert_eq!(journal.synced(), 49);
                opened = harness.events();
                journal.append(b"new").unwrap();
                std::mem::forget(journal);
            }
        });
        let mut images = 0;
        harness.each_image(|image| {
            if image.after_events() >= opened {
                images += 1;
                assert_eq!(
                    read_all(image.path()).get(&0).map(Vec::as_slice),
                    Some(&b"inherited"[..]),
                    "{image}"
                );
            }
        });
        assert!(images > 0);
    }
}

/// Whoever created the cursor or its directory may have been killed before the name was synced.
#[test]
fn an_opened_cursor_is_durable_whoever_created_it() {
    use crate::disk;
    for has_cursor in [false, true] {
        let (directory, _) = journal_of(3, 1 << 20);
        let cursors = directory.path().join("cursors");
        let harness = Harness::recording(directory.path());
        harness.run(|| {
            let create = || std::fs::create_dir(&cursors);
            disk::perform_on_path(disk::Operation::CreateDirectory, &cursors, create).unwrap();
            if has_cursor {
                let cursor = FileKind::Cursor.encode(0);
                disk::replace(&cursors.join("c"), &cursor, disk::Replacing::Unsynced).unwrap();
                disk::File::open_to_sync(&cursors.join("c")).unwrap().sync_all().unwrap();
            }
            Cursor::open(directory.path(), "c").unwrap();
        });
        let image = tempfile::tempdir().unwrap();
        harness.lay_out(harness.events(), Survival::Nothing, image.path());
        assert_eq!(status(image.path()).unwrap().cursors.len(), 1, "{has_cursor}");
    }
}

/// A consumer reads records that no writer has synced; moving its cursor must make them durable first.
#[test]
fn a_cursor_never_stands_behind_what_a_power_cut_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    harness.run(|| {
        let options = JournalOptions { durability: DurabilityLevel::Os, ..JournalOptions::default() };
        let journal = open_with(directory.path(), options).unwrap();
        let mut cursor = Cursor::open(directory.path(), "c").unwrap();
        for number in 0..5 {
            journal.append(&vec![number + 1; 900]).unwrap();
            cursor.set(journal.end()).unwrap();
        }
    });
    harness.each_image(|image| {
        reopened(image.path(), false);
        let status = status(image.path()).unwrap();
        for cursor in &status.cursors {
            assert!(cursor.offset <= status.end && status.skipped.is_empty(), "{image}: {status:?}");
        }
    });
}

#[cfg(feature = "group-commit")]
mod group_commit {
    use super::*;
    use std::sync::Arc;

    /// Eight tasks at once; what each was answered, and after how many events.
    fn committed(directory: &Path, harness: &Harness) -> (Attempts, Result<(), JournalError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let journal = match open_with(directory, small_segments(300)) {
            Ok(journal) => Arc::new(journal),
            Err(error) => return (Attempts::new(), Err(error)),
        };
        let buffer =
            Arc::new(GroupCommitBuffer::new(journal.clone(), GroupCommitOptions::default()).unwrap());
        let answers = runtime.block_on(async {
            let mut tasks = Vec::new();
            for number in 0..8 {
                let (buffer, harness) = (buffer.clone(), harness.clone());
                tasks.push(tokio::spawn(async move {
                    let answer = buffer.append(&payload(number)).await;
                    (number, answer, harness.events())
                }));
            }
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(task.await.unwrap());
            }
            buffer.close().await;
            answers
        });
        drop(buffer);
        let mut first_error = Ok(());
        let attempts = answers
            .into_iter()
            .map(|(number, answer, events)| match answer {
                Ok(offset) => (Some(offset), payload(number), Some(events)),
                Err(error) => {
                    first_error = Err(error);
                    (None, payload(number), None)
                }
            })
            .collect();
        let closed = Arc::into_inner(journal).unwrap().close();
        (attempts, first_error.and(closed))
    }

    #[test]
    fn any_operation_of_a_group_commit_may_fail() {
        // How many records a batch takes is a matter of timing, so operations are counted anew in every run.
        for fault in [crate::disk::faults::Fault::Io, crate::disk::faults::Fault::PartialWrite] {
            for fail_at in 0..60 {
                let harness = Harness::failing(fault, fail_at);
                let directory = tempfile::tempdir().unwrap();
                let (attempts, outcome) = harness.run(|| committed(directory.path(), &harness));
                assert_eq!(outcome.is_err(), harness.has_failed());
                check_attempts(directory.path(), &attempts, usize::MAX, true);
            }
        }
    }

    #[test]
    fn every_power_cut_during_group_commit_keeps_what_was_answered() {
        let directory = tempfile::tempdir().unwrap();
        let harness = Harness::recording(directory.path());
        let (attempts, outcome) = harness.run(|| committed(directory.path(), &harness));
        outcome.unwrap();
        harness.each_image(|image| {
            check_attempts(image.path(), &attempts, image.after_events(), true);
        });
    }
}

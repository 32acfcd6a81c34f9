//! Durability levels, guards, poison, rotation, readers beside writers, cursors and cleanup.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::disk::faults::{Fault, Harness};

#[test]
fn a_record_that_would_overfill_a_segment_opens_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open_with(directory.path(), small_segments(132)).unwrap();
    // 32 + 60 fits; + 40 is exactly the maximum; one more byte is not.
    for (len, expected_segments) in [(20, 1), (0, 1), (0, 2), (500, 3), (1, 4)] {
        journal.append(&vec![7; len]).unwrap();
        assert_eq!(segment_paths(directory.path()).len(), expected_segments);
    }
    let mark = status(directory.path()).unwrap().synced;
    journal.close().unwrap();
    let status = status(directory.path()).unwrap();
    let mut base = 0;
    for Segment { base: found, len_bytes, .. } in &status.segments {
        assert_eq!(*found, base);
        base += len_bytes - 32;
    }
    assert_eq!(status.end, base);
    assert_eq!(mark, Some(status.segments[3].base), "rotation replaces the mark");
}

#[test]
fn a_second_writer_waits_or_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    let refused = Journal::open(directory.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Locked { .. }), "{refused}");
    let waiting = std::thread::scope(|scope| {
        let patient = JournalOptions { lock_timeout: Duration::from_secs(20), ..JournalOptions::default() };
        let waiting = scope.spawn(|| open_with(directory.path(), patient).unwrap().end());
        std::thread::sleep(Duration::from_millis(30));
        journal.append(b"before").unwrap();
        journal.close().unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(waiting, 46);
}

#[test]
fn the_lock_file_is_not_followed_through_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("elsewhere");
    std::fs::write(&target, b"").unwrap();
    let journal = directory.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    std::os::unix::fs::symlink(&target, journal.join("LOCK")).unwrap();
    let refused = Journal::open(&journal).unwrap_err().to_string();
    assert!(refused.contains("symbolic links are not followed"), "{refused}");
}

#[test]
fn a_payload_over_the_limit_is_refused_and_the_journal_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let options = JournalOptions { max_payload_bytes: 10, ..JournalOptions::default() };
    let journal = open_with(directory.path(), options).unwrap();
    let refused = journal.append(&[0; 11]).unwrap_err();
    assert!(matches!(refused, JournalError::PayloadTooLarge { len_bytes: 11, limit_bytes: 10 }));
    assert!(journal.append_batch(&[vec![0; 3], vec![0; 11]]).is_err());
    assert_eq!(journal.append(&[0; 10]).unwrap(), 0);
}

#[test]
fn levels_sync_when_they_say() {
    let directory = tempfile::tempdir().unwrap();
    let open = |durability| {
        open_with(directory.path(), JournalOptions { durability, ..JournalOptions::default() }).unwrap()
    };
    let immediate = open(DurabilityLevel::Immediate);
    immediate.append(b"x").unwrap();
    assert_eq!(immediate.synced(), immediate.end());
    immediate.close().unwrap();

    let os = open(DurabilityLevel::Os);
    os.append(b"x").unwrap();
    assert!(os.synced() < os.end());
    let mut guard = os.fsync_guard();
    guard.append(b"y").unwrap();
    drop(guard);
    assert_eq!(os.synced(), os.end());
    os.close().unwrap();

    let long = Duration::from_secs(3600);
    let batched = open(DurabilityLevel::Batched { max_records: 3, max_delay: long });
    batched.append(b"1").unwrap();
    batched.append(b"2").unwrap();
    assert!(batched.synced() < batched.end());
    batched.append(b"3").unwrap();
    assert_eq!(batched.synced(), batched.end());
    batched.close().unwrap();

    let delayed =
        open(DurabilityLevel::Batched { max_records: usize::MAX, max_delay: Duration::from_millis(20) });
    for _ in 0..3 {
        delayed.append(b"x").unwrap();
        let started = Instant::now();
        while delayed.synced() < delayed.end() {
            assert!(started.elapsed() < Duration::from_secs(10), "nobody synced");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_taken_until_reopened() {
    // In this order: the write of the second append, then its sync.
    for (fault, fail_at) in [(Fault::PartialWrite, 0), (Fault::NoSpace, 0), (Fault::Io, 1)] {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let first = journal.append(b"acknowledged").unwrap();
        let harness = Harness::failing(fault, fail_at);
        let failed = harness.run(|| journal.append(b"failed")).unwrap_err();
        assert!(harness.has_failed());
        assert!(matches!(failed, JournalError::Poisoned { .. }), "{failed}");
        for refused in [journal.append(b"later").map(drop), journal.sync()] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(".wal") && message.contains("open it again"), "{message}");
        }
        let mut guard = journal.fsync_guard();
        assert!(guard.append(b"later").is_err());
        drop(guard);
        assert!(journal.close().is_err());
        let journal = Journal::open(directory.path()).unwrap();
        journal.append(b"again").unwrap();
        let records = read_all(directory.path());
        assert_eq!(records[&first], b"acknowledged");
        // Who was told that it failed sends it again, and it must not be there twice then.
        assert_eq!(records.into_values().collect::<Vec<_>>(), [b"acknowledged".to_vec(), b"again".to_vec()]);
        assert!(quarantined(directory.path()).is_empty(), "nothing was left to cut");
    }
}

#[test]
fn threads_share_a_journal_and_readers_follow_it() {
    const THREADS: usize = 4;
    const EACH: usize = 150;
    let directory = tempfile::tempdir().unwrap();
    let journal = open_with(directory.path(), small_segments(4000)).unwrap();
    let done = AtomicBool::new(false);
    let (seen, acknowledged) = std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let mut reader = JournalReader::open(directory.path()).unwrap();
            let (mut offset, mut seen) = (0, BTreeMap::new());
            loop {
                let was_done = done.load(Ordering::Acquire);
                while let Some(record) = reader.read(offset).unwrap() {
                    assert_eq!(record.offset, offset);
                    offset = record.next_offset;
                    seen.insert(record.offset, record.payload.to_vec());
                }
                if was_done {
                    return seen;
                }
            }
        });
        let watcher = scope.spawn(|| {
            let mut reader = JournalReader::open(directory.path()).unwrap();
            let mut ends = vec![0];
            while !done.load(Ordering::Acquire) {
                let end = reader.end().unwrap();
                assert!(end >= ends[ends.len() - 1], "the end went back");
                ends.push(end);
            }
            ends
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let journal = &journal;
                scope.spawn(move || {
                    (0..EACH)
                        .map(|number| {
                            let payload = payload(thread * EACH + number);
                            (journal.append(&payload).unwrap(), payload)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let acknowledged: BTreeMap<_, _> =
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        done.store(true, Ordering::Release);
        for end in watcher.join().unwrap() {
            assert!(end == journal.end() || acknowledged.contains_key(&end), "{end} is inside a record");
        }
        (follower.join().unwrap(), acknowledged)
    });
    assert_eq!(acknowledged.len(), THREADS * EACH);
    assert_eq!(seen, acknowledged);
}

#[test]
fn only_the_starts_of_records_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    // A payload that holds a whole record: an offset into it must not pass for one.
    let inner = EncodedRecord::new(b"inner").bytes().to_vec();
    let journal = open_with(directory.path(), small_segments(300)).unwrap();
    let mut starts = BTreeSet::new();
    for _ in 0..8 {
        starts.insert(journal.append(&inner).unwrap());
    }
    let end = journal.end();
    for offset in 0..=end + 50 {
        // A fresh reader has no memory of where records start.
        let mut reader = journal.reader().unwrap();
        match reader.read(offset) {
            Ok(Some(record)) => {
                assert!(starts.contains(&offset));
                assert_eq!((record.offset, record.payload), (offset, &inner[..]));
            }
            Ok(None) => assert_eq!(offset, end),
            Err(JournalError::NotARecord { start, .. }) => {
                assert_eq!(starts.range(..offset).next_back(), Some(&start));
                assert!(!starts.contains(&offset) && offset < end);
            }
            Err(JournalError::BeyondEnd { end: found, .. }) => assert!(found == end && offset > end),
            Err(other) => panic!("{other}"),
        }
    }
}

/// A consumer that read a record before its sync failed has it, so that it stays.
#[test]
fn what_a_consumer_has_read_is_not_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let options = JournalOptions { durability: DurabilityLevel::Immediate, ..JournalOptions::default() };
    let journal = open_with(directory.path(), options).unwrap();
    journal.append(b"acknowledged").unwrap();
    let mut cursor = Cursor::open(directory.path(), "c").unwrap();
    // Read ahead of the sync: as a reader that is quicker than the writer does.
    let end = journal.end() + 46;
    std::fs::write(directory.path().join("cursors/c"), FileKind::Cursor.encode(end)).unwrap();
    let harness = Harness::failing(Fault::Io, 1);
    assert!(harness.run(|| journal.append(b"failed")).is_err());
    assert!(journal.close().is_err());
    cursor.set(end).unwrap();
    Journal::open(directory.path()).unwrap().close().unwrap();
    assert_eq!(read_all(directory.path()).len(), 2);
}

#[test]
fn a_journal_has_one_identity_until_it_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(identity(directory.path()).unwrap(), None, "there is no journal yet");
    filled(directory.path(), 3, 1 << 20);
    let first = identity(directory.path()).unwrap().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    assert_eq!(identity(directory.path()).unwrap(), Some(first));
    // As a program without identities leaves it: it gets one once nobody writes.
    std::fs::remove_file(directory.path().join("IDENTITY")).unwrap();
    assert_eq!(identity(directory.path()).unwrap(), None);
    journal.close().unwrap();
    let second = identity(directory.path()).unwrap().unwrap();
    assert_eq!(identity(directory.path()).unwrap(), Some(second));
    std::fs::remove_file(directory.path().join("IDENTITY")).unwrap();
    filled(directory.path(), 1, 1 << 20);
    let third = identity(directory.path()).unwrap().unwrap();
    // Begun again in the same directory, whatever of the old files is left.
    std::fs::write(directory.path().join("DELIVERED"), b"of the old one").unwrap();
    std::fs::remove_file(segment_paths(directory.path()).remove(0)).unwrap();
    std::fs::remove_file(directory.path().join("SYNCED")).unwrap();
    let (_, report) = open(directory.path(), &JournalOptions::default()).unwrap();
    let [renamed] = &report.recovery.set_aside[..] else { panic!("{report:?}") };
    assert_eq!(renamed.saved_as, directory.path().join("DELIVERED.set-aside"));
    let fourth = identity(directory.path()).unwrap().unwrap();
    assert_eq!(BTreeSet::from([first, second, third, fourth]).len(), 4);
    assert!(!directory.path().join("DELIVERED").exists());
    assert_eq!(std::fs::read(directory.path().join("DELIVERED.set-aside")).unwrap(), b"of the old one");
    std::fs::write(directory.path().join("IDENTITY"), [0; 40]).unwrap();
    let refused = identity(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("IDENTITY is damaged") && refused.contains("restore it"), "{refused}");
}

#[test]
fn cleanup_works_beside_a_torn_write_and_saves_nothing() {
    let (directory, _) = journal_of(12, 260);
    let mut cursor = Cursor::open(directory.path(), "c").unwrap();
    cursor.set(reader_end(directory.path())).unwrap();
    let paths = segment_paths(directory.path());
    let last = paths.last().unwrap();
    let torn = [std::fs::read(last).unwrap(), b"torn".to_vec()].concat();
    std::fs::write(last, &torn).unwrap();
    let report = SegmentManager::open(directory.path()).unwrap().cleanup().unwrap();
    assert_eq!(report.deleted, paths[..paths.len() - 1]);
    assert_eq!(std::fs::read(last).unwrap(), torn);
    assert!(quarantined(directory.path()).is_empty());
    let writer = Journal::open(directory.path()).unwrap();
    assert!(matches!(
        SegmentManager::open(directory.path()).unwrap().cleanup(),
        Err(JournalError::Locked { .. })
    ));
    writer.close().unwrap();
}

#[test]
fn cleanup_deletes_what_every_cursor_has_passed_and_no_more() {
    let (directory, records) = journal_of(12, 260);
    let journal = open_with(directory.path(), small_segments(260)).unwrap();
    let before = segments(directory.path());
    assert!(before.len() >= 4);
    assert!(journal.cleanup().unwrap().deleted.is_empty(), "no cursor, nothing is deleted");
    let mut fast = Cursor::open(directory.path(), "fast").unwrap();
    let mut slow = Cursor::open(directory.path(), "slow").unwrap();
    fast.set(journal.end()).unwrap();
    assert!(journal.cleanup().unwrap().deleted.is_empty(), "the slow cursor still stands at the start");
    let second_base = status(directory.path()).unwrap().segments[1].base;
    let third_base = status(directory.path()).unwrap().segments[2].base;
    slow.set(third_base - 1).unwrap();
    let report = journal.cleanup().unwrap();
    assert_eq!((report.deleted, report.start), (vec![before[0].clone()], second_base));
    let left = read_all(directory.path());
    assert_eq!(left, records.range(second_base..).map(|(o, p)| (*o, p.clone())).collect());
    let deleted = journal.reader().unwrap().read(0).map(drop).unwrap_err();
    assert!(matches!(deleted, JournalError::Deleted { start, .. } if start == second_base));
    slow.set(journal.end()).unwrap();
    journal.cleanup().unwrap();
    assert_eq!(segments(directory.path()), before[before.len() - 1..], "the active segment stays");
    let late = Cursor::open(directory.path(), "late").unwrap();
    assert_eq!(late.offset(), journal.reader().unwrap().start());
    journal.close().unwrap();
    assert_settled(directory.path());
}

#[test]
fn what_killed_replacements_left_is_deleted() {
    let (directory, _) = journal_of(3, 1 << 20);
    Cursor::open(directory.path(), "c").unwrap();
    let leave = |name: &str, age: Duration| {
        let file = std::fs::File::create(directory.path().join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
    };
    let (old, young) = (Duration::from_secs(7200), Duration::from_secs(60));
    leave("SKIPS.0.tmp", young);
    leave("DELIVERED.0.tmp", old);
    leave("cursors/c.0.tmp", old);
    // A replacement that the journal's lock does not cover may be under way.
    leave("DELIVERED.1.tmp", young);
    leave("cursors/c.1.tmp", young);
    leave("mine.tmp", old);
    Journal::open(directory.path()).unwrap().close().unwrap();
    let left: BTreeSet<String> = snapshot(directory.path())
        .into_keys()
        .filter(|path| path.extension().is_some_and(|extension| extension == "tmp"))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left, ["DELIVERED.1.tmp", "c.1.tmp", "mine.tmp"].map(str::to_owned).into());
}

#[test]
fn cursors_have_names_bounds_and_checksums() {
    let (directory, _) = journal_of(3, 1 << 20);
    for name in ["", "..", "a/b", ".x", "x.tmp"] {
        let refused = Cursor::open(directory.path(), name).unwrap_err();
        assert!(matches!(refused, JournalError::CursorName { .. }), "{refused}");
    }
    let mut cursor = Cursor::open(directory.path(), "c").unwrap();
    std::fs::remove_file(directory.path().join("SYNCED")).unwrap();
    let refused = cursor.set(1_000_000).unwrap_err();
    assert!(matches!(refused, JournalError::BeyondEnd { .. }), "{refused}");
    cursor.set(60).unwrap();
    assert_eq!(Cursor::open(directory.path(), "c").unwrap().offset(), 60);
    std::fs::write(directory.path().join("cursors/c"), [0; 32]).unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    assert!(matches!(journal.cleanup().unwrap_err(), JournalError::Damaged { .. }));
}

#[test]
fn what_a_writer_wrote_ahead_is_behind_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    for number in 0..20 {
        journal.append(&payload(number)).unwrap();
    }
    let end = journal.end();
    let len_bytes = std::fs::metadata(&segment_paths(directory.path())[0]).unwrap().len();
    assert!(len_bytes > 32 + end + 100, "zeros stand there");
    let mut cursor = Cursor::open(directory.path(), "c").unwrap();
    let mut reader = journal.reader().unwrap();
    for offset in [end + 1, end + 40, len_bytes - 32] {
        for refused in [reader.sync_through(offset), cursor.set(offset)] {
            let is_told = matches!(refused, Err(JournalError::BeyondEnd { end: found, .. }) if found == end);
            assert!(is_told, "{offset}: {refused:?}");
        }
    }
    reader.sync_through(end).unwrap();
    cursor.set(end).unwrap();
    // The same reader and cursor go on with what comes.
    let next = journal.append(b"next").unwrap();
    assert_eq!(next, end);
    cursor.set(journal.end()).unwrap();
}

#[test]
fn a_journal_reads_its_own_records_those_in_later_segments_too() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open_with(directory.path(), small_segments(150)).unwrap();
    assert_eq!(journal.read(0).unwrap(), None);
    let offsets: Vec<u64> = (0..20).map(|number| journal.append(&payload(number)).unwrap()).collect();
    for (number, offset) in offsets.iter().enumerate().rev() {
        let record = journal.read(*offset).unwrap().unwrap();
        assert_eq!(record.payload, payload(number));
        assert_eq!(record.hash, blake3::hash(&payload(number)));
        assert_eq!(record.next_offset, *offsets.get(number + 1).unwrap_or(&journal.end()));
    }
    assert_eq!(journal.read(journal.end()).unwrap(), None);
    assert!(matches!(journal.read(1), Err(JournalError::NotARecord { start: 0, .. })));
}

#[test]
fn the_segment_of_an_offset_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let mut segments = SegmentManager::open(directory.path()).unwrap();
    assert_eq!(segments.find(0), None);
    let records = filled(directory.path(), 40, 300);
    segments.refresh().unwrap();
    assert!(segments.segments().len() > 4);
    for offset in records.keys() {
        let found = segments.find(*offset).unwrap();
        assert!((found.base..found.end()).contains(offset), "{found:?} {offset}");
        let bytes = std::fs::read(directory.path().join(found.file_name())).unwrap();
        assert_eq!(FileHeader::decode(FileKind::Segment, &bytes).unwrap().offset, found.base);
    }
    assert_eq!(segments.find(u64::MAX), segments.segments().last().copied());
}

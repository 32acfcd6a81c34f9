//! Damage, byte by byte: the last frame cut everywhere, every byte flipped, files lost and exchanged.

use std::fs;
use std::path::{Path, PathBuf};

use relayburn_ledger::book::{self, BookFindingKind, LogStoreOptions, LogTaleaStore, check};
use talea_core::store::{Store, StoreError};
use talea_core::types::Book;

use super::support::*;

const SEGMENT: &str = "books/shop/segment-00000000000000000001.log";

/// USD, two accounts and `count` sales of 1, 2, 4, ..., each in its own batch. Returns the offsets after each event.
async fn made(directory: &Path, count: u64) -> Vec<u64> {
    let store = ours(directory).await;
    set_up(&store, "shop").await;
    let mut ends = Vec::new();
    for number in 0..count {
        store.commit(&sale(number, 1 << number)).await.unwrap();
        ends.push(fs::metadata(directory.join(SEGMENT)).unwrap().len());
    }
    store.shutdown().await;
    ends
}

#[tokio::test]
async fn a_log_cut_anywhere_in_its_last_frame_loses_that_frame_and_goes_on() {
    let original = tempfile::tempdir().unwrap();
    let ends = made(original.path(), 3).await;
    let bytes = fs::read(original.path().join(SEGMENT)).unwrap();
    for cut in ends[1]..ends[2] {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(original.path(), directory.path());
        fs::write(directory.path().join(SEGMENT), &bytes[..cut as usize]).unwrap();
        let findings = check(directory.path()).unwrap().findings;
        assert_eq!(findings.len(), usize::from(cut > ends[1]), "cut at {cut}: {findings:?}");
        assert!(
            findings.iter().all(|finding| finding.problem.kind == BookFindingKind::TornTail
                && finding.offset == Some(ends[1]))
        );
        let store = ours(directory.path()).await;
        assert_eq!(cash(&store).await, 3, "cut at {cut}");
        assert_eq!(fs::metadata(directory.path().join(SEGMENT)).unwrap().len(), ends[1]);
        // The lost sale is posted again; a kept sale is not.
        for number in [1, 2] {
            store.commit(&sale(number, 1 << number)).await.unwrap();
        }
        store.shutdown().await;
        assert_eq!(fs::read_dir(directory.path().join("books/shop")).unwrap().count(), 1);
        let store = ours(directory.path()).await;
        assert_eq!(cash(&store).await, 7);
    }
}

#[tokio::test]
async fn a_flip_anywhere_is_found_and_no_whole_frame_behind_it_is_destroyed() {
    let original = tempfile::tempdir().unwrap();
    let ends = made(original.path(), 4).await;
    let bytes = fs::read(original.path().join(SEGMENT)).unwrap();
    for at in (0..bytes.len()).step_by(3) {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(original.path(), directory.path());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(directory.path().join(SEGMENT), &flipped).unwrap();
        assert_eq!(check(directory.path()).unwrap().findings.len(), 1, "flip at {at}");
        let store = ours(directory.path()).await;
        let kept = ends.iter().filter(|end| **end <= at as u64).count();
        let start = fs::metadata(directory.path().join(SEGMENT)).unwrap().len() as usize;
        assert!(start <= at);
        if kept > 0 {
            assert_eq!(cash(&store).await, (1 << kept) - 1, "flip at {at}");
        }
        store.shutdown().await;
        let saved = directory.path().join(format!("{SEGMENT}.torn"));
        if kept < 3 {
            assert_eq!(fs::read(&saved).unwrap(), flipped[start..], "flip at {at}");
        }
        // The saved bytes stay after the next repair.
        let again = ours(directory.path()).await;
        again.shutdown().await;
        published(directory.path(), &NEVER_SNAPSHOT).await.shutdown().await;
    }
}

#[tokio::test]
async fn zeros_and_garbage_behind_the_log_are_cut() {
    for tail in [&[0_u8; 5000][..], &[0; 3], &[0xff; 40], b"\x02\0\0\0\xff\xff\xff\xff{}"] {
        let directory = tempfile::tempdir().unwrap();
        let ends = made(directory.path(), 2).await;
        let mut bytes = fs::read(directory.path().join(SEGMENT)).unwrap();
        bytes.extend_from_slice(tail);
        fs::write(directory.path().join(SEGMENT), bytes).unwrap();
        let store = ours(directory.path()).await;
        assert_eq!(cash(&store).await, 3);
        assert_eq!(fs::metadata(directory.path().join(SEGMENT)).unwrap().len(), ends[1]);
    }
}

async fn many_segments(directory: &Path) -> Vec<PathBuf> {
    let options = LogStoreOptions { segment_max: 1200, ..NEVER_SNAPSHOT };
    let store = ours_with(directory, &options).await;
    set_up(&store, "shop").await;
    post(&store, 0..20).await;
    store.shutdown().await;
    files(directory, "")
}

#[tokio::test]
async fn a_missing_segment_is_noticed_unless_it_is_the_last() {
    let original = tempfile::tempdir().unwrap();
    let count = many_segments(original.path()).await.len();
    assert!(count > 5);
    for missing in 0..count {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(original.path(), directory.path());
        let segments = files(directory.path(), "");
        fs::remove_file(&segments[missing]).unwrap();
        let opened = LogTaleaStore::open(directory.path()).await;
        if missing + 1 == count {
            opened.unwrap();
            continue;
        }
        let error = opened.unwrap_err();
        assert!(matches!(error, StoreError::Io(_)));
        let next = segments[missing + 1].file_name().unwrap().to_string_lossy().into_owned();
        assert!(error.to_string().contains(&next), "{error}");
        assert_eq!(check(directory.path()).unwrap().findings[0].problem.kind, BookFindingKind::Gap);
    }
}

#[tokio::test]
async fn damage_in_two_sealed_segments_is_reported_twice_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let segments = many_segments(directory.path()).await;
    flip(&segments[1], 20);
    flip(&segments[3], 20);
    let before: Vec<Vec<u8>> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    let findings = check(directory.path()).unwrap().findings;
    let found: Vec<_> = findings.iter().map(|finding| (finding.file.clone(), finding.offset)).collect();
    assert_eq!(found, [(segments[1].clone(), Some(0)), (segments[3].clone(), Some(0))]);
    LogTaleaStore::open(directory.path()).await.unwrap_err();
    let after: Vec<Vec<u8>> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
}

/// The names of [`files`].
fn names(directory: &Path, ending: &str) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files(directory, ending).into_iter().map(name).collect()
}

/// Where the frames of a segment start.
fn frame_starts(bytes: &[u8]) -> Vec<u64> {
    let (mut at, mut starts) = (0, Vec::new());
    while at < bytes.len() {
        starts.push(at as u64);
        at += 8 + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    }
    starts
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// The findings of a check: kind, file name, offset.
fn told(directory: &Path) -> Vec<(BookFindingKind, String, Option<u64>)> {
    let found = check(directory).unwrap().findings.into_iter();
    found
        .map(|finding| {
            let name = finding.file.file_name().unwrap().to_string_lossy().into_owned();
            (finding.problem.kind, name, finding.offset)
        })
        .collect()
}

fn everything(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_check_goes_on_behind_damage_and_says_each_thing_once() {
    let original = tempfile::tempdir().unwrap();
    let options = LogStoreOptions { idem_hot_cap: 4, snapshot_every: 0, segment_max: 2200 };
    let store = ours_with(original.path(), &options).await;
    set_up(&store, "shop").await;
    for number in 0..30 {
        post(&store, number..number + 1).await;
        if number == 12 || number == 25 {
            store.snapshot_now("shop").await.unwrap();
        }
    }
    store.shutdown().await;
    assert_eq!(told(original.path()), []);
    let shop = original.path().join("books/shop");
    let [segments, snapshots, runs] = [".log", ".snap", ".run"].map(|ending| names(original.path(), ending));
    assert!(segments.len() > 5 && snapshots.len() == 2 && runs.len() > 2);
    let starts = |name: &str| frame_starts(&fs::read(shop.join(name)).unwrap());
    let damaged = |damage: &dyn Fn(&Path)| {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(original.path(), directory.path());
        damage(&directory.path().join("books/shop"));
        let before = everything(directory.path());
        let told = told(directory.path());
        assert_eq!(everything(directory.path()), before, "a check changes nothing");
        told
    };
    let frame = BookFindingKind::DamagedFrame;
    let (second, third) = (starts(&segments[1]), starts(&segments[2]));
    assert!(second.len() > 4);
    // Damage in two frames of one segment, once in the length, and in a third frame of a later segment.
    let found = damaged(&|shop| {
        flip(&shop.join(&segments[1]), second[1] + 20);
        flip(&shop.join(&segments[1]), second[3] + 1);
        flip(&shop.join(&segments[2]), third[2] + 30);
        flip(&shop.join(&runs[1]), 40);
        flip(&shop.join(&snapshots[1]), 40);
    });
    let at = |name: &str, offset| (frame, name.to_owned(), Some(offset));
    assert_eq!(
        found,
        [
            at(&segments[1], second[1]),
            at(&segments[1], second[3]),
            at(&segments[2], third[2]),
            (BookFindingKind::DamagedSnapshot, snapshots[1].clone(), Some(0)),
            (BookFindingKind::DamagedRun, runs[1].clone(), Some(0)),
        ]
    );
    // A missing segment, and damage in the segment that follows it.
    let found = damaged(&|shop| {
        fs::remove_file(shop.join(&segments[1])).unwrap();
        flip(&shop.join(&segments[2]), third[1] + 20);
        fs::remove_file(shop.join(&segments[4])).unwrap();
    });
    assert_eq!(
        found,
        [
            (BookFindingKind::Gap, segments[2].clone(), Some(0)),
            at(&segments[2], third[1]),
            (BookFindingKind::Gap, segments[5].clone(), Some(0)),
        ]
    );
    // A file that cannot be read.
    let found = damaged(&|shop| {
        fs::remove_file(shop.join(&segments[2])).unwrap();
        fs::create_dir(shop.join(&segments[2])).unwrap();
        flip(&shop.join(&segments[3]), 30);
    });
    assert_eq!(found, [(BookFindingKind::Unreadable, segments[2].clone(), None), at(&segments[3], 0)]);
    // Keys that the log does not have, reported once for each run; and names that other programs may write.
    let found = damaged(&|shop| {
        fs::copy(shop.join(&runs[0]), shop.join("idem-000099.run")).unwrap();
        let json = b"[[\"a\",{\"txid\":\"00000000-0000-0000-0000-000000000000\",\"seq\":5,\"at\":\"2026-01-01T00:00:00Z\"}],[\"b\",{\"txid\":\"00000000-0000-0000-0000-000000000000\",\"seq\":500,\"at\":\"2026-01-01T00:00:00Z\"}]]";
        let bytes = [&crc32fast::hash(json).to_le_bytes()[..], json].concat();
        fs::write(shop.join("idem-000100.run"), bytes).unwrap();
        fs::rename(shop.join(&segments[0]), shop.join("segment-1.log")).unwrap();
    });
    assert_eq!(found, [(BookFindingKind::WrongRun, "idem-000100.run".to_owned(), None)]);
    // The newest snapshot is lost, and a run with it, so keys are missing beside the older snapshot.
    let found = damaged(&|shop| {
        flip(&shop.join(&snapshots[1]), 40);
        fs::remove_file(shop.join(&runs[0])).unwrap();
    });
    assert_eq!(
        found,
        [
            (BookFindingKind::DamagedSnapshot, snapshots[1].clone(), Some(0)),
            (BookFindingKind::MissingKeys, snapshots[0].clone(), None),
        ]
    );
    // A check creates no lock file in a copy without one, and an empty store needs no directory.
    fs::remove_file(original.path().join("LOCK")).unwrap();
    assert_eq!(told(original.path()), []);
    assert!(!original.path().join("LOCK").exists());
    let empty = tempfile::tempdir().unwrap();
    check(empty.path()).unwrap_err();
    fs::write(empty.path().join("LOCK"), b"").unwrap();
    assert!(check(empty.path()).unwrap().status.books.is_empty());
}

#[tokio::test]
async fn a_snapshot_ahead_of_its_log_is_set_aside_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let ends = made(directory.path(), 5).await;
    let store = ours(directory.path()).await;
    store.snapshot_now("shop").await.unwrap();
    store.shutdown().await;
    let bytes = fs::read(directory.path().join(SEGMENT)).unwrap();
    fs::write(directory.path().join(SEGMENT), &bytes[..ends[2] as usize]).unwrap();
    assert_eq!(check(directory.path()).unwrap().findings[0].problem.kind, BookFindingKind::WrongSnapshot);
    let store = ours(directory.path()).await;
    assert_eq!(cash(&store).await, 7);
    let book = Book("shop".into());
    let rows = store.trial_balance(&book, None).await.unwrap();
    assert_eq!(rows, store.trial_balance(&book, chrono::DateTime::from_timestamp(1 << 33, 0)).await.unwrap());
    // Other events get the numbers of the snapshot's events.
    for number in 10..20 {
        store.commit(&transfer(number, &format!("n{number}"), "shop", "cash", "sales", 100)).await.unwrap();
    }
    store.shutdown().await;
    let store = ours(directory.path()).await;
    assert_eq!(cash(&store).await, 1007);
    store.shutdown().await;
    assert!(check(directory.path()).unwrap().ok);
    let back = published(directory.path(), &NEVER_SNAPSHOT).await;
    assert_eq!(cash(&back).await, 1007);
}

#[tokio::test]
async fn leftovers_are_removed_and_strangers_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    made(directory.path(), 2).await;
    let shop = directory.path().join("books/shop");
    for name in
        ["snapshot-00000000000000000003.snap.tmp", "idem-000000.run.tmp", "notes.txt", "segment-x.log"]
    {
        fs::write(shop.join(name), b"?").unwrap();
    }
    fs::write(directory.path().join("books/README"), b"?").unwrap();
    let store = ours(directory.path()).await;
    assert_eq!(cash(&store).await, 3);
    assert_eq!(
        names(directory.path(), ""),
        ["notes.txt", "segment-00000000000000000001.log", "segment-x.log"]
    );
}

#[tokio::test]
async fn a_torn_frame_that_a_snapshot_knows_of_is_saved_before_it_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let ends = made(directory.path(), 3).await;
    let store = ours(directory.path()).await;
    store.snapshot_now("shop").await.unwrap();
    store.shutdown().await;
    let segment = directory.path().join(SEGMENT);
    let torn = ends[2] - 5;
    fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(torn).unwrap();
    let bytes = fs::read(&segment).unwrap();
    let (store, recovery) = book::open(directory.path(), &NEVER_SNAPSHOT).await.unwrap();
    assert_eq!(cash(&store).await, 3);
    let [cut] = &recovery.truncated[..] else { panic!("{recovery:?}") };
    assert_eq!((cut.length, cut.from_length), (ends[1], torn));
    let saved = cut.saved_as.as_ref().unwrap();
    assert_eq!(fs::read(saved).unwrap(), bytes[ends[1] as usize..]);
}

#[tokio::test]
async fn a_torn_frame_that_a_run_knows_of_is_saved_before_it_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogStoreOptions { idem_hot_cap: 2, ..NEVER_SNAPSHOT };
    let store = ours_with(directory.path(), &options).await;
    set_up(&store, "shop").await;
    post(&store, 0..3).await;
    store.shutdown().await;
    let run = directory.path().join("books/shop/idem-000000.run");
    assert!(run.exists());
    // The run has the first sale; the log ends inside this sale.
    let segment = directory.path().join(SEGMENT);
    let bytes = fs::read(&segment).unwrap();
    let starts = frame_starts(&bytes);
    let (start, cut) = (starts[2] as usize, starts[3] as usize - 1);
    fs::write(&segment, &bytes[..cut]).unwrap();
    let (store, recovery) = book::open(directory.path(), &NEVER_SNAPSHOT).await.unwrap();
    assert_eq!(cash(&store).await, 0);
    let saved = recovery.truncated[0].saved_as.clone().unwrap();
    assert_eq!(fs::read(saved).unwrap(), bytes[start..cut]);
}

#[tokio::test]
async fn a_refused_book_leaves_the_others_as_they_are_and_the_report_to_the_next_opening() {
    let directory = tempfile::tempdir().unwrap();
    many_segments(directory.path()).await;
    let books = directory.path().join("books");
    copy_tree(&books.join("shop"), &books.join("a"));
    let first = |book: &str| books.join(book).join("segment-00000000000000000001.log");
    let whole = fs::read(first("shop")).unwrap();
    flip(&first("shop"), 20);
    let mut last: Vec<PathBuf> =
        fs::read_dir(books.join("a")).unwrap().map(|at| at.unwrap().path()).collect();
    last.sort();
    let last = last.pop().unwrap();
    let torn = [fs::read(&last).unwrap(), vec![0xff; 40]].concat();
    fs::write(&last, &torn).unwrap();
    let refused = LogTaleaStore::open(directory.path()).await.unwrap_err().to_string();
    assert!(refused.contains("this file was not changed"), "{refused}");
    assert_eq!(fs::read(&last).unwrap(), torn);
    fs::write(first("shop"), &whole).unwrap();
    let (_store, recovery) = book::open(directory.path(), &NEVER_SNAPSHOT).await.unwrap();
    let [cut] = &recovery.truncated[..] else { panic!("{recovery:?}") };
    assert_eq!((&cut.file, cut.from_length - cut.length), (&last, 40));
}

#[tokio::test]
async fn a_segment_or_a_run_with_an_absurd_number_is_refused_without_taking_memory_for_it() {
    let json = b"[[\"a\",{\"txid\":\"00000000-0000-0000-0000-000000000000\",\"seq\":9000000000000000000,\"at\":\"2026-01-01T00:00:00Z\"}]]";
    let run = [&crc32fast::hash(json).to_le_bytes()[..], json].concat();
    for base in ["9223372036854775807", "09000000000000000000"] {
        for alone in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            made(directory.path(), 2).await;
            let segment = directory.path().join(SEGMENT);
            let absurd = directory.path().join(format!("books/shop/segment-{base}.log"));
            fs::copy(&segment, &absurd).unwrap();
            if alone {
                fs::remove_file(&segment).unwrap();
            }
            fs::write(directory.path().join("books/shop/idem-000000.run"), &run).unwrap();
            let error = LogTaleaStore::open(directory.path()).await.unwrap_err().to_string();
            assert!(error.contains("events are missing"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_run_or_a_snapshot_with_the_highest_number_leaves_room_for_the_next_one() {
    let options = LogStoreOptions { idem_hot_cap: 2, ..LogStoreOptions::default() };
    let directory = tempfile::tempdir().unwrap();
    let book = directory.path().join("books/shop");
    let open = || LogTaleaStore::open_with(directory.path(), options.clone());
    made(directory.path(), 2).await;
    let store = open().await.unwrap();
    store.snapshot_now("shop").await.unwrap();
    store.shutdown().await;
    for name in ["idem-18446744073709551615.run", "idem-18446744073709551614.run"] {
        let empty = [&crc32fast::hash(b"[]").to_le_bytes()[..], b"[]"].concat();
        fs::write(book.join(name), empty).unwrap();
    }
    fs::copy(book.join("snapshot-00000000000000000004.snap"), book.join("snapshot-9223372036854775807.snap"))
        .unwrap();
    let findings = check(directory.path()).unwrap().findings;
    assert!(
        matches!(&findings[..], [one] if one.problem.kind == BookFindingKind::DamagedSnapshot),
        "{findings:?}"
    );
    for round in 0..3 {
        let store = open().await.unwrap();
        for number in 0..12 {
            let key = format!("k{}", round * 6 + number);
            store.commit(&transfer(round * 6 + number, &key, "shop", "cash", "sales", 1)).await.unwrap();
        }
        store.shutdown().await;
    }
    let store = open().await.unwrap();
    assert_eq!(cash(&store).await, 3 + 22);
    store.shutdown().await;
    let names = names(directory.path(), "");
    assert!(names.iter().any(|name| name.starts_with("idem-0000")), "{names:?}");
    assert!(names.contains(&"snapshot-9223372036854775807.snap.stale".to_owned()), "{names:?}");
    assert!(check(directory.path()).unwrap().ok);
}

#[tokio::test]
async fn a_segment_that_is_a_symbolic_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    many_segments(directory.path()).await;
    let known = book::status(directory.path()).unwrap();
    let shop = known.books.iter().find(|book| book.book == "shop").unwrap();
    assert!(shop.segments > 1 && shop.segments_bytes > 1200 && shop.events == 0, "{shop:?}");
    let elsewhere = tempfile::tempdir().unwrap();
    let segment = directory.path().join(SEGMENT);
    let target = elsewhere.path().join("segment");
    fs::rename(&segment, &target).unwrap();
    std::os::unix::fs::symlink(&target, &segment).unwrap();
    let refused = LogTaleaStore::open(directory.path()).await.unwrap_err().to_string();
    assert!(refused.contains("symbolic links are not followed here"), "{refused}");
    let findings = check(directory.path()).unwrap().findings;
    assert!(findings.iter().any(|one| one.problem.kind == BookFindingKind::Unreadable), "{findings:?}");
}

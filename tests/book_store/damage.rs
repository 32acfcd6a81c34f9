//! Damage, byte by byte: the last frame cut everywhere, every byte flipped, files lost and exchanged.

use std::fs;
use std::path::{Path, PathBuf};

use relayburn_ledger::book::{FindingKind, LogTaleaStore, check};
use talea_core::store::{Store, StoreError};
use talea_core::types::Book;

use super::support::*;

const SEGMENT: &str = "books/shop/segment-00000000000000000001.log";

/// USD, two accounts and `count` sales of 1, 2, 4, ... each in a batch of its own; the offsets behind each event.
async fn made(directory: &Path, count: u64) -> Vec<u64> {
    let store = ours(directory).await;
    set_up(&store, "shop").await;
    let mut ends = Vec::new();
    for number in 0..count {
        store
            .commit(&transfer(number, &format!("k{number}"), "shop", "cash", "sales", 1 << number))
            .await
            .unwrap();
        ends.push(fs::metadata(directory.join(SEGMENT)).unwrap().len());
    }
    store.shutdown().await;
    ends
}

async fn cash(store: &LogTaleaStore) -> i64 {
    store.balance(&account("shop", "cash"), None).await.unwrap().amount.minor()
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
            findings
                .iter()
                .all(|finding| finding.kind == FindingKind::TornTail && finding.offset == Some(ends[1]))
        );
        let store = ours(directory.path()).await;
        assert_eq!(cash(&store).await, 3, "cut at {cut}");
        assert_eq!(fs::metadata(directory.path().join(SEGMENT)).unwrap().len(), ends[1]);
        // The lost one is posted anew, a kept one is not.
        for number in [1, 2] {
            store
                .commit(&transfer(number, &format!("k{number}"), "shop", "cash", "sales", 1 << number))
                .await
                .unwrap();
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
        // Whatever was saved stays through the next repair.
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
    let options = relayburn_ledger::book::LogStoreOptions { segment_max: 1200, ..NEVER_SNAPSHOT };
    let store = LogTaleaStore::open_with(directory, options).await.unwrap();
    set_up(&store, "shop").await;
    for number in 0..20 {
        store.commit(&transfer(number, &format!("k{number}"), "shop", "cash", "sales", 1)).await.unwrap();
    }
    store.shutdown().await;
    let mut segments: Vec<PathBuf> =
        fs::read_dir(directory.join("books/shop")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    segments
}

#[tokio::test]
async fn a_missing_segment_is_noticed_unless_it_is_the_last() {
    let original = tempfile::tempdir().unwrap();
    let count = many_segments(original.path()).await.len();
    assert!(count > 5);
    for missing in 0..count {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(original.path(), directory.path());
        let mut segments: Vec<PathBuf> = fs::read_dir(directory.path().join("books/shop"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        segments.sort();
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
        assert_eq!(check(directory.path()).unwrap().findings[0].kind, FindingKind::Gap);
    }
}

#[tokio::test]
async fn damage_in_two_sealed_segments_is_reported_twice_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let segments = many_segments(directory.path()).await;
    for segment in [&segments[1], &segments[3]] {
        let mut bytes = fs::read(segment).unwrap();
        bytes[20] ^= 4;
        fs::write(segment, bytes).unwrap();
    }
    let before: Vec<Vec<u8>> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    let findings = check(directory.path()).unwrap().findings;
    let found: Vec<_> = findings.iter().map(|finding| (finding.file.clone(), finding.offset)).collect();
    assert_eq!(found, [(segments[1].clone(), Some(0)), (segments[3].clone(), Some(0))]);
    LogTaleaStore::open(directory.path()).await.unwrap_err();
    let after: Vec<Vec<u8>> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
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
    assert_eq!(check(directory.path()).unwrap().findings[0].kind, FindingKind::WrongSnapshot);
    let store = ours(directory.path()).await;
    assert_eq!(cash(&store).await, 7);
    let book = Book("shop".into());
    let rows = store.trial_balance(&book, None).await.unwrap();
    assert_eq!(rows, store.trial_balance(&book, chrono::DateTime::from_timestamp(1 << 33, 0)).await.unwrap());
    // Other events take the numbers the snapshot speaks of.
    for number in 10..20 {
        store.commit(&transfer(number, &format!("n{number}"), "shop", "cash", "sales", 100)).await.unwrap();
    }
    store.shutdown().await;
    let store = ours(directory.path()).await;
    assert_eq!(cash(&store).await, 1007);
    store.shutdown().await;
    assert!(check(directory.path()).unwrap().ok);
    let back = published(directory.path(), &NEVER_SNAPSHOT).await;
    assert_eq!(back.balance(&account("shop", "cash"), None).await.unwrap().amount.minor(), 1007);
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
    let mut names: Vec<String> =
        fs::read_dir(&shop).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["notes.txt", "segment-00000000000000000001.log", "segment-x.log"]);
}

//! Stores and the wrong journals, and stores of earlier programs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::super::tests::MemoryStore;
use super::super::{HybridStore, IngestError, Ingestor, KVStore};
use crate::journal::{Cursor, JournalOptions, JournalReader, SegmentManager, cursors, status};

/// Appends records that nobody understands: each is set aside under its offset. Answers where the journal then ends.
fn append(journal: &Path, count: usize) -> u64 {
    let options = JournalOptions { max_segment_bytes: 400, ..JournalOptions::default() };
    let journal = crate::journal::open(journal, &options).unwrap().0;
    journal.append_batch(&vec![b"odd"; count]).unwrap();
    let end = journal.end();
    journal.close().unwrap();
    end
}

/// Drains `journal` into `store` and answers how many records there were.
fn drain<S: KVStore>(journal: &Path, store: S) -> Result<(u64, S), IngestError> {
    let mut ingestor = Ingestor::new(JournalReader::open(journal)?, store)?;
    let records = ingestor.drain()?.records;
    Ok((records, ingestor.into_store()?))
}

fn drain_into(journal: &Path, store: &Path) -> Result<u64, IngestError> {
    drain(journal, HybridStore::open(store)?).map(|(records, _)| records)
}

/// A store as an earlier program left it: an offset, and no journal.
fn earlier_store(offset: u64) -> MemoryStore {
    let store = MemoryStore::default();
    store.put_batch(&[(b"C:offset".to_vec(), offset.to_le_bytes().to_vec())]).unwrap();
    store
}

#[test]
fn another_journal_is_refused_with_both_paths_and_nothing_of_it_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().canonicalize().unwrap().join(name);
    append(&at("a"), 10);
    append(&at("b"), 15);
    assert_eq!(drain_into(&at("a"), &at("store")).unwrap(), 10);
    let refused = drain_into(&at("b"), &at("store")).unwrap_err();
    assert!(matches!(refused, IngestError::OtherJournal { .. }), "{refused}");
    for path in ["a", "b", "store"] {
        assert!(refused.to_string().contains(at(path).to_str().unwrap()), "{refused}");
    }
    assert_eq!(cursors(&at("b")).unwrap(), [], "it has no cursor of that store");
    assert_eq!(drain_into(&at("b"), &at("other")).unwrap(), 15);
    // The journal is known by what it is, not by where it is.
    fs::rename(at("a"), at("moved")).unwrap();
    append(&at("moved"), 3);
    assert_eq!(drain_into(&at("moved"), &at("store")).unwrap(), 3);
}

#[test]
fn a_journal_that_was_begun_again_is_refused_also_while_it_is_drained() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, store) = (directory.path().join("journal"), directory.path().join("store"));
    for begun_again in [2, 4, 40] {
        append(&journal, 4);
        let mut ingestor =
            Ingestor::new(JournalReader::open(&journal).unwrap(), HybridStore::open(&store).unwrap())
                .unwrap();
        assert_eq!(ingestor.drain().unwrap().records, 4);
        fs::remove_dir_all(&journal).unwrap();
        append(&journal, begun_again);
        let meanwhile = ingestor.drain();
        assert!(matches!(meanwhile, Err(IngestError::OtherJournal { .. })), "{meanwhile:?}");
        drop(ingestor.into_store().unwrap());
        let refused = drain_into(&journal, &store).unwrap_err();
        assert!(matches!(refused, IngestError::OtherJournal { .. }), "{refused}");
        assert!(refused.to_string().contains("move the store away"), "{refused}");
        fs::remove_dir_all(&store).unwrap();
        assert_eq!(drain_into(&journal, &store).unwrap(), begun_again as u64);
        fs::remove_dir_all(&store).unwrap();
        fs::remove_dir_all(&journal).unwrap();
    }
}

#[test]
fn cleanup_keeps_what_the_slower_of_two_stores_has_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, slow, fast) =
        (directory.path().join("journal"), directory.path().join("slow"), directory.path().join("fast"));
    append(&journal, 20);
    assert_eq!(drain_into(&journal, &slow).unwrap(), 20);
    append(&journal, 30);
    assert_eq!(drain_into(&journal, &fast).unwrap(), 50);
    let names: Vec<String> = cursors(&journal).unwrap().into_iter().map(|cursor| cursor.name).collect();
    assert!(names.len() == 2 && names[0].starts_with("ingest-fast-") && names[1].starts_with("ingest-slow-"));
    assert!(!SegmentManager::open(&journal).unwrap().cleanup().unwrap().deleted.is_empty());
    assert_eq!(drain_into(&journal, &slow).unwrap(), 30, "all that it had not read");
    SegmentManager::open(&journal).unwrap().cleanup().unwrap();
    assert_eq!(status(&journal).unwrap().segments.len(), 1);
    // Put back from a copy it holds cleanup up again, before it has drained anything.
    let slow_cursor = || cursors(&journal).unwrap()[1].clone();
    let read = slow_cursor().offset;
    let end = append(&journal, 5);
    Cursor::open(&journal, &slow_cursor().name).unwrap().set(end).unwrap();
    drop(Ingestor::new(JournalReader::open(&journal).unwrap(), HybridStore::open(&slow).unwrap()).unwrap());
    assert_eq!(slow_cursor().offset, read);
}

#[test]
fn a_store_of_an_earlier_program_is_taken_only_where_a_cursor_shows_that_it_is_of_this_journal() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let end = append(&journal, 10);
    let refused = |offset| {
        let refused = drain(&journal, earlier_store(offset)).unwrap_err();
        assert!(matches!(refused, IngestError::UnknownJournal { .. }), "{offset}: {refused}");
        assert!(refused.to_string().contains(journal.canonicalize().unwrap().to_str().unwrap()), "{refused}");
    };
    refused(end);
    assert_eq!(cursors(&journal).unwrap(), []);
    let record_len = end / 10;
    Cursor::open(&journal, "ingest").unwrap().set(4 * record_len).unwrap();
    for offset in [0, 3 * record_len, 5 * record_len + 1, end + 1, end + record_len] {
        refused(offset);
    }
    // At the cursor, and where a crash after the store's transaction left it.
    for (offset, left) in [(4, 6), (5, 5), (10, 0)] {
        Cursor::open(&journal, "ingest").unwrap().set(4 * record_len).unwrap();
        let (records, store) = drain(&journal, earlier_store(offset * record_len)).unwrap();
        assert_eq!(records, left);
        assert_eq!(drain(&journal, store).unwrap().0, 0, "it is bound now");
    }
}

#[test]
fn an_adopted_store_gets_a_cursor_of_its_own_in_place_of_the_shared_one() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, store) = (directory.path().join("journal"), directory.path().join("store"));
    let end = append(&journal, 10);
    for (at, shared_is_left) in [(end, false), (end / 2, true)] {
        Cursor::open(&journal, "ingest").unwrap().set(at).unwrap();
        let earlier = HybridStore::open(&store).unwrap();
        earlier.put_batch(&earlier_store(end).scan_prefix(b"").unwrap()).unwrap();
        drop(earlier);
        assert_eq!(drain_into(&journal, &store).unwrap(), 0);
        let found = cursors(&journal).unwrap();
        let shared = found.iter().find(|cursor| cursor.name == "ingest").map(|cursor| cursor.offset);
        // One that stands elsewhere may be that of another store.
        assert_eq!(shared, shared_is_left.then_some(at));
        let own = found.iter().find(|cursor| cursor.name.starts_with("ingest-store-")).unwrap();
        assert_eq!(own.offset, end);
        fs::remove_dir_all(&store).unwrap();
        fs::remove_dir_all(journal.join("cursors")).unwrap();
    }
}

#[test]
fn a_store_with_other_things_under_its_keys_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, path) = (directory.path().join("journal"), directory.path().join("store"));
    append(&journal, 1);
    for key in ["C:offset", "C:journal"] {
        let store = HybridStore::open(&path).unwrap();
        store.put_batch(&[(key.as_bytes().to_vec(), b"short".to_vec())]).unwrap();
        drop(store);
        let refused = drain_into(&journal, &path).unwrap_err().to_string();
        let named = path.canonicalize().unwrap();
        assert!(refused.contains(named.to_str().unwrap()) && refused.contains(key), "{refused}");
        fs::remove_dir_all(&path).unwrap();
    }
}

//! Lines reach the ledger once, byte for byte as direct appends write them, whichever operation fails, whenever the power
//! goes, and whatever becomes of store, note and ledger.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use super::super::tests::MemoryStore;
use super::super::{Ingestor, queue_ledger_lines};
use super::*;
use crate::disk::faults::{Harness, each_failure};
use crate::home::Home;
use crate::journal::JournalReader;

fn turn(id: &str, tokens: u32) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"codex","sessionId":"s1","messageId":"{id}","turnIndex":0,"ts":"2026-04-20T00:00:00.000Z","model":"m","usage":{{"input":{tokens},"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]}}}}"#
    )
}

fn stamp(enrichment: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"stamp","ts":"2026-04-20T00:00:00.000Z","selector":{{"sessionId":"s1"}},"enrichment":{{{enrichment}}}}}"#
    )
}

/// Batches with everything that makes a delivery differ from another: stamps, equal stamps, a stamp that implies a
/// relationship, turns with one fingerprint in one batch and in two, a record that is there already, one that is refused.
fn batches() -> Vec<Vec<String>> {
    let tier = stamp(r#""tier":"gold""#);
    vec![
        vec![turn("a", 1), stamp(r#""parentAgentId":"p""#), turn("b", 1), tier.clone()],
        vec![turn("c", 1), turn("d", 2)],
        vec![tier.clone(), tier],
        vec![turn("a", 1), r#"{"v":1,"kind":"turn","record":{}}"#.to_owned(), turn("e", 3)],
        vec![turn("f", 4), turn("g", 4)],
    ]
}

/// The ledger that appends of those batches write, one after the other, each from where the one before ended.
fn expected(home: &Path) -> Vec<u8> {
    let ledger = Ledger::new(Home::at(home));
    for lines in batches() {
        let mut batch = Batch::new();
        for line in lines {
            // What is refused is left out, as it is set aside on the way here.
            let _ = batch.push_line(line.as_bytes());
        }
        ledger.append(&batch, &AppendOptions::default()).unwrap();
    }
    fs::read(ledger.home().ledger()).unwrap()
}

fn queue(journal: &Path, batches: &[Vec<String>]) {
    for lines in batches {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        queue_ledger_lines(journal, &lines, Duration::ZERO).unwrap();
    }
}

/// Journal and home in a directory of their own, and what the ledger must hold in the end.
fn queued() -> (tempfile::TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let expected = expected(&directory.path().join("elsewhere"));
    fs::remove_dir_all(directory.path().join("elsewhere")).unwrap();
    queue(&directory.path().join("journal"), &batches());
    (directory, expected)
}

fn home(directory: &Path) -> Home {
    Home::at(directory.join("home"))
}

/// Drains everything into the ledger and a store, and answers what the store then holds.
fn drain(directory: &Path, store: MemoryStore) -> Result<MemoryStore, super::super::IngestError> {
    let journal = directory.join("journal");
    let mut ingestor = Ingestor::new(JournalReader::open(&journal)?, store)?;
    ingestor.set_ledger_sink(ledger_sink(Ledger::new(home(directory)), &journal, &Interrupt::new()))?;
    ingestor.drain()?;
    ingestor.into_store()
}

/// What a killed or failed process may have left of locks: the next one waits until they are stale, a test does not.
fn remove_locks(home: &Home) {
    for entry in fs::read_dir(home.root()).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "lock" || extension == "rob") {
            fs::remove_file(path).unwrap();
        }
    }
}

fn ledger(directory: &Path) -> String {
    String::from_utf8(fs::read(home(directory).ledger()).unwrap()).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn batches_are_written_as_direct_appends_write_them() {
    let (directory, expected) = queued();
    let store = drain(directory.path(), MemoryStore::default()).unwrap();
    assert_eq!(ledger(directory.path()), text(&expected));
    // The canary of this comparison: there is something to tell apart.
    assert_eq!(text(&expected).matches("\"tier\":\"gold\"").count(), 3);
    assert_eq!(text(&expected).matches("\"kind\":\"relationship\"").count(), 1);
    assert!(text(&expected).contains("\"b\"") && !text(&expected).contains("\"c\""));
    use super::super::KVStore;
    let aside = store.scan_prefix(b"Q:").unwrap();
    assert_eq!(aside.len(), 1);
    assert!(String::from_utf8_lossy(&aside[0].1).contains("the ledger refused the line"));
    // Again with the store, without it, and without a cursor to say where it was.
    let held = store.scan_prefix(b"").unwrap();
    for again in [store, MemoryStore::default()] {
        let again = drain(directory.path(), again).unwrap();
        assert_eq!(again.scan_prefix(b"").unwrap(), held, "also what is set aside");
    }
    assert_eq!(ledger(directory.path()), text(&expected));
    queue(&directory.path().join("journal"), &[vec![stamp(r#""tier":"gold""#)]]);
    drain(directory.path(), MemoryStore::default()).unwrap();
    assert_eq!(ledger(directory.path()).matches("\"tier\":\"gold\"").count(), 4, "a new stamp is a new one");
}

#[test]
fn any_operation_of_a_delivery_may_fail() {
    let mut half_written = 0;
    each_failure(|harness| {
        let (directory, expected) = queued();
        let outcome = harness.run(|| drain(directory.path(), MemoryStore::default()));
        if let Err(error) = &outcome {
            assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
        }
        let landed = fs::read(home(directory.path()).ledger()).unwrap_or_default();
        half_written += usize::from(!landed.is_empty() && landed.len() < expected.len());
        remove_locks(&home(directory.path()));
        // More arrives before the next try.
        queue(&directory.path().join("journal"), &[vec![stamp(r#""tier":"late""#)]]);
        drain(directory.path(), MemoryStore::default()).unwrap();
        let late = stamp(r#""tier":"late""#);
        assert_eq!(ledger(directory.path()), format!("{}{late}\n", text(&expected)), "{harness:?}");
    });
    assert!(half_written > 0, "no write ended half-way");
}

#[test]
fn a_power_cut_at_any_moment_of_a_delivery_costs_and_repeats_no_line() {
    let (directory, expected) = queued();
    let harness = Harness::recording(directory.path());
    let mut acknowledged = usize::MAX;
    harness.run(|| {
        drain(directory.path(), MemoryStore::default()).unwrap();
        acknowledged = harness.events();
    });
    let mut images = 0;
    harness.each_image(|image| {
        images += 1;
        remove_locks(&home(image.path()));
        if image.after_events() >= acknowledged {
            assert_eq!(ledger(image.path()), text(&expected), "{image}: it was durable");
        }
        drain(image.path(), MemoryStore::default()).unwrap();
        let (found, mut wanted) = (ledger(image.path()), text(&expected).lines().collect::<Vec<_>>());
        // Half a line that the power cut left stays, ended, as a line that is no JSON.
        let is_whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
        let mut found: Vec<&str> = found.lines().filter(is_whole).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{image}");
    });
    assert!(images > 100, "{images} images");
}

/// Two turns with one fingerprint and two equal stamps, queued together.
fn alike() -> [Vec<String>; 1] {
    let tier = stamp(r#""tier":"gold""#);
    [vec![turn("f", 4), tier.clone(), turn("g", 4), tier, turn("h", 5)]]
}

#[test]
fn lines_queued_together_are_delivered_together_across_the_limit_of_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let filler = super::super::serialize_vote(&super::super::Vote {
        assertion: [7; 32],
        agent: "a".to_owned(),
        weight: 1.0,
        timestamp_ms: 1,
    })
    .unwrap();
    let writer = crate::journal::Journal::open(&journal).unwrap();
    writer.append_batch(&vec![filler; 16 * 1024 - 1]).unwrap();
    writer.close().unwrap();
    queue(&journal, &alike());
    let mut ingestor = Ingestor::new(JournalReader::open(&journal).unwrap(), MemoryStore::default()).unwrap();
    ingestor
        .set_ledger_sink(ledger_sink(Ledger::new(home(directory.path())), &journal, &Interrupt::new()))
        .unwrap();
    let drained = ingestor.drain_batch().unwrap();
    assert_eq!((drained.records, drained.ledger_lines, drained.duplicates), (16 * 1024 + 4, 5, 0));
    assert_eq!(ledger(directory.path()), alike()[0].join("\n") + "\n");
}

/// A journal with a batch of one and one whose lines are alike, its lines, and the ledger they make.
fn queued_alike(directory: &Path) -> (PathBuf, Vec<LedgerEntry>, String) {
    let journal = directory.join("journal");
    queue(&journal, &[vec![turn("a", 1)]]);
    queue(&journal, &alike());
    let entries = entries_of(&journal);
    (journal, entries, format!("{}\n{}\n", turn("a", 1), alike()[0].join("\n")))
}

/// The lines of a journal as its worker hands them over.
fn entries_of(journal: &Path) -> Vec<LedgerEntry> {
    let (mut entries, mut offset) = (Vec::new(), 0);
    let mut reader = JournalReader::open(journal).unwrap();
    while let Some(record) = reader.read(offset).unwrap() {
        offset = record.next_offset;
        let Ok(Payload::LedgerLine(QueuedLine { line, continues_batch })) = deserialize(record.payload)
        else {
            panic!("another record")
        };
        entries.push(LedgerEntry { offset: record.offset, line, continues_batch });
    }
    entries
}

/// A reader that looks while a batch is being queued across two segments gets the first part alone.
#[test]
fn a_batch_that_arrives_in_parts_is_written_as_a_whole_one() {
    for cut in 1..5 {
        let directory = tempfile::tempdir().unwrap();
        let (journal, entries, expected) = queued_alike(directory.path());
        let sink = || ledger_sink(Ledger::new(home(directory.path())), &journal, &Interrupt::new());
        let (early, late) = entries.split_at(1 + cut);
        assert_eq!(sink()(early).unwrap(), Delivered::default());
        // The second time as after a crash: the store's cursor was not moved. Lines of the first part are in no count.
        for duplicates in [0, late.len() as u64] {
            assert_eq!(sink()(late).unwrap(), Delivered { duplicates, refused: Vec::new() }, "{cut}");
            assert_eq!(ledger(directory.path()), expected, "{cut}");
        }
    }
}

#[test]
fn any_operation_of_the_delivery_of_a_later_part_may_fail() {
    each_failure(|harness| {
        let directory = tempfile::tempdir().unwrap();
        let (journal, entries, expected) = queued_alike(directory.path());
        let sink = || ledger_sink(Ledger::new(home(directory.path())), &journal, &Interrupt::new());
        let (early, late) = entries.split_at(3);
        assert_eq!(sink()(early).unwrap(), Delivered::default());
        let outcome = harness.run(|| sink()(late));
        remove_locks(&home(directory.path()));
        match outcome {
            Ok(delivered) => assert_eq!(delivered, Delivered::default()),
            Err(_) => assert!(sink()(late).unwrap().refused.is_empty()),
        }
        assert_eq!(ledger(directory.path()), expected, "{harness:?}");
    });
}

/// The ledger lost what an earlier part wrote, and gets it again with the later one, of which it has a line already: the
/// counts are those of the later part alone.
#[test]
fn what_is_written_again_of_an_earlier_part_is_in_no_count() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    queue(&journal, &[vec![turn("a", 1)], vec![turn("f", 4), turn("g", 5), turn("a", 1), turn("h", 6)]]);
    let entries = entries_of(&journal);
    let sink = || ledger_sink(Ledger::new(home(directory.path())), &journal, &Interrupt::new());
    let (early, late) = entries.split_at(2);
    assert_eq!(sink()(&early[..1]).unwrap(), Delivered::default());
    let first = ledger(directory.path());
    assert_eq!(sink()(&early[1..]).unwrap(), Delivered::default());
    let home = home(directory.path());
    fs::write(home.ledger(), &first).unwrap();
    Ledger::new(home).rebuild_index(crate::ledger::ExtraIds::Drop, &Interrupt::new()).unwrap();
    assert_eq!(sink()(late).unwrap(), Delivered { duplicates: 1, refused: Vec::new() });
    let expected = [turn("a", 1), turn("f", 4), turn("g", 5), turn("h", 6)].join("\n") + "\n";
    assert_eq!(ledger(directory.path()), expected);
}

/// The canary: without the note a crash between the append and the cursor doubles stamps, and the comparison sees it.
#[test]
fn a_missing_note_is_caught() {
    let (directory, expected) = queued();
    drain(directory.path(), MemoryStore::default()).unwrap();
    fs::remove_file(directory.path().join("journal/DELIVERED")).unwrap();
    drain(directory.path(), MemoryStore::default()).unwrap();
    assert_ne!(ledger(directory.path()), text(&expected));
}

#[test]
fn a_damaged_note_doubles_nothing_and_is_mended() {
    let (directory, expected) = queued();
    drain(directory.path(), MemoryStore::default()).unwrap();
    let note = directory.path().join("journal/DELIVERED");
    let whole = fs::read(&note).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(decode(&note, &flipped), Ok(Note::Damaged)), "bit {bit}");
    }
    for damaged in [&whole[..40], &[][..], &[whole.as_slice(), b"x"].concat()] {
        fs::write(&note, damaged).unwrap();
        drain(directory.path(), MemoryStore::default()).unwrap();
        assert_eq!(ledger(directory.path()), text(&expected));
        assert!(matches!(read_note(&note), Ok(Note::Read(_))));
    }
    let mut newer = whole;
    newer[8] = 3;
    let crc = crc32c::crc32c(&newer[..72]).to_le_bytes();
    newer[72..76].copy_from_slice(&crc);
    fs::write(&note, newer).unwrap();
    let refused = drain(directory.path(), MemoryStore::default()).unwrap_err().to_string();
    assert!(refused.contains("version 3") && refused.contains("DELIVERED"), "{refused}");
}

#[test]
fn a_ledger_that_was_emptied_or_rewritten_gets_what_it_lacks() {
    let (directory, expected) = queued();
    drain(directory.path(), MemoryStore::default()).unwrap();
    let home = home(directory.path());
    fs::remove_dir_all(home.root()).unwrap();
    drain(directory.path(), MemoryStore::default()).unwrap();
    assert_eq!(ledger(directory.path()), text(&expected));
    // Another order, as a program may leave it that writes the ledger anew: longer in front, so that lengths still fit.
    let mut lines: Vec<&str> = text(&expected).lines().collect();
    lines.reverse();
    let rewritten = format!("{{\"v\":9}}\n{}\n", lines.join("\n"));
    fs::write(home.ledger(), &rewritten).unwrap();
    drain(directory.path(), MemoryStore::default()).unwrap();
    assert_eq!(ledger(directory.path()), rewritten);
}

#[test]
fn lines_whose_ids_the_index_has_are_not_taken_for_lines_of_a_ledger_that_lost_them() {
    for left_bytes in [None, Some(0), Some(300)] {
        let (directory, expected) = queued();
        drain(directory.path(), MemoryStore::default()).unwrap();
        let home = home(directory.path());
        match left_bytes {
            None => fs::remove_file(home.ledger()).unwrap(),
            Some(len) => {
                fs::OpenOptions::new().write(true).open(home.ledger()).unwrap().set_len(len).unwrap()
            }
        }
        let left = fs::read(home.ledger()).ok();
        let error = drain(directory.path(), MemoryStore::default()).unwrap_err().to_string();
        assert!(error.contains("ledger.idx"), "{error}");
        assert_eq!(fs::read(home.ledger()).ok(), left, "{left_bytes:?}: nothing is delivered");
        // The remedy that the error names.
        match left_bytes {
            None => fs::remove_file(home.ids_index()).unwrap(),
            Some(_) => {
                Ledger::new(home.clone()).rebuild_index(ExtraIds::Drop, &Interrupt::new()).unwrap();
            }
        }
        drain(directory.path(), MemoryStore::default()).unwrap();
        let delivered = ledger(directory.path());
        for line in text(&expected).lines() {
            let times = |text: &str| text.lines().filter(|other| *other == line).count();
            assert_eq!(times(&delivered), times(text(&expected)), "{left_bytes:?}: {line}");
        }
    }
}

#[test]
fn two_ingestors_of_one_journal_deliver_once() {
    let (directory, expected) = queued();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| drain(directory.path(), MemoryStore::default()).unwrap());
        }
    });
    assert_eq!(ledger(directory.path()), text(&expected));
}

//! Measures commits, opening and recovery of the journal, and the drain of the ingestor.
//!
//! `cargo bench --bench journal -- commits|recovery|queue|ingest [DIRECTORY]`: without a part all of them. Files are in
//! DIRECTORY (default: a new directory in the system's temporary directory), whose disk decides the cost of a sync.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use okaywal::{LogVoid, WriteAheadLog};
use relayburn_ledger::ingest::{
    Assertion, HybridStore, Ingestor, Vote, queue_ledger_lines, serialize_assertion, serialize_vote,
};
use relayburn_ledger::journal::{
    self, DurabilityLevel, GroupCommitBuffer, GroupCommitOptions, Journal, JournalOptions, OnCorruption,
    OpenCheck, recover,
};

const PAYLOAD_LEN: usize = 1024;
const RUN: Duration = Duration::from_millis(300);
const ROUNDS: usize = 11;
const CALLERS: [usize; 3] = [1, 16, 128];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wants = |part: &str| args.first().is_none_or(|first| first == part);
    let directory = match args.get(1) {
        Some(parent) => tempfile::tempdir_in(parent).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    if wants("commits") {
        commits(directory.path());
    }
    if wants("recovery") {
        recovery(directory.path());
    }
    if wants("queue") {
        queue(directory.path());
    }
    if wants("ingest") {
        ingest(directory.path());
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The time to append one record's bytes to a file and sync it, in microseconds.
fn sync_latency_us(directory: &Path) -> f64 {
    let path = directory.join("sync");
    let mut file = File::create(&path).unwrap();
    let samples = (0..50)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&[7; PAYLOAD_LEN + 40]).unwrap();
            file.sync_data().unwrap();
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    std::fs::remove_file(path).unwrap();
    median(samples)
}

/// Commits a second of `callers` threads that each call `commit` again and again.
fn threads(callers: usize, commit: impl Fn() + Sync) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    commit();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(RUN);
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn immediate(directory: &Path, callers: usize) -> f64 {
    let journal = Journal::open(directory).unwrap();
    threads(callers, || {
        journal.append(&[7; PAYLOAD_LEN]).unwrap();
    })
}

fn group_commit(directory: &Path, callers: usize) -> f64 {
    let journal = Arc::new(Journal::open(directory).unwrap());
    let buffer = Arc::new(GroupCommitBuffer::new(journal, GroupCommitOptions::default()).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (buffer, stop, count) = (buffer.clone(), stop.clone(), count.clone());
            runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    buffer.append(&[7; PAYLOAD_LEN]).await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    std::thread::sleep(RUN);
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
        buffer.close().await;
    });
    count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn okaywal(directory: &Path, callers: usize) -> f64 {
    let log = WriteAheadLog::recover(directory, LogVoid).unwrap();
    let rate = threads(callers, || {
        let mut entry = log.begin_entry().unwrap();
        entry.write_chunk(&[7; PAYLOAD_LEN]).unwrap();
        entry.commit().unwrap();
    });
    log.shutdown().unwrap();
    rate
}

/// The subjects run alternately, so that a slow moment of the disk affects all of them; ratios are taken within a
/// round.
fn commits(directory: &Path) {
    println!(
        "commits of {PAYLOAD_LEN} bytes a second, medians of {ROUNDS} rounds in turns; ratios to okaywal"
    );
    println!("callers  immediate   ratio  group commit   ratio  okaywal  one write and sync");
    for callers in CALLERS {
        let mut columns: [Vec<f64>; 6] = Default::default();
        for round in 0..ROUNDS {
            let fresh = |name: &str| directory.join(format!("{name}-{callers}-{round}"));
            let immediate = immediate(&fresh("immediate"), callers);
            let group = group_commit(&fresh("group"), callers);
            let okaywal = okaywal(&fresh("okaywal"), callers);
            let sync_us = sync_latency_us(directory);
            let row = [immediate, immediate / okaywal, group, group / okaywal, okaywal, sync_us];
            columns.iter_mut().zip(row).for_each(|(column, figure)| column.push(figure));
        }
        let [immediate, to_immediate, group, to_group, okaywal, sync_us] = columns.map(median);
        println!(
            "{callers:7}  {immediate:9.0}  {to_immediate:6.2}  {group:12.0}  {to_group:6.2}  {okaywal:7.0}  {sync_us:15.0} µs"
        );
    }
}

/// A journal of `bytes` in records of 1 KiB, cleanly closed.
fn filled(directory: &Path, bytes: u64) {
    let options = JournalOptions { durability: DurabilityLevel::Os, ..JournalOptions::default() };
    let (journal, _) = journal::open(directory, &options).unwrap();
    let mut payload = [0u8; PAYLOAD_LEN];
    for number in 0..bytes / (PAYLOAD_LEN as u64 + 40) {
        payload[..8].copy_from_slice(&number.to_le_bytes());
        journal.append(&payload).unwrap();
    }
    journal.close().unwrap();
}

fn recovery(directory: &Path) {
    let directory = directory.join("recovery");
    filled(&directory, 1_000_000_000);
    recover(&directory, OnCorruption::Refuse).unwrap();
    let rates = (0..ROUNDS).map(|_| {
        let report = recover(&directory, OnCorruption::Refuse).unwrap();
        report.bytes as f64 / 1e9 / report.duration.as_secs_f64()
    });
    println!("recovery scan of 1 GB, payloads of 1 KiB, warm cache: {:.2} GB/s", median(rates.collect()));
}

fn queue(directory: &Path) {
    let mut medians = Vec::new();
    for bytes in [1_000_000, 1_000_000_000u64] {
        let directory = directory.join(format!("queue-{bytes}"));
        filled(&directory, bytes);
        let samples = (0..200).map(|_| {
            let started = Instant::now();
            queue_ledger_lines(&directory, &["{\"v\":1,\"kind\":\"turn\"}"], Duration::ZERO).unwrap();
            started.elapsed().as_secs_f64() * 1e6
        });
        let median = median(samples.collect());
        println!("queueing a ledger line, journal of {} MB: {median:.0} µs", bytes / 1_000_000);
        medians.push(median);
        let options = JournalOptions { check: OpenCheck::FromSyncedMark, ..JournalOptions::default() };
        let (_, report) = journal::open(&directory, &options).unwrap();
        assert!(report.bytes < 64 * 1024);
    }
    println!(
        "ratio {:.2}; one write and sync: {:.0} µs",
        medians[1] / medians[0],
        sync_latency_us(directory)
    );
}

fn ingest(directory: &Path) {
    const RECORDS: u64 = 300_000;
    let journal_dir = directory.join("ingest-journal");
    let options = JournalOptions { durability: DurabilityLevel::Os, ..JournalOptions::default() };
    let (journal, _) = journal::open(&journal_dir, &options).unwrap();
    for number in 0..RECORDS {
        let assertion = serialize_assertion(&Assertion {
            subject: format!("subject {}", number % 10_000),
            predicate: "weighs".to_owned(),
            object: format!("{number} kg"),
            source: "scales".to_owned(),
            confidence: 1.0,
            timestamp_ms: number as i64,
        })
        .unwrap();
        let payload = match number % 5 {
            0 => serialize_vote(&Vote {
                assertion: *blake3::hash(&assertion).as_bytes(),
                agent: "agent".to_owned(),
                weight: 1.0,
                timestamp_ms: number as i64,
            })
            .unwrap(),
            _ => assertion,
        };
        journal.append(&payload).unwrap();
    }
    journal.sync().unwrap();
    let store = HybridStore::open(&directory.join("ingest-store")).unwrap();
    let mut ingestor = Ingestor::new(journal.reader().unwrap(), store).unwrap();
    let started = Instant::now();
    let drained = ingestor.drain().unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let rate = drained.records as f64 / seconds;
    let mb = drained.payload_bytes as f64 / 1e6 / seconds;
    println!("ingest into fjall and redb, 4 assertions to 1 vote: {rate:.0} records/s, {mb:.1} MB/s");
}

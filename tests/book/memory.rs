//! Memory depends on accounts and keys in memory, and not on the length of the log: a book of three times the length
//! takes no more memory when it is opened, with and without a snapshot, and while it is read. `BOOK_MEMORY_EVENTS`
//! (default 35 000) is the length of the shorter book. The test runs alone in its process, because it measures the
//! memory of the process.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::processes;
use crate::support::*;
use relayburn_ledger::book::{LogStoreOptions, LogTaleaStore};
use talea_core::store::Store;
use talea_core::types::Book;

const OPTIONS: LogStoreOptions =
    LogStoreOptions { idem_hot_cap: 20_000, snapshot_every: 0, segment_max: 8 << 20 };

fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The peak of anonymous memory while `work` runs.
async fn peak_kib<F: Future>(work: F) -> (u64, F::Output) {
    let (done, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let watcher = std::thread::spawn({
        let (done, peak) = (Arc::clone(&done), Arc::clone(&peak));
        move || {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_kib(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let output = work.await;
    done.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    (peak.load(Ordering::Relaxed), output)
}

async fn read_everything(store: &LogTaleaStore, events: u64) {
    let book = Book("shop".into());
    assert_eq!(store.read_events(&book, events as i64, 5).await.unwrap().len(), 3);
    let cash = account("shop", "cash");
    assert_eq!(store.account_history(&cash, Some(events as i64 / 2), 10).await.unwrap().len(), 10);
    assert_eq!(store.balance(&cash, None).await.unwrap().amount.minor(), events as i64);
    let row = &store.trial_balance(&book, chrono::DateTime::from_timestamp(1 << 33, 0)).await.unwrap()[0];
    assert_eq!(row.debits, events as i64);
    for number in (0..events).step_by(events as usize / 50) {
        let found = store.transaction(&txid(number)).await.unwrap().unwrap();
        assert_eq!(found.seq, number as i64 + 3);
        let again = transfer(0, &format!("k{number}"), "shop", "cash", "sales", 1);
        assert_eq!(store.commit(&again).await.unwrap().seq, number as i64 + 3);
    }
}

/// glibc's allocator keeps freed memory, in up to eight arenas a core, and would hide the memory of the store. So the
/// measurement runs in a process with one arena that returns free memory.
#[test]
fn memory_does_not_follow_the_log() {
    let output = processes::alone(module_path!(), "measured")
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_TRIM_THRESHOLD_", "65536")
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an allocator set by its environment; memory_does_not_follow_the_log starts it: cargo test --test book memory"]
async fn measured() {
    let events: u64 = std::env::var("BOOK_MEMORY_EVENTS").map_or(35_000, |text| text.parse().unwrap());
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut peaks: Vec<(u64, &str, u64)> = Vec::new();
    let mut posted = 0;
    for length in [events, 3 * events] {
        let (peak, ()) = peak_kib(async {
            let store = LogTaleaStore::open_with(directory.path(), OPTIONS).await.unwrap();
            set_up(&store, "shop").await;
            while posted < length {
                let batch: Vec<_> =
                    (posted..length.min(posted + 1000)).map(|number| sale(number, 1)).collect();
                for outcome in store.commit_batch(&batch).await {
                    outcome.unwrap();
                }
                posted += batch.len() as u64;
            }
            store.shutdown().await;
        })
        .await;
        peaks.push((length, "posting", peak));
        for what in ["opening", "opening with a snapshot"] {
            let started = Instant::now();
            let (peak, store) = peak_kib(LogTaleaStore::open_with(directory.path(), OPTIONS)).await;
            let store = store.unwrap();
            println!("{length} events, {what}: {:?}, {peak} KiB", started.elapsed());
            peaks.push((length, what, peak));
            let (peak, ()) = peak_kib(read_everything(&store, length)).await;
            peaks.push((length, "reading", peak));
            if what == "opening" {
                let (peak, done) = peak_kib(store.snapshot_now("shop")).await;
                done.unwrap();
                peaks.push((length, "writing a snapshot", peak));
            }
            store.shutdown().await;
        }
    }
    println!("{peaks:?}");
    let most =
        |wanted: u64| peaks.iter().filter(|(length, ..)| *length == wanted).map(|peak| peak.2).max().unwrap();
    // The bound allows for memory of the allocator and for index fences. Postings in memory would take 52 bytes each,
    // two for each event.
    let allowed = 16 * 1024 + 2 * events * 8 / 1024;
    assert!(most(3 * events) < most(events) + allowed, "{peaks:?}");
}

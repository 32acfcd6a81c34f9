//! Measures commits a second and the time to open, for this store and for talea-store-log 0.1.0, in one run.
//!
//! `cargo bench --bench book`, or one half with `-- commit` or `-- open`. The log of the opening bench has
//! `BOOK_BENCH_EVENTS` events (default 1 000 000). Stores are in `BOOK_BENCH_DIR` (default: the temporary directory),
//! which must be on the disk to measure.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group};
use relayburn_ledger::book::{LogStoreOptions, LogTaleaStore};
use talea_core::store::{AccountCfg, Store};
use talea_core::types::*;
use tokio::runtime::Runtime;
use uuid::Uuid;

const ACCOUNTS: u64 = 1000;

fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("BOOK_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).unwrap()
}

fn account(number: u64) -> AccountId {
    AccountId { book: Book("bench".into()), path: format!("customer:{number}:available") }
}

fn transaction(number: u64) -> Transaction {
    let posting = |number: u64, direction| Posting {
        account: account(number % ACCOUNTS),
        amount: Amount::new(100, AssetId::new("USD")),
        direction,
    };
    Transaction {
        id: TxId(Uuid::new_v4()),
        book: Book("bench".into()),
        postings: vec![posting(number, Direction::Debit), posting(number * 7 + 1, Direction::Credit)],
        idempotency_key: IdempotencyKey(format!("request-{number:016x}")),
        external_refs: vec![],
        metadata: serde_json::json!({"channel": "web"}),
        occurred_at: talea_core::store::ledger_now(),
    }
}

async fn ours(directory: &Path) -> Arc<dyn Store> {
    Arc::new(LogTaleaStore::open(directory).await.unwrap())
}

async fn published(directory: &Path) -> Arc<dyn Store> {
    Arc::new(talea_store_log::LogTaleaStore::open(directory).await.unwrap())
}

async fn set_up(store: &dyn Store) {
    let usd =
        AssetDef { id: AssetId::new("USD"), class: AssetClass::Fiat, precision: 2, name: "US dollar".into() };
    store.register_asset(&usd).await.unwrap();
    for number in 0..ACCOUNTS {
        let def = AccountDef { id: account(number), asset: usd.id.clone(), kind: AccountKind::Clearing };
        store.open_account(&def, &AccountCfg { normal_side: None, min_balance: None }).await.unwrap();
    }
}

/// `count` commits by `callers` at once.
async fn commit_all(store: &Arc<dyn Store>, next: &Arc<AtomicU64>, callers: u64, count: u64) -> Duration {
    let share = |caller| (caller + 1) * count / callers - caller * count / callers;
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (store, next, share) = (Arc::clone(store), Arc::clone(next), share(caller));
            tokio::spawn(async move {
                for _ in 0..share {
                    store.commit(&transaction(next.fetch_add(1, Ordering::Relaxed))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    started.elapsed()
}

async fn commit_batches(store: &Arc<dyn Store>, next: &Arc<AtomicU64>, batch: u64, count: u64) -> Duration {
    let started = Instant::now();
    for _ in 0..count.div_ceil(batch) {
        let first = next.fetch_add(batch, Ordering::Relaxed);
        let transactions: Vec<_> = (first..first + batch).map(transaction).collect();
        for outcome in store.commit_batch(&transactions).await {
            outcome.unwrap();
        }
    }
    started.elapsed()
}

fn commits(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for callers in [1, 64, 128, 0] {
        let name = if callers == 0 { "batches of 50".to_owned() } else { format!("{callers} callers") };
        let mut group = criterion.benchmark_group(format!("commit, {name}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(20).measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Elements(1));
        for which in ["talea-store-log", "relayburn"] {
            let directory = directory();
            let store = runtime.block_on(async {
                let store = if which == "relayburn" {
                    ours(directory.path()).await
                } else {
                    published(directory.path()).await
                };
                set_up(store.as_ref()).await;
                store
            });
            let next = Arc::new(AtomicU64::new(0));
            group.bench_function(which, |bencher| {
                bencher.iter_custom(|count| {
                    runtime.block_on(async {
                        match callers {
                            0 => commit_batches(&store, &next, 50, count).await,
                            _ => commit_all(&store, &next, callers, count).await,
                        }
                    })
                });
            });
        }
    }
}

/// Opens a book of many events alternately with each store. criterion is not used, because one opening of the published
/// crate takes long, and criterion's ten samples would be minutes apart.
fn opening() {
    const ROUNDS: usize = 3;
    let runtime = Runtime::new().unwrap();
    let events: u64 = std::env::var("BOOK_BENCH_EVENTS").map_or(1_000_000, |text| text.parse().unwrap());
    let directory = directory();
    let options = LogStoreOptions { snapshot_every: 0, ..LogStoreOptions::default() };
    runtime.block_on(async {
        let store = LogTaleaStore::open_with(directory.path(), options).await.unwrap();
        set_up(&store).await;
        for first in (0..events).step_by(1000) {
            let transactions: Vec<_> = (first..first + 1000).map(transaction).collect();
            for outcome in store.commit_batch(&transactions).await {
                outcome.unwrap();
            }
        }
        store.shutdown().await;
    });
    for state in ["without snapshot", "with a snapshot", "with a snapshot, 10 000 events behind it"] {
        runtime.block_on(async {
            let options = LogStoreOptions { snapshot_every: 0, ..LogStoreOptions::default() };
            let store = LogTaleaStore::open_with(directory.path(), options).await.unwrap();
            if state == "with a snapshot" {
                store.snapshot_now("bench").await.unwrap();
            } else if state != "without snapshot" {
                for first in (events..events + 10_000).step_by(1000) {
                    let transactions: Vec<_> = (first..first + 1000).map(transaction).collect();
                    for outcome in store.commit_batch(&transactions).await {
                        outcome.unwrap();
                    }
                }
            }
            store.shutdown().await;
        });
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let store = runtime.block_on(talea_store_log::LogTaleaStore::open(directory.path())).unwrap();
            theirs.push(started.elapsed());
            runtime.block_on(store.shutdown());
            let started = Instant::now();
            let store = runtime.block_on(LogTaleaStore::open(directory.path())).unwrap();
            ours.push(started.elapsed());
            runtime.block_on(store.shutdown());
        }
        let ratios: Vec<f64> = theirs
            .iter()
            .zip(&ours)
            .map(|(theirs, ours)| theirs.as_secs_f64() / ours.as_secs_f64())
            .collect();
        println!(
            "open {events} events, {state}: talea-store-log {theirs:.2?}, relayburn {ours:.2?}, ratios {ratios:.1?}"
        );
    }
}

criterion_group!(benches, commits);

fn main() {
    // `cargo bench` adds the argument `--bench`.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if only.as_deref() != Some("open") {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
    if only.as_deref() != Some("commit") {
        opening();
    }
}

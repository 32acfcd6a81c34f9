//! A process that posts with many callers at once is killed again and again. No acknowledged commit may be lost, and
//! none may be applied twice. `BOOK_KILL_ROUNDS` (default 8) is the number of rounds; 50 by hand.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::processes;
use relayburn_ledger::book::{LogStoreOptions, LogTaleaStore, check};
use talea_core::store::Store;
use talea_core::types::Book;

use crate::support::*;

const CALLERS: u64 = 32;

fn options() -> LogStoreOptions {
    LogStoreOptions { idem_hot_cap: 200, snapshot_every: 500, segment_max: 40_000 }
}

/// The child: posts until it is killed. Keys come from a small window, so that repeats are frequent, and each answer is
/// printed when it arrives. Does nothing without a directory in its environment.
#[test]
fn child_that_posts() {
    let Ok(directory) = std::env::var("BOOK_KILL_DIRECTORY") else { return };
    let first: u64 = std::env::var("BOOK_KILL_FIRST").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(LogTaleaStore::open_with(Path::new(&directory), options()).await.unwrap());
        let next = Arc::new(AtomicU64::new(first));
        for caller in 0..CALLERS {
            let (store, next) = (Arc::clone(&store), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // Every third call repeats an older key.
                    let key = if number.is_multiple_of(3) { number / 2 } else { number };
                    let sale = transfer(number, &format!("k{key}"), "shop", "cash", "sales", 1);
                    let done = if caller % 4 == 0 {
                        store.commit_batch(std::slice::from_ref(&sale)).await.pop().unwrap()
                    } else {
                        store.commit(&sale).await
                    }
                    .unwrap();
                    let line = format!("{key} {} {}\n", done.seq, done.txid.0);
                    std::io::stderr().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        // A caller that fails writes to standard error, because the parent expects only answers on standard output.
        std::future::pending::<()>().await;
    });
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged_and_posts_nothing_twice() {
    let rounds: u64 = std::env::var("BOOK_KILL_ROUNDS").map_or(8, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = ours(directory.path()).await;
        set_up(&store, "shop").await;
    });
    let mut acknowledged: HashMap<u64, (i64, String)> = HashMap::new();
    let mut first = 1;
    for round in 0..rounds {
        let mut child = processes::alone(module_path!(), "child_that_posts")
            .env("BOOK_KILL_DIRECTORY", directory.path())
            .env("BOOK_KILL_FIRST", first.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            let (mut told, mut line) = (Vec::new(), String::new());
            while lines.read_line(&mut line).unwrap() > 0 {
                if line.ends_with('\n') {
                    told.push(line.trim().to_owned());
                }
                line.clear();
            }
            told
        });
        std::thread::sleep(Duration::from_millis(120 + 37 * (round % 9)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [key, seq, txid] = parts[..] else { panic!("the child said {line:?}") };
            let outcome = (seq.parse().unwrap(), txid.to_owned());
            let known = acknowledged.entry(key.parse().unwrap()).or_insert_with(|| outcome.clone());
            assert_eq!(*known, outcome, "round {round}: key {key} was answered twice, differently");
            first = first.max(key.parse::<u64>().unwrap() + CALLERS * 4);
        }
        verify(&runtime, directory.path(), &acknowledged, round);
    }
    println!("{rounds} rounds, {} keys acknowledged", acknowledged.len());
    assert!(acknowledged.len() as u64 > rounds * 10);
}

fn verify(
    runtime: &tokio::runtime::Runtime,
    directory: &Path,
    acknowledged: &HashMap<u64, (i64, String)>,
    round: u64,
) {
    runtime.block_on(async {
        let store = LogTaleaStore::open_with(directory, options()).await.unwrap();
        let mut seen: HashMap<String, i64> = HashMap::new();
        let mut from = 1;
        loop {
            let page = store.read_events(&Book("shop".into()), from, 1000).await.unwrap();
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for event in page {
                let talea_core::events::LedgerEvent::TransactionPosted(posted) = event.event else {
                    continue;
                };
                let earlier = seen.insert(posted.idempotency_key.0.clone(), event.seq);
                assert_eq!(earlier, None, "round {round}: {} was applied twice", posted.idempotency_key.0);
            }
        }
        let cash = store.balance(&account("shop", "cash"), None).await.unwrap();
        assert_eq!(cash.amount.minor(), seen.len() as i64);
        for (key, (seq, txid)) in acknowledged {
            assert_eq!(seen.get(&format!("k{key}")), Some(seq), "round {round}: key {key} is lost");
            let again = transfer(0, &format!("k{key}"), "shop", "cash", "sales", 1);
            let again = store.commit(&again).await.unwrap();
            assert_eq!((again.seq, again.txid.0.to_string()), (*seq, txid.clone()), "round {round}");
        }
        store.shutdown().await;
    });
    let report = check(directory).unwrap();
    assert!(report.ok, "round {round}: {:?}", report.findings);
}

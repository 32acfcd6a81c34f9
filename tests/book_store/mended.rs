//! The right answers where the published crate gives wrong answers.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use futures::StreamExt;
use relayburn_ledger::book::{BookError, LogStoreOptions, LogTaleaStore};
use serde_json::json;
use talea_core::store::{AccountCfg, Store, StoreError};
use talea_core::types::*;

use super::support::*;

fn is_io<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Io(_)))
}

#[tokio::test]
async fn after_shutdown_everything_is_refused_and_the_directory_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let store = ours(directory.path()).await;
    set_up(&store, "shop").await;
    let sale = transfer(1, "k", "shop", "cash", "sales", 5);
    store.commit(&sale).await.unwrap();
    let second = LogTaleaStore::open(directory.path()).await.unwrap_err();
    assert!(second.to_string().contains("LOCK"), "{second}");
    let live = store.subscribe(&Book("shop".into()), 4);
    let waiting = store.subscribe(&Book("later".into()), 1);
    tokio::time::timeout(Duration::from_secs(5), store.shutdown()).await.unwrap();
    store.shutdown().await;
    for stream in [live, waiting] {
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), stream.count()).await.unwrap(), 0);
    }
    let cash = account("shop", "cash");
    assert!(is_io(store.commit(&sale).await));
    assert!(is_io(store.commit_batch(std::slice::from_ref(&sale)).await.pop().unwrap()));
    assert!(is_io(store.register_asset(&asset("USD")).await));
    let def = AccountDef { id: cash.clone(), asset: AssetId::new("USD"), kind: AccountKind::Asset };
    assert!(is_io(store.open_account(&def, &AccountCfg { normal_side: None, min_balance: None }).await));
    assert!(is_io(store.balance(&cash, None).await));
    assert!(is_io(store.account_history(&cash, None, 1).await));
    assert!(store.account_history(&cash, None, 0).await.unwrap().is_empty());
    assert!(is_io(store.trial_balance(&Book("shop".into()), None).await));
    assert!(is_io(store.read_events(&Book("shop".into()), 1, 0).await));
    assert!(is_io(store.transaction(&txid(1)).await));
    assert!(is_io(store.snapshot_now("shop").await));
    assert!(store.asset(&AssetId::new("USD")).await.unwrap().is_some());
    let refused: Vec<_> = store.subscribe(&Book("other".into()), 1).collect().await;
    assert!(refused.len() == 1 && is_io(refused.into_iter().next().unwrap()));
    let again = ours(directory.path()).await;
    assert_eq!(again.balance(&cash, None).await.unwrap().amount.minor(), 5);
    assert_eq!(again.books().unwrap(), ["_system", "shop"]);
    drop(again);
    ours(directory.path()).await;
}

#[tokio::test]
async fn subscriptions_have_no_gaps_and_no_repeats() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogStoreOptions { segment_max: 5000, ..NEVER_SNAPSHOT };
    let store = Arc::new(ours_with(directory.path(), &options).await);
    let book = Book("shop".into());
    let early = store.subscribe(&book, i64::MIN);
    let slow = store.subscribe(&book, 1);
    let late = store.subscribe(&book, 1200);
    set_up(store.as_ref(), "shop").await;
    let middle = store.subscribe(&book, 3);
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            post(store.as_ref(), 0..1500).await;
        }
    });
    for (mut stream, first) in [(early, 1), (middle, 3), (late, 1200)] {
        for seq in first..=1502 {
            let event = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap();
            assert_eq!(event.unwrap().unwrap().seq, seq);
        }
    }
    writer.await.unwrap();
    let seqs: Vec<i64> = slow.take(1502).map(|event| event.unwrap().seq).collect().await;
    assert_eq!(seqs, (1..=1502).collect::<Vec<_>>());
    let bad: Vec<_> = store.subscribe(&Book("a/b".into()), 1).collect().await;
    assert!(bad.len() == 1 && is_io(bad.into_iter().next().unwrap()));
    assert!(!directory.path().join("books/a").exists());
}

#[tokio::test]
async fn nothing_is_created_for_what_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = ours(directory.path()).await;
    let books = || {
        let mut names: Vec<_> = fs::read_dir(directory.path().join("books"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert!(books().is_empty());
    let sale = |book: &str| transfer(1, "k", book, "cash", "sales", 5);
    assert!(store.commit(&sale("nobody")).await.is_err());
    assert!(store.commit(&sale("_reserved")).await.is_err());
    assert!(is_io(store.commit(&sale(".")).await));
    let mut nul = sale("a\0b");
    nul.postings.clear();
    assert!(is_io(store.commit(&nul).await));
    assert!(is_io(store.commit(&Transaction { book: Book("x".repeat(300)), ..nul.clone() }).await));
    assert!(store.read_events(&nul.book, 1, 9).await.unwrap().is_empty());
    let _waiting = store.subscribe(&Book("never".into()), 1);
    assert!(books().is_empty());
    set_up(&store, "shop").await;
    assert!(store.commit(&sale("nobody")).await.is_err());
    assert_eq!(books(), ["_system", "shop"]);
    assert_eq!(fs::read_dir(directory.path().join("books/shop")).unwrap().count(), 1);
}

#[tokio::test]
async fn what_could_not_be_read_again_is_not_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = ours(directory.path()).await;
    set_up(&store, "shop").await;
    let nested = |depth: usize| {
        (0..depth)
            .fold(json!(1), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"x": inner}) })
    };
    let sale =
        |number: u64, depth| Transaction { metadata: nested(depth), ..super::support::sale(number, 1) };
    assert!(is_io(store.commit(&sale(1, 126)).await));
    assert_eq!(store.commit(&sale(1, 125)).await.unwrap().seq, 3);
    assert!(is_io(store.commit(&sale(2, 400)).await));
    for value in [json!(1), json!("{}"), json!("")] {
        let mut private = sale(2, 1);
        private.metadata = json!([{"$serde_json::private::RawValue": value, "z": 1}]);
        assert!(is_io(store.commit(&private).await));
    }
    let mut quoted = sale(4, 1);
    quoted.metadata = json!({"a": "\"$serde_json::private::RawValue\""});
    store.commit(&quoted).await.unwrap();
    let mut far = sale(3, 1);
    far.occurred_at = DateTime::<chrono::Utc>::MAX_UTC;
    let outcome = store.commit(&far).await;
    store.shutdown().await;
    let again = ours(directory.path()).await;
    let kept = 2 + i64::from(outcome.is_ok());
    assert_eq!(cash(&again).await, kept);
    assert!(!directory.path().join("books/shop/segment-00000000000000000001.log.torn").exists());
}

#[tokio::test]
async fn the_smallest_integer_counts_as_overflow() {
    let directory = tempfile::tempdir().unwrap();
    let store = ours(directory.path()).await;
    set_up(&store, "shop").await;
    let sales = account("shop", "sales");
    store.commit(&sale(1, i64::MAX)).await.unwrap();
    assert!(is_io(store.commit(&sale(2, 1)).await));
    assert_eq!(cash(&store).await, i64::MAX);
    assert_eq!(store.balance(&sales, None).await.unwrap().amount.minor(), i64::MAX);
    store.commit(&sale(3, -5)).await.unwrap();
}

#[tokio::test]
async fn openings_and_registrations_at_once_are_settled_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(ours(directory.path()).await);
    store.register_asset(&asset("USD")).await.unwrap();
    let mut tasks = Vec::new();
    for floor in 0..16_i64 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let def = AccountDef {
                id: account("shop", "cash"),
                asset: AssetId::new("USD"),
                kind: AccountKind::Asset,
            };
            let opened = store
                .open_account(&def, &AccountCfg { normal_side: None, min_balance: Some(floor % 4) })
                .await;
            let registered =
                store.register_asset(&AssetDef { precision: (floor % 4) as u8, ..asset("EUR") }).await;
            (floor % 4, opened.is_ok(), registered.is_ok())
        }));
    }
    let mut winners = [Vec::new(), Vec::new()];
    for task in tasks {
        let (floor, opened, registered) = task.await.unwrap();
        if opened {
            winners[0].push(floor);
        }
        if registered {
            winners[1].push(floor);
        }
    }
    for winners in &mut winners {
        assert_eq!(winners.len(), 4);
        winners.dedup();
        assert_eq!(winners.len(), 1);
    }
    assert_eq!(store.read_events(&Book("shop".into()), 1, 9).await.unwrap().len(), 1);
    assert_eq!(store.read_events(&Book("_system".into()), 1, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_registration_whose_caller_gave_up_is_known_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = ours(directory.path()).await;
    store.register_asset(&asset("EUR")).await.unwrap();
    let other = AssetDef { precision: 7, ..asset("USD") };
    // The future is polled once, which queues the job, and then dropped.
    let usd = asset("USD");
    let mut asked = store.register_asset(&usd);
    let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(asked.as_mut().poll(&mut nobody).is_pending());
    drop(asked);
    let outcome = store.register_asset(&other).await;
    assert!(matches!(outcome, Err(StoreError::AlreadyExists { .. })), "{outcome:?}");
    store.register_asset(&usd).await.unwrap();
    assert_eq!(store.asset(&usd.id).await.unwrap(), Some(usd.clone()));
    assert_eq!(store.read_events(&Book("_system".into()), 1, 9).await.unwrap().len(), 2);
    store.shutdown().await;
    assert_eq!(ours(directory.path()).await.asset(&usd.id).await.unwrap(), Some(usd));
}

#[tokio::test]
async fn of_several_broken_floors_the_first_posting_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = ours(directory.path()).await;
    store.register_asset(&asset("USD")).await.unwrap();
    let paths: Vec<String> = (0..12).map(|number| format!("a{number}")).collect();
    for path in &paths {
        open_account(&store, account("shop", path), AccountKind::Asset, Some(0)).await;
    }
    for first in 0..paths.len() {
        let mut postings: Vec<Posting> =
            paths.iter().map(|path| posting(&account("shop", path), 1, Direction::Credit)).collect();
        postings.rotate_left(first);
        let outcome = store.commit(&Transaction { postings, ..transfer(1, "k", "shop", "", "", 1) }).await;
        let Err(StoreError::ConstraintViolation { account, would_be: -1, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(account.path, paths[first]);
    }
}

#[tokio::test]
async fn keys_survive_the_loss_of_runs_with_and_without_a_snapshot_and_while_open() {
    for (with_snapshot, keep) in [(false, 0), (true, 0), (true, 1), (false, 1), (true, 99)] {
        let directory = tempfile::tempdir().unwrap();
        let options = LogStoreOptions { idem_hot_cap: 4, snapshot_every: 0, segment_max: 2000 };
        let store = ours_with(directory.path(), &options).await;
        set_up(&store, "shop").await;
        let done = post(&store, 0..24).await;
        if with_snapshot {
            store.snapshot_now("shop").await.unwrap();
        }
        for run in files(directory.path(), ".run").into_iter().skip(keep) {
            fs::write(run, b"not a run any more").unwrap();
        }
        assert_eq!(post(&store, 0..24).await, done, "while open");
        store.shutdown().await;
        for run in files(directory.path(), ".run").into_iter().skip(keep) {
            fs::remove_file(run).unwrap();
        }
        for _ in 0..2 {
            let store = ours_with(directory.path(), &options).await;
            assert_eq!(post(&store, 0..24).await, done, "{with_snapshot} {keep}");
            assert_eq!(cash(&store).await, 24);
            store.shutdown().await;
        }
        // The published crate, which trusts snapshots and runs, also finds every key.
        let back = published(directory.path(), &options).await;
        let repeated = post(&back, 0..24).await;
        assert_eq!(repeated, done, "{with_snapshot} {keep}, given back");
        back.shutdown().await;
    }
}

#[tokio::test]
async fn the_limit_of_keys_in_memory_holds_for_new_books_and_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogStoreOptions { idem_hot_cap: 10, snapshot_every: 0, segment_max: 1 << 20 };
    let mut posted = 0;
    for _ in 0..4 {
        let store = ours_with(directory.path(), &options).await;
        set_up(&store, "shop").await;
        post(&store, posted..posted + 25).await;
        posted += 25;
        store.shutdown().await;
        let report = relayburn_ledger::book::check(directory.path()).unwrap();
        assert!(report.ok, "{:?}", report.findings);
        let shop = report.status.books.iter().find(|book| book.book == "shop").unwrap();
        assert!(shop.run_keys <= posted && shop.run_keys >= posted - 10, "{} of {posted}", shop.run_keys);
        assert!(shop.runs <= 8);
    }
}

#[tokio::test]
async fn the_registry_survives_a_snapshot_of_the_system_book() {
    let directory = tempfile::tempdir().unwrap();
    let store = ours(directory.path()).await;
    set_up(&store, "shop").await;
    store.snapshot_now("_system").await.unwrap();
    store.shutdown().await;
    // A snapshot of the published crate does no harm either.
    let theirs = published(directory.path(), &NEVER_SNAPSHOT).await;
    theirs.snapshot_now("_system").await.unwrap();
    theirs.shutdown().await;
    let store = ours(directory.path()).await;
    assert_eq!(store.asset(&AssetId::new("USD")).await.unwrap(), Some(asset("USD")));
    assert!(store.register_asset(&AssetDef { precision: 9, ..asset("USD") }).await.is_err());
}

#[tokio::test]
async fn snapshots_are_taken_when_due_counted_from_the_last_one_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogStoreOptions { snapshot_every: 20, ..NEVER_SNAPSHOT };
    for start in 0..6 {
        let store = ours_with(directory.path(), &options).await;
        set_up(&store, "shop").await;
        post(&store, start * 9..start * 9 + 9).await;
        store.shutdown().await;
    }
    let snapshots = files(directory.path(), ".snap");
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    assert!(snapshots[1].to_string_lossy().ends_with("00000000000000000040.snap"), "{snapshots:?}");
    let store = ours_with(directory.path(), &options).await;
    assert!(matches!(store.snapshot_now("nobody").await, Err(StoreError::Io(_))));
    store.snapshot_now("shop").await.unwrap();
    assert_eq!(files(directory.path(), ".snap").len(), 2);
    let error = store.snapshot_now("a/b").await.unwrap_err();
    let StoreError::Io(inner) = error else { panic!("{error:?}") };
    assert!(matches!(inner.downcast_ref(), Some(BookError::BadName { .. })));
}

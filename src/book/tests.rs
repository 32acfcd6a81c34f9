//! What only faults can show: every file operation failing in turn, and the directory as a power cut could leave it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;
use talea_core::store::{AccountCfg, Store};
use talea_core::types::*;
use uuid::Uuid;

use super::frame::FrameFinder;
use super::job::Draft;
use super::queue::OpenBook;
use super::scratch::{self, HistoryBlock, HistoryBlocks, HistoryRow, ScratchFile, SeqIndex};
use super::state::BookState;
use super::validate::Overlay;
use super::{BookError, LogStoreOptions, LogTaleaStore, check, files, frame, opening};
use crate::disk;
use crate::disk::faults::{self, Harness, Survival};

fn runtime() -> tokio::runtime::Runtime {
    // One thread: the one the harness is entered on.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// No automatic snapshots: they run beside the writer, and operations are counted.
const OPTIONS: LogStoreOptions = LogStoreOptions { idem_hot_cap: 3, snapshot_every: 0, segment_max: 1000 };

fn account(path: &str) -> AccountId {
    AccountId { book: Book("shop".into()), path: path.into() }
}

fn sale(number: u64) -> Transaction {
    let posting = |path, direction| Posting {
        account: account(path),
        amount: Amount::new(1, AssetId::new("USD")),
        direction,
    };
    Transaction {
        id: TxId(Uuid::from_u128(u128::from(number))),
        book: Book("shop".into()),
        postings: vec![posting("cash", Direction::Debit), posting("sales", Direction::Credit)],
        idempotency_key: IdempotencyKey(format!("k{number}")),
        external_refs: vec![],
        metadata: serde_json::json!({"filler": "x".repeat(100)}),
        occurred_at: chrono::DateTime::UNIX_EPOCH,
    }
}

async fn set_up(store: &LogTaleaStore) -> Option<()> {
    let usd = AssetDef { id: AssetId::new("USD"), class: AssetClass::Fiat, precision: 2, name: "USD".into() };
    store.register_asset(&usd).await.ok()?;
    for path in ["cash", "sales"] {
        let def = AccountDef { id: account(path), asset: usd.id.clone(), kind: AccountKind::Clearing };
        store.open_account(&def, &AccountCfg { normal_side: None, min_balance: None }).await.ok()?;
    }
    Some(())
}

/// Accounts, sales in batches of two, restarts; notes every acknowledged key with its outcome.
async fn work(directory: &Path, acknowledged: &mut Vec<(usize, u64, i64)>) -> Option<()> {
    for round in 0..3_u64 {
        let store = LogTaleaStore::open_with(directory, OPTIONS).await.ok()?;
        set_up(&store).await?;
        for pair in 0..3 {
            let first = round * 6 + pair * 2;
            for (number, outcome) in (first..).zip(store.commit_batch(&[sale(first), sale(first + 1)]).await)
            {
                let committed = outcome.ok()?;
                let events = faults::current().map_or(0, |harness| harness.events());
                acknowledged.push((events, number, committed.seq));
            }
        }
        if round > 0 {
            store.snapshot_now("shop").await.ok()?;
        }
        store.shutdown().await;
    }
    Some(())
}

/// Everything acknowledged is there and is found by its key, nothing is there twice, and the rest can be posted.
async fn verify(directory: &Path, acknowledged: &[(usize, u64, i64)], context: &str) {
    let store = LogTaleaStore::open_with(directory, OPTIONS)
        .await
        .unwrap_or_else(|error| panic!("{context}: cannot be opened again: {error}"));
    let mut seqs: HashMap<String, i64> = HashMap::new();
    for event in store.read_events(&Book("shop".into()), 1, usize::MAX).await.unwrap() {
        let talea_core::events::LedgerEvent::TransactionPosted(posted) = event.event else { continue };
        assert!(seqs.insert(posted.idempotency_key.0, event.seq).is_none(), "{context}: posted twice");
    }
    for (_, number, seq) in acknowledged {
        assert_eq!(seqs.get(&format!("k{number}")), Some(seq), "{context}: sale {number} is lost");
        assert_eq!(store.commit(&sale(*number)).await.unwrap().seq, *seq, "{context}");
    }
    if !seqs.is_empty() {
        let cash = store.balance(&account("cash"), None).await.unwrap();
        assert_eq!(cash.amount.minor(), seqs.len() as i64, "{context}");
        store.commit(&sale(77)).await.unwrap();
    }
    store.shutdown().await;
    let report = check(directory).unwrap();
    assert!(report.ok, "{context}: {:?}", report.findings);
}

/// Commits come at about the pace at which the writer's thread ends, so that threads end and start beside each other.
#[test]
fn threads_that_end_and_start_at_once_lose_no_job_and_are_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    for round in 0..20_u64 {
        runtime.block_on(async {
            let store =
                std::sync::Arc::new(LogTaleaStore::open_with(directory.path(), OPTIONS).await.unwrap());
            if round == 0 {
                set_up(&store).await.unwrap();
            }
            let callers: Vec<_> = (0..4_u64)
                .map(|caller| {
                    let store = std::sync::Arc::clone(&store);
                    tokio::spawn(async move {
                        for number in 0..10 {
                            let pause = 900 + 40 * ((caller * 7 + number * 3 + round) % 10);
                            tokio::time::sleep(std::time::Duration::from_micros(pause)).await;
                            store.commit(&sale(round * 1000 + caller * 100 + number)).await.unwrap();
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
            store.shutdown().await;
        });
    }
    let store = runtime.block_on(LogTaleaStore::open_with(directory.path(), OPTIONS)).unwrap();
    let cash = runtime.block_on(store.balance(&account("cash"), None)).unwrap();
    assert_eq!(cash.amount.minor(), 20 * 40);
}

fn error_of(refused: talea_core::store::StoreError) -> BookError {
    let talea_core::store::StoreError::Io(error) = refused else { panic!("{refused}") };
    *error.downcast::<BookError>().unwrap()
}

#[test]
fn a_link_to_a_book_is_no_second_book() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(LogTaleaStore::open_with(directory.path(), OPTIONS)).unwrap();
    runtime.block_on(set_up(&store)).unwrap();
    let link = directory.path().join("books/store");
    std::os::unix::fs::symlink("shop", &link).unwrap();
    let (def, cfg) = store.accounts("shop").unwrap().remove(0);
    let id = AccountId { book: Book("store".into()), ..def.id };
    let refused = runtime.block_on(store.open_account(&AccountDef { id, ..def }, &cfg)).unwrap_err();
    let error = error_of(refused);
    assert!(matches!(&error, BookError::NotADirectory { path } if *path == link), "{error}");
    assert_eq!(store.books().unwrap(), ["_system", "shop"]);
    // What is no book is left out when the store is opened again.
    runtime.block_on(store.shutdown());
    let store = runtime.block_on(LogTaleaStore::open_with(directory.path(), OPTIONS)).unwrap();
    assert_eq!(store.books().unwrap(), ["_system", "shop"]);
}

#[test]
fn a_second_shutdown_waits_for_the_first_before_the_directory_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let open = || runtime.block_on(LogTaleaStore::open_with(directory.path(), OPTIONS));
    let store = open().unwrap();
    runtime.block_on(set_up(&store)).unwrap();
    let book = store.books.find("shop").unwrap().unwrap();
    let sales: Vec<Transaction> = (0..3000).map(sale).collect();
    std::thread::scope(|scope| {
        // The writer cannot apply its first batch, and so not end, while this is held.
        let state = book.view.state();
        let posting = scope.spawn(|| runtime.block_on(store.commit_batch(&sales)));
        let written = || std::fs::read_dir(&book.view.directory).unwrap().count();
        while written() < 3 {
            std::thread::yield_now();
        }
        let first = scope.spawn(|| runtime.block_on(store.shutdown()));
        while store.books().is_ok() {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| runtime.block_on(store.shutdown()));
        std::thread::sleep(std::time::Duration::from_millis(50));
        let refused = error_of(open().unwrap_err());
        assert!(matches!(refused, BookError::Locked { .. }), "{refused}");
        assert!(!first.is_finished() && !second.is_finished());
        drop(state);
        second.join().unwrap();
        let (again, recovery) = runtime.block_on(crate::book::open(directory.path(), &OPTIONS)).unwrap();
        let posted = posting.join().unwrap().into_iter().filter(Result::is_ok).count();
        let cash = runtime.block_on(again.balance(&account("cash"), None)).unwrap();
        assert_eq!(cash.amount.minor(), posted as i64);
        assert!(posted > 0 && recovery.truncated.is_empty());
        first.join().unwrap();
    });
}

#[test]
fn an_answer_that_never_came_is_no_shutdown() {
    let directory = tempfile::tempdir().unwrap();
    let opened = opening::create(directory.path(), &OPTIONS).unwrap();
    let book = OpenBook::new("shop", directory.path(), opened, &OPTIONS, &std::sync::Arc::default());
    let error = book.closed_error();
    assert!(matches!(error, BookError::Worker { what: "writing", .. }), "{error}");
    book.shut_down();
    assert!(matches!(book.closed_error(), BookError::ShutDown));
}

#[test]
fn whichever_operation_fails_nothing_acknowledged_is_lost() {
    faults::each_failure(|harness| {
        let directory = tempfile::tempdir().unwrap();
        let mut acknowledged = Vec::new();
        let finished = harness.run(|| runtime().block_on(work(directory.path(), &mut acknowledged)));
        if !harness.has_failed() {
            finished.expect("without a fault everything is acknowledged");
        }
        runtime().block_on(verify(directory.path(), &acknowledged, &format!("{harness:?}")));
    });
}

#[test]
fn after_a_power_cut_everything_acknowledged_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let mut acknowledged = Vec::new();
    harness.run(|| runtime().block_on(work(directory.path(), &mut acknowledged))).unwrap();
    let mut images = 0;
    harness.each_image(|image| {
        // Every seventh keeps the suite fast; the offset moves through the kinds of survival.
        images += 1;
        if images % 7 != 0 {
            return;
        }
        let due: Vec<_> =
            acknowledged.iter().filter(|(events, ..)| *events <= image.after_events()).copied().collect();
        runtime().block_on(verify(image.path(), &due, &image.to_string()));
    });
    assert!(images > 500, "{images}");
}

/// A process is killed between a write and its sync, the next one answers a retry, and the power is cut.
#[test]
fn an_event_that_nobody_synced_is_durable_before_a_retry_is_answered() {
    for base in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let harness = Harness::recording(directory.path());
        let (events, seq) = harness.run(|| {
            runtime().block_on(async {
                let open = || LogTaleaStore::open_with(directory.path(), OPTIONS);
                let store = open().await.unwrap();
                set_up(&store).await.unwrap();
                store.shutdown().await;
                let mut bytes = Vec::new();
                let event = frame::transaction_json(&sale(1)).unwrap();
                frame::encode(3, chrono::Utc::now(), &event, &mut bytes).unwrap();
                // Base 3 is a segment of which not even the name was synced.
                let segment = files::segment_path(&directory.path().join("books/shop"), base);
                disk::File::open_append(&segment).unwrap().0.write_all(&bytes).unwrap();
                let store = open().await.unwrap();
                let seq = store.commit(&sale(1)).await.unwrap().seq;
                let events = harness.events();
                store.shutdown().await;
                (events, seq)
            })
        });
        assert_eq!(seq, 3);
        let image = tempfile::tempdir().unwrap();
        harness.lay_out(events, Survival::Nothing, image.path());
        runtime().block_on(verify(image.path(), &[(events, 1, seq)], &format!("segment {base}")));
    }
}

fn segments(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let listing = files::list(&directory.join("books/shop")).unwrap();
    listing.segments.into_iter().map(|(_, path)| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn a_failed_write_or_sync_leaves_the_log_as_it_was() {
    let mut refused = 0;
    faults::each_failure(|harness| {
        let directory = tempfile::tempdir().unwrap();
        let open = || LogTaleaStore::open_with(directory.path(), OPTIONS);
        runtime().block_on(async {
            let store = open().await.unwrap();
            set_up(&store).await.unwrap();
            store.commit(&sale(0)).await.unwrap();
            store.shutdown().await;
        });
        let before = segments(directory.path());
        // Long enough for three more segments.
        let sales: Vec<Transaction> = (1..7).map(sale).collect();
        let outcomes = harness.run(|| {
            runtime().block_on(async {
                let store = open().await.ok()?;
                let outcomes = store.commit_batch(&sales).await;
                store.shutdown().await;
                Some(outcomes)
            })
        });
        let committed = outcomes.iter().flatten().filter(|outcome| outcome.is_ok()).count();
        let after = segments(directory.path());
        match committed {
            0 => assert_eq!(after, before, "{harness:?}"),
            _ => assert_eq!((committed, after.len()), (6, before.len() + 3), "{harness:?}"),
        }
        refused += usize::from(outcomes.is_some() && committed == 0);
        runtime().block_on(verify(directory.path(), &[], &format!("{harness:?}")));
    });
    assert!(refused > 10, "{refused}");
}

/// Otherwise a power cut after the failure brings events back that every caller was told are not there.
#[test]
fn what_a_failed_batch_wrote_is_taken_back_durably() {
    let mut refused = 0;
    for fail_at in 0.. {
        let directory = tempfile::tempdir().unwrap();
        let open = || LogTaleaStore::open_with(directory.path(), OPTIONS);
        runtime().block_on(async {
            let store = open().await.unwrap();
            set_up(&store).await.unwrap();
            store.shutdown().await;
        });
        let contents = |root: &Path| segments(root).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
        let before = contents(directory.path());
        let sales: Vec<Transaction> = (1..4).map(sale).collect();
        let harness = Harness::recording_failure(directory.path(), fail_at);
        let outcomes = harness.run(|| {
            runtime().block_on(async {
                let store = open().await.ok()?;
                let outcomes = store.commit_batch(&sales).await;
                store.shutdown().await;
                Some(outcomes)
            })
        });
        if !harness.has_failed() {
            break;
        }
        // A cut that failed cannot be durable.
        if outcomes.is_none_or(|outcomes| outcomes[0].is_ok()) || contents(directory.path()) != before {
            continue;
        }
        refused += 1;
        for seed in 0..20 {
            let image = tempfile::tempdir().unwrap();
            harness.lay_out(harness.events(), Survival::Torn { seed }, image.path());
            assert!(contents(image.path()) == before, "{harness:?} {seed}");
        }
    }
    assert!(refused > 5, "{refused}");
}

/// Comparing each posting with all accounts before it takes minutes here.
#[test]
fn a_transaction_of_many_postings_is_judged_in_a_moment() {
    const POSTINGS: usize = 200_000;
    let mut state = BookState::new(Path::new("unused"));
    let mut many = sale(1);
    let posting = many.postings.pop().unwrap();
    many.postings.clear();
    for number in 0..POSTINGS {
        let id = account(&format!("a{number}"));
        let def = AccountDef { id: id.clone(), asset: AssetId::new("USD"), kind: AccountKind::Clearing };
        state.add_account(&def, &AccountCfg { normal_side: None, min_balance: Some(-2) });
        many.postings.extend([
            Posting { account: id.clone(), ..posting.clone() },
            Posting { account: id, ..posting.clone() },
        ]);
    }
    let started = std::time::Instant::now();
    let balances = Overlay::default().validate(&state, &Draft::new(&many)).unwrap();
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(balances.iter().copied().eq((0..POSTINGS as u32).map(|index| (index, -2))));
    // The first broken floor in posting order is named.
    many.postings
        .extend([7, 3].map(|number| Posting { account: account(&format!("a{number}")), ..posting.clone() }));
    let refused = Overlay::default().validate(&state, &Draft::new(&many)).unwrap_err();
    let talea_core::store::StoreError::ConstraintViolation { account: broken, .. } = refused else {
        panic!()
    };
    assert_eq!(broken, account("a3"));
}

/// Everywhere something like a frame, of a length that reaches to the end: comparing each checksum anew takes hours.
#[test]
fn what_only_looks_like_frames_is_searched_in_a_moment() {
    const BYTES: usize = 16 << 20;
    let mut bytes = Vec::with_capacity(BYTES);
    while bytes.len() < BYTES {
        let len = (BYTES - bytes.len()).saturating_sub(4096) as u32;
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(b"crc?{\"seq\":");
    }
    let mut whole = Vec::new();
    frame::encode(7, chrono::Utc::now(), &frame::transaction_json(&sale(1)).unwrap(), &mut whole).unwrap();
    let started = std::time::Instant::now();
    assert_eq!(FrameFinder::new(&bytes).next_whole(0), None);
    bytes.extend_from_slice(&whole);
    assert_eq!(FrameFinder::new(&bytes).next_whole(0), Some(bytes.len() - whole.len()));
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}

/// Everything a reader can ask, as of now, and the first thing a subscription says.
async fn seen(store: &LogTaleaStore) -> (usize, usize, i64, bool, i64, Option<i64>) {
    use futures::StreamExt as _;
    let book = Book("shop".into());
    let events = store.read_events(&book, 4, usize::MAX).await.unwrap();
    let history = store.account_history(&account("cash"), None, usize::MAX).await.unwrap();
    let balance = store.balance(&account("cash"), None).await.unwrap().amount.minor();
    let found = store.transaction(&sale(9).id).await.unwrap().is_some();
    let as_of = chrono::DateTime::from_timestamp(1 << 33, 0);
    let debits = store.trial_balance(&book, as_of).await.unwrap()[0].debits;
    let mut subscription = store.subscribe(&book, 4);
    let next = tokio::time::timeout(std::time::Duration::from_millis(50), subscription.next()).await;
    let next = next.ok().flatten().and_then(Result::ok).map(|event| event.seq);
    (events.len(), history.len(), balance, found, debits, next)
}

/// The sync behind the write of a batch is held up, and then fails or not.
#[test]
fn a_reader_sees_nothing_of_a_frame_that_is_written_and_not_synced() {
    let before = (0, 1, 1, false, 1, None);
    for fails in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options = LogStoreOptions { segment_max: 1 << 20, ..OPTIONS };
        let open = |harness: &Harness| {
            let opened = LogTaleaStore::open_with(directory.path(), options.clone());
            harness.run(|| runtime.block_on(opened)).unwrap()
        };
        let store = open(&Harness::counting(faults::Fault::NoSpace));
        runtime.block_on(set_up(&store)).unwrap();
        runtime.block_on(store.commit(&sale(1))).unwrap();
        runtime.block_on(store.shutdown());
        let counting = Harness::counting(faults::Fault::NoSpace);
        runtime.block_on(open(&counting).shutdown());
        // The operation behind those of opening is the write of the batch, the next one its sync.
        let (harness, is_reached, decide) = Harness::held(faults::Fault::NoSpace, counting.operations() + 1);
        let store = open(&harness);
        let bytes = || segments(directory.path()).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let synced_bytes = bytes();
        std::thread::scope(|scope| {
            let posting = scope.spawn(|| runtime.block_on(store.commit(&sale(9))));
            is_reached.recv().unwrap();
            assert!(bytes() > synced_bytes, "the frame is in the file");
            assert_eq!(runtime.block_on(seen(&store)), before);
            assert!(!posting.is_finished());
            decide.send(fails).unwrap();
            assert_eq!(posting.join().unwrap().is_ok(), !fails);
        });
        let after = if fails { before } else { (1, 2, 2, true, 2, Some(4)) };
        assert_eq!(runtime.block_on(seen(&store)), after);
        runtime.block_on(store.shutdown());
    }
}

fn row(seq: i64) -> HistoryRow {
    HistoryRow {
        seq,
        at: chrono::DateTime::from_timestamp(1_700_000_000 + seq, 123_456_000).unwrap(),
        txid: Uuid::from_u128(seq as u128 * 7),
        minor: -seq,
        is_credit: seq % 2 == 0,
        raw_after: i64::MIN + seq,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_finder_finds_the_first_whole_frame(
        before in prop::collection::vec(any::<u8>(), 0..6000),
        filler in 0..9000_usize,
        from in 0..6000_usize,
    ) {
        let mut bytes = before.clone();
        let mut event = sale(1);
        event.metadata = serde_json::json!("x".repeat(filler));
        frame::encode(7, chrono::Utc::now(), &frame::transaction_json(&event).unwrap(), &mut bytes).unwrap();
        let found = FrameFinder::new(&bytes).next_whole(from.min(bytes.len()));
        prop_assert_eq!(found, (from <= before.len()).then_some(before.len()));
        bytes.pop();
        prop_assert_eq!(FrameFinder::new(&bytes).next_whole(0), None);
    }

    #[test]
    fn a_chain_of_blocks_is_its_rows(lens in prop::collection::vec(1..5_usize, 1..60), target in 0..400_i64) {
        let directory = tempfile::tempdir().unwrap();
        let scratch = ScratchFile::create(directory.path()).unwrap();
        let (mut last, mut all) = (None, Vec::new());
        for len in lens {
            let rows: Vec<HistoryRow> = (0..len).map(|at| row(2 * (all.len() + at) as i64)).collect();
            let mut blocks = HistoryBlocks::new(&scratch);
            last = Some(blocks.push(last, &rows).unwrap());
            blocks.write().unwrap();
            all.extend(rows);
        }
        let last = last.unwrap();
        let mut block = HistoryBlock::find(&scratch, last, |block| block.is_first()).unwrap();
        let mut read = Vec::new();
        while let Some(current) = block {
            read.extend(current.rows(&scratch).unwrap());
            block = current.next(&scratch, last).unwrap();
        }
        prop_assert_eq!(&read, &all);
        let found = HistoryBlock::find(&scratch, last, |block| block.first.seq <= target).unwrap();
        let rows = found.map(|block| block.rows(&scratch).unwrap());
        let wanted = all.iter().rev().find(|row| row.seq <= target);
        let newest = rows.and_then(|rows| rows.into_iter().rev().find(|row| row.seq <= target));
        prop_assert_eq!(newest.as_ref(), wanted);
    }

    #[test]
    fn an_index_finds_what_a_map_finds(entries in prop::collection::vec((0..300_u128, any::<bool>()), 1..3000)) {
        let directory = tempfile::tempdir().unwrap();
        let scratch = ScratchFile::create(directory.path()).unwrap();
        let mut index = SeqIndex::default();
        let mut map: HashMap<u128, Vec<i64>> = HashMap::new();
        for (seq, (id, flush)) in entries.iter().enumerate() {
            // A few ids are used so often that they fill pages of a run.
            let id = if id % 3 == 0 { id % 4 } else { *id };
            index.insert(id, seq as i64);
            map.entry(id).or_default().push(seq as i64);
            if *flush && seq % 5 == 0 {
                index.flush(&scratch).unwrap();
                while let Some((older, newer)) = index.merge_due() {
                    index.install(scratch::merge(&scratch, &older, &newer).unwrap());
                }
            }
        }
        for id in 0..300 {
            let mut found = index.find(Some(&scratch), id).unwrap();
            found.sort_unstable();
            prop_assert_eq!(found, map.get(&id).cloned().unwrap_or_default());
        }
        let mut visited = 0;
        index.visit(Some(&scratch), |entries| { visited += entries.len(); Ok(()) }).unwrap();
        prop_assert_eq!(visited, entries.len());
        let repeated: usize = map.values().map(|seqs| seqs.len() - 1).sum();
        prop_assert_eq!(index.repeated(&scratch).unwrap().len(), repeated);
    }
}

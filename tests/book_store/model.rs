//! Compares random histories, with restarts, snapshots and losses, with a model of one page.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use relayburn_ledger::book::{BookFindingKind, LogStoreOptions, check};
use talea_core::store::{Committed, Store, StoreError};
use talea_core::types::*;

use super::support::*;

const PATHS: [&str; 4] = ["a", "b", "c:d", "no such"];

#[derive(Debug, Clone)]
struct Draft {
    key: u8,
    to: usize,
    from: usize,
    minor: i64,
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Draft>),
    Open(usize, Option<i64>),
    Snapshot,
    Reopen,
    /// Shuts down, then deletes or damages one of the snapshots and runs, selected by this number.
    Lose(usize),
    Flip(usize, usize),
}

fn draft() -> impl Strategy<Value = Draft> {
    (0..40_u8, 0..4_usize, 0..4_usize, 0..50_i64).prop_map(|(key, to, from, minor)| Draft {
        key,
        to,
        from,
        minor,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(draft(), 1..6).prop_map(Step::Commit),
        2 => (0..3_usize, prop::option::of(-60..5_i64)).prop_map(|(path, min)| Step::Open(path, min)),
        1 => Just(Step::Snapshot),
        2 => Just(Step::Reopen),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(file, byte)| Step::Flip(file, byte)),
    ]
}

/// Balances debit-positive; every account counts on the debit side.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<usize, (Option<i64>, i64)>,
    keys: HashMap<u8, u64>,
    /// Number of each committed transaction, by its sequence number.
    events: BTreeMap<i64, Option<(u64, Draft)>>,
    drafts: u64,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Committed(u64),
    Unknown,
    Floor,
}

impl Model {
    fn next_seq(&self) -> i64 {
        self.events.len() as i64 + 1
    }

    fn commit(&mut self, draft: &Draft) -> (u64, Verdict) {
        self.drafts += 1;
        let number = self.drafts;
        if let Some(first) = self.keys.get(&draft.key) {
            return (number, Verdict::Committed(*first));
        }
        let mut after = self.accounts.clone();
        for (path, minor) in [(draft.to, draft.minor), (draft.from, -draft.minor)] {
            let Some(account) = after.get_mut(&path) else { return (number, Verdict::Unknown) };
            account.1 += minor;
        }
        for path in [draft.to, draft.from] {
            let (floor, raw) = after[&path];
            if floor.is_some_and(|floor| raw < floor) {
                return (number, Verdict::Floor);
            }
        }
        self.accounts = after;
        self.keys.insert(draft.key, number);
        self.events.insert(self.next_seq(), Some((number, draft.clone())));
        (number, Verdict::Committed(number))
    }
}

fn transaction(number: u64, draft: &Draft) -> Transaction {
    let key = format!("key {}", draft.key);
    transfer(number, &key, "m", PATHS[draft.to], PATHS[draft.from], draft.minor)
}

fn verdict(outcome: &Result<Committed, StoreError>) -> Verdict {
    match outcome {
        Ok(committed) => Verdict::Committed((committed.txid.0.as_u128() & 0xffff_ffff) as u64),
        Err(StoreError::UnknownAccount(_)) => Verdict::Unknown,
        Err(StoreError::ConstraintViolation { .. }) => Verdict::Floor,
        Err(other) => panic!("{other}"),
    }
}

fn derived_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory.join("books/m")) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "snap" || ending == "run"));
    files.sort();
    files
}

async fn compare(store: &dyn Store, model: &Model) {
    let seen = observe_book(store, "m", &["2100-01-01T00:00:00Z".to_owned()]).await;
    let events = seen["events"].as_array().unwrap();
    assert_eq!(events.len(), model.events.len());
    let mut sums = 0;
    for (event, (seq, expected)) in events.iter().zip(&model.events) {
        assert_eq!(event["seq"], *seq);
        if let Some((number, draft)) = expected {
            assert_eq!(event["event"]["id"], txid(*number).0.to_string());
            sums += draft.minor;
            let stored = store.transaction(&txid(*number)).await.unwrap().unwrap();
            assert_eq!(stored.seq, *seq);
            assert_eq!(stored.transaction.idempotency_key.0, format!("key {}", draft.key));
        }
    }
    if sums != 0 {
        assert_eq!(seen["trial_balance"][0]["debits"], sums);
    }
    assert_eq!(seen["trial_balance"], seen["as_of"][0]["trial_balance"]);
    for (path, (_, raw)) in &model.accounts {
        let account = &seen["accounts"][PATHS[*path]];
        assert_eq!(account["amount"], *raw);
        let rows = account["history"].as_array().unwrap();
        let wanted: Vec<(i64, i64, &str)> = model
            .events
            .iter()
            .filter_map(|(seq, event)| Some((seq, &event.as_ref()?.1)))
            .flat_map(|(seq, draft)| {
                let sides = [(draft.to, "D"), (draft.from, "C")];
                sides.into_iter().filter(|(at, _)| at == path).map(|(_, side)| (*seq, draft.minor, side))
            })
            .collect();
        let found: Vec<(i64, i64, &str)> = rows
            .iter()
            .map(|row| {
                (
                    row["seq"].as_i64().unwrap(),
                    row["minor"].as_i64().unwrap(),
                    row["direction"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(found, wanted);
        assert_eq!(account["updated_seq"], wanted.last().map_or(0, |row| row.0));
    }
}

async fn play(steps: Vec<Step>, options: LogStoreOptions) {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut store = ours_with(directory.path(), &options).await;
    store.register_asset(&asset("USD")).await.unwrap();
    for step in steps {
        let mut reopen = false;
        match step {
            Step::Commit(drafts) => {
                let (expected, batch): (Vec<_>, Vec<_>) = drafts
                    .iter()
                    .map(|draft| {
                        let (number, verdict) = model.commit(draft);
                        (verdict, transaction(number, draft))
                    })
                    .unzip();
                let outcomes = store.commit_batch(&batch).await;
                assert_eq!(outcomes.iter().map(verdict).collect::<Vec<_>>(), expected);
            }
            Step::Open(path, min_balance) => {
                let def = AccountDef {
                    id: account("m", PATHS[path]),
                    asset: AssetId::new("USD"),
                    kind: AccountKind::Clearing,
                };
                let cfg = talea_core::store::AccountCfg { normal_side: None, min_balance };
                let outcome = store.open_account(&def, &cfg).await;
                match model.accounts.get(&path) {
                    None => {
                        outcome.unwrap();
                        model.accounts.insert(path, (min_balance, 0));
                        model.events.insert(model.next_seq(), None);
                    }
                    Some((floor, _)) if *floor == min_balance => outcome.unwrap(),
                    Some(_) => assert!(matches!(outcome, Err(StoreError::AlreadyExists { .. }))),
                }
            }
            Step::Snapshot if model.events.is_empty() => assert!(store.snapshot_now("m").await.is_err()),
            Step::Snapshot => store.snapshot_now("m").await.unwrap(),
            Step::Reopen => reopen = true,
            Step::Lose(_) | Step::Flip(..) => {
                reopen = true;
                store.shutdown().await;
                let files = derived_files(directory.path());
                match step {
                    Step::Lose(at) if !files.is_empty() => fs::remove_file(&files[at % files.len()]).unwrap(),
                    Step::Flip(at, byte) if !files.is_empty() => {
                        let file = &files[at % files.len()];
                        let mut bytes = fs::read(file).unwrap();
                        let byte = byte % bytes.len();
                        bytes[byte] ^= 1;
                        fs::write(file, bytes).unwrap();
                    }
                    _ => {}
                }
            }
        }
        if reopen {
            store.shutdown().await;
            store = ours_with(directory.path(), &options).await;
            compare(&store, &model).await;
        }
    }
    compare(&store, &model).await;
    store.shutdown().await;
    // The final directory is sound, and the published crate reads the same events from it and has every key.
    let mut findings = check(directory.path()).unwrap().findings;
    // A damaged snapshot is skipped until newer snapshots replace it.
    findings.retain(|finding| finding.problem.kind != BookFindingKind::DamagedSnapshot);
    assert!(findings.is_empty(), "{findings:?}");
    let back = published(directory.path(), &options).await;
    compare(&back, &model).await;
    for (key, number) in &model.keys {
        let draft = Draft { key: *key, to: 3, from: 3, minor: 0 };
        assert_eq!(verdict(&back.commit(&transaction(0, &draft)).await), Verdict::Committed(*number));
    }
    back.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_book_does_what_its_model_does(
        steps in prop::collection::vec(step(), 1..40),
        idem_hot_cap in prop_oneof![Just(0_usize), 1..8_usize, Just(1000)],
        snapshot_every in prop_oneof![Just(0_u64), 1..12_u64],
        segment_max in prop_oneof![Just(1_u64), 400..3000_u64, Just(1 << 20)],
    ) {
        let options = LogStoreOptions { idem_hot_cap, snapshot_every, segment_max };
        tokio::runtime::Runtime::new().unwrap().block_on(play(steps, options));
    }
}

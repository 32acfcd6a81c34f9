//! Shared by the tests: stores of both crates, transactions, and all answers of a store as one JSON document. Two test
//! binaries use parts of this file.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use relayburn_ledger::book::{LogStoreOptions, LogTaleaStore};
use serde_json::{Map, Value, json};
use talea_core::store::{AccountCfg, Committed, Store, StoreError};
use talea_core::types::*;
use uuid::Uuid;

pub const NEVER_SNAPSHOT: LogStoreOptions =
    LogStoreOptions { idem_hot_cap: 1_000_000, snapshot_every: 0, segment_max: 128 << 20 };

pub async fn ours(directory: &Path) -> LogTaleaStore {
    ours_with(directory, &NEVER_SNAPSHOT).await
}

pub async fn ours_with(directory: &Path, options: &LogStoreOptions) -> LogTaleaStore {
    LogTaleaStore::open_with(directory, options.clone()).await.unwrap()
}

pub type Published = talea_store_log::LogTaleaStore;

pub async fn published(directory: &Path, options: &LogStoreOptions) -> Published {
    let options = talea_store_log::LogStoreOptions {
        idem_hot_cap: options.idem_hot_cap,
        snapshot_every: options.snapshot_every,
        segment_max: options.segment_max,
    };
    Published::open_with(directory, options).await.unwrap()
}

pub fn account(book: &str, path: &str) -> AccountId {
    AccountId { book: Book(book.into()), path: path.into() }
}

pub fn asset(id: &str) -> AssetDef {
    AssetDef { id: AssetId::new(id), class: AssetClass::Fiat, precision: 2, name: format!("{id} unit") }
}

pub fn txid(number: u64) -> TxId {
    TxId(Uuid::from_u128(0x7000_0000_0000_4000_8000_0000_0000_0000 | u128::from(number)))
}

pub fn posting(account: &AccountId, minor: i64, direction: Direction) -> Posting {
    Posting { account: account.clone(), amount: Amount::new(minor, AssetId::new("USD")), direction }
}

/// A sale of `minor` in the book `shop`, with a key of its own.
pub fn sale(number: u64, minor: i64) -> Transaction {
    transfer(number, &format!("k{number}"), "shop", "cash", "sales", minor)
}

/// Posts sales of 1.
pub async fn post(store: &dyn Store, numbers: std::ops::Range<u64>) -> Vec<Committed> {
    let mut done = Vec::new();
    for number in numbers {
        done.push(store.commit(&sale(number, 1)).await.unwrap());
    }
    done
}

/// The amount in the account `cash` of the book `shop`.
pub async fn cash(store: &dyn Store) -> i64 {
    store.balance(&account("shop", "cash"), None).await.unwrap().amount.minor()
}

/// The files of the book `shop` whose names end in `ending`, sorted.
pub fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("books/shop")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

/// From the second account to the first.
pub fn transfer(number: u64, key: &str, book: &str, to: &str, from: &str, minor: i64) -> Transaction {
    Transaction {
        id: txid(number),
        book: Book(book.into()),
        postings: vec![
            posting(&account(book, to), minor, Direction::Debit),
            posting(&account(book, from), minor, Direction::Credit),
        ],
        idempotency_key: IdempotencyKey(key.into()),
        external_refs: vec![ExternalRef { kind: "receipt".into(), value: number.to_string() }],
        metadata: json!({"z": 1, "a": [number, "ä\u{1F600}\n"]}),
        occurred_at: "2023-11-14T22:13:20.123456789Z".parse().unwrap(),
    }
}

pub async fn open_account(store: &dyn Store, id: AccountId, kind: AccountKind, min_balance: Option<i64>) {
    let cfg = AccountCfg { normal_side: kind.normal_side(), min_balance };
    store.open_account(&AccountDef { id, asset: AssetId::new("USD"), kind }, &cfg).await.unwrap();
}

/// USD, and a book with the accounts `cash` and `sales`.
pub async fn set_up(store: &dyn Store, book: &str) {
    store.register_asset(&asset("USD")).await.unwrap();
    open_account(store, account(book, "cash"), AccountKind::Asset, None).await;
    open_account(store, account(book, "sales"), AccountKind::Income, None).await;
}

/// Returns the variant of an error, with its text unless it is an I/O error.
pub fn class(error: &StoreError) -> String {
    match error {
        StoreError::Io(_) => "Io".to_owned(),
        other => format!("{other:?}"),
    }
}

pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn time(at: DateTime<Utc>) -> Value {
    serde_json::to_value(at).unwrap()
}

fn trial_rows(rows: Vec<talea_core::store::TrialBalanceRow>) -> Value {
    rows.into_iter()
        .map(|row| json!({"asset": row.asset.as_str(), "debits": row.debits, "credits": row.credits}))
        .collect()
}

/// Returns all answers about a book, in the form of the recordings.
pub fn observe_book<'a>(store: &'a dyn Store, book: &'a str, times: &'a [String]) -> BoxFuture<'a, Value> {
    Box::pin(async move {
        let name = Book(book.to_owned());
        let mut events = Vec::new();
        // Pages of an odd length, so that page ends fall everywhere.
        loop {
            let page = store.read_events(&name, events.len() as i64 + 1, 7).await.unwrap();
            if page.is_empty() {
                break;
            }
            events.extend(page);
        }
        let mut paths = Vec::new();
        for event in &events {
            if let talea_core::events::LedgerEvent::AccountOpened { def, .. } = &event.event {
                paths.push(def.id.path.clone());
            }
        }
        let mut accounts = Map::new();
        for path in &paths {
            accounts.insert(path.clone(), observe_account(store, account(book, path)).await);
        }
        let mut as_of = Vec::new();
        for text in times {
            let time: DateTime<Utc> = text.parse().unwrap();
            let mut balances = Map::new();
            for path in &paths {
                let balance = store.balance(&account(book, path), Some(time)).await.unwrap();
                balances.insert(path.clone(), json!([balance.amount.minor(), balance.updated_seq]));
            }
            let rows = store.trial_balance(&name, Some(time)).await.unwrap();
            as_of.push(json!({"t": text, "balances": balances, "trial_balance": trial_rows(rows)}));
        }
        json!({
            "accounts": accounts,
            "as_of": as_of,
            "trial_balance": trial_rows(store.trial_balance(&name, None).await.unwrap()),
            "events": events.iter().map(|event| {
                json!({"seq": event.seq, "at": time(event.at), "event": serde_json::to_value(&event.event).unwrap()})
            }).collect::<Vec<_>>(),
        })
    })
}

async fn observe_account(store: &dyn Store, id: AccountId) -> Value {
    let balance = store.balance(&id, None).await.unwrap();
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.account_history(&id, after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.seq);
        rows.extend(page);
    }
    let history: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "account": row.account.to_key(), "asset": row.amount.asset().as_str(), "minor": row.amount.minor(),
                "direction": row.direction.as_str(), "seq": row.seq, "txid": row.txid.0, "at": time(row.at),
            })
        })
        .collect();
    json!({
        "amount": balance.amount.minor(), "asset": balance.amount.asset().as_str(),
        "updated_seq": balance.updated_seq, "history": history,
    })
}

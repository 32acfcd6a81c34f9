//! Calls every method of `Store` on this store and on the published crate, and compares the answers.

use std::fs;
use std::path::Path;

use chrono::DateTime;
use serde_json::{Value, json};
use talea_core::store::{AccountCfg, Store, StoreError};
use talea_core::types::*;

use super::support::*;

/// Answers as text, without times, because times differ from run to run.
#[derive(Default)]
struct Log(Vec<String>);

impl Log {
    fn note<T: std::fmt::Debug>(&mut self, what: &str, outcome: Result<T, StoreError>) {
        let text = match &outcome {
            Ok(value) => format!("{value:?}"),
            Err(error) => class(error),
        };
        // `at: 2026-…Z` becomes `at`, in every struct.
        let mut masked = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find("at: 2") {
            masked.push_str(&rest[..at + 3]);
            rest = &rest[at + 4..];
            rest = &rest[rest.find([',', ' ', '}']).unwrap_or(rest.len())..];
        }
        masked.push_str(rest);
        self.0.push(format!("{what}: {masked}"));
    }
}

async fn scenario(store: &dyn Store) -> Vec<String> {
    let mut log = Log::default();
    let usd = asset("USD");
    log.note("register", store.register_asset(&usd).await);
    log.note("register again", store.register_asset(&usd).await);
    log.note("register differently", store.register_asset(&AssetDef { precision: 3, ..usd.clone() }).await);
    let crypto = AssetDef {
        id: AssetId::new("L-USDT"),
        class: AssetClass::Crypto { network: Network::new("liquid"), native_id: Some("ce09".into()) },
        precision: 8,
        name: "Tether \"quoted\" ß".into(),
    };
    log.note("register crypto", store.register_asset(&crypto).await);
    for id in ["USD", "L-USDT", "EUR"] {
        log.note(id, store.asset(&AssetId::new(id)).await);
    }

    let cfg = |normal_side, min_balance| AccountCfg { normal_side, min_balance };
    let def = |book: &str, path: &str, id: &str| AccountDef {
        id: account(book, path),
        asset: AssetId::new(id),
        kind: AccountKind::Asset,
    };
    let debit = cfg(Some(Direction::Debit), Some(0));
    for (what, def, cfg) in [
        ("open", def("b", "cash", "USD"), debit.clone()),
        ("open again", def("b", "cash", "USD"), debit.clone()),
        ("open with another floor", def("b", "cash", "USD"), cfg(Some(Direction::Debit), None)),
        ("open with another asset", def("b", "cash", "L-USDT"), debit.clone()),
        ("open with an unknown asset", def("b", "euro", "EUR"), debit.clone()),
        ("open in a reserved book", def("_b", "cash", "USD"), debit.clone()),
        ("open in a reserved book, unknown asset", def("_b", "cash", "EUR"), debit.clone()),
        ("open under a bad name", def("a/b", "cash", "USD"), debit.clone()),
        ("open under a bad name, unknown asset", def("a..b", "cash", "EUR"), debit.clone()),
        ("open without a name", def("", "cash", "USD"), debit.clone()),
        ("open credit", def("b", "owed", "USD"), cfg(Some(Direction::Credit), Some(-100))),
        ("open none", def("b", "", "USD"), cfg(None, None)),
        ("open crypto", def("b", "a:b\\c", "L-USDT"), cfg(None, None)),
        ("open elsewhere", def("a:b", "cash", "USD"), cfg(None, None)),
    ] {
        log.note(what, store.open_account(&def, &cfg).await);
    }

    let commit = |number: u64, key: &str, postings: Vec<Posting>| Transaction {
        postings,
        ..transfer(number, key, "b", "cash", "owed", 1)
    };
    let (cash, owed, free) = (account("b", "cash"), account("b", "owed"), account("b", ""));
    let (d, c) = (Direction::Debit, Direction::Credit);
    let mut n = 0;
    let mut next = || {
        n += 1;
        n
    };
    let in_crypto = Posting {
        account: cash.clone(),
        amount: Amount::new(1, AssetId::new("L-USDT")),
        direction: Direction::Debit,
    };
    let cases: Vec<(&str, Transaction)> = vec![
        ("first", commit(next(), "k1", vec![posting(&cash, 100, d.clone()), posting(&owed, 100, c.clone())])),
        ("repeat", commit(next(), "k1", vec![posting(&account("x", "y"), 1, d.clone())])),
        (
            "below the floor",
            commit(next(), "k2", vec![posting(&cash, 101, c.clone()), posting(&free, 101, d.clone())]),
        ),
        (
            "the key is still free",
            commit(next(), "k2", vec![posting(&cash, 1, c.clone()), posting(&free, 1, d.clone())]),
        ),
        (
            "a dip that ends well",
            commit(next(), "k3", vec![posting(&cash, 500, c.clone()), posting(&cash, 500, d.clone())]),
        ),
        (
            "credit floor",
            commit(next(), "k4", vec![posting(&owed, 201, d.clone()), posting(&free, 201, c.clone())]),
        ),
        (
            "credit floor reached",
            commit(next(), "k4", vec![posting(&owed, 200, d.clone()), posting(&free, 200, c.clone())]),
        ),
        (
            "unknown account",
            commit(
                next(),
                "k5",
                vec![posting(&cash, 1, d.clone()), posting(&account("b", "?"), 1, c.clone())],
            ),
        ),
        (
            "another book's account",
            commit(next(), "k5", vec![posting(&account("a:b", "cash"), 1, d.clone())]),
        ),
        ("asset mismatch", commit(next(), "k5", vec![in_crypto, posting(&account("b", "?"), 1, c.clone())])),
        ("no postings", commit(next(), "k6", vec![])),
        ("unbalanced", commit(next(), "k7", vec![posting(&cash, 7, d.clone())])),
        ("zero", commit(next(), "k8", vec![posting(&cash, 0, d.clone())])),
        ("negative", commit(next(), "k9", vec![posting(&free, -5, d.clone())])),
        (
            "overflow",
            commit(
                next(),
                "k10",
                vec![posting(&free, i64::MAX, c.clone()), posting(&free, i64::MAX, c.clone())],
            ),
        ),
        (
            "overflow on the way",
            commit(
                next(),
                "k10",
                vec![
                    posting(&free, i64::MAX, c.clone()),
                    posting(&free, i64::MAX, c.clone()),
                    posting(&free, i64::MAX, d.clone()),
                    posting(&free, i64::MAX, d.clone()),
                ],
            ),
        ),
        ("used id", commit(1, "k11", vec![posting(&cash, 3, d.clone()), posting(&cash, 1, d.clone())])),
        ("reserved", Transaction { book: Book("_system".into()), ..commit(next(), "k12", vec![]) }),
        ("reserved, not there", Transaction { book: Book("_x".into()), ..commit(next(), "k12", vec![]) }),
        ("bad name", Transaction { book: Book("a\\b".into()), ..commit(next(), "k12", vec![]) }),
        (
            "unknown book",
            Transaction {
                book: Book("zzz".into()),
                ..commit(next(), "k12", vec![posting(&cash, 1, d.clone())])
            },
        ),
        (
            "unknown book, no postings",
            Transaction { book: Book("empty".into()), ..commit(next(), "k12", vec![]) },
        ),
    ];
    for (what, transaction) in &cases {
        log.note(what, store.commit(transaction).await);
    }

    log.note("empty batch", Ok(store.commit_batch(&[]).await.len()));
    let batch = [
        commit(101, "b1", vec![posting(&cash, 10_000, c.clone())]),
        commit(102, "b1", vec![posting(&cash, 10, d.clone())]),
        commit(103, "b1", vec![posting(&cash, 10, d.clone())]),
        commit(104, "k1", vec![]),
        commit(105, "b2", vec![posting(&cash, 10_000, d.clone())]),
        commit(106, "b3", vec![posting(&cash, 10_000, c.clone())]),
        Transaction {
            book: Book("a:b".into()),
            ..commit(107, "b1", vec![posting(&account("a:b", "cash"), 5, d.clone())])
        },
        Transaction { book: Book("no/name".into()), ..commit(108, "b1", vec![]) },
    ];
    for (at, outcome) in store.commit_batch(&batch).await.into_iter().enumerate() {
        log.note(&format!("batch {at}"), outcome);
    }

    for id in [
        &cash,
        &owed,
        &free,
        &account("b", "?"),
        &account("zzz", "y"),
        &account("..", "y"),
        &account("a:b", "cash"),
    ] {
        let key = id.to_key();
        log.note(&format!("balance {key}"), store.balance(id, None).await);
        log.note(&format!("balance {key} long ago"), store.balance(id, DateTime::from_timestamp(1, 0)).await);
        log.note(
            &format!("balance {key} far ahead"),
            store.balance(id, DateTime::from_timestamp(1 << 33, 0)).await,
        );
        for (after, limit) in
            [(None, 2), (Some(-9), 0), (Some(i64::MIN), 3), (Some(5), 2), (Some(99), 1), (Some(i64::MAX), 9)]
        {
            log.note(
                &format!("history {key} {after:?} {limit}"),
                store.account_history(id, after, limit).await,
            );
        }
    }
    for id in [1, 4, 999, 107] {
        let found = store
            .transaction(&txid(id))
            .await
            .map(|found| found.map(|found| (found.seq, json!(found.transaction).to_string())));
        log.note(&format!("transaction {id}"), found);
    }
    for book in ["b", "a:b", "zzz", "_system", "a/b", "empty"] {
        let name = Book(book.into());
        log.note(&format!("trial balance {book}"), store.trial_balance(&name, None).await);
        log.note(
            &format!("trial balance {book}, far ahead"),
            store.trial_balance(&name, DateTime::from_timestamp(1 << 33, 0)).await,
        );
        for (from, limit) in
            [(1, 3), (0, 1), (i64::MIN, 1), (4, 2), (100, 5), (i64::MAX, 5), (1, 0), (3, usize::MAX)]
        {
            let page = store.read_events(&name, from, limit).await;
            log.note(
                &format!("events {book} {from} {limit}"),
                page.map(|page| {
                    page.into_iter()
                        .map(|event| (event.seq, json!(event.event).to_string()))
                        .collect::<Vec<_>>()
                }),
            );
        }
    }
    log.0
}

#[tokio::test]
async fn every_method_answers_as_the_published_crate_does() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = ours(here.path()).await;
    let theirs = published(there.path(), &NEVER_SNAPSHOT).await;
    let (mine, reference) = (scenario(&ours).await, scenario(&theirs).await);
    assert_eq!(mine.len(), reference.len());
    for (mine, reference) in mine.iter().zip(&reference) {
        assert_eq!(mine, reference);
    }
    // The directories can be exchanged, and the other store gives the same answers.
    ours.shutdown().await;
    theirs.shutdown().await;
    let (ours, theirs) = (self::ours(there.path()).await, published(here.path(), &NEVER_SNAPSHOT).await);
    for book in ["b", "a:b", "empty", "_system"] {
        let mut seen = [observe_book(&ours, book, &[]).await, observe_book(&theirs, book, &[]).await];
        seen.iter_mut().for_each(mask_times);
        assert_eq!(seen[0], seen[1]);
    }
}

fn mask_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("at");
            fields.values_mut().for_each(mask_times);
        }
        Value::Array(items) => items.iter_mut().for_each(mask_times),
        _ => {}
    }
}

/// Segments written by both crates from the same calls, times masked.
#[tokio::test]
async fn logs_are_byte_for_byte_those_of_the_published_crate_but_for_the_time() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mine, theirs) = (ours(here.path()).await, published(there.path(), &NEVER_SNAPSHOT).await);
    for store in [&mine as &dyn Store, &theirs] {
        set_up(store, "shop").await;
        let mut odd = transfer(1, "odd", "shop", "cash", "sales", i64::MAX / 4);
        odd.occurred_at = DateTime::from_timestamp(300_000_000_000, 1_000).unwrap();
        odd.metadata = json!({"ß": [1.5e300, -0.0, null, true], "a": {"z": "\u{7f}\u{1}/\\", "b": u64::MAX}});
        store.commit(&odd).await.unwrap();
        odd = Transaction { id: txid(2), idempotency_key: IdempotencyKey("leap".into()), ..odd };
        odd.occurred_at = DateTime::from_timestamp(1_483_228_799, 1_500_000_000).unwrap();
        store.commit(&odd).await.unwrap();
    }
    let frames = |directory: &Path| {
        let bytes = fs::read(directory.join("books/shop/segment-00000000000000000001.log")).unwrap();
        let (mut at, mut payloads) = (0, Vec::new());
        while at < bytes.len() {
            let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let text = String::from_utf8(bytes[at + 8..at + 8 + len].to_vec()).unwrap();
            let (front, back) = text.split_once("\"at\":\"").unwrap();
            payloads.push(format!("{front}{}", &back[back.find('"').unwrap()..]));
            at += 8 + len;
        }
        payloads
    };
    assert_eq!(frames(here.path()), frames(there.path()));
    mine.shutdown().await;
    let again = ours(here.path()).await;
    assert_eq!(again.read_events(&Book("shop".into()), 1, 9).await.unwrap().len(), 4);
}

//! Stores that talea-store-log 0.1.0 wrote, sound and damaged, with the expected answers; then that crate opens the
//! same stores after this store has used them. Cases come from `fixtures/` and from `BURN_GOLDEN` (default `../shared/golden`).

use std::fs;
use std::path::{Path, PathBuf};

use relayburn_ledger::book::{LogStoreOptions, LogTaleaStore};
use serde_json::{Value, json};
use talea_core::store::{Store, StoreError};
use talea_core::types::*;

use super::support::*;

fn cases() -> Vec<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden =
        std::env::var_os("BURN_GOLDEN").map_or_else(|| package.join("../shared/golden"), PathBuf::from);
    let mut cases = Vec::new();
    for folder in [package.join("fixtures/book-store"), golden.join("book-store")] {
        let Ok(entries) = fs::read_dir(&folder) else {
            println!("{} is not there", folder.display());
            continue;
        };
        let found = entries.map(|entry| entry.unwrap().path());
        cases.extend(found.filter(|path| path.join("expect.json").exists()));
    }
    cases.sort();
    cases
}

fn options(expect: &Value) -> LogStoreOptions {
    let number = |name: &str| expect["options"][name].as_u64().unwrap();
    LogStoreOptions {
        idem_hot_cap: number("idem_hot_cap") as usize,
        snapshot_every: number("snapshot_every"),
        segment_max: number("segment_max"),
    }
}

async fn observed(store: &dyn Store, expected: &Value) -> Value {
    let mut assets = serde_json::Map::new();
    for id in expected["assets"].as_object().unwrap().keys() {
        let asset = store.asset(&AssetId::new(id)).await.unwrap();
        assets.insert(id.clone(), serde_json::to_value(asset).unwrap());
    }
    let mut books = serde_json::Map::new();
    for (book, told) in expected["books"].as_object().unwrap() {
        let times: Vec<String> = told["as_of"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["t"].as_str().unwrap().to_owned())
            .collect();
        books.insert(book.clone(), observe_book(store, book, &times).await);
    }
    json!({"assets": assets, "books": books})
}

/// Commits with a key and a body that every account refuses, so only a repeated key succeeds.
async fn repeat(store: &dyn Store, book: &str, key: &str) -> Result<Value, StoreError> {
    let outcome = store.commit(&transfer(999, key, book, "no such", "account", 1)).await?;
    Ok(json!([outcome.txid.0, outcome.seq, outcome.at]))
}

async fn check_keys(store: &dyn Store, expected: &Value, context: &str) {
    for (book, keys) in expected.as_object().unwrap() {
        for (key, outcome) in keys.as_object().unwrap() {
            assert_eq!(repeat(store, book, key).await.unwrap(), *outcome, "{context}: {book} {key}");
        }
    }
}

#[tokio::test]
async fn stores_of_the_published_crate_give_the_recorded_answers_here_and_there_again() {
    let mut ran = 0;
    for case in cases() {
        let expect: Value = serde_json::from_slice(&fs::read(case.join("expect.json")).unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        copy_tree(&case.join("store"), directory.path());
        let options = options(&expect);
        let name = case.display().to_string();
        for round in 0..2 {
            let store = ours_with(directory.path(), &options).await;
            assert_eq!(
                observed(&store, &expect["observed"]).await,
                expect["observed"],
                "{name}, opening {round}"
            );
            check_keys(&store, &expect["keys"], &name).await;
            store.shutdown().await;
        }
        let back = published(directory.path(), &options).await;
        assert_eq!(observed(&back, &expect["observed"]).await, expect["observed"], "{name}, given back");
        check_keys(&back, &expect["keys"], &format!("{name}, given back")).await;
        back.shutdown().await;
        ran += 1;
    }
    println!("{ran} recorded stores");
    assert!(ran >= 10);
}

fn mutate(directory: &Path, mutation: &Value) {
    let path = directory.join(mutation["file"].as_str().unwrap());
    let mut bytes = fs::read(&path).unwrap();
    match mutation["op"].as_str().unwrap() {
        "truncate" => bytes.truncate(mutation["len"].as_u64().unwrap() as usize),
        "xor" => {
            bytes[mutation["offset"].as_u64().unwrap() as usize] ^= mutation["mask"].as_u64().unwrap() as u8
        }
        "append_hex" => {
            let hex = mutation["hex"].as_str().unwrap();
            bytes.extend(
                (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()),
            );
        }
        "delete" => return fs::remove_file(&path).unwrap(),
        other => panic!("unknown mutation {other}"),
    }
    fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn damaged_stores_are_repaired_or_refused_as_recorded() {
    let mut ran = 0;
    for case in cases() {
        let expect: Value = serde_json::from_slice(&fs::read(case.join("expect.json")).unwrap()).unwrap();
        for variant in expect["variants"].as_array().into_iter().flatten() {
            let name = format!("{}: {}", case.display(), variant["name"]);
            let directory = tempfile::tempdir().unwrap();
            copy_tree(&case.join("store"), directory.path());
            for mutation in variant["mutations"].as_array().unwrap() {
                mutate(directory.path(), mutation);
            }
            let opened = LogTaleaStore::open_with(directory.path(), options(&expect)).await;
            let wanted = &variant["expect"];
            ran += 1;
            if wanted["open"] == "refused" {
                let error = opened.err().unwrap_or_else(|| panic!("{name}: was opened"));
                assert!(matches!(error, StoreError::Io(_)), "{name}");
                for part in variant["message_names"].as_array().into_iter().flatten() {
                    let part = part.as_str().map_or_else(|| format!("byte {part}: "), str::to_owned);
                    assert!(error.to_string().contains(&part), "{name}: {error}");
                }
                continue;
            }
            let store = opened.unwrap_or_else(|error| panic!("{name}: {error}"));
            check_repaired(&store, directory.path(), wanted, &expect["keys"], &name).await;
        }
    }
    println!("{ran} damaged stores");
    assert!(ran >= 30);
}

async fn check_repaired(store: &LogTaleaStore, directory: &Path, wanted: &Value, keys: &Value, name: &str) {
    for (file, len) in wanted["segment_lengths"].as_object().unwrap() {
        assert_eq!(
            fs::metadata(directory.join(file)).unwrap().len(),
            len.as_u64().unwrap(),
            "{name}: {file}"
        );
    }
    for (book, told) in wanted["books"].as_object().unwrap() {
        let seen = observe_book(store, book, &["2100-01-01T00:00:00Z".to_owned()]).await;
        assert_eq!(
            seen["events"].as_array().unwrap().len() as u64,
            told["last_seq"].as_u64().unwrap(),
            "{name}"
        );
        assert_eq!(seen["trial_balance"], told["trial_balance"], "{name}");
        assert_eq!(seen["as_of"][0]["trial_balance"], told["trial_balance"], "{name}");
        for (path, balance) in told["balances"].as_object().unwrap() {
            let account = &seen["accounts"][path];
            assert_eq!(json!([account["amount"], account["updated_seq"]]), *balance, "{name}: {path}");
        }
    }
    for (book, lost) in wanted["keys_not_deduplicated"].as_object().unwrap() {
        for (key, outcome) in keys[book].as_object().unwrap() {
            let is_lost = lost.as_array().unwrap().contains(&json!(key));
            match repeat(store, book, key).await {
                Ok(repeated) => assert!(!is_lost && repeated == *outcome, "{name}: {key}"),
                Err(error) => assert!(is_lost, "{name}: {key}: {error}"),
            }
        }
    }
}

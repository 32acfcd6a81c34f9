//! `burn journal drain` is killed at random moments under load. The final keys and values are those of an undisturbed
//! run.
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use relayburn_ledger::ingest::{
    Assertion, Epoch, HybridStore, KVStore, KeyValue, Vote, serialize_assertion, serialize_epoch,
    serialize_vote,
};
use relayburn_ledger::journal::{self, DurabilityLevel, Journal, JournalOptions};

/// The number of kills; `KILL_ROUNDS` changes it.
fn rounds() -> usize {
    std::env::var("KILL_ROUNDS").ok().and_then(|count| count.parse().ok()).unwrap_or(50)
}

fn payload(number: u64) -> Vec<u8> {
    match number % 20 {
        0 => serialize_vote(&Vote {
            assertion: [(number % 251) as u8; 32],
            agent: format!("agent {number}"),
            weight: 1.0,
            timestamp_ms: number as i64,
        })
        .unwrap(),
        1 => serialize_epoch(&Epoch {
            id: [(number % 9) as u8; 32],
            name: format!("epoch {number}"),
            start_ms: 0,
            end_ms: None,
            supersedes: None,
        })
        .unwrap(),
        2 => format!("nobody understands {number}").into_bytes(),
        _ => serialize_assertion(&Assertion {
            subject: format!("subject {}", number % 97),
            predicate: "weighs".to_owned(),
            // A third of the assertions are repetitions.
            object: format!("{} kg", number - number % 3),
            source: "scales".to_owned(),
            confidence: 1.0,
            timestamp_ms: 0,
        })
        .unwrap(),
    }
}

fn ingest(journal: &Path, store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.args(["journal", "drain"]).arg(journal).arg("--store").arg(store);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn contents(store: &Path) -> Vec<KeyValue> {
    HybridStore::open(store).unwrap().scan_prefix(b"").unwrap()
}

#[test]
fn killed_at_random_under_load_it_ends_as_if_undisturbed() {
    let directory = tempfile::tempdir().unwrap();
    let (journal_dir, store) = (directory.path().join("journal"), directory.path().join("store"));
    let options = JournalOptions {
        durability: DurabilityLevel::Os,
        max_segment_bytes: 256 * 1024,
        ..JournalOptions::default()
    };
    let journal = journal::open(&journal_dir, &options).unwrap().0;
    let done = AtomicBool::new(false);
    let mut random = crate::common::Random::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The load goes on all the time, at a rate that the ingestor can follow.
            for number in 0.. {
                if done.load(Ordering::Acquire) {
                    return;
                }
                journal.append(&payload(number)).unwrap();
                if number % 200 == 0 {
                    std::thread::sleep(Duration::from_millis(4));
                }
            }
        });
        for _ in 0..rounds() {
            let mut child = ingest(&journal_dir, &store).arg("--follow").spawn().unwrap();
            std::thread::sleep(Duration::from_micros(5_000 + random.below(120_000)));
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    let end = journal.end();
    journal.close().unwrap();
    assert!(ingest(&journal_dir, &store).arg("--once").status().unwrap().success());
    let undisturbed = directory.path().join("undisturbed");
    assert!(ingest(&journal_dir, &undisturbed).arg("--once").status().unwrap().success());
    let (disturbed, undisturbed) = (contents(&store), contents(&undisturbed));
    assert!(undisturbed.len() > 1000);
    assert!(disturbed == undisturbed, "{} keys instead of {}", disturbed.len(), undisturbed.len());
    let cursor = (b"C:offset".to_vec(), end.to_le_bytes().to_vec());
    assert!(disturbed.contains(&cursor));
}

#[test]
fn what_was_drained_is_printed_as_one_document() {
    let directory = tempfile::tempdir().unwrap();
    let journal_dir = directory.path().join("journal");
    let journal = Journal::open(&journal_dir).unwrap();
    for number in 0..40 {
        journal.append(&payload(number)).unwrap();
    }
    let output = ingest(&journal_dir, &directory.path().join("store"))
        .arg("--json")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["records"], &document["setAside"]), (&40.into(), &2.into()));
    assert_eq!(document["lagBytes"], 0);
}

/// Neither engine opens a store again whose creation was killed, so the store creates it again.
#[test]
fn killed_while_it_makes_its_store_it_makes_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let journal_dir = directory.path().join("journal");
    let journal = Journal::open(&journal_dir).unwrap();
    for number in 0..40 {
        journal.append(&payload(number)).unwrap();
    }
    let undisturbed = directory.path().join("undisturbed");
    assert!(ingest(&journal_dir, &undisturbed).status().unwrap().success());
    let undisturbed = contents(&undisturbed);
    let mut unfinished = 0;
    for round in 0..rounds() as u64 {
        let store = directory.path().join(format!("store-{round}"));
        let mut child = ingest(&journal_dir, &store).spawn().unwrap();
        // Each kill comes a little later in the creation than the last.
        while !store.exists() && child.try_wait().unwrap().is_none() {}
        std::thread::sleep(Duration::from_micros(round * 120));
        child.kill().unwrap();
        child.wait().unwrap();
        unfinished += u32::from(!store.join("index.redb").exists());
        let again = ingest(&journal_dir, &store).stderr(Stdio::piped()).output().unwrap();
        assert!(again.status.success(), "round {round}: {}", String::from_utf8_lossy(&again.stderr));
        assert!(contents(&store) == undisturbed, "round {round}");
        std::fs::remove_dir_all(&store).unwrap();
    }
    assert!(unfinished > 0, "every store was whole before the kill");
}

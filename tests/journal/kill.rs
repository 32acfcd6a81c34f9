//! Processes are killed, compete for the lock, or fill the disk: every acknowledged offset is readable afterwards.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Random, processes};
use relayburn_ledger::ingest::{Payload, QueuedLine, deserialize, queue_ledger_lines};
use relayburn_ledger::journal::{
    self, GroupCommitBuffer, GroupCommitOptions, Journal, JournalError, JournalOptions, JournalReader,
    OnCorruption, recover,
};

const WRITERS: usize = 16;

/// The number of rounds with a kill; `KILL_ROUNDS` changes it.
fn rounds(default: usize) -> usize {
    std::env::var("KILL_ROUNDS").ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

fn options() -> JournalOptions {
    JournalOptions {
        max_segment_bytes: 64 * 1024,
        lock_timeout: Duration::from_secs(60),
        ..JournalOptions::default()
    }
}

/// This test binary again, running only `role`.
fn spawn_child(role: &str, directory: &Path) -> Child {
    processes::alone(module_path!(), "role")
        .env("BURN_TEST_ROLE", format!("{role}\n{}", directory.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "runs as another process of the other tests, which start it: cargo test --test journal kill"]
fn role() {
    let Some(role) = processes::role_played() else { return };
    let directory = Path::new(&role[1]);
    match role[0].as_str() {
        "group" => group_writers(directory),
        "threads" => thread_writers(directory),
        "queue" => {
            let line = format!("{{\"pid\":{}}}", std::process::id());
            let offsets = queue_ledger_lines(directory, &[&line], Duration::from_secs(60)).unwrap();
            acknowledge(offsets[0], line.as_bytes());
        }
        other => panic!("{other}"),
    }
}

fn payload(writer: usize, number: usize) -> Vec<u8> {
    format!("{} {writer} {number} {}", std::process::id(), "x".repeat(number * 37 % 900)).into_bytes()
}

/// One write to the pipe, so that a line arrives completely or not at all.
fn acknowledge(offset: u64, payload: &[u8]) {
    let line = format!("\nack {offset} {}\n", blake3::hash(payload));
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn group_writers(directory: &Path) {
    let journal = Arc::new(journal::open(directory, &options()).unwrap().0);
    let buffer = Arc::new(GroupCommitBuffer::new(journal, GroupCommitOptions::default()).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let buffer = buffer.clone();
            runtime.spawn(async move {
                for number in 0.. {
                    let payload = payload(writer, number);
                    let offset = buffer.append(&payload).await.unwrap();
                    acknowledge(offset, &payload);
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

fn thread_writers(directory: &Path) {
    let journal = journal::open(directory, &options()).unwrap().0;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0.. {
                    let payload = payload(writer, number);
                    acknowledge(journal.append(&payload).unwrap(), &payload);
                }
            });
        }
    });
}

/// Kills the child after `delay`. Returns all acknowledged offsets.
fn killed(mut child: Child, delay: Duration) -> BTreeMap<u64, String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let collector = std::thread::spawn(move || {
        let mut acknowledged = BTreeMap::new();
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            if let (Some("ack"), Some(offset), Some(hash)) = (words.next(), words.next(), words.next())
                && hash.len() == 64
            {
                acknowledged.insert(offset.parse().unwrap(), hash.to_owned());
            }
        }
        acknowledged
    });
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    collector.join().unwrap()
}

fn hashes(directory: &Path) -> BTreeMap<u64, String> {
    let mut reader = JournalReader::open(directory).unwrap();
    let mut offset = reader.start();
    let mut hashes = BTreeMap::new();
    while let Some(record) = reader.read(offset).unwrap() {
        hashes.insert(record.offset, record.hash.to_string());
        offset = record.next_offset;
    }
    hashes
}

#[test]
fn sixteen_writers_killed_at_random_lose_nothing_they_were_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut random = Random::new(1);
    for round in 0..rounds(12) {
        let delay = Duration::from_millis(20 + random.below(180));
        let role = if round % 2 == 0 { "group" } else { "threads" };
        acknowledged.extend(killed(spawn_child(role, directory.path()), delay));
        // A reader without a lock sees the records before any recovery.
        let seen = hashes(directory.path());
        for (offset, hash) in &acknowledged {
            assert_eq!(seen.get(offset), Some(hash), "round {round}: offset {offset} was acknowledged");
        }
    }
    let report = recover(directory.path(), OnCorruption::Refuse).unwrap();
    assert!(report.segments > 1 && report.records >= acknowledged.len() as u64);
    assert!(acknowledged.len() > 100, "only {} records were acknowledged", acknowledged.len());
    let seen = hashes(directory.path());
    assert!(acknowledged.iter().all(|(offset, hash)| seen.get(offset) == Some(hash)));
}

#[test]
fn fifty_processes_queue_a_line_each_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let children: Vec<Child> = (0..50).map(|_| spawn_child("queue", directory.path())).collect();
    let pids: BTreeSet<u32> = children.iter().map(Child::id).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("\nack "));
    }
    let mut reader = JournalReader::open(directory.path()).unwrap();
    let mut queued = BTreeSet::new();
    let mut offset = 0;
    while let Some(record) = reader.read(offset).unwrap() {
        let Payload::LedgerLine(QueuedLine { line, .. }) = deserialize(record.payload).unwrap() else {
            panic!("no line")
        };
        let pid = line.trim_start_matches("{\"pid\":").trim_end_matches('}').parse().unwrap();
        assert!(queued.insert(pid), "{line} is there twice");
        offset = record.next_offset;
    }
    assert_eq!(queued, pids);
}

/// A file-size limit stands in for a full disk: writes fail with EFBIG in the middle of a record.
#[test]
fn a_full_disk_poisons_the_writer_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let script = "ulimit -f 64; trap '' XFSZ; exec \"$0\" journal append \"$1\"";
    let mut child = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_burn")])
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        for number in 0..2000 {
            if writeln!(input, "{number} {}", "y".repeat(300)).is_err() {
                break;
            }
        }
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains(".wal") && message.contains("open it again"), "{message}");
    let acknowledged: Vec<u64> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let journal = match Journal::open(directory.path()) {
        Err(JournalError::Corrupt { .. }) => panic!("a cut write is torn, not corrupt"),
        opened => opened.unwrap(),
    };
    let seen = hashes(directory.path());
    assert!(acknowledged.iter().all(|offset| seen.contains_key(offset)));
    journal.append(b"space again").unwrap();
}

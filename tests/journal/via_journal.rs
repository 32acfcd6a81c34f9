//! Appends through the journal: `burn ledger append --via-journal`, then `burn journal drain`.
//!
//! `KILL_ROUNDS` (default 3) is the number of crowds whose ingestor is killed again and again.
#![cfg(unix)]

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::common::Random;
use crate::common::processes::{burn, failure, success};

const CROWD: usize = 50;

fn start(home: &Path, kind: &str, more: &[&str], input: &str) -> Child {
    let mut command = burn(home);
    command.args(["ledger", "append", "--via-journal", "--kind", kind]).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A child that refuses to start reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child
}

fn queue(home: &Path, kind: &str, more: &[&str], input: &str) -> Output {
    start(home, kind, more, input).wait_with_output().unwrap()
}

fn ingest(home: &Path) -> serde_json::Value {
    success(&burn(home).args(["journal", "drain", "--once", "--json"]).output().unwrap())
}

fn turn(name: &str, number: usize) -> String {
    format!(
        r#"{{"source":"codex","sessionId":"{name}","messageId":"{name}-{number}","turnIndex":{number},"ts":"2026-04-20T00:00:00.{number:06}Z","model":"{name}","usage":{{"input":{number},"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]}}"#
    )
}

fn stamp(name: &str, enrichment: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"stamp","ts":"2026-04-20T00:00:00.000Z","selector":{{"sessionId":"{name}"}},"enrichment":{{{enrichment}}}}}"#
    )
}

/// The parts of the append of process `number` of a crowd: the kind, its input, and the expected lines of the ledger.
fn errand(round: usize, number: usize) -> (&'static str, String, Vec<String>) {
    let name = format!("p{round}-{number}");
    let record = |kind: &str, record: &str| format!(r#"{{"v":1,"kind":"{kind}","record":{record}}}"#);
    match number % 4 {
        0 => {
            let turns = [turn(&name, 0), turn(&name, 1), turn(&name, 2)];
            ("turns", turns.join("\n"), turns.iter().map(|turn| record("turn", turn)).collect())
        }
        1 => {
            let compaction = format!(r#"{{"source":"x","sessionId":"{name}","ts":"2026-04-20T00:00:00Z"}}"#);
            ("compactions", format!("{compaction}\n"), vec![record("compaction", &compaction)])
        }
        2 => {
            let stamps = [stamp(&name, r#""tier":"gold""#), stamp(&name, r#""tier":"silver""#)];
            ("stamp", stamps.join("\n"), stamps.to_vec())
        }
        _ => {
            let stamp = stamp(&name, r#""parentAgentId":"p""#);
            let implied = format!(
                r#"{{"v":1,"source":"spawn-env","sessionId":"{name}","relatedSessionId":"p","relationshipType":"subagent","ts":"2026-04-20T00:00:00.000Z"}}"#
            );
            ("stamp", stamp.clone(), vec![stamp, record("relationship", &implied)])
        }
    }
}

/// Makes the locks of a killed process old, because a waiter would otherwise wait six seconds.
fn age_locks(home: &Path) {
    for entry in fs::read_dir(home).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "lock")
            && let Ok(file) = fs::File::options().write(true).open(&path)
        {
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
    }
}

#[test]
fn a_crowd_queues_and_an_ingestor_that_is_killed_and_restarted_delivers_each_record_once() {
    let rounds = std::env::var("KILL_ROUNDS").map_or(3, |count| count.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    let mut random = Random::new(50);
    let mut expected: HashMap<String, usize> = HashMap::new();
    let (mut killed, mut killed_after_delivery) = (0, 0);
    for round in 0..rounds {
        let errands: Vec<_> = (0..CROWD).map(|number| errand(round, number)).collect();
        expected.extend(errands.iter().flat_map(|(.., lines)| lines).map(|line| (line.clone(), 1)));
        let mut crowd: Vec<Child> =
            errands.iter().map(|(kind, input, _)| start(home, kind, &["--json"], input)).collect();
        // An ingestor without work ends before it can be killed, so a busy machine needs more tries.
        let (mut kills, met_before) = (0, killed);
        while kills < 15
            || killed < met_before + 5
            || crowd.iter_mut().any(|child| child.try_wait().unwrap().is_none())
        {
            let before = fs::metadata(home.join("ledger.jsonl")).map_or(0, |metadata| metadata.len());
            let mut child = burn(home)
                .args(["journal", "drain", "--once"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Some are killed when the ledger grows, between the append and the cursors.
            let delay = Duration::from_micros(random.below(60_000));
            let watches = random.below(2) == 0;
            let started = Instant::now();
            while started.elapsed() < delay && child.try_wait().unwrap().is_none() {
                let len = fs::metadata(home.join("ledger.jsonl")).map_or(0, |metadata| metadata.len());
                if watches && len > before {
                    break;
                }
            }
            let was_alive = child.try_wait().unwrap().is_none();
            child.kill().unwrap();
            child.wait().unwrap();
            age_locks(home);
            let len = fs::metadata(home.join("ledger.jsonl")).map_or(0, |metadata| metadata.len());
            kills += 1;
            killed += usize::from(was_alive);
            killed_after_delivery += usize::from(was_alive && len > before);
            assert!(kills < 2000, "the crowd does not come to an end");
        }
        for (child, (_, input, _)) in crowd.into_iter().zip(&errands) {
            let answer = success(&child.wait_with_output().unwrap());
            assert_eq!(answer["queued"], input.lines().count());
        }
    }
    let drained = ingest(home);
    assert_eq!((&drained["lagBytes"], &drained["setAside"]), (&0.into(), &0.into()));
    let ledger = fs::read_to_string(home.join("ledger.jsonl")).unwrap();
    let mut found: HashMap<String, usize> = HashMap::new();
    ledger.lines().for_each(|line| *found.entry(line.to_owned()).or_default() += 1);
    println!("{killed} killed alive, {killed_after_delivery} of them after the ledger had grown");
    // A kill during the write leaves half a line. The next append ends it, readers report it as malformed, and the
    // record is delivered again.
    let halves: Vec<String> = found
        .keys()
        .filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err())
        .cloned()
        .collect();
    for half in &halves {
        assert!(expected.keys().any(|line| line.starts_with(half)), "nobody wrote {half}");
        found.remove(half);
    }
    for (line, times) in &found {
        assert_eq!((*times, expected.get(line)), (1, Some(&1)), "{line}");
    }
    assert_eq!(found.len(), expected.len(), "records are missing");
    let check = burn(home).args(["ledger", "check", "--json"]).output().unwrap();
    let check: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(check["malformedLines"], halves.len());
    assert_eq!((&check["rejectedLines"], &check["repeatedRecords"]), (&0.into(), &0.into()));
}

#[test]
fn a_batch_ends_in_the_ledger_byte_for_byte_as_a_direct_append_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let (direct, queued) = (directory.path().join("direct"), directory.path().join("queued"));
    // Spaces, escapes, an unknown member, a number that JavaScript prints in another form, bytes that are no UTF-8,
    // CRLF.
    let mut odd = turn("odd", 7)
        .replace("\"input\":7", "\"input\": 7.0e0, \"more\":\"\\u00e9\\ud800\"")
        .replace("\"model\":\"odd\"", "\"model\":\"m#\"")
        .into_bytes();
    let at = odd.iter().position(|byte| *byte == b'#').unwrap();
    odd[at] = 0xFF;
    let twins = turn("twin", 8).replace("\"messageId\":\"twin-8\"", "\"messageId\":\"other\"");
    let inputs = [[odd, b"\r\n\n".to_vec(), turn("twin", 8).into_bytes()].concat(), twins.into_bytes()];
    for input in &inputs {
        for (home, more) in [(&direct, &[][..]), (&queued, &["--via-journal"][..])] {
            let mut command = burn(home);
            command.args(["ledger", "append", "--kind", "turns"]).args(more);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }
    let ingested = ingest(&queued);
    assert_eq!((&ingested["ledgerLines"], &ingested["duplicates"]), (&2.into(), &1.into()));
    let ledger = fs::read(direct.join("ledger.jsonl")).unwrap();
    assert_eq!(
        ledger.iter().filter(|byte| **byte == b'\n').count(),
        2,
        "a fingerprint that is known is dropped"
    );
    assert_eq!(String::from_utf8(fs::read(queued.join("ledger.jsonl")).unwrap()), String::from_utf8(ledger));
    for index in ["ledger.idx", "ledger.content.idx"] {
        assert_eq!(fs::read(queued.join(index)).unwrap(), fs::read(direct.join(index)).unwrap(), "{index}");
    }
}

#[test]
fn queueing_does_not_wait_for_who_holds_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    fs::write(home.join("ledger.lock"), "held by another program").unwrap();
    let started = Instant::now();
    let output = queue(home, "turns", &[], &turn("s", 1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1 queued\n");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(!home.join("ledger.jsonl").exists());
    fs::remove_file(home.join("ledger.lock")).unwrap();
    assert_eq!(ingest(home)["ledgerLines"], 1);
    assert_eq!(ingest(home)["records"], 0);
    assert!(home.join("ledger.jsonl").exists());
}

#[test]
fn what_the_ledger_would_refuse_is_refused_before_it_is_queued() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let input = format!("{}\n{{\"source\":\"x\"}}\n", turn("s", 1));
    let stderr = failure(&queue(&home, "turns", &[], &input));
    assert!(stderr.contains("line 2") && stderr.contains("nothing was written"), "{stderr}");
    assert!(!home.exists());
    assert_eq!(success(&queue(&home, "turns", &["--json"], "\n \n"))["queued"], 0);
    assert!(!home.exists(), "nothing to queue makes nothing");

    let content = queue(&home, "content", &[], "{}");
    assert_eq!(content.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&content.stderr).contains("without --via-journal"));
    // `--via-journal` is always durable, so `--durable` adds nothing.
    assert_eq!(success(&queue(&home, "turns", &["--json", "--durable"], &turn("s", 1)))["offsets"][0], 0);
}

#[test]
fn a_journal_that_is_not_there_is_an_error_and_makes_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let stderr = failure(&burn(&home).args(["journal", "drain", "--once"]).output().unwrap());
    assert!(stderr.contains("journal"), "{stderr}");
    assert!(!home.exists());
    assert_eq!(
        burn(&home).args(["journal", "drain", "--once", "--follow"]).output().unwrap().status.code(),
        Some(2)
    );
    assert_eq!(burn(&home).args(["journal", "drain", "--sideways"]).output().unwrap().status.code(), Some(2));
    let earlier = burn(&home).args(["ingest", "--journal", "log", "--store", "store"]).output().unwrap();
    assert_eq!(earlier.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&earlier.stderr).contains("burn journal drain [DIR] [--store DIR]"));
}

#[test]
fn another_journal_than_the_stores_is_refused_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let home = &directory.path().join("home");
    let queue_turns = |name: &str, count: usize| {
        let turns: Vec<String> = (0..count).map(|number| turn(name, number)).collect();
        assert!(queue(home, "turns", &[], &turns.join("\n")).status.success());
    };
    let lines = || fs::read_to_string(home.join("ledger.jsonl")).unwrap().lines().count();
    queue_turns("before", 3);
    assert_eq!(ingest(home)["ledgerLines"], 3);
    // Removed and begun again.
    fs::remove_dir_all(home.join("journal")).unwrap();
    queue_turns("again", 8);
    let refused = failure(&burn(home).args(["journal", "drain", "--once"]).output().unwrap());
    let (journal, store) = (home.join("journal"), home.join("ingest"));
    let (journal, store) = (journal.canonicalize().unwrap(), store.canonicalize().unwrap());
    for named in [journal.to_str().unwrap(), store.to_str().unwrap(), "move the store away"] {
        assert!(refused.contains(named), "{refused}");
    }
    fs::rename(&store, home.join("ingest.before")).unwrap();
    assert_eq!(ingest(home)["ledgerLines"], 8);
    assert_eq!(lines(), 11);
    // The journal is named on the command line and is not the home's.
    let other = home.join("other");
    fs::rename(&journal, &other).unwrap();
    queue_turns("third", 20);
    let refused = failure(&burn(home).args(["journal", "drain", "--once"]).output().unwrap());
    assert!(refused.contains("(--store)"), "{refused}");
    let moved = burn(home).args(["journal", "drain", "--json"]).arg(&other).output().unwrap();
    assert_eq!(success(&moved)["records"], 0, "its own journal, elsewhere");
    let output =
        burn(home).args(["journal", "drain", "--json", "--store"]).arg(home.join("store")).output().unwrap();
    assert_eq!(success(&output)["ledgerLines"], 20);
    assert_eq!(lines(), 31);
}

#[test]
fn a_follower_delivers_what_arrives_and_ends_its_batch_when_told_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    assert!(queue(home, "turns", &[], &turn("first", 1)).status.success());
    fs::write(home.join("ledger.lock"), "held by another program").unwrap();
    let follower = burn(home)
        .args(["journal", "drain", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for number in 2..5 {
        assert!(queue(home, "turns", &[], &turn("more", number)).status.success());
    }
    fs::remove_file(home.join("ledger.lock")).unwrap();
    let started = Instant::now();
    while fs::read_to_string(home.join("ledger.jsonl")).unwrap_or_default().lines().count() < 4 {
        assert!(started.elapsed() < Duration::from_secs(20), "nobody delivers");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: a call without pointers, for a child that was not waited for yet.
    assert_eq!(unsafe { libc::kill(follower.id() as i32, libc::SIGTERM) }, 0);
    let output = follower.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("4 records drained: 4 lines to the ledger, 0 set aside"), "{text}");
    assert_eq!(ingest(home)["records"], 0);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start(directory.path(), "turns", &[], "");
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(queue(directory.path(), "turns", &[], &turn("s", 1)).status.success());
    let mut child = burn(directory.path()).args(["journal", "drain"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(ingest(directory.path())["records"], 0);
}

//! Random histories of agents with known totals: whatever is read first, in however many passes, and whatever happens to the
//! logs between two passes, every token is counted once.
//!
//! A history is a list of logs in the order in which an agent wrote them. `claude_histories` and `codex_histories` make them;
//! this file reads them with the importer, in one pass and in random passes, and compares the sums.
//!
//! `BURN_TEST_HISTORIES` is the number of histories of each agent (default 250), `BURN_TEST_HISTORY` the number of the first.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use relayburn_ledger::agents::{Agent, Ingest, IngestOptions, NoObserver};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use serde_json::Value;

use crate::common;
use crate::common::Random;

/// input, output, reasoning, cacheRead, cacheCreate5m, cacheCreate1h.
pub type Tokens = [u64; 6];

const COUNTS: [&str; 6] = ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"];

pub fn plus<const N: usize>(a: [u64; N], b: [u64; N]) -> [u64; N] {
    std::array::from_fn(|at| a[at] + b[at])
}

pub fn iso(millis: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(millis as i64).unwrap();
    format!("{time:.3}")
}

/// Where a log is found besides the place in which it grows.
pub enum OtherPlace {
    /// It is moved there, before or after its last lines.
    Moved(PathBuf),
    /// A copy of it appears there.
    Copied(PathBuf),
}

pub struct LogFile {
    /// Below the agent's root.
    pub place: PathBuf,
    pub other: Option<OtherPlace>,
    pub bytes: Vec<u8>,
}

pub struct History {
    pub agent: Agent,
    /// A log depends only on logs before it.
    pub logs: Vec<LogFile>,
    pub used: Tokens,
    /// Whether an unfinished log may lie still for hours and then go on.
    pub may_rest: bool,
    /// Whether a log may be read before the logs that it depends on, as when logs are copied from another machine.
    pub in_any_order: bool,
}

pub fn write(path: &Path, bytes: &[u8], age_seconds: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // The log is changed in place, so it keeps its identity while it grows.
    fs::write(path, bytes).unwrap();
    set_age(path, age_seconds);
}

fn set_age(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

pub const DAY_SECONDS: u64 = 86_400;

pub fn ingest(agent: Agent, root: &Path, home: &Path) {
    ingest_roots(agent, &[root], home);
}

pub fn ingest_roots(agent: Agent, roots: &[&Path], home: &Path) {
    let roots = roots.iter().map(|root| (agent, (*root).to_owned())).collect();
    let options = IngestOptions { agents: vec![agent], roots, threads: 1, ..IngestOptions::default() };
    let report = Ingest::new(Home::at(home), options).run(&mut NoObserver, &Interrupt::new()).unwrap();
    assert!(report.skipped_files.is_empty(), "{:?}", report.skipped_files);
}

/// Makes the times of seen changes a day older.
pub fn forget_when_it_was_seen(home: &Path) {
    const KEY: &str = "\"changedMs\":";
    let path = home.join("ingest.side.json");
    let Ok(text) = fs::read_to_string(&path) else { return };
    let (mut changed, mut rest) = (String::new(), &text[..]);
    while let Some((before, behind)) = rest.split_once(KEY) {
        changed += before;
        changed += KEY;
        let end = behind.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap();
        changed += &format!("{}", behind[..end].parse::<f64>().unwrap() - 86_400_000.0);
        rest = &behind[end..];
    }
    fs::write(path, changed + rest).unwrap();
}

/// Tokens in a ledger, and how often each message is there.
pub fn counted_in(home: &Path) -> (Tokens, BTreeMap<String, usize>) {
    let (mut sum, mut messages) = ([0; 6], BTreeMap::new());
    for line in fs::read_to_string(home.join("ledger.jsonl")).unwrap_or_default().lines() {
        if !line.contains(r#""kind":"turn""#) {
            continue;
        }
        let line: Value = serde_json::from_str(line).unwrap();
        let record = &line["record"];
        sum = plus(sum, COUNTS.map(|key| record["usage"][key].as_u64().unwrap()));
        *messages.entry(record["messageId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    (sum, messages)
}

impl History {
    /// Reads all logs as they are at the end.
    fn check_in_one_pass(&self, sandbox: &Path, label: &str) {
        let (root, home) = (sandbox.join("one"), sandbox.join("one-ledger"));
        for log in &self.logs {
            let mut places = vec![&log.place];
            match &log.other {
                Some(OtherPlace::Moved(place)) => places = vec![place],
                Some(OtherPlace::Copied(place)) => places.push(place),
                None => {}
            }
            places.into_iter().for_each(|place| write(&root.join(place), &log.bytes, DAY_SECONDS));
        }
        ingest(self.agent, &root, &home);
        let (sum, messages) = counted_in(&home);
        assert_eq!(sum, self.used, "{label} in one pass");
        // The turns of older versions of Codex are numbered in their session.
        let is_once = |(id, times): (&String, &usize)| *times == 1 || id.starts_with('@');
        assert!(messages.iter().all(is_once), "{label}: {messages:?}");
    }

    /// Lets the logs grow between passes. Without `in_any_order` a log grows once the logs before it are whole: a copy is never
    /// ahead of its original.
    fn check_in_passes(&self, sandbox: &Path, label: &str, random: &mut Random) {
        let (root, home) = (sandbox.join("many"), sandbox.join("many-ledger"));
        let passes = 2 + random.below(if self.in_any_order { 6 } else { 3 });
        let mut ends = vec![0; self.logs.len()];
        for _ in 0..passes {
            for (log, end) in self.logs.iter().zip(&mut ends) {
                if self.in_any_order && random.below(self.logs.len() as u64) > 0 {
                    continue;
                }
                let was = *end;
                *end += random.below((log.bytes.len() - *end) as u64 + 1) as usize;
                if random.below(3) > 0 {
                    *end = log.bytes.len();
                }
                let rests = self.may_rest && random.below(2) == 0;
                if *end > was {
                    write(&root.join(&log.place), &log.bytes[..*end], if rests { DAY_SECONDS } else { 1 });
                }
                if *end < log.bytes.len() && !self.in_any_order {
                    break;
                }
            }
            self.disturb(&root, &ends, random);
            ingest(self.agent, &root, &home);
            // What is derived may be deleted.
            let derived = [("ingest.known", 12), ("ingest.state", 12), ("ingest.side.json", 4)];
            for (name, _) in derived.into_iter().filter(|(_, one_in)| random.below(*one_in) == 0) {
                let _ = fs::remove_file(home.join(name));
                let _ = fs::remove_dir_all(home.join(name));
            }
        }
        for log in &self.logs {
            let path = root.join(&log.place);
            let lines_come_last = random.below(2) == 0;
            if !lines_come_last {
                write(&path, &log.bytes, DAY_SECONDS);
            }
            let moved = match &log.other {
                Some(OtherPlace::Moved(place)) if path.exists() => {
                    fs::create_dir_all(root.join(place).parent().unwrap()).unwrap();
                    fs::rename(&path, root.join(place)).unwrap();
                    Some(root.join(place))
                }
                Some(OtherPlace::Copied(place)) => {
                    write(&root.join(place), &log.bytes, DAY_SECONDS);
                    None
                }
                _ => None,
            };
            if lines_come_last {
                write(moved.as_ref().unwrap_or(&path), &log.bytes, DAY_SECONDS);
            }
        }
        ingest(self.agent, &root, &home);
        // A run waits for logs that changed within minutes; with older times it sees logs at rest.
        forget_when_it_was_seen(&home);
        ingest(self.agent, &root, &home);
        assert_eq!(counted_in(&home).0, self.used, "{label} in {passes} passes and one");
    }

    /// Does to a log what happens to logs: a copy elsewhere, another file in its place, a cut that a later pass mends.
    fn disturb(&self, root: &Path, ends: &[usize], random: &mut Random) {
        let at = random.below(self.logs.len() as u64) as usize;
        let (log, end) = (&self.logs[at], ends[at]);
        let path = root.join(&log.place);
        if end == 0 {
            return;
        }
        match random.below(8) {
            0 => {
                if let Some(OtherPlace::Copied(place)) = &log.other {
                    write(&root.join(place), &log.bytes[..end], 1);
                }
            }
            1 => {
                let other = path.with_extension("new");
                write(&other, &log.bytes[..end], 1);
                fs::rename(other, path).unwrap();
            }
            // What a rollout repeats is told by its parent's log, so that only the last one may be cut.
            2 if end == log.bytes.len() && (self.agent == Agent::Claude || at + 1 == self.logs.len()) => {
                // The cut is mended by the last pass.
                let cut = random.below(end as u64) as usize;
                write(&path, &log.bytes[..cut], 1);
            }
            _ => {}
        }
    }
}

/// Makes histories and checks each of them.
pub fn check(name: &str, make: impl Fn(Random) -> History + Sync) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("BURN_TEST_HISTORY").unwrap_or(0);
    let count = number("BURN_TEST_HISTORIES").unwrap_or(250);
    let numbers: Vec<u64> = (first..first + count).collect();
    common::in_parallel(&numbers, |number| {
        let label = format!("history {number} of {name}");
        let history = make(Random::new(*number));
        // In memory, where the system has such a directory: a file system on a disk takes half of the time.
        let sandbox = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        history.check_in_one_pass(sandbox.path(), &label);
        history.check_in_passes(sandbox.path(), &label, &mut Random::new(number + (1 << 40)));
    });
}

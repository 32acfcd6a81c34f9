//! Random histories of Codex with known totals: turns of several calls, repeated counts, counters that start again,
//! turns without an end, forks and spawned agents that repeat their parent's history, logs that move to the archive. In
//! any order of reading and any number of passes, every token is counted once.
//!
//! `BURN_TEST_SCALE` (default 1) multiplies the number of histories.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::common::Random;
use crate::common::processes::burn;
use serde_json::{Value, json};

const HISTORIES: u64 = 15;

/// Input including cached tokens, cached tokens, output, reasoning.
type Counts = [u64; 4];

fn plus(a: Counts, b: Counts) -> Counts {
    std::array::from_fn(|at| a[at] + b[at])
}

fn usage(counts: Counts) -> Value {
    let [input, cached, output, reasoning] = counts;
    json!({
        "input_tokens": input, "cached_input_tokens": cached, "output_tokens": output,
        "reasoning_output_tokens": reasoning, "total_tokens": input + output,
    })
}

#[derive(Clone)]
struct Turn {
    id: String,
    millis: u64,
    calls: Vec<Counts>,
    /// Usage that is counted after the turn's end.
    late: Option<Counts>,
    ends: bool,
}

impl Turn {
    fn used(&self) -> Counts {
        self.calls.iter().chain(&self.late).fold([0; 4], |sum, call| plus(sum, *call))
    }
}

#[derive(Clone)]
struct Session {
    id: String,
    created: u64,
    turns: Vec<Turn>,
    /// Counters at the end.
    totals: Counts,
    /// Byte offset in the log after the repeated history.
    log: Vec<u8>,
}

struct Maker {
    random: Random,
    millis: u64,
    number: u64,
}

impl Maker {
    fn later(&mut self, up_to: u64) -> u64 {
        self.millis += 1 + self.random.below(up_to);
        self.millis
    }

    /// A UUID of version 7 of this time.
    fn uuid(&mut self, millis: u64) -> String {
        self.number += 1;
        let time = format!("{millis:012x}");
        format!("{}-{}-7000-8000-{:012x}", &time[..8], &time[8..], self.number)
    }

    fn counts(&mut self) -> Counts {
        let cached = self.random.below(90_000);
        let reasoning = self.random.below(2_000);
        [cached + 1 + self.random.below(50_000), cached, reasoning + 1 + self.random.below(5_000), reasoning]
    }

    fn turn(&mut self, is_last: bool) -> Turn {
        let millis = self.later(100_000);
        let id = self.uuid(millis);
        let calls = (0..1 + self.random.below(4)).map(|_| self.counts()).collect();
        let ends = !is_last || self.random.below(4) > 0;
        let late = (ends && self.random.below(6) == 0).then(|| self.counts());
        Turn { id, millis, calls, late, ends }
    }
}

fn iso(millis: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(millis as i64).unwrap();
    format!("{time:.3}")
}

fn line(millis: u64, kind: &str, payload: Value) -> String {
    json!({"timestamp": iso(millis), "type": kind, "payload": payload}).to_string() + "\n"
}

fn event(millis: u64, mut payload: Value, kind: &str) -> String {
    payload["type"] = kind.into();
    line(millis, "event_msg", payload)
}

fn token_count(millis: u64, totals: Counts, last: Counts) -> String {
    let info = json!({"total_token_usage": usage(totals), "last_token_usage": usage(last)});
    event(millis, json!({ "info": info }), "token_count")
}

/// How a log writes turns: as new, or as repeated with other times.
struct Telling {
    /// The time of all lines; none keeps their own times.
    stamp: Option<u64>,
    has_counts: bool,
}

fn tell(maker: &mut Maker, turns: &[Turn], totals: &mut Counts, telling: &Telling) -> String {
    let mut text = String::new();
    for turn in turns {
        let at = |offset: u64| telling.stamp.unwrap_or(turn.millis + offset);
        text += &line(at(0), "turn_context", json!({"turn_id": turn.id, "cwd": "/w/p", "model": "gpt-5.5"}));
        text += &event(at(0), json!({"turn_id": turn.id}), "task_started");
        let words = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "add a test"}]});
        text += &line(at(1), "response_item", words);
        for (number, call) in turn.calls.iter().enumerate() {
            let id = format!("{}-{number}", turn.id);
            let asked = json!({"type": "function_call", "name": "exec_command", "call_id": id, "arguments": "{\"cmd\":\"ls\"}"});
            text += &line(at(2), "response_item", asked);
            let answer = json!({"type": "function_call_output", "call_id": id, "output": "x"});
            text += &line(at(2), "response_item", answer);
            text += &counted(maker, at(3), totals, *call, telling);
        }
        if turn.ends {
            text += &event(at(4), json!({"turn_id": turn.id}), "task_complete");
        }
        if let Some(late) = turn.late {
            text += &counted(maker, at(5), totals, late, telling);
        }
    }
    text
}

/// A count, sometimes repeated, sometimes of counters that started again.
fn counted(maker: &mut Maker, millis: u64, totals: &mut Counts, call: Counts, telling: &Telling) -> String {
    let begins_anew = telling.stamp.is_none() && maker.random.below(12) == 0;
    *totals = if begins_anew { call } else { plus(*totals, call) };
    if !telling.has_counts {
        return String::new();
    }
    token_count(millis, *totals, call).repeat(1 + usize::from(maker.random.below(5) == 0))
}

fn meta(session: &str, millis: u64, parent: Option<(&str, bool)>) -> String {
    let mut payload =
        json!({"id": session, "timestamp": iso(millis), "cwd": "/w/p", "cli_version": "0.150.0"});
    match parent {
        Some((parent, true)) => payload["forked_from_id"] = parent.into(),
        Some((parent, false)) => {
            payload["source"] =
                json!({"subagent": {"thread_spawn": {"parent_thread_id": parent, "depth": 1}}});
        }
        None => payload["source"] = "cli".into(),
    }
    line(millis, "session_meta", payload)
}

/// The logs of a history in the order of writing, and the tokens that were used.
fn history(maker: &mut Maker) -> (Vec<Session>, Counts) {
    let mut sessions: Vec<Session> = Vec::new();
    let mut used = [0; 4];
    for _ in 0..1 + maker.random.below(2) {
        add_session(maker, None, &mut sessions, &mut used);
    }
    for _ in 0..maker.random.below(4) {
        let parent = sessions[maker.random.below(sessions.len() as u64) as usize].clone();
        add_session(maker, Some(parent), &mut sessions, &mut used);
    }
    (sessions, used)
}

fn add_session(maker: &mut Maker, parent: Option<Session>, sessions: &mut Vec<Session>, used: &mut Counts) {
    let created = maker.later(1_000_000);
    let id = maker.uuid(created);
    let (mut log, mut totals, mut turns) = (String::new(), [0; 4], Vec::new());
    match &parent {
        None => log += &meta(&id, created, None),
        Some(parent) => {
            log += &meta(&id, created, Some((&parent.id, maker.random.below(2) == 0)));
            if maker.random.below(2) == 0 {
                log += &meta(&parent.id, parent.created, None);
            }
            // The copy may lack its beginning, and may have no counts.
            let from = maker.random.below(parent.turns.len() as u64 + 1) as usize;
            let telling = Telling {
                stamp: (maker.random.below(2) == 0).then_some(created + 1),
                has_counts: maker.random.below(3) > 0,
            };
            // The counters of a copy without its beginning are as high as in the parent.
            totals = if from > 0 { maker.counts() } else { totals };
            turns.extend_from_slice(&parent.turns[from..]);
            log += &tell(maker, &parent.turns[from..], &mut totals, &telling);
            if !telling.has_counts {
                totals = parent.totals;
            }
        }
    }
    let count = 1 + maker.random.below(4);
    let own: Vec<Turn> = (0..count).map(|number| maker.turn(number + 1 == count)).collect();
    log += &tell(maker, &own, &mut totals, &Telling { stamp: None, has_counts: true });
    *used = own.iter().fold(*used, |sum, turn| plus(sum, turn.used()));
    turns.extend(own);
    sessions.push(Session { id, created, turns, totals, log: log.into_bytes() });
}

fn path_of(user: &Path, session: &Session, is_archived: bool) -> PathBuf {
    let name = format!("rollout-2026-05-01T10-00-00-{}.jsonl", session.id);
    let folder = if is_archived { "archived_sessions" } else { "sessions/2026/05/01" };
    user.join(".codex").join(folder).join(name)
}

fn write(path: &Path, bytes: &[u8], is_old: bool) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // The log is changed in place, so it keeps its identity while it grows.
    fs::write(path, bytes).unwrap();
    let age = Duration::from_secs(if is_old { 86_400 } else { 1 });
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

fn ingest(user: &Path, home: &Path) {
    let output =
        burn(home).args(["ingest", "--agent", "codex"]).env("HOME", user).env_remove("CODEX_HOME").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the times of seen changes a day older.
fn forget_when_it_was_seen(home: &Path) {
    let path = home.join("ingest.side.json");
    let text = fs::read_to_string(&path).unwrap();
    let (mut changed, mut rest) = (String::new(), &text[..]);
    const KEY: &str = "\"changedMs\":";
    while let Some((before, behind)) = rest.split_once(KEY) {
        changed += before;
        changed += KEY;
        let end = behind.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap();
        changed += &format!("{}", behind[..end].parse::<f64>().unwrap() - 86_400_000.0);
        rest = &behind[end..];
    }
    fs::write(path, changed + rest).unwrap();
}

/// The tokens of a ledger, and the number of copies of each turn.
fn counted_in(home: &Path) -> (Counts, BTreeMap<String, usize>) {
    let (mut sum, mut turns) = ([0; 4], BTreeMap::new());
    for line in fs::read_to_string(home.join("ledger.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["kind"] != "turn" {
            continue;
        }
        let record = &line["record"];
        let count = |key: &str| record["usage"][key].as_u64().unwrap();
        sum = plus(
            sum,
            [count("input") + count("cacheRead"), count("cacheRead"), count("output"), count("reasoning")],
        );
        *turns.entry(record["messageId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    (sum, turns)
}

#[test]
fn every_token_is_counted_once_in_one_pass_and_in_many() {
    let scale: u64 = std::env::var("BURN_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap());
    let mut replays = 0;
    for number in 0..HISTORIES * scale {
        let mut maker = Maker { random: Random::new(number), millis: 1_777_600_000_000, number: 0 };
        let (sessions, used) = history(&mut maker);
        replays += sessions.iter().map(|session| session.turns.len()).sum::<usize>();
        let sandbox = tempfile::tempdir().unwrap();

        let (user, home) = (sandbox.path().join("one"), sandbox.path().join("one-ledger"));
        for session in &sessions {
            write(&path_of(&user, session, maker.random.below(4) == 0), &session.log, true);
        }
        ingest(&user, &home);
        let (sum, turns) = counted_in(&home);
        assert_eq!(sum, used, "history {number} in one pass");
        assert!(turns.values().all(|times| *times == 1), "history {number}: {turns:?}");

        let (user, home) = (sandbox.path().join("many"), sandbox.path().join("many-ledger"));
        let passes = 2 + maker.random.below(3);
        let mut ends = vec![0; sessions.len()];
        for _ in 0..passes {
            // A log grows only after the logs before it are complete, because a copy never has more than its parent.
            for (session, end) in sessions.iter().zip(&mut ends) {
                *end += maker.random.below((session.log.len() - *end) as u64 + 1) as usize;
                if maker.random.below(3) > 0 {
                    *end = session.log.len();
                }
                if *end > 0 {
                    write(&path_of(&user, session, false), &session.log[..*end], maker.random.below(2) == 0);
                }
                if *end < session.log.len() {
                    break;
                }
            }
            if ends.iter().any(|end| *end > 0) {
                ingest(&user, &home);
            }
        }
        for session in &sessions {
            write(&path_of(&user, session, false), &session.log, true);
        }
        ingest(&user, &home);
        // A run waits for logs that changed within minutes; with older times it sees logs at rest.
        forget_when_it_was_seen(&home);
        ingest(&user, &home);
        assert_eq!(counted_in(&home).0, used, "history {number} in {passes} passes and one");
    }
    assert!(replays > 0);
}

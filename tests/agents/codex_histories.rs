//! Random histories of Codex: turns of several calls, repeated counts, counters that start again from zero, turns without an
//! end, forks and spawned agents that repeat the history of their parent, logs that move to the folder `archived_sessions`.
#![cfg(unix)]

use std::fs;
use std::path::PathBuf;

use relayburn_ledger::agents::Agent;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};

use super::histories::{self, History, LogFile, OtherPlace, iso, plus};
use crate::common::Random;

/// Input including cached tokens, cached tokens, output, reasoning.
type Counts = [u64; 4];

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
    /// Whether some calls have equal counts.
    has_equal_counts: bool,
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
        if self.has_equal_counts && self.random.below(6) == 0 {
            // Calls, turns and parts of turns may have equal counts.
            return [1_000, 400, 100, 20];
        }
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
    // Counters that begin anew at their own value are a repeated count.
    let begins_anew = telling.stamp.is_none() && maker.random.below(12) == 0 && *totals != call;
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

/// The sessions of a history, in the order in which they were written, and the tokens that were used.
fn sessions_of(maker: &mut Maker) -> (Vec<Session>, Counts) {
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

fn history(random: Random) -> History {
    let mut maker = Maker { random, millis: 1_777_600_000_000, number: 0, has_equal_counts: true };
    let (sessions, used) = sessions_of(&mut maker);
    history_of(maker, sessions, used)
}

fn history_of(
    mut maker: Maker,
    sessions: Vec<Session>,
    [input, cached, output, reasoning]: Counts,
) -> History {
    let log = |session: Session, is_archived: bool| {
        let name = format!("rollout-2026-05-01T10-00-00-{}.jsonl", session.id);
        let archived = PathBuf::from("archived_sessions").join(&name);
        LogFile {
            place: PathBuf::from("sessions/2026/05/01").join(name),
            other: is_archived.then_some(OtherPlace::Moved(archived)),
            bytes: session.log,
        }
    };
    let logs = sessions.into_iter().map(|session| log(session, maker.random.below(4) == 0)).collect();
    let used = [input - cached, output, reasoning, cached, 0, 0];
    // What a turn uses after a rest becomes a turn of its own.
    History { agent: Agent::Codex, logs, used, may_rest: true, in_any_order: false }
}

/// A log of one turn. Its calls use 100, 200, 300 and so on tokens of input, and a tenth of output.
fn log_of_one_turn(session: &str, calls: u64, ends: bool) -> Vec<u8> {
    let millis = 1_777_600_000_000;
    let turn = json!({"turn_id": "turn"});
    let mut text = meta(session, millis, None) + &event(millis, turn.clone(), "task_started");
    let mut totals = [0; 4];
    for number in 1..=calls {
        let call = [100 * number, 0, 10 * number, 0];
        totals = plus(totals, call);
        text += &token_count(millis + number, totals, call);
    }
    if ends {
        text += &event(millis + calls, turn, "task_complete");
    }
    text.into_bytes()
}

#[test]
fn a_turn_that_is_open_when_its_log_moves_is_counted_once() {
    let name = "rollout-2026-05-01T10-00-00-019de4a0-0000-7000-8000-000000000001.jsonl";
    let session = "019de4a0-0000-7000-8000-000000000001";
    let (active, archived) = ("sessions/2026/05/01", "archived_sessions");
    for places in [
        [format!("{active}/{name}"), format!("{archived}/{name}"), format!("{active}/{name}")],
        [format!("{active}/{name}"), format!("{active}/{name}.zst"), format!("{archived}/{name}.zst")],
    ] {
        let sandbox = tempfile::tempdir().unwrap();
        let (root, home) = (sandbox.path().join("many"), sandbox.path().join("many-ledger"));
        let mut before: Option<PathBuf> = None;
        for (number, place) in places.iter().enumerate() {
            let path = root.join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match before.replace(path.clone()) {
                Some(before) if before.extension() == path.extension() => {
                    fs::rename(before, &path).unwrap();
                    histories::ingest(Agent::Codex, &root, &home);
                }
                Some(before) => fs::remove_file(before).unwrap(),
                None => {}
            }
            let bytes = log_of_one_turn(session, number as u64 + 1, number + 1 == places.len());
            histories::write(&path, &stored_as(place, bytes), histories::DAY_SECONDS);
            histories::ingest(Agent::Codex, &root, &home);
            histories::forget_when_it_was_seen(&home);
            histories::ingest(Agent::Codex, &root, &home);
        }
        let (sum, turns) = histories::counted_in(&home);
        assert_eq!(sum, [600, 60, 0, 0, 0, 0], "{places:?}");
        assert_eq!(turns.keys().collect::<Vec<_>>(), ["turn", "turn+1", "turn+2"], "{places:?}");

        let (root, home) = (sandbox.path().join("one"), sandbox.path().join("one-ledger"));
        let [.., last] = &places;
        let bytes = log_of_one_turn(session, places.len() as u64, true);
        histories::write(&root.join(last), &stored_as(last, bytes), histories::DAY_SECONDS);
        histories::ingest(Agent::Codex, &root, &home);
        let (sum_in_one_pass, turns) = histories::counted_in(&home);
        assert_eq!(sum_in_one_pass, sum, "{places:?}");
        assert_eq!(turns.keys().collect::<Vec<_>>(), ["turn"], "{places:?}");
    }
}

#[test]
fn a_log_in_two_homes_is_read_where_it_is_longest() {
    let session = "019de4a0-0000-7000-8000-000000000001";
    let name = format!("sessions/2026/05/01/rollout-2026-05-01T10-00-00-{session}.jsonl");
    let sandbox = tempfile::tempdir().unwrap();
    let (first, second, home) =
        (sandbox.path().join("first"), sandbox.path().join("second"), sandbox.path().join("ledger"));
    // The copies are ahead of each other in turn, with a total of 100, 300, 600 and 1,000 tokens of input.
    for (calls, root, input) in [(1, &first, 100), (2, &second, 300), (3, &first, 600), (4, &second, 1000)] {
        histories::write(&root.join(&name), &log_of_one_turn(session, calls, false), histories::DAY_SECONDS);
        for _ in 0..2 {
            histories::ingest_roots(Agent::Codex, &[&first, &second], &home);
            histories::forget_when_it_was_seen(&home);
        }
        assert_eq!(histories::counted_in(&home).0, [input, input / 10, 0, 0, 0, 0], "{calls} calls");
    }
}

/// The bytes of a log as a file of this name has them.
fn stored_as(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match name.ends_with(".zst") {
        true => compress_to_vec(&bytes[..], CompressionLevel::Fastest),
        false => bytes,
    }
}

#[test]
fn every_token_is_counted_once_in_one_pass_and_in_many() {
    histories::check("Codex", history);
}

#[test]
fn every_token_is_counted_once_when_copies_are_read_before_their_originals() {
    histories::check("Codex in any order", |random| {
        let mut maker = Maker { random, millis: 1_777_600_000_000, number: 0, has_equal_counts: true };
        let (mut sessions, mut used) = (Vec::new(), [0; 4]);
        // A session, its fork, and a fork of the fork.
        for _ in 0..3 {
            let parent = sessions.last().cloned();
            add_session(&mut maker, parent, &mut sessions, &mut used);
        }
        History { in_any_order: true, ..history_of(maker, sessions, used) }
    });
}

#[test]
fn a_turn_is_counted_once_when_a_fork_of_a_fork_is_read_before_the_rest_of_the_turn() {
    let mut maker =
        Maker { random: Random::new(1), millis: 1_777_600_000_000, number: 0, has_equal_counts: true };
    let created = maker.later(1_000);
    let (first, second, third) =
        (maker.uuid(created), maker.uuid(created + 2_000_000), maker.uuid(created + 3_000_000));
    let call = |input: u64| [input, 0, input / 10, 0];
    let mut turn = maker.turn(false);
    turn = Turn { calls: vec![call(100), call(200)], late: None, ends: true, ..turn };
    let telling = Telling { stamp: None, has_counts: true };
    let mut log = |id: &str, created: u64, parent: Option<&str>, turns: &[Turn]| {
        let mut totals = [0; 4];
        meta(id, created, parent.map(|parent| (parent, true)))
            + &tell(&mut maker, turns, &mut totals, &telling)
    };
    let whole = log(&first, created, None, &[turn.clone()]);
    let begun = Turn { calls: vec![call(100)], ends: false, ..turn.clone() };
    let partial = log(&first, created, None, &[begun]);
    let fork = log(&second, created + 2_000_000, Some(&first), &[turn.clone()]);
    let fork_of_fork = log(&third, created + 3_000_000, Some(&second), &[turn]);

    let sandbox = tempfile::tempdir().unwrap();
    let (root, home) = (sandbox.path().join("logs"), sandbox.path().join("home"));
    let path = |id: &str| root.join(format!("sessions/2026/05/01/rollout-2026-05-01T10-00-00-{id}.jsonl"));
    for (id, log) in [(&third, &fork_of_fork), (&first, &partial), (&first, &whole), (&second, &fork)] {
        histories::write(&path(id), log.as_bytes(), histories::DAY_SECONDS);
        for _ in 0..2 {
            histories::ingest(Agent::Codex, &root, &home);
            histories::forget_when_it_was_seen(&home);
        }
        println!("{:?}", histories::counted_in(&home));
    }
    assert_eq!(histories::counted_in(&home).0, [300, 30, 0, 0, 0, 0]);
}

/// The lines of a turn of an older version, which names no turns.
fn old_turn(maker: &mut Maker, totals: &mut Counts) -> (String, Counts) {
    let turn = maker.turn(false);
    let at = |offset: u64| turn.millis + offset;
    let says = |role: &str| json!({"type": "message", "role": role, "content": [{"text": "go on"}]});
    let mut text = line(at(0), "turn_context", json!({"cwd": "/w/p", "model": "gpt-5"}));
    text += &line(at(0), "response_item", says("user"));
    let telling = Telling { stamp: None, has_counts: true };
    for call in &turn.calls {
        text += &line(at(1), "response_item", says("assistant"));
        text += &counted(maker, at(2), totals, *call, &telling);
    }
    if let Some(late) = turn.late {
        text += &counted(maker, at(3), totals, late, &telling);
    }
    (text, turn.used())
}

/// Lines as they are repeated at another time.
fn restamped(lines: &str, millis: u64) -> String {
    let again = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line["timestamp"] = iso(millis).into();
        line.to_string() + "\n"
    };
    lines.lines().map(again).collect()
}

/// Sessions and forks of an older version: a fork repeats all lines of its parent up to some turn, with new times.
fn old_history(random: Random) -> History {
    // Only counts tell which turns of a fork are its parent's.
    let mut maker = Maker { random, millis: 1_757_600_000_000, number: 0, has_equal_counts: false };
    // Heads, turns with the counters after them, and the id, of each session.
    let mut sessions: Vec<(String, Vec<(String, Counts)>)> = Vec::new();
    let (mut logs, mut used) = (Vec::new(), [0; 4]);
    for number in 0..2 + maker.random.below(3) {
        let created = maker.later(1_000_000);
        let id = maker.uuid(created);
        let (mut head, mut turns) = (meta(&id, created, None), Vec::new());
        if number > 0 {
            let (of_parent, history) = &sessions[maker.random.below(sessions.len() as u64) as usize];
            head += &restamped(of_parent, created + 1);
            let kept = 1 + maker.random.below(history.len() as u64) as usize;
            let again = |(text, totals): &(String, Counts)| (restamped(text, created + 1), *totals);
            turns.extend(history[..kept].iter().map(again));
        }
        let mut totals = turns.last().map_or([0; 4], |(_, totals)| *totals);
        for _ in 0..1 + maker.random.below(4) {
            let (text, of_turn) = old_turn(&mut maker, &mut totals);
            turns.push((text, totals));
            used = plus(used, of_turn);
        }
        let name = format!("sessions/2025/09/11/rollout-2025-09-11T10-00-00-{id}.jsonl");
        let bytes = head.clone() + &turns.iter().map(|(text, _)| &text[..]).collect::<String>();
        logs.push(LogFile { place: PathBuf::from(name), other: None, bytes: bytes.into_bytes() });
        sessions.push((head, turns));
    }
    let [input, cached, output, reasoning] = used;
    let used = [input - cached, output, reasoning, cached, 0, 0];
    History { agent: Agent::Codex, logs, used, may_rest: true, in_any_order: false }
}

#[test]
fn every_token_of_old_forks_is_counted_once() {
    histories::check("old Codex", old_history);
}

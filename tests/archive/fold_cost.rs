//! Very many stamps over very many turns: compares the fold with the plain rule, and measures its cost.
//!
//! `scripts/fold-cost` measures the cost: it runs the ignored test of this file in a release build.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::common::archives::Place;
use crate::common::dump::{self, Dump, Value};
use crate::common::ledgers;
use relayburn_ledger::archive::{BuildResult, Options, Restart};
use relayburn_ledger::dev::{FoldHeavy, Profile};
use serde_json::Value as Json;

/// The same lines in three orders, and in two builds.
struct Arrangement {
    turns: Vec<u8>,
    stamps: Vec<u8>,
    interleaved: Vec<u8>,
}

impl Arrangement {
    fn new(heavy: &FoldHeavy) -> Self {
        let mut lines = Self { turns: Vec::new(), stamps: Vec::new(), interleaved: Vec::new() };
        heavy.write_turns(&mut lines.turns).unwrap();
        heavy.write_stamps(&mut lines.stamps).unwrap();
        heavy.write_interleaved(&mut lines.interleaved).unwrap();
        lines
    }

    fn stamps_at_the_end(&self) -> Vec<u8> {
        [&self.turns[..], &self.stamps].concat()
    }
}

/// Folds by the plain rule: compares every turn with every stamp. Returns `enrichment_json` and the four columns by
/// message id.
fn folded_plainly(ledger: &[u8]) -> BTreeMap<String, Vec<Value>> {
    let parse =
        |(offset, line): (u64, &[u8])| (offset, serde_json::from_slice::<Json>(line).unwrap(), line.to_vec());
    let lines: Vec<(u64, Json, Vec<u8>)> = ledgers::lines(ledger).map(parse).collect();
    let mut stamps: Vec<_> = lines.iter().filter(|(_, line, _)| line["kind"] == "stamp").collect();
    stamps.sort_by_key(|(offset, stamp, _)| (stamp["ts"].as_str().unwrap().to_owned(), *offset));
    let stamps: Vec<_> = stamps.into_iter().map(|(_, stamp, text)| (stamp, entries(text))).collect();
    let turns =
        lines.iter().filter(|(_, line, _)| line["kind"] == "turn").map(|(_, line, _)| &line["record"]);
    turns
        .map(|turn| {
            let mut object: Vec<(String, String)> = Vec::new();
            for (_, entries) in stamps.iter().filter(|(stamp, _)| applies(&stamp["selector"], turn)) {
                for (key, value) in entries {
                    match object.iter_mut().find(|(known, _)| known == key) {
                        Some((_, old)) => value.clone_into(old),
                        None => object.push((key.clone(), value.clone())),
                    }
                }
            }
            let index = |key: &str| {
                key.parse::<u32>().ok().filter(|index| index.to_string() == key && *index < u32::MAX)
            };
            // The sort is stable, so the other stamps keep their order.
            object.sort_by_key(|(key, _)| index(key).map_or(u64::MAX, u64::from));
            let members: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{}:{}", Json::from(&**key), Json::from(&**value)))
                .collect();
            let column = |name: &str| {
                object
                    .iter()
                    .find(|(key, _)| key == name)
                    .map_or(Value::Null, |(_, value)| Value::Text(value.clone()))
            };
            let mut values: Vec<Value> = ["workflowId", "agentId", "persona", "tier"].map(column).into();
            values.push(Value::Text(format!("{{{}}}", members.join(","))));
            (turn["messageId"].as_str().unwrap().to_owned(), values)
        })
        .collect()
}

/// The members of a stamp's enrichment in the order of the text, which `serde_json` does not keep.
fn entries(line: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(line).unwrap();
    let object = &text[text.find(r#""enrichment":{"#).unwrap() + 14..];
    let mut entries = Vec::new();
    let mut strings = serde_json::Deserializer::from_str(object).into_iter::<String>();
    let mut at = 0;
    while let Some(Ok(string)) = strings.next() {
        entries.push(string);
        at += strings.byte_offset();
        match object.as_bytes()[at] {
            b':' | b',' => at += 1,
            _ => break,
        }
        strings = serde_json::Deserializer::from_str(&object[at..]).into_iter::<String>();
    }
    entries.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn applies(selector: &Json, turn: &Json) -> bool {
    let field = |name: &str, of_turn: &str| match selector[name].as_str() {
        Some(wanted) => (true, turn[of_turn] == wanted),
        None => (false, true),
    };
    let (has_session, session) = field("sessionId", "sessionId");
    let (has_message, message) = field("messageId", "messageId");
    let bound = |name: &str| selector["range"][name].as_str().filter(|bound| !bound.is_empty());
    let ts = turn["ts"].as_str().unwrap();
    let range = bound("fromTs").is_none_or(|from| from <= ts) && bound("toTs").is_none_or(|to| ts <= to);
    (has_session || has_message || selector["range"].is_object()) && session && message && range
}

#[track_caller]
fn assert_folded(dump: &Dump, expected: &BTreeMap<String, Vec<Value>>, what: &str) {
    let turns = &dump["turns"];
    assert_eq!(turns.len(), expected.len(), "{what}");
    for turn in turns {
        let Value::Text(message) = &turn["message_id"] else { panic!("no message id: {turn:?}") };
        let columns = ["workflow_id", "agent_id", "persona", "tier", "enrichment_json"];
        let found: Vec<Value> = columns.iter().map(|column| turn[*column].clone()).collect();
        assert_eq!(found, expected[message], "{what}: {message}");
    }
}

#[test]
fn many_stamps_fold_as_the_plain_rule_says() {
    let heavy = FoldHeavy { seed: 5, turns: 600, message_stamps: 300, range_stamps: 60, ranges_per_turn: 15 };
    let lines = Arrangement::new(&heavy);
    let expected = folded_plainly(&lines.interleaved);
    assert!(expected.values().any(|values| values[0] != Value::Null));

    let place = Place::with_ledger(&lines.interleaved);
    place.full(&Options::default());
    assert_folded(&dump::by_key(place.archive()), &expected, "interleaved");

    let place = Place::with_ledger(&lines.stamps_at_the_end());
    place.full(&Options::default());
    assert_folded(&dump::by_key(place.archive()), &expected, "at the end");
    let sessions = dump::by_key(place.archive())["sessions"].clone();

    let place = Place::with_ledger(&lines.turns);
    place.full(&Options::default());
    fs::write(&place.paths.ledger, lines.stamps_at_the_end()).unwrap();
    place.tail(&Options::default());
    assert_folded(&dump::by_key(place.archive()), &expected, "a second build");
    assert_eq!(dump::by_key(place.archive())["sessions"], sessions);

    // The stamps come first and the turns later.
    let place = Place::with_ledger(&lines.stamps);
    place.full(&Options::default());
    fs::write(&place.paths.ledger, [&lines.stamps[..], &lines.turns].concat()).unwrap();
    place.tail(&Options::default());
    assert_folded(&dump::by_key(place.archive()), &expected, "turns in a second build");
}

/// Stamps that change very many archived turns make a tail build start again at byte 0. The build says so, and counts
/// the tail.
#[test]
fn a_tail_that_changes_most_turns_is_rebuilt_and_counts_the_tail() {
    let heavy =
        FoldHeavy { seed: 7, turns: 50_000, message_stamps: 100, range_stamps: 20, ranges_per_turn: 5 };
    let lines = Arrangement::new(&heavy);
    let bad = b"{\"v\":1,\n";
    let first = [&bad[..], &lines.turns].concat();
    let whole = [&first[..], &lines.stamps, bad].concat();

    let place = Place::with_ledger(&first);
    let (full, _) = place.full(&Options::default());
    fs::write(&place.paths.ledger, &whole).unwrap();
    let (tail, _) = place.tail(&Options::default());
    assert_eq!(tail.restarted, Some(Restart::RefoldsMost));
    assert!(!tail.rebuilt_from_zero);
    assert_eq!((full.turns_applied, full.stamps_applied, full.malformed_lines), (50_000, 0, 1));
    assert_eq!((tail.turns_applied, tail.stamps_applied, tail.malformed_lines), (0, 120, 1));
    assert_eq!(tail.scanned_bytes, (whole.len() - first.len()) as u64);

    let anew = Place::with_ledger(&whole);
    anew.full(&Options::default());
    assert_eq!(dump::by_key(place.archive()), dump::by_key(anew.archive()));

    // While another connection has the archive open, the new archive is written into the old file, and the connection sees it.
    let beside = Place::with_ledger(&first);
    beside.full(&Options::default());
    let reader = rusqlite::Connection::open(beside.archive()).unwrap();
    let stamps = || reader.query_row("SELECT count(*) FROM stamps", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(stamps(), 0);
    fs::write(&beside.paths.ledger, &whole).unwrap();
    let (in_place, _) = beside.tail(&Options::default());
    assert_eq!(in_place.restarted, Some(Restart::RefoldsMost));
    assert_eq!(stamps(), 120);
    let counts = |result: &BuildResult| {
        (result.turns_applied, result.stamps_applied, result.malformed_lines, result.sessions_touched)
    };
    assert_eq!((counts(&in_place), in_place.scanned_bytes), (counts(&tail), tail.scanned_bytes));
    assert_eq!(dump::by_key(beside.archive()), dump::by_key(anew.archive()));
}

/// Session stamps, message stamps and ranges within sessions, as the generator draws them.
#[test]
fn stamps_of_every_kind_fold_as_the_plain_rule_says() {
    for seed in 0..4 {
        let (ledger, _) = ledgers::generated(Profile::Stamps, 150_000, seed);
        let place = Place::with_ledger(&ledger);
        place.full(&Options::default());
        assert_folded(&dump::by_key(place.archive()), &folded_plainly(&ledger), "stamps");
    }
}

/// The shortest of three builds, each from the same start.
fn shortest(mut build: impl FnMut() -> Duration) -> Duration {
    (0..3).map(|_| build()).min().unwrap()
}

#[test]
#[ignore = "a measurement, for a release build and a quiet machine: scripts/fold-cost"]
fn cost() {
    const TIMES_MAX: f64 = 3.0;
    let lines = Arrangement::new(&FoldHeavy::default());
    let full = |ledger: &[u8]| {
        let place = Place::with_ledger(ledger);
        shortest(|| {
            let started = Instant::now();
            place.full(&Options::default());
            started.elapsed()
        })
    };
    let plain = full(&lines.turns);
    let with_stamps = lines.stamps_at_the_end();
    let tail = shortest(|| {
        let place = Place::with_ledger(&lines.turns);
        place.full(&Options::default());
        fs::write(&place.paths.ledger, &with_stamps).unwrap();
        let started = Instant::now();
        let (result, _) = place.tail(&Options::default());
        let time = started.elapsed();
        assert!(result.restarted.is_some());
        assert_eq!((result.turns_applied, result.stamps_applied), (0, 52_000));
        println!("a second tail build: {:?}", result.timings);
        time
    });
    println!("turns alone: {plain:.2?}");
    let mut too_slow = false;
    for (name, time) in [
        ("stamps between the turns", full(&lines.interleaved)),
        ("stamps at the end", full(&with_stamps)),
        ("stamps as a second tail build", tail),
    ] {
        let times = time.as_secs_f64() / plain.as_secs_f64();
        println!("{name}: {time:.2?}, {times:.2} times");
        too_slow |= times > TIMES_MAX;
    }
    assert!(!too_slow, "more than {TIMES_MAX} times the turns alone");
}

//! The memory of a build is bounded whatever the ledger holds: long enrichments on many turns, long ids, long lines,
//! bad lines. A line beyond a limit is rejected; the rest of the ledger is built, with the same rows in every way.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::archives::Place;
use crate::common::dump;
use crate::common::processes::{burn, peak_anonymous, rebuild, success};
use crate::common::scale;
use relayburn_ledger::record::{INDEXED_TEXT_MAX_BYTES, LINE_MAX_BYTES};

/// Runs a command without input. Also returns its peak of anonymous memory in KiB.
fn peak(command: Command) -> (u64, Output) {
    peak_anonymous(command, |_| ())
}

const SMALL: &[&str] = &["--threads", "2", "--json"];

/// Builds the archive with the options `more`, and returns the peak of memory.
#[track_caller]
fn build(place: &Place, what: &str, more: &[&str], most_mib: u64) -> serde_json::Value {
    let (peak_kib, output) = peak(rebuild(place.directory(), &[more, SMALL].concat()));
    println!("{what} {more:?}: {peak_kib} KiB");
    let result = success(&output);
    assert!(peak_kib < most_mib << 10, "{what} {more:?}: {peak_kib} KiB");
    result
}

fn turn(session: &str, message: &str, n: usize, calls: &str) -> String {
    let ts = format!("2026-04-20T00:{:02}:{:02}.000Z", n / 60 % 60, n % 60);
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"claude-code","sessionId":"{session}","messageId":"{message}","turnIndex":{n},"ts":"{ts}","model":"model-a","usage":{{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[{calls}]}}}}"#
    )
}

fn stamp(session: &str, key: &str, value: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"stamp","ts":"2026-04-21T00:00:00.000Z","selector":{{"sessionId":"{session}"}},"enrichment":{{"{key}":"{value}"}}}}"#
    )
}

fn write(path: &Path, lines: impl IntoIterator<Item = String>) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    lines.into_iter().for_each(|line| writeln!(file, "{line}").unwrap());
    file.flush().unwrap();
}

/// The archive of the other loader has the same rows.
fn assert_same_inserted(place: &Place, what: &str, most_mib: u64) {
    let rows = dump::by_rowid(place.archive());
    dump::assert_whole(place.archive());
    build(place, what, &["--full", "--loader", "insert"], most_mib);
    dump::assert_same(&dump::by_rowid(place.archive()), &rows, what);
}

/// Brackets are the most expensive part of a line: each takes 16 bytes while the line is parsed. One such line is
/// parsed at a time.
#[test]
fn lines_of_brackets_alone_take_16_times_one_line() {
    let head = r#"{"v":1,"kind":"turn","record":"#;
    let depth = (LINE_MAX_BYTES as usize - head.len() - 1) / 2;
    let line = format!("{head}{}{}}}\n", "[".repeat(depth), "]".repeat(depth));
    let place = Place::new();
    fs::write(place.directory().join("ledger.jsonl"), line.repeat(3) + &turn("s", "m", 0, "") + "\n")
        .unwrap();
    let result =
        build(&place, "brackets", &["--full", "--memory", "16MiB"], ((16 * LINE_MAX_BYTES) >> 20) + 150);
    assert_eq!((result["rejectedLines"].as_u64(), result["turnsApplied"].as_u64()), (Some(3), Some(1)));
}

#[test]
fn a_long_stamp_on_many_turns_takes_the_memory_of_a_few() {
    let place = Place::new();
    let turns = 300 * scale();
    let value = "x".repeat(300 << 10);
    let text = |n: usize| turn("s", &format!("m{n}"), n, "");
    write(&place.paths.ledger, (0..turns).map(text).chain([stamp("s", "persona", &value)]));
    build(&place, "long stamp", &["--full"], 110);
    let rows = fs::metadata(place.archive()).unwrap().len();
    assert!(rows > (turns * value.len()) as u64, "the output has the text for each turn, twice");
    assert_same_inserted(&place, "long stamp", 110);
    let rows = dump::by_rowid(place.archive());
    // The stamp arrives after the turns.
    fs::remove_file(place.archive()).unwrap();
    write(&place.paths.ledger, (0..turns).map(text));
    build(&place, "turns", &[], 110);
    let mut ledger = File::options().append(true).open(&place.paths.ledger).unwrap();
    writeln!(ledger, "{}", stamp("s", "persona", &value)).unwrap();
    build(&place, "long stamp behind its turns", &[], 110);
    dump::assert_same(&dump::by_rowid(place.archive()), &rows, "refolded");
}

#[test]
fn long_ids_take_no_memory_for_each_of_them() {
    let place = Place::new();
    let pad = "i".repeat(4 << 10);
    let lines = (0..6_000 * scale()).map(|n| turn(&format!("{pad}{n}"), &format!("m{n}"), n, ""));
    write(&place.paths.ledger, lines);
    build(&place, "ids of 4 KiB", &["--full", "--memory", "16MiB"], 75);
    // SQLite has a page cache and sorters.
    assert_same_inserted(&place, "ids of 4 KiB", 130);
}

#[test]
fn ids_near_the_limit_are_indexed_and_longer_ones_rejected_by_line() {
    let place = Place::new();
    let longest = "i".repeat(INDEXED_TEXT_MAX_BYTES);
    let too_long = format!("{longest}i");
    let mut lines: Vec<String> = (0..60 * scale())
        .map(|n| turn(&longest[n..], &format!("m{n}"), n, r#"{"id":"t","name":"Read"}"#))
        .collect();
    let good_bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    lines.push(turn(&too_long, "m", 0, ""));
    lines.push(stamp(&too_long, "tier", "x"));
    lines.push(stamp("s", "workflowId", &too_long));
    lines.push(turn("s", "m", 0, ""));
    write(&place.paths.ledger, lines);
    let (peak_kib, output) =
        peak(rebuild(place.directory(), &["--full", "--threads", "2", "--memory", "16MiB"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    println!("longest ids: {peak_kib} KiB");
    assert!(peak_kib < 150 << 10, "{peak_kib} KiB");
    assert!(said.contains(&format!("at byte {good_bytes} (")), "{said}");
    for name in ["session_id", "workflowId"] {
        let reason = format!(
            "rejected: {name} has {} bytes, at most {INDEXED_TEXT_MAX_BYTES} can be indexed",
            too_long.len()
        );
        assert!(said.contains(&reason), "{said}");
    }
    assert_eq!(dump::by_rowid(place.archive())["turns"].len(), 60 * scale() + 1);
    assert_same_inserted(&place, "longest ids", 150);
}

#[test]
fn a_turn_with_more_calls_than_can_be_stored_is_rejected_by_line() {
    let place = Place::new();
    let call = r#"{"name":"Read"}"#;
    let session = "s".repeat(100 << 10);
    let lines = [
        // First few calls with the long id, then many.
        turn(&session, "m1", 0, &vec![call; 400].join(",")),
        turn("s", "m2", 1, &vec![call; 200_000].join(",")),
        turn("s", "m3", 2, &vec![call; 1_000].join(",")),
    ];
    write(&place.paths.ledger, lines);
    for io in ["mmap", "read"] {
        let result = build(&place, "tool calls", &["--full", "--io", io], 150);
        assert_eq!((&result["rejectedLines"], &result["turnsApplied"]), (&2.into(), &1.into()));
    }
    assert_same_inserted(&place, "tool calls", 150);
    let mut check = burn(place.directory());
    check.args(["ledger", "check", "--json"]);
    let output = check.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("its rows take") && said.contains("the turn has 200000 tool calls"), "{said}");
}

#[test]
fn a_line_that_is_too_long_is_rejected_by_offset_without_being_read() {
    let place = Place::new();
    let first = turn("s", "m0", 0, "") + "\n";
    let length = LINE_MAX_BYTES * 4 * scale() as u64;
    let mut ledger = File::create(&place.paths.ledger).unwrap();
    ledger.write_all(first.as_bytes()).unwrap();
    // A hole of zeros, as long as the line.
    ledger.set_len(first.len() as u64 + length).unwrap();
    drop(ledger);
    let mut ledger = File::options().append(true).open(&place.paths.ledger).unwrap();
    let long_enough = stamp("s", "persona", &"p".repeat(5 << 20));
    writeln!(ledger, "\n{long_enough}\n{}", turn("s", "m1", 1, "")).unwrap();
    let expected = (&serde_json::json!(1), &serde_json::json!(2), &serde_json::json!(1));
    let mut rows = None;
    for io in ["mmap", "read"] {
        for loader in ["bulk", "insert"] {
            let result = build(&place, "long line", &["--full", "--io", io, "--loader", loader], 110);
            assert_eq!(
                (&result["rejectedLines"], &result["turnsApplied"], &result["stampsApplied"]),
                expected
            );
            let found = dump::by_rowid(place.archive());
            dump::assert_same(&found, rows.get_or_insert_with(|| dump::by_rowid(place.archive())), loader);
        }
    }
    // A tail build accepts it as well.
    fs::remove_file(place.archive()).unwrap();
    let whole = fs::read(&place.paths.ledger).unwrap();
    fs::write(&place.paths.ledger, &whole[..first.len()]).unwrap();
    build(&place, "short line", &[], 110);
    fs::write(&place.paths.ledger, &whole).unwrap();
    let result = build(&place, "long line", &["--io", "read"], 110);
    assert_eq!((&result["rejectedLines"], &result["turnsApplied"]), (&1.into(), &1.into()));
    dump::assert_same(&dump::by_rowid(place.archive()), &rows.unwrap(), "tail");
    let output = rebuild(place.directory(), &["--full", "--io", "read"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("at byte {} (", first.len())), "{said}");
    assert!(said.contains(&format!("bytes): rejected: the line has {length} bytes, at most")), "{said}");
}

#[test]
fn many_wrong_lines_are_reported_part_by_part() {
    let place = Place::new();
    let lines = 1_000_000 * scale();
    fs::write(&place.paths.ledger, turn("s", "m", 0, "") + "\n" + &"x\n".repeat(lines)).unwrap();
    for loader in ["bulk", "insert"] {
        let result = build(&place, "wrong lines", &["--full", "--loader", loader], 75);
        assert_eq!(result["malformedLines"], lines);
    }
}

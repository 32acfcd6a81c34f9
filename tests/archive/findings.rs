//! A build reports lines that it cannot archive, and archives every other line, however long or deep.
#![cfg(unix)]

use std::fs;

use crate::common::archives::{Place, variants};
use crate::common::dump::{self, Value};
use crate::common::processes::{failure, rebuild, success};
use crate::common::{in_parallel, ledgers};
use relayburn_ledger::archive::{Load, Options};
use relayburn_ledger::dev::{OddVerdict, Profile};
use relayburn_ledger::record::INDEXED_TEXT_MAX_BYTES;
use relayburn_ledger::scan::Io;

#[test]
fn the_report_has_every_line_that_the_generator_broke() {
    let (ledger, summary) = ledgers::generated(Profile::Adversarial, 6_000_000, 11);
    let place = Place::with_ledger(&ledger);
    let report = place.directory().join("report.jsonl");
    let mut command = rebuild(place.directory(), &["--full", "--json", "--report"]);
    let output = command.arg(&report).output().unwrap();
    let result = success(&output);

    let owed = |verdict| summary.odd_lines_with(verdict);
    assert!(owed(OddVerdict::Malformed) > 30 && owed(OddVerdict::Rejected) > 100, "the ledger is too small");
    assert_eq!(result["malformedLines"], owed(OddVerdict::Malformed));
    assert_eq!(result["unknownLines"], owed(OddVerdict::Unknown));
    let rejected = result["rejectedLines"].as_u64().unwrap();
    let at_least = owed(OddVerdict::Rejected);
    assert!(
        (at_least..=at_least + owed(OddVerdict::Lenient)).contains(&rejected),
        "{rejected}, {at_least} at least"
    );
    assert_eq!(result["scannedBytes"], ledger.len());

    let mut counts = [0, 0];
    let mut behind = 0;
    let text = fs::read_to_string(&report).unwrap();
    for line in text.lines() {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        let members: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(members, ["length", "offset", "reason", "verdict"]);
        let (offset, length) =
            (finding["offset"].as_u64().unwrap() as usize, finding["length"].as_u64().unwrap() as usize);
        assert!(offset >= behind, "the order is that of the ledger");
        behind = offset + length;
        assert!(offset == 0 || ledger[offset - 1] == b'\n', "{line}");
        assert!(
            ledger[offset + length - 1] == b'\n' && !ledger[offset..offset + length - 1].contains(&b'\n'),
            "{line}"
        );
        assert!(!finding["reason"].as_str().unwrap().is_empty());
        let is_json =
            serde_json::from_slice::<serde::de::IgnoredAny>(&ledger[offset..offset + length - 1]).is_ok();
        match finding["verdict"].as_str().unwrap() {
            "malformed" => counts[0] += 1,
            "rejected" => {
                assert!(is_json, "{line}");
                counts[1] += 1;
            }
            other => panic!("no such verdict: {other}"),
        }
        if finding["verdict"] == "malformed" {
            assert!(!is_json, "{line}");
        }
    }
    assert_eq!(counts, [owed(OddVerdict::Malformed), rejected]);

    // Standard error names the first few, and the number of others.
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(lines[0].contains(&format!("byte {}", first["offset"])), "{stderr}");
    assert!(lines.len() < 10 && lines.last().unwrap().contains("--report"), "{stderr}");

    // Settings do not change the findings.
    let expected: Vec<_> = text.lines().collect();
    for (threads, io) in [("1", "read"), ("7", "mmap")] {
        fs::remove_file(&report).unwrap();
        let mut command =
            rebuild(place.directory(), &["--full", "--threads", threads, "--io", io, "--report"]);
        assert!(command.arg(&report).output().unwrap().status.success());
        assert_eq!(fs::read_to_string(&report).unwrap().lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_strict_build_names_the_first_line_and_changes_nothing() {
    let good = ledgers::turn("s", "m", "2026-04-20T00:00:00.000Z");
    let bad = "{\"v\":1,\"kind\":\"turn\"}\n";
    let ledger = format!("{good}\n{bad}not json\n{}", ledgers::turn("s", "n", "2026-04-20T00:00:01.000Z"));
    let offset = good.len() + 1;
    for full in [&["--full"][..], &[]] {
        for settings in [&["--threads", "1"][..], &["--threads", "7", "--io", "read"]] {
            // Without a ledger nothing is created.
            let place = Place::with_ledger(ledger.as_bytes());
            let build = |more: &[&str]| {
                rebuild(place.directory(), &[full, settings, more].concat()).output().unwrap()
            };
            let message = failure(&build(&["--strict"]));
            assert!(
                message.contains(&format!("byte {offset} ")) && message.contains("rejected"),
                "{message}"
            );
            assert!(message.contains("nothing was changed") && message.contains("--strict"), "{message}");
            assert_eq!(place.names(), ["ledger.jsonl"]);

            // An archive of an older state stays, byte for byte.
            fs::write(&place.paths.ledger, &good).unwrap();
            assert!(build(&["--strict"]).status.success());
            fs::write(&place.paths.ledger, &ledger).unwrap();
            let before = fs::read(place.archive()).unwrap();
            failure(&build(&["--strict"]));
            assert_eq!(fs::read(place.archive()).unwrap(), before);
            assert_eq!(place.names(), ["archive.sqlite", "ledger.jsonl"]);

            assert!(build(&[]).status.success());
            assert_eq!(dump::by_key(place.archive())["turns"].len(), 2);
        }
    }
}

/// The fast path makes every row of an ordinary ledger, including escapes and accents (2 % of strings) and stamps.
#[test]
fn ordinary_ledgers_never_need_the_exact_path() {
    for profile in [Profile::Mixed, Profile::Stamps] {
        let (ledger, _) = ledgers::generated(profile, 3_000_000, 1);
        assert!(ledger.windows(2).any(|pair| pair == b"\\u") && !ledger.is_ascii());
        let place = Place::with_ledger(&ledger);
        let (result, findings) = place.full(&Options::default());
        assert_eq!(result.exact_lines, 0, "{profile:?}");
        assert!(findings.is_empty() && result.unknown_lines == 0);
    }
    // The counter works.
    let (ledger, _) = ledgers::generated(Profile::Adversarial, 300_000, 1);
    assert!(Place::with_ledger(&ledger).full(&Options::default()).0.exact_lines > 10);
}

/// The only turn of an archive.
fn only_turn(place: &Place) -> dump::Row {
    let turns = &dump::by_key(place.archive())["turns"];
    assert_eq!(turns.len(), 1);
    turns[0].clone()
}

#[test]
fn lines_longer_than_a_chunk_are_stored_whole() {
    for length in [70_000, 1 << 20, 3 << 20] {
        let project: String = "abcdefgh \u{fc}".chars().cycle().take(length).collect();
        let turn =
            ledgers::turn_with("s", "m", "2026-04-20T00:00:00.000Z", &format!(r#","project":"{project}""#));
        let place = Place::with_ledger(turn.as_bytes());
        let chunks = [1, 65_536, Options::default().chunk_bytes];
        for (chunk_bytes, io) in chunks.into_iter().flat_map(|chunk| [(chunk, Io::Mmap), (chunk, Io::Read)]) {
            let mut options = Options::default();
            (options.chunk_bytes, options.io) = (chunk_bytes, io);
            place.full(&options);
            assert!(
                only_turn(&place)["project"] == Value::Text(project.clone()),
                "{length} with {options:?}"
            );
        }
        // Also in an indexed column: the longest allowed model.
        let mut model = project;
        while model.len() > INDEXED_TEXT_MAX_BYTES {
            model.pop();
        }
        let long_model = turn.replace(r#""model":"m""#, &format!(r#""model":"{model}""#));
        fs::write(&place.paths.ledger, long_model).unwrap();
        place.full(&Options::default());
        assert!(only_turn(&place)["model"] == Value::Text(model), "{length}");
        dump::assert_whole(place.archive());
    }
}

#[test]
fn lines_may_end_in_crlf() {
    let (ledger, _) = ledgers::generated(Profile::Mixed, 60_000, 2);
    let crlf = String::from_utf8(ledger.clone()).unwrap().replace('\n', "\r\n");
    let (unix, windows) = (Place::with_ledger(&ledger), Place::with_ledger(crlf.as_bytes()));
    unix.full(&Options::default());
    let (result, findings) = windows.full(&Options::default());
    assert_eq!((findings.len(), result.scanned_bytes), (0, crlf.len() as u64));
    for table in ["turns", "tool_calls", "tool_result_events", "sessions"] {
        assert_eq!(dump::by_rowid(windows.archive())[table], dump::by_rowid(unix.archive())[table]);
    }
}

#[test]
fn a_ledger_without_a_whole_line_gives_an_empty_archive() {
    let turn = ledgers::turn("s", "m", "2026-04-20T00:00:00.000Z");
    for ledger in ["", turn.trim_end(), "{", "\n", "\n\n \t\n", "\u{feff}\n", "\r\n"] {
        for options in variants() {
            let place = Place::with_ledger(ledger.as_bytes());
            let (result, findings) = place.full(&options);
            assert_eq!(
                result.scanned_bytes as usize,
                ledgers::last_line_end(ledger.as_bytes()),
                "{ledger:?}"
            );
            assert_eq!((result.turns_applied, result.unknown_lines, findings.len()), (0, 0, 0), "{ledger:?}");
            assert!(dump::by_key(place.archive())["turns"].is_empty());
        }
        // The unfinished line is archived when it is finished.
        if ledger == turn.trim_end() {
            let place = Place::with_ledger(ledger.as_bytes());
            place.tail(&Options::default());
            fs::write(&place.paths.ledger, &turn).unwrap();
            assert_eq!(place.tail(&Options::default()).0.turns_applied, 1);
        }
    }
}

#[test]
fn nesting_of_any_depth_is_read() {
    const LEVELS: usize = 100_000;
    let (open, close) = ("[".repeat(LEVELS), "]".repeat(LEVELS));
    let (open_objects, close_objects) = ("{\"a\":".repeat(LEVELS), "}".repeat(LEVELS));
    let ts = "2026-04-20T00:00:00.000Z";
    let turn =
        |message: &str, later: &str| ledgers::turn_with("s", message, ts, &format!(r#","later":{later}"#));
    let lines = [
        turn("arrays", &format!("{open}1{close}")),
        turn("objects", &format!("{open_objects}1{close_objects}")),
        // A bracket that is not closed, or closed once too often, makes the line malformed and does no harm.
        turn("open", &format!("{open}1")),
        turn("closed", &format!("{open}1{close}]")),
        format!("{open}{close}\n"),
        ledgers::stamp(ts, &format!(r#"{{"sessionId":"s","later":{open}{close}}}"#), r#"{"tier":"deep"}"#),
        turn("last", "null"),
    ];
    let ledger = lines.concat();
    let all = variants();
    in_parallel(&all, |options| {
        let place = Place::with_ledger(ledger.as_bytes());
        let (result, findings) = place.full(options);
        let offsets: Vec<u64> = findings.iter().map(|finding| finding.offset).collect();
        let starts: Vec<u64> = ledgers::lines(ledger.as_bytes()).map(|(start, _)| start).collect();
        assert_eq!(offsets, [starts[2], starts[3]], "{options:?}");
        assert_eq!((result.turns_applied, result.unknown_lines, result.stamps_applied), (3, 1, 1));
        for turn in &dump::by_key(place.archive())["turns"] {
            assert_eq!(turn["tier"], Value::Text("deep".to_owned()));
        }
    });
    // Through the command line, because its main thread has another stack size.
    let place = Place::with_ledger(ledger.as_bytes());
    let result =
        success(&rebuild(place.directory(), &["--full", "--json", "--threads", "1"]).output().unwrap());
    assert_eq!(result["turnsApplied"], 3);
    // A stamp with such a selector is read again from the archive when turns arrive later.
    let more = ledger + &ledgers::turn("s", "later", ts);
    fs::write(&place.paths.ledger, more).unwrap();
    let result = success(&rebuild(place.directory(), &["--json"]).output().unwrap());
    assert_eq!((&result["turnsApplied"], &result["restarted"]), (&1.into(), &serde_json::Value::Null));
    assert!(
        dump::by_key(place.archive())["turns"]
            .iter()
            .all(|turn| turn["tier"] == Value::Text("deep".to_owned()))
    );
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    let place = Place::with_ledger(b"not json\n");
    let message =
        failure(&rebuild(place.directory(), &["--full", "--report", "/dev/null/report"]).output().unwrap());
    assert!(message.contains("/dev/null/report"), "{message}");
    assert_eq!(place.names(), ["ledger.jsonl"]);
    #[cfg(target_os = "linux")]
    {
        let message =
            failure(&rebuild(place.directory(), &["--full", "--report", "/dev/full"]).output().unwrap());
        assert!(message.contains("/dev/full"), "{message}");
    }
}

/// A JSON number in a key may be a fraction, or have any size: both loaders accept every number.
#[test]
fn numbers_of_every_size_stand_in_indexes() {
    let usual = "0 -1 2.5 -0.5 1e300 1e19 -1e19 9007199254740993 9223372036854775807 9.223372036854775807e18 3.0 1e-300";
    // -2^63: as an integer, as JavaScript prints it, and as both ends of the range of integers that round to it, which are stored
    // as reals.
    let least = "-9223372036854775808 -9.223372036854775808e18 -9223372036854776000 -9223372036854775809 -9223372036854776832";
    let numbers: Vec<&str> = usual.split(' ').chain(least.split(' ')).collect();
    let mut ledger = String::new();
    for (place, number) in numbers.iter().enumerate() {
        ledger += &format!(
            concat!(
                r#"{{"v":1,"kind":"turn","record":{{"v":1,"source":"codex","sessionId":"s","messageId":"m{place}","#,
                r#""turnIndex":{number},"ts":"2026-01-01T00:00:00.000Z","model":"m","toolCalls":[],"#,
                r#""usage":{{"input":1,"output":1,"reasoning":1,"cacheRead":1,"cacheCreate5m":1,"cacheCreate1h":1}}}}}}"#,
                "\n",
                r#"{{"v":1,"kind":"tool_result_event","record":{{"v":1,"source":"codex","sessionId":"s","#,
                r#""toolUseId":"t","eventIndex":{number},"status":"completed","eventSource":"tool_result"}}}}"#,
                "\n",
            ),
            place = place,
            number = number,
        );
    }
    let dumps = [Load::Bulk, Load::Insert].map(|loader| {
        let place = Place::with_ledger(ledger.as_bytes());
        let (result, findings) = place.full(&Options { load: loader, ..Options::default() });
        assert_eq!((result.turns_applied, findings.len()), (numbers.len() as u64, 0), "{findings:?}");
        let archive = rusqlite::Connection::open(place.archive()).unwrap();
        let checked: String = archive.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(checked, "ok", "{loader:?}");
        let mut rows = Vec::new();
        for sql in [
            "SELECT quote(turn_index) FROM turns INDEXED BY idx_turns_session ORDER BY source, session_id, turn_index",
            "SELECT quote(event_index) FROM tool_result_events ORDER BY source, session_id, message_id, tool_use_id, event_index",
        ] {
            let mut listed = archive.prepare(sql).unwrap();
            rows.extend(listed.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap));
        }
        rows
    });
    assert_eq!(dumps[0], dumps[1]);
    // Five of the numbers are -2^63, so they make one event.
    assert_eq!(dumps[0].len(), 2 * numbers.len() - 4);
    assert_eq!(dumps[0].iter().filter(|number| number.starts_with("-9.22337203685477")).count(), 4);
}

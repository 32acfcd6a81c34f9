//! Merging ledgers: any order, any repetition and any split of the lines of a ledger give the same ledger and the same archive.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use relayburn_ledger::archive::{self, Options, Paths, Unobserved};
use relayburn_ledger::home::Home;
use relayburn_ledger::ledger::{
    AppendOptions, Batch, Ledger, LedgerLineAt, MachineName, MergeFinding, MergeInput, MergeReport,
};
use serde_json::Value;

use crate::common::dump;

/// A turn of session `session`; equal numbers make equal fingerprints.
fn turn(session: u8, message: u8, output: u16, more: &str) -> String {
    let minute = message % 60;
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"codex","sessionId":"s{session}","messageId":"m{message}","turnIndex":0,"ts":"2026-04-20T00:{minute:02}:00.{session:03}Z","model":"m","usage":{{"input":{message},"output":{output},"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[{{"id":"c","name":"Read"}}]{more}}}}}"#
    )
}

fn stamp(at: u8, selector: &str, enrichment: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"stamp","ts":"2026-04-20T01:00:0{at}.000Z","selector":{{{selector}}},"enrichment":{{{enrichment}}}}}"#
    )
}

/// A line of a ledger: turns with few ids, so that they are repeated and corrected; stamps of few times, so that they
/// contradict each other; and the other kinds, some of them malformed.
fn line() -> impl Strategy<Value = String> {
    let small = 0..4u8;
    prop_oneof![
        8 => (small.clone(), small.clone(), prop_oneof![Just(5u16), Just(90)], prop_oneof![
            Just(""), Just(r#","activity":"coding""#), Just(r#","activity":"review""#)
        ]).prop_map(|(session, message, output, more)| turn(session, message, output, more)),
        6 => (0..3u8, prop_oneof![
            (0..3u8).prop_map(|session| format!(r#""sessionId":"s{session}""#)),
            (0..3u8, 0..3u8).prop_map(|(s, m)| format!(r#""sessionId":"s{s}","messageId":"m{m}""#)),
            (0..3u8).prop_map(|m| format!(r#""messageId":"m{m}""#)),
            Just(r#""range":{"fromTs":"2026-04-20T00:01"}"#.to_owned()),
        ], prop_oneof![
            (0..3u8).prop_map(|value| format!(r#""tier":"{value}""#)),
            (0..3u8).prop_map(|value| format!(r#""tier":"{value}","persona":"{value}""#)),
            (0..3u8).prop_map(|value| format!(r#""persona":"{value}""#)),
        ]).prop_map(|(at, selector, enrichment)| stamp(at, &selector, &enrichment)),
        2 => (small.clone(), 0..3u8).prop_map(|(session, tokens)| format!(
            r#"{{"v":1,"kind":"compaction","record":{{"source":"x","sessionId":"s{session}","ts":"2026-04-20T00:00:02Z","tokensBeforeCompact":{tokens}}}}}"#
        )),
        2 => (small.clone(), small.clone(), 0..2u8).prop_map(|(session, index, ok)| format!(
            r#"{{"v":1,"kind":"tool_result_event","record":{{"source":"x","sessionId":"s{session}","messageId":"m{ok}","toolUseId":"t","eventIndex":{index},"status":"{ok}","eventSource":"e"}}}}"#
        )),
        1 => small.clone().prop_map(|session| format!(
            r#"{{"v":1,"kind":"relationship","record":{{"source":"x","sessionId":"s{session}","relationshipType":"root"}}}}"#
        )),
        1 => small.prop_map(|user| format!(
            r#"{{"v":1,"kind":"user_turn","record":{{"source":"x","sessionId":"s0","userUuid":"u{user}","ts":"2026-04-20T00:00:02Z","blocks":[]}}}}"#
        )),
        1 => prop_oneof![
            Just(r#"{"v":1,"kind":"turn","rec"#.to_owned()),
            Just(r#"{"v":2,"kind":"later"}"#.to_owned()),
            Just(r#"{"v":1,"kind":"turn","record":{"source":"codex","sessionId":"s0","messageId":"m0"}}"#.to_owned()),
        ],
    ]
}

/// Other bytes of the same content.
fn respelled(line: &str, how: u8) -> String {
    match how {
        0 => format!("  {line}\r"),
        1 => line.replacen(r#"{"v":1,"#, r#"{ "v":1.0, "#, 1),
        2 => line.replacen(r#""source":"codex","#, "", 1).replacen(
            r#""record":{"#,
            r#""record":{"source":"c\u006fdex","#,
            1,
        ),
        _ => line.to_owned(),
    }
}

/// A ledger, and how its lines come in parts: each line in at least one part, in any order, some lines respelled.
#[derive(Debug, Clone)]
struct Split {
    lines: Vec<String>,
    /// Lines by their numbers, each with a spelling.
    parts: Vec<Vec<(usize, u8)>>,
}

fn split() -> impl Strategy<Value = Split> {
    let lines = proptest::collection::vec(line(), 1..40);
    (lines, 1..6usize).prop_flat_map(|(lines, parts)| {
        let count = lines.len();
        let home = proptest::collection::vec((0..parts, 0..8u8), count);
        let more = proptest::collection::vec((0..parts, 0..count, 0..8u8), 0..20);
        let order = Just((0..count).collect::<Vec<_>>()).prop_shuffle();
        let repeated = 0..=parts;
        (Just(lines), Just(parts), home, more, order, repeated).prop_map(
            |(lines, parts, home, more, order, repeated)| {
                let mut split = vec![Vec::new(); parts];
                for number in order {
                    let (part, spelling) = home[number];
                    split[part].push((number, spelling));
                }
                for (part, number, spelling) in more {
                    split[part].push((number, spelling));
                }
                if repeated < parts {
                    split.push(split[repeated].clone());
                }
                Split { lines, parts: split }
            },
        )
    })
}

/// A directory with ledgers and homes.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        // In memory where the system has a place for it, because each case writes some files.
        let shm = Path::new("/dev/shm");
        let directory = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        Self { directory: directory.unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn ledger(&self, name: &str, text: &str) -> MergeInput {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        MergeInput::of_file(path).unwrap()
    }

    fn merge(&self, inputs: &[MergeInput], home: &str) -> (MergeReport, Vec<MergeFinding>) {
        let mut findings = Vec::new();
        let ledger = Ledger::new(Home::at(self.path(home)));
        let report = ledger.merge(inputs, &mut |finding| findings.push(finding)).unwrap();
        (report, findings)
    }

    /// The ledger of a home.
    fn text(&self, home: &str) -> String {
        fs::read_to_string(self.path(home).join("ledger.jsonl")).unwrap()
    }

    /// The rows of the ledger's archive without offsets of stamps, each enrichment as a set of keys; the stamps as a set.
    fn rows(&self, home: &str) -> BTreeMap<String, Vec<String>> {
        let paths = Paths::of_home(&Home::at(self.path(home)));
        archive::rebuild_full(&paths, &Options { threads: 1, ..Options::default() }, &mut Unobserved)
            .unwrap();
        let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (table, found) in dump::by_key(&paths.archive) {
            if table == "archive_state" {
                continue;
            }
            let printed = found.into_iter().map(|mut row| {
                row.remove("ledger_offset_bytes");
                if let Some(dump::Value::Text(text)) = row.get_mut("enrichment_json") {
                    // `serde_json` sorts the keys.
                    *text = serde_json::from_str::<Value>(text).unwrap().to_string();
                }
                format!("{row:?}")
            });
            let mut printed: Vec<String> = printed.collect();
            printed.sort();
            printed.dedup();
            rows.insert(table, printed);
        }
        rows
    }
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// One split, merged at once in two orders, and piece by piece.
fn check_split(split: &Split) {
    let bench = Bench::new();
    let whole = bench.ledger("whole", &text(&split.lines));
    bench.merge(&[whole], "expected");
    let parts: Vec<MergeInput> = (0..)
        .zip(&split.parts)
        .map(|(number, part)| {
            let lines: Vec<String> =
                part.iter().map(|(number, how)| respelled(&split.lines[*number], *how)).collect();
            bench.ledger(&format!("part{number}"), &text(&lines))
        })
        .collect();
    let expected = bench.rows("expected");
    let (report, _) = bench.merge(&parts, "forward");
    let backward: Vec<MergeInput> = parts.iter().rev().chain(&parts[..1]).cloned().collect();
    bench.merge(&backward, "backward");
    let forward = bench.text("forward");
    assert_eq!(forward, bench.text("backward"));
    assert_eq!(bench.rows("forward"), expected);
    let longest = split.parts.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(report.inputs.iter().map(|input| input.lines).sum::<u64>(), longest);
    // One after the other, and then everything again: nothing more is appended.
    for part in &parts {
        bench.merge(std::slice::from_ref(part), "each");
    }
    let (again, findings) = bench.merge(&backward, "each");
    assert_eq!((again.appended, again.conflicts), (0, 0), "{findings:?}");
    let has_same_turns = again.same_turns > 0 || report.same_turns > 0;
    match has_same_turns {
        // The turn that came first stays, under its id.
        true => assert_eq!(bench.rows("each")["turns"].len(), expected["turns"].len()),
        false => assert_eq!(bench.rows("each"), expected),
    }
    // Nothing is lost: each line that is no turn is there as it was, or in one of its spellings.
    let merged: Vec<&str> = forward.lines().collect();
    for (number, line) in split
        .lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.contains(r#""kind":"turn","record":{"source""#))
    {
        let spellings = split.parts.iter().flatten().filter(|(other, _)| *other == number);
        let is_there = spellings
            .map(|(_, how)| respelled(line, *how))
            .any(|line| merged.contains(&line.trim()))
            || split.lines.iter().any(|other| other == line) && merged.iter().any(|other| same(other, line));
        assert!(is_there, "{line}");
    }
}

/// Whether two lines have one content.
fn same(a: &str, b: &str) -> bool {
    let parsed =
        |line: &str| serde_json::from_str::<Value>(&line.replace(r#"{ "v":1.0, "#, r#"{"v":1,"#)).ok();
    parsed(a).is_some() && parsed(a) == parsed(b)
}

#[test]
fn any_split_of_a_ledger_merges_to_the_same() {
    let cases = std::env::var("MERGE_SPLITS").map_or(200, |cases| cases.parse().unwrap());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&split(), |split| {
            check_split(&split);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_turn_with_two_contents_is_named_and_the_one_that_counts_is_last() {
    let bench = Bench::new();
    let [short, long] = [turn(1, 1, 5, ""), turn(1, 1, 90, "")];
    let a = bench.ledger("a", &format!("\n{long}\n"));
    let b = bench.ledger("b", &format!("{short}\n"));
    let (report, findings) = bench.merge(&[a.clone(), b], "into");
    assert_eq!((report.appended, report.conflicts, report.again), (2, 1, 0));
    assert_eq!(bench.text("into"), format!("{short}\n{long}\n"));
    let [MergeFinding::Conflict { kind: "turn", versions: 2, lines, .. }] = &*findings else {
        panic!("{findings:?}")
    };
    let places: Vec<_> = lines.iter().map(|line| (line.ledger.ends_with("a"), line.offset)).collect();
    assert_eq!(places, [(true, 1), (false, 0)]);

    // Into a ledger that has the one that counts: the other, and that one again.
    let (report, _) = bench.merge(&[a], "target");
    assert_eq!((report.appended, report.conflicts), (1, 0));
    let b = MergeInput::of_file(bench.path("b")).unwrap();
    let (report, _) = bench.merge(std::slice::from_ref(&b), "target");
    assert_eq!((report.appended, report.conflicts, report.again), (2, 1, 1));
    assert_eq!(bench.text("target"), format!("{long}\n{short}\n{long}\n"));
    let (report, findings) = bench.merge(&[b], "target");
    assert_eq!((report.appended, findings.len()), (0, 0));
}

#[test]
fn a_whole_turn_is_not_added_to_the_parts_that_another_ledger_has() {
    let part = |number: u8, output| {
        turn(1, 1, output, "").replace(r#""messageId":"m1""#, &format!(r#""messageId":"m1+{number}""#))
    };
    let parts = [turn(1, 1, 10, ""), part(1, 50), part(2, 7)];
    // What the other ledger has of the turn, and the content that counts.
    for (whole, counts) in [(67, 10), (60, 10), (10, 10), (68, 68)] {
        let whole = turn(1, 1, whole, "");
        let bench = Bench::new();
        let a = bench.ledger("a", &text(&parts));
        let b = bench.ledger("b", &format!("{whole}\n"));
        bench.merge(&[a.clone(), b.clone()], "into");
        bench.merge(std::slice::from_ref(&b), "into");
        bench.merge(std::slice::from_ref(&b), "one");
        bench.merge(std::slice::from_ref(&a), "one");
        bench.merge(&[a, b], "one");
        let last = |home: &str| {
            let text = bench.text(home);
            let mut lines = text.lines().filter(|line| line.contains(r#""messageId":"m1""#));
            lines.next_back().unwrap().to_owned()
        };
        for home in ["into", "one"] {
            assert!(last(home).contains(&format!(r#""output":{counts},"#)), "{home}: {}", bench.text(home));
        }
        assert_eq!(bench.rows("into"), bench.rows("one"));
    }
}

#[test]
fn parts_belong_to_the_content_that_a_ledger_has_beside_them() {
    // One ledger read the log at its first rest, the other one later, and once more after a second rest.
    let bench = Bench::new();
    let part = turn(1, 1, 80, "").replace(r#""messageId":"m1""#, r#""messageId":"m1+1""#);
    let early = bench.ledger("early", &format!("{}\n", turn(1, 1, 10, "")));
    let late = bench.ledger("late", &format!("{}\n{part}\n", turn(1, 1, 60, "")));
    for (home, order) in [("a", [&early, &late]), ("b", [&late, &early])] {
        for input in order {
            bench.merge(std::slice::from_ref(input), home);
        }
        bench.merge(&[early.clone(), late.clone()], home);
        let turns = bench.rows(home)["turns"].concat();
        assert!(
            [60, 80].iter().all(|output| turns.contains(&format!("\"output_tokens\": {output},"))),
            "{turns}"
        );
    }
}

#[test]
fn a_turn_under_another_id_is_named_and_left_out() {
    let bench = Bench::new();
    let first = turn(1, 1, 5, "");
    let copy = first.replace(r#""sessionId":"s1""#, r#""sessionId":"s9""#);
    let a = bench.ledger("a", &format!("{first}\n"));
    let b = bench.ledger("b", &format!("{}\n{copy}\n", turn(2, 2, 1, "")));
    let (report, findings) = bench.merge(&[a, b.clone()], "into");
    assert_eq!((report.appended, report.same_turns), (2, 1));
    let [MergeFinding::SameTurn { left_out, kept }] = &*findings else { panic!("{findings:?}") };
    assert_ne!(left_out.ledger, kept.ledger);
    assert_eq!(bench.rows("into")["turns"].len(), 2);
    // Where the target has the turn, it stays under the id that it has there.
    let mut batch = Batch::new();
    batch.push_line(copy.as_bytes()).unwrap();
    let target = Ledger::new(Home::at(bench.path("target")));
    target.append(&batch, &AppendOptions::default()).unwrap();
    let a = MergeInput::of_file(bench.path("a")).unwrap();
    let (report, findings) = bench.merge(&[a, b], "target");
    assert_eq!((report.appended, report.same_turns), (1, 1));
    let [MergeFinding::SameTurn { left_out, kept }] = &*findings else { panic!("{findings:?}") };
    assert!(left_out.ledger.ends_with("a") && kept.ledger.ends_with("target/ledger.jsonl"), "{findings:?}");
}

/// A turn whose time, model and counts are those of all turns that this function makes.
fn alike(source: &str, session: &str, message: &str) -> String {
    turn(1, 1, 5, "")
        .replace("codex", source)
        .replace(r#""s1""#, &format!("{session:?}"))
        .replace(r#""m1""#, &format!("{message:?}"))
}

#[test]
fn turns_with_certain_ids_are_one_only_if_their_message_is_one() {
    let uuid = |last: u8| format!("019a0000-0000-7000-8000-00000000000{last}");
    let pairs = [
        ("opencode", "msg_a".to_owned(), "msg_b".to_owned()),
        ("claude-code", "msg_01AAAAAAAAAAAAAAAAAAAAAA".to_owned(), "msg_01BBBBBBBBBBBBBBBBBBBBBB".to_owned()),
        ("codex", uuid(1), uuid(2)),
        ("codex", uuid(1), uuid(1) + "+1"),
        ("gemini-cli", uuid(1), uuid(2)),
    ];
    for (source, first, second) in pairs {
        let bench = Bench::new();
        let [one, two] = [alike(source, "s1", &first), alike(source, "s2", &second)];
        let a = bench.ledger("a", &text(&[one.clone(), two.clone()]));
        let (report, findings) = bench.merge(&[a], "whole");
        assert_eq!((report.appended, report.same_turns), (2, 0), "{findings:?}");
        let a = bench.ledger("a", &text(&[one]));
        let b = bench.ledger("b", &text(&[two]));
        let (report, findings) = bench.merge(&[a, b], "parts");
        assert_eq!((report.appended, report.same_turns), (2, 0), "{findings:?}");
        // A resumed session has copies of the messages of the first.
        let copy = bench.ledger("copy", &text(&[alike(source, "s9", &first)]));
        let (report, findings) = bench.merge(&[copy], "parts");
        assert_eq!((report.appended, report.same_turns), (0, 1), "{findings:?}");
    }
}

#[test]
fn turns_of_one_ledger_stay_apart_whatever_their_fingerprints() {
    let bench = Bench::new();
    let ledger = |name: &str, messages: &[&str]| {
        let lines: Vec<String> = messages.iter().map(|message| alike("codex", "s1", message)).collect();
        bench.ledger(name, &text(&lines))
    };
    let [a, b] = [ledger("a", &["m1", "m4"]), ledger("b", &["m2", "m3", "m5"])];
    // The ledger b says that there are three turns, so two of a are among them.
    for (number, inputs) in [[a.clone(), b.clone()], [b.clone(), a.clone()]].iter().enumerate() {
        let home = format!("into{number}");
        let (report, findings) = bench.merge(inputs, &home);
        assert_eq!((report.appended, report.same_turns), (3, 2), "{findings:?}");
        assert_eq!(bench.merge(inputs, &home).0.appended, 0);
    }
    // The target is a ledger, too.
    for (input, appended) in [(&a, 2), (&b, 1)] {
        let (report, findings) = bench.merge(std::slice::from_ref(input), "each");
        assert_eq!(report.appended, appended, "{findings:?}");
    }
    assert_eq!(bench.merge(&[a, b], "each").0.appended, 0);
    assert_eq!(bench.rows("each")["turns"].len(), 3);
}

#[test]
fn malformed_lines_are_named_and_kept_and_unfinished_lines_are_left_out() {
    let bench = Bench::new();
    let good = turn(1, 1, 5, "");
    let torn = bench.ledger("torn", &format!("{good}\n{{\"v\":1,\nnot json\n{{\"v\":1,\"kin"));
    let (report, findings) = bench.merge(&[torn], "into");
    assert_eq!((report.appended, report.malformed_lines, report.unfinished_lines), (3, 2, 1));
    let at = |line: &LedgerLineAt| (line.offset - good.len() as u64 - 1, line.length);
    let places: Vec<_> = findings
        .iter()
        .map(|finding| match finding {
            MergeFinding::Malformed { line, .. } => ("malformed", at(line)),
            MergeFinding::Unfinished { line } => ("unfinished", at(line)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(places, [("malformed", (0, 7)), ("malformed", (8, 8)), ("unfinished", (17, 11))]);
    let text = bench.text("into");
    assert!(
        text.contains("\nnot json\n") && text.contains("\n{\"v\":1,\n") && !text.contains("kin\""),
        "{text}"
    );
}

#[test]
fn a_file_without_a_ledger_line_is_refused_and_a_ledger_that_has_none_yet_is_not() {
    let bench = Bench::new();
    let good = bench.ledger("good", &format!("{}\n", turn(1, 1, 5, "")));
    let jpeg = "\u{fffd}JFIF\0\u{1}";
    for (name, text, reason) in [
        ("log", "started\nstopped\n{\"v\":1,\"kin", "none of its 2 lines"),
        ("json", "{\"level\":\"info\",\"v\":1}\n", "its only line is no JSON object with \"v\" and \"kind\""),
        ("picture", jpeg, "no line end"),
        ("lines", &format!("{jpeg}\n{jpeg}\n{jpeg}"), "none of its 2 lines"),
    ] {
        let input = bench.ledger(name, text);
        let (target, mut findings) = (Ledger::new(Home::at(bench.path("into"))), Vec::new());
        let merged = target.merge(&[good.clone(), input], &mut |finding| findings.push(finding));
        let refused = merged.unwrap_err().to_string();
        assert!(
            refused.contains(name) && refused.contains(reason) && refused.contains("from byte 0"),
            "{refused}"
        );
        assert!(findings.is_empty(), "{findings:?}");
        assert!(!target.home().root().exists());
    }
    let unknown = bench.ledger("unknown", "\nnot json\n{\"kind\":\"from tomorrow\",\"v\":7}\n");
    let (empty, begun) = (bench.ledger("empty", "\n"), bench.ledger("begun", "{\"v\":1,\"ki"));
    let damaged = bench.ledger("damaged", "{ \"v\":1,\"kind\":\"tu\n");
    let (report, _) = bench.merge(&[unknown, empty, begun, damaged], "into");
    assert_eq!((report.appended, report.malformed_lines, report.unfinished_lines), (3, 2, 1));
}

/// The machines of the turns of a home, by session and message.
fn machines(bench: &Bench, home: &str) -> Vec<String> {
    bench.rows(home);
    let paths = Paths::of_home(&Home::at(bench.path(home)));
    let mut found = Vec::new();
    let filter = relayburn_ledger::ledger::Filter::default();
    archive::query::turns(&paths.archive, &filter, &mut |turn| {
        let turn: Value = serde_json::from_str(turn).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let [session, message] = ["sessionId", "messageId"].map(|key| text(&turn[key]));
        found.push(format!("{session} {message} {}", text(&turn["enrichment"]["machine"])));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    found.sort();
    found
}

#[test]
fn turns_get_the_name_of_their_machine() {
    let bench = Bench::new();
    let home = |name: &str, machine: Option<&str>, lines: &[String]| {
        let home = Home::at(bench.path(name));
        fs::create_dir(home.root()).unwrap();
        fs::write(home.ledger(), text(lines)).unwrap();
        if let Some(machine) = machine {
            Ledger::new(home.clone()).set_machine(&MachineName::new(machine).unwrap()).unwrap();
        }
        MergeInput::of_home(&home).unwrap()
    };
    // Session 1 is on both machines, and one of its turns; a person has named a machine for session 3.
    let person = stamp(1, r#""sessionId":"s3""#, r#""machine":"by hand""#);
    let a = home(
        "a",
        Some("desk"),
        &[turn(1, 1, 5, ""), turn(1, 2, 5, ""), turn(2, 1, 5, ""), turn(3, 1, 5, ""), person],
    );
    let b = home("b", Some("laptop"), &[turn(1, 2, 5, ""), turn(1, 3, 5, ""), turn(4, 1, 5, "")]);
    let c = home("c", None, &[turn(5, 1, 5, ""), turn(4, 2, 5, "")]);
    let inputs = [a, b, c];
    let (report, _) = bench.merge(&inputs, "into");
    let expected = [
        "s1 m1 desk",
        "s1 m2 laptop",
        "s1 m3 laptop",
        "s2 m1 desk",
        "s3 m1 by hand",
        "s4 m1 laptop",
        "s4 m2 -",
        "s5 m1 -",
    ];
    assert_eq!(machines(&bench, "into"), expected);
    // Stamps of the sessions 2 and 3, and of the turns of 1 and of one of 4.
    assert_eq!(report.labels, 6);
    let backward: Vec<MergeInput> = inputs.iter().rev().cloned().collect();
    bench.merge(&backward, "backward");
    assert_eq!(bench.text("into"), bench.text("backward"));
    assert_eq!(bench.merge(&inputs, "into").0.appended, 0);
    // One machine after the other: a turn keeps the first name that it got, and a turn of a machine without a name gets the
    // name of its session.
    for input in &inputs {
        bench.merge(std::slice::from_ref(input), "each");
    }
    assert_eq!(
        machines(&bench, "each"),
        expected.map(|turn| turn.replace("s1 m2 laptop", "s1 m2 desk").replace("s4 m2 -", "s4 m2 laptop"))
    );
    // A session that goes on is stamped once.
    home("more", Some("desk"), &[turn(2, 1, 5, ""), turn(2, 2, 5, "")]);
    let more = MergeInput::of_home(&Home::at(bench.path("more"))).unwrap();
    let (report, _) = bench.merge(&[more], "into");
    assert_eq!((report.appended, report.labels), (1, 0));
    assert!(machines(&bench, "into").contains(&"s2 m2 desk".to_owned()));
}

#[test]
fn content_of_homes_is_merged_line_by_line() {
    let bench = Bench::new();
    for (home, session, lines) in [
        ("a", "s1", "{\"text\":\"1\"}\n{\"text\":\"2\"}\n"),
        ("b", "s1", "{\"text\":\"1\"}\n{\"text\":\"3\"}\n{\"text\":\"4\"}\n{\"tex"),
        ("b", "s2", "not json\n"),
    ] {
        let home = Home::at(bench.path(home));
        fs::create_dir_all(home.content_dir()).unwrap();
        fs::write(home.ledger(), turn(1, 1, 1, "") + "\n").unwrap();
        fs::write(home.content_dir().join(format!("{session}.jsonl")), lines).unwrap();
    }
    let inputs = ["a", "b"].map(|name| MergeInput::of_home(&Home::at(bench.path(name))).unwrap());
    let (report, _) = bench.merge(&inputs, "into");
    assert_eq!(report.content_lines, 5);
    let merged = |home: &str, session: &str| {
        fs::read_to_string(bench.path(home).join(format!("content/{session}.jsonl"))).unwrap()
    };
    assert_eq!(
        merged("into", "s1"),
        "{\"text\":\"1\"}\n{\"text\":\"3\"}\n{\"text\":\"4\"}\n{\"text\":\"2\"}\n"
    );
    assert_eq!(merged("into", "s2"), "not json\n");
    bench.merge(&[inputs[1].clone(), inputs[0].clone()], "backward");
    assert_eq!(merged("into", "s1"), merged("backward", "s1"));
    // Into one of the homes.
    let (report, _) = bench.merge(&inputs, "a");
    assert_eq!((report.content_lines, report.inputs[0].is_target), (3, true));
    assert_eq!(merged("a", "s1").lines().count(), 4);
}

#[test]
fn the_index_of_a_merged_ledger_is_whole() {
    let bench = Bench::new();
    let lines: Vec<String> = (0..200).map(|n| turn((n / 50) as u8, (n % 50) as u8, 5, "")).collect();
    let a = bench.ledger("a", &text(&lines[..150]));
    let b = bench.ledger("b", &text(&lines[50..]));
    bench.merge(&[a], "into");
    bench.merge(&[b], "into");
    let home = Home::at(bench.path("into"));
    let files = relayburn_ledger::ledger::CheckFiles::of_home(&home);
    let mut faults = Vec::new();
    let checked =
        relayburn_ledger::ledger::check(&files, &mut |fault| faults.push(fault.reason.clone())).unwrap();
    assert!(checked.ok && faults.is_empty(), "{faults:?}");
    assert_eq!(checked.index.unwrap().ids, 200);
    // An append finds every record, by its id and by its fingerprint.
    let mut batch = Batch::new();
    for line in &lines {
        batch.push_line(line.as_bytes()).unwrap();
        batch.push_line(line.replace(r#""sessionId":"s"#, r#""sessionId":"other"#).as_bytes()).unwrap();
    }
    let appended = Ledger::new(home).append(&batch, &AppendOptions::default()).unwrap();
    assert_eq!((appended.appended, appended.duplicates), (0, 400));
}

#[test]
fn a_merge_and_other_writers_lose_nothing() {
    let bench = Bench::new();
    let lines: Vec<String> = (0..200).map(|n| turn((n / 50) as u8, (n % 50) as u8, 5, "")).collect();
    let input = bench.ledger("input", &text(&lines));
    let target = Ledger::new(Home::at(bench.path("into")));
    let mut again = 0;
    std::thread::scope(|scope| {
        for writer in 0..2usize {
            let (lines, target) = (&lines, &target);
            scope.spawn(move || {
                for line in lines.iter().skip(writer).step_by(3) {
                    let mut batch = Batch::new();
                    batch.push_line(line.as_bytes()).unwrap();
                    batch
                        .push_line(stamp(1, r#""sessionId":"s1""#, &format!(r#""w":"{writer}""#)).as_bytes())
                        .unwrap();
                    target.append(&batch, &AppendOptions::default()).unwrap();
                }
            });
        }
        for _ in 0..5 {
            again += target.merge(std::slice::from_ref(&input), &mut |_| {}).unwrap().again;
        }
    });
    let merged = bench.text("into");
    for line in &lines {
        assert_eq!(merged.matches(line.as_str()).count(), 1, "{line}");
    }
    // The stamps of the two writers contradict each other, so a merge may append them again in their order.
    assert_eq!(merged.matches(r#""kind":"stamp""#).count() as u64, 134 + again);
}

//! Generated ledgers as a whole: the bytes are pinned, the shares are what docs/generated-ledgers.md says, every line
//! is what its kind says, and a file appears whole or not at all.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use super::*;

const PROFILES: [Profile; 3] = [Profile::Mixed, Profile::Stamps, Profile::Adversarial];

fn ledger(profile: Profile, size_bytes: u64, seed: u64) -> (Vec<u8>, GeneratedSummary) {
    let mut bytes = Vec::new();
    let summary = generate(&GenerateOptions { size_bytes, seed, profile }, &mut bytes, |_| {}).unwrap();
    assert_eq!(summary.bytes, bytes.len() as u64);
    (bytes, summary)
}

/// The lines without their LFs.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap())
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[test]
fn a_megabyte_of_each_profile_is_the_same_for_ever() {
    let hashes = PROFILES.map(|profile| hash(&ledger(profile, 1_000_000, 42).0));
    assert_eq!(
        hashes,
        [
            "56fbe9e13cf2463c7bf0297800c1d86cf31349b6ba09a5666353cbf0b80bdd44",
            "5bc4e21e67b8fc65097f394e88a38e94aa689569773ba96b35459e37fb253bdc",
            "d8a974053d6d5c2c22c73e8290641a3042252706c166a36b5a387c2356317fd6",
        ]
    );
}

#[test]
fn fold_heavy_lines_are_the_same_for_ever() {
    let options =
        FoldHeavy { turns: 2_000, message_stamps: 500, range_stamps: 40, ranges_per_turn: 10, seed: 42 };
    let mut bytes = Vec::new();
    options.write_interleaved(&mut bytes).unwrap();
    assert_eq!(hash(&bytes), "7be82eb1d2232a1a4904a1679a5d639eb4b77fba8ccac8eacd1f1ab0baae5150");
}

#[test]
fn another_seed_gives_another_ledger() {
    assert_ne!(ledger(Profile::Mixed, 10_000, 1).0, ledger(Profile::Mixed, 10_000, 2).0);
}

#[test]
fn a_ledger_ends_with_the_line_that_reaches_its_size_and_is_a_prefix_of_a_larger_one() {
    for profile in PROFILES {
        let (large, _) = ledger(profile, 400_000, 3);
        for size in [1, 2, 700, 3_000, 262_144, 399_000] {
            let (small, summary) = ledger(profile, size, 3);
            assert!(large.starts_with(&small));
            assert!(small.ends_with(b"\n") && small.len() as u64 >= size);
            let last_line = lines(&small).last().unwrap().len() as u64 + 1;
            assert!(small.len() as u64 - last_line < size, "{profile:?} {size}");
            assert_eq!(summary.lines, lines(&small).count() as u64);
        }
        assert_eq!(ledger(profile, 0, 3), (Vec::new(), ledger(profile, 0, 3).1));
    }
}

#[test]
fn progress_rises_to_the_whole_size() {
    let mut calls = Vec::new();
    let options = GenerateOptions { size_bytes: 1_500_000, seed: 0, profile: Profile::Mixed };
    let summary = generate(&options, &mut io::sink(), |bytes| calls.push(bytes)).unwrap();
    assert!(calls.len() >= 5 && calls.is_sorted() && calls.last() == Some(&summary.bytes), "{calls:?}");
}

fn string<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or_else(|| panic!("{key} in {record}"))
}

/// What the specification requires of a line of each kind.
fn require(line: &Value) {
    assert_eq!(line["v"], 1);
    let record = &line["record"];
    if line["kind"] == "stamp" {
        string(line, "ts");
        let selector = line["selector"].as_object().unwrap();
        assert!(!selector.is_empty());
        assert!(line["enrichment"].as_object().unwrap().values().all(Value::is_string));
        return;
    }
    let strings: &[&str] = match string(line, "kind") {
        "turn" => {
            for field in ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"] {
                assert!(record["usage"][field].is_u64());
            }
            assert!(record["turnIndex"].is_u64());
            record["toolCalls"].as_array().unwrap().iter().for_each(|call| _ = string(call, "name"));
            &["messageId", "ts", "model"]
        }
        "user_turn" => {
            for block in record["blocks"].as_array().unwrap() {
                assert!(
                    block["byteLen"].is_u64() && block["approxTokens"].is_u64() && block["kind"].is_string()
                );
            }
            &["userUuid", "ts"]
        }
        "tool_result_event" => {
            assert!(record["eventIndex"].is_u64());
            &["toolUseId", "status", "eventSource"]
        }
        "relationship" => &["relationshipType"],
        "compaction" => &["ts"],
        other => panic!("kind {other}"),
    };
    strings.iter().chain(&["source", "sessionId"]).for_each(|key| _ = string(record, key));
}

/// What one pass over 20 MB of mixed lines finds.
#[derive(Default)]
struct Census {
    turns: HashMap<String, u64>,
    calls: [u64; 7],
    session_turns: HashMap<String, u64>,
    session_stamps: u64,
    message_stamps: u64,
    range_stamps: u64,
    strings: u64,
    escaped_strings: u64,
    /// Sessions that wrote both before and after another one's turn, at most at once.
    most_open: usize,
}

fn census(bytes: &[u8]) -> Census {
    let mut census = Census::default();
    let mut session_places: HashMap<String, (usize, usize)> = HashMap::new();
    for (place, line) in lines(bytes).enumerate() {
        let value: Value = serde_json::from_slice(line).unwrap();
        require(&value);
        let record = &value["record"];
        if value["kind"] == "turn" {
            let session = string(record, "sessionId").to_owned();
            session_places.entry(session.clone()).or_insert((place, place)).1 = place;
            let calls = record["toolCalls"].as_array().unwrap();
            let copies = census.turns.entry(string(record, "messageId").to_owned()).or_default();
            *copies += 1;
            if *copies == 1 {
                *census.session_turns.entry(session).or_default() += 1;
            }
            census.calls[calls.len()] += 1;
            for call in calls {
                let target = string(call, "target");
                let escapes = target.contains(['"', '\\', '\u{8}', '\u{7}']);
                assert_eq!(escapes, !target.is_ascii());
                census.strings += 1;
                census.escaped_strings += u64::from(escapes);
            }
        } else if value["kind"] == "stamp" {
            let selector = value["selector"].as_object().unwrap();
            if selector.contains_key("range") {
                census.range_stamps += 1;
            } else if selector.contains_key("messageId") {
                census.message_stamps += 1;
            } else {
                census.session_stamps += 1;
            }
        }
    }
    let mut edges: Vec<(usize, i32)> =
        session_places.values().flat_map(|&(first, last)| [(first, 1), (last + 1, -1)]).collect();
    edges.sort_unstable();
    let mut open = 0;
    for (_, step) in edges {
        open += step;
        census.most_open = census.most_open.max(open as usize);
    }
    census
}

fn assert_near(what: &str, found: f64, wanted: f64, tolerance: f64) {
    assert!((found - wanted).abs() <= tolerance, "{what}: {found}, not {wanted} within {tolerance}");
}

#[test]
fn mixed_lines_are_whole_records_in_the_promised_shares() {
    let (bytes, summary) = ledger(Profile::Mixed, 20_000_000, 1);
    let percent = |totals: KindTotals| totals.bytes as f64 * 100.0 / summary.bytes as f64;
    let mean = |totals: KindTotals| totals.bytes as f64 / totals.lines as f64;
    assert_near("turns, % of bytes", percent(summary.turns), 60.0, 2.0);
    assert_near("tool result events, % of bytes", percent(summary.tool_result_events), 16.0, 1.5);
    assert_near("user turns, % of bytes", percent(summary.user_turns), 22.0, 1.5);
    assert_near("bytes a turn", mean(summary.turns), 1_030.0, 40.0);
    assert_near("bytes an event", mean(summary.tool_result_events), 398.0, 15.0);
    assert_near("bytes a user turn", mean(summary.user_turns), 420.0, 15.0);
    assert_eq!(summary.odd, KindTotals::default());

    let census = census(&bytes);
    let turns = census.turns.len() as f64;
    let call_count: u64 = census.calls.iter().zip(0..).map(|(turns, calls)| turns * calls).sum();
    assert_near("calls a turn", call_count as f64 / turns, 0.77, 0.03);
    assert!(census.calls.iter().all(|&turns| turns > 0));
    assert_near("turns a session", turns / census.session_turns.len() as f64, 60.0, 6.0);
    assert_eq!(census.most_open, 4);
    let twice = census.turns.values().filter(|&&copies| copies == 2).count() as f64;
    assert_near("turns written twice", twice / turns, 0.01, 0.003);
    assert_near("session stamps a turn", census.session_stamps as f64 / turns, 0.01, 0.003);
    assert_near("strings with escapes", census.escaped_strings as f64 / census.strings as f64, 0.02, 0.004);
    assert_eq!((census.message_stamps, census.range_stamps), (0, 0));
    assert_eq!(summary.relationships.lines, census.session_turns.len() as u64);
    assert!(summary.compactions.lines > 0);
}

#[test]
fn a_turn_that_is_written_twice_gains_output_and_tool_calls() {
    let (bytes, _) = ledger(Profile::Mixed, 5_000_000, 1);
    let mut earlier: Option<Value> = None;
    let mut pairs = 0;
    for line in lines(&bytes) {
        let value: Value = serde_json::from_slice(line).unwrap();
        let same = |earlier: &Value| {
            value["kind"] == "turn"
                && earlier["record"]["messageId"] == value["record"]["messageId"]
                && earlier["record"]["sessionId"] == value["record"]["sessionId"]
        };
        if let Some(earlier) = earlier.filter(same) {
            pairs += 1;
            let output = |line: &Value| line["record"]["usage"]["output"].as_u64().unwrap();
            assert!(output(&earlier) < output(&value));
            assert_eq!(earlier["record"]["toolCalls"], Value::Array(vec![]));
        }
        earlier = (value["kind"] == "turn").then_some(value);
    }
    assert!(pairs > 10);
}

#[test]
fn a_message_stamp_stands_at_every_fifty_thousandth_turn() {
    struct Last(Vec<u8>, u64);
    impl Write for Last {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += memchr::memmem::find_iter(bytes, br#""selector":{"messageId":"#).count() as u64;
            self.0.clear();
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut out = Last(Vec::new(), 0);
    let options = GenerateOptions { size_bytes: 180_000_000, seed: 1, profile: Profile::Mixed };
    let summary = generate(&options, &mut out, |_| {}).unwrap();
    assert!((100_000..149_000).contains(&summary.turns.lines));
    assert_eq!(out.1, 2);
}

#[test]
fn stamps_is_mixed_with_stamps_between() {
    let (bytes, _) = ledger(Profile::Stamps, 20_000_000, 1);
    let census = census(&bytes);
    let turns = census.turns.len() as f64;
    assert_near("session stamps a turn", census.session_stamps as f64 / turns, 2.01, 0.01);
    assert_near("message stamps a turn", census.message_stamps as f64 / turns, 0.2, 0.02);
    assert_near("range stamps a turn", census.range_stamps as f64 / turns, 0.5, 0.02);

    let is_stamp = |line: &&[u8]| line.starts_with(br#"{"v":1,"kind":"stamp""#);
    let (mixed, _) = ledger(Profile::Mixed, 20_000_000, 1);
    let shared: Vec<&[u8]> = lines(&bytes).filter(|line| !is_stamp(line)).collect();
    let of_mixed: Vec<&[u8]> = lines(&mixed).filter(|line| !is_stamp(line)).take(shared.len()).collect();
    assert!(shared == of_mixed);
}

#[test]
fn adversarial_has_every_odd_kind_in_its_share() {
    let (bytes, summary) = ledger(Profile::Adversarial, 20_000_000, 1);
    for (kind, &count) in ODD_KINDS.iter().zip(&summary.odd_lines) {
        if kind.name == "line_1_mib" {
            assert_eq!(count, 1);
        } else {
            assert!(count * 1000 >= summary.lines, "{}: {count} of {}", kind.name, summary.lines);
        }
    }
    assert_near("odd lines a turn", summary.odd.lines as f64 / summary.turns.lines as f64, 0.5, 0.02);

    let count = |wanted: &dyn Fn(&[u8]) -> bool| lines(&bytes).filter(|line| wanted(line)).count() as u64;
    let of_kind =
        |name: &str| summary.odd_lines[ODD_KINDS.iter().position(|kind| kind.name == name).unwrap()];
    assert_eq!(count(&|line| (70_000..80_000).contains(&line.len())), of_kind("line_70_kb"));
    assert_eq!(count(&|line| line.len() >= 1 << 20), 1);
    assert_eq!(count(&|line| line.ends_with(b"\r")), of_kind("crlf"));
    let not_utf8 = of_kind("invalid_utf8_in_string") + of_kind("invalid_utf8_trunc");
    assert_eq!(count(&|line| std::str::from_utf8(line).is_err()), not_utf8);
    assert_eq!(count(&|line| line.trim_ascii().is_empty()), summary.odd_lines_with(OddVerdict::Blank));
}

#[test]
fn five_megabytes_of_adversarial_hold_every_odd_kind_and_one_megabyte_no_line_of_a_mebibyte() {
    let (_, summary) = ledger(Profile::Adversarial, 5_000_000, 9);
    assert!(summary.odd_lines.iter().all(|&count| count > 0));
    assert_eq!(summary.odd_lines.last(), Some(&1));
    let (_, summary) = ledger(Profile::Adversarial, 1_000_000, 9);
    assert_eq!(summary.odd_lines.last(), Some(&0));
    assert!(summary.bytes < 1_070_100);
}

#[test]
fn odd_lines_of_one_kind_have_keys_of_their_own() {
    let (bytes, summary) = ledger(Profile::Adversarial, 5_000_000, 4);
    let mut keys = HashSet::new();
    let mut odd_turns = 0;
    for line in lines(&bytes) {
        let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
        let record = &value["record"];
        if let Some(id) = record["messageId"].as_str().filter(|id| id.starts_with("odd_")) {
            odd_turns += 1;
            assert!(keys.insert((record["sessionId"].to_string(), id.to_owned())));
        }
    }
    assert!(odd_turns > 500 && odd_turns < summary.odd.lines);
}

/// A line as JSON, made as serde_json wants it: white space stripped, broken UTF-8 replaced. `None` is no JSON.
fn parsed(line: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(line);
    serde_json::from_str(text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')).ok()
}

#[test]
fn odd_lines_deserve_their_verdicts() {
    /// JSON that serde_json refuses.
    const BEYOND_SERDE_JSON: [&str; 3] = ["lone_high_surrogate", "unknown_deep", "turnIndex_1e400"];
    let (bytes, summary) = ledger(Profile::Adversarial, 5_000_000, 4);
    let mut unknown = 0;
    let mut unparsed = 0;
    for line in lines(&bytes).filter(|line| !line.trim_ascii().is_empty()) {
        match parsed(line) {
            None => unparsed += 1,
            Some(value) => {
                const KINDS: [&str; 6] =
                    ["turn", "stamp", "compaction", "relationship", "tool_result_event", "user_turn"];
                let known = value["v"].as_f64() == Some(1.0)
                    && value["kind"].as_str().is_some_and(|kind| KINDS.contains(&kind));
                unknown += u64::from(!known);
            }
        }
    }
    let beyond: u64 = ODD_KINDS
        .iter()
        .zip(&summary.odd_lines)
        .filter(|(kind, _)| BEYOND_SERDE_JSON.contains(&kind.name))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(unparsed, summary.odd_lines_with(OddVerdict::Malformed) + beyond);
    assert_eq!(unknown, summary.odd_lines_with(OddVerdict::Unknown));
}

#[test]
fn odd_kinds_are_the_golden_ones_with_the_golden_verdicts() {
    let golden = std::env::var("BURN_GOLDEN").unwrap_or_else(|_| "../shared/golden".to_owned());
    let Ok(cases) = fs::read_to_string(Path::new(&golden).join("lines.jsonl")) else {
        eprintln!("skipped: no lines.jsonl in {golden}; BURN_GOLDEN names the folder");
        return;
    };
    let ours: BTreeMap<&str, OddVerdict> = ODD_KINDS.iter().map(|kind| (kind.name, kind.verdict)).collect();
    assert_eq!(ours.len(), ODD_KINDS.len());
    let mut names = BTreeSet::from(["line_70_kb".to_owned(), "line_1_mib".to_owned()]);
    // One case's row holds a bare Infinity, which only JavaScript's other parsers read.
    let cases = cases.replace(": Infinity", ": null");
    for case in cases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let name = string(&case, "name");
        let expected: &[OddVerdict] = match (string(&case, "verdict"), &case["lenient"]) {
            ("accepted", Value::Bool(true)) => &[OddVerdict::Lenient],
            ("accepted", _) => &[OddVerdict::Accepted, OddVerdict::Blank, OddVerdict::Unknown],
            ("malformed", _) => &[OddVerdict::Malformed],
            ("rejected", _) => &[OddVerdict::Rejected],
            (other, _) => panic!("verdict {other}"),
        };
        assert!(
            ours.get(name).is_some_and(|verdict| expected.contains(verdict)),
            "{name}: {:?}",
            ours.get(name)
        );
        names.insert(name.to_owned());
    }
    assert!(names.iter().eq(ours.keys()));
}

#[test]
fn fold_heavy_stamps_fold_to_the_same_turns_wherever_they_stand() {
    let options =
        FoldHeavy { turns: 3_000, message_stamps: 700, range_stamps: 60, ranges_per_turn: 15, seed: 5 };
    let (mut turns, mut stamps, mut interleaved) = (Vec::new(), Vec::new(), Vec::new());
    options.write_turns(&mut turns).unwrap();
    options.write_stamps(&mut stamps).unwrap();
    options.write_interleaved(&mut interleaved).unwrap();

    let is_stamp = |line: &&[u8]| line.starts_with(br#"{"v":1,"kind":"stamp""#);
    let stamps_between: Vec<&[u8]> = lines(&interleaved).filter(is_stamp).collect();
    let turns_between: Vec<&[u8]> = lines(&interleaved).filter(|line| !is_stamp(line)).collect();
    assert!(lines(&stamps).eq(stamps_between.iter().copied()));
    assert!(lines(&turns).eq(turns_between.iter().copied()));
    let first_half = lines(&interleaved).take(1_880).filter(is_stamp).count();
    assert!((370..390).contains(&first_half), "{first_half}");

    let turns: Vec<Value> = lines(&turns).map(|line| serde_json::from_slice(line).unwrap()).collect();
    let stamps: Vec<Value> = lines(&stamps).map(|line| serde_json::from_slice(line).unwrap()).collect();
    turns.iter().chain(&stamps).for_each(require);
    let messages: HashSet<&str> = turns.iter().map(|turn| string(&turn["record"], "messageId")).collect();
    assert_eq!(messages.len(), 3_000);
    let mut keys = BTreeSet::new();
    let mut ranges = Vec::new();
    for stamp in &stamps {
        let enrichment = stamp["enrichment"].as_object().unwrap();
        assert!((3..=6).contains(&enrichment.len()));
        keys.extend(enrichment.keys().cloned());
        let selector = &stamp["selector"];
        match selector["messageId"].as_str() {
            Some(message) => assert!(messages.contains(message)),
            None => ranges.push((string(&selector["range"], "fromTs"), string(&selector["range"], "toTs"))),
        }
    }
    assert_eq!((stamps.len(), ranges.len(), keys.len()), (760, 60, 20));
    for turn in &turns {
        let ts = string(&turn["record"], "ts");
        let covered = ranges.iter().filter(|(from, to)| (*from..=*to).contains(&ts)).count();
        assert!((14..=16).contains(&covered), "{ts}: {covered}");
    }
}

#[test]
fn a_file_is_its_owners_alone_and_holds_the_same_bytes_as_a_sink() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let options = GenerateOptions { size_bytes: 600_000, seed: 8, profile: Profile::Mixed };
    let summary = generate_file(&path, &options, false, |_| {}).unwrap();
    assert_eq!((fs::read(&path).unwrap(), summary), ledger(Profile::Mixed, 600_000, 8));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }
}

#[test]
fn a_file_that_exists_is_replaced_only_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    fs::write(&path, "precious\n").unwrap();
    let options = GenerateOptions { size_bytes: 1_000, seed: 8, profile: Profile::Mixed };
    let refusal = generate_file(&path, &options, false, |_| {}).unwrap_err();
    assert!(matches!(refusal, DevError::Exists { .. }), "{refusal}");
    assert_eq!(fs::read(&path).unwrap(), b"precious\n");
    generate_file(&path, &options, true, |_| {}).unwrap();
    assert!(fs::read(&path).unwrap().len() >= 1_000);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let options = GenerateOptions { size_bytes: 1_000, seed: 8, profile: Profile::Mixed };
    let outcome = generate_file(&path, &options, false, |_| fs::write(&path, "precious\n").unwrap());
    assert!(matches!(outcome, Err(DevError::Exists { .. })), "{outcome:?}");
    assert_eq!(fs::read(&path).unwrap(), b"precious\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn directories_and_links_are_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let options = GenerateOptions { size_bytes: 1_000, seed: 8, profile: Profile::Mixed };
    let refusal = generate_file(directory.path(), &options, true, |_| {}).unwrap_err();
    assert!(matches!(refusal, DevError::NotARegularFile { .. }), "{refusal}");
    #[cfg(unix)]
    {
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        let refusal = generate_file(&link, &options, true, |_| {}).unwrap_err();
        assert!(matches!(refusal, DevError::NotARegularFile { .. }), "{refusal}");
    }
    let nowhere = directory.path().join("no").join("ledger.jsonl");
    let refusal = generate_file(&nowhere, &options, false, |_| {}).unwrap_err();
    assert!(matches!(refusal, DevError::Io { action: "create", .. }), "{refusal}");
}

#[test]
fn an_error_of_the_sink_comes_back_and_what_it_took_is_a_prefix() {
    struct Full(Vec<u8>);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = 300_000 - self.0.len();
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(room);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut out = Full(Vec::new());
    let options = GenerateOptions { size_bytes: 600_000, seed: 8, profile: Profile::Stamps };
    let error = generate(&options, &mut out, |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(ledger(Profile::Stamps, 600_000, 8).0.starts_with(&out.0));
}

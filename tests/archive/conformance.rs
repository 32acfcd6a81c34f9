//! Compares archives with those of the TypeScript package: every ledger, every odd line, every setting that must not
//! matter.
//!
//! The cases are in `fixtures/`. If the folder with all reference data is found (see `common`), its cases run as well.
#![cfg(unix)]

use crate::common;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::archives::{Place, count, variants};
use crate::common::dump::{self, Dump, Value};
use crate::common::{fixture, golden, in_parallel, ledgers, processes};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use relayburn_ledger::archive::{self, BuildResult, Options, Restart, Unobserved, rebuild_full};
use relayburn_ledger::dev::{self, GenerateOptions, ODD_KINDS, Profile, generate};
use relayburn_ledger::record::rows::{UnarchivedLine, Verdict};
use serde_json::json;

/// The time written into archives here, and as they hold it.
const NOW_MS: u64 = 1_781_222_400_123;
const NOW_TEXT: &str = "2026-06-12T00:00:00.123Z";

fn at_now(options: &Options) -> Options {
    let mut options = options.clone();
    options.now = Some(UNIX_EPOCH + Duration::from_millis(NOW_MS));
    options
}

/// A ledger, and the archive that the reference made of it in one or several builds.
struct Case {
    name: String,
    folder: PathBuf,
    ledger: Vec<u8>,
    full: bool,
    builds: Vec<serde_json::Value>,
    rejected: Vec<serde_json::Value>,
    expected: Dump,
}

impl Case {
    fn read(folder: PathBuf) -> Case {
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let case = dump::parse_json(&text("case.json"));
        let rows: Vec<_> = text("dump.jsonl").lines().map(dump::parse_json).collect();
        Case {
            name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
            ledger: fs::read(folder.join("ledger.jsonl")).unwrap(),
            full: case["mode"] == "full",
            builds: case["builds"].as_array().unwrap().clone(),
            rejected: case["rejected"].as_array().cloned().unwrap_or_default(),
            expected: dump::parse(&rows),
            folder,
        }
    }

    /// A file that only some cases have.
    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|path| path.exists())
    }

    /// Adapts the reference's rows. Our cursor is after the last line end, the reference's cursor after the last line
    /// that parsed.
    fn expected(&self) -> Dump {
        let mut expected = self.expected.clone();
        let cursor = expected.get_mut("archive_state").unwrap()[0].get_mut("ledger_offset_bytes").unwrap();
        let ours = Value::Int(ledgers::last_line_end(&self.ledger) as i64);
        let (Value::Int(theirs), Value::Int(end)) = (&*cursor, &ours) else {
            panic!("no cursor: {cursor:?}")
        };
        assert!(theirs <= end, "{}: the reference read an unfinished line", self.name);
        *cursor = ours;
        expected
    }
}

/// Every case, the cases of `fixtures/` first. A case that is in both places, byte for byte, comes once.
fn cases() -> Vec<Case> {
    let all_in = |folder: PathBuf| -> Vec<Case> {
        let folders = common::names(&folder).into_iter().map(|name| folder.join(name));
        folders.filter(|folder| folder.is_dir()).map(Case::read).collect()
    };
    let mut cases = all_in(fixture("archive"));
    assert!(cases.len() >= 16, "fixtures are missing");
    if let Some(golden) = golden() {
        let (mut all, mut known) = (0, 0);
        for case in all_in(golden.join("archive")) {
            all += 1;
            if cases.iter().any(|fixture| is_same_folder(&fixture.folder, &case.folder)) {
                known += 1;
            } else {
                cases.push(case);
            }
        }
        println!("{all} archives in {}, {known} of them are fixtures", golden.display());
    }
    println!("{} archives in all", cases.len());
    cases
}

fn is_same_folder(one: &Path, other: &Path) -> bool {
    let names = common::names(one);
    names == common::names(other)
        && names.iter().all(|name| fs::read(one.join(name)).unwrap() == fs::read(other.join(name)).unwrap())
}

/// Runs the builds of a case in `place`, compares each result with the reference's and returns all findings.
fn run(
    case: &Case,
    place: &Place,
    build: impl Fn(bool) -> (serde_json::Value, Vec<UnarchivedLine>),
) -> Vec<UnarchivedLine> {
    let reasons =
        [Restart::OtherVersion, Restart::LedgerShrank, Restart::CursorInsideLine, Restart::LedgerRewritten]
            .map(|reason| reason.to_string());
    let mut all_findings = Vec::new();
    let mut cursor = match case.file("prior.sqlite") {
        Some(prior) => {
            fs::copy(prior, place.archive()).unwrap();
            archive::status(&place.paths).unwrap().ledger_offset_bytes as u64
        }
        None => 0,
    };
    for (number, expected) in case.builds.iter().enumerate() {
        let what = format!("{}, build {number}", case.name);
        let ledger = &case.ledger[..expected["ledger_bytes"].as_u64().unwrap() as usize];
        fs::write(&place.paths.ledger, ledger).unwrap();
        let before = place.archive().exists().then(|| dump::by_key(place.archive()));
        let (result, findings) = build(case.full);
        let restarted = result["restarted"].as_str();
        assert!(
            restarted.is_none_or(|why| reasons.iter().any(|known| known == why)),
            "{what}: {restarted:?}"
        );
        // Unlike the reference, a build keeps a copy of an archive whose ledger lost lines.
        for kept in place.names().iter().filter(|name| name.starts_with("archive.sqlite.set-aside-")) {
            let kept = place.directory().join(kept);
            assert!(restarted.is_some(), "{what}: kept without a reason");
            dump::assert_same(&dump::by_key(&kept), before.as_ref().unwrap(), format!("{what}, kept"));
            fs::remove_file(kept).unwrap();
        }

        let mut compared = result.clone();
        let known = expected["result"].as_object().unwrap();
        compared
            .as_object_mut()
            .unwrap()
            .retain(|name, _| known.contains_key(name) && name != "scannedBytes");
        let mut others = expected["result"].clone();
        others.as_object_mut().unwrap().remove("scannedBytes");
        assert_eq!(compared, others, "{what}");

        // Our number is the distance of the cursor. The reference's number leaves out every blank, malformed or
        // rejected line.
        let start = if case.full || restarted.is_some() { 0 } else { cursor };
        cursor = ledgers::last_line_end(ledger) as u64;
        assert_eq!(result["scannedBytes"], cursor - start, "{what}: scannedBytes");
        let found: BTreeSet<u64> = findings.iter().map(|finding| finding.offset).collect();
        let left_out: u64 = ledgers::lines(ledger)
            .filter(|(offset, line)| *offset >= start && (ledgers::is_blank(line) || found.contains(offset)))
            .map(|(_, line)| line.len() as u64 + 1)
            .sum();
        assert_eq!(
            expected["result"]["scannedBytes"],
            json!(cursor - start - left_out),
            "{what}: scannedBytes"
        );

        assert_eq!(result["malformedLines"], count(&findings, Verdict::Malformed), "{what}");
        assert_eq!(result["rejectedLines"], count(&findings, Verdict::Rejected), "{what}");
        all_findings.extend(findings);
    }
    all_findings
}

fn check_rows(case: &Case, place: &Place, findings: &[UnarchivedLine], what: &str) {
    dump::assert_same(&dump::by_key(place.archive()), &case.expected(), what);
    let rejected: Vec<_> = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Rejected)
        // The reference includes the LF.
        .map(|finding| json!({"offset": finding.offset, "length": finding.length}))
        .collect();
    assert_eq!(rejected, case.rejected, "{what}");
    if let Some(reference) = case.file("archive.sqlite") {
        let (mut ours, mut theirs) = (dump::by_rowid(place.archive()), dump::by_rowid(&reference));
        ours.remove("archive_state");
        theirs.remove("archive_state");
        dump::assert_same(&ours, &theirs, format!("{what}, by rowid"));
        if case.file("prior.sqlite").is_none() {
            let (ours, theirs) = (dump::schema_of(place.archive()), dump::schema_of(&reference));
            assert!(ours.keys().eq(theirs.keys()), "{what}: other tables or indexes: {:?}", ours.keys());
            for (name, sql) in theirs {
                assert_eq!(ours[&name], sql, "{what}");
            }
        }
    }
    assert_eq!(place.names(), ["archive.sqlite", "ledger.jsonl"], "{what}");
}

fn check_clock(case: &Case, place: &Place, what: &str) {
    let status = archive::status(&place.paths).unwrap();
    assert!(status.up_to_date, "{what}");
    assert_eq!(status.last_built_at.as_deref(), Some(NOW_TEXT), "{what}");
    if case.file("prior.sqlite").is_none() {
        assert_eq!(status.last_rebuild_at.as_deref(), case.full.then_some(NOW_TEXT), "{what}");
    }
    let changed = fs::metadata(&place.paths.ledger).unwrap().modified().unwrap();
    let changed_ms = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
    assert_eq!(status.ledger_mtime_ms, changed_ms, "{what}");
}

#[test]
fn every_archive_of_the_reference_comes_out_the_same() {
    let cases = cases();
    let runs: Vec<(&Case, Options)> = cases
        .iter()
        .flat_map(|case| variants().into_iter().map(move |options| (case, at_now(&options))))
        .collect();
    in_parallel(&runs, |(case, options)| {
        let what = format!("{} with {options:?}", case.name);
        let place = Place::new();
        let findings = run(case, &place, |full| {
            let (result, findings) = if full { place.full(options) } else { place.tail(options) };
            (serde_json::to_value(result).unwrap(), findings)
        });
        check_rows(case, &place, &findings, &what);
        check_clock(case, &place, &what);
    });
    println!("{} builds of cases", runs.len());
}

/// A tail build of a missing archive, and a full rebuild over the finished one, end in the same rows.
#[test]
fn the_way_to_an_archive_does_not_show() {
    in_parallel(&cases(), |case| {
        if case.file("prior.sqlite").is_some() {
            return;
        }
        let place = Place::with_ledger(&case.ledger);
        let (result, findings) = place.tail(&Options::default());
        assert!(!result.rebuilt_from_zero && result.restarted.is_none(), "{}", case.name);
        check_rows(case, &place, &findings, &format!("{}, a tail build", case.name));
        let (result, findings) = place.full(&Options::default());
        assert!(result.rebuilt_from_zero);
        check_rows(case, &place, &findings, &format!("{}, a rebuild over it", case.name));
    });
}

#[test]
fn the_command_line_builds_the_same_archives() {
    in_parallel(&cases(), |case| {
        let place = Place::new();
        let findings = run(case, &place, |full| {
            let report = place.directory().join("report");
            let mut command = processes::rebuild(place.directory(), &["--json", "--report"]);
            command.arg(&report).args(full.then_some("--full"));
            let result = processes::success(&command.output().unwrap());
            let findings = fs::read_to_string(&report).unwrap().lines().map(parse_finding).collect();
            fs::remove_file(report).unwrap();
            (result, findings)
        });
        check_rows(case, &place, &findings, &case.name);
    });
}

fn parse_finding(line: &str) -> UnarchivedLine {
    let finding: serde_json::Value = serde_json::from_str(line).unwrap();
    UnarchivedLine {
        offset: finding["offset"].as_u64().unwrap(),
        length: finding["length"].as_u64().unwrap(),
        verdict: match finding["verdict"].as_str().unwrap() {
            "malformed" => Verdict::Malformed,
            "rejected" => Verdict::Rejected,
            other => panic!("no such verdict: {other}"),
        },
        reason: finding["reason"].as_str().unwrap().to_owned(),
    }
}

/// A small ledger with one odd line among good lines.
struct OddLine {
    name: String,
    ledger: Vec<u8>,
    verdict: String,
    lenient: bool,
    exact_integer: bool,
    rows: Option<Dump>,
}

fn odd_lines() -> Vec<OddLine> {
    let text = fs::read_to_string(fixture("lines.jsonl")).unwrap();
    if let Some(golden) = golden() {
        let known = fs::read_to_string(golden.join("lines.jsonl")).unwrap() == text;
        assert!(known, "fixtures/lines.jsonl is not the one of {}; copy it anew", golden.display());
        println!("the lines of {} are the fixtures", golden.display());
    }
    let cases: Vec<OddLine> = text.lines().map(parse_odd_line).collect();
    println!("{} odd lines", cases.len());
    assert!(cases.len() >= 134);
    cases
}

fn parse_odd_line(line: &str) -> OddLine {
    let case = dump::parse_json(line);
    let is = |name: &str| case[name].as_bool().unwrap_or_default();
    OddLine {
        name: case["name"].as_str().unwrap().to_owned(),
        ledger: BASE64_STANDARD.decode(case["ledger_b64"].as_str().unwrap()).unwrap(),
        verdict: case["verdict"].as_str().unwrap().to_owned(),
        lenient: is("lenient"),
        exact_integer: is("exact_integer"),
        rows: case["rows"].as_array().map(dump::parse),
    }
}

/// An allowed outcome of an odd line: its rows, and its report.
struct Outcome {
    rows: Dump,
    verdict: Option<Verdict>,
}

/// The outcomes that a case allows. `plain` and `broken` are the cases with these names: a good turn, and no turn.
fn outcomes(case: &OddLine, plain: &OddLine, broken: &OddLine) -> (u64, Vec<Outcome>) {
    let good: Vec<&[u8]> = ledgers::lines(&plain.ledger).map(|(_, line)| line).collect();
    let odd = ledgers::lines(&case.ledger).find(|(_, line)| !good.contains(line));
    let (offset, line) = odd.unwrap_or((0, good[0]));

    // Without the odd line: the rows of the good lines.
    let has_middle = ledgers::lines(&case.ledger).any(|(_, line)| line == good[1]);
    let others = if has_middle { &plain.rows } else { &broken.rows }.clone().unwrap();
    let stored = || {
        let mut rows = case.rows.clone().unwrap();
        if case.exact_integer {
            let record: serde_json::Value = serde_json::from_slice(line).unwrap();
            let exact = Value::Int(record["record"]["turnIndex"].as_i64().unwrap());
            let turn = rows.get_mut("turns").unwrap().iter_mut();
            let middle = Value::Text("s".to_owned());
            *turn
                .into_iter()
                .find(|row| row["session_id"] == middle)
                .unwrap()
                .get_mut("turn_index")
                .unwrap() = exact;
        }
        rows
    };
    let outcomes = match case.verdict.as_str() {
        "malformed" => vec![Outcome { rows: stored(), verdict: Some(Verdict::Malformed) }],
        "rejected" => vec![Outcome { rows: others, verdict: Some(Verdict::Rejected) }],
        "accepted" if case.lenient => vec![
            Outcome { rows: stored(), verdict: None },
            Outcome { rows: others, verdict: Some(Verdict::Rejected) },
        ],
        "accepted" => vec![Outcome { rows: stored(), verdict: None }],
        other => panic!("no such verdict: {other}"),
    };
    (offset, outcomes)
}

fn rows_of(place: &Place) -> Dump {
    let mut rows = dump::by_key(place.archive());
    rows.insert("archive_state".to_owned(), Vec::new());
    rows
}

#[test]
fn every_odd_line_is_read_as_the_reference_reads_it() {
    let cases = odd_lines();
    let named = |name: &str| cases.iter().find(|case| case.name == name).unwrap();
    let (plain, broken) = (named("plain"), named("broken"));
    in_parallel(&cases, |case| {
        let (offset, allowed) = outcomes(case, plain, broken);
        let mut answers = Vec::new();
        for options in variants() {
            let what = format!("{} with {options:?}", case.name);
            let place = Place::with_ledger(&case.ledger);
            let (result, findings) = place.full(&options);
            let verdict = findings.first().map(|finding| finding.verdict);
            let Some(outcome) = allowed.iter().find(|outcome| outcome.verdict == verdict) else {
                panic!("{what}: found {findings:?}");
            };
            dump::assert_same(&rows_of(&place), &outcome.rows, &what);
            assert!(findings.len() <= 1, "{what}: {findings:?}");
            if let Some(finding) = findings.first() {
                let line = ledgers::lines(&case.ledger).find(|(start, _)| *start == offset).unwrap().1;
                assert_eq!((finding.offset, finding.length), (offset, line.len() as u64 + 1), "{what}");
                assert!(!finding.reason.is_empty(), "{what}");
            }
            let unknown = ODD_KINDS.iter().find(|kind| kind.name == case.name).map(|kind| kind.verdict);
            assert_eq!(result.unknown_lines, u64::from(unknown == Some(dev::OddVerdict::Unknown)), "{what}");
            answers.push(findings);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{}: settings matter: {answers:?}", case.name);
    });
}

/// The odd line in a separate tail build. Its rows do not depend on the lines around it.
#[test]
fn every_odd_line_is_read_alike_in_a_tail() {
    let cases = odd_lines();
    in_parallel(&cases, |case| {
        let whole = Place::with_ledger(&case.ledger);
        let (_, findings) = whole.full(&Options::default());
        let place = Place::new();
        let mut tail_findings = Vec::new();
        for (offset, line) in ledgers::lines(&case.ledger) {
            fs::write(&place.paths.ledger, &case.ledger[..offset as usize + line.len() + 1]).unwrap();
            let (result, findings) = place.tail(&Options::default());
            assert_eq!(result.restarted, None, "{}", case.name);
            tail_findings.extend(findings);
        }
        assert_eq!(tail_findings, findings, "{}", case.name);
        dump::assert_same(&dump::by_rowid(place.archive()), &dump::by_rowid(whole.archive()), &case.name);
    });
}

/// Such archives keep their rows, need no rebuild, and continue at their cursor.
#[test]
fn archives_of_the_reference_are_opened_as_they_are() {
    let cases = cases();
    let with_archive: Vec<&Case> =
        cases.iter().filter(|case| case.file("archive.sqlite").is_some()).collect();
    assert!(with_archive.len() >= 12);
    in_parallel(&with_archive, |case| {
        let place = Place::with_ledger(&case.ledger);
        fs::copy(case.file("archive.sqlite").unwrap(), place.archive()).unwrap();
        let before = dump::by_rowid(place.archive());
        let status = archive::status(&place.paths).unwrap();
        assert!(status.exists && status.up_to_date, "{}: {status:?}", case.name);
        assert_eq!(status.row_counts.turns, before["turns"].len() as u64, "{}", case.name);

        // The second build finds the mark of the first.
        for build in 1..=2 {
            let (result, _) = place.tail(&Options::default());
            let expected = BuildResult {
                duration_ms: result.duration_ms,
                timings: result.timings,
                ..BuildResult::default()
            };
            assert_eq!(result, expected, "{}, build {build}", case.name);
            dump::assert_same(&dump::by_rowid(place.archive()), &before, &case.name);
        }

        let at = ledgers::last_line_end(&case.ledger);
        let more = ledgers::turn("one more", "one", "2026-05-01T00:00:00.000Z");
        fs::write(&place.paths.ledger, [&case.ledger[..at], more.as_bytes()].concat()).unwrap();
        assert!(!archive::status(&place.paths).unwrap().up_to_date);
        let (result, _) = place.tail(&Options::default());
        assert_eq!((result.scanned_bytes, result.turns_applied), (more.len() as u64, 1), "{}", case.name);
        assert_eq!(result.restarted, None, "{}", case.name);
        assert_eq!(dump::by_rowid(place.archive())["turns"][..before["turns"].len()], before["turns"][..]);
        dump::assert_whole(place.archive());
    });
}

#[test]
fn a_rebuilt_archive_is_the_same_bytes_whatever_the_threads_and_chunks() {
    let mut ledger = Vec::new();
    for profile in [Profile::Mixed, Profile::Stamps, Profile::Adversarial] {
        let options = GenerateOptions { size_bytes: 3_000_000, seed: 11, profile };
        generate(&options, &mut ledger, |_| {}).unwrap();
    }
    let place = Place::new();
    std::fs::write(&place.paths.ledger, &ledger).unwrap();
    let mut first: Option<Vec<u8>> = None;
    for (threads, chunk_bytes) in [(1, 1 << 20), (2, 1 << 20), (7, 1 << 16), (2, 100_000), (1, 64 << 20)] {
        let options = Options { threads, chunk_bytes, ..at_now(&Options::default()) };
        rebuild_full(&place.paths, &options, &mut Unobserved).unwrap();
        let bytes = std::fs::read(&place.paths.archive).unwrap();
        let first = first.get_or_insert_with(|| bytes.clone());
        assert!(*first == bytes, "{threads} threads, chunks of {chunk_bytes} bytes");
    }
}

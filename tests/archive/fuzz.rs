//! Random ledgers with hostile values: every way to build an archive gives the same rows. The rows and the answers of
//! queries are those of a model in Python that shares no code with the library.
//!
//! `BURN_TEST_SCALE=n` tries n times as many ledgers, and longer ledgers; `BURN_TEST_SEED` changes the ledgers. A
//! ledger that fails is shortened as long as it still fails, and kept.

mod generator;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::archives::Place;
use crate::common::dump::{self, Dump, Value};
use generator::{Generator, Random};
use relayburn_ledger::archive::{self, BuildResult, Load, Options};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use relayburn_ledger::ledger::{Filter, Ledger, Pattern, RecordKind};
use relayburn_ledger::record::rows::UnarchivedLine;
use relayburn_ledger::scan::Io;
use serde_json::json;

/// The process of the model.
struct Model {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Model {
    /// `None` without Python.
    fn start() -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/archive/fuzz/model.py");
        let mut child =
            Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let questions = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, questions, answers })
    }

    #[track_caller]
    fn ask(&mut self, question: &serde_json::Value) {
        writeln!(self.questions, "{question}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ok\n", "the model has something else for {question}");
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // The process ends when its input ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings that must not change a row.
fn options(random: &mut Random, load: Load, threads: usize) -> Options {
    Options {
        threads,
        chunk_bytes: *random.pick(&[&1, &2, &7, &100, &1000, &4096, &65_536, &(1 << 20), &(64 << 20)]),
        io: *random.pick(&[&Io::Mmap, &Io::Read]),
        load,
        memory_bytes: *random.pick(&[&1, &1000, &30_000, &(1 << 20), &(512 << 20)]),
        page_size_bytes: *random.pick(&[&4096, &8192, &16_384, &32_768]),
        ..Options::default()
    }
}

/// All results that two builds of the same lines must share.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Counts of turn, stamp, compaction and event lines; of malformed, rejected and unknown lines; of lines for the
    /// exact path; of bytes.
    counts: [u64; 9],
    findings: Vec<UnarchivedLine>,
}

impl Told {
    fn add(&mut self, (result, findings): (BuildResult, Vec<UnarchivedLine>)) {
        assert!(result.restarted.is_none(), "went back to byte 0: {:?}", result.restarted);
        let counts = [
            result.turns_applied,
            result.stamps_applied,
            result.compactions_applied,
            result.tool_result_events_applied,
            result.malformed_lines,
            result.rejected_lines,
            result.unknown_lines,
            result.exact_lines,
            result.scanned_bytes,
        ];
        self.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        self.findings.extend(findings);
    }
}

/// The result of a full rebuild with the number of sessions, which cannot be summed over tail builds.
fn full(place: &Place, options: &Options) -> (Told, u64) {
    let mut told = Told::default();
    let built = place.full(options);
    let sessions = built.0.sessions_touched;
    told.add(built);
    (told, sessions)
}

/// Builds the archive by tail builds: the ledger arrives in pieces that are cut anywhere, with a build after each
/// piece.
fn tails(random: &mut Random, place: &Place, ledger: &[u8]) -> Told {
    let mut cuts: Vec<usize> = (0..1 + random.below(4)).map(|_| random.below(ledger.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(ledger.len());
    let mut told = Told::default();
    let begins_in_bulk = random.one_in(3);
    for (number, cut) in cuts.into_iter().enumerate() {
        std::fs::write(&place.paths.ledger, &ledger[..cut]).unwrap();
        let threads = 1 + random.below(3);
        let options = options(random, Load::Insert, threads);
        told.add(if number == 0 && begins_in_bulk {
            place.full(&Options { load: Load::Bulk, ..options })
        } else {
            place.tail(&options)
        });
        if random.one_in(8) {
            archive::vacuum(&place.paths, &Interrupt::new()).unwrap();
        }
    }
    let before = told.counts;
    told.add(place.tail(&Options::default()));
    assert_eq!(told.counts, before, "a build without news");
    told
}

/// A filter with values that the archive has, and with some that it does not have.
fn filter(random: &mut Random, rows: &Dump) -> Filter {
    let value = |random: &mut Random, table: &str, column: &str, one_in: usize| {
        let rows = &rows[table];
        match rows.get(random.below(rows.len() + 1)).map(|row| &row[column]) {
            _ if !random.one_in(one_in) => None,
            Some(Value::Text(text)) => Some(text.clone()),
            _ => Some("2026-04-20T00:00:01.000Z".to_owned()),
        }
    };
    let table = *random.pick(&[&"turns", &"turns", &"tool_result_events", &"compactions"]);
    let exact = |value: Option<String>| value.map(Pattern::exact).into_iter().collect();
    let mut filter = Filter {
        since: value(random, table, "ts", 3),
        until: value(random, table, "ts", 3),
        session: exact(value(random, table, "session_id", 3)),
        source: exact(value(random, table, "source", 3)),
        project: exact(value(random, "turns", "project", 6)),
        ..Filter::default()
    };
    for (key, column) in [("workflowId", "workflow_id"), ("tier", "tier")] {
        filter
            .enrichment
            .extend(value(random, "turns", column, 6).map(|text| (key.to_owned(), Pattern::exact(text))));
    }
    if random.one_in(6) {
        filter.enrichment.push(("key-1".to_owned(), Pattern::exact("text-1")));
    }
    filter
}

/// The answers of queries: source, kind and record, one a line.
fn queries(place: &Place, filter: &Filter) -> String {
    let mut answers = String::new();
    let ledger = Ledger::new(Home::at(place.directory()));
    for kind in ["turn", "compaction", "tool_result_event", "relationship", "user_turn"] {
        let mut sink = |record: &str| {
            writeln!(answers, "ledger\t{kind}\t{record}").unwrap();
            ControlFlow::Continue(())
        };
        ledger.query(RecordKind::from_name(kind).unwrap(), filter, &mut sink).unwrap();
        let mut sink = |record: &str| {
            writeln!(answers, "archive\t{kind}\t{record}").unwrap();
            ControlFlow::Continue(())
        };
        match kind {
            "turn" => archive::query::turns(place.archive(), filter, &mut sink).unwrap(),
            "compaction" => archive::query::compactions(place.archive(), filter, &mut sink).unwrap(),
            "tool_result_event" => {
                archive::query::tool_result_events(place.archive(), filter, &mut sink).unwrap();
            }
            _ => {}
        }
    }
    answers
}

/// Builds the archive of a ledger in every way and compares.
fn check(seed: u64, ledger: &[u8], model: &mut Option<Model>) {
    let random = &mut Random(!seed);
    let bulk = Place::with_ledger(ledger);
    let told = full(&bulk, &options(random, Load::Bulk, 1));
    dump::assert_whole(bulk.archive());
    let rows = dump::by_rowid(bulk.archive());

    for (what, loader, threads) in [("bulk, 7 threads", Load::Bulk, 7), ("insert", Load::Insert, 2)] {
        let other = Place::with_ledger(ledger);
        assert_eq!(full(&other, &options(random, loader, threads)), told, "{what}");
        dump::assert_same(&dump::by_rowid(other.archive()), &rows, what);
    }
    let tail = Place::new();
    let (told, sessions) = told;
    assert_eq!(tails(random, &tail, ledger), told, "tail builds");
    dump::assert_whole(tail.archive());
    dump::assert_same(&dump::by_rowid(tail.archive()), &rows, "tail builds");

    let Some(model) = model else { return };
    let place = if random.one_in(2) { &bulk } else { &tail };
    let filter = if random.one_in(3) { Filter::default() } else { filter(random, &rows) };
    let answers = place.directory().join("answers");
    std::fs::write(&answers, queries(place, &filter)).unwrap();
    let [turn, stamp, compaction, event, malformed, rejected, unknown, ..] = told.counts;
    let only = |patterns: &[Pattern]| patterns.first().map(|pattern| pattern.as_str().to_owned());
    let enrichment: Vec<_> = filter.enrichment.iter().map(|(key, value)| (key, value.as_str())).collect();
    model.ask(&json!({
        "ledger": place.paths.ledger, "archive": place.archive(), "queries": answers,
        "counts": {"malformed": malformed, "rejected": rejected, "unknown": unknown, "turn": turn, "stamp": stamp,
            "compaction": compaction, "tool_result_event": event, "sessions": sessions},
        "filter": {"since": filter.since, "until": filter.until, "session": only(&filter.session), "source": only(&filter.source),
            "project": only(&filter.project), "enrichment": enrichment},
    }));
}

/// The failure of a ledger, if there is one.
fn failure(seed: u64, ledger: &[u8], model: &mut Option<Model>) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| check(seed, ledger, model))).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
}

/// Removes lines, many and then few, as long as the ledger still fails.
fn cut_down(seed: u64, ledger: Vec<u8>, model: &mut Option<Model>) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = ledger.split_inclusive(|byte| *byte == b'\n').collect();
    let mut step = lines.len() / 2;
    while step > 0 {
        let mut at = 0;
        while at < lines.len() {
            let mut fewer = lines.clone();
            fewer.drain(at..(at + step).min(lines.len()));
            if failure(seed, &fewer.concat(), model).is_some() {
                lines = fewer;
            } else {
                at += step;
            }
        }
        step /= 2;
    }
    lines.concat()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn every_way_to_build_an_archive_gives_what_the_model_has() {
    let scale = number("BURN_TEST_SCALE").unwrap_or(1);
    let from = number("BURN_TEST_SEED").unwrap_or(0);
    let next = AtomicU64::new(from);
    let failed = Mutex::new(None);
    if Model::start().is_none() {
        println!("no python3: builds are compared with each other alone");
    }
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut model = Model::start();
                while failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + 200 * scale {
                        break;
                    }
                    let lines_max = match seed % 100 {
                        7 if scale > 1 => 3000,
                        _ if scale > 1 => 300,
                        _ => 60,
                    };
                    let ledger = Generator::new(&mut Random(seed)).ledger(lines_max);
                    if failure(seed, &ledger, &mut model).is_some() {
                        failed.lock().unwrap().get_or_insert((seed, ledger));
                    }
                }
            });
        }
    });
    if let Some((seed, ledger)) = failed.into_inner().unwrap() {
        std::panic::set_hook(Box::new(|_| {}));
        let mut model = Model::start();
        let ledger = cut_down(seed, ledger, &mut model);
        let reason = failure(seed, &ledger, &mut model).unwrap_or_default();
        let _ = std::panic::take_hook();
        let kept: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("archive-fuzz-{seed}.jsonl"));
        std::fs::write(&kept, &ledger).unwrap();
        panic!(
            "ledger {seed} failed; run it again with BURN_TEST_SEED={seed}; cut down it is {}:\n{}\n{reason}",
            kept.display(),
            String::from_utf8_lossy(&ledger)
        );
    }
}

/// A canary: model and comparison must notice one value of another type, and one enrichment that lacks a stamp.
#[test]
fn an_archive_that_differs_in_one_value_is_noticed() {
    let ledger = br#"{"v":1,"kind":"turn","record":{"source":"a","sessionId":"b","messageId":"c","turnIndex":0,"ts":"t","model":"m","usage":{"input":1,"output":2,"reasoning":3,"cacheRead":4,"cacheCreate5m":5,"cacheCreate1h":6},"toolCalls":[],"project":"1"}}
{"v":1,"kind":"stamp","ts":"t","selector":{"sessionId":"b"},"enrichment":{"k":"v"}}
"#;
    let mut model = Model::start();
    assert_eq!(failure(0, ledger, &mut model), None);
    for change in ["project = x'31'", "output_tokens = 2.5", "enrichment_json = '{}'"] {
        let place = Place::with_ledger(ledger);
        place.full(&Options::default());
        let (answers, rows) = (place.directory().join("answers"), dump::by_rowid(place.archive()));
        let mut question = json!({
            "ledger": place.paths.ledger, "archive": place.archive(), "queries": answers,
            "counts": {"malformed": 0, "rejected": 0, "unknown": 0, "turn": 1, "stamp": 1, "compaction": 0,
                "tool_result_event": 0, "sessions": 1},
            "filter": {"since": null, "until": null, "session": null, "source": null, "project": null, "enrichment": []},
        });
        std::fs::write(&answers, queries(&place, &Filter::default())).unwrap();
        let mut ask = |question: &serde_json::Value| {
            model.as_mut().map(|model| catch_unwind(AssertUnwindSafe(|| model.ask(question))).is_ok())
        };
        assert_ne!(ask(&question), Some(false));
        place.tamper(&format!("UPDATE turns SET {change}"));
        assert_ne!(ask(&question), Some(true), "{change}");
        let compare = || dump::assert_same(&dump::by_rowid(place.archive()), &rows, "");
        assert!(catch_unwind(AssertUnwindSafe(compare)).is_err(), "{change}");
        question["counts"]["turn"] = json!(2);
        assert_ne!(ask(&question), Some(true));
    }
}

//! Checking a ledger: every line that is not as it should be, and whether the index has what the ledger has.
//!
//! Reads the ledger on all cores and `ledger.idx` after it; changes nothing. An index that disagrees is looked at again
//! under the locks `ledger` and `ledger-index`, so that an append under way is not taken for a fault.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use bumpalo::Bump;

use super::ids::{Hasher, ID_LEN_BYTES, Id};
use super::pipeline::{Work, in_order};
use super::{LedgerError, Line, line_of};
use crate::archive::fold::Fold;
use crate::archive::rows::{Cell, RowMaker, Rows, Verdict};
use crate::home::{Home, LockName};
use crate::lock::{LockError, with_lock};
use crate::scan::json::{Document, Value, trim_js, write_js_number};
use crate::scan::{self, Io, ScanError, Source};

const CHUNK_BYTES: u64 = 1 << 20;

/// Which files to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFiles {
    ledger: PathBuf,
    index: PathBuf,
    /// Locks `ledger` and `ledger-index`: of a home, whose index must exist.
    locks: Option<[PathBuf; 2]>,
}

impl CheckFiles {
    /// Ledger and index of a home.
    pub fn of_home(home: &Home) -> Self {
        Self {
            ledger: home.ledger(),
            index: home.ids_index(),
            locks: Some([home.lock(LockName::Ledger), home.lock(LockName::LedgerIndex)]),
        }
    }

    /// A ledger anywhere. Its index is the file of the same name with the extension `idx`; when there is none, only the
    /// ledger is checked.
    pub fn of_ledger(ledger: PathBuf) -> Self {
        Self { index: ledger.with_extension("idx"), ledger, locks: None }
    }
}

/// The file that a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckedFile {
    /// The ledger.
    Ledger,
    /// Its index of ids.
    Index,
}

/// What is wrong, or odd, in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    /// A line that is not JSON.
    Malformed,
    /// A line of a known kind that cannot be archived.
    Rejected,
    /// Bytes that are not UTF-8 in a line that is fine otherwise; they are read as U+FFFD.
    InvalidUtf8,
    /// The last line has no LF.
    Torn,
    /// A line of a version or kind that this program does not know: no fault.
    Unknown,
    /// The id of a line of the ledger is not in the index.
    MissingId,
    /// The index has an id that no line of the ledger has.
    ExtraId,
    /// A line of the index that is no id.
    NotAnId,
    /// There are records, and no index.
    NoIndex,
}

impl Problem {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Rejected => "rejected",
            Self::InvalidUtf8 => "not UTF-8",
            Self::Torn => "torn",
            Self::Unknown => "unknown",
            Self::MissingId => "not in the index",
            Self::ExtraId => "not in the ledger",
            Self::NotAnId => "no id",
            Self::NoIndex => "without an index",
        }
    }

    /// Whether a ledger with this is faulty; unknown lines are merely odd.
    pub fn is_fault(self) -> bool {
        self != Self::Unknown
    }
}

/// A place where something is wrong or odd.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckFinding {
    /// In which file.
    pub file: CheckedFile,
    /// Where the line starts, in bytes.
    pub offset: u64,
    /// Its length in bytes, without the LF.
    pub length: u64,
    /// What it is.
    pub problem: Problem,
    /// What exactly, for people.
    pub reason: String,
}

/// How index and ledger compare.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexCheck {
    /// The index.
    pub path: PathBuf,
    /// Whether it exists.
    pub exists: bool,
    /// Different ids in it.
    pub ids: u64,
    /// Ids of the ledger that it lacks.
    pub missing_ids: u64,
    /// Ids that the ledger does not have.
    pub extra_ids: u64,
    /// Lines that are no ids.
    pub invalid_lines: u64,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// The ledger.
    pub ledger: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whole lines that are not blank.
    pub lines: u64,
    /// Lines that are not JSON.
    pub malformed_lines: u64,
    /// Lines of a known kind that cannot be archived.
    pub rejected_lines: u64,
    /// Other lines with bytes that are not UTF-8.
    pub invalid_utf8_lines: u64,
    /// 1 when something stands behind the last LF.
    pub torn_lines: u64,
    /// Lines of an unknown version or kind.
    pub unknown_lines: u64,
    /// Them by kind; those without one, or of another version, by what they lack.
    pub unknown_kinds: BTreeMap<String, u64>,
    /// Records whose id an earlier line has.
    pub repeated_records: u64,
    /// Records older than one that stands before them and is of the same session.
    pub out_of_order_lines: u64,
    /// The index; `None` when only the ledger was checked.
    pub index: Option<IndexCheck>,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What a worker found in a chunk.
#[derive(Default)]
struct Part {
    lines: u64,
    findings: Vec<CheckFinding>,
    unknown: Vec<String>,
    ids: Vec<(Id, u64)>,
    /// Session of a record, and where its ts stands in `times_text`.
    times: Vec<(u64, Range<usize>)>,
    times_text: String,
}

impl Part {
    fn time(&mut self, source: &str, session: &str, ts: &str) {
        let start = self.times_text.len();
        self.times_text.push_str(ts);
        let session = BuildHasherDefault::<DefaultHasher>::default().hash_one((source, session));
        self.times.push((session, start..self.times_text.len()));
    }

    fn finding(&mut self, offset: u64, line: &[u8], problem: Problem, reason: String) {
        let length = line.len() as u64;
        self.findings.push(CheckFinding { file: CheckedFile::Ledger, offset, length, problem, reason });
    }
}

#[derive(Default)]
struct Checker {
    rows: RowMaker<'static>,
    document: Document,
    hasher: Hasher,
    arena: Bump,
    number: Vec<u8>,
}

impl Checker {
    fn chunk(&mut self, base: u64, bytes: &[u8]) -> Part {
        let Self { rows: maker, document, hasher, arena, number } = self;
        arena.reset();
        let nothing = Fold::default();
        let mut part = Part::default();
        let mut rows = Rows::default();
        let is_utf8 = std::str::from_utf8(bytes).is_ok();
        for (offset, line) in scan::lines(base, bytes) {
            let (unknown, other) = (rows.unknown_lines, rows.other_lines);
            maker.add(offset, line, &nothing, arena, &mut rows);
            part.lines += 1;
            let mut is_faulty = false;
            if let Some(turn) = rows.turns.pop() {
                let [source, session, message] = [0, 1, 2].map(|column| turn.cells[column].as_text());
                part.ids.push((hasher.id_of_parts(&[source, session, message]), offset));
                part.time(source, session, turn.cells[4].as_text());
                rows.calls.clear();
            } else if let Some(event) = rows.events.pop() {
                let [source, session, tool_use] = [0, 1, 3].map(|column| event[column].as_text());
                number.clear();
                match event[5] {
                    Cell::Int(index) => write_js_number(index as f64, number),
                    Cell::Real(index) => write_js_number(index, number),
                    Cell::Null | Cell::Text(_) => {}
                }
                let index = std::str::from_utf8(number).unwrap_or_default();
                part.ids.push((hasher.id_of_parts(&[source, session, tool_use, index]), offset));
                if let Cell::Text(ts) = event[13] {
                    part.time(source, session, ts);
                }
            } else if let Some(compaction) = rows.compactions.pop() {
                let [source, session, ts] = [0, 1, 2].map(|column| compaction[column].as_text());
                part.ids.push((hasher.id_of_parts(&[source, session, ts]), offset));
                part.time(source, session, ts);
            } else if rows.stamps.pop().is_some() {
            } else if rows.other_lines > other {
                other_record(&mut part, document, hasher, offset, line);
            } else if rows.unknown_lines > unknown {
                let kind = unknown_kind(document, line);
                part.finding(offset, line, Problem::Unknown, kind.clone());
                part.unknown.push(kind);
            } else if let Some(finding) = rows.findings.pop() {
                is_faulty = true;
                let problem = match finding.verdict {
                    Verdict::Malformed => Problem::Malformed,
                    Verdict::Rejected => Problem::Rejected,
                };
                part.finding(offset, line, problem, finding.reason);
                if problem == Problem::Rejected {
                    other_record(&mut part, document, hasher, offset, line);
                }
            } else {
                // Blank.
                part.lines -= 1;
            }
            if !is_utf8
                && !is_faulty
                && let Err(error) = std::str::from_utf8(line)
            {
                let reason = format!("byte {} of the line is not UTF-8", error.valid_up_to());
                part.finding(offset, line, Problem::InvalidUtf8, reason);
            }
        }
        part
    }
}

/// Id and time of a record that has no row.
fn other_record(part: &mut Part, document: &mut Document, hasher: &mut Hasher, offset: u64, line: &[u8]) {
    let Ok(root) = document.parse(trim_js(line)) else { return };
    let Line::Record(kind, record) = line_of(root) else { return };
    part.ids.push((hasher.id(kind, record), offset));
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    if let (Some(source), Some(session), Some(ts)) = (text("source"), text("sessionId"), text("ts")) {
        part.time(&source, &session, &ts);
    }
}

/// The kind of a line that is none of ours, or what it has instead.
fn unknown_kind(document: &mut Document, line: &[u8]) -> String {
    let Ok(root) = document.parse(trim_js(line)) else { return "no JSON".to_owned() };
    let version = root.get("v");
    match (version.and_then(Value::as_number).map(|version| version.as_f64()), root.get("kind")) {
        (Some(1.0), Some(kind)) => {
            kind.as_str().map_or("kind is no string".to_owned(), |kind| format!("kind {kind}"))
        }
        (Some(1.0), None) => "without a kind".to_owned(),
        (_, _) => version.map_or("without a version".to_owned(), |version| format!("version {version}")),
    }
}

/// Reads everything and tells `on_finding` of each line that is wrong or unknown, in the order of the ledger, then of the
/// index's ids.
///
/// # Errors
/// When a file cannot be read. What is wrong with the files is no error but in the report.
pub fn check(
    files: &CheckFiles,
    on_finding: &mut dyn FnMut(&CheckFinding),
) -> Result<CheckReport, LedgerError> {
    let started = std::time::Instant::now();
    let mut run = Run {
        report: CheckReport {
            ledger: files.ledger.clone(),
            bytes: 0,
            lines: 0,
            malformed_lines: 0,
            rejected_lines: 0,
            invalid_utf8_lines: 0,
            torn_lines: 0,
            unknown_lines: 0,
            unknown_kinds: BTreeMap::new(),
            repeated_records: 0,
            out_of_order_lines: 0,
            index: None,
            ok: true,
            duration_ms: 0,
        },
        ids: Vec::new(),
        latest: HashMap::default(),
        on_finding,
    };
    let source = match Source::open(&files.ledger, Io::Mmap) {
        Ok(source) => Some(source),
        // A home without a ledger has nothing wrong; a file that was named must exist.
        Err(ScanError::Open { source, .. })
            if source.kind() == io::ErrorKind::NotFound && files.locks.is_some() =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    let mut end = 0;
    if let Some(source) = &source {
        let work = Work::whole(source, CHUNK_BYTES, usize::MAX)?;
        run.scan(&work)?;
        run.report.bytes = source.len_bytes();
        end = work.range.end;
        if end < source.len_bytes() {
            run.report.torn_lines = 1;
            run.tell(CheckFinding {
                file: CheckedFile::Ledger,
                offset: end,
                length: source.len_bytes() - end,
                problem: Problem::Torn,
                reason: "the last line has no LF; the next append ends it".to_owned(),
            });
        }
    }
    run.ids.sort_unstable();
    let distinct = run.ids.chunk_by(|a, b| a.0 == b.0).count();
    run.report.repeated_records = (run.ids.len() - distinct) as u64;
    run.index(files, end)?;
    run.report.duration_ms = started.elapsed().as_millis() as u64;
    Ok(run.report)
}

struct Run<'c> {
    report: CheckReport,
    /// Of every record, with the offset of its line.
    ids: Vec<(Id, u64)>,
    /// The latest ts of each session so far.
    latest: HashMap<u64, String, BuildHasherDefault<DefaultHasher>>,
    on_finding: &'c mut dyn FnMut(&CheckFinding),
}

impl Run<'_> {
    fn tell(&mut self, finding: CheckFinding) {
        self.report.ok &= !finding.problem.is_fault();
        (self.on_finding)(&finding);
    }

    fn scan(&mut self, work: &Work<'_>) -> Result<(), LedgerError> {
        in_order(work, Checker::default, Checker::chunk, |mut part| {
            self.report.lines += part.lines;
            self.report.unknown_lines += part.unknown.len() as u64;
            for kind in part.unknown {
                *self.report.unknown_kinds.entry(kind).or_default() += 1;
            }
            self.ids.append(&mut part.ids);
            for (session, ts) in part.times {
                let ts = &part.times_text[ts];
                let latest = self.latest.entry(session).or_default();
                match ts.cmp(latest) {
                    std::cmp::Ordering::Less => self.report.out_of_order_lines += 1,
                    std::cmp::Ordering::Equal => {}
                    std::cmp::Ordering::Greater => {
                        latest.clear();
                        latest.push_str(ts);
                    }
                }
            }
            for finding in part.findings {
                match finding.problem {
                    Problem::Malformed => self.report.malformed_lines += 1,
                    Problem::Rejected => self.report.rejected_lines += 1,
                    Problem::InvalidUtf8 => self.report.invalid_utf8_lines += 1,
                    _ => {}
                }
                self.tell(finding);
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Compares the ids of the ledger, whose first `end` bytes were read, with the index.
    fn index(&mut self, files: &CheckFiles, end: u64) -> Result<(), LedgerError> {
        let mut compared = compare(&self.ids, read_index(&files.index)?);
        if let Some([ledger_lock, index_lock]) = &files.locks
            && compared.disagrees()
        {
            let again = with_lock(ledger_lock, |_| {
                with_lock(index_lock, |_| {
                    let index = read_index(&files.index)?;
                    Ok::<_, LedgerError>((index, ids_behind(&files.ledger, end)?))
                })
            });
            match again {
                Ok((index, behind)) => {
                    // Lines that were appended meanwhile explain ids, but are not checked themselves.
                    let mut ids = self.ids.clone();
                    ids.extend(behind);
                    ids.sort_unstable();
                    compared = compare(&ids, index);
                }
                // Where no lock can be made nothing can be appended either.
                Err(LedgerError::Lock(LockError::Disk(_))) => {}
                Err(error) => return Err(error),
            }
        }
        if !compared.exists && files.locks.is_none() {
            return Ok(());
        }
        self.report.index = Some(IndexCheck {
            path: files.index.clone(),
            exists: compared.exists,
            ids: compared.ids,
            missing_ids: compared.missing.len() as u64,
            extra_ids: compared.extra.len() as u64,
            invalid_lines: compared.invalid.len() as u64,
        });
        if !compared.exists && !compared.missing.is_empty() {
            self.tell(CheckFinding {
                file: CheckedFile::Index,
                offset: 0,
                length: 0,
                problem: Problem::NoIndex,
                reason: format!(
                    "{} does not exist; `burn state rebuild index` makes it",
                    files.index.display()
                ),
            });
            return Ok(());
        }
        let repair = "`burn state rebuild index` repairs it";
        if !compared.missing.is_empty() {
            let source = Source::open(&files.ledger, Io::Read)?;
            for (id, offset) in compared.missing {
                self.tell(CheckFinding {
                    file: CheckedFile::Ledger,
                    offset,
                    length: source.line_end_after(offset, source.len_bytes())?.saturating_sub(offset + 1),
                    problem: Problem::MissingId,
                    reason: format!("id {id} is not in the index; {repair}"),
                });
            }
        }
        for (id, offset) in compared.extra {
            self.tell(CheckFinding {
                file: CheckedFile::Index,
                offset,
                length: ID_LEN_BYTES as u64,
                problem: Problem::ExtraId,
                reason: format!("id {id} is of no line of the ledger; {repair}"),
            });
        }
        for line in compared.invalid {
            self.tell(CheckFinding {
                file: CheckedFile::Index,
                offset: line.start,
                length: line.end - line.start,
                problem: Problem::NotAnId,
                reason: format!("16 lower-case hex digits are needed; {repair}"),
            });
        }
        Ok(())
    }
}

/// The lines of an index: ids with their offsets, and what is no id.
#[derive(Default)]
struct IndexLines {
    exists: bool,
    ids: Vec<(Id, u64)>,
    invalid: Vec<Range<u64>>,
}

fn read_index(path: &Path) -> Result<IndexLines, LedgerError> {
    let mut lines = IndexLines::default();
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lines),
        Err(source) => return Err(ScanError::Open { path: path.to_owned(), source }.into()),
    };
    lines.exists = true;
    for (offset, line) in scan::lines(0, &bytes) {
        let end = offset + line.len() as u64;
        match Id::parse(line) {
            Some(id) if end < bytes.len() as u64 => lines.ids.push((id, offset)),
            _ if line.is_empty() => {}
            _ => lines.invalid.push(offset..end),
        }
    }
    lines.ids.sort_unstable();
    lines.ids.dedup_by_key(|(id, _)| *id);
    Ok(lines)
}

/// Ids of the records behind `from`.
fn ids_behind(ledger: &Path, from: u64) -> Result<Vec<(Id, u64)>, LedgerError> {
    let source = match Source::open(ledger, Io::Read) {
        Ok(source) => source,
        Err(ScanError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    let mut work = Work::whole(&source, CHUNK_BYTES, 1)?;
    work.range.start = from.min(work.range.end);
    let mut ids = Vec::new();
    in_order(&work, Checker::default, Checker::chunk, |mut part| {
        ids.append(&mut part.ids);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(ids)
}

/// What ledger and index have apart.
struct Compared {
    exists: bool,
    ids: u64,
    /// By offset in the ledger.
    missing: Vec<(Id, u64)>,
    /// By offset in the index.
    extra: Vec<(Id, u64)>,
    invalid: Vec<Range<u64>>,
}

impl Compared {
    fn disagrees(&self) -> bool {
        !(self.missing.is_empty() && self.extra.is_empty() && self.invalid.is_empty())
    }
}

/// Compares sorted ids of a ledger with its index.
fn compare(ledger: &[(Id, u64)], index: IndexLines) -> Compared {
    let mut compared = Compared {
        exists: index.exists,
        ids: index.ids.len() as u64,
        missing: Vec::new(),
        extra: Vec::new(),
        invalid: index.invalid,
    };
    let mut indexed = index.ids.into_iter().peekable();
    for lines in ledger.chunk_by(|a, b| a.0 == b.0) {
        let (id, offset) = lines[0];
        while let Some(extra) = indexed.next_if(|(other, _)| *other < id) {
            compared.extra.push(extra);
        }
        if indexed.next_if(|(other, _)| *other == id).is_none() {
            compared.missing.push((id, offset));
        }
    }
    compared.extra.extend(indexed);
    compared.missing.sort_unstable_by_key(|(_, offset)| *offset);
    compared.extra.sort_unstable_by_key(|(_, offset)| *offset);
    compared
}

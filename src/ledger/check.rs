//! Checks a ledger: every line, whether the index has the ids of the ledger, and whether the ledger still has the bytes
//! that the archive has read.
//!
//! Reads the ledger on all cores, then `ledger.idx` and the archive's cursor; changes nothing. When index and ledger
//! disagree, or the last line is unfinished, the check looks at both files again under the locks `ledger` and
//! `ledger-index`, and also checks the lines that were appended meanwhile. Otherwise the check would report an append in
//! progress as a fault.

mod index;
mod lines;
mod problem;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;

use self::index::{IndexComparison, IndexLines, lines_left_out, sort};
use self::lines::{Checker, FoundProblem, TsPrefix};
pub use self::problem::Problem;
use super::LedgerError;
use super::pipeline::{LedgerWork, in_order};
use crate::archive::{self, ArchiveError, Paths, Restart};
use crate::home::{Home, LockName};
use crate::lock::{LockError, with_lock};
use crate::record::strict::StrictRule;
use crate::record::{ID_LEN_BYTES, Id};
use crate::scan::{Io, Source};

/// Small, so that the rows of a chunk stay in the cache of a core.
const CHUNK_BYTES: u64 = 128 << 10;
/// Maximum number of sessions whose latest time is kept: about 25 MB.
const SESSIONS_MAX: usize = 1 << 18;
/// Maximum length of the names of unknown kinds in bytes; lines of further kinds are counted together.
const UNKNOWN_KINDS_MAX_BYTES: usize = 1 << 20;
const OTHER_KINDS: &str = "other kinds";
/// How often the check looks again at files that disagree while another process may be writing them, and the wait between
/// two looks. Several looks are needed, because the TypeScript package writes lines and ids under one lock each, so that
/// ids can be missing while neither lock is held.
const LOOKS_MAX: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Files that have not changed for this long are settled.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

const RESTORE: &str = "restore the ledger from a backup first";

/// Which files to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFiles {
    ledger: PathBuf,
    index: PathBuf,
    /// The locks `ledger` and `ledger-index` of a home. The index of a home must exist.
    locks: Option<[PathBuf; 2]>,
    /// The archive and the ledger of a home.
    archive: Option<Paths>,
}

impl CheckFiles {
    /// The ledger, index and archive of a home.
    pub fn of_home(home: &Home) -> Self {
        Self {
            ledger: home.ledger(),
            index: home.ids_index(),
            locks: Some([home.lock(LockName::Ledger), home.lock(LockName::LedgerIndex)]),
            archive: Some(Paths::of_home(home)),
        }
    }

    /// A ledger at any path. The index is the file of the same name with the extension `idx`; when the index is
    /// missing, only the ledger is checked.
    pub fn of_ledger(ledger: PathBuf) -> Self {
        Self { index: ledger.with_extension("idx"), ledger, locks: None, archive: None }
    }
}

/// A place where something is wrong or odd.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckFinding {
    /// The file.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub file: PathBuf,
    /// Where the line starts, in bytes.
    pub offset: u64,
    /// The length of the line in bytes, with its LF if the line has one.
    pub length: u64,
    /// The problem.
    #[serde(rename = "verdict")]
    pub problem: Problem,
    /// The details, for people.
    pub reason: String,
}

/// The comparison of index and ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexCheck {
    /// The index.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub path: PathBuf,
    /// Whether it exists.
    pub exists: bool,
    /// Number of different ids in the index.
    pub ids: u64,
    /// Number of ids of the ledger that the index lacks.
    pub missing_ids: u64,
    /// Number of ids of the index that the ledger lacks.
    pub extra_ids: u64,
    /// Number of lines whose id an earlier line of the index has already.
    pub repeated_ids: u64,
    /// Number of lines that are not ids.
    pub invalid_lines: u64,
}

/// Lines that the archive accepts and a [strict append](super::Batch::strict) refuses. Such lines are not faults, because
/// the TypeScript package and lenient appends write them. A line that breaks several rules counts under the first rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StrictCheck {
    /// Number of such lines.
    pub lines: u64,
    /// Where the first such line starts in the ledger, in bytes.
    pub first_offset: Option<u64>,
    /// Number of such lines with an invalid time.
    pub bad_times: u64,
    /// Number of such lines with a count that is negative, not a whole number or too large.
    pub bad_counts: u64,
    /// Number of such lines with an empty required text.
    pub empty_texts: u64,
}

impl StrictCheck {
    fn add(&mut self, rule: StrictRule, offset: u64) {
        self.lines += 1;
        self.first_offset.get_or_insert(offset);
        match rule {
            StrictRule::Time => self.bad_times += 1,
            StrictRule::Count => self.bad_counts += 1,
            StrictRule::Text => self.empty_texts += 1,
        }
    }
}

/// The archive whose cursor was compared with the ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveCheck {
    /// The archive.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub path: PathBuf,
    /// How many bytes of the ledger the archive has read.
    pub ledger_offset_bytes: u64,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// The ledger.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub ledger: PathBuf,
    /// Whether the ledger exists. A home without a ledger has no problem, unless its index has ids.
    pub exists: bool,
    /// The length of the ledger in bytes.
    pub bytes: u64,
    /// Number of whole lines that are not blank.
    pub lines: u64,
    /// Number of lines that are not JSON.
    pub malformed_lines: u64,
    /// Number of lines of a known kind that cannot be archived.
    pub rejected_lines: u64,
    /// Number of other lines with bytes that are not UTF-8.
    pub invalid_utf8_lines: u64,
    /// 1 when bytes follow the last LF, else 0.
    pub torn_lines: u64,
    /// Number of lines of an unknown version or kind.
    pub unknown_lines: u64,
    /// Lines of an unknown version or kind, counted by kind; lines without a kind, or of another version, are counted
    /// by what they lack or by their version. When the names take more than 1 MiB, lines of further kinds are counted
    /// as `other kinds`.
    pub unknown_kinds: BTreeMap<String, u64>,
    /// Number of records whose id an earlier line has.
    pub repeated_records: u64,
    /// Number of records that are older than an earlier record of the same session, compared by the first 40 bytes of
    /// their times. After 262,144 sessions, the check forgets the times so far, so that a ledger of more sessions may
    /// have more such records.
    pub out_of_order_lines: u64,
    /// Lines that a strict append would refuse.
    pub strict_refusals: StrictCheck,
    /// The index; `None` when the ledger is not the ledger of a home and has no index beside it, or when the ledger was
    /// replaced meanwhile.
    pub index: Option<IndexCheck>,
    /// The archive; `None` when there is no archive of this version, when the archive cannot be read, or when the check
    /// is not of a home.
    pub archive: Option<ArchiveCheck>,
    /// Whether the check found no fault.
    pub ok: bool,
    /// Duration of the check, in milliseconds.
    pub duration_ms: u64,
}

/// Checks all files and passes each line that is wrong or unknown to `on_finding`, in the order of the ledger, then each
/// problem of the ids. Lines that are appended during the check are checked only when ledger and index must be compared again.
///
/// # Errors
/// When a file cannot be read, or the ledger is cut during the check. Problems of the files are not errors but are in the report.
pub fn check(
    files: &CheckFiles,
    on_finding: &mut dyn FnMut(&CheckFinding),
) -> Result<CheckReport, LedgerError> {
    let started = std::time::Instant::now();
    let mut run = CheckRun {
        files,
        report: CheckReport { ledger: files.ledger.clone(), ok: true, ..CheckReport::default() },
        source: None,
        end: 0,
        ids: Vec::new(),
        latest: LatestTimes::default(),
        unknown_kinds_len_bytes: 0,
        on_finding,
    };
    run.source = run.open()?;
    run.read_on()?;
    let mut compared = run.compare()?;
    if run.is_replaced()? {
        compared = None;
    }
    run.torn();
    run.report.repeated_records = (run.ids.len() - run.ids.chunk_by(|a, b| a.0 == b.0).count()) as u64;
    match compared {
        Some(compared) => {
            let is_cut = run.archive(&compared)?;
            run.index(compared, is_cut)?;
        }
        None => run.tell_of_ledger(
            0..run.report.bytes,
            Problem::Replaced,
            "it was replaced or deleted while it was checked: what was found is of the old one, and its ids were not \
             compared; check again",
        ),
    }
    run.report.duration_ms = started.elapsed().as_millis() as u64;
    Ok(run.report)
}

struct CheckRun<'c> {
    files: &'c CheckFiles,
    report: CheckReport,
    /// The ledger, with the length that the ledger had when it was last opened.
    source: Option<Source>,
    /// The ledger was read up to this offset, a line end.
    end: u64,
    /// The id of every record, with the offset of its line.
    ids: Vec<(Id, u64)>,
    latest: LatestTimes,
    /// The length of the names of unknown kinds in the report, in bytes.
    unknown_kinds_len_bytes: usize,
    on_finding: &'c mut dyn FnMut(&CheckFinding),
}

impl CheckRun<'_> {
    fn tell(&mut self, file: PathBuf, bytes: Range<u64>, problem: Problem, reason: impl Into<String>) {
        self.report.ok &= !problem.is_fault();
        let (offset, length) = (bytes.start, bytes.end.saturating_sub(bytes.start));
        (self.on_finding)(&CheckFinding { file, offset, length, problem, reason: reason.into() });
    }

    fn tell_of_ledger(&mut self, bytes: Range<u64>, problem: Problem, reason: impl Into<String>) {
        self.tell(self.files.ledger.clone(), bytes, problem, reason);
    }

    fn tell_of_index(&mut self, bytes: Range<u64>, problem: Problem, reason: impl Into<String>) {
        self.tell(self.files.index.clone(), bytes, problem, reason);
    }

    /// Opens the ledger. A home may have no ledger; a file that was named must exist.
    fn open(&self) -> Result<Option<Source>, LedgerError> {
        let (path, io) = (&self.files.ledger, Io::default());
        Ok(match &self.files.locks {
            Some(_) => Source::open_if_there(path, io)?,
            None => Some(Source::open(path, io)?),
        })
    }

    /// Checks the whole lines that were not read yet.
    fn read_on(&mut self) -> Result<(), LedgerError> {
        let Some(source) = self.source.take() else { return Ok(()) };
        self.report.exists = true;
        let mut work = LedgerWork::whole(&source, CHUNK_BYTES, usize::MAX)?;
        work.range.start = self.end;
        self.scan(&work)?;
        self.end = work.range.end;
        self.report.bytes = source.len_bytes();
        self.source = Some(source);
        Ok(())
    }

    fn scan(&mut self, work: &LedgerWork<'_>) -> Result<(), LedgerError> {
        in_order(work, Checker::default, Checker::chunk, |mut part| {
            self.report.lines += part.lines;
            self.report.unknown_lines += part.unknown.len() as u64;
            for kind in part.unknown {
                self.count_unknown(kind);
            }
            for (rule, offset) in part.strict {
                self.report.strict_refusals.add(rule, offset);
            }
            self.ids.append(&mut part.ids);
            for (session, ts) in part.times {
                self.report.out_of_order_lines += u64::from(self.latest.is_older(session, ts));
            }
            for FoundProblem { offset, length, problem, reason } in part.findings {
                match problem {
                    Problem::Malformed => self.report.malformed_lines += 1,
                    Problem::Rejected => self.report.rejected_lines += 1,
                    Problem::InvalidUtf8 => self.report.invalid_utf8_lines += 1,
                    _ => {}
                }
                self.tell_of_ledger(offset..offset + length, problem, reason);
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn count_unknown(&mut self, kind: String) {
        let kinds = &mut self.report.unknown_kinds;
        if let Some(count) = kinds.get_mut(&kind) {
            *count += 1;
        } else if self.unknown_kinds_len_bytes + kind.len() <= UNKNOWN_KINDS_MAX_BYTES {
            self.unknown_kinds_len_bytes += kind.len();
            kinds.insert(kind, 1);
        } else {
            *kinds.entry(OTHER_KINDS.to_owned()).or_default() += 1;
        }
    }

    fn is_torn(&self) -> bool {
        self.end < self.report.bytes
    }

    fn torn(&mut self) {
        if self.is_torn() {
            self.report.torn_lines = 1;
            let reason = "the last line has no LF; the next append ends it";
            self.tell_of_ledger(self.end..self.report.bytes, Problem::Torn, reason);
        }
    }

    /// Compares the ids of the ledger with the index; returns `None` when the ledger was replaced meanwhile.
    fn compare(&mut self) -> Result<Option<IndexComparison>, LedgerError> {
        let mut compared = self.compared()?;
        for look in 0..LOOKS_MAX {
            if compared.agrees() && !self.is_torn() {
                break;
            }
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            let locked = self
                .files
                .locks
                .as_ref()
                .map(|[ledger, index]| with_lock(ledger, |_| with_lock(index, |_| self.look_again())));
            let (again, is_locked) = match locked {
                // This process may lack the permission for lock files and still read the files: look again
                // without the locks.
                None | Some(Err(LedgerError::Lock(LockError::Disk(_)))) => (self.look_again()?, false),
                Some(again) => (again?, true),
            };
            let Some(again) = again else { return Ok(None) };
            compared = again;
            // Under the locks only missing ids can be an append in progress.
            if is_locked && compared.missing.is_empty() || self.is_settled() {
                break;
            }
        }
        Ok(Some(compared))
    }

    fn compared(&mut self) -> Result<IndexComparison, LedgerError> {
        let (ids, index) = (&mut self.ids, &self.files.index);
        let left_out = lines_left_out(ids, index)?;
        sort(ids);
        match left_out.and_then(|left_out| IndexComparison::of_agreeing(ids, &left_out)) {
            Some(agreeing) => Ok(agreeing),
            None => Ok(IndexComparison::of(ids, IndexLines::read(index)?)),
        }
    }

    /// Checks the lines that were appended since the last look, and compares; returns `None` when the ledger is not the
    /// file that was read.
    fn look_again(&mut self) -> Result<Option<IndexComparison>, LedgerError> {
        let now = self.open()?;
        if self.is_replaced_by(now.as_ref())? {
            return Ok(None);
        }
        self.source = now;
        self.read_on()?;
        self.compared().map(Some)
    }

    /// Whether `now`, the file at the ledger's path, is not the file that was read.
    fn is_replaced_by(&self, now: Option<&Source>) -> Result<bool, LedgerError> {
        match (&self.source, now) {
            (None, _) => Ok(false),
            (Some(source), Some(now)) if now.is_same_file(source) => {
                source.check_len()?;
                Ok(false)
            }
            (Some(_), _) => Ok(true),
        }
    }

    /// Whether the ledger is not the file that was read.
    fn is_replaced(&self) -> Result<bool, LedgerError> {
        self.is_replaced_by(Source::open_if_there(&self.files.ledger, Io::Read)?.as_ref())
    }

    /// Whether neither file has changed for `SETTLED_AFTER`.
    fn is_settled(&self) -> bool {
        [&self.files.ledger, &self.files.index].into_iter().all(|path| is_older(path, SETTLED_AFTER))
    }

    /// Compares the ledger with the cursor of the home's archive. Returns whether the ledger was cut or rewritten.
    fn archive(&mut self, compared: &IndexComparison) -> Result<bool, LedgerError> {
        let Some(paths) = &self.files.archive else { return Ok(false) };
        let found = match archive::compare(paths) {
            Ok(Some(found)) => found,
            Err(ArchiveError::Scan(error)) => return Err(error.into()),
            // A ledger can be valid although its archive is not; `burn state` reports the faults of the archive.
            Ok(None) | Err(_) => return Ok(false),
        };
        let path = paths.archive.clone();
        let ledger_offset_bytes = found.cursor_bytes;
        self.report.archive = Some(ArchiveCheck { path: path.clone(), ledger_offset_bytes });
        let Some(why) = found.lost else { return Ok(false) };
        if !self.report.exists && compared.ids > 0 {
            // The ledger is reported as missing.
            return Ok(true);
        }
        let start = if why == Restart::LedgerShrank { found.ledger_bytes } else { 0 };
        let reason = format!(
            "{why}, {ledger_offset_bytes} bytes, as {} says: the ledger was cut or replaced; restore it from a backup, and \
             rebuild neither index nor archive before, because they hold what is left of the lost lines",
            path.display()
        );
        self.tell_of_ledger(start..found.cursor_bytes, Problem::Cut, reason);
        Ok(true)
    }

    fn index(&mut self, compared: IndexComparison, is_cut: bool) -> Result<(), LedgerError> {
        let index = &self.files.index;
        if !compared.exists && self.files.locks.is_none() {
            return Ok(());
        }
        self.report.index = Some(IndexCheck {
            path: index.clone(),
            exists: compared.exists,
            ids: compared.ids,
            missing_ids: compared.missing.len() as u64,
            extra_ids: compared.extra.len() as u64,
            repeated_ids: compared.repeated.len() as u64,
            invalid_lines: compared.invalid.len() as u64,
        });
        if !self.report.exists && compared.ids > 0 {
            let reason = format!(
                "there is no ledger, and {} has {} ids of one: put the ledger back; without it the index cannot be made again",
                index.display(),
                compared.ids
            );
            self.tell_of_ledger(0..0, Problem::NoLedger, reason);
            return Ok(());
        }
        if !compared.exists && !compared.missing.is_empty() {
            let remedy = if is_cut { RESTORE } else { "`burn state rebuild index` makes it" };
            let reason = format!("{} does not exist; {remedy}", index.display());
            self.tell_of_index(0..0, Problem::NoIndex, reason);
            return Ok(());
        }
        let (repair, drop) = match &self.files.locks {
            Some(_) if is_cut => [RESTORE; 2].into(),
            Some(_) => (
                "`burn state rebuild index` repairs it",
                "if no line was lost, `burn state rebuild index --force` drops it",
            ),
            None => {
                ["it is of another state of the ledger: put the right one beside it, or delete it"; 2].into()
            }
        };
        for (id, offset) in compared.missing {
            let end = match &self.source {
                Some(source) => source.line_end_after(offset, source.len_bytes())?,
                None => offset,
            };
            let reason = format!("id {id} is not in the index; {repair}");
            self.tell_of_ledger(offset..end, Problem::MissingId, reason);
        }
        let line_bytes = ID_LEN_BYTES as u64 + 1;
        for (id, offset) in compared.extra {
            let reason = format!("id {id} is of no line of the ledger; {drop}");
            self.tell_of_index(offset..offset + line_bytes, Problem::ExtraId, reason);
        }
        for (id, offset) in compared.repeated {
            let reason = format!("an earlier line has id {id}; {repair}");
            self.tell_of_index(offset..offset + line_bytes, Problem::RepeatedId, reason);
        }
        for line in compared.invalid {
            let reason = format!("16 lower-case hex digits are needed; {repair}");
            self.tell_of_index(line, Problem::NotAnId, reason);
        }
        Ok(())
    }
}

/// The latest time of each session so far.
#[derive(Default)]
struct LatestTimes(FxHashMap<u64, TsPrefix>);

impl LatestTimes {
    /// Adds the time of the session's next record. Returns whether the time is before an earlier record's time.
    fn is_older(&mut self, session: u64, ts: TsPrefix) -> bool {
        if self.0.len() >= SESSIONS_MAX && !self.0.contains_key(&session) {
            self.0.clear();
        }
        let latest = self.0.entry(session).or_insert(ts);
        match ts.cmp(latest) {
            Ordering::Less => true,
            Ordering::Equal => false,
            Ordering::Greater => {
                *latest = ts;
                false
            }
        }
    }
}

/// Whether a file was last changed at least `age` ago; a missing file counts as old.
fn is_older(path: &Path, age: Duration) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|found| found >= age))
        || !path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_sessions_without_end_are_forgotten_and_those_of_few_are_not() {
        let mut latest = LatestTimes::default();
        assert!(!latest.is_older(7, [2; 40]));
        assert!(latest.is_older(7, [1; 40]) && !latest.is_older(7, [2; 40]));
        for session in 0..2 * SESSIONS_MAX as u64 {
            latest.is_older(session + 10, [1; 40]);
            assert!(latest.0.len() <= SESSIONS_MAX);
        }
        assert!(!latest.is_older(7, [1; 40]));
    }
}

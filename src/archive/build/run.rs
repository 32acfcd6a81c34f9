//! The state of a running build, and the steps that both kinds of build share.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Instant, SystemTime};

use rusqlite::Connection;

use super::options::{Options, Paths};
use super::progress::{Observer, Phase, Progress};
use super::result::BuildResult;
use crate::archive::cursor::Restart;
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open;
use crate::archive::pipeline::{self, Input, Place};
use crate::archive::survey::Survey;
use crate::lock::Held;
use crate::record::columns::turns;
use crate::record::fold::{Fold, Stamp};
use crate::record::rows::{Rows, Verdict};
use crate::scan::{ScanError, Source};
use crate::sqlite_file;

pub(super) struct Build<'b> {
    pub(super) paths: &'b Paths,
    pub(super) options: &'b Options,
    pub(super) observer: &'b mut dyn Observer,
    pub(super) held: &'b Held,
    pub(super) pool: rayon::ThreadPool,
    /// `None` when there is no ledger.
    pub(super) source: Option<Source>,
    /// The offset after the last LF of the ledger.
    pub(super) end: u64,
    /// Whether turns are refolded in the live archive, whatever their number.
    pub(super) is_in_place: bool,
    /// The cursor up to which this build does not count lines: 0, unless a tail build rebuilds only because a rebuild
    /// is faster.
    pub(super) counted_from: u64,
    /// Why the archive may have rows that the ledger lost.
    pub(super) lost: Option<Loss>,
    pub(super) started: Instant,
    pub(super) result: BuildResult,
    pub(super) session_ids: Distinct,
}

/// How the ledger differs from the ledger that an archive with rows was built from.
pub(super) struct Loss {
    pub reason: Restart,
    /// Whether the archive is kept only when it has every turn of the new archive, and more.
    pub is_kept_if_cut: bool,
}

impl<'b> Build<'b> {
    pub(super) fn new(
        paths: &'b Paths,
        options: &'b Options,
        observer: &'b mut dyn Observer,
        held: &'b Held,
    ) -> Result<Self, ArchiveError> {
        let started = Instant::now();
        sqlite_file::check_page_size(options.page_size_bytes).map_err(ArchiveError::bulk(&paths.archive))?;
        open::refuse_no_files(&paths.archive)?;
        let source = match Source::open(&paths.ledger, options.io) {
            Ok(source) => Some(source),
            Err(ScanError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let end = match &source {
            Some(source) => source.line_end_before(0, source.len_bytes())?,
            None => 0,
        };
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        Ok(Self {
            paths,
            options,
            observer,
            held,
            pool: pipeline::workers(threads)?,
            source,
            end,
            is_in_place: false,
            counted_from: 0,
            lost: None,
            started,
            result: BuildResult::default(),
            session_ids: Distinct::default(),
        })
    }

    /// Opens the live archive for changes.
    pub(super) fn open_live(&self) -> Result<Connection, ArchiveError> {
        let path = &self.paths.archive;
        let mut connection = open::open_for_build(path)?;
        open::interruptible(&mut connection, &self.options.interrupt).context(path, "opening it")?;
        Ok(connection)
    }

    /// Returns the input from `start` to the end of the ledger.
    pub(super) fn input<'s>(&self, source: &'s Source, start: u64) -> Input<'s> {
        Input {
            source,
            range: start..self.end,
            chunk_bytes: self.options.chunk_bytes,
            cut_at: self.counted_from,
            interrupt: self.options.interrupt.clone(),
        }
    }

    /// Runs the pipeline over `input`, counts rows and reports findings after `counted_from`, and passes rows to
    /// `write`.
    pub(super) fn rows<'f>(
        &mut self,
        input: &Input<'_>,
        fold: &Fold<'f>,
        work: impl Fn(&Rows<'_>, Place) -> Result<(), ArchiveError> + Sync,
        mut write: impl FnMut(&Rows<'_>) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let total_bytes = input.range.end - input.range.start;
        let mut strict_failure = None;
        let Self { pool, paths, options, observer, result, session_ids, counted_from, .. } = self;
        pipeline::run(pool, input, fold, work, |rows, end| {
            if end > *counted_from {
                count(rows, result, session_ids);
                for finding in &rows.findings {
                    observer.finding(finding);
                    if options.strict && strict_failure.is_none() {
                        strict_failure = Some(ArchiveError::Strict {
                            ledger: paths.ledger.clone(),
                            offset: finding.offset,
                            length: finding.length,
                            verdict: finding.verdict.as_str(),
                            reason: finding.reason.clone(),
                        });
                    }
                }
            }
            // A strict build that has failed goes on parsing, so that its report is complete, but writes no more
            // rows.
            if strict_failure.is_none() {
                write(rows)?;
            }
            let done_bytes = end - input.range.start;
            go_on(observer.progress(Progress { phase: Phase::Rows, done_bytes, total_bytes }))
        })?;
        strict_failure.map_or(Ok(()), Err)
    }

    pub(super) fn report(
        &mut self,
        phase: Phase,
        done_bytes: u64,
        input: &Input<'_>,
    ) -> Result<(), ArchiveError> {
        let total_bytes = input.range.end - input.range.start;
        self.tell(Progress { phase, done_bytes, total_bytes })
    }

    pub(super) fn report_at_end(&mut self, phase: Phase) -> Result<(), ArchiveError> {
        self.tell(Progress { phase, done_bytes: self.end, total_bytes: self.end })
    }

    pub(super) fn tell(&mut self, progress: Progress) -> Result<(), ArchiveError> {
        if self.options.interrupt.is_requested() {
            return Err(ArchiveError::Interrupted);
        }
        go_on(self.observer.progress(progress))
    }

    pub(super) fn timestamp(&self) -> String {
        iso_millis(self.options.now.unwrap_or_else(SystemTime::now))
    }
}

/// Formats a time as ISO 8601 in UTC with milliseconds, as JavaScript does.
pub(crate) fn iso_millis(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Returns an error when the observer ends the build.
fn go_on(flow: ControlFlow<()>) -> Result<(), ArchiveError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ArchiveError::Interrupted),
    }
}

/// Adds `rows` to the counts of a result.
fn count(rows: &Rows<'_>, result: &mut BuildResult, session_ids: &mut Distinct) {
    result.turns_applied += rows.turns.len() as u64;
    result.stamps_applied += rows.stamps.len() as u64;
    result.compactions_applied += rows.compactions.len() as u64;
    result.tool_result_events_applied += rows.events.len() as u64;
    result.unknown_lines += rows.unknown_lines;
    result.exact_lines += rows.exact_lines;
    for finding in &rows.findings {
        match finding.verdict {
            Verdict::Malformed => result.malformed_lines += 1,
            Verdict::Rejected => result.rejected_lines += 1,
        }
    }
    let turn_sessions = rows.turns.iter().map(|turn| turn.cells[turns::SESSION_ID].as_text());
    let stamp_sessions = rows.stamps.iter().filter_map(|line| line.stamp.selector.session);
    let mut last = None;
    for session in turn_sessions.chain(stamp_sessions) {
        if last != Some(session) {
            session_ids.insert(session);
            last = Some(session);
        }
    }
}

/// Counts distinct texts without storing them: 128 bits of keyed hash identify a text.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    keys: [RandomState; 2],
    seen: HashSet<[u64; 2]>,
}

impl Distinct {
    pub(super) fn insert(&mut self, text: &str) {
        self.seen.insert(self.keys.each_ref().map(|key| key.hash_one(text)));
    }

    pub(super) fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    pub(super) fn clear(&mut self) {
        self.seen.clear();
    }
}

/// The `work` of builds whose workers only make rows.
pub(super) fn nothing_more(_: &Rows<'_>, _: Place) -> Result<(), ArchiveError> {
    Ok(())
}

/// A transaction that is rolled back unless it is committed.
pub(super) struct Transaction<'c> {
    connection: &'c Connection,
    path: &'c Path,
    is_open: bool,
}

impl<'c> Transaction<'c> {
    pub(super) fn begin(connection: &'c Connection, path: &'c Path) -> Result<Self, ArchiveError> {
        connection.execute_batch("BEGIN IMMEDIATE").context(path, "beginning a transaction")?;
        Ok(Self { connection, path, is_open: true })
    }

    pub(super) fn commit(mut self) -> Result<(), ArchiveError> {
        self.connection.execute_batch("COMMIT").context(self.path, "committing")?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // SQLite may have rolled back already; an error here cannot be handled.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

pub(super) fn stamps_of(survey: &Survey) -> impl Iterator<Item = &Stamp<'_>> {
    survey.stamps.iter().flat_map(|set| set.borrow_dependent())
}

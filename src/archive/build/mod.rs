//! Building the archive: the tail behind the cursor into the live file, or everything into a new file that replaces it.
//!
//! This room holds lock `archive` while it works and writes nothing but the archive and the file it is built in. Both ways
//! make rows with the same [`pipeline`]; they differ in where they start and what they write to: [`tail`] the live archive,
//! in one transaction, [`beside`] a new file, which is published when it is whole. This file decides between them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Instant, SystemTime};

use rusqlite::Connection;

use crate::archive::cursor::{self, Restart};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open;
use crate::archive::pipeline::{self, Input, Place};
use crate::archive::schema::VERSION;
use crate::archive::survey::Survey;
use crate::lock::Held;
use crate::record::columns::turns;
use crate::record::fold::{Fold, Stamp};
use crate::record::rows::{Rows, Verdict};
use crate::scan::{ScanError, Source};
use crate::sqlite_file;

mod beside;
mod lost;
mod options;
mod progress;
mod result;
mod tail;

pub use options::{Load, Options, Paths};
pub use progress::{Observer, Phase, Progress, Unobserved};
pub use result::{BuildResult, Timings};

use lost::Loss;
use tail::Outcome;

/// Takes the ledger's tail, behind the archive's cursor, into the archive, which is created when it is missing. When the
/// cursor does not fit the ledger, everything is built again from byte 0.
///
/// Holds the lock of `paths`; appends to the ledger go on meanwhile and are left for the next build.
///
/// # Errors
/// Any [`ArchiveError`]; the archive is then as it was.
pub fn build_tail(
    paths: &Paths,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<BuildResult, ArchiveError> {
    refuse_one_file(paths)?;
    paths.locked(&options.interrupt, |held| Build::new(paths, options, observer, held)?.tail())
}

/// Builds the archive anew from byte 0 and puts it in the place of the old one, which everybody can read until then.
///
/// # Errors
/// Any [`ArchiveError`]; the archive is then as it was.
pub fn rebuild_full(
    paths: &Paths,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<BuildResult, ArchiveError> {
    refuse_one_file(paths)?;
    paths.locked(&options.interrupt, |held| {
        let mut build = Build::new(paths, options, observer, held)?;
        build.refuse_to_replace()?;
        build.lost = build.look_for_cut()?;
        build.result.rebuilt_from_zero = true;
        build.rebuild(None)
    })
}

struct Build<'b> {
    paths: &'b Paths,
    options: &'b Options,
    observer: &'b mut dyn Observer,
    held: &'b Held,
    pool: rayon::ThreadPool,
    /// `None` when there is no ledger.
    source: Option<Source>,
    /// Behind the last LF of the ledger.
    end: u64,
    /// Whether turns are refolded in the live archive, however many they are.
    is_in_place: bool,
    /// What the archive has taken in before and this build does not count: 0, unless a tail build rebuilds for speed alone.
    counted_from: u64,
    /// What the archive has and the ledger may have lost.
    lost: Option<Loss>,
    started: Instant,
    result: BuildResult,
    session_ids: Distinct,
}

impl<'b> Build<'b> {
    fn new(
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

    fn tail(mut self) -> Result<BuildResult, ArchiveError> {
        let path = self.paths.archive.clone();
        if !open::exists(&path)? {
            return self.rebuild(None);
        }
        // Asked before the build's settings are made: somebody else's file is left as it is.
        let archive = open::open_read_only(&path)?;
        if archive.settle(open::is_foreign(&archive, &path))? {
            return Err(ArchiveError::NotAnArchive { path });
        }
        drop(archive);
        let connection = self.open_live()?;
        let state = open::read_state(&connection, &path)?;
        let mut restart = None;
        if let (Some(state), Some(source)) = (&state, &self.source) {
            restart = cursor::check(source, state.ledger_offset_bytes, state.ledger_mark)?;
        }
        let has_rows = open::has_rows(&connection, &path)?;
        if let Some(reason) = restart.clone().filter(|_| has_rows) {
            let loss = Loss { reason, is_kept_if_cut: false };
            self.refuse_loss_if_strict(&loss)?;
            self.lost = Some(loss);
        }
        if state.as_ref().is_some_and(|state| state.archive_version != VERSION) {
            restart = Some(Restart::OtherVersion);
        }
        let is_empty = state.as_ref().is_none_or(|state| state.ledger_offset_bytes == 0) && !has_rows;
        if restart.is_none() && !(is_empty && self.end > 0) {
            match self.extend_or_restart(connection)? {
                Outcome::Done => {
                    self.result.duration_ms = self.started.elapsed().as_millis() as u64;
                    return Ok(self.result);
                }
                Outcome::Restart(reason) => restart = Some(reason),
            }
        } else {
            drop(connection);
        }
        self.refuse_to_empty()?;
        let last_rebuild_at = match restart {
            Some(Restart::OtherVersion) => None,
            _ => state.and_then(|state| state.last_rebuild_at),
        };
        self.result.restarted = restart;
        self.rebuild(last_rebuild_at)
    }

    /// The live archive, for changing it.
    fn open_live(&self) -> Result<Connection, ArchiveError> {
        let path = &self.paths.archive;
        let mut connection = open::open_for_build(path)?;
        open::interruptible(&mut connection, &self.options.interrupt).context(path, "opening it")?;
        Ok(connection)
    }

    /// The ledger from `start` on.
    fn input<'s>(&self, source: &'s Source, start: u64) -> Input<'s> {
        Input {
            source,
            range: start..self.end,
            chunk_bytes: self.options.chunk_bytes,
            cut_at: self.counted_from,
            interrupt: self.options.interrupt.clone(),
        }
    }

    /// Runs the pipeline over `input`, counts and reports findings behind `counted_from`, and hands rows to `write`.
    fn rows<'f>(
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
            // A strict build that has failed goes on looking, so that its report is whole, and writes no more.
            if strict_failure.is_none() {
                write(rows)?;
            }
            let done_bytes = end - input.range.start;
            go_on(observer.progress(Progress { phase: Phase::Rows, done_bytes, total_bytes }))
        })?;
        strict_failure.map_or(Ok(()), Err)
    }

    fn report(&mut self, phase: Phase, done_bytes: u64, input: &Input<'_>) -> Result<(), ArchiveError> {
        let total_bytes = input.range.end - input.range.start;
        self.tell(Progress { phase, done_bytes, total_bytes })
    }

    fn report_at_end(&mut self, phase: Phase) -> Result<(), ArchiveError> {
        self.tell(Progress { phase, done_bytes: self.end, total_bytes: self.end })
    }

    fn tell(&mut self, progress: Progress) -> Result<(), ArchiveError> {
        if self.options.interrupt.is_requested() {
            return Err(ArchiveError::Interrupted);
        }
        go_on(self.observer.progress(progress))
    }

    /// A full rebuild replaces archives, damaged ones too. It leaves another program's database alone, and a file that is no
    /// database unless it may set the file aside.
    fn refuse_to_replace(&self) -> Result<(), ArchiveError> {
        let path = &self.paths.archive;
        match open::open_read_only(path) {
            Ok(connection) => match open::is_foreign(&connection, path) {
                Ok(false) | Err(ArchiveError::Damaged { .. }) => {}
                Ok(true) => return Err(ArchiveError::NotAnArchive { path: path.clone() }),
                Err(error) => return Err(error),
            },
            Err(ArchiveError::Missing { .. } | ArchiveError::Damaged { .. }) => {}
            Err(ArchiveError::NotADatabase { .. }) if self.options.force => {}
            // Whose file it is cannot be told, for one because somebody keeps it locked.
            Err(error) => return Err(error),
        }
        self.refuse_to_empty()
    }

    /// Without a ledger, a build from byte 0 would take every row away.
    fn refuse_to_empty(&self) -> Result<(), ArchiveError> {
        let path = &self.paths.archive;
        if self.source.is_some() || !path.exists() {
            return Ok(());
        }
        let is_kept = match open::open_read_only(path) {
            Ok(connection) => open::has_rows(&connection, path)?,
            // What cannot be read may hold rows that somebody can still save.
            Err(ArchiveError::Damaged { .. } | ArchiveError::NotADatabase { .. }) => true,
            Err(error) => return Err(error),
        };
        if is_kept {
            return Err(ArchiveError::LedgerMissing {
                ledger: self.paths.ledger.clone(),
                archive: path.clone(),
            });
        }
        Ok(())
    }

    fn timestamp(&self) -> String {
        iso_millis(self.options.now.unwrap_or_else(SystemTime::now))
    }
}

/// ISO 8601 in UTC with milliseconds, as JavaScript prints it.
pub(crate) fn iso_millis(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// What the observer of a build wants.
fn go_on(flow: ControlFlow<()>) -> Result<(), ArchiveError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ArchiveError::Interrupted),
    }
}

/// Adds what stands in `rows` to the counts of a result.
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

/// Counts different texts without keeping them: 128 bits of keyed hash tell one from another.
#[derive(Debug, Default)]
struct Distinct {
    keys: [RandomState; 2],
    seen: HashSet<[u64; 2]>,
}

impl Distinct {
    fn insert(&mut self, text: &str) {
        self.seen.insert(self.keys.each_ref().map(|key| key.hash_one(text)));
    }

    fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    fn clear(&mut self) {
        self.seen.clear();
    }
}

/// What workers of an inserting build do with rows besides making them.
fn nothing_more(_: &Rows<'_>, _: Place) -> Result<(), ArchiveError> {
    Ok(())
}

/// Ledger and archive must be two files, whatever they are called.
fn refuse_one_file(paths: &Paths) -> Result<(), ArchiveError> {
    let resolved = |path: &Path| std::fs::canonicalize(path).ok();
    let (ledger, archive) = (resolved(&paths.ledger), resolved(&paths.archive));
    if ledger.is_some() && ledger == archive {
        return Err(ArchiveError::SameFile { path: paths.ledger.clone() });
    }
    Ok(())
}

/// A transaction that is rolled back unless it is committed.
struct Transaction<'c> {
    connection: &'c Connection,
    path: &'c Path,
    is_open: bool,
}

impl<'c> Transaction<'c> {
    fn begin(connection: &'c Connection, path: &'c Path) -> Result<Self, ArchiveError> {
        connection.execute_batch("BEGIN IMMEDIATE").context(path, "beginning a transaction")?;
        Ok(Self { connection, path, is_open: true })
    }

    fn commit(mut self) -> Result<(), ArchiveError> {
        self.connection.execute_batch("COMMIT").context(self.path, "committing")?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // SQLite may have rolled back by itself; there is nothing more to be done about an error here.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

fn stamps_of(survey: &Survey) -> impl Iterator<Item = &Stamp<'_>> {
    survey.stamps.iter().flat_map(|set| set.borrow_dependent())
}

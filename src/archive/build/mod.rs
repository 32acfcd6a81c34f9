//! Building the archive: the tail behind the cursor into the live file, or everything into a new file that replaces it.
//!
//! This file holds lock `archive` while it works and writes nothing but the archive and the file it is built in. Both ways
//! make rows with the same [`pipeline`]; they differ in where they start and what they write to. A build happens
//! whole or not at all: a tail in one transaction, a rebuild beside the live archive until it is published.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bumpalo::Bump;
use rusqlite::Connection;

use crate::archive::cursor::{self, Restart};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::fold::{Fold, Stamp};
use crate::archive::load::InsertWriter;
use crate::archive::load_bulk::BulkWriter;
use crate::archive::open::{self, State};
use crate::archive::pipeline::{self, Input};
use crate::archive::publish;
use crate::archive::refold;
use crate::archive::rows::{Rows, Verdict, stored_stamp, turn_column};
use crate::archive::schema::VERSION;
use crate::archive::sessions;
use crate::archive::survey::{self, StampSet, Survey};
use crate::disk;
use crate::lock::{Held, with_lock};
use crate::scan::{ScanError, Source, json};

mod options;
mod progress;
mod result;

pub use options::{Loader, Options, Paths};
pub use progress::{Observer, Phase, Progress, Unobserved};
pub use result::{BuildResult, Timings};

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
    with_lock(&paths.lock, |held| Build::new(paths, options, observer, held)?.tail())
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
    with_lock(&paths.lock, |held| {
        let mut build = Build::new(paths, options, observer, held)?;
        build.refuse_to_replace()?;
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
    started: Instant,
    result: BuildResult,
    session_ids: HashSet<String>,
}

impl<'b> Build<'b> {
    fn new(
        paths: &'b Paths,
        options: &'b Options,
        observer: &'b mut dyn Observer,
        held: &'b Held,
    ) -> Result<Self, ArchiveError> {
        let started = Instant::now();
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
            started,
            result: BuildResult::default(),
            session_ids: HashSet::new(),
        })
    }

    fn tail(mut self) -> Result<BuildResult, ArchiveError> {
        let path = self.paths.archive.clone();
        if !path.exists() {
            return self.rebuild(None);
        }
        // Asked before the build's settings are made: somebody else's file is left as it is.
        if open::is_foreign(&open::open_read_only(&path)?, &path)? {
            return Err(ArchiveError::NotAnArchive { path });
        }
        let connection = open::open_for_build(&path)?;
        let state = open::read_state(&connection, &path)?;
        let mut restart = None;
        if let Some(state) = &state {
            if state.archive_version != VERSION {
                restart = Some(Restart::OtherVersion);
            } else if let Some(source) = &self.source {
                restart = cursor::check(source, state.ledger_offset_bytes, state.ledger_mark)?;
            }
        }
        let is_empty = state.as_ref().is_none_or(|state| state.ledger_offset_bytes == 0)
            && !open::has_rows(&connection, &path)?;
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
        self.result.restarted = restart.map(Restart::as_str);
        let last_rebuild_at = match restart {
            Some(Restart::OtherVersion) => None,
            _ => state.and_then(|state| state.last_rebuild_at),
        };
        self.rebuild(last_rebuild_at)
    }

    /// Takes the tail into the live archive. Where building everything is faster it says so, unless others keep the archive from
    /// being replaced by a rename: publishing would then write everything twice more, and wait for them.
    fn extend_or_restart(&mut self, connection: Connection) -> Result<Outcome, ArchiveError> {
        let path = &self.paths.archive;
        let outcome = self.extend(&connection)?;
        // An open connection of ours would count as somebody else's.
        drop(connection);
        if !matches!(outcome, Outcome::Restart(Restart::RefoldsMost)) || publish::is_free(path)? {
            return Ok(outcome);
        }
        self.is_in_place = true;
        self.counted_from = 0;
        self.session_ids.clear();
        self.extend(&open::open_for_build(path)?)
    }

    /// Takes the tail into the live archive, in one transaction.
    fn extend(&mut self, connection: &Connection) -> Result<Outcome, ArchiveError> {
        let path = &self.paths.archive;
        let transaction = Transaction::begin(connection, path)?;
        open::complete(connection).context(path, "completing its schema")?;
        let Some(state) = open::read_state(connection, path)? else {
            return Err(ArchiveError::Damaged {
                path: path.clone(),
                reason: "it does not keep its state row".to_string(),
            });
        };
        let start = state.ledger_offset_bytes.max(0) as u64;
        let (mut mtime_ms, mut mark) = (state.ledger_mtime_ms, state.ledger_mark);
        // Another program may have stored rows that a rebuild would not.
        self.is_in_place |= !cursor::is_marked(state.ledger_offset_bytes, mark);
        if let Some(source) = self.source.take() {
            let mark_before = cursor::mark(&source, self.end)?;
            let outcome = self.extend_rows(connection, &source, start);
            if let Outcome::Restart(reason) = outcome? {
                self.source = Some(source);
                return Ok(Outcome::Restart(reason));
            }
            mtime_ms = source.mtime_ms();
            mark = cursor::mark(&source, self.end)?;
            if mark != mark_before {
                return Err(ArchiveError::LedgerChanged { ledger: self.paths.ledger.clone() });
            }
            self.result.scanned_bytes = self.end - start;
            self.source = Some(source);
        }
        let state = State {
            ledger_offset_bytes: if self.source.is_some() {
                self.end as i64
            } else {
                state.ledger_offset_bytes
            },
            ledger_mtime_ms: mtime_ms,
            archive_version: VERSION,
            last_built_at: Some(self.timestamp()),
            last_rebuild_at: state.last_rebuild_at,
            ledger_mark: mark,
        };
        open::write_state(connection, &state).context(path, "writing its state")?;
        self.held.still_held()?;
        let committing = Instant::now();
        transaction.commit()?;
        self.result.timings.commit = committing.elapsed();
        Ok(Outcome::Done)
    }

    fn extend_rows(
        &mut self,
        connection: &Connection,
        source: &Source,
        start: u64,
    ) -> Result<Outcome, ArchiveError> {
        let path = &self.paths.archive;
        let input = self.input(source, start);
        if input.range.is_empty() {
            return Ok(Outcome::Done);
        }
        self.report(Phase::Survey, 0, &input)?;
        let surveying = Instant::now();
        let session_stamps = connection
            .query_row("SELECT EXISTS (SELECT 1 FROM stamps WHERE session_id <> '*')", [], |row| row.get(0))
            .context(path, "looking for stamps")?;
        let survey = survey::survey(&self.pool, &input, session_stamps)?;
        let new: Vec<Stamp<'_>> = stamps_of(&survey).collect();
        let candidates =
            refold::turns_to_refold(connection, &new).context(path, "looking for turns to refold")?;
        if !self.is_in_place && is_faster_rebuilt(candidates.rowids.len() as u64, self.end) {
            self.counted_from = start;
            self.session_ids.extend(candidates.sessions.into_values().flatten());
            return Ok(Outcome::Restart(Restart::RefoldsMost));
        }
        let refolded_sessions = candidates.sessions.values().flatten().map(String::as_str);
        let wanted: HashSet<&str> =
            survey.sessions.iter().map(String::as_str).chain(refolded_sessions).collect();
        let archived = match archived_stamps(connection, path, &wanted)? {
            Ok(archived) => archived,
            Err(_) => return Ok(Outcome::Restart(Restart::UnreadableStamp)),
        };
        let fold = Fold::new(new.into_iter().chain(archived.borrow_dependent().iter().copied()).collect());
        self.result.timings.survey = surveying.elapsed();

        let writing = Instant::now();
        let mut touched: HashSet<(String, String)> = candidates
            .sessions
            .into_iter()
            .flat_map(|(source, sessions)| sessions.into_iter().map(move |session| (source.clone(), session)))
            .collect();
        {
            let mut writer = InsertWriter::new(connection).context(path, "preparing to write rows")?;
            let mut last: Option<(String, String)> = None;
            self.rows(&input, &fold, nothing_more, |rows| {
                for turn in &rows.turns {
                    let source = turn.cells[turn_column::SOURCE].as_text();
                    let session = turn.cells[turn_column::SESSION_ID].as_text();
                    if last.as_ref().is_none_or(|(s, id)| s != source || id != session) {
                        let key = (source.to_string(), session.to_string());
                        touched.insert(key.clone());
                        last = Some(key);
                    }
                }
                writer.write(rows).context(path, "writing rows")
            })?;
        }
        self.result.timings.rows = writing.elapsed();

        self.report(Phase::Sessions, self.end - start, &input)?;
        let aggregating = Instant::now();
        refold::refold(connection, &self.pool, &candidates.rowids, &fold)
            .context(path, "folding stamps into turns")?;
        let mut touched: Vec<(String, String)> = touched.into_iter().collect();
        touched.sort_unstable();
        sessions::some(connection, &touched).context(path, "aggregating sessions")?;
        self.result.timings.sessions = aggregating.elapsed();
        self.session_ids.extend(touched.into_iter().map(|(_, session)| session));
        self.result.sessions_touched = self.session_ids.len() as u64;
        Ok(Outcome::Done)
    }

    /// Builds everything from byte 0 in a file beside the archive, and publishes it. What stood there and is no database is
    /// renamed, and gets its name back when the build fails.
    fn rebuild(self, last_rebuild_at: Option<String>) -> Result<BuildResult, ArchiveError> {
        let Some((place, aside)) = set_aside_what_is_no_database(&self.paths.archive)? else {
            return self.rebuild_beside(last_rebuild_at);
        };
        match self.rebuild_beside(last_rebuild_at) {
            Ok(result) => Ok(BuildResult { set_aside: Some(aside), ..result }),
            Err(error) => {
                if !place.exists() {
                    disk::rename(&aside, &place)?;
                }
                Err(error)
            }
        }
    }

    fn rebuild_beside(mut self, last_rebuild_at: Option<String>) -> Result<BuildResult, ArchiveError> {
        let plan = publish::prepare(&self.paths.archive)?;
        let built = plan.build_path().to_path_buf();
        let page_size = match plan.page_size() {
            publish::PAGE_SIZE => self.options.page_size_bytes,
            of_the_live_archive => of_the_live_archive,
        };
        let source = self.source.take();
        let mark_before = source.as_ref().map(|source| cursor::mark(source, self.end)).transpose()?;
        let bulk = match (&source, self.options.loader) {
            (Some(source), Loader::Bulk) => {
                self.bulk_rows(&built, page_size, source)?;
                true
            }
            _ => false,
        };
        let connection = open_built(&built, page_size)?;
        if !bulk {
            self.insert_rows(&connection, &built, source.as_ref())?;
        }
        self.check_and_aggregate(&connection, &built)?;

        let (ledger_mark, ledger_mtime_ms) = match &source {
            Some(source) => (cursor::mark(source, self.end)?, source.mtime_ms()),
            None => (0, 0),
        };
        if mark_before.is_some_and(|mark| mark != ledger_mark) {
            return Err(ArchiveError::LedgerChanged { ledger: self.paths.ledger.clone() });
        }
        let now = self.timestamp();
        let state = State {
            ledger_offset_bytes: self.end as i64,
            ledger_mtime_ms,
            archive_version: VERSION,
            last_rebuild_at: if self.result.rebuilt_from_zero { Some(now.clone()) } else { last_rebuild_at },
            last_built_at: Some(now),
            ledger_mark,
        };
        let committing = Instant::now();
        let transaction = Transaction::begin(&connection, &built)?;
        sessions::keep(&connection).context(&built, "writing sessions")?;
        open::write_state(&connection, &state).context(&built, "writing its state")?;
        transaction.commit()?;
        self.result.timings.commit = committing.elapsed();
        connection.close().map_err(|(_, error)| error).context(&built, "closing it")?;

        self.report_at_end(Phase::Publish)?;
        let held = self.held;
        let published = plan.publish(|| held.still_held().is_ok())?;
        self.result.timings.sync = published.build_sync;
        self.result.timings.publish = published.replacing;
        self.result.scanned_bytes = self.end - self.counted_from;
        self.result.sessions_touched = self.session_ids.len() as u64;
        self.result.duration_ms = self.started.elapsed().as_millis() as u64;
        Ok(self.result)
    }

    /// Every stamp of the ledger, for folding.
    fn survey_all(&mut self, input: &Input<'_>) -> Result<(Survey, Instant), ArchiveError> {
        self.report(Phase::Survey, 0, input)?;
        let surveying = Instant::now();
        Ok((survey::survey(&self.pool, input, false)?, surveying))
    }

    /// Inserts every row through SQLite and creates the indexes; sessions and state are yet to be inserted.
    fn insert_rows(
        &mut self,
        connection: &Connection,
        built: &Path,
        source: Option<&Source>,
    ) -> Result<(), ArchiveError> {
        let transaction = Transaction::begin(connection, built)?;
        open::create_tables(connection).context(built, "creating tables")?;
        if let Some(source) = source {
            let input = self.input(source, 0);
            let (survey, surveying) = self.survey_all(&input)?;
            let fold = Fold::new(stamps_of(&survey).collect());
            self.result.timings.survey = surveying.elapsed();
            let writing = Instant::now();
            let mut writer = InsertWriter::new(connection).context(built, "preparing to write rows")?;
            self.rows(&input, &fold, nothing_more, |rows| writer.write(rows).context(built, "writing rows"))?;
            self.result.timings.rows = writing.elapsed();
        }
        self.report_at_end(Phase::Indexes)?;
        let indexing = Instant::now();
        open::create_indexes(connection).context(built, "creating indexes")?;
        transaction.commit()?;
        self.result.timings.indexes = indexing.elapsed();
        Ok(())
    }

    /// Checks the new file while sessions are aggregated from it: both only read. What is inserted afterwards, through
    /// SQLite, is the sessions and the state row.
    fn check_and_aggregate(&mut self, connection: &Connection, built: &Path) -> Result<(), ArchiveError> {
        self.report_at_end(Phase::Verify)?;
        open::read_mapped(connection).context(built, "mapping it")?;
        let is_checked = self.options.verify;
        let (checked, aggregated) = std::thread::scope(|scope| {
            let check = scope.spawn(|| {
                let started = Instant::now();
                if is_checked { verify(built).map(|()| started.elapsed()) } else { Ok(Duration::ZERO) }
            });
            let started = Instant::now();
            let aggregated = sessions::prepare(connection)
                .context(built, "aggregating sessions")
                .map(|()| started.elapsed());
            let checked = check.join().unwrap_or_else(|_| {
                Err(ArchiveError::Verify { reason: "the check ended without a result".to_string() })
            });
            (checked, aggregated)
        });
        self.result.timings.verify = checked?;
        self.result.timings.sessions = aggregated?;
        Ok(())
    }

    /// Builds the file bottom-up, all rows and indexes; sessions and state are yet to be inserted.
    fn bulk_rows(&mut self, built: &Path, page_size: u32, source: &Source) -> Result<(), ArchiveError> {
        let input = self.input(source, 0);
        let (survey, surveying) = self.survey_all(&input)?;
        let fold = Fold::new(stamps_of(&survey).collect());
        self.result.timings.survey = surveying.elapsed();
        let writing = Instant::now();
        // The loader creates its file exclusively, in the place of the empty one that the plan keeps.
        disk::remove_file(built)?;
        let writer = BulkWriter::create(built, page_size, self.options.memory_bytes)?;
        self.rows(&input, &fold, |rows, number| Ok(writer.write(rows, number)?), |_| Ok(()))?;
        self.result.timings.rows = writing.elapsed();
        self.report(Phase::Indexes, self.end, &input)?;
        let indexing = Instant::now();
        self.pool.install(|| writer.finish())?;
        self.result.timings.indexes = indexing.elapsed();
        Ok(())
    }

    /// The ledger from `start` on.
    fn input<'s>(&self, source: &'s Source, start: u64) -> Input<'s> {
        Input {
            source,
            range: start..self.end,
            chunk_bytes: self.options.chunk_bytes,
            cut_at: self.counted_from,
        }
    }

    /// Runs the pipeline over `input`, counts and reports findings behind `counted_from`, and hands rows to `write`.
    fn rows<'f>(
        &mut self,
        input: &Input<'_>,
        fold: &Fold<'f>,
        work: impl Fn(&Rows<'_>, u64) -> Result<(), ArchiveError> + Sync,
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
            match observer.progress(Progress { phase: Phase::Rows, done_bytes, total_bytes }) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(ArchiveError::Interrupted),
            }
        })?;
        strict_failure.map_or(Ok(()), Err)
    }

    fn report(&mut self, phase: Phase, done_bytes: u64, input: &Input<'_>) -> Result<(), ArchiveError> {
        let total_bytes = input.range.end - input.range.start;
        match self.observer.progress(Progress { phase, done_bytes, total_bytes }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ArchiveError::Interrupted),
        }
    }

    fn report_at_end(&mut self, phase: Phase) -> Result<(), ArchiveError> {
        match self.observer.progress(Progress { phase, done_bytes: self.end, total_bytes: self.end }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ArchiveError::Interrupted),
        }
    }

    /// A full rebuild replaces archives, damaged ones too, and files that are no database, which are set aside; it leaves
    /// another program's database alone.
    fn refuse_to_replace(&self) -> Result<(), ArchiveError> {
        let path = &self.paths.archive;
        match open::open_read_only(path) {
            Ok(connection) => match open::is_foreign(&connection, path) {
                Ok(false) | Err(ArchiveError::Damaged { .. }) => {}
                Ok(true) => return Err(ArchiveError::NotAnArchive { path: path.clone() }),
                Err(error) => return Err(error),
            },
            Err(ArchiveError::Missing { .. } | ArchiveError::Damaged { .. }) => {}
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
            Err(ArchiveError::Damaged { .. }) => true,
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

    /// ISO 8601 in UTC with milliseconds, as JavaScript prints it.
    fn timestamp(&self) -> String {
        let now = self.options.now.unwrap_or_else(SystemTime::now);
        let now = jiff::Timestamp::try_from(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
    }
}

/// Whether refolding `turns` archived turns in place takes longer than building the archive of a ledger of `ledger_bytes`
/// anew. Measured: a turn that is refolded costs 5 to 7 µs in the live archive, a rebuild 2 to 3 ms a megabyte.
fn is_faster_rebuilt(turns: u64, ledger_bytes: u64) -> bool {
    const TURNS_MIN: u64 = 50_000;
    const BYTES_PER_TURN: u64 = 1536;
    turns >= TURNS_MIN && ledger_bytes / BYTES_PER_TURN < turns
}

/// Adds what stands in `rows` to the counts of a result.
fn count(rows: &Rows<'_>, result: &mut BuildResult, session_ids: &mut HashSet<String>) {
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
    let turn_sessions = rows.turns.iter().map(|turn| turn.cells[turn_column::SESSION_ID].as_text());
    let stamp_sessions = rows.stamps.iter().filter_map(|line| line.stamp.selector.session);
    for session in turn_sessions.chain(stamp_sessions) {
        if !session_ids.contains(session) {
            session_ids.insert(session.to_string());
        }
    }
}

/// Opens the file of a rebuild, which nobody else knows: a crash throws it away, so nothing of it is journalled.
fn open_built(built: &Path, page_size: u32) -> Result<Connection, ArchiveError> {
    let connection = Connection::open(built).context(built, "opening it")?;
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {page_size};
             PRAGMA journal_mode = OFF;
             PRAGMA synchronous = OFF;
             PRAGMA cache_size = -{};
             PRAGMA foreign_keys = OFF;",
            open::BUILD_CACHE_KIB
        ))
        .context(built, "setting it up")?;
    Ok(connection)
}

/// What workers of an inserting build do with rows besides making them.
fn nothing_more(_: &Rows<'_>, _: u64) -> Result<(), ArchiveError> {
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

/// A file in the archive's place that does not begin as a database does may be anything: it is renamed, not replaced.
/// Answers its old name, links resolved, and its new one.
fn set_aside_what_is_no_database(archive: &Path) -> Result<Option<(PathBuf, PathBuf)>, ArchiveError> {
    let Ok(place) = std::fs::canonicalize(archive) else { return Ok(None) };
    if !disk::metadata(&place)?.is_file {
        return Ok(None);
    }
    let mut start = [0; 16];
    let file = disk::File::open_read_no_follow(&place)?;
    if file.len_bytes()? == 0 || file.read_at(&mut start, 0)? == 16 && &start == b"SQLite format 3\0" {
        return Ok(None);
    }
    let mut aside = place.as_os_str().to_owned();
    aside.push(format!(".set-aside-{}", jiff::Timestamp::now().as_millisecond()));
    let aside = PathBuf::from(aside);
    disk::rename(&place, &aside)?;
    Ok(Some((place, aside)))
}

enum Outcome {
    Done,
    Restart(Restart),
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

fn stamps_of(survey: &Survey) -> impl Iterator<Item = Stamp<'_>> {
    survey.stamps.iter().flat_map(|set| set.borrow_dependent().iter().copied())
}

/// The archived stamps that may apply to turns of the given sessions, or why one of them cannot be read.
fn archived_stamps(
    connection: &Connection,
    path: &Path,
    sessions: &HashSet<&str>,
) -> Result<Result<StampSet, String>, ArchiveError> {
    let sql = "SELECT ts, selector_json, enrichment_json, ledger_offset_bytes FROM stamps
               WHERE source = '*' AND session_id = ?";
    let mut statement = connection.prepare(sql).context(path, "reading stamps")?;
    let mut document = json::Document::default();
    let mut unreadable = None;
    let set = StampSet::try_new(Bump::new(), |arena| {
        let mut stamps = Vec::new();
        for session in std::iter::once("*").chain(sessions.iter().copied().filter(|session| *session != "*"))
        {
            let mut rows = statement.query([session])?;
            while let Some(row) = rows.next()? {
                let (ts, selector): (String, Option<String>) = (row.get(0)?, row.get(1)?);
                let (enrichment, offset): (String, i64) = (row.get(2)?, row.get(3)?);
                let selector = selector.as_deref().unwrap_or("{}");
                match stored_stamp(&mut document, &ts, offset.max(0) as u64, selector, &enrichment, arena) {
                    Ok(stamp) => stamps.push(stamp),
                    Err(reason) => unreadable = Some(reason),
                }
            }
        }
        Ok(stamps)
    })
    .context(path, "reading stamps")?;
    Ok(match unreadable {
        None => Ok(set),
        Some(reason) => Err(reason),
    })
}

/// SQLite's own check of a file that nobody writes.
fn verify(path: &Path) -> Result<(), ArchiveError> {
    let connection = open::open_immutable(path)?;
    open::read_mapped(&connection).context(path, "mapping it")?;
    let first: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).context(path, "checking it")?;
    if first == "ok" { Ok(()) } else { Err(ArchiveError::Verify { reason: first }) }
}

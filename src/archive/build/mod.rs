//! Builds the archive: adds the lines after the cursor to the live file, or builds everything in a new file that
//! replaces the live file.
//!
//! This module holds lock `archive` while it works. Builds write the archive, the file that the archive is built in, and
//! the copies and renamed files that a build keeps. Every build has the same phases, in [`Build::run`]; builds differ in
//! the [`BuildTarget`]: [`live`] writes to the live archive in one transaction; [`new_file`] writes to a new file, by
//! inserting or with the bulk loader, and publishes the file when it is complete. This file has the phases and chooses
//! the target.

use std::path::Path;
use std::time::{Instant, SystemTime};

use rusqlite::Connection;

use crate::archive::cursor::{self, Restart};
use crate::archive::error::ArchiveError;
use crate::archive::open::{self, ArchiveState};
use crate::archive::pipeline::{self, PipelineInput};
use crate::archive::schema::VERSION;
use crate::archive::survey::{self, Survey, SurveyOf, stamps_of};
use crate::disk;
use crate::publish;
use crate::record::fold::Fold;
use crate::record::time;
use crate::scan::Source;
use crate::sqlite_file;

mod live;
mod lost;
mod new_file;
mod options;
mod progress;
mod result;
mod run;

use self::live::LiveArchive;
use self::lost::LedgerLoss;
use self::new_file::NewArchive;
pub use options::{Load, Options, Paths};
pub use progress::{Observer, Phase, Progress, Unobserved};
pub use result::{BuildResult, Timings};
use run::{Build, Distinct, MappedLedger};

/// Adds the ledger's lines after the archive's cursor to the archive. Creates the archive when it is missing. When
/// the cursor does not fit the ledger, everything is built again from byte 0.
///
/// Holds the lock of `paths`. Other processes may append to the ledger meanwhile; the appended lines are left for the
/// next build.
///
/// # Errors
/// Any [`ArchiveError`]; the archive is then unchanged.
pub fn build_tail(
    paths: &Paths,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<BuildResult, ArchiveError> {
    locked(paths, options, observer, |build| build.tail())
}

/// Builds a new archive from byte 0 and replaces the old archive with it. Readers have the old archive until then.
///
/// # Errors
/// Any [`ArchiveError`]; the archive is then unchanged.
pub fn rebuild_full(
    paths: &Paths,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<BuildResult, ArchiveError> {
    locked(paths, options, observer, |build| build.full())
}

/// Where a build writes. A target that is dropped before it is published leaves the archive unchanged.
#[expect(clippy::large_enum_variant, reason = "one value a build")]
enum BuildTarget {
    /// The live archive, in one transaction.
    Live(LiveArchive),
    /// A new file that replaces the archive: filled by the bulk loader, or by inserting.
    New(NewArchive),
}

impl<'b> Build<'b> {
    /// The phases of every build: input, survey, rows, load, sessions and check, state, publish. `before` is the state row
    /// of the target. Returns why the archive has to be built from byte 0 instead; `None` when the archive is built.
    fn run(
        &mut self,
        before: ArchiveState,
        mut target: BuildTarget,
    ) -> Result<Option<Restart>, ArchiveError> {
        // Input: the whole lines after the target's cursor.
        let start = before.ledger_offset_bytes.max(0) as u64;
        let input = self.input(start);
        // Without new lines the bytes before the end are the bytes whose mark was checked when the target was chosen.
        let mark = match input {
            None if start == self.ledger.end && before.is_ours() => before.ledger_mark,
            _ => self.ledger.mark()?,
        };
        self.result.scanned_bytes = self.ledger.end.saturating_sub(start.max(self.counted_from));

        // Survey: the stamps, because a stamp changes turns before and after it, and workers enrich each turn once.
        let surveying = Instant::now();
        let mut survey = Survey::default();
        if let Some(input) = &input {
            self.report(Phase::Survey, 0, self.ledger.end - start)?;
            survey = match &mut target {
                BuildTarget::Live(live) => live.survey(self, input)?,
                BuildTarget::New(_) => survey::survey(&self.pool, input, SurveyOf::Stamps)?,
            };
        }
        if survey.restart.is_some() {
            return Ok(survey.restart);
        }
        let fold = Fold::new(stamps_of(&survey.stamps));
        self.result.timings.survey = surveying.elapsed();

        // Rows: made of the lines on all cores, in the order of the ledger.
        let writing = Instant::now();
        if let Some(input) = &input {
            match &mut target {
                BuildTarget::Live(live) => live.rows(self, input, &fold)?,
                BuildTarget::New(new) => new.rows(self, input, &fold)?,
            }
        }
        self.result.timings.rows = writing.elapsed();

        // Load: the rows of a new file become tables and indexes. The live archive has them.
        if let BuildTarget::New(new) = &mut target {
            new.load(self)?;
        }

        // Sessions, aggregated from the turns; meanwhile SQLite checks a new file.
        match &mut target {
            BuildTarget::Live(live) => live.sessions(self, &fold)?,
            BuildTarget::New(new) => new.sessions_and_check(self)?,
        }

        // State: the new cursor, if the bytes before it are still the bytes that were read.
        if input.is_some() && self.ledger.mark()? != mark {
            return Err(ArchiveError::LedgerChanged { ledger: self.paths.ledger.clone() });
        }
        let built_at = Some(time::iso_millis(self.options.now.unwrap_or_else(SystemTime::now)));
        let is_full = self.result.rebuilt_from_zero;
        let mut state = ArchiveState {
            archive_version: VERSION,
            last_rebuild_at: if is_full { built_at.clone() } else { before.last_rebuild_at },
            last_built_at: built_at,
            are_turns_dated: before.are_turns_dated && self.are_turns_dated,
            ..before
        };
        if let Some(source) = &self.ledger.source {
            state.ledger_offset_bytes = self.ledger.end as i64;
            state.ledger_mtime_ms = source.mtime_ms();
            state.ledger_mark = mark;
        }

        // Publish: the sessions and the state are committed, and readers get the new rows.
        match target {
            BuildTarget::Live(live) => live.commit(self, &state)?,
            BuildTarget::New(new) => new.publish(self, &state)?,
        }
        Ok(None)
    }

    /// Returns the whole lines of the ledger from `start`; `None` when there are none.
    fn input(&self, start: u64) -> Option<PipelineInput<'b>> {
        let MappedLedger { source, end, .. } = self.ledger;
        source.as_ref().filter(|_| start < *end).map(|source| PipelineInput {
            source,
            range: start..*end,
            chunk_bytes: self.options.chunk_bytes,
            cut_at: self.counted_from,
            interrupt: self.options.interrupt.clone(),
        })
    }

    /// Chooses the target of a tail build: the live archive when its cursor fits the ledger, else a new file.
    fn tail(&mut self) -> Result<(), ArchiveError> {
        let path = &self.paths.archive;
        if !open::exists(path)? {
            return self.rebuild(None, None);
        }
        let connection = open::open_for_build(path, &self.options.interrupt)?;
        let state = open::read_state(&connection, path)?;
        let mut restart = match (&state, &self.ledger.source) {
            (Some(state), Some(source)) if !is_untouched(source, state) => {
                cursor::check(source, state.ledger_offset_bytes, state.ledger_mark, &self.ledger.checked)?
            }
            _ => None,
        };
        let has_rows = open::has_rows(&connection, path)?;
        let lost = restart.clone().filter(|_| has_rows).map(LedgerLoss::of_tail);
        if let Some(lost) = &lost {
            self.refuse_loss_if_strict(lost)?;
        }
        if state.as_ref().is_some_and(|state| state.archive_version != VERSION) {
            restart = Some(Restart::OtherVersion);
        }
        let is_empty = state.as_ref().is_none_or(|state| state.ledger_offset_bytes == 0) && !has_rows;
        if restart.is_none() && !(is_empty && self.ledger.end > 0) {
            restart = self.extend(connection)?;
            if restart.is_none() {
                return Ok(());
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
        self.rebuild(last_rebuild_at, lost)
    }

    /// Builds into the live archive. Returns the reason to restart where a full rebuild is faster. A rebuild is faster even
    /// when other processes have the archive open and publishing writes everything twice more, because refolding in the
    /// live archive writes most pages as often, and on one core.
    fn extend(&mut self, connection: Connection) -> Result<Option<Restart>, ArchiveError> {
        let path = &self.paths.archive;
        publish::sweep(path)?;
        let (live, before) = LiveArchive::begin(path, connection, &self.options.interrupt)?;
        self.run(before, BuildTarget::Live(live))
    }

    /// Builds everything in a new file, if the archive may be replaced.
    fn full(&mut self) -> Result<(), ArchiveError> {
        self.refuse_to_replace()?;
        let lost = self.look_for_cut()?;
        self.result.rebuilt_from_zero = true;
        self.rebuild(None, lost)
    }

    /// Builds everything from byte 0 in a new file. A file in the archive's place that is not a database is renamed
    /// first, and gets its name back when the build fails.
    fn rebuild(
        &mut self,
        last_rebuild_at: Option<String>,
        lost: Option<LedgerLoss>,
    ) -> Result<(), ArchiveError> {
        let plan = publish::prepare(&self.paths.archive)?;
        let place = plan.live_path().to_path_buf();
        let mut aside = None;
        // SQLite decides whether the file is a database. The file is not opened without SQLite, because closing it
        // would end this process's locks on it.
        if plan.found() == publish::FoundLive::NotADatabase {
            if !self.options.force {
                return Err(ArchiveError::NotADatabase { path: place });
            }
            aside = Some(plan.move_aside()?);
            self.result.set_aside = aside.clone();
            self.result.set_aside_reason =
                Some("what was in the archive's place is no database and was renamed".to_string());
        }
        let before = ArchiveState { last_rebuild_at, are_turns_dated: true, ..ArchiveState::default() };
        let built =
            NewArchive::create(self, plan, lost).and_then(|new| self.run(before, BuildTarget::New(new)));
        if let (Some(aside), true) = (aside, built.is_err() && !place.exists()) {
            disk::rename(&aside, &place)?;
        }
        built.map(|_| ())
    }

    /// Refuses to replace another program's database, and a file that is not a database unless `force` is set. A full
    /// rebuild replaces archives, including damaged archives.
    fn refuse_to_replace(&self) -> Result<(), ArchiveError> {
        let path = &self.paths.archive;
        match open::open_read_only(path).and_then(|archive| open::is_foreign(&archive, path)) {
            Ok(true) => Err(ArchiveError::NotAnArchive { path: path.clone() }),
            Ok(false) | Err(ArchiveError::Missing { .. } | ArchiveError::Damaged { .. }) => {
                self.refuse_to_empty()
            }
            Err(ArchiveError::NotADatabase { .. }) if self.options.force => self.refuse_to_empty(),
            // It is unknown whose file this is, for example because another process keeps the file locked.
            Err(error) => Err(error),
        }
    }

    /// Refuses a build without a ledger when the archive has rows, because a build from byte 0 would remove every
    /// row.
    fn refuse_to_empty(&self) -> Result<(), ArchiveError> {
        let path = &self.paths.archive;
        if self.ledger.source.is_some() || !path.exists() {
            return Ok(());
        }
        let is_kept = match open::open_read_only(path).and_then(|archive| open::has_rows(&archive, path)) {
            // A file that cannot be read may have rows that a person can still save.
            Err(ArchiveError::Damaged { .. } | ArchiveError::NotADatabase { .. }) => true,
            found => found?,
        };
        if is_kept {
            let Paths { ledger, archive, .. } = self.paths.clone();
            return Err(ArchiveError::LedgerMissing { ledger, archive });
        }
        Ok(())
    }
}

/// Whether nobody has written to the ledger since the last build, which read all of the ledger.
///
/// Every write sets the ledger's time of modification. A write shortly before the build could have the same time as a
/// write after the build, so the ledger must have been at rest for a while.
pub(super) fn is_untouched(source: &Source, state: &ArchiveState) -> bool {
    const REST_MS: i64 = 2000;
    let built_ms = |at: time::Instant| at.seconds * 1000 + i64::from(at.nanos / 1_000_000);
    let built_at = state.last_built_at.as_deref().and_then(time::Instant::of_turn).map(built_ms);
    u64::try_from(state.ledger_offset_bytes) == Ok(source.len_bytes())
        && state.is_ours()
        && state.ledger_mtime_ms == source.mtime_ms()
        && built_at.is_some_and(|built_at| state.ledger_mtime_ms.saturating_add(REST_MS) < built_at)
}

/// Maps the ledger and builds under the lock of `paths`.
fn locked(
    paths: &Paths,
    options: &Options,
    observer: &mut dyn Observer,
    build: impl FnOnce(&mut Build<'_>) -> Result<(), ArchiveError>,
) -> Result<BuildResult, ArchiveError> {
    refuse_one_file(paths)?;
    paths.locked(&options.interrupt, |held| {
        let started = Instant::now();
        sqlite_file::check_page_size(options.page_size_bytes).map_err(ArchiveError::bulk(&paths.archive))?;
        open::refuse_no_files(&paths.archive)?;
        let ledger = MappedLedger::open(paths, options)?;
        let mut running = Build {
            paths,
            options,
            observer,
            held,
            ledger: &ledger,
            pool: pipeline::workers(options.threads)?,
            counted_from: 0,
            are_turns_dated: true,
            result: BuildResult::default(),
            session_ids: Distinct::default(),
        };
        build(&mut running)?;
        let Build { mut result, session_ids, .. } = running;
        result.sessions_touched = session_ids.len();
        result.duration_ms = started.elapsed().as_millis() as u64;
        Ok(result)
    })
}

/// Refuses paths of ledger and archive that resolve to the same file.
fn refuse_one_file(paths: &Paths) -> Result<(), ArchiveError> {
    let resolved = |path: &Path| std::fs::canonicalize(path).ok();
    let (ledger, archive) = (resolved(&paths.ledger), resolved(&paths.archive));
    if ledger.is_some() && ledger == archive {
        return Err(ArchiveError::SameFile { path: paths.ledger.clone() });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::schema::TABLES;

    /// A new kind of line has an example in the manual, so that this test asks for its rows.
    #[test]
    fn every_table_gets_rows_from_every_target() {
        let manual = include_str!("../../../docs/records.md");
        let lines: Vec<&str> = manual.lines().filter(|line| line.starts_with("{\"v\":1,\"kind\":")).collect();
        let ledger = lines.join("\n") + "\n";
        for (load, is_tail) in [(Load::Bulk, false), (Load::Insert, false), (Load::Bulk, true)] {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            let paths = Paths::offline(at("ledger.jsonl"), at("archive.sqlite"));
            let options = Options { load, ..Options::default() };
            if is_tail {
                // The first line of a ledger makes a new file; the other lines are a tail.
                std::fs::write(&paths.ledger, "\n").unwrap();
                build_tail(&paths, &options, &mut Unobserved).unwrap();
            }
            let before = if is_tail { "\n" } else { "" };
            std::fs::write(&paths.ledger, format!("{before}{ledger}")).unwrap();
            build_tail(&paths, &options, &mut Unobserved).unwrap();
            let archive = Connection::open(&paths.archive).unwrap();
            for table in TABLES {
                let sql = format!("SELECT count(*) FROM {}", table.name);
                let rows: i64 = archive.query_row(&sql, [], |row| row.get(0)).unwrap();
                assert!(rows > 0, "{} {load:?} {is_tail}", table.name);
            }
        }
    }
}

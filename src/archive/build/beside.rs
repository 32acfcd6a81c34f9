//! Builds the whole archive in a separate file beside the live archive, and publishes the file.
//!
//! Touches: the new file and the archive that it replaces; a copy of the old archive when the ledger lost lines that
//! the old archive has; a file in the archive's place that is not a database, by renaming it. Guarantees: until the
//! new archive is complete the old archive is unchanged.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::options::Load;
use super::progress::Phase;
use super::result::BuildResult;
use super::run::{Build, Transaction, nothing_more, stamps_of};
use crate::archive::cursor;
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::load::InsertWriter;
use crate::archive::load_bulk::BulkWriter;
use crate::archive::open::{self, State};
use crate::archive::pipeline::Input;
use crate::archive::schema::VERSION;
use crate::archive::sessions;
use crate::archive::survey::{self, Survey};
use crate::disk;
use crate::interrupt::Interrupt;
use crate::publish;
use crate::record::fold::Fold;
use crate::record::rows::Rows;
use crate::scan::Source;
use crate::sqlite_file::SqliteFileError;

impl Build<'_> {
    /// Builds everything from byte 0 in a file beside the archive, and publishes the file. A file in the archive's
    /// place that is not a database is renamed first, and gets its name back when the build fails.
    pub(super) fn rebuild(mut self, last_rebuild_at: Option<String>) -> Result<BuildResult, ArchiveError> {
        let plan = publish::prepare(&self.paths.archive)?;
        // SQLite decides whether the file is a database. The file is not opened without SQLite, because closing it
        // would end this process's locks on it.
        if plan.found() != publish::Found::NotADatabase {
            return self.rebuild_beside(plan, last_rebuild_at);
        }
        let place = plan.live_path().to_path_buf();
        if !self.options.force {
            return Err(ArchiveError::NotADatabase { path: place });
        }
        let aside = plan.move_aside()?;
        self.result.set_aside = Some(aside.clone());
        self.result.set_aside_reason =
            Some("what was in the archive's place is no database and was renamed".to_string());
        let built = self.rebuild_beside(plan, last_rebuild_at);
        if built.is_err() && !place.exists() {
            disk::rename(&aside, &place)?;
        }
        built
    }

    fn rebuild_beside(
        mut self,
        plan: publish::Plan,
        last_rebuild_at: Option<String>,
    ) -> Result<BuildResult, ArchiveError> {
        let built = plan.build_path().to_path_buf();
        let page_size = match plan.page_size() {
            publish::PAGE_SIZE => self.options.page_size_bytes,
            of_the_live_archive => of_the_live_archive,
        };
        let source = self.source.take();
        let mark_before = source.as_ref().map(|source| cursor::mark(source, self.end)).transpose()?;
        let bulk = match (&source, self.options.load) {
            (Some(source), Load::Bulk) => {
                self.bulk_rows(&built, page_size, source)?;
                true
            }
            _ => false,
        };
        let connection = open_built(&built, page_size, &self.options.interrupt)?;
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
        let kept = self.keep_what_is_lost(&plan, &built)?;
        let held = self.held;
        let published = plan.publish(|| held.still_held().is_ok());
        if let (Some(kept), Err(error)) = (kept.filter(|kept| kept.is_new), &published)
            && !matches!(error, publish::PublishError::NotDurable { .. })
        {
            // The archive still exists, so the copy is not needed; the error to report is the error of publishing.
            let _ = disk::remove_file(&kept.path);
        }
        let published = published?;
        self.result.timings.sync = published.build_sync;
        self.result.timings.publish = published.replacing;
        self.result.scanned_bytes = self.end - self.counted_from;
        self.result.sessions_touched = self.session_ids.len();
        self.result.duration_ms = self.started.elapsed().as_millis() as u64;
        Ok(self.result)
    }

    /// Finds every stamp of the ledger, for folding. Returns the survey and the time when it began.
    fn survey_all(&mut self, input: &Input<'_>) -> Result<(Survey, Instant), ArchiveError> {
        self.report(Phase::Survey, 0, input)?;
        let surveying = Instant::now();
        Ok((survey::survey(&self.pool, input, false)?, surveying))
    }

    /// Inserts every row through SQLite and creates the indexes; does not write sessions and state.
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
            let fold = Fold::new(stamps_of(&survey));
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

    /// Checks the new file while sessions are aggregated from it; both only read. Only the sessions and the state row
    /// are inserted after the check, through SQLite.
    fn check_and_aggregate(&mut self, connection: &Connection, built: &Path) -> Result<(), ArchiveError> {
        self.report_at_end(Phase::Verify)?;
        open::read_mapped(connection).context(built, "mapping it")?;
        let is_checked = self.options.verify || cfg!(debug_assertions);
        let interrupt = self.options.interrupt.clone();
        let archive = &self.paths.archive;
        let (checked, aggregated) = std::thread::scope(|scope| {
            let check = scope.spawn(|| {
                let started = Instant::now();
                if is_checked {
                    verify(built, archive, &interrupt).map(|()| started.elapsed())
                } else {
                    Ok(Duration::ZERO)
                }
            });
            let started = Instant::now();
            let aggregated = sessions::prepare(connection)
                .context(built, "aggregating sessions")
                .map(|()| started.elapsed());
            let checked = check.join().unwrap_or_else(|_| {
                Err(ArchiveError::Verify {
                    path: archive.clone(),
                    reason: "the check ended without a result".to_string(),
                })
            });
            (checked, aggregated)
        });
        self.result.timings.verify = checked?;
        self.result.timings.sessions = aggregated?;
        Ok(())
    }

    /// Builds the file bottom-up, with all rows and indexes; does not write sessions and state.
    fn bulk_rows(&mut self, built: &Path, page_size: u32, source: &Source) -> Result<(), ArchiveError> {
        let input = self.input(source, 0);
        let (survey, surveying) = self.survey_all(&input)?;
        let fold = Fold::new(stamps_of(&survey));
        self.result.timings.survey = surveying.elapsed();
        let writing = Instant::now();
        // The empty file of the plan is removed, because the loader creates its file exclusively.
        disk::remove_file(built)?;
        let archive = &self.paths.archive;
        let writer = BulkWriter::create(built, page_size, self.options.memory_bytes)
            .map_err(ArchiveError::bulk(archive))?;
        let take = |rows: &Rows<'_>, place| writer.write(rows, place).map_err(ArchiveError::bulk(archive));
        self.rows(&input, &fold, take, |_| Ok(()))?;
        self.result.timings.rows = writing.elapsed();
        self.report(Phase::Indexes, self.end, &input)?;
        let indexing = Instant::now();
        let interrupt = &self.options.interrupt;
        self.pool.install(|| writer.finish(interrupt)).map_err(|error| match error {
            SqliteFileError::Interrupted => ArchiveError::Interrupted,
            error => ArchiveError::bulk(archive)(error),
        })?;
        self.result.timings.indexes = indexing.elapsed();
        Ok(())
    }
}

/// Opens the file of a rebuild without a journal, because no other process uses the file and a crash discards it.
/// Never creates the file, because a missing file is an error and a new file would be published empty.
fn open_built(built: &Path, page_size: u32, interrupt: &Interrupt) -> Result<Connection, ArchiveError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(built, flags).context(built, "opening it")?;
    open::interruptible(&mut connection, interrupt).context(built, "opening it")?;
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

/// Runs SQLite's own check on a file that no process writes: `quick_check`, or in a debug build `integrity_check`,
/// which compares each index with its table.
fn verify(path: &Path, archive: &Path, interrupt: &Interrupt) -> Result<(), ArchiveError> {
    let mut connection = open::open_immutable(path)?;
    open::interruptible(&mut connection, interrupt).context(path, "opening it")?;
    open::read_mapped(&connection).context(path, "mapping it")?;
    let check = if cfg!(debug_assertions) { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
    let first: String = connection.query_row(check, [], |row| row.get(0)).context(path, "checking it")?;
    if first == "ok" {
        Ok(())
    } else {
        Err(ArchiveError::Verify { path: archive.to_path_buf(), reason: first })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_build_file_that_is_gone_is_not_created_again() {
        let directory = tempfile::tempdir().unwrap();
        let built = directory.path().join("archive.sqlite.rebuild");
        let refused = open_built(&built, 4096, &Interrupt::new()).unwrap_err().to_string();
        assert!(refused.contains("archive.sqlite.rebuild"), "{refused}");
        assert!(!built.exists());
    }
}

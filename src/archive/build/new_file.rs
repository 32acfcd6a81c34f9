//! A new file beside the live archive as the target of a build: all rows, written by the bulk loader or inserted through
//! SQLite; then sessions and state; then the file is published.
//!
//! Touches: the new file and the archive that it replaces; a copy of the old archive when the ledger lost lines that
//! the old archive has. Guarantees: until the new archive is complete the old archive is unchanged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rusqlite::{Connection, OpenFlags};

use super::lost::LedgerLoss;
use super::options::Load;
use super::progress::Phase;
use super::run::{Build, no_work};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::load::InsertWriter;
use crate::archive::load_bulk::BulkWriter;
use crate::archive::open::{self, ArchiveState};
use crate::archive::pipeline::PipelineInput;
use crate::archive::schema::TABLES;
use crate::archive::session_rows::SessionRows;
use crate::archive::sessions;
use crate::disk;
use crate::interrupt::Interrupt;
use crate::publish;
use crate::record::fold::Fold;
use crate::record::rows::Rows;
use crate::sqlite_file::Loaded;

/// If the aggregated sessions need more than this fraction (1/16) of the memory for rows, SQL aggregates them instead.
const SESSIONS_SHARE: usize = 16;

/// A new archive file that a full rebuild is writing.
pub(super) struct NewArchive {
    /// The bulk loader until it has written the file; `None` when rows are inserted.
    bulk: Option<BulkWriter>,
    /// What the bulk loader has written, until it is synced.
    loaded: Option<Loaded>,
    /// The sessions, if they were aggregated while the file was written.
    sessions: Option<SessionRows>,
    /// Opened when SQLite is first needed.
    connection: Option<Connection>,
    lost: Option<LedgerLoss>,
    page_size: u32,
    build_path: PathBuf,
    /// Dropped last, because dropping the plan removes the file.
    plan: publish::PublishPlan,
}

impl NewArchive {
    /// Begins to write the file of `plan`. `lost` says what the ledger lost since the old archive was built; then the old archive is kept.
    pub(super) fn create(
        build: &Build<'_>,
        plan: publish::PublishPlan,
        lost: Option<LedgerLoss>,
    ) -> Result<Self, ArchiveError> {
        let page_size = match plan.page_size() {
            publish::PAGE_SIZE => build.options.page_size_bytes,
            of_the_live_archive => of_the_live_archive,
        };
        let build_path = plan.build_path().to_path_buf();
        let (bulk, loaded, sessions, connection) = Default::default();
        let mut new = Self { bulk, loaded, sessions, connection, lost, page_size, build_path, plan };
        match build.options.load {
            Load::Bulk => {
                // The empty file of the plan is removed, because the loader creates its file exclusively.
                disk::remove_file(&new.build_path)?;
                let created = BulkWriter::create(&new.build_path, page_size, build.options.memory_bytes);
                new.bulk = Some(created.map_err(ArchiveError::bulk(&build.paths.archive))?);
            }
            Load::Insert => {
                let (connection, built) = new.open(build)?;
                connection.execute_batch("BEGIN IMMEDIATE").context(built, "beginning a transaction")?;
                open::create_tables(connection).context(built, "creating tables")?;
            }
        }
        Ok(new)
    }

    fn open(&mut self, build: &Build<'_>) -> Result<(&Connection, &Path), ArchiveError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => open_built(&self.build_path, self.page_size, &build.options.interrupt)?,
        };
        Ok((self.connection.insert(connection), &self.build_path))
    }

    /// Writes the rows of `input`.
    pub(super) fn rows(
        &mut self,
        build: &mut Build<'_>,
        input: &PipelineInput<'_>,
        fold: &Fold<'_>,
    ) -> Result<(), ArchiveError> {
        let archive = &build.paths.archive;
        if let Some(bulk) = &self.bulk {
            // The workers also encode the rows.
            let encode =
                |rows: &Rows<'_>, place| bulk.write(rows, place).map_err(ArchiveError::bulk(archive));
            return build.rows(input, fold, encode, |_| Ok(()));
        }
        let (connection, built) = self.open(build)?;
        let mut writer = InsertWriter::new(connection).context(built, "preparing to write rows")?;
        build.rows(input, fold, no_work, |rows| writer.write(rows).context(built, "writing rows"))
    }

    /// Builds the tables and indexes of the rows.
    pub(super) fn load(&mut self, build: &mut Build<'_>) -> Result<(), ArchiveError> {
        build.report_at_end(Phase::Indexes)?;
        let indexing = Instant::now();
        if let Some(bulk) = self.bulk.take() {
            let mut sessions = SessionRows::new(build.options.memory_bytes / SESSIONS_SHARE);
            let finished = build.pool.install(|| bulk.finish(&mut sessions, &build.options.interrupt));
            self.loaded = Some(finished.map_err(ArchiveError::bulk(&build.paths.archive))?);
            self.sessions = Some(sessions).filter(SessionRows::is_complete);
        } else {
            let (connection, built) = self.open(build)?;
            open::create_indexes(connection).context(built, "creating indexes")?;
            connection.execute_batch("COMMIT").context(built, "committing")?;
        }
        build.result.timings.indexes = indexing.elapsed();
        Ok(())
    }

    /// Checks the new file while its pages are synced. Sessions that were not aggregated before are aggregated meanwhile. After the
    /// check, SQLite inserts only the sessions and the state row, so the sync before publishing has little to write.
    pub(super) fn sessions_and_check(&mut self, build: &mut Build<'_>) -> Result<(), ArchiveError> {
        build.report_at_end(Phase::Verify)?;
        let (loaded, has_sessions) = (self.loaded.take(), self.sessions.is_some());
        let (connection, built) = self.open(build)?;
        open::read_mapped(connection).context(built, "mapping it")?;
        let Build { options, paths, result, pool, .. } = build;
        let archive = &paths.archive;
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| loaded.map_or(Ok(()), |loaded| loaded.file.sync_all()));
            let check = scope.spawn(|| {
                let started = Instant::now();
                if options.verify || cfg!(debug_assertions) {
                    pool.install(|| verify(built, archive, &options.interrupt)).map(|()| started.elapsed())
                } else {
                    Ok(Duration::ZERO)
                }
            });
            if !has_sessions {
                let started = Instant::now();
                sessions::prepare(connection).context(built, "aggregating sessions")?;
                result.timings.sessions = started.elapsed();
            }
            let ended = |what: &str| ArchiveError::Verify {
                path: archive.clone(),
                reason: format!("the {what} ended without a result"),
            };
            result.timings.verify = check.join().unwrap_or_else(|_| Err(ended("check")))?;
            sync.join().map_err(|_| ended("sync"))??;
            Ok(())
        })
    }

    /// Writes sessions and state, and replaces the live archive with the file.
    pub(super) fn publish(mut self, build: &mut Build<'_>, state: &ArchiveState) -> Result<(), ArchiveError> {
        let committing = Instant::now();
        let sessions = self.sessions.take();
        let (connection, built) = self.open(build)?;
        connection.execute_batch("BEGIN IMMEDIATE").context(built, "beginning a transaction")?;
        match sessions {
            Some(sessions) => sessions.insert_into(connection),
            None => sessions::keep(connection),
        }
        .context(built, "writing sessions")?;
        open::write_state(connection, state).context(built, "writing its state")?;
        connection.execute_batch("COMMIT").context(built, "committing")?;
        build.result.timings.commit = committing.elapsed();
        let Self { connection, plan, lost, build_path, .. } = self;
        if let Some(connection) = connection {
            connection.close().map_err(|(_, error)| error).context(&build_path, "closing it")?;
        }
        build.report_at_end(Phase::Publish)?;
        let kept = build.keep_what_is_lost(lost, &plan)?;
        let held = build.held;
        let published = plan.publish(|| held.still_held().is_ok());
        if let (Some(kept), Err(error)) = (kept.filter(|kept| kept.is_new), &published)
            && !matches!(error, publish::PublishError::NotDurable { .. })
        {
            // The archive still exists, so the copy is not needed; the error to report is the error of publishing.
            let _ = disk::remove_file(&kept.path);
        }
        let published = published?;
        build.result.timings.sync = published.build_sync;
        build.result.timings.publish = published.replacing;
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

/// Runs SQLite's own check on a file that no process writes, on the cores of the current pool: `quick_check` of each
/// table with its indexes, or in a debug build `integrity_check` of the whole file, which compares each index with its
/// table, too. A check table by table does not see a page that belongs to two tables or to none.
fn verify(path: &Path, archive: &Path, interrupt: &Interrupt) -> Result<(), ArchiveError> {
    if cfg!(debug_assertions) {
        return check(path, archive, "PRAGMA integrity_check(1)", interrupt);
    }
    let mut tables = TABLES.map(|table| table.name).to_vec();
    tables.push("sqlite_schema");
    let each = tables.into_par_iter().with_max_len(1);
    each.try_for_each(|table| check(path, archive, &format!("PRAGMA quick_check({table})"), interrupt))
}

/// Runs `pragma` on a connection of its own.
fn check(path: &Path, archive: &Path, pragma: &str, interrupt: &Interrupt) -> Result<(), ArchiveError> {
    let mut connection = open::open_immutable(path)?;
    open::interruptible(&mut connection, interrupt).context(path, "opening it")?;
    open::read_mapped(&connection).context(path, "mapping it")?;
    let first: String = connection.query_row(pragma, [], |row| row.get(0)).context(path, "checking it")?;
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

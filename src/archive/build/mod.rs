//! Builds the archive: adds the lines after the cursor to the live file, or builds everything in a new file that
//! replaces the live file.
//!
//! This module holds lock `archive` while it works. Builds write the archive, the file that the archive is built in, and
//! the copies and renamed files that a build keeps. Both kinds of build make rows with the same
//! [`pipeline`](crate::archive::pipeline) and differ in the start and the target: [`tail`] writes to the live archive
//! in one transaction; [`beside`] writes to a new file, which is published when it is complete. This file chooses
//! between them.

use std::path::Path;

use crate::archive::cursor::{self, Restart};
use crate::archive::error::ArchiveError;
use crate::archive::open;
use crate::archive::schema::VERSION;

mod beside;
mod lost;
mod options;
mod progress;
mod result;
mod run;
mod tail;

pub use options::{Load, Options, Paths};
pub use progress::{Observer, Phase, Progress, Unobserved};
pub use result::{BuildResult, Timings};

#[cfg(feature = "cli")]
pub(crate) use self::run::iso_millis;
use self::run::{Build, Loss};
use self::tail::Outcome;

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
    refuse_one_file(paths)?;
    paths.locked(&options.interrupt, |held| Build::new(paths, options, observer, held)?.tail())
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
    refuse_one_file(paths)?;
    paths.locked(&options.interrupt, |held| {
        let mut build = Build::new(paths, options, observer, held)?;
        build.refuse_to_replace()?;
        build.lost = build.look_for_cut()?;
        build.result.rebuilt_from_zero = true;
        build.rebuild(None)
    })
}

impl Build<'_> {
    fn tail(mut self) -> Result<BuildResult, ArchiveError> {
        let path = self.paths.archive.clone();
        if !open::exists(&path)? {
            return self.rebuild(None);
        }
        // Checked before `open_live` changes settings of the file, because another program's file must stay
        // unchanged.
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

    /// Refuses to replace another program's database, and a file that is not a database unless `force` is set. A full
    /// rebuild replaces archives, including damaged archives.
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
            // It is unknown whose file this is, for example because another process keeps the file locked.
            Err(error) => return Err(error),
        }
        self.refuse_to_empty()
    }

    /// Refuses a build without a ledger when the archive has rows, because a build from byte 0 would remove every
    /// row.
    fn refuse_to_empty(&self) -> Result<(), ArchiveError> {
        let path = &self.paths.archive;
        if self.source.is_some() || !path.exists() {
            return Ok(());
        }
        let is_kept = match open::open_read_only(path) {
            Ok(connection) => open::has_rows(&connection, path)?,
            // A file that cannot be read may have rows that a person can still save.
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

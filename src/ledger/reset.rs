//! Resets a home: deletes derived files, and moves other files aside.
//!
//! Touches the archive, the index files, `ingest.known` and `ingest.state/`. A reset of everything also touches the ledger,
//! the content, `cursors.json`, `hwm.json` and `ingest.side.json`. Guarantees: only files that can be made again are deleted, and a plan changes nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::index::sorted_path;
use super::{Ledger, LedgerError};
use crate::disk;
use crate::home::LockName;

/// A file or directory in a home, with its size.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Belonging {
    /// The file or directory.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub path: PathBuf,
    /// The length in bytes; for a directory, the length of all files in the directory.
    #[serde(rename = "bytes")]
    pub len_bytes: u64,
}

/// What a reset does, or did, with each file and directory in a home.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reset {
    /// Derived files, which the reset deletes.
    pub deleted: Vec<Belonging>,
    /// Files and directories that the reset moves to the trash directory.
    pub moved: Vec<Belonging>,
    /// Files and directories that stay.
    pub kept: Vec<Belonging>,
    /// The trash directory; `None` when nothing is moved, and in a plan.
    #[serde(serialize_with = "crate::disk::lossy::maybe")]
    pub trash: Option<PathBuf>,
}

/// How much a reset takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetScope {
    /// The files that are derived from the ledger.
    #[default]
    Derived,
    /// The sources, too: ledger, content, cursors and high-water marks.
    Everything,
}

impl Ledger {
    /// Returns what [`Ledger::reset`] would do. Changes nothing and takes no lock.
    ///
    /// # Errors
    /// When the home cannot be listed.
    pub fn plan_reset(&self, scope: ResetScope) -> Result<Reset, LedgerError> {
        let home = self.home();
        let archive = home.archive();
        let derived = [
            archive.clone(),
            disk::with_suffix(&archive, "-wal"),
            disk::with_suffix(&archive, "-shm"),
            home.ids_index(),
            home.fingerprints_index(),
            sorted_path(home),
            home.ingest_known(),
        ];
        let derived_directory = home.ingest_states_dir();
        // The notes belong to the ledger and the cursors: without these they would call logs read that are not.
        let sources =
            [home.ledger(), home.content_dir(), home.cursors(), home.high_water_marks(), home.ingest_notes()];
        let mut plan = Reset::default();
        for path in list(home.root())? {
            let len_bytes = total_len(&path)?;
            let list = match () {
                // A directory with the name of a derived file is not a file of this program.
                () if derived.contains(&path) && !path.is_dir() => &mut plan.deleted,
                () if derived_directory == path && disk::metadata(&path)?.is_directory => &mut plan.deleted,
                () if scope == ResetScope::Everything && sources.contains(&path) => &mut plan.moved,
                () => &mut plan.kept,
            };
            list.push(Belonging { path, len_bytes });
        }
        // The database is deleted before its write-ahead log, because a log without a database is harmless and a
        // database without its log is not.
        plan.deleted.sort_by_key(|belonging| derived.iter().position(|path| *path == belonging.path));
        Ok(plan)
    }

    /// Deletes the files that are derived from the ledger and from agents' logs: archive, index files, `ingest.known` and
    /// `ingest.state/`. With [`ResetScope::Everything`] also moves ledger, content, `cursors.json`, `hwm.json` and
    /// `ingest.side.json` to a directory `trash-<time>` in the home.
    ///
    /// # Errors
    /// When a lock cannot be taken, or a file cannot be deleted or moved; earlier steps are then done.
    pub fn reset(&self, scope: ResetScope) -> Result<Reset, LedgerError> {
        let home = self.home();
        if !home.root().is_dir() {
            return Ok(Reset::default());
        }
        self.locked(LockName::Archive, |_| {
            self.locked(LockName::Ledger, |_| {
                self.locked(LockName::LedgerIndex, |_| {
                    self.locked(LockName::Cursors, |held| {
                        held.still_held()?;
                        self.carry_out(self.plan_reset(scope)?)
                    })
                })
            })
        })
    }

    fn carry_out(&self, mut plan: Reset) -> Result<Reset, LedgerError> {
        let root = self.home().root();
        if !plan.moved.is_empty() {
            let trash = self.new_trash()?;
            disk::create_dir_all(&trash)?;
            for belonging in &plan.moved {
                let Some(name) = belonging.path.file_name() else { continue };
                disk::rename(&belonging.path, &trash.join(name))?;
            }
            // The trash directory is synced before the root, because a name that is gone from the root must be
            // found in the trash.
            disk::sync_dir(&trash)?;
            plan.trash = Some(trash);
        }
        for Belonging { path, .. } in &plan.deleted {
            if *path == self.home().ingest_states_dir() {
                for state in list(path)? {
                    disk::remove_file_if_exists(&state)?;
                }
                disk::remove_dir(path)?;
            } else {
                disk::remove_file_if_exists(path)?;
            }
        }
        disk::sync_dir(root)?;
        // The lock files that this reset holds are not reported.
        let held = [LockName::Archive, LockName::Ledger, LockName::LedgerIndex, LockName::Cursors];
        let held = held.map(|name| self.home().lock(name));
        plan.kept.retain(|belonging| !held.contains(&belonging.path));
        Ok(plan)
    }

    /// Returns a path for the trash directory at which nothing exists.
    fn new_trash(&self) -> Result<PathBuf, LedgerError> {
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let base = format!("trash-{}", now.strftime("%Y-%m-%dT%H-%M-%S.%3fZ"));
        let mut number = 0;
        loop {
            let name = if number == 0 { base.clone() } else { format!("{base}.{number}") };
            let path = self.home().root().join(name);
            if disk::if_there(disk::metadata(&path))?.is_none() {
                return Ok(path);
            }
            number += 1;
        }
    }
}

/// Lists a directory, by name; returns nothing when the directory is missing.
fn list(directory: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    Ok(disk::if_there(disk::list(directory))?.unwrap_or_default())
}

/// Returns the length of a file, or of all files in a directory, in bytes. Links are not followed.
fn total_len(path: &Path) -> Result<u64, LedgerError> {
    let Some(found) = disk::if_there(disk::metadata(path))? else { return Ok(0) };
    if !found.is_directory {
        return Ok(found.len_bytes);
    }
    list(path)?.iter().map(|path| total_len(path)).sum()
}

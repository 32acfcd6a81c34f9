//! Errors of publishing an archive.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk;

/// Why an archive could not be prepared or published. Except after [`NotDurable`](Self::NotDurable), the live archive
/// is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A file could not be created, written, synced, renamed or removed.
    #[error("{0}; the archive is unchanged")]
    Disk(#[from] disk::Error),
    /// The operating system refused an operation on a name.
    #[error("cannot {action} {}: {source}; the archive is unchanged", path.display())]
    Io {
        /// The operation: a verb that precedes the path.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// SQLite refused an operation.
    #[error("SQLite cannot {action} {}: {source}; the archive is unchanged", path.display())]
    Sqlite {
        /// The operation: a verb that precedes the path.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The path of the archive leads to something that is not a regular file.
    #[error("{} is not a regular file; move it away, or name another archive", path.display())]
    NotAFile {
        /// The archive's path, links resolved.
        path: PathBuf,
    },
    /// The live archive can neither be replaced nor be written, because another program has it open.
    #[error("{} is in use by another program, which {doing}; close it, then rebuild again", path.display())]
    InUse {
        /// The live archive.
        path: PathBuf,
        /// What the other program does.
        doing: &'static str,
    },
    /// The built file is missing, because another rebuild swept it. Another rebuild sweeps only while it holds lock
    /// `archive`, so this process lost the lock.
    #[error("{} is gone: lock `archive` was lost to another rebuild; the archive is unchanged, rebuild again", path.display())]
    BuildGone {
        /// The path from [`PublishPlan::build_path`](super::PublishPlan::build_path).
        path: PathBuf,
    },
    /// The built file must not be published.
    #[error("{} cannot be published: {reason}; the archive is unchanged", path.display())]
    BuildUnfit {
        /// The path from [`PublishPlan::build_path`](super::PublishPlan::build_path).
        path: PathBuf,
        /// Why the built file must not be published.
        reason: &'static str,
    },
    /// The new archive has replaced the old archive, but the directory could not be synced.
    #[error("{} is the new archive, but a power cut may undo the rebuild: {source}", path.display())]
    NotDurable {
        /// The live archive.
        path: PathBuf,
        /// Why the directory could not be synced.
        source: disk::Error,
    },
    /// The copying of an archive to be kept was interrupted.
    #[error("interrupted while the archive was copied; it is unchanged")]
    Interrupted,
    /// The caller's check returned that lock `archive` is no longer held.
    #[error("lock `archive` was lost before {} was replaced; it is unchanged, rebuild again", path.display())]
    LockLost {
        /// The live archive.
        path: PathBuf,
    },
}

impl PublishError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
        move |source| PublishError::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn sqlite(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> PublishError {
        move |source| PublishError::Sqlite { action, path: path.to_owned(), source }
    }
}

//! Errors of archives, with what to do about each.

use std::path::{Path, PathBuf};

use super::cursor::Restart;
use crate::disk;
use crate::lock::LockError;
use crate::publish::PublishError;
use crate::scan::ScanError;
use crate::sqlite_file::SqliteFileError;

/// An archive could not be built, opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The ledger could not be scanned.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The lock `archive` could not be taken, or was lost.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file operation beside the database failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The new archive could not replace the old archive.
    #[error(transparent)]
    Publish(PublishError),
    /// The bulk loader could not build the new archive; the old archive is unchanged.
    #[error("cannot build {} again: {source}; the old archive is unchanged", path.display())]
    Bulk {
        /// The archive.
        path: PathBuf,
        /// The loader's error.
        source: SqliteFileError,
    },
    /// SQLite refused an operation.
    #[error("{} failed while {doing}: {source}{}", path.display(), remedy(source))]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The file is a database that is damaged or lacks a part of an archive.
    #[error(
        "{} is not a usable archive ({reason}); `burn state rebuild archive --full` builds it again from the ledger",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// Why the archive is not usable.
        reason: String,
    },
    /// The file is not an SQLite database, so it may be any file. Only a full rebuild with `force` renames it.
    #[error(
        "{} is no SQLite database and is left as it is; name another file, or let \
         `burn state rebuild archive --full --force` rename it and put an archive in its place",
        path.display()
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The archive has another schema version and has to be rebuilt before it can be read.
    #[error(
        "{} has schema version {found}, this program reads version {}; `burn state rebuild archive` builds it again",
        path.display(),
        super::schema::VERSION
    )]
    OtherVersion {
        /// The database.
        path: PathBuf,
        /// The schema version of the archive.
        found: i64,
    },
    /// The archive has no state row, because a program died while it created the archive. A build adds the row.
    #[error("{} has no state row; `burn state rebuild archive` completes it", path.display())]
    Incomplete {
        /// The database.
        path: PathBuf,
    },
    /// The archive was changed while it was read without locks. An archive is read without locks when this process may
    /// not lock it, when the disk is too full to lock it, or when the read must not create a file.
    #[error("{} was changed while it was read, so the answer does not count; run it again", path.display())]
    Changed {
        /// The database.
        path: PathBuf,
    },
    /// A strict build would remove rows that the ledger no longer has.
    #[error(
        "{} has rows that are no longer in {}: {reason}; nothing was changed; put the ledger back, \
         or build without --strict, which keeps a copy of this archive",
        archive.display(),
        ledger.display()
    )]
    LedgerLost {
        /// The ledger.
        ledger: PathBuf,
        /// The archive.
        archive: PathBuf,
        /// How the ledger differs from the ledger that the archive was built from.
        reason: Restart,
    },
    /// There is no archive at the path to be read.
    #[error("there is no archive at {}; `burn state rebuild archive` builds it", path.display())]
    Missing {
        /// The path that has no archive.
        path: PathBuf,
    },
    /// A full rebuild would replace an archive that has rows with an empty archive, because the ledger is missing.
    #[error(
        "there is no ledger at {} to build {} from: that is kept as it is; put the ledger back, or delete the archive",
        ledger.display(),
        archive.display()
    )]
    LedgerMissing {
        /// The path that has no ledger.
        ledger: PathBuf,
        /// The archive.
        archive: PathBuf,
    },
    /// A strict build found a line that cannot be archived.
    #[error(
        "{} at byte {offset} ({length} bytes): {verdict}: {reason}; nothing was changed; \
         without --strict such lines are reported and left out",
        ledger.display()
    )]
    Strict {
        /// The ledger.
        ledger: PathBuf,
        /// Offset of the line in the ledger, in bytes.
        offset: u64,
        /// Length of the line, in bytes.
        length: u64,
        /// `malformed` or `rejected`.
        verdict: &'static str,
        /// Why the line cannot be archived.
        reason: String,
    },
    /// The finished database did not pass its check and was deleted.
    #[error(
        "the new archive for {} did not pass its check ({reason}) and was thrown away; the old one is untouched, run again",
        path.display()
    )]
    Verify {
        /// The archive.
        path: PathBuf,
        /// The result of the check.
        reason: String,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {reason}; try fewer (`--threads`)")]
    Threads {
        /// Number of threads that were asked for.
        threads: usize,
        /// The system's error.
        reason: String,
    },
    /// A worker thread panicked, because this program has a bug.
    #[error(
        "an internal error while reading chunk {number} of {}; the archive is as it was; please report it with that ledger",
        ledger.display()
    )]
    Worker {
        /// The ledger.
        ledger: PathBuf,
        /// Number of the chunk, counted from 0.
        number: u64,
    },
    /// The ledger was rewritten while it was read.
    #[error("{} was rewritten while it was read; the archive is as it was, run again", ledger.display())]
    LedgerChanged {
        /// The ledger.
        ledger: PathBuf,
    },
    /// The path of the archive names a database of another program.
    #[error(
        "{} is a database, but not an archive: it has none of an archive's tables and is left alone; name another file",
        path.display()
    )]
    NotAnArchive {
        /// The database.
        path: PathBuf,
    },
    /// The ledger and the archive are the same file.
    #[error("{} is given both as ledger and as archive; name two files", path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// Other programs read the archive, so its free space cannot be given back.
    #[error(
        "{} is being read by another program, which keeps its space from being given back; run again when it has finished",
        path.display()
    )]
    InUse {
        /// The archive.
        path: PathBuf,
    },
    /// The caller interrupted the build or the vacuum.
    #[error("interrupted; the archive is as it was")]
    Interrupted,
}

impl From<PublishError> for ArchiveError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Interrupted => Self::Interrupted,
            error => Self::Publish(error),
        }
    }
}

impl ArchiveError {
    /// Returns a function that adds the archive's path to an error of the bulk loader.
    pub(crate) fn bulk(path: &Path) -> impl FnOnce(SqliteFileError) -> Self {
        move |source| match source {
            SqliteFileError::Interrupted => Self::Interrupted,
            source => Self::Bulk { path: path.to_path_buf(), source },
        }
    }
}

fn remedy(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure,
    };
    match error.sqlite_error_code() {
        Some(DiskFull) => "; free some space on that file system and run again",
        Some(DatabaseBusy | DatabaseLocked) => "; another program holds it, run again when it has finished",
        Some(CannotOpen | PermissionDenied | ReadOnly) => {
            "; check the permissions of the file and its directory"
        }
        Some(SystemIoFailure) => {
            "; the old content is untouched, check the disk, its space and file-size limits"
        }
        _ => "",
    }
}

/// Adds path and operation to SQLite's errors, and separates damage from failure.
pub(crate) trait SqliteContext<T> {
    /// Adds the database's path and the operation to the error.
    fn context(self, path: &Path, doing: &'static str) -> Result<T, ArchiveError>;
}

impl<T> SqliteContext<T> for Result<T, rusqlite::Error> {
    fn context(self, path: &Path, doing: &'static str) -> Result<T, ArchiveError> {
        self.map_err(|source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => {
                ArchiveError::NotADatabase { path: path.to_path_buf() }
            }
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
                ArchiveError::Damaged { path: path.to_path_buf(), reason: source.to_string() }
            }
            // Only builds and vacuums set a progress handler; the handler checks their interrupt.
            Some(rusqlite::ErrorCode::OperationInterrupted) => ArchiveError::Interrupted,
            _ => ArchiveError::Sqlite { path: path.to_path_buf(), doing, source },
        })
    }
}

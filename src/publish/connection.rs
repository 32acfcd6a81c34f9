//! Opens a database through SQLite, and says what SQLite's refusals mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// How long another writer, or a reader that keeps the archive from WAL mode, is waited for.
pub(super) const WRITER_WAIT: Duration = Duration::from_secs(5);
/// What a database begins with.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Appended to a database's name, the files that SQLite finds by path.
pub(super) const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Opens an existing database; whoever needs to wait for others sets a timeout.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Opens an existing database under SQLite's EXCLUSIVE lock, which the connection keeps until it is closed.
///
/// Fails at once, as busy, when any other connection holds a lock, this process's own included: one with a transaction, or
/// one that has read a database in WAL mode. A journal or log that a dead process left is applied, and an empty file gets its
/// first page: on an inode without one, an old connection would be allowed to make sidecars after the rename.
pub(super) fn hold(path: &Path) -> rusqlite::Result<Connection> {
    let archive = open(path)?;
    archive.query_row("PRAGMA locking_mode=EXCLUSIVE", [], |_| Ok(()))?;
    archive.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    Ok(archive)
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

pub(super) fn is_unusable(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

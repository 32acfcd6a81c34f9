//! Opens a database through SQLite, and classifies SQLite's errors.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Maximum wait for another writer, or for a reader that prevents WAL mode.
pub(super) const WRITER_WAIT: Duration = Duration::from_secs(5);
/// The first bytes of a database.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Suffixes of the files that SQLite finds by the database's path.
pub(super) const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Opens an existing database without a busy timeout; callers that wait for other connections set a timeout.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Opens an existing database under SQLite's EXCLUSIVE lock, which the connection keeps until it is closed.
///
/// Fails at once, as busy, when any other connection holds a lock, including connections of this process: a
/// connection with a transaction, or a connection that has read a database in WAL mode. SQLite applies a journal or
/// log that a dead process left. An empty file gets its first page, because on an inode without a page an old
/// connection could make sidecars after the rename.
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

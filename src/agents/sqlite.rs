//! SQLite databases of other programs, read beside their writer.
//!
//! A database is opened for reading only. Where that would make files beside it (it has a write-ahead log, and no shared memory
//! file is there), a private copy of the database and of its log is read.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row};

use super::AgentsError;
use crate::disk;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database. A copy is deleted when the database is closed.
pub(super) struct ForeignDatabase {
    pub connection: Connection,
    _copy: Option<tempfile::TempDir>,
}

/// The error for a database that cannot be used.
pub(super) fn unusable(path: &Path, error: impl std::fmt::Display) -> AgentsError {
    let reason = format!("{error}; it is not read, and nothing of it is counted");
    AgentsError::Unusable { path: path.to_owned(), reason }
}

/// Returns whether there is a regular file at `path`, with links followed. Any other file is an error: opening a pipe
/// would wait for its writer, and a link to a missing file would be skipped in silence.
pub(super) fn is_there(path: &Path) -> Result<bool, AgentsError> {
    match disk::metadata_of_target(path) {
        Ok(found) if found.is_file => Ok(true),
        Ok(_) => Err(unusable(path, "it is no regular file")),
        Err(error) if error.is_not_found() && std::fs::read_link(path).is_err() => Ok(false),
        Err(error) => Err(unusable(path, error)),
    }
}

/// Whether the header of a database says that it has a write-ahead log.
fn has_log_mode(path: &Path) -> std::io::Result<bool> {
    let mut header = Vec::new();
    std::fs::File::open(path)?.take(READ_VERSION_AT + 1).read_to_end(&mut header)?;
    Ok(header.get(READ_VERSION_AT as usize) == Some(&LOG_MODE))
}

/// The byte of the header with the version of the format that a reader needs, and its value with a write-ahead log.
const READ_VERSION_AT: u64 = 19;
const LOG_MODE: u8 = 2;

/// Length and time of a file, by which a change is noticed; none if there is no file.
fn state_of(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    disk::metadata(path).ok().map(|found| (found.len_bytes, found.modified))
}

impl ForeignDatabase {
    /// Opens the database at `path` and begins a read transaction, so that all reads see one state.
    pub(super) fn open(path: &Path) -> Result<Self, AgentsError> {
        let fails = |error: std::io::Error| unusable(path, error);
        if !is_there(path)? {
            return Err(unusable(path, "there is no such file"));
        }
        // SQLite names these files after the database itself, not after a link to the database.
        let file = std::fs::canonicalize(path).map_err(fails)?;
        let wal = disk::with_suffix(&file, "-wal");
        let has_wal = is_there(&wal)?;
        let has_shared = is_there(&disk::with_suffix(&file, "-shm"))?;
        // SQLite would open the rollback journal.
        is_there(&disk::with_suffix(&file, "-journal"))?;
        let mut copy = None;
        let mut opened = path.to_owned();
        // Without a write-ahead log SQLite makes no files to read a database, and sees the lock of its writer. A copy would be
        // half of a transaction.
        if !has_shared && has_log_mode(path).map_err(fails)? {
            let folder = disk::temporary_dir_in(&std::env::temp_dir(), "burn-database-")
                .map_err(|error| unusable(path, error))?;
            opened = folder.path().join("copy.db");
            let before = (state_of(&file), state_of(&wal));
            std::fs::copy(path, &opened).map_err(fails)?;
            if has_wal {
                std::fs::copy(&wal, disk::with_suffix(&opened, "-wal")).map_err(fails)?;
            }
            if before != (state_of(&file), state_of(&wal)) {
                return Err(unusable(path, "it has changed while it was copied"));
            }
            copy = Some(folder);
        }
        let flags = match copy {
            // SQLite may apply the log to the copy, because the copy is private.
            Some(_) => OpenFlags::SQLITE_OPEN_READ_WRITE,
            None => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(&opened, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch("BEGIN")?;
            Ok(connection)
        };
        Ok(ForeignDatabase { connection: open().map_err(|error| unusable(path, error))?, _copy: copy })
    }

    /// The columns of a table; no columns if there is no such table.
    pub(super) fn columns(&self, table: &str) -> rusqlite::Result<HashSet<String>> {
        let mut statement = self.connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
        let names = statement.query_map([table], |row| row.get(0))?;
        names.collect()
    }
}

/// The bytes of a column, whatever its type; none for null.
pub(super) fn bytes_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    use rusqlite::types::ValueRef;
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        ValueRef::Integer(number) => number.to_string().into_bytes(),
        ValueRef::Real(number) => number.to_string().into_bytes(),
        ValueRef::Null => Vec::new(),
    })
}

//! Opens archives: checks the version, adds what an older archive of the same version lacks, reads and writes the
//! state row.
//!
//! Reading opens change nothing, whatever the archive lacks. Only a build adds columns or inserts the state row,
//! because only a build refills the archive. Nothing in this file drops a table, a column or a row.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::cursor::{self, Restart};
use super::error::{ArchiveError, SqliteContext};
use super::schema::{ADDED_COLUMNS, ARCHIVE_STATE, INDEXES, TABLES, VERSION};
use crate::disk;
use crate::interrupt::Interrupt;
use crate::publish::{self, PublishError};
use crate::scan::{ScanError, Source};
use crate::sqlite_file::{ChangesInLog, PageReader};

/// How long a statement waits for another program's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The page cache of a build, in KiB. By SQLite's rule a sorter may use the same amount of memory. A transaction that
/// changes more pages than the cache holds writes some pages twice.
pub(super) const BUILD_CACHE_KIB: u32 = 48 * 1024;

/// The state row of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveState {
    /// Number of ledger bytes that the archive covers.
    pub ledger_offset_bytes: i64,
    /// Modification time of the ledger at the last build, in milliseconds since 1970.
    pub ledger_mtime_ms: i64,
    /// The version of the schema.
    pub archive_version: i64,
    /// When the last build ended.
    pub last_built_at: Option<String>,
    /// When the last full rebuild ended.
    pub last_rebuild_at: Option<String>,
    /// The mark of the ledger's bytes before the offset; 0 when another program moved the offset last.
    pub ledger_mark: i32,
    /// Whether the `ts` of every turn is known to be a time.
    pub are_turns_dated: bool,
}

impl ArchiveState {
    /// Whether this crate wrote the row last: another program that moves the offset leaves the mark as it was.
    pub(super) fn is_ours(&self) -> bool {
        cursor::is_marked(self.ledger_offset_bytes, self.ledger_mark)
    }

    /// The mark of an archive with this row in which the `ts` of every turn is a time; never 0. Every build
    /// writes its time into the row, so the mark does not fit after a build that leaves the mark alone.
    ///
    /// A change to what [`Instant::of_turn`](crate::record::time::Instant::of_turn) accepts needs another `TIME_FORMS`.
    fn dated_mark(&self) -> i32 {
        const TIME_FORMS: u32 = 1;
        let Self {
            ledger_offset_bytes, ledger_mtime_ms, last_built_at, last_rebuild_at, ledger_mark, ..
        } = self;
        let row = format!(
            "{ledger_offset_bytes} {ledger_mtime_ms} {last_built_at:?} {last_rebuild_at:?} {ledger_mark}"
        );
        (crc32c::crc32c_append(TIME_FORMS, row.as_bytes()) | 1) as i32
    }

    /// Why the ledger no longer has the bytes that the archive covers; `None` when it has them.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(super) fn check(&self, ledger: &Source) -> Result<Option<Restart>, ScanError> {
        Ok(match cursor::check(ledger, self.ledger_offset_bytes, self.ledger_mark, &Cell::default())? {
            // Another program may count an unfinished line as read.
            Some(Restart::CursorInsideLine) if !self.is_ours() => None,
            lost => lost,
        })
    }
}

/// An archive that is open for queries; nothing can be written through the connection.
pub struct ArchiveReader {
    connection: Connection,
    path: PathBuf,
    /// The state of the files before they were opened, when they are read without locks.
    seen: Option<SeenFiles>,
}

impl std::ops::Deref for ArchiveReader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl ArchiveReader {
    /// Returns the pages of the archive as the open transaction reads them; `None` when only SQLite can read them.
    pub(super) fn pages(&self) -> Option<PageReader<'_>> {
        // An archive is opened without locks only when it has no write-ahead log.
        let log = if self.seen.is_some() { ChangesInLog::Impossible } else { ChangesInLog::Possible };
        PageReader::of(&self.connection, log)
    }

    /// Returns `read`, or [`ArchiveError::Changed`] when the archive was read without locks and changed meanwhile.
    /// Every reader calls this method last, because rows read during a change may mix two states and errors may be of
    /// any kind.
    pub(super) fn settle<T>(&self, read: Result<T, ArchiveError>) -> Result<T, ArchiveError> {
        match &self.seen {
            Some(seen) => seen.settle(&self.path, read),
            None => read,
        }
    }
}

/// What is compared to notice, without locks, that an archive changed: every writer changes the archive's file,
/// replaces the file, or begins a write-ahead log.
#[derive(PartialEq, Eq)]
struct SeenFiles {
    identity: disk::Identity,
    len_bytes: u64,
    modified: SystemTime,
    changed_ns: i64,
    log_len_bytes: u64,
}

impl SeenFiles {
    fn of(path: &Path) -> Result<Self, ArchiveError> {
        let open = |source| ScanError::Open { path: path.to_path_buf(), source };
        let target = std::fs::canonicalize(path).map_err(open)?;
        let log = disk::if_there(disk::metadata(&disk::with_suffix(&target, "-wal")))?;
        let log_len_bytes = log.map_or(0, |log| log.len_bytes);
        let disk::Metadata { identity, len_bytes, modified, changed_ns, .. } = disk::metadata(&target)?;
        Ok(Self { identity, len_bytes, modified, changed_ns, log_len_bytes })
    }

    fn settle<T>(&self, path: &Path, read: Result<T, ArchiveError>) -> Result<T, ArchiveError> {
        if Self::of(path).is_ok_and(|now| now == *self) {
            read
        } else {
            Err(ArchiveError::Changed { path: path.to_path_buf() })
        }
    }
}

/// Describes the files of an archive that nobody is writing; while the description stays, so does the archive. `None` when a
/// write could leave the description as it is: just after another write, with a write-ahead log, and where the system has no
/// time of change.
#[cfg(feature = "parquet")]
pub(super) fn files_at_rest(path: &Path) -> Result<Option<String>, ArchiveError> {
    /// The longest step of a file system's times is 2 s.
    const REST: Duration = Duration::from_secs(3);
    let SeenFiles { identity, len_bytes, changed_ns, log_len_bytes, .. } = SeenFiles::of(path)?;
    let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(changed_ns).unwrap_or(0));
    if changed_ns <= 0 || log_len_bytes > 0 || changed + REST > SystemTime::now() {
        return Ok(None);
    }
    let (device, inode) = identity.numbers();
    Ok(Some(format!("{device} {inode} {len_bytes} {changed_ns}")))
}

/// Opens an existing archive for queries.
///
/// A strictly read-only connection to a database in WAL mode leaves `-wal` and `-shm` files when the connection is
/// the last to close. So a writable archive is opened for writing with `query_only` set, because SQLite then removes
/// both files on close. An archive is read without locks where nothing may be written (a read-only mount, another
/// user's file) or where the disk is too full for the `-shm` file; [`ArchiveReader::settle`] then reports whether the
/// archive changed meanwhile.
///
/// # Errors
/// [`ArchiveError::Missing`], [`ArchiveError::Damaged`], [`ArchiveError::Changed`], [`ArchiveError::Sqlite`].
pub fn open_read_only(path: &Path) -> Result<ArchiveReader, ArchiveError> {
    if !exists(path)? {
        return Err(ArchiveError::Missing { path: path.to_path_buf() });
    }
    refuse_no_files(path)?;
    let plain = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = open_for_queries(path, OpenFlags::SQLITE_OPEN_READ_WRITE | plain).or_else(|error| {
        if may_not_write(&error) {
            open_for_queries(path, OpenFlags::SQLITE_OPEN_READ_ONLY | plain)
        } else {
            Err(error)
        }
    });
    let error = match opened {
        Ok(connection) => return Ok(ArchiveReader { connection, path: path.to_path_buf(), seen: None }),
        Err(error) if may_not_write(&error) || has_no_room(&error) => error,
        Err(error) => return Err(error).context(path, "opening it"),
    };
    if has_no_room(&error) {
        publish::remove_empty_log(path);
    }
    let seen = SeenFiles::of(path)?;
    if seen.log_len_bytes > 0 {
        if has_no_room(&error) {
            return Err(error).context(path, "taking in its write-ahead log");
        }
        return Err(ArchiveError::Damaged {
            path: path.to_path_buf(),
            reason:
                "its write-ahead log holds changes that only a program that may write the archive can take in"
                    .to_string(),
        });
    }
    let connection = seen.settle(path, open_immutable(path))?;
    Ok(ArchiveReader { connection, path: path.to_path_buf(), seen: Some(seen) })
}

/// Opens an existing archive for queries without creating or writing a file.
///
/// Without a write-ahead log the archive is read without locks, and [`ArchiveReader::settle`] reports whether the archive
/// changed meanwhile. With a write-ahead log the archive is opened as by any other reader; the open creates no file,
/// because the log's files exist.
///
/// # Errors
/// As [`open_read_only`].
#[cfg(feature = "usage")]
pub(super) fn open_without_trace(path: &Path) -> Result<ArchiveReader, ArchiveError> {
    if !exists(path)? {
        return Err(ArchiveError::Missing { path: path.to_path_buf() });
    }
    refuse_no_files(path)?;
    let seen = SeenFiles::of(path)?;
    let (connection, seen) = if seen.log_len_bytes > 0 {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        (open_for_queries(path, flags).context(path, "opening it")?, None)
    } else {
        (seen.settle(path, open_immutable(path))?, Some(seen))
    };
    Ok(ArchiveReader { connection, path: path.to_path_buf(), seen })
}

/// Whether `path` exists. An error means that the file system could not say.
pub(super) fn exists(path: &Path) -> Result<bool, ArchiveError> {
    path.try_exists().map_err(|source| ScanError::Open { path: path.to_path_buf(), source }.into())
}

fn open_for_queries(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    // The first read fails when the file is not a database.
    schema_read(&connection)?;
    Ok(connection)
}

fn may_not_write(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
    matches!(error.sqlite_error_code(), Some(CannotOpen | PermissionDenied | ReadOnly))
}

/// Whether the file system is too full for the `-shm` file that every connection to a database in WAL mode needs.
fn has_no_room(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi;
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(
        code,
        Some(
            ffi::SQLITE_FULL
                | ffi::SQLITE_IOERR_SHMOPEN
                | ffi::SQLITE_IOERR_SHMSIZE
                | ffi::SQLITE_IOERR_SHMMAP
        )
    )
}

/// Opens a file that no other process writes meanwhile. Takes no lock and creates no file.
pub(super) fn open_immutable(path: &Path) -> Result<Connection, ArchiveError> {
    let mut uri = String::from("file:");
    #[cfg(unix)]
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    #[cfg(not(unix))]
    let text = path.to_string_lossy();
    #[cfg(not(unix))]
    let bytes = text.as_bytes();
    for &byte in bytes {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(byte as char),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(&uri, flags).or_else(|error| {
        // SQLite gives no reason. `check_readable` does not open the file, because closing it would end this
        // process's locks on it.
        disk::check_readable(path).map_err(ArchiveError::from)?;
        Err(error).context(path, "opening it")
    })?;
    prepare(&connection).context(path, "opening it")?;
    schema_read(&connection).context(path, "reading its schema")?;
    Ok(connection)
}

/// Refuses an archive that is not a regular file, and an archive whose `-wal`, `-shm` or `-journal` is not a regular
/// file, because SQLite reports a directory like a broken disk and waits for a named pipe.
pub(super) fn refuse_no_files(path: &Path) -> Result<(), ArchiveError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = disk::with_suffix(path, suffix);
        if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(PublishError::NotAFile { path }.into());
        }
    }
    Ok(())
}

/// Opens an existing archive for changes, in WAL mode. Its statements end once `interrupt` is requested. Refuses a database of
/// another program and leaves it unchanged.
pub(super) fn open_for_build(path: &Path, interrupt: &Interrupt) -> Result<Connection, ArchiveError> {
    refuse_no_files(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).context(path, "opening it")?;
    prepare(&connection).context(path, "opening it")?;
    if is_foreign(&connection, path)? {
        return Err(ArchiveError::NotAnArchive { path: path.to_path_buf() });
    }
    connection
        .query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .context(path, "setting its journal mode")?;
    connection
        .execute_batch(&format!("PRAGMA cache_size = -{BUILD_CACHE_KIB};"))
        .context(path, "setting its page cache")?;
    interruptible(&mut connection, interrupt).context(path, "opening it")?;
    Ok(connection)
}

/// Begins a transaction that writes. Waits for the transaction of another program, until SQLite would give up or until
/// `interrupt` is requested. The wait is a series of short ones, because SQLite's own wait ignores the interrupt.
pub(super) fn begin_writing(
    connection: &Connection,
    path: &Path,
    interrupt: &Interrupt,
) -> Result<(), ArchiveError> {
    const SLICE: Duration = Duration::from_millis(50);
    let until = Instant::now() + BUSY_TIMEOUT;
    connection.busy_timeout(SLICE).context(path, "beginning a transaction")?;
    loop {
        match connection.execute_batch("BEGIN IMMEDIATE") {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                if interrupt.is_requested() {
                    return Err(ArchiveError::Interrupted);
                }
                if Instant::now() >= until {
                    return Err(error).context(path, "beginning a transaction");
                }
            }
            begun => {
                begun.context(path, "beginning a transaction")?;
                return connection.busy_timeout(BUSY_TIMEOUT).context(path, "beginning a transaction");
            }
        }
    }
}

/// Makes the connection's statements end with `SQLITE_INTERRUPT` once `interrupt` is requested.
pub(super) fn interruptible(
    connection: &mut Connection,
    interrupt: &Interrupt,
) -> Result<(), rusqlite::Error> {
    // Steps of SQLite's virtual machine between two checks: some milliseconds, also in `CREATE INDEX` and
    // `quick_check`.
    const STEPS: i32 = 20_000;
    let interrupt = interrupt.clone();
    connection.progress_handler(STEPS, Some(move || interrupt.is_requested()))
}

/// Makes a connection read through a memory map of the file, up to SQLite's limit of 2 GiB, instead of copying pages
/// into the page cache. Only for a file that no other process has open, because truncating a mapped file kills the
/// process.
pub(super) fn read_mapped(connection: &Connection) -> Result<(), rusqlite::Error> {
    const MAP_BYTES: i64 = i32::MAX as i64;
    connection
        .query_row(&format!("PRAGMA mmap_size = {MAP_BYTES}"), [], |_| Ok(()))
        .optional()
        .map(|_| ())?;
    connection.execute_batch("PRAGMA cache_size = -2048; PRAGMA shrink_memory;")
}

/// Settings of every connection. The schema is not trusted to run functions, because archives may come from other
/// people.
fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection
        .execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA foreign_keys = OFF;")
}

fn schema_read(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0)).map(|_| ())
}

/// Returns the state row, or `None` when the table or the row is missing. Refuses an archive that has lost a table.
pub(super) fn read_state(connection: &Connection, path: &Path) -> Result<Option<ArchiveState>, ArchiveError> {
    if !has_table(connection, ARCHIVE_STATE.name).context(path, "reading its schema")? {
        return Ok(None);
    }
    let pragma = |sql| -> Result<i32, ArchiveError> {
        connection.query_row(sql, [], |row| row.get(0)).context(path, "reading its marks")
    };
    let (ledger_mark, dated_mark) = (pragma("PRAGMA user_version")?, pragma("PRAGMA application_id")?);
    let state = connection
        .query_row(
            "SELECT ledger_offset_bytes, ledger_mtime_ms, archive_version, last_built_at, last_rebuild_at
             FROM archive_state WHERE id = 1",
            [],
            |row| {
                let mut state = ArchiveState {
                    ledger_offset_bytes: row.get(0)?,
                    ledger_mtime_ms: row.get::<_, f64>(1)? as i64,
                    archive_version: row.get(2)?,
                    last_built_at: row.get(3)?,
                    last_rebuild_at: row.get(4)?,
                    ledger_mark,
                    are_turns_dated: false,
                };
                state.are_turns_dated = state.dated_mark() == dated_mark;
                Ok(state)
            },
        )
        .optional();
    match state {
        Err(
            error @ (rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..)),
        ) => {
            Err(ArchiveError::Damaged { path: path.to_path_buf(), reason: format!("its state row: {error}") })
        }
        state => {
            let state = state.context(path, "reading its state")?;
            if state
                .as_ref()
                .is_some_and(|state| state.archive_version == VERSION && state.ledger_offset_bytes > 0)
            {
                refuse_half(connection, path)?;
            }
            Ok(state)
        }
    }
}

/// Refuses an archive that covers ledger lines but lacks a table, because the missing table had rows and a tail build
/// would go on without them.
fn refuse_half(connection: &Connection, path: &Path) -> Result<(), ArchiveError> {
    for table in &TABLES {
        if !has_table(connection, table.name).context(path, "reading its schema")? {
            let reason = format!("it has no table {}", table.name);
            return Err(ArchiveError::Damaged { path: path.to_path_buf(), reason });
        }
    }
    Ok(())
}

/// Whether the database belongs to another program. A database is an archive when it has the state table, whatever
/// the version, or when all its tables and views are tables of an archive with their first key columns.
pub(super) fn is_foreign(connection: &Connection, path: &Path) -> Result<bool, ArchiveError> {
    let look = || -> Result<bool, rusqlite::Error> {
        let is_state = |column| has_column(connection, ARCHIVE_STATE.name, column);
        if is_state("archive_version")? && is_state("ledger_offset_bytes")? {
            return Ok(false);
        }
        let names: Vec<String> = connection
            .prepare(
                "SELECT name FROM sqlite_master
                 WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for name in names {
            let is_ours = TABLES.iter().any(|table| table.name == name && name != ARCHIVE_STATE.name)
                && has_column(connection, &name, "source")?
                && has_column(connection, &name, "session_id")?;
            if !is_ours {
                return Ok(true);
            }
        }
        Ok(false)
    };
    look().context(path, "reading its schema")
}

/// Whether any table of the archive except the state table has a row.
pub(super) fn has_rows(connection: &Connection, path: &Path) -> Result<bool, ArchiveError> {
    for table in TABLES.iter().filter(|table| table.name != ARCHIVE_STATE.name) {
        if has_table(connection, table.name).context(path, "reading its schema")? {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
            if connection.query_row(&sql, [], |row| row.get(0)).context(path, "looking for rows")? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

pub(super) fn has_table(connection: &Connection, name: &str) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?)";
    // One open asks for many tables, and preparing takes longer than asking.
    connection.prepare_cached(sql)?.query_row([name], |row| row.get(0))
}

pub(super) fn has_column(
    connection: &Connection,
    table: &str,
    column: &str,
) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?) WHERE name = ?)";
    connection.prepare_cached(sql)?.query_row([table, column], |row| row.get(0))
}

/// Creates the tables, columns, indexes and the state row that an archive of this version lacks. Keeps every row.
pub(super) fn complete(connection: &Connection) -> Result<(), rusqlite::Error> {
    for table in &TABLES {
        connection.execute_batch(&table.create.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))?;
    }
    for (table, column, kind) in ADDED_COLUMNS {
        if !has_column(connection, table, column)? {
            connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))?;
        }
    }
    create_indexes(connection)?;
    connection.execute(
        "INSERT OR IGNORE INTO archive_state (id, ledger_offset_bytes, ledger_mtime_ms, archive_version)
         VALUES (1, 0, 0, ?)",
        [VERSION],
    )?;
    Ok(())
}

pub(super) fn create_tables(connection: &Connection) -> Result<(), rusqlite::Error> {
    TABLES.iter().try_for_each(|table| connection.execute_batch(table.create))
}

pub(super) fn create_indexes(connection: &Connection) -> Result<(), rusqlite::Error> {
    // SQLite stores the statement without IF NOT EXISTS.
    INDEXES.iter().try_for_each(|(_, sql)| {
        connection.execute_batch(&sql.replacen("CREATE INDEX", "CREATE INDEX IF NOT EXISTS", 1))
    })
}

/// Writes the state row and the marks.
pub(super) fn write_state(connection: &Connection, state: &ArchiveState) -> Result<(), rusqlite::Error> {
    connection.execute(
        "INSERT INTO archive_state
           (id, ledger_offset_bytes, ledger_mtime_ms, archive_version, last_built_at, last_rebuild_at)
         VALUES (1, ?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET ledger_offset_bytes = ?1, ledger_mtime_ms = ?2, archive_version = ?3,
           last_built_at = ?4, last_rebuild_at = ?5",
        rusqlite::params![
            state.ledger_offset_bytes,
            state.ledger_mtime_ms,
            state.archive_version,
            state.last_built_at,
            state.last_rebuild_at
        ],
    )?;
    let dated_mark = if state.are_turns_dated { state.dated_mark() } else { 0 };
    connection.execute_batch(&format!(
        "PRAGMA user_version = {}; PRAGMA application_id = {dated_mark}",
        state.ledger_mark
    ))
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_without_locks_counts_only_when_nobody_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive.sqlite");
        let owner = Connection::open(&path).unwrap();
        owner.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        owner.execute_batch("CREATE TABLE t(v); PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let reader = || {
            let seen = Some(SeenFiles::of(&path).unwrap());
            ArchiveReader { connection: open_immutable(&path).unwrap(), path: path.clone(), seen }
        };
        let is_changed = |reader: &ArchiveReader| match reader.settle(Ok(())) {
            Ok(()) => false,
            Err(error @ ArchiveError::Changed { .. }) => {
                assert!(error.to_string().contains("run it again"), "{error}");
                true
            }
            Err(error) => panic!("{error}"),
        };
        assert!(!is_changed(&reader()));
        // A log that has begun, pages that were checkpointed into the file, a file that was replaced.
        let before = reader();
        owner.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert!(is_changed(&before));
        owner.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert!(is_changed(&before));
        let before = reader();
        assert!(!is_changed(&before));
        std::fs::copy(&path, directory.path().join("new")).unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        assert!(is_changed(&before));
        // An SQLite error that a change may have caused is reported as the change.
        let error =
            before.settle::<()>(Err(ArchiveError::Damaged { path: path.clone(), reason: String::new() }));
        assert!(matches!(error, Err(ArchiveError::Changed { .. })));
    }
}

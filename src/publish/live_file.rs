//! The live archive's file, reached through SQLite's own descriptor of it.
//!
//! Touches: the file that a connection has open; no other descriptor of it is ever opened.
//!
//! Guarantees: nothing here ends a lock of this process. POSIX drops every lock that a process has on a file when the process
//! closes any descriptor of the file. SQLite knows that, and keeps a descriptor until all its connections to the file
//! are unlocked; a descriptor of our own would be closed in the middle of another thread's query.
//!
//! Rejected: an open-file-description lock for files that SQLite cannot read. The lock itself survives, but closing its descriptor
//! drops the POSIX locks of the process all the same.

use std::ffi::{c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::ptr;

use rusqlite::{Connection, ffi};

use super::connection::{is_busy, open};
use crate::disk::{self, Operation};

/// A connection, used for its file alone.
pub(super) struct LiveFile {
    connection: Connection,
    path: PathBuf,
}

impl LiveFile {
    /// Opens a file that need not be a database: SQLite reads nothing of it yet.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        Ok(Self::of(open(path)?, path))
    }

    /// The file of a connection that may hold locks on it.
    pub fn of(connection: Connection, path: &Path) -> Self {
        Self { connection, path: path.to_owned() }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Takes SQLite's EXCLUSIVE lock, until this is dropped; `false` when any other connection holds a lock, be it one of this
    /// process. For a file that SQLite cannot read, so that no statement takes the lock.
    pub fn lock(&self) -> rusqlite::Result<bool> {
        for level in [ffi::SQLITE_LOCK_SHARED, ffi::SQLITE_LOCK_EXCLUSIVE] {
            // SAFETY: as `call` says; `level` is one that the file's state allows, because the connection has never locked it.
            match unsafe { self.call(|file, methods| Some(methods.xLock?(file, level))) } {
                Err(error) if is_busy(&error) => return Ok(false),
                locked => locked?,
            }
        }
        Ok(true)
    }

    /// Whether the path that was opened leads to another file now.
    pub fn has_moved(&self) -> rusqlite::Result<bool> {
        let mut has_moved: c_int = 0;
        self.control(ffi::SQLITE_FCNTL_HAS_MOVED, (&raw mut has_moved).cast())?;
        Ok(has_moved != 0)
    }

    /// Fills `buffer` from `offset`; what is behind the end of the file reads as zeros.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), disk::Error> {
        let (bytes, len) = (buffer.as_mut_ptr().cast(), buffer.len() as c_int);
        let operation = Operation::Read { offset, len_bytes: buffer.len() };
        disk::perform_on_path(operation, &self.path, || {
            // SAFETY: as `call` says; `buffer` has `len` bytes.
            match unsafe { self.call(|file, methods| Some(methods.xRead?(file, bytes, len, offset as i64))) }
            {
                Err(rusqlite::Error::SqliteFailure(error, _))
                    if error.extended_code == ffi::SQLITE_IOERR_SHORT_READ =>
                {
                    Ok(())
                }
                read => read.map_err(io::Error::other),
            }
        })
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), disk::Error> {
        disk::write_elsewhere(&self.path, bytes, offset, |bytes| {
            let (start, len) = (bytes.as_ptr().cast(), bytes.len() as c_int);
            // SAFETY: as `call` says; `bytes` has `len` bytes, which the method only reads.
            unsafe { self.call(|file, methods| Some(methods.xWrite?(file, start, len, offset as i64))) }
                .map_err(io::Error::other)
        })
    }

    /// Cuts the file to `len_bytes`.
    pub fn set_len(&self, len_bytes: u64) -> Result<(), disk::Error> {
        disk::perform_on_path(Operation::SetLength { len_bytes }, &self.path, || {
            // SAFETY: as `call` says.
            unsafe { self.call(|file, methods| Some(methods.xTruncate?(file, len_bytes as i64))) }
                .map_err(io::Error::other)
        })
    }

    fn control(&self, operation: c_int, argument: *mut c_void) -> rusqlite::Result<()> {
        // SAFETY: the handle is open as long as `self` is borrowed, and both operations that are used write through
        // `argument` what their callers have room for: a pointer, or an int.
        outcome(unsafe {
            ffi::sqlite3_file_control(self.connection.handle(), c"main".as_ptr(), operation, argument)
        })
    }

    /// Calls a method of the file.
    ///
    /// # Safety
    /// `method` must call no more than one method with the file that it is given, and with buffers of the length that it says. The
    /// file is open, because a connection opens its file at once and keeps it; nobody else uses the file meanwhile, because a
    /// connection is of one thread.
    unsafe fn call(
        &self,
        method: impl FnOnce(*mut ffi::sqlite3_file, &ffi::sqlite3_io_methods) -> Option<c_int>,
    ) -> rusqlite::Result<()> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        self.control(ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast())?;
        // SAFETY: SQLite gives a file that is open as long as its connection is; the methods of an open file are a static table.
        let methods = unsafe { file.as_ref().and_then(|file| file.pMethods.as_ref()) };
        let code = methods.and_then(|methods| method(file, methods));
        outcome(code.unwrap_or(ffi::SQLITE_MISUSE))
    }
}

fn outcome(code: c_int) -> rusqlite::Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

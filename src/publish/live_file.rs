//! Accesses the live archive's file through SQLite's own descriptor.
//!
//! Touches: the file that a connection has open; never opens another descriptor of the file.
//!
//! Guarantees: this module ends no lock of this process. POSIX drops every lock that a process has on a file when the
//! process closes any descriptor of the file. So SQLite keeps a descriptor until all its connections to the file are
//! unlocked. A separate descriptor would be closed in the middle of another thread's query.
//!
//! Rejected: an open-file-description lock for files that SQLite cannot read. The lock itself survives, but closing
//! its descriptor still drops the POSIX locks of the process.

use std::ffi::{c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::ptr;

use rusqlite::{Connection, ffi};

use super::connection::{is_busy, open};
use crate::disk::{self, Operation};

/// A connection that is used only for its file.
pub(super) struct LiveFile {
    connection: Connection,
    path: PathBuf,
}

impl LiveFile {
    /// Opens a file that need not be a database, because SQLite does not read the file yet.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        Ok(Self::of(open(path)?, path))
    }

    /// Wraps a connection that may hold locks on its file.
    pub fn of(connection: Connection, path: &Path) -> Self {
        Self { connection, path: path.to_owned() }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Takes SQLite's EXCLUSIVE lock and holds it until this value is dropped. Returns `false` when any other
    /// connection holds a lock, including connections of this process. For a file that SQLite cannot read, because no
    /// statement can take the lock there.
    pub fn lock(&self) -> rusqlite::Result<bool> {
        for level in [ffi::SQLITE_LOCK_SHARED, ffi::SQLITE_LOCK_EXCLUSIVE] {
            // SAFETY: as `call` says; the file's state allows `level`, because the connection has never locked the
            // file.
            match unsafe { self.call(|file, methods| Some(methods.xLock?(file, level))) } {
                Err(error) if is_busy(&error) => return Ok(false),
                locked => locked?,
            }
        }
        Ok(true)
    }

    /// Whether the opened path now leads to another file.
    pub fn has_moved(&self) -> rusqlite::Result<bool> {
        let mut has_moved: c_int = 0;
        self.control(ffi::SQLITE_FCNTL_HAS_MOVED, (&raw mut has_moved).cast())?;
        Ok(has_moved != 0)
    }

    /// Fills `buffer` from `offset`; bytes after the end of the file read as zeros.
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
            // SAFETY: as `call` says; `bytes` has `len` bytes; the method only reads them.
            unsafe { self.call(|file, methods| Some(methods.xWrite?(file, start, len, offset as i64))) }
                .map_err(io::Error::other)
        })
    }

    /// Truncates the file to `len_bytes`.
    pub fn set_len(&self, len_bytes: u64) -> Result<(), disk::Error> {
        disk::perform_on_path(Operation::SetLength { len_bytes }, &self.path, || {
            // SAFETY: as `call` says.
            unsafe { self.call(|file, methods| Some(methods.xTruncate?(file, len_bytes as i64))) }
                .map_err(io::Error::other)
        })
    }

    fn control(&self, operation: c_int, argument: *mut c_void) -> rusqlite::Result<()> {
        // SAFETY: the handle is open as long as `self` is borrowed. Both operations that are used write a pointer or
        // an int through `argument`, and their callers pass a variable of that type.
        outcome(unsafe {
            ffi::sqlite3_file_control(self.connection.handle(), c"main".as_ptr(), operation, argument)
        })
    }

    /// Calls a method of the file.
    ///
    /// # Safety
    /// `method` must call no more than one method with the given file, and pass buffers of the length that it states.
    /// The file is open, because a connection opens its file at once and keeps it open. No other thread uses the file
    /// meanwhile, because a connection belongs to one thread.
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

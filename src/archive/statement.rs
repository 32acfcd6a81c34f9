//! Prepared statements that bind rows of [`Cell`]s without copying their text.
//!
//! rusqlite makes SQLite copy bound text. This module binds text in place. Binding in place is sound because a
//! statement is stepped to its end and reset before the bound rows can be dropped. This file contains the calls of
//! SQLite's C interface.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int};
use std::ptr::NonNull;

use rusqlite::Connection;
use rusqlite::ffi;

use crate::record::Cell;

/// A prepared statement without results, bound to a connection's lifetime.
#[derive(Debug)]
pub struct Statement<'c> {
    raw: NonNull<ffi::sqlite3_stmt>,
    connection: &'c Connection,
    parameters: usize,
}

impl<'c> Statement<'c> {
    /// Prepares `sql`, a single statement.
    ///
    /// # Errors
    /// Any error that SQLite returns for the SQL.
    pub fn new(connection: &'c Connection, sql: &str) -> Result<Self, rusqlite::Error> {
        let mut raw = std::ptr::null_mut();
        let len = c_int::try_from(sql.len()).map_err(|_| rusqlite::Error::InvalidQuery)?;
        // SAFETY: the connection is open as long as `connection` is borrowed; `sql` is valid for `len` bytes; `raw` is a
        // valid place for the result.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                connection.handle(),
                sql.as_ptr().cast::<c_char>(),
                len,
                ffi::SQLITE_PREPARE_PERSISTENT as _,
                &mut raw,
                std::ptr::null_mut(),
            )
        };
        match NonNull::new(raw) {
            Some(raw) if code == ffi::SQLITE_OK => {
                // SAFETY: `raw` is a live statement.
                let parameters = unsafe { ffi::sqlite3_bind_parameter_count(raw.as_ptr()) } as usize;
                Ok(Self { raw, connection, parameters })
            }
            _ => Err(failure(connection, code)),
        }
    }

    /// Binds `cells` in order and runs the statement to its end. Returns the number of rows that the statement
    /// changed.
    ///
    /// # Errors
    /// Any error of SQLite; the statement can be run again.
    ///
    /// # Panics
    /// When the number of cells is not the number of the statement's parameters.
    pub fn execute<'a>(
        &mut self,
        cells: impl IntoIterator<Item = &'a Cell<'a>>,
    ) -> Result<u64, rusqlite::Error> {
        let raw = self.raw.as_ptr();
        let mut bound = 0;
        for cell in cells {
            bound += 1;
            let place = bound as c_int;
            // SAFETY: `raw` is a live statement that is not being stepped. Text is bound in place (no destructor):
            // the text is borrowed for 'a, which outlives this call. The statement is reset below and never stepped
            // again before all of its parameters are bound again.
            let code = unsafe {
                match *cell {
                    Cell::Null => ffi::sqlite3_bind_null(raw, place),
                    Cell::Int(value) => ffi::sqlite3_bind_int64(raw, place, value),
                    Cell::Real(value) => ffi::sqlite3_bind_double(raw, place, value),
                    Cell::Text(text) => ffi::sqlite3_bind_text64(
                        raw,
                        place,
                        text.as_ptr().cast::<c_char>(),
                        text.len() as u64,
                        ffi::SQLITE_STATIC(),
                        ffi::SQLITE_UTF8 as _,
                    ),
                }
            };
            if code != ffi::SQLITE_OK {
                return Err(failure(self.connection, code));
            }
        }
        assert_eq!(bound, self.parameters, "a statement was given another number of values than it takes");
        // SAFETY: a live statement, all parameters bound to live values.
        let (code, changes) = unsafe {
            let stepped = ffi::sqlite3_step(raw);
            let error = (stepped != ffi::SQLITE_DONE && stepped != ffi::SQLITE_ROW)
                .then(|| failure(self.connection, stepped));
            let changes = ffi::sqlite3_changes64(self.connection.handle());
            ffi::sqlite3_reset(raw);
            (error, changes)
        };
        match code {
            Some(error) => Err(error),
            None => Ok(u64::try_from(changes).unwrap_or(0)),
        }
    }
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        // SAFETY: the statement is live and dropped once; its connection outlives it.
        unsafe {
            ffi::sqlite3_finalize(self.raw.as_ptr());
        }
    }
}

fn failure(connection: &Connection, code: c_int) -> rusqlite::Error {
    // SAFETY: the connection is open; the message is copied before any other call on the connection.
    let message = unsafe {
        let message = ffi::sqlite3_errmsg(connection.handle());
        (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), message)
}

//! Errors while a database file is built bottom-up. No operation is retried: the target is abandoned.

use crate::disk;

/// Why the loader refused a schema, a row or a batch, or gave up on the target file.
///
/// After an error from [`RowBatch::push`](super::RowBatch::push) the batch is the same as before the row. After any other error the
/// target file is incomplete, and the caller should delete the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteFileError {
    /// An operation on the target, or on a spill file in its directory, failed.
    #[error(transparent)]
    Io(#[from] disk::Error),
    /// SQLite does not accept the schema's SQL.
    #[error("SQLite refuses the schema: {0}; correct the SQL")]
    Schema(#[from] rusqlite::Error),
    /// The schema uses a feature that this loader does not write.
    #[error("{object}: {what} is not supported by the bulk loader; insert through SQLite instead")]
    Unsupported {
        /// The table, index, view or trigger by name.
        object: String,
        /// The feature by name: `a DESC column`, `a partial index`, ….
        what: String,
    },
    /// The page size is not a power of two between 4096 and 32768.
    #[error("page size {given} is not one of 4096, 8192, 16384, 32768")]
    PageSize {
        /// The requested page size, in bytes.
        given: u32,
    },
    /// A row that the table cannot store unchanged.
    #[error("{place}: {what}")]
    Row {
        /// The table, or the table and the column: `turns.model`.
        place: String,
        /// What is wrong with the row, and what to give instead.
        what: &'static str,
    },
    /// A sequence number, or a part of a sequence number, that no batch or more than one batch has; found when all batches have
    /// been submitted.
    #[error(
        "batch {sequence} {what}; number batches 0, 1, 2, … and submit each once, empty if it has no rows"
    )]
    Sequence {
        /// The first such number.
        sequence: u64,
        /// `never arrived` or `came twice`.
        what: &'static str,
    },
    /// Two rows have the same key in a unique index whose table keeps all rows.
    #[error("{index}: rows {first} and {second} have the same key: {key}")]
    Duplicate {
        /// The unique index by name.
        index: String,
        /// The rowid of the earlier row.
        first: u64,
        /// The rowid of the later row.
        second: u64,
        /// The key's values as SQL literals.
        key: String,
    },
    /// A limit of the file format or of this loader.
    #[error("{what} exceeds {limit}; split the data or insert through SQLite instead")]
    TooLarge {
        /// The quantity that is too large: `the rows of a table`, `the file in pages`, ….
        what: &'static str,
        /// The largest number possible.
        limit: u64,
    },
    /// The caller of [`Loader::finish_with`](super::Loader::finish_with) asked the loader to stop.
    #[error("interrupted while tables and indexes were laid into pages; the new file is incomplete")]
    Interrupted,
}

/// The result type of this module.
pub type LoadResult<T> = Result<T, SqliteFileError>;

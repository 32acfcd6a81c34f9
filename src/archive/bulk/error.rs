//! What can go wrong while a database file is built bottom-up. Nothing here is retried: the target is abandoned.

use crate::disk;

/// Why the loader refused a schema, a row or a batch, or gave up on the target file.
///
/// After any error from [`Batch::push`](super::Batch::push) the batch is as it was before the row; after any other one
/// the target file is incomplete and is to be deleted by whoever asked for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on the target, or on a spill file in its directory, failed.
    #[error(transparent)]
    Io(#[from] disk::Error),
    /// SQLite itself does not accept the schema's SQL.
    #[error("SQLite refuses the schema: {0}; correct the SQL")]
    Schema(#[from] rusqlite::Error),
    /// The schema has something, or asks for something, that this loader does not write.
    #[error("{object}: {what} is not supported by the bulk loader; insert through SQLite instead")]
    Unsupported {
        /// The table, index, view or trigger by name.
        object: String,
        /// The feature by name: `a DESC column`, `a partial index`, ….
        what: &'static str,
    },
    /// The page size is not a power of two between 4096 and 32768.
    #[error("page size {given} is not one of 4096, 8192, 16384, 32768")]
    PageSize {
        /// Bytes.
        given: u32,
    },
    /// A row has another number of values than its table has columns.
    #[error("{table}: {given} values for {expected} columns; give one value a column, in the table's order")]
    Columns {
        /// The table by name.
        table: String,
        /// How many columns the table has.
        expected: usize,
        /// How many values were given.
        given: usize,
    },
    /// A NULL for a NOT NULL column.
    #[error("{table}.{column} is NOT NULL; give a value or leave the row out")]
    Null {
        /// The table by name.
        table: String,
        /// The column by name.
        column: String,
    },
    /// SQLite's column affinity would turn the value into another type by parsing or printing it.
    #[error(
        "{table}.{column}: {given} would be converted by the column's affinity; give the converted value"
    )]
    NotAffine {
        /// The table by name.
        table: String,
        /// The column by name.
        column: String,
        /// What was given: `a number`, `text that reads as a number`.
        given: &'static str,
    },
    /// A child row was pushed into a batch before any row of its parent's table.
    #[error("{table}: no row of {parent} precedes this one in its batch; push the parent's row first")]
    NoParent {
        /// The child table by name.
        table: String,
        /// The parent table by name.
        parent: String,
    },
    /// A batch with this sequence number was submitted before.
    #[error("batch {sequence} was submitted twice; number batches 0, 1, 2, … without repetition")]
    RepeatedBatch {
        /// The repeated number.
        sequence: u64,
    },
    /// At the end a sequence number was missing.
    #[error("batch {sequence} never arrived, though later ones did; submit it, empty if it has no rows")]
    MissingBatch {
        /// The first number that is missing.
        sequence: u64,
    },
    /// Two rows have the same key in a unique index whose table keeps all rows.
    #[error("{table}: rows {first} and {second} have the same key in {index}: {key}")]
    Duplicate {
        /// The table by name.
        table: String,
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
        /// What grew too far: `a row in bytes`, `the rows of a table`, `the pages of the file`.
        what: &'static str,
        /// The largest number possible.
        limit: u64,
    },
    /// Another thread's batch failed before; that thread has the reason.
    #[error("an earlier batch failed, and its error was returned to the thread that submitted it")]
    Abandoned,
}

/// The result of everything in this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

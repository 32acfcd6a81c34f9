//! The bulk loader: builds a complete SQLite 3 database file bottom-up, from rows that several threads encode.
//!
//! It may create and write one target file, and unnamed spill files beside it. It knows tables, columns and indexes,
//! and nothing of what they mean. It promises the database that SQLite would hold after inserting the same rows in
//! order — byte order of texts, types of values, order of rows — and the same bytes whatever the number of threads and
//! the cutting of rows into batches. What it writes of the file format is in `docs/bulk-format.md`.
//!
//! ```
//! use relayburn_ledger::archive::bulk::{Duplicates, Loader, Options, Schema, Value};
//!
//! let dir = tempfile::tempdir()?;
//! let mut schema = Schema::from_sql("CREATE TABLE t(id TEXT PRIMARY KEY, n INTEGER); CREATE INDEX t_n ON t(n);")?;
//! let t = schema.table("t").unwrap();
//! schema.on_duplicate(t, Duplicates::KeepLast);
//! let loader = Loader::create(&dir.path().join("new.sqlite"), schema, Options::default())?;
//! std::thread::scope(|scope| {
//!     for sequence in 0..2 {
//!         let loader = &loader;
//!         scope.spawn(move || {
//!             let mut batch = loader.batch(sequence);
//!             batch.push(t, &[Value::Text(b"same"), Value::Int(sequence as i64)])?;
//!             loader.submit(batch)
//!         });
//!     }
//! });
//! let loaded = loader.finish()?;
//! loaded.file.sync_all()?;
//! assert_eq!(loaded.rows[0], 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod schema;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{Error, Result};
pub use schema::{Duplicates, Schema, TableId};

/// One value of a row, before the column's affinity is applied.
///
/// Integral reals become integers in INTEGER, NUMERIC and REAL columns, integers become reals in REAL columns, and a
/// NaN becomes NULL, as in SQLite. What SQLite would have to parse or print is refused: numbers for TEXT columns,
/// texts that read as numbers for numeric ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// An integer.
    Int(i64),
    /// A floating point number.
    Real(f64),
    /// Text, meant to be UTF-8; any bytes are stored as they are.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value.as_bytes())
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// How the file is to be built.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes a page: 4096, 8192, 16384 or 32768.
    pub page_size: u32,
    /// About how much memory sort keys, waiting batches and page buffers may take before they go to spill files.
    pub memory_bytes: usize,
    /// Where spill files are made; `None` is the target's directory. They have no name where the system allows that.
    pub spill_dir: Option<PathBuf>,
    /// Whether the header says WAL (bytes 18 and 19 are 2) or rollback journal (1).
    pub wal: bool,
    /// What `PRAGMA user_version` is to say.
    pub user_version: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_size: 16384, memory_bytes: 512 << 20, spill_dir: None, wal: false, user_version: 0 }
    }
}

/// A database being built. Shared by reference among the threads that make rows.
///
/// Rows stand in the order of their batches' sequence numbers, and within a batch in the order they were pushed.
pub struct Loader {
    file: File,
}

/// Rows on their way into a [`Loader`], in one thread's hands.
pub struct Batch {
    sequence: u64,
}

/// What [`Loader::finish`] leaves: the whole database, written but not synced.
#[derive(Debug)]
pub struct Loaded {
    /// The target, still open for reading and writing; `sync_all` it before it is relied on.
    pub file: File,
    /// The file's length in bytes.
    pub len_bytes: u64,
    /// Rows that stayed, for each table in the schema's order.
    pub rows: Vec<u64>,
    /// Rows that went because of their own key or their parent's, for each table in the schema's order.
    pub superseded: Vec<u64>,
    /// Where the time went.
    pub phases: Phases,
}

/// Where a load's time went. Those marked CPU are summed over threads and overlap with the caller's work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// CPU: sorting the keys of each batch and packing them into runs.
    pub sort: Duration,
    /// CPU: laying rows into table pages, and writing those.
    pub tables: Duration,
    /// Wall: finding repeated keys and rewriting the table pages they touch.
    pub duplicates: Duration,
    /// Wall: merging keys and filling index pages.
    pub indexes: Duration,
    /// Wall: writing index pages.
    pub write: Duration,
    /// Bytes that went to spill files.
    pub spilled_bytes: u64,
}

impl Loader {
    /// Creates the target exclusively, mode 0600 on unix; its directory must exist.
    ///
    /// # Errors
    /// [`Error::PageSize`]; [`Error::Io`], also when something of that name exists.
    pub fn create(_path: &Path, _schema: Schema, _options: Options) -> Result<Self> {
        unreachable!("the interface alone is committed so far")
    }

    /// An empty batch for the rows of place `sequence` among all batches, counted from 0 without gaps.
    ///
    /// Batches may be filled and submitted in any order, but those far ahead of the sequence have to wait, in memory up
    /// to half of the budget and in a spill file beyond: hand out work in order. About a megabyte of rows is best.
    pub fn batch(&self, sequence: u64) -> Batch {
        Batch { sequence }
    }

    /// Sorts the batch's keys in this thread and takes its rows; writes those whose turn has come.
    ///
    /// # Errors
    /// [`Error::RepeatedBatch`], [`Error::Io`], [`Error::TooLarge`]; [`Error::Abandoned`] when another batch failed.
    pub fn submit(&self, batch: Batch) -> Result<()> {
        let _ = batch.sequence;
        Err(Error::Abandoned)
    }

    /// Builds the indexes and completes the file, on the rayon pool this is called in.
    ///
    /// # Errors
    /// [`Error::MissingBatch`], [`Error::Duplicate`], [`Error::Io`], [`Error::TooLarge`]; [`Error::Abandoned`] when a
    /// batch had failed.
    pub fn finish(self) -> Result<Loaded> {
        drop(self.file);
        Err(Error::Abandoned)
    }
}

impl Batch {
    /// Encodes one row, its values in the order of the table's columns.
    ///
    /// # Errors
    /// [`Error::Columns`], [`Error::Null`], [`Error::NotAffine`], [`Error::NoParent`], [`Error::TooLarge`], and
    /// [`Error::Unsupported`] for a table that takes no rows. The batch is unchanged then.
    pub fn push(&mut self, _table: TableId, _row: &[Value<'_>]) -> Result<()> {
        Err(Error::Abandoned)
    }
}

//! The bulk loader: builds a complete SQLite 3 database file bottom-up, from rows that several threads encode.
//!
//! It may create and write one target file, and unnamed spill files beside it. It knows tables, columns and indexes,
//! and nothing of what they mean. It promises the database that SQLite would hold after inserting the same rows in
//! order — byte order of texts, types of values, order of rows — and the same bytes whatever the number of threads and
//! the cutting of rows into batches, if the rows of all tables together are pushed in one order: the pages of a table are
//! numbered when they fill up. What it writes of the file format is in `docs/bulk-format.md`.
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

mod batch;
mod duplicates;
mod error;
mod file;
mod index;
mod key;
mod page;
mod record;
mod schema;
mod table;
#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

pub use batch::Batch;
pub use error::{Error, Result};
pub use schema::{Duplicates, Schema, TableId};

use crate::disk::File;

use batch::{Encoded, Runs};
use duplicates::Rows;
use file::{Spill, Target};
use page::Kind;
use schema::Tree;
use table::Leaves;

/// The parts of the budget that packed keys and waiting rows may take. Spilling costs little while the page cache has
/// room, so that a large load need not take much more memory than a small one.
const RUNS_SHARE: usize = 32;
const ROWS_SHARE: usize = 4;
/// How many emptied row buffers are kept for the next batches.
const ENCODED_KEPT: usize = 16;

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

impl Options {
    pub(in crate::archive) fn check_page_size(&self) -> Result<()> {
        let given = self.page_size;
        let is_known = given.is_power_of_two() && (4096..=32768).contains(&given);
        if is_known { Ok(()) } else { Err(Error::PageSize { given }) }
    }
}

/// A database being built. Shared by reference among the threads that make rows.
///
/// Rows stand in the order of their batches' sequence numbers, and within a batch in the order they were pushed.
/// Dropped before it is finished, it leaves an incomplete file.
pub struct Loader {
    schema: Arc<Schema>,
    options: Options,
    spill: Spill,
    queue: Mutex<Queue>,
    /// Locked by whoever appends the batches whose turn it is; never while the queue is.
    tables: Mutex<Tables>,
    /// What batches are made of, to be used again.
    batches: Mutex<Vec<Batch>>,
    encoded: Mutex<Vec<Encoded>>,
    /// Bytes of runs in memory.
    runs_len: AtomicUsize,
    failed: AtomicBool,
    sort_ns: AtomicU64,
    spilled_bytes: AtomicU64,
}

/// Batches that wait for those before them.
struct Queue {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Bytes of waiting rows in memory.
    rows_len: usize,
}

struct Waiting {
    encoded: Encoded,
    /// Where the rows are, if not there: offset and length in the spill file.
    spilled: Option<(u64, usize)>,
    runs: Runs,
}

/// What batches became, in their order.
struct Tables {
    target: Target,
    leaves: Vec<Leaves>,
    hashes: Vec<Vec<u32>>,
    parents: Vec<Vec<u32>>,
    /// Runs, with the place of the first row of each table in the batch.
    runs: Vec<(Runs, Vec<u32>)>,
    busy: Duration,
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
    /// Wall: merging keys, filling and writing index pages, and what completes the file.
    pub indexes: Duration,
    /// Bytes that went to spill files.
    pub spilled_bytes: u64,
}

impl Loader {
    /// Creates the target exclusively, mode 0600 on unix; its directory must exist.
    ///
    /// # Errors
    /// [`Error::PageSize`]; [`Error::Io`], also when something of that name exists.
    pub fn create(path: &Path, schema: Schema, options: Options) -> Result<Self> {
        options.check_page_size()?;
        let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let spill = Spill::new(options.spill_dir.clone().unwrap_or_else(|| beside.to_owned()));
        let count = schema.tables.len();
        let tables = Tables {
            target: Target::create(path, options.page_size)?,
            leaves: (0..count).map(|_| Leaves::new(0)).collect(),
            hashes: vec![Vec::new(); count],
            parents: vec![Vec::new(); count],
            runs: Vec::new(),
            busy: Duration::ZERO,
        };
        Ok(Self {
            schema: Arc::new(schema),
            options,
            spill,
            queue: Mutex::new(Queue { next: 0, waiting: BTreeMap::new(), rows_len: 0 }),
            tables: Mutex::new(tables),
            batches: Mutex::new(Vec::new()),
            encoded: Mutex::new(Vec::new()),
            runs_len: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            sort_ns: AtomicU64::new(0),
            spilled_bytes: AtomicU64::new(0),
        })
    }

    /// An empty batch for the rows of place `sequence` among all batches, counted from 0 without gaps.
    ///
    /// Batches may be filled and submitted in any order, but those far ahead of the sequence have to wait, in memory up
    /// to a quarter of the budget and in a spill file beyond: hand out work in order. About a megabyte of rows is best.
    pub fn batch(&self, sequence: u64) -> Batch {
        let used = self.batches.lock().ok().and_then(|mut batches| batches.pop());
        let encoded = self.encoded.lock().ok().and_then(|mut encoded| encoded.pop());
        let mut batch = used.unwrap_or_else(|| Batch::new(Arc::clone(&self.schema)));
        batch.reuse(sequence, encoded.unwrap_or_default());
        batch
    }

    /// Sorts the batch's keys in this thread and takes its rows; writes those whose turn has come.
    ///
    /// # Panics
    /// When the batch is another loader's.
    ///
    /// # Errors
    /// [`Error::RepeatedBatch`], [`Error::Io`], [`Error::TooLarge`]; [`Error::Abandoned`] when another batch failed.
    pub fn submit(&self, batch: Batch) -> Result<()> {
        assert!(Arc::ptr_eq(&batch.schema, &self.schema), "a batch goes to the loader that gave it");
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Abandoned);
        }
        self.take(batch).inspect_err(|_| self.failed.store(true, Ordering::Relaxed))
    }

    fn take(&self, mut batch: Batch) -> Result<()> {
        let started = Instant::now();
        let mut runs = batch.pack();
        self.sort_ns.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        let runs_len = runs.bytes.len();
        let held = self.runs_len.fetch_add(runs_len, Ordering::Relaxed) + runs_len;
        if held > self.options.memory_bytes / RUNS_SHARE {
            self.runs_len.fetch_sub(runs_len, Ordering::Relaxed);
            runs.spilled = Some(self.append_spill(&runs.bytes)?);
            runs.bytes = Vec::new();
        }
        let sequence = batch.sequence;
        let mut encoded = std::mem::take(&mut batch.encoded);
        lock(&self.batches)?.push(batch);
        let rows_len = encoded.rows.len();
        let rows_max = self.options.memory_bytes / ROWS_SHARE;
        if lock(&self.queue)?.rows_len + rows_len > rows_max {
            // Whatever can go now goes first; what waits for a batch that is not there yet cannot.
            self.drain(lock(&self.tables)?)?;
        }
        let queue = lock(&self.queue)?;
        let is_ahead = sequence > queue.next && queue.rows_len + rows_len > rows_max;
        drop(queue);
        let mut spilled = None;
        if is_ahead {
            spilled = Some((self.append_spill(&encoded.rows)?, rows_len));
            encoded.rows = Vec::new();
        }
        let mut queue = lock(&self.queue)?;
        if sequence < queue.next || queue.waiting.contains_key(&sequence) {
            return Err(Error::RepeatedBatch { sequence });
        }
        queue.rows_len += encoded.rows.len();
        queue.waiting.insert(sequence, Waiting { encoded, spilled, runs });
        drop(queue);
        // Whoever has the lock may have looked before this batch was there, and may look no more.
        while lock(&self.queue)?.is_ready() {
            match self.tables.try_lock() {
                Ok(tables) => self.drain(tables)?,
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Poisoned(_)) => return Err(Error::Abandoned),
            }
        }
        Ok(())
    }

    fn append_spill(&self, bytes: &[u8]) -> Result<u64> {
        self.spilled_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.spill.append(bytes)
    }

    /// Appends all batches whose turn it is.
    fn drain(&self, mut tables: MutexGuard<'_, Tables>) -> Result<()> {
        let started = Instant::now();
        loop {
            let mut queue = lock(&self.queue)?;
            let next = queue.next;
            let Some(Waiting { mut encoded, spilled, runs }) = queue.waiting.remove(&next) else { break };
            queue.next += 1;
            queue.rows_len -= encoded.rows.len();
            drop(queue);
            if let Some((offset, length)) = spilled {
                encoded.rows.resize(length, 0);
                self.spill.read(offset, &mut encoded.rows)?;
            }
            tables.append(&self.schema, &encoded, runs)?;
            let mut used = lock(&self.encoded)?;
            if used.len() < ENCODED_KEPT {
                used.push(encoded);
            }
        }
        tables.busy += started.elapsed();
        Ok(())
    }

    /// Builds the indexes and completes the file, on the rayon pool this is called in.
    ///
    /// # Errors
    /// [`Error::MissingBatch`], [`Error::Duplicate`], [`Error::Io`], [`Error::TooLarge`]; [`Error::Abandoned`] when a
    /// batch had failed.
    pub fn finish(self) -> Result<Loaded> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Abandoned);
        }
        self.drain(lock(&self.tables)?)?;
        let queue = self.queue.into_inner().map_err(|_| Error::Abandoned)?;
        if !queue.waiting.is_empty() {
            return Err(Error::MissingBatch { sequence: queue.next });
        }
        drop((self.batches, self.encoded));
        let schema = &*self.schema;
        let tables = self.tables.into_inner().map_err(|_| Error::Abandoned)?;
        let Tables { mut target, leaves, hashes, parents, runs, busy } = tables;
        let map = self.spill.into_map()?;
        let map = map.as_deref().unwrap_or_default();
        let runs_of = |index: usize| -> Vec<(&[u8], u32)> {
            let table = schema.indexes[index].table;
            runs.iter()
                .map(|(runs, bases)| (runs.get(index, map), bases[table]))
                .filter(|(run, _)| !run.is_empty())
                .collect()
        };

        let started = Instant::now();
        let counts: Vec<u64> = leaves.iter().map(|leaves| u64::from(leaves.rows)).collect();
        let mut pages =
            leaves.into_iter().map(|leaves| leaves.into_pages(&mut target)).collect::<Result<Vec<_>>>()?;
        let key_runs = schema.tables.iter().map(|table| table.primary_key.map(runs_of).unwrap_or_default());
        let rows: Vec<_> = hashes
            .into_iter()
            .zip(parents)
            .zip(key_runs)
            .map(|((hashes, parents), runs)| Rows { hashes, parents, runs })
            .collect();
        let fates = duplicates::find(schema, &rows)?;
        drop(rows);
        for (pages, fates) in pages.iter_mut().zip(&fates) {
            pages.patch(&mut target, fates)?;
        }
        let duplicates = started.elapsed();

        let started = Instant::now();
        let sources = (0..schema.indexes.len()).map(|index| index::Source {
            index,
            runs: runs_of(index),
            fates: &fates[schema.indexes[index].table],
            estimate_bytes: runs.iter().map(|(runs, _)| runs.estimates[index]).sum(),
        });
        let index_roots = index::build(&mut target, schema, sources.collect())?;
        let mut table_roots = Vec::new();
        for pages in pages {
            let (children, dividers) = pages.tree();
            table_roots.push(tree::write_root(&mut target, Kind::TableLeaf, children, &dividers)?);
        }
        tree::write_schema(&mut target, schema, |tree| match tree {
            Tree::Table(table) => table_roots[table],
            Tree::Index(index) => index_roots[index],
        })?;
        tree::write_header(&mut target, schema, &self.options)?;
        let superseded: Vec<u64> = fates.iter().map(|fates| fates.gone).collect();
        Ok(Loaded {
            len_bytes: u64::from(target.pages) * target.page_size as u64,
            file: target.file,
            rows: counts.iter().zip(&superseded).map(|(count, gone)| count - gone).collect(),
            superseded,
            phases: Phases {
                sort: Duration::from_nanos(self.sort_ns.into_inner()),
                tables: busy,
                duplicates,
                indexes: started.elapsed(),
                spilled_bytes: self.spilled_bytes.into_inner(),
            },
        })
    }
}

/// A lock that another thread left in a panic is as good as an error there.
fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| Error::Abandoned)
}

impl Queue {
    fn is_ready(&self) -> bool {
        self.waiting.contains_key(&self.next)
    }
}

impl Tables {
    fn append(&mut self, schema: &Schema, encoded: &Encoded, runs: Runs) -> Result<()> {
        let bases = self.leaves.iter().map(|leaves| leaves.rows).collect();
        let mut rest = &encoded.rows[..];
        while let Some((head, more)) = rest.split_first_chunk::<8>() {
            let [t0, t1, t2, t3, l0, l1, l2, l3] = *head;
            let table = u32::from_le_bytes([t0, t1, t2, t3]) as usize;
            let (record, more) = more.split_at(u32::from_le_bytes([l0, l1, l2, l3]) as usize);
            if let Some(parent) = schema.tables[table].parent {
                self.parents[table].push(self.leaves[parent].rows - 1);
            }
            self.leaves[table].append(&mut self.target, record)?;
            rest = more;
        }
        for (all, hashes) in self.hashes.iter_mut().zip(&encoded.hashes) {
            all.extend_from_slice(hashes);
        }
        self.runs.push((runs, bases));
        Ok(())
    }
}

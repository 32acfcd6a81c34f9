//! The bulk loader: builds a complete SQLite 3 database file bottom-up, from rows that several threads encode.
//!
//! May create and write one target file, and an unnamed spill file in the same directory. Knows tables, columns and indexes,
//! and nothing of their meaning. Guarantees: the database is the database that SQLite would have after inserting the same rows
//! in order (byte order of texts, types of values, order of rows); the bytes are the same whatever the number of threads, the
//! division of rows into batches and the budget. `docs/bulk-format.md` describes the part of the file format that is written.
//!
//! ```text
//! batch: Batch::push          rows into records and sort keys, on any thread
//!        Loader::submit       keys sorted into runs; all of it packed, kept in memory or appended to the spill file
//! finish: cells               rows in order; runs merged, repeated keys settled on the way
//!         tree                cells into pages, many trees at once; numbers; interior pages
//!         file                pages into the target
//! ```
//!
//! Trees are built in three stages: first the primary keys of parents, because they decide which rows are removed; then
//! everything else of parents, and the primary keys of children; then everything else of children.
//!
//! ```
//! use relayburn_ledger::sqlite_file::{Duplicates, Loader, Schema, SqlValue};
//!
//! let dir = tempfile::tempdir()?;
//! let sql = "CREATE TABLE t(id TEXT PRIMARY KEY, n INTEGER); CREATE INDEX t_n ON t(n);";
//! let mut schema = Schema::from_sql(sql, 16384)?;
//! let t = schema.table("t").unwrap();
//! schema.on_duplicate(t, Duplicates::KeepLast);
//! let loader = Loader::create(&dir.path().join("new.sqlite"), schema, 512 << 20)?;
//! std::thread::scope(|scope| {
//!     for sequence in 0..2 {
//!         let loader = &loader;
//!         scope.spawn(move || {
//!             let mut batch = loader.batch(sequence);
//!             batch.push(t, &[SqlValue::Text(b"same"), SqlValue::Int(sequence as i64)])?;
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
mod cells;
mod error;
mod file;
#[cfg(feature = "parquet")]
mod in_order;
mod key;
mod page;
mod pages;
mod record;
mod run;
mod schema;
mod stored;
mod superseded;
#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests;
mod tree;
mod value;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use batch::RowBatch;
pub use error::{LoadResult, SqliteFileError};
#[cfg(feature = "parquet")]
pub(crate) use in_order::{IndexCursor, RowFinder};
pub(crate) use page::PageKind;
pub(crate) use pages::{BTreePage, ChangesInLog, PageReader, TreePages, UnreadablePage};
pub use record::{RowVisitor, StoredRow};
pub(crate) use schema::check_page_size;
pub use schema::{Duplicates, Schema, TableId};
pub(crate) use stored::{StoredRecordReader, text_and_number};
pub use value::SqlValue;

use crate::disk::File;
use crate::interrupt::Interrupt;

use batch::{BatchPart, Data};
use cells::{Cells, EntryCells, RowCells};
use file::{DatabaseFile, FrozenStore, Store};
use superseded::SupersededRows;
use tree::BTree;

/// Packed batches are spilled when they have more than this fraction (1/16) of `memory_bytes`. Spilling costs little while the
/// page cache has space, so a large load needs little more memory than a small load.
const PACKED_SHARE: usize = 16;

/// A database that is being built. Shared by reference among the threads that make rows.
///
/// Rows are in the order of their batches' sequence numbers, and within a batch in the order in which they were pushed. A
/// loader that is dropped before it is finished leaves an incomplete file.
pub struct Loader {
    schema: Arc<Schema>,
    target: DatabaseFile,
    packed: Mutex<PackedBatches>,
}

/// Batches that were submitted.
struct PackedBatches {
    store: Store,
    parts: Vec<BatchPart>,
    /// How much space the last batch needed, for each table and then for each index.
    sizes: Vec<(usize, usize)>,
}

/// The result of [`Loader::finish`]: the whole database, written but not synced.
///
/// The value also owns the packed batches. Freeing them takes a tenth of a second for a gigabyte, so drop the value beside other
/// work.
#[derive(Debug)]
pub struct Loaded {
    /// The target, still open for reading and writing; call `sync_all` before relying on the file.
    pub file: File,
    /// The file's length in bytes.
    pub len_bytes: u64,
    /// Rows that were kept, for each table in the schema's order.
    pub rows: Vec<u64>,
    /// Rows that were removed because of their own key or their parent's, for each table in the schema's order.
    pub superseded: Vec<u64>,
    /// Bytes that went through a spill file.
    pub spilled_bytes: u64,
    _packed: FrozenStore,
}

impl Loader {
    /// Creates the target exclusively, mode 0600 on unix; its directory must exist. Packed batches use a sixteenth of
    /// `memory_bytes` before they go to a spill file in that directory. The following memory comes on top: batches that are being filled, 16
    /// MiB of pages, and, while trees are built: one key of each index for each batch and for each of its pages, four bytes for
    /// each row with the same key, 16 bytes for each row that moved, and a row or entry that overflows.
    ///
    /// # Errors
    /// [`SqliteFileError::Io`], also when a file of that name exists.
    pub fn create(path: &Path, schema: Schema, memory_bytes: usize) -> LoadResult<Self> {
        let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let packed = PackedBatches {
            store: Store::new(beside.to_owned(), memory_bytes / PACKED_SHARE),
            parts: Vec::new(),
            sizes: vec![(0, 0); schema.tables.len() + schema.indexes.len()],
        };
        Ok(Self {
            target: DatabaseFile::create(path, schema.page_size, &schema.image)?,
            schema: Arc::new(schema),
            packed: Mutex::new(packed),
        })
    }

    /// An empty batch for the rows of place `sequence` among all batches, counted from 0 without gaps.
    ///
    /// Batches may be filled and submitted in any order. About a megabyte of rows is best.
    pub fn batch(&self, sequence: u64) -> RowBatch {
        self.batch_part(sequence, 0)
    }

    /// An empty part of the batch for place `sequence`, counted from 0 without gaps, for a batch whose rows need more than a
    /// few megabytes. Submit every part but the last with [`submit_part`](Self::submit_part). Children must be in the same part
    /// as their parents.
    pub fn batch_part(&self, sequence: u64, part: u32) -> RowBatch {
        RowBatch::new(Arc::clone(&self.schema), sequence, part, &self.packed().sizes)
    }

    fn packed(&self) -> MutexGuard<'_, PackedBatches> {
        // A panicking thread leaves the data under the lock whole: the end of the load reports a part that was not pushed as
        // missing.
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sorts the batch's keys in this thread and adds its rows to the load. Of a batch in parts, submits the last part.
    ///
    /// # Panics
    /// When the batch is another loader's.
    ///
    /// # Errors
    /// [`SqliteFileError::Io`]; the load cannot be finished after an error.
    pub fn submit(&self, batch: RowBatch) -> LoadResult<()> {
        self.take(batch, true)
    }

    /// Submits a part that is followed by other parts of the same batch, as [`submit`](Self::submit) does a batch.
    ///
    /// # Panics
    /// When the batch is another loader's.
    ///
    /// # Errors
    /// [`SqliteFileError::Io`]; the load cannot be finished after an error.
    pub fn submit_part(&self, batch: RowBatch) -> LoadResult<()> {
        self.take(batch, false)
    }

    fn take(&self, batch: RowBatch, is_last: bool) -> LoadResult<()> {
        assert!(Arc::ptr_eq(&batch.schema, &self.schema), "a batch goes to the loader that gave it");
        let sizes = batch.sizes();
        let (mut part, bytes) = batch.pack();
        part.is_last = is_last;
        let mut packed = self.packed();
        part.offset = packed.store.append(&bytes)?;
        packed.parts.push(part);
        packed.sizes = sizes;
        Ok(())
    }

    /// Builds tables and indexes and completes the file, on the rayon pool of the caller.
    ///
    /// # Errors
    /// [`SqliteFileError::Sequence`], also after a batch could not be submitted; [`SqliteFileError::Duplicate`], [`SqliteFileError::Io`],
    /// [`SqliteFileError::TooLarge`].
    pub fn finish(self) -> LoadResult<Loaded> {
        self.finish_with(&Interrupt::new(), None)
    }

    /// As [`finish`](Self::finish), and calls `each` for the rows of one table, in one thread at a time. Once `interrupt` is
    /// requested, gives up within a round of pages.
    ///
    /// # Errors
    /// Those of [`finish`](Self::finish), and [`SqliteFileError::Interrupted`].
    pub fn finish_with(
        self,
        interrupt: &Interrupt,
        mut each: Option<(TableId, RowVisitor<'_>)>,
    ) -> LoadResult<Loaded> {
        let Self { schema, mut target, packed } = self;
        let packed = packed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let PackedBatches { store, mut parts, .. } = packed;
        parts.sort_unstable_by_key(|part| (part.sequence, part.part));
        let mut expected = (0, 0);
        for part in &parts {
            let found = (part.sequence, part.part);
            if found != expected {
                let what = if found < expected { "came twice" } else { "never arrived" };
                return Err(SqliteFileError::Sequence { sequence: part.sequence.min(expected.0), what });
            }
            expected = if part.is_last { (part.sequence + 1, 0) } else { (part.sequence, part.part + 1) };
        }
        if expected.1 > 0 {
            return Err(SqliteFileError::Sequence { sequence: expected.0, what: "never arrived" });
        }
        let store = store.freeze()?;
        let spilled_bytes = store.spilled.as_ref().map_or(0, |spilled| spilled.len() as u64);
        let data = Data::new(parts, store, schema.tables.len())?;
        let superseded: Vec<OnceLock<SupersededRows>> =
            schema.tables.iter().map(|_| OnceLock::new()).collect();
        for stage in 0..3 {
            build_stage(&mut target, &schema, &data, &superseded, stage, &mut each, interrupt)?;
        }
        // The change counter, equal in both places, and the number of pages for which the counter is valid.
        let numbers = [(24, 1), (28, target.pages), (92, 1), (96, rusqlite::version_number() as u32)];
        for (at, number) in numbers {
            target.file.write_all_at(&number.to_be_bytes(), at)?;
        }
        let superseded: Vec<u64> =
            superseded.iter().map(|of| of.get().map_or(0, |rows| rows.removed)).collect();
        let rows = data.counts.iter().zip(&superseded).map(|(count, removed)| u64::from(*count) - removed);
        Ok(Loaded {
            len_bytes: u64::from(target.pages) * target.page_size as u64,
            file: target.file,
            rows: rows.collect(),
            superseded,
            spilled_bytes,
            _packed: data.into_store(),
        })
    }
}

/// Builds the trees of one stage. Each primary key finds the superseded rows of its table; later stages need them.
fn build_stage(
    target: &mut DatabaseFile,
    schema: &Schema,
    data: &Data,
    superseded: &[OnceLock<SupersededRows>],
    stage: usize,
    each: &mut Option<(TableId, RowVisitor<'_>)>,
    interrupt: &Interrupt,
) -> LoadResult<()> {
    // Primary keys are built in the stage of this number, everything else of their tables in the next stage.
    let stage_of = |table: usize| usize::from(schema.tables[table].parent.is_some());
    let (page_size, mut trees) = (target.page_size, Vec::new());
    for (table, of) in schema.tables.iter().enumerate().filter(|(table, _)| stage_of(*table) + 1 == stage) {
        // The primary key, if there is one, finds the superseded rows.
        let superseded =
            superseded[table].get_or_init(|| rows_without_parent(schema, data, superseded, table));
        let each = each.take_if(|(of, _)| of.0 == table).map(|(_, each)| -> RowVisitor<'_> { each });
        let cells = Cells::Rows(RowCells::new(data, table, superseded, each));
        trees.push(BTree::new(cells, of.root, page_size, data.estimate(table)));
    }
    for (index, of) in schema.indexes.iter().enumerate() {
        let is_key = schema.tables[of.table].primary_key == Some(index);
        if stage_of(of.table) + usize::from(!is_key) == stage {
            let finding = is_key.then(|| rows_without_parent(schema, data, superseded, of.table));
            let cells = EntryCells::new(schema, index, data, &superseded[of.table], finding)?;
            let estimate_bytes = data.estimate(schema.tables.len() + index);
            trees.push(BTree::new(Cells::Entries(Box::new(cells)), of.root, page_size, estimate_bytes));
        }
    }
    tree::build(target, &mut trees, interrupt)
}

/// The rows whose parents were removed.
fn rows_without_parent(
    schema: &Schema,
    data: &Data,
    superseded: &[OnceLock<SupersededRows>],
    table: usize,
) -> SupersededRows {
    let mut orphans = SupersededRows::default();
    let parent = schema.tables[table].parent.and_then(|parent| Some((parent, superseded[parent].get()?)));
    let Some((parent, parents)) = parent.filter(|(_, parents)| parents.removed > 0) else { return orphans };
    let parts = (0..).map_while(|part| Some((data.rows(table, part)?, data.rows(parent, part)?)));
    for (rows, of_parent) in parts {
        for (row, of) in (rows.base..).zip(rows.parents()) {
            if parents.place(of_parent.base + of).is_none() {
                orphans.remove(row);
            }
        }
    }
    orphans
}

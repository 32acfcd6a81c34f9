//! Rows on their way from one thread into the loader: their records, their sort keys and packed batches. Works in memory alone.

use std::sync::Arc;

use super::file::FrozenStore;
use super::key::push_column;
use super::record::{affine, header_len, push_body, push_type, push_varint};
use super::run::{Strings, pack};
use super::schema::{Affinity, Schema, SchemaTable, TableId};
use super::{LoadResult, SqlValue, SqliteFileError};

/// SQLITE_MAX_LENGTH.
const RECORD_MAX: usize = 1_000_000_000;

/// Bytes that a rowid may add to a record.
const ROWID_MAX: usize = 16;

/// Rows on their way into a [`Loader`](super::Loader), filled by one thread.
pub struct RowBatch {
    sequence: u64,
    part: u32,
    pub(super) schema: Arc<Schema>,
    /// The records of each table.
    records: Vec<Strings>,
    /// For each table with a parent: the parent of each row, as a place in the batch.
    parents: Vec<Vec<u32>>,
    /// The keys of each index.
    keys: Vec<Strings>,
    /// Scratch.
    types: Vec<u8>,
}

/// A packed batch, or a part of one. Sections, in this order: for each table the records of its rows; for each table u32 ends
/// of the records and, if the table has a parent, u32 places of parents, both little-endian; for each index a run.
#[derive(Debug)]
pub(super) struct BatchPart {
    pub sequence: u64,
    /// Place among the parts of the batch, and whether the part is the last.
    pub part: u32,
    pub is_last: bool,
    /// Offset of the part in the store.
    pub offset: u64,
    /// Where each of these sections ends, in the part.
    ends: Vec<usize>,
    /// Rows of each table.
    pub counts: Vec<u32>,
    /// About how many bytes of pages each table and each index needs.
    pub estimates: Vec<u64>,
}

impl RowBatch {
    /// `sizes` are those of another batch, for each table and then for each index; this batch reserves as much.
    pub(super) fn new(schema: Arc<Schema>, sequence: u64, part: u32, sizes: &[(usize, usize)]) -> Self {
        let (records, keys) = sizes.split_at(schema.tables.len());
        let reserved = |sizes: &[(usize, usize)]| sizes.iter().copied().map(Strings::with_capacity).collect();
        Self {
            sequence,
            part,
            records: reserved(records),
            parents: vec![Vec::new(); schema.tables.len()],
            keys: reserved(keys),
            schema,
            types: Vec::new(),
        }
    }

    /// Encodes one row, with its values in the order of the table's columns.
    ///
    /// # Errors
    /// [`SqliteFileError::Row`], [`SqliteFileError::TooLarge`], and [`SqliteFileError::Unsupported`] for a table that accepts
    /// no rows. The batch is unchanged after an error.
    pub fn push(&mut self, table: TableId, row: &[SqlValue<'_>]) -> LoadResult<()> {
        self.push_cells(table, row)
    }

    /// Encodes one row as [`push`](Self::push) does. The row has what becomes values.
    ///
    /// # Errors
    /// Those of [`push`](Self::push).
    pub(crate) fn push_cells<'v, V: Copy + Into<SqlValue<'v>>>(
        &mut self,
        table: TableId,
        row: &[V],
    ) -> LoadResult<()> {
        let Self { schema, records, parents, keys, types, .. } = self;
        let place = table.0;
        let table = &schema.tables[place];
        let refused = |what| Err(SqliteFileError::Row { place: table.name.clone(), what });
        if let Some(what) = &table.sealed {
            return Err(SqliteFileError::Unsupported { object: table.name.clone(), what: what.clone() });
        }
        if row.len() != table.columns.len() {
            return refused(
                "a row has another number of values; give one for each column, in the table's order",
            );
        }
        if table.parent.is_some_and(|parent| records[parent].len() == 0) {
            return refused("no row of its parent's table precedes a row in its batch; push that first");
        }
        let Strings { bytes, ends } = &mut records[place];
        let start = bytes.len();
        if let Err(error) = push_record(bytes, types, table, row) {
            bytes.truncate(start);
            return Err(error);
        }
        ends.push(bytes.len());
        if let Some(parent) = table.parent {
            parents[place].push(records[parent].len() as u32 - 1);
        }
        for id in &table.indexes {
            let Strings { bytes, ends } = &mut keys[*id];
            for column in &schema.indexes[*id].columns {
                let affinity = table.columns[*column].affinity;
                let value = affine(row[*column].into(), affinity);
                push_column(bytes, value.unwrap_or(SqlValue::Null), affinity);
            }
            ends.push(bytes.len());
        }
        Ok(())
    }

    /// How much space the batch's records and keys need, for each table and then for each index.
    pub(super) fn sizes(&self) -> Vec<(usize, usize)> {
        self.records.iter().chain(&self.keys).map(Strings::sizes).collect()
    }

    /// Sorts the keys and packs everything into buffers whose bytes follow each other.
    pub(super) fn pack(self) -> (BatchPart, Vec<Vec<u8>>) {
        let all = self.records.iter().chain(&self.keys);
        let mut part = BatchPart {
            sequence: self.sequence,
            part: self.part,
            is_last: true,
            offset: 0,
            ends: Vec::new(),
            counts: self.records.iter().map(|records| records.len() as u32).collect(),
            estimates: all.map(|of| (of.bytes.len() + 8 * of.len()) as u64).collect(),
        };
        // Runs are shorter than their keys.
        let rest_len = self.keys.iter().map(|keys| keys.bytes.len() + 4 * keys.len()).sum();
        let (mut end, mut rest, mut order) = (0, Vec::with_capacity(rest_len), Vec::new());
        for records in &self.records {
            end += records.bytes.len();
            part.ends.push(end);
        }
        for (records, parents) in self.records.iter().zip(&self.parents) {
            for number in records.ends.iter().map(|end| *end as u32).chain(parents.iter().copied()) {
                rest.extend_from_slice(&number.to_le_bytes());
            }
            part.ends.push(end + rest.len());
        }
        for keys in &self.keys {
            pack(keys, &mut order, &mut rest);
            part.ends.push(end + rest.len());
        }
        (part, self.records.into_iter().map(|records| records.bytes).chain([rest]).collect())
    }
}

/// Appends the record of a row. After an error, part of the record may have been appended. `types` is scratch.
fn push_record<'v, V: Copy + Into<SqlValue<'v>>>(
    bytes: &mut Vec<u8>,
    types: &mut Vec<u8>,
    table: &SchemaTable,
    row: &[V],
) -> LoadResult<()> {
    let start = bytes.len();
    types.clear();
    for (value, column) in row.iter().zip(&table.columns) {
        let refused = |what| SqliteFileError::Row { place: format!("{}.{}", table.name, column.name), what };
        let value = affine((*value).into(), column.affinity).map_err(refused)?;
        match value {
            SqlValue::Null if column.not_null => {
                return Err(refused("is NOT NULL; give a value or leave the row out"));
            }
            SqlValue::Real(_) if column.is_indexed && column.affinity == Affinity::Blob => {
                return Err(refused("is indexed and has no type, so it takes no real number; give it one"));
            }
            _ => {}
        }
        push_type(types, value);
        push_body(bytes, value);
    }
    let (header_len, body_end) = (header_len(types.len()), bytes.len());
    // An index entry has at most the columns of the row, and the rowid.
    if header_len as usize + body_end - start + ROWID_MAX > RECORD_MAX {
        let limit = (RECORD_MAX - ROWID_MAX) as u64;
        return Err(SqliteFileError::TooLarge { what: "a row in bytes", limit });
    }
    if body_end + header_len as usize > u32::MAX as usize {
        return Err(SqliteFileError::TooLarge {
            what: "the rows of a batch in bytes",
            limit: u64::from(u32::MAX),
        });
    }
    // The header goes before the body: it is appended, and the two change places.
    push_varint(bytes, header_len);
    bytes.extend_from_slice(types);
    bytes[start..].rotate_right(header_len as usize);
    Ok(())
}

/// All rows of a load, in order.
pub(super) struct Data {
    parts: Vec<BatchPart>,
    store: FrozenStore,
    /// For each part, how many rows of each table come before the part.
    bases: Vec<Vec<u32>>,
    /// Rows of each table.
    pub counts: Vec<u32>,
}

impl Data {
    /// Makes the data from all parts, given in order.
    pub fn new(parts: Vec<BatchPart>, store: FrozenStore, tables: usize) -> LoadResult<Self> {
        let limit = u32::MAX - 1;
        let mut counts = vec![0u32; tables];
        let mut bases = Vec::with_capacity(parts.len());
        for part in &parts {
            bases.push(counts.clone());
            for (all, more) in counts.iter_mut().zip(&part.counts) {
                let sum = all.checked_add(*more).filter(|sum| *sum <= limit);
                *all = sum
                    .ok_or(SqliteFileError::TooLarge { what: "the rows of a table", limit: limit.into() })?;
            }
        }
        Ok(Self { parts, store, bases, counts })
    }

    fn section(&self, part: usize, section: usize) -> &[u8] {
        let BatchPart { offset, ends, .. } = &self.parts[part];
        let start = if section == 0 { 0 } else { ends[section - 1] };
        self.store.get(offset + start as u64..offset + ends[section] as u64)
    }

    /// The rows of a table in a part; `None` after the last part.
    pub fn rows(&self, table: usize, part: usize) -> Option<PartRows<'_>> {
        let count = *self.parts.get(part)?.counts.get(table)?;
        let records = self.section(part, table);
        let (ends, parents) = self.section(part, self.counts.len() + table).split_at(4 * count as usize);
        Some(PartRows { base: self.bases[part][table], count, ends, parents, records })
    }

    /// Every row of a table and its record.
    pub fn records(&self, table: usize) -> impl Iterator<Item = (u32, &[u8])> {
        let parts = (0..).map_while(move |part| self.rows(table, part));
        parts.flat_map(|rows| (0..rows.count).map(move |row| (rows.base + row, rows.record(row))))
    }

    /// The record of any row.
    pub fn record(&self, table: usize, row: u32) -> &[u8] {
        let part = self.bases.partition_point(|bases| bases[table] <= row) - 1;
        self.rows(table, part).map_or(&[], |rows| rows.record(row - rows.base))
    }

    /// The runs of an index of `table`, without empty runs, each with the first row of its part.
    pub fn runs(&self, table: usize, index: usize) -> impl Iterator<Item = (&[u8], u32)> {
        let section = 2 * self.counts.len() + index;
        (0..self.parts.len())
            .map(move |part| (self.section(part, section), self.bases[part][table]))
            .filter(|(run, _)| !run.is_empty())
    }

    /// The store, when nothing is read any more.
    pub fn into_store(self) -> FrozenStore {
        self.store
    }

    /// About how many bytes of pages a tree needs. Tables are numbered first, then indexes.
    pub fn estimate(&self, tree: usize) -> u64 {
        self.parts.iter().map(|part| part.estimates[tree]).sum()
    }
}

/// The rows of one table in one part.
#[derive(Clone, Copy)]
pub(super) struct PartRows<'a> {
    /// Number of the first row among all rows of the table.
    pub base: u32,
    pub count: u32,
    ends: &'a [u8],
    parents: &'a [u8],
    records: &'a [u8],
}

impl<'a> PartRows<'a> {
    /// The record of a row. Rows are counted from the start of the part.
    pub fn record(&self, row: u32) -> &'a [u8] {
        let start = row.checked_sub(1).map_or(0, |before| number(self.ends, before));
        &self.records[start as usize..number(self.ends, row) as usize]
    }

    /// The parents of the rows, counted from the start of the part; empty where the table has no parent.
    pub fn parents(&self) -> impl Iterator<Item = u32> {
        self.parents.chunks_exact(4).map(|parent| number(parent, 0))
    }
}

/// The little-endian u32 at index `place`.
fn number(bytes: &[u8], place: u32) -> u32 {
    bytes[4 * place as usize..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

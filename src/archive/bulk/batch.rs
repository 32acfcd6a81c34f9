//! Rows on their way from one thread into the loader: records in the order they were pushed, and sort keys. Pure
//! memory.

use std::hash::Hasher;
use std::sync::Arc;

use super::key::{Keys, push_column, push_shape};
use super::record::{affine, header_len, push_body, push_type, push_varint};
use super::schema::{Schema, TableId};
use super::{Error, Result, Value};

/// SQLITE_MAX_LENGTH.
const RECORD_MAX: usize = 1_000_000_000;

/// Rows on their way into a [`Loader`](super::Loader), in one thread's hands.
pub struct Batch {
    pub(super) sequence: u64,
    pub(super) schema: Arc<Schema>,
    pub(super) encoded: Encoded,
    keys: Vec<Keys>,
    types: Vec<u8>,
    body: Vec<u8>,
    order: Vec<(u64, u32)>,
    packed: Vec<u8>,
}

/// What waits for its turn when a batch is submitted.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// Of each row: u32 table, u32 length of the record, both little-endian, and the record.
    pub rows: Vec<u8>,
    /// How many rows each table has.
    pub counts: Vec<u32>,
    /// A hash of each row's primary key, for each table.
    pub hashes: Vec<Vec<u32>>,
}

/// The runs of a batch, one behind another.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub bytes: Vec<u8>,
    /// Where the bytes are in the spill file, if they are not here.
    pub spilled: Option<u64>,
    /// Where each index's run ends.
    ends: Vec<usize>,
    /// How many bytes of pages the entries take, about, for each index.
    pub estimates: Vec<u64>,
}

impl Runs {
    /// The run of an index; `spill` is all of the spill file.
    pub fn get<'a>(&'a self, index: usize, spill: &'a [u8]) -> &'a [u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let bytes = self.spilled.map_or(&self.bytes[..], |offset| &spill[offset as usize..]);
        &bytes[start..self.ends[index]]
    }
}

impl Batch {
    pub(super) fn new(schema: Arc<Schema>) -> Self {
        Self {
            sequence: 0,
            encoded: Encoded::default(),
            keys: schema.indexes.iter().map(|_| Keys::default()).collect(),
            schema,
            types: Vec::new(),
            body: Vec::new(),
            order: Vec::new(),
            packed: Vec::new(),
        }
    }

    /// Encodes one row, its values in the order of the table's columns.
    ///
    /// The order of rows of different tables changes no row, but the places of pages in the file: for the same bytes
    /// however rows are cut into batches, push them in the order of their source, not table after table.
    ///
    /// # Errors
    /// [`Error::Columns`], [`Error::Null`], [`Error::NotAffine`], [`Error::NoParent`], [`Error::TooLarge`], and
    /// [`Error::Unsupported`] for a table that takes no rows. The batch is unchanged then.
    pub fn push(&mut self, table: TableId, row: &[Value<'_>]) -> Result<()> {
        let Self { schema, encoded: Encoded { rows, counts, hashes }, keys, types, body, .. } = self;
        let place = table.0;
        let table = &schema.tables[place];
        if let Some(what) = table.sealed {
            return Err(Error::Unsupported { object: table.name.clone(), what });
        }
        if row.len() != table.columns.len() {
            let (expected, given) = (table.columns.len(), row.len());
            return Err(Error::Columns { table: table.name.clone(), expected, given });
        }
        if let Some(parent) = table.parent.filter(|parent| counts[*parent] == 0) {
            let parent = schema.tables[parent].name.clone();
            return Err(Error::NoParent { table: table.name.clone(), parent });
        }
        types.clear();
        body.clear();
        let mut has_real = false;
        for (value, column) in row.iter().zip(&table.columns) {
            let value = affine(*value, column.affinity).map_err(|given| Error::NotAffine {
                table: table.name.clone(),
                column: column.name.clone(),
                given,
            })?;
            if column.not_null && value == Value::Null {
                return Err(Error::Null { table: table.name.clone(), column: column.name.clone() });
            }
            has_real |= matches!(value, Value::Real(_));
            push_type(types, value);
            push_body(body, value);
        }
        let header_len = header_len(types.len());
        let record_len = header_len as usize + body.len();
        if record_len > RECORD_MAX {
            return Err(Error::TooLarge { what: "a row in bytes", limit: RECORD_MAX as u64 });
        }
        rows.extend_from_slice(&(place as u32).to_le_bytes());
        rows.extend_from_slice(&(record_len as u32).to_le_bytes());
        push_varint(rows, header_len);
        rows.extend_from_slice(types);
        rows.extend_from_slice(body);
        counts[place] += 1;
        for id in &table.indexes {
            let Keys { bytes, ends } = &mut keys[*id];
            let columns = schema.indexes[*id].columns.iter().map(|column| {
                let affinity = table.columns[*column].affinity;
                (affine(row[*column], affinity).unwrap_or(Value::Null), affinity)
            });
            let start = bytes.len();
            columns.clone().for_each(|(value, _)| push_column(bytes, value));
            if table.primary_key == Some(*id) {
                let mut hasher = std::hash::DefaultHasher::new();
                hasher.write(&bytes[start..]);
                hashes[place].push(hasher.finish() as u32);
            }
            if has_real {
                push_shape(bytes, columns);
            }
            ends.push(bytes.len());
        }
        Ok(())
    }

    /// Sorts and packs the keys of all indexes, and leaves the batch without keys.
    pub(super) fn pack(&mut self) -> Runs {
        let mut runs = Runs::default();
        self.packed.clear();
        for keys in &mut self.keys {
            keys.pack(&mut self.order, &mut self.packed);
            runs.ends.push(self.packed.len());
            runs.estimates.push((keys.bytes.len() + 8 * keys.ends.len()) as u64);
            keys.clear();
        }
        runs.bytes = self.packed.clone();
        runs
    }

    /// Empties the batch, whatever became of it, but for the room it has. `encoded` comes from an earlier one.
    pub(super) fn reuse(&mut self, sequence: u64, encoded: Encoded) {
        let tables = self.schema.tables.len();
        self.sequence = sequence;
        self.encoded = encoded;
        self.encoded.rows.clear();
        self.encoded.counts.clear();
        self.encoded.counts.resize(tables, 0);
        self.encoded.hashes.iter_mut().for_each(Vec::clear);
        self.encoded.hashes.resize(tables, Vec::new());
        self.keys.iter_mut().for_each(Keys::clear);
    }
}

//! Produces the cells of the trees in order: the rows of a table, and the entries of an index. Reads packed batches; touches no
//! file.

use std::sync::OnceLock;

use super::batch::Data;
use super::key::decode;
use super::record::{header_len, int_type, is_real, push_body, push_type, push_varint};
use super::run::Merge;
use super::schema::{Duplicates, Schema, SchemaIndex};
use super::superseded::SupersededRows;
use super::{LoadResult, RowVisitor, SqlValue, SqliteFileError, StoredRow};

/// Largest number of characters of a key in an error.
const LITERALS_MAX: usize = 200;

/// The payloads of one tree's cells, in order.
pub(super) enum Cells<'a> {
    Rows(RowCells<'a>),
    Entries(Box<EntryCells<'a>>),
}

impl<'a> Cells<'a> {
    /// The next payload and its rowid.
    #[inline]
    pub fn current(&self) -> Option<(&[u8], u64)> {
        match self {
            Self::Rows(rows) => rows.current,
            Self::Entries(entries) => entries.current(),
        }
    }

    /// The next payload, if its bytes stay in memory after the following payload.
    #[inline]
    pub fn lasting(&self) -> Option<&'a [u8]> {
        match self {
            Self::Rows(rows) => rows.current.map(|(payload, _)| payload),
            Self::Entries(_) => None,
        }
    }

    #[inline]
    pub fn advance(&mut self) -> LoadResult<()> {
        match self {
            Self::Rows(rows) => {
                rows.current = rows.others.next();
                Ok(())
            }
            Self::Entries(entries) => entries.advance(),
        }
    }
}

/// The rows of a table that are kept, by rowid. Row n, counted from 0, has rowid n + 1.
pub(super) struct RowCells<'a> {
    current: Option<(&'a [u8], u64)>,
    others: Box<dyn Iterator<Item = (&'a [u8], u64)> + Send + 'a>,
}

impl<'a> RowCells<'a> {
    /// Calls `each` for every row when the row's turn comes.
    pub fn new(
        data: &'a Data,
        table: usize,
        superseded: &'a SupersededRows,
        mut each: Option<RowVisitor<'a>>,
    ) -> Self {
        let sources = superseded.sources();
        let mut others = Box::new(data.records(table).filter_map(move |(row, record)| {
            let record =
                if superseded.is_touched(row) { data.record(table, *sources.get(&row)?) } else { record };
            let rowid = u64::from(row) + 1;
            if let Some(each) = &mut each {
                each(StoredRow { rowid, record });
            }
            Some((record, rowid))
        }));
        Self { current: others.next(), others }
    }
}

/// The entries of an index, by key and then by rowid.
pub(super) struct EntryCells<'a> {
    index: &'a SchemaIndex,
    data: &'a Data,
    rule: Duplicates,
    superseded: &'a OnceLock<SupersededRows>,
    /// For a primary key: the rows of its table that are superseded so far. The index finds the others and publishes all at its
    /// end.
    finding: Option<SupersededRows>,
    merge: Merge<'a>,
    key: Vec<u8>,
    /// The places of the rows with the key, and how many of the places were passed.
    places: Vec<u32>,
    passed: usize,
    /// For each of the places, the row whose record is stored there. Filled only for a key with the integer -2^63, because a
    /// row with the real of that value has the same key, and only the row's record says whether the integer or the real is
    /// stored.
    sources: Vec<u32>,
    /// The record of the key without the rowid. The rowid's type goes between the two parts, the rowid's value after them.
    types: Vec<u8>,
    body: Vec<u8>,
    payload: Vec<u8>,
}

impl<'a> EntryCells<'a> {
    /// If this is the index of the primary key, `finding` has the rows that are known as superseded before it; for another index
    /// all superseded rows are known.
    pub fn new(
        schema: &'a Schema,
        index: usize,
        data: &'a Data,
        superseded: &'a OnceLock<SupersededRows>,
        finding: Option<SupersededRows>,
    ) -> LoadResult<Self> {
        let of = &schema.indexes[index];
        let (rule, merge) = (schema.tables[of.table].duplicates, Merge::new(data.runs(of.table, index)));
        let (key, places, sources, types, body, payload) = Default::default();
        let mut cells = Self {
            index: of,
            data,
            rule,
            superseded,
            finding,
            merge,
            key,
            places,
            passed: 0,
            sources,
            types,
            body,
            payload,
        };
        cells.next_key()?;
        Ok(cells)
    }

    fn current(&self) -> Option<(&[u8], u64)> {
        self.places.get(self.passed).map(|place| (&self.payload[..], u64::from(*place) + 1))
    }

    fn advance(&mut self) -> LoadResult<()> {
        self.passed += 1;
        if self.passed < self.places.len() {
            self.make_payload();
            return Ok(());
        }
        self.next_key()
    }

    /// Moves to the next key of a row that is kept.
    fn next_key(&mut self) -> LoadResult<()> {
        self.passed = 0;
        self.places.clear();
        while self.places.is_empty() {
            let Some((cursor, _)) = self.merge.peek() else {
                if let Some(found) = self.finding.take() {
                    // No other code sets the value.
                    let _ = self.superseded.set(found);
                }
                return Ok(());
            };
            self.key.clear();
            self.key.extend_from_slice(cursor.key());
            while let Some((cursor, shared)) = self.merge.peek()
                && (self.places.is_empty() || shared == self.key.len())
            {
                cursor.take_rows(&mut self.places);
                self.merge.advance();
            }
            let (has_null, has_least) = self.make_record(None);
            self.sources.clear();
            let rows = has_least.then(|| self.places.clone());
            self.settle(has_null)?;
            if let Some(rows) = rows {
                self.find_sources(&rows);
            }
        }
        self.make_payload();
        Ok(())
    }

    /// Replaces the rows with the key by the places of the rows that are kept.
    fn settle(&mut self, has_null: bool) -> LoadResult<()> {
        let places = &mut self.places;
        if let Some(superseded) = &mut self.finding {
            places.retain(|row| !superseded.is_touched(*row));
            if !has_null && let Some(place) = superseded.keep_one(places, self.rule) {
                places.clear();
                places.push(place);
            }
        } else if let Some(superseded) = self.superseded.get() {
            places.retain_mut(|row| superseded.place(*row).map(|place| *row = place).is_some());
            if !places.is_sorted() {
                places.sort_unstable();
            }
        }
        match self.places[..] {
            [first, second, ..] if self.index.unique && !has_null => Err(SqliteFileError::Duplicate {
                index: self.index.name.clone(),
                first: u64::from(first) + 1,
                second: u64::from(second) + 1,
                key: literals(&self.key),
            }),
            _ => Ok(()),
        }
    }

    /// Finds, for each place that is kept, which of the key's `rows` is stored there.
    fn find_sources(&mut self, rows: &[u32]) {
        let Some(superseded) = self.finding.as_ref().or_else(|| self.superseded.get()) else { return };
        let mut stored: Vec<(u32, u32)> =
            rows.iter().filter_map(|row| superseded.place(*row).map(|place| (place, *row))).collect();
        stored.sort_unstable();
        self.sources.extend(stored.into_iter().map(|(_, row)| row));
    }

    /// Makes the part of the record that all rows with the key share, or with `source` the record of that row. Returns whether
    /// a value is NULL, and whether a value is the integer -2^63.
    fn make_record(&mut self, source: Option<u32>) -> (bool, bool) {
        let Self { index, data, key, types, body, .. } = self;
        let (mut has_null, mut has_least) = (false, false);
        let mut columns = index.columns.iter();
        types.clear();
        body.clear();
        decode(key, |value| {
            let column = columns.next();
            has_null |= value == SqlValue::Null;
            has_least |= value == SqlValue::Int(i64::MIN);
            let value = match (value, source, column) {
                (SqlValue::Int(i64::MIN), Some(row), Some(column))
                    if is_real(data.record(index.table, row), *column) =>
                {
                    SqlValue::Real(i64::MIN as f64)
                }
                _ => value,
            };
            push_type(types, value);
            push_body(body, value);
        });
        (has_null, has_least)
    }

    fn make_payload(&mut self) {
        if let Some(source) = self.sources.get(self.passed) {
            self.make_record(Some(*source));
        }
        let rowid = i64::from(self.places[self.passed]) + 1;
        let (rowid_type, rowid_len) = int_type(rowid);
        self.payload.clear();
        push_varint(&mut self.payload, header_len(self.types.len() + 1));
        self.payload.extend_from_slice(&self.types);
        self.payload.push(rowid_type);
        self.payload.extend_from_slice(&self.body);
        self.payload.extend_from_slice(&rowid.to_be_bytes()[8 - rowid_len..]);
    }
}

/// A key's values as SQL literals, shortened where long.
fn literals(key: &[u8]) -> String {
    let hex =
        |bytes: &[u8]| bytes.iter().take(LITERALS_MAX).map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut text = Vec::new();
    decode(key, |value| {
        text.push(match value {
            SqlValue::Null => "NULL".to_owned(),
            SqlValue::Int(value) => value.to_string(),
            SqlValue::Real(value) => format!("{value:?}"),
            SqlValue::Text(bytes) => format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', "''")),
            SqlValue::Blob(bytes) => format!("x'{}'", hex(bytes)),
        });
    });
    let mut text = text.join(", ");
    if let Some((end, _)) = text.char_indices().nth(LITERALS_MAX) {
        text.replace_range(end.., "…");
    }
    text
}

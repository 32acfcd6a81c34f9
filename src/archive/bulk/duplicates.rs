//! Repeated primary keys: which rows go, and which stand at another's place. Reads hashes and runs, touches no file.
//!
//! Equal hashes only name candidates; their keys are then compared in full. So nothing rests on the hash but speed, and
//! the memory taken is that of the rows whose keys repeat.

use std::collections::HashMap;

use rayon::prelude::*;

use super::key::{Cursor, decode};
use super::schema::{Duplicates, Schema};
use super::table::Edit;
use super::{Error, Result, Value};

/// A set of rows; empty until one is put in.
#[derive(Debug, Default)]
struct RowSet(Vec<u64>);

impl RowSet {
    fn insert(&mut self, row: u32, rows: usize) {
        if self.0.is_empty() {
            self.0 = vec![0; rows.div_ceil(64)];
        }
        self.0[row as usize / 64] |= 1 << (row % 64);
    }

    fn contains(&self, row: u32) -> bool {
        self.0.get(row as usize / 64).is_some_and(|bits| bits >> (row % 64) & 1 == 1)
    }
}

/// What becomes of the rows of one table. Rows are counted from 0 in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// The rows that went or moved.
    touched: RowSet,
    /// The places of rows that stay elsewhere than they came.
    moved: HashMap<u32, u32>,
    pub gone: u64,
}

impl Fates {
    /// The rowid under which the row's values are found, if they stay.
    #[inline]
    pub fn rowid(&self, row: u32) -> Option<u64> {
        let place = if self.touched.contains(row) { *self.moved.get(&row)? } else { row };
        Some(u64::from(place) + 1)
    }

    /// What has to change in the table's pages, by row.
    pub fn edits(&self) -> Vec<Edit> {
        let places = self.moved.iter().map(|(source, row)| (*row, *source)).collect::<HashMap<_, _>>();
        let words = self.touched.0.iter().enumerate().filter(|(_, bits)| **bits != 0);
        words
            .flat_map(|(word, _)| (0..64).map(move |bit| word as u32 * 64 + bit))
            .filter(|row| self.touched.contains(*row))
            .map(|row| Edit { row, source: places.get(&row).copied(), moves: self.moved.contains_key(&row) })
            .collect()
    }
}

/// What is known of a table's rows when all have come.
pub(super) struct Rows<'a> {
    /// A hash of each row's primary key; empty without one.
    pub hashes: Vec<u32>,
    /// Each row's parent; empty without one.
    pub parents: Vec<u32>,
    /// The runs of the primary key, in the order of the rows.
    pub runs: Vec<(&'a [u8], u32)>,
}

/// Finds the fates of all tables' rows, parents before children.
pub(super) fn find(schema: &Schema, rows: &[Rows<'_>]) -> Result<Vec<Fates>> {
    let mut fates: Vec<Fates> = rows.iter().map(|_| Fates::default()).collect();
    for is_child in [false, true] {
        let found: Vec<_> = (0..rows.len())
            .into_par_iter()
            .filter(|table| schema.tables[*table].parent.is_some() == is_child)
            .map(|table| {
                let parent = schema.tables[table].parent.map(|parent| &fates[parent]);
                Ok((table, own_fates(schema, table, &rows[table], parent)?))
            })
            .collect::<Result<_>>()?;
        for (table, found) in found {
            fates[table] = found;
        }
    }
    Ok(fates)
}

fn own_fates(schema: &Schema, table: usize, rows: &Rows<'_>, parent: Option<&Fates>) -> Result<Fates> {
    let mut fates = Fates::default();
    if let Some(parent) = parent.filter(|parent| !parent.touched.0.is_empty()) {
        for (row, of) in (0..).zip(&rows.parents) {
            if parent.rowid(*of).is_none() {
                fates.touched.insert(row, rows.parents.len());
                fates.gone += 1;
            }
        }
    }
    let Some(index) = schema.tables[table].primary_key else { return Ok(fates) };
    let mut refused: Option<(u32, u32, Vec<u8>)> = None;
    for (key, same) in repeated(schema, index, rows, &fates) {
        let (first, last) = (same[0], same[same.len() - 1]);
        for row in &same[..same.len() - 1] {
            fates.touched.insert(*row, rows.hashes.len());
        }
        fates.gone += same.len() as u64 - 1;
        match schema.tables[table].duplicates {
            Duplicates::Refuse => refused = refused.into_iter().chain([(same[1], first, key)]).min(),
            Duplicates::KeepLast => {}
            Duplicates::KeepLastAtFirst => {
                fates.touched.insert(last, rows.hashes.len());
                fates.moved.insert(last, first);
            }
        }
    }
    match refused {
        None => Ok(fates),
        Some((second, first, key)) => Err(repeated_error(schema, index, first, second, &key)),
    }
}

/// The keys without NULL that more than one of the rows that are left has, with those rows in order.
fn repeated(
    schema: &Schema,
    index: usize,
    rows: &Rows<'_>,
    fates: &Fates,
) -> impl Iterator<Item = (Vec<u8>, Vec<u32>)> + use<> {
    let mut hashes: Vec<(u32, u32)> = rows.hashes.iter().copied().zip(0..).collect();
    hashes.par_sort_unstable();
    let mut candidates = RowSet::default();
    for same in hashes.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
        for (_, row) in same.iter().filter(|(_, row)| !fates.touched.contains(*row)) {
            candidates.insert(*row, rows.hashes.len());
        }
    }
    drop(hashes);
    let affinities = schema.affinities(index);
    let mut groups: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
    let mut found = Vec::new();
    for (run, base) in rows.runs.iter().filter(|_| !candidates.0.is_empty()) {
        let mut cursor = Cursor::new(run, *base);
        while cursor.advance().is_some() {
            found.clear();
            cursor.take_rows(&mut found);
            found.retain(|row| candidates.contains(*row));
            if !found.is_empty() {
                let mut has_null = false;
                let columns_len =
                    decode(&cursor.key, &affinities, &[], |value| has_null |= value == Value::Null);
                if !has_null {
                    let group = groups.entry(cursor.key[..columns_len].to_vec()).or_default();
                    group.extend_from_slice(&found);
                }
            }
        }
    }
    groups.into_iter().filter(|(_, same)| same.len() > 1).map(|(key, mut same)| {
        // Rows that store one number in two types come in two keys.
        same.sort_unstable();
        (key, same)
    })
}

/// The error for two rows that share a key of a unique index.
pub(super) fn repeated_error(schema: &Schema, index: usize, first: u32, second: u32, key: &[u8]) -> Error {
    let mut text = Vec::new();
    decode(key, &schema.affinities(index), &[], |value| {
        text.push(match value {
            Value::Null => "NULL".to_owned(),
            Value::Int(value) => value.to_string(),
            Value::Real(value) => format!("{value:?}"),
            Value::Text(bytes) => format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', "''")),
            Value::Blob(bytes) => {
                format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            }
        });
    });
    Error::Duplicate {
        table: schema.tables[schema.indexes[index].table].name.clone(),
        index: schema.indexes[index].name.clone(),
        first: u64::from(first) + 1,
        second: u64::from(second) + 1,
        key: text.join(", "),
    }
}

//! Indexes: runs merged into leaf pages, many indexes at once, and the trees over them. Reads runs, writes the target.
//!
//! Page numbers must not depend on how many threads there are, and no index knows its number of pages before its end.
//! So all build in rounds: in each round every index that is not done fills about the same share of its pages; then
//! their overflow chains and their pages get numbers in the order of the indexes; then all are written.

use rayon::prelude::*;

use super::duplicates::{Fates, repeated_error};
use super::file::Target;
use super::key::{Merge, decode};
use super::page::{Filler, Kind, local_len};
use super::record::{VARINT_MAX, header_len, int_type, push_body, push_type, push_varint, put_varint};
use super::schema::{Affinity, Schema};
use super::tree::{Dividers, write_root};
use super::{Result, Value};

/// One index to build.
pub(super) struct Source<'a> {
    pub index: usize,
    pub runs: Vec<(&'a [u8], u32)>,
    pub fates: &'a Fates,
    /// About how many bytes its pages will have.
    pub estimate_bytes: u64,
}

/// Bytes of index pages that are filled in a round. No budget changes it, nor so the file.
const ROUND_LEN: u64 = 16 << 20;

/// Builds all indexes and returns their roots in the order given.
pub(super) fn build(target: &mut Target, schema: &Schema, sources: Vec<Source<'_>>) -> Result<Vec<u32>> {
    let total: u64 = sources.iter().map(|source| source.estimate_bytes).sum();
    let rounds = total.div_ceil(ROUND_LEN).max(1);
    let page_size = target.page_size;
    let new = |source| Builder::new(schema, source, rounds, page_size);
    let mut builders: Vec<_> = sources.into_iter().map(new).collect();
    let mut numbered: Vec<Numbered> = Vec::new();
    while builders.iter().any(|builder| !builder.done) {
        // The system writes to one file for one thread at a time: the others go on filling.
        let (written, filled) = rayon::join(
            || numbered.iter().try_for_each(|numbered| numbered.write(target)),
            || {
                let builders = builders.par_iter_mut().with_max_len(1);
                builders.filter(|builder| !builder.done).try_for_each(Builder::fill)
            },
        );
        written?;
        filled?;
        numbered.resize_with(builders.len(), Numbered::default);
        for (builder, numbered) in builders.iter_mut().zip(&mut numbered) {
            builder.number(target, numbered)?;
        }
    }
    numbered.iter().try_for_each(|numbered| numbered.write(target))?;
    let mut roots = Vec::new();
    for builder in builders {
        let mut dividers = Dividers::default();
        for Cell { mut bytes, rest } in builder.dividers {
            if !rest.is_empty() {
                bytes.extend_from_slice(&target.write_chain(&rest)?.to_be_bytes());
            }
            dividers.push(&bytes);
        }
        roots.push(write_root(target, Kind::IndexLeaf, builder.leaves, &dividers)?);
    }
    Ok(roots)
}

/// A leaf cell. When there is a `rest`, its overflow chain has no pages yet, and their number is missing at the end.
#[derive(Clone, Default)]
struct Cell {
    bytes: Vec<u8>,
    rest: Vec<u8>,
}

/// An index while its leaves are filled.
struct Builder<'a> {
    schema: &'a Schema,
    index: usize,
    affinities: Vec<Affinity>,
    fates: &'a Fates,
    merge: Merge<'a>,
    group: Group,
    page_size: usize,
    quota_bytes: usize,
    /// Leaf pages without numbers; the last is being filled.
    extent: Vec<u8>,
    filler: Filler,
    /// Overflow chains of cells in the extent: where the page number goes, and what the chain is to hold.
    chains: Vec<(usize, Vec<u8>)>,
    chains_len: usize,
    /// The cell that did not fit the last page: it divides that page from the next, if there is a next one.
    divider: Option<Cell>,
    dividers: Vec<Cell>,
    leaves: Vec<u32>,
    cell: Cell,
    done: bool,
}

/// The rows of one key, by the places that their rowids tell, and their records but for the rowid.
#[derive(Default)]
struct Group {
    key: Vec<u8>,
    places: Vec<u32>,
    /// How many of the places were added.
    added: usize,
    records: Vec<Record>,
    /// Which record each place has; empty when there is one for all.
    record_of: Vec<usize>,
}

/// An index record without the rowid, whose type stands between the two parts and whose value behind them.
#[derive(Default)]
struct Record {
    header: Vec<u8>,
    body: Vec<u8>,
}

impl<'a> Builder<'a> {
    fn new(schema: &'a Schema, source: Source<'a>, rounds: u64, page_size: usize) -> Self {
        Self {
            schema,
            index: source.index,
            affinities: schema.affinities(source.index),
            fates: source.fates,
            merge: Merge::new(source.runs.into_iter()),
            group: Group::default(),
            page_size,
            quota_bytes: (source.estimate_bytes / rounds) as usize,
            extent: vec![0; page_size],
            filler: Filler::new(Kind::IndexLeaf, page_size, 0),
            chains: Vec::new(),
            chains_len: 0,
            divider: None,
            dividers: Vec::new(),
            leaves: Vec::new(),
            cell: Cell::default(),
            done: false,
        }
    }

    /// Fills this round's pages.
    fn fill(&mut self) -> Result<()> {
        while self.extent.len() + self.chains_len <= self.quota_bytes + self.page_size {
            let added = self.group.added;
            if let Some(place) = self.group.places.get(added) {
                let record =
                    &self.group.records[self.group.record_of.get(added).copied().unwrap_or_default()];
                let mut cell = std::mem::take(&mut self.cell);
                record.put_cell(&mut cell, i64::from(*place) + 1, self.page_size);
                self.group.added += 1;
                self.add(&cell);
                self.cell = cell;
            } else if !self.next_group()? {
                self.finish();
                self.done = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Collects the rows of the next key; `false` when there is none.
    fn next_group(&mut self) -> Result<bool> {
        let group = &mut self.group;
        group.places.clear();
        group.record_of.clear();
        group.added = 0;
        let Some((cursor, _)) = self.merge.peek() else { return Ok(false) };
        group.key.clone_from(&cursor.key);
        let mut records = 0;
        let mut columns_len = 0;
        let mut has_null = false;
        let mut is_ordered = true;
        while let Some((cursor, shared)) = self.merge.peek() {
            if records > 0 && shared < columns_len {
                break;
            }
            if records == 0 || cursor.key.len() != shared || cursor.key.len() != group.key.len() {
                group.key.clone_from(&cursor.key);
                records += 1;
                if group.records.len() < records {
                    group.records.push(Record::default());
                }
                let record = &mut group.records[records - 1];
                (columns_len, has_null) = record.set(&cursor.key, &self.affinities);
            }
            let before = group.places.len();
            cursor.take_rows(&mut group.places);
            self.merge.advance();
            let mut kept = before;
            for at in before..group.places.len() {
                let row = group.places[at];
                if let Some(rowid) = self.fates.rowid(row) {
                    let place = (rowid - 1) as u32;
                    is_ordered &= place == row;
                    group.places[kept] = place;
                    kept += 1;
                }
            }
            group.places.truncate(kept);
            if records > 1 {
                // Until now all places had the first record.
                group.record_of.resize(before, 0);
                group.record_of.resize(kept, records - 1);
            }
        }
        if !is_ordered || !group.record_of.is_empty() {
            group.sort();
        }
        if let [first, second, ..] = group.places[..]
            && self.schema.indexes[self.index].unique
            && !has_null
        {
            return Err(repeated_error(self.schema, self.index, first, second, &group.key));
        }
        Ok(true)
    }

    fn add(&mut self, cell: &Cell) {
        if let Some(divider) = self.divider.take() {
            self.dividers.push(divider);
            self.extent.resize(self.extent.len() + self.page_size, 0);
            self.filler = Filler::new(Kind::IndexLeaf, self.page_size, 0);
        }
        let start = self.extent.len() - self.page_size;
        let Cell { bytes, rest } = cell;
        let cell_len = bytes.len() + if rest.is_empty() { 0 } else { 4 };
        if !self.filler.fits(cell_len) {
            self.filler.finish(&mut self.extent[start..], None);
            self.divider = Some(cell.clone());
            return;
        }
        let (at, room) = self.filler.add(&mut self.extent[start..], cell_len);
        room[..bytes.len()].copy_from_slice(bytes);
        if !rest.is_empty() {
            self.chains_len += rest.len();
            self.chains.push((start + at + bytes.len(), rest.clone()));
        }
    }

    /// Completes the last page. Where a divider waits for a next page that does not come, it is the last cell of such a
    /// page itself, and the cell before it divides.
    fn finish(&mut self) {
        if let Some(last) = self.divider.take() {
            let start = self.extent.len() - self.page_size;
            let mut bytes = self.filler.remove_last(&mut self.extent[start..]);
            self.filler.finish(&mut self.extent[start..], None);
            let mut rest = Vec::new();
            if let Some((_, chain)) = self.chains.pop_if(|(at, _)| *at + 4 == start + self.filler.top) {
                bytes.truncate(bytes.len() - 4);
                rest = chain;
            }
            self.divider = Some(Cell { bytes, rest });
            self.add(&last);
        }
        let start = self.extent.len() - self.page_size;
        self.filler.finish(&mut self.extent[start..], None);
        if self.filler.cells == 0 {
            self.extent.clear();
        }
    }

    /// Gives page numbers to the chains and the pages of this round, which `out` takes to be written; the page that is
    /// being filled stays.
    fn number(&mut self, target: &mut Target, out: &mut Numbered) -> Result<()> {
        for (at, rest) in self.chains.drain(..) {
            self.extent[at..at + 4].copy_from_slice(&target.write_chain(&rest)?.to_be_bytes());
        }
        self.chains_len = 0;
        let mut left = self.extent.len() / self.page_size - usize::from(!self.done);
        let end = left * self.page_size;
        out.places.clear();
        while left > 0 {
            let (first, count) = target.extend(left)?;
            self.leaves.extend(first..first + count as u32);
            out.places.push((first, count));
            left -= count;
        }
        out.pages.clear();
        out.pages.extend_from_slice(&self.extent[end..]);
        std::mem::swap(&mut out.pages, &mut self.extent);
        Ok(())
    }
}

/// Pages of one index that have their numbers: the first of each stretch, and how many.
#[derive(Default)]
struct Numbered {
    pages: Vec<u8>,
    places: Vec<(u32, usize)>,
}

impl Numbered {
    fn write(&self, target: &Target) -> Result<()> {
        let mut rest = &self.pages[..];
        for (first, count) in &self.places {
            let (pages, more) = rest.split_at(count * target.page_size);
            target.write(*first, pages)?;
            rest = more;
        }
        Ok(())
    }
}

impl Group {
    /// Puts places in order again, after rows moved or where a number is stored in two types.
    fn sort(&mut self) {
        if self.record_of.is_empty() {
            self.places.sort_unstable();
            return;
        }
        let mut both: Vec<_> = self.places.iter().copied().zip(self.record_of.iter().copied()).collect();
        both.sort_unstable();
        (self.places, self.record_of) = both.into_iter().unzip();
    }
}

impl Record {
    /// Takes the values from a key; says how many of its bytes are columns, and whether one of them is NULL.
    fn set(&mut self, key: &[u8], affinities: &[Affinity]) -> (usize, bool) {
        let mut has_null = false;
        let mut shapes: &[u8] = &[];
        loop {
            self.header.clear();
            // The header's length, if that is one byte.
            self.header.push(0);
            self.body.clear();
            let columns_len = decode(key, affinities, shapes, |value| {
                has_null |= value == Value::Null;
                push_type(&mut self.header, value);
                push_body(&mut self.body, value);
            });
            if columns_len < key.len() && shapes.is_empty() {
                shapes = &key[columns_len + 1..];
                continue;
            }
            let mut length = [0; VARINT_MAX];
            let length_len = put_varint(&mut length, header_len(self.header.len()));
            self.header.splice(..1, length[..length_len].iter().copied());
            return (columns_len, has_null);
        }
    }

    fn put_cell(&self, cell: &mut Cell, rowid: i64, page_size: usize) {
        let (rowid_type, rowid_len) = int_type(rowid);
        let payload_len = self.header.len() + 1 + self.body.len() + rowid_len;
        cell.bytes.clear();
        cell.rest.clear();
        push_varint(&mut cell.bytes, payload_len as u64);
        let start = cell.bytes.len();
        cell.bytes.extend_from_slice(&self.header);
        cell.bytes.push(rowid_type);
        cell.bytes.extend_from_slice(&self.body);
        cell.bytes.extend_from_slice(&rowid.to_be_bytes()[8 - rowid_len..]);
        let local = local_len(Kind::IndexLeaf, page_size, payload_len);
        if local < payload_len {
            cell.rest.extend_from_slice(&cell.bytes[start + local..]);
            cell.bytes.truncate(start + local);
        }
    }
}

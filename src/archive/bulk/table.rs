//! Table leaves: rows laid into pages as they come, written in extents, and rewritten where rows went or moved once
//! repeated keys are known. Reads and writes the target's pages only.

use std::collections::HashMap;

use rayon::prelude::*;

use super::duplicates::Fates;
use super::file::Target;
use super::page::{Filler, Kind, local_len};
use super::record::{VARINT_MAX, put_varint, read_varint};
use super::tree::Dividers;
use super::{Error, Result};

/// Bytes of leaf pages that are written at once, and stand together in the file.
const EXTENT_LEN: usize = 1 << 20;
/// How many leaf pages are rewritten at once.
const PATCH_PAGES: usize = 256;

/// A leaf page in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    page: u32,
    /// The last row it may have, counted from 0.
    last: u32,
}

/// The leaves of one table while rows are appended. Row n, counted from 0, has rowid n + 1.
#[derive(Debug)]
pub(super) struct Leaves {
    /// Bytes that stay free in each page.
    reserve: usize,
    pub rows: u32,
    /// Pages that are not written yet; the last of them is being filled.
    extent: Vec<u8>,
    /// The last row of each page in the extent but the one being filled.
    extent_lasts: Vec<u32>,
    filler: Option<Filler>,
    written: Vec<Leaf>,
}

impl Leaves {
    pub fn new(reserve: usize) -> Self {
        Self {
            reserve,
            rows: 0,
            extent: Vec::new(),
            extent_lasts: Vec::new(),
            filler: None,
            written: Vec::new(),
        }
    }

    /// Appends a row, given as a record.
    pub fn append(&mut self, target: &mut Target, record: &[u8]) -> Result<()> {
        let page_size = target.page_size;
        if self.rows == u32::MAX {
            return Err(Error::TooLarge {
                what: "the number of rows of a table",
                limit: u64::from(u32::MAX),
            });
        }
        let mut head = [0; 2 * VARINT_MAX];
        let head_len = put_head(&mut head, record.len() as u64, u64::from(self.rows) + 1);
        let local = local_len(Kind::TableLeaf, page_size, record.len());
        let chain = if local < record.len() { Some(target.write_chain(&record[local..])?) } else { None };
        let cell_len = head_len + local + if chain.is_some() { 4 } else { 0 };
        let mut filler = match self.filler {
            Some(filler) if filler.fits(cell_len + self.reserve) => filler,
            full => {
                if let Some(filler) = full {
                    self.close(filler, page_size);
                    if self.extent.len() >= EXTENT_LEN {
                        self.flush(target)?;
                    }
                }
                self.extent.resize(self.extent.len() + page_size, 0);
                Filler::new(Kind::TableLeaf, page_size, 0)
            }
        };
        let start = self.extent.len() - page_size;
        let (_, cell) = filler.add(&mut self.extent[start..], cell_len);
        cell[..head_len].copy_from_slice(&head[..head_len]);
        cell[head_len..head_len + local].copy_from_slice(&record[..local]);
        if let Some(page) = chain {
            cell[head_len + local..].copy_from_slice(&page.to_be_bytes());
        }
        self.filler = Some(filler);
        self.rows += 1;
        Ok(())
    }

    fn close(&mut self, filler: Filler, page_size: usize) {
        let start = self.extent.len() - page_size;
        filler.finish(&mut self.extent[start..], None);
        self.extent_lasts.push(self.rows - 1);
    }

    fn flush(&mut self, target: &mut Target) -> Result<()> {
        let mut done = 0;
        while done < self.extent_lasts.len() {
            let (first, count) = target.extend(self.extent_lasts.len() - done)?;
            let bytes = done * target.page_size..(done + count) * target.page_size;
            target.write(first, &self.extent[bytes])?;
            let lasts = &self.extent_lasts[done..done + count];
            self.written.extend((first..).zip(lasts).map(|(page, last)| Leaf { page, last: *last }));
            done += count;
        }
        self.extent.clear();
        self.extent_lasts.clear();
        Ok(())
    }

    /// The page, if all rows are in one that was not written yet; an empty one if there are none.
    pub fn single_page(&mut self, page_size: usize) -> Option<Vec<u8>> {
        let filler = self.filler.unwrap_or_else(|| {
            self.extent.resize(page_size, 0);
            Filler::new(Kind::TableLeaf, page_size, 0)
        });
        (self.written.is_empty() && self.extent.len() == page_size).then(|| {
            filler.finish(&mut self.extent, None);
            std::mem::take(&mut self.extent)
        })
    }

    /// Writes what is left.
    pub fn into_pages(mut self, target: &mut Target) -> Result<LeafPages> {
        if let Some(filler) = self.filler.take() {
            self.close(filler, target.page_size);
        }
        self.flush(target)?;
        Ok(LeafPages(self.written))
    }
}

/// The leaves of one table when all of them are written, in the order of their rows.
#[derive(Debug)]
pub(super) struct LeafPages(Vec<Leaf>);

impl LeafPages {
    /// The pages, and what divides them.
    pub fn tree(&self) -> (Vec<u32>, Dividers) {
        let mut dividers = Dividers::default();
        for leaf in &self.0[..self.0.len().saturating_sub(1)] {
            let mut rowid = [0; VARINT_MAX];
            let length = put_varint(&mut rowid, u64::from(leaf.last) + 1);
            dividers.push(&rowid[..length]);
        }
        (self.0.iter().map(|leaf| leaf.page).collect(), dividers)
    }

    /// Takes rows out of their pages, and puts the last of a repeated key in the place of the first, as the fates say.
    ///
    /// Pages go in order, some at once. A row moves to a place before its own, so it is read before its page changes.
    /// A page whose rows grew is split; one without rows is given back.
    pub fn patch(&mut self, target: &mut Target, fates: &Fates) -> Result<()> {
        let edits = fates.edits();
        let before = std::mem::take(&mut self.0);
        let place_of = |row: u32| before.partition_point(|leaf| leaf.last < row);
        let mut edited: Vec<(usize, &[Edit])> = Vec::new();
        let mut rest = &edits[..];
        while let Some(first) = rest.first() {
            let place = place_of(first.row);
            let count = rest.partition_point(|edit| edit.row <= before[place].last);
            edited.push((place, &rest[..count]));
            rest = &rest[count..];
        }
        let mut after = Vec::with_capacity(before.len());
        let mut copied = 0;
        for chunk in edited.chunks(PATCH_PAGES) {
            let sources: Vec<u32> =
                chunk.iter().flat_map(|(_, edits)| edits.iter().filter_map(|edit| edit.source)).collect();
            let read_source = |row: &u32| {
                let place = place_of(*row);
                let mut image = vec![0; target.page_size];
                target.read(before[place].page, &mut image)?;
                let cell = cell_at(&image, (row - first_row(&before, place)) as usize);
                Ok((*row, cell.to_vec()))
            };
            let moved = sources.par_iter().map(read_source).collect::<Result<HashMap<_, _>>>()?;
            let rewrite = |(place, edits): &(usize, &[Edit])| {
                let mut image = vec![0; target.page_size];
                target.read(before[*place].page, &mut image)?;
                Ok(rewrite(&image, first_row(&before, *place), edits, &moved))
            };
            let rewritten = chunk.par_iter().map(rewrite).collect::<Result<Vec<Rewritten>>>()?;
            for ((place, _), Rewritten { pages, chains }) in chunk.iter().zip(rewritten) {
                after.extend_from_slice(&before[copied..*place]);
                copied = place + 1;
                for chain in chains {
                    target.free_chain(chain)?;
                }
                if pages.is_empty() {
                    target.freed.push(before[*place].page);
                }
                for (part, (image, last)) in pages.into_iter().enumerate() {
                    let page = if part == 0 { before[*place].page } else { target.allocate()? };
                    target.write(page, &image)?;
                    after.push(Leaf { page, last });
                }
            }
        }
        after.extend_from_slice(&before[copied..]);
        self.0 = after;
        Ok(())
    }
}

/// A row's cell goes, or is replaced by that of `source`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit {
    pub row: u32,
    pub source: Option<u32>,
    /// Whether the cell goes to another place, and its overflow pages with it.
    pub moves: bool,
}

struct Rewritten {
    /// Images with the last row of each.
    pages: Vec<(Vec<u8>, u32)>,
    /// Overflow pages of the cells that went.
    chains: Vec<u32>,
}

/// Lays the rows of a page anew. Untouched until now, it has all rows from `first` on.
fn rewrite(image: &[u8], first: u32, edits: &[Edit], moved: &HashMap<u32, Vec<u8>>) -> Rewritten {
    let page_size = image.len();
    let mut done = Rewritten { pages: Vec::new(), chains: Vec::new() };
    let mut filler = Filler::new(Kind::TableLeaf, page_size, 0);
    let mut page = vec![0; page_size];
    let mut edits = edits.iter().peekable();
    let mut last = first;
    let rows = u16::from_be_bytes([image[3], image[4]]);
    for (place, row) in (first..).take(usize::from(rows)).enumerate() {
        let mut cell = cell_at(image, place);
        let replaced;
        if let Some(edit) = edits.next_if(|edit| edit.row == row) {
            if !edit.moves {
                done.chains.extend(chain_of(cell, page_size));
            }
            match edit.source.and_then(|source| moved.get(&source)) {
                None => continue,
                Some(source) => {
                    replaced = with_rowid(source, u64::from(row) + 1);
                    cell = &replaced;
                }
            }
        }
        if !filler.fits(cell.len()) {
            filler.finish(&mut page, None);
            done.pages.push((std::mem::replace(&mut page, vec![0; page_size]), last));
            filler = Filler::new(Kind::TableLeaf, page_size, 0);
        }
        filler.add(&mut page, cell.len()).1.copy_from_slice(cell);
        last = row;
    }
    if filler.cells > 0 {
        filler.finish(&mut page, None);
        done.pages.push((page, last));
    }
    done
}

fn first_row(leaves: &[Leaf], place: usize) -> u32 {
    if place == 0 { 0 } else { leaves[place - 1].last + 1 }
}

fn put_head(head: &mut [u8; 2 * VARINT_MAX], payload_len: u64, rowid: u64) -> usize {
    let mut varint = [0; VARINT_MAX];
    let mut length = 0;
    for value in [payload_len, rowid] {
        let more = put_varint(&mut varint, value);
        head[length..length + more].copy_from_slice(&varint[..more]);
        length += more;
    }
    length
}

/// A table leaf cell taken apart: payload length, where the payload starts, how much of it is here.
fn parse(cell: &[u8], page_size: usize) -> (u64, usize, usize) {
    let mut at = 0;
    let payload_len = read_varint(cell, &mut at);
    read_varint(cell, &mut at);
    (payload_len, at, local_len(Kind::TableLeaf, page_size, payload_len as usize))
}

fn cell_at(image: &[u8], place: usize) -> &[u8] {
    let pointer = 8 + 2 * place;
    let start = usize::from(u16::from_be_bytes([image[pointer], image[pointer + 1]]));
    let (payload_len, at, local) = parse(&image[start..], image.len());
    let chain = if (local as u64) < payload_len { 4 } else { 0 };
    &image[start..start + at + local + chain]
}

fn chain_of(cell: &[u8], page_size: usize) -> Option<u32> {
    let (payload_len, at, local) = parse(cell, page_size);
    let chain = (local as u64) < payload_len;
    chain.then(|| cell[at + local..].iter().fold(0, |page, byte| page << 8 | u32::from(*byte)))
}

fn with_rowid(cell: &[u8], rowid: u64) -> Vec<u8> {
    let mut at = 0;
    let payload_len = read_varint(cell, &mut at);
    read_varint(cell, &mut at);
    let mut head = [0; 2 * VARINT_MAX];
    let head_len = put_head(&mut head, payload_len, rowid);
    [&head[..head_len], &cell[at..]].concat()
}

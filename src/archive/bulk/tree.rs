//! B-trees: leaf pages filled from cells that come in order, many trees at once, and the interior pages over them. Writes
//! the target.
//!
//! Page numbers must not depend on how many threads there are, and no tree knows its number of pages before its end.
//! So all build in rounds: in each round every tree that is not done fills about the same share of its pages; then
//! their overflow chains and their pages get numbers in the order of the trees; then all are written.

use rayon::prelude::*;

use super::cells::Cells;
use super::file::Target;
use super::page::{Filler, Kind, local_len};
use super::record::push_varint;
use super::{Error, Result};
use crate::interrupt::Interrupt;

/// Bytes of pages that are filled in a round. No budget changes it, nor so the file.
const ROUND_LEN: u64 = 8 << 20;

/// Builds all trees, unless it is interrupted.
pub(super) fn build(target: &mut Target, trees: &mut [Tree<'_>], interrupt: &Interrupt) -> Result<()> {
    let total: u64 = trees.iter().map(|tree| tree.estimate_bytes).sum();
    let rounds = total.div_ceil(ROUND_LEN).max(1);
    let mut extents: Vec<Extent> = trees.iter().map(|_| Extent::default()).collect();
    while trees.iter().any(|tree| !tree.is_done) {
        if interrupt.is_requested() {
            return Err(Error::Interrupted);
        }
        // The system writes to one file for one thread at a time: the others go on filling.
        let (written, filled) = rayon::join(
            || extents.iter().try_for_each(|extent| target.write(&extent.numbers, &extent.pages)),
            || {
                let trees = trees.par_iter_mut().with_max_len(1);
                let filled = trees.map(|tree| tree.fill((tree.estimate_bytes / rounds) as usize));
                // Of several errors the first tree's, however many threads there are.
                filled.collect::<Vec<Result<()>>>().into_iter().collect::<Result<()>>()
            },
        );
        written?;
        filled?;
        for (tree, extent) in trees.iter_mut().zip(&mut extents) {
            tree.number(target, extent)?;
        }
    }
    extents.iter().try_for_each(|extent| target.write(&extent.numbers, &extent.pages))?;
    trees.iter_mut().try_for_each(|tree| tree.write_interior(target))
}

/// Pages of one tree that have their numbers.
#[derive(Default)]
struct Extent {
    pages: Vec<u8>,
    numbers: Vec<u32>,
}

/// What divides two children of an interior page: the cell but for the child, and what belongs to its overflow chain.
#[derive(Default)]
struct Divider {
    bytes: Vec<u8>,
    rest: Vec<u8>,
}

/// A table or an index while it is built. It has its root page already, an empty leaf.
pub(super) struct Tree<'a> {
    cells: Cells<'a>,
    leaves: Leaves,
    root: u32,
    /// About how many bytes its pages will have.
    estimate_bytes: u64,
    /// The leaf pages that have numbers, and what divides them.
    numbers: Vec<u32>,
    between: Vec<Vec<u8>>,
    is_done: bool,
}

impl<'a> Tree<'a> {
    pub fn new(cells: Cells<'a>, root: u32, page_size: usize, estimate_bytes: u64) -> Self {
        let kind = if matches!(cells, Cells::Rows(_)) { Kind::TableLeaf } else { Kind::IndexLeaf };
        let leaves = Leaves::new(kind, page_size);
        let (numbers, between) = Default::default();
        Self { cells, leaves, root, estimate_bytes, numbers, between, is_done: false }
    }

    /// Fills this round's pages, each of them to its end.
    fn fill(&mut self, quota_bytes: usize) -> Result<()> {
        let leaves = &mut self.leaves;
        while let Some((payload, rowid)) = self.cells.current() {
            if !leaves.add(payload, rowid) {
                leaves.divide();
                if leaves.pages.len() + leaves.chains_len > quota_bytes {
                    return Ok(());
                }
                leaves.add(payload, rowid);
            }
            self.cells.advance()?;
        }
        if leaves.is_open {
            leaves.close();
        }
        self.is_done = true;
        Ok(())
    }

    /// Gives numbers to the chains and the pages of this round, which `out` takes to be written. A single leaf is the root.
    fn number(&mut self, target: &mut Target, out: &mut Extent) -> Result<()> {
        let Leaves { pages, page_size, chains, chains_len, dividers, .. } = &mut self.leaves;
        for (at, rest) in chains.drain(..) {
            pages[at..at + 4].copy_from_slice(&target.write_chain(&rest)?.to_be_bytes());
        }
        *chains_len = 0;
        for Divider { mut bytes, rest } in dividers.drain(..) {
            if !rest.is_empty() {
                bytes.extend_from_slice(&target.write_chain(&rest)?.to_be_bytes());
            }
            self.between.push(bytes);
        }
        let count = pages.len() / *page_size;
        let is_root = self.is_done && self.numbers.is_empty() && count == 1;
        out.numbers = if is_root { vec![self.root] } else { target.take(count)? };
        self.numbers.extend_from_slice(&out.numbers);
        out.pages.clear();
        std::mem::swap(&mut out.pages, pages);
        Ok(())
    }

    /// Writes the interior pages over two or more leaves, the last of them to the root page.
    fn write_interior(&mut self, target: &mut Target) -> Result<()> {
        let (kind, page_size) = (self.leaves.kind.parent(), target.page_size);
        let mut children = std::mem::take(&mut self.numbers);
        let mut between = std::mem::take(&mut self.between);
        while children.len() > 1 {
            let (mut above, mut above_between) = (Vec::new(), Vec::new());
            let mut from = 0;
            while from < children.len() {
                let mut page = vec![0; page_size];
                let mut filler = Filler::new(kind, page_size);
                let mut at = from;
                // What does not fit becomes the divider above, and no page may have a single child.
                while at < between.len() && filler.fits(4 + between[at].len()) {
                    let cell = filler.add(&mut page, 4 + between[at].len());
                    cell[..4].copy_from_slice(&children[at].to_be_bytes());
                    cell[4..].copy_from_slice(&between[at]);
                    at += 1;
                }
                if at + 1 == between.len() {
                    at -= 1;
                    filler.remove_last(&mut page);
                }
                filler.finish(&mut page, Some(children[at]));
                let is_root = from == 0 && at == between.len();
                let number = if is_root { vec![self.root] } else { target.take(1)? };
                target.write(&number, &page)?;
                above.extend(number);
                above_between.extend(between.get_mut(at).map(std::mem::take));
                from = at + 1;
            }
            (children, between) = (above, above_between);
        }
        Ok(())
    }
}

/// The leaf pages of a tree that have no numbers yet.
struct Leaves {
    kind: Kind,
    page_size: usize,
    pages: Vec<u8>,
    /// Of the last page, whether or not it is open.
    filler: Filler,
    is_open: bool,
    /// Overflow chains of cells in the pages: where the page number goes, and what the chain is to hold.
    chains: Vec<(usize, Vec<u8>)>,
    chains_len: usize,
    last_rowid: u64,
    /// Scratch.
    head: Vec<u8>,
    /// Of pages without numbers.
    dividers: Vec<Divider>,
}

impl Leaves {
    fn new(kind: Kind, page_size: usize) -> Self {
        Self {
            kind,
            page_size,
            pages: Vec::new(),
            filler: Filler::new(kind, page_size),
            is_open: false,
            chains: Vec::new(),
            chains_len: 0,
            last_rowid: 0,
            head: Vec::new(),
            dividers: Vec::new(),
        }
    }

    /// Adds a cell to the open page or a new one; `false` when it does not fit the open one.
    fn add(&mut self, payload: &[u8], rowid: u64) -> bool {
        self.head.clear();
        push_varint(&mut self.head, payload.len() as u64);
        if self.kind == Kind::TableLeaf {
            push_varint(&mut self.head, rowid);
        }
        let (local, rest) = payload.split_at(local_len(self.kind, self.page_size, payload.len()));
        let local_end = self.head.len() + local.len();
        let cell_len = local_end + if rest.is_empty() { 0 } else { 4 };
        if !self.is_open {
            self.pages.resize(self.pages.len() + self.page_size, 0);
            self.filler = Filler::new(self.kind, self.page_size);
            self.is_open = true;
        } else if !self.filler.fits(cell_len) {
            return false;
        }
        let start = self.pages.len() - self.page_size;
        let cell = self.filler.add(&mut self.pages[start..], cell_len);
        cell[..self.head.len()].copy_from_slice(&self.head);
        cell[self.head.len()..local_end].copy_from_slice(local);
        if !rest.is_empty() {
            self.chains_len += rest.len();
            self.chains.push((start + self.filler.top + local_end, rest.to_vec()));
        }
        self.last_rowid = rowid;
        true
    }

    /// Closes a full page, behind which another will stand. The last entry of an index page goes up to divide the two: it has
    /// several, and the next page gets one at once.
    fn divide(&mut self) {
        let mut divider = Divider::default();
        if self.kind == Kind::TableLeaf {
            push_varint(&mut divider.bytes, self.last_rowid);
        } else {
            let start = self.pages.len() - self.page_size;
            let from = start + self.filler.top;
            divider.bytes = self.filler.remove_last(&mut self.pages[start..]);
            let cell = from..from + divider.bytes.len();
            if let Some((at, rest)) = self.chains.pop_if(|(at, _)| cell.contains(at)) {
                divider.rest = rest;
                divider.bytes.truncate(at - from);
            }
        }
        self.dividers.push(divider);
        self.close();
    }

    fn close(&mut self) {
        let start = self.pages.len() - self.page_size;
        self.filler.finish(&mut self.pages[start..], None);
        self.is_open = false;
    }
}

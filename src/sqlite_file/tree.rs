//! B-trees: leaf pages filled from cells in order, many trees at once, and the interior pages over the leaves. Writes the
//! target.
//!
//! Page numbers must not depend on the number of threads, and the number of pages of a tree is unknown before the tree's end.
//! So all trees are built in rounds. In each round every unfinished tree fills about the same share of its pages; then the
//! overflow chains and the pages get numbers in the order of the trees, and the full interior pages get theirs; then all pages
//! are written. Two interior pages of each level are in memory: the open page, and a full page that may have to give a child to
//! the open page.

use std::borrow::Cow;

use rayon::prelude::*;

use super::cells::Cells;
use super::file::DatabaseFile;
use super::page::{Filler, PageKind, local_len};
use super::record::push_varint;
use super::{LoadResult, SqliteFileError};
use crate::interrupt::Interrupt;

/// Bytes of pages that are filled in a round. Not a part of the memory budget, because the file's bytes depend on it.
const ROUND_BYTES: u64 = 8 << 20;

/// Builds all trees, unless interrupted.
pub(super) fn build(
    target: &mut DatabaseFile,
    trees: &mut [BTree<'_>],
    interrupt: &Interrupt,
) -> LoadResult<()> {
    let total: u64 = trees.iter().map(|tree| tree.estimate_bytes).sum();
    let rounds = total.div_ceil(ROUND_BYTES).max(1);
    let mut extents: Vec<Extent> = trees.iter().map(|_| Extent::default()).collect();
    while trees.iter().any(|tree| !tree.is_done) {
        if interrupt.is_requested() {
            return Err(SqliteFileError::Interrupted);
        }
        // The system writes to a file for one thread at a time; meanwhile the other threads fill pages.
        let (written, filled) = rayon::join(
            || extents.iter().try_for_each(|extent| target.write(&extent.numbers, &extent.pages)),
            || {
                let trees = trees.par_iter_mut().with_max_len(1);
                let filled = trees.map(|tree| tree.fill((tree.estimate_bytes / rounds) as usize));
                // Of several errors, the error of the first tree is returned, however many threads there are.
                filled.collect::<Vec<LoadResult<()>>>().into_iter().collect::<LoadResult<()>>()
            },
        );
        written?;
        filled?;
        for (tree, extent) in trees.iter_mut().zip(&mut extents) {
            tree.assign_page_numbers(target, extent)?;
        }
    }
    extents.iter().try_for_each(|extent| target.write(&extent.numbers, &extent.pages))?;
    trees.iter_mut().try_for_each(|tree| tree.finish(target))
}

/// Pages of one tree that have their numbers.
#[derive(Default)]
struct Extent {
    pages: Vec<u8>,
    numbers: Vec<u32>,
}

/// The divider of two children of an interior page: the cell without the child, and the content of the cell's overflow chain.
#[derive(Default)]
struct Divider<'a> {
    bytes: Vec<u8>,
    rest: Cow<'a, [u8]>,
}

/// A table or an index that is being built. Its root page, an empty leaf, exists already.
pub(super) struct BTree<'a> {
    cells: Cells<'a>,
    leaves: Leaves<'a>,
    root: u32,
    /// About how many bytes the tree's pages will have.
    estimate_bytes: u64,
    /// The last leaf page that has a number.
    last_leaf: Option<u32>,
    /// The divider between the last numbered leaf page and the next page.
    last_divider: Vec<u8>,
    /// The interior pages over the leaves, lowest level first.
    levels: Vec<Level>,
    is_done: bool,
}

impl<'a> BTree<'a> {
    pub fn new(cells: Cells<'a>, root: u32, page_size: usize, estimate_bytes: u64) -> Self {
        let kind = if matches!(cells, Cells::Rows(_)) { PageKind::TableLeaf } else { PageKind::IndexLeaf };
        let leaves = Leaves::new(kind, page_size);
        let (last_leaf, last_divider, levels) = Default::default();
        Self { cells, leaves, root, estimate_bytes, last_leaf, last_divider, levels, is_done: false }
    }

    /// Fills this round's pages, each page to its end.
    fn fill(&mut self, quota_bytes: usize) -> LoadResult<()> {
        let leaves = &mut self.leaves;
        while let Some((payload, rowid)) = self.cells.current() {
            let lasting = self.cells.lasting();
            if !leaves.add(payload, lasting, rowid) {
                leaves.divide();
                if leaves.pages.len() + leaves.chains_len > quota_bytes {
                    return Ok(());
                }
                leaves.add(payload, lasting, rowid);
            }
            self.cells.advance()?;
        }
        if leaves.is_open {
            leaves.close();
        }
        self.is_done = true;
        Ok(())
    }

    /// Gives numbers to the chains and the pages of this round, and moves the pages to `out` to be written. A single leaf is
    /// the root.
    fn assign_page_numbers(&mut self, target: &mut DatabaseFile, out: &mut Extent) -> LoadResult<()> {
        let Leaves { pages, page_size, chains, chains_len, dividers, kind, .. } = &mut self.leaves;
        for (at, rest) in chains.drain(..) {
            pages[at..at + 4].copy_from_slice(&target.write_chain(&rest)?.to_be_bytes());
        }
        *chains_len = 0;
        let mut between = Vec::with_capacity(dividers.len());
        for Divider { mut bytes, rest } in dividers.drain(..) {
            if !rest.is_empty() {
                bytes.extend_from_slice(&target.write_chain(&rest)?.to_be_bytes());
            }
            between.push(bytes);
        }
        let count = pages.len() / *page_size;
        let is_root = self.is_done && self.last_leaf.is_none() && count == 1;
        out.numbers = if is_root { vec![self.root] } else { target.take(count)? };
        // After each page but a tree's last comes a divider.
        let mut between = between.into_iter();
        for number in &out.numbers {
            if let Some(before) = self.last_leaf.replace(*number) {
                let divider = std::mem::take(&mut self.last_divider);
                Level::add(&mut self.levels, 0, kind.parent(), target, before, divider)?;
            }
            self.last_divider = between.next().unwrap_or_default();
        }
        out.pages.clear();
        std::mem::swap(&mut out.pages, pages);
        Ok(())
    }

    /// Writes the remaining interior pages, the topmost to the root page.
    fn finish(&mut self, target: &mut DatabaseFile) -> LoadResult<()> {
        let Some(mut child) = self.last_leaf else { return Ok(()) };
        let mut level = 0;
        while level < self.levels.len() {
            child = Level::finish(&mut self.levels, level, self.root, target, child)?;
            level += 1;
        }
        Ok(())
    }
}

/// The interior pages of one level that are not yet written.
struct Level {
    kind: PageKind,
    /// A full page with its last child; not yet written, because the next page has no cell and may get no other child.
    full: Option<(InteriorPage, u32, Vec<u8>)>,
    open: InteriorPage,
    /// Whether a page of the level is written.
    has_written: bool,
}

/// An interior page that is being filled.
struct InteriorPage {
    page: Vec<u8>,
    filler: Filler,
    cells: usize,
}

impl InteriorPage {
    fn new(kind: PageKind, page_size: usize) -> Self {
        Self { page: vec![0; page_size], filler: Filler::new(kind, page_size), cells: 0 }
    }

    /// Adds a child and the divider between the child and the next child.
    fn add(&mut self, child: u32, divider: &[u8]) {
        let cell = self.filler.add(&mut self.page, 4 + divider.len());
        cell[..4].copy_from_slice(&child.to_be_bytes());
        cell[4..].copy_from_slice(divider);
        self.cells += 1;
    }

    /// Removes the last of several children, and returns the child and the divider between the child and the next child.
    fn remove_last(&mut self) -> (u32, Vec<u8>) {
        self.cells -= 1;
        let mut cell = self.filler.remove_last(&mut self.page);
        let divider = cell.split_off(4);
        (cell.iter().fold(0, |child, byte| child << 8 | u32::from(*byte)), divider)
    }

    /// Completes the page with its last child and writes the page.
    fn write(mut self, number: u32, right: u32, target: &DatabaseFile) -> LoadResult<()> {
        self.filler.finish(&mut self.page, Some(right));
        target.write(&[number], &self.page)
    }
}

impl Level {
    fn new(kind: PageKind, page_size: usize) -> Self {
        Self { kind, full: None, open: InteriorPage::new(kind, page_size), has_written: false }
    }

    /// Adds a child to level `at`, and the divider after the child. A divider that does not fit goes to the level above.
    fn add(
        levels: &mut Vec<Self>,
        at: usize,
        kind: PageKind,
        target: &mut DatabaseFile,
        child: u32,
        divider: Vec<u8>,
    ) -> LoadResult<()> {
        if levels.len() == at {
            levels.push(Self::new(kind, target.page_size));
        }
        let level = &mut levels[at];
        if level.open.filler.fits(4 + divider.len()) {
            level.open.add(child, &divider);
            return Self::write_full(levels, at, target);
        }
        let full = std::mem::replace(&mut level.open, InteriorPage::new(kind, target.page_size));
        level.full = Some((full, child, divider));
        Ok(())
    }

    /// Writes the full page of level `at`, if any, and adds the page to the level above.
    fn write_full(levels: &mut Vec<Self>, at: usize, target: &mut DatabaseFile) -> LoadResult<()> {
        let level = &mut levels[at];
        let Some((full, right, divider)) = level.full.take() else { return Ok(()) };
        let number = target.take(1)?[0];
        full.write(number, right, target)?;
        level.has_written = true;
        let kind = level.kind;
        Self::add(levels, at + 1, kind, target, number, divider)
    }

    /// Writes the last pages of level `at`, whose last child is `last`, and returns the number of the very last page. No page
    /// may have a single child. The only page of a level is the root.
    fn finish(
        levels: &mut Vec<Self>,
        at: usize,
        root: u32,
        target: &mut DatabaseFile,
        last: u32,
    ) -> LoadResult<u32> {
        let level = &mut levels[at];
        if level.open.cells == 0
            && let Some((full, right, divider)) = &mut level.full
        {
            let (child, before) = full.remove_last();
            level.open.add(*right, divider);
            (*right, *divider) = (child, before);
        }
        Self::write_full(levels, at, target)?;
        let level = &mut levels[at];
        let open = std::mem::replace(&mut level.open, InteriorPage::new(level.kind, target.page_size));
        let number = if level.has_written { target.take(1)?[0] } else { root };
        open.write(number, last, target)?;
        Ok(number)
    }
}

/// The leaf pages of a tree that have no numbers yet.
struct Leaves<'a> {
    kind: PageKind,
    page_size: usize,
    pages: Vec<u8>,
    /// The filler of the last page, open or not.
    filler: Filler,
    is_open: bool,
    /// Overflow chains of cells in the pages: where the chain's page number goes, and the content of the chain.
    chains: Vec<(usize, Cow<'a, [u8]>)>,
    chains_len: usize,
    last_rowid: u64,
    /// Scratch.
    head: Vec<u8>,
    /// The dividers of pages without numbers.
    dividers: Vec<Divider<'a>>,
}

impl<'a> Leaves<'a> {
    fn new(kind: PageKind, page_size: usize) -> Self {
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

    /// Adds a cell to the open page or to a new page; returns `false` when the cell does not fit the open page. A lasting
    /// payload is not copied to its overflow chain.
    fn add(&mut self, payload: &[u8], lasting: Option<&'a [u8]>, rowid: u64) -> bool {
        self.head.clear();
        push_varint(&mut self.head, payload.len() as u64);
        if self.kind == PageKind::TableLeaf {
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
            let rest = match lasting {
                Some(payload) => Cow::Borrowed(&payload[local.len()..]),
                None => Cow::Owned(rest.to_vec()),
            };
            self.chains.push((start + self.filler.top + local_end, rest));
        }
        self.last_rowid = rowid;
        true
    }

    /// Closes a full page that is followed by another page. The last entry of an index page goes up and divides the two pages.
    /// The page has several entries, and the next page gets an entry at once.
    fn divide(&mut self) {
        let mut divider = Divider::default();
        if self.kind == PageKind::TableLeaf {
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

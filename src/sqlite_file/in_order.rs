//! Reads an index in the order of its keys, and rows by their rowids.
//!
//! Touches: the database's file, for reading, through [`PageReader`]. Guarantees: memory is bounded by a page of each level of
//! the index, and by [`KEPT_BYTES`] of the table's pages.
//!
//! ```text
//! interior page     [a | m]         the entries a and m are between the leaves
//! leaves         [.]  [b c]  [n]
//! entries         .  a  b  c  m  n
//! ```

use super::page::PageKind;
use super::pages::{LEVELS_MAX, PageReader, TreePages, UnreadablePage};

/// Pages of a table that stay in memory. Rows that were stored at about the same time are near each other, so few pages serve
/// many rows in the order of their times.
const KEPT_BYTES: usize = 8 << 20;

/// The entries of an index, in the order of its keys.
pub(crate) struct IndexCursor<'c> {
    pages: PageReader<'c>,
    /// The pages from the root to the page of the next entry.
    levels: Vec<VisitedPage>,
    /// Buffers of pages that were passed.
    spare: Vec<Vec<u8>>,
    /// How many pages were read: a sound index has each of its pages once.
    read_pages: u32,
    long: Vec<u8>,
}

/// A page on the way to an entry.
struct VisitedPage {
    page: Vec<u8>,
    /// The next cell.
    next: usize,
}

impl<'c> IndexCursor<'c> {
    /// Begins before the first entry of the index with this root.
    pub(crate) fn new(pages: PageReader<'c>, root: u32) -> Result<Self, UnreadablePage> {
        let mut cursor =
            Self { pages, levels: Vec::new(), spare: Vec::new(), read_pages: 0, long: Vec::new() };
        cursor.descend(root)?;
        Ok(cursor)
    }

    /// Goes from a page to the first leaf below the page.
    fn descend(&mut self, mut number: u32) -> Result<(), UnreadablePage> {
        while self.levels.len() < LEVELS_MAX && self.read_pages < self.pages.page_count() {
            self.read_pages += 1;
            let mut bytes = self.spare.pop().unwrap_or_default();
            let page = self.pages.page(self.pages.read(&[number], &mut bytes)?)?;
            let is_leaf = match page.kind {
                PageKind::IndexLeaf => true,
                PageKind::IndexInterior => false,
                _ => return Err(UnreadablePage),
            };
            // Only an index of one leaf may be empty.
            if page.cells == 0 && !(is_leaf && self.levels.is_empty()) {
                return Err(UnreadablePage);
            }
            if !is_leaf {
                number = page.child(0)?;
            }
            self.levels.push(VisitedPage { page: bytes, next: 0 });
            if is_leaf {
                return Ok(());
            }
        }
        Err(UnreadablePage)
    }

    /// Returns the record of the next entry; `None` after the last one.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, UnreadablePage> {
        // After an entry of an interior page comes the child to its right.
        if let Some(last) = self.levels.last() {
            let page = self.pages.known_page(&last.page)?;
            if page.kind.is_interior() {
                let child = page.child(last.next)?;
                self.descend(child)?;
            }
        }
        let Self { pages, levels, spare, long, .. } = self;
        let is_passed = |level: &mut VisitedPage| {
            pages.known_page(&level.page).is_ok_and(|page| level.next >= page.cells)
        };
        while let Some(level) = levels.pop_if(is_passed) {
            spare.push(level.page);
        }
        let Some(VisitedPage { page, next }) = levels.last_mut() else { return Ok(None) };
        *next += 1;
        pages.entry(&pages.known_page(page)?, *next - 1, long).map(Some)
    }
}

/// The rows of a table, by their rowids.
pub(crate) struct RowFinder<'c> {
    pages: PageReader<'c>,
    tree: TreePages,
    /// Pages that were read; each page has one place.
    kept: Vec<KeptPage>,
    long: Vec<u8>,
}

#[derive(Clone, Default)]
struct KeptPage {
    /// 0 where no page is kept.
    number: u32,
    bytes: Vec<u8>,
}

impl<'c> RowFinder<'c> {
    /// A finder of the rows of the table with this root.
    pub(crate) fn new(pages: PageReader<'c>, root: u32) -> Result<Self, UnreadablePage> {
        let tree = pages.tree(root, PageKind::TableLeaf)?;
        let kept = vec![KeptPage::default(); pages.count_in(KEPT_BYTES)];
        Ok(Self { pages, tree, kept, long: Vec::new() })
    }

    /// Returns the record of a row. A row that is not there is [`UnreadablePage`].
    #[inline]
    pub(crate) fn record(&mut self, rowid: i64) -> Result<&[u8], UnreadablePage> {
        let Self { pages, tree, kept, long } = self;
        let leaf = tree.last_rowids.partition_point(|last| *last < rowid);
        let number = *tree.leaves.get(leaf).ok_or(UnreadablePage)?;
        let place = number as usize % kept.len();
        let KeptPage { number: there, bytes } = kept.get_mut(place).ok_or(UnreadablePage)?;
        if *there != number {
            *there = 0;
            tree.check(&pages.page(pages.read(&[number], bytes)?)?, PageKind::TableLeaf)?;
            *there = number;
        }
        let page = pages.known_page(bytes)?;
        let (mut first, mut end) = (0_usize, page.cells);
        // Most rowids of a page have no gap between them.
        let before = rowid.wrapping_sub(page.row_at(0)?.rowid);
        let mut cell = usize::try_from(before).map_or(0, |before| before.min(end - 1));
        while first < end {
            let row = page.row_at(cell)?;
            match row.rowid.cmp(&rowid) {
                std::cmp::Ordering::Equal => return pages.record(&page, row, long),
                std::cmp::Ordering::Less => first = cell + 1,
                std::cmp::Ordering::Greater => end = cell,
            }
            cell = first.midpoint(end);
        }
        Err(UnreadablePage)
    }
}

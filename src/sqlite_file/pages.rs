//! Reads the b-trees of an open database page by page, without SQLite's virtual machine ("Database File Format", 1.6).
//!
//! Touches: the database's file, for reading, through SQLite's own descriptor. Guarantees: all pages belong to the
//! state that the connection's transaction reads. No length and no number in the file is trusted: whatever does not fit
//! is [`UnreadablePage`], and the caller then asks SQLite, which says what is wrong.
//!
//! A reader of a database in WAL mode whose log is empty holds the first read lock. While that lock is held, nobody
//! writes to the database's file, because a checkpoint needs the same lock exclusively. With frames in the log, pages of
//! the file may be old, so [`PageReader::of`] returns `None`.
//!
//! Rejected: mapping the file, because a program that truncates the file would kill every reader; opening the file again,
//! because closing it would end this process's locks on it.

use std::ffi::c_int;
use std::ptr;

use rusqlite::{Connection, ffi};

use super::page::{PageKind, local_len};

/// SQLite's own limit is 20 levels.
pub(super) const LEVELS_MAX: usize = 20;
/// Neighbouring pages are read together up to this length, because a larger buffer leaves the processor's cache.
const READ_BYTES: usize = 64 << 10;
/// The file's header.
const HEADER_LEN: usize = 100;
const PAGE_SIZE_AT: usize = 16;
const WRITE_VERSION_AT: usize = 18;
const RESERVED_AT: usize = 20;
const ENCODING_AT: usize = 56;
const WAL_VERSION: u8 = 2;
const UTF_8: u32 = 1;
/// Enough for the header and the pointers of most pages of an index.
const NEAR_FRONT_LEN: usize = 4096;
/// The header of a page.
const CELL_COUNT_AT: usize = 3;
/// The last child of an interior page.
const RIGHT_CHILD_AT: usize = 8;
/// The number of the left child is the beginning of a cell of an interior page.
const LEFT_CHILD_LEN: usize = 4;

/// Only SQLite can read the file, or can say why nobody can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnreadablePage;

/// The log of the connection, which may have changes that the database's file lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangesInLog {
    /// There may be a log.
    Possible,
    /// The connection is immutable, so it reads the file alone.
    Impossible,
}

/// The pages of the database that a connection reads.
pub(crate) struct PageReader<'c> {
    connection: &'c Connection,
    page_len: usize,
    /// The length of a page without the bytes that extensions reserve.
    usable_len: usize,
    page_count: u32,
}

/// The pages of a b-tree, in the order of its keys.
pub(crate) struct TreePages {
    pub interior: Vec<u32>,
    pub leaves: Vec<u32>,
    /// For each leaf of a table the largest rowid that it may have.
    pub last_rowids: Vec<i64>,
}

impl TreePages {
    /// Fails unless the page is of this kind. Only a tree of one leaf may be empty, because SQLite takes other pages
    /// without cells for damaged.
    pub(crate) fn check(&self, page: &BTreePage<'_>, kind: PageKind) -> Result<(), UnreadablePage> {
        let may_be_empty = self.interior.is_empty() && !kind.is_interior();
        if page.kind == kind && (page.cells > 0 || may_be_empty) { Ok(()) } else { Err(UnreadablePage) }
    }
}

impl<'c> PageReader<'c> {
    /// The number of pages of the database.
    #[cfg(feature = "parquet")]
    pub(super) fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Returns a reader of the state that the connection's transaction reads; `None` if only SQLite can read this state.
    /// The transaction must have begun to read.
    pub(crate) fn of(connection: &'c Connection, log: ChangesInLog) -> Option<Self> {
        let mut header = [0; HEADER_LEN];
        let page_count = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).ok()?;
        let reader = Self { connection, page_len: 0, usable_len: 0, page_count };
        reader.read_at(&mut header, 0).ok()?;
        let is_logged = header[WRITE_VERSION_AT] == WAL_VERSION
            && header[WRITE_VERSION_AT + 1] == WAL_VERSION
            && reader.log_len() == Ok(0);
        if !is_logged && log == ChangesInLog::Possible {
            return None;
        }
        let page_len = match u16::from_be_bytes([header[PAGE_SIZE_AT], header[PAGE_SIZE_AT + 1]]) {
            1 => 1 << 16,
            size => usize::from(size),
        };
        let usable_len = page_len.checked_sub(header[RESERVED_AT].into())?;
        let is_valid = page_len.is_power_of_two() && page_len >= 512 && usable_len >= 480;
        (is_valid && u32_at(&header, ENCODING_AT) == Some(UTF_8)).then_some(Self {
            page_len,
            usable_len,
            ..reader
        })
    }

    /// Returns the pages of the tree with this root.
    pub(crate) fn tree(&self, root: u32, leaf: PageKind) -> Result<TreePages, UnreadablePage> {
        let mut pages = TreePages { interior: Vec::new(), leaves: vec![root], last_rowids: vec![i64::MAX] };
        let mut buffer = Vec::new();
        for _ in 0..LEVELS_MAX {
            let (mut below, mut last_rowids) = (Vec::new(), Vec::new());
            for (page, last_rowid) in pages.leaves.iter().zip(&pages.last_rowids) {
                let page = self.page(self.read(&[*page], &mut buffer)?)?;
                // All leaves have the same depth, so one page of a level decides for all.
                if page.kind == leaf {
                    return Ok(pages);
                }
                pages.check(&page, leaf.parent())?;
                for cell in 0..page.cells {
                    let at = page.cell_at(cell)?;
                    below.push(u32_at(page.bytes, at).ok_or(UnreadablePage)?);
                    // In an index this is a length, which SQLite refuses outside the page.
                    last_rowids.push(varint(page.bytes, &mut (at + LEFT_CHILD_LEN))? as i64);
                }
                below.push(u32_at(page.bytes, RIGHT_CHILD_AT).ok_or(UnreadablePage)?);
                last_rowids.push(*last_rowid);
                if below.len() > self.page_count as usize {
                    return Err(UnreadablePage);
                }
            }
            pages.interior.append(&mut pages.leaves);
            (pages.leaves, pages.last_rowids) = (below, last_rowids);
        }
        Err(UnreadablePage)
    }

    /// Returns the number of entries of an index. Reads the headers and the cell pointers of the pages, but no cell.
    pub(crate) fn count(&self, tree: &TreePages) -> Result<u64, UnreadablePage> {
        Ok(self.cells_of(tree, PageKind::IndexInterior, &tree.interior)?
            + self.cells_of(tree, PageKind::IndexLeaf, &tree.leaves)?)
    }

    /// Returns the number of cells of some pages of a tree.
    pub(crate) fn cells_of(
        &self,
        tree: &TreePages,
        kind: PageKind,
        pages: &[u32],
    ) -> Result<u64, UnreadablePage> {
        // A cell takes at least 4 bytes, and its pointer 2. Most cells are longer.
        let longest = (PageKind::IndexInterior.header_len() + self.page_len / 3).min(self.page_len);
        let (mut front, near) = (vec![0; longest], longest.min(NEAR_FRONT_LEN));
        pages.iter().try_fold(0, |cells, page| {
            let offset = self.offset_of(*page, 1)?;
            self.read_at(&mut front[..near], offset)?;
            if self.page(&front[..near]).is_err() {
                self.read_at(&mut front, offset)?;
            }
            let page = self.page(&front)?;
            tree.check(&page, kind)?;
            Ok(cells + page.cells as u64)
        })
    }

    /// The page with these bytes, or with bytes that begin with these. The pointers to cells are within the bounds that
    /// SQLite sets with `cell_size_check`.
    pub(super) fn page<'p>(&self, bytes: &'p [u8]) -> Result<BTreePage<'p>, UnreadablePage> {
        let page = self.known_page(bytes)?;
        let first = page.kind.header_len() + 2 * page.cells;
        let last = self.usable_len - 4 - usize::from(page.kind.is_interior());
        // In 16 bits, a pointer less than `first` minus `first` wraps to a number above every length. So one comparison checks both
        // bounds, and a processor makes eight of them at a time.
        let from_first = |pointer: &[u8; 2]| u16::from_be_bytes(*pointer).wrapping_sub(first as u16);
        let farthest = page.pointers.iter().fold(0, |farthest, pointer| from_first(pointer).max(farthest));
        if page.cells > (self.page_len - 8) / 6 || usize::from(farthest) > last - first {
            return Err(UnreadablePage);
        }
        Ok(page)
    }

    /// The page with these bytes, of which [`PageReader::page`] has checked the pointers before.
    #[inline]
    pub(super) fn known_page<'p>(&self, bytes: &'p [u8]) -> Result<BTreePage<'p>, UnreadablePage> {
        let bytes = &bytes[..bytes.len().min(self.usable_len)];
        let kind = bytes.first().and_then(|byte| PageKind::of(*byte)).ok_or(UnreadablePage)?;
        let cells = usize::from(u16_at(bytes, CELL_COUNT_AT).ok_or(UnreadablePage)?);
        let first = kind.header_len();
        let (pointers, _) = bytes.get(first..first + 2 * cells).ok_or(UnreadablePage)?.as_chunks();
        Ok(BTreePage { kind, cells, bytes, pointers })
    }

    /// Passes pages to `each`, in their order. Reads neighbours together.
    pub(crate) fn each_page(
        &self,
        pages: &[u32],
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(&BTreePage<'_>) -> Result<(), UnreadablePage>,
    ) -> Result<(), UnreadablePage> {
        let pages_max = self.count_in(READ_BYTES);
        for neighbours in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            for together in neighbours.chunks(pages_max) {
                for page in self.read(together, buffer)?.chunks_exact(self.page_len) {
                    each(&self.page(page)?)?;
                }
            }
        }
        Ok(())
    }

    /// Passes the rows of a page of a table to `each`: the rowid and the record.
    pub(crate) fn rows(
        &self,
        page: &BTreePage<'_>,
        long: &mut Vec<u8>,
        mut each: impl FnMut(i64, &[u8]) -> Result<(), UnreadablePage>,
    ) -> Result<(), UnreadablePage> {
        if page.kind != PageKind::TableLeaf {
            return Err(UnreadablePage);
        }
        for cell in 0..page.cells {
            let row = page.row_at(cell)?;
            each(row.rowid, self.record(page, row, long)?)?;
        }
        Ok(())
    }

    /// Returns the record of a row.
    #[inline]
    pub(super) fn record<'p>(
        &self,
        page: &BTreePage<'p>,
        row: RowCell,
        long: &'p mut Vec<u8>,
    ) -> Result<&'p [u8], UnreadablePage> {
        self.payload(page, row.record_at, row.record_len, long)
    }

    /// Returns the record of an entry of an index; the last value of the record is the rowid.
    pub(crate) fn entry<'p>(
        &self,
        page: &BTreePage<'p>,
        cell: usize,
        long: &'p mut Vec<u8>,
    ) -> Result<&'p [u8], UnreadablePage> {
        let mut at = page.cell_at(cell)?;
        match page.kind {
            PageKind::IndexLeaf => {}
            PageKind::IndexInterior => at += LEFT_CHILD_LEN,
            _ => return Err(UnreadablePage),
        }
        let len = varint(page.bytes, &mut at)?;
        self.payload(page, at, len, long)
    }

    /// The payload of a cell. A payload that does not fit into its page is put together in `long`.
    #[inline]
    fn payload<'p>(
        &self,
        page: &BTreePage<'p>,
        at: usize,
        len: u64,
        long: &'p mut Vec<u8>,
    ) -> Result<&'p [u8], UnreadablePage> {
        let len = usize::try_from(len).map_err(|_| UnreadablePage)?;
        let in_page = local_len(page.kind, self.usable_len, len);
        let start = page.bytes.get(at..at + in_page).ok_or(UnreadablePage)?;
        if in_page == len { Ok(start) } else { self.long_payload(page, at + in_page, start, len, long) }
    }

    /// A payload that begins with `start`; the number of the page with the rest is at `at`.
    fn long_payload<'p>(
        &self,
        page: &BTreePage<'p>,
        at: usize,
        start: &[u8],
        len: usize,
        long: &'p mut Vec<u8>,
    ) -> Result<&'p [u8], UnreadablePage> {
        if len / self.usable_len > self.page_count as usize {
            return Err(UnreadablePage);
        }
        long.clear();
        long.extend_from_slice(start);
        let mut next = u32_at(page.bytes, at).ok_or(UnreadablePage)?;
        let mut buffer = Vec::new();
        while long.len() < len {
            let page = self.read(&[next], &mut buffer)?;
            next = u32_at(page, 0).ok_or(UnreadablePage)?;
            let part = &page[4..self.usable_len];
            long.extend_from_slice(&part[..part.len().min(len - long.len())]);
        }
        Ok(long)
    }

    /// The number of pages in so many bytes, at least 1.
    pub(super) fn count_in(&self, bytes: usize) -> usize {
        (bytes / self.page_len).max(1)
    }

    /// The place in the file of neighbouring pages. Page 1 has the file's header and the schema, and no tree of a caller.
    fn offset_of(&self, first: u32, pages: usize) -> Result<u64, UnreadablePage> {
        let is_inside = first >= 2 && u64::from(first) + pages as u64 - 1 <= u64::from(self.page_count);
        is_inside.then(|| u64::from(first - 1) * self.page_len as u64).ok_or(UnreadablePage)
    }

    /// Reads neighbouring pages into `buffer`.
    pub(super) fn read<'b>(
        &self,
        pages: &[u32],
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], UnreadablePage> {
        let Some(first) = pages.first() else { return Ok(&[]) };
        let offset = self.offset_of(*first, pages.len())?;
        buffer.resize(self.page_len * pages.len(), 0);
        self.read_at(buffer, offset)?;
        Ok(buffer)
    }

    /// Fills `buffer` from the database's file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), UnreadablePage> {
        let len = c_int::try_from(buffer.len()).map_err(|_| UnreadablePage)?;
        let bytes = buffer.as_mut_ptr().cast();
        let which = ffi::SQLITE_FCNTL_FILE_POINTER;
        // SAFETY: as `call` says; `buffer` has `len` bytes.
        unsafe { self.call(which, |file, methods| Some(methods.xRead?(file, bytes, len, offset as i64))) }
    }

    /// The length of the write-ahead log.
    fn log_len(&self) -> Result<ffi::sqlite3_int64, UnreadablePage> {
        let mut len: ffi::sqlite3_int64 = 0;
        let which = ffi::SQLITE_FCNTL_JOURNAL_POINTER;
        // SAFETY: as `call` says; `len` is a place for the result.
        unsafe { self.call(which, |file, methods| Some(methods.xFileSize?(file, &raw mut len))) }?;
        Ok(len)
    }

    /// Calls a method of the database's file or of the file of its log.
    ///
    /// # Safety
    /// `which` must be `SQLITE_FCNTL_FILE_POINTER` or `SQLITE_FCNTL_JOURNAL_POINTER`. `method` must call no more than one
    /// method with the given file, and pass buffers of the length that it states. No other thread uses the file
    /// meanwhile, because a connection belongs to one thread.
    unsafe fn call(
        &self,
        which: c_int,
        method: impl FnOnce(*mut ffi::sqlite3_file, &ffi::sqlite3_io_methods) -> Option<c_int>,
    ) -> Result<(), UnreadablePage> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: the handle is open as long as the connection is borrowed. Both operations write a pointer through
        // their argument.
        let code = unsafe {
            let place = (&raw mut file).cast();
            ffi::sqlite3_file_control(self.connection.handle(), c"main".as_ptr(), which, place)
        };
        if code != ffi::SQLITE_OK {
            return Err(UnreadablePage);
        }
        // SAFETY: SQLite gives a file that lives as long as its connection. The methods of an open file are a static
        // table; a file that is not open has none.
        let methods = unsafe { file.as_ref().and_then(|file| file.pMethods.as_ref()) };
        match methods.and_then(|methods| method(file, methods)) {
            Some(ffi::SQLITE_OK) => Ok(()),
            _ => Err(UnreadablePage),
        }
    }
}

/// A page of a b-tree.
pub(crate) struct BTreePage<'p> {
    pub kind: PageKind,
    /// The number of cells: rows of a table, or entries of an index.
    pub cells: usize,
    bytes: &'p [u8],
    pointers: &'p [[u8; 2]],
}

impl BTreePage<'_> {
    #[inline]
    fn cell_at(&self, cell: usize) -> Result<usize, UnreadablePage> {
        self.pointers.get(cell).map(|pointer| u16::from_be_bytes(*pointer).into()).ok_or(UnreadablePage)
    }

    /// The row of a cell of a leaf.
    #[inline]
    pub(super) fn row_at(&self, cell: usize) -> Result<RowCell, UnreadablePage> {
        let mut at = self.cell_at(cell)?;
        let record_len = varint(self.bytes, &mut at)?;
        let rowid = varint(self.bytes, &mut at)? as i64;
        Ok(RowCell { rowid, record_at: at, record_len })
    }

    /// The child to the left of a cell of an interior page; with the number of cells, the last child.
    #[cfg(feature = "parquet")]
    pub(super) fn child(&self, cell: usize) -> Result<u32, UnreadablePage> {
        let at = if cell == self.cells { RIGHT_CHILD_AT } else { self.cell_at(cell)? };
        u32_at(self.bytes, at).ok_or(UnreadablePage)
    }
}

/// A cell of a leaf of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowCell {
    pub rowid: i64,
    record_at: usize,
    record_len: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads a varint at `*at`, and moves `*at` to the byte after the varint.
#[inline(always)]
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, UnreadablePage> {
    match bytes.get(*at) {
        Some(byte) if *byte < 0x80 => {
            *at += 1;
            Ok(u64::from(*byte))
        }
        _ => long_varint(bytes, at),
    }
}

fn long_varint(bytes: &[u8], at: &mut usize) -> Result<u64, UnreadablePage> {
    let mut value = 0;
    for place in 0..9 {
        let byte = *bytes.get(*at).ok_or(UnreadablePage)?;
        *at += 1;
        if place == 8 {
            // The ninth byte has eight bits of the number.
            return Ok(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Ok(value)
}

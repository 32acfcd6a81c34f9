//! B-tree pages in memory: headers, cell pointers, and how much of a payload is in its cell ("Database File Format", 1.6). Pure
//! functions over page images.

/// The b-tree page types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    IndexInterior = 2,
    TableInterior = 5,
    IndexLeaf = 10,
    TableLeaf = 13,
}

impl PageKind {
    /// The kind of a page that begins with this byte.
    pub(super) fn of(byte: u8) -> Option<Self> {
        let kinds = [Self::IndexInterior, Self::TableInterior, Self::IndexLeaf, Self::TableLeaf];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }

    pub(super) fn is_interior(self) -> bool {
        matches!(self, Self::IndexInterior | Self::TableInterior)
    }

    pub(super) fn header_len(self) -> usize {
        if self.is_interior() { 12 } else { 8 }
    }

    /// The kind of the interior pages over leaves of this kind.
    pub(super) fn parent(self) -> Self {
        if self == Self::TableLeaf { Self::TableInterior } else { Self::IndexInterior }
    }
}

/// Fills one page: cells from the page's end towards the front, their pointers from the header towards the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filler {
    kind: PageKind,
    cells: usize,
    /// Offset of the cell content.
    pub top: usize,
}

impl Filler {
    pub fn new(kind: PageKind, page_size: usize) -> Self {
        Self { kind, cells: 0, top: page_size }
    }

    fn pointer(&self, cell: usize) -> usize {
        self.kind.header_len() + 2 * cell
    }

    pub fn fits(&self, cell_len: usize) -> bool {
        self.pointer(self.cells + 1) + cell_len <= self.top
    }

    /// Reserves space for a cell that fits and returns the space for writing.
    pub fn add<'a>(&mut self, page: &'a mut [u8], cell_len: usize) -> &'a mut [u8] {
        let pointer = self.pointer(self.cells);
        self.top -= cell_len;
        page[pointer..pointer + 2].copy_from_slice(&(self.top as u16).to_be_bytes());
        self.cells += 1;
        &mut page[self.top..self.top + cell_len]
    }

    /// Removes the last of several cells and returns its bytes.
    pub fn remove_last(&mut self, page: &mut [u8]) -> Vec<u8> {
        self.cells -= 1;
        let pointer = self.pointer(self.cells);
        let end = usize::from(u16::from_be_bytes([page[pointer - 2], page[pointer - 1]]));
        let cell = page[self.top..end].to_vec();
        page[pointer..pointer + 2].fill(0);
        page[self.top..end].fill(0);
        self.top = end;
        cell
    }

    /// Writes the header; `right` is the last child of an interior page.
    pub fn finish(&self, page: &mut [u8], right: Option<u32>) {
        page[0] = self.kind as u8;
        page[3..5].copy_from_slice(&(self.cells as u16).to_be_bytes());
        page[5..7].copy_from_slice(&(self.top as u16).to_be_bytes());
        if let Some(right) = right {
            page[8..12].copy_from_slice(&right.to_be_bytes());
        }
    }
}

/// A payload of this length is in its cell whatever the page: no page has less than 480 bytes.
const LOCAL_LEN_MIN: usize = (480 - 12) * 64 / 255 - 23;

/// How many bytes of a payload are in its leaf cell; the rest goes to a chain of overflow pages.
#[inline]
pub(super) fn local_len(leaf: PageKind, page_size: usize, payload_len: usize) -> usize {
    if payload_len <= LOCAL_LEN_MIN {
        return payload_len;
    }
    let most = if leaf == PageKind::TableLeaf { page_size - 35 } else { (page_size - 12) * 64 / 255 - 23 };
    if payload_len <= most {
        return payload_len;
    }
    let least = (page_size - 12) * 32 / 255 - 23;
    let even = least + (payload_len - least) % (page_size - 4);
    if even <= most { even } else { least }
}

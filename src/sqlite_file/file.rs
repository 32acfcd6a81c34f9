//! The target file page by page, and the spill file. Only this file of the module maps files, and writes them, except for
//! four numbers of the header that `Loader::finish` writes. Nothing is synced here.

use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{LoadResult, SqliteFileError};
use crate::disk::{self, File, Operation};

/// The byte that SQLite locks; no page may contain this byte.
const PENDING_BYTE: u64 = 0x4000_0000;
/// How many bytes are written at once.
const PIECE_LEN: usize = 64 << 10;
/// SQLite's own limit, SQLITE_MAX_PAGE_COUNT.
const PAGES_MAX: u32 = 0xffff_fffe;

/// The database file while it grows. Pages are numbered from 1.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    pub file: File,
    pub page_size: usize,
    /// How many pages the file has.
    pub pages: u32,
}

impl DatabaseFile {
    /// Creates the file with its first pages.
    pub fn create(path: &Path, page_size: usize, image: &[u8]) -> LoadResult<Self> {
        let file = File::create_new(path)?;
        file.write_all_at(image, 0)?;
        Ok(Self { file, page_size, pages: (image.len() / page_size) as u32 })
    }

    /// Reserves pages at the end of the file, skipping the page of the pending byte.
    pub fn take(&mut self, count: usize) -> LoadResult<Vec<u32>> {
        let pending = (PENDING_BYTE / self.page_size as u64) as u32 + 1;
        let mut next = || {
            self.pages += if self.pages + 1 == pending { 2 } else { 1 };
            (self.pages <= PAGES_MAX).then_some(self.pages)
        };
        let taken: Option<Vec<u32>> = (0..count).map(|_| next()).collect();
        taken.ok_or(SqliteFileError::TooLarge { what: "the file in pages", limit: u64::from(PAGES_MAX) })
    }

    /// Writes whole pages, as many as there are numbers.
    pub fn write(&self, numbers: &[u32], pages: &[u8]) -> LoadResult<()> {
        let mut rest = pages;
        for stretch in numbers.chunk_by(|a, b| a + 1 == *b) {
            let (bytes, more) = rest.split_at(stretch.len() * self.page_size);
            write_at(&self.file, bytes, u64::from(stretch[0] - 1) * self.page_size as u64)?;
            rest = more;
        }
        Ok(())
    }

    /// Writes the part of a payload that is outside its cell to overflow pages and returns the first page ("Database File
    /// Format", 1.7).
    pub fn write_chain(&mut self, rest: &[u8]) -> LoadResult<u32> {
        let part_len = self.page_size - 4;
        let numbers = self.take(rest.len().div_ceil(part_len))?;
        let mut following = numbers[1..].iter().copied().chain([0]);
        let mut pages = Vec::new();
        // A long chain is laid out in pieces, so that the whole chain is never in memory a second time.
        let at_once = (PIECE_LEN / self.page_size).max(1);
        for (numbers, rest) in numbers.chunks(at_once).zip(rest.chunks(at_once * part_len)) {
            pages.clear();
            pages.resize(numbers.len() * self.page_size, 0);
            for (page, part) in pages.chunks_mut(self.page_size).zip(rest.chunks(part_len)) {
                page[..4].copy_from_slice(&following.next().unwrap_or(0).to_be_bytes());
                page[4..4 + part.len()].copy_from_slice(part);
            }
            self.write(numbers, &pages)?;
        }
        Ok(numbers[0])
    }
}

/// Writes in pieces of 64 KiB: `dd` of a gigabyte took 1.8 to 2.6 s with pieces of 1 and 16 MiB, and 0.3 to 0.9 s with 64 KiB
/// (PERF.md). For a large write Linux uses large free blocks of memory in its cache, and in a virtual machine the host has
/// taken back these blocks.
fn write_at(file: &File, bytes: &[u8], offset: u64) -> LoadResult<()> {
    for (piece, at) in bytes.chunks(PIECE_LEN).zip((offset..).step_by(PIECE_LEN)) {
        file.write_all_at(piece, at)?;
    }
    Ok(())
}

/// Bytes that are appended, and read when all have been appended. The bytes are in memory up to a limit, and then in a spill
/// file, made when first needed. The spill file has no name where the system allows unnamed files; elsewhere the file is
/// deleted when closed.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    memory_max: usize,
    memory: Vec<u8>,
    spill: Option<File>,
    /// How many bytes were appended. The bytes in memory come first.
    end: u64,
}

impl Store {
    pub fn new(dir: PathBuf, memory_max: usize) -> Self {
        Self { dir, memory_max, memory: Vec::new(), spill: None, end: 0 }
    }

    /// Appends bytes, given in parts, and returns their offset. The bytes are all in memory, or all in the spill file.
    pub fn append(&mut self, parts: &[Vec<u8>]) -> LoadResult<u64> {
        let offset = self.end;
        let len: usize = parts.iter().map(Vec::len).sum();
        if self.spill.is_none() && self.memory.len() + len <= self.memory_max {
            parts.iter().for_each(|part| self.memory.extend_from_slice(part));
        } else {
            let spill = match &self.spill {
                Some(spill) => spill,
                None => self.spill.insert(File::create_unnamed(&self.dir)?),
            };
            let mut at = offset - self.memory.len() as u64;
            for part in parts {
                write_at(spill, part, at)?;
                at += part.len() as u64;
            }
        }
        self.end += len as u64;
        Ok(offset)
    }

    /// Ends the appending; everything can be read afterwards.
    pub fn freeze(self) -> LoadResult<FrozenStore> {
        let Some(spill) = self.spill else { return Ok(FrozenStore { memory: self.memory, spilled: None }) };
        // SAFETY: the file has no name or nothing else has it open, and it is closed here: nothing can write or shorten the file
        // while it is mapped.
        let map = unsafe { Mmap::map(spill.as_std()) };
        let failed = |source| disk::Error::Io { operation: Operation::Map, path: self.dir, source };
        Ok(FrozenStore { memory: self.memory, spilled: Some(map.map_err(failed)?) })
    }
}

/// A [`Store`] that accepts no more bytes.
#[derive(Debug)]
pub(super) struct FrozenStore {
    memory: Vec<u8>,
    pub spilled: Option<Mmap>,
}

impl FrozenStore {
    /// Bytes that were appended together, or a part of such bytes.
    pub fn get(&self, range: Range<u64>) -> &[u8] {
        let in_memory = self.memory.len() as u64;
        let (of, before) = match &self.spilled {
            Some(spilled) if range.start >= in_memory => (&spilled[..], in_memory),
            _ => (&self.memory[..], 0),
        };
        &of[(range.start - before) as usize..(range.end - before) as usize]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_pending_byte_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        for page_size in [4096, 8192, 16384, 32768] {
            let pending = 0x4000_0000 / page_size + 1;
            let mut target =
                DatabaseFile::create(&dir.path().join(page_size.to_string()), page_size as usize, &[])
                    .unwrap();
            target.pages = pending - 3;
            assert_eq!(target.take(4).unwrap(), [pending - 2, pending - 1, pending + 1, pending + 2]);
            target.pages = PAGES_MAX - 2;
            assert_eq!(target.take(2).unwrap().last(), Some(&PAGES_MAX));
            assert!(matches!(target.take(1), Err(SqliteFileError::TooLarge { .. })));
        }
    }
}

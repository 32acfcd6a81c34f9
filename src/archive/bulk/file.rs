//! The target file page by page, and the spill file. The only place of the room that reads, writes and maps files.
//! Nothing is synced here.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use memmap2::Mmap;

use super::{Error, Result};
use crate::disk::{self, File, Operation};

/// The byte that SQLite locks; no page may hold it.
const PENDING_BYTE: u64 = 0x4000_0000;
/// SQLite's own limit, SQLITE_MAX_PAGE_COUNT.
const PAGES_MAX: u32 = 0xffff_fffe;

/// The database file while it grows. Pages are numbered from 1; page 1 is taken from the start.
#[derive(Debug)]
pub(super) struct Target {
    pub file: File,
    pub page_size: usize,
    /// How many pages the file has.
    pub pages: u32,
    /// Pages that were given back, the next to be used last.
    pub freed: Vec<u32>,
}

impl Target {
    pub fn create(path: &Path, page_size: u32) -> Result<Self> {
        let file = File::create_new(path)?;
        Ok(Self { file, page_size: page_size as usize, pages: 1, freed: Vec::new() })
    }

    /// Takes up to `most` pages in a row at the end of the file: the first, and how many. The page of the pending byte
    /// is stepped over.
    pub fn extend(&mut self, most: usize) -> Result<(u32, usize)> {
        let pending = (PENDING_BYTE / self.page_size as u64) as u32 + 1;
        let first = if self.pages + 1 == pending { pending + 1 } else { self.pages + 1 };
        let room = if first < pending { pending - first } else { PAGES_MAX.saturating_sub(first) };
        if room == 0 {
            return Err(Error::TooLarge { what: "the file in pages", limit: u64::from(PAGES_MAX) });
        }
        let count = most.min(room as usize);
        self.pages = first + count as u32 - 1;
        Ok((first, count))
    }

    /// Takes one page, one that was given back if there is any.
    pub fn allocate(&mut self) -> Result<u32> {
        match self.freed.pop() {
            Some(page) => Ok(page),
            None => Ok(self.extend(1)?.0),
        }
    }

    /// Writes whole pages from `page` on.
    pub fn write(&self, page: u32, bytes: &[u8]) -> Result<()> {
        let offset = u64::from(page - 1) * self.page_size as u64;
        Ok(self.file.write_all_at(bytes, offset)?)
    }

    /// Reads a page, or as much of its start as `bytes` holds.
    pub fn read(&self, page: u32, bytes: &mut [u8]) -> Result<()> {
        let offset = u64::from(page - 1) * self.page_size as u64;
        Ok(self.file.read_exact_at(bytes, offset)?)
    }

    /// Writes what a cell does not hold to overflow pages and returns the first.
    pub fn write_chain(&mut self, rest: &[u8]) -> Result<u32> {
        let parts: Vec<_> = rest.chunks(self.page_size - 4).collect();
        let pages = parts.iter().map(|_| self.allocate()).collect::<Result<Vec<_>>>()?;
        let mut image = vec![0; self.page_size];
        for (place, part) in parts.iter().enumerate() {
            let next = pages.get(place + 1).copied().unwrap_or_default();
            image[..4].copy_from_slice(&next.to_be_bytes());
            image[4..4 + part.len()].copy_from_slice(part);
            image[4 + part.len()..].fill(0);
            self.write(pages[place], &image)?;
        }
        Ok(pages[0])
    }

    /// Gives back a chain of overflow pages.
    pub fn free_chain(&mut self, first: u32) -> Result<()> {
        let mut page = first;
        while page != 0 {
            let mut next = [0; 4];
            self.read(page, &mut next)?;
            self.freed.push(page);
            page = u32::from_be_bytes(next);
        }
        Ok(())
    }

    /// Writes the pages that were given back and not used again as a freelist; its first trunk page, or 0.
    pub fn write_freelist(&mut self) -> Result<u32> {
        // The last six places of a trunk page stay unused, as in SQLite itself: old versions misread them.
        let leaves_max = self.page_size / 4 - 8;
        let mut trunk = 0;
        let mut freed = self.freed.clone();
        freed.sort_unstable();
        for pages in freed.chunks(leaves_max + 1) {
            let mut image = vec![0; self.page_size];
            let numbers = [trunk, pages.len() as u32 - 1].into_iter().chain(pages[1..].iter().copied());
            for (place, number) in image.chunks_exact_mut(4).zip(numbers) {
                place.copy_from_slice(&number.to_be_bytes());
            }
            trunk = pages[0];
            self.write(trunk, &image)?;
            for page in &pages[1..] {
                self.write(*page, &vec![0; self.page_size])?;
            }
        }
        Ok(trunk)
    }
}

/// Bytes beside the target that did not fit the budget. The file is made when first needed; where the system allows
/// it has no name, and elsewhere it goes when it is closed.
#[derive(Debug)]
pub(super) struct Spill {
    dir: PathBuf,
    written: Mutex<Option<(File, u64)>>,
}

impl Spill {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, written: Mutex::new(None) }
    }

    /// Appends bytes and returns where they are.
    pub fn append(&self, bytes: &[u8]) -> Result<u64> {
        let mut written = self.written.lock().map_err(|_| Error::Abandoned)?;
        let (file, end) = match &mut *written {
            Some(open) => open,
            none => none.insert((File::create_unnamed(&self.dir)?, 0)),
        };
        let offset = *end;
        file.write_all_at(bytes, offset)?;
        *end += bytes.len() as u64;
        Ok(offset)
    }

    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let written = self.written.lock().map_err(|_| Error::Abandoned)?;
        match &*written {
            Some((file, _)) => Ok(file.read_exact_at(bytes, offset)?),
            None => Ok(()),
        }
    }

    /// Maps everything that was appended, for when nothing will be any more; `None` when nothing was.
    pub fn into_map(self) -> Result<Option<Mmap>> {
        let written = self.written.into_inner().map_err(|_| Error::Abandoned)?;
        let Some((file, _)) = written else { return Ok(None) };
        // SAFETY: the file has no name or is opened by nobody else, and is closed here: nothing can write or shorten it
        // while it is mapped.
        let map = unsafe { Mmap::map(file.as_std()) };
        let failed = |reason| disk::Error::Io { operation: Operation::Map, path: self.dir, reason };
        Ok(Some(map.map_err(failed)?))
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
            for before in 1..5 {
                let path = dir.path().join(format!("{page_size}-{before}"));
                let mut target = Target::create(&path, page_size).unwrap();
                target.pages = pending - before;
                let (first, count) = target.extend(3).unwrap();
                let expected =
                    if before == 1 { (pending + 1, 3) } else { (pending - before + 1, before - 1) };
                assert_eq!((first, count as u32), expected.min((first, 3)));
                assert!(!(first..first + count as u32).contains(&pending));
                assert_ne!(target.allocate().unwrap(), pending);
            }
        }
    }
}

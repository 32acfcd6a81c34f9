//! What a build is asked: files, threads, loader. Looks at the archive's name, to find its lock, and touches nothing else.
//! Promises: one archive has one lock, by whichever of its names it is built.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::archive::publish::PAGE_SIZE;
use crate::disk;
use crate::home::{Home, LockName};
use crate::scan::Io;

/// The files of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The ledger, which is only read.
    pub ledger: PathBuf,
    /// The archive.
    pub archive: PathBuf,
    /// The lock file that keeps other builds away.
    pub lock: PathBuf,
}

impl Paths {
    /// Ledger, archive and lock of a home.
    pub fn of_home(home: &Home) -> Self {
        Self { ledger: home.ledger(), archive: home.archive(), lock: home.lock(LockName::Archive) }
    }

    /// A ledger and an archive outside any home. The lock is `<archive>.lock`; where the archive is a symbolic link, beside
    /// the file that it leads to, so that all names of one archive have one lock.
    pub fn offline(ledger: PathBuf, archive: PathBuf) -> Self {
        let is_link = std::fs::symlink_metadata(&archive).is_ok_and(|found| found.is_symlink());
        let target = if is_link { std::fs::canonicalize(&archive).ok() } else { None };
        let lock = disk::with_suffix(target.as_ref().unwrap_or(&archive), ".lock");
        Self { ledger, archive, lock }
    }
}

/// How to build; take what you do not set from `Options::default()`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads; 0 takes one for each core.
    pub threads: usize,
    /// About how many bytes of the ledger a worker takes at a time, at least 1.
    pub chunk_bytes: u64,
    /// How the ledger's bytes are reached.
    pub io: Io,
    /// Whether a malformed or rejected line is an error.
    pub strict: bool,
    /// Whether a full rebuild may take the place of a file that is no SQLite database. The file is renamed, never deleted.
    pub force: bool,
    /// What writes the rows of a rebuild. A tail inserts, unless it
    /// is rebuilt.
    pub loader: Loader,
    /// About how many bytes the bulk loader may keep in memory before it spills into files beside the archive.
    pub memory_bytes: usize,
    /// Page size of a rebuilt archive in bytes, a power of two from 4096 to 32768. One that has to keep its file, because others
    /// have it open, may keep its page size, too.
    pub page_size_bytes: u32,
    /// Whether a rebuilt archive is checked (`PRAGMA quick_check`) before it is published.
    pub verify: bool,
    /// The time written into the archive's clock columns; `None` takes the system's.
    pub now: Option<SystemTime>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 0,
            chunk_bytes: 1 << 20,
            io: Io::Mmap,
            strict: false,
            force: false,
            loader: Loader::default(),
            memory_bytes: 512 << 20,
            page_size_bytes: PAGE_SIZE,
            verify: true,
            now: None,
        }
    }
}

/// What writes the rows of a full rebuild. Both give the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loader {
    /// The database file is built bottom-up: encoded rows into table pages, sorted keys into index pages.
    #[default]
    Bulk,
    /// Through SQLite: many rows a statement, indexes last.
    Insert,
}

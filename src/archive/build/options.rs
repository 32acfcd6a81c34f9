//! Options of a build: files, threads, loader.
//!
//! Touches: reads links of the archive's path to find the lock; creates and deletes the lock files. Guarantees: two
//! builds of an archive exclude each other, whichever of its names they use.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::archive::error::ArchiveError;
use crate::disk;
use crate::home::{Home, LockName};
use crate::interrupt::Interrupt;
use crate::lock::{Held, with_lock_unless};
use crate::publish::PAGE_SIZE;
use crate::scan::Io;

/// The files of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The ledger, which is only read.
    pub ledger: PathBuf,
    /// The archive.
    pub archive: PathBuf,
    /// The lock file that excludes other builds.
    pub lock: PathBuf,
}

impl Paths {
    /// Returns ledger, archive and lock of a home.
    pub fn of_home(home: &Home) -> Self {
        Self { ledger: home.ledger(), archive: home.archive(), lock: home.lock(LockName::Archive) }
    }

    /// Returns the paths of a given ledger and archive. The lock is beside the archive after resolving links, so that
    /// all names of an archive have the same lock: `archive.lock` for `archive.sqlite`, which may be the archive of a
    /// home, otherwise `<archive>.lock`.
    pub fn offline(ledger: PathBuf, archive: PathBuf) -> Self {
        let is_link = std::fs::symlink_metadata(&archive).is_ok_and(|found| found.is_symlink());
        let target = if is_link { std::fs::canonicalize(&archive).ok() } else { None };
        let named = target.as_ref().unwrap_or(&archive);
        let homely = Home::at(disk::parent_of(named));
        let lock = match named.file_name() {
            name if name == homely.archive().file_name() => {
                named.with_file_name(homely.lock(LockName::Archive).file_name().unwrap_or_default())
            }
            _ => disk::with_suffix(named, ".lock"),
        };
        Self { ledger, archive, lock }
    }

    /// Runs `work` under two locks: the lock of these paths, and the lock beside the file that the archive's path
    /// leads to. A build that is given the file's own path takes only the second.
    pub(in crate::archive) fn locked<T>(
        &self,
        interrupt: &Interrupt,
        work: impl FnOnce(&Held) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        let beside = Self::offline(self.ledger.clone(), self.archive.clone()).lock;
        with_lock_unless(&self.lock, interrupt, |held| with_lock_unless(&beside, interrupt, |_| work(held)))
    }
}

/// How to build. Take the remaining fields from `Options::default()`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads; 0 means one for each core.
    pub threads: usize,
    /// Approximate number of ledger bytes that a worker parses at a time, at least 1.
    pub chunk_bytes: u64,
    /// How the ledger's bytes are read.
    pub io: Io,
    /// Whether a malformed or rejected line is an error.
    pub strict: bool,
    /// Whether a full rebuild may replace a file that is not an SQLite database. The file is renamed, never deleted.
    pub force: bool,
    /// What writes the rows of a rebuild. A tail build inserts, unless it restarts as a rebuild.
    pub load: Load,
    /// The bulk loader keeps a sixteenth of this many bytes in memory before it spills rows to an unnamed file beside the
    /// archive. Another sixteenth is for sessions.
    pub memory_bytes: usize,
    /// Page size of a rebuilt archive in bytes, a power of two from 4096 to 32768. An archive whose file has to stay,
    /// because other processes have it open, may keep its old page size.
    pub page_size_bytes: u32,
    /// Whether a rebuilt archive is checked (`PRAGMA quick_check`) before it is published.
    pub verify: bool,
    /// The time written into the archive's time columns; `None` means the system's time.
    pub now: Option<SystemTime>,
    /// When requested, ends the build with [`ArchiveError::Interrupted`](crate::archive::ArchiveError::Interrupted),
    /// also while the build waits for its lock.
    pub interrupt: Interrupt,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 0,
            chunk_bytes: 1 << 20,
            io: Io::default(),
            strict: false,
            force: false,
            load: Load::default(),
            memory_bytes: 512 << 20,
            page_size_bytes: PAGE_SIZE,
            verify: true,
            now: None,
            interrupt: Interrupt::new(),
        }
    }
}

/// What writes the rows of a full rebuild. Both variants give the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Load {
    /// The database file is built bottom-up: encoded rows into table pages, sorted keys into index pages.
    #[default]
    Bulk,
    /// Through SQLite: many rows a statement, indexes last.
    Insert,
}

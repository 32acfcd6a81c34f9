//! What a build is asked: files, threads, loader. Looks at the archive's name, to find its lock, and touches nothing else.
//! Promises: one archive has one lock, by whichever of its names it is built.

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
    /// The lock file that keeps other builds away.
    pub lock: PathBuf,
}

impl Paths {
    /// Ledger, archive and lock of a home.
    pub fn of_home(home: &Home) -> Self {
        Self { ledger: home.ledger(), archive: home.archive(), lock: home.lock(LockName::Archive) }
    }

    /// A ledger and an archive named by their paths. The lock is beside the archive, links resolved, so that all names of one
    /// archive have one lock: `archive.lock` for `archive.sqlite`, which may be a home's, else `<archive>.lock`.
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

    /// Runs `work` under the lock, and under the lock beside the file that the archive is a link to, which a build that names that
    /// file takes.
    pub(in crate::archive) fn locked<T>(
        &self,
        interrupt: &Interrupt,
        work: impl FnOnce(&Held) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        let beside = Self::offline(self.ledger.clone(), self.archive.clone()).lock;
        with_lock_unless(&self.lock, interrupt, |held| with_lock_unless(&beside, interrupt, |_| work(held)))
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
    pub load: Load,
    /// About how many bytes the bulk loader may keep in memory before it spills into files beside the archive.
    pub memory_bytes: usize,
    /// Page size of a rebuilt archive in bytes, a power of two from 4096 to 32768. One that has to keep its file, because others
    /// have it open, may keep its page size, too.
    pub page_size_bytes: u32,
    /// Whether a rebuilt archive is checked (`PRAGMA quick_check`) before it is published.
    pub verify: bool,
    /// The time written into the archive's clock columns; `None` takes the system's.
    pub now: Option<SystemTime>,
    /// Requested, it ends the build with [`ArchiveError::Interrupted`](crate::archive::ArchiveError::Interrupted), also while the
    /// build waits for its lock.
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

/// What writes the rows of a full rebuild. Both give the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Load {
    /// The database file is built bottom-up: encoded rows into table pages, sorted keys into index pages.
    #[default]
    Bulk,
    /// Through SQLite: many rows a statement, indexes last.
    Insert,
}

//! The journal's directory: the names of its files, the writer's lock, and the small files: mark, skips, identity, cursors.
//!
//! May touch: the journal's directory. Guarantees: the lock file is never followed through a symbolic link; small files are
//! replaced whole; a damaged one is an error, except for the mark, which then counts as absent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{JournalError, Result};
use super::format::{FileKind, HeaderFlaw, Skips, decode_identity, encode_identity};
use crate::disk;

/// How long a writer that waits for the lock sleeps between two attempts: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_micros(200);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// The most that is read of a small file, in bytes: SKIPS with a million ranges has less.
const SMALL_BYTES: u64 = 64 << 20;

/// The directory of a journal.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn segment(&self, base: u64) -> PathBuf {
        self.root.join(segment_name(base))
    }

    pub(super) fn cursors(&self) -> PathBuf {
        self.root.join("cursors")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.root.join("SYNCED")
    }

    pub(super) fn skips(&self) -> PathBuf {
        self.root.join("SKIPS")
    }

    fn identity(&self) -> PathBuf {
        self.root.join("IDENTITY")
    }

    /// The names of all files in the directory.
    pub(super) fn names(&self) -> Result<Vec<OsString>, disk::Error> {
        names(&self.root)
    }

    /// Takes the writer's lock, trying again until `timeout` has passed.
    pub(super) fn lock(&self, timeout: Duration) -> Result<disk::KernelLock> {
        let mut lock = disk::KernelLock::open(&self.root.join("LOCK"))?;
        let deadline = Instant::now().checked_add(timeout);
        let mut wait = FIRST_WAIT;
        loop {
            if lock.try_lock()? {
                return Ok(lock);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(JournalError::Locked { path: lock.path().to_owned() });
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Deletes temporary files of replacements that were killed half-way. Only for the holder of the lock.
    pub(super) fn remove_temporary_files(&self) -> Result<()> {
        for name in self.names()? {
            let is_ours = name.to_str().is_some_and(|name| {
                name.ends_with(".tmp")
                    && ["SYNCED.", "SKIPS.", "IDENTITY."].iter().any(|ours| name.starts_with(ours))
            });
            if is_ours {
                disk::remove_file_if_exists(&self.root.join(name))?;
            }
        }
        Ok(())
    }

    /// The synced mark. A missing or damaged mark is none, because without one recovery only checks more.
    pub(super) fn read_mark(&self) -> Result<Option<u64>> {
        let path = self.mark();
        match read_small(&path)?.map(|bytes| FileKind::SyncedMark.decode(&bytes)) {
            Some(Ok(offset)) => Ok(Some(offset)),
            Some(Err(HeaderFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(HeaderFlaw::Damaged)) | None => Ok(None),
        }
    }

    pub(super) fn write_mark(&self, offset: u64, durable: bool) -> Result<(), disk::Error> {
        disk::replace(&self.mark(), &FileKind::SyncedMark.encode(offset), durable)
    }

    pub(super) fn read_skips(&self) -> Result<Skips> {
        let path = self.skips();
        match read_small(&path)?.map(|bytes| Skips::decode(&bytes)) {
            None => Ok(Skips::default()),
            Some(Ok(skips)) => Ok(skips),
            Some(Err(HeaderFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(HeaderFlaw::Damaged)) => Err(JournalError::Damaged {
                path,
                reason: "it fails its checksum",
                remedy: "restore it from a copy, or let `burn journal recover DIR --skip-corrupt` set it aside and find the \
                         damaged ranges again",
            }),
        }
    }

    /// The journal's identity; none in a journal that no program with identities has written to.
    pub(super) fn read_identity(&self) -> Result<Option<u128>> {
        let path = self.identity();
        match read_small(&path)?.map(|bytes| decode_identity(&bytes)) {
            None => Ok(None),
            Some(Ok(identity)) => Ok(Some(identity)),
            Some(Err(HeaderFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(HeaderFlaw::Damaged)) => Err(JournalError::Damaged {
                path,
                reason: "it fails its checksum",
                remedy: "restore it from a copy, or delete it: the journal then gets a new identity, and each store that was \
                         filled from it must be moved away and filled again",
            }),
        }
    }

    /// Gives the journal a new identity, durably.
    pub(super) fn write_identity(&self) -> Result<u128, disk::Error> {
        let identity = uuid::Uuid::new_v4().as_u128();
        disk::replace(&self.identity(), &encode_identity(identity), true)?;
        Ok(identity)
    }

    /// Begins a journal at its first offset. It gets a new identity, and the note of delivered lines is set aside, because that note
    /// is about the offsets of an earlier journal in this directory.
    pub(super) fn begin(&self) -> Result<(), disk::Error> {
        let delivered = self.root.join("DELIVERED");
        match disk::metadata(&delivered) {
            Err(error) if error.is_not_found() => {}
            found => {
                found?;
                disk::set_aside(&delivered, ".set-aside")?;
            }
        }
        self.write_identity()?;
        Ok(())
    }

    pub(super) fn write_skips(&self, skips: &Skips) -> Result<(), disk::Error> {
        disk::replace(&self.skips(), &skips.encode(), true)
    }

    /// The names of all cursors, without what a replacement that was killed half-way left.
    pub(super) fn cursor_names(&self) -> Result<Vec<String>> {
        let listed = match names(&self.cursors()) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            listed => listed?,
        };
        let names = listed.into_iter().filter_map(|name| name.into_string().ok());
        Ok(names.filter(|name| !name.ends_with(".tmp")).collect())
    }

    /// The offset of a cursor; none when there is no such cursor.
    pub(super) fn read_cursor(&self, name: &str) -> Result<Option<u64>> {
        let path = self.cursors().join(name);
        match read_small(&path)?.map(|bytes| FileKind::Cursor.decode(&bytes)) {
            None => Ok(None),
            Some(Ok(offset)) => Ok(Some(offset)),
            Some(Err(HeaderFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(HeaderFlaw::Damaged)) => Err(JournalError::Damaged {
                path,
                reason: "it fails its checksum",
                remedy: "restore it from a copy, or delete it: its consumer then begins at the first record",
            }),
        }
    }

    /// The offset that the furthest consumer has reached, by the cursors that can be read: the journal once extended at least
    /// so far.
    pub(super) fn furthest_cursor(&self) -> Result<Option<u64>> {
        let mut furthest = None;
        for name in self.cursor_names()? {
            match self.read_cursor(&name) {
                Err(JournalError::Damaged { .. } | JournalError::Unsupported { .. }) => {}
                offset => furthest = furthest.max(offset?),
            }
        }
        Ok(furthest)
    }
}

/// The name of the segment file with this base.
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:016x}.wal")
}

/// The content of a small file, or `None` when there is none.
pub(super) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, JournalError> {
    let file = match disk::File::open_read(path) {
        Err(error) if error.is_not_found() => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; file.len_bytes()?.min(SMALL_BYTES) as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// The names in a directory.
pub(super) fn names(directory: &Path) -> Result<Vec<OsString>, disk::Error> {
    let paths = disk::list(directory)?;
    Ok(paths.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
}

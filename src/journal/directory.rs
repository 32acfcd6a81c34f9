//! The journal's directory: the names of its files, the writer's lock, and the small files: mark, skips, identity, cursors.
//!
//! May touch: the journal's directory. Guarantees: the lock file is never followed through a symbolic link; small files are
//! replaced whole; a damaged one is an error, except for the mark, which then counts as absent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{JournalError, Result};
use super::format::{FileKind, HeaderFlaw, Skips, decode_identity, encode_identity};
use crate::disk::{self, Replacing};
use crate::store::{self, SetAside};

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

    /// Returns the names of all files in the directory.
    pub(super) fn names(&self) -> Result<Vec<OsString>, disk::Error> {
        names(&self.root)
    }

    /// Takes the writer's lock, trying again until `timeout` has passed.
    pub(super) fn lock(&self, timeout: Duration) -> Result<disk::KernelLock> {
        let path = self.root.join("LOCK");
        store::lock(&path, timeout)?.ok_or(JournalError::Locked { path })
    }

    /// Takes the writer's lock and creates nothing. Without a lock file no writer has the journal open.
    pub(super) fn lock_if_there(&self) -> Result<Option<disk::KernelLock>> {
        let is_there = disk::if_there(disk::metadata(&self.root.join("LOCK")))?.is_some();
        is_there.then(|| self.lock(Duration::ZERO)).transpose()
    }

    /// Returns the synced mark. A missing or damaged mark is none, because without one recovery only checks more.
    pub(super) fn read_mark(&self) -> Result<Option<u64>> {
        match self.read_sound_mark() {
            Err(JournalError::Damaged { .. }) => Ok(None),
            mark => mark,
        }
    }

    /// Returns the synced mark, and a damaged one as an error.
    pub(super) fn read_sound_mark(&self) -> Result<Option<u64>> {
        let remedy = "it counts as missing, so opening checks every record; the next writer that closes the journal replaces it";
        read_with(self.mark(), |bytes| FileKind::SyncedMark.decode(bytes), || remedy.to_owned())
    }

    pub(super) fn write_mark(&self, offset: u64, replacing: Replacing) -> Result<(), disk::Error> {
        disk::replace(&self.mark(), &FileKind::SyncedMark.encode(offset), replacing)
    }

    pub(super) fn read_skips(&self) -> Result<Skips> {
        let remedy = || {
            let directory = disk::in_shell(&self.root);
            format!(
                "restore it from a copy, or let `burn journal recover {directory} --skip-corrupt` set it aside and find the \
                 damaged ranges again"
            )
        };
        Ok(read_with(self.skips(), Skips::decode, remedy)?.unwrap_or_default())
    }

    /// Returns the journal's identity; none in a journal that no program with identities has written to.
    pub(super) fn read_identity(&self) -> Result<Option<u128>> {
        let remedy = "restore it from a copy, or delete it: the journal then gets a new identity, and each store that was \
                      filled from it must be moved away and filled again";
        read_with(self.identity(), decode_identity, || remedy.to_owned())
    }

    /// Gives the journal a new identity, durably.
    pub(super) fn write_identity(&self) -> Result<u128, disk::Error> {
        let identity = uuid::Uuid::new_v4().as_u128();
        disk::replace(&self.identity(), &encode_identity(identity), Replacing::Durable)?;
        Ok(identity)
    }

    /// Begins a journal at its first offset. It gets a new identity, and the note of delivered lines is set aside, because that note
    /// is about the offsets of an earlier journal in this directory.
    pub(super) fn begin(&self) -> Result<Option<SetAside>, disk::Error> {
        store::sync_name_of(&self.root)?;
        let delivered = self.root.join("DELIVERED");
        let is_there = disk::if_there(disk::metadata(&delivered))?.is_some();
        let set_aside = is_there.then(|| SetAside::rename(&delivered, ".set-aside")).transpose()?;
        self.write_identity()?;
        Ok(set_aside)
    }

    pub(super) fn write_skips(&self, skips: &Skips) -> Result<(), disk::Error> {
        disk::replace(&self.skips(), &skips.encode(), Replacing::Durable)
    }

    /// Returns the names of all cursors, without what a replacement that was killed half-way left.
    pub(super) fn cursor_names(&self) -> Result<Vec<String>> {
        let listed = disk::if_there(names(&self.cursors()))?.unwrap_or_default();
        let names = listed.into_iter().filter_map(|name| name.into_string().ok());
        Ok(names.filter(|name| !name.ends_with(".tmp")).collect())
    }

    /// Returns the offset of a cursor; none when there is no such cursor.
    pub(super) fn read_cursor(&self, name: &str) -> Result<Option<u64>> {
        let remedy = "restore it from a copy, or delete it: its consumer then begins at the first record";
        read_with(self.cursors().join(name), |bytes| FileKind::Cursor.decode(bytes), || remedy.to_owned())
    }

    /// Returns the offset that the furthest consumer has reached, by the cursors that can be read: the journal once extended at least
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

/// Returns the name of the segment file with this base.
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:016x}.wal")
}

/// Returns the content of a small file, or `None` when there is none.
pub(super) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, JournalError> {
    let Some(file) = disk::if_there(disk::File::open_read(path))? else { return Ok(None) };
    let mut bytes = vec![0; file.len_bytes()?.min(SMALL_BYTES) as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Decodes a small file; `None` when there is none. `remedy` is what to do about a damaged one.
fn read_with<T>(
    path: PathBuf,
    decode: impl FnOnce(&[u8]) -> Result<T, HeaderFlaw>,
    remedy: impl FnOnce() -> String,
) -> Result<Option<T>> {
    match read_small(&path)?.map(|bytes| decode(&bytes)).transpose() {
        Ok(decoded) => Ok(decoded),
        Err(HeaderFlaw::Unsupported { version, flags }) => {
            Err(JournalError::Unsupported { path, version, flags })
        }
        Err(HeaderFlaw::Damaged) => {
            let reason = "it is too short, is another kind of file, or fails its checksum";
            Err(JournalError::Damaged { path, reason, remedy: remedy() })
        }
    }
}

/// Returns the names in a directory.
pub(super) fn names(directory: &Path) -> Result<Vec<OsString>, disk::Error> {
    let paths = disk::list(directory)?;
    Ok(paths.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
}

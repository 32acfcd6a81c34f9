//! The journal's directory: names of its files, the list of segments, the writer's lock, mark and skips.
//!
//! May touch: the journal's directory only, and files that segments there are symbolic links to. Promises: the lock file is
//! never followed through a symbolic link; identity, mark and skips are replaced whole; a file that is damaged is named or,
//! for the mark, treated as absent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::JournalError;
use super::format::{
    HEADER_LEN_BYTES, MAX_OFFSET, Skips, Stamp, StampFlaw, decode_identity, encode_identity,
};
use crate::disk;

/// How long a writer that waits for the lock sleeps between two tries: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_micros(200);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// What is read of a small file, at most: more than SKIPS with a million ranges has.
const SMALL_BYTES: u64 = 64 << 20;

/// The directory of a journal.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

/// A segment file as it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) base: u64,
    pub(super) len_bytes: u64,
}

impl SegmentFile {
    /// The offset behind the last byte of this file.
    pub(super) fn end(&self) -> u64 {
        self.base.saturating_add(self.len_bytes.saturating_sub(HEADER_LEN_BYTES))
    }

    /// Byte offset in the file of a global offset that lies in it.
    pub(super) fn position(&self, offset: u64) -> u64 {
        offset - self.base + HEADER_LEN_BYTES
    }
}

impl Directory {
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn segment(&self, base: u64) -> PathBuf {
        self.root.join(format!("{base:016x}.wal"))
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

    /// Takes the writer's lock, trying again until `timeout` has passed.
    pub(super) fn lock(&self, timeout: Duration) -> Result<disk::KernelLock, JournalError> {
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

    /// The segments by ascending base, with their lengths. Other names in the directory are left alone.
    pub(super) fn segments(&self) -> Result<Vec<SegmentFile>, JournalError> {
        let mut segments = Vec::new();
        for name in names(&self.root)? {
            let Some(base) = segment_base(&name) else { continue };
            let path = self.segment(base);
            match disk::metadata_of_target(&path) {
                // Opening anything else could wait for ever.
                Ok(metadata) if !metadata.is_file => return Err(JournalError::NotAFile { path }),
                Ok(metadata) => segments.push(SegmentFile { base, len_bytes: metadata.len_bytes }),
                // Cleaned up since the directory was read.
                Err(error) if error.is_not_found() => match disk::metadata(&path) {
                    Err(error) if error.is_not_found() => {}
                    // A symbolic link to nothing.
                    found => return Err(found.err().unwrap_or(error).into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
        segments.sort_unstable_by_key(|segment| segment.base);
        Ok(segments)
    }

    /// Deletes what replacements left behind that were killed half-way. Only for the holder of the lock.
    pub(super) fn remove_temporary_files(&self) -> Result<(), JournalError> {
        for name in names(&self.root)? {
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

    /// The synced mark; none when it is missing or damaged, which only costs a longer check.
    pub(super) fn read_mark(&self) -> Result<Option<u64>, JournalError> {
        let path = self.mark();
        match read_small(&path)?.map(|bytes| Stamp::Synced.decode(&bytes)) {
            Some(Ok(offset)) => Ok(Some(offset)),
            Some(Err(StampFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(StampFlaw::Damaged)) | None => Ok(None),
        }
    }

    pub(super) fn write_mark(&self, offset: u64, durable: bool) -> Result<(), disk::Error> {
        disk::replace(&self.mark(), &Stamp::Synced.encode(offset), durable)
    }

    pub(super) fn read_skips(&self) -> Result<Skips, JournalError> {
        let path = self.skips();
        match read_small(&path)?.map(|bytes| Skips::decode(&bytes)) {
            None => Ok(Skips::default()),
            Some(Ok(skips)) => Ok(skips),
            Some(Err(StampFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(StampFlaw::Damaged)) => Err(JournalError::Damaged {
                path,
                reason: "it fails its checksum",
                remedy: "restore it from a copy, or let `burn journal recover DIR --skip-corrupt` set it aside and find the \
                         damaged ranges again",
            }),
        }
    }

    /// The journal's identity; none in a journal that no program with identities has written to.
    pub(super) fn read_identity(&self) -> Result<Option<u128>, JournalError> {
        let path = self.identity();
        match read_small(&path)?.map(|bytes| decode_identity(&bytes)) {
            None => Ok(None),
            Some(Ok(identity)) => Ok(Some(identity)),
            Some(Err(StampFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(StampFlaw::Damaged)) => Err(JournalError::Damaged {
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

    /// Begins a journal at its first offset: with a new identity, and without the note of which lines an earlier journal in this
    /// directory had delivered, because the offsets in it begin again.
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
    pub(super) fn cursor_names(&self) -> Result<Vec<String>, JournalError> {
        let listed = match names(&self.cursors()) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            listed => listed?,
        };
        let names = listed.into_iter().filter_map(|name| name.into_string().ok());
        Ok(names.filter(|name| !name.ends_with(".tmp")).collect())
    }

    /// The offset of a cursor; none when there is no such cursor.
    pub(super) fn read_cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        let path = self.cursors().join(name);
        match read_small(&path)?.map(|bytes| Stamp::Cursor.decode(&bytes)) {
            None => Ok(None),
            Some(Ok(offset)) => Ok(Some(offset)),
            Some(Err(StampFlaw::Unsupported { version, flags })) => {
                Err(JournalError::Unsupported { path, version, flags })
            }
            Some(Err(StampFlaw::Damaged)) => Err(JournalError::Damaged {
                path,
                reason: "it fails its checksum",
                remedy: "restore it from a copy, or delete it: its consumer then begins at the first record",
            }),
        }
    }

    /// The offset that the furthest consumer has reached, by the cursors that can be read: the journal once extended at least
    /// so far.
    pub(super) fn furthest_cursor(&self) -> Result<Option<u64>, JournalError> {
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

/// The identity of the journal in `directory`, which tells it from every other one and from one that was removed and begun
/// again under the same name. A journal of an earlier program gets its identity here, unless a writer has it open.
///
/// # Errors
/// [`JournalError::Damaged`], [`JournalError::Unsupported`]; file operations that fail.
pub fn identity(directory: &Path) -> Result<Option<u128>, JournalError> {
    let directory = Directory::at(directory);
    if let Some(identity) = directory.read_identity()? {
        return Ok(Some(identity));
    }
    if directory.segments()?.is_empty() {
        return Ok(None);
    }
    match directory.lock(Duration::ZERO) {
        Err(JournalError::Locked { .. }) => directory.read_identity(),
        lock => {
            let _lock = lock?;
            match directory.read_identity()? {
                Some(identity) => Ok(Some(identity)),
                None => Ok(Some(directory.write_identity()?)),
            }
        }
    }
}

/// The base in a segment's name; `None` for any other name.
fn segment_base(name: &std::ffi::OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".wal")?;
    let is_canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let base = is_canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()?;
    (base <= MAX_OFFSET).then_some(base)
}

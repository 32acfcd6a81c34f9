//! The journal's directory: names of its files, the list of segments, the writer's lock, mark and skips.
//!
//! May touch: the journal's directory only. Promises: the lock file is never followed through a symbolic link; mark and
//! skips are replaced whole; a file that is damaged is named or, for the mark, treated as absent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::JournalError;
use super::format::{HEADER_LEN_BYTES, Skips, Stamp, StampFlaw};
use crate::disk;

/// How long a writer that waits for the lock sleeps between two tries: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_micros(200);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

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
        HEADER_LEN_BYTES + offset - self.base
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
            match disk::metadata(&self.segment(base)) {
                Ok(metadata) => segments.push(SegmentFile { base, len_bytes: metadata.len_bytes }),
                // Cleaned up since the directory was read.
                Err(error) if error.is_not_found() => {}
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
                name.ends_with(".tmp") && (name.starts_with("SYNCED.") || name.starts_with("SKIPS."))
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

    pub(super) fn write_skips(&self, skips: &Skips) -> Result<(), disk::Error> {
        disk::replace(&self.skips(), &skips.encode(), true)
    }
}

/// The content of a small file, or `None` when there is none.
pub(super) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, JournalError> {
    let file = match disk::File::open_read(path) {
        Err(error) if error.is_not_found() => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; usize::try_from(file.len_bytes()?).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// The names in a directory.
pub(super) fn names(directory: &Path) -> Result<Vec<OsString>, disk::Error> {
    let paths = disk::list(directory)?;
    Ok(paths.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
}

/// The base in a segment's name; `None` for any other name.
fn segment_base(name: &std::ffi::OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".wal")?;
    let is_canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

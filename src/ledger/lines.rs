//! Appends to a file of lines: the ledger, its index files, content sidecars.
//!
//! The caller holds the file's lock. Guarantees: appended lines stay whole lines. An append first ends the unfinished line
//! of an earlier writer. After a write that fails part-way, the half line is cut off, unless other bytes follow it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::LedgerError;
use crate::disk::{self, File};

/// Files that still have lines whose sync failed, each with the reason. A later sync of such a file proves nothing, because
/// the system may have dropped the unsynced bytes.
static UNSYNCED: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());

fn unsynced() -> MutexGuard<'static, BTreeMap<PathBuf, String>> {
    UNSYNCED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open file of lines, and the end of the file as this handle knows the end.
#[derive(Debug)]
pub(super) struct LineFile {
    file: File,
    len_bytes: u64,
    /// Whether the last line lacks its LF.
    is_torn: bool,
}

/// The end of a file of lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileEnd {
    len_bytes: u64,
    is_torn: bool,
}

/// A write that ended early.
#[derive(Debug)]
pub(super) struct Short {
    /// How many of the lines are in the file as whole lines.
    pub landed: usize,
    pub source: disk::Error,
}

impl LineFile {
    /// Opens `path`, and creates the file when the file is missing.
    pub(super) fn open(path: &Path) -> Result<Self, disk::Error> {
        let (file, _) = File::open_append(path)?;
        let len_bytes = file.len_bytes()?;
        let mut last = [b'\n'];
        if len_bytes > 0 {
            file.read_exact_at(&mut last, len_bytes - 1)?;
        }
        Ok(Self { file, len_bytes, is_torn: last != [b'\n'] })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The length in bytes, including what this handle appended.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether the last line lacks its LF.
    pub(super) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Appends `lines`, each with its LF, in one write. If the last line of the file lacks its LF, the write starts
    /// with an LF.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Short> {
        let bytes: Cow<'_, [u8]> =
            if self.is_torn { [b"\n", lines].concat().into() } else { Cow::Borrowed(lines) };
        match self.file.write_all(&bytes) {
            Ok(()) => {
                self.len_bytes += bytes.len() as u64;
                self.is_torn = false;
                Ok(())
            }
            Err(source) => {
                let kept = self.cut_half_line(&bytes);
                let healing = usize::from(self.is_torn).min(kept);
                Err(Short { landed: memchr::memchr_iter(b'\n', &bytes[healing..kept]).count(), source })
            }
        }
    }

    /// After a failed write of `bytes`: cuts the landed bytes back to whole lines and returns the number of landed
    /// bytes in whole lines. Bytes that cannot be read back count as not landed; such bytes stay in the file, and the
    /// next append ends their line.
    fn cut_half_line(&mut self, bytes: &[u8]) -> usize {
        let Ok(end) = self.file.len_bytes() else { return 0 };
        let grown = end.saturating_sub(self.len_bytes);
        let mut found = vec![0; bytes.len().min(grown as usize)];
        if self.file.read_exact_at(&mut found, self.len_bytes).is_err() {
            return 0;
        }
        let ours = found.iter().zip(bytes).take_while(|(found, written)| found == written).count();
        let whole = memchr::memrchr(b'\n', &bytes[..ours]).map_or(0, |at| at + 1);
        if ours as u64 == grown && whole < ours {
            // When the cut fails too, the half line stays unfinished at the end, where every reader skips the line.
            let _ = self.file.set_len(self.len_bytes + whole as u64);
        }
        self.len_bytes += whole as u64;
        whole
    }

    /// Returns the end of the file.
    pub(super) fn end(&self) -> FileEnd {
        FileEnd { len_bytes: self.len_bytes, is_torn: self.is_torn }
    }

    /// Cuts off the bytes that this handle appended since the file ended at `before`. Returns whether the bytes were
    /// cut off: bytes of another writer after the appended bytes prevent the cut.
    pub(super) fn cut_back(&mut self, before: FileEnd) -> bool {
        let is_ours = self.file.len_bytes().is_ok_and(|len_bytes| len_bytes == self.len_bytes);
        if !is_ours || self.file.set_len(before.len_bytes).is_err() {
            return false;
        }
        (self.len_bytes, self.is_torn) = (before.len_bytes, before.is_torn);
        true
    }

    /// Makes [`LineFile::can_be_synced`] refuse this file from now on in this process, because of `error`.
    pub(super) fn never_sync_again(&self, error: &disk::Error) {
        unsynced().insert(self.file.path().to_owned(), error.to_string());
    }

    /// Returns an error when a sync of this file failed in this process and left lines in the file.
    pub(super) fn can_be_synced(&self) -> Result<(), LedgerError> {
        let path = self.file.path();
        match unsynced().get(path) {
            None => Ok(()),
            Some(reason) => Err(LedgerError::SyncFailed { path: path.to_owned(), reason: reason.clone() }),
        }
    }

    /// Waits until the content is on stable storage. The caller syncs the file's name.
    pub(super) fn sync(&self) -> Result<(), disk::Error> {
        self.file.sync_all()
    }
}

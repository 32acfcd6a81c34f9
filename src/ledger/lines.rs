//! A file of lines that is appended to: the ledger, its index files, content sidecars.
//!
//! The caller holds the file's lock. This file promises that the file keeps to whole lines: what an earlier writer left
//! unfinished is ended first, and of a write that fails part-way the half line is cut off, unless something stands
//! behind it.

use std::borrow::Cow;
use std::path::Path;

use crate::disk::{self, File};

/// An open file of lines, and where it ended when it was opened.
#[derive(Debug)]
pub(super) struct LineFile {
    file: File,
    len_bytes: u64,
    /// Whether its last line lacks its LF.
    is_torn: bool,
}

/// A write that ended early.
#[derive(Debug)]
pub(super) struct Short {
    /// How many of the lines stand in the file, whole.
    pub landed: usize,
    pub source: disk::Error,
}

impl LineFile {
    /// Opens `path`, creating it when it is missing.
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

    /// Its length in bytes, what this handle appended included.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether its last line lacks its LF.
    pub(super) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Appends `lines`, each with its LF, in one write; behind an LF of its own where the last line lacks one.
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

    /// After a failed write of `bytes`: cuts what landed of them back to whole lines and says how much that is, in bytes.
    /// What cannot be read back counts as not landed; it stays, and the next append ends its line.
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
            // When this fails too, the half line stays unfinished at the end, where no reader uses it.
            let _ = self.file.set_len(self.len_bytes + whole as u64);
        }
        self.len_bytes += whole as u64;
        whole
    }

    /// Waits until content and name are on stable storage. The name also of a file that was there: who made it may not have
    /// waited.
    pub(super) fn sync(&self) -> Result<(), disk::Error> {
        self.file.sync_all()?;
        disk::sync_dir(disk::parent_of(self.file.path()))
    }
}

//! Named consumers of a journal, and deleting what all of them have passed.
//!
//! May touch: `cursors/` of the journal's directory; syncs the segment a cursor moves in; cleanup replaces SKIPS and
//! deletes segments. Promises: a cursor never stands behind what a power cut leaves of the journal, and no segment is
//! deleted that a cursor has not passed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::directory::Directory;
use super::error::JournalError;
use super::format::Stamp;
use super::reader::JournalReader;
use crate::disk;
use crate::home::SessionId;

/// How far a named consumer has come: the offset of the record it wants next.
///
/// One process should move a cursor at a time; the last one wins.
#[derive(Debug)]
pub struct Cursor {
    directory: Directory,
    path: PathBuf,
    offset: u64,
    /// For finding where the records end: kept, because it knows then where to begin.
    reader: Option<JournalReader>,
}

impl Cursor {
    /// Opens the cursor `name` of the journal in `directory`; a new one is created at the journal's start, durably, so
    /// that cleanup heeds it from now on.
    ///
    /// # Errors
    /// [`JournalError::CursorName`]; [`JournalError::Damaged`]; file operations that fail.
    pub fn open(directory: &Path, name: &str) -> Result<Self, JournalError> {
        if SessionId::new(name).is_err() || name.ends_with(".tmp") {
            return Err(JournalError::CursorName { name: name.to_owned() });
        }
        let directory = Directory::at(directory);
        let path = directory.cursors().join(name);
        disk::refuse_other_case(&path)?;
        if let Some(offset) = directory.read_cursor(name)? {
            return Ok(Self { directory, path, offset, reader: None });
        }
        let offset = directory.read_skips()?.start;
        disk::create_dir_all(&directory.cursors())?;
        disk::replace(&path, &Stamp::Cursor.encode(offset), true)?;
        Ok(Self { directory, path, offset, reader: None })
    }

    /// Offset of the next record to consume.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves the cursor, forward or back. Syncs the journal up to there first, then replaces the cursor's file durably.
    ///
    /// # Errors
    /// [`JournalError::BeyondEnd`] behind the last record; file operations that fail, after which the file is as it was
    /// or already replaced.
    pub fn set(&mut self, offset: u64) -> Result<(), JournalError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(JournalReader::open(self.directory.root())?),
        };
        reader.sync_through(offset)?;
        disk::replace(&self.path, &Stamp::Cursor.encode(offset), true)?;
        self.offset = offset;
        Ok(())
    }

    /// Deletes the cursor, so that cleanup does not heed it any more.
    ///
    /// # Errors
    /// File operations that fail.
    pub fn delete(self) -> Result<(), JournalError> {
        disk::remove_file_if_exists(&self.path)?;
        Ok(disk::sync_dir(&self.directory.cursors())?)
    }
}

/// A cursor as [`cursors`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorStatus {
    /// Its name.
    pub name: String,
    /// Offset of the next record it wants.
    pub offset: u64,
}

/// All cursors of the journal in `directory`, by name.
///
/// # Errors
/// [`JournalError::Damaged`]; file operations that fail.
pub fn cursors(directory: &Path) -> Result<Vec<CursorStatus>, JournalError> {
    let directory = Directory::at(directory);
    let mut cursors = Vec::new();
    for name in directory.cursor_names()? {
        if let Some(offset) = directory.read_cursor(&name)? {
            cursors.push(CursorStatus { name, offset });
        }
    }
    cursors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(cursors)
}

/// What cleanup deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CleanupReport {
    /// The segment files deleted, oldest first.
    pub deleted: Vec<PathBuf>,
    /// Their length in bytes, together.
    pub deleted_bytes: u64,
    /// Offset of the first record that is left, or where it will stand.
    pub start: u64,
}

/// Deletes the sealed segments that every cursor has passed, as a journal that is open for writing does, without opening the journal
/// for writing: it works while the disk is too full to save what a torn write left.
///
/// # Errors
/// [`JournalError::Locked`] while a writer has the journal open; [`JournalError::Damaged`] for a cursor that cannot be read; file operations that fail.
pub fn cleanup(directory: &Path) -> Result<CleanupReport, JournalError> {
    let directory = Directory::at(directory);
    let _lock = directory.lock(Duration::ZERO)?;
    cleanup_locked(&directory)
}

/// Deletes the sealed segments that every cursor has passed; for who holds the writer's lock.
pub(super) fn cleanup_locked(directory: &Directory) -> Result<CleanupReport, JournalError> {
    let mut skips = directory.read_skips()?;
    let passed = cursors(directory.root())?.into_iter().map(|cursor| cursor.offset).min().unwrap_or(0);
    let segments = directory.segments()?;
    let passed_count = segments.windows(2).take_while(|pair| pair[1].base <= passed.max(skips.start)).count();
    let (deleted, left) = segments.split_at(passed_count);
    if let Some(first) = left.first()
        && first.base > skips.start
        && !deleted.is_empty()
    {
        skips.start_at(first.base);
        directory.write_skips(&skips)?;
    }
    let mut report = CleanupReport { start: skips.start, ..CleanupReport::default() };
    for segment in deleted {
        let path = directory.segment(segment.base);
        disk::remove_file(&path)?;
        report.deleted_bytes += segment.len_bytes;
        report.deleted.push(path);
    }
    if !deleted.is_empty() {
        disk::sync_dir(directory.root())?;
    }
    Ok(report)
}

//! Named consumers of a journal: how far each of them has come.
//!
//! May touch: `cursors/` of the journal's directory; syncs the segment that a cursor moves in. Guarantees: a cursor never
//! points past what a power cut leaves of the journal.

use std::path::{Path, PathBuf};

use super::directory::Directory;
use super::error::{JournalError, Result};
use super::format::FileKind;
use super::reader::JournalReader;
use crate::disk::{self, Replacing};
use crate::home::SessionId;
use crate::store;

/// How far a named consumer has come: the offset of the record that it wants next.
///
/// One process should move a cursor at a time. When two do, the last one wins.
#[derive(Debug)]
pub struct Cursor {
    directory: Directory,
    path: PathBuf,
    offset: u64,
    /// Finds where the records end. Kept, because it remembers where to begin.
    reader: Option<JournalReader>,
}

impl Cursor {
    /// Opens the cursor `name` of the journal in `directory`. A new cursor is created at the journal's start, durably, so
    /// that cleanup respects it from now on.
    ///
    /// # Errors
    /// [`JournalError::CursorName`]; [`JournalError::Damaged`]; file operations that fail.
    pub fn open(directory: &Path, name: &str) -> Result<Self> {
        if SessionId::new(name).is_err() || name.ends_with(".tmp") {
            return Err(JournalError::CursorName { name: name.to_owned() });
        }
        let directory = Directory::at(directory);
        let path = directory.cursors().join(name);
        disk::refuse_other_case(&path)?;
        let offset = match directory.read_cursor(name)? {
            Some(offset) => offset,
            None => {
                let start = directory.read_skips()?.start;
                disk::create_dir_all(&directory.cursors())?;
                disk::replace(&path, &FileKind::Cursor.encode(start), Replacing::Durable)?;
                start
            }
        };
        // A killed program may have created the cursor or its directory and not synced the name.
        store::sync_inherited([""; 0], [&*directory.cursors(), directory.root()])?;
        Ok(Self { directory, path, offset, reader: None })
    }

    /// Returns the offset of the next record to consume.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves the cursor, forward or back. Syncs the journal up to `offset` first, then replaces the cursor's file durably.
    ///
    /// # Errors
    /// [`JournalError::BeyondEnd`] after the last record; file operations that fail, after which the file is unchanged
    /// or already replaced.
    pub fn set(&mut self, offset: u64) -> Result<()> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(JournalReader::open(self.directory.root())?),
        };
        reader.sync_through(offset)?;
        disk::replace(&self.path, &FileKind::Cursor.encode(offset), Replacing::Durable)?;
        self.offset = offset;
        Ok(())
    }

    /// Deletes the cursor, so that cleanup no longer respects it.
    ///
    /// # Errors
    /// File operations that fail.
    pub fn delete(self) -> Result<()> {
        disk::remove_file_if_exists(&self.path)?;
        Ok(disk::sync_dir(&self.directory.cursors())?)
    }
}

/// A cursor as [`cursors`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorStatus {
    /// Its name.
    pub name: String,
    /// Offset of the next record that it wants.
    pub offset: u64,
}

/// Returns all cursors of the journal in `directory`, by name.
///
/// # Errors
/// [`JournalError::Damaged`]; file operations that fail.
pub fn cursors(directory: &Path) -> Result<Vec<CursorStatus>> {
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

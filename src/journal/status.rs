//! The state of a journal, for people: segments, end, mark, cursors, quarantine.
//!
//! Reads the journal's directory without the lock. Guarantees: changes nothing, and checks only the records of the last
//! segment.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cursor::{CursorStatus, cursors};
use super::directory::Directory;
use super::error::{Damage, Result};
use super::reader::JournalReader;
use super::segment::{Segment, list};
use crate::disk;

/// The state of a journal as it is on the disk.
#[derive(Debug, Clone)]
pub struct JournalStatus {
    /// Segments by ascending base.
    pub segments: Vec<Segment>,
    /// Offset of the first record, or where it will be.
    pub start: u64,
    /// Offset after the last complete record.
    pub end: u64,
    /// Records before the synced mark or before a cursor that are gone from the end.
    pub lost: Option<Damage>,
    /// The synced mark.
    pub synced: Option<u64>,
    /// Every cursor.
    pub cursors: Vec<CursorStatus>,
    /// Ranges of offsets that reads step over.
    pub skipped: Vec<Range<u64>>,
    /// Files under `quarantine/`.
    pub quarantine: Vec<PathBuf>,
}

/// Returns the state of the journal in `directory`.
///
/// # Errors
/// As [`JournalReader::read`] and [`cursors`].
pub fn status(directory: &Path) -> Result<JournalStatus> {
    let mut reader = JournalReader::open(directory)?;
    let lost = reader.lost_end()?;
    let (start, end) = (reader.start(), reader.end()?);
    JournalStatus::of(&Directory::at(directory), start, end, lost)
}

/// Looks at the two small files that [`status`] does not need: SYNCED and IDENTITY. Returns what is wrong with each.
#[cfg(feature = "cli")]
pub(crate) fn check_mark_and_identity(directory: &Path) -> [Result<()>; 2] {
    let directory = Directory::at(directory);
    [directory.read_sound_mark().map(drop), directory.read_identity().map(drop)]
}

impl JournalStatus {
    pub(super) fn of(directory: &Directory, start: u64, end: u64, lost: Option<Damage>) -> Result<Self> {
        Ok(Self {
            segments: list(directory)?,
            start,
            end,
            lost,
            synced: directory.read_mark()?,
            cursors: cursors(directory.root())?,
            skipped: directory.read_skips()?.ranges().to_vec(),
            quarantine: disk::if_there(disk::list(&directory.quarantine()))?.unwrap_or_default(),
        })
    }
}

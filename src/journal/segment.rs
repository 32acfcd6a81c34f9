//! Segments: the list of them, the one that holds an offset, and deleting those that every cursor has passed.
//!
//! May touch: the journal's directory, for listing; cleanup replaces SKIPS and deletes segments. Guarantees: no segment is
//! deleted before every cursor has passed it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::directory::{Directory, segment_name};
use super::error::{JournalError, Result};
use super::format::{HEADER_SIZE, MAX_OFFSET, Skips};
use crate::disk;

/// A segment file as it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset of its first record.
    pub base: u64,
    /// Length of the file in bytes, its header included.
    pub len_bytes: u64,
}

impl Segment {
    /// Returns the name of the file: the base in 16 hexadecimal digits, and `.wal`.
    pub fn file_name(&self) -> String {
        segment_name(self.base)
    }

    /// Returns the offset after the last byte of this file.
    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.len_bytes.saturating_sub(HEADER_SIZE))
    }

    /// Byte position in the file of a global offset, which is not before the base.
    pub(super) fn position(&self, offset: u64) -> u64 {
        offset - self.base + HEADER_SIZE
    }
}

/// The segments of a journal, without a lock: as they were when they were listed last.
#[derive(Debug)]
pub struct SegmentManager {
    directory: Directory,
    skips: Skips,
    /// By ascending base. None from before the start, as an interrupted cleanup leaves them.
    segments: Vec<Segment>,
}

/// The segment that holds an offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    pub(super) segment: Segment,
    /// Base of the next segment; none for the last one, which may still grow.
    pub(super) next_base: Option<u64>,
}

impl SegmentManager {
    /// Lists the segments of the journal in `directory`.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] for SKIPS; [`JournalError::NotAFile`]; file operations that fail.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut manager =
            Self { directory: Directory::at(directory), skips: Skips::default(), segments: Vec::new() };
        manager.refresh()?;
        Ok(manager)
    }

    /// Lists the segments again.
    ///
    /// # Errors
    /// As [`SegmentManager::open`].
    pub fn refresh(&mut self) -> Result<()> {
        // Skips after segments: cleanup replaces SKIPS before it deletes, so a start that is read late fits any list that was
        // read early.
        let segments = list(&self.directory)?;
        self.skips = self.directory.read_skips()?;
        self.segments = segments;
        self.segments.retain(|segment| segment.base >= self.skips.start);
        Ok(())
    }

    /// Returns the segments by ascending base.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Offset of the first record that cleanup left, or where it will be.
    pub fn start(&self) -> u64 {
        self.skips.advance(0)
    }

    /// Returns the segment in which the record at `offset` is or will be; none before the first one.
    pub fn find(&self, offset: u64) -> Option<Segment> {
        self.locate(offset).map(|located| located.segment)
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn skips(&self) -> &Skips {
        &self.skips
    }

    /// As [`SegmentManager::find`], with the base that follows.
    pub(super) fn locate(&self, offset: u64) -> Option<Located> {
        let after = self.segments.partition_point(|segment| segment.base <= offset);
        let segment = self.segments[after.checked_sub(1)?];
        Some(Located { segment, next_base: self.segments.get(after).map(|next| next.base) })
    }

    /// Deletes the sealed segments that every cursor has passed. Without a cursor nothing is deleted.
    ///
    /// A journal need not be opened for this, so it works while the disk is too full to save what a torn write left.
    ///
    /// # Errors
    /// [`JournalError::Locked`] while a writer has the journal open, which deletes by `Journal::cleanup`;
    /// [`JournalError::Damaged`] for a cursor that cannot be read: nothing is deleted then; file operations that fail.
    pub fn cleanup(&mut self) -> Result<CleanupReport> {
        let _lock = self.directory.lock(Duration::ZERO)?;
        let report = cleanup_locked(&self.directory)?;
        self.refresh()?;
        Ok(report)
    }
}

/// What cleanup deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CleanupReport {
    /// The segment files that were deleted, oldest first.
    pub deleted: Vec<PathBuf>,
    /// Their length in bytes, together.
    pub deleted_bytes: u64,
    /// Offset of the first record that is left, or where it will be.
    pub start: u64,
}

/// Deletes the sealed segments that every cursor has passed; for a holder of the writer's lock.
pub(super) fn cleanup_locked(directory: &Directory) -> Result<CleanupReport> {
    let mut skips = directory.read_skips()?;
    let mut passed: Option<u64> = None;
    for name in directory.cursor_names()? {
        if let Some(offset) = directory.read_cursor(&name)? {
            passed = Some(passed.map_or(offset, |passed| passed.min(offset)));
        }
    }
    let passed = passed.unwrap_or(0).max(skips.start);
    let segments = list(directory)?;
    let passed_count = segments.windows(2).take_while(|pair| pair[1].base <= passed).count();
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

/// Returns the segment files by ascending base. Other names in the directory are left alone.
pub(super) fn list(directory: &Directory) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for name in directory.names()? {
        let Some(base) = segment_base(&name) else { continue };
        let path = directory.segment(base);
        match disk::metadata_of_target(&path) {
            // Opening a pipe could wait for ever.
            Ok(metadata) if !metadata.is_file => return Err(JournalError::NotAFile { path }),
            Ok(metadata) => segments.push(Segment { base, len_bytes: metadata.len_bytes }),
            // Deleted by cleanup since the directory was read, unless the name is a symbolic link to nothing.
            Err(error) if error.is_not_found() => match disk::metadata(&path) {
                Err(error) if error.is_not_found() => {}
                found => return Err(found.err().unwrap_or(error).into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    segments.sort_unstable_by_key(|segment| segment.base);
    Ok(segments)
}

/// Returns the base in a segment's name; `None` for any other name.
fn segment_base(name: &std::ffi::OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".wal")?;
    let is_canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let base = is_canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()?;
    (base <= MAX_OFFSET).then_some(base)
}

//! Reading a journal without a lock, while its writer goes on.
//!
//! May touch: segments and SKIPS, for reading; [`JournalReader::sync_through`] also syncs a segment. Promises: a record is
//! returned only whole, with fitting CRC and hash; only offsets where a record starts are answered; damage is an error
//! that names segment and byte; what is not there yet is told from what never will be.

use std::path::{Path, PathBuf};

use super::directory::{Directory, SegmentFile};
use super::error::{Damage, DamageReason, JournalError};
use super::format::{
    HEADER_LEN_BYTES, RECORD_OVERHEAD, RecordFlaw, Skips, Stamp, StampFlaw, checked_record, has_its_hash,
    record_len, stored_hash, verified_record,
};
use super::resync::Resync;
use crate::disk;

/// What one read from a segment fetches at least, when there is as much.
const WINDOW_BYTES: usize = 256 * 1024;

/// How often the end is looked for before damage in front of it is believed.
const END_ATTEMPTS: u32 = 3;

/// How far known starts of records lie apart, at least: what a read at a new offset may have to walk.
const LANDMARK_EVERY_BYTES: u64 = 64 * 1024;

/// A record as it was read; the payload lies in the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'r> {
    /// Where it starts. Behind the offset asked for when that was in a skipped range.
    pub offset: u64,
    /// Where the next record starts, or will.
    pub next_offset: u64,
    /// BLAKE3 of the payload, verified.
    pub hash: blake3::Hash,
    /// What was appended.
    pub payload: &'r [u8],
}

/// A reader of one journal. Opens no lock, writes nothing, and sees what is appended after it was opened.
#[derive(Debug)]
pub struct JournalReader {
    directory: Directory,
    skips: Skips,
    segments: Vec<SegmentFile>,
    open: Option<OpenSegment>,
}

/// Where a record was found, in the open segment.
struct Found {
    offset: u64,
    position: u64,
    len_bytes: usize,
}

/// Why there is no record at an offset, as far as the list of segments tells.
enum Miss {
    /// The readable records end here; more may come.
    End(u64),
    Error(JournalError),
}

impl From<JournalError> for Miss {
    fn from(error: JournalError) -> Self {
        Self::Error(error)
    }
}

impl From<disk::Error> for Miss {
    fn from(error: disk::Error) -> Self {
        Self::Error(error.into())
    }
}

impl JournalReader {
    /// Opens the journal in `directory` for reading.
    ///
    /// # Errors
    /// [`JournalError::Disk`] with a not-found reason when there is no such directory; [`JournalError::Damaged`] for SKIPS.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let directory = Directory::at(directory);
        let (skips, segments) = list(&directory)?;
        Ok(Self { directory, skips, segments, open: None })
    }

    /// The journal's directory.
    pub fn directory(&self) -> &Path {
        self.directory.root()
    }

    /// Offset of the first record that cleanup left, or where it will stand.
    pub fn start(&self) -> u64 {
        self.skips.advance(0)
    }

    /// Reads the record at `offset`; `None` when it is not there yet: the offset is the end of the journal.
    ///
    /// # Errors
    /// [`JournalError::NotARecord`] inside a record, [`JournalError::BeyondEnd`] behind the end, [`JournalError::Deleted`]
    /// before the start, [`JournalError::Corrupt`] where the journal is damaged; file operations that fail.
    pub fn read(&mut self, offset: u64) -> Result<Option<Record<'_>>, JournalError> {
        let found = match self.find(offset) {
            Ok(found) => found,
            // What is missing may have been appended, sealed, skipped or deleted since the list was made.
            Err(_) => {
                self.refresh()?;
                match self.find(offset) {
                    Ok(found) => found,
                    Err(Miss::End(end)) if self.skips.advance(offset) <= end => return Ok(None),
                    Err(Miss::End(end)) => return Err(self.beyond_end(offset, end)),
                    Err(Miss::Error(error)) => return Err(error),
                }
            }
        };
        let Some(open) = &mut self.open else { return Ok(None) };
        let bytes = open.window_at(found.position, found.len_bytes)?;
        Ok(Some(Record {
            offset: found.offset,
            next_offset: found.offset + found.len_bytes as u64,
            hash: stored_hash(bytes),
            payload: &bytes[RECORD_OVERHEAD..found.len_bytes],
        }))
    }

    /// The offset behind the last complete record: where the next one will stand.
    ///
    /// # Errors
    /// As [`JournalReader::read`].
    pub fn end(&mut self) -> Result<u64, JournalError> {
        let mut attempt = 1;
        loop {
            self.refresh()?;
            // An offset that no record has: the walk ends where the records do. The listed length would not do: a writer may
            // put a record across it meanwhile.
            match self.find(u64::MAX) {
                Ok(found) => return Ok(found.offset + found.len_bytes as u64),
                Err(Miss::End(end)) => return Ok(end),
                // Bytes that the writer was just changing are whole when they are read again.
                Err(Miss::Error(JournalError::Corrupt { .. })) if attempt < END_ATTEMPTS => attempt += 1,
                Err(Miss::Error(error)) => return Err(error),
            }
        }
    }

    /// What the journal once had and ends in front of: records before the synced mark or before a cursor that are gone. Opening
    /// the journal for writing, or [`recover`](super::recover), sets them aside.
    ///
    /// # Errors
    /// As [`JournalReader::end`], and for a mark or cursors that cannot be read.
    pub fn lost_end(&mut self) -> Result<Option<Damage>, JournalError> {
        // Before the end, which a writer moves on meanwhile.
        let consumed = self.directory.furthest_cursor()?;
        let known_end = self.directory.read_mark()?.max(consumed).unwrap_or(0);
        let end = self.end()?;
        if self.skips.advance(end) >= known_end {
            return Ok(None);
        }
        let last = self.segments.last();
        Ok(Some(Damage {
            segment: self.directory.segment(last.map_or(end, |last| last.base)),
            position: last.map_or(HEADER_LEN_BYTES, |last| last.position(end.max(last.base))),
            offsets: end..known_end,
            reason: DamageReason::LostEnd,
        }))
    }

    /// Waits until every record before `offset` is on stable storage, whatever level its writer chose: what a consumer
    /// does before it durably remembers to have consumed them.
    ///
    /// # Errors
    /// [`JournalError::BeyondEnd`]; file operations that fail.
    pub fn sync_through(&mut self, offset: u64) -> Result<(), JournalError> {
        if self.segment_of(offset).is_none_or(|(_, segment, _)| segment.end() < offset) {
            self.refresh()?;
        }
        // Sealed segments are synced, and the mark says which part of the last one is.
        let Some((_, segment, is_last)) = self.segment_of(offset) else { return Ok(()) };
        let is_synced = self.directory.read_mark()?.is_some_and(|mark| mark >= offset);
        if is_synced || !is_last || offset <= segment.base {
            return Ok(());
        }
        self.check_reached(offset)?;
        // Not `open_to_sync`: the segment may be a symbolic link.
        let path = self.directory.segment(segment.base);
        let file = if cfg!(windows) { disk::File::open_rw(&path)? } else { disk::File::open_read(&path)? };
        Ok(file.sync_data()?)
    }

    /// Fails when the records end before `offset`. Zeros that a writer wrote ahead are none, so lengths do not tell.
    fn check_reached(&mut self, offset: u64) -> Result<(), JournalError> {
        if self.find(offset).is_ok() {
            return Ok(());
        }
        self.refresh()?;
        match self.find(offset) {
            Err(Miss::End(end)) if self.skips.advance(offset) > end => Err(self.beyond_end(offset, end)),
            Err(Miss::Error(error @ (JournalError::Disk(_) | JournalError::Scan(_)))) => Err(error),
            // Damage, and an offset within a record, are for who reads there.
            _ => Ok(()),
        }
    }

    /// Lists segments and skips anew and forgets what was buffered.
    fn refresh(&mut self) -> Result<(), JournalError> {
        (self.skips, self.segments) = list(&self.directory)?;
        if let Some(open) = &mut self.open {
            open.forget();
        }
        Ok(())
    }

    /// The last segment that starts at or before an offset: index, extent, and whether it is the last of all.
    fn segment_of(&self, offset: u64) -> Option<(usize, SegmentFile, bool)> {
        let behind = self.segments.partition_point(|segment| segment.base <= offset);
        let index = behind.checked_sub(1)?;
        Some((index, self.segments[index], behind == self.segments.len()))
    }

    /// Finds the record at `offset`, by the segments known so far.
    fn find(&mut self, offset: u64) -> Result<Found, Miss> {
        if offset < self.skips.start {
            let (directory, start) = (self.directory.root().to_owned(), self.skips.start);
            return Err(JournalError::Deleted { directory, offset, start }.into());
        }
        let offset = self.skips.advance(offset);
        let Some((index, segment, is_last)) = self.segment_of(offset) else {
            return Err(Miss::End(self.skips.advance(0)));
        };
        if is_last && segment.base < segment.end() && self.skips.advance(segment.base) >= segment.end() {
            // Skipped whole: even its header may be another's.
            return Err(Miss::End(self.skips.advance(segment.end())));
        }
        if self.open.as_ref().is_none_or(|open| open.base != segment.base) {
            match OpenSegment::open(&self.directory, segment.base) {
                Ok(open) => self.open = Some(open),
                // A segment that is just being made.
                Err(JournalError::Corrupt { .. }) if is_last && segment.len_bytes <= HEADER_LEN_BYTES => {
                    return Err(Miss::End(segment.base));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(open) = &mut self.open else { return Err(Miss::End(offset)) };
        let walked = open.walk_to(offset, &self.skips)?;
        let (at, flaw) = match walked {
            Walk::Inside { start } => {
                let directory = self.directory.root().to_owned();
                return Err(JournalError::NotARecord { directory, offset, start }.into());
            }
            Walk::Stopped { at, flaw } => (at, flaw),
            Walk::Reached => match open.record_at(offset, &self.skips, verified_record)? {
                Ok(len_bytes) => {
                    open.landmark(offset + len_bytes as u64);
                    return Ok(Found { offset, position: segment.position(offset), len_bytes });
                }
                Err(flaw) => (offset, flaw),
            },
        };
        let is_damage = !is_last || open.has_record_behind(at)?;
        let behind = self.segments.get(index + 1).map(|next| next.base);
        if is_damage {
            let damage = Damage {
                segment: open.file.path().to_owned(),
                position: segment.position(at),
                offsets: at..behind.unwrap_or_else(|| segment.end().max(at)),
                reason: flaw.into(),
            };
            return Err(self.corrupt(damage).into());
        }
        Err(Miss::End(at))
    }

    fn beyond_end(&self, offset: u64, end: u64) -> JournalError {
        JournalError::BeyondEnd { directory: self.directory.root().to_owned(), offset, end }
    }

    fn corrupt(&self, damage: Damage) -> JournalError {
        JournalError::Corrupt { directory: self.directory.root().to_owned(), damages: vec![damage] }
    }
}

fn list(directory: &Directory) -> Result<(Skips, Vec<SegmentFile>), JournalError> {
    // Skips after segments: cleanup replaces them before it deletes, so a start read late fits any list read early.
    let mut segments = directory.segments()?;
    let skips = directory.read_skips()?;
    segments.retain(|segment| segment.base >= skips.start);
    Ok((skips, segments))
}

/// Where a walk over the records of a segment ended.
enum Walk {
    /// At the offset looked for, which is a record's start.
    Reached,
    /// Inside the record that starts here.
    Inside { start: u64 },
    /// At bytes in front of that offset that are no record.
    Stopped { at: u64, flaw: RecordFlaw },
}

/// An open segment with a window of its bytes.
#[derive(Debug)]
struct OpenSegment {
    base: u64,
    file: disk::File,
    window: Vec<u8>,
    window_start: u64,
    /// Starts of records, ascending; the first is the base.
    landmarks: Vec<u64>,
    /// The offset behind the record read last: where a consumer reads next.
    last_end: u64,
    /// A stop and the file's length at which no record was found behind it.
    searched: Option<(u64, u64)>,
}

impl OpenSegment {
    fn open(directory: &Directory, base: u64) -> Result<Self, JournalError> {
        let path: PathBuf = directory.segment(base);
        let file = disk::File::open_read(&path)?;
        let mut header = [0; HEADER_LEN_BYTES as usize];
        let read = file.read_at(&mut header, 0)?;
        let reason = match Stamp::Segment.decode(&header[..read]) {
            Ok(found) if found == base => {
                return Ok(Self {
                    base,
                    file,
                    window: Vec::new(),
                    window_start: 0,
                    landmarks: vec![base],
                    last_end: base,
                    searched: None,
                });
            }
            Ok(found) => DamageReason::Base(found),
            Err(StampFlaw::Damaged) => DamageReason::Header,
            Err(StampFlaw::Unsupported { version, flags }) => {
                return Err(JournalError::Unsupported { path, version, flags });
            }
        };
        let damage = Damage { segment: path, position: 0, offsets: base..base, reason };
        Err(JournalError::Corrupt { directory: directory.root().to_owned(), damages: vec![damage] })
    }

    fn forget(&mut self) {
        self.window.clear();
    }

    fn position(&self, offset: u64) -> u64 {
        offset - self.base + HEADER_LEN_BYTES
    }

    /// Remembers that a record starts here.
    fn landmark(&mut self, offset: u64) {
        self.last_end = offset;
        if self.landmarks.last().is_some_and(|last| offset >= last + LANDMARK_EVERY_BYTES) {
            self.landmarks.push(offset);
        }
    }

    /// Makes sure that a record starts at `offset`, walking from the nearest known start.
    fn walk_to(&mut self, offset: u64, skips: &Skips) -> Result<Walk, JournalError> {
        if offset == self.last_end {
            return Ok(Walk::Reached);
        }
        let before = self.landmarks.partition_point(|known| *known <= offset);
        let mut at = self.landmarks[before.saturating_sub(1)];
        loop {
            let next = skips.advance(at);
            // The offset is in no skip, so a skip that starts before it ends there or before it.
            if next >= offset {
                return Ok(Walk::Reached);
            }
            let next = match self.record_at(next, skips, checked_record)? {
                Ok(len_bytes) => next + len_bytes as u64,
                Err(flaw) => return Ok(Walk::Stopped { at: next, flaw }),
            };
            if next > offset {
                return Ok(Walk::Inside { start: at });
            }
            at = next;
            if self.landmarks.last().is_some_and(|last| at >= last + LANDMARK_EVERY_BYTES) {
                self.landmarks.push(at);
            }
        }
    }

    /// Length in bytes of the record at `offset`, which reaches into no skipped range.
    fn record_at(
        &mut self,
        offset: u64,
        skips: &Skips,
        check: fn(&[u8]) -> Result<usize, RecordFlaw>,
    ) -> Result<Result<usize, RecordFlaw>, JournalError> {
        let position = self.position(offset);
        let Some(len_bytes) = record_len(self.window_at(position, RECORD_OVERHEAD)?) else {
            return Ok(Err(RecordFlaw::Partial));
        };
        let reaches_into_skip = skips.next_after(offset).is_some_and(|skip| offset + len_bytes > skip.start);
        let is_windowed = position + len_bytes <= self.window_start + self.window.len() as u64;
        // The file's length is asked before a window as large as an unverified length is made.
        if reaches_into_skip || (!is_windowed && position + len_bytes > self.file.len_bytes()?) {
            return Ok(Err(RecordFlaw::Partial));
        }
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        Ok(check(self.window_at(position, len)?))
    }

    /// The bytes from `position` on: `len` of them or more, fewer only at the end of the file.
    fn window_at(&mut self, position: u64, len: usize) -> Result<&[u8], disk::Error> {
        let window_end = self.window_start + self.window.len() as u64;
        if position < self.window_start || position + len as u64 > window_end {
            self.window.resize(len.max(WINDOW_BYTES), 0);
            self.window_start = position;
            let read = match self.file.read_at(&mut self.window, position) {
                Ok(read) => read,
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            };
            self.window.truncate(read);
        }
        Ok(&self.window[(position - self.window_start) as usize..])
    }

    /// Whether a valid record stands behind the bytes at `offset`, which are none.
    fn has_record_behind(&mut self, offset: u64) -> Result<bool, JournalError> {
        let len_bytes = self.file.len_bytes()?;
        let position = self.position(offset);
        if len_bytes <= position + RECORD_OVERHEAD as u64 || self.searched == Some((offset, len_bytes)) {
            return Ok(false);
        }
        let mut bytes = vec![0; (len_bytes - position) as usize];
        let read = self.file.read_at(&mut bytes, position)?;
        bytes.truncate(read);
        let behind = match checked_record(&bytes) {
            Ok(len) if has_its_hash(&bytes[..len]) => None, // The writer finished the very record meanwhile.
            Ok(len) => Some(len),
            Err(_) => Some(1),
        };
        // Mostly zeros that the writer wrote ahead.
        let found = bytes.iter().any(|byte| *byte != 0)
            && behind.is_some_and(|behind| Resync::new(&bytes, 1).next_record(behind).is_some());
        if !found {
            self.searched = Some((offset, len_bytes));
        }
        Ok(found)
    }
}

//! Reads a journal without a lock, while its writer goes on.
//!
//! May touch: segments and SKIPS, for reading; [`JournalReader::sync_through`] also syncs a segment. Guarantees: a record is
//! returned only whole, with a CRC and a hash that match; an offset inside a record is an error; damage is an error
//! that names segment and byte; a record that is not there yet differs from one that is lost.

use std::path::{Path, PathBuf};

use super::directory::Directory;
use super::error::{Damage, DamageReason, JournalError, Result};
use super::format::{
    FileKind, HEADER_SIZE, HeaderFlaw, RECORD_OVERHEAD, RecordFlaw, RecordRef, Skips, checked_record,
    has_its_hash, record_len, stored_hash, verified_record,
};
use super::resync::Resync;
use super::segment::{Located, SegmentManager};
use crate::disk;

/// The least that one read fetches from a segment, as far as there is so much.
const WINDOW_BYTES: usize = 256 * 1024;

/// How often the end is looked for before damage before it is reported.
const END_ATTEMPTS: u32 = 3;

/// The least distance between two remembered starts of records. A read at a new offset may have to walk so far.
const LANDMARK_EVERY_BYTES: u64 = 64 * 1024;

/// A reader of one journal. It takes no lock, writes nothing, and sees records that are appended after it was opened.
#[derive(Debug)]
pub struct JournalReader {
    segments: SegmentManager,
    open: Option<OpenSegment>,
}

/// Where a record was found, in the open segment.
struct FoundRecord {
    offset: u64,
    position: u64,
    len_bytes: usize,
}

impl JournalReader {
    /// Opens the journal in `directory` for reading.
    ///
    /// # Errors
    /// [`JournalError::Disk`] with a not-found reason when there is no such directory; [`JournalError::Damaged`] for SKIPS.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self { segments: SegmentManager::open(directory)?, open: None })
    }

    /// Returns the journal's directory.
    pub fn directory(&self) -> &Path {
        self.segments.directory().root()
    }

    /// Offset of the first record that cleanup left, or where it will be.
    pub fn start(&self) -> u64 {
        self.segments.start()
    }

    /// Reads the record at `offset`; `None` when the offset is the end of the journal. In a skipped range, reads the first record
    /// after it.
    ///
    /// # Errors
    /// [`JournalError::NotARecord`] inside a record, [`JournalError::BeyondEnd`] after the end, [`JournalError::Deleted`]
    /// before the start, [`JournalError::Corrupt`] where the journal is damaged; file operations that fail.
    pub fn read(&mut self, offset: u64) -> Result<Option<RecordRef<'_>>> {
        let found = match self.find(offset) {
            Ok(Ok(found)) => found,
            // The segments may have been appended to, sealed, skipped or deleted since they were listed.
            _ => {
                self.refresh()?;
                match self.find(offset)? {
                    Ok(found) => found,
                    Err(end) if self.segments.skips().advance(offset) <= end => return Ok(None),
                    Err(end) => return Err(self.beyond_end(offset, end)),
                }
            }
        };
        let Some(open) = &mut self.open else { return Ok(None) };
        let bytes = open.window_at(found.position, found.len_bytes)?;
        Ok(Some(RecordRef {
            offset: found.offset,
            next_offset: found.offset + found.len_bytes as u64,
            hash: stored_hash(bytes),
            payload: &bytes[RECORD_OVERHEAD..found.len_bytes],
        }))
    }

    /// Returns the offset after the last complete record, where the next one will be.
    ///
    /// # Errors
    /// As [`JournalReader::read`].
    pub fn end(&mut self) -> Result<u64> {
        let mut attempt = 1;
        loop {
            self.refresh()?;
            // No record has this offset, so the walk ends where the records do. The listed length cannot be used, because a
            // writer may have put a record across it.
            match self.find(u64::MAX) {
                Ok(Ok(found)) => return Ok(found.offset + found.len_bytes as u64),
                Ok(Err(end)) => return Ok(end),
                // Bytes that the writer was changing are whole when they are read again.
                Err(JournalError::Corrupt { .. }) if attempt < END_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The range of records before the synced mark or before a cursor that are gone from the end of the journal. Opening the journal for
    /// writing refuses it, and recovery can step over it.
    ///
    /// # Errors
    /// As [`JournalReader::end`], and for a mark or cursors that cannot be read.
    pub fn lost_end(&mut self) -> Result<Option<Damage>> {
        // Asked for before the end, which a writer moves on meanwhile.
        let directory = self.segments.directory();
        let known_end = directory.read_mark()?.max(directory.furthest_cursor()?).unwrap_or(0);
        let end = self.end()?;
        if self.segments.skips().advance(end) >= known_end {
            return Ok(None);
        }
        let last = self.segments.segments().last();
        Ok(Some(Damage {
            segment: self.segments.directory().segment(last.map_or(end, |last| last.base)),
            position: last.map_or(HEADER_SIZE, |last| last.position(end.max(last.base))),
            offsets: end..known_end,
            reason: DamageReason::LostEnd,
        }))
    }

    /// Waits until every record before `offset` is on stable storage, whatever level its writer chose. A consumer
    /// does this before it durably remembers that it has consumed them.
    ///
    /// # Errors
    /// [`JournalError::BeyondEnd`]; file operations that fail.
    pub fn sync_through(&mut self, offset: u64) -> Result<()> {
        if self.segments.find(offset).is_none_or(|segment| segment.end() < offset) {
            self.refresh()?;
        }
        // Sealed segments are synced, and the mark says which part of the last one is.
        let Some(Located { segment, next_base }) = self.segments.locate(offset) else { return Ok(()) };
        let is_synced = self.segments.directory().read_mark()?.is_some_and(|mark| mark >= offset);
        if is_synced || next_base.is_some() || offset <= segment.base {
            return Ok(());
        }
        self.check_reached(offset)?;
        let path = self.segments.directory().segment(segment.base);
        Ok(disk::File::open_to_sync(&path)?.sync_data()?)
    }

    /// Fails when the records end before `offset`. Lengths do not show that, because of the zeros that a writer writes ahead.
    fn check_reached(&mut self, offset: u64) -> Result<()> {
        if matches!(self.find(offset), Ok(Ok(_))) {
            return Ok(());
        }
        self.refresh()?;
        match self.find(offset) {
            Ok(Err(end)) if self.segments.skips().advance(offset) > end => Err(self.beyond_end(offset, end)),
            Err(error @ (JournalError::Disk(_) | JournalError::Scan(_))) => Err(error),
            // Damage, and an offset inside a record, are reported to a reader of that place.
            _ => Ok(()),
        }
    }

    /// Lists segments and skips again and forgets what was buffered.
    fn refresh(&mut self) -> Result<()> {
        self.segments.refresh()?;
        if let Some(open) = &mut self.open {
            open.forget();
        }
        Ok(())
    }

    /// Finds the record at `offset`, by the segments known so far. Where there is none, returns the end of the readable records; more
    /// may come.
    fn find(&mut self, offset: u64) -> Result<Result<FoundRecord, u64>> {
        let start = self.segments.skips().start;
        if offset < start {
            let directory = self.directory().to_owned();
            return Err(JournalError::Deleted { directory, offset, start });
        }
        let offset = self.segments.skips().advance(offset);
        let Some(Located { segment, next_base }) = self.segments.locate(offset) else {
            return Ok(Err(self.start()));
        };
        let is_last = next_base.is_none();
        if is_last
            && segment.base < segment.end()
            && self.segments.skips().advance(segment.base) >= segment.end()
        {
            // Skipped whole: even its header may belong to another segment.
            return Ok(Err(self.segments.skips().advance(segment.end())));
        }
        if self.open.as_ref().is_none_or(|open| open.base != segment.base) {
            match OpenSegment::open(self.segments.directory(), segment.base) {
                Ok(open) => self.open = Some(open),
                // A segment that is being created.
                Err(JournalError::Corrupt { .. }) if is_last && segment.len_bytes <= HEADER_SIZE => {
                    return Ok(Err(segment.base));
                }
                Err(error) => return Err(error),
            }
        }
        let Some(open) = &mut self.open else { return Ok(Err(offset)) };
        let walked = open.walk_to(offset, self.segments.skips())?;
        let (at, flaw) = match walked {
            RecordWalk::Inside { start } => {
                let directory = self.directory().to_owned();
                return Err(JournalError::NotARecord { directory, offset, start });
            }
            RecordWalk::Stopped { at, flaw } => (at, flaw),
            RecordWalk::Reached => match open.record_at(offset, self.segments.skips(), verified_record)? {
                Ok(len_bytes) => {
                    open.last_end = offset + len_bytes as u64;
                    open.landmark(open.last_end);
                    return Ok(Ok(FoundRecord { offset, position: segment.position(offset), len_bytes }));
                }
                Err(flaw) => (offset, flaw),
            },
        };
        let is_damage = !is_last || open.has_record_after(at)?;
        if is_damage {
            let damage = Damage {
                segment: open.file.path().to_owned(),
                position: segment.position(at),
                offsets: at..next_base.unwrap_or_else(|| segment.end().max(at)),
                reason: flaw.into(),
            };
            return Err(self.corrupt(damage));
        }
        Ok(Err(at))
    }

    fn beyond_end(&self, offset: u64, end: u64) -> JournalError {
        JournalError::BeyondEnd { directory: self.directory().to_owned(), offset, end }
    }

    fn corrupt(&self, damage: Damage) -> JournalError {
        JournalError::Corrupt { directory: self.directory().to_owned(), damages: vec![damage] }
    }
}

/// Where a walk over the records of a segment ended.
enum RecordWalk {
    /// At the offset looked for, which is a record's start.
    Reached,
    /// Inside the record that starts here.
    Inside { start: u64 },
    /// At bytes before that offset that are no record.
    Stopped { at: u64, flaw: RecordFlaw },
}

/// An open segment with a window of its bytes.
#[derive(Debug)]
struct OpenSegment {
    base: u64,
    file: disk::File,
    window: Vec<u8>,
    window_start: u64,
    /// Starts of records in ascending order; the first is the base.
    landmarks: Vec<u64>,
    /// The offset after the record that was read last, where a consumer reads next.
    last_end: u64,
    /// An offset, and the length of the file at which no record was found after that offset.
    searched: Option<(u64, u64)>,
}

impl OpenSegment {
    fn open(directory: &Directory, base: u64) -> Result<Self> {
        let path: PathBuf = directory.segment(base);
        let file = disk::File::open_read(&path)?;
        let mut header = [0; HEADER_SIZE as usize];
        let read = file.read_at(&mut header, 0)?;
        let reason = match FileKind::Segment.decode(&header[..read]) {
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
            Err(HeaderFlaw::Damaged) => DamageReason::Header,
            Err(HeaderFlaw::Unsupported { version, flags }) => {
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
        offset - self.base + HEADER_SIZE
    }

    /// Remembers that a record starts here.
    fn landmark(&mut self, offset: u64) {
        if self.landmarks.last().is_some_and(|last| offset >= last + LANDMARK_EVERY_BYTES) {
            self.landmarks.push(offset);
        }
    }

    /// Checks that a record starts at `offset`, by a walk from the nearest known start.
    fn walk_to(&mut self, offset: u64, skips: &Skips) -> Result<RecordWalk> {
        if offset == self.last_end {
            return Ok(RecordWalk::Reached);
        }
        let before = self.landmarks.partition_point(|known| *known <= offset);
        let mut at = self.landmarks[before.saturating_sub(1)];
        loop {
            let start = skips.advance(at);
            // The offset is in no skip, so a skip that starts before it ends there or before it.
            if start >= offset {
                return Ok(RecordWalk::Reached);
            }
            let next = match self.record_at(start, skips, checked_record)? {
                Ok(len_bytes) => start + len_bytes as u64,
                Err(flaw) => return Ok(RecordWalk::Stopped { at: start, flaw }),
            };
            if next > offset {
                return Ok(RecordWalk::Inside { start });
            }
            at = next;
            self.landmark(at);
        }
    }

    /// Returns the length in bytes of the record at `offset`, which does not reach into a skipped range.
    fn record_at(
        &mut self,
        offset: u64,
        skips: &Skips,
        check: fn(&[u8]) -> Result<usize, RecordFlaw>,
    ) -> Result<Result<usize, RecordFlaw>> {
        let position = self.position(offset);
        let Some(len_bytes) = record_len(self.window_at(position, RECORD_OVERHEAD)?) else {
            return Ok(Err(RecordFlaw::Partial));
        };
        let reaches_into_skip = skips.next_after(offset).is_some_and(|skip| offset + len_bytes > skip.start);
        let is_windowed = position + len_bytes <= self.window_start + self.window.len() as u64;
        // The length of the file bounds the window, because the length of the record is not verified yet.
        if reaches_into_skip || (!is_windowed && position + len_bytes > self.file.len_bytes()?) {
            return Ok(Err(RecordFlaw::Partial));
        }
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        Ok(check(self.window_at(position, len)?))
    }

    /// Returns the bytes from `position` on: `len` of them or more, fewer only at the end of the file.
    fn window_at(&mut self, position: u64, len: usize) -> Result<&[u8], disk::Error> {
        let window_end = self.window_start + self.window.len() as u64;
        if position < self.window_start || position + len as u64 > window_end {
            disk::make_room(&mut self.window, len.max(WINDOW_BYTES));
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

    /// Whether a valid record follows the bytes at `offset`, which are no record.
    fn has_record_after(&mut self, offset: u64) -> Result<bool> {
        let len_bytes = self.file.len_bytes()?;
        let position = self.position(offset);
        if len_bytes <= position + RECORD_OVERHEAD as u64 || self.searched == Some((offset, len_bytes)) {
            return Ok(false);
        }
        let mut bytes = vec![0; (len_bytes - position) as usize];
        let read = self.file.read_at(&mut bytes, position)?;
        bytes.truncate(read);
        let search_from = match checked_record(&bytes) {
            Ok(len) if has_its_hash(&bytes[..len]) => None, // The writer has finished this record meanwhile.
            Ok(len) => Some(len),
            Err(_) => Some(1),
        };
        // Usually these are zeros that the writer wrote ahead.
        let found = bytes.iter().any(|byte| *byte != 0)
            && search_from.is_some_and(|from| Resync::new(&bytes, 1).next_record(from).is_some());
        if !found {
            self.searched = Some((offset, len_bytes));
        }
        Ok(found)
    }
}

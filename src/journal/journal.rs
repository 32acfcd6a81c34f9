//! The journal: opening, appending, reading, closing.
//!
//! May touch: the journal's directory, under its lock; reading takes no lock. Guarantees: see [`durability`](super::durability)
//! for writing and [`reader`](super::reader) for reading.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::directory::Directory;
use super::durability::{ActiveSegment, AppendLimits, Appender, FsyncGuard, create_segment};
use super::error::{JournalError, Result};
use super::format::{EncodedRecord, HEADER_SIZE, Record, RecordRef};
use super::reader::JournalReader;
use super::recovery::{OnCorruption, OpenCheck, RecoveryReport, recover_locked};
use super::segment::CleanupReport;
use crate::disk;
use crate::store::Durability;

/// The largest segment of a journal that was opened with default options, in bytes.
pub const DEFAULT_MAX_SEGMENT_BYTES: u64 = 64 << 20;

/// The largest payload that default options accept, in bytes.
pub const DEFAULT_MAX_PAYLOAD_BYTES: u32 = 64 << 20;

/// How a journal is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalOptions {
    /// When records become durable.
    pub durability: Durability,
    /// Length in bytes over which no record may take a segment that has records; such a record opens the next segment.
    pub max_segment_bytes: u64,
    /// The largest payload that is accepted, in bytes.
    pub max_payload_bytes: u32,
    /// Which records are checked on opening.
    pub check: OpenCheck,
    /// How long to wait for another writer to close the journal.
    pub lock_timeout: Duration,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            max_segment_bytes: DEFAULT_MAX_SEGMENT_BYTES,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            check: OpenCheck::default(),
            lock_timeout: Duration::ZERO,
        }
    }
}

/// A journal that is open for writing. Share it by reference or `Arc`: every method takes `&self`.
///
/// Dropping a journal closes it; only [`Journal::close`] reports whether that went well.
#[derive(Debug)]
pub struct Journal {
    pub(super) appender: Arc<Appender>,
    syncer: Option<JoinHandle<()>>,
    /// Opened by the first [`Journal::read`].
    reader: Mutex<Option<JournalReader>>,
    check: OpenCheck,
    is_closed: bool,
    // Dropped last: no other writer may begin before everything above is done.
    _lock: disk::KernelLock,
}

impl Journal {
    /// Opens the journal in `directory` with default options. What recovery cut or renamed goes to the log of the program; [`open`]
    /// returns it.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(directory: &Path) -> Result<Self> {
        let (journal, report) = open(directory, &JournalOptions::default())?;
        report.recovery.log();
        Ok(journal)
    }

    /// Appends one record and returns its offset; the record is durable as the journal's level says.
    ///
    /// # Errors
    /// [`JournalError::PayloadTooLarge`], after which the journal goes on; [`JournalError::Poisoned`] for a failed write
    /// or sync, this one or an earlier one: the record is not acknowledged. A reader may still find it where it could not be
    /// cut off again, because the disk fails, a consumer has read it, or the level does not sync each append.
    /// [`JournalError::Full`].
    pub fn append(&self, payload: &[u8]) -> Result<u64> {
        let record = self.appender.encode(payload)?;
        let mut offset = 0;
        self.appender.append(std::iter::once(&record), |at| offset = at)?;
        Ok(offset)
    }

    /// Appends records that become durable together, in one write for each segment that they go to; returns the offset
    /// of each.
    ///
    /// # Errors
    /// As [`Journal::append`]; one payload that is too large refuses the whole batch before anything is written.
    pub fn append_batch<P: AsRef<[u8]>>(&self, payloads: &[P]) -> Result<Vec<u64>> {
        let records: Vec<EncodedRecord> =
            payloads.iter().map(|payload| self.appender.encode(payload.as_ref())).collect::<Result<_>>()?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let mut offsets = Vec::with_capacity(records.len());
        self.appender.append(records.iter(), |offset| offsets.push(offset))?;
        Ok(offsets)
    }

    /// Returns a guard whose appends are synced together, when it is committed or dropped, whatever the journal's level.
    pub fn fsync_guard(&self) -> FsyncGuard<'_> {
        FsyncGuard::new(&self.appender)
    }

    /// Waits until everything that was appended is on stable storage.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`].
    pub fn sync(&self) -> Result<()> {
        self.appender.sync()
    }

    /// Returns the offset after the last record, which is the next record's.
    pub fn end(&self) -> u64 {
        self.appender.end()
    }

    /// Every record before this offset is known to be on stable storage.
    pub fn synced(&self) -> u64 {
        self.appender.synced()
    }

    /// Reads the record at `offset`; `None` at the end of the journal. A read that misses lists the segments again and tries
    /// once more.
    ///
    /// To read many records, [`Journal::reader`] copies no payload and does not exclude other callers.
    ///
    /// # Errors
    /// As [`JournalReader::read`].
    pub fn read(&self, offset: u64) -> Result<Option<Record>> {
        let mut kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = match &mut *kept {
            Some(reader) => reader,
            none => none.insert(self.reader()?),
        };
        Ok(reader.read(offset)?.map(RecordRef::to_record))
    }

    /// Returns a reader of this journal. It sees records that are appended later.
    ///
    /// # Errors
    /// As [`JournalReader::open`].
    pub fn reader(&self) -> Result<JournalReader> {
        JournalReader::open(self.appender.directory().root())
    }

    /// Deletes the sealed segments that every cursor has passed. Without a cursor nothing is deleted.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] for a cursor that cannot be read: nothing is deleted then; file operations that fail.
    pub fn cleanup(&self) -> Result<CleanupReport> {
        self.appender.cleanup()
    }

    /// Syncs, replaces the synced mark (unless the journal was opened from a mark that is near) and releases the lock.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`] when an append or sync failed, or this last sync does.
    pub fn close(mut self) -> Result<()> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<()> {
        self.is_closed = true;
        self.appender.begin_close();
        if let Some(syncer) = self.syncer.take() {
            // This thread does not panic. If it did, the sync below would find out what is not durable.
            let _ = syncer.join();
        }
        self.appender.close(self.check == OpenCheck::FromSyncedMark)
    }
}

/// Opens the journal in `directory` for writing, creating both when missing, and recovers what a torn write left.
///
/// # Errors
/// [`JournalError::Locked`] when another writer has it open for longer than `lock_timeout`;
/// [`JournalError::Corrupt`], [`JournalError::Unsupported`] and [`JournalError::Damaged`], which change nothing;
/// [`JournalError::Quarantine`]; [`JournalError::Threads`]; file operations that fail.
pub fn open(directory: &Path, options: &JournalOptions) -> Result<(Journal, RecoveryReport), JournalError> {
    let &JournalOptions { durability, max_segment_bytes, max_payload_bytes, check, lock_timeout } = options;
    disk::create_dir_all(directory)?;
    let directory = Directory::at(directory);
    let lock = directory.lock(lock_timeout)?;
    let recovered = recover_locked(&directory, check, OnCorruption::Refuse)?;
    let mut report = recovered.report;
    if recovered.is_new {
        report.recovery.set_aside.extend(directory.begin()?);
    } else if directory.read_identity()?.is_none() {
        directory.write_identity()?;
    }
    let (file, base, len_bytes) = match recovered.active {
        Some(active) => {
            (disk::File::open_rw(&directory.segment(active.base))?, active.base, active.len_bytes)
        }
        None => {
            report.segments += 1;
            (create_segment(&directory, report.end)?, report.end, HEADER_SIZE)
        }
    };
    let limits = AppendLimits { durability, max_segment_bytes, max_payload_bytes };
    // Recovery has synced what it found.
    let active = ActiveSegment::new(file, base, len_bytes, recovered.mark);
    let (appender, syncer) = Appender::start(directory, limits, active)?;
    let journal =
        Journal { appender, syncer, reader: Mutex::default(), check, is_closed: false, _lock: lock };
    Ok((journal, report))
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_closed
            && let Err(error) = self.shut_down()
        {
            tracing::error!(%error, "a journal was not closed cleanly");
        }
    }
}

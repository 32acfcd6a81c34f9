//! Appending, and when an appended record is durable: levels, the shared sync, guards, rotation, poison.
//!
//! May touch: segments and the mark of a journal whose lock is held. Guarantees: an acknowledged record is as durable as its level says;
//! after the first failed write or sync nothing is acknowledged, and records that were not acknowledged are cut off again
//! where that is known to be safe; records are written in the order of their offsets, each in one piece.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::directory::Directory;
use super::error::{JournalError, Result};
use super::format::{EncodedRecord, FileKind, HEADER_SIZE, MAX_OFFSET};
use super::segment::{CleanupReport, cleanup_locked};
use crate::disk::{self, Replacing};
use crate::store::Durability;

/// On close, a mark that fewer bytes than this follow is not replaced, because replacing the file costs more than checking these
/// bytes at the next opening, and more than the one sync of a short-lived writer.
const NEAR_MARK_BYTES: u64 = 64 * 1024;

/// Once a writer has appended `AHEAD_AFTER_BYTES`, it writes zeros ahead of its records, `AHEAD_BYTES` at a time. A sync then
/// has no new length or block to make durable, which took it from 1.5 ms to 0.5 ms on ext4 while the disk was busy.
const AHEAD_AFTER_BYTES: u64 = if cfg!(test) { 200 } else { 64 * 1024 };
const AHEAD_BYTES: u64 = if cfg!(test) { 700 } else { 512 * 1024 };

/// The writing side of an open journal: one at a time, because its maker holds the journal's lock.
#[derive(Debug)]
pub(super) struct Appender {
    directory: Directory,
    limits: AppendLimits,
    active: Mutex<ActiveSegment>,
    /// Whether a caller is syncing. The others wait, and mostly find their records synced afterwards.
    is_syncing: Mutex<bool>,
    sync_ended: Condvar,
    /// Held while a segment is synced. Its holder never waits for `active`.
    sync_turn: Mutex<()>,
    /// The failure after which no record is accepted.
    poisoned: OnceLock<Arc<disk::Error>>,
    /// Every record before this offset is on stable storage.
    synced: AtomicU64,
    /// Wakes the thread of `Batched`: there is a record to sync, or the journal is closing.
    wake: Condvar,
}

/// What an [`Appender`] needs of the journal's options.
#[derive(Debug, Clone, Copy)]
pub(super) struct AppendLimits {
    pub(super) durability: Durability,
    pub(super) max_segment_bytes: u64,
    pub(super) max_payload_bytes: u32,
}

/// The segment that the next record goes to.
#[derive(Debug)]
pub(super) struct ActiveSegment {
    file: Arc<disk::File>,
    base: u64,
    /// Header and records.
    len_bytes: u64,
    /// Length of the file, which is more when zeros were written ahead.
    allocated_bytes: u64,
    /// Since this writer opened the journal.
    appended_bytes: u64,
    /// The offset in the file of the synced mark, when it is known.
    mark: Option<u64>,
    /// Under `Batched`: records that were written since the last sync, and when the first of them was.
    waiting: usize,
    waiting_since: Option<Instant>,
    is_closing: bool,
}

impl ActiveSegment {
    /// The segment in `file` with header and records of `len_bytes`.
    pub(super) fn new(file: disk::File, base: u64, len_bytes: u64, mark: Option<u64>) -> Self {
        Self {
            file: Arc::new(file),
            base,
            len_bytes,
            allocated_bytes: len_bytes,
            appended_bytes: 0,
            mark,
            waiting: 0,
            waiting_since: None,
            is_closing: false,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.base + self.len_bytes - HEADER_SIZE
    }

    /// Cuts off the zeros written ahead; returns whether there were any.
    fn cut_zeros(&mut self) -> Result<bool, disk::Error> {
        let has_zeros = self.allocated_bytes > self.len_bytes;
        if has_zeros {
            self.file.set_len(self.len_bytes)?;
            self.allocated_bytes = self.len_bytes;
        }
        Ok(has_zeros)
    }
}

/// Appends whose sync is put off until the guard is committed or dropped. `Journal::fsync_guard` returns one.
#[derive(Debug)]
#[must_use = "dropping the guard at once syncs nothing"]
pub struct FsyncGuard<'j> {
    appender: &'j Appender,
    /// After the last record that was appended through this guard; 0 before the first.
    end: u64,
}

impl<'j> FsyncGuard<'j> {
    pub(super) fn new(appender: &'j Appender) -> Self {
        Self { appender, end: 0 }
    }

    /// Appends one record and returns its offset. The record is durable after [`FsyncGuard::commit`] returned `Ok`. Dropping the
    /// guard also syncs, but reports a failure only to the program's log.
    ///
    /// # Errors
    /// As `Journal::append`.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64> {
        let record = self.appender.encode(payload)?;
        let mut offset = 0;
        self.end = self.appender.write_each(std::iter::once(&record), |at| offset = at)?;
        Ok(offset)
    }

    /// Waits until everything that was appended through this guard is on stable storage.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: none of these records is acknowledged.
    pub fn commit(mut self) -> Result<()> {
        let end = std::mem::take(&mut self.end);
        self.appender.sync_to(end)
    }
}

impl Drop for FsyncGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.appender.sync_to(self.end) {
            tracing::error!(%error, "records of a dropped guard were not synced; the journal is poisoned");
        }
    }
}

impl Appender {
    /// Takes over a journal whose records are all synced, and starts the thread of [`Durability::Batched`].
    pub(super) fn start(
        directory: Directory,
        limits: AppendLimits,
        active: ActiveSegment,
    ) -> Result<(Arc<Self>, Option<JoinHandle<()>>)> {
        let synced = AtomicU64::new(active.end());
        let appender = Arc::new(Self {
            directory,
            limits,
            active: Mutex::new(active),
            is_syncing: Mutex::new(false),
            sync_ended: Condvar::new(),
            sync_turn: Mutex::new(()),
            poisoned: OnceLock::new(),
            synced,
            wake: Condvar::new(),
        });
        let syncer = match limits.durability {
            Durability::Batched { max_delay, .. } => Some(start_syncer(appender.clone(), max_delay)?),
            Durability::Immediate | Durability::Os => None,
        };
        Ok((appender, syncer))
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Returns the offset after the last record.
    pub(super) fn end(&self) -> u64 {
        self.active().end()
    }

    pub(super) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// Makes a record of a payload, without a lock: callers do this side by side.
    pub(super) fn encode(&self, payload: &[u8]) -> Result<EncodedRecord> {
        let limit_bytes = self.limits.max_payload_bytes;
        if payload.len() > limit_bytes as usize {
            return Err(JournalError::PayloadTooLarge { len_bytes: payload.len(), limit_bytes });
        }
        Ok(EncodedRecord::new(payload))
    }

    /// Writes records and acknowledges them as the journal's level says.
    pub(super) fn append<'r>(
        &self,
        records: impl Iterator<Item = &'r EncodedRecord>,
        on_offset: impl FnMut(u64),
    ) -> Result<()> {
        let end = self.write_each(records, on_offset)?;
        match self.limits.durability {
            Durability::Immediate => self.sync_to(end),
            Durability::Batched { max_records, .. } if self.active().waiting >= max_records => {
                self.sync_to(end)
            }
            Durability::Batched { .. } | Durability::Os => Ok(()),
        }
    }

    /// Writes records and syncs once, whatever the level.
    #[cfg(feature = "group-commit")]
    pub(super) fn commit_each<'r>(
        &self,
        records: impl Iterator<Item = &'r EncodedRecord>,
        on_offset: impl FnMut(u64),
    ) -> Result<()> {
        let end = self.write_each(records, on_offset)?;
        self.sync_to(end)
    }

    /// Waits until everything that was appended is on stable storage.
    pub(super) fn sync(&self) -> Result<()> {
        self.refuse_if_poisoned()?;
        self.sync_to(self.end())
    }

    pub(super) fn cleanup(&self) -> Result<CleanupReport> {
        // No rotation meanwhile, because the list of segments must not end in one that is being created.
        let _active = self.active();
        cleanup_locked(&self.directory)
    }

    /// Makes the thread of `Batched` end.
    pub(super) fn begin_close(&self) {
        self.active().is_closing = true;
        self.wake.notify_all();
    }

    /// Syncs, cuts off the zeros written ahead, and replaces the mark. With `may_keep_near_mark`, a mark that few bytes follow stays.
    pub(super) fn close(&self, may_keep_near_mark: bool) -> Result<()> {
        self.sync()?;
        let mut active = self.active();
        let end = active.end();
        if active.cut_zeros().map_err(|error| self.poison(error))? {
            self.sync_segment(&active.file, end)?;
        }
        let is_near = active
            .mark
            .is_some_and(|mark| mark == end || (may_keep_near_mark && end - mark < NEAR_MARK_BYTES));
        if !is_near {
            let written = self.directory.write_mark(end, Replacing::Unsynced);
            written.map_err(|error| self.poison(error))?;
            active.mark = Some(end);
        }
        Ok(())
    }

    /// A panic of a holder leaves the segment as the last finished write made it.
    fn active(&self) -> MutexGuard<'_, ActiveSegment> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poison(&self, error: disk::Error) -> JournalError {
        JournalError::Poisoned { first: self.poisoned.get_or_init(|| Arc::new(error)).clone() }
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        match self.poisoned.get() {
            Some(first) => Err(JournalError::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Syncs a segment, after which every record before `end` is on stable storage. One caller at a time, because the system
    /// reports a failed write once for each descriptor: the next sync succeeds although the bytes are lost.
    fn sync_segment(&self, segment: &disk::File, end: u64) -> Result<()> {
        let _turn = self.sync_turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_if_poisoned()?;
        segment.sync_data().map_err(|error| self.poison(error))?;
        self.synced.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// After a failed write or sync: cuts the segment back to `end`, so that no reader finds records whose callers got an error,
    /// but never below the offset that a consumer has reached. When the cut fails, too, the next opening finds those records.
    fn cut_back(&self, active: &mut ActiveSegment, end: u64) {
        let Ok(consumed) = self.directory.furthest_cursor() else { return };
        let end = end.max(consumed.unwrap_or(0)).clamp(active.base, active.end());
        let len_bytes = end - active.base + HEADER_SIZE;
        let cut = active.file.set_len(len_bytes).and_then(|()| active.file.sync_data());
        match cut {
            Ok(()) => (active.len_bytes, active.allocated_bytes) = (len_bytes, len_bytes),
            Err(error) => tracing::warn!(%error, "records that were not acknowledged could not be cut off"),
        }
    }

    /// After a failed sync: only under `Immediate` is a record that was not synced known not to be acknowledged.
    fn cut_back_to_synced(&self, active: &mut ActiveSegment) {
        if self.limits.durability == Durability::Immediate {
            self.cut_back(active, self.synced.load(Ordering::Acquire));
        }
    }

    /// Writes records one after the other, passes the offset of each to `on_offset`, and returns the end.
    fn write_each<'r>(
        &self,
        records: impl Iterator<Item = &'r EncodedRecord>,
        mut on_offset: impl FnMut(u64),
    ) -> Result<u64> {
        let mut active = self.active();
        self.refuse_if_poisoned()?;
        let mut run = WriteRun::default();
        for record in records {
            let len_bytes = record.bytes().len() as u64;
            let run_end = active.len_bytes + run.len_bytes();
            if active.end() + run.len_bytes() + len_bytes > MAX_OFFSET {
                return Err(JournalError::Full { directory: self.directory.root().to_owned() });
            }
            if run_end > HEADER_SIZE && run_end + len_bytes > self.limits.max_segment_bytes {
                self.flush_run(&mut active, &mut run)?;
                self.rotate(&mut active)?;
            }
            on_offset(active.end() + run.len_bytes());
            run.push(record.bytes());
        }
        self.flush_run(&mut active, &mut run)?;
        Ok(active.end())
    }

    fn flush_run(&self, active: &mut ActiveSegment, run: &mut WriteRun) -> Result<()> {
        if run.records == 0 {
            return Ok(());
        }
        let end = active.len_bytes + run.len_bytes();
        active.appended_bytes += run.len_bytes();
        let is_long_lived = active.appended_bytes > AHEAD_AFTER_BYTES;
        if end > active.allocated_bytes {
            active.allocated_bytes = end;
            if is_long_lived && self.limits.durability != Durability::Os {
                active.allocated_bytes = (end + AHEAD_BYTES).min(self.limits.max_segment_bytes).max(end);
                run.bytes.resize((active.allocated_bytes - active.len_bytes) as usize, 0);
            }
        }
        if let Err(error) = active.file.write_all_at(&run.bytes, active.len_bytes) {
            let poisoned = self.poison(error);
            let whole = active.end();
            self.cut_back(active, whole);
            return Err(poisoned);
        }
        active.len_bytes = end;
        if let Durability::Batched { .. } = self.limits.durability {
            active.waiting += run.records;
            if active.waiting_since.is_none() {
                active.waiting_since = Some(Instant::now());
                self.wake.notify_all();
            }
        }
        *run = WriteRun::default();
        Ok(())
    }

    /// Seals the active segment and starts the next one.
    fn rotate(&self, active: &mut ActiveSegment) -> Result<()> {
        let end = active.end();
        active.cut_zeros().map_err(|error| self.poison(error))?;
        if let Err(error) = self.sync_segment(&active.file, end) {
            self.cut_back_to_synced(active);
            return Err(error);
        }
        let created = create_segment(&self.directory, end)
            .and_then(|next| self.directory.write_mark(end, Replacing::Durable).map(|()| next));
        let next = created.map_err(|error| self.poison(error))?;
        (active.file, active.base, active.len_bytes) = (Arc::new(next), end, HEADER_SIZE);
        active.allocated_bytes = HEADER_SIZE;
        (active.mark, active.waiting, active.waiting_since) = (Some(end), 0, None);
        Ok(())
    }

    /// Waits until every record before `end` is on stable storage.
    fn sync_to(&self, end: u64) -> Result<()> {
        let is_synced = || self.synced.load(Ordering::Acquire) >= end;
        if is_synced() {
            return Ok(());
        }
        let mut is_syncing = self.is_syncing.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_syncing && !is_synced() {
            is_syncing = self.sync_ended.wait(is_syncing).unwrap_or_else(PoisonError::into_inner);
        }
        if is_synced() {
            return Ok(());
        }
        *is_syncing = true;
        drop(is_syncing);
        let outcome = self.sync_written();
        *self.is_syncing.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.sync_ended.notify_all();
        outcome
    }

    /// Syncs everything written so far; for the one caller whose turn it is.
    fn sync_written(&self) -> Result<()> {
        self.refuse_if_poisoned()?;
        let (segment, target) = {
            let mut active = self.active();
            (active.waiting, active.waiting_since) = (0, None);
            (active.file.clone(), active.end())
        };
        // Earlier segments were synced when they were sealed.
        self.sync_segment(&segment, target).inspect_err(|_| self.cut_back_to_synced(&mut self.active()))
    }
}

/// Records that go to the disk in one write.
#[derive(Default)]
struct WriteRun {
    bytes: Vec<u8>,
    records: usize,
}

impl WriteRun {
    fn push(&mut self, record: &[u8]) {
        self.records += 1;
        self.bytes.extend_from_slice(record);
    }

    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Creates a segment exclusively. The file and its name are durable on return.
pub(super) fn create_segment(directory: &Directory, base: u64) -> Result<disk::File, disk::Error> {
    let file = disk::File::create_new(&directory.segment(base))?;
    file.write_all_at(&FileKind::Segment.encode(base), 0)?;
    file.sync_all()?;
    disk::sync_dir(directory.root())?;
    Ok(file)
}

/// Starts the thread that syncs what has waited for `max_delay`.
fn start_syncer(appender: Arc<Appender>, max_delay: Duration) -> Result<JoinHandle<()>> {
    let work = move || {
        let mut active = appender.active();
        while !active.is_closing && appender.poisoned.get().is_none() {
            let Some(since) = active.waiting_since else {
                active = appender.wake.wait(active).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = max_delay.saturating_sub(since.elapsed());
            if !left.is_zero() {
                (active, _) =
                    appender.wake.wait_timeout(active, left).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let end = active.end();
            drop(active);
            if let Err(error) = appender.sync_to(end) {
                tracing::error!(%error, "the journal could not sync its batch and is poisoned");
            }
            active = appender.active();
        }
    };
    start_thread("burn-sync", disk::handed_over(work))
}

/// Starts a thread of the journal.
pub(super) fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|source| JournalError::Threads { source: Arc::new(source) })
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests;

//! The writer: appends, durability, rotation, poison.
//!
//! May touch: the journal's directory, under its lock. Promises: an acknowledged record is as durable as its level says;
//! after the first failed write or sync nothing is acknowledged any more, and what was not acknowledged is cut off again as
//! far as that is known; records are written in the order of their offsets and each in one piece.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cursor::{CleanupReport, cleanup_locked};
use super::directory::Directory;
use super::error::JournalError;
use super::format::{EncodedRecord, HEADER_LEN_BYTES, MAX_OFFSET, Stamp};
use super::reader::JournalReader;
use super::recovery::{OpenCheck, RecoveryReport, recover_locked};
use crate::disk;

/// The largest segment of a journal opened with default options, in bytes.
pub const DEFAULT_MAX_SEGMENT_BYTES: u64 = 64 << 20;

/// The largest payload that default options accept, in bytes.
pub const DEFAULT_MAX_PAYLOAD_BYTES: u32 = 64 << 20;

/// A journal opened from the synced mark leaves the mark where it is while fewer bytes follow it: replacing a file costs
/// more than checking as much again, and more than the sync that a short-lived writer came for.
const NEAR_MARK_BYTES: u64 = 64 * 1024;

/// Once a writer has appended so much, it writes zeros ahead of its records, so many at a time: a sync then has no new
/// length or block to make durable, which on ext4 takes it from 1.5 ms to 0.5 ms while the disk is busy.
const AHEAD_AFTER_BYTES: u64 = if cfg!(test) { 200 } else { 64 * 1024 };
const AHEAD_BYTES: u64 = if cfg!(test) { 700 } else { 512 * 1024 };

/// When an appended record is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DurabilityLevel {
    /// Before `append` returns. Callers that wait at the same time share one sync.
    #[default]
    Immediate,
    /// Some time after `append` returned: once `max_records` wait for it, or the oldest has waited for `max_delay`.
    Batched {
        /// How many records may wait; 0 counts as 1.
        max_records: usize,
        /// How long a record may wait.
        max_delay: Duration,
    },
    /// When the operating system writes it, a segment is sealed, or the journal is closed or told to [`Journal::sync`].
    Os,
}

/// How a journal is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalOptions {
    /// When records become durable.
    pub durability: DurabilityLevel,
    /// A record that would take a segment that has records over this length in bytes opens the next one.
    pub max_segment_bytes: u64,
    /// The largest payload accepted, in bytes.
    pub max_payload_bytes: u32,
    /// Which records are checked on opening.
    pub check: OpenCheck,
    /// How long to wait for another writer to close the journal.
    pub lock_timeout: Duration,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            durability: DurabilityLevel::default(),
            max_segment_bytes: DEFAULT_MAX_SEGMENT_BYTES,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            check: OpenCheck::default(),
            lock_timeout: Duration::ZERO,
        }
    }
}

/// A journal opened for writing. Share it by reference or `Arc`: every method takes `&self`.
///
/// Dropping it closes it; only [`Journal::close`] tells whether that went well.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    syncer: Option<JoinHandle<()>>,
    report: RecoveryReport,
    is_closed: bool,
    // Dropped last: nobody else may write before everything above is done.
    _lock: disk::KernelLock,
}

#[derive(Debug)]
struct Shared {
    directory: Directory,
    options: JournalOptions,
    state: Mutex<State>,
    /// Whether a caller syncs just now; the others wait, and mostly find their records synced afterwards.
    is_syncing: Mutex<bool>,
    sync_ended: Condvar,
    /// Held while a segment is synced. Whoever holds it does not wait for `state`.
    sync_turn: Mutex<()>,
    /// The failure after which nothing is taken any more.
    poisoned: OnceLock<Arc<disk::Error>>,
    /// Every record before this offset is on stable storage.
    synced: AtomicU64,
    /// Wakes the thread of `Batched`: there is something to sync, or it is to end.
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    segment: Arc<disk::File>,
    base: u64,
    /// Header and records.
    len_bytes: u64,
    /// The file's length: more than that when zeros were written ahead.
    allocated_bytes: u64,
    /// Since this writer opened the journal.
    appended_bytes: u64,
    /// The offset in the synced mark's file, when it is known to be there.
    mark: Option<u64>,
    /// Under `Batched`: records written since the last sync, and when the first of them was.
    waiting: usize,
    waiting_since: Option<Instant>,
    is_closing: bool,
}

impl State {
    fn end(&self) -> u64 {
        self.base + self.len_bytes - HEADER_LEN_BYTES
    }

    /// Cuts off the zeros written ahead, and answers whether there were any.
    fn cut_zeros(&mut self) -> Result<bool, disk::Error> {
        let has_zeros = self.allocated_bytes > self.len_bytes;
        if has_zeros {
            self.segment.set_len(self.len_bytes)?;
            self.allocated_bytes = self.len_bytes;
        }
        Ok(has_zeros)
    }
}

impl Journal {
    /// Opens the journal in `directory` for writing, creating both when missing, and recovers what a torn write left.
    ///
    /// # Errors
    /// [`JournalError::Locked`] when another writer has it open for longer than `lock_timeout`;
    /// [`JournalError::Corrupt`], [`JournalError::Unsupported`] and [`JournalError::Damaged`], which change nothing;
    /// [`JournalError::Threads`]; file operations that fail.
    pub fn open(directory: &Path, options: JournalOptions) -> Result<Self, JournalError> {
        disk::create_dir_all(directory)?;
        let directory = Directory::at(directory);
        let lock = directory.lock(options.lock_timeout)?;
        let recovered = recover_locked(&directory, options.check, false)?;
        if recovered.is_new {
            directory.begin()?;
        } else if directory.read_identity()?.is_none() {
            directory.write_identity()?;
        }
        let mut report = recovered.report;
        let (segment, base, len_bytes) = match recovered.active {
            Some(active) => {
                (disk::File::open_rw(&directory.segment(active.base))?, active.base, active.len_bytes)
            }
            None => {
                report.segments += 1;
                (create_segment(&directory, report.end)?, report.end, HEADER_LEN_BYTES)
            }
        };
        let state = State {
            segment: Arc::new(segment),
            base,
            len_bytes,
            allocated_bytes: len_bytes,
            appended_bytes: 0,
            mark: recovered.mark,
            waiting: 0,
            waiting_since: None,
            is_closing: false,
        };
        // Recovery has synced what it found.
        let synced = AtomicU64::new(report.end);
        let shared = Arc::new(Shared {
            directory,
            options,
            state: Mutex::new(state),
            is_syncing: Mutex::new(false),
            sync_ended: Condvar::new(),
            sync_turn: Mutex::new(()),
            poisoned: OnceLock::new(),
            synced,
            wake: Condvar::new(),
        });
        let syncer = match shared.options.durability {
            DurabilityLevel::Batched { max_delay, .. } => Some(start_syncer(shared.clone(), max_delay)?),
            DurabilityLevel::Immediate | DurabilityLevel::Os => None,
        };
        Ok(Self { shared, syncer, report, is_closed: false, _lock: lock })
    }

    /// What opening found and did.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Appends one record and answers its offset, durable as the journal's level says.
    ///
    /// # Errors
    /// [`JournalError::PayloadTooLarge`], after which the journal goes on; [`JournalError::Poisoned`] for a failed write
    /// or sync, this one or an earlier one: the record is not acknowledged, though it may be found later where it could not be
    /// cut off again (the disk fails, a consumer has read it, or the level does not sync each append). [`JournalError::Full`].
    pub fn append(&self, payload: &[u8]) -> Result<u64, JournalError> {
        let record = self.encode(payload)?;
        let (offset, end) = self.shared.write(std::iter::once(&record))?;
        self.shared.acknowledge(end)?;
        Ok(offset)
    }

    /// Appends records that become durable together, in one write for each segment they fall into; answers the offset
    /// of each.
    ///
    /// # Errors
    /// As [`Journal::append`]; one payload that is too large refuses the whole batch before anything is written.
    pub fn append_batch<P: AsRef<[u8]>>(&self, payloads: &[P]) -> Result<Vec<u64>, JournalError> {
        let records =
            payloads.iter().map(|payload| self.encode(payload.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let mut offsets = Vec::with_capacity(records.len());
        let end = self.shared.write_each(records.iter(), |offset| offsets.push(offset))?;
        self.shared.acknowledge(end)?;
        Ok(offsets)
    }

    /// A guard whose appends are synced together, when it is committed or dropped, whatever the journal's level.
    pub fn fsync_guard(&self) -> FsyncGuard<'_> {
        FsyncGuard { journal: self, end: 0 }
    }

    /// Waits until everything appended so far is on stable storage.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`].
    pub fn sync(&self) -> Result<(), JournalError> {
        self.shared.refuse_if_poisoned()?;
        let end = self.shared.state().end();
        self.shared.sync_to(end)
    }

    /// The offset behind the last record: the next record's.
    pub fn end(&self) -> u64 {
        self.shared.state().end()
    }

    /// Every record before this offset is known to be on stable storage.
    pub fn synced(&self) -> u64 {
        self.shared.synced.load(Ordering::Acquire)
    }

    /// A reader of this journal; it sees what is appended later.
    ///
    /// # Errors
    /// As [`JournalReader::open`].
    pub fn reader(&self) -> Result<JournalReader, JournalError> {
        JournalReader::open(self.shared.directory.root())
    }

    /// Deletes the sealed segments that every cursor has passed. Without a cursor nothing is deleted.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] for a cursor that cannot be read: nothing is deleted then; file operations that fail.
    pub fn cleanup(&self) -> Result<CleanupReport, JournalError> {
        // No rotation meanwhile: the list of segments must not end in one that is being made.
        let _state = self.shared.state();
        cleanup_locked(&self.shared.directory)
    }

    /// Syncs, replaces the synced mark (unless it was opened from a mark that is near) and lets go of the lock.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`] when an append or sync failed, be it this last one.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.shut_down()
    }

    /// Checks the payload's length and makes a record of it, without a lock: callers do this side by side.
    pub(super) fn encode(&self, payload: &[u8]) -> Result<EncodedRecord, JournalError> {
        let limit_bytes = self.shared.options.max_payload_bytes;
        if payload.len() > limit_bytes as usize {
            return Err(JournalError::PayloadTooLarge { len_bytes: payload.len(), limit_bytes });
        }
        Ok(EncodedRecord::new(payload))
    }

    /// Writes records and syncs once, whatever the level.
    #[cfg(feature = "group-commit")]
    pub(super) fn commit_each<'r>(
        &self,
        records: impl Iterator<Item = &'r EncodedRecord>,
        at: impl FnMut(u64),
    ) -> Result<(), JournalError> {
        let end = self.shared.write_each(records, at)?;
        self.shared.sync_to(end)
    }

    fn shut_down(&mut self) -> Result<(), JournalError> {
        self.is_closed = true;
        self.shared.state().is_closing = true;
        self.shared.wake.notify_all();
        if let Some(syncer) = self.syncer.take() {
            // It does not panic; were it to, the sync below would find out what is not durable.
            let _ = syncer.join();
        }
        self.sync()?;
        let mut state = self.shared.state();
        let end = state.end();
        if state.cut_zeros().map_err(|error| self.shared.poison(error))? {
            self.shared.sync_segment(&state.segment, end)?;
        }
        let may_stay = self.shared.options.check == OpenCheck::FromSyncedMark;
        let is_near =
            state.mark.is_some_and(|mark| mark == end || (may_stay && end - mark < NEAR_MARK_BYTES));
        if !is_near {
            let written = self.shared.directory.write_mark(end, false);
            written.map_err(|error| self.shared.poison(error))?;
            state.mark = Some(end);
        }
        Ok(())
    }
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

/// Appends whose sync is put off until the guard is committed or dropped. See [`Journal::fsync_guard`].
#[derive(Debug)]
#[must_use = "dropping the guard at once syncs nothing"]
pub struct FsyncGuard<'j> {
    journal: &'j Journal,
    /// Behind the last record appended through this guard; 0 before the first.
    end: u64,
}

impl FsyncGuard<'_> {
    /// Appends one record and answers its offset. It is durable once the guard is committed or dropped.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, JournalError> {
        let record = self.journal.encode(payload)?;
        let (offset, end) = self.journal.shared.write(std::iter::once(&record))?;
        self.end = end;
        Ok(offset)
    }

    /// Waits until everything appended through this guard is on stable storage.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: none of it is acknowledged.
    pub fn commit(mut self) -> Result<(), JournalError> {
        let end = std::mem::take(&mut self.end);
        self.journal.shared.sync_to(end)
    }
}

impl Drop for FsyncGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.journal.shared.sync_to(self.end) {
            tracing::error!(%error, "records of a dropped guard were not synced; the journal is poisoned");
        }
    }
}

impl Shared {
    /// A panic while the lock was held leaves the state as the last finished write made it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poison(&self, error: disk::Error) -> JournalError {
        JournalError::Poisoned { first: self.poisoned.get_or_init(|| Arc::new(error)).clone() }
    }

    fn refuse_if_poisoned(&self) -> Result<(), JournalError> {
        match self.poisoned.get() {
            Some(first) => Err(JournalError::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Syncs a segment, after which every record before `end` is on stable storage. One caller at a time, because the system
    /// tells of a write that failed once for each descriptor: the next sync succeeds although the bytes are lost.
    fn sync_segment(&self, segment: &disk::File, end: u64) -> Result<(), JournalError> {
        let _turn = self.sync_turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_if_poisoned()?;
        segment.sync_data().map_err(|error| self.poison(error))?;
        self.synced.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// After a failed write or sync: cuts the segment back to `end`, so that records which their callers were told have
    /// failed are not found later, though never below what a consumer has read. When that fails, too, the next opening finds
    /// what is there.
    fn cut_back(&self, state: &mut State, end: u64) {
        let Ok(consumed) = self.directory.furthest_cursor() else { return };
        let end = end.max(consumed.unwrap_or(0)).clamp(state.base, state.end());
        let len_bytes = end - state.base + HEADER_LEN_BYTES;
        let cut = state.segment.set_len(len_bytes).and_then(|()| state.segment.sync_data());
        match cut {
            Ok(()) => (state.len_bytes, state.allocated_bytes) = (len_bytes, len_bytes),
            Err(error) => tracing::warn!(%error, "records that were not acknowledged could not be cut off"),
        }
    }

    /// After a failed sync: only under `Immediate` it is known that what was not synced was not acknowledged.
    fn cut_back_to_synced(&self, state: &mut State) {
        if self.options.durability == DurabilityLevel::Immediate {
            self.cut_back(state, self.synced.load(Ordering::Acquire));
        }
    }

    /// Writes records; answers the first one's offset and the end.
    fn write<'r>(
        &self,
        records: impl Iterator<Item = &'r EncodedRecord>,
    ) -> Result<(u64, u64), JournalError> {
        let mut first = None;
        let end = self.write_each(records, |offset| first = first.or(Some(offset)))?;
        Ok((first.unwrap_or(end), end))
    }

    /// Writes records behind each other, tells each one's offset, and answers the end.
    fn write_each<'r>(
        &self,
        records: impl Iterator<Item = &'r EncodedRecord>,
        mut at: impl FnMut(u64),
    ) -> Result<u64, JournalError> {
        let mut state = self.state();
        self.refuse_if_poisoned()?;
        let mut run = Run::default();
        for record in records {
            let len_bytes = record.bytes().len() as u64;
            let run_end = state.len_bytes + run.len_bytes();
            if state.end() + run.len_bytes() + len_bytes > MAX_OFFSET {
                return Err(JournalError::Full { directory: self.directory.root().to_owned() });
            }
            if run_end > HEADER_LEN_BYTES && run_end + len_bytes > self.options.max_segment_bytes {
                self.flush_run(&mut state, &mut run)?;
                self.rotate(&mut state)?;
            }
            at(state.end() + run.len_bytes());
            run.push(record.bytes());
        }
        self.flush_run(&mut state, &mut run)?;
        Ok(state.end())
    }

    fn flush_run(&self, state: &mut State, run: &mut Run<'_>) -> Result<(), JournalError> {
        if run.records == 0 {
            return Ok(());
        }
        let end = state.len_bytes + run.len_bytes();
        state.appended_bytes += run.len_bytes();
        let is_long_lived = state.appended_bytes > AHEAD_AFTER_BYTES;
        if end > state.allocated_bytes {
            state.allocated_bytes = end;
            if is_long_lived && self.options.durability != DurabilityLevel::Os {
                state.allocated_bytes = (end + AHEAD_BYTES).min(self.options.max_segment_bytes).max(end);
                run.extend_with_zeros(state.allocated_bytes - end);
            }
        }
        if let Err(error) = state.segment.write_all_at(run.bytes(), state.len_bytes) {
            let poisoned = self.poison(error);
            let whole = state.end();
            self.cut_back(state, whole);
            return Err(poisoned);
        }
        state.len_bytes = end;
        if let DurabilityLevel::Batched { .. } = self.options.durability {
            state.waiting += run.records;
            if state.waiting_since.is_none() {
                state.waiting_since = Some(Instant::now());
                self.wake.notify_all();
            }
        }
        *run = Run::default();
        Ok(())
    }

    /// Seals the active segment and starts the next one.
    fn rotate(&self, state: &mut State) -> Result<(), JournalError> {
        let end = state.end();
        state.cut_zeros().map_err(|error| self.poison(error))?;
        if let Err(error) = self.sync_segment(&state.segment, end) {
            self.cut_back_to_synced(state);
            return Err(error);
        }
        let created = create_segment(&self.directory, end)
            .and_then(|next| self.directory.write_mark(end, true).map(|()| next));
        let next = created.map_err(|error| self.poison(error))?;
        (state.segment, state.base, state.len_bytes) = (Arc::new(next), end, HEADER_LEN_BYTES);
        state.allocated_bytes = HEADER_LEN_BYTES;
        (state.mark, state.waiting, state.waiting_since) = (Some(end), 0, None);
        Ok(())
    }

    /// What the journal's level demands before records that end at `end` are acknowledged.
    fn acknowledge(&self, end: u64) -> Result<(), JournalError> {
        match self.options.durability {
            DurabilityLevel::Immediate => self.sync_to(end),
            DurabilityLevel::Batched { max_records, .. } if self.state().waiting >= max_records => {
                self.sync_to(end)
            }
            DurabilityLevel::Batched { .. } | DurabilityLevel::Os => Ok(()),
        }
    }

    /// Waits until every record before `end` is on stable storage.
    fn sync_to(&self, end: u64) -> Result<(), JournalError> {
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
    fn sync_written(&self) -> Result<(), JournalError> {
        self.refuse_if_poisoned()?;
        let (segment, target) = {
            let mut state = self.state();
            (state.waiting, state.waiting_since) = (0, None);
            (state.segment.clone(), state.end())
        };
        // Earlier segments were synced when they were sealed.
        self.sync_segment(&segment, target).inspect_err(|_| self.cut_back_to_synced(&mut self.state()))
    }
}

/// Records that go to the disk in one write: the only one as it is, several copied together.
#[derive(Default)]
struct Run<'r> {
    single: Option<&'r [u8]>,
    joined: Vec<u8>,
    records: usize,
}

impl<'r> Run<'r> {
    fn push(&mut self, record: &'r [u8]) {
        self.records += 1;
        if self.records == 1 {
            self.single = Some(record);
            return;
        }
        if let Some(first) = self.single.take() {
            self.joined.extend_from_slice(first);
        }
        self.joined.extend_from_slice(record);
    }

    fn extend_with_zeros(&mut self, len_bytes: u64) {
        if let Some(only) = self.single.take() {
            self.joined.extend_from_slice(only);
        }
        self.joined.resize(self.joined.len() + len_bytes as usize, 0);
    }

    fn bytes(&self) -> &[u8] {
        self.single.unwrap_or(&self.joined)
    }

    fn len_bytes(&self) -> u64 {
        self.bytes().len() as u64
    }
}

/// Creates a segment exclusively; file and name are durable on return.
fn create_segment(directory: &Directory, base: u64) -> Result<disk::File, disk::Error> {
    let file = disk::File::create_new(&directory.segment(base))?;
    file.write_all_at(&Stamp::Segment.encode(base), 0)?;
    file.sync_all()?;
    disk::sync_dir(directory.root())?;
    Ok(file)
}

/// Starts the thread that syncs what has waited for `max_delay`.
fn start_syncer(shared: Arc<Shared>, max_delay: Duration) -> Result<JoinHandle<()>, JournalError> {
    let work = move || {
        let mut state = shared.state();
        while !state.is_closing && shared.poisoned.get().is_none() {
            let Some(since) = state.waiting_since else {
                state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = max_delay.saturating_sub(since.elapsed());
            if !left.is_zero() {
                (state, _) = shared.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let end = state.end();
            drop(state);
            if let Err(error) = shared.sync_to(end) {
                tracing::error!(%error, "the journal could not sync its batch and is poisoned");
            }
            state = shared.state();
        }
    };
    start_thread("burn-sync", disk::handed_over(work))
}

/// Starts a thread of the journal.
pub(super) fn start_thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, JournalError> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|reason| JournalError::Threads { reason: Arc::new(reason) })
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests;

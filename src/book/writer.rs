//! The writer of a book. For each batch it validates, appends, syncs once, applies, publishes and answers; docs/books.md.
//!
//! Appends to segments, begins new ones, and starts snapshots. Guarantees: no answer is sent before its batch is synced; after
//! a failed write or sync no job of the batch is acknowledged, the log is cut back to where the batch began, and the
//! caller writes no other batch.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use chrono::{DateTime, Utc};
use talea_core::store::{AccountCfg, Committed, SYSTEM_BOOK, StoreError, ledger_now};
use talea_core::types::{AccountDef, AssetDef, Seq};
use uuid::Uuid;

use super::error::BookError;
use super::files;
use super::frame;
use super::job::{Draft, Job, Reply};
use super::keys::{KeyOutcome, Keys};
use super::opening::OpenedBook;
use super::options::LogStoreOptions;
use super::scratch;
use super::snapshot::{self, KeysImage};
use super::state::{BookState, PostingRef};
use super::validate::Overlay;
use super::view::BookView;
use crate::disk;

/// Capacity that the buffer for frames keeps between batches.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// The writer of a book; only its thread uses it.
#[derive(Debug)]
pub(super) struct BookWriter {
    keys: Keys,
    active: disk::File,
    active_len_bytes: u64,
    segment_max_bytes: u64,
    /// Events between automatic snapshots; 0 for none.
    snapshot_every: u64,
    events_since_snapshot: u64,
    snapshot: Option<JoinHandle<()>>,
    /// Frames on their way to the active segment.
    buffer: Vec<u8>,
}

/// An event that was accepted and awaits its sync.
struct Accepted {
    seq: Seq,
    at: DateTime<Utc>,
    change: Change,
}

enum Change {
    Posted(Draft),
    Opened(AccountDef, AccountCfg),
    Registered(AssetDef),
}

/// An answer that awaits the sync.
enum PendingAnswer {
    /// A transaction: the outcome is that of the accepted event with this index.
    Accepted(Reply<Committed>, usize),
    Committed(Reply<Committed>, Result<Committed, StoreError>),
    Done(Reply<()>, Result<(), StoreError>),
}

impl PendingAnswer {
    fn send(self, accepted: &[KeyOutcome]) {
        match self {
            Self::Accepted(reply, index) => drop(reply.send(Ok(accepted[index].into()))),
            Self::Committed(reply, outcome) => drop(reply.send(outcome)),
            Self::Done(reply, outcome) => drop(reply.send(outcome)),
        }
    }

    fn refuse(self, error: BookError) {
        match self {
            Self::Accepted(reply, _) | Self::Committed(reply, _) => drop(reply.send(Err(error.into()))),
            Self::Done(reply, _) => drop(reply.send(Err(error.into()))),
        }
    }
}

/// A batch while it is written.
#[derive(Default)]
struct JobBatch {
    overlay: Overlay,
    accepted: Vec<Accepted>,
    outcomes: Vec<KeyOutcome>,
    answers: Vec<PendingAnswer>,
    snapshots: Vec<Reply<()>>,
    /// Events whose frames begin a segment, and the offset of every event.
    segments: Vec<Seq>,
    offsets: Vec<u64>,
}

impl BookWriter {
    /// The writer of an opened book, and the state it will change.
    pub(super) fn new(name: &str, opened: OpenedBook, options: &LogStoreOptions) -> (Self, BookState) {
        let OpenedBook { state, keys, active, active_len_bytes, events_since_snapshot, .. } = opened;
        let writer = Self {
            keys,
            active,
            active_len_bytes,
            segment_max_bytes: options.segment_max.max(1),
            // A snapshot of the system book would hold no registrations, and mislead programs that believe it does.
            snapshot_every: if name == SYSTEM_BOOK { 0 } else { options.snapshot_every },
            events_since_snapshot,
            snapshot: None,
            buffer: Vec::new(),
        };
        (writer, state)
    }

    /// Returns the thread that writes a snapshot, if there is one, for the caller to join.
    pub(super) fn take_snapshot_thread(&mut self) -> Option<JoinHandle<()>> {
        self.snapshot.take()
    }

    /// Validates, writes, syncs, applies, publishes and answers.
    ///
    /// # Errors
    /// When a write or a sync fails: then no job of the batch is acknowledged.
    pub(super) fn batch(&mut self, book: &BookView, jobs: Vec<Job>) -> Result<(), BookError> {
        let mut batch = JobBatch::default();
        let start_bytes = self.active_len_bytes;
        if let Err(error) = self.write(book, jobs, &mut batch) {
            let mut reason = error.to_string();
            if let Err(undo) = self.take_back(book, start_bytes, &batch.segments) {
                reason = format!("{reason}; what it wrote could not be taken back: {undo}");
            }
            let poisoned = || BookError::Poisoned { book: book.name.clone(), reason: reason.clone() };
            batch.answers.into_iter().for_each(|answer| answer.refuse(poisoned()));
            batch.snapshots.into_iter().for_each(|reply| drop(reply.send(Err(poisoned().into()))));
            return Err(error);
        }
        let events = batch.accepted.len() as u64;
        self.apply(book, batch.accepted, &batch.segments, &batch.offsets);
        for answer in batch.answers {
            answer.send(&batch.outcomes);
        }
        self.events_since_snapshot += events;
        self.tidy(book);
        self.take_snapshots(book, batch.snapshots);
        Ok(())
    }

    fn write(&mut self, book: &BookView, jobs: Vec<Job>, batch: &mut JobBatch) -> Result<(), BookError> {
        let state = book.state();
        let at = state.last_at.map_or_else(ledger_now, |last| last.max(ledger_now()));
        let mut next = state.next_seq;
        let mut failed = None;
        for job in jobs {
            // After a failure the rest of the batch is collected only to be refused.
            if failed.is_some() {
                batch.collect(job);
                continue;
            }
            let Some((json, change)) = self.decide(book, &state, job, batch) else { continue };
            let written = json.and_then(|json| self.append(book, next, at, &json, batch));
            if let Err(error) = written {
                failed = Some(error);
                continue;
            }
            let txid = if let Change::Posted(draft) = &change { draft.txid } else { Uuid::nil() };
            batch.outcomes.push(KeyOutcome { txid, seq: next, at });
            batch.accepted.push(Accepted { seq: next, at, change });
            next += 1;
        }
        drop(state);
        match failed {
            Some(error) => Err(error),
            None if batch.accepted.is_empty() => Ok(()),
            None => {
                self.flush_buffer()?;
                Ok(self.active.sync_data()?)
            }
        }
    }

    /// Validates one job; returns what to write, or `None` when nothing is to be written.
    fn decide(
        &self,
        book: &BookView,
        state: &BookState,
        job: Job,
        batch: &mut JobBatch,
    ) -> Option<(Result<Vec<u8>, BookError>, Change)> {
        match job {
            Job::Commit(mut draft, reply) => {
                if let Some(index) = batch.overlay.keys.get(&draft.key) {
                    batch.answers.push(PendingAnswer::Accepted(reply, *index));
                    return None;
                }
                let answer = match self.keys.find(&draft.key, state) {
                    Ok(Some(outcome)) => Ok(outcome.into()),
                    Ok(None) => match batch.overlay.validate(state, &draft) {
                        Ok(balances) => match std::mem::replace(&mut draft.json, Ok(Vec::new())) {
                            Ok(json) => {
                                let index = batch.accepted.len();
                                batch.overlay.debit_balances.extend(balances);
                                batch.overlay.keys.insert(Arc::clone(&draft.key), index);
                                batch.answers.push(PendingAnswer::Accepted(reply, index));
                                return Some((Ok(json), Change::Posted(draft)));
                            }
                            Err(error) => Err(error.into()),
                        },
                        Err(error) => Err(error),
                    },
                    // The key may be known, so it must not count as a new one.
                    Err(error) => Err(error.into()),
                };
                batch.answers.push(PendingAnswer::Committed(reply, answer));
                None
            }
            Job::Open(def, cfg, reply) => {
                let answer = match batch.overlay.find(state, &def.id) {
                    None => {
                        let json = frame::account_json(&def, &cfg);
                        batch.overlay.open(&def, &cfg);
                        batch.answers.push(PendingAnswer::Done(reply, Ok(())));
                        return Some((json, Change::Opened(def, cfg)));
                    }
                    Some(index) if batch.overlay.account(state, index) == (&def, &cfg) => Ok(()),
                    Some(_) => {
                        Err(StoreError::AlreadyExists { what: format!("account {}", def.id.to_key()) })
                    }
                };
                batch.answers.push(PendingAnswer::Done(reply, answer));
                None
            }
            Job::Register(asset, reply) => {
                let answer = match batch.overlay.asset(&book.assets, &asset.id) {
                    None => {
                        batch.overlay.registered.push(asset.clone());
                        batch.answers.push(PendingAnswer::Done(reply, Ok(())));
                        return Some((frame::asset_json(&asset), Change::Registered(asset)));
                    }
                    Some(known) if known == asset => Ok(()),
                    Some(_) => {
                        Err(StoreError::AlreadyExists { what: format!("asset {}", asset.id.as_str()) })
                    }
                };
                batch.answers.push(PendingAnswer::Done(reply, answer));
                None
            }
            Job::Snapshot(reply) => {
                batch.snapshots.push(reply);
                None
            }
        }
    }

    /// Adds a frame to the active segment, or to a new one when that is full.
    fn append(
        &mut self,
        book: &BookView,
        seq: Seq,
        at: DateTime<Utc>,
        json: &[u8],
        batch: &mut JobBatch,
    ) -> Result<(), BookError> {
        if self.active_len_bytes >= self.segment_max_bytes {
            self.flush_buffer()?;
            self.active.sync_data()?;
            self.active = disk::File::create_new(&files::segment_path(&book.directory, seq))?;
            self.active_len_bytes = 0;
            batch.segments.push(seq);
            disk::sync_dir(&book.directory)?;
        }
        let before = self.buffer.len();
        frame::encode(seq, at, json, &mut self.buffer)?;
        batch.offsets.push(self.active_len_bytes);
        self.active_len_bytes += (self.buffer.len() - before) as u64;
        Ok(())
    }

    /// Cuts the log back to where a failed batch began. After a failed sync a later one can succeed without having written
    /// anything, so events in bytes that stay could be acknowledged and then lost.
    ///
    /// The segments that the batch began are deleted first, in descending order, each durably, because a crash in between must leave
    /// a log without a gap. The cut is durable, too, because after a power cut the events would come back although every caller was told
    /// that they failed.
    fn take_back(&mut self, book: &BookView, start_bytes: u64, begun: &[Seq]) -> Result<(), BookError> {
        self.buffer.clear();
        for base in begun.iter().rev() {
            disk::remove_file_if_exists(&files::segment_path(&book.directory, *base))?;
            disk::sync_dir(&book.directory)?;
        }
        let path = match begun.first() {
            None => self.active.path().to_owned(),
            Some(first) => {
                let state = book.state();
                let before = state.bases().iter().rev().find(|base| *base < first);
                let Some(before) = before else { return Ok(()) };
                files::segment_path(&book.directory, *before)
            }
        };
        let file = disk::File::open_rw(&path)?;
        if file.len_bytes()? > start_bytes {
            file.set_len(start_bytes)?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<(), BookError> {
        if !self.buffer.is_empty() {
            self.active.write_all(&self.buffer)?;
            self.buffer.clear();
            self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        }
        Ok(())
    }

    /// Makes the batch visible, all of it at once.
    fn apply(&mut self, book: &BookView, accepted: Vec<Accepted>, segments: &[Seq], offsets: &[u64]) {
        let Some(last) = accepted.last().map(|event| event.seq) else { return };
        let mut state = book.state.write().unwrap_or_else(PoisonError::into_inner);
        for base in segments {
            state.add_segment(*base);
        }
        for (Accepted { seq, at, change }, offset) in accepted.into_iter().zip(offsets) {
            state.add_position(*offset);
            match change {
                Change::Posted(draft) => {
                    let postings = draft.postings.iter().map(PostingRef::from);
                    if let Err(account) = state.post(seq, at, draft.txid, postings) {
                        unreachable!("the balance of {account} was found to fit before");
                    }
                    self.keys.insert(draft.key, KeyOutcome { txid: draft.txid, seq, at });
                }
                Change::Opened(def, cfg) => {
                    state.add_account(&def, &cfg);
                    state.advance(seq, at);
                }
                Change::Registered(asset) => {
                    // Not by the caller, who may have stopped waiting: an asset in the log is registered.
                    let mut assets = book.assets.write().unwrap_or_else(PoisonError::into_inner);
                    assets.insert(asset.id.clone(), asset);
                    state.advance(seq, at);
                }
            }
        }
        // Last, because a reader that asks for progress and then for the state must find the event in the state.
        book.progress.send_modify(|progress| progress.last = last);
    }

    /// Moves keys and details out of memory when they are due. Failures are logged and fail no commit.
    fn tidy(&mut self, book: &BookView) {
        if self.keys.is_spill_due() {
            let scratch = book.state.write().unwrap_or_else(PoisonError::into_inner).scratch();
            if let Err(error) = scratch.and_then(|scratch| self.keys.spill_half(&scratch)) {
                tracing::warn!(book = book.name, %error, "keys stay in memory");
            }
        }
        if !book.state().is_flush_due() {
            return;
        }
        book.state.write().unwrap_or_else(PoisonError::into_inner).flush();
        loop {
            let Some((scratch, older, newer)) = book.state().merge_due() else { return };
            match scratch::merge(&scratch, &older, &newer) {
                Ok(merged) => {
                    book.state.write().unwrap_or_else(PoisonError::into_inner).install_merged(merged);
                }
                Err(error) => {
                    tracing::warn!(book = book.name, %error, "the index stays in pieces");
                    return;
                }
            }
        }
    }

    /// Starts a snapshot if one was asked for or is due; a thread of its own writes it.
    fn take_snapshots(&mut self, book: &BookView, replies: Vec<Reply<()>>) {
        let is_running = self.snapshot.as_ref().is_some_and(|thread| !thread.is_finished());
        let is_due = self.snapshot_every > 0 && self.events_since_snapshot >= self.snapshot_every;
        if replies.is_empty() && (!is_due || is_running) {
            return;
        }
        if let Some(thread) = self.snapshot.take() {
            let _ = thread.join();
        }
        let image = book.state().image();
        if image.next_seq == 1 || book.name == SYSTEM_BOOK {
            replies.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
            return;
        }
        self.events_since_snapshot = 0;
        let keys = KeysImage::of(&self.keys);
        let directory = book.directory.clone();
        let name = book.name.clone();
        // Shared, because a thread that does not start drops its closure, and the callers need the reason.
        let replies = Arc::new(Mutex::new(replies));
        let answer = {
            let replies = Arc::clone(&replies);
            move |reason: Option<String>| {
                for reply in std::mem::take(&mut *replies.lock().unwrap_or_else(PoisonError::into_inner)) {
                    let worker = |reason| BookError::Worker { what: "snapshots", reason };
                    drop(reply.send(reason.clone().map_or(Ok(()), |reason| Err(worker(reason).into()))));
                }
            }
        };
        let answer_started = answer.clone();
        let write = disk::handed_over(move || {
            let written = snapshot::write(&directory, &image, &keys);
            if let Err(error) = &written {
                tracing::error!(book = name, %error, "snapshot failed; the log has everything");
            }
            answer_started(written.err().map(|error| error.to_string()));
        });
        match std::thread::Builder::new().name("book-snapshot".to_owned()).spawn(write) {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => {
                tracing::error!(book = book.name, %error, "snapshot thread not started");
                answer(Some(error.to_string()));
            }
        }
    }
}

impl JobBatch {
    fn collect(&mut self, job: Job) {
        match job {
            Job::Commit(_, reply) => self.answers.push(PendingAnswer::Accepted(reply, 0)),
            Job::Open(_, _, reply) | Job::Register(_, reply) => {
                self.answers.push(PendingAnswer::Done(reply, Ok(())))
            }
            Job::Snapshot(reply) => self.snapshots.push(reply),
        }
    }
}

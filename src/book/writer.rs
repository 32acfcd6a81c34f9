//! One book at work: its queue, its writer, and what readers see.
//!
//! A thread drains the queue batch by batch: decide, append, sync once, apply, publish, answer; see docs/books.md. It is
//! started by the first job and ends after a moment without any. Promises: no answer leaves before its batch is synced;
//! after the first failed write nothing more is written and every caller gets an error.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{DateTime, Utc};
use talea_core::store::{AccountCfg, Committed, SYSTEM_BOOK, StoreError, ledger_now};
use talea_core::types::{
    AccountDef, AccountId, AssetDef, Book as BookName, Direction, Posting, Seq, Transaction,
};
use tokio::sync::{Semaphore, oneshot, watch};
use uuid::Uuid;

use super::error::BookError;
use super::files;
use super::frame;
use super::keys::{Keys, Outcome};
use super::open::Opened;
use super::scratch;
use super::snapshot::{self, KeysImage};
use super::state::{PostingRef, State, add, effective};
use super::store::LogStoreOptions;
use crate::disk;

/// Jobs that are decided, written and synced together.
const BATCH_MAX: usize = 1024;

/// Jobs that may wait; callers beyond that wait to be let in.
const QUEUE_MAX: usize = 4 * BATCH_MAX;

/// How long a writer waits for another job before its thread ends.
const LINGER: Duration = Duration::from_secs(1);

/// The answer to a job.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a writer can be asked.
pub(super) enum Job {
    /// Commit a transaction.
    Commit(Draft, Reply<Committed>),
    /// Open an account.
    Open(AccountDef, AccountCfg, Reply<()>),
    /// Register an asset.
    Register(AssetDef, Reply<()>),
    /// Write a snapshot.
    Snapshot(Reply<()>),
}

impl Job {
    fn refuse(self, error: BookError) {
        // Nobody may be waiting for the answer any more; here and below.
        match self {
            Self::Commit(_, reply) => drop(reply.send(Err(error.into()))),
            Self::Open(_, _, reply) | Self::Register(_, reply) | Self::Snapshot(reply) => {
                drop(reply.send(Err(error.into())));
            }
        }
    }
}

/// What the writer needs of a transaction; its JSON is made by the caller, so that many callers make theirs at once.
pub(super) struct Draft {
    txid: Uuid,
    book: BookName,
    key: Arc<str>,
    postings: Vec<Posting>,
    json: Result<Vec<u8>, BookError>,
}

impl Draft {
    pub(super) fn new(transaction: &Transaction) -> Self {
        Self {
            txid: transaction.id.0,
            book: transaction.book.clone(),
            key: transaction.idempotency_key.0.as_str().into(),
            postings: transaction.postings.clone(),
            json: frame::transaction_json(transaction),
        }
    }
}

impl<'a> From<&'a Posting> for PostingRef<'a> {
    fn from(posting: &'a Posting) -> Self {
        Self {
            book: &posting.account.book.0,
            path: &posting.account.path,
            asset: posting.amount.asset().as_str(),
            minor: posting.amount.minor(),
            credit: posting.direction == Direction::Credit,
        }
    }
}

/// Why a book takes no more jobs.
#[derive(Debug, Clone)]
pub(super) enum Closed {
    /// The store was shut down.
    ShutDown,
    /// A write failed.
    Failed(Arc<str>),
}

/// How far readers may read, and whether that will change again.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// The last event that is durable and applied.
    pub last: Seq,
    /// Set when no more events will come.
    pub closed: Option<Closed>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: Option<Closed>,
    has_thread: bool,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Commit(..) => "Commit",
            Self::Open(..) => "Open",
            Self::Register(..) => "Register",
            Self::Snapshot(..) => "Snapshot",
        })
    }
}

/// An open book.
#[derive(Debug)]
pub(super) struct Book {
    name: String,
    directory: PathBuf,
    state: RwLock<State>,
    queue: Mutex<Queue>,
    /// Signalled when a job comes in, when the queue is closed, and when the thread ends.
    changed: Condvar,
    permits: Semaphore,
    progress: watch::Sender<Progress>,
    writer: Mutex<Writer>,
    #[cfg(all(test, unix))]
    faults: Option<disk::faults::Harness>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has closed the queue; what it left is only read and shut down.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Puts an opened book to work.
    pub(super) fn new(name: &str, directory: &Path, opened: Opened, options: &LogStoreOptions) -> Self {
        let Opened { state, keys, active, active_len_bytes, events_since_snapshot, .. } = opened;
        let (progress, _) = watch::channel(Progress { last: state.next_seq - 1, closed: None });
        Self {
            name: name.to_owned(),
            directory: directory.to_owned(),
            state: RwLock::new(state),
            queue: Mutex::default(),
            changed: Condvar::new(),
            permits: Semaphore::new(QUEUE_MAX),
            progress,
            writer: Mutex::new(Writer {
                keys,
                active,
                active_len_bytes,
                segment_max_bytes: options.segment_max.max(1),
                // A snapshot of the system book would hold no registrations, and mislead programs that believe it does.
                snapshot_every: if name == SYSTEM_BOOK { 0 } else { options.snapshot_every },
                events_since_snapshot,
                snapshot: None,
                buffer: Vec::new(),
            }),
            #[cfg(all(test, unix))]
            faults: disk::faults::current(),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The state for reading.
    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last event that may be shown. Asked before the state, which is then at least as far.
    pub(super) fn last_seq(&self) -> Seq {
        self.progress.borrow().last
    }

    /// Follows the book's progress.
    pub(super) fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Queues jobs, as many together as a batch holds; their answers come through their replies, unless this fails.
    pub(super) async fn submit(self: &Arc<Self>, jobs: Vec<Job>) -> Result<(), BookError> {
        let mut jobs = jobs.into_iter();
        while jobs.len() > 0 {
            let count = jobs.len().min(BATCH_MAX);
            match self.permits.acquire_many(count as u32).await {
                Ok(permits) => permits.forget(),
                Err(_) => return Err(self.closed_error()),
            }
            let mut queue = locked(&self.queue);
            if let Some(closed) = &queue.closed {
                return Err(self.error_of(closed));
            }
            queue.jobs.extend(jobs.by_ref().take(count));
            if queue.has_thread {
                self.changed.notify_all();
            } else {
                queue.has_thread = true;
                drop(queue);
                self.start()?;
            }
        }
        Ok(())
    }

    fn start(self: &Arc<Self>) -> Result<(), BookError> {
        let book = Arc::clone(self);
        let started = std::thread::Builder::new().name("book-writer".to_owned()).spawn(move || {
            #[cfg(all(test, unix))]
            if let Some(faults) = book.faults.clone() {
                return faults.run(|| Book::work(&book));
            }
            Self::work(&book);
        });
        started.map(drop).map_err(|reason| {
            let mut queue = locked(&self.queue);
            queue.has_thread = false;
            queue.jobs.clear();
            BookError::Worker { what: "writing", reason: reason.to_string() }
        })
    }

    fn error_of(&self, closed: &Closed) -> BookError {
        match closed {
            Closed::ShutDown => BookError::ShutDown,
            Closed::Failed(reason) => {
                BookError::Poisoned { book: self.name.clone(), reason: reason.to_string() }
            }
        }
    }

    /// Why the book is closed.
    pub(super) fn closed_error(&self) -> BookError {
        match &locked(&self.queue).closed {
            Some(closed) => self.error_of(closed),
            None => BookError::ShutDown,
        }
    }

    /// The writer's thread.
    fn work(book: &Arc<Self>) {
        /// Whatever ends the thread, a panic included, nobody is left waiting for it.
        struct Ended<'a>(&'a Book);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.fail("the writer panicked".into());
                }
                locked(&self.0.queue).has_thread = false;
                self.0.changed.notify_all();
            }
        }
        let ended = Ended(book);
        let mut writer = locked(&book.writer);
        while let Some(jobs) = book.next_batch() {
            if let Err(error) = writer.batch(book, jobs) {
                tracing::error!(book = book.name, %error, "write failed; the book takes no more writes");
                book.fail(error.to_string().into());
            }
        }
        drop(writer);
        drop(ended);
    }

    /// Waits for jobs; `None` ends the thread, which is then noted under the same lock.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut queue = locked(&self.queue);
        loop {
            if !queue.jobs.is_empty() {
                let count = queue.jobs.len().min(BATCH_MAX);
                let jobs: Vec<Job> = queue.jobs.drain(..count).collect();
                self.permits.add_permits(count);
                return Some(jobs);
            }
            let timed_out;
            (queue, timed_out) = match self
                .changed
                .wait_timeout_while(queue, LINGER, |queue| queue.jobs.is_empty() && queue.closed.is_none())
            {
                Ok((queue, timeout)) => (queue, timeout.timed_out()),
                Err(poisoned) => {
                    let (queue, timeout) = poisoned.into_inner();
                    (queue, timeout.timed_out())
                }
            };
            if queue.jobs.is_empty() && (timed_out || queue.closed.is_some()) {
                queue.has_thread = false;
                return None;
            }
        }
    }

    /// Refuses everything queued and everything to come.
    fn fail(&self, reason: Arc<str>) {
        let closed = Closed::Failed(reason);
        let jobs = {
            let mut queue = locked(&self.queue);
            queue.closed.get_or_insert_with(|| closed.clone());
            std::mem::take(&mut queue.jobs)
        };
        self.permits.close();
        for job in jobs {
            job.refuse(self.error_of(&closed));
        }
        self.progress.send_modify(|progress| {
            progress.closed.get_or_insert(closed);
        });
    }

    /// Takes no more jobs, finishes those that are queued, waits for snapshots, and ends subscriptions. Blocks.
    pub(super) fn shut_down(&self) {
        let mut queue = locked(&self.queue);
        queue.closed.get_or_insert(Closed::ShutDown);
        self.permits.close();
        self.changed.notify_all();
        while queue.has_thread {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        let snapshot = locked(&self.writer).snapshot.take();
        if let Some(thread) = snapshot {
            // It logged what went wrong.
            let _ = thread.join();
        }
        self.progress.send_modify(|progress| {
            progress.closed.get_or_insert(Closed::ShutDown);
        });
    }
}

/// What only the writer's thread touches.
#[derive(Debug)]
struct Writer {
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
    Registered,
}

/// An answer that awaits the sync.
enum Answer {
    /// A transaction: the outcome is that of the accepted event with this index.
    Accepted(Reply<Committed>, usize),
    Committed(Reply<Committed>, Result<Committed, StoreError>),
    Done(Reply<()>, Result<(), StoreError>),
}

impl Answer {
    fn send(self, accepted: &[Outcome]) {
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

/// What the accepted part of a batch would make of the state.
#[derive(Default)]
struct Overlay {
    raw: HashMap<u32, i64>,
    /// Accepted events by key.
    keys: HashMap<Arc<str>, usize>,
    opened: Vec<(AccountDef, AccountCfg)>,
}

impl Overlay {
    /// The index of an account: those opened in this batch follow those of the state.
    fn find(&self, state: &State, id: &AccountId) -> Option<u32> {
        state.find(&id.book.0, &id.path).or_else(|| {
            let at = self.opened.iter().position(|(def, _)| def.id == *id)?;
            Some((state.account_count() + at) as u32)
        })
    }

    fn account<'s>(&'s self, state: &'s State, index: u32) -> (&'s AccountDef, &'s AccountCfg) {
        let (def, cfg) = match (index as usize).checked_sub(state.account_count()) {
            None => &*state.account(index).opened,
            Some(at) => &self.opened[at],
        };
        (def, cfg)
    }

    fn raw(&self, state: &State, index: u32) -> i64 {
        self.raw.get(&index).copied().unwrap_or_else(|| match (index as usize) < state.account_count() {
            true => state.account(index).raw,
            false => 0,
        })
    }

    /// Decides about a transaction whose key is free; answers the balances it would leave.
    fn judge(&self, state: &State, draft: &Draft) -> Result<Vec<(u32, i64)>, StoreError> {
        if draft.book.is_reserved() {
            return Err(StoreError::InvalidBook(draft.book.clone()));
        }
        let mut balances: Vec<(u32, i64)> = Vec::with_capacity(draft.postings.len());
        let mut indices = Vec::with_capacity(draft.postings.len());
        for posting in &draft.postings {
            let index = self
                .find(state, &posting.account)
                .ok_or_else(|| StoreError::UnknownAccount(posting.account.clone()))?;
            let (def, _) = self.account(state, index);
            if def.asset != *posting.amount.asset() {
                return Err(StoreError::AssetMismatch {
                    account: posting.account.clone(),
                    account_asset: def.asset.clone(),
                    asset: posting.amount.asset().clone(),
                });
            }
            indices.push(index);
        }
        for (posting, index) in draft.postings.iter().zip(indices) {
            let at = match balances.iter().position(|(known, _)| *known == index) {
                Some(at) => at,
                None => {
                    balances.push((index, self.raw(state, index)));
                    balances.len() - 1
                }
            };
            let credit = posting.direction == Direction::Credit;
            balances[at].1 = add(balances[at].1, posting.amount.minor(), credit)
                // The smallest integer has no negative, which the other side of the book would show.
                .filter(|raw| *raw != i64::MIN)
                .ok_or_else(|| BookError::Overflow { account: posting.account.clone() })?;
        }
        for (index, raw) in &balances {
            let (def, cfg) = self.account(state, *index);
            let would_be = effective(*raw, cfg).unwrap_or(i64::MAX);
            if let Some(min_balance) = cfg.min_balance.filter(|min_balance| would_be < *min_balance) {
                return Err(StoreError::ConstraintViolation {
                    account: def.id.clone(),
                    min_balance,
                    would_be,
                });
            }
        }
        Ok(balances)
    }
}

/// What a batch has come to.
#[derive(Default)]
struct Batch {
    overlay: Overlay,
    accepted: Vec<Accepted>,
    outcomes: Vec<Outcome>,
    answers: Vec<Answer>,
    snapshots: Vec<Reply<()>>,
    /// Events whose frames begin a segment, and every event's place.
    segments: Vec<Seq>,
    offsets: Vec<u64>,
}

impl Writer {
    /// Decides, writes, syncs, applies, publishes and answers.
    ///
    /// # Errors
    /// When something could not be written: then nothing of the batch was acknowledged.
    fn batch(&mut self, book: &Book, jobs: Vec<Job>) -> Result<(), BookError> {
        let mut batch = Batch::default();
        if let Err(error) = self.write(book, jobs, &mut batch) {
            let reason = error.to_string();
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

    fn write(&mut self, book: &Book, jobs: Vec<Job>, batch: &mut Batch) -> Result<(), BookError> {
        let state = book.state();
        let at = state.last_at.map_or_else(ledger_now, |last| last.max(ledger_now()));
        let mut next = state.next_seq;
        let mut failed = None;
        for job in jobs {
            // After a failure the rest of the batch is only collected, to be refused.
            if failed.is_some() {
                batch.collect(job);
                continue;
            }
            let Some((json, change)) = self.decide(&state, job, batch) else { continue };
            let written = json.and_then(|json| self.append(book, next, at, &json, batch));
            if let Err(error) = written {
                failed = Some(error);
                continue;
            }
            let txid = if let Change::Posted(draft) = &change { draft.txid } else { Uuid::nil() };
            batch.outcomes.push(Outcome { txid, seq: next, at });
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

    /// Decides about one job: what to write, or nothing when its answer stands already.
    fn decide(
        &self,
        state: &State,
        job: Job,
        batch: &mut Batch,
    ) -> Option<(Result<Vec<u8>, BookError>, Change)> {
        match job {
            Job::Commit(mut draft, reply) => {
                if let Some(index) = batch.overlay.keys.get(&draft.key) {
                    batch.answers.push(Answer::Accepted(reply, *index));
                    return None;
                }
                let answer = match self.keys.find(&draft.key, state) {
                    Ok(Some(outcome)) => Ok(outcome.into()),
                    Ok(None) => match batch.overlay.judge(state, &draft) {
                        Ok(balances) => match std::mem::replace(&mut draft.json, Ok(Vec::new())) {
                            Ok(json) => {
                                let index = batch.accepted.len();
                                batch.overlay.raw.extend(balances);
                                batch.overlay.keys.insert(Arc::clone(&draft.key), index);
                                batch.answers.push(Answer::Accepted(reply, index));
                                return Some((Ok(json), Change::Posted(draft)));
                            }
                            Err(error) => Err(error.into()),
                        },
                        Err(error) => Err(error),
                    },
                    // Whether the key is known cannot be said, so it is not taken for a new one.
                    Err(error) => Err(error.into()),
                };
                batch.answers.push(Answer::Committed(reply, answer));
                None
            }
            Job::Open(def, cfg, reply) => {
                let answer = match batch.overlay.find(state, &def.id) {
                    None => {
                        let json = frame::account_json(&def, &cfg);
                        batch.overlay.opened.push((def.clone(), cfg.clone()));
                        batch.answers.push(Answer::Done(reply, Ok(())));
                        return Some((json, Change::Opened(def, cfg)));
                    }
                    Some(index) if batch.overlay.account(state, index) == (&def, &cfg) => Ok(()),
                    Some(_) => {
                        Err(StoreError::AlreadyExists { what: format!("account {}", def.id.to_key()) })
                    }
                };
                batch.answers.push(Answer::Done(reply, answer));
                None
            }
            Job::Register(asset, reply) => {
                batch.answers.push(Answer::Done(reply, Ok(())));
                Some((frame::asset_json(&asset), Change::Registered))
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
        book: &Book,
        seq: Seq,
        at: DateTime<Utc>,
        json: &[u8],
        batch: &mut Batch,
    ) -> Result<(), BookError> {
        if self.active_len_bytes >= self.segment_max_bytes {
            self.flush_buffer()?;
            self.active.sync_data()?;
            self.active = disk::File::create_new(&files::segment_path(&book.directory, seq))?;
            disk::sync_dir(&book.directory)?;
            self.active_len_bytes = 0;
            batch.segments.push(seq);
        }
        let before = self.buffer.len();
        frame::encode(seq, at, json, &mut self.buffer)?;
        batch.offsets.push(self.active_len_bytes);
        self.active_len_bytes += (self.buffer.len() - before) as u64;
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<(), BookError> {
        if !self.buffer.is_empty() {
            self.active.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Makes the batch visible, all of it at once.
    fn apply(&mut self, book: &Book, accepted: Vec<Accepted>, segments: &[Seq], offsets: &[u64]) {
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
                    self.keys.insert(draft.key, Outcome { txid: draft.txid, seq, at });
                }
                Change::Opened(def, cfg) => {
                    state.add_account(&def, &cfg);
                    state.advance(seq, at);
                }
                Change::Registered => state.advance(seq, at),
            }
        }
        // Readers ask for progress first, then for the state, so the state must not be behind.
        book.progress.send_modify(|progress| progress.last = last);
    }

    /// Moves out of memory what has become too much. Nothing here can fail a commit.
    fn tidy(&mut self, book: &Book) {
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

    /// Starts a snapshot if one was asked for or is due; it is written by a thread of its own.
    fn take_snapshots(&mut self, book: &Book, replies: Vec<Reply<()>>) {
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
        #[cfg(all(test, unix))]
        let faults = book.faults.clone();
        let write = move || {
            #[cfg(all(test, unix))]
            let written = match faults {
                Some(faults) => faults.run(|| snapshot::write(&directory, &image, &keys)),
                None => snapshot::write(&directory, &image, &keys),
            };
            #[cfg(not(all(test, unix)))]
            let written = snapshot::write(&directory, &image, &keys);
            let reason = match written {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(book = name, %error, "snapshot failed; the log has everything");
                    Some(error.to_string())
                }
            };
            for reply in replies {
                let answer = match &reason {
                    None => Ok(()),
                    Some(reason) => {
                        Err(BookError::Worker { what: "snapshots", reason: reason.clone() }.into())
                    }
                };
                drop(reply.send(answer));
            }
        };
        match std::thread::Builder::new().name("book-snapshot".to_owned()).spawn(write) {
            Ok(thread) => self.snapshot = Some(thread),
            // The callers see their replies dropped.
            Err(error) => tracing::error!(book = book.name, %error, "snapshot thread not started"),
        }
    }
}

impl Batch {
    fn collect(&mut self, job: Job) {
        match job {
            Job::Commit(_, reply) => self.answers.push(Answer::Accepted(reply, 0)),
            Job::Open(_, _, reply) | Job::Register(_, reply) => {
                self.answers.push(Answer::Done(reply, Ok(())))
            }
            Job::Snapshot(reply) => self.snapshots.push(reply),
        }
    }
}

//! One book at work: its queue, the thread that drains it, and what readers see.
//!
//! The thread is started by the first job and ends after a moment without any. Promises: every job is answered, or its
//! caller is told why not; after the first failed write every caller gets an error; shutting down finishes what is queued.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use talea_core::store::{AccountCfg, Committed, StoreError};
use talea_core::types::{AccountDef, AssetDef, AssetId, Book as BookName, Posting, Seq, Transaction};
use tokio::sync::{Semaphore, oneshot, watch};
use uuid::Uuid;

use super::error::BookError;
use super::frame;
use super::open::Opened;
use super::state::State;
use super::store::LogStoreOptions;
use super::writer::Writer;
#[cfg(all(test, unix))]
use crate::disk;

/// Jobs that are decided, written and synced together, by weight.
pub(super) const BATCH_MAX: usize = 1024;

/// Jobs that may wait; callers beyond that wait to be let in.
const QUEUE_MAX: usize = 4 * BATCH_MAX;

/// A job counts once, and once more for each of these bytes of JSON or names that it holds: a batch has at most 8 MiB or one
/// job, a queue 32 MiB.
const WEIGHT_BYTES: usize = 8 << 10;

/// How long a writer waits for another job before its thread ends.
const LINGER: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(1) };

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
    /// What the job counts for in [`BATCH_MAX`] and [`QUEUE_MAX`].
    pub(super) fn weight(&self) -> usize {
        let bytes = match self {
            Self::Commit(draft, _) => draft.json.as_ref().map_or(0, Vec::len),
            Self::Open(def, ..) => def.id.book.0.len() + def.id.path.len(),
            Self::Register(asset, _) => asset.id.as_str().len() + asset.name.len(),
            Self::Snapshot(_) => 0,
        };
        (1 + bytes / WEIGHT_BYTES).min(BATCH_MAX)
    }

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
    pub(super) txid: Uuid,
    pub(super) book: BookName,
    pub(super) key: Arc<str>,
    pub(super) postings: Vec<Posting>,
    pub(super) json: Result<Vec<u8>, BookError>,
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

/// All registered assets, by id. Read by everybody, changed by the writer of the system book.
pub(super) type Assets = RwLock<HashMap<AssetId, AssetDef>>;

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
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) assets: Arc<Assets>,
    pub(super) state: RwLock<State>,
    queue: Mutex<Queue>,
    /// Signalled when a job comes in, when the queue is closed, and when the thread ends.
    changed: Condvar,
    permits: Semaphore,
    pub(super) progress: watch::Sender<Progress>,
    writer: Mutex<Writer>,
    #[cfg(all(test, unix))]
    pub(super) faults: Option<disk::faults::Harness>,
}

/// How many of these jobs make up the next batch, and their weight.
fn batch_of(jobs: &[Job]) -> (usize, usize) {
    let (mut count, mut sum) = (0, 0);
    for weight in jobs.iter().map(Job::weight) {
        if sum + weight > BATCH_MAX {
            break;
        }
        sum += weight;
        count += 1;
    }
    (count, sum)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has closed the queue; what it left is only read and shut down.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Puts an opened book to work.
    pub(super) fn new(
        name: &str,
        directory: &Path,
        opened: Opened,
        options: &LogStoreOptions,
        assets: &Arc<Assets>,
    ) -> Self {
        let (writer, state) = Writer::new(name, opened, options);
        let (progress, _) = watch::channel(Progress { last: state.next_seq - 1, closed: None });
        Self {
            name: name.to_owned(),
            directory: directory.to_owned(),
            assets: Arc::clone(assets),
            state: RwLock::new(state),
            queue: Mutex::default(),
            changed: Condvar::new(),
            permits: Semaphore::new(QUEUE_MAX),
            progress,
            writer: Mutex::new(writer),
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
            let (count, weight) = batch_of(jobs.as_slice());
            match self.permits.acquire_many(weight as u32).await {
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
            let jobs = {
                let mut queue = locked(&self.queue);
                queue.has_thread = false;
                self.changed.notify_all();
                std::mem::take(&mut queue.jobs)
            };
            self.permits.add_permits(jobs.iter().map(Job::weight).sum());
            let error = || BookError::Worker { what: "writing", reason: reason.to_string() };
            jobs.into_iter().for_each(|job| job.refuse(error()));
            error()
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

    /// Why a job got no answer: the book is closed, or a thread ended early.
    pub(super) fn closed_error(&self) -> BookError {
        match &locked(&self.queue).closed {
            Some(closed) => self.error_of(closed),
            None => {
                let reason = "it ended without an answer; ask again, or open the store again".to_owned();
                BookError::Worker { what: "writing", reason }
            }
        }
    }

    /// The writer's thread.
    fn work(book: &Arc<Self>) {
        /// A panic must leave nobody waiting. Every other end was noted by [`Book::next_batch`], and by now another thread
        /// may be at work.
        struct Ended<'a>(&'a Book);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.fail("the writer panicked".into());
                    locked(&self.0.queue).has_thread = false;
                    self.0.changed.notify_all();
                }
            }
        }
        let _ended = Ended(book);
        // Who waits for the thread's end takes this lock behind it, so it is released last but for `_ended`.
        let mut writer = locked(&book.writer);
        while let Some(jobs) = book.next_batch() {
            if let Err(error) = writer.batch(book, jobs) {
                tracing::error!(book = book.name, %error, "write failed; the book takes no more writes");
                book.fail(error.to_string().into());
            }
        }
    }

    /// Waits for jobs; `None` ends the thread, which is then noted under the same lock.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut queue = locked(&self.queue);
        loop {
            debug_assert!(queue.has_thread, "a thread that nobody would wait for");
            if !queue.jobs.is_empty() {
                let (count, weight) = batch_of(queue.jobs.make_contiguous());
                let jobs: Vec<Job> = queue.jobs.drain(..count).collect();
                self.permits.add_permits(weight);
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
                self.changed.notify_all();
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
        let snapshot = locked(&self.writer).take_snapshot_thread();
        if let Some(thread) = snapshot {
            // It logged what went wrong.
            let _ = thread.join();
        }
        self.progress.send_modify(|progress| {
            progress.closed.get_or_insert(Closed::ShutDown);
        });
    }
}

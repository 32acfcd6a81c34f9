//! An open book: its queue and the one thread that drains the queue.
//!
//! The first job starts the thread, and shutdown ends it. Guarantees: every job is answered, if only with the reason for a
//! refusal; after the first failed write every caller gets an error; shutdown finishes what is queued.
//!
//! Rejected: a thread that ends when its book is idle. Whether it is still there must then be known under the queue's lock, and a book
//! costs a started thread for each pause between jobs.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, watch};

use super::error::BookError;
use super::job::{BATCH_MAX, Job, batch_of};
use super::opening::OpenedBook;
use super::options::LogStoreOptions;
use super::view::{Assets, BookProgress, BookView, Closed};
use super::writer::BookWriter;
#[cfg(all(test, unix))]
use crate::disk;

/// Weight of the jobs that may wait. A caller beyond that waits before its job is queued.
const QUEUE_MAX: usize = 4 * BATCH_MAX;

#[derive(Debug, Default)]
struct JobQueue {
    jobs: VecDeque<Job>,
    closed: Option<Closed>,
    thread: Option<JoinHandle<()>>,
}

/// An open book.
#[derive(Debug)]
pub(super) struct OpenBook {
    pub(super) view: BookView,
    queue: Mutex<JobQueue>,
    /// Signalled when a job is queued and when the queue is closed.
    changed: Condvar,
    permits: Semaphore,
    writer: Mutex<BookWriter>,
    #[cfg(all(test, unix))]
    faults: Option<disk::faults::Harness>,
}

/// Locks a mutex whose holder may have panicked: such a thread has closed the queue, and what it left is only read and shut
/// down.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenBook {
    /// Makes an opened book ready for jobs.
    pub(super) fn new(
        name: &str,
        directory: &Path,
        opened: OpenedBook,
        options: &LogStoreOptions,
        assets: &Arc<Assets>,
    ) -> Self {
        let (writer, state) = BookWriter::new(name, opened, options);
        let (progress, _) = watch::channel(BookProgress { last: state.next_seq - 1, closed: None });
        Self {
            view: BookView {
                name: name.to_owned(),
                directory: directory.to_owned(),
                assets: Arc::clone(assets),
                state: RwLock::new(state),
                progress,
            },
            queue: Mutex::default(),
            changed: Condvar::new(),
            permits: Semaphore::new(QUEUE_MAX),
            writer: Mutex::new(writer),
            #[cfg(all(test, unix))]
            faults: disk::faults::current(),
        }
    }

    /// Queues jobs, as many at a time as a batch holds. Their answers come through their replies, unless this fails.
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
                return Err(self.view.error_of(closed));
            }
            if queue.thread.is_none() {
                let started = std::thread::Builder::new().name("book-writer".to_owned());
                let book = Arc::clone(self);
                match started.spawn(move || book.run()) {
                    Ok(thread) => queue.thread = Some(thread),
                    Err(reason) => {
                        self.permits.add_permits(weight);
                        let error = || BookError::Worker { what: "writing", reason: reason.to_string() };
                        jobs.for_each(|job| job.refuse(error()));
                        return Err(error());
                    }
                }
            }
            queue.jobs.extend(jobs.by_ref().take(count));
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Why a job got no answer: the book is closed, or its thread ended early.
    pub(super) fn closed_error(&self) -> BookError {
        match &locked(&self.queue).closed {
            Some(closed) => self.view.error_of(closed),
            None => {
                let reason = "it ended without an answer; ask again, or open the store again".to_owned();
                BookError::Worker { what: "writing", reason }
            }
        }
    }

    /// The writer's thread.
    fn run(&self) {
        #[cfg(all(test, unix))]
        if let Some(faults) = self.faults.clone() {
            return faults.run(|| self.write_batches());
        }
        self.write_batches();
    }

    /// Writes batch after batch until shutdown.
    fn write_batches(&self) {
        /// Refuses everybody who waits when the thread panics.
        struct FailOnPanic<'a>(&'a OpenBook);
        impl Drop for FailOnPanic<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.fail("the writer panicked".into());
                }
            }
        }
        let _fail_on_panic = FailOnPanic(self);
        let mut writer = locked(&self.writer);
        while let Some(jobs) = self.next_batch() {
            if let Err(error) = writer.batch(&self.view, jobs) {
                tracing::error!(book = self.view.name, %error, "write failed; the book takes no more writes");
                self.fail(error.to_string().into());
            }
        }
    }

    /// Waits for jobs; `None` when the queue is closed and empty.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut queue = locked(&self.queue);
        while queue.jobs.is_empty() {
            if queue.closed.is_some() {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let (count, weight) = batch_of(queue.jobs.make_contiguous());
        self.permits.add_permits(weight);
        Some(queue.jobs.drain(..count).collect())
    }

    /// Refuses everything that is queued and everything that follows.
    fn fail(&self, reason: Arc<str>) {
        let closed = Closed::Failed(reason);
        let jobs = {
            let mut queue = locked(&self.queue);
            queue.closed.get_or_insert_with(|| closed.clone());
            std::mem::take(&mut queue.jobs)
        };
        self.permits.close();
        for job in jobs {
            job.refuse(self.view.error_of(&closed));
        }
        self.view.progress.send_modify(|progress| {
            progress.closed.get_or_insert(closed);
        });
    }

    /// Accepts no more jobs, finishes those that are queued, waits for a snapshot, and ends subscriptions. Blocks.
    pub(super) fn shut_down(&self) {
        let thread = {
            let mut queue = locked(&self.queue);
            queue.closed.get_or_insert(Closed::ShutDown);
            queue.thread.take()
        };
        self.permits.close();
        self.changed.notify_one();
        // A thread that panicked has refused its jobs, and a snapshot's thread has logged its failure.
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        let snapshot = locked(&self.writer).take_snapshot_thread();
        if let Some(thread) = snapshot {
            let _ = thread.join();
        }
        self.view.progress.send_modify(|progress| {
            progress.closed.get_or_insert(Closed::ShutDown);
        });
    }
}

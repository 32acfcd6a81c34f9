//! Group commit: many callers, one writer, one sync for all that wait.
//!
//! May touch: the journal. Guarantees: a record whose offset was returned is on stable storage; every accepted record is answered, also when
//! writing fails and when the buffer is closed or dropped; the queue is bounded in records and in bytes, and a caller waits
//! while the queue is full.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::durability::start_thread;
use super::error::{JournalError, Result};
use super::format::EncodedRecord;
use super::journal::Journal;

/// The bounds of a [`GroupCommitBuffer`]'s queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCommitOptions {
    /// Records, at least 1.
    pub queue_records: usize,
    /// Bytes of records, overhead included. A larger record waits until it is alone.
    pub queue_bytes: u32,
}

impl Default for GroupCommitOptions {
    fn default() -> Self {
        Self { queue_records: 1024, queue_bytes: 64 << 20 }
    }
}

/// Accepts records from many tasks. One thread writes all that wait, syncs once and answers all of them.
///
/// The buffer works under any executor. Share it by `Arc`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use relayburn_ledger::journal::{GroupCommitBuffer, GroupCommitOptions, Journal};
/// use std::sync::Arc;
///
/// let directory = tempfile::tempdir()?;
/// let journal = Arc::new(Journal::open(directory.path())?);
/// let buffer = GroupCommitBuffer::new(journal, GroupCommitOptions::default())?;
/// let (a, b) = tokio::join!(buffer.append(b"a"), buffer.append(b"b")); // one sync
/// assert_ne!(a?, b?);
/// buffer.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct GroupCommitBuffer {
    journal: Arc<Journal>,
    queue: CommitQueue,
    done: watch::Receiver<()>,
}

impl GroupCommitBuffer {
    /// Starts the writing thread. The journal may still be used otherwise.
    ///
    /// # Errors
    /// [`JournalError::Threads`].
    pub fn new(journal: Arc<Journal>, options: GroupCommitOptions) -> Result<Self> {
        let (queue, receiver) = CommitQueue::new(&options);
        let (working, done) = watch::channel(());
        let writer = journal.clone();
        let work = move || {
            let commit = |batch: &[CommitRequest]| {
                let mut offsets = Vec::with_capacity(batch.len());
                writer
                    .appender
                    .commit_each(batch.iter().map(|request| &request.record), |at| offsets.push(at))?;
                Ok(offsets)
            };
            block_on(serve(receiver, options.queue_records.max(1), commit));
            drop(writer);
            drop(working);
        };
        start_thread("burn-commit", crate::disk::handed_over(work))?;
        Ok(Self { journal, queue, done })
    }

    /// Appends one record; returns its offset once the record is on stable storage, whatever the journal's level.
    ///
    /// When the future is dropped, a record that was already queued is still written.
    ///
    /// # Errors
    /// [`JournalError::PayloadTooLarge`]; [`JournalError::Poisoned`] when its write or sync failed;
    /// [`JournalError::Closed`] when the buffer was closed before the record was queued.
    pub async fn append(&self, payload: &[u8]) -> Result<u64> {
        let record = self.journal.appender.encode(payload)?;
        self.queue.append(record).await
    }

    /// Accepts no more records, and waits until every record is answered. Calling it again changes nothing.
    pub async fn close(&self) {
        self.queue.close();
        let mut done = self.done.clone();
        // Nothing is ever sent: this ends when the writing thread drops its side.
        while done.changed().await.is_ok() {}
    }
}

/// The callers' side: bounded in records by the channel and in bytes by the semaphore.
#[derive(Debug)]
struct CommitQueue {
    sender: RwLock<Option<mpsc::Sender<CommitRequest>>>,
    room: Arc<Semaphore>,
    room_bytes: u32,
}

/// A record on its way to the writing thread.
#[derive(Debug)]
struct CommitRequest {
    record: EncodedRecord,
    answer: oneshot::Sender<Result<u64>>,
    _room: OwnedSemaphorePermit,
}

impl CommitQueue {
    fn new(options: &GroupCommitOptions) -> (Self, mpsc::Receiver<CommitRequest>) {
        let (sender, receiver) = mpsc::channel(options.queue_records.max(1));
        let room = Arc::new(Semaphore::new(options.queue_bytes as usize));
        let queue = Self { sender: RwLock::new(Some(sender)), room, room_bytes: options.queue_bytes };
        (queue, receiver)
    }

    async fn append(&self, record: EncodedRecord) -> Result<u64> {
        let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner).clone();
        let sender = sender.ok_or(JournalError::Closed)?;
        let bytes = u32::try_from(record.bytes().len()).unwrap_or(u32::MAX).min(self.room_bytes);
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| JournalError::Closed)?;
        let (answer, answered) = oneshot::channel();
        sender.send(CommitRequest { record, answer, _room: room }).await.map_err(|_| JournalError::Closed)?;
        // The writing thread ends when every sender is gone, so this one must go before the wait.
        drop(sender);
        answered.await.unwrap_or(Err(JournalError::Closed))
    }

    fn close(&self) {
        *self.sender.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The writer's side: commits what waits, up to `limit` records at a time, until every sender is gone.
async fn serve(
    mut receiver: mpsc::Receiver<CommitRequest>,
    limit: usize,
    mut commit: impl FnMut(&[CommitRequest]) -> Result<Vec<u64>>,
) {
    let mut batch = Vec::with_capacity(limit);
    let mut last_len = 0;
    while receiver.recv_many(&mut batch, limit).await > 0 {
        if batch.len() < last_len {
            // The callers of the last batch are about to send again: let them run, for one sync instead of two.
            std::thread::yield_now();
            while batch.len() < limit
                && let Ok(request) = receiver.try_recv()
            {
                batch.push(request);
            }
        }
        last_len = batch.len();
        let outcome = commit(&batch);
        for (index, request) in batch.drain(..).enumerate() {
            let answer = match &outcome {
                Ok(offsets) => Ok(offsets[index]),
                Err(error) => Err(error.clone()),
            };
            // The caller may have stopped waiting.
            let _ = request.answer.send(answer);
        }
    }
}

/// Runs a future on this thread, which sleeps while there is nothing to do.
fn block_on(future: impl Future<Output = ()>) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    while future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
        std::thread::park();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

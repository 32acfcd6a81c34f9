//! The ingestor: drains in the caller's thread, or in a thread of its own until it is stopped.
//!
//! May touch: what its worker touches. Guarantees: `stop` returns after the current batch is stored; lines that the ledger does
//! not accept now are delivered again later; any other failure ends the thread, is returned by `stop`, and loses nothing.

use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use super::error::IngestError;
use super::sink::LedgerSink;
use super::store::KVStore;
use super::worker::{DrainWorker, Drained, SetAsideListener};
use crate::journal::JournalReader;

/// How long the background thread sleeps while the journal has no new records: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// How long it waits before it delivers lines again that the ledger did not accept.
const LEDGER_RETRY: Duration = Duration::from_millis(500);

/// Drains one journal into one store.
pub struct Ingestor<S> {
    place: WorkerPlace<S>,
    shared: Arc<IngestShared>,
    /// Finds the end of the journal while the reader of the worker is busy.
    lag_reader: Mutex<JournalReader>,
}

impl<S> std::fmt::Debug for Ingestor<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingestor").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The result of a background thread: the worker, and what it drained. None when the thread never got the worker.
type Ended<S> = Option<(Box<DrainWorker<S>>, Result<Drained, IngestError>)>;

/// Where the worker is.
enum WorkerPlace<S> {
    Here(Box<DrainWorker<S>>),
    Thread(JoinHandle<Ended<S>>),
    /// Its thread panicked.
    Lost,
}

#[derive(Debug, Default)]
struct IngestShared {
    progress: Mutex<DrainProgress>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct DrainProgress {
    /// Offset of the next record to consume.
    offset: u64,
    is_stopping: bool,
    is_finished: bool,
    /// The task that awaits the end of the thread.
    waiter: Option<Waker>,
}

impl IngestShared {
    fn progress(&self) -> MutexGuard<'_, DrainProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: KVStore> Ingestor<S> {
    /// Prepares to drain `journal` into `store` from the offset in the store on.
    ///
    /// # Errors
    /// [`IngestError::OtherJournal`] and [`IngestError::UnknownJournal`] when the store was filled from another journal;
    /// [`IngestError::Store`], [`IngestError::Cursor`]; [`IngestError::Journal`] when the store's cursor in the journal cannot
    /// be opened or moved to the offset in the store.
    pub fn new(journal: JournalReader, store: S) -> Result<Self, IngestError> {
        let lag_reader = Mutex::new(JournalReader::open(journal.directory())?);
        let worker = DrainWorker::new(journal, store)?;
        let shared = Arc::new(IngestShared::default());
        shared.progress().offset = worker.offset;
        Ok(Self { place: WorkerPlace::Here(Box::new(worker)), shared, lag_reader })
    }

    /// Delivers ledger lines to `sink`. Without one, a ledger line is [`IngestError::NoLedger`].
    ///
    /// # Errors
    /// [`IngestError::Running`] while the background thread is running.
    pub fn set_ledger_sink(&mut self, sink: LedgerSink) -> Result<(), IngestError> {
        self.worker()?.sink = Some(sink);
        Ok(())
    }

    /// Calls `listener` for each record that is set aside.
    ///
    /// # Errors
    /// [`IngestError::Running`] while the background thread is running.
    pub fn on_set_aside(&mut self, listener: SetAsideListener) -> Result<(), IngestError> {
        self.worker()?.set_aside_listener = Some(listener);
        Ok(())
    }

    /// Drains in this thread to the end of the journal.
    ///
    /// # Errors
    /// Every [`IngestError`]. Earlier batches stay stored, and draining can be tried again.
    pub fn drain(&mut self) -> Result<Drained, IngestError> {
        let mut total = Drained::default();
        loop {
            let drained = self.drain_batch()?;
            if drained.records == 0 {
                return Ok(total);
            }
            total.add(drained);
        }
    }

    /// Drains one batch in this thread: 16 384 records or 16 MiB, and the rest of lines that were queued together for the
    /// ledger, up to sixteen times as much. Returns no records at the end of the journal.
    ///
    /// # Errors
    /// As [`Ingestor::drain`].
    pub fn drain_batch(&mut self) -> Result<Drained, IngestError> {
        let worker = self.worker()?;
        let drained = worker.drain_batch()?;
        let offset = worker.offset;
        self.shared.progress().offset = offset;
        Ok(drained)
    }

    /// Starts draining in the background, until [`Ingestor::stop`]. Does nothing when it was started already.
    ///
    /// # Errors
    /// [`IngestError::Panicked`] when an earlier thread panicked; [`IngestError::Threads`] when none can be started: the
    /// ingestor is then as it was.
    pub fn start(&mut self) -> Result<(), IngestError> {
        match std::mem::replace(&mut self.place, WorkerPlace::Lost) {
            WorkerPlace::Here(worker) => {
                {
                    let mut progress = self.shared.progress();
                    (progress.is_stopping, progress.is_finished) = (false, false);
                }
                let shared = self.shared.clone();
                // The worker is sent to the running thread, because a thread that does not start would drop it.
                let (hand_over, handed) = std::sync::mpsc::sync_channel::<Box<DrainWorker<S>>>(1);
                let work = move || {
                    let _finish = Finish(&shared);
                    let mut worker = handed.recv().ok()?;
                    let outcome = follow(&mut worker, &shared);
                    if let Err(error) = &outcome {
                        tracing::error!(%error, "the ingestor stopped");
                    }
                    Some((worker, outcome))
                };
                match std::thread::Builder::new().name("burn-ingest".to_owned()).spawn(work) {
                    Ok(thread) => {
                        // The thread waits for this, so the send neither blocks nor fails.
                        let _ = hand_over.send(worker);
                        self.place = WorkerPlace::Thread(thread);
                        Ok(())
                    }
                    Err(source) => {
                        self.place = WorkerPlace::Here(worker);
                        Err(IngestError::Threads { source })
                    }
                }
            }
            running @ WorkerPlace::Thread(_) => {
                self.place = running;
                Ok(())
            }
            WorkerPlace::Lost => Err(IngestError::Panicked),
        }
    }

    /// Ends the background thread after the current batch, and returns what it drained since it was started; nothing
    /// when it was not running. Works under any executor. When the future is dropped, the thread ends by itself.
    ///
    /// # Errors
    /// The error that ended the thread earlier.
    pub async fn stop(&mut self) -> Result<Drained, IngestError> {
        self.shared.progress().is_stopping = true;
        self.shared.wake.notify_all();
        if matches!(self.place, WorkerPlace::Thread(_)) {
            poll_fn(|context| {
                let mut progress = self.shared.progress();
                if progress.is_finished {
                    return Poll::Ready(());
                }
                progress.waiter = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
        self.join()
    }

    /// Bytes of records in the journal that are not consumed yet.
    ///
    /// # Errors
    /// [`IngestError::Journal`].
    pub fn lag(&self) -> Result<u64, IngestError> {
        let end = self.lag_reader.lock().unwrap_or_else(PoisonError::into_inner).end()?;
        Ok(end.saturating_sub(self.shared.progress().offset))
    }

    /// Whether the background thread is running. It ends by itself only after an error, which [`Ingestor::stop`] returns.
    pub fn is_running(&self) -> bool {
        matches!(self.place, WorkerPlace::Thread(_)) && !self.shared.progress().is_finished
    }

    /// Ends the background thread and returns the store.
    ///
    /// # Errors
    /// As [`Ingestor::stop`].
    pub fn into_store(mut self) -> Result<S, IngestError> {
        self.shared.progress().is_stopping = true;
        self.shared.wake.notify_all();
        self.join()?;
        match std::mem::replace(&mut self.place, WorkerPlace::Lost) {
            WorkerPlace::Here(worker) => Ok(worker.store),
            WorkerPlace::Thread(_) | WorkerPlace::Lost => Err(IngestError::Panicked),
        }
    }

    fn join(&mut self) -> Result<Drained, IngestError> {
        match std::mem::replace(&mut self.place, WorkerPlace::Lost) {
            WorkerPlace::Thread(thread) => {
                let (worker, outcome) = thread.join().ok().flatten().ok_or(IngestError::Panicked)?;
                self.place = WorkerPlace::Here(worker);
                outcome
            }
            WorkerPlace::Here(worker) => {
                self.place = WorkerPlace::Here(worker);
                Ok(Drained::default())
            }
            WorkerPlace::Lost => Err(IngestError::Panicked),
        }
    }

    fn worker(&mut self) -> Result<&mut DrainWorker<S>, IngestError> {
        match &mut self.place {
            WorkerPlace::Here(worker) => Ok(worker),
            WorkerPlace::Thread(_) => Err(IngestError::Running),
            WorkerPlace::Lost => Err(IngestError::Panicked),
        }
    }
}

/// Wakes the task that awaits the end of the thread, also after a panic.
struct Finish<'s>(&'s IngestShared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut progress = self.0.progress();
        progress.is_finished = true;
        if let Some(waiter) = progress.waiter.take() {
            waiter.wake();
        }
    }
}

fn follow<S: KVStore>(worker: &mut DrainWorker<S>, shared: &IngestShared) -> Result<Drained, IngestError> {
    let mut total = Drained::default();
    let mut wait = FIRST_WAIT;
    loop {
        let pause = match worker.drain_batch() {
            Ok(drained) if drained.records == 0 => {
                wait = (wait * 2).min(LONGEST_WAIT);
                wait
            }
            Ok(drained) => {
                total.add(drained);
                wait = FIRST_WAIT;
                Duration::ZERO
            }
            Err(error @ IngestError::Ledger { .. }) => {
                tracing::warn!(%error, "the ingestor asks again");
                LEDGER_RETRY
            }
            Err(error) => return Err(error),
        };
        let mut progress = shared.progress();
        progress.offset = worker.offset;
        if !progress.is_stopping && !pause.is_zero() {
            (progress, _) = shared.wake.wait_timeout(progress, pause).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.is_stopping {
            return Ok(total);
        }
    }
}

impl<S> Drop for Ingestor<S> {
    /// Asks the background thread to end, without waiting for it.
    fn drop(&mut self) {
        self.shared.progress().is_stopping = true;
        self.shared.wake.notify_all();
    }
}

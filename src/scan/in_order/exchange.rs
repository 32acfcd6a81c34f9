//! How workers and the calling thread exchange permits, jobs and results. Starts no thread.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::failure::WorkFailure;
use super::sync::{AtomicBool, Mutex, Receiver, Sender};

/// The result of a job, with the number of the job.
pub(super) type Done<T, E> = (u64, Result<T, WorkFailure<E>>);

/// The worker's ends of the exchange.
pub(super) struct WorkerSide<'s, P, T, E, I> {
    pub permits: Receiver<P>,
    pub done: Sender<Done<T, E>>,
    /// The jobs that no worker has taken.
    pub next: &'s Mutex<I>,
    pub stop: &'s AtomicBool,
}

impl<P, T, E, I> Clone for WorkerSide<'_, P, T, E, I> {
    fn clone(&self) -> Self {
        Self { permits: self.permits.clone(), done: self.done.clone(), ..*self }
    }
}

impl<P, T, E, J, I: Iterator<Item = (J, u64)>> WorkerSide<'_, P, T, E, I> {
    /// Takes jobs and does them until there are no more jobs or the results are no longer wanted.
    pub(super) fn work_off<W>(
        self,
        worker: impl Fn() -> W,
        work: impl Fn(&mut W, P, J, u64) -> Result<T, E>,
    ) {
        let mut state = worker();
        while let Ok(permit) = self.permits.recv() {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let Some((job, number)) = self.job() else { break };
            let made = catch_unwind(AssertUnwindSafe(|| work(&mut state, permit, job, number)));
            let made = match made {
                Ok(made) => made.map_err(WorkFailure::Work),
                Err(payload) => {
                    state = worker();
                    Err(WorkFailure::Panic { number, payload })
                }
            };
            if self.done.send((number, made)).is_err() {
                break;
            }
        }
    }

    /// Does all jobs on the calling thread.
    pub(super) fn alone<W>(
        self,
        mut state: W,
        work: impl Fn(&mut W, P, J, u64) -> Result<T, E>,
        take: &mut impl FnMut(T) -> Result<ControlFlow<(), P>, E>,
    ) -> Result<(), WorkFailure<E>> {
        let mut permit = self.permits.recv().ok();
        while let Some(with) = permit
            && let Some((job, number)) = self.job()
        {
            permit = take(work(&mut state, with, job, number)?)?.continue_value();
        }
        Ok(())
    }

    fn job(&self) -> Option<(J, u64)> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}

/// Passes results to `take` in the order of the job numbers.
pub(super) fn collect<P, T, E>(
    permits: Sender<P>,
    done: Receiver<Done<T, E>>,
    take: &mut impl FnMut(T) -> Result<ControlFlow<(), P>, E>,
) -> Result<(), WorkFailure<E>> {
    let mut early = BTreeMap::new();
    let mut expected = 0;
    while let Ok((number, made)) = done.recv() {
        early.insert(number, made);
        while let Some(made) = early.remove(&expected) {
            expected += 1;
            match take(made?)? {
                // The channel has space for all permits.
                ControlFlow::Continue(permit) => drop(permits.send(permit)),
                ControlFlow::Break(()) => return Ok(()),
            }
        }
    }
    Ok(())
}

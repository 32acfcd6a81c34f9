//! Work on a log in parallel, with the results in the order of the log.
//!
//! Workers take jobs by number. The calling thread takes the results in the order of those numbers. A worker needs a permit before it
//! takes a job, and the permit comes back when the result was taken. An example with two permits and the jobs 0, 1, 2:
//!
//! 1. A takes a permit and job 0, B takes a permit and job 1.
//! 2. B is done first. Its result waits for that of job 0, and B waits for a permit.
//! 3. A is done. The calling thread takes result 0, gives its permit back, takes result 1, gives its permit back.
//! 4. B takes a permit and job 2.
//!
//! Guarantees: no more results exist at a time than there are permits, whatever the length of the log. The result that the
//! calling thread waits for always has its permit already, because a permit is taken before a job. A panic of a worker becomes a
//! [`Failure`] and leaves nobody waiting. A permit may carry memory, such as an arena, that is used again.

mod exchange;
mod failure;
mod sync;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod under_shuttle;

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use crossbeam_channel::bounded;

use self::exchange::{WorkerSide, collect};
pub(crate) use self::failure::Failure;

/// Where the work is done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Workers<'p> {
    /// On all threads of a pool.
    Pool(&'p rayon::ThreadPool),
    /// On so many threads of their own; on the calling thread when that is 0 or none can be started.
    Threads(usize),
}

/// Does `work` on all `jobs`, which are numbered from 0, and hands the results to `take` on the calling thread, in the order
/// of the jobs, until `take` breaks. `take` returns the permit with which the result was made. `worker` makes the state that a
/// thread keeps from job to job. There is at least one permit; more workers than permits are not started.
///
/// # Errors
/// The first failure in the order of the jobs. No worker is at work any more when this function returns.
pub(crate) fn in_order<J: Send, P: Send, T: Send, E: Send, W>(
    workers: Workers<'_>,
    permits: Vec<P>,
    jobs: impl Iterator<Item = J> + Send,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, P, J, u64) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<ControlFlow<(), P>, E>,
) -> Result<(), Failure<E>> {
    let next = sync::Mutex::new(jobs.zip(0u64..));
    let stop = sync::AtomicBool::new(false);
    // A worker ends with a permit in its hand, so with more workers than permits the last ones would wait for ever.
    let workers_max = permits.len();
    let (permit_sender, permit_receiver) = bounded(permits.len());
    let (done_sender, done_receiver) = bounded(permits.len());
    for permit in permits {
        // The channel has room for all of them.
        let _ = permit_sender.send(permit);
    }
    let side = WorkerSide { permits: permit_receiver, done: done_sender, next: &next, stop: &stop };
    let work_off = |side: WorkerSide<'_, _, _, _, _>| side.work_off(&worker, &work);
    let work_off = &work_off;
    let collect = |take: &mut _| {
        // Both ends are dropped when all is taken, or not wanted: workers that wait for a permit are woken.
        let result = collect(permit_sender, done_receiver, take);
        stop.store(true, Ordering::Relaxed);
        result
    };
    match workers {
        Workers::Pool(pool) => pool.in_place_scope(|scope| {
            for _ in 0..pool.current_num_threads().min(workers_max) {
                let side = side.clone();
                scope.spawn(move |_| work_off(side));
            }
            drop(side);
            collect(&mut take)
        }),
        Workers::Threads(threads) => std::thread::scope(|scope| {
            let is_started = |index: &usize| {
                let side = side.clone();
                let builder = std::thread::Builder::new().name(format!("burn-scan-{index}"));
                builder.spawn_scoped(scope, move || work_off(side)).is_ok()
            };
            if (0..threads.min(workers_max)).filter(is_started).count() == 0 {
                return side.alone(worker(), &work, &mut take);
            }
            drop(side);
            collect(&mut take)
        }),
    }
}

//! Runs work on a log in parallel and returns the results in the order of the log.
//!
//! Workers take jobs by number. The calling thread takes the results in the order of the job numbers. A worker takes a permit
//! before it takes a job, and the permit comes back when the result was taken. An example with two permits and the jobs 0, 1,
//! 2:
//!
//! 1. A takes a permit and job 0, B takes a permit and job 1.
//! 2. B is done first. Result 1 waits for result 0, and B waits for a permit.
//! 3. A is done. The calling thread takes result 0, gives its permit back, takes result 1, gives its permit back.
//! 4. B takes a permit and job 2.
//!
//! Guarantees: there are never more results than permits, whatever the length of the log. The result that the calling thread
//! waits for always has a permit already, because a worker takes the permit before the job. A panic of `work` on a worker thread
//! becomes a [`WorkFailure`], and no thread waits for ever. A permit may carry memory that is used again, such as an arena.

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
pub(crate) use self::failure::WorkFailure;

/// Where the work runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Workers<'p> {
    /// On all threads of a pool.
    Pool(&'p rayon::ThreadPool),
    /// On this many new threads; on the calling thread when the number is 0 or no thread can be started.
    Threads(usize),
}

/// Does `work` on all `jobs`, numbered from 0, and passes the results to `take` on the calling thread, in the order of the
/// jobs, until `take` breaks. `take` returns the permit of the result. `worker` makes the state that a thread keeps from job to
/// job. The caller must pass at least one permit. There are no more workers than permits.
///
/// # Errors
/// The first failure in the order of the jobs. All workers have ended when this function returns.
pub(crate) fn in_order<J: Send, P: Send, T: Send, E: Send, W>(
    workers: Workers<'_>,
    permits: Vec<P>,
    jobs: impl Iterator<Item = J> + Send,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, P, J, u64) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<ControlFlow<(), P>, E>,
) -> Result<(), WorkFailure<E>> {
    let next = sync::Mutex::new(jobs.zip(0u64..));
    let stop = sync::AtomicBool::new(false);
    // A worker that ends keeps its permit, so with more workers than permits the last workers would wait for ever.
    let workers_max = permits.len();
    let (permit_sender, permit_receiver) = bounded(permits.len());
    let (done_sender, done_receiver) = bounded(permits.len());
    for permit in permits {
        // The channel has space for all permits.
        let _ = permit_sender.send(permit);
    }
    let side = WorkerSide { permits: permit_receiver, done: done_sender, next: &next, stop: &stop };
    let work_off = |side: WorkerSide<'_, _, _, _, _>| side.work_off(&worker, &work);
    let work_off = &work_off;
    let collect = |take: &mut _| {
        // `collect` drops both ends when all results are taken or no more are wanted. Workers that wait for a permit then wake up.
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

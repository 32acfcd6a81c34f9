//! `exchange.rs` compiled again on shuttle's primitives, and a scenario for it.

#![allow(clippy::unwrap_used)]

use super::failure::{self, WorkFailure};

mod sync {
    use std::sync::Arc;

    use shuttle::sync::mpsc;
    pub(super) use shuttle::sync::{Mutex, atomic::AtomicBool};

    /// A channel whose receiver can be cloned, like crossbeam's.
    pub(super) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        (Sender(sender), Receiver(Arc::new(Mutex::new(receiver))))
    }

    pub(super) struct Sender<T>(mpsc::SyncSender<T>);

    impl<T> Sender<T> {
        pub(super) fn send(&self, value: T) -> Result<(), mpsc::SendError<T>> {
            self.0.send(value)
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    pub(super) struct Receiver<T>(Arc<Mutex<mpsc::Receiver<T>>>);

    impl<T> Receiver<T> {
        pub(super) fn recv(&self) -> Result<T, mpsc::RecvError> {
            self.0.lock().unwrap().recv()
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }
}

#[allow(dead_code, clippy::duplicate_mod)]
#[path = "exchange.rs"]
mod exchange;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use exchange::{WorkerSide, collect};

const PERMITS: usize = 3;
const WORKERS: usize = 2;
const JOBS: u64 = 5;

/// Checks the results on the calling thread when the job `fails` fails and the thread breaks after taking `enough` results.
pub(super) fn scenario(fails: u64, enough: u64) {
    let (permit_sender, permits) = sync::bounded::<usize>(PERMITS);
    let (done, done_receiver) = sync::bounded(PERMITS);
    (0..PERMITS).for_each(|permit| permit_sender.send(permit).unwrap());
    let next = Arc::new(sync::Mutex::new((0..JOBS).map(|job| job * 10).zip(0u64..)));
    let stop = Arc::new(sync::AtomicBool::new(false));
    let under_way = Arc::new(shuttle::sync::atomic::AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (permits, done) = (permits.clone(), done.clone());
            let (next, stop, under_way) = (Arc::clone(&next), Arc::clone(&stop), Arc::clone(&under_way));
            shuttle::thread::spawn(move || {
                let side = WorkerSide { permits, done, next: &next, stop: &stop };
                side.work_off(
                    || (),
                    |(), permit: usize, job: u64, number| {
                        assert!(under_way.fetch_add(1, Ordering::SeqCst) < PERMITS);
                        assert_eq!(job, number * 10);
                        if number == fails { Err(number) } else { Ok((permit, number)) }
                    },
                );
            })
        })
        .collect();
    drop((permits, done));
    let mut taken = 0;
    let result = collect(permit_sender, done_receiver, &mut |(permit, number)| {
        assert_eq!(number, taken, "in order");
        taken += 1;
        under_way.fetch_sub(1, Ordering::SeqCst);
        Ok(if taken == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(permit) })
    });
    stop.store(true, Ordering::Relaxed);
    // The joins end only if every worker ends: shuttle reports a worker that waits for ever as a deadlock.
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    match result {
        Ok(()) => assert_eq!(taken, enough.min(JOBS)),
        Err(WorkFailure::Work(number)) => assert!(number == fails && taken == fails && taken < enough),
        Err(WorkFailure::Panic { .. }) => panic!("no job panics"),
    }
}

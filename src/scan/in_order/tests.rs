//! The exchange under every order of workers and calling thread that shuttle's schedulers come up with, and the real thing.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use super::under_shuttle::scenario;
use super::{WorkFailure, Workers, in_order};

/// Enough schedules for the gate; `SHUTTLE_ITERATIONS` asks for more.
fn iterations() -> usize {
    std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000)
}

#[test]
fn results_come_in_order_and_every_worker_ends_whatever_the_schedule() {
    const NEVER: u64 = u64::MAX;
    for (fails, enough) in [(NEVER, NEVER), (2, NEVER), (NEVER, 3), (4, 4), (0, 1)] {
        shuttle::check_random(move || scenario(fails, enough), iterations());
        shuttle::check_pct(move || scenario(fails, enough), iterations(), 3);
    }
}

const WORKERS: [usize; 4] = [0, 1, 2, 7];

#[test]
fn real_threads_give_every_result_in_order_and_permits_are_used_again() {
    for threads in WORKERS {
        let mut taken = Vec::new();
        let result: Result<(), WorkFailure<()>> = in_order(
            Workers::Threads(threads),
            vec![Vec::new(), Vec::new(), Vec::new()],
            (0..1000u64).map(|job| job * 3),
            || 0u64,
            |done_by_worker, mut permit: Vec<u64>, job, number| {
                *done_by_worker += 1;
                permit.push(job + number);
                Ok(permit)
            },
            |mut permit| {
                taken.append(&mut permit);
                Ok(ControlFlow::Continue(permit))
            },
        );
        assert!(result.is_ok());
        assert_eq!(taken, (0..1000).map(|number| number * 4).collect::<Vec<_>>(), "{threads} threads");
    }
}

#[test]
fn a_panic_is_a_failure_that_names_its_job_and_no_earlier_result_is_lost() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    for workers in [Workers::Threads(1), Workers::Threads(4), Workers::Pool(&pool)] {
        let mut taken = 0;
        let result: Result<(), WorkFailure<()>> = in_order(
            workers,
            vec![(), (), ()],
            0..100u64,
            || (),
            |(), (), job, number| {
                assert!(job != 40, "job 40 panics");
                Ok(number)
            },
            |number| {
                assert_eq!(number, taken);
                taken += 1;
                Ok(ControlFlow::Continue(()))
            },
        );
        match result {
            Err(WorkFailure::Panic { number, payload }) => {
                assert_eq!((number, taken), (40, 40));
                assert_eq!(payload.downcast_ref::<&str>(), Some(&"job 40 panics"));
            }
            _ => panic!("{workers:?}: no panic was told"),
        }
    }
}

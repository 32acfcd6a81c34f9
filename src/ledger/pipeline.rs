//! A log worked through on several threads, with the results in the order of the log.
//!
//! Reads through [`scan`](crate::scan) and touches nothing else. Promises that no more than a few chunks are in memory at
//! a time, whatever the length of the log, that nothing made from a file that was truncated meanwhile is handed over, and
//! that a worker's panic is an error and leaves nobody waiting.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::bounded;

use super::LedgerError;
use crate::scan::{ScanError, Source, chunks};

/// Chunks under way for each thread: one in work, one done or waiting.
const CHUNKS_PER_THREAD: usize = 2;

/// Which part of a log to work through, and how.
#[derive(Debug, Clone)]
pub(super) struct Work<'s> {
    pub source: &'s Source,
    /// Whole lines.
    pub range: Range<u64>,
    pub chunk_bytes: u64,
    pub threads: usize,
}

impl<'s> Work<'s> {
    /// All whole lines of `source`, on at most `threads_max` threads.
    pub(super) fn whole(source: &'s Source, chunk_bytes: u64, threads_max: usize) -> Result<Self, ScanError> {
        let end = source.line_end_before(0, source.len_bytes())?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(threads_max);
        Ok(Self { source, range: 0..end, chunk_bytes, threads })
    }
}

/// Makes something of every chunk with `map`, which gets the worker's state, the chunk's offset and its bytes, and hands
/// the results to `sink` in order, with the offset behind the chunk, until `sink` says that it has enough.
pub(super) fn in_order<W, T: Send>(
    work: &Work<'_>,
    worker: impl Fn() -> W + Sync,
    map: impl Fn(&mut W, u64, &[u8]) -> T + Sync,
    mut sink: impl FnMut(T) -> Result<std::ops::ControlFlow<()>, LedgerError>,
) -> Result<(), LedgerError> {
    let source = work.source;
    let one = |state: &mut W, buffer: &mut Vec<u8>, chunk: Range<u64>| -> Result<T, ScanError> {
        let made = map(state, chunk.start, source.bytes(chunk, buffer)?);
        source.check_len()?;
        Ok(made)
    };
    let mut all = chunks(source, work.range.clone(), work.chunk_bytes);
    if work.threads <= 1 || work.range.end - work.range.start <= work.chunk_bytes {
        let (mut state, mut buffer) = (worker(), Vec::new());
        for chunk in all {
            if sink(one(&mut state, &mut buffer, chunk?)?)?.is_break() {
                break;
            }
        }
        return Ok(());
    }
    let under_way = work.threads * CHUNKS_PER_THREAD;
    let (permit_sender, permits) = bounded::<()>(under_way);
    let (done_sender, done) = bounded::<(u64, Result<T, LedgerError>)>(under_way);
    for _ in 0..under_way {
        // The channel has room for all of them.
        let _ = permit_sender.send(());
    }
    let stop = AtomicBool::new(false);
    let mut number = 0;
    let next = Mutex::new(move || {
        all.next().map(|chunk| {
            number += 1;
            (number - 1, chunk)
        })
    });
    std::thread::scope(|scope| {
        for index in 0..work.threads {
            let (permits, done_sender) = (permits.clone(), done_sender.clone());
            let (stop, next, one, worker) = (&stop, &next, &one, &worker);
            std::thread::Builder::new()
                .name(format!("burn-scan-{index}"))
                .spawn_scoped(scope, move || {
                    let (mut state, mut buffer) = (worker(), Vec::new());
                    while permits.recv().is_ok() && !stop.load(Ordering::Relaxed) {
                        let Some((number, chunk)) = next.lock().ok().and_then(|mut next| next()) else {
                            break;
                        };
                        let made = AssertUnwindSafe(|| Ok(one(&mut state, &mut buffer, chunk?)?));
                        // A panic must not leave the calling thread waiting for this chunk for ever.
                        let made = catch_unwind(made).unwrap_or_else(|_| {
                            state = worker();
                            Err(LedgerError::Worker { ledger: source.path().to_owned(), number })
                        });
                        if done_sender.send((number, made)).is_err() {
                            break;
                        }
                    }
                })
                .map_err(|reason| LedgerError::Threads { reason })?;
        }
        drop(done_sender);
        drop(permits);
        // Dropped on the way out, whatever the result: workers that wait are woken and stop.
        let (done, permit_sender) = (done, permit_sender);
        let mut early = BTreeMap::new();
        let mut expected = 0;
        let mut hand_over = || -> Result<(), LedgerError> {
            for (number, made) in &done {
                early.insert(number, made);
                while let Some(made) = early.remove(&expected) {
                    expected += 1;
                    if sink(made?)?.is_break() {
                        return Ok(());
                    }
                    let _ = permit_sender.send(());
                }
            }
            Ok(())
        };
        let result = hand_over();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

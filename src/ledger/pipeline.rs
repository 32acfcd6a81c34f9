//! Reads a ledger on several threads and passes on the results in the order of the ledger.
//!
//! Guarantees: no more than a few chunks are in memory at a time. No result from a ledger that was truncated meanwhile is
//! passed on. A panic of a worker becomes an error.

use std::ops::{ControlFlow, Range};

use super::LedgerError;
use crate::scan::in_order::{WorkFailure, Workers, in_order as scan_in_order};
use crate::scan::{ScanError, Source, chunks};

/// Chunks in progress for each thread: one that the thread reads, one that is done or waits.
const CHUNKS_PER_THREAD: usize = 2;

/// The part of a ledger to read, and with how many threads.
#[derive(Debug, Clone)]
pub(super) struct LedgerWork<'s> {
    pub source: &'s Source,
    /// A range of whole lines.
    pub range: Range<u64>,
    pub chunk_bytes: u64,
    pub threads: usize,
}

impl<'s> LedgerWork<'s> {
    /// Covers all whole lines of `source`, on at most `threads_max` threads.
    pub(super) fn whole(source: &'s Source, chunk_bytes: u64, threads_max: usize) -> Result<Self, ScanError> {
        let end = source.line_end_before(0, source.len_bytes())?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(threads_max);
        Ok(Self { source, range: 0..end, chunk_bytes, threads })
    }
}

/// Calls `map` for every chunk with the worker's state, the chunk's offset and the chunk's bytes, and passes the results to
/// `sink` in order until `sink` breaks. A ledger of one chunk is read on the calling thread.
pub(super) fn in_order<W, T: Send>(
    work: &LedgerWork<'_>,
    worker: impl Fn() -> W + Sync,
    map: impl Fn(&mut W, u64, &[u8]) -> T + Sync,
    mut sink: impl FnMut(T) -> Result<ControlFlow<()>, LedgerError>,
) -> Result<(), LedgerError> {
    let source = work.source;
    let is_short = work.range.end - work.range.start <= work.chunk_bytes;
    let threads = if is_short || work.threads <= 1 { 0 } else { work.threads };
    scan_in_order(
        Workers::Threads(threads),
        vec![(); (threads * CHUNKS_PER_THREAD).max(1)],
        chunks(source, work.range.clone(), work.chunk_bytes),
        || (worker(), Vec::new()),
        |(state, buffer), (), chunk, _| {
            let chunk = chunk?;
            let made = map(state, chunk.start, source.bytes(chunk, buffer)?);
            // A result from a file that was truncated meanwhile is an error and is not passed on.
            source.check_len()?;
            Ok(made)
        },
        &mut sink,
    )
    .map_err(|failure| match failure {
        WorkFailure::Work(error) => error,
        WorkFailure::Panic { number, .. } => LedgerError::Worker { ledger: source.path().to_owned(), number },
    })
}

//! The pipeline of every build: chunks of the ledger, parsed on all cores, handed over in the order of the ledger.
//!
//! Worker threads take the next chunk, make its rows in an arena, and send the batch through a bounded channel; the calling
//! thread puts batches in order and gives them to the writer. There are as many batches under way as there are arenas: a
//! worker gets an arena before it takes a chunk, and an arena comes back when its batch has been written. So the memory
//! of the pipeline is the number of arenas times the rows of a chunk, whatever the length of the ledger, and the
//! batch that the writer waits for always has its arena already.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bumpalo::Bump;
use crossbeam_channel::bounded;
use rayon::ThreadPool;

use super::error::ArchiveError;
use crate::interrupt::Interrupt;
use crate::record::fold::Fold;
use crate::record::rows::{RowMaker, Rows, add_chunk};
use crate::scan::{ScanError, Source, chunks};

/// Arenas for each worker: one being filled, and room for the writer to be behind or ahead.
const ARENAS_PER_WORKER: usize = 3;
/// An arena that one long line has blown up beyond this many chunk lengths is given back to the system.
const ARENA_KEEP_CHUNKS: usize = 8;

self_cell::self_cell!(
    /// The rows of a chunk with the arena that holds their text.
    struct Batch {
        owner: Bump,
        #[covariant]
        dependent: Rows,
    }
);

/// What a run of the pipeline reads.
#[derive(Debug, Clone)]
pub struct Input<'s> {
    /// The ledger.
    pub source: &'s Source,
    /// Which bytes of it: whole lines.
    pub range: Range<u64>,
    /// How long a chunk is, about.
    pub chunk_bytes: u64,
    /// A line start at which a chunk ends, too, so that what stands in front of it can be told from what stands behind it;
    /// without effect outside of the range.
    pub cut_at: u64,
    /// Looked at before each chunk.
    pub interrupt: Interrupt,
}

impl Input<'_> {
    /// The chunks, in order.
    fn chunks(&self) -> impl Iterator<Item = Result<Range<u64>, ScanError>> {
        let cut = self.cut_at.clamp(self.range.start, self.range.end);
        let parts = [self.range.start..cut, cut..self.range.end];
        parts.into_iter().flat_map(|part| chunks(self.source, part, self.chunk_bytes))
    }
}

/// Starts `threads` workers (at least 1).
///
/// # Errors
/// [`ArchiveError::Threads`].
pub fn workers(threads: usize) -> Result<ThreadPool, ArchiveError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|index| format!("burn-parse-{index}"))
        .build()
        .map_err(|error| ArchiveError::Threads { threads, reason: error.to_string() })
}

/// Parses `input` on `pool`. The rows of each chunk go to `work` in the worker that made them, with the number of the
/// chunk, and then to `sink` on the calling thread, in the order of the ledger, with the offset up to which it has been
/// read.
///
/// # Errors
/// The first error of `work`, of `sink`, or of reading; the pipeline has then come to rest.
pub fn run<'f>(
    pool: &ThreadPool,
    input: &Input<'_>,
    fold: &Fold<'f>,
    work: impl Fn(&Rows<'_>, u64) -> Result<(), ArchiveError> + Sync,
    mut sink: impl FnMut(&Rows<'_>, u64) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let threads = pool.current_num_threads();
    let arenas = threads * ARENAS_PER_WORKER;
    let (free_sender, free) = bounded::<Bump>(arenas);
    let (done_sender, done) = bounded(arenas);
    for _ in 0..arenas {
        // The channel has room for all of them.
        let _ = free_sender.send(Bump::new());
    }
    let stop = AtomicBool::new(false);
    let next = Mutex::new(input.chunks().zip(0u64..));
    pool.in_place_scope(|scope| {
        for _ in 0..threads {
            let (free, done_sender) = (free.clone(), done_sender.clone());
            let (stop, next, work) = (&stop, &next, &work);
            scope.spawn(move |_| {
                let mut maker = RowMaker::default();
                let mut buffer = Vec::new();
                while let Ok(arena) = free.recv() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let Some((chunk, number)) = next.lock().ok().and_then(|mut next| next.next()) else {
                        break;
                    };
                    let made = AssertUnwindSafe(|| {
                        chunk.map_err(ArchiveError::from).and_then(|chunk| {
                            let bytes = input.source.bytes(chunk.clone(), &mut buffer)?;
                            let batch = Batch::new(arena, |arena| {
                                let mut rows = Rows::default();
                                add_chunk(&mut maker, chunk.start, bytes, fold, arena, &mut rows);
                                rows
                            });
                            // Rows of a file that was truncated meanwhile are not rows of the ledger.
                            input.source.check_len()?;
                            work(batch.borrow_dependent(), number)?;
                            Ok((chunk.end, batch))
                        })
                    });
                    // A panic must not leave the writer waiting for this chunk for ever.
                    let batch = catch_unwind(made).unwrap_or_else(|_| {
                        maker = RowMaker::default();
                        Err(ArchiveError::Worker { ledger: input.source.path().to_path_buf(), number })
                    });
                    if done_sender.send((number, batch)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done_sender);
        // Both ends are dropped on the way out, whatever the result: workers that wait are woken and stop.
        let (done, free_sender, free) = (done, free_sender, free);
        drop(free);
        let mut early = BTreeMap::new();
        let mut expected = 0;
        let mut in_order = || -> Result<(), ArchiveError> {
            for (number, batch) in &done {
                early.insert(number, batch);
                while let Some(batch) = early.remove(&expected) {
                    let (end, batch) = batch?;
                    if input.interrupt.is_requested() {
                        return Err(ArchiveError::Interrupted);
                    }
                    expected += 1;
                    sink(batch.borrow_dependent(), end)?;
                    let mut arena = batch.into_owner();
                    if arena.allocated_bytes() as u64
                        > input.chunk_bytes.max(1 << 20).saturating_mul(ARENA_KEEP_CHUNKS as u64)
                    {
                        arena = Bump::new();
                    }
                    arena.reset();
                    let _ = free_sender.send(arena);
                }
            }
            Ok(())
        };
        let result = in_order();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

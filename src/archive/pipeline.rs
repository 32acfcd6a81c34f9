//! The pipeline of every build: chunks of the ledger, parsed on all cores, handed over in the order of the ledger.
//!
//! Workers of `scan::in_order` take the next chunk, make its rows in an arena, and send the batch through a bounded channel to the
//! calling thread, which gives it to the writer. The arena is the permit, so the memory of the pipeline is the number of arenas
//! times the rows of a chunk, whatever the length of the ledger.

use std::ops::{ControlFlow, Range};

use bumpalo::Bump;
use rayon::ThreadPool;

use super::error::ArchiveError;
use crate::interrupt::Interrupt;
use crate::record::fold::Fold;
use crate::record::rows::{RowMaker, Rows, add_chunk};
use crate::scan::in_order::{Failure, Workers, in_order};
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
    let arenas = pool.current_num_threads() * ARENAS_PER_WORKER;
    let arena_keep_bytes = input.chunk_bytes.max(1 << 20).saturating_mul(ARENA_KEEP_CHUNKS as u64);
    in_order(
        Workers::Pool(pool),
        (0..arenas).map(|_| Bump::new()).collect(),
        input.chunks(),
        || (RowMaker::default(), Vec::new()),
        |(maker, buffer), arena, chunk, number| {
            let chunk = chunk?;
            let bytes = input.source.bytes(chunk.clone(), buffer)?;
            let batch = Batch::new(arena, |arena| {
                let mut rows = Rows::default();
                add_chunk(maker, chunk.start, bytes, fold, arena, &mut rows);
                rows
            });
            // Rows of a file that was truncated meanwhile are not rows of the ledger.
            input.source.check_len()?;
            work(batch.borrow_dependent(), number)?;
            Ok((chunk.end, batch))
        },
        |(end, batch): (u64, Batch)| {
            if input.interrupt.is_requested() {
                return Err(ArchiveError::Interrupted);
            }
            sink(batch.borrow_dependent(), end)?;
            let mut arena = batch.into_owner();
            if arena.allocated_bytes() as u64 > arena_keep_bytes {
                arena = Bump::new();
            }
            arena.reset();
            Ok(ControlFlow::Continue(arena))
        },
    )
    .map_err(|failure| match failure {
        Failure::Work(error) => error,
        Failure::Panic { number, .. } => {
            ArchiveError::Worker { ledger: input.source.path().to_path_buf(), number }
        }
    })
}

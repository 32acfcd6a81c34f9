//! The pipeline of every build: parses chunks of the ledger on all cores and passes the rows on in the order of the
//! ledger.
//!
//! Workers of `scan::in_order` take the next chunk, make its rows in an arena, and send the batch through a bounded
//! channel to the calling thread. The calling thread gives the batch to the writer. An arena is the permit to work,
//! so the memory of the pipeline is the number of arenas times the rows of a part, whatever the length and content of
//! the ledger. A worker makes rows until the rows fill a part. The calling thread makes the rows of the rest of the
//! chunk, part by part, when it reaches the chunk. The calling thread also parses every line that is longer than a
//! chunk and every turn with a long enrichment, so that there is one of them at a time.

use std::ops::{ControlFlow, Range};

use bumpalo::Bump;
use rayon::ThreadPool;

use super::error::ArchiveError;
use crate::interrupt::Interrupt;
use crate::record::LINE_MAX_BYTES;
use crate::record::fold::Fold;
use crate::record::maker::{Budget, RowMaker, add_part};
use crate::record::rows::Rows;
use crate::scan::in_order::{WorkFailure, Workers, in_order};
use crate::scan::{ScanError, Source, chunks, is_long_line};

/// Arenas for each worker: one that is being filled and two spare ones, so that neither the worker nor the writer waits for the
/// other.
const ARENAS_PER_WORKER: usize = 3;
/// An arena that one long line grew beyond this many chunk lengths is freed.
const ARENA_KEEP_CHUNKS: usize = 8;
/// A part of a chunk ends when its rows take more than this many chunk lengths. Rows of usual ledgers take little
/// more than their lines.
const PART_CHUNKS: u64 = 4;
/// A buffer that a long line grew beyond this length is freed.
const BUFFER_KEEP_BYTES: usize = 4 << 20;

self_cell::self_cell!(
    /// The rows of a chunk with the arena that holds their text.
    struct ChunkRows {
        owner: Bump,
        #[covariant]
        dependent: Rows,
    }
);

/// The input of a run of the pipeline.
#[derive(Debug, Clone)]
pub struct PipelineInput<'s> {
    /// The ledger.
    pub source: &'s Source,
    /// The byte range to read: whole lines.
    pub range: Range<u64>,
    /// Approximate length of a chunk.
    pub chunk_bytes: u64,
    /// A line start at which a chunk ends, too, so that lines before it and lines after it are in different chunks;
    /// without effect outside the range.
    pub cut_at: u64,
    /// Checked before each chunk.
    pub interrupt: Interrupt,
}

impl PipelineInput<'_> {
    /// Bytes of rows after which a part of a chunk ends.
    fn part_bytes(&self) -> usize {
        usize::try_from(self.chunk_bytes.saturating_mul(PART_CHUNKS)).unwrap_or(usize::MAX)
    }

    /// The chunks, in order.
    fn chunks(&self) -> impl Iterator<Item = Result<Range<u64>, ScanError>> {
        let cut = self.cut_at.clamp(self.range.start, self.range.end);
        let parts = [self.range.start..cut, cut..self.range.end];
        parts.into_iter().flat_map(|part| chunks(self.source, part, self.chunk_bytes))
    }
}

/// Identifies rows: part `part` of chunk `chunk`, both counted from 0 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsPlace {
    /// The number of the chunk.
    pub chunk: u64,
    /// The number of the part in its chunk.
    pub part: u32,
    /// Whether the chunk has no further part.
    pub is_last: bool,
}

/// Starts `threads` workers; 0 means one for each core.
///
/// # Errors
/// [`ArchiveError::Threads`].
pub fn workers(threads: usize) -> Result<ThreadPool, ArchiveError> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("burn-parse-{index}"))
        .build()
        .map_err(|error| ArchiveError::Threads { threads, reason: error.to_string() })
}

/// Parses `input` on `pool`. The rows of each part of a chunk go first to `work`, with their place, in the thread
/// that made them; the parts of a chunk arrive in order. Then the rows go to `sink` on the calling thread, in the
/// order of the ledger, with the offset up to which the ledger has been read.
///
/// # Errors
/// The first error of `work`, of `sink`, or of reading; no worker runs any more.
pub fn run<'f>(
    pool: &ThreadPool,
    input: &PipelineInput<'_>,
    fold: &Fold<'f>,
    work: impl Fn(&Rows<'_>, RowsPlace) -> Result<(), ArchiveError> + Sync,
    mut sink: impl FnMut(&Rows<'_>, u64) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let arenas = pool.current_num_threads() * ARENAS_PER_WORKER;
    let arena_keep_bytes = input.chunk_bytes.max(1 << 20).saturating_mul(ARENA_KEEP_CHUNKS as u64);
    let part_bytes = input.part_bytes();
    let mut rest_of_chunk = RestOfChunk::default();
    in_order(
        Workers::Pool(pool),
        (0..arenas).map(|_| Bump::new()).collect(),
        input.chunks(),
        || (RowMaker::default(), Vec::new(), [0; 3]),
        |(maker, buffer, counts), arena, chunk, number| {
            let chunk = chunk?;
            let mut rest = chunk.clone();
            let mut batch = ChunkRows::new(arena, |_| Rows::default());
            if !is_long_line(&chunk, input.chunk_bytes) {
                let bytes = input.source.bytes(chunk.clone(), buffer)?;
                batch = ChunkRows::new(batch.into_owner(), |arena| {
                    // The chunk before had about as many rows.
                    let mut rows = Rows::with_capacity(*counts);
                    let budget = Budget { rows_bytes: part_bytes, enrichment_bytes: part_bytes };
                    rest.start = add_part(maker, chunk.start, bytes, fold, arena, &mut rows, budget);
                    *counts = rows.counts();
                    rows
                });
                // Rows of a file that was truncated meanwhile are not rows of the ledger.
                input.source.check_len()?;
            }
            work(batch.borrow_dependent(), RowsPlace { chunk: number, part: 0, is_last: rest.is_empty() })?;
            Ok((number, rest, batch))
        },
        |(number, rest, batch): (u64, Range<u64>, ChunkRows)| {
            if input.interrupt.is_requested() {
                return Err(ArchiveError::Interrupted);
            }
            sink(batch.borrow_dependent(), rest.start)?;
            let mut arena = batch.into_owner();
            if arena.allocated_bytes() as u64 > arena_keep_bytes {
                arena = Bump::new();
            }
            arena.reset();
            rest_of_chunk.run(input, fold, number, rest, &work, &mut sink)?;
            Ok(ControlFlow::Continue(arena))
        },
    )
    .map_err(|failure| match failure {
        WorkFailure::Work(error) => error,
        WorkFailure::Panic { number, .. } => {
            ArchiveError::Worker { ledger: input.source.path().to_path_buf(), number }
        }
    })
}

/// What the calling thread uses to make rows of the rest of a chunk.
#[derive(Default)]
struct RestOfChunk<'f> {
    maker: RowMaker<'f>,
    buffer: Vec<u8>,
}

impl<'f> RestOfChunk<'f> {
    /// Makes rows of `rest`, the bytes of chunk `number` after part 0, part by part.
    fn run(
        &mut self,
        input: &PipelineInput<'_>,
        fold: &Fold<'f>,
        number: u64,
        mut rest: Range<u64>,
        work: &impl Fn(&Rows<'_>, RowsPlace) -> Result<(), ArchiveError>,
        sink: &mut impl FnMut(&Rows<'_>, u64) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        if rest.is_empty() {
            return Ok(());
        }
        let Self { maker, buffer } = self;
        if is_long_line(&rest, input.chunk_bytes) && rest.end - rest.start > LINE_MAX_BYTES + 1 {
            let mut rows = Rows::default();
            rows.add_too_long(rest.start, rest.end - rest.start - 1);
            work(&rows, RowsPlace { chunk: number, part: 1, is_last: true })?;
            return sink(&rows, rest.end);
        }
        let (base, bytes) = (rest.start, input.source.bytes(rest.clone(), buffer)?);
        let mut arena = Bump::new();
        let mut parts = 1..;
        while let (false, Some(part)) = (rest.is_empty(), parts.next()) {
            if input.interrupt.is_requested() {
                return Err(ArchiveError::Interrupted);
            }
            arena.reset();
            let mut rows = Rows::default();
            let budget = Budget { rows_bytes: input.part_bytes(), enrichment_bytes: usize::MAX };
            let left = &bytes[(rest.start - base) as usize..];
            rest.start = add_part(maker, rest.start, left, fold, &arena, &mut rows, budget);
            input.source.check_len()?;
            work(&rows, RowsPlace { chunk: number, part, is_last: rest.is_empty() })?;
            sink(&rows, rest.start)?;
        }
        if buffer.capacity() > BUFFER_KEEP_BYTES {
            *buffer = Vec::new();
        }
        Ok(())
    }
}

//! Reads turns from the ledger, for answers without an archive and for explanations, which name lines.
//!
//! Touches the ledger, for reading. Guarantees: the turns are the same as in an archive of the same bytes, because the
//! same code reads lines and folds stamps. The ledger is read twice, because the first reading finds the last line of
//! each turn.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};

use bumpalo::Bump;

use super::error::UsageError;
use super::tally::{LineAt, Tally};
use crate::archive::ArchiveError;
use crate::archive::pipeline::{PipelineInput, workers};
use crate::archive::query::{StoredNumber, TurnFields};
use crate::archive::survey::survey;
use crate::interrupt::Interrupt;
use crate::record::Cell;
use crate::record::columns::{tool_calls, turns};
use crate::record::fold::Fold;
use crate::record::maker::RowMaker;
use crate::record::rows::{Rows, TurnRow};
use crate::scan::in_order::{WorkFailure, Workers, in_order};
use crate::scan::{self, ScanError, Source, chunks};

const CHUNK_BYTES: u64 = 1 << 20;

/// The last line of a turn, which counts.
struct LastLine {
    offset: u64,
    length: u64,
    /// Offsets of earlier lines; kept only for explanations.
    superseded: Vec<u64>,
}

/// Adds up the turns of a ledger up to a line end.
pub(super) fn tally_ledger<'q>(
    source: &Source,
    end: u64,
    threads: usize,
    is_explained: bool,
    interrupt: &Interrupt,
    new: impl Fn() -> Tally<'q> + Sync,
) -> Result<Vec<Tally<'q>>, UsageError> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores() } else { threads };
    let work = Work { source, end, threads, interrupt };
    let stamps = {
        let pool = workers(threads)?;
        let input = PipelineInput {
            source,
            range: 0..end,
            chunk_bytes: CHUNK_BYTES,
            cut_at: 0,
            interrupt: interrupt.clone(),
        };
        survey(&pool, &input, false)?.stamps
    };
    let fold = Fold::new(stamps.iter().flat_map(|set| set.borrow_dependent()));
    let last_lines = last_lines(&work, is_explained)?;
    // A worker sends its sums when it ends.
    let tallies = std::sync::Mutex::new(Vec::new());
    work.each_chunk(
        || Worker { state: Some(new()), out: &tallies, lines: Lines::default() },
        |worker, chunk, bytes| {
            let first = last_lines.partition_point(|line| line.offset < chunk.start);
            let mut expected = last_lines[first..].iter().peekable();
            let Some(tally) = &mut worker.state else { return };
            worker.lines.each(chunk.start, bytes, &fold, |offset, _, turn, rows| {
                while expected.next_if(|line| line.offset < offset).is_some() {}
                if let Some(line) = expected.next_if(|line| line.offset == offset) {
                    let line_at = is_explained.then_some(LineAt {
                        offset,
                        length: line.length,
                        superseded: &line.superseded,
                    });
                    with_fields(turn, rows, |fields| tally.add(fields, line_at));
                }
            });
        },
        |()| {},
    )?;
    Ok(tallies.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// A worker's state, which goes to `out` when the worker ends.
struct Worker<'o, 'f, S> {
    state: Option<S>,
    out: &'o std::sync::Mutex<Vec<S>>,
    lines: Lines<'f>,
}

impl<S> Drop for Worker<'_, '_, S> {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(state);
        }
    }
}

/// The last line of each turn, by offset.
fn last_lines(work: &Work<'_>, is_explained: bool) -> Result<Vec<LastLine>, UsageError> {
    // A key has two hashes with different seeds, so that two turns never share a key in practice.
    let (one, other) = (RandomState::new(), RandomState::new());
    let mut last: HashMap<(u64, u64), LastLine> = HashMap::new();
    let nothing = Fold::default();
    work.each_chunk(
        Lines::default,
        |lines, chunk, bytes| {
            let mut found = Vec::new();
            lines.each(chunk.start, bytes, &nothing, |offset, length, turn, _| {
                let key = [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID];
                let key = key.map(|place| turn.cells[place].as_text());
                found.push(((one.hash_one(key), other.hash_one(key)), offset, length));
            });
            found
        },
        |found: Vec<_>| {
            for (key, offset, length) in found {
                let line = LastLine { offset, length, superseded: Vec::new() };
                if let Some(earlier) = last.insert(key, line)
                    && is_explained
                    && let Some(line) = last.get_mut(&key)
                {
                    line.superseded = earlier.superseded;
                    line.superseded.push(earlier.offset);
                }
            }
        },
    )?;
    let mut lines: Vec<LastLine> = last.into_values().collect();
    lines.sort_unstable_by_key(|line| line.offset);
    Ok(lines)
}

/// Reads lines. Each thread has one.
#[derive(Default)]
struct Lines<'f> {
    maker: RowMaker<'f>,
    arena: Bump,
}

impl<'f> Lines<'f> {
    /// Calls `each` with every turn of a chunk, and with the offset and the length of its line.
    fn each(
        &mut self,
        base: u64,
        bytes: &[u8],
        fold: &Fold<'f>,
        mut each: impl FnMut(u64, u64, &TurnRow<'_>, &Rows<'_>),
    ) {
        for (offset, line) in scan::lines(base, bytes) {
            self.arena.reset();
            let mut rows = Rows::default();
            self.maker.add(offset, line, fold, &self.arena, &mut rows);
            if let Some(turn) = rows.turns.first() {
                each(offset, line.len() as u64 + 1, turn, &rows);
            }
        }
    }
}

/// A few complete lines of a ledger in memory, and the stamps among them.
pub(super) struct TurnLines {
    base: u64,
    bytes: Vec<u8>,
    stamps: Vec<crate::archive::survey::StampSet>,
}

impl TurnLines {
    pub(super) fn read(
        source: &Source,
        range: Range<u64>,
        interrupt: &Interrupt,
    ) -> Result<Self, UsageError> {
        let input = PipelineInput {
            source,
            range: range.clone(),
            chunk_bytes: CHUNK_BYTES,
            cut_at: 0,
            interrupt: interrupt.clone(),
        };
        let stamps = survey(&workers(1)?, &input, false)?.stamps;
        let mut buffer = Vec::new();
        let bytes = source.bytes(range.clone(), &mut buffer)?.to_vec();
        Ok(Self { base: range.start, bytes, stamps })
    }

    /// Calls `each` with every turn and the offset of its line.
    pub(super) fn each(&self, mut each: impl FnMut(u64, &TurnFields<'_>)) {
        let fold = Fold::new(self.stamps.iter().flat_map(|set| set.borrow_dependent()));
        Lines::default().each(self.base, &self.bytes, &fold, |offset, _, turn, rows| {
            with_fields(turn, rows, |fields| each(offset, fields));
        });
    }
}

struct Work<'s> {
    source: &'s Source,
    end: u64,
    threads: usize,
    interrupt: &'s Interrupt,
}

impl Work<'_> {
    /// Maps every chunk on all threads, and calls `take` with the results in the order of the ledger.
    fn each_chunk<W, T: Send>(
        &self,
        worker: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, Range<u64>, &[u8]) -> T + Sync,
        mut take: impl FnMut(T),
    ) -> Result<(), UsageError> {
        let threads = if self.end <= CHUNK_BYTES || self.threads <= 1 { 0 } else { self.threads };
        in_order(
            Workers::Threads(threads),
            vec![(); (threads * 2).max(1)],
            chunks(self.source, 0..self.end, CHUNK_BYTES),
            || (worker(), Vec::new()),
            |(state, buffer), (), chunk: Result<Range<u64>, ScanError>, _| -> Result<T, ArchiveError> {
                if self.interrupt.is_requested() {
                    return Err(ArchiveError::Interrupted);
                }
                let chunk = chunk?;
                let made = work(state, chunk.clone(), self.source.bytes(chunk, buffer)?);
                // A result counts only if the file was not truncated meanwhile.
                self.source.check_len()?;
                Ok(made)
            },
            |made| {
                take(made);
                Ok(ControlFlow::Continue(()))
            },
        )
        .map_err(|failure| match failure {
            WorkFailure::Work(error) => error.into(),
            WorkFailure::Panic { number, .. } => {
                ArchiveError::Worker { ledger: self.source.path().to_owned(), number }.into()
            }
        })
    }
}

/// The fields of a row from a line, as the archive stores them.
fn with_fields(turn: &TurnRow<'_>, rows: &Rows<'_>, take: impl FnOnce(&TurnFields<'_>)) {
    let cell = |place: usize| turn.cells[place];
    let text = |place: usize| cell(place).as_text();
    let optional = |place: usize| match cell(place) {
        Cell::Text(text) => Some(text),
        _ => None,
    };
    let number = |place: usize| match cell(place) {
        Cell::Int(number) => StoredNumber::Whole(number),
        Cell::Real(number) => StoredNumber::Real(number),
        _ => StoredNumber::None,
    };
    let calls = rows.calls[turn.calls.clone()].iter();
    let calls: Vec<String> = calls.map(|call| call[tool_calls::TOOL_NAME].as_text().to_owned()).collect();
    take(&TurnFields {
        source: text(turns::SOURCE),
        session: text(turns::SESSION_ID),
        message: text(turns::MESSAGE_ID),
        ts: text(turns::TS),
        model: text(turns::MODEL),
        project: optional(turns::PROJECT),
        project_key: optional(turns::PROJECT_KEY),
        activity: optional(turns::ACTIVITY),
        is_sidechain: cell(turns::IS_SIDECHAIN) == Cell::Int(1),
        subagent_type: optional(turns::SUBAGENT_TYPE),
        usage: [
            turns::INPUT_TOKENS,
            turns::OUTPUT_TOKENS,
            turns::REASONING_TOKENS,
            turns::CACHE_READ_TOKENS,
            turns::CACHE_CREATE_5M_TOKENS,
            turns::CACHE_CREATE_1H_TOKENS,
        ]
        .map(number),
        enrichment: optional(turns::ENRICHMENT_JSON).unwrap_or("{}").as_bytes(),
        fidelity: optional(turns::ATTRIBUTION_FIDELITY),
        calls: &calls,
    });
}

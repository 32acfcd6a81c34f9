//! Rows from lines: what a ledger line stores in the archive.
//!
//! This is the one place where rows are made, for full rebuilds and tail builds alike. A line takes the fast reader (a SIMD
//! parser and strict types) and, when anything about it is unusual, the exact reader, which accepts what JavaScript
//! accepts; the two agree wherever the fast one returns a row.
//!
//! Text of rows lives in the [`Bump`] of the chunk; a row is an array of [`Cell`]s in the column order of
//! [`columns`](super::columns).

use bumpalo::Bump;

use super::columns::{compactions, stamps, tool_calls, tool_result_events, turns};
use super::fold::{self, Fold, Selector, Stamp};
use super::{Cell, exact, limits, tape};
use crate::scan::{self, json};

/// A turn and where its calls stand in [`Rows::calls`].
#[derive(Debug, Clone)]
pub struct Turn<'a> {
    /// The row of `turns`.
    pub cells: turns::Row<'a>,
    /// Its rows of `tool_calls`.
    pub calls: std::ops::Range<usize>,
}

/// A stamp line: its row and, for folding, its parts.
#[derive(Debug, Clone, Copy)]
pub struct StampLine<'a> {
    /// The row of `stamps`.
    pub cells: stamps::Row<'a>,
    /// Its parts.
    pub stamp: Stamp<'a>,
}

/// Why a line was not archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is not JSON.
    Malformed,
    /// It is JSON of a known kind that cannot be stored.
    Rejected,
}

impl Verdict {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Malformed => "malformed",
            Verdict::Rejected => "rejected",
        }
    }
}

/// A line that was not archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where the line starts, in bytes from the start of the ledger.
    pub offset: u64,
    /// Its length in bytes, LF included.
    pub length: u64,
    /// What is wrong with it.
    pub verdict: Verdict,
    /// What exactly, for people.
    pub reason: String,
}

/// The rows of a run of lines, in their order.
#[derive(Debug, Default)]
pub struct Rows<'a> {
    /// Turns.
    pub turns: Vec<Turn<'a>>,
    /// Tool calls of all turns, in the order of [`Rows::turns`].
    pub calls: Vec<tool_calls::Row<'a>>,
    /// Tool result events.
    pub events: Vec<tool_result_events::Row<'a>>,
    /// Compactions.
    pub compactions: Vec<compactions::Row<'a>>,
    /// Stamps.
    pub stamps: Vec<StampLine<'a>>,
    /// Lines that were not archived.
    pub findings: Vec<Finding>,
    /// Lines of an unknown version or kind.
    pub unknown_lines: u64,
    /// Lines of a kind that is not archived (relationships, user turns).
    pub other_lines: u64,
    /// Lines that the exact reader had to read.
    pub exact_lines: u64,
    /// About how many bytes all of these take where each row has its texts to itself.
    pub len_bytes: usize,
}

/// What a finding takes, its reason included.
const FINDING_BYTES: usize = 160;

impl Rows<'_> {
    /// Adds a finding about the line at `offset`, of that length without its LF.
    pub(crate) fn find(&mut self, offset: u64, len_bytes: u64, verdict: Verdict, reason: String) {
        // Lines of a scan end in an LF.
        self.findings.push(Finding { offset, length: len_bytes + 1, verdict, reason });
        self.len_bytes += FINDING_BYTES;
    }

    /// Rejects the line at `offset` because of its length in bytes, without its LF.
    pub(crate) fn find_too_long(&mut self, offset: u64, len_bytes: u64) {
        let reason = format!("the line has {len_bytes} bytes, at most {} are read", limits::LINE_MAX_BYTES);
        self.find(offset, len_bytes, Verdict::Rejected, reason);
    }
}

/// What a line stored, once its row (if any) has been added to the [`Rows`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Stored {
    /// A turn, which is still to be enriched.
    Turn,
    /// A row of another table.
    Row,
    /// Nothing: a known kind that has no table.
    Nothing,
    /// Nothing: another version or kind.
    Unknown,
}

/// Why the exact reader stored nothing.
#[derive(Debug)]
pub(super) struct Refusal {
    pub verdict: Verdict,
    pub reason: String,
}

/// Makes rows from lines. One per thread; its buffers are used again for every line.
#[derive(Debug, Default)]
pub struct RowMaker<'f> {
    tapes: json::tape::TapeParser,
    exact: json::Document,
    fold: fold::Scratch<'f>,
}

impl<'f> RowMaker<'f> {
    /// Adds what the line at `offset` stores to `rows`; turns are enriched from `fold`. Blank lines add nothing.
    pub fn add<'a>(
        &mut self,
        offset: u64,
        line: &[u8],
        fold: &Fold<'f>,
        bump: &'a Bump,
        rows: &mut Rows<'a>,
    ) {
        self.add_within(usize::MAX, offset, line, fold, bump, rows);
    }

    /// Adds what a line stores, unless that is a turn with more than `enrichment_max_bytes` of enrichment: then it adds nothing and
    /// answers `false`.
    fn add_within<'a>(
        &mut self,
        enrichment_max_bytes: usize,
        offset: u64,
        line: &[u8],
        fold: &Fold<'f>,
        bump: &'a Bump,
        rows: &mut Rows<'a>,
    ) -> bool {
        let len_bytes = line.len() as u64;
        if len_bytes > limits::LINE_MAX_BYTES {
            rows.find_too_long(offset, len_bytes);
            return true;
        }
        let (events, compactions, exact_lines) =
            (rows.events.len(), rows.compactions.len(), rows.exact_lines);
        let stored = match tape::parse(&mut self.tapes, offset, line, bump, rows) {
            Some(stored) => stored,
            None => {
                let trimmed = json::trim_js(line);
                if trimmed.is_empty() {
                    return true;
                }
                rows.exact_lines += 1;
                // A copy: what is checked to be text must not change under a map before it is used as text.
                let trimmed = bump.alloc_slice_copy(trimmed);
                match exact::parse(&mut self.exact, offset, trimmed, bump, rows) {
                    Ok(stored) => stored,
                    Err(Refusal { verdict, reason }) => {
                        rows.find(offset, len_bytes, verdict, reason);
                        return true;
                    }
                }
            }
        };
        match stored {
            Stored::Turn => {
                let Some(turn) = rows.turns.last_mut() else { return true };
                let measured = limits::turn(&turn.cells, &rows.calls[turn.calls.clone()]);
                let is_enriched = measured.is_err()
                    || fold.is_empty()
                    || enrich(&mut turn.cells, enrichment_max_bytes, fold, &mut self.fold, bump);
                match measured {
                    Ok(bytes) if is_enriched => {
                        rows.len_bytes += bytes + turn.cells[turns::ENRICHMENT_JSON].as_text().len();
                    }
                    measured => {
                        let start = turn.calls.start;
                        rows.calls.truncate(start);
                        rows.turns.pop();
                        match measured {
                            Ok(_) => {
                                rows.exact_lines = exact_lines;
                                return false;
                            }
                            Err(reason) => rows.find(offset, len_bytes, Verdict::Rejected, reason),
                        }
                    }
                }
            }
            Stored::Row => {
                let measured = if rows.events.len() > events {
                    rows.events.last().map_or(Ok(0), limits::event)
                } else if rows.compactions.len() > compactions {
                    rows.compactions.last().map_or(Ok(0), limits::compaction)
                } else {
                    rows.stamps.last().map_or(Ok(0), |line| limits::stamp(&line.cells, &line.stamp))
                };
                match measured {
                    Ok(bytes) => rows.len_bytes += bytes,
                    Err(reason) => {
                        if rows.events.len() > events {
                            rows.events.pop();
                        } else if rows.compactions.len() > compactions {
                            rows.compactions.pop();
                        } else {
                            rows.stamps.pop();
                        }
                        rows.find(offset, len_bytes, Verdict::Rejected, reason);
                    }
                }
            }
            Stored::Nothing => rows.other_lines += 1,
            Stored::Unknown => rows.unknown_lines += 1,
        }
        true
    }
}

/// Fills the columns that stamps assign, unless the object has more than `max_bytes`: then it answers `false`.
fn enrich<'a, 'f>(
    cells: &mut turns::Row<'a>,
    max_bytes: usize,
    fold: &Fold<'f>,
    scratch: &mut fold::Scratch<'f>,
    bump: &'a Bump,
) -> bool {
    let [session, message, ts] =
        [turns::SESSION_ID, turns::MESSAGE_ID, turns::TS].map(|place| cells[place].as_text());
    let Some(enrichment) = fold.enrich_within(max_bytes, session, message, ts, scratch) else { return false };
    for (field, value) in turns::enrichment::FIELDS.iter().zip(enrichment.columns) {
        cells[field.place] = Cell::text(value.map(|text| &*bump.alloc_str(text)));
    }
    if enrichment.json != fold::NOTHING.json {
        cells[turns::ENRICHMENT_JSON] = Cell::Text(bump.alloc_str(enrichment.json));
    }
    true
}

/// The selector of an archived stamp.
///
/// # Errors
/// Why it cannot be read.
pub fn stored_selector<'a>(
    document: &mut json::Document,
    selector_json: &str,
    bump: &'a Bump,
) -> Result<Selector<'a>, String> {
    exact::stored_selector(document, selector_json, bump).map_err(|refusal| refusal.reason)
}

/// The parts of an archived stamp, for folding it again.
///
/// # Errors
/// Why it cannot be folded: another program stored what a stamp line of this crate could not have.
pub fn stored_stamp<'a>(
    document: &mut json::Document,
    ts: &str,
    offset: u64,
    selector_json: &str,
    enrichment_json: &str,
    bump: &'a Bump,
) -> Result<Stamp<'a>, String> {
    exact::stored_stamp(document, ts, offset, selector_json, enrichment_json, bump)
        .map_err(|refusal| refusal.reason)
}

/// Adds the rows of every line of `chunk`, which starts at the absolute offset `base`.
pub fn add_chunk<'a, 'f>(
    maker: &mut RowMaker<'f>,
    base: u64,
    chunk: &[u8],
    fold: &Fold<'f>,
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) {
    for (offset, line) in scan::lines(base, chunk) {
        maker.add(offset, line, fold, bump, rows);
    }
}

/// How much is added to rows at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// No line is added once the rows take so many bytes.
    pub rows_bytes: usize,
    /// A turn with a longer enrichment is not added, nor what follows it.
    pub enrichment_bytes: usize,
}

/// Adds the rows of the lines of `chunk` as [`add_chunk`] does, as long as `budget` allows; at least one line, unless its
/// enrichment is too long. Answers the offset behind the last line that was added.
pub(crate) fn add_part<'a, 'f>(
    maker: &mut RowMaker<'f>,
    base: u64,
    chunk: &[u8],
    fold: &Fold<'f>,
    bump: &'a Bump,
    rows: &mut Rows<'a>,
    budget: Budget,
) -> u64 {
    for (offset, line) in scan::lines(base, chunk) {
        let is_full = rows.len_bytes >= budget.rows_bytes;
        if is_full || !maker.add_within(budget.enrichment_bytes, offset, line, fold, bump, rows) {
            return offset;
        }
    }
    base + chunk.len() as u64
}

//! Rows from lines: what a ledger line stores in the archive.
//!
//! This is the one place where rows are made, for full rebuilds and tail builds alike. Nothing here touches a file or a
//! database. A line takes the fast path (a SIMD parser and strict types) and, when anything about it is unusual, the exact
//! path behind it, which accepts what JavaScript accepts; the two agree wherever the fast one answers.
//!
//! Text of rows lives in the [`Bump`] of the chunk; a row is an array of [`Cell`]s in the column order of
//! [`schema`](crate::archive::schema).

#[cfg(test)]
pub(crate) mod agreement;
mod exact;
mod fast;

use bumpalo::Bump;

use super::fold::{self, Fold, Stamp};
use crate::scan::{self, json};

/// A value of a row, in SQLite's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// INTEGER.
    Int(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(&'a str),
}

impl<'a> Cell<'a> {
    pub(crate) fn text(value: Option<&'a str>) -> Self {
        value.map_or(Cell::Null, Cell::Text)
    }

    pub(crate) fn as_text(self) -> &'a str {
        match self {
            Cell::Text(text) => text,
            _ => "",
        }
    }
}

/// A row of `turns`.
pub type TurnCells<'a> = [Cell<'a>; 32];
/// A row of `tool_calls`.
pub type CallCells<'a> = [Cell<'a>; 11];
/// A row of `tool_result_events`.
pub type EventCells<'a> = [Cell<'a>; 14];
/// A row of `compactions`.
pub type CompactionCells<'a> = [Cell<'a>; 5];
/// A row of `stamps`.
pub type StampCells<'a> = [Cell<'a>; 6];

/// Places of columns of `turns` that are used outside the code that fills them.
pub mod turn_column {
    /// `source`.
    pub const SOURCE: usize = 0;
    /// `session_id`.
    pub const SESSION_ID: usize = 1;
    /// `message_id`.
    pub const MESSAGE_ID: usize = 2;
    /// `ts`.
    pub const TS: usize = 4;
    /// `workflow_id`, the first of the five columns that stamps fill.
    pub const WORKFLOW_ID: usize = 24;
}

/// A turn and where its calls stand in [`Rows::calls`].
#[derive(Debug, Clone)]
pub struct Turn<'a> {
    /// The row of `turns`.
    pub cells: TurnCells<'a>,
    /// Its rows of `tool_calls`.
    pub calls: std::ops::Range<usize>,
}

/// A stamp line: its row and, for folding, its parts.
#[derive(Debug, Clone, Copy)]
pub struct StampLine<'a> {
    /// The row of `stamps`.
    pub cells: StampCells<'a>,
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
    pub calls: Vec<CallCells<'a>>,
    /// Tool result events.
    pub events: Vec<EventCells<'a>>,
    /// Compactions.
    pub compactions: Vec<CompactionCells<'a>>,
    /// Stamps.
    pub stamps: Vec<StampLine<'a>>,
    /// Lines that were not archived.
    pub findings: Vec<Finding>,
    /// Lines of an unknown version or kind.
    pub unknown_lines: u64,
    /// Lines of a kind that is not archived (relationships, user turns).
    pub other_lines: u64,
    /// Lines that the exact path had to read.
    pub exact_lines: u64,
}

/// What a line turned out to be, once its row (if any) has been added to the [`Rows`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Kind {
    /// A turn.
    Turn,
    /// A tool result event.
    Event,
    /// A compaction.
    Compaction,
    /// A stamp.
    Stamp,
    /// A known kind that has no table.
    Other,
    /// A version or kind of no interest.
    Unknown,
}

/// Why the exact path stored nothing.
#[derive(Debug)]
struct Refusal {
    verdict: Verdict,
    reason: String,
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
        let kind = match fast::parse(&mut self.tapes, offset, line, bump, rows) {
            Some(kind) => kind,
            None => {
                let trimmed = json::trim_js(line);
                if trimmed.is_empty() {
                    return;
                }
                rows.exact_lines += 1;
                // A copy: what is checked to be text must not change under a map before it is used as text.
                let trimmed = bump.alloc_slice_copy(trimmed);
                match exact::parse(&mut self.exact, offset, trimmed, bump, rows) {
                    Ok(kind) => kind,
                    Err(Refusal { verdict, reason }) => {
                        // Lines of a scan end in an LF.
                        let length = line.len() as u64 + 1;
                        rows.findings.push(Finding { offset, length, verdict, reason });
                        return;
                    }
                }
            }
        };
        match kind {
            Kind::Turn => {
                if let (false, Some(turn)) = (fold.is_empty(), rows.turns.last_mut()) {
                    let cells = &mut turn.cells;
                    let enrichment = fold.enrich(
                        cells[turn_column::SESSION_ID].as_text(),
                        cells[turn_column::MESSAGE_ID].as_text(),
                        cells[turn_column::TS].as_text(),
                        &mut self.fold,
                    );
                    let keep = |text: Option<&str>| Cell::text(text.map(|text| &*bump.alloc_str(text)));
                    cells[turn_column::WORKFLOW_ID] = keep(enrichment.workflow_id);
                    cells[turn_column::WORKFLOW_ID + 1] = keep(enrichment.agent_id);
                    cells[turn_column::WORKFLOW_ID + 2] = keep(enrichment.persona);
                    cells[turn_column::WORKFLOW_ID + 3] = keep(enrichment.tier);
                    if enrichment.json != fold::NOTHING.json {
                        cells[turn_column::WORKFLOW_ID + 4] = keep(Some(enrichment.json));
                    }
                }
            }
            Kind::Unknown => rows.unknown_lines += 1,
            Kind::Other => rows.other_lines += 1,
            Kind::Event | Kind::Compaction | Kind::Stamp => {}
        }
    }
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

//! Makes rows from lines, for full rebuilds and tail builds alike.
//!
//! A line goes to the fast reader (a SIMD parser and strict types). If the fast reader refuses the line, the exact reader
//! decides; it accepts every text that JavaScript accepts. The two readers agree wherever the fast reader returns a row.

use bumpalo::Bump;

use super::columns::turns;
use super::fold::{self, Fold};
use super::rows::{LineRefusal, Rows, StoredKind, Verdict};
use super::{Cell, exact, limits, tape};
use crate::scan::{self, json};

/// Makes rows from lines. One per thread; its buffers are used again for every line.
#[derive(Debug, Default)]
pub struct RowMaker<'f> {
    tapes: json::tape::TapeParser,
    exact: json::Document,
    fold: fold::FoldScratch<'f>,
}

impl Rows<'_> {
    /// Counts the bytes of the last row; if `measured` is a refusal, removes the row and adds a finding.
    fn keep_last<T>(
        &mut self,
        measured: Result<usize, String>,
        offset: u64,
        len_bytes: u64,
        remove: impl FnOnce(&mut Self) -> Option<T>,
    ) {
        match measured {
            Ok(bytes) => self.len_bytes += bytes,
            Err(reason) => {
                remove(self);
                self.add_finding(offset, len_bytes, Verdict::Rejected, reason);
            }
        }
    }
}

impl<'f> RowMaker<'f> {
    /// Adds the rows of the line at `offset` to `rows`; turns are enriched from `fold`. Blank lines add nothing.
    pub fn add<'a>(
        &mut self,
        offset: u64,
        line: &[u8],
        fold: &Fold<'f>,
        bump: &'a Bump,
        rows: &mut Rows<'a>,
    ) {
        self.add_unless_longer(usize::MAX, offset, line, fold, bump, rows);
    }

    /// Does the same as [`RowMaker::add`], but leaves out a turn whose enrichment has more than `enrichment_max_bytes`. Returns
    /// whether the line was handled: `false` only for such a turn.
    fn add_unless_longer<'a>(
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
            rows.add_too_long(offset, len_bytes);
            return true;
        }
        let exact_lines = rows.exact_lines;
        let stored = match tape::parse(&mut self.tapes, offset, line, bump, rows) {
            Some(stored) => stored,
            None => {
                let trimmed = json::trim_js(line);
                if trimmed.is_empty() {
                    return true;
                }
                rows.exact_lines += 1;
                // Copied: bytes in a map could change between the check that they are text and their use as text.
                let trimmed = bump.alloc_slice_copy(trimmed);
                match exact::parse(&mut self.exact, offset, trimmed, bump, rows) {
                    Ok(stored) => stored,
                    Err(LineRefusal { verdict, reason }) => {
                        rows.add_finding(offset, len_bytes, verdict, reason);
                        return true;
                    }
                }
            }
        };
        match stored {
            StoredKind::Turn => {
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
                            Err(reason) => rows.add_finding(offset, len_bytes, Verdict::Rejected, reason),
                        }
                    }
                }
            }
            StoredKind::Event => {
                let measured = rows.events.last().map_or(Ok(0), limits::event);
                rows.keep_last(measured, offset, len_bytes, |rows| rows.events.pop());
            }
            StoredKind::Compaction => {
                let measured = rows.compactions.last().map_or(Ok(0), limits::compaction);
                rows.keep_last(measured, offset, len_bytes, |rows| rows.compactions.pop());
            }
            StoredKind::Stamp => {
                let measured =
                    rows.stamps.last().map_or(Ok(0), |line| limits::stamp(&line.cells, &line.stamp));
                rows.keep_last(measured, offset, len_bytes, |rows| rows.stamps.pop());
            }
            StoredKind::Nothing => rows.other_lines += 1,
            StoredKind::Unknown => rows.unknown_lines += 1,
        }
        true
    }
}

/// Fills the columns that stamps assign. If the object has more than `max_bytes`, returns `false`.
fn enrich<'a, 'f>(
    cells: &mut turns::TurnCells<'a>,
    max_bytes: usize,
    fold: &Fold<'f>,
    scratch: &mut fold::FoldScratch<'f>,
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

/// Limits for adding rows in parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// No line is added once the rows have this many bytes.
    pub rows_bytes: usize,
    /// A turn with a longer enrichment is not added, nor any line after the turn.
    pub enrichment_bytes: usize,
}

/// Adds the rows of the lines of `chunk`, which starts at the absolute offset `base`, as long as `budget` allows; at least one
/// line, unless its enrichment is too long. Returns the offset after the last line that was added.
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
        if is_full || !maker.add_unless_longer(budget.enrichment_bytes, offset, line, fold, bump, rows) {
            return offset;
        }
    }
    base + chunk.len() as u64
}

//! The rows that ledger lines store in the archive, and the findings about lines that store none.
//!
//! A row is an array of [`Cell`](super::Cell)s in the column order of [`columns`](super::columns). Its texts live in the arena of
//! the chunk that it was read from.

use super::columns::{compactions, stamps, tool_calls, tool_result_events, turns};
use super::fold::Stamp;
use super::limits;

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
    /// A tool result event.
    Event,
    /// A compaction.
    Compaction,
    /// A stamp.
    Stamp,
    /// Nothing, because the kind has no table.
    Nothing,
    /// Nothing, because the version or the kind is unknown.
    Unknown,
}

/// Why the exact reader stored nothing.
#[derive(Debug)]
pub(super) struct Refusal {
    pub verdict: Verdict,
    pub reason: String,
}

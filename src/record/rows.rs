//! The rows that ledger lines store in the archive, and the findings about lines that store none.
//!
//! A row is an array of [`Cell`](super::Cell)s in the column order of [`columns`](super::columns). The texts of a row are in
//! the arena of the chunk from which the row was read.

use super::columns::{compactions, stamps, tool_calls, tool_result_events, turns};
use super::fold::Stamp;
use super::limits;
use super::unarchived::UnarchivedRecord;

/// A turn, and the range of its calls in [`Rows::calls`].
#[derive(Debug, Clone)]
pub struct TurnRow<'a> {
    /// The row of `turns`.
    pub cells: turns::TurnCells<'a>,
    /// The turn's rows of `tool_calls`.
    pub calls: std::ops::Range<usize>,
}

/// A stamp line: the row and, for folding, the parts.
#[derive(Debug, Clone, Copy)]
pub struct StampRow<'a> {
    /// The row of `stamps`.
    pub cells: stamps::StampCells<'a>,
    /// The stamp's parts.
    pub stamp: Stamp<'a>,
}

/// Why a line was not archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The line is not JSON.
    Malformed,
    /// The line is JSON of a known kind, but cannot be stored.
    Rejected,
}

impl Verdict {
    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Malformed => "malformed",
            Verdict::Rejected => "rejected",
        }
    }
}

/// A line that was not archived.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UnarchivedLine {
    /// Where the line starts, in bytes from the start of the ledger.
    pub offset: u64,
    /// The line's length in bytes, LF included.
    pub length: u64,
    /// Why the line was not archived.
    pub verdict: Verdict,
    /// The exact reason, for people.
    pub reason: String,
}

/// The rows of consecutive lines, in order.
#[derive(Debug, Default)]
pub struct Rows<'a> {
    /// Turns.
    pub turns: Vec<TurnRow<'a>>,
    /// Tool calls of all turns, in the order of [`Rows::turns`].
    pub calls: Vec<tool_calls::ToolCallCells<'a>>,
    /// Tool result events.
    pub events: Vec<tool_result_events::ToolResultEventCells<'a>>,
    /// Compactions.
    pub compactions: Vec<compactions::CompactionCells<'a>>,
    /// Stamps.
    pub stamps: Vec<StampRow<'a>>,
    /// Relationships and user turns that the fast reader read, if they are wanted.
    pub(crate) unarchived: Option<Vec<UnarchivedRecord<'a>>>,
    /// Lines that were not archived.
    pub findings: Vec<UnarchivedLine>,
    /// Lines of an unknown version or kind.
    pub unknown_lines: u64,
    /// Lines of a kind that is not archived (relationships, user turns).
    pub other_lines: u64,
    /// Lines that the exact reader had to read.
    pub exact_lines: u64,
    /// About how many bytes all rows need if each row has its own copy of its texts.
    pub len_bytes: usize,
}

/// About how many bytes a finding needs, its reason included.
const FINDING_BYTES: usize = 160;

impl Rows<'_> {
    /// No rows, with space for as many turns, calls and events as `counts` says.
    pub(crate) fn with_capacity([turns, calls, events]: [usize; 3]) -> Self {
        Self {
            turns: Vec::with_capacity(turns),
            calls: Vec::with_capacity(calls),
            events: Vec::with_capacity(events),
            ..Self::default()
        }
    }

    /// Takes all rows and findings out; the space is kept.
    #[cfg(feature = "usage")]
    pub(crate) fn clear(&mut self) {
        self.turns.clear();
        self.calls.clear();
        self.events.clear();
        self.compactions.clear();
        self.stamps.clear();
        self.findings.clear();
    }

    /// How many turns, calls and events there are.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [self.turns.len(), self.calls.len(), self.events.len()]
    }

    /// Adds a finding about the line at `offset`. `len_bytes` is the line's length without the LF.
    pub(crate) fn add_finding(&mut self, offset: u64, len_bytes: u64, verdict: Verdict, reason: String) {
        // Lines of a scan end in an LF.
        self.findings.push(UnarchivedLine { offset, length: len_bytes + 1, verdict, reason });
        self.len_bytes += FINDING_BYTES;
    }

    /// Rejects the line at `offset` because of its length in bytes, without its LF.
    pub(crate) fn add_too_long(&mut self, offset: u64, len_bytes: u64) {
        let reason = format!("the line has {len_bytes} bytes, at most {} are read", limits::LINE_MAX_BYTES);
        self.add_finding(offset, len_bytes, Verdict::Rejected, reason);
    }
}

/// The type of row of a line, after the row (if any) was added to the [`Rows`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum StoredKind {
    /// A turn that is not enriched yet.
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
pub(super) struct LineRefusal {
    pub verdict: Verdict,
    pub reason: String,
}

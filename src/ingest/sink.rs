//! Ledger lines on their way from a journal to a ledger: the sink that delivers them, and what it reports.
//!
//! Touches nothing.

/// Records of a batch, and bytes of their payloads, at most, where lines for the ledger that were queued together extend beyond
/// an ordinary batch. Lines that are delivered apart keep later ones out by their fingerprints.
pub(super) const TOGETHER_RECORDS: u64 = 256 * 1024;
pub(super) const TOGETHER_BYTES: u64 = 256 << 20;

/// A line for `ledger.jsonl`, as a [`LedgerSink`] gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Offset of its record in the journal.
    pub offset: u64,
    /// The line, without its line end.
    pub line: String,
    /// Whether it belongs to one batch with the entry before it.
    pub continues_batch: bool,
}

/// A line that the ledger refuses for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedLine {
    /// Its index in the slice the sink was given.
    pub index: usize,
    /// Why.
    pub reason: String,
}

/// Why a ledger did not accept lines now; it may accept them later.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// What a ledger did with lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Lines that the ledger had already and did not write again. Lines of an earlier delivery that were read again to complete a
    /// batch are not counted.
    pub duplicates: u64,
    /// Lines that the ledger refuses for good.
    pub refused: Vec<RefusedLine>,
}

/// Delivers lines to the ledger, in order and durably. Lines that the ledger refuses for good are set aside under `Q:`. After an
/// error no line counts as delivered, and all come again. After a crash, delivered lines may come again.
pub type LedgerSink = Box<dyn FnMut(&[LedgerEntry]) -> Result<Delivered, SinkError> + Send>;

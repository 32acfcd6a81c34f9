//! The problems that a check of a ledger can find.

/// What is wrong, or odd, with a line or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    /// A line is not JSON.
    Malformed,
    /// A line of a known kind cannot be archived.
    Rejected,
    /// An otherwise valid line has bytes that are not UTF-8; readers read these bytes as U+FFFD.
    InvalidUtf8,
    /// The last line has no LF.
    Torn,
    /// A line has a version or kind that this program does not know. This is not a fault.
    Unknown,
    /// The id of a line of the ledger is not in the index.
    MissingId,
    /// The index has an id that no line of the ledger has.
    ExtraId,
    /// The index has an id that an earlier line of the index has already.
    RepeatedId,
    /// A line of the index is not an id.
    NotAnId,
    /// There are records, but no index.
    NoIndex,
    /// There is an index with ids, but no ledger.
    NoLedger,
    /// The ledger was replaced or deleted during the check.
    Replaced,
    /// The ledger no longer begins with the bytes that the archive has read.
    Cut,
}

impl Problem {
    /// The problem in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Rejected => "rejected",
            Self::InvalidUtf8 => "not UTF-8",
            Self::Torn => "torn",
            Self::Unknown => "unknown",
            Self::MissingId => "not in the index",
            Self::ExtraId => "not in the ledger",
            Self::RepeatedId => "repeated in the index",
            Self::NotAnId => "no id",
            Self::NoIndex => "without an index",
            Self::NoLedger => "missing",
            Self::Replaced => "replaced",
            Self::Cut => "cut or rewritten",
        }
    }

    /// Whether the problem is a fault. Unknown lines are odd, but not a fault.
    pub fn is_fault(self) -> bool {
        self != Self::Unknown
    }
}

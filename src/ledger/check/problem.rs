//! What a check of a ledger can find.

/// What is wrong, or odd, in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    /// A line that is not JSON.
    Malformed,
    /// A line of a known kind that cannot be archived.
    Rejected,
    /// Bytes that are not UTF-8 in a line that is fine otherwise; they are read as U+FFFD.
    InvalidUtf8,
    /// The last line has no LF.
    Torn,
    /// A line of a version or kind that this program does not know: no fault.
    Unknown,
    /// The id of a line of the ledger is not in the index.
    MissingId,
    /// The index has an id that no line of the ledger has.
    ExtraId,
    /// The index has an id that stands further up in it already.
    RepeatedId,
    /// A line of the index that is no id.
    NotAnId,
    /// There are records, and no index.
    NoIndex,
    /// There is an index with ids, and no ledger.
    NoLedger,
    /// The ledger is no longer the file that was checked.
    Replaced,
    /// The ledger no longer begins with the bytes that the archive has read.
    Cut,
}

impl Problem {
    /// In words.
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

    /// Whether a ledger with this is faulty; unknown lines are merely odd.
    pub fn is_fault(self) -> bool {
        self != Self::Unknown
    }
}

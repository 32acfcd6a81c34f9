//! The result of a merge, and what a merge found.

use std::path::PathBuf;

/// The most versions of a record that a conflict names.
pub(super) const VERSIONS_NAMED: usize = 8;

/// A line of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LedgerLineAt {
    /// The ledger, as it was named.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub ledger: PathBuf,
    /// The offset of the line, in bytes.
    pub offset: u64,
    /// The length of the line in bytes, without its LF.
    pub length: u64,
}

/// What a merge says about particular lines.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "finding", rename_all = "camelCase")]
#[non_exhaustive]
pub enum MergeFinding {
    /// Lines with one id have different contents. All of them are in the target, and the version that counts is the last.
    Conflict {
        /// The kind of the record.
        kind: &'static str,
        /// The id.
        id: String,
        /// Number of versions.
        versions: usize,
        /// One line of each version, at most eight: first the version that counts.
        lines: Vec<LedgerLineAt>,
    },
    /// A turn that has the fingerprint of a turn of another ledger, and so is the same turn under another id. The turn is left out.
    #[serde(rename_all = "camelCase")]
    SameTurn {
        /// The turn.
        left_out: LedgerLineAt,
        /// The turn that is in the target instead.
        kept: LedgerLineAt,
    },
    /// A line that is not JSON. The line is in the target as it is.
    Malformed {
        /// The line.
        line: LedgerLineAt,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes after the last LF of an input: an unfinished line, which is left out.
    Unfinished {
        /// The bytes.
        line: LedgerLineAt,
    },
}

/// What a merge read of one input.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergedInput {
    /// The ledger, as it was named.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub ledger: PathBuf,
    /// The name of its machine, if its home has one.
    pub machine: Option<String>,
    /// The length up to the last LF, in bytes.
    pub bytes: u64,
    /// Number of lines that are not blank.
    pub lines: u64,
    /// Whether the input is the target itself, whose lines need not be appended.
    pub is_target: bool,
}

/// The result of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergeReport {
    /// The inputs, in the order in which they were named.
    pub inputs: Vec<MergedInput>,
    /// Lines that were appended to the target.
    pub appended: u64,
    /// Of these, lines that the target had already: the version of a record that counts is written again after a version
    /// that does not.
    pub again: u64,
    /// Of these, stamps that name the machine of turns.
    pub labels: u64,
    /// Records whose versions have different contents, at least one of which was appended.
    pub conflicts: u64,
    /// Turns that were left out because they have the fingerprint of a turn of another ledger.
    pub same_turns: u64,
    /// Lines of the inputs that are not JSON.
    pub malformed_lines: u64,
    /// Inputs whose last line has no LF.
    pub unfinished_lines: u64,
    /// Lines that were appended to content sidecars.
    pub content_lines: u64,
    /// Duration of the merge, in milliseconds.
    pub duration_ms: u64,
}

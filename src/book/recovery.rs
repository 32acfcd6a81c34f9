//! The report of what opening a store changed. Touches nothing.

use std::path::PathBuf;

use serde::Serialize;

/// What opening a store changed, apart from leftovers of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BookRecoveryReport {
    /// Segments whose damaged or unfinished end was cut.
    pub truncated: Vec<TruncatedSegment>,
    /// Files that were renamed: snapshots ahead of their log.
    pub quarantined: Vec<SetAsideFile>,
}

/// A segment that was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TruncatedSegment {
    /// The file.
    pub file: PathBuf,
    /// Its length in bytes now.
    pub length: u64,
    /// Its length in bytes before.
    pub from_length: u64,
    /// What was wrong with the bytes after that.
    pub reason: String,
    /// A copy of the bytes that were cut; none where they can only be a write that was never acknowledged.
    pub saved_as: Option<PathBuf>,
}

/// A file that was renamed because it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetAsideFile {
    /// Its name before.
    pub file: PathBuf,
    /// Its name now.
    pub saved_as: PathBuf,
}

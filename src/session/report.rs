//! What a recovering open found and did.
//!
//! This file touches nothing. It promises that nothing recovery changed, left out or left alone goes unreported.

use serde::Serialize;

/// What a recovering open found and did; everything is empty for a sound store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SessionRecoveryReport {
    /// Whether the index was built again from the segments.
    pub index_rebuilt: bool,
    /// Why: the failure of the old index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Rows of the index found; none when it could not be read.
    pub rows_before: Option<u64>,
    /// Rows of the index left.
    pub rows_after: u64,
    /// Segments that were cut, with what was cut saved aside.
    pub truncated: Vec<TruncatedFile>,
    /// ManifestFiles renamed out of the way.
    pub quarantined: Vec<QuarantinedFile>,
    /// Segments whose last line got its missing LF.
    pub healed: Vec<String>,
    /// Whether the index got the LF its last row missed.
    pub index_completed: bool,
    /// Entries whose bytes have another CRC-32C than the old index said, though their payloads are sound.
    pub changed_crcs: Vec<ChangedCrc>,
    /// Entries of the old index that are no longer there.
    pub lost_entries: Vec<LostEntry>,
    /// Missing entry sequences, as first and last of each gap.
    pub gaps: Vec<(u64, u64)>,
    /// Bytes that are in no row and were left alone.
    pub unindexed: Vec<UnindexedRange>,
    /// ManifestFiles in `segments/` whose names are not canonical; left alone.
    pub ignored: Vec<String>,
    /// Directories that other users may enter, by their whole paths.
    pub wide_directories: Vec<String>,
    /// The checkpoint of an interrupted rollback that was completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_rollback: Option<u64>,
    /// Whether an import that did not finish was taken back; its lines are kept beside the segments.
    pub import_taken_back: bool,
    /// An intent of a rollback that could not be resumed, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoned_rollback: Option<String>,
}

impl SessionRecoveryReport {
    /// Whether any file of the store was changed, created (other than directories and the lock file) or renamed.
    pub fn changed_files(&self) -> bool {
        self.index_rebuilt
            || self.index_completed
            || self.import_taken_back
            || self.resumed_rollback.is_some()
            || self.rows_before.is_some_and(|before| before != self.rows_after)
            || !(self.truncated.is_empty() && self.quarantined.is_empty() && self.healed.is_empty())
    }
}

/// A file that was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TruncatedFile {
    /// The file, relative to the root.
    pub file: String,
    /// Its length in bytes now.
    pub length: u64,
    /// Its length in bytes before.
    pub from_length: u64,
    /// What was wrong behind that, or why it went.
    pub reason: String,
    /// Where the bytes cut were saved, relative to the root; none when they were blank.
    pub saved_as: Option<String>,
}

/// A file that was renamed out of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantinedFile {
    /// Its name before, relative to the root.
    pub file: String,
    /// Its name now.
    pub saved_as: String,
}

/// An entry whose bytes changed outside its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedCrc {
    /// The entry.
    pub entry_seq: u64,
    /// Its id.
    pub entry_id: String,
    /// As the old index had it.
    pub before: String,
    /// Of the bytes.
    pub after: String,
}

/// An entry the old index had and the new one has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LostEntry {
    /// The entry.
    pub entry_seq: u64,
    /// Its id.
    pub entry_id: String,
}

/// Bytes of a segment that are in no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnindexedRange {
    /// The file, relative to the root.
    pub file: String,
    /// The first of them.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

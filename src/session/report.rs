//! The report of a recovering open.
//!
//! Guarantees: the report names everything that recovery changed, left out or left alone.

use serde::Serialize;

use crate::store::Recovery;

/// What a recovering open found and did. All members are empty for a sound store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SessionRecoveryReport {
    /// Whether the index was built again from the segments.
    pub index_rebuilt: bool,
    /// The failure of the old index, if the index was built again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of rows of the index before; `None` when the index could not be read.
    pub rows_before: Option<u64>,
    /// Number of rows of the index now.
    pub rows_after: u64,
    /// Files that were cut or renamed. Copies of cut bytes are beside their files.
    #[serde(flatten)]
    pub recovery: Recovery,
    /// Segments whose last line lacked its LF and got it.
    pub healed: Vec<String>,
    /// Whether the last row of the index lacked its LF and got it.
    pub index_completed: bool,
    /// Entries whose CRC-32C differs from that of the old index, although their payloads are sound.
    pub changed_crcs: Vec<ChangedCrc>,
    /// Entries of the old index that left the store.
    pub lost_entries: Vec<LostEntry>,
    /// First and last missing entry sequence of each gap.
    pub gaps: Vec<(u64, u64)>,
    /// Ranges of bytes that are in no row and were left alone.
    pub unindexed: Vec<UnindexedRange>,
    /// Files in `segments/` whose names are not canonical. They were left alone.
    pub ignored: Vec<String>,
    /// Whole paths of directories that other users may enter.
    pub wide_directories: Vec<String>,
    /// The checkpoint of an interrupted rollback that was completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_rollback: Option<u64>,
    /// Whether an import that did not finish was undone. Its lines are kept beside the segments.
    pub import_taken_back: bool,
    /// Why the intent of an interrupted rollback was not followed.
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
            || !(self.recovery.is_empty() && self.healed.is_empty())
    }
}

/// An entry whose bytes changed outside its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedCrc {
    /// Sequence of the entry.
    pub entry_seq: u64,
    /// Id of the entry.
    pub entry_id: String,
    /// CRC-32C in the old index.
    pub before: String,
    /// CRC-32C of the bytes.
    pub after: String,
}

/// An entry of the old index that the new index does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LostEntry {
    /// Sequence of the entry.
    pub entry_seq: u64,
    /// Id of the entry.
    pub entry_id: String,
}

/// A range of a segment that is in no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnindexedRange {
    /// The file, relative to the root.
    pub file: String,
    /// First byte of the range.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

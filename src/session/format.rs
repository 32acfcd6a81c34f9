//! The documents in the files of a store, member by member as docs/session-store.md lists them.
//!
//! Guarantees: a serialised value is a valid line or file of a store, its members in the order of the format.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The longest line that can be read back: 100 MiB, or a whole segment where segments may be longer.
pub const MAX_LINE_BYTES: u64 = 104_857_600;

/// The schema of a [`SegmentFrame`].
pub const SEGMENT_FRAME_SCHEMA: &str = "pi.session_store_v2.segment_frame.v1";

/// A line of a segment: an entry, and its place in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentFrame {
    /// [`SEGMENT_FRAME_SCHEMA`]. Left out when it is empty, as in documents of `burn session`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub schema: Cow<'static, str>,
    /// Number of the segment file.
    pub segment_seq: u64,
    /// Position in the segment file, from 1.
    pub frame_seq: u64,
    /// Position in the store, from 1. Gaps are possible.
    pub entry_seq: u64,
    /// Unique in the store.
    pub entry_id: String,
    /// Id of the entry that this entry follows; `None` for a root.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent_entry_id: Option<String>,
    /// `message`, `model_change` and so on; any text.
    pub entry_type: String,
    /// Time of writing: any text when read; RFC 3339 in UTC with milliseconds when written.
    pub timestamp: String,
    /// SHA-256 of the payload text, 64 lower-case hex digits.
    pub payload_sha256: String,
    /// Length of the payload text in bytes.
    pub payload_bytes: u64,
    /// The payload text, byte for byte.
    pub payload: Box<RawValue>,
}

/// The schema of an [`OffsetIndexEntry`].
pub const OFFSET_INDEX_SCHEMA: &str = "pi.session_store_v2.offset_index.v1";
/// A row of the index: the byte range of a frame, and its checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetIndexEntry {
    /// [`OFFSET_INDEX_SCHEMA`].
    pub schema: Cow<'static, str>,
    /// Position in the store.
    pub entry_seq: u64,
    /// Id of the entry.
    pub entry_id: String,
    /// Number of the segment file.
    pub segment_seq: u64,
    /// Position in the segment file, from 1.
    pub frame_seq: u64,
    /// First byte of the line in the segment.
    pub byte_offset: u64,
    /// Length of the line in bytes, line end included.
    pub byte_length: u64,
    /// CRC-32C of these bytes, 8 upper-case hex digits.
    pub crc32c: String,
    /// Always `active`.
    pub state: Cow<'static, str>,
}

/// The last entry of a store; 0, 0 and empty in the manifest of an empty store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreHead {
    /// Number of its segment.
    pub segment_seq: u64,
    /// Its sequence.
    pub entry_seq: u64,
    /// Its id.
    pub entry_id: String,
}

/// The first and the last row of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexSummary {
    /// Number of rows.
    pub entry_count: u64,
    /// Sequence of the first row.
    pub first_entry_seq: u64,
    /// Sequence of the last row.
    pub last_entry_seq: u64,
    /// Id of the last row.
    pub last_entry_id: String,
}

/// The schema of a [`Checkpoint`].
pub const CHECKPOINT_SCHEMA: &str = "pi.session_store_v2.checkpoint.v1";
/// A file of `checkpoints/`: the last entry at a time, and the chain up to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// [`CHECKPOINT_SCHEMA`].
    pub schema: String,
    /// Number of the checkpoint, from 1; its file name has it, too.
    pub checkpoint_seq: u64,
    /// Time at which the checkpoint was made.
    pub at: String,
    /// Sequence of the last entry, 0 for an empty store.
    pub head_entry_seq: u64,
    /// Id of the last entry, empty for an empty store.
    pub head_entry_id: String,
    /// The checkpoint's file, relative to the root.
    pub snapshot_ref: String,
    /// Always 0: no entry is ever compacted.
    pub compacted_before_entry_seq: u64,
    /// The hash chain over all entries up to the head.
    pub chain_hash: String,
    /// Why the checkpoint was made; any text.
    pub reason: String,
}

/// The schema of a [`Manifest`].
pub const MANIFEST_SCHEMA: &str = "pi.session_store_v2.manifest.v1";
/// `manifest.json`: what a store held when the manifest was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// 2.
    pub store_version: u8,
    /// Id of the session; any text.
    pub session_id: String,
    /// Where the entries came from: `jsonl_v3`, `sqlite_v1`, `native_v2`.
    pub source_format: String,
    /// Time at which the first manifest of this store was written.
    pub created_at: String,
    /// Time at which this manifest was written.
    pub updated_at: String,
    /// The last entry.
    pub head: StoreHead,
    /// Counts over all entries.
    pub counters: ManifestCounters,
    /// Paths, relative to the root.
    pub files: ManifestFiles,
    /// Hashes and checksums.
    pub integrity: ManifestIntegrity,
    /// Which invariants held.
    pub invariants: ManifestInvariants,
}

/// Counts over all entries of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestCounters {
    /// Number of index rows.
    pub entries_total: u64,
    /// Number of entries of type `message`.
    pub messages_total: u64,
    /// Number of entries with two children or more.
    pub branches_total: u64,
    /// Number of entries of type `compaction`.
    pub compactions_total: u64,
    /// Sum of the lengths of all indexed lines, in bytes.
    pub bytes_total: u64,
}

/// The paths of a store's files, relative to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFiles {
    /// `segments/`.
    pub segment_dir: String,
    /// Number of segments with indexed frames.
    pub segment_count: u64,
    /// `index/offsets.jsonl`.
    pub index_path: String,
    /// `checkpoints/`.
    pub checkpoint_dir: String,
    /// `migrations/ledger.jsonl`.
    pub migration_ledger_path: String,
}

/// Hashes over the store and over the manifest itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestIntegrity {
    /// The chain over all payload hashes.
    pub chain_hash: String,
    /// SHA-256 of the compact manifest with this field empty.
    pub manifest_hash: String,
    /// CRC-32C of the last frame, `00000000` for an empty store.
    pub last_crc32c: String,
}

/// Which invariants held when the manifest was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools)] // The format has them.
pub struct ManifestInvariants {
    /// Every parent exists.
    pub parent_links_closed: bool,
    /// Entry sequences rise.
    pub monotonic_entry_seq: bool,
    /// Segment numbers do not fall.
    pub monotonic_segment_seq: bool,
    /// Full validation passed.
    pub index_within_segment_bounds: bool,
    /// Every byte of every segment is indexed.
    pub branch_heads_indexed: bool,
    /// Heads do not fall over ascending checkpoints.
    pub checkpoints_monotonic: bool,
    /// The recomputed chain equals that of the handle.
    pub hash_chain_valid: bool,
}

/// The schema of a [`MigrationEvent`].
pub const MIGRATION_EVENT_SCHEMA: &str = "pi.session_store_v2.migration_event.v1";

/// The results of verifying a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationVerification {
    /// Whether the last entry is the expected entry.
    pub entry_count_match: bool,
    /// Whether the hash chain is the expected chain.
    pub hash_chain_match: bool,
    /// Whether index and segments agree.
    pub index_consistent: bool,
}

impl fmt::Display for MigrationVerification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |matches| if matches { "matches" } else { "differs" };
        write!(
            f,
            "last entry {}, hash chain {}, index ",
            word(self.entry_count_match),
            word(self.hash_chain_match)
        )?;
        f.write_str(if self.index_consistent { "consistent" } else { "inconsistent" })
    }
}

/// A line of the migration ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationEvent {
    /// [`MIGRATION_EVENT_SCHEMA`]; appending fills it in when it is empty.
    pub schema: String,
    /// Id of the migration that the event belongs to.
    pub migration_id: String,
    /// `planned`, `staging_copy`, `integrity_check`, `cutover_commit`, `rollback`, `completed`, `failed`.
    pub phase: String,
    /// Time of the event; appending fills it in when it is empty.
    pub at: String,
    /// Path that the data came from.
    pub source_path: String,
    /// Path that the data went to.
    pub target_path: String,
    /// `jsonl_v3`, `sqlite_v1`, `native_v2`.
    pub source_format: String,
    /// A format, as in `source_format`.
    pub target_format: String,
    /// The results of verifying.
    pub verification: MigrationVerification,
    /// `ok`, `recoverable_error`, `fatal_error`.
    pub outcome: String,
    /// Class of the error, if there was an error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_class: Option<String>,
    /// Common to all events of one attempt.
    pub correlation_id: String,
}

//! The documents that the files of a store hold, member by member as docs/session-store.md lists them.
//!
//! This file touches nothing.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The longest line that can be read back, 100 MiB, unless a segment may be longer.
pub const MAX_LINE_BYTES: u64 = 104_857_600;

/// The schema of a frame.
pub const SEGMENT_FRAME_SCHEMA: &str = "pi.session_store_v2.segment_frame.v1";

/// One entry as it stands in a segment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentFrame {
    /// [`SEGMENT_FRAME_SCHEMA`].
    pub schema: Cow<'static, str>,
    /// Number of the segment file it is in.
    pub segment_seq: u64,
    /// Position among the frames of that file, from 1.
    pub frame_seq: u64,
    /// Position in the store, from 1; gaps are possible.
    pub entry_seq: u64,
    /// Unique in the store.
    pub entry_id: String,
    /// The entry this one follows; none for a root.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent_entry_id: Option<String>,
    /// `message`, `model_change`, …; any text.
    pub entry_type: String,
    /// Time of writing, as written: RFC 3339 in UTC with milliseconds when written here.
    pub timestamp: String,
    /// SHA-256 of the payload text, 64 lower-case hex digits.
    pub payload_sha256: String,
    /// Length of the payload text in bytes.
    pub payload_bytes: u64,
    /// The payload text, byte for byte.
    pub payload: Box<RawValue>,
}

/// The schema of an index row.
pub const OFFSET_INDEX_SCHEMA: &str = "pi.session_store_v2.offset_index.v1";
/// One row of the index: where a frame is.
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
    /// Position among the frames of that file, from 1.
    pub frame_seq: u64,
    /// First byte of the line in the segment.
    pub byte_offset: u64,
    /// Length of the line, line end included.
    pub byte_length: u64,
    /// CRC-32C of those bytes, 8 upper-case hex digits.
    pub crc32c: String,
    /// Always `active`.
    pub state: Cow<'static, str>,
}

/// The last entry of a store; 0, 0 and empty in the manifest of an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreHead {
    /// The segment it is in.
    pub segment_seq: u64,
    /// Its sequence.
    pub entry_seq: u64,
    /// Its id.
    pub entry_id: String,
}

/// What an index holds.
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

/// The schema of a checkpoint.
pub const CHECKPOINT_SCHEMA: &str = "pi.session_store_v2.checkpoint.v1";
/// A checkpoint as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// [`CHECKPOINT_SCHEMA`].
    pub schema: String,
    /// Its number, from 1; also in its file name.
    pub checkpoint_seq: u64,
    /// When it was made.
    pub at: String,
    /// Sequence of the last entry then, 0 for an empty store.
    pub head_entry_seq: u64,
    /// Id of the last entry, empty for an empty store.
    pub head_entry_id: String,
    /// Its file, relative to the root.
    pub snapshot_ref: String,
    /// Always 0: nothing is compacted away.
    pub compacted_before_entry_seq: u64,
    /// The chain over all entries up to the head.
    pub chain_hash: String,
    /// Why it was made; any text.
    pub reason: String,
}

/// The schema of a manifest.
pub const MANIFEST_SCHEMA: &str = "pi.session_store_v2.manifest.v1";
/// A manifest as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// 2.
    pub store_version: u8,
    /// The session this is; any text.
    pub session_id: String,
    /// Where the entries came from: `jsonl_v3`, `sqlite_v1`, `native_v2`.
    pub source_format: String,
    /// When the first manifest of this store was written.
    pub created_at: String,
    /// When this one was written.
    pub updated_at: String,
    /// The last entry.
    pub head: StoreHead,
    /// Counts.
    pub counters: ManifestCounters,
    /// Where the files are.
    pub files: ManifestFiles,
    /// Hashes.
    pub integrity: ManifestIntegrity,
    /// Which promises held.
    pub invariants: ManifestInvariants,
}

/// Counts over all entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestCounters {
    /// Index rows.
    pub entries_total: u64,
    /// Entries of type `message`.
    pub messages_total: u64,
    /// Entries with two children or more.
    pub branches_total: u64,
    /// Entries of type `compaction`.
    pub compactions_total: u64,
    /// Lengths of all indexed lines.
    pub bytes_total: u64,
}

/// Where the files are, relative to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFiles {
    /// `segments/`.
    pub segment_dir: String,
    /// Segments that hold indexed frames.
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

/// Which promises held when the manifest was written.
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
    /// The recomputed chain is the handle's.
    pub hash_chain_valid: bool,
}

/// The schema of a migration event.
pub const MIGRATION_EVENT_SCHEMA: &str = "pi.session_store_v2.migration_event.v1";

/// What was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationVerification {
    /// The last entry is the expected one.
    pub entry_count_match: bool,
    /// The chain is the expected one.
    pub hash_chain_match: bool,
    /// Index and segments agree.
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

/// An event of the migration ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationEvent {
    /// [`MIGRATION_EVENT_SCHEMA`]; filled in when empty.
    pub schema: String,
    /// Which migration it belongs to.
    pub migration_id: String,
    /// `planned`, `staging_copy`, `integrity_check`, `cutover_commit`, `rollback`, `completed`, `failed`.
    pub phase: String,
    /// When; filled in when empty.
    pub at: String,
    /// Where the data came from.
    pub source_path: String,
    /// Where it went.
    pub target_path: String,
    /// `jsonl_v3`, `sqlite_v1`, `native_v2`.
    pub source_format: String,
    /// The same.
    pub target_format: String,
    /// What was verified.
    pub verification: MigrationVerification,
    /// `ok`, `recoverable_error`, `fatal_error`.
    pub outcome: String,
    /// What kind of error, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_class: Option<String>,
    /// Ties the events of one attempt together.
    pub correlation_id: String,
}

//! The segmented session store: an agent's conversation as a tree of entries, in append-only segments that can be trusted.
//!
//! A store is a directory. Its truth are the frames in `segments/`, one JSON line each; `index/offsets.jsonl` says where they
//! are and is built again when it is lost. The format is that of `session_store_v2` and is described byte by byte in
//! `docs/session-store.md`; stores go back and forth between its other writers and this one.
//!
//! - [`SessionReader`] inspects: it touches nothing and may be held while others write. [`SessionView`] is a store at one moment.
//! - [`SessionStoreV2`] writes: one handle at a time, recovering what a crash or damage left when it opens, and reporting it
//!   ([`SessionRecoveryReport`]).
//! - [`SessionStoreV2::create_checkpoint`] and [`SessionStoreV2::rollback_to_checkpoint`] go back to a certified point; [`SessionStoreV2::write_manifest`] sums up.
//! - [`export_line`] and [`parse_import_line`] turn entries into plain JSON Lines and back; [`frame_to_session_entry`] reads a
//!   payload as the session entry its frame says it is.
//!
//! What is handed out was verified: range, CRC-32C, numbers and the payload's SHA-256. What is acknowledged is on stable
//! storage. Damage that is not a torn tail is refused, with file, line and byte offset.

mod canonical;
mod checkpoint;
mod digest;
mod error;
mod format;
mod frame;
mod ids;
mod import;
mod index;
mod integrity;
mod intent;
mod layout;
mod manifest;
mod migration;
mod open;
mod options;
mod payload;
mod plain;
mod reader;
mod recovery;
mod report;
mod rollback;
mod segment;
mod skip;
mod snapshot;
mod time;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use checkpoint::MAX_REASON_BYTES;
pub use error::{FramePlace, LinePlace, SessionError, SessionErrorClass};
pub use format::{
    CHECKPOINT_SCHEMA, Checkpoint, IndexSummary, MANIFEST_SCHEMA, MAX_LINE_BYTES, MIGRATION_EVENT_SCHEMA,
    Manifest, ManifestCounters, ManifestFiles, ManifestIntegrity, ManifestInvariants, MigrationEvent,
    MigrationVerification, OFFSET_INDEX_SCHEMA, OffsetIndexEntry, SEGMENT_FRAME_SCHEMA, SegmentFrame,
    StoreHead,
};
pub use layout::{has_v2_sidecar, v2_sidecar_path};
pub use migration::MigrationLedger;
pub use options::{DEFAULT_MAX_SEGMENT_BYTES, Durability, Loss, SessionOptions, Verify};
pub use payload::{EntryPayload, MAX_ID_BYTES, NewEntry};
pub use plain::{
    ImportLine, export_line, frame_to_session_entry, parse_import_line, session_entry_to_frame_args,
};
pub use reader::SessionReader;
pub use report::{
    ChangedCrc, LostEntry, QuarantinedFile, SessionRecoveryReport, TruncatedFile, UnindexedRange,
};
pub use view::{Entries, SessionView, Validated};
pub use writer::SessionStoreV2;

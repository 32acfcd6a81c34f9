//! The segmented session store: an agent's conversation as a tree of entries, in append-only segments.
//!
//! A store is a directory. The frames in `segments/`, one JSON line each, are the source of truth. `index/offsets.jsonl` has their
//! offsets and is derived from them. The format is `session_store_v2`, described byte by byte in `docs/session-store.md`. Other
//! programs write the same stores, and this module has the names of their functions and types (`docs/coming-from.md`).
//!
//! - [`SessionStoreV2::open_for_inspection`] gives a [`SessionReader`], which changes nothing and may stay open while others
//!   write. [`SessionView`] is a store at one moment.
//! - [`open()`] (or [`SessionStoreV2::create`]) gives the one writing handle, after recovery from a crash or damage, and reports what
//!   recovery did ([`SessionRecoveryReport`]).
//! - [`status()`] describes a store, and [`check()`] verifies it, without changing it.
//! - [`SessionStoreV2::create_checkpoint`] and [`SessionStoreV2::rollback_to_checkpoint`] go back to a certified entry;
//!   [`SessionStoreV2::write_manifest`] writes a summary of the store.
//! - [`export_line`] and [`parse_import_line`] turn entries into plain JSON Lines and back; [`frame_to_session_entry`] reads a
//!   payload as a session entry.
//!
//! Guarantees: every frame that is returned was verified (range, CRC-32C, numbers, SHA-256 of the payload). With
//! `Durability::Immediate`, every acknowledged entry is on stable storage. A damaged index is built again; damage of segments
//! that is not a torn tail is refused with file, line and byte offset.

mod chain;
mod check;
mod checkpoint;
mod error;
mod format;
mod frame;
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
mod snapshot;
mod time;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use check::{SessionProblem, SessionStatus, check, status};
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
pub use open::open;
pub use options::{DEFAULT_MAX_SEGMENT_BYTES, Loss, SessionOptions, Verify};
pub use payload::{EntryPayload, MAX_ID_BYTES, NewEntry};
pub use plain::{
    ImportLine, export_line, frame_to_session_entry, parse_first_import_line, parse_import_line,
    session_entry_to_frame_args,
};
pub use reader::SessionReader;
pub use report::{ChangedCrc, LostEntry, SessionRecoveryReport, UnindexedRange};
pub use view::{Entries, SessionView, Validated};
pub use writer::SessionStoreV2;

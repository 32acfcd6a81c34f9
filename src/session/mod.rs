//! The segmented session store: an agent's conversation as a tree of entries, in append-only segments that can be trusted.
//!
//! A store is a directory. Its truth are the frames in `segments/`, one JSON line each; `index/offsets.jsonl` says where they
//! are and is built again when it is lost. The format is that of `session_store_v2` and is described byte by byte in
//! `docs/session-store.md`; stores go back and forth between its other writers and this one.
//!
//! - [`Reader`] inspects: it touches nothing and may be held while others write. [`View`] is a store at one moment.
//! - [`Store`] writes: one handle at a time, recovering what a crash or damage left when it opens, and reporting it
//!   ([`RecoveryReport`]).
//! - [`Store::create_checkpoint`] and [`Store::rollback`] go back to a certified point; [`Store::write_manifest`] sums up.
//! - [`export_line`] and [`parse_import_line`] turn entries into plain JSON Lines and back; [`session_entry`] reads a
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
pub use error::{Class, Error, FramePlace, Place};
pub use format::{
    CHECKPOINT_SCHEMA, Checkpoint, Counters, EVENT_SCHEMA, FRAME_SCHEMA, Files, Frame, Head, IndexSummary,
    Integrity, Invariants, MANIFEST_SCHEMA, MAX_LINE_BYTES, Manifest, ManifestHead, MigrationEvent,
    ROW_SCHEMA, Row, Verification,
};
pub use layout::{sidecar_exists, sidecar_root};
pub use migration::MigrationLedger;
pub use options::{DEFAULT_MAX_SEGMENT_BYTES, Durability, Loss, Options, Verify};
pub use payload::{MAX_ID_BYTES, NewEntry, Payload};
pub use plain::{ImportLine, export_line, parse_import_line, session_entry};
pub use reader::Reader;
pub use report::{ChangedCrc, LostEntry, Quarantined, RecoveryReport, Truncated, Unindexed};
pub use view::{Entries, Validated, View};
pub use writer::Store;

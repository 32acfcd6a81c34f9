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
mod frame;
mod ids;
mod import;
mod index;
mod integrity;
mod layout;
mod manifest;
mod migration;
mod payload;
mod plain;
mod recovery;
mod report;
mod rollback;
mod segment;
mod skip;
mod time;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use checkpoint::{CHECKPOINT_SCHEMA, Checkpoint, MAX_REASON_BYTES};
pub use error::{Class, Error, FramePlace, Place};
pub use frame::{FRAME_SCHEMA, Frame};
pub use index::{ROW_SCHEMA, Row};
pub use layout::{sidecar_exists, sidecar_root};
pub use manifest::{Counters, Files, Integrity, Invariants, MANIFEST_SCHEMA, Manifest, ManifestHead};
pub use migration::{EVENT_SCHEMA, MigrationEvent, MigrationLedger, Verification};
pub use payload::{NewEntry, Payload};
pub use plain::{ImportLine, export_line, parse_import_line, session_entry};
pub use recovery::{Loss, Verify};
pub use report::{ChangedCrc, LostEntry, Quarantined, RecoveryReport, Truncated, Unindexed};
pub use view::{Entries, Head, IndexSummary, Reader, Validated, View};
pub use writer::{Durability, Store};

/// The longest line that can be read back, 100 MiB, unless a segment may be longer ([`Options::max_segment_bytes`]).
pub const MAX_LINE_BYTES: u64 = 104_857_600;

/// The longest id that an entry can be appended with. Every handle holds the ids of all entries.
pub const MAX_ID_BYTES: usize = 4096;

/// The segment size of [`Options::default`]: 64 MiB.
pub const DEFAULT_MAX_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A segment that would grow beyond this many bytes is followed by a new one; a single longer frame gets a segment of its
    /// own. Not 0.
    pub max_segment_bytes: u64,
    /// How much an opening [`Store`] verifies.
    pub verify: Verify,
    /// Whether an opening [`Store`] may drop entries that the index has.
    pub loss: Loss,
    /// When what a [`Store`] appends becomes durable.
    pub durability: Durability,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_segment_bytes: DEFAULT_MAX_SEGMENT_BYTES,
            verify: Verify::default(),
            loss: Loss::default(),
            durability: Durability::default(),
        }
    }
}

impl Options {
    /// The longest frame that is read: [`MAX_LINE_BYTES`], or a whole segment when that is more.
    fn frame_limit_bytes(&self) -> Result<u64, Error> {
        if self.max_segment_bytes == 0 {
            return Err(Error::InvalidArgument {
                reason: "max_segment_bytes is 0; a segment needs room".to_owned(),
            });
        }
        Ok(self.max_segment_bytes.max(MAX_LINE_BYTES))
    }
}

//! The journal: a write-ahead log of opaque payloads, in segments, one writer and any number of readers.
//!
//! May touch: the journal's directory, whose format `docs/journal.md` specifies byte by byte. Guarantees: an acknowledged record
//! survives every crash, as far as its durability level says; damage is reported by segment and
//! offset, saved before anything is cut, and never skipped in silence; a reader never returns half a record.
//!
//! ```
//! use relayburn_ledger::journal::Journal;
//!
//! let directory = tempfile::tempdir()?;
//! let journal = Journal::open(directory.path())?;
//! let offset = journal.append(b"hello")?; // synced
//! let record = journal.read(offset)?.expect("the record is there");
//! assert_eq!(record.payload, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check_segment;
mod cursor;
mod directory;
mod durability;
mod error;
mod format;
#[cfg(feature = "group-commit")]
mod group_commit;
mod identity;
#[expect(clippy::module_inception, reason = "the module of the type Journal")]
mod journal;
mod reader;
mod recovery;
mod resync;
mod segment;
mod status;

#[cfg(all(test, unix))]
mod tests;

pub use crate::store::Durability as DurabilityLevel;
pub use cursor::{Cursor, CursorStatus, cursors};
pub use durability::FsyncGuard;
pub use error::{Damage, DamageReason, JournalError, JournalProblem, QuarantineError, Result};
pub use format::{
    FileHeader, FileKind, HEADER_SIZE, HeaderFlaw, RECORD_OVERHEAD, Record, RecordRef, VERSION,
};
#[cfg(feature = "ingest")]
pub(crate) use format::{seal, unseal};
#[cfg(feature = "group-commit")]
pub use group_commit::{GroupCommitBuffer, GroupCommitOptions};
pub use identity::identity;
pub use journal::{DEFAULT_MAX_PAYLOAD_BYTES, DEFAULT_MAX_SEGMENT_BYTES, Journal, JournalOptions, open};
pub use reader::JournalReader;
pub use recovery::{OnCorruption, OpenCheck, RecoveryReport, SavedRange, check, recover, recover_file};
pub use segment::{CleanupReport, Segment, SegmentManager};
#[cfg(feature = "cli")]
pub(crate) use status::check_mark_and_identity;
pub use status::{JournalStatus, status};

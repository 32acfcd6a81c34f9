//! The journal: a write-ahead log of opaque payloads, in segments, one writer and any number of readers.
//!
//! May touch: the journal's directory, whose format `docs/journal.md` specifies byte by byte. Promises: what was
//! acknowledged is found again after any crash, as far as its durability level says; damage is named by segment and
//! offset, saved before anything is cut, and never skipped in silence; a reader never returns half a record.
//!
//! ```
//! use relayburn_ledger::journal::{Journal, JournalOptions};
//!
//! let directory = tempfile::tempdir()?;
//! let journal = Journal::open(directory.path(), JournalOptions::default())?;
//! let offset = journal.append(b"hello")?; // synced
//! let mut reader = journal.reader()?;
//! let record = reader.read(offset)?.expect("it is there");
//! assert_eq!(record.payload, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod cursor;
mod directory;
mod error;
mod format;
#[cfg(feature = "group-commit")]
mod group_commit;
mod reader;
mod recovery;
mod resync;
mod status;
mod writer;

#[cfg(all(test, unix))]
mod tests;

pub use cursor::{CleanupReport, Cursor, CursorStatus, cleanup, cursors};
pub use directory::identity;
pub use error::{Damage, DamageReason, JournalError};
pub use format::{HEADER_LEN_BYTES, RECORD_OVERHEAD, VERSION};
#[cfg(feature = "group-commit")]
pub use group_commit::{GroupCommitBuffer, GroupCommitOptions};
pub use reader::{JournalReader, Record};
pub use recovery::{OpenCheck, RecoveryReport, SavedRange, recover};
pub use status::{JournalStatus, SegmentStatus, status};
pub use writer::{
    DEFAULT_MAX_PAYLOAD_BYTES, DEFAULT_MAX_SEGMENT_BYTES, DurabilityLevel, FsyncGuard, Journal,
    JournalOptions,
};

//! What can go wrong while a journal is drained.

use super::payload::PayloadError;
use super::store::StoreError;
use super::worker::SinkError;
use crate::journal::JournalError;

/// The ingestor stopped. What it had not made durable arrives again at the next start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The journal could not be read, or its cursor moved.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A payload could not be made.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The ledger did not take lines.
    #[error(
        "the ledger did not take the journal's lines from offset {offset} on: {source}; they stay queued"
    )]
    Ledger {
        /// Offset of the first line's record.
        offset: u64,
        /// What the ledger said.
        source: SinkError,
    },
    /// The journal holds a line for the ledger, and this ingestor was given no ledger.
    #[error(
        "the record at offset {offset} is a line for the ledger, and no ledger was given to deliver it to; give one \
         (Ingestor::set_ledger_sink)"
    )]
    NoLedger {
        /// Offset of the record.
        offset: u64,
    },
    /// The store's cursor is not an offset.
    #[error(
        "the cursor in the store has {len_bytes} bytes instead of 8: the store is not one of an ingestor; \
         choose another directory, or move this one away"
    )]
    Cursor {
        /// Its length.
        len_bytes: usize,
    },
    /// The background thread has the worker.
    #[error("the ingestor's background thread is running; stop it first")]
    Running,
    /// The background thread ended by a panic, and what it had is lost.
    #[error(
        "the ingestor's background thread panicked; open the store and the journal anew, nothing that is queued is lost"
    )]
    Panicked,
    /// The background thread could not be started.
    #[error("cannot start the ingestor's background thread: {reason}; raise the limit on threads")]
    Threads {
        /// What the system said.
        reason: std::io::Error,
    },
}

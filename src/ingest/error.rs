//! Errors of draining a journal.

use std::path::{Path, PathBuf};

use super::payload::PayloadError;
use super::sink::SinkError;
use super::store::StoreError;
use crate::journal::JournalError;

/// The ingestor stopped. Records that were not stored durably arrive again at the next start.
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
    /// The ledger did not accept lines.
    #[error(
        "the ledger did not take the journal's lines from offset {offset} on: {source}; they stay queued"
    )]
    Ledger {
        /// Offset of the first line's record.
        offset: u64,
        /// What the ledger said.
        source: SinkError,
    },
    /// The journal has a line for the ledger, and this ingestor has no ledger.
    #[error(
        "the record at offset {offset} is a line for the ledger, and no ledger was given to deliver it to; give one \
         (Ingestor::set_ledger_sink)"
    )]
    NoLedger {
        /// Offset of the record.
        offset: u64,
    },
    /// The store's entry of the offset is no offset, or its entry of the journal is no identity.
    #[error(
        "{} has {len_bytes} bytes under {key}, which no ingestor wrote there; choose another directory, or move this one \
         away",
        named(store)
    )]
    Cursor {
        /// The store's directory, if it has one.
        store: Option<PathBuf>,
        /// The key.
        key: &'static str,
        /// Length of its value in bytes.
        len_bytes: usize,
    },
    /// The store was filled from another journal. Nothing was drained.
    #[error("{}", other_journal(store, filled_from, journal))]
    OtherJournal {
        /// The store's directory, if it has one.
        store: Option<PathBuf>,
        /// The path of the journal that it was filled from.
        filled_from: PathBuf,
        /// The journal that was to be drained: another one, possibly with the same path.
        journal: PathBuf,
    },
    /// An earlier program, which did not keep the journal's identity, made the store, and nothing shows that it was filled from this
    /// journal. Nothing was drained.
    #[error(
        "{} was filled up to offset {offset} by a program that did not keep from which journal, and the journal in {} does \
         not look like it ({reason}): nothing was drained; name the journal that it was filled from, or drain this one \
         into another store, which then gets all that this journal holds",
        named(store),
        journal.display()
    )]
    UnknownJournal {
        /// The store's directory, if it has one.
        store: Option<PathBuf>,
        /// The journal that was to be drained.
        journal: PathBuf,
        /// Where the store continues.
        offset: u64,
        /// Why the journal does not fit.
        reason: String,
    },
    /// The background thread is running.
    #[error("the ingestor's background thread is running; stop it first")]
    Running,
    /// The background thread panicked, and the ingestor is lost with it.
    #[error(
        "the ingestor's background thread panicked; open the store and the journal again, because nothing that is queued is lost"
    )]
    Panicked,
    /// The background thread could not be started.
    #[error("cannot start the ingestor's background thread: {source}; raise the limit on threads")]
    Threads {
        /// What the system said.
        source: std::io::Error,
    },
}

fn named(store: &Option<PathBuf>) -> String {
    store.as_ref().map_or("the store".to_owned(), |store| format!("the store at {}", store.display()))
}

fn other_journal(store: &Option<PathBuf>, filled_from: &Path, journal: &Path) -> String {
    let (store, from, journal) = (named(store), filled_from.display(), journal.display());
    if from.to_string() == journal.to_string() {
        return format!(
            "{store} was filled from the journal that was in {from} before; the one there now is another, so nothing was \
             drained: put the earlier one back, or move the store away or name another (--store), which then gets all that \
             this journal holds"
        );
    }
    format!(
        "{store} was filled from the journal in {from}, and {journal} is another one, so nothing was drained: drain that \
         journal, or this one into another store (--store), which then gets all that it holds"
    )
}

//! What can go wrong with a book, and what to do about it.
//!
//! `talea_core::store::Store` has one variant for everything that is not the caller's doing, `StoreError::Io`; every
//! such error of this store carries a [`BookError`], which downcasting returns.

use std::path::PathBuf;

use talea_core::store::StoreError;
use talea_core::types::{AccountId, Seq};

use crate::disk;
use crate::scan::ScanError;

/// A book store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// A segment, snapshot or run could not be mapped or read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Another store has the directory open.
    #[error("{} is held by another program that has this store open; end it, then try again", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A name that cannot be a book's.
    #[error("{name:?} cannot name a book: it must not be empty, be \".\" or contain '/', '\\' or \"..\"")]
    BadName {
        /// The name.
        name: String,
    },
    /// A file or directory whose name is not text.
    #[error("{} has a name that is not UTF-8; move it away, then open the store again", path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// The name of a new book is taken by a symbolic link or a file.
    #[error(
        "{} is a symbolic link or a file, and a book is a directory: through a link one log could be written under two names; \
         move it away, or name the book otherwise",
        path.display()
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// There is no book of this name.
    #[error("there is no book {name:?}; a book begins with its first account")]
    UnknownBook {
        /// The name.
        name: String,
    },
    /// The store has been shut down.
    #[error("the store has been shut down; open it again")]
    ShutDown,
    /// A write failed, and the book takes no further ones.
    #[error(
        "book {book:?} takes no more writes since one failed ({reason}); nothing of that batch was acknowledged: open the \
         store again and retry with the same idempotency keys"
    )]
    Poisoned {
        /// The book.
        book: String,
        /// What failed first.
        reason: String,
    },
    /// A damaged frame before the end of the log, where no repair is possible.
    #[error(
        "{} at byte {offset}: the frame is damaged ({reason}), and events follow it: this file was not changed; restore it \
         from a backup",
        path.display()
    )]
    Frame {
        /// The segment.
        path: PathBuf,
        /// Where the frame's header begins, in bytes.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Sequence numbers that do not follow one another.
    #[error(
        "{} at byte {offset}: sequence number {expected} should stand here, found {found}: events are missing; restore the \
         missing segment from a backup",
        path.display()
    )]
    Gap {
        /// The segment.
        path: PathBuf,
        /// Where the event's frame begins, in bytes.
        offset: u64,
        /// The number that was expected there.
        expected: Seq,
        /// The number that is there, or that the segment begins with.
        found: Seq,
    },
    /// Replaying the log, an account's balance leaves the range of 64 bits.
    #[error(
        "{} at byte {offset}, book {book:?}: the balance of account {account:?} leaves the range of 64-bit integers; \
         no store wrote this, restore the file from a backup",
        path.display()
    )]
    ReplayOverflow {
        /// The book.
        book: String,
        /// The account.
        account: String,
        /// The segment.
        path: PathBuf,
        /// Where the frame begins, in bytes.
        offset: u64,
    },
    /// A balance does not fit 64 bits: after a transaction, or when the smallest 64-bit integer is negated for an account
    /// whose normal side is credit.
    #[error("the balance of account {:?} would leave the range of 64-bit integers; split the amount over accounts", account.to_key())]
    Overflow {
        /// The account.
        account: AccountId,
    },
    /// An event that could be written but never read again.
    #[error("this event cannot be stored: {reason}")]
    Unwritable {
        /// Why not.
        reason: String,
    },
    /// A snapshot or a run that cannot be used.
    #[error("{} at byte {offset}: {reason}; it can be deleted, the log has everything", path.display())]
    Derived {
        /// The file.
        path: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A thread that the store needs could not be started, or ended early.
    #[error("the store's worker for {what} is gone: {reason}")]
    Worker {
        /// What it was doing.
        what: &'static str,
        /// What happened.
        reason: String,
    },
}

impl From<BookError> for StoreError {
    fn from(error: BookError) -> Self {
        Self::Io(Box::new(error))
    }
}

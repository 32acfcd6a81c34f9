//! The errors of reading session logs.

use std::path::{Path, PathBuf};

use crate::disk;
use crate::ledger::LedgerError;
use crate::lock::LockError;
use crate::scan::ScanError;

/// Why a log was not read, or why a whole run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentsError {
    /// A file could not be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Reading a log failed at some byte.
    #[error("cannot read {} at byte {offset_bytes}: {source}; the next run tries again", path.display())]
    Read {
        /// The log.
        path: PathBuf,
        /// Where.
        offset_bytes: u64,
        /// Why.
        source: std::io::Error,
    },
    /// The ledger could not be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Records could not be appended.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The cursors could not be saved, because another process held their lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// With the rules of the TypeScript package, the log is given up because of its content.
    #[error("{}: {reason}, at which the TypeScript package gives the log up; without --as-reference it is read", path.display())]
    GivenUp {
        /// The log.
        path: PathBuf,
        /// What it holds.
        reason: &'static str,
    },
    /// A log or a store of an agent has another form than expected.
    #[error("cannot use {}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// `RELAYBURN_STORAGE` names a storage that this program does not have.
    #[error(
        "RELAYBURN_STORAGE is {0:?}, but this program keeps its ledger in files: unset it, or set it to \"file\""
    )]
    Storage(String),
    /// A program error: reading a log panicked.
    #[error("a program error while reading {}; the other logs are read", path.display())]
    Panicked {
        /// The log.
        path: PathBuf,
    },
    /// A program error: the run panicked outside the reader of a log.
    #[error(
        "a program error while the records of logs were gathered; the run ended, and the next run reads the rest of the logs"
    )]
    RunPanicked,
    /// No thread could be started.
    #[error("cannot start a thread that reads logs: {source}; the next run tries again")]
    Threads {
        /// The system's error.
        source: std::io::Error,
    },
    /// Lines that made no record could not be named.
    #[error("the lines without a record cannot be named: {0}; the next run reads them again")]
    Unnamed(std::io::Error),
    /// The work was asked to stop.
    #[error("interrupted; run it again to go on")]
    Interrupted,
}

/// What a log holds when the rules of the TypeScript package give the log up.
#[derive(Debug, Clone, Copy)]
pub(super) struct GivenUp(pub &'static str);

impl GivenUp {
    /// The error for the log at `path`.
    pub(super) fn at(self, path: &Path) -> AgentsError {
        AgentsError::GivenUp { path: path.to_owned(), reason: self.0 }
    }
}

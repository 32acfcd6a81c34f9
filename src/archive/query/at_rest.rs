//! Whether an archive is as it was, for an export that would write the same again.
//!
//! Touches: reads the archive and the ledger. Guarantees: while the description of an archive's files stays, no program has
//! written to the archive.
//!
//! ```text
//! 12:00:00   a build commits, and the archive's file changes
//! 12:00:09   an export has read the archive in one transaction, and nobody wrote meanwhile: it saves the description
//! 12:15:00   the description is the same, so the archive has the rows that the export read
//! ```
//!
//! Every write changes the time of change (`ctime`), which no program can set. The time comes in steps, so a write just after
//! another may leave the time as it is: a description counts only when the last write was a while before the end of the
//! transaction. In WAL mode a commit writes to the log, and nobody copies from the log into the file or cuts the log while a
//! reader has a transaction: an empty log at the end of the transaction means that nobody has committed.

use super::{ArchiveSnapshot, check_version, open_for_query};
use crate::archive::build::{self, Paths};
use crate::archive::error::ArchiveError;
use crate::archive::open;
use crate::scan::{Io, Source};

/// An archive whose ledger nobody has written to since the last build.
pub(crate) struct ArchiveAtRest {
    /// The number of ledger bytes that the archive covers: all of them.
    pub ledger_offset_bytes: u64,
    /// The description of the archive's files; `None` when it does not count.
    pub files: Option<String>,
}

impl ArchiveAtRest {
    /// `None` when a tail build may add rows, or when that cannot be told; then a build says what is wrong with the archive.
    pub(crate) fn of(paths: &Paths) -> Option<Self> {
        // The files first: a write after this look then also changes the state, or comes after this export.
        let files = open::files_at_rest(&paths.archive).ok()?;
        let reader = open_for_query(&paths.archive).ok()?;
        let state = reader.settle(check_version(&reader, &paths.archive)).ok()?;
        let ledger = Source::open_if_there(&paths.ledger, Io::Read).ok()??;
        let is_untouched = build::is_untouched(&ledger, &state);
        is_untouched.then_some(Self { ledger_offset_bytes: ledger.len_bytes(), files })
    }
}

impl ArchiveSnapshot {
    /// The description of the files whose rows this transaction reads; `None` when it does not count.
    pub(crate) fn files_at_rest(&self) -> Result<Option<String>, ArchiveError> {
        let files = open::files_at_rest(self.path())?;
        // The path after the files: another archive that was moved there has another description.
        Ok(files.filter(|_| self.is_at_its_path() && self.settle().is_ok()))
    }
}

//! Why a question about usage cannot be answered.

use std::path::PathBuf;

use super::money::TooLarge;
use crate::archive::ArchiveError;
use crate::scan::ScanError;

/// A question cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The archive, or the ledger, cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A sum left the range.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Turns cannot be explained, because the ledger is not the one that the archive was built from.
    #[error(
        "{} cannot explain the archive: {reason}; `burn state rebuild archive` brings the archive up to date, and `--from \
         ledger` asks the ledger alone",
        ledger.display()
    )]
    OtherLedger {
        /// The ledger.
        ledger: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// There is no ledger.
    #[error("there is no ledger at {}; `burn ledger append` makes one", ledger.display())]
    NoLedger {
        /// Where it was looked for.
        ledger: PathBuf,
    },
}

impl From<ScanError> for UsageError {
    fn from(error: ScanError) -> Self {
        Self::Archive(error.into())
    }
}

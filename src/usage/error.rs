//! The errors of questions about usage.

use std::path::PathBuf;

use super::money::TooLarge;
use crate::archive::ArchiveError;
use crate::scan::ScanError;

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The archive, or the ledger, cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A sum is out of range.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Turns cannot be explained, because the archive was built from another ledger.
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
    /// There are more empty periods than the limit.
    #[error(
        "{periods_max} rows do not reach from the first {period} to the last; ask for less time with --since and --until, or \
         without --fill"
    )]
    TooManyPeriods {
        /// The period.
        period: &'static str,
        /// The greatest number of periods that are filled.
        periods_max: usize,
    },
    /// There is no ledger.
    #[error("there is no ledger at {}; `burn ledger append` makes one", ledger.display())]
    NoLedger {
        /// The path where the ledger was expected.
        ledger: PathBuf,
    },
}

impl From<ScanError> for UsageError {
    fn from(error: ScanError) -> Self {
        Self::Archive(error.into())
    }
}

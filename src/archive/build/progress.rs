//! Progress reports of a build. Touches nothing. Guarantees only the order of the phases.

use std::ops::ControlFlow;

use crate::record::rows::UnarchivedLine;

/// A phase of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Looking for stamps.
    Survey,
    /// Parsing lines and writing rows.
    Rows,
    /// Creating indexes.
    Indexes,
    /// Aggregating sessions and folding new stamps into old turns.
    Sessions,
    /// Checking the new archive.
    Verify,
    /// Syncing the new archive and replacing the old archive.
    Publish,
}

/// The progress of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// Bytes of the ledger whose rows are written.
    pub done_bytes: u64,
    /// Bytes of the ledger to read.
    pub total_bytes: u64,
}

/// Receives the progress and the findings of a build.
pub trait Observer {
    /// Called now and then. `Break` ends the build; the archive is then unchanged.
    fn progress(&mut self, progress: Progress) -> ControlFlow<()>;
    /// Called for each line that is not archived, in the order of the ledger.
    fn finding(&mut self, finding: &UnarchivedLine);
}

/// An observer that ignores every report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn finding(&mut self, _: &UnarchivedLine) {}
}

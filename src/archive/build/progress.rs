//! What a build tells while it goes on. Touches nothing; promises nothing but the order of the phases.

use std::ops::ControlFlow;

use crate::record::rows::Finding;

/// What a build is doing.
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
    /// Syncing it and putting it in place.
    Publish,
}

/// How far a build has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes of the ledger whose rows are written.
    pub done_bytes: u64,
    /// Bytes of the ledger to be taken in.
    pub total_bytes: u64,
}

/// Who is told of a build's course.
pub trait Observer {
    /// Called now and then; `Break` ends the build, the archive stays as it was.
    fn progress(&mut self, progress: Progress) -> ControlFlow<()>;
    /// Called for each line that is not archived, in the order of the ledger.
    fn finding(&mut self, finding: &Finding);
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn finding(&mut self, _: &Finding) {}
}

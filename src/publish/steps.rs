//! The steps of publishing after which a crash may happen; tests stop at each of them.

/// The moments at which a test kills the process: after each step after which a crash may happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum PublishStep {
    Sealed,
    Held,
    Folded,
    Disarmed,
    Renamed,
    Cut,
    Synced,
    Overwritten,
    StaleRemoved,
    Linked,
    Resized,
    BackupHalf,
    BackupCommitted,
    Checkpointed,
}

#[cfg(not(test))]
pub(super) fn reached(_: PublishStep) {}

#[cfg(test)]
pub(super) use super::tests::reached;

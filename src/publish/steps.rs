//! The steps of publishing that a crash can fall behind; tests stop at each of them.

/// The moments at which a test kills the process: after each step that a crash can fall behind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
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
pub(super) fn reached(_: Step) {}

#[cfg(test)]
pub(super) use super::tests::reached;

//! What is told of a sync that failed.

use super::*;
use crate::disk::faults::{Fault, Harness};
use crate::journal::JournalOptions;

/// The system tells of a failed write-back once for each descriptor. Whoever syncs the same segment next must not take it for
/// durable: neither another caller nor the rotation that seals it.
#[test]
fn a_failed_sync_is_believed_by_everybody_who_syncs_the_segment() {
    let directory = tempfile::tempdir().unwrap();
    let options = JournalOptions { durability: Durability::Os, ..JournalOptions::default() };
    let journal = crate::journal::open(directory.path(), &options).unwrap().0;
    journal.append(b"lost").unwrap();
    let end = journal.end();
    let before = journal.synced();
    let harness = Harness::failing(Fault::Io, 0);
    let failed = harness.run(|| journal.appender.sync_written());
    assert!(matches!(failed, Err(JournalError::Poisoned { .. })), "{failed:?}");
    // As a rotation does that was waiting meanwhile, and had looked for poison before.
    let rotated = journal.appender.rotate(&mut journal.appender.active());
    assert!(matches!(rotated, Err(JournalError::Poisoned { .. })), "{rotated:?}");
    let segment = journal.appender.active().file.clone();
    assert!(journal.appender.sync_segment(&segment, end).is_err());
    assert_eq!(journal.synced(), before);
    assert!(journal.close().is_err());
}

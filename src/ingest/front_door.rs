//! Queues lines of the ledger in a journal, durably, so that their writer does not wait for the ledger's locks.
//!
//! Touches: the journal's directory, under its lock, with one write and one sync. Guarantees: the lines are on stable
//! storage on return; the time does not depend on how much is queued.

use std::path::Path;
use std::time::Duration;

use super::error::IngestError;
use super::payload::{QueuedLine, serialize_ledger_line};
use crate::journal::{self, JournalOptions, OpenCheck};
use crate::store::Recovery;

/// Appends `lines` (each without its line end) to the journal in `directory` as one batch for the ledger, in one write and
/// one sync, and returns their offsets. Waits up to `lock_timeout` for other writers of the journal. An ingestor
/// delivers the lines. Without lines nothing is opened or created.
///
/// # Errors
/// [`IngestError::Payload`] for a line with a line end in it, before anything is queued; [`IngestError::Journal`].
pub fn queue_ledger_lines(
    directory: &Path,
    lines: &[&str],
    lock_timeout: Duration,
) -> Result<Vec<u64>, IngestError> {
    Ok(queue_batch(directory, lines, false, lock_timeout)?.0)
}

/// Does the same as [`queue_ledger_lines`]. With `continues_batch` the lines are part of the batch that was queued
/// before. Also returns the report of recovery.
pub(crate) fn queue_batch(
    directory: &Path,
    lines: &[&str],
    continues_batch: bool,
    lock_timeout: Duration,
) -> Result<(Vec<u64>, Recovery), IngestError> {
    if lines.is_empty() {
        return Ok(Default::default());
    }
    let payload_of = |(index, line): (usize, &&str)| {
        serialize_ledger_line(&QueuedLine {
            line: (*line).to_owned(),
            continues_batch: continues_batch || index > 0,
        })
    };
    let payloads = lines.iter().enumerate().map(payload_of).collect::<Result<Vec<_>, _>>()?;
    let options =
        JournalOptions { check: OpenCheck::FromSyncedMark, lock_timeout, ..JournalOptions::default() };
    let (journal, report) = journal::open(directory, &options)?;
    report.recovery.log();
    let offsets = journal.append_batch(&payloads)?;
    // The records are durable. When the mark could not be replaced, the next opening only checks more.
    if let Err(error) = journal.close() {
        tracing::warn!(%error, "the journal was not closed cleanly");
    }
    Ok((offsets, report.recovery))
}

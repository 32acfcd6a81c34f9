//! Carries out a recovery plan on a store, and reports the changes.
//!
//! Touches: appends an LF to segments, appends to or replaces the index, cuts and renames segments.
//!
//! Guarantees: no row is written before the bytes that it certifies are on stable storage; a row that could be written only in
//! part is cut off again. The order of the steps is that of docs/session-store.md, because a crash between two steps must
//! recover to the same outcome.

use super::plan::{RecoveryPlan, Replaced, has_entry_of};
use crate::disk;
use crate::session::error::SessionError;
use crate::session::index::IndexRows;
use crate::session::layout::{self, REBUILD_STAGE, SegmentFiles, SessionLayout};
use crate::session::report::{ChangedCrc, LostEntry, SessionRecoveryReport, UnindexedRange};

/// A store after recovery.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) rows: IndexRows,
    /// The payload hashes of all rows; empty when the frames were not read.
    pub(crate) payload_hashes: Vec<[u8; 32]>,
    pub(crate) report: SessionRecoveryReport,
}

pub(super) fn carry_out(
    layout: &SessionLayout,
    files: &SegmentFiles,
    plan: RecoveryPlan,
) -> Result<Recovered, SessionError> {
    let mut report = SessionRecoveryReport {
        index_rebuilt: plan.replaced.is_some(),
        rows_before: Some(plan.first_new as u64),
        rows_after: plan.rows.len() as u64,
        gaps: gaps(&plan.rows),
        ignored: files.ignored.clone(),
        index_completed: plan.complete_index,
        ..SessionRecoveryReport::default()
    };
    let name = |segment_seq| layout.relative(&layout.segment_file_path(segment_seq));
    for (segment_seq, range) in plan.unindexed {
        let (offset, length) = (range.start, range.end - range.start);
        report.unindexed.push(UnindexedRange { file: name(segment_seq), offset, length });
    }
    for segment_seq in plan.heal {
        let (file, _) = disk::File::open_append(&layout.segment_file_path(segment_seq))?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        report.healed.push(name(segment_seq));
    }
    // The segments are synced already. File names and rows are synced after the data that they refer to.
    layout.sync_inherited()?;
    if let Some(Replaced { rows: old, reason }) = plan.replaced {
        report.reason = Some(reason);
        report.rows_before = old.as_ref().map(|old| old.len() as u64);
        if let Some(old) = &old {
            compare(old, &plan.rows, &mut report);
        }
        layout.replace(REBUILD_STAGE, &layout.index_file_path(), |file| {
            plan.rows.write_lines(0..plan.rows.len(), |lines| Ok(file.write_all(lines)?))
        })?;
    } else if plan.complete_index || plan.first_new < plan.rows.len() {
        append_rows(layout, &plan.rows, plan.first_new, plan.complete_index)?;
    }
    for &segment_seq in plan.set_aside.iter().rev() {
        report.recovery.set_aside.push(layout::set_aside(&layout.segment_file_path(segment_seq))?);
    }
    report.recovery.set_aside.reverse();
    if !plan.set_aside.is_empty() {
        disk::sync_dir(&layout.segments_dir())?;
    }
    for cut in plan.cuts {
        let mut cut = layout.cut(&layout.segment_file_path(cut.segment_seq), cut.range, cut.reason)?;
        if cut.saved_as.is_none() {
            "only white space".clone_into(&mut cut.reason);
        }
        report.recovery.truncated.push(cut);
    }
    let payload_hashes = plan.verified.map(|verified| verified.payload_hashes()).unwrap_or_default();
    Ok(Recovered { rows: plan.rows, payload_hashes, report })
}

/// Appends the rows from `first_new` on to the index, after the LF that its last row may lack.
fn append_rows(
    layout: &SessionLayout,
    rows: &IndexRows,
    first_new: usize,
    complete: bool,
) -> Result<(), SessionError> {
    let (file, _) = disk::File::open_append(&layout.index_file_path())?;
    let len_bytes = file.len_bytes()?;
    let line_end = if complete { file.write_all(b"\n") } else { Ok(()) };
    let written = line_end
        .map_err(SessionError::from)
        .and_then(|()| rows.write_lines(first_new..rows.len(), |block| Ok(file.write_all(block)?)))
        .and_then(|()| Ok(file.sync_data()?));
    if written.is_err() {
        // Half a row would fail every reader until the next recovery, and on a full disk the next recovery
        // would fail too.
        let _ = file.set_len(len_bytes);
    }
    written
}

/// Adds to the report the entries of the old index that have another CRC now, and those that are no longer in
/// the store.
fn compare(old: &IndexRows, new: &IndexRows, report: &mut SessionRecoveryReport) {
    for row in 0..old.len() {
        let (numbers, entry_id) = (old.numbers(row), old.id(row).to_owned());
        let entry_seq = numbers.entry_seq;
        if !has_entry_of(new, old, row) {
            report.lost_entries.push(LostEntry { entry_seq, entry_id });
        } else if let Some(found) = new.find_seq(entry_seq)
            && new.id(found) == entry_id
            && new.numbers(found).crc != numbers.crc
        {
            report.changed_crcs.push(ChangedCrc {
                entry_seq,
                entry_id,
                before: numbers.crc.as_str().to_owned(),
                after: new.numbers(found).crc.as_str().to_owned(),
            });
        }
    }
}

fn gaps(rows: &IndexRows) -> Vec<(u64, u64)> {
    let mut expected = 1;
    let mut gaps = Vec::new();
    for row in 0..rows.len() {
        let entry_seq = rows.numbers(row).entry_seq;
        if entry_seq > expected {
            gaps.push((expected, entry_seq - 1));
        }
        expected = entry_seq.saturating_add(1);
    }
    gaps
}

//! Brings index and segments into agreement when a store is opened for writing.
//!
//! Touches: reads the whole store; appends an LF to segments, appends to or replaces the index, saves and cuts the ends of
//! segments, renames later segments.
//!
//! Guarantees: the whole outcome is decided before the first byte is changed, so that a refusal changes nothing; no entry of a
//! readable index leaves the store unless the caller accepts the loss; a crash at any point leaves a store that recovers to
//! the same outcome; a second recovery changes nothing. The last two depend on the order: sync of all segments, missing LFs,
//! index, later segments from the highest number down, cuts. Until the cut, every recovery meets the same
//! damaged line and decides the same.
//!
//! Rejected: syncing segments and index on threads of their own while the segments are scanned, and estimating the number of
//! rows to reserve memory. They saved a tenth of a rebuild.

mod carry_out;
mod plan;

use std::collections::BTreeMap;
use std::ops::Range;

pub(super) use self::carry_out::Recovered;
use self::carry_out::carry_out;
use self::plan::{Acknowledged, PlannedCut, RecoveryPlan, Replaced, has_entry_of, resolve_parents};
use super::error::SessionError;
use super::index::{self, IndexFile, IndexRows};
use super::integrity::{Verified, check_frame, check_graph, check_order, check_range, open_segment, verify};
use super::layout::{self, SegmentFiles, SessionLayout};
use super::options::{Loss, SessionOptions, Verify};
use crate::disk;

/// Recovers a store: decides, then refuses or carries out.
pub(super) fn recover(
    layout: &SessionLayout,
    options: &SessionOptions,
    limit_bytes: u64,
) -> Result<Recovered, SessionError> {
    let files = synced_segments(layout)?;
    let mut rows = IndexRows::default();
    let has_frames = files.len_bytes.values().any(|len_bytes| *len_bytes > 0);
    let plan = match index::read(&layout.index_file_path(), 0, &mut rows) {
        Ok(_) if rows.is_empty() && has_frames => {
            let replaced = Replaced { rows: Some(rows), reason: "the index has no rows".to_owned() };
            plan_rebuild(layout, &files, replaced, None)?
        }
        Ok(file) => match check_segments_exist(layout, &files, &rows) {
            Err(error) => plan_without_segments(layout, &files, rows, error)?,
            Ok(()) => match check_rows(layout, &files, &rows, options.verify, limit_bytes) {
                Ok(verified) => {
                    plan_tail(layout, &files, rows, verified, &file, (options.loss, limit_bytes))?
                }
                Err(error) if error.is_recoverable() => {
                    let replaced = Replaced { rows: Some(rows), reason: error.to_string() };
                    plan_rebuild(layout, &files, replaced, None)?
                }
                Err(error) => return Err(error),
            },
        },
        Err(error) if error.is_recoverable() => {
            plan_rebuild(layout, &files, Replaced { rows: None, reason: error.to_string() }, None)?
        }
        Err(error) => return Err(error),
    };
    if options.loss == Loss::Refuse {
        plan.check_nothing_lost(layout, &files)?;
    }
    if let Some(verified) = &plan.verified {
        check_graph(&plan.rows, verified)?;
    }
    carry_out(layout, &files, plan)
}

/// Builds the index again from the segments, whatever it holds and whatever is lost. Ids and parents are not checked.
pub(super) fn rebuild(layout: &SessionLayout) -> Result<Recovered, SessionError> {
    let files = synced_segments(layout)?;
    let mut rows = IndexRows::default();
    let old = match index::read(&layout.index_file_path(), 0, &mut rows) {
        Ok(_) => Some(rows),
        Err(error) if error.is_recoverable() => None,
        Err(error) => return Err(error),
    };
    let missing = old.as_ref().and_then(|old| check_segments_exist(layout, &files, old).err());
    let plan = match (old, missing) {
        (Some(old), Some(missing)) => plan_without_segments(layout, &files, old, missing)?,
        (rows, _) => plan_rebuild(layout, &files, Replaced { rows, reason: "asked for".to_owned() }, None)?,
    };
    carry_out(layout, &files, plan)
}

/// Lists the segments and syncs them, because the writer of their last frames may have been killed before its sync. A row that
/// survives a power cut must not lead to a frame that did not.
fn synced_segments(layout: &SessionLayout) -> Result<SegmentFiles, SessionError> {
    let files = layout.segment_files()?;
    layout.sync_segments(&files)?;
    Ok(files)
}

/// Plans for an index that names a missing segment file. Such an index is refused with `missing`, because it is the only record
/// of what is missing; unless the entries in question are in other segments, which means that the index is wrong.
fn plan_without_segments(
    layout: &SessionLayout,
    files: &SegmentFiles,
    rows: IndexRows,
    missing: SessionError,
) -> Result<RecoveryPlan, SessionError> {
    let replaced = Replaced { rows: Some(rows.clone()), reason: missing.to_string() };
    let plan = plan_rebuild(layout, files, replaced, None);
    let mut sought =
        (0..rows.len()).filter(|row| !files.len_bytes.contains_key(&rows.numbers(*row).segment_seq));
    match plan {
        Ok(plan) if sought.all(|row| has_entry_of(&plan.rows, &rows, row)) => Ok(plan),
        _ => Err(missing),
    }
}

/// Whether every segment file that the index names exists.
fn check_segments_exist(
    layout: &SessionLayout,
    files: &SegmentFiles,
    rows: &IndexRows,
) -> Result<(), SessionError> {
    let missing = |segment_seq: u64| !files.len_bytes.contains_key(&segment_seq);
    if let Some(last) = rows.last().filter(|last| missing(last.segment_seq)) {
        let (path, index) = (layout.segment_file_path(last.segment_seq), layout.index_file_path());
        return Err(SessionError::ActiveSegmentMissing { path, entry_seq: last.entry_seq, index });
    }
    let mut known = None;
    for row in 0..rows.len() {
        let numbers = rows.numbers(row);
        if known == Some(numbers.segment_seq) {
            continue;
        }
        if missing(numbers.segment_seq) {
            let (path, index) = (layout.segment_file_path(numbers.segment_seq), layout.index_file_path());
            return Err(SessionError::IndexMissingFrame { path, entry_seq: numbers.entry_seq, index });
        }
        known = Some(numbers.segment_seq);
    }
    Ok(())
}

fn check_rows(
    layout: &SessionLayout,
    files: &SegmentFiles,
    rows: &IndexRows,
    verification: Verify,
    limit_bytes: u64,
) -> Result<Option<Verified>, SessionError> {
    check_order(layout, rows)?;
    for row in 0..rows.len() {
        let numbers = rows.numbers(row);
        let segment_bytes = files.len_bytes.get(&numbers.segment_seq).copied().unwrap_or_default();
        check_range(layout, &numbers, segment_bytes, limit_bytes)?;
    }
    match verification {
        Verify::Full => verify(layout, rows, 0..rows.len(), rows.len(), limit_bytes).map(Some),
        Verify::Rows => {
            // The last row decides where the next frame goes, so at least this row must be right.
            let Some(last) = rows.last() else { return Ok(None) };
            let source = open_segment(layout, last.segment_seq, last.byte_length)?;
            let mut buffer = Vec::new();
            let range = check_range(layout, &last, source.len_bytes(), limit_bytes)?;
            check_frame(layout, &last, rows.id(rows.len() - 1), source.bytes(range, &mut buffer)?)?;
            Ok(None)
        }
    }
}

fn plan_rebuild(
    layout: &SessionLayout,
    files: &SegmentFiles,
    replaced: Replaced,
    acknowledged: Acknowledged,
) -> Result<RecoveryPlan, SessionError> {
    let mut plan = RecoveryPlan::new(IndexRows::default(), Some(Verified::default()));
    plan.replaced = Some(replaced);
    plan.take_in(layout, files, acknowledged)?;
    Ok(plan)
}

fn plan_tail(
    layout: &SessionLayout,
    files: &SegmentFiles,
    rows: IndexRows,
    verified: Option<Verified>,
    file: &IndexFile,
    (loss, limit_bytes): (Loss, u64),
) -> Result<RecoveryPlan, SessionError> {
    let acknowledged = rows.last().and_then(|last| Some((last.segment_seq, last.end()?)));
    let mut unindexed = unindexed(layout, files, &rows)?;
    if !unindexed.is_empty() {
        // The index lost rows in the middle. A rebuild that keeps every entry brings them back.
        let replaced = Replaced { rows: Some(rows.clone()), reason: "the index skips frames".to_owned() };
        if let Ok(plan) = plan_rebuild(layout, files, replaced, acknowledged)
            && (0..rows.len()).all(|row| has_entry_of(&plan.rows, &rows, row))
        {
            return Ok(plan);
        }
    }
    let mut plan = RecoveryPlan::new(rows, verified);
    plan.complete_index = !file.is_terminated;
    if loss == Loss::Accept {
        // Between two rows nothing can be cut, because the rows after the cut would move.
        let is_last = |(segment_seq, range): &mut (u64, Range<u64>)| {
            files.len_bytes.get(segment_seq).is_some_and(|len_bytes| range.end == *len_bytes)
        };
        let cuts = unindexed.extract_if(.., is_last);
        plan.cuts.extend(cuts.map(|(segment_seq, range)| PlannedCut {
            segment_seq,
            range,
            reason: "after the last entry, and not an entry of the store".to_owned(),
        }));
    }
    plan.unindexed = unindexed;
    plan.take_in(layout, files, acknowledged)?;
    if plan.first_new < plan.rows.len()
        && let Some(Verified { facts, missing_parent: Some((row, _)) }) = &mut plan.verified
        && *row < plan.first_new
    {
        // The parent may be among the new rows.
        let new = facts.split_off(plan.first_new);
        let mut again = verify(layout, &plan.rows, 0..plan.first_new, plan.rows.len(), limit_bytes)?;
        again.append(resolve_parents(&plan.rows, plan.first_new, new, &plan.late_parents));
        plan.verified = Some(again);
    }
    Ok(plan)
}

/// Returns the ranges before the end of the last row that are in no row and not blank.
pub(super) fn unindexed(
    layout: &SessionLayout,
    files: &SegmentFiles,
    rows: &IndexRows,
) -> Result<Vec<(u64, Range<u64>)>, SessionError> {
    let Some(last) = rows.last() else { return Ok(Vec::new()) };
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    let mut holes = Vec::new();
    let mut current = (u64::MAX, 0);
    for row in 0..rows.len() {
        let numbers = rows.numbers(row);
        if numbers.segment_seq != current.0 {
            current = (numbers.segment_seq, ends.get(&numbers.segment_seq).copied().unwrap_or_default());
        }
        if numbers.byte_offset > current.1 {
            holes.push((numbers.segment_seq, current.1..numbers.byte_offset));
        }
        current.1 = current.1.max(numbers.byte_offset.saturating_add(numbers.byte_length));
        ends.insert(current.0, current.1);
    }
    for (segment_seq, len_bytes) in &files.len_bytes {
        let end = ends.get(segment_seq).copied().unwrap_or_default();
        if *segment_seq < last.segment_seq && end < *len_bytes {
            holes.push((*segment_seq, end..*len_bytes));
        }
    }
    holes.sort_by_key(|(segment_seq, range)| (*segment_seq, range.start));
    let mut unindexed = Vec::new();
    let mut open: Option<(u64, disk::File)> = None;
    for (segment_seq, range) in holes {
        let file = match &mut open {
            Some((open, file)) if *open == segment_seq => file,
            _ => {
                let file = disk::File::open_read_no_follow(&layout.segment_file_path(segment_seq))?;
                &mut open.insert((segment_seq, file)).1
            }
        };
        if !layout::is_blank(file, range.clone())? {
            unindexed.push((segment_seq, range));
        }
    }
    Ok(unindexed)
}

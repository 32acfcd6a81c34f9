//! Bringing index and segments into agreement when a store is opened for writing.
//!
//! May append an LF to a segment, append to or replace the index, cut segments (what is cut is saved first) and rename later
//! segments out of the way. Promises: the whole outcome is decided before the first byte is changed, so a refusal changes
//! nothing; no entry that a readable index has leaves the store unless the caller accepts the loss; a crash at any point
//! leaves a store that recovers to the same outcome; a second recovery changes nothing.
//!
//! The order of changes is what makes the last two hold: missing LFs, then a sync of all segments, then the index, then later
//! segments from the highest number down, then cuts. Until the cut is done, every recovery meets the same damaged line and
//! decides the same.

mod carry_out;
mod plan;

use std::collections::BTreeMap;
use std::ops::Range;

pub(super) use self::carry_out::Recovered;
use self::carry_out::carry_out;
use self::plan::{Acknowledged, Cut, Keep, Plan, has_entry_of, resolve_parents};
use super::error::SessionError;
use super::index::{self, IndexFile, Rows};
use super::integrity::{Verified, check_frame, check_graph, check_order, check_range, open_segment, verify};
use super::layout::{self, Layout, REBUILD_STAGE, SegmentFiles};
use super::options::{Loss, SessionOptions, Verify};
use crate::disk;

/// Recovers a store: decides, refuses or carries out.
pub(super) fn recover(
    layout: &Layout,
    options: &SessionOptions,
    limit_bytes: u64,
) -> Result<Recovered, SessionError> {
    let files = layout.segment_files()?;
    let synced = layout.sync_beside(&files);
    let mut rows = Rows::default();
    let plan = match index::read(&layout.index_file_path(), 0, &mut rows) {
        Ok(_) if rows.is_empty() && files.len_bytes.values().any(|len_bytes| *len_bytes > 0) => {
            plan_rebuild(layout, &files, Some(rows), "the index has no rows".to_owned(), None, Keep::graph())?
        }
        Ok(file) => match check_segments_exist(layout, &files, &rows) {
            Err(error) => plan_without_segments(layout, &files, rows, error, Keep::graph())?,
            Ok(()) => match check_rows(layout, &files, &rows, options.verify, limit_bytes) {
                Ok(verified) => {
                    plan_tail(layout, &files, rows, verified, &file, (options.loss, limit_bytes))?
                }
                Err(error) if error.is_recoverable() => {
                    plan_rebuild(layout, &files, Some(rows), error.to_string(), None, Keep::graph())?
                }
                Err(error) => return Err(error),
            },
        },
        Err(error) if error.is_recoverable() => {
            plan_rebuild(layout, &files, None, error.to_string(), None, Keep::graph())?
        }
        Err(error) => return Err(error),
    };
    if options.loss == Loss::Refuse {
        plan.check_nothing_lost(layout, &files)?;
    }
    if let Keep::Facts(verified) = &plan.keep {
        check_graph(&plan.rows, verified)?;
    }
    carry_out(layout, &files, plan, synced)
}

/// Builds the index again from the segments, whatever it holds and whatever it loses. Ids and parents are not checked.
pub(super) fn rebuild(layout: &Layout) -> Result<Recovered, SessionError> {
    let files = layout.segment_files()?;
    let synced = layout.sync_beside(&files);
    let mut rows = Rows::default();
    let old = match index::read(&layout.index_file_path(), 0, &mut rows) {
        Ok(_) => Some(rows),
        Err(error) if error.is_recoverable() => None,
        Err(error) => return Err(error),
    };
    let plan = match old.map(|old| (check_segments_exist(layout, &files, &old), old)) {
        Some((Err(error), old)) => plan_without_segments(layout, &files, old, error, Keep::Hashes)?,
        Some((Ok(()), old)) => {
            plan_rebuild(layout, &files, Some(old), "asked for".to_owned(), None, Keep::Hashes)?
        }
        None => plan_rebuild(layout, &files, None, "asked for".to_owned(), None, Keep::Hashes)?,
    };
    carry_out(layout, &files, plan, synced)
}

/// Plans for an index that names a segment file which does not exist. It is refused with `missing`, being the only record of
/// what is missing; unless the entries it looks for there are elsewhere, and it is the index that is wrong.
fn plan_without_segments(
    layout: &Layout,
    files: &SegmentFiles,
    rows: Rows,
    missing: SessionError,
    keep: Keep,
) -> Result<Plan, SessionError> {
    let plan = plan_rebuild(layout, files, Some(rows.clone()), missing.to_string(), None, keep);
    let mut sought =
        (0..rows.len()).filter(|row| !files.len_bytes.contains_key(&rows.numbers(*row).segment_seq));
    match plan {
        Ok(plan) if sought.all(|row| has_entry_of(&plan.rows, &rows, row)) => Ok(plan),
        _ => Err(missing),
    }
}

/// Whether every segment file that the index names exists.
fn check_segments_exist(layout: &Layout, files: &SegmentFiles, rows: &Rows) -> Result<(), SessionError> {
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
    layout: &Layout,
    files: &SegmentFiles,
    rows: &Rows,
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
            // The last row decides where the next frame goes: it at least must be right.
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
    layout: &Layout,
    files: &SegmentFiles,
    old: Option<Rows>,
    reason: String,
    acknowledged: Acknowledged,
    keep: Keep,
) -> Result<Plan, SessionError> {
    let mut plan = Plan::new(Rows::default(), keep);
    plan.staged = Some(layout.stage(REBUILD_STAGE)?);
    plan.replaced = Some((old, reason));
    plan.take_in(layout, files, acknowledged)?;
    Ok(plan)
}

fn plan_tail(
    layout: &Layout,
    files: &SegmentFiles,
    rows: Rows,
    verified: Option<Verified>,
    file: &IndexFile,
    (loss, limit_bytes): (Loss, u64),
) -> Result<Plan, SessionError> {
    let acknowledged = rows.last().and_then(|last| Some((last.segment_seq, last.end()?)));
    let mut unindexed = unindexed(layout, files, &rows)?;
    if !unindexed.is_empty() {
        // Rows were lost in the middle: a rebuild that keeps everything brings them back.
        let rebuilt = plan_rebuild(
            layout,
            files,
            Some(rows.clone()),
            "the index skips frames".to_owned(),
            acknowledged,
            Keep::graph(),
        );
        if let Ok(plan) = rebuilt
            && (0..rows.len()).all(|row| has_entry_of(&plan.rows, &rows, row))
        {
            return Ok(plan);
        }
    }
    let mut plan = Plan::new(rows, verified.map_or(Keep::Nothing, Keep::Facts));
    plan.complete_index = !file.terminated;
    if loss == Loss::Accept {
        // Between two rows nothing can be cut.
        let is_last = |(segment_seq, range): &mut (u64, Range<u64>)| {
            files.len_bytes.get(segment_seq).is_some_and(|len_bytes| range.end == *len_bytes)
        };
        let cuts = unindexed.extract_if(.., is_last);
        plan.cuts.extend(cuts.map(|(segment_seq, range)| Cut {
            segment_seq,
            range,
            reason: "behind the last entry, and no entry of the store".to_owned(),
        }));
    }
    plan.unindexed = unindexed;
    plan.take_in(layout, files, acknowledged)?;
    if plan.first_new < plan.rows.len()
        && let Keep::Facts(Verified { facts, missing_parent: Some((row, _)) }) = &mut plan.keep
        && *row < plan.first_new
    {
        // The parent may be among the rows that came in since.
        let new = facts.split_off(plan.first_new);
        let mut again = verify(layout, &plan.rows, 0..plan.first_new, plan.rows.len(), limit_bytes)?;
        again.append(resolve_parents(&plan.rows, plan.first_new, new, &plan.late_parents));
        plan.keep = Keep::Facts(again);
    }
    Ok(plan)
}

/// The bytes in front of the end of the last row that are in no row and not blank.
pub(super) fn unindexed(
    layout: &Layout,
    files: &SegmentFiles,
    rows: &Rows,
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

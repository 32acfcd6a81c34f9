//! Making a store what recovery decided, and reporting it.
//!
//! May append an LF to a segment, append to or replace the index, cut and rename segments, in the order that recovery's own
//! documentation gives and needs. Promises: no row is written before the bytes it certifies are on stable storage.

use super::Recovered;
use super::plan::{Keep, Plan};
use crate::disk;
use crate::session::error::Error;
use crate::session::index::Rows;
use crate::session::layout::{self, Layout, SegmentFiles, SyncedBeside};
use crate::session::report::{ChangedCrc, LostEntry, Quarantined, RecoveryReport, Truncated, Unindexed};

pub(super) fn carry_out(layout: &Layout, files: &SegmentFiles, plan: Plan) -> Result<Recovered, Error> {
    let mut report = RecoveryReport {
        index_rebuilt: plan.staged.is_some(),
        rows_before: Some(plan.first_new as u64),
        rows_after: plan.rows.len() as u64,
        gaps: gaps(&plan.rows),
        ignored: files.ignored.clone(),
        index_completed: plan.complete_index,
        ..RecoveryReport::default()
    };
    let name = |segment_seq| layout.relative(&layout.segment(segment_seq));
    for (segment_seq, range) in plan.unindexed {
        let (offset, length) = (range.start, range.end - range.start);
        report.unindexed.push(Unindexed { file: name(segment_seq), offset, length });
    }
    for segment_seq in plan.heal {
        let (file, _) = disk::File::open_append(&layout.segment(segment_seq))?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        report.healed.push(name(segment_seq));
    }
    match plan.synced_beside.map_or(Ok(false), SyncedBeside::finish)? {
        true => disk::sync_dir(&layout.segments_dir())?,
        false => sync_segments(layout, &plan.rows, plan.first_new)?,
    }
    if let Some((old, reason)) = plan.replaced {
        report.reason = Some(reason);
        report.rows_before = old.as_ref().map(|old| old.len() as u64);
        if let Some(old) = &old {
            compare(old, &plan.rows, &mut report);
        }
    }
    if let Some(staged) = plan.staged {
        staged.rename_over(&layout.index())?;
    } else if plan.complete_index || plan.first_new < plan.rows.len() {
        let mut lines = if plan.complete_index { b"\n".to_vec() } else { Vec::new() };
        plan.rows.write_lines(plan.first_new..plan.rows.len(), |block| {
            lines.extend_from_slice(block);
            Ok(())
        })?;
        let (file, _) = disk::File::open_append(&layout.index())?;
        file.write_all(&lines)?;
        file.sync_data()?;
    }
    for &segment_seq in plan.quarantine.iter().rev() {
        let saved = layout::quarantine(&layout.segment(segment_seq))?;
        let quarantined = Quarantined { file: name(segment_seq), saved_as: layout.relative(&saved) };
        report.quarantined.insert(0, quarantined);
    }
    if !plan.quarantine.is_empty() {
        disk::sync_dir(&layout.segments_dir())?;
    }
    for (segment_seq, range) in plan.cuts {
        let saved = layout.cut(&layout.segment(segment_seq), range.clone())?;
        report.truncated.push(Truncated {
            file: name(segment_seq),
            length: range.start,
            from_length: range.end,
            reason: match saved {
                Some(_) => "no whole entry stands there".to_owned(),
                None => "only white space stands there".to_owned(),
            },
            saved_as: saved.map(|saved| layout.relative(&saved)),
        });
    }
    let payload_hashes = match plan.keep {
        Keep::Facts(verified) => Some(verified.payload_hashes()),
        Keep::Hashes => Some(plan.payload_hashes),
        Keep::Nothing => None,
    };
    Ok(Recovered { rows: plan.rows, payload_hashes, report })
}

/// Makes the segments that rows from `first_new` on are in durable, their names too. Whoever wrote the frames may have been
/// killed in front of the sync, and nothing else would ever ask for it: to the next writer these are rows like all others.
fn sync_segments(layout: &Layout, rows: &Rows, first_new: usize) -> Result<(), Error> {
    let mut synced = None;
    for row in first_new..rows.len() {
        let segment_seq = rows.numbers(row).segment_seq;
        // Rows taken in are in the order of their segments.
        if synced != Some(segment_seq) {
            disk::File::open_to_sync(&layout.segment(segment_seq))?.sync_data()?;
            synced = Some(segment_seq);
        }
    }
    match synced {
        Some(_) => Ok(disk::sync_dir(&layout.segments_dir())?),
        None => Ok(()),
    }
}

/// Reports entries of the old index that changed or went.
fn compare(old: &Rows, new: &Rows, report: &mut RecoveryReport) {
    for row in 0..old.len() {
        let (numbers, entry_id) = (old.numbers(row), old.id(row).to_owned());
        let entry_seq = numbers.entry_seq;
        match new.find_seq(entry_seq) {
            Some(found) if new.numbers(found).crc != numbers.crc => report.changed_crcs.push(ChangedCrc {
                entry_seq,
                entry_id,
                before: numbers.crc.as_str().to_owned(),
                after: new.numbers(found).crc.as_str().to_owned(),
            }),
            Some(found) if new.id(found) == entry_id => {}
            _ => report.lost_entries.push(LostEntry { entry_seq, entry_id }),
        }
    }
}

fn gaps(rows: &Rows) -> Vec<(u64, u64)> {
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

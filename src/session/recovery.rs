//! Bringing index and segments into agreement when a store is opened for writing.
//!
//! May append an LF to a segment, append to or replace the index, cut segments (what is cut is saved first) and rename later
//! segments out of the way. Promises: the whole outcome is decided before the first byte is changed, so a refusal changes
//! nothing; a good frame is never cut; a crash at any point leaves a store that recovers to the same outcome; a second
//! recovery changes nothing.
//!
//! The order of changes is what makes the last two hold: missing LFs, then the index, then later segments from the highest
//! number down, then cuts. Until the cut is done, every recovery meets the same damaged line and decides the same.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::ops::Range;

use super::error::{Error, FramePlace};
use super::frame::Chain;
use super::index::{self, CrcText, IndexFile, RowNumbers, Rows, place_of};
use super::integrity::{
    Facts, Parent, Verified, check_frame, check_graph, check_order, check_range, open_segment, resolve,
    verify,
};
use super::layout::{self, Layout, REBUILD_STAGE, SegmentFiles, Staged};
use super::report::{ChangedCrc, LostEntry, Quarantined, RecoveryReport, Truncated, Unindexed};
use super::segment::{self, BadLine, Batch, Batches, Content, Line, Scanned, ScannedFrame};
use crate::disk;
use crate::scan::Source;

/// How much an opening writer verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Every frame: bytes, numbers, payload hash; ids and parents. Costs one pass over the segments.
    #[default]
    Full,
    /// Index rows against each other and against the lengths of the segments; frames only where the index does not reach.
    /// What is read later is verified then.
    Rows,
}

/// What a recovered store is.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) rows: Rows,
    /// The chain over all rows; none with [`Verify::Rows`].
    pub(super) chain: Option<Chain>,
    pub(super) report: RecoveryReport,
}

/// The outcome of recovery, decided but not carried out.
struct Plan {
    rows: Rows,
    verified: Option<Verified>,
    /// Rows from here on are new.
    first_new: usize,
    /// The new index, written but neither synced nor in place.
    staged: Option<Staged>,
    /// The chain over all rows, when all facts are known.
    chain: Option<Chain>,
    /// The index's last line lacks its LF.
    complete_index: bool,
    heal: Vec<u64>,
    cuts: Vec<(u64, Range<u64>)>,
    quarantine: Vec<u64>,
    unindexed: Vec<(u64, Range<u64>)>,
    /// New rows whose parents did not stand before them.
    late_parents: Vec<(usize, String)>,
    /// The rows of the index that is replaced, where it could be read, and why it is.
    replaced: Option<(Option<Rows>, String)>,
}

/// The segment and byte where the last row ends: what stands behind was never acknowledged, unless the index lost rows. None
/// when nothing is known of what was acknowledged.
type Acknowledged = Option<(u64, u64)>;

/// Recovers a store: decides, refuses or carries out.
pub(super) fn recover(layout: &Layout, verification: Verify, limit_bytes: u64) -> Result<Recovered, Error> {
    let files = layout.segment_files()?;
    let mut rows = Rows::default();
    let plan = match index::read(&layout.index(), 0, &mut rows) {
        Ok(_) if rows.is_empty() && files.len_bytes.values().any(|len_bytes| *len_bytes > 0) => {
            plan_rebuild(layout, &files, Some(rows), "the index has no rows".to_owned(), None)?
        }
        Ok(file) => match check_segments_exist(layout, &files, &rows) {
            Err(error) => plan_without_segments(layout, &files, rows, error)?,
            Ok(()) => match check_rows(layout, &files, &rows, verification, limit_bytes) {
                Ok(verified) => plan_tail(layout, &files, rows, verified, &file, limit_bytes)?,
                Err(error) if error.is_recoverable() => {
                    plan_rebuild(layout, &files, Some(rows), error.to_string(), None)?
                }
                Err(error) => return Err(error),
            },
        },
        Err(error) if error.is_recoverable() => plan_rebuild(layout, &files, None, error.to_string(), None)?,
        Err(error) => return Err(error),
    };
    if let Some(verified) = &plan.verified {
        check_graph(&plan.rows, verified)?;
    }
    carry_out(layout, &files, plan)
}

/// Builds the index again from the segments, whatever it holds. Ids and parents are not checked.
pub(super) fn rebuild(layout: &Layout) -> Result<Recovered, Error> {
    let files = layout.segment_files()?;
    let mut rows = Rows::default();
    let old = match index::read(&layout.index(), 0, &mut rows) {
        Ok(_) => Some(rows),
        Err(error) if error.is_recoverable() => None,
        Err(error) => return Err(error),
    };
    let plan = match old.map(|old| (check_segments_exist(layout, &files, &old), old)) {
        Some((Err(error), old)) => plan_without_segments(layout, &files, old, error)?,
        Some((Ok(()), old)) => plan_rebuild(layout, &files, Some(old), "asked for".to_owned(), None)?,
        None => plan_rebuild(layout, &files, None, "asked for".to_owned(), None)?,
    };
    carry_out(layout, &files, plan)
}

/// Plans for an index that names a segment file which does not exist. It is refused with `missing`, being the only record of
/// what is missing; unless the entries it looks for there are elsewhere, and it is the index that is wrong.
fn plan_without_segments(
    layout: &Layout,
    files: &SegmentFiles,
    rows: Rows,
    missing: Error,
) -> Result<Plan, Error> {
    let plan = plan_rebuild(layout, files, Some(rows.clone()), missing.to_string(), None);
    let sought = (0..rows.len()).filter(|row| !files.len_bytes.contains_key(&rows.numbers(*row).segment_seq));
    match plan {
        Ok(plan) if plan.has_entries_of(&rows, sought) => Ok(plan),
        _ => Err(missing),
    }
}

/// Whether every segment file that the index names exists.
fn check_segments_exist(layout: &Layout, files: &SegmentFiles, rows: &Rows) -> Result<(), Error> {
    let missing = |segment_seq: u64| !files.len_bytes.contains_key(&segment_seq);
    if let Some(last) = rows.last().filter(|last| missing(last.segment_seq)) {
        let (path, index) = (layout.segment(last.segment_seq), layout.index());
        return Err(Error::ActiveSegmentMissing { path, entry_seq: last.entry_seq, index });
    }
    let mut known = None;
    for row in 0..rows.len() {
        let numbers = rows.numbers(row);
        if known == Some(numbers.segment_seq) {
            continue;
        }
        if missing(numbers.segment_seq) {
            let (path, index) = (layout.segment(numbers.segment_seq), layout.index());
            return Err(Error::IndexMissingFrame { path, entry_seq: numbers.entry_seq, index });
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
) -> Result<Option<Verified>, Error> {
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
) -> Result<Plan, Error> {
    let mut plan = Plan::new(Rows::default(), Some(Verified::default()));
    plan.staged = Some(layout.stage(REBUILD_STAGE)?);
    plan.chain = Some(Chain::GENESIS);
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
    limit_bytes: u64,
) -> Result<Plan, Error> {
    let acknowledged = rows.last().and_then(|last| Some((last.segment_seq, last.end()?)));
    let unindexed = unindexed(layout, files, &rows)?;
    if !unindexed.is_empty() {
        // Rows were lost in the middle: a rebuild that keeps everything brings them back.
        let rebuilt = plan_rebuild(
            layout,
            files,
            Some(rows.clone()),
            "the index skips frames".to_owned(),
            acknowledged,
        );
        if let Ok(plan) = rebuilt
            && plan.has_entries_of(&rows, 0..rows.len())
        {
            return Ok(plan);
        }
    }
    let mut plan = Plan::new(rows, verified);
    plan.complete_index = !file.terminated;
    plan.unindexed = unindexed;
    plan.take_in(layout, files, acknowledged)?;
    if plan.first_new < plan.rows.len()
        && let Some(Verified { facts, missing_parent: Some((row, _)) }) = &mut plan.verified
        && *row < plan.first_new
    {
        // The parent may be among the rows that came in since.
        let new = facts.split_off(plan.first_new);
        let mut again = verify(layout, &plan.rows, 0..plan.first_new, plan.rows.len(), limit_bytes)?;
        again.append(resolve_parents(&plan.rows, plan.first_new, new, &plan.late_parents));
        plan.verified = Some(again);
    }
    Ok(plan)
}

/// The bytes in front of the end of the last row that are in no row and not blank.
pub(super) fn unindexed(
    layout: &Layout,
    files: &SegmentFiles,
    rows: &Rows,
) -> Result<Vec<(u64, Range<u64>)>, Error> {
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
    let mut unindexed = Vec::new();
    for (segment_seq, range) in holes {
        let file = disk::File::open_read_no_follow(&layout.segment(segment_seq))?;
        if !layout::is_blank(&file, range.clone())? {
            unindexed.push((segment_seq, range));
        }
    }
    unindexed.sort_by_key(|(segment_seq, range)| (*segment_seq, range.start));
    Ok(unindexed)
}

/// Where the next line is expected.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    segment_seq: u64,
    frame_seq: u64,
    entry_seq: u64,
    /// The first byte behind the last frame.
    end: u64,
}

impl Cursor {
    fn continues(&self, frame: &ScannedFrame) -> bool {
        frame.segment_seq == self.segment_seq
            && self.frame_seq.checked_add(1) == Some(frame.frame_seq)
            && frame.entry_seq > self.entry_seq
    }
}

impl Plan {
    fn new(rows: Rows, verified: Option<Verified>) -> Self {
        Self {
            first_new: rows.len(),
            rows,
            verified,
            staged: None,
            chain: None,
            complete_index: false,
            heal: Vec::new(),
            cuts: Vec::new(),
            quarantine: Vec::new(),
            unindexed: Vec::new(),
            late_parents: Vec::new(),
            replaced: None,
        }
    }

    /// Whether every entry that `rows` name is in the plan, found by sequence or, where a row is altered, by id.
    fn has_entries_of(&self, rows: &Rows, mut named: impl Iterator<Item = usize>) -> bool {
        named.all(|row| {
            self.rows.find_seq(rows.numbers(row).entry_seq).is_some()
                || self.rows.find_id(rows.id(row)).is_some()
        })
    }

    /// Takes in what stands behind the last row: frames as rows, everything else as something to refuse or to cut.
    fn take_in(
        &mut self,
        layout: &Layout,
        files: &SegmentFiles,
        acknowledged: Acknowledged,
    ) -> Result<(), Error> {
        let last = self.rows.last();
        let first_segment = last.map_or(0, |last| last.segment_seq);
        let mut cursor = Cursor {
            segment_seq: first_segment,
            frame_seq: last.map_or(0, |last| last.frame_seq),
            entry_seq: last.map_or(0, |last| last.entry_seq),
            end: last.and_then(|last| last.end()).unwrap_or(0),
        };
        let start_row = self.rows.len();
        let mut facts: Vec<Facts> = Vec::new();
        let mut blank_behind = Vec::new();
        let mut batches = Batches::new(layout, files, first_segment, cursor.end, self.rows.hasher());
        let mut current = batches.next()?;
        while let Some(batch) = current.take() {
            if batch.segment_seq != cursor.segment_seq {
                cursor = Cursor { segment_seq: batch.segment_seq, frame_seq: 0, end: 0, ..cursor };
            }
            let mut next = Ok(None);
            // This thread takes in one batch, and writes it, while the others scan the next.
            let stop = rayon::in_place_scope(|scope| {
                scope.spawn(|_| next = batches.next());
                self.take_batch(&batch, &mut cursor, &mut facts)
            })?;
            if let Some((chunk, line)) = stop {
                let line = &batch.scanned[chunk].lines[line];
                self.judge(layout, files, acknowledged, &batch.source, line, &cursor)?;
                // Blanks in front of the line go with it.
                self.cuts.push((batch.segment_seq, cursor.end..batch.source.len_bytes()));
                let later = files.len_bytes.range(batch.segment_seq + 1..);
                self.quarantine.extend(later.filter(|(_, len)| **len > 0).map(|(seq, _)| *seq));
                break;
            }
            if batch.is_last && cursor.end < batch.source.len_bytes() {
                blank_behind.push((batch.segment_seq, cursor.end..batch.source.len_bytes()));
            }
            current = next?;
        }
        // Blanks behind the last frame would stand in the way of the next one.
        let active = self.rows.last().map_or(0, |last| last.segment_seq);
        self.cuts.extend(blank_behind.into_iter().filter(|(segment_seq, _)| *segment_seq >= active));
        self.cuts.sort_by_key(|(segment_seq, _)| *segment_seq);
        if let Some(verified) = &mut self.verified {
            verified.append(resolve_parents(&self.rows, start_row, facts, &self.late_parents));
        }
        Ok(())
    }

    /// Takes the frames of a batch until a line that cannot be a row; answers which (chunk, line). What is taken goes into
    /// the staged index.
    fn take_batch(
        &mut self,
        batch: &Batch,
        cursor: &mut Cursor,
        facts: &mut Vec<Facts>,
    ) -> Result<Option<(usize, usize)>, Error> {
        let mut lines = Vec::new();
        for (chunk_number, chunk) in batch.scanned.iter().enumerate() {
            let first_row = self.rows.len();
            let stop = self.take_chunk(chunk, cursor, facts);
            if let Some(staged) = &self.staged {
                lines.clear();
                (first_row..self.rows.len()).for_each(|row| self.rows.write_line(row, &mut lines));
                staged.file.write_all(&lines)?;
            }
            if let Some(line_number) = stop {
                return Ok(Some((chunk_number, line_number)));
            }
        }
        Ok(None)
    }

    fn take_chunk(&mut self, chunk: &Scanned, cursor: &mut Cursor, facts: &mut Vec<Facts>) -> Option<usize> {
        for (line_number, line) in chunk.lines.iter().enumerate() {
            let Content::Frame(frame) = &line.content else { return Some(line_number) };
            let Some(payload_sha256) = frame.payload_sha256.filter(|_| cursor.continues(frame)) else {
                return Some(line_number);
            };
            let (mut crc, mut byte_length) = (frame.crc, line.len_bytes);
            if !line.terminated {
                self.heal.push(cursor.segment_seq);
                crc = crc32c::crc32c_append(crc, b"\n");
                byte_length += 1;
            }
            let row = self.rows.len();
            let parent = match chunk.parent(frame) {
                // Mostly the entry just before.
                Some(id) if row > 0 && self.rows.id(row - 1) == id => Parent::Row(row as u32 - 1),
                parent => resolve(&self.rows, row, parent),
            };
            if let (Parent::Missing, Some(id)) = (parent, chunk.parent(frame)) {
                self.late_parents.push((row, id.to_owned()));
            }
            let numbers = RowNumbers {
                entry_seq: frame.entry_seq,
                segment_seq: frame.segment_seq,
                frame_seq: frame.frame_seq,
                byte_offset: line.offset,
                byte_length,
                crc: CrcText::of(crc),
            };
            self.rows.push_hashed(numbers, chunk.id(frame), frame.id_hash);
            self.chain = self.chain.map(|chain| chain.link(&payload_sha256));
            facts.push(Facts { payload_sha256, parent, kind: frame.kind });
            cursor.frame_seq = frame.frame_seq;
            cursor.entry_seq = frame.entry_seq;
            cursor.end = line.offset + byte_length;
        }
        None
    }

    /// Refuses when cutting at this line would destroy more than a torn tail.
    fn judge(
        &self,
        layout: &Layout,
        files: &SegmentFiles,
        acknowledged: Acknowledged,
        source: &Source,
        line: &Line,
        cursor: &Cursor,
    ) -> Result<(), Error> {
        let good_behind = || good_frame_behind(layout, files, line, cursor);
        let is_tail = acknowledged.is_some_and(|end| (cursor.segment_seq, line.offset) >= end);
        let place = || place_of(source, line.offset);
        let (reason, has_nul) = match &line.content {
            Content::Bad { reason, has_nul } => (reason, *has_nul),
            Content::Frame(frame) => {
                // A frame that does not continue the numbering is cut, after it was saved, in either mode.
                if !cursor.continues(frame) || (is_tail && !good_behind()?) {
                    return Ok(());
                }
                return Err(Error::PayloadIntegrityMismatch {
                    place: FramePlace {
                        path: source.path().to_owned(),
                        entry_seq: frame.entry_seq,
                        offset: line.offset,
                        len_bytes: line.len_bytes,
                    },
                    reason: segment::payload_fault(source, line)?,
                });
            }
        };
        let torn = !line.terminated
            // Lost sectors read as zeros, which no JSON text contains.
            || if is_tail { has_nul || !good_behind()? } else { has_nul && !good_behind()? };
        match reason {
            BadLine::Schema(found) => Err(Error::UnsupportedSchema { place: place(), found: found.clone() }),
            _ if torn => Ok(()),
            BadLine::Json(reason) => {
                Err(Error::SegmentFrameCorrupt { place: place(), reason: reason.clone() })
            }
            BadLine::NotText => {
                Err(Error::SegmentLineUnreadable { place: place(), reason: "is not UTF-8".to_owned() })
            }
            BadLine::TooLong => Err(Error::SegmentLineUnreadable {
                place: place(),
                reason: format!("is longer than {} bytes", super::MAX_LINE_BYTES),
            }),
        }
    }
}

/// Whether a sound frame that would continue the store stands behind `line`, in its segment or in a later one.
fn good_frame_behind(
    layout: &Layout,
    files: &SegmentFiles,
    line: &Line,
    cursor: &Cursor,
) -> Result<bool, Error> {
    let behind = line.offset + line.len_bytes;
    let mut batches = Batches::new(layout, files, cursor.segment_seq, behind, RandomState::new());
    while let Some(batch) = batches.next()? {
        let floor = if batch.segment_seq == cursor.segment_seq { cursor.frame_seq } else { 0 };
        let good = |line: &Line| match &line.content {
            Content::Frame(frame) => {
                frame.segment_seq == batch.segment_seq
                    && frame.frame_seq > floor
                    && frame.entry_seq > cursor.entry_seq
                    && frame.payload_sha256.is_some()
            }
            Content::Bad { .. } => false,
        };
        if batch.scanned.iter().flat_map(|chunk| &chunk.lines).any(good) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The facts with the parents that come after their children: only now are all rows known.
fn resolve_parents(
    rows: &Rows,
    start_row: usize,
    mut facts: Vec<Facts>,
    late_parents: &[(usize, String)],
) -> Verified {
    let mut missing_parent = None;
    for (row, id) in late_parents {
        let parent = resolve(rows, rows.len(), Some(id));
        facts[row - start_row].parent = parent;
        if parent == Parent::Missing {
            missing_parent.get_or_insert_with(|| (*row, id.clone()));
        }
    }
    Verified { facts, missing_parent }
}

fn carry_out(layout: &Layout, files: &SegmentFiles, plan: Plan) -> Result<Recovered, Error> {
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
        report.unindexed.push(Unindexed { file: name(segment_seq), range });
    }
    for segment_seq in plan.heal {
        let (file, _) = disk::File::open_append(&layout.segment(segment_seq))?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        report.healed.push(name(segment_seq));
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
            saved_as: saved.map(|saved| layout.relative(&saved)),
        });
    }
    let chain = plan.chain.or_else(|| plan.verified.map(|verified| verified.chain_from(Chain::GENESIS)));
    Ok(Recovered { rows: plan.rows, chain, report })
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

//! What recovery would make of a store: which lines become rows, and what happens at the first line that cannot.
//!
//! Touches: reads segments.
//!
//! Guarantees: whether a line is refused, cut or indexed depends only on its bytes and its place; docs/session-store.md has the
//! table.

use std::ops::{Bound, ControlFlow, Range};
use std::path::Path;

use crate::scan::Source;
use crate::session::error::{FramePlace, SessionError};
use crate::session::format::MAX_LINE_BYTES;
use crate::session::frame::NotAFrame;
use crate::session::index::{CrcText, IndexRows, RowNumbers, place_of};
use crate::session::integrity::{Facts, Parent, Verified, resolve};
use crate::session::layout::{SegmentFiles, SessionLayout};
use crate::session::segment::{self, BadLines, Content, Scan, Scanned, ScannedFrame, SegmentLine};

/// The outcome of recovery, decided but not carried out.
pub(super) struct RecoveryPlan {
    pub(super) rows: IndexRows,
    /// The facts of all rows, or `None` when the frames of the old rows were not read.
    pub(super) verified: Option<Verified>,
    /// Rows from here on are new.
    pub(super) first_new: usize,
    /// Whether the last line of the index lacks its LF.
    pub(super) complete_index: bool,
    /// Segments whose last line gets its LF.
    pub(super) heal: Vec<u64>,
    pub(super) cuts: Vec<PlannedCut>,
    stop: Option<Stop>,
    /// Segments that are renamed away.
    pub(super) set_aside: Vec<u64>,
    /// Ranges that are in no row and are left alone.
    pub(super) unindexed: Vec<(u64, Range<u64>)>,
    /// New rows whose parents were not among the rows before them, with the ids of the parents.
    pub(super) late_parents: Vec<(usize, String)>,
    pub(super) replaced: Option<Replaced>,
}

/// The index that a new one replaces.
pub(super) struct Replaced {
    /// `None` when the index cannot be read.
    pub(super) rows: Option<IndexRows>,
    /// Why it is replaced.
    pub(super) reason: String,
}

/// A range that is saved beside its segment and cut off.
pub(super) struct PlannedCut {
    pub(super) segment_seq: u64,
    pub(super) range: Range<u64>,
    /// Reported unless the range is blank.
    pub(super) reason: String,
}

/// The first line that does not become a row: it leaves the store with everything after it.
struct Stop {
    segment_seq: u64,
    offset: u64,
    reason: String,
}

/// The segment and byte where the last row ends, or `None` when the index does not tell. Bytes after it were never
/// acknowledged, unless the index lost rows.
pub(super) type Acknowledged = Option<(u64, u64)>;

/// Where the next line is expected.
#[derive(Debug, Clone, Copy)]
struct FrameCursor {
    segment_seq: u64,
    frame_seq: u64,
    entry_seq: u64,
    /// The first byte after the last frame.
    end: u64,
}

impl FrameCursor {
    fn continues(&self, frame: &ScannedFrame) -> bool {
        frame.segment_seq == self.segment_seq
            && self.frame_seq.checked_add(1) == Some(frame.frame_seq)
            && frame.entry_seq > self.entry_seq
    }

    /// Describes how a frame does not continue the numbering.
    fn contradiction(&self, frame: &ScannedFrame) -> String {
        let next_frame_seq = self.frame_seq.saturating_add(1);
        if frame.segment_seq != self.segment_seq {
            format!("segmentSeq is {} in segment {}", frame.segment_seq, self.segment_seq)
        } else if frame.frame_seq != next_frame_seq {
            format!("frameSeq is {}, {next_frame_seq} was expected", frame.frame_seq)
        } else {
            format!("entrySeq is {} after {}", frame.entry_seq, self.entry_seq)
        }
    }
}

impl RecoveryPlan {
    pub(super) fn new(rows: IndexRows, verified: Option<Verified>) -> Self {
        Self {
            first_new: rows.len(),
            rows,
            verified,
            complete_index: false,
            heal: Vec::new(),
            cuts: Vec::new(),
            stop: None,
            set_aside: Vec::new(),
            unindexed: Vec::new(),
            late_parents: Vec::new(),
            replaced: None,
        }
    }

    /// Plans for the bytes after the last row: frames become rows, anything else is refused or cut.
    pub(super) fn take_in(
        &mut self,
        layout: &SessionLayout,
        files: &SegmentFiles,
        acknowledged: Acknowledged,
    ) -> Result<(), SessionError> {
        let last = self.rows.last();
        let first_segment = last.map_or(0, |last| last.segment_seq);
        let mut cursor = FrameCursor {
            segment_seq: first_segment,
            frame_seq: last.map_or(0, |last| last.frame_seq),
            entry_seq: last.map_or(0, |last| last.entry_seq),
            end: last.and_then(|last| last.end()).unwrap_or(0),
        };
        let start_row = self.rows.len();
        let mut facts: Vec<Facts> = Vec::new();
        let mut blank_ends = Vec::new();
        let mut stop = None;
        let index = layout.index_file_path();
        let scan = Scan { layout, files, first: (first_segment, cursor.end), bad_lines: BadLines::EndChunk };
        scan.run(|chunk| {
            let Some(source) = chunk.source.clone() else { return Ok(ControlFlow::Continue(())) };
            if chunk.segment_seq != cursor.segment_seq {
                cursor = FrameCursor { segment_seq: chunk.segment_seq, frame_seq: 0, end: 0, ..cursor };
            }
            if let Some(line) = self.take_lines(chunk, &index, &mut cursor, &mut facts)? {
                stop = Some((source, chunk.lines.swap_remove(line)));
                return Ok(ControlFlow::Break(()));
            }
            if chunk.is_last && cursor.end < source.len_bytes() {
                let range = cursor.end..source.len_bytes();
                blank_ends.push(PlannedCut { segment_seq: chunk.segment_seq, range, reason: String::new() });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some((source, line)) = stop {
            let reason = self.check_cut(layout, files, acknowledged, &source, &line, &cursor)?;
            let segment_seq = cursor.segment_seq;
            // Blanks before the line go with it.
            let range = cursor.end..source.len_bytes();
            self.cuts.push(PlannedCut { segment_seq, range, reason: reason.clone() });
            self.stop = Some(Stop { segment_seq, offset: line.offset, reason });
            let later = files.len_bytes.range((Bound::Excluded(segment_seq), Bound::Unbounded));
            self.set_aside.extend(later.filter(|(_, len)| **len > 0).map(|(seq, _)| *seq));
        }
        // The next frame must follow the last one directly, so blanks after the last frame are cut.
        let active = self.rows.last().map_or(0, |last| last.segment_seq);
        self.cuts.extend(blank_ends.into_iter().filter(|cut| cut.segment_seq >= active));
        self.cuts.sort_by_key(|cut| cut.segment_seq);
        if let Some(verified) = &mut self.verified {
            verified.append(resolve_parents(&self.rows, start_row, facts, &self.late_parents));
        }
        Ok(())
    }

    /// Adds the frames of a chunk as rows. Returns the first line that cannot be a row.
    fn take_lines(
        &mut self,
        chunk: &Scanned,
        index: &Path,
        cursor: &mut FrameCursor,
        facts: &mut Vec<Facts>,
    ) -> Result<Option<usize>, SessionError> {
        self.rows.check_room(index, chunk.lines.len())?;
        for (line_number, line) in chunk.lines.iter().enumerate() {
            let Content::Frame(frame) = &line.content else { return Ok(Some(line_number)) };
            let Some(payload_sha256) = frame.payload_sha256.filter(|_| cursor.continues(frame)) else {
                return Ok(Some(line_number));
            };
            let (mut crc, mut byte_length) = (frame.crc, line.len_bytes);
            if !line.is_terminated {
                self.heal.push(cursor.segment_seq);
                crc = crc32c::crc32c_append(crc, b"\n");
                byte_length += 1;
            }
            let numbers = RowNumbers {
                entry_seq: frame.entry_seq,
                segment_seq: frame.segment_seq,
                frame_seq: frame.frame_seq,
                byte_offset: line.offset,
                byte_length,
                crc: CrcText::of(crc),
            };
            if self.verified.is_some() {
                facts.push(Facts { payload_sha256, parent: self.parent_of(chunk, frame), kind: frame.kind });
            }
            self.rows.push(numbers, chunk.id(frame));
            cursor.frame_seq = frame.frame_seq;
            cursor.entry_seq = frame.entry_seq;
            cursor.end = line.offset + byte_length;
        }
        Ok(None)
    }

    /// Returns the parent of the frame that becomes the next row.
    fn parent_of(&mut self, chunk: &Scanned, frame: &ScannedFrame) -> Parent {
        let Some(id) = chunk.parent(frame) else { return Parent::None };
        let row = self.rows.len();
        if row > 0 && self.rows.id(row - 1) == id {
            return Parent::Row(row as u32 - 1);
        }
        let parent = resolve(&self.rows, row, Some(id));
        if parent == Parent::Missing {
            self.late_parents.push((row, id.to_owned()));
        }
        parent
    }

    /// Returns why the store is cut at this line, or refuses because the cut would destroy more than a torn tail.
    fn check_cut(
        &self,
        layout: &SessionLayout,
        files: &SegmentFiles,
        acknowledged: Acknowledged,
        source: &Source,
        line: &SegmentLine,
        cursor: &FrameCursor,
    ) -> Result<String, SessionError> {
        const UNFINISHED: &str = "an unfinished write";
        let good_frame_follows = || good_frame_follows(layout, files, line, cursor);
        let is_tail = acknowledged.is_some_and(|end| (cursor.segment_seq, line.offset) >= end);
        let place = || place_of(source, line.offset);
        let (reason, has_nul) = match &line.content {
            Content::Bad { reason, has_nul } => (reason, *has_nul),
            // Saved and cut, whether the line was acknowledged or not.
            Content::Frame(frame) if !cursor.continues(frame) => return Ok(cursor.contradiction(frame)),
            Content::Frame(_) if is_tail && !good_frame_follows()? => return Ok(UNFINISHED.to_owned()),
            Content::Frame(frame) => {
                let place = FramePlace {
                    path: source.path().to_owned(),
                    entry_seq: frame.entry_seq,
                    offset: line.offset,
                    len_bytes: line.len_bytes,
                };
                let reason = segment::payload_fault(source, line)?;
                return Err(SessionError::PayloadIntegrityMismatch { place, reason });
            }
        };
        // Lost sectors read as zeros, which no JSON text contains.
        let is_torn = !line.is_terminated
            || if is_tail { has_nul || !good_frame_follows()? } else { has_nul && !good_frame_follows()? };
        match reason {
            NotAFrame::Schema(found) if self.is_altered(source, line, cursor)? => {
                let reason = format!("its schema is {found:?}, and its CRC-32C is not that of its index row");
                Err(SessionError::SegmentFrameCorrupt { place: place(), reason })
            }
            NotAFrame::Schema(found) => {
                Err(SessionError::UnsupportedSchema { place: place(), found: found.clone() })
            }
            _ if is_torn => Ok(UNFINISHED.to_owned()),
            NotAFrame::Json(reason) => {
                Err(SessionError::SegmentFrameCorrupt { place: place(), reason: reason.clone() })
            }
            NotAFrame::NotText => {
                Err(SessionError::SegmentLineUnreadable { place: place(), reason: "is not UTF-8".to_owned() })
            }
            NotAFrame::TooLong => Err(SessionError::SegmentLineUnreadable {
                place: place(),
                reason: format!("is longer than {MAX_LINE_BYTES} bytes"),
            }),
        }
    }

    /// Whether the index that is replaced has a row for a line whose CRC differs from the line's.
    fn is_altered(
        &self,
        source: &Source,
        line: &SegmentLine,
        cursor: &FrameCursor,
    ) -> Result<bool, SessionError> {
        let Some(Replaced { rows: Some(old), .. }) = &self.replaced else { return Ok(false) };
        let is_of_line = |row: &usize| {
            let numbers = old.numbers(*row);
            (numbers.segment_seq, numbers.byte_offset) == (cursor.segment_seq, line.offset)
        };
        // The old rows may be in any order.
        let Some(row) = (0..old.len()).find(is_of_line) else { return Ok(false) };
        let mut buffer = Vec::new();
        let bytes = source.bytes(line.offset..line.offset + line.len_bytes, &mut buffer)?;
        Ok(CrcText::of(crc32c::crc32c(bytes)) != old.numbers(row).crc)
    }

    /// Refuses a new index that lacks entries of the old one or, where the old one could not be read or has no rows, that
    /// leaves out sound frames.
    pub(super) fn check_nothing_lost(
        &self,
        layout: &SessionLayout,
        files: &SegmentFiles,
    ) -> Result<(), SessionError> {
        let Some(Replaced { rows: old, .. }) = &self.replaced else { return Ok(()) };
        let count = match (old, &self.stop) {
            (Some(old), _) if !old.is_empty() => {
                (0..old.len()).filter(|row| !has_entry_of(&self.rows, old, *row)).count() as u64
            }
            (_, Some(stop)) => count_sound_frames(layout, files, stop)?,
            (_, None) => 0,
        };
        let (path, offset, reason) = match &self.stop {
            _ if count == 0 => return Ok(()),
            Some(stop) => (layout.segment_file_path(stop.segment_seq), stop.offset, stop.reason.clone()),
            None => (layout.index_file_path(), 0, "the segments lack entries of the index".to_owned()),
        };
        Err(SessionError::EntriesWouldBeLost { path, offset, count, reason })
    }
}

/// Whether `new` has the entry of a row of `old`: under its sequence and id or, because a row may be altered, as the very bytes
/// that the row certifies.
pub(super) fn has_entry_of(new: &IndexRows, old: &IndexRows, row: usize) -> bool {
    let numbers = old.numbers(row);
    let is_same_entry = new.find_seq(numbers.entry_seq).is_some_and(|found| new.id(found) == old.id(row));
    let has_same_bytes = |found| {
        let found = new.numbers(found);
        (found.byte_length, found.crc) == (numbers.byte_length, numbers.crc)
    };
    is_same_entry || new.find_place(numbers.segment_seq, numbers.byte_offset).is_some_and(has_same_bytes)
}

/// Counts the sound frames from `stop` on, whatever their numbers.
fn count_sound_frames(
    layout: &SessionLayout,
    files: &SegmentFiles,
    stop: &Stop,
) -> Result<u64, SessionError> {
    let first = (stop.segment_seq, stop.offset);
    let scan = Scan { layout, files, first, bad_lines: BadLines::Skip };
    let is_sound = |line: &&SegmentLine| matches!(&line.content, Content::Frame(frame) if frame.payload_sha256.is_some());
    let mut count = 0;
    scan.run(|chunk| {
        count += chunk.lines.iter().filter(is_sound).count() as u64;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// Whether a sound frame that would continue the store follows `line`, in its segment or in a later one.
fn good_frame_follows(
    layout: &SessionLayout,
    files: &SegmentFiles,
    line: &SegmentLine,
    cursor: &FrameCursor,
) -> Result<bool, SessionError> {
    let first = (cursor.segment_seq, line.offset + line.len_bytes);
    let scan = Scan { layout, files, first, bad_lines: BadLines::Skip };
    let mut found = false;
    scan.run(|chunk| {
        let floor = if chunk.segment_seq == cursor.segment_seq { cursor.frame_seq } else { 0 };
        found = chunk.lines.iter().any(|line| match &line.content {
            Content::Frame(frame) => {
                frame.segment_seq == chunk.segment_seq
                    && frame.frame_seq > floor
                    && frame.entry_seq > cursor.entry_seq
                    && frame.payload_sha256.is_some()
            }
            Content::Bad { .. } => false,
        });
        Ok(if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(found)
}

/// Completes the facts with the parents that follow their children, because only now all rows are known.
pub(super) fn resolve_parents(
    rows: &IndexRows,
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

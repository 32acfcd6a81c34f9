//! What recovery would make of a store: taking in lines, and judging the first that cannot be a row.
//!
//! May read segments and write the staged index; changes nothing else. Promises: a line is refused, cut or taken in by its
//! bytes and its place alone; docs/session-store.md has the table.

use std::hash::RandomState;
use std::ops::{Bound, ControlFlow, Range};
use std::path::Path;

use crate::scan::Source;
use crate::session::error::{FramePlace, SessionError};
use crate::session::format::MAX_LINE_BYTES;
use crate::session::index::{CrcText, RowNumbers, Rows, place_of};
use crate::session::integrity::{Facts, Parent, Verified, resolve};
use crate::session::layout::{Layout, SegmentFiles, Staged};
use crate::session::segment::{self, BadLine, BadLines, Content, Line, Scan, Scanned, ScannedFrame};

/// What is kept of frames besides their rows.
pub(super) enum Keep {
    /// Nothing: earlier rows were not read either.
    Nothing,
    /// EntryPayload hashes.
    Hashes,
    /// Everything that checking parents needs, for all rows.
    Facts(Verified),
}

impl Keep {
    /// Facts, from the first row on.
    pub(super) fn graph() -> Self {
        Self::Facts(Verified::default())
    }
}

/// The outcome of recovery, decided but not carried out.
pub(super) struct Plan {
    pub(super) rows: Rows,
    pub(super) keep: Keep,
    /// With [`Keep::Hashes`], those of all rows.
    pub(super) payload_hashes: Vec<[u8; 32]>,
    /// Rows from here on are new.
    pub(super) first_new: usize,
    /// The new index, written but neither synced nor in place.
    pub(super) staged: Option<Staged>,
    /// The index's last line lacks its LF.
    pub(super) complete_index: bool,
    pub(super) heal: Vec<u64>,
    pub(super) cuts: Vec<Cut>,
    /// The first line that is not taken in, if there is one.
    stop: Option<Stop>,
    pub(super) quarantine: Vec<u64>,
    pub(super) unindexed: Vec<(u64, Range<u64>)>,
    /// New rows whose parents did not stand before them.
    pub(super) late_parents: Vec<(usize, String)>,
    /// The rows of the index that is replaced, where it could be read, and why it is.
    pub(super) replaced: Option<(Option<Rows>, String)>,
}

/// A range that is saved aside and cut off its segment.
pub(super) struct Cut {
    pub(super) segment_seq: u64,
    pub(super) range: Range<u64>,
    /// Why, unless it is blank.
    pub(super) reason: String,
}

/// The first line that is not taken in: it leaves the store with everything after it.
struct Stop {
    segment_seq: u64,
    offset: u64,
    reason: String,
}

/// No frame is shorter: its schema, keys and hash alone take more.
const MIN_FRAME_BYTES: u64 = 200;

/// How many rows are expected of the bytes that are left, for growing maps and lists would move everything again and again.
///
/// An estimate from few bytes can be wrong by orders of magnitude (short frames in front of long ones, a sparse tail of
/// zeros), so none is for more than eight times the rows seen; when these are used up there is a better one.
#[derive(Debug)]
struct Room {
    left_bytes: u64,
    seen_bytes: u64,
    seen_rows: u64,
    /// Rows there is room for.
    reserved_rows: u64,
}

impl Room {
    fn new(left_bytes: u64) -> Self {
        Self { left_bytes, seen_bytes: 0, seen_rows: 0, reserved_rows: 0 }
    }

    /// Takes note of a chunk about to be taken in; answers for how many rows more there should be room, its own included, if
    /// there is not enough.
    fn for_chunk(&mut self, len_bytes: u64, rows: u64) -> Option<usize> {
        let before = self.seen_rows;
        self.left_bytes = self.left_bytes.saturating_sub(len_bytes);
        self.seen_bytes += len_bytes;
        self.seen_rows += rows;
        if self.seen_rows <= self.reserved_rows {
            return None;
        }
        let expected =
            u128::from(self.left_bytes) * u128::from(self.seen_rows) / u128::from(self.seen_bytes.max(1));
        // A little more: to be one row short costs as much as no room at all.
        let expected = u64::try_from(expected + expected / 16 + 64).unwrap_or(u64::MAX);
        let behind = expected.min(self.left_bytes / MIN_FRAME_BYTES).min(self.seen_rows.saturating_mul(8));
        self.reserved_rows = self.seen_rows + behind;
        usize::try_from(self.reserved_rows - before).ok()
    }
}

/// The segment and byte where the last row ends: what stands behind was never acknowledged, unless the index lost rows. None
/// when nothing is known of what was acknowledged.
pub(super) type Acknowledged = Option<(u64, u64)>;

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

    /// In what way a frame does not continue the numbering.
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

impl Plan {
    pub(super) fn new(rows: Rows, keep: Keep) -> Self {
        Self {
            first_new: rows.len(),
            rows,
            keep,
            payload_hashes: Vec::new(),
            staged: None,
            complete_index: false,
            heal: Vec::new(),
            cuts: Vec::new(),
            stop: None,
            quarantine: Vec::new(),
            unindexed: Vec::new(),
            late_parents: Vec::new(),
            replaced: None,
        }
    }

    /// Refuses a new index that lacks entries of the old one; where the old one could not be read or has no rows, one that
    /// leaves out sound frames.
    pub(super) fn check_nothing_lost(
        &self,
        layout: &Layout,
        files: &SegmentFiles,
    ) -> Result<(), SessionError> {
        let Some((old, _)) = &self.replaced else { return Ok(()) };
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

    /// Takes in what stands behind the last row: frames as rows, everything else as something to refuse or to cut.
    pub(super) fn take_in(
        &mut self,
        layout: &Layout,
        files: &SegmentFiles,
        acknowledged: Acknowledged,
    ) -> Result<(), SessionError> {
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
        let scan = Scan {
            layout,
            files,
            first: (first_segment, cursor.end),
            hasher: self.rows.hasher(),
            with_rows: self.staged.is_some(),
            bad_lines: BadLines::EndChunk,
        };
        let behind = files.len_bytes.range(first_segment..).map(|(_, len)| len).sum::<u64>();
        let mut room = Room::new(behind.saturating_sub(cursor.end));
        let mut stop = None;
        let index = layout.index_file_path();
        scan.run(|chunk| {
            let Some(source) = chunk.source.clone() else { return Ok(ControlFlow::Continue(())) };
            if chunk.segment_seq != cursor.segment_seq {
                cursor = Cursor { segment_seq: chunk.segment_seq, frame_seq: 0, end: 0, ..cursor };
            }
            if let Some(more) = room.for_chunk(chunk.len_bytes, chunk.lines.len() as u64) {
                // Without room lists grow as they are pushed to.
                self.rows.try_reserve(more);
                let _ = match self.keep {
                    Keep::Nothing => Ok(()),
                    Keep::Hashes => self.payload_hashes.try_reserve(more),
                    Keep::Facts(_) => facts.try_reserve(more),
                };
            }
            if let Some(line) = self.take_chunk(chunk, &index, &mut cursor, &mut facts)? {
                stop = Some((source, chunk.lines.swap_remove(line)));
                return Ok(ControlFlow::Break(()));
            }
            if chunk.is_last && cursor.end < source.len_bytes() {
                let range = cursor.end..source.len_bytes();
                blank_behind.push(Cut { segment_seq: chunk.segment_seq, range, reason: String::new() });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some((source, line)) = stop {
            let reason = self.judge(layout, files, acknowledged, &source, &line, &cursor)?;
            let segment_seq = cursor.segment_seq;
            // Blanks in front of the line go with it.
            let range = cursor.end..source.len_bytes();
            self.cuts.push(Cut { segment_seq, range, reason: reason.clone() });
            self.stop = Some(Stop { segment_seq, offset: line.offset, reason });
            let later = files.len_bytes.range((Bound::Excluded(segment_seq), Bound::Unbounded));
            self.quarantine.extend(later.filter(|(_, len)| **len > 0).map(|(seq, _)| *seq));
        }
        // Blanks behind the last frame would stand in the way of the next one.
        let active = self.rows.last().map_or(0, |last| last.segment_seq);
        self.cuts.extend(blank_behind.into_iter().filter(|cut| cut.segment_seq >= active));
        self.cuts.sort_by_key(|cut| cut.segment_seq);
        if let Keep::Facts(verified) = &mut self.keep {
            verified.append(resolve_parents(&self.rows, start_row, facts, &self.late_parents));
        }
        Ok(())
    }

    /// Takes the frames of a chunk until a line that cannot be a row; answers which. What is taken goes into the staged
    /// index.
    fn take_chunk(
        &mut self,
        chunk: &Scanned,
        index: &Path,
        cursor: &mut Cursor,
        facts: &mut Vec<Facts>,
    ) -> Result<Option<usize>, SessionError> {
        self.rows.check_room(index, chunk.lines.len())?;
        let (first_row, healed) = (self.rows.len(), self.heal.len());
        let stop = self.take_lines(chunk, cursor, facts);
        if let Some(staged) = &mut self.staged {
            if stop.is_none() && self.heal.len() == healed {
                staged.write_early(&chunk.rows)?;
            } else {
                let mut lines = Vec::new();
                (first_row..self.rows.len()).for_each(|row| self.rows.write_line(row, &mut lines));
                staged.write_early(&lines)?;
            }
        }
        Ok(stop)
    }

    fn take_lines(&mut self, chunk: &Scanned, cursor: &mut Cursor, facts: &mut Vec<Facts>) -> Option<usize> {
        self.rows.look_ahead(chunk.lines.iter().filter_map(|line| match &line.content {
            Content::Frame(frame) => Some(frame.id_hash),
            Content::Bad { .. } => None,
        }));
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
            let numbers = RowNumbers {
                entry_seq: frame.entry_seq,
                segment_seq: frame.segment_seq,
                frame_seq: frame.frame_seq,
                byte_offset: line.offset,
                byte_length,
                crc: CrcText::of(crc),
            };
            match self.keep {
                Keep::Nothing => {}
                Keep::Hashes => self.payload_hashes.push(payload_sha256),
                Keep::Facts(_) => {
                    let parent = self.parent_of(chunk, frame);
                    facts.push(Facts { payload_sha256, parent, kind: frame.kind });
                }
            }
            self.rows.push_hashed(numbers, chunk.id(frame), frame.id_hash);
            cursor.frame_seq = frame.frame_seq;
            cursor.entry_seq = frame.entry_seq;
            cursor.end = line.offset + byte_length;
        }
        None
    }

    /// The parent of the frame that becomes the next row.
    fn parent_of(&mut self, chunk: &Scanned, frame: &ScannedFrame) -> Parent {
        let row = self.rows.len();
        let parent = match chunk.parent(frame) {
            // Mostly the entry just before.
            Some(id) if row > 0 && self.rows.id(row - 1) == id => Parent::Row(row as u32 - 1),
            parent => resolve(&self.rows, row, parent),
        };
        if let (Parent::Missing, Some(id)) = (parent, chunk.parent(frame)) {
            self.late_parents.push((row, id.to_owned()));
        }
        parent
    }

    /// Whether the index that is replaced has a row for a line, and the line is not what the row certifies.
    fn is_altered(&self, source: &Source, line: &Line, cursor: &Cursor) -> Result<bool, SessionError> {
        let Some((Some(old), _)) = &self.replaced else { return Ok(false) };
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

    /// Why the store is cut at this line. Refuses when that would destroy more than a torn tail.
    fn judge(
        &self,
        layout: &Layout,
        files: &SegmentFiles,
        acknowledged: Acknowledged,
        source: &Source,
        line: &Line,
        cursor: &Cursor,
    ) -> Result<String, SessionError> {
        const UNFINISHED: &str = "an unfinished write";
        let good_behind = || good_frame_behind(layout, files, line, cursor);
        let is_tail = acknowledged.is_some_and(|end| (cursor.segment_seq, line.offset) >= end);
        let place = || place_of(source, line.offset);
        let (reason, has_nul) = match &line.content {
            Content::Bad { reason, has_nul } => (reason, *has_nul),
            Content::Frame(frame) => {
                // A frame that does not continue the numbering is cut, after it was saved, in either mode.
                if !cursor.continues(frame) {
                    return Ok(cursor.contradiction(frame));
                }
                if is_tail && !good_behind()? {
                    return Ok(UNFINISHED.to_owned());
                }
                return Err(SessionError::PayloadIntegrityMismatch {
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
            BadLine::Schema(found) if self.is_altered(source, line, cursor)? => {
                let reason = format!("its schema is {found:?}, and its CRC-32C is not that of its index row");
                Err(SessionError::SegmentFrameCorrupt { place: place(), reason })
            }
            BadLine::Schema(found) => {
                Err(SessionError::UnsupportedSchema { place: place(), found: found.clone() })
            }
            _ if torn => Ok(UNFINISHED.to_owned()),
            BadLine::Json(reason) => {
                Err(SessionError::SegmentFrameCorrupt { place: place(), reason: reason.clone() })
            }
            BadLine::NotText => {
                Err(SessionError::SegmentLineUnreadable { place: place(), reason: "is not UTF-8".to_owned() })
            }
            BadLine::TooLong => Err(SessionError::SegmentLineUnreadable {
                place: place(),
                reason: format!("is longer than {} bytes", MAX_LINE_BYTES),
            }),
        }
    }
}

/// Whether `new` has the entry of a row of `old`: under its sequence and id, or, where the row is altered, the very bytes
/// that the row certifies.
pub(super) fn has_entry_of(new: &Rows, old: &Rows, row: usize) -> bool {
    let numbers = old.numbers(row);
    let is_same_entry = new.find_seq(numbers.entry_seq).is_some_and(|found| new.id(found) == old.id(row));
    let has_same_bytes = |found| {
        let found = new.numbers(found);
        (found.byte_length, found.crc) == (numbers.byte_length, numbers.crc)
    };
    is_same_entry || new.find_place(numbers.segment_seq, numbers.byte_offset).is_some_and(has_same_bytes)
}

/// How many sound frames stand at `stop` and after it, wherever they belong.
fn count_sound_frames(layout: &Layout, files: &SegmentFiles, stop: &Stop) -> Result<u64, SessionError> {
    let scan = Scan {
        layout,
        files,
        first: (stop.segment_seq, stop.offset),
        hasher: RandomState::new(),
        with_rows: false,
        bad_lines: BadLines::Skip,
    };
    let is_sound =
        |line: &&Line| matches!(&line.content, Content::Frame(frame) if frame.payload_sha256.is_some());
    let mut count = 0;
    scan.run(|chunk| {
        count += chunk.lines.iter().filter(is_sound).count() as u64;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// Whether a sound frame that would continue the store stands behind `line`, in its segment or in a later one.
fn good_frame_behind(
    layout: &Layout,
    files: &SegmentFiles,
    line: &Line,
    cursor: &Cursor,
) -> Result<bool, SessionError> {
    let scan = Scan {
        layout,
        files,
        first: (cursor.segment_seq, line.offset + line.len_bytes),
        hasher: RandomState::new(),
        with_rows: false,
        bad_lines: BadLines::Skip,
    };
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

/// The facts with the parents that come after their children: only now are all rows known.
pub(super) fn resolve_parents(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_asked_for_seldom_and_never_for_more_than_nine_times_the_rows() {
        const CHUNK_BYTES: u64 = 256 * 1024;
        // Rows in a chunk, by its number: even, short ones first, long ones first, a tail of zeros of 100 GB.
        let rows_of: [fn(u64) -> u64; 4] = [
            |_| 200,
            |chunk| if chunk == 0 { 1300 } else { 3 },
            |chunk| if chunk == 0 { 1 } else { 1300 },
            |chunk| if chunk == 0 { 1300 } else { 0 },
        ];
        for (at, (rows_of, chunks)) in rows_of.into_iter().zip([4000, 4000, 4000, 400_000]).enumerate() {
            let mut room = Room::new(chunks * CHUNK_BYTES);
            let (mut rows, mut capacity, mut asked) = (0, 0, 0);
            for chunk in 0..chunks {
                let new = rows_of(chunk);
                if let Some(more) = room.for_chunk(CHUNK_BYTES, new) {
                    capacity = rows + more as u64;
                    asked += 1;
                }
                rows += new;
                assert!(rows <= capacity && capacity <= 9 * rows, "{at}: {rows} rows, room for {capacity}");
            }
            assert!(asked <= 8, "{at}: {asked}");
        }
    }

    #[test]
    fn no_room_is_asked_for_behind_the_last_byte() {
        assert_eq!(Room::new(1000).for_chunk(1000, 3), Some(3));
        assert_eq!(Room::new(0).for_chunk(0, 0), None);
        assert_eq!(Room::new(u64::MAX).for_chunk(1, u64::from(u32::MAX)), Some(9 * u32::MAX as usize));
    }
}

//! Validates frames against the index, and the links between entries.
//!
//! Touches: maps and reads segments.
//!
//! Guarantees: every range is checked against the file, its CRC-32C, the numbers of its frame and the hash of its payload, on all
//! cores, and each byte is read once; of several failures the first in numeric order of segments is returned.

use std::ops::Range;

use rayon::prelude::*;

use super::chain::Chain;
use super::error::{FramePlace, LinePlace, SessionError};
use super::frame::FrameLine;
use super::index::{CrcText, IndexRows, RowNumbers};
use super::layout::SessionLayout;
use crate::disk;
use crate::scan::{Io, ScanError, Source};

/// Shorter segments are read instead of mapped, because mapping costs more than reading a page or two.
const MAP_FROM_BYTES: u64 = 64 * 1024;
/// The number of rows that one task checks.
const TASK_ROWS: usize = 512;

/// What the validation of links needs of a verified frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) payload_sha256: [u8; 32],
    pub(super) parent: Parent,
    pub(super) kind: EntryKind,
}

/// An entry's parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    None,
    Row(u32),
    Missing,
}

impl Parent {
    fn row(self) -> Option<usize> {
        match self {
            Self::Row(row) => Some(row as usize),
            Self::None | Self::Missing => None,
        }
    }
}

/// The entry types that a manifest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Message,
    Compaction,
    Other,
}

impl EntryKind {
    pub(super) fn of(entry_type: &str) -> Self {
        match entry_type {
            "message" => Self::Message,
            "compaction" => Self::Compaction,
            _ => Self::Other,
        }
    }
}

/// The facts of consecutive rows, and the first missing parent, with the row that names it.
#[derive(Debug, Default)]
pub(super) struct Verified {
    pub(super) facts: Vec<Facts>,
    pub(super) missing_parent: Option<(usize, String)>,
}

impl Verified {
    /// Adds the facts of the next rows.
    pub(super) fn append(&mut self, mut next: Self) {
        self.facts.append(&mut next.facts);
        self.missing_parent = self.missing_parent.take().or(next.missing_parent);
    }

    pub(super) fn payload_hashes(&self) -> Vec<[u8; 32]> {
        self.facts.iter().map(|facts| facts.payload_sha256).collect()
    }

    pub(super) fn chain_from(&self, start: Chain) -> Chain {
        self.facts.iter().fold(start, |chain, facts| chain.link(&facts.payload_sha256))
    }
}

/// Opens a segment. A link or a missing file is an error.
pub(super) fn open_segment(
    layout: &SessionLayout,
    segment_seq: u64,
    len_hint_bytes: u64,
) -> Result<Source, SessionError> {
    let path = layout.segment_file_path(segment_seq);
    disk::refuse_link(&path)?;
    let io = if len_hint_bytes < MAP_FROM_BYTES { Io::Read } else { Io::Mmap };
    Ok(Source::open(&path, io)?)
}

/// Returns the place of the frame of a row, for messages.
pub(super) fn frame_place(layout: &SessionLayout, numbers: &RowNumbers) -> FramePlace {
    FramePlace {
        path: layout.segment_file_path(numbers.segment_seq),
        entry_seq: numbers.entry_seq,
        offset: numbers.byte_offset,
        len_bytes: numbers.byte_length,
    }
}

/// Fails with the first row whose sequence is not above the sequence before.
pub(super) fn check_order(layout: &SessionLayout, rows: &IndexRows) -> Result<(), SessionError> {
    match rows.first_unordered() {
        None => Ok(()),
        Some(row) => Err(SessionError::EntrySeqNotIncreasing {
            path: layout.index_file_path(),
            row: row as u64 + 1,
            previous: row.checked_sub(1).map_or(0, |row| rows.numbers(row).entry_seq),
            found: rows.numbers(row).entry_seq,
        }),
    }
}

/// Returns the byte range of a row, or fails when it is not inside its segment or is too long.
pub(super) fn check_range(
    layout: &SessionLayout,
    numbers: &RowNumbers,
    segment_bytes: u64,
    limit_bytes: u64,
) -> Result<Range<u64>, SessionError> {
    let place = || frame_place(layout, numbers);
    let end = numbers.end().ok_or_else(|| SessionError::ByteRangeOverflow { place: place() })?;
    if end > segment_bytes {
        return Err(SessionError::IndexOutOfBounds { place: place(), segment_bytes });
    }
    if numbers.byte_length > limit_bytes {
        return Err(SessionError::FrameTooLarge { place: place(), limit_bytes });
    }
    Ok(numbers.byte_offset..end)
}

/// Returns the frame of a row and the hash of its payload, after checking the bytes against the row and the payload against its
/// header.
pub(super) fn check_frame<'a>(
    layout: &SessionLayout,
    numbers: &RowNumbers,
    id: &str,
    bytes: &'a [u8],
) -> Result<(FrameLine<'a>, [u8; 32]), SessionError> {
    let place = || frame_place(layout, numbers);
    let found = crc32c::crc32c(bytes);
    if CrcText::of(found) != numbers.crc {
        let expected = numbers.crc.as_str().to_owned();
        return Err(SessionError::ChecksumMismatch { place: place(), expected, found });
    }
    let frame = FrameLine::parse(bytes).map_err(|reason| {
        // The number of the frame stands for that of the line, because a row does not have the latter.
        let place = LinePlace {
            path: layout.segment_file_path(numbers.segment_seq),
            line: numbers.frame_seq,
            offset: numbers.byte_offset,
        };
        reason.at(place)
    })?;
    let agreements = [
        ("entrySeq", frame.entry_seq == numbers.entry_seq),
        ("entryId", frame.entry_id == id),
        ("segmentSeq", frame.segment_seq == numbers.segment_seq),
        ("frameSeq", frame.frame_seq == numbers.frame_seq),
    ];
    if let Some((field, _)) = agreements.into_iter().find(|(_, agrees)| !agrees) {
        return Err(SessionError::IndexFrameMismatch { place: place(), field });
    }
    match frame.verify_payload() {
        Ok(sha) => Ok((frame, sha)),
        Err(reason) => Err(SessionError::PayloadIntegrityMismatch { place: place(), reason }),
    }
}

/// Verifies the frames of a range of rows. A parent that is not among the first `known_rows` is missing.
pub(super) fn verify(
    layout: &SessionLayout,
    rows: &IndexRows,
    range: Range<usize>,
    known_rows: usize,
    limit_bytes: u64,
) -> Result<Verified, SessionError> {
    let mut verified = Verified::default();
    verified.facts.reserve_exact(range.len());
    let by_segment = group_by_segment(rows, range);
    let in_order = by_segment.windows(2).all(|pair| pair[0].1.last() < pair[1].1.first());
    let mut misplaced = Vec::new();
    for (segment_seq, members) in by_segment {
        let hint_bytes =
            members.iter().map(|row| rows.numbers(*row).byte_length).fold(0, u64::saturating_add);
        let source = open_segment(layout, segment_seq, hint_bytes).map_err(|error| match error {
            SessionError::Scan(ScanError::Truncated { .. }) => error,
            other => {
                let reason = match other {
                    SessionError::Scan(ScanError::Open { source, .. }) => source.to_string(),
                    other => other.to_string(),
                };
                SessionError::SegmentUnreadable { path: layout.segment_file_path(segment_seq), reason }
            }
        })?;
        let tasks: Vec<Result<Verified, SessionError>> = members
            .par_chunks(TASK_ROWS)
            .map(|members| verify_task(layout, rows, known_rows, &source, members, limit_bytes))
            .collect();
        // Past the end of a file that was cut under its map there are zeros, which must not be reported as damage.
        source.check_len()?;
        for task in tasks {
            verified.append(task?);
        }
        misplaced.extend(members);
    }
    if !in_order {
        let mut sorted: Vec<(usize, Facts)> = misplaced.into_iter().zip(verified.facts).collect();
        sorted.sort_by_key(|(row, _)| *row);
        verified.facts = sorted.into_iter().map(|(_, facts)| facts).collect();
    }
    Ok(verified)
}

/// Groups the rows of a range by segment, segments ascending.
fn group_by_segment(rows: &IndexRows, range: Range<usize>) -> Vec<(u64, Vec<usize>)> {
    let mut groups: Vec<(u64, Vec<usize>)> = Vec::new();
    for row in range {
        let segment_seq = rows.numbers(row).segment_seq;
        match groups.last_mut() {
            Some((last, members)) if *last == segment_seq => members.push(row),
            _ => groups.push((segment_seq, vec![row])),
        }
    }
    groups.sort_by_key(|(segment_seq, _)| *segment_seq);
    groups.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1.append(&mut next.1);
        }
        same
    });
    groups
}

fn verify_task(
    layout: &SessionLayout,
    rows: &IndexRows,
    known_rows: usize,
    source: &Source,
    members: &[usize],
    limit_bytes: u64,
) -> Result<Verified, SessionError> {
    let mut verified = Verified::default();
    let mut buffer = Vec::new();
    for &row in members {
        let numbers = rows.numbers(row);
        let range = check_range(layout, &numbers, source.len_bytes(), limit_bytes)?;
        let bytes = source.bytes(range, &mut buffer)?;
        let (frame, payload_sha256) = check_frame(layout, &numbers, rows.id(row), bytes)?;
        let parent = resolve(rows, known_rows, frame.parent_entry_id.as_deref());
        if let (Parent::Missing, Some(id)) = (parent, &frame.parent_entry_id) {
            verified.missing_parent.get_or_insert_with(|| (row, id.clone().into_owned()));
        }
        verified.facts.push(Facts { payload_sha256, parent, kind: EntryKind::of(&frame.entry_type) });
    }
    Ok(verified)
}

/// Returns the row of a parent among the first `known_rows`.
pub(super) fn resolve(rows: &IndexRows, known_rows: usize, parent: Option<&str>) -> Parent {
    let Some(id) = parent else { return Parent::None };
    match rows.find_id(id) {
        Some(row) if row < known_rows => Parent::Row(row as u32),
        _ => Parent::Missing,
    }
}

/// Fails when two rows have one id.
pub(super) fn check_ids_unique(rows: &IndexRows) -> Result<(), SessionError> {
    let Some(row) = rows.first_duplicate() else { return Ok(()) };
    let id = rows.id(row);
    let first = (0..row).find(|earlier| rows.id(*earlier) == id).unwrap_or(row);
    Err(SessionError::DuplicateEntryId {
        entry_id: id.to_owned(),
        first_seq: rows.numbers(first).entry_seq,
        second_seq: rows.numbers(row).entry_seq,
    })
}

/// Fails unless ids are unique, and parents exist and lead to roots. `verified` holds the facts of all rows.
pub(super) fn check_graph(rows: &IndexRows, verified: &Verified) -> Result<(), SessionError> {
    check_ids_unique(rows)?;
    if let Some((row, parent_id)) = &verified.missing_parent {
        return Err(SessionError::MissingParent {
            entry_id: rows.id(*row).to_owned(),
            parent_id: parent_id.clone(),
        });
    }
    match find_cycle(rows.len(), |row| verified.facts[row].parent.row()) {
        Some(row) => Err(SessionError::CyclicParent { entry_id: rows.id(row).to_owned() }),
        None => Ok(()),
    }
}

/// Returns one of `count` entries that is its own ancestor, if there is one.
pub(super) fn find_cycle(count: usize, parent_of: impl Fn(usize) -> Option<usize>) -> Option<usize> {
    // The number of the walk that first met an entry. Entries of finished walks lead to a root.
    let mut walk_of = vec![0u32; count];
    for start in 0..count {
        let walk = start as u32 + 1;
        let mut next = Some(start);
        while let Some(entry) = next.filter(|entry| walk_of[*entry] == 0) {
            walk_of[entry] = walk;
            next = parent_of(entry);
        }
        // The walk met one of its own entries again, unless it came to a root.
        if let Some(entry) = next.filter(|entry| walk_of[*entry] == walk) {
            return Some(entry);
        }
    }
    None
}

/// Counts the entries with two children or more.
pub(super) fn branches(facts: &[Facts]) -> u64 {
    let mut children = vec![0u8; facts.len()];
    for fact in facts {
        if let Some(parent) = fact.parent.row() {
            let count = &mut children[parent];
            *count = count.saturating_add(1).min(2);
        }
    }
    children.iter().filter(|count| **count == 2).count() as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(parents: &[Option<u32>]) -> Vec<Facts> {
        parents
            .iter()
            .map(|parent| Facts {
                payload_sha256: [0; 32],
                parent: parent.map_or(Parent::None, Parent::Row),
                kind: EntryKind::Other,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn cycles_are_found_as_by_walking_from_every_row(
            parents in (1usize..12).prop_flat_map(|len| {
                proptest::collection::vec(proptest::option::of(0..len as u32), len)
            }),
        ) {
            let loops = (0..parents.len()).any(|start| {
                let mut row = Some(start as u32);
                (0..=parents.len()).all(|_| match row {
                    Some(at) => {
                        row = parents[at as usize];
                        true
                    }
                    None => false,
                })
            });
            let facts = facts(&parents);
            let found = find_cycle(facts.len(), |row| facts[row].parent.row());
            prop_assert_eq!(found.is_some(), loops);
        }
    }

    #[test]
    fn a_branch_is_an_entry_with_two_children() {
        assert_eq!(branches(&facts(&[None, Some(0), Some(0), Some(0), Some(1), Some(2), Some(2)])), 2);
    }
}

//! The offset index: its rows in memory, found by sequence and by id, and the file that they are read from.
//!
//! Touches: reads and maps `index/offsets.jsonl`.
//!
//! Guarantees: a row costs about 80 bytes of memory and its id; a
//! row is found in the same time however many there are; rows that were appended to the file are read without reading
//! the others again.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::Path;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;

use super::error::{LinePlace, SessionError};
use super::format::{MAX_LINE_BYTES, OFFSET_INDEX_SCHEMA, OffsetIndexEntry};
use crate::disk;
use crate::scan::{self, Io, ScanError, Source};

const ACTIVE: &str = "active";

/// The part of the index that one task parses.
const CHUNK_BYTES: u64 = 1 << 20;

/// A row without its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowNumbers {
    pub(super) entry_seq: u64,
    pub(super) segment_seq: u64,
    pub(super) frame_seq: u64,
    pub(super) byte_offset: u64,
    pub(super) byte_length: u64,
    pub(super) crc: CrcText,
}

impl RowNumbers {
    fn of(row: &OffsetIndexEntry) -> Self {
        Self {
            entry_seq: row.entry_seq,
            segment_seq: row.segment_seq,
            frame_seq: row.frame_seq,
            byte_offset: row.byte_offset,
            byte_length: row.byte_length,
            crc: CrcText::read(&row.crc32c),
        }
    }

    /// Returns the first byte after the line, or `None` when the sum overflows.
    pub(super) fn end(&self) -> Option<u64> {
        self.byte_offset.checked_add(self.byte_length)
    }
}

/// A CRC as an index row has it. A text of another length is kept as eight blanks, which equal no CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CrcText([u8; 8]);

impl CrcText {
    pub(super) fn of(crc: u32) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        Self(std::array::from_fn(|place| DIGITS[(crc >> (28 - 4 * place)) as usize & 15]))
    }

    fn read(text: &str) -> Self {
        Self(text.as_bytes().try_into().unwrap_or([b' '; 8]))
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
struct RowSlot {
    numbers: RowNumbers,
    id_start: u64,
    id_len: u32,
    /// The row before this one with the same id, or [`NO_ROW`].
    same_id: u32,
}

const NO_ROW: u32 = u32::MAX;

/// The rows of an index, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct IndexRows {
    slots: Vec<RowSlot>,
    ids: String,
    /// Rows by id, each with the hash of its id, because growing the table by the ids themselves would read all of them. Of rows
    /// with one id it holds the last.
    by_id: HashTable<(u32, u32)>,
    /// With a key of this process, because ids come from outside.
    hasher: RandomState,
    first_unordered: Option<u32>,
    first_duplicate: Option<u32>,
    total_bytes: u64,
}

fn id_of<'r>(slots: &[RowSlot], ids: &'r str, row: u32) -> &'r str {
    let slot = &slots[row as usize];
    &ids[slot.id_start as usize..][..slot.id_len as usize]
}

/// Makes a hash for the table, which uses the upper and the lower bits, of the 32 bits that it keeps.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl IndexRows {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn numbers(&self, row: usize) -> RowNumbers {
        self.slots[row].numbers
    }

    pub(super) fn id(&self, row: usize) -> &str {
        id_of(&self.slots, &self.ids, row as u32)
    }

    pub(super) fn last(&self) -> Option<RowNumbers> {
        self.slots.last().map(|slot| slot.numbers)
    }

    pub(super) fn row(&self, row: usize) -> OffsetIndexEntry {
        let numbers = self.numbers(row);
        OffsetIndexEntry {
            schema: Cow::Borrowed(OFFSET_INDEX_SCHEMA),
            entry_seq: numbers.entry_seq,
            entry_id: self.id(row).to_owned(),
            segment_seq: numbers.segment_seq,
            frame_seq: numbers.frame_seq,
            byte_offset: numbers.byte_offset,
            byte_length: numbers.byte_length,
            crc32c: numbers.crc.as_str().to_owned(),
            state: Cow::Borrowed(ACTIVE),
        }
    }

    /// Returns the sum of all line lengths.
    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Returns the first row whose sequence is 0 or not above the sequence before.
    pub(super) fn first_unordered(&self) -> Option<usize> {
        self.first_unordered.map(|row| row as usize)
    }

    /// Returns the first row whose id an earlier row has.
    pub(super) fn first_duplicate(&self) -> Option<usize> {
        self.first_duplicate.map(|row| row as usize)
    }

    /// Returns the row with this id; the last of several.
    pub(super) fn find_id(&self, id: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(id) as u32;
        let is_it = |(other, row): &(u32, u32)| *other == hash && self.id(*row as usize) == id;
        self.by_id.find(spread(hash), is_it).map(|(_, row)| *row as usize)
    }

    /// Returns the first row with this sequence.
    pub(super) fn find_seq(&self, entry_seq: u64) -> Option<usize> {
        if self.first_unordered.is_none() {
            self.slots.binary_search_by_key(&entry_seq, |slot| slot.numbers.entry_seq).ok()
        } else {
            self.slots.iter().position(|slot| slot.numbers.entry_seq == entry_seq)
        }
    }

    /// Returns the rows with this sequence or a higher one, in index order.
    pub(super) fn at_or_after(&self, entry_seq: u64) -> Vec<usize> {
        if self.first_unordered.is_none() {
            (self.slots.partition_point(|slot| slot.numbers.entry_seq < entry_seq)..self.len()).collect()
        } else {
            (0..self.len()).filter(|row| self.numbers(*row).entry_seq >= entry_seq).collect()
        }
    }

    /// Returns the row of the frame that begins at this byte. The rows must be in the order of their frames.
    pub(super) fn find_place(&self, segment_seq: u64, byte_offset: u64) -> Option<usize> {
        let place = |slot: &RowSlot| (slot.numbers.segment_seq, slot.numbers.byte_offset);
        self.slots.binary_search_by_key(&(segment_seq, byte_offset), place).ok()
    }

    /// Fails when `more` rows of the index at `path` are more than a handle can hold.
    pub(super) fn check_room(&self, path: &Path, more: usize) -> Result<(), SessionError> {
        if self.len() + more < NO_ROW as usize {
            return Ok(());
        }
        Err(SessionError::InvalidArgument {
            reason: format!("{} has more than {NO_ROW} rows, which no handle can hold", path.display()),
        })
    }

    fn reserve(&mut self, more: usize) {
        self.slots.reserve(more);
        self.by_id.reserve(more, |(hash, _)| spread(*hash));
    }

    pub(super) fn push(&mut self, numbers: RowNumbers, id: &str) {
        let row = self.slots.len() as u32;
        let floor = self.last().map_or(0, |last| last.entry_seq);
        if numbers.entry_seq <= floor {
            self.first_unordered.get_or_insert(row);
        }
        let hash = self.hasher.hash_one(id) as u32;
        let (slots, ids) = (&self.slots, &self.ids);
        let is_same = |(other, row): &(u32, u32)| *other == hash && id_of(slots, ids, *row) == id;
        let same_id = match self.by_id.entry(spread(hash), is_same, |(hash, _)| spread(*hash)) {
            Entry::Occupied(mut other) => {
                self.first_duplicate.get_or_insert(row);
                std::mem::replace(&mut other.get_mut().1, row)
            }
            Entry::Vacant(place) => {
                place.insert((hash, row));
                NO_ROW
            }
        };
        let id_start = self.ids.len() as u64;
        self.ids.push_str(id);
        self.total_bytes = self.total_bytes.saturating_add(numbers.byte_length);
        self.slots.push(RowSlot { numbers, id_start, id_len: id.len() as u32, same_id });
    }

    /// Keeps the first `len` rows.
    pub(super) fn truncate(&mut self, len: usize) {
        while self.slots.len() > len {
            let row = self.slots.len() - 1;
            let hash = self.hasher.hash_one(self.id(row)) as u32;
            let Some(slot) = self.slots.pop() else { break };
            if let Ok(mut entry) = self.by_id.find_entry(spread(hash), |(_, found)| *found == row as u32) {
                if slot.same_id == NO_ROW {
                    entry.remove();
                } else {
                    entry.get_mut().1 = slot.same_id;
                }
            }
            self.ids.truncate(slot.id_start as usize);
            self.total_bytes = self.total_bytes.saturating_sub(slot.numbers.byte_length);
        }
        let below = |row: &u32| (*row as usize) < len;
        self.first_unordered = self.first_unordered.filter(below);
        self.first_duplicate = self.first_duplicate.filter(below);
    }

    /// Appends the line of a row, LF included.
    fn write_line(&self, row: usize, out: &mut Vec<u8>) {
        // Texts and numbers always serialise, and memory takes every write.
        let _ = serde_json::to_writer(&mut *out, &self.row(row));
        out.push(b'\n');
    }

    /// Passes the lines of a range of rows to `write`, in blocks of 1 MiB.
    pub(super) fn write_lines(
        &self,
        rows: Range<usize>,
        mut write: impl FnMut(&[u8]) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        const BLOCK_BYTES: usize = 1 << 20;
        let mut block = Vec::new();
        for row in rows {
            self.write_line(row, &mut block);
            if block.len() >= BLOCK_BYTES {
                write(&block)?;
                block.clear();
            }
        }
        if block.is_empty() { Ok(()) } else { write(&block) }
    }
}

/// What was read of the index file.
#[derive(Debug, Clone, Default)]
pub(super) struct IndexFile {
    /// Bytes read, all of them rows and blank lines.
    pub(super) len_bytes: u64,
    /// Whether the file is empty or its last line ends in LF.
    pub(super) is_terminated: bool,
    /// The range of the last line. A reader that reads on compares it with the file.
    pub(super) last_line: Range<u64>,
}

/// Reads rows of the index file from byte `from`, the start of a line, and adds them to `rows`. A missing file is an empty index.
///
/// After an error `rows` is unchanged.
pub(super) fn read(path: &Path, from: u64, rows: &mut IndexRows) -> Result<IndexFile, SessionError> {
    disk::refuse_link(path)?;
    let source = match Source::open(path, Io::Mmap) {
        Ok(source) => source,
        Err(ScanError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(IndexFile { is_terminated: true, ..IndexFile::default() });
        }
        Err(error) => return Err(error.into()),
    };
    let len_bytes = source.len_bytes();
    let chunks =
        scan::chunks(&source, from.min(len_bytes)..len_bytes, CHUNK_BYTES).collect::<Result<Vec<_>, _>>()?;
    let parsed = chunks
        .into_par_iter()
        .map(|chunk| parse_chunk(&source, chunk))
        .collect::<Result<Vec<ParsedRows>, SessionError>>()?;
    let mut buffer = Vec::new();
    let last_start = source.line_end_before(0, len_bytes.saturating_sub(1))?;
    let is_terminated = len_bytes == 0 || source.bytes(len_bytes - 1..len_bytes, &mut buffer)? == b"\n";
    source.check_len()?;
    let count: usize = parsed.iter().map(|chunk| chunk.rows.len()).sum();
    rows.check_room(path, count)?;
    rows.reserve(count);
    for chunk in parsed {
        let mut start = 0;
        for (numbers, id_len) in chunk.rows {
            rows.push(numbers, &chunk.ids[start..][..id_len]);
            start += id_len;
        }
    }
    Ok(IndexFile { len_bytes, is_terminated, last_line: last_start..len_bytes })
}

/// The rows of a chunk, each with the length of its id, and their ids one after the other.
#[derive(Default)]
struct ParsedRows {
    rows: Vec<(RowNumbers, usize)>,
    ids: String,
}

impl ParsedRows {
    fn push(&mut self, numbers: RowNumbers, id: &str) {
        self.rows.push((numbers, id.len()));
        self.ids.push_str(id);
    }
}

fn parse_chunk(source: &Source, chunk: Range<u64>) -> Result<ParsedRows, SessionError> {
    let mut buffer = Vec::new();
    let bytes = source.bytes(chunk.clone(), &mut buffer)?;
    let mut parsed = ParsedRows::default();
    for (offset, line) in scan::lines(chunk.start, bytes) {
        let place = || place_of(source, offset);
        if line.len() as u64 > MAX_LINE_BYTES {
            let reason = format!("is longer than {MAX_LINE_BYTES} bytes");
            return Err(SessionError::IndexLineUnreadable { place: place(), reason });
        }
        let Ok(text) = simdutf8::basic::from_utf8(line) else {
            let reason = "is not UTF-8".to_owned();
            return Err(SessionError::IndexLineUnreadable { place: place(), reason });
        };
        if text.trim().is_empty() {
            continue;
        }
        let row: OffsetIndexEntry = match serde_json::from_str(text) {
            Ok(row) => row,
            Err(error) => {
                // A file that was cut under its map reads as zeros, which must not be reported as bad JSON.
                source.check_len()?;
                return Err(SessionError::Json { place: place(), reason: error.to_string() });
            }
        };
        for (found, known) in [(&row.schema, OFFSET_INDEX_SCHEMA), (&row.state, ACTIVE)] {
            if found != known {
                let found = found.clone().into_owned();
                return Err(SessionError::UnsupportedRow { place: place(), found });
            }
        }
        parsed.push(RowNumbers::of(&row), &row.entry_id);
    }
    Ok(parsed)
}

/// Returns the place of the line at `offset`, its number included. Only for messages, because it reads everything before.
pub(super) fn place_of(source: &Source, offset: u64) -> LinePlace {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut buffer = Vec::new();
    let mut line = 1;
    let mut start = 0;
    while start < offset {
        let end = offset.min(start + PIECE_BYTES);
        let Ok(bytes) = source.bytes(start..end, &mut buffer) else { break };
        line += memchr::memchr_iter(b'\n', bytes).count() as u64;
        start = end;
    }
    LinePlace { path: source.path().to_owned(), line, offset }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(entry_seq: u64) -> RowNumbers {
        let crc = CrcText::of(entry_seq as u32 * 0x01234567);
        RowNumbers { entry_seq, segment_seq: 1, frame_seq: entry_seq, byte_offset: 7, byte_length: 11, crc }
    }

    proptest! {
        #[test]
        fn rows_survive_the_file_in_any_number_of_pieces(
            ids in proptest::collection::vec("\\PC{0,12}|x|y|\"|\\\\", 0..40),
            split in 0usize..40,
            cut in 0usize..40,
        ) {
            let mut rows = IndexRows::default();
            let (mut first, mut all) = (Vec::new(), Vec::new());
            for (at, id) in ids.iter().enumerate() {
                rows.push(numbers(at as u64 + 1), id);
                rows.write_line(at, &mut all);
                if at + 1 == split.min(ids.len()) {
                    first.clone_from(&all);
                }
            }
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("offsets.jsonl");
            std::fs::write(&path, &first).unwrap();
            let mut back = IndexRows::default();
            let file = read(&path, 0, &mut back).unwrap();
            std::fs::write(&path, &all).unwrap();
            let file = read(&path, file.len_bytes, &mut back).unwrap();
            prop_assert!(file.is_terminated);
            prop_assert_eq!(file.len_bytes, all.len() as u64);
            for with_cut in [false, true] {
                if with_cut {
                    rows.truncate(cut);
                    back.truncate(cut);
                }
                prop_assert_eq!(rows.len(), back.len());
                let kept = &ids[..rows.len()];
                for (at, id) in kept.iter().enumerate() {
                    prop_assert_eq!(rows.row(at), back.row(at));
                    prop_assert_eq!(back.find_id(id), kept.iter().rposition(|other| other == id));
                    prop_assert_eq!(back.find_seq(at as u64 + 1), Some(at));
                }
                for id in &ids[rows.len()..] {
                    prop_assert_eq!(back.find_id(id), kept.iter().rposition(|other| other == id));
                }
                prop_assert_eq!(back.total_bytes(), 11 * kept.len() as u64);
                prop_assert_eq!(
                    back.first_duplicate(),
                    (0..kept.len()).find(|at| kept[..*at].contains(&kept[*at]))
                );
            }
        }
    }

    #[test]
    fn unordered_rows_are_still_found() {
        let mut rows = IndexRows::default();
        for (seq, id) in [(3, "a"), (5, "b"), (4, "c"), (5, "d")] {
            rows.push(numbers(seq), id);
        }
        assert_eq!(rows.first_unordered(), Some(2));
        assert_eq!(rows.find_seq(5), Some(1));
        assert_eq!(rows.at_or_after(4), [1, 2, 3]);
        assert_eq!(rows.find_id("c"), Some(2));
    }

    #[test]
    fn crc_texts_are_upper_case() {
        assert_eq!(CrcText::of(crc32c::crc32c(b"123456789")).as_str(), "E3069283");
        assert_ne!(CrcText::read("e3069283"), CrcText::of(0xE306_9283));
        assert_eq!(CrcText::read("E30692830"), CrcText::read(""));
    }
}

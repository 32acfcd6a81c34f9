//! The offset index: its rows in memory, found by sequence and by id, and the file they come from.
//!
//! May read and map `index/offsets.jsonl`; writes nothing. Promises: a row costs 80 bytes of memory and its id; finding one
//! costs the same however many there are; rows appended to the file are read without reading the others again.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;

use super::canonical::{Canonical, push_number, push_string};
use super::error::{LinePlace, SessionError};
use super::format::{MAX_LINE_BYTES, OFFSET_INDEX_SCHEMA, OffsetIndexEntry};
use super::ids::IdTable;
use super::layout::refuse_link;
use crate::scan::{self, Io, ScanError, Source};

const ACTIVE: &str = "active";

/// How much of the index one task parses.
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
    /// The first byte behind the line; `None` when that overflows.
    pub(super) fn end(&self) -> Option<u64> {
        self.byte_offset.checked_add(self.byte_length)
    }
}

/// A CRC as an index row has it. A text of another length is kept as eight blanks, which no CRC equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CrcText([u8; 8]);

impl CrcText {
    pub(super) fn of(crc: u32) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let mut text = [0; 8];
        for (place, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[(crc >> (28 - 4 * place)) as usize & 15];
        }
        Self(text)
    }

    fn read(text: &str) -> Self {
        Self(text.as_bytes().try_into().unwrap_or([b' '; 8]))
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    numbers: RowNumbers,
    id_start: u64,
    id_len: u32,
    /// The row before this one with the same id.
    same_id: u32,
}

const NO_ROW: u32 = u32::MAX;

/// The rows of an index, in order.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    slots: Vec<Slot>,
    ids: String,
    by_id: IdTable,
    /// Ids are hashed once, with a key of this process.
    hasher: RandomState,
    /// The first row whose sequence is not above the one before.
    first_unordered: Option<u32>,
    /// The first row whose id an earlier one has.
    first_duplicate: Option<u32>,
    total_bytes: u64,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            ids: String::new(),
            by_id: IdTable::default(),
            hasher: RandomState::new(),
            first_unordered: None,
            first_duplicate: None,
            total_bytes: 0,
        }
    }
}

impl Rows {
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
        let slot = &self.slots[row];
        &self.ids[slot.id_start as usize..][..slot.id_len as usize]
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

    /// Sum of all line lengths.
    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The first row whose sequence is not above the one before, or is 0.
    pub(super) fn first_unordered(&self) -> Option<usize> {
        self.first_unordered.map(|row| row as usize)
    }

    /// The first row whose id an earlier one has.
    pub(super) fn first_duplicate(&self) -> Option<usize> {
        self.first_duplicate.map(|row| row as usize)
    }

    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    /// A row with this id; the last of several.
    pub(super) fn find_id(&self, id: &str) -> Option<usize> {
        self.by_id.find(self.hash(id), |row| self.id(row as usize) == id).map(|row| row as usize)
    }

    /// The first row with this sequence.
    pub(super) fn find_seq(&self, entry_seq: u64) -> Option<usize> {
        if self.first_unordered.is_none() {
            self.slots.binary_search_by_key(&entry_seq, |slot| slot.numbers.entry_seq).ok()
        } else {
            self.slots.iter().position(|slot| slot.numbers.entry_seq == entry_seq)
        }
    }

    /// The rows with this sequence or a higher one, in index order.
    pub(super) fn at_or_after(&self, entry_seq: u64) -> Vec<usize> {
        if self.first_unordered.is_none() {
            (self.slots.partition_point(|slot| slot.numbers.entry_seq < entry_seq)..self.len()).collect()
        } else {
            (0..self.len()).filter(|row| self.numbers(*row).entry_seq >= entry_seq).collect()
        }
    }

    /// The row of the frame that begins at this byte, in rows that are in the order of their frames.
    pub(super) fn find_place(&self, segment_seq: u64, byte_offset: u64) -> Option<usize> {
        let place = |slot: &Slot| (slot.numbers.segment_seq, slot.numbers.byte_offset);
        self.slots.binary_search_by_key(&(segment_seq, byte_offset), place).ok()
    }

    /// Whether so many rows more, of the index at `path`, can be held.
    pub(super) fn check_room(&self, path: &Path, more: usize) -> Result<(), SessionError> {
        if self.len() + more < NO_ROW as usize {
            return Ok(());
        }
        Err(SessionError::InvalidArgument {
            reason: format!("{} has more than {NO_ROW} rows, which no handle can hold", path.display()),
        })
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.slots.reserve(more);
        self.by_id.reserve(more);
    }

    /// As [`Rows::reserve`], where memory allows: for numbers that are only expected.
    pub(super) fn try_reserve(&mut self, more: usize) {
        if self.slots.try_reserve(more).is_ok() {
            self.by_id.try_reserve(more);
        }
    }

    /// Prepares for rows that are pushed next, some hundreds at most.
    pub(super) fn look_ahead(&self, id_hashes: impl Iterator<Item = u64>) {
        self.by_id.look_ahead(id_hashes);
    }

    pub(super) fn push(&mut self, numbers: RowNumbers, id: &str) {
        self.push_hashed(numbers, id, self.hash(id));
    }

    /// What ids are hashed with.
    pub(super) fn hasher(&self) -> RandomState {
        self.hasher.clone()
    }

    /// As [`Rows::push`], with the hash that [`Rows::hasher`] gives the id.
    pub(super) fn push_hashed(&mut self, numbers: RowNumbers, id: &str, hash: u64) {
        let row = self.slots.len() as u32;
        let floor = self.last().map_or(0, |last| last.entry_seq);
        if numbers.entry_seq <= floor {
            self.first_unordered.get_or_insert(row);
        }
        let id_of = |row: u32| {
            let slot: &Slot = &self.slots[row as usize];
            &self.ids[slot.id_start as usize..][..slot.id_len as usize]
        };
        let same_id = self.by_id.insert(hash, row, |other| id_of(other) == id);
        if same_id.is_some() {
            self.first_duplicate.get_or_insert(row);
        }
        let id_start = self.ids.len() as u64;
        self.ids.push_str(id);
        self.total_bytes = self.total_bytes.saturating_add(numbers.byte_length);
        let same_id = same_id.unwrap_or(NO_ROW);
        self.slots.push(Slot { numbers, id_start, id_len: id.len() as u32, same_id });
    }

    /// Keeps the first `len` rows.
    pub(super) fn truncate(&mut self, len: usize) {
        while self.slots.len() > len {
            let row = self.slots.len() - 1;
            let hash = self.hash(self.id(row));
            let Some(slot) = self.slots.pop() else { break };
            self.by_id.remove(hash, row as u32, Some(slot.same_id).filter(|row| *row != NO_ROW));
            self.ids.truncate(slot.id_start as usize);
            self.total_bytes = self.total_bytes.saturating_sub(slot.numbers.byte_length);
        }
        let below = |row: &u32| (*row as usize) < len;
        self.first_unordered = self.first_unordered.filter(below);
        self.first_duplicate = self.first_duplicate.filter(below);
    }

    /// Appends the line of a row, LF included.
    pub(super) fn write_line(&self, row: usize, out: &mut Vec<u8>) {
        write_row(&self.numbers(row), self.id(row), out);
    }

    /// The lines of a range of rows, in blocks of a few MiB, formatted on all cores.
    pub(super) fn write_lines(
        &self,
        rows: Range<usize>,
        mut write: impl FnMut(&[u8]) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        const BLOCK_ROWS: usize = 8192;
        const BLOCKS_AT_ONCE: usize = 8;
        let mut start = rows.start;
        while start < rows.end {
            let end = rows.end.min(start + BLOCK_ROWS * BLOCKS_AT_ONCE);
            let starts: Vec<usize> = (start..end).step_by(BLOCK_ROWS).collect();
            let blocks: Vec<Vec<u8>> = starts
                .into_par_iter()
                .map(|first| {
                    let mut block = Vec::with_capacity(BLOCK_ROWS * 200);
                    (first..end.min(first + BLOCK_ROWS)).for_each(|row| self.write_line(row, &mut block));
                    block
                })
                .collect();
            for block in &blocks {
                write(block)?;
            }
            start = end;
        }
        Ok(())
    }
}

/// Appends the line of a row, LF included.
pub(super) fn write_row(numbers: &RowNumbers, id: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"schema\":\"pi.session_store_v2.offset_index.v1\",\"entrySeq\":");
    push_number(out, numbers.entry_seq);
    out.extend_from_slice(b",\"entryId\":");
    push_string(out, id);
    out.extend_from_slice(b",\"segmentSeq\":");
    push_number(out, numbers.segment_seq);
    out.extend_from_slice(b",\"frameSeq\":");
    push_number(out, numbers.frame_seq);
    out.extend_from_slice(b",\"byteOffset\":");
    push_number(out, numbers.byte_offset);
    out.extend_from_slice(b",\"byteLength\":");
    push_number(out, numbers.byte_length);
    out.extend_from_slice(b",\"crc32c\":\"");
    out.extend_from_slice(&numbers.crc.0);
    out.extend_from_slice(b"\",\"state\":\"active\"}\n");
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyOrder<'a> {
    #[serde(borrow)]
    schema: Cow<'a, str>,
    entry_seq: u64,
    #[serde(borrow)]
    entry_id: Cow<'a, str>,
    segment_seq: u64,
    frame_seq: u64,
    byte_offset: u64,
    byte_length: u64,
    #[serde(borrow)]
    crc32c: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
}

enum NotARow {
    Json(String),
    Unsupported(String),
}

fn parse_canonical(text: &str) -> Option<(RowNumbers, Cow<'_, str>)> {
    let mut rest = Canonical::new(text);
    rest.literal("{\"schema\":\"pi.session_store_v2.offset_index.v1\",\"entrySeq\":")?;
    let entry_seq = rest.number()?;
    rest.literal(",\"entryId\":")?;
    let id = rest.string()?;
    rest.literal(",\"segmentSeq\":")?;
    let segment_seq = rest.number()?;
    rest.literal(",\"frameSeq\":")?;
    let frame_seq = rest.number()?;
    rest.literal(",\"byteOffset\":")?;
    let byte_offset = rest.number()?;
    rest.literal(",\"byteLength\":")?;
    let byte_length = rest.number()?;
    rest.literal(",\"crc32c\":")?;
    let crc = CrcText::read(rest.string()?);
    rest.literal(",\"state\":\"active\"}")?;
    let numbers = RowNumbers { entry_seq, segment_seq, frame_seq, byte_offset, byte_length, crc };
    rest.rest().is_empty().then_some((numbers, Cow::Borrowed(id)))
}

fn parse_row(text: &str) -> Result<(RowNumbers, Cow<'_, str>), NotARow> {
    if let Some(row) = parse_canonical(text) {
        return Ok(row);
    }
    let any: AnyOrder<'_> = serde_json::from_str(text).map_err(|error| NotARow::Json(error.to_string()))?;
    if any.schema != OFFSET_INDEX_SCHEMA {
        return Err(NotARow::Unsupported(any.schema.into_owned()));
    }
    if any.state != ACTIVE {
        return Err(NotARow::Unsupported(any.state.into_owned()));
    }
    let numbers = RowNumbers {
        entry_seq: any.entry_seq,
        segment_seq: any.segment_seq,
        frame_seq: any.frame_seq,
        byte_offset: any.byte_offset,
        byte_length: any.byte_length,
        crc: CrcText::read(&any.crc32c),
    };
    Ok((numbers, any.entry_id))
}

/// The rows of a chunk and the hashes of their ids; row offsets in `ids` are relative.
#[derive(Default)]
struct Parsed {
    rows: Vec<(RowNumbers, u32, u64)>,
    ids: String,
}

/// What is known of the index file that was read.
#[derive(Debug, Clone, Default)]
pub(super) struct IndexFile {
    /// Bytes read, all of them rows and blank lines.
    pub(super) len_bytes: u64,
    /// Whether the last line ends in LF, or there is none.
    pub(super) terminated: bool,
    /// Where the last line starts; a reader that comes back looks whether it is still there.
    pub(super) last_line: Range<u64>,
}

/// Reads rows of the index file from `from` (the start of a line) and appends them to `rows`. No file is an empty index.
///
/// After an error `rows` is unchanged.
pub(super) fn read(path: &Path, from: u64, rows: &mut Rows) -> Result<IndexFile, SessionError> {
    refuse_link(path)?;
    let source = match Source::open(path, Io::Mmap) {
        Ok(source) => source,
        Err(ScanError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(IndexFile { terminated: true, ..IndexFile::default() });
        }
        Err(error) => return Err(error.into()),
    };
    let len_bytes = source.len_bytes();
    let chunks =
        scan::chunks(&source, from.min(len_bytes)..len_bytes, CHUNK_BYTES).collect::<Result<Vec<_>, _>>()?;
    let hasher = rows.hasher.clone();
    let parsed = chunks
        .into_par_iter()
        .map(|chunk| parse_chunk(&source, chunk, &hasher))
        .collect::<Result<Vec<Parsed>, SessionError>>()?;
    let mut buffer = Vec::new();
    let last_start = source.line_end_before(0, len_bytes.saturating_sub(1))?;
    let terminated = len_bytes == 0 || source.bytes(len_bytes - 1..len_bytes, &mut buffer)? == b"\n";
    source.check_len()?;
    let count: usize = parsed.iter().map(|chunk| chunk.rows.len()).sum();
    rows.check_room(path, count)?;
    rows.reserve(count);
    for chunk in parsed {
        let mut start = 0;
        for (numbers, id_len, hash) in chunk.rows {
            rows.push_hashed(numbers, &chunk.ids[start..][..id_len as usize], hash);
            start += id_len as usize;
        }
    }
    Ok(IndexFile { len_bytes, terminated, last_line: last_start..len_bytes })
}

fn parse_chunk(source: &Source, chunk: Range<u64>, hasher: &RandomState) -> Result<Parsed, SessionError> {
    let mut buffer = Vec::new();
    let bytes = source.bytes(chunk.clone(), &mut buffer)?;
    let mut parsed = Parsed::default();
    for (offset, line) in scan::lines(chunk.start, bytes) {
        let place = || place_of(source, offset);
        if line.len() as u64 > MAX_LINE_BYTES {
            let reason = format!("is longer than {} bytes", MAX_LINE_BYTES);
            return Err(SessionError::IndexLineUnreadable { place: place(), reason });
        }
        let Ok(text) = str::from_utf8(line) else {
            return Err(SessionError::IndexLineUnreadable {
                place: place(),
                reason: "is not UTF-8".to_owned(),
            });
        };
        if text.trim().is_empty() {
            continue;
        }
        match parse_row(text) {
            Ok((numbers, id)) => {
                parsed.rows.push((numbers, id.len() as u32, hasher.hash_one(&*id)));
                parsed.ids.push_str(&id);
            }
            // A file cut off under the map shows zeros; say that, and not that they are no JSON.
            Err(_) if source.check_len().is_err() => source.check_len()?,
            Err(NotARow::Json(reason)) => return Err(SessionError::Json { place: place(), reason }),
            Err(NotARow::Unsupported(found)) => {
                return Err(SessionError::UnsupportedRow { place: place(), found });
            }
        }
    }
    Ok(parsed)
}

/// The place of the line at `offset`, with its number counted. Only for messages: it reads all that stands before.
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
            let mut rows = Rows::default();
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
            let mut back = Rows::default();
            let file = read(&path, 0, &mut back).unwrap();
            std::fs::write(&path, &all).unwrap();
            let file = read(&path, file.len_bytes, &mut back).unwrap();
            prop_assert!(file.terminated);
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
        let mut rows = Rows::default();
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

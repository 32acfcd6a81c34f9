//! The bytes of a journal's files: headers, records, the identity, and the table of skips.
//!
//! Touches nothing. Guarantees: what is encoded here decodes to itself; a length is followed only after its checksum was
//! compared. The byte tables are in `docs/journal.md`.

use std::ops::Range;

/// Version of the format, in segment headers and all other files.
pub const VERSION: u16 = 2;

const MAGIC_SIZE: usize = 8;
const VERSION_AT: usize = MAGIC_SIZE;
const FLAGS_AT: usize = VERSION_AT + 2;
const SIZE_AT: usize = FLAGS_AT + 2;
const CONTENT_AT: usize = SIZE_AT + 4;

/// What follows the content of a header or a small file: the CRC32C of everything before it, and four zeros.
const SEAL_LEN: usize = 8;

/// Size in bytes of a [`FileHeader`], whose content is an offset.
pub const HEADER_SIZE: u64 = (CONTENT_AT + 8 + SEAL_LEN) as u64;

const RECORD_CRC_AT: usize = 4;
const RECORD_HASH_AT: usize = RECORD_CRC_AT + 4;

/// What a record adds to its payload, in bytes: length, CRC32C and BLAKE3.
pub const RECORD_OVERHEAD: usize = RECORD_HASH_AT + 32;

/// The largest offset. A file that names a larger one is damaged; sums of offsets and lengths therefore never overflow.
pub(super) const MAX_OFFSET: u64 = i64::MAX as u64;

const HEADER_LEN: usize = HEADER_SIZE as usize;
const IDENTITY_MAGIC: [u8; MAGIC_SIZE] = *b"BURNJRNL";
const SKIPS_MAGIC: [u8; MAGIC_SIZE] = *b"BURNSKIP";

/// The bytes of a header or a small file: magic, version, no flags, `size`, content, seal. `size` is the length in bytes, or a number of
/// entries.
pub(crate) fn seal(magic: &[u8; MAGIC_SIZE], size: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CONTENT_AT + content.len() + SEAL_LEN);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; SIZE_AT - FLAGS_AT]);
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(content);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// Returns the size and the content of bytes that [`seal`] made. Every byte counts, the trailing zeros too.
pub(crate) fn unseal<'b>(magic: &[u8; MAGIC_SIZE], bytes: &'b [u8]) -> Result<(u32, &'b [u8]), HeaderFlaw> {
    let crc_at = bytes.len().saturating_sub(SEAL_LEN);
    let is_whole = crc_at >= CONTENT_AT
        && bytes[..MAGIC_SIZE] == *magic
        && crc32c::crc32c(&bytes[..crc_at]) == u32_at(bytes, crc_at)
        && bytes[crc_at + 4..] == [0; 4];
    if !is_whole {
        return Err(HeaderFlaw::Damaged);
    }
    let [version, flags] = [VERSION_AT, FLAGS_AT].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    if version != VERSION || flags != 0 {
        return Err(HeaderFlaw::Unsupported { version, flags });
    }
    Ok((u32_at(bytes, SIZE_AT), &bytes[CONTENT_AT..crc_at]))
}

/// The files that begin with a [`FileHeader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A segment. Its header has the offset of its first record.
    Segment,
    /// The synced mark: every record before its offset is on stable storage.
    SyncedMark,
    /// A cursor: the offset of the next record that its consumer wants.
    Cursor,
}

impl FileKind {
    fn magic(self) -> &'static [u8; MAGIC_SIZE] {
        match self {
            Self::Segment => b"BURNWAL\0",
            Self::SyncedMark => b"BURNSYNC",
            Self::Cursor => b"BURNCURS",
        }
    }

    /// Returns the encoded header of such a file.
    pub(super) fn encode(self, offset: u64) -> [u8; HEADER_LEN] {
        FileHeader { kind: self, offset }.encode()
    }

    /// Returns the offset in the header of such a file.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<u64, HeaderFlaw> {
        FileHeader::decode(self, bytes).map(|header| header.offset)
    }
}

/// The header of a segment; the synced mark and cursors are files that consist of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// What the file is.
    pub kind: FileKind,
    /// A global offset in bytes; [`FileKind`] says what it means.
    pub offset: u64,
}

/// Why bytes are not the header that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFlaw {
    /// They are too short, or fail their checksum, or have another magic.
    #[error("the header is too short, has another magic, or fails its checksum")]
    Damaged,
    /// They were written by a version of the format that this program does not know.
    #[error(
        "the header has format version {version} and flags {flags:#x}, or another size; this program knows version {} without \
         flags and with a header of {HEADER_SIZE} bytes",
        VERSION
    )]
    Unsupported {
        /// The version in the header.
        version: u16,
        /// The flags in the header.
        flags: u16,
    },
}

impl FileHeader {
    /// Returns the bytes of the header, [`HEADER_SIZE`] of them.
    pub fn encode(self) -> [u8; HEADER_SIZE as usize] {
        let mut bytes = [0; HEADER_LEN];
        let sealed = seal(self.kind.magic(), HEADER_LEN as u32, &self.offset.to_le_bytes());
        bytes.copy_from_slice(&sealed);
        bytes
    }

    /// The header at the start of `bytes`. Every byte counts, the trailing zeros too.
    ///
    /// # Errors
    /// [`HeaderFlaw`].
    pub fn decode(kind: FileKind, bytes: &[u8]) -> Result<Self, HeaderFlaw> {
        let (size, offset) = unseal(kind.magic(), bytes.get(..HEADER_LEN).unwrap_or_default())?;
        if size as usize != HEADER_LEN {
            return Err(HeaderFlaw::Unsupported { version: VERSION, flags: 0 });
        }
        let offset = u64_at(offset, 0);
        if offset <= MAX_OFFSET { Ok(Self { kind, offset }) } else { Err(HeaderFlaw::Damaged) }
    }
}

/// Returns the bytes of the file IDENTITY.
pub(super) fn encode_identity(identity: u128) -> Vec<u8> {
    let content = identity.to_be_bytes();
    seal(&IDENTITY_MAGIC, (CONTENT_AT + content.len() + SEAL_LEN) as u32, &content)
}

/// Returns the identity in the bytes of the file IDENTITY.
pub(super) fn decode_identity(bytes: &[u8]) -> Result<u128, HeaderFlaw> {
    let (_, content) = unseal(&IDENTITY_MAGIC, bytes)?;
    content.try_into().map(u128::from_be_bytes).map_err(|_| HeaderFlaw::Damaged)
}

/// A record that was read, with a payload of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The record's offset. If the requested offset is in a skipped range, the offset of the first record after this range.
    pub offset: u64,
    /// Where the next record starts, or will start.
    pub next_offset: u64,
    /// BLAKE3 of the payload, verified.
    pub hash: blake3::Hash,
    /// The payload, as it was appended.
    pub payload: Vec<u8>,
}

/// A record that was read, with its payload in the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'r> {
    /// As [`Record::offset`].
    pub offset: u64,
    /// As [`Record::next_offset`].
    pub next_offset: u64,
    /// As [`Record::hash`].
    pub hash: blake3::Hash,
    /// The payload, as it was appended.
    pub payload: &'r [u8],
}

impl RecordRef<'_> {
    /// The same record with a copy of the payload.
    pub fn to_record(self) -> Record {
        let Self { offset, next_offset, hash, payload } = self;
        Record { offset, next_offset, hash, payload: payload.to_vec() }
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordFlaw {
    /// The bytes end before the record does.
    Partial,
    Checksum,
    Hash,
}

/// A record, ready to be written.
#[derive(Debug)]
pub(super) struct EncodedRecord(Vec<u8>);

impl EncodedRecord {
    /// The caller has checked that the payload's length fits into 32 bits.
    pub(super) fn new(payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(RECORD_OVERHEAD + payload.len());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; RECORD_HASH_AT - RECORD_CRC_AT]);
        bytes.extend_from_slice(blake3::hash(payload).as_bytes());
        bytes.extend_from_slice(payload);
        let crc = record_crc(&bytes);
        bytes[RECORD_CRC_AT..RECORD_HASH_AT].copy_from_slice(&crc.to_le_bytes());
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns the CRC32C of the length, the hash and the payload of a whole record.
fn record_crc(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..RECORD_CRC_AT]), &record[RECORD_HASH_AT..])
}

/// Returns the length in bytes that the record at the start of `bytes` claims, or `None` when its first 40 bytes are not all there.
pub(super) fn record_len(bytes: &[u8]) -> Option<u64> {
    (bytes.len() >= RECORD_OVERHEAD).then(|| u64::from(u32_at(bytes, 0)) + RECORD_OVERHEAD as u64)
}

/// Returns the length in bytes of the record at the start of `bytes`, after its CRC was compared; the hash is not.
pub(super) fn checked_record(bytes: &[u8]) -> Result<usize, RecordFlaw> {
    let len = record_len(bytes).ok_or(RecordFlaw::Partial)?;
    let record = usize::try_from(len).ok().and_then(|len| bytes.get(..len)).ok_or(RecordFlaw::Partial)?;
    if record_crc(record) != stored_crc(record) {
        return Err(RecordFlaw::Checksum);
    }
    Ok(record.len())
}

/// Returns the length in bytes of the record at the start of `bytes`, after its CRC and its hash were compared.
pub(super) fn verified_record(bytes: &[u8]) -> Result<usize, RecordFlaw> {
    let len = checked_record(bytes)?;
    if has_its_hash(&bytes[..len]) { Ok(len) } else { Err(RecordFlaw::Hash) }
}

/// Whether a whole record has the BLAKE3 of its payload.
pub(super) fn has_its_hash(record: &[u8]) -> bool {
    blake3::hash(&record[RECORD_OVERHEAD..]) == stored_hash(record)
}

/// Returns the CRC that a record's bytes carry.
pub(super) fn stored_crc(record: &[u8]) -> u32 {
    u32_at(record, RECORD_CRC_AT)
}

/// Returns the hash that a record's bytes carry.
pub(super) fn stored_hash(record: &[u8]) -> blake3::Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&record[RECORD_HASH_AT..RECORD_OVERHEAD]);
    blake3::Hash::from_bytes(hash)
}

/// Where a journal starts, and the ranges of offsets that reads step over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Skips {
    /// Records before this offset were deleted by cleanup.
    pub(super) start: u64,
    /// In ascending order, neither empty nor adjacent.
    ranges: Vec<Range<u64>>,
}

impl Skips {
    pub(super) fn starting_at(start: u64) -> Self {
        Self { start, ranges: Vec::new() }
    }

    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Returns the first offset from `offset` on that is neither deleted nor skipped.
    pub(super) fn advance(&self, offset: u64) -> u64 {
        let offset = offset.max(self.start);
        let next = self.ranges.partition_point(|range| range.end <= offset);
        match self.ranges.get(next) {
            Some(range) if range.contains(&offset) => range.end,
            _ => offset,
        }
    }

    /// Returns the first range that starts after `offset`.
    pub(super) fn next_after(&self, offset: u64) -> Option<&Range<u64>> {
        self.ranges.get(self.ranges.partition_point(|range| range.start <= offset))
    }

    /// Adds a range and joins it with the ranges that it touches.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|known| known.end < range.start);
        let after = self.ranges.partition_point(|known| known.start <= range.end);
        let mut joined = range;
        for known in &self.ranges[first..after] {
            joined = joined.start.min(known.start)..joined.end.max(known.end);
        }
        self.ranges.splice(first..after, [joined]);
    }

    /// Moves the start forward; ranges before it are forgotten.
    pub(super) fn start_at(&mut self, start: u64) {
        self.start = start;
        self.ranges.retain(|range| range.end > start);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let offsets = self.ranges.iter().flat_map(|range| [range.start, range.end]);
        let content: Vec<u8> =
            std::iter::once(self.start).chain(offsets).flat_map(u64::to_le_bytes).collect();
        seal(&SKIPS_MAGIC, self.ranges.len() as u32, &content)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderFlaw> {
        let (count, content) = unseal(&SKIPS_MAGIC, bytes)?;
        let offsets: Vec<u64> = content.chunks_exact(8).map(|offset| u64_at(offset, 0)).collect();
        let is_whole = content.len() as u64 == 8 + 16 * u64::from(count)
            && offsets.iter().all(|offset| *offset <= MAX_OFFSET);
        let Some((start, ranges)) = offsets.split_first().filter(|_| is_whole) else {
            return Err(HeaderFlaw::Damaged);
        };
        let mut skips = Self::starting_at(*start);
        ranges.chunks_exact(2).for_each(|range| skips.insert(range[0]..range[1]));
        Ok(skips)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_with_any_bit_flipped_is_damaged() {
        for kind in [FileKind::Segment, FileKind::SyncedMark, FileKind::Cursor] {
            let bytes = kind.encode(0x0102_0304_0506_0708);
            assert_eq!(kind.decode(&bytes), Ok(0x0102_0304_0506_0708));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(kind.decode(&flipped), Err(HeaderFlaw::Damaged), "bit {bit}");
            }
            assert_eq!(kind.decode(&bytes[..31]), Err(HeaderFlaw::Damaged));
        }
        assert_eq!(FileKind::Cursor.decode(&FileKind::SyncedMark.encode(1)), Err(HeaderFlaw::Damaged));
    }

    #[test]
    fn an_identity_with_any_bit_flipped_is_damaged() {
        let bytes = encode_identity(0x0102_0304);
        assert_eq!(
            bytes[..36][..32],
            *b"BURNJRNL\x02\0\0\0\x28\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x03\x04"
        );
        assert_eq!(decode_identity(&bytes), Ok(0x0102_0304));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_identity(&flipped), Err(HeaderFlaw::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn an_offset_that_no_journal_reaches_is_damage() {
        assert_eq!(FileKind::Cursor.decode(&FileKind::Cursor.encode(MAX_OFFSET)), Ok(MAX_OFFSET));
        assert_eq!(
            FileKind::Cursor.decode(&FileKind::Cursor.encode(MAX_OFFSET + 1)),
            Err(HeaderFlaw::Damaged)
        );
        let mut skips = Skips::default();
        skips.insert(5..u64::MAX);
        assert_eq!(Skips::decode(&skips.encode()), Err(HeaderFlaw::Damaged));
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let header = FileKind::Segment.encode(0x1122);
        assert_eq!(header[..24], *b"BURNWAL\0\x02\0\0\0\x20\0\0\0\x22\x11\0\0\0\0\0\0");
        let record = EncodedRecord::new(b"abc");
        let bytes = record.bytes();
        assert_eq!(bytes.len(), 43);
        assert_eq!(bytes[..4], [3, 0, 0, 0]);
        assert_eq!(bytes[8..40], *blake3::hash(b"abc").as_bytes());
        let covered = [&bytes[..4], &bytes[8..]].concat();
        assert_eq!(bytes[4..8], crc32c::crc32c(&covered).to_le_bytes());
    }

    #[test]
    fn an_unknown_version_is_told_from_damage() {
        let mut bytes = FileKind::Segment.encode(7);
        bytes[8] = 3;
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileKind::Segment.decode(&bytes), Err(HeaderFlaw::Unsupported { version: 3, flags: 0 }));
    }

    #[test]
    fn a_wrong_hash_under_a_right_checksum_is_found() {
        let mut bytes = EncodedRecord::new(b"payload").0;
        bytes[8] ^= 1;
        let crc = record_crc(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(verified_record(&bytes), Err(RecordFlaw::Hash));
    }

    proptest! {
        #[test]
        fn skips_behave_like_a_set_of_offsets(
            start in 0u64..50,
            ranges in proptest::collection::vec((0u64..200, 0u64..30), 0..12),
        ) {
            let mut skips = Skips::starting_at(start);
            let mut skipped = [false; 300];
            for (from, len) in ranges {
                skips.insert(from..from + len);
                skipped[from as usize..(from + len) as usize].fill(true);
            }
            for offset in 0..260usize {
                let first = (offset.max(start as usize)..300).find(|at| !skipped[*at]);
                prop_assert_eq!(skips.advance(offset as u64), first.unwrap() as u64);
            }
            prop_assert!(skips.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
            let bytes = skips.encode();
            prop_assert_eq!(Skips::decode(&bytes).unwrap(), skips);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(Skips::decode(&flipped).is_err());
            }
        }
    }
}

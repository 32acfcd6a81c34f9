//! The bytes of a journal's files: stamps (segment header, synced mark, cursor), records, and the table of skips.
//!
//! Touches nothing. Promises: what is encoded here decodes to itself, whatever does not decode is named, and no length
//! field is followed before its checksum was compared. Byte tables are in `docs/journal.md`.

use std::ops::Range;

/// Version of the format, in segment headers and all other files.
pub const VERSION: u16 = 2;

/// Length in bytes of a segment's header, of the synced mark and of a cursor.
pub const HEADER_LEN_BYTES: u64 = 32;

/// What a record adds to its payload, in bytes: length, CRC32C and BLAKE3.
pub const RECORD_OVERHEAD: usize = 40;

/// No journal reaches this offset. A larger one, in a file or in its name, is none: sums of offsets and lengths stay in range.
pub(super) const MAX_OFFSET: u64 = i64::MAX as u64;

const STAMP_LEN: usize = HEADER_LEN_BYTES as usize;
const IDENTITY_MAGIC: [u8; 8] = *b"BURNJRNL";
const IDENTITY_LEN: usize = 40;
const SKIPS_MAGIC: [u8; 8] = *b"BURNSKIP";
const SKIPS_HEADER_LEN: usize = 24;

/// The kinds of 32-byte stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    Segment,
    Synced,
    Cursor,
}

/// Why 32 bytes are not the stamp they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StampFlaw {
    Damaged,
    Unsupported { version: u16, flags: u16 },
}

impl Stamp {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Segment => b"BURNWAL\0",
            Self::Synced => b"BURNSYNC",
            Self::Cursor => b"BURNCURS",
        }
    }

    pub(super) fn encode(self, offset: u64) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(self.magic());
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(STAMP_LEN as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&offset.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The offset in a stamp. Every byte counts: the trailing zeros too.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<u64, StampFlaw> {
        let is_whole = bytes.len() >= STAMP_LEN
            && &bytes[..8] == self.magic()
            && crc32c::crc32c(&bytes[..24]) == u32_at(bytes, 24)
            && bytes[28..32] == [0; 4];
        if !is_whole {
            return Err(StampFlaw::Damaged);
        }
        let (version, flags) = (u16_at(bytes, 8), u16_at(bytes, 10));
        if version != VERSION || flags != 0 || u32_at(bytes, 12) as usize != STAMP_LEN {
            return Err(StampFlaw::Unsupported { version, flags });
        }
        let offset = u64_at(bytes, 16);
        if offset <= MAX_OFFSET { Ok(offset) } else { Err(StampFlaw::Damaged) }
    }
}

/// The bytes of the file IDENTITY.
pub(super) fn encode_identity(identity: u128) -> [u8; IDENTITY_LEN] {
    let mut bytes = [0; IDENTITY_LEN];
    bytes[..8].copy_from_slice(&IDENTITY_MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(IDENTITY_LEN as u32).to_le_bytes());
    bytes[16..32].copy_from_slice(&identity.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The identity in the bytes of the file IDENTITY.
pub(super) fn decode_identity(bytes: &[u8]) -> Result<u128, StampFlaw> {
    let is_whole = bytes.len() == IDENTITY_LEN
        && bytes[..8] == IDENTITY_MAGIC
        && crc32c::crc32c(&bytes[..32]) == u32_at(bytes, 32)
        && bytes[36..] == [0; 4];
    if !is_whole {
        return Err(StampFlaw::Damaged);
    }
    let (version, flags) = (u16_at(bytes, 8), u16_at(bytes, 10));
    if version != VERSION || flags != 0 {
        return Err(StampFlaw::Unsupported { version, flags });
    }
    let mut identity = [0; 16];
    identity.copy_from_slice(&bytes[16..32]);
    Ok(u128::from_be_bytes(identity))
}

/// Why the bytes at some place are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordFlaw {
    /// They end before the record does.
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
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(blake3::hash(payload).as_bytes());
        bytes.extend_from_slice(payload);
        let crc = record_crc(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The CRC32C over length, hash and payload of a whole record's bytes.
fn record_crc(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..])
}

/// Length in bytes of the whole record that would start here, or `None` when its first 40 bytes are not all there.
pub(super) fn record_len(bytes: &[u8]) -> Option<u64> {
    (bytes.len() >= RECORD_OVERHEAD).then(|| u64::from(u32_at(bytes, 0)) + RECORD_OVERHEAD as u64)
}

/// The record at the start of `bytes` with a fitting CRC, and its length in bytes. The hash is not compared.
pub(super) fn checked_record(bytes: &[u8]) -> Result<usize, RecordFlaw> {
    let len = record_len(bytes).ok_or(RecordFlaw::Partial)?;
    let record = usize::try_from(len).ok().and_then(|len| bytes.get(..len)).ok_or(RecordFlaw::Partial)?;
    if record_crc(record) != stored_crc(record) {
        return Err(RecordFlaw::Checksum);
    }
    Ok(record.len())
}

/// The record at the start of `bytes`, CRC and hash compared, and its length in bytes.
pub(super) fn verified_record(bytes: &[u8]) -> Result<usize, RecordFlaw> {
    let len = checked_record(bytes)?;
    if has_its_hash(&bytes[..len]) { Ok(len) } else { Err(RecordFlaw::Hash) }
}

/// Whether the BLAKE3 of a whole record's payload is the one it carries.
pub(super) fn has_its_hash(record: &[u8]) -> bool {
    blake3::hash(&record[RECORD_OVERHEAD..]) == stored_hash(record)
}

/// The CRC that a record's bytes carry.
pub(super) fn stored_crc(record: &[u8]) -> u32 {
    u32_at(record, 4)
}

/// The hash that a record's bytes carry.
pub(super) fn stored_hash(record: &[u8]) -> blake3::Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&record[8..RECORD_OVERHEAD]);
    blake3::Hash::from_bytes(hash)
}

/// Where a journal starts, and the ranges of offsets that reads step over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Skips {
    /// Records before this offset were deleted by cleanup.
    pub(super) start: u64,
    /// Ascending, apart from each other, none empty.
    ranges: Vec<Range<u64>>,
}

impl Skips {
    pub(super) fn starting_at(start: u64) -> Self {
        Self { start, ranges: Vec::new() }
    }

    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// The first offset at or behind `offset` that is neither deleted nor skipped.
    pub(super) fn advance(&self, offset: u64) -> u64 {
        let offset = offset.max(self.start);
        let next = self.ranges.partition_point(|range| range.end <= offset);
        match self.ranges.get(next) {
            Some(range) if range.contains(&offset) => range.end,
            _ => offset,
        }
    }

    /// The first range that starts behind `offset`.
    pub(super) fn next_after(&self, offset: u64) -> Option<&Range<u64>> {
        self.ranges.get(self.ranges.partition_point(|range| range.start <= offset))
    }

    /// Adds a range, joining it with those it touches.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|known| known.end < range.start);
        let behind = self.ranges.partition_point(|known| known.start <= range.end);
        let mut joined = range;
        for known in &self.ranges[first..behind] {
            joined = joined.start.min(known.start)..joined.end.max(known.end);
        }
        self.ranges.splice(first..behind, [joined]);
    }

    /// Moves the start forward; ranges before it are forgotten.
    pub(super) fn start_at(&mut self, start: u64) {
        self.start = start;
        self.ranges.retain(|range| range.end > start);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SKIPS_HEADER_LEN + 16 * self.ranges.len() + 8);
        bytes.extend_from_slice(&SKIPS_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&(self.ranges.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.start.to_le_bytes());
        for range in &self.ranges {
            bytes.extend_from_slice(&range.start.to_le_bytes());
            bytes.extend_from_slice(&range.end.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StampFlaw> {
        let crc_at = bytes.len().saturating_sub(8);
        let is_whole = bytes.len() >= SKIPS_HEADER_LEN + 8
            && bytes[..8] == SKIPS_MAGIC
            && (crc_at - SKIPS_HEADER_LEN) as u64 == 16 * u64::from(u32_at(bytes, 12))
            && crc32c::crc32c(&bytes[..crc_at]) == u32_at(bytes, crc_at)
            && bytes[crc_at + 4..] == [0; 4];
        if !is_whole {
            return Err(StampFlaw::Damaged);
        }
        let (version, flags) = (u16_at(bytes, 8), u16_at(bytes, 10));
        if version != VERSION || flags != 0 {
            return Err(StampFlaw::Unsupported { version, flags });
        }
        let offsets = bytes[16..crc_at].chunks_exact(8).map(|offset| u64_at(offset, 0));
        if offsets.max().is_some_and(|largest| largest > MAX_OFFSET) {
            return Err(StampFlaw::Damaged);
        }
        let mut skips = Self::starting_at(u64_at(bytes, 16));
        for entry in bytes[SKIPS_HEADER_LEN..crc_at].chunks_exact(16) {
            skips.insert(u64_at(entry, 0)..u64_at(entry, 8));
        }
        Ok(skips)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
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
    fn a_stamp_with_any_bit_flipped_is_damaged() {
        for stamp in [Stamp::Segment, Stamp::Synced, Stamp::Cursor] {
            let bytes = stamp.encode(0x0102_0304_0506_0708);
            assert_eq!(stamp.decode(&bytes), Ok(0x0102_0304_0506_0708));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(stamp.decode(&flipped), Err(StampFlaw::Damaged), "bit {bit}");
            }
            assert_eq!(stamp.decode(&bytes[..31]), Err(StampFlaw::Damaged));
        }
        assert_eq!(Stamp::Cursor.decode(&Stamp::Synced.encode(1)), Err(StampFlaw::Damaged));
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
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_identity(&flipped), Err(StampFlaw::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn an_offset_that_no_journal_reaches_is_damage() {
        assert_eq!(Stamp::Cursor.decode(&Stamp::Cursor.encode(MAX_OFFSET)), Ok(MAX_OFFSET));
        assert_eq!(Stamp::Cursor.decode(&Stamp::Cursor.encode(MAX_OFFSET + 1)), Err(StampFlaw::Damaged));
        let mut skips = Skips::default();
        skips.insert(5..u64::MAX);
        assert_eq!(Skips::decode(&skips.encode()), Err(StampFlaw::Damaged));
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let header = Stamp::Segment.encode(0x1122);
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
        let mut bytes = Stamp::Segment.encode(7);
        bytes[8] = 3;
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Stamp::Segment.decode(&bytes), Err(StampFlaw::Unsupported { version: 3, flags: 0 }));
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

//! Finds the next valid record after a damaged one.
//!
//! Reads only its bytes. Guarantees: every byte is tried, so a record is found wherever it starts; no byte is read more than
//! a fixed number of times, for any lengths that the candidates claim.
//!
//! Worked example, with `P(k)` the CRC of the first `k` bytes:
//!
//! 1. The bytes are 1,000 long. One pass stores `P(0)`, `P(64)`, `P(128)`, and so on.
//! 2. A candidate at 100 claims a record of 700 bytes, from 100 to 800.
//! 3. `P(800)` is `P(768)` continued over 32 bytes; `P(108)`, after length and CRC, is `P(64)` continued over 44 bytes.
//! 4. The CRC of the bytes from 108 to 800 is `P(800)` xor `P(108)` shifted over 692 zeros.
//! 5. A shift is two multiplications of polynomials, so the candidate costs 76 bytes and two multiplications instead of 700 bytes.
//!
//! Rejected: combining by `crc32c_combine`, which multiplies once for each bit of the length; comparing BLAKE3 without a
//! limit, because a file can be made in which every 40th byte starts a candidate with a fitting CRC, a wrong BLAKE3 and a
//! length up to the end of the file.

use std::sync::LazyLock;

use super::format::{RecordFlaw, checked_record, has_its_hash, record_len, stored_crc};

/// CRC-32C (Castagnoli), reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The polynomials `x^0` and `x^8`, in the reflected order of bits.
const ONE: u32 = 1 << 31;
const ONE_BYTE: u32 = ONE >> 8;

const CHECKPOINT_EVERY: usize = 64;

/// Shorter ranges are summed directly: faster than combining.
const DIRECT_LEN: usize = 512;

/// BLAKE3 is compared for candidates of so many times the length of the searched bytes; then a matching CRC is enough. A random
/// candidate has a matching CRC once in 2^32, so only bytes that were made for it reach the limit.
const HASHED_TIMES: usize = 4;

/// Shifts over `i` bytes, by `i`: `x^(8 i)` modulo the polynomial.
static SHORT_SHIFTS: LazyLock<Vec<u32>> = LazyLock::new(|| powers(ONE_BYTE, 1 << SHORT_BITS));
const SHORT_BITS: u32 = 12;

/// Returns the first `len` powers of `factor`.
fn powers(factor: u32, len: usize) -> Vec<u32> {
    std::iter::successors(Some(ONE), |power| Some(multiply(factor, *power))).take(len).collect()
}

fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        product ^= b & (a >> bit & 1).wrapping_neg();
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
    }
    product
}

/// Finds valid records in the bytes of one segment.
pub(super) struct Resync<'b> {
    bytes: &'b [u8],
    /// Where the checkpoints begin.
    from: usize,
    /// CRC of `bytes[from..from + 64 k]`, by `k`.
    checkpoints: Vec<u32>,
    /// Shifts over `i * 2^SHORT_BITS` bytes, by `i`.
    long_shifts: Vec<u32>,
    /// How many bytes of candidates may still be hashed.
    to_hash: usize,
}

impl<'b> Resync<'b> {
    /// Prepares a search of `bytes` from `from` on.
    pub(super) fn new(bytes: &'b [u8], from: usize) -> Self {
        let searched = &bytes[from..];
        let mut crc = 0;
        let mut checkpoints = vec![crc];
        for chunk in searched.chunks(CHECKPOINT_EVERY) {
            crc = crc32c::crc32c_append(crc, chunk);
            checkpoints.push(crc);
        }
        let step = multiply(ONE_BYTE, SHORT_SHIFTS[SHORT_SHIFTS.len() - 1]);
        let long_shifts = powers(step, (searched.len() >> SHORT_BITS) + 1);
        let to_hash = searched.len().saturating_mul(HASHED_TIMES);
        Self { bytes, from, checkpoints, long_shifts, to_hash }
    }

    /// Returns the position of the first valid record that starts at or after `from`.
    pub(super) fn next_record(&mut self, from: usize) -> Option<usize> {
        for at in from..self.bytes.len() {
            // Zeros are common and never a record: the hash of an empty payload is not zero.
            if self.bytes[at..].starts_with(&[0; 8]) {
                continue;
            }
            let Ok(len) = self.checked_record(at) else { continue };
            if len > self.to_hash || has_its_hash(&self.bytes[at..at + len]) {
                return Some(at);
            }
            self.to_hash -= len;
        }
        None
    }

    /// Returns the result of [`checked_record`] for the bytes at `at`, without reading all of them.
    pub(super) fn checked_record(&self, at: usize) -> Result<usize, RecordFlaw> {
        let rest = &self.bytes[at..];
        let len = record_len(rest).and_then(|len| usize::try_from(len).ok()).ok_or(RecordFlaw::Partial)?;
        if len <= DIRECT_LEN || len > rest.len() {
            return checked_record(rest);
        }
        let crc =
            self.prefix(at + len) ^ self.shift(crc32c::crc32c(&rest[..4]) ^ self.prefix(at + 8), len - 8);
        if crc == stored_crc(rest) { Ok(len) } else { Err(RecordFlaw::Checksum) }
    }

    /// `crc` continued over `len` zeros.
    fn shift(&self, crc: u32, len: usize) -> u32 {
        let short = SHORT_SHIFTS[len & ((1 << SHORT_BITS) - 1)];
        multiply(self.long_shifts[len >> SHORT_BITS], multiply(short, crc))
    }

    /// Returns the CRC of `bytes[from..end]`.
    fn prefix(&self, end: usize) -> u32 {
        let whole = (end - self.from) / CHECKPOINT_EVERY;
        let tail = self.from + whole * CHECKPOINT_EVERY;
        crc32c::crc32c_append(self.checkpoints[whole], &self.bytes[tail..end])
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::EncodedRecord;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_record_is_found_wherever_it_starts(
            garbage in proptest::collection::vec(any::<u8>(), 0..300),
            zeros in 0usize..100,
            from in 0usize..40,
            payload_len in prop_oneof![0usize..60, 400usize..600, 4000usize..9000],
            behind in 0usize..70,
        ) {
            let mut bytes = garbage;
            bytes.resize(bytes.len().max(from) + zeros, 0);
            let at = bytes.len();
            let payload: Vec<u8> = (0..payload_len).map(|i| (i * 31 % 256) as u8).collect();
            bytes.extend_from_slice(EncodedRecord::new(&payload).bytes());
            bytes.resize(bytes.len() + behind, 0xA5);
            let mut resync = Resync::new(&bytes, from);
            prop_assert_eq!(resync.next_record(from), Some(at));
            prop_assert_eq!(resync.next_record(at), Some(at));
            prop_assert_eq!(resync.next_record(at + 1), None);
        }
    }

    #[test]
    fn a_long_hostile_range_is_searched_in_bounded_time() {
        // Every fourth byte starts a length that fits: the worst for a search that sums every candidate.
        let bytes: Vec<u8> = (0..1 << 18).flat_map(|_| 200_000u32.to_le_bytes()).collect();
        let started = std::time::Instant::now();
        assert_eq!(Resync::new(&bytes, 0).next_record(0), None);
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}

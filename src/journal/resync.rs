//! Finding the next valid record behind a damaged one.
//!
//! Touches nothing but the bytes it is given. Promises: tries every byte, so a record is found wherever it stands, and
//! costs about a microsecond a candidate however long the candidate claims to be: the CRC of any range follows from the
//! CRCs of two prefixes, of which one in 64 bytes is kept.

use super::format::{RECORD_OVERHEAD, record_len, verified_record};

/// CRC-32C (Castagnoli), reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const CHECKPOINT_EVERY: usize = 64;

/// Shorter ranges are summed directly: faster than combining.
const DIRECT_LEN: usize = 4096;

/// `x^(8 * 2^k)` modulo the polynomial, by `k`: what shifts a CRC over `2^k` bytes.
const SHIFTS: [u32; 33] = {
    let mut shifts = [0; 33];
    // x^8, in the reflected order of bits.
    shifts[0] = 0x8000_0000 >> 8;
    let mut k = 1;
    while k < shifts.len() {
        shifts[k] = multiply(shifts[k - 1], shifts[k - 1]);
        k += 1;
    }
    shifts
};

const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut bit = 1 << 31;
    let mut product = 0;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        bit >>= 1;
    }
    product
}

/// What `crc` becomes when it is taken on over `len` further bytes, apart from what those bytes add.
fn shift(crc: u32, len: usize) -> u32 {
    let mut crc = crc;
    for (k, factor) in SHIFTS.iter().enumerate() {
        if len >> k & 1 == 1 {
            crc = multiply(*factor, crc);
        }
    }
    crc
}

/// Finds valid records in the bytes of one segment.
pub(super) struct Resync<'b> {
    bytes: &'b [u8],
    /// Where the checkpoints begin.
    from: usize,
    /// CRC of `bytes[from..from + 64 k]`, by `k`.
    checkpoints: Vec<u32>,
}

impl<'b> Resync<'b> {
    /// Searches `bytes` at `from` and behind it.
    pub(super) fn new(bytes: &'b [u8], from: usize) -> Self {
        let mut crc = 0;
        let mut checkpoints = vec![crc];
        for chunk in bytes[from..].chunks(CHECKPOINT_EVERY) {
            crc = crc32c::crc32c_append(crc, chunk);
            checkpoints.push(crc);
        }
        Self { bytes, from, checkpoints }
    }

    /// The position of the first valid record that starts at or behind `from`.
    pub(super) fn next_record(&self, from: usize) -> Option<usize> {
        let last = self.bytes.len().checked_sub(RECORD_OVERHEAD)?;
        // Zeros are common and never a record: the hash of an empty payload is not zero.
        (from..=last).find(|&at| self.bytes[at..at + 8] != [0; 8] && self.is_record(at))
    }

    fn is_record(&self, at: usize) -> bool {
        let rest = &self.bytes[at..];
        let Some(len) = record_len(rest).and_then(|len| usize::try_from(len).ok()) else { return false };
        if len > rest.len() {
            return false;
        }
        if len > DIRECT_LEN {
            let length_crc = crc32c::crc32c(&rest[..4]);
            let covered = len - 8;
            let crc = self.prefix(at + len) ^ shift(length_crc ^ self.prefix(at + 8), covered);
            if crc.to_le_bytes() != rest[4..8] {
                return false;
            }
        }
        verified_record(rest).is_ok()
    }

    /// CRC of `bytes[from..end]`.
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
        fn a_record_is_found_wherever_it_stands(
            garbage in proptest::collection::vec(any::<u8>(), 0..300),
            zeros in 0usize..100,
            from in 0usize..40,
            payload_len in prop_oneof![0usize..60, 4000usize..9000],
            behind in 0usize..70,
        ) {
            let mut bytes = garbage;
            bytes.resize(bytes.len().max(from) + zeros, 0);
            let at = bytes.len();
            let payload: Vec<u8> = (0..payload_len).map(|i| (i * 31 % 256) as u8).collect();
            bytes.extend_from_slice(EncodedRecord::new(&payload).bytes());
            bytes.resize(bytes.len() + behind, 0xA5);
            let resync = Resync::new(&bytes, from);
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

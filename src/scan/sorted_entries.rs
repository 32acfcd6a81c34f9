//! Finds entries in a sorted part of a file by their keys, which are hashes.
//!
//! Touches only the source. Because hashes are spread evenly, the place of a key is estimated instead of halving the whole
//! part: mostly two windows of 1 KiB are looked at, in a file of any length, mapped or not.

use super::source::{ScanError, Source};

/// The length of an entry in bytes.
pub(crate) const ENTRY_LEN_BYTES: usize = 16;

/// How many entries are looked at together.
const WINDOW_ENTRIES: u64 = 64;

/// After so many estimates the rest is halved, because the keys are not spread evenly.
const ESTIMATES_MAX: u32 = 8;

/// A sorted part of a file.
pub(crate) struct SortedEntries<'s> {
    pub source: &'s Source,
    /// Where the entries begin, in bytes.
    pub at: u64,
    pub count: u64,
    /// Returns the key of an entry.
    pub key_of: fn(&[u8; ENTRY_LEN_BYTES]) -> u64,
}

impl SortedEntries<'_> {
    /// Returns the number of entries with keys below `key`: the place of the first entry with this key, if there is one.
    pub(crate) fn count_below(&self, key: u64, buffer: &mut Vec<u8>) -> Result<u64, ScanError> {
        // The place is in `low..=high`. The entry before `low` has `low_key` or less, the entry at `high` has `high_key` or more.
        let (mut low, mut high) = (0, self.count);
        let (mut low_key, mut high_key) = (0, u64::MAX);
        for step in 0.. {
            let start = if high - low <= WINDOW_ENTRIES {
                low
            } else {
                // In a damaged file the keys need not be in order.
                let (part, whole) = match step < ESTIMATES_MAX {
                    true => (key.saturating_sub(low_key), high_key.saturating_sub(low_key).max(1)),
                    false => (1, 2),
                };
                let ahead = u128::from(part.min(whole)) * u128::from(high - low) / u128::from(whole);
                (low + ahead as u64).saturating_sub(WINDOW_ENTRIES / 2).clamp(low, high - WINDOW_ENTRIES)
            };
            let end = high.min(start + WINDOW_ENTRIES);
            let window = self.entries(start..end, buffer)?;
            let below = window.partition_point(|entry| (self.key_of)(entry) < key) as u64;
            let (first, last) = (window.first(), window.last());
            match (first, last) {
                (Some(first), _) if below == 0 && start > low => {
                    (high, high_key) = (start, (self.key_of)(first))
                }
                (_, Some(last)) if start + below == end && end < high => {
                    (low, low_key) = (end, (self.key_of)(last))
                }
                _ => return Ok(start + below),
            }
        }
        Ok(low)
    }

    /// Returns the entries at these places.
    pub(crate) fn entries<'b>(
        &'b self,
        places: std::ops::Range<u64>,
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [[u8; ENTRY_LEN_BYTES]], ScanError> {
        let byte_at = |place: u64| self.at + place * ENTRY_LEN_BYTES as u64;
        let bytes = self.source.bytes(byte_at(places.start)..byte_at(places.end), buffer)?;
        Ok(bytes.as_chunks().0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::source::Io;

    #[test]
    fn a_key_is_found_however_the_keys_are_spread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let keys: [(u64, &dyn Fn(u64) -> u64); 5] = [
            (20_000, &mixed),
            (5_000, &|n| n),
            (5_000, &|n| u64::MAX - n / 100),
            (3_000, &|n| 1_u64.rotate_left(n as u32)),
            (0, &mixed),
        ];
        for (count, key) in keys {
            let mut sorted: Vec<u64> = (0..count).map(key).collect();
            sorted.sort_unstable();
            let entries = sorted.iter().flat_map(|key| [key.to_le_bytes(), [0; 8]].concat());
            std::fs::write(&path, [7; 5].into_iter().chain(entries).collect::<Vec<u8>>()).unwrap();
            for io in [Io::Mmap, Io::Read] {
                let source = Source::open(&path, io).unwrap();
                let key_of =
                    |entry: &[u8; ENTRY_LEN_BYTES]| u64::from_le_bytes(*entry.first_chunk().unwrap());
                let entries = SortedEntries { source: &source, at: 5, count, key_of };
                let mut buffer = Vec::new();
                let near = sorted
                    .iter()
                    .step_by(17)
                    .flat_map(|key| [key.saturating_sub(1), *key, key.saturating_add(1)]);
                for key in near.chain([0, 1, u64::MAX]) {
                    let below = sorted.partition_point(|other| *other < key) as u64;
                    assert_eq!(entries.count_below(key, &mut buffer).unwrap(), below, "{key} of {count}");
                }
            }
        }
    }

    #[test]
    fn a_search_among_keys_out_of_order_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let entries = (0..5_000).flat_map(|n| [mixed(n).to_be_bytes(), [0; 8]].concat());
        std::fs::write(&path, entries.collect::<Vec<u8>>()).unwrap();
        let source = Source::open(&path, Io::Read).unwrap();
        let key_of = |entry: &[u8; ENTRY_LEN_BYTES]| u64::from_be_bytes(*entry.first_chunk().unwrap());
        let entries = SortedEntries { source: &source, at: 0, count: 5_000, key_of };
        for n in 0..5_000 {
            assert!(entries.count_below(mixed(n * 7), &mut Vec::new()).unwrap() <= 5_000);
        }
    }
}

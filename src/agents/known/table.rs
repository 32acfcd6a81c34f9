//! Reads and writes the file `ingest.known`: five sorted tables of hashes, in which a look-up reads only a few entries.
//!
//! `docs/agents.md` has the table of its bytes.
//!
//! Guarantees: a file is used only as long as the ledger has the bytes of its witness; it is replaced as a whole. The
//! entries have no checksum, because a wrong entry can only make a repeated message look new, or a new message look
//! repeated.

use std::path::Path;

use super::AgentsError;
use crate::disk::{self, Replacing};
use crate::scan::{self, Io, ScanError, SortedEntries, Source};

const MAGIC: &[u8; 8] = b"BURNKNW3";
const COVERED_AT: usize = 8;
const WITNESS_AT: usize = COVERED_AT + 8;
const COUNTS_AT: usize = WITNESS_AT + 8;
const SUM_AT: usize = COUNTS_AT + 8 * TABLES;
const HEADER_LEN_BYTES: usize = SUM_AT + 8;
const TABLES: usize = 5;
const ENTRY_LEN_BYTES: u64 = scan::ENTRY_LEN_BYTES as u64;
/// A longer file is read and not mapped, because its pages would stay in memory as long as the map does.
const MAP_MAX_BYTES: u64 = 8 << 20;
const WITNESS_BYTES: u64 = 4096;
/// How many entries are read at a time when a whole table is read.
const PIECE_ENTRIES: u64 = 64 << 10;

/// The tables by their places in the file.
pub(super) const MESSAGES: usize = 0;
pub(super) const RESULTS: usize = 1;
pub(super) const EVENTS: usize = 2;
pub(super) const HOOKED: usize = 3;
/// The bits of a number that is at least 0. Of several numbers with one key the greatest counts.
pub(super) const HIGHEST: usize = 4;

/// The entries of each table, in any order.
pub(super) type KnownEntries = [Vec<(u64, u64)>; TABLES];

/// The open file.
#[derive(Debug)]
pub(super) struct Base {
    source: Source,
    covered_bytes: u64,
    counts: [u64; TABLES],
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

fn sum(bytes: &[u8]) -> u64 {
    word(blake3::hash(bytes).as_bytes(), 0)
}

/// A hash of the first and the last bytes of a part of the ledger.
pub(super) fn witness(ledger: &Source, covered_bytes: u64) -> Result<u64, ScanError> {
    let mut buffer = Vec::new();
    let from = covered_bytes.saturating_sub(WITNESS_BYTES);
    let mut hasher = blake3::Hasher::new();
    // The witness includes the beginning, because an edit may be far from the last read bytes.
    for range in [0..covered_bytes.min(WITNESS_BYTES), from..covered_bytes] {
        hasher.update(ledger.read(range, &mut buffer)?);
    }
    Ok(word(hasher.finalize().as_bytes(), 0))
}

impl Base {
    /// Opens the file. None when the file is missing or was made from another ledger.
    pub(super) fn open(path: &Path, ledger: &Source) -> Option<Self> {
        let source = Source::open(path, Io::default()).ok()?.unmap_if_longer_than(MAP_MAX_BYTES);
        let mut buffer = Vec::new();
        if source.len_bytes() < HEADER_LEN_BYTES as u64 {
            return None;
        }
        let header = source.read(0..HEADER_LEN_BYTES as u64, &mut buffer).ok()?;
        let covered_bytes = word(header, COVERED_AT);
        let counts = [0, 1, 2, 3, 4].map(|table| word(header, COUNTS_AT + 8 * table));
        let entries = counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count))?;
        let len_bytes = entries.checked_mul(ENTRY_LEN_BYTES)?.checked_add(HEADER_LEN_BYTES as u64)?;
        let is_sound = header.starts_with(MAGIC)
            && sum(&header[..SUM_AT]) == word(header, SUM_AT)
            && len_bytes == source.len_bytes()
            && covered_bytes <= ledger.len_bytes();
        let told = word(header, WITNESS_AT);
        (is_sound && witness(ledger, covered_bytes).is_ok_and(|found| found == told)).then_some(Base {
            source,
            covered_bytes,
            counts,
        })
    }

    pub(super) fn covered_bytes(&self) -> u64 {
        self.covered_bytes
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.source.len_bytes()
    }

    fn table(&self, table: usize) -> SortedEntries<'_> {
        SortedEntries {
            source: &self.source,
            at: HEADER_LEN_BYTES as u64 + self.counts[..table].iter().sum::<u64>() * ENTRY_LEN_BYTES,
            count: self.counts[table],
            key_of: |entry| word(entry, 0),
        }
    }

    /// The values of a key. A file that cannot be read has none.
    pub(super) fn values(&self, table: usize, key: u64) -> Vec<u64> {
        Self::read_values(&self.table(table), key).unwrap_or_default()
    }

    fn read_values(table: &SortedEntries<'_>, key: u64) -> Result<Vec<u64>, ScanError> {
        let (mut buffer, mut values) = (Vec::new(), Vec::new());
        let mut place = table.count_below(key, &mut buffer)?;
        while place < table.count {
            let entry = table.entries(place..place + 1, &mut buffer)?[0];
            if word(&entry, 0) != key {
                break;
            }
            values.push(word(&entry, 8));
            place += 1;
        }
        Ok(values)
    }

    /// Calls back with all entries of a table in order.
    fn each(
        &self,
        table: usize,
        take: &mut dyn FnMut((u64, u64)) -> Result<(), AgentsError>,
    ) -> Result<(), AgentsError> {
        let (table, mut buffer) = (self.table(table), Vec::new());
        for start in (0..table.count).step_by(PIECE_ENTRIES as usize) {
            for entry in table.entries(start..table.count.min(start + PIECE_ENTRIES), &mut buffer)? {
                take((word(entry, 0), word(entry, 8)))?;
            }
        }
        Ok(())
    }
}

/// Writes the file with the entries of `base` and the added entries.
pub(super) fn write(
    path: &Path,
    base: Option<&Base>,
    mut added: KnownEntries,
    ledger: &Source,
    covered_bytes: u64,
) -> Result<(), AgentsError> {
    let Ok(witness) = witness(ledger, covered_bytes) else { return Ok(()) };
    let mut counts = [0; TABLES];
    for (table, entries) in added.iter_mut().enumerate() {
        entries.sort_unstable();
        counts[table] = entries.len() as u64 + base.map_or(0, |base| base.counts[table]);
    }
    let mut header = MAGIC.to_vec();
    for number in [covered_bytes, witness].iter().chain(&counts) {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&sum(&header).to_le_bytes());
    disk::replace_with(path, Replacing::Unsynced, |file| {
        file.write_all(&header)?;
        let mut out = Vec::new();
        let mut put = |entry: (u64, u64)| -> Result<(), AgentsError> {
            out.extend_from_slice(&entry.0.to_le_bytes());
            out.extend_from_slice(&entry.1.to_le_bytes());
            if out.len() as u64 >= PIECE_ENTRIES * ENTRY_LEN_BYTES {
                file.write_all(&out)?;
                out.clear();
            }
            Ok(())
        };
        for (table, entries) in added.into_iter().enumerate() {
            let mut entries = entries.into_iter().peekable();
            if let Some(base) = base {
                base.each(table, &mut |old| {
                    // The last copy of a repeated result counts, so it is sorted before the older copies.
                    while let Some(new) =
                        entries.next_if(|new| new.0 < old.0 || new.0 == old.0 && table == RESULTS)
                    {
                        put(new)?;
                    }
                    put(old)
                })?;
            }
            entries.try_for_each(&mut put)?;
        }
        file.write_all(&out)?;
        Ok::<_, AgentsError>(())
    })
}

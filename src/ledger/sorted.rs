//! `ledger.idx.sorted`: the sorted ids of a prefix of `ledger.idx`, and a note of the state of both files when this program
//! last wrote them.
//!
//! The caller holds lock `ledger-index`. The file is derived: it may be deleted, and is written again whenever it does not
//! match `ledger.idx`. `docs/ledger.md` describes the bytes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::slice::ParallelSliceMut;

use super::LedgerError;
use crate::disk::{self, File, Replacing};
use crate::record::{ID_LEN_BYTES, Id};
use crate::scan::{self, ENTRY_LEN_BYTES, Io, SortedEntries, Source};

const MAGIC: &[u8; 8] = b"BURNIDX1";
const HEADER_LEN_BYTES: usize = 256;
const SUMMED_HEADER_BYTES: usize = 28;
const SEEN_AT: usize = 64;
const SEEN_LEN_BYTES: usize = 64;
/// How much of `ledger.idx` is read at a time, in bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// How many entries are copied at a time.
const PIECE_ENTRIES: u64 = PIECE_BYTES / ENTRY_LEN_BYTES as u64;
/// A longer file is read and not mapped, because its pages would stay in memory as long as the map does.
const MAP_MAX_BYTES: u64 = 8 << 20;

/// The metadata of a file. Any change of the file changes the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FileStat {
    pub device: u64,
    pub inode: u64,
    pub len_bytes: u64,
    pub modified_ns: i64,
    pub changed_ns: i64,
}

impl FileStat {
    pub(super) fn of(file: &File) -> Result<Self, disk::Error> {
        let found = file.metadata()?;
        let (device, inode) = found.identity.numbers();
        let modified_ns = match found.modified.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64,
            Err(before) => (before.duration().as_nanos() as i64).wrapping_neg(),
        };
        Ok(Self { device, inode, len_bytes: found.len_bytes, modified_ns, changed_ns: found.changed_ns })
    }

    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The note: the state of the files when this program last wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexNote {
    /// `ledger.idx`.
    pub ids: FileStat,
    /// The identity of `ledger.jsonl`; the other members of this field do not count.
    pub ledger: FileStat,
    /// The ids of the ledger's lines up to this offset, in bytes, are in `ledger.idx`.
    pub indexed_bytes: u64,
}

impl IndexNote {
    fn encode(&self) -> [u8; SEEN_LEN_BYTES + 4] {
        let words = [
            self.ids.device,
            self.ids.inode,
            self.ids.len_bytes,
            self.ids.modified_ns as u64,
            self.ids.changed_ns as u64,
            self.ledger.device,
            self.ledger.inode,
            self.indexed_bytes,
        ];
        let mut bytes = [0; SEEN_LEN_BYTES + 4];
        for (place, word) in words.into_iter().enumerate() {
            bytes[place * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let sum = crc32c::crc32c(&bytes[..SEEN_LEN_BYTES]);
        bytes[SEEN_LEN_BYTES..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(header: &[u8]) -> Option<Self> {
        let bytes = &header[SEEN_AT..][..SEEN_LEN_BYTES + 4];
        if crc32c::crc32c(&bytes[..SEEN_LEN_BYTES]) != u32_at(bytes, SEEN_LEN_BYTES) {
            return None;
        }
        let word = |place: usize| u64_at(bytes, place * 8);
        let ids = FileStat {
            device: word(0),
            inode: word(1),
            len_bytes: word(2),
            modified_ns: word(3) as i64,
            changed_ns: word(4) as i64,
        };
        let ledger = FileStat { device: word(5), inode: word(6), ..FileStat::default() };
        Some(Self { ids, ledger, indexed_bytes: word(7) })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

/// The open file; its entries are mapped unless they are many.
#[derive(Debug)]
pub(super) struct Sorted {
    path: PathBuf,
    source: Source,
    covered_bytes: u64,
    entries: u64,
    covered_sum: u32,
}

impl Sorted {
    /// Opens the file. Returns `None` when the file is missing or invalid.
    pub(super) fn open(path: &Path) -> Result<Option<(Self, Option<IndexNote>)>, LedgerError> {
        let Some(source) = Source::open_if_there(path, Io::Mmap)? else { return Ok(None) };
        let source = source.unmap_if_longer_than(MAP_MAX_BYTES);
        if source.len_bytes() < HEADER_LEN_BYTES as u64 {
            return Ok(None);
        }
        let mut buffer = Vec::new();
        let header = source.bytes(0..HEADER_LEN_BYTES as u64, &mut buffer)?;
        let is_sound = header.starts_with(MAGIC)
            && crc32c::crc32c(&header[..SUMMED_HEADER_BYTES]) == u32_at(header, SUMMED_HEADER_BYTES);
        let (covered_bytes, entries, covered_sum) =
            (u64_at(header, 8), u64_at(header, 16), u32_at(header, 24));
        let seen = IndexNote::decode(header);
        let len_bytes = entries
            .checked_mul(ENTRY_LEN_BYTES as u64)
            .and_then(|len_bytes| len_bytes.checked_add(HEADER_LEN_BYTES as u64));
        if !is_sound || len_bytes != Some(source.len_bytes()) {
            return Ok(None);
        }
        Ok(Some((Self { path: path.to_owned(), source, covered_bytes, entries, covered_sum }, seen)))
    }

    /// The length of the prefix of `ledger.idx` that the entries cover, in bytes.
    pub(super) fn covered_bytes(&self) -> u64 {
        self.covered_bytes
    }

    /// The number of ids in the file.
    pub(super) fn len(&self) -> u64 {
        self.entries
    }

    /// Whether `ids` still begins with the bytes that the entries were made from.
    pub(super) fn covers(&self, ids: &File) -> Result<bool, disk::Error> {
        let mut sum = 0;
        let read_bytes = ids.read_pieces(0..self.covered_bytes, |piece| {
            sum = crc32c::crc32c_append(sum, piece);
            true
        })?;
        Ok(read_bytes == self.covered_bytes && sum == self.covered_sum)
    }

    /// Whether `ids` has `id` in the covered prefix; `None` when the two files contradict each other.
    pub(super) fn contains(
        &self,
        id: Id,
        ids: &File,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<bool>, LedgerError> {
        let sorted = self.sorted_entries();
        let first = sorted.count_below(id.0, buffer)?;
        let entries = sorted.entries(first..self.entries.min(first + 1), buffer)?;
        let Some(entry) = entries.first().map(|entry| u128::from_be_bytes(*entry)) else {
            return Ok(Some(false));
        };
        if id_of(entry) != id {
            return Ok(Some(false));
        }
        let offset = entry as u64;
        let mut line = [0; ID_LEN_BYTES + 1];
        let is_there = ids.read_at(&mut line, offset)? == line.len()
            && Id::parse(&line[..ID_LEN_BYTES]) == Some(id)
            && line[ID_LEN_BYTES] == b'\n';
        Ok(is_there.then_some(true))
    }

    fn sorted_entries(&self) -> SortedEntries<'_> {
        SortedEntries {
            source: &self.source,
            at: HEADER_LEN_BYTES as u64,
            count: self.entries,
            key_of: |entry| id_of(u128::from_be_bytes(*entry)).0,
        }
    }

    /// Passes all entries to `each`, in order.
    fn each_entry(&self, mut each: impl FnMut(u128) -> Result<(), disk::Error>) -> Result<(), LedgerError> {
        let (sorted, mut buffer) = (self.sorted_entries(), Vec::new());
        for start in (0..self.entries).step_by(PIECE_ENTRIES as usize) {
            for entry in sorted.entries(start..self.entries.min(start + PIECE_ENTRIES), &mut buffer)? {
                each(u128::from_be_bytes(*entry))?;
            }
        }
        Ok(())
    }

    /// Saves the note in the header.
    pub(super) fn note(&self, seen: &IndexNote) -> Result<(), disk::Error> {
        File::open_rw(&self.path)?.write_all_at(&seen.encode(), SEEN_AT as u64)
    }

    /// Writes the whole file from the whole lines of `ids`, and opens the new file. Entries of `old` are copied; the
    /// caller has checked that `old` covers the beginning of `ids`.
    pub(super) fn write(
        path: &Path,
        ids: Option<&File>,
        old: Option<&Self>,
        seen: &IndexNote,
    ) -> Result<Self, LedgerError> {
        let (mut at, mut sum) = old.map_or((0, 0), |old| (old.covered_bytes, old.covered_sum));
        let mut added = Vec::new();
        if let Some(ids) = ids {
            each_piece(ids, at, |offset, piece| {
                sum = crc32c::crc32c_append(sum, piece);
                added.extend(
                    scan::lines(offset, piece).filter_map(|(at, line)| Some(entry(Id::parse(line)?, at))),
                );
                at = offset + piece.len() as u64;
            })?;
        }
        added.par_sort_unstable();
        Self::write_entries(path, old, &added, (at, sum), seen)
    }

    /// Writes the whole file for an index that has `ids` in its lines, `text`.
    pub(super) fn write_new(
        path: &Path,
        ids: &DistinctIds,
        text: &[u8],
        seen: &IndexNote,
    ) -> Result<Self, LedgerError> {
        Self::write_entries(path, None, &ids.entries, (text.len() as u64, crc32c::crc32c(text)), seen)
    }

    /// Writes the file from entries that are sorted. `at` and `sum` are the length and the checksum of the covered prefix.
    fn write_entries(
        path: &Path,
        old: Option<&Self>,
        added: &[u128],
        (at, sum): (u64, u32),
        seen: &IndexNote,
    ) -> Result<Self, LedgerError> {
        let entries = old.map_or(0, Self::len) as usize + added.len();
        let mut out = vec![0; HEADER_LEN_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&at.to_le_bytes());
        out[16..24].copy_from_slice(&(entries as u64).to_le_bytes());
        out[24..28].copy_from_slice(&sum.to_le_bytes());
        let header_sum = crc32c::crc32c(&out[..SUMMED_HEADER_BYTES]);
        out[28..32].copy_from_slice(&header_sum.to_le_bytes());
        out[SEEN_AT..][..SEEN_LEN_BYTES + 4].copy_from_slice(&seen.encode());
        // Durable, because after a power cut the file could otherwise hold only half of the entries. The entries are
        // merged while they are written, because those of a long ledger need much memory.
        disk::replace_with(path, Replacing::Durable, |file| {
            let mut added = added.iter().peekable();
            let mut put = |entry: u128| {
                out.extend_from_slice(&entry.to_be_bytes());
                if out.len() as u64 >= PIECE_BYTES {
                    file.write_all(&out)?;
                    out.clear();
                }
                Ok::<_, disk::Error>(())
            };
            if let Some(old) = old {
                old.each_entry(|entry| {
                    while let Some(new) = added.next_if(|new| **new < entry) {
                        put(*new)?;
                    }
                    put(entry)
                })?;
            }
            added.try_for_each(|new| put(*new))?;
            Ok::<_, LedgerError>(file.write_all(&out)?)
        })?;
        match Self::open(path)? {
            Some((sorted, _)) => Ok(sorted),
            None => Err(LedgerError::Disk(disk::Error::UnexpectedEnd {
                path: path.to_owned(),
                range: 0..(HEADER_LEN_BYTES + entries * ENTRY_LEN_BYTES) as u64,
                len_bytes: 0,
            })),
        }
    }
}

/// An entry as a number: the id, then the offset. The bytes of the number, the highest first, are in the file.
fn entry(id: Id, offset: u64) -> u128 {
    u128::from(id.0) << 64 | u128::from(offset)
}

fn id_of(entry: u128) -> Id {
    Id((entry >> 64) as u64)
}

/// The different ids of a ledger.
pub(super) struct DistinctIds {
    /// In the order of their first lines.
    pub ids: Vec<Id>,
    /// The sorted entries of an index whose lines are `ids`.
    entries: Vec<u128>,
}

impl DistinctIds {
    /// `lines` are the ids of all records. Sorting them finds the repeated ones faster than a set of millions of ids.
    pub(super) fn of(lines: &[Id]) -> Self {
        let mut entries: Vec<u128> = lines.iter().zip(0..).map(|(id, line)| entry(*id, line)).collect();
        entries.par_sort_unstable();
        let mut repeated = Vec::new();
        entries.dedup_by(|later, first| {
            let is_repeated = id_of(*later) == id_of(*first);
            repeated.extend(is_repeated.then_some(*later as u64));
            is_repeated
        });
        repeated.sort_unstable();
        let mut repeated = repeated.into_iter().peekable();
        let mut ids = Vec::with_capacity(entries.len());
        // For each line that has an id first, the offset of the id in the index.
        let mut offsets = Vec::with_capacity(lines.len());
        for (id, line) in lines.iter().zip(0..) {
            offsets.push((ids.len() * (ID_LEN_BYTES + 1)) as u64);
            if repeated.next_if_eq(&line).is_none() {
                ids.push(*id);
            }
        }
        for of_line in &mut entries {
            *of_line = entry(id_of(*of_line), offsets[*of_line as u64 as usize]);
        }
        Self { ids, entries }
    }

    /// The place of `id` in [`Self::ids`].
    pub(super) fn place(&self, id: Id) -> Option<usize> {
        let found = self.entries.binary_search_by_key(&id, |entry| id_of(*entry)).ok()?;
        Some(self.entries[found] as u64 as usize / (ID_LEN_BYTES + 1))
    }
}

/// Passes the whole lines of `file` after `from` to `each`, a piece at a time, with the offset of each piece.
pub(super) fn each_piece(
    file: &File,
    from: u64,
    mut each: impl FnMut(u64, &[u8]),
) -> Result<(), disk::Error> {
    let len_bytes = file.len_bytes()?;
    let mut piece = Vec::new();
    let mut at = from;
    // The number of bytes of an unfinished line at the start of `piece`.
    let mut carried = 0;
    while at + (carried as u64) < len_bytes {
        let wanted = PIECE_BYTES.min(len_bytes - at - carried as u64) as usize;
        piece.resize(carried + wanted, 0);
        let read = file.read_at(&mut piece[carried..], at + carried as u64)?;
        if read == 0 {
            break;
        }
        let filled = carried + read;
        let whole = memchr::memrchr(b'\n', &piece[..filled]).map_or(0, |end| end + 1);
        if whole > 0 {
            each(at, &piece[..whole]);
        }
        piece.copy_within(whole..filled, 0);
        carried = filled - whole;
        at += whole as u64;
    }
    Ok(())
}

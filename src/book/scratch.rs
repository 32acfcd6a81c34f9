//! The scratch file of a book: an unlinked file for derived data that grows with the log.
//!
//! This data is the position of each event, the transaction ids, and every account's postings. Its recent
//! part is in memory, the rest in this file, which ends with the process and is made
//! again from the log on opening. The file is append-only, so a reader with a copy of an offset needs no lock.
//!
//! Three structures share the file: [`Positions`], an array; [`SeqIndex`], sorted runs; and chains of [`HistoryBlock`]s.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use talea_core::types::Seq;
use uuid::Uuid;

use super::error::BookError;
use crate::disk;

/// An append-only file without a name.
#[derive(Debug)]
pub(super) struct ScratchFile {
    file: disk::File,
    len_bytes: AtomicU64,
}

impl ScratchFile {
    /// Creates the file in `directory`. A crash between creating and unlinking leaves a `.tmp`, which opening removes.
    pub(super) fn create(directory: &Path) -> Result<Self, BookError> {
        let path = directory.join(format!("scratch.{}.tmp", Uuid::new_v4().simple()));
        let file = disk::File::create_new(&path)?;
        disk::remove_file(&path)?;
        Ok(Self { file, len_bytes: AtomicU64::new(0) })
    }

    /// Where the next [`ScratchFile::append`] will write.
    fn end(&self) -> u64 {
        self.len_bytes.load(Ordering::Acquire)
    }

    /// Appends, for the one thread that writes; returns the offset. After an error the file is as it was.
    fn append(&self, bytes: &[u8]) -> Result<u64, BookError> {
        let offset = self.end();
        self.file.write_all_at(bytes, offset)?;
        self.len_bytes.store(offset + bytes.len() as u64, Ordering::Release);
        Ok(offset)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), BookError> {
        Ok(self.file.read_exact_at(buffer, offset)?)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Byte offsets of events in their segments, by sequence number.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    /// The number of the first event whose offset is in memory.
    recent_first: Seq,
    recent: Vec<u64>,
    /// Parts of the array in the scratch file: first number, offset there. In ascending order.
    parts: Vec<(Seq, u64)>,
}

impl Positions {
    pub(super) fn new() -> Self {
        Self { recent_first: 1, recent: Vec::new(), parts: Vec::new() }
    }

    /// Adds the event that follows the last.
    pub(super) fn push(&mut self, offset: u64) {
        self.recent.push(offset);
    }

    /// Returns how many events have been pushed since [`Positions::flush`].
    pub(super) fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// Returns the offset of event `seq`, which must have been pushed.
    pub(super) fn get(&self, scratch: Option<&ScratchFile>, seq: Seq) -> Result<u64, BookError> {
        if seq >= self.recent_first {
            return Ok(self.recent[(seq - self.recent_first) as usize]);
        }
        let part = self.parts.partition_point(|(first, _)| *first <= seq) - 1;
        let (first, offset) = self.parts[part];
        let mut bytes = [0; 8];
        in_file(scratch)?.read(&mut bytes, offset + (seq - first) as u64 * 8)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Moves what is in memory to the scratch file.
    pub(super) fn flush(&mut self, scratch: &ScratchFile) -> Result<(), BookError> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = self.recent.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let offset = scratch.append(&bytes)?;
        self.parts.push((self.recent_first, offset));
        self.recent_first += self.recent.len() as Seq;
        self.recent.clear();
        Ok(())
    }
}

/// Returns the scratch file, which exists once anything was flushed.
fn in_file(scratch: Option<&ScratchFile>) -> Result<&ScratchFile, BookError> {
    let missing = || BookError::Worker { what: "reading", reason: "the book has no scratch file".to_owned() };
    scratch.ok_or_else(missing)
}

/// Sequence numbers by a 128-bit id. An id that was used several times has several.
#[derive(Debug, Default, Clone)]
pub(super) struct SeqIndex {
    recent: HashMap<u128, Seq>,
    /// Recent entries whose id is in `recent` already.
    repeats: Vec<(u128, Seq)>,
    /// Oldest first; see [`SeqIndex::merge_due`] for their sizes.
    runs: Vec<Arc<IndexRun>>,
}

const ENTRY_BYTES: usize = 24;

/// Entries that [`SeqIndex::is_flush_due`] allows in memory.
const RECENT_MAX: usize = 1 << 16;

/// Entries between two fences, and entries of one read.
const PAGE_ENTRIES: usize = 128;

/// Most entries of a merged run, which bounds the time of a merge.
const MERGE_MAX_ENTRIES: usize = 1 << 22;

/// Entries read or written at a time while merging.
const MERGE_CHUNK_ENTRIES: usize = 1 << 15;

/// A sorted run of entries in the scratch file.
#[derive(Debug)]
pub(super) struct IndexRun {
    offset: u64,
    len: usize,
    /// The id of every [`PAGE_ENTRIES`]th entry.
    fences: Vec<u128>,
}

impl IndexRun {
    fn read(
        &self,
        scratch: &ScratchFile,
        first: usize,
        entries: &mut Vec<(u128, Seq)>,
        max: usize,
    ) -> Result<(), BookError> {
        let count = max.min(self.len - first);
        let mut bytes = vec![0; count * ENTRY_BYTES];
        scratch.read(&mut bytes, self.offset + (first * ENTRY_BYTES) as u64)?;
        entries.clear();
        entries.extend(bytes.chunks_exact(ENTRY_BYTES).map(|entry| {
            let id = u128::from(word(entry, 0)) | u128::from(word(entry, 8)) << 64;
            (id, word(entry, 16) as Seq)
        }));
        Ok(())
    }

    fn find(&self, scratch: &ScratchFile, id: u128, found: &mut Vec<Seq>) -> Result<(), BookError> {
        let mut page = self.fences.partition_point(|fence| *fence < id).saturating_sub(1);
        let mut entries = Vec::new();
        // The entries of one id can fill several pages.
        while page < self.fences.len() && self.fences[page] <= id {
            self.read(scratch, page * PAGE_ENTRIES, &mut entries, PAGE_ENTRIES)?;
            let start = entries.partition_point(|entry| entry.0 < id);
            found.extend(entries[start..].iter().take_while(|entry| entry.0 == id).map(|entry| entry.1));
            page += 1;
        }
        Ok(())
    }
}

/// Writes a run piece by piece.
struct RunWriter<'a> {
    scratch: &'a ScratchFile,
    run: IndexRun,
    bytes: Vec<u8>,
}

impl<'a> RunWriter<'a> {
    fn new(scratch: &'a ScratchFile) -> Self {
        Self {
            scratch,
            run: IndexRun { offset: scratch.end(), len: 0, fences: Vec::new() },
            bytes: Vec::new(),
        }
    }

    fn push(&mut self, (id, seq): (u128, Seq)) -> Result<(), BookError> {
        if self.run.len.is_multiple_of(PAGE_ENTRIES) {
            self.run.fences.push(id);
        }
        self.run.len += 1;
        self.bytes.extend_from_slice(&id.to_le_bytes());
        self.bytes.extend_from_slice(&seq.to_le_bytes());
        if self.bytes.len() >= MERGE_CHUNK_ENTRIES * ENTRY_BYTES {
            self.scratch.append(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn finish(self) -> Result<IndexRun, BookError> {
        self.scratch.append(&self.bytes)?;
        Ok(self.run)
    }
}

/// Reads a run from its beginning.
struct RunReader<'a> {
    scratch: &'a ScratchFile,
    run: &'a IndexRun,
    next: usize,
    entries: Vec<(u128, Seq)>,
    at: usize,
}

impl<'a> RunReader<'a> {
    fn new(scratch: &'a ScratchFile, run: &'a IndexRun) -> Self {
        Self { scratch, run, next: 0, entries: Vec::new(), at: 0 }
    }

    fn peek(&mut self) -> Result<Option<(u128, Seq)>, BookError> {
        if self.at == self.entries.len() {
            if self.next == self.run.len {
                return Ok(None);
            }
            self.run.read(self.scratch, self.next, &mut self.entries, MERGE_CHUNK_ENTRIES)?;
            self.next += self.entries.len();
            self.at = 0;
        }
        Ok(Some(self.entries[self.at]))
    }
}

impl SeqIndex {
    /// Adds an entry.
    pub(super) fn insert(&mut self, id: u128, seq: Seq) {
        if let Some(first) = self.recent.insert(id, seq) {
            self.repeats.push((id, first));
        }
    }

    /// Returns how many entries are in memory.
    pub(super) fn recent_len(&self) -> usize {
        self.recent.len() + self.repeats.len()
    }

    /// Whether the part in memory is due to be flushed, for an index that is flushed by itself.
    pub(super) fn is_flush_due(&self) -> bool {
        self.recent_len() >= RECENT_MAX
    }

    /// Whether nothing was ever inserted.
    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.runs.is_empty()
    }

    /// Returns every sequence number inserted under `id`, in no order.
    pub(super) fn find(&self, scratch: Option<&ScratchFile>, id: u128) -> Result<Vec<Seq>, BookError> {
        let mut found: Vec<Seq> = self.recent.get(&id).copied().into_iter().collect();
        if !found.is_empty() {
            found.extend(self.repeats.iter().filter(|entry| entry.0 == id).map(|entry| entry.1));
        }
        for run in &self.runs {
            run.find(in_file(scratch)?, id, &mut found)?;
        }
        Ok(found)
    }

    /// Moves what is in memory to the scratch file.
    pub(super) fn flush(&mut self, scratch: &ScratchFile) -> Result<(), BookError> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let mut entries: Vec<_> =
            self.recent.iter().map(|(id, seq)| (*id, *seq)).chain(self.repeats.iter().copied()).collect();
        entries.sort_unstable();
        let mut writer = RunWriter::new(scratch);
        for entry in entries {
            writer.push(entry)?;
        }
        self.runs.push(Arc::new(writer.finish()?));
        self.recent.clear();
        self.repeats.clear();
        Ok(())
    }

    /// Returns the last two runs, if their sizes are near enough to be merged. Sizes fall by half or more from run to run, so
    /// their number is about the logarithm of the entries, up to [`MERGE_MAX_ENTRIES`].
    pub(super) fn merge_due(&self) -> Option<(Arc<IndexRun>, Arc<IndexRun>)> {
        let [.., older, newer] = self.runs.as_slice() else { return None };
        let due = older.len < newer.len * 2 && older.len + newer.len <= MERGE_MAX_ENTRIES;
        due.then(|| (Arc::clone(older), Arc::clone(newer)))
    }

    /// Replaces the last two runs by their merger.
    pub(super) fn install(&mut self, merged: IndexRun) {
        self.runs.truncate(self.runs.len() - 2);
        self.runs.push(Arc::new(merged));
    }

    /// Calls `visit` with pieces of all entries; an entry of a later piece is not older than an equal id of an earlier
    /// one. Within a piece entries are in the order of their sequence numbers.
    pub(super) fn visit(
        &self,
        scratch: Option<&ScratchFile>,
        mut visit: impl FnMut(&[(u128, Seq)]) -> Result<(), BookError>,
    ) -> Result<(), BookError> {
        let mut entries = Vec::new();
        for run in &self.runs {
            for first in (0..run.len).step_by(MERGE_CHUNK_ENTRIES) {
                run.read(in_file(scratch)?, first, &mut entries, MERGE_CHUNK_ENTRIES)?;
                entries.sort_unstable_by_key(|entry| entry.1);
                visit(&entries)?;
            }
        }
        entries.clear();
        entries.extend(self.recent.iter().map(|(id, seq)| (*id, *seq)).chain(self.repeats.iter().copied()));
        entries.sort_unstable_by_key(|entry| entry.1);
        visit(&entries)
    }
}

impl SeqIndex {
    /// Returns pairs of numbers that were inserted under the same id, ascending. Leaves everything in one run.
    pub(super) fn repeated(&mut self, scratch: &ScratchFile) -> Result<Vec<(Seq, Seq)>, BookError> {
        self.flush(scratch)?;
        while let [.., older, newer] = self.runs.as_slice() {
            let merged = merge(scratch, older, newer)?;
            self.install(merged);
        }
        let mut repeated = Vec::new();
        let Some(run) = self.runs.first() else { return Ok(repeated) };
        let mut reader = RunReader::new(scratch, run);
        let mut last: Option<(u128, Seq)> = None;
        while let Some(entry) = reader.peek()? {
            reader.at += 1;
            if let Some(last) = last.filter(|last| last.0 == entry.0) {
                repeated.push((last.1, entry.1));
            }
            last = Some(entry);
        }
        repeated.sort_unstable();
        Ok(repeated)
    }
}

/// Merges two runs into a new one.
pub(super) fn merge(
    scratch: &ScratchFile,
    older: &IndexRun,
    newer: &IndexRun,
) -> Result<IndexRun, BookError> {
    let mut left = RunReader::new(scratch, older);
    let mut right = RunReader::new(scratch, newer);
    // The readers read what lies before the writer's beginning.
    let mut writer = RunWriter::new(scratch);
    loop {
        let reader = match (left.peek()?, right.peek()?) {
            (None, None) => return writer.finish(),
            (Some(a), Some(b)) if a <= b => &mut left,
            (Some(_), None) => &mut left,
            _ => &mut right,
        };
        writer.push(reader.entries[reader.at])?;
        reader.at += 1;
    }
}

/// A posting as an account's history keeps it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct HistoryRow {
    /// The event.
    pub seq: Seq,
    /// When it was committed.
    pub at: DateTime<Utc>,
    /// The transaction.
    pub txid: Uuid,
    /// The amount in minor units.
    pub minor: i64,
    /// Whether the amount is a credit.
    pub is_credit: bool,
    /// The debit-positive balance after it.
    pub raw_after: i64,
}

const ROW_BYTES: usize = 52;

impl HistoryRow {
    /// Appends its fixed form.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.at.timestamp().to_le_bytes());
        // Nanoseconds stay below 2^31, leap seconds included.
        let nanos = self.at.timestamp_subsec_nanos() | u32::from(self.is_credit) << 31;
        out.extend_from_slice(&nanos.to_le_bytes());
        out.extend_from_slice(&self.minor.to_le_bytes());
        out.extend_from_slice(&self.raw_after.to_le_bytes());
        out.extend_from_slice(self.txid.as_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let mut nanos = [0; 4];
        nanos.copy_from_slice(&bytes[16..20]);
        let nanos = u32::from_le_bytes(nanos);
        let mut txid = [0; 16];
        txid.copy_from_slice(&bytes[36..52]);
        Self {
            seq: word(bytes, 0) as Seq,
            at: DateTime::from_timestamp(word(bytes, 8) as i64, nanos & !(1 << 31)).unwrap_or_default(),
            is_credit: nanos >> 31 == 1,
            minor: word(bytes, 20) as i64,
            raw_after: word(bytes, 28) as i64,
            txid: Uuid::from_bytes(txid),
        }
    }
}

/// Postings of one account that were moved to the scratch file together.
///
/// Each block points to the one before it and to an older one, its jump, chosen as in a skew-binary list. Any
/// block is therefore found from the last one in a logarithmic number of reads, and memory keeps one offset an account.
/// Worked example, with the jump of each block by number:
///
/// ```text
/// number  0  1  2  3  4  5  6  7
/// jump    -  0  1  0  3  4  3  0     to find 2 from 7: jump 0 is too early, so 6; jump 3; jump 0 is too early, so 2
/// ```
#[derive(Debug, Clone, Copy)]
pub(super) struct HistoryBlock {
    offset: u64,
    previous: Option<u64>,
    jump: Option<u64>,
    /// Number of older blocks of this account.
    number: u64,
    len: usize,
    /// Its first posting.
    pub first: HistoryRow,
}

const BLOCK_HEADER_BYTES: usize = 28;

impl HistoryBlock {
    fn read(scratch: &ScratchFile, offset: u64) -> Result<Self, BookError> {
        let mut bytes = [0; BLOCK_HEADER_BYTES + ROW_BYTES];
        scratch.read(&mut bytes, offset)?;
        let mut len = [0; 4];
        len.copy_from_slice(&bytes[24..28]);
        Ok(Self {
            offset,
            // Offsets are stored one higher; 0 is none.
            previous: word(&bytes, 0).checked_sub(1),
            jump: word(&bytes, 8).checked_sub(1),
            number: word(&bytes, 16),
            len: u32::from_le_bytes(len) as usize,
            first: HistoryRow::read(&bytes[BLOCK_HEADER_BYTES..]),
        })
    }

    /// Whether it is the oldest of its account.
    pub(super) fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Returns all its postings, oldest first.
    pub(super) fn rows(&self, scratch: &ScratchFile) -> Result<Vec<HistoryRow>, BookError> {
        let mut bytes = vec![0; self.len * ROW_BYTES];
        scratch.read(&mut bytes, self.offset + BLOCK_HEADER_BYTES as u64)?;
        Ok(bytes.chunks_exact(ROW_BYTES).map(HistoryRow::read).collect())
    }

    /// The newest block for which `early` holds, in the chain that ends at `last`. When `early` holds for a block, it must hold for
    /// every older one.
    pub(super) fn find(
        scratch: &ScratchFile,
        last: u64,
        early: impl Fn(&Self) -> bool,
    ) -> Result<Option<Self>, BookError> {
        let mut block = Self::read(scratch, last)?;
        while !early(&block) {
            let (Some(previous), Some(jump)) = (block.previous, block.jump) else { return Ok(None) };
            let jumped = Self::read(scratch, jump)?;
            block = if early(&jumped) { Self::read(scratch, previous)? } else { jumped };
        }
        Ok(Some(block))
    }

    /// Returns the block after this one in the chain that ends at `last`.
    pub(super) fn next(&self, scratch: &ScratchFile, last: u64) -> Result<Option<Self>, BookError> {
        if self.offset == last {
            return Ok(None);
        }
        Self::find(scratch, last, |block| block.number <= self.number + 1)
    }
}

/// Blocks on their way to the scratch file: written together, linked to the blocks that are there.
pub(super) struct HistoryBlocks<'a> {
    scratch: &'a ScratchFile,
    base: u64,
    bytes: Vec<u8>,
}

impl<'a> HistoryBlocks<'a> {
    pub(super) fn new(scratch: &'a ScratchFile) -> Self {
        Self { scratch, base: scratch.end(), bytes: Vec::new() }
    }

    /// Adds a block after `last` and returns the offset that it will have. At most one block an account, and no empty one.
    pub(super) fn push(&mut self, last: Option<u64>, rows: &[HistoryRow]) -> Result<u64, BookError> {
        let offset = self.base + self.bytes.len() as u64;
        let (jump, number) = match last {
            None => (None, 0),
            Some(last) => {
                let last = HistoryBlock::read(self.scratch, last)?;
                (Some(self.jump_over(&last)?), last.number + 1)
            }
        };
        for link in [last, jump] {
            self.bytes.extend_from_slice(&link.map_or(0, |offset| offset + 1).to_le_bytes());
        }
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self.bytes.extend_from_slice(&(rows.len() as u32).to_le_bytes());
        for row in rows {
            row.write(&mut self.bytes);
        }
        Ok(offset)
    }

    /// The jump of the block after `last`: the target of the target of `last`, if both of these jumps are equally long, else `last`.
    fn jump_over(&self, last: &HistoryBlock) -> Result<u64, BookError> {
        let Some(jump) = last.jump else { return Ok(last.offset) };
        let middle = HistoryBlock::read(self.scratch, jump)?;
        let Some(far) = middle.jump else { return Ok(last.offset) };
        let target = HistoryBlock::read(self.scratch, far)?;
        let equal = last.number - middle.number == middle.number - target.number;
        Ok(if equal { far } else { last.offset })
    }

    pub(super) fn write(self) -> Result<(), BookError> {
        self.scratch.append(&self.bytes).map(drop)
    }
}

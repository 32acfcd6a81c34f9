//! Idempotency keys: the newest in memory, all others through an index in the scratch file, verified in the log.
//!
//! Spilled keys are also written to run files (docs/books.md), for other programs that open the directory, and
//! because after a restart they show which keys need not be in memory. No lookup reads a run file, so a run that is damaged while the
//! book is open does no harm.
//!
//! Touches `idem-*.run` files and the scratch file. Guarantees: a committed key is found for ever.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use talea_core::events::LedgerEvent;
use talea_core::store::Committed;
use talea_core::types::{Seq, TxId};
use uuid::Uuid;

use super::error::BookError;
use super::files;
use super::scratch::{self, ScratchFile, SeqIndex};
use super::state::BookState;
use super::time;
use crate::disk::{self, Replacing};
use crate::scan::{Io, Source};

/// Number of runs above which all are merged into one.
const MAX_RUNS: usize = 8;

/// Length in bytes of all keys in memory above which the oldest are spilled, however few they are.
const HOT_MAX_BYTES: usize = 64 << 20;

/// Bytes of a run or snapshot that are written together.
pub(super) const WRITE_BYTES: usize = 1 << 18;

/// The first outcome of a key, in the form that runs and snapshots store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyOutcome {
    pub txid: Uuid,
    pub seq: Seq,
    #[serde(deserialize_with = "time::read")]
    pub at: DateTime<Utc>,
}

impl From<KeyOutcome> for Committed {
    fn from(outcome: KeyOutcome) -> Self {
        Self { txid: TxId(outcome.txid), seq: outcome.seq, at: outcome.at }
    }
}

/// A 128-bit hash of keys. It differs from process to process, because otherwise a caller could choose keys that collide.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(RandomState, RandomState);

impl KeyHasher {
    pub(super) fn hash(&self, key: &str) -> u128 {
        u128::from(self.0.hash_one(key)) << 64 | u128::from(self.1.hash_one(key))
    }
}

/// The keys of one book.
#[derive(Debug)]
pub(super) struct Keys {
    directory: PathBuf,
    hot: HashMap<Arc<str>, KeyOutcome>,
    /// Hot keys, oldest first.
    order: VecDeque<Arc<str>>,
    cap: usize,
    /// The length of all hot keys.
    hot_bytes: usize,
    hasher: KeyHasher,
    /// Sequence numbers of the keys that are not hot.
    spilled: SeqIndex,
    runs: Vec<(u64, PathBuf)>,
    next_run: u64,
}

impl Keys {
    /// No keys; runs will be written to `directory`.
    pub(super) fn new(directory: &Path, cap: usize) -> Self {
        Self {
            directory: directory.to_owned(),
            hot: HashMap::new(),
            order: VecDeque::new(),
            cap,
            hot_bytes: 0,
            hasher: KeyHasher::default(),
            spilled: SeqIndex::default(),
            runs: Vec::new(),
            next_run: 0,
        }
    }

    /// Adds a committed key. A known key keeps its first outcome.
    pub(super) fn insert(&mut self, key: Arc<str>, outcome: KeyOutcome) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.hot.entry(key) {
            self.hot_bytes += entry.key().len();
            self.order.push_back(Arc::clone(entry.key()));
            entry.insert(outcome);
        }
    }

    /// Returns the outcome of a key that is in memory.
    pub(super) fn find_hot(&self, key: &str) -> Option<KeyOutcome> {
        self.hot.get(key).copied()
    }

    /// Returns the outcome of a key, wherever it is.
    pub(super) fn find(&self, key: &str, state: &BookState) -> Result<Option<KeyOutcome>, BookError> {
        if let Some(outcome) = self.find_hot(key) {
            return Ok(Some(outcome));
        }
        if self.spilled.is_empty() {
            return Ok(None);
        }
        let mut candidates = self.spilled.find(state.scratch_if_any(), self.hasher.hash(key))?;
        candidates.sort_unstable();
        for seq in candidates {
            let event = files::read_event(&self.directory, state.index.position(seq)?, seq)?;
            if let LedgerEvent::TransactionPosted(transaction) = event.event
                && transaction.idempotency_key.0 == key
            {
                return Ok(Some(KeyOutcome { txid: transaction.id.0, seq, at: event.at }));
            }
        }
        Ok(None)
    }

    /// Hot keys and their outcomes, oldest first.
    pub(super) fn hot(&self) -> impl Iterator<Item = (&Arc<str>, KeyOutcome)> {
        self.order.iter().filter_map(|key| Some((key, *self.hot.get(key)?)))
    }

    pub(super) fn hot_len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn cap(&self) -> usize {
        self.cap
    }

    /// Whether more keys are in memory than the options allow.
    pub(super) fn is_spill_due(&self) -> bool {
        self.order.len() > self.cap.max(1) || self.is_heavy()
    }

    /// Whether the keys in memory are too long together, however few. A single key stays.
    pub(super) fn is_heavy(&self) -> bool {
        self.hot_bytes > HOT_MAX_BYTES && self.order.len() > 1
    }

    /// Returns the number of the oldest keys to spill, so that the rest is within both limits.
    pub(super) fn excess(&self) -> usize {
        let by_count = self.order.len().saturating_sub(self.cap);
        let mut left_bytes = self.hot_bytes;
        let by_bytes = self.order.iter().take_while(|key| {
            let is_too_much = left_bytes > HOT_MAX_BYTES;
            left_bytes -= key.len();
            is_too_much
        });
        by_bytes.count().max(by_count)
    }

    /// Moves the oldest half of the keys in memory to a run.
    ///
    /// # Errors
    /// The keys then stay in memory, and the next batch tries again.
    pub(super) fn spill_half(&mut self, scratch: &Arc<ScratchFile>) -> Result<(), BookError> {
        self.spill(self.order.len() / 2, scratch)
    }

    /// Moves the `count` oldest keys in memory to a run.
    pub(super) fn spill(&mut self, count: usize, scratch: &Arc<ScratchFile>) -> Result<(), BookError> {
        let mut oldest: Vec<(&str, KeyOutcome)> =
            self.hot().take(count).map(|(key, outcome)| (key.as_ref(), outcome)).collect();
        if oldest.is_empty() {
            return Ok(());
        }
        oldest.sort_unstable_by_key(|entry| entry.0);
        let path = files::run_path(&self.directory, self.next_run);
        write_run(&path, oldest.iter().map(|(key, outcome)| Ok((*key, *outcome))))?;
        self.runs.push((self.next_run, path));
        self.next_run += 1;
        for key in self.order.drain(..count) {
            self.hot_bytes -= key.len();
            if let Some(outcome) = self.hot.remove(&key) {
                self.spilled.insert(self.hasher.hash(&key), outcome.seq);
            }
        }
        // The capacity is given back, because a book that was opened once without runs would keep it for ever.
        if self.hot.capacity() > 4 * self.hot.len().max(1024) {
            self.hot.shrink_to_fit();
            self.order.shrink_to_fit();
        }
        self.tidy_index(scratch);
        if self.runs.len() > MAX_RUNS {
            self.merge_runs()?;
        }
        Ok(())
    }

    /// Moves the index of spilled keys out of memory. A failure is logged and costs memory, nothing else.
    fn tidy_index(&mut self, scratch: &Arc<ScratchFile>) {
        let tidied = (|| {
            if !self.spilled.is_flush_due() {
                return Ok(());
            }
            self.spilled.flush(scratch)?;
            while let Some((older, newer)) = self.spilled.merge_due() {
                self.spilled.install(scratch::merge(scratch, &older, &newer)?);
            }
            Ok::<_, BookError>(())
        })();
        if let Err(error) = tidied {
            tracing::warn!(directory = %self.directory.display(), %error, "key index stays in memory");
        }
    }

    /// Merges all runs into one, entry by entry.
    fn merge_runs(&mut self) -> Result<(), BookError> {
        let runs: Vec<RunFile> =
            self.runs.iter().map(|(_, path)| RunFile::open(path)).collect::<Result<_, _>>()?;
        let path = files::run_path(&self.directory, self.next_run);
        let mut buffers = vec![Vec::new(); runs.len()];
        let mut readers: Vec<RunEntries<'_>> = runs
            .iter()
            .zip(&mut buffers)
            .map(|(run, buffer)| run.entries(buffer))
            .collect::<Result<_, _>>()?;
        let mut heads: Vec<Option<(String, KeyOutcome)>> =
            readers.iter_mut().map(|reader| reader.next().transpose()).collect::<Result<_, _>>()?;
        let merged = std::iter::from_fn(|| {
            let smallest =
                heads.iter().flatten().min_by(|a, b| (&a.0, a.1.seq).cmp(&(&b.0, b.1.seq)))?.clone();
            for (head, reader) in heads.iter_mut().zip(&mut readers) {
                while head.as_ref().is_some_and(|head| head.0 == smallest.0) {
                    match reader.next().transpose() {
                        Ok(next) => *head = next,
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
            Some(Ok(smallest))
        });
        write_run(&path, merged)?;
        let old = std::mem::replace(&mut self.runs, vec![(self.next_run, path)]);
        self.next_run += 1;
        // An old run that cannot be deleted agrees with the merged run, and does no harm.
        old.iter().try_for_each(|(_, path)| disk::remove_file_if_exists(path).map(drop))?;
        Ok(disk::sync_dir(&self.directory)?)
    }

    /// Indexes the runs in the directory; returns the events whose keys they have.
    ///
    /// Damaged runs, and runs with events after `max_seq`, are deleted: their keys come from the log. The entries of
    /// events from `replayed_from` on can be compared with the log afterwards. `acknowledged` is raised to the last event in
    /// any run.
    pub(super) fn attach_runs(
        &mut self,
        runs: &[(u64, PathBuf)],
        replayed_from: Seq,
        max_seq: Seq,
        state: &mut BookState,
        acknowledged: &mut Seq,
    ) -> Result<Covered, BookError> {
        self.next_run = runs.last().map_or(0, |(number, _)| number + 1);
        self.runs = runs.to_vec();
        'again: loop {
            let mut covered = Covered { replayed_from, ..Covered::default() };
            self.spilled = SeqIndex::default();
            for at in 0..self.runs.len() {
                let path = self.runs[at].1.clone();
                if let Err(error) = self.attach_run(&path, max_seq, state, &mut covered, acknowledged) {
                    tracing::warn!(%error, "run deleted; its keys are taken from the log");
                    disk::remove_file_if_exists(&path)?;
                    self.runs.remove(at);
                    continue 'again;
                }
            }
            return Ok(covered);
        }
    }

    fn attach_run(
        &mut self,
        path: &Path,
        max_seq: Seq,
        state: &mut BookState,
        covered: &mut Covered,
        acknowledged: &mut Seq,
    ) -> Result<(), BookError> {
        let scratch = state.scratch()?;
        for entry in RunFile::open(path)?.entries(&mut Vec::new())? {
            let (key, outcome) = entry?;
            *acknowledged = (*acknowledged).max(outcome.seq);
            if outcome.seq < 1 || outcome.seq > max_seq {
                let reason = format!("it knows event {}, the log ends before", outcome.seq);
                return Err(BookError::Derived { path: path.to_owned(), offset: 0, reason });
            }
            let hash = self.hasher.hash(&key);
            // An event that is in two runs counts once.
            if covered.add(hash, outcome.seq) {
                self.spilled.insert(hash, outcome.seq);
                self.tidy_index(&scratch);
            }
        }
        Ok(())
    }

    /// Forgets all runs and deletes their files.
    pub(super) fn discard_runs(&mut self) -> Result<(), BookError> {
        self.spilled = SeqIndex::default();
        for (_, path) in std::mem::take(&mut self.runs) {
            disk::remove_file_if_exists(&path)?;
        }
        Ok(())
    }

    /// Adds a replayed key to memory, unless a run has it.
    pub(super) fn replay(&mut self, key: &str, outcome: KeyOutcome, covered: &mut Covered) {
        if covered.contains(outcome.seq) {
            covered.confirm(self.hasher.hash(key), outcome.seq);
        } else {
            self.insert(key.into(), outcome);
        }
    }
}

/// The events whose keys are in runs: one bit an event, kept while a book is opened.
#[derive(Debug, Default)]
pub(super) struct Covered {
    bits: Vec<u64>,
    replayed_from: Seq,
    /// Events before `replayed_from`.
    early: u64,
    last: Seq,
    /// Exclusive or over the entries of events from `replayed_from` on, in the runs and in the log.
    stated: u128,
    confirmed: u128,
}

impl Covered {
    fn add(&mut self, hash: u128, seq: Seq) -> bool {
        let word = (seq / 64) as usize;
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        let bit = 1 << (seq % 64);
        let is_new = self.bits[word] & bit == 0;
        if is_new {
            self.bits[word] |= bit;
            self.last = self.last.max(seq);
            if seq < self.replayed_from {
                self.early += 1;
            } else {
                self.stated ^= mix(hash, seq);
            }
        }
        is_new
    }

    /// Whether the key of this event is in a run.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.bits.get((seq / 64) as usize).is_some_and(|word| word & 1 << (seq % 64) != 0)
    }

    /// Returns the number of events before `replayed_from`.
    pub(super) fn early(&self) -> u64 {
        self.early
    }

    fn confirm(&mut self, hash: u128, seq: Seq) {
        self.confirmed ^= mix(hash, seq);
    }

    /// After a replay to `last`: whether the runs have the keys of the log at these numbers, and no others.
    pub(super) fn is_confirmed(&self, last: Seq) -> bool {
        self.stated == self.confirmed && self.last <= last
    }
}

fn mix(hash: u128, seq: Seq) -> u128 {
    (hash ^ seq as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

/// Writes a run: checksum, then a JSON array of `[key, outcome]` by key.
fn write_run<K: Serialize>(
    path: &Path,
    entries: impl Iterator<Item = Result<(K, KeyOutcome), BookError>>,
) -> Result<(), BookError> {
    disk::replace_with(path, Replacing::Durable, |file| {
        let mut out = Checksummed::new(file)?;
        out.text("[")?;
        for (number, entry) in entries.enumerate() {
            out.item(number, &entry?)?;
        }
        out.text("]")?;
        out.finish()
    })
}

/// A file of the form `u32 LE CRC-32 | JSON`, written piece by piece.
pub(super) struct Checksummed<'a> {
    file: &'a disk::File,
    crc: crc32fast::Hasher,
    bytes: Vec<u8>,
}

impl<'a> Checksummed<'a> {
    pub(super) fn new(file: &'a disk::File) -> Result<Self, BookError> {
        file.write_all(&[0; 4])?;
        Ok(Self { file, crc: crc32fast::Hasher::new(), bytes: Vec::with_capacity(WRITE_BYTES) })
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), BookError> {
        self.bytes.extend_from_slice(text.as_bytes());
        self.pass_on(WRITE_BYTES)
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), BookError> {
        serde_json::to_writer(&mut self.bytes, value)
            .map_err(|error| BookError::Unwritable { reason: error.to_string() })?;
        self.pass_on(WRITE_BYTES)
    }

    /// Writes an element of an array or the key of a member; `number` is how many come before it.
    pub(super) fn item(&mut self, number: usize, value: &impl Serialize) -> Result<(), BookError> {
        if number > 0 {
            self.text(",")?;
        }
        self.json(value)
    }

    /// Writes a text and the value that follows it.
    pub(super) fn member(&mut self, text: &str, value: &impl Serialize) -> Result<(), BookError> {
        self.text(text)?;
        self.json(value)
    }

    fn pass_on(&mut self, at_least: usize) -> Result<(), BookError> {
        if self.bytes.len() >= at_least {
            self.crc.update(&self.bytes);
            self.file.write_all(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), BookError> {
        self.pass_on(1)?;
        Ok(self.file.write_all_at(&self.crc.finalize().to_le_bytes(), 0)?)
    }
}

/// A run, or another file of this form, whose checksum is right.
#[derive(Debug)]
pub(super) struct RunFile {
    source: Source,
}

impl RunFile {
    /// Opens a file and compares its checksum.
    pub(super) fn open(path: &Path) -> Result<Self, BookError> {
        let source = Source::open(path, Io::Mmap)?;
        let mut buffer = Vec::new();
        let bytes = source.bytes(0..source.len_bytes(), &mut buffer)?;
        let damaged = |reason: String| BookError::Derived { path: path.to_owned(), offset: 0, reason };
        let Some((crc, payload)) = bytes.split_first_chunk::<4>() else {
            return Err(damaged(format!("it has {} bytes, the checksum alone takes 4", bytes.len())));
        };
        let (crc, found) = (u32::from_le_bytes(*crc), crc32fast::hash(payload));
        source.check_len()?;
        if crc != found {
            return Err(damaged(format!("checksum {crc:08x}, content {found:08x}")));
        }
        Ok(Self { source })
    }

    /// Returns the JSON after the checksum. `buffer` is used where the file is not mapped.
    pub(super) fn payload<'b>(&'b self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], BookError> {
        Ok(self.source.bytes(4..self.source.len_bytes(), buffer)?)
    }

    /// Returns the entries of a run, in order. In another file the first is an error.
    pub(super) fn entries<'b>(&'b self, buffer: &'b mut Vec<u8>) -> Result<RunEntries<'b>, BookError> {
        Ok(RunEntries { source: &self.source, bytes: self.payload(buffer)?, at: 0, last: None })
    }
}

/// Reads a run entry by entry, and checks that the keys ascend.
pub(super) struct RunEntries<'a> {
    source: &'a Source,
    bytes: &'a [u8],
    at: usize,
    last: Option<String>,
}

impl RunEntries<'_> {
    fn damaged(&self, reason: String) -> BookError {
        BookError::Derived { path: self.source.path().to_owned(), offset: self.at as u64 + 4, reason }
    }

    fn read(&mut self) -> Result<Option<(String, KeyOutcome)>, BookError> {
        match (self.last.is_some(), self.bytes.get(self.at)) {
            (false, Some(b'[')) if self.bytes.get(1) == Some(&b']') => self.at = 1,
            (false, Some(b'[')) | (true, Some(b',')) => self.at += 1,
            (true, Some(b']')) => {}
            _ => return Err(self.damaged("not an array of entries".to_owned())),
        }
        if self.bytes[self.at] == b']' {
            if self.at + 1 != self.bytes.len() {
                return Err(self.damaged("bytes after the last entry".to_owned()));
            }
            self.source.check_len()?;
            return Ok(None);
        }
        let mut entry =
            serde_json::Deserializer::from_slice(&self.bytes[self.at..]).into_iter::<(String, KeyOutcome)>();
        let (key, outcome) = match entry.next() {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => return Err(self.damaged(error.to_string())),
            None => return Err(self.damaged("cut short".to_owned())),
        };
        if self.last.as_ref().is_some_and(|last| *last > key) {
            return Err(self.damaged(format!("key {key:?} is out of order")));
        }
        self.at += entry.byte_offset();
        self.last = Some(key.clone());
        Ok(Some((key, outcome)))
    }
}

impl Iterator for RunEntries<'_> {
    type Item = Result<(String, KeyOutcome), BookError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

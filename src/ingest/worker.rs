//! Draining: reads a batch, syncs the journal up to its end, delivers and stores it, moves the cursors.
//!
//! May touch: the store, its cursor in the journal, and the files that the sink writes. Guarantees: the offset in the store moves
//! in the same transaction as the subjects' lists and after everything else of its batch is durable, so that after a crash
//! records arrive again and are never lost; storing a record again changes nothing, because keys follow from content or offset.

use std::collections::{BTreeMap, HashSet};

use super::binding::Binding;
use super::error::IngestError;
use super::payload::{Payload, QueuedLine, deserialize};
use super::sink::{Delivered, LedgerEntry, LedgerSink, RefusedLine, TOGETHER_BYTES, TOGETHER_RECORDS};
use super::store::{KVStore, KeyValue};
use crate::journal::{Cursor, JournalReader, RecordRef};

/// Records and bytes of one batch. The ingestor reads no further before a batch is stored, which bounds its memory.
const BATCH_RECORDS: u64 = 16 * 1024;
const BATCH_BYTES: u64 = 16 << 20;

/// A record that was set aside under `Q:` and its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAsideRecord {
    /// Offset of the record in the journal.
    pub offset: u64,
    /// Length of its payload in bytes.
    pub len_bytes: u64,
    /// Why it could not be stored or delivered.
    pub reason: String,
}

/// Called for each record that was set aside, once the record is in the store.
pub type SetAsideListener = Box<dyn FnMut(&SetAsideRecord) + Send>;

/// What was drained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Records consumed, those set aside included.
    pub records: u64,
    /// Their payloads' bytes.
    pub payload_bytes: u64,
    /// Lines written to the ledger.
    pub ledger_lines: u64,
    /// Lines that the ledger had already.
    pub duplicates: u64,
    /// Records set aside under `Q:`.
    pub set_aside: u64,
}

impl Drained {
    /// Adds the counts of another batch.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.payload_bytes += other.payload_bytes;
        self.ledger_lines += other.ledger_lines;
        self.duplicates += other.duplicates;
        self.set_aside += other.set_aside;
    }
}

/// The state of draining; owned by the ingestor or by its background thread.
pub(super) struct DrainWorker<S> {
    pub(super) reader: JournalReader,
    pub(super) store: S,
    pub(super) sink: Option<LedgerSink>,
    pub(super) set_aside_listener: Option<SetAsideListener>,
    binding: Binding,
    cursor: Cursor,
    /// Offset of the next record to consume.
    pub(super) offset: u64,
}

impl<S: KVStore> DrainWorker<S> {
    pub(super) fn new(mut reader: JournalReader, store: S) -> Result<Self, IngestError> {
        let (binding, cursor, offset) = Binding::open(&mut reader, &store)?;
        Ok(Self { reader, store, sink: None, set_aside_listener: None, binding, cursor, offset })
    }

    /// Drains one batch; no records at the end of the journal.
    pub(super) fn drain_batch(&mut self) -> Result<Drained, IngestError> {
        let mut batch = DrainBatch::default();
        let mut next = self.offset;
        while batch.drained.records < TOGETHER_RECORDS && batch.drained.payload_bytes < TOGETHER_BYTES {
            let is_full =
                batch.drained.records >= BATCH_RECORDS || batch.drained.payload_bytes >= BATCH_BYTES;
            let record = match self.reader.read(next) {
                // The next batch begins here and returns the error, after the good records before it are stored.
                Err(_) if batch.drained.records > 0 => break,
                Err(error) => {
                    // Another journal may have replaced this one, which explains the error.
                    self.binding.check()?;
                    return Err(error.into());
                }
                Ok(record) => record,
            };
            let Some(record) = record else { break };
            if is_full && !continues_batch(record.payload) {
                break;
            }
            next = record.next_offset;
            batch.take(record);
        }
        if batch.drained.records > 0 {
            self.store_batch(&mut batch, next)?;
            self.offset = next;
            if let Some(listener) = &mut self.set_aside_listener {
                batch.set_aside.iter().for_each(listener);
            }
        } else {
            // No record would ever arrive if another journal had replaced this one.
            self.binding.check()?;
        }
        Ok(batch.drained)
    }

    fn store_batch(&mut self, batch: &mut DrainBatch, next: u64) -> Result<(), IngestError> {
        // After reading, because a journal gets its identity before its records.
        self.binding.check_records()?;
        self.reader.sync_through(next)?;
        self.deliver(batch)?;
        if !batch.entries.is_empty() {
            self.store.put_batch(&batch.entries)?;
            self.store.flush()?;
        }
        let mut together = self.subject_lists(batch)?;
        together.extend(self.binding.entries(next));
        self.store.put_batch(&together)?;
        self.store.flush()?;
        Ok(self.cursor.set(next)?)
    }

    /// Hands lines to the ledger and sets aside those it refuses.
    fn deliver(&mut self, batch: &mut DrainBatch) -> Result<(), IngestError> {
        let Some(first) = batch.lines.first() else { return Ok(()) };
        let offset = first.offset;
        let Some(sink) = &mut self.sink else { return Err(IngestError::NoLedger { offset }) };
        let Delivered { duplicates, refused } =
            sink(&batch.lines).map_err(|source| IngestError::Ledger { offset, source })?;
        let taken = (batch.lines.len() - refused.len()) as u64;
        batch.drained.duplicates += duplicates;
        batch.drained.ledger_lines += taken.saturating_sub(duplicates);
        for RefusedLine { index, reason } in refused {
            let LedgerEntry { offset, line, .. } = batch.lines[index].clone();
            batch.put_aside(offset, format!("the ledger refused the line: {reason}"), line.as_bytes());
        }
        Ok(())
    }

    /// Returns the lists of the batch's subjects, old hashes first, each once.
    fn subject_lists(&self, batch: &DrainBatch) -> Result<Vec<KeyValue>, IngestError> {
        let mut lists = Vec::with_capacity(batch.subjects.len() + 2);
        for (key, hashes) in &batch.subjects {
            let mut list = self.store.get(key)?.unwrap_or_default();
            let mut missing: HashSet<[u8; 32]> = hashes.iter().copied().collect();
            for known in list.chunks_exact(32) {
                missing.remove(known);
            }
            if missing.is_empty() {
                continue;
            }
            for hash in hashes {
                if missing.remove(hash) {
                    list.extend_from_slice(hash);
                }
            }
            lists.push((key.clone(), list));
        }
        Ok(lists)
    }
}

/// Whether a record is a line for the ledger that was queued in one batch with the line before it.
fn continues_batch(payload: &[u8]) -> bool {
    matches!(deserialize(payload), Ok(Payload::LedgerLine(QueuedLine { continues_batch: true, .. })))
}

/// Records on their way to the store.
#[derive(Default)]
struct DrainBatch {
    /// `H:`, `V:`, `E:` and `Q:`.
    entries: Vec<KeyValue>,
    /// `S:` keys and the hashes to add, in order of arrival.
    subjects: BTreeMap<Vec<u8>, Vec<[u8; 32]>>,
    lines: Vec<LedgerEntry>,
    set_aside: Vec<SetAsideRecord>,
    drained: Drained,
}

impl DrainBatch {
    fn take(&mut self, record: RecordRef<'_>) {
        self.drained.records += 1;
        self.drained.payload_bytes += record.payload.len() as u64;
        let key = match deserialize(record.payload) {
            Ok(Payload::Assertion(assertion)) => {
                let subject = [b"S:", assertion.subject.as_bytes()].concat();
                self.subjects.entry(subject).or_default().push(*record.hash.as_bytes());
                format!("H:{}", record.hash)
            }
            Ok(Payload::Vote(vote)) => {
                format!("V:{}:{}", blake3::Hash::from_bytes(vote.assertion), record.hash)
            }
            Ok(Payload::Epoch(epoch)) => format!("E:{}", blake3::Hash::from_bytes(epoch.id)),
            Ok(Payload::LedgerLine(QueuedLine { line, continues_batch })) => {
                self.lines.push(LedgerEntry { offset: record.offset, line, continues_batch });
                return;
            }
            Err(reason) => {
                return self.put_aside(record.offset, reason.to_string(), record.payload);
            }
        };
        self.entries.push((key.into_bytes(), record.payload.to_vec()));
    }

    /// Sets a record aside; the value is the length of the reason, the reason, the payload.
    fn put_aside(&mut self, offset: u64, reason: String, payload: &[u8]) {
        let mut value = (reason.len() as u32).to_le_bytes().to_vec();
        value.extend_from_slice(reason.as_bytes());
        value.extend_from_slice(payload);
        self.entries.push((format!("Q:{offset:016x}").into_bytes(), value));
        self.drained.set_aside += 1;
        self.set_aside.push(SetAsideRecord { offset, len_bytes: payload.len() as u64, reason });
    }
}

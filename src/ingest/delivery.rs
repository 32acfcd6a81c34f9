//! Delivers a journal's lines to the ledger, each once, across crashes.
//!
//! May touch: the ledger, by its ordinary append path and under its lock, and the file `DELIVERED` in the journal's
//! directory. Guarantees: a line that the ledger accepts is there once, however often it arrives. The ledger recognises records
//! by their ids. Stamps have none, so before every append a durable note says which lines are under way and how long the
//! ledger was, and a stamp that is in the ledger after that length is not written again. The note is in the journal's directory and not
//! in the store, because a store that is deleted and filled again must not deliver a line twice.

use std::path::{Path, PathBuf};

use super::payload::{Payload, QueuedLine, deserialize};
use super::sink::{Delivered, LedgerEntry, LedgerSink, RefusedLine, TOGETHER_BYTES};
use crate::disk::{self, Replacing};
use crate::home::LockName;
use crate::interrupt::Interrupt;
use crate::journal::{HeaderFlaw, JournalError, JournalReader, seal, unseal};
use crate::ledger::{AppendOptions, Batch, ExtraIds, Ledger, LedgerError};
use crate::lock::{LockError, with_lock_unless};

/// Most bytes before the noted length of the ledger that are hashed to recognise the ledger.
const WITNESS_BYTES: u64 = 4096;

/// Length of the note in bytes, docs/drain.md.
const NOTE_LEN: usize = 80;
const NOTE_MAGIC: [u8; 8] = *b"BURNDLVR";

/// Lines could not be delivered. They stay queued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The journal could not be read for the first lines of a batch that was delivered in part.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger's lock could not be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The note was written by a version of the format that this program does not know.
    #[error("{} has format version {version}; use the program that wrote it", path.display())]
    Unsupported {
        /// The note.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
}

/// Returns a sink that appends lines of the journal in `journal` to `ledger`, durably. Lines that are no records of a ledger
/// are refused for good; after any other failure the lines can be delivered again. The sink stops waiting for the ledger's lock when `interrupt`
/// is requested, and the lines stay queued.
pub fn ledger_sink(ledger: Ledger, journal: &Path, interrupt: &Interrupt) -> LedgerSink {
    let (journal, interrupt) = (journal.to_owned(), interrupt.clone());
    Box::new(move |entries| Ok(deliver(&ledger, &journal, &interrupt, entries)?))
}

fn deliver(
    ledger: &Ledger,
    journal: &Path,
    interrupt: &Interrupt,
    entries: &[LedgerEntry],
) -> Result<Delivered, DeliveryError> {
    let note = &journal.join("DELIVERED");
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Ok(Delivered::default());
    };
    disk::create_dir_all(ledger.home().root())?;
    // Under the lock the length of the ledger does not change before the append, and no other ingestor reads the note.
    with_lock_unless(&ledger.home().lock(LockName::Ledger), interrupt, |_| {
        let file = ledger.home().ledger();
        let mut before = match read_note(note)? {
            Note::None => UnderWay::nothing(),
            Note::Read(under_way) => under_way,
            Note::Damaged => {
                // Without a note, each of these lines may be anywhere in the ledger.
                let unknown = UnderWay { lines: first.offset..last.offset + 1, ..UnderWay::nothing() };
                disk::replace(note, &unknown.encode(), Replacing::Durable)?;
                unknown
            }
        };
        let is_as_noted = witness(&file, before.ledger_len_bytes)? == Some(before.witness);
        if !is_as_noted || ledger.lacks_indexed_lines()? {
            // An index that still has the ids of lost lines would make these lines duplicates.
            ledger.rebuild_index(ExtraIds::Refuse, interrupt)?;
        }
        let mut begun = Vec::new();
        if is_as_noted {
            if first.continues_batch && before.lines.start < first.offset {
                begun = begun_batch(journal, before.lines.start, first.offset)?;
            }
        } else {
            // The ledger was emptied, replaced, or cut by a power failure, so the lines that it lacks are appended again.
            before = UnderWay { lines: 0..before.lines.end, ..UnderWay::nothing() };
        }
        let [mut passed, mut again, mut new] = [Batch::new(), Batch::new(), Batch::new()];
        // Lines of a batch that an earlier delivery began are appended as if that delivery had been interrupted.
        let continuing = match begun.is_empty() {
            true => 0,
            false => entries.iter().take_while(|entry| entry.continues_batch).count(),
        };
        for line in &begun {
            // The earlier delivery reported the lines that the ledger refuses.
            let _ = again.push_line(line.as_bytes());
        }
        again.count_from_here();
        let mut new_lines: Option<std::ops::Range<u64>> = None;
        let mut refused = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let offset = entry.offset;
            let batch = if offset < before.lines.start {
                // Synced to the ledger before the note was written; pushed only to find the lines that the ledger refuses.
                &mut passed
            } else if offset < before.lines.end || index < continuing {
                &mut again
            } else {
                new_lines = Some(new_lines.map_or(offset, |lines| lines.start)..offset + 1);
                &mut new
            };
            if !entry.continues_batch {
                batch.join_next();
            }
            if let Err(refusal) = batch.push_line(entry.line.as_bytes()) {
                refused.push(RefusedLine { index, reason: refusal.reason });
            }
        }
        let taken = (passed.len() + again.len() + new.len()) as u64;
        let mut appended = 0;
        if !again.is_empty() {
            let end = continuing.checked_sub(1).map_or(0, |last| entries[last].offset + 1);
            if end > before.lines.end {
                before.lines.end = end;
                disk::replace(note, &before.encode(), Replacing::Durable)?;
            }
            appended +=
                ledger.resume_append(&again, &AppendOptions::durable(), before.ledger_len_bytes)?.appended;
        }
        if let Some(lines) = new_lines {
            let ledger_len_bytes = len_bytes(&file)?;
            let witness = witness(&file, ledger_len_bytes)?.unwrap_or_default();
            disk::replace(note, &UnderWay { lines, ledger_len_bytes, witness }.encode(), Replacing::Durable)?;
            appended += ledger.append(&new, &AppendOptions::durable())?.appended;
        }
        Ok(Delivered { duplicates: taken.saturating_sub(appended), refused })
    })
}

/// The lines that were queued in one batch with the line at `end` and before that line, as far as the journal has them from `start`
/// on; none when they are too many to deliver together, or when the journal no longer has them.
fn begun_batch(journal: &Path, start: u64, end: u64) -> Result<Vec<String>, JournalError> {
    if end - start > TOGETHER_BYTES {
        return Ok(Vec::new());
    }
    let mut reader = JournalReader::open(journal)?;
    let (mut lines, mut offset) = (Vec::new(), start);
    while offset < end {
        let record = match reader.read(offset) {
            Ok(Some(record)) => record,
            // A file that cannot be read may be readable at the next attempt; a record that is lost or damaged stays so.
            Err(error @ (JournalError::Disk(_) | JournalError::Scan(_))) => return Err(error),
            Ok(None) | Err(_) => return Ok(Vec::new()),
        };
        if record.offset >= end {
            break;
        }
        if let Ok(Payload::LedgerLine(QueuedLine { line, continues_batch })) = deserialize(record.payload) {
            if !continues_batch {
                lines.clear();
            }
            lines.push(line);
        }
        offset = record.next_offset;
    }
    Ok(lines)
}

fn len_bytes(file: &Path) -> Result<u64, disk::Error> {
    Ok(disk::if_there(disk::metadata(file))?.map_or(0, |found| found.len_bytes))
}

/// BLAKE3 of the last bytes before `end`, which do not change as long as the ledger is only appended to; none when it is shorter.
fn witness(ledger: &Path, end: u64) -> Result<Option<[u8; 32]>, disk::Error> {
    if len_bytes(ledger)? < end {
        return Ok(None);
    }
    let start = end.saturating_sub(WITNESS_BYTES);
    let mut bytes = vec![0; (end - start) as usize];
    if !bytes.is_empty() {
        disk::File::open_read(ledger)?.read_exact_at(&mut bytes, start)?;
    }
    Ok(Some(*blake3::hash(&bytes).as_bytes()))
}

/// The append that was started last, which is the content of the note.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnderWay {
    /// From the offset of its first line in the journal to after the offset of its last. Earlier lines are delivered.
    lines: std::ops::Range<u64>,
    /// Length of the ledger before it, in bytes.
    ledger_len_bytes: u64,
    /// What [`witness`] said of that length.
    witness: [u8; 32],
}

/// The file of the note, as it was read.
#[derive(Debug, PartialEq, Eq)]
enum Note {
    None,
    Damaged,
    Read(UnderWay),
}

impl UnderWay {
    /// No lines and no length, which fit every ledger.
    fn nothing() -> Self {
        Self { lines: 0..0, ledger_len_bytes: 0, witness: *blake3::hash(&[]).as_bytes() }
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = [self.lines.start, self.lines.end, self.ledger_len_bytes].map(u64::to_le_bytes);
        seal(&NOTE_MAGIC, NOTE_LEN as u32, &[numbers.as_flattened(), &self.witness].concat())
    }
}

fn read_note(path: &Path) -> Result<Note, DeliveryError> {
    let Some(file) = disk::if_there(disk::File::open_read(path))? else { return Ok(Note::None) };
    // One byte more than a note has, so that a longer file is noticed.
    let mut buffer = [0; NOTE_LEN + 1];
    let read = file.read_at(&mut buffer, 0)?;
    decode(path, &buffer[..read])
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Note, DeliveryError> {
    let content = match unseal(&NOTE_MAGIC, bytes) {
        Ok((_, content)) => content,
        Err(HeaderFlaw::Damaged) => return Ok(Note::Damaged),
        Err(HeaderFlaw::Unsupported { version, .. }) => {
            return Err(DeliveryError::Unsupported { path: path.to_owned(), version });
        }
    };
    let Some((numbers, witness)) = content.split_first_chunk::<24>() else { return Ok(Note::Damaged) };
    let Ok(witness) = witness.try_into() else { return Ok(Note::Damaged) };
    let number = |at: usize| numbers[8 * at..].first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    Ok(Note::Read(UnderWay { lines: number(0)..number(1), ledger_len_bytes: number(2), witness }))
}

#[cfg(all(test, unix))]
mod tests;

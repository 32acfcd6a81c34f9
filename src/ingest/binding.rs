//! Binds a store to the journal that it is filled from, and to its cursor in that journal.
//!
//! May touch: cursors of the journal. Guarantees: a store continues only in the journal that it was filled from, by the
//! identity of that journal; each store on disk has a cursor of its own, so that cleanup keeps records that any store has not read.

use std::path::{Path, PathBuf};

use super::error::IngestError;
use super::sink::TOGETHER_RECORDS;
use super::store::{KVStore, KeyValue};
use crate::journal::{Cursor, CursorStatus, JournalError, JournalReader, cursors, identity};

/// Name of the cursor of a store without a path, and of all stores of earlier programs.
const SHARED_CURSOR: &str = "ingest";

/// Key of the offset where draining continues, 8 bytes little endian.
const OFFSET_KEY: &[u8] = b"C:offset";

/// Key of the journal: its identity, 16 bytes big endian, and its path when it was drained last.
const JOURNAL_KEY: &[u8] = b"C:journal";
const IDENTITY_LEN: usize = 16;

/// A store and the journal that it is filled from.
pub(super) struct Binding {
    store: Option<PathBuf>,
    journal: PathBuf,
    /// Identity of the journal; none as long as there is no journal and the store is empty.
    identity: Option<u128>,
    /// The path of its journal that the store has.
    filled_from: Option<PathBuf>,
}

impl Binding {
    /// Binds `store` to the journal of `reader`. Also returns the store's cursor and the offset where draining continues, at which the
    /// cursor is.
    pub(super) fn open<S: KVStore>(
        reader: &mut JournalReader,
        store: &S,
    ) -> Result<(Self, Cursor, u64), IngestError> {
        let directory = reader.directory().to_owned();
        let mut binding = Self {
            store: store.path().map(resolved),
            journal: resolved(&directory),
            identity: None,
            filled_from: None,
        };
        if let Some(kept) = store.get(JOURNAL_KEY)? {
            let (kept_identity, path) =
                kept.split_first_chunk::<IDENTITY_LEN>().ok_or_else(|| binding.flaw(JOURNAL_KEY, &kept))?;
            binding.identity = Some(u128::from_be_bytes(*kept_identity));
            binding.filled_from = Some(String::from_utf8_lossy(path).into_owned().into());
        }
        let kept = store.get(OFFSET_KEY)?;
        let kept = kept.map(|kept| match kept.as_slice().try_into() {
            Ok(offset) => Ok(u64::from_le_bytes(offset)),
            Err(_) => Err(binding.flaw(OFFSET_KEY, &kept)),
        });
        let kept = kept.transpose()?;
        let offset = kept.unwrap_or_else(|| reader.start());
        let name = cursor_name(binding.store.as_deref());
        let mut adopted = None;
        if kept.is_some() && binding.identity.is_none() {
            adopted = Some(binding.adopt(reader, offset, &name)?);
            binding.check_records()?;
        } else {
            binding.check()?;
        }
        let mut cursor = Cursor::open(&directory, &name)?;
        if cursor.offset() != offset {
            // A crash came between the two cursors, or the store was restored from a copy or deleted.
            cursor.set(offset)?;
        }
        if let Some(adopted) = adopted {
            // From here on the store has a cursor of its own, so a crash before it is bound does no harm.
            if adopted.name != name && adopted.offset == offset {
                Cursor::open(&directory, &adopted.name)?.delete()?;
            }
            store.put_batch(&binding.entries(offset))?;
            store.flush()?;
        }
        Ok((binding, cursor, offset))
    }

    /// Fails unless the journal is the one of the store, now.
    pub(super) fn check(&mut self) -> Result<(), IngestError> {
        let found = identity(&self.journal)?;
        if self.identity.is_none() {
            self.identity = found;
        } else if found != self.identity {
            return Err(IngestError::OtherJournal {
                store: self.store.clone(),
                filled_from: self.filled_from.clone().unwrap_or_else(|| self.journal.clone()),
                journal: self.journal.clone(),
            });
        }
        Ok(())
    }

    /// As [`Binding::check`], after records were read: a journal with records has an identity, unless an earlier program
    /// has it open.
    pub(super) fn check_records(&mut self) -> Result<(), IngestError> {
        self.check()?;
        match self.identity {
            Some(_) => Ok(()),
            None => Err(JournalError::Locked { path: self.journal.join("LOCK") }.into()),
        }
    }

    /// Returns the entries of journal and offset, which one transaction sets.
    pub(super) fn entries(&self, next: u64) -> [KeyValue; 2] {
        let identity = self.identity.unwrap_or_default().to_be_bytes();
        let path = self.journal.to_string_lossy();
        [
            (JOURNAL_KEY.to_vec(), [&identity, path.as_bytes()].concat()),
            (OFFSET_KEY.to_vec(), next.to_le_bytes().to_vec()),
        ]
    }

    /// Accepts a store of an earlier program, which kept an offset and no journal, if a cursor of this journal is
    /// at that offset, or at most one batch before it, where a crash leaves it. Returns that cursor.
    fn adopt(
        &self,
        reader: &mut JournalReader,
        offset: u64,
        name: &str,
    ) -> Result<CursorStatus, IngestError> {
        let refused = |reason| {
            let (store, journal) = (self.store.clone(), self.journal.clone());
            Err(IngestError::UnknownJournal { store, journal, offset, reason })
        };
        let cursors = cursors(&self.journal)?;
        let named = |name: &str| cursors.iter().find(|cursor| cursor.name == name);
        let Some(cursor) = named(name).or_else(|| named(SHARED_CURSOR)) else {
            return refused("that journal has no cursor of an ingestor".to_owned());
        };
        let mut at = cursor.offset;
        for _ in 0..TOGETHER_RECORDS {
            if at >= offset {
                break;
            }
            match reader.read(at) {
                Ok(Some(record)) => at = record.next_offset,
                Ok(None) | Err(JournalError::BeyondEnd { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if at == offset {
            return Ok(cursor.clone());
        }
        refused(format!("the cursor `{}` of that journal is at {}", cursor.name, cursor.offset))
    }

    fn flaw(&self, key: &'static [u8], value: &[u8]) -> IngestError {
        let key = if key == OFFSET_KEY { "C:offset" } else { "C:journal" };
        IngestError::Cursor { store: self.store.clone(), key, len_bytes: value.len() }
    }
}

/// Returns the canonical path of a directory.
fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Name of a store's cursor: the name of the store's directory, for people, and a hash of its path.
fn cursor_name(store: Option<&Path>) -> String {
    let Some(store) = store else { return SHARED_CURSOR.to_owned() };
    let name = store.file_name().unwrap_or_default().to_string_lossy();
    let is_plain = |character: &char| character.is_ascii_alphanumeric() || "._-".contains(*character);
    let readable: String = name.chars().filter(is_plain).take(64).collect();
    let hash = blake3::hash(store.as_os_str().as_encoded_bytes()).to_hex();
    format!("{SHARED_CURSOR}-{readable}-{}", &hash[..16])
}

#[cfg(all(test, unix))]
mod tests;

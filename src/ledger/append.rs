//! Appending a batch to the ledger: check against the index, one write, then the index.
//!
//! Holds locks `ledger` and, inside it, `ledger-index` from the look into the index to the last id, so that two processes
//! that deliver one record write it once. Content goes to its sidecars afterwards, each under its own lock. Writes only
//! at the end of files, through [`lines`](super::lines) and [`index`](super::index).

use super::batch::{Batch, Entry};
use super::ids::Id;
use super::index::Index;
use super::lines::LineFile;
use super::{Ledger, LedgerError};
use crate::disk;
use crate::home::LockName;
use crate::lock::{Held, with_lock};

/// How to append.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendOptions {
    /// Whether the lines, and the names of new files, are on stable storage before the append returns.
    pub durable: bool,
}

impl AppendOptions {
    /// Lines survive a power cut once the append has returned.
    pub fn durable() -> Self {
        Self { durable: true }
    }
}

/// What became of the records of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Appended {
    /// Written.
    pub appended: u64,
    /// Dropped: already there, or earlier in the batch.
    pub duplicates: u64,
    /// Content records whose session id is missing or cannot name a file.
    pub skipped: u64,
}

impl Ledger {
    /// Appends what is new of `batch`: records to the ledger, content to the sidecars of its sessions.
    ///
    /// Creates the home when it is missing. Waits up to about 11 s for each lock it needs.
    ///
    /// # Errors
    /// [`LedgerError::Partial`], [`LedgerError::NotIndexed`] and [`LedgerError::NotDurable`] say what was written
    /// nevertheless; with any other error nothing of the batch's ledger lines was. Appending the same batch again
    /// writes what is missing and nothing twice, save for stamps, which have no id.
    pub fn append(&self, batch: &Batch, options: &AppendOptions) -> Result<Appended, LedgerError> {
        let mut done = Appended { skipped: batch.skipped(), ..Appended::default() };
        if batch.is_empty() {
            return Ok(done);
        }
        disk::create_dir_all(self.home().root())?;
        if !batch.entries.is_empty() {
            with_lock(&self.home().lock(LockName::Ledger), |held| {
                // Stamps without a relationship have nothing to do with the index.
                if batch.entries.iter().all(|entry| entry.id.is_none()) {
                    let entries: Vec<&Entry> = batch.entries.iter().collect();
                    done.appended += entries.len() as u64;
                    let mut ledger = self.open_for_append()?;
                    return self.write(batch, &entries, &mut ledger, held, options).map(|_| ());
                }
                with_lock(&self.home().lock(LockName::LedgerIndex), |index_held| {
                    self.append_indexed(batch, options, &mut done, held, index_held)
                })
            })?;
        }
        self.append_content(batch, options, &mut done)?;
        Ok(done)
    }

    fn append_indexed(
        &self,
        batch: &Batch,
        options: &AppendOptions,
        done: &mut Appended,
        held: &Held,
        index_held: &Held,
    ) -> Result<(), LedgerError> {
        let mut ledger = self.open_for_append()?;
        let mut index = Index::open(self.home(), &ledger)?;
        let mut known = index.known(batch.entries.iter().filter_map(|entry| entry.id))?;
        let known_fingerprints =
            index.known_fingerprints(batch.entries.iter().filter_map(|entry| entry.fingerprint));
        let mut fresh: Vec<&Entry> = Vec::with_capacity(batch.entries.len());
        for entry in &batch.entries {
            let is_fresh = entry.fingerprint.is_none_or(|id| !known_fingerprints.contains(&id))
                && entry.id.is_none_or(|id| known.insert(id));
            match (is_fresh, entry.is_implied) {
                (true, _) => fresh.push(entry),
                (false, false) => done.duplicates += 1,
                (false, true) => {}
            }
        }
        if fresh.is_empty() {
            // What is there already may have been written by an append that did not sync, or died before it could.
            return sync_lines(&ledger, 0, options);
        }
        index_held.still_held()?;
        let written = self.write(batch, &fresh, &mut ledger, held, options);
        let landed = match &written {
            Ok(()) => fresh.len(),
            Err(LedgerError::Partial { landed, .. } | LedgerError::NotDurable { landed, .. }) => {
                *landed as usize
            }
            Err(_) => 0,
        };
        let landed = &fresh[..landed];
        let ids: Vec<Id> = landed.iter().filter_map(|entry| entry.id).collect();
        let fingerprints: Vec<Id> = landed.iter().filter_map(|entry| entry.fingerprint).collect();
        let indexed = match landed {
            [] => Ok(()),
            _ => index.add(&ids, &fingerprints, &ledger, ledger.len_bytes()),
        };
        // An unfinished write is the greater trouble; what landed of it is found by the next append in any case.
        written?;
        indexed.map_err(|source| LedgerError::NotIndexed {
            path: self.home().ledger(),
            landed: landed.len() as u64,
            source: Box::new(source),
        })?;
        done.appended += fresh.iter().filter(|entry| !entry.is_implied).count() as u64;
        Ok(())
    }

    /// Opens the ledger, creating it when it is missing. Its name is durable before its first line, whether the append is or
    /// not: the directory, which lock files change all the time, need not be synced at every durable append then.
    fn open_for_append(&self) -> Result<LineFile, disk::Error> {
        let ledger = LineFile::open(&self.home().ledger())?;
        if ledger.len_bytes() == 0 {
            disk::sync_dir(self.home().root())?;
        }
        Ok(ledger)
    }

    /// Writes `entries` in one go.
    fn write(
        &self,
        batch: &Batch,
        entries: &[&Entry],
        ledger: &mut LineFile,
        held: &Held,
        options: &AppendOptions,
    ) -> Result<(), LedgerError> {
        let mut text = Vec::with_capacity(entries.iter().map(|entry| entry.line.len()).sum());
        entries.iter().for_each(|entry| text.extend_from_slice(batch.line(&entry.line)));
        held.still_held()?;
        append_lines(ledger, &text, entries.len(), options)
    }
}

/// Appends `count` lines to `file`, and syncs it when that is wanted.
pub(super) fn append_lines(
    file: &mut LineFile,
    text: &[u8],
    count: usize,
    options: &AppendOptions,
) -> Result<(), LedgerError> {
    file.append(text).map_err(|short| LedgerError::Partial {
        path: file.file().path().to_owned(),
        landed: short.landed as u64,
        wanted: count as u64,
        source: short.source,
    })?;
    sync_lines(file, count, options)
}

/// Syncs `file`, to which `count` lines were appended, when that is wanted.
pub(super) fn sync_lines(file: &LineFile, count: usize, options: &AppendOptions) -> Result<(), LedgerError> {
    if !options.durable {
        return Ok(());
    }
    file.sync().map_err(|source| LedgerError::NotDurable {
        path: file.file().path().to_owned(),
        landed: count as u64,
        source,
    })
}

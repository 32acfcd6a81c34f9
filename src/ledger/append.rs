//! Appends a batch to the ledger: looks up the ids in the index, writes the lines in one write, then updates the index.
//!
//! Content records are written to their sidecars first, each sidecar under its own lock. A content line that was written
//! before the rest failed is recognised by its bytes and is not written twice. Then the append holds lock `ledger` and,
//! inside that lock, lock `ledger-index` from the look-up in the index to the last id, so that two processes that deliver
//! one record write the record once. Lines are written only at the end of files, and lines whose
//! sync failed are cut off again.

use std::collections::VecDeque;

use super::batch::{Batch, BatchEntry};
use super::index::{FINGERPRINTS, IdIndex};
use super::lines::LineFile;
use super::sidecar_lines::SidecarLines;
use super::{Ledger, LedgerError};
use crate::disk;
use crate::home::LockName;
use crate::lock::Held;
use crate::record::{Id, IdSet};

/// Options of an append.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendOptions {
    /// Whether the lines, including duplicates, and the names of their files are on stable storage before the append returns.
    pub durable: bool,
}

impl AppendOptions {
    /// Options with which lines survive a power cut once the append has returned.
    pub fn durable() -> Self {
        Self { durable: true }
    }
}

/// The outcome of an append: how many records of a batch were written, dropped and skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Appended {
    /// Records that were written.
    pub appended: u64,
    /// Records that were dropped because they are already in the ledger or earlier in the batch.
    pub duplicates: u64,
    /// Content records whose session id is missing or cannot name a file.
    pub skipped: u64,
}

/// The ledger lines that an append has written.
#[cfg_attr(not(feature = "agents"), allow(dead_code))]
#[derive(Debug, Default)]
pub(crate) struct WrittenLines {
    /// The numbers of the lines in the batch, in the order of the ledger.
    pub numbers: Vec<u32>,
    /// Where the last of the lines ends in the ledger, in bytes.
    pub end_bytes: u64,
}

/// State shared by the pieces of one batch that is too large for memory: see [`Ledger::append_piece`].
#[derive(Debug, Default)]
pub struct Pieces {
    /// The fingerprints that the index had before the first piece.
    before: Option<IdSet>,
    /// The fingerprints that the pieces added, at most as many as the index keeps.
    added: VecDeque<Id>,
}

impl Pieces {
    /// Returns the fingerprints of `wanted` that make a turn a duplicate: those that [`IdIndex::known_fingerprints`]
    /// returns, without the fingerprints that earlier pieces added, and those that the index had before the first piece.
    fn known_fingerprints(&mut self, index: &IdIndex<'_>, wanted: &[Id]) -> IdSet {
        let before = self.before.get_or_insert_with(|| index.fingerprints().collect());
        let added: IdSet = self.added.iter().copied().collect();
        let mut known = index.known_fingerprints(wanted.iter().copied());
        known.retain(|id| !added.contains(id));
        known.extend(wanted.iter().filter(|id| before.contains(*id)));
        known
    }

    fn add(&mut self, fingerprints: &[Id]) {
        self.added.extend(fingerprints);
        self.added.drain(..self.added.len().saturating_sub(FINGERPRINTS));
    }
}

/// The entries of a batch that are still to be appended.
pub(super) struct WantedEntries<'b> {
    pub(super) entries: Vec<&'b BatchEntry>,
    /// The ids of entries that an interrupted append has written. Fingerprints of these entries do not make other
    /// entries of their part duplicates.
    pub(super) landed: IdSet,
}

impl<'b> WantedEntries<'b> {
    pub(super) fn all(batch: &'b Batch) -> Self {
        Self { entries: batch.entries.iter().collect(), landed: IdSet::default() }
    }
}

impl Ledger {
    /// Appends the new records of `batch`: records to the ledger, content to the sidecars of its sessions.
    ///
    /// Creates the home when the home is missing. Waits up to about 11 s for each lock.
    ///
    /// # Errors
    /// [`LedgerError::Partial`], [`LedgerError::NotIndexed`] and [`LedgerError::NotDurable`] say what was written
    /// nevertheless. With any other error no ledger line of the batch was written, though content may have been
    /// written. After [`LedgerError::SyncFailed`] no durable append to that file succeeds until the program is started
    /// again. Appending the same batch again writes only the missing lines, except that stamps are written again
    /// because stamps have no id: see [`Ledger::resume_append`].
    pub fn append(&self, batch: &Batch, options: &AppendOptions) -> Result<Appended, LedgerError> {
        self.append_knowing(batch, options, None, &mut SidecarLines::default(), &mut WrittenLines::default())
    }

    /// Appends the next piece of a batch that is too large for memory, as [`Ledger::append`] does with a batch. The
    /// turns of different pieces are not compared with each other by fingerprint. Other programs may append between two pieces.
    ///
    /// # Errors
    /// The errors of [`Ledger::append`]; the pieces before are then in the ledger.
    pub fn append_piece(
        &self,
        piece: &Batch,
        options: &AppendOptions,
        pieces: &mut Pieces,
    ) -> Result<Appended, LedgerError> {
        let (mut known, mut written) = (SidecarLines::default(), WrittenLines::default());
        self.append_knowing(piece, options, Some(pieces), &mut known, &mut written)
    }

    /// Does the same as [`Ledger::append`], and notes in `written` which ledger lines were written.
    /// `known` is from the caller's last append.
    #[cfg(feature = "agents")]
    pub(crate) fn append_telling(
        &self,
        batch: &Batch,
        options: &AppendOptions,
        known: &mut SidecarLines,
        written: &mut WrittenLines,
    ) -> Result<Appended, LedgerError> {
        self.append_knowing(batch, options, None, known, written)
    }

    fn append_knowing(
        &self,
        batch: &Batch,
        options: &AppendOptions,
        pieces: Option<&mut Pieces>,
        known: &mut SidecarLines,
        written: &mut WrittenLines,
    ) -> Result<Appended, LedgerError> {
        let mut done = self.append_sidecars(batch, options, known)?;
        if !batch.entries.is_empty() {
            self.append_wanted(batch, &WantedEntries::all(batch), options, pieces, written, &mut done)?;
        }
        Ok(done)
    }

    /// Creates the home and appends the content of a batch.
    pub(super) fn append_sidecars(
        &self,
        batch: &Batch,
        options: &AppendOptions,
        known: &mut SidecarLines,
    ) -> Result<Appended, LedgerError> {
        let mut done = Appended { skipped: batch.skipped(), ..Appended::default() };
        if !batch.is_empty() {
            disk::create_dir_all(self.home().root())?;
            self.append_content(batch, options, known, &mut done)?;
        }
        Ok(done)
    }

    /// Appends the new lines among the `wanted` lines of a batch.
    pub(super) fn append_wanted(
        &self,
        batch: &Batch,
        wanted: &WantedEntries<'_>,
        options: &AppendOptions,
        pieces: Option<&mut Pieces>,
        written: &mut WrittenLines,
        done: &mut Appended,
    ) -> Result<(), LedgerError> {
        self.locked(LockName::Ledger, |held| {
            let entries = &wanted.entries;
            done.duplicates += counted(&batch.entries) - counted(entries.iter().copied());
            if entries.is_empty() {
                return sync_lines(&self.open_for_append()?, options);
            }
            // Stamps without a relationship do not need the index.
            if entries.iter().all(|entry| entry.id.is_none()) {
                done.appended += counted(entries.iter().copied());
                let mut ledger = self.open_for_append()?;
                written.numbers.extend(entries.iter().map(|entry| entry.number));
                self.write(batch, entries, &mut ledger, held, options)?;
                written.end_bytes = ledger.len_bytes();
                return Ok(());
            }
            self.locked(LockName::LedgerIndex, |index_held| {
                let held = [held, index_held];
                *written = self.append_indexed(batch, wanted, options, pieces, done, held)?;
                Ok(())
            })
        })
    }

    fn append_indexed<'b>(
        &self,
        batch: &Batch,
        WantedEntries { entries, landed }: &WantedEntries<'b>,
        options: &AppendOptions,
        mut pieces: Option<&mut Pieces>,
        done: &mut Appended,
        [held, index_held]: [&Held; 2],
    ) -> Result<WrittenLines, LedgerError> {
        let mut ledger = self.open_for_append()?;
        let mut index = IdIndex::open(self.home(), &ledger)?;
        let mut known = index.known(entries.iter().filter_map(|entry| entry.id))?;
        let wanted: Vec<Id> = entries.iter().filter_map(|entry| entry.fingerprint).collect();
        let mut known_fingerprints = match &mut pieces {
            Some(pieces) => pieces.known_fingerprints(&index, &wanted),
            None => index.known_fingerprints(wanted.iter().copied()),
        };
        let mut fresh: Vec<&'b BatchEntry> = Vec::with_capacity(entries.len());
        let is_landed = |entry: &BatchEntry| entry.id.is_some_and(|id| landed.contains(&id));
        // A power cut may have lost the ids of lines that survived.
        let mut to_index: Vec<&BatchEntry> = Vec::new();
        for entry in entries.iter().filter(|entry| is_landed(entry)) {
            entry.fingerprint.map(|fingerprint| known_fingerprints.remove(&fingerprint));
            if entry.id.is_some_and(|id| known.insert(id)) {
                to_index.push(entry);
            }
        }
        // Turns of one part are not compared with each other by fingerprint; turns of later parts are compared with earlier parts.
        let mut part = 0;
        let mut of_part = Vec::new();
        for entry in entries {
            if entry.part != part {
                known_fingerprints.extend(of_part.drain(..));
                part = entry.part;
            }
            let is_repeated = entry.fingerprint.is_some_and(|id| known_fingerprints.contains(&id));
            let is_fresh =
                (entry.has_certain_id || !is_repeated) && entry.id.is_none_or(|id| known.insert(id));
            if is_fresh || is_landed(entry) {
                of_part.extend(entry.fingerprint);
            }
            match is_fresh {
                true => fresh.push(entry),
                false => done.duplicates += u64::from(entry.is_counted),
            }
        }
        index_held.still_held()?;
        let written = match fresh.is_empty() {
            // Duplicates may have been written by an append that did not sync, or that died before its sync.
            true => sync_lines(&ledger, options),
            false => self.write(batch, &fresh, &mut ledger, held, options),
        };
        let landed = match &written {
            Ok(()) => fresh.len(),
            Err(LedgerError::Partial { landed, .. } | LedgerError::NotDurable { landed, .. }) => {
                *landed as usize
            }
            Err(_) => 0,
        };
        to_index.extend(&fresh[..landed]);
        let ids: Vec<Id> = to_index.iter().filter_map(|entry| entry.id).collect();
        let fingerprints: Vec<Id> = to_index.iter().filter_map(|entry| entry.fingerprint).collect();
        let indexed = match to_index.is_empty() {
            true => Ok(()),
            false => index.add(&ids, &fingerprints, &ledger, ledger.len_bytes()),
        };
        // The error of the write is returned first, because the next append finds the lines that landed in any
        // case.
        written?;
        indexed.map_err(|source| LedgerError::NotIndexed {
            path: self.home().ledger(),
            landed: landed as u64,
            source: Box::new(source),
        })?;
        if let Some(pieces) = pieces {
            pieces.add(&fingerprints);
        }
        done.appended += counted(fresh.iter().copied());
        let numbers = fresh.iter().map(|entry| entry.number).collect();
        Ok(WrittenLines { numbers, end_bytes: ledger.len_bytes() })
    }

    /// Opens the ledger and creates the file when the ledger is missing. The name is durable before the first line,
    /// whether the append is durable or not. Therefore a durable append need not sync the directory, which lock files
    /// change all the time.
    pub(super) fn open_for_append(&self) -> Result<LineFile, disk::Error> {
        let ledger = LineFile::open(&self.home().ledger())?;
        if ledger.len_bytes() == 0 {
            disk::sync_dir(self.home().root())?;
        }
        Ok(ledger)
    }

    /// Writes `entries` in one write.
    fn write(
        &self,
        batch: &Batch,
        entries: &[&BatchEntry],
        ledger: &mut LineFile,
        held: &Held,
        options: &AppendOptions,
    ) -> Result<(), LedgerError> {
        let text = batch.joined(entries.iter().map(|entry| &entry.line));
        held.still_held()?;
        append_lines(ledger, &text, entries.len(), options)
    }
}

/// Counts the entries that are records of their batch.
fn counted<'b>(entries: impl IntoIterator<Item = &'b BatchEntry>) -> u64 {
    entries.into_iter().filter(|entry| entry.is_counted).count() as u64
}

/// Appends `count` lines to `file`, and syncs the file when `options` ask for a sync.
///
/// Lines whose sync failed are cut off again. The system may have dropped such lines and may call the next sync a success.
/// A retry would find the lines as duplicates and would confirm lines that no disk has. A reader may have seen the lines meanwhile.
pub(super) fn append_lines(
    file: &mut LineFile,
    text: &[u8],
    count: usize,
    options: &AppendOptions,
) -> Result<(), LedgerError> {
    if options.durable {
        file.can_be_synced()?;
    }
    let before = file.end();
    file.append(text).map_err(|short| LedgerError::Partial {
        path: file.file().path().to_owned(),
        landed: short.landed as u64,
        wanted: count as u64,
        source: short.source,
    })?;
    if !options.durable {
        return Ok(());
    }
    file.sync().map_err(|source| {
        let landed = match file.cut_back(before) {
            true => 0,
            false => {
                file.never_sync_again(&source);
                count as u64
            }
        };
        LedgerError::NotDurable { path: file.file().path().to_owned(), landed, source }
    })
}

/// Syncs lines that were in `file` before, when `options` ask for a sync.
pub(super) fn sync_lines(file: &LineFile, options: &AppendOptions) -> Result<(), LedgerError> {
    if !options.durable {
        return Ok(());
    }
    file.can_be_synced()?;
    // Lines of earlier appends are not cut off, because this append did not write them.
    file.sync().or_else(|error| {
        file.never_sync_again(&error);
        file.can_be_synced()
    })
}

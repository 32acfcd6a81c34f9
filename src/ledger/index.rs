//! The index files: which ids and fingerprints the ledger has.
//!
//! Touches `ledger.idx`, `ledger.content.idx` and `ledger.idx.sorted`, always under lock `ledger-index`. Guarantees: an id
//! is called known only if `ledger.idx` itself has the id. Looking up a few ids costs the same whether the index has a
//! thousand or a million ids. When a writer wrote lines and died before writing their ids, the next append first adds those ids.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use super::lines::LineFile;
use super::pipeline::{LedgerWork, in_order};
use super::sorted::{DistinctIds, FileStat, IndexNote, Sorted, each_piece};
use super::{Ledger, LedgerError};
use crate::disk::{self, File, Replacing};
use crate::home::{Home, LockName};
use crate::interrupt::Interrupt;
use crate::lock::with_lock_unless;
use crate::record::identify::{Finder, LineIds};
use crate::record::{ID_LEN_BYTES, Id, IdSet};
use crate::scan::{self, Io, ScanError, Source};

/// The number of fingerprints kept.
pub(super) const FINGERPRINTS: usize = 10_000;
/// The tail is the ids after the sorted ids. A tail of at most this many ids is never sorted in.
const TAIL_MIN: u64 = 4096;
/// A tail of more ids than this is always sorted in.
const TAIL_MAX: u64 = 65_536;
/// How much of the ledger a thread reads at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// What a rebuild does with ids that are in the index and in no line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExtraIds {
    /// Changes nothing: such ids are the only trace of lost lines.
    #[default]
    Refuse,
    /// Drops the ids.
    Drop,
}

/// The result of `burn state rebuild index`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reindexed {
    /// The length of the ledger up to its last LF, in bytes.
    pub scanned_bytes: u64,
    /// Number of different ids.
    pub ids: u64,
    /// Number of fingerprints kept.
    pub fingerprints: u64,
    /// Number of lines that are not JSON and therefore have no id.
    pub malformed_lines: u64,
    /// Number of different ids that the old index had, that no line of the ledger has, and that the new index lacks.
    pub dropped_ids: u64,
    /// Duration of the rebuild, in milliseconds.
    pub duration_ms: u64,
}

/// The path of the sorted ids of a home.
pub(super) fn sorted_path(home: &Home) -> PathBuf {
    disk::with_suffix(&home.ids_index(), ".sorted")
}

/// The index of a home, open for an append.
#[derive(Debug)]
pub(super) struct IdIndex<'h> {
    home: &'h Home,
    sorted: Sorted,
    /// `ledger.idx`, if the file exists.
    ids: Option<File>,
    /// The ids of `ledger.idx` after the sorted ids.
    tail: Vec<Id>,
    fingerprints: Fingerprints,
}

#[derive(Debug, Default)]
struct Fingerprints {
    /// The last [`FINGERPRINTS`] fingerprints, in the order of the file.
    window: VecDeque<Id>,
    /// The number of lines in the file, valid or not.
    lines: usize,
}

/// What the name of an index that was set aside ends in.
const SET_ASIDE: &str = ".set-aside";

impl<'h> IdIndex<'h> {
    /// Opens the index and adds the ids that the index lacks of `ledger`, the open ledger.
    pub(super) fn open(home: &'h Home, ledger: &LineFile) -> Result<Self, LedgerError> {
        let ids = open_existing(home.ids_index())?;
        let stat = ids.as_ref().map(FileStat::of).transpose()?.unwrap_or_default();
        let ledger_stat = FileStat::of(ledger.file())?;
        let path = sorted_path(home);
        // Without a saved note, assume that every complete line is indexed, because an index written by the
        // TypeScript package has no note.
        let whole_bytes = match ledger.is_torn() {
            true => whole_lines(&home.ledger(), ledger.len_bytes())?,
            false => ledger.len_bytes(),
        };
        // The lines may be those of a ledger that was away when a run set its index aside.
        let set_aside = || disk::if_there(disk::metadata(&disk::with_suffix(&home.ids_index(), SET_ASIDE)));
        let is_set_aside = ids.is_none() && set_aside()?.is_some();
        let indexed_bytes = if is_set_aside { 0 } else { whole_bytes };
        let fresh = IndexNote { ids: stat, ledger: ledger_stat, indexed_bytes };
        let (sorted, seen) = match Sorted::open(&path)? {
            Some((sorted, Some(seen))) if seen.ids == stat => (sorted, seen),
            Some((sorted, seen)) => {
                let is_covered = match &ids {
                    Some(ids) => sorted.covers(ids)?,
                    None => sorted.covered_bytes() == 0,
                };
                // An index that lost ids since the note was saved is used as it is, and no ledger lines are indexed again.
                let seen = seen.filter(|seen| is_covered && stat.len_bytes >= seen.ids.len_bytes);
                let seen = seen.map_or(fresh, |seen| IndexNote { ids: stat, ..seen });
                if is_covered {
                    sorted.note(&seen)?;
                    (sorted, seen)
                } else {
                    (Sorted::write(&path, ids.as_ref(), None, &seen)?, seen)
                }
            }
            None => (Sorted::write(&path, ids.as_ref(), None, &fresh)?, fresh),
        };
        let mut index = Self { home, sorted, ids, tail: Vec::new(), fingerprints: Fingerprints::default() };
        index.read_tail()?;
        if index.tail.len() as u64 > (index.sorted.len() / 16).clamp(TAIL_MIN, TAIL_MAX) {
            index.sorted = Sorted::write(&path, index.ids.as_ref(), Some(&index.sorted), &seen)?;
            index.read_tail()?;
        }
        index.fingerprints = Fingerprints::read(home)?;
        if seen.ledger.is_same_file(&ledger_stat) && seen.indexed_bytes < whole_bytes {
            index.catch_up(seen.indexed_bytes..whole_bytes, ledger)?;
        }
        Ok(index)
    }

    fn read_tail(&mut self) -> Result<(), disk::Error> {
        self.tail.clear();
        if let Some(ids) = &self.ids {
            each_piece(ids, self.sorted.covered_bytes(), |_, piece| {
                self.tail.extend(scan::lines(0, piece).filter_map(|(_, line)| Id::parse(line)));
            })?;
        }
        Ok(())
    }

    /// Adds the ids and fingerprints that the index lacks of the ledger's lines in `range`.
    fn catch_up(&mut self, range: Range<u64>, ledger: &LineFile) -> Result<(), LedgerError> {
        let source = Source::open(&self.home.ledger(), Io::Read)?;
        let mut work = LedgerWork::whole(&source, CHUNK_BYTES, usize::MAX)?;
        let indexed_bytes = range.end.min(work.range.end);
        work.range = range.start.min(indexed_bytes)..indexed_bytes;
        let mut found: Vec<LineIds> = Vec::new();
        in_order(
            &work,
            Finder::default,
            |finder, _, chunk| finder.find(chunk),
            |(mut part, _)| {
                found.append(&mut part);
                Ok(ControlFlow::Continue(()))
            },
        )?;
        let mut known = self.known(found.iter().map(|found| found.id))?;
        let (mut ids, mut fingerprints) = (Vec::new(), Vec::new());
        for found in found {
            if known.insert(found.id) {
                ids.push(found.id);
                fingerprints.extend(found.fingerprint);
            }
        }
        self.add(&ids, &fingerprints, ledger, indexed_bytes)
    }

    /// Returns the ids of `wanted` that the index has.
    pub(super) fn known(&mut self, wanted: impl Iterator<Item = Id>) -> Result<IdSet, LedgerError> {
        let wanted: IdSet = wanted.collect();
        let mut known: IdSet = self.tail.iter().copied().filter(|id| wanted.contains(id)).collect();
        let Some(ids) = &self.ids else { return Ok(known) };
        // In order, so that neighbours are found in the same pages.
        let mut sought: Vec<Id> = wanted.difference(&known).copied().collect();
        sought.sort_unstable();
        let mut buffer = Vec::new();
        for id in &sought {
            match self.sorted.contains(*id, ids, &mut buffer)? {
                Some(true) => {
                    known.insert(*id);
                }
                Some(false) => {}
                None => {
                    // The sorted ids have an id that `ledger.idx` does not have at that offset: sort
                    // the ids again.
                    let seen =
                        IndexNote { ids: FileStat::of(ids)?, ledger: FileStat::default(), indexed_bytes: 0 };
                    self.sorted = Sorted::write(&sorted_path(self.home), Some(ids), None, &seen)?;
                    self.read_tail()?;
                    return self.known(wanted.into_iter());
                }
            }
        }
        Ok(known)
    }

    /// Returns the fingerprints of the last 10 000 turns.
    pub(super) fn fingerprints(&self) -> impl Iterator<Item = Id> {
        self.fingerprints.window.iter().copied()
    }

    /// Returns the fingerprints of `wanted` that one of the last 10 000 turns has.
    pub(super) fn known_fingerprints(&self, wanted: impl Iterator<Item = Id>) -> IdSet {
        self.fingerprints.known(wanted)
    }

    /// Adds ids and fingerprints of lines that are in `ledger`. After this call the ids of the ledger up to
    /// `indexed_bytes` are in the index.
    ///
    /// Fingerprints are written first, because a line whose id is missing is found again, together with its fingerprint.
    pub(super) fn add(
        &mut self,
        ids: &[Id],
        fingerprints: &[Id],
        ledger: &LineFile,
        indexed_bytes: u64,
    ) -> Result<(), LedgerError> {
        self.fingerprints.add(self.home, fingerprints)?;
        let mut file = None;
        if !ids.is_empty() {
            let mut lines = LineFile::open(&self.home.ids_index())?;
            lines.append(&text_of(ids)).map_err(|short| short.source)?;
            self.tail.extend(ids);
            file = Some(lines);
        }
        let stat = match (&file, &self.ids) {
            (Some(lines), _) => FileStat::of(lines.file())?,
            (None, Some(ids)) => FileStat::of(ids)?,
            (None, None) => FileStat::default(),
        };
        // Another program may write without taking the lock. In that case no note is saved, and the next append
        // sums the whole prefix again.
        if file.as_ref().is_none_or(|lines| lines.len_bytes() == stat.len_bytes) {
            let seen = IndexNote { ids: stat, ledger: FileStat::of(ledger.file())?, indexed_bytes };
            // Without the note the next append sums the index and reads the ledger's tail: slower, not wrong.
            let _ = self.sorted.note(&seen);
        }
        Ok(())
    }
}

/// Returns how many of the first `len_bytes` of a file are whole lines. The file may be missing or shorter, because a
/// program that takes no lock may have deleted or replaced the file after its length was read.
fn whole_lines(path: &Path, len_bytes: u64) -> Result<u64, ScanError> {
    let Some(source) = Source::open_if_there(path, Io::Read)? else { return Ok(0) };
    source.line_end_before(0, len_bytes.min(source.len_bytes()))
}

fn open_existing(path: PathBuf) -> Result<Option<File>, disk::Error> {
    disk::if_there(File::open_read(&path))
}

/// The ids as lines.
fn text_of<'i>(ids: impl IntoIterator<Item = &'i Id, IntoIter: ExactSizeIterator>) -> Vec<u8> {
    let ids = ids.into_iter();
    let mut text = Vec::with_capacity(ids.len() * (ID_LEN_BYTES + 1));
    ids.for_each(|id| id.write_line(&mut text));
    text
}

impl Fingerprints {
    fn read(home: &Home) -> Result<Self, disk::Error> {
        let mut read = Self::default();
        if let Some(file) = open_existing(home.fingerprints_index())? {
            each_piece(&file, 0, |_, piece| {
                for (_, line) in scan::lines(0, piece) {
                    read.lines += 1;
                    read.window.extend(Id::parse(line));
                }
            })?;
        }
        read.window.drain(..read.window.len().saturating_sub(FINGERPRINTS));
        Ok(read)
    }

    fn known(&self, wanted: impl Iterator<Item = Id>) -> IdSet {
        let wanted: IdSet = wanted.collect();
        self.window.iter().copied().filter(|id| wanted.contains(id)).collect()
    }

    /// Adds the fingerprints of `fresh` that are not in the window yet. Turns of one batch that share a fingerprint
    /// each add the fingerprint, as in the TypeScript package.
    fn add(&mut self, home: &Home, fresh: &[Id]) -> Result<(), disk::Error> {
        let known = self.known(fresh.iter().copied());
        let fresh: Vec<Id> = fresh.iter().copied().filter(|id| !known.contains(id)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let path = home.fingerprints_index();
        self.window.extend(&fresh);
        self.lines += fresh.len();
        if self.lines <= FINGERPRINTS {
            let mut lines = LineFile::open(&path)?;
            return lines.append(&text_of(&fresh)).map_err(|short| short.source);
        }
        self.window.drain(..self.window.len().saturating_sub(FINGERPRINTS));
        self.lines = self.window.len();
        let text = text_of(&self.window);
        disk::replace_with(&path, Replacing::Unsynced, |file| {
            // When a file whose blocks are not allocated yet is renamed over another file, ext4 writes the file
            // out to the disk. Here, at every append of a turn to a full window, that write took three times as
            // long as the rest of the append. With allocated blocks the window may be zeros after a power cut:
            // nothing but fingerprints is lost.
            file.preallocate(text.len() as u64);
            file.write_all(&text)
        })
    }
}

/// The ids and fingerprints of a ledger.
#[derive(Debug, Default)]
struct Collected {
    /// Of all records, in the order of their lines.
    ids: Vec<Id>,
    /// The different fingerprints, in the order of their first lines.
    fingerprints: Vec<Id>,
    known_fingerprints: IdSet,
    malformed: u64,
}

impl Collected {
    fn read(&mut self, work: &LedgerWork<'_>, interrupt: &Interrupt) -> Result<(), LedgerError> {
        in_order(
            work,
            Finder::default,
            |finder, _, chunk| finder.find(chunk),
            |(part, malformed)| {
                go_on(interrupt)?;
                self.malformed += malformed;
                for found in part {
                    self.ids.push(found.id);
                    self.fingerprints
                        .extend(found.fingerprint.filter(|id| self.known_fingerprints.insert(*id)));
                }
                Ok(ControlFlow::Continue(()))
            },
        )
    }
}

/// Returns how many different ids of the index at `home` are not among `ids`, those of the ledger. Any such id is an error if
/// `extra` is [`ExtraIds::Refuse`].
fn count_extra(ids: &DistinctIds, home: &Home, extra: ExtraIds) -> Result<u64, LedgerError> {
    let index = home.ids_index();
    let Some(file) = open_existing(index.clone())? else { return Ok(0) };
    let (mut dropped, mut first) = (IdSet::default(), 0);
    // The index mostly has the ids in the same order, and comparing an id is faster than a look-up.
    let mut next = 0;
    each_piece(&file, 0, |base, piece| {
        for (offset, line) in scan::lines(base, piece) {
            let Some(id) = Id::parse(line) else { continue };
            let place = if ids.ids.get(next) == Some(&id) { Some(next) } else { ids.place(id) };
            if let Some(place) = place {
                next = place + 1;
                continue;
            }
            if dropped.is_empty() {
                first = offset;
            }
            dropped.insert(id);
        }
    })?;
    let ids = dropped.len() as u64;
    match extra {
        ExtraIds::Refuse if ids > 0 => {
            Err(LedgerError::WouldDropIds { index, ledger: home.ledger(), ids, offset: first })
        }
        _ => Ok(ids),
    }
}

impl Ledger {
    /// Returns the path of the sorted ids of a home.
    #[cfg(feature = "agents")]
    pub(crate) fn sorted_index(home: &Home) -> PathBuf {
        sorted_path(home)
    }

    /// Returns the ids of `wanted` that the ledger has.
    #[cfg(feature = "agents")]
    pub(crate) fn known_ids(&self, wanted: &[Id]) -> Result<IdSet, LedgerError> {
        if wanted.is_empty() || open_existing(self.home().ledger())?.is_none() {
            return Ok(IdSet::default());
        }
        self.locked(LockName::Ledger, |_| {
            self.locked(LockName::LedgerIndex, |_| {
                let ledger = LineFile::open(&self.home().ledger())?;
                IdIndex::open(self.home(), &ledger)?.known(wanted.iter().copied())
            })
        })
    }

    /// Returns the index files that have lines although the ledger is missing or empty.
    #[cfg(feature = "agents")]
    pub(crate) fn orphaned_indexes(&self) -> Result<Vec<PathBuf>, disk::Error> {
        let home = self.home();
        let has_bytes = |path: &Path| {
            let found = disk::if_there(disk::metadata_of_target(path))?;
            Ok::<_, disk::Error>(found.is_some_and(|found| found.len_bytes > 0))
        };
        let mut orphaned = Vec::new();
        if !has_bytes(&home.ledger())? {
            for index in [home.ids_index(), home.fingerprints_index()] {
                if has_bytes(&index)? {
                    orphaned.push(index);
                }
            }
        }
        Ok(orphaned)
    }

    /// Renames the index files of a lost ledger and returns their new paths: otherwise no append would write the lost
    /// records again. They are kept, because their ids are the only trace of the lost lines.
    #[cfg(feature = "agents")]
    pub(crate) fn set_orphaned_indexes_aside(&self) -> Result<Vec<PathBuf>, LedgerError> {
        self.locked(LockName::Ledger, |_| {
            self.locked(LockName::LedgerIndex, |held| {
                held.still_held()?;
                let orphaned = self.orphaned_indexes()?;
                let set_aside = orphaned.iter().map(|index| disk::set_aside(index, SET_ASIDE));
                Ok(set_aside.collect::<Result<_, _>>()?)
            })
        })
    }

    /// Whether the ledger is shorter than the lines whose ids this program last knew to be in the index.
    #[cfg(feature = "ingest")]
    pub(crate) fn lacks_indexed_lines(&self) -> Result<bool, LedgerError> {
        let home = self.home();
        self.locked(LockName::LedgerIndex, |_| {
            let Some((_, Some(seen))) = Sorted::open(&sorted_path(home))? else { return Ok(false) };
            let ledger = disk::if_there(disk::metadata_of_target(&home.ledger()))?;
            Ok(ledger.map_or(0, |found| found.len_bytes) < seen.indexed_bytes)
        })
    }

    /// Rebuilds both index files from the ledger, and the sorted ids too. Other processes may append while the ledger
    /// is read; the lines they appended are read under lock `ledger` at the end.
    ///
    /// # Errors
    /// [`LedgerError::Missing`] when there is no ledger and the index has ids, and [`LedgerError::WouldDropIds`] when
    /// the index has ids that the ledger lacks, unless `extra` drops such ids; the index is then unchanged. Other
    /// errors when the ledger cannot be read, a lock cannot be taken or a file cannot be written, and
    /// [`LedgerError::Interrupted`] soon after `interrupt` was requested; each index file is then the old file or the new file.
    pub fn rebuild_index(&self, extra: ExtraIds, interrupt: &Interrupt) -> Result<Reindexed, LedgerError> {
        let started = std::time::Instant::now();
        let home = self.home();
        disk::create_dir_all(home.root())?;
        let mut collected = Collected::default();
        let mut done = 0;
        let first = Source::open_if_there(&home.ledger(), Io::default())?;
        if let Some(source) = &first {
            let work = LedgerWork::whole(source, CHUNK_BYTES, usize::MAX)?;
            collected.read(&work, interrupt)?;
            done = work.range.end;
        }
        with_lock_unless(&home.lock(LockName::Ledger), interrupt, |_| {
            with_lock_unless(&home.lock(LockName::LedgerIndex), interrupt, |held| {
                let source = Source::open_if_there(&home.ledger(), Io::default())?;
                if let (None, Some(ids)) = (&source, open_existing(home.ids_index())?)
                    && ids.len_bytes()? > 0
                {
                    return Err(LedgerError::Missing { ledger: home.ledger(), index: home.ids_index() });
                }
                let is_same = |now: &Source| {
                    first.as_ref().is_none_or(|first| now.is_same_file(first)) && now.len_bytes() >= done
                };
                if !source.as_ref().is_some_and(is_same) {
                    // Another program has replaced or deleted the ledger: drop the ids that were read
                    // from the old file.
                    collected = Collected::default();
                    done = 0;
                }
                if let Some(source) = &source {
                    let mut work = LedgerWork::whole(source, CHUNK_BYTES, usize::MAX)?;
                    work.range.start = done;
                    collected.read(&work, interrupt)?;
                    done = work.range.end;
                }
                let skipped = collected.fingerprints.len().saturating_sub(FINGERPRINTS);
                let fingerprints = &collected.fingerprints[skipped..];
                let ids = DistinctIds::of(&collected.ids);
                let mut text = Vec::new();
                let dropped_ids = rayon::in_place_scope(|scope| {
                    scope.spawn(|_| text = text_of(&ids.ids));
                    count_extra(&ids, home, extra)
                })?;
                go_on(interrupt)?;
                held.still_held()?;
                disk::replace(&home.fingerprints_index(), &text_of(fingerprints), Replacing::Unsynced)?;
                go_on(interrupt)?;
                disk::replace(&home.ids_index(), &text, Replacing::Unsynced)?;
                go_on(interrupt)?;
                let written = FileStat::of(&File::open_read(&home.ids_index())?)?;
                let ledger = match open_existing(home.ledger())? {
                    Some(ledger) => FileStat::of(&ledger)?,
                    None => FileStat::default(),
                };
                let seen = IndexNote { ids: written, ledger, indexed_bytes: done };
                Sorted::write_new(&sorted_path(home), &ids, &text, &seen)?;
                Ok(Reindexed {
                    scanned_bytes: done,
                    ids: ids.ids.len() as u64,
                    fingerprints: fingerprints.len() as u64,
                    malformed_lines: collected.malformed,
                    dropped_ids,
                    duration_ms: started.elapsed().as_millis() as u64,
                })
            })
        })
    }
}

/// Returns an error once `interrupt` is requested.
fn go_on(interrupt: &Interrupt) -> Result<(), LedgerError> {
    if interrupt.is_requested() { Err(LedgerError::Interrupted) } else { Ok(()) }
}

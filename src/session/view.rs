//! The reading operations: a consistent view of the index, and frames that are verified when they are read.
//!
//! Touches: reads segments.
//!
//! Guarantees: no altered byte is returned as a frame; the cost of an operation depends on what it returns, not on the size of the
//! store.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::chain::Chain;
use super::error::{FramePlace, SessionError, SessionErrorClass};
use super::format::{IndexSummary, OffsetIndexEntry, SegmentFrame, StoreHead};
use super::frame::FrameLine;
use super::index::{self, IndexRows};
use super::integrity::{
    EntryKind, branches, check_frame, check_graph, check_ids_unique, check_order, check_range, open_segment,
    verify,
};
use super::layout::{self, SessionLayout};
use super::recovery;
use super::snapshot::Snapshot;
use crate::disk;

/// The result of validating a sound store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// The hash chain over all entries.
    pub chain_hash: String,
    /// Number of entries of type `message`.
    pub messages_total: u64,
    /// Number of entries of type `compaction`.
    pub compactions_total: u64,
    /// Number of entries with two children or more.
    pub branches_total: u64,
}

/// A store at one moment. Each frame is verified against its index row and its own header when it is read.
#[derive(Debug)]
pub struct SessionView {
    pub(super) layout: SessionLayout,
    pub(super) snapshot: Snapshot,
    pub(super) limit_bytes: u64,
}

impl SessionView {
    /// Returns the store's directory as the caller spelled it.
    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// Returns the path of a segment file, which need not exist.
    pub fn segment_file_path(&self, segment_seq: u64) -> PathBuf {
        self.layout.segment_file_path(segment_seq)
    }

    /// Returns the path of the index file, which need not exist.
    pub fn index_file_path(&self) -> PathBuf {
        self.layout.index_file_path()
    }

    fn rows(&self) -> &IndexRows {
        &self.snapshot.rows
    }

    /// Returns the sequence of the last entry, 0 for an empty store. Without gaps it is the number of entries.
    pub fn entry_count(&self) -> u64 {
        self.rows().last().map_or(0, |last| last.entry_seq)
    }

    /// Returns the number of index rows.
    pub fn row_count(&self) -> usize {
        self.rows().len()
    }

    /// Returns the last entry, `None` for an empty store.
    pub fn head(&self) -> Option<StoreHead> {
        let last = self.rows().last()?;
        let entry_id = self.rows().id(self.rows().len() - 1).to_owned();
        Some(StoreHead { segment_seq: last.segment_seq, entry_seq: last.entry_seq, entry_id })
    }

    /// Returns the first and the last row of the index, `None` for an empty store.
    pub fn index_summary(&self) -> Option<IndexSummary> {
        let last = self.rows().last()?;
        Some(IndexSummary {
            entry_count: self.rows().len() as u64,
            first_entry_seq: self.rows().numbers(0).entry_seq,
            last_entry_seq: last.entry_seq,
            last_entry_id: self.rows().id(self.rows().len() - 1).to_owned(),
        })
    }

    /// Returns the sum of the lengths of all lines in the index, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.rows().total_bytes()
    }

    /// Returns all index rows, in order.
    pub fn read_index(&self) -> impl ExactSizeIterator<Item = OffsetIndexEntry> {
        let rows = self.rows();
        (0..rows.len()).map(move |row| rows.row(row))
    }

    /// Returns the ids of all rows, in order.
    pub fn entry_ids(&self) -> impl ExactSizeIterator<Item = &str> {
        let rows = self.rows();
        (0..rows.len()).map(move |row| rows.id(row))
    }

    /// Reads the entry with this sequence; the first of several.
    ///
    /// # Errors
    /// Like every reading operation: [`SessionError::ChecksumMismatch`], [`SessionError::IndexOutOfBounds`],
    /// [`SessionError::IndexMissingFrame`], [`SessionError::IndexFrameMismatch`], [`SessionError::PayloadIntegrityMismatch`],
    /// [`SessionError::Json`], [`SessionError::FrameTooLarge`], and failures of the file system.
    pub fn lookup_entry(&self, entry_seq: u64) -> Result<Option<SegmentFrame>, SessionError> {
        self.rows().find_seq(entry_seq).map(|row| self.read(row, &mut None)).transpose()
    }

    /// Reads the entry with this id; the last of several.
    ///
    /// # Errors
    /// As [`SessionView::lookup_entry`].
    pub fn lookup_entry_by_id(&self, entry_id: &str) -> Result<Option<SegmentFrame>, SessionError> {
        self.rows().find_id(entry_id).map(|row| self.read(row, &mut None)).transpose()
    }

    /// Returns the entries with this sequence or a higher one, in index order. Each is read when the iterator reaches it.
    pub fn read_entries_from(&self, entry_seq: u64) -> Entries<'_> {
        self.entries_of(self.rows().at_or_after(entry_seq))
    }

    /// Returns all entries, in index order.
    pub fn read_all_entries(&self) -> Entries<'_> {
        self.entries_of((0..self.rows().len()).collect())
    }

    /// Returns the entries of the last `count` rows, in index order.
    pub fn read_tail_entries(&self, count: usize) -> Entries<'_> {
        let len = self.rows().len();
        self.entries_of((len.saturating_sub(count)..len).collect())
    }

    fn entries_of(&self, rows: Vec<usize>) -> Entries<'_> {
        Entries { view: self, rows: rows.into_iter(), open: None }
    }

    /// Returns the entries from a root to `leaf`; empty when there is no such entry. All of them are verified before this
    /// returns, and each is read again when the iterator reaches it, because the frames of a long path may not fit into memory.
    ///
    /// # Errors
    /// [`SessionError::DuplicateEntryId`] when any id of the index is not unique, [`SessionError::MissingParent`],
    /// [`SessionError::CyclicParent`], and as [`SessionView::lookup_entry`].
    pub fn read_active_path(&self, leaf: &str) -> Result<Entries<'_>, SessionError> {
        check_ids_unique(self.rows())?;
        let mut open = None;
        let mut next = self.rows().find_id(leaf);
        let (mut path, mut visited) = (Vec::new(), HashSet::new());
        while let Some(row) = next {
            if !visited.insert(row) {
                return Err(SessionError::CyclicParent { entry_id: self.rows().id(row).to_owned() });
            }
            let frame = self.read(row, &mut open)?;
            next = match &frame.parent_entry_id {
                None => None,
                Some(parent_id) => {
                    Some(self.rows().find_id(parent_id).ok_or_else(|| SessionError::MissingParent {
                        entry_id: frame.entry_id.clone(),
                        parent_id: parent_id.clone(),
                    })?)
                }
            };
            path.push(row);
        }
        path.reverse();
        Ok(self.entries_of(path))
    }

    /// Reads all frames of a segment file in file order, without the index; empty when there is no such file.
    ///
    /// # Errors
    /// [`SessionError::Json`] for a line that is not a frame, [`SessionError::PayloadIntegrityMismatch`], and failures of the file system.
    pub fn read_segment(&self, segment_seq: u64) -> Result<Vec<SegmentFrame>, SessionError> {
        let source = match open_segment(&self.layout, segment_seq, u64::MAX) {
            Ok(source) => source,
            Err(error) if error.class() == SessionErrorClass::IoNotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut buffer = Vec::new();
        let bytes = source.bytes(0..source.len_bytes(), &mut buffer)?;
        let mut frames = Vec::new();
        for (offset, line) in crate::scan::lines(0, bytes) {
            if str::from_utf8(line).is_ok_and(|text| text.trim().is_empty()) {
                continue;
            }
            let place = || index::place_of(&source, offset);
            let frame = FrameLine::parse(line).map_err(|reason| reason.at(place()))?;
            frame.verify_payload().map_err(|reason| SessionError::PayloadIntegrityMismatch {
                place: FramePlace {
                    path: source.path().to_owned(),
                    entry_seq: frame.entry_seq,
                    offset,
                    len_bytes: line.len() as u64 + 1,
                },
                reason,
            })?;
            frames.push(frame.into_frame());
        }
        source.check_len()?;
        Ok(frames)
    }

    /// Returns the hash chain over all entries: 64 zeros for an empty store. Frames whose hashes are not known yet are read and
    /// verified, once.
    ///
    /// # Errors
    /// As [`SessionView::lookup_entry`]; [`SessionError::SegmentUnreadable`].
    pub fn chain_hash(&self) -> Result<String, SessionError> {
        let (known, chain) = {
            let mut chain = self.snapshot.lock_chain();
            (chain.rows(), chain.link())
        };
        if known == self.rows().len() {
            return Ok(chain.to_string());
        }
        let rest =
            verify(&self.layout, self.rows(), known..self.rows().len(), self.rows().len(), self.limit_bytes)?;
        let mut chain = self.snapshot.lock_chain();
        if chain.rows() == known {
            rest.facts.iter().for_each(|facts| chain.push(facts.payload_sha256));
        }
        Ok(chain.link().to_string())
    }

    /// Validates the whole store: the order of rows, the bytes, numbers and payload of every frame, unique ids, and parents that
    /// exist and lead to roots.
    ///
    /// # Errors
    /// The first failure.
    pub fn validate_integrity(&self) -> Result<Validated, SessionError> {
        let rows = self.rows();
        check_order(&self.layout, rows)?;
        let verified = verify(&self.layout, rows, 0..rows.len(), rows.len(), self.limit_bytes)?;
        check_graph(rows, &verified)?;
        let of_kind = |kind| verified.facts.iter().filter(|facts| facts.kind == kind).count() as u64;
        Ok(Validated {
            chain_hash: verified.chain_from(Chain::GENESIS).to_string(),
            messages_total: of_kind(EntryKind::Message),
            compactions_total: of_kind(EntryKind::Compaction),
            branches_total: branches(&verified.facts),
        })
    }

    /// Returns the ranges of segments that are in no row and not blank. An opening writer adds them as rows, or leaves them alone.
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn unindexed(&self) -> Result<Vec<(PathBuf, Range<u64>)>, SessionError> {
        let files = self.layout.segment_files()?;
        let mut found = recovery::unindexed(&self.layout, &files, self.rows())?;
        let last = self.rows().last();
        for (&segment_seq, &len_bytes) in files.len_bytes.range(last.map_or(0, |last| last.segment_seq)..) {
            let end = last.filter(|last| last.segment_seq == segment_seq).and_then(|last| last.end());
            let range = end.unwrap_or(0)..len_bytes;
            let path = self.layout.segment_file_path(segment_seq);
            if !range.is_empty()
                && !layout::is_blank(&disk::File::open_read_no_follow(&path)?, range.clone())?
            {
                found.push((segment_seq, range));
            }
        }
        Ok(found
            .into_iter()
            .map(|(segment_seq, range)| (self.layout.segment_file_path(segment_seq), range))
            .collect())
    }

    /// Reads the frame of a row. `open` keeps a segment open between calls.
    fn read(&self, row: usize, open: &mut Option<(u64, disk::File)>) -> Result<SegmentFrame, SessionError> {
        let numbers = self.rows().numbers(row);
        let file = match open {
            Some((segment_seq, file)) if *segment_seq == numbers.segment_seq => file,
            _ => {
                let path = self.layout.segment_file_path(numbers.segment_seq);
                let file = disk::if_there(disk::File::open_read_no_follow(&path))?.ok_or_else(|| {
                    let index = self.layout.index_file_path();
                    SessionError::IndexMissingFrame { path, entry_seq: numbers.entry_seq, index }
                })?;
                &mut open.insert((numbers.segment_seq, file)).1
            }
        };
        let range = check_range(&self.layout, &numbers, file.len_bytes()?, self.limit_bytes)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        let (frame, _) = check_frame(&self.layout, &numbers, self.rows().id(row), &bytes)?;
        Ok(frame.into_frame())
    }
}

/// Entries in index order. Each is read and verified when the iterator reaches it.
#[derive(Debug)]
pub struct Entries<'s> {
    view: &'s SessionView,
    rows: std::vec::IntoIter<usize>,
    open: Option<(u64, disk::File)>,
}

impl Iterator for Entries<'_> {
    type Item = Result<SegmentFrame, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        Some(self.view.read(row, &mut self.open))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}

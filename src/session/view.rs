//! Reading a store: a consistent view of its index, and frames verified as they are handed out.
//!
//! May read the index and segments; writes nothing and creates nothing. Promises: no altered byte is handed out as a frame;
//! an operation costs what it returns, not what the store holds.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::{FramePlace, LinePlace, SessionError, SessionErrorClass};
use super::format::{IndexSummary, OffsetIndexEntry, SegmentFrame, StoreHead};
use super::frame::{Chain, FrameLine, NotAFrame};
use super::index::{self, Rows};
use super::integrity::{
    Kind, branches, check_frame, check_graph, check_ids_unique, check_order, check_range, open_segment,
    verify,
};
use super::layout::Layout;
use super::recovery;
use super::snapshot::Snapshot;
use crate::disk;

/// What a full validation found in a sound store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// The hash over all payload hashes.
    pub chain_hash: String,
    /// Entries of type `message`.
    pub messages_total: u64,
    /// Entries of type `compaction`.
    pub compactions_total: u64,
    /// Entries with two children or more.
    pub branches_total: u64,
}

/// A store at one moment. Frames are read when asked for, and verified against the index and their own headers.
#[derive(Debug)]
pub struct SessionView {
    pub(super) layout: Layout,
    pub(super) snapshot: Snapshot,
    pub(super) limit_bytes: u64,
}

impl SessionView {
    /// The store's directory, as the caller spelled it.
    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// The file of a segment, whether there is one or not.
    pub fn segment_file_path(&self, segment_seq: u64) -> PathBuf {
        self.layout.segment_file_path(segment_seq)
    }

    /// The file of the index, whether there is one or not.
    pub fn index_file_path(&self) -> PathBuf {
        self.layout.index_file_path()
    }

    fn rows(&self) -> &Rows {
        &self.snapshot.rows
    }

    /// Sequence of the last entry, 0 for an empty store: the number of entries unless there are gaps.
    pub fn entry_count(&self) -> u64 {
        self.rows().last().map_or(0, |last| last.entry_seq)
    }

    /// Number of index rows.
    pub fn row_count(&self) -> usize {
        self.rows().len()
    }

    /// The last entry.
    pub fn head(&self) -> Option<StoreHead> {
        let last = self.rows().last()?;
        let entry_id = self.rows().id(self.rows().len() - 1).to_owned();
        Some(StoreHead { segment_seq: last.segment_seq, entry_seq: last.entry_seq, entry_id })
    }

    /// What the index holds; none when it is empty.
    pub fn index_summary(&self) -> Option<IndexSummary> {
        let last = self.rows().last()?;
        Some(IndexSummary {
            entry_count: self.rows().len() as u64,
            first_entry_seq: self.rows().numbers(0).entry_seq,
            last_entry_seq: last.entry_seq,
            last_entry_id: self.rows().id(self.rows().len() - 1).to_owned(),
        })
    }

    /// Sum of the lengths of all lines in the index.
    pub fn total_bytes(&self) -> u64 {
        self.rows().total_bytes()
    }

    /// All index rows, in order.
    pub fn read_index(&self) -> impl ExactSizeIterator<Item = OffsetIndexEntry> {
        let rows = self.rows();
        (0..rows.len()).map(move |row| rows.row(row))
    }

    /// The ids of all rows, in order.
    pub fn entry_ids(&self) -> impl ExactSizeIterator<Item = &str> {
        let rows = self.rows();
        (0..rows.len()).map(move |row| rows.id(row))
    }

    /// The entry with this sequence; the first of several.
    ///
    /// # Errors
    /// As every reading operation: [`SessionError::ChecksumMismatch`], [`SessionError::IndexOutOfBounds`],
    /// [`SessionError::IndexMissingFrame`], [`SessionError::IndexFrameMismatch`], [`SessionError::PayloadIntegrityMismatch`],
    /// [`SessionError::Json`], [`SessionError::FrameTooLarge`], or what the system says.
    pub fn lookup_entry(&self, entry_seq: u64) -> Result<Option<SegmentFrame>, SessionError> {
        self.rows().find_seq(entry_seq).map(|row| self.read(row, &mut None)).transpose()
    }

    /// The entry with this id; the last of several.
    ///
    /// # Errors
    /// As [`SessionView::lookup_entry`].
    pub fn lookup_entry_by_id(&self, entry_id: &str) -> Result<Option<SegmentFrame>, SessionError> {
        self.rows().find_id(entry_id).map(|row| self.read(row, &mut None)).transpose()
    }

    /// The entries with this sequence or a higher one, in index order; each is read when it is asked for.
    pub fn read_entries_from(&self, entry_seq: u64) -> Entries<'_> {
        self.entries_of(self.rows().at_or_after(entry_seq))
    }

    /// All entries, in index order.
    pub fn read_all_entries(&self) -> Entries<'_> {
        self.entries_of((0..self.rows().len()).collect())
    }

    /// The entries of the last `count` rows, in index order.
    pub fn read_tail_entries(&self, count: usize) -> Entries<'_> {
        let len = self.rows().len();
        self.entries_of((len.saturating_sub(count)..len).collect())
    }

    fn entries_of(&self, rows: Vec<usize>) -> Entries<'_> {
        Entries { view: self, rows: rows.into_iter(), open: None }
    }

    /// The entries from a root to `leaf`, following parents; empty when there is no such entry. All of them were verified when
    /// this returns; each is read again when it is asked for, because the frames of a long path may not fit into memory.
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

    /// All frames of a segment file in file order, without the index; empty when there is no such file.
    ///
    /// # Errors
    /// [`SessionError::Json`] for a line that is not a frame, [`SessionError::PayloadIntegrityMismatch`], or what the system says.
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
            let frame = FrameLine::parse(line).map_err(|reason| match reason {
                NotAFrame::NotText => SessionError::Json { place: place(), reason: "not UTF-8".to_owned() },
                NotAFrame::Json(reason) => SessionError::Json { place: place(), reason },
                NotAFrame::Schema(found) => SessionError::UnsupportedSchema { place: place(), found },
            })?;
            frame.verify_payload().map_err(|reason| SessionError::PayloadIntegrityMismatch {
                place: FramePlace {
                    path: source.path().to_owned(),
                    entry_seq: frame.entry_seq,
                    offset,
                    len_bytes: line.len() as u64 + 1,
                },
                reason,
            })?;
            frames.push(frame.to_frame().map_err(|reason| SessionError::Json { place: place(), reason })?);
        }
        source.check_len()?;
        Ok(frames)
    }

    /// The hash over the payload hashes of all entries: 64 zeros for an empty store. What is not known yet is read, and
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
            rest.facts.iter().for_each(|facts| chain.push(&facts.payload_sha256));
        }
        Ok(chain.link().to_string())
    }

    /// Checks everything: order of rows, every frame's bytes, numbers and payload, unique ids, parents that exist and lead to
    /// roots.
    ///
    /// # Errors
    /// The first failure found.
    pub fn validate_integrity(&self) -> Result<Validated, SessionError> {
        let rows = self.rows();
        check_order(&self.layout, rows)?;
        let verified = verify(&self.layout, rows, 0..rows.len(), rows.len(), self.limit_bytes)?;
        check_graph(rows, &verified)?;
        let of_kind = |kind| verified.facts.iter().filter(|facts| facts.kind == kind).count() as u64;
        Ok(Validated {
            chain_hash: verified.chain_from(Chain::GENESIS).to_string(),
            messages_total: of_kind(Kind::Message),
            compactions_total: of_kind(Kind::Compaction),
            branches_total: branches(&verified.facts),
        })
    }

    /// Bytes of segments that are in no row and not blank: they wait for an opening writer, or were left alone by one.
    ///
    /// # Errors
    /// What the system says.
    pub fn unindexed(&self) -> Result<Vec<(PathBuf, Range<u64>)>, SessionError> {
        let files = self.layout.segment_files()?;
        let mut found = recovery::unindexed(&self.layout, &files, self.rows())?;
        let last = self.rows().last();
        for (&segment_seq, &len_bytes) in files.len_bytes.range(last.map_or(0, |last| last.segment_seq)..) {
            let end = last.filter(|last| last.segment_seq == segment_seq).and_then(|last| last.end());
            if end.unwrap_or(0) < len_bytes {
                found.push((segment_seq, end.unwrap_or(0)..len_bytes));
            }
        }
        Ok(found
            .into_iter()
            .map(|(segment_seq, range)| (self.layout.segment_file_path(segment_seq), range))
            .collect())
    }

    /// Reads the frame of a row. `open` keeps the last segment open between calls.
    fn read(&self, row: usize, open: &mut Option<(u64, disk::File)>) -> Result<SegmentFrame, SessionError> {
        let numbers = self.rows().numbers(row);
        let file = match open {
            Some((segment_seq, file)) if *segment_seq == numbers.segment_seq => file,
            _ => {
                let path = self.layout.segment_file_path(numbers.segment_seq);
                let file = disk::File::open_read_no_follow(&path).map_err(|error| {
                    if error.is_not_found() {
                        let index = self.layout.index_file_path();
                        SessionError::IndexMissingFrame { path, entry_seq: numbers.entry_seq, index }
                    } else {
                        error.into()
                    }
                })?;
                &mut open.insert((numbers.segment_seq, file)).1
            }
        };
        let range = check_range(&self.layout, &numbers, file.len_bytes()?, self.limit_bytes)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        let (frame, _) = check_frame(&self.layout, &numbers, self.rows().id(row), &bytes)?;
        frame.to_frame().map_err(|reason| {
            let path = self.layout.segment_file_path(numbers.segment_seq);
            SessionError::Json {
                place: LinePlace { path, line: numbers.frame_seq, offset: numbers.byte_offset },
                reason,
            }
        })
    }
}

/// Entries in index order, each read and verified when it is asked for.
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

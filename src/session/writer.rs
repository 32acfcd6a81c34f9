//! The write handle: appending entries.
//!
//! Touches: appends to segments and index, cuts them back after a failure.
//!
//! Guarantees: the frame is on stable storage before its row is written, and the row before the append is acknowledged; a failed
//! append leaves files and handle as they were, or the handle writes no more.

use std::ops::Deref;
use std::path::Path;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::error::{FramePlace, SessionError};
use super::format::{MAX_LINE_BYTES, OffsetIndexEntry};
use super::frame::{Coordinates, hex, write_line};
use super::index::{CrcText, RowNumbers};
use super::layout::SessionLayout;
use super::options::SessionOptions;
use super::payload::{MAX_ID_BYTES, NewEntry};
use super::recovery;
use super::report::SessionRecoveryReport;
use super::snapshot::Snapshot;
use super::time;
use super::view::SessionView;
use crate::disk;
use crate::store::Durability;

/// A store opened for writing. All processes together have at most one such handle; readers are not disturbed.
#[derive(Debug)]
pub struct SessionStoreV2 {
    pub(super) view: SessionView,
    options: SessionOptions,
    tail: Tail,
    active: Option<disk::File>,
    index: Option<disk::File>,
    /// Length of the index file, as far as this handle wrote it.
    index_bytes: u64,
    /// Rows from here on are not in the index file yet.
    first_unwritten: usize,
    /// When the first of these rows was added; only [`Durability::Batched`] asks.
    waiting_since: Instant,
    poisoned: Option<String>,
    _lock: disk::KernelLock,
}

/// The place of the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    at: Coordinates,
    segment_bytes: u64,
}

impl Tail {
    fn of(snapshot: &Snapshot, layout: &SessionLayout) -> Result<Self, SessionError> {
        let next = |number: u64, what| {
            number
                .checked_add(1)
                .ok_or_else(|| SessionError::SequenceExhausted { root: layout.root.clone(), what })
        };
        Ok(match snapshot.rows.last() {
            None => Self { at: Coordinates { segment_seq: 1, frame_seq: 1, entry_seq: 1 }, segment_bytes: 0 },
            Some(last) => Self {
                at: Coordinates {
                    segment_seq: last.segment_seq,
                    frame_seq: next(last.frame_seq, "frame")?,
                    entry_seq: next(last.entry_seq, "entry")?,
                },
                segment_bytes: last.end().unwrap_or_default(),
            },
        })
    }
}

/// A frame that is about to be written.
struct Encoded {
    line: Vec<u8>,
    payload_sha256: [u8; 32],
    tail: Tail,
}

impl SessionStoreV2 {
    /// Makes a handle of a locked store with these rows.
    pub(super) fn over(
        layout: SessionLayout,
        options: &SessionOptions,
        snapshot: Snapshot,
        lock: disk::KernelLock,
    ) -> Result<Self, SessionError> {
        let mut store = Self {
            tail: Tail::of(&snapshot, &layout)?,
            first_unwritten: snapshot.rows.len(),
            view: SessionView { layout, snapshot, limit_bytes: options.frame_limit_bytes()? },
            options: options.clone(),
            active: None,
            index: None,
            index_bytes: 0,
            waiting_since: Instant::now(),
            poisoned: None,
            _lock: lock,
        };
        store.index_bytes = store.layout.index_file_bytes()?;
        Ok(store)
    }

    /// Builds the index again from the segments, as [`SessionStoreV2::open_rebuilding`] does.
    ///
    /// # Errors
    /// As [`SessionStoreV2::create`]; the handle is then as it was.
    pub fn rebuild_index(&mut self) -> Result<SessionRecoveryReport, SessionError> {
        self.sync()?;
        let recovered = recovery::rebuild(&self.layout)?;
        self.adopt(Snapshot::with_hashes(recovered.rows, recovered.payload_hashes))?;
        Ok(recovered.report)
    }

    /// Replaces the rows by those that the index file now has.
    pub(super) fn adopt(&mut self, snapshot: Snapshot) -> Result<(), SessionError> {
        self.tail = Tail::of(&snapshot, &self.layout)?;
        self.view.snapshot = snapshot;
        self.first_unwritten = self.snapshot.rows.len();
        (self.active, self.index) = (None, None);
        self.index_bytes = self.layout.index_file_bytes()?;
        Ok(())
    }

    /// Appends an entry. With [`Durability::Immediate`] it is durable when this returns.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for an id of more than [`MAX_ID_BYTES`], [`SessionError::DuplicateEntryId`], [`SessionError::MissingParent`], [`SessionError::CyclicParent`] (its own parent),
    /// [`SessionError::FrameTooLarge`], [`SessionError::Stale`] when another program wrote without the lock, [`SessionError::Poisoned`],
    /// [`SessionError::SequenceExhausted`], and failures of the file system. The store is then as it was.
    pub fn append_entry(&mut self, entry: &NewEntry<'_>) -> Result<OffsetIndexEntry, SessionError> {
        self.check_writable()?;
        self.check_links(entry)?;
        let from = self.mark();
        let done =
            self.write_grouped(entry).and_then(|()| if self.is_due() { self.write_rows() } else { Ok(()) });
        self.done_or_undone(from, done)?;
        Ok(self.snapshot.rows.row(self.snapshot.rows.len() - 1))
    }

    /// Whether the entries that wait for their sync are to be synced now.
    fn is_due(&mut self) -> bool {
        let waiting = self.snapshot.rows.len() - self.first_unwritten;
        if waiting == 1 {
            self.waiting_since = Instant::now();
        }
        match self.options.durability {
            Durability::Immediate => true,
            Durability::Batched { max_records, max_delay } => {
                waiting >= max_records || (waiting > 0 && self.waiting_since.elapsed() >= max_delay)
            }
            Durability::Os => false,
        }
    }

    /// Appends entries as one group. All of them are durable when this returns, at the cost of one sync, or none of them is in the
    /// store.
    ///
    /// # Errors
    /// As [`SessionStoreV2::append_entry`].
    pub fn append_entries(&mut self, entries: &[NewEntry<'_>]) -> Result<(), SessionError> {
        self.check_writable()?;
        let from = self.mark();
        let done = entries
            .iter()
            .try_for_each(|entry| {
                self.check_links(entry)?;
                self.write_grouped(entry)
            })
            .and_then(|()| self.write_rows());
        self.done_or_undone(from, done)
    }

    /// Makes all appended entries durable and visible to other handles.
    ///
    /// # Errors
    /// [`SessionError::Poisoned`], and failures of the file system. After a failed write of the index the entries are still
    /// pending, and `sync` may be called again.
    pub fn sync(&mut self) -> Result<(), SessionError> {
        self.check_writable()?;
        self.write_rows()
    }

    pub(super) fn check_writable(&self) -> Result<(), SessionError> {
        match &self.poisoned {
            None => Ok(()),
            Some(reason) => {
                Err(SessionError::Poisoned { root: self.layout.root.clone(), reason: reason.clone() })
            }
        }?;
        self.check_index_unchanged(self.index.as_ref())
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    pub(super) fn next_entry_seq(&self) -> u64 {
        self.tail.at.entry_seq
    }

    pub(super) fn poison(&mut self, reason: &SessionError) {
        self.poisoned.get_or_insert_with(|| reason.to_string());
    }

    fn check_links(&self, entry: &NewEntry<'_>) -> Result<(), SessionError> {
        self.check_new_id(&entry.id)?;
        match &entry.parent_id {
            None => Ok(()),
            Some(parent) if *parent == entry.id => {
                Err(SessionError::CyclicParent { entry_id: entry.id.clone().into_owned() })
            }
            Some(parent) if self.snapshot.rows.find_id(parent).is_some() => Ok(()),
            Some(parent) => Err(missing_parent(entry, parent)),
        }
    }

    pub(super) fn check_new_id(&self, id: &str) -> Result<(), SessionError> {
        if id.len() > MAX_ID_BYTES {
            let reason = format!("the entry id has {} bytes; {MAX_ID_BYTES} are the most", id.len());
            return Err(SessionError::InvalidArgument { reason });
        }
        let rows = &self.snapshot.rows;
        match rows.find_id(id) {
            None => Ok(()),
            Some(row) => Err(SessionError::DuplicateEntryId {
                entry_id: id.to_owned(),
                first_seq: rows.numbers(row).entry_seq,
                second_seq: self.tail.at.entry_seq,
            }),
        }
    }

    fn encode(&self, entry: &NewEntry<'_>) -> Result<Encoded, SessionError> {
        let payload = entry.payload.get();
        let payload_sha256: [u8; 32] = Sha256::digest(payload).into();
        let mut tail = self.tail;
        let mut line = Vec::with_capacity(payload.len() + 512);
        let mut write = |tail: &Tail| {
            line.clear();
            write_line(&mut line, tail.at, entry, &time::now(), &hex(&payload_sha256)).map_err(|error| {
                SessionError::InvalidArgument { reason: format!("the entry does not serialise: {error}") }
            })?;
            Ok::<_, SessionError>(line.len() as u64)
        };
        let mut len_bytes = write(&tail)?;
        // The length with the old numbers decides, because the format's other writers do the same.
        let full = tail.segment_bytes.saturating_add(len_bytes) > self.options.max_segment_bytes;
        if tail.segment_bytes > 0 && full {
            let segment_seq = tail.at.segment_seq.checked_add(1).ok_or_else(|| {
                SessionError::SequenceExhausted { root: self.layout.root.clone(), what: "segment" }
            })?;
            tail = Tail { at: Coordinates { segment_seq, frame_seq: 1, ..tail.at }, segment_bytes: 0 };
            len_bytes = write(&tail)?;
        }
        if len_bytes > MAX_LINE_BYTES {
            return Err(SessionError::FrameTooLarge {
                place: FramePlace {
                    path: self.layout.segment_file_path(tail.at.segment_seq),
                    entry_seq: tail.at.entry_seq,
                    offset: tail.segment_bytes,
                    len_bytes,
                },
                limit_bytes: MAX_LINE_BYTES,
            });
        }
        Ok(Encoded { line, payload_sha256, tail })
    }

    /// Writes a frame at the end of its segment and adds its row in memory.
    pub(super) fn write_frame(&mut self, entry: &NewEntry<'_>) -> Result<(), SessionError> {
        let encoded = self.encode(entry)?;
        let (at, offset) = (encoded.tail.at, encoded.tail.segment_bytes);
        if at.segment_seq != self.tail.at.segment_seq {
            // Only the active segment may hold frames that are not durable, because `sync` syncs no other.
            self.sync_active()?;
            self.active = None;
            self.tail = Tail { at, segment_bytes: 0 };
        }
        self.open_active(at.segment_seq, offset)?.write_all(&encoded.line)?;
        let numbers = RowNumbers {
            entry_seq: at.entry_seq,
            segment_seq: at.segment_seq,
            frame_seq: at.frame_seq,
            byte_offset: offset,
            byte_length: encoded.line.len() as u64,
            crc: CrcText::of(crc32c::crc32c(&encoded.line)),
        };
        self.view.snapshot.push(numbers, &entry.id, encoded.payload_sha256);
        self.tail = Tail::of(&self.snapshot, &self.layout)?;
        Ok(())
    }

    /// Like [`SessionStoreV2::write_frame`], for a group without an intent.
    fn write_grouped(&mut self, entry: &NewEntry<'_>) -> Result<(), SessionError> {
        self.write_frame(entry)?;
        if self.snapshot.rows.len() == 1 {
            // A power cut can lose sectors before later frames of a group. With one durable row, recovery knows that the bytes
            // after it were never acknowledged; without a row, it must take them for damage.
            self.write_rows()?;
        }
        Ok(())
    }

    /// Returns the active segment, open for appending and `expected_bytes` long.
    fn open_active(&mut self, segment_seq: u64, expected_bytes: u64) -> Result<&disk::File, SessionError> {
        let file = match self.active.take() {
            Some(file) => file,
            None => {
                let path = self.layout.segment_file_path(segment_seq);
                disk::refuse_link(&path)?;
                let (file, created) = disk::File::open_append(&path)?;
                // A writer may have been killed after it created the file and before the name was durable.
                if created || expected_bytes == 0 {
                    disk::sync_dir(&self.layout.segments_dir())?;
                }
                file
            }
        };
        let len_bytes = file.len_bytes()?;
        if len_bytes != expected_bytes {
            return Err(SessionError::Stale {
                path: file.path().to_owned(),
                reason: format!("it has {len_bytes} bytes, {expected_bytes} were expected"),
            });
        }
        Ok(self.active.insert(file))
    }

    fn sync_active(&mut self) -> Result<(), SessionError> {
        if self.tail.segment_bytes == 0 {
            return Ok(());
        }
        let tail = self.tail;
        let synced = self.open_active(tail.at.segment_seq, tail.segment_bytes)?.sync_data();
        synced.map_err(|error| {
            // After a failed sync the content of the disk is unknown.
            let error = error.into();
            self.poison(&error);
            error
        })
    }

    /// Syncs the active segment, then writes the rows that are not in the index yet and syncs it.
    pub(super) fn write_rows(&mut self) -> Result<(), SessionError> {
        let rows = self.first_unwritten..self.snapshot.rows.len();
        if rows.is_empty() {
            return Ok(());
        }
        self.sync_active()?;
        let mut lines = Vec::new();
        self.snapshot.rows.write_lines(rows.clone(), |block| {
            lines.extend_from_slice(block);
            Ok(())
        })?;
        let index = self.open_index()?;
        if let Err(error) = index.write_all(&lines) {
            // After half a row the next open would build the whole index again.
            if index.set_len(self.index_bytes).is_err() {
                self.poison(&error.into());
                return Err(SessionError::Poisoned {
                    root: self.layout.root.clone(),
                    reason: "a row was written in part and could not be cut off".to_owned(),
                });
            }
            return Err(error.into());
        }
        if let Err(error) = index.sync_data() {
            let _ = index.set_len(self.index_bytes);
            let error = error.into();
            self.poison(&error);
            return Err(error);
        }
        self.index_bytes += lines.len() as u64;
        self.index = Some(index);
        self.first_unwritten = rows.end;
        Ok(())
    }

    /// Returns the index, open for appending and as long as this handle left it.
    fn open_index(&mut self) -> Result<disk::File, SessionError> {
        let path = self.layout.index_file_path();
        let index = match self.index.take() {
            Some(index) => index,
            None => {
                disk::refuse_link(&path)?;
                let (index, created) = disk::File::open_append(&path)?;
                // As for segments.
                if created || self.index_bytes == 0 {
                    disk::sync_dir(disk::parent_of(&path))?;
                }
                index
            }
        };
        self.check_index_unchanged(Some(&index))?;
        Ok(index)
    }

    /// Fails when the index is not the file that this handle wrote last, because a writer without the lock changed it.
    fn check_index_unchanged(&self, open: Option<&disk::File>) -> Result<(), SessionError> {
        let path = self.layout.index_file_path();
        let stale = |reason| Err(SessionError::Stale { path: path.clone(), reason });
        let named = match disk::metadata(&path) {
            Ok(named) => named,
            Err(error) if error.is_not_found() && self.index_bytes == 0 => return Ok(()),
            Err(error) if error.is_not_found() => return stale("it is gone".to_owned()),
            Err(error) => return Err(error.into()),
        };
        if named.len_bytes != self.index_bytes {
            return stale(format!("it has {} bytes, {} were expected", named.len_bytes, self.index_bytes));
        }
        match open {
            Some(open) if open.metadata()?.identity != named.identity => stale("it was replaced".to_owned()),
            _ => Ok(()),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { rows: self.snapshot.rows.len(), tail: self.tail, index_bytes: self.index_bytes }
    }

    /// After a failure, cuts off what was written since `from`.
    pub(super) fn done_or_undone(
        &mut self,
        from: Mark,
        done: Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        let Err(error) = done else { return Ok(()) };
        if let SessionError::Stale { .. } = error {
            // The bytes that would be cut are another writer's.
            self.poison(&error);
        } else {
            // The index first, then the highest segment, because a crash in between then leaves frames without a hole.
            let mut undone = Ok(());
            if self.index_bytes > from.index_bytes {
                undone = cut_back(&self.layout.index_file_path(), from.index_bytes);
                self.index_bytes = from.index_bytes;
            }
            let first = from.tail.at.segment_seq;
            for segment_seq in (first..=self.tail.at.segment_seq).rev() {
                let len_bytes = if segment_seq == first { from.tail.segment_bytes } else { 0 };
                undone =
                    undone.and_then(|()| cut_back(&self.layout.segment_file_path(segment_seq), len_bytes));
            }
            if let Err(reason) = undone {
                self.poison(&reason);
            }
        }
        (self.active, self.index) = (None, None);
        self.view.snapshot.truncate(from.rows);
        self.tail = from.tail;
        self.first_unwritten = self.first_unwritten.min(from.rows);
        Err(error)
    }
}

/// The state to return to when an append fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) rows: usize,
    tail: Tail,
    pub(super) index_bytes: u64,
}

/// Cuts a file back to its old length, durably: what comes next may be durable before the cut is. A missing or shorter file stays
/// as it is.
fn cut_back(path: &Path, len_bytes: u64) -> Result<(), SessionError> {
    let Some(file) = disk::if_there(disk::File::open_rw(path))? else { return Ok(()) };
    if file.len_bytes()? > len_bytes {
        file.set_len(len_bytes)?;
        file.sync_data()?;
    }
    Ok(())
}

pub(super) fn missing_parent(entry: &NewEntry<'_>, parent: &str) -> SessionError {
    SessionError::MissingParent { entry_id: entry.id.clone().into_owned(), parent_id: parent.to_owned() }
}

/// A handle has the reading operations of its view, which includes entries that are not yet synced.
impl Deref for SessionStoreV2 {
    type Target = SessionView;

    fn deref(&self) -> &SessionView {
        &self.view
    }
}

impl Drop for SessionStoreV2 {
    fn drop(&mut self) {
        // If this fails, the next opening writer recovers the entries. The lock is released after the sync.
        let _ = self.sync();
    }
}

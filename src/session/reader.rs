//! The reading handle, which follows the index of a store while others write to it.
//!
//! Touches: reads the index.
//!
//! Guarantees: a row that is half written, or that a writer cuts off again, is never kept.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::error::SessionError;
use super::index::{self, IndexRows};
use super::layout::SessionLayout;
use super::options::SessionOptions;
use super::snapshot::Snapshot;
use super::view::SessionView;
use super::writer::SessionStoreV2;
use crate::disk;

/// How often a reader waits for a writer that has written half a row.
const RETRIES: u32 = 20;
const RETRY_AFTER: Duration = Duration::from_millis(2);
/// How long a reader waits for the rest of a row: a busy machine may stop a writer within a write.
const HALF_ROW_MAX: Duration = Duration::from_millis(100);

/// A store opened for reading. It changes nothing and may stay open while others write.
///
/// ```
/// use relayburn_ledger::session::{EntryPayload, NewEntry, SessionOptions, SessionStoreV2};
///
/// let directory = tempfile::tempdir()?;
/// let root = directory.path().join("talk.v2");
/// let (mut store, _) = SessionStoreV2::create(&root, &SessionOptions::default())?;
/// store.append_entry(&NewEntry {
///     id: "e1".into(),
///     parent_id: None,
///     entry_type: "message".into(),
///     payload: EntryPayload::from_value(&serde_json::json!({"role": "user", "content": "hello"}))?,
/// })?;
///
/// let mut reader = SessionStoreV2::open_for_inspection(&root, &SessionOptions::default())?;
/// let view = reader.view()?;
/// assert_eq!(view.entry_count(), 1);
/// let path = view.read_active_path("e1")?.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(path[0].payload.get(), r#"{"content":"hello","role":"user"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SessionReader {
    view: SessionView,
    seen: Option<SeenIndex>,
}

/// The state of the index file when it was read.
#[derive(Debug)]
struct SeenIndex {
    identity: disk::Identity,
    len_bytes: u64,
    modified: SystemTime,
    last_line_start: u64,
    last_line: Vec<u8>,
}

impl SessionStoreV2 {
    /// Opens a store for reading. Nothing is read yet, and the store need not exist.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for options that no store can have.
    pub fn open_for_inspection(
        root: impl AsRef<Path>,
        options: &SessionOptions,
    ) -> Result<SessionReader, SessionError> {
        let limit_bytes = options.frame_limit_bytes()?;
        let layout = SessionLayout { root: root.as_ref().to_owned() };
        let view = SessionView { layout, snapshot: Snapshot::new(IndexRows::default()), limit_bytes };
        Ok(SessionReader { view, seen: None })
    }
}

impl SessionReader {
    /// Reads the rows that were appended to the index since the last call, and returns the store at this moment.
    ///
    /// # Errors
    /// [`SessionError::Json`], [`SessionError::IndexLineUnreadable`], [`SessionError::UnsupportedRow`] for an index that is not one, and
    /// failures of the file system.
    pub fn view(&mut self) -> Result<&SessionView, SessionError> {
        for attempt in 1.. {
            let state =
                |path: &Path| disk::metadata(path).ok().map(|found| (found.len_bytes, found.modified));
            let before = state(&self.view.layout.index_file_path());
            match self.refresh() {
                Ok(()) => break,
                Err(error) if attempt == RETRIES || !error.is_recoverable() => return Err(error),
                // If a writer had written half a row, the file changes soon.
                Err(error) => {
                    let path = self.view.layout.index_file_path();
                    let failed = Instant::now();
                    std::thread::sleep(RETRY_AFTER);
                    while state(&path) == before {
                        if failed.elapsed() >= HALF_ROW_MAX || ends_in_line_feed(&path) {
                            return Err(error);
                        }
                        std::thread::sleep(RETRY_AFTER);
                    }
                }
            }
        }
        Ok(&self.view)
    }

    fn refresh(&mut self) -> Result<(), SessionError> {
        let path = self.view.layout.index_file_path();
        let Some(now) = disk::if_there(disk::metadata(&path))? else {
            (self.view.snapshot, self.seen) = (Snapshot::new(IndexRows::default()), None);
            return Ok(());
        };
        let (mut from, mut fresh) = (0, None);
        let is_seen = |seen: &SeenIndex| {
            (seen.identity, seen.len_bytes, seen.modified) == (now.identity, now.len_bytes, now.modified)
        };
        if self.seen.as_ref().is_some_and(is_seen) {
            return Ok(());
        }
        // After a failure below, `rows` may hold more than `seen` says, so the next call reads everything again.
        if let Some(seen) = self.seen.take()
            && seen.identity == now.identity
            && seen.len_bytes < now.len_bytes
            && seen.still_there(&path)?
        {
            from = seen.len_bytes;
        }
        let rows = if from > 0 { &mut self.view.snapshot.rows } else { fresh.insert(IndexRows::default()) };
        let file = index::read(&path, from, rows)?;
        if let Some(rows) = fresh {
            self.view.snapshot = Snapshot::new(rows);
        }
        // A last line without LF is read again, because it may still grow.
        let mut last_line = vec![0; (file.last_line.end - file.last_line.start) as usize];
        if file.is_terminated && !last_line.is_empty() {
            disk::File::open_read_no_follow(&path)?.read_exact_at(&mut last_line, file.last_line.start)?;
        }
        self.seen = file.is_terminated.then_some(SeenIndex {
            identity: now.identity,
            len_bytes: file.len_bytes,
            // If rows were appended since the metadata was read, their time is unknown.
            modified: if now.len_bytes == file.len_bytes { now.modified } else { SystemTime::UNIX_EPOCH },
            last_line_start: file.last_line.start,
            last_line,
        });
        Ok(())
    }
}

/// Whether the last byte of a file is LF, so that no row is half written.
fn ends_in_line_feed(path: &Path) -> bool {
    let last_byte = || {
        let file = disk::File::open_read_no_follow(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, file.len_bytes()?.saturating_sub(1))?;
        Ok::<_, disk::Error>(byte)
    };
    last_byte().map_or(true, |byte| byte == *b"\n")
}

impl SeenIndex {
    /// Whether the last line is still the same, because a writer whose append fails cuts its row off again.
    fn still_there(&self, path: &Path) -> Result<bool, SessionError> {
        let mut now = vec![0; self.last_line.len()];
        let read = disk::File::open_read_no_follow(path)?.read_at(&mut now, self.last_line_start)?;
        Ok(read == now.len() && now == self.last_line)
    }
}

//! The reading handle: follows the index of a store that others may be writing to.
//!
//! May read the index; writes nothing and creates nothing. Promises: a row that is half written or taken back is never kept.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::error::SessionError;
use super::index::{self, Rows};
use super::layout::Layout;
use super::options::SessionOptions;
use super::snapshot::Snapshot;
use super::view::SessionView;
use super::writer::SessionStoreV2;
use crate::disk;

/// How often a reader waits for a writer that is in the middle of a row.
const RETRIES: u32 = 20;
const RETRY_AFTER: Duration = Duration::from_millis(2);

/// A store opened for reading: touches nothing, may be held while others write.
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
    seen: Option<Seen>,
}

/// The index file as it was when it was read.
#[derive(Debug)]
struct Seen {
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
        let layout = Layout { root: root.as_ref().to_owned() };
        let view = SessionView { layout, snapshot: Snapshot::new(Rows::default()), limit_bytes };
        Ok(SessionReader { view, seen: None })
    }
}

impl SessionReader {
    /// The store as its index has it now. Rows appended since the last call are read, others are not read again.
    ///
    /// # Errors
    /// [`SessionError::Json`], [`SessionError::IndexLineUnreadable`], [`SessionError::UnsupportedRow`] for an index that is not one, and what
    /// the system says.
    pub fn view(&mut self) -> Result<&SessionView, SessionError> {
        for attempt in 1.. {
            let state =
                |path: &Path| disk::metadata(path).ok().map(|found| (found.len_bytes, found.modified));
            let before = state(&self.view.layout.index_file_path());
            match self.refresh() {
                Ok(()) => break,
                Err(error) if attempt == RETRIES || !error.is_recoverable() => return Err(error),
                // A writer may have been in the middle of a row: then the file was about to change.
                Err(error) => {
                    std::thread::sleep(RETRY_AFTER);
                    if state(&self.view.layout.index_file_path()) == before {
                        return Err(error);
                    }
                }
            }
        }
        Ok(&self.view)
    }

    fn refresh(&mut self) -> Result<(), SessionError> {
        let path = self.view.layout.index_file_path();
        let now = match disk::metadata(&path) {
            Ok(now) => now,
            Err(error) if error.is_not_found() => {
                (self.view.snapshot, self.seen) = (Snapshot::new(Rows::default()), None);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (mut from, mut fresh) = (0, None);
        let is_seen = |seen: &Seen| {
            (seen.identity, seen.len_bytes, seen.modified) == (now.identity, now.len_bytes, now.modified)
        };
        if self.seen.as_ref().is_some_and(is_seen) {
            return Ok(());
        }
        // Whatever fails from here on, the rows may be further than this says: then everything is read anew.
        if let Some(seen) = self.seen.take()
            && seen.identity == now.identity
            && seen.len_bytes < now.len_bytes
            && seen.still_there(&path)?
        {
            from = seen.len_bytes;
        }
        let rows = if from > 0 { &mut self.view.snapshot.rows } else { fresh.insert(Rows::default()) };
        let file = index::read(&path, from, rows)?;
        if let Some(rows) = fresh {
            self.view.snapshot = Snapshot::new(rows);
        }
        // What is not terminated is read again: it may still grow.
        let mut last_line = vec![0; (file.last_line.end - file.last_line.start) as usize];
        if file.terminated && !last_line.is_empty() {
            disk::File::open_read_no_follow(&path)?.read_exact_at(&mut last_line, file.last_line.start)?;
        }
        self.seen = file.terminated.then_some(Seen {
            identity: now.identity,
            len_bytes: file.len_bytes,
            // An append between the look and the read leaves the time unknown.
            modified: if now.len_bytes == file.len_bytes { now.modified } else { SystemTime::UNIX_EPOCH },
            last_line_start: file.last_line.start,
            last_line,
        });
        Ok(())
    }
}

impl Seen {
    /// Whether the last line read still stands where it stood: a writer whose append fails takes its row back.
    fn still_there(&self, path: &Path) -> Result<bool, SessionError> {
        let mut now = vec![0; self.last_line.len()];
        let read = disk::File::open_read_no_follow(path)?.read_at(&mut now, self.last_line_start)?;
        Ok(read == now.len() && now == self.last_line)
    }
}

//! Where a store keeps its files, and the file operations that every part of it shares.
//!
//! May list directories, stage and rename files inside the store. Promises: a name outside the canonical form is never taken
//! for a segment; a symbolic link is refused; a staged file replaces its target whole and durably; a quarantined file
//! never overwrites another.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::error::{LinePlace, SessionError};
use super::format::MAX_LINE_BYTES;
use crate::disk;

/// The staging name of a rebuilt index.
pub(super) const REBUILD_STAGE: &str = "offsets.rebuild.tmp";
/// The staging name of the index a rollback leaves.
pub(super) const ROLLBACK_STAGE: &str = "offsets.rollback.stage";
/// The event that a rollback under way logs when it is done.
pub(super) const ROLLBACK_EVENT: &str = "rollback.event.json";
/// The record of a rollback under way.
pub(super) const ROLLBACK_INTENT: &str = "rollback.intent.json";

/// The record of an import under way.
pub(super) const IMPORT_INTENT: &str = "import.intent.json";

/// The directory of the store that belongs to a session file: `dir/stem.v2` beside `dir/stem.ext`.
///
/// The last extension is removed: `a.tar.jsonl` gives `a.tar.v2`, `.jsonl` gives `.jsonl.v2`; a path without a file name
/// gives `session.v2`, one without a directory starts with `./`.
pub fn v2_sidecar_path(session_file: &Path) -> PathBuf {
    let mut name = session_file.file_stem().unwrap_or("session".as_ref()).to_owned();
    name.push(".v2");
    disk::parent_of(session_file).join(name)
}

/// Whether a session file has a store beside it: [`v2_sidecar_path`] holds a manifest or an index.
pub fn has_v2_sidecar(session_file: &Path) -> bool {
    let layout = Layout { root: v2_sidecar_path(session_file) };
    layout.manifest().exists() || layout.index_file_path().exists()
}

/// The paths of one store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

/// What lies in `segments/`.
#[derive(Debug, Default, Clone)]
pub(super) struct SegmentFiles {
    /// Length in bytes by segment number.
    pub(super) len_bytes: BTreeMap<u64, u64>,
    /// Names ending in `.seg` that are not canonical: `1.seg` beside `0000000000000001.seg`.
    pub(super) ignored: Vec<String>,
}

fn numbered(number: u64, extension: &str) -> String {
    format!("{number:016}.{extension}")
}

/// The number of a canonical name, `None` for any other.
fn number_of(name: &str, extension: &str) -> Option<u64> {
    let number = name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()?;
    (numbered(number, extension) == name).then_some(number)
}

impl Layout {
    pub(super) fn segments_dir(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub(super) fn segment_file_path(&self, segment_seq: u64) -> PathBuf {
        self.segments_dir().join(numbered(segment_seq, "seg"))
    }

    pub(super) fn index_file_path(&self) -> PathBuf {
        self.root.join("index").join("offsets.jsonl")
    }

    pub(super) fn checkpoints_dir(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    pub(super) fn checkpoint(&self, checkpoint_seq: u64) -> PathBuf {
        self.checkpoints_dir().join(numbered(checkpoint_seq, "json"))
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.root.join("migrations").join("ledger.jsonl")
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    pub(super) fn staging(&self, name: &str) -> PathBuf {
        self.root.join("tmp").join(name)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("store.mutation.lock")
    }

    /// A path as reports and snapshot references have it: relative to the root, with `/`.
    pub(super) fn relative(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        inside.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// The root and its five directories.
    pub(super) fn directories(&self) -> [PathBuf; 6] {
        let inside = |name| self.root.join(name);
        [
            self.root.clone(),
            inside("segments"),
            inside("index"),
            inside("checkpoints"),
            inside("migrations"),
            inside("tmp"),
        ]
    }

    /// Creates the root and its directories; answers those that others may enter.
    pub(super) fn create_directories(&self) -> Result<Vec<PathBuf>, SessionError> {
        let mut wide = Vec::new();
        for directory in self.directories() {
            if directory != self.root {
                refuse_link(&directory)?;
            }
            disk::create_dir_all(&directory)?;
            if disk::metadata(&directory)?.mode & 0o077 != 0 {
                wide.push(directory);
            }
        }
        Ok(wide)
    }

    /// Makes durable what a killed process may have written and not synced: the index, the migration ledger, and the names
    /// in the store's directories. Segments are synced by [`Layout::sync_beside`].
    ///
    /// Without this, an answer from those bytes ("this id is taken") could be forgotten by a power cut.
    pub(super) fn sync_inherited(&self) -> Result<(), SessionError> {
        let sync = |path: &Path| {
            refuse_link(path)?;
            match disk::File::open_to_sync(path) {
                Ok(file) => Ok(file.sync_data().map(|()| true)?),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(SessionError::from(error)),
            }
        };
        sync(&self.ledger())?;
        if !sync(&self.index_file_path())? {
            // Without entries the store may be new, and its own name as well.
            disk::sync_dir(disk::parent_of(&self.root))?;
        }
        for directory in self.directories() {
            disk::sync_dir(&directory)?;
        }
        Ok(())
    }

    /// Begins to sync all segments.
    pub(super) fn sync_beside(&self, files: &SegmentFiles) -> SyncedBeside {
        let segments: Arc<[PathBuf]> =
            files.len_bytes.keys().map(|seq| self.segment_file_path(*seq)).collect();
        let to_sync = Arc::clone(&segments);
        SyncedBeside { thread: beside(move || sync_all(&to_sync)), segments }
    }

    /// The segment files; none when the directory does not exist.
    pub(super) fn segment_files(&self) -> Result<SegmentFiles, SessionError> {
        let mut files = SegmentFiles::default();
        for name in list(&self.segments_dir())? {
            let Some(segment_seq) = number_of(&name, "seg") else {
                if name.ends_with(".seg") {
                    files.ignored.push(name);
                }
                continue;
            };
            let path = self.segment_file_path(segment_seq);
            let metadata = disk::metadata(&path)?;
            if !metadata.is_file {
                refuse_link(&path)?;
                return Err(SessionError::NotAFile { path });
            }
            files.len_bytes.insert(segment_seq, metadata.len_bytes);
        }
        files.ignored.sort();
        Ok(files)
    }

    /// The numbers of the checkpoints, ascending.
    pub(super) fn checkpoint_seqs(&self) -> Result<Vec<u64>, SessionError> {
        let mut seqs: Vec<u64> =
            list(&self.checkpoints_dir())?.iter().filter_map(|name| number_of(name, "json")).collect();
        seqs.sort_unstable();
        Ok(seqs)
    }

    /// Replaces `target` with what `write` writes into `tmp/stage`: synced, renamed, directory synced. After an error the
    /// target is as it was and the staging file is gone.
    pub(super) fn replace(
        &self,
        stage: &str,
        target: &Path,
        write: impl FnOnce(&disk::File) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        let staged = self.stage(stage)?;
        write(&staged.file)?;
        staged.rename_over(target)
    }

    /// An empty file `tmp/stage`, in place of a left-over.
    pub(super) fn stage(&self, stage: &str) -> Result<Staged, SessionError> {
        let path = self.staging(stage);
        disk::remove_file_if_exists(&path)?;
        let file = Arc::new(disk::File::create_new(&path)?);
        Ok(Staged { file, keep: false, unsynced_bytes: 0, syncing: None })
    }

    /// Saves `range` of a file beside it as `<name>.cut`, then cuts the file at the start of the range; both are durable on
    /// return. White space alone is not worth saving. Answers where the bytes went.
    pub(super) fn cut(&self, path: &Path, range: Range<u64>) -> Result<Option<PathBuf>, SessionError> {
        let file = disk::File::open_rw(path)?;
        let saved = if is_blank(&file, range.clone())? {
            None
        } else {
            let name = format!("{}.cut", path.file_name().unwrap_or_default().to_string_lossy());
            Some(disk::quarantine(&file, range.clone(), disk::parent_of(path), &name)?)
        };
        file.set_len(range.start)?;
        file.sync_all()?;
        Ok(saved)
    }
}

/// A file in `tmp/` on its way to its place; dropped before it is there, it is deleted.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: Arc<disk::File>,
    keep: bool,
    /// Written since the last early sync began.
    unsynced_bytes: usize,
    syncing: Option<JoinHandle<Synced>>,
}

/// How much is written before it is worth a sync of its own.
const EARLY_SYNC_BYTES: usize = 32 << 20;

impl Staged {
    /// Writes at the end of the file, and lets the disk begin before everything is written: the last sync then waits for
    /// little.
    pub(super) fn write_early(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.file.write_all(bytes)?;
        self.unsynced_bytes += bytes.len();
        if self.unsynced_bytes >= EARLY_SYNC_BYTES
            && self.syncing.as_ref().is_none_or(JoinHandle::is_finished)
        {
            self.finish_syncing()?;
            self.unsynced_bytes = 0;
            let file = Arc::clone(&self.file);
            // Without a thread the last sync does it all.
            self.syncing = beside(move || file.sync_data());
        }
        Ok(())
    }

    /// Ends an early sync. If it failed, no later one may pass for success: the system reports a lost write once.
    fn finish_syncing(&mut self) -> Result<(), SessionError> {
        match self.syncing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(synced)) => Ok(synced?),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// Syncs the file and puts it in place of `target`, durably.
    pub(super) fn rename_over(mut self, target: &Path) -> Result<(), SessionError> {
        self.finish_syncing()?;
        self.file.sync_all()?;
        disk::rename(self.file.path(), target)?;
        self.keep = true;
        disk::sync_dir(disk::parent_of(target))?;
        Ok(())
    }

    /// Syncs the file and leaves it where it is.
    pub(super) fn leave(mut self) -> Result<(), SessionError> {
        self.finish_syncing()?;
        self.file.sync_all()?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = self.syncing.take().map(JoinHandle::join);
        if !self.keep {
            // A left-over is harmless: the next one of its name replaces it.
            let _ = disk::remove_file(self.file.path());
        }
    }
}

/// Runs a sync on a thread of its own; none when there can be none.
fn beside(sync: impl FnOnce() -> Synced + Send + 'static) -> Option<JoinHandle<Synced>> {
    std::thread::Builder::new().name("burn-sync".to_owned()).spawn(disk::handed_over(sync)).ok()
}

type Synced = Result<(), disk::Error>;

/// Segments that are synced while they are read. What stood in them before that is durable when it ends well.
pub(super) struct SyncedBeside {
    segments: Arc<[PathBuf]>,
    /// None when there can be no thread.
    thread: Option<JoinHandle<Synced>>,
}

impl SyncedBeside {
    /// Waits until all segments are synced.
    pub(super) fn finish(mut self) -> Result<(), SessionError> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(sync_all(&self.segments)?),
            Some(Ok(synced)) => Ok(synced?),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for SyncedBeside {
    fn drop(&mut self) {
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn sync_all(segments: &[PathBuf]) -> Synced {
    segments.iter().try_for_each(|path| disk::File::open_to_sync(path)?.sync_data())
}

/// Whether a byte range of a file holds ASCII white space only.
pub(super) fn is_blank(file: &disk::File, range: Range<u64>) -> Result<bool, SessionError> {
    const PIECE_BYTES: u64 = 64 * 1024;
    let mut buffer = vec![0; PIECE_BYTES.min(range.end.saturating_sub(range.start)) as usize];
    let mut offset = range.start;
    while offset < range.end {
        let piece = &mut buffer[..PIECE_BYTES.min(range.end - offset) as usize];
        file.read_exact_at(piece, offset)?;
        if !piece.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0x0b) {
            return Ok(false);
        }
        offset += piece.len() as u64;
    }
    Ok(true)
}

/// Renames a file to `<name>.bak`, or `.bak.1` to `.bak.9999` when that is taken; the directory is not yet synced.
pub(super) fn quarantine(path: &Path) -> Result<PathBuf, SessionError> {
    Ok(disk::set_aside(path, ".bak")?)
}

/// Fails when `path` is a symbolic link; nothing at the path is fine.
pub(super) fn refuse_link(path: &Path) -> Result<(), SessionError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(SessionError::SymbolicLink { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// Reads a whole small file; `None` when there is none.
pub(super) fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, SessionError> {
    let file = match disk::File::open_read_no_follow(path) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let len_bytes = file.len_bytes()?;
    if len_bytes > MAX_LINE_BYTES {
        return Err(SessionError::Json {
            place: LinePlace { path: path.to_owned(), line: 1, offset: 0 },
            reason: format!("the file has {len_bytes} bytes, more than the {} allowed", MAX_LINE_BYTES),
        });
    }
    let mut bytes = vec![0; len_bytes as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

fn list(directory: &Path) -> Result<Vec<String>, SessionError> {
    let paths = match disk::list(directory) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        listed => listed?,
    };
    // A name that is not UTF-8 is none of ours.
    Ok(paths.iter().filter_map(|path| path.file_name()?.to_str()).map(str::to_owned).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_failed_early_sync_keeps_a_staged_file_out_of_its_place() {
        use crate::disk::faults::{Fault, Harness};

        let bytes = vec![b'x'; EARLY_SYNC_BYTES];
        let replace = |harness: &Harness| {
            let directory = tempfile::tempdir().unwrap();
            let layout = Layout { root: directory.path().to_owned() };
            std::fs::create_dir(directory.path().join("tmp")).unwrap();
            let target = directory.path().join("index");
            let mut early = false;
            let done = harness.run(|| {
                let mut staged = layout.stage(REBUILD_STAGE)?;
                staged.write_early(&bytes)?;
                early = staged.syncing.is_some();
                staged.rename_over(&target)
            });
            let len = target.metadata().map(|metadata| metadata.len() as usize).ok();
            (done.is_ok(), early, len)
        };
        let clean = Harness::counting(Fault::Io);
        assert_eq!(replace(&clean), (true, true, Some(EARLY_SYNC_BYTES)));
        // Everything up to the early sync, that one, the last one, and renaming.
        let mut refused_early = 0;
        for fail_at in 0..clean.operations() {
            let (done, early, len) = replace(&Harness::failing(Fault::Io, fail_at));
            assert!(len.is_none_or(|len| len == EARLY_SYNC_BYTES), "{fail_at}");
            assert!(!done || len.is_some(), "{fail_at}");
            refused_early += usize::from(early && len.is_none());
        }
        assert_eq!(refused_early, 3, "the early sync, the last one and renaming");
    }

    #[test]
    fn only_canonical_names_are_segments() {
        assert_eq!(number_of("0000000000000001.seg", "seg"), Some(1));
        assert_eq!(number_of("18446744073709551615.seg", "seg"), Some(u64::MAX));
        for name in [
            "1.seg",
            "+000000000000001.seg",
            "0000000000000001.SEG",
            "0000000000000001.seg.bak",
            ".seg",
            "seg",
        ] {
            assert_eq!(number_of(name, "seg"), None, "{name}");
        }
    }

    #[test]
    fn sidecars_stand_beside_their_session_files() {
        for (file, root) in [
            ("/h/s.jsonl", "/h/s.v2"),
            ("/h/a.tar.jsonl", "/h/a.tar.v2"),
            ("/h/.jsonl", "/h/.jsonl.v2"),
            ("/h/plain", "/h/plain.v2"),
            ("s.jsonl", "./s.v2"),
            ("", "./session.v2"),
        ] {
            assert_eq!(v2_sidecar_path(Path::new(file)), Path::new(root), "{file}");
        }
    }
}

//! Where a store keeps its files, and the file operations that its parts share.
//!
//! Touches: lists directories, creates the store's directories, stages, renames, cuts and syncs files inside the store.
//!
//! Guarantees: only a canonical name is a segment; a symbolic link is refused; a staged file replaces its target whole and
//! durably; a file that is renamed away never overwrites another.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::{LinePlace, SessionError};
use super::format::MAX_LINE_BYTES;
use crate::disk;
use crate::store::{self, Cut, SetAside};

/// Staging name of a rebuilt index.
pub(super) const REBUILD_STAGE: &str = "offsets.rebuild.tmp";
/// Staging name of the index that a rollback keeps.
pub(super) const ROLLBACK_STAGE: &str = "offsets.rollback.stage";
/// The event that a rollback will log.
pub(super) const ROLLBACK_EVENT: &str = "rollback.event.json";
/// The intent of a rollback.
pub(super) const ROLLBACK_INTENT: &str = "rollback.intent.json";

/// The intent of an import.
pub(super) const IMPORT_INTENT: &str = "import.intent.json";

/// Returns the directory of the store of a session file: `dir/stem.v2` for `dir/stem.ext`.
///
/// The last extension is removed: `a.tar.jsonl` gives `a.tar.v2`, `.jsonl` gives `.jsonl.v2`. A path without a file name
/// gives `session.v2`; a path without a directory gives one that starts with `./`.
pub fn v2_sidecar_path(session_file: &Path) -> PathBuf {
    let mut name = session_file.file_stem().unwrap_or("session".as_ref()).to_owned();
    name.push(".v2");
    disk::parent_of(session_file).join(name)
}

/// Whether the directory of [`v2_sidecar_path`] holds a manifest or an index.
pub fn has_v2_sidecar(session_file: &Path) -> bool {
    let layout = SessionLayout { root: v2_sidecar_path(session_file) };
    layout.manifest().exists() || layout.index_file_path().exists()
}

/// The paths of one store.
#[derive(Debug, Clone)]
pub(super) struct SessionLayout {
    pub(super) root: PathBuf,
}

/// The files in `segments/`.
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

/// Returns the number of a canonical name, `None` for any other name.
fn number_of(name: &str, extension: &str) -> Option<u64> {
    let number = name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()?;
    (numbered(number, extension) == name).then_some(number)
}

impl SessionLayout {
    pub(super) fn segments_dir(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub(super) fn segment_file_path(&self, segment_seq: u64) -> PathBuf {
        self.segments_dir().join(numbered(segment_seq, "seg"))
    }

    pub(super) fn index_file_path(&self) -> PathBuf {
        self.root.join("index").join("offsets.jsonl")
    }

    /// Returns the length of the index, 0 when it is missing.
    pub(super) fn index_file_bytes(&self) -> Result<u64, SessionError> {
        let found = disk::if_there(disk::metadata(&self.index_file_path()))?;
        Ok(found.map_or(0, |found| found.len_bytes))
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

    /// Returns a path relative to the root, with `/`, as reports and snapshot references have it.
    pub(super) fn relative(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        inside.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// Returns the root and its five directories.
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

    /// Creates the root and its directories. Returns the directories that other users may enter.
    pub(super) fn create_directories(&self) -> Result<Vec<PathBuf>, SessionError> {
        let mut wide = Vec::new();
        for directory in self.directories() {
            if directory != self.root {
                disk::refuse_link(&directory)?;
            }
            disk::create_dir_all(&directory)?;
            // The root may be reached through a link, whose own mode means nothing.
            if disk::metadata_of_target(&directory)?.mode & 0o077 != 0 {
                wide.push(directory);
            }
        }
        Ok(wide)
    }

    /// Syncs what a killed process may have written and not synced: the index, the migration ledger, and the names in the
    /// store's directories. Segments are synced by [`SessionLayout::sync_segments`].
    ///
    /// Without this sync, a power cut could take back an entry whose id was already refused as taken.
    pub(super) fn sync_inherited(&self) -> Result<(), SessionError> {
        let files = [self.ledger(), self.index_file_path()];
        files.iter().try_for_each(|path| disk::refuse_link(path))?;
        store::sync_inherited(files, self.directories())?;
        Ok(store::sync_name_of(&self.root)?)
    }

    /// Syncs all segments, the last one first, because a writer syncs a segment before it begins the next.
    pub(super) fn sync_segments(&self, files: &SegmentFiles) -> Result<(), SessionError> {
        let paths = files.len_bytes.keys().rev().map(|segment_seq| self.segment_file_path(*segment_seq));
        Ok(store::sync_inherited(paths, [""; 0])?)
    }

    /// Lists the segment files. A missing directory has none.
    pub(super) fn segment_files(&self) -> Result<SegmentFiles, SessionError> {
        let mut files = SegmentFiles::default();
        for name in list(&self.segments_dir())? {
            let Some(segment_seq) = number_of(&name, "seg") else {
                if name.ends_with(".seg") {
                    files.ignored.push(name);
                }
                continue;
            };
            let metadata = disk::metadata_of_regular_file(&self.segment_file_path(segment_seq))?;
            files.len_bytes.insert(segment_seq, metadata.len_bytes);
        }
        files.ignored.sort();
        Ok(files)
    }

    /// Returns the numbers of the checkpoints, ascending.
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
        let staged = self.stage(stage, write)?;
        disk::rename(&staged, target).inspect_err(|_| drop(disk::remove_file(&staged)))?;
        Ok(disk::sync_dir(disk::parent_of(target))?)
    }

    /// Writes `tmp/stage` and syncs it. After an error the file is gone; where it cannot be removed, the next file of its name
    /// replaces it.
    pub(super) fn stage(
        &self,
        stage: &str,
        write: impl FnOnce(&disk::File) -> Result<(), SessionError>,
    ) -> Result<PathBuf, SessionError> {
        let path = self.staging(stage);
        disk::remove_file_if_exists(&path)?;
        let file = disk::File::create_new(&path)?;
        let written = write(&file).and_then(|()| Ok(file.sync_all()?));
        if written.is_err() {
            let _ = disk::remove_file(&path);
        }
        written.map(|()| path)
    }

    /// Saves `range` of a file beside it as `<name>.cut`, then cuts the file at the start of the range, durably. Blanks are not saved.
    pub(super) fn cut(&self, path: &Path, range: Range<u64>, reason: String) -> Result<Cut, SessionError> {
        let is_blank = is_blank(&disk::File::open_rw(path)?, range.clone())?;
        let saved = if is_blank { 0..0 } else { range.clone() };
        let name = format!("{}.cut", path.file_name().unwrap_or_default().to_string_lossy());
        let cut = Cut::save(path, range.start, saved, (disk::parent_of(path), &name), reason)?;
        cut.carry_out()?;
        Ok(cut)
    }
}

/// Whether a byte range of a file holds ASCII white space only.
pub(super) fn is_blank(file: &disk::File, range: Range<u64>) -> Result<bool, SessionError> {
    let mut is_blank = true;
    file.read_pieces(range, |piece| {
        is_blank = piece.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0x0b);
        is_blank
    })?;
    Ok(is_blank)
}

/// Renames a file to `<name>.bak`, or `.bak.1` to `.bak.9999` when the name is taken. The caller syncs the directory.
pub(super) fn set_aside(path: &Path) -> Result<SetAside, SessionError> {
    Ok(SetAside::rename(path, ".bak")?)
}

/// Reads a whole file of at most [`MAX_LINE_BYTES`]; `None` when it is missing.
pub(super) fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, SessionError> {
    let Some(file) = disk::if_there(disk::File::open_read_no_follow(path))? else { return Ok(None) };
    let len_bytes = file.len_bytes()?;
    if len_bytes > MAX_LINE_BYTES {
        return Err(SessionError::Json {
            place: LinePlace::of_document(path),
            reason: format!("the file has {len_bytes} bytes, more than the {} allowed", MAX_LINE_BYTES),
        });
    }
    let mut bytes = vec![0; len_bytes as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

fn list(directory: &Path) -> Result<Vec<String>, SessionError> {
    let paths = disk::if_there(disk::list(directory))?.unwrap_or_default();
    // No file of a store has a name that is not UTF-8.
    Ok(paths.iter().filter_map(|path| path.file_name()?.to_str()).map(str::to_owned).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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

//! Opening a store for a command, and what a command says of it when that fails.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::arguments::StoreDir;
use crate::cli::{JsonFailure, counted};
use crate::disk;
use crate::session::{SessionError, SessionOptions, SessionReader, SessionStoreV2};

pub(super) fn failure(error: &SessionError) -> JsonFailure {
    JsonFailure::new(error.class().as_str(), error)
}

/// The document of a failed command.
#[derive(Serialize)]
pub(super) struct Failed {
    pub(super) ok: bool,
    pub(super) error: JsonFailure,
}

/// Opens a store for reading. The store must exist, because a mistyped directory must not look like an empty store.
pub(super) fn reader(store: &StoreDir) -> anyhow::Result<SessionReader> {
    must_exist(&store.dir)?;
    Ok(SessionStoreV2::open_for_inspection(&store.dir, &SessionOptions::default())?)
}

/// Every store has at least one of these; a copy may lack empty directories.
pub(super) const SIGNS: [&str; 6] =
    ["segments", "index", "checkpoints", "migrations", "tmp", "manifest.json"];

pub(super) fn must_exist(dir: &Path) -> anyhow::Result<()> {
    crate::cli::must_exist(dir, "session store", "the first `burn session append`", &SIGNS)
}

/// A range of a segment that is in no row of the index.
pub(super) struct NotIndexed {
    pub(super) path: PathBuf,
    pub(super) range: Range<u64>,
    /// Whether the range has a whole line, which is an entry that no command shows. Otherwise it is an unfinished write.
    pub(super) has_lines: bool,
    /// Whether an entry follows in the same segment. Then nothing can be cut there.
    pub(super) is_between_entries: bool,
}

impl NotIndexed {
    /// Returns what `burn session reindex` does about the range.
    pub(super) fn remedy(&self) -> &'static str {
        if self.is_between_entries {
            "`burn session reindex` takes in entries; if it does not, restore the segment from a copy"
        } else {
            "`burn session reindex` takes in entries and sets the rest aside"
        }
    }
}

impl std::fmt::Display for NotIndexed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (start, len_bytes) = (self.range.start, self.range.end - self.range.start);
        let what = if self.has_lines { "in no row of the index" } else { "an unfinished write" };
        write!(f, "{} at byte {start} ({}): {what}", self.path.display(), counted(len_bytes, "byte"))
    }
}

/// How often, and after how long, unindexed lines are looked at again, because a writer writes a line before its row.
pub(super) const LOOKS_MAX: u32 = 20;
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// A line that is unindexed for so many looks is not about to be indexed.
pub(super) const LOOKS_TO_SETTLE: u32 = 4;

/// Returns the ranges that the index lacks, without the lines that a writer is about to index.
pub(super) fn unindexed(reader: &mut SessionReader) -> Result<Vec<NotIndexed>, SessionError> {
    let mut before = None;
    let mut settled = 0;
    for look in 1.. {
        let mut found = Vec::new();
        for (path, range) in reader.view()?.unindexed()? {
            let has_lines = has_lines(&path, range.clone())?;
            let is_between_entries = range.end < disk::metadata(&path)?.len_bytes;
            found.push(NotIndexed { path, range, has_lines, is_between_entries });
        }
        let first = found.iter().find(|found| found.has_lines);
        let first = first.map(|first| (first.path.clone(), first.range.start));
        settled = if first == before { settled + 1 } else { 0 };
        if first.is_none() || settled == LOOKS_TO_SETTLE {
            return Ok(found);
        }
        if look == LOOKS_MAX {
            break;
        }
        before = first;
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(Vec::new())
}

/// Whether a line that is not blank ends in this range.
pub(super) fn has_lines(path: &Path, range: Range<u64>) -> Result<bool, SessionError> {
    const BLOCK_BYTES: u64 = 1 << 16;
    let file = disk::File::open_read_no_follow(path)?;
    let mut block = vec![0; BLOCK_BYTES.min(range.end - range.start) as usize];
    let (mut at, mut is_blank) = (range.start, true);
    while at < range.end {
        let wanted = BLOCK_BYTES.min(range.end - at) as usize;
        let read = file.read_at(&mut block[..wanted], at)?;
        if read == 0 {
            break;
        }
        for byte in &block[..read] {
            match byte {
                b'\n' if !is_blank => return Ok(true),
                other => is_blank &= other.is_ascii_whitespace(),
            }
        }
        at += read as u64;
    }
    Ok(false)
}

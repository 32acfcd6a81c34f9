//! Finds the lines that a content sidecar has already, so that a line is written once.
//!
//! Reads sidecars; the caller holds their lock. A line that was written before an append failed is recognised by its bytes.

use std::collections::HashSet;

use rustc_hash::FxHashSet;

use super::LedgerError;
use super::batch::{Batch, ContentEntry};
use super::lines::LineFile;
use crate::disk::Identity;
use crate::scan::{self, Io, Source, chunks};

/// How much of a sidecar is read at a time, in bytes.
const CHUNK_BYTES: u64 = 256 << 10;
/// A longer sidecar is not mapped, because its pages would count as memory of the program.
const MAP_MAX_BYTES: u64 = 16 << 20;

/// Keys of the lines of the sidecar that was appended to last. Without them, a run that appends
/// to one sidecar many times would take time that grows with the square of the session's length. The first append
/// makes no keys, because most runs append to a sidecar once.
#[derive(Debug, Default)]
pub(crate) struct SidecarLines {
    identity: Option<Identity>,
    /// The lines before this byte have a key.
    read_bytes: u64,
    keys: FxHashSet<u64>,
}

/// A key of a line without its LF. Equal lines have equal keys; two lines with equal keys may differ.
fn line_key(line: &[u8]) -> u64 {
    (line.len() as u64) << 32 | u64::from(crc32c::crc32c(line))
}

impl SidecarLines {
    /// Adds the keys of the lines of `file` that have none yet.
    fn catch_up(&mut self, file: &LineFile) -> Result<(), LedgerError> {
        if file.len_bytes() > self.read_bytes {
            let source = Source::open(file.file().path(), Io::Read)?;
            let mut buffer = Vec::new();
            for chunk in chunks(&source, self.read_bytes..source.len_bytes(), CHUNK_BYTES) {
                let lines = scan::lines(0, source.bytes(chunk?, &mut buffer)?);
                self.keys.extend(lines.map(|(_, line)| line_key(line)));
            }
            self.read_bytes = file.len_bytes();
        }
        Ok(())
    }

    /// Takes what the caller has appended to `file` since [`SidecarLines::fresh`]: the lines that it returned. `before` is where
    /// the file ended before.
    pub(super) fn take_appended(&mut self, file: &LineFile, before: u64) {
        if self.read_bytes == before {
            self.read_bytes = file.len_bytes();
        }
    }

    /// Returns the entries whose lines `file` does not have, each line once.
    pub(super) fn fresh<'b>(
        &mut self,
        file: &LineFile,
        batch: &Batch,
        entries: &[&'b ContentEntry],
    ) -> Result<Vec<&'b ContentEntry>, LedgerError> {
        let identity = file.file().metadata()?.identity;
        let is_first = self.identity != Some(identity) || file.len_bytes() < self.read_bytes;
        // Compare without the LF, because the last line of the file may lack its LF.
        let line = |entry: &ContentEntry| batch.line(&(entry.line.start..entry.line.end - 1));
        if is_first {
            *self = SidecarLines { identity: Some(identity), ..SidecarLines::default() };
            if file.len_bytes() > 0 {
                let mut known = standing(file, entries.iter().map(|entry| line(entry)).collect())?;
                return Ok(entries.iter().copied().filter(|entry| known.insert(line(entry))).collect());
            }
        }
        self.catch_up(file)?;
        let keys: Vec<u64> = entries.iter().map(|entry| line_key(line(entry))).collect();
        let doubtful: FxHashSet<u64> = keys.iter().copied().filter(|key| !self.keys.insert(*key)).collect();
        let is_doubtful = |key: &u64| doubtful.contains(key);
        let pairs = || entries.iter().copied().zip(&keys);
        let compared: HashSet<&[u8]> =
            pairs().filter(|(_, key)| is_doubtful(key)).map(|(entry, _)| line(entry)).collect();
        let mut known = if compared.is_empty() { compared } else { standing(file, compared)? };
        let fresh = pairs().filter(|(entry, key)| !is_doubtful(key) || known.insert(line(entry)));
        Ok(fresh.map(|(entry, _)| entry).collect())
    }
}

/// Returns the lines of `wanted`, without their LF, that are in `file` already.
pub(super) fn standing<'b>(
    file: &LineFile,
    wanted: HashSet<&'b [u8]>,
) -> Result<HashSet<&'b [u8]>, LedgerError> {
    let mut known = HashSet::new();
    // Most lines have another length than all that are wanted, and are not looked at.
    let lengths: FxHashSet<usize> = wanted.iter().map(|line| line.len()).collect();
    // Mapped, because copying the bytes took as long as looking at them.
    let source = Source::open(file.file().path(), Io::default())?.unmap_if_longer_than(MAP_MAX_BYTES);
    let mut buffer = Vec::new();
    for chunk in chunks(&source, 0..source.len_bytes(), CHUNK_BYTES) {
        for (_, line) in scan::lines(0, source.bytes(chunk?, &mut buffer)?) {
            if lengths.contains(&line.len()) {
                known.extend(wanted.get(line));
            }
        }
    }
    source.check_len()?;
    Ok(known)
}

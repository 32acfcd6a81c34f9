//! The files of one book's directory: their names, and reading frames by position.
//!
//! Reads only. Guarantees: a reader never reads past its last event, and never loads a segment: it
//! reads pieces of [`READ_BYTES`].

use std::path::{Path, PathBuf};

use talea_core::events::LedgerEvent;
use talea_core::store::Sequenced;
use talea_core::types::Seq;

use super::error::BookError;
use super::frame::{self, HEADER_BYTES, Split};
use super::state::FramePos;
use crate::disk;

/// Bytes of a segment that are read at a time for a range of events.
const READ_BYTES: usize = 1 << 18;

/// Bytes that are read for a single event; most events are shorter.
const READ_ONE_BYTES: usize = 1 << 10;

/// A file with a higher number is ignored, because no store writes so many runs and the number of the next run must exceed all
/// others.
const RUN_NUMBER_MAX: u64 = u64::MAX / 2;

/// `segment-<first seq, 20 digits>.log`
pub(super) fn segment_path(directory: &Path, base: Seq) -> PathBuf {
    directory.join(format!("segment-{base:020}.log"))
}

/// `snapshot-<last seq, 20 digits>.snap`
pub(super) fn snapshot_path(directory: &Path, last: Seq) -> PathBuf {
    directory.join(format!("snapshot-{last:020}.snap"))
}

/// `idem-<number, 6 digits>.run`
pub(super) fn run_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("idem-{number:06}.run"))
}

/// The files in a book's directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Segments by first number, ascending. Paths as found: other programs may pad numbers differently.
    pub segments: Vec<(Seq, PathBuf)>,
    /// Snapshots by last number, newest first.
    pub snapshots: Vec<(Seq, PathBuf)>,
    /// Idempotency runs by number, ascending.
    pub runs: Vec<(u64, PathBuf)>,
    /// `*.tmp`, left by an interrupted program.
    pub leftovers: Vec<PathBuf>,
    /// Copies that repairs kept: `segment-….log.torn[.N]` and `snapshot-….snap.stale[.N]`.
    pub set_aside: Vec<PathBuf>,
}

/// Lists a book's directory.
pub(super) fn list(directory: &Path) -> Result<Listing, BookError> {
    let mut listing = Listing::default();
    for path in disk::list(directory)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(BookError::NotText { path });
        };
        if let Some(base) = number(name, "segment-", ".log") {
            listing.segments.push((base, path));
        } else if let Some(last) = number(name, "snapshot-", ".snap") {
            listing.snapshots.push((last, path));
        } else if let Some(number) = number(name, "idem-", ".run").filter(|number| *number <= RUN_NUMBER_MAX)
        {
            listing.runs.push((number, path));
        } else if name.ends_with(".tmp") {
            listing.leftovers.push(path);
        } else if is_set_aside(name) {
            listing.set_aside.push(path);
        }
    }
    listing.segments.sort();
    listing.snapshots.sort();
    listing.snapshots.reverse();
    listing.runs.sort();
    Ok(listing)
}

fn is_set_aside(name: &str) -> bool {
    let is_copy_of = |prefix: &str, suffix: &str| {
        name.strip_prefix(prefix).and_then(|rest| rest.split_once(suffix)).is_some_and(|(_, number)| {
            number.is_empty()
                || number
                    .strip_prefix('.')
                    .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    is_copy_of("segment-", ".log.torn") || is_copy_of("snapshot-", ".snap.stale")
}

fn number<N: std::str::FromStr>(name: &str, prefix: &str, suffix: &str) -> Option<N> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Reads the event `seq` at a position.
pub(super) fn read_event(
    directory: &Path,
    position: FramePos,
    seq: Seq,
) -> Result<Sequenced<LedgerEvent>, BookError> {
    let path = segment_path(directory, position.base);
    let file = disk::File::open_read(&path)?;
    let mut bytes = vec![0; READ_ONE_BYTES];
    let filled = file.read_at(&mut bytes, position.offset)?;
    bytes.truncate(filled);
    if let Some(len) = bytes.first_chunk::<4>() {
        let frame_bytes = HEADER_BYTES + u32::from_le_bytes(*len) as usize;
        if frame_bytes > bytes.len() {
            // A length that is damaged can be anything up to 4 GiB; the file bounds what is allocated.
            let left = file.len_bytes()?.saturating_sub(position.offset);
            disk::make_room(&mut bytes, frame_bytes.min(left as usize));
            let filled = file.read_at(&mut bytes, position.offset)?;
            bytes.truncate(filled);
        }
    }
    take(&bytes, &path, position.offset, seq).map(|(event, _)| event)
}

/// Decodes event `seq` at the start of `bytes`, which are at `offset` of the file; returns the event and the length of its frame.
fn take(
    bytes: &[u8],
    path: &Path,
    offset: u64,
    seq: Seq,
) -> Result<(Sequenced<LedgerEvent>, usize), BookError> {
    let damaged = |reason: String| BookError::Frame { path: path.to_owned(), offset, reason };
    let Split::Whole { crc, payload } = frame::split(bytes) else {
        return Err(damaged("it is cut short".to_owned()));
    };
    frame::check(crc, payload).map_err(damaged)?;
    let event = frame::decode(payload).map_err(damaged)?;
    if event.seq != seq {
        return Err(BookError::Gap { path: path.to_owned(), offset, expected: seq, found: event.seq });
    }
    Ok((event, HEADER_BYTES + payload.len()))
}

/// Reads events one after the other.
#[derive(Debug)]
pub(super) struct EventReader {
    directory: PathBuf,
    /// First numbers of the segments after the one that is being read, the last one first.
    later: Vec<Seq>,
    file: disk::File,
    /// Bytes that were read ahead, and where in the file they begin.
    bytes: Vec<u8>,
    bytes_offset: u64,
    at: usize,
    next: Seq,
    last: Seq,
    /// Bytes of the frames that were returned.
    pub(super) read_bytes: u64,
}

impl EventReader {
    /// Reads the events `first` to `last`; `position` is the first one's, `bases` are the segments'.
    pub(super) fn new(
        directory: &Path,
        bases: &[Seq],
        position: FramePos,
        first: Seq,
        last: Seq,
    ) -> Result<Self, BookError> {
        let later = bases.iter().rev().take_while(|base| **base > position.base).copied().collect();
        Ok(Self {
            directory: directory.to_owned(),
            later,
            file: disk::File::open_read(&segment_path(directory, position.base))?,
            bytes: Vec::new(),
            bytes_offset: position.offset,
            at: 0,
            next: first,
            last,
            read_bytes: 0,
        })
    }

    /// Returns the next event, or `None` after the last.
    pub(super) fn next_event(&mut self) -> Result<Option<Sequenced<LedgerEvent>>, BookError> {
        if self.next > self.last {
            return Ok(None);
        }
        if self.later.last() == Some(&self.next) {
            self.later.pop();
            self.file = disk::File::open_read(&segment_path(&self.directory, self.next))?;
            self.bytes.clear();
            self.bytes_offset = 0;
            self.at = 0;
        }
        let wanted = match self.bytes.get(self.at..).and_then(|bytes| bytes.first_chunk::<4>()) {
            Some(len) => HEADER_BYTES + u32::from_le_bytes(*len) as usize,
            None => HEADER_BYTES,
        };
        if self.bytes.len() - self.at < wanted.max(HEADER_BYTES) {
            self.fill(wanted)?;
            if let Some(len) = self.bytes.first_chunk::<4>() {
                let wanted = HEADER_BYTES + u32::from_le_bytes(*len) as usize;
                if self.bytes.len() < wanted {
                    self.fill(wanted)?;
                }
            }
        }
        let offset = self.bytes_offset + self.at as u64;
        let (event, len) = take(&self.bytes[self.at..], self.file.path(), offset, self.next)?;
        self.at += len;
        self.read_bytes += len as u64;
        self.next += 1;
        Ok(Some(event))
    }

    /// Reads at least `wanted` bytes from the current position on, if the file has them.
    fn fill(&mut self, wanted: usize) -> Result<(), BookError> {
        self.bytes_offset += self.at as u64;
        self.at = 0;
        let left = self.file.len_bytes()?.saturating_sub(self.bytes_offset);
        disk::make_room(&mut self.bytes, (wanted.max(READ_BYTES) as u64).min(left) as usize);
        let filled = self.file.read_at(&mut self.bytes, self.bytes_offset)?;
        self.bytes.truncate(filled);
        Ok(())
    }
}

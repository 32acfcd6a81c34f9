//! What can go wrong with a journal, and what to do about it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::format::VERSION;
use crate::disk;
use crate::scan::ScanError;
use crate::store::Finding;

/// What a function of the journal returns.
pub type Result<T, E = JournalError> = std::result::Result<T, E>;

/// A journal could not be opened, written, read or cleaned up.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] Arc<disk::Error>),
    /// Bytes that were to be cut off or set aside could not be saved first. They are where they were.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    /// A segment could not be scanned.
    #[error(transparent)]
    Scan(#[from] Arc<ScanError>),
    /// Another writer has the journal open.
    #[error(
        "another process writes to this journal (it holds {}); wait until it is done, then try again",
        path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// An earlier operation failed, and the writer does not know what is on the disk. Opening the journal again finds out.
    #[error("the journal stopped taking records when this failed: {first}; close it and open it again")]
    Poisoned {
        /// The failure.
        #[source]
        first: Arc<disk::Error>,
    },
    /// The journal is damaged in a way that no torn write explains. Nothing was changed.
    #[error("{}", refusal(directory, damages))]
    Corrupt {
        /// The journal's directory.
        directory: PathBuf,
        /// Everything that was found, in the order of offsets; at least one.
        damages: Vec<Damage>,
    },
    /// A file was written by a version of the format that this program does not know.
    #[error(
        "{} has format version {version} and flags {flags:#x}, or a header of another size; this program knows version {} \
         without flags and with a header of 32 bytes: use the program that wrote it",
        path.display(),
        VERSION
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
        /// Its flags.
        flags: u16,
    },
    /// What has the name of a segment is no regular file and no symbolic link to one.
    #[error("{} is not a regular file; put the segment in its place, or move it away", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file whose name is not that of a segment of its journal.
    #[error("{} is not a segment of the journal in its directory; name a file such as {:016x}.wal", path.display(), 0)]
    NotASegment {
        /// The path.
        path: PathBuf,
    },
    /// The journal has no offsets left, because a segment with a name near the largest offset is in its directory.
    #[error(
        "the journal in {} has no offsets left; let its consumers read it to the end, then begin another",
        directory.display()
    )]
    Full {
        /// The journal's directory.
        directory: PathBuf,
    },
    /// A payload is larger than the writer accepts.
    #[error(
        "a payload of {len_bytes} bytes is over the limit of {limit_bytes}; split it, or raise the limit"
    )]
    PayloadTooLarge {
        /// The payload's length.
        len_bytes: usize,
        /// The largest payload accepted.
        limit_bytes: u32,
    },
    /// An offset to read from lies inside a record.
    #[error(
        "{}: no record starts at offset {offset}; the record around it starts at {start}: read from there",
        directory.display()
    )]
    NotARecord {
        /// The journal's directory.
        directory: PathBuf,
        /// The offset asked for.
        offset: u64,
        /// Where the record around it starts.
        start: u64,
    },
    /// An offset lies after the end of the journal.
    #[error(
        "{}: offset {offset} is after the end of the journal, which is {end}: the next record starts there",
        directory.display()
    )]
    BeyondEnd {
        /// The journal's directory.
        directory: PathBuf,
        /// The offset asked for.
        offset: u64,
        /// Where the last complete record ends.
        end: u64,
    },
    /// An offset lies before the first record that cleanup left.
    #[error(
        "{}: offset {offset} was deleted by cleanup; read from {start} on, where the journal now starts",
        directory.display()
    )]
    Deleted {
        /// The journal's directory.
        directory: PathBuf,
        /// The offset asked for.
        offset: u64,
        /// Where the journal now starts.
        start: u64,
    },
    /// A name that cannot be a cursor's.
    #[error(
        "{name:?} cannot name a cursor: it must start with a letter or digit, go on with letters, digits, '.', '_' or \
         '-', have at most 128 characters and not end in .tmp"
    )]
    CursorName {
        /// The name.
        name: String,
    },
    /// A cursor file, SKIPS, IDENTITY or SYNCED fails its checksum or has the wrong shape.
    #[error("{} is damaged ({reason}); {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
        /// What to do.
        remedy: String,
    },
    /// A thread that the journal needs could not be started.
    #[error("cannot start a thread of the journal: {source}; raise the limit on threads")]
    Threads {
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The group-commit buffer was closed before the record was queued.
    #[error("the journal's group-commit buffer is closed; open the journal again")]
    Closed,
}

impl From<disk::Error> for JournalError {
    fn from(error: disk::Error) -> Self {
        Self::Disk(Arc::new(error))
    }
}

impl From<ScanError> for JournalError {
    fn from(error: ScanError) -> Self {
        Self::Scan(Arc::new(error))
    }
}

/// Bytes could not be saved under `quarantine/`, so the file that has them was not changed.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "bytes {} to {} of {} are to be saved before they are removed, and could not be; the file was not changed: {source}",
    range.start, range.end, file.display()
)]
pub struct QuarantineError {
    /// The file that has the bytes.
    pub file: PathBuf,
    /// The bytes, by their position in the file.
    pub range: Range<u64>,
    /// What failed.
    pub source: Arc<disk::Error>,
}

/// A range of a journal that cannot be read. Prints as one line that names file, byte, offset and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment file; of a missing one, the path it would have.
    pub segment: PathBuf,
    /// Byte offset in that file.
    pub position: u64,
    /// The global offsets that cannot be read; empty for a header.
    pub offsets: Range<u64>,
    /// What is wrong.
    pub reason: DamageReason,
}

/// What is wrong with a range of a journal. Prints as a clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageReason {
    /// A record reaches beyond the end of its segment.
    Partial,
    /// A record's CRC32C does not fit.
    Checksum,
    /// A record's CRC32C fits and its BLAKE3 does not.
    Hash,
    /// A segment's header is too short, has another magic, or fails its checksum.
    Header,
    /// A segment's header is whole and names this base, not the one in the file's name.
    Base(u64),
    /// No file has these records.
    Missing,
    /// A segment has bytes that the next one claims.
    Overlap,
    /// The journal ends before the offset up to which it was synced or consumed.
    LostEnd,
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partial => f.write_str("a record reaches beyond the end of the segment"),
            Self::Checksum => f.write_str("the CRC32C of a record does not fit"),
            Self::Hash => f.write_str("the BLAKE3 of a record does not fit"),
            Self::Header => f.write_str("the header is too short, has another magic, or fails its checksum"),
            Self::Base(found) => write!(f, "the header names base {found}: files were renamed or swapped"),
            Self::Missing => f.write_str("no file has these records"),
            Self::Overlap => f.write_str("the segment reaches into the next one"),
            Self::LostEnd => f.write_str("these records were synced or consumed, and are gone"),
        }
    }
}

impl DamageReason {
    /// Returns the name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Partial => "partial",
            Self::Checksum => "checksum",
            Self::Hash => "hash",
            Self::Header => "header",
            Self::Base(_) => "base",
            Self::Missing => "missing",
            Self::Overlap => "overlap",
            Self::LostEnd => "lostEnd",
        }
    }
}

impl Serialize for DamageReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What a check found wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JournalProblem {
    /// The offsets that cannot be read, from the first to after the last; two equal ones for a header.
    pub offsets: [u64; 2],
    /// What is wrong.
    #[serde(rename = "verdict")]
    pub kind: DamageReason,
}

impl From<&Damage> for Finding<JournalProblem> {
    fn from(damage: &Damage) -> Self {
        let Damage { segment, position, offsets, reason } = damage;
        let problem = JournalProblem { offsets: [offsets.start, offsets.end], kind: *reason };
        Self { file: segment.clone(), offset: Some(*position), problem, reason: reason.to_string() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, position, offsets, reason } = self;
        write!(
            f,
            "{} at byte {position} (offsets {} to {}): {reason}",
            segment.display(),
            offsets.start,
            offsets.end
        )
    }
}

fn refusal(directory: &Path, damages: &[Damage]) -> String {
    let more = match damages.len() {
        0 | 1 => String::new(),
        len => format!(" (and {} more)", len - 1),
    };
    format!(
        "{}{more}; nothing was changed: restore the file from a copy, or let `burn journal recover {} --skip-corrupt` \
         set the damaged bytes aside",
        damages.first().map(Damage::to_string).unwrap_or_default(),
        disk::in_shell(directory)
    )
}

//! The failures of a session store, and the class that each belongs to.
//!
//! Guarantees: every message names the file, the byte offset where there is one, the reason, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::format::MigrationVerification;
use crate::disk;
use crate::scan::ScanError;

/// A place in a file of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinePlace {
    /// The file.
    pub path: PathBuf,
    /// Number of the line, from 1.
    pub line: u64,
    /// First byte of the line, from the start of the file.
    pub offset: u64,
}

impl LinePlace {
    /// The place of a file that is one document: its first line.
    pub(super) fn of_document(path: &Path) -> Self {
        Self { path: path.to_owned(), line: 1, offset: 0 }
    }
}

impl fmt::Display for LinePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} (line {})", self.path.display(), self.offset, self.line)
    }
}

/// The byte range of a frame according to its index row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramePlace {
    /// The segment file.
    pub path: PathBuf,
    /// The entry.
    pub entry_seq: u64,
    /// First byte of the line in the segment.
    pub offset: u64,
    /// Length of the line, LF included.
    pub len_bytes: u64,
}

impl fmt::Display for FramePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, entry_seq, offset, len_bytes } = self;
        write!(f, "{} at byte {offset} ({len_bytes} bytes): entry {entry_seq}", path.display())
    }
}

const RESTORE: &str = "restore the segment from a copy; nothing was changed here";
const REINDEX: &str = "`burn session reindex` builds the index again from the segments";

/// Returns what to do about a file that cannot be read. It depends on the directory of the file.
fn remedy(path: &Path) -> &'static str {
    let in_directory = |name| path.parent().is_some_and(|parent| parent.ends_with(name));
    if in_directory("index") {
        REINDEX
    } else if in_directory("segments") {
        RESTORE
    } else if in_directory("checkpoints") {
        "restore the checkpoint from a copy, or move it away to do without it; entries do not depend on it"
    } else if in_directory("migrations") {
        "restore the ledger of rollbacks from a copy, or move it away to begin a new one; entries do not depend on it"
    } else {
        "restore it from a copy, or move it away; `burn session manifest --write` writes a new manifest"
    }
}

/// A failure of a session store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// An argument that no store accepts.
    #[error("{reason}")]
    InvalidArgument {
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// A segment or the index could not be scanned.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Another handle holds the lock of this store.
    #[error("{} is locked: another process writes to this store; try again when it has finished", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file changed under a write handle.
    #[error("{} changed under the handle: {reason}; open the store again", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// How the file differs.
        reason: String,
    },
    /// The handle no longer writes, because after an earlier failure it does not know what is on the disk.
    #[error("the handle of {} no longer writes since an earlier failure ({reason}); open the store again", root.display())]
    Poisoned {
        /// The store.
        root: PathBuf,
        /// The earlier failure.
        reason: String,
    },
    /// A line or a file is not the expected JSON document.
    #[error("{place}: {reason}; {}", remedy(&place.path))]
    Json {
        /// Where.
        place: LinePlace,
        /// The parser's message.
        reason: String,
    },
    /// An index line is not UTF-8 or longer than 100 MiB.
    #[error("{place}: the line {reason}; {REINDEX}")]
    IndexLineUnreadable {
        /// Where.
        place: LinePlace,
        /// `is not UTF-8` or `is longer than …`.
        reason: String,
    },
    /// An index row has a schema or state that this version does not know.
    #[error("{place}: unknown schema or state {found:?}; {REINDEX}")]
    UnsupportedRow {
        /// Where.
        place: LinePlace,
        /// The schema or state found.
        found: String,
    },
    /// A document has a schema that this version does not know.
    #[error(
        "{place}: unknown schema {found:?}: a newer program wrote it, or it was altered; read it with that program, or restore \
         the file from a copy"
    )]
    UnsupportedSchema {
        /// Where.
        place: LinePlace,
        /// The schema or state found.
        found: String,
    },
    /// The entry sequence of an index row is not above that of the row before.
    #[error("{}: row {row} has entry sequence {found} after {previous}; {REINDEX}", path.display())]
    EntrySeqNotIncreasing {
        /// The index.
        path: PathBuf,
        /// Number of the row, from 1.
        row: u64,
        /// The sequence of the row before, 0 for the first row.
        previous: u64,
        /// The sequence found.
        found: u64,
    },
    /// The range of an index row ends after the end of its segment.
    #[error("{place}: the segment has only {segment_bytes} bytes; {REINDEX}")]
    IndexOutOfBounds {
        /// Where.
        place: FramePlace,
        /// Length of the segment in bytes.
        segment_bytes: u64,
    },
    /// Offset plus length of an index row do not fit into 64 bits.
    #[error("{place}: the range overflows; {REINDEX}")]
    ByteRangeOverflow {
        /// Where.
        place: FramePlace,
    },
    /// The CRC-32C of a frame's bytes differs from that of its index row.
    #[error(
        "{place}: CRC-32C is {found:08X}, the index has {expected}; `burn session reindex` tells whether payloads are sound"
    )]
    ChecksumMismatch {
        /// Where.
        place: FramePlace,
        /// The text in the index row.
        expected: String,
        /// The CRC of the bytes.
        found: u32,
    },
    /// A frame and its index row differ.
    #[error("{place}: frame and index row differ in {field}; {REINDEX}")]
    IndexFrameMismatch {
        /// Where.
        place: FramePlace,
        /// The first field that differs.
        field: &'static str,
    },
    /// The payload's hash or length differs from the header of its frame.
    #[error("{place}: {reason}; {RESTORE}")]
    PayloadIntegrityMismatch {
        /// Where.
        place: FramePlace,
        /// Whether hash or length differs, with both values.
        reason: String,
    },
    /// The segment file of an index row does not exist.
    #[error(
        "{} is missing, the index has entry {entry_seq} in it; put the file back, or move {} away to give its entries up",
        path.display(), index.display()
    )]
    IndexMissingFrame {
        /// The segment file.
        path: PathBuf,
        /// The first entry that the index has in this segment.
        entry_seq: u64,
        /// The index.
        index: PathBuf,
    },
    /// The segment file of the last index row does not exist.
    #[error(
        "{} is missing, the index has the last entry, {entry_seq}, in it; put the file back, or move {} away to give its \
         entries up",
        path.display(), index.display()
    )]
    ActiveSegmentMissing {
        /// The segment file.
        path: PathBuf,
        /// The last entry.
        entry_seq: u64,
        /// The index.
        index: PathBuf,
    },
    /// A segment that the index names cannot be opened.
    #[error("cannot open {}, which the index names: {reason}; check its owner and its mode, or {RESTORE}", path.display())]
    SegmentUnreadable {
        /// The segment file.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// A frame is longer than the longest line that can be read back.
    #[error(
        "{place}: longer than the {limit_bytes} bytes that can be read back; split the payload over several entries"
    )]
    FrameTooLarge {
        /// Where.
        place: FramePlace,
        /// The longest line, in bytes.
        limit_bytes: u64,
    },
    /// Two entries have one id.
    #[error(
        "entry id {entry_id:?} is used by entry {first_seq} and again by entry {second_seq}; ids are unique in a store: \
         append the entry under another id, or restore the store from a copy"
    )]
    DuplicateEntryId {
        /// The id.
        entry_id: String,
        /// The entry that has it.
        first_seq: u64,
        /// The entry that repeats it.
        second_seq: u64,
    },
    /// An entry's parent does not exist.
    #[error(
        "entry {entry_id:?} names the parent {parent_id:?}, which the store does not have; append the parent first"
    )]
    MissingParent {
        /// The child.
        entry_id: String,
        /// The id of the parent.
        parent_id: String,
    },
    /// An entry is its own ancestor.
    #[error(
        "entry {entry_id:?} is its own ancestor; parents must lead to a root: name one that is there already"
    )]
    CyclicParent {
        /// The id of an entry on the cycle.
        entry_id: String,
    },
    /// A terminated line of a segment is not a frame.
    #[error("{place}: not a frame: {reason}; {RESTORE}")]
    SegmentFrameCorrupt {
        /// Where.
        place: LinePlace,
        /// The parser's message.
        reason: String,
    },
    /// A terminated line of a segment is not UTF-8 or longer than 100 MiB.
    #[error("{place}: the line {reason}; {RESTORE}")]
    SegmentLineUnreadable {
        /// Where.
        place: LinePlace,
        /// `is not UTF-8` or `is longer than …`.
        reason: String,
    },
    /// Recovery would drop entries, and `SessionOptions::loss` refuses the loss.
    #[error(
        "{} at byte {offset}: {reason}; going on would drop {count} {} from the store: restore the segment from a copy, or drop \
         them with `burn session reindex`, which keeps their bytes beside the segments; nothing was changed here",
        path.display(), if *count == 1 { "entry" } else { "entries" }
    )]
    EntriesWouldBeLost {
        /// The segment that would be cut, or the index when no segment would be cut.
        path: PathBuf,
        /// The first byte that would be cut.
        offset: u64,
        /// The number of entries of the index that would be lost; of sound frames when the index cannot be read.
        count: u64,
        /// What is wrong at this byte.
        reason: String,
    },
    /// A payload is not a session entry, or its id, parent or type differs from its frame.
    #[error(
        "the payload of entry {entry_seq} ({entry_id:?}) is not that session entry: {reason}; read it as plain JSON"
    )]
    NotASessionEntry {
        /// The entry.
        entry_seq: u64,
        /// Its id.
        entry_id: String,
        /// What is missing or differs.
        reason: String,
    },
    /// The checkpoint does not exist.
    #[error("{} does not exist: no such checkpoint; `burn session checkpoint DIR --list` names those there are", path.display())]
    CheckpointNotFound {
        /// The file that it would have.
        path: PathBuf,
    },
    /// A checkpoint contradicts itself, its name, or the other checkpoints.
    #[error("{}: {reason}", path.display())]
    CheckpointInvalid {
        /// The file.
        path: PathBuf,
        /// The contradiction, and what to do.
        reason: String,
    },
    /// The entries up to a checkpoint are not the entries that it certifies. Nothing was rolled back.
    #[error(
        "the entries up to checkpoint {checkpoint_seq} are not those it certifies ({verification}); nothing was rolled back, \
         the attempt is in the migration ledger"
    )]
    RollbackVerificationFailed {
        /// The number of the checkpoint.
        checkpoint_seq: u64,
        /// The result of each comparison.
        verification: MigrationVerification,
    },
    /// A manifest that cannot be parsed or serialised.
    #[error("{}: {reason}; `burn session manifest --write` writes a new one when the file is moved away", path.display())]
    ManifestUnreadable {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// The hash of a manifest differs from that of its content.
    #[error("{}: manifestHash is {expected}, its content hashes to {found}: it was altered; {}", path.display(), remedy(path))]
    ManifestHashMismatch {
        /// The file.
        path: PathBuf,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the content.
        found: String,
    },
    /// The last line of the migration ledger is torn. Nothing is appended after it.
    #[error(
        "{place}: the last line is torn; `burn session reindex --repair-ledger` saves it aside and cuts it"
    )]
    LedgerTorn {
        /// Where.
        place: LinePlace,
    },
    /// A sequence has reached its highest number.
    #[error("{} has no next {what} number; go on in a new store", root.display())]
    SequenceExhausted {
        /// The store.
        root: PathBuf,
        /// `entry`, `frame` or `segment`.
        what: &'static str,
    },
}

/// The class of a [`SessionError`]. Prints as its name, `checksum_mismatch` for instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // The variants are the names of section "Errors" in docs/session-store.md.
pub enum SessionErrorClass {
    InvalidArgument,
    Json,
    IoUnexpectedEof,
    IoInvalidData,
    IoNotFound,
    IoOther,
    EntrySeqNotIncreasing,
    IndexOutOfBounds,
    ByteRangeOverflow,
    ChecksumMismatch,
    IndexFrameMismatch,
    PayloadIntegrityMismatch,
    IndexMissingFrame,
    ActiveSegmentMissing,
    SegmentUnreadable,
    FrameTooLarge,
    DuplicateEntryId,
    MissingParent,
    CyclicParent,
    SegmentFrameCorrupt,
    SegmentLineUnreadable,
    EntriesWouldBeLost,
    CheckpointNotFound,
    CheckpointInvalid,
    RollbackVerificationFailed,
    UnsupportedSchema,
    SessionError,
    ManifestHashMismatch,
    LedgerTorn,
    Locked,
    StaleHandle,
    PoisonedHandle,
    SequenceExhausted,
}

impl SessionErrorClass {
    /// Returns the name: lower case, words joined by `_`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::Json => "json",
            Self::IoUnexpectedEof => "io_unexpected_eof",
            Self::IoInvalidData => "io_invalid_data",
            Self::IoNotFound => "io_not_found",
            Self::IoOther => "io_other",
            Self::EntrySeqNotIncreasing => "entry_seq_not_increasing",
            Self::IndexOutOfBounds => "index_out_of_bounds",
            Self::ByteRangeOverflow => "byte_range_overflow",
            Self::ChecksumMismatch => "checksum_mismatch",
            Self::IndexFrameMismatch => "index_frame_mismatch",
            Self::PayloadIntegrityMismatch => "payload_integrity_mismatch",
            Self::IndexMissingFrame => "index_missing_frame",
            Self::ActiveSegmentMissing => "active_segment_missing",
            Self::SegmentUnreadable => "segment_unreadable",
            Self::FrameTooLarge => "frame_too_large",
            Self::DuplicateEntryId => "duplicate_entry_id",
            Self::MissingParent => "missing_parent",
            Self::CyclicParent => "cyclic_parent",
            Self::SegmentFrameCorrupt => "segment_frame_corrupt",
            Self::SegmentLineUnreadable => "segment_line_unreadable",
            Self::EntriesWouldBeLost => "entries_would_be_lost",
            Self::CheckpointNotFound => "checkpoint_not_found",
            Self::CheckpointInvalid => "checkpoint_invalid",
            Self::RollbackVerificationFailed => "rollback_verification_failed",
            Self::UnsupportedSchema => "unsupported_schema",
            Self::SessionError => "session_error",
            Self::ManifestHashMismatch => "manifest_hash_mismatch",
            Self::LedgerTorn => "ledger_torn",
            Self::Locked => "locked",
            Self::StaleHandle => "stale_handle",
            Self::PoisonedHandle => "poisoned_handle",
            Self::SequenceExhausted => "sequence_exhausted",
        }
    }
}

impl serde::Serialize for SessionErrorClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for SessionErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn class_of_io(kind: io::ErrorKind) -> SessionErrorClass {
    match kind {
        io::ErrorKind::UnexpectedEof => SessionErrorClass::IoUnexpectedEof,
        io::ErrorKind::InvalidData => SessionErrorClass::IoInvalidData,
        io::ErrorKind::NotFound => SessionErrorClass::IoNotFound,
        _ => SessionErrorClass::IoOther,
    }
}

impl SessionError {
    /// The failure of reading or writing a file that is one JSON document.
    pub(super) fn of_document(path: &Path, error: &serde_json::Error) -> Self {
        Self::Json { place: LinePlace::of_document(path), reason: error.to_string() }
    }

    /// Returns the class of the failure.
    pub fn class(&self) -> SessionErrorClass {
        match self {
            Self::InvalidArgument { .. } => SessionErrorClass::InvalidArgument,
            Self::NotASessionEntry { .. } => SessionErrorClass::SessionError,
            Self::Disk(error) => class_of_io(error.kind()),
            Self::Scan(error) => match error {
                ScanError::Open { source, .. }
                | ScanError::Map { source, .. }
                | ScanError::Read { source, .. } => class_of_io(source.kind()),
                ScanError::Truncated { .. } => SessionErrorClass::IoUnexpectedEof,
                _ => SessionErrorClass::IoOther,
            },
            Self::Locked { .. } => SessionErrorClass::Locked,
            Self::Stale { .. } => SessionErrorClass::StaleHandle,
            Self::Poisoned { .. } => SessionErrorClass::PoisonedHandle,
            Self::Json { .. } => SessionErrorClass::Json,
            Self::IndexLineUnreadable { .. } => SessionErrorClass::IoInvalidData,
            Self::UnsupportedRow { .. } | Self::UnsupportedSchema { .. } => {
                SessionErrorClass::UnsupportedSchema
            }
            Self::EntrySeqNotIncreasing { .. } => SessionErrorClass::EntrySeqNotIncreasing,
            Self::IndexOutOfBounds { .. } => SessionErrorClass::IndexOutOfBounds,
            Self::ByteRangeOverflow { .. } => SessionErrorClass::ByteRangeOverflow,
            Self::ChecksumMismatch { .. } => SessionErrorClass::ChecksumMismatch,
            Self::IndexFrameMismatch { .. } => SessionErrorClass::IndexFrameMismatch,
            Self::PayloadIntegrityMismatch { .. } => SessionErrorClass::PayloadIntegrityMismatch,
            Self::IndexMissingFrame { .. } => SessionErrorClass::IndexMissingFrame,
            Self::ActiveSegmentMissing { .. } => SessionErrorClass::ActiveSegmentMissing,
            Self::SegmentUnreadable { .. } => SessionErrorClass::SegmentUnreadable,
            Self::FrameTooLarge { .. } => SessionErrorClass::FrameTooLarge,
            Self::DuplicateEntryId { .. } => SessionErrorClass::DuplicateEntryId,
            Self::MissingParent { .. } => SessionErrorClass::MissingParent,
            Self::CyclicParent { .. } => SessionErrorClass::CyclicParent,
            Self::SegmentFrameCorrupt { .. } => SessionErrorClass::SegmentFrameCorrupt,
            Self::SegmentLineUnreadable { .. } => SessionErrorClass::SegmentLineUnreadable,
            Self::EntriesWouldBeLost { .. } => SessionErrorClass::EntriesWouldBeLost,
            Self::CheckpointNotFound { .. } => SessionErrorClass::CheckpointNotFound,
            Self::CheckpointInvalid { .. } => SessionErrorClass::CheckpointInvalid,
            Self::RollbackVerificationFailed { .. } => SessionErrorClass::RollbackVerificationFailed,
            Self::ManifestUnreadable { .. } => SessionErrorClass::SessionError,
            Self::ManifestHashMismatch { .. } => SessionErrorClass::ManifestHashMismatch,
            Self::LedgerTorn { .. } => SessionErrorClass::LedgerTorn,
            Self::SequenceExhausted { .. } => SessionErrorClass::SequenceExhausted,
        }
    }

    /// Whether an opening writer builds the index again from the segments after this failure.
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Self::UnsupportedRow { .. })
            || matches!(
                self.class(),
                SessionErrorClass::Json
                    | SessionErrorClass::IoUnexpectedEof
                    | SessionErrorClass::IoInvalidData
                    | SessionErrorClass::EntrySeqNotIncreasing
                    | SessionErrorClass::IndexOutOfBounds
                    | SessionErrorClass::ByteRangeOverflow
                    | SessionErrorClass::ChecksumMismatch
                    | SessionErrorClass::IndexFrameMismatch
                    | SessionErrorClass::PayloadIntegrityMismatch
                    | SessionErrorClass::IndexMissingFrame
                    | SessionErrorClass::ActiveSegmentMissing
            )
    }
}

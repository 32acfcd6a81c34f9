//! The payloads of the ingestor's records: a type byte, seven zeros, and an rkyv archive.
//!
//! Touches nothing. Guarantees: what is serialized here deserializes to the same; bytes from elsewhere are validated as a
//! whole (bytecheck) before any of them is used.

use rkyv::rancor;
use rkyv::util::AlignedVec;

/// Length in bytes of type and padding, after which the archive is 8-byte aligned when the payload is.
const PREFIX_LEN: usize = 8;

/// The types of records, by the byte that begins a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum RecordType {
    /// [`Assertion`].
    Assertion = 0,
    /// [`Vote`].
    Vote = 1,
    /// [`Epoch`].
    Epoch = 2,
    /// [`QueuedLine`].
    LedgerLine = 3,
}

impl RecordType {
    /// The type of a payload, by its first byte. Nothing else of the payload is validated.
    ///
    /// # Errors
    /// [`PayloadError::TooShort`], [`PayloadError::UnknownType`].
    pub fn of(payload: &[u8]) -> Result<Self, PayloadError> {
        if payload.len() < PREFIX_LEN {
            return Err(PayloadError::TooShort { len_bytes: payload.len() });
        }
        match payload[0] {
            0 => Ok(Self::Assertion),
            1 => Ok(Self::Vote),
            2 => Ok(Self::Epoch),
            3 => Ok(Self::LedgerLine),
            type_byte => Err(PayloadError::UnknownType { type_byte }),
        }
    }
}

/// A statement about a subject.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Assertion {
    /// The subject.
    pub subject: String,
    /// Which of the subject's properties.
    pub predicate: String,
    /// The property's value.
    pub object: String,
    /// The source of the statement.
    pub source: String,
    /// How sure the source is, usually 0 to 1.
    pub confidence: f64,
    /// Time of the statement, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// An agent's weight for or against an assertion.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Vote {
    /// BLAKE3 of the assertion's payload.
    pub assertion: [u8; 32],
    /// The agent.
    pub agent: String,
    /// Weight of the vote, negative when it is against the assertion.
    pub weight: f64,
    /// When, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// A span of time with a name.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Epoch {
    /// Its id.
    pub id: [u8; 32],
    /// Its name.
    pub name: String,
    /// First moment, in milliseconds since 1970.
    pub start_ms: i64,
    /// First moment after it, in milliseconds since 1970; absent while the epoch is open.
    pub end_ms: Option<i64>,
    /// The epoch that this one replaces.
    pub supersedes: Option<[u8; 32]>,
}

/// A line for `ledger.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct QueuedLine {
    /// The line, without its line end.
    pub line: String,
    /// Whether the line was queued in one batch with the line before it. The ledger compares turns of different batches by
    /// their fingerprints, and not turns of one batch.
    pub continues_batch: bool,
}

/// A payload that was deserialized.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Payload {
    /// [`RecordType::Assertion`].
    Assertion(Assertion),
    /// [`RecordType::Vote`].
    Vote(Vote),
    /// [`RecordType::Epoch`].
    Epoch(Epoch),
    /// [`RecordType::LedgerLine`].
    LedgerLine(QueuedLine),
}

/// A payload cannot be deserialized, or not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The payload is shorter than type and padding.
    #[error("the payload has {len_bytes} bytes; type and padding alone take {PREFIX_LEN}")]
    TooShort {
        /// Its length.
        len_bytes: usize,
    },
    /// The seven bytes after the type are not zero.
    #[error("the bytes after the type are not zero")]
    Padding,
    /// The type is unknown to this program.
    #[error("type {type_byte} is not known; this program knows 0 to 3")]
    UnknownType {
        /// The type.
        type_byte: u8,
    },
    /// The archive fails validation.
    #[error("the archive of type {type_byte} is not valid: {reason}")]
    Archive {
        /// The payload's type.
        type_byte: u8,
        /// What bytecheck found.
        reason: String,
    },
    /// A line for the ledger holds a line end.
    #[error("the line has a line end at byte {at}; queue each line as a record of its own")]
    LineEnd {
        /// Where.
        at: usize,
    },
}

/// Returns the payload of an assertion, whose BLAKE3 is its name in the store.
///
/// # Errors
/// [`PayloadError::Archive`] when it is too large for an archive (2 GiB).
pub fn serialize_assertion(assertion: &Assertion) -> Result<Vec<u8>, PayloadError> {
    framed(RecordType::Assertion, rkyv::to_bytes::<rancor::Error>(assertion))
}

/// Returns the payload of a vote.
///
/// # Errors
/// As [`serialize_assertion`].
pub fn serialize_vote(vote: &Vote) -> Result<Vec<u8>, PayloadError> {
    framed(RecordType::Vote, rkyv::to_bytes::<rancor::Error>(vote))
}

/// Returns the payload of an epoch.
///
/// # Errors
/// As [`serialize_assertion`].
pub fn serialize_epoch(epoch: &Epoch) -> Result<Vec<u8>, PayloadError> {
    framed(RecordType::Epoch, rkyv::to_bytes::<rancor::Error>(epoch))
}

/// Returns the payload of one line for `ledger.jsonl`.
///
/// # Errors
/// [`PayloadError::LineEnd`]; otherwise as [`serialize_assertion`].
pub fn serialize_ledger_line(line: &QueuedLine) -> Result<Vec<u8>, PayloadError> {
    refuse_line_end(line)?;
    framed(RecordType::LedgerLine, rkyv::to_bytes::<rancor::Error>(line))
}

fn refuse_line_end(line: &QueuedLine) -> Result<(), PayloadError> {
    line.line.find('\n').map_or(Ok(()), |at| Err(PayloadError::LineEnd { at }))
}

fn framed(
    record_type: RecordType,
    archive: Result<AlignedVec, rancor::Error>,
) -> Result<Vec<u8>, PayloadError> {
    let type_byte = record_type as u8;
    let archive = archive.map_err(|error| PayloadError::Archive { type_byte, reason: error.to_string() })?;
    let mut payload = Vec::with_capacity(PREFIX_LEN + archive.len());
    payload.push(type_byte);
    payload.resize(PREFIX_LEN, 0);
    payload.extend_from_slice(&archive);
    Ok(payload)
}

/// Validates and deserializes a payload, whatever its alignment.
///
/// # Errors
/// [`PayloadError`]; [`PayloadError::LineEnd`] for a line that would become two.
pub fn deserialize(payload: &[u8]) -> Result<Payload, PayloadError> {
    let record_type = RecordType::of(payload)?;
    let type_byte = record_type as u8;
    let (prefix, bytes) = payload.split_at(PREFIX_LEN);
    if prefix[1..] != [0; PREFIX_LEN - 1] {
        return Err(PayloadError::Padding);
    }
    let mut archive: AlignedVec = AlignedVec::with_capacity(bytes.len());
    archive.extend_from_slice(bytes);
    let invalid = |error: rancor::Error| PayloadError::Archive { type_byte, reason: error.to_string() };
    let decoded = match record_type {
        RecordType::Assertion => rkyv::from_bytes(&archive).map(Payload::Assertion),
        RecordType::Vote => rkyv::from_bytes(&archive).map(Payload::Vote),
        RecordType::Epoch => rkyv::from_bytes(&archive).map(Payload::Epoch),
        RecordType::LedgerLine => rkyv::from_bytes(&archive).map(Payload::LedgerLine),
    };
    let payload = decoded.map_err(invalid)?;
    if let Payload::LedgerLine(line) = &payload {
        refuse_line_end(line)?;
    }
    Ok(payload)
}

//! What a journal record can hold for the ingestor: one type byte, seven zeros, and an rkyv archive.
//!
//! Touches nothing. Promises: what is serialized here deserializes to the same; bytes from elsewhere are validated as a
//! whole (bytecheck) before any of them is believed.

use rkyv::rancor;
use rkyv::util::AlignedVec;

/// Length in bytes of what stands in front of the archive, so that it is 8-byte aligned when the payload is.
const PREFIX_LEN: usize = 8;

/// A statement about a subject.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Assertion {
    /// What it is about.
    pub subject: String,
    /// Which of the subject's properties.
    pub predicate: String,
    /// The property's value.
    pub object: String,
    /// Who says so.
    pub source: String,
    /// How sure the source is, usually 0 to 1.
    pub confidence: f64,
    /// When, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// An agent's weight for or against an assertion.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Vote {
    /// BLAKE3 of the assertion's payload.
    pub assertion: [u8; 32],
    /// Who votes.
    pub agent: String,
    /// How much.
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
    /// First moment behind it, in milliseconds since 1970; open when absent.
    pub end_ms: Option<i64>,
    /// The epoch it takes the place of.
    pub supersedes: Option<[u8; 32]>,
}

/// A line for `ledger.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct LedgerLine {
    /// The line, without its line end.
    pub line: String,
    /// Whether it was queued in one batch with the line in front of it. The ledger compares turns of different batches by
    /// their fingerprints, and those of one batch not.
    pub continues_batch: bool,
}

/// A payload that was understood.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Payload {
    /// Type 0.
    Assertion(Assertion),
    /// Type 1.
    Vote(Vote),
    /// Type 2.
    Epoch(Epoch),
    /// Type 3.
    LedgerLine(LedgerLine),
}

/// A payload that cannot be understood, or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// It has no room for type and padding.
    #[error("the payload has {len_bytes} bytes; type and padding alone take {PREFIX_LEN}")]
    TooShort {
        /// Its length.
        len_bytes: usize,
    },
    /// The seven bytes behind the type are not zero.
    #[error("the bytes behind the type are not zero")]
    Padding,
    /// The type is none that this program knows.
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

/// The payload of an assertion: what its BLAKE3 names and the store keeps.
///
/// # Errors
/// [`PayloadError::Archive`] when it is too large for an archive (2 GiB).
pub fn serialize_assertion(assertion: &Assertion) -> Result<Vec<u8>, PayloadError> {
    framed(0, rkyv::to_bytes::<rancor::Error>(assertion))
}

/// The payload of a vote.
///
/// # Errors
/// As [`serialize_assertion`].
pub fn serialize_vote(vote: &Vote) -> Result<Vec<u8>, PayloadError> {
    framed(1, rkyv::to_bytes::<rancor::Error>(vote))
}

/// The payload of an epoch.
///
/// # Errors
/// As [`serialize_assertion`].
pub fn serialize_epoch(epoch: &Epoch) -> Result<Vec<u8>, PayloadError> {
    framed(2, rkyv::to_bytes::<rancor::Error>(epoch))
}

/// The payload of one line for `ledger.jsonl`.
///
/// # Errors
/// [`PayloadError::LineEnd`]; otherwise as [`serialize_assertion`].
pub fn serialize_ledger_line(line: &LedgerLine) -> Result<Vec<u8>, PayloadError> {
    if let Some(at) = line.line.find('\n') {
        return Err(PayloadError::LineEnd { at });
    }
    framed(3, rkyv::to_bytes::<rancor::Error>(line))
}

fn framed(type_byte: u8, archive: Result<AlignedVec, rancor::Error>) -> Result<Vec<u8>, PayloadError> {
    let archive = archive.map_err(|error| PayloadError::Archive { type_byte, reason: error.to_string() })?;
    let mut payload = Vec::with_capacity(PREFIX_LEN + archive.len());
    payload.push(type_byte);
    payload.resize(PREFIX_LEN, 0);
    payload.extend_from_slice(&archive);
    Ok(payload)
}

/// Understands a payload, wherever it lies in memory.
///
/// # Errors
/// Every [`PayloadError`] but those of making one, and [`PayloadError::LineEnd`] for a line that would become two.
pub fn deserialize(payload: &[u8]) -> Result<Payload, PayloadError> {
    let Some((prefix, bytes)) = payload.split_at_checked(PREFIX_LEN) else {
        return Err(PayloadError::TooShort { len_bytes: payload.len() });
    };
    let type_byte = prefix[0];
    if type_byte > 3 {
        return Err(PayloadError::UnknownType { type_byte });
    }
    if prefix[1..] != [0; PREFIX_LEN - 1] {
        return Err(PayloadError::Padding);
    }
    let mut archive: AlignedVec = AlignedVec::with_capacity(bytes.len());
    archive.extend_from_slice(bytes);
    let invalid = |error: rancor::Error| PayloadError::Archive { type_byte, reason: error.to_string() };
    match type_byte {
        0 => rkyv::from_bytes::<Assertion, rancor::Error>(&archive).map(Payload::Assertion).map_err(invalid),
        1 => rkyv::from_bytes::<Vote, rancor::Error>(&archive).map(Payload::Vote).map_err(invalid),
        2 => rkyv::from_bytes::<Epoch, rancor::Error>(&archive).map(Payload::Epoch).map_err(invalid),
        _ => {
            let line = rkyv::from_bytes::<LedgerLine, rancor::Error>(&archive).map_err(invalid)?;
            match line.line.find('\n') {
                Some(at) => Err(PayloadError::LineEnd { at }),
                None => Ok(Payload::LedgerLine(line)),
            }
        }
    }
}

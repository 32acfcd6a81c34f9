//! Ids and fingerprints: what the index files hold of a record.
//!
//! This file computes from parsed records and touches nothing. It promises the bytes that the TypeScript package hashes:
//! parts joined with `|`, numbers as JavaScript prints them, U+FFFD for lone surrogates.

use std::fmt;

use sha2::{Digest, Sha256};

use super::RecordKind;
use crate::scan::json::{Kind as JsonKind, Value, write_js_number};

/// The first 64 bits of a SHA-256: the id of a record, or the fingerprint of a turn. Prints as 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub(super) u64);

/// Length of an id in text, in bytes.
pub(super) const ID_LEN_BYTES: usize = 16;

impl Id {
    /// Reads 16 lower-case hex digits; anything else is no id.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits: &[u8; ID_LEN_BYTES] = text.try_into().ok()?;
        let mut value = 0u64;
        let mut invalid = 0u8;
        for digit in digits {
            let nibble = NIBBLES[usize::from(*digit)];
            invalid |= nibble;
            value = value << 4 | u64::from(nibble & 0x0F);
        }
        (invalid & 0xF0 == 0).then_some(Self(value))
    }

    /// Appends its 16 digits and an LF: a line of an index file.
    pub(super) fn write_line(self, out: &mut Vec<u8>) {
        let mut line = [b'\n'; ID_LEN_BYTES + 1];
        for (place, digit) in line[..ID_LEN_BYTES].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(self.0 >> (60 - 4 * place) & 0xF) as usize];
        }
        out.extend_from_slice(&line);
    }

    fn of(text: &[u8]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = Sha256::digest(text).0;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// The value of each lower-case hex digit; 0xFF for every other byte.
const NIBBLES: [u8; 256] = {
    let mut table = [0xFF; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a missing or null part of an id counts as.
#[derive(Clone, Copy, PartialEq)]
enum Absent {
    Empty,
    ItsName,
}

/// Parts of a hash, put together in a buffer that is used again.
#[derive(Debug, Default)]
pub(super) struct Hasher {
    text: Vec<u8>,
}

impl Hasher {
    fn value(&mut self, value: Option<Value<'_>>, absent: Absent) {
        match value.map(|value| (value.kind(), value)) {
            None if absent == Absent::ItsName => self.text.extend_from_slice(b"undefined"),
            Some((JsonKind::Null, _)) if absent == Absent::ItsName => self.text.extend_from_slice(b"null"),
            None | Some((JsonKind::Null, _)) => {}
            Some((_, value)) => {
                if let Some(text) = value.as_str() {
                    self.text.extend_from_slice(text.as_bytes());
                } else if let Some(number) = value.as_number() {
                    write_js_number(number.as_f64(), &mut self.text);
                } else {
                    self.text.extend_from_slice(value.to_string().as_bytes());
                }
            }
        }
    }

    /// The id of `record`, an object of the given kind; parts may be missing.
    pub(super) fn id(&mut self, kind: RecordKind, record: Value<'_>) -> Id {
        let (keys, absent): (&[&str], Absent) = match kind {
            RecordKind::Turn => (&["source", "sessionId", "messageId"], Absent::ItsName),
            RecordKind::Compaction => (&["source", "sessionId", "ts"], Absent::ItsName),
            RecordKind::UserTurn => (&["source", "sessionId", "userUuid"], Absent::ItsName),
            RecordKind::ToolResultEvent => {
                (&["source", "sessionId", "toolUseId", "eventIndex"], Absent::Empty)
            }
            RecordKind::Relationship => (
                &[
                    "source",
                    "sessionId",
                    "relationshipType",
                    "relatedSessionId",
                    "agentId",
                    "parentToolUseId",
                ],
                Absent::Empty,
            ),
        };
        self.text.clear();
        for (place, key) in keys.iter().enumerate() {
            if place > 0 {
                self.text.push(b'|');
            }
            self.value(record.get(key), absent);
        }
        Id::of(&self.text)
    }

    /// The id that these parts make.
    pub(super) fn id_of_parts(&mut self, parts: &[&str]) -> Id {
        self.text.clear();
        for (place, part) in parts.iter().enumerate() {
            if place > 0 {
                self.text.push(b'|');
            }
            self.text.extend_from_slice(part.as_bytes());
        }
        Id::of(&self.text)
    }

    /// The fingerprint of a turn; none when it has no usage to take it from.
    pub(super) fn fingerprint(&mut self, turn: Value<'_>) -> Option<Id> {
        let usage = turn.get("usage").filter(|usage| usage.kind() == JsonKind::Object)?;
        // What is no number counts as NaN, as an absent member does in JavaScript's sum.
        let count = |key: &str| usage.get(key).and_then(Value::as_number).map_or(f64::NAN, |n| n.as_f64());
        self.text.clear();
        self.value(turn.get("ts"), Absent::ItsName);
        self.text.push(b'|');
        self.value(turn.get("model"), Absent::ItsName);
        for number in [
            count("input") + count("output"),
            count("cacheRead"),
            count("cacheCreate5m") + count("cacheCreate1h"),
        ] {
            self.text.push(b'|');
            write_js_number(number, &mut self.text);
        }
        self.text.push(b'|');
        let first_call = turn.get("toolCalls").and_then(|calls| calls.at(0));
        if let Some(hash) = first_call.and_then(|call| call.get("argsHash")).and_then(Value::as_js_str) {
            self.text.extend_from_slice(first_four_units(&hash.to_utf8_lossy()).as_bytes());
        }
        Some(Id::of(&self.text))
    }
}

/// The first four UTF-16 code units of `text`; half a surrogate pair becomes U+FFFD.
fn first_four_units(text: &str) -> String {
    let mut cut = String::new();
    let mut units = 0;
    for character in text.chars() {
        match units + character.len_utf16() {
            total if total <= 4 => {
                cut.push(character);
                units = total;
            }
            5 if units == 3 => {
                cut.push(char::REPLACEMENT_CHARACTER);
                break;
            }
            _ => break,
        }
    }
    cut
}

//! Reads the lines of a ledger as keys of a fixed size: which record a line is, which text it has, and where it is.
//!
//! Touches ledgers, for reading. Guarantees: the keys of a ledger take 80 bytes a line, whatever the lines hold. Two lines
//! have equal texts when their bytes are equal after JavaScript's white space is cut off at both ends.

use std::ops::{ControlFlow, Range};

use super::super::LedgerError;
use super::super::pipeline::{LedgerWork, in_order};
use crate::record::message_id::certain_id;
use crate::record::time::Instant;
use crate::record::{Hasher, LINE_MAX_BYTES, ParsedLine, RecordKind, line_of};
use crate::scan::json::{Document, Value, trim_js};
use crate::scan::{self, Source};

/// How much of a ledger a thread reads at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// The place of a line: a ledger of the merge, and the line's bytes without its LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MergePlace {
    /// The number of the input, [`TARGET`] or [`LABELS`].
    pub input: u32,
    pub offset: u64,
    pub len_bytes: u64,
}

/// [`MergePlace::input`] of lines that the target has.
pub(super) const TARGET: u32 = u32::MAX;
/// [`MergePlace::input`] of the stamps that name machines.
pub(super) const LABELS: u32 = u32::MAX - 1;

/// How lines are compared: the lines of a record by the record's id, stamps by their time, and other lines by their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LineClass {
    Stamp,
    Record(RecordPlace),
    /// A line that is malformed, or of an unknown version or kind.
    Other,
}

/// The place of a kind in [`RecordKind::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecordPlace(u8);

impl RecordPlace {
    pub(super) fn of(kind: RecordKind) -> Self {
        let place = RecordKind::ALL.iter().position(|other| *other == kind);
        Self(place.unwrap_or_default() as u8)
    }

    pub(super) fn kind(self) -> RecordKind {
        RecordKind::ALL[usize::from(self.0)]
    }
}

const _: () = assert!(size_of::<LineKey>() == 80, "docs/merging.md states the memory of a line");

/// One line of a ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineKey {
    /// BLAKE3 of the text.
    pub text: [u64; 2],
    /// The record's id; of a stamp, a hash of its `ts`; of any other line, of its text.
    pub key: u64,
    /// The fingerprint of a turn that has one, else 0.
    pub fingerprint: u64,
    /// Of a turn whose message id is certain: a hash of the message id, never 0; else 0. 32 bits are enough, because the hash
    /// is compared only between turns with one fingerprint.
    pub message: u32,
    /// Of a turn: a hash of its session id.
    pub session: u64,
    /// The instant of `ts` in microseconds since 1970; [`UNDATED`] without one.
    pub at_us: i64,
    pub place: MergePlace,
    pub class: LineClass,
}

/// Lines without a time come last.
pub(super) const UNDATED: i64 = i64::MAX;

/// A line that is not JSON, or too long to be read.
pub(super) struct UnreadableLine {
    pub place: MergePlace,
    pub reason: String,
}

/// The keys of some lines.
#[derive(Default)]
pub(super) struct KeyPart {
    pub keys: Vec<LineKey>,
    pub unreadable: Vec<UnreadableLine>,
    /// Whether one of these lines, or of lines that the same thread read before, is a ledger line, maybe a damaged one.
    pub has_ledger_line: bool,
}

/// Passes the keys of the lines in `range` to `take`, in the order of the ledger, until `go_on` returns an error. The range
/// ends at a line end.
pub(super) fn read_keys(
    source: &Source,
    range: Range<u64>,
    input: u32,
    go_on: &impl Fn() -> Result<(), LedgerError>,
    mut take: impl FnMut(KeyPart),
) -> Result<(), LedgerError> {
    let work = LedgerWork { range, ..LedgerWork::whole(source, CHUNK_BYTES, usize::MAX)? };
    in_order(
        &work,
        KeyReader::default,
        |reader, base, chunk| reader.chunk(input, base, chunk),
        |part| {
            go_on()?;
            take(part);
            Ok(ControlFlow::Continue(()))
        },
    )
}

/// Makes the keys of lines; one for each thread.
#[derive(Default)]
pub(super) struct KeyReader {
    document: Document,
    hasher: Hasher,
    has_ledger_line: bool,
}

impl KeyReader {
    fn chunk(&mut self, input: u32, base: u64, chunk: &[u8]) -> KeyPart {
        let mut part = KeyPart::default();
        for (offset, line) in scan::lines(base, chunk) {
            let place = MergePlace { input, offset, len_bytes: line.len() as u64 };
            match self.line(place, line) {
                Ok(key) => part.keys.extend(key),
                Err((key, reason)) => {
                    part.keys.push(key);
                    part.unreadable.push(UnreadableLine { place, reason });
                }
            }
        }
        part.has_ledger_line = self.has_ledger_line;
        part
    }

    /// The key of a line; `None` for a blank line. A line that cannot be read has a key and the reason.
    pub(super) fn line(
        &mut self,
        place: MergePlace,
        line: &[u8],
    ) -> Result<Option<LineKey>, (LineKey, String)> {
        let line = trim_js(line);
        if line.is_empty() {
            return Ok(None);
        }
        let text = text_hash(line);
        let (class, at_us) = (LineClass::Other, UNDATED);
        let other =
            LineKey { text, key: text[0], fingerprint: 0, message: 0, session: 0, at_us, place, class };
        if line.len() as u64 > LINE_MAX_BYTES {
            self.has_ledger_line |= begins_as_ledger_line(line);
            return Err((other, format!("it has more than {LINE_MAX_BYTES} bytes, the most that is read")));
        }
        let root = match self.document.parse(line) {
            Ok(root) => root,
            Err(error) => {
                self.has_ledger_line |= begins_as_ledger_line(line);
                return Err((other, error.to_string()));
            }
        };
        self.has_ledger_line = self.has_ledger_line || is_ledger_line(root);
        let hasher = &mut self.hasher;
        Ok(Some(match line_of(root) {
            ParsedLine::Record(kind, record) => {
                let key = LineKey {
                    key: hasher.id(kind, record).0,
                    at_us: micros_of(record.get("ts")),
                    class: LineClass::Record(RecordPlace::of(kind)),
                    ..other
                };
                match kind {
                    RecordKind::Turn => LineKey {
                        fingerprint: hasher.fingerprint(record).map_or(0, |id| id.0),
                        message: certain_id(record).map_or(0, |id| short_hash(id) as u32 | 1),
                        session: text_of(record.get("sessionId")).map_or(0, short_hash),
                        ..key
                    },
                    _ => key,
                }
            }
            ParsedLine::Stamp => LineKey {
                key: text_of(root.get("ts")).map_or(0, short_hash),
                at_us: micros_of(root.get("ts")),
                class: LineClass::Stamp,
                ..other
            },
            ParsedLine::Shapeless(_) | ParsedLine::Unknown => other,
        }))
    }
}

/// Whether a line that cannot be read may be a damaged ledger line: programs write the version or the kind first.
fn begins_as_ledger_line(line: &[u8]) -> bool {
    let first = line.strip_prefix(b"{").map(trim_js);
    first.is_some_and(|first| first.starts_with(b"\"v\"") || first.starts_with(b"\"kind\""))
}

/// Whether a value has the form of a ledger line, of whatever version and kind.
fn is_ledger_line(root: Value<'_>) -> bool {
    root.get("v").and_then(Value::as_number).is_some() && root.get("kind").and_then(Value::as_str).is_some()
}

/// The bytes of a string.
pub(super) fn text_of(value: Option<Value<'_>>) -> Option<&[u8]> {
    value.and_then(Value::as_js_str).map(|text| text.as_wtf8())
}

fn micros_of(ts: Option<Value<'_>>) -> i64 {
    let instant = text_of(ts).and_then(|ts| Instant::of_turn(std::str::from_utf8(ts).ok()?));
    instant.map_or(UNDATED, |at| at.seconds * 1_000_000 + i64::from(at.nanos / 1000))
}

/// The first 128 bits of BLAKE3.
pub(super) fn text_hash(text: &[u8]) -> [u64; 2] {
    let hash = blake3::hash(text);
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *hash.as_bytes();
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

pub(super) fn short_hash(text: &[u8]) -> u64 {
    text_hash(text)[0]
}

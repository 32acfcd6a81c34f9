//! Ids and fingerprints: the entries that the index files have for a record.
//!
//! Computes from parsed records and touches nothing else. Guarantees the bytes that the TypeScript package hashes: parts joined
//! with `|`, numbers as JavaScript prints them, U+FFFD for lone surrogates.

use std::fmt;

use sha2::{Digest, Sha256};

use super::RecordKind;
use crate::scan::json::{Kind as JsonKind, Value, write_js_number};

/// The first 64 bits of a SHA-256: the id of a record, or the fingerprint of a turn. Prints as 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub(crate) u64);

/// A set of ids. The fast hasher will do, because an id is part of a SHA-256.
pub(crate) type IdSet = rustc_hash::FxHashSet<Id>;

/// Length of an id in text, in bytes.
pub(crate) const ID_LEN_BYTES: usize = 16;

impl Id {
    /// Reads 16 lower-case hex digits; any other text is not an id.
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

    /// Appends the 16 digits and an LF: a line of an index file.
    pub(crate) fn write_line(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.digits());
        out.push(b'\n');
    }

    /// The 16 digits.
    pub(crate) fn digits(self) -> [u8; ID_LEN_BYTES] {
        std::array::from_fn(|place| b"0123456789abcdef"[(self.0 >> (60 - 4 * place) & 0xF) as usize])
    }

    /// The first 64 bits of the SHA-256 of `text`.
    pub(crate) fn of(text: &[u8]) -> Self {
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

/// The text that replaces a missing or null part of an id.
#[derive(Clone, Copy, PartialEq)]
enum Absent {
    Empty,
    ItsName,
}

/// The members of a record that make its id, and whether a missing or null member counts as "".
pub(crate) fn parts_of(kind: RecordKind) -> (&'static [&'static str], bool) {
    match kind {
        RecordKind::Turn => (&["source", "sessionId", "messageId"], false),
        RecordKind::Compaction => (&["source", "sessionId", "ts"], false),
        RecordKind::UserTurn => (&["source", "sessionId", "userUuid"], false),
        RecordKind::ToolResultEvent => (&["source", "sessionId", "toolUseId", "eventIndex"], true),
        RecordKind::Relationship => (
            &["source", "sessionId", "relationshipType", "relatedSessionId", "agentId", "parentToolUseId"],
            true,
        ),
    }
}

/// The parts of a turn that make its fingerprint.
pub(crate) struct Fingerprinted<'t> {
    pub ts: &'t str,
    pub model: &'t str,
    /// input, output, cacheRead, cacheCreate5m, cacheCreate1h.
    pub usage: [f64; 5],
    /// argsHash of the first tool call, or "".
    pub first_args_hash: &'t str,
}

/// An id that is being built, part by part.
pub(crate) struct IdParts<'h> {
    text: &'h mut Vec<u8>,
    is_empty: bool,
}

impl IdParts<'_> {
    fn next(&mut self) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.is_empty) {
            self.text.push(b'|');
        }
        self.text
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.next().extend_from_slice(text.as_bytes());
    }

    pub(crate) fn number(&mut self, number: f64) {
        write_js_number(number, self.next());
    }

    pub(crate) fn finish(self) -> Id {
        Id::of(self.text)
    }
}

/// Builds texts for hashing in a buffer that is used again.
#[derive(Debug, Default)]
pub(crate) struct Hasher {
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

    /// The id of `record`, an object of the given kind. Parts may be missing.
    pub(crate) fn id(&mut self, kind: RecordKind, record: Value<'_>) -> Id {
        let (keys, is_optional) = parts_of(kind);
        let absent = if is_optional { Absent::Empty } else { Absent::ItsName };
        self.text.clear();
        for (place, key) in keys.iter().enumerate() {
            if place > 0 {
                self.text.push(b'|');
            }
            self.value(record.get(key), absent);
        }
        Id::of(&self.text)
    }

    /// Starts an id whose parts are known to be texts and numbers.
    pub(crate) fn start(&mut self) -> IdParts<'_> {
        self.text.clear();
        IdParts { text: &mut self.text, is_empty: true }
    }

    /// The id made of these parts.
    pub(crate) fn id_of_parts(&mut self, texts: &[&str]) -> Id {
        let mut parts = self.start();
        texts.iter().for_each(|text| parts.text(text));
        parts.finish()
    }

    /// The fingerprint of a turn; none when the turn has no usage.
    pub(crate) fn fingerprint(&mut self, turn: Value<'_>) -> Option<Id> {
        let usage = turn.get("usage").filter(|usage| usage.kind() == JsonKind::Object)?;
        let first_call = turn.get("toolCalls").and_then(|calls| calls.at(0));
        let first_hash = first_call.and_then(|call| call.get("argsHash")).and_then(Value::as_js_str);
        let first_hash = first_hash.map(|hash| hash.to_utf8_lossy()).unwrap_or_default();
        self.text.clear();
        self.value(turn.get("ts"), Absent::ItsName);
        self.text.push(b'|');
        self.value(turn.get("model"), Absent::ItsName);
        let count = |key: &str| Term::of(usage.get(key));
        let terms = [
            count("input").plus(count("output")),
            count("cacheRead"),
            count("cacheCreate5m").plus(count("cacheCreate1h")),
        ];
        for term in terms {
            self.text.push(b'|');
            self.text.extend_from_slice(&term.text);
        }
        self.text.push(b'|');
        self.text.extend_from_slice(first_four_units(&first_hash).as_bytes());
        Some(Id::of(&self.text))
    }

    /// The fingerprint of a turn that has all the parts.
    pub(crate) fn fingerprint_of(&mut self, turn: &Fingerprinted<'_>) -> Id {
        self.text.clear();
        self.text.extend_from_slice(turn.ts.as_bytes());
        self.text.push(b'|');
        self.text.extend_from_slice(turn.model.as_bytes());
        self.end_fingerprint(turn.usage, turn.first_args_hash)
    }

    fn end_fingerprint(&mut self, usage: [f64; 5], first_args_hash: &str) -> Id {
        let [input, output, cache_read, cache_create_5m, cache_create_1h] = usage;
        for number in [input + output, cache_read, cache_create_5m + cache_create_1h] {
            self.text.push(b'|');
            write_js_number(number, &mut self.text);
        }
        self.text.push(b'|');
        self.text.extend_from_slice(first_four_units(first_args_hash).as_bytes());
        Id::of(&self.text)
    }
}

/// A value as JavaScript adds and prints it. Counts are numbers; any other value is joined as text.
struct Term {
    text: Vec<u8>,
    /// None: adding this value gives a text.
    number: Option<f64>,
}

impl Term {
    fn number(number: f64) -> Self {
        let mut text = Vec::new();
        write_js_number(number, &mut text);
        Term { text, number: Some(number) }
    }

    fn of(value: Option<Value<'_>>) -> Self {
        let Some(value) = value else {
            return Term { text: b"undefined".to_vec(), number: Some(f64::NAN) };
        };
        match value.kind() {
            JsonKind::Number => Self::number(value.as_number().map_or(f64::NAN, |number| number.as_f64())),
            JsonKind::Null => Term { text: b"null".to_vec(), number: Some(0.0) },
            JsonKind::Bool => Term {
                text: value.to_string().into_bytes(),
                number: Some(if value.is_truthy() { 1.0 } else { 0.0 }),
            },
            JsonKind::String => {
                Term { text: value.as_str().unwrap_or_default().into_owned().into_bytes(), number: None }
            }
            JsonKind::Array => Term { text: joined(value), number: None },
            JsonKind::Object => Term { text: b"[object Object]".to_vec(), number: None },
        }
    }

    fn plus(self, other: Self) -> Self {
        match (self.number, other.number) {
            (Some(a), Some(b)) => Self::number(a + b),
            _ => Term { text: [self.text, other.text].concat(), number: None },
        }
    }
}

/// The items of an array between commas, as JavaScript joins them: null is nothing, and an array stands for its items. Arrays may be
/// nested to any depth.
fn joined(array: Value<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut open = vec![(array.items(), true)];
    while let Some((items, is_first)) = open.last_mut() {
        let Some(item) = items.next() else {
            open.pop();
            continue;
        };
        if !std::mem::take(is_first) {
            text.push(b',');
        }
        match item.kind() {
            JsonKind::Null => {}
            JsonKind::Array => open.push((item.items(), true)),
            _ => text.extend(Term::of(Some(item)).text),
        }
    }
    text
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    #[test]
    fn arrays_in_the_place_of_counts_are_joined_as_javascript_joins_them_at_any_depth() {
        let deep = format!("{}7{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        for (array, text) in [
            ("[]", ""),
            ("[[],[]]", ","),
            (r#"[1,[2,null,[]],[[3]],"a",{},true]"#, "1,2,,,3,a,[object Object],true"),
            (&deep, "7"),
        ] {
            let mut document = Document::default();
            let value = document.parse(array.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(Term::of(Some(value)).text).unwrap(), text);
        }
    }
}

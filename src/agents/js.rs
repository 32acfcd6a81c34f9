//! Prints, measures and orders values of a log as JavaScript does.
//!
//! The programs that share the ledger pass every value through `JSON.parse` and `JSON.stringify`, so numbers are
//! doubles here. Strings are WTF-8, as [`JsStr::as_wtf8`](crate::scan::json::JsStr::as_wtf8) has them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;

use crate::record::time::civil;
use crate::scan::json::{
    Items, JsStr, Kind, ObjectMembers, Value, trim_js, write_js_number, write_js_string,
};

/// The order of an object's keys in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyOrder {
    /// Array indices first, then the order of the log: what `JSON.stringify` prints.
    AsParsed,
    /// By UTF-16 code units at every depth. The hash of the arguments is over this text.
    Sorted,
}

/// Appends a value as `JSON.stringify(JSON.parse(text))` prints it. Does not recurse.
pub(super) fn write_value(value: Value<'_>, order: KeyOrder, out: &mut Vec<u8>) {
    enum Open<'d> {
        List(Items<'d>),
        Object(ObjectMembers<'d>),
        Sorted(std::vec::IntoIter<(JsStr<'d>, Value<'d>)>),
    }
    let mut open = Vec::new();
    let mut value = value;
    loop {
        match value.kind() {
            Kind::Array => {
                out.push(b'[');
                open.push(Open::List(value.items()));
            }
            Kind::Object => {
                out.push(b'{');
                open.push(match order {
                    KeyOrder::AsParsed => Open::Object(value.members()),
                    KeyOrder::Sorted => {
                        let mut members: Vec<_> = value.members().collect();
                        members.sort_by(|(a, _), (b, _)| compare_utf16(a.as_wtf8(), b.as_wtf8()));
                        Open::Sorted(members.into_iter())
                    }
                });
            }
            Kind::String => write_js_string(wtf8(value).unwrap_or_default(), out),
            Kind::Number => write_number(value.as_number().map_or(0.0, |number| number.as_f64()), out),
            Kind::Bool => out.extend_from_slice(if value.is_truthy() { b"true" } else { b"false" }),
            Kind::Null => out.extend_from_slice(b"null"),
        }
        value = loop {
            // No value ends in an opening bracket, so an opening bracket here means that the next item is the first.
            let is_first = matches!(out.last(), Some(b'[' | b'{'));
            let next = match open.last_mut() {
                None => return,
                Some(Open::List(items)) => items.next().map(|item| (None, item)),
                Some(Open::Object(members)) => members.next().map(|(key, value)| (Some(key), value)),
                Some(Open::Sorted(members)) => members.next().map(|(key, value)| (Some(key), value)),
            };
            if let Some((key, value)) = next {
                if !is_first {
                    out.push(b',');
                }
                if let Some(key) = key {
                    write_js_string(key.as_wtf8(), out);
                    out.push(b':');
                }
                break value;
            }
            out.push(if let Some(Open::List(_)) = open.pop() { b']' } else { b'}' });
        };
    }
}

/// Returns the JSON text of a value, as `JSON.stringify` prints it.
pub(super) fn json(value: Value<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    write_value(value, KeyOrder::AsParsed, &mut text);
    text
}

/// Returns the JSON text of a value with the keys of all objects sorted.
pub(super) fn sorted_json(value: Value<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    write_value(value, KeyOrder::Sorted, &mut text);
    text
}

/// Returns the JSON text of a value; `without` if there is none.
pub(super) fn json_or(value: Option<Value<'_>>, without: &[u8]) -> Vec<u8> {
    value.map_or_else(|| without.to_vec(), json)
}

/// Below this number JavaScript prints whole numbers digit by digit, and doubles have all whole numbers.
const MAX_COUNT: f64 = (1_u64 << 53) as f64;

/// Appends a number as `JSON.stringify` prints it: `null` when it is not finite.
pub(super) fn write_number(number: f64, out: &mut Vec<u8>) {
    // Counts, which most numbers are.
    if (0.0..MAX_COUNT).contains(&number) && number.fract() == 0.0 {
        out.extend_from_slice(itoa::Buffer::new().format(number as u64).as_bytes());
    } else if number.is_finite() {
        write_js_number(number, out);
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Returns the JSON text of a string.
pub(super) fn string(wtf8: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_js_string(wtf8, &mut out);
    out
}

/// Returns the string of a value, which may be empty.
pub(super) fn wtf8(value: Value<'_>) -> Option<&[u8]> {
    value.as_js_str().map(JsStr::as_wtf8)
}

/// Returns the string member `key`, which may be empty.
pub(super) fn any_text<'d>(object: Value<'d>, key: &str) -> Option<&'d [u8]> {
    object.get(key).and_then(wtf8)
}

/// Returns a *string field*: the member `key` when it is a string and not empty.
pub(super) fn text<'d>(object: Value<'d>, key: &str) -> Option<&'d [u8]> {
    any_text(object, key).filter(|text| !text.is_empty())
}

/// Returns the first string field among `keys`.
pub(super) fn first_text<'d>(object: Value<'d>, keys: &[&str]) -> Option<&'d [u8]> {
    keys.iter().find_map(|key| text(object, key))
}

/// Returns the first member among `keys` that is a string, which may be empty.
pub(super) fn first_any_text<'d>(object: Value<'d>, keys: &[&str]) -> Option<&'d [u8]> {
    keys.iter().find_map(|key| any_text(object, key))
}

/// Returns the member `key` unless it is absent or null.
pub(super) fn present<'d>(object: Value<'d>, key: &str) -> Option<Value<'d>> {
    object.get(key).filter(|value| !value.is_null())
}

/// Returns a finite number.
pub(super) fn number(object: Value<'_>, key: &str) -> Option<f64> {
    object.get(key).and_then(finite)
}

/// Returns the value of a finite number.
pub(super) fn finite(value: Value<'_>) -> Option<f64> {
    value.as_number().map(|number| number.as_f64()).filter(|number| number.is_finite())
}

/// Returns a number: 0 if the member is absent or null, NaN if it is no finite number.
pub(super) fn number_or_nan(object: Value<'_>, key: &str) -> f64 {
    present(object, key).map_or(0.0, |_| number(object, key).unwrap_or(f64::NAN))
}

/// Returns the number that JavaScript's arithmetic makes of a value.
pub(super) fn to_number(value: Value<'_>) -> f64 {
    match value.kind() {
        Kind::Null => 0.0,
        Kind::Bool => f64::from(u8::from(value.is_truthy())),
        Kind::Number => value.as_number().map_or(f64::NAN, |number| number.as_f64()),
        Kind::String => {
            let text = to_utf8(trim_js(wtf8(value).unwrap_or_default()));
            if text.is_empty() { 0.0 } else { text.parse().unwrap_or(f64::NAN) }
        }
        Kind::Array => match value.len() {
            0 => 0.0,
            1 => value.at(0).map_or(f64::NAN, to_number),
            _ => f64::NAN,
        },
        Kind::Object => f64::NAN,
    }
}

/// Returns whether the member `key` is `true`.
pub(super) fn is_true(object: Value<'_>, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool) == Some(true)
}

/// Returns the text with U+FFFD for each lone surrogate, for hashing, tokenising and patterns.
pub(super) fn to_utf8(wtf8: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = simdutf8::basic::from_utf8(wtf8) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(wtf8.len());
    for chunk in wtf8.utf8_chunks() {
        text.push_str(chunk.valid());
        // A surrogate arrives as three invalid chunks of a byte each. Its lead byte becomes the one U+FFFD.
        if chunk.invalid().first() == Some(&0xED) {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    Cow::Owned(text)
}

/// Returns whether a character is white space.
pub(super) fn is_space(c: char) -> bool {
    matches!(
        c,
        '\t'..='\r' | ' ' | '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{2028}' | '\u{2029}' | '\u{202F}'
            | '\u{205F}' | '\u{3000}' | '\u{FEFF}'
    )
}

/// Returns the text without the white space that it begins with.
pub(super) fn trim_start(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let Some(len_bytes) = leading_space(rest) {
        rest = &rest[len_bytes..];
    }
    rest
}

/// Returns the text up to its first white space.
pub(super) fn first_word(text: &[u8]) -> &[u8] {
    let mut end = 0;
    while end < text.len() && leading_space(&text[end..]).is_none() {
        end += leading_char(&text[end..]).len();
    }
    &text[..end]
}

/// The length in bytes of the white-space character that a text begins with.
fn leading_space(text: &[u8]) -> Option<usize> {
    let first = leading_char(text);
    (!first.is_empty() && trim_js(first).is_empty()).then_some(first.len())
}

/// The first character of a text; empty at the end.
fn leading_char(text: &[u8]) -> &[u8] {
    let len_bytes = match text.first() {
        None => 0,
        Some(0xC0..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..) => 4,
        Some(_) => 1,
    };
    &text[..len_bytes.min(text.len())]
}

/// Appends a text, after a line feed unless it is the first.
pub(super) fn add_line(all: &mut Vec<u8>, text: &[u8]) {
    if !all.is_empty() && !text.is_empty() {
        all.push(b'\n');
    }
    all.extend_from_slice(text);
}

/// Returns the number of UTF-16 code units of a string.
pub(super) fn utf16_len(wtf8: &[u8]) -> usize {
    // A character has one unit, and one of four bytes has two. Sums of a byte each are added sixteen at a time.
    let units = |byte: &u8| u8::from(byte & 0xC0 != 0x80) + u8::from(*byte >= 0xF0);
    wtf8.chunks(96).map(|bytes| usize::from(bytes.iter().map(units).sum::<u8>())).sum()
}

/// Compares two strings by their UTF-16 code units, as JavaScript's `sort` does.
pub(super) fn compare_utf16(a: &[u8], b: &[u8]) -> Ordering {
    if a.is_ascii() || b.is_ascii() {
        // An ASCII character sorts below every other, in units and in bytes.
        return a.cmp(b);
    }
    utf16_units(a).cmp(utf16_units(b))
}

fn utf16_units(wtf8: &[u8]) -> impl Iterator<Item = u16> {
    let mut at = 0;
    let mut low = None;
    std::iter::from_fn(move || {
        if let Some(unit) = low.take() {
            return Some(unit);
        }
        let lead = *wtf8.get(at)?;
        let tail = |n: usize| u32::from(wtf8.get(at + n).copied().unwrap_or(0x80) & 0x3F);
        let (point, len) = match lead {
            0..0x80 => (u32::from(lead), 1),
            0x80..0xE0 => (u32::from(lead & 0x1F) << 6 | tail(1), 2),
            0xE0..0xF0 => (u32::from(lead & 0x0F) << 12 | tail(1) << 6 | tail(2), 3),
            _ => (u32::from(lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4),
        };
        at += len;
        if point < 0x1_0000 {
            return Some(point as u16);
        }
        low = Some(0xDC00 | (point & 0x3FF) as u16);
        Some(0xD800 | ((point - 0x1_0000) >> 10) as u16)
    })
}

/// The last time that a JavaScript Date can hold, in milliseconds since 1970.
const DATE_MAX_MS: f64 = 8.64e15;

/// Returns a time in milliseconds since 1970 as `toISOString` prints it; none if no Date holds it.
pub(super) fn iso(ms: f64) -> Option<String> {
    let ms = ms.trunc();
    if ms.is_nan() || ms.abs() > DATE_MAX_MS {
        return None;
    }
    let ms = ms as i64;
    let (year, month, day) = civil(ms.div_euclid(86_400_000));
    let in_day = ms.rem_euclid(86_400_000);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ => format!("{}{:06}", if year < 0 { '-' } else { '+' }, year.abs()),
    };
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"))
}

/// The length of most records without texts. Memory of this size is taken at once, because growing it takes time.
const USUAL_BYTES: usize = 512;

/// Builds the JSON text of one record, member by member in the order of the calls.
#[derive(Debug, Default)]
pub(super) struct RecordText {
    out: Vec<u8>,
    /// Where the record begins in `out`.
    start: usize,
}

impl RecordText {
    /// Returns an object that begins with `"v":1` and a source.
    pub(super) fn of(source: &str) -> Self {
        Self::after(Vec::with_capacity(USUAL_BYTES), source)
    }

    /// Does the same as [`RecordText::of`] after other texts, because memory for each record takes time.
    pub(super) fn after(texts: Vec<u8>, source: &str) -> Self {
        let mut record = RecordText { start: texts.len(), out: texts };
        record.out.push(b'{');
        record.count("v", 1);
        record.text("source", source.as_bytes());
        record
    }

    /// Returns the object that [`RecordText::unfinished`] left at `draft`, after the other texts.
    pub(super) fn copy_of(mut texts: Vec<u8>, draft: Range<usize>) -> Self {
        let start = texts.len();
        texts.extend_from_within(draft);
        RecordText { out: texts, start }
    }

    /// Begins a member. The keys of the program need no escapes.
    fn key(&mut self, key: &'static str) {
        self.out.reserve(key.len() + 4);
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn separate(&mut self) {
        match self.out.last() {
            None => self.out.push(b'{'),
            // No member ends in a brace that opens, so the object in a member has just begun.
            Some(b'{') => {}
            Some(_) => self.out.push(b','),
        }
    }

    /// A member whose key comes from a log. `write` appends its JSON text.
    pub(super) fn member(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        self.separate();
        write_js_string(key, &mut self.out);
        self.out.push(b':');
        write(&mut self.out);
    }

    /// The members of an object of a log, except those that `replace` writes itself: then it returns true.
    pub(super) fn members_of(
        &mut self,
        object: Value<'_>,
        mut replace: impl FnMut(&mut Self, &[u8]) -> bool,
    ) {
        for (key, value) in object.members() {
            if !replace(self, key.as_wtf8()) {
                self.member(key.as_wtf8(), |out| write_value(value, KeyOrder::AsParsed, out));
            }
        }
    }

    /// A string member.
    pub(super) fn text(&mut self, key: &'static str, wtf8: &[u8]) {
        self.key(key);
        write_js_string(wtf8, &mut self.out);
    }

    /// A string member, when there is one.
    pub(super) fn maybe_text(&mut self, key: &'static str, wtf8: Option<&[u8]>) {
        if let Some(wtf8) = wtf8 {
            self.text(key, wtf8);
        }
    }

    /// A whole number.
    pub(super) fn count(&mut self, key: &'static str, count: usize) {
        self.number(key, count as f64);
    }

    /// A number.
    pub(super) fn number(&mut self, key: &'static str, number: f64) {
        self.key(key);
        write_number(number, &mut self.out);
    }

    /// A number, when there is one.
    pub(super) fn maybe_number(&mut self, key: &'static str, number: Option<f64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, flag: bool) {
        self.raw(key, if flag { b"true" } else { b"false" });
    }

    /// `true`, or no member at all.
    pub(super) fn flag_if(&mut self, key: &'static str, flag: bool) {
        if flag {
            self.flag(key, true);
        }
    }

    /// A member with a given JSON text.
    pub(super) fn raw(&mut self, key: &'static str, json: &[u8]) {
        self.key(key);
        self.out.extend_from_slice(json);
    }

    /// A value of a log.
    pub(super) fn value(&mut self, key: &'static str, value: Value<'_>) {
        self.key(key);
        write_value(value, KeyOrder::AsParsed, &mut self.out);
    }

    /// An object, whose members `write` appends.
    pub(super) fn object(&mut self, key: &'static str, write: impl FnOnce(&mut RecordText)) {
        self.key(key);
        self.out.push(b'{');
        write(self);
        self.out.push(b'}');
    }

    /// A list of strings.
    pub(super) fn texts<T: AsRef<[u8]>>(&mut self, key: &'static str, texts: &[T]) {
        self.key(key);
        self.out.push(b'[');
        for (at, text) in texts.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            write_js_string(text.as_ref(), &mut self.out);
        }
        self.out.push(b']');
    }

    /// A list of strings, when it has any.
    pub(super) fn texts_if_any<T: AsRef<[u8]>>(&mut self, key: &'static str, texts: &[T]) {
        if !texts.is_empty() {
            self.texts(key, texts);
        }
    }

    /// A list of objects, each of which `write` makes.
    pub(super) fn objects<T>(
        &mut self,
        key: &'static str,
        items: &[T],
        mut write: impl FnMut(&T, &mut RecordText),
    ) {
        self.key(key);
        self.out.push(b'[');
        for (at, item) in items.iter().enumerate() {
            self.out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
            write(item, self);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    /// Returns the text as UTF-8, with escapes for lone surrogates.
    pub(super) fn finish(self) -> Vec<u8> {
        self.finish_in().0
    }

    /// Returns all texts, and the place of the record among them.
    pub(super) fn finish_in(mut self) -> (Vec<u8>, Range<usize>) {
        if self.out.is_empty() {
            self.out.push(b'{');
        }
        self.out.push(b'}');
        self.unfinished()
    }

    /// Returns all texts, and the place of the record among them. The record lacks its last members.
    pub(super) fn unfinished(self) -> (Vec<u8>, Range<usize>) {
        let place = self.start..self.out.len();
        (self.out, place)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    fn printed(line: &str, order: KeyOrder) -> String {
        let mut document = Document::default();
        let mut out = Vec::new();
        write_value(document.parse(line.as_bytes()).unwrap(), order, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_doubles_and_indices_come_first() {
        let line = r#"{"b":9007199254740993,"a":1.0,"2":1e999,"1":[-0,"\ud800",{}],"a":{"x":null}}"#;
        assert_eq!(
            printed(line, KeyOrder::AsParsed),
            r#"{"1":[0,"\ud800",{}],"2":null,"b":9007199254740992,"a":{"x":null}}"#
        );
    }

    #[test]
    fn the_stable_text_sorts_keys_by_code_units_at_every_depth() {
        let line = r#"{"\uffff":1,"😀":2,"b":{"10":1,"9":2,"B":3},"a":[{"z":1,"y":2}]}"#;
        assert_eq!(
            printed(line, KeyOrder::Sorted),
            "{\"a\":[{\"y\":2,\"z\":1}],\"b\":{\"10\":1,\"9\":2,\"B\":3},\"😀\":2,\"\u{ffff}\":1}"
        );
    }

    #[test]
    fn lengths_count_code_units() {
        for (text, units) in [("", 0), ("abc", 3), ("é", 1), ("€", 1), ("😀", 2)] {
            assert_eq!(utf16_len(text.as_bytes()), units, "{text}");
            assert_eq!(
                utf16_units(text.as_bytes()).collect::<Vec<_>>(),
                text.encode_utf16().collect::<Vec<_>>()
            );
        }
        assert_eq!(utf16_len(b"\xED\xA0\x80"), 1);
        assert_eq!(to_utf8(b"a\xED\xA0\x80b"), "a\u{FFFD}b");
    }

    #[test]
    fn times_print_as_javascript_prints_them() {
        for (ms, text) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (-1.0, "1969-12-31T23:59:59.999Z"),
            (1_777_000_000_123.9, "2026-04-24T03:06:40.123Z"),
            (951_782_400_000.0, "2000-02-29T00:00:00.000Z"),
            (253_402_300_800_000.0, "+010000-01-01T00:00:00.000Z"),
            (-62_198_755_200_000.0, "-000001-01-01T00:00:00.000Z"),
            (8.64e15, "+275760-09-13T00:00:00.000Z"),
        ] {
            assert_eq!(iso(ms).as_deref(), Some(text), "{ms}");
        }
        assert_eq!(iso(8.640_000_000_000_001e15), None);
        assert_eq!(iso(f64::NAN), None);
    }
}

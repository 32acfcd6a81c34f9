//! Cursors into a parsed document: values, numbers, items and members.

use std::borrow::Cow;
use std::fmt;

use super::document::{Document, JsonNode, NONE, Tag};
use super::text::JsStr;
use super::write::{write_js_number, write_js_string};

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`: [`Value::as_bool`]
    Bool,
    /// [`Value::as_number`]
    Number,
    /// [`Value::as_js_str`], [`Value::as_str`]
    String,
    /// [`Value::items`], [`Value::at`]
    Array,
    /// [`Value::members`], [`Value::get`]
    Object,
}

/// One value of a parsed line: a cursor of three words, free to copy.
///
/// Two values mean the same to JavaScript when [`stringify()`] prints the same text for both. `Display` prints that text too.
#[derive(Clone, Copy)]
pub struct Value<'d> {
    document: &'d Document,
    line: &'d [u8],
    node: u32,
}

impl<'d> Value<'d> {
    pub(super) fn root(document: &'d Document, line: &'d [u8]) -> Self {
        Value { document, line, node: 0 }
    }

    pub(super) fn node(self) -> JsonNode {
        self.document.nodes[self.node as usize]
    }

    fn moved_to(self, node: u32) -> Self {
        Value { node, ..self }
    }

    /// The type of this value.
    pub fn kind(self) -> Kind {
        match self.node().tag {
            Tag::Null => Kind::Null,
            Tag::False | Tag::True => Kind::Bool,
            Tag::Number => Kind::Number,
            Tag::Plain | Tag::Decoded => Kind::String,
            Tag::Array => Kind::Array,
            Tag::Object | Tag::IndexedObject => Kind::Object,
        }
    }

    /// Whether this is `null`.
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// Whether the value is true in JavaScript: all but null, false, 0 (also a number that rounds to 0) and "".
    pub fn is_truthy(self) -> bool {
        match self.node().tag {
            Tag::Null | Tag::False => false,
            Tag::Number => self.number().as_f64() != 0.0,
            Tag::Plain | Tag::Decoded => self.node().len != 0,
            Tag::True | Tag::Array | Tag::Object | Tag::IndexedObject => true,
        }
    }

    /// The value of `true` and `false`.
    pub fn as_bool(self) -> Option<bool> {
        match self.node().tag {
            Tag::True => Some(true),
            Tag::False => Some(false),
            _ => None,
        }
    }

    /// The number, if this value is a number.
    pub fn as_number(self) -> Option<JsonNumber<'d>> {
        (self.kind() == Kind::Number).then(|| self.number())
    }

    /// The number of a number node.
    pub(super) fn number(self) -> JsonNumber<'d> {
        let JsonNode { start, len, .. } = self.node();
        let literal = &self.line[start as usize..][..len as usize];
        // The parser accepts only ASCII in a number.
        JsonNumber { literal: std::str::from_utf8(literal).unwrap_or_default() }
    }

    /// The string as in JavaScript, lone surrogates included.
    pub fn as_js_str(self) -> Option<JsStr<'d>> {
        (self.kind() == Kind::String).then(|| self.js_str())
    }

    /// The string of a string node.
    pub(super) fn js_str(self) -> JsStr<'d> {
        JsStr::new(self.document.string_bytes(self.line, self.node))
    }

    /// The string in the form that is stored: U+FFFD for each lone surrogate. Borrowed when there is no lone surrogate.
    pub fn as_str(self) -> Option<Cow<'d, str>> {
        self.as_js_str().map(JsStr::to_utf8_lossy)
    }

    /// The number of items of an array, or of different keys of an object; 0 for anything else.
    pub fn len(self) -> usize {
        match self.kind() {
            Kind::Array | Kind::Object => self.node().len as usize,
            _ => 0,
        }
    }

    /// Whether [`len`](Self::len) is 0.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The member of an object with this key; `None` for anything but an object. Skips the members before it.
    pub fn get(self, key: &str) -> Option<Value<'d>> {
        let end = if self.kind() == Kind::Object { self.node().link } else { 0 };
        let mut at = self.node + 1;
        while at < end {
            let JsonNode { len, link, .. } = self.document.nodes[at as usize];
            // The lengths differ in most cases, so the bytes are seldom looked at.
            if len as usize == key.len()
                && link != NONE
                && self.document.string_bytes(self.line, at) == key.as_bytes()
            {
                return Some(self.moved_to(link));
            }
            at = self.document.behind(at + 1);
        }
        None
    }

    /// The item of an array at this index; `None` for anything but an array. Skips the items before it.
    pub fn at(self, index: usize) -> Option<Value<'d>> {
        self.items().nth(index)
    }

    /// The items of an array; none for anything else.
    pub fn items(self) -> Items<'d> {
        let end = if self.kind() == Kind::Array { self.node().link } else { 0 };
        Items { next: self.moved_to(self.node + 1), end }
    }

    /// The members of an object in JavaScript's order, each key once: array indices ascending, then the other keys in the order
    /// of the text. None for anything but an object. `__proto__` is a key like any other.
    pub fn members(self) -> ObjectMembers<'d> {
        let JsonNode { tag: Tag::IndexedObject, start, len, .. } = self.node() else {
            return self.members_in_text_order();
        };
        ObjectMembers { next: self.moved_to(start), end: start + len, is_ordered: true }
    }

    /// The members of an object in the order of the text, each key once, at the key's first place with the key's last value.
    /// None for anything but an object.
    pub fn members_in_text_order(self) -> ObjectMembers<'d> {
        let end = if self.kind() == Kind::Object { self.node().link } else { 0 };
        ObjectMembers { next: self.moved_to(self.node + 1), end, is_ordered: false }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        stringify(*self, &mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The items of an array, in order.
#[derive(Debug, Clone)]
pub struct Items<'d> {
    next: Value<'d>,
    end: u32,
}

impl<'d> Iterator for Items<'d> {
    type Item = Value<'d>;

    fn next(&mut self) -> Option<Value<'d>> {
        let item = self.next;
        if item.node >= self.end {
            return None;
        }
        self.next.node = item.document.behind(item.node);
        Some(item)
    }
}

/// The members of an object: key and value.
#[derive(Debug, Clone)]
pub struct ObjectMembers<'d> {
    /// The next key; in the document's order, when ordered.
    next: Value<'d>,
    end: u32,
    is_ordered: bool,
}

impl<'d> ObjectMembers<'d> {
    /// The next member. The key is returned as a value too.
    pub(super) fn next_pair(&mut self) -> Option<(Value<'d>, Value<'d>)> {
        let document = self.next.document;
        while self.next.node < self.end {
            let key = if self.is_ordered {
                let key = document.order[self.next.node as usize];
                self.next.node += 1;
                key
            } else {
                let key = self.next.node;
                self.next.node = document.behind(key + 1);
                key
            };
            let value = document.nodes[key as usize].link;
            if value != NONE {
                return Some((self.next.moved_to(key), self.next.moved_to(value)));
            }
        }
        None
    }
}

impl<'d> Iterator for ObjectMembers<'d> {
    type Item = (JsStr<'d>, Value<'d>);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_pair().map(|(key, value)| (key.js_str(), value))
    }
}

/// A number, with all of its digits.
#[derive(Debug, Clone, Copy)]
pub struct JsonNumber<'d> {
    literal: &'d str,
}

impl<'d> JsonNumber<'d> {
    /// The literal from the line.
    pub fn literal(self) -> &'d str {
        self.literal
    }

    /// The value in JavaScript: the nearest double, infinite beyond the range of doubles, -0 for `-0`.
    pub fn as_f64(self) -> f64 {
        // Most numbers are counts, and a double has every whole number of 15 digits.
        if self.literal.len() <= 15 && self.literal.bytes().all(|byte| byte.is_ascii_digit()) {
            let digit = |count: u64, byte: u8| count * 10 + u64::from(byte - b'0');
            return self.literal.bytes().fold(0, digit) as f64;
        }
        // Rust parses every JSON number, so there is no other case.
        self.literal.parse().unwrap_or(f64::NAN)
    }

    /// The exact value if the value is integral and fits: `9007199254740993`, `-0` (0), `1.0`, `1e1`. A literal with a decimal
    /// point or an exponent has the value of the nearest double.
    pub fn as_i64(self) -> Option<i64> {
        if self.is_integer_literal() {
            return self.literal.parse().ok();
        }
        let value = self.as_f64();
        let fits = value.fract() == 0.0 && value >= -(2f64.powi(63)) && value < 2f64.powi(63);
        fits.then_some(value as i64)
    }

    /// Whether the literal has neither a decimal point nor an exponent.
    pub fn is_integer_literal(self) -> bool {
        !self.literal.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
    }

    /// Appends the number as JSON: an integer literal digit for digit (`-0` as `0`), any other literal in JavaScript's form,
    /// `null` when the value is infinite.
    pub fn write_json(self, out: &mut Vec<u8>) {
        if self.is_integer_literal() {
            let text = if self.literal == "-0" { "0" } else { self.literal };
            out.extend_from_slice(text.as_bytes());
        } else if self.as_f64().is_finite() {
            write_js_number(self.as_f64(), out);
        } else {
            out.extend_from_slice(b"null");
        }
    }
}

/// Appends a value as `JSON.stringify` prints it: compact, keys in JavaScript's order.
///
/// The text is always UTF-8. Integer literals keep all their digits ([`JsonNumber::write_json`](super::JsonNumber::write_json)).
pub fn stringify(value: Value<'_>, out: &mut Vec<u8>) {
    enum OpenContainer<'d> {
        Array(Items<'d>),
        Object(ObjectMembers<'d>),
    }
    let mut open = Vec::new();
    let mut value = value;
    loop {
        match value.node().tag {
            Tag::Array => {
                out.push(b'[');
                open.push(OpenContainer::Array(value.items()));
            }
            Tag::Object | Tag::IndexedObject => {
                out.push(b'{');
                open.push(OpenContainer::Object(value.members()));
            }
            Tag::Plain | Tag::Decoded => write_string(value, out),
            Tag::Number => value.number().write_json(out),
            Tag::True => out.extend_from_slice(b"true"),
            Tag::False => out.extend_from_slice(b"false"),
            Tag::Null => out.extend_from_slice(b"null"),
        }
        value = loop {
            // No value ends in an opening bracket, so a bracket at the end of `out` means that the next item is the first.
            let is_first = matches!(out.last(), Some(b'[' | b'{'));
            let next = match open.last_mut() {
                None => return,
                Some(OpenContainer::Array(items)) => items.next().map(|item| (None, item)),
                Some(OpenContainer::Object(members)) => {
                    members.next_pair().map(|(key, value)| (Some(key), value))
                }
            };
            if let Some((key, value)) = next {
                if !is_first {
                    out.push(b',');
                }
                if let Some(key) = key {
                    write_string(key, out);
                    out.push(b':');
                }
                break value;
            }
            out.push(if let Some(OpenContainer::Array(_)) = open.pop() { b']' } else { b'}' });
        };
    }
}

/// Appends a string node. A string that is in the line without escapes is copied without a look at its bytes.
fn write_string(string: Value<'_>, out: &mut Vec<u8>) {
    let text = string.js_str().as_wtf8();
    if string.node().tag == Tag::Plain {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    } else {
        write_js_string(text, out);
    }
}

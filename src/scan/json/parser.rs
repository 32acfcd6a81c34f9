//! Parses a line into a document.

use super::document::{Document, JsonNode, NONE, Tag};
use super::text::{REPLACEMENT, is_array_index_key, plain_len_bytes};
use super::value::Value;
use super::{JsonError, JsonReason};

/// The longest line that [`Document::parse`] reads, about 1.4 GB: every invalid byte may become three bytes, and the decoded
/// text must still be addressed with 32 bits.
pub const LINE_MAX_BYTES: usize = (u32::MAX / 3) as usize;

/// Capacity kept from one line to the next. Without the limit a single huge line would hold its memory for ever.
const RETAINED_NODES: usize = 1 << 16;
const RETAINED_TEXT_BYTES: usize = 1 << 20;

/// Equal keys are found pair by pair in objects up to this size, by sorting in larger objects.
const PAIRWISE_KEYS: usize = 32;

struct Parser<'p> {
    document: &'p mut Document,
    line: &'p [u8],
    at: usize,
    /// Whether the whole line is UTF-8, so that no string needs another check.
    is_utf8: bool,
}

impl Parser<'_> {
    fn line(&mut self) -> Result<(), JsonError> {
        let mut open = NONE;
        'value: loop {
            match self.peek_token() {
                Some(b'"') => {
                    self.string(NONE)?;
                }
                Some(b'{') => {
                    open = self.push(Tag::Object, 0, 0, open);
                    self.at += 1;
                    if self.peek_token() != Some(b'}') {
                        self.key(open)?;
                        continue 'value;
                    }
                }
                Some(b'[') => {
                    open = self.push(Tag::Array, 0, 0, open);
                    self.at += 1;
                    if self.peek_token() != Some(b']') {
                        self.document.nodes[open as usize].len = 1;
                        continue 'value;
                    }
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.word(b"true", Tag::True)?,
                Some(b'f') => self.word(b"false", Tag::False)?,
                Some(b'n') => self.word(b"null", Tag::Null)?,
                Some(_) => return Err(self.error(JsonReason::ExpectedValue)),
                None => return Err(self.error(JsonReason::UnexpectedEnd)),
            }
            while open != NONE {
                let is_object = self.document.nodes[open as usize].tag == Tag::Object;
                match (self.peek_token(), is_object) {
                    (Some(b','), true) => {
                        self.at += 1;
                        self.key(open)?;
                        continue 'value;
                    }
                    (Some(b','), false) => {
                        self.at += 1;
                        self.document.nodes[open as usize].len += 1;
                        continue 'value;
                    }
                    (Some(b'}'), true) => {
                        self.at += 1;
                        let object = open;
                        open = self.close(object);
                        self.settle_keys(object);
                    }
                    (Some(b']'), false) => {
                        self.at += 1;
                        open = self.close(open);
                    }
                    (Some(_), true) => return Err(self.error(JsonReason::ExpectedCommaOrBrace)),
                    (Some(_), false) => return Err(self.error(JsonReason::ExpectedCommaOrBracket)),
                    (None, _) => return Err(self.error(JsonReason::UnexpectedEnd)),
                }
            }
            return match self.peek_token() {
                None => Ok(()),
                Some(_) => Err(self.error(JsonReason::TrailingText)),
            };
        }
    }

    fn error(&self, reason: JsonReason) -> JsonError {
        JsonError { offset_bytes: self.at, reason }
    }

    fn push(&mut self, tag: Tag, start: usize, len: usize, link: u32) -> u32 {
        let node = self.document.nodes.len() as u32;
        self.document.nodes.push(JsonNode { tag, start: start as u32, len: len as u32, link });
        node
    }

    /// The next byte that is not JSON white space, with `at` on it.
    fn peek_token(&mut self) -> Option<u8> {
        loop {
            match self.line.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Ends a container; returns the enclosing container.
    fn close(&mut self, container: u32) -> u32 {
        let end = self.document.nodes.len() as u32;
        std::mem::replace(&mut self.document.nodes[container as usize].link, end)
    }

    /// Reads a key and its colon.
    fn key(&mut self, object: u32) -> Result<(), JsonError> {
        match self.peek_token() {
            Some(b'"') => {}
            Some(_) => return Err(self.error(JsonReason::ExpectedKey)),
            None => return Err(self.error(JsonReason::UnexpectedEnd)),
        }
        let value = self.document.nodes.len() as u32 + 1;
        self.string(value)?;
        self.document.nodes[object as usize].len += 1;
        match self.peek_token() {
            Some(b':') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.error(JsonReason::ExpectedColon)),
            None => Err(self.error(JsonReason::UnexpectedEnd)),
        }
    }

    fn word(&mut self, word: &[u8], tag: Tag) -> Result<(), JsonError> {
        if !self.line[self.at..].starts_with(word) {
            return Err(self.error(JsonReason::ExpectedValue));
        }
        self.at += word.len();
        self.push(tag, 0, 0, NONE);
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        if self.line[self.at] == b'-' {
            self.at += 1;
        }
        match self.line.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.line.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.line.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.line.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.push(Tag::Number, start, self.at - start, NONE);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.line.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at > start {
            return Ok(());
        }
        let at_end = self.at == self.line.len();
        Err(self.error(if at_end { JsonReason::UnexpectedEnd } else { JsonReason::ExpectedDigit }))
    }

    /// Reads a string. `at` is on the opening quote.
    fn string(&mut self, link: u32) -> Result<(), JsonError> {
        self.at += 1;
        let text = &self.line[self.at..];
        let plain = plain_len_bytes(text);
        if text.get(plain) == Some(&b'"') && (self.is_utf8 || std::str::from_utf8(&text[..plain]).is_ok()) {
            self.push(Tag::Plain, self.at, plain, link);
            self.at += plain + 1;
            return Ok(());
        }
        self.string_to_decode(link)
    }

    /// Reads a string that must be decoded. `at` is after the opening quote.
    fn string_to_decode(&mut self, link: u32) -> Result<(), JsonError> {
        let start = self.document.decoded.len();
        loop {
            let plain = plain_len_bytes(&self.line[self.at..]);
            let text = &self.line[self.at..][..plain];
            if self.is_utf8 {
                self.document.decoded.extend_from_slice(text);
            } else {
                // Quotes, backslashes and control characters end a broken UTF-8 sequence, so pieces decode like the whole.
                for chunk in text.utf8_chunks() {
                    self.document.decoded.extend_from_slice(chunk.valid().as_bytes());
                    if !chunk.invalid().is_empty() {
                        self.document.decoded.extend_from_slice(REPLACEMENT);
                    }
                }
            }
            self.at += plain;
            match self.line.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.error(JsonReason::ControlCharacter)),
                None => return Err(self.error(JsonReason::UnexpectedEnd)),
            }
        }
        self.at += 1;
        let len = self.document.decoded.len() - start;
        self.push(Tag::Decoded, start, len, link);
        Ok(())
    }

    /// Reads an escape. `at` is on the backslash.
    fn escape(&mut self) -> Result<(), JsonError> {
        let byte = match self.line.get(self.at + 1) {
            Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode_escape(),
            Some(_) => return Err(self.error(JsonReason::UnknownEscape)),
            None => {
                self.at += 1;
                return Err(self.error(JsonReason::UnexpectedEnd));
            }
        };
        self.document.decoded.push(byte);
        self.at += 2;
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<(), JsonError> {
        let Some(unit) = code_unit(&self.line[self.at..]) else {
            return Err(self.error(JsonReason::ExpectedHexDigits));
        };
        self.at += 6;
        let mut scalar = u32::from(unit);
        if let 0xD800..=0xDBFF = unit
            && let Some(low @ 0xDC00..=0xDFFF) = code_unit(&self.line[self.at..])
        {
            self.at += 6;
            scalar = 0x10000 + ((scalar - 0xD800) << 10) + (u32::from(low) - 0xDC00);
        }
        match char::from_u32(scalar) {
            Some(character) => {
                self.document.decoded.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            // A lone surrogate, in the three bytes that UTF-8 would give it.
            None => self.document.decoded.extend_from_slice(&[
                0xED,
                0x80 | (scalar >> 6 & 0x3F) as u8,
                0x80 | (scalar & 0x3F) as u8,
            ]),
        }
        Ok(())
    }

    /// Gives the value of the last of several equal keys to the first key, and sorts array-index keys to the front.
    fn settle_keys(&mut self, object: u32) {
        let (document, line) = (&mut *self.document, self.line);
        let count = document.nodes[object as usize].len as usize;
        if count < 2 {
            return;
        }
        // A bit for each sum of a key's length and two of its bytes. Keys are compared only if they share a bit.
        let (mut seen, mut has_index, mut repeats) = (0_u64, false, count > PAIRWISE_KEYS);
        for (place, key) in document.keys(object).enumerate() {
            let key = document.string_bytes(line, key);
            has_index |= is_array_index_key(key).is_some();
            let byte = |at: usize| key.get(at).map_or(0, |byte| usize::from(*byte));
            let bit = 1 << ((key.len() * 7 + byte(0) * 3 + byte(key.len().wrapping_sub(1))) % 64);
            if seen & bit != 0 && !repeats {
                let mut before = document.keys(object).take(place);
                repeats = before.any(|other| document.string_bytes(line, other) == key);
            }
            seen |= bit;
        }
        if repeats {
            document.join_equal_keys(line, object);
        }
        if has_index {
            document.order_keys(line, object);
        }
    }
}

/// The value of `\uXXXX` at the start of `text`.
fn code_unit(text: &[u8]) -> Option<u16> {
    let [b'\\', b'u', digits @ ..] = text.first_chunk::<6>()? else { return None };
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | (*digit as char).to_digit(16)? as u16))
}

impl Document {
    /// Parses a value as `JSON.parse(new TextDecoder().decode(line))` does.
    ///
    /// `line` is the result of [`trim_js`](super::trim_js). The document's previous content is dropped.
    ///
    /// # Errors
    /// When `JSON.parse` would throw, or `line` is longer than [`LINE_MAX_BYTES`].
    pub fn parse<'d>(&'d mut self, line: &'d [u8]) -> Result<Value<'d>, JsonError> {
        self.nodes.clear();
        self.nodes.shrink_to(RETAINED_NODES);
        self.decoded.clear();
        self.decoded.shrink_to(RETAINED_TEXT_BYTES);
        self.order.clear();
        self.order.shrink_to(RETAINED_NODES);
        if line.len() > LINE_MAX_BYTES {
            return Err(JsonError { offset_bytes: LINE_MAX_BYTES, reason: JsonReason::LineTooLong });
        }
        let is_utf8 = simdutf8::basic::from_utf8(line).is_ok();
        Parser { document: self, line, at: 0, is_utf8 }.line()?;
        Ok(Value::root(self, line))
    }

    #[cold]
    fn join_equal_keys(&mut self, line: &[u8], object: u32) {
        let mut keys: Vec<u32> = self.keys(object).collect();
        keys.sort_by_key(|key| (self.string_bytes(line, *key), *key));
        let mut first = keys[0];
        for key in &keys[1..] {
            if self.string_bytes(line, first) == self.string_bytes(line, *key) {
                self.nodes[first as usize].link = key + 1;
                self.nodes[*key as usize].link = NONE;
                self.nodes[object as usize].len -= 1;
            } else {
                first = *key;
            }
        }
    }

    #[cold]
    fn order_keys(&mut self, line: &[u8], object: u32) {
        let start = self.order.len();
        let keys = self.keys(object).filter(|key| self.nodes[*key as usize].link != NONE);
        let mut keys: Vec<u32> = keys.collect();
        // The sort is stable, and keys without an index sort last: they follow the indices in the order of the text.
        keys.sort_by_key(|key| is_array_index_key(self.string_bytes(line, *key)).unwrap_or(u32::MAX));
        self.order.append(&mut keys);
        self.nodes[object as usize].tag = Tag::IndexedObject;
        self.nodes[object as usize].start = start as u32;
    }
}

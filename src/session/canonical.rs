//! Reading and writing the compact JSON that writers of this store produce, without a parser's generality.
//!
//! This file touches nothing but the text it is given. It promises to give up (`None`) on anything that is not in the
//! expected form: whoever calls it then reads the text with a full parser.

use super::skip::plain_len;

/// What of a text is still to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canonical<'a> {
    rest: &'a str,
}

impl<'a> Canonical<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Exactly this text.
    #[inline]
    pub(super) fn literal(&mut self, literal: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(literal)?;
        Some(())
    }

    /// An unsigned number of up to 19 digits without a leading zero.
    #[inline]
    pub(super) fn number(&mut self) -> Option<u64> {
        let bytes = self.rest.as_bytes();
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || digits > 19 || (digits > 1 && bytes[0] == b'0') {
            return None;
        }
        let value = bytes[..digits].iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        self.rest = &self.rest[digits..];
        Some(value)
    }

    /// A string without escapes.
    #[inline]
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let inside = self.rest.strip_prefix('"')?;
        let end = plain_len(inside.as_bytes());
        if inside.as_bytes().get(end) != Some(&b'"') {
            return None;
        }
        self.rest = &inside[end + 1..];
        Some(&inside[..end])
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }
}

/// Appends a number in decimal digits.
#[inline]
pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a JSON string.
#[inline]
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

//! Reads the compact JSON that the writers of this format produce, without the generality of a parser.
//!
//! Guarantees: a text in any other form gives `None`, and the caller then reads it with `serde_json`.
//!
//! Used because keys in a fixed order need only be compared, and a rebuild reads every line.

/// The part of a text that is not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canonical<'a> {
    rest: &'a str,
}

impl<'a> Canonical<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Reads exactly this text.
    #[inline]
    pub(super) fn literal(&mut self, literal: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(literal)?;
        Some(())
    }

    /// Reads an unsigned number of up to 19 digits, which fit into 64 bits, without a leading zero.
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

    /// Reads a string without escapes.
    #[inline]
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let inside = self.rest.strip_prefix('"')?;
        let end = inside.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')?;
        self.rest = inside[end..].strip_prefix('"')?;
        Some(&inside[..end])
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }
}

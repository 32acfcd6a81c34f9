//! Cuts a text into the pieces inside which tokens are merged.
//!
//! The vocabulary comes with this pattern, whose matches are the pieces, one after the other:
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)          a contraction
//! | [^\r\n\p{L}\p{N}]? \p{L}+           letters, with one other character before them
//! | \p{N}{1,3}                          up to three digits
//! | ' '? [^\s\p{L}\p{N}]+ [\r\n]*       punctuation, with a space before it and line ends after it
//! | \s* [\r\n]+                         white space up to its last line end
//! | \s+ (?!\S) | \s+                    white space; its last character is left for the next word
//! ```
//!
//! Example: "it's  12345!\n\n x" has the pieces `it`, `'s`, ` `, ` `, `123`, `45`, `!\n\n`, ` x`.
//!
//! Rejected: a regular expression, because finding the pieces with it takes longer than counting their tokens.

use super::table::{self, CharacterClass};

/// The classes of ASCII.
const ASCII: [CharacterClass; 128] = {
    let mut classes = [CharacterClass::Other; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' => CharacterClass::Letter,
            b'0'..=b'9' => CharacterClass::Number,
            b'\t'..=b'\r' | b' ' => CharacterClass::Space,
            _ => CharacterClass::Other,
        };
        byte += 1;
    }
    classes
};

/// The longest piece that can be packed.
pub(super) const PACKED_MAX_BYTES: usize = 15;

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TextPiece<'t> {
    text: &'t [u8],
    pub start: usize,
    pub end: usize,
}

impl<'t> TextPiece<'t> {
    #[inline]
    pub(super) fn bytes(self) -> &'t [u8] {
        &self.text[self.start..self.end]
    }

    /// The bytes of a piece of at most [`PACKED_MAX_BYTES`], with zeros after them, and its length in the upper four bits of
    /// the highest byte.
    #[inline]
    pub(super) fn packed(self) -> u128 {
        let len = self.end - self.start;
        // Sixteen bytes are read at once where the text has them, because a copy of a few bytes takes longer.
        let bytes = match self.text[self.start..].first_chunk::<16>() {
            Some(bytes) => u128::from_le_bytes(*bytes) & ((1 << (8 * len)) - 1),
            None => {
                let mut bytes = [0; 16];
                bytes[..len].copy_from_slice(self.bytes());
                u128::from_le_bytes(bytes)
            }
        };
        bytes | (len as u128) << 124
    }
}

/// The pieces of a text, in order. Their bytes are the whole text.
pub(super) struct TextPieces<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> TextPieces<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        TextPieces { text, at: 0 }
    }

    /// The class of the character at a byte offset, and the offset of the next character; none at the end.
    #[inline]
    fn class_at(&self, at: usize) -> Option<(CharacterClass, usize)> {
        let byte = *self.text.as_bytes().get(at)?;
        if byte < 0x80 {
            return Some((ASCII[usize::from(byte)], at + 1));
        }
        let character = self.text[at..].chars().next()?;
        Some((table::class_of(character), at + character.len_utf8()))
    }

    /// The end of the characters of a class that begin at `at`.
    fn run_end(&self, mut at: usize, class: CharacterClass) -> usize {
        let bytes = self.text.as_bytes();
        loop {
            // Most characters are ASCII.
            let is_of_run = |byte: &u8| ASCII.get(usize::from(*byte)) == Some(&class);
            at += bytes[at..].iter().take_while(|byte| is_of_run(byte)).count();
            match self.class_at(at) {
                Some((found, next)) if found == class => at = next,
                _ => return at,
            }
        }
    }

    /// The end of the piece that begins at `start` with a character of the class `first`, whose end is `next`.
    fn end(&self, start: usize, first: CharacterClass, next: usize) -> usize {
        let bytes = self.text.as_bytes();
        let is_line_end = |at: usize| matches!(bytes.get(at), Some(b'\r' | b'\n'));
        match first {
            CharacterClass::Letter => return self.run_end(next, CharacterClass::Letter),
            CharacterClass::Number => {
                let mut end = next;
                for _ in 1..3 {
                    match self.class_at(end) {
                        Some((CharacterClass::Number, next)) => end = next,
                        _ => break,
                    }
                }
                return end;
            }
            CharacterClass::Other | CharacterClass::Space => {}
        }
        if bytes[start] == b'\''
            && let Some(len_bytes) = contraction_len_bytes(&bytes[next..])
        {
            return next + len_bytes;
        }
        let second = self.class_at(next);
        if let Some((CharacterClass::Letter, after)) = second
            && !is_line_end(start)
        {
            return self.run_end(after, CharacterClass::Letter);
        }
        let is_spaced = bytes[start] == b' ' && matches!(second, Some((CharacterClass::Other, _)));
        if first == CharacterClass::Other || is_spaced {
            let mut end = self.run_end(next, CharacterClass::Other);
            while is_line_end(end) {
                end += 1;
            }
            return end;
        }
        // White space. A run of it ends after its last line end, else before its last character.
        let (mut end, mut last) = (next, start);
        let mut after_line_end = if is_line_end(start) { Some(next) } else { None };
        while let Some((CharacterClass::Space, next)) = self.class_at(end) {
            if is_line_end(end) {
                after_line_end = Some(next);
            }
            (last, end) = (end, next);
        }
        match after_line_end {
            Some(end) => end,
            None if end == bytes.len() || last == start => end,
            None => last,
        }
    }
}

impl<'t> Iterator for TextPieces<'t> {
    type Item = TextPiece<'t>;

    fn next(&mut self) -> Option<TextPiece<'t>> {
        let start = self.at;
        let (first, next) = self.class_at(start)?;
        self.at = self.end(start, first, next);
        Some(TextPiece { text: self.text.as_bytes(), start, end: self.at })
    }
}

/// The length of the rest of a contraction after its apostrophe. U+017F is an "s" in the pattern, because it folds to "s".
fn contraction_len_bytes(rest: &[u8]) -> Option<usize> {
    match rest {
        [b's' | b'S' | b't' | b'T' | b'm' | b'M' | b'd' | b'D', ..] => Some(1),
        [b'r' | b'R' | b'v' | b'V', b'e' | b'E', ..] | [b'l' | b'L', b'l' | b'L', ..] => Some(2),
        [0xC5, 0xBF, ..] => Some(2),
        _ => None,
    }
}

//! Text as in JavaScript: white space, strings and array-index keys. Works on bytes alone.

use std::borrow::Cow;
use std::fmt;

/// U+FFFD in UTF-8: replaces a byte sequence that is not UTF-8, and a lone surrogate.
pub(super) const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// Strips JavaScript white space at both ends, as `String.prototype.trim` does.
///
/// JavaScript white space is ASCII TAB, LF, VT, FF, CR and space, and U+00A0, U+1680, U+2000–U+200A, U+2028, U+2029, U+202F,
/// U+205F, U+3000 and U+FEFF in UTF-8; not U+0085. Bytes that are not UTF-8 are not white space. Stripping raw bytes and
/// stripping the decoded text agree, because a lead byte always starts a new character.
pub fn trim_js(mut bytes: &[u8]) -> &[u8] {
    loop {
        bytes = match bytes {
            [0x09..=0x0D | 0x20, rest @ ..] => rest,
            [0xC2, 0xA0, rest @ ..] => rest,
            [a, b, c, rest @ ..] if is_wide_space([*a, *b, *c]) => rest,
            _ => break,
        }
    }
    loop {
        bytes = match bytes {
            [rest @ .., 0x09..=0x0D | 0x20] => rest,
            [rest @ .., 0xC2, 0xA0] => rest,
            [rest @ .., a, b, c] if is_wide_space([*a, *b, *c]) => rest,
            _ => return bytes,
        }
    }
}

/// Whether a line is in braces. Half a line, or two lines in one, mostly lack a brace, and are therefore noticed without parsing.
pub(crate) fn is_in_braces(line: &[u8]) -> bool {
    let is_so = |text: &[u8]| text.starts_with(b"{") && text.ends_with(b"}");
    // Most lines need no trimming.
    is_so(line) || is_so(trim_js(line))
}

/// Whether three bytes are one white-space character.
fn is_wide_space(bytes: [u8; 3]) -> bool {
    matches!(
        bytes,
        [0xE1, 0x9A, 0x80]
            | [0xE2, 0x80, 0x80..=0x8A | 0xA8 | 0xA9 | 0xAF]
            | [0xE2, 0x81, 0x9F]
            | [0xE3, 0x80, 0x80]
            | [0xEF, 0xBB, 0xBF]
    )
}

/// The array index that a key spells, if any: 0 to 2^32-2 in canonical decimal form.
///
/// JavaScript puts such keys before all others, in ascending order.
pub fn is_array_index_key(key: &[u8]) -> Option<u32> {
    match key {
        [b'0'] => Some(0),
        [b'1'..=b'9', rest @ ..] if key.len() <= 10 && rest.iter().all(u8::is_ascii_digit) => {
            let index = key.iter().fold(0, |index, digit| index * 10 + u64::from(digit - b'0'));
            u32::try_from(index).ok().filter(|index| *index != u32::MAX)
        }
        _ => None,
    }
}

/// How a lone surrogate begins in WTF-8. Some characters begin likewise.
pub(super) const SURROGATE_LEAD: u8 = 0xED;

/// How many bytes come before the first byte that a JSON string must escape: `"`, `\` or a byte below 0x20.
pub(super) fn plain_len_bytes(bytes: &[u8]) -> usize {
    len_bytes_before::<false>(bytes)
}

/// How many bytes come before the first byte that a JSON string must escape, or with which a lone surrogate may begin.
pub(super) fn printable_len_bytes(bytes: &[u8]) -> usize {
    len_bytes_before::<true>(bytes)
}

fn len_bytes_before<const LEADS: bool>(bytes: &[u8]) -> usize {
    // Most strings are short; long ones are compared sixteen bytes at a time after their beginning.
    if let Some(found) = special_in_words::<LEADS>(&bytes[..bytes.len().min(32)]) {
        return found;
    }
    let is_special =
        |byte: &u8| (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\') | (LEADS && *byte == SURROGATE_LEAD);
    let mut at = bytes.len().min(32);
    while let Some(chunk) = bytes[at..].first_chunk::<64>() {
        if chunk.iter().fold(false, |found, byte| found | is_special(byte)) {
            break;
        }
        at += 64;
    }
    at + special_in_words::<LEADS>(&bytes[at..]).unwrap_or(bytes.len() - at)
}

/// Where the first byte is that [`len_bytes_before`] looks for.
fn special_in_words<const LEADS: bool>(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    // Eight bytes at once. A borrow can raise a false flag only above a true flag, so the lowest flag is right.
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let lead = word ^ (ONES * u64::from(SURROGATE_LEAD));
        let leads = if LEADS { lead.wrapping_sub(ONES) & !lead } else { 0 };
        let flags = leads
            | (word.wrapping_sub(ONES * 0x20) & !word)
            | (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash);
        if flags & HIGHS != 0 {
            return Some(at + ((flags & HIGHS).trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let is_special =
        |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\') || LEADS && *byte == SURROGATE_LEAD;
    let special = bytes[at..].iter().position(is_special);
    special.map(|found| at + found)
}

/// A JavaScript string: UTF-8, except that a lone surrogate is encoded in three bytes as if it were a character (WTF-8).
///
/// A surrogate pair is always one character of four bytes, so equal strings have equal bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JsStr<'d> {
    wtf8: &'d [u8],
}

impl<'d> JsStr<'d> {
    pub(super) fn new(wtf8: &'d [u8]) -> Self {
        JsStr { wtf8 }
    }

    /// The bytes, lone surrogates included: the input of [`write_js_string`](super::write_js_string).
    pub fn as_wtf8(self) -> &'d [u8] {
        self.wtf8
    }

    /// The text with U+FFFD for each lone surrogate: the form that is stored and hashed. Borrowed when there is no lone
    /// surrogate.
    pub fn to_utf8_lossy(self) -> Cow<'d, str> {
        if let Ok(text) = simdutf8::basic::from_utf8(self.wtf8) {
            return Cow::Borrowed(text);
        }
        let mut text = String::with_capacity(self.wtf8.len());
        for chunk in self.wtf8.utf8_chunks() {
            text.push_str(chunk.valid());
            // A surrogate is three invalid chunks of a byte each. The lead byte is replaced, the two other bytes are skipped.
            if chunk.invalid().first() == Some(&0xED) {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Cow::Owned(text)
    }
}

impl PartialEq<str> for JsStr<'_> {
    fn eq(&self, other: &str) -> bool {
        self.wtf8 == other.as_bytes()
    }
}

impl fmt::Debug for JsStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_utf8_lossy().fmt(f)
    }
}

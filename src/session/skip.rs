//! Whether a text is one JSON value, decided without building anything.
//!
//! This file touches nothing but the text it is given. It promises to accept exactly what serde_json accepts as a `RawValue`
//! without blanks around it ([`is_value`]), or of that what writers of compact JSON produce ([`Skipper`], which is faster);
//! property tests hold all three against each other.

mod quotes;

use self::quotes::escape_len;

/// Levels of nesting that are followed; a deeper text is left to serde_json.
const MAX_DEPTH: u32 = 64;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Length of the text up to the first quote, backslash or control character.
#[inline]
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte that is 0 behind the exclusive or, or below 0x20; bytes above 0x7f are none. A borrow
        // can only mark bytes above the first marked one, which is the one that counts.
        let zero = |word: u64| word.wrapping_sub(ONES) & !word;
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let found = (control | quote | backslash) & HIGHS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = &bytes[at..];
    at + rest.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\').unwrap_or(rest.len())
}

/// Whether `text` is one JSON value with nothing around it. `None` when it nests too deep to say.
pub(super) fn is_value(text: &str) -> Option<bool> {
    let bytes = text.as_bytes();
    let first = bytes.first()?;
    if is_blank(*first) || bytes.last().is_some_and(|last| is_blank(*last)) {
        return Some(false);
    }
    let mut text = Text { bytes, at: 0, strings: ByBytes };
    text.value().map(|end| end == Some(bytes.len()))
}

/// Decides the same for texts without control characters, which is what writers of compact JSON produce, with a map of all
/// quotes made first: the strings of a text are then passed over without looking at them again.
#[derive(Debug, Default)]
pub(super) struct Skipper {
    /// A bit a byte of the text, set for a quote that is not escaped.
    quotes: Vec<u64>,
}

impl Skipper {
    /// Whether `text` is one JSON value with nothing around it and without control characters. `false` is no answer: ask
    /// [`is_value`].
    pub(super) fn is_plain_value(&mut self, text: &str) -> bool {
        let bytes = text.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
        if *first == b' ' || *last == b' ' || !quotes::find(bytes, &mut self.quotes) {
            return false;
        }
        let mut text = Text { bytes, at: 0, strings: ByQuotes(&self.quotes) };
        text.value() == Some(Some(bytes.len()))
    }
}

/// How strings are passed over.
trait Strings {
    /// The byte behind the closing quote of a string whose inside starts at `at`; none when it has no end or is none.
    fn end(&self, bytes: &[u8], at: usize) -> Option<usize>;
}

/// Looking for the quotes, and at every escape on the way.
struct ByBytes;

impl Strings for ByBytes {
    fn end(&self, bytes: &[u8], mut at: usize) -> Option<usize> {
        loop {
            at += plain_len(&bytes[at..]);
            match bytes.get(at)? {
                b'"' => return Some(at + 1),
                b'\\' => at += escape_len(&bytes[at..])?,
                _ => return None,
            }
        }
    }
}

/// By a map of all quotes; escapes and control characters were looked at when it was made.
struct ByQuotes<'q>(&'q [u64]);

impl Strings for ByQuotes<'_> {
    #[inline]
    fn end(&self, _bytes: &[u8], at: usize) -> Option<usize> {
        let mut word = at / 64;
        let mut quotes = self.0.get(word)? & (!0 << (at % 64));
        while quotes == 0 {
            word += 1;
            quotes = *self.0.get(word)?;
        }
        Some(word * 64 + quotes.trailing_zeros() as usize + 1)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

struct Text<'a, S> {
    bytes: &'a [u8],
    at: usize,
    strings: S,
}

impl<S: Strings> Text<'_, S> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next_token(&mut self) -> Option<u8> {
        while is_blank(self.peek()?) {
            self.at += 1;
        }
        self.peek()
    }

    /// Where the value ends, or `None` where it is none; all of it `None` when it nests too deep.
    fn value(&mut self) -> Option<Option<usize>> {
        // A bit a level, set for objects.
        let (mut kinds, mut depth) = (0_u64, 0_u32);
        loop {
            // A value begins here.
            let Some(byte) = self.next_token() else { return Some(None) };
            let opened = matches!(byte, b'{' | b'[');
            if opened {
                if depth == MAX_DEPTH {
                    return None;
                }
                kinds = kinds << 1 | u64::from(byte == b'{');
                depth += 1;
                self.at += 1;
                let closing = if byte == b'{' { b'}' } else { b']' };
                if self.next_token() != Some(closing) {
                    if byte == b'{' && !self.key() {
                        return Some(None);
                    }
                    continue;
                }
            } else if !self.scalar(byte) {
                return Some(None);
            }
            // A value, or an empty container that is still open, ends here.
            let mut is_empty = opened;
            loop {
                if depth == 0 {
                    return Some(Some(self.at));
                }
                let is_object = kinds & 1 == 1;
                let Some(byte) = self.next_token() else { return Some(None) };
                self.at += 1;
                if byte == if is_object { b'}' } else { b']' } {
                    kinds >>= 1;
                    depth -= 1;
                    is_empty = false;
                } else if byte == b',' && !is_empty {
                    if is_object && !self.key() {
                        return Some(None);
                    }
                    break;
                } else {
                    return Some(None);
                }
            }
        }
    }

    /// A key and its colon.
    fn key(&mut self) -> bool {
        if self.next_token() != Some(b'"') || !self.string() || self.next_token() != Some(b':') {
            return false;
        }
        self.at += 1;
        true
    }

    fn scalar(&mut self, first: u8) -> bool {
        match first {
            b'"' => self.string(),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, literal: &[u8]) -> bool {
        let is_there = self.bytes[self.at..].starts_with(literal);
        self.at += literal.len();
        is_there
    }

    fn digits(&mut self) -> usize {
        let count = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn number(&mut self) -> bool {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let starts_with_zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || (starts_with_zero && digits > 1) {
            return false;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return false;
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return false;
            }
        }
        true
    }

    /// A string, from its opening quote on.
    fn string(&mut self) -> bool {
        match self.strings.end(self.bytes, self.at + 1) {
            Some(end) => self.at = end,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn is_plain_value(text: &str) -> bool {
        Skipper::default().is_plain_value(text)
    }

    /// What the skipper must say: it gives up on control characters, and on nothing else that `is_value` accepts.
    fn expected_of_skipper(text: &str) -> bool {
        is_value(text) == Some(true) && !text.bytes().any(|byte| byte < 0x20)
    }

    fn by_serde(text: &str) -> bool {
        serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get().len() == text.len())
    }

    #[test]
    fn odd_texts_are_judged_as_by_serde_json() {
        for text in [
            "",
            " ",
            "{}",
            "[]",
            "{ }",
            "[ ]",
            "[,]",
            "{,}",
            "[1,]",
            "{\"a\":1,}",
            "[[],[]]",
            "[[]",
            "[]]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
            "{1:2}",
            "0",
            "-0",
            "-",
            "00",
            "01",
            "-01",
            "1.",
            ".5",
            "1.5",
            "1e",
            "1e+",
            "1E-7",
            "1e400",
            "+1",
            "true",
            "tru",
            "truex",
            "null",
            "nul",
            "\"",
            "\"\"",
            "\"\\\"",
            "\"\\u12\"",
            "\"\\u12G4\"",
            "\"\\uD800\"",
            "\"\\x\"",
            "\"\t\"",
            "\"\u{7f}\u{80}é\u{10ffff}\"",
            "{} {}",
            " {}",
            "{}\n",
            "{\n\"a\"\t:\r[ 1 , 2 ] }",
            "[{\"a\":[]},{}]",
            "{\"a\":{}}",
            "{\"a\":{},}",
            "[{]}",
            "[1 2]",
            "[\"a\" : 1]",
        ] {
            assert_eq!(is_value(text).unwrap_or(false), by_serde(text), "{text:?}");
            assert_eq!(is_plain_value(text), expected_of_skipper(text), "{text:?}");
        }
        for (depth, known) in [(64, true), (65, false)] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(is_value(&text), known.then_some(true));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_as_by_serde_json(text in "[\\[\\]{},:\"\\\\truefalsn0-9.eE+ \u{e9}\u{1}-]{0,14}") {
            prop_assert_eq!(is_value(&text).unwrap_or(false), by_serde(&text));
            prop_assert_eq!(is_plain_value(&text), expected_of_skipper(&text));
        }

        #[test]
        fn values_with_one_byte_changed_are_judged_as_by_serde_json(
            value in crate::session::tests::any_json(),
            pretty in any::<bool>(),
            at in any::<prop::sample::Index>(),
            with in prop::sample::select(&b"\"\\{}[],:019-+.eEutn \n\x01\x1f\x20\x7f"[..]),
        ) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            prop_assert_eq!(is_value(&text), Some(by_serde(&text)));
            prop_assert_eq!(is_plain_value(&text), expected_of_skipper(&text), "{}", text);
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert_eq!(is_value(&text).unwrap_or(false), by_serde(&text), "{}", text);
                prop_assert_eq!(is_plain_value(&text), expected_of_skipper(&text), "{}", text);
            }
        }

        #[test]
        fn long_strings_of_escapes_are_judged_as_by_serde_json(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("\\\\".to_owned()), Just("\\\"".to_owned()), Just("\\n".to_owned()), Just("\\u00e9".to_owned()),
                    Just("\\".to_owned()), Just("\\u12".to_owned()), Just("\"".to_owned()), "[a-zé]{0,70}",
                ],
                0..40,
            ),
        ) {
            let text = format!("[\"{}\"]", parts.concat());
            prop_assert_eq!(is_value(&text).unwrap_or(false), by_serde(&text), "{}", text);
            prop_assert_eq!(is_plain_value(&text), expected_of_skipper(&text), "{}", text);
        }

        #[test]
        fn plain_text_ends_where_a_byte_by_byte_search_ends(bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 9 => 0x20_u8..], 0..40)) {
            let slow = bytes.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
            prop_assert_eq!(plain_len(&bytes), slow.unwrap_or(bytes.len()));
        }
    }
}

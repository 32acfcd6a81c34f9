//! Reads the values of an ordinary line one after another, where they stand in the text: the fast path, tried before
//! [`Document`](super::Document).
//!
//! Works on the bytes of its argument alone. Guarantees: what is read or skipped is JSON; a value is read once, and the walk then
//! stands after the value. JavaScript may accept a line that the walk refuses (deep nesting, lone surrogates, white space that
//! JSON does not have), so a refusal, `None`, is never a verdict.
//!
//! Rejected: a tape of the whole line (simd-json). It finds the structure of a line faster, and then writes and reads a node for
//! each value, also for values that no column needs.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

use super::text::plain_len_bytes;

/// Objects and arrays inside each other that are skipped: one bit of a word for each.
const DEPTH_MAX: u32 = 64;

/// A place in the text of a value. Strings with escapes are unescaped into the arena.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    text: &'a str,
    at: usize,
    bump: &'a Bump,
}

/// The members of an object, one after another.
pub(crate) struct WalkMembers<'w, 'a> {
    walk: &'w mut Walk<'a>,
    is_first: bool,
}

/// The items of an array, one after another.
pub(crate) struct WalkItems<'w, 'a> {
    walk: &'w mut Walk<'a>,
    is_first: bool,
}

impl<'a> WalkMembers<'_, 'a> {
    /// The key of the next member, whose value has to be read before the next call; `Some(None)` after the last member.
    #[inline(always)]
    #[expect(clippy::option_option, reason = "no JSON, and the end")]
    pub(crate) fn next(&mut self) -> Option<Option<&'a str>> {
        if !self.walk.goes_on(&mut self.is_first, b'}')? {
            return Some(None);
        }
        self.walk.key().map(Some)
    }

    /// The value of the member.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> &mut Walk<'a> {
        self.walk
    }
}

impl<'a> WalkItems<'_, 'a> {
    /// Whether there is another item, which has to be read before the next call.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<bool> {
        self.walk.goes_on(&mut self.is_first, b']')
    }

    /// The item.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> &mut Walk<'a> {
        self.walk
    }
}

impl<'a> Walk<'a> {
    /// A walk that stands before the value in `text`.
    pub(crate) fn new(text: &'a str, bump: &'a Bump) -> Self {
        Self { text, at: 0, bump }
    }

    /// Whether only white space is left.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// The next byte that is no white space; the walk then stands at this byte.
    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                byte => return byte.copied(),
            }
        }
    }

    /// Moves past `byte`, which must come next.
    #[inline(always)]
    fn pass(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Moves to the next member or item, or past the end of the container.
    #[inline(always)]
    fn goes_on(&mut self, is_first: &mut bool, end: u8) -> Option<bool> {
        let is_first = std::mem::replace(is_first, false);
        let byte = self.peek()?;
        if byte == end {
            self.at += 1;
            return Some(false);
        }
        if is_first {
            return Some(true);
        }
        (byte == b',').then(|| {
            self.at += 1;
            true
        })
    }

    #[inline(always)]
    fn key(&mut self) -> Option<&'a str> {
        let key = self.str()?;
        self.pass(b':')?;
        Some(key)
    }

    /// The members of the next value, an object.
    #[inline(always)]
    pub(crate) fn object(&mut self) -> Option<WalkMembers<'_, 'a>> {
        self.pass(b'{')?;
        Some(WalkMembers { walk: self, is_first: true })
    }

    /// The items of the next value, an array.
    #[inline(always)]
    pub(crate) fn array(&mut self) -> Option<WalkItems<'_, 'a>> {
        self.pass(b'[')?;
        Some(WalkItems { walk: self, is_first: true })
    }

    /// The next value, a string.
    #[inline(always)]
    pub(crate) fn str(&mut self) -> Option<&'a str> {
        self.pass(b'"')?;
        let start = self.at;
        let end = start + plain_len_bytes(&self.text.as_bytes()[start..]);
        if self.text.as_bytes().get(end) == Some(&b'"') {
            self.at = end + 1;
            return self.text.get(start..end);
        }
        self.unescape(end)
    }

    /// The string that begins at the walk's place, whose first escape is at `escape`.
    #[cold]
    fn unescape(&mut self, mut escape: usize) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let mut text = BumpVec::with_capacity_in(escape - self.at + 64, self.bump);
        loop {
            text.extend_from_slice_copy(&bytes[self.at..escape]);
            let plain = match (bytes.get(escape)?, bytes.get(escape + 1)) {
                (b'"', _) => break,
                (b'\\', Some(plain @ (b'"' | b'\\' | b'/'))) => *plain,
                (b'\\', Some(b'b')) => 0x08,
                (b'\\', Some(b'f')) => 0x0c,
                (b'\\', Some(b'n')) => b'\n',
                (b'\\', Some(b'r')) => b'\r',
                (b'\\', Some(b't')) => b'\t',
                (b'\\', Some(b'u')) => {
                    let (character, len) = escaped_character(&bytes[escape..])?;
                    text.extend_from_slice_copy(character.encode_utf8(&mut [0; 4]).as_bytes());
                    self.at = escape + len;
                    escape = self.at + plain_len_bytes(&bytes[self.at..]);
                    continue;
                }
                _ => return None,
            };
            text.push(plain);
            self.at = escape + 2;
            escape = self.at + plain_len_bytes(&bytes[self.at..]);
        }
        self.at = escape + 1;
        str::from_utf8(text.into_bump_slice()).ok()
    }

    /// Whether the next value is a string.
    #[inline(always)]
    pub(crate) fn is_string(&mut self) -> bool {
        self.peek() == Some(b'"')
    }

    /// Moves past null, if null comes next.
    #[inline(always)]
    pub(crate) fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.word("null").is_some()
    }

    #[inline(always)]
    fn word(&mut self, word: &str) -> Option<()> {
        let is_there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        is_there.then(|| self.at += word.len())
    }

    /// The next value, true or false.
    #[inline(always)]
    pub(crate) fn bool(&mut self) -> Option<bool> {
        match self.peek()? {
            b't' => self.word("true").map(|()| true),
            b'f' => self.word("false").map(|()| false),
            _ => None,
        }
    }

    /// The next value, an integer without fraction and exponent: its magnitude, and whether it is negative.
    #[inline(always)]
    fn digits(&mut self) -> Option<(u64, bool)> {
        let is_negative = self.peek()? == b'-';
        let bytes = &self.text.as_bytes()[self.at + usize::from(is_negative)..];
        let first = *bytes.first()?;
        let (mut magnitude, mut len) = (0u64, 0);
        while let Some(digit @ b'0'..=b'9') = bytes.get(len).copied() {
            magnitude = magnitude.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            len += 1;
        }
        let is_integer =
            len > 0 && (first != b'0' || len == 1) && !matches!(bytes.get(len), Some(b'.' | b'e' | b'E'));
        self.at += usize::from(is_negative) + len;
        is_integer.then_some((magnitude, is_negative))
    }

    /// The next value, an integer of 64 bits.
    #[inline(always)]
    pub(crate) fn integer(&mut self) -> Option<i64> {
        match self.digits()? {
            (magnitude, false) => i64::try_from(magnitude).ok(),
            (magnitude, true) => 0i64.checked_sub_unsigned(magnitude),
        }
    }

    /// The next value, an integer, as JavaScript's number.
    pub(crate) fn number(&mut self) -> Option<f64> {
        let start = *self;
        self.integer().map(|number| number as f64).or_else(|| {
            *self = start;
            self.digits().filter(|(_, is_negative)| !is_negative).map(|(magnitude, _)| magnitude as f64)
        })
    }

    /// Skips one value and returns a walk that stands before the value.
    pub(crate) fn take(&mut self) -> Option<Self> {
        self.peek()?;
        let start = self.at;
        self.skip()?;
        Some(Self { text: self.text.get(start..self.at)?, at: 0, bump: self.bump })
    }

    /// Moves past one value of any kind.
    pub(crate) fn skip(&mut self) -> Option<()> {
        // The containers around the place, innermost in the lowest bit: 1 is an object.
        let (mut depth, mut objects) = (0, 0u64);
        loop {
            let byte = self.peek()?;
            match byte {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    if depth == DEPTH_MAX {
                        return None;
                    }
                    self.at += 1;
                    let is_object = byte == b'{';
                    // `}` and `]` are two after `{` and `[`.
                    if self.peek()? != byte + 2 {
                        depth += 1;
                        objects = objects << 1 | u64::from(is_object);
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => self.skip_number()?,
            }
            loop {
                if depth == 0 {
                    return Some(());
                }
                let is_object = objects & 1 == 1;
                match (self.peek()?, is_object) {
                    (b',', _) => {
                        self.at += 1;
                        if is_object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        depth -= 1;
                        objects >>= 1;
                    }
                    _ => return None,
                }
            }
        }
    }

    #[inline(always)]
    fn skip_key(&mut self) -> Option<()> {
        self.peek()?;
        self.skip_string()?;
        self.pass(b':')
    }

    #[inline(always)]
    fn skip_string(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        if bytes[self.at] != b'"' {
            return None;
        }
        let end = self.at + 1 + plain_len_bytes(&bytes[self.at + 1..]);
        if bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Some(());
        }
        self.at += 1;
        self.unescape(end).map(|_| ())
    }

    #[inline(always)]
    fn skip_number(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let digits = |at: usize| at + bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let start = self.at + usize::from(bytes[self.at] == b'-');
        let mut end = digits(start);
        if end == start || (bytes[start] == b'0' && end > start + 1) {
            return None;
        }
        if bytes.get(end) == Some(&b'.') {
            let fraction = end + 1;
            end = digits(fraction);
            if end == fraction {
                return None;
            }
        }
        if let Some(b'e' | b'E') = bytes.get(end) {
            let exponent = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            end = digits(exponent);
            if end == exponent {
                return None;
            }
        }
        self.at = end;
        Some(())
    }
}

/// The character of `\uXXXX`, or of two of them, at the start of `text`, and the length of the escape; `None` for a lone
/// surrogate.
fn escaped_character(text: &[u8]) -> Option<(char, usize)> {
    let unit = |text: &[u8]| {
        let [b'\\', b'u', digits @ ..] = text.first_chunk::<6>()? else { return None };
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | (*digit as char).to_digit(16)?))
    };
    match unit(text)? {
        high @ 0xd800..=0xdbff => match unit(&text[6..])? {
            low @ 0xdc00..=0xdfff => {
                char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|pair| (pair, 12))
            }
            _ => None,
        },
        unit => char::from_u32(unit).map(|character| (character, 6)),
    }
}

/// Notes that a known key was seen. A repeated key is for the exact path.
#[inline(always)]
pub(crate) fn once(seen: &mut u64, bit: u32) -> Option<()> {
    let mask = 1 << bit;
    if *seen & mask != 0 {
        return None;
    }
    *seen |= mask;
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::properties::odd_line;
    use super::super::{Document, write_js_string};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn a_line_that_is_skipped_is_json(line in odd_line()) {
            let bump = Bump::new();
            if let Ok(text) = str::from_utf8(&line) {
                let mut walk = Walk::new(text, &bump);
                if walk.skip().is_some() && walk.is_at_end() {
                    prop_assert!(Document::default().parse(text.as_bytes()).is_ok(), "{}", text);
                }
            }
        }

        #[test]
        fn strings_return(text in any::<String>(), units in prop::collection::vec(any::<u16>(), 0..4)) {
            let bump = Bump::new();
            let mut json = Vec::new();
            write_js_string(text.as_bytes(), &mut json);
            json.pop();
            units.iter().for_each(|unit| json.extend_from_slice(format!("\\u{unit:04X}").as_bytes()));
            json.extend_from_slice(b"\" ,");
            let json = String::from_utf8(json).unwrap();
            let mut walk = Walk::new(&json, &bump);
            match String::from_utf16(&units) {
                Ok(end) => {
                    prop_assert_eq!(walk.str(), Some(&*(text + &end)));
                    prop_assert_eq!(walk.peek(), Some(b','));
                }
                Err(_) => prop_assert_eq!(walk.str(), None),
            }
        }
    }

    #[test]
    fn containers_are_skipped_to_a_depth() {
        let bump = Bump::new();
        for (depth, is_skipped) in [(1, true), (64, true), (65, false), (100_000, false)] {
            let text = format!("{}1{}", "[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2));
            let text = if depth % 2 == 1 { format!("[{text}]") } else { text };
            assert_eq!(Walk::new(&text, &bump).skip().is_some(), is_skipped, "{depth}");
        }
    }

    #[test]
    fn integers_are_read_whole_or_refused() {
        let bump = Bump::new();
        for (text, integer, number) in [
            ("0", Some(0), Some(0.0)),
            ("-0", Some(0), Some(0.0)),
            ("9223372036854775807", Some(i64::MAX), Some(i64::MAX as f64)),
            ("-9223372036854775808", Some(i64::MIN), Some(i64::MIN as f64)),
            ("9223372036854775808", None, Some(9_223_372_036_854_775_808.0)),
            ("-9223372036854775809", None, None),
            ("18446744073709551616", None, None),
            ("01", None, None),
            ("-", None, None),
            ("1.0", None, None),
            ("1e3", None, None),
            ("true", None, None),
        ] {
            assert_eq!(Walk::new(text, &bump).integer(), integer, "{text}");
            assert_eq!(Walk::new(text, &bump).number(), number, "{text}");
        }
    }

    #[test]
    fn members_and_items_are_read_in_order() {
        let bump = Bump::new();
        let mut walk = Walk::new(" { \"a\" : [ 1 , true,null ] ,\"b\":{},\"c\": [] } ", &bump);
        let mut members = walk.object().unwrap();
        assert_eq!(members.next(), Some(Some("a")));
        let mut items = members.value().array().unwrap();
        assert_eq!((items.next(), items.value().integer()), (Some(true), Some(1)));
        assert_eq!((items.next(), items.value().bool()), (Some(true), Some(true)));
        assert_eq!((items.next(), items.value().null()), (Some(true), true));
        assert_eq!(items.next(), Some(false));
        assert_eq!(members.next(), Some(Some("b")));
        assert_eq!(members.value().take().and_then(|mut b| b.object().unwrap().next()), Some(None));
        assert_eq!(members.next(), Some(Some("c")));
        assert_eq!(members.value().array().unwrap().next(), Some(false));
        assert_eq!(members.next(), Some(None));
        assert!(walk.is_at_end());
        for refused in [
            "{\"a\":1,}",
            "{,}",
            "{\"a\" 1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":01}",
            "{\"a\":[1,]}",
            "{\"a\":[,]}",
        ] {
            assert_eq!(Walk::new(refused, &bump).skip(), None, "{refused}");
        }
        // A value that is not read is no member.
        let mut walk = Walk::new("{\"a\":1}", &bump);
        let mut members = walk.object().unwrap();
        assert_eq!((members.next(), members.next()), (Some(Some("a")), None));
    }
}

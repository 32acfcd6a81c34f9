//! Finding all quotes of a JSON text that are not escaped, 64 bytes at a time.
//!
//! This file touches nothing but the text it is given. It promises that a text it finds the quotes of has no control
//! characters and only escapes that JSON knows, wherever in the text they stand.

/// What stands where in 64 bytes: a bit a byte.
struct Marks {
    quotes: u64,
    backslashes: u64,
    has_control: bool,
}

/// Puts the quotes of `text` into `quotes`, a bit a byte, lowest first; `false` when the text has control characters or
/// other escapes than JSON.
pub(super) fn find(text: &[u8], quotes: &mut Vec<u64>) -> bool {
    quotes.clear();
    let (blocks, rest) = text.as_chunks::<64>();
    let mut finder = Finder { text, at: 0, escapes_next: false };
    for block in blocks {
        match finder.quotes(block) {
            Some(found) => quotes.push(found),
            None => return false,
        }
    }
    let mut last = [b' '; 64];
    last[..rest.len()].copy_from_slice(rest);
    finder.quotes(&last).is_some_and(|found| {
        quotes.push(found);
        true
    })
}

struct Finder<'t> {
    text: &'t [u8],
    /// Where the block stands in the text.
    at: usize,
    /// The block before ended with a backslash that escapes the first byte of this one.
    escapes_next: bool,
}

impl Finder<'_> {
    #[inline]
    fn quotes(&mut self, block: &[u8; 64]) -> Option<u64> {
        let Marks { quotes, backslashes, has_control } = marks(block);
        if has_control {
            return None;
        }
        let mut escaped = 0;
        if backslashes != 0 || self.escapes_next {
            escaped = self.escaped(backslashes);
            let mut others = escaped & !(quotes | backslashes);
            while others != 0 {
                let at = self.at + others.trailing_zeros() as usize;
                escape_len(&self.text[at - 1..])?;
                others &= others - 1;
            }
        }
        self.at += 64;
        Some(quotes & !escaped)
    }

    /// The bytes behind an odd number of backslashes, by an addition that carries through runs of them (as simdjson does).
    fn escaped(&mut self, backslashes: u64) -> u64 {
        const EVEN: u64 = 0x5555_5555_5555_5555;
        let first_escaped = u64::from(self.escapes_next);
        let backslashes = backslashes & !first_escaped;
        let follows = backslashes << 1 | first_escaped;
        let odd_starts = backslashes & !EVEN & !follows;
        let (even_ends, escapes_next) = odd_starts.overflowing_add(backslashes);
        self.escapes_next = escapes_next;
        (EVEN ^ (even_ends << 1)) & follows
    }
}

/// The length of the escape that `bytes` start with.
pub(super) fn escape_len(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' if bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit) => Some(6),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn marks(block: &[u8; 64]) -> Marks {
    // SAFETY: SSE2 is part of x86-64: there is no such processor without it.
    unsafe { marks_with_sse2(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn marks_with_sse2(block: &[u8; 64]) -> Marks {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
        _mm_setzero_si128,
    };

    let mut marks = Marks { quotes: 0, backslashes: 0, has_control: false };
    let mut control = _mm_setzero_si128();
    for (place, bytes) in block.as_chunks::<16>().0.iter().enumerate() {
        let (low, high) = bytes.split_at(8);
        let half = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
        let bytes = _mm_set_epi64x(half(high), half(low));
        let mask = |found| u64::from(_mm_movemask_epi8(found) as u16) << (16 * place);
        marks.quotes |= mask(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8)));
        marks.backslashes |= mask(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8)));
        // Not above 0x1f, without sign.
        control = _mm_or_si128(control, _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes));
    }
    marks.has_control = _mm_movemask_epi8(control) != 0;
    marks
}

#[cfg(not(target_arch = "x86_64"))]
fn marks(block: &[u8; 64]) -> Marks {
    let mask =
        |is: fn(u8) -> bool| block.iter().rev().fold(0, |mask: u64, byte| mask << 1 | u64::from(is(*byte)));
    Marks {
        quotes: mask(|byte| byte == b'"'),
        backslashes: mask(|byte| byte == b'\\'),
        has_control: mask(|byte| byte < 0x20) != 0,
    }
}

//! Writes numbers, hexadecimal ids, timestamps and words into a byte buffer, fast and without a formatter.

use super::rng::Rng;

/// 2026-01-01T00:00:00.000Z, the start of every generated ledger, in milliseconds of Unix time.
pub(super) const START_MS: u64 = 1_767_225_600_000;

const HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The 16 hexadecimal digits of `word`.
pub(super) fn hex16(word: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(word.to_be_bytes()) {
        pair.copy_from_slice(&HEX_PAIRS[byte as usize]);
    }
    digits
}

/// 24 hexadecimal digits: the part of message and tool call ids after the prefix.
pub(super) fn hex24(rng: &mut Rng) -> [u8; 24] {
    let mut digits = [0; 24];
    digits[..16].copy_from_slice(&hex16(rng.next()));
    digits[16..].copy_from_slice(&hex16(rng.next())[..8]);
    digits
}

/// 32 hexadecimal digits.
pub(super) fn hex32(rng: &mut Rng) -> [u8; 32] {
    let mut digits = [0; 32];
    digits[..16].copy_from_slice(&hex16(rng.next()));
    digits[16..].copy_from_slice(&hex16(rng.next()));
    digits
}

/// 36 characters in the form of a UUID (the version digit is as random as the others).
pub(super) fn uuid(rng: &mut Rng) -> [u8; 36] {
    let digits = hex32(rng);
    let mut text = [b'-'; 36];
    for (at, range) in [(0, 0..8), (9, 8..12), (14, 12..16), (19, 16..20), (24, 20..32)] {
        text[at..at + range.len()].copy_from_slice(&digits[range]);
    }
    text
}

/// `number` in decimal.
pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `time_ms` of Unix time as `2026-01-01T00:00:00.000Z`.
pub(super) fn push_timestamp(out: &mut Vec<u8>, time_ms: u64) {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    // Civil date from days, counted from 0000-03-01 so that the leap day ends the year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);

    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for digit in text[at..at + width].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, ms / 3_600_000);
    put(14, 2, ms / 60_000 % 60);
    put(17, 2, ms / 1_000 % 60);
    put(20, 3, ms % 1_000);
    out.extend_from_slice(&text);
}

/// The words of names, paths and descriptions.
pub(super) const WORDS: [&str; 24] = [
    "journal", "segment", "cursor", "parse", "index", "build", "test", "fix", "read", "write", "update",
    "session", "archive", "store", "cargo", "main", "usage", "token", "stamp", "query", "merge", "trace",
    "bench", "lint",
];

/// Ends of strings, already in the form that `JSON.stringify` prints: escapes of every short form, \u00xx, accents composed and
/// combining, scripts of two and three bytes a character, and characters beyond the Basic Multilingual Plane.
const ODD_ENDINGS: [&str; 4] = [
    " naïve \\\"straße\\\" \\\\ 行末\\nzweite Zeile ✓🧭",
    " bell \\u0007 escape \\u001b[1m Ωmega e\\u0001e\u{301} 🜁🜂",
    " “C:\\\\temp\\\\neu”\\r\\n\\tпривет 👩‍💻",
    " \\b\\f/slash </end> \u{2028}line \u{7f}del ñandú 𝔘𝔫𝔦",
];

/// `count` words with a space between them.
pub(super) fn push_words(out: &mut Vec<u8>, rng: &mut Rng, count: u32) {
    for i in 0..count {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(rng.pick(&WORDS).as_bytes());
    }
}

/// Appends nothing or, in 2 % of the calls, an ending that needs escapes and UTF-8.
pub(super) fn push_odd_ending(out: &mut Vec<u8>, rng: &mut Rng) {
    if rng.chance(20) {
        out.extend_from_slice(rng.pick(&ODD_ENDINGS).as_bytes());
    }
}

/// Appends byte strings, string slices and byte arrays, one after the other.
macro_rules! push {
    ($out:expr, $($part:expr),+ $(,)?) => {{ $( $out.extend_from_slice(AsRef::<[u8]>::as_ref(&$part)); )+ }};
}
pub(super) use push;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_agree_with_a_calendar() {
        for time_ms in [START_MS, 0, 951_782_399_999, 951_782_400_000, 4_107_542_400_000, 253_402_207_199_999]
        {
            let mut text = Vec::new();
            push_timestamp(&mut text, time_ms);
            let calendar = jiff::Timestamp::from_millisecond(time_ms as i64).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), format!("{calendar:.3}"));
        }
    }

    #[test]
    fn numbers_are_written_to_the_last_digit() {
        for number in [0, 9, 10, 1_000_000_007, u64::MAX] {
            let mut text = Vec::new();
            push_number(&mut text, number);
            assert_eq!(String::from_utf8(text).unwrap(), number.to_string());
        }
    }

    #[test]
    fn odd_endings_are_what_a_json_writer_prints() {
        for ending in ODD_ENDINGS {
            let quoted = format!("\"{ending}\"");
            let text: String = serde_json::from_str(&quoted).unwrap();
            assert_eq!(serde_json::to_string(&text).unwrap(), quoted);
        }
    }
}

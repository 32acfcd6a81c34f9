//! Formats texts and numbers for the page.

use std::borrow::Cow;

use crate::printable;
use crate::usage::shown::{cost, dollars};
use crate::usage::{Sums, Usd};

/// The greatest length of a name on the page, in characters. The data block has the whole name.
const NAME_MAX: usize = 120;

/// Returns a text from a ledger for the page: without control characters, characters that change the direction of text,
/// and code points that are no characters; a very long text is cut in the middle.
pub(super) fn name(text: &str) -> String {
    let clean = printable::line(text);
    let clean =
        clean.chars().map(|character| if is_no_character(character) { '\u{fffd}' } else { character });
    let len = clean.clone().count();
    if len <= NAME_MAX {
        return clean.collect();
    }
    let half = NAME_MAX / 2;
    clean.clone().take(half).chain(['…']).chain(clean.skip(len - half)).collect()
}

/// Code points that HTML or XML forbids in a document.
pub(super) fn is_no_character(character: char) -> bool {
    matches!(character, '\u{fdd0}'..='\u{fdef}') || u32::from(character) & 0xfffe == 0xfffe
}

/// Returns a value of a dimension.
pub(super) fn value(value: Option<&str>) -> String {
    match value {
        None => "(none)".to_owned(),
        Some("") => "(empty)".to_owned(),
        // Not to be taken for one of these.
        Some(text) if text.starts_with('(') => format!("\"{}\"", name(text)),
        Some(text) => name(text),
    }
}

/// Returns a cost in cents, with `≥` before it if it is a lower bound.
pub(super) fn money(sums: &Sums) -> String {
    cost(sums, "≥\u{a0}", dollars)
}

/// Returns a cost with all its digits.
pub(super) fn exact(sums: &Sums) -> String {
    cost(sums, "≥ ", |usd| format!("${usd}"))
}

/// Returns an amount in cents. A small amount that is not zero is not shown as zero.
pub(super) fn amount(usd: Usd) -> String {
    if usd != Usd::ZERO && usd.cents() == 0 { "< $0.01".to_owned() } else { dollars(usd) }
}

/// Returns a share in percent with one digit.
pub(super) fn percent(part: i128, whole: i128) -> String {
    if whole == 0 { "0.0".to_owned() } else { format!("{:.1}", 100.0 * part as f64 / whole as f64) }
}

/// Returns a time between two instants: `3 h 12 min`.
pub(super) fn length(seconds: i64) -> String {
    let minutes = seconds.max(0) / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) => "< 1 min".to_owned(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes:02} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// `1 turn`, `2,345 turns`.
pub(super) fn counted(number: u64, one: &str) -> String {
    let number = Cow::from(crate::usage::shown::grouped(number));
    if number == "1" { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless_and_short() {
        assert_eq!(
            name("a\u{1b}[31m\u{202e}b\u{ffff}\u{fdd0}\u{1fffe}"),
            "a\u{fffd}[31m\u{fffd}b\u{fffd}\u{fffd}\u{fffd}"
        );
        let long = name(&format!("/begin/{}/end", "é".repeat(10_000)));
        assert!(long.starts_with("/begin/é") && long.ends_with("é/end") && long.contains('…'));
        assert_eq!(long.chars().count(), NAME_MAX + 1);
        assert_eq!((value(None), value(Some(""))), ("(none)".to_owned(), "(empty)".to_owned()));
        assert_eq!(value(Some("(none)")), "\"(none)\"");
    }

    #[test]
    fn lengths_have_two_units() {
        for (seconds, text) in [
            (-1, "< 1 min"),
            (59, "< 1 min"),
            (60, "1 min"),
            (3_599, "59 min"),
            (3_660, "1 h 01 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(length(seconds), text);
        }
    }
}

//! Text for a terminal: records and file names must not move its cursor or turn its text around.
//!
//! Every text that a command prints passes here, on standard output and standard error. Data does not: JSON escapes what JSON
//! escapes, and payloads are printed as they are asked for.

use std::borrow::Cow;

/// Text without control characters, those that change the direction of text, and line ends. Each becomes U+FFFD.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    cleaned(text, is_unprintable)
}

/// The same for text of several lines: LF and tab stay.
#[cfg(feature = "cli")]
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    cleaned(text, |character| is_unprintable(character) && !matches!(character, '\n' | '\t'))
}

fn cleaned(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|character| if is_bad(character) { '\u{FFFD}' } else { character }).collect())
}

/// C0, DEL, C1, line and paragraph separators, and the controls of bidirectional text.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_passes() {
        let hostile = "a\u{1b}[31m\u{7f}\u{9b}2J\u{202e}\u{2066}\u{2028}\r\n\tb";
        assert_eq!(
            line(hostile),
            "a\u{fffd}[31m\u{fffd}\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}b"
        );
        #[cfg(feature = "cli")]
        assert!(lines(hostile).ends_with("\u{fffd}\n\tb"), "{:?}", lines(hostile));
        assert!(matches!(line("plain \u{e9}\u{1f600}"), Cow::Borrowed(_)));
    }
}

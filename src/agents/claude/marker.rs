//! Reads the marker of a prompt that resumes another session: `/resume ID` or `/continue ID`.

use crate::scan::json::trim_js;

/// Returns a marker that resumes a session: its text, and the session that it names.
pub(super) fn marker(text: &[u8]) -> Option<Marker<'_>> {
    let text = trim_js(text);
    let rest = ["/resume", "/continue"].iter().find_map(|word| {
        let head = text.get(..word.len())?;
        head.eq_ignore_ascii_case(word.as_bytes()).then(|| &text[word.len()..])
    })?;
    let behind = js_trim_start(rest);
    let has_boundary = rest.is_empty() || behind.len() < rest.len();
    let word = (behind.len() < rest.len()).then(|| first_word(behind)).filter(|word| !word.is_empty());
    Some(Marker { has_boundary, word })
}

/// A line that resumes a session.
pub(super) struct Marker<'t> {
    /// Whether the word ends at the end of the marker.
    pub has_boundary: bool,
    pub word: Option<&'t [u8]>,
}

fn js_trim_start(mut text: &[u8]) -> &[u8] {
    while let Some(len_bytes) = leading_space(text) {
        text = &text[len_bytes..];
    }
    text
}

fn first_word(text: &[u8]) -> &[u8] {
    let mut end = 0;
    while end < text.len() && leading_space(&text[end..]).is_none() {
        end += leading_char(&text[end..]).len();
    }
    &text[..end]
}

/// The length in bytes of the white-space character that `text` begins with, in JavaScript's sense.
fn leading_space(text: &[u8]) -> Option<usize> {
    let first = leading_char(text);
    (!first.is_empty() && trim_js(first).is_empty()).then_some(first.len())
}

/// The first character of WTF-8; empty at the end.
fn leading_char(text: &[u8]) -> &[u8] {
    let len_bytes = match text.first() {
        None => 0,
        Some(0xC0..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..) => 4,
        Some(_) => 1,
    };
    &text[..len_bytes.min(text.len())]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_word_behind_a_marker_ends_at_the_white_space_of_javascript() {
        for (text, has_boundary, word) in [
            ("/resume", true, None),
            ("/resumed", false, None),
            ("  /Continue abc and more", true, Some("abc")),
            ("/resume\u{a0}\u{feff}s\u{e9}ance\u{3000}more", true, Some("s\u{e9}ance")),
            ("/resume \u{200b}", true, Some("\u{200b}")),
        ] {
            let marker = marker(text.as_bytes()).unwrap();
            assert_eq!(
                (marker.has_boundary, marker.word),
                (has_boundary, word.map(str::as_bytes)),
                "{text:?}"
            );
        }
        assert!(marker(b"resume").is_none());
    }

    /// For a word of megabytes the search looks at each character once.
    #[test]
    fn a_long_word_takes_one_pass() {
        let text = format!("/resume {}{}", " ".repeat(2 << 20), "a".repeat(4 << 20));
        assert_eq!(marker(text.as_bytes()).unwrap().word.map(<[u8]>::len), Some(4 << 20));
    }
}

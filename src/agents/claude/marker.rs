//! Reads the marker of a prompt that resumes another session: `/resume ID` or `/continue ID`.

use crate::agents::js;
use crate::scan::json::trim_js;

/// Returns a marker that resumes a session: its text, and the session that it names.
pub(super) fn marker(text: &[u8]) -> Option<Marker<'_>> {
    let text = trim_js(text);
    let rest = ["/resume", "/continue"].iter().find_map(|word| {
        let head = text.get(..word.len())?;
        head.eq_ignore_ascii_case(word.as_bytes()).then(|| &text[word.len()..])
    })?;
    let behind = js::trim_start(rest);
    let has_boundary = rest.is_empty() || behind.len() < rest.len();
    let word = (behind.len() < rest.len()).then(|| js::first_word(behind)).filter(|word| !word.is_empty());
    Some(Marker { has_boundary, word })
}

/// A line that resumes a session.
pub(super) struct Marker<'t> {
    /// Whether the word ends at the end of the marker.
    pub has_boundary: bool,
    pub word: Option<&'t [u8]>,
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

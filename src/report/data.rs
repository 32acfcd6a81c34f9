//! Writes the documents of a page into its data block.

use super::text::is_no_character;
use crate::printable::is_unprintable;

/// JSON text for a `script` element of an HTML document: it cannot end the element or begin another element, and it has
/// no character that HTML forbids or that changes the direction of text. `<` and these characters occur only in strings,
/// where they are escaped.
pub(super) fn for_script(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + json.len() / 64);
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '<' if characters.next_if_eq(&'/').is_some() => out.push_str("<\\/"),
            '<' => out.push_str("\\u003c"),
            character if is_unprintable(character) || is_no_character(character) => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_text_stays_the_same_json_and_ends_no_script() {
        assert_eq!(for_script("\"\u{202e}\""), "\"\\u202e\"");
        let hostile = "</script><!--<script>\u{7f}\u{85}\u{fffe}\u{10ffff}\u{2028}\"\\<";
        let json = serde_json::to_string(&vec![hostile]).unwrap();
        let block = for_script(&json);
        assert_eq!(serde_json::from_str::<Vec<String>>(&block).unwrap(), [hostile]);
        assert!(
            block.starts_with("[\"<\\/script>\\u003c!--\\u003cscript>\\u007f\\u0085\\ufffe\\udbff\\udfff"),
            "{block}"
        );
    }
}

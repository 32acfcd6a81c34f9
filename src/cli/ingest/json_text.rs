//! Small edits of a JSON text that leave every other byte as it was.
//!
//! The text is whole JSON: its caller has checked it. Nothing is parsed into values, because printing values again would lose
//! the spelling of numbers, the order of members and the layout of lines.

use std::ops::Range;

/// A member of an object, or an item of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name of a member, its escapes resolved; empty for an item.
    pub key: String,
    /// Where the entry begins: at its name, or at its value.
    pub at: usize,
    pub value: Range<usize>,
}

fn skip_white(text: &str, at: usize) -> usize {
    let rest = &text.as_bytes()[at..];
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count()
}

/// Where the value that begins at `at` ends.
fn value_end(text: &str, at: usize) -> usize {
    let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<serde::de::IgnoredAny>();
    values.next();
    at + values.byte_offset()
}

/// The value of the whole text.
pub(super) fn root(text: &str) -> Range<usize> {
    let at = skip_white(text, 0);
    at..value_end(text, at)
}

/// Whether the value is an object.
pub(super) fn is_object(text: &str, value: &Range<usize>) -> bool {
    text[value.clone()].starts_with('{')
}

/// Whether the value is an array.
pub(super) fn is_array(text: &str, value: &Range<usize>) -> bool {
    text[value.clone()].starts_with('[')
}

/// The string that the value is.
pub(super) fn string(text: &str, value: &Range<usize>) -> Option<String> {
    serde_json::from_str(&text[value.clone()]).ok()
}

/// The entries of an object or an array.
pub(super) fn entries(text: &str, container: &Range<usize>) -> Vec<Entry> {
    let has_keys = is_object(text, container);
    let mut entries = Vec::new();
    let mut at = skip_white(text, container.start + 1);
    while at + 1 < container.end {
        let begin = at;
        let mut key = String::new();
        if has_keys {
            let end = value_end(text, at);
            key = string(text, &(at..end)).unwrap_or_default();
            // Behind the colon.
            at = skip_white(text, skip_white(text, end) + 1);
        }
        let value = at..value_end(text, at);
        at = skip_white(text, value.end);
        entries.push(Entry { key, at: begin, value });
        // Behind the comma, or at the closing bracket.
        if text.as_bytes().get(at) != Some(&b',') {
            break;
        }
        at = skip_white(text, at + 1);
    }
    entries
}

/// The member of this name; of several the last, which is the one that JavaScript takes.
pub(super) fn member(text: &str, object: &Range<usize>, key: &str) -> Option<Entry> {
    entries(text, object).into_iter().rfind(|entry| entry.key == key)
}

/// How a text is laid out.
struct Layout<'t> {
    line_end: &'t str,
    unit: String,
}

impl<'t> Layout<'t> {
    fn of(text: &'t str) -> Self {
        let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let first = entries(text, &root(text)).first().map(|entry| indentation(text, entry.at));
        let unit = first.flatten().filter(|unit| !unit.is_empty()).unwrap_or("  ").to_owned();
        Layout { line_end, unit }
    }

    /// Prints a compact JSON text over several lines, all but the first behind `indentation`.
    fn print(&self, compact: &str, indentation: &str) -> String {
        let mut out = String::new();
        let (mut depth, mut in_string, mut is_escaped) = (0, false, false);
        let new_line = |depth: usize, out: &mut String| {
            out.push_str(self.line_end);
            out.push_str(indentation);
            out.push_str(&self.unit.repeat(depth));
        };
        for character in compact.chars() {
            if in_string {
                in_string = is_escaped || character != '"';
                is_escaped = !is_escaped && character == '\\';
                out.push(character);
                continue;
            }
            match character {
                '{' | '[' => {
                    out.push(character);
                    depth += 1;
                    new_line(depth, &mut out);
                }
                '}' | ']' => {
                    depth -= 1;
                    new_line(depth, &mut out);
                    out.push(character);
                }
                ',' => {
                    out.push(',');
                    new_line(depth, &mut out);
                }
                ':' => out.push_str(": "),
                other => {
                    in_string = other == '"';
                    out.push(other);
                }
            }
        }
        out
    }
}

/// What stands before `at` on its line, if it is nothing but white space.
fn indentation(text: &str, at: usize) -> Option<&str> {
    let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
    let before = &text[line..at];
    before.bytes().all(|byte| matches!(byte, b' ' | b'\t')).then_some(before)
}

/// The white space that the line of `at` begins with.
fn indentation_of_line(text: &str, at: usize) -> &str {
    let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
    let len = text[line..].bytes().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[line..line + len]
}

/// Adds an entry at the end of an object or an array: a compact text, for an object with its name. The entry gets lines of its
/// own, unless the container has its entries on one line.
pub(super) fn push(text: &str, container: &Range<usize>, entry: &str) -> String {
    let layout = Layout::of(text);
    let mut out = text.to_owned();
    match entries(text, container).last() {
        None => {
            let outer = indentation_of_line(text, container.start);
            let inner = format!("{outer}{}", layout.unit);
            let (end, printed) = (layout.line_end, layout.print(entry, &inner));
            out.replace_range(
                container.start + 1..container.end - 1,
                &format!("{end}{inner}{printed}{end}{outer}"),
            );
        }
        Some(last) => match indentation(text, last.at) {
            Some(inner) => {
                let added = format!(",{}{inner}{}", layout.line_end, layout.print(entry, inner));
                out.insert_str(last.value.end, &added);
            }
            None => out.insert_str(last.value.end, &format!(", {entry}")),
        },
    }
    out
}

/// Puts another value, a compact text, in place of a member's.
pub(super) fn set(text: &str, member: &Entry, value: &str) -> String {
    let mut out = text.to_owned();
    let printed = match indentation(text, member.at) {
        Some(inner) => Layout::of(text).print(value, inner),
        None => value.to_owned(),
    };
    out.replace_range(member.value.clone(), &printed);
    out
}

/// Takes an entry out, with its comma.
pub(super) fn remove(text: &str, container: &Range<usize>, entry: &Entry) -> String {
    let all = entries(text, container);
    let place = all.iter().position(|other| other.at == entry.at).unwrap_or(0);
    let range = match (place.checked_sub(1).map(|before| &all[before]), all.get(place + 1)) {
        (Some(before), _) => before.value.end..entry.value.end,
        (None, Some(next)) => entry.at..next.at,
        (None, None) => container.start + 1..container.end - 1,
    };
    let mut out = text.to_owned();
    out.replace_range(range, "");
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_where_they_stand() {
        let text = r#" { "a\"}" : [1, "x,]", {"k":2}] ,"b":-1.50e3,"a\"}":null} "#;
        let all = entries(text, &root(text));
        let named: Vec<(&str, &str)> =
            all.iter().map(|entry| (&entry.key[..], &text[entry.value.clone()])).collect();
        assert_eq!(named, [("a\"}", r#"[1, "x,]", {"k":2}]"#), ("b", "-1.50e3"), ("a\"}", "null")]);
        let items: Vec<&str> =
            entries(text, &all[0].value).iter().map(|entry| &text[entry.value.clone()]).collect();
        assert_eq!(items, ["1", r#""x,]""#, r#"{"k":2}"#]);
        assert_eq!(&text[member(text, &root(text), "a\"}").unwrap().value], "null", "the last one counts");
        assert!(entries("{ }", &(0..3)).is_empty());
    }

    #[test]
    fn what_is_added_and_removed_again_leaves_the_text_as_it_was() {
        for text in [
            "{\n  \"a\": 1\n}\n",
            "{\n\t\"a\": {\n\t\t\"b\": [ ]\n\t},\n\t\"c\": 1.0e1\n}",
            "{\"a\":1}",
            "{\r\n    \"a\": 1,\r\n    \"b\": 2\r\n}\r\n",
            "{ \"a\": [1,\n 2] }",
        ] {
            let added = push(text, &root(text), r#""new":{"list":[{"k":"v, {"}]}"#);
            let value: serde_json::Value = serde_json::from_str(&added).unwrap();
            assert_eq!(value["new"]["list"][0]["k"], "v, {", "{added}");
            let entry = member(&added, &root(&added), "new").unwrap();
            assert_eq!(remove(&added, &root(&added), &entry), text);
            let first = entries(&added, &root(&added)).remove(0);
            let without: serde_json::Value =
                serde_json::from_str(&remove(&added, &root(&added), &first)).unwrap();
            assert!(without.get("a").is_none() && without.get("new").is_some());
        }
    }

    #[test]
    fn added_lines_have_the_indentation_of_their_neighbours() {
        let text = "{\n\t\"a\": {}\n}";
        let object = member(text, &root(text), "a").unwrap().value;
        let added = push(text, &object, r#""b":[{"c":1}]"#);
        assert_eq!(added, "{\n\t\"a\": {\n\t\t\"b\": [\n\t\t\t{\n\t\t\t\t\"c\": 1\n\t\t\t}\n\t\t]\n\t}\n}");
    }
}

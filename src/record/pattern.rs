//! Patterns of filters: what the value of a member must be for a record to pass.

/// A pattern: a whole text, a beginning, or no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    is_exact: bool,
}

impl Pattern {
    /// The pattern that a user writes: `(none)` is no value, `x*` a value that begins with `x`, any other text the whole value.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_exact: false }
    }

    /// A pattern for one value, even for a value that [`Pattern::new`] would read as something else.
    pub fn exact(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_exact: true }
    }

    /// The text that the pattern was made from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the kind of the pattern, with its text.
    pub(crate) fn kind(&self) -> PatternKind<'_> {
        match (self.is_exact, self.text.strip_suffix('*')) {
            (false, _) if self.text == "(none)" => PatternKind::Absent,
            (false, Some(start)) => PatternKind::Start(start),
            _ => PatternKind::Whole(&self.text),
        }
    }

    /// Whether a value passes. Bytes are compared, because values of a ledger may have lone surrogates.
    pub(crate) fn matches(&self, value: Option<&[u8]>) -> bool {
        match (self.kind(), value) {
            (PatternKind::Absent, value) => value.is_none(),
            (_, None) => false,
            (PatternKind::Start(start), Some(value)) => value.starts_with(start.as_bytes()),
            (PatternKind::Whole(text), Some(value)) => value == text.as_bytes(),
        }
    }
}

/// The kinds of a [`Pattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatternKind<'p> {
    Whole(&'p str),
    Start(&'p str),
    Absent,
}

/// Whether a record with these values of a member passes: when there are no patterns, or some pattern matches some value. A
/// record has no value when all of `values` are none.
pub(crate) fn passes<T: AsRef<[u8]> + ?Sized>(patterns: &[Pattern], values: &[Option<&T>]) -> bool {
    let matches = |pattern: &Pattern| match pattern.kind() {
        PatternKind::Absent => values.iter().all(Option::is_none),
        _ => values.iter().any(|value| pattern.matches(value.map(AsRef::as_ref))),
    };
    patterns.is_empty() || patterns.iter().any(matches)
}

/// Whether an enrichment passes: for each key some pattern of the key matches the value that `value_of` returns.
pub(crate) fn passes_tags<T: AsRef<str>>(
    tags: &[(String, Pattern)],
    mut value_of: impl FnMut(&str) -> Option<T>,
) -> bool {
    tags.iter().all(|(key, _)| {
        let value = value_of(key);
        let mut of_key = tags.iter().filter(|(other, _)| other == key);
        of_key.any(|(_, pattern)| pattern.matches(value.as_ref().map(|value| value.as_ref().as_bytes())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_value_a_beginning_or_no_value() {
        for (text, value, passes) in [
            ("a", Some("a"), true),
            ("a", Some("ab"), false),
            ("a*", Some("ab"), true),
            ("a*", Some("a*"), true),
            ("a*", Some("ba"), false),
            ("*", Some(""), true),
            ("*", None, false),
            ("(none)", None, true),
            ("(none)", Some("(none)"), false),
            ("", Some(""), true),
            ("", None, false),
        ] {
            assert_eq!(Pattern::new(text).matches(value.map(str::as_bytes)), passes, "{text} {value:?}");
        }
        for text in ["*", "(none)", "a*"] {
            assert!(Pattern::exact(text).matches(Some(text.as_bytes())), "{text}");
            assert!(
                !Pattern::exact(text).matches(Some(b"a")) && !Pattern::exact(text).matches(None),
                "{text}"
            );
        }
    }

    #[test]
    fn any_pattern_and_any_value_will_do_and_every_key_must() {
        let of = |texts: &[&str]| texts.iter().copied().map(Pattern::new).collect::<Vec<_>>();
        assert!(passes::<str>(&[], &[None]));
        assert!(passes(&of(&["x", "b"]), &[Some("a"), Some("b")]));
        assert!(!passes(&of(&["x", "(none)"]), &[Some("a"), None]));
        assert!(passes::<str>(&of(&["(none)"]), &[None, None]));
        let tags = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, text)| ((*key).to_owned(), Pattern::new(*text))).collect::<Vec<_>>()
        };
        let enrichment =
            |key: &str| [("a", "1"), ("b", "2")].iter().find(|pair| pair.0 == key).map(|pair| pair.1);
        for (pairs, passes) in [
            (&[][..], true),
            (&[("a", "1"), ("b", "2")], true),
            (&[("a", "0"), ("a", "1")], true),
            (&[("a", "1"), ("b", "0")], false),
            (&[("a", "1"), ("c", "(none)")], true),
            (&[("c", "*")], false),
        ] {
            assert_eq!(passes_tags(&tags(pairs), enrichment), passes, "{pairs:?}");
        }
    }
}

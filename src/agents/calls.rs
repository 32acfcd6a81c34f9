//! Tool calls: hash of the arguments, target, edit hashes, replacements, files touched.

use super::activity::ActivityCall;
use super::js::{self, KeyOrder, RecordText};
use super::measure::{HexDigits, hash16};
use crate::record::Id;
use crate::scan::json::Value;

/// A tool call of a turn. Texts are WTF-8.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ToolCall<T = Vec<u8>> {
    pub id: T,
    pub name: T,
    pub args_hash: HexDigits,
    pub target: Option<T>,
    pub skill_name: Option<T>,
    pub is_error: bool,
    pub edit_pre_hash: Option<HexDigits>,
    pub edit_post_hash: Option<HexDigits>,
    pub replacement: Replacement,
}

impl<T: AsRef<[u8]>> ToolCall<T> {
    /// The parts that decide the activity of the turn.
    pub(super) fn for_activity(&self) -> ActivityCall<'_> {
        ActivityCall { name: self.name.as_ref(), target: self.target.as_ref().map(T::as_ref) }
    }

    /// Appends the members of the call.
    pub(super) fn write(&self, record: &mut RecordText) {
        record.text("id", self.id.as_ref());
        record.text("name", self.name.as_ref());
        record.text("argsHash", &self.args_hash);
        record.maybe_text("target", self.target.as_ref().map(T::as_ref));
        record.maybe_text("skillName", self.skill_name.as_ref().map(T::as_ref));
        record.flag_if("isError", self.is_error);
        record.maybe_text("editPreHash", self.edit_pre_hash.as_ref().map(|hash| &hash[..]));
        record.maybe_text("editPostHash", self.edit_post_hash.as_ref().map(|hash| &hash[..]));
        self.replacement.write(record);
    }
}

/// The calls that one call replaced, as tool servers report them in `_meta`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Replacement {
    pub replaced_tools: Vec<Vec<u8>>,
    pub collapsed_calls: Option<f64>,
}

impl Replacement {
    /// Looks in the `_meta` of a result block, then in the `_meta` of each entry of its content.
    pub(super) fn of_result(block: Value<'_>) -> Option<Self> {
        let of = |holder: Value<'_>| holder.get("_meta").and_then(Self::of_meta);
        of(block).or_else(|| block.get("content")?.items().find_map(of))
    }

    fn of_meta(meta: Value<'_>) -> Option<Self> {
        let names = meta.get("replaces").into_iter().flat_map(Value::items).filter_map(js::wtf8);
        let replaced_tools: Vec<_> = names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
        let collapsed_calls = js::number(meta, "collapsedCalls").filter(|count| *count > 0.0).map(f64::floor);
        let tells = !replaced_tools.is_empty() || collapsed_calls.is_some();
        tells.then_some(Replacement { replaced_tools, collapsed_calls })
    }

    /// Appends the members that have a value.
    pub(super) fn write(&self, record: &mut RecordText) {
        record.texts_if_any("replacedTools", &self.replaced_tools);
        record.maybe_number("collapsedCalls", self.collapsed_calls.filter(|count| *count > 0.0));
    }
}

/// The length of most inputs.
const ARGS_BYTES: usize = 1_000;

/// Returns the first 16 hex digits of the hash of the input's stable text. An absent or null input counts as `{}`.
pub(super) fn args_hash(input: Option<Value<'_>>) -> HexDigits {
    let mut text = Vec::with_capacity(ARGS_BYTES);
    match input.filter(|input| !input.is_null()) {
        Some(input) => js::write_value(input, KeyOrder::Sorted, &mut text),
        None => text.extend_from_slice(b"{}"),
    }
    // A printed value has an escape for each lone surrogate.
    Id::of(&text).digits()
}

/// Returns the target of a call of Claude Code: its file, command or pattern.
pub(super) fn target<'d>(name: &[u8], input: Value<'d>) -> Option<&'d [u8]> {
    let keys: &[&str] = match name {
        b"Read" | b"Edit" | b"Write" | b"NotebookEdit" => &["file_path"],
        b"Bash" => &["command"],
        b"Grep" | b"Glob" => &["pattern"],
        b"WebFetch" => &["url"],
        b"Agent" | b"Task" => &["subagent_type", "description"],
        _ => &["file_path", "path", "url", "command"],
    };
    js::first_any_text(input, keys)
}

/// Returns the hashes of the old and the new text of an edit of Claude Code.
pub(super) fn edit_hashes(name: &[u8], input: Value<'_>) -> (Option<HexDigits>, Option<HexDigits>) {
    let hash = |key| js::any_text(input, key).map(hash16);
    match name {
        b"Edit" | b"NotebookEdit" => (hash("old_string"), hash("new_string")),
        b"Write" => (None, hash("content")),
        _ => (None, None),
    }
}

/// Returns the targets of the calls that `touches` names, each once, in first order. `with_empty` keeps the empty
/// target.
pub(super) fn files_touched<T: AsRef<[u8]>>(
    calls: &[ToolCall<T>],
    touches: impl Fn(&[u8]) -> bool,
    with_empty: bool,
) -> Vec<&[u8]> {
    let mut seen = std::collections::HashSet::new();
    let touched = calls.iter().filter(|call| touches(call.name.as_ref()));
    let targets = touched.filter_map(|call| call.target.as_ref().map(T::as_ref));
    targets.filter(|target| (with_empty || !target.is_empty()) && seen.insert(*target)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    fn with<T>(text: &str, f: impl FnOnce(Value<'_>) -> T) -> T {
        f(Document::default().parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn hashes_do_not_depend_on_the_order_of_keys() {
        assert_eq!(args_hash(None), *b"44136fa355b3678a");
        assert_eq!(with("null", |value| args_hash(Some(value))), *b"44136fa355b3678a");
        let hash = |text| with(text, |value| args_hash(Some(value)));
        assert_eq!(hash(r#"{"b":1,"a":{"d":1,"c":2}}"#), hash(r#"{"a":{"c":2.0,"d":1},"b":1e0}"#));
        assert_ne!(hash("[1,2]"), hash("[2,1]"));
    }

    #[test]
    fn targets_by_name() {
        let input = r#"{"file_path":"f","command":"c","pattern":"p","url":"u","description":"d","path":3}"#;
        for (name, wanted) in [
            ("Read", "f"),
            ("NotebookEdit", "f"),
            ("Bash", "c"),
            ("Grep", "p"),
            ("WebFetch", "u"),
            ("Task", "d"),
            ("read", "f"),
            ("mcp__x", "f"),
        ] {
            with(input, |input| {
                assert_eq!(target(name.as_bytes(), input), Some(wanted.as_bytes()), "{name}")
            });
        }
        with(r#"{"path":3,"url":"","command":"c"}"#, |input| assert_eq!(target(b"X", input), Some(&b""[..])));
        with(r#""text""#, |input| assert_eq!(target(b"Read", input), None));
    }

    #[test]
    fn replacements_come_from_the_block_or_its_entries() {
        let of = |text| with(text, Replacement::of_result);
        let found = of(r#"{"_meta":{"replaces":["a","",3,"b"],"collapsedCalls":2.9}}"#).unwrap();
        assert_eq!(found.replaced_tools, [b"a", b"b"]);
        assert_eq!(found.collapsed_calls, Some(2.0));
        let found =
            of(r#"{"_meta":{"replaces":[]},"content":[{},{"_meta":{"collapsedCalls":0.5}}]}"#).unwrap();
        assert_eq!(found.collapsed_calls, Some(0.0));
        let mut record = RecordText::default();
        found.write(&mut record);
        assert_eq!(record.finish(), b"{}");
        assert_eq!(of(r#"{"_meta":{"collapsedCalls":-1}}"#), None);
    }
}

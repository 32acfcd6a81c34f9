//! Compares lines of one record: which have the same content, and which counts.
//!
//! Computes from bytes. Guarantees: the order of two versions depends on their contents alone.

use super::keys::text_hash;
use crate::record::{ParsedLine, line_of};
use crate::scan::json::{Document, JsStr, Kind, Value, stringify, write_js_string};

/// The rank of a version of a record: the greatest counts. Versions of equal rank have the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VersionRank {
    /// Output tokens of a turn, else 0: an agent logs an answer again while the answer grows.
    pub(super) output: u64,
    /// The length of the content: later programs record more members.
    len_bytes: u64,
    /// A hash of the content, because two versions that agree in both numbers need an order that depends on nothing else.
    content: [u64; 2],
}

impl VersionRank {
    /// The rank of a line of JSON.
    pub(super) fn of(root: Value<'_>, buffer: &mut Vec<u8>) -> Self {
        buffer.clear();
        write_sorted(root, buffer);
        let output = match line_of(root) {
            ParsedLine::Record(_, record) => record.get("usage").and_then(|usage| usage.get("output")),
            _ => None,
        };
        // A float that is no count becomes 0 here.
        let output = output.and_then(Value::as_number).map_or(0, |output| output.as_f64() as u64);
        Self { output, len_bytes: buffer.len() as u64, content: text_hash(buffer) }
    }

    /// The rank of a line that is read again. A line that was JSON is JSON.
    pub(super) fn of_line(line: &[u8], document: &mut Document, buffer: &mut Vec<u8>) -> Self {
        match document.parse(line) {
            Ok(root) => Self::of(root, buffer),
            Err(_) => Self { output: 0, len_bytes: line.len() as u64, content: text_hash(line) },
        }
    }
}

/// Prints a value with the members of every object in the order of their keys, and a comma after every member and item, so
/// that two lines that differ in spaces, escapes, spelling of numbers or order of members give one text. The open objects are
/// on the heap, because a line may be nested more deeply than a thread's stack allows.
fn write_sorted(root: Value<'_>, out: &mut Vec<u8>) {
    enum Step<'d> {
        Byte(u8),
        Key(JsStr<'d>),
        Value(Value<'d>),
    }
    let mut steps = vec![Step::Value(root)];
    while let Some(step) = steps.pop() {
        let value = match step {
            Step::Byte(byte) => {
                out.push(byte);
                continue;
            }
            Step::Key(key) => {
                write_js_string(key.as_wtf8(), out);
                out.push(b':');
                continue;
            }
            Step::Value(value) => value,
        };
        match value.kind() {
            Kind::Object => {
                let mut members: Vec<_> = value.members_in_text_order().collect();
                members.sort_by_key(|(key, _)| key.as_wtf8());
                out.push(b'{');
                steps.push(Step::Byte(b'}'));
                for (key, value) in members.into_iter().rev() {
                    steps.extend([Step::Byte(b','), Step::Value(value), Step::Key(key)]);
                }
            }
            Kind::Array => {
                out.push(b'[');
                steps.push(Step::Byte(b']'));
                let items: Vec<_> = value.items().collect();
                for value in items.into_iter().rev() {
                    steps.extend([Step::Byte(b','), Step::Value(value)]);
                }
            }
            Kind::Null | Kind::Bool | Kind::Number | Kind::String => stringify(value, out),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rank(line: &str) -> VersionRank {
        VersionRank::of_line(line.as_bytes(), &mut Document::default(), &mut Vec::new())
    }

    #[test]
    fn spelling_is_no_content() {
        let plain = rank(r#"{"v":1,"kind":"x","a":[1,{"b":"é","c":10}],"d":{}}"#);
        assert_eq!(
            plain,
            rank("{ \"d\":{}, \"kind\":\"x\",\"v\":1.0,\"a\":[1e0,{\"c\":1e1,\"b\":\"\\u00e9\"}]}")
        );
        for other in [
            r#"{"v":1,"kind":"x","a":[{"b":"é","c":10},1],"d":{}}"#,
            r#"{"v":1,"kind":"x","a":[1,{"b":"é","c":10}],"d":[]}"#,
            r#"{"v":1,"kind":"x","a":[1,{"b":"é","c":"10"}],"d":{}}"#,
        ] {
            assert_ne!(plain, rank(other), "{other}");
        }
    }

    #[test]
    fn more_output_counts_and_then_the_longer_line() {
        let turn = |output: u64, more: &str| {
            rank(&format!(r#"{{"v":1,"kind":"turn","record":{{"usage":{{"output":{output}}}{more}}}}}"#))
        };
        assert!(turn(20, "") > turn(3, r#","project":"/home/ann/shop""#));
        assert!(turn(20, r#","project":"p""#) > turn(20, ""));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let line = format!("{}1{}", "[".repeat(400_000), "]".repeat(400_000));
        assert_eq!(rank(&line), rank(&line.replace('1', "1.0")));
    }
}

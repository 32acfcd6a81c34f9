//! The strict rules: they reject values that the archive can store but no agent's log has.
//!
//! The TypeScript package writes `"ts":"yesterday"`, -5 tokens and a model without a name, and the archive keeps such values
//! for ever. The strict rules apply to what is added to a ledger, not to reading: a line that breaks a rule is still a line of
//! the ledger.
//!
//! Guarantees: members without a rule, and values of another type than the column's, are not checked here. Times are not
//! compared with the clock.

use std::fmt;

use super::columns::{Field, Reading, compactions, tool_calls, tool_result_events, turns};
use super::filter::has_form;
use super::time::Instant;
use super::{Cell, RecordKind};
use crate::scan::json::{Kind as JsonKind, Value};

/// The largest count, 2^53 - 1: JavaScript represents every whole number up to this limit exactly.
const COUNT_MAX: u64 = (1 << 53) - 1;

/// Largest number of characters of a value in a message.
const SHOWN_CHARS: usize = 60;

/// A rule that a value breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StrictRule {
    /// `ts`, and the bounds of a stamp's range, are times of RFC 3339.
    Time,
    /// Numbers are counts, from 0 to [`COUNT_MAX`].
    Count,
    /// A required text is not empty.
    Text,
}

/// A value that breaks a rule. Prints as the member, the value and the rule.
pub(crate) struct Doubt<'d> {
    /// The object or the array around the member; empty for the record itself.
    holder: &'static str,
    /// The index in the array.
    index: Option<usize>,
    member: &'static str,
    value: Value<'d>,
    pub rule: StrictRule,
}

impl fmt::Display for Doubt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.holder)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        if !self.holder.is_empty() {
            f.write_str(".")?;
        }
        write!(f, "{} is ", self.member)?;
        // The literal is printed, because a number beyond the range of doubles would print as null.
        let value = match self.value.as_number() {
            Some(number) => number.literal().to_owned(),
            None => self.value.to_string(),
        };
        let mut characters = value.chars();
        for character in characters.by_ref().take(SHOWN_CHARS) {
            match character.is_control() {
                true => write!(f, "{}", character.escape_unicode())?,
                false => write!(f, "{character}")?,
            }
        }
        if characters.next().is_some() {
            f.write_str("…")?;
        }
        match self.rule {
            StrictRule::Time => f.write_str(
                ", not a time of RFC 3339 with date, time and zone, such as 2026-04-20T00:00:02.000Z",
            ),
            StrictRule::Count => write!(f, ", not a whole number from 0 to {COUNT_MAX}"),
            StrictRule::Text => f.write_str(", and must not be empty"),
        }
    }
}

const fn field(member: &'static str, reading: Reading) -> Field {
    Field { place: 0, member, reading }
}

/// Members of the kinds without a table.
pub(super) const RELATIONSHIP: &[Field] = &[
    field("source", Reading::Text),
    field("sessionId", Reading::Text),
    field("relationshipType", Reading::Text),
    field("ts", Reading::OptionalText),
];
pub(super) const USER_TURN: &[Field] = &[
    field("source", Reading::Text),
    field("sessionId", Reading::Text),
    field("userUuid", Reading::Text),
    field("ts", Reading::Text),
];
pub(super) const USER_TURN_BLOCK: &[Field] = &[
    field("kind", Reading::Text),
    field("byteLen", Reading::Number),
    field("approxTokens", Reading::Number),
];
const STAMP: &[Field] = &[field("ts", Reading::Text)];
const STAMP_RANGE: &[Field] = &[field("fromTs", Reading::OptionalText), field("toTs", Reading::OptionalText)];

/// The first value of a record that breaks a rule.
pub(crate) fn doubt_in_record(kind: RecordKind, record: Value<'_>) -> Option<Doubt<'_>> {
    match kind {
        RecordKind::Turn => first(record, "", turns::record::FIELDS)
            .or_else(|| first(record.get("usage")?, "usage", turns::usage::FIELDS))
            .or_else(|| first_in_items(record, "toolCalls", tool_calls::call::FIELDS)),
        RecordKind::ToolResultEvent => first(record, "", tool_result_events::record::FIELDS),
        RecordKind::Compaction => first(record, "", compactions::record::FIELDS),
        RecordKind::Relationship => first(record, "", RELATIONSHIP),
        RecordKind::UserTurn => {
            first(record, "", USER_TURN).or_else(|| first_in_items(record, "blocks", USER_TURN_BLOCK))
        }
    }
}

/// The first value of a stamp's line that breaks a rule.
pub(crate) fn doubt_in_stamp(stamp: Value<'_>) -> Option<Doubt<'_>> {
    first(stamp, "", STAMP)
        .or_else(|| first(stamp.get("selector")?.get("range")?, "selector.range", STAMP_RANGE))
}

/// Whether a row may come from values that break a rule, as far as `fields` show: false for all but a few lines of a sound
/// ledger.
pub(crate) fn is_doubtful(cells: &[Cell<'_>], fields: &[Field]) -> bool {
    fields.iter().any(|field| match cells[field.place] {
        Cell::Null => false,
        Cell::Int(number) => !(0..=COUNT_MAX as i64).contains(&number),
        Cell::Real(_) => true,
        Cell::Text(text) if field.member == "ts" => !is_time(text),
        Cell::Text(text) => text.is_empty() && field.reading == Reading::Text,
    })
}

fn first_in_items<'d>(record: Value<'d>, holder: &'static str, fields: &[Field]) -> Option<Doubt<'d>> {
    record.get(holder)?.items().enumerate().find_map(|(index, item)| {
        first(item, holder, fields).map(|doubt| Doubt { index: Some(index), ..doubt })
    })
}

fn first<'d>(object: Value<'d>, holder: &'static str, fields: &[Field]) -> Option<Doubt<'d>> {
    fields.iter().find_map(|&Field { member, reading, .. }| {
        let value = object.get(member).filter(|value| !value.is_null())?;
        let rule = broken_rule(member, reading, value)?;
        Some(Doubt { holder, index: None, member, value, rule })
    })
}

fn broken_rule(member: &str, reading: Reading, value: Value<'_>) -> Option<StrictRule> {
    if matches!(member, "ts" | "fromTs" | "toTs") {
        return (!value.as_str().is_some_and(|text| is_time(&text))).then_some(StrictRule::Time);
    }
    match reading {
        Reading::Number | Reading::OptionalNumber | Reading::NumberOrZero | Reading::PositiveNumber => {
            let count = value.as_number()?.as_f64();
            let is_count = count >= 0.0 && count <= COUNT_MAX as f64 && count.fract() == 0.0;
            (!is_count).then_some(StrictRule::Count)
        }
        Reading::Text => (value.kind() == JsonKind::String && !value.is_truthy()).then_some(StrictRule::Text),
        _ => None,
    }
}

/// Whether a text is a time of RFC 3339, with any number of digits after the second. `T` and `Z` are upper-case, because
/// records are sorted by this text.
pub(crate) fn is_time(text: &str) -> bool {
    let Some((civil, rest)) = text.split_at_checked(19) else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    let number = |tens: u8, ones: u8| {
        (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
    };
    let is_zone = match *zone.as_bytes() {
        [b'Z'] => true,
        [b'+' | b'-', a, b, b':', c, d] => {
            number(a, b).is_some_and(|hours| hours < 24) && number(c, d).is_some_and(|minutes| minutes < 60)
        }
        _ => false,
    };
    has_form(civil.as_bytes(), b"0000-00-00T00:00:00") && is_zone && Instant::of_turn(civil).is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::{ParsedLine, line_of};
    use crate::scan::json::Document;

    #[test]
    fn times_are_what_writers_of_rfc_3339_write() {
        for time in [
            "2026-04-20T00:00:02.000Z",
            "2026-04-20T00:00:02Z",
            "2026-04-20T00:00:02.123456Z",
            "2026-04-20T00:00:02.1234567+00:00",
            "2026-04-20T23:59:59.123456789-08:00",
            "2026-04-20T00:00:02.123456789012Z",
            "2024-02-29T12:00:00+05:30",
            "2016-12-31T23:59:60Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999Z",
        ] {
            assert!(is_time(time), "{time}");
        }
        for text in [
            "",
            "yesterday",
            "t1",
            "1776643200000",
            "2026-04-20",
            "2026-04-20T00:00Z",
            "2026-04-20T00:00:02",
            "2026-04-20 00:00:02Z",
            "2026-04-20t00:00:02z",
            "2026-04-20T00:00:02.Z",
            "2026-04-20T00:00:02,5Z",
            "2026-04-20T00:00:02+0000",
            "2026-04-20T00:00:02+24:00",
            "2026-04-20T00:00:02+00:60",
            "2026-04-20T00:00:02+é:00",
            "2026-04-20T00:00:02+1:000",
            "2026-04-20T00:00:02Z[UTC]",
            " 2026-04-20T00:00:02Z",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-04-20T24:00:00Z",
            "2026-04-20T00:61:00Z",
            "20260420T000002Z",
            "2026-04-20T00:00:0é",
        ] {
            assert!(!is_time(text), "{text}");
        }
    }

    /// The message about a line; none for a line that breaks no rule.
    fn said(line: &str) -> Option<String> {
        let mut document = Document::default();
        let root = document.parse(line.as_bytes()).unwrap();
        let doubt = match line_of(root) {
            ParsedLine::Record(kind, record) => doubt_in_record(kind, record),
            _ => doubt_in_stamp(root),
        };
        doubt.map(|doubt| doubt.to_string())
    }

    const TURN: &str = r#"{"v":1,"kind":"turn","record":{"source":"a","sessionId":"s","messageId":"m","turnIndex":0,"ts":"2026-04-20T00:00:02Z","model":"x","retries":null,"usage":{"input":1,"output":2.0,"reasoning":-0,"cacheRead":9007199254740991,"cacheCreate5m":1e3,"cacheCreate1h":0},"toolCalls":[{"name":"N"},{"name":"N","collapsedCalls":2}]}}"#;
    const USER_TURN: &str = r#"{"v":1,"kind":"user_turn","record":{"source":"a","sessionId":"s","userUuid":"u","ts":"2026-04-20T00:00:02Z","blocks":[{"kind":"text","byteLen":1,"approxTokens":1},{"kind":"text","byteLen":2,"approxTokens":3}]}}"#;

    #[test]
    fn a_broken_rule_names_member_and_value() {
        let big = format!(r#""ts":"{}\u001b[31m""#, "é".repeat(100));
        let ts = r#""ts":"2026-04-20T00:00:02Z""#;
        for (base, from, to, member, value) in [
            (TURN, ts, r#""ts":"yesterday""#, "ts", "\"yesterday\","),
            (TURN, ts, r#""ts":"\u001b[31m\u009b""#, "ts", "\"\\u001b[31m\\u{9b}\","),
            (TURN, ts, &big, "ts", "é…,"),
            (TURN, r#""model":"x""#, r#""model":"""#, "model", "\"\","),
            (TURN, r#""turnIndex":0"#, r#""turnIndex":-1"#, "turnIndex", "-1,"),
            (TURN, r#""input":1"#, r#""input":1e30"#, "usage.input", "1e30,"),
            (TURN, r#""input":1"#, r#""input":1e999"#, "usage.input", "1e999,"),
            (TURN, r#""input":1"#, r#""input":0.5"#, "usage.input", "0.5,"),
            (TURN, "9007199254740991", "9007199254740992", "usage.cacheRead", "9007199254740992,"),
            (TURN, r#""collapsedCalls":2"#, r#""collapsedCalls":-2"#, "toolCalls[1].collapsedCalls", "-2,"),
            (USER_TURN, r#""byteLen":2"#, r#""byteLen":-2"#, "blocks[1].byteLen", "-2,"),
            (USER_TURN, r#""approxTokens":1"#, r#""approxTokens":1.5"#, "blocks[0].approxTokens", "1.5,"),
            (USER_TURN, r#""userUuid":"u""#, r#""userUuid":"""#, "userUuid", "\"\","),
        ] {
            assert_eq!(said(base), None);
            let line = base.replacen(from, to, 1);
            assert_ne!(line, base);
            let said = said(&line).unwrap();
            assert!(said.starts_with(&format!("{member} is ")) && said.contains(value), "{said}");
            assert!(!said.chars().any(char::is_control), "{said:?}");
        }
        for (line, member) in [
            (
                r#"{"v":1,"kind":"relationship","record":{"source":"a","sessionId":"s","relationshipType":"root","ts":7}}"#,
                "ts",
            ),
            (
                r#"{"v":1,"kind":"compaction","record":{"source":"a","sessionId":"s","ts":"2026-04-20T00:00:02Z","tokensBeforeCompact":-1}}"#,
                "tokensBeforeCompact",
            ),
            (
                r#"{"v":1,"kind":"tool_result_event","record":{"source":"a","sessionId":"s","toolUseId":"t","eventIndex":0,"callIndex":0.1,"status":null,"eventSource":null}}"#,
                "callIndex",
            ),
            (r#"{"v":1,"kind":"stamp","ts":"now","selector":{"sessionId":"s"},"enrichment":{}}"#, "ts"),
            (
                r#"{"v":1,"kind":"stamp","ts":"2026-04-20T00:00:02Z","selector":{"range":{"toTs":"today"}},"enrichment":{}}"#,
                "selector.range.toTs",
            ),
        ] {
            let said = said(line).unwrap_or_default();
            assert!(said.starts_with(&format!("{member} is ")), "{line}: {said}");
        }
    }

    #[test]
    fn values_of_other_types_are_left_to_those_who_read_rows() {
        for (from, to) in [(r#""model":"x""#, r#""model":7"#), (r#""input":1"#, r#""input":"1""#)] {
            assert_eq!(said(&TURN.replace(from, to)), None);
        }
    }
}

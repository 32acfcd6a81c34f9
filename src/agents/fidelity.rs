//! Writes the usage and fidelity members of a turn.

use super::js::{self, RecordText};
use crate::scan::json::Value;

/// Stands in a record for a value of the log that is no count of tokens, because a record has only numbers. `burn usage`
/// counts it as 0, and its turn as invalid.
const NO_COUNT: f64 = -1.0;

/// The largest count of tokens. `burn usage` calls a larger number no count.
const COUNT_MAX: f64 = 1e12;

/// Returns a count of tokens: 0 if it is absent or null, NaN if the value is no whole number from 0. A larger number than
/// [`COUNT_MAX`] stays, because a record can hold it.
pub(super) fn token_count(object: Value<'_>, key: &str) -> f64 {
    object.get(key).map_or(0.0, token_count_of)
}

/// Returns the count of tokens that a value is. See [`token_count`].
pub(super) fn token_count_of(value: Value<'_>) -> f64 {
    if value.is_null() { 0.0 } else { checked(js::finite(value).unwrap_or(f64::NAN)) }
}

fn checked(number: f64) -> f64 {
    if number.fract() == 0.0 && number >= 0.0 { number } else { f64::NAN }
}

/// The token counts of a turn. NaN is a value of the log that is no count.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub input: f64,
    pub output: f64,
    pub reasoning: f64,
    pub cache_read: f64,
    pub cache_create_5m: f64,
    pub cache_create_1h: f64,
}

impl Usage {
    /// Reads the counts by their names in records.
    pub(super) fn of(object: Value<'_>, count: impl Fn(Value<'_>, &str) -> f64) -> Self {
        let count = |key| count(object, key);
        Usage {
            input: count("input"),
            output: count("output"),
            reasoning: count("reasoning"),
            cache_read: count("cacheRead"),
            cache_create_5m: count("cacheCreate5m"),
            cache_create_1h: count("cacheCreate1h"),
        }
    }

    /// Returns the six counts in the order in which records print them.
    pub(super) fn counts(&self) -> [(&'static str, f64); 6] {
        [
            ("input", self.input),
            ("output", self.output),
            ("reasoning", self.reasoning),
            ("cacheRead", self.cache_read),
            ("cacheCreate5m", self.cache_create_5m),
            ("cacheCreate1h", self.cache_create_1h),
        ]
    }

    /// Returns the counts that `burn usage` calls no counts, by their names in records.
    pub(super) fn invalid_counts(&self) -> Vec<&'static str> {
        let is_invalid = |count: f64| count.is_nan() || count > COUNT_MAX;
        self.counts().into_iter().filter(|(_, count)| is_invalid(*count)).map(|(key, _)| key).collect()
    }

    /// Replaces values that are no numbers by 0, as the TypeScript package does.
    pub(super) fn or_zero(self) -> Self {
        self.map(|count| if count.is_nan() { 0.0 } else { count })
    }

    /// Replaces numbers that are no counts by NaN.
    pub(super) fn checked(self) -> Self {
        self.map(checked)
    }

    /// Returns the counts that are not in `part`.
    pub(super) fn beyond(self, part: Usage) -> Self {
        self.zip(part, beyond)
    }

    /// Returns the sums of each two counts.
    pub(super) fn plus(self, other: Usage) -> Self {
        self.zip(other, |a, b| a + b)
    }

    /// Returns the larger of each two counts.
    pub(super) fn larger(self, other: Usage) -> Self {
        self.zip(other, larger)
    }

    /// Returns whether no count is above 0.
    pub(super) fn is_empty(&self) -> bool {
        self.counts().iter().all(|(_, count)| *count <= 0.0)
    }

    /// Changes each count.
    pub(super) fn map(self, change: impl Fn(f64) -> f64) -> Self {
        self.zip(self, |count, _| change(count))
    }

    fn zip(self, other: Usage, join: impl Fn(f64, f64) -> f64) -> Self {
        Usage {
            input: join(self.input, other.input),
            output: join(self.output, other.output),
            reasoning: join(self.reasoning, other.reasoning),
            cache_read: join(self.cache_read, other.cache_read),
            cache_create_5m: join(self.cache_create_5m, other.cache_create_5m),
            cache_create_1h: join(self.cache_create_1h, other.cache_create_1h),
        }
    }

    /// Returns the counts as a record has them.
    pub(super) fn printed(self) -> Self {
        self.map(|count| if count.is_nan() { NO_COUNT } else { count })
    }

    /// Appends the member `usage`.
    pub(super) fn write(&self, record: &mut RecordText) {
        record.object("usage", |usage| {
            self.printed().counts().into_iter().for_each(|(key, count)| usage.number(key, count));
        });
    }
}

/// Which counts of a turn the log has. The flags for parts that every reader finds (tool calls, results, relationships,
/// content) are always true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    pub has_input: bool,
    pub has_output: bool,
    pub has_reasoning: bool,
    pub has_cache_read: bool,
    pub has_cache_create: bool,
}

/// Returns a difference that is not below 0; NaN if one of the two is no count.
pub(super) fn beyond(count: f64, part: f64) -> f64 {
    let difference = count - part;
    if difference < 0.0 { 0.0 } else { difference }
}

/// Returns the larger count. A value that is no count gives way to a count above 0.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    let count = a.max(b);
    if count > 0.0 { count } else { a + b }
}

impl Coverage {
    /// Adds the coverage of another line of the same turn.
    pub(super) fn add(&mut self, other: Coverage) {
        self.has_input |= other.has_input;
        self.has_output |= other.has_output;
        self.has_reasoning |= other.has_reasoning;
        self.has_cache_read |= other.has_cache_read;
        self.has_cache_create |= other.has_cache_create;
    }

    /// `full`, `usage-only` or `partial`.
    pub(super) fn class(&self) -> &'static str {
        match (self.has_input && self.has_output, self.has_cache_read) {
            (true, true) => "full",
            (true, false) => "usage-only",
            (false, _) => "partial",
        }
    }

    /// Appends the member `fidelity` of a record with the usage of one turn.
    pub(super) fn write_fidelity(&self, record: &mut RecordText) {
        let flags = [
            ("hasInputTokens", self.has_input),
            ("hasOutputTokens", self.has_output),
            ("hasReasoningTokens", self.has_reasoning),
            ("hasCacheReadTokens", self.has_cache_read),
            ("hasCacheCreateTokens", self.has_cache_create),
            ("hasToolCalls", true),
            ("hasToolResultEvents", true),
            ("hasSessionRelationships", true),
            ("hasRawContent", true),
        ];
        record.object("fidelity", |fidelity| {
            fidelity.text("granularity", b"per-turn");
            fidelity.object("coverage", |coverage| {
                flags.into_iter().for_each(|(key, flag)| coverage.flag(key, flag))
            });
            fidelity.text("class", self.class().as_bytes());
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_order_of_members() {
        let told = |has_input, has_output, has_cache_read| {
            Coverage { has_input, has_output, has_cache_read, ..Coverage::default() }.class()
        };
        assert_eq!(
            [told(true, true, true), told(true, true, false), told(true, false, true)],
            ["full", "usage-only", "partial"]
        );
        let mut record = RecordText::default();
        Coverage { has_input: true, ..Coverage::default() }.write_fidelity(&mut record);
        assert_eq!(
            String::from_utf8(record.finish()).unwrap(),
            r#"{"fidelity":{"granularity":"per-turn","coverage":{"hasInputTokens":true,"hasOutputTokens":false,"hasReasoningTokens":false,"hasCacheReadTokens":false,"hasCacheCreateTokens":false,"hasToolCalls":true,"hasToolResultEvents":true,"hasSessionRelationships":true,"hasRawContent":true},"class":"partial"}}"#
        );
    }
}

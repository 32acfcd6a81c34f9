//! Writes the usage and fidelity members of a turn.

use super::js::RecordText;

/// The token counts of a turn.
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

    /// Appends the member `usage`.
    pub(super) fn write(&self, record: &mut RecordText) {
        let mut usage = RecordText::default();
        for (key, count) in self.counts() {
            usage.number(key, count);
        }
        record.raw("usage", &usage.finish());
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
        let mut coverage = RecordText::default();
        for (key, flag) in [
            ("hasInputTokens", self.has_input),
            ("hasOutputTokens", self.has_output),
            ("hasReasoningTokens", self.has_reasoning),
            ("hasCacheReadTokens", self.has_cache_read),
            ("hasCacheCreateTokens", self.has_cache_create),
            ("hasToolCalls", true),
            ("hasToolResultEvents", true),
            ("hasSessionRelationships", true),
            ("hasRawContent", true),
        ] {
            coverage.flag(key, flag);
        }
        let mut fidelity = RecordText::default();
        fidelity.text("granularity", b"per-turn");
        fidelity.raw("coverage", &coverage.finish());
        fidelity.text("class", self.class().as_bytes());
        record.raw("fidelity", &fidelity.finish());
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

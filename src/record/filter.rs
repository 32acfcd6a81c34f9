//! Which records a query wants: one filter for the archive and for the ledger.

use super::RecordKind;
use crate::scan::json::{Kind as JsonKind, Value};

/// Which records are wanted: those that agree with everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// No `ts` before this; bytes are compared.
    pub since: Option<String>,
    /// No `ts` behind this.
    pub until: Option<String>,
    /// This session; for relationships on either end.
    pub session: Option<String>,
    /// This source.
    pub source: Option<String>,
    /// Turns whose `project` or `projectKey` is this.
    pub project: Option<String>,
    /// Turns whose enrichment has all of these keys with these values.
    pub enrichment: Vec<(String, String)>,
}

impl Filter {
    /// Whether a record of the ledger passes, its enrichment left aside. Strings are compared by their bytes. A record without
    /// a `ts` passes any bounds.
    pub(crate) fn passes(&self, kind: RecordKind, record: Value<'_>) -> bool {
        let is = |key: &str, wanted: &str| {
            record.get(key).and_then(Value::as_js_str).is_some_and(|found| found == *wanted)
        };
        let ts = record.get("ts").filter(|ts| ts.kind() == JsonKind::String).and_then(Value::as_str);
        let in_time = ts.is_none_or(|ts| {
            self.since.as_deref().is_none_or(|since| since.as_bytes() <= ts.as_bytes())
                && self.until.as_deref().is_none_or(|until| ts.as_bytes() <= until.as_bytes())
        });
        let of_session = |session: &str| {
            is("sessionId", session) || (kind == RecordKind::Relationship && is("relatedSessionId", session))
        };
        let of_project = |project: &str| is("project", project) || is("projectKey", project);
        in_time
            && self.session.as_deref().is_none_or(of_session)
            && self.source.as_deref().is_none_or(|source| is("source", source))
            && (kind != RecordKind::Turn || self.project.as_deref().is_none_or(of_project))
    }

    /// Whether an enrichment, an object, has all the keys and values that are wanted.
    pub(crate) fn passes_enrichment<'w>(
        enrichment: Value<'_>,
        wanted: impl IntoIterator<Item = (&'w str, &'w str)>,
    ) -> bool {
        let has = |(key, value): (&str, &str)| {
            enrichment.get(key).and_then(Value::as_js_str).is_some_and(|found| found == *value)
        };
        wanted.into_iter().all(has)
    }
}

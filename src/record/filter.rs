//! Decides which records a query wants: one filter for the archive and for the ledger.
//!
//! Times, by example. Agents write `ts` in the form of [`ORDINARY`]. Texts of this form sort as instants do, and are compared
//! by their bytes. Other forms are compared as instants:
//!
//! ```text
//! since 2026-04-20T10:00:00.000Z    text compared    instant compared
//! ts    2026-04-20T11:30:00+02:00   after            before (09:30Z)      does not pass
//! ts    2026-04-20T09:30:00-02:00   before           after (11:30Z)       passes
//! ts    2026-04-20T10:00:00Z        after            equal                passes
//! ts    yesterday                   after            not a time           passes, by its text
//! ```

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};

use super::RecordKind;
use super::pattern::{Pattern, passes};
use crate::scan::json::{JsStr, Kind as JsonKind, Value};

/// The order of records from an archive. A ledger is always read from its first line to its last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RecordOrder {
    /// By time.
    #[default]
    OldestFirst,
    /// By time, newest first.
    NewestFirst,
}

/// Which records are wanted: records that match every condition given. Of several patterns of a member any will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// No `ts` before this time. Times in RFC 3339 are compared as instants. When this time or the `ts` is not in RFC 3339,
    /// bytes are compared.
    pub since: Option<String>,
    /// No `ts` after this time, compared in the same way.
    pub until: Option<String>,
    /// Records of these sessions; relationships with one of them at either end.
    pub session: Vec<Pattern>,
    /// Records of these sources.
    pub source: Vec<Pattern>,
    /// Turns with one of these as `project` or `projectKey`.
    pub project: Vec<Pattern>,
    /// Turns whose enrichment has all these keys, each with one of its values.
    pub enrichment: Vec<(String, Pattern)>,
    /// The order of records from an archive.
    pub order: RecordOrder,
}

impl Filter {
    /// The bounds of time, parsed once for many records.
    pub(crate) fn times(&self) -> TimeBounds {
        let [since, until] = [&self.since, &self.until]
            .map(|text| text.as_deref().map(|text| TimeBound::new(text.to_owned())));
        TimeBounds { since, until }
    }

    /// Whether a record of the ledger passes, without regard to its enrichment. Strings are compared by their bytes. A record
    /// without a `ts` passes any bounds.
    pub(crate) fn passes(&self, times: &TimeBounds, kind: RecordKind, record: Value<'_>) -> bool {
        let has = |keys: &[&str], patterns: &[Pattern]| {
            let value = |key: &&str| record.get(key).and_then(Value::as_js_str).map(JsStr::as_wtf8);
            patterns.is_empty() || passes(patterns, &keys.iter().map(value).collect::<Vec<_>>())
        };
        let ts = record.get("ts").filter(|ts| ts.kind() == JsonKind::String).and_then(Value::as_str);
        let in_time = ts.is_none_or(|ts| times.pass(&ts));
        let sessions: &[&str] = match kind {
            RecordKind::Relationship => &["sessionId", "relatedSessionId"],
            _ => &["sessionId"],
        };
        in_time
            && has(sessions, &self.session)
            && has(&["source"], &self.source)
            && (kind != RecordKind::Turn || has(&["project", "projectKey"], &self.project))
    }
}

/// The form of a time whose texts sort as instants do, as a pattern for SQLite's GLOB.
pub(crate) const ORDINARY: &str =
    "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z";
/// More than the greatest offset that is accepted, 25:59:59.
const OFFSET_MAX: SignedDuration = SignedDuration::from_hours(26);

/// The first and the last time of a filter.
#[derive(Debug)]
pub(crate) struct TimeBounds {
    pub(crate) since: Option<TimeBound>,
    pub(crate) until: Option<TimeBound>,
}

impl TimeBounds {
    pub(crate) fn pass(&self, ts: &str) -> bool {
        self.since.as_ref().is_none_or(|since| since.of(ts).is_ge())
            && self.until.as_ref().is_none_or(|until| until.of(ts).is_le())
    }
}

/// One end of a range of time.
#[derive(Debug)]
pub(crate) struct TimeBound {
    text: String,
    is_ordinary: bool,
    /// None if the text is not in RFC 3339.
    instant: Option<Timestamp>,
}

impl TimeBound {
    fn new(text: String) -> Self {
        Self { is_ordinary: is_ordinary(&text), instant: instant_of(&text), text }
    }

    /// Compares `ts` with the bound.
    fn of(&self, ts: &str) -> Ordering {
        let as_text = ts.as_bytes().cmp(self.text.as_bytes());
        if self.is_ordinary && is_ordinary(ts) {
            return as_text;
        }
        match (instant_of(ts), self.instant) {
            (Some(ts), Some(bound)) => ts.cmp(&bound),
            _ => as_text,
        }
    }

    pub(crate) fn is_instant(&self) -> bool {
        self.instant.is_some()
    }

    /// A text that compares with [`ORDINARY`] times, and with texts that are not times, as the bound does, or admits a little
    /// more.
    pub(crate) fn for_ordinary(&self, end: RangeEnd) -> String {
        match (self.is_ordinary, self.instant) {
            (false, Some(instant)) => {
                let ordinary = instant.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
                match end {
                    RangeEnd::Since => ordinary.min(self.text.clone()),
                    RangeEnd::Until => ordinary.max(self.text.clone()),
                }
            }
            _ => self.text.clone(),
        }
    }

    /// For the start of a range, a text that no `ts` within the bound sorts before; for the end, a text that none sorts after,
    /// whatever the offset of `ts`. None where there is no such text, and for a bound that is not an instant.
    pub(crate) fn for_any(&self, end: RangeEnd) -> Option<String> {
        // A `ts` begins with its local date, which differs from the date in UTC by its offset.
        let date = match end {
            RangeEnd::Since => self.instant?.checked_sub(OFFSET_MAX),
            // The text of a date sorts before all times of the date.
            RangeEnd::Until => self.instant?.checked_add(OFFSET_MAX + SignedDuration::from_hours(24)),
        };
        let date = date.ok()?.strftime("%Y-%m-%d").to_string();
        date.starts_with(|first: char| first.is_ascii_digit()).then_some(date)
    }
}

/// Which end of a range of time a [`TimeBound`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeEnd {
    Since,
    Until,
}

/// Whether a text has the form of [`ORDINARY`].
fn is_ordinary(ts: &str) -> bool {
    has_form(ts.as_bytes(), b"0000-00-00T00:00:00.000Z")
}

/// Whether a text has this form, in which a 0 is any digit.
pub(super) fn has_form(text: &[u8], form: &[u8]) -> bool {
    let is_alike =
        |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    text.len() == form.len() && text.iter().zip(form).all(is_alike)
}

/// The instant of a time in RFC 3339: a date with hyphens and a year of four digits, a time, and an offset.
fn instant_of(ts: &str) -> Option<Timestamp> {
    let (date, time) = ts.as_bytes().split_at_checked("0000-00-00".len())?;
    let has_date = has_form(date, b"0000-00-00") && matches!(time, [b'T' | b't' | b' ', ..]);
    if has_date { ts.parse().ok() } else { None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(since: Option<&str>, until: Option<&str>) -> TimeBounds {
        let [since, until] = [since, until].map(|text| text.map(str::to_owned));
        Filter { since, until, ..Filter::default() }.times()
    }

    #[test]
    fn times_in_rfc_3339_are_instants_and_anything_else_is_text() {
        let since = times(Some("2026-04-20T10:00:00.000Z"), None);
        for (ts, passes) in [
            ("2026-04-20T10:00:00.000Z", true),
            ("2026-04-20T09:59:59.999Z", false),
            ("2026-04-20T10:00:00Z", true),
            ("2026-04-20T10:00:00.0000Z", true),
            ("2026-04-20T09:59:59.9999Z", false),
            ("2026-04-20T11:30:00+02:00", false),
            ("2026-04-20T09:30:00-02:00", true),
            ("2026-04-19T10:01:00.000-23:59", true),
            ("2026-04-20t10:00:00z", true),
            ("2026-04-20 09:59:59Z", false),
            ("2026-04-20", false),
            ("2026-04-20T10:00:00", false),
            ("yesterday", true),
            ("", false),
            // Not a time, though the text has the form.
            ("2026-99-99T99:99:99.999Z", true),
            // A date in another form would not be found by its text.
            ("20260420T100000Z", true),
        ] {
            assert_eq!(since.pass(ts), passes, "{ts}");
        }
        let until = times(None, Some("2026-04-20T12:00:00+02:00"));
        assert!(until.pass("2026-04-20T10:00:00.000Z") && !until.pass("2026-04-20T10:00:00.001Z"));
        assert!(times(Some("b"), Some("c")).pass("b") && !times(Some("b"), Some("c")).pass("a"));
    }

    proptest! {
        /// The archive's SQL conditions exclude no record that passes.
        #[test]
        fn wide_bounds_lose_nothing(
            bound in -62_135_596_800_000i64..253_402_207_200_000,
            distance in -200_000_000i64..200_000_000,
            offset in -93_599i32..93_600,
            of_bound in prop::option::of(-93_599i32..93_600),
            digits in 0u8..10,
        ) {
            let text = |millis: i64, offset: i32, digits: u8| {
                let zone = jiff::tz::Offset::from_seconds(offset).unwrap().to_time_zone();
                let time = Timestamp::from_millisecond(millis).ok()?.to_zoned(zone);
                let date = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
                let fraction = format!(".{:09}", time.subsec_nanosecond());
                let fraction = if digits == 0 { "" } else { &fraction[..usize::from(digits) + 1] };
                let [sign, seconds] = [offset.signum(), offset.abs()];
                let sign = if sign < 0 { '-' } else { '+' };
                let offset = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
                (date.as_bytes()[0] != b'-').then(|| date + fraction + &offset)
            };
            let Some(ts) = text(bound + distance, offset, digits) else { return Ok(()) };
            let instant: Timestamp = ts.parse().unwrap();
            let of = match of_bound {
                Some(offset) => text(bound, offset, 3),
                None => Timestamp::from_millisecond(bound)
                    .ok()
                    .map(|time| time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()),
            };
            let Some(of) = of else { return Ok(()) };
            let at: Timestamp = of.parse().unwrap();
            let ordinary = instant.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
            let floor: Timestamp = ordinary.parse().unwrap();

            let since = times(Some(&of), None);
            prop_assert_eq!(since.pass(&ts), instant >= at);
            prop_assert_eq!(since.pass(&ordinary), floor >= at);
            let since = since.since.unwrap();
            let until = times(None, Some(&of));
            prop_assert_eq!(until.pass(&ts), instant <= at);
            prop_assert_eq!(until.pass(&ordinary), floor <= at);
            let until = until.until.unwrap();
            for text in [&ts, &ordinary, &of] {
                if since.of(text).is_ge() {
                    prop_assert!(since.for_any(RangeEnd::Since).is_none_or(|first| *text >= first));
                }
                if until.of(text).is_le() {
                    prop_assert!(until.for_any(RangeEnd::Until).is_none_or(|last| *text <= last));
                }
            }
            prop_assert!(floor < at || ordinary >= since.for_ordinary(RangeEnd::Since));
            prop_assert!(floor > at || ordinary <= until.for_ordinary(RangeEnd::Until));
        }
    }
}

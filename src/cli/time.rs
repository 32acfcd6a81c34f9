//! Times on the command line: what a user writes becomes the first and the last instant that it names.

use jiff::civil::{Date, DateTime};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The first and the last instant of a time: of a day all of it, of anything else twice the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    first: Timestamp,
    last: Timestamp,
}

/// The zone called `name`, or that of the system.
pub(super) fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else {
        return TimeZone::try_system().or_else(|error| match std::env::var_os("TZ") {
            Some(zone) if !zone.is_empty() => {
                Err(format!("TZ is {}, which is no time zone ({error}); give --tz", zone.display()))
            }
            // A system without a zone counts in UTC.
            _ => Ok(TimeZone::UTC),
        });
    };
    TimeZone::get(name)
        .map_err(|error| format!("--tz: {error}; a name such as Europe/Berlin or UTC is needed"))
}

impl Range {
    /// Reads a time: RFC 3339 with an offset; a date, or a date and a time, in `zone`; an age in hours, days of 24 hours or
    /// weeks before `now`; `today` or `yesterday`.
    pub(super) fn parse(text: &str, zone: &TimeZone, now: Timestamp) -> Result<Self, String> {
        let refused = |why: &str| {
            format!(
                "{text:?} is no time{why}; write 2026-04-20T10:15:00Z, 2026-04-20T10:15, 2026-04-20, 7d, 24h, 4w, today or \
                 yesterday"
            )
        };
        let because = |error: jiff::Error| refused(&format!(" ({error})"));
        if let Some(hours) = age_hours(text) {
            let at =
                now.checked_sub(SignedDuration::from_secs(hours.saturating_mul(3600))).map_err(because)?;
            return Ok(Self { first: at, last: at });
        }
        let today = zone.to_datetime(now).date();
        match text {
            "today" => return Self::day(today, zone).map_err(because),
            "yesterday" => return today.yesterday().and_then(|day| Self::day(day, zone)).map_err(because),
            _ => {}
        }
        let pieces = Pieces::parse(text).map_err(because)?;
        if pieces.time_zone_annotation().is_some() {
            return Err(refused(" (a zone in brackets; use --tz)"));
        }
        let Some(time) = pieces.time() else { return Self::day(pieces.date(), zone).map_err(because) };
        if pieces.offset().is_some() {
            let at: Timestamp = text.parse().map_err(because)?;
            return Ok(Self { first: at, last: at });
        }
        // A clock that is set back shows a time twice: both are meant.
        let at = zone.to_ambiguous_timestamp(DateTime::from_parts(pieces.date(), time));
        Ok(Self { first: at.earlier().map_err(because)?, last: at.later().map_err(because)? })
    }

    fn day(date: Date, zone: &TimeZone) -> Result<Self, jiff::Error> {
        let start = |date: Date| zone.to_timestamp(date.at(0, 0, 0, 0));
        Ok(Self {
            first: start(date)?,
            last: start(date.tomorrow()?)?.checked_sub(SignedDuration::from_nanos(1))?,
        })
    }

    /// The first millisecond that is not before the range, as records have it.
    pub(super) fn since(self) -> String {
        let rest = SignedDuration::from_nanos(999_999);
        text_of(self.first.checked_add(rest).unwrap_or(self.first))
    }

    /// The last millisecond that is not after the range, as records have it.
    pub(super) fn until(self) -> String {
        text_of(self.last)
    }
}

/// With milliseconds, cut off.
fn text_of(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// `24h`, `7d` and `4w` in hours.
fn age_hours(text: &str) -> Option<i64> {
    let unit = text.chars().next_back()?;
    let hours = match unit {
        'h' => 1,
        'd' => 24,
        'w' => 7 * 24,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { Some(digits.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(hours)) } else { None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str, zone: &str) -> Result<(String, String), String> {
        let zone = TimeZone::get(zone).unwrap();
        let now = "2026-04-20T10:15:00.5Z".parse().unwrap();
        Range::parse(text, &zone, now).map(|range| (range.since(), range.until()))
    }

    #[test]
    fn every_form_names_its_first_and_last_instant() {
        for (text, zone, since, until) in [
            ("2026-04-20T10:15:00.000Z", "UTC", "2026-04-20T10:15:00.000Z", "2026-04-20T10:15:00.000Z"),
            ("2026-04-20T10:15:00+02:00", "UTC", "2026-04-20T08:15:00.000Z", "2026-04-20T08:15:00.000Z"),
            ("2026-04-20T10:15:00.0005Z", "UTC", "2026-04-20T10:15:00.001Z", "2026-04-20T10:15:00.000Z"),
            ("2026-01-01T00:07", "UTC", "2026-01-01T00:07:00.000Z", "2026-01-01T00:07:00.000Z"),
            ("2026-01-01", "UTC", "2026-01-01T00:00:00.000Z", "2026-01-01T23:59:59.999Z"),
            // A day of 23 hours.
            ("2026-03-08", "America/New_York", "2026-03-08T05:00:00.000Z", "2026-03-09T03:59:59.999Z"),
            // Half past one comes twice.
            ("2026-11-01T01:30", "America/New_York", "2026-11-01T05:30:00.000Z", "2026-11-01T06:30:00.000Z"),
            ("today", "Asia/Tokyo", "2026-04-19T15:00:00.000Z", "2026-04-20T14:59:59.999Z"),
            ("yesterday", "UTC", "2026-04-19T00:00:00.000Z", "2026-04-19T23:59:59.999Z"),
            ("24h", "UTC", "2026-04-19T10:15:00.500Z", "2026-04-19T10:15:00.500Z"),
            ("7d", "UTC", "2026-04-13T10:15:00.500Z", "2026-04-13T10:15:00.500Z"),
            ("4w", "UTC", "2026-03-23T10:15:00.500Z", "2026-03-23T10:15:00.500Z"),
        ] {
            assert_eq!(read(text, zone), Ok((since.to_owned(), until.to_owned())), "{text} {zone}");
        }
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in [
            "",
            " ",
            "1/5/2026",
            "last week",
            "2026-13-45",
            "2026",
            "2026-04",
            "t2",
            "7",
            "d",
            "-7d",
            "7m",
            "1.5d",
            "99999999999999999999w",
            "Today",
            "2026-04-20T25:00:00Z",
            "2026-04-20T10:15:00[Europe/Berlin]",
            "\u{e9}d",
        ] {
            let refused = read(text, "UTC").unwrap_err();
            assert!(refused.contains("is no time"), "{text:?}: {refused}");
        }
    }
}

//! The day of a row: the day of its `ts` in UTC, or `unknown`. Touches nothing.

use std::fmt;
use std::str::FromStr;

use crate::record::time::{Instant, civil, day_number};

/// A day in UTC, or the day of the rows without a time. Days sort by time; `unknown` is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExportDay {
    /// Days since 1970-01-01.
    Utc(i64),
    /// Rows whose `ts` is no time or missing.
    Unknown,
}

/// The name of [`ExportDay::Unknown`].
const UNKNOWN: &str = "unknown";

impl fmt::Display for ExportDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utc(days) => {
                let (year, month, day) = civil(*days);
                write!(f, "{year:04}-{month:02}-{day:02}")
            }
            Self::Unknown => f.write_str(UNKNOWN),
        }
    }
}

impl FromStr for ExportDay {
    type Err = String;

    /// Reads `YYYY-MM-DD` or `unknown`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == UNKNOWN {
            return Ok(Self::Unknown);
        }
        date_number(text.as_bytes())
            .filter(|_| text.len() == DATE_LEN)
            .map(Self::Utc)
            .ok_or_else(|| format!("{text:?} is no day; a day is written as 2026-04-20"))
    }
}

impl serde::Serialize for ExportDay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ExportDay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The length of `YYYY-MM-DD`.
const DATE_LEN: usize = 10;

/// The number of the day that a text begins with.
fn date_number(text: &[u8]) -> Option<i64> {
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = text.get(..DATE_LEN)? else { return None };
    let number = |digits: &[u8]| {
        digits
            .iter()
            .try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
    };
    day_number(i64::from(number(&[y0, y1, y2, y3])?), number(&[m0, m1])?, number(&[d0, d1])?)
}

/// The numbers of 0000-01-01 and 9999-12-31. The names of other days have no four digits for the year.
const NAMED_DAYS: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;

/// The time of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowTime {
    pub day: ExportDay,
    /// Microseconds since 1970, rounded down; `None` without a time.
    pub ts_us: Option<i64>,
    /// The date that `ts` begins with, which is at most a day from `day`. `None` without a time.
    pub written_day: Option<i64>,
}

impl RowTime {
    pub(super) fn of(ts: Option<&str>) -> Self {
        let Some((ts, instant)) = ts.and_then(|ts| Some((ts, Instant::of_turn(ts)?))) else {
            return Self { day: ExportDay::Unknown, ts_us: None, written_day: None };
        };
        // An offset can move the first and the last day out of the years that have names.
        let day = instant.seconds.div_euclid(86_400);
        Self {
            day: if NAMED_DAYS.contains(&day) { ExportDay::Utc(day) } else { ExportDay::Unknown },
            // A year has four digits, so the product fits.
            ts_us: Some(instant.seconds * 1_000_000 + i64::from(instant.nanos / 1_000)),
            written_day: date_number(ts.as_bytes()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_as_they_are_written() {
        for text in ["1969-12-31", "1970-01-01", "2026-02-28", "0000-03-01", "9999-12-31", "unknown"] {
            assert_eq!(text.parse::<ExportDay>().unwrap().to_string(), text);
        }
        for text in ["", "2026-02-29", "2026-4-20", "2026-04-20T00:00", "20260420", "yesterday", "2026-04-2x"]
        {
            assert!(text.parse::<ExportDay>().unwrap_err().contains("is no day"), "{text}");
        }
        assert!("9999-12-31".parse::<ExportDay>().unwrap() < ExportDay::Unknown);
    }

    #[test]
    fn the_day_of_a_row_is_that_of_its_instant() {
        let of = |ts: &str| {
            let time = RowTime::of(Some(ts));
            (time.day.to_string(), time.ts_us)
        };
        assert_eq!(of("1970-01-02T00:00:00.000001999Z"), ("1970-01-02".to_owned(), Some(86_400_000_001)));
        assert_eq!(of("1969-12-31T23:59:59.9999999Z"), ("1969-12-31".to_owned(), Some(-1)));
        assert_eq!(of("2026-04-20T00:30:00+02:00").0, "2026-04-19");
        assert_eq!(of("2026-04-19 23:30-00:45").0, "2026-04-20");
        assert_eq!(of("2026-02-30T00:00:00.000Z"), ("unknown".to_owned(), None));
        assert_eq!(RowTime::of(None), RowTime::of(Some("")));
        assert_eq!(of("9999-12-31T23:30:00-01:00").0, "unknown");
        assert_eq!(of("0000-01-01T00:30:00+01:00").0, "unknown");
        for named in [*NAMED_DAYS.start(), *NAMED_DAYS.end()] {
            let day = ExportDay::Utc(named);
            assert_eq!(day.to_string().parse(), Ok(day));
        }
    }

    #[test]
    fn the_written_day_is_at_most_a_day_away() {
        for ts in ["2026-04-20T00:00:00+23:59", "2026-04-20T23:59:59-23:59", "2026-04-20 12:00"] {
            let time = RowTime::of(Some(ts));
            let ExportDay::Utc(day) = time.day else { panic!("{ts}") };
            assert!((time.written_day.unwrap() - day).abs() <= 1, "{ts}");
        }
    }
}

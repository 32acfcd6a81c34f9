//! Parses the time of a turn into an instant.
//!
//! Other programs write `ts`, so the parser accepts RFC 3339 and some of its variants. Every other text is no time.

/// A point in time: seconds since 1970, UTC, and nanoseconds of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds of the second, below 10^9.
    pub nanos: u32,
}

/// Seconds of a day.
pub(crate) const DAY_SECONDS: i64 = 86_400;

impl Instant {
    /// Returns the start of the second `seconds`.
    pub const fn at(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }

    /// Parses the `ts` of a turn: date, `T`, `t` or a blank, time, offset. Seconds may be missing. Nine digits of a
    /// fraction count. Second 60 is read as 59. The offset is `Z`, `z`, `+hh:mm`, `+hhmm` or `+hh`; a time without an
    /// offset is UTC. `None` for every other text.
    pub fn of_turn(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let year = digits(&mut rest, 4)?;
        byte(&mut rest, b"-")?;
        let month = digits(&mut rest, 2)?;
        byte(&mut rest, b"-")?;
        let day = digits(&mut rest, 2)?;
        let days = day_number(i64::from(year), month, day)?;
        byte(&mut rest, b"Tt ")?;
        let hour = digits(&mut rest, 2).filter(|hour| *hour < 24)?;
        byte(&mut rest, b":")?;
        let minute = digits(&mut rest, 2).filter(|minute| *minute < 60)?;
        let (mut second, mut nanos) = (0, 0);
        if byte(&mut rest, b":").is_some() {
            second = digits(&mut rest, 2).filter(|second| *second <= 60)?.min(59);
            if byte(&mut rest, b".").is_some() {
                let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                if len == 0 {
                    return None;
                }
                let (fraction, behind) = rest.split_at(len);
                rest = behind;
                for place in 0..9 {
                    nanos = nanos * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
                }
            }
        }
        let offset_seconds = offset(rest)?;
        let of_day = i64::from(hour * 3600 + minute * 60 + second);
        Some(Self { seconds: days * DAY_SECONDS + of_day - offset_seconds, nanos })
    }

    /// Days since 1970-01-01, UTC.
    pub(crate) fn day(self) -> i64 {
        self.seconds.div_euclid(DAY_SECONDS)
    }

    /// Nanoseconds since 1970.
    pub(crate) fn total_nanos(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// Returns the instant so many nanoseconds later.
    pub(crate) fn plus_nanos(self, nanos: i128) -> Self {
        let total = self.total_nanos() + nanos;
        // Both parts fit: instants are a few thousand years from 1970.
        Self {
            seconds: total.div_euclid(1_000_000_000) as i64,
            nanos: total.rem_euclid(1_000_000_000) as u32,
        }
    }

    /// `2026-10-25T13:00:00`, UTC, without a fraction and without an offset.
    fn clock(self) -> String {
        let second = self.seconds.rem_euclid(DAY_SECONDS);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{}T{hour:02}:{minute:02}:{second:02}", date(self.day()))
    }

    /// RFC 3339 in UTC, with milliseconds, or with more digits if they are not zero.
    pub fn to_rfc3339(self) -> String {
        let fraction = format!("{:09}", self.nanos);
        let shown = fraction.trim_end_matches('0').len().max(3);
        format!("{}.{}Z", self.clock(), &fraction[..shown])
    }

    /// RFC 3339 in UTC, with nine digits of a fraction.
    pub fn to_rfc3339_nanos(self) -> String {
        format!("{}.{:09}Z", self.clock(), self.nanos)
    }

    /// RFC 3339 in UTC, with seconds.
    pub fn to_rfc3339_seconds(self) -> String {
        format!("{}Z", self.clock())
    }
}

/// The length of a time up to its hour.
#[cfg(feature = "usage")]
pub(crate) const HOUR_LEN: usize = "2026-10-25T13".len();

/// Whether a text is a time because it has the hour of another text, which is a time, and ends with `:mm:ss.mmmZ`. A
/// comparison is faster than parsing. `false` says nothing about a text.
#[cfg(feature = "usage")]
#[inline]
pub(crate) fn is_time_like(known: &[u8], text: &[u8]) -> bool {
    let (Some(known), Some((hour, rest))) =
        (known.first_chunk::<HOUR_LEN>(), text.split_first_chunk::<HOUR_LEN>())
    else {
        return false;
    };
    let (11, Some(start), Some(end)) = (rest.len(), rest.first_chunk(), rest.last_chunk()) else {
        return false;
    };
    known == hour && is_within(start, b":00:00.0", b":59:59.9") && is_within(end, b":00.000Z", b":59.999Z")
}

/// Whether each byte is at most the byte of `most`, and at least the byte of `least`, where `least` has zeros or the byte of `most`.
#[cfg(feature = "usage")]
#[inline]
fn is_within(text: &[u8; 8], least: &[u8; 8], most: &[u8; 8]) -> bool {
    let [text, least, most] = [text, least, most].map(|bytes| u64::from_le_bytes(*bytes));
    let above = text ^ least;
    // A byte that is too great sets its highest bit.
    let over = above.wrapping_add(0x7f7f_7f7f_7f7f_7f7f - (most ^ least));
    (above | over) & 0x8080_8080_8080_8080 == 0
}

/// The next `count` digits as a number.
fn digits(rest: &mut &[u8], count: usize) -> Option<u32> {
    let (number, behind) = rest.split_at_checked(count)?;
    *rest = behind;
    number.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
}

/// The next byte, if it is one of these.
fn byte(rest: &mut &[u8], of: &[u8]) -> Option<()> {
    let (first, behind) = rest.split_first()?;
    of.contains(first).then(|| *rest = behind)
}

/// The offset after a time, in seconds east of UTC.
fn offset(mut rest: &[u8]) -> Option<i64> {
    let sign = match rest {
        [] | b"Z" | b"z" => return Some(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    rest = &rest[1..];
    let hours = digits(&mut rest, 2).filter(|hours| *hours < 24)?;
    let minutes = match rest {
        [] => 0,
        _ => {
            let _ = byte(&mut rest, b":");
            digits(&mut rest, 2).filter(|minutes| *minutes < 60)?
        }
    };
    rest.is_empty().then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; `None` when there is no such date.
pub(crate) fn day_number(year: i64, month: u32, day: u32) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > last {
        return None;
    }
    // Years are counted from March, so that the leap day is the last day of a year.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468)
}

/// Returns the date of a number of days since 1970-01-01: year, month, day.
pub(crate) fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// Returns the date of a number of days since 1970-01-01, `2026-10-25`.
pub(crate) fn date(days: i64) -> String {
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_other_programs_write_is_read() {
        for (text, utc) in [
            ("2026-11-22T10:00:00.5Z", "2026-11-22T10:00:00.500Z"),
            ("2026-11-22 10:00", "2026-11-22T10:00:00.000Z"),
            ("2026-11-22t10:00:00z", "2026-11-22T10:00:00.000Z"),
            ("2026-11-22T10:00:00.1234567891Z", "2026-11-22T10:00:00.123456789Z"),
            ("2026-11-22T10:00:60Z", "2026-11-22T10:00:59.000Z"),
            ("2026-11-22T23:59:59.999+0545", "2026-11-22T18:14:59.999Z"),
            ("2026-11-22T00:00:00-05", "2026-11-22T05:00:00.000Z"),
            ("2024-02-29T00:00+23:59", "2024-02-28T00:01:00.000Z"),
            ("0000-03-01T00:00:00Z", "0000-03-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(Instant::of_turn(text).unwrap().to_rfc3339(), utc, "{text}");
        }
    }

    #[test]
    fn everything_else_is_no_time() {
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22",
            "2026-11-22T24:00:00Z",
            "2026-11-22T10:60Z",
            "2026-11-22T10:00:61Z",
            "2026-11-22T10:00:00.Z",
            "2026-11-22T10:00:00+24:00",
            "2026-11-22T10:00:00+5",
            "2026-11-22T10:00:00Z ",
            "+2026-11-22T10:00:00Z",
            "2026-11-22T10:00:00Ü",
            "２026-11-22T10:00:00Z",
        ] {
            assert_eq!(Instant::of_turn(text), None, "{text}");
        }
    }

    #[test]
    fn dates_and_day_numbers_are_one_to_one() {
        let mut expected = day_number(1599, 12, 31).unwrap();
        for year in 1600..2405 {
            for month in 1..=12 {
                for day in (1..=31).filter(|day| day_number(year, month, *day).is_some()) {
                    expected += 1;
                    assert_eq!(day_number(year, month, day), Some(expected));
                    assert_eq!(civil(expected), (year, month, day));
                }
            }
        }
        assert_eq!(day_number(1970, 1, 1), Some(0));
    }
}

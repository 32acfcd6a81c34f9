//! Time zones: converts instants to local dates and hours, and these to their first and last instants.
//!
//! Guarantees: an instant has one local date and one offset. A date begins at its first instant and ends at the instant
//! after its last, whatever the clock does. If midnight is skipped, the day begins at the jump; if midnight occurs
//! twice, at the first.

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use super::instant::{DAY_SECONDS, Instant, civil, date, day_number};

/// A time zone and its name.
#[derive(Debug, Clone)]
pub struct Zone {
    zone: TimeZone,
    name: String,
}

/// A span of instants with one offset: first second inclusive, last second exclusive.
#[cfg(feature = "usage")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub from: i64,
    pub to: i64,
    pub offset: i64,
}

/// Returns the zone with this name.
///
/// The time-zone database knows names in any case, so it lists all directories of zones first: 35 of them on Debian. A name
/// as the files have it needs no list.
fn get(name: &str) -> Result<TimeZone, jiff::Error> {
    // The database has it in any case, whatever the files.
    if name.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'+' | b'-');
    // On other systems file names may match in any case, and the zone would not get its own name. These directories have
    // the zones once more, in other forms.
    let is_file = cfg!(target_os = "linux")
        && name.bytes().all(is_plain)
        && !["/", "posix/", "right/"].iter().any(|start| name.starts_with(start));
    let of_file = || {
        let directory = std::env::var_os("TZDIR").unwrap_or_else(|| "/usr/share/zoneinfo".into());
        let bytes = std::fs::read(std::path::Path::new(&directory).join(name)).ok()?;
        TimeZone::tzif(name, &bytes).ok()
    };
    is_file.then(of_file).flatten().map_or_else(|| TimeZone::get(name), Ok)
}

/// Returns the zone of `TZ`, or its value if it names no zone; none if it is not set.
fn of_variable() -> Option<Result<Zone, String>> {
    // `:/etc/localtime` is the zone of the system in other words.
    let is_system = |value: &std::ffi::OsString| {
        value.to_str().is_some_and(|value| value.trim_start_matches(':') == "/etc/localtime")
    };
    let value = std::env::var_os("TZ").filter(|value| !value.is_empty() && !is_system(value))?;
    let zone = |value: &str| {
        let name = value.trim_start_matches(':');
        let zone = get(name).or_else(|_| TimeZone::posix(name)).ok()?;
        Some(Zone { name: zone.iana_name().unwrap_or(name).to_owned(), zone })
    };
    Some(value.to_str().and_then(zone).ok_or_else(|| value.to_string_lossy().into_owned()))
}

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self { zone: TimeZone::UTC, name: "UTC".to_owned() }
    }

    /// Returns the zone with a name: an IANA name in any case, `UTC`, `local`, or `+hh:mm`.
    ///
    /// # Errors
    /// Why there is no such zone.
    pub fn named(name: &str) -> Result<Self, String> {
        if name.eq_ignore_ascii_case("local") {
            return Ok(Self::local());
        }
        if let Some(seconds) = fixed_offset(name) {
            let offset = Offset::from_seconds(seconds).map_err(|error| error.to_string())?;
            return Ok(Self { zone: TimeZone::fixed(offset), name: name.to_owned() });
        }
        let zone =
            get(name).map_err(|error| format!("{error}; write Europe/Berlin, UTC, local or +05:45"))?;
        let name = zone.iana_name().unwrap_or(name).to_owned();
        Ok(Self { zone, name })
    }

    /// Returns the zone of `TZ` if it names a zone, else the zone of the system, else UTC.
    pub fn local() -> Self {
        let of_link = || {
            let target = std::fs::canonicalize("/etc/localtime").ok()?;
            let name = target.to_str()?.split_once("zoneinfo/")?.1.to_owned();
            Self::named(&name).ok()
        };
        let of_system = || {
            let zone = TimeZone::try_system().ok()?;
            Some(Self { name: zone.iana_name().unwrap_or("local").to_owned(), zone })
        };
        of_variable().and_then(Result::ok).or_else(of_link).or_else(of_system).unwrap_or_else(Self::utc)
    }

    /// Returns the value of `TZ` if it names no zone, so that [`Zone::local`] ignores it.
    #[cfg(feature = "cli")]
    pub(crate) fn ignored_variable() -> Option<String> {
        of_variable()?.err()
    }

    /// Its name, as documents have it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the offset in force at an instant, and the span in which it is in force.
    #[cfg(feature = "usage")]
    pub(crate) fn span_at(&self, at: Instant) -> Span {
        let limits = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let timestamp = |seconds: i64| {
            Timestamp::from_second(seconds.clamp(limits.0, limits.1)).unwrap_or(Timestamp::UNIX_EPOCH)
        };
        let now = timestamp(at.seconds);
        let offset = i64::from(self.zone.to_offset(now).seconds());
        // A change of only the zone's abbreviation does not end a span.
        let same = |seconds: i64| i64::from(self.zone.to_offset(timestamp(seconds)).seconds()) == offset;
        let mut earlier = self.zone.preceding(timestamp(at.seconds.saturating_add(1)));
        let from = earlier
            .by_ref()
            .map(|change| change.timestamp().as_second())
            .find(|change| !same(change - 1))
            .unwrap_or(i64::MIN);
        let mut later = self.zone.following(now).map(|change| change.timestamp().as_second());
        let to = later.find(|change| !same(*change)).unwrap_or(i64::MAX);
        Span { from, to, offset }
    }

    /// Seconds east of UTC at an instant.
    pub(crate) fn offset_at(&self, seconds: i64) -> i64 {
        let limits = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        Timestamp::from_second(seconds.clamp(limits.0, limits.1))
            .map_or(0, |at| i64::from(self.zone.to_offset(at).seconds()))
    }

    /// Returns the first and the last instant at which clocks show a local time, in seconds since 1970. If clocks jump
    /// over it, both are the instant of the jump.
    pub(super) fn instants_of(&self, local_seconds: i64) -> (i64, i64) {
        let (year, month, day) = civil(local_seconds.div_euclid(DAY_SECONDS));
        let of_day = local_seconds.rem_euclid(DAY_SECONDS);
        let clock = || {
            let date = jiff::civil::Date::new(
                i16::try_from(year).ok()?,
                i8::try_from(month).ok()?,
                i8::try_from(day).ok()?,
            );
            let second = jiff::SignedDuration::from_secs(of_day);
            date.ok()?.at(0, 0, 0, 0).checked_add(second).ok()
        };
        let Some(clock) = clock() else {
            let at = local_seconds - self.offset_at(local_seconds);
            return (at, at);
        };
        let seconds = |offset: Offset| local_seconds - i64::from(offset.seconds());
        match self.zone.to_ambiguous_timestamp(clock).offset() {
            AmbiguousOffset::Unambiguous { offset } => (seconds(offset), seconds(offset)),
            AmbiguousOffset::Fold { before, after } => (seconds(before), seconds(after)),
            AmbiguousOffset::Gap { before, after } => {
                let jump = Timestamp::from_second(seconds(after))
                    .ok()
                    .and_then(|earlier| self.zone.following(earlier).next())
                    .map_or(seconds(before), |change| change.timestamp().as_second());
                (jump, jump)
            }
        }
    }

    /// Returns the local date of an instant, in days since 1970.
    pub(crate) fn day_of(&self, at: Instant) -> i64 {
        (at.seconds + self.offset_at(at.seconds)).div_euclid(DAY_SECONDS)
    }

    /// Returns the local date of an instant, `2026-11-05`.
    pub fn date_of(&self, at: Instant) -> String {
        date(self.day_of(at))
    }

    /// Returns the local date and minute of an instant, `2026-11-05 10:07`.
    #[cfg(feature = "report")]
    pub(crate) fn minute_of(&self, at: Instant) -> String {
        let of_day = (at.seconds + self.offset_at(at.seconds)).rem_euclid(DAY_SECONDS);
        format!("{} {:02}:{:02}", self.date_of(at), of_day / 3600, of_day / 60 % 60)
    }

    /// Returns the first instant of a local date.
    pub(crate) fn day_start(&self, day: i64) -> i64 {
        self.instants_of(day * DAY_SECONDS).0
    }

    /// Returns the instant after the last instant of a local date.
    pub(crate) fn day_end(&self, day: i64) -> i64 {
        let (first, last) = self.instants_of((day + 1) * DAY_SECONDS);
        if self.day_of(Instant::at(last - 1)) == day { last } else { first }
    }
}

/// `+05:45` in seconds.
fn fixed_offset(text: &str) -> Option<i32> {
    let (sign, rest) = match text.as_bytes() {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let [a, b, b':', c, d] = rest else { return None };
    let number = |tens: &u8, ones: &u8| {
        (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i32::from((tens - b'0') * 10 + ones - b'0'))
    };
    let (hours, minutes) = (number(a, b)?, number(c, d)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// The first day of a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeekStart {
    /// Monday.
    #[default]
    Monday,
    /// Sunday.
    Sunday,
    /// Saturday.
    Saturday,
}

impl WeekStart {
    /// As documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Monday => "monday",
            Self::Sunday => "sunday",
            Self::Saturday => "saturday",
        }
    }

    /// Returns the first day of the week of a day, both in days since 1970.
    pub(crate) fn week_of(self, day: i64) -> i64 {
        let start = match self {
            Self::Monday => 0,
            Self::Saturday => 5,
            Self::Sunday => 6,
        };
        day - (weekday(day) - start).rem_euclid(7)
    }
}

/// 0 is Monday.
pub(crate) fn weekday(day: i64) -> i64 {
    // 1970-01-01 was a Thursday.
    (day + 3).rem_euclid(7)
}

/// Returns the first day of the month after `(year, month)`.
pub(crate) fn month_after(year: i64, month: u32) -> i64 {
    let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    day_number(year, month, 1).unwrap_or(i64::MAX / DAY_SECONDS)
}

//! Times as users write them: `7d`, `last-month`, `2026-11-05T10:07`. One reader for queries over records and for sums over turns.
//!
//! Example, in Europe/Berlin on 2026-11-21:
//!
//! ```text
//! text         as --since                  as --until
//! 7d           2026-11-14T23:00:00Z        2026-11-14T22:59:59.999999999Z
//! 2026-11      2026-10-31T23:00:00Z        2026-11-30T22:59:59.999999999Z
//! 2026-11-05   2026-11-04T23:00:00Z        2026-11-05T22:59:59.999999999Z
//! ```

use super::instant::{Instant, civil, day_number};
use super::zone::{WeekStart, Zone, month_after};

/// The end of a span of time that a bound sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The first instant of the span.
    Since,
    /// The last instant of the span.
    Until,
}

/// The accepted forms of a time, for messages.
pub const TIME_FORMS: &str = "write now, today, yesterday, this-week, last-week, this-month, last-month, this-year, last-year, 7d, 2w, \
                              36h, 2026, 2026-11, 2026-11-05, 2026-11-05T10:07 or 2026-11-05T10:07:30Z";

/// The largest number of days, weeks or hours.
const COUNT_MAX: u32 = 3660;

impl Bound {
    /// Parses a time that a user has typed.
    ///
    /// # Errors
    /// The text is no time; the message lists the accepted forms.
    pub fn parse(
        self,
        text: &str,
        zone: &Zone,
        week_start: WeekStart,
        now: Instant,
    ) -> Result<Instant, String> {
        self.read(text, zone, week_start, now).ok_or_else(|| format!("{text:?} is no time; {TIME_FORMS}"))
    }

    fn read(self, text: &str, zone: &Zone, week_start: WeekStart, now: Instant) -> Option<Instant> {
        let today = zone.day_of(now);
        let (year, month, _) = civil(today);
        let month_start = |year, month| day_number(year, month, 1);
        let days = |first: i64, end: i64| Some(self.of_days(zone, first, end));
        let before_month = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
        match text {
            "now" => return Some(now),
            "today" => return days(today, today + 1),
            "yesterday" => return days(today - 1, today),
            "this-week" => {
                let week = week_start.week_of(today);
                return days(week, week + 7);
            }
            "last-week" => {
                let week = week_start.week_of(today);
                return days(week - 7, week);
            }
            "this-month" => return days(month_start(year, month)?, month_after(year, month)),
            "last-month" => {
                return days(month_start(before_month.0, before_month.1)?, month_start(year, month)?);
            }
            "this-year" => return days(month_start(year, 1)?, month_start(year + 1, 1)?),
            "last-year" => return days(month_start(year - 1, 1)?, month_start(year, 1)?),
            _ => {}
        }
        if let Some((count, unit)) = age(text) {
            return Some(match unit {
                b'h' => now.plus_nanos(-i128::from(count) * 3_600_000_000_000),
                unit => {
                    let back = if unit == b'w' { 7 * i64::from(count) - 1 } else { i64::from(count) - 1 };
                    let start = Instant::at(zone.day_start(today - back));
                    if self == Self::Since { start } else { start.plus_nanos(-1) }
                }
            });
        }
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let part = |from: usize, to: usize| {
            text.get(from..to).filter(|part| is_digits(part)).and_then(|part| part.parse::<u32>().ok())
        };
        let dash_at = |at: usize| text.as_bytes().get(at) == Some(&b'-');
        let year = i64::from(part(0, 4)?);
        if text.len() == 4 {
            return days(month_start(year, 1)?, month_start(year + 1, 1)?);
        }
        let month = part(5, 7).filter(|_| dash_at(4))?;
        if text.len() == 7 {
            return days(month_start(year, month)?, month_after(year, month));
        }
        let day = day_number(year, month, part(8, 10).filter(|_| dash_at(7))?)?;
        if text.len() == 10 {
            return days(day, day + 1);
        }
        self.of_clock(text, zone)
    }

    /// The first or the last instant of local dates.
    fn of_days(self, zone: &Zone, first: i64, end: i64) -> Instant {
        match self {
            Self::Since => Instant::at(zone.day_start(first)),
            Self::Until => Instant::at(zone.day_end(end - 1)).plus_nanos(-1),
        }
    }

    /// A date and a time, with or without an offset.
    fn of_clock(self, text: &str, zone: &Zone) -> Option<Instant> {
        // Stricter than for turns: no `t`, no second 60, at most 9 digits.
        let at = Instant::of_turn(text)?;
        let bytes = text.as_bytes();
        let behind = &bytes[16..];
        let (seconds, rest) = match behind {
            [b':', tens, ones, rest @ ..] => (Some((tens, ones)), rest),
            rest => (None, rest),
        };
        let digits = match rest {
            [b'.', fraction @ ..] => fraction.iter().take_while(|byte| byte.is_ascii_digit()).count(),
            _ => 0,
        };
        if bytes[10] == b't' || seconds == Some((&b'6', &b'0')) || digits > 9 {
            return None;
        }
        let has_offset = rest.len() > if digits > 0 { digits + 1 } else { 0 };
        if has_offset {
            return Some(at);
        }
        // The time without an offset was parsed as UTC.
        let (first, last) = zone.instants_of(at.seconds);
        let is_gap = first == last && first + zone.offset_at(first) != at.seconds;
        let seconds = if self == Self::Since { first } else { last };
        Some(Instant { seconds, nanos: if is_gap { 0 } else { at.nanos } })
    }
}

/// `7d` as 7 and its unit.
fn age(text: &str) -> Option<(u32, u8)> {
    let (unit, digits) = text.as_bytes().split_last()?;
    let is_number = (1..=4).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let count = text.get(..digits.len())?.parse::<u32>().ok()?;
    (is_number && b"dwh".contains(unit) && (1..=COUNT_MAX).contains(&count)).then_some((count, *unit))
}

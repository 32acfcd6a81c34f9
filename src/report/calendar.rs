//! Divides the span of a page into days and the bars of charts.

use crate::record::time::{civil, date, day_number, month_after};
use crate::usage::{Period, WeekStart, Zone};

/// The greatest number of days with a bar for each day, and without a calendar.
pub(super) const DAILY_MAX: i64 = 92;
/// The greatest number of days with a bar for each week.
const WEEKLY_MAX: i64 = 731;
/// The greatest number of years with a bar for each month.
const MONTHLY_YEARS_MAX: i64 = 20;
/// The greatest number of bars of a longer span.
const BARS_MAX: i64 = 100;

/// Local days, in days since 1970, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DaySpan {
    pub first: i64,
    pub last: i64,
}

impl DaySpan {
    pub(super) fn days(self) -> i64 {
        self.last - self.first + 1
    }
}

/// The length of time of a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BarUnit {
    Day,
    Week,
    Month,
    /// A number of years. Each bar begins with a multiple of this number.
    Years(i64),
}

impl BarUnit {
    pub(super) fn of(span: DaySpan) -> Self {
        let years = civil(span.last).0 - civil(span.first).0 + 1;
        match span.days() {
            days if days <= DAILY_MAX => Self::Day,
            days if days <= WEEKLY_MAX => Self::Week,
            _ if years <= MONTHLY_YEARS_MAX => Self::Month,
            _ => Self::Years(years.div_euclid(BARS_MAX) + 1),
        }
    }

    /// Returns the period of `usage` that bars are added up from.
    pub(super) fn period(self) -> Period {
        match self {
            Self::Day => Period::Day,
            Self::Week => Period::Week,
            Self::Month | Self::Years(_) => Period::Month,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Years(1) => "year",
            Self::Years(_) => "years",
        }
    }

    /// The first and the last day of the bar that a day is in.
    fn around(self, day: i64, week_start: WeekStart) -> (i64, i64) {
        let (year, month, day_of_month) = civil(day);
        match self {
            Self::Day => (day, day),
            Self::Week => {
                let first = week_start.week_of(day);
                (first, first + 6)
            }
            Self::Month => (day - i64::from(day_of_month) + 1, month_after(year, month) - 1),
            Self::Years(count) => {
                let first = year.div_euclid(count) * count;
                let start = |year| day_number(year, 1, 1).unwrap_or(day);
                (start(first), start(first + count) - 1)
            }
        }
    }
}

/// A bar of a chart.
#[derive(Debug, Clone)]
pub(super) struct ChartBar {
    pub first_day: i64,
    pub last_day: i64,
    /// Its time, for people: `2026-11-23`, `2026-11-23 to 2026-11-29`, `2026-11`.
    pub name: String,
    /// Whether its time has not ended yet.
    pub is_open: bool,
}

/// Returns the bars of a span, in order.
pub(super) fn bars(
    span: DaySpan,
    unit: BarUnit,
    week_start: WeekStart,
    zone: &Zone,
    now_seconds: i64,
) -> Vec<ChartBar> {
    let mut bars = Vec::new();
    let mut day = span.first;
    while day <= span.last {
        let (first_day, last_day) = unit.around(day, week_start);
        let name = match unit {
            BarUnit::Day => date(first_day),
            BarUnit::Month => date(first_day)[..7].to_owned(),
            BarUnit::Years(1) => civil(first_day).0.to_string(),
            BarUnit::Week | BarUnit::Years(_) => format!("{} to {}", date(first_day), date(last_day)),
        };
        let is_open = zone.day_start(first_day) <= now_seconds && now_seconds < zone.day_end(last_day);
        bars.push(ChartBar { first_day, last_day, name, is_open });
        day = last_day.max(day) + 1;
    }
    bars
}

/// Returns the index of the bar of a day.
pub(super) fn place_of(bars: &[ChartBar], day: i64) -> Option<usize> {
    let place = bars.partition_point(|bar| bar.last_day < day);
    bars.get(place).filter(|bar| bar.first_day <= day).map(|_| place)
}

/// Returns the labels below bars, at most twelve: places as shares of the width, and texts.
pub(super) fn bar_labels(bars: &[ChartBar], unit: BarUnit) -> Vec<(f64, String)> {
    const LABELS_MAX: usize = 12;
    let width = 1.0 / bars.len().max(1) as f64;
    let candidates: Vec<(f64, String)> = bars
        .iter()
        .enumerate()
        .filter_map(|(place, bar)| {
            let (year, month, day) = civil(bar.first_day);
            let text = match unit {
                BarUnit::Day => format!("{} {day}", MONTHS[month as usize - 1]),
                BarUnit::Years(_) => year.to_string(),
                // The name of a month is below the first week that begins in the month.
                BarUnit::Week if day > 7 => return None,
                _ if month == 1 => year.to_string(),
                _ => MONTHS[month as usize - 1].to_owned(),
            };
            Some(((place as f64 + 0.5) * width, text))
        })
        .collect();
    let step = candidates.len().div_ceil(LABELS_MAX).max(1);
    candidates.into_iter().step_by(step).collect()
}

/// Short names of months.
pub(super) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// Short names of weekdays from Monday.
pub(super) const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Returns the day of a period's key: for a week or a month, its first day.
pub(super) fn day_of_key(key: &str) -> Option<i64> {
    let part = |from: usize, to: usize| key.get(from..to)?.parse::<u32>().ok();
    day_number(i64::from(part(0, 4)?), part(5, 7)?, if key.len() == 7 { 1 } else { part(8, 10)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn day(text: &str) -> i64 {
        day_of_key(text).unwrap()
    }

    #[test]
    fn bars_cover_every_day_of_a_span_once() {
        let zone = Zone::named("America/Havana").unwrap();
        for (first, last, unit, count) in [
            ("2026-11-29", "2026-11-29", BarUnit::Day, 1),
            ("2026-08-30", "2026-11-29", BarUnit::Day, 92),
            ("2026-08-29", "2026-11-29", BarUnit::Week, 15),
            ("2024-11-30", "2026-11-30", BarUnit::Week, 106),
            ("2024-11-29", "2026-11-30", BarUnit::Month, 25),
            ("2007-01-01", "2026-11-29", BarUnit::Month, 239),
            ("2006-12-31", "2026-11-29", BarUnit::Years(1), 21),
            ("0000-03-01", "9999-12-31", BarUnit::Years(101), 100),
        ] {
            let span = DaySpan { first: day(first), last: day(last) };
            assert_eq!(BarUnit::of(span), unit, "{first}");
            let bars = bars(span, unit, WeekStart::Sunday, &zone, 0);
            assert_eq!(bars.len(), count, "{first}");
            assert!(bars.windows(2).all(|pair| pair[0].last_day + 1 == pair[1].first_day), "{first}");
            assert!(bars[0].first_day <= span.first && bars[count - 1].last_day >= span.last, "{first}");
            for (place, bar) in bars.iter().enumerate() {
                assert_eq!(place_of(&bars, bar.first_day), Some(place));
                assert_eq!(place_of(&bars, bar.last_day), Some(place));
            }
            assert_eq!(place_of(&bars, bars[0].first_day - 1), None);
            assert_eq!(place_of(&bars, bars[count - 1].last_day + 1), None);
            assert!((1..=12).contains(&bar_labels(&bars, unit).len()), "{first}");
        }
    }

    #[test]
    fn the_bar_that_is_not_over_is_open() {
        let zone = Zone::named("Europe/Berlin").unwrap();
        let now = crate::usage::Instant::of_turn("2026-11-28T23:30:00Z").unwrap().seconds;
        let span = DaySpan { first: day("2026-11-27"), last: day("2026-11-30") };
        let open: Vec<bool> =
            bars(span, BarUnit::Day, WeekStart::Monday, &zone, now).iter().map(|bar| bar.is_open).collect();
        assert_eq!(open, [false, false, true, false]);
    }
}

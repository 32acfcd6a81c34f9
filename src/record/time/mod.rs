//! Instants, time zones, and times as users write them.
//!
//! Guarantees: a text names the same instants for every command and for every function of the library that takes a time from a user.

mod bound;
mod instant;
mod zone;

pub use bound::{Bound, TIME_FORMS};
pub use instant::Instant;
#[cfg(any(feature = "agents", feature = "parquet", feature = "usage"))]
pub(crate) use instant::civil;
#[cfg(any(feature = "parquet", feature = "report"))]
pub(crate) use instant::day_number;
#[cfg(feature = "usage")]
pub(crate) use instant::{DAY_SECONDS, HOUR_LEN, date, is_time_like};
#[cfg(feature = "usage")]
pub(crate) use zone::{Span, month_after, weekday};
pub use zone::{WeekStart, Zone};

/// Formats a time as ISO 8601 in UTC with milliseconds, as JavaScript does.
pub(crate) fn iso_millis(time: std::time::SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

//! Times as logs and snapshots write them, read fast: most of what opening a book parses is times.
//!
//! Touches nothing. Guarantees: [`read`] accepts and returns exactly what chrono's own `Deserialize` does.

use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use serde::de::{Deserializer, Error, Visitor};

/// Reads `2026-11-21T08:30:00.123456Z` here, and every other form through chrono.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    deserializer.deserialize_str(Time)
}

struct Time;

impl Visitor<'_> for Time {
    type Value = DateTime<Utc>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 time")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<DateTime<Utc>, E> {
        match usual(text.as_bytes()) {
            Some(time) => Ok(time),
            None => text.parse().map_err(E::custom),
        }
    }
}

fn usual(text: &[u8]) -> Option<DateTime<Utc>> {
    let (text, b"Z") = text.split_at_checked(text.len().checked_sub(1)?)? else { return None };
    let (whole, fraction) = text.split_at_checked(19)?;
    if [whole[4], whole[7], whole[10], whole[13], whole[16]] != *b"--T::" {
        return None;
    }
    let nanos = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => {
            number(digits)? * 10_u32.pow(9 - digits.len() as u32)
        }
        _ => return None,
    };
    let date =
        NaiveDate::from_ymd_opt(number(&whole[..4])? as i32, number(&whole[5..7])?, number(&whole[8..10])?)?;
    let (hour, minute, second) = (number(&whole[11..13])?, number(&whole[14..16])?, number(&whole[17..])?);
    // A 60th second, which is a leap second, is refused here and left to chrono.
    Some(date.and_hms_nano_opt(hour, minute, second, nanos)?.and_utc())
}

fn number(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ours(text: &str) -> Option<DateTime<Utc>> {
        read(&mut serde_json::Deserializer::from_str(text)).ok()
    }

    proptest! {
        #[test]
        fn every_text_is_read_as_chrono_reads_it(text in "[0-9]{4}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,10})?(Z|z|\\+01:00|)") {
            let text = format!("\"{text}\"");
            prop_assert_eq!(ours(&text), serde_json::from_str(&text).ok());
        }

        #[test]
        fn every_time_is_read_as_it_was_written(seconds in -62_167_219_200_i64..400_000_000_000, nanos in 0_u32..1_999_999_999) {
            if let Some(time) = DateTime::<Utc>::from_timestamp(seconds, nanos) {
                let text = serde_json::to_string(&time).unwrap();
                prop_assert_eq!(ours(&text), Some(time));
            }
        }
    }
}

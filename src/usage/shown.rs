//! Prints numbers for people: thousands separators, units of 1000, dollars and cents.

use super::{Answer, Sums, Usd};

/// Returns a number with thousands separators: `2,345,678`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `$1,234.56`; cents are rounded half to even.
pub(crate) fn dollars(usd: Usd) -> String {
    let cents = usd.cents();
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    let whole = u64::try_from(cents / 100).unwrap_or(u64::MAX);
    format!("{sign}${}.{:02}", grouped(whole), cents % 100)
}

/// Returns a count in units of 1000: `842 k`, `61.2 M`.
pub(crate) fn short(count: i128) -> String {
    let (mut value, mut unit) = (count as f64, "");
    for next in ["k", "M", "G", "T", "P", "E"] {
        // A value that rounds to 1000 is shown as 1.0 of the next unit.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    match unit {
        "" => count.to_string(),
        unit if value < 99.95 => format!("{value:.1} {unit}"),
        unit => format!("{value:.0} {unit}"),
    }
}

/// Returns a cost, with the sign of a lower bound before it if it is a lower bound; `unpriced` if no token has a price.
pub(crate) fn cost(sums: &Sums, bound_sign: &str, amount: impl FnOnce(Usd) -> String) -> String {
    if sums.unpriced_tokens > 0 && sums.unpriced_tokens == sums.tokens() && sums.usd == Usd::ZERO {
        return "unpriced".to_owned();
    }
    let bound = if Answer::is_lower_bound(sums) { bound_sign } else { "" };
    format!("{bound}{}", amount(sums.usd))
}

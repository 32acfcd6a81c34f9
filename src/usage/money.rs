//! US dollars as whole numbers, exact until they are shown.

use std::fmt;

/// An amount of US dollars in units of 10^-24 dollar. It is never rounded, because a price of at most 18 decimals for a
/// million tokens, times a count of tokens, is a whole number of these units. The largest amount is 1.7 x 10^14
/// dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(i128);

/// Units in a dollar.
const UNITS_PER_DOLLAR: u128 = 10_u128.pow(24);
/// Units in a cent.
const UNITS_PER_CENT: i128 = 10_i128.pow(22);

/// A sum of costs or tokens is out of the range of 128-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sum of costs is beyond 1.7 x 10^14 dollars; ask for less at a time, with --since and --until")]
pub struct TooLarge;

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Returns an amount in units of 10^-24 dollar.
    pub const fn from_units(units: i128) -> Self {
        Self(units)
    }

    /// Returns the amount in units of 10^-24 dollar.
    pub const fn units(self) -> i128 {
        self.0
    }

    /// Returns the sum.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn plus(self, other: Self) -> Result<Self, TooLarge> {
        self.0.checked_add(other.0).map(Self).ok_or(TooLarge)
    }

    /// Returns the amount in cents, rounded half to even.
    pub fn cents(self) -> i128 {
        let (whole, rest) = (self.0.div_euclid(UNITS_PER_CENT), self.0.rem_euclid(UNITS_PER_CENT));
        let is_up = match rest.cmp(&(UNITS_PER_CENT / 2)) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => whole % 2 != 0,
            std::cmp::Ordering::Greater => true,
        };
        whole + i128::from(is_up)
    }
}

/// The exact decimal: no exponent, no zeros at the end.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let units = self.0.unsigned_abs();
        let (dollars, rest) = (units / UNITS_PER_DOLLAR, units % UNITS_PER_DOLLAR);
        if rest == 0 {
            return write!(f, "{sign}{dollars}");
        }
        let decimals = format!("{rest:024}");
        write!(f, "{sign}{dollars}.{}", decimals.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_printed_exactly() {
        let dollars = |units: i128| Usd::from_units(units).to_string();
        assert_eq!(dollars(0), "0");
        assert_eq!(dollars(1), "0.000000000000000000000001");
        assert_eq!(dollars(12_345_678_900_000_000_000_000_000), "12.3456789");
        assert_eq!(dollars(-1_500_000_000_000_000_000_000_000), "-1.5");
        assert_eq!(dollars(i128::MAX), "170141183460469.231731687303715884105727");
        assert_eq!(Usd(i128::MAX).plus(Usd(1)), Err(TooLarge));
    }

    #[test]
    fn cents_are_rounded_half_to_even() {
        let half = UNITS_PER_CENT / 2;
        for (units, cents) in [
            (half, 0),
            (half + 1, 1),
            (UNITS_PER_CENT + half, 2),
            (2 * UNITS_PER_CENT + half, 2),
            (3 * UNITS_PER_CENT - 1, 3),
        ] {
            assert_eq!(Usd(units).cents(), cents, "{units}");
        }
    }
}

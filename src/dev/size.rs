//! Sizes as people write them on a command line. Integer arithmetic only: `1.1GB` is 1 100 000 000 bytes exactly.

use super::DevError;

/// Units by their lower-case names; an empty name means bytes.
const UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

/// Reads a size in bytes: digits, at most one decimal point between digits, then nothing, `B`, `KB`, `MB`, `GB`
/// (powers of 1000), `KiB`, `MiB` or `GiB` (powers of 1024) in any case, with or without a space before the unit.
/// A fraction of a byte is dropped.
///
/// # Errors
///
/// [`DevError::Size`] for anything else: signs, exponents, separators, unknown units, 2^64 bytes or more.
///
/// ```
/// use relayburn_ledger::dev::parse_size;
/// assert_eq!(parse_size("1.5GB")?, 1_500_000_000);
/// assert_eq!(parse_size("64 KiB")?, 65_536);
/// # Ok::<(), relayburn_ledger::dev::DevError>(())
/// ```
pub fn parse_size(text: &str) -> Result<u64, DevError> {
    let refuse = |reason| DevError::Size { text: text.to_owned(), reason };
    let trimmed = text.trim();
    let number_len = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_len);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, unit_bytes) =
        UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| refuse("the unit is unknown"))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(refuse("it does not begin with a decimal number"));
    }
    // 18 digits after the point keep fraction x GiB below 2^90 and are finer than a byte in any unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let too_large = || refuse("it is 2^64 bytes or more");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let fraction_bytes = fraction.bytes().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'))
        * u128::from(*unit_bytes)
        / 10_u128.pow(fraction.len() as u32);
    let bytes = u128::from(whole) * u128::from(*unit_bytes) + fraction_bytes;
    u64::try_from(bytes).map_err(|_| too_large())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("1.5GB", 1_500_000_000),
            ("1.1GB", 1_100_000_000),
            ("100mb", 100_000_000),
            ("0.5 KiB", 512),
            (" 2MiB ", 2 << 20),
            ("3GiB", 3 << 30),
            ("1.0009KB", 1000),
            ("0.1234567890123456789999GB", 123_456_789),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_the_text_and_a_reason() {
        for text in [
            "",
            " ",
            "GB",
            ".5GB",
            "1.",
            "1.GB",
            "1.2.3MB",
            "-1MB",
            "+1MB",
            "1e9",
            "1_000",
            "1,5GB",
            "5TB",
            "5 M B",
            "٣MB",
            "18446744073709551616",
            "18446744073.8GB",
        ] {
            let message = parse_size(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{text:?} is not a size: ")), "{message}");
        }
    }
}

//! Sort keys: index columns as bytes whose memcmp order is SQLite's order of the values, and back. Pure functions over
//! byte buffers; keys never reach the database.
//!
//! A key is its columns one after another, each self-delimiting, so that no key is a prefix of another. A text or blob
//! is its tag, its bytes with 00 written as 00 FF, and 00 01. A number is a tag that says sign and length of the
//! integral magnitude, the magnitude, and 00 or 01 and the fraction as f64 bits; from 2^64 on, and in REAL columns, a tag
//! and f64 bits. What is negative is inverted. So that a number and its stored type go with one key,
//! [`Batch::push`](super::Batch::push) refuses reals in indexed columns without a type, and the real -2^63, which SQLite does not turn into an integer.

use super::Value;
use super::record::is_short;
use super::schema::Affinity;

const NULL: u8 = 0x05;
const HUGE_NEGATIVE: u8 = 0x06;
/// Negative numbers of n magnitude bytes have the tag `NEGATIVE - n`, others `POSITIVE + n`.
const NEGATIVE: u8 = 0x10;
const POSITIVE: u8 = 0x11;
const HUGE_POSITIVE: u8 = 0x1a;
const REAL: u8 = 0x1b;
const TEXT: u8 = 0x20;
const BLOB: u8 = 0x30;
const SIGN: u64 = 1 << 63;

/// Appends one affine column value.
#[inline]
pub(super) fn push_column(key: &mut Vec<u8>, value: Value<'_>, affinity: Affinity) {
    match value {
        Value::Null => key.push(NULL),
        Value::Int(value) if affinity == Affinity::Real => push_real(key, REAL, value as f64),
        Value::Real(value) if affinity == Affinity::Real => push_real(key, REAL, value),
        Value::Int(value) => push_number(key, value < 0, value.unsigned_abs(), 0.0),
        Value::Real(value) if value.abs() < 18446744073709551616.0 => {
            push_number(key, value < 0.0, value.abs() as u64, value.abs().fract());
        }
        Value::Real(value) => push_real(key, if value < 0.0 { HUGE_NEGATIVE } else { HUGE_POSITIVE }, value),
        Value::Text(bytes) => push_bytes(key, TEXT, bytes),
        Value::Blob(bytes) => push_bytes(key, BLOB, bytes),
    }
}

fn push_number(key: &mut Vec<u8>, is_negative: bool, whole: u64, fraction: f64) {
    let length = 8 - whole.leading_zeros() as usize / 8;
    key.push(if is_negative { NEGATIVE - length as u8 } else { POSITIVE + length as u8 });
    let invert = if is_negative { u64::MAX } else { 0 };
    key.extend_from_slice(&(whole ^ invert).to_be_bytes()[8 - length..]);
    key.push(u8::from(fraction != 0.0) ^ invert as u8);
    if fraction != 0.0 {
        key.extend_from_slice(&(fraction.to_bits() ^ invert).to_be_bytes());
    }
}

fn push_real(key: &mut Vec<u8>, tag: u8, value: f64) {
    // Minus zero is stored as the integer 0.
    let bits = (value + 0.0).to_bits();
    key.push(tag);
    key.extend_from_slice(&(if bits & SIGN == 0 { bits | SIGN } else { !bits }).to_be_bytes());
}

#[inline]
fn push_bytes(key: &mut Vec<u8>, tag: u8, mut bytes: &[u8]) {
    key.push(tag);
    while let Some(zero) = memchr::memchr(0, bytes) {
        key.extend_from_slice(&bytes[..=zero]);
        key.push(0xff);
        bytes = &bytes[zero + 1..];
    }
    key.extend_from_slice(bytes);
    key.extend_from_slice(&[0, 1]);
}

/// Calls `each` with every column's value as it is stored.
pub(super) fn decode(mut key: &[u8], mut each: impl FnMut(Value<'_>)) {
    while let Some((tag, rest)) = key.split_first() {
        let length = match *tag {
            NULL => {
                each(Value::Null);
                0
            }
            TEXT | BLOB => {
                let length = bytes_len(rest);
                let escaped = &rest[..length - 2];
                let value = if *tag == TEXT { Value::Text } else { Value::Blob };
                if memchr::memchr(0, escaped).is_none() {
                    each(value(escaped));
                } else {
                    each(value(&unescape(escaped)));
                }
                length
            }
            HUGE_NEGATIVE | HUGE_POSITIVE | REAL => {
                let bits = be_u64(&rest[..8], 0);
                let value = f64::from_bits(if bits & SIGN == 0 { !bits } else { bits & !SIGN });
                let whole = value as i64;
                let is_stored_short = whole as f64 == value && is_short(whole);
                each(if is_stored_short { Value::Int(whole) } else { Value::Real(value) });
                8
            }
            tag => {
                let is_negative = tag <= NEGATIVE;
                let invert = if is_negative { u64::MAX } else { 0 };
                let length = usize::from(if is_negative { NEGATIVE - tag } else { tag - POSITIVE });
                let whole = be_u64(&rest[..length], invert) ^ invert;
                let has_fraction = rest[length] != invert as u8;
                let length = length + if has_fraction { 9 } else { 1 };
                let signed =
                    if is_negative { 0i64.checked_sub_unsigned(whole) } else { i64::try_from(whole).ok() };
                each(match signed {
                    Some(signed) if !has_fraction => Value::Int(signed),
                    _ => {
                        let bits =
                            if has_fraction { be_u64(&rest[length - 8..length], 0) ^ invert } else { 0 };
                        let size = whole as f64 + f64::from_bits(bits);
                        Value::Real(if is_negative { -size } else { size })
                    }
                });
                length
            }
        };
        key = &rest[length..];
    }
}

/// How long a text or blob is, its 00 01 included.
fn bytes_len(rest: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += memchr::memchr(0, &rest[at..]).unwrap_or(rest.len()) + 2;
        if rest[at - 1] == 1 {
            return at;
        }
    }
}

fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(zero) = memchr::memchr(0, rest) {
        plain.extend_from_slice(&rest[..=zero]);
        rest = &rest[zero + 2..];
    }
    plain.extend_from_slice(rest);
    plain
}

fn be_u64(bytes: &[u8], above: u64) -> u64 {
    bytes.iter().fold(above, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::bulk::record::affine;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = Value<'static>> {
        let near = (-70..70i32, -2..3i64).prop_map(|(bit, off)| {
            Value::Real((f64::from(bit.signum()) * 2f64.powi(bit.abs())) + off as f64 * 0.5)
        });
        prop_oneof![
            any::<i64>().prop_map(Value::Int),
            (-300..300i64).prop_map(Value::Int),
            (0..63u32, -2..3i64).prop_map(|(bit, off)| Value::Int((1i64 << bit).wrapping_add(off))),
            any::<f64>().prop_filter("a NaN is a NULL", |real| !real.is_nan()).prop_map(Value::Real),
            near,
            Just(Value::Real(-0.0)),
            Just(Value::Real(i64::MIN as f64)),
            Just(Value::Int(i64::MIN)),
        ]
    }

    /// SQLite's order of numbers: exact, whatever their types.
    fn compare(left: Value<'_>, right: Value<'_>) -> std::cmp::Ordering {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let sql = |value| match value {
            Value::Int(value) => rusqlite::types::Value::Integer(value),
            Value::Real(value) => rusqlite::types::Value::Real(value),
            other => panic!("{other:?} is no number"),
        };
        let answer: i64 =
            db.query_row("SELECT (?1 > ?2) - (?1 < ?2)", [sql(left), sql(right)], |row| row.get(0)).unwrap();
        answer.cmp(&0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn numbers_sort_as_in_sqlite_and_return(left in number(), right in number()) {
            for affinity in [Affinity::Numeric, Affinity::Real] {
                let stored = [left, right].map(|value| affine(value, affinity).unwrap());
                if affinity == Affinity::Numeric && stored.contains(&Value::Real(i64::MIN as f64)) {
                    continue;
                }
                let keys = stored.map(|value| {
                    let mut key = Vec::new();
                    push_column(&mut key, value, affinity);
                    decode(&key, |back| assert_eq!(format!("{value:?}"), format!("{back:?}")));
                    key
                });
                prop_assert_eq!(keys[0].cmp(&keys[1]), compare(stored[0], stored[1]));
            }
        }

        #[test]
        fn texts_sort_by_their_bytes_and_return(
            left in prop::collection::vec(prop::collection::vec(0..3u8, 0..6), 2),
            right in prop::collection::vec(prop::collection::vec(0..3u8, 0..6), 2),
        ) {
            let keys = [&left, &right].map(|row| {
                let mut key = Vec::new();
                push_column(&mut key, Value::Text(&row[0]), Affinity::Text);
                push_column(&mut key, Value::Blob(&row[1]), Affinity::Text);
                let mut back = Vec::new();
                decode(&key, |value| match value {
                    Value::Text(bytes) | Value::Blob(bytes) => back.push(bytes.to_vec()),
                    other => panic!("{other:?}"),
                });
                assert_eq!(row, &back);
                key
            });
            prop_assert_eq!(keys[0].cmp(&keys[1]), left.cmp(&right));
        }
    }
}

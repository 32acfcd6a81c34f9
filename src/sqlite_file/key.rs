//! Sort keys: index columns as bytes whose memcmp order is SQLite's order of the values, and back. Pure functions over
//! byte buffers; keys never reach the database.
//!
//! A key is its columns one after another, each self-delimiting, so that no key is a prefix of another. A text or blob is its
//! tag, its bytes with 00 written as 00 FF, and 00 01. A number is a tag, the nearest f64 with its bits turned so that they
//! sort, and the difference between the number and that f64 as a 16-bit integer. A key determines the type of its numbers,
//! because [`RowBatch::push`](super::RowBatch::push) refuses reals in indexed columns without a type. The one exception is -2^63,
//! which a numeric column stores as an integer or as a real: the key decodes to the integer, and a caller that needs the type
//! reads the row.

use std::borrow::Cow;

use super::SqlValue;
use super::record::is_short;
use super::schema::Affinity;

const NULL: u8 = 0x05;
const NUMBER: u8 = 0x10;
/// A number in a REAL column: the key does not contain the stored type, but the number's size determines the type.
const REAL: u8 = 0x11;
const TEXT: u8 = 0x20;
const BLOB: u8 = 0x30;
const SIGN: u64 = 1 << 63;

/// Appends one affine column value.
#[inline]
pub(super) fn push_column(key: &mut Vec<u8>, value: SqlValue<'_>, affinity: Affinity) {
    let number = if affinity == Affinity::Real { REAL } else { NUMBER };
    match value {
        SqlValue::Null => key.push(NULL),
        SqlValue::Int(value) => {
            let near = value as f64;
            // At most half the distance between two f64 below 2^63: 512.
            push_number(key, number, near, (i128::from(value) - near as i128) as i16);
        }
        SqlValue::Real(value) => push_number(key, number, value, 0),
        SqlValue::Text(bytes) => push_bytes(key, TEXT, bytes),
        SqlValue::Blob(bytes) => push_bytes(key, BLOB, bytes),
    }
}

fn push_number(key: &mut Vec<u8>, tag: u8, near: f64, beyond: i16) {
    // SQLite stores minus zero as the integer 0.
    let bits = (near + 0.0).to_bits();
    key.push(tag);
    key.extend_from_slice(&(if bits & SIGN == 0 { bits | SIGN } else { !bits }).to_be_bytes());
    key.extend_from_slice(&(beyond ^ i16::MIN).to_be_bytes());
}

#[inline]
fn push_bytes(key: &mut Vec<u8>, tag: u8, mut bytes: &[u8]) {
    key.push(tag);
    while has_zero(bytes)
        && let Some(zero) = memchr::memchr(0, bytes)
    {
        key.extend_from_slice(&bytes[..=zero]);
        key.push(0xff);
        bytes = &bytes[zero + 1..];
    }
    key.extend_from_slice(bytes);
    key.extend_from_slice(&[0, 1]);
}

/// Whether a byte is zero. Most texts have a few words, for which `memchr` takes longer.
#[inline]
fn has_zero(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let Some(last) = bytes.last_chunk::<8>() else { return bytes.contains(&0) };
    let zeros = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        word.wrapping_sub(ONES) & !word & (ONES << 7)
    };
    bytes.as_chunks::<8>().0.iter().fold(zeros(last), |found, word| found | zeros(word)) != 0
}

/// Calls `each` with every column's value in the form that is stored.
pub(super) fn decode(mut key: &[u8], mut each: impl FnMut(SqlValue<'_>)) {
    while let Some((tag, rest)) = key.split_first() {
        key = rest;
        match *tag {
            NULL => each(SqlValue::Null),
            TEXT | BLOB => {
                let bytes;
                (bytes, key) = split_bytes(rest);
                each(if *tag == TEXT { SqlValue::Text(&bytes) } else { SqlValue::Blob(&bytes) });
            }
            tag => {
                let (bits, beyond) = (be(&rest[..8]), be(&rest[8..10]) as i16 ^ i16::MIN);
                let near = f64::from_bits(if bits & SIGN == 0 { !bits } else { bits & !SIGN });
                each(match i64::try_from(near as i128 + i128::from(beyond)) {
                    Ok(whole) if near.fract() == 0.0 && (tag == NUMBER || is_short(whole)) => {
                        SqlValue::Int(whole)
                    }
                    _ => SqlValue::Real(near),
                });
                key = &rest[10..];
            }
        }
    }
}

/// A text or blob, and the bytes after it.
fn split_bytes(mut rest: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let mut bytes = Cow::Borrowed(&rest[..0]);
    loop {
        let zero = memchr::memchr(0, rest).unwrap_or(rest.len());
        let is_end = rest[zero + 1] == 1;
        let part = &rest[..zero + usize::from(!is_end)];
        // Every part but the last has at least its zero.
        if bytes.is_empty() {
            bytes = Cow::Borrowed(part);
        } else {
            bytes.to_mut().extend_from_slice(part);
        }
        rest = &rest[zero + 2..];
        if is_end {
            return (bytes, rest);
        }
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sqlite_file::record::affine;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = SqlValue<'static>> {
        let near = (-70..70i32, -2..3i64).prop_map(|(bit, off)| {
            SqlValue::Real((f64::from(bit.signum()) * 2f64.powi(bit.abs())) + off as f64 * 0.5)
        });
        prop_oneof![
            any::<i64>().prop_map(SqlValue::Int),
            (-300..300i64).prop_map(SqlValue::Int),
            (0..63u32, -2..3i64).prop_map(|(bit, off)| SqlValue::Int((1i64 << bit).wrapping_add(off))),
            any::<f64>().prop_filter("a NaN is a NULL", |real| !real.is_nan()).prop_map(SqlValue::Real),
            near,
            Just(SqlValue::Real(-0.0)),
            Just(SqlValue::Real(i64::MIN as f64)),
            Just(SqlValue::Int(i64::MIN)),
        ]
    }

    /// SQLite's order of numbers: exact, regardless of their types.
    fn compare(left: SqlValue<'_>, right: SqlValue<'_>) -> std::cmp::Ordering {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let sql = |value| match value {
            SqlValue::Int(value) => rusqlite::types::Value::Integer(value),
            SqlValue::Real(value) => rusqlite::types::Value::Real(value),
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
                if affinity == Affinity::Numeric && stored.contains(&SqlValue::Real(i64::MIN as f64)) {
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
                push_column(&mut key, SqlValue::Text(&row[0]), Affinity::Text);
                push_column(&mut key, SqlValue::Blob(&row[1]), Affinity::Text);
                let mut back = Vec::new();
                decode(&key, |value| match value {
                    SqlValue::Text(bytes) | SqlValue::Blob(bytes) => back.push(bytes.to_vec()),
                    other => panic!("{other:?}"),
                });
                assert_eq!(row, &back);
                key
            });
            prop_assert_eq!(keys[0].cmp(&keys[1]), left.cmp(&right));
        }
    }
}

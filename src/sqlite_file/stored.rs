//! Reads the values of records ("Database File Format", 2.1). Pure functions over bytes.
//!
//! Guarantees: a record whose header and length disagree is [`UnreadablePage`].

use rusqlite::types::ValueRef;

use super::pages::{UnreadablePage, varint};

/// Reads some columns of the records of a table or an index.
#[derive(Debug, Clone)]
pub(crate) struct StoredRecordReader {
    /// For each stored column its place among the wanted columns.
    places: Vec<Option<usize>>,
    /// A record with fewer columns is unreadable, because a missing column has a default value.
    columns_min: usize,
}

impl StoredRecordReader {
    /// A reader of the columns `wanted`, by their places in records. Column `columns_min - 1` and the columns before it
    /// must be present; columns after it that are missing read as NULL.
    pub(crate) fn new(wanted: impl IntoIterator<Item = Option<usize>>, columns_min: usize) -> Self {
        let mut places = Vec::new();
        for (place, column) in wanted.into_iter().enumerate() {
            let Some(column) = column else { continue };
            if column >= places.len() {
                places.resize(column + 1, None);
            }
            places[column] = Some(place);
        }
        Self { places, columns_min }
    }

    /// Fills `out`, which has a place for each wanted column. Returns how many columns were read: the last wanted column
    /// and the columns before it, or fewer if the record has fewer.
    #[inline]
    pub(crate) fn read<'r>(
        &self,
        record: &'r [u8],
        out: &mut [ValueRef<'r>],
    ) -> Result<usize, UnreadablePage> {
        out.fill(ValueRef::Null);
        let mut at = 0;
        let header_len = usize::try_from(varint(record, &mut at)?).map_err(|_| UnreadablePage)?;
        let (header, mut body) = record.split_at_checked(header_len).ok_or(UnreadablePage)?;
        let mut columns = 0;
        for place in &self.places {
            if at >= header.len() {
                break;
            }
            let (value, rest) = split_value(varint(header, &mut at)?, body).ok_or(UnreadablePage)?;
            if let Some(place) = place {
                *out.get_mut(*place).ok_or(UnreadablePage)? = value;
            }
            body = rest;
            columns += 1;
        }
        // The last value of a header that has ended ends with the record.
        let is_torn = at > header.len() || (at == header.len() && !body.is_empty());
        if is_torn || columns < self.columns_min.min(self.places.len()) {
            Err(UnreadablePage)
        } else {
            Ok(columns)
        }
    }
}

/// Returns the values of a record of a text and a whole number, if the text is short: most entries of an index over one column of
/// texts. Faster than [`StoredRecordReader`].
#[inline]
pub(crate) fn text_and_number(record: &[u8]) -> Option<(&[u8], i64)> {
    let [3, text_type @ 13..0x80, number_type @ 1..7, body @ ..] = record else { return None };
    let (text, number) = body.split_at_checked(usize::from(text_type - 13) / 2)?;
    match split_value(u64::from(*number_type), number)? {
        (ValueRef::Integer(number), []) if text_type % 2 == 1 => Some((text, number)),
        _ => None,
    }
}

/// Returns the value that a body begins with, and the rest of the body.
#[inline]
fn split_value(serial_type: u64, body: &[u8]) -> Option<(ValueRef<'_>, &[u8])> {
    let integer = |number: i64, rest| Some((ValueRef::Integer(number), rest));
    match serial_type {
        0 => Some((ValueRef::Null, body)),
        1 => {
            body.split_first_chunk().and_then(|(value, rest)| integer(i8::from_be_bytes(*value).into(), rest))
        }
        2 => body
            .split_first_chunk()
            .and_then(|(value, rest)| integer(i16::from_be_bytes(*value).into(), rest)),
        3 => body
            .split_first_chunk()
            .and_then(|([a, b, c], rest)| integer(i64::from(i32::from_be_bytes([*a, *b, *c, 0]) >> 8), rest)),
        4 => body
            .split_first_chunk()
            .and_then(|(value, rest)| integer(i32::from_be_bytes(*value).into(), rest)),
        5 => body.split_first_chunk().and_then(|([a, b, c, d, e, f], rest)| {
            integer(i64::from_be_bytes([*a, *b, *c, *d, *e, *f, 0, 0]) >> 16, rest)
        }),
        6 => body.split_first_chunk().and_then(|(value, rest)| integer(i64::from_be_bytes(*value), rest)),
        7 => body.split_first_chunk().map(|(value, rest)| {
            let number = f64::from_be_bytes(*value);
            // SQLite reads a number that is none as NULL.
            (if number.is_nan() { ValueRef::Null } else { ValueRef::Real(number) }, rest)
        }),
        8 | 9 => integer(serial_type as i64 - 8, body),
        10 | 11 => None,
        _ => {
            let len = usize::try_from((serial_type - 12) / 2).ok()?;
            let (value, rest) = body.split_at_checked(len)?;
            let value =
                if serial_type.is_multiple_of(2) { ValueRef::Blob(value) } else { ValueRef::Text(value) };
            Some((value, rest))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wanted_columns_are_read_in_their_order() {
        // Four values: 'ab', NULL, -2, 258.
        let record = [5, 17, 0, 1, 2, b'a', b'b', 0xfe, 1, 2];
        let mut out = [ValueRef::Integer(7); 3];
        let reader = StoredRecordReader::new([Some(3), Some(0), Some(9)], 2);
        reader.read(&record, &mut out).unwrap();
        assert_eq!(out, [ValueRef::Integer(258), ValueRef::Text(b"ab"), ValueRef::Null]);
        let mut out = [ValueRef::Null];
        StoredRecordReader::new([Some(2)], 0).read(&record, &mut out).unwrap();
        assert_eq!(out, [ValueRef::Integer(-2)]);
    }

    #[test]
    fn a_record_that_is_too_short_is_unreadable() {
        let record = [5, 17, 0, 1, 2, b'a', b'b', 0xfe, 1, 2];
        let reader = StoredRecordReader::new([Some(3)], 0);
        for len in 0..record.len() {
            assert_eq!(reader.read(&record[..len], &mut [ValueRef::Null]), Err(UnreadablePage), "{len}");
        }
        assert_eq!(
            StoredRecordReader::new([Some(5)], 6).read(&record, &mut [ValueRef::Null]),
            Err(UnreadablePage)
        );
        assert_eq!(reader.read(&[2, 10], &mut [ValueRef::Null]), Err(UnreadablePage));
    }
}

//! Values as SQLite stores them: affinity, serial types, varints and records ("Database File Format", 2.1). Pure
//! functions over byte buffers.

use super::SqlValue;
use super::schema::Affinity;

/// A row that was kept, as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow<'a> {
    /// The row's rowid.
    pub rowid: u64,
    pub(super) record: &'a [u8],
}

/// Called for each row of a table that is kept, in the order of rowids.
pub type RowVisitor<'v> = &'v mut (dyn FnMut(StoredRow<'_>) + Send);

impl<'a> StoredRow<'a> {
    /// The values after affinity was applied, in the order of the table's columns.
    pub fn values(&self) -> impl Iterator<Item = SqlValue<'a>> + use<'a> {
        values(self.record)
    }
}

/// Appends SQLite's big-endian base-128 varint. No caller needs the ninth byte: lengths and rowids are far below 2^56.
#[inline]
pub(super) fn push_varint(out: &mut Vec<u8>, value: u64) {
    debug_assert!(value < 1 << 56);
    if value < 0x80 {
        return out.push(value as u8);
    }
    for place in (1..varint_len(value)).rev() {
        out.push((value >> (7 * place)) as u8 | 0x80);
    }
    out.push(value as u8 & 0x7f);
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads a varint at `*at` and moves `*at` to the byte after the varint.
#[inline]
pub(super) fn read_varint(bytes: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    loop {
        let byte = bytes[*at];
        *at += 1;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return value;
        }
    }
}

/// The serial type of an integer and how many bytes the integer needs. Uses the shortest type.
#[inline]
pub(super) fn int_type(value: i64) -> (u8, usize) {
    if value == 0 || value == 1 {
        return (8 + value as u8, 0);
    }
    match if value < 0 { !value } else { value } {
        0..=0x7f => (1, 1),
        0x80..=0x7fff => (2, 2),
        0x8000..=0x7f_ffff => (3, 3),
        0x80_0000..=0x7fff_ffff => (4, 4),
        0x8000_0000..=0x7fff_ffff_ffff => (5, 6),
        _ => (6, 8),
    }
}

/// Appends the serial type of an affine value.
#[inline(always)] // Called for every cell; left alone, it is not inlined once the crate is large.
pub(super) fn push_type(header: &mut Vec<u8>, value: SqlValue<'_>) {
    match value {
        SqlValue::Null => header.push(0),
        SqlValue::Int(value) => header.push(int_type(value).0),
        SqlValue::Real(_) => header.push(7),
        SqlValue::Text(bytes) => push_varint(header, bytes.len() as u64 * 2 + 13),
        SqlValue::Blob(bytes) => push_varint(header, bytes.len() as u64 * 2 + 12),
    }
}

/// Appends the body of an affine value.
#[inline(always)] // As `push_type`.
pub(super) fn push_body(out: &mut Vec<u8>, value: SqlValue<'_>) {
    match value {
        SqlValue::Null => {}
        SqlValue::Int(value) => out.extend_from_slice(&value.to_be_bytes()[8 - int_type(value).1..]),
        SqlValue::Real(value) => out.extend_from_slice(&value.to_bits().to_be_bytes()),
        SqlValue::Text(bytes) | SqlValue::Blob(bytes) => out.extend_from_slice(bytes),
    }
}

/// The varint at the start of a record counts its own bytes; `types_len` is the length of all serial types after it.
pub(super) fn header_len(types_len: usize) -> u64 {
    let types_len = types_len as u64;
    let alone = types_len + varint_len(types_len) as u64;
    types_len + varint_len(alone) as u64
}

/// The values of a record, in the order of the columns.
pub(super) fn values(record: &[u8]) -> impl Iterator<Item = SqlValue<'_>> {
    let mut at = 0;
    let header_len = read_varint(record, &mut at) as usize;
    let mut rest = &record[header_len..];
    std::iter::from_fn(move || {
        (at < header_len).then(|| {
            let serial_type = read_varint(record, &mut at) as usize;
            let len = match serial_type {
                0 | 8 | 9 => 0,
                1..=4 => serial_type,
                5 => 6,
                6 | 7 => 8,
                text_or_blob => (text_or_blob - 12) / 2,
            };
            let body;
            (body, rest) = rest.split_at(len);
            match serial_type {
                0 => SqlValue::Null,
                1..=6 => SqlValue::Int(signed(body)),
                7 => SqlValue::Real(f64::from_bits(signed(body) as u64)),
                8 | 9 => SqlValue::Int(serial_type as i64 - 8),
                even if even % 2 == 0 => SqlValue::Blob(body),
                _ => SqlValue::Text(body),
            }
        })
    })
}

/// A big-endian integer in two's complement.
fn signed(bytes: &[u8]) -> i64 {
    let sign = bytes.first().map_or(0, |first| i64::from(*first as i8 >> 7));
    bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte))
}

/// Whether a record stores the value of `column`, counted from 0, as a real.
pub(super) fn is_real(record: &[u8], column: usize) -> bool {
    matches!(values(record).nth(column), Some(SqlValue::Real(_)))
}

/// Whether this integer of a REAL column is stored as an integer: below 48 bits SQLite may store an integer, and does where no
/// index has the column.
pub(super) fn is_short(value: i64) -> bool {
    int_type(value).1 < 8
}

/// The integer that a numeric column stores for a real, if it stores one. The extremes of i64 stay real.
pub(super) fn integral(value: f64) -> Option<i64> {
    let whole = value as i64;
    (whole as f64 == value && whole > i64::MIN && whole < i64::MAX).then_some(whole)
}

/// Applies a column's affinity as an INSERT does; `Err` names the value that SQLite would have to parse or print instead.
#[inline]
pub(super) fn affine(value: SqlValue<'_>, affinity: Affinity) -> Result<SqlValue<'_>, &'static str> {
    Ok(match (value, affinity) {
        (SqlValue::Real(number), _) if number.is_nan() => SqlValue::Null,
        (SqlValue::Int(_) | SqlValue::Real(_), Affinity::Text) => {
            return Err("takes no number; give it as text");
        }
        (SqlValue::Text(_), Affinity::Numeric | Affinity::Real) => {
            return Err("takes no text; give the number");
        }
        (SqlValue::Real(number), Affinity::Numeric) => integral(number).map_or(value, SqlValue::Int),
        (SqlValue::Real(number), Affinity::Real) => {
            integral(number).filter(|whole| is_short(*whole)).map_or(value, SqlValue::Int)
        }
        (SqlValue::Int(number), Affinity::Real) if !is_short(number) => SqlValue::Real(number as f64),
        _ => value,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn varints_return_at_every_length() {
        for value in (0..56).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]).chain([(1 << 56) - 1]) {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            let mut at = 0;
            assert_eq!((read_varint(&bytes, &mut at), at), (value, varint_len(value)), "{value}");
        }
    }

    #[test]
    fn a_record_header_counts_its_own_length() {
        for (types, whole) in [(1, 2), (126, 127), (127, 129), (16381, 16383), (16382, 16385)] {
            assert_eq!(header_len(types), whole, "{types}");
        }
    }

    #[test]
    fn the_values_of_a_record_return() {
        let edges = [0, 1, 2, 0x7f, 0x80, 0x7fff, 0x8000, 0x7f_ffff, 0x80_0000, 1 << 31, 1 << 47, i64::MAX];
        let ints = edges.into_iter().flat_map(|edge| [edge, -edge, !edge]).map(SqlValue::Int);
        let long = [b'x'; 100];
        let others = [SqlValue::Null, SqlValue::Real(-0.5), SqlValue::Text(&long), SqlValue::Blob(b"")];
        let row: Vec<SqlValue<'_>> = ints.chain(others).collect();
        let (mut types, mut record) = (Vec::new(), Vec::new());
        row.iter().for_each(|value| push_type(&mut types, *value));
        push_varint(&mut record, header_len(types.len()));
        record.extend_from_slice(&types);
        row.iter().for_each(|value| push_body(&mut record, *value));
        assert_eq!(values(&record).collect::<Vec<_>>(), row);
    }

    /// SQLite stores the value in a column of that affinity; our result must be the same.
    #[test]
    fn affinity_does_what_an_insert_does() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t(a BLOB, b TEXT, c NUMERIC, d REAL)").unwrap();
        let edges = [0, 1, 2, 127, 128, 1 << 47, (1 << 47) - 1, 1 << 53, i64::MAX];
        let ints = edges.into_iter().flat_map(|edge| [edge, -edge, !edge]);
        let reals = [0.0, -0.0, 0.5, -1.0, 1e15, -1e18, 9.3e18, i64::MIN as f64, 1e300, f64::INFINITY];
        let texts = ["", "1", " -1.5e3\n", "12 monkeys"];
        let values =
            ints.map(SqlValue::Int).chain(reals.map(SqlValue::Real)).chain(texts.map(SqlValue::from));
        for value in values.chain([SqlValue::Blob(b"1"), SqlValue::Real(f64::NAN), SqlValue::Null]) {
            let given: rusqlite::types::Value = match value {
                SqlValue::Null => rusqlite::types::Value::Null,
                SqlValue::Int(value) => value.into(),
                SqlValue::Real(value) => value.into(),
                SqlValue::Text(text) => String::from_utf8(text.to_vec()).unwrap().into(),
                SqlValue::Blob(bytes) => bytes.to_vec().into(),
            };
            db.execute("INSERT INTO t VALUES(?1, ?1, ?1, ?1)", [&given]).unwrap();
            let kinds: [String; 4] = db
                .query_row("SELECT typeof(a), typeof(b), typeof(c), typeof(d) FROM t", [], |row| {
                    Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
                })
                .unwrap();
            let columns = [Affinity::Blob, Affinity::Text, Affinity::Numeric, Affinity::Real];
            for (affinity, kind) in columns.into_iter().zip(&kinds) {
                let ours = match affine(value, affinity) {
                    // Not every text is a number, and only SQLite can decide.
                    Err(_) => {
                        let is_text = matches!(value, SqlValue::Text(_));
                        assert!(is_text || kind == "text", "{value:?} {affinity:?} need not be refused");
                        continue;
                    }
                    Ok(SqlValue::Null) => "null",
                    Ok(SqlValue::Int(_)) if affinity == Affinity::Real => "real",
                    Ok(SqlValue::Int(_)) => "integer",
                    Ok(SqlValue::Real(_)) => "real",
                    Ok(SqlValue::Text(_)) => "text",
                    Ok(SqlValue::Blob(_)) => "blob",
                };
                assert_eq!(ours, kind, "{value:?} {affinity:?}");
            }
            db.execute_batch("DELETE FROM t").unwrap();
        }
    }
}

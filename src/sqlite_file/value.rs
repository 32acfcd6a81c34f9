//! A value of a row that is loaded.

/// One value of a row, before the column's affinity is applied.
///
/// Integral reals become integers in INTEGER, NUMERIC and REAL columns, integers become reals in REAL columns, and a NaN
/// becomes NULL, as in SQLite. Values that SQLite would have to parse or print are refused: numbers for TEXT columns, texts for
/// numeric columns. Reals in an indexed column without a type are refused too, because there 1 and 1.0 would have one key and
/// two types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SqlValue<'a> {
    /// NULL.
    Null,
    /// An integer.
    Int(i64),
    /// A floating point number.
    Real(f64),
    /// Text, meant to be UTF-8; any bytes are stored unchanged.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl<'a> From<&'a str> for SqlValue<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value.as_bytes())
    }
}

impl<'a, T: Into<SqlValue<'a>>> From<Option<T>> for SqlValue<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

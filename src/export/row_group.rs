//! The rows of a row group, column by column, and their order.
//!
//! Touches nothing. Guarantees: rows with the same `ts` are sorted by their key, so that the same rows give the same bytes
//! whatever their order in the archive. Memory is bounded by the number of rows and by the bytes of their texts. Only where
//! more rows have one `ts` than two row groups hold, the order of the archive decides between row groups.

use rusqlite::types::ValueRef;

use super::columns::{ColumnKind, ExportColumn, HashKey};

/// A row group ends with this number of rows. Readers skip whole row groups, and writers keep one in memory.
const ROWS_MAX: usize = 65_536;
/// A row group ends with this number of bytes of texts, because a text may have megabytes.
const TEXT_MAX_BYTES: usize = 32 << 20;
/// Rows with the same `ts` stay in one row group up to so many times the maximum.
const TIES_FACTOR: usize = 2;

/// A range of [`RowGroup::texts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TextSpan {
    pub start: u32,
    pub end: u32,
}

impl TextSpan {
    fn of(self, texts: &[u8]) -> &[u8] {
        &texts[self.start as usize..self.end as usize]
    }
}

/// The cells of a column.
#[derive(Debug)]
pub(super) enum ColumnCells {
    Text(Vec<Option<TextSpan>>),
    Number(Vec<Option<i64>>),
    Flag(Vec<Option<bool>>),
}

/// The rows of a row group that is being filled.
#[derive(Debug)]
pub(super) struct RowGroup {
    /// The cells, in the order of the file's columns.
    pub cells: Vec<ColumnCells>,
    /// `ts_us` of each row.
    pub ts_us: Vec<Option<i64>>,
    /// All texts. Equal texts in a row of rows are stored once.
    pub texts: Vec<u8>,
    /// The first of the rows at the end that have the same `ts`.
    tie_start: usize,
    /// Number of cells whose value changed, because the value is not of the column's type.
    pub lossy: u64,
}

/// How rows become cells: the columns, the place of `ts` and of the key among them, and the key of hashes.
pub(super) struct RowReader<'k> {
    pub columns: &'k [ExportColumn],
    pub ts: usize,
    pub key: Vec<usize>,
    pub hash_key: Option<&'k HashKey>,
}

impl RowGroup {
    pub(super) fn new(columns: &[ExportColumn]) -> Self {
        let cells = columns.iter().map(|column| match column.kind {
            ColumnKind::Text => ColumnCells::Text(Vec::new()),
            ColumnKind::Number => ColumnCells::Number(Vec::new()),
            ColumnKind::Flag => ColumnCells::Flag(Vec::new()),
        });
        Self { cells: cells.collect(), ts_us: Vec::new(), texts: Vec::new(), tie_start: 0, lossy: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.ts_us.len()
    }

    /// Whether the row group has to be written before a row is added that `is_tie`, or that is not.
    pub(super) fn is_full(&self, is_tie: bool) -> bool {
        let factor = if is_tie { TIES_FACTOR } else { 1 };
        self.len() >= ROWS_MAX * factor || self.texts.len() >= TEXT_MAX_BYTES * factor
    }

    /// Whether the last row has this `ts`.
    pub(super) fn is_tie(&self, reader: &RowReader<'_>, ts: Option<&str>) -> bool {
        let ColumnCells::Text(cells) = &self.cells[reader.ts] else { return false };
        let Some(last) = cells.last() else { return false };
        last.map(|span| span.of(&self.texts)) == ts.map(str::as_bytes)
    }

    /// Adds a row of the archive. Before a row with another `ts`, the caller calls [`RowGroup::end_ties`].
    pub(super) fn push(&mut self, reader: &RowReader<'_>, row: &[ValueRef<'_>], ts_us: Option<i64>) {
        for (column, cells) in reader.columns.iter().zip(&mut self.cells) {
            let value = row[column.place];
            let is_lossy = match cells {
                ColumnCells::Text(cells) => {
                    let hash_key = reader.hash_key.filter(|_| column.is_hashed);
                    push_text(cells, &mut self.texts, value, hash_key)
                }
                ColumnCells::Number(cells) => {
                    let (number, is_lossy) = number_of(value);
                    cells.push(number);
                    is_lossy
                }
                ColumnCells::Flag(cells) => {
                    let (number, is_lossy) = number_of(value);
                    cells.push(number.map(|number| number != 0));
                    is_lossy || number.is_some_and(|number| !(0..=1).contains(&number))
                }
            };
            self.lossy += u64::from(is_lossy);
        }
        self.ts_us.push(ts_us);
    }

    /// Sorts the rows at the end that have the same `ts` by their key.
    pub(super) fn end_ties(&mut self, reader: &RowReader<'_>) {
        let range = self.tie_start..self.len();
        self.tie_start = self.len();
        if range.len() < 2 {
            return;
        }
        let compare = |one: usize, other: usize| {
            let columns = reader.key.iter().map(|place| match &self.cells[*place] {
                ColumnCells::Text(cells) => {
                    let text = |at: usize| cells[at].map(|span| span.of(&self.texts));
                    text(one).cmp(&text(other))
                }
                ColumnCells::Number(cells) => cells[one].cmp(&cells[other]),
                ColumnCells::Flag(cells) => cells[one].cmp(&cells[other]),
            });
            columns.into_iter().find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        };
        if range.clone().is_sorted_by(|one, other| compare(*one, *other).is_le()) {
            return;
        }
        let mut order: Vec<usize> = range.clone().collect();
        order.sort_by(|one, other| compare(*one, *other));
        fn apply<T: Copy>(cells: &mut [T], start: usize, order: &[usize]) {
            let sorted: Vec<T> = order.iter().map(|at| cells[*at]).collect();
            cells[start..start + sorted.len()].copy_from_slice(&sorted);
        }
        for cells in &mut self.cells {
            match cells {
                ColumnCells::Text(cells) => apply(cells, range.start, &order),
                ColumnCells::Number(cells) => apply(cells, range.start, &order),
                ColumnCells::Flag(cells) => apply(cells, range.start, &order),
            }
        }
        // Rows with the same `ts` have the same `ts_us`.
    }

    /// Removes all rows.
    pub(super) fn clear(&mut self) {
        for cells in &mut self.cells {
            match cells {
                ColumnCells::Text(cells) => cells.clear(),
                ColumnCells::Number(cells) => cells.clear(),
                ColumnCells::Flag(cells) => cells.clear(),
            }
        }
        self.ts_us.clear();
        self.texts.clear();
        self.tie_start = 0;
    }
}

/// Adds the text of a cell; returns whether the text is not what the archive has.
fn push_text(
    cells: &mut Vec<Option<TextSpan>>,
    texts: &mut Vec<u8>,
    value: ValueRef<'_>,
    hash_key: Option<&HashKey>,
) -> bool {
    match (value, hash_key) {
        (ValueRef::Null, _) => {
            cells.push(None);
            false
        }
        // Most texts are those of the row before, which are known to be UTF-8.
        (ValueRef::Text(text), None) if is_last(cells, texts, text) => {
            cells.push(cells[cells.len() - 1]);
            false
        }
        (ValueRef::Text(text), None) if text.is_ascii() || simdutf8::basic::from_utf8(text).is_ok() => {
            cells.push(Some(append(texts, text)));
            false
        }
        _ => push_changed_text(cells, texts, value, hash_key),
    }
}

/// Whether the last cell has this text.
fn is_last(cells: &[Option<TextSpan>], texts: &[u8], text: &[u8]) -> bool {
    matches!(cells.last(), Some(Some(last)) if last.of(texts) == text)
}

fn append(texts: &mut Vec<u8>, text: &[u8]) -> TextSpan {
    let start = texts.len() as u32;
    texts.extend_from_slice(text);
    TextSpan { start, end: texts.len() as u32 }
}

/// Adds the hash of a text, or what becomes a text; returns as [`push_text`] does.
fn push_changed_text(
    cells: &mut Vec<Option<TextSpan>>,
    texts: &mut Vec<u8>,
    value: ValueRef<'_>,
    hash_key: Option<&HashKey>,
) -> bool {
    let buffer;
    let (text, is_lossy): (&[u8], bool) = match value {
        ValueRef::Null => {
            cells.push(None);
            return false;
        }
        ValueRef::Text(text) if simdutf8::basic::from_utf8(text).is_ok() => (text, false),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            buffer = String::from_utf8_lossy(bytes).into_owned();
            (buffer.as_bytes(), true)
        }
        // A column with the type TEXT stores numbers as texts, so these are of an archive without the type.
        ValueRef::Integer(number) => {
            buffer = number.to_string();
            (buffer.as_bytes(), true)
        }
        ValueRef::Real(number) => {
            buffer = number.to_string();
            (buffer.as_bytes(), true)
        }
    };
    let hash;
    let text = match hash_key {
        Some(key) => {
            hash = key.hash(text);
            hash.as_bytes()
        }
        None => text,
    };
    if is_last(cells, texts, text) {
        cells.push(cells[cells.len() - 1]);
    } else {
        cells.push(Some(append(texts, text)));
    }
    is_lossy
}

/// Returns the integer of a cell, and whether the cell has another value.
fn number_of(value: ValueRef<'_>) -> (Option<i64>, bool) {
    match value {
        ValueRef::Null => (None, false),
        ValueRef::Integer(number) => (Some(number), false),
        // The conversion truncates towards zero, and beyond the range of integers gives the end of the range.
        ValueRef::Real(number) => (Some(number as i64), true),
        ValueRef::Text(_) | ValueRef::Blob(_) => (None, true),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    const COLUMNS: [ExportColumn; 4] = [
        ExportColumn { name: "ts", place: 0, kind: ColumnKind::Text, is_hashed: false },
        ExportColumn { name: "key", place: 1, kind: ColumnKind::Text, is_hashed: false },
        ExportColumn { name: "number", place: 2, kind: ColumnKind::Number, is_hashed: false },
        ExportColumn { name: "flag", place: 3, kind: ColumnKind::Flag, is_hashed: false },
    ];
    fn reader() -> RowReader<'static> {
        RowReader { columns: &COLUMNS, ts: 0, key: vec![1, 2], hash_key: None }
    }

    /// The group after the rows of a query.
    fn group_of(sql: &str) -> RowGroup {
        let db = Connection::open_in_memory().unwrap();
        let mut statement = db.prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        let mut group = RowGroup::new(&COLUMNS);
        while let Some(row) = rows.next().unwrap() {
            let ts: Option<String> = row.get(0).unwrap();
            if !group.is_tie(&reader(), ts.as_deref()) {
                group.end_ties(&reader());
            }
            let values = [0, 1, 2, 3].map(|place| row.get_ref(place).unwrap());
            group.push(&reader(), &values, Some(0));
        }
        group.end_ties(&reader());
        group
    }

    fn rows(group: &RowGroup) -> Vec<String> {
        (0..group.len())
            .map(|at| {
                let cells = group.cells.iter().map(|cells| match cells {
                    ColumnCells::Text(cells) => cells[at].map_or("-".to_owned(), |span| {
                        String::from_utf8(span.of(&group.texts).to_vec()).unwrap()
                    }),
                    ColumnCells::Number(cells) => {
                        cells[at].map_or("-".to_owned(), |number| number.to_string())
                    }
                    ColumnCells::Flag(cells) => cells[at].map_or("-".to_owned(), |flag| flag.to_string()),
                });
                cells.collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    #[test]
    fn rows_of_one_time_are_sorted_by_their_key() {
        let group = group_of(
            "VALUES ('a', 'z', 1, 0), ('b', 'y', 2, 1), ('b', 'x', 3, NULL), ('b', 'x', 2, 0), ('c', 'a', 1, 1), ('c', 'b', 1, 0)",
        );
        assert_eq!(
            rows(&group),
            ["a z 1 false", "b x 2 false", "b x 3 -", "b y 2 true", "c a 1 true", "c b 1 false"]
        );
        assert_eq!(group.lossy, 0);
    }

    #[test]
    fn a_value_of_another_type_is_converted_and_counted() {
        let group = group_of(
            "VALUES ('a', 7, 1.9, 2), ('b', CAST(x'ff61' AS TEXT), -1e300, 1.5), ('c', x'61', 'text', 'text'), ('d', NULL, NULL, NULL)",
        );
        assert_eq!(
            rows(&group),
            ["a 7 1 true", "b \u{fffd}a -9223372036854775808 true", "c a - -", "d - - -"]
        );
        assert_eq!(group.lossy, 9);
    }

    #[test]
    fn a_group_is_full_after_its_rows_unless_the_next_has_the_same_time() {
        let sql = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS_MAX})
             SELECT CASE WHEN i < {ROWS_MAX} - 5 THEN 'a' ELSE 'b' END, 'k', i, 0 FROM n"
        );
        let group = group_of(&sql);
        let is_full = |ts: Option<&str>| group.is_full(group.is_tie(&reader(), ts));
        assert!(is_full(Some("c")) && is_full(None) && !is_full(Some("b")));
        assert!(group_of("VALUES ('a', 'k', 1, 0)").texts.len() == 2);
    }
}

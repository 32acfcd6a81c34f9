//! Reads rows and index entries of an archive from its pages, for scans of whole tables.
//!
//! Touches the archive, for reading. Guarantees: the rows are the rows that SQLite returns in the same transaction. Where
//! a table is not stored as this file expects, or a page is unreadable, the caller asks SQLite instead, because SQLite
//! reads every archive and says what is wrong with a damaged one.
//!
//! In a profile of `burn usage` over 873,448 turns on 2026-11-30, about half of the CPU time was SQLite's virtual machine and
//! the calls that hand over one value each.

use std::ops::ControlFlow;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use super::open::ArchiveReader;
use crate::sqlite_file::{
    BTreePage, PageKind, PageReader, StoredRecordReader, TreePages, UnreadablePage, text_and_number,
};
#[cfg(feature = "parquet")]
use crate::sqlite_file::{IndexCursor, RowFinder};

/// The buffers of a thread that reads pages.
#[derive(Default)]
pub(super) struct PageBuffers {
    pages: Vec<u8>,
    long: Vec<u8>,
}

/// The rows of a table, of which `N` columns are read.
pub(super) struct StoredTable<'c, const N: usize> {
    pages: PageReader<'c>,
    tree: TreePages,
    record: StoredRecordReader,
}

impl<'c, const N: usize> StoredTable<'c, N> {
    /// Opens a table to read these columns; `None` stands for a column that reads as NULL. Returns `None` when only
    /// SQLite can read the table. The reader's transaction must have begun to read.
    pub fn open(reader: &'c ArchiveReader, table: &str, columns: [Option<&str>; N]) -> Option<Self> {
        let pages = reader.pages()?;
        let root = root_page(reader, "table", table).ok()??;
        let record = record_of(reader, table, &columns).ok()??;
        let tree = pages.tree(root, PageKind::TableLeaf).ok()?;
        Some(Self { pages, tree, record })
    }

    /// The number of pages with rows.
    pub fn leaves(&self) -> i64 {
        self.tree.leaves.len() as i64
    }

    /// Passes the rows of the pages from `first` to `last`, in the order of their rowids, to `each` until `each` breaks:
    /// the rowid and the values.
    pub fn rows(
        &self,
        (first, last): (i64, i64),
        buffers: &mut PageBuffers,
        mut each: impl FnMut(i64, &[ValueRef<'_>; N]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, UnreadablePage> {
        let (first, last) = (first as usize, last as usize);
        let leaves = self.tree.leaves.get(first..=last).ok_or(UnreadablePage)?;
        let mut last_rowids = self.tree.last_rowids[first..=last].iter();
        let mut rowid_before = first.checked_sub(1).map_or(i64::MIN, |before| self.tree.last_rowids[before]);
        let PageBuffers { pages: buffer, long } = buffers;
        let mut flow = ControlFlow::Continue(());
        self.pages.each_page(leaves, buffer, |page| {
            self.tree.check(page, PageKind::TableLeaf)?;
            let last_rowid = *last_rowids.next().ok_or(UnreadablePage)?;
            self.pages.rows(page, long, |rowid, record| {
                // SQLite does not find a row by a rowid that is out of order.
                if rowid <= rowid_before || rowid > last_rowid {
                    return Err(UnreadablePage);
                }
                rowid_before = rowid;
                let mut values = [ValueRef::Null; N];
                self.record.read(record, &mut values)?;
                if flow.is_continue() {
                    flow = each(rowid, &values);
                }
                Ok(())
            })
        })?;
        Ok(flow)
    }

    /// Passes the values of the rows with these rowids, which are in order, to `each` until `each` breaks.
    #[cfg(feature = "usage")]
    pub fn rows_at(
        &self,
        rowids: &[i64],
        buffers: &mut PageBuffers,
        mut each: impl FnMut(&[ValueRef<'_>; N]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, UnreadablePage> {
        let PageBuffers { pages: buffer, long } = buffers;
        let (mut left, mut flow) = (rowids, ControlFlow::Continue(()));
        while let (Some(next), true) = (left.first(), flow.is_continue()) {
            let (before, leaf) = (left.len(), self.tree.last_rowids.partition_point(|last| last < next));
            let leaf = self.tree.leaves.get(leaf..=leaf).ok_or(UnreadablePage)?;
            self.pages.each_page(leaf, buffer, |page| {
                self.tree.check(page, PageKind::TableLeaf)?;
                self.pages.rows(page, long, |rowid, record| {
                    if left.first() == Some(&rowid) && flow.is_continue() {
                        let mut values = [ValueRef::Null; N];
                        self.record.read(record, &mut values)?;
                        left = &left[1..];
                        flow = each(&values);
                    }
                    Ok(())
                })
            })?;
            // An index has a rowid that the table lacks.
            if left.len() == before {
                return Err(UnreadablePage);
            }
        }
        Ok(flow)
    }
}

/// The entries of an index over one column.
pub(super) struct StoredIndex<'c> {
    pages: PageReader<'c>,
    tree: TreePages,
    record: StoredRecordReader,
}

impl<'c> StoredIndex<'c> {
    /// Opens the index with this name over one column of a table. Returns `None` when only SQLite can read the index, or
    /// when the index is another one. The reader's transaction must have begun to read.
    pub fn open(reader: &'c ArchiveReader, index: &str, table: &str, column: &str) -> Option<Self> {
        let (pages, root) = index_root(reader, index, table, &[column])?;
        let tree = pages.tree(root, PageKind::IndexLeaf).ok()?;
        // An entry has the column and the rowid, and nothing else.
        let record = StoredRecordReader::new([Some(0), Some(1), Some(2)], 2);
        Some(Self { pages, tree, record })
    }

    /// The number of pages with entries: interior pages have entries, too.
    #[cfg(feature = "usage")]
    pub fn pages(&self) -> i64 {
        (self.tree.interior.len() + self.tree.leaves.len()) as i64
    }

    /// Passes the entries of the pages from `first` to `last` to `each`: the value and the rowid. The interior pages come
    /// first.
    #[cfg(feature = "usage")]
    pub fn entries(
        &self,
        range: (i64, i64),
        buffers: &mut PageBuffers,
        mut each: impl FnMut(ValueRef<'_>, i64),
    ) -> Result<(), UnreadablePage> {
        let PageBuffers { pages: buffer, long } = buffers;
        self.each_page(range, buffer, |page| {
            (0..page.cells).try_for_each(|cell| {
                let (value, rowid) = self.entry(page, cell, long)?;
                each(value, rowid);
                Ok(())
            })
        })
    }

    /// Returns the pages that may have texts from `low` to below `high`: all interior pages, and some leaves.
    #[cfg(feature = "usage")]
    pub fn pages_between(&self, low: &str, high: &str) -> Result<[(i64, i64); 2], UnreadablePage> {
        let interior = self.tree.interior.len() as i64;
        let [first, end] = [low, high].map(|bound| self.leaves_before(bound.as_bytes()));
        let first = interior + (first? as i64 - 1).max(0);
        Ok([(0, interior - 1), (first, (interior + end? as i64).max(first) - 1)])
    }

    /// The number of leaves that begin with an entry before this text.
    #[cfg(feature = "usage")]
    fn leaves_before(&self, bound: &[u8]) -> Result<usize, UnreadablePage> {
        let mut long = Vec::new();
        self.leaves_while(0, |page| match self.entry(page, 0, &mut long)?.0 {
            ValueRef::Text(text) => Ok(text < bound),
            ValueRef::Blob(_) => Ok(false),
            _ => Ok(true),
        })
    }

    /// Passes all values to `each`, with the number of entries that have the value: all entries of neighbouring leaves together
    /// if they have one value.
    pub fn values(&self, mut each: impl FnMut(ValueRef<'_>, u64)) -> Result<(), UnreadablePage> {
        let (mut buffer, mut first_long, mut last_long) = (Vec::new(), Vec::new(), Vec::new());
        let TreePages { interior, leaves, .. } = &self.tree;
        self.each_page((0, interior.len() as i64 - 1), &mut buffer, |page| {
            (0..page.cells).try_for_each(|cell| {
                each(self.entry(page, cell, &mut first_long)?.0, 1);
                Ok(())
            })
        })?;
        let mut at = 0;
        while at < leaves.len() {
            let mut end = at + 1;
            self.pages.each_page(&leaves[at..end], &mut buffer, |page| {
                self.tree.check(page, PageKind::IndexLeaf)?;
                let Some(last) = page.cells.checked_sub(1) else { return Ok(()) };
                let (value, _) = self.entry(page, 0, &mut first_long)?;
                if value != self.entry(page, last, &mut last_long)?.0 {
                    return (0..page.cells).try_for_each(|cell| {
                        each(self.entry(page, cell, &mut first_long)?.0, 1);
                        Ok(())
                    });
                }
                // The entries of an index are in order, so all are between the first and the last.
                end = self.leaves_while(end, |page| {
                    let last = page.cells.checked_sub(1).ok_or(UnreadablePage)?;
                    Ok(self.entry(page, last, &mut last_long)?.0 == value)
                })?;
                each(value, self.pages.cells_of(&self.tree, PageKind::IndexLeaf, &leaves[at..end])?);
                Ok(())
            })?;
            at = end;
        }
        Ok(())
    }

    /// Returns the first leaf from `first` on that is not as wanted, by bisection: no leaf after that one is.
    fn leaves_while(
        &self,
        mut first: usize,
        mut is_wanted: impl FnMut(&BTreePage<'_>) -> Result<bool, UnreadablePage>,
    ) -> Result<usize, UnreadablePage> {
        let (mut end, mut buffer) = (self.tree.leaves.len(), Vec::new());
        while first < end {
            let middle = first.midpoint(end);
            self.pages.each_page(&self.tree.leaves[middle..=middle], &mut buffer, |page| {
                self.tree.check(page, PageKind::IndexLeaf)?;
                if is_wanted(page)? {
                    first = middle + 1;
                } else {
                    end = middle;
                }
                Ok(())
            })?;
        }
        Ok(first)
    }

    fn each_page(
        &self,
        (first, last): (i64, i64),
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(&BTreePage<'_>) -> Result<(), UnreadablePage>,
    ) -> Result<(), UnreadablePage> {
        let TreePages { interior, leaves, .. } = &self.tree;
        let (first, end, middle) = (first as usize, (last + 1) as usize, interior.len());
        let interior = interior.get(first.min(middle)..end.min(middle));
        let leaves = leaves.get(first.max(middle) - middle..end.max(middle) - middle);
        for (kind, part) in [(PageKind::IndexInterior, interior), (PageKind::IndexLeaf, leaves)] {
            self.pages.each_page(part.ok_or(UnreadablePage)?, buffer, |page| {
                self.tree.check(page, kind)?;
                each(page)
            })?;
        }
        Ok(())
    }

    fn entry<'p>(
        &self,
        page: &BTreePage<'p>,
        cell: usize,
        long: &'p mut Vec<u8>,
    ) -> Result<(ValueRef<'p>, i64), UnreadablePage> {
        let record = self.pages.entry(page, cell, long)?;
        if let Some((text, rowid)) = text_and_number(record) {
            return Ok((ValueRef::Text(text), rowid));
        }
        let mut values = [ValueRef::Null; 3];
        match (self.record.read(record, &mut values)?, values) {
            (2, [value, ValueRef::Integer(rowid), _]) => Ok((value, rowid)),
            _ => Err(UnreadablePage),
        }
    }
}

/// The entries of an index over `N` columns, in the order of its keys.
#[cfg(feature = "parquet")]
pub(super) struct OrderedIndex<'c, const N: usize> {
    cursor: IndexCursor<'c>,
    record: StoredRecordReader,
}

/// The most columns of an [`OrderedIndex`].
#[cfg(feature = "parquet")]
const INDEXED_MAX: usize = 5;

#[cfg(feature = "parquet")]
impl<'c, const N: usize> OrderedIndex<'c, N> {
    /// Opens the index with this name over these columns of a table. Returns `None` when only SQLite can read the index, or
    /// when the index is another one. The reader's transaction must have begun to read.
    pub fn open(reader: &'c ArchiveReader, index: &str, table: &str, columns: [&str; N]) -> Option<Self> {
        let (pages, root) = index_root(reader, index, table, &columns)?;
        let record = StoredRecordReader::new((0..N + 2).map(Some), N + 1);
        Some(Self { cursor: IndexCursor::new(pages, root).ok()?, record })
    }

    /// Returns the values and the rowid of the next entry; `None` after the last one.
    pub fn next(&mut self) -> Result<Option<([ValueRef<'_>; N], i64)>, UnreadablePage> {
        const { assert!(N <= INDEXED_MAX) };
        let Some(record) = self.cursor.next()? else { return Ok(None) };
        let mut all = [ValueRef::Null; INDEXED_MAX + 2];
        // An entry has the columns and the rowid, and nothing else.
        let columns = self.record.read(record, &mut all[..N + 2])?;
        match (all.first_chunk(), all[N]) {
            (Some(values), ValueRef::Integer(rowid)) if columns == N + 1 => Ok(Some((*values, rowid))),
            _ => Err(UnreadablePage),
        }
    }
}

/// The rows of a table, by their rowids.
#[cfg(feature = "parquet")]
pub(super) struct StoredRows<'c> {
    finder: RowFinder<'c>,
    record: StoredRecordReader,
}

#[cfg(feature = "parquet")]
impl<'c> StoredRows<'c> {
    /// Opens a table to read these columns; `None` stands for a column that reads as NULL. Returns `None` when only
    /// SQLite can read the table. The reader's transaction must have begun to read.
    pub fn open(reader: &'c ArchiveReader, table: &str, columns: &[Option<&str>]) -> Option<Self> {
        let root = root_page(reader, "table", table).ok()??;
        let record = record_of(reader, table, columns).ok()??;
        Some(Self { finder: RowFinder::new(reader.pages()?, root).ok()?, record })
    }

    /// Fills `out`, which has a place for each column, with the values of a row.
    pub fn read<'r>(&'r mut self, rowid: i64, out: &mut [ValueRef<'r>]) -> Result<(), UnreadablePage> {
        self.record.read(self.finder.record(rowid)?, out).map(|_| ())
    }
}

/// Returns the number of rows of a table, from the pages of its smallest index; `None` when only SQLite can count them.
pub(super) fn count(reader: &ArchiveReader, table: &str) -> Option<u64> {
    let pages = reader.pages()?;
    let mut statement = reader
        .prepare(
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = ?1
               AND name IN (SELECT name FROM pragma_index_list(?1) WHERE partial = 0)",
        )
        .ok()?;
    let roots: Vec<u32> =
        statement.query_map([table], |row| row.get(0)).ok()?.collect::<Result<_, _>>().ok()?;
    let trees: Result<Vec<_>, _> = roots.iter().map(|root| pages.tree(*root, PageKind::IndexLeaf)).collect();
    pages.count(trees.ok()?.iter().min_by_key(|tree| tree.leaves.len())?).ok()
}

/// The pages and the root of the index with this name over these columns of a table. Returns `None` when only SQLite can read
/// the index, or when the index is another one.
fn index_root<'c>(
    reader: &'c ArchiveReader,
    index: &str,
    table: &str,
    columns: &[&str],
) -> Option<(PageReader<'c>, u32)> {
    let columns: String = columns.iter().map(|column| format!("{column}BINARY0,")).collect();
    let is_of_columns = reader
        .query_row(
            "SELECT partial = 0
               AND (SELECT group_concat(ifnull(name, '') || coll || \"desc\") FROM pragma_index_xinfo(?1)) = ?3 || 'BINARY0'
             FROM pragma_index_list(?2) WHERE name = ?1",
            [index, table, &columns],
            |row| row.get(0),
        )
        .optional();
    if is_of_columns != Ok(Some(true)) {
        return None;
    }
    Some((reader.pages()?, root_page(reader, "index", index).ok()??))
}

/// The root page of a table or an index.
fn root_page(connection: &Connection, kind: &str, name: &str) -> Result<Option<u32>, rusqlite::Error> {
    // Readers compare values by their bytes.
    let sql = "SELECT rootpage FROM sqlite_master WHERE type = ?1 AND name = ?2 AND ifnull(sql, '') NOT LIKE '%collate%'";
    connection.query_row(sql, [kind, name], |row| row.get(0)).optional()
}

/// A reader of the wanted columns, or `None` when a record does not have the values as SQLite returns them.
fn record_of(
    connection: &Connection,
    table: &str,
    wanted: &[Option<&str>],
) -> Result<Option<StoredRecordReader>, rusqlite::Error> {
    /// A column that a record has.
    struct StoredColumn {
        name: String,
        is_exact: bool,
        has_default: bool,
        is_key: bool,
    }
    let mut statement = connection.prepare(
        // SQLite stores whole numbers of a REAL column as integers, and generated columns not at all.
        "SELECT name, hidden = 0 AND upper(type) IN ('TEXT', 'INTEGER'), dflt_value IS NOT NULL, pk > 0
         FROM pragma_table_xinfo(?) ORDER BY cid",
    )?;
    let columns: Vec<StoredColumn> = statement
        .query_map([table], |row| {
            Ok(StoredColumn {
                name: row.get(0)?,
                is_exact: row.get(1)?,
                has_default: row.get(2)?,
                is_key: row.get(3)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    // A primary key of one column may be the rowid itself, which a record does not have.
    if columns.iter().filter(|column| column.is_key).count() == 1
        || columns.iter().any(|column| !column.is_exact)
    {
        return Ok(None);
    }
    let mut places = Vec::with_capacity(wanted.len());
    let mut columns_min = 0;
    for name in wanted {
        let Some(name) = name else {
            places.push(None);
            continue;
        };
        let Some(place) = columns.iter().position(|column| column.name == *name) else { return Ok(None) };
        if columns[place].has_default {
            columns_min = columns_min.max(place + 1);
        }
        places.push(Some(place));
    }
    Ok(Some(StoredRecordReader::new(places, columns_min)))
}

#[cfg(all(test, feature = "usage"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::archive::open::{open_read_only, open_without_trace};

    const COLUMNS: [Option<&str>; 4] = [Some("d"), None, Some("a"), Some("c")];

    /// A database with rows of every kind: NULL, numbers of every length, texts that need overflow pages, and rowids with gaps.
    fn database(path: &Path, page_len: u32, rows: i64) -> Connection {
        let database = Connection::open(path).unwrap();
        fill(&database, page_len, rows);
        database
    }

    fn fill(database: &Connection, page_len: u32, rows: i64) {
        database
            .execute_batch(&format!(
                "PRAGMA page_size = {page_len}; PRAGMA journal_mode = WAL;
                 CREATE TABLE t(a TEXT, b INTEGER NOT NULL DEFAULT 0, c INTEGER, PRIMARY KEY (a, b));
                 CREATE INDEX t_c ON t(c);
                 WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                 INSERT INTO t SELECT
                   CASE n % 7 WHEN 0 THEN printf('%.*c', n % 200 * 30, 'x') || n WHEN 1 THEN NULL WHEN 2 THEN x'00ff' || n ELSE 'text ' || n END,
                   n, CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN n % 3 WHEN 2 THEN -(1 << (n % 62)) WHEN 3 THEN n * 0.25 ELSE 'odd' END
                 FROM n;
                 ALTER TABLE t ADD COLUMN d TEXT;
                 UPDATE t SET d = 'late ' || b WHERE b % 3 = 0;
                 DELETE FROM t WHERE b % 11 = 0;
                 PRAGMA wal_checkpoint(TRUNCATE);"
            ))
            .unwrap();
    }

    fn open_reader(path: &Path) -> ArchiveReader {
        let reader = open_read_only(path).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM sqlite_master").unwrap();
        reader
    }

    fn row(rowid: i64, values: &[ValueRef<'_>; 4]) -> String {
        format!("{rowid} {values:?}")
    }

    fn stored_rows(table: &StoredTable<'_, 4>) -> Result<Vec<String>, UnreadablePage> {
        let mut rows = Vec::new();
        let flow = table.rows((0, table.leaves() - 1), &mut PageBuffers::default(), |rowid, values| {
            rows.push(row(rowid, values));
            ControlFlow::Continue(())
        })?;
        assert!(flow.is_continue());
        Ok(rows)
    }

    fn rowids(reader: &Connection) -> Vec<i64> {
        let mut statement = reader.prepare("SELECT rowid FROM t NOT INDEXED ORDER BY rowid").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn stored_rows_at(table: &StoredTable<'_, 4>, rowids: &[i64]) -> Result<Vec<String>, UnreadablePage> {
        let mut rows = Vec::new();
        let _ = table.rows_at(rowids, &mut PageBuffers::default(), |values| {
            rows.push(row(rowids[rows.len()], values));
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }

    #[test]
    fn the_pages_between_two_texts_have_all_texts_between_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.sqlite");
        let writer = database(&path, 512, 3000);
        writer.execute_batch("CREATE INDEX t_d ON t(d); PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let reader = open_reader(&path);
        let index = StoredIndex::open(&reader, "t_d", "t", "d").unwrap();
        for (low, high) in
            [("", "x"), ("late 1", "late 11"), ("late 15", "late 15\u{10ffff}"), ("late 9", "a"), ("x", "y")]
        {
            let (mut found, mut buffers) = (Vec::new(), PageBuffers::default());
            let ranges = index.pages_between(low, high).unwrap();
            for range in ranges {
                let each = |value: ValueRef<'_>, rowid| {
                    found.extend(matches!(value, ValueRef::Text(text) if (low.as_bytes()..high.as_bytes()).contains(&text)).then_some(rowid));
                };
                index.entries(range, &mut buffers, each).unwrap();
            }
            found.sort_unstable();
            let mut statement =
                reader.prepare("SELECT rowid FROM t WHERE d >= ?1 AND d < ?2 ORDER BY rowid").unwrap();
            let expected: Vec<i64> = statement
                .query_map([low, high], |row| row.get(0))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(found, expected, "{low} {high}");
            let [_, (first, last)] = ranges;
            assert!(low.is_empty() || last - first < index.pages() / 2, "{first} {last}");
        }
    }

    #[test]
    fn rows_and_entries_are_those_of_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        for (page_len, rows) in [(512, 900), (4096, 3000), (65536, 3000), (16384, 1), (1024, 0)] {
            let path = directory.path().join(format!("{page_len}.sqlite"));
            drop(database(&path, page_len, rows));
            let reader = open_reader(&path);
            let expected = sqlite_rows(&reader).unwrap();
            let table = StoredTable::open(&reader, "t", COLUMNS).unwrap();
            assert!(stored_rows(&table) == Ok(expected.clone()), "{page_len}");
            assert_eq!(count(&reader, "t"), Some(expected.len() as u64), "{page_len}");
            for step in [1, 7, 500] {
                let some: Vec<i64> = rowids(&reader).into_iter().step_by(step).collect();
                let expected: Vec<_> = expected.iter().step_by(step).cloned().collect();
                assert!(stored_rows_at(&table, &some) == Ok(expected), "{page_len}, {step}");
            }
            assert_eq!(stored_rows_at(&table, &[0]), Err(UnreadablePage), "{page_len}");
            assert_eq!(stored_rows_at(&table, &[i64::MAX]), Err(UnreadablePage), "{page_len}");

            let index = StoredIndex::open(&reader, "t_c", "t", "c").unwrap();
            assert!(stored_entries(&index) == Ok(sqlite_entries(&reader).unwrap()), "{page_len}");
        }
    }

    /// The rows in the order of an index, as this file reads them and as SQLite does.
    #[cfg(feature = "parquet")]
    fn ordered_rows(reader: &ArchiveReader) -> Option<Result<Vec<String>, UnreadablePage>> {
        let mut index = OrderedIndex::open(reader, "t_c", "t", ["c"])?;
        let mut rows = StoredRows::open(reader, "t", &COLUMNS)?;
        let mut next = || -> Result<Option<String>, UnreadablePage> {
            let Some(([value], rowid)) = index.next()? else { return Ok(None) };
            let mut values = [ValueRef::Null; 4];
            rows.read(rowid, &mut values)?;
            values[3] = value;
            Ok(Some(row(rowid, &values)))
        };
        Some(std::iter::from_fn(|| next().transpose()).collect())
    }

    #[cfg(feature = "parquet")]
    fn sqlite_ordered_rows(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
        sqlite_rows_of(connection, "SELECT rowid, d, NULL, a, c FROM t INDEXED BY t_c ORDER BY c")
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn rows_in_the_order_of_an_index_are_those_of_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        for (page_len, rows) in [(512, 9000), (4096, 3000), (65536, 2000), (16384, 1), (1024, 0)] {
            let path = directory.path().join(format!("{page_len}.sqlite"));
            drop(database(&path, page_len, rows));
            let reader = open_reader(&path);
            let expected = sqlite_ordered_rows(&reader).unwrap();
            assert!(ordered_rows(&reader) == Some(Ok(expected)), "{page_len}");

            // The key of the table has another order and another number of columns.
            let mut index = OrderedIndex::open(&reader, "sqlite_autoindex_t_1", "t", ["a", "b"]).unwrap();
            let mut entries = Vec::new();
            while let Some(([a, b], rowid)) = index.next().unwrap() {
                entries.push(format!("{rowid} {a:?} {b:?}"));
            }
            let mut statement = reader.prepare("SELECT rowid, a, b FROM t ORDER BY a, b").unwrap();
            let keys = statement.query_map([], |row| {
                Ok(format!("{} {:?} {:?}", row.get::<_, i64>(0)?, row.get_ref(1)?, row.get_ref(2)?))
            });
            assert!(entries == keys.unwrap().collect::<Result<Vec<_>, _>>().unwrap(), "{page_len}");
            assert!(OrderedIndex::open(&reader, "sqlite_autoindex_t_1", "t", ["b", "a"]).is_none());
            assert!(OrderedIndex::open(&reader, "sqlite_autoindex_t_1", "t", ["a"]).is_none());
        }
    }

    #[test]
    fn reserved_bytes_are_no_part_of_a_row() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.sqlite");
        {
            let database = Connection::open(&path).unwrap();
            let mut reserved: std::ffi::c_int = 37;
            // SAFETY: the operation reads one `int`.
            let code = unsafe {
                let operation = rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES;
                let place = (&raw mut reserved).cast();
                rusqlite::ffi::sqlite3_file_control(database.handle(), c"main".as_ptr(), operation, place)
            };
            assert_eq!(code, rusqlite::ffi::SQLITE_OK);
            fill(&database, 1024, 900);
        }
        assert_eq!(std::fs::read(&path).unwrap()[20], 37);
        let reader = open_reader(&path);
        let table = StoredTable::open(&reader, "t", COLUMNS).unwrap();
        assert!(stored_rows(&table) == Ok(sqlite_rows(&reader).unwrap()));
        let index = StoredIndex::open(&reader, "t_c", "t", "c").unwrap();
        assert!(stored_entries(&index) == Ok(sqlite_entries(&reader).unwrap()));
    }

    #[test]
    fn a_writer_does_not_change_what_an_open_transaction_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.sqlite");
        let writer = database(&path, 1024, 900);
        let reader = open_reader(&path);
        let expected = sqlite_rows(&reader).unwrap();
        let table = StoredTable::open(&reader, "t", COLUMNS).unwrap();
        writer.execute_batch("UPDATE t SET a = 'changed', c = 7; DELETE FROM t WHERE b % 2 = 0").unwrap();
        for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            let sql = format!("PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint({mode})");
            writer.execute_batch(&sql).unwrap();
            assert!(stored_rows(&table) == Ok(expected.clone()), "{mode}");
        }
        // Another reader sees the changes, which are in the log alone.
        let later = open_reader(&path);
        assert!(StoredTable::open(&later, "t", COLUMNS).is_none());
        assert!(sqlite_rows(&later).unwrap() != expected);
        drop((reader, later));
        // A log that a checkpoint has copied, but not cut, is left to SQLite as well.
        writer.execute_batch("PRAGMA wal_checkpoint(FULL)").unwrap();
        assert!(StoredTable::open(&open_reader(&path), "t", COLUMNS).is_none());
        writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let reader = open_reader(&path);
        let table = StoredTable::open(&reader, "t", COLUMNS).unwrap();
        assert!(stored_rows(&table) == Ok(sqlite_rows(&reader).unwrap()));
    }

    #[test]
    fn databases_of_another_encoding_or_journal_are_left_to_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        for (name, setting) in [
            ("utf-16le", "encoding = 'UTF-16le'"),
            ("utf-16be", "encoding = 'UTF-16be'"),
            ("utf-8", "encoding = 'UTF-8'"),
        ] {
            let path = directory.path().join(name);
            let database = Connection::open(&path).unwrap();
            database.execute_batch(&format!("PRAGMA {setting}")).unwrap();
            fill(&database, 1024, 100);
            assert_eq!(
                StoredTable::open(&open_reader(&path), "t", COLUMNS).is_some(),
                name == "utf-8",
                "{name}"
            );
            database.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
            assert!(StoredTable::open(&open_reader(&path), "t", COLUMNS).is_none(), "{name}");
        }
    }

    #[test]
    fn what_only_sqlite_can_read_is_left_to_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.sqlite");
        let writer = database(&path, 4096, 100);
        writer.execute_batch("CREATE TABLE one(k INTEGER PRIMARY KEY, v TEXT); CREATE TABLE real(a TEXT, b REAL);
            CREATE TABLE made(a TEXT, b TEXT AS (a || a)); CREATE TABLE bare(a TEXT PRIMARY KEY, b TEXT) WITHOUT ROWID;
            CREATE TABLE folded(a TEXT COLLATE NOCASE);
            CREATE INDEX t_partial ON t(c) WHERE c > 1; CREATE INDEX t_down ON t(c DESC)").unwrap();
        // The log has changes that the file lacks.
        assert!(StoredTable::open(&open_reader(&path), "t", COLUMNS).is_none());
        assert!(count(&open_reader(&path), "t").is_none());
        writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let reader = open_reader(&path);
        assert!(StoredTable::open(&reader, "t", COLUMNS).is_some());
        for (table, column) in [
            ("one", "v"),
            ("real", "b"),
            ("made", "b"),
            ("bare", "b"),
            ("t", "none"),
            ("none", "a"),
            ("folded", "a"),
        ] {
            assert!(StoredTable::open(&reader, table, [Some(column)]).is_none(), "{table}");
        }
        for (index, column) in
            [("t_partial", "c"), ("t_down", "c"), ("t_c", "a"), ("sqlite_autoindex_t_1", "a")]
        {
            assert!(StoredIndex::open(&reader, index, "t", column).is_none(), "{index}");
        }
    }

    /// The rows that SQLite returns, up to its first error.
    fn sqlite_rows(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
        sqlite_rows_of(connection, "SELECT rowid, d, NULL, a, c FROM t ORDER BY rowid")
    }

    fn sqlite_rows_of(connection: &Connection, sql: &str) -> Result<Vec<String>, rusqlite::Error> {
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |found| {
            let mut values = [ValueRef::Null; 4];
            for (place, value) in values.iter_mut().enumerate() {
                *value = found.get_ref(place + 1)?;
            }
            Ok(row(found.get(0)?, &values))
        })?;
        rows.collect()
    }

    fn stored_entries(index: &StoredIndex<'_>) -> Result<Vec<String>, UnreadablePage> {
        let mut entries = Vec::new();
        index.entries((0, index.pages() - 1), &mut PageBuffers::default(), |value, rowid| {
            entries.push(format!("{value:?} {rowid}"));
        })?;
        entries.sort();
        Ok(entries)
    }

    fn sqlite_entries(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
        let mut statement = connection.prepare("SELECT c, rowid FROM t INDEXED BY t_c ORDER BY c")?;
        let rows =
            statement.query_map([], |row| Ok(format!("{:?} {}", row.get_ref(0)?, row.get::<_, i64>(1)?)))?;
        let mut entries = rows.collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        Ok(entries)
    }

    /// Bytes of a small database are changed in turn, each of them if `BURN_TEST_SCALE` is set. Where pages are readable, they have what SQLite reads.
    #[test]
    fn damaged_pages_are_unreadable_or_read_as_sqlite_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.sqlite");
        drop(database(&path, 512, 45));
        let whole = std::fs::read(&path).unwrap();
        let step = if std::env::var_os("BURN_TEST_SCALE").is_some() { 1 } else { 5 };
        let rows = sqlite_rows(&open_reader(&path)).unwrap().len() as u64;
        let (mut unreadable, mut readable) = (0, 0);
        for (at, mask) in (100..whole.len()).step_by(step).zip([0xff, 0x01, 0x80, 0x03].into_iter().cycle()) {
            let mut damaged = whole.clone();
            damaged[at] ^= mask;
            std::fs::write(&path, damaged).unwrap();
            let Ok(reader) = open_without_trace(&path) else { continue };
            reader.execute_batch("BEGIN; SELECT * FROM sqlite_master").unwrap();
            if let Some(table) = StoredTable::open(&reader, "t", COLUMNS) {
                match stored_rows(&table) {
                    Ok(rows) => {
                        let some = stored_rows_at(&table, &rowids(&reader));
                        assert!(some.is_err() || some == Ok(rows.clone()), "byte {at}, mask {mask}");
                        assert!(sqlite_rows(&reader) == Ok(rows), "byte {at}, mask {mask}");
                        readable += 1;
                    }
                    Err(UnreadablePage) => unreadable += 1,
                }
            }
            if let Some(index) = StoredIndex::open(&reader, "t_c", "t", "c") {
                match stored_entries(&index) {
                    Ok(entries) => {
                        assert!(sqlite_entries(&reader) == Ok(entries), "byte {at}, mask {mask}");
                        readable += 1;
                    }
                    Err(UnreadablePage) => unreadable += 1,
                }
            }
            #[cfg(feature = "parquet")]
            match ordered_rows(&reader) {
                Some(Ok(rows)) => {
                    assert!(sqlite_ordered_rows(&reader) == Ok(rows), "byte {at}, mask {mask}");
                    readable += 1;
                }
                Some(Err(UnreadablePage)) => unreadable += 1,
                None => {}
            }
            // A count reads no cells, so SQLite may refuse a cell of what was counted.
            if let Some(counted) = count(&reader, "t").filter(|counted| *counted != rows) {
                let found = reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
                assert!(found.is_err() || found == Ok(counted as i64), "byte {at}, mask {mask}");
            }
        }
        assert!(unreadable * step > 300 && readable * step > 3000, "{unreadable} {readable}");
    }
}

//! The schema to build, as SQLite understands it: runs the schema in an in-memory database and reads the result back through
//! pragmas. Writes no file. Guarantee: everything that the loader cannot write is refused here, by name.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{LoadResult, SqliteFileError};

/// A table of a [`Schema`], by the table's place in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub(super) usize);

/// What becomes of rows whose primary key was seen before. Keys that contain NULL never repeat. In other unique indexes a key
/// that repeats among the kept rows is [`SqliteFileError::Duplicate`] whatever the rule.
///
/// Rowids are given in order of arrival, from 1; a row that is removed leaves its rowid unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// A repeated key is [`SqliteFileError::Duplicate`].
    #[default]
    Refuse,
    /// The last row is kept, at its own place: `INSERT OR REPLACE`.
    KeepLast,
    /// The last row is kept, at the place of the first: `ON CONFLICT DO UPDATE` of every column.
    KeepLastAtFirst,
}

/// How SQLite converts a value that is stored in a column ("Datatypes In SQLite", 3). INTEGER and NUMERIC are the same here,
/// because they differ only in CAST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    Blob,
    Text,
    Numeric,
    Real,
}

#[derive(Debug)]
pub(super) struct SchemaColumn {
    pub name: String,
    pub not_null: bool,
    pub affinity: Affinity,
    pub is_indexed: bool,
}

#[derive(Debug)]
pub(super) struct SchemaIndex {
    pub name: String,
    pub table: usize,
    /// Places in the table's columns, most significant first; the rowid follows implicitly.
    pub columns: Vec<usize>,
    pub unique: bool,
    pub root: u32,
}

#[derive(Debug)]
pub(super) struct SchemaTable {
    pub name: String,
    pub columns: Vec<SchemaColumn>,
    /// Places in [`Schema::indexes`].
    pub indexes: Vec<usize>,
    /// The index of the primary key, in [`Schema::indexes`].
    pub primary_key: Option<usize>,
    pub duplicates: Duplicates,
    pub parent: Option<usize>,
    /// Why no row may be loaded, if none may.
    pub sealed: Option<String>,
    pub root: u32,
}

/// Tables, columns and indexes to build, with a rule for repeated keys for each table.
///
/// ```
/// # use relayburn_ledger::sqlite_file::{Duplicates, Schema};
/// let mut schema = Schema::from_sql(
///     "CREATE TABLE turns(id TEXT PRIMARY KEY, model TEXT NOT NULL);
///      CREATE TABLE calls(turn TEXT, place INTEGER, PRIMARY KEY(turn, place));
///      CREATE INDEX by_model ON turns(model);",
///     16384,
/// )?;
/// let (turns, calls) = (schema.table("turns").unwrap(), schema.table("calls").unwrap());
/// schema.on_duplicate(turns, Duplicates::KeepLastAtFirst);
/// schema.children_of(calls, turns)?;
/// # Ok::<(), relayburn_ledger::sqlite_file::SqliteFileError>(())
/// ```
#[derive(Debug)]
pub struct Schema {
    pub(super) tables: Vec<SchemaTable>,
    pub(super) indexes: Vec<SchemaIndex>,
    pub(super) page_size: usize,
    /// The empty database made by SQLite: header, schema table, and a root page for each tree.
    pub(super) image: Vec<u8>,
}

/// Features that a schema may not have, by name; of several, the first is reported. `?1` is the page size. A table with the
/// name of a pragma is refused because the table would be read instead of the pragma.
const REFUSED: &str = "
    SELECT 'the schema', 'a TEMP table' FROM sqlite_temp_schema
    UNION ALL SELECT name, 'the name of a pragma' FROM sqlite_schema WHERE lower(name) GLOB 'pragma_*'
    UNION ALL SELECT 'the schema', 'another page size' FROM pragma_page_size WHERE page_size <> ?1
    UNION ALL SELECT 'the schema', 'another encoding than UTF-8' FROM pragma_encoding WHERE encoding <> 'UTF-8'
    UNION ALL SELECT 'the schema', 'auto-vacuum' FROM pragma_auto_vacuum WHERE auto_vacuum
    UNION ALL SELECT 'the schema', 'something dropped' FROM pragma_freelist_count WHERE freelist_count
    UNION ALL SELECT name, 'a ' || type FROM sqlite_schema WHERE type IN ('view', 'trigger')
    UNION ALL SELECT name, 'AUTOINCREMENT or ANALYZE' FROM sqlite_schema WHERE type = 'table' AND name GLOB 'sqlite_*'
    UNION ALL SELECT name, 'a virtual table' FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'
    UNION ALL SELECT name, iif(wr, 'WITHOUT ROWID', 'STRICT') FROM pragma_table_list
        WHERE schema = 'main' AND (wr OR strict)
    UNION ALL SELECT t.name, 'a generated column' FROM sqlite_schema t, pragma_table_xinfo(t.name) WHERE hidden
    UNION ALL SELECT i.name, 'a partial index' FROM sqlite_schema t, pragma_index_list(t.name) i WHERE partial
    UNION ALL SELECT i.name, CASE WHEN cid < 0 THEN 'an index on an expression' WHEN desc THEN 'a DESC column'
            WHEN upper(coll) <> 'BINARY' THEN 'a collation other than BINARY' ELSE 'a column twice in an index' END
        FROM sqlite_schema i, pragma_index_xinfo(i.name) WHERE type = 'index' AND key
        GROUP BY i.name, cid HAVING cid < 0 OR desc OR upper(coll) <> 'BINARY' OR count(*) > 1
    LIMIT 1";

/// Tables, and why no row may be loaded into a table: constraints that are not checked here must not be promised.
const TABLES: &str = "
    SELECT name, rootpage, CASE
        WHEN EXISTS (SELECT 1 FROM pragma_foreign_key_list(t.name)) THEN 'loading rows under a FOREIGN KEY'
        WHEN EXISTS (SELECT 1 FROM pragma_table_info(t.name) WHERE pk)
            AND NOT EXISTS (SELECT 1 FROM pragma_index_list(t.name) WHERE origin = 'pk')
            THEN 'loading rows beside an INTEGER PRIMARY KEY' END
    FROM sqlite_schema t WHERE type = 'table' ORDER BY rowid";

/// Indexes, each with the place of its table.
const INDEXES: &str = "
    SELECT i.name, i.rootpage, l.\"unique\", l.origin = 'pk',
        (SELECT count(*) FROM sqlite_schema t WHERE type = 'table' AND t.rowid < of.rowid)
    FROM sqlite_schema i, pragma_index_list(i.tbl_name) l ON l.name = i.name,
        sqlite_schema of ON of.type = 'table' AND of.name = i.tbl_name
    WHERE i.type = 'index' ORDER BY i.rowid";

impl Schema {
    /// Runs `sql` in an in-memory database with pages of `page_size` bytes (4096, 8192, 16384 or 32768), and reads the
    /// resulting schema back. The SQL may set `PRAGMA user_version` and `application_id`.
    ///
    /// Refused by name: rows, tables with the name of a pragma (`pragma_…`), TEMP tables, another encoding, auto-vacuum,
    /// anything that is dropped again, views, triggers, virtual, STRICT and WITHOUT ROWID tables, AUTOINCREMENT, generated
    /// columns, and indexes that are partial, on expressions, DESC, of another collation than BINARY, or name a column twice.
    /// Tables with an INTEGER PRIMARY KEY, a CHECK or a FOREIGN KEY are created, but rows for them are refused.
    ///
    /// # Errors
    /// [`SqliteFileError::PageSize`], [`SqliteFileError::Schema`] when SQLite does not accept the SQL,
    /// [`SqliteFileError::Unsupported`] for everything refused by name.
    pub fn from_sql(sql: &str, page_size: u32) -> LoadResult<Self> {
        check_page_size(page_size)?;
        let mut db = Connection::open_in_memory()?;
        // The SQL cannot write to the schema table, so the objects it makes are the objects it declares.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        db.pragma_update(None, "page_size", page_size)?;
        db.execute_batch(sql)?;
        db.pragma_update(None, "ignore_check_constraints", false)?;
        let refused =
            |row: &Row<'_>| Ok(SqliteFileError::Unsupported { object: row.get(0)?, what: row.get(1)? });
        if let Some(refused) = db.query_row(REFUSED, [page_size], refused).optional()? {
            return Err(refused);
        }
        let tables = list(&db, TABLES, [], |row| read_table(&db, row))?;
        let image = db.serialize("main")?.to_vec();
        let mut schema = Self { tables, indexes: Vec::new(), page_size: page_size as usize, image };
        for table in &schema.tables {
            let root = &schema.image[(table.root as usize - 1) * schema.page_size..];
            if root[3..5] != [0, 0] {
                return Err(unsupported(&table.name, "a row in the schema's SQL"));
            }
        }
        list(&db, INDEXES, [], |row| schema.read_index(&db, row))?;
        Ok(schema)
    }

    /// The table of that name.
    ///
    /// # Errors
    /// [`SqliteFileError::Unsupported`] when there is no such table.
    pub fn table(&self, name: &str) -> LoadResult<TableId> {
        let place = self.tables.iter().position(|table| table.name == name);
        place.map(TableId).ok_or_else(|| unsupported(name, "a missing table"))
    }

    /// Sets what becomes of repeated primary keys in `table`; the default is [`Duplicates::Refuse`].
    ///
    /// # Panics
    /// Here and in every other function with a [`TableId`]: when the table belongs to another schema and this schema has fewer
    /// tables.
    pub fn on_duplicate(&mut self, table: TableId, rule: Duplicates) {
        self.tables[table.0].duplicates = rule;
    }

    /// Makes every row of `child` belong to the row of `parent` that was pushed last before it into the same batch: the child
    /// row is removed when its parent row is removed in favour of another row with the same key. The child's own rule applies
    /// to the remaining rows.
    ///
    /// # Errors
    /// [`SqliteFileError::Unsupported`] when `parent` is a child, or `child` a parent.
    pub fn children_of(&mut self, child: TableId, parent: TableId) -> LoadResult<()> {
        let is_parent = self.tables.iter().any(|table| table.parent == Some(child.0));
        if is_parent || child == parent || self.tables[parent.0].parent.is_some() {
            return Err(unsupported(&self.tables[child.0].name, "a child of a child"));
        }
        self.tables[child.0].parent = Some(parent.0);
        Ok(())
    }

    fn read_index(&mut self, db: &Connection, row: &Row<'_>) -> rusqlite::Result<()> {
        let (name, table) = (row.get(0)?, row.get::<_, u32>(4)? as usize);
        let sql = "SELECT cid FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno";
        let columns = list(db, sql, [&name], |row| Ok(row.get::<_, u32>(0)? as usize))?;
        let (id, of) = (self.indexes.len(), &mut self.tables[table]);
        columns.iter().for_each(|column| of.columns[*column].is_indexed = true);
        of.indexes.push(id);
        if row.get(3)? {
            of.primary_key = Some(id);
        }
        self.indexes.push(SchemaIndex { name, table, columns, unique: row.get(2)?, root: row.get(1)? });
        Ok(())
    }
}

/// Refuses a page size that this loader does not support.
pub(crate) fn check_page_size(given: u32) -> LoadResult<()> {
    let is_known = given.is_power_of_two() && (4096..=32768).contains(&given);
    if is_known { Ok(()) } else { Err(SqliteFileError::PageSize { given }) }
}

fn read_table(db: &Connection, row: &Row<'_>) -> rusqlite::Result<SchemaTable> {
    let (name, root, mut sealed): (String, u32, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let sql = "SELECT name, type, \"notnull\" FROM pragma_table_xinfo(?1) ORDER BY cid";
    let columns = list(db, sql, [&name], |row| {
        let affinity = affinity(&row.get::<_, String>(1)?);
        Ok(SchemaColumn { name: row.get(0)?, not_null: row.get(2)?, affinity, is_indexed: false })
    })?;
    if sealed.is_none() && has_check(db, &name)? {
        sealed = Some("loading rows under a CHECK".to_owned());
    }
    let (indexes, primary_key, duplicates, parent) = (Vec::new(), None, Duplicates::default(), None);
    Ok(SchemaTable { name, columns, indexes, primary_key, duplicates, parent, sealed, root })
}

/// Whether SQLite would check a CHECK when a row is inserted. No pragma says so, but the program of an INSERT does.
fn has_check(db: &Connection, table: &str) -> rusqlite::Result<bool> {
    let sql = format!("EXPLAIN INSERT INTO \"{}\" DEFAULT VALUES", table.replace('"', "\"\""));
    let steps = list(db, &sql, [], |step| Ok((step.get::<_, String>(1)?, step.get::<_, i32>(2)?)))?;
    Ok(steps.iter().any(|(code, p1)| code == "Halt" && *p1 == rusqlite::ffi::SQLITE_CONSTRAINT_CHECK))
}

fn list<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    each: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map(params, each)?.collect()
}

fn unsupported(object: &str, what: &str) -> SqliteFileError {
    SqliteFileError::Unsupported { object: object.to_owned(), what: what.to_owned() }
}

/// "Datatypes In SQLite", 3.1: the first rule that applies.
fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    match () {
        () if has(&["INT"]) => Affinity::Numeric,
        () if has(&["CHAR", "CLOB", "TEXT"]) => Affinity::Text,
        () if declared.is_empty() || has(&["BLOB"]) => Affinity::Blob,
        () if has(&["REAL", "FLOA", "DOUB"]) => Affinity::Real,
        () => Affinity::Numeric,
    }
}

//! What is to be built, as SQLite itself understands it: the schema is run in an in-memory database and read back
//! through pragmas. Touches no file. Promises that whatever the loader cannot write is refused here, by name.

use rusqlite::Connection;

use super::{Error, Result};

/// A table of a [`Schema`], by its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub(super) usize);

/// What becomes of rows whose primary key was seen before. Keys with a NULL in them never repeat. In other unique
/// indexes a repeated key is [`Error::Duplicate`] whatever the rule.
///
/// Rowids are given in order of arrival, from 1; a row that goes leaves its rowid unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// A repeated key is [`Error::Duplicate`].
    #[default]
    Refuse,
    /// The last row stays, at its own place: `INSERT OR REPLACE`.
    KeepLast,
    /// The last row stays, at the place of the first: `ON CONFLICT DO UPDATE` of every column.
    KeepLastAtFirst,
}

/// How SQLite converts a value that is stored in a column ("Datatypes In SQLite", 3). INTEGER and NUMERIC are one:
/// they differ in CAST alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    Blob,
    Text,
    Numeric,
    Real,
}

#[derive(Debug)]
pub(super) struct Column {
    pub name: String,
    pub not_null: bool,
    pub affinity: Affinity,
    pub is_indexed: bool,
}

#[derive(Debug)]
pub(super) struct Index {
    pub name: String,
    pub table: usize,
    /// Places in the table's columns, most significant first; the rowid follows unsaid.
    pub columns: Vec<usize>,
    pub unique: bool,
    pub root: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Places in [`Schema::indexes`].
    pub indexes: Vec<usize>,
    /// The index of the primary key, in [`Schema::indexes`].
    pub primary_key: Option<usize>,
    pub duplicates: Duplicates,
    pub parent: Option<usize>,
    /// Why no row may be loaded, if so: what is not checked here must not be promised.
    pub sealed: Option<&'static str>,
    pub root: u32,
}

/// Tables, columns and indexes to build, with a rule for repeated keys for each table.
///
/// ```
/// # use relayburn_ledger::archive::bulk::{Duplicates, Schema};
/// let mut schema = Schema::from_sql(
///     "CREATE TABLE turns(id TEXT PRIMARY KEY, model TEXT NOT NULL);
///      CREATE TABLE calls(turn TEXT, place INTEGER, PRIMARY KEY(turn, place));
///      CREATE INDEX by_model ON turns(model);",
///     16384,
/// )?;
/// let (turns, calls) = (schema.table("turns").unwrap(), schema.table("calls").unwrap());
/// schema.on_duplicate(turns, Duplicates::KeepLastAtFirst);
/// schema.children_of(calls, turns)?;
/// # Ok::<(), relayburn_ledger::archive::bulk::Error>(())
/// ```
#[derive(Debug)]
pub struct Schema {
    pub(super) tables: Vec<Table>,
    pub(super) indexes: Vec<Index>,
    pub(super) page_size: usize,
    /// The empty database as SQLite made it: header, schema table, and a root page for each tree.
    pub(super) image: Vec<u8>,
}

impl Schema {
    /// Runs `sql` in an in-memory database with pages of `page_size` bytes (4096, 8192, 16384 or 32768), and reads back
    /// what it made. The SQL may set `PRAGMA user_version` and `application_id`.
    ///
    /// Refused by name: rows, TEMP tables, another encoding, auto-vacuum, anything dropped again, views, triggers, virtual, STRICT and WITHOUT ROWID tables, AUTOINCREMENT, generated columns,
    /// and indexes that are partial, on expressions, DESC, or of another collation than BINARY. Tables
    /// with an INTEGER PRIMARY KEY, a CHECK or a FOREIGN KEY are created, but rows for them are refused.
    ///
    /// # Errors
    /// [`Error::PageSize`], [`Error::Schema`] when SQLite does not accept the SQL, [`Error::Unsupported`] for what is
    /// refused.
    pub fn from_sql(sql: &str, page_size: u32) -> Result<Self> {
        check_page_size(page_size)?;
        let mut db = Connection::open_in_memory()?;
        db.pragma_update(None, "page_size", page_size)?;
        db.execute_batch(sql)?;
        db.pragma_update(None, "ignore_check_constraints", false)?;
        if db.query_row("SELECT EXISTS(SELECT 1 FROM sqlite_temp_schema)", [], |row| row.get(0))? {
            return Err(unsupported("the schema", "a TEMP table"));
        }
        let mut schema = Self {
            tables: Vec::new(),
            indexes: Vec::new(),
            page_size: page_size as usize,
            image: Vec::new(),
        };
        let mut listed =
            db.prepare("SELECT type, name, tbl_name, rootpage FROM sqlite_schema ORDER BY rowid")?;
        let mut rows = listed.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, table, root): (String, String, String, u32) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            match kind.as_str() {
                "table" => schema.tables.push(read_table(&db, name, root)?),
                "index" => schema.read_index(&db, name, &table, root)?,
                "view" => return Err(unsupported(&name, "a view")),
                _ => return Err(unsupported(&name, "a trigger")),
            }
        }
        drop(rows);
        drop(listed);
        for table in schema.tables.iter_mut().filter(|table| table.primary_key.is_none()) {
            let sql = "SELECT EXISTS(SELECT 1 FROM pragma_table_info(?1) WHERE pk > 0)";
            if db.query_row(sql, [&table.name], |row| row.get(0))? {
                table.sealed = Some("loading rows beside an INTEGER PRIMARY KEY");
            }
        }
        schema.image = db.serialize("main")?.to_vec();
        schema.check_image()?;
        Ok(schema)
    }

    /// Refuses an image whose format is another than the loader writes ("Database File Format", 1.3), or that is not empty.
    fn check_image(&self) -> Result<()> {
        let expected: [(usize, &[u8], &str); 5] = [
            (16, &(self.page_size as u16).to_be_bytes(), "another page size"),
            (32, &[0; 8], "something dropped"),
            (44, &[0, 0, 0, 4], "another schema format"),
            (52, &[0; 4], "auto-vacuum"),
            (56, &[0, 0, 0, 1], "another encoding than UTF-8"),
        ];
        for (at, bytes, what) in expected {
            if !self.image[at..].starts_with(bytes) {
                return Err(unsupported("the schema", what));
            }
        }
        let tables = self.tables.iter().map(|table| (&table.name, table.root));
        for (name, root) in tables.chain(self.indexes.iter().map(|index| (&index.name, index.root))) {
            let page = &self.image[(root as usize - 1) * self.page_size..];
            if page[3..5] != [0, 0] {
                return Err(unsupported(name, "a row in the schema's SQL"));
            }
        }
        Ok(())
    }

    /// The table of that name, if there is one.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<TableId> {
        self.tables.iter().position(|table| table.name == name).map(TableId)
    }

    /// Sets what becomes of repeated primary keys in `table`; [`Duplicates::Refuse`] unless said otherwise.
    ///
    /// # Panics
    /// Here and wherever one is given: when the table is another schema's and this one has fewer.
    pub fn on_duplicate(&mut self, table: TableId, rule: Duplicates) {
        self.tables[table.0].duplicates = rule;
    }

    /// Makes every row of `child` belong to the row of `parent` that was pushed last before it into the same batch: it
    /// goes when that row goes in favour of another with its key. The child's own rule applies to what is left.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when `parent` is itself a child, or `child` a parent.
    pub fn children_of(&mut self, child: TableId, parent: TableId) -> Result<()> {
        let is_parent = self.tables.iter().any(|table| table.parent == Some(child.0));
        if is_parent || child == parent || self.tables[parent.0].parent.is_some() {
            return Err(unsupported(&self.tables[child.0].name, "a child of a child"));
        }
        self.tables[child.0].parent = Some(parent.0);
        Ok(())
    }

    fn read_index(&mut self, db: &Connection, name: String, table_name: &str, root: u32) -> Result<()> {
        let table = self.tables.iter().position(|table| table.name == table_name);
        let table = table.ok_or_else(|| unsupported(&name, "an index of an unknown table"))?;
        let (unique, origin, partial): (bool, String, bool) = db.query_row(
            "SELECT \"unique\", origin, partial FROM pragma_index_list(?1) WHERE name = ?2",
            [table_name, &name],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        if partial {
            return Err(unsupported(&name, "a partial index"));
        }
        let mut columns = Vec::new();
        let mut listed =
            db.prepare("SELECT cid, \"desc\", coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")?;
        let mut rows = listed.query([&name])?;
        while let Some(row) = rows.next()? {
            let (place, descending, collation): (i64, bool, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            match usize::try_from(place) {
                Err(_) => return Err(unsupported(&name, "an index on an expression")),
                Ok(_) if descending => return Err(unsupported(&name, "a DESC column")),
                Ok(_) if collation != "BINARY" => {
                    return Err(unsupported(&name, "a collation other than BINARY"));
                }
                Ok(place) => columns.push(place),
            }
        }
        let id = self.indexes.len();
        let of = &mut self.tables[table];
        columns.iter().for_each(|column| of.columns[*column].is_indexed = true);
        of.indexes.push(id);
        if origin == "pk" {
            of.primary_key = Some(id);
        }
        self.indexes.push(Index { name, table, columns, unique, root });
        Ok(())
    }
}

/// Refuses what is no page size of this loader.
pub(in crate::archive) fn check_page_size(given: u32) -> Result<()> {
    let is_known = given.is_power_of_two() && (4096..=32768).contains(&given);
    if is_known { Ok(()) } else { Err(Error::PageSize { given }) }
}

fn read_table(db: &Connection, name: String, root: u32) -> Result<Table> {
    let (kind, without_rowid, strict): (String, bool, bool) = db.query_row(
        "SELECT type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?1",
        [&name],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let what = match kind.as_str() {
        _ if name.starts_with("sqlite_") => Some("AUTOINCREMENT or ANALYZE"),
        "table" if without_rowid => Some("WITHOUT ROWID"),
        "table" if strict => Some("STRICT"),
        "table" => None,
        _ => Some("a virtual table"),
    };
    if let Some(what) = what {
        return Err(unsupported(&name, what));
    }
    let mut columns = Vec::new();
    let mut listed =
        db.prepare("SELECT name, type, \"notnull\", hidden FROM pragma_table_xinfo(?1) ORDER BY cid")?;
    let mut rows = listed.query([&name])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(3)? != 0 {
            return Err(unsupported(&name, "a generated column"));
        }
        let declared: String = row.get(1)?;
        let affinity = affinity(&declared);
        columns.push(Column { name: row.get(0)?, not_null: row.get(2)?, affinity, is_indexed: false });
    }
    let sql = "SELECT EXISTS(SELECT 1 FROM pragma_foreign_key_list(?1))";
    let sealed = if db.query_row(sql, [&name], |row| row.get(0))? {
        Some("loading rows under a FOREIGN KEY")
    } else if has_check(db, &name)? {
        Some("loading rows under a CHECK")
    } else {
        None
    };
    let (indexes, primary_key, duplicates, parent) = (Vec::new(), None, Duplicates::default(), None);
    Ok(Table { name, columns, indexes, primary_key, duplicates, parent, sealed, root })
}

/// Whether SQLite would check a CHECK on the way into the table. No pragma tells, but the program of an INSERT does.
fn has_check(db: &Connection, table: &str) -> Result<bool> {
    let quoted = table.replace('"', "\"\"");
    let mut program = db.prepare(&format!("EXPLAIN INSERT INTO \"{quoted}\" DEFAULT VALUES"))?;
    let mut steps = program.query([])?;
    while let Some(step) = steps.next()? {
        let (opcode, p1): (String, i32) = (step.get(1)?, step.get(2)?);
        if opcode == "Halt" && p1 == rusqlite::ffi::SQLITE_CONSTRAINT_CHECK {
            return Ok(true);
        }
    }
    Ok(false)
}

fn unsupported(object: &str, what: &'static str) -> Error {
    Error::Unsupported { object: object.to_owned(), what }
}

/// "Datatypes In SQLite", 3.1: the first rule that holds.
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

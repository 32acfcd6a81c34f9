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
}

#[derive(Debug)]
pub(super) struct Index {
    pub name: String,
    pub table: usize,
    /// Places in the table's columns, most significant first; the rowid follows unsaid.
    pub columns: Vec<usize>,
    pub unique: bool,
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
}

/// A row of `sqlite_schema`, and the b-tree that it names.
#[derive(Debug)]
pub(super) struct Entry {
    pub kind: String,
    pub name: String,
    pub table_name: String,
    pub sql: Option<String>,
    pub tree: Tree,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Tree {
    Table(usize),
    Index(usize),
}

/// Tables, columns and indexes to build, with a rule for repeated keys for each table.
///
/// ```
/// # use relayburn_ledger::archive::bulk::{Duplicates, Schema};
/// let mut schema = Schema::from_sql(
///     "CREATE TABLE turns(id TEXT PRIMARY KEY, model TEXT NOT NULL);
///      CREATE TABLE calls(turn TEXT, place INTEGER, PRIMARY KEY(turn, place));
///      CREATE INDEX by_model ON turns(model);",
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
    /// In SQLite's order of creation.
    pub(super) entries: Vec<Entry>,
    pub(super) cookie: u32,
}

impl Schema {
    /// Runs `sql` in an in-memory database and reads back what it made.
    ///
    /// Refused by name: views, triggers, virtual, STRICT and WITHOUT ROWID tables, AUTOINCREMENT, generated columns,
    /// and indexes that are partial, on expressions, DESC, or of another collation than BINARY. Tables
    /// with an INTEGER PRIMARY KEY, a CHECK or a FOREIGN KEY are created, but rows for them are refused.
    ///
    /// # Errors
    /// [`Error::Schema`] when SQLite does not accept the SQL, [`Error::Unsupported`] for what is refused.
    pub fn from_sql(sql: &str) -> Result<Self> {
        let db = Connection::open_in_memory()?;
        db.execute_batch(sql)?;
        let mut schema = Self { tables: Vec::new(), indexes: Vec::new(), entries: Vec::new(), cookie: 0 };
        schema.cookie = db.pragma_query_value(None, "schema_version", |row| row.get(0))?;
        let mut listed = db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid")?;
        let mut rows = listed.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, table_name): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let sql: Option<String> = row.get(3)?;
            let tree = match kind.as_str() {
                "table" => {
                    schema.tables.push(read_table(&db, &name, sql.as_deref().unwrap_or_default())?);
                    Tree::Table(schema.tables.len() - 1)
                }
                "index" => Tree::Index(schema.read_index(&db, &name, &table_name)?),
                "view" => return Err(unsupported(&name, "a view")),
                _ => return Err(unsupported(&name, "a trigger")),
            };
            schema.entries.push(Entry { kind, name, table_name, sql, tree });
        }
        for table in &mut schema.tables {
            let has_key: bool = db.query_row(
                "SELECT EXISTS(SELECT 1 FROM pragma_table_info(?1) WHERE pk > 0)",
                [&table.name],
                |row| row.get(0),
            )?;
            if has_key && table.primary_key.is_none() {
                table.sealed = Some("loading rows beside an INTEGER PRIMARY KEY");
            }
        }
        Ok(schema)
    }

    /// The table of that name, if there is one.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<TableId> {
        self.tables.iter().position(|table| table.name == name).map(TableId)
    }

    /// Sets what becomes of repeated primary keys in `table`; [`Duplicates::Refuse`] unless said otherwise.
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

    /// The affinities of an index's columns.
    pub(super) fn affinities(&self, index: usize) -> Vec<Affinity> {
        let index = &self.indexes[index];
        index.columns.iter().map(|column| self.tables[index.table].columns[*column].affinity).collect()
    }

    fn read_index(&mut self, db: &Connection, name: &str, table_name: &str) -> Result<usize> {
        let table = self.tables.iter().position(|table| table.name == table_name);
        let table = table.ok_or_else(|| unsupported(name, "an index of an unknown table"))?;
        let (unique, origin, partial): (bool, String, bool) = db.query_row(
            "SELECT \"unique\", origin, partial FROM pragma_index_list(?1) WHERE name = ?2",
            [table_name, name],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        if partial {
            return Err(unsupported(name, "a partial index"));
        }
        let mut columns = Vec::new();
        let mut listed =
            db.prepare("SELECT cid, \"desc\", coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")?;
        let mut rows = listed.query([name])?;
        while let Some(row) = rows.next()? {
            let (place, descending, collation): (i64, bool, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            match usize::try_from(place) {
                Err(_) => return Err(unsupported(name, "an index on an expression")),
                Ok(_) if descending => return Err(unsupported(name, "a DESC column")),
                Ok(_) if collation != "BINARY" => {
                    return Err(unsupported(name, "a collation other than BINARY"));
                }
                Ok(place) => columns.push(place),
            }
        }
        let id = self.indexes.len();
        self.indexes.push(Index { name: name.to_owned(), table, columns, unique });
        self.tables[table].indexes.push(id);
        if origin == "pk" {
            self.tables[table].primary_key = Some(id);
        }
        Ok(id)
    }
}

fn read_table(db: &Connection, name: &str, sql: &str) -> Result<Table> {
    let (kind, without_rowid, strict): (String, bool, bool) = db.query_row(
        "SELECT type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?1",
        [name],
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
        return Err(unsupported(name, what));
    }
    let mut columns = Vec::new();
    let mut listed =
        db.prepare("SELECT name, type, \"notnull\", hidden FROM pragma_table_xinfo(?1) ORDER BY cid")?;
    let mut rows = listed.query([name])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(3)? != 0 {
            return Err(unsupported(name, "a generated column"));
        }
        let declared: String = row.get(1)?;
        columns.push(Column { name: row.get(0)?, not_null: row.get(2)?, affinity: affinity(&declared) });
    }
    let foreign: bool =
        db.query_row("SELECT EXISTS(SELECT 1 FROM pragma_foreign_key_list(?1))", [name], |row| row.get(0))?;
    let sealed = match () {
        () if foreign => Some("loading rows under a FOREIGN KEY"),
        () if has_check(sql) => Some("loading rows under a CHECK"),
        () => None,
    };
    Ok(Table {
        name: name.to_owned(),
        columns,
        indexes: Vec::new(),
        primary_key: None,
        duplicates: Duplicates::default(),
        parent: None,
        sealed,
    })
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

/// Whether the keyword CHECK stands in a CREATE TABLE outside quotes and comments; no pragma tells.
fn has_check(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    let mut at = 0;
    let skip_to =
        |from: usize, end: &str| sql[from..].find(end).map_or(bytes.len(), |n| from + n + end.len());
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'' | b'`') => at = skip_to(at + 1, char::from(quote).encode_utf8(&mut [0; 4])),
            b'[' => at = skip_to(at + 1, "]"),
            b'-' if bytes[at..].starts_with(b"--") => at = skip_to(at, "\n"),
            b'/' if bytes[at..].starts_with(b"/*") => at = skip_to(at + 2, "*/"),
            byte if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
                let length = bytes[at..].iter().take_while(|byte| word(byte)).count();
                if bytes[at..at + length].eq_ignore_ascii_case(b"check") {
                    return true;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    false
}

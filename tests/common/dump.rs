//! The content of an archive in a form for comparison: tables in a fixed order, columns by name (a migrated archive has
//! another order), no times of builds, `sessions.model_set_json` as a set.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::time::{Duration, Instant};

use relayburn_ledger::archive::schema;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

/// A value as SQLite stores it.
#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => write!(f, "null"),
            Value::Int(number) => write!(f, "{number}"),
            Value::Real(number) => write!(f, "{number:?}"),
            Value::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// Column names and values.
pub type Row = BTreeMap<String, Value>;
/// Rows of each table, in the order of reading.
pub type Dump = BTreeMap<String, Vec<Row>>;

/// Primary keys, which sort the rows of a canonical dump.
const KEYS: [(&str, &[&str]); 7] = [
    ("sessions", &["source", "session_id"]),
    ("turns", &["source", "session_id", "message_id"]),
    ("tool_calls", &["source", "session_id", "message_id", "call_index"]),
    ("tool_result_events", &["source", "session_id", "message_id", "tool_use_id", "event_index"]),
    ("stamps", &["source", "session_id", "ts", "ledger_offset_bytes"]),
    ("compactions", &["source", "session_id", "ts"]),
    ("archive_state", &["id"]),
];
/// Columns with the times of builds.
const CLOCK: [&str; 3] = ["ledger_mtime_ms", "last_built_at", "last_rebuild_at"];

/// Returns every row of the archive at `path`, tables sorted by primary key.
pub fn by_key(path: &Path) -> Dump {
    read(path, |key| key.join(", "))
}

/// Returns every row of the archive at `path` in the order of rowids. Sessions have no fixed order, so they are sorted
/// by key.
pub fn by_rowid(path: &Path) -> Dump {
    read(path, rowid_order)
}

fn rowid_order(key: &[&str]) -> String {
    if key == ["source", "session_id"] { key.join(", ") } else { "rowid".to_owned() }
}

/// A connection that leaves no files. A read-only connection leaves sidecars beside a database in WAL mode, so an
/// archive of a test is opened for writing. Reference data is opened as immutable, and no program may write to it
/// meanwhile.
fn open(path: &Path) -> Connection {
    let (name, flags) = if path.starts_with(std::env::temp_dir()) {
        (path.to_str().unwrap().to_owned(), OpenFlags::SQLITE_OPEN_READ_WRITE)
    } else {
        (format!("file:{}?immutable=1", path.display()), OpenFlags::SQLITE_OPEN_READ_ONLY)
    };
    let archive = Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_URI).unwrap();
    archive.busy_timeout(Duration::from_secs(10)).unwrap();
    archive
}

fn read(path: &Path, order: impl Fn(&[&str]) -> String) -> Dump {
    let archive = open(path);
    let mut dump = Dump::new();
    for (table, key) in KEYS {
        let sql = format!("SELECT * FROM {table} ORDER BY {}", order(key));
        let mut statement = archive.prepare(&sql).unwrap();
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([]).unwrap();
        let dumped: &mut Vec<Row> = dump.entry(table.to_owned()).or_default();
        while let Some(row) = rows.next().unwrap() {
            let values = columns.iter().enumerate().filter(|(_, column)| !CLOCK.contains(&column.as_str()));
            dumped.push(
                values
                    .map(|(at, column)| (column.clone(), canonical(column, stored(row.get_ref(at).unwrap()))))
                    .collect(),
            );
        }
    }
    dump
}

fn stored(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(bytes) => Value::Text(String::from_utf8(bytes.to_vec()).unwrap()),
        ValueRef::Blob(bytes) => panic!("the archive has no BLOBs, but {bytes:?}"),
    }
}

fn canonical(column: &str, value: Value) -> Value {
    match value {
        Value::Text(text) if column == "model_set_json" => {
            let mut models: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            models.sort_by_key(ToString::to_string);
            Value::Text(serde_json::Value::from(models).to_string())
        }
        value => value,
    }
}

/// Returns a row from `{"table": …, "row": {…}}`, the form of reference data.
pub fn parse_row(row: &serde_json::Value) -> (String, Row) {
    let table = row["table"].as_str().unwrap().to_owned();
    let columns = row["row"].as_object().unwrap().iter();
    (table, columns.map(|(column, value)| (column.clone(), canonical(column, parse_value(value)))).collect())
}

/// Infinity, which is no JSON, in the form of [`parse_json`].
const INFINITY: &str = "\u{221e}";

fn parse_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Real(number.as_f64().unwrap()), Value::Int)
        }
        serde_json::Value::String(text) if text == INFINITY => Value::Real(f64::INFINITY),
        serde_json::Value::String(text) => Value::Text(text.clone()),
        other => panic!("not a value of a row: {other}"),
    }
}

/// Parses JSON of Python's `json`, which writes an infinite REAL as `Infinity`.
pub fn parse_json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| {
        serde_json::from_str(&text.replace(": Infinity", &format!(": \"{INFINITY}\""))).unwrap()
    })
}

/// Returns a dump of the rows in JSON lines, with every table.
pub fn parse<'r>(rows: impl IntoIterator<Item = &'r serde_json::Value>) -> Dump {
    let mut dump: Dump = KEYS.iter().map(|(table, _)| ((*table).to_owned(), Vec::new())).collect();
    for row in rows {
        let (table, row) = parse_row(row);
        dump.get_mut(&table).unwrap().push(row);
    }
    dump
}

/// Panics with the first row that differs.
#[track_caller]
pub fn assert_same(found: &Dump, expected: &Dump, what: impl fmt::Display) {
    if found == expected {
        return;
    }
    for (table, rows) in expected {
        let others = &found[table];
        for (place, (row, other)) in rows.iter().zip(others).enumerate() {
            assert!(row == other, "{what}: row {place} of {table}\nexpected {row:?}\n   found {other:?}");
        }
        assert_eq!(others.len(), rows.len(), "{what}: rows of {table}");
    }
    panic!("{what}: other tables");
}

/// Returns the statements of the schema by name, without comments and line breaks.
pub fn schema_of(path: &Path) -> BTreeMap<String, String> {
    let archive = open(path);
    let mut statement = archive.prepare("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).unwrap();
    rows.map(|row| {
        let (name, sql) = row.unwrap();
        let words = sql.lines().flat_map(|line| line.split("--").next().unwrap().split_whitespace());
        (name, words.collect::<Vec<_>>().join(" "))
    })
    .collect()
}

/// Returns a hash of every row of [`by_rowid`]. It is the same in every process.
///
/// # Errors
/// The errors of the queries, for callers that read beside a rebuild.
pub fn fingerprint(archive: &Connection) -> rusqlite::Result<u64> {
    let mut hasher = DefaultHasher::new();
    for (table, key) in KEYS {
        let mut statement =
            archive.prepare(&format!("SELECT * FROM {table} ORDER BY {}", rowid_order(key)))?;
        let columns: Vec<bool> = statement.column_names().map(|name| !CLOCK.contains(&name)).collect();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for at in (0..columns.len()).filter(|at| columns[*at]) {
                match row.get_ref(at)? {
                    ValueRef::Integer(number) => (1_u8, number).hash(&mut hasher),
                    ValueRef::Real(number) => (2_u8, number.to_bits()).hash(&mut hasher),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => (3_u8, bytes).hash(&mut hasher),
                    ValueRef::Null => 0_u8.hash(&mut hasher),
                }
            }
        }
        table.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Opens the archive like the reference: sets WAL mode, and waits for nothing.
///
/// # Errors
/// The errors of SQLite, among them "database is locked".
pub fn open_like_the_reference(path: &Path) -> rusqlite::Result<Connection> {
    let archive = Connection::open(path)?;
    archive.busy_timeout(Duration::ZERO)?;
    archive.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    Ok(archive)
}

/// Reads over new connections until one succeeds, and returns the number of reopens. "database is locked" may last for
/// a while, because the connection that closes last copies the log into the file and locks the database meanwhile. Any
/// other error may come once or twice. An error that lasts longer is a failure.
#[track_caller]
pub fn read_reopening<T>(path: &Path, read: impl Fn(&Connection) -> rusqlite::Result<T>) -> (T, u32) {
    const LOCKED_MAX: Duration = Duration::from_secs(3);
    const OTHERS_MAX: u32 = 2;
    let started = Instant::now();
    let (mut reopenings, mut others) = (0, 0);
    loop {
        match open_like_the_reference(path).and_then(|archive| read(&archive)) {
            Ok(answer) => return (answer, reopenings),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                assert!(started.elapsed() < LOCKED_MAX, "locked for {LOCKED_MAX:?}: {error}");
            }
            Err(error) => {
                others += 1;
                assert!(others <= OTHERS_MAX, "an error outlives reopening: {error}");
            }
        }
        reopenings += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks the whole database with `integrity_check`, including every row of every index.
#[track_caller]
pub fn assert_whole(path: &Path) {
    let archive = open(path);
    let verdict: String = archive.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok", "{}", path.display());
    let version: i64 =
        archive.query_row("SELECT archive_version FROM archive_state", [], |row| row.get(0)).unwrap();
    assert_eq!(version, schema::VERSION);
}

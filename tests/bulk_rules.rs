//! What the bulk loader refuses and how it says so, what becomes of repeated keys, and pages filled to their edges.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::path::Path;

use relayburn_ledger::archive::bulk::{Duplicates, Error, Loaded, Loader, Options, Schema, Value};
use rusqlite::Connection;
use tempfile::TempDir;

fn refusal(sql: &str) -> (String, &'static str) {
    match Schema::from_sql(sql) {
        Err(Error::Unsupported { object, what }) => (object, what),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let t = "CREATE TABLE t(a TEXT, b);";
    for (sql, object, what) in [
        (format!("{t} CREATE INDEX i ON t(b, a DESC)"), "i", "a DESC column"),
        (format!("{t} CREATE INDEX i ON t(lower(a))"), "i", "an index on an expression"),
        (format!("{t} CREATE INDEX i ON t(a) WHERE b > 1"), "i", "a partial index"),
        (format!("{t} CREATE INDEX i ON t(a COLLATE NOCASE)"), "i", "a collation other than BINARY"),
        (
            "CREATE TABLE t(a TEXT COLLATE RTRIM UNIQUE)".into(),
            "sqlite_autoindex_t_1",
            "a collation other than BINARY",
        ),
        ("CREATE TABLE t(a TEXT PRIMARY KEY) WITHOUT ROWID".into(), "t", "WITHOUT ROWID"),
        ("CREATE TABLE t(a TEXT) STRICT".into(), "t", "STRICT"),
        ("CREATE TABLE t(a, b AS (a + 1))".into(), "t", "a generated column"),
        ("CREATE TABLE t(a, b AS (a + 1) STORED)".into(), "t", "a generated column"),
        (
            "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT)".into(),
            "sqlite_sequence",
            "AUTOINCREMENT or ANALYZE",
        ),
        (format!("{t} CREATE VIEW v AS SELECT a FROM t"), "v", "a view"),
        (format!("{t} CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END"), "g", "a trigger"),
        ("CREATE VIRTUAL TABLE f USING fts5(a)".into(), "f", "a virtual table"),
    ] {
        assert_eq!(refusal(&sql), (object.to_owned(), what), "{sql}");
    }
    assert!(matches!(Schema::from_sql("CREATE TABLE"), Err(Error::Schema(_))));
}

#[test]
fn tables_whose_rows_would_go_unchecked_are_made_but_take_none() {
    let sql = "CREATE TABLE id(n INTEGER PRIMARY KEY);
        CREATE TABLE checked(n INTEGER CHECK (n > 0));
        CREATE TABLE foreigner(n REFERENCES checked(n));
        CREATE TABLE named(\"check\" TEXT, b TEXT DEFAULT 'check' /* check */, c -- check
        );";
    let dir = tempfile::tempdir().unwrap();
    let schema = Schema::from_sql(sql).unwrap();
    let tables = ["id", "checked", "foreigner", "named"].map(|name| schema.table(name).unwrap());
    let loader = Loader::create(&dir.path().join("db"), schema, Options::default()).unwrap();
    let mut batch = loader.batch(0);
    for (table, name) in tables.into_iter().zip(["id", "checked", "foreigner"]) {
        match batch.push(table, &[Value::Int(1)]) {
            Err(Error::Unsupported { object, .. }) => assert_eq!(object, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    batch.push(tables[3], &[Value::Null, Value::Null, Value::Null]).unwrap();
    loader.submit(batch).unwrap();
    assert_eq!(loader.finish().unwrap().rows, [0, 0, 0, 1]);
    let db = Connection::open(dir.path().join("db")).unwrap();
    db.execute_batch("INSERT INTO id VALUES(7); INSERT INTO checked VALUES(1);").unwrap();
    assert_eq!(integrity(&db), "ok");
}

fn integrity(db: &Connection) -> String {
    db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

/// Loads rows of one table, ten in a batch.
fn load(path: &Path, sql: &str, rule: Duplicates, rows: &[Vec<Value<'_>>]) -> Result<Loaded, Error> {
    let mut schema = Schema::from_sql(sql).unwrap();
    let table = schema.table("t").unwrap();
    schema.on_duplicate(table, rule);
    let loader = Loader::create(path, schema, Options { page_size: 4096, ..Options::default() })?;
    for (sequence, rows) in (0..).zip(rows.chunks(10)) {
        let mut batch = loader.batch(sequence);
        rows.iter().try_for_each(|row| batch.push(table, row))?;
        loader.submit(batch)?;
    }
    loader.finish()
}

fn rows(path: &Path) -> Vec<(i64, Option<String>, i64)> {
    let db = Connection::open(path).unwrap();
    assert_eq!(integrity(&db), "ok");
    let mut listed = db.prepare("SELECT rowid, k, v FROM t ORDER BY rowid").unwrap();
    let rows = listed.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn the_last_row_with_a_key_stays_where_the_rule_says() {
    let sql = "CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER); CREATE INDEX i ON t(v);";
    let given: Vec<_> = [Some("a"), Some("b"), None, Some("a"), None, Some("a"), Some("c")]
        .into_iter()
        .zip(0i64..)
        .map(|(key, value)| vec![key.into(), Value::Int(value)])
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let expect = |rule, expected: &[(i64, Option<&str>, i64)]| {
        let path = dir.path().join(format!("{rule:?}"));
        let loaded = load(&path, sql, rule, &given).unwrap();
        assert_eq!((&loaded.rows[..], &loaded.superseded[..]), (&[5][..], &[2][..]));
        let expected: Vec<_> =
            expected.iter().map(|(id, key, v)| (*id, key.map(str::to_owned), *v)).collect();
        assert_eq!(rows(&path), expected);
    };
    expect(
        Duplicates::KeepLast,
        &[(2, Some("b"), 1), (3, None, 2), (5, None, 4), (6, Some("a"), 5), (7, Some("c"), 6)],
    );
    expect(
        Duplicates::KeepLastAtFirst,
        &[(1, Some("a"), 5), (2, Some("b"), 1), (3, None, 2), (5, None, 4), (7, Some("c"), 6)],
    );
    match load(&dir.path().join("refused"), sql, Duplicates::Refuse, &given) {
        Err(Error::Duplicate { table, index, first, second, key }) => {
            assert_eq!((&*table, &*index, first, second, &*key), ("t", "sqlite_autoindex_t_1", 1, 4, "'a'"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_number_in_two_types_is_one_key() {
    let sql = "CREATE TABLE t(k PRIMARY KEY, v);";
    let keys =
        [Value::Int(1), Value::Real(1.0), Value::Real(-0.0), Value::Int(0), Value::Real(1.5), Value::Int(1)];
    let given: Vec<_> =
        keys.into_iter().zip(0i64..).map(|(key, value)| vec![key, Value::Int(value)]).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    assert_eq!(load(&path, sql, Duplicates::KeepLast, &given).unwrap().superseded, [3]);
    let db = Connection::open(&path).unwrap();
    assert_eq!(integrity(&db), "ok");
    match load(&dir.path().join("refused"), sql, Duplicates::Refuse, &given) {
        Err(Error::Duplicate { first: 1, second: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_unique_indexes_are_held_to_it() {
    let sql = "CREATE TABLE t(k TEXT, v INTEGER, UNIQUE(k)); CREATE UNIQUE INDEX u ON t(v, k);";
    let row = |key: Option<&'static str>, value| vec![key.into(), Value::Int(value)];
    let dir = tempfile::tempdir().unwrap();
    load(
        &dir.path().join("fine"),
        sql,
        Duplicates::KeepLast,
        &[row(None, 1), row(None, 1), row(Some("it's"), 1)],
    )
    .unwrap();
    match load(
        &dir.path().join("not"),
        sql,
        Duplicates::KeepLast,
        &[row(Some("it's"), 1), row(None, 1), row(Some("it's"), 2)],
    ) {
        Err(Error::Duplicate { index, first: 1, second: 3, key, .. }) => {
            assert_eq!((&*index, &*key), ("sqlite_autoindex_t_1", "'it''s'"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_row_leaves_its_batch_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut schema = Schema::from_sql(
        "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v INTEGER); CREATE TABLE c(v REAL NOT NULL);",
    )
    .unwrap();
    let (t, c) = (schema.table("t").unwrap(), schema.table("c").unwrap());
    schema.children_of(c, t).unwrap();
    assert!(matches!(schema.children_of(t, c), Err(Error::Unsupported { .. })));
    let loader = Loader::create(&dir.path().join("db"), schema, Options::default()).unwrap();
    let mut batch = loader.batch(0);
    assert!(matches!(batch.push(c, &[Value::Int(1)]), Err(Error::NoParent { .. })));
    batch.push(t, &["kept".into(), Value::Int(1)]).unwrap();
    assert!(matches!(batch.push(t, &["one".into()]), Err(Error::Columns { expected: 2, given: 1, .. })));
    assert!(matches!(batch.push(t, &[Value::Null, Value::Int(1)]), Err(Error::Null { .. })));
    assert!(matches!(batch.push(c, &[Value::Real(f64::NAN)]), Err(Error::Null { .. })));
    assert!(matches!(batch.push(t, &[Value::Int(1), Value::Int(1)]), Err(Error::NotAffine { .. })));
    assert!(matches!(batch.push(t, &["two".into(), " 12 ".into()]), Err(Error::NotAffine { .. })));
    batch.push(c, &[Value::Int(1)]).unwrap();
    loader.submit(batch).unwrap();
    let loaded = loader.finish().unwrap();
    assert_eq!(loaded.rows, [1, 1]);
    assert_eq!(integrity(&Connection::open(dir.path().join("db")).unwrap()), "ok");
}

#[test]
fn batches_must_be_numbered_without_gap_or_repetition() {
    let dir = tempfile::tempdir().unwrap();
    let loader = |name: &str| {
        let schema = Schema::from_sql("CREATE TABLE t(k)").unwrap();
        Loader::create(&dir.path().join(name), schema, Options::default()).unwrap()
    };
    let missing = loader("missing");
    missing.submit(missing.batch(1)).unwrap();
    assert!(matches!(missing.finish(), Err(Error::MissingBatch { sequence: 0 })));
    for earlier in [0, 3] {
        let repeated = loader(&format!("repeated{earlier}"));
        repeated.submit(repeated.batch(earlier)).unwrap();
        let again = repeated.submit(repeated.batch(earlier));
        assert!(matches!(again, Err(Error::RepeatedBatch { sequence }) if sequence == earlier));
        assert!(matches!(repeated.submit(repeated.batch(4)), Err(Error::Abandoned)));
        assert!(matches!(repeated.finish(), Err(Error::Abandoned)));
    }
}

#[test]
fn the_target_is_created_for_its_owner_alone_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let schema = || Schema::from_sql("CREATE TABLE t(k)").unwrap();
    let path = dir.path().join("db");
    for given in [512, 4095, 65536] {
        let options = Options { page_size: given, ..Options::default() };
        assert!(matches!(Loader::create(&path, schema(), options), Err(Error::PageSize { .. })));
    }
    let loader = Loader::create(&path, schema(), Options { wal: true, ..Options::default() }).unwrap();
    match Loader::create(&path, schema(), Options::default()).map(|_| ()) {
        Err(Error::Io(error)) => assert_eq!((error.kind(), error.path()), (ErrorKind::AlreadyExists, &*path)),
        other => panic!("{other:?}"),
    }
    loader.finish().unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("link")).unwrap();
        assert!(Loader::create(&dir.path().join("link"), schema(), Options::default()).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
    let db = Connection::open(&path).unwrap();
    let mode: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!((mode, integrity(&db)), ("wal".to_owned(), "ok".to_owned()));
}

/// Every number of rows from none on, with keys of four to a page: each way a level of an index can end.
#[test]
fn trees_of_every_size_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = (0..300).map(|n| format!("{n:03}{}", "k".repeat(880 + n % 37))).collect();
    for count in 0..300 {
        let given: Vec<_> = keys[..count].iter().map(|key| vec![(&**key).into(), Value::Null]).collect();
        let path = dir.path().join("db");
        load(
            &path,
            "CREATE TABLE t(k TEXT PRIMARY KEY, v); CREATE INDEX i ON t(v, k, v)",
            Duplicates::Refuse,
            &given,
        )
        .unwrap();
        assert_eq!(integrity(&Connection::open(&path).unwrap()), "ok", "{count} rows");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_spill_directory_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let schema = Schema::from_sql("CREATE TABLE t(k PRIMARY KEY)").unwrap();
    let table = schema.table("t").unwrap();
    let spill_dir = dir.path().join("none");
    let options = Options { memory_bytes: 0, spill_dir: Some(spill_dir.clone()), ..Options::default() };
    let loader = Loader::create(&dir.path().join("db"), schema, options).unwrap();
    let mut batch = loader.batch(0);
    batch.push(table, &["key".into()]).unwrap();
    match loader.submit(batch) {
        Err(Error::Io(error)) => assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, &*spill_dir)),
        other => panic!("{other:?}"),
    }
}

/// Runs the test below under a limit of the file size, lower each time, until nothing can be written at all.
#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_is_an_error_that_names_it() {
    let this = std::env::current_exe().unwrap();
    for limit_512 in [1, 8, 1000, 2500, 5000, 8000] {
        let script =
            format!("trap '' XFSZ; ulimit -f {limit_512}; exec \"$0\" --exact under_a_limit --ignored");
        let output = std::process::Command::new("sh").arg("-c").arg(script).arg(&this).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{limit_512}: {said}");
    }
}

#[cfg(unix)]
#[test]
#[ignore = "limits the size of files of its whole process; the one above starts it: cargo test --test bulk_rules"]
fn under_a_limit() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    let text = "x".repeat(700);
    let given: Vec<_> = (0..3000i64).map(|n| vec![Value::Int(n), (&*text).into()]).collect();
    let sql = "CREATE TABLE t(k BIGINT PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v)";
    match load(&path, sql, Duplicates::KeepLastAtFirst, &given) {
        Err(error @ Error::Io(_)) => {
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}")
        }
        other => panic!("{:?}", other.map(|loaded| loaded.len_bytes)),
    }
}

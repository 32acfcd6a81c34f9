//! The refusals of the bulk loader and their messages, repeated keys, and full pages.

use std::io::ErrorKind;
use std::path::Path;

use crate::common::processes;
use relayburn_ledger::sqlite_file::{Duplicates, Loaded, Loader, Schema, SqlValue, SqliteFileError};

/// A budget in bytes that none of these loads reaches.
const MEMORY: usize = 1 << 30;
use rusqlite::Connection;
use tempfile::TempDir;

fn refusal(sql: &str) -> (String, String) {
    match Schema::from_sql(sql, 4096) {
        Err(SqliteFileError::Unsupported { object, what }) => (object, what),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let t = "CREATE TABLE t(a TEXT, b);";
    for (sql, object, what) in [
        (format!("{t} CREATE INDEX i ON t(b, a DESC)"), "i", "a DESC column"),
        (format!("{t} CREATE INDEX i ON t(a, b, a)"), "i", "a column twice in an index"),
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
        (format!("{t} CREATE TEMP TABLE u(a)"), "the schema", "a TEMP table"),
        (format!("PRAGMA page_size = 8192; {t}"), "the schema", "another page size"),
        (format!("PRAGMA auto_vacuum = FULL; {t}"), "the schema", "auto-vacuum"),
        (format!("PRAGMA encoding = 'UTF-16le'; {t}"), "the schema", "another encoding than UTF-8"),
        (format!("{t} CREATE TABLE u(a PRIMARY KEY); DROP TABLE u"), "the schema", "something dropped"),
        (format!("{t} INSERT INTO t VALUES(1, 2)"), "t", "a row in the schema's SQL"),
        (format!("{t} CREATE VIEW v AS SELECT * FROM nowhere"), "v", "a view"),
        (format!("{t} CREATE TABLE Pragma_x(a)"), "Pragma_x", "the name of a pragma"),
        (
            "PRAGMA auto_vacuum = FULL; CREATE TABLE pragma_auto_vacuum(auto_vacuum)".into(),
            "pragma_auto_vacuum",
            "the name of a pragma",
        ),
    ] {
        assert_eq!(refusal(&sql), (object.to_owned(), what.to_owned()), "{sql}");
    }
    assert!(matches!(Schema::from_sql("CREATE TABLE", 4096), Err(SqliteFileError::Schema(_))));
    let written = format!("{t} PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 99");
    assert!(matches!(Schema::from_sql(&written, 4096), Err(SqliteFileError::Schema(_))));
    Schema::from_sql("CREATE TABLE t(a TEXT COLLATE binary UNIQUE)", 4096).unwrap();
}

#[test]
fn a_schema_of_nothing_is_a_database_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let loader = Loader::create(&path, Schema::from_sql("", 4096).unwrap(), MEMORY).unwrap();
    assert!(loader.finish().unwrap().rows.is_empty());
    let db = Connection::open(&path).unwrap();
    assert_eq!(integrity(&db), "ok");
    db.execute_batch("CREATE TABLE t(a)").unwrap();
}

#[test]
fn tables_whose_rows_would_go_unchecked_are_made_but_take_none() {
    let sql = "CREATE TABLE id(n INTEGER PRIMARY KEY);
        CREATE TABLE checked(n INTEGER CHECK (n > 0));
        CREATE TABLE foreigner(n REFERENCES checked(n));
        PRAGMA ignore_check_constraints = ON;
        CREATE TABLE named(\"check\" TEXT, b TEXT DEFAULT 'check' /* check */, c -- check
        );
        CREATE TABLE \"quoted \"\"t\"\"\"(a TEXT NOT NULL, CONSTRAINT c CHECK(length(a) BETWEEN 1 AND 5));";
    let dir = tempfile::tempdir().unwrap();
    let schema = Schema::from_sql(sql, 4096).unwrap();
    let tables =
        ["id", "checked", "foreigner", "quoted \"t\"", "named"].map(|name| schema.table(name).unwrap());
    let loader = Loader::create(&dir.path().join("db"), schema, MEMORY).unwrap();
    let mut batch = loader.batch(0);
    for (table, name) in tables.into_iter().zip(["id", "checked", "foreigner", "quoted \"t\""]) {
        match batch.push(table, &[SqlValue::Int(1)]) {
            Err(SqliteFileError::Unsupported { object, .. }) => assert_eq!(object, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    batch.push(tables[4], &[SqlValue::Null, SqlValue::Null, SqlValue::Null]).unwrap();
    loader.submit(batch).unwrap();
    assert_eq!(loader.finish().unwrap().rows, [0, 0, 0, 1, 0]);
    let db = Connection::open(dir.path().join("db")).unwrap();
    db.execute_batch("INSERT INTO id VALUES(7); INSERT INTO checked VALUES(1);").unwrap();
    assert_eq!(integrity(&db), "ok");
}

fn integrity(db: &Connection) -> String {
    db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

/// Loads rows of one table, ten in a batch.
fn load(
    path: &Path,
    sql: &str,
    rule: Duplicates,
    rows: &[Vec<SqlValue<'_>>],
) -> Result<Loaded, SqliteFileError> {
    let mut schema = Schema::from_sql(sql, 4096).unwrap();
    let table = schema.table("t").unwrap();
    schema.on_duplicate(table, rule);
    let loader = Loader::create(path, schema, MEMORY)?;
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
        .map(|(key, value)| vec![key.into(), SqlValue::Int(value)])
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
        Err(SqliteFileError::Duplicate { index, first, second, key }) => {
            assert_eq!((&*index, first, second, &*key), ("sqlite_autoindex_t_1", 1, 4, "'a'"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_number_in_two_types_is_one_key() {
    let keys = [
        SqlValue::Int(1),
        SqlValue::Real(1.0),
        SqlValue::Real(-0.0),
        SqlValue::Int(0),
        SqlValue::Real(1.5),
        SqlValue::Int(1),
    ];
    let given: Vec<_> =
        keys.into_iter().zip(0i64..).map(|(key, value)| vec![key, SqlValue::Int(value)]).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let sql = "CREATE TABLE t(k REAL PRIMARY KEY, v);";
    assert_eq!(load(&path, sql, Duplicates::KeepLast, &given).unwrap().superseded, [3]);
    assert_eq!(integrity(&Connection::open(&path).unwrap()), "ok");
    match load(&dir.path().join("refused"), sql, Duplicates::Refuse, &given) {
        Err(SqliteFileError::Duplicate { first: 3, second: 4, key, .. }) => assert_eq!(key, "0"),
        other => panic!("{other:?}"),
    }
    // If both types would be stored, one of them is refused.
    let sql = "CREATE TABLE t(k, v, PRIMARY KEY(k, v))";
    match load(
        &dir.path().join("mixed"),
        sql,
        Duplicates::KeepLast,
        &[vec![SqlValue::Real(1.0), SqlValue::Int(1)]],
    ) {
        Err(SqliteFileError::Row { place, .. }) => assert_eq!(place, "t.k"),
        other => panic!("{other:?}"),
    }
}

/// -2^63 is the only number that a numeric column stores in the given type, as an integer or as a real.
#[test]
fn the_least_number_keeps_its_type() {
    let (int, real) = (SqlValue::Int(i64::MIN), SqlValue::Real(i64::MIN as f64));
    let given: Vec<_> = [(1, int), (2, real), (3, real), (1, real), (4, int), (2, int)]
        .into_iter()
        .map(|(key, number)| vec![SqlValue::Int(key), number])
        .collect();
    for rule in [Duplicates::KeepLast, Duplicates::KeepLastAtFirst] {
        for (sql, expected) in [
            (
                "CREATE TABLE t(k NUMERIC NOT NULL, n INTEGER, PRIMARY KEY(k)); CREATE INDEX t_n ON t(n);",
                ["1 real", "2 integer", "3 real", "4 integer"].as_slice(),
            ),
            (
                "CREATE TABLE t(k NUMERIC, n NUMERIC NOT NULL, PRIMARY KEY(n)); CREATE INDEX t_n ON t(k, n);",
                ["2 integer"].as_slice(),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            load(&path, sql, rule, &given).unwrap();
            let db = Connection::open(&path).unwrap();
            assert_eq!(integrity(&db), "ok", "{rule:?} {sql}");
            for hint in ["", "INDEXED BY t_n"] {
                let sql =
                    format!("SELECT k || ' ' || typeof(n) FROM t {hint} WHERE n < 0 AND k > 0 ORDER BY k");
                let mut listed = db.prepare(&sql).unwrap();
                let found: Vec<String> =
                    listed.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
                assert_eq!(found, expected, "{rule:?} {hint}");
            }
        }
    }
}

/// A key of integers and fractions, because a JSON number may be either.
#[test]
fn integers_and_fractions_are_in_one_order() {
    let numbers = [
        SqlValue::Real(2.5),
        SqlValue::Real(-0.5),
        SqlValue::Real(1e300),
        SqlValue::Real(-1e19),
        SqlValue::Real(9.3e18),
        SqlValue::Int(i64::MIN),
        SqlValue::Int(i64::MAX),
        SqlValue::Real(0.0),
        SqlValue::Real(3.0),
        SqlValue::Int(-2),
        SqlValue::Real(1e-300),
        SqlValue::Int(2),
    ];
    let given: Vec<_> =
        numbers.into_iter().zip(0i64..).map(|(key, value)| vec![key, SqlValue::Int(value)]).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let sql = "CREATE TABLE t(k INTEGER NOT NULL, v, PRIMARY KEY(k, v))";
    load(&path, sql, Duplicates::Refuse, &given).unwrap();
    let db = Connection::open(&path).unwrap();
    assert_eq!(integrity(&db), "ok");
    let mut listed = db.prepare("SELECT CAST(k AS TEXT) FROM t ORDER BY k").unwrap();
    let found: Vec<String> = listed.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let expected = [
        "-1.0e+19",
        "-9223372036854775808",
        "-2",
        "-0.5",
        "0",
        "1.0e-300",
        "2",
        "2.5",
        "3",
        "9223372036854775807",
        "9.3e+18",
        "1.0e+300",
    ];
    assert_eq!(found, expected);
}

#[test]
fn other_unique_indexes_are_held_to_it() {
    let sql = "CREATE TABLE t(k TEXT, v INTEGER, UNIQUE(k)); CREATE UNIQUE INDEX u ON t(v, k);";
    let row = |key: Option<&'static str>, value| vec![key.into(), SqlValue::Int(value)];
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
        Err(SqliteFileError::Duplicate { index, first: 1, second: 3, key, .. }) => {
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
        4096,
    )
    .unwrap();
    let (t, c) = (schema.table("t").unwrap(), schema.table("c").unwrap());
    schema.children_of(c, t).unwrap();
    assert!(matches!(schema.children_of(t, c), Err(SqliteFileError::Unsupported { .. })));
    let loader = Loader::create(&dir.path().join("db"), schema, MEMORY).unwrap();
    let mut batch = loader.batch(0);
    let refused = |pushed: Result<(), SqliteFileError>, expected: &str| match pushed {
        Err(error @ SqliteFileError::Row { .. }) => {
            assert!(error.to_string().starts_with(expected), "{error} is not {expected}");
        }
        other => panic!("{other:?}"),
    };
    refused(batch.push(c, &[SqlValue::Int(1)]), "c: no row of its parent's table precedes");
    batch.push(t, &["kept".into(), SqlValue::Int(1)]).unwrap();
    refused(batch.push(t, &["one".into()]), "t: a row has another number of values");
    refused(batch.push(t, &[SqlValue::Null, SqlValue::Int(1)]), "t.k: is NOT NULL");
    refused(batch.push(c, &[SqlValue::Real(f64::NAN)]), "c.v: is NOT NULL");
    refused(batch.push(t, &[SqlValue::Int(1), SqlValue::Int(1)]), "t.k: takes no number");
    refused(batch.push(t, &["two".into(), " 12 ".into()]), "t.v: takes no text");
    batch.push(c, &[SqlValue::Int(1)]).unwrap();
    loader.submit(batch).unwrap();
    let loaded = loader.finish().unwrap();
    assert_eq!(loaded.rows, [1, 1]);
    assert_eq!(integrity(&Connection::open(dir.path().join("db")).unwrap()), "ok");
}

#[test]
fn batches_must_be_numbered_without_gap_or_repetition() {
    let dir = tempfile::tempdir().unwrap();
    for (given, expected) in [
        (&[1][..], "batch 0 never arrived"),
        (&[0, 2], "batch 1 never arrived"),
        (&[0, 1, 0], "batch 0 came twice"),
        (&[3, 2, 1, 0, 3], "batch 3 came twice"),
    ] {
        let schema = Schema::from_sql("CREATE TABLE t(k)", 4096).unwrap();
        let loader = Loader::create(&dir.path().join(expected), schema, MEMORY).unwrap();
        for sequence in given {
            loader.submit(loader.batch(*sequence)).unwrap();
        }
        match loader.finish() {
            Err(error @ SqliteFileError::Sequence { .. }) => {
                assert!(error.to_string().starts_with(expected), "{error} is not {expected}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_target_is_created_for_its_owner_alone_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let schema = || Schema::from_sql("CREATE TABLE t(k)", 4096).unwrap();
    let path = dir.path().join("db");
    for given in [512, 4095, 65536] {
        assert!(matches!(
            Schema::from_sql("CREATE TABLE t(k)", given),
            Err(SqliteFileError::PageSize { .. })
        ));
    }
    let loader = Loader::create(&path, schema(), MEMORY).unwrap();
    match Loader::create(&path, schema(), MEMORY).map(|_| ()) {
        Err(SqliteFileError::Io(error)) => {
            assert_eq!((error.kind(), error.path()), (ErrorKind::AlreadyExists, &*path))
        }
        other => panic!("{other:?}"),
    }
    loader.finish().unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("link")).unwrap();
        assert!(Loader::create(&dir.path().join("link"), schema(), MEMORY).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
    assert_eq!(integrity(&Connection::open(&path).unwrap()), "ok");
}

/// Every number of rows from 0 on, with four keys to a page and some that overflow, so that a level of an index ends in
/// every possible way.
#[test]
fn trees_of_every_size_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let length = |n: usize| if n.is_multiple_of(3) { 5000 + n } else { 880 + n % 37 };
    let mixed: Vec<_> = (0..300).map(|n| format!("{n:03}{}", "k".repeat(length(n)))).collect();
    let short: Vec<_> = (0..300).map(|n| format!("{n:03}{}", "k".repeat(880 + n % 37))).collect();
    for (keys, count) in
        [mixed, short].iter().flat_map(|keys| (0..keys.len()).map(move |count| (keys, count)))
    {
        let given: Vec<_> = keys[..count].iter().map(|key| vec![(&**key).into(), SqlValue::Null]).collect();
        let path = dir.path().join("db");
        load(
            &path,
            "CREATE TABLE t(k TEXT PRIMARY KEY, v); CREATE INDEX i ON t(v, k)",
            Duplicates::Refuse,
            &given,
        )
        .unwrap();
        assert_eq!(integrity(&Connection::open(&path).unwrap()), "ok", "{count} rows");
        std::fs::remove_file(&path).unwrap();
    }
}

/// Large enough for several rounds of pages: some trees end before others, and pages are written while others fill.
#[test]
fn a_load_of_many_rounds_is_the_same_however_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let sql = "CREATE TABLE p(k TEXT PRIMARY KEY, v TEXT); CREATE TABLE c(k TEXT, n INTEGER, v TEXT, PRIMARY KEY(k, n));
        CREATE TABLE small(v TEXT); CREATE INDEX p_v ON p(v); CREATE INDEX c_v ON c(v)";
    let long = "v".repeat(9_000);
    let load = |name: &str, rows_a_batch: usize, threads: usize, memory_bytes: usize| {
        let mut schema = Schema::from_sql(sql, 4096).unwrap();
        let [p, c, small] = ["p", "c", "small"].map(|name| schema.table(name).unwrap());
        schema.on_duplicate(p, Duplicates::KeepLastAtFirst);
        schema.on_duplicate(c, Duplicates::KeepLast);
        schema.children_of(c, p).unwrap();
        let path = dir.path().join(name);
        let loader = Loader::create(&path, schema, memory_bytes).unwrap();
        let rows: Vec<usize> = (0..20_000).collect();
        let next = std::sync::Mutex::new((0..).zip(rows.chunks(rows_a_batch)));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let taken = next.lock().unwrap().next();
                        let Some((sequence, rows)) = taken else { break };
                        let mut batch = loader.batch(sequence);
                        for row in rows {
                            let key = format!("key {}", row * 7919 % 18_000);
                            let length = if row % 50 == 0 { long.len() } else { 100 + row % 700 };
                            let value = format!("{row}{}", &long[..length]);
                            batch.push(p, &[(&*key).into(), (&*value).into()]).unwrap();
                            for n in 0..row % 3 {
                                let values = [(&*key).into(), SqlValue::Int(n as i64 / 2), (&*value).into()];
                                batch.push(c, &values).unwrap();
                            }
                            if row % 1000 == 0 {
                                batch.push(small, &[(&*key).into()]).unwrap();
                            }
                        }
                        loader.submit(batch).unwrap();
                    }
                });
            }
        });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let loaded = pool.install(|| loader.finish()).unwrap();
        assert!(loaded.len_bytes > 32 << 20, "{} bytes", loaded.len_bytes);
        assert_eq!(loaded.rows[0], 18_000);
        std::fs::read(path).unwrap()
    };
    let first = load("1", 20_000, 1, MEMORY);
    assert!(first == load("2", 333, 2, 0) && first == load("3", 1, 5, 1 << 24));
    assert_eq!(integrity(&Connection::open(dir.path().join("1")).unwrap()), "ok");
}

/// Runs the test below with a lower and lower file-size limit, until nothing can be written.
#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_is_an_error_that_names_it() {
    for limit_512 in [1, 8, 1000, 2500, 5000, 8000] {
        let script = format!("trap '' XFSZ; ulimit -f {limit_512}; exec \"$0\" \"$@\"");
        let this = processes::alone(module_path!(), "under_a_limit");
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(this.get_program())
            .args(this.get_args())
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{limit_512}: {said}");
    }
}

#[cfg(unix)]
#[test]
#[ignore = "limits the size of files of its whole process; the one above starts it: cargo test --test sqlite_file under_a_limit"]
fn under_a_limit() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    let text = "x".repeat(700);
    let given: Vec<_> = (0..3000i64).map(|n| vec![SqlValue::Int(n), (&*text).into()]).collect();
    let sql = "CREATE TABLE t(k BIGINT PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v)";
    match load(&path, sql, Duplicates::KeepLastAtFirst, &given) {
        Err(error @ SqliteFileError::Io(_)) => {
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}")
        }
        other => panic!("{:?}", other.map(|loaded| loaded.len_bytes)),
    }
}

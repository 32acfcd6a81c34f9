//! Every file operation of a load fails once: the load says so, and which file it was.

use super::{Duplicates, Loader, Schema, SqlValue, SqliteFileError};
use crate::disk::faults;

/// Rows with overflow pages, keys that come again, batches out of order, and nothing kept in memory.
fn load(dir: &std::path::Path) -> Result<u64, SqliteFileError> {
    let mut schema = Schema::from_sql(
        "CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT); CREATE TABLE c(v TEXT); CREATE INDEX i ON t(v)",
        4096,
    )?;
    let (parent, child) = (schema.table("t").unwrap(), schema.table("c").unwrap());
    schema.on_duplicate(parent, Duplicates::KeepLastAtFirst);
    schema.children_of(child, parent)?;
    let loader = Loader::create(&dir.join("db"), schema, 0)?;
    for sequence in [1, 0, 2] {
        let mut batch = loader.batch(sequence);
        for row in 0..40 {
            let key = format!("{}", row * 7 % 30);
            let text = "x".repeat(if row % 9 == 0 { 9_000 } else { 200 });
            batch.push(parent, &[SqlValue::from(&*key), SqlValue::from(&*text)])?;
            batch.push(child, &[SqlValue::from(&*text)])?;
        }
        loader.submit(batch)?;
    }
    let loaded = loader.finish()?;
    loaded.file.sync_all()?;
    Ok(loaded.rows[0])
}

#[test]
fn a_load_fails_with_any_of_its_file_operations() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().unwrap();
    let mut failures = 0;
    faults::each_failure(|harness| {
        let dir = tempfile::tempdir().unwrap();
        match pool.install(|| harness.run(|| load(dir.path()))) {
            Ok(rows) => assert_eq!((rows, harness.has_failed()), (30, false)),
            Err(SqliteFileError::Io(error)) => {
                assert!(harness.has_failed() && error.path().starts_with(dir.path()), "{error}");
                failures += 1;
            }
            Err(other) => panic!("{other}"),
        }
    });
    assert!(failures > 50, "{failures} failures");
}

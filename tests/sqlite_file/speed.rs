//! Loads a file beyond 1 GiB, which has a page that SQLite never uses, and prints the time of its check. Not part of a normal run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use relayburn_ledger::sqlite_file::{Duplicates, Loader, Schema, SqlValue};
use rusqlite::Connection;

const BATCHES: u64 = 1600;
const ROWS_A_BATCH: u64 = 1000;

#[test]
#[ignore = "writes 1.6 GB and checks it in full: cargo test --release --test sqlite_file -- --ignored --exact speed::a_file_beyond_one_gibibyte"]
fn a_file_beyond_one_gibibyte() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("large");
    let sql = "CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT); CREATE INDEX t_v ON t(v)";
    let mut schema = Schema::from_sql(sql, 16384).unwrap();
    let table = schema.table("t").unwrap();
    schema.on_duplicate(table, Duplicates::KeepLastAtFirst);
    let loader = Loader::create(&path, schema, 512 << 20).unwrap();
    let (next, long) = (AtomicU64::new(0), "v".repeat(20_000));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let sequence @ 0..BATCHES = next.fetch_add(1, Ordering::Relaxed) {
                    let mut batch = loader.batch(sequence);
                    for row in sequence * ROWS_A_BATCH..(sequence + 1) * ROWS_A_BATCH {
                        // Every hundredth key is the key of an earlier row, and some values need overflow pages.
                        let key = format!("key {:07}", if row % 100 == 50 { row - 4 } else { row });
                        let length = if row % 5000 == 0 { long.len() } else { 460 };
                        let value = format!("{:07}{}", row * 7919 % 1_600_000, &long[..length]);
                        batch.push(table, &[SqlValue::from(&*key), SqlValue::from(&*value)]).unwrap();
                    }
                    loader.submit(batch).unwrap();
                }
            });
        }
    });
    let loaded = loader.finish().unwrap();
    assert!(loaded.len_bytes > 1 << 30, "{}", loaded.len_bytes);
    let started = Instant::now();
    let db = Connection::open(&path).unwrap();
    let found: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
    println!("{} bytes, integrity_check {:.1} s", loaded.len_bytes, started.elapsed().as_secs_f64());
}

//! Many processes that open, set WAL, read and close, while the archive is published again and again.

use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::{Method, prepare};
use super::{Home, Peer, check, fill, scale};

/// The reader of `roles` in another implementation: Python's `sqlite3` module on the system's SQLite.
const PYTHON_READER: &str = r#"
import sqlite3, sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
path, rows = sys.argv[1], int(sys.argv[2])
def once():
    c = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        c.execute("PRAGMA journal_mode=WAL").fetchall()
        low, high, count = c.execute("SELECT min(generation), max(generation), count(pad) FROM rows").fetchone()
        if low != high or count != rows: sys.exit(f"a mixture: {low} {high} {count}")
        return low
    finally: c.close()
reads = busy = errors = newest = 0
print("ready", flush=True)
while not stop.is_set():
    started, in_a_row = time.monotonic(), 0
    while True:
        try: generation = once(); break
        except sqlite3.Error as error:
            if "locked" in str(error):
                busy += 1
                if time.monotonic() - started > 3: sys.exit(f"locked for good: {error}")
            else:
                errors, in_a_row = errors + 1, in_a_row + 1
                if in_a_row > 2: sys.exit(f"an error outlives reopening: {error}")
            time.sleep(0.005)
    if generation < newest: sys.exit(f"generation {generation} after {newest}")
    newest, reads = generation, reads + 1
print(f"done {reads} reads, {busy} times busy, {errors} other errors, newest {newest}")
"#;

fn python_reader(home: &Home) -> Option<Peer> {
    let has_python =
        Command::new("python3").args(["-c", "import sqlite3"]).output().is_ok_and(|it| it.status.success());
    has_python.then(|| {
        let rows = super::ROWS.to_string();
        Peer::spawn(Command::new("python3").arg("-c").arg(PYTHON_READER).arg(&home.archive).arg(rows))
    })
}

/// A short write as a tail build makes it: it grows the file, so that page 1 is in the log.
fn write_a_tail(home: &Home) {
    let archive = Connection::open(&home.archive).unwrap();
    archive.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    archive.execute("INSERT INTO tail VALUES(zeroblob(40000))", []).unwrap();
}

#[test]
fn every_read_beside_many_publishes_is_of_one_generation() {
    let home = Home::with_archive(1);
    let mut readers: Vec<Peer> = (0..6).map(|_| Peer::start("reader", &home.archive, &[])).collect();
    for _ in 0..2 {
        readers.push(python_reader(&home).unwrap_or_else(|| Peer::start("reader", &home.archive, &[])));
    }
    for reader in &mut readers {
        reader.hear("ready").unwrap();
    }

    let publishes = 100 * i64::from(scale());
    let (mut renamed, mut in_place) = (0, 0);
    let started = Instant::now();
    for generation in 2..2 + publishes {
        let plan = prepare(&home.archive).unwrap();
        // Now and then a size that path B has to rewrite.
        let page_size = if generation % 10 == 0 { 8192 } else { plan.page_size() };
        fill(plan.build_path(), generation, page_size);
        match plan.publish(|| true).unwrap().method {
            Method::Renamed => renamed += 1,
            Method::InPlace { .. } => in_place += 1,
            Method::Created => panic!("the archive was gone"),
        }
        if generation % 2 == 0 {
            write_a_tail(&home);
        }
        assert_eq!(check(&home.archive), generation);
        // A lull, in which the archive can be had exclusively.
        if generation % 3 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    println!("{publishes} publishes in {:?}: {renamed} renamed, {in_place} in place", started.elapsed());
    for mut reader in readers {
        drop(reader.stdin.take());
        println!("{}", reader.hear("done").expect("a reader failed"));
        assert!(reader.finish().success());
    }
    assert_eq!(check(&home.archive), 1 + publishes);
    assert_eq!(home.names(), ["archive.sqlite"]);
}

/// Gaps between the readers, so that most publishes are renames.
#[test]
fn readers_that_come_and_go_beside_renames() {
    let home = Home::with_archive(1);
    let mut reader = Peer::start("reader", &home.archive, &[]);
    reader.hear("ready").unwrap();
    let publishes = 60 * i64::from(scale());
    let mut renamed = 0;
    for generation in 2..2 + publishes {
        let plan = prepare(&home.archive).unwrap();
        fill(plan.build_path(), generation, 16384);
        renamed += u32::from(plan.publish(|| true).unwrap().method == Method::Renamed);
        write_a_tail(&home);
        assert_eq!(check(&home.archive), generation);
    }
    drop(reader.stdin.take());
    println!("{renamed} of {publishes} renamed; {}", reader.hear("done").expect("the reader failed"));
    assert!(reader.finish().success());
    assert!(renamed > 0);
}

//! Many processes open the archive, set WAL and query, again and again like the reference, while it is rebuilt again
//! and again. Each query sees one complete archive, and no error persists after a reopen.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::common::archives::Place;
use crate::common::dump::{self, read_reopening};
use crate::common::processes::{Peer, have_python, loader, rebuild_offline, role_played, say};
use crate::common::{fixture, ledgers, scale};
use relayburn_ledger::dev::Profile;
use rusqlite::Connection;

const READERS: usize = 8;

/// The statement by which a reader identifies an archive. It reads every table and an index. Both kinds of readers run
/// the same text, and the last column only grows.
const SUMMARY: &str = "
    SELECT (SELECT ledger_offset_bytes FROM archive_state) || ' ' || (SELECT count(*) FROM turns) || ' ' ||
           (SELECT total(output_tokens + rowid) FROM turns) || ' ' || (SELECT count(*) FROM tool_calls) || ' ' ||
           (SELECT total(turn_count) FROM sessions) || ' ' || (SELECT count(*) FROM tool_result_events) || ' ' ||
           (SELECT count(*) FROM turns INDEXED BY idx_turns_ts WHERE ts >= '2026-01-01T00:30'),
           (SELECT coalesce(last_rebuild_at, '') FROM archive_state)";

/// The same reader with Python's module and the system's SQLite. Arguments: archive, statement, summaries.
const PYTHON_READER: &str = r#"
import sqlite3, sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
path, statement, known = sys.argv[1], sys.argv[2], set(sys.argv[3:])
def once():
    c = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        c.execute("PRAGMA journal_mode=WAL").fetchall()
        c.execute("BEGIN")
        first = c.execute(statement).fetchone()
        if first != c.execute(statement).fetchone(): sys.exit("a snapshot changed")
        c.execute("COMMIT")
        return first
    finally: c.close()
reads = reopened = worst = 0
newest = ""
print("> ready", flush=True)
while not stop.is_set():
    tries, others, started = 0, 0, time.monotonic()
    while True:
        try: summary, built = once(); break
        except sqlite3.Error as error:
            if "locked" in str(error):
                if time.monotonic() - started > 3: sys.exit(f"locked for 3 s: {error}")
            else:
                others += 1
                if others > 2: sys.exit(f"an error outlives reopening: {error}")
            tries += 1
            time.sleep(0.005)
    if summary not in known: sys.exit(f"a mixture: {summary}")
    if built < newest: sys.exit(f"an older archive came back: {built} after {newest}")
    newest, reads, reopened, worst = built, reads + 1, reopened + tries, max(worst, tries)
print(f"> {reads} reads, {reopened} reopenings, at most {worst} in a row", flush=True)
"#;

fn summary(archive: &Connection) -> rusqlite::Result<(String, String)> {
    archive.query_row(SUMMARY, [], |row| Ok((row.get(0)?, row.get(1)?)))
}

#[test]
#[ignore = "runs as another process of the other tests, which start it: cargo test --test archive readers"]
fn role() {
    let Some(role) = role_played() else { return };
    let (archive, known) = (Path::new(&role[0]), &role[1..]);
    let stop = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let (mut reads, mut reopened, mut worst, mut newest) = (0, 0, 0, String::new());
    say("ready");
    while !stop.is_finished() {
        let ((found, built), reopenings) = read_reopening(archive, |archive| {
            archive.execute_batch("BEGIN")?;
            let first = summary(archive)?;
            assert_eq!(summary(archive)?, first, "a snapshot changed");
            archive.execute_batch("COMMIT")?;
            Ok(first)
        });
        assert!(known.contains(&found), "a mixture: {found}");
        assert!(built >= newest, "an older archive came back: {built} after {newest}");
        newest = built;
        reads += 1;
        reopened += reopenings;
        worst = worst.max(reopenings);
    }
    say(&format!("{reads} reads, {reopened} reopenings, at most {worst} in a row"));
}

/// Rebuilds the archive of `place` beside readers, from two ledgers in turn.
fn rebuild_beside_readers(place: &Place, rebuilds: usize) {
    let ledgers = Place::new();
    let generations: Vec<(PathBuf, String)> = [1, 2]
        .map(|seed| {
            let ledger = ledgers.directory().join(format!("{seed}.jsonl"));
            fs::write(&ledger, ledgers::generated(Profile::Mixed, 1_500_000, seed).0).unwrap();
            let archive = ledgers.directory().join(format!("{seed}.sqlite"));
            // Both archives come from the same loader, because the bulk loader leaves gaps in the rowids of repeated
            // turns.
            assert!(rebuild_offline(&ledger, &archive).args(loader()).output().unwrap().status.success());
            let summary = summary(&Connection::open(&archive).unwrap()).unwrap().0;
            (ledger, summary)
        })
        .into();
    assert_ne!(generations[0].1, generations[1].1);
    let mut known = vec![summary(&Connection::open(place.archive()).unwrap()).unwrap().0];
    known.extend(generations.iter().map(|(_, summary)| summary.clone()));

    let python = if have_python() { READERS / 2 } else { 0 };
    let mut readers: Vec<Peer> = (0..READERS)
        .map(|number| {
            if number < python {
                let mut command = Command::new("python3");
                Peer::spawn(
                    command.arg("-c").arg(PYTHON_READER).arg(place.archive()).arg(SUMMARY).args(&known),
                )
            } else {
                let mut role: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&place.paths.archive];
                role.extend(known.iter().map(|summary| summary as &dyn AsRef<std::ffi::OsStr>));
                Peer::start(module_path!(), &role)
            }
        })
        .collect();
    for reader in &mut readers {
        assert_eq!(reader.hear(), "ready");
    }
    let mut page_sizes = BTreeSet::new();
    for round in 0..rebuilds {
        let (ledger, expected) = &generations[round % 2];
        let output = rebuild_offline(ledger, place.archive()).args(loader()).output().unwrap();
        assert!(output.status.success(), "rebuild {round}: {}", String::from_utf8_lossy(&output.stderr));
        let ((verdict, page_size), _) = read_reopening(place.archive(), |archive| {
            let page_size: i64 = archive.query_row("PRAGMA page_size", [], |row| row.get(0))?;
            let verdict: String = archive.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
            Ok((verdict, page_size))
        });
        assert_eq!(verdict, "ok", "rebuild {round}");
        page_sizes.insert(page_size);
        assert_eq!(&read_reopening(place.archive(), summary).0.0, expected, "rebuild {round}");
    }
    for mut reader in readers {
        reader.end_input();
        println!("{}", reader.hear());
        assert!(reader.wait().success());
    }
    println!("{rebuilds} rebuilds; page sizes {page_sizes:?}");
    dump::assert_whole(place.archive());
    assert_eq!(place.names(), ["archive.sqlite"]);
}

#[test]
fn readers_beside_rebuilds_of_an_archive_of_ours() {
    let place = Place::with_ledger(&ledgers::generated(Profile::Mixed, 300_000, 3).0);
    assert!(rebuild_offline(&place.paths.ledger, place.archive()).output().unwrap().status.success());
    fs::remove_file(&place.paths.ledger).unwrap();
    rebuild_beside_readers(&place, 5 * scale());
}

/// With pages of 4096 bytes: SQLite's backup cannot write into a database with another page size.
#[test]
fn readers_beside_rebuilds_of_an_archive_of_the_reference() {
    let place = Place::new();
    fs::copy(fixture("archive/session-rollups/archive.sqlite"), place.archive()).unwrap();
    let archive = Connection::open(place.archive()).unwrap();
    assert_eq!(archive.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0)).unwrap(), 4096);
    drop(archive);
    rebuild_beside_readers(&place, 5 * scale());
}

//! What the other processes do. Each speaks in lines: a word, then what it has to say.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::connection::{is_busy, open};
use super::super::prepare;
use super::{fill, generation};

/// How long a reader without a busy timeout may be turned away: whoever closes the archive last, a publisher or not, locks it
/// while it folds the log.
const BUSY_MAX: Duration = Duration::from_secs(3);
/// How often in a row any other error may come back over a new connection.
const ERRORS_MAX: u32 = 2;

#[test]
#[ignore = "runs as another process of the other tests, which start it: cargo test --lib publish"]
fn role() {
    let Some(role) = std::env::var_os("BURN_TEST_ROLE") else {
        return;
    };
    let archive = PathBuf::from(std::env::var_os("BURN_TEST_ARCHIVE").unwrap());
    match role.to_str().unwrap() {
        "publisher" => publisher(&archive),
        "attached" => attached(&archive),
        "reader" => reader(&archive),
        other => panic!("no such role: {other}"),
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Publishes once. `BURN_TEST_GENERATION`; `BURN_TEST_FILE_MAX`: a limit on the size of any file it writes from the backup on.
fn publisher(live: &Path) {
    let plan = prepare(live).unwrap();
    println!("prepared {:?} {} {}", plan.found(), plan.is_in_use(), plan.page_size());
    let generation = setting("BURN_TEST_GENERATION").unwrap().parse().unwrap();
    fill(plan.build_path(), generation, plan.page_size());
    #[cfg(unix)]
    if let Some(limit) = setting("BURN_TEST_FILE_MAX") {
        let limit = libc::rlimit { rlim_cur: limit.parse().unwrap(), rlim_max: libc::RLIM_INFINITY };
        // SAFETY: `limit` outlives the call; ignoring SIGXFSZ turns the excess into EFBIG.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        }
    }
    match plan.publish(|| true) {
        Ok(published) => println!("published {:?}", published.method),
        Err(error) => println!("refused {error}"),
    }
}

/// Opens the archive as the reference does, gets into `BURN_TEST_STATE`, and after a line of input goes on: one read, then
/// another one over a new connection.
fn attached(live: &Path) {
    let archive = open(live).unwrap();
    match setting("BURN_TEST_STATE").unwrap().as_str() {
        "opened" => {}
        "snapshot" => {
            set_wal(&archive).unwrap();
            generation(&archive).unwrap();
        }
        "reading" => {
            set_wal(&archive).unwrap();
            archive.execute_batch("BEGIN").unwrap();
            generation(&archive).unwrap();
        }
        "writing" => {
            set_wal(&archive).unwrap();
            archive.execute_batch("BEGIN IMMEDIATE; INSERT INTO tail VALUES(zeroblob(9000))").unwrap();
        }
        other => panic!("no such state: {other}"),
    }
    println!("attached");
    if setting("BURN_TEST_STATE").unwrap() == "writing" {
        std::thread::sleep(Duration::from_millis(200));
        archive.execute_batch("COMMIT").unwrap();
    }
    let mut lines = std::io::stdin().lock().lines();
    if lines.next().is_none() {
        return;
    }
    match set_wal(&archive).and_then(|()| generation(&archive)) {
        Ok(generation) => println!("then {generation}"),
        Err(error) => println!("then error {error}"),
    }
    drop(archive);
    println!("reopened {}", read_once(live, &mut Tally::default()));
    lines.next();
}

fn set_wal(archive: &Connection) -> rusqlite::Result<()> {
    archive.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
}

#[derive(Default)]
struct Tally {
    reads: u32,
    busy: u32,
    errors: u32,
}

/// Reads the generation over a new connection, and over another one after an error.
fn read_once(live: &Path, tally: &mut Tally) -> i64 {
    let started = Instant::now();
    let mut errors = 0;
    loop {
        let read = open(live).and_then(|archive| {
            set_wal(&archive)?;
            let before = generation(&archive)?;
            archive.execute_batch("BEGIN")?;
            let first = generation(&archive)?;
            assert!(first >= before, "an older archive came back");
            assert_eq!(generation(&archive)?, first, "a snapshot changed");
            archive.execute_batch("COMMIT")?;
            Ok(first)
        });
        match read {
            Ok(generation) => {
                tally.reads += 1;
                return generation;
            }
            Err(error) if is_busy(&error) => {
                assert!(started.elapsed() < BUSY_MAX, "locked for good: {error}");
                tally.busy += 1;
            }
            Err(error) => {
                errors += 1;
                assert!(errors <= ERRORS_MAX, "an error outlives reopening: {error}");
                tally.errors += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Opens, sets WAL, reads and closes until its input ends.
fn reader(live: &Path) {
    let stop = std::thread::spawn(|| std::io::stdin().lock().lines().count());
    let mut tally = Tally::default();
    let mut newest = 0;
    println!("ready");
    while !stop.is_finished() {
        let generation = read_once(live, &mut tally);
        assert!(generation >= newest, "generation {generation} after {newest}");
        newest = generation;
    }
    let Tally { reads, busy, errors } = tally;
    println!("done {reads} reads, {busy} times busy, {errors} other errors, newest {newest}");
}

//! SIGKILL at random moments of a build, beside a reader or alone: the complete old archive or the complete new archive
//! remains, and the next build removes the temporary files.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::common::archives::Place;
use crate::common::dump::{self, fingerprint, open_like_the_reference, read_reopening};
use crate::common::processes::{Peer, loader, rebuild, rebuild_offline, role_played, say};
use crate::common::{Random, ledgers, scale};
use relayburn_ledger::archive::Options;
use relayburn_ledger::dev::Profile;
use rusqlite::Connection;

const LEDGER_BYTES: u64 = 8_000_000;
/// The age at which the lock of a dead holder is taken over.
const STALE_AGE: Duration = Duration::from_secs(5);

/// A ledger and the rows of its archive.
struct Generation {
    ledger: PathBuf,
    fingerprint: u64,
}

impl Generation {
    fn new(directory: &Path, seed: u64) -> Self {
        let ledger = directory.join(format!("ledger-{seed}.jsonl"));
        fs::write(&ledger, ledgers::generated(Profile::Mixed, LEDGER_BYTES, seed).0).unwrap();
        let archive = directory.join(format!("archive-{seed}.sqlite"));
        build(&ledger, &archive);
        let fingerprint = fingerprint(&Connection::open(&archive).unwrap()).unwrap();
        Self { ledger, fingerprint }
    }
}

fn full(ledger: &Path, archive: &Path) -> Command {
    let mut command = rebuild_offline(ledger, archive);
    command.args(loader());
    command
}

fn build(ledger: &Path, archive: &Path) {
    let output = full(ledger, archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A reader that holds the archive's old state in a read transaction. It opens the archive like the reference.
struct Reader(Peer);

impl Reader {
    fn attach(archive: &Path) -> Self {
        let mut peer = Peer::start(module_path!(), &[&"reader", &archive]);
        assert_eq!(peer.hear(), "reading");
        Self(peer)
    }

    /// Makes the reader end its transaction and read again. Returns the rows that it then sees.
    fn go_on(mut self) -> u64 {
        self.0.end_input();
        let seen = self.0.hear().parse().unwrap();
        assert!(self.0.wait().success());
        seen
    }
}

#[test]
#[ignore = "runs as another process of the other tests, which start it: cargo test --test archive kill"]
fn role() {
    let Some(role) = role_played() else { return };
    let archive = Path::new(&role[1]);
    let connection = open_like_the_reference(archive).unwrap();
    connection.execute_batch("BEGIN").unwrap();
    let held = fingerprint(&connection).unwrap();
    say("reading");
    std::io::stdin().lock().lines().count();
    assert_eq!(fingerprint(&connection).unwrap(), held, "a snapshot changed");
    connection.execute_batch("COMMIT").unwrap();
    let seen = fingerprint(&connection).unwrap_or_else(|_| read_reopening(archive, fingerprint).0);
    say(&seen.to_string());
}

/// A running build, with the times of its steps.
struct Run {
    child: Child,
    started: Instant,
    directory: PathBuf,
}

impl Run {
    fn start(mut command: Command, directory: &Path) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, started: Instant::now(), directory: directory.to_owned() }
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the finished file is in WAL mode, the first step of publishing. `false` if the build ended before
    /// this was seen.
    fn wait_for_the_seal(&mut self) -> bool {
        while !self.is_over() {
            let mut entries = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
            if entries.any(|path| path.to_str().unwrap().contains(".rebuild-") && is_sealed(&path)) {
                return true;
            }
            sleep(Duration::from_micros(50));
        }
        false
    }

    /// Returns whether the build was still running.
    fn kill(mut self) -> bool {
        let killed = !self.is_over();
        // The build may end between the two steps.
        let _ = self.child.kill();
        killed && self.child.wait().unwrap().code().is_none()
    }
}

/// Bytes 18 and 19 of a database's header show whether it is in WAL mode.
fn is_sealed(path: &Path) -> bool {
    let mut header = [0; 20];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).is_ok_and(|()| header[18..] == [2, 2])
}

/// The durations of rebuilds.
#[derive(Clone, Copy, Debug)]
struct Times {
    whole: Duration,
    /// From the seal to the end.
    publishing: Duration,
}

/// The shortest durations of a few rebuilds, so that moments drawn from them are seldom too late. On a busy machine
/// publishing may end before this process sees its beginning; such a run does not count.
fn calibrate(place: &Place, generations: &[Generation; 2], beside_reader: bool) -> Times {
    const SEEN: usize = 3;
    const RUNS_MAX: usize = 60;
    let mut seen = Vec::new();
    for generation in generations.iter().cycle().take(RUNS_MAX) {
        let reader = beside_reader.then(|| Reader::attach(place.archive()));
        let mut run = Run::start(full(&generation.ledger, place.archive()), place.directory());
        let sealed = run.wait_for_the_seal().then(Instant::now);
        assert!(run.child.wait().unwrap().success());
        if let Some(sealed) = sealed {
            seen.push((run.started.elapsed(), sealed.elapsed()));
        }
        if let Some(reader) = reader {
            assert_eq!(reader.go_on(), generation.fingerprint);
        }
        if seen.len() == SEEN {
            break;
        }
    }
    assert_eq!(seen.len(), SEEN, "publishing was not seen in {RUNS_MAX} rebuilds");
    let shortest = |of: fn(&(Duration, Duration)) -> Duration| seen.iter().map(of).min().unwrap();
    Times { whole: shortest(|times| times.0), publishing: shortest(|times| times.1) }
}

/// Makes the lock of a killed build old enough for an immediate takeover.
fn age_lock(place: &Place) {
    let lock = place.archive().with_file_name("archive.lock");
    if let Ok(lock) = File::options().write(true).open(lock) {
        lock.set_modified(SystemTime::now() - STALE_AGE * 2).unwrap();
    }
}

/// The generation of the archive, checked completely over a new connection.
#[track_caller]
fn check(archive: &Path) -> u64 {
    let (verdict, _) = read_reopening(archive, |archive| {
        archive.query_row("PRAGMA quick_check", [], |row| row.get::<_, String>(0))
    });
    assert_eq!(verdict, "ok");
    read_reopening(archive, fingerprint).0
}

#[test]
fn a_killed_rebuild_leaves_the_old_archive_or_the_new_one() {
    let ledgers = Place::new();
    let mut generations = [Generation::new(ledgers.directory(), 1), Generation::new(ledgers.directory(), 2)];
    let place = Place::new();
    build(&generations[0].ledger, place.archive());
    let times = [calibrate(&place, &generations, false), calibrate(&place, &generations, true)];
    build(&generations[0].ledger, place.archive());
    println!("alone and beside a reader: {times:?}");

    let mut random = Random::new(4);
    let rounds = 10 * scale();
    let (mut kills, mut while_publishing, mut left_new, mut tries) = (0, 0, 0, 0);
    while kills < rounds {
        tries += 1;
        assert!(tries < 6 * rounds, "most builds end before they are killed: {kills} of {tries}");
        let what = format!("try {tries}");
        let beside_reader = kills % 2 == 1;
        let times = times[usize::from(beside_reader)];
        let [old, new] = &generations;

        let reader = beside_reader.then(|| Reader::attach(place.archive()));
        let mut run = Run::start(full(&new.ledger, place.archive()), place.directory());
        // Two of five kills are aimed at publishing. Beside a reader, publishing begins with a second of waiting for
        // the reader, so most of these kills are aimed at its end.
        let publishing = kills % 5 >= 3 && run.wait_for_the_seal();
        let wait = if publishing && beside_reader && random.below(4) > 0 {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        let span = if publishing { times.publishing.saturating_sub(wait) } else { times.whole };
        sleep(wait + span.mul_f64(random.below(1_000) as f64 / 1_000.0));
        let killed = run.kill();

        let found = check(place.archive());
        assert!(
            found == old.fingerprint || found == new.fingerprint,
            "{what}: neither the old nor the new archive"
        );
        assert!(killed || found == new.fingerprint, "{what}: the build had ended");
        if let Some(reader) = reader {
            assert_eq!(reader.go_on(), found, "{what}");
            assert_eq!(check(place.archive()), found, "{what}: the reader's end changed the archive");
        }
        if killed {
            kills += 1;
            while_publishing += usize::from(publishing);
            left_new += usize::from(found == new.fingerprint);
        }
        // In one round the lock of the dead holder becomes old by itself.
        let grows_old = kills == 1;
        if !grows_old {
            age_lock(&place);
        }
        let started = Instant::now();
        build(&new.ledger, place.archive());
        assert!(started.elapsed() < STALE_AGE + Duration::from_secs(6), "{what}: {:?}", started.elapsed());
        assert_eq!(check(place.archive()), new.fingerprint, "{what}");
        assert_eq!(place.names(), ["archive.sqlite"], "{what}: something was left behind");
        generations.reverse();
    }
    println!(
        "{kills} kills in {tries} builds, {while_publishing} while publishing; {left_new} left the new archive"
    );
    assert!(
        while_publishing * 10 >= kills * 3,
        "too few kills in the publish phase: {while_publishing} of {kills}"
    );
}

#[test]
fn a_killed_tail_build_leaves_all_of_the_tail_or_nothing_of_it() {
    let (ledger, _) = ledgers::generated(Profile::Stamps, LEDGER_BYTES / 2, 3);
    let half = ledgers::last_line_end(&ledger[..ledger.len() / 2]);
    let place = Place::with_ledger(&ledger[..half]);
    place.full(&Options::default());
    let old_bytes = fs::read(place.archive()).unwrap();
    let old = check(place.archive());
    fs::write(&place.paths.ledger, &ledger).unwrap();
    let started = Instant::now();
    assert!(rebuild(place.directory(), &[]).output().unwrap().status.success());
    let end = started.elapsed();
    let new = check(place.archive());
    assert_ne!(old, new);

    let mut random = Random::new(5);
    let (mut kills, mut left_new) = (0, 0);
    while kills < 10 * scale() {
        fs::write(place.archive(), &old_bytes).unwrap();
        let run = Run::start(rebuild(place.directory(), &[]), place.directory());
        sleep(Duration::from_micros(random.below(end.as_micros() as u64)));
        kills += usize::from(run.kill());
        let found = check(place.archive());
        assert!(found == old || found == new, "a part of a tail");
        left_new += usize::from(found == new);
        // The lock is not the lock of an offline build.
        let _ = fs::remove_file(&place.paths.lock);
        place.tail(&Options::default());
        assert_eq!(check(place.archive()), new);
        assert_eq!(place.names(), ["archive.sqlite", "ledger.jsonl"]);
    }
    println!("{kills} kills, {left_new} left the new rows");
}

/// A canary: a fault that the tests above must catch.
#[test]
fn one_foreign_row_is_noticed() {
    let place = Place::with_ledger(&ledgers::generated(Profile::Mixed, 50_000, 1).0);
    place.full(&Options::default());
    let before = check(place.archive());
    for sql in [
        "UPDATE turns SET output_tokens = output_tokens + 1 WHERE rowid = 7",
        "UPDATE turns SET rowid = 1000000 WHERE rowid = 7",
        "DELETE FROM tool_calls WHERE rowid = 3",
        "UPDATE archive_state SET ledger_offset_bytes = ledger_offset_bytes - 1",
    ] {
        let bytes = fs::read(place.archive()).unwrap();
        place.tamper(sql);
        assert_ne!(check(place.archive()), before, "{sql}");
        fs::write(place.archive(), bytes).unwrap();
    }
    dump::assert_whole(place.archive());
}

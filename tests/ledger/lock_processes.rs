//! Locks between processes: `burn` against itself, and against a script that speaks the protocol like the reference.
//! Children are this test executable with a role in its environment.
//!
//! `LOCK_ROUNDS` (default 3) is the number of races; `LOCK_PROCESSES` (default 100) is the size of the counting crowd.
#![cfg(unix)]
#![allow(clippy::expect_used)]

use crate::common::processes;
use relayburn_ledger::lock::{LockError, with_lock};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

const ROLE: &str = "LOCK_TEST_ROLE";

/// A child process. Its messages are the lines that begin with `> `.
struct Actor {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Actor {
    fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    /// This executable in the given role: see `child`.
    fn ours(role: &[&dyn AsRef<std::ffi::OsStr>]) -> Self {
        let mut command = processes::alone(module_path!(), "child");
        command.env(
            ROLE,
            role.iter().map(|word| word.as_ref().to_str().unwrap()).collect::<Vec<_>>().join("\n"),
        );
        Self::start(command)
    }

    /// The script. Callers check `have_python` first.
    fn reference(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Self {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ledger/reference_lock.py")).args(arguments);
        Self::start(command)
    }

    fn next_words(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the child ended without a word");
            // libtest prints "test child ... " before the first message.
            if let Some((_, words)) = line.split_once("> ") {
                return words.trim_end().to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn have_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("python3 not found: the part played by the reference's protocol is skipped");
    }
    found
}

fn count_from_env(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |count| count.parse().unwrap())
}

fn say(words: &str) {
    println!("> {words}");
}

/// Not a test by itself: does nothing unless another test starts it with a role.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let role: Vec<&str> = role.split('\n').collect();
    match role[..] {
        ["hold", path, seconds] => {
            let outcome = with_lock(Path::new(path), |held| {
                say("took");
                sleep(Duration::from_secs_f64(seconds.parse().unwrap()));
                held.still_held()
            });
            say(&outcome.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
        }
        ["count", path, counter, times] => {
            for _ in 0..times.parse().unwrap() {
                let count = || with_lock(Path::new(path), |_| increment(Path::new(counter)));
                // A crowd can keep one process out for its whole eleven seconds, which is no fault here.
                while let Err(LockError::Held { .. }) = count() {}
            }
            say("done");
        }
        ["race", path, go, inside] => {
            say("ready");
            while !Path::new(go).exists() {
                std::hint::spin_loop();
            }
            with_lock(Path::new(path), |held| {
                fs::File::create_new(inside).expect("nobody else is inside");
                sleep(Duration::from_millis(10));
                held.still_held()?;
                fs::remove_file(inside).expect("still inside");
                Ok::<_, LockError>(())
            })
            .unwrap();
            say("done");
        }
        _ => panic!("unknown role {role:?}"),
    }
}

fn increment(counter: &Path) -> Result<(), LockError> {
    let number: u64 = fs::read_to_string(counter).unwrap().parse().unwrap();
    fs::write(counter, (number + 1).to_string()).unwrap();
    Ok(())
}

#[test]
fn many_waiters_take_over_one_orphan_once() {
    for _ in 0..count_from_env("LOCK_ROUNDS", 3) {
        let home = tempfile::tempdir().unwrap();
        let [path, go, inside] = ["archive.lock", "go", "inside"].map(|name| home.path().join(name));
        // The file stays open, so that its inode number is not used again.
        let orphan = fs::File::create(&path).unwrap();
        orphan.set_modified(SystemTime::now() - Duration::from_secs(6)).unwrap();
        let mut racers: Vec<Actor> = (0..20).map(|_| Actor::ours(&[&"race", &path, &go, &inside])).collect();
        for racer in &mut racers {
            assert_eq!(racer.next_words(), "ready");
        }
        fs::write(&go, "").unwrap();
        for racer in &mut racers {
            assert_eq!(racer.next_words(), "done");
        }
        let left: Vec<_> =
            fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["go"]);
    }
}

/// A holder works for fourteen seconds and is stopped for three of them. Fourteen seconds are longer than a lock may stay
/// untouched and longer than any waiter waits. Early waiters of both kinds give up; a late waiter gets the lock after
/// its holder.
#[test]
fn a_slow_holder_is_robbed_by_nobody() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.lock");
    let mut holder = Actor::ours(&[&"hold", &path, &"14"]);
    assert_eq!(holder.next_words(), "took");
    let held_inode = fs::metadata(&path).unwrap().ino();
    let started = Instant::now();
    let mut early = Actor::ours(&[&"hold", &path, &"0"]);
    let mut reference = have_python().then(|| Actor::reference(&[&"hold", &path, &"0"]));

    sleep(Duration::from_secs(4));
    holder.signal("-STOP");
    sleep(Duration::from_secs(2));
    let mut late = Actor::ours(&[&"hold", &path, &"0"]);
    sleep(Duration::from_secs(1));
    holder.signal("-CONT");

    let refusal = early.next_words();
    let waited = started.elapsed().as_secs_f64();
    assert!((10.0..12.0).contains(&waited), "gave up after {waited} s");
    let wanted = format!("held by a live process (process {}) through 90 attempts in 1", holder.process.id());
    assert!(refusal.contains(&wanted) && refusal.contains("archive.lock"), "{refusal}");
    assert!(refusal.contains("touched last 0.") || refusal.contains("touched last 1."), "{refusal}");
    if let Some(reference) = &mut reference {
        assert_eq!(reference.next_words(), "gave up");
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), held_inode);
    assert_eq!(holder.next_words(), "done");
    assert_eq!(late.next_words(), "took");
    assert_eq!(late.next_words(), "done");
}

/// After SIGKILL of the holder: ours follows ours, ours follows the reference, the reference follows ours.
#[test]
fn a_killed_holder_is_succeeded_within_six_seconds() {
    let home = tempfile::tempdir().unwrap();
    let python = have_python();
    let pairs = [(true, true), (false, true), (true, false)];
    let races = pairs.iter().enumerate().filter(|(_, pair)| python || **pair == (true, true));
    std::thread::scope(|scope| {
        for (number, &(ours_first, ours_then)) in races {
            let path = home.path().join(format!("{number}.lock"));
            scope.spawn(move || {
                let start = |ours: bool, seconds: &str| match ours {
                    true => Actor::ours(&[&"hold", &path, &seconds]),
                    false => Actor::reference(&[&"hold", &path, &seconds]),
                };
                let mut holder = start(ours_first, "60");
                assert_eq!(holder.next_words(), "took");
                sleep(Duration::from_millis(1700));
                holder.kill();
                let killed = Instant::now();
                let mut successor = start(ours_then, "0");
                assert_eq!(successor.next_words(), "took");
                let elapsed = killed.elapsed().as_secs_f64();
                // The reference never touches its lock, so its orphan was already 1.7 s old.
                let earliest = if ours_first { 3.5 } else { 2.5 };
                assert!((earliest..6.0).contains(&elapsed), "taken over after {elapsed} s, pair {number}");
                assert_eq!(successor.next_words(), "done");
                assert!(!path.exists());
            });
        }
    });
}

#[test]
fn a_crowd_of_processes_loses_no_count() {
    let home = tempfile::tempdir().unwrap();
    let (path, counter) = (home.path().join("cursors.lock"), home.path().join("counter"));
    fs::write(&counter, "0").unwrap();
    let processes = count_from_env("LOCK_PROCESSES", 100);
    let mut crowd: Vec<Actor> =
        (0..processes).map(|_| Actor::ours(&[&"count", &path, &counter, &"3"])).collect();
    let foreign = if have_python() { 5 } else { 0 };
    crowd.extend((0..foreign).map(|_| Actor::reference(&[&"count", &path, &counter, &"3"])));
    for actor in &mut crowd {
        assert_eq!(actor.next_words(), "done");
    }
    assert_eq!(fs::read_to_string(&counter).unwrap(), ((processes + foreign) * 3).to_string());
    assert!(!path.exists());
}

//! Locks between processes: `burn` against itself, and against a script that speaks the protocol like the reference.
//! Children are this test executable in a role.
//!
//! `LOCK_ROUNDS` (default 3) is the number of races; `LOCK_PROCESSES` (default 100) is the size of the counting crowd.
#![cfg(unix)]
#![allow(clippy::expect_used)]

use crate::common::processes::{self, Peer, have_python};
use relayburn_ledger::lock::{LockError, with_lock};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// The script in a role. Callers check `have_python` first.
fn reference(role: &[&dyn AsRef<std::ffi::OsStr>]) -> Peer {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ledger/reference_lock.py");
    Peer::spawn(Command::new("python3").arg(script).args(role))
}

fn ours(role: &[&dyn AsRef<std::ffi::OsStr>]) -> Peer {
    Peer::start(module_path!(), role)
}

fn count_from_env(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |count| count.parse().unwrap())
}

#[test]
#[ignore = "runs as another process of the other tests, which start it: cargo test --test ledger lock_processes"]
fn role() {
    let Some(role) = processes::role_played() else { return };
    let role: Vec<&str> = role.iter().map(String::as_str).collect();
    match role[..] {
        ["hold", path, seconds] => {
            let outcome = with_lock(Path::new(path), |held| {
                processes::say("took");
                sleep(Duration::from_secs_f64(seconds.parse().unwrap()));
                held.still_held()
            });
            processes::say(&outcome.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
        }
        ["count", path, counter, times] => {
            for _ in 0..times.parse().unwrap() {
                let count = || with_lock(Path::new(path), |_| increment(Path::new(counter)));
                // A crowd can keep one process out for its whole eleven seconds, which is no fault here.
                while let Err(LockError::Held { .. }) = count() {}
            }
            processes::say("done");
        }
        ["race", path, go, inside] => {
            processes::say("ready");
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
            processes::say("done");
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
        let mut racers: Vec<Peer> = (0..20).map(|_| ours(&[&"race", &path, &go, &inside])).collect();
        for racer in &mut racers {
            assert_eq!(racer.hear(), "ready");
        }
        fs::write(&go, "").unwrap();
        for racer in &mut racers {
            assert_eq!(racer.hear(), "done");
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
    let mut holder = ours(&[&"hold", &path, &"14"]);
    assert_eq!(holder.hear(), "took");
    let content = fs::read_to_string(&path).unwrap();
    let holder_id = content.split(' ').nth(1).unwrap();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, holder_id]).status().unwrap().success());
    };
    let held_inode = fs::metadata(&path).unwrap().ino();
    let started = Instant::now();
    let mut early = ours(&[&"hold", &path, &"0"]);
    let mut reference = have_python().then(|| reference(&[&"hold", &path, &"0"]));

    sleep(Duration::from_secs(4));
    signal("-STOP");
    sleep(Duration::from_secs(2));
    let mut late = ours(&[&"hold", &path, &"0"]);
    sleep(Duration::from_secs(1));
    signal("-CONT");

    let refusal = early.hear();
    let waited = started.elapsed().as_secs_f64();
    assert!((10.0..12.0).contains(&waited), "gave up after {waited} s");
    let wanted = format!("held by a live process (process {holder_id}) through 90 attempts in 1");
    assert!(refusal.contains(&wanted) && refusal.contains("archive.lock"), "{refusal}");
    assert!(refusal.contains("touched last 0.") || refusal.contains("touched last 1."), "{refusal}");
    if let Some(reference) = &mut reference {
        assert_eq!(reference.hear(), "gave up");
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), held_inode);
    assert_eq!(holder.hear(), "done");
    assert_eq!(late.hear(), "took");
    assert_eq!(late.hear(), "done");
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
                let start = |is_ours: bool, seconds: &str| match is_ours {
                    true => ours(&[&"hold", &path, &seconds]),
                    false => reference(&[&"hold", &path, &seconds]),
                };
                let mut holder = start(ours_first, "60");
                assert_eq!(holder.hear(), "took");
                sleep(Duration::from_millis(1700));
                // Kills it.
                drop(holder);
                let killed = Instant::now();
                let mut successor = start(ours_then, "0");
                assert_eq!(successor.hear(), "took");
                let elapsed = killed.elapsed().as_secs_f64();
                // The reference never touches its lock, so its orphan was already 1.7 s old.
                let earliest = if ours_first { 3.5 } else { 2.5 };
                assert!((earliest..6.0).contains(&elapsed), "taken over after {elapsed} s, pair {number}");
                assert_eq!(successor.hear(), "done");
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
    let mut crowd: Vec<Peer> = (0..processes).map(|_| ours(&[&"count", &path, &counter, &"3"])).collect();
    let foreign = if have_python() { 5 } else { 0 };
    crowd.extend((0..foreign).map(|_| reference(&[&"count", &path, &counter, &"3"])));
    for actor in &mut crowd {
        assert_eq!(actor.hear(), "done");
    }
    assert_eq!(fs::read_to_string(&counter).unwrap(), ((processes + foreign) * 3).to_string());
    assert!(!path.exists());
}

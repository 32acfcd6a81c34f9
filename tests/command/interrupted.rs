//! SIGINT and SIGTERM end every command within a second: the exit code shows the signal, and the old archive stays
//! complete.
#![cfg(unix)]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::processes::with_signals;
use relayburn_ledger::archive::{self, ArchiveError, Options, Paths, Unobserved};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use relayburn_ledger::lock::{LockError, with_lock};

/// A second, and the time that a busy machine needs to start and end a process.
const HEARD: Duration = Duration::from_millis(1900);

fn burn(home: &Path, words: &[&str]) -> Child {
    with_signals()
        .env("RELAYBURN_HOME", home)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Sends `signal` and waits. Returns the exit code as in a shell, the output, and the duration.
fn stop(child: Child, signal: i32) -> (i32, String, Duration) {
    let started = Instant::now();
    // SAFETY: a call without pointers, for a child that was not waited for yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
    (code.unwrap(), String::from_utf8_lossy(&output.stderr).into_owned(), started.elapsed())
}

fn generate(home: &Path, size: &str) {
    let ledger = home.join("ledger.jsonl");
    let status = with_signals()
        .args(["dev", "generate-ledger", "--size", size])
        .arg(&ledger)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_command_that_waits_for_a_lock_hears_the_signal() {
    let home = tempfile::tempdir().unwrap();
    generate(home.path(), "20KB");
    let paths = Paths::of_home(&Home::at(home.path()));
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130)] {
        for words in [
            &["state", "rebuild", "archive"][..],
            &["state", "rebuild", "archive", "--full"],
            &["state", "rebuild", "archive", "--vacuum"],
            &["state", "rebuild", "index"],
        ] {
            let lock = if words.contains(&"index") {
                home.path().join("ledger-index.lock")
            } else {
                paths.lock.clone()
            };
            let (stopped, said, took) = with_lock::<_, LockError>(&lock, |_| {
                let child = burn(home.path(), words);
                // After the fast attempts, during the waits of a quarter of a second.
                std::thread::sleep(Duration::from_millis(1300));
                Ok(stop(child, signal))
            })
            .unwrap();
            assert_eq!(stopped, code, "{words:?}: {said}");
            assert!(took < HEARD, "{words:?}: {took:?}");
        }
    }
}

/// Each of these holds `ledger.lock` while it waits for the lock of the index.
#[test]
fn a_command_that_holds_a_lock_lets_go_of_it_before_it_ends() {
    let home = tempfile::tempdir().unwrap();
    generate(home.path(), "20KB");
    assert!(burn(home.path(), &["state", "rebuild", "archive"]).wait().unwrap().success());
    let ledger = std::fs::read(home.path().join("ledger.jsonl")).unwrap();
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130)] {
        for words in [
            &["ledger", "append", "--kind", "compactions"][..],
            &["state", "reset", "--force"],
            &["state", "rebuild", "index"],
            &["state", "rebuild", "all"],
        ] {
            let index_lock = home.path().join("ledger-index.lock");
            let (stopped, said, took) = with_lock::<_, LockError>(&index_lock, |_| {
                let mut child = with_signals()
                    .env("RELAYBURN_HOME", home.path())
                    .args(words)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let line = br#"{"source":"codex","sessionId":"s","ts":"2026-04-20T00:00:00.000Z"}"#;
                // Only one of them reads it.
                let _ = child.stdin.take().unwrap().write_all(line);
                std::thread::sleep(Duration::from_millis(1300));
                assert!(home.path().join("ledger.lock").exists(), "{words:?}");
                Ok(stop(child, signal))
            })
            .unwrap();
            assert_eq!(stopped, code, "{words:?}: {said}");
            assert!(took < HEARD && !said.contains("unfinished"), "{words:?}: {took:?} {said}");
            let left = std::fs::read_dir(home.path()).unwrap();
            let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> =
                left.filter(|name| name.ends_with(".lock") || name.ends_with(".rob")).collect();
            assert!(left.is_empty(), "{words:?}: {left:?}");
            assert_eq!(std::fs::read(home.path().join("ledger.jsonl")).unwrap(), ledger, "{words:?}");
            assert!(home.path().join("archive.sqlite").exists(), "{words:?}");
        }
    }
}

#[test]
fn commands_that_hold_no_lock_end_at_once() {
    let home = tempfile::tempdir().unwrap();
    for words in [
        &["ledger", "append", "--kind", "turns"][..],
        &["session", "append", "s"],
        &["journal", "append", "j"],
    ] {
        let mut child = with_signals()
            .env("RELAYBURN_HOME", home.path())
            .current_dir(home.path())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        std::thread::sleep(Duration::from_millis(500));
        if let Some(status) = child.try_wait().unwrap() {
            panic!(
                "{words:?}: {status} {}",
                String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr)
            );
        }
        let (code, said, took) = stop(child, libc::SIGTERM);
        drop(stdin);
        assert_eq!(code, 143, "{words:?}: {said}");
        assert!(took < HEARD, "{words:?}: {took:?}");
    }
}

#[test]
fn an_interrupted_vacuum_leaves_the_archive_and_no_lock() {
    let home = tempfile::tempdir().unwrap();
    generate(home.path(), "8MB");
    let paths = Paths::of_home(&Home::at(home.path()));
    archive::rebuild_full(&paths, &Options::default(), &mut Unobserved).unwrap();
    let interrupt = Interrupt::new();
    interrupt.request();
    let error = archive::vacuum(&paths, &interrupt).unwrap_err();
    assert!(matches!(error, ArchiveError::Interrupted), "{error}");
    let words = ["state", "rebuild", "archive", "--vacuum"];
    let started = Instant::now();
    assert!(burn(home.path(), &words).wait().unwrap().success());
    let whole = started.elapsed();
    for part in [30, 60, 80] {
        let child = burn(home.path(), &words);
        std::thread::sleep(whole * part / 100);
        let (code, said, took) = stop(child, libc::SIGTERM);
        assert!(code == 143 || code == 0, "{code}: {said}");
        assert!(took < HEARD, "at {part} %: {took:?}");
        assert!(!paths.lock.exists() || said.contains("next command"), "{said}");
        let archive = rusqlite::Connection::open(&paths.archive).unwrap();
        let check: String = archive.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}

#[test]
fn an_append_that_waits_for_a_lock_hears_the_signal_and_lets_go_of_the_other() {
    let line = br#"{"source":"codex","sessionId":"s","ts":"2026-04-20T00:00:00.000Z"}"#;
    let content = br#"{"sessionId":"s","text":"t"}"#;
    for (lock, kind, input) in [
        ("ledger.lock", "compactions", &line[..]),
        ("ledger-index.lock", "compactions", line),
        ("content.s.lock", "content", content),
    ] {
        for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130)] {
            let home = tempfile::tempdir().unwrap();
            let (stopped, said, took) = with_lock::<_, LockError>(&home.path().join(lock), |_| {
                let mut child = with_signals()
                    .env("RELAYBURN_HOME", home.path())
                    .args(["ledger", "append", "--kind", kind])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                child.stdin.take().unwrap().write_all(input).unwrap();
                std::thread::sleep(Duration::from_millis(1300));
                Ok(stop(child, signal))
            })
            .unwrap();
            assert_eq!(stopped, code, "{lock}: {said}");
            assert!(took < HEARD && said.contains("interrupted while waiting"), "{lock}: {took:?} {said}");
            let locks = std::fs::read_dir(home.path()).unwrap();
            let locks: Vec<_> =
                locks.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            assert!(!locks.iter().any(|name| name.ends_with(".lock")), "{lock}: {locks:?}");
        }
    }
}

#[test]
fn an_ingestor_that_waits_for_the_ledger_s_lock_leaves_the_lines_queued() {
    let home = tempfile::tempdir().unwrap();
    let mut queued = with_signals()
        .env("RELAYBURN_HOME", home.path())
        .args(["ledger", "append", "--via-journal", "--kind", "compactions"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let line = br#"{"source":"codex","sessionId":"s","ts":"2026-04-20T00:00:00.000Z"}"#;
    queued.stdin.take().unwrap().write_all(line).unwrap();
    assert!(queued.wait().unwrap().success());
    for (words, signal, code) in [
        (&["journal", "drain"][..], libc::SIGTERM, 143),
        (&["journal", "drain"], libc::SIGINT, 130),
        // A signal is the ordinary end of this command.
        (&["journal", "drain", "--follow"], libc::SIGTERM, 0),
    ] {
        let (stopped, said, took) = with_lock::<_, LockError>(&home.path().join("ledger.lock"), |_| {
            let child = burn(home.path(), words);
            std::thread::sleep(Duration::from_millis(1300));
            Ok(stop(child, signal))
        })
        .unwrap();
        assert_eq!(stopped, code, "{words:?}: {said}");
        assert!(took < HEARD && !said.contains("unfinished"), "{words:?}: {took:?} {said}");
        assert_eq!(said.contains("they stay queued"), code != 0, "{said}");
    }
    assert!(burn(home.path(), &["journal", "drain"]).wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(home.path().join("ledger.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn a_build_that_waits_for_another_writer_of_the_archive_ends_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    generate(home.path(), "20KB");
    let paths = Paths::of_home(&Home::at(home.path()));
    archive::rebuild_full(&paths, &Options::default(), &mut Unobserved).unwrap();
    let writer = rusqlite::Connection::open(&paths.archive).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let child = burn(home.path(), &["state", "rebuild", "archive"]);
    std::thread::sleep(Duration::from_millis(700));
    let (code, said, took) = stop(child, libc::SIGTERM);
    assert_eq!(code, 143, "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert!(took < HEARD, "{took:?}");
    assert!(!paths.lock.exists(), "the lock is left until it is stale");
}

#[test]
fn a_build_hears_the_signal_in_every_phase_and_leaves_the_archive_whole() {
    let home = tempfile::tempdir().unwrap();
    generate(home.path(), "24MB");
    let paths = Paths::of_home(&Home::at(home.path()));
    let turns = || -> i64 {
        let archive = rusqlite::Connection::open(&paths.archive).unwrap();
        let check: String = archive.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        archive.query_row("SELECT count(*) FROM turns", [], |row| row.get(0)).unwrap()
    };
    for loader in ["bulk", "insert"] {
        let words = ["state", "rebuild", "archive", "--full", "--loader", loader];
        let started = Instant::now();
        assert!(burn(home.path(), &words).wait().unwrap().success());
        let (whole, rows) = (started.elapsed(), turns());
        assert!(rows > 0);
        let mut interrupted = 0;
        for part in [20, 45, 60, 75, 90] {
            let child = burn(home.path(), &words);
            std::thread::sleep(whole * part / 100);
            let (code, said, took) = stop(child, libc::SIGTERM);
            assert!(code == 143 || code == 0, "{code}: {said}");
            assert!(took < HEARD, "{loader} at {part} %: {took:?}");
            interrupted += u32::from(code == 143);
            assert_eq!(turns(), rows);
            let left = std::fs::read_dir(home.path()).unwrap();
            let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> = left.filter(|name| name.contains("rebuild-")).collect();
            // A build that was ended by force leaves its file to the next build.
            assert!(left.is_empty() || said.contains("next command"), "{left:?} {said}");
        }
        assert!(interrupted >= 2, "{loader}");
    }
}

#[test]
fn a_library_s_build_ends_when_its_flag_is_set() {
    let home = tempfile::tempdir().unwrap();
    generate(home.path(), "20KB");
    let paths = Paths::of_home(&Home::at(home.path()));
    let interrupt = Interrupt::new();
    let options = Options { interrupt: interrupt.clone(), ..Options::default() };
    archive::rebuild_full(&paths, &options, &mut Unobserved).unwrap();
    interrupt.request();
    for loader in [archive::Load::Bulk, archive::Load::Insert] {
        let options = Options { load: loader, ..options.clone() };
        let error = archive::rebuild_full(&paths, &options, &mut Unobserved).unwrap_err();
        assert!(matches!(error, ArchiveError::Interrupted), "{error}");
    }
    let error = with_lock::<_, ArchiveError>(&paths.lock, |_| {
        std::thread::scope(|scope| {
            let build = scope.spawn(|| archive::build_tail(&paths, &options, &mut Unobserved));
            build.join().unwrap()
        })
    })
    .unwrap_err();
    assert!(matches!(error, ArchiveError::Lock(LockError::Interrupted { .. })), "{error}");
}

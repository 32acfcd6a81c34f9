//! The lock within one process: re-entrance, passing on, letting go, losing it, and every file operation failing.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::disk::faults::each_failure;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::SystemTime;

thread_local! {
    /// How far the clock of this machine, as this thread reads it, is ahead of that of the file system, in seconds.
    static AHEAD_S: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

pub(super) fn skewed(now: SystemTime) -> SystemTime {
    let ahead = AHEAD_S.get();
    let by = Duration::from_secs(ahead.unsigned_abs());
    if ahead < 0 { now - by } else { now + by }
}

fn home() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("ledger.lock");
    (home, path)
}

fn orphan(path: &Path, age: Duration) {
    fs::write(path, "").unwrap();
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_lock_is_a_file_while_it_is_held() {
    let (_home, path) = home();
    let answer = with_lock(&path, |held| {
        assert_eq!(file::holder_pid(&path), Some(std::process::id()));
        assert_eq!(disk::metadata(&path).unwrap().mode, 0o600);
        held.still_held()?;
        Ok::<_, LockError>(42)
    });
    assert_eq!(answer.unwrap(), 42);
    assert!(!path.exists());
}

#[test]
fn an_error_and_a_panic_let_go() {
    let (home, path) = home();
    let failed: Result<(), Box<dyn std::error::Error>> = with_lock(&path, |_| Err("no".into()));
    assert_eq!(failed.unwrap_err().to_string(), "no");
    let panicked =
        catch_unwind(AssertUnwindSafe(|| with_lock(&path, |_| -> Result<(), LockError> { panic!() })));
    assert!(panicked.is_err());
    assert_eq!(names(home.path()), BTreeSet::new());
    assert!(HELD_BY_THREAD.with_borrow(Vec::is_empty));
}

#[test]
fn the_same_thread_goes_straight_through_and_lets_go_once() {
    let (home, path) = home();
    let other_spelling =
        home.path().join(".").join("..").join(home.path().file_name().unwrap()).join("ledger.lock");
    with_lock(&path, |outer| {
        let started = Instant::now();
        with_lock(&path, |_| Ok::<_, LockError>(()))?;
        let inner = with_lock(&other_spelling, |inner| Ok::<_, LockError>(inner.path().to_owned()))?;
        assert_eq!(inner, outer.path());
        assert!(started.elapsed() < Duration::from_secs(1));
        let other_lock = home.path().join("ledger-index.lock");
        assert!(with_lock(&other_lock, |_| Ok::<_, LockError>(other_lock.exists()))?);
        assert!(!other_lock.exists());
        outer.still_held()
    })
    .unwrap();
    assert!(!path.exists());
}

#[test]
fn another_thread_waits_unless_the_lock_is_passed_on() {
    let (_home, path) = home();
    with_lock(&path, |held| {
        std::thread::scope(|scope| {
            let passed_on = scope.spawn(|| held.enter(|| with_lock(&path, |held| held.still_held())));
            passed_on.join().unwrap().unwrap();
            let (let_go, waits) = std::sync::mpsc::channel::<()>();
            let path = path.clone();
            let waiter = std::thread::spawn(move || {
                let was_waiting = waits.try_recv().is_err();
                with_lock(&path, |_| Ok::<_, LockError>(())).unwrap();
                assert!(was_waiting && waits.recv().is_ok(), "it got the lock before its holder let go");
            });
            std::thread::sleep(Duration::from_millis(200));
            assert!(!waiter.is_finished());
            let_go.send(()).unwrap();
            Ok::<_, LockError>(waiter)
        })
    })
    .unwrap()
    .join()
    .unwrap();
}

#[test]
fn a_clone_that_outlives_the_work_keeps_the_lock() {
    let (_home, path) = home();
    let clone = with_lock(&path, |held| Ok::<_, LockError>(held.clone())).unwrap();
    assert!(path.exists());
    clone.still_held().unwrap();
    drop(clone);
    assert!(!path.exists());
}

#[test]
fn an_orphan_is_taken_over_at_once_and_nothing_is_left_behind() {
    let (home, path) = home();
    orphan(&path, STALE_AGE + Duration::from_millis(500));
    fs::write(home.path().join("ledger.lock.rob"), "left by a killed process").unwrap();
    let started = Instant::now();
    with_lock(&path, |held| held.still_held()).unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(names(home.path()), BTreeSet::new());
}

#[test]
fn a_symbolic_link_in_place_of_the_lock_is_not_followed() {
    let (home, path) = home();
    let target = home.path().join("target");
    fs::write(&target, "precious").unwrap();
    fs::File::open(&target).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    // The link itself is fresh; its target's age must not count.
    assert!(matches!(Acquisition::new(&path, Caller::Thread).attempt(), Ok(LockAttempt::Wait(FAST_WAIT))));
    assert_eq!(fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_takeover_spares_what_is_no_longer_the_orphan_it_saw() {
    let (home, path) = home();
    orphan(&path, STALE_AGE * 2);
    let seen = disk::metadata(&path).unwrap().identity;
    fs::rename(&path, home.path().join("kept, so that its inode is not given away")).unwrap();
    orphan(&path, STALE_AGE * 2);
    assert!(matches!(file::take_over(&path, seen, Clock::of(&path)), Ok(true)));
    assert!(path.exists(), "a successor was deleted");
    let seen = disk::metadata(&path).unwrap().identity;
    fs::File::open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    assert!(matches!(file::take_over(&path, seen, Clock::of(&path)), Ok(true)));
    assert!(path.exists(), "a holder that came to life again was robbed");
}

/// Four threads fall upon one orphan at the same instant, again and again; whoever has the lock must keep it.
#[test]
fn racing_takeovers_never_delete_a_fresh_lock() {
    let (home, path) = home();
    let start = std::sync::Barrier::new(4);
    let (inside, violations) = (AtomicU32::new(0), AtomicU32::new(0));
    let take = || loop {
        match Acquisition::new(&path, Caller::Thread).attempt() {
            Ok(LockAttempt::Took(held)) => break Ok(held),
            Ok(LockAttempt::Wait(_)) => std::thread::yield_now(),
            Err(error) => break Err(error),
        }
    };
    let work = |held: Held| {
        let alone = inside.fetch_add(1, SeqCst) == 0;
        std::thread::yield_now();
        let kept = held.still_held().is_ok();
        inside.fetch_sub(1, SeqCst);
        alone && kept
    };
    let race = |leads: bool| {
        for _ in 0..2_000 {
            if leads {
                orphan(&path, STALE_AGE * 2);
            }
            start.wait();
            // Counted, not asserted: a thread that panicked would leave the others at the barrier.
            if !take().is_ok_and(work) {
                violations.fetch_add(1, SeqCst);
            }
            start.wait();
        }
    };
    std::thread::scope(|scope| {
        for leads in [true, false, false, false] {
            let race = &race;
            scope.spawn(move || race(leads));
        }
    });
    assert_eq!(violations.into_inner(), 0);
    assert_eq!(names(home.path()), BTreeSet::new());
}

#[test]
fn one_takeover_at_a_time() {
    let (home, path) = home();
    orphan(&path, STALE_AGE * 2);
    let seen = disk::metadata(&path).unwrap().identity;
    let side_path = home.path().join("ledger.lock.rob");
    let other = fs::File::create(&side_path).unwrap();
    other.lock().unwrap();
    assert!(matches!(file::take_over(&path, seen, Clock::of(&path)), Ok(false)));
    assert!(path.exists() && side_path.exists());
    drop(other);
    assert!(matches!(file::take_over(&path, seen, Clock::of(&path)), Ok(true)));
    assert!(!path.exists() && !side_path.exists());
}

/// Whoever lets go looks at the file and deletes it under the side lock: what is between the two cannot be taken over.
#[test]
fn letting_go_waits_for_a_takeover_under_way_and_spares_the_successor() {
    let (home, path) = home();
    let side_path = home.path().join("ledger.lock.rob");
    let held = with_lock(&path, |held| Ok::<_, LockError>(held.clone())).unwrap();
    let robber = fs::File::create(&side_path).unwrap();
    robber.lock().unwrap();
    let releasing = std::thread::spawn(move || drop(held));
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        path.exists() && !releasing.is_finished(),
        "deleted while another process was about to delete it"
    );
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a successor").unwrap();
    fs::remove_file(&side_path).unwrap();
    drop(robber);
    releasing.join().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"a successor");
}

#[test]
fn a_lock_that_takes_long_to_let_go_is_touched_to_the_end() {
    let (home, path) = home();
    let held = with_lock(&path, |held| Ok::<_, LockError>(held.clone())).unwrap();
    let robber = fs::File::create(home.path().join("ledger.lock.rob")).unwrap();
    robber.lock().unwrap();
    std::thread::sleep(HEARTBEAT / 2);
    let modified = || disk::metadata(&path).unwrap().modified;
    let before = modified();
    let releasing = std::thread::spawn(move || drop(held));
    while !releasing.is_finished() && modified() == before {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(modified() > before, "no heartbeat while it was let go");
    releasing.join().unwrap();
    // The takeover did not end: what it is about to delete is left to it.
    assert!(path.exists());
}

#[test]
fn a_side_file_that_cannot_be_opened_keeps_no_orphan_alive() {
    for what in ["a named pipe", "a directory", "a link"] {
        let (home, path) = home();
        let side_path = home.path().join("ledger.lock.rob");
        match what {
            "a directory" => fs::create_dir(&side_path).unwrap(),
            "a link" => std::os::unix::fs::symlink("nowhere", &side_path).unwrap(),
            _ => assert!(std::process::Command::new("mkfifo").arg(&side_path).status().unwrap().success()),
        }
        orphan(&path, STALE_AGE * 2);
        let started = Instant::now();
        with_lock(&path, |held| held.still_held()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{what}");
        assert_eq!(names(home.path()), BTreeSet::from(["ledger.lock.rob".to_owned()]), "{what}");
    }
}

/// Two hosts share a file system, and their clocks differ by an hour either way.
#[test]
fn the_age_of_a_lock_is_told_by_the_clock_of_its_file_system() {
    let (_home, path) = home();
    for ahead_s in [3600, -3600] {
        AHEAD_S.set(ahead_s);
        fs::write(&path, "").unwrap();
        let mut waiter = Acquisition::new(&path, Caller::Thread);
        assert!(matches!(waiter.attempt(), Ok(LockAttempt::Wait(FAST_WAIT))), "a fresh lock, {ahead_s} s");
        waiter.attempts = ATTEMPTS - 1;
        let text = waiter.attempt().err().unwrap().to_string();
        assert!(text.contains("a live process") && text.contains("touched last 0."), "{text}");
        orphan(&path, STALE_AGE + HEARTBEAT);
        with_lock(&path, |held| {
            held.still_held()?;
            // The holder's touches are dated by that clock, too.
            fs::File::open(&path).unwrap().set_modified(SystemTime::now() - STALE_AGE * 2).unwrap();
            held.0.file.touch()?;
            let modified = disk::metadata(&path)?.modified;
            assert!(
                SystemTime::now().duration_since(modified).unwrap_or_default() < HEARTBEAT,
                "{ahead_s} s"
            );
            assert!(modified < SystemTime::now() + HEARTBEAT, "{ahead_s} s");
            held.still_held()
        })
        .unwrap();
        assert!(!path.exists());
    }
}

#[test]
fn losing_the_lock_is_noticed_and_the_successor_is_spared() {
    let (_home, path) = home();
    with_lock(&path, |held| {
        fs::remove_file(&path).unwrap();
        assert!(matches!(held.still_held(), Err(LockError::Lost { .. })));
        fs::write(&path, "a successor").unwrap();
        assert!(matches!(held.still_held(), Err(LockError::Lost { .. })));
        Ok::<_, LockError>(())
    })
    .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"a successor");
}

#[test]
fn a_file_with_a_foreign_token_is_not_ours() {
    let (_home, path) = home();
    with_lock(&path, |held| {
        fs::write(&path, "pid 1 token of another machine that got the same inode number\n").unwrap();
        assert!(matches!(held.still_held(), Err(LockError::Lost { .. })));
        Ok::<_, LockError>(())
    })
    .unwrap();
    assert!(path.exists());
}

/// A holder that was stopped wakes to a stale file of its own: it must not let go while a takeover is under way.
#[test]
fn a_stale_holder_waits_for_a_takeover_under_way() {
    let (home, path) = home();
    let side = fs::File::create(home.path().join("ledger.lock.rob")).unwrap();
    with_lock(&path, |held| {
        fs::File::open(&path).unwrap().set_modified(SystemTime::now() - STALE_AGE * 2).unwrap();
        side.lock().unwrap();
        let robber = std::thread::spawn({
            let path = path.clone();
            move || {
                std::thread::sleep(Duration::from_millis(100));
                fs::remove_file(&path).unwrap();
                drop(side);
            }
        });
        assert!(matches!(held.still_held(), Err(LockError::Lost { .. })));
        robber.join().unwrap();
        Ok::<_, LockError>(())
    })
    .unwrap();
}

#[test]
fn a_waiter_that_was_away_gives_the_holder_time_to_show_itself() {
    let (_home, path) = home();
    let mut waiter = Acquisition::new(&path, Caller::Thread);
    fs::write(&path, "").unwrap();
    assert!(matches!(waiter.attempt(), Ok(LockAttempt::Wait(FAST_WAIT))));
    // As after ten seconds of sleep: the file has aged, and so has the wait.
    fs::File::open(&path).unwrap().set_modified(SystemTime::now() - STALE_AGE * 2).unwrap();
    waiter.expected -= STALE_AGE * 2;
    assert!(matches!(waiter.attempt(), Ok(LockAttempt::Wait(FAST_WAIT))));
    std::thread::sleep(GRACE);
    waiter.expected = SystemTime::now();
    assert!(matches!(waiter.attempt(), Ok(LockAttempt::Wait(Duration::ZERO))));
    assert!(matches!(waiter.attempt(), Ok(LockAttempt::Took(_))));
}

#[test]
fn a_lock_in_a_missing_directory_fails_at_once() {
    let started = Instant::now();
    let failed = with_lock(Path::new("/nonexistent/x.lock"), |_| Ok::<_, LockError>(())).unwrap_err();
    let text = failed.to_string();
    assert!(text.contains("cannot create /nonexistent/x.lock"), "{text}");
    assert!(text.contains("directory /nonexistent does not exist: create it"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_lock_dated_in_the_future_is_told_from_a_live_holder() {
    let (_home, path) = home();
    fs::File::create(&path).unwrap().set_modified(SystemTime::now() + Duration::from_millis(99_500)).unwrap();
    let mut waiter = Acquisition::new(&path, Caller::Thread);
    waiter.attempts = ATTEMPTS - 1;
    let failed = waiter.attempt().err().unwrap();
    let text = failed.to_string();
    assert!(matches!(failed, LockError::Held { .. }), "{text}");
    assert!(text.contains("held by somebody") && text.contains("dated 99 s ahead of the clock"), "{text}");
    assert!(text.contains("delete it by hand") && path.exists(), "{text}");
}

#[test]
fn an_orphan_that_cannot_be_deleted_is_told_from_a_live_holder() {
    let (_home, path) = home();
    fs::create_dir(&path).unwrap();
    fs::File::open(&path).unwrap().set_modified(SystemTime::now() - STALE_AGE * 2).unwrap();
    let mut waiter = Acquisition::new(&path, Caller::Thread);
    waiter.attempts = ATTEMPTS - 2;
    assert!(matches!(waiter.attempt(), Ok(LockAttempt::Wait(SLOW_WAIT))));
    let failed = waiter.attempt().err().unwrap();
    let LockError::Stale { attempts: ATTEMPTS, obstacle, .. } = &failed else { panic!("{failed}") };
    assert!(matches!(**obstacle, Obstacle::Refused(_)));
    let text = failed.to_string();
    assert!(text.contains("looks stale, last touched 10.") && text.contains("delete it by hand"), "{text}");
}

#[test]
fn every_failing_operation_leaves_a_lock_that_can_be_taken() {
    each_failure(|harness| {
        let (_home, path) = home();
        orphan(&path, STALE_AGE * 2);
        let outcome = harness.run(|| with_lock(&path, |held| held.still_held()));
        if let Err(error) = &outcome {
            assert!(error.to_string().contains("ledger.lock"), "{error}");
        }
        if path.exists() {
            // As good as an orphan: seconds later it can be taken over.
            orphan(&path, STALE_AGE * 2);
        }
        with_lock(&path, |held| held.still_held()).unwrap();
    });
}

#[cfg(feature = "async")]
mod tasks {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn a_task_goes_straight_through_and_what_it_spawns_does_not() {
        let (_home, path) = home();
        runtime().block_on(async {
            with_lock_async(&path, |outer| {
                let path = path.clone();
                async move {
                    tokio::task::yield_now().await;
                    with_lock_async(&path, |_| async { Ok::<_, LockError>(()) }).await?;
                    with_lock(&path, |inner| inner.still_held())?;
                    let passed_on = tokio::spawn({
                        let (path, outer) = (path.clone(), outer.clone());
                        async move {
                            let work = with_lock_async(&path, |held| async move { held.still_held() });
                            outer.enter_async(work).await
                        }
                    });
                    passed_on.await.unwrap()?;
                    let alone = tokio::spawn(async move {
                        let waiting = with_lock_async(&path, |_| async { Ok::<_, LockError>(()) });
                        tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err()
                    });
                    assert!(alone.await.unwrap(), "a spawned task inherited the lock");
                    Ok::<_, LockError>(())
                }
            })
            .await
            .unwrap();
        });
        assert!(!path.exists());
    }

    #[test]
    fn dropping_the_future_lets_go() {
        let (_home, path) = home();
        runtime().block_on(async {
            let forever = with_lock_async(&path, |_| std::future::pending::<Result<(), LockError>>());
            assert!(tokio::time::timeout(Duration::from_millis(100), forever).await.is_err());
        });
        assert!(!path.exists());
    }

    #[test]
    fn tasks_exclude_each_other_while_they_yield() {
        let (_home, path) = home();
        let inside = Arc::new(AtomicU32::new(0));
        runtime().block_on(async {
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let (path, inside) = (path.clone(), Arc::clone(&inside));
                    tokio::spawn(async move {
                        with_lock_async(&path, |_| async move {
                            assert_eq!(inside.fetch_add(1, SeqCst), 0);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            inside.fetch_sub(1, SeqCst);
                            Ok::<_, LockError>(())
                        })
                        .await
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
        });
    }
}

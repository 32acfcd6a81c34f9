//! Lock files: the process that creates `<name>.lock` holds the lock, deleting the file releases the lock, and a lock file
//! that was not touched for 5 seconds is an orphan that any process may take over. The TypeScript `@relayburn/ledger` 1.x
//! uses the same protocol, so both programs exclude each other on one home; `docs/locks.md` describes the protocol.
//!
//! Touches the given lock file and, while deleting the lock file, a side file `<lock file>.rob`.
//!
//! Guarantees: a running holder is never taken for an orphan, because its file is touched every second. A holder that is
//! stopped for more than 5 seconds is taken for an orphan, and learns so from `still_held`. Releasing and taking over never
//! delete another process's fresh lock. A panic releases the lock. No wait is longer than about 11 seconds.
//!
//! ```
//! use relayburn_ledger::lock::{LockError, with_lock};
//!
//! let home = tempfile::tempdir()?;
//! let path = home.path().join("archive.lock");
//! let total = with_lock(&path, |held| {
//!     let total = 1 + 1;
//!     held.still_held()?; // after long work, before its result becomes visible to others
//!     Ok::<_, LockError>(total)
//! })?;
//! assert_eq!((total, path.exists()), (2, false));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod file;
mod heartbeat;

pub use self::file::STALE_AGE;
use self::file::{Clock, LockFile};
pub use self::heartbeat::HEARTBEAT;
use crate::disk::{self, Identity};
use crate::interrupt::Interrupt;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const FAST_ATTEMPTS: u32 = 50;
const FAST_WAIT: Duration = Duration::from_millis(20);
const SLOW_ATTEMPTS: u32 = 40;
const SLOW_WAIT: Duration = Duration::from_millis(250);
const ATTEMPTS: u32 = FAST_ATTEMPTS + SLOW_ATTEMPTS;

/// A waiter that arrives just after a holder's death must wait until the lock is stale, and then have an attempt left.
const _: () = assert!(
    FAST_ATTEMPTS as u128 * FAST_WAIT.as_millis() + SLOW_ATTEMPTS as u128 * SLOW_WAIT.as_millis()
        > STALE_AGE.as_millis() + SLOW_WAIT.as_millis()
);

/// A live holder must not look stale even when two of its touches are late.
const _: () = assert!(STALE_AGE.as_millis() > 3 * HEARTBEAT.as_millis());

/// A wait that took this much longer than requested means that this process was stopped or the machine was asleep. The
/// holder may have been stopped for as long, so the holder's file may look stale until its next touch.
const AWAY: Duration = Duration::from_secs(1);

/// How long a waiter that was away considers no lock file stale: enough time for a heartbeat.
const GRACE: Duration = Duration::from_millis(1500);

/// Why a lock was not taken, or is no longer held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another holder had the lock, and touched its file, during the whole wait.
    #[error(
        "lock {} was held by {}{} through {attempts} attempts in {:.1} s, {}",
        path.display(), if *ahead > STALE_AGE { "somebody" } else { "a live process" }, pid_note(*holder_pid),
        elapsed.as_secs_f64(), outlook(*age, *ahead)
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// How often this process tried to create the file.
        attempts: u32,
        /// How long this process tried.
        elapsed: Duration,
        /// The time from the last touch of the file to the last attempt.
        age: Duration,
        /// How far the file's modification time was in the future at the last attempt: a file dated in the future
        /// does not become stale.
        ahead: Duration,
        /// The process id of the holder, if the holder wrote the id into the file as this crate does.
        holder_pid: Option<u32>,
    },
    /// The lock is an orphan, but the lock file could not be deleted.
    #[error(
        "lock {}{} looks stale, last touched {:.1} s ago, but could not be deleted through {attempts} attempts in \
         {:.1} s ({obstacle}): make sure that no burn is running, then delete it by hand",
        path.display(), pid_note(*holder_pid), age.as_secs_f64(), elapsed.as_secs_f64()
    )]
    Stale {
        /// The lock file.
        path: PathBuf,
        /// How often this process tried to create the file.
        attempts: u32,
        /// How long this process tried.
        elapsed: Duration,
        /// The time from the last touch of the file to the last attempt.
        age: Duration,
        /// The process id of the last holder, if the holder wrote the id into the file as this crate does.
        holder_pid: Option<u32>,
        /// Why the lock file could not be deleted.
        obstacle: Box<Obstacle>,
    },
    /// The lock was held, but the file is gone or belongs to another holder: this process was stopped for longer than a
    /// lock stays fresh, or the file was deleted by hand.
    #[error(
        "lock {} was lost to somebody else while this process held it (it was stopped for seconds, or the file was \
         deleted): try again",
        path.display()
    )]
    Lost {
        /// The lock file.
        path: PathBuf,
    },
    /// The thread that touches lock files could not be started; the lock was released.
    #[error(
        "lock {} cannot be kept: starting its heartbeat thread failed ({reason}): raise the limit on threads",
        path.display()
    )]
    Heartbeat {
        /// The lock file.
        path: PathBuf,
        /// The error of the operating system.
        reason: io::Error,
    },
    /// The caller was interrupted while it waited for the lock.
    #[error("interrupted while waiting for lock {}; nothing was changed", path.display())]
    Interrupted {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file could not be created or inspected.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}

fn pid_note(holder_pid: Option<u32>) -> String {
    holder_pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// Says when a held lock was last touched, and what to do.
fn outlook(age: Duration, ahead: Duration) -> String {
    if ahead > STALE_AGE {
        let ahead = ahead.as_secs();
        return format!(
            "and is dated {ahead} s ahead of the clock, so that it does not turn stale: make sure that no burn is running, \
             then delete it by hand"
        );
    }
    format!(
        "and touched last {:.1} s ago: wait until it is done or end it, then try again",
        age.as_secs_f64()
    )
}

/// Returns whether a process seems to hold the lock of this file: the file is there, and was touched within [`STALE_AGE`]. For
/// callers that do not want to wait; the answer may be wrong a moment later.
#[cfg(feature = "cli")]
pub(crate) fn is_held(path: &Path) -> bool {
    let touched = match disk::metadata(path) {
        Ok(found) => found.modified,
        Err(error) => return !error.is_not_found(),
    };
    SystemTime::now().duration_since(touched).map_or(true, |age| age <= STALE_AGE)
}

/// Why an orphaned lock file still exists.
#[derive(Debug)]
pub enum Obstacle {
    /// Deleting the lock file failed.
    Refused(disk::Error),
    /// Another process of this program is taking the lock over and has not finished; the other process holds the side file.
    OtherTakeover,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::OtherTakeover => f.write_str("another process began to take it over and does not finish"),
        }
    }
}

/// A lock that is held. The lock is released when the work under the lock is done and the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Held(Arc<HeldFile>);

#[derive(Debug)]
struct HeldFile {
    file: Arc<LockFile>,
    /// Dropped after the release, because during a long release the file must not look like an orphan; touching a
    /// deleted file is harmless.
    _beat: heartbeat::Beat,
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        self.file.release();
    }
}

thread_local! {
    static HELD_BY_THREAD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

#[cfg(feature = "async")]
tokio::task_local! {
    static HELD_BY_TASK: Vec<Held>;
}

impl Held {
    fn keep(file: LockFile) -> Result<Self, LockError> {
        let file = Arc::new(file);
        match heartbeat::start(Arc::clone(&file)) {
            Ok(beat) => Ok(Self(Arc::new(HeldFile { file, _beat: beat }))),
            Err(reason) => {
                file.release();
                Err(LockError::Heartbeat { path: file.path().to_owned(), reason })
            }
        }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Fails with [`LockError::Lost`] unless this holder still has the lock. After `Ok` no process takes the lock over
    /// for the next seconds. Long work calls this function before its result becomes visible to others.
    pub fn still_held(&self) -> Result<(), LockError> {
        if self.0.file.confirm()? { Ok(()) } else { Err(LockError::Lost { path: self.path().to_owned() }) }
    }

    /// Makes this thread a holder of the lock while `work` runs: a [`with_lock`] for the same path inside `work` does
    /// not wait, as in the thread that took the lock.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                let left = HELD_BY_THREAD.with_borrow_mut(Vec::pop);
                // Dropped outside the borrow, because this may be the last clone, and its release runs more code.
                drop(left);
            }
        }
        HELD_BY_THREAD.with_borrow_mut(|held| held.push(self.clone()));
        let _leave = Leave;
        work()
    }

    /// Makes the task that awaits `work` a holder of the lock: [`with_lock_async`] and [`with_lock`] for the same path
    /// inside `work` do not wait.
    #[cfg(feature = "async")]
    pub async fn enter_async<F: Future>(&self, work: F) -> F::Output {
        let mut held = HELD_BY_TASK.try_with(Clone::clone).unwrap_or_default();
        held.push(self.clone());
        HELD_BY_TASK.scope(held, work).await
    }
}

/// Holds the lock file `path` while `work` runs. The directory of the lock file must exist.
///
/// Waits up to about 11 seconds for another holder. Inside `work`, on the same thread or in a task that holds the lock,
/// taking the same lock again costs nothing. A thread started by `work` holds the lock only through [`Held::enter`].
pub fn with_lock<T, E: From<LockError>>(
    path: &Path,
    work: impl FnOnce(&Held) -> Result<T, E>,
) -> Result<T, E> {
    with_lock_unless(path, &Interrupt::new(), work)
}

/// Does the same as [`with_lock`], but stops waiting when `interrupt` is requested: the error is
/// [`LockError::Interrupted`]. Work that holds the lock checks the flag itself.
pub fn with_lock_unless<T, E: From<LockError>>(
    path: &Path,
    interrupt: &Interrupt,
    work: impl FnOnce(&Held) -> Result<T, E>,
) -> Result<T, E> {
    if let Some(held) = Caller::Thread.own(|held| held.path() == path) {
        return work(&held);
    }
    let mut acquisition = Acquisition::new(path, Caller::Thread);
    let held = loop {
        match acquisition.attempt()? {
            LockAttempt::Took(held) => break held,
            LockAttempt::Wait(wait) if interrupt.sleep(wait) => return Err(acquisition.interrupted().into()),
            LockAttempt::Wait(_) => {}
        }
    };
    held.enter(|| work(&held))
}

/// [`with_lock`] for tasks on tokio: waits without blocking the thread, and is re-entrant for the task.
///
/// Ignores locks that the thread holds through [`with_lock`], because a thread runs many tasks. Dropping the future
/// releases the lock.
#[cfg(feature = "async")]
pub async fn with_lock_async<T, E, F>(path: &Path, work: impl FnOnce(Held) -> F) -> Result<T, E>
where
    E: From<LockError>,
    F: Future<Output = Result<T, E>>,
{
    if let Some(held) = Caller::Task.own(|held| held.path() == path) {
        return work(held).await;
    }
    let mut acquisition = Acquisition::new(path, Caller::Task);
    let held = loop {
        match acquisition.attempt()? {
            LockAttempt::Took(held) => break held,
            LockAttempt::Wait(wait) => tokio::time::sleep(wait).await,
        }
    };
    held.enter_async(work(held.clone())).await
}

/// Whether the process is about to end. The mutex is held while a lock file is created, so that the end of the process
/// misses no lock file.
static IS_ENDING: Mutex<bool> = Mutex::new(false);

/// Prepares the end of the process after a signal: waits at most `within` until the process holds no lock file, and returns
/// whether the process holds none. Meanwhile only work that holds another lock and need not wait can take a lock; other
/// work gets [`LockError::Interrupted`]. After `true` no lock is taken any more: callers block until the process ends.
#[cfg(all(unix, feature = "cli"))]
pub(crate) fn end_holding_none(within: Duration) -> bool {
    const LOOK: Duration = Duration::from_millis(5);
    let until = Instant::now() + within;
    loop {
        let mut is_ending = IS_ENDING.lock().unwrap_or_else(PoisonError::into_inner);
        *is_ending = true;
        if !heartbeat::is_any() {
            std::mem::forget(is_ending);
            return true;
        }
        drop(is_ending);
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// The kind of caller, which decides which locks the caller already holds.
#[derive(Clone, Copy, PartialEq)]
enum Caller {
    /// Holds the locks of its thread, and the locks of the task that the thread runs, if any.
    Thread,
    /// Holds only its own locks, because the locks of its thread may be another task's.
    #[cfg(feature = "async")]
    Task,
}

impl Caller {
    fn own(self, wanted: impl Fn(&Held) -> bool) -> Option<Held> {
        let find = |held: &Vec<Held>| held.iter().find(|held| wanted(held)).cloned();
        #[cfg(feature = "async")]
        let of_task = HELD_BY_TASK.try_with(find).ok().flatten();
        #[cfg(not(feature = "async"))]
        let of_task = None;
        of_task.or_else(|| (self == Self::Thread).then(|| HELD_BY_THREAD.with_borrow(find)).flatten())
    }
}

enum LockAttempt {
    Took(Held),
    /// Try again after this time; zero after an orphan was deleted.
    Wait(Duration),
}

/// The attempts of one caller to take a lock, from the first to the last. The caller waits between attempts, because
/// threads and tasks wait in different ways.
struct Acquisition<'a> {
    path: &'a Path,
    caller: Caller,
    attempts: u32,
    started: Instant,
    /// When the requested wait should be over, by the clock that continues while the machine sleeps.
    expected: SystemTime,
    /// Until this time a lock file that looks stale does not count as stale.
    grace_until: Option<Instant>,
    /// The clock for the lock file's age; read when the lock is first found taken, and again after the waiter was away.
    clock: Option<Clock>,
}

impl<'a> Acquisition<'a> {
    fn new(path: &'a Path, caller: Caller) -> Self {
        let (started, expected) = (Instant::now(), file::local_now());
        Self { path, caller, attempts: 0, started, expected, grace_until: None, clock: None }
    }

    fn attempt(&mut self) -> Result<LockAttempt, LockError> {
        self.attempts += 1;
        {
            let is_ending = IS_ENDING.lock().unwrap_or_else(PoisonError::into_inner);
            if *is_ending && !heartbeat::is_any() {
                return Err(self.interrupted());
            }
            match LockFile::create(self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return Held::keep(created?).map(LockAttempt::Took),
            }
        }
        let present = disk::if_there(disk::metadata(self.path))?;
        // The caller may have taken the same lock file under another spelling of the path.
        if let Some(own) =
            present.and_then(|present| self.caller.own(|held| held.0.file.identity() == present.identity))
        {
            return Ok(LockAttempt::Took(own));
        }
        let in_grace = self.was_away();
        let clock = *self.clock.get_or_insert_with(|| Clock::of(self.path));
        let age = present.map_or(Duration::ZERO, |present| clock.age(present.modified));
        let mut obstacle = None;
        if let Some(present) = present.filter(|_| age > STALE_AGE && !in_grace) {
            match self.take_over(present.identity, clock) {
                Ok(()) if self.attempts < ATTEMPTS => return Ok(self.wait(Duration::ZERO)),
                Ok(()) => {}
                Err(met) => obstacle = Some(met),
            }
        }
        if self.attempts == ATTEMPTS {
            return Err(self.give_up(age, clock, obstacle));
        }
        if *IS_ENDING.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(self.interrupted());
        }
        Ok(self.wait(if self.attempts <= FAST_ATTEMPTS { FAST_WAIT } else { SLOW_WAIT }))
    }

    fn interrupted(&self) -> LockError {
        LockError::Interrupted { path: self.path.to_owned() }
    }

    fn take_over(&self, orphan: Identity, clock: Clock) -> Result<(), Obstacle> {
        match file::take_over(self.path, orphan, clock) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Obstacle::OtherTakeover),
            Err(error) => Err(Obstacle::Refused(error)),
        }
    }

    fn wait(&mut self, wait: Duration) -> LockAttempt {
        self.expected = file::local_now() + wait;
        LockAttempt::Wait(wait)
    }

    fn was_away(&mut self) -> bool {
        if file::local_age(self.expected) > AWAY {
            self.expected = file::local_now();
            self.clock = None;
            self.grace_until = Some(Instant::now() + GRACE);
        }
        self.grace_until.is_some_and(|until| Instant::now() < until)
    }

    fn give_up(&self, age: Duration, clock: Clock, obstacle: Option<Obstacle>) -> LockError {
        let (path, attempts, elapsed) = (self.path.to_owned(), self.attempts, self.started.elapsed());
        let holder_pid = file::holder_pid(&path);
        let modified = disk::metadata(&path).map_or(SystemTime::UNIX_EPOCH, |present| present.modified);
        let ahead = modified.duration_since(clock.now()).unwrap_or_default();
        match obstacle {
            Some(obstacle) => {
                LockError::Stale { path, attempts, elapsed, age, holder_pid, obstacle: Box::new(obstacle) }
            }
            None => LockError::Held { path, attempts, elapsed, age, ahead, holder_pid },
        }
    }
}

#[cfg(all(test, unix))]
mod tests;

//! Keeps held lock files fresh: one thread for the whole process touches each lock file every [`HEARTBEAT`].
//!
//! The thread starts with the first lock and then stays. Taking and releasing a lock within microseconds costs a mutex and,
//! after a pause of more than a second, one wake-up. If any lock was held during the last second, the thread looks at the
//! list without a wake-up, in time for locks that were added since.

use super::file::LockFile;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a holder touches its lock file.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

static HEART: Heart = Heart {
    state: Mutex::new(HeartState {
        beating: Vec::new(),
        thread: HeartThread::NotStarted,
        took_lately: false,
    }),
    woken: Condvar::new(),
};

struct Heart {
    state: Mutex<HeartState>,
    woken: Condvar,
}

struct HeartState {
    beating: Vec<Beating>,
    thread: HeartThread,
    /// Whether a lock was taken since the thread last looked.
    took_lately: bool,
}

struct Beating {
    file: Arc<LockFile>,
    due: Instant,
}

#[derive(PartialEq)]
enum HeartThread {
    NotStarted,
    /// Waits to be woken.
    Idle,
    /// Looks at the list within one heartbeat, without being woken.
    Watching,
}

impl Heart {
    fn state(&self) -> MutexGuard<'_, HeartState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock file that the thread touches until this value is dropped.
#[derive(Debug)]
pub(super) struct Beat(Arc<LockFile>);

impl Drop for Beat {
    fn drop(&mut self) {
        HEART.state().beating.retain(|beating| !Arc::ptr_eq(&beating.file, &self.0));
    }
}

/// Makes the thread touch `file` every [`HEARTBEAT`], for the first time after one [`HEARTBEAT`]. Fails when the thread
/// cannot be started.
pub(super) fn start(file: Arc<LockFile>) -> io::Result<Beat> {
    let mut state = HEART.state();
    match state.thread {
        HeartThread::NotStarted => drop(thread::Builder::new().name("lock heartbeat".to_owned()).spawn(run)?),
        HeartThread::Idle => HEART.woken.notify_one(),
        HeartThread::Watching => {}
    }
    state.thread = HeartThread::Watching;
    state.took_lately = true;
    state.beating.push(Beating { file: Arc::clone(&file), due: Instant::now() + HEARTBEAT });
    Ok(Beat(file))
}

/// Whether this process holds a lock file.
pub(super) fn is_any() -> bool {
    !HEART.state().beating.is_empty()
}

fn run() {
    let mut state = HEART.state();
    loop {
        let now = Instant::now();
        let mut due = Vec::new();
        for beating in state.beating.iter_mut().filter(|beating| beating.due <= now) {
            beating.due = now + HEARTBEAT;
            due.push(Arc::clone(&beating.file));
        }
        if !due.is_empty() {
            // Touch without the mutex, because a slow disk must not delay others that take and release locks. A
            // lock released meanwhile is a deleted file, and touching a deleted file is harmless.
            drop(state);
            for file in due {
                if let Err(error) = file.touch() {
                    tracing::warn!("a held lock could not be touched and may be taken over: {error}");
                }
            }
            state = HEART.state();
            continue;
        }
        let next = state.beating.iter().map(|beating| beating.due).min();
        let took_lately = std::mem::take(&mut state.took_lately);
        if next.is_some() || took_lately {
            let timeout = next.map_or(HEARTBEAT, |next| next.saturating_duration_since(now));
            state = HEART.woken.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0;
        } else {
            state.thread = HeartThread::Idle;
            state = HEART.woken.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.thread = HeartThread::Watching;
        }
    }
}

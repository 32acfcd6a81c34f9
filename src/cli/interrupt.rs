//! SIGINT and SIGTERM during long work. The first asks the work to stop and clean up, the second ends the process at once.
//!
//! Guarantees: a process ends within a second of the first signal. Work that watches has that time to stop. Work that does not
//! watch ends at once by the signal's own effect, or as soon as it has released its lock files. Work that has not stopped by then
//! is in a call that cannot be interrupted, such as a sync. The process ends all the same, because every
//! store survives the death of its writer at any moment.

use std::process::ExitCode;

#[cfg(unix)]
pub(super) use on_unix::{guard, watch};

use crate::interrupt::Interrupt;

/// The exit code of a command that failed: 128 and the number of the signal that interrupted it, else 1.
pub(super) fn failure_code() -> ExitCode {
    match u8::try_from(signal()) {
        Ok(signal @ 1..=127) => ExitCode::from(128 + signal),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(unix)]
use on_unix::signal;

/// Without these signals the flag is never set.
#[cfg(not(unix))]
pub(super) fn watch() -> Interrupt {
    Interrupt::new()
}

#[cfg(not(unix))]
pub(super) fn guard() {}

#[cfg(not(unix))]
fn signal() -> i32 {
    0
}

#[cfg(unix)]
mod on_unix {
    use std::io::{Read, Write};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
    use std::time::Duration;

    use super::Interrupt;

    /// How long work has to stop and clean up, so that all of it ends within a second.
    const GRACE: Duration = Duration::from_millis(850);

    /// The first signal; 0 before it came.
    static SIGNAL: AtomicI32 = AtomicI32::new(0);
    /// Whether the work looks at the flag.
    static IS_WATCHED: AtomicBool = AtomicBool::new(false);
    /// The flag of the work, and the descriptor that wakes the thread which ends the process.
    static ENDING: OnceLock<(Interrupt, Option<OwnedFd>)> = OnceLock::new();

    pub(super) fn signal() -> i32 {
        SIGNAL.load(Ordering::Relaxed)
    }

    /// From now on SIGINT and SIGTERM end the process as soon as it holds no lock file. Where no thread can be started, they have
    /// their own effect.
    pub(in crate::cli) fn guard() {
        let (_, wake) = ENDING.get_or_init(|| (Interrupt::new(), end_in_time()));
        if wake.is_some() {
            handle_signals();
        }
    }

    /// From now on SIGINT and SIGTERM set the returned flag. Calling it again returns the same flag.
    pub(in crate::cli) fn watch() -> Interrupt {
        let (interrupt, _) = ENDING.get_or_init(|| (Interrupt::new(), end_in_time()));
        IS_WATCHED.store(true, Ordering::Relaxed);
        handle_signals();
        interrupt.clone()
    }

    /// Handles each of the signals that was not ignored when the program started.
    fn handle_signals() {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the handler stores to atomics and writes to a socket, which is allowed in a handler; SA_RESETHAND
            // gives the second signal its usual effect. A failure leaves the usual effect from the start, which is as safe.
            unsafe {
                let mut usual: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &mut usual);
                if usual.sa_sigaction == libc::SIG_IGN {
                    continue;
                }
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as extern "C" fn(_) as usize;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }

    extern "C" fn on_signal(signal: libc::c_int) {
        SIGNAL.store(signal, Ordering::Relaxed);
        if let Some((interrupt, wake)) = ENDING.get() {
            interrupt.request();
            if let Some(wake) = wake {
                // SAFETY: a plain write of one live byte to a descriptor that is never closed; `errno` of the interrupted
                // code is put back by nobody, but a byte always fits into an empty socket.
                unsafe { libc::write(wake.as_raw_fd(), [0u8].as_ptr().cast(), 1) };
            }
        }
    }

    /// Starts the thread that ends the process when its work does not. Without it only the second signal does.
    fn end_in_time() -> Option<OwnedFd> {
        let (mut woken, wake) = UnixStream::pair().ok()?;
        let wait = move || {
            let _ = woken.read(&mut [0]);
            if IS_WATCHED.load(Ordering::Relaxed) {
                std::thread::sleep(GRACE);
            } else if crate::lock::end_holding_none(GRACE) {
                end_by(signal());
            }
            let text = "burn: interrupted; the next command repairs unfinished work\n";
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
            // SAFETY: ends the process. No exit handler runs beside threads that are still at work.
            unsafe { libc::_exit(128 + signal()) };
        };
        std::thread::Builder::new().name("burn-signals".to_string()).spawn(wait).ok()?;
        Some(wake.into())
    }

    /// Ends the process by the signal's own effect, so that a shell ends its script, too.
    fn end_by(signal: libc::c_int) -> ! {
        // SAFETY: plain calls. Process 1 of a container ignores a signal without a handler, so it reaches the last call.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
            libc::_exit(128 + signal)
        }
    }
}

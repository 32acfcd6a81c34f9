//! SIGINT and SIGTERM during long work. The first asks the work to stop and clean up, the second ends the process at once.
//!
//! Guarantees: a process that watches ends within a second of the first signal. Work that has not stopped by then is in a call
//! that nobody can break off (a sync, a wait for another program); the process ends all the same, because every store survives
//! the death of its writer at any moment. Commands that do not watch end at once, by the signal's own effect.

use std::process::ExitCode;

#[cfg(unix)]
pub(super) use on_unix::watch;

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

/// Where there are no such signals, nobody asks.
#[cfg(not(unix))]
pub(super) fn watch() -> Interrupt {
    Interrupt::new()
}

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
    use std::sync::atomic::{AtomicI32, Ordering};
    use std::time::Duration;

    use super::Interrupt;

    /// How long work has to stop and clean up, so that all of it ends within a second.
    const GRACE: Duration = Duration::from_millis(850);

    /// The first signal; 0 before it came.
    static SIGNAL: AtomicI32 = AtomicI32::new(0);
    /// The flag of the work, and the descriptor that wakes the thread which ends the process.
    static WATCHED: OnceLock<(Interrupt, Option<OwnedFd>)> = OnceLock::new();

    pub(super) fn signal() -> i32 {
        SIGNAL.load(Ordering::Relaxed)
    }

    /// From now on SIGINT and SIGTERM set the returned flag. Calling it again returns the same flag.
    pub(in crate::cli) fn watch() -> Interrupt {
        let (interrupt, _) = WATCHED.get_or_init(|| (Interrupt::new(), end_in_time()));
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the handler stores to atomics and writes to a socket, which is allowed in a handler; SA_RESETHAND
            // gives the second signal its usual effect. A failure leaves the usual effect from the start, which is as safe.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as extern "C" fn(_) as usize;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
        interrupt.clone()
    }

    extern "C" fn on_signal(signal: libc::c_int) {
        SIGNAL.store(signal, Ordering::Relaxed);
        if let Some((interrupt, wake)) = WATCHED.get() {
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
            std::thread::sleep(GRACE);
            let text = "burn: interrupted; what it left unfinished is put right by the next command\n";
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
            // SAFETY: ends the process. No exit handler runs beside threads that are still at work.
            unsafe { libc::_exit(128 + signal()) };
        };
        std::thread::Builder::new().name("burn-signals".to_string()).spawn(wait).ok()?;
        Some(wake.into())
    }
}

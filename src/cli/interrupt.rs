//! Ctrl-C during long work: the first asks it to stop and clean up, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether somebody wants the work to stop.
pub(super) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on SIGINT and SIGTERM ask to stop. Where there are no such signals, nothing changes.
pub(super) fn watch() {
    #[cfg(unix)]
    {
        extern "C" fn on_signal(_: libc::c_int) {
            REQUESTED.store(true, Ordering::Relaxed);
        }
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the handler only stores to an atomic; SA_RESETHAND gives the second signal its usual effect. A
            // failure leaves the usual effect from the start, which is as safe.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as extern "C" fn(_) as usize;
                action.sa_flags = libc::SA_RESETHAND;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

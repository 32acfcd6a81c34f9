//! A request to stop that long work checks: one flag, shared by the requester and the work.
//!
//! The library handles no signals. A program sets the flag, from a signal handler if it likes. Work that has a clone of the
//! flag ends soon with its own error and leaves its files as after any other failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Asks work to stop. Clones share the flag; checking the flag costs a relaxed load.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Makes a flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks all work that has a clone to stop. Allocates nothing and takes no lock, so a signal handler may call it.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether work is asked to stop.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps for `wait`, or until shortly after work is asked to stop. Returns whether work is asked to stop.
    pub fn sleep(&self, wait: Duration) -> bool {
        const SLICE: Duration = Duration::from_millis(50);
        let until = Instant::now() + wait;
        while !self.is_requested() {
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return false,
                rest => std::thread::sleep(rest.min(SLICE)),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_wakes_up_soon_after_the_request() {
        let interrupt = Interrupt::new();
        assert!(!interrupt.sleep(Duration::from_millis(1)));
        let started = Instant::now();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| interrupt.sleep(Duration::from_secs(60)));
            interrupt.clone().request();
            assert!(sleeper.join().is_ok_and(|is_requested| is_requested));
        });
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}

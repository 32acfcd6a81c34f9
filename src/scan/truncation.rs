//! Turns the truncation of a file under its memory map from a deadly signal into an error.
//!
//! May install one signal handler (SIGBUS), and only when a program asks for it: a library must not change the signals of its
//! process. Guarantee: the handler touches nothing but pages inside maps of this crate.
//!
//! How it works: reading a mapped page that is no longer inside the file raises SIGBUS. The handler checks whether the address
//! belongs to a watched map, marks the map as faulted, maps a page of zeros over the missing page, and returns. The scan goes
//! on over zeros, checks whether its map has faulted before it uses its results, and fails cleanly. A SIGBUS anywhere else gets
//! the action that was set before ours.
//!
//! Rejected: leaving the scan with a long jump out of the handler (undefined across Rust frames), and ending the process from
//! the handler (the process would leave the lock file and the half-built archive on disk).

#[cfg(unix)]
pub use unix::install;
pub(super) use unix::{Region, is_installed, watch};

/// Turns reads beyond the end of a truncated, mapped file into [`ScanError::Truncated`](super::ScanError::Truncated).
///
/// On systems without SIGBUS there is nothing to install.
#[cfg(not(unix))]
pub fn install() -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// More maps than a process of this crate has open at one time; a map that finds no free slot is not watched.
    const SLOTS: usize = 64;

    struct RegionSlot {
        taken: AtomicBool,
        start: AtomicUsize,
        len: AtomicUsize,
        faulted: AtomicBool,
    }

    static WATCHED: [RegionSlot; SLOTS] = [const {
        RegionSlot {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            faulted: AtomicBool::new(false),
        }
    }; SLOTS];
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// A watched range of addresses; dropping it ends the watch.
    #[derive(Debug)]
    pub(in super::super) struct Region(Option<usize>);

    impl Region {
        /// Whether a page of this range was missing when it was read.
        pub(in super::super) fn faulted(&self) -> bool {
            self.0.is_some_and(|slot| WATCHED[slot].faulted.load(Ordering::Acquire))
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            if let Some(slot) = self.0 {
                WATCHED[slot].len.store(0, Ordering::SeqCst);
                WATCHED[slot].start.store(0, Ordering::SeqCst);
                WATCHED[slot].taken.store(false, Ordering::Release);
            }
        }
    }

    pub(in super::super) fn watch(start: usize, len: usize) -> Region {
        for (index, slot) in WATCHED.iter().enumerate() {
            if slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                slot.faulted.store(false, Ordering::Relaxed);
                slot.start.store(start, Ordering::SeqCst);
                slot.len.store(len, Ordering::SeqCst);
                return Region(Some(index));
            }
        }
        Region(None)
    }

    /// Whether a file that is cut under its map is an error in this process.
    pub(in super::super) fn is_installed() -> bool {
        PREVIOUS.get().is_some()
    }

    /// Turns reads beyond the end of a truncated, mapped file into
    /// [`ScanError::Truncated`](super::super::ScanError::Truncated), for the whole process.
    ///
    /// Meant for a program's `main`; a library leaves the choice to its user. A second call changes nothing.
    ///
    /// # Errors
    /// The error of `sigaction`.
    pub fn install() -> std::io::Result<()> {
        if PREVIOUS.get().is_some() {
            return Ok(());
        }
        // SAFETY: plain calls of libc with pointers to live values of the right types. The handler only uses atomics, `mmap`
        // and `sigaction`, none of which allocates or takes a lock.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE);
            if page > 0 {
                PAGE_BYTES.store(page as usize, Ordering::Relaxed);
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, &action, &mut previous) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let _ = PREVIOUS.set(previous);
        }
        Ok(())
    }

    extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: the system passes a valid siginfo because of SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        for slot in &WATCHED {
            // Address and length belong together only if the length is the same before and after: the length is 0 while a slot
            // is replaced.
            let len = slot.len.load(Ordering::SeqCst);
            let start = slot.start.load(Ordering::SeqCst);
            if len == 0 || slot.len.load(Ordering::SeqCst) != len || address < start || address - start >= len
            {
                continue;
            }
            let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
            let page = address & !(page_bytes - 1);
            // SAFETY: the page is inside a live read-only map of ours, whose bytes are no longer relied on.
            let mapped = unsafe {
                libc::mmap(
                    page as *mut libc::c_void,
                    page_bytes,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if mapped != libc::MAP_FAILED {
                slot.faulted.store(true, Ordering::Release);
                return;
            }
        }
        // Not a fault of ours: restore the previous action and return, so that the access faults again under that action.
        // SAFETY: both actions are valid; a zeroed action is SIG_DFL.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, PREVIOUS.get().unwrap_or(&default), std::ptr::null_mut());
        }
    }
}

#[cfg(not(unix))]
mod unix {
    /// A watched range of addresses; there is nothing to watch on this system.
    #[derive(Debug)]
    pub(in super::super) struct Region;

    impl Region {
        pub(in super::super) fn faulted(&self) -> bool {
            false
        }
    }

    pub(in super::super) fn watch(_start: usize, _len: usize) -> Region {
        Region
    }

    /// A mapped file cannot be cut on this system.
    pub(in super::super) fn is_installed() -> bool {
        true
    }
}

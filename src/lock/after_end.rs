//! Deletes the lock files of this process after the process has ended by force, so that nobody waits until they are stale.
//!
//! Touches the lock files that this process holds, and their side files. Guarantees: a lock lasts until the last thread of this
//! process has ended, because threads that are not asked to stop may still write; a lock file is deleted only under its side
//! lock, after a look has shown that the file is this process's own.
//!
//! A child process waits for the end: its parent changes when all threads of this process have ended. The child has the side
//! locks, because a kernel lock belongs to the open file, which both processes share.
//!
//! Rejected: deleting the files before the end, because another process could then take a lock and write beside the threads
//! of this process.

use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::file::{LockFile, SideLock};
use super::heartbeat;
use crate::disk::{self, Identity};

/// How often the child looks whether this process has ended. After so long a lock that is touched no more is not stale yet.
const LOOKS_MAX: u32 = 2000;
const BETWEEN_LOOKS: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Descriptors below this number are closed in the child, except those of the lock files and side files.
const DESCRIPTORS_MAX: RawFd = 1024;

/// What the child needs to delete a lock file.
struct Deletion {
    lock: CString,
    side: CString,
    identity: Identity,
    descriptors: [RawFd; 2],
}

impl Deletion {
    fn of(file: &LockFile, side_lock: &SideLock) -> Option<Self> {
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).ok();
        let side = side_lock.file()?;
        Some(Self {
            lock: name(file.path())?,
            side: name(side.path())?,
            identity: file.identity(),
            descriptors: [file.descriptor(), side.as_std().as_raw_fd()],
        })
    }

    /// Deletes the lock file if it is still this process's own, then the side file. Allocates nothing.
    fn run(&self) {
        // SAFETY: plain calls with strings that end with a zero; `found` is written before it is read.
        unsafe {
            let mut found: libc::stat = std::mem::zeroed();
            if libc::lstat(self.lock.as_ptr(), &mut found) == 0 && disk::is_identity(&found, self.identity) {
                libc::unlink(self.lock.as_ptr());
            }
            libc::unlink(self.side.as_ptr());
        }
    }
}

/// Starts the child process that deletes the lock files of this process after its end. The caller ends this process soon. Files
/// that another process is about to take over, and all files when no child can be started, are left to become stale.
pub(crate) fn delete_after_end() {
    let locked: Vec<_> = heartbeat::held()
        .into_iter()
        .filter_map(|file| file.try_side_lock().map(|side_lock| (file, side_lock)))
        .collect();
    let deletions: Vec<Deletion> =
        locked.iter().filter_map(|(file, side_lock)| Deletion::of(file, side_lock)).collect();
    if deletions.is_empty() {
        return;
    }
    // SAFETY: the child calls only functions that are allowed in the child of a process with several threads: no
    // allocation, no lock.
    unsafe {
        let parent = libc::getpid();
        match libc::fork() {
            -1 => return,
            0 => {}
            // The side locks are the child's now.
            _ => return std::mem::forget(locked),
        }
        let is_needed =
            |descriptor: RawFd| deletions.iter().any(|deletion| deletion.descriptors.contains(&descriptor));
        (0..DESCRIPTORS_MAX).filter(|descriptor| !is_needed(*descriptor)).for_each(|descriptor| {
            libc::close(descriptor);
        });
        for _ in 0..LOOKS_MAX {
            if libc::getppid() != parent {
                deletions.iter().for_each(Deletion::run);
                break;
            }
            libc::nanosleep(&BETWEEN_LOOKS, std::ptr::null_mut());
        }
        libc::_exit(0)
    }
}

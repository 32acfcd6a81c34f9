//! The kernel's lock on a file: one holder at a time, released when the holder's process ends.
//!
//! Touches the lock file, which this module creates empty and never deletes. Guarantees: no symbolic link is followed.
//! Dropping the lock releases it at once, even while a process that was just forked still has a copy of the handle.

use std::fs::TryLockError;
use std::path::Path;

use super::{Error, File, Operation};

/// A lock file and, once [`KernelLock::try_lock`] has returned `true`, the lock.
#[derive(Debug)]
pub struct KernelLock {
    file: File,
    is_held: bool,
}

impl KernelLock {
    /// Opens the lock file, and creates the file with mode 0600 when the file is missing. Does not lock the file yet.
    ///
    /// # Errors
    /// [`Error::Io`]: a symbolic link at the path, or an error of the operating system.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, _) = File::open_or_create(|| File::open_read_no_follow(path), || File::create_new(path))?;
        Ok(Self { file, is_held: false })
    }

    /// Takes the lock if nobody holds the lock, and returns whether this handle holds the lock now. Does not wait.
    ///
    /// # Errors
    /// [`Error::Io`] of [`Operation::Lock`], where the file system does not support locks.
    pub fn try_lock(&mut self) -> Result<bool, Error> {
        let taken = self.file.perform(Operation::Lock, &[], || match self.file.as_std().try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(reason)) => Err(reason),
        })?;
        self.is_held |= taken;
        Ok(self.is_held)
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

impl Drop for KernelLock {
    fn drop(&mut self) {
        if self.is_held {
            // Closing the file does not release the lock while a process that was just forked has not closed
            // its copy of the handle.
            let _ = self.file.as_std().unlock();
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_handle_at_a_time_holds_the_lock_and_dropping_it_frees_it_whoever_has_a_copy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let mut first = KernelLock::open(&path).unwrap();
        let mut second = KernelLock::open(&path).unwrap();
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        // A child has the same open file between fork and exec.
        let copy = first.file.as_std().try_clone().unwrap();
        drop(first);
        assert!(second.try_lock().unwrap());
        drop(copy);
        // Dropping a handle that never held the lock does not release the lock of the holder.
        drop(KernelLock::open(&path).unwrap());
        assert!(!KernelLock::open(&path).unwrap().try_lock().unwrap());
    }

    #[test]
    fn a_link_in_its_place_and_a_lock_that_fails_are_named() {
        use crate::disk::faults::{Fault, Harness};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).unwrap();
        let refused = KernelLock::open(&path).unwrap_err().to_string();
        assert!(refused.contains("symbolic links are not followed"), "{refused}");
        std::fs::remove_file(&path).unwrap();
        // Open, create, lock.
        let refused = Harness::failing(Fault::Io, 2)
            .run(|| KernelLock::open(&path)?.try_lock())
            .unwrap_err()
            .to_string();
        assert!(refused.starts_with(&format!("cannot lock {}: ", path.display())), "{refused}");
        assert!(refused.ends_with("; the file system must support flock"), "{refused}");
    }
}

//! The kernel's lock on a file: one holder at a time, gone with its process.
//!
//! May touch: the lock file, which it creates empty and never deletes. Promises: no symbolic link is followed; when it is
//! dropped the lock is free at once, even while a process forked just now still has a copy of the handle.

use std::fs::TryLockError;
use std::io;
use std::path::Path;

use super::{Error, File, OPEN_ATTEMPTS, Operation};

/// A lock file and, once [`KernelLock::try_lock`] has answered `true`, its lock.
#[derive(Debug)]
pub struct KernelLock {
    file: File,
    is_held: bool,
}

impl KernelLock {
    /// Opens the lock file, creating it with mode 0600 when it is missing. It is not locked yet.
    ///
    /// # Errors
    /// [`Error::Io`]: a symbolic link in its place, or what the system says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut attempt = 1;
        let file = loop {
            match File::open_read_no_follow(path) {
                Err(error) if error.is_not_found() => {}
                opened => break opened?,
            }
            match File::create_new(path) {
                // Another process created it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < OPEN_ATTEMPTS => {}
                created => break created?,
            }
            attempt += 1;
        };
        Ok(Self { file, is_held: false })
    }

    /// Opens the lock file if there is one, and creates nothing.
    ///
    /// # Errors
    /// As [`KernelLock::open`].
    pub fn open_if_there(path: &Path) -> Result<Option<Self>, Error> {
        match File::open_read_no_follow(path) {
            Err(error) if error.is_not_found() => Ok(None),
            opened => Ok(Some(Self { file: opened?, is_held: false })),
        }
    }

    /// Takes the lock if nobody holds it, and answers whether it is held now. Does not wait.
    ///
    /// # Errors
    /// [`Error::Io`] of [`Operation::Lock`], where the file system knows no locks.
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
            // Closing alone does not release it while a process that was forked just now has not closed its copy.
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
        assert!(KernelLock::open_if_there(&path).unwrap().is_none());
        let mut first = KernelLock::open(&path).unwrap();
        let mut second = KernelLock::open_if_there(&path).unwrap().unwrap();
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        // What a child has between fork and exec: the same open file.
        let copy = first.file.as_std().try_clone().unwrap();
        drop(first);
        assert!(second.try_lock().unwrap());
        drop(copy);
        // A handle that never held it takes nothing from the one that does.
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

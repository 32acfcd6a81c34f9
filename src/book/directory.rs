//! The directory of a store: its lock, and which entries of it are books.
//!
//! Touches `LOCK`. Guarantees: a book is a directory under `books/` itself and never the target of a symbolic link, because a log
//! with two names could be written twice.

use std::path::{Path, PathBuf};

use super::error::BookError;
use crate::disk::{self, KernelLock};

/// Takes the lock of the store in `directory`, which exists.
pub(super) fn take_lock(directory: &Path) -> Result<KernelLock, BookError> {
    held(KernelLock::open(&directory.join("LOCK"))?)
}

/// Takes the lock of the store in `directory` and creates nothing. Without a lock file no program has the store open.
pub(super) fn take_lock_if_there(directory: &Path) -> Result<Option<KernelLock>, BookError> {
    KernelLock::open_if_there(&directory.join("LOCK"))?.map(held).transpose()
}

fn held(mut lock: KernelLock) -> Result<KernelLock, BookError> {
    if lock.try_lock()? { Ok(lock) } else { Err(BookError::Locked { path: lock.path().to_owned() }) }
}

/// The directories under `books/`, in byte order.
pub(super) fn book_names(directory: &Path) -> Result<Vec<String>, BookError> {
    let is_directory = |path: &PathBuf| disk::metadata(path).is_ok_and(|found| found.is_directory);
    let directories = disk::list(directory)?.into_iter().filter(is_directory);
    let name = |path: PathBuf| match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(BookError::NotText { path }),
    };
    directories.map(name).collect()
}

/// Fails when a file or a link has the name of a new book. A link to another book's directory would
/// let one log be written under two names.
pub(super) fn refuse_link(directory: &Path) -> Result<(), BookError> {
    match disk::metadata(directory) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if found.is_directory => Ok(()),
        Ok(_) => Err(BookError::NotADirectory { path: directory.to_owned() }),
    }
}

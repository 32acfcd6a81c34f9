//! The directory of a store: its lock, and which entries of it are books.
//!
//! Touches `LOCK`. Guarantees: a book is a directory under `books/` itself and never the target of a symbolic link, because a log
//! with two names could be written twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::BookError;
use crate::disk::{self, KernelLock};
use crate::store;

/// Takes the lock of the store in `directory`, which exists.
pub(super) fn take_lock(directory: &Path) -> Result<KernelLock, BookError> {
    let path = directory.join("LOCK");
    store::lock(&path, Duration::ZERO)?.ok_or(BookError::Locked { path })
}

/// Takes the lock of the store in `directory` and creates nothing. Without a lock file no program has the store open.
pub(super) fn take_lock_if_there(directory: &Path) -> Result<Option<KernelLock>, BookError> {
    let is_there = disk::if_there(disk::metadata(&directory.join("LOCK")))?.is_some();
    is_there.then(|| take_lock(directory)).transpose()
}

/// Returns the directories under `books/`, in byte order.
pub(super) fn book_names(directory: &Path) -> Result<Vec<String>, BookError> {
    let is_directory = |path: &PathBuf| disk::metadata(path).is_ok_and(|found| found.is_directory);
    let directories = disk::list(directory)?.into_iter().filter(is_directory);
    let name = |path: PathBuf| match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(BookError::NotText { path }),
    };
    directories.map(name).collect()
}

/// Returns the symbolic links under `books/`, in byte order: books that somebody has moved elsewhere, which are left out.
pub(crate) fn linked_books(directory: &Path) -> Result<Vec<PathBuf>, BookError> {
    let mut paths = disk::if_there(disk::list(&directory.join("books")))?.unwrap_or_default();
    paths.retain(|path| path.is_symlink());
    Ok(paths)
}

/// What becomes of a link that [`linked_books`] returns.
pub(crate) const LINK_LEFT_OUT: &str =
    "a symbolic link is no book and is left out; move the directory that it names here, or remove the link";

/// Fails when a file or a link has the name of a new book. A link to another book's directory would
/// let one log be written under two names.
pub(super) fn refuse_link(directory: &Path) -> Result<(), BookError> {
    match disk::if_there(disk::metadata(directory))? {
        Some(found) if !found.is_directory => Err(BookError::NotADirectory { path: directory.to_owned() }),
        _ => Ok(()),
    }
}

//! Sets the owner of a new file: the owner of the directory, or of the file that the new file replaces.
//!
//! The kernel gives a file to its creator. After `sudo burn …` a user could no longer write the files of their own home.
//! Therefore root gives its new files to the owner of the directory, as SQLite gives a database's `-wal` to the owner of
//! the database. A process that may not give files away, which is any process but root's, keeps its files. On Windows nothing happens.

use std::fs;
use std::path::Path;

#[cfg(unix)]
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};

/// Gives `file`, which replaces the file at `path`, to the owner and group of the replaced file, as far as this process may.
#[cfg(unix)]
pub(super) fn give_to_owner_of(path: &Path, file: &fs::File) {
    let (Ok(theirs), Ok(own)) = (fs::symlink_metadata(path), file.metadata()) else { return };
    if (theirs.uid(), theirs.gid()) != (own.uid(), own.gid())
        && fchown(file, Some(theirs.uid()), Some(theirs.gid())).is_err()
    {
        // A member of the group may at least give the file to the group.
        let _ = fchown(file, None, Some(theirs.gid()));
    }
}

/// Gives `file`, which this process created in `directory`, to the owner and group of the directory if this process is root's.
#[cfg(unix)]
pub(super) fn give_to_owner_of_directory(directory: &Path, file: &fs::File) {
    if !file.metadata().is_ok_and(|own| own.uid() == 0) {
        return;
    }
    if let Ok(theirs) = fs::metadata(directory)
        && theirs.uid() != 0
    {
        // Where the change fails, as on some network file systems, the file stays root's.
        let _ = fchown(file, Some(theirs.uid()), Some(theirs.gid()));
    }
}

/// Gives `directory`, which this process created, to the owner of the directory `parent` if this process is root's.
#[cfg(unix)]
pub(super) fn give_directory_to_owner_of(parent: &Path, directory: &Path) {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
    if let Ok(opened) = options.open(directory) {
        give_to_owner_of_directory(parent, &opened);
    }
}

#[cfg(windows)]
pub(super) fn give_to_owner_of(_path: &Path, _file: &fs::File) {}

#[cfg(windows)]
pub(super) fn give_to_owner_of_directory(_directory: &Path, _file: &fs::File) {}

#[cfg(windows)]
pub(super) fn give_directory_to_owner_of(_parent: &Path, _directory: &Path) {}

//! Refuses symbolic links and special files by their path, for files that others open or that are only looked at.
//!
//! Changes nothing and opens nothing.

use super::regular::no_regular_file;
use super::{Error, Metadata, Operation, perform_on_path};
use std::fs;
use std::io;
use std::path::Path;

/// Metadata of the regular file at `path`. A symbolic link, a directory or a special file there is an error.
pub fn metadata_of_regular_file(path: &Path) -> Result<Metadata, Error> {
    perform_on_path(Operation::Open, path, || {
        let metadata = fs::symlink_metadata(path)?;
        match metadata.file_type() {
            kind if kind.is_symlink() => Err(link()),
            kind if kind.is_file() => Metadata::of(&metadata),
            kind => Err(no_regular_file(kind)),
        }
    })
}

/// Fails when a symbolic link is at `path`. A path at which nothing exists is allowed.
pub fn refuse_link(path: &Path) -> Result<(), Error> {
    perform_on_path(Operation::Open, path, || match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(link()),
        _ => Ok(()),
    })
}

#[cfg(unix)]
fn link() -> io::Error {
    io::Error::from_raw_os_error(libc::ELOOP)
}

#[cfg(windows)]
fn link() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link")
}

//! Opens only regular files. Opening a named pipe would wait until another process opens the other end, which may be never;
//! a device or a directory at the path of a file is a mistake to report.
//!
//! This module opens every file that this crate opens without creating it, except the files of `scan::Source`, which
//! follows the same rule.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
#[cfg(windows)]
use std::os::windows::fs::OpenOptionsExt;

/// What to do with a symbolic link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Followed,
    /// Opening a symbolic link fails.
    Refused,
}

#[cfg(unix)]
const NO_FOLLOW: i32 = libc::O_NOFOLLOW;
#[cfg(windows)]
const NO_FOLLOW: u32 = 0x0020_0000; // FILE_FLAG_OPEN_REPARSE_POINT

/// Makes `options` fail on a symbolic link.
pub(super) fn no_follow(options: &mut OpenOptions) {
    options.custom_flags(NO_FOLLOW);
}

/// Opens an existing file. Never waits for another process to open a named pipe.
pub(super) fn open(options: &mut OpenOptions, links: Links, path: &Path) -> io::Result<fs::File> {
    let link_flag = if links == Links::Refused { NO_FOLLOW } else { 0 };
    #[cfg(unix)]
    options.custom_flags(libc::O_NONBLOCK | link_flag);
    #[cfg(windows)]
    options.custom_flags(link_flag);
    let file = match options.open(path) {
        #[cfg(unix)]
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(fs::metadata(path).map_or(error, |found| no_regular_file(found.file_type())));
        }
        opened => opened?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(no_regular_file(kind)) }
}

#[cfg(unix)]
pub(super) fn no_regular_file(kind: fs::FileType) -> io::Error {
    let kind = match () {
        () if kind.is_dir() => return io::Error::from_raw_os_error(libc::EISDIR),
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("{kind} has its name, where a regular file belongs"))
}

#[cfg(windows)]
pub(super) fn no_regular_file(_kind: fs::FileType) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

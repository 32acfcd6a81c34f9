//! The errors of file operations: the operation, the path, the reason, and what to do.

use super::path::parent_of;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused the operation.
    #[error("cannot {operation} {}: {source}{}", path.display(), remedy(operation, path, source))]
    Io {
        /// The operation that failed.
        operation: Operation,
        /// The file or directory of the operation.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file is shorter than its reader expected.
    #[error(
        "{} ends at byte {len_bytes}, but bytes {} to {} were expected: something else cut the file; end that \
         program and try again, or restore the file from a backup",
        path.display(), range.start, range.end
    )]
    UnexpectedEnd {
        /// The file.
        path: PathBuf,
        /// The byte range to read.
        range: Range<u64>,
        /// The length of the file at the time of the short read.
        len_bytes: u64,
    },
    /// Every name for a copy of damaged bytes is taken.
    #[error(
        "{} and its numbered successors up to .9999 all exist: look through them and move them away, then try again",
        path.display()
    )]
    QuarantineFull {
        /// The first name tried.
        path: PathBuf,
    },
    /// The file system ignores case, and the file that it finds for a name has the name in another case.
    #[error(
        "{} is {} on this file system, which ignores case: use the name as it is spelled there, or one that differs in more \
         than case",
        path.display(), listed.display()
    )]
    OtherCase {
        /// The requested path.
        path: PathBuf,
        /// The path as its directory lists it.
        listed: PathBuf,
    },
}

impl Error {
    /// The operating system's error kind; `UnexpectedEof` for a short file, `AlreadyExists` for a full quarantine,
    /// `InvalidFilename` for a name in another case.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } => source.kind(),
            Self::UnexpectedEnd { .. } => io::ErrorKind::UnexpectedEof,
            Self::QuarantineFull { .. } => io::ErrorKind::AlreadyExists,
            Self::OtherCase { .. } => io::ErrorKind::InvalidFilename,
        }
    }

    /// The file or directory concerned.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::UnexpectedEnd { path, .. }
            | Self::QuarantineFull { path }
            | Self::OtherCase { path, .. } => path,
        }
    }

    /// Whether the file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
}

fn remedy(operation: &Operation, path: &Path, reason: &io::Error) -> Cow<'static, str> {
    #[cfg(unix)]
    if reason.raw_os_error() == Some(libc::ELOOP) {
        return Cow::Borrowed("; symbolic links are not followed here: put the file itself in this place");
    }
    if reason.kind() == io::ErrorKind::AlreadyExists && path.is_symlink() && !path.exists() {
        return Cow::Borrowed(
            "; it is a symbolic link that leads nowhere: restore what it names, or remove the link",
        );
    }
    Cow::Borrowed(match reason.kind() {
        io::ErrorKind::NotFound if matches!(operation, Operation::Create | Operation::CreateDirectory) => {
            let directory = parent_of(path).display();
            return Cow::Owned(format!(
                "; directory {directory} does not exist: create it, or choose another"
            ));
        }
        io::ErrorKind::AlreadyExists if matches!(operation, Operation::Create) => {
            "; choose another name, or move away what is there"
        }
        io::ErrorKind::AlreadyExists if matches!(operation, Operation::CreateDirectory) => {
            "; it is a file: move it away, or choose another directory"
        }
        io::ErrorKind::IsADirectory => "; it is a directory: move it away",
        io::ErrorKind::NotADirectory => {
            "; a part of its path is a file: move it away, or choose another directory"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space on that file system, then try again"
        }
        io::ErrorKind::InvalidInput if matches!(operation, Operation::Open) => {
            "; move it away, or name another file"
        }
        io::ErrorKind::FileTooLarge => "; raise the limit on file sizes (ulimit -f), then try again",
        io::ErrorKind::PermissionDenied => "; check the owner and the mode of the file and of its directory",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a directory on a file system that is mounted writable",
        _ if matches!(operation, Operation::Lock) => "; the file system must support flock",
        _ => "",
    })
}

/// The operation of an [`Error`]. Prints as the words between "cannot" and the path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Open an existing file.
    Open,
    /// Create a file that must not exist.
    Create,
    /// Create a directory.
    CreateDirectory,
    /// Ask for length, times, mode or identity.
    Inspect,
    /// List a directory.
    List,
    /// Read from `offset`.
    Read {
        /// Byte offset in the file.
        offset: u64,
        /// How many bytes to read.
        len_bytes: usize,
    },
    /// Write at `offset`, or at the end of the file when `offset` is absent.
    Write {
        /// Byte offset in the file; absent for an append.
        offset: Option<u64>,
        /// How many bytes to write.
        len_bytes: usize,
    },
    /// Map the file into memory.
    Map,
    /// Take the kernel's lock on the file.
    Lock,
    /// Cut or extend the file.
    SetLength {
        /// The requested length in bytes.
        len_bytes: u64,
    },
    /// Change the mode.
    SetMode,
    /// Set the modification time.
    Touch,
    /// Wait until the file's content is on stable storage.
    Sync,
    /// Wait until the directory's entries are on stable storage.
    SyncDirectory,
    /// Rename to another path.
    Rename {
        /// The new path.
        to: PathBuf,
    },
    /// Delete.
    Remove,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Create => f.write_str("create"),
            Self::CreateDirectory => f.write_str("create directory"),
            Self::Inspect => f.write_str("inspect"),
            Self::List => f.write_str("list"),
            Self::Read { offset, len_bytes } => write!(f, "read {len_bytes} bytes at offset {offset} of"),
            Self::Write { offset: Some(offset), len_bytes } => {
                write!(f, "write {len_bytes} bytes at offset {offset} of")
            }
            Self::Write { offset: None, len_bytes } => write!(f, "append {len_bytes} bytes to"),
            Self::Map => f.write_str("map into memory"),
            Self::Lock => f.write_str("lock"),
            Self::SetLength { len_bytes } => write!(f, "set to {len_bytes} bytes the length of"),
            Self::SetMode => f.write_str("set the mode of"),
            Self::Touch => f.write_str("set the modification time of"),
            Self::Sync => f.write_str("sync"),
            Self::SyncDirectory => f.write_str("sync directory"),
            Self::Rename { to } => write!(f, "rename to {} the file", to.display()),
            Self::Remove => f.write_str("delete"),
        }
    }
}

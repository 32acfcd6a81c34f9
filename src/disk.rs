//! Durable file operations: every log of this crate creates, appends, cuts, replaces and syncs its files through this module.
//!
//! Touches the given paths, and for [`replace`] one temporary file beside the target. Knows no formats.
//!
//! Guarantees: files are created with mode 0600 and directories with mode 0700; root gives new files and directories to the
//! owner of the directory that they are in. Only regular files are opened, and opening never waits. Creating a new file
//! never follows a symbolic link. An error has the operation, the path and, where a remedy is known, the remedy. Nothing is
//! retried: a failed sync is reported, and the caller must not believe that the data are durable. All operations on bytes
//! pass through one function, `perform`, so that tests can fail the operations, count them or replay them after a power
//! cut; `faults` hooks into `perform`.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

mod error;
#[cfg(all(test, unix))]
pub(crate) mod faults;
mod kernel_lock;
mod no_link;
mod other_case;
mod owner;
mod path;
mod regular;

pub use self::error::{Error, Operation};
pub use self::kernel_lock::KernelLock;
pub use self::no_link::{metadata_of_regular_file, refuse_link};
pub use self::other_case::refuse_other_case;
pub(crate) use self::path::in_shell;
pub(crate) use self::path::lossy;
pub use self::path::{parent_of, with_suffix};
use self::regular::Links;

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
#[cfg(windows)]
use std::os::windows::fs::{FileExt, MetadataExt};

/// How many names [`quarantine`] and [`set_aside`] try: the plain name, then `.1` to `.9999`.
const QUARANTINE_NAMES: u32 = 10_000;

/// How often [`File::open_append`] and [`KernelLock::open`] try to open and then to create the file.
const OPEN_ATTEMPTS: u32 = 8;

type WriteElsewhere<'a> = &'a dyn Fn(&[u8]) -> io::Result<()>;

/// The target of an operation: always a path, and the open file and the bytes to write if the operation has them.
#[cfg_attr(not(all(test, unix)), allow(dead_code))]
struct OperationTarget<'a> {
    path: &'a Path,
    file: Option<&'a fs::File>,
    bytes: &'a [u8],
    /// Writes bytes to the place of the whole write, when another library has the file open.
    elsewhere: Option<WriteElsewhere<'a>>,
}

/// Runs an operation and turns a failure into an [`Error`]. Every operation passes here; tests count, fail and record here.
fn perform<T>(
    operation: Operation,
    target: OperationTarget<'_>,
    run: impl FnOnce() -> io::Result<T>,
) -> Result<T, Error> {
    #[cfg(all(test, unix))]
    let run = || faults::intercept(&operation, &target, run);
    run().map_err(|source| Error::Io { operation, path: target.path.to_owned(), source })
}

/// Writes all of `bytes` at `offset` into a file that another library has open; `write` writes its argument at that offset.
pub(crate) fn write_elsewhere(
    path: &Path,
    bytes: &[u8],
    offset: u64,
    write: impl Fn(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let operation = Operation::Write { offset: Some(offset), len_bytes: bytes.len() };
    perform(operation, OperationTarget { path, file: None, bytes, elsewhere: Some(&write) }, || write(bytes))
}

/// Syncs, except in unit tests: what a power cut leaves there comes from a model of the disk, and thousands of recoveries from it would
/// wait for the device. The tests of the programs sync.
fn wait_for_device(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if cfg!(test) { Ok(()) } else { sync() }
}

/// Returns `run` for another thread: in tests the other thread gets the faults of this thread.
pub(crate) fn handed_over<T>(run: impl FnOnce() -> T) -> impl FnOnce() -> T {
    #[cfg(all(test, unix))]
    let run = {
        let faults = faults::current();
        move || match faults {
            Some(faults) => faults.run(run),
            None => run(),
        }
    };
    run
}

/// Performs an operation on a name, or on a file that another library has open.
pub(crate) fn perform_on_path<T>(
    operation: Operation,
    path: &Path,
    run: impl FnOnce() -> io::Result<T>,
) -> Result<T, Error> {
    perform(operation, OperationTarget { path, file: None, bytes: &[], elsewhere: None }, run)
}

/// The identity of a file: two files that exist at the same time never compare equal.
///
/// On Windows, where the standard library has no stable file index, the identity is the creation time. A file created again
/// under the same name within seconds can inherit the creation time, so callers on Windows also need a token in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Device and inode as numbers to store; on Windows 0 and the creation time.
    pub fn numbers(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// The metadata of a file.
#[derive(Debug, Clone, Copy)]
pub struct Metadata {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Time of the last modification.
    pub modified: SystemTime,
    /// Time of the last change of content, name or mode, in nanoseconds since 1970; 0 on Windows.
    pub changed_ns: i64,
    /// The identity of the file.
    pub identity: Identity,
    /// Whether the file is a regular file (not a directory, link, socket or device).
    pub is_file: bool,
    /// Whether the file is a directory.
    pub is_directory: bool,
    /// Permission bits, 0o7777 at most; on Windows 0o600.
    pub mode: u32,
}

impl Metadata {
    fn of(metadata: &fs::Metadata) -> io::Result<Self> {
        #[cfg(unix)]
        let (identity, mode, changed_ns) = (
            Identity { device: metadata.dev(), inode: metadata.ino() },
            metadata.mode() & 0o7777,
            metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec()),
        );
        #[cfg(windows)]
        let (identity, mode, changed_ns) =
            (Identity { device: 0, inode: metadata.creation_time() }, 0o600, 0);
        Ok(Self {
            len_bytes: metadata.len(),
            modified: metadata.modified()?,
            changed_ns,
            identity,
            is_file: metadata.is_file(),
            is_directory: metadata.is_dir(),
            mode,
        })
    }
}

/// An open file with its path for error messages. Closing the file never syncs.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    path: PathBuf,
}

impl File {
    /// Creates a file with mode 0600 for reading and writing. If the path exists, even as a dangling symbolic link, the
    /// error kind is `AlreadyExists`.
    pub fn create_new(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        Self::create_with(&mut options, path)
    }

    /// Creates a file for reading and writing that is deleted when the file is closed; where the system allows it, the
    /// file has no name. The path of the returned file is the directory.
    pub fn create_unnamed(directory: &Path) -> Result<Self, Error> {
        let file = perform_on_path(Operation::Create, directory, || tempfile::tempfile_in(directory))?;
        Ok(Self { file, path: directory.to_owned() })
    }

    /// Opens a file for reading and for writing at the current end of the file; creates the file with mode 0600 when
    /// the file is missing. The flag says whether this call created the file: a durable caller then also syncs the directory.
    pub fn open_append(path: &Path) -> Result<(Self, bool), Error> {
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        Self::open_or_create(
            || Self::open_with(&mut options.clone(), Links::Followed, path),
            || Self::create_with(&mut options.clone(), path),
        )
    }

    /// Opens a file, or creates the file when the file is missing. The flag says whether the file was created. Tries both
    /// several times, because another process may create and delete the file between the two.
    fn open_or_create(
        open: impl Fn() -> Result<Self, Error>,
        create: impl Fn() -> Result<Self, Error>,
    ) -> Result<(Self, bool), Error> {
        let mut attempt = 1;
        loop {
            match open() {
                Err(error) if error.is_not_found() => {}
                opened => return opened.map(|file| (file, false)),
            }
            match create() {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < OPEN_ATTEMPTS => {}
                created => return created.map(|file| (file, true)),
            }
            attempt += 1;
        }
    }

    /// Opens an existing file for reading.
    pub fn open_read(path: &Path) -> Result<Self, Error> {
        Self::open_with(OpenOptions::new().read(true), Links::Followed, path)
    }

    /// Opens an existing file for reading and writing at offsets.
    pub fn open_rw(path: &Path) -> Result<Self, Error> {
        Self::open_with(OpenOptions::new().read(true).write(true), Links::Followed, path)
    }

    /// Opens an existing file for reading; a symbolic link at the path is an error.
    pub fn open_read_no_follow(path: &Path) -> Result<Self, Error> {
        Self::open_with(OpenOptions::new().read(true), Links::Refused, path)
    }

    /// Opens an existing file to sync the writes of others. The mode of the file need not allow writing where the system
    /// syncs through any handle.
    pub fn open_to_sync(path: &Path) -> Result<Self, Error> {
        Self::open_with(OpenOptions::new().read(true).write(cfg!(windows)), Links::Followed, path)
    }

    fn create_with(options: &mut OpenOptions, path: &Path) -> Result<Self, Error> {
        regular::no_follow(options.create_new(true));
        #[cfg(unix)]
        options.mode(0o600);
        let file = perform_on_path(Operation::Create, path, || {
            let file = options.open(path)?;
            owner::give_to_owner_of_directory(parent_of(path), &file);
            Ok(file)
        })?;
        Ok(Self { file, path: path.to_owned() })
    }

    fn open_with(options: &mut OpenOptions, links: Links, path: &Path) -> Result<Self, Error> {
        let file = perform_on_path(Operation::Open, path, || regular::open(options, links, path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    fn perform<T>(
        &self,
        operation: Operation,
        bytes: &[u8],
        run: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, Error> {
        perform(
            operation,
            OperationTarget { path: &self.path, file: Some(&self.file), bytes, elsewhere: None },
            run,
        )
    }

    /// The path that the file was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The handle, for mapping the file. Writes through the handle bypass fault injection.
    pub fn as_std(&self) -> &fs::File {
        &self.file
    }

    /// The handle, for another owner. Operations on it bypass fault injection.
    pub(crate) fn into_std(self) -> fs::File {
        self.file
    }

    /// Writes all of `bytes` at the handle's position: at the end of the file after [`File::open_append`], else after
    /// the previous write. After an error an unknown part of the bytes is in the file.
    pub fn write_all(&self, bytes: &[u8]) -> Result<(), Error> {
        self.perform(Operation::Write { offset: None, len_bytes: bytes.len() }, bytes, || {
            (&self.file).write_all(bytes)
        })
    }

    /// Writes all of `bytes` at `offset`. Not for handles of [`File::open_append`], because their writes ignore offsets.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.perform(Operation::Write { offset: Some(offset), len_bytes: bytes.len() }, bytes, || {
            write_all_at(&self.file, bytes, offset)
        })
    }

    /// Reads from `offset` into `buffer`; returns the number of bytes, which is less than requested only at the end of the file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        self.perform(Operation::Read { offset, len_bytes: buffer.len() }, &[], || {
            let mut filled = 0;
            while filled < buffer.len() {
                match read_once_at(&self.file, &mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })
    }

    /// Reads a range a piece at a time, for as long as `each` returns `true` and the file goes on. Returns the number of bytes read.
    pub(crate) fn read_pieces(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<u64, Error> {
        const PIECE_BYTES: u64 = 1 << 20;
        let mut piece = vec![0; PIECE_BYTES.min(range.end.saturating_sub(range.start)) as usize];
        let mut offset = range.start;
        while offset < range.end {
            let wanted = PIECE_BYTES.min(range.end - offset) as usize;
            let read = self.read_at(&mut piece[..wanted], offset)?;
            offset += read as u64;
            if read == 0 || !each(&piece[..read]) {
                break;
            }
        }
        Ok(offset - range.start)
    }

    /// Fills `buffer` from `offset`, or fails with [`Error::UnexpectedEnd`].
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let read = self.read_at(buffer, offset)?;
        if read < buffer.len() {
            return Err(Error::UnexpectedEnd {
                path: self.path.clone(),
                range: offset..offset + buffer.len() as u64,
                len_bytes: offset + read as u64,
            });
        }
        Ok(())
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> Result<u64, Error> {
        Ok(self.metadata()?.len_bytes)
    }

    /// Cuts the file, or extends the file with zeros. Before a cut, [`quarantine`] saves bytes that are worth keeping.
    pub fn set_len(&self, len_bytes: u64) -> Result<(), Error> {
        self.perform(Operation::SetLength { len_bytes }, &[], || self.file.set_len(len_bytes))
    }

    /// Allocates the blocks of the first `len_bytes` before they are written; the length of the file does not change.
    /// Where the system cannot allocate blocks, nothing happens, and only time is lost.
    pub fn preallocate(&self, len_bytes: u64) {
        #[cfg(target_os = "linux")]
        if let Ok(len_bytes) = libc::off_t::try_from(len_bytes) {
            use std::os::fd::AsRawFd;
            // SAFETY: the descriptor is open as long as `self` is borrowed; no memory is passed.
            let _ =
                unsafe { libc::fallocate(self.file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, len_bytes) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = len_bytes;
    }

    /// Waits until content and length are on stable storage.
    pub fn sync_data(&self) -> Result<(), Error> {
        self.perform(Operation::Sync, &[], || wait_for_device(|| self.file.sync_data()))
    }

    /// Waits until content and all metadata are on stable storage. The file's name may not be: see [`sync_dir`].
    pub fn sync_all(&self) -> Result<(), Error> {
        self.perform(Operation::Sync, &[], || wait_for_device(|| self.file.sync_all()))
    }

    /// Length, modification time, identity and mode of the open file, even when its name is gone.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        self.perform(Operation::Inspect, &[], || Metadata::of(&self.file.metadata()?))
    }

    /// Sets the times of the open file, even when its name is gone, to now by the clock of its file system, which on a
    /// network file system is the server's clock; on Windows by the clock of this machine.
    pub fn touch(&self) -> Result<(), Error> {
        self.perform(Operation::Touch, &[], || touch(&self.file))
    }
}

#[cfg(unix)]
fn touch(file: &fs::File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open as long as `file` is borrowed; a null pointer means the current time.
    match unsafe { libc::futimens(file.as_raw_fd(), std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(windows)]
fn touch(file: &fs::File) -> io::Result<()> {
    file.set_modified(SystemTime::now())
}

#[cfg(unix)]
fn write_all_at(file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &fs::File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = file.seek_write(bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

#[cfg(unix)]
fn read_once_at(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

#[cfg(windows)]
fn read_once_at(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}

/// Gives `buffer` this length, to read into it. What it had is lost.
///
/// `Vec::resize` writes byte by byte in a debug build: four fifths of the time of some tests.
pub(crate) fn make_room(buffer: &mut Vec<u8>, len_bytes: usize) {
    if buffer.len() < len_bytes {
        *buffer = vec![0; len_bytes];
    } else {
        buffer.truncate(len_bytes);
    }
}

/// Reads a whole regular file. Opening never waits, so a named pipe or a device is an error.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open_read(path)?;
    let mut bytes = vec![0; usize::try_from(file.len_bytes()?).unwrap_or(usize::MAX)];
    let len_bytes = file.read_at(&mut bytes, 0)?;
    bytes.truncate(len_bytes);
    Ok(bytes)
}

/// Metadata of `path` itself: a symbolic link is reported, not followed.
pub fn metadata(path: &Path) -> Result<Metadata, Error> {
    perform_on_path(Operation::Inspect, path, || Metadata::of(&fs::symlink_metadata(path)?))
}

/// Metadata of `path` as of [`metadata`], but a symbolic link is followed.
pub fn metadata_of_target(path: &Path) -> Result<Metadata, Error> {
    perform_on_path(Operation::Inspect, path, || Metadata::of(&fs::metadata(path)?))
}

/// Checks whether this process may read the file at `path`, with links followed, without opening the file, because closing
/// a descriptor of a file drops every POSIX lock that this process has on the file. On Windows, which has no such locks,
/// the file is opened.
pub fn check_readable(path: &Path) -> Result<(), Error> {
    perform_on_path(Operation::Open, path, || is_readable(path))
}

#[cfg(unix)]
fn is_readable(path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `name` is a string that ends with a zero and outlives the call, which only reads it.
    match unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::R_OK, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(windows)]
fn is_readable(path: &Path) -> io::Result<()> {
    fs::File::open(path).map(|_| ())
}

/// The paths of everything in a directory, in byte order.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    perform_on_path(Operation::List, directory, || {
        let mut paths = fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    })
}

/// Creates a directory and its missing parents with mode 0700. Names created here are durable on return; for an existing
/// directory the function only looks at the path and syncs nothing.
pub fn create_dir_all(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.is_dir())
        .collect();
    for directory in missing.into_iter().rev() {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        builder.mode(0o700);
        match perform_on_path(Operation::CreateDirectory, directory, || builder.create(directory)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            other => {
                other?;
                owner::give_directory_to_owner_of(parent_of(directory), directory);
            }
        }
        sync_dir(parent_of(directory))?;
    }
    Ok(())
}

/// Creates a directory with mode 0700 in `parent`, with a name of its own that begins with `prefix`. The directory is removed
/// with its content when the value is dropped.
#[cfg(feature = "agents")]
pub(crate) fn temporary_dir_in(parent: &Path, prefix: &str) -> Result<tempfile::TempDir, Error> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(fs::Permissions::from_mode(0o700));
    perform_on_path(Operation::CreateDirectory, parent, || builder.tempdir_in(parent))
}

/// Waits until the directory's entries (names created, renamed, deleted) are on stable storage. Does nothing on Windows.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    perform_on_path(Operation::SyncDirectory, path, || sync_directory(path))
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    // Only a directory is opened, because opening a named pipe with the directory's name would wait.
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
    match wait_for_device(|| directory.sync_all()) {
        // Some network and FUSE file systems cannot sync a directory and return EINVAL; there is no other way to
        // sync the directory.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

#[cfg(windows)]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Renames `from` to `to` and replaces a file at `to`. Not synced: see [`sync_dir`].
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    perform_on_path(Operation::Rename { to: to.to_owned() }, from, || fs::rename(from, to))
}

/// Deletes a file (if the path is a symbolic link, the link). Not synced: see [`sync_dir`].
pub fn remove_file(path: &Path) -> Result<(), Error> {
    perform_on_path(Operation::Remove, path, || fs::remove_file(path))
}

/// Deletes an empty directory. Not synced: see [`sync_dir`].
pub fn remove_dir(path: &Path) -> Result<(), Error> {
    perform_on_path(Operation::Remove, path, || fs::remove_dir(path))
}

/// Deletes a file if the file exists; returns whether this call deleted the file.
pub fn remove_file_if_exists(path: &Path) -> Result<bool, Error> {
    Ok(if_there(remove_file(path))?.is_some())
}

/// Turns the failure of an operation on a path at which nothing exists into `None`.
pub fn if_there<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// Whether a replacement lasts through a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacing {
    /// File and directory are synced: after a power cut the file has the old or the whole new content, and after `Ok` the
    /// new content.
    Durable,
    /// Nothing is synced. For files that can be derived again.
    Unsynced,
}

/// Replaces the whole content of `path` atomically: see [`replace_with`].
pub fn replace(path: &Path, bytes: &[u8], replacing: Replacing) -> Result<(), Error> {
    replace_with(path, replacing, |file| file.write_all(bytes))
}

/// Returns the file that `path` leads to through symbolic links; the file need not exist. A caller of [`replace`] whose file was chosen
/// or put there by a person replaces this file, because a person who keeps a link there wants to keep the link.
pub(crate) fn target_of(path: &Path) -> Result<PathBuf, Error> {
    const LINKS_MAX: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&target) {
            Ok(next) => target = parent_of(&target).join(next),
            // It is no link, or whoever opens it says what is wrong.
            Err(_) => return Ok(target),
        }
    }
    let reason = "more than 40 symbolic links lead on from it; name the file that they lead to";
    let source = io::Error::other(reason);
    Err(Error::Io { operation: Operation::Inspect, path: path.to_owned(), source })
}

/// Replaces or creates `path` with the bytes that `write` writes: readers see the old content or the new content, never a mixture.
///
/// The new content is written to an exclusively created temporary file beside `path` (`<name>.<32 hex digits>.tmp`). The
/// temporary file gets the mode of the replaced file, and the owner and group as far as this process may give files away.
/// On any error the temporary file is deleted. If `path` is a symbolic link, the link itself is replaced.
pub fn replace_with<E: From<Error>>(
    path: &Path,
    replacing: Replacing,
    write: impl FnOnce(&File) -> Result<(), E>,
) -> Result<(), E> {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let temporary = path.with_file_name(name);
    let file = File::create_new(&temporary)?;
    let replaced = fill(&file, path, replacing, write).and_then(|()| Ok(rename(&temporary, path)?));
    if replaced.is_err() {
        // The first error is the error to report; a temporary file that cannot be deleted either is harmless.
        let _ = remove_file(&temporary);
        return replaced;
    }
    if replacing == Replacing::Durable {
        sync_dir(parent_of(path))?;
    }
    Ok(())
}

fn fill<E: From<Error>>(
    file: &File,
    replaced: &Path,
    replacing: Replacing,
    write: impl FnOnce(&File) -> Result<(), E>,
) -> Result<(), E> {
    match metadata(replaced) {
        Ok(old) if old.is_file => {
            // Before the mode, because a change of owner clears bits of the mode.
            owner::give_to_owner_of(replaced, &file.file);
            set_mode(file, old.mode)?;
        }
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    write(file)?;
    if replacing == Replacing::Durable {
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> Result<(), Error> {
    file.perform(Operation::SetMode, &[], || file.file.set_permissions(fs::Permissions::from_mode(mode)))
}

#[cfg(windows)]
fn set_mode(_file: &File, _mode: u32) -> Result<(), Error> {
    Ok(())
}

/// Saves a byte range of `file` as `directory/name`, or as `name.1` to `name.9999` when the name is taken, and returns the
/// path. The copy and its name are durable on return: only then may the caller cut the range from the file. The directory
/// is created when missing; no file in the directory is ever overwritten. The name of the directory is synced, too, because a killed
/// program may have created the directory and not synced its name.
pub fn quarantine(file: &File, range: Range<u64>, directory: &Path, name: &str) -> Result<PathBuf, Error> {
    create_dir_all(directory)?;
    sync_dir(parent_of(directory))?;
    let copy = create_numbered(directory, name)?;
    let copied = copy_range(file, range, &copy).and_then(|()| copy.sync_all());
    if let Err(error) = copied {
        // Half a copy under a normal name would mislead; the original file still has the bytes.
        let _ = remove_file(copy.path());
        return Err(error);
    }
    sync_dir(directory)?;
    Ok(copy.path)
}

fn create_numbered(directory: &Path, name: &str) -> Result<File, Error> {
    let first = directory.join(name);
    for path in numbered(&first) {
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(Error::QuarantineFull { path: first })
}

/// `path`, then `path.1` to `path.9999`.
fn numbered(path: &Path) -> impl Iterator<Item = PathBuf> {
    let successor = |number: u32| with_suffix(path, &format!(".{number}"));
    std::iter::once(path.to_owned()).chain((1..QUARANTINE_NAMES).map(successor))
}

/// Renames a file to `path` with `suffix` appended, or with `.1` to `.9999` appended to that name when the name is taken,
/// and returns the new path. The caller must hold the lock of the data that the file belongs to, because two callers at
/// once could choose the same name. Not synced: see [`sync_dir`].
pub fn set_aside(path: &Path, suffix: &str) -> Result<PathBuf, Error> {
    let first = with_suffix(path, suffix);
    for target in numbered(&first) {
        match metadata(&target) {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {
                rename(path, &target)?;
                return Ok(target);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::QuarantineFull { path: first })
}

fn copy_range(from: &File, range: Range<u64>, to: &File) -> Result<(), Error> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let mut buffer = vec![0; CHUNK_BYTES.min(range.end - range.start) as usize];
    let mut offset = range.start;
    while offset < range.end {
        let chunk = &mut buffer[..CHUNK_BYTES.min(range.end - offset) as usize];
        from.read_exact_at(chunk, offset)?;
        to.write_all(chunk)?;
        offset += chunk.len() as u64;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests;

//! A log file opened for scanning: mapped, or read in pieces.
//!
//! May open and map a file for reading. Never writes and never takes a lock. Guarantees: every returned byte is below the
//! length that the file had when it was opened. A file that grows meanwhile keeps the old length here; a file that shrinks ends
//! in [`ScanError::Truncated`].

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::truncation::{self, Region};

fn remedy(reason: &std::io::Error) -> &'static str {
    match reason.kind() {
        std::io::ErrorKind::NotFound => "name a file that exists",
        std::io::ErrorKind::PermissionDenied => {
            "check the owner and the mode of the file and of its directory"
        }
        std::io::ErrorKind::IsADirectory => "it is a directory: move it away",
        std::io::ErrorKind::NotADirectory => {
            "a part of its path is a file: move it away, or choose another directory"
        }
        _ => "name another file, or repair this one",
    }
}

/// Errors while a log file is scanned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The file could not be opened or examined.
    #[error("cannot open {}: {source}; {}", path.display(), remedy(source))]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The path names something that is not a regular file.
    #[error("{} is not a regular file; move it away, or name a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file could not be mapped. [`Io::Read`] may still work.
    #[error(
        "cannot map {} into memory: {source}; raise the limit on address space (ulimit -v), move the file to a file system \
         that can map, or add `--io read` where the command has it",
        path.display()
    )]
    Map {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Bytes could not be read.
    #[error("cannot read {} at byte {offset}: {source}; {}", path.display(), remedy(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Where reading failed, in bytes from the start of the file.
        offset: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is shorter than when it was opened.
    #[error(
        "{} was truncated while it was read: it had {expected_bytes} bytes, now {found_bytes}; \
         nothing was changed, run again when nobody rewrites it",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The file's length in bytes when it was opened.
        expected_bytes: u64,
        /// The file's length in bytes now.
        found_bytes: u64,
    },
}

/// A range of at least this many bytes, requested at once, is read ahead: a whole segment, for example.
const READ_AHEAD_MIN_BYTES: u64 = 4 << 20;

/// How the bytes of a file are read.
///
/// The default is the map where a file that is cut under its map is an error, and reads where such a cut would end the process:
/// see [`truncation::install`](super::truncation::install).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// Through a memory map: no copy, the page cache is the buffer. A file that is cut under its map ends a process that has not
    /// called [`truncation::install`](super::truncation::install).
    Mmap,
    /// Through positioned reads into a buffer: for file systems that cannot map, or where a map is not wanted.
    Read,
}

impl Default for Io {
    fn default() -> Self {
        if truncation::is_installed() { Self::Mmap } else { Self::Read }
    }
}

/// A log file opened for scanning; the length is fixed when the file is opened.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: Arc<File>,
    /// The watch ends before the map does, because the fields of a tuple are dropped in order.
    map: Option<(Region, Mmap)>,
    len_bytes: u64,
    mtime_ms: i64,
}

#[cfg(unix)]
fn file_identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(windows)]
fn file_identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::windows::fs::MetadataExt;
    (0, metadata.creation_time())
}

impl Source {
    /// Opens `path` for scanning.
    ///
    /// # Errors
    /// [`ScanError::Open`] (with the system's error, so that a caller can recognise a missing file), [`ScanError::NotAFile`],
    /// [`ScanError::Map`].
    pub fn open(path: &Path, io: Io) -> Result<Self, ScanError> {
        let file = open_without_waiting(path)
            .map_err(|source| ScanError::Open { path: path.to_path_buf(), source })?;
        Self::of_file(path, Arc::new(file), io)
    }

    /// Scans a file that is open already. Errors name `path`.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub(crate) fn of_file(path: &Path, file: Arc<File>, io: Io) -> Result<Self, ScanError> {
        let open = |source| ScanError::Open { path: path.to_path_buf(), source };
        let metadata = file.metadata().map_err(open)?;
        if !metadata.is_file() {
            return Err(ScanError::NotAFile { path: path.to_path_buf() });
        }
        let len_bytes = metadata.len();
        let map = match io {
            // An empty file cannot be mapped, and needs no map.
            Io::Mmap if len_bytes > 0 => {
                // SAFETY: the map is read-only and private to this value. Another process may change or truncate the file under
                // the map. Log lines are copied out before they are interpreted as text; the session store checks a chunk and
                // an index line as UTF-8 and reads them as `str` in the map. The session store relies on checked bytes not
                // changing: writers of a store hold its lock and only append, cut, or rename over, and `check_len` refuses
                // bytes of a file that was cut meanwhile. A writer that ignores the lock and overwrites bytes in place, or a
                // cut through a character that is being read, can change text that was checked: no read leaves the bounds of
                // the map, but the content of such text is not promised. A truncated file raises SIGBUS when a page beyond the
                // new end is touched: with `truncation::install` the signal becomes `ScanError::Truncated`, without
                // `truncation::install` the process ends, as the documentation of `truncation::install` says.
                let map = unsafe { Mmap::map(&*file) }
                    .map_err(|source| ScanError::Map { path: path.to_path_buf(), source })?;
                let region = truncation::watch(map.as_ptr() as usize, map.len());
                Some((region, map))
            }
            _ => None,
        };
        Ok(Self { path: path.to_path_buf(), file, map, len_bytes, mtime_ms: mtime_ms(&metadata) })
    }

    /// Opens `path` for scanning; `None` when no file exists.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_if_there(path: &Path, io: Io) -> Result<Option<Self>, ScanError> {
        match Self::open(path, io) {
            Err(ScanError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Drops the map of a file of more than `len_bytes`, so that the file is read through buffers.
    pub(crate) fn unmap_if_longer_than(mut self, len_bytes: u64) -> Self {
        self.map = self.map.filter(|_| self.len_bytes <= len_bytes);
        self
    }

    /// The path by which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes when it was opened.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether both are the same open file: a path may name another file later.
    pub fn is_same_file(&self, other: &Self) -> bool {
        let identity = |source: &Self| source.file.metadata().map(|metadata| file_identity(&metadata));
        matches!((identity(self), identity(other)), (Ok(a), Ok(b)) if a == b)
    }

    /// The time of the file's last change, taken when the file was opened, in whole milliseconds since 1970, rounded down.
    pub fn mtime_ms(&self) -> i64 {
        self.mtime_ms
    }

    /// The bytes of `range`: a slice of the map, or read into `buffer`. A read drops the buffer's old content.
    ///
    /// # Errors
    /// [`ScanError::Read`]; [`ScanError::Truncated`] when the file ends before the range does.
    ///
    /// # Panics
    /// When the range ends after [`Source::len_bytes`].
    pub fn bytes<'b>(&'b self, range: Range<u64>, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], ScanError> {
        assert!(range.start <= range.end && range.end <= self.len_bytes, "{range:?} is outside the file");
        if let Some((_, map)) = &self.map {
            if range.end - range.start >= READ_AHEAD_MIN_BYTES {
                self.read_ahead(range.clone());
            }
            return Ok(&map[range.start as usize..range.end as usize]);
        }
        self.read(range, buffer)
    }

    /// Tells the system that `range` is about to be read from its start to its end. Without the advice a touched page brings in
    /// a few of its neighbours; with the advice the whole range is read ahead in large pieces, so advise only ranges that are
    /// read.
    pub(super) fn read_ahead(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some((_, map)) = self.map.as_ref().filter(|_| range.start < range.end) {
            let len_bytes = (range.end - range.start) as usize;
            let _ = map.advise_range(memmap2::Advice::Sequential, range.start as usize, len_bytes);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The bytes of `range`, read into `buffer` even where the file is mapped: a small piece far from the other reads costs no
    /// more than its own pages.
    ///
    /// # Errors
    /// As [`Source::bytes`].
    ///
    /// # Panics
    /// As [`Source::bytes`].
    pub fn read<'b>(&self, range: Range<u64>, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], ScanError> {
        assert!(range.start <= range.end && range.end <= self.len_bytes, "{range:?} is outside the file");
        buffer.resize((range.end - range.start) as usize, 0);
        let mut filled = 0;
        while filled < buffer.len() {
            let offset = range.start + filled as u64;
            match read_at(&self.file, &mut buffer[filled..], offset) {
                Ok(0) => return Err(self.truncated(offset)),
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ScanError::Read { path: self.path.clone(), offset, source }),
            }
        }
        Ok(buffer)
    }

    /// Checks that the returned bytes can be trusted: the file is still as long as when it was opened.
    ///
    /// A map of a truncated file has zeros after the new end, so a scan calls this before it uses its results.
    ///
    /// # Errors
    /// [`ScanError::Truncated`], [`ScanError::Read`] when the file cannot be examined.
    pub fn check_len(&self) -> Result<(), ScanError> {
        let found = self
            .file
            .metadata()
            .map_err(|source| ScanError::Read { path: self.path.clone(), offset: 0, source })?
            .len();
        let faulted = self.map.as_ref().is_some_and(|(region, _)| region.faulted());
        if found < self.len_bytes || faulted { Err(self.truncated(found)) } else { Ok(()) }
    }

    /// The offset after the last LF before `end`, or `floor` when there is no LF between the two.
    ///
    /// # Errors
    /// As [`Source::bytes`].
    pub fn line_end_before(&self, floor: u64, end: u64) -> Result<u64, ScanError> {
        const WINDOW_BYTES: u64 = 64 * 1024;
        let mut buffer = Vec::new();
        let mut end = end;
        while end > floor {
            let start = end.saturating_sub(WINDOW_BYTES).max(floor);
            if let Some(at) = memchr::memrchr(b'\n', self.read(start..end, &mut buffer)?) {
                return Ok(start + at as u64 + 1);
            }
            end = start;
        }
        Ok(floor)
    }

    /// The offset after the first LF at or after `start`, or `end` when there is no LF between the two.
    ///
    /// # Errors
    /// As [`Source::bytes`].
    pub fn line_end_after(&self, start: u64, end: u64) -> Result<u64, ScanError> {
        const WINDOW_BYTES: u64 = 64 * 1024;
        let mut buffer = Vec::new();
        let mut start = start;
        while start < end {
            let stop = (start + WINDOW_BYTES).min(end);
            if let Some(at) = memchr::memchr(b'\n', self.bytes(start..stop, &mut buffer)?) {
                return Ok(start + at as u64 + 1);
            }
            start = stop;
        }
        Ok(end)
    }

    fn truncated(&self, found_bytes: u64) -> ScanError {
        ScanError::Truncated { path: self.path.clone(), expected_bytes: self.len_bytes, found_bytes }
    }
}

/// Opens without blocking. Otherwise opening a pipe would wait for a writer, before the pipe could be recognised.
fn open_without_waiting(path: &Path) -> std::io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    options.open(path)
}

fn mtime_ms(metadata: &std::fs::Metadata) -> i64 {
    let Ok(modified) = metadata.modified() else { return 0 };
    match modified.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            // Rounded down, away from zero: 0.5 ms before 1970 is -1.
            let nanos = before.duration().as_nanos();
            -i64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i64::MAX)
        }
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

//! The vocabulary of all logs: when a record is durable, what opening a store changed, and the steps that every opening takes.
//!
//! Touches the files and directories that it is given. Knows no format.
//!
//! Each rule holds for every log:
//!
//! - One writer: it holds the kernel's lock on a file of the store from before its first read until after its last write.
//! - Symbolic links: a store's directory may be reached through one. A file or directory inside it may not be one, because a log
//!   with two names could be written twice. The segments of a journal are the exception: its format lets them lie on
//!   another disk.
//! - Saved tails: bytes are cut only after a durable copy of them exists, unless they cannot hold anything acknowledged, such as
//!   white space, zeros or an unfinished frame.
//! - Files that cannot be used are renamed and never deleted.
//! - Inherited bytes: whatever a killed writer left unsynced is synced before the store is used, data before names, because
//!   from then on it counts as acknowledged.
//! - Leftovers: a temporary file of a replacement that was killed half-way is deleted by the next holder of the lock. Where
//!   the lock does not cover the replacement, only a file that is an hour old is deleted. The same holds for a temporary directory.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::disk::{self, KernelLock};

/// How long a writer that waits for the lock sleeps between two attempts: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_micros(200);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// How old a temporary file is before its replacement counts as killed. A replacement takes milliseconds.
pub(crate) const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// When an appended record is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Before the append returns. Callers that wait at the same time share one sync.
    #[default]
    Immediate,
    /// After the append has returned: once `max_records` wait for a sync, or the oldest has waited for `max_delay`.
    Batched {
        /// How many records may wait; 0 counts as 1.
        max_records: usize,
        /// How long a record may wait.
        max_delay: Duration,
    },
    /// When the operating system writes it, a segment is sealed, or the store is synced or closed.
    Os,
}

/// What opening a store changed; empty when every file was sound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Files whose damaged or unfinished end was cut.
    pub truncated: Vec<Cut>,
    /// Files that were renamed because they cannot be used; `quarantined` in documents.
    #[serde(rename = "quarantined")]
    pub set_aside: Vec<SetAside>,
}

impl Recovery {
    /// Whether no file was cut or renamed.
    pub fn is_empty(&self) -> bool {
        self.truncated.is_empty() && self.set_aside.is_empty()
    }

    /// Returns the number of bytes that were cut off.
    pub fn truncated_bytes(&self) -> u64 {
        self.truncated.iter().map(|cut| cut.from_length - cut.length).sum()
    }

    /// The same with names relative to the store's directory, as documents have them.
    #[must_use]
    pub fn relative_to(mut self, directory: &Path) -> Self {
        let cuts = self.truncated.iter_mut().flat_map(|cut| [Some(&mut cut.file), cut.saved_as.as_mut()]);
        let renamed =
            self.set_aside.iter_mut().flat_map(|aside| [Some(&mut aside.file), Some(&mut aside.saved_as)]);
        for path in cuts.chain(renamed).flatten() {
            if let Ok(inside) = path.strip_prefix(directory) {
                *path = inside.to_owned();
            }
        }
        self
    }

    /// Writes what was changed to the log of the program, for callers that do not get it.
    pub(crate) fn log(&self) {
        for Cut { file, length, from_length, reason, saved_as, .. } in &self.truncated {
            let file = file.display();
            tracing::warn!(%file, length, from_length, reason, ?saved_as, "the end of a file was cut");
        }
        for SetAside { file, saved_as } in &self.set_aside {
            tracing::warn!(file = %file.display(), saved_as = %saved_as.display(), "a file was renamed");
        }
    }

    /// Adds what a later step changed.
    #[cfg(any(feature = "session", feature = "book"))]
    pub(crate) fn append(&mut self, mut later: Self) {
        self.truncated.append(&mut later.truncated);
        self.set_aside.append(&mut later.set_aside);
    }
}

/// A file whose end was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The file.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub file: PathBuf,
    /// Its length in bytes now.
    pub length: u64,
    /// Its length in bytes before.
    pub from_length: u64,
    /// The offsets of the log that the cut bytes had, from the first to after the last; only a journal has such offsets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offsets: Option<[u64; 2]>,
    /// Why the bytes were cut.
    pub reason: String,
    /// A copy of the bytes; `None` when they could not hold anything acknowledged.
    #[serde(serialize_with = "crate::disk::lossy::maybe")]
    pub saved_as: Option<PathBuf>,
}

impl Cut {
    /// Prepares to cut the file `path` to `length` bytes, and does not change the file. [`Cut::carry_out`] cuts it.
    ///
    /// Saves the range `saved` of the file durably as `directory/name`. An empty range is not saved.
    pub(crate) fn save(
        path: &Path,
        length: u64,
        saved: Range<u64>,
        (directory, name): (&Path, &str),
        reason: String,
    ) -> Result<Self, disk::Error> {
        let file = disk::File::open_rw(path)?;
        let from_length = file.len_bytes()?;
        let saved_as =
            if saved.is_empty() { None } else { Some(disk::quarantine(&file, saved, directory, name)?) };
        Ok(Self { file: path.to_owned(), length, from_length, offsets: None, reason, saved_as })
    }

    /// Cuts the file, durably.
    pub(crate) fn carry_out(&self) -> Result<(), disk::Error> {
        let file = disk::File::open_rw(&self.file)?;
        file.set_len(self.length)?;
        file.sync_all()
    }
}

/// A file that was renamed because it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetAside {
    /// Its name before.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub file: PathBuf,
    /// Its name now.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub saved_as: PathBuf,
}

impl SetAside {
    /// Renames a file to its name with `suffix` appended, and with `.1` to `.9999` when that name is taken. The caller syncs the
    /// directory.
    pub(crate) fn rename(path: &Path, suffix: &str) -> Result<Self, disk::Error> {
        Ok(Self { file: path.to_owned(), saved_as: disk::set_aside(path, suffix)? })
    }
}

/// Something that a check found wrong. Prints as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding<P> {
    /// The file.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub file: PathBuf,
    /// Where in the file, in bytes; `None` when the whole file is concerned.
    pub offset: Option<u64>,
    /// What kind of problem it is; in documents its members are those of the finding.
    #[serde(flatten)]
    pub problem: P,
    /// What exactly is wrong, and what becomes of it.
    pub reason: String,
}

impl<P> fmt::Display for Finding<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        match self.offset {
            Some(offset) => write!(f, "{file} at byte {offset}: {}", self.reason),
            // An error of the system has the path in its text.
            None if self.reason.contains(&file) => f.write_str(&self.reason),
            None => write!(f, "{file}: {}", self.reason),
        }
    }
}

/// The result of a check, which changes nothing: the status of a store, and everything that is wrong.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Check<S, P> {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What the store holds; in documents its members are those of the check.
    #[serde(flatten)]
    pub status: S,
    /// What is wrong, in the order in which it was found. Of very many the later ones are only counted.
    pub findings: Vec<Finding<P>>,
    /// Findings that are not in `findings`, because they would take too much memory.
    pub findings_left_out: u64,
}

impl<S, P> Check<S, P> {
    pub(crate) fn new(status: S, findings: Vec<Finding<P>>, findings_left_out: u64) -> Self {
        Self { ok: findings.is_empty(), status, findings, findings_left_out }
    }
}

/// Takes the writer's lock, which is the kernel's lock on the file `path`, and tries again until `timeout` has passed. Returns `None`
/// when another writer still holds it.
pub(crate) fn lock(path: &Path, timeout: Duration) -> Result<Option<KernelLock>, disk::Error> {
    let mut lock = KernelLock::open(path)?;
    let deadline = Instant::now().checked_add(timeout);
    let mut wait = FIRST_WAIT;
    loop {
        if lock.try_lock()? {
            return Ok(Some(lock));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Deletes the temporary files in `directory` whose names begin with one of `prefixes`. Replacements left them when they were killed.
/// `age` is [`Duration::ZERO`] where the caller holds the lock that covers the replacements, and otherwise [`LEFTOVER_AGE`].
pub(crate) fn remove_leftovers(
    directory: &Path,
    prefixes: &[&str],
    age: Duration,
) -> Result<(), disk::Error> {
    for path in disk::list(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // `cursors.json.tmp` belongs to another program: it has no word between the prefix `cursors.json.` and `.tmp`.
        let is_ours = |stem: &str| prefixes.iter().any(|prefix| stem.starts_with(prefix));
        if !name.strip_suffix(".tmp").is_some_and(is_ours) {
            continue;
        }
        let Some(metadata) = disk::if_there(disk::metadata(&path))? else { continue };
        if !metadata.is_file {
            continue;
        }
        if age.is_zero() {
            disk::remove_file_if_exists(&path)?;
        } else if metadata.modified.elapsed().is_ok_and(|since| since >= age) {
            // A file that cannot be deleted does no harm.
            let _ = disk::remove_file_if_exists(&path);
        }
    }
    Ok(())
}

/// Deletes the directories in `parent` whose names begin with `prefix`, and in which nothing was changed for [`LEFTOVER_AGE`]. Runs
/// left them when they were killed. A directory that cannot be deleted does no harm.
#[cfg(feature = "cli")]
pub(crate) fn remove_leftover_directories(parent: &Path, prefix: &str) {
    let is_old = |path: &PathBuf| {
        disk::metadata(path)
            .is_ok_and(|found| found.modified.elapsed().is_ok_and(|since| since >= LEFTOVER_AGE))
    };
    for path in disk::list(parent).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_leftover = name.starts_with(prefix)
            && disk::metadata(&path).is_ok_and(|found| found.is_directory)
            && is_old(&path)
            && disk::list(&path).is_ok_and(|inside| inside.iter().all(is_old));
        if is_leftover {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// Makes durable what a killed writer left: the content of those `files` that are there, then the names in `directories`.
pub(crate) fn sync_inherited<F: AsRef<Path>, D: AsRef<Path>>(
    files: impl IntoIterator<Item = F>,
    directories: impl IntoIterator<Item = D>,
) -> Result<(), disk::Error> {
    for path in files {
        if let Some(file) = disk::if_there(disk::File::open_to_sync(path.as_ref()))? {
            file.sync_data()?;
        }
    }
    directories.into_iter().try_for_each(|directory| disk::sync_dir(directory.as_ref()))
}

/// Makes the name of a store's directory durable. A program may have been killed after it created the directory and before it
/// synced the name.
pub(crate) fn sync_name_of(directory: &Path) -> Result<(), disk::Error> {
    match disk::sync_dir(disk::parent_of(directory)) {
        // This user may be allowed to pass through the parent, and not to open it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

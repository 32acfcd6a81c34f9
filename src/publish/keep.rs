//! Keeps files beside the archive for people: an archive whose ledger lost lines that the archive has, a file that
//! was not a database.
//!
//! Touches: files named `<archive>.set-aside-<milliseconds since 1970>` beside the archive; the live archive as any
//! reader does.
//!
//! Guarantees: a file with such a name is complete; when a function returns the name, the file is also durable. This
//! module never overwrites or deletes such a file. Only the caller may delete a copy that it has just made.
//!
//! A crash, or a directory that cannot be synced, may leave a copy of an archive that was not replaced. The copy is
//! kept. When a later build has to keep the archive again and the new copy has the same bytes, the build uses the
//! existing copy.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};

use super::connection::{WRITER_WAIT, open};
use super::error::PublishError;
use super::live;
use super::temp_database::TempDatabase;
use crate::disk::{self, with_suffix};
use crate::interrupt::Interrupt;

/// Separates the archive's name and the time in the name of a kept file.
const SET_ASIDE: &str = ".set-aside-";

/// Amount of a database that is copied or compared between two checks of the interrupt flag.
const STEP_PAGES: i32 = 64;
const STEP_BYTES: usize = 1 << 20;

/// A kept copy of an archive.
#[derive(Debug)]
pub(crate) struct KeptCopy {
    pub path: PathBuf,
    /// Whether this call made the copy; otherwise an earlier build made it.
    pub is_new: bool,
}

/// Copies the live archive, including its write-ahead log, to a new name, while other programs may read. The caller
/// must hold lock `archive`, so that no build writes meanwhile. The copy gets the mode of the archive, and the owner
/// where this process may set it.
pub(super) fn copy(path: &Path, interrupt: &Interrupt) -> Result<KeptCopy, PublishError> {
    let copy = TempDatabase::create(path)?;
    back_up(path, &copy.path, interrupt)?;
    copy.seal()?;
    #[cfg(unix)]
    if let Some(metadata) = live::regular_file(path)? {
        super::replace::copy_owner_and_mode(&copy.path, &metadata)?;
    }
    for path in kept(path)? {
        if is_same(&copy.path, &path, interrupt)? {
            // The build that made the copy may have ended before this sync.
            sync_directory_of_copy(&path)?;
            return Ok(KeptCopy { path, is_new: false });
        }
    }
    let aside = free_name(path)?;
    disk::rename(&copy.path, &aside)?;
    sync_directory_of_copy(&aside)?;
    Ok(KeptCopy { path: aside, is_new: true })
}

/// The archive was not replaced yet, so an error here changes nothing.
fn sync_directory_of_copy(copy: &Path) -> Result<(), PublishError> {
    Ok(disk::sync_dir(disk::parent_of(copy))?)
}

/// Whether two files have the same bytes; false when a file cannot be read.
fn is_same(copy: &Path, other: &Path, interrupt: &Interrupt) -> Result<bool, PublishError> {
    let (Ok(copy), Ok(other)) =
        (disk::File::open_read_no_follow(copy), disk::File::open_read_no_follow(other))
    else {
        return Ok(false);
    };
    let (Ok(len_bytes), Ok(other_len_bytes)) = (copy.len_bytes(), other.len_bytes()) else {
        return Ok(false);
    };
    if len_bytes != other_len_bytes {
        return Ok(false);
    }
    let mut pieces = [vec![0; STEP_BYTES], vec![0; STEP_BYTES]];
    for start in (0..len_bytes).step_by(STEP_BYTES) {
        if interrupt.is_requested() {
            return Err(PublishError::Interrupted);
        }
        let piece_len = STEP_BYTES.min((len_bytes - start) as usize);
        for (piece, file) in pieces.iter_mut().zip([&copy, &other]) {
            if file.read_exact_at(&mut piece[..piece_len], start).is_err() {
                return Ok(false);
            }
        }
        if pieces[0][..piece_len] != pieces[1][..piece_len] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn back_up(from: &Path, to: &Path, interrupt: &Interrupt) -> Result<(), PublishError> {
    let copied = || -> rusqlite::Result<bool> {
        let source = open(from)?;
        source.busy_timeout(WRITER_WAIT)?;
        let mut target = open(to)?;
        // The file is synced when it is complete, and discarded after a crash.
        target.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
        // One snapshot for all steps, even when another program writes meanwhile.
        source.execute_batch("BEGIN")?;
        source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let backup = Backup::new(&source, &mut target)?;
        let mut waiting_since = Instant::now();
        loop {
            if interrupt.is_requested() {
                return Ok(false);
            }
            match backup.step(STEP_PAGES)? {
                StepResult::Done => return Ok(true),
                StepResult::More => waiting_since = Instant::now(),
                _ if waiting_since.elapsed() > WRITER_WAIT => {
                    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                    return Err(rusqlite::Error::SqliteFailure(busy, None));
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    };
    if copied().map_err(PublishError::sqlite("copy", from))? {
        Ok(())
    } else {
        Err(PublishError::Interrupted)
    }
}

/// Renames a file in the archive's place that is not a database. A file in use is left in place, because a program
/// that opened it before it was damaged would, when closing, unlink the new archive's write-ahead log by its path.
pub(super) fn rename(path: &Path) -> Result<PathBuf, PublishError> {
    #[cfg(unix)]
    let file = super::live_file::LiveFile::open(path).map_err(PublishError::sqlite("open", path))?;
    #[cfg(unix)]
    if !file.lock().map_err(PublishError::sqlite("lock", path))? {
        let doing = "holds it although it is damaged, so that it cannot be replaced";
        return Err(PublishError::InUse { path: path.to_owned(), doing });
    }
    let aside = free_name(path)?;
    disk::rename(path, &aside)?;
    Ok(aside)
}

/// Returns an unused name. Only the holder of lock `archive` chooses a name, so two processes cannot choose the
/// same name at once.
fn free_name(path: &Path) -> Result<PathBuf, PublishError> {
    let mut time_ms = jiff::Timestamp::now().as_millisecond();
    loop {
        let name = with_suffix(path, &format!("{SET_ASIDE}{time_ms}"));
        match disk::metadata(&name) {
            Ok(_) => time_ms += 1,
            Err(error) if error.is_not_found() => return Ok(name),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns the files that builds set aside beside the archive, oldest first.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn kept(path: &Path) -> Result<Vec<PathBuf>, PublishError> {
    if !disk::parent_of(path).exists() {
        return Ok(Vec::new());
    }
    let path = live::resolve(path)?;
    let mut kept = match disk::list(disk::parent_of(&path)) {
        // A directory may permit access to names that are known, but not listing.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
        listed => listed?,
    };
    kept.retain(|file| {
        let names = file.file_name().zip(path.file_name());
        names.is_some_and(|(name, archive)| {
            let rest = name.as_encoded_bytes().strip_prefix(archive.as_encoded_bytes());
            let time = rest.and_then(|rest| rest.strip_prefix(SET_ASIDE.as_bytes()));
            time.is_some_and(|time| !time.is_empty() && time.iter().all(u8::is_ascii_digit))
        })
    });
    Ok(kept)
}

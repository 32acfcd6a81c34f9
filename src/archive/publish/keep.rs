//! Files beside the archive that are kept for people: an archive whose ledger lost what it holds, a file that was no database.
//!
//! Touches: files called `<archive>.set-aside-<milliseconds since 1970>` beside the archive; the live archive as any reader does.
//!
//! Guarantees: a file of that name is whole and durable; none is ever overwritten or deleted here, except one that the caller
//! takes back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};

use super::{PublishError, TempDatabase, WRITER_WAIT, live, open, sync_directory};
use crate::disk::{self, with_suffix};

/// Between the archive's name and the time in the name of a file that is kept.
const SET_ASIDE: &str = ".set-aside-";

/// Copies the live archive, with what its write-ahead log holds, to a name of its own, beside readers. For who holds lock
/// `archive`, so that nobody writes meanwhile. The copy has the mode of the archive, and its owner where that can be given.
pub(super) fn copy(path: &Path) -> Result<PathBuf, PublishError> {
    let copy = TempDatabase::create(path)?;
    back_up(path, &copy.path)?;
    copy.seal()?;
    #[cfg(unix)]
    if let Some(metadata) = live::regular_file(path)? {
        super::replace::copy_owner_and_mode(&copy.path, &metadata)?;
    }
    let aside = free_name(path)?;
    disk::rename(&copy.path, &aside)?;
    sync_directory(path)?;
    Ok(aside)
}

fn back_up(from: &Path, to: &Path) -> Result<(), PublishError> {
    let copying = PublishError::sqlite("copy", from);
    let copied = || -> rusqlite::Result<()> {
        let source = open(from)?;
        source.busy_timeout(WRITER_WAIT)?;
        let mut target = open(to)?;
        // The file is synced when it is whole, and thrown away after a crash.
        target.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
        let backup = Backup::new(&source, &mut target)?;
        let waiting_since = Instant::now();
        loop {
            match backup.step(-1)? {
                StepResult::Done => return Ok(()),
                _ if waiting_since.elapsed() > WRITER_WAIT => {
                    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                    return Err(rusqlite::Error::SqliteFailure(busy, None));
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    };
    copied().map_err(copying)
}

/// Renames what is in the archive's place and is no database. Whoever has it open, from before it was damaged, would unlink the new
/// archive's write-ahead log by its path when closing, so a file that is in use stays.
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

/// A name that nothing has. Two at once cannot choose the same, because both would hold lock `archive`.
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

/// What builds have set aside beside the archive of this name, oldest first.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn kept(path: &Path) -> Result<Vec<PathBuf>, PublishError> {
    if !disk::parent_of(path).exists() {
        return Ok(Vec::new());
    }
    let path = live::resolve(path)?;
    let mut kept = match disk::list(disk::parent_of(&path)) {
        // A directory may be open to those who know names in it, and to nobody else.
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

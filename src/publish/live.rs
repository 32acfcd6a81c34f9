//! Examines the file in the live archive's place, and removes files that dead rebuilds left beside it.
//!
//! Touches: reads the live archive as any other connection does (which applies a hot journal); removes regular files
//! whose whole name is a name that rebuilds make. Follows no link except the archive's own.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::connection::{SIDECARS, WRITER_WAIT, hold, is_busy, open};
use super::error::PublishError;
use crate::disk;

/// Separates the archive's name and `<pid>-<32 hex digits>` in the name of a rebuild's file.
pub(super) const REBUILD: &str = ".rebuild-";

/// Maximum number of links in a row, as in Linux; a longer chain counts as a loop.
const LINKS_MAX: usize = 40;

/// What [`prepare`](super::prepare) found in the live archive's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundLive {
    /// No file.
    Missing,
    /// A database whose schema can be read; deeper pages were not read.
    Archive {
        /// The archive's page size in bytes.
        page_size_bytes: u32,
    },
    /// A database that could not be read, because another program kept it locked.
    Locked,
    /// A file whose header is not a database's.
    NotADatabase,
    /// A database whose schema cannot be read.
    Damaged,
}

pub(super) struct LiveLook {
    pub found: FoundLive,
    /// Whether another connection holds a lock on the file.
    pub in_use: bool,
    /// Whether the file will probably have to be written in place (path B).
    pub keeps_inode: bool,
}

/// Returns the path with links resolved and with an absolute parent. The last component need not exist.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, PublishError> {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some(name) = target.file_name() else {
            return Err(PublishError::NotAFile { path: target });
        };
        let parent = disk::parent_of(&target);
        let absolute = parent.canonicalize().map_err(PublishError::io("find", parent))?.join(name);
        match fs::read_link(&absolute) {
            Ok(next) => target = disk::parent_of(&absolute).join(next),
            // EINVAL: the file exists and is not a link.
            Err(_) => return Ok(absolute),
        }
    }
    Err(PublishError::Io {
        action: "resolve",
        path: path.to_owned(),
        source: io::Error::other("too many symbolic links"),
    })
}

/// Returns the metadata of the regular file at `path`; `None` when no file exists.
pub(super) fn regular_file(path: &Path) -> Result<Option<Metadata>, PublishError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(PublishError::NotAFile { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PublishError::io("look at", path)(error)),
    }
}

pub(super) fn look(live: &Path) -> Result<LiveLook, PublishError> {
    let Some(metadata) = regular_file(live)? else {
        return Ok(LiveLook { found: FoundLive::Missing, in_use: false, keeps_inode: false });
    };
    let in_use = hold(live).is_err_and(|error| is_busy(&error));
    let page_size_bytes = open(live).and_then(|archive| {
        archive.busy_timeout(WRITER_WAIT)?;
        archive.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        archive.pragma_query_value(None, "page_size", |row| row.get(0))
    });
    let found = match page_size_bytes {
        Ok(page_size_bytes) => FoundLive::Archive { page_size_bytes },
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => FoundLive::NotADatabase,
            Some(ErrorCode::DatabaseCorrupt) => FoundLive::Damaged,
            _ if is_busy(&error) => FoundLive::Locked,
            _ => return Err(PublishError::sqlite("read", live)(error)),
        },
    };
    Ok(LiveLook { found, in_use, keeps_inode: in_use || must_keep_inode(&metadata) })
}

/// Whether the live file has to be written in place, because it has another hard link.
#[cfg(unix)]
pub(super) fn must_keep_inode(live: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(live) > 1
}

/// Other platforms always write in place, because an open file cannot be replaced there.
#[cfg(not(unix))]
pub(super) fn must_keep_inode(_: &Metadata) -> bool {
    true
}

/// Removes the files of dead rebuilds.
pub(super) fn sweep(live: &Path) -> Result<(), PublishError> {
    // A file that vanishes meanwhile is not an error.
    for path in leftovers(live)? {
        disk::remove_file_if_exists(&path)?;
    }
    Ok(())
}

/// Returns the files of rebuilds beside the archive.
pub(super) fn leftovers(live: &Path) -> Result<Vec<PathBuf>, PublishError> {
    let mut found = match disk::list(disk::parent_of(live)) {
        // A directory may permit access to names that are known, but not listing.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
        listed => listed?,
    };
    found.retain(|path| {
        let names = path.file_name().zip(live.file_name());
        let is_ours = names.is_some_and(|(name, archive)| {
            let rest = name.as_encoded_bytes().strip_prefix(archive.as_encoded_bytes());
            rest.and_then(|rest| str::from_utf8(rest).ok()).is_some_and(is_rebuild_tag)
        });
        is_ours && disk::metadata(path).is_ok_and(|found| found.is_file)
    });
    Ok(found)
}

/// Matches `.rebuild-<digits>-<32 hex digits>`, alone or with a sidecar's suffix.
fn is_rebuild_tag(rest: &str) -> bool {
    let tag = SIDECARS.iter().find_map(|suffix| rest.strip_suffix(suffix)).unwrap_or(rest);
    tag.strip_prefix(REBUILD).and_then(|ids| ids.split_once('-')).is_some_and(|(pid, random)| {
        !pid.is_empty()
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && random.len() == 32
            && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Removes the `-wal` and `-shm` files of an open that failed because the disk was too full for the `-shm` file; the
/// log is then empty. Removes nothing while any connection has the archive open, or when the lock or the file cannot
/// be checked.
#[cfg(unix)]
pub(super) fn remove_empty_log(live: &Path) -> Result<(), PublishError> {
    let file = super::live_file::LiveFile::open(live).map_err(PublishError::sqlite("open", live))?;
    // Every connection in WAL mode holds a SHARED lock, and no connection can get one while this lock is held.
    if !file.lock().map_err(PublishError::sqlite("lock", live))? {
        return Ok(());
    }
    let log = regular_file(&disk::with_suffix(live, "-wal"))?;
    if log.is_some_and(|log| log.len() == 0) && !file.has_moved().unwrap_or(true) {
        for sidecar in ["-shm", "-wal"] {
            match disk::remove_file(&disk::with_suffix(live, sidecar)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_of_rebuilds_are_swept() {
        let random = "0123456789abcdef0123456789abcdef";
        for ours in ["", "-wal", "-shm", "-journal"] {
            assert!(is_rebuild_tag(&format!(".rebuild-17-{random}{ours}")), "{ours}");
        }
        for foreign in [
            "",
            "-wal",
            ".rebuild-17",
            ".rebuild-17-",
            ".rebuild--0123456789abcdef0123456789abcdef",
            ".rebuild-17-0123456789abcdef0123456789abcdeF",
            ".rebuild-17-0123456789abcdef0123456789abcde",
            ".rebuild-x7-0123456789abcdef0123456789abcdef",
            ".rebuild-17-0123456789abcdef0123456789abcdef-wal-wal",
            ".rebuild-17-0123456789abcdef0123456789abcdef.bak",
            "x.rebuild-17-0123456789abcdef0123456789abcdef",
        ] {
            assert!(!is_rebuild_tag(foreign), "{foreign}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_their_end_even_when_nothing_is_there() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir(home.join("disk")).unwrap();
        std::os::unix::fs::symlink("second", home.join("first")).unwrap();
        std::os::unix::fs::symlink("disk/archive.sqlite", home.join("second")).unwrap();
        assert_eq!(resolve(&home.join("first")).unwrap(), home.join("disk/archive.sqlite"));
        std::os::unix::fs::symlink("loop", home.join("loop")).unwrap();
        assert!(matches!(resolve(&home.join("loop")), Err(PublishError::Io { action: "resolve", .. })));
    }
}

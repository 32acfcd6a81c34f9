//! Path A and path C: the built file gets the live file's name.
//!
//! Touches: the live archive's name, its sidecars, and the first 512 bytes of the inode that lost the name.
//!
//! Guarantees: an inode loses its name only under SQLite's EXCLUSIVE lock, in rollback mode, without sidecars, not
//! empty, and if that name was its only name. A connection that still has the inode open, and has read nothing, gets
//! an error and does not touch the new file. docs/publishing.md gives the reasons for the order of the steps.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

use super::connection::SIDECARS;
use super::error::PublishError;
use super::live::{must_keep_inode, regular_file};
use super::steps::{PublishStep, reached};
use crate::disk::{self, with_suffix};

/// How a new archive replaced the old archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// There was no archive (path C).
    Created,
    /// The built file was renamed over the live file, on which no other connection held a lock (paths A and C).
    Renamed,
    /// The content was written into the live file in one transaction, while other programs may read it (path B).
    InPlace {
        /// Bytes that the write-ahead log still has, because readers held an older snapshot.
        log_len_bytes: u64,
    },
}

/// The outcome of one attempt to replace the live file.
pub(super) enum ReplaceAttempt {
    Done(Method),
    /// Another connection holds a lock on the live file, or the file changed during the attempt; the attempt may be
    /// repeated.
    Occupied,
    /// The live file has to be written in place: it has several hard links, or an owner that this process cannot set,
    /// or the platform has no path A.
    KeepInode,
}

#[cfg(unix)]
pub(super) use on_unix::{attempt, copy_owner_and_mode};

#[cfg(unix)]
mod on_unix {
    use std::os::unix::fs::MetadataExt as _;

    use rusqlite::Connection;

    use super::super::connection::{MAGIC, hold, is_busy, is_unusable};
    use super::super::live_file::LiveFile;
    use super::*;

    /// Length that a replaced inode is cut to: not 0, because SQLite takes an empty file for a new database.
    const REMAINS_LEN_BYTES: usize = 512;
    const EPITAPH: &[u8] = b"This archive was replaced by a rebuild; open archive.sqlite again.\n";

    /// The live file under SQLite's EXCLUSIVE lock, which is held until this value is dropped.
    struct HeldArchive {
        file: LiveFile,
        /// Whether SQLite can read the file.
        is_archive: bool,
    }

    pub(crate) fn attempt(
        build: &Path,
        live: &Path,
        still_held: &mut dyn FnMut() -> bool,
    ) -> Result<ReplaceAttempt, PublishError> {
        let Some(metadata) = regular_file(live)? else {
            return create(build, live, still_held);
        };
        if must_keep_inode(&metadata) || !copy_owner_and_mode(build, &metadata)? {
            return Ok(ReplaceAttempt::KeepInode);
        }
        let Some(held) = take(live)? else {
            return Ok(ReplaceAttempt::Occupied);
        };
        reached(PublishStep::Held);
        if held.is_archive && !fold(held.file.connection(), live)? {
            return Ok(ReplaceAttempt::Occupied);
        }
        reached(PublishStep::Folded);
        // Checks that the opened path leads to the held file, and that the held file is the file of `metadata`.
        let has_moved = held.file.has_moved().map_err(PublishError::sqlite("look at", live))?;
        let is_same = regular_file(live)?
            .is_some_and(|now| (now.dev(), now.ino(), now.nlink()) == (metadata.dev(), metadata.ino(), 1));
        if has_moved || !is_same {
            return Ok(ReplaceAttempt::Occupied);
        }
        if !still_held() {
            return Err(PublishError::LockLost { path: live.to_owned() });
        }
        disarm(&held.file, live)?;
        reached(PublishStep::Disarmed);
        disk::rename(build, live)?;
        reached(PublishStep::Renamed);

        // The new archive has replaced the old archive. A later failure on the old inode concerns only connections
        // that still have the old inode open, so it is not a failure of the rebuild.
        let cut = held.file.set_len(REMAINS_LEN_BYTES as u64);
        reached(PublishStep::Cut);
        sync_directory(live)?;
        reached(PublishStep::Synced);
        let epitaph: Vec<u8> = EPITAPH.iter().copied().cycle().take(REMAINS_LEN_BYTES).collect();
        if let Err(error) = cut.and(held.file.write_at(&epitaph, 0)) {
            tracing::warn!(path = %live.display(), %error, "the replaced archive could not be overwritten");
        }
        reached(PublishStep::Overwritten);
        Ok(ReplaceAttempt::Done(Method::Renamed))
    }

    /// Gives the built file the mode and the owner of the live file. Returns `false` when the owner cannot be set.
    pub(crate) fn copy_owner_and_mode(build: &Path, live: &Metadata) -> Result<bool, PublishError> {
        let own = fs::symlink_metadata(build).map_err(PublishError::io("look at", build))?;
        if (own.uid(), own.gid()) != (live.uid(), live.gid())
            && std::os::unix::fs::lchown(build, Some(live.uid()), Some(live.gid())).is_err()
        {
            return Ok(false);
        }
        fs::set_permissions(build, live.permissions()).map_err(PublishError::io("set the mode of", build))?;
        Ok(true)
    }

    /// Takes the EXCLUSIVE lock. Returns `None` when any other connection holds a lock.
    fn take(live: &Path) -> Result<Option<HeldArchive>, PublishError> {
        match hold(live) {
            Ok(archive) => Ok(Some(HeldArchive { file: LiveFile::of(archive, live), is_archive: true })),
            Err(error) if is_busy(&error) => Ok(None),
            Err(error) if is_unusable(&error) => {
                let file = LiveFile::open(live).map_err(PublishError::sqlite("open", live))?;
                let is_locked = file.lock().map_err(PublishError::sqlite("lock", live))?;
                Ok(is_locked.then_some(HeldArchive { file, is_archive: false }))
            }
            Err(error) => Err(PublishError::sqlite("lock", live)(error)),
        }
    }

    /// Folds the whole log into the held file. Returns `false` when another connection prevents it. A damaged
    /// archive's log is given up.
    fn fold(archive: &Connection, live: &Path) -> Result<bool, PublishError> {
        match archive.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)) {
            Ok(busy) => Ok(busy == 0),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) if is_unusable(&error) => Ok(true),
            Err(error) => Err(PublishError::sqlite("fold the log of", live)(error)),
        }
    }

    /// Removes the sidecars of a held and folded file, and changes the header so that no connection makes a log. A
    /// crash leaves a complete archive in either order of these two changes.
    fn disarm(file: &LiveFile, live: &Path) -> Result<(), PublishError> {
        for sidecar in SIDECARS {
            disk::remove_file_if_exists(&with_suffix(live, sidecar))?;
        }
        let mut header = [0; 20];
        file.read_at(&mut header, 0)?;
        if &header[..16] == MAGIC {
            file.write_at(&[1, 1], 18)?;
        }
        Ok(())
    }
}

/// Publishes where no archive exists: removes the sidecars that a vanished archive left; a file that appears
/// meanwhile is kept.
fn create(
    build: &Path,
    live: &Path,
    still_held: &mut dyn FnMut() -> bool,
) -> Result<ReplaceAttempt, PublishError> {
    if !still_held() {
        return Err(PublishError::LockLost { path: live.to_owned() });
    }
    for sidecar in SIDECARS {
        disk::remove_file_if_exists(&with_suffix(live, sidecar))?;
    }
    reached(PublishStep::StaleRemoved);
    match fs::hard_link(build, live) {
        Ok(()) => {
            reached(PublishStep::Linked);
            // An error is ignored: the second name is then swept later.
            let _ = disk::remove_file(build);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(ReplaceAttempt::Occupied),
        // The file system has no hard links.
        Err(_) => disk::rename(build, live)?,
    }
    sync_directory(live)?;
    Ok(ReplaceAttempt::Done(Method::Created))
}

#[cfg(not(unix))]
pub(super) use elsewhere::attempt;

#[cfg(not(unix))]
mod elsewhere {
    use super::super::connection::{is_unusable, open};
    use super::*;

    /// Replaces only an unusable file, because an open file cannot be replaced here; the rename fails while the file
    /// is open.
    pub(crate) fn attempt(
        build: &Path,
        live: &Path,
        still_held: &mut dyn FnMut() -> bool,
    ) -> Result<ReplaceAttempt, PublishError> {
        if regular_file(live)?.is_none() {
            return create(build, live, still_held);
        }
        match open(live)
            .and_then(|archive| archive.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())))
        {
            Err(error) if is_unusable(&error) => {}
            _ => return Ok(ReplaceAttempt::KeepInode),
        }
        if !still_held() {
            return Err(PublishError::LockLost { path: live.to_owned() });
        }
        for sidecar in SIDECARS {
            disk::remove_file_if_exists(&with_suffix(live, sidecar))?;
        }
        disk::rename(build, live)?;
        sync_directory(live)?;
        Ok(ReplaceAttempt::Done(Method::Renamed))
    }
}

/// Makes the new archive's name durable after the replacement.
fn sync_directory(live: &Path) -> Result<(), PublishError> {
    disk::sync_dir(disk::parent_of(live))
        .map_err(|source| PublishError::NotDurable { path: live.to_owned(), source })
}

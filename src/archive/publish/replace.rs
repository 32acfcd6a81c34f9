//! Path A and path C: the built file takes the live file's name.
//!
//! Touches: the live archive's name, its sidecars, and the first 512 bytes of the inode that lost the name.
//!
//! Promises: an inode loses its name only under SQLite's EXCLUSIVE lock, in rollback mode, without sidecars, not empty,
//! and if that was its only name. A connection that is open on it all the same, and has read nothing, gets an error
//! and leaves the new file alone. The order of the steps is argued in docs/publishing.md.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

use super::live::regular_file;
use super::{Attempt, Method, PublishError, SIDECARS, Step, reached, sync_directory, with_suffix};
use crate::disk;

#[cfg(unix)]
pub(super) use on_unix::{attempt, must_keep_inode};

#[cfg(unix)]
mod on_unix {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use rusqlite::Connection;

    use super::super::{MAGIC, hold, is_busy, is_unusable};
    use super::*;

    /// The first of SQLite's lock bytes (PENDING), and how many there are with RESERVED and the 510 SHARED ones.
    const LOCK_BYTES_START: i64 = 0x4000_0000;
    const LOCK_BYTES_LEN: i64 = 512;

    /// What is left of a replaced inode: more than the nothing that SQLite takes for a new database.
    const REMAINS_LEN_BYTES: u64 = 512;
    const EPITAPH: &[u8] = b"This archive was replaced by a rebuild; open archive.sqlite again.\n";

    // A POSIX lock is dropped when this process closes any descriptor of the file; an open-file-description lock is not.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const SET_LOCK: libc::c_int = libc::F_OFD_SETLK;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const SET_LOCK: libc::c_int = libc::F_SETLK;

    /// The live file under SQLite's EXCLUSIVE lock.
    struct Held {
        /// Holds the lock; `None` when SQLite cannot read the file, and `file` holds it. Closed before `file` is, as
        /// closing `file` would drop this connection's lock.
        archive: Option<Connection>,
        file: disk::File,
    }

    pub(crate) fn must_keep_inode(live: &Metadata) -> bool {
        live.nlink() > 1
    }

    pub(crate) fn attempt(
        build: &Path,
        live: &Path,
        still_held: &mut dyn FnMut() -> bool,
    ) -> Result<Attempt, PublishError> {
        let Some(metadata) = regular_file(live)? else {
            return create(build, live, still_held);
        };
        if must_keep_inode(&metadata) || !dress(build, &metadata)? {
            return Ok(Attempt::KeepInode);
        }
        let Some(held) = take(live)? else {
            return Ok(Attempt::Occupied);
        };
        reached(Step::Held);
        if let Some(archive) = &held.archive
            && !fold(archive, live)?
        {
            return Ok(Attempt::Occupied);
        }
        reached(Step::Folded);
        let now = held.file.as_std().metadata().map_err(PublishError::io("look at", live))?;
        if (now.dev(), now.ino(), now.nlink()) != (metadata.dev(), metadata.ino(), 1) {
            return Ok(Attempt::Occupied);
        }
        if !still_held() {
            return Err(PublishError::LockLost { path: live.to_owned() });
        }
        disarm(&held.file, live)?;
        reached(Step::Disarmed);
        disk::rename(build, live)?;
        reached(Step::Renamed);

        // The new archive is in place. What fails on the old inode now concerns connections that are still open on it, and is
        // no failure of the rebuild.
        let cut = held.file.set_len(REMAINS_LEN_BYTES);
        reached(Step::Cut);
        sync_directory(live)?;
        reached(Step::Synced);
        let epitaph: Vec<u8> = EPITAPH.iter().copied().cycle().take(REMAINS_LEN_BYTES as usize).collect();
        if let Err(error) = cut.and(held.file.write_all_at(&epitaph, 0)) {
            tracing::warn!(path = %live.display(), %error, "the replaced archive could not be overwritten");
        }
        reached(Step::Overwritten);
        Ok(Attempt::Done(Method::Renamed))
    }

    /// Gives the built file the mode and the owner of the live one; `false` when the owner cannot be given.
    fn dress(build: &Path, live: &Metadata) -> Result<bool, PublishError> {
        let own = fs::symlink_metadata(build).map_err(PublishError::io("look at", build))?;
        if (own.uid(), own.gid()) != (live.uid(), live.gid())
            && std::os::unix::fs::lchown(build, Some(live.uid()), Some(live.gid())).is_err()
        {
            return Ok(false);
        }
        fs::set_permissions(build, live.permissions()).map_err(PublishError::io("set the mode of", build))?;
        Ok(true)
    }

    /// Takes the EXCLUSIVE lock; `None` while any other connection holds a lock.
    fn take(live: &Path) -> Result<Option<Held>, PublishError> {
        match hold(live) {
            Ok(archive) => Ok(Some(Held { archive: Some(archive), file: disk::File::open_rw(live)? })),
            Err(error) if is_busy(&error) => Ok(None),
            Err(error) if is_unusable(&error) => {
                let file = disk::File::open_rw(live)?;
                Ok(lock(&file, live)?.then_some(Held { archive: None, file }))
            }
            Err(error) => Err(PublishError::sqlite("lock", live)(error)),
        }
    }

    /// Takes SQLite's EXCLUSIVE lock without SQLite, until `file` is closed; `false` when somebody holds any lock.
    fn lock(file: &disk::File, live: &Path) -> Result<bool, PublishError> {
        // SAFETY: `flock` is plain integers, for which zero is valid; open-file-description locks want l_pid = 0.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = LOCK_BYTES_START as libc::off_t;
        lock.l_len = LOCK_BYTES_LEN as libc::off_t;
        // SAFETY: `file` is open for the whole call, which reads the one `flock` it is given.
        if unsafe { libc::fcntl(file.as_std().as_raw_fd(), SET_LOCK, &raw const lock) } != -1 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            error => Err(PublishError::io("lock", live)(error)),
        }
    }

    /// Brings all of the log into the held file; `false` when that has to wait. A damaged archive's log is given up.
    fn fold(archive: &Connection, live: &Path) -> Result<bool, PublishError> {
        match archive.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)) {
            Ok(busy) => Ok(busy == 0),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) if is_unusable(&error) => Ok(true),
            Err(error) => Err(PublishError::sqlite("fold the log of", live)(error)),
        }
    }

    /// Leaves nothing of a held and folded file outside it, and no header by which a connection would make a log. Both
    /// orders of these two changes are whole archives.
    fn disarm(file: &disk::File, live: &Path) -> Result<(), PublishError> {
        for sidecar in SIDECARS {
            disk::remove_file_if_exists(&with_suffix(live, sidecar))?;
        }
        let mut header = [0; 20];
        if file.read_exact_at(&mut header, 0).is_ok() && &header[..16] == MAGIC {
            file.write_all_at(&[1, 1], 18)?;
        }
        Ok(())
    }
}

/// Publishes where nothing is: what a vanished archive left is removed, and a file that appears meanwhile is kept.
fn create(build: &Path, live: &Path, still_held: &mut dyn FnMut() -> bool) -> Result<Attempt, PublishError> {
    if !still_held() {
        return Err(PublishError::LockLost { path: live.to_owned() });
    }
    for sidecar in SIDECARS {
        disk::remove_file_if_exists(&with_suffix(live, sidecar))?;
    }
    reached(Step::StaleRemoved);
    match fs::hard_link(build, live) {
        Ok(()) => {
            reached(Step::Linked);
            // Under its second name the archive is only swept.
            let _ = disk::remove_file(build);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Attempt::Occupied),
        // A file system without hard links.
        Err(_) => disk::rename(build, live)?,
    }
    sync_directory(live)?;
    Ok(Attempt::Done(Method::Created))
}

#[cfg(not(unix))]
pub(super) use elsewhere::{attempt, must_keep_inode};

#[cfg(not(unix))]
mod elsewhere {
    use super::super::{is_unusable, open};
    use super::*;

    pub(crate) fn must_keep_inode(_: &Metadata) -> bool {
        true
    }

    /// A file that is open cannot be replaced here, so only an unusable one is; the rename fails while it is open.
    pub(crate) fn attempt(
        build: &Path,
        live: &Path,
        still_held: &mut dyn FnMut() -> bool,
    ) -> Result<Attempt, PublishError> {
        if regular_file(live)?.is_none() {
            return create(build, live, still_held);
        }
        match open(live)
            .and_then(|archive| archive.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())))
        {
            Err(error) if is_unusable(&error) => {}
            _ => return Ok(Attempt::KeepInode),
        }
        if !still_held() {
            return Err(PublishError::LockLost { path: live.to_owned() });
        }
        for sidecar in SIDECARS {
            disk::remove_file_if_exists(&with_suffix(live, sidecar))?;
        }
        disk::rename(build, live)?;
        sync_directory(live)?;
        Ok(Attempt::Done(Method::Renamed))
    }
}

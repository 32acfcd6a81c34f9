//! Path A and path C: the built file takes the live file's name.
//!
//! Touches: the live archive's name, its sidecars, and the first 512 bytes of the inode that lost the name.
//!
//! Promises: an inode loses its name only while nobody has a transaction on it or holds it in WAL mode, at rest (rollback
//! mode, no sidecars, not empty), and with one name. A connection that is open on it all the same, and has read nothing,
//! gets an error and leaves the new file alone. The order of the steps is argued in docs/publishing.md.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

use super::live::{regular_file, remove_if_there};
use super::{Attempt, Method, PublishError, SIDECARS, Step, reached, sync_directory, with_suffix};

#[cfg(unix)]
pub(super) use on_unix::{attempt, is_occupied, must_keep_inode};

#[cfg(unix)]
mod on_unix {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};

    use super::super::{MAGIC, is_busy, is_unusable, open};
    use super::*;

    /// The first of SQLite's lock bytes (PENDING), and how many follow it: RESERVED and 510 SHARED ones.
    const LOCK_BYTES_START: i64 = 0x4000_0000;
    const LOCK_BYTES_LEN: i64 = 512;

    /// What is left of a replaced inode: the smallest size that SQLite does not take for an empty database.
    const REMAINS_LEN_BYTES: u64 = 512;
    const EPITAPH: &[u8] = b"This archive was replaced by a rebuild; open archive.sqlite again.\n";

    // A POSIX lock is dropped when this process closes any descriptor of the file, such as that of a query in another
    // thread; an open-file-description lock is not.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const LOCK_COMMANDS: (libc::c_int, libc::c_int) = (libc::F_OFD_GETLK, libc::F_OFD_SETLK);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const LOCK_COMMANDS: (libc::c_int, libc::c_int) = (libc::F_GETLK, libc::F_SETLK);

    pub(crate) fn must_keep_inode(live: &Metadata) -> bool {
        live.nlink() > 1
    }

    /// Whether any connection holds a lock on the live file. Takes none itself.
    pub(crate) fn is_occupied(live: &Path) -> Result<bool, PublishError> {
        let file = File::open(live).map_err(PublishError::io("open", live))?;
        let mut lock = exclusive_lock();
        // SAFETY: `file` is open for the whole call, and F_GETLK reads and writes the one `flock` it is given.
        let outcome = unsafe { libc::fcntl(file.as_raw_fd(), LOCK_COMMANDS.0, &raw mut lock) };
        if outcome == -1 {
            return Err(PublishError::io("query the locks of", live)(io::Error::last_os_error()));
        }
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    }

    /// Takes SQLite's EXCLUSIVE lock until `file` is closed; `false` when somebody holds any lock.
    fn lock(file: &File, live: &Path) -> Result<bool, PublishError> {
        let lock = exclusive_lock();
        // SAFETY: `file` is open for the whole call, and F_SETLK reads the one `flock` it is given.
        if unsafe { libc::fcntl(file.as_raw_fd(), LOCK_COMMANDS.1, &raw const lock) } != -1 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            error => Err(PublishError::io("lock", live)(error)),
        }
    }

    fn exclusive_lock() -> libc::flock {
        // SAFETY: `flock` is plain integers, for which zero is valid; open-file-description locks want l_pid = 0.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = LOCK_BYTES_START as libc::off_t;
        lock.l_len = LOCK_BYTES_LEN as libc::off_t;
        lock
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
        if is_occupied(live)? {
            return Ok(Attempt::Occupied);
        }
        let is_usable = match fold(live, metadata.len()) {
            Ok(()) => true,
            Err(error) if is_busy(&error) => return Ok(Attempt::Occupied),
            Err(error) if is_unusable(&error) => false,
            Err(error) => return Err(PublishError::sqlite("fold the log of", live)(error)),
        };
        reached(Step::Folded);

        let old = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(live) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Occupied),
            other => other.map_err(PublishError::io("open", live))?,
        };
        if !lock(&old, live)? {
            return Ok(Attempt::Occupied);
        }
        reached(Step::Locked);
        let held = old.metadata().map_err(PublishError::io("look at", live))?;
        let named = regular_file(live)?;
        if named.is_none_or(|named| (named.dev(), named.ino()) != (held.dev(), held.ino()))
            || must_keep_inode(&held)
            || (is_usable && !is_at_rest(&old, live)?)
        {
            return Ok(Attempt::Occupied);
        }
        if !still_held() {
            return Err(PublishError::LockLost { path: live.to_owned() });
        }
        if is_usable {
            remove_if_there(&with_suffix(live, "-shm"))?;
        } else {
            disarm(&old, live)?;
            reached(Step::Disarmed);
        }

        fs::rename(build, live).map_err(PublishError::io("rename to", live))?;
        reached(Step::Renamed);
        // From here on the new archive is in place. What fails on the old inode concerns only connections that are
        // still open on it, and must not be reported as a rebuild that failed.
        let cut = old.set_len(REMAINS_LEN_BYTES);
        reached(Step::Cut);
        sync_directory(live)?;
        reached(Step::Synced);
        let epitaph: Vec<u8> = EPITAPH.iter().copied().cycle().take(REMAINS_LEN_BYTES as usize).collect();
        if let Err(error) = cut.and(old.write_all_at(&epitaph, 0)) {
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

    /// Checkpoints and removes the live file's log and leaves it in rollback mode, with at least one page.
    fn fold(live: &Path, len_bytes: u64) -> rusqlite::Result<()> {
        let archive = open(live)?;
        if len_bytes == 0 {
            archive.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        }
        archive.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(()))?;
        archive.close().map_err(|(_, error)| error)
    }

    /// Whether nothing that belongs to the locked file lies outside it, and nobody would make a log for it.
    fn is_at_rest(old: &File, live: &Path) -> Result<bool, PublishError> {
        let mut header = [0; 20];
        match old.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other.map_err(PublishError::io("read", live))?,
        }
        if &header[..16] != MAGIC || header[18..] != [1, 1] {
            return Ok(false);
        }
        Ok(regular_file(&with_suffix(live, "-wal"))?.is_none()
            && regular_file(&with_suffix(live, "-journal"))?.is_none())
    }

    /// Makes a locked file that SQLite cannot read safe to replace: no sidecars, and no header that asks for a log.
    fn disarm(old: &File, live: &Path) -> Result<(), PublishError> {
        for sidecar in SIDECARS {
            remove_if_there(&with_suffix(live, sidecar))?;
        }
        let mut header = [0; 20];
        let has_header = old.read_exact_at(&mut header, 0).is_ok() && &header[..16] == MAGIC;
        if has_header {
            old.write_all_at(&[1, 1], 18).map_err(PublishError::io("disarm", live))?;
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
        remove_if_there(&with_suffix(live, sidecar))?;
    }
    reached(Step::StaleRemoved);
    match fs::hard_link(build, live) {
        Ok(()) => {
            reached(Step::Linked);
            // Under its second name the archive is only swept.
            let _ = fs::remove_file(build);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Attempt::Occupied),
        // A file system without hard links.
        Err(_) => fs::rename(build, live).map_err(PublishError::io("rename to", live))?,
    }
    sync_directory(live)?;
    Ok(Attempt::Done(Method::Created))
}

#[cfg(not(unix))]
pub(super) use elsewhere::{attempt, is_occupied, must_keep_inode};

#[cfg(not(unix))]
mod elsewhere {
    use super::super::{is_unusable, open};
    use super::*;

    pub(crate) fn must_keep_inode(_: &Metadata) -> bool {
        true
    }

    pub(crate) fn is_occupied(_: &Path) -> Result<bool, PublishError> {
        Ok(false)
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
            remove_if_there(&with_suffix(live, sidecar))?;
        }
        fs::rename(build, live).map_err(PublishError::io("rename to", live))?;
        sync_directory(live)?;
        Ok(Attempt::Done(Method::Renamed))
    }
}

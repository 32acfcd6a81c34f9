//! One lock file: created with a token in it, confirmed, let go, or taken over as an orphan.
//!
//! Touches `<lock file>` and, while it is deleted, `<lock file>.rob`. Promises never to delete a file that it
//! has not just seen, under the side file's kernel lock, to be its own or the orphan it was sent for.
//!
//! The side file is held with a kernel lock by one process of ours at a time, between its last look at the lock file and
//! the unlink. Its holder deletes it before closing it; who then gets the kernel lock of the deleted file sees that the
//! name stands for another file, or none, and has nothing. A side file left by a killed process means nothing.

use crate::disk::{self, File, Identity};
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A lock file that was not touched for longer than this is an orphan. Shared with the reference.
pub const STALE_AGE: Duration = Duration::from_secs(5);

/// A lock file of ours touched more recently than this cannot be an orphan to anybody before we are done with it.
const SURELY_FRESH: Duration = Duration::from_millis(STALE_AGE.as_millis() as u64 / 2);

/// How often, 5 ms apart, a holder that finds its own file stale, or lets go, waits for a takeover under way to end.
const SIDE_LOCK_ATTEMPTS: u32 = 200;

/// A lock file this process created.
#[derive(Debug)]
pub(super) struct LockFile {
    /// Kept open, so that the inode number cannot be given to another file while we hold the lock.
    file: File,
    identity: Identity,
    /// What was written into the file: `pid <decimal> token <32 hex digits>` and LF. Absent when the disk was full: a
    /// lock must be had to make room.
    token: Option<String>,
    /// When its last touch began, by the clock that never jumps and by the one that goes on while the machine sleeps.
    touched: Mutex<(Instant, SystemTime)>,
}

impl LockFile {
    /// Creates the file; the error kind is `AlreadyExists` when it is there.
    pub(super) fn create(path: &Path) -> Result<Self, disk::Error> {
        let touched = Mutex::new((Instant::now(), local_now()));
        let file = File::create_new(path)?;
        Self::sign(file, touched).inspect_err(|_| {
            // The error that matters is on its way; an empty file of ours is an orphan soon.
            let _ = disk::remove_file(path);
        })
    }

    fn sign(file: File, touched: Mutex<(Instant, SystemTime)>) -> Result<Self, disk::Error> {
        let identity = file.metadata()?.identity;
        let token = format!("pid {} token {}\n", std::process::id(), uuid::Uuid::new_v4().simple());
        let token = match file.write_all(token.as_bytes()) {
            Ok(()) => Some(token),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { file, identity, token, touched })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Shows that the holder is alive. Goes by the open file: never makes a file anew, never touches a successor's.
    pub(super) fn touch(&self) -> Result<(), disk::Error> {
        let now = (Instant::now(), local_now());
        self.file.touch()?;
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// How long ago it was touched at most. Goes by clocks of this machine alone, and by the longest time that one of them tells:
    /// the one stands still while the machine sleeps, the other can be set back.
    fn since_touch(&self) -> Duration {
        let (started, dated) = *self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        started.elapsed().max(local_age(dated))
    }

    /// Whether the lock is still ours; if so, it stays so for [`SURELY_FRESH`] at least.
    pub(super) fn confirm(&self) -> Result<bool, disk::Error> {
        match self.modified_if_ours()? {
            None => return Ok(false),
            Some(modified) if self.since_touch().max(local_age(modified)) < SURELY_FRESH => return Ok(true),
            Some(_) => self.touch()?,
        }
        // A takeover that began before the touch may be about to delete the file; none begins after it.
        match self.wait_for_side_lock()? {
            Some(_side_lock) => Ok(self.modified_if_ours()?.is_some()),
            None => Ok(false),
        }
    }

    /// Deletes the file if it is still ours. Failing is no error of the work that was done under the lock: the file
    /// then turns stale, and others take it over.
    pub(super) fn release(&self) {
        let path = self.path();
        match self.delete_if_ours() {
            Ok(true) => {}
            Ok(false) => tracing::warn!("lock {} was lost before it was let go", path.display()),
            Err(error) => tracing::warn!("lock {} was not let go: {error}", path.display()),
        }
    }

    /// Deletes the file under the side lock, so that nobody can take it over, and make a lock of its own, between the look and
    /// the unlink, however long this process is stopped there. When a takeover does not end, the file is left to it.
    fn delete_if_ours(&self) -> Result<bool, disk::Error> {
        let Some(_side_lock) = self.wait_for_side_lock()? else { return Ok(false) };
        if self.modified_if_ours()?.is_none() {
            return Ok(false);
        }
        if self.since_touch() >= SURELY_FRESH {
            // Programs that know no side lock go by the file's age.
            self.touch()?;
        }
        disk::remove_file(self.path()).map(|()| true)
    }

    /// When it was touched; `None` when the name is gone or stands for somebody else's file.
    fn modified_if_ours(&self) -> Result<Option<SystemTime>, disk::Error> {
        let present = match disk::metadata(self.path()) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let is_ours = present.identity == self.identity && self.token_matches();
        Ok(is_ours.then_some(present.modified))
    }

    /// The token decides where inode numbers cannot: on network file systems, and on Windows.
    fn token_matches(&self) -> bool {
        let Some(token) = &self.token else { return true };
        read_token(self.path()).is_none_or(|found| found == token.as_bytes())
    }

    fn wait_for_side_lock(&self) -> Result<Option<SideLock>, disk::Error> {
        for _ in 0..SIDE_LOCK_ATTEMPTS {
            if let Some(side_lock) = SideLock::try_take(self.path())? {
                return Ok(Some(side_lock));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(None)
    }
}

/// The first bytes of a lock file, as many as a token of ours has at most; `None` when it cannot be read.
fn read_token(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 64];
    let read = File::open_read_no_follow(path).and_then(|file| file.read_at(&mut bytes, 0)).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// The process id in a lock file, if a process of ours wrote it.
pub(super) fn holder_pid(path: &Path) -> Option<u32> {
    let token = String::from_utf8(read_token(path)?).ok()?;
    token.strip_prefix("pid ")?.split(' ').next()?.parse().ok()
}

/// How long ago `time` was by the clock of this machine; zero when it lies in the future.
pub(super) fn local_age(time: SystemTime) -> Duration {
    local_now().duration_since(time).unwrap_or_default()
}

/// The clock of this machine. Only for what this machine dated: the times of files are those of their file system's clock,
/// which may be another machine's.
pub(super) fn local_now() -> SystemTime {
    #[cfg(test)]
    return super::tests::skewed(SystemTime::now());
    #[cfg(not(test))]
    SystemTime::now()
}

/// The clock of the file system that a lock file is on, as it was once read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    read: SystemTime,
    read_at: SystemTime,
}

impl Clock {
    /// Reads the clock by creating a nameless file in the lock file's directory. Where none can be created, as on a full disk,
    /// the clock of this machine has to do.
    pub(super) fn of(lock_path: &Path) -> Self {
        let read_at = local_now();
        let probe = File::create_unnamed(disk::parent_of(lock_path)).and_then(|file| file.metadata());
        Self { read: probe.map_or(read_at, |probe| probe.modified), read_at }
    }

    pub(super) fn now(self) -> SystemTime {
        let now = local_now();
        match now.duration_since(self.read_at) {
            Ok(since) => self.read + since,
            Err(set_back) => self.read - set_back.duration(),
        }
    }

    /// How long ago `time` was; zero when it lies in the future.
    pub(super) fn age(self, time: SystemTime) -> Duration {
        self.now().duration_since(time).unwrap_or_default()
    }
}

pub(super) enum Takeover {
    /// The orphan is gone, by us or by another, or it was no orphan: try to create the lock file.
    Done,
    /// Another process of ours is about to delete it.
    Busy,
}

/// Deletes the lock file if it is still the orphan `orphan`.
pub(super) fn take_over(path: &Path, orphan: Identity, clock: Clock) -> Result<Takeover, disk::Error> {
    let Some(_side_lock) = SideLock::try_take(path)? else { return Ok(Takeover::Busy) };
    match disk::metadata(path) {
        Ok(present) if present.identity == orphan && clock.age(present.modified) > STALE_AGE => {
            disk::remove_file_if_exists(path)?;
        }
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    Ok(Takeover::Done)
}

/// The kernel lock on the side file. Dropping it deletes the side file and then unlocks it.
struct SideLock {
    /// Absent where it cannot be had. There the last look alone must do, as it does between the reference's processes.
    file: Option<File>,
}

impl SideLock {
    /// `None` when another process has it, or had it a moment ago.
    fn try_take(lock_path: &Path) -> Result<Option<Self>, disk::Error> {
        let path = side_path(lock_path);
        let created = match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => File::open_read_no_follow(&path),
            other => other,
        };
        let file = match created {
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) if cannot_be_had(&path, &error) => return Ok(Some(Self { file: None })),
            other => other?,
        };
        // Other errors come from file systems without kernel locks.
        if let Err(TryLockError::WouldBlock) = file.as_std().try_lock() {
            return Ok(None);
        }
        match disk::metadata(&path) {
            Ok(present) if present.identity == file.metadata()?.identity => {
                Ok(Some(Self { file: Some(file) }))
            }
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

/// Whether the side file can be had by nobody like us: on a full disk, which deleting a lock file gives room; another user's,
/// left by a killed process; or something that is no file.
fn cannot_be_had(path: &Path, error: &disk::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, StorageFull};
    matches!(error.kind(), PermissionDenied | QuotaExceeded | StorageFull)
        || disk::metadata(path).is_ok_and(|found| !found.is_file)
}

impl Drop for SideLock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // One that stays behind means nothing: the next holder of the side lock uses and deletes it.
            let _ = disk::remove_file(file.path());
        }
    }
}

fn side_path(lock_path: &Path) -> PathBuf {
    disk::with_suffix(lock_path, ".rob")
}

//! One lock file: creates the file with a token, confirms that the lock is still held, and releases or takes over the lock.
//!
//! Touches `<lock file>` and, while the lock file is deleted, `<lock file>.rob`. Guarantees: a file is deleted only after a
//! look has shown that the file is this process's own or the orphan to take over. The look and the deletion are under the
//! side file's kernel lock, except where no process can have the side file, where the file system has no kernel locks, and
//! when a lock file that was just created could not be signed.
//!
//! One process at a time holds a kernel lock on the side file, from its last look at the lock file to the unlink. The
//! holder deletes the side file before closing the side file. A process that then gets the kernel lock of the deleted side
//! file sees that the name belongs to another file, or to no file, and does not have the lock. A side file left by a killed
//! process has no effect.

use crate::disk::{self, File, Identity};
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A lock file that was not touched for longer than this is an orphan. The TypeScript package has the same limit.
pub const STALE_AGE: Duration = Duration::from_secs(5);

/// A lock file of this process that was touched more recently than this cannot become an orphan before this process is done
/// with the file.
const SURELY_FRESH: Duration = Duration::from_millis(STALE_AGE.as_millis() as u64 / 2);

/// How often, 5 ms apart, a holder that finds its own file stale, or releases the lock, tries to get the side lock while a
/// takeover is in progress.
const SIDE_LOCK_ATTEMPTS: u32 = 200;

/// A lock file this process created.
#[derive(Debug)]
pub(super) struct LockFile {
    /// Kept open, so that no other file gets the inode number while the lock is held.
    file: File,
    identity: Identity,
    /// The content of the file: `pid <decimal> token <32 hex digits>` and LF. `None` when the disk was full: an
    /// empty lock file is accepted, because a command that frees space needs its lock.
    token: Option<String>,
    /// When the last touch began, by the clock that never jumps and by the clock that continues while the machine sleeps.
    touched: Mutex<(Instant, SystemTime)>,
}

impl LockFile {
    /// Creates the file; the error kind is `AlreadyExists` when the file exists.
    pub(super) fn create(path: &Path) -> Result<Self, disk::Error> {
        let touched = Mutex::new((Instant::now(), local_now()));
        let file = File::create_new(path)?;
        Self::sign(file, touched).inspect_err(|_| {
            // The first error is the error to report; an empty lock file that stays becomes an orphan soon.
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

    /// Shows that the holder is alive. Touches the open file, not the path: never creates a file, never touches a successor's file.
    pub(super) fn touch(&self) -> Result<(), disk::Error> {
        let now = (Instant::now(), local_now());
        self.file.touch()?;
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// Returns an upper bound of the time since the last touch. Reads only clocks of this machine and returns the
    /// longer of the two times, because one clock stops while the machine sleeps and the other clock can be set back.
    fn since_touch(&self) -> Duration {
        let (started, dated) = *self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        started.elapsed().max(local_age(dated))
    }

    /// Whether this process still has the lock; if so, the process keeps the lock for [`SURELY_FRESH`] at least.
    pub(super) fn confirm(&self) -> Result<bool, disk::Error> {
        match self.modified_if_ours()? {
            None => return Ok(false),
            Some(modified) if self.since_touch().max(local_age(modified)) < SURELY_FRESH => return Ok(true),
            Some(_) => self.touch()?,
        }
        // A takeover that began before the touch may be about to delete the file; no takeover begins after the touch.
        match self.wait_for_side_lock()? {
            Some(_side_lock) => Ok(self.modified_if_ours()?.is_some()),
            None => Ok(false),
        }
    }

    /// Deletes the file if the file still belongs to this process. A failure is no error of the work under the lock,
    /// because the file then becomes stale, and others take the lock over.
    pub(super) fn release(&self) {
        let path = self.path();
        match self.delete_if_ours() {
            Ok(true) => {}
            Ok(false) => tracing::warn!("lock {} was lost before it was let go", path.display()),
            Err(error) => tracing::warn!("lock {} was not let go: {error}", path.display()),
        }
    }

    /// Deletes the file under the side lock. Without the side lock, another process could take the lock over and create
    /// its own lock file between the look and the unlink, if this process is stopped there. When a takeover does not
    /// end, the file is left to the takeover.
    fn delete_if_ours(&self) -> Result<bool, disk::Error> {
        let Some(_side_lock) = self.wait_for_side_lock()? else { return Ok(false) };
        if self.modified_if_ours()?.is_none() {
            return Ok(false);
        }
        if self.since_touch() >= SURELY_FRESH {
            // Programs that do not know the side lock decide by the file's age.
            self.touch()?;
        }
        disk::remove_file(self.path()).map(|()| true)
    }

    /// Returns when the file was touched; `None` when the name is gone or belongs to another process's file.
    fn modified_if_ours(&self) -> Result<Option<SystemTime>, disk::Error> {
        let Some(present) = disk::if_there(disk::metadata(self.path()))? else { return Ok(None) };
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

/// Reads the first bytes of a lock file, at least as many as a token has; `None` when the file cannot be read.
fn read_token(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 64];
    let read = File::open_read_no_follow(path).and_then(|file| file.read_at(&mut bytes, 0)).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// Returns the process id in a lock file, if this crate wrote the lock file.
pub(super) fn holder_pid(path: &Path) -> Option<u32> {
    let token = String::from_utf8(read_token(path)?).ok()?;
    token.strip_prefix("pid ")?.split(' ').next()?.parse().ok()
}

/// Returns how long ago `time` was by the clock of this machine; zero when `time` is in the future.
pub(super) fn local_age(time: SystemTime) -> Duration {
    local_now().duration_since(time).unwrap_or_default()
}

/// Reads the clock of this machine. The times of files are from the clock of their file system, which may be another
/// machine's clock; compare them with [`Clock`]. [`LockFile::confirm`] may compare a file's time with this clock,
/// because it takes the greater of two ages: a wrong clock only makes it touch the file once more.
pub(super) fn local_now() -> SystemTime {
    #[cfg(test)]
    return super::tests::skewed(SystemTime::now());
    #[cfg(not(test))]
    SystemTime::now()
}

/// The clock of the file system of a lock file, as read once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    read: SystemTime,
    read_at: SystemTime,
}

impl Clock {
    /// Reads the clock by creating an unnamed file in the lock file's directory. Where no file can be created, as on a
    /// full disk, the clock of this machine is the substitute.
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

    /// Returns how long ago `time` was; zero when `time` is in the future.
    pub(super) fn age(self, time: SystemTime) -> Duration {
        self.now().duration_since(time).unwrap_or_default()
    }
}

/// Deletes the lock file if it is still the orphan `orphan`. Returns `false` when another process of this program is about to
/// delete the orphan; after `true` the file was deleted, by this process or another, or was not an orphan.
pub(super) fn take_over(path: &Path, orphan: Identity, clock: Clock) -> Result<bool, disk::Error> {
    let Some(_side_lock) = SideLock::try_take(path)? else { return Ok(false) };
    match disk::metadata(path) {
        Ok(present) if present.identity == orphan && clock.age(present.modified) > STALE_AGE => {
            disk::remove_file_if_exists(path)?;
        }
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    Ok(true)
}

/// The kernel lock on the side file. Dropping the lock deletes the side file and then unlocks the side file.
struct SideLock {
    /// `None` where no process can open the side file. Then only the last look protects the lock file, as with the TypeScript
    /// package.
    file: Option<File>,
}

impl SideLock {
    /// Returns `None` when another process has the side lock, or had the side lock a moment ago.
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
        let Some(present) = disk::if_there(disk::metadata(&path))? else { return Ok(None) };
        let is_ours = present.identity == file.metadata()?.identity;
        Ok(is_ours.then_some(Self { file: Some(file) }))
    }
}

/// Whether no process with the rights of this one can open the side file: the disk is full, a killed process of another
/// user left the side file, or its name belongs to something that is not a regular file. On a full disk the lock file must
/// still be deleted, because deleting frees space.
fn cannot_be_had(path: &Path, error: &disk::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, StorageFull};
    matches!(error.kind(), PermissionDenied | QuotaExceeded | StorageFull)
        || disk::metadata(path).is_ok_and(|found| !found.is_file)
}

impl Drop for SideLock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // A side file that stays has no effect: the next holder of the side lock uses and deletes it.
            let _ = disk::remove_file(file.path());
        }
    }
}

fn side_path(lock_path: &Path) -> PathBuf {
    disk::with_suffix(lock_path, ".rob")
}

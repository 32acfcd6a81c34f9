//! One lock file: created with a token in it, confirmed, let go, or taken over as an orphan.
//!
//! Touches `<lock file>` and, while an orphan is taken over, `<lock file>.rob`. Promises never to delete a file that it
//! has not just seen to be its own or, under the side file's kernel lock, to be the orphan it was sent for.
//!
//! The side file is held with a kernel lock by one process of ours at a time, between its second look at an orphan and
//! the unlink. Its holder deletes it before closing it; who then gets the kernel lock of the deleted file sees that the
//! name stands for another file, or none, and has nothing. A side file left by a killed process means nothing.

use super::STALE_AGE;
use crate::disk::{self, File, Identity};
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A lock file of ours touched more recently than this cannot be an orphan to anybody before we are done with it.
const SURELY_FRESH: Duration = Duration::from_millis(STALE_AGE.as_millis() as u64 / 2);

/// How often, 5 ms apart, a holder that finds its own file stale waits for a takeover under way to end.
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
}

impl LockFile {
    /// Creates the file; the error kind is `AlreadyExists` when it is there.
    pub(super) fn create(path: &Path) -> Result<Self, disk::Error> {
        let file = File::create_new(path)?;
        Self::sign(file).inspect_err(|_| {
            // The error that matters is on its way; an empty file of ours is an orphan soon.
            let _ = disk::remove_file(path);
        })
    }

    fn sign(file: File) -> Result<Self, disk::Error> {
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
        Ok(Self { file, identity, token })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Shows that the holder is alive. Goes by the open file: never makes a file anew, never touches a successor's.
    pub(super) fn touch(&self) -> Result<(), disk::Error> {
        self.file.set_modified(SystemTime::now())
    }

    /// Whether the lock is still ours; if so, it stays so for [`SURELY_FRESH`] at least.
    pub(super) fn confirm(&self) -> Result<bool, disk::Error> {
        match self.age_if_ours()? {
            None => return Ok(false),
            Some(age) if age < SURELY_FRESH => return Ok(true),
            Some(_) => self.touch()?,
        }
        // A takeover that began before the touch may be about to delete the file; none begins after it.
        let _side_lock = self.wait_for_side_lock()?;
        Ok(self.age_if_ours()?.is_some())
    }

    /// Deletes the file if it is still ours. Failing is no error of the work that was done under the lock: the file
    /// then turns stale, and others take it over.
    pub(super) fn release(&self) {
        let path = self.path();
        match self
            .confirm()
            .and_then(|ours| if ours { disk::remove_file(path).map(|()| true) } else { Ok(false) })
        {
            Ok(true) => {}
            Ok(false) => tracing::warn!("lock {} was lost before it was let go", path.display()),
            Err(error) => tracing::warn!("lock {} was not let go: {error}", path.display()),
        }
    }

    /// How long ago it was touched; `None` when the name is gone or stands for somebody else's file.
    fn age_if_ours(&self) -> Result<Option<Duration>, disk::Error> {
        let present = match disk::metadata(self.path()) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let is_ours = present.identity == self.identity && self.token_matches();
        Ok(is_ours.then(|| age(present.modified)))
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

/// How long ago `time` was; zero when it lies in the future.
pub(super) fn age(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

pub(super) enum Takeover {
    /// The orphan is gone, by us or by another, or it was no orphan: try to create the lock file.
    Done,
    /// Another process of ours is about to delete it.
    Busy,
}

/// Deletes the lock file if it is still the orphan `orphan`.
pub(super) fn take_over(path: &Path, orphan: Identity) -> Result<Takeover, disk::Error> {
    let Some(_side_lock) = SideLock::try_take(path)? else { return Ok(Takeover::Busy) };
    match disk::metadata(path) {
        Ok(present) if present.identity == orphan && age(present.modified) > STALE_AGE => {
            disk::remove_file_if_exists(path)?;
        }
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    Ok(Takeover::Done)
}

/// The kernel lock on the side file. Dropping it deletes the side file and then unlocks it.
struct SideLock {
    file: File,
}

impl SideLock {
    /// `None` when another process has it, or had it a moment ago.
    fn try_take(lock_path: &Path) -> Result<Option<Self>, disk::Error> {
        let path = side_path(lock_path);
        let file = match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match File::open_read_no_follow(&path) {
                    Err(error) if error.is_not_found() => return Ok(None),
                    other => other?,
                }
            }
            other => other?,
        };
        // Other errors come from file systems without kernel locks. There the second look alone must do, as it does
        // between the reference's processes.
        if let Err(TryLockError::WouldBlock) = file.as_std().try_lock() {
            return Ok(None);
        }
        match disk::metadata(&path) {
            Ok(present) if present.identity == file.metadata()?.identity => Ok(Some(Self { file })),
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

impl Drop for SideLock {
    fn drop(&mut self) {
        // One that stays behind means nothing, and the next takeover deletes it.
        let _ = disk::remove_file(self.file.path());
    }
}

fn side_path(lock_path: &Path) -> PathBuf {
    disk::with_suffix(lock_path, ".rob")
}

//! Replaces the live archive with a rebuilt archive, while other programs may read and write the live archive.
//!
//! Touches: the live archive, its `-wal`, `-shm` and `-journal`, and files named `<archive>.rebuild-…` and
//! `<archive>.set-aside-…` beside it.
//!
//! Guarantees: readers have all of the old archive until [`PublishPlan::publish`] replaces it, and all of the new archive
//! afterwards. A kill at any moment leaves one of the two, complete. The published file is in WAL mode.
//! docs/publishing.md describes the protocol, the state that each crash leaves, the paths A, B and C, and the one gap in these
//! guarantees, between two system calls.
//!
//! ```no_run
//! use relayburn_ledger::publish;
//!
//! // The caller holds lock `archive` until the plan is published or dropped.
//! let plan = publish::prepare("archive.sqlite".as_ref())?;
//! let archive = rusqlite::Connection::open(plan.build_path()).expect("an empty file of ours");
//! archive.pragma_update(None, "page_size", plan.page_size()).expect("nothing is written yet");
//! // … fill it …
//! archive.close().expect("nothing is pending");
//! let published = plan.publish(|| true)?;
//! println!("published {:?}; the disk took {:?}", published.method, published.build_sync);
//! # Ok::<(), publish::PublishError>(())
//! ```

mod connection;
mod error;
mod in_place;
mod keep;
mod live;
#[cfg(unix)]
mod live_file;
mod replace;
mod steps;
mod temp_database;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::disk;
use crate::interrupt::Interrupt;

use self::replace::ReplaceAttempt;
use self::steps::{PublishStep, reached};
use self::temp_database::TempDatabase;

pub use self::error::PublishError;
pub(crate) use self::keep::{KeptCopy, kept};
pub use self::live::FoundLive;
pub use self::replace::Method;

/// The page size of a rebuilt archive in bytes, unless the live file's page size has to be kept.
pub const PAGE_SIZE: u32 = 16384;

/// How long to retry replacing a live archive that other programs have open, before it is written in place.
const EXCLUSIVE_WAIT: Duration = Duration::from_millis(if cfg!(test) { 60 } else { 1000 });
/// The same when the archive was in use before the build, too: a program that had the archive open all the time rarely
/// closes it now.
const EXCLUSIVE_WAIT_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 30 } else { 100 });
/// The pause between two attempts to replace the archive.
const EXCLUSIVE_PAUSE: Duration = Duration::from_millis(20);

/// The file to build a new archive in, and the state needed to publish it. Dropping the plan removes the built file.
#[derive(Debug)]
#[must_use = "dropping the plan removes the file to build in"]
pub struct PublishPlan {
    live: PathBuf,
    build: TempDatabase,
    page_size: u32,
    found: FoundLive,
    in_use: bool,
}

/// The result of [`PublishPlan::publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// How the new archive replaced the old archive.
    pub method: Method,
    /// How long the sync of the built file took.
    pub build_sync: Duration,
    /// How long the remaining steps took: waiting for other programs, replacing or writing.
    pub replacing: Duration,
}

/// Removes the files that dead rebuilds left beside the archive. The caller must hold lock `archive`.
pub(crate) fn sweep(live: &Path) -> Result<(), PublishError> {
    live::sweep(&live::resolve(live)?)
}

/// Removes the empty files that SQLite left beside the archive when the disk was too full to open it. Ignores errors,
/// because these files do no harm.
pub(crate) fn remove_empty_log(live: &Path) {
    #[cfg(unix)]
    let _ = live::resolve(live).and_then(|live| live::remove_empty_log(&live));
    #[cfg(not(unix))]
    let _ = live;
}

/// Returns the files of rebuilds beside the archive, of a running rebuild or of dead rebuilds.
pub(crate) fn leftovers(live: &Path) -> Result<Vec<PathBuf>, PublishError> {
    if !disk::parent_of(live).exists() {
        return Ok(Vec::new());
    }
    live::leftovers(&live::resolve(live)?)
}

/// Examines the live archive, removes the files that dead rebuilds left beside it, and creates an empty file to build
/// in.
///
/// The caller must hold lock `archive` until the plan is published or dropped. The directory must exist. Other
/// connections of this process to the live archive are treated like connections of other processes. While any
/// connection of this process is open, the process must close no descriptor of the live file except SQLite's, because
/// closing a descriptor drops SQLite's locks.
///
/// # Errors
/// [`PublishError::NotAFile`], or [`PublishError::Io`] and [`PublishError::Sqlite`] when the directory or the archive
/// cannot be read or written. A file that is not a database and a damaged database are not errors: see
/// [`PublishPlan::found`].
pub fn prepare(live: &Path) -> Result<PublishPlan, PublishError> {
    let live = live::resolve(live)?;
    live::sweep(&live)?;
    let look = live::look(&live)?;
    let page_size = match look.found {
        // Archives of other page sizes are rewritten when the content is written in place.
        FoundLive::Archive { page_size_bytes }
            if look.keeps_inode && (4096..=32768).contains(&page_size_bytes) =>
        {
            page_size_bytes
        }
        _ => PAGE_SIZE,
    };
    let build = TempDatabase::create(&live)?;
    Ok(PublishPlan { live, build, page_size, found: look.found, in_use: look.in_use })
}

impl PublishPlan {
    /// Returns the empty file to build in. The file is beside the live archive and was created exclusively, with mode
    /// 0600.
    #[must_use]
    pub fn build_path(&self) -> &Path {
        &self.build.path
    }

    /// Returns the page size in bytes to build with. Another page size works, too, but `publish` may have to rewrite
    /// the file.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Returns what [`prepare`] found in the archive's place.
    #[must_use]
    pub fn found(&self) -> FoundLive {
        self.found
    }

    /// Returns the live archive's path, links resolved.
    #[must_use]
    pub fn live_path(&self) -> &Path {
        &self.live
    }

    /// Copies the live archive to `<archive>.set-aside-<milliseconds since 1970>` beside it. The copy is complete and
    /// durable; readers and the live archive are not disturbed. When an earlier build made the same copy and ended
    /// before it replaced the archive, returns the existing copy.
    ///
    /// # Errors
    /// [`PublishError::Disk`], [`PublishError::Io`], [`PublishError::Sqlite`], [`PublishError::Interrupted`]. The
    /// copy is then removed, unless only the sync of the directory failed: then the copy is kept for the next build.
    pub(crate) fn keep_copy(&self, interrupt: &Interrupt) -> Result<KeptCopy, PublishError> {
        keep::copy(&self.live, interrupt)
    }

    /// Renames the file in the live archive's place to `<archive>.set-aside-<milliseconds since 1970>` and returns
    /// the new path.
    ///
    /// # Errors
    /// [`PublishError::Disk`].
    pub fn move_aside(&self) -> Result<PathBuf, PublishError> {
        keep::rename(&self.live)
    }

    /// Whether another connection held a lock on the live archive when [`prepare`] examined it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Replaces the live archive with the built file and syncs it. No connection to the built file may be open.
    ///
    /// `still_held` returns whether the caller still holds lock `archive`. It is called before the point of no
    /// return, in path B every 4 MiB; when it returns `false` nothing is published.
    ///
    /// # Errors
    /// Any [`PublishError`]. Except after [`PublishError::NotDurable`], the live archive is then unchanged. The built
    /// file is removed.
    pub fn publish(self, mut still_held: impl FnMut() -> bool) -> Result<Published, PublishError> {
        let build_sync = self.build.seal()?;
        reached(PublishStep::Sealed);
        let started = Instant::now();
        let wait = if self.in_use { EXCLUSIVE_WAIT_AGAIN } else { EXCLUSIVE_WAIT };
        let method = loop {
            match replace::attempt(&self.build.path, &self.live, &mut still_held)? {
                ReplaceAttempt::Done(method) => break method,
                ReplaceAttempt::Occupied if started.elapsed() < wait => thread::sleep(EXCLUSIVE_PAUSE),
                ReplaceAttempt::Occupied | ReplaceAttempt::KeepInode => {
                    break in_place::write(&self.build, &self.live, &mut still_held)?;
                }
            }
        };
        Ok(Published { method, build_sync, replacing: started.elapsed() })
    }
}

//! Puts a rebuilt archive in the place of the live one, beside readers and writers of other programs.
//!
//! Touches: the live archive, its `-wal`, `-shm` and `-journal`, and files called `<archive>.rebuild-…` and
//! `<archive>.set-aside-…` beside it.
//!
//! Promises: until [`Plan::publish`] replaces it everybody reads all of the old archive, afterwards all of the new one;
//! whatever kills this process leaves one of the two, whole; the published file is in WAL mode. The protocol and
//! what each crash leaves are in docs/publishing.md, to which the letters A, B and C refer here.
//!
//! ```no_run
//! use relayburn_ledger::publish;
//!
//! let plan = publish::prepare("archive.sqlite".as_ref())?; // lock `archive` is held from here on
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

use self::replace::Attempt;
use self::steps::{Step, reached};
use self::temp_database::TempDatabase;

pub use self::error::PublishError;
pub(crate) use self::keep::{Kept, kept};
pub use self::live::Found;
pub use self::replace::Method;

/// The page size of a rebuilt archive in bytes, unless the live file's has to be kept.
pub const PAGE_SIZE: u32 = 16384;

/// How long a live archive that others have open is asked for before it is written into instead.
const EXCLUSIVE_WAIT: Duration = Duration::from_millis(if cfg!(test) { 60 } else { 1000 });
/// The pause between two such attempts.
const EXCLUSIVE_PAUSE: Duration = Duration::from_millis(20);

/// Where to build a new archive, and everything needed to publish it. Dropped, it removes the file that was built.
#[derive(Debug)]
#[must_use = "dropping the plan removes the file to build in"]
pub struct Plan {
    live: PathBuf,
    build: TempDatabase,
    page_size: u32,
    found: Found,
    in_use: bool,
}

/// What [`Plan::publish`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// How the new archive came to its place.
    pub method: Method,
    /// How long the disk took to sync the built file.
    pub build_sync: Duration,
    /// How long the rest took: waiting for others, replacing or writing.
    pub replacing: Duration,
}

/// Removes what dead rebuilds left beside the archive. The caller holds lock `archive`.
pub(crate) fn sweep(live: &Path) -> Result<(), PublishError> {
    live::sweep(&live::resolve(live)?)
}

/// Removes the empty files that SQLite left beside the archive when it had no room to open it. They do no harm, so that they may
/// have to stay is no error.
pub(crate) fn remove_empty_log(live: &Path) {
    #[cfg(unix)]
    let _ = live::resolve(live).and_then(|live| live::remove_empty_log(&live));
    #[cfg(not(unix))]
    let _ = live;
}

/// The files beside the archive that rebuilds work in: of one that runs, or of those that died.
pub(crate) fn leftovers(live: &Path) -> Result<Vec<PathBuf>, PublishError> {
    if !disk::parent_of(live).exists() {
        return Ok(Vec::new());
    }
    live::leftovers(&live::resolve(live)?)
}

/// Looks at the live archive, sweeps what dead rebuilds left beside it, and makes an empty file to build in.
///
/// The caller holds lock `archive`, and keeps it until the plan is published or dropped. The directory must exist. Other
/// connections of this process to the live archive are treated like those of others; but no descriptor of the live file other
/// than SQLite's may be closed in this process while any of its connections is open, as that drops SQLite's locks.
///
/// # Errors
/// [`PublishError::NotAFile`], or [`PublishError::Io`] and [`PublishError::Sqlite`] when the directory or the archive cannot be
/// read or written. A file that is no database, or a damaged one, is no error: see [`Plan::found`].
pub fn prepare(live: &Path) -> Result<Plan, PublishError> {
    let live = live::resolve(live)?;
    live::sweep(&live)?;
    let look = live::look(&live)?;
    let page_size = match look.found {
        // Other sizes are rewritten when the content is put in place.
        Found::Archive { page_size_bytes }
            if look.keeps_inode && (4096..=32768).contains(&page_size_bytes) =>
        {
            page_size_bytes
        }
        _ => PAGE_SIZE,
    };
    let build = TempDatabase::create(&live)?;
    Ok(Plan { live, build, page_size, found: look.found, in_use: look.in_use })
}

/// Whether the live archive could be replaced by a rename now: nobody has it open, and no other name leads to it.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn is_free(live: &Path) -> Result<bool, PublishError> {
    Ok(!live::look(&live::resolve(live)?)?.keeps_inode)
}

impl Plan {
    /// The empty file to build in: beside the live archive, exclusively created, mode 0600.
    #[must_use]
    pub fn build_path(&self) -> &Path {
        &self.build.path
    }

    /// The page size in bytes to build with. Another one works too, but may have to be rewritten by `publish`.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// What [`prepare`] found in the archive's place.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// The live archive's path, links resolved.
    #[must_use]
    pub fn live_path(&self) -> &Path {
        &self.live
    }

    /// Copies the live archive to `<archive>.set-aside-<milliseconds since 1970>` beside it and returns that path. The copy is
    /// whole and durable; readers and the live archive are not disturbed. Where such a copy is there already, because a build that
    /// made it ended before it replaced the archive, the path of that one is returned.
    ///
    /// # Errors
    /// [`PublishError::Disk`], [`PublishError::Io`], [`PublishError::Sqlite`]; nothing of the copy is left then, but where the
    /// directory could not be synced: then the copy stays for the next build. [`PublishError::Interrupted`].
    pub fn copy_aside(&self, interrupt: &Interrupt) -> Result<PathBuf, PublishError> {
        self.keep_copy(interrupt).map(|kept| kept.path)
    }

    pub(crate) fn keep_copy(&self, interrupt: &Interrupt) -> Result<Kept, PublishError> {
        keep::copy(&self.live, interrupt)
    }

    /// Renames what is in the live archive's place to `<archive>.set-aside-<milliseconds since 1970>` and returns that path.
    ///
    /// # Errors
    /// [`PublishError::Disk`].
    pub fn move_aside(&self) -> Result<PathBuf, PublishError> {
        keep::rename(&self.live)
    }

    /// Whether another connection held the live archive when [`prepare`] looked.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.in_use
    }

    /// Puts the built file in the live archive's place and syncs it. No connection to the built file may be open.
    ///
    /// `still_held` says whether the caller still holds lock `archive`. It is asked before the point of no return, in
    /// path B every 4 MiB; on `false` nothing is published.
    ///
    /// # Errors
    /// Any [`PublishError`]; but for [`PublishError::NotDurable`] the live archive is then as it was. The built file is removed.
    pub fn publish(self, mut still_held: impl FnMut() -> bool) -> Result<Published, PublishError> {
        let build_sync = self.build.seal()?;
        reached(Step::Sealed);
        let started = Instant::now();
        let method = loop {
            match replace::attempt(&self.build.path, &self.live, &mut still_held)? {
                Attempt::Done(method) => break method,
                Attempt::Occupied if started.elapsed() < EXCLUSIVE_WAIT => thread::sleep(EXCLUSIVE_PAUSE),
                Attempt::Occupied | Attempt::KeepInode => {
                    break in_place::write(&self.build, &self.live, &mut still_held)?;
                }
            }
        };
        Ok(Published { method, build_sync, replacing: started.elapsed() })
    }
}

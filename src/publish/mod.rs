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

mod in_place;
mod keep;
mod live;
#[cfg(unix)]
mod live_file;
mod replace;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::disk::{self, with_suffix};
use crate::interrupt::Interrupt;

pub(crate) use keep::{Kept, kept};
pub use live::Found;

/// The page size of a rebuilt archive in bytes, unless the live file's has to be kept.
pub const PAGE_SIZE: u32 = 16384;

/// How long a live archive that others have open is asked for before it is written into instead.
const EXCLUSIVE_WAIT: Duration = Duration::from_millis(if cfg!(test) { 60 } else { 1000 });
/// The pause between two such attempts.
const EXCLUSIVE_PAUSE: Duration = Duration::from_millis(20);
/// How long another writer, or a reader that keeps the archive from WAL mode, is waited for.
const WRITER_WAIT: Duration = Duration::from_secs(5);
/// What a database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Appended to a database's name, the files that SQLite finds by path.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Why an archive could not be prepared or published. In every case but [`NotDurable`](Self::NotDurable) the live archive is
/// as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A file could not be created, written, synced, renamed or removed.
    #[error("{0}; the archive is unchanged")]
    Disk(#[from] disk::Error),
    /// The operating system refused an operation on a name.
    #[error("cannot {action} {}: {source}; the archive is unchanged", path.display())]
    Io {
        /// What was tried: a verb that goes before the path.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// SQLite refused an operation.
    #[error("SQLite cannot {action} {}: {source}; the archive is unchanged", path.display())]
    Sqlite {
        /// What was tried: a verb that goes before the path.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// Something that is no file stands where the archive should be.
    #[error("{} is not a regular file; move it away, or name another archive", path.display())]
    NotAFile {
        /// The archive's path, links resolved.
        path: PathBuf,
    },
    /// The live archive can neither be replaced nor written into, as another program has it open.
    #[error("{} is in use by another program, which {doing}; close it, then rebuild again", path.display())]
    InUse {
        /// The live archive.
        path: PathBuf,
        /// What that program does.
        doing: &'static str,
    },
    /// The built file vanished: another rebuild has swept it, which it does only under lock `archive`.
    #[error("{} is gone: lock `archive` was lost to another rebuild; the archive is unchanged, rebuild again", path.display())]
    BuildGone {
        /// The path from [`Plan::build_path`].
        path: PathBuf,
    },
    /// The built file must not be published as it is.
    #[error("{} cannot be published: {reason}; the archive is unchanged", path.display())]
    BuildUnfit {
        /// The path from [`Plan::build_path`].
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The new archive is in place, but the directory could not be synced.
    #[error("{} is the new archive, but a power cut may undo the rebuild: {source}", path.display())]
    NotDurable {
        /// The live archive.
        path: PathBuf,
        /// Why the directory could not be synced.
        source: disk::Error,
    },
    /// The copying of an archive that is to be kept was interrupted.
    #[error("interrupted while the archive was copied; it is unchanged")]
    Interrupted,
    /// The caller's check said that lock `archive` is no longer held.
    #[error("lock `archive` was lost before {} was replaced; it is unchanged, rebuild again", path.display())]
    LockLost {
        /// The live archive.
        path: PathBuf,
    },
}

impl PublishError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
        move |source| PublishError::Io { action, path: path.to_owned(), source }
    }

    fn sqlite(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> PublishError {
        move |source| PublishError::Sqlite { action, path: path.to_owned(), source }
    }
}

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

/// How a new archive came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// There was none (path C).
    Created,
    /// The built file was renamed over the live one, of which nobody had a hold (paths A and C).
    Renamed,
    /// The content was written into the live file in one transaction, beside its readers (path B).
    InPlace {
        /// Bytes that the write-ahead log still takes, because readers held an older snapshot.
        log_len_bytes: u64,
    },
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

/// The outcome of one attempt to replace the live file.
enum Attempt {
    Done(Method),
    /// Somebody has a hold of it, or it changed under our hands: worth another attempt.
    Occupied,
    /// It must be written into: several hard links, an owner that we cannot give, or a platform without path A.
    KeepInode,
}

/// A database of ours that was not published: removed with its sidecars when dropped. After a rename there is nothing to
/// remove under this name.
#[derive(Debug)]
struct TempDatabase {
    path: PathBuf,
}

impl TempDatabase {
    fn create(live: &Path) -> Result<TempDatabase, PublishError> {
        let tag = format!("{}{}-{}", live::REBUILD, std::process::id(), uuid::Uuid::new_v4().simple());
        let path = with_suffix(live, &tag);
        disk::File::create_new(&path)?;
        Ok(TempDatabase { path })
    }

    /// Leaves one synced file in WAL mode, without sidecars. Returns how long the sync took.
    fn seal(&self) -> Result<Duration, PublishError> {
        let path = &self.path;
        match live::regular_file(path)? {
            None => return Err(PublishError::BuildGone { path: path.clone() }),
            Some(metadata) if metadata.len() == 0 => {
                return Err(PublishError::BuildUnfit { path: path.clone(), reason: "nothing was built" });
            }
            Some(_) => {}
        }
        open(path)
            .and_then(|archive| {
                // The one sync is ours.
                archive.execute_batch("PRAGMA synchronous=OFF")?;
                archive.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
                archive.close().map_err(|(_, error)| error)
            })
            .map_err(PublishError::sqlite("finish", path))?;
        for sidecar in SIDECARS {
            if with_suffix(path, sidecar).exists() {
                let reason = "a connection to it is still open";
                return Err(PublishError::BuildUnfit { path: path.clone(), reason });
            }
        }
        let mut header = [0; 20];
        let file = disk::File::open_rw(path)?;
        file.read_exact_at(&mut header, 0)?;
        if &header[..16] != MAGIC || header[18..] != [2, 2] {
            return Err(PublishError::BuildUnfit { path: path.clone(), reason: "it is not in WAL mode" });
        }
        let started = Instant::now();
        file.sync_all()?;
        Ok(started.elapsed())
    }
}

impl Drop for TempDatabase {
    fn drop(&mut self) {
        // Nothing to report to, and the next sweep removes what stays.
        let _ = disk::remove_file(&self.path);
        for sidecar in SIDECARS {
            let _ = disk::remove_file(&with_suffix(&self.path, sidecar));
        }
    }
}

/// Makes the new archive's name durable, once it is in place.
fn sync_directory(live: &Path) -> Result<(), PublishError> {
    disk::sync_dir(disk::parent_of(live))
        .map_err(|source| PublishError::NotDurable { path: live.to_owned(), source })
}

/// Opens an existing database; whoever needs to wait for others sets a timeout.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Opens an existing database under SQLite's EXCLUSIVE lock, which the connection keeps until it is closed.
///
/// Fails at once, as busy, when any other connection holds a lock, this process's own included: one with a transaction, or
/// one that has read a database in WAL mode. A journal or log that a dead process left is applied, and an empty file gets its
/// first page: on an inode without one, an old connection would be allowed to make sidecars after the rename.
fn hold(path: &Path) -> rusqlite::Result<Connection> {
    let archive = open(path)?;
    archive.query_row("PRAGMA locking_mode=EXCLUSIVE", [], |_| Ok(()))?;
    archive.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    Ok(archive)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn is_unusable(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// The moments at which a test kills the process: after each step that a crash can fall behind.
#[derive(Clone, Copy, Debug)]
enum Step {
    Sealed,
    Held,
    Folded,
    Disarmed,
    Renamed,
    Cut,
    Synced,
    Overwritten,
    StaleRemoved,
    Linked,
    Resized,
    BackupHalf,
    BackupCommitted,
    Checkpointed,
}

#[cfg(not(test))]
fn reached(_: Step) {}

#[cfg(test)]
use tests::reached;

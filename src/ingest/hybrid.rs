//! The store on disk: fjall for many values that are written once (`H:`, `V:`, `E:`, `Q:`), redb for values that are read, changed,
//! and changed together (`S:`, and the entries under `C:`).
//!
//! May touch: its directory (`fjall/`, `index.redb` and `LOCK` in it). Guarantees: the half in redb changes atomically and is
//! durable when `put_batch` returns; the half in fjall is durable after `flush`; one process at a time has the store open; after a kill while
//! the store is created, the next opening creates it again. Both engines panic on some damaged files; a panic becomes an error here.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase, TableDefinition, TableError};

use super::store::{KVStore, KeyValue, StoreError, innermost};
use crate::disk;
use crate::store;

const FJALL: &str = "fjall";
const REDB: &str = "index.redb";
const INDEX: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("index");

/// A [`KVStore`] over fjall and redb.
pub struct HybridStore {
    path: PathBuf,
    records_database: Database,
    records: Keyspace,
    /// None only while the store is dropped.
    index: Option<redb::Database>,
    /// Whether an engine panicked, after which its memory cannot be trusted.
    is_broken: AtomicBool,
    // Dropped last: no other process may open files that are still being closed.
    _lock: disk::KernelLock,
}

impl std::fmt::Debug for HybridStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HybridStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl HybridStore {
    /// Opens the store in `directory`, creating it when missing.
    ///
    /// # Errors
    /// [`StoreError`], also when another process has it open.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |doing| move |source| failed(directory, doing, source);
        disk::create_dir_all(directory).map_err(Into::into).map_err(failed("creating it"))?;
        let lock = store::lock(&directory.join("LOCK"), Duration::ZERO)
            .map_err(Into::into)
            .map_err(failed("locking it"))?
            .ok_or_else(|| {
                failed("opening it")("another process has it open; try again when that has ended".into())
            })?;
        make(directory, FJALL, |fjall| {
            disk::create_dir_all(fjall)?;
            open_fjall(fjall).map(drop)
        })
        .map_err(failed("making fjall"))?;
        make(directory, REDB, |index| {
            disk::File::create_new(index)?;
            redb::Database::create(index)?;
            Ok(())
        })
        .map_err(failed("making index.redb"))?;
        let (records_database, records) = guarded(|| open_fjall(&directory.join(FJALL)))
            .map_err(Unusable::of)
            .map_err(failed("opening fjall"))?;
        let index = guarded(|| Ok(redb::Database::open(directory.join(REDB))?))
            .map_err(Unusable::of)
            .map_err(failed("opening index.redb"))?;
        let (index, is_broken) = (Some(index), AtomicBool::new(false));
        Ok(Self { path: directory.to_owned(), records_database, records, index, is_broken, _lock: lock })
    }

    fn index(&self) -> Result<&redb::Database, EngineError> {
        self.index.as_ref().ok_or_else(|| "it is closed".into())
    }

    /// Runs work of an engine. After a panic of either engine all further work is refused.
    fn ask<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, StoreError> {
        let error = |source| failed(&self.path, doing, source);
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(error("it failed before; open it again".into()));
        }
        guarded(work).map_err(|source| {
            self.is_broken.fetch_or(source.is::<Unusable>(), Ordering::Relaxed);
            error(source)
        })
    }
}

/// Closes redb under a guard, because redb writes when it is closed and panics where its file is damaged. Committed entries are
/// durable before that.
impl Drop for HybridStore {
    fn drop(&mut self) {
        let index = self.index.take();
        let closed = guarded(|| {
            drop(index);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!("closing {}: {error}", self.path.join(REDB).display());
        }
    }
}

/// An engine panicked, or could not open its files.
#[derive(Debug, thiserror::Error)]
#[error("{reason}; {remedy}")]
struct Unusable {
    reason: String,
    remedy: &'static str,
}

impl Unusable {
    const DAMAGED: &'static str = "if its files are damaged, put a copy in its place, or move it away and let what the journal still has be \
         drained again";
    const NOT_WRITABLE: &'static str =
        "a store is opened for writing also to read it: copy it to where you may write, and name the copy";

    fn of(error: EngineError) -> EngineError {
        if error.is::<Self>() {
            return error;
        }
        let causes = std::iter::successors(Some(&*error as &(dyn std::error::Error + 'static)), |error| {
            error.source()
        });
        let mut kinds = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        let is_not_writable = kinds
            .any(|kind| matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem));
        let remedy = if is_not_writable { Self::NOT_WRITABLE } else { Self::DAMAGED };
        Self { reason: innermost(error.as_ref()), remedy }.into()
    }
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread becomes an error, so that a panic hook need not print it.
#[cfg(feature = "cli")]
pub(crate) fn is_guarded() -> bool {
    IS_GUARDED.get()
}

/// Runs `work` and turns a panic into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    let before = IS_GUARDED.replace(true);
    // State that `work` leaves half done belongs to an engine that is dropped or never used again.
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(before);
    done.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("an engine panicked");
        Err(Unusable { reason: said.replace("\n ", ","), remedy: Unusable::DAMAGED }.into())
    })
}

type EngineError = Box<dyn std::error::Error + Send + Sync>;

/// Creates `name` in `directory` unless it exists. It is created under another name and renamed when it is whole, because both engines
/// refuse to open files that a kill left half created.
fn make(
    directory: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let (path, unfinished) = (directory.join(name), directory.join(format!("{name}.new")));
    if path.try_exists()? {
        return Ok(());
    }
    if unfinished.is_dir() {
        std::fs::remove_dir_all(&unfinished)?;
    } else {
        disk::remove_file_if_exists(&unfinished)?;
    }
    make(&unfinished)?;
    disk::rename(&unfinished, &path)?;
    Ok(disk::sync_dir(directory)?)
}

fn open_fjall(path: &Path) -> Result<(Database, Keyspace), EngineError> {
    let database = Database::builder(path).open()?;
    let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
    Ok((database, records))
}

fn failed(path: &Path, doing: &'static str, source: EngineError) -> StoreError {
    StoreError { path: path.to_owned(), doing, source }
}

fn is_indexed(key: &[u8]) -> bool {
    key.starts_with(b"S:") || key.starts_with(b"C:")
}

impl KVStore for HybridStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if !is_indexed(key) {
            let value = self.ask("reading fjall", || Ok(self.records.get(key)?))?;
            return Ok(value.map(|value| value.to_vec()));
        }
        self.ask("reading index.redb", || {
            let table = match self.index()?.begin_read()?.open_table(INDEX) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    fn put_batch(&self, batch: &[KeyValue]) -> Result<(), StoreError> {
        let mut records = self.records_database.batch();
        let mut indexed = Vec::new();
        for (key, value) in batch {
            if is_indexed(key) {
                indexed.push((key, value));
            } else {
                records.insert(&self.records, key.as_slice(), value.as_slice());
            }
        }
        if !records.is_empty() {
            self.ask("writing fjall", || Ok(records.commit()?))?;
        }
        if indexed.is_empty() {
            return Ok(());
        }
        self.ask("writing index.redb", || {
            let transaction = self.index()?.begin_write()?;
            {
                let mut table = transaction.open_table(INDEX)?;
                for (key, value) in indexed {
                    table.insert(key.as_slice(), value.as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        })
    }

    fn scan_prefix(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let mut found = Vec::new();
        self.ask("scanning fjall", || {
            for entry in self.records.prefix(prefix) {
                let (key, value) = entry.into_inner()?;
                found.push((key.to_vec(), value.to_vec()));
            }
            Ok(())
        })?;
        self.ask("scanning index.redb", || {
            let table = match self.index()?.begin_read()?.open_table(INDEX) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for entry in table.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(())
        })?;
        found.sort_unstable();
        Ok(found)
    }

    fn flush(&self) -> Result<(), StoreError> {
        // Commits of redb are durable already.
        self.ask("syncing fjall", || Ok(self.records_database.persist(PersistMode::SyncAll)?))
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_not_writable_is_not_called_damaged() {
        for (kind, remedy) in [
            (io::ErrorKind::ReadOnlyFilesystem, "copy it to where you may write"),
            (io::ErrorKind::PermissionDenied, "copy it to where you may write"),
            (io::ErrorKind::InvalidData, "if its files are damaged"),
        ] {
            let text = Unusable::of(fjall::Error::Io(kind.into()).into()).to_string();
            assert!(text.contains(remedy), "{text}");
        }
    }
}

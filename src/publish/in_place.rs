//! Path B: writes the built file's content into the live archive, as one transaction, while other programs read the
//! archive.
//!
//! Touches: the live archive, only through SQLite; a second temporary file when the page sizes differ.
//!
//! Guarantees: readers keep their snapshot; an error or a crash before the commit leaves the old content.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::connection::{WRITER_WAIT, is_busy, is_unusable, open};
use super::error::PublishError;
use super::replace::Method;
use super::steps::{PublishStep, reached};
use super::temp_database::TempDatabase;
use crate::disk::with_suffix;

/// Maximum wait for readers of an older snapshot before the log is left unfolded.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(250);
/// Number of bytes written between two checks of lock `archive`.
const STRIDE_LEN_BYTES: u32 = if cfg!(test) { 64 << 10 } else { 4 << 20 };

pub(super) fn write(
    build: &TempDatabase,
    live: &Path,
    still_held: &mut dyn FnMut() -> bool,
) -> Result<Method, PublishError> {
    let mut archive = open_for_writing(live)?;
    let page_size = page_size(&archive).map_err(PublishError::sqlite("read", live))?;
    let source = open(&build.path).map_err(PublishError::sqlite("open", &build.path))?;
    let built_page_size = self::page_size(&source).map_err(PublishError::sqlite("read", &build.path))?;
    // Declared before the connection to it, so that the file is dropped after the connection.
    let resized;
    let source = if page_size == built_page_size {
        source
    } else {
        resized = TempDatabase::create(live)?;
        resize(source, page_size, &resized).map_err(PublishError::sqlite("rewrite", &build.path))?
    };
    reached(PublishStep::Resized);

    let written = back_up(&source, &mut archive, page_size, live, still_held);
    if written.is_ok() {
        reached(PublishStep::BackupCommitted);
    }
    // Also after a failure, because rolled back pages still take space in the log.
    archive.busy_timeout(CHECKPOINT_WAIT).map_err(PublishError::sqlite("configure", live))?;
    let _ = archive.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    written?;
    reached(PublishStep::Checkpointed);
    // The last connection's close folds the log. The close may fail without harm, because the log is committed and
    // synced.
    drop(archive);
    let log_len_bytes = with_suffix(live, "-wal").symlink_metadata().map_or(0, |log| log.len());
    Ok(Method::InPlace { log_len_bytes })
}

fn open_for_writing(live: &Path) -> Result<Connection, PublishError> {
    let in_wal_mode = open(live).and_then(|archive| {
        archive.busy_timeout(WRITER_WAIT)?;
        archive.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        archive.execute_batch("PRAGMA synchronous=FULL")?;
        Ok(archive)
    });
    in_wal_mode.map_err(|error| {
        if is_unusable(&error) {
            return PublishError::InUse {
                path: live.to_owned(),
                doing: "holds it although it is damaged, so that it cannot be replaced",
            };
        }
        busy_or("write", live)(error)
    })
}

/// Returns a copy of `source` with another page size.
fn resize(source: Connection, page_size: u32, target: &TempDatabase) -> rusqlite::Result<Connection> {
    source.pragma_update(None, "page_size", page_size)?;
    // A crash discards this file, so it need not be synced.
    source.execute_batch("PRAGMA synchronous=OFF")?;
    // Bytes, not a string, because a path need not be valid UTF-8.
    let path = target.path.as_os_str().as_encoded_bytes();
    source.execute("VACUUM INTO ?1", [ToSqlOutput::Borrowed(ValueRef::Text(path))])?;
    open(&target.path)
}

/// Replaces the archive's content in one transaction.
fn back_up(
    source: &Connection,
    archive: &mut Connection,
    page_size: u32,
    live: &Path,
    still_held: &mut dyn FnMut() -> bool,
) -> Result<(), PublishError> {
    let writing = "write the rebuilt archive into";
    let backup = Backup::new(source, archive).map_err(busy_or(writing, live))?;
    let stride_pages = STRIDE_LEN_BYTES.div_ceil(page_size) as i32;
    let mut waiting_since = Instant::now();
    loop {
        if !still_held() {
            return Err(PublishError::LockLost { path: live.to_owned() });
        }
        match backup.step(stride_pages).map_err(busy_or(writing, live))? {
            StepResult::Done => return Ok(()),
            StepResult::More => {
                waiting_since = Instant::now();
                let progress = backup.progress();
                if progress.remaining <= progress.pagecount / 2 {
                    reached(PublishStep::BackupHalf);
                }
            }
            _ if waiting_since.elapsed() > WRITER_WAIT => return Err(in_use(live)),
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn page_size(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "page_size", |row| row.get(0))
}

fn busy_or(action: &'static str, live: &Path) -> impl FnOnce(rusqlite::Error) -> PublishError {
    move |error| {
        if is_busy(&error) { in_use(live) } else { PublishError::sqlite(action, live)(error) }
    }
}

fn in_use(live: &Path) -> PublishError {
    PublishError::InUse { path: live.to_owned(), doing: "did not let go of it for 5 s" }
}

//! A temporary database beside the live archive, until it is published.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::connection::{MAGIC, SIDECARS, open};
use super::error::PublishError;
use super::live::{REBUILD, regular_file};
use crate::disk::{self, with_suffix};

/// A temporary database. Dropping it removes the file and its sidecars. After a rename no file has this name any
/// more.
#[derive(Debug)]
pub(super) struct TempDatabase {
    pub(super) path: PathBuf,
}

impl TempDatabase {
    pub(super) fn create(live: &Path) -> Result<TempDatabase, PublishError> {
        let tag = format!("{}{}-{}", REBUILD, std::process::id(), uuid::Uuid::new_v4().simple());
        let path = with_suffix(live, &tag);
        disk::File::create_new(&path)?;
        Ok(TempDatabase { path })
    }

    /// Leaves one synced file in WAL mode, without sidecars. Returns how long the sync took.
    pub(super) fn seal(&self) -> Result<Duration, PublishError> {
        let path = &self.path;
        match regular_file(path)? {
            None => return Err(PublishError::BuildGone { path: path.clone() }),
            Some(metadata) if metadata.len() == 0 => {
                return Err(PublishError::BuildUnfit { path: path.clone(), reason: "nothing was built" });
            }
            Some(_) => {}
        }
        open(path)
            .and_then(|archive| {
                // SQLite does not sync; this function syncs the file once below.
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
        // Errors are ignored: the next sweep removes the remaining files.
        let _ = disk::remove_file(&self.path);
        for sidecar in SIDECARS {
            let _ = disk::remove_file(&with_suffix(&self.path, sidecar));
        }
    }
}

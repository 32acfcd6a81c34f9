//! Exports in a directory.
//!
//! Touches the directory alone; each file is written beside its place, synced and renamed. Guarantees: after a power cut a
//! manifest is the old one or the new one, and the files that it names are there, because data files and their names are
//! synced before the manifest.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::error::ExportError;
use super::layout::{HomeId, MANIFESTS};
use super::spool::FileSpool;
use super::store::{
    ExportStore, FRESH_AGE, ManifestReplaced, PlaceStillHeld, Put, StoredFile, StoredManifest,
};
use crate::disk::{self, Replacing};
use crate::interrupt::Interrupt;
use crate::lock::with_lock_unless;

/// A directory of exports.
pub(super) struct ExportDirectory {
    root: PathBuf,
    interrupt: Interrupt,
}

impl ExportDirectory {
    pub(super) fn new(root: PathBuf, interrupt: Interrupt) -> Self {
        Self { root, interrupt }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn age_of(metadata: &disk::Metadata) -> Duration {
    SystemTime::now().duration_since(metadata.modified).unwrap_or_default()
}

fn version_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl ExportStore for ExportDirectory {
    fn shown(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    fn exclusively(
        &self,
        home_id: &HomeId,
        work: &mut dyn FnMut(PlaceStillHeld<'_>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let lock = self.at(&format!("{MANIFESTS}/{home_id}.lock"));
        disk::create_dir_all(disk::parent_of(&lock))?;
        with_lock_unless(&lock, &self.interrupt, |held| work(&|| Ok(held.still_held()?)))
    }

    fn put(&self, path: &str, content: &FileSpool<'_>) -> Result<Put, ExportError> {
        let path = self.at(path);
        disk::create_dir_all(disk::parent_of(&path))?;
        let is_there = disk::if_there(disk::metadata(&path))?.is_some_and(|found| {
            found.is_file && found.len_bytes == content.len_bytes() && age_of(&found) < FRESH_AGE
        });
        if is_there {
            return Ok(Put::WasThere);
        }
        disk::replace_with(&path, Replacing::Durable, |file| {
            content.pieces(|piece| Ok(file.write_all(piece)?))
        })?;
        Ok(Put::Written)
    }

    fn read(&self, path: &str) -> Result<Option<StoredManifest>, ExportError> {
        let Some(file) = disk::if_there(disk::File::open_read(&self.at(path)))? else { return Ok(None) };
        let mut bytes = vec![0; file.len_bytes()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let version = version_of(&bytes);
        Ok(Some(StoredManifest { bytes, version }))
    }

    fn replace(
        &self,
        path: &str,
        bytes: &[u8],
        expected: Option<&str>,
    ) -> Result<ManifestReplaced, ExportError> {
        // Nobody replaces the manifest in between, because the caller has the lock.
        let found = self.read(path)?.map(|found| found.version);
        if found.as_deref() != expected {
            return Ok(ManifestReplaced::No);
        }
        let path = self.at(path);
        disk::create_dir_all(disk::parent_of(&path))?;
        disk::replace(&path, bytes, Replacing::Durable)?;
        Ok(ManifestReplaced::Yes)
    }

    fn list(
        &self,
        directory: &str,
        each: &mut dyn FnMut(StoredFile) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut left = vec![self.at(directory)];
        while let Some(directory) = left.pop() {
            for path in disk::if_there(disk::list(&directory))?.unwrap_or_default() {
                // A file may be renamed or deleted meanwhile.
                let Some(found) = disk::if_there(disk::metadata(&path))? else { continue };
                if found.is_directory {
                    left.push(path);
                    continue;
                }
                let Ok(inside) = path.strip_prefix(&self.root) else { continue };
                let parts: Option<Vec<&str>> = inside.iter().map(|part| part.to_str()).collect();
                // A name that is no text is the name of no exported file.
                let Some(parts) = parts else { continue };
                let path = parts.join("/");
                each(StoredFile { path, len_bytes: found.len_bytes, age: age_of(&found) })?;
            }
        }
        Ok(())
    }

    fn age(&self, path: &str) -> Result<Option<Duration>, ExportError> {
        Ok(disk::if_there(disk::metadata(&self.at(path)))?.map(|found| age_of(&found)))
    }

    fn delete(&self, path: &str) -> Result<(), ExportError> {
        let path = self.at(path);
        if disk::remove_file_if_exists(&path)? {
            disk::sync_dir(disk::parent_of(&path))?;
        }
        Ok(())
    }
}

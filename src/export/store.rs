//! What an export needs of the place where its files lie: a directory, or a bucket of an object store.
//!
//! Data files never change once they have their names, because the names have the hash of the content. Only manifests are
//! replaced, and only if they are what the exporter read.

use std::time::Duration;

use super::error::ExportError;
use super::layout::HomeId;
use super::spool::FileSpool;

/// A data file younger than this need not be written again when it is there already. A removal of files that no manifest
/// names has a longer grace, so that it cannot remove a file that an export found and is about to name.
pub(super) const FRESH_AGE: Duration = Duration::from_secs(12 * 3600);

/// A manifest as it was read, and what tells whether it was replaced since.
#[derive(Debug)]
pub(super) struct StoredManifest {
    pub bytes: Vec<u8>,
    /// The hash of the bytes, or the ETag.
    pub version: String,
}

/// A file in a listing.
#[derive(Debug)]
pub(super) struct StoredFile {
    /// The path from the place, with `/`.
    pub path: String,
    pub len_bytes: u64,
    /// The time since the last write, by the clocks of the store and of this machine; zero if the store's clock is ahead.
    pub age: Duration,
}

/// Whether a manifest was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ManifestReplaced {
    Yes,
    /// Another exporter was faster.
    No,
}

/// Whether a data file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Written,
    /// An export that did not end had written the file.
    WasThere,
}

/// Fails when the lock of a place was lost, so that another exporter or a removal may be at work.
pub(super) type PlaceStillHeld<'l> = &'l dyn Fn() -> Result<(), ExportError>;

/// A place of exports.
pub(super) trait ExportStore {
    /// A path as messages name it.
    fn shown(&self, path: &str) -> String;

    /// Keeps other exporters of a home and removals of its files away while `work` runs, where the place has locks. `work`
    /// asks the passed check before it replaces or deletes, because a process that was stopped for seconds loses the lock.
    fn exclusively(
        &self,
        home_id: &HomeId,
        work: &mut dyn FnMut(PlaceStillHeld<'_>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>;

    /// Writes a data file durably, unless it is there with this length and younger than [`FRESH_AGE`].
    fn put(&self, path: &str, content: &FileSpool<'_>) -> Result<Put, ExportError>;

    /// Reads a manifest; `None` if there is none.
    fn read(&self, path: &str) -> Result<Option<StoredManifest>, ExportError>;

    /// Replaces a manifest in one step, durably, if it is still the one with the version `expected`; with `None`, if there is
    /// none.
    fn replace(
        &self,
        path: &str,
        bytes: &[u8],
        expected: Option<&str>,
    ) -> Result<ManifestReplaced, ExportError>;

    /// Passes all files under a directory to `each`, in no order.
    fn list(
        &self,
        directory: &str,
        each: &mut dyn FnMut(StoredFile) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>;

    /// The time since the last write of a file; `None` if there is no such file.
    fn age(&self, path: &str) -> Result<Option<Duration>, ExportError>;

    /// Deletes a file. A file that is not there is no error.
    fn delete(&self, path: &str) -> Result<(), ExportError>;
}

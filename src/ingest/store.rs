//! The stores that the ingestor writes to: a small trait.
//!
//! Touches nothing. The guarantees of every implementation are those of [`KVStore`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// A key-value store. Keys are ordered as bytes.
///
/// Every method takes `&self`, and an `Arc` of a store is a store: give a clone to an [`Ingestor`](super::Ingestor) and read the
/// store while the ingestor runs in the background.
pub trait KVStore: Send + Sync + 'static {
    /// Returns the value of a key.
    ///
    /// # Errors
    /// [`StoreError`], as all methods do.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets keys; of two entries with one key the later wins. Keys that start with `S:` or `C:` are set all together or
    /// not at all. The batch is durable after the next [`KVStore::flush`] at the latest.
    fn put_batch(&self, batch: &[KeyValue]) -> Result<(), StoreError>;

    /// Returns all keys that start with `prefix`, in order, with their values.
    fn scan_prefix(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError>;

    /// Waits until everything that was set is on stable storage.
    fn flush(&self) -> Result<(), StoreError>;

    /// The store's directory, by which errors and the journal's cursor name the store. Stores without a directory share one cursor,
    /// so a journal may be cleaned up before the slower of them has read it.
    fn path(&self) -> Option<&Path> {
        None
    }
}

impl<S: KVStore + ?Sized> KVStore for Arc<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(key)
    }

    fn put_batch(&self, batch: &[KeyValue]) -> Result<(), StoreError> {
        (**self).put_batch(batch)
    }

    fn scan_prefix(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        (**self).scan_prefix(prefix)
    }

    fn flush(&self) -> Result<(), StoreError> {
        (**self).flush()
    }

    fn path(&self) -> Option<&Path> {
        (**self).path()
    }
}

/// A store failed.
#[derive(Debug, thiserror::Error)]
#[error("the store at {} failed while {doing}: {}", path.display(), innermost(source.as_ref()))]
pub struct StoreError {
    /// The store's directory.
    pub path: PathBuf,
    /// What was being done.
    pub doing: &'static str,
    /// What the engine said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Returns the message of the innermost error, because the errors around it repeat that message in Rust's own notation.
pub(super) fn innermost(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.downcast_ref::<fjall::Error>() {
        // fjall prints Rust's notation.
        Some(fjall::Error::InvalidVersion(_)) => {
            "the format version of its files is none that this program knows; they are damaged, or another program's".to_owned()
        }
        _ => error.to_string(),
    }
}

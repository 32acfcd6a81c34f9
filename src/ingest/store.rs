//! What the ingestor writes to: a small trait, and a store in memory.
//!
//! Touches nothing. Promises of every implementation: see [`KVStore`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// A key-value store. Keys are ordered as bytes.
pub trait KVStore: Send + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError`], as for all methods.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets keys, later entries winning over earlier ones. Keys that start with `S:` or `C:` are set all together or
    /// not at all. Durable after the next [`KVStore::flush`] at the latest.
    fn put_batch(&mut self, batch: &[KeyValue]) -> Result<(), StoreError>;

    /// All keys that start with `prefix`, in order, with their values.
    fn scan_prefix(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError>;

    /// Waits until everything set so far is on stable storage.
    fn flush(&mut self) -> Result<(), StoreError>;

    /// The store's directory, by which errors and the journal's cursor name it. Stores without one share one cursor, so a
    /// journal may be cleaned up before the slower of them has read it.
    fn path(&self) -> Option<&Path> {
        None
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

/// What the engine said first: errors around it repeat it in Rust's own notation.
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

/// A store in memory, for programs that want what a journal says now and nothing on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStore {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl KVStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn put_batch(&mut self, batch: &[KeyValue]) -> Result<(), StoreError> {
        self.entries.extend(batch.iter().cloned());
        Ok(())
    }

    fn scan_prefix(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let from_prefix = self.entries.range(prefix.to_vec()..);
        let matching = from_prefix.take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

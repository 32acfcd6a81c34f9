//! How a store is opened: limits of memory and of files. Touches nothing.

/// How a [`LogTaleaStore`](super::LogTaleaStore) uses memory and disk. None of it is stored: a directory can be opened with other options.
#[derive(Debug, Clone)]
pub struct LogStoreOptions {
    /// Idempotency keys that each book keeps in memory; of more, the older half goes to a run file. Default 1 000 000.
    pub idem_hot_cap: usize,
    /// Events between automatic snapshots of a book; 0 turns them off. Default 100 000.
    pub snapshot_every: u64,
    /// Length in bytes from which a segment is followed by a new one. Default 128 MiB.
    pub segment_max: u64,
}

impl Default for LogStoreOptions {
    fn default() -> Self {
        Self { idem_hot_cap: 1_000_000, snapshot_every: 100_000, segment_max: 128 << 20 }
    }
}

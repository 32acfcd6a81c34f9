//! The rows of a store at one moment, and the chain over them.
//!
//! Touches: only memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::chain::LazyChain;
use super::index::{IndexRows, RowNumbers};

/// Rows, and the chain over as many of them as their payload hashes are known.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) rows: IndexRows,
    chain: Mutex<LazyChain>,
}

impl Snapshot {
    pub(super) fn new(rows: IndexRows) -> Self {
        Self::with_hashes(rows, Vec::new())
    }

    /// A snapshot with the payload hashes of the first rows.
    pub(super) fn with_hashes(rows: IndexRows, payload_hashes: Vec<[u8; 32]>) -> Self {
        Self { rows, chain: Mutex::new(LazyChain::over(payload_hashes)) }
    }

    pub(super) fn lock_chain(&self) -> MutexGuard<'_, LazyChain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the row of a frame that was just written.
    pub(super) fn push(&mut self, numbers: RowNumbers, id: &str, payload_sha256: [u8; 32]) {
        let chain = self.chain.get_mut().unwrap_or_else(PoisonError::into_inner);
        if chain.rows() == self.rows.len() {
            chain.push(payload_sha256);
        }
        self.rows.push(numbers, id);
    }

    /// Keeps the first `len` rows.
    pub(super) fn truncate(&mut self, len: usize) {
        self.rows.truncate(len);
        self.chain.get_mut().unwrap_or_else(PoisonError::into_inner).truncate(len);
    }
}

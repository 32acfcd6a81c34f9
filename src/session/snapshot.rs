//! The rows of a store at one moment, and the chain over them.
//!
//! This file touches nothing but memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::frame::{Chain, LazyChain};
use super::index::{self, Rows};

/// Rows, and the chain over as many of them as it was needed for.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) rows: Rows,
    chain: Mutex<LazyChain>,
}

impl Snapshot {
    pub(super) fn new(rows: Rows) -> Self {
        Self::with_hashes(rows, None)
    }

    /// A snapshot with the payload hashes of all rows, where they are known.
    pub(super) fn with_hashes(rows: Rows, payload_hashes: Option<Vec<[u8; 32]>>) -> Self {
        Self { rows, chain: Mutex::new(LazyChain::over(payload_hashes.unwrap_or_default())) }
    }

    fn chain_mut(&mut self) -> &mut LazyChain {
        self.chain.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_chain(&self) -> MutexGuard<'_, LazyChain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the row of a frame just written.
    pub(super) fn push(&mut self, numbers: index::RowNumbers, id: &str, payload_sha256: &[u8; 32]) {
        self.rows.push(numbers, id);
        if self.chain_mut().rows() + 1 == self.rows.len() {
            self.chain_mut().push(payload_sha256);
        }
    }

    /// Drops the rows from `len` on; `linked` is what [`Snapshot::linked`] gave when there were `len` rows.
    pub(super) fn truncate(&mut self, len: usize, linked: (usize, Chain)) {
        self.rows.truncate(len);
        self.chain_mut().truncate(len, linked);
    }

    /// The chain as far as it is linked, and over how many rows.
    pub(super) fn linked(&self) -> (usize, Chain) {
        self.lock_chain().linked()
    }
}

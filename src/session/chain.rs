//! The hash chain over the payloads of a store.
//!
//! Touches: only memory.
//!
//! ```text
//! chain(0)     = "000…0"                                       64 digits
//! chain(n + 1) = hex(SHA-256(chain(n) ++ payloadSha256(n)))    of 128 ASCII digits
//! ```

use sha2::{Digest, Sha256};

use super::frame::hex;

/// The hash over all payload hashes, in index order, as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain([u8; 64]);

impl Chain {
    /// The chain of an empty store: 64 zeros.
    pub(super) const GENESIS: Self = Self([b'0'; 64]);

    /// The chain with one more frame.
    pub(super) fn link(self, payload_sha256: &[u8; 32]) -> Self {
        let mut text = [0; 128];
        text[..64].copy_from_slice(&self.0);
        text[64..].copy_from_slice(&hex(payload_sha256));
        Self(hex(&Sha256::digest(text).into()))
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or_default())
    }
}

/// The chain over the rows of a store. Hashes are linked when the chain is asked for, because one thread alone can link them
/// (0.2 s for a million) and few callers ask.
#[derive(Debug)]
pub(super) struct LazyChain {
    /// The payload hashes of the first rows.
    hashes: Vec<[u8; 32]>,
    /// `chain` is over so many of them.
    linked: usize,
    chain: Chain,
}

impl LazyChain {
    pub(super) fn over(hashes: Vec<[u8; 32]>) -> Self {
        Self { hashes, linked: 0, chain: Chain::GENESIS }
    }

    /// Returns the number of rows whose hashes are known.
    pub(super) fn rows(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn push(&mut self, payload_sha256: [u8; 32]) {
        self.hashes.push(payload_sha256);
    }

    /// Returns the chain over all rows whose hashes are known.
    pub(super) fn link(&mut self) -> Chain {
        self.chain = self.hashes[self.linked..].iter().fold(self.chain, Chain::link);
        self.linked = self.hashes.len();
        self.chain
    }

    /// Keeps the first `rows` rows.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.hashes.truncate(rows);
        if self.linked > rows {
            (self.linked, self.chain) = (0, Chain::GENESIS);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_linked_late_is_the_chain() {
        let hashes: Vec<[u8; 32]> = (0..7).map(|byte| [byte; 32]).collect();
        let of = |rows: usize| hashes[..rows].iter().fold(Chain::GENESIS, Chain::link);
        for linked_at in 3..7 {
            let mut lazy = LazyChain::over(hashes[..3].to_vec());
            for (at, hash) in hashes.iter().enumerate().skip(3) {
                if at == linked_at {
                    assert_eq!(lazy.link(), of(at));
                }
                lazy.push(*hash);
            }
            assert_eq!(lazy.rows(), 7);
            lazy.truncate(4);
            assert_eq!((lazy.rows(), lazy.link()), (4, of(4)), "{linked_at}");
        }
    }

    #[test]
    fn the_chain_hashes_hex_texts() {
        let sha: [u8; 32] = Sha256::digest(b"{}").into();
        let text = [Chain::GENESIS.0, hex(&sha)].concat();
        assert_eq!(Chain::GENESIS.link(&sha).0, hex(&Sha256::digest(text).into()));
        assert_eq!(Chain::GENESIS.to_string(), "0".repeat(64));
    }
}

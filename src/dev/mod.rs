//! Synthetic ledgers for benchmarks and tests, reproducible byte for byte.
//!
//! Nothing here reads a home or a ledger: lines depend only on a seed and options. The same options give the same bytes on
//! every platform, and in every release with the same pinned hashes (in the tests). The random numbers come from the small
//! generator in `rng`, so no dependency can change them. Memory is constant: less than 4 MiB, whatever the requested size.
//!
//! - `generate` and `generate_file`: ledgers of a given size in one of three `Profile`s;
//! - `FoldHeavy`: turns under many message and range stamps, for measuring how stamps fold into turns;
//! - `parse_size`: sizes as people write them, `1.5GB`.
//!
//! `docs/generated-ledgers.md` describes the lines and their shares.
//!
//! ```
//! use relayburn_ledger::dev::{GenerateOptions, Profile, generate};
//!
//! let options = GenerateOptions { size_bytes: 100_000, seed: 7, profile: Profile::Mixed };
//! let mut ledger = Vec::new();
//! let summary = generate(&options, &mut ledger, |_| {})?;
//! assert_eq!(summary.bytes, ledger.len() as u64);
//! assert!(ledger.ends_with(b"\n") && ledger.len() >= 100_000);
//! # std::io::Result::Ok(())
//! ```

mod fold_heavy;
mod generate;
mod odd;
mod rng;
mod size;
#[cfg(test)]
mod tests;
mod text;
mod turns;

use std::path::PathBuf;

pub use fold_heavy::FoldHeavy;
#[cfg(feature = "cli")]
pub(crate) use generate::TEMPORARY_PREFIX;
pub use generate::{GenerateOptions, GeneratedSummary, KindTotals, Profile, generate, generate_file};
pub use odd::{ODD_KINDS, OddKind, OddVerdict};
pub use size::parse_size;

/// Errors of this module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// The file exists and the caller did not ask to replace it.
    #[error("{} exists; choose another name, or replace it with `--force`", path.display())]
    Exists {
        /// The file to be written.
        path: PathBuf,
    },
    /// The path names a directory, a link or a device: these are never replaced, forced or not.
    #[error("{} is not a regular file and will not be replaced; choose another name", path.display())]
    NotARegularFile {
        /// The path to be written.
        path: PathBuf,
    },
    /// The operating system refused; what was at the path before is unchanged.
    #[error("cannot {action} {}: {source}; check that its directory exists, is writable and has room", path.display())]
    Io {
        /// The failed action: "examine", "create", "write" or "publish".
        action: &'static str,
        /// The file to be written.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A size that [`parse_size`] cannot read.
    #[error(
        "{text:?} is not a size: {reason}; write bytes (1500000) or a number with B, KB, MB, GB, KiB, MiB or GiB (1.5GB)"
    )]
    Size {
        /// The text as given.
        text: String,
        /// What is wrong with the text.
        reason: &'static str,
    },
}

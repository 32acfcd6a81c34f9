//! The archive: `archive.sqlite`, derived from the ledger and from nothing else.
//!
//! [`build_tail`] takes in what was appended since the last build, [`rebuild_full`] makes the archive anew and puts it in the
//! place of the old one. Whatever the number of threads, the size of chunks and the way there, the same ledger gives the
//! same rows; lines that cannot be stored are reported with offset, length and reason, and left out.

mod build;
pub mod bulk;
mod cursor;
mod error;
pub mod load;
mod load_bulk;
mod open;
pub mod pipeline;
pub mod publish;
pub mod query;
mod refold;
pub mod schema;
mod sessions;
mod statement;
mod status;
pub mod survey;

#[cfg(feature = "cli")]
pub(crate) use build::iso_millis;
pub use build::{
    BuildResult, Loader, Observer, Options, Paths, Phase, Progress, Timings, Unobserved, build_tail,
    rebuild_full,
};
pub use cursor::Restart;
pub use error::ArchiveError;
pub(crate) use status::compare;
pub use status::{RowCounts, Status, Vacuumed, status, vacuum};

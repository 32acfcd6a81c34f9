//! The archive: `archive.sqlite`, derived from the ledger and from nothing else.
//!
//! [`build_tail`] takes in what was appended since the last build, [`rebuild_full`] makes the archive anew and puts it in the
//! place of the old one. Whatever the number of threads, the size of chunks and the way there, the same ledger gives the
//! same rows; lines that cannot be stored are reported with offset, length and reason, and left out.

mod build;
mod cursor;
mod error;
#[doc(hidden)] // An engine: for benches and tests.
pub mod load;
mod load_bulk;
mod open;
#[doc(hidden)] // An engine: for benches and tests.
pub mod pipeline;
pub mod query;
mod refold;
pub mod schema;
mod sessions;
mod statement;
mod status;
#[doc(hidden)] // An engine: for benches and tests.
pub mod survey;

pub use crate::publish::{Method, PublishError, Published};
pub use crate::sqlite_file::SqliteFileError;
#[cfg(feature = "cli")]
pub(crate) use build::iso_millis;
pub use build::{
    BuildResult, Load, Observer, Options, Paths, Phase, Progress, Timings, Unobserved, build_tail,
    rebuild_full,
};
pub use cursor::Restart;
pub use error::ArchiveError;
pub(crate) use status::compare;
pub use status::{RowCounts, Status, Vacuumed, status, vacuum};

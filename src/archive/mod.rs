//! The archive: `archive.sqlite`, derived from the ledger alone.
//!
//! [`build_tail`] adds the lines that were appended since the last build. [`rebuild_full`] builds a new archive and
//! replaces the old archive with the new archive. The same ledger gives the same rows for every number of threads,
//! every chunk size and both ways of building. Lines that cannot be stored are skipped and reported with offset,
//! length and reason.

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
mod session_rows;
mod sessions;
mod statement;
mod status;
mod stored;
#[doc(hidden)] // An engine: for benches and tests.
pub mod survey;

pub use crate::publish::{Method, PublishError, Published};
pub use crate::sqlite_file::SqliteFileError;
pub use build::{
    BuildResult, Load, Observer, Options, Paths, Phase, Progress, Timings, Unobserved, build_tail,
    rebuild_full,
};
pub use cursor::Restart;
pub use error::ArchiveError;
pub(crate) use status::compare;
#[cfg(feature = "cli")]
pub(crate) use status::ledger_offset_bytes;
pub use status::{RowCounts, Status, Vacuumed, status, vacuum};

//! The archive of a home as Parquet files, for engines that read many homes at once.
//!
//! [`export_parquet`] writes a file for each table and day whose rows changed, and then replaces the home's manifest, which
//! names all files of the home. [`collect_garbage`] removes the files that no manifest names any more, and [`forget_home`] removes
//! a home. The files lie in a directory, or with the feature `s3` in a bucket. `docs/export.md` describes
//! the layout, the columns and the contract with readers.
//!
//! - A data file never changes. Its name has the hash of its content. The same rows give the same bytes, unless more rows share
//!   one `ts` than two row groups hold.
//! - A reader takes the files from manifests. A manifest is replaced in one step, so a reader sees all rows of a home as of one
//!   moment, but not all homes as of one moment.
//! - Memory is bounded by the row groups of at most four files, and 128 MiB for the order of rows, whatever the size of the archive.
//! - Columns with personal text are left out unless they are asked for, or are hashed with a key. Content is never read.

mod clean;
mod columns;
mod day;
mod days;
mod directory;
mod error;
mod file;
mod identity;
mod layout;
mod manifest;
mod options;
mod place;
mod row_group;
mod run;
#[cfg(feature = "s3")]
mod s3;
mod spool;
mod store;
#[cfg(all(test, unix))]
mod tests;
mod unchanged;

pub use clean::{CollectedGarbage, ForgottenHome, collect_garbage, forget_home};
pub use columns::{ExportTable, HASH_SECRET_MIN_BYTES, HashKey, PersonalText, ShortSecret};
pub use day::ExportDay;
pub use error::ExportError;
pub use layout::{HOME_ID_MAX_BYTES, HomeId, InvalidHomeId, MANIFEST_FORMAT};
pub use manifest::{ExportFile, ExportManifest};
pub use options::{ExportOptions, ExportSummary, ExportedTable};
pub use place::ExportPlace;
pub use run::export_parquet;

//! The errors of exports: the place, the reason, and what to do.

use std::path::PathBuf;

use super::columns::ShortSecret;
use super::layout::{InvalidHomeId, MANIFEST_FORMAT};
use crate::archive::ArchiveError;
use crate::disk;
use crate::lock::LockError;

/// An export, or a removal of exported files, that failed. The last manifest is unchanged, and all files that it names are
/// there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The archive could not be brought up to date or read.
    #[error(transparent)]
    Archive(ArchiveError),
    /// A lock could not be taken, or was lost.
    #[error(transparent)]
    Lock(LockError),
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// There is nothing to export.
    #[error(
        "there is no ledger at {}, so nothing was exported: put the ledger back, or record something with `burn ingest` or \
         `burn ledger append`",
        path.display()
    )]
    NoLedger {
        /// The path that has no ledger.
        path: PathBuf,
    },
    /// The directory of the export is in the home, or the home is in it.
    #[error(
        "{} and the home {} are one inside the other: name a directory apart from the home, because exported files are given \
         to others and the home is private",
        place.display(),
        home.display()
    )]
    InsideHome {
        /// The directory of the export.
        place: PathBuf,
        /// The home.
        home: PathBuf,
    },
    /// The place of the export is a file.
    #[error("{} is not a directory: name a directory, which is created if it is missing", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The place has a form that this program does not know.
    #[error(
        "{place:?} names no place of exports: give a directory, or s3://bucket/prefix with letters, digits, '.', '_' and '-'"
    )]
    UnknownPlace {
        /// The place.
        place: String,
    },
    /// The place is in an object store, and the program was built without one.
    #[error(
        "{place} needs the feature `s3`, which this program was built without: \
         `cargo install --path . --features s3` in its source directory builds one with it"
    )]
    WithoutS3 {
        /// The place.
        place: String,
    },
    /// There is no exported file at the place.
    #[error("there are no exports at {place}: check the name; `burn export parquet --out` makes them")]
    NoExports {
        /// The place.
        place: String,
    },
    /// A text is no home id.
    #[error(transparent)]
    HomeId(#[from] InvalidHomeId),
    /// A secret is too short.
    #[error(transparent)]
    HashKey(#[from] ShortSecret),
    /// `export.json` of the home cannot be read.
    #[error(
        "{} is damaged ({reason}); it holds the id of this home: restore it from a backup, or delete it and give the id of the \
         home's files with --home-id",
        path.display()
    )]
    DamagedIdentity {
        /// `export.json`.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A manifest cannot be read.
    #[error("{place} is damaged ({reason}); delete it, and the next export of that home writes it again")]
    DamagedManifest {
        /// The manifest.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A manifest has a format that this program does not know.
    #[error(
        "{place} has format {found}, this program knows {MANIFEST_FORMAT}: use the program that wrote it, or a newer one"
    )]
    OtherFormat {
        /// The manifest.
        place: String,
        /// The format of the manifest.
        found: u32,
    },
    /// Other exporters of the same home replaced the manifest each time.
    #[error(
        "{place} was replaced by another exporter each of {attempts} times: let one exporter of a home run at a time, then try \
         again"
    )]
    Contended {
        /// The manifest.
        place: String,
        /// The number of attempts.
        attempts: u32,
    },
    /// A Parquet file or a manifest could not be made.
    #[error("cannot make a file of the export: {reason}; please report it with the ledger")]
    Unwritable {
        /// The error of the writer.
        reason: String,
    },
    /// The object store refused a request, or could not be reached.
    #[cfg(feature = "s3")]
    #[error("cannot {doing} {place}: {reason}; {remedy}")]
    ObjectStore {
        /// The operation.
        doing: &'static str,
        /// The URL.
        place: String,
        /// The error, with its causes.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The caller interrupted the export.
    #[error("interrupted; the last manifest and its files are as they were")]
    Interrupted,
}

impl From<LockError> for ExportError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Interrupted { .. } => Self::Interrupted,
            error => Self::Lock(error),
        }
    }
}

impl From<ArchiveError> for ExportError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Interrupted => Self::Interrupted,
            error => Self::Archive(error),
        }
    }
}

//! The proof that an export has nothing to do.
//!
//! Touches nothing. The rows that an export writes follow from the archive, and the bytes of its files from the rows, the
//! columns and this program. So if all of these and the manifest are as the last export left them, the files that the
//! manifest names are those that an export would make. `archive::query::ArchiveAtRest` says how an unchanged archive is told
//! from a changed one.
//!
//! Rejected: to compare the state row of the archive alone, because a program that changes rows need not change the state row.

use super::error::ExportError;
use super::manifest::ExportManifest;
use super::options::{ExportOptions, ExportedTable};

/// What an export left: a part of `export.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LastExport {
    /// The hash of everything that decides what an export writes.
    proof: String,
    /// What was read.
    pub tables: Vec<ExportedTable>,
}

impl LastExport {
    /// An export with these options that read the archive in these `files` and left this manifest.
    pub(super) fn of(
        options: &ExportOptions,
        files: &str,
        manifest: &ExportManifest,
        tables: Vec<ExportedTable>,
    ) -> Result<Self, ExportError> {
        Ok(Self { proof: proof(options, files, manifest)?, tables })
    }

    /// Whether an export with these options would read and leave the same.
    pub(super) fn is_same(
        &self,
        options: &ExportOptions,
        files: &str,
        manifest: &ExportManifest,
    ) -> Result<bool, ExportError> {
        Ok(self.proof == proof(options, files, manifest)?)
    }
}

/// Raised with each change to the values or the bytes that an export makes of the same rows.
const WRITER: u32 = 2;

fn proof(options: &ExportOptions, files: &str, manifest: &ExportManifest) -> Result<String, ExportError> {
    let personal = options.personal();
    let columns: Vec<(&str, &str, bool)> = options
        .tables()
        .flat_map(|table| {
            table.columns(&personal).into_iter().map(move |of| (table.as_str(), of.name, of.is_hashed))
        })
        .collect();
    // A hash under the key stands for the key.
    let key = options.hash_key.as_ref().map(|key| key.hash(b""));
    let rows = (env!("CARGO_PKG_VERSION"), WRITER, files, options.since, columns, key);
    let rows =
        serde_json::to_vec(&rows).map_err(|error| ExportError::Unwritable { reason: error.to_string() })?;
    Ok(blake3::Hasher::new().update(&rows).update(&manifest.to_bytes()?).finalize().to_hex().to_string())
}

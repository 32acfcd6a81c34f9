//! What an export is asked for, and what it did. Touches nothing.

use super::columns::{ExportTable, HashKey, PersonalColumns, PersonalText};
use super::day::ExportDay;
use super::layout::HomeId;
use crate::interrupt::Interrupt;

/// What to export. Take the remaining fields from `ExportOptions::default()`.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The id of the home; `None` means the id that the home has, or a random id for the first export. The home keeps an id
    /// that is given.
    pub home_id: Option<HomeId>,
    /// The tables. The files of other tables stay in the manifest as they are.
    pub tables: Vec<ExportTable>,
    /// The kinds of personal text that are written as they are.
    pub with: Vec<PersonalText>,
    /// The key for hashes in the place of other personal text; without a key the columns are left out.
    pub hash_key: Option<HashKey>,
    /// The first day to export. The files of earlier days stay in the manifest as they are. Rows without a time are always
    /// exported.
    pub since: Option<ExportDay>,
    /// When requested, ends the export with [`ExportError::Interrupted`](super::ExportError::Interrupted).
    pub interrupt: Interrupt,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            home_id: None,
            tables: ExportTable::ALL.to_vec(),
            with: Vec::new(),
            hash_key: None,
            since: None,
            interrupt: Interrupt::new(),
        }
    }
}

impl ExportOptions {
    /// The tables to export, in the order in which they are exported.
    pub(super) fn tables(&self) -> impl Iterator<Item = ExportTable> {
        ExportTable::ALL.into_iter().filter(|table| self.tables.contains(table))
    }

    /// What becomes of personal text.
    pub(super) fn personal(&self) -> PersonalColumns {
        PersonalColumns { plain: self.with.clone(), key: self.hash_key.clone() }
    }
}

/// What an export did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportSummary {
    /// The id of the home.
    pub home_id: String,
    /// The generation of the home's ledger.
    pub generation: String,
    /// Why the export began a generation that the place had nothing of; `None` if it went on with one.
    pub is_new_generation: bool,
    /// The manifest.
    pub manifest: String,
    /// The number of the manifest.
    pub seq: u64,
    /// Whether the manifest was written. A manifest stays when it would say the same.
    pub is_manifest_written: bool,
    /// Whether nothing was read, because ledger, archive, manifest and options are as the last export left them.
    pub is_unchanged: bool,
    /// The number of ledger bytes whose rows are exported.
    pub ledger_bytes: u64,
    /// What was read, by table; if nothing was read, what the last export read.
    pub tables: Vec<ExportedTable>,
    /// Number of files that the manifest names.
    pub files: u64,
    /// Number of bytes of these files.
    pub bytes: u64,
    /// Number of rows in these files.
    pub rows: u64,
    /// Number of files that were written.
    pub files_written: u64,
    /// Number of bytes that were written.
    pub bytes_written: u64,
    /// Number of files that are new in the manifest, but that an export that did not end had written.
    pub files_found: u64,
    /// Number of files that the last manifest named and this manifest does not. `burn export gc` removes them later.
    pub files_superseded: u64,
    /// How often the export started over, because another exporter of the home replaced the manifest.
    pub restarts: u32,
}

/// What was read from a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedTable {
    /// The table's name.
    pub table: String,
    /// Number of rows.
    pub rows: u64,
    /// Number of days that have rows.
    pub days: u64,
    /// Number of cells whose value changed, because it is not of the column's type: truncated, converted, or null.
    pub lossy: u64,
}

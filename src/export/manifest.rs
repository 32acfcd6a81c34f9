//! The manifest of a home's generation: the files that hold its rows. Readers take files from manifests and never from a
//! listing, because a listing also has files of exports that did not end and of earlier states.
//!
//! Touches nothing. Guarantees: a manifest that is returned names only files of its own home and generation, each day of a
//! table once, with the hash that the name of the file has.

use std::collections::BTreeMap;

use super::columns::ExportTable;
use super::day::ExportDay;
use super::error::ExportError;
use super::layout::{HomeId, MANIFEST_FORMAT, data_path, is_generation};

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportManifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The version of the archive's schema, from which the columns come.
    pub schema: i64,
    /// The version of the program that wrote the manifest.
    pub burn_version: String,
    /// The home.
    pub home_id: HomeId,
    /// The generation of the home's ledger. Its text sorts by time.
    pub generation: String,
    /// The number of ledger bytes whose rows the files hold.
    pub ledger_bytes: u64,
    /// BLAKE3 of the last 4 KiB of these bytes, or of all if they are fewer; `None` in manifests of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_tail_blake3: Option<String>,
    /// Counts the manifests of this home and generation, from 1. It goes on after a manifest was removed.
    pub seq: u64,
    /// When the manifest was made: RFC 3339, UTC.
    pub created_at: String,
    /// The kinds of personal text that some of the files hold as they are.
    pub with: Vec<String>,
    /// The kinds of personal text that some of the files hold as hashes.
    pub hashed: Vec<String>,
    /// The files, by table and day.
    pub files: Vec<ExportFile>,
}

/// A data file: all rows of a table and a day.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportFile {
    /// The path from the place of the export, with `/`.
    pub path: String,
    /// The table.
    #[serde(serialize_with = "as_name", deserialize_with = "of_name")]
    pub table: ExportTable,
    /// The day.
    pub day: ExportDay,
    /// Number of rows.
    pub rows: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the bytes, 64 hex digits.
    pub blake3: String,
}

fn as_name<S: serde::Serializer>(table: &ExportTable, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(table.as_str())
}

fn of_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ExportTable, D::Error> {
    let name: String = serde::Deserialize::deserialize(deserializer)?;
    name.parse().map_err(serde::de::Error::custom)
}

/// The format alone, which says whether the rest can be read.
#[derive(serde::Deserialize)]
struct ManifestFormat {
    format: u32,
}

/// The files of a manifest, by table and day.
pub(super) type FilesByDay = BTreeMap<(ExportTable, ExportDay), ExportFile>;

impl ExportManifest {
    /// Reads the manifest at `place`, which must be that of this home and generation.
    ///
    /// # Errors
    /// [`ExportError::OtherFormat`], [`ExportError::DamagedManifest`].
    pub(super) fn parse(
        bytes: &[u8],
        place: &str,
        home_id: &HomeId,
        generation: &str,
    ) -> Result<Self, ExportError> {
        let damaged = |reason: String| ExportError::DamagedManifest { place: place.to_owned(), reason };
        let in_json = |error: serde_json::Error| damaged(error.to_string());
        let ManifestFormat { format } = serde_json::from_slice(bytes).map_err(in_json)?;
        if format != MANIFEST_FORMAT {
            return Err(ExportError::OtherFormat { place: place.to_owned(), found: format });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(in_json)?;
        if manifest.home_id != *home_id || manifest.generation != generation {
            return Err(damaged(format!(
                "it is the manifest of home {} and generation {:?}",
                manifest.home_id, manifest.generation
            )));
        }
        if !is_generation(generation) || manifest.seq == 0 {
            return Err(damaged("its generation or its seq is none".to_owned()));
        }
        manifest.by_day().map_err(damaged)?;
        Ok(manifest)
    }

    /// The files by table and day, or what is wrong with one of them.
    pub(super) fn by_day(&self) -> Result<FilesByDay, String> {
        let mut files = FilesByDay::new();
        for file in &self.files {
            let is_hash = file.blake3.len() == 64 && file.blake3.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_hash {
                return Err(format!("{:?} is no BLAKE3", file.blake3));
            }
            let path = data_path(file.table, file.day, &self.home_id, &self.generation, &file.blake3);
            if path != file.path {
                return Err(format!("it names {:?} where {path:?} has to be", file.path));
            }
            if files.insert((file.table, file.day), file.clone()).is_some() {
                return Err(format!("it names two files of {} on {}", file.table.as_str(), file.day));
            }
        }
        Ok(files)
    }

    /// The manifest as it is written.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, ExportError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| ExportError::Unwritable { reason: error.to_string() })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The number of bytes and rows of all files.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.files.iter().fold((0, 0), |(bytes, rows), file| (bytes + file.bytes, rows + file.rows))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn manifest() -> ExportManifest {
        let home_id: HomeId = "h-1".parse().unwrap();
        let file = |table: ExportTable, day: &str| {
            let (blake3, day) = (blake3::hash(day.as_bytes()).to_hex().to_string(), day.parse().unwrap());
            let path = data_path(table, day, &home_id, "g1", &blake3);
            ExportFile { path, table, day, rows: 3, bytes: 100, blake3 }
        };
        ExportManifest {
            format: MANIFEST_FORMAT,
            schema: 3,
            burn_version: "0.1.0".to_owned(),
            generation: "g1".to_owned(),
            ledger_bytes: 10,
            ledger_tail_blake3: None,
            seq: 1,
            created_at: "2026-04-20T00:00:00Z".to_owned(),
            with: Vec::new(),
            hashed: Vec::new(),
            files: vec![file(ExportTable::Turns, "2026-04-20"), file(ExportTable::ToolCalls, "unknown")],
            home_id,
        }
    }

    fn parse(text: &str) -> Result<ExportManifest, ExportError> {
        ExportManifest::parse(text.as_bytes(), "place", &"h-1".parse().unwrap(), "g1")
    }

    #[test]
    fn a_manifest_comes_back_and_nothing_else_is_taken_for_one() {
        let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
        assert_eq!(parse(&text).unwrap(), manifest());
        let turns = &manifest().files[0];
        for (from, to, reason) in [
            ("\"h-1\"", "\"h-2\"", "manifest of home h-2"),
            ("\"homeId\": \"h-1\"", "\"homeId\": \"../h\"", "cannot be part of a path"),
            ("\"seq\": 1", "\"seq\": 0", "its seq is none"),
            ("\"rows\": 3", "\"rows\": -3", "invalid value"),
            (turns.path.as_str(), "v1/turns/dt=2026-04-20/../../x.parquet", "it names"),
            (turns.blake3.as_str(), "00", "is no BLAKE3"),
            ("\"tool_calls\"", "\"stamps\"", "is no table"),
            ("\"unknown\"", "\"2026-04-20\"", "has to be"),
            ("{\n", "", "invalid type"),
            ("]\n}", "", "EOF"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from}");
            let error = parse(&changed).unwrap_err().to_string();
            assert!(error.contains("place") && error.contains(reason), "{from}: {error}");
        }
        let mut twice = manifest();
        twice.files.push(twice.files[0].clone());
        let error = parse(&String::from_utf8(twice.to_bytes().unwrap()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("two files of turns on 2026-04-20"), "{error}");
        let newer = parse("{\"format\": 2, \"files\": {}}").unwrap_err();
        assert!(matches!(newer, ExportError::OtherFormat { found: 2, .. }), "{newer}");
    }
}

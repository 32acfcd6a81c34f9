//! A home with a place for its exports, the command, and readers of manifests and of Parquet files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use crate::common::processes;

/// A home and a directory for exports, removed when dropped.
pub struct Scene {
    pub directory: tempfile::TempDir,
}

impl Scene {
    pub fn new(ledger: &[u8]) -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.home()).unwrap();
        fs::write(scene.ledger(), ledger).unwrap();
        scene
    }

    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    pub fn ledger(&self) -> PathBuf {
        self.home().join("ledger.jsonl")
    }

    pub fn archive(&self) -> PathBuf {
        self.home().join("archive.sqlite")
    }

    pub fn append(&self, lines: &str) {
        let mut ledger = fs::read(self.ledger()).unwrap();
        ledger.extend_from_slice(lines.as_bytes());
        fs::write(self.ledger(), ledger).unwrap();
    }

    /// `burn export …` with this home.
    pub fn burn(&self, args: &[&str]) -> Command {
        burn(&self.home(), args)
    }

    /// `burn export parquet` into the directory of this scene.
    pub fn export_command(&self, more: &[&str]) -> Command {
        let mut command = self.burn(&["parquet", "--json", "--out"]);
        command.arg(self.out()).args(more);
        command
    }

    /// Exports, and returns the summary.
    #[track_caller]
    pub fn export(&self, more: &[&str]) -> Value {
        processes::success(&self.export_command(more).output().unwrap())
    }

    /// The paths of the manifests, sorted.
    pub fn manifest_paths(&self) -> Vec<PathBuf> {
        let directory = self.out().join("v1/_manifests");
        let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .collect();
        paths.sort();
        paths
    }

    /// The only manifest.
    #[track_caller]
    pub fn manifest(&self) -> Value {
        let paths = self.manifest_paths();
        assert_eq!(paths.len(), 1, "{paths:?}");
        read_json(&paths[0])
    }

    /// The paths of the data files in the place, whoever names them, sorted.
    pub fn data_files(&self) -> Vec<String> {
        let mut files = walk(&self.out().join("v1"), &self.out());
        files.retain(|path| !path.starts_with("v1/_manifests"));
        files
    }

    /// The rows of a table in the files that a manifest names, in the order of the manifest.
    pub fn rows(&self, manifest: &Value, table: &str) -> Vec<ExportedRow> {
        let mut rows = Vec::new();
        for file in files_of(manifest).into_iter().filter(|file| file["table"] == table) {
            let bytes = fs::read(self.out().join(file["path"].as_str().unwrap())).unwrap();
            let found = parquet_rows(bytes);
            assert_eq!(found.len() as u64, file["rows"].as_u64().unwrap(), "{file}");
            let day = file["day"].as_str().unwrap();
            rows.extend(found.into_iter().map(|cells| ExportedRow { day: day.to_owned(), cells }));
        }
        rows
    }
}

/// A row of a Parquet file, by column.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedRow {
    pub day: String,
    pub cells: BTreeMap<String, Field>,
}

impl ExportedRow {
    /// The text of a column; `None` for null and for a column that the file does not have.
    pub fn text(&self, column: &str) -> Option<&str> {
        match self.cells.get(column) {
            Some(Field::Str(text)) => Some(text),
            _ => None,
        }
    }
}

pub fn burn(home: &Path, args: &[&str]) -> Command {
    let mut command = processes::burn(home);
    command.env("HOME", home).arg("export").args(args);
    // No test may reach a server by the credentials of whoever runs it.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
}

/// Returns what a command says on standard error; it must end with this exit code.
#[track_caller]
pub fn refusal(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The files that a manifest names.
pub fn files_of(manifest: &Value) -> Vec<&Value> {
    manifest["files"].as_array().unwrap().iter().collect()
}

/// The path of each file that a manifest names, by table and day.
pub fn by_day(manifest: &Value) -> BTreeMap<(String, String), String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let files = files_of(manifest).into_iter();
    files.map(|file| ((text(&file["table"]), text(&file["day"])), text(&file["path"]))).collect()
}

/// Asserts that every file that a manifest names is there and whole.
#[track_caller]
pub fn assert_whole(manifest: &Value, read: impl Fn(&str) -> Vec<u8>) {
    for file in files_of(manifest) {
        let path = file["path"].as_str().unwrap();
        let bytes = read(path);
        assert_eq!(bytes.len() as u64, file["bytes"].as_u64().unwrap(), "{path}");
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(Some(&*blake3), file["blake3"].as_str(), "{path}");
        assert!(path.ends_with(&format!("-{}.parquet", &blake3[..16])), "{path}");
    }
}

pub fn parquet_rows(bytes: Vec<u8>) -> Vec<BTreeMap<String, Field>> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| {
        row.unwrap().get_column_iter().map(|(name, field)| (name.clone(), field.clone())).collect()
    })
    .collect()
}

/// The files under a directory, as paths from `root`, sorted.
pub fn walk(directory: &Path, root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(walk(&path, root));
        } else {
            found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

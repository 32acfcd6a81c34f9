//! The report of `burn ingest`: a JSON line for each line of a log that made no record.
//!
//! Touches the file of `--report`. Guarantees: an existing file is never written to; a device or a pipe is.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::agents::NamedLine;
use crate::cli::output::{create_report, wrong_usage};
use crate::disk;
use crate::home::Home;

/// The file of `--report`.
pub(super) struct LeftOutFile {
    path: PathBuf,
    file: std::fs::File,
    is_used: bool,
}

impl LeftOutFile {
    /// Creates the file, before anything is read: lines that cannot be named must be read again by the next run.
    pub(super) fn create(path: &Path, home: &Home) -> anyhow::Result<Self> {
        if home.owns(path) {
            let path = path.display();
            wrong_usage(
                &["ingest"],
                &format!("{path} is a file of the home and cannot be the report: name another file"),
            );
        }
        Ok(Self { path: path.to_owned(), file: create_report(path, &["ingest"])?, is_used: false })
    }

    pub(super) fn write(&mut self, lines: &[NamedLine]) -> std::io::Result<()> {
        let mut text = String::new();
        for line in lines {
            let document = json!({
                "path": line.path.to_string_lossy(),
                "offset": line.offset,
                "length": line.len_bytes,
                "reason": line.reason.as_str(),
                "detail": line.detail,
            });
            text.push_str(&format!("{document}\n"));
        }
        self.is_used = true;
        self.file.write_all(text.as_bytes())
    }

    /// After a failure before the first line, deletes the file, because the next attempt may use its name.
    pub(super) fn remove_if_unused(&self, has_failed: bool) -> Result<(), disk::Error> {
        let is_file = || disk::metadata(&self.path).is_ok_and(|found| found.is_file);
        if has_failed && !self.is_used && is_file() {
            disk::remove_file_if_exists(&self.path)?;
        }
        Ok(())
    }
}

//! Makes paths from paths, and prints paths into documents.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// Returns the directory of `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns `path` with `suffix` after its whole name: `log.seg` and `.bak` give `log.seg.bak`.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns `path` as a word of a shell's command line, for messages with a command to paste.
pub(crate) fn in_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+,:@%=".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Serializes paths into documents. Bytes that are not UTF-8 become U+FFFD, because a document is Unicode text and a report
/// of a file must not fail because of the name of the file.
pub(crate) mod lossy {
    use super::*;

    /// Serializes one path.
    pub(crate) fn one<P: AsRef<Path>, S: Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&path.as_ref().to_string_lossy())
    }

    /// Serializes a path or null.
    pub(crate) fn maybe<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => one(path, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Serializes a list of paths.
    pub(crate) fn many<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
    }
}

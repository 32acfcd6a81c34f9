//! Lists folders in the byte order of the names.

use std::path::{Path, PathBuf};

use crate::disk;

/// A folder that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unreadable {
    /// The folder or file.
    pub path: PathBuf,
    /// Why, in words.
    pub error: String,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WalkEntry {
    pub path: PathBuf,
    pub is_file: bool,
    pub is_folder: bool,
}

/// Returns the entries of a folder. A missing folder is empty. A folder that cannot be read is empty and reported. With
/// `as_reference` links are not followed; otherwise a link counts as its target.
pub(super) fn entries(folder: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<WalkEntry> {
    let paths = match disk::list(folder) {
        Ok(paths) => paths,
        Err(error) if error.is_not_found() => return Vec::new(),
        Err(error) => {
            unreadable.push(Unreadable { path: folder.to_owned(), error: error.to_string() });
            return Vec::new();
        }
    };
    let look = |path: PathBuf| {
        let found = if as_reference { disk::metadata(&path) } else { disk::metadata_of_target(&path) };
        let found = found.ok()?;
        Some(WalkEntry { path, is_file: found.is_file, is_folder: found.is_directory })
    };
    paths.into_iter().filter_map(look).collect()
}

/// Like [`entries`], for a path that need not be a folder.
pub(super) fn entries_if_there(
    folder: &Path,
    as_reference: bool,
    unreadable: &mut Vec<Unreadable>,
) -> Vec<WalkEntry> {
    if folder.is_dir() { entries(folder, as_reference, unreadable) } else { Vec::new() }
}

/// Returns the folders in a folder.
pub(super) fn folders(folder: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<PathBuf> {
    let found = entries(folder, as_reference, unreadable).into_iter();
    found.filter(|entry| entry.is_folder).map(|entry| entry.path).collect()
}

/// Returns whether a name ends in a dot and `extension`. The dot and the extension alone count too.
pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let (name, extension) = (name, extension.as_bytes());
    name.len() > extension.len()
        && name.ends_with(extension)
        && name[name.len() - extension.len() - 1] == b'.'
}

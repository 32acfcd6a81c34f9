//! Lists folders in the byte order of the names.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::disk;

/// The folders of a variable that lists several, with commas. An empty entry is none, because it would be the current
/// directory.
pub(super) fn folders_of(list: &Path) -> Vec<PathBuf> {
    #[cfg(unix)]
    let folders = {
        use std::os::unix::ffi::OsStrExt;
        let parts = list.as_os_str().as_bytes().split(|byte| *byte == b',');
        parts.map(|part| PathBuf::from(std::ffi::OsStr::from_bytes(part.trim_ascii()))).collect::<Vec<_>>()
    };
    #[cfg(not(unix))]
    let folders: Vec<_> = list.to_string_lossy().split(',').map(|part| PathBuf::from(part.trim())).collect();
    folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()).collect()
}

/// A folder or a file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unreadable {
    /// The folder or file.
    #[serde(serialize_with = "crate::disk::lossy::one")]
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
    /// None when the metadata could not be read.
    identity: Option<disk::Identity>,
    /// Why the entry cannot be read as a file.
    fault: String,
}

impl WalkEntry {
    /// The entry at `path`; none if it vanished after its folder was listed.
    fn of(path: PathBuf, as_reference: bool) -> Option<Self> {
        let found = if as_reference { disk::metadata(&path) } else { disk::metadata_of_target(&path) };
        let (is_file, is_folder, identity, fault) = match found {
            Ok(found) => {
                let fault =
                    if found.is_directory { "it is a folder, not a log" } else { "it is no regular file" };
                (found.is_file, found.is_directory, Some(found.identity), fault.to_owned())
            }
            Err(error) if error.is_not_found() && !is_link(&path) => return None,
            Err(error) => (false, false, None, error.to_string()),
        };
        Some(WalkEntry { path, is_file, is_folder, identity, fault })
    }

    fn reported(&self) -> Unreadable {
        Unreadable { path: self.path.clone(), error: self.fault.clone() }
    }
}

/// Returns whether there is neither a file nor a folder at `path`, but a link or something special.
pub(super) fn is_link(path: &Path) -> bool {
    disk::metadata(path).is_ok_and(|found| !found.is_file && !found.is_directory)
}

/// Returns the entries of a folder. A missing folder is empty. A folder that cannot be read is empty and reported. With
/// `as_reference` links are not followed; otherwise a link counts as its target.
pub(super) fn entries(folder: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<WalkEntry> {
    let paths = match disk::list(folder) {
        Ok(paths) => paths,
        // A link to a missing folder is reported, because its logs may be on a disk that is away.
        Err(error) if error.is_not_found() && (as_reference || !is_link(folder)) => return Vec::new(),
        Err(error) => {
            unreadable.push(Unreadable { path: folder.to_owned(), error: error.to_string() });
            return Vec::new();
        }
    };
    paths.into_iter().filter_map(|path| WalkEntry::of(path, as_reference)).collect()
}

/// Returns the regular files among `entries` that `is_log` accepts by their paths. Other entries that it accepts, such
/// as pipes, folders and links that lead nowhere, are reported, because they would be skipped in silence. With
/// `as_reference` they are passed over.
pub(super) fn logs(
    entries: &[WalkEntry],
    as_reference: bool,
    is_log: impl Fn(&Path) -> bool,
    unreadable: &mut Vec<Unreadable>,
) -> Vec<PathBuf> {
    let (files, others): (Vec<_>, Vec<_>) =
        entries.iter().filter(|entry| is_log(&entry.path)).partition(|entry| entry.is_file);
    if !as_reference {
        unreadable.extend(others.into_iter().map(WalkEntry::reported));
    }
    files.into_iter().map(|entry| entry.path.clone()).collect()
}

/// Returns the logs of a folder, then the logs of its folders from the last name to the first, to any depth. A link to a
/// folder that was found before is not followed, because links may lead back to a folder above.
pub(super) fn logs_below(
    folder: &Path,
    as_reference: bool,
    is_log: &dyn Fn(&Path) -> bool,
    unreadable: &mut Vec<Unreadable>,
) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut seen: HashSet<disk::Identity> = HashSet::new();
    seen.extend(disk::metadata_of_target(folder).ok().map(|found| found.identity));
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = entries(&folder, as_reference, unreadable);
        found.extend(logs(&entries, as_reference, is_log, unreadable));
        for entry in entries.into_iter().filter(|entry| entry.is_folder) {
            let is_new = entry.identity.is_none_or(|identity| seen.insert(identity));
            if is_new || !is_link(&entry.path) {
                folders.push(entry.path);
            }
        }
    }
    found
}

/// Returns the folders in a folder. An entry that cannot be looked at is reported, because it may lead to a folder.
pub(super) fn folders(folder: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<PathBuf> {
    let found = entries(folder, as_reference, unreadable);
    if !as_reference {
        let unknown = found.iter().filter(|entry| entry.identity.is_none());
        unreadable.extend(unknown.map(WalkEntry::reported));
    }
    found.into_iter().filter(|entry| entry.is_folder).map(|entry| entry.path).collect()
}

/// Returns whether a name ends in a dot and `extension`. The dot and the extension alone count too.
pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let (name, extension) = (name, extension.as_bytes());
    name.len() > extension.len()
        && name.ends_with(extension)
        && name[name.len() - extension.len() - 1] == b'.'
}

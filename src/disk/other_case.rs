//! Refuses a name that reaches a file of another name: on a file system that ignores case, `a.jsonl` reaches `A.jsonl`, and
//! the data of two ids would be in one file.
//!
//! Changes nothing. Looks at the path, at the same path with swapped case, and, only when both are one file, at the
//! directory's list of names. Therefore the cost on a file system that distinguishes case is two looks.

use super::{Error, Operation, metadata, parent_of, perform_on_path};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

/// Fails with [`Error::OtherCase`] when `path` reaches a file or directory whose name in its directory has another case. A
/// path at which nothing exists is allowed, and so are two files `a` and `A` if the file system distinguishes them.
///
/// Every function that makes a path from an id calls this function. If a lock excludes other creators, the call is before
/// the file is created (the lock files of `a` and `A` are then also one file). Otherwise the call is after the file or
/// directory was created and before the first write.
///
/// # Errors
/// [`Error::OtherCase`]; [`Error::Io`] when the path or its directory cannot be inspected.
pub fn refuse_other_case(path: &Path) -> Result<(), Error> {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return Ok(()) };
    let swapped: String = name.chars().flat_map(swap_case).collect();
    if swapped == name {
        return Ok(());
    }
    let there = match metadata(path) {
        Err(error) if error.is_not_found() => return Ok(()),
        found => found?.identity,
    };
    match metadata(&path.with_file_name(&swapped)) {
        Err(error) if error.is_not_found() => return Ok(()),
        other if other.as_ref().is_ok_and(|other| other.identity != there) => return Ok(()),
        other => other?,
    };
    // One file has both names: as two hard links, or as one name that the file system finds by both spellings.
    let directory = parent_of(path);
    let listed = perform_on_path(Operation::List, directory, || {
        let mut other = OsString::from(&swapped);
        for entry in fs::read_dir(directory)? {
            let found = entry?.file_name();
            if found == name {
                return Ok(None);
            }
            if found.to_string_lossy().to_lowercase() == name.to_lowercase() {
                other = found;
            }
        }
        Ok(Some(other))
    })?;
    match listed {
        Some(listed) => Err(Error::OtherCase { path: path.to_owned(), listed: path.with_file_name(listed) }),
        None => Ok(()),
    }
}

fn swap_case(letter: char) -> Vec<char> {
    if letter.is_lowercase() { letter.to_uppercase().collect() } else { letter.to_lowercase().collect() }
}

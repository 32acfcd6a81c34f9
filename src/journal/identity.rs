//! The identity of a journal, which a store asks for before it reads from that journal.
//!
//! May touch: the file IDENTITY, under the writer's lock.

use std::path::Path;
use std::time::Duration;

use super::directory::Directory;
use super::error::{JournalError, Result};
use super::segment::list;

/// Returns the identity of the journal in `directory`. No other journal has the same, not even one that is begun in this directory
/// after this one was removed. A journal of an earlier program gets its identity here, unless a writer has it open.
///
/// # Errors
/// [`JournalError::Damaged`], [`JournalError::Unsupported`]; file operations that fail.
pub fn identity(directory: &Path) -> Result<Option<u128>> {
    let directory = Directory::at(directory);
    if let Some(identity) = directory.read_identity()? {
        return Ok(Some(identity));
    }
    if list(&directory)?.is_empty() {
        return Ok(None);
    }
    match directory.lock(Duration::ZERO) {
        Err(JournalError::Locked { .. }) => directory.read_identity(),
        lock => {
            let _lock = lock?;
            match directory.read_identity()? {
                Some(identity) => Ok(Some(identity)),
                None => Ok(Some(directory.write_identity()?)),
            }
        }
    }
}

//! The name of a home's machine, which a person chooses: `machine.json` in the home.
//!
//! Reads and replaces this one file, or the file that a symbolic link in its place leads to. A merge writes the name into the stamps of the merged ledger (`merge/labels.rs`).

use super::{Ledger, LedgerError};
use crate::disk;

/// The longest name, in bytes.
const NAME_MAX_BYTES: usize = 100;

/// The name of a machine: 1 to 100 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineName(String);

/// A text that is no name of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no name of a machine: it must have 1 to {NAME_MAX_BYTES} bytes, no control characters and no blank at either end"
)]
pub struct InvalidMachineName {
    /// The refused name.
    pub name: String,
}

impl MachineName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidMachineName`].
    pub fn new(name: &str) -> Result<Self, InvalidMachineName> {
        let is_valid = !name.is_empty()
            && name.len() <= NAME_MAX_BYTES
            && name.trim() == name
            && !name.contains(char::is_control);
        if is_valid { Ok(Self(name.to_owned())) } else { Err(InvalidMachineName { name: name.to_owned() }) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The content of `machine.json`.
#[derive(serde::Serialize, serde::Deserialize)]
struct MachineFile {
    machine: String,
}

impl Ledger {
    /// The name of this home's machine; `None` when it was never set.
    ///
    /// # Errors
    /// When `machine.json` cannot be read or has another form.
    pub fn machine(&self) -> Result<Option<MachineName>, LedgerError> {
        let path = self.home().machine();
        let file = match disk::File::open_read(&path) {
            Err(error) if error.is_not_found() => return Ok(None),
            opened => opened?,
        };
        let mut bytes = vec![0; file.len_bytes()?.min(4096) as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let invalid = |reason: String| LedgerError::MachineFile { path: path.clone(), reason };
        let read: MachineFile = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        MachineName::new(&read.machine).map(Some).map_err(|error| invalid(error.to_string()))
    }

    /// Sets the name of this home's machine. Creates the home when the home is missing. Where `machine.json` is a symbolic link, the
    /// file that it leads to is replaced.
    ///
    /// # Errors
    /// When `machine.json` cannot be written.
    pub fn set_machine(&self, name: &MachineName) -> Result<(), LedgerError> {
        disk::create_dir_all(self.home().root())?;
        let file = MachineFile { machine: name.as_str().to_owned() };
        let path = self.home().machine();
        let mut text = serde_json::to_vec(&file)
            .map_err(|error| LedgerError::MachineFile { path: path.clone(), reason: error.to_string() })?;
        text.push(b'\n');
        Ok(disk::replace(&disk::target_of(&path)?, &text, disk::Replacing::Durable)?)
    }
}

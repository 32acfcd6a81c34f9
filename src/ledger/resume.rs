//! Appends again a batch whose earlier append may have been cut off, so that each line is in the ledger once.
//!
//! Reads the ledger after the length that the ledger had before the earlier append, and then appends as
//! [`append`](super::append) does, both under lock `ledger`. For deliveries that know that length, such as deliveries from a journal.

use std::collections::HashMap;

use super::append::{AppendOptions, Appended, WantedEntries, WrittenLines};
use super::batch::Batch;
use super::sidecar_lines::SidecarLines;
use super::{Ledger, LedgerError};
use crate::disk;
use crate::home::LockName;
use crate::scan::{Io, Source};

impl Ledger {
    /// Completes the append of a batch that may have been interrupted. `len_bytes_before` is the length of the ledger
    /// before the interrupted append.
    ///
    /// A stamp has no id. Therefore a stamp counts as a duplicate when its line is in the ledger after
    /// `len_bytes_before`; each such line counts for one stamp. Turns that the interrupted append has written do not
    /// make other turns of their batch duplicates by fingerprint.
    ///
    /// # Errors
    /// The errors of [`Ledger::append`], and an error for a ledger that cannot be read.
    pub fn resume_append(
        &self,
        batch: &Batch,
        options: &AppendOptions,
        len_bytes_before: u64,
    ) -> Result<Appended, LedgerError> {
        let mut done = self.append_sidecars(batch, options, &mut SidecarLines::default())?;
        if !batch.entries.is_empty() {
            // The lock is held over both steps, so that no other program appends between them.
            self.locked(LockName::Ledger, |_| {
                let wanted = self.not_landed(batch, len_bytes_before)?;
                self.append_wanted(batch, &wanted, options, None, &mut WrittenLines::default(), &mut done)
            })?;
        }
        Ok(done)
    }

    /// Returns the lines of a batch, without the stamps that are in the ledger after `from_bytes`.
    fn not_landed<'b>(&self, batch: &'b Batch, from_bytes: u64) -> Result<WantedEntries<'b>, LedgerError> {
        let mut wanted = WantedEntries::all(batch);
        let path = self.home().ledger();
        if disk::if_there(disk::metadata(&path))?.is_none() {
            return Ok(wanted);
        }
        let mut landed: HashMap<&[u8], usize> =
            batch.entries.iter().map(|entry| (batch.line(&entry.line), 0)).collect();
        let source = Source::open(&path, Io::default())?;
        let len_bytes = source.len_bytes();
        let mut buffer = Vec::new();
        let tail = source.bytes(from_bytes.min(len_bytes)..len_bytes, &mut buffer)?;
        for line in tail.split_inclusive(|byte| *byte == b'\n') {
            if let Some(count) = landed.get_mut(line) {
                *count += 1;
            }
        }
        source.check_len()?;
        wanted.entries.retain(|entry| match landed.get_mut(batch.line(&entry.line)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                // An entry with an id stays, because the index may lack that id.
                wanted.landed.extend(entry.id);
                entry.id.is_some()
            }
            _ => true,
        });
        Ok(wanted)
    }
}

//! The migration ledger: one line for every rollback attempted, and for whatever else its users record there.
//!
//! May append to `migrations/ledger.jsonl`. Promises: an event is on stable storage when it is acknowledged; nothing is
//! appended behind a torn line.

use super::error::{Error, Place};
use super::format::{EVENT_SCHEMA, MigrationEvent};
use super::layout::{Layout, read_if_exists, refuse_link};
use super::report::Truncated;
use super::time;
use super::view::View;
use super::writer::Store;
use crate::disk;
use crate::scan;

/// The migration ledger as read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrationLedger {
    /// The events of all complete lines, in order.
    pub events: Vec<MigrationEvent>,
    /// The last line, when it lacks its LF.
    pub torn: Option<Place>,
}

impl Layout {
    pub(super) fn read_ledger(&self) -> Result<MigrationLedger, Error> {
        let path = self.ledger();
        let mut ledger = MigrationLedger::default();
        let Some(bytes) = read_if_exists(&path)? else { return Ok(ledger) };
        for (number, (offset, line)) in scan::lines(0, &bytes).enumerate() {
            let place = || Place { path: path.clone(), line: number as u64 + 1, offset };
            if offset as usize + line.len() == bytes.len() {
                ledger.torn = Some(place());
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let event: MigrationEvent = serde_json::from_slice(line)
                .map_err(|error| Error::Json { place: place(), reason: error.to_string() })?;
            if event.schema != EVENT_SCHEMA {
                return Err(Error::UnsupportedSchema { place: place(), found: event.schema });
            }
            ledger.events.push(event);
        }
        Ok(ledger)
    }

    /// Appends an event; `schema` and `at` are filled in when empty.
    pub(super) fn append_event(&self, mut event: MigrationEvent) -> Result<MigrationEvent, Error> {
        let path = self.ledger();
        refuse_link(&path)?;
        if let Some(place) = self.read_ledger()?.torn {
            return Err(Error::LedgerTorn { place });
        }
        if event.schema.is_empty() {
            EVENT_SCHEMA.clone_into(&mut event.schema);
        }
        if event.at.is_empty() {
            event.at = time::now();
        }
        let mut line = serde_json::to_vec(&event)
            .map_err(|error| Error::Json { place: Place::of_document(&path), reason: error.to_string() })?;
        line.push(b'\n');
        let (file, created) = disk::File::open_append(&path)?;
        let len_bytes = file.len_bytes()?;
        if let Err(error) = file.write_all(&line) {
            // The first error is the one to report; half a line left is found torn and can be repaired.
            let _ = file.set_len(len_bytes);
            return Err(error.into());
        }
        file.sync_data()?;
        if created {
            disk::sync_dir(disk::parent_of(&path))?;
        }
        Ok(event)
    }
}

impl View<'_> {
    /// The migration ledger; empty when there is none. A torn last line is no error here.
    ///
    /// # Errors
    /// [`Error::Json`] and [`Error::UnsupportedSchema`] for complete lines, or what the system says.
    pub fn migration_ledger(&self) -> Result<MigrationLedger, Error> {
        self.layout.read_ledger()
    }
}

impl Store {
    /// Appends an event to the migration ledger, durably. Empty `schema` and `at` are filled in; the event as written is
    /// answered.
    ///
    /// # Errors
    /// [`Error::LedgerTorn`], [`Error::Json`] when the ledger is damaged, or what the system says.
    pub fn append_event(&mut self, event: MigrationEvent) -> Result<MigrationEvent, Error> {
        self.check_writable()?;
        self.layout.append_event(event)
    }

    /// Repairs a torn last line of the migration ledger: completes it when only its LF is missing, else saves it aside and
    /// cuts it. Answers what was cut.
    ///
    /// # Errors
    /// What the system says.
    pub fn repair_ledger(&mut self) -> Result<Option<Truncated>, Error> {
        self.check_writable()?;
        let Some(torn) = self.layout.read_ledger()?.torn else { return Ok(None) };
        let (file, _) = disk::File::open_append(&torn.path)?;
        let end = file.len_bytes()?;
        let mut line = vec![0; (end - torn.offset) as usize];
        file.read_exact_at(&mut line, torn.offset)?;
        if serde_json::from_slice::<MigrationEvent>(&line).is_ok() {
            file.write_all(b"\n")?;
            file.sync_data()?;
            return Ok(None);
        }
        let saved = self.layout.cut(&torn.path, torn.offset..end)?;
        Ok(Some(Truncated {
            file: self.layout.relative(&torn.path),
            length: torn.offset,
            from_length: end,
            reason: "its last line is torn".to_owned(),
            saved_as: saved.map(|saved| self.layout.relative(&saved)),
        }))
    }
}

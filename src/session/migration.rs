//! The migration ledger: one line for every attempt of a rollback, and events that programs append.
//!
//! Touches: appends to `migrations/ledger.jsonl`.
//!
//! Guarantees: an event is on stable storage before it is acknowledged; nothing is appended after a torn line.

use super::error::{LinePlace, SessionError};
use super::format::{MIGRATION_EVENT_SCHEMA, MigrationEvent};
use super::layout::{SessionLayout, read_if_exists};
use super::time;
use super::view::SessionView;
use super::writer::SessionStoreV2;
use crate::disk;
use crate::scan;
use crate::store::Cut;

/// The content of the migration ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrationLedger {
    /// The events of all complete lines, in order.
    pub events: Vec<MigrationEvent>,
    /// The place of the last line, when its LF is missing.
    pub torn: Option<LinePlace>,
}

impl SessionLayout {
    pub(super) fn read_ledger(&self) -> Result<MigrationLedger, SessionError> {
        let path = self.ledger();
        let mut ledger = MigrationLedger::default();
        let Some(bytes) = read_if_exists(&path)? else { return Ok(ledger) };
        for (number, (offset, line)) in scan::lines(0, &bytes).enumerate() {
            let place = || LinePlace { path: path.clone(), line: number as u64 + 1, offset };
            if offset as usize + line.len() == bytes.len() {
                ledger.torn = Some(place());
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let event: MigrationEvent = serde_json::from_slice(line)
                .map_err(|error| SessionError::Json { place: place(), reason: error.to_string() })?;
            if event.schema != MIGRATION_EVENT_SCHEMA {
                return Err(SessionError::UnsupportedSchema { place: place(), found: event.schema });
            }
            ledger.events.push(event);
        }
        Ok(ledger)
    }

    /// Appends an event and fills in an empty `schema` and `at`.
    pub(super) fn append_migration_event(
        &self,
        mut event: MigrationEvent,
    ) -> Result<MigrationEvent, SessionError> {
        let path = self.ledger();
        disk::refuse_link(&path)?;
        if let Some(place) = self.read_ledger()?.torn {
            return Err(SessionError::LedgerTorn { place });
        }
        if event.schema.is_empty() {
            MIGRATION_EVENT_SCHEMA.clone_into(&mut event.schema);
        }
        if event.at.is_empty() {
            event.at = time::now();
        }
        let mut line =
            serde_json::to_vec(&event).map_err(|error| SessionError::of_document(&path, &error))?;
        line.push(b'\n');
        let (file, _) = disk::File::open_append(&path)?;
        let len_bytes = file.len_bytes()?;
        if let Err(error) = file.write_all(&line) {
            // The first error is reported. If the cut fails, the torn line is found and can be repaired.
            let _ = file.set_len(len_bytes);
            return Err(error.into());
        }
        file.sync_data()?;
        // Always, because an append that failed may have created the file and not synced its name.
        disk::sync_dir(disk::parent_of(&path))?;
        Ok(event)
    }
}

impl SessionView {
    /// Reads the migration ledger; a missing ledger is empty, and a torn last line is not an error.
    ///
    /// # Errors
    /// [`SessionError::Json`] and [`SessionError::UnsupportedSchema`] for complete lines, and failures of the file system.
    pub fn read_migration_events(&self) -> Result<MigrationLedger, SessionError> {
        self.layout.read_ledger()
    }
}

impl SessionStoreV2 {
    /// Appends an event to the migration ledger, durably, and fills in an empty `schema` and `at`. Returns the event as written.
    ///
    /// # Errors
    /// [`SessionError::LedgerTorn`], [`SessionError::Json`] when the ledger is damaged, and failures of the file system.
    pub fn append_migration_event(&mut self, event: MigrationEvent) -> Result<MigrationEvent, SessionError> {
        self.check_writable()?;
        self.layout.append_migration_event(event)
    }

    /// Repairs a torn last line of the migration ledger: appends its LF when only the LF is missing, else saves the line and cuts
    /// it. Returns what was cut.
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn repair_ledger(&mut self) -> Result<Option<Cut>, SessionError> {
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
        self.layout.cut(&torn.path, torn.offset..end, "its last line is torn".to_owned()).map(Some)
    }
}

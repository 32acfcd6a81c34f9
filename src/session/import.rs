//! Imports: groups of entries whose parents may follow their children.
//!
//! Touches: appends to segments and index, writes `tmp/import.intent.json`.
//!
//! Guarantees: after a crash or a power cut a group is there as a whole or not at all; links are checked before anything is
//! written.
//!
//! ```text
//! intent         the end of the store before the import
//! frames         e1 (parent e2), e2     a crash here leaves sound frames, of which the first has no parent
//! sync
//! rows           of e1 and e2           the index grows only after all frames are on stable storage
//! intent removed
//! ```
//!
//! If an opening writer finds an intent and the index has its old length, the frames were never acknowledged: they are saved and
//! cut. If the index is longer, the import is complete.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::index::{self, IndexRows};
use super::integrity::find_cycle;
use super::layout::{self, IMPORT_INTENT, SessionLayout, read_if_exists};
use super::payload::NewEntry;
use super::writer::{SessionStoreV2, missing_parent};
use crate::disk;
use crate::store::Recovery;

const INTENT_SCHEMA: &str = "relayburn.session_store_v2.import_intent.v1";

/// The end of a store before an import; all 0 for an empty store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImportIntent {
    schema: String,
    segment_seq: u64,
    segment_bytes: u64,
    index_bytes: u64,
}

impl ImportIntent {
    fn of(rows: &IndexRows, index_bytes: u64) -> Self {
        let last = rows.last();
        Self {
            schema: INTENT_SCHEMA.to_owned(),
            segment_seq: last.map_or(0, |last| last.segment_seq),
            segment_bytes: last.and_then(|last| last.end()).unwrap_or_default(),
            index_bytes,
        }
    }
}

impl SessionStoreV2 {
    /// Appends entries as one group, in which a parent may follow its children. After a crash or a power cut the next opening writer
    /// removes a group that was written in part.
    ///
    /// # Errors
    /// As [`SessionStoreV2::append_entry`]; links are checked before anything is written.
    pub fn import(&mut self, entries: &[NewEntry<'_>]) -> Result<(), SessionError> {
        // Entries of an earlier group get their rows first, because undoing the import would remove them.
        self.sync()?;
        self.check_group(entries)?;
        if entries.is_empty() {
            return Ok(());
        }
        let from = self.mark();
        self.record_intent(IMPORT_INTENT, &ImportIntent::of(&self.snapshot.rows, from.index_bytes))?;
        let done =
            entries.iter().try_for_each(|entry| self.write_frame(entry)).and_then(|()| self.write_rows());
        let done = self.done_or_undone(from, done);
        // A handle that could not undo the group leaves the intent to the next opening writer.
        if !self.is_poisoned()
            && let Err(error) = forget(&self.layout)
        {
            // The next opening writer would follow the intent.
            self.poison(&error);
        }
        done
    }

    /// Checks the links of a group in which a parent may follow its children.
    fn check_group(&self, entries: &[NewEntry<'_>]) -> Result<(), SessionError> {
        let mut places = HashMap::with_capacity(entries.len());
        for (place, entry) in entries.iter().enumerate() {
            self.check_new_id(&entry.id)?;
            if let Some(first) = places.insert(&*entry.id, place) {
                let seq = |place| self.next_entry_seq().saturating_add(place as u64);
                return Err(SessionError::DuplicateEntryId {
                    entry_id: entry.id.clone().into_owned(),
                    first_seq: seq(first),
                    second_seq: seq(place),
                });
            }
        }
        let parent_of = |entry: &NewEntry<'_>| {
            let Some(parent) = &entry.parent_id else { return Ok(None) };
            match places.get(&**parent) {
                Some(place) => Ok(Some(*place)),
                None if self.snapshot.rows.find_id(parent).is_some() => Ok(None),
                None => Err(missing_parent(entry, parent)),
            }
        };
        let parents = entries.iter().map(parent_of).collect::<Result<Vec<_>, _>>()?;
        match find_cycle(entries.len(), |place| parents[place]) {
            Some(place) => {
                Err(SessionError::CyclicParent { entry_id: entries[place].id.clone().into_owned() })
            }
            None => Ok(()),
        }
    }
}

/// Removes the intent, durably.
fn forget(layout: &SessionLayout) -> Result<(), SessionError> {
    let path = layout.staging(IMPORT_INTENT);
    if disk::remove_file_if_exists(&path)? {
        disk::sync_dir(disk::parent_of(&path))?;
    }
    Ok(())
}

/// Undoes an import that did not finish, and returns what this cut and renamed. After a crash every step can be repeated.
pub(super) fn resume(layout: &SessionLayout) -> Result<Option<Recovery>, SessionError> {
    let Some(bytes) = read_if_exists(&layout.staging(IMPORT_INTENT))? else { return Ok(None) };
    // The length of the index decides, so the index must be durable.
    layout.sync_inherited()?;
    let is_unfinished = match serde_json::from_slice::<ImportIntent>(&bytes) {
        Ok(intent) => is_as_before(layout, &intent)?.then_some(intent),
        // Intents are written whole, so this program did not write an unreadable one.
        Err(_) => None,
    };
    let Some(intent) = is_unfinished else {
        forget(layout)?;
        return Ok(None);
    };
    let mut taken_back = Recovery::default();
    let files = layout.segment_files()?;
    for (&segment_seq, &len_bytes) in files.len_bytes.range(intent.segment_seq..).rev() {
        let path = layout.segment_file_path(segment_seq);
        if segment_seq > intent.segment_seq {
            if len_bytes > 0 {
                taken_back.set_aside.push(layout::set_aside(&path)?);
                disk::sync_dir(&layout.segments_dir())?;
            }
        } else if len_bytes > intent.segment_bytes {
            let reason = "an import that did not finish".to_owned();
            taken_back.truncated.push(layout.cut(&path, intent.segment_bytes..len_bytes, reason)?);
        }
    }
    taken_back.set_aside.reverse();
    forget(layout)?;
    Ok(Some(taken_back))
}

/// Whether the index is as it was when the intent was recorded.
fn is_as_before(layout: &SessionLayout, intent: &ImportIntent) -> Result<bool, SessionError> {
    let len_bytes = layout.index_file_bytes()?;
    if len_bytes != intent.index_bytes {
        return Ok(false);
    }
    let mut rows = IndexRows::default();
    match index::read(&layout.index_file_path(), 0, &mut rows) {
        Ok(_) => Ok(ImportIntent::of(&rows, len_bytes) == *intent),
        Err(error) if error.is_recoverable() => Ok(false),
        Err(error) => Err(error),
    }
}

//! Intents: records of work that an opening writer completes or undoes after a crash.
//!
//! Touches: writes and removes `tmp/*.intent.json` and the documents beside them.
//!
//! Guarantees: after a failure to record an intent there is no intent, or the handle writes no more.

use serde::Serialize;

use super::error::SessionError;
use super::layout::{SessionLayout, read_if_exists};
use super::writer::SessionStoreV2;
use crate::disk;

impl SessionStoreV2 {
    /// Records an intent in `tmp/name`. After a failure the intent is removed, because the next opening writer would follow it
    /// and undo entries that this handle appends from now on. If it cannot be removed, the handle writes no more.
    pub(super) fn record_intent(&mut self, name: &str, intent: &impl Serialize) -> Result<(), SessionError> {
        let text = text_of(&self.layout, name, intent)?;
        let recorded = write_document(&self.layout, name, &text);
        if let Err(error) = &recorded
            && take_back(&self.layout, name, &text).is_err()
        {
            self.poison(error);
        }
        recorded
    }
}

/// Removes, durably, an intent that may have got its name before recording it failed. An intent with another text stays.
fn take_back(layout: &SessionLayout, name: &str, text: &[u8]) -> Result<(), SessionError> {
    let path = layout.staging(name);
    if read_if_exists(&path)?.is_some_and(|found| found == text) {
        disk::remove_file(&path)?;
        disk::sync_dir(disk::parent_of(&path))?;
    }
    Ok(())
}

pub(super) fn text_of(
    layout: &SessionLayout,
    name: &str,
    document: &impl Serialize,
) -> Result<Vec<u8>, SessionError> {
    serde_json::to_vec(document).map_err(|error| SessionError::of_document(&layout.staging(name), &error))
}

pub(super) fn write_document(layout: &SessionLayout, name: &str, text: &[u8]) -> Result<(), SessionError> {
    layout.replace(&name.replace(".json", ".tmp"), &layout.staging(name), |file| Ok(file.write_all(text)?))
}

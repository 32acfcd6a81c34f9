//! Rollback to a checkpoint.
//!
//! Touches: replaces the index, cuts and renames segments and checkpoints, rewrites the manifest, appends to the migration ledger.
//!
//! Guarantees: nothing is changed before the entries were verified against the checkpoint; nothing is deleted; once the intent is
//! on stable storage the rollback is completed, after a crash by the next writer that opens the store.
//!
//! ```text
//! 1  stage the index that is kept       tmp/offsets.rollback.stage
//! 2  prepare the event, then the intent  tmp/rollback.event.json, tmp/rollback.intent.json
//! 3  rename the staged index into place
//! 4  rename later segments to .bak, save the end of the last kept segment as .cut and cut it
//! 5  rename later checkpoints to .bak, rewrite the manifest, log the event, remove the intent
//! ```
//!
//! After a crash, the steps from the third on are repeated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::chain::Chain;
use super::error::{SessionError, SessionErrorClass};
use super::format::{Checkpoint, MIGRATION_EVENT_SCHEMA, MigrationEvent, MigrationVerification};
use super::frame::hex_text;
use super::index::{self, IndexRows};
use super::integrity::{check_graph, verify};
use super::intent::{text_of, write_document};
use super::layout::{self, ROLLBACK_EVENT, ROLLBACK_INTENT, ROLLBACK_STAGE, SessionLayout, read_if_exists};
use super::manifest::ManifestOrigin;
use super::snapshot::Snapshot;
use super::time;
use super::view::SessionView;
use super::writer::SessionStoreV2;
use crate::disk;
use crate::store::Recovery;

const INTENT_SCHEMA: &str = "pi.session_store_v2.rollback_intent.v1";
const FORMAT: &str = "native_v2";
const VERIFIED: MigrationVerification =
    MigrationVerification { entry_count_match: true, hash_chain_match: true, index_consistent: true };

/// A decided rollback.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RollbackIntent {
    schema: String,
    checkpoint: Checkpoint,
    migration_id: String,
    correlation_id: String,
    retained_index_sha256: String,
    retained_index_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    manifest: Option<ManifestOrigin>,
}

impl RollbackIntent {
    /// Whether a file is the index that the rollback keeps.
    fn retains(&self, path: &std::path::Path) -> Result<bool, SessionError> {
        let Some(file) = disk::if_there(disk::File::open_read_no_follow(path))? else { return Ok(false) };
        let mut hasher = Sha256::new();
        let len_bytes = file.read_pieces(0..u64::MAX, |piece| {
            hasher.update(piece);
            true
        })?;
        Ok(len_bytes == self.retained_index_bytes
            && hex_text(&hasher.finalize().into()) == self.retained_index_sha256)
    }
}

/// What an opening writer did about an interrupted rollback.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// Number of the checkpoint, if the rollback was completed.
    pub(super) completed: Option<u64>,
    /// Why the intent was not followed.
    pub(super) abandoned: Option<String>,
    pub(super) recovery: Recovery,
}

impl SessionStoreV2 {
    /// Rolls the store back to a checkpoint. Later entries leave the store: their segments and later checkpoints are renamed to
    /// `.bak`, and the end of the last kept segment is saved as `.cut`. Every attempt appends one event to the migration ledger;
    /// the event is returned.
    ///
    /// # Errors
    /// [`SessionError::CheckpointNotFound`]; [`SessionError::RollbackVerificationFailed`] when the entries up to the checkpoint are not
    /// those it certifies; [`SessionError::LedgerTorn`]: all of them before anything was changed. A failure of the file system
    /// after the intent was recorded ends this handle; opening the store again completes the rollback.
    pub fn rollback_to_checkpoint(
        &mut self,
        checkpoint_seq: u64,
        migration_id: &str,
        correlation_id: &str,
    ) -> Result<MigrationEvent, SessionError> {
        self.sync()?;
        if let Some(place) = self.layout.read_ledger()?.torn {
            return Err(SessionError::LedgerTorn { place });
        }
        let layout = self.layout.clone();
        let attempt = RollbackAttempt { layout: &layout, ids: (migration_id, correlation_id) };
        let path = self.layout.checkpoint(checkpoint_seq);
        let checkpoint = match self.layout.read_checkpoint(checkpoint_seq) {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => {
                let error = SessionError::CheckpointNotFound { path: path.clone() };
                return Err(attempt.failed(&path, error));
            }
            Err(error) => return Err(attempt.failed(&path, error)),
        };
        let mut rows = self.snapshot.rows.clone();
        let kept = (0..rows.len())
            .find(|row| rows.numbers(*row).entry_seq > checkpoint.head_entry_seq)
            .unwrap_or(rows.len());
        rows.truncate(kept);
        let head_matches = match rows.last() {
            None => checkpoint.head_entry_seq == 0 && checkpoint.head_entry_id.is_empty(),
            Some(last) => {
                last.entry_seq == checkpoint.head_entry_seq && rows.id(kept - 1) == checkpoint.head_entry_id
            }
        };
        let verified = verify(&self.layout, &rows, 0..kept, kept, self.limit_bytes)
            .and_then(|verified| check_graph(&rows, &verified).map(|()| verified));
        let verification = MigrationVerification {
            entry_count_match: head_matches,
            hash_chain_match: verified.as_ref().is_ok_and(|verified| {
                verified.chain_from(Chain::GENESIS).to_string() == checkpoint.chain_hash
            }),
            index_consistent: verified.is_ok(),
        };
        let verified = match verified {
            Ok(verified) if verification == VERIFIED => verified,
            Err(error)
                if matches!(error.class(), SessionErrorClass::IoOther | SessionErrorClass::IoNotFound) =>
            {
                return Err(attempt.failed(&path, error));
            }
            _ => {
                let (outcome, class) = if verification.index_consistent {
                    ("recoverable_error", "integrity_mismatch")
                } else {
                    ("fatal_error", "index_corruption")
                };
                let source = &checkpoint.snapshot_ref;
                let event = event(&layout, attempt.ids, source, verification, outcome, Some(class));
                // The refusal is returned even when it cannot be logged.
                let _ = self.layout.append_migration_event(event);
                return Err(SessionError::RollbackVerificationFailed { checkpoint_seq, verification });
            }
        };
        let prepared = attempt.prepare(checkpoint, &rows);
        let recorded =
            prepared.and_then(|intent| self.record_intent(ROLLBACK_INTENT, &intent).map(|()| intent));
        let intent = match recorded {
            Ok(intent) => intent,
            Err(error) => return Err(attempt.failed(&path, error)),
        };
        let kept = SessionView {
            snapshot: Snapshot::with_hashes(rows, verified.payload_hashes()),
            limit_bytes: self.limit_bytes,
            layout,
        };
        let done = complete(&kept, &intent, &mut Recovery::default())
            .and_then(|event| self.adopt(kept.snapshot).map(|()| event));
        if let Err(error) = &done {
            self.poison(error);
        }
        done
    }
}

/// One call of [`SessionStoreV2::rollback_to_checkpoint`].
struct RollbackAttempt<'a> {
    layout: &'a SessionLayout,
    /// Ids of the migration and of the correlation.
    ids: (&'a str, &'a str),
}

impl RollbackAttempt<'_> {
    /// Logs an attempt that failed before anything was verified. A failure to log is ignored, because `error` is returned.
    fn failed(&self, source: &std::path::Path, error: SessionError) -> SessionError {
        let class = match error.class() {
            SessionErrorClass::CheckpointNotFound => "checkpoint_not_found",
            SessionErrorClass::IndexOutOfBounds | SessionErrorClass::ByteRangeOverflow => {
                "index_range_overflow"
            }
            SessionErrorClass::Json => "json",
            SessionErrorClass::IoNotFound
            | SessionErrorClass::IoOther
            | SessionErrorClass::IoUnexpectedEof
            | SessionErrorClass::IoInvalidData => "io",
            SessionErrorClass::InvalidArgument => "validation",
            _ => "session_error",
        };
        let source = source.display().to_string();
        let unverified = MigrationVerification::default();
        let event = event(self.layout, self.ids, &source, unverified, "fatal_error", Some(class));
        let _ = self.layout.append_migration_event(event);
        error
    }

    /// Stages the index that is kept and the event. Returns the intent for the caller to record.
    fn prepare(&self, checkpoint: Checkpoint, rows: &IndexRows) -> Result<RollbackIntent, SessionError> {
        let layout = self.layout;
        let (mut hasher, mut retained_index_bytes) = (Sha256::new(), 0);
        layout.stage(ROLLBACK_STAGE, |file| {
            rows.write_lines(0..rows.len(), |lines| {
                hasher.update(lines);
                retained_index_bytes += lines.len() as u64;
                Ok(file.write_all(lines)?)
            })
        })?;
        let manifest = layout.read_manifest()?.map(|manifest| ManifestOrigin {
            session_id: manifest.session_id,
            source_format: manifest.source_format,
            created_at: manifest.created_at,
        });
        let intent = RollbackIntent {
            schema: INTENT_SCHEMA.to_owned(),
            checkpoint,
            migration_id: self.ids.0.to_owned(),
            correlation_id: self.ids.1.to_owned(),
            retained_index_sha256: hex_text(&hasher.finalize().into()),
            retained_index_bytes,
            manifest,
        };
        let mut event = completed_event(layout, &intent);
        (event.schema, event.at) = (MIGRATION_EVENT_SCHEMA.to_owned(), time::now());
        write_document(layout, ROLLBACK_EVENT, &text_of(layout, ROLLBACK_EVENT, &event)?)?;
        Ok(intent)
    }
}

fn event(
    layout: &SessionLayout,
    (migration_id, correlation_id): (&str, &str),
    source_path: &str,
    verification: MigrationVerification,
    outcome: &str,
    error_class: Option<&str>,
) -> MigrationEvent {
    MigrationEvent {
        migration_id: migration_id.to_owned(),
        phase: "rollback".to_owned(),
        source_path: source_path.to_owned(),
        target_path: layout.root.display().to_string(),
        source_format: FORMAT.to_owned(),
        target_format: FORMAT.to_owned(),
        verification,
        outcome: outcome.to_owned(),
        error_class: error_class.map(str::to_owned),
        correlation_id: correlation_id.to_owned(),
        ..MigrationEvent::default()
    }
}

/// Completes an interrupted rollback. An intent in an unknown form is left alone; an intent that fits neither the staged index nor
/// the index in place is renamed away.
pub(super) fn resume(layout: &SessionLayout, limit_bytes: u64) -> Result<Resumed, SessionError> {
    let mut resumed = Resumed::default();
    let path = layout.staging(ROLLBACK_INTENT);
    let Some(bytes) = read_if_exists(&path)? else { return Ok(resumed) };
    // Steps that were taken may not be durable yet, and the intent is removed at the end.
    layout.sync_inherited()?;
    let intent: RollbackIntent = match serde_json::from_slice::<RollbackIntent>(&bytes) {
        Ok(intent) if intent.schema == INTENT_SCHEMA => intent,
        _ => {
            resumed.abandoned =
                Some(format!("{} is not in a known form; left alone", layout.relative(&path)));
            return Ok(resumed);
        }
    };
    let staged = layout.staging(ROLLBACK_STAGE);
    let source = if intent.retains(&staged)? { staged } else { layout.index_file_path() };
    if !intent.retains(&source)? {
        let renamed = layout::set_aside(&path)?;
        disk::sync_dir(disk::parent_of(&path))?;
        let saved_as = layout.relative(&renamed.saved_as);
        resumed.abandoned = Some(format!("it fits no index that is there; renamed to {saved_as}"));
        return Ok(resumed);
    }
    let mut rows = IndexRows::default();
    index::read(&source, 0, &mut rows)?;
    let kept = SessionView { layout: layout.clone(), snapshot: Snapshot::new(rows), limit_bytes };
    complete(&kept, &intent, &mut resumed.recovery)?;
    resumed.completed = Some(intent.checkpoint.checkpoint_seq);
    Ok(resumed)
}

/// Takes the steps after the intent. `kept` is the store with the rows that are kept.
fn complete(
    kept: &SessionView,
    intent: &RollbackIntent,
    done: &mut Recovery,
) -> Result<MigrationEvent, SessionError> {
    let layout = &kept.layout;
    let staged = layout.staging(ROLLBACK_STAGE);
    if disk::if_there(disk::metadata(&staged))?.is_some() {
        disk::rename(&staged, &layout.index_file_path())?;
        disk::sync_dir(disk::parent_of(&layout.index_file_path()))?;
    }
    let rows = &kept.snapshot.rows;
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for row in 0..rows.len() {
        let numbers = rows.numbers(row);
        let end = ends.entry(numbers.segment_seq).or_default();
        *end = (*end).max(numbers.end().unwrap_or_default());
    }
    let files = layout.segment_files()?;
    for segment_seq in files.len_bytes.keys().rev().filter(|segment_seq| !ends.contains_key(segment_seq)) {
        done.set_aside.push(layout::set_aside(&layout.segment_file_path(*segment_seq))?);
    }
    done.set_aside.reverse();
    disk::sync_dir(&layout.segments_dir())?;
    for (segment_seq, end) in ends {
        let len_bytes = files.len_bytes.get(&segment_seq).copied().unwrap_or_default();
        if len_bytes > end {
            let reason = format!("after checkpoint {}", intent.checkpoint.checkpoint_seq);
            done.truncated.push(layout.cut(
                &layout.segment_file_path(segment_seq),
                end..len_bytes,
                reason,
            )?);
        }
    }
    set_aside_later_checkpoints(layout, &intent.checkpoint, done)?;
    if let Some(origin) = &intent.manifest {
        kept.write_manifest_of(origin.clone())?;
    }
    let event = log_once(layout, intent)?;
    disk::remove_file(&layout.staging(ROLLBACK_INTENT))?;
    disk::sync_dir(disk::parent_of(&layout.staging(ROLLBACK_INTENT)))?;
    disk::remove_file_if_exists(&layout.staging(ROLLBACK_EVENT))?;
    Ok(event)
}

fn set_aside_later_checkpoints(
    layout: &SessionLayout,
    kept: &Checkpoint,
    done: &mut Recovery,
) -> Result<(), SessionError> {
    for checkpoint_seq in layout.checkpoint_seqs()? {
        let stays = match layout.read_checkpoint(checkpoint_seq) {
            Ok(Some(other)) => other.head_entry_seq <= kept.head_entry_seq,
            // The head of an unreadable checkpoint is unknown, so its number decides.
            _ => checkpoint_seq <= kept.checkpoint_seq,
        };
        if !stays {
            done.set_aside.push(layout::set_aside(&layout.checkpoint(checkpoint_seq))?);
        }
    }
    disk::sync_dir(&layout.checkpoints_dir())?;
    Ok(())
}

/// Logs the prepared event, unless the last event of the ledger is this event, because the crash came after it was logged.
fn log_once(layout: &SessionLayout, intent: &RollbackIntent) -> Result<MigrationEvent, SessionError> {
    let ledger = layout.read_ledger()?;
    if let Some(place) = &ledger.torn {
        // The torn line is this event, because no other event is logged while there is an intent.
        let end = disk::metadata(&place.path)?.len_bytes;
        layout.cut(&place.path, place.offset..end, String::new())?;
    }
    let prepared = read_if_exists(&layout.staging(ROLLBACK_EVENT))?
        .and_then(|bytes| serde_json::from_slice::<MigrationEvent>(&bytes).ok())
        .filter(|event| {
            event.migration_id == intent.migration_id && event.correlation_id == intent.correlation_id
        });
    match (prepared, ledger.events.last()) {
        (Some(prepared), Some(last)) if prepared == *last => Ok(prepared),
        (Some(prepared), _) => layout.append_migration_event(prepared),
        // Another program recorded the intent.
        (None, _) => layout.append_migration_event(completed_event(layout, intent)),
    }
}

fn completed_event(layout: &SessionLayout, intent: &RollbackIntent) -> MigrationEvent {
    let ids = (intent.migration_id.as_str(), intent.correlation_id.as_str());
    event(layout, ids, &intent.checkpoint.snapshot_ref, VERIFIED, "ok", None)
}

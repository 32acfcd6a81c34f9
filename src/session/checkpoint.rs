//! Checkpoints: the last entry of a store at a time, and the hash chain up to it.
//!
//! Touches: creates files in `checkpoints/`.
//!
//! Guarantees: the data that a checkpoint certifies is on stable storage; a checkpoint is never overwritten; of two checkpoints
//! the one with the higher number has the same or a later head.

use std::path::Path;

use super::error::{LinePlace, SessionError};
use super::format::{CHECKPOINT_SCHEMA, Checkpoint};
use super::layout::{SessionLayout, read_if_exists};
use super::time;
use super::view::SessionView;
use super::writer::SessionStoreV2;
use crate::disk;

/// The longest reason of a checkpoint: 64 KiB.
pub const MAX_REASON_BYTES: usize = 64 * 1024;

/// What to do about an invalid checkpoint.
const RESTORE: &str = "restore it from a copy, or move it away to do without it; entries do not depend on it";

impl SessionLayout {
    /// Reads a checkpoint and compares its number with its name; `None` when there is no such file.
    pub(super) fn read_checkpoint(&self, checkpoint_seq: u64) -> Result<Option<Checkpoint>, SessionError> {
        let path = self.checkpoint(checkpoint_seq);
        let Some(bytes) = read_if_exists(&path)? else { return Ok(None) };
        let checkpoint: Checkpoint =
            serde_json::from_slice(&bytes).map_err(|error| SessionError::of_document(&path, &error))?;
        if checkpoint.schema != CHECKPOINT_SCHEMA {
            let place = LinePlace::of_document(&path);
            return Err(SessionError::UnsupportedSchema { place, found: checkpoint.schema });
        }
        if checkpoint.checkpoint_seq != checkpoint_seq {
            let reason = format!("it says it is checkpoint {}; {RESTORE}", checkpoint.checkpoint_seq);
            return Err(SessionError::CheckpointInvalid { path, reason });
        }
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if checkpoint.chain_hash.len() != 64 || !checkpoint.chain_hash.bytes().all(is_hex) {
            let reason = format!("its chainHash is not 64 lower-case hex digits; {RESTORE}");
            return Err(SessionError::CheckpointInvalid { path, reason });
        }
        Ok(Some(checkpoint))
    }

    /// Whether all checkpoints are readable, and their heads do not fall while their numbers rise.
    pub(super) fn checkpoints_monotonic(&self) -> Result<bool, SessionError> {
        let mut floor = 0;
        for checkpoint_seq in self.checkpoint_seqs()? {
            match self.read_checkpoint(checkpoint_seq) {
                Ok(Some(checkpoint)) if checkpoint.head_entry_seq >= floor => {
                    floor = checkpoint.head_entry_seq
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl SessionView {
    /// Returns the numbers of all checkpoints, ascending.
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn checkpoints(&self) -> Result<Vec<u64>, SessionError> {
        self.layout.checkpoint_seqs()
    }

    /// Reads a checkpoint; `None` when there is no such file.
    ///
    /// # Errors
    /// [`SessionError::Json`], [`SessionError::UnsupportedSchema`], [`SessionError::CheckpointInvalid`] when the number differs from the name
    /// or the hash is not a hash, and failures of the file system.
    pub fn read_checkpoint(&self, checkpoint_seq: u64) -> Result<Option<Checkpoint>, SessionError> {
        self.layout.read_checkpoint(checkpoint_seq)
    }
}

impl SessionStoreV2 {
    /// Certifies the last entry as checkpoint `checkpoint_seq`.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for number 0, an empty store or a reason beyond [`MAX_REASON_BYTES`];
    /// [`SessionError::CheckpointInvalid`] when the number is taken or heads would fall; as [`SessionStoreV2::sync`].
    pub fn create_checkpoint(
        &mut self,
        checkpoint_seq: u64,
        reason: &str,
    ) -> Result<Checkpoint, SessionError> {
        self.sync()?;
        let invalid = |reason: &str| SessionError::InvalidArgument { reason: reason.to_owned() };
        if checkpoint_seq == 0 {
            return Err(invalid("checkpoint numbers start at 1"));
        }
        if reason.len() > MAX_REASON_BYTES {
            return Err(invalid("the reason of a checkpoint has at most 65536 bytes"));
        }
        let Some(head) = self.head() else {
            return Err(invalid("an empty store has no head to certify; append an entry first"));
        };
        let path = self.layout.checkpoint(checkpoint_seq);
        self.check_free(&path, checkpoint_seq, head.entry_seq)?;
        let checkpoint = Checkpoint {
            schema: CHECKPOINT_SCHEMA.to_owned(),
            checkpoint_seq,
            at: time::now(),
            head_entry_seq: head.entry_seq,
            head_entry_id: head.entry_id,
            snapshot_ref: self.layout.relative(&path),
            compacted_before_entry_seq: 0,
            chain_hash: self.chain_hash()?,
            reason: reason.to_owned(),
        };
        let text = serde_json::to_vec_pretty(&checkpoint)
            .map_err(|error| SessionError::of_document(&path, &error))?;
        let stage = format!("{checkpoint_seq:016}.json.tmp");
        self.layout.replace(&stage, &path, |file| Ok(file.write_all(&text)?))?;
        Ok(checkpoint)
    }

    fn check_free(&self, path: &Path, checkpoint_seq: u64, head_entry_seq: u64) -> Result<(), SessionError> {
        let taken = |reason| Err(SessionError::CheckpointInvalid { path: path.to_owned(), reason });
        if disk::if_there(disk::metadata(path))?.is_some() {
            return taken(
                "it exists, and checkpoints are never overwritten; choose another number".to_owned(),
            );
        }
        for other in self.layout.checkpoint_seqs()? {
            let Some(checkpoint) = self.layout.read_checkpoint(other)? else { continue };
            let falls = if other < checkpoint_seq {
                checkpoint.head_entry_seq > head_entry_seq
            } else {
                checkpoint.head_entry_seq < head_entry_seq
            };
            if falls {
                return taken(format!(
                    "its head would be entry {head_entry_seq}, checkpoint {other} has entry {}, and heads do not fall; choose a higher number, or move \
                     that checkpoint away",
                    checkpoint.head_entry_seq
                ));
            }
        }
        Ok(())
    }
}

//! How a store is opened.

use super::error::SessionError;
use super::format::MAX_LINE_BYTES;
use crate::store::Durability;

/// The segment size of [`SessionOptions::default`]: 64 MiB.
pub const DEFAULT_MAX_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// Most bytes of a segment. A frame that would make the segment longer begins the next segment; a longer frame gets a
    /// segment of its own. Not 0.
    pub max_segment_bytes: u64,
    /// What an opening writer verifies.
    pub verify: Verify,
    /// Whether an opening writer may drop entries that the index has.
    pub loss: Loss,
    /// When appended entries become durable. An entry that is not durable yet is in its segment but not in the index, so other
    /// handles do not see it. If the process dies, nothing is lost, because the next opening writer finds the entry; a power cut
    /// may lose it. A session store has no thread: it looks at the delay of [`Durability::Batched`] when an entry is appended.
    /// Dropping the handle tries a last sync.
    pub durability: Durability,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            max_segment_bytes: DEFAULT_MAX_SEGMENT_BYTES,
            verify: Verify::default(),
            loss: Loss::default(),
            durability: Durability::default(),
        }
    }
}

impl SessionOptions {
    /// Returns the longest frame that is read: [`MAX_LINE_BYTES`], or a whole segment when segments are longer.
    pub(super) fn frame_limit_bytes(&self) -> Result<u64, SessionError> {
        if self.max_segment_bytes == 0 {
            return Err(SessionError::InvalidArgument {
                reason: "max_segment_bytes is 0; a segment needs room".to_owned(),
            });
        }
        Ok(self.max_segment_bytes.max(MAX_LINE_BYTES))
    }
}

/// What an opening writer verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Every frame (bytes, numbers, payload hash), ids and parents. Costs one pass over the segments.
    #[default]
    Full,
    /// Index rows against each other and against the lengths of the segments, the last frame, and the frames that are in no row. Other
    /// frames are verified when they are read.
    Rows,
}

/// What an opening writer does when recovery would drop entries of the index or, when the index cannot be read, sound frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loss {
    /// Refuses with [`SessionError::EntriesWouldBeLost`] and changes nothing.
    #[default]
    Refuse,
    /// Drops them, lists them in `SessionRecoveryReport::lost_entries` and keeps the bytes that it cuts beside the segments. The same
    /// happens to bytes after the last entry of a segment that are not an entry of the store.
    Accept,
}

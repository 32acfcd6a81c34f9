//! What a build says when it is done. Touches nothing; the counts are of what is in the archive, or was rejected, by this build.

use std::path::PathBuf;
use std::time::Duration;

use crate::archive::cursor::Restart;

/// What a build did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildResult {
    /// How far the cursor moved, in bytes.
    pub scanned_bytes: u64,
    /// Turn lines.
    pub turns_applied: u64,
    /// Different session ids among turns and session stamps of this build, and archived turns that its stamps refold.
    pub sessions_touched: u64,
    /// Stamp lines.
    pub stamps_applied: u64,
    /// Compaction lines.
    pub compactions_applied: u64,
    /// Tool result event lines.
    pub tool_result_events_applied: u64,
    /// Whether a full rebuild was asked for.
    pub rebuilt_from_zero: bool,
    /// Lines that are not JSON.
    pub malformed_lines: u64,
    /// Lines of a known kind that cannot be stored.
    pub rejected_lines: u64,
    /// Lines of a version or kind of no interest.
    pub unknown_lines: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Why a tail build went back to byte 0.
    pub restarted: Option<Restart>,
    /// Where the archive as it was is kept, when the ledger no longer has what it took in; or what the file that stood in the
    /// archive's place, and was no database, is called now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<PathBuf>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside_reason: Option<String>,
    /// Lines that the exact path had to read.
    pub exact_lines: u64,
    /// Where the time went.
    #[serde(rename = "timingsMs")]
    pub timings: Timings,
}

/// Where the time of a build went. As JSON each is a number of milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Timings {
    /// Finding the stamps and preparing them for folding.
    #[serde(serialize_with = "as_milliseconds")]
    pub survey: Duration,
    /// Parsing and inserting, side by side.
    #[serde(serialize_with = "as_milliseconds")]
    pub rows: Duration,
    /// Creating indexes.
    #[serde(serialize_with = "as_milliseconds")]
    pub indexes: Duration,
    /// Aggregating sessions; in a tail build refolding, too.
    #[serde(serialize_with = "as_milliseconds")]
    pub sessions: Duration,
    /// Committing.
    #[serde(serialize_with = "as_milliseconds")]
    pub commit: Duration,
    /// Checking the new archive.
    #[serde(serialize_with = "as_milliseconds")]
    pub verify: Duration,
    /// Waiting for the disk to hold the new archive.
    #[serde(serialize_with = "as_milliseconds")]
    pub sync: Duration,
    /// Putting it in place.
    #[serde(serialize_with = "as_milliseconds")]
    pub publish: Duration,
}

fn as_milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

//! The result of a build. Touches nothing. The counts are of lines that this build archived or rejected.

use std::path::PathBuf;
use std::time::Duration;

use crate::archive::cursor::Restart;

/// The result of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildResult {
    /// Number of bytes that the cursor moved.
    pub scanned_bytes: u64,
    /// Number of turn lines.
    pub turns_applied: u64,
    /// Number of distinct session ids of the turns and session stamps of this build, and of archived turns that its
    /// stamps refold.
    pub sessions_touched: u64,
    /// Number of stamp lines.
    pub stamps_applied: u64,
    /// Number of compaction lines.
    pub compactions_applied: u64,
    /// Number of tool result event lines.
    pub tool_result_events_applied: u64,
    /// Whether a full rebuild was asked for.
    pub rebuilt_from_zero: bool,
    /// Number of lines that are not JSON.
    pub malformed_lines: u64,
    /// Number of lines of a known kind that cannot be stored.
    pub rejected_lines: u64,
    /// Number of lines of a version or kind that is not archived.
    pub unknown_lines: u64,
    /// Duration of the build, in milliseconds.
    pub duration_ms: u64,
    /// Why a tail build restarted from byte 0.
    pub restarted: Option<Restart>,
    /// Path of the copy of the old archive, when the ledger lost lines that the archive has; or the new path of a
    /// file in the archive's place that was not a database.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "crate::disk::lossy::maybe")]
    pub set_aside: Option<PathBuf>,
    /// Why a file was set aside, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside_reason: Option<String>,
    /// Number of lines that the exact path had to read.
    pub exact_lines: u64,
    /// Time of each step.
    #[serde(rename = "timingsMs")]
    pub timings: Timings,
}

/// Time of each step of a build. In JSON, each is a number of milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Timings {
    /// Finding the stamps and preparing them for folding.
    #[serde(serialize_with = "as_milliseconds")]
    pub survey: Duration,
    /// Parsing and inserting, in parallel.
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
    /// Waiting until the new archive is on disk.
    #[serde(serialize_with = "as_milliseconds")]
    pub sync: Duration,
    /// Replacing the old archive.
    #[serde(serialize_with = "as_milliseconds")]
    pub publish: Duration,
}

fn as_milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

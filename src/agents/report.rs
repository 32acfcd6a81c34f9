//! The options and the report of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::pass::{Agent, Reason};
use super::walk::Unreadable;
use crate::record::RecordKind;

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The agents whose logs are read.
    pub agents: Vec<Agent>,
    /// Roots that replace the default roots of an agent.
    pub roots: Vec<(Agent, PathBuf)>,
    /// Make the records of the TypeScript package, defects included.
    pub as_reference: bool,
    /// Read and count without writing anything.
    pub check: bool,
    /// Name each line that made no record: see [`IngestObserver::left_out`].
    pub name_lines: bool,
    /// Number of reading threads; 0 for one per core.
    pub threads: usize,
}

impl Default for IngestOptions {
    fn default() -> Self {
        IngestOptions {
            agents: Agent::ALL.to_vec(),
            roots: Vec::new(),
            as_reference: false,
            check: false,
            name_lines: false,
            threads: 0,
        }
    }
}

/// The number of records of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RecordCounts {
    /// Turns.
    pub turns: u64,
    /// Content records.
    pub content: u64,
    /// Compactions.
    pub compactions: u64,
    /// Relationships.
    pub relationships: u64,
    /// Tool result events.
    pub tool_result_events: u64,
    /// User turns.
    pub user_turns: u64,
}

impl RecordCounts {
    pub(super) fn of(&mut self, kind: RecordKind) -> &mut u64 {
        match kind {
            RecordKind::Turn => &mut self.turns,
            RecordKind::Compaction => &mut self.compactions,
            RecordKind::Relationship => &mut self.relationships,
            RecordKind::ToolResultEvent => &mut self.tool_result_events,
            RecordKind::UserTurn => &mut self.user_turns,
        }
    }

    /// Returns the sum of all kinds.
    pub fn total(&self) -> u64 {
        self.turns
            + self.content
            + self.compactions
            + self.relationships
            + self.tool_result_events
            + self.user_turns
    }
}

/// A log that could not be read, and why. The next run tries again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SkippedFile {
    /// The log.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub path: PathBuf,
    /// Why, in words.
    pub error: String,
}

/// A line that made no record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedLine {
    /// Its log.
    pub path: PathBuf,
    /// Byte offset of the line.
    pub offset: u64,
    /// Length of the line in bytes; of a message of several lines, the first. Offset and length are 0 for a row of a database
    /// and a message of OpenCode, which [`NamedLine::detail`] names.
    pub len_bytes: u64,
    /// Why.
    pub reason: Reason,
    /// Details for people.
    pub detail: String,
}

/// What a run did for one agent.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AgentReport {
    /// The agent.
    pub agent: &'static str,
    /// The roots that were searched.
    #[serde(serialize_with = "crate::disk::lossy::many")]
    pub roots: Vec<PathBuf>,
    /// Logs that were found.
    pub found_files: u64,
    /// Logs with bytes that were read.
    pub read_files: u64,
    /// Logs without anything new.
    pub unchanged_files: u64,
    /// Logs that could not be read.
    pub skipped_files: u64,
    /// Logs that gave turns.
    pub sessions: u64,
    /// Turns that reading gave.
    pub read_turns: u64,
    /// Records that were written.
    pub appended: RecordCounts,
    /// Records that were in the ledger already.
    pub duplicates: u64,
    /// Lines that were read.
    pub lines: u64,
    /// Lines that made no record, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Messages that are not complete yet.
    pub open_messages: u64,
    /// The cost that the agent itself reports for the sessions in its logs, in dollars. Only OpenCode reports costs.
    /// `burn usage` does not use this cost; it is 0 for sessions under a subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_usd: Option<f64>,
}

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IngestReport {
    /// Logs that were found.
    pub scanned_sessions: u64,
    /// Logs that gave at least one turn.
    pub ingested_sessions: u64,
    /// Turns that were read, including turns that the ledger had already.
    pub appended_turns: u64,
    /// Records that were written.
    pub appended: RecordCounts,
    /// Records that were in the ledger already.
    pub duplicates: u64,
    /// Lines that are not JSON.
    pub malformed_lines: u64,
    /// Logs that were not read.
    pub skipped_files: Vec<SkippedFile>,
    /// Roots and folders that could not be read.
    pub unreadable: Vec<Unreadable>,
    /// Messages that are not complete yet.
    pub open_messages: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Lines that made no record, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// The results of each agent.
    pub agents: Vec<AgentReport>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// The roots among the unreadable folders.
    #[serde(skip)]
    pub unreadable_roots: Vec<PathBuf>,
}

/// The result of a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookReport {
    /// Turns that were read from the log.
    pub read_turns: u64,
    /// Why the hook could not finish, in words. [`keep_hook`](super::keep_hook) keeps its call for the next run.
    pub failures: Vec<String>,
}

/// Follows a run.
pub trait IngestObserver {
    /// Receives a note for people about something that was skipped.
    fn note(&mut self, text: &str);
    /// Receives the progress of the run with the logs of an agent.
    fn progress(&mut self, progress: IngestProgress);
    /// Receives lines that made no record, if [`IngestOptions::name_lines`] is set, before the cursor of their log moves.
    ///
    /// # Errors
    /// An error ends the run before the cursor moves, so that the next run names the lines.
    fn left_out(&mut self, lines: &[NamedLine]) -> std::io::Result<()> {
        let _ = lines;
        Ok(())
    }
}

/// The progress of a run with the logs of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestProgress {
    /// The agent.
    pub agent: Agent,
    /// Finished logs.
    pub done_logs: u64,
    /// Logs to read. Logs of Claude Code that are as their cursors say are none.
    pub logs: u64,
    /// New bytes that were read.
    pub done_bytes: u64,
    /// All new bytes of the logs, from their sizes and cursors.
    pub bytes: u64,
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl IngestObserver for NoObserver {
    fn note(&mut self, _text: &str) {}
    fn progress(&mut self, _progress: IngestProgress) {}
}

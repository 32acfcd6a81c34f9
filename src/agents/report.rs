//! What a run is asked for and what it reports: options, counts, and notes on the way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::pass::{Agent, Reason};
use super::walk::Unreadable;
use crate::record::RecordKind;

/// What to take in, and how.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The agents whose logs are read.
    pub agents: Vec<Agent>,
    /// Roots in place of those where an agent keeps its logs.
    pub roots: Vec<(Agent, PathBuf)>,
    /// Records as the TypeScript package makes them, defects included.
    pub as_reference: bool,
    /// Read and count, but write nothing.
    pub check: bool,
    /// Name each line that made no record.
    pub name_lines: bool,
    /// How many threads read; 0 for one per core.
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

/// How many records of each kind.
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

    /// All of them.
    pub fn total(&self) -> u64 {
        self.turns
            + self.content
            + self.compactions
            + self.relationships
            + self.tool_result_events
            + self.user_turns
    }
}

/// A log that was not read, and why. The next run tries again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SkippedFile {
    /// The log.
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
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes; 0 for a message of several lines.
    pub len_bytes: u64,
    /// Why.
    pub reason: Reason,
    /// More about it, in words.
    pub detail: String,
}

/// What a run did for one agent.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AgentReport {
    /// The agent.
    pub agent: &'static str,
    /// The roots that were looked at.
    pub roots: Vec<PathBuf>,
    /// Logs that were found.
    pub found_files: u64,
    /// Logs of which something was read.
    pub read_files: u64,
    /// Logs in which nothing was new.
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
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IngestReport {
    /// Logs that were found.
    pub scanned_sessions: u64,
    /// Logs that gave at least one turn.
    pub ingested_sessions: u64,
    /// Turns that reading gave, also those that the ledger had already.
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
    /// Agent by agent.
    pub agents: Vec<AgentReport>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The roots among what is unreadable.
    #[serde(skip)]
    pub unreadable_roots: Vec<PathBuf>,
    /// Lines that made no record, when they were to be named.
    #[serde(skip)]
    pub lines: Vec<NamedLine>,
}

/// What a hook led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookReport {
    /// Turns that reading the log gave.
    pub read_turns: u64,
    /// What could not be taken in, and why, in words. The next run may succeed: [`keep_hook`](super::keep_hook).
    pub failures: Vec<String>,
}

/// Follows a run.
pub trait IngestObserver {
    /// A note for people, about something that was passed over.
    fn note(&mut self, text: &str);
    /// So many of so many logs are done.
    fn progress(&mut self, agent: Agent, done: u64, of: u64);
}

/// An observer that does not look.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl IngestObserver for NoObserver {
    fn note(&mut self, _text: &str) {}
    fn progress(&mut self, _agent: Agent, _done: u64, _of: u64) {}
}

//! The interface of a reader of logs: its input, its records, and lines without a record.

use std::any::Any;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::AgentsError;
use super::js::{self, RecordText};
use super::known::RecordNotes;
use super::ledger_turns::{LedgerTurns, NotedLedger};
use super::project::ProjectKeys;
use crate::disk;
use crate::home::Home;
use crate::record::Id;
use crate::scan::json::Value;

/// An agent whose logs are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Agent {
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
    /// OpenCode.
    OpenCode,
    /// Gemini CLI.
    Gemini,
}

impl Agent {
    /// All agents, in the order in which a run reads them.
    pub const ALL: [Agent; 4] = [Agent::Claude, Agent::Codex, Agent::OpenCode, Agent::Gemini];

    /// Returns the agent's name in options and cursors.
    pub fn as_str(self) -> &'static str {
        match self {
            Agent::Claude => "claude",
            Agent::Codex => "codex",
            Agent::OpenCode => "opencode",
            Agent::Gemini => "gemini",
        }
    }

    /// Returns the agent with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|agent| agent.as_str() == name)
    }
}

/// How much content is kept in the content sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentMode {
    /// All of it.
    #[default]
    Full,
    /// No content; records keep hashes and lengths.
    HashOnly,
    /// Nothing.
    Off,
}

impl ContentMode {
    /// Returns the mode's name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            ContentMode::Full => "full",
            ContentMode::HashOnly => "hash-only",
            ContentMode::Off => "off",
        }
    }
}

/// The options for all reading of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadOptions {
    /// Whether to make the records of the TypeScript package, its defects included.
    pub as_reference: bool,
    pub content: ContentMode,
    /// The time of the run, in milliseconds since 1970.
    pub now_ms: f64,
    /// Whether to name each line that made no record, in addition to counting it.
    pub name_lines: bool,
    /// When to stop reading a log of Claude Code before its end; none reads to the end.
    pub part_until: Option<Instant>,
}

impl ReadOptions {
    /// Returns whether a log that was last written at `mtime_ms`, or was seen to change at `changed_ms`, is at rest, so that
    /// reading waits for nothing. A modification time later than the run says nothing, so that such a log is at rest when it was
    /// seen unchanged for so long.
    pub(super) fn has_settled(&self, mtime_ms: f64, changed_ms: Option<f64>) -> bool {
        self.is_older(AT_REST_MS, mtime_ms, changed_ms)
    }

    /// Returns whether so much time has passed that whoever wrote the log has surely ended.
    pub(super) fn has_ended(&self, mtime_ms: f64, changed_ms: Option<f64>) -> bool {
        self.is_older(ENDED_MS, mtime_ms, changed_ms)
    }

    fn is_older(&self, age_ms: f64, mtime_ms: f64, changed_ms: Option<f64>) -> bool {
        let is_past = |at_ms: f64| self.now_ms - at_ms >= age_ms;
        (is_past(mtime_ms) || changed_ms.is_some() && self.is_later(mtime_ms))
            && changed_ms.is_none_or(is_past)
    }

    fn is_later(&self, mtime_ms: f64) -> bool {
        mtime_ms > self.now_ms
    }

    /// When a log was first seen in its present state: the time that an earlier reading has noted, else now if the log's
    /// modification time is later than now.
    pub(super) fn seen_ms(&self, mtime_ms: f64, noted_ms: Option<f64>) -> Option<f64> {
        noted_ms.or_else(|| self.is_later(mtime_ms).then_some(self.now_ms))
    }
}

/// A log that was not written for so long is at rest.
const AT_REST_MS: f64 = 10.0 * 60.0 * 1000.0;

/// Nothing that runs in an agent takes so long.
const ENDED_MS: f64 = 24.0 * 3600.0 * 1000.0;

/// A log's metadata from the file system.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Stat {
    /// As JavaScript has it. Notes and cursors have the same number, even if no double is the inode's number exactly.
    pub inode: f64,
    /// Modification time as JavaScript computes it: seconds times 1000 plus nanoseconds divided by 1,000,000, in
    /// doubles.
    pub mtime_ms: f64,
    pub size_bytes: u64,
}

impl Stat {
    /// Reads the metadata of the file at `path`. Follows links.
    pub(super) fn of(path: &Path) -> Result<Self, AgentsError> {
        let found = disk::metadata_of_target(path)?;
        let since = match found.modified.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => after.as_secs() as f64 * 1000.0 + f64::from(after.subsec_nanos()) / 1e6,
            Err(before) => {
                // Nanoseconds count upwards, even before 1970.
                let before = before.duration();
                let (seconds, nanos) = (before.as_secs() as f64, before.subsec_nanos());
                match nanos {
                    0 => -seconds * 1000.0,
                    nanos => (-seconds - 1.0) * 1000.0 + f64::from(1_000_000_000 - nanos) / 1e6,
                }
            }
        };
        Ok(Stat { inode: found.identity.numbers().1 as f64, mtime_ms: since, size_bytes: found.len_bytes })
    }

    /// Appends the metadata to a note.
    pub(super) fn write(&self, note: &mut RecordText) {
        note.number("inode", self.inode);
        note.number("mtimeMs", self.mtime_ms);
        note.number("sizeBytes", self.size_bytes as f64);
    }

    /// Reads what [`Stat::write`] wrote.
    pub(super) fn of_note(note: Value<'_>) -> Option<Self> {
        Some(Stat {
            inode: js::number(note, "inode")?,
            mtime_ms: js::number(note, "mtimeMs")?,
            size_bytes: js::number(note, "sizeBytes")? as u64,
        })
    }
}

/// A log that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub agent: Agent,
    pub path: PathBuf,
    /// Another path that the reader needs: OpenCode's folder of messages, the folder of Gemini's project.
    pub extra: Option<PathBuf>,
}

/// Folders and variables that determine the roots.
pub(super) struct RootsOf<'r> {
    /// The user's folder.
    pub user: &'r Path,
    pub as_reference: bool,
    /// The value of an environment variable; never an empty one.
    pub variable: &'r dyn Fn(&str) -> Option<PathBuf>,
}

/// Facts about all logs of an agent, which its reader collects before it reads the first log.
#[derive(Default)]
pub(super) struct Prepared {
    /// The turns of the ledger that the notes may lack.
    pub written: LedgerTurns,
    /// Further facts, of a type that the reader knows.
    pub facts: Option<Box<dyn Any + Send + Sync>>,
}

/// The part that all passes of a run share.
pub(super) struct Common<'c> {
    pub options: &'c ReadOptions,
    pub home: &'c Home,
    /// How much of the ledger the notes know.
    pub noted: NotedLedger,
    /// The last value of [`Gathered::side`] for this log.
    pub side: &'c (dyn Fn(&Path) -> Option<Vec<u8>> + Sync),
}

/// A pass: one reading of one log, from its cursor to its end.
pub(super) struct Pass<'p> {
    pub candidate: &'p Candidate,
    /// Read before the log is opened.
    pub stat: Stat,
    pub cursor: Option<&'p [u8]>,
    /// Derived: may be missing or belong to another state of the log.
    pub side: Option<&'p [u8]>,
    pub options: &'p ReadOptions,
    pub projects: &'p ProjectKeys,
    pub prepared: Option<&'p Prepared>,
    /// The folder in which a reader may keep its state at the cursor. The state is derived.
    pub state_dir: Option<&'p Path>,
}

impl Pass<'_> {
    /// When the log was first seen in its present state, if an earlier reading knows. `before` has the metadata of that
    /// reading.
    pub(super) fn changed_ms(&self, before: Option<(Stat, Option<f64>)>) -> Option<f64> {
        let noted_ms = match before {
            Some((stat, changed_ms)) if stat == self.stat => changed_ms,
            Some(_) => Some(self.options.now_ms),
            None => None,
        };
        self.options.seen_ms(self.stat.mtime_ms, noted_ms)
    }
}

/// A record to append, as JSON text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PassRecord {
    /// Its place in [`Gathered::texts`].
    pub text: Range<usize>,
    /// The notes on a record with all members of its kind, if its reader has made them: the record is not parsed again.
    pub notes: Option<RecordNotes>,
    /// The turn of the pass without which the record is not written.
    pub owner: Option<u32>,
    /// The stamp to append before a turn if the turn is new.
    pub stamp: Option<Vec<u8>>,
    /// The stamp of the session's branch, if the turn is the first on the branch. If the turn repeats another session,
    /// the stamp goes before the next turn of the log.
    pub branch: Option<Vec<u8>>,
    /// The id under which the TypeScript package may have written the same user turn.
    pub other_id: Option<Id>,
    /// Offset and length in bytes of the line that made the record, by which the report names a line of which no record is
    /// written. None for content, and if the reader names such lines itself.
    pub line: Option<(u64, u64)>,
    /// The table and the row number of a record from a database of burn, by which the report names a record that is
    /// not written.
    pub row: Option<(&'static str, i64)>,
}

impl PassRecord {
    /// The record at this place of the texts.
    pub(super) fn at(text: Range<usize>) -> Self {
        PassRecord {
            text,
            notes: None,
            owner: None,
            stamp: None,
            branch: None,
            other_id: None,
            line: None,
            row: None,
        }
    }
}

/// Why a line made no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// It repeats a record of the ledger.
    Duplicate,
    /// It repeats a message of another session, as a resumed session does.
    Replay,
    /// The message has no usage.
    NoUsage,
    /// A value of its usage is no count of tokens. It counts as 0, and its turn as invalid.
    InvalidCount,
    /// It is not JSON.
    Malformed,
    /// It is JSON, but no object, or does not have the form of its type.
    NotARecord,
    /// Its type has nothing for the ledger.
    UnknownType,
    /// Its message is not complete yet. The next run reads it again.
    OpenMessage,
    /// It has no line feed yet. The next run reads it again.
    Torn,
    /// It is longer than 256 MiB.
    TooLong,
    /// The ledger refuses its record.
    Refused,
    /// It has nothing to keep, such as a user line without text.
    NothingToKeep,
}

impl Reason {
    /// All reasons, in the order of reports.
    pub const ALL: [Reason; 12] = [
        Reason::Duplicate,
        Reason::Replay,
        Reason::NoUsage,
        Reason::InvalidCount,
        Reason::Malformed,
        Reason::NotARecord,
        Reason::UnknownType,
        Reason::OpenMessage,
        Reason::Torn,
        Reason::TooLong,
        Reason::Refused,
        Reason::NothingToKeep,
    ];

    /// Returns the reason's name in JSON documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Duplicate => "duplicate",
            Reason::Replay => "replay",
            Reason::NoUsage => "noUsage",
            Reason::InvalidCount => "invalidCount",
            Reason::Malformed => "malformed",
            Reason::NotARecord => "notARecord",
            Reason::UnknownType => "unknownType",
            Reason::OpenMessage => "openMessage",
            Reason::Torn => "torn",
            Reason::TooLong => "tooLong",
            Reason::Refused => "refused",
            Reason::NothingToKeep => "nothingToKeep",
        }
    }
}

/// A line that made no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOutLine {
    pub offset: u64,
    pub len_bytes: u64,
    pub reason: Reason,
    pub detail: String,
}

/// The lines of a pass that made no record.
#[derive(Debug, Clone, Default)]
pub(super) struct LeftOut {
    pub counts: std::collections::BTreeMap<Reason, u64>,
    /// Each of the lines, if they are named.
    pub lines: Vec<LeftOutLine>,
}

impl LeftOut {
    /// Adds a line that is named already.
    pub(super) fn push(&mut self, options: &ReadOptions, line: LeftOutLine) {
        *self.counts.entry(line.reason).or_default() += 1;
        if options.name_lines {
            self.lines.push(line);
        }
    }

    /// Counts a line, and names it if lines are named.
    pub(super) fn add(
        &mut self,
        options: &ReadOptions,
        (offset, len_bytes): (u64, u64),
        reason: Reason,
        detail: impl FnOnce() -> String,
    ) {
        *self.counts.entry(reason).or_default() += 1;
        if options.name_lines {
            self.lines.push(LeftOutLine { offset, len_bytes, reason, detail: detail() });
        }
    }
}

/// The records and counts of a pass.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// The texts of the records, one after the other, because memory for each record takes time.
    pub texts: Vec<u8>,
    pub turns: Vec<PassRecord>,
    pub content: Vec<PassRecord>,
    pub compactions: Vec<PassRecord>,
    pub relationships: Vec<PassRecord>,
    pub tool_result_events: Vec<PassRecord>,
    pub user_turns: Vec<PassRecord>,
    /// Stamps without a record in the log. Their texts are complete lines.
    pub stamps: Vec<PassRecord>,
    /// The new cursor as compact JSON text, with its keys in order. None keeps the old cursor.
    pub cursor: Option<Vec<u8>>,
    /// The stamp of the branch that an earlier pass kept for the next turn of the log, as its note has it.
    pub carried: Option<Vec<u8>>,
    /// A note that the reader gets again at the next pass. It is kept in the side file.
    pub side: Option<Vec<u8>>,
    /// The file with the reader's state at the new cursor, and its bytes. The file is written after the records, because
    /// a state that is ahead of the cursor is of no use.
    pub state: Option<(PathBuf, Vec<u8>)>,
    /// The session and its folder, which select pending stamps.
    pub session_id: Option<Vec<u8>>,
    pub cwd: Option<Vec<u8>>,
    pub session_mtime_ms: f64,
    pub left_out: LeftOut,
    /// The number of turns that were read.
    pub read_turns: u64,
    /// The number of tool calls of these turns, and whether a result with content was found.
    pub calls: u64,
    pub has_result_content: bool,
    /// Whose calls these are.
    pub content_session: Option<Vec<u8>>,
    pub lines: u64,
    pub bytes_read: u64,
    pub open_messages: u64,
    /// Further facts from Claude Code's logs.
    pub claude_facts: Option<Box<super::claude::LogFacts>>,
}

impl Gathered {
    /// Puts the text of a record to the others. The caller adds the record to its list.
    pub(super) fn keep(&mut self, text: &[u8]) -> PassRecord {
        let start = self.texts.len();
        self.texts.extend_from_slice(text);
        PassRecord::at(start..self.texts.len())
    }

    /// Returns the text of a record.
    pub(super) fn text_of(&self, record: &PassRecord) -> &[u8] {
        &self.texts[record.text.clone()]
    }

    fn records(&self) -> impl Iterator<Item = &PassRecord> {
        let all = [
            &self.turns,
            &self.content,
            &self.compactions,
            &self.relationships,
            &self.tool_result_events,
            &self.user_turns,
            &self.stamps,
        ];
        all.into_iter().flatten()
    }

    /// Returns the length of the texts and of the state in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        self.texts.len() + self.state.as_ref().map_or(0, |(_, bytes)| bytes.len())
    }

    /// Returns whether there is nothing to append.
    pub(super) fn has_no_records(&self) -> bool {
        self.records().next().is_none()
    }
}

/// A part of a log that a reader returns while it goes on reading.
pub(super) enum Handed {
    /// A piece of the log, and whether the piece is the last.
    Piece(Box<Gathered>, bool),
    /// Nothing is new; the cursor may have a new time.
    Unchanged(Option<Vec<u8>>),
    Skipped(AgentsError),
}

/// The function that receives the pieces of a reader. It returns false when no more pieces are needed.
pub(super) type HandOver<'h> = dyn FnMut(Handed) -> bool + 'h;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    #[test]
    fn a_note_has_the_inode_of_its_log_however_large_it_is() {
        for inode in [1, (1 << 53) + 1, 0x0012_3400_0000_0567, u64::MAX] {
            let stat = Stat { inode: inode as f64, mtime_ms: 1_777_000_000_123.456_8, size_bytes: 5 };
            let mut note = RecordText::default();
            stat.write(&mut note);
            let mut document = Document::default();
            assert_eq!(Stat::of_note(document.parse(&note.finish()).unwrap()), Some(stat), "{inode}");
        }
    }
}

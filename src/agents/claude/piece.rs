//! Makes records from the lines of one piece of a log.
//!
//! A piece begins at the cursor: the records of all earlier lines were written. [`State`] has what later lines need of
//! these earlier lines. After the last line of a piece, [`Piece::finish`] decides which records are written: the
//! records up to the first line that may still change.

mod assistant;
mod relationships;
mod saved;
mod state;
mod system;
mod user;
mod written;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bumpalo::Bump;
use foldhash::{HashMap, HashSet};

use super::super::calls::Replacement;
use super::super::js::{self, RecordText};
use super::super::known::{EventParts, LineNote, RecordNotes};
use super::super::measure;
use super::super::pass::{ContentMode, Gathered, LeftOutLine, PassRecord, ReadOptions, Reason};
use super::super::project::ProjectKeys;
use super::super::{AgentsError, GivenUp};
use super::graph::{Answers, Graph, Invocation};
use super::key::Key;
use super::line::Line;
use super::log::{AgentMeta, Evidence, LogKind};
use super::message::{ClaudeMessage, Results, Thread, plain_text};
use crate::record::Hasher;
use crate::scan::json::{Kind, Value};

pub(super) use self::saved::Place;

/// The part that all pieces of a log share.
pub(super) struct Log<'l> {
    pub path: &'l std::path::Path,
    pub base_name: &'l [u8],
    pub kind: LogKind,
    pub agent: &'l AgentMeta,
    pub options: &'l ReadOptions,
    pub projects: &'l ProjectKeys,
}

impl Log<'_> {
    /// Whether the turn of a message is written, if `end` is the first line that may still change.
    fn is_written(&self, message: &ClaudeMessage<'_>, end: u64) -> bool {
        match self.options.as_reference {
            true => message.stop_reason.is_some(),
            false => message.at < end,
        }
    }
}

/// The state that later lines need from the lines before a piece. Nothing in the large tables has memory of its own, because
/// taking and freeing it took more time than the tables themselves.
#[derive(Debug)]
pub(super) struct State<'t> {
    /// The memory of the texts. It grows with the log.
    texts: &'t Bump,
    pub graph: Graph<'t>,
    pub evidence: Evidence,
    /// The number of events of each tool use id.
    calls: HashMap<&'t [u8], usize>,
    events: usize,
    last_message: Option<Vec<u8>>,
    pub prompt: Option<Arc<[u8]>>,
    /// The messages by their ids.
    known: HashMap<&'t [u8], KnownMessage<'t>>,
    /// The session of the last known message, which the next mostly has, too.
    session: Option<&'t [u8]>,
    /// First lines of the messages on side chains.
    side_messages: Vec<Key<'t>>,
    /// The agents of the first `looked_at` of these messages, by the tool use ids that spawned them.
    agents: HashMap<Vec<u8>, Vec<u8>>,
    looked_at: usize,
    /// Those of the first `looked_at` messages whose agents were not found, because lines may name their parents later.
    without_agent: Vec<Key<'t>>,
    /// First lines of side chains, by the lines of the chain.
    chains: HashMap<Key<'t>, Key<'t>>,
    /// Whether the marker of the evidence comes from a line that will be read again.
    marker_is_held: bool,
    /// The branch of the last message of the main thread with a branch, by session.
    branches: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A message whose turn is written.
#[derive(Debug, Clone, Copy)]
struct KnownMessage<'t> {
    cache_read: f64,
    ts: &'t [u8],
    session: Option<&'t [u8]>,
}

/// A record that lacks its last member so far.
struct Pending<'p> {
    at: u64,
    /// The length of the line in bytes.
    len_bytes: u64,
    /// The members that it has, in the texts of the piece.
    draft: Range<usize>,
    /// The message or tool use id that gives the last member.
    link: Option<&'p [u8]>,
    /// The message of the piece without which the record is not written.
    owner: Option<u32>,
    notes: Option<RecordNotes>,
}

impl Pending<'_> {
    /// Writes the record with its last member after the other texts.
    fn finish(self, texts: &mut Vec<u8>, add_last: impl FnOnce(&mut RecordText)) -> PassRecord {
        let mut record = RecordText::copy_of(std::mem::take(texts), self.draft);
        add_last(&mut record);
        let (all, text) = record.finish_in();
        *texts = all;
        let line = Some((self.at, self.len_bytes));
        PassRecord { line, notes: self.notes, owner: self.owner, ..PassRecord::at(text) }
    }
}

/// Content of a line, or content of a message at the message's first line.
struct PendingContent {
    at: u64,
    /// The place of the record in the texts of the piece.
    text: Range<usize>,
    message: Option<u32>,
    /// The user turn without which the content is not written.
    user_turn: Option<usize>,
}

/// A root relationship, or a relationship that a line states.
struct PendingRow {
    at: u64,
    kind: &'static str,
    target: Option<Vec<u8>>,
    ts: Option<Vec<u8>>,
    source_session: Option<Vec<u8>>,
    source_version: Option<Vec<u8>>,
}

/// The lines of a piece. Texts that outlive their line are in the memory of the piece, `arena`.
pub(super) struct Piece<'p> {
    log: &'p Log<'p>,
    arena: &'p Bump,
    hasher: Hasher,
    messages: Vec<ClaudeMessage<'p>>,
    by_id: HashMap<&'p [u8], usize>,
    /// The indexes of the messages whose threads may go on with them.
    open: Vec<usize>,
    results: Results<'p>,
    user_turns: Vec<Pending<'p>>,
    /// The last user turn, as long as no new message has followed it.
    unlinked: Option<usize>,
    events: Vec<Pending<'p>>,
    compactions: Vec<Pending<'p>>,
    content: Vec<PendingContent>,
    rows: Vec<PendingRow>,
    has_root: bool,
    explicit: HashSet<(&'static str, Vec<u8>)>,
    /// The offsets at which the last message and the prompt changed.
    last_messages: Vec<(u64, &'p [u8])>,
    prompts: Vec<(u64, Arc<[u8]>)>,
    /// Events by tool use id in this piece.
    calls: HashMap<&'p [u8], usize>,
    event_calls: Vec<(u64, &'p [u8])>,
    marker_at: Option<u64>,
    tool_owner: HashMap<&'p [u8], u32>,
    /// Lines that made no record.
    left_out: Vec<LeftOutLine>,
    pub gathered: Gathered,
}

/// How a piece ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceEnd {
    /// Waits for nothing, because the log is at rest.
    Nothing,
    /// Waits for every message that may still change.
    ForAll,
    /// Waits likewise, but the last answers are complete.
    ForPrompts,
}

impl<'p> Piece<'p> {
    pub(super) fn new(log: &'p Log<'p>, arena: &'p Bump) -> Self {
        Piece {
            log,
            arena,
            hasher: Hasher::default(),
            messages: Vec::new(),
            by_id: HashMap::default(),
            open: Vec::new(),
            results: Results::default(),
            user_turns: Vec::new(),
            unlinked: None,
            events: Vec::new(),
            compactions: Vec::new(),
            content: Vec::new(),
            rows: Vec::new(),
            has_root: false,
            explicit: HashSet::default(),
            last_messages: Vec::new(),
            prompts: Vec::new(),
            calls: HashMap::default(),
            event_calls: Vec::new(),
            marker_at: None,
            tool_owner: HashMap::default(),
            left_out: Vec::new(),
            gathered: Gathered::default(),
        }
    }

    /// Adds a line that made no record.
    pub(super) fn leave_out(
        &mut self,
        (offset, len_bytes): (u64, u64),
        reason: Reason,
        detail: impl FnOnce() -> String,
    ) {
        let detail = if self.log.options.name_lines { detail() } else { String::new() };
        self.left_out.push(LeftOutLine { offset, len_bytes, reason, detail });
    }

    /// Adds a line that begins at `at.0` and has `at.1` bytes.
    pub(super) fn line<'t: 'p>(
        &mut self,
        state: &mut State<'t>,
        at: (u64, u64),
        line: Value<'_>,
    ) -> Result<(), AgentsError> {
        let Some(line) = Line::of(line) else {
            self.leave_out(at, Reason::NotARecord, || "the line is no JSON object".into());
            return Ok(());
        };
        match line.kind {
            Some(b"assistant") => self.assistant(state, at, &line),
            Some(b"user") => return self.user(state, at, &line),
            Some(b"system") => {
                state.take_other(&line, self.log);
                self.system(state, at, &line);
            }
            other => {
                state.take_other(&line, self.log);
                self.leave_out(at, Reason::UnknownType, || match other {
                    Some(name) => format!("type {}", js::to_utf8(name)),
                    None => "no type".into(),
                });
            }
        }
        Ok(())
    }

    /// Adds the relationships that a line with a session id states.
    fn relationships(&mut self, at: u64, line: &Line<'_>) {
        if line.session.is_none() {
            return;
        }
        let text = |keys: &[&str]| js::first_text(line.root, keys).map(<[u8]>::to_vec);
        if !self.has_root {
            self.has_root = true;
            self.rows.push(PendingRow {
                at,
                kind: "root",
                target: None,
                ts: line.timestamp.map(<[u8]>::to_vec),
                source_session: None,
                source_version: None,
            });
        }
        for (kind, target) in [("fork", line.fork), ("continuation", line.continued)] {
            let Some(target) = target.filter(|target| *target != self.log.base_name) else { continue };
            if self.explicit.insert((kind, target.to_vec())) {
                self.rows.push(PendingRow {
                    at,
                    kind,
                    target: Some(target.to_vec()),
                    ts: text(&["timestamp", "ts"]),
                    source_session: text(&["sourceSessionId", "source_session_id"]),
                    source_version: text(&["version", "sourceVersion", "source_version"]),
                });
            }
        }
    }

    /// Begins a record after the texts of the piece.
    fn begin_record(&mut self) -> RecordText {
        RecordText::after(std::mem::take(&mut self.gathered.texts), "claude-code")
    }

    /// Puts a record that lacks its last member into the texts of the piece.
    fn keep_draft(&mut self, record: RecordText) -> Range<usize> {
        let (texts, draft) = record.unfinished();
        self.gathered.texts = texts;
        draft
    }

    fn last_message<'s>(&'s self, state: &'s State<'_>) -> Option<&'s [u8]> {
        self.last_messages.last().map(|(_, id)| *id).or(state.last_message.as_deref())
    }

    /// Puts a content record into the texts of the piece.
    fn keep_content(&mut self, at: u64, message: Option<u32>, user_turn: Option<usize>, record: RecordText) {
        let (texts, text) = record.finish_in();
        self.gathered.texts = texts;
        self.content.push(PendingContent { at, text, message, user_turn });
    }

    /// The numbers of the next event of a tool use id: its number among the events of the id, and among all events.
    fn count_event(&mut self, state: &State<'_>, at: u64, id: &'p [u8]) -> (usize, usize) {
        let call = self.calls.entry(id).or_default();
        let call_index = state.calls.get(id).copied().unwrap_or(0) + *call;
        *call += 1;
        let event_index = state.events + self.event_calls.len();
        self.event_calls.push((at, id));
        (call_index, event_index)
    }
}

/// The session and the tool use id of a system line about an agent.
fn notified(line: Value<'_>) -> Option<(&[u8], &[u8])> {
    let session = js::first_text(line, &["sessionId", "session_id"])?;
    let id = js::first_text(
        line,
        &["parent_tool_use_id", "parentToolUseId", "parentToolUseID", "tool_use_id", "toolUseId"],
    )?;
    js::first_text(line, &["agent_id", "agentId", "subagent_session_id", "subagentSessionId"])?;
    Some((session, id))
}

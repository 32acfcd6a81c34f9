//! Makes records from the lines of one piece of a log.
//!
//! A piece begins at the cursor: the records of all earlier lines were written. [`State`] has what later lines need of
//! these earlier lines. After the last line of a piece, [`Piece::finish`] decides which records are written: the
//! records up to the first line that may still change.

mod relationships;
mod saved;
mod state;

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bumpalo::Bump;
use foldhash::{HashMap, HashSet};

use super::super::AgentsError;
use super::super::calls::Replacement;
use super::super::js::{self, RecordText};
use super::super::known::{EventParts, LineNote, RecordNotes};
use super::super::measure;
use super::super::pass::{ContentMode, Gathered, LeftOutLine, PassRecord, ReadOptions, Reason};
use super::super::project::ProjectKeys;
use super::graph::{Answers, Graph, Invocation};
use super::key::Key;
use super::line::Line;
use super::log::{Evidence, LogKind, path_text};
use super::message::{ClaudeMessage, Results, Thread, given_up, plain_text};
use crate::record::Hasher;
use crate::scan::json::{Kind, Value};

pub(super) use self::saved::Place;

/// The part that all pieces of a log share.
pub(super) struct Log<'l> {
    pub path: &'l std::path::Path,
    pub base_name: &'l [u8],
    pub kind: LogKind,
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

/// The state that later lines need from the lines before a piece.
#[derive(Debug, Default)]
pub(super) struct State {
    pub graph: Graph,
    pub evidence: Evidence,
    /// The number of events of each tool use id.
    calls: HashMap<Vec<u8>, usize>,
    events: usize,
    last_message: Option<Vec<u8>>,
    pub prompt: Option<Arc<[u8]>>,
    /// The messages by their ids.
    known: HashMap<Vec<u8>, KnownMessage>,
    /// First lines of the messages on side chains.
    side_messages: Vec<Key>,
    /// The agents of the first `looked_at` of these messages, by the tool use ids that spawned them.
    agents: HashMap<Vec<u8>, Vec<u8>>,
    looked_at: usize,
    /// Those of the first `looked_at` messages whose agents were not found, because lines may name their parents later.
    without_agent: Vec<Key>,
    /// First lines of side chains, by the lines of the chain.
    chains: HashMap<Key, Key>,
    /// Whether the marker of the evidence comes from a line that will be read again.
    marker_is_held: bool,
    /// The branch of the last message of the main thread with a branch.
    branch: Option<Vec<u8>>,
}

/// A message whose turn is written.
#[derive(Debug)]
struct KnownMessage {
    cache_read: f64,
    ts: Box<[u8]>,
    session: Option<Box<[u8]>>,
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

/// A text or a result of a user line.
struct UserBlock<'t> {
    /// The tool use id of a result.
    call: Option<&'t [u8]>,
    text: Cow<'t, [u8]>,
    is_error: bool,
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
    pub(super) fn line(
        &mut self,
        state: &mut State,
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

    fn assistant(&mut self, state: &mut State, at: (u64, u64), line: &Line<'_>) {
        let (options, arena) = (self.log.options, self.arena);
        let keeps_content = options.content == ContentMode::Full;
        state.take_assistant(line, self.log);
        self.relationships(at.0, line);
        let chain = state.chain(line);
        let thread = match line.agent_id {
            _ if !line.is_side => Thread::Main,
            Some(agent) => Thread::Agent(arena.alloc_slice_copy(agent)),
            None => Thread::SideChain(chain),
        };
        let Some(id) = line.message.and_then(|message| js::any_text(message, "id")) else {
            self.leave_out(at, Reason::NotARecord, || "an assistant line without message.id".into());
            return;
        };
        let id = match self.last_messages.last() {
            Some((_, last)) if *last == id => *last,
            _ => &*arena.alloc_slice_copy(id),
        };
        if !id.is_empty() {
            self.last_messages.push((at.0, id));
        }
        if !options.as_reference
            && let Some(known) = state.known.get(id)
        {
            // The turn is written and cannot change; only the content of the line is kept.
            if let Some(session) = known.session.as_ref().filter(|_| keeps_content) {
                self.message_content((at.0, None), (session, id), &js::string(&known.ts), line.content);
            }
            self.leave_out(at, Reason::Duplicate, || {
                format!("message {} is in the ledger already", js::to_utf8(id))
            });
            return;
        }
        let index = match self.by_id.get(id) {
            Some(index) => *index,
            None => {
                let index = self.messages.len();
                let is_linked = !id.is_empty();
                if is_linked && let Some(unlinked) = self.unlinked.take() {
                    self.user_turns[unlinked].link = Some(id);
                    self.user_turns[unlinked].owner = Some(index as u32);
                }
                self.open.retain(|earlier| {
                    let earlier = &mut self.messages[*earlier];
                    // An agent inside its caller's log has ended when the caller goes on.
                    let is_within = matches!(earlier.thread, Thread::SideChain(_)) && thread == Thread::Main;
                    earlier.is_closed = earlier.thread == thread || is_within;
                    !earlier.is_closed
                });
                self.open.push(index);
                let prompt = self.prompts.last().map(|(_, prompt)| prompt).or(state.prompt.as_ref());
                let prompt = prompt.cloned();
                self.messages.push(ClaudeMessage::begin(arena, id, at, line, thread, prompt, options));
                self.by_id.insert(id, index);
                index
            }
        };
        if self.messages[index].lines > 0 {
            self.leave_out(at, Reason::Duplicate, || {
                format!("a further line of message {}", js::to_utf8(id))
            });
        }
        let calls = self.messages[index].calls.len();
        self.messages[index].add(arena, line);
        for call in &self.messages[index].calls[calls..] {
            self.tool_owner.insert(call.id, index as u32);
        }
        let owner = &self.messages[index];
        if let Some(session) = owner.session.filter(|_| keeps_content && !id.is_empty()) {
            let (at, ts) = (owner.at, owner.ts_json());
            self.message_content((at, Some(index as u32)), (session, id), &ts, line.content);
        }
    }

    fn user(&mut self, state: &mut State, at: (u64, u64), line: &Line<'_>) -> Result<(), AgentsError> {
        let (log, arena) = (self.log, self.arena);
        let content = line.content;
        let text = plain_text(content);
        let marker_was = state.evidence.marker.is_some();
        state.take_user(line, &text, log);
        if !marker_was && state.evidence.marker.is_some() {
            self.marker_at = Some(at.0);
        }
        self.relationships(at.0, line);
        let blocks = content.filter(|content| content.kind() == Kind::Array);
        let results = || {
            blocks
                .into_iter()
                .flat_map(Value::items)
                .filter(|block| js::any_text(*block, "type") == Some(b"tool_result"))
        };
        for result in results() {
            let Some(id) = js::any_text(result, "tool_use_id") else { continue };
            if js::is_true(result, "is_error") {
                self.results.errors.insert(arena.alloc_slice_copy(id));
            }
            if let Some(replacement) = Replacement::of_result(result) {
                self.results.replacements.insert(arena.alloc_slice_copy(id), replacement);
            }
            if let Some(owner) = self.tool_owner.get(id) {
                self.messages[*owner as usize].unanswered.retain(|unanswered| *unanswered != id);
            }
            self.gathered.has_result_content |= js::present(result, "content").is_some();
        }
        if !text.is_empty() {
            self.prompts.push((at.0, Arc::from(&text[..])));
        }
        let mut made_record = false;
        if let Some(session) = line.session {
            for result in results() {
                if let Some(id) = js::text(result, "tool_use_id") {
                    self.result_event(state, at, line, session, id, result);
                    made_record = true;
                }
            }
            if let Some(uuid) = line.uuid {
                made_record |= self.user_turn(state, at, line, session, uuid)?;
                self.user_content(at.0, line, session, uuid);
            }
        }
        if !made_record {
            self.leave_out(at, Reason::NothingToKeep, || match line.session {
                None => "a user line without sessionId".into(),
                Some(_) => "a user line without uuid or without text and results".into(),
            });
        }
        Ok(())
    }

    fn user_turn(
        &mut self,
        state: &State,
        (at, len_bytes): (u64, u64),
        line: &Line<'_>,
        session: &[u8],
        uuid: &[u8],
    ) -> Result<bool, AgentsError> {
        let mut blocks: Vec<UserBlock<'_>> = Vec::new();
        let mut owner = None;
        match line.content.map(|content| (content, content.kind())) {
            Some((content, Kind::String)) => {
                let text = js::wtf8(content).filter(|text| !text.is_empty());
                blocks.extend(text.map(|text| UserBlock { call: None, text: text.into(), is_error: false }));
            }
            Some((content, Kind::Array)) => {
                for block in content.items() {
                    match js::any_text(block, "type") {
                        Some(b"text") => {
                            let text = js::text(block, "text");
                            blocks.extend(text.map(|text| UserBlock {
                                call: None,
                                text: text.into(),
                                is_error: false,
                            }));
                        }
                        Some(b"tool_result") => {
                            let Some(id) = js::any_text(block, "tool_use_id") else { continue };
                            owner = owner.or(self.tool_owner.get(id).copied());
                            let text = measure::measured_text(block.get("content")).unwrap_or_default();
                            let is_error = js::is_true(block, "is_error");
                            blocks.push(UserBlock { call: Some(id), text, is_error });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        if self.log.options.as_reference && blocks.iter().any(|block| measure::has_special_token(&block.text))
        {
            return Err(given_up(self.log.path, "a special token of the tokenizer in a text"));
        }
        if blocks.is_empty() {
            return Ok(false);
        }
        let mut record = self.begin_record();
        record.text("sessionId", session);
        record.text("userUuid", uuid);
        record.text("ts", line.timestamp.unwrap_or_default());
        record.objects("blocks", &blocks, |block, record| {
            record.text("kind", if block.call.is_some() { b"tool_result" } else { b"text" });
            record.maybe_text("toolUseId", block.call);
            record.count("byteLen", measure::byte_len(&block.text));
            record.count("approxTokens", measure::approx_tokens(&block.text));
            record.flag_if("isError", block.is_error);
        });
        let preceding = self.last_message(state);
        record.maybe_text("precedingMessageId", preceding);
        let draft = self.keep_draft(record);
        self.unlinked = Some(self.user_turns.len());
        let notes = (!self.log.options.as_reference).then(|| {
            let parts = [session, uuid].map(js::to_utf8);
            let id = self.hasher.id_of_parts(&["claude-code", &parts[0], &parts[1]]);
            let line = LineNote::of_parts(Some(b"claude-code"), Some(session), Some(uuid));
            RecordNotes { line, made: Some((id, None)), ..RecordNotes::default() }
        });
        self.user_turns.push(Pending { at, len_bytes, draft, link: None, owner, notes });
        Ok(true)
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

    fn last_message<'s>(&'s self, state: &'s State) -> Option<&'s [u8]> {
        self.last_messages.last().map(|(_, id)| *id).or(state.last_message.as_deref())
    }

    fn user_content(&mut self, at: u64, line: &Line<'_>, session: &[u8], uuid: &[u8]) {
        let Some(content) = line.content.filter(|_| self.log.options.content == ContentMode::Full) else {
            return;
        };
        let user_turn = self.user_turns.len().checked_sub(1);
        let mut add = |role: &[u8], kind: &[u8], write: &dyn Fn(&mut RecordText)| {
            let mut record = self.begin_record();
            record.text("sessionId", session);
            record.text("messageId", uuid);
            record.text("ts", line.timestamp.unwrap_or_default());
            record.text("role", role);
            record.text("kind", kind);
            write(&mut record);
            self.keep_content(at, None, user_turn, record);
        };
        if let Some(text) = js::wtf8(content).filter(|text| !text.is_empty()) {
            add(b"user", b"text", &|record| record.text("text", text));
        }
        for block in content.items() {
            match js::any_text(block, "type") {
                Some(b"text") => {
                    if let Some(text) = js::text(block, "text") {
                        add(b"user", b"text", &|record| record.text("text", text));
                    }
                }
                Some(b"tool_result") => {
                    let Some(id) = js::any_text(block, "tool_use_id") else { continue };
                    add(b"tool_result", b"tool_result", &|record| {
                        record.object("toolResult", |result| {
                            result.text("toolUseId", id);
                            match js::present(block, "content") {
                                Some(content) => result.value("content", content),
                                None => result.text("content", b""),
                            }
                            result.flag_if("isError", js::is_true(block, "is_error"));
                        });
                    });
                }
                _ => {}
            }
        }
    }

    /// Puts a content record into the texts of the piece.
    fn keep_content(&mut self, at: u64, message: Option<u32>, user_turn: Option<usize>, record: RecordText) {
        let (texts, text) = record.finish_in();
        self.gathered.texts = texts;
        self.content.push(PendingContent { at, text, message, user_turn });
    }

    /// Adds the content records of a line of a message. `ts` is JSON text.
    fn message_content(
        &mut self,
        (at, message): (u64, Option<u32>),
        (session, id): (&[u8], &[u8]),
        ts: &[u8],
        content: Option<Value<'_>>,
    ) {
        let mut add = |kind: &[u8], write: &dyn Fn(&mut RecordText)| {
            let mut record = self.begin_record();
            record.text("sessionId", session);
            record.text("messageId", id);
            record.raw("ts", ts);
            record.text("role", b"assistant");
            record.text("kind", kind);
            write(&mut record);
            self.keep_content(at, message, None, record);
        };
        for block in content.into_iter().flat_map(Value::items) {
            match js::any_text(block, "type") {
                Some(kind @ (b"text" | b"thinking")) => {
                    let key = if kind == b"text" { "text" } else { "thinking" };
                    if let Some(text) = js::text(block, key) {
                        add(kind, &|record| record.text("text", text));
                    }
                }
                Some(kind @ b"tool_use") => {
                    let (Some(id), Some(name)) = (js::any_text(block, "id"), js::any_text(block, "name"))
                    else {
                        continue;
                    };
                    add(kind, &|record| {
                        record.object("toolUse", |call| {
                            call.text("id", id);
                            call.text("name", name);
                            match js::present(block, "input") {
                                Some(input) => call.value("input", input),
                                None => call.raw("input", b"{}"),
                            }
                        });
                    });
                }
                _ => {}
            }
        }
    }

    /// The numbers of the next event of a tool use id: its number among the events of the id, and among all events.
    fn count_event(&mut self, state: &State, at: u64, id: &'p [u8]) -> (usize, usize) {
        let call = self.calls.entry(id).or_default();
        let call_index = state.calls.get(id).copied().unwrap_or(0) + *call;
        *call += 1;
        let event_index = state.events + self.event_calls.len();
        self.event_calls.push((at, id));
        (call_index, event_index)
    }

    fn result_event(
        &mut self,
        state: &State,
        (at, len_bytes): (u64, u64),
        line: &Line<'_>,
        session: &[u8],
        id: &[u8],
        result: Value<'_>,
    ) {
        let id = &*self.arena.alloc_slice_copy(id);
        let (call_index, event_index) = self.count_event(state, at, id);
        let is_error = js::is_true(result, "is_error");
        let mut record = self.begin_record();
        record.text("sessionId", session);
        record.text("toolUseId", id);
        record.count("callIndex", call_index);
        record.count("eventIndex", event_index);
        record.text("status", if is_error { b"errored" } else { b"completed" });
        record.text("eventSource", b"tool_result");
        record.maybe_text("messageId", line.uuid);
        record.maybe_text("ts", line.timestamp);
        record.flag_if("isError", is_error);
        let text = measure::measured_text(result.get("content"));
        let content_hash = measure::write_content_measures(text.as_deref(), &mut record);
        let notes = (!self.log.options.as_reference).then(|| {
            let notes = RecordNotes::of_event(&EventParts {
                source: Some(b"claude-code"),
                session: Some(session),
                call: Some(id),
                event_source: Some(b"tool_result"),
                message: line.uuid,
                content_hash: content_hash.as_ref().map(|hash| &hash[..]),
                number: event_index as f64,
                has_ts: line.timestamp.is_some(),
            });
            let parts = [session, id].map(js::to_utf8);
            let mut number = itoa::Buffer::new();
            let parts = ["claude-code", &parts[0], &parts[1], number.format(event_index)];
            RecordNotes { made: Some((self.hasher.id_of_parts(&parts), None)), ..notes }
        });
        if let Some(replacement) = Replacement::of_result(result) {
            replacement.write(&mut record);
        }
        let draft = self.keep_draft(record);
        let owner = self.tool_owner.get(id).copied();
        self.events.push(Pending { at, len_bytes, draft, link: Some(id), owner, notes });
    }

    fn system(&mut self, state: &mut State, at: (u64, u64), line: &Line<'_>) {
        self.relationships(at.0, line);
        let mut made_record = self.notification(state, at, line.root);
        let subtype = js::any_text(line.root, "subtype");
        if let Some(session) = line.session.filter(|_| subtype == Some(b"compact_boundary")) {
            let preceding = self.last_message(state).map(|id| &*self.arena.alloc_slice_copy(id));
            let mut record = self.begin_record();
            record.text("sessionId", session);
            record.text("ts", line.timestamp.unwrap_or_default());
            record.maybe_text("precedingMessageId", preceding);
            let draft = self.keep_draft(record);
            self.compactions.push(Pending {
                at: at.0,
                len_bytes: at.1,
                draft,
                link: preceding,
                owner: None,
                notes: None,
            });
            made_record = true;
        }
        if !made_record {
            self.leave_out(at, Reason::UnknownType, || {
                let subtype = subtype.map(|name| js::to_utf8(name).into_owned());
                format!("type system, subtype {}", subtype.as_deref().unwrap_or("none"))
            });
        }
    }

    fn notification(&mut self, state: &State, (at, len_bytes): (u64, u64), line: Value<'_>) -> bool {
        let Some((session, id)) = notified(line) else { return false };
        let id = &*self.arena.alloc_slice_copy(id);
        let (call_index, event_index) = self.count_event(state, at, id);
        let status = super::status::of_notification(line);
        let mut record = self.begin_record();
        record.text("sessionId", session);
        record.text("toolUseId", id);
        record.count("callIndex", call_index);
        record.count("eventIndex", event_index);
        record.text("status", status.as_bytes());
        record.text("eventSource", b"subagent_notification");
        record.maybe_text("ts", js::first_text(line, &["timestamp", "ts"]));
        record.maybe_text("agentId", js::first_text(line, &["agent_id", "agentId"]));
        record.maybe_text(
            "subagentSessionId",
            js::first_text(line, &["subagent_session_id", "subagentSessionId"]),
        );
        record.flag_if("isError", status == "errored");
        let content = ["content", "output", "result", "message"].iter().find_map(|key| line.get(key));
        measure::write_content_measures(measure::measured_text(content).as_deref(), &mut record);
        let draft = self.keep_draft(record);
        self.events.push(Pending { at, len_bytes, draft, link: None, owner: None, notes: None });
        true
    }

    /// The offset up to which records are written. Later lines may still change.
    fn end(&self, whole: u64, waiting: PieceEnd) -> u64 {
        let first_of = |is_open: &dyn Fn(&ClaudeMessage<'_>) -> bool| {
            self.messages.iter().filter(|message| is_open(message)).map(|message| message.at).min()
        };
        if self.log.options.as_reference {
            return first_of(&|message| message.stop_reason.is_none()).unwrap_or(whole);
        }
        if waiting == PieceEnd::Nothing {
            return whole;
        }
        let is_done = |message: &ClaudeMessage<'_>| {
            waiting == PieceEnd::ForPrompts
                && message.unanswered.is_empty()
                && message.stop_reason.is_some_and(|reason| reason != b"tool_use")
        };
        let message = first_of(&|message| !message.is_closed && !is_done(message));
        let user_turn = self.unlinked.map(|unlinked| self.user_turns[unlinked].at);
        let mut end = message.into_iter().chain(user_turn).min().unwrap_or(whole).min(whole);
        // A prompt waits for its answer, because the answer shows whether another session has both already.
        for user_turn in self.user_turns.iter().rev().filter(|user_turn| user_turn.owner.is_some()) {
            let owner = user_turn.owner.map(|owner| &self.messages[owner as usize]);
            if user_turn.at < end && owner.is_some_and(|owner| owner.at >= end) {
                end = user_turn.at;
            }
        }
        end
    }

    /// Returns the records up to the first line that may still change, and the offset of that line. `whole` is the end
    /// of the last complete line. If the piece is not the last, the next piece begins at that offset and names the lines after
    /// it.
    pub(super) fn finish(
        mut self,
        state: &mut State,
        from: u64,
        whole: u64,
        waiting: PieceEnd,
        is_last: bool,
    ) -> Result<(Gathered, u64), AgentsError> {
        let end = self.end(whole, waiting);
        let mut answers = Answers::default();
        let agents: Vec<Option<Rc<Invocation>>> =
            self.messages.iter().map(|message| self.agent_of(message, state, &mut answers)).collect();
        let mut gathered = std::mem::take(&mut self.gathered);
        self.add_turns(&agents, end, state, &mut gathered)?;
        self.add_compactions(end, state, &mut gathered);
        self.add_events(&agents, end, state, &mut answers, &mut gathered);
        self.add_content(end, &mut gathered);
        for pending in std::mem::take(&mut self.user_turns).into_iter().filter(|pending| pending.at < end) {
            let following = pending.link;
            gathered.user_turns.push(pending.finish(&mut gathered.texts, |record| {
                record.maybe_text("followingMessageId", following);
            }));
        }
        self.add_relationships(&agents, from, end, state, &mut gathered);
        let first = self.messages.iter().find(|message| self.log.is_written(message, end));
        gathered.content_session = first.and_then(|message| message.session.map(<[u8]>::to_vec));
        gathered.told = Some(Box::default());
        for line in self.left_out.drain(..).filter(|line| is_last || line.offset < end) {
            gathered.left_out.push(self.log.options, line);
        }
        self.pass_on(end, state);
        Ok((gathered, end))
    }

    /// The messages whose turns are written, each with the agent of its side chain.
    fn written<'s>(
        &'s self,
        agents: &'s [Option<Rc<Invocation>>],
        end: u64,
    ) -> impl Iterator<Item = (&'s ClaudeMessage<'p>, Option<&'s Invocation>)> {
        let all = self.messages.iter().zip(agents.iter().map(Option::as_deref));
        all.filter(move |(message, _)| self.log.is_written(message, end))
    }

    fn add_turns(
        &mut self,
        agents: &[Option<Rc<Invocation>>],
        end: u64,
        state: &mut State,
        gathered: &mut Gathered,
    ) -> Result<(), AgentsError> {
        let log = self.log;
        let options = log.options;
        let path = path_text(log.path);
        let before = if options.as_reference { 0 } else { state.known.len() };
        let mut left_out = Vec::new();
        for (index, (message, agent)) in self.messages.iter_mut().zip(agents).enumerate() {
            message.take_results(&self.results);
            let message = &*message;
            let mut leave_out = |reason, detail: &str| {
                left_out.push((message.at, reason, format!("message {} {detail}", js::to_utf8(message.id))));
            };
            if !log.is_written(message, end) {
                gathered.open_messages += 1;
                leave_out(Reason::OpenMessage, "is not complete");
                continue;
            }
            let mut text = RecordText::after(std::mem::take(&mut gathered.texts), "claude-code");
            message
                .write_turn(&mut text, before + index, &path, agent.as_deref(), log.projects)
                .map_err(|reason| given_up(log.path, reason))?;
            let (texts, text) = text.finish_in();
            gathered.texts = texts;
            let mut record = PassRecord { owner: Some(index as u32), ..PassRecord::at(text) };
            record.notes = message.notes(&mut self.hasher);
            record.line = Some((message.at, message.len_bytes));
            if !options.as_reference {
                record.stamp = message.stamp();
                record.branch = state.branch_stamp(message);
            }
            gathered.turns.push(record);
            gathered.calls += message.calls.len() as u64;
            let invalid = message.counts.usage().invalid_counts();
            if !message.has_usage {
                leave_out(Reason::NoUsage, "has no usage; its turn has no tokens");
            } else if !invalid.is_empty() {
                leave_out(Reason::InvalidCount, &format!("has no count of {}", invalid.join(", ")));
            }
        }
        for (at, reason, detail) in left_out {
            self.leave_out((at, 0), reason, || detail);
        }
        gathered.read_turns = gathered.turns.len() as u64;
        Ok(())
    }

    fn add_compactions(&mut self, end: u64, state: &State, gathered: &mut Gathered) {
        for pending in std::mem::take(&mut self.compactions).into_iter().filter(|pending| pending.at < end) {
            let count = pending.link.and_then(|id| self.cache_read_of(id, end, state));
            gathered.compactions.push(pending.finish(&mut gathered.texts, |record| {
                if let Some(count) = count {
                    record.raw("tokensBeforeCompact", &count);
                }
            }));
        }
    }

    /// The tokens that a written message read from the cache, as JSON text.
    fn cache_read_of(&self, id: &[u8], end: u64, state: &State) -> Option<Vec<u8>> {
        let options = self.log.options;
        let message = self.by_id.get(id).map(|index| &self.messages[*index]);
        if let Some(message) = message.filter(|message| self.log.is_written(message, end)) {
            return Some(message.cache_read_json());
        }
        let known = state.known.get(id).filter(|_| !options.as_reference)?;
        let mut out = Vec::new();
        js::write_number(known.cache_read, &mut out);
        Some(out)
    }

    /// Adds the events, each with the agent that its tool use spawned: in this piece, else in the lines before it.
    fn add_events(
        &mut self,
        agents: &[Option<Rc<Invocation>>],
        end: u64,
        state: &mut State,
        answers: &mut Answers,
        gathered: &mut Gathered,
    ) {
        let events = std::mem::take(&mut self.events);
        let mut by_tool: HashMap<&[u8], &[u8]> = HashMap::default();
        for (message, agent) in self.written(agents, end) {
            if let Some(agent) = agent.filter(|_| message.is_side) {
                by_tool.entry(&agent.parent_tool_use_id).or_insert(&agent.agent_id);
            }
        }
        // Most results answer no call that spawns an agent, and then the agents before the piece are not needed.
        let is_of_agent = |event: &Pending<'_>| event.link.is_some_and(|id| state.graph.is_spawn(id));
        if !self.log.options.as_reference && events.iter().any(is_of_agent) {
            state.find_agents(answers);
        }
        for pending in events.into_iter().filter(|pending| pending.at < end) {
            let agent = pending
                .link
                .and_then(|id| by_tool.get(id).copied().or_else(|| state.agents.get(id).map(Vec::as_slice)));
            gathered.tool_result_events.push(pending.finish(&mut gathered.texts, |record| {
                record.maybe_text("agentId", agent);
            }));
        }
    }

    fn add_content(&mut self, end: u64, gathered: &mut Gathered) {
        let mut content = std::mem::take(&mut self.content);
        content.sort_by_key(|pending| pending.at);
        for pending in content.into_iter().filter(|pending| pending.at < end) {
            let message = pending.message.map(|index| &self.messages[index as usize]);
            if message.is_none_or(|message| self.log.is_written(message, end)) {
                let owner = pending.user_turn.and_then(|turn| self.user_turns[turn].owner);
                let (line, owner) = (Some((pending.at, 0)), pending.message.or(owner));
                gathered.content.push(PassRecord { line, owner, ..PassRecord::at(pending.text) });
            }
        }
    }

    /// Brings the state to the lines before `end`.
    fn pass_on(self, end: u64, state: &mut State) {
        state.marker_is_held = self.marker_at.is_some_and(|at| at >= end);
        for (at, id) in self.event_calls {
            if at < end {
                *state.calls.entry(id.to_vec()).or_default() += 1;
                state.events += 1;
            }
        }
        if let Some((_, id)) = self.last_messages.into_iter().rfind(|(at, _)| *at < end) {
            state.last_message = Some(id.to_vec());
        }
        let prompt = match self.log.options.as_reference {
            true => self.prompts.last(),
            false => self.prompts.iter().rfind(|(at, _)| *at < end),
        };
        if let Some((_, prompt)) = prompt {
            state.prompt = Some(prompt.clone());
        }
        for message in self.messages.into_iter().filter(|message| message.at < end) {
            let (ts, session) = (message.ts.unwrap_or_default().into(), message.session.map(Into::into));
            state.side_messages.extend(message.uuid.filter(|_| message.is_side));
            let known = KnownMessage { cache_read: message.counts.cache_read, ts, session };
            state.known.insert(message.id.to_vec(), known);
        }
    }

    /// The agent of a message on a side chain.
    fn agent_of(
        &self,
        message: &ClaudeMessage<'_>,
        state: &State,
        answers: &mut Answers,
    ) -> Option<Rc<Invocation>> {
        if !message.is_side {
            return None;
        }
        let invocation = message.uuid.as_ref().and_then(|uuid| state.graph.invocation(uuid, answers));
        if invocation.is_some() || self.log.options.as_reference {
            return invocation;
        }
        Some(Rc::new(Invocation {
            agent_id: message.agent_id?.to_vec(),
            parent_tool_use_id: Vec::new(),
            subagent_type: None,
            description: None,
            parent_agent_id: None,
        }))
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

//! Reads a rollout line by line into turns, events, relationships and user turns.
//!
//! The end of a turn *commits*: all records made so far are written, and later records wait for the next end. The
//! engine runs with the rules of the TypeScript package, for its records and its cursors, or with our rules. With our
//! rules a log is always read from its beginning, so that any number of passes gives the lines of one.

mod items;
mod records;

use std::collections::{HashMap, HashSet};

pub(super) use records::{written_of, written_text};

use super::parts::{self, RolloutCall, RolloutCounts, SpawnedAgent};
use crate::agents::GivenUp;
use crate::agents::activity::{TurnWords, classify};
use crate::agents::calls::ToolCall;
use crate::agents::content::ContentHead;
use crate::agents::fidelity::{Coverage, Usage};
use crate::agents::js::{self, RecordText};
use crate::agents::ledger_turns::LedgerTurn;
use crate::agents::measure::{self, HexDigits};
use crate::agents::pass::{ContentMode, Gathered, PassRecord, Reason};
use crate::agents::project::ProjectKeys;
use crate::agents::terms::{RequestSizes, TurnTerms, extraordinary};
use crate::record::{Hasher, Id};
use crate::scan::json::{Kind, Value, is_array_index_key};

/// The rules of one reading.
pub(super) struct RolloutRules<'r> {
    pub as_reference: bool,
    pub content: ContentMode,
    pub session_path: Vec<u8>,
    pub projects: &'r ProjectKeys,
    /// For our rules: the session of the log, its ancestors, and the turns of the ancestors' logs.
    pub own: Own,
    /// Whether the log has a version that names no turns. Its turns begin at user messages.
    pub has_no_turn_lines: bool,
}

/// The session of a log, and its origin.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    pub session: Vec<u8>,
    /// Whether the log's own head and the line after it were read. Without them, a later pass may know more.
    pub has_head: bool,
    pub parent: Option<Vec<u8>>,
    /// Creation time of the session, in milliseconds since 1970.
    pub created_ms: Option<f64>,
    pub is_child: bool,
    pub agent_role: Option<Vec<u8>>,
    pub agent_name: Option<Vec<u8>>,
    pub is_fork: bool,
    /// Turn ids of the ancestors' logs.
    pub ancestors_turns: std::sync::Arc<HashSet<Vec<u8>>>,
    /// Byte offset after the last count that repeats the parent's log, if the parent's log names no turns.
    pub repeats_until: u64,
}

impl Own {
    /// Returns whether a turn with this id that starts with this line repeats the history of a parent.
    fn is_replay(&self, id: &[u8], line: &RolloutLine<'_>) -> bool {
        if self.parent.is_none() {
            return false;
        }
        let is_older = |millis: Option<f64>, slack: f64| {
            millis.zip(self.created_ms).is_some_and(|(millis, created)| millis + slack < created)
        };
        self.is_in_log_of_ancestor(id, line.at)
            || is_older(parts::millis_of_uuid7(id), 0.0)
            || is_older(parts::millis_of(line.stamp), 1000.0)
    }

    /// Returns whether the log of an ancestor has the turn that begins at byte `at` of this log.
    fn is_in_log_of_ancestor(&self, id: &[u8], at: u64) -> bool {
        self.ancestors_turns.contains(id) || at < self.repeats_until
    }
}

/// A block of a user turn: a text or a result between two turns.
#[derive(Debug, Clone)]
struct Block {
    /// Of a result.
    call: Option<Vec<u8>>,
    byte_len: usize,
    tokens: usize,
    is_error: bool,
    /// The block's JSON text from a cursor.
    raw: Option<Vec<u8>>,
}

impl Block {
    fn text(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut block = RecordText::default();
        block.text("kind", if self.call.is_some() { b"tool_result" } else { b"text" });
        block.maybe_text("toolUseId", self.call.as_deref());
        block.count("byteLen", self.byte_len);
        block.count("approxTokens", self.tokens);
        block.flag_if("isError", self.is_error);
        block.finish()
    }
}

fn blocks_text(blocks: &[Block]) -> Vec<u8> {
    let texts: Vec<Vec<u8>> = blocks.iter().map(Block::text).collect();
    [b"[".to_vec(), texts.join(&b','), b"]".to_vec()].concat()
}

#[derive(Debug, Clone, Default)]
struct Gap {
    blocks: Vec<Block>,
    ts: Vec<u8>,
    preceding: Option<Vec<u8>>,
    /// Whether the preceding turn ended without a `task_complete`.
    is_behind_unfinished: bool,
}

impl Gap {
    /// Adds a block that was written at `stamp`.
    fn add(&mut self, block: Block, stamp: &[u8]) {
        self.blocks.push(block);
        if self.ts.is_empty() {
            self.ts = stamp.to_vec();
        }
    }
}

struct RolloutEvent {
    call: Vec<u8>,
    call_index: usize,
    event_index: usize,
    status: &'static str,
    source: &'static str,
    message: Option<Vec<u8>>,
    ts: Vec<u8>,
    is_error: bool,
    is_settled_error: bool,
    measures: Option<(usize, HexDigits)>,
    agent: Option<Vec<u8>>,
}

struct ContentLine {
    session: Vec<u8>,
    ts: Vec<u8>,
    role: &'static str,
    kind: &'static str,
    body: (&'static str, Vec<u8>),
}

#[derive(Default)]
struct Turn {
    id: Vec<u8>,
    ts: Vec<u8>,
    model: Vec<u8>,
    project: Option<Vec<u8>>,
    start: [f64; 4],
    end: [f64; 4],
    used: RolloutCounts,
    has_usage: bool,
    sizes: RequestSizes,
    /// With our rules: the service tier at the beginning of the turn. A change during the turn applies to the next
    /// turn.
    tier: Option<Vec<u8>>,
    /// With our rules: the gap before the turn, until the first answer, call or result, because newer versions write
    /// the prompt after the beginning of its turn.
    before: Option<Gap>,
    prompt: Vec<u8>,
    answer: Vec<u8>,
    calls: Vec<ToolCall>,
    call_ids: HashSet<Vec<u8>>,
    failed: HashSet<Vec<u8>>,
    touched: Vec<Vec<u8>>,
    events: Vec<RolloutEvent>,
    rows: Vec<Vec<u8>>,
    content: Vec<ContentLine>,
    spawned: HashMap<Vec<u8>, SpawnedAgent>,
    is_replay: bool,
    /// With our rules: an earlier turn of this log with the same id, which gets the usage.
    same_as: Option<usize>,
    /// Offset and length of the first line.
    place: (u64, u64),
    closed_at: u64,
}

/// A record, and the offset at which the turn ended that commits it.
struct Made<T> {
    what: T,
    at: u64,
}

/// A user turn, and the id under which the TypeScript package may have written it.
struct UserTurn {
    text: Vec<u8>,
    other_id: Option<Id>,
}

/// The state at the last end of a turn.
#[derive(Clone, Default)]
struct Frozen {
    offset: u64,
    session: Vec<u8>,
    folder: Option<Vec<u8>>,
    counters: [f64; 4],
    gap: Gap,
    has_root: bool,
    next_event: usize,
    last: Option<(Vec<u8>, f64)>,
    contexts: usize,
    counted: usize,
    turns: usize,
    relationships: usize,
    events: usize,
    compactions: usize,
    user_turns: usize,
}

/// A turn context: model and folder, and the text that a cursor keeps.
struct Context {
    id: Vec<u8>,
    text: Vec<u8>,
    model: Option<Vec<u8>>,
    folder: Option<Vec<u8>>,
    has_odd_folder: bool,
}

/// The usage of a turn that was already written, and the number of its ids.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Written {
    pub used: RolloutCounts,
    pub times: usize,
    pub calls: usize,
    /// Whether only the ledger tells of the turn. The TypeScript package may have written it, which knows fewer calls.
    pub is_from_ledger: bool,
}

impl Written {
    /// Adds a part that the ledger has. Returns whether it was lacking; the parts of a turn are appended in order.
    pub(super) fn add(&mut self, turn: &LedgerTurn) -> bool {
        let is_lacking = turn.number >= self.times;
        if is_lacking {
            self.used = self.used.plus(RolloutCounts::of_usage(turn.usage));
            self.times = turn.number + 1;
            self.calls += turn.calls;
            self.is_from_ledger = true;
        }
        is_lacking
    }
}

/// The id and the place under which a turn is written.
struct TurnPlace<'t> {
    id: &'t [u8],
    index: usize,
    /// The first call that was not written before.
    first_call: usize,
}

pub(super) struct Engine<'r> {
    rules: RolloutRules<'r>,
    now: Frozen,
    frozen: Frozen,
    contexts: Vec<Context>,
    context_of: HashMap<Vec<u8>, usize>,
    /// Calls in the order of their results, those of the cursor first.
    counted: Vec<Vec<u8>>,
    counter_of: HashMap<Vec<u8>, usize>,
    /// Counters from a cursor, in its order.
    counters_before: Vec<(Vec<u8>, usize)>,
    open: Option<Turn>,
    pending_prompt: Vec<u8>,
    pending_content: Vec<ContentLine>,
    links: HashSet<(Vec<u8>, Vec<u8>, bool)>,
    turns: Vec<Turn>,
    relationships: Vec<Made<Vec<u8>>>,
    events: Vec<Made<RolloutEvent>>,
    compactions: Vec<Made<Vec<u8>>>,
    user_turns: Vec<Made<UserTurn>>,
    totals: Option<RolloutCounts>,
    /// The input of the last call: the size of the context.
    context_size: Option<f64>,
    /// Usage before the first turn.
    early: RolloutCounts,
    early_sizes: RequestSizes,
    /// The provider that serves the session, unless OpenAI does.
    provider: Option<Vec<u8>>,
    tier: Option<Vec<u8>>,
    has_own_turn: bool,
    names_turns: bool,
    has_activity: bool,
    is_behind_answer: bool,
    legacy_turns: usize,
}

/// A parsed line. Several engines share one parse.
pub(super) struct RolloutLine<'d> {
    pub kind: &'d [u8],
    pub payload: Value<'d>,
    pub payload_kind: &'d [u8],
    pub stamp: &'d [u8],
    /// Byte offset of the line.
    at: u64,
    /// Byte offset of the next line.
    pub end: u64,
    tokens: std::cell::OnceCell<usize>,
}

impl<'d> RolloutLine<'d> {
    pub(super) fn of(value: Value<'d>, (at, end): (u64, u64)) -> Result<Self, Reason> {
        let payload =
            value.get("payload").filter(|payload| matches!(payload.kind(), Kind::Object | Kind::Array));
        let payload = payload.ok_or(Reason::NotARecord)?;
        Ok(RolloutLine {
            kind: js::any_text(value, "type").unwrap_or_default(),
            payload,
            payload_kind: js::any_text(payload, "type").unwrap_or_default(),
            stamp: js::any_text(value, "timestamp").unwrap_or_default(),
            at,
            end,
            tokens: std::cell::OnceCell::new(),
        })
    }

    fn tokens_of(&self, text: &[u8]) -> usize {
        *self.tokens.get_or_init(|| measure::approx_tokens(text))
    }
}

impl<'r> Engine<'r> {
    pub(super) fn new(rules: RolloutRules<'r>, offset: u64) -> Self {
        let mut now = Frozen { offset, ..Frozen::default() };
        if !rules.as_reference {
            now.session = rules.own.session.clone();
        }
        Engine {
            rules,
            frozen: now.clone(),
            now,
            contexts: Vec::new(),
            context_of: HashMap::new(),
            counted: Vec::new(),
            counter_of: HashMap::new(),
            counters_before: Vec::new(),
            open: None,
            pending_prompt: Vec::new(),
            pending_content: Vec::new(),
            links: HashSet::new(),
            turns: Vec::new(),
            relationships: Vec::new(),
            events: Vec::new(),
            compactions: Vec::new(),
            user_turns: Vec::new(),
            totals: None,
            context_size: None,
            early: RolloutCounts::default(),
            early_sizes: RequestSizes::default(),
            provider: None,
            tier: None,
            has_own_turn: false,
            names_turns: false,
            has_activity: false,
            is_behind_answer: false,
            legacy_turns: 0,
        }
    }

    /// Continues from a cursor of the TypeScript package.
    pub(super) fn resume(&mut self, cursor: Value<'_>) {
        let now = &mut self.now;
        let any = |key| js::any_text(cursor, key).map(<[u8]>::to_vec);
        if let Some(counters) = cursor.get("cumulative") {
            let count = |key| js::number(counters, key).unwrap_or(0.0);
            now.counters = ["input", "output", "cacheRead", "reasoning"].map(count);
        }
        now.session = any("sessionId").unwrap_or_default();
        now.folder = any("sessionCwd");
        if let Some(slot) = cursor.get("userTurnSlot") {
            let block = |value| Block {
                call: None,
                byte_len: 0,
                tokens: 0,
                is_error: false,
                raw: Some(js::json(value)),
            };
            now.gap.blocks = slot.get("blocks").into_iter().flat_map(Value::items).map(block).collect();
            now.gap.ts = js::any_text(slot, "ts").unwrap_or_default().to_vec();
            now.gap.preceding = js::any_text(slot, "precedingMessageId").map(<[u8]>::to_vec);
        }
        now.has_root = js::is_true(cursor, "rootSessionEmitted");
        now.next_event = js::number(cursor, "nextEventIndex").unwrap_or(0.0) as usize;
        now.last = cursor.get("lastCompletedTurn").and_then(|last| {
            let id = js::any_text(last, "messageId")?.to_vec();
            Some((id, js::number(last, "cacheRead").unwrap_or(0.0)))
        });
        for (call, count) in cursor.get("toolResultCounters").into_iter().flat_map(Value::members) {
            let count = count.as_number().map_or(0, |count| count.as_f64() as usize);
            self.counters_before.push((call.as_wtf8().to_vec(), count));
            self.counter_of.insert(call.as_wtf8().to_vec(), count);
        }
        for (id, context) in cursor.get("turnContexts").into_iter().flat_map(Value::members) {
            self.add_context(id.as_wtf8(), context);
        }
        self.now.contexts = self.contexts.len();
        self.frozen = self.now.clone();
    }

    /// Returns whether the log names its turns, and whether it has work of an agent.
    pub(super) fn looks_like_a_log_without_turn_lines(&self) -> bool {
        !self.names_turns && self.has_activity
    }

    /// The id of the open turn, and offset and length of its first line.
    pub(super) fn open_turn(&self) -> Option<(&[u8], (u64, u64))> {
        self.open.as_ref().map(|turn| (&turn.id[..], turn.place))
    }

    /// The ids of the turns that ended and are no replays.
    pub(super) fn own_turns(&self) -> impl Iterator<Item = &[u8]> {
        self.turns.iter().filter(|turn| !turn.is_replay).map(|turn| &turn.id[..])
    }

    fn add_context(&mut self, id: &[u8], payload: Value<'_>) {
        let folder = js::present(payload, "cwd");
        self.context_of.insert(id.to_vec(), self.contexts.len());
        self.contexts.push(Context {
            id: id.to_vec(),
            text: js::json_or(Some(payload).filter(|_| self.rules.as_reference), b""),
            model: js::any_text(payload, "model").map(<[u8]>::to_vec),
            folder: folder.and_then(js::wtf8).map(<[u8]>::to_vec),
            has_odd_folder: folder.is_some_and(|folder| folder.kind() != Kind::String),
        });
        self.now.contexts = self.contexts.len();
    }

    /// Adds a line. Returns the reason if the line has nothing to keep.
    pub(super) fn line(&mut self, line: &RolloutLine<'_>) -> Result<Option<Reason>, GivenUp> {
        self.now.offset = line.end;
        let payload = line.payload;
        let mut kept = true;
        match line.kind {
            b"session_meta" => self.session_meta(line),
            b"turn_context" => {
                self.take_tier(payload);
                if let Some(id) = js::any_text(payload, "turn_id") {
                    self.add_context(id, payload);
                    self.fill_open_turn(id);
                } else if self.rules.has_no_turn_lines {
                    self.add_context(b"", payload);
                } else {
                    kept = false;
                }
            }
            b"compacted" => self.compacted(line),
            b"event_msg" => kept = self.event_message(line)?,
            b"response_item" => kept = self.response_item(line)?,
            _ => return Ok(Some(Reason::UnknownType)),
        }
        let is_replayed = self.open.as_ref().is_some_and(|turn| turn.is_replay);
        Ok(match (kept, is_replayed) {
            (_, true) => Some(Reason::Replay),
            (true, false) => None,
            (false, false) => Some(Reason::NothingToKeep),
        })
    }

    /// Reads the service tier of settings that have one.
    fn take_tier(&mut self, settings: Value<'_>) {
        if let Some(tier) = settings.get("service_tier") {
            self.tier = js::wtf8(tier).and_then(extraordinary);
        }
    }

    fn fill_open_turn(&mut self, id: &[u8]) {
        let (Some(turn), Some(context)) = (&mut self.open, self.contexts.last()) else { return };
        if turn.id == id {
            if turn.model.is_empty() {
                turn.model = context.model.clone().unwrap_or_default();
            }
            turn.project = turn.project.take().or_else(|| context.folder.clone());
        }
    }

    fn session_meta(&mut self, line: &RolloutLine<'_>) {
        let payload = line.payload;
        let id = js::text(payload, "id");
        if self.rules.as_reference {
            if let Some(id) = id {
                self.now.session = id.to_vec();
            }
        } else if id.is_some_and(|id| id != self.now.session) {
            // This is the parent's line, before the parent's history.
            return;
        }
        if let Some(provider) = js::text(payload, "model_provider") {
            self.provider = Some(provider.to_vec()).filter(|provider| provider != b"openai");
        }
        if let Some(folder) = js::any_text(payload, "cwd") {
            self.now.folder = Some(folder.to_vec());
            if let Some(turn) = self.open.as_mut().filter(|turn| turn.project.is_none()) {
                turn.project = Some(folder.to_vec());
            }
        }
        if self.now.session.is_empty() || (!self.rules.as_reference && id.is_none()) {
            return;
        }
        let session = self.now.session.clone();
        let source_session = js::first_text(payload, &["sourceSessionId", "source_session_id"]);
        let version = js::first_text(payload, &["cli_version", "version"]);
        let own_ts = js::any_text(payload, "timestamp");
        let ends = |record: &mut RecordText| {
            record.maybe_text("sourceSessionId", source_session);
            record.maybe_text("sourceVersion", version);
        };
        let mut rows = Vec::new();
        if !self.now.has_root {
            self.now.has_root = true;
            let mut row = RecordText::of("codex");
            row.text("sessionId", &session);
            row.text("relationshipType", b"root");
            row.maybe_text("ts", Some(own_ts.unwrap_or(line.stamp)).filter(|ts| !ts.is_empty()));
            ends(&mut row);
            rows.push(row.finish());
            if !self.rules.as_reference {
                rows.extend(self.rows_of_parent(line, version));
            }
        }
        let ts = js::text(payload, "timestamp").unwrap_or(line.stamp);
        for (is_fork, keys) in [
            (true, ["forkSessionId", "fork_session_id"]),
            (false, ["continuedFromSessionId", "continued_from_session_id"]),
        ] {
            let Some(target) = js::first_text(payload, &keys).filter(|target| *target != session) else {
                continue;
            };
            if !self.links.insert((session.clone(), target.to_vec(), is_fork)) {
                continue;
            }
            let mut row = RecordText::of("codex");
            row.text("sessionId", &session);
            row.text("relatedSessionId", target);
            row.text("relationshipType", if is_fork { b"fork" } else { b"continuation" });
            row.text("ts", ts);
            ends(&mut row);
            rows.push(row.finish());
        }
        let made = rows.into_iter().map(|what| Made { what, at: 0 });
        self.relationships.extend(made);
        self.now.relationships = self.relationships.len();
    }

    /// With our rules: the relationship of a fork or of a child.
    fn rows_of_parent(&self, line: &RolloutLine<'_>, version: Option<&[u8]>) -> Option<Vec<u8>> {
        let own = &self.rules.own;
        let parent = own.parent.as_deref()?;
        let ts = js::text(line.payload, "timestamp").unwrap_or(line.stamp);
        let mut row = RecordText::of("codex");
        row.text("sessionId", &own.session);
        if own.is_child {
            row.text("relationshipType", b"subagent");
            row.text("relatedSessionId", parent);
            row.text("agentId", &own.session);
            row.maybe_text("subagentType", own.agent_role.as_deref());
            row.maybe_text("description", own.agent_name.as_deref());
            row.text("ts", ts);
        } else if own.is_fork {
            row.text("relatedSessionId", parent);
            row.text("relationshipType", b"fork");
            row.text("ts", ts);
        } else {
            return None;
        }
        row.maybe_text("sourceVersion", version);
        Some(row.finish())
    }

    /// Returns whether the current lines repeat the history of a parent.
    fn is_in_replay(&self) -> bool {
        match &self.open {
            Some(turn) => turn.is_replay,
            None => !self.has_own_turn && self.turns.iter().any(|turn| turn.is_replay),
        }
    }

    fn compacted(&mut self, line: &RolloutLine<'_>) {
        if self.now.session.is_empty() || self.is_in_replay() {
            return;
        }
        let mut record = RecordText::of("codex");
        record.text("sessionId", &self.now.session);
        record.text("ts", line.stamp);
        if let Some((id, cache_read)) = &self.now.last {
            record.text("precedingMessageId", id);
            let size = self.context_size.filter(|_| !self.rules.as_reference);
            record.number("tokensBeforeCompact", size.unwrap_or(*cache_read));
        }
        self.compactions.push(Made { what: record.finish(), at: 0 });
        self.now.compactions = self.compactions.len();
    }

    fn event_message(&mut self, line: &RolloutLine<'_>) -> Result<bool, GivenUp> {
        let payload = line.payload;
        let turn_id = js::any_text(payload, "turn_id");
        let is_open = |turn: &Option<Turn>| turn.as_ref().is_some_and(|turn| Some(&turn.id[..]) == turn_id);
        match line.payload_kind {
            b"task_started" => match turn_id {
                Some(id) => self.start_turn(id.to_vec(), line)?,
                None => return Ok(false),
            },
            b"task_complete" if is_open(&self.open) => self.end_turn(line.end, true)?,
            b"turn_aborted" if !self.rules.as_reference && (is_open(&self.open) || turn_id.is_none()) => {
                self.end_turn(line.end, true)?;
                self.now.gap.is_behind_unfinished = true;
                self.frozen.gap.is_behind_unfinished = true;
            }
            b"token_count" => return Ok(self.token_count(payload)),
            b"thread_settings_applied" if !self.rules.as_reference => {
                let settings = payload.get("thread_settings").or_else(|| payload.get("settings"));
                let Some(settings) = settings else { return Ok(false) };
                self.take_tier(settings);
            }
            b"exec_command_end" if is_open(&self.open) => {
                let code = payload.get("exit_code").and_then(Value::as_number).map(|code| code.as_f64());
                if let (Some(code), Some(call), Some(turn)) =
                    (code, js::any_text(payload, "call_id"), &mut self.open)
                    && code != 0.0
                {
                    turn.failed.insert(call.to_vec());
                }
            }
            b"patch_apply_end" if is_open(&self.open) => {
                let Some(turn) = &mut self.open else { return Ok(false) };
                if payload.get("success").and_then(Value::as_bool) == Some(false) {
                    turn.failed.extend(js::any_text(payload, "call_id").map(<[u8]>::to_vec));
                } else if let Some(changes) = payload.get("changes") {
                    let files = changes.members().map(|(file, _)| file.as_wtf8().to_vec());
                    let indices = (0..changes.items().count()).map(|index| index.to_string().into_bytes());
                    for file in files.chain(indices) {
                        if !turn.touched.contains(&file) {
                            turn.touched.push(file);
                        }
                    }
                }
            }
            kind if kind.starts_with(b"subagent_")
                && [&b"_complete"[..], b"_done", b"_finished", b"_terminated"]
                    .iter()
                    .any(|end| kind.ends_with(end)) =>
            {
                let Some(call) = js::text(payload, "call_id") else { return Ok(false) };
                self.notification(call, line);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn token_count(&mut self, payload: Value<'_>) -> bool {
        let Some(info) = payload.get("info") else { return false };
        let Some(totals) = info.get("total_token_usage").filter(|totals| totals.is_truthy()) else {
            return false;
        };
        self.has_activity = true;
        self.is_behind_answer = true;
        let counts = RolloutCounts::of(totals);
        self.now.counters = [counts.input - counts.cached, counts.output, counts.cached, counts.reasoning];
        let last =
            info.get("last_token_usage").filter(|last| last.kind() == Kind::Object).map(RolloutCounts::of);
        let (counts, last) = (counts.finite(), last.map(RolloutCounts::finite));
        let step = RolloutCounts::step(self.totals, counts, last);
        self.totals = Some(counts);
        self.context_size = last.map(|last| last.input).or(self.context_size);
        let (used, sizes) = match (&mut self.open, self.turns.last_mut()) {
            (Some(turn), _) => {
                turn.has_usage = true;
                (&mut turn.used, &mut turn.sizes)
            }
            (None, Some(turn)) => {
                turn.has_usage |= !self.rules.as_reference;
                (&mut turn.used, &mut turn.sizes)
            }
            (None, None) => (&mut self.early, &mut self.early_sizes),
        };
        *used = used.plus(step);
        if !step.is_zero() {
            // A step that differs from the usage of the last request may be the usage of several requests.
            sizes.add(step.input, last == Some(step));
        }
        true
    }

    fn start_turn(&mut self, id: Vec<u8>, line: &RolloutLine<'_>) -> Result<(), GivenUp> {
        self.names_turns |= !self.rules.has_no_turn_lines;
        let at_before = line.end;
        if self.open.is_some() {
            if self.rules.as_reference {
                self.close_unfinished();
            } else {
                self.end_turn(at_before, true)?;
                self.now.gap.is_behind_unfinished = true;
            }
        }
        let is_replay = !self.rules.as_reference && self.rules.own.is_replay(&id, line);
        let gap = std::mem::take(&mut self.now.gap);
        if self.rules.as_reference {
            self.add_user_turn(&gap, &id, line.stamp);
        }
        let key: &[u8] = if self.rules.has_no_turn_lines { b"" } else { &id };
        let context = self.context_of.get(key).map(|at| &self.contexts[*at]);
        let mut turn =
            Turn { ts: line.stamp.to_vec(), start: self.now.counters, is_replay, ..Turn::default() };
        if let Some(context) = context {
            if context.has_odd_folder && self.rules.as_reference {
                return Err(GivenUp("a folder that is no text"));
            }
            turn.model = context.model.clone().unwrap_or_default();
            turn.project = context.folder.clone();
        }
        turn.project = turn.project.or_else(|| self.now.folder.clone());
        turn.prompt = std::mem::take(&mut self.pending_prompt);
        turn.content = std::mem::take(&mut self.pending_content);
        if is_replay {
            turn.content.clear();
        }
        if !self.rules.as_reference {
            turn.same_as = self.turns.iter().position(|before| before.id == id && before.same_as.is_none());
            // What precedes the turns of a fork is its parent's.
            if self.turns.is_empty() && self.rules.own.parent.is_none() {
                turn.used = std::mem::take(&mut self.early);
                turn.sizes = std::mem::take(&mut self.early_sizes);
                turn.has_usage = !turn.used.is_zero();
            }
            turn.before = Some(gap).filter(|_| !is_replay);
            turn.tier.clone_from(&self.tier);
        }
        turn.id = id;
        turn.place = (line.at, line.end - line.at);
        self.has_own_turn |= !is_replay;
        self.is_behind_answer = false;
        self.open = Some(turn);
        Ok(())
    }

    /// With our rules: after an answer, a call or a result, nothing more belongs to the gap before the open turn.
    fn close_gap_before(&mut self) {
        let Some(turn) = &mut self.open else { return };
        let Some(gap) = turn.before.take() else { return };
        let (id, ts) = (turn.id.clone(), turn.ts.clone());
        self.add_user_turn(&gap, &id, &ts);
    }

    fn add_user_turn(&mut self, gap: &Gap, following: &[u8], stamp: &[u8]) {
        if gap.blocks.is_empty() {
            return;
        }
        let mut record = RecordText::of("codex");
        record.text("sessionId", &self.now.session);
        let before = gap.preceding.as_deref().unwrap_or(b"start");
        record.text("userUuid", &[&self.now.session[..], b":", before, b"->", following].concat());
        record.text("ts", if gap.ts.is_empty() { stamp } else { &gap.ts });
        record.raw("blocks", &blocks_text(&gap.blocks));
        record.text("followingMessageId", following);
        record.maybe_text("precedingMessageId", gap.preceding.as_deref());
        // The TypeScript package drops a turn that did not complete.
        let other_id = (gap.is_behind_unfinished && gap.preceding.is_some()).then(|| {
            let session = js::to_utf8(&self.now.session);
            let other = format!("{session}:start->{}", js::to_utf8(following));
            Hasher::default().id_of_parts(&["codex", &session, &other])
        });
        self.user_turns.push(Made { what: UserTurn { text: record.finish(), other_id }, at: 0 });
        self.now.user_turns = self.user_turns.len();
    }

    /// The TypeScript package keeps a turn that another turn interrupts, without its events and relationships.
    fn close_unfinished(&mut self) {
        if let Some(mut turn) = self.open.take() {
            turn.end = self.now.counters;
            turn.events.clear();
            turn.rows.clear();
            self.turns.push(turn);
            self.now.turns = self.turns.len();
        }
    }

    /// Ends the open turn, if there is one, so that all records so far may be written.
    pub(super) fn end_turn(&mut self, at: u64, commits: bool) -> Result<(), GivenUp> {
        self.close_gap_before();
        let Some(mut turn) = self.open.take() else { return Ok(()) };
        turn.end = self.now.counters;
        for event in &mut turn.events {
            let has_failed = turn.failed.contains(&event.call);
            if has_failed && event.status != "errored" {
                event.status = "errored";
                event.is_settled_error = true;
            } else if event.status == "unknown" {
                event.status = "completed";
            }
        }
        for block in &mut self.now.gap.blocks {
            block.is_error |= block.call.as_ref().is_some_and(|call| turn.failed.contains(call));
        }
        let events = std::mem::take(&mut turn.events);
        let rows = std::mem::take(&mut turn.rows);
        if turn.is_replay {
            self.now.gap = Gap::default();
        } else {
            self.events.extend(events.into_iter().map(|what| Made { what, at: 0 }));
            self.relationships.extend(rows.into_iter().map(|what| Made { what, at: 0 }));
            self.now.gap.preceding = Some(turn.id.clone());
            let cache_read = if self.rules.as_reference {
                (turn.end[2] - turn.start[2]).max(0.0)
            } else {
                turn.used.cached
            };
            self.now.last = Some((turn.id.clone(), cache_read));
        }
        turn.closed_at = at;
        self.turns.push(turn);
        self.now.turns = self.turns.len();
        self.now.events = self.events.len();
        self.now.relationships = self.relationships.len();
        self.is_behind_answer = true;
        if commits {
            self.commit(at);
        }
        Ok(())
    }

    /// Freezes the state and commits all records made so far.
    fn commit(&mut self, at: u64) {
        let before = &self.frozen;
        self.relationships[before.relationships..].iter_mut().for_each(|made| made.at = at);
        self.events[before.events..].iter_mut().for_each(|made| made.at = at);
        self.compactions[before.compactions..].iter_mut().for_each(|made| made.at = at);
        self.user_turns[before.user_turns..].iter_mut().for_each(|made| made.at = at);
        self.now.offset = at;
        self.frozen = self.now.clone();
    }
}

//! Chats of Gemini CLI: one JSON object a session, or a log of changes to one.
//!
//! Touches only Gemini's files, for reading. A changed chat is read from its beginning, and one session is in memory at
//! a time. Messages that a rewind took back still count, because their tokens were spent.

mod chat;
mod note;

use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use self::chat::{Chat, ChatMessage};
use self::note::{ChatNote, WrittenMessage};
use super::activity::{ActivityCall, TurnWords, classify};
use super::calls::{ToolCall, args_hash, files_touched};
use super::content::ContentHead;
use super::fidelity::{Coverage, Usage, beyond, token_count};
use super::js::{self, RecordText};
use super::ledger_turns::LedgerTurns;
use super::lines::LineSource;
use super::measure::{self, UserBlock};
use super::pass::{
    Agent, Candidate, Common, ContentMode, Gathered, HandOver, Handed, Pass, PassRecord, Prepared, Reason,
    RootsOf,
};
use super::walk::Unreadable;
use super::{AgentsError, walk};
use crate::disk;
use crate::scan::json::{Document, Kind, Value, trim_js};

const SOURCE: &str = "gemini-cli";

/// The longest chat of one JSON object that is read.
const FILE_MAX_BYTES: u64 = 512 << 20;

/// Returns the folder `.gemini`.
pub(super) fn roots(of: &RootsOf<'_>) -> Vec<PathBuf> {
    let user = (of.variable)("GEMINI_CLI_HOME").unwrap_or_else(|| of.user.to_owned());
    vec![user.join(".gemini")]
}

/// Returns the chats of all projects: files before folders, by name.
pub(super) fn discover(root: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<Candidate> {
    let mut found = Vec::new();
    if as_reference {
        return found;
    }
    for project in walk::folders(&root.join("tmp"), as_reference, unreadable) {
        let entries = walk::entries(&project.join("chats"), as_reference, unreadable);
        let candidate = |path| Candidate { agent: Agent::Gemini, path, extra: Some(project.clone()) };
        let chats = walk::logs(&entries, as_reference, is_chat, unreadable);
        found.extend(chats.into_iter().map(candidate));
        let is_child = |path: &Path| walk::has_extension(path, "jsonl") && !is_set_aside(path);
        for folder in entries.iter().filter(|entry| entry.is_folder) {
            let children = walk::entries(&folder.path, as_reference, unreadable);
            let chats = walk::logs(&children, as_reference, is_child, unreadable);
            found.extend(chats.into_iter().map(candidate));
        }
    }
    found
}

fn is_set_aside(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains(".tmp-") || name.contains(".unreadable-")
}

fn is_chat(path: &Path) -> bool {
    let is_named = path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b"session-");
    let is_json = walk::has_extension(path, "json") || walk::has_extension(path, "jsonl");
    is_named && is_json && !is_set_aside(path)
}

/// Reads the turns of the ledger that the notes may lack. The session of a chat is known from its note, else once the chat
/// is read.
pub(super) fn prepare(common: &Common<'_>, candidates: &[Candidate]) -> Result<Prepared, AgentsError> {
    if common.options.as_reference {
        return Ok(Prepared::default());
    }
    let session_of = |candidate: &Candidate| ChatNote::of(&(common.side)(&candidate.path)?)?.session;
    let sessions = LazyCell::new(|| candidates.iter().map(session_of).collect::<Option<HashSet<Vec<u8>>>>());
    let from = common.noted.start(|session| sessions.as_ref().is_none_or(|known| known.contains(session)));
    let written = LedgerTurns::read(common.home, SOURCE, &common.noted, from)?;
    Ok(Prepared { written, ..Prepared::default() })
}

/// Reads a chat.
pub(super) fn read(pass: &Pass<'_>, hand: &mut HandOver<'_>) -> Result<(), AgentsError> {
    hand(read_at_once(pass)?);
    Ok(())
}

fn read_at_once(pass: &Pass<'_>) -> Result<Handed, AgentsError> {
    let in_ledger = pass.prepared.map(|prepared| &prepared.written);
    let mut before = pass.side.and_then(ChatNote::of);
    let is_behind = before.as_mut().is_some_and(|before| before.add_written(in_ledger));
    let is_unchanged =
        before.as_ref().is_some_and(|before| before.stat == pass.stat && before.session.is_some());
    let changed_ms = pass.changed_ms(before.as_ref().map(|before| (before.stat, before.changed_ms)));
    let is_at_rest = pass.options.has_settled(pass.stat.mtime_ms, changed_ms);
    let waits = before.as_ref().is_some_and(|before| before.waits);
    if is_unchanged && !is_behind && !(is_at_rest && waits) {
        return Ok(Handed::Unchanged(None));
    }
    let mut gathered = Gathered { session_mtime_ms: pass.stat.mtime_ms, ..Gathered::default() };
    let chat = chat_of(pass, &mut gathered)?;
    let mut note = ChatNote { stat: pass.stat, changed_ms, ..before.unwrap_or_default() };
    note.waits = false;
    // A chat without a session has no turns in the ledger.
    note.session = Some(chat.as_ref().map(|chat| chat.session.clone()).unwrap_or_default());
    note.add_written(in_ledger);
    if let Some(chat) = &chat {
        let path = &pass.candidate.path;
        let other_form = if walk::has_extension(path, "json") { "jsonl" } else { "json" };
        let writer = Writer {
            pass,
            chat,
            project: project_of(pass, chat),
            parent: parent_of(pass, chat),
            is_only_form: !path.with_extension(other_form).exists(),
        };
        note.waits = writer.records(is_at_rest, &mut note.written, &mut gathered);
        gathered.session_id = Some(chat.session.clone());
        gathered.content_session = gathered.session_id.clone();
        gathered.cwd = writer.project;
    }
    gathered.side = Some(note.text());
    Ok(Handed::Piece(Box::new(gathered), true))
}

/// The chat from its file; none without a session id.
fn chat_of(pass: &Pass<'_>, gathered: &mut Gathered) -> Result<Option<Chat>, AgentsError> {
    let path = &pass.candidate.path;
    let mut chat = Chat::default();
    let mut document = Document::default();
    // The lines that only lack a session.
    let mut taken: Vec<(u64, u64)> = Vec::new();
    if walk::has_extension(path, "json") {
        let span = (0, pass.stat.size_bytes);
        gathered.lines = 1;
        if pass.stat.size_bytes > FILE_MAX_BYTES {
            let detail = || format!("a chat of {} bytes", pass.stat.size_bytes);
            gathered.left_out.add(pass.options, span, Reason::TooLong, detail);
            return Ok(None);
        }
        let bytes = disk::read(path)?;
        gathered.bytes_read = bytes.len() as u64;
        match document.parse(trim_js(&bytes)) {
            Err(error) => gathered.left_out.add(pass.options, span, Reason::Malformed, || error.to_string()),
            Ok(value) => {
                chat.take_whole(value, span);
                taken.push(span);
            }
        }
    } else {
        let mut lines = LineSource::open(path, 0, pass.stat.size_bytes)?;
        while let Some(line) = lines.next()? {
            gathered.lines += 1;
            gathered.bytes_read += line.len_bytes;
            let span = (line.offset, line.len_bytes);
            let left_out = match line.parse(&mut document) {
                None => None,
                Some(Err(reason)) => Some(reason),
                Some(Ok(value)) if value.kind() != Kind::Object => {
                    Some((Reason::NotARecord, "the line is no JSON object".to_owned()))
                }
                Some(Ok(value)) => match take_line(&mut chat, value, span) {
                    None => {
                        taken.push(span);
                        None
                    }
                    Some(reason) => Some((reason, kind_of(value))),
                },
            };
            if let Some((reason, detail)) = left_out {
                gathered.left_out.add(pass.options, span, reason, || detail);
            }
        }
    }
    if chat.session.is_empty() {
        for span in taken {
            gathered
                .left_out
                .add(pass.options, span, Reason::NotARecord, || "the chat has no session id".to_owned());
        }
        return Ok(None);
    }
    Ok(Some(chat))
}

/// The type of a line without a record.
fn kind_of(line: Value<'_>) -> String {
    match js::any_text(line, "type") {
        Some(kind) => format!("type {}", js::to_utf8(kind)),
        None => "no type".to_owned(),
    }
}

/// Adds a line of a log to its chat. Returns the reason if the line makes no record.
fn take_line(chat: &mut Chat, line: Value<'_>, span: (u64, u64)) -> Option<Reason> {
    let is_further = js::text(line, "id").is_some_and(|id| chat.has(id));
    if !chat.take(line, span) {
        return Some(Reason::UnknownType);
    }
    match js::any_text(line, "type") {
        Some(b"gemini" | b"user") if is_further => Some(Reason::Duplicate),
        // A change of the chat, its head, or a message.
        None | Some(b"gemini" | b"user") => None,
        Some(_) => Some(Reason::NothingToKeep),
    }
}

/// The session that started this session: for a sub-agent, the folder's name.
fn parent_of(pass: &Pass<'_>, chat: &Chat) -> Option<Vec<u8>> {
    let folder = pass.candidate.path.parent()?;
    let name = folder.file_name().unwrap_or_default();
    if name != "chats" {
        return Some(name.as_encoded_bytes().to_vec());
    }
    chat.parent.clone().filter(|_| chat.is_subagent)
}

/// The folder of the project: from `.project_root`, else from `projects.json`, else from the chat.
fn project_of(pass: &Pass<'_>, chat: &Chat) -> Option<Vec<u8>> {
    let folder = pass.candidate.extra.as_ref()?;
    if let Ok(text) = disk::read(&folder.join(".project_root")) {
        let text = trim_js(&text);
        if !text.is_empty() {
            return Some(js::to_utf8(text).into_owned().into_bytes());
        }
    }
    let name = folder.file_name().unwrap_or_default().as_encoded_bytes();
    // The folders of projects are in the folder `tmp` of a root.
    let root = folder.ancestors().nth(2)?;
    if let Ok(text) = disk::read(&root.join("projects.json")) {
        let mut document = Document::default();
        let value = document.parse(trim_js(&text)).ok();
        for (key, value) in value.and_then(|value| value.get("projects")).into_iter().flat_map(Value::members)
        {
            match js::wtf8(value) {
                Some(slug) if slug == name => return Some(key.as_wtf8().to_vec()),
                Some(path) if key.as_wtf8() == name => return Some(path.to_vec()),
                _ => (),
            }
        }
    }
    chat.directory.clone()
}

/// Makes the records of a chat.
struct Writer<'w> {
    pass: &'w Pass<'w>,
    chat: &'w Chat,
    project: Option<Vec<u8>>,
    parent: Option<Vec<u8>>,
    /// Whether the chat has only one file. The notes on its two forms do not know of each other.
    is_only_form: bool,
}

impl Writer<'_> {
    /// Adds the records that were not written yet. Returns whether a message may still change.
    fn records(
        &self,
        is_at_rest: bool,
        written: &mut HashMap<Vec<u8>, Option<WrittenMessage>>,
        gathered: &mut Gathered,
    ) -> bool {
        let chat = self.chat;
        self.add_relationships(gathered);
        let mut waits = false;
        let (mut turn_index, mut next_event) = (0, 0);
        let mut call_counts: HashMap<Vec<u8>, usize> = HashMap::new();
        // The last gemini message, and the user's messages since.
        let mut before: Option<ParsedMessage> = None;
        let mut asked: Vec<ParsedMessage> = Vec::new();
        let mut prompt: Vec<u8> = Vec::new();
        for (at, message) in chat.messages.iter().enumerate() {
            let mut document = Document::default();
            let Ok(value) = document.parse(&message.text) else { continue };
            let parsed = ParsedMessage::of(value, message);
            if parsed.kind == b"user" {
                let is_context = trim_js(&parsed.words).starts_with(b"<session_context>");
                if !parsed.words.is_empty() && !is_context {
                    prompt.clone_from(&parsed.words);
                }
                asked.push(parsed);
                continue;
            }
            if parsed.kind != b"gemini" {
                continue;
            }
            if parsed.id.is_empty() {
                let detail = || "a gemini message without id".to_owned();
                gathered.left_out.add(self.pass.options, message.span, Reason::NotARecord, detail);
                continue;
            }
            let index = turn_index;
            turn_index += 1;
            let is_closed = at + 1 < chat.messages.len() || message.is_gone || is_at_rest;
            let leave_out = |parsed: &ParsedMessage, reason, detail: &str, gathered: &mut Gathered| {
                let detail = || format!("message {} {detail}", js::to_utf8(&parsed.id));
                gathered.left_out.add(self.pass.options, message.span, reason, detail);
            };
            if !is_closed {
                waits = true;
                gathered.open_messages += 1;
                leave_out(&parsed, Reason::OpenMessage, "is not complete", gathered);
                continue;
            }
            if !parsed.has_tokens && parsed.model.is_none() {
                if !written.contains_key(&parsed.id) {
                    leave_out(&parsed, Reason::NoUsage, "has neither tokens nor a model", gathered);
                }
                continue;
            }
            let known = written.get(&parsed.id).copied();
            // A run that was killed may have written the turn without the other records of its message.
            let is_new = known.is_none_or(|known| known.is_some_and(|known| known.is_from_ledger));
            let mut part = parsed.part(known);
            if known.is_some() && !self.is_only_form && part.take().is_some() {
                let detail = "grew after it was written, and the other form of the chat may have the rest";
                leave_out(&parsed, Reason::Duplicate, detail, gathered);
            }
            let has_more = is_new || part.is_some() || parsed.has_more_results(known);
            written.insert(parsed.id.clone(), Some(parsed.written(known, part.is_some())));
            // A message that another session has is dropped with its prompts and results.
            let owner = part.as_ref().map(|_| gathered.turns.len() as u32);
            // The other form of a chat is one line, which messages share.
            let line = Some(message.span);
            if let Some(part) = part {
                let invalid = part.usage.invalid_counts();
                if !invalid.is_empty() {
                    let detail = format!("has no count of {}", invalid.join(", "));
                    leave_out(&parsed, Reason::InvalidCount, &detail, gathered);
                }
                let turn = gathered.keep(&self.turn(&parsed, &part, index, &prompt));
                gathered.turns.push(PassRecord { owner, line, ..turn });
                gathered.read_turns += 1;
                gathered.calls += (parsed.calls.len() - part.first_call) as u64;
            }
            if is_new && let Some(record) = self.user_turn(before.as_ref(), &asked, &parsed) {
                let record = gathered.keep(&record);
                gathered.user_turns.push(PassRecord { owner, line, ..record });
            }
            if has_more && self.pass.options.content == ContentMode::Full {
                let from = gathered.content.len();
                self.add_content(&asked, &parsed, gathered);
                gathered.content[from..]
                    .iter_mut()
                    .for_each(|content| (content.owner, content.line) = (owner, line));
            }
            for call in &parsed.calls {
                let Some(status) = call.status else { continue };
                let call_index = call_counts.entry(call.call.id.clone()).or_default();
                if has_more {
                    let event = self.event(&parsed, call, status, *call_index, next_event);
                    let event = gathered.keep(&event);
                    gathered.tool_result_events.push(PassRecord { owner, line, ..event });
                }
                *call_index += 1;
                next_event += 1;
            }
            before = Some(parsed);
            asked.clear();
        }
        self.add_compactions(gathered);
        waits
    }

    fn add_compactions(&self, gathered: &mut Gathered) {
        for compaction in &self.chat.compactions {
            let mut record = RecordText::of(SOURCE);
            record.text("sessionId", &self.chat.session);
            record.text("ts", &compaction.ts);
            record.text("precedingMessageId", &compaction.preceding);
            record.number("tokensBeforeCompact", compaction.cached);
            let record = gathered.keep(&record.finish());
            gathered.compactions.push(record);
        }
    }

    fn add_relationships(&self, gathered: &mut Gathered) {
        let chat = self.chat;
        let mut root = RecordText::of(SOURCE);
        root.text("sessionId", &chat.session);
        root.text("relationshipType", b"root");
        root.maybe_text("ts", chat.started.as_deref());
        let root = gathered.keep(&root.finish());
        gathered.relationships.push(root);
        if let Some(parent) = &self.parent {
            let mut row = RecordText::of(SOURCE);
            row.text("sessionId", &chat.session);
            row.text("relationshipType", b"subagent");
            row.text("agentId", &chat.session);
            row.text("relatedSessionId", parent);
            row.maybe_text("ts", chat.started.as_deref());
            let row = gathered.keep(&row.finish());
            gathered.relationships.push(row);
        }
    }

    fn turn(&self, message: &ParsedMessage, part: &MessagePart, index: usize, prompt: &[u8]) -> Vec<u8> {
        let mut record = RecordText::of(SOURCE);
        record.text("sessionId", &self.chat.session);
        record.text("messageId", &part.id);
        record.count("turnIndex", index);
        record.text("ts", &message.ts);
        record.text("model", message.model.as_deref().unwrap_or_default());
        part.usage.write(&mut record);
        let calls = message.calls[part.first_call..].iter();
        let calls: Vec<ToolCall> = calls.map(|call| call.call.clone()).collect();
        record.objects("toolCalls", &calls, ToolCall::write);
        record.text("sessionPath", self.pass.candidate.path.as_os_str().as_encoded_bytes());
        if let Some(project) = &self.project {
            self.pass.projects.write(project, &mut record);
        }
        let touches = |name: &[u8]| matches!(name, b"read_file" | b"write_file" | b"replace" | b"edit");
        record.texts_if_any("filesTouched", &files_touched(&calls, touches, false));
        if let Some(parent) = &self.parent {
            let mut subagent = RecordText::default();
            subagent.flag("isSidechain", true);
            subagent.text("agentId", &self.chat.session);
            subagent.text("parentAgentId", parent);
            record.raw("subagent", &subagent.finish());
        }
        message.coverage.write_fidelity(&mut record);
        let words = TurnWords {
            prompt,
            answer: &message.words,
            has_failed: calls.iter().any(|call| call.is_error),
            has_reasoning: message.usage.reasoning > 0.0,
        };
        classify(calls.iter().map(for_activity), &words).write(&mut record);
        record.finish()
    }

    fn user_turn(
        &self,
        before: Option<&ParsedMessage>,
        asked: &[ParsedMessage],
        after: &ParsedMessage,
    ) -> Option<Vec<u8>> {
        let mut blocks = Vec::new();
        for call in before.iter().flat_map(|before| &before.calls).filter(|call| call.status.is_some()) {
            let text = call.measured.as_deref().unwrap_or_default().into();
            blocks.push(UserBlock { call: Some(&call.call.id), text, is_error: call.call.is_error });
        }
        let prompts = asked.iter().filter(|message| !message.words.is_empty());
        blocks.extend(prompts.map(|message| UserBlock::of_text(&message.words)));
        if blocks.is_empty() {
            return None;
        }
        let last = asked.iter().rev().find(|message| !message.id.is_empty());
        let start = before.map_or(&b"start"[..], |before| &before.id);
        let gap = [&self.chat.session[..], b":", start, b"->", &after.id].concat();
        let mut record = RecordText::of(SOURCE);
        record.text("sessionId", &self.chat.session);
        record.text("userUuid", last.map_or(&gap, |last| &last.id));
        record.text("ts", last.map_or(&after.ts, |last| &last.ts));
        record.objects("blocks", &blocks, UserBlock::write);
        record.text("followingMessageId", &after.id);
        record.maybe_text("precedingMessageId", before.map(|before| &before.id[..]));
        Some(record.finish())
    }

    fn event(
        &self,
        message: &ParsedMessage,
        call: &GeminiCall,
        status: &str,
        call_index: usize,
        event_index: usize,
    ) -> Vec<u8> {
        let mut event = RecordText::of(SOURCE);
        event.text("sessionId", &self.chat.session);
        event.text("toolUseId", &call.call.id);
        event.count("callIndex", call_index);
        event.count("eventIndex", event_index);
        event.text("status", status.as_bytes());
        event.text("eventSource", b"tool_result");
        event.text("messageId", &message.id);
        event.text("ts", call.ts.as_deref().unwrap_or(&message.ts));
        event.flag_if("isError", call.call.is_error);
        measure::write_content_measures(call.measured.as_deref(), &mut event);
        event.finish()
    }

    fn content_head<'m>(&'m self, message: &'m ParsedMessage) -> ContentHead<'m> {
        let ParsedMessage { id, ts, .. } = message;
        ContentHead { source: SOURCE, session: &self.chat.session, message: id, ts }
    }

    fn add_content(&self, asked: &[ParsedMessage], message: &ParsedMessage, gathered: &mut Gathered) {
        let mut add = |record: Vec<u8>| {
            let record = gathered.keep(&record);
            gathered.content.push(record);
        };
        for prompt in asked.iter().filter(|prompt| !prompt.id.is_empty() && !prompt.words.is_empty()) {
            add(self.content_head(prompt).text("user", "text", &prompt.words));
        }
        let head = self.content_head(message);
        for (kind, text) in [("thinking", &message.thoughts), ("text", &message.words)] {
            if !text.is_empty() {
                add(head.text("assistant", kind, text));
            }
        }
        for GeminiCall { call, input, result, status, .. } in &message.calls {
            add(head.tool_use(&call.id, &call.name, input));
            if status.is_some() {
                add(head.tool_result(&call.id, result, call.is_error));
            }
        }
        gathered.has_result_content |= message.results() > 0;
    }
}

fn for_activity(call: &ToolCall) -> ActivityCall<'_> {
    ActivityCall { name: name_for_activity(&call.name), ..call.for_activity() }
}

/// The common name of a tool, which other agents' tools with the same purpose have.
fn name_for_activity(name: &[u8]) -> &[u8] {
    match name {
        b"read_file" | b"read_many_files" | b"list_directory" => b"Read",
        b"write_file" => b"Write",
        b"replace" => b"Edit",
        b"run_shell_command" => b"Bash",
        b"glob" => b"Glob",
        b"search_file_content" | b"grep_search" => b"Grep",
        b"web_fetch" => b"WebFetch",
        b"google_web_search" => b"WebSearch",
        b"write_todos" => b"ExitPlanMode",
        b"delegate_to_agent" | b"codebase_investigator" | b"invoke_agent" => b"Agent",
        other => other,
    }
}

/// A parsed message.
struct ParsedMessage {
    id: Vec<u8>,
    kind: Vec<u8>,
    ts: Vec<u8>,
    model: Option<Vec<u8>>,
    has_tokens: bool,
    usage: Usage,
    coverage: Coverage,
    words: Vec<u8>,
    thoughts: Vec<u8>,
    calls: Vec<GeminiCall>,
}

struct GeminiCall {
    call: ToolCall,
    /// JSON texts.
    input: Vec<u8>,
    result: Vec<u8>,
    measured: Option<Vec<u8>>,
    status: Option<&'static str>,
    ts: Option<Vec<u8>>,
}

/// The text of a content: a string, or the texts of its parts.
fn text_of(content: Option<Value<'_>>) -> Vec<u8> {
    let Some(content) = content else { return Vec::new() };
    match content.kind() {
        Kind::String => js::wtf8(content).unwrap_or_default().to_vec(),
        Kind::Array => {
            let part =
                |part: Value<'_>| js::wtf8(part).or_else(|| js::any_text(part, "text")).map(<[u8]>::to_vec);
            content.items().filter_map(part).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(&b'\n')
        }
        _ => js::any_text(content, "text").unwrap_or_default().to_vec(),
    }
}

/// The part of a message that makes a turn.
struct MessagePart {
    /// The id of the turn: `ID` of the message, and `ID+1`, `ID+2` for what came after the message was written.
    id: Vec<u8>,
    usage: Usage,
    first_call: usize,
}

impl ParsedMessage {
    fn results(&self) -> usize {
        self.calls.iter().filter(|call| call.status.is_some()).count()
    }

    /// The part that is not written yet; none if everything is written.
    fn part(&self, known: Option<Option<WrittenMessage>>) -> Option<MessagePart> {
        let Some(known) = known else {
            return Some(MessagePart { id: self.id.clone(), usage: self.usage, first_call: 0 });
        };
        let known = known?;
        let usage = self.usage.or_zero().beyond(known.usage);
        let first_call = known.calls.min(self.calls.len());
        let id = [&self.id[..], format!("+{}", known.times).as_bytes()].concat();
        let has_more = !usage.is_empty() || first_call < self.calls.len();
        has_more.then_some(MessagePart { id, usage, first_call })
    }

    fn has_more_results(&self, known: Option<Option<WrittenMessage>>) -> bool {
        known.flatten().is_some_and(|known| known.results < self.results())
    }

    /// What is written once this reading is written.
    fn written(&self, known: Option<Option<WrittenMessage>>, has_part: bool) -> WrittenMessage {
        let known = known.flatten();
        let usage = self.usage.or_zero();
        WrittenMessage {
            usage: known.map_or(usage, |known| known.usage.larger(usage)),
            times: known.map_or(1, |known| known.times + usize::from(has_part)),
            calls: known.map_or(0, |known| known.calls).max(self.calls.len()),
            results: known.map_or(0, |known| known.results).max(self.results()),
            is_from_ledger: false,
        }
    }

    fn of(value: Value<'_>, message: &ChatMessage) -> Self {
        let tokens = value.get("tokens").filter(|tokens| tokens.kind() == Kind::Object);
        let count = |key| tokens.map_or(0.0, |tokens| token_count(tokens, key));
        let has = |key| tokens.is_some_and(|tokens| tokens.get(key).is_some());
        let (input, cached, tool) = (count("input"), count("cached"), count("tool"));
        let (mut output, thoughts) = (count("output"), count("thoughts"));
        let total = tokens.and_then(|tokens| js::number(tokens, "total"));
        let is_sum = |sum: f64| total == Some(sum) || total == Some(sum + tool);
        if thoughts > 0.0 && !is_sum(input + output + thoughts) && is_sum(input + output) {
            output = beyond(output, thoughts);
        }
        let mut ids = HashSet::new();
        let calls = value.get("toolCalls").into_iter().flat_map(Value::items).filter_map(parsed_call);
        let thought = |thought: Value<'_>| {
            let parts = ["subject", "description"].map(|key| js::any_text(thought, key).unwrap_or_default());
            parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(&b": "[..])
        };
        let thoughts_text = value.get("thoughts").into_iter().flat_map(Value::items).map(thought);
        ParsedMessage {
            id: message.id.clone(),
            kind: js::any_text(value, "type").unwrap_or_default().to_vec(),
            ts: js::any_text(value, "timestamp").unwrap_or_default().to_vec(),
            model: js::any_text(value, "model").map(<[u8]>::to_vec),
            has_tokens: tokens.is_some(),
            usage: Usage {
                input: beyond(input, cached) + tool,
                output,
                reasoning: thoughts,
                cache_read: cached,
                ..Usage::default()
            },
            coverage: Coverage {
                has_input: has("input"),
                has_output: has("output"),
                has_reasoning: has("thoughts"),
                has_cache_read: has("cached"),
                has_cache_create: false,
            },
            words: text_of(value.get("content")),
            thoughts: thoughts_text.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(&b'\n'),
            calls: calls.filter(|call| ids.insert(call.call.id.clone())).collect(),
        }
    }
}

fn parsed_call(value: Value<'_>) -> Option<GeminiCall> {
    let (id, name) = (js::any_text(value, "id")?, js::any_text(value, "name")?);
    let args = js::present(value, "args");
    let keys: &[&str] = match name {
        b"read_file" | b"write_file" | b"replace" | b"edit" => &["file_path", "absolute_path", "path"],
        b"run_shell_command" => &["command"],
        b"glob" | b"search_file_content" | b"grep_search" => &["pattern"],
        b"web_fetch" => &["url", "prompt"],
        b"google_web_search" => &["query"],
        b"list_directory" => &["dir_path", "path"],
        _ => &["file_path", "path", "url", "command"],
    };
    let target = match name {
        b"read_many_files" => args.and_then(|args| args.get("paths")?.at(0)).and_then(js::wtf8),
        _ => args.and_then(|args| js::first_any_text(args, keys)),
    };
    let told = js::any_text(value, "status");
    let result = value.get("result");
    let status = match told {
        Some(b"error") => Some("errored"),
        Some(b"cancelled") => Some("cancelled"),
        Some(b"success") => Some("completed"),
        _ => result.map(|_| "completed"),
    };
    Some(GeminiCall {
        call: ToolCall {
            id: id.to_vec(),
            name: name.to_vec(),
            args_hash: args_hash(args),
            target: target.map(<[u8]>::to_vec),
            is_error: told == Some(b"error"),
            ..ToolCall::default()
        },
        input: js::json_or(args, b"{}"),
        result: js::json_or(result.filter(|result| !result.is_null()), b"\"\""),
        measured: measure::measured_text(result).map(|text| text.into_owned()),
        status,
        ts: js::text(value, "timestamp").map(<[u8]>::to_vec),
    })
}

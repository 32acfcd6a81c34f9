//! One answer of the model: joins the assistant lines with one `message.id` into a turn.

use foldhash::{HashMap, HashSet};
use std::sync::Arc;

use super::super::AgentsError;
use super::super::activity::{ActivityCall, TurnWords, classify};
use super::super::calls::{self, Replacement, ToolCall};
use super::super::fidelity::{Coverage, Usage, larger, token_count};
use super::super::js::{self, KeyOrder, RecordText};
use super::super::known::{RecordNotes, TurnNote};
use super::super::pass::ReadOptions;
use super::super::project::ProjectKeys;
use super::super::terms::{TurnTerms, extraordinary};
use super::graph::Invocation;
use super::key::Key;
use crate::record::{Fingerprinted, Hasher};
use crate::scan::json::{Kind, Value};

/// The length of most turns.
const TURN_BYTES: usize = 1_300;

/// Facts that a result has about the call that it answers.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub errors: HashSet<Vec<u8>>,
    pub replacements: HashMap<Vec<u8>, Replacement>,
}

/// The token counts of a message, from its lines.
#[derive(Debug, Clone, Default)]
pub(super) struct MessageCounts {
    pub input: f64,
    pub output: f64,
    pub cache_read: f64,
    cache_write: f64,
    cache_write_5m: f64,
    cache_write_1h: f64,
}

impl MessageCounts {
    /// The counts of one line: 0 for an absent count, NaN for a value that is no count.
    fn of(usage: Value<'_>) -> Self {
        let count = token_count;
        let split = |key| usage.get("cache_creation").map_or(0.0, |split| count(split, key));
        MessageCounts {
            input: count(usage, "input_tokens"),
            output: count(usage, "output_tokens"),
            cache_read: count(usage, "cache_read_input_tokens"),
            cache_write: count(usage, "cache_creation_input_tokens"),
            cache_write_5m: split("ephemeral_5m_input_tokens"),
            cache_write_1h: split("ephemeral_1h_input_tokens"),
        }
    }

    /// Keeps the larger value of each field, because the lines of a message are written while it is streamed, and its
    /// counts grow.
    fn grow(&mut self, other: &MessageCounts) {
        self.input = larger(self.input, other.input);
        self.output = larger(self.output, other.output);
        self.cache_read = larger(self.cache_read, other.cache_read);
        self.cache_write = larger(self.cache_write, other.cache_write);
        self.cache_write_5m = larger(self.cache_write_5m, other.cache_write_5m);
        self.cache_write_1h = larger(self.cache_write_1h, other.cache_write_1h);
    }

    /// Tokens written to a cache for 5 minutes and for 1 hour. A total without a split counts as 5 minutes.
    fn cache_writes(&self) -> (f64, f64) {
        match (self.cache_write_5m, self.cache_write_1h) {
            (0.0, 0.0) => (self.cache_write, 0.0),
            split => split,
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let (cache_create_5m, cache_create_1h) = self.cache_writes();
        Usage {
            input: self.input,
            output: self.output,
            reasoning: 0.0,
            cache_read: self.cache_read,
            cache_create_5m,
            cache_create_1h,
        }
    }
}

/// The counts of the first line unchanged, as the TypeScript package writes them.
fn usage_as_reference(usage: Option<Value<'_>>) -> Vec<u8> {
    fn of<'d>(object: Option<Value<'d>>, key: &str) -> Option<Value<'d>> {
        object.and_then(|object| js::present(object, key))
    }
    let text = |value: Option<Value<'_>>| match value {
        None => b"0".to_vec(),
        Some(value) => {
            let mut out = Vec::new();
            js::write_value(value, KeyOrder::AsParsed, &mut out);
            out
        }
    };
    let split = of(usage, "cache_creation");
    let mut cache_5m = text(of(split, "ephemeral_5m_input_tokens"));
    let cache_1h = text(of(split, "ephemeral_1h_input_tokens"));
    let total = of(usage, "cache_creation_input_tokens");
    if (&cache_5m[..], &cache_1h[..]) == (b"0", b"0") && total.is_some_and(is_above_zero) {
        cache_5m = text(total);
    }
    let mut record = RecordText::default();
    record.raw("input", &text(of(usage, "input_tokens")));
    record.raw("output", &text(of(usage, "output_tokens")));
    record.raw("reasoning", b"0");
    record.raw("cacheRead", &text(of(usage, "cache_read_input_tokens")));
    record.raw("cacheCreate5m", &cache_5m);
    record.raw("cacheCreate1h", &cache_1h);
    record.finish()
}

/// Returns whether JavaScript calls a value greater than 0.
fn is_above_zero(value: Value<'_>) -> bool {
    match value.kind() {
        Kind::Number => value.as_number().is_some_and(|number| number.as_f64() > 0.0),
        Kind::String => {
            value.as_str().is_some_and(|text| text.trim().parse().is_ok_and(|number: f64| number > 0.0))
        }
        _ => value.as_bool() == Some(true),
    }
}

fn coverage_of(usage: Value<'_>) -> Coverage {
    let has = |key| usage.get(key).is_some();
    let has_split = |key| usage.get("cache_creation").is_some_and(|split| split.get(key).is_some());
    Coverage {
        has_input: has("input_tokens"),
        has_output: has("output_tokens"),
        has_reasoning: false,
        has_cache_read: has("cache_read_input_tokens"),
        has_cache_create: has("cache_creation_input_tokens")
            || has_split("ephemeral_5m_input_tokens")
            || has_split("ephemeral_1h_input_tokens"),
    }
}

/// Adds the usage of a line. Its terms replace the terms of earlier lines.
fn add_terms(terms: &mut TurnTerms, usage: Value<'_>) {
    for (key, term) in [("service_tier", &mut terms.service_tier), ("speed", &mut terms.speed)] {
        if let Some(word) = js::text(usage, key) {
            *term = extraordinary(word);
        }
    }
    let searches = usage.get("server_tool_use").and_then(|used| js::number(used, "web_search_requests"));
    terms.web_searches = terms.web_searches.max(searches.map_or(0, |searches| searches as u64));
}

/// The provider that served a message, unless Anthropic did. Other providers put a mark into the message's id or the
/// model's name.
fn provider_of(id: &[u8], model: &[u8]) -> Option<&'static [u8]> {
    let is_of_bedrock = [&b"anthropic."[..], b"us.", b"eu.", b"apac.", b"global."]
        .iter()
        .any(|start| model.starts_with(start) && memchr::memmem::find(model, b"anthropic.").is_some());
    if id.starts_with(b"msg_bdrk_") || is_of_bedrock {
        Some(b"aws")
    } else if id.starts_with(b"msg_vrtx_") || model.starts_with(b"claude-") && model.contains(&b'@') {
        Some(b"google")
    } else {
        None
    }
}

/// A thread, whose lines follow each other: the main thread, an agent by its id, or a side chain by its first line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thread {
    Main,
    Agent(Vec<u8>),
    SideChain(Option<Key>),
}

/// A message, from the lines that were read so far.
#[derive(Debug)]
pub(super) struct ClaudeMessage {
    pub id: Vec<u8>,
    /// Byte offset of its first line.
    pub at: u64,
    /// The length of its first line in bytes.
    pub len_bytes: u64,
    pub uuid: Option<Key>,
    /// JSON texts of the first line's values, of any type.
    ts: Vec<u8>,
    session_id: Vec<u8>,
    /// The same when they are strings.
    pub ts_text: Option<Vec<u8>>,
    pub session: Option<Vec<u8>>,
    model: Option<Vec<u8>>,
    /// None: no `cwd`. Some(None): a `cwd` that is no string.
    cwd: Option<Option<Vec<u8>>>,
    pub is_side: bool,
    pub thread: Thread,
    /// Another message of its thread has begun, so this message gets no more lines.
    pub is_closed: bool,
    pub stop_reason: Option<Vec<u8>>,
    pub has_usage: bool,
    coverage: Coverage,
    terms: TurnTerms,
    /// The branch that the first line names.
    branch: Option<Vec<u8>>,
    pub counts: MessageCounts,
    usage_as_reference: Vec<u8>,
    cache_read_as_reference: Vec<u8>,
    pub calls: Vec<ToolCall>,
    pub unanswered: Vec<Vec<u8>>,
    text: Vec<u8>,
    prompt: Option<Arc<[u8]>>,
    /// The agent id that the lines of an agent's log name.
    pub agent_id: Option<Vec<u8>>,
    pub lines: u64,
}

/// Returns the JSON text of a member. `""` when the member is absent, null or no string, because the archive stores
/// only strings.
pub(super) fn as_is(line: Value<'_>, key: &str, options: &ReadOptions) -> Vec<u8> {
    let mut out = Vec::new();
    match js::present(line, key).filter(|value| options.as_reference || value.kind() == Kind::String) {
        Some(value) => js::write_value(value, KeyOrder::AsParsed, &mut out),
        None => out.extend_from_slice(b"\"\""),
    }
    out
}

impl ClaudeMessage {
    /// Creates a message from its first line.
    pub(super) fn begin(
        id: &[u8],
        (at, len_bytes): (u64, u64),
        line: Value<'_>,
        thread: Thread,
        prompt: Option<Arc<[u8]>>,
        options: &ReadOptions,
    ) -> Self {
        let usage = line.get("message").and_then(|message| message.get("usage"));
        ClaudeMessage {
            id: id.to_vec(),
            at,
            len_bytes,
            uuid: js::text(line, "uuid").map(Key::of),
            ts: as_is(line, "timestamp", options),
            session_id: as_is(line, "sessionId", options),
            ts_text: js::text(line, "timestamp").map(<[u8]>::to_vec),
            session: js::text(line, "sessionId").map(<[u8]>::to_vec),
            model: None,
            cwd: line.get("cwd").map(|cwd| js::wtf8(cwd).map(<[u8]>::to_vec)),
            is_side: false,
            thread,
            is_closed: false,
            stop_reason: None,
            has_usage: false,
            coverage: Coverage::default(),
            terms: TurnTerms::default(),
            branch: js::text(line, "gitBranch").map(<[u8]>::to_vec),
            counts: MessageCounts::default(),
            usage_as_reference: if options.as_reference { usage_as_reference(usage) } else { Vec::new() },
            cache_read_as_reference: usage.map_or_else(
                || b"0".to_vec(),
                |usage| match js::present(usage, "cache_read_input_tokens") {
                    Some(count) => {
                        let mut out = Vec::new();
                        js::write_value(count, KeyOrder::AsParsed, &mut out);
                        out
                    }
                    None => b"0".to_vec(),
                },
            ),
            calls: Vec::new(),
            unanswered: Vec::new(),
            text: Vec::new(),
            prompt,
            agent_id: js::text(line, "agentId").map(<[u8]>::to_vec),
            lines: 0,
        }
    }

    /// Adds a further line of the message.
    pub(super) fn add(&mut self, line: Value<'_>, options: &ReadOptions) {
        self.lines += 1;
        let Some(message) = line.get("message") else { return };
        if self.model.is_none() {
            let is_usable = |model: &Value<'_>| {
                js::wtf8(*model) != Some(b"") && (options.as_reference || model.kind() == Kind::String)
            };
            self.model = js::present(message, "model").filter(is_usable).map(|model| {
                let mut out = Vec::new();
                js::write_value(model, KeyOrder::AsParsed, &mut out);
                out
            });
        }
        self.is_side |= js::is_true(line, "isSidechain");
        if let Some(reason) = js::any_text(message, "stop_reason") {
            self.stop_reason = Some(reason.to_vec());
        }
        if let Some(usage) = message.get("usage").filter(|usage| usage.kind() == Kind::Object) {
            self.has_usage = true;
            self.coverage.add(coverage_of(usage));
            self.counts.grow(&MessageCounts::of(usage));
            add_terms(&mut self.terms, usage);
        }
        for block in message.get("content").into_iter().flat_map(Value::items) {
            match js::any_text(block, "type") {
                Some(b"text") => {
                    if let Some(text) = js::text(block, "text") {
                        join(&mut self.text, text);
                    }
                }
                Some(b"tool_use") => self.add_call(block),
                _ => {}
            }
        }
    }

    /// Returns the JSON texts of the first line's time and session.
    pub(super) fn ts(&self) -> &[u8] {
        &self.ts
    }

    pub(super) fn session_json(&self) -> &[u8] {
        &self.session_id
    }

    /// Returns the stamp for the special terms of the message; none when the terms are ordinary.
    pub(super) fn stamp(&self) -> Option<Vec<u8>> {
        let (session, ts) = (self.session.as_deref()?, self.ts_text.as_deref()?);
        let model = self.model.as_deref().unwrap_or_default();
        // The model is stored as JSON text.
        let model = model.strip_prefix(b"\"").and_then(|model| model.strip_suffix(b"\"")).unwrap_or_default();
        let provider = provider_of(&self.id, model).map(<[u8]>::to_vec);
        TurnTerms { provider, ..self.terms.clone() }.stamp(session, &self.id, ts)
    }

    /// The session, the time and the branch of a message of the main thread that names all three.
    pub(super) fn branch(&self) -> Option<(&[u8], &[u8], &[u8])> {
        if self.is_side || self.id.is_empty() {
            return None;
        }
        Some((self.session.as_deref()?, self.ts_text.as_deref()?, self.branch.as_deref()?))
    }

    /// Returns the tokens that the message read from the cache, as JSON text.
    pub(super) fn cache_read_json(&self, options: &ReadOptions) -> Vec<u8> {
        if options.as_reference {
            return self.cache_read_as_reference.clone();
        }
        let mut out = Vec::new();
        js::write_number(self.counts.usage().or_zero().cache_read, &mut out);
        out
    }

    fn add_call(&mut self, block: Value<'_>) {
        let (Some(id), Some(name)) = (js::any_text(block, "id"), js::any_text(block, "name")) else { return };
        if self.calls.iter().any(|call| call.id == id) {
            return;
        }
        let input = js::present(block, "input");
        let (edit_pre_hash, edit_post_hash) =
            input.map_or((None, None), |input| calls::edit_hashes(name, input));
        self.unanswered.push(id.to_vec());
        self.calls.push(ToolCall {
            id: id.to_vec(),
            name: name.to_vec(),
            args_hash: calls::args_hash(input),
            target: input.and_then(|input| calls::target(name, input)).map(<[u8]>::to_vec),
            edit_pre_hash,
            edit_post_hash,
            ..ToolCall::default()
        });
    }

    /// Adds what the results of its calls tell.
    pub(super) fn take_results(&mut self, results: &Results) {
        for call in &mut self.calls {
            call.is_error = results.errors.contains(&call.id);
            if let Some(replacement) = results.replacements.get(&call.id) {
                call.replacement = replacement.clone();
            }
        }
    }

    /// Returns the turn record with its notes.
    ///
    /// # Errors
    /// An error where the TypeScript package gives the file up.
    pub(super) fn turn(
        &self,
        turn_index: usize,
        path: &[u8],
        subagent: Option<&Invocation>,
        options: &ReadOptions,
        projects: &ProjectKeys,
    ) -> Result<(Vec<u8>, Option<RecordNotes>), &'static str> {
        let calls = &self.calls;
        let mut record = RecordText::of("claude-code");
        record.reserve(TURN_BYTES);
        record.raw("sessionId", &self.session_id);
        record.text("messageId", &self.id);
        record.count("turnIndex", turn_index);
        record.raw("ts", &self.ts);
        record.raw("model", self.model.as_deref().unwrap_or(b"\"\""));
        match options.as_reference {
            true => record.raw("usage", &self.usage_as_reference),
            false => self.counts.usage().write(&mut record),
        }
        record.objects("toolCalls", calls, ToolCall::write);
        record.text("sessionPath", path);
        match &self.cwd {
            None => {}
            Some(Some(cwd)) => {
                record.text("project", cwd);
                record.maybe_text("projectKey", projects.key(cwd).as_deref().map(str::as_bytes));
            }
            Some(None) if options.as_reference => return Err("a cwd that is no string"),
            Some(None) => {}
        }
        let touches = |name: &[u8]| matches!(name, b"Read" | b"Edit" | b"Write" | b"NotebookEdit");
        let files = calls::files_touched(calls, touches, false);
        if !files.is_empty() {
            record.texts("filesTouched", &files);
        }
        if self.is_side {
            record.object("subagent", |told| {
                told.flag("isSidechain", true);
                let Some(agent) = subagent else { return };
                told.text("agentId", &agent.agent_id);
                if !agent.parent_tool_use_id.is_empty() || options.as_reference {
                    told.text("parentToolUseId", &agent.parent_tool_use_id);
                }
                told.maybe_text("subagentType", agent.subagent_type.as_deref());
                told.maybe_text("description", agent.description.as_deref());
                match &agent.parent_agent_id {
                    Some(parent) => told.text("parentAgentId", parent),
                    None => told.raw("parentAgentId", &self.session_id),
                }
            });
        }
        record.maybe_text("stopReason", self.stop_reason.as_deref());
        self.coverage.write_fidelity(&mut record);
        let has_failed = calls.iter().any(|call| call.is_error);
        let told: Vec<_> = calls
            .iter()
            .map(|call| ActivityCall { name: &call.name, target: call.target.as_deref() })
            .collect();
        classify(
            &told,
            &TurnWords {
                prompt: self.prompt.as_deref().filter(|_| !self.id.is_empty()).unwrap_or_default(),
                answer: &self.text,
                has_failed,
                has_reasoning: false,
            },
        )
        .write(&mut record);
        let notes = if options.as_reference { None } else { self.notes() };
        Ok((record.finish(), notes))
    }

    /// The notes on the turn; none if its model has an escape, because the model is stored as JSON text.
    fn notes(&self) -> Option<RecordNotes> {
        let model = self.model.as_deref().unwrap_or(b"\"\"");
        let model = model.strip_prefix(b"\"")?.strip_suffix(b"\"").filter(|model| !model.contains(&b'\\'))?;
        let [session, ts] = [&self.session, &self.ts_text].map(|text| text.as_deref().unwrap_or_default());
        let [session_text, id, ts_text, model] = [session, &self.id, ts, model].map(js::to_utf8);
        let mut hasher = Hasher::default();
        let usage = self.counts.usage().printed();
        let fingerprint = hasher.fingerprint_of(&Fingerprinted {
            ts: &ts_text,
            model: &model,
            usage: [
                usage.input,
                usage.output,
                usage.cache_read,
                usage.cache_create_5m,
                usage.cache_create_1h,
            ],
            first_args_hash: self.calls.first().map_or("", |call| &call.args_hash),
        });
        let id_of = hasher.id_of_parts(&["claude-code", &session_text, &id]);
        Some(RecordNotes {
            turn: Some(TurnNote::of_parts(b"claude-code", session, &self.id, ts)),
            made: Some((id_of, Some(fingerprint))),
            ..RecordNotes::default()
        })
    }
}

/// Appends a text after a line feed.
pub(super) fn join(texts: &mut Vec<u8>, text: &[u8]) {
    if !texts.is_empty() {
        texts.push(b'\n');
    }
    texts.extend_from_slice(text);
}

/// Returns the plain text of a user line: its content, or its text blocks with a line feed between.
pub(super) fn plain_text(content: Option<Value<'_>>) -> Vec<u8> {
    let Some(content) = content else { return Vec::new() };
    match content.kind() {
        Kind::String => js::wtf8(content).unwrap_or_default().to_vec(),
        _ => {
            let mut texts = Vec::new();
            let is_text = |block: &Value<'_>| js::any_text(*block, "type") == Some(b"text");
            let blocks = content.items().filter(is_text).filter_map(|block| js::text(block, "text"));
            blocks.for_each(|text| join(&mut texts, text));
            texts
        }
    }
}

/// Returns the error with which the TypeScript package gives a file up.
pub(super) fn given_up(path: &std::path::Path, reason: &'static str) -> AgentsError {
    AgentsError::GivenUp { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_told_by_their_marks() {
        for (id, model, provider) in [
            ("msg_01", "claude-opus-4-7", None),
            ("msg_bdrk_01", "claude-opus-4-7", Some(&b"aws"[..])),
            ("msg_01", "us.anthropic.claude-opus-4-7-v1:0", Some(b"aws")),
            ("msg_01", "anthropic.claude-opus-4-7-v1:0", Some(b"aws")),
            ("msg_vrtx_01", "claude-opus-4-7", Some(b"google")),
            ("msg_01", "claude-opus-4-5@20251101", Some(b"google")),
            ("msg_01", "gpt@x", None),
        ] {
            assert_eq!(provider_of(id.as_bytes(), model.as_bytes()), provider, "{id} {model}");
        }
    }
}

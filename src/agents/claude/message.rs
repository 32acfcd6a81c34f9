//! One answer of the model: joins the assistant lines with one `message.id` into a turn.

use std::sync::Arc;

use bumpalo::Bump;
use foldhash::{HashMap, HashSet};

use super::super::GivenUp;
use super::super::activity::{TurnWords, classify};
use super::super::calls::{self, Replacement, ToolCall};
use super::super::fidelity::{Coverage, Usage, larger, token_count_of};
use super::super::js::{self, RecordText};
use super::super::known::{RecordNotes, TurnNote};
use super::super::pass::ReadOptions;
use super::super::project::ProjectKeys;
use super::super::terms::{TurnTerms, extraordinary};
use super::graph::Invocation;
use super::key::Key;
use super::line::Line;
use crate::record::{Fingerprinted, Hasher};
use crate::scan::json::{Kind, Value};

/// Facts that a result has about the call that it answers.
#[derive(Debug, Default)]
pub(super) struct Results<'p> {
    pub errors: HashSet<&'p [u8]>,
    pub replacements: HashMap<&'p [u8], Replacement>,
}

/// The token counts of a message, from its lines.
#[derive(Debug, Clone, Default)]
pub(super) struct MessageCounts {
    /// Its writes to a cache are the writes of which a line says how long the cache lives.
    told: Usage,
    /// All writes to a cache.
    cache_write: f64,
}

impl MessageCounts {
    /// Keeps the larger value of each field, because the lines of a message are written while it is streamed, and its
    /// counts grow.
    fn grow(&mut self, other: &MessageCounts) {
        self.told = self.told.larger(other.told);
        self.cache_write = larger(self.cache_write, other.cache_write);
    }

    /// The counts of the turn. A total of writes to a cache without a split counts as 5 minutes.
    pub(super) fn usage(&self) -> Usage {
        match (self.told.cache_create_5m, self.told.cache_create_1h) {
            (0.0, 0.0) => Usage { cache_create_5m: self.cache_write, ..self.told },
            _ => self.told,
        }
    }
}

/// What a model spent that advised the model of a message: Claude Code leaves this out of the usage of the message.
#[derive(Debug)]
struct Advisor<'p> {
    /// The id of its turn.
    id: &'p [u8],
    model: &'p [u8],
    counts: MessageCounts,
    coverage: Coverage,
    terms: TurnTerms,
}

/// The values of a message as the TypeScript package writes them: JSON texts of values of any type.
#[derive(Debug)]
struct ReferenceValues {
    ts: Vec<u8>,
    session: Vec<u8>,
    model: Option<Vec<u8>>,
    usage: Vec<u8>,
    cache_read: Vec<u8>,
}

impl ReferenceValues {
    /// The values of the first line.
    fn of(line: Value<'_>, usage: Option<Value<'_>>) -> Self {
        let text = |key| js::json_or(js::present(line, key), b"\"\"");
        let cache_read = usage.and_then(|usage| js::present(usage, "cache_read_input_tokens"));
        ReferenceValues {
            ts: text("timestamp"),
            session: text("sessionId"),
            model: None,
            usage: usage_as_reference(usage),
            cache_read: js::json_or(cache_read, b"0"),
        }
    }
}

/// The counts of the first line unchanged, as the TypeScript package writes them.
fn usage_as_reference(usage: Option<Value<'_>>) -> Vec<u8> {
    fn of<'d>(object: Option<Value<'d>>, key: &str) -> Option<Value<'d>> {
        object.and_then(|object| js::present(object, key))
    }
    let text = |value| js::json_or(value, b"0");
    let split = of(usage, "cache_creation");
    let mut cache_5m = text(of(split, "ephemeral_5m_input_tokens"));
    let cache_1h = text(of(split, "ephemeral_1h_input_tokens"));
    let total = of(usage, "cache_creation_input_tokens");
    if (&cache_5m[..], &cache_1h[..]) == (b"0", b"0") && total.is_some_and(|total| js::to_number(total) > 0.0)
    {
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

/// The counts of a usage, and its iterations. What it says of coverage is added, and its terms replace earlier terms.
///
/// One look at the members, because each line of a message has nearly all of them.
fn counts_of<'u>(
    usage: Value<'u>,
    coverage: &mut Coverage,
    terms: &mut TurnTerms,
) -> (MessageCounts, Option<Value<'u>>) {
    // An absent count is 0, and a value that is no count is NaN.
    let (mut counts, mut iterations) = (MessageCounts::default(), None);
    let word = |value| js::wtf8(value).filter(|word| !word.is_empty());
    for (key, value) in usage.members_in_text_order() {
        match key.as_wtf8() {
            b"input_tokens" => {
                (counts.told.input, coverage.has_input) = (token_count_of(value), true);
            }
            b"output_tokens" => {
                (counts.told.output, coverage.has_output) = (token_count_of(value), true);
            }
            b"cache_read_input_tokens" => {
                (counts.told.cache_read, coverage.has_cache_read) = (token_count_of(value), true);
            }
            b"cache_creation_input_tokens" => {
                (counts.cache_write, coverage.has_cache_create) = (token_count_of(value), true);
            }
            b"cache_creation" => {
                for (key, value) in value.members_in_text_order() {
                    let count = match key.as_wtf8() {
                        b"ephemeral_5m_input_tokens" => &mut counts.told.cache_create_5m,
                        b"ephemeral_1h_input_tokens" => &mut counts.told.cache_create_1h,
                        _ => continue,
                    };
                    (*count, coverage.has_cache_create) = (token_count_of(value), true);
                }
            }
            b"service_tier" => {
                if let Some(word) = word(value) {
                    terms.service_tier = extraordinary(word);
                }
            }
            b"speed" => {
                if let Some(word) = word(value) {
                    terms.speed = extraordinary(word);
                }
            }
            b"server_tool_use" => {
                let searches = js::number(value, "web_search_requests").unwrap_or(0.0) as u64;
                terms.web_searches = terms.web_searches.max(searches);
            }
            b"iterations" => iterations = Some(value),
            _ => {}
        }
    }
    (counts, iterations)
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
pub(super) enum Thread<'p> {
    Main,
    Agent(&'p [u8]),
    SideChain(Option<Key<'p>>),
}

/// A message, from the lines that were read so far. Its texts are in the memory of its piece.
#[derive(Debug)]
pub(super) struct ClaudeMessage<'p> {
    pub id: &'p [u8],
    /// Byte offset of its first line.
    pub at: u64,
    /// The length of its first line in bytes.
    pub len_bytes: u64,
    pub uuid: Option<Key<'p>>,
    /// String fields of the first line, because the archive stores only strings.
    pub ts: Option<&'p [u8]>,
    pub session: Option<&'p [u8]>,
    model: Option<&'p [u8]>,
    /// None: no `cwd`. Some(None): a `cwd` that is no string.
    cwd: Option<Option<&'p [u8]>>,
    pub is_side: bool,
    pub thread: Thread<'p>,
    /// Another message of its thread has begun, so this message gets no more lines.
    pub is_closed: bool,
    pub stop_reason: Option<&'p [u8]>,
    pub has_usage: bool,
    coverage: Coverage,
    terms: TurnTerms,
    /// The branch that the first line names.
    branch: Option<&'p [u8]>,
    pub counts: MessageCounts,
    /// What the TypeScript package writes in place of these values; none with our rules.
    reference: Option<Box<ReferenceValues>>,
    /// In the order of the usage of the last lines.
    advisors: Vec<Advisor<'p>>,
    pub calls: Vec<ToolCall<&'p [u8]>>,
    pub unanswered: Vec<&'p [u8]>,
    /// The texts of the lines.
    texts: Vec<&'p [u8]>,
    prompt: Option<Arc<[u8]>>,
    /// The agent id that the lines of an agent's log name.
    pub agent_id: Option<&'p [u8]>,
    pub lines: u64,
}

impl<'p> ClaudeMessage<'p> {
    /// Creates a message from its first line.
    pub(super) fn begin(
        arena: &'p Bump,
        id: &'p [u8],
        (at, len_bytes): (u64, u64),
        line: &Line<'_>,
        thread: Thread<'p>,
        prompt: Option<Arc<[u8]>>,
        options: &ReadOptions,
    ) -> Self {
        let kept = |text: Option<&[u8]>| text.map(|text| &*arena.alloc_slice_copy(text));
        let usage = line.message.and_then(|message| message.get("usage"));
        ClaudeMessage {
            id,
            at,
            len_bytes,
            uuid: line.uuid.map(|uuid| Key::of(uuid).kept(arena)),
            ts: kept(line.timestamp),
            session: kept(line.session),
            model: None,
            cwd: line.cwd.map(|cwd| kept(js::wtf8(cwd))),
            is_side: false,
            thread,
            is_closed: false,
            stop_reason: None,
            has_usage: false,
            coverage: Coverage::default(),
            terms: TurnTerms::default(),
            branch: kept(line.branch),
            counts: MessageCounts::default(),
            reference: options.as_reference.then(|| Box::new(ReferenceValues::of(line.root, usage))),
            advisors: Vec::new(),
            calls: Vec::new(),
            unanswered: Vec::new(),
            texts: Vec::new(),
            prompt,
            agent_id: kept(line.agent_id),
            lines: 0,
        }
    }

    /// Adds a further line of the message.
    pub(super) fn add(&mut self, arena: &'p Bump, line: &Line<'_>) {
        self.lines += 1;
        let Some(message) = line.message else { return };
        if self.model.is_none() {
            self.model = js::text(message, "model").map(|model| &*arena.alloc_slice_copy(model));
        }
        if let Some(reference) = self.reference.as_mut().filter(|reference| reference.model.is_none()) {
            let model = js::present(message, "model").filter(|model| js::wtf8(*model) != Some(b""));
            reference.model = model.map(js::json);
        }
        self.is_side |= line.is_side;
        if let Some(reason) = js::any_text(message, "stop_reason") {
            self.stop_reason = Some(arena.alloc_slice_copy(reason));
        }
        if let Some(usage) = message.get("usage").filter(|usage| usage.kind() == Kind::Object) {
            self.has_usage = true;
            let (counts, iterations) = counts_of(usage, &mut self.coverage, &mut self.terms);
            self.counts.grow(&counts);
            if let Some(iterations) = iterations.filter(|_| self.reference.is_none()) {
                self.add_advisors(arena, iterations);
            }
        }
        for block in line.content.into_iter().flat_map(Value::items) {
            match js::any_text(block, "type") {
                Some(b"text") => {
                    let text = js::text(block, "text").map(|text| &*arena.alloc_slice_copy(text));
                    self.texts.extend(text);
                }
                Some(b"tool_use") => self.add_call(arena, block),
                _ => {}
            }
        }
    }

    /// Adds the iterations of other models. Each line of the message repeats the iterations before it.
    fn add_advisors(&mut self, arena: &'p Bump, iterations: Value<'_>) {
        let is_of_advisor = |item: &Value<'_>| js::any_text(*item, "type") == Some(b"advisor_message");
        for (place, usage) in iterations.items().filter(is_of_advisor).enumerate() {
            if place == self.advisors.len() {
                let id = [self.id, format!("+advisor{}", place + 1).as_bytes()].concat();
                let model = js::text(usage, "model").or(self.model).unwrap_or_default();
                self.advisors.push(Advisor {
                    id: arena.alloc_slice_copy(&id),
                    model: arena.alloc_slice_copy(model),
                    counts: MessageCounts::default(),
                    coverage: Coverage::default(),
                    terms: TurnTerms::default(),
                });
            }
            let Advisor { counts, coverage, terms, .. } = &mut self.advisors[place];
            counts.grow(&counts_of(usage, coverage, terms).0);
        }
    }

    /// The turns of the models that advised this one: of the same moment, without calls and texts.
    pub(super) fn of_advisors(&self) -> impl Iterator<Item = ClaudeMessage<'p>> {
        self.advisors.iter().map(|advisor| ClaudeMessage {
            id: advisor.id,
            uuid: None,
            model: Some(advisor.model),
            thread: self.thread.clone(),
            has_usage: true,
            coverage: advisor.coverage,
            terms: advisor.terms.clone(),
            branch: None,
            counts: advisor.counts.clone(),
            reference: None,
            advisors: Vec::new(),
            calls: Vec::new(),
            unanswered: Vec::new(),
            texts: Vec::new(),
            prompt: self.prompt.clone(),
            ..*self
        })
    }

    /// Returns the time of the message as JSON text.
    pub(super) fn ts_json(&self) -> Vec<u8> {
        match &self.reference {
            Some(reference) => reference.ts.clone(),
            None => js::string(self.ts.unwrap_or_default()),
        }
    }

    /// Appends the session of the message.
    pub(super) fn write_session(&self, key: &'static str, record: &mut RecordText) {
        match &self.reference {
            Some(reference) => record.raw(key, &reference.session),
            None => record.text(key, self.session.unwrap_or_default()),
        }
    }

    fn write_model(&self, record: &mut RecordText) {
        match &self.reference {
            Some(reference) => record.raw("model", reference.model.as_deref().unwrap_or(b"\"\"")),
            None => record.text("model", self.model.unwrap_or_default()),
        }
    }

    /// Returns the stamp for the special terms of the message; none when the terms are ordinary.
    pub(super) fn stamp(&self) -> Option<Vec<u8>> {
        let (session, ts) = (self.session?, self.ts?);
        let provider = provider_of(self.id, self.model.unwrap_or_default());
        if provider.is_none() && self.terms == TurnTerms::default() {
            return None;
        }
        TurnTerms { provider: provider.map(<[u8]>::to_vec), ..self.terms.clone() }.stamp(session, self.id, ts)
    }

    /// The session, the time and the branch of a message of the main thread that names all three.
    pub(super) fn branch(&self) -> Option<(&[u8], &[u8], &[u8])> {
        if self.is_side || self.id.is_empty() {
            return None;
        }
        Some((self.session?, self.ts?, self.branch?))
    }

    /// Returns the tokens that the message read from the cache, as JSON text.
    pub(super) fn cache_read_json(&self) -> Vec<u8> {
        if let Some(reference) = &self.reference {
            return reference.cache_read.clone();
        }
        let mut out = Vec::new();
        js::write_number(self.counts.usage().or_zero().cache_read, &mut out);
        out
    }

    fn add_call(&mut self, arena: &'p Bump, block: Value<'_>) {
        let (Some(id), Some(name)) = (js::any_text(block, "id"), js::any_text(block, "name")) else { return };
        if self.calls.iter().any(|call| call.id == id) {
            return;
        }
        let id = &*arena.alloc_slice_copy(id);
        let target = |input| calls::target(name, input).map(|target| &*arena.alloc_slice_copy(target));
        let input = js::present(block, "input");
        let (edit_pre_hash, edit_post_hash) =
            input.map_or((None, None), |input| calls::edit_hashes(name, input));
        self.unanswered.push(id);
        self.calls.push(ToolCall {
            id,
            name: arena.alloc_slice_copy(name),
            args_hash: calls::args_hash(input),
            target: input.and_then(target),
            edit_pre_hash,
            edit_post_hash,
            ..ToolCall::default()
        });
    }

    /// Adds what the results of its calls tell.
    pub(super) fn take_results(&mut self, results: &Results<'_>) {
        for call in &mut self.calls {
            call.is_error = results.errors.contains(call.id);
            if let Some(replacement) = results.replacements.get(call.id) {
                call.replacement = replacement.clone();
            }
        }
    }

    /// Appends the members of the turn record.
    ///
    /// # Errors
    /// An error where the TypeScript package gives the file up.
    pub(super) fn write_turn(
        &self,
        record: &mut RecordText,
        turn_index: usize,
        path: &[u8],
        subagent: Option<&Invocation>,
        projects: &ProjectKeys,
    ) -> Result<(), GivenUp> {
        let calls = &self.calls;
        self.write_session("sessionId", record);
        record.text("messageId", self.id);
        record.count("turnIndex", turn_index);
        match &self.reference {
            Some(reference) => record.raw("ts", &reference.ts),
            None => record.text("ts", self.ts.unwrap_or_default()),
        }
        self.write_model(record);
        match &self.reference {
            Some(reference) => record.raw("usage", &reference.usage),
            None => self.counts.usage().write(record),
        }
        record.objects("toolCalls", calls, ToolCall::write);
        record.text("sessionPath", path);
        match self.cwd {
            Some(Some(cwd)) => projects.write(cwd, record),
            Some(None) if self.reference.is_some() => return Err(GivenUp("a cwd that is no string")),
            _ => {}
        }
        let touches = |name: &[u8]| matches!(name, b"Read" | b"Edit" | b"Write" | b"NotebookEdit");
        record.texts_if_any("filesTouched", &calls::files_touched(calls, touches, false));
        if self.is_side {
            record.object("subagent", |told| {
                told.flag("isSidechain", true);
                let Some(agent) = subagent else { return };
                told.text("agentId", &agent.agent_id);
                if !agent.parent_tool_use_id.is_empty() || self.reference.is_some() {
                    told.text("parentToolUseId", &agent.parent_tool_use_id);
                }
                told.maybe_text("subagentType", agent.subagent_type.as_deref());
                told.maybe_text("description", agent.description.as_deref());
                match &agent.parent_agent_id {
                    Some(parent) => told.text("parentAgentId", parent),
                    None => self.write_session("parentAgentId", told),
                }
            });
        }
        record.maybe_text("stopReason", self.stop_reason);
        self.coverage.write_fidelity(record);
        let words = TurnWords {
            prompt: self.prompt.as_deref().filter(|_| !self.id.is_empty()).unwrap_or_default(),
            answer: &self.texts.join(&b'\n'),
            has_failed: calls.iter().any(|call| call.is_error),
            has_reasoning: false,
        };
        classify(calls.iter().map(ToolCall::for_activity), &words).write(record);
        Ok(())
    }

    /// The notes on the turn. The TypeScript package makes none.
    pub(super) fn notes(&self, hasher: &mut Hasher) -> Option<RecordNotes> {
        if self.reference.is_some() {
            return None;
        }
        let [session, ts, model] = [self.session, self.ts, self.model].map(Option::unwrap_or_default);
        let [session_text, id, ts_text, model] = [session, self.id, ts, model].map(js::to_utf8);
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
            first_args_hash: self.calls.first().map_or("", |call| {
                // Digits are ASCII.
                std::str::from_utf8(&call.args_hash).unwrap_or_default()
            }),
        });
        let id_of = hasher.id_of_parts(&["claude-code", &session_text, &id]);
        Some(RecordNotes {
            turn: Some(TurnNote::of_parts(b"claude-code", session, self.id, ts)),
            made: Some((id_of, Some(fingerprint))),
            ..RecordNotes::default()
        })
    }
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
            blocks.for_each(|text| js::add_line(&mut texts, text));
            texts
        }
    }
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

//! Parses single lines of a rollout: texts, calls, outputs, counts.

use super::super::GivenUp;
use super::super::calls::{ToolCall, args_hash};
use super::super::js::{self, RecordText};
use super::super::measure;
use crate::scan::json::{Document, Kind, Value, trim_js};

/// Whether Codex itself wrote this block of a user message: instructions, permissions or the environment, not
/// the user's words.
fn is_boilerplate(text: &[u8]) -> bool {
    let text = js::trim_start(text);
    let begins = |head: &[u8]| text.get(..head.len()).is_some_and(|start| start.eq_ignore_ascii_case(head));
    [&b"<environment_context"[..], b"<permissions", b"<collaboration_mode"].iter().any(|head| begins(head))
        || text.starts_with(b"<INSTRUCTIONS>")
        || text
            .strip_prefix(b"#")
            .map(js::trim_start)
            .is_some_and(|rest| rest.get(..9).is_some_and(|name| name.eq_ignore_ascii_case(b"AGENTS.md")))
}

/// Other parts that the harness puts into user messages. They are measured as part of the conversation, but are no
/// prompt.
pub(super) fn is_no_prompt(text: &[u8]) -> bool {
    let text = js::trim_start(text);
    [
        &b"<user_instructions"[..],
        b"<turn_aborted",
        b"<subagent_notification",
        b"<skill",
        b"<user_shell_command",
    ]
    .iter()
    .any(|head| text.starts_with(head))
}

/// Returns the text of a message, and the part of it that is a prompt.
pub(super) fn message_texts(payload: Value<'_>, is_user: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut all, mut prompt) = (Vec::new(), Vec::new());
    for block in payload.get("content").into_iter().flat_map(Value::items) {
        let Some(text) = js::text(block, "text").filter(|_| block.kind() == Kind::Object) else { continue };
        if is_user && is_boilerplate(text) {
            continue;
        }
        js::add_line(&mut all, text);
        if !is_no_prompt(text) {
            js::add_line(&mut prompt, text);
        }
    }
    (all, prompt)
}

/// Returns the text of a reasoning line.
pub(super) fn reasoning_text(payload: Value<'_>) -> Vec<u8> {
    let mut all = Vec::new();
    for list in ["summary", "content"] {
        for entry in payload.get(list).into_iter().flat_map(Value::items) {
            if let Some(text) = js::text(entry, "text") {
                js::add_line(&mut all, text);
            }
        }
    }
    all
}

/// A call from a line.
pub(super) struct RolloutCall {
    pub call: ToolCall,
    /// The JSON text of the input, for the content sidecar.
    pub input: Vec<u8>,
    /// The arguments of `spawn_agent`: id, type, description.
    pub spawn: Option<SpawnedAgent>,
}

/// A spawned agent, with the members that its lines have.
#[derive(Debug, Clone, Default)]
pub(super) struct SpawnedAgent {
    pub id: Option<Vec<u8>>,
    pub kind: Option<Vec<u8>>,
    pub description: Option<Vec<u8>>,
    pub ts: Vec<u8>,
    pub has_row: bool,
}

const AGENT_ID: [&str; 3] = ["agent_id", "subagent_id", "session_id"];

/// Returns the agent id in an object: an output, a notification, arguments.
pub(super) fn agent_id(object: Value<'_>) -> Option<Vec<u8>> {
    js::first_text(object, &AGENT_ID).map(<[u8]>::to_vec)
}

/// Returns the agent id in an output that is an object or the JSON text of an object.
pub(super) fn agent_id_of_output(output: Option<Value<'_>>) -> Option<Vec<u8>> {
    let output = output?;
    match output.kind() {
        Kind::Object => agent_id(output),
        Kind::String => {
            let mut document = Document::default();
            let text = output.as_js_str()?.as_wtf8();
            let value = document.parse(text).ok()?;
            (value.kind() == Kind::Object).then(|| agent_id(value)).flatten()
        }
        _ => None,
    }
}

/// Returns a function call. Arguments count as absent unless they are the JSON text of an object.
pub(super) fn function_call(payload: Value<'_>, as_reference: bool) -> Option<RolloutCall> {
    let id = js::any_text(payload, "call_id")?;
    let name = js::any_text(payload, "name")?;
    let mut document = Document::default();
    let arguments = js::text(payload, "arguments");
    let arguments = arguments.and_then(|text| document.parse(trim_js(text)).ok());
    let arguments = arguments.filter(|value| value.kind() == Kind::Object);
    let keys: &[&str] = match name {
        b"exec_command" | b"shell" => &["cmd", "command"],
        b"read_file" | b"write_file" => &["path", "file_path"],
        _ => &["path", "file_path", "cmd", "command", "url"],
    };
    let command = |value: Value<'_>| match js::wtf8(value) {
        Some(text) => Some(text.to_vec()),
        None if as_reference => None,
        None => command_of_list(value),
    };
    let target = arguments.and_then(|arguments| keys.iter().find_map(|key| command(arguments.get(key)?)));
    let first =
        |keys: &[&str]| arguments.and_then(|arguments| js::first_text(arguments, keys)).map(<[u8]>::to_vec);
    let spawn = (name == b"spawn_agent").then(|| SpawnedAgent {
        id: first(&AGENT_ID),
        kind: first(&["subagent_type", "agent_type", "type"]),
        description: first(&["description", "task", "prompt"]),
        ..SpawnedAgent::default()
    });
    let call = ToolCall {
        id: id.to_vec(),
        name: name.to_vec(),
        args_hash: args_hash(arguments),
        target,
        ..ToolCall::default()
    };
    Some(RolloutCall { call, input: js::json_or(arguments, b"{}"), spawn })
}

/// The command in a list of words: the script of `sh -c`, else the words joined by spaces.
fn command_of_list(value: Value<'_>) -> Option<Vec<u8>> {
    let words: Vec<&[u8]> = value.items().map(js::wtf8).collect::<Option<_>>()?;
    match words[..] {
        [] => None,
        [_, b"-c" | b"-lc", script] => Some(script.to_vec()),
        _ => Some(words.join(&b' ')),
    }
}

/// Returns a custom tool call. With the rules of the TypeScript package a patch that is no text is an error that ends
/// the reading.
pub(super) fn custom_call(payload: Value<'_>, as_reference: bool) -> Result<Option<RolloutCall>, GivenUp> {
    let (Some(id), Some(name)) = (js::any_text(payload, "call_id"), js::any_text(payload, "name")) else {
        return Ok(None);
    };
    let input = js::present(payload, "input");
    let of_input = |json: &[u8]| [b"{\"input\":", json, b"}"].concat();
    let sorted = input.map_or_else(|| b"\"\"".to_vec(), js::sorted_json);
    let mut target = None;
    if name == b"apply_patch" {
        match input.map(|input| js::wtf8(input)) {
            Some(None) if as_reference => return Err(GivenUp("a patch that is no text")),
            Some(Some(patch)) => target = patched_file(patch).map(<[u8]>::to_vec),
            _ => (),
        }
    }
    let call = ToolCall {
        id: id.to_vec(),
        name: name.to_vec(),
        args_hash: measure::hash16(&of_input(&sorted)),
        target,
        ..ToolCall::default()
    };
    Ok(Some(RolloutCall { call, input: of_input(&js::json_or(input, b"\"\"")), spawn: None }))
}

/// Returns a shell call or web search of the model's own tools. The TypeScript package skips these.
pub(super) fn builtin_call(payload: Value<'_>, kind: &[u8]) -> Option<RolloutCall> {
    let id = js::first_text(payload, &["call_id", "id"])?;
    let action = payload.get("action");
    let (name, target) = match kind {
        b"local_shell_call" => {
            (&b"shell"[..], action.and_then(|action| command_of_list(action.get("command")?)))
        }
        _ => {
            (&b"web_search"[..], action.and_then(|action| js::any_text(action, "query")).map(<[u8]>::to_vec))
        }
    };
    let args_hash = args_hash(action);
    let call = ToolCall { id: id.to_vec(), name: name.to_vec(), args_hash, target, ..ToolCall::default() };
    Some(RolloutCall { call, input: js::json_or(action, b"{}"), spawn: None })
}

/// The file of a patch: the rest of the first line that begins with `*** Update File:` (or Add, Delete).
fn patched_file(patch: &[u8]) -> Option<&[u8]> {
    let mut from = 0;
    while let Some(at) = memchr::memmem::find(&patch[from..], b"***") {
        let start = from + at;
        if let Some(file) = file_behind(&patch[start + 3..]) {
            return Some(file);
        }
        from = start + 1;
    }
    None
}

fn file_behind(text: &[u8]) -> Option<&[u8]> {
    let rest = spaces(text)?;
    let words: [&[u8]; 3] = [b"Update", b"Add", b"Delete"];
    let rest = words.iter().find_map(|word| rest.strip_prefix(*word))?;
    let rest = spaces(spaces(rest)?.strip_prefix(b"File:")?)?;
    let line_end = |at: &usize| {
        matches!(rest[*at], b'\n' | b'\r')
            || rest[*at..].starts_with("\u{2028}".as_bytes())
            || rest[*at..].starts_with("\u{2029}".as_bytes())
    };
    let end = (0..rest.len()).find(line_end).unwrap_or(rest.len());
    let file = trim_js(&rest[..end]);
    (!file.is_empty()).then_some(file)
}

/// The text after one or more characters of white space; none if it begins with none.
fn spaces(text: &[u8]) -> Option<&[u8]> {
    let rest = js::trim_start(text);
    (rest.len() < text.len()).then_some(rest)
}

/// Returns whether the text of an output shows that its command failed.
pub(super) fn output_failed(output: Option<Value<'_>>) -> bool {
    let Some(output) = output else { return false };
    let is_failure = |object: Value<'_>| {
        let code = object.get("metadata").and_then(|metadata| js::number(metadata, "exit_code"));
        code.is_some_and(|code| code != 0.0)
    };
    let Some(text) = js::wtf8(output) else { return false };
    if text.first() == Some(&b'{') {
        let mut document = Document::default();
        if document.parse(trim_js(text)).is_ok_and(is_failure) {
            return true;
        }
    }
    const EXITED: &[u8] = b"Process exited with code ";
    // The head of an output has the exit code; the output of the command follows.
    let head = &text[..text.len().min(512)];
    memchr::memmem::find(head, EXITED).is_some_and(|at| {
        let code = &head[at + EXITED.len()..];
        // A command that was killed has the code -1.
        let digits = code.strip_prefix(b"-").unwrap_or(code);
        digits.iter().take_while(|byte| byte.is_ascii_digit()).any(|digit| *digit != b'0')
    })
}

/// Token counts as in a log: the input includes cached tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RolloutCounts {
    pub input: f64,
    pub cached: f64,
    pub cache_write: f64,
    pub output: f64,
    pub reasoning: f64,
}

impl RolloutCounts {
    /// The names in a log, in the order of the fields.
    const NAMES: [&str; 5] = [
        "input_tokens",
        "cached_input_tokens",
        "cache_write_input_tokens",
        "output_tokens",
        "reasoning_output_tokens",
    ];

    pub(super) fn of(usage: Value<'_>) -> Self {
        let [input, cached, cache_write, output, reasoning] =
            Self::NAMES.map(|key| usage.get(key).map_or(0.0, js::to_number));
        RolloutCounts { input, cached, cache_write, output, reasoning }
    }

    /// Appends the members that [`RolloutCounts::of`] reads.
    pub(super) fn write(self, record: &mut RecordText) {
        Self::NAMES.into_iter().zip(self.each()).for_each(|(key, count)| record.number(key, count));
    }

    /// The counts of a record: its input is without cached tokens.
    pub(super) fn of_usage(usage: super::super::fidelity::Usage) -> Self {
        let (cached, cache_write) = (usage.cache_read, usage.cache_create_5m);
        RolloutCounts {
            input: usage.input + cached + cache_write,
            cached,
            cache_write,
            output: usage.output,
            reasoning: usage.reasoning,
        }
    }

    /// Replaces counts that are not finite by 0.
    pub(super) fn finite(self) -> Self {
        self.zip(self, |count, _| if count.is_finite() { count } else { 0.0 })
    }

    fn each(self) -> [f64; 5] {
        [self.input, self.cached, self.cache_write, self.output, self.reasoning]
    }

    fn zip(self, other: RolloutCounts, f: impl Fn(f64, f64) -> f64) -> Self {
        RolloutCounts {
            input: f(self.input, other.input),
            cached: f(self.cached, other.cached),
            cache_write: f(self.cache_write, other.cache_write),
            output: f(self.output, other.output),
            reasoning: f(self.reasoning, other.reasoning),
        }
    }

    pub(super) fn plus(self, other: RolloutCounts) -> Self {
        self.zip(other, |a, b| a + b)
    }

    /// Returns the difference to `other`, at least 0 in each field.
    pub(super) fn beyond(self, other: RolloutCounts) -> Self {
        self.zip(other, |a, b| (a - b).max(0.0))
    }

    pub(super) fn is_zero(self) -> bool {
        self == RolloutCounts::default()
    }

    /// Returns the usage of one call. Example: totals of 100 and then 130 give 30; totals of 130 again give 0.
    ///
    /// The count of the call itself (`last`) is used instead where the difference would be wrong: at the first totals,
    /// which may be higher than their own call; when a counter fell; and when the totals equal the call, because the
    /// counters started again.
    pub(super) fn step(
        before: Option<RolloutCounts>,
        totals: RolloutCounts,
        last: Option<RolloutCounts>,
    ) -> Self {
        let Some(before) = before else { return last.unwrap_or(totals) };
        if totals == before {
            return RolloutCounts::default();
        }
        let is_less = totals.each().iter().zip(before.each()).any(|(now, then)| *now < then);
        if is_less || last == Some(totals) {
            return last.unwrap_or(totals);
        }
        totals.beyond(before)
    }

    /// Input without cached tokens, as in records.
    pub(super) fn usage(self) -> super::super::fidelity::Usage {
        super::super::fidelity::Usage {
            input: (self.input - self.cached - self.cache_write).max(0.0),
            output: self.output,
            reasoning: self.reasoning,
            cache_read: self.cached,
            cache_create_5m: self.cache_write,
            cache_create_1h: 0.0,
        }
    }
}

/// Returns an ISO time in milliseconds since 1970; none for another text.
pub(super) fn millis_of(ts: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(ts).ok()?;
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond() as f64)
}

/// Returns the milliseconds in a UUID of version 7.
pub(super) fn millis_of_uuid7(id: &[u8]) -> Option<f64> {
    let id = uuid_of(id).filter(|id| id.get_version_num() == 7)?;
    Some((id.as_u128() >> 80) as f64)
}

/// Returns the UUID of a text with hyphens, without braces and `urn:`.
pub(super) fn uuid_of(text: &[u8]) -> Option<uuid::Uuid> {
    uuid::Uuid::try_parse_ascii(text).ok().filter(|_| text.len() == 36)
}

//! Reads a session of OpenCode: its head, its messages and their parts, from files, a database or a stream.

pub(super) mod records;

use std::collections::HashSet;

use crate::agents::calls::args_hash;
use crate::agents::fidelity::{Coverage, Usage, beyond};
use crate::agents::js;
use crate::agents::measure::{self, HexDigits};
use crate::scan::json::{Kind, Value, write_js_number};

/// Versions from which OpenCode's output excludes reasoning for OpenAI's models. The exact version of the change is not
/// certain.
const REASONING_OUTSIDE_SINCE: [u64; 3] = [1, 4, 0];

/// A session's head.
#[derive(Debug, Clone, Default)]
pub(in crate::agents) struct SessionHead {
    pub id: Vec<u8>,
    pub parent: Option<Vec<u8>>,
    pub directory: Option<Vec<u8>>,
    pub version: Option<Vec<u8>>,
    /// The call of the parent that started the session, if it was found.
    pub task: Option<SpawningTask>,
    /// The session whose messages this fork copied, and the first message that was not copied.
    pub fork: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// The parts in stored order.
    pub messages: Vec<SessionMessage>,
}

/// The call of the tool `task` that started a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::agents) struct SpawningTask {
    pub call: Vec<u8>,
    pub kind: Option<Vec<u8>>,
    pub description: Option<Vec<u8>>,
}

impl SpawningTask {
    /// The call in a part of a message, if the call started `child`.
    pub(super) fn of_part(part: Value<'_>, child: &[u8]) -> Option<Self> {
        let state = part.get("state")?;
        let told = state.get("metadata").and_then(|metadata| js::text(metadata, "sessionId"));
        if js::first_text(part, &["tool", "name"]) != Some(b"task") || told != Some(child) {
            return None;
        }
        let input = |key| state.get("input").and_then(|input| js::text(input, key)).map(<[u8]>::to_vec);
        Some(SpawningTask {
            call: js::first_text(part, &["callID", "id"])?.to_vec(),
            kind: input("subagent_type"),
            description: input("description"),
        })
    }
}

/// A prompt or an answer.
#[derive(Debug, Clone, Default)]
pub(in crate::agents) struct SessionMessage {
    pub id: Vec<u8>,
    pub session: Vec<u8>,
    pub is_answer: bool,
    pub created_ms: f64,
    completed_ms: Option<f64>,
    pub is_finished: bool,
    /// The cost of the answer that OpenCode reports, in dollars.
    pub reported_usd: f64,
    pub parts: Vec<Part>,
    model: Vec<u8>,
    provider: Vec<u8>,
    model_id: Vec<u8>,
    folder: Folder,
    usage: Usage,
    total: Option<f64>,
    coverage: Coverage,
    has_tokens: bool,
}

#[derive(Debug, Clone, Default)]
enum Folder {
    #[default]
    Session,
    Named(Vec<u8>),
    /// Neither text nor null.
    Odd,
}

/// A part of a message.
#[derive(Debug, Clone)]
pub(in crate::agents) enum Part {
    Text { text: Vec<u8>, is_synthetic: bool },
    Reasoning(Vec<u8>),
    Tool(Box<Tool>),
    StepFinish { reason: Option<Vec<u8>>, usage: Usage, coverage: Coverage },
    Compaction,
    Other,
}

/// A call of a tool, with its result.
#[derive(Debug, Clone)]
pub(in crate::agents) struct Tool {
    /// The id of the part.
    part: Option<Vec<u8>>,
    call: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    args_hash: HexDigits,
    target: Option<Vec<u8>>,
    skill: Option<Vec<u8>>,
    has_failed: bool,
    /// The input as JSON text.
    input: Vec<u8>,
    /// The measured text of the output (none for null) and its JSON text.
    output: Option<(Option<Vec<u8>>, Vec<u8>)>,
}

/// The counts of the member `tokens`, which of them it has, and its total.
fn usage_of(tokens: Option<Value<'_>>) -> (Usage, Coverage, Option<f64>) {
    let Some(tokens) = tokens.filter(|tokens| tokens.kind() == Kind::Object) else {
        return (Usage::default(), Coverage::default(), None);
    };
    let cache = tokens.get("cache");
    let count = |key| js::number_or_nan(tokens, key);
    let cached = |key| cache.map_or(0.0, |cache| js::number_or_nan(cache, key));
    let has = |key| tokens.get(key).is_some();
    let has_cached = |key| cache.is_some_and(|cache| cache.get(key).is_some());
    let usage = Usage {
        input: count("input"),
        output: count("output"),
        reasoning: count("reasoning"),
        cache_read: cached("read"),
        cache_create_5m: cached("write"),
        cache_create_1h: 0.0,
    };
    let coverage = Coverage {
        has_input: has("input"),
        has_output: has("output"),
        has_reasoning: has("reasoning"),
        has_cache_read: has_cached("read"),
        has_cache_create: has_cached("write"),
    };
    (usage, coverage, js::number(tokens, "total"))
}

impl SessionMessage {
    /// Returns a stored message, without its parts; none if the message does not count.
    pub(super) fn of(value: Value<'_>) -> Option<Self> {
        let ids = [js::any_text(value, "id")?, js::any_text(value, "sessionID")?];
        let model = ["modelID", "providerID"].map(|key| value.get(key));
        Self::of_row(value, ids, js::any_text(value, "role")?, model)
    }

    /// Returns the message of a row of a database, which names the message and its session, with the ids of the model and of the
    /// model's provider.
    pub(super) fn of_row(
        value: Value<'_>,
        [id, session]: [&[u8]; 2],
        role: &[u8],
        [model_id, provider_id]: [Option<Value<'_>>; 2],
    ) -> Option<Self> {
        let is_answer = match role {
            b"assistant" => true,
            b"user" => false,
            _ => return None,
        };
        let created_ms = value.get("time").and_then(|time| js::number(time, "created"))?;
        let time = |key| value.get("time").and_then(|time| js::present(time, key)).is_some();
        let (usage, coverage, total) = usage_of(value.get("tokens"));
        let words = |id: Option<Value<'_>>| id.filter(|id| !id.is_null()).map(js_word);
        let provider = provider_id.filter(|id| id.is_truthy()).map(js_word);
        let model = model_id.filter(|id| id.is_truthy()).map(js_word);
        let folder = value.get("path").and_then(|path| js::present(path, "cwd"));
        Some(SessionMessage {
            id: id.to_vec(),
            session: session.to_vec(),
            is_answer,
            created_ms,
            completed_ms: value.get("time").and_then(|time| js::number(time, "completed")),
            reported_usd: js::number(value, "cost").filter(|cost| *cost > 0.0).unwrap_or(0.0),
            is_finished: time("completed") || js::present(value, "error").is_some(),
            parts: Vec::new(),
            provider: provider.clone().unwrap_or_default(),
            model_id: model.clone().unwrap_or_default(),
            model: match (provider, model) {
                (Some(provider), Some(model)) => [provider, model].join(&b'/'),
                _ => words(model_id).or_else(|| words(provider_id)).unwrap_or_default(),
            },
            folder: match folder {
                None => Folder::Session,
                Some(folder) => js::wtf8(folder).map_or(Folder::Odd, |folder| Folder::Named(folder.to_vec())),
            },
            usage,
            total,
            coverage,
            has_tokens: value.get("tokens").is_some(),
        })
    }

    fn texts(&self, with_synthetic: bool) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().filter_map(move |part| match part {
            Part::Text { text, is_synthetic } if with_synthetic || !is_synthetic => Some(&text[..]),
            _ => None,
        })
    }

    /// Returns whether the answer cannot change: it is complete, or failed, or its last step needs no tool.
    fn has_ended(&self) -> bool {
        let is_last_step = |part: &Part| match part {
            Part::StepFinish { reason: Some(reason), .. } => reason != b"tool-calls",
            _ => false,
        };
        self.is_finished || self.parts.last().is_some_and(is_last_step)
    }

    fn joined(&self) -> Vec<u8> {
        self.texts(false).collect::<Vec<_>>().join(&b'\n')
    }

    fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.parts.iter().filter_map(|part| match part {
            Part::Tool(tool) => Some(&**tool),
            _ => None,
        })
    }

    /// Tools whose results make events.
    fn shared_tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools()
            .filter(|tool| tool.output.is_some() && tool.call.as_ref().is_some_and(|call| !call.is_empty()))
    }

    /// Returns whether a stream may write the answer.
    fn is_final(&self) -> bool {
        self.has_tokens || self.parts.iter().any(|part| matches!(part, Part::StepFinish { .. }))
    }

    /// The values that an answer shares with its copy in a fork: times, model and counts.
    fn identity(&self) -> Vec<u64> {
        let model = blake3::hash(&self.model);
        let model = u64::from_le_bytes(*model.as_bytes().first_chunk().unwrap_or(&[0; 8]));
        let counts = self.usage.counts().map(|(_, count)| count.to_bits());
        let completed = self.completed_ms.map_or(u64::MAX, f64::to_bits);
        [&[self.created_ms.to_bits(), completed, model], &counts[..]].concat()
    }

    fn has_compaction(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Compaction))
    }

    /// With our rules: the tokens, by the rule that OpenCode's total, provider and version show. Some versions ran several steps in one
    /// answer. The answer then has the tokens of the last step. An answer that was cut off has none.
    fn settled_usage(&self, version: Option<&[u8]>) -> Usage {
        let mut usage = self.usage.checked();
        let mut steps = Usage::default();
        for part in &self.parts {
            if let Part::StepFinish { usage, .. } = part {
                steps = steps.plus(usage.checked());
            }
        }
        if usage == Usage::default() {
            usage = steps;
        }
        let without = usage.input + usage.output + usage.cache_read;
        let is_inside = match self.total {
            Some(total) if usage.reasoning > 0.0 => {
                let is_sum = |sum: f64| total == sum || total == sum + usage.cache_create_5m;
                !is_sum(without + usage.reasoning) && is_sum(without)
            }
            Some(_) => false,
            None => {
                self.is_of_openai()
                    && version.and_then(version_of).is_some_and(|v| v < REASONING_OUTSIDE_SINCE)
            }
        };
        if usage.larger(steps) == steps {
            usage = steps;
        }
        if is_inside {
            usage.output = beyond(usage.output, usage.reasoning);
        }
        usage
    }

    fn is_of_openai(&self) -> bool {
        let model = &self.model_id;
        let is_o = model.first() == Some(&b'o') && model.get(1).is_some_and(u8::is_ascii_digit);
        matches!(&self.provider[..], b"openai" | b"azure" | b"github-copilot")
            && (model.starts_with(b"gpt") || is_o)
    }
}

fn version_of(text: &[u8]) -> Option<[u64; 3]> {
    let text = std::str::from_utf8(text).ok()?;
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// The text of a value in a JavaScript template.
fn js_word(value: Value<'_>) -> Vec<u8> {
    if let Some(text) = js::wtf8(value) {
        return text.to_vec();
    }
    match value.as_number() {
        Some(number) => {
            let mut text = Vec::new();
            write_js_number(number.as_f64(), &mut text);
            text
        }
        None if value.kind() == Kind::Object => b"[object Object]".to_vec(),
        None => js::json(value),
    }
}

impl Part {
    /// Returns a stored part.
    pub(super) fn of(value: Value<'_>, as_reference: bool) -> Self {
        match js::any_text(value, "type") {
            Some(b"text") => match js::text(value, "text") {
                Some(text) => {
                    Part::Text { text: text.to_vec(), is_synthetic: js::is_true(value, "synthetic") }
                }
                None => Part::Other,
            },
            Some(b"reasoning") => match js::text(value, "text") {
                Some(text) => Part::Reasoning(text.to_vec()),
                None => Part::Other,
            },
            Some(b"tool") => Part::Tool(Box::new(Tool::of(value, as_reference))),
            Some(b"step-finish") => {
                let (usage, coverage, _) = usage_of(value.get("tokens"));
                Part::StepFinish {
                    reason: js::any_text(value, "reason").map(<[u8]>::to_vec),
                    usage,
                    coverage,
                }
            }
            Some(b"compaction") => Part::Compaction,
            _ => Part::Other,
        }
    }
}

impl Tool {
    fn of(value: Value<'_>, as_reference: bool) -> Self {
        let (part, state) = (js::any_text(value, "id"), value.get("state"));
        Self::of_parts(part, value.get("callID"), value.get("tool"), state, &["output"], as_reference)
    }

    /// `outputs` are the members of the state that may have the output.
    pub(super) fn of_parts(
        part: Option<&[u8]>,
        call: Option<Value<'_>>,
        name: Option<Value<'_>>,
        state: Option<Value<'_>>,
        outputs: &[&str],
        as_reference: bool,
    ) -> Self {
        let (call, name) = (call.and_then(js::wtf8), name.and_then(js::wtf8));
        let input = state.and_then(|state| js::present(state, "input"));
        let fails = |state: Value<'_>| {
            let exit =
                state.get("metadata").and_then(|metadata| metadata.get("exit")).and_then(Value::as_number);
            js::any_text(state, "status") == Some(b"error") || exit.is_some_and(|exit| exit.as_f64() != 0.0)
        };
        let has_failed = state.is_some_and(fails);
        let keys: &[&str] = match name.unwrap_or_default() {
            b"read" | b"write" | b"edit" => &["filePath", "file_path", "path"],
            b"bash" => &["command"],
            b"grep" | b"glob" => &["pattern"],
            b"webfetch" => &["url"],
            b"task" => &["subagent_type", "description", "prompt"],
            _ => &["filePath", "file_path", "path", "url", "command"],
        };
        let skill = input.filter(|_| name == Some(b"skill")).and_then(|input| {
            let first = ["skill", "name", "skill_name"].iter().find_map(|key| js::present(input, key))?;
            js::wtf8(first)
        });
        let output = state.and_then(|state| {
            let error = || state.get("error").filter(|error| has_failed && !as_reference && !error.is_null());
            let output = outputs.iter().find_map(|key| state.get(key)).or_else(error)?;
            let text = js::json_or(Some(output).filter(|output| !output.is_null()), b"\"\"");
            Some((measure::measured_text(Some(output)).map(|text| text.into_owned()), text))
        });
        Tool {
            part: part.map(<[u8]>::to_vec),
            call: call.map(<[u8]>::to_vec),
            name: name.map(<[u8]>::to_vec),
            args_hash: args_hash(input),
            target: input.and_then(|input| js::first_any_text(input, keys)).map(<[u8]>::to_vec),
            skill: skill.map(<[u8]>::to_vec),
            has_failed,
            input: js::json_or(input, b"{}"),
            output,
        }
    }
}

impl SessionHead {
    /// Returns a stored session; none if it has no id.
    pub(super) fn of(value: Value<'_>) -> Option<Self> {
        Some(SessionHead {
            id: js::any_text(value, "id")?.to_vec(),
            parent: js::any_text(value, "parentID").map(<[u8]>::to_vec),
            directory: js::any_text(value, "directory").map(<[u8]>::to_vec),
            version: js::any_text(value, "version").map(<[u8]>::to_vec),
            ..SessionHead::default()
        })
    }

    /// The cost of the session that OpenCode reports, in dollars.
    pub(super) fn reported_usd(&self) -> f64 {
        self.messages.iter().map(|message| message.reported_usd).sum()
    }

    /// The ids of the messages that a fork has copied: the answers that equal answers of `source` before the fork, and
    /// the prompts before the last of them. Copies have new ids and are otherwise equal.
    pub(super) fn copied(&self, source: &[SessionMessage], boundary: Option<&[u8]>) -> HashSet<Vec<u8>> {
        let end = boundary.and_then(|id| source.iter().position(|message| message.id == id));
        let originals: HashSet<Vec<u64>> = source[..end.unwrap_or(source.len())]
            .iter()
            .filter(|m| m.is_answer)
            .map(SessionMessage::identity)
            .collect();
        let is_copy =
            |message: &&SessionMessage| message.is_answer && originals.contains(&message.identity());
        let copies: Vec<&SessionMessage> = self.messages.iter().filter(is_copy).collect();
        let Some(last_ms) = copies.iter().map(|copy| copy.created_ms).max_by(f64::total_cmp) else {
            return HashSet::new();
        };
        let prompts =
            self.messages.iter().filter(|message| !message.is_answer && message.created_ms <= last_ms);
        copies.into_iter().chain(prompts).map(|message| message.id.clone()).collect()
    }
}

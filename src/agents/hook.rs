//! Appends the event of a hook of Claude Code while its session goes on.
//!
//! A hook reports a tool or an agent before the log does. Its event gets the next numbers of the session. So the events
//! of the log are later compared with the session's events in the ledger: a result that the ledger has is not written
//! again, and other events get the numbers after those in the ledger.

use std::collections::HashMap;

use super::AgentsError;
use super::js::{self, RecordText};
use super::known::Known;
use super::measure;
use crate::home::Home;
use crate::scan::json::{Kind, Value};

/// The numbers of a session's events in the ledger, from which new events get their numbers.
#[derive(Debug)]
pub(super) struct Numbers {
    session: Vec<u8>,
    /// Whether the session has any event.
    has_events: bool,
    highest: Option<f64>,
    calls: HashMap<Vec<u8>, CallEvents>,
}

/// The sources in which events are looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'k> {
    pub known: &'k Known,
    pub home: &'k Home,
}

/// The events of one tool use id.
#[derive(Debug, Default)]
struct CallEvents {
    /// The highest call index.
    highest: Option<f64>,
    /// The numbers of the events, and the content of each.
    taken: HashMap<u64, EventContent>,
    is_finished: bool,
    /// Whether the result came from a hook. Such an event has neither message id nor time.
    is_finished_by_hook: bool,
    /// The content of each event.
    said: Vec<EventContent>,
}

/// Source, status, agent and hash of an event.
type EventContent = [Option<Vec<u8>>; 4];

/// Selects the events of a log that get new numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renumbered {
    /// All events, if the ledger has events of the session. For a log that is read for a hook.
    All,
    /// Events whose number belongs to another event of the same call in the ledger.
    Taken,
}

const FINISHED: [&[u8]; 3] = [b"completed", b"errored", b"cancelled"];

fn told(event: Value<'_>) -> EventContent {
    ["eventSource", "status", "agentId", "contentHash"]
        .map(|key| js::any_text(event, key).map(<[u8]>::to_vec))
}

fn number_of(event: Value<'_>) -> f64 {
    js::number(event, "eventIndex").unwrap_or(0.0)
}

impl CallEvents {
    /// Adds an event under `number`.
    fn add(&mut self, event: Value<'_>, number: f64) {
        let call = js::number(event, "callIndex").unwrap_or(0.0);
        self.highest = Some(self.highest.map_or(call, |highest| highest.max(call)));
        self.taken.insert(number as u64, told(event));
        let is_finished = js::any_text(event, "status").is_some_and(|status| FINISHED.contains(&status));
        if is_finished && js::any_text(event, "eventSource") == Some(b"tool_result") {
            self.is_finished = true;
            self.is_finished_by_hook |= event.get("messageId").is_none() && event.get("ts").is_none();
        }
        self.said.push(told(event));
    }
}

impl Numbers {
    /// Returns the numbers of a session of Claude Code, from the part of the ledger that `known` has read.
    pub(super) fn of(known: &Known, session: &[u8]) -> Self {
        let highest = known.highest_number(session);
        let has_events = highest.is_some();
        Numbers { session: session.to_vec(), has_events, highest, calls: HashMap::new() }
    }

    fn call(&mut self, look: Look<'_>, id: &[u8]) -> Result<&mut CallEvents, AgentsError> {
        if !self.calls.contains_key(id) {
            let mut events = CallEvents::default();
            look.known.each_event_of(look.home, (&self.session, id), &mut |event| {
                events.add(event, number_of(event));
            })?;
            self.calls.insert(id.to_vec(), events);
        }
        Ok(self.calls.entry(id.to_vec()).or_default())
    }

    /// The numbers of the next event of a tool use id.
    fn next(&mut self, look: Look<'_>, id: &[u8]) -> Result<(f64, f64), AgentsError> {
        let events = self.call(look, id)?;
        let call = events.highest.map_or(0.0, |highest| highest + 1.0);
        events.highest = Some(call);
        let number = self.highest.map_or(0.0, |highest| highest + 1.0);
        self.highest = Some(number);
        Ok((call, number))
    }

    /// Makes new numbers begin after this number.
    pub(super) fn reserve(&mut self, number: f64) {
        self.highest = Some(self.highest.map_or(number, |highest| highest.max(number)));
    }

    /// Returns an event of a log, with new numbers if `which` selects it; none if the ledger has its result.
    pub(super) fn renumber(
        &mut self,
        look: Look<'_>,
        event: Value<'_>,
        which: Renumbered,
    ) -> Result<Option<Vec<u8>>, AgentsError> {
        let id = js::any_text(event, "toolUseId").unwrap_or_default();
        let has_events = self.has_events;
        let events = self.call(look, id)?;
        let is_there = match which {
            Renumbered::All => events.is_finished,
            Renumbered::Taken => events.is_finished_by_hook,
        };
        if is_there && js::any_text(event, "eventSource") == Some(b"tool_result") {
            return Ok(None);
        }
        let number = number_of(event);
        let is_renumbered = match which {
            Renumbered::All => has_events,
            Renumbered::Taken => {
                let said = told(event);
                let other = events.taken.get(&(number as u64)).filter(|taken| **taken != said);
                // Without a message only its content tells an event that got its new number in an earlier run.
                if other.is_some() && event.get("messageId").is_none() && events.said.contains(&said) {
                    return Ok(None);
                }
                other.is_some()
            }
        };
        let numbers = if is_renumbered { Some(self.next(look, id)?) } else { None };
        if which == Renumbered::Taken {
            let number = numbers.map_or(number, |(_, number)| number);
            self.highest = Some(self.highest.map_or(number, |highest| highest.max(number)));
            self.call(look, id)?.add(event, number);
        }
        let mut record = RecordText::default();
        record.members_of(event, |record, key| {
            match (key, numbers) {
                (b"callIndex", Some((call, _))) => record.number("callIndex", call),
                (b"eventIndex", Some((_, number))) => record.number("eventIndex", number),
                _ => return false,
            }
            true
        });
        Ok(Some(record.finish()))
    }

    /// Returns the event of a hook with the next numbers of its session; none if the ledger has the event already.
    pub(super) fn number(
        &mut self,
        look: Look<'_>,
        event: Value<'_>,
    ) -> Result<Option<Vec<u8>>, AgentsError> {
        let Some(id) = js::any_text(event, "toolUseId") else { return Ok(None) };
        let [source, status, agent, hash] = told(event);
        let is_progress = source.as_deref() == Some(b"progress_event");
        let is_there =
            self.call(look, id)?.said.iter().any(|[known_source, known_status, known_agent, known_hash]| {
                *known_source == source
                    && *known_status == status
                    && (agent.is_none() || *known_agent == agent)
                    && (!is_progress || hash.is_none() || *known_hash == hash)
            });
        if is_there {
            return Ok(None);
        }
        let (call, number) = self.next(look, id)?;
        let mut record = RecordText::default();
        record.members_of(event, |record, key| {
            let is_id = key == b"toolUseId";
            if is_id {
                record.text("toolUseId", id);
                record.number("callIndex", call);
                record.number("eventIndex", number);
            }
            is_id
        });
        Ok(Some(record.finish()))
    }
}

/// The report of a hook: an event without its numbers, and a relationship. Neither has a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HookRecords {
    pub session: Vec<u8>,
    pub relationship: Option<Vec<u8>>,
    /// The event without `callIndex` and `eventIndex`, which follow `toolUseId`.
    pub event: Option<Vec<u8>>,
}

impl HookRecords {
    /// Reads a hook's payload.
    pub(super) fn of(session: &[u8], payload: Value<'_>) -> Self {
        let mut made = HookRecords { session: session.to_vec(), ..HookRecords::default() };
        let Some(told) = HookPayload::of(payload) else { return made };
        if let Some(agent) = &told.agent {
            let mut record = RecordText::of("claude-code");
            record.text("sessionId", session);
            record.text("relationshipType", b"subagent");
            record.text("relatedSessionId", js::text(payload, "parent_agent_id").unwrap_or(session));
            record.text("agentId", agent);
            record.maybe_text("parentToolUseId", parent_id(payload));
            record.maybe_text("subagentType", js::text(payload, "agent_type"));
            made.relationship = Some(record.finish());
        }
        let Some(id) = &told.id else { return made };
        let mut record = RecordText::of("claude-code");
        record.text("sessionId", session);
        record.text("toolUseId", id);
        record.text("status", told.status.as_bytes());
        record.text("eventSource", told.source.as_bytes());
        measure::write_content_measures(told.measured.as_deref(), &mut record);
        record.flag_if("isError", told.status == "errored");
        record.maybe_text("agentId", told.agent.as_deref());
        made.event = Some(record.finish());
        made
    }
}

const IDS: [&str; 4] = ["tool_use_id", "toolUseId", "parent_tool_use_id", "parentToolUseId"];
const PARENT_IDS: [&str; 6] = [
    "parent_tool_use_id",
    "parentToolUseId",
    "tool_use_id",
    "toolUseId",
    "agent_tool_use_id",
    "task_tool_use_id",
];

fn parent_id(payload: Value<'_>) -> Option<&[u8]> {
    js::first_text(payload, &PARENT_IDS)
}

/// The event in a hook's payload.
struct HookPayload {
    id: Option<Vec<u8>>,
    status: &'static str,
    source: &'static str,
    measured: Option<Vec<u8>>,
    /// The agent that has stopped.
    agent: Option<Vec<u8>>,
}

impl HookPayload {
    fn of(payload: Value<'_>) -> Option<Self> {
        let id = js::first_text(payload, &IDS).map(<[u8]>::to_vec);
        let told = HookPayload { id, status: "unknown", source: "tool_result", measured: None, agent: None };
        let measured = |key| measure::measured_text(payload.get(key)).map(std::borrow::Cow::into_owned);
        Some(match js::any_text(payload, "hook_event_name")? {
            b"PreToolUse" => HookPayload { status: "running", ..told },
            b"PostToolUse" => {
                let response = payload.get("tool_response").filter(|value| value.kind() == Kind::Object);
                let is_error = response.is_some_and(|response| {
                    js::is_true(response, "is_error")
                        || js::is_true(response, "isError")
                        || response.get("success").and_then(Value::as_bool) == Some(false)
                });
                let status = if is_error { "errored" } else { "completed" };
                HookPayload { status, measured: measured("tool_response"), ..told }
            }
            b"SubagentStop" => {
                let agent = js::text(payload, "agent_id").map(<[u8]>::to_vec);
                HookPayload {
                    id: parent_id(payload).map(<[u8]>::to_vec).or(agent.clone()),
                    status: stop_status(payload),
                    source: "subagent_notification",
                    measured: measured("last_assistant_message"),
                    agent,
                }
            }
            b"Notification" => {
                HookPayload { source: "progress_event", measured: measured("message"), ..told }
            }
            _ => return None,
        })
    }
}

fn stop_status(payload: Value<'_>) -> &'static str {
    match js::any_text(payload, "status") {
        Some(b"completed") => return "completed",
        Some(b"errored" | b"error" | b"failed" | b"failure") => return "errored",
        Some(b"cancelled" | b"canceled") => return "cancelled",
        _ => {}
    }
    let is = |key| js::is_true(payload, key);
    if is("is_error") || is("isError") || js::first_text(payload, &["error", "error_message"]).is_some() {
        "errored"
    } else if is("cancelled") || is("canceled") || is("interrupted") {
        "cancelled"
    } else {
        "completed"
    }
}

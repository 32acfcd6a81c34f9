//! Records as Rust types, for programs that read or write lines one at a time.
//!
//! [`LedgerLine`] is a line of any kind; with serde it is read from a line and printed as one. Members that these types do
//! not name are kept in `other` and printed again. Builds of the archive do not use these types: they read lines straight
//! into [`rows`](super::rows).
//!
//! ```
//! use relayburn_ledger::home::Home;
//! use relayburn_ledger::ledger::{AppendOptions, Batch, Ledger};
//! use relayburn_ledger::record::typed::{LedgerLine, TurnLine, TurnRecord, Usage};
//!
//! let turn = TurnRecord {
//!     source: "my-agent".into(),
//!     session_id: "s-1".into(),
//!     message_id: "m-1".into(),
//!     ts: "2026-04-20T00:00:00.000Z".into(),
//!     model: "model-a".into(),
//!     usage: Usage { input: 10, output: 20, ..Usage::default() },
//!     ..TurnRecord::default()
//! };
//! let line = LedgerLine::Turn(Box::new(TurnLine::of(turn))).to_json()?;
//! let directory = tempfile::tempdir()?;
//! let mut batch = Batch::new();
//! batch.push_line(line.as_bytes())?;
//! let appended = Ledger::new(Home::at(directory.path())).append(&batch, &AppendOptions::default())?;
//! assert_eq!(appended.appended, 1);
//!
//! let LedgerLine::Turn(read) = LedgerLine::from_json(&line)? else { panic!("a turn") };
//! assert_eq!(read.record.usage.output, 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;

use serde::de::{Deserializer, Error as _};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Members that a type does not name, by key.
pub type Other = BTreeMap<String, Value>;

/// A line of the ledger: `{"v":1,"kind":…,…}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LedgerLine {
    /// One answer of a model.
    Turn(Box<TurnLine>),
    /// A context that was compacted.
    Compaction(CompactionLine),
    /// How two sessions belong together.
    Relationship(RelationshipLine),
    /// What became of a tool call.
    ToolResultEvent(ToolResultEventLine),
    /// What the user, or a tool on their behalf, sent.
    UserTurn(UserTurnLine),
    /// Keys that are assigned to turns.
    Stamp(StampLine),
}

impl LedgerLine {
    /// Reads a line. Stricter than the ledger's own readers: counts must be whole numbers that are not negative, and keys
    /// must not repeat.
    ///
    /// # Errors
    /// When it is not JSON, of another version or kind, or lacks a required member.
    pub fn from_json(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// The line as compact JSON, without a line end.
    ///
    /// # Errors
    /// None that is known: every value of this type has a JSON text.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

/// The version of a line, always 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match f64::deserialize(deserializer)? {
            1.0 => Ok(Self),
            other => Err(D::Error::custom(format!("version {other}, 1 is needed"))),
        }
    }
}

/// A line with a record; its kind is that of the [`LedgerLine`] around it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RecordLine<R> {
    /// The version.
    pub v: Version,
    /// The record.
    pub record: R,
    /// What else the line holds.
    #[serde(flatten)]
    pub other: Other,
}

impl<R> RecordLine<R> {
    /// A line with `record`.
    pub fn of(record: R) -> Self {
        Self { v: Version, record, other: Other::new() }
    }
}

/// A line with a turn.
pub type TurnLine = RecordLine<TurnRecord>;
/// A line with a compaction.
pub type CompactionLine = RecordLine<CompactionRecord>;
/// A line with a relationship.
pub type RelationshipLine = RecordLine<RelationshipRecord>;
/// A line with a tool result event.
pub type ToolResultEventLine = RecordLine<ToolResultEventRecord>;
/// A line with a user turn.
pub type UserTurnLine = RecordLine<UserTurnRecord>;

/// Declares a record: required members first, then optional ones, which are left out when they are `None`.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident {
        $( $(#[$member_doc:meta])* $member:ident : $type:ty, )*
    } optional {
        $( $(#[$optional_doc:meta])* $optional:ident : $optional_type:ty, )*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $( $(#[$member_doc])* pub $member: $type, )*
            $( $(#[$optional_doc])* #[serde(default, skip_serializing_if = "Option::is_none")]
               pub $optional: Option<$optional_type>, )*
            /// Members without a name here.
            #[serde(flatten)]
            pub other: Other,
        }
    };
}

record! {
    /// One answer of a model. Its id is made of source, session and message.
    TurnRecord {
        /// The agent, such as `claude-code` or `codex`.
        source: String,
        /// The session.
        session_id: String,
        /// The message.
        message_id: String,
        /// The place of the turn in its session, from 0.
        turn_index: u64,
        /// When, RFC 3339 with milliseconds and `Z`.
        ts: String,
        /// The model's name as the agent has it.
        model: String,
        /// Tokens.
        usage: Usage,
        /// Tool calls in their order.
        tool_calls: Vec<ToolCall>,
    } optional {
        /// The agent's log file.
        session_path: String,
        /// The project's folder.
        project: String,
        /// A key of the project that is the same on other machines.
        project_key: String,
        /// Files that the turn wrote or edited.
        files_touched: Vec<String>,
        /// Where a sub-agent stands.
        subagent: Subagent,
        /// Why the model stopped.
        stop_reason: String,
        /// A class of work.
        activity: String,
        /// How often the same was tried again.
        retries: u64,
        /// Whether a file was edited.
        has_edits: bool,
        /// How much of the truth the record holds.
        fidelity: Fidelity,
    }
}

record! {
    /// Tokens of a turn.
    Usage {
        /// Input that was not read from a cache.
        input: u64,
        /// Output.
        output: u64,
        /// Reasoning, where the agent tells it apart.
        reasoning: u64,
        /// Input read from a cache.
        cache_read: u64,
        /// Input written to a cache for 5 minutes.
        cache_create_5m: u64,
        /// Input written to a cache for 1 hour.
        cache_create_1h: u64,
    } optional {
    }
}

record! {
    /// A tool call of a turn.
    ToolCall {
        /// The tool's name.
        name: String,
    } optional {
        /// Its id, which results refer to.
        id: String,
        /// What it was called on: a file, a command, an address.
        target: String,
        /// A hash of its arguments.
        args_hash: String,
        /// Whether it failed.
        is_error: bool,
        /// A hash of the file before an edit.
        edit_pre_hash: String,
        /// A hash of the file after an edit.
        edit_post_hash: String,
        /// The skill that was called.
        skill_name: String,
        /// Tools whose calls this one stands for.
        replaced_tools: Vec<String>,
        /// How many calls this one stands for.
        collapsed_calls: u64,
    }
}

record! {
    /// Where a sub-agent stands.
    Subagent {
    } optional {
        /// Whether the turn belongs to a side chain.
        is_sidechain: bool,
        /// The sub-agent.
        agent_id: String,
        /// The agent that started it.
        parent_agent_id: String,
        /// The tool call that started it.
        parent_tool_use_id: String,
        /// Its type.
        subagent_type: String,
        /// What it was asked to do.
        description: String,
    }
}

record! {
    /// How much of the truth a record holds.
    Fidelity {
        /// `full`, `usage-only`, `partial`, `aggregate-only` or `cost-only`.
        class: String,
        /// Which parts the agent's log had.
        coverage: BTreeMap<String, Value>,
    } optional {
        /// `per-turn`, or a coarser one.
        granularity: String,
    }
}

record! {
    /// A context that was compacted. Its id is made of source, session and time.
    CompactionRecord {
        /// The agent.
        source: String,
        /// The session.
        session_id: String,
        /// When.
        ts: String,
    } optional {
        /// The last message before it.
        preceding_message_id: String,
        /// How many tokens the context had.
        tokens_before_compact: u64,
    }
}

record! {
    /// How two sessions belong together.
    RelationshipRecord {
        /// The agent.
        source: String,
        /// The session.
        session_id: String,
        /// `root`, `continuation`, `fork` or `subagent`.
        relationship_type: String,
    } optional {
        /// The session at the other end.
        related_session_id: String,
        /// When.
        ts: String,
        /// The agent's own id of the session.
        source_session_id: String,
        /// The agent's version.
        source_version: String,
        /// The tool call that started the session.
        parent_tool_use_id: String,
        /// The sub-agent.
        agent_id: String,
        /// Its type.
        subagent_type: String,
        /// What it was asked to do.
        description: String,
    }
}

record! {
    /// What became of a tool call. Its id is made of source, session, tool call and place.
    ToolResultEventRecord {
        /// The agent.
        source: String,
        /// The session.
        session_id: String,
        /// The tool call.
        tool_use_id: String,
        /// The place of the event among those of the call, from 0.
        event_index: u64,
        /// `completed`, `errored` and the like; null where the agent does not say.
        status: Option<String>,
        /// Where the event was seen.
        event_source: Option<String>,
    } optional {
        /// The message of the call.
        message_id: String,
        /// The place of the call among those of its message.
        call_index: u64,
        /// When.
        ts: String,
        /// The length of the result, in bytes.
        content_length: u64,
        /// A hash of the result.
        content_hash: String,
        /// Whether the call failed.
        is_error: bool,
        /// The session of a sub-agent that the call started.
        subagent_session_id: String,
        /// The sub-agent.
        agent_id: String,
    }
}

record! {
    /// What the user, or a tool on their behalf, sent.
    UserTurnRecord {
        /// The agent.
        source: String,
        /// The session.
        session_id: String,
        /// The message's own id.
        user_uuid: String,
        /// When.
        ts: String,
        /// Its blocks, in their order.
        blocks: Vec<UserTurnBlock>,
    } optional {
        /// The message before it.
        preceding_message_id: String,
        /// The message after it.
        following_message_id: String,
    }
}

record! {
    /// A block of a user turn.
    UserTurnBlock {
        /// `text` or `tool_result`.
        kind: String,
        /// Its length in bytes of UTF-8.
        byte_len: u64,
        /// About how many tokens it has.
        approx_tokens: u64,
    } optional {
        /// The tool call that it answers.
        tool_use_id: String,
        /// Whether the call failed.
        is_error: bool,
    }
}

/// Keys that are assigned to the turns that a selector matches.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StampLine {
    /// The version.
    pub v: Version,
    /// When it was set; of two stamps with one key the later one counts.
    pub ts: String,
    /// Which turns.
    pub selector: StampSelector,
    /// The keys and their values.
    pub enrichment: BTreeMap<String, String>,
    /// What else the line holds.
    #[serde(flatten)]
    pub other: Other,
}

record! {
    /// The turns that agree with every member that is there.
    StampSelector {
    } optional {
        /// The session.
        session_id: String,
        /// The message.
        message_id: String,
        /// A span of time.
        range: StampRange,
    }
}

record! {
    /// A span of time; both bounds belong to it.
    StampRange {
    } optional {
        /// From.
        from_ts: String,
        /// To.
        to_ts: String,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::agreement::BASES;

    /// `value` without null members: the types leave them out.
    fn without_nulls(value: &Value) -> Value {
        match value {
            Value::Object(members) => members
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
            Value::Array(items) => items.iter().map(without_nulls).collect(),
            other => other.clone(),
        }
    }

    #[test]
    fn a_line_read_and_printed_keeps_every_member() {
        let mut kinds = std::collections::BTreeSet::new();
        for base in BASES {
            let Ok(line) = LedgerLine::from_json(base) else { continue };
            let before: Value = serde_json::from_str(base).unwrap();
            let after: Value = serde_json::from_str(&line.to_json().unwrap()).unwrap();
            assert_eq!(without_nulls(&before), without_nulls(&after), "{base}");
            kinds.insert(before["kind"].to_string());
        }
        assert_eq!(kinds.len(), 4, "{kinds:?}");
    }

    #[test]
    fn unknown_members_are_kept_at_every_depth() {
        let text = r#"{"kind":"turn","v":1,"trace":"x","record":{"source":"a","sessionId":"s","messageId":"m","turnIndex":0,"ts":"t","model":"x","usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0},"toolCalls":[{"name":"N","extra":[1,{"b":null}]}],"mood":{"deep":1}}}"#;
        let LedgerLine::Turn(line) = LedgerLine::from_json(text).unwrap() else { panic!("no turn") };
        assert_eq!(line.other["trace"], "x");
        assert_eq!(line.record.other["mood"]["deep"], 1);
        assert_eq!(line.record.tool_calls[0].other["extra"][0], 1);
        let printed: Value = serde_json::from_str(&LedgerLine::Turn(line).to_json().unwrap()).unwrap();
        assert_eq!(printed, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn another_version_or_kind_is_an_error() {
        for text in [
            r#"{"v":2,"kind":"stamp","ts":"t","selector":{},"enrichment":{}}"#,
            r#"{"v":1,"kind":"mystery","record":{}}"#,
            r#"{"v":1,"kind":"turn","record":{"source":"a"}}"#,
        ] {
            assert!(LedgerLine::from_json(text).is_err(), "{text}");
        }
        assert!(
            LedgerLine::from_json(r#"{"v":1.0,"kind":"stamp","ts":"t","selector":{},"enrichment":{}}"#)
                .is_ok()
        );
    }
}

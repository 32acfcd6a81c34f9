//! Records as Rust types, for programs that read or write lines one at a time.
//!
//! [`LedgerLine`] is a line of any kind. serde reads it from a line and prints it as a line. Members that these types do not
//! name are kept in `other` and printed again. Builds of the archive do not use these types: they read lines straight into
//! [`rows`](super::rows).
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
    /// A compaction of a context.
    Compaction(CompactionLine),
    /// A relationship between two sessions.
    Relationship(RelationshipLine),
    /// The outcome of a tool call.
    ToolResultEvent(ToolResultEventLine),
    /// Input from the user, or from a tool on the user's behalf.
    UserTurn(UserTurnLine),
    /// A stamp, which assigns keys to turns.
    Stamp(StampLine),
}

impl LedgerLine {
    /// Reads a line. Stricter than the ledger's own readers: counts must be whole numbers that are not negative, and keys must
    /// not repeat.
    ///
    /// # Errors
    /// When the line is not JSON, has another version or kind, or lacks a required member.
    pub fn from_json(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// The line as compact JSON, without a line end.
    ///
    /// # Errors
    /// None is known: every value of this type has a JSON text.
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

/// A line with a record; the kind of the line is the variant of [`LedgerLine`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RecordLine<R> {
    /// The version.
    pub v: Version,
    /// The record.
    pub record: R,
    /// All other members of the line.
    #[serde(flatten)]
    pub other: Other,
}

impl<R> RecordLine<R> {
    /// Wraps `record` in a line.
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

/// Declares a record: required members first, then optional members, which are left out when they are `None`.
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
            /// Members that this type does not name.
            #[serde(flatten)]
            pub other: Other,
        }
    };
}

record! {
    /// One answer of a model. The id is made of source, session and message.
    TurnRecord {
        /// The agent, such as `claude-code` or `codex`.
        source: String,
        /// The session.
        session_id: String,
        /// The message.
        message_id: String,
        /// The place of the turn in its session, from 0.
        turn_index: u64,
        /// The time, RFC 3339 with milliseconds and `Z`.
        ts: String,
        /// The model's name as the agent writes it.
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
        /// The sub-agent of the turn.
        subagent: Subagent,
        /// Why the model stopped.
        stop_reason: String,
        /// The class of work.
        activity: String,
        /// How often the work was tried again.
        retries: u64,
        /// Whether a file was edited.
        has_edits: bool,
        /// How complete the record is.
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
        /// Reasoning, where the agent reports it separately.
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
        /// The call's id; results refer to it.
        id: String,
        /// The target of the call: a file, a command, an address.
        target: String,
        /// A hash of the call's arguments.
        args_hash: String,
        /// Whether the call failed.
        is_error: bool,
        /// A hash of the file before an edit.
        edit_pre_hash: String,
        /// A hash of the file after an edit.
        edit_post_hash: String,
        /// The skill that was called.
        skill_name: String,
        /// Tools whose calls this call replaces.
        replaced_tools: Vec<String>,
        /// How many calls this call replaces.
        collapsed_calls: u64,
    }
}

record! {
    /// A sub-agent and its parent.
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
        /// The sub-agent's type.
        subagent_type: String,
        /// The sub-agent's task.
        description: String,
    }
}

record! {
    /// How complete a record is.
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
    /// A compaction of a context. The id is made of source, session and time.
    CompactionRecord {
        /// The agent.
        source: String,
        /// The session.
        session_id: String,
        /// The time.
        ts: String,
    } optional {
        /// The last message before the compaction.
        preceding_message_id: String,
        /// How many tokens the context had before the compaction.
        tokens_before_compact: u64,
    }
}

record! {
    /// A relationship between two sessions.
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
        /// The time.
        ts: String,
        /// The agent's own id of the session.
        source_session_id: String,
        /// The agent's version.
        source_version: String,
        /// The tool call that started the session.
        parent_tool_use_id: String,
        /// The sub-agent.
        agent_id: String,
        /// The sub-agent's type.
        subagent_type: String,
        /// The sub-agent's task.
        description: String,
    }
}

record! {
    /// The outcome of a tool call. The id is made of source, session, tool call and event index.
    ToolResultEventRecord {
        /// The agent.
        source: String,
        /// The session.
        session_id: String,
        /// The tool call.
        tool_use_id: String,
        /// The number of the event among all events of the session, from 0.
        event_index: u64,
        /// `completed`, `errored` and similar; null where the agent does not report a status.
        status: Option<String>,
        /// Where the event was seen.
        event_source: Option<String>,
    } optional {
        /// The message that the result came with.
        message_id: String,
        /// The number of the event among the events of the tool call, from 0.
        call_index: u64,
        /// The time.
        ts: String,
        /// The length of the result in UTF-16 code units, as JavaScript counts it.
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
    /// Input from the user, or from a tool on the user's behalf.
    UserTurnRecord {
        /// The agent.
        source: String,
        /// The session.
        session_id: String,
        /// The message's own id.
        user_uuid: String,
        /// The time.
        ts: String,
        /// The blocks, in order.
        blocks: Vec<UserTurnBlock>,
    } optional {
        /// The message before the user turn.
        preceding_message_id: String,
        /// The message after the user turn.
        following_message_id: String,
    }
}

record! {
    /// A block of a user turn.
    UserTurnBlock {
        /// `text` or `tool_result`.
        kind: String,
        /// The block's length in bytes of UTF-8.
        byte_len: u64,
        /// About how many tokens the block has.
        approx_tokens: u64,
    } optional {
        /// The tool call whose result the block is.
        tool_use_id: String,
        /// Whether the call failed.
        is_error: bool,
    }
}

/// Assigns keys to the turns that a selector matches.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StampLine {
    /// The version.
    pub v: Version,
    /// The time of the stamp; of two stamps with one key the later stamp wins.
    pub ts: String,
    /// The turns that get the keys.
    pub selector: StampSelector,
    /// The keys and their values.
    pub enrichment: BTreeMap<String, String>,
    /// All other members of the line.
    #[serde(flatten)]
    pub other: Other,
}

record! {
    /// Selects the turns that match every member present.
    StampSelector {
    } optional {
        /// The session.
        session_id: String,
        /// The message.
        message_id: String,
        /// A range of time.
        range: StampRange,
    }
}

record! {
    /// A range of time; both bounds are included.
    StampRange {
    } optional {
        /// Start of the range.
        from_ts: String,
        /// End of the range.
        to_ts: String,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::agreement::BASES;

    /// `value` without null members, because the types leave them out.
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

//! The archive's schema, version 3: its tables, its indexes, and what older archives of that version lack.
//!
//! This file holds SQL text and column names and touches no file. The names, their order and the indexes are a format
//! shared with other programs: they change only with the version number.

/// The version of the schema, as `archive_state.archive_version` holds it.
pub const VERSION: i64 = 3;

/// A table of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its columns, in the order in which a new archive has them.
    pub columns: &'static [&'static str],
    /// The statement that creates it.
    pub create: &'static str,
}

/// One row for each session that has turns, by aggregation over `turns`.
pub const SESSIONS: Table = Table {
    name: "sessions",
    columns: &[
        "source",
        "session_id",
        "project",
        "project_key",
        "started_at",
        "ended_at",
        "turn_count",
        "model_set_json",
        "workflow_id",
        "agent_id",
        "parent_agent_id",
        "has_subagent",
        "min_fidelity",
        "has_full_attribution",
    ],
    create: "CREATE TABLE sessions (
  source TEXT NOT NULL,
  session_id TEXT NOT NULL,
  project TEXT,
  project_key TEXT,
  started_at TEXT,
  ended_at TEXT,
  turn_count INTEGER NOT NULL DEFAULT 0,
  model_set_json TEXT,
  workflow_id TEXT,
  agent_id TEXT,
  parent_agent_id TEXT,
  has_subagent INTEGER NOT NULL DEFAULT 0,
  min_fidelity TEXT,
  has_full_attribution INTEGER,
  PRIMARY KEY (source, session_id)
)",
};

/// One row for each turn, by source, session and message.
pub const TURNS: Table = Table {
    name: "turns",
    columns: &[
        "source",
        "session_id",
        "message_id",
        "turn_index",
        "ts",
        "model",
        "project",
        "project_key",
        "activity",
        "stop_reason",
        "has_edits",
        "retries",
        "is_sidechain",
        "subagent_id",
        "parent_subagent_id",
        "parent_tool_use_id",
        "subagent_type",
        "subagent_description",
        "input_tokens",
        "output_tokens",
        "reasoning_tokens",
        "cache_read_tokens",
        "cache_create_5m_tokens",
        "cache_create_1h_tokens",
        "workflow_id",
        "agent_id",
        "persona",
        "tier",
        "enrichment_json",
        "attribution_fidelity",
        "tokens_present",
        "cost_present",
    ],
    create: "CREATE TABLE turns (
  source TEXT NOT NULL,
  session_id TEXT NOT NULL,
  message_id TEXT NOT NULL,
  turn_index INTEGER NOT NULL,
  ts TEXT NOT NULL,
  model TEXT NOT NULL,
  project TEXT,
  project_key TEXT,
  activity TEXT,
  stop_reason TEXT,
  has_edits INTEGER,
  retries INTEGER,
  is_sidechain INTEGER,
  subagent_id TEXT,
  parent_subagent_id TEXT,
  parent_tool_use_id TEXT,
  subagent_type TEXT,
  subagent_description TEXT,
  input_tokens INTEGER NOT NULL DEFAULT 0,
  output_tokens INTEGER NOT NULL DEFAULT 0,
  reasoning_tokens INTEGER NOT NULL DEFAULT 0,
  cache_read_tokens INTEGER NOT NULL DEFAULT 0,
  cache_create_5m_tokens INTEGER NOT NULL DEFAULT 0,
  cache_create_1h_tokens INTEGER NOT NULL DEFAULT 0,
  workflow_id TEXT,
  agent_id TEXT,
  persona TEXT,
  tier TEXT,
  enrichment_json TEXT,
  attribution_fidelity TEXT,
  tokens_present INTEGER,
  cost_present INTEGER,
  PRIMARY KEY (source, session_id, message_id)
)",
};

/// One row for each tool call of a turn.
pub const TOOL_CALLS: Table = Table {
    name: "tool_calls",
    columns: &[
        "source",
        "session_id",
        "message_id",
        "call_index",
        "tool_use_id",
        "tool_name",
        "target",
        "args_hash",
        "is_error",
        "replaced_tools",
        "collapsed_calls",
    ],
    create: "CREATE TABLE tool_calls (
  source TEXT NOT NULL,
  session_id TEXT NOT NULL,
  message_id TEXT NOT NULL,
  call_index INTEGER NOT NULL,
  tool_use_id TEXT,
  tool_name TEXT NOT NULL,
  target TEXT,
  args_hash TEXT,
  is_error INTEGER,
  replaced_tools TEXT,
  collapsed_calls INTEGER,
  PRIMARY KEY (source, session_id, message_id, call_index)
)",
};

/// One row for each tool result event.
pub const TOOL_RESULT_EVENTS: Table = Table {
    name: "tool_result_events",
    columns: &[
        "source",
        "session_id",
        "message_id",
        "tool_use_id",
        "call_index",
        "event_index",
        "status",
        "content_length",
        "content_hash",
        "is_error",
        "subagent_session_id",
        "agent_id",
        "event_source",
        "ts",
    ],
    create: "CREATE TABLE tool_result_events (
  source TEXT NOT NULL,
  session_id TEXT NOT NULL,
  message_id TEXT NOT NULL,
  tool_use_id TEXT NOT NULL,
  call_index INTEGER NOT NULL,
  event_index INTEGER NOT NULL,
  status TEXT,
  content_length INTEGER,
  content_hash TEXT,
  is_error INTEGER,
  subagent_session_id TEXT,
  agent_id TEXT,
  event_source TEXT,
  ts TEXT,
  PRIMARY KEY (source, session_id, message_id, tool_use_id, event_index)
)",
};

/// One row for each stamp line; `source` is always `*`.
pub const STAMPS: Table = Table {
    name: "stamps",
    columns: &["source", "session_id", "ts", "selector_json", "enrichment_json", "ledger_offset_bytes"],
    create: "CREATE TABLE stamps (
  source TEXT NOT NULL,
  session_id TEXT NOT NULL,
  ts TEXT NOT NULL,
  selector_json TEXT,
  enrichment_json TEXT NOT NULL,
  ledger_offset_bytes INTEGER NOT NULL,
  PRIMARY KEY (source, session_id, ts, ledger_offset_bytes)
)",
};

/// One row for each compaction.
pub const COMPACTIONS: Table = Table {
    name: "compactions",
    columns: &["source", "session_id", "ts", "preceding_message_id", "tokens_before_compact"],
    create: "CREATE TABLE compactions (
  source TEXT NOT NULL,
  session_id TEXT NOT NULL,
  ts TEXT NOT NULL,
  preceding_message_id TEXT,
  tokens_before_compact INTEGER,
  PRIMARY KEY (source, session_id, ts)
)",
};

/// One row, id 1: how far into the ledger the archive reaches.
pub const ARCHIVE_STATE: Table = Table {
    name: "archive_state",
    columns: &[
        "id",
        "ledger_offset_bytes",
        "ledger_mtime_ms",
        "archive_version",
        "last_built_at",
        "last_rebuild_at",
    ],
    create: "CREATE TABLE archive_state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  ledger_offset_bytes INTEGER NOT NULL DEFAULT 0,
  ledger_mtime_ms INTEGER NOT NULL DEFAULT 0,
  archive_version INTEGER NOT NULL,
  last_built_at TEXT,
  last_rebuild_at TEXT
)",
};

/// Every table, in the order in which they are created.
pub const TABLES: [Table; 7] =
    [SESSIONS, TURNS, TOOL_CALLS, TOOL_RESULT_EVENTS, STAMPS, COMPACTIONS, ARCHIVE_STATE];

/// Every named index: its name and the statement that creates it.
pub const INDEXES: [(&str, &str); 16] = [
    ("idx_sessions_started_at", "CREATE INDEX idx_sessions_started_at ON sessions(started_at)"),
    ("idx_sessions_project_key", "CREATE INDEX idx_sessions_project_key ON sessions(project_key)"),
    ("idx_sessions_workflow_id", "CREATE INDEX idx_sessions_workflow_id ON sessions(workflow_id)"),
    ("idx_turns_ts", "CREATE INDEX idx_turns_ts ON turns(ts)"),
    ("idx_turns_session", "CREATE INDEX idx_turns_session ON turns(source, session_id, turn_index)"),
    ("idx_turns_model", "CREATE INDEX idx_turns_model ON turns(model)"),
    ("idx_turns_activity", "CREATE INDEX idx_turns_activity ON turns(activity)"),
    ("idx_turns_project_key", "CREATE INDEX idx_turns_project_key ON turns(project_key)"),
    ("idx_turns_workflow", "CREATE INDEX idx_turns_workflow ON turns(workflow_id)"),
    ("idx_tool_calls_name", "CREATE INDEX idx_tool_calls_name ON tool_calls(tool_name)"),
    ("idx_tool_calls_use_id", "CREATE INDEX idx_tool_calls_use_id ON tool_calls(tool_use_id)"),
    (
        "idx_tool_result_events_use_id",
        "CREATE INDEX idx_tool_result_events_use_id ON tool_result_events(tool_use_id)",
    ),
    (
        "idx_tool_result_events_session",
        "CREATE INDEX idx_tool_result_events_session ON tool_result_events(source, session_id)",
    ),
    (
        "idx_tool_result_events_subagent",
        "CREATE INDEX idx_tool_result_events_subagent ON tool_result_events(subagent_session_id)",
    ),
    ("idx_stamps_session", "CREATE INDEX idx_stamps_session ON stamps(source, session_id)"),
    (
        "idx_turns_attribution_fidelity",
        "CREATE INDEX idx_turns_attribution_fidelity ON turns(attribution_fidelity)",
    ),
];

/// Columns that archives of version 3 got over time: table, column, SQL type. Missing ones are added, rows kept.
pub const ADDED_COLUMNS: [(&str, &str, &str); 8] = [
    ("turns", "attribution_fidelity", "TEXT"),
    ("turns", "tokens_present", "INTEGER"),
    ("turns", "cost_present", "INTEGER"),
    ("turns", "subagent_description", "TEXT"),
    ("sessions", "min_fidelity", "TEXT"),
    ("sessions", "has_full_attribution", "INTEGER"),
    ("tool_calls", "replaced_tools", "TEXT"),
    ("tool_calls", "collapsed_calls", "INTEGER"),
];

//! The archive's schema, version 3: its tables, its indexes, and the columns that older archives of version 3 lack.
//!
//! This file has SQL text and column names and touches no file. The names, their order and the indexes are a format
//! that other programs share, so they change only with the version number.

use crate::record::columns::{Table, compactions, sessions, stamps, tool_calls, tool_result_events, turns};

/// The version of the schema, stored in `archive_state.archive_version`.
pub const VERSION: i64 = 3;

/// One row, id 1: the number of ledger bytes that the archive covers.
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
    indexed: &[],
};

/// Every table, in the order in which they are created.
pub const TABLES: [Table; 7] = [
    sessions::TABLE,
    turns::TABLE,
    tool_calls::TABLE,
    tool_result_events::TABLE,
    stamps::TABLE,
    compactions::TABLE,
    ARCHIVE_STATE,
];

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

/// Columns that were added to version 3 over time: table, column, SQL type. A build adds missing columns and keeps
/// all rows.
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

/// Returns the statements that create an empty archive.
pub(super) fn sql() -> String {
    let tables = TABLES.iter().map(|table| table.create);
    tables.chain(INDEXES.iter().map(|(_, create)| *create)).collect::<Vec<_>>().join(";\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// All archives of a version have one schema. So whoever changes the schema raises [`VERSION`], and then the number here.
    #[test]
    fn the_schema_of_a_version_stays_as_it_is() {
        assert_eq!((VERSION, crc32c::crc32c(sql().as_bytes())), (3, 0x5977_0d5a));
    }

    #[test]
    fn the_length_of_every_indexed_text_is_limited() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        TABLES.iter().for_each(|table| db.execute_batch(table.create).unwrap());
        INDEXES.iter().for_each(|(_, create)| db.execute_batch(create).unwrap());
        // The texts of sessions are texts of turns.
        for table in TABLES.iter().filter(|table| ![sessions::TABLE, ARCHIVE_STATE].contains(table)) {
            let sql = "SELECT DISTINCT x.name FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x,
                       pragma_table_info(?1) c ON c.name = x.name WHERE x.key AND c.type = 'TEXT' ORDER BY c.cid";
            let mut statement = db.prepare(sql).unwrap();
            let indexed = statement.query_map([table.name], |row| row.get(0)).unwrap();
            let indexed: Vec<String> = indexed.collect::<Result<_, _>>().unwrap();
            let mut limited: Vec<usize> = table.indexed.to_vec();
            limited.sort_unstable();
            let limited: Vec<&str> = limited.iter().map(|place| table.columns[*place]).collect();
            assert_eq!(indexed, limited, "{}", table.name);
        }
    }
}

//! Sessions by aggregation over their turns.

use rusqlite::{Connection, params};

/// Classes of fidelity, worst first, as a `CASE` that ranks them; others do not count.
const RANK: &str = "CASE attribution_fidelity WHEN 'cost-only' THEN 0 WHEN 'aggregate-only' THEN 1 \
                    WHEN 'partial' THEN 2 WHEN 'usage-only' THEN 3 WHEN 'full' THEN 4 END";

fn sql(filter: &str) -> String {
    format!(
        "INSERT OR REPLACE INTO sessions
           (source, session_id, project, project_key, started_at, ended_at, turn_count, model_set_json,
            workflow_id, agent_id, parent_agent_id, has_subagent, min_fidelity, has_full_attribution)
         SELECT source, session_id, MIN(project), MIN(project_key), MIN(ts), MAX(ts), COUNT(*),
           json_group_array(DISTINCT model),
           MIN(workflow_id), MIN(agent_id), MIN(parent_subagent_id), COALESCE(MAX(is_sidechain), 0),
           CASE MIN({RANK}) WHEN 0 THEN 'cost-only' WHEN 1 THEN 'aggregate-only' WHEN 2 THEN 'partial'
             WHEN 3 THEN 'usage-only' WHEN 4 THEN 'full' END,
           MIN(attribution_fidelity = 'full')
         FROM turns {filter} GROUP BY source, session_id"
    )
}

/// Fills an empty `sessions` from all turns.
///
/// # Errors
/// What SQLite says.
pub fn all(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute(&sql(""), []).map(|_| ())
}

/// Aggregates the given sessions (source, session id) anew.
///
/// # Errors
/// What SQLite says.
pub fn some<'k>(
    connection: &Connection,
    keys: impl IntoIterator<Item = &'k (String, String)>,
) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare(&sql("WHERE source = ? AND session_id = ?"))?;
    for (source, session) in keys {
        statement.execute(params![source, session])?;
    }
    Ok(())
}

//! Sessions by aggregation over their turns.
//!
//! May touch: table `sessions` of the connection it is given. Promises: a session's row follows from its turns alone, whatever
//! stood there before.

use rusqlite::{Connection, params};

/// Classes of fidelity, worst first, as a `CASE` that ranks them; others do not count.
const RANK: &str = "CASE attribution_fidelity WHEN 'cost-only' THEN 0 WHEN 'aggregate-only' THEN 1 \
                    WHEN 'partial' THEN 2 WHEN 'usage-only' THEN 3 WHEN 'full' THEN 4 END";

const COLUMNS: &str =
    "source, session_id, project, project_key, started_at, ended_at, turn_count, model_set_json,
    workflow_id, agent_id, parent_agent_id, has_subagent, min_fidelity, has_full_attribution";

fn aggregation(filter: &str) -> String {
    format!(
        "SELECT source, session_id, MIN(project) AS project, MIN(project_key) AS project_key,
           MIN(ts) AS started_at, MAX(ts) AS ended_at, COUNT(*) AS turn_count,
           json_group_array(DISTINCT model) AS model_set_json, MIN(workflow_id) AS workflow_id,
           MIN(agent_id) AS agent_id, MIN(parent_subagent_id) AS parent_agent_id,
           COALESCE(MAX(is_sidechain), 0) AS has_subagent,
           CASE MIN({RANK}) WHEN 0 THEN 'cost-only' WHEN 1 THEN 'aggregate-only' WHEN 2 THEN 'partial'
             WHEN 3 THEN 'usage-only' WHEN 4 THEN 'full' END AS min_fidelity,
           MIN(attribution_fidelity = 'full') AS has_full_attribution
         FROM turns {filter} GROUP BY source, session_id"
    )
}

/// Aggregates all turns into a temporary table, without writing to the archive.
///
/// # Errors
/// What SQLite says.
pub fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!("CREATE TEMP TABLE aggregated AS {}", aggregation("")))
}

/// Fills an empty `sessions` with what [`prepare`] found.
///
/// # Errors
/// What SQLite says.
pub fn keep(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!(
        "INSERT INTO sessions ({COLUMNS}) SELECT {COLUMNS} FROM temp.aggregated; DROP TABLE temp.aggregated;"
    ))
}

/// Aggregates the given sessions (source, session id) anew.
///
/// # Errors
/// What SQLite says.
pub fn some<'k>(
    connection: &Connection,
    keys: impl IntoIterator<Item = &'k (String, String)>,
) -> Result<(), rusqlite::Error> {
    let keys: Vec<_> = keys.into_iter().collect();
    let sessions: i64 = connection.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0))?;
    if keys.len() as i64 > sessions / 2 {
        // One walk over all turns is cheaper than a search for each of so many sessions.
        return connection.execute_batch(&format!(
            "DELETE FROM sessions; INSERT INTO sessions ({COLUMNS}) {}",
            aggregation("")
        ));
    }
    let mut statement = connection.prepare(&format!(
        "INSERT OR REPLACE INTO sessions ({COLUMNS}) {}",
        aggregation("WHERE source = ? AND session_id = ?")
    ))?;
    for (source, session) in keys {
        statement.execute(params![source, session])?;
    }
    Ok(())
}

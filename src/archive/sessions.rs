//! Computes the rows of sessions by aggregating their turns.
//!
//! Touches: table `sessions` of the given connection. Guarantees: a session's row follows from its turns alone,
//! whatever the row was before. New turns are added to the row of a long session that this crate aggregated; adding
//! gives the same row as aggregating all turns again.

use std::collections::{BTreeSet, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, params};

use super::statement::Statement;
use crate::record::columns::turns;

/// Classes of fidelity, worst first; other values are ignored.
pub(super) const FIDELITY: [&str; 5] = ["cost-only", "aggregate-only", "partial", "usage-only", "full"];

/// The place in [`FIDELITY`] as a `CASE`.
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
/// Any error of SQLite.
pub fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!("CREATE TEMP TABLE aggregated AS {}", aggregation("")))
}

/// Fills an empty `sessions` table with the rows that [`prepare`] aggregated.
///
/// # Errors
/// Any error of SQLite.
pub fn keep(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!(
        "INSERT INTO sessions ({COLUMNS}) SELECT {COLUMNS} FROM temp.aggregated; DROP TABLE temp.aggregated;"
    ))
}

/// Aggregates the given sessions (source, session id) again.
///
/// # Errors
/// Any error of SQLite.
pub fn some(connection: &Connection, keys: &BTreeSet<(String, String)>) -> Result<(), rusqlite::Error> {
    let sessions: i64 = connection.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0))?;
    if keys.len() as i64 > sessions / 2 {
        // One scan over all turns is cheaper than a search for each of so many sessions.
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

/// A session with fewer turns is aggregated again when new turns arrive.
const LONG_TURNS: u64 = if cfg!(debug_assertions) { 8 } else { 2000 };
/// A session is also aggregated again when it gets more new turns than 1/`ADDED_SHARE` of the turns in its row.
const ADDED_SHARE: u64 = 8;

/// Adds new turns to the rows of long sessions, so that one new turn does not scan all turns of its session.
///
/// A turn can be added only when the new row follows from the old row and the turn: the turn is not in the archive
/// yet, and its model is the only model of the session, because the list of models has the order in which turns are
/// scanned.
#[derive(Debug)]
pub struct Additions<'c> {
    connection: &'c Connection,
    add: Statement<'c>,
    /// `None` for sessions that have to be aggregated again.
    sessions: HashMap<(String, String), Option<Long>>,
    /// The `None` session that the last skipped turn belonged to.
    last_left: Option<(String, String)>,
}

/// A long session whose new turns could all be added so far.
#[derive(Debug)]
struct Long {
    model: String,
    added_max: u64,
    /// Message ids of the turns that were added.
    messages: HashSet<String>,
}

impl<'c> Additions<'c> {
    /// Prepares statements.
    ///
    /// # Errors
    /// Any error of SQLite.
    pub fn new(connection: &'c Connection) -> Result<Self, rusqlite::Error> {
        let least = |column: &str, place: usize| {
            format!("{column} = COALESCE(min({column}, ?{place}), {column}, ?{place})")
        };
        let sql = format!(
            "UPDATE sessions SET {}, {}, {}, ended_at = COALESCE(max(ended_at, ?5), ended_at, ?5),
               turn_count = turn_count + 1, {}, {}, {}, has_subagent = max(has_subagent, COALESCE(?9, 0)),
               min_fidelity = CASE WHEN {new_rank} < COALESCE({old_rank}, 5) THEN ?10 ELSE min_fidelity END,
               has_full_attribution =
                 COALESCE(min(has_full_attribution, ?10 = 'full'), has_full_attribution, ?10 = 'full')
             WHERE source = ?1 AND session_id = ?2",
            least("project", 3),
            least("project_key", 4),
            least("started_at", 5),
            least("workflow_id", 6),
            least("agent_id", 7),
            least("parent_agent_id", 8),
            new_rank = RANK.replace("attribution_fidelity", "?10"),
            old_rank = RANK.replace("attribution_fidelity", "min_fidelity"),
        );
        Ok(Self {
            connection,
            add: Statement::new(connection, &sql)?,
            sessions: HashMap::new(),
            last_left: None,
        })
    }

    /// Adds a turn that is about to be written, or marks its session for aggregation.
    ///
    /// # Errors
    /// Any error of SQLite.
    pub fn take(&mut self, turn: &turns::TurnCells<'_>) -> Result<(), rusqlite::Error> {
        let [source, session, message, model] =
            [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID, turns::MODEL]
                .map(|place| turn[place].as_text());
        if self.last_left.as_ref().is_some_and(|(s, id)| s == source && id == session) {
            return Ok(());
        }
        let key = (source.to_owned(), session.to_owned());
        if !self.sessions.contains_key(&key) {
            let long = self.long(source, session)?;
            self.sessions.insert(key.clone(), long);
        }
        let Some(Some(long)) = self.sessions.get_mut(&key) else {
            self.last_left = Some(key);
            return Ok(());
        };
        let can_add = long.model == model
            && (long.messages.len() as u64) < long.added_max
            && long.messages.insert(message.to_owned())
            && !self
                .connection
                .prepare_cached("SELECT 1 FROM turns WHERE source = ? AND session_id = ? AND message_id = ?")?
                .exists([source, session, message])?;
        if can_add {
            let places = [
                turns::SOURCE,
                turns::SESSION_ID,
                turns::PROJECT,
                turns::PROJECT_KEY,
                turns::TS,
                turns::WORKFLOW_ID,
                turns::AGENT_ID,
                turns::PARENT_SUBAGENT_ID,
                turns::IS_SIDECHAIN,
                turns::ATTRIBUTION_FIDELITY,
            ];
            self.add.execute(places.iter().map(|place| &turn[*place]))?;
        } else {
            self.sessions.insert(key, None);
        }
        Ok(())
    }

    fn long(&self, source: &str, session: &str) -> Result<Option<Long>, rusqlite::Error> {
        let sql = "SELECT turn_count, json_extract(model_set_json, '$[0]') FROM sessions
                   WHERE source = ? AND session_id = ? AND turn_count >= ? AND json_valid(model_set_json)
                     AND json_array_length(model_set_json) = 1";
        let found = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![source, session, LONG_TURNS as i64], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))
            })
            .optional()?;
        Ok(found.and_then(|(turns, model)| {
            let added_max = turns.unsigned_abs() / ADDED_SHARE;
            Some(Long { model: model?, added_max, messages: HashSet::new() })
        }))
    }

    /// Returns the sessions of the given turns. The flag is true when the session's row includes all of them;
    /// sessions with false have to be aggregated again.
    pub fn finish(self) -> impl Iterator<Item = ((String, String), bool)> {
        self.sessions.into_iter().map(|(key, long)| (key, long.is_some()))
    }
}

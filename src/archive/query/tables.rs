//! Queries over tables that have no line kind of their own, sessions and tool calls, and over stamps.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::{AddedColumns, Conditions, direction, hand_over, is_in_time, open_for_query, run};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::schema::SESSIONS;
use crate::record::columns::{stamps, tool_calls, turns};
use crate::record::print::{Object, order};
use crate::record::{Filter, TimeBounds};

/// Passes the archived sessions that pass `filter` to `sink`, as compact JSON text, by the time of their first turn,
/// until `sink` breaks. A session passes bounds of time when it overlaps them: its last turn is not before the first
/// bound, and its first turn is not after the second bound. The enrichment of the filter is ignored.
///
/// # Errors
/// As [`turns()`](super::turns()).
pub fn sessions(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let TimeBounds { since, until } = filter.times();
    let (ended, started) = (TimeBounds { since, until: None }, TimeBounds { since: None, until });
    let mut conditions = Conditions::default();
    conditions.add("source = ?", &filter.source);
    conditions.add("session_id = ?", &filter.session);
    add_project(&mut conditions, filter);
    let connection = open_for_query(archive)?;
    let added = AddedColumns::of(&connection).context(archive, "reading its schema")?;
    let sql =
        conditions.select(&added.columns(&SESSIONS), "sessions", &["started_at", "rowid"], filter.order);
    let mut text = Vec::new();
    run(&connection, archive, &sql, &conditions.values, |row| {
        let place =
            |column: &str| SESSIONS.columns.iter().position(|name| *name == column).unwrap_or_default();
        if !is_in_time(row.get_ref(place("ended_at"))?, &ended)
            || !is_in_time(row.get_ref(place("started_at"))?, &started)
        {
            return Ok(ControlFlow::Continue(()));
        }
        let mut object = Object::new(&mut text);
        for (column, member) in [
            ("source", "source"),
            ("session_id", "sessionId"),
            ("project", "project"),
            ("project_key", "projectKey"),
            ("started_at", "startedAt"),
            ("ended_at", "endedAt"),
        ] {
            object.text(member, row.get_ref(place(column))?);
        }
        object.number("turnCount", row.get_ref(place("turn_count"))?);
        object.json("models", row.get_ref(place("model_set_json"))?);
        for (column, member) in
            [("workflow_id", "workflowId"), ("agent_id", "agentId"), ("parent_agent_id", "parentAgentId")]
        {
            object.text(member, row.get_ref(place(column))?);
        }
        object.flag("hasSubagent", row.get_ref(place("has_subagent"))?);
        object.text("minFidelity", row.get_ref(place("min_fidelity"))?);
        object.flag("hasFullAttribution", row.get_ref(place("has_full_attribution"))?);
        object.close();
        Ok(hand_over(&text, sink))
    })
}

/// Passes the archived stamps that pass `filter` to `sink`, by `ts` and position in the ledger, as
/// [`turns()`](super::turns()) does. The session of the filter is compared with the session of the stamp's selector.
/// Source, project and enrichment of the filter are ignored.
///
/// # Errors
/// As [`turns()`](super::turns()).
pub fn stamps(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let times = filter.times();
    let of_stamps = Filter { source: None, ..filter.clone() };
    let conditions = Conditions::new("stamps", &of_stamps, &times);
    let connection = open_for_query(archive)?;
    let sql = conditions.select(
        &stamps::TABLE.columns.join(", "),
        "stamps",
        &["ts", "ledger_offset_bytes", "rowid"],
        filter.order,
    );
    let mut text = Vec::new();
    run(&connection, archive, &sql, &conditions.values, |row| {
        if !is_in_time(row.get_ref(stamps::TS)?, &times) {
            return Ok(ControlFlow::Continue(()));
        }
        let mut object = Object::new(&mut text);
        object.text("ts", row.get_ref(stamps::TS)?);
        object.json("selector", row.get_ref(stamps::SELECTOR_JSON)?);
        object.json("enrichment", row.get_ref(stamps::ENRICHMENT_JSON)?);
        object.number("ledgerOffset", row.get_ref(stamps::LEDGER_OFFSET_BYTES)?);
        object.close();
        Ok(hand_over(&text, sink))
    })
}

/// Passes the tool calls of the archived turns that pass `filter` to `sink`, each with the time of its turn, in the
/// order of turns and then of calls, as [`turns()`](super::turns()) does. The enrichment of the filter is ignored.
///
/// # Errors
/// As [`turns()`](super::turns()).
pub fn tool_calls(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let times = filter.times();
    let mut conditions = Conditions::new("turns", filter, &times);
    add_project(&mut conditions, filter);
    let connection = open_for_query(archive)?;
    let added = AddedColumns::of(&connection).context(archive, "reading its schema")?;
    let sql = conditions.select(
        &added.columns(&turns::TABLE),
        "turns",
        &["ts", "turn_index", "rowid"],
        filter.order,
    );
    let calls = format!(
        "SELECT {} FROM tool_calls WHERE source = ? AND session_id = ? AND message_id = ? ORDER BY call_index{}",
        added.columns(&tool_calls::TABLE),
        direction(filter.order)
    );
    let mut calls = connection.prepare(&calls).context(archive, "preparing a query")?;
    let members = order(tool_calls::call::FIELDS, tool_calls::TOOL_NAME, &[tool_calls::ARGS_HASH]);
    let mut text = Vec::new();
    run(&connection, archive, &sql, &conditions.values, |turn: &Row<'_>| {
        if !is_in_time(turn.get_ref(turns::TS)?, &times) {
            return Ok(ControlFlow::Continue(()));
        }
        let key = [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID];
        let [source, session, message] =
            key.map(|place| turn.get_ref(place).map(rusqlite::types::ToSqlOutput::Borrowed));
        let mut rows = calls.query([source?, session?, message?])?;
        while let Some(call) = rows.next()? {
            let mut object = Object::new(&mut text);
            for (place, member) in key.into_iter().zip(["source", "sessionId", "messageId"]) {
                object.text(member, turn.get_ref(place)?);
            }
            object.text("ts", turn.get_ref(turns::TS)?);
            object.number("callIndex", call.get_ref(tool_calls::CALL_INDEX)?);
            object.members(members.clone(), call)?;
            object.close();
            if hand_over(&text, sink).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

fn add_project(conditions: &mut Conditions, filter: &Filter) {
    if let Some(project) = &filter.project {
        conditions.sql.push("(project = ? OR project_key = ?)".to_owned());
        conditions.values.extend([project.clone(), project.clone()]);
    }
}

impl Object<'_> {
    /// Writes a member whose value is stored as JSON text; skips a value that is not text.
    fn json(&mut self, key: &str, value: ValueRef<'_>) {
        if let ValueRef::Text(json) = value {
            self.key(key);
            self.out.extend_from_slice(json);
        }
    }
}

//! Queries over tables that have no line kind of their own, sessions and tool calls, and over stamps.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::types::ValueRef;

use super::{TURNS_BY, TableQuery, begin_query, hand_over, is_in_time, values_at};
use crate::archive::error::ArchiveError;
use crate::record::columns::{sessions, stamps, tool_calls, turns};
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
    let without_times = Filter { since: None, until: None, ..filter.clone() };
    let mut query = TableQuery::new(archive, &sessions::TABLE, &["started_at", "rowid"], &without_times);
    query.conditions.add_project(filter);
    let mut text = Vec::new();
    query.each(&begin_query(archive)?, |row| {
        if !is_in_time(row.get_ref(sessions::ENDED_AT)?, &ended)
            || !is_in_time(row.get_ref(sessions::STARTED_AT)?, &started)
        {
            return Ok(ControlFlow::Continue(()));
        }
        let mut object = Object::new(&mut text);
        for (place, member) in [
            (sessions::SOURCE, "source"),
            (sessions::SESSION_ID, "sessionId"),
            (sessions::PROJECT, "project"),
            (sessions::PROJECT_KEY, "projectKey"),
            (sessions::STARTED_AT, "startedAt"),
            (sessions::ENDED_AT, "endedAt"),
        ] {
            object.text(member, row.get_ref(place)?);
        }
        object.number("turnCount", row.get_ref(sessions::TURN_COUNT)?);
        object.json("models", row.get_ref(sessions::MODEL_SET_JSON)?);
        object.text("workflowId", row.get_ref(sessions::WORKFLOW_ID)?);
        object.text("agentId", row.get_ref(sessions::AGENT_ID)?);
        object.text("parentAgentId", row.get_ref(sessions::PARENT_AGENT_ID)?);
        object.flag("hasSubagent", row.get_ref(sessions::HAS_SUBAGENT)?);
        object.text("minFidelity", row.get_ref(sessions::MIN_FIDELITY)?);
        object.flag("hasFullAttribution", row.get_ref(sessions::HAS_FULL_ATTRIBUTION)?);
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
    let of_stamps = Filter { source: Vec::new(), ..filter.clone() };
    let by = &["ts", "ledger_offset_bytes", "rowid"];
    TableQuery::new(archive, &stamps::TABLE, by, &of_stamps).objects(sink, |object, row| {
        object.text("ts", row.get_ref(stamps::TS)?);
        object.json("selector", row.get_ref(stamps::SELECTOR_JSON)?);
        object.json("enrichment", row.get_ref(stamps::ENRICHMENT_JSON)?);
        object.number("ledgerOffset", row.get_ref(stamps::LEDGER_OFFSET_BYTES)?);
        Ok(())
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
    let mut query = TableQuery::new(archive, &turns::TABLE, TURNS_BY, filter);
    query.conditions.add_project(filter);
    let opened = begin_query(archive)?;
    let mut calls = query.calls(&opened, filter.order)?;
    let members = order(tool_calls::call::FIELDS, tool_calls::TOOL_NAME, &[tool_calls::ARGS_HASH]);
    let mut text = Vec::new();
    query.each(&opened, |turn| {
        let key = [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID];
        let mut rows = calls.query(values_at(turn, key)?)?;
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

impl Object<'_> {
    /// Writes a member whose value is stored as JSON text; skips a value that is not text.
    fn json(&mut self, key: &str, value: ValueRef<'_>) {
        if let ValueRef::Text(json) = value {
            self.key(key);
            self.out.extend_from_slice(json);
        }
    }
}

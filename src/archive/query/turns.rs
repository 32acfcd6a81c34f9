//! The query of turns.
//!
//! Touches: reads the archive. Guarantees: each turn that the filter accepts reaches the sink once, in order.
//!
//! No index has projects in the order of time. So a query with a project first compares the project of every turn, on
//! all cores. If few turns match, these are read by their rowids and sorted; otherwise all turns are read in the order
//! of time.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Row, Statement};

use super::all_cores::{begin_reader, begin_reading, scan_pages};
use super::{AddedColumns, TURNS_BY, TableQuery, begin_one, hand_over, stamped, values_at};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open::ArchiveReader;
use crate::interrupt::Interrupt;
use crate::record::columns::{tool_calls, turns};
use crate::record::print::{Object, order, write_fidelity};
use crate::record::{Filter, Pattern, RecordOrder, passes, passes_tags};
use crate::scan::json::{Document, Value};

/// More turns than this, and a larger part of all turns than one in so many, are read in the order of time, without a sort.
const ROWS_MAX: usize = 16_384;
const ROWS_SHARE: usize = 32;

/// Passes the archived turns that pass `filter` to `sink` until `sink` breaks. A turn is compact JSON text. Turns are
/// sorted by `ts`, `turnIndex` and position in the ledger, in the filter's order. Each turn is passed once, with the
/// content of its last line.
///
/// # Errors
/// [`ArchiveError::Missing`], [`ArchiveError::OtherVersion`], [`ArchiveError::Incomplete`],
/// [`ArchiveError::NotAnArchive`], [`ArchiveError::Damaged`], and any error of SQLite. [`ArchiveError::Changed`] is
/// returned after rows were passed on; these rows are then invalid.
pub fn turns(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    // A range of time is read by its own index.
    let is_by_time = filter.since.is_some() || filter.until.is_some();
    let is_scanned = !filter.project.is_empty() && filter.session.is_empty() && !is_by_time;
    let (mut readers, rows) = if is_scanned {
        begin_reading(begin_reader(archive)?, archive, 0).map(|(readers, begun)| (readers, begun.rows()))?
    } else {
        (vec![begin_one(archive)?], 0)
    };
    let Some(first) = readers.first() else { return Err(ArchiveError::Interrupted) };
    let sessions = stamped::sessions(first, &filter.enrichment).context(archive, "reading its stamps");
    let mut narrowed = filter.clone();
    match first.settle(sessions)? {
        Some(sessions) if sessions.is_empty() => return Ok(()),
        Some(sessions) if filter.session.is_empty() && !is_by_time => {
            narrowed.session = sessions.into_iter().map(Pattern::exact).collect();
        }
        _ => {}
    }
    let mut query = TableQuery::new(archive, &turns::TABLE, TURNS_BY, &narrowed);
    query.conditions.add_project(filter);
    if is_scanned && narrowed.session.is_empty() {
        let rows_max = ROWS_MAX.min(usize::try_from(rows).unwrap_or(0) / ROWS_SHARE);
        match rows_of_projects(&mut readers, &filter.project, rows_max)? {
            Some(rows) if rows.is_empty() => return Ok(()),
            Some(rows) => query.conditions.add_rows(&rows),
            None => {}
        }
    }
    let reader = readers.swap_remove(0);
    let added = AddedColumns::of(&reader).context(archive, "reading its schema")?;
    let opened = (reader, added);
    for field in turns::enrichment::FIELDS {
        let of_key = filter.enrichment.iter().filter(|(key, _)| field.member == key);
        let column = turns::TABLE.columns[field.place];
        query.conditions.add_patterns(&[column], of_key.map(|(_, pattern)| pattern));
    }
    // Looked up in the JSON object, because a path in SQL would give some characters of the key a meaning.
    let has_column = |key: &str| turns::enrichment::FIELDS.iter().any(|field| field.member == key);
    let other_keys: Vec<_> = filter.enrichment.iter().filter(|(key, _)| !has_column(key)).cloned().collect();
    let mut calls = query.calls(&opened, RecordOrder::OldestFirst)?;
    let mut document = Document::default();
    let mut text = Vec::new();
    query.each(&opened, |row| {
        let enrichment = row.get_ref(turns::ENRICHMENT_JSON)?.as_bytes_or_null()?.unwrap_or(b"{}");
        if !other_keys.is_empty() {
            let Ok(object) = document.parse(enrichment) else { return Ok(ControlFlow::Continue(())) };
            if !passes_tags(&other_keys, |key| object.get(key).and_then(Value::as_str)) {
                return Ok(ControlFlow::Continue(()));
            }
        }
        text.clear();
        write_turn(row, enrichment, &mut calls, &mut text)?;
        Ok(hand_over(&text, sink))
    })
}

/// The rowids of the turns that may have one of these projects; `None` when they are more than `rows_max`, or when only SQLite can
/// read the turns.
fn rows_of_projects(
    readers: &mut [ArchiveReader],
    projects: &[Pattern],
    rows_max: usize,
) -> Result<Option<Vec<i64>>, ArchiveError> {
    let columns = [turns::PROJECT, turns::PROJECT_KEY].map(|place| Some(turns::TABLE.columns[place]));
    let table = (&turns::TABLE, columns);
    let found = scan_pages(readers, table, &Interrupt::new(), Vec::new, |rows, rowid, values| {
        let [project, key] = values.map(|value| match value {
            ValueRef::Null => Some(None),
            ValueRef::Text(text) => Some(Some(text)),
            _ => None,
        });
        // A project that is not text is kept here, because the condition in the query compares it again.
        let may_pass = project.zip(key).is_none_or(|(project, key)| passes(projects, &[project, key]));
        if may_pass {
            rows.push(rowid);
        }
        if rows.len() > rows_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found.map(|rows| rows.concat()).filter(|rows| rows.len() <= rows_max))
}

/// Writes a turn with its tool calls.
fn write_turn(
    row: &Row<'_>,
    enrichment: &[u8],
    calls: &mut Statement<'_>,
    out: &mut Vec<u8>,
) -> Result<(), rusqlite::Error> {
    let (before, behind) = turns::record::FIELDS.split_at(turns::MODEL + 1);
    let mut turn = Object::new(out);
    turn.members(before, row)?;
    let mut usage = turn.object("usage");
    usage.members(turns::usage::FIELDS, row)?;
    usage.close();
    turn.key("toolCalls");
    write_calls(row, calls, turn.out)?;
    turn.members(behind, row)?;
    if row.get_ref(turns::IS_SIDECHAIN)? != ValueRef::Null {
        let mut subagent = turn.object("subagent");
        subagent.members(turns::subagent::FIELDS, row)?;
        subagent.close();
    }
    if let ValueRef::Text(class) = row.get_ref(turns::ATTRIBUTION_FIDELITY)? {
        let is_set = |place: usize| {
            row.get_ref(place).map(|value| matches!(value, ValueRef::Integer(number) if number != 0))
        };
        write_fidelity(&mut turn, class, is_set(turns::TOKENS_PRESENT)?, is_set(turns::COST_PRESENT)?);
    }
    turn.key("enrichment");
    turn.out.extend_from_slice(enrichment);
    turn.close();
    Ok(())
}

fn write_calls(row: &Row<'_>, calls: &mut Statement<'_>, out: &mut Vec<u8>) -> Result<(), rusqlite::Error> {
    let members = order(tool_calls::call::FIELDS, tool_calls::TOOL_NAME, &[tool_calls::ARGS_HASH]);
    let of_turn = [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID];
    let mut rows = calls.query(values_at(row, of_turn)?)?;
    out.push(b'[');
    let mut is_first = true;
    while let Some(call) = rows.next()? {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        let mut object = Object::empty(out);
        object.members(members.clone(), call)?;
        object.close();
    }
    out.push(b']');
    Ok(())
}

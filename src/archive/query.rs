//! Queries over the archive: turns with their tool calls, compactions and tool result events, by time.
//!
//! Reads the archive through one read-only connection, in one transaction, and changes nothing: an archive of another
//! version, or none, is an error that says how to build it. Rows are handed over one by one, so memory does not grow with
//! their number.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Statement, params_from_iter};

use super::build::Paths;
use super::error::{ArchiveError, SqliteContext};
use super::open;
use super::schema::VERSION;
use crate::scan::json::{Document, Value, write_js_number, write_js_string};
use crate::scan::{Io, ScanError, Source};

/// Which records are wanted: those that agree with everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// No `ts` before this; bytes are compared.
    pub since: Option<String>,
    /// No `ts` behind this.
    pub until: Option<String>,
    /// This session; for relationships on either end.
    pub session: Option<String>,
    /// This source.
    pub source: Option<String>,
    /// Turns whose `project` or `projectKey` is this.
    pub project: Option<String>,
    /// Turns whose enrichment has all of these keys with these values.
    pub enrichment: Vec<(String, String)>,
}

/// Keys of an enrichment that have a column.
const ENRICHMENT_COLUMNS: [(&str, &str); 4] =
    [("workflowId", "workflow_id"), ("agentId", "agent_id"), ("persona", "persona"), ("tier", "tier")];

/// Every source, found by skipping through an index from one to the next; for a session whose source is not given.
const SOURCES: &str = "WITH RECURSIVE known(source) AS (
    SELECT MIN(source) FROM {table}
    UNION ALL SELECT (SELECT MIN(source) FROM {table} WHERE source > known.source) FROM known WHERE known.source IS NOT NULL
  ) SELECT source FROM known WHERE source IS NOT NULL";

/// Conditions of a query and the values they bind.
#[derive(Default)]
struct Conditions {
    sql: Vec<String>,
    values: Vec<String>,
}

impl Conditions {
    fn new(table: &str, filter: &Filter) -> Self {
        let mut conditions = Self::default();
        conditions.add("ts >= ?", &filter.since);
        conditions.add("ts <= ?", &filter.until);
        conditions.add("source = ?", &filter.source);
        conditions.add("session_id = ?", &filter.session);
        if filter.session.is_some() && filter.source.is_none() {
            conditions.sql.push(format!("source IN ({})", SOURCES.replace("{table}", table)));
        }
        conditions
    }

    fn add(&mut self, condition: &str, value: &Option<String>) {
        if let Some(value) = value {
            self.sql.push(condition.to_owned());
            self.values.push(value.clone());
        }
    }

    fn select(&self, columns: &str, table: &str, order: &str) -> String {
        let mut sql = format!("SELECT {columns} FROM {table}");
        for (place, condition) in self.sql.iter().enumerate() {
            sql.push_str(if place == 0 { " WHERE " } else { " AND " });
            sql.push_str(condition);
        }
        sql.push_str(" ORDER BY ");
        sql.push_str(order);
        sql
    }
}

/// Hands the archived turns that pass `filter` to `sink`, as compact JSON text, by `ts`, `turnIndex` and place in the
/// ledger, until it breaks off. Each turn is there once, as its last line had it.
///
/// # Errors
/// [`ArchiveError::Missing`], [`ArchiveError::OtherVersion`], [`ArchiveError::Incomplete`], [`ArchiveError::NotAnArchive`],
/// [`ArchiveError::Damaged`], and whatever SQLite says.
pub fn turns(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let mut conditions = Conditions::new("turns", filter);
    if let Some(project) = &filter.project {
        conditions.sql.push("(project = ? OR project_key = ?)".to_owned());
        conditions.values.extend([project.clone(), project.clone()]);
    }
    let mut other_keys = Vec::new();
    for (key, value) in &filter.enrichment {
        match ENRICHMENT_COLUMNS.iter().find(|(name, _)| name == key) {
            Some((_, column)) => conditions.add(&format!("{column} = ?"), &Some(value.clone())),
            // Looked up in the object itself: a path in SQL would give some characters of the key a meaning.
            None => other_keys.push((key.as_str(), value.as_str())),
        }
    }
    let connection = open_for_query(archive)?;
    let added = AddedColumns::of(&connection).context(archive, "reading its schema")?;
    let sql = conditions.select(&added.turn_columns(), "turns", "ts, turn_index, rowid");
    let calls = format!(
        "SELECT tool_use_id, tool_name, args_hash, target, is_error, {}, {} FROM tool_calls
         WHERE source = ? AND session_id = ? AND message_id = ? ORDER BY call_index",
        added.or_null("replaced_tools"),
        added.or_null("collapsed_calls")
    );
    let mut calls = connection.prepare(&calls).context(archive, "preparing a query")?;
    let mut document = Document::default();
    let mut text = Vec::new();
    run(&connection, archive, &sql, &conditions.values, |row| {
        let enrichment = row.get_ref(24)?.as_bytes_or_null()?.unwrap_or(b"{}");
        if !other_keys.is_empty() {
            let Ok(object) = document.parse(enrichment) else { return Ok(ControlFlow::Continue(())) };
            let has = |(key, value): &(&str, &str)| {
                object.get(key).and_then(Value::as_js_str).is_some_and(|found| found == **value)
            };
            if !other_keys.iter().all(has) {
                return Ok(ControlFlow::Continue(()));
            }
        }
        text.clear();
        write_turn(row, enrichment, &mut calls, &mut text)?;
        Ok(hand_over(&text, sink))
    })
}

/// Hands the archived compactions that pass `filter` to `sink`, by `ts`, as [`turns`] does.
///
/// # Errors
/// As [`turns`].
pub fn compactions(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let columns = "source, session_id, ts, preceding_message_id, tokens_before_compact";
    let sql = Conditions::new("compactions", filter);
    let connection = open_for_query(archive)?;
    let mut text = Vec::new();
    run(&connection, archive, &sql.select(columns, "compactions", "ts, rowid"), &sql.values, |row| {
        let mut object = Object::new(&mut text);
        object.text("source", row.get_ref(0)?);
        object.text("sessionId", row.get_ref(1)?);
        object.text("ts", row.get_ref(2)?);
        object.text("precedingMessageId", row.get_ref(3)?);
        object.number("tokensBeforeCompact", row.get_ref(4)?);
        object.close();
        Ok(hand_over(&text, sink))
    })
}

/// Hands the archived tool result events that pass `filter` to `sink`, by `ts`, as [`turns`] does. One without `ts`
/// passes any bounds of time.
///
/// # Errors
/// As [`turns`].
pub fn tool_result_events(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let columns =
        "source, session_id, message_id, tool_use_id, call_index, event_index, status, content_length,
                   content_hash, is_error, subagent_session_id, agent_id, event_source, ts";
    let mut sql = Conditions::new("tool_result_events", filter);
    for condition in &mut sql.sql {
        if condition.starts_with("ts ") {
            *condition = format!("(ts IS NULL OR {condition})");
        }
    }
    let connection = open_for_query(archive)?;
    let mut text = Vec::new();
    run(&connection, archive, &sql.select(columns, "tool_result_events", "ts, rowid"), &sql.values, |row| {
        let mut object = Object::new(&mut text);
        object.text("source", row.get_ref(0)?);
        object.text("sessionId", row.get_ref(1)?);
        if row.get_ref(2)?.as_bytes_or_null()? != Some(b"") {
            object.text("messageId", row.get_ref(2)?);
        }
        object.text("toolUseId", row.get_ref(3)?);
        object.number("callIndex", row.get_ref(4)?);
        object.number("eventIndex", row.get_ref(5)?);
        object.text("status", row.get_ref(6)?);
        object.text("eventSource", row.get_ref(12)?);
        object.text("ts", row.get_ref(13)?);
        object.number("contentLength", row.get_ref(7)?);
        object.text("contentHash", row.get_ref(8)?);
        object.flag("isError", row.get_ref(9)?);
        object.text("subagentSessionId", row.get_ref(10)?);
        object.text("agentId", row.get_ref(11)?);
        object.close();
        Ok(hand_over(&text, sink))
    })
}

/// How many bytes of whole ledger lines the archive has not taken in; 0 when there is no ledger.
///
/// # Errors
/// When either cannot be read.
pub fn lag_bytes(paths: &Paths) -> Result<u64, ArchiveError> {
    let source = match Source::open(&paths.ledger, Io::Read) {
        Ok(source) => source,
        Err(ScanError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let connection = open::open_read_only(&paths.archive)?;
    let state = open::read_state(&connection, &paths.archive)?;
    let cursor = state.map_or(0, |state| state.ledger_offset_bytes.max(0) as u64);
    Ok(source.line_end_before(0, source.len_bytes())?.saturating_sub(cursor))
}

fn open_for_query(archive: &Path) -> Result<Connection, ArchiveError> {
    let connection = open::open_read_only(archive)?;
    match open::read_state(&connection, archive)? {
        Some(state) if state.archive_version == VERSION => Ok(connection),
        Some(state) => {
            Err(ArchiveError::OtherVersion { path: archive.to_owned(), found: state.archive_version })
        }
        None if open::is_foreign(&connection, archive)? => {
            Err(ArchiveError::NotAnArchive { path: archive.to_owned() })
        }
        None => Err(ArchiveError::Incomplete { path: archive.to_owned() }),
    }
}

fn run(
    connection: &Connection,
    archive: &Path,
    sql: &str,
    values: &[String],
    mut each: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>, rusqlite::Error>,
) -> Result<(), ArchiveError> {
    // One transaction, so that tool calls belong to the turns they are read with.
    connection.execute_batch("BEGIN").context(archive, "beginning to read")?;
    let mut statement = connection.prepare(sql).context(archive, "preparing a query")?;
    let mut rows = statement.query(params_from_iter(values)).context(archive, "querying it")?;
    while let Some(row) = rows.next().context(archive, "querying it")? {
        if each(row).context(archive, "reading a row")?.is_break() {
            break;
        }
    }
    Ok(())
}

fn hand_over(text: &[u8], sink: &mut dyn FnMut(&str) -> ControlFlow<()>) -> ControlFlow<()> {
    // Another program may have stored what is no UTF-8.
    sink(&String::from_utf8_lossy(text))
}

/// Columns that an archive of this version may lack: they were added over time.
struct AddedColumns(Vec<&'static str>);

impl AddedColumns {
    fn of(connection: &Connection) -> Result<Self, rusqlite::Error> {
        let mut present = Vec::new();
        for (table, column, _) in super::schema::ADDED_COLUMNS {
            if open::has_column(connection, table, column)? {
                present.push(column);
            }
        }
        Ok(Self(present))
    }

    /// The column, or NULL where there is none.
    fn or_null(&self, column: &'static str) -> &'static str {
        if self.0.contains(&column) { column } else { "NULL" }
    }

    fn turn_columns(&self) -> String {
        format!(
            "source, session_id, message_id, turn_index, ts, model, input_tokens, output_tokens, reasoning_tokens,
             cache_read_tokens, cache_create_5m_tokens, cache_create_1h_tokens, project, project_key, activity,
             stop_reason, has_edits, retries, is_sidechain, subagent_id, parent_subagent_id, parent_tool_use_id,
             subagent_type, {}, enrichment_json, {}, {}, {}",
            self.or_null("subagent_description"),
            self.or_null("attribution_fidelity"),
            self.or_null("tokens_present"),
            self.or_null("cost_present")
        )
    }
}

/// Writes a turn with the columns of [`AddedColumns::turn_columns`].
fn write_turn(
    row: &Row<'_>,
    enrichment: &[u8],
    calls: &mut Statement<'_>,
    out: &mut Vec<u8>,
) -> Result<(), rusqlite::Error> {
    let mut turn = Object::new(out);
    for (place, key) in ["source", "sessionId", "messageId"].into_iter().enumerate() {
        turn.text(key, row.get_ref(place)?);
    }
    turn.number("turnIndex", row.get_ref(3)?);
    turn.text("ts", row.get_ref(4)?);
    turn.text("model", row.get_ref(5)?);
    let mut usage = turn.object("usage");
    let counts = ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"];
    for (place, key) in counts.into_iter().enumerate() {
        usage.number(key, row.get_ref(6 + place)?);
    }
    usage.close();
    turn.key("toolCalls");
    write_calls(row, calls, turn.out)?;
    for (place, key) in ["project", "projectKey", "activity", "stopReason"].into_iter().enumerate() {
        turn.text(key, row.get_ref(12 + place)?);
    }
    turn.flag("hasEdits", row.get_ref(16)?);
    turn.number("retries", row.get_ref(17)?);
    if row.get_ref(18)? != ValueRef::Null {
        let mut subagent = turn.object("subagent");
        subagent.flag("isSidechain", row.get_ref(18)?);
        let texts = ["agentId", "parentAgentId", "parentToolUseId", "subagentType", "description"];
        for (place, key) in texts.into_iter().enumerate() {
            subagent.text(key, row.get_ref(19 + place)?);
        }
        subagent.close();
    }
    if let ValueRef::Text(class) = row.get_ref(25)? {
        let is_set = |value: ValueRef<'_>| matches!(value, ValueRef::Integer(number) if number != 0);
        write_fidelity(&mut turn, class, is_set(row.get_ref(26)?), is_set(row.get_ref(27)?));
    }
    turn.key("enrichment");
    turn.out.extend_from_slice(enrichment);
    turn.close();
    Ok(())
}

fn write_calls(row: &Row<'_>, calls: &mut Statement<'_>, out: &mut Vec<u8>) -> Result<(), rusqlite::Error> {
    out.push(b'[');
    let key = [row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?].map(rusqlite::types::ToSqlOutput::Borrowed);
    let mut rows = calls.query(key)?;
    let mut is_first = true;
    while let Some(call) = rows.next()? {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        let mut object = Object::empty(out);
        object.text("id", call.get_ref(0)?);
        object.text("name", call.get_ref(1)?);
        object.text("argsHash", call.get_ref(2)?);
        object.text("target", call.get_ref(3)?);
        object.flag("isError", call.get_ref(4)?);
        if let ValueRef::Text(tools) = call.get_ref(5)? {
            object.key("replacedTools");
            object.out.extend_from_slice(tools);
        }
        object.number("collapsedCalls", call.get_ref(6)?);
        object.close();
    }
    out.push(b']');
    Ok(())
}

/// Writes what the archive's three columns still say of a turn's fidelity.
fn write_fidelity(turn: &mut Object<'_>, class: &[u8], tokens_present: bool, cost_present: bool) {
    let is_full = class == b"full";
    let has_tokens = is_full || (matches!(class, b"usage-only" | b"partial") && tokens_present);
    let has_cache = is_full || (class == b"usage-only" && tokens_present);
    let mut fidelity = turn.object("fidelity");
    fidelity.text("class", ValueRef::Text(class));
    let granularity: &[u8] = if cost_present { b"cost-only" } else { b"per-turn" };
    fidelity.text("granularity", ValueRef::Text(granularity));
    let mut coverage = fidelity.object("coverage");
    for (key, value) in [
        ("hasInputTokens", has_tokens),
        ("hasOutputTokens", has_tokens),
        ("hasReasoningTokens", is_full),
        ("hasCacheReadTokens", has_cache),
        ("hasCacheCreateTokens", has_cache),
        ("hasToolCalls", is_full),
        ("hasToolResultEvents", is_full),
        ("hasSessionRelationships", is_full),
        ("hasRawContent", is_full),
    ] {
        coverage.flag(key, ValueRef::Integer(i64::from(value)));
    }
    coverage.close();
    fidelity.close();
}

/// An object that is being written. NULL members are left out.
struct Object<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Object<'o> {
    /// A record of version 1, over what `out` held.
    fn new(out: &'o mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(b"{\"v\":1");
        Self { out }
    }

    /// An object behind what `out` holds.
    fn empty(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out }
    }

    fn key(&mut self, key: &str) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A member that is an object, to be closed before the next member.
    fn object(&mut self, key: &str) -> Object<'_> {
        self.key(key);
        Object::empty(self.out)
    }

    fn text(&mut self, key: &str, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => {}
            ValueRef::Text(text) | ValueRef::Blob(text) => {
                self.key(key);
                write_js_string(String::from_utf8_lossy(text).as_bytes(), self.out);
            }
            number => self.number(key, number),
        }
    }

    fn number(&mut self, key: &str, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => {}
            ValueRef::Integer(number) => {
                self.key(key);
                self.out.extend_from_slice(number.to_string().as_bytes());
            }
            ValueRef::Real(number) if number.is_finite() => {
                self.key(key);
                write_js_number(number, self.out);
            }
            ValueRef::Real(_) => {
                self.key(key);
                self.out.extend_from_slice(b"null");
            }
            text => self.text(key, text),
        }
    }

    fn flag(&mut self, key: &str, value: ValueRef<'_>) {
        let is_set = match value {
            ValueRef::Null => return,
            ValueRef::Integer(number) => number != 0,
            _ => true,
        };
        self.key(key);
        self.out.extend_from_slice(if is_set { b"true" } else { b"false" });
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

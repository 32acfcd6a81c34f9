//! Queries over the archive: turns with their tool calls, compactions, tool result events, sessions and stamps, by
//! time.
//!
//! A query reads the archive through one read-only connection, in one transaction, and changes nothing. When the
//! archive is missing or has another version, the query returns an error that says how to build the archive. Rows are
//! passed on one by one, so memory does not grow with their number.

mod all_cores;
#[cfg(feature = "parquet")]
mod at_rest;
#[cfg(feature = "parquet")]
mod by_page;
#[cfg(feature = "parquet")]
mod by_time;
#[cfg(feature = "usage")]
mod every_turn;
mod stamped;
mod tables;
mod turns;

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, Statement, params_from_iter};

#[cfg(feature = "parquet")]
pub(crate) use self::at_rest::ArchiveAtRest;
#[cfg(feature = "parquet")]
pub(crate) use self::by_time::{ArchiveSnapshot, RowReading};
#[cfg(feature = "usage")]
pub(crate) use self::every_turn::{
    Glimpse, ReadBy, StoredNumber, TsBounds, TurnColumns, TurnFields, TurnScan, scan_turns,
};
pub use self::tables::{sessions, stamps, tool_calls};
pub use self::turns::turns;
use super::build::Paths;
use super::cursor::Restart;
use super::error::{ArchiveError, SqliteContext};
use super::open::{self, ArchiveReader, ArchiveState};
use super::schema::VERSION;
use crate::record::columns::{Table, compactions, tool_calls, tool_result_events};
use crate::record::print::{Object, order};
use crate::record::{Filter, ORDINARY, Pattern, PatternKind, RangeEnd, RecordOrder, TimeBound, TimeBounds};
use crate::scan::{Io, Source};

/// Selects every source by skipping through an index from one source to the next; for a session whose source is not
/// given.
const SOURCES: &str = "WITH RECURSIVE known(source) AS (
    SELECT MIN(source) FROM {table}
    UNION ALL SELECT (SELECT MIN(source) FROM {table} WHERE source > known.source) FROM known WHERE known.source IS NOT NULL
  ) SELECT source FROM known WHERE source IS NOT NULL";

/// The order of turns.
const TURNS_BY: &[&str] = &["ts", "turn_index", "rowid"];

/// The conditions of a query and the values to bind.
#[derive(Default)]
struct Conditions {
    sql: Vec<String>,
    values: Vec<String>,
}

/// What follows each column of an ORDER BY.
fn direction(order: RecordOrder) -> &'static str {
    match order {
        RecordOrder::OldestFirst => "",
        RecordOrder::NewestFirst => " DESC",
    }
}

impl Conditions {
    fn new(table: &str, filter: &Filter, times: &TimeBounds) -> Self {
        let mut conditions = Self::default();
        let is_null_in_time = table == "tool_result_events";
        conditions.add_bound(times.since.as_ref(), RangeEnd::Since, is_null_in_time);
        conditions.add_bound(times.until.as_ref(), RangeEnd::Until, is_null_in_time);
        // Without statistics, SQLite expects an equality to be more selective than any range, so SQLite would read
        // all turns of the source and sort them. The plus sign hides the column from its indexes, so that the range
        // of time is read in order.
        let is_by_time = table == "turns"
            && (filter.since.is_some() || filter.until.is_some())
            && filter.session.is_empty();
        conditions.add_patterns(&[if is_by_time { "+source" } else { "source" }], &filter.source);
        conditions.add_patterns(&["session_id"], &filter.session);
        let is_whole = |pattern: &Pattern| matches!(pattern.kind(), PatternKind::Whole(_));
        if !filter.session.is_empty() && filter.session.iter().all(is_whole) && filter.source.is_empty() {
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

    /// Adds a condition on the project of a turn or a session.
    fn add_project(&mut self, filter: &Filter) {
        self.add_patterns(&["project", "project_key"], &filter.project);
    }

    /// Adds the condition that a row has one of these rowids.
    fn add_rows(&mut self, rowids: &[i64]) {
        let rowids: Vec<String> = rowids.iter().map(i64::to_string).collect();
        self.sql.push(format!("rowid IN ({})", rowids.join(",")));
    }

    /// Adds the condition that some pattern matches one of these columns, if there are patterns.
    fn add_patterns<'p>(&mut self, columns: &[&str], patterns: impl IntoIterator<Item = &'p Pattern>) {
        let mut alternatives = Vec::new();
        for pattern in patterns {
            let each = |condition: &str, by: &str| {
                let conditions = columns.iter().map(|column| condition.replace("{}", column));
                format!("({})", conditions.collect::<Vec<_>>().join(by))
            };
            let (condition, value) = match pattern.kind() {
                PatternKind::Absent => (each("{} IS NULL", " AND "), None),
                PatternKind::Whole(text) => (each("{} = ?", " OR "), Some(text)),
                PatternKind::Start(text) => (each("instr({}, ?) = 1", " OR "), Some(text)),
            };
            alternatives.push(condition);
            self.values.extend(columns.iter().filter_map(|_| value.map(str::to_owned)));
        }
        if !alternatives.is_empty() {
            self.sql.push(format!("({})", alternatives.join(" OR ")));
        }
    }

    /// Adds conditions on `ts` that hold for every row within the bound and for few other rows. The first condition
    /// serves the index; the second keeps SQLite from reading ordinary rows beyond the bound. [`is_in_time`] decides
    /// on each row.
    fn add_bound(&mut self, bound: Option<&TimeBound>, end: RangeEnd, is_null_in_time: bool) {
        let Some(bound) = bound else { return };
        let compare = match end {
            RangeEnd::Since => ">=",
            RangeEnd::Until => "<=",
        };
        let or_null = if is_null_in_time { "ts IS NULL OR " } else { "" };
        let or_odd = if bound.is_instant() { format!(" OR ts NOT GLOB '{ORDINARY}'") } else { String::new() };
        self.add(&format!("({or_null}ts {compare} ?)"), &bound.for_any(end));
        self.add(&format!("({or_null}ts {compare} ?{or_odd})"), &Some(bound.for_ordinary(end)));
    }

    /// Returns the SQL statement; rows are ordered by the columns `by`.
    fn select(&self, columns: &str, table: &str, by: &[&str], order: RecordOrder) -> String {
        let mut sql = format!("SELECT {columns} FROM {table}");
        for (place, condition) in self.sql.iter().enumerate() {
            sql.push_str(if place == 0 { " WHERE " } else { " AND " });
            sql.push_str(condition);
        }
        sql.push_str(" ORDER BY ");
        let direction = direction(order);
        sql.push_str(&by.iter().map(|column| format!("{column}{direction}")).collect::<Vec<_>>().join(", "));
        sql
    }
}

/// A query of one table: which rows, in which order.
struct TableQuery<'q> {
    archive: &'q Path,
    table: &'static Table,
    /// The columns of the order.
    by: &'static [&'static str],
    order: RecordOrder,
    conditions: Conditions,
    times: TimeBounds,
}

impl<'q> TableQuery<'q> {
    fn new(archive: &'q Path, table: &'static Table, by: &'static [&'static str], filter: &Filter) -> Self {
        let times = filter.times();
        let conditions = Conditions::new(table.name, filter, &times);
        Self { archive, table, by, order: filter.order, conditions, times }
    }

    /// Prepares the query of the tool calls of a turn.
    fn calls<'r>(
        &self,
        (reader, added): &'r (ArchiveReader, AddedColumns),
        order: RecordOrder,
    ) -> Result<Statement<'r>, ArchiveError> {
        let sql = format!(
            "SELECT {} FROM tool_calls
             WHERE source = ? AND session_id = ? AND message_id = ? ORDER BY call_index{}",
            added.columns(&tool_calls::TABLE),
            direction(order)
        );
        reader.prepare(&sql).context(self.archive, "preparing a query")
    }

    /// Passes the rows to `each` until `each` breaks. The rows are valid only when this function returns no error.
    fn each(
        &self,
        (reader, added): &(ArchiveReader, AddedColumns),
        mut each: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>, rusqlite::Error>,
    ) -> Result<(), ArchiveError> {
        let Self { archive, table, conditions, times, .. } = self;
        let sql = conditions.select(&added.columns(table), table.name, self.by, self.order);
        let ts = table.columns.iter().position(|column| *column == "ts");
        let mut read = || -> Result<(), ArchiveError> {
            let mut statement = reader.prepare(&sql).context(archive, "preparing a query")?;
            let values = params_from_iter(&conditions.values);
            let mut rows = statement.query(values).context(archive, "querying it")?;
            while let Some(row) = rows.next().context(archive, "querying it")? {
                let is_wanted = match ts {
                    Some(ts) => row.get_ref(ts).map(|ts| is_in_time(ts, times)),
                    None => Ok(true),
                };
                if is_wanted.context(archive, "reading a row")?
                    && each(row).context(archive, "reading a row")?.is_break()
                {
                    break;
                }
            }
            Ok(())
        };
        reader.settle(read())
    }

    /// Passes the rows to `sink` as the objects that `write` fills.
    fn objects(
        &self,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
        mut write: impl FnMut(&mut Object<'_>, &Row<'_>) -> Result<(), rusqlite::Error>,
    ) -> Result<(), ArchiveError> {
        let mut text = Vec::new();
        self.each(&begin_query(self.archive)?, |row| {
            let mut object = Object::new(&mut text);
            write(&mut object, row)?;
            object.close();
            Ok(hand_over(&text, sink))
        })
    }
}

/// Passes the archived compactions that pass `filter` to `sink`, by `ts`, as [`turns()`] does.
///
/// # Errors
/// As [`turns()`].
pub fn compactions(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    TableQuery::new(archive, &compactions::TABLE, &["ts", "rowid"], filter)
        .objects(sink, |object, row| object.members(compactions::record::FIELDS, row))
}

/// Passes the archived tool result events that pass `filter` to `sink`, by `ts`, as [`turns()`] does. An event
/// without `ts` passes any bounds of time.
///
/// # Errors
/// As [`turns()`].
pub fn tool_result_events(
    archive: &Path,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let moved = [tool_result_events::EVENT_SOURCE, tool_result_events::TS];
    let members = order(tool_result_events::record::FIELDS, tool_result_events::STATUS, &moved);
    TableQuery::new(archive, &tool_result_events::TABLE, &["ts", "rowid"], filter)
        .objects(sink, |object, row| object.members(members.clone(), row))
}

/// What an archive lacks of its ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lag {
    /// Nothing, or there is no ledger.
    Nothing,
    /// The last complete lines, of so many bytes.
    Lines(u64),
    /// The archive was built from bytes that the ledger no longer has, so it has to be built from byte 0.
    Rebuild(Restart),
}

/// Returns what the archive lacks of its ledger.
///
/// The bytes that the archive covers are compared only when the ledger was modified after the build, because the
/// comparison reads up to 32 MiB of them.
///
/// # Errors
/// When the ledger or the archive cannot be read.
pub fn lag(paths: &Paths) -> Result<Lag, ArchiveError> {
    // The archive is read first, because an append and a build in between must not look like a shorter ledger.
    let archive = open::open_read_only(&paths.archive)?;
    let state = archive.settle(open::read_state(&archive, &paths.archive))?;
    let Some(source) = Source::open_if_there(&paths.ledger, Io::Read)? else { return Ok(Lag::Nothing) };
    let complete_bytes = source.line_end_before(0, source.len_bytes())?;
    let Some(state) = state else { return Ok(Lag::Lines(complete_bytes)) };
    let cursor = state.ledger_offset_bytes.max(0) as u64;
    if complete_bytes > cursor {
        return Ok(Lag::Lines(complete_bytes - cursor));
    }
    let is_modified = source.len_bytes() < cursor || source.mtime_ms() != state.ledger_mtime_ms;
    match if is_modified { state.check(&source)? } else { None } {
        Some(restart) => Ok(Lag::Rebuild(restart)),
        None => Ok(Lag::Nothing),
    }
}

/// Opens an archive of this version.
fn open_for_query(path: &Path) -> Result<ArchiveReader, ArchiveError> {
    let archive = open::open_read_only(path)?;
    archive.settle(check_version(&archive, path))?;
    Ok(archive)
}

/// Opens an archive and begins the transaction of a query: one, so that tool calls and stamps belong to the turns that they
/// are read with.
fn begin_query(path: &Path) -> Result<(ArchiveReader, AddedColumns), ArchiveError> {
    let reader = begin_one(path)?;
    let added = AddedColumns::of(&reader).context(path, "reading its schema")?;
    Ok((reader, added))
}

/// Opens an archive and begins a transaction.
fn begin_one(path: &Path) -> Result<ArchiveReader, ArchiveError> {
    let reader = open_for_query(path)?;
    reader.execute_batch("BEGIN").context(path, "beginning to read")?;
    Ok(reader)
}

/// Returns the state row of an archive of this version.
fn check_version(archive: &Connection, path: &Path) -> Result<ArchiveState, ArchiveError> {
    match open::read_state(archive, path)? {
        Some(state) if state.archive_version == VERSION => Ok(state),
        Some(state) => {
            Err(ArchiveError::OtherVersion { path: path.to_owned(), found: state.archive_version })
        }
        None if open::is_foreign(archive, path)? => Err(ArchiveError::NotAnArchive { path: path.to_owned() }),
        None => Err(ArchiveError::Incomplete { path: path.to_owned() }),
    }
}

/// Whether a `ts` that passes the conditions in SQL is within the bounds.
fn is_in_time(ts: ValueRef<'_>, times: &TimeBounds) -> bool {
    match ts {
        ValueRef::Text(ts) => times.pass(&String::from_utf8_lossy(ts)),
        _ => true,
    }
}

/// Returns the values at three places of a row, to bind in another query.
fn values_at<'r>(row: &'r Row<'_>, places: [usize; 3]) -> Result<[ToSqlOutput<'r>; 3], rusqlite::Error> {
    let [first, second, third] = places.map(|place| row.get_ref(place).map(ToSqlOutput::Borrowed));
    Ok([first?, second?, third?])
}

fn hand_over(text: &[u8], sink: &mut dyn FnMut(&str) -> ControlFlow<()>) -> ControlFlow<()> {
    // Another program may have stored bytes that are not UTF-8.
    sink(&String::from_utf8_lossy(text))
}

/// The later added columns that an archive has: table and column.
struct AddedColumns(Vec<(&'static str, &'static str)>);

impl AddedColumns {
    fn of(connection: &Connection) -> Result<Self, rusqlite::Error> {
        let mut present = Vec::new();
        for (table, column, _) in super::schema::ADDED_COLUMNS {
            if open::has_column(connection, table, column)? {
                present.push((table, column));
            }
        }
        Ok(Self(present))
    }

    /// Returns the columns of a table in the order of a new archive; a missing column is NULL.
    fn columns(&self, table: &Table) -> String {
        table.columns.iter().map(|column| self.column(table, column)).collect::<Vec<_>>().join(", ")
    }

    /// Returns a column, or NULL when the archive lacks the column.
    fn column(&self, table: &Table, column: &'static str) -> &'static str {
        self.known(table, column).unwrap_or("NULL")
    }

    /// Returns a column, unless the archive lacks the column.
    fn known(&self, table: &Table, column: &'static str) -> Option<&'static str> {
        let mut added = super::schema::ADDED_COLUMNS.iter();
        let is_missing = added.any(|(of, added, _)| *of == table.name && *added == column)
            && !self.0.contains(&(table.name, column));
        (!is_missing).then_some(column)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::schema::INDEXES;

    #[test]
    fn a_range_of_time_is_read_by_its_index_whatever_the_source() {
        let archive = Connection::open_in_memory().unwrap();
        let create =
            crate::archive::schema::TABLES.iter().find(|table| table.name == "turns").unwrap().create;
        archive.execute_batch(create).unwrap();
        for (_, create) in INDEXES.iter().filter(|(_, create)| create.contains(" ON turns(")) {
            archive.execute_batch(create).unwrap();
        }
        let plan = |filter: &Filter| {
            let conditions = Conditions::new("turns", filter, &filter.times());
            let sql = conditions.select("ts", "turns", &["ts", "turn_index", "rowid"], filter.order);
            let mut plan = archive.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps = plan.query_map(params_from_iter(&conditions.values), |row| row.get::<_, String>(3));
            steps.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("; ")
        };
        let text = |text: &str| Some(text.to_owned());
        let source = Filter { source: vec![Pattern::new("codex")], ..Filter::default() };
        for time in ["2026-04-20T00:00:00.000Z", "2026-04-20T02:00:00+02:00", "2026-04-20"] {
            let since = Filter { since: text(time), ..source.clone() };
            let until = Filter { until: text(time), ..source.clone() };
            let both = Filter { until: text(time), ..since.clone() };
            assert!(plan(&since).contains("USING INDEX idx_turns_ts (ts>?)"), "{}", plan(&since));
            assert!(plan(&until).contains("USING INDEX idx_turns_ts (ts<?)"), "{}", plan(&until));
            assert!(plan(&both).contains("USING INDEX idx_turns_ts (ts>? AND ts<?)"), "{}", plan(&both));
            let session = Filter { session: vec![Pattern::new("s")], ..since };
            assert!(plan(&session).contains("source=? AND session_id=?"), "{}", plan(&session));
        }
    }
}

//! Reads the databases of burn 2 to 4, `burn.sqlite` and `content.sqlite`, into the ledger.
//!
//! burn 2 to 4 is another program with the name of this one (docs/moving-over.md). It keeps its records in SQLite:
//! each row of five tables has a record as JSON in `record_json`, `stamps` has selectors and enrichments, and the
//! rows of `content` have texts. The other tables are derived. If an agent has deleted its logs, these databases
//! have the only copy of the records.
//!
//! Guarantees: the databases are only read, even while their writer has them open; a record that is read again changes
//! nothing; every row that makes no line is counted by its reason.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use super::AgentsError;
use super::js;
use super::known::{each_stamp, session_key};
use super::pass::{ContentMode, Gathered, LeftOut, PassRecord, ReadOptions, Reason};
use super::report::{AgentReport, IngestObserver, IngestReport};
use super::run::{DatabaseImport, Ingest, Run, add_up};
use super::sqlite::{ForeignDatabase, bytes_of, is_there, unusable};
use super::terms::stamp_text;
use crate::interrupt::Interrupt;
use crate::record::RecordKind;
use crate::scan::json::{Document, Kind, Value};

/// The known schemas: 1 is the schema of burn 2.0, 7 the schema of burn 4.
const SCHEMAS: std::ops::RangeInclusive<i64> = 1..=7;

/// The tables with records, in the order in which their records are appended.
const TABLES: [(&str, RecordKind); 5] = [
    ("turns", RecordKind::Turn),
    ("compactions", RecordKind::Compaction),
    ("relationships", RecordKind::Relationship),
    ("tool_result_events", RecordKind::ToolResultEvent),
    ("user_turns", RecordKind::UserTurn),
];

/// How much an import reads before it appends. Any sizes give the same lines; tests use small ones.
#[derive(Debug, Clone, Copy)]
struct ImportPortions {
    /// The number of rows that are queued together.
    rows: usize,
    /// The number of bytes that are appended together; `None` means the number that other runs use.
    flush_bytes: Option<usize>,
}

/// The portions of every import outside tests.
const PORTIONS: ImportPortions = ImportPortions { rows: 1_000, flush_bytes: None };

impl Ingest {
    /// Appends the records of a database of burn 2 to 4 that the ledger does not have. `path` is its `burn.sqlite`. If
    /// content is kept, the texts of the `content.sqlite` beside it are appended too.
    ///
    /// # Errors
    /// When a database cannot be read or has an unknown schema, and when the ledger cannot be written. Records that
    /// were appended before the error stay, and another call appends the rest.
    pub fn take_in_burn(
        &mut self,
        path: &Path,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<IngestReport, AgentsError> {
        self.take_portions(path, PORTIONS, observer, interrupt)
    }

    fn take_portions(
        &mut self,
        path: &Path,
        portions: ImportPortions,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<IngestReport, AgentsError> {
        let started = Instant::now();
        let database = ForeignDatabase::open(path)?;
        check_schema(path, &database)?;
        let known_stamps = if self.checks_only() { HashSet::new() } else { known_stamps(self)? };
        self.forget_without_ledger(observer, interrupt)?;
        let mut run = Run::new(self, observer, interrupt)?;
        run.import = Some(DatabaseImport::of(hooked_sessions(path, &database)?));
        run.flush_bytes = portions.flush_bytes.unwrap_or(run.flush_bytes);
        let mut tally = AgentReport {
            agent: "burn",
            roots: vec![path.to_owned()],
            found_files: 1,
            read_files: 1,
            ..AgentReport::default()
        };
        for (table, kind) in TABLES {
            let rows = TableRows {
                path,
                database: &database,
                table,
                // Turns are queued one by one, because the turns of one `Gathered` are not compared with each other: a
                // message that two sessions have would be appended twice.
                gathered_rows: if kind == RecordKind::Turn { 1 } else { portions.rows },
                text: format!("SELECT rowid, record_json FROM {table} ORDER BY rowid"),
            };
            rows.each_part(&mut run, &mut tally, interrupt, &mut |gathered, mut record| {
                let records = match kind {
                    RecordKind::Turn => &mut gathered.turns,
                    RecordKind::Compaction => &mut gathered.compactions,
                    RecordKind::Relationship => &mut gathered.relationships,
                    RecordKind::ToolResultEvent => &mut gathered.tool_result_events,
                    RecordKind::UserTurn => &mut gathered.user_turns,
                };
                // A turn that the ledger has under another session is dropped.
                record.owner = (kind == RecordKind::Turn).then_some(records.len() as u32);
                records.push(record);
            })?;
        }
        take_stamps(path, &database, &known_stamps, &mut run, &mut tally)?;
        if run.options.content == ContentMode::Full {
            let content = path.with_file_name("content.sqlite");
            take_content(&content, portions, &mut run, &mut tally, interrupt)?;
        }
        run.flush(&mut tally)?;
        let mut report = run.into_report();
        report.agents.push(tally);
        add_up(&mut report, started);
        Ok(report)
    }
}

/// Refuses a database with an unknown schema.
fn check_schema(path: &Path, database: &ForeignDatabase) -> Result<(), AgentsError> {
    let fails = |error: rusqlite::Error| unusable(path, error);
    let refused = |reason: String| AgentsError::Unusable { path: path.to_owned(), reason };
    if !database.columns("archive_state").map_err(fails)?.contains("schema_version") {
        return Err(refused(
            "it is no burn.sqlite of burn 2 to 4: it has no archive_state.schema_version".into(),
        ));
    }
    let text = "SELECT schema_version FROM archive_state WHERE id = 1";
    let schema: i64 = database.connection.query_row(text, [], |row| row.get(0)).map_err(fails)?;
    if !SCHEMAS.contains(&schema) {
        let (first, last) = (SCHEMAS.start(), SCHEMAS.end());
        return Err(refused(format!(
            "its schema is {schema}, and only {first} to {last} are known; nothing of it was read"
        )));
    }
    for (table, _) in TABLES {
        if !database.columns(table).map_err(fails)?.contains("record_json") {
            return Err(refused(format!(
                "its table {table} has no column record_json; nothing of it was read"
            )));
        }
    }
    Ok(())
}

/// Returns the keys of the sessions of Claude Code that have events of hooks. Such an event has neither a
/// time nor a message id.
fn hooked_sessions(path: &Path, database: &ForeignDatabase) -> Result<HashSet<u64>, AgentsError> {
    let fails = |error: rusqlite::Error| unusable(path, error);
    let text = "SELECT record_json FROM tool_result_events WHERE record_json NOT LIKE '%\"ts\"%'";
    let mut statement = database.connection.prepare(text).map_err(fails)?;
    let mut rows = statement.query([]).map_err(fails)?;
    let mut document = Document::default();
    let mut sessions = HashSet::new();
    while let Some(row) = rows.next().map_err(fails)? {
        let json = bytes_of(row, 0).map_err(fails)?;
        let Ok(event) = document.parse(&json) else { continue };
        if js::any_text(event, "source") == Some(b"claude-code") && event.get("messageId").is_none() {
            sessions.extend(js::any_text(event, "sessionId").map(session_key));
        }
    }
    Ok(sessions)
}

/// The rows of a table: their numbers and their JSON texts.
struct TableRows<'d> {
    path: &'d Path,
    database: &'d ForeignDatabase,
    table: &'static str,
    gathered_rows: usize,
    text: String,
}

impl TableRows<'_> {
    /// Queues the records of all rows, `gathered_rows` at a time. `add` adds a record to its list.
    fn each_part(
        &self,
        run: &mut Run<'_>,
        tally: &mut AgentReport,
        interrupt: &Interrupt,
        add: &mut dyn FnMut(&mut Gathered, PassRecord),
    ) -> Result<(), AgentsError> {
        let fails = |error: rusqlite::Error| unusable(self.path, error);
        let mut statement = self.database.connection.prepare(&self.text).map_err(fails)?;
        let mut rows = statement.query([]).map_err(fails)?;
        let mut document = Document::default();
        let mut gathered = Gathered::default();
        let mut count = 0;
        while let Some(row) = rows.next().map_err(fails)? {
            let number: i64 = row.get(0).map_err(fails)?;
            let json = bytes_of(row, 1).map_err(fails)?;
            tally.lines += 1;
            tally.bytes_read += json.len() as u64;
            let place = || format!("row {number} of {}", self.table);
            match document.parse(&json) {
                Ok(value) if value.kind() == Kind::Object => {
                    let row = Some((self.table, number));
                    let record = PassRecord { row, ..gathered.keep(&json) };
                    add(&mut gathered, record);
                }
                Ok(_) => leave_out(self.path, run, tally, Reason::NotARecord, place())?,
                Err(error) => {
                    let detail = format!("{}: {error}", place());
                    leave_out(self.path, run, tally, Reason::Malformed, detail)?;
                }
            }
            count += 1;
            if count % self.gathered_rows == 0 {
                if interrupt.is_requested() {
                    return Err(AgentsError::Interrupted);
                }
                run.queue(self.path, std::mem::take(&mut gathered), tally)?;
            }
        }
        run.queue(self.path, gathered, tally)
    }
}

fn leave_out(
    path: &Path,
    run: &mut Run<'_>,
    tally: &mut AgentReport,
    reason: Reason,
    detail: String,
) -> Result<(), AgentsError> {
    let mut left_out = LeftOut::default();
    let options: ReadOptions = run.options;
    left_out.add(&options, (0, 0), reason, || detail);
    run.left_out(path, left_out, tally)
}

/// The stamps of the ledger. A stamp has no id, so a repeated stamp is recognised by its text.
fn known_stamps(ingest: &Ingest) -> Result<HashSet<[u8; 32]>, AgentsError> {
    let mut known = HashSet::new();
    each_stamp(ingest.home(), &mut |stamp| {
        let line = stamp_of(js::any_text(stamp, "ts"), stamp.get("selector"), stamp.get("enrichment"));
        known.extend(line.map(|line| digest(&line)));
    })?;
    Ok(known)
}

fn digest(line: &[u8]) -> [u8; 32] {
    *blake3::hash(line).as_bytes()
}

/// Returns the line of a stamp with sorted keys, so that equal stamps have equal lines.
fn stamp_of(
    ts: Option<&[u8]>,
    selector: Option<Value<'_>>,
    enrichment: Option<Value<'_>>,
) -> Option<Vec<u8>> {
    Some(stamp_text(ts?, &js::sorted_json(selector?), &js::sorted_json(enrichment?)))
}

fn take_stamps(
    path: &Path,
    database: &ForeignDatabase,
    known: &HashSet<[u8; 32]>,
    run: &mut Run<'_>,
    tally: &mut AgentReport,
) -> Result<(), AgentsError> {
    let fails = |error: rusqlite::Error| unusable(path, error);
    let text = "SELECT rowid, ts, selector_json, enrichment_json FROM stamps ORDER BY ts, written_at";
    let mut statement = database.connection.prepare(text).map_err(fails)?;
    let mut rows = statement.query([]).map_err(fails)?;
    let mut gathered = Gathered::default();
    let (mut selector, mut enrichment) = (Document::default(), Document::default());
    while let Some(row) = rows.next().map_err(fails)? {
        let number: i64 = row.get(0).map_err(fails)?;
        let [ts, selector_json, enrichment_json] = [1, 2, 3].map(|column| bytes_of(row, column));
        let (ts, selector_json, enrichment_json) =
            (ts.map_err(fails)?, selector_json.map_err(fails)?, enrichment_json.map_err(fails)?);
        tally.lines += 1;
        tally.bytes_read += (selector_json.len() + enrichment_json.len()) as u64;
        let parsed = (selector.parse(&selector_json).ok(), enrichment.parse(&enrichment_json).ok());
        match stamp_of(Some(&ts), parsed.0, parsed.1) {
            Some(line) if known.contains(&digest(&line)) => tally.duplicates += 1,
            Some(line) => {
                let record = PassRecord { row: Some(("stamps", number)), ..gathered.keep(&line) };
                gathered.stamps.push(record);
            }
            None => leave_out(path, run, tally, Reason::Malformed, format!("row {number} of stamps"))?,
        }
    }
    run.queue(path, gathered, tally)
}

/// Appends the texts. A database of burn without a `content.sqlite` has no texts.
fn take_content(
    path: &Path,
    portions: ImportPortions,
    run: &mut Run<'_>,
    tally: &mut AgentReport,
    interrupt: &Interrupt,
) -> Result<(), AgentsError> {
    if !is_there(path)? {
        return Ok(());
    }
    let database = ForeignDatabase::open(path)?;
    if !database.columns("content").map_err(|error| unusable(path, error))?.contains("body") {
        let reason = "its table content has no column body; nothing of it was read".into();
        return Err(AgentsError::Unusable { path: path.to_owned(), reason });
    }
    let text = "SELECT rowid, body FROM content ORDER BY rowid".to_owned();
    let rows = TableRows { path, database: &database, table: "content", gathered_rows: portions.rows, text };
    rows.each_part(run, tally, interrupt, &mut |gathered, record| gathered.content.push(record))
}

#[cfg(test)]
mod tests;

//! `burn query`: records by time, session, source, project and enrichment, from the archive or from the ledger.
//!
//! May touch: archive and ledger, for reading, and standard output and error. Promises: nothing is changed; a record is printed
//! whole, on a line of its own, or not at all.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, ValueEnum};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};

use super::{Cli, STDOUT, counted, warn};
use crate::archive::{self, Paths, query};
use crate::home::Home;
use crate::ledger::{Filter, Ledger, RecordKind};
use crate::scan::json::{Document, Kind, Value};

#[derive(Debug, Args)]
#[command(after_help = "\
Turns come from the archive, by time; the other kinds from the ledger, in its order. Times are compared as text. A table \
leaves out what a terminal has no room for; --json and --jsonl leave out nothing.

Examples:
  burn query turns --since 2026-04-20 --project acme/api
  burn query turns --enrichment tier=gold --jsonl
  burn query tool-result-events --session s1 --json
  burn query turns --from ledger --jsonl")]
pub(super) struct QueryArgs {
    /// What to ask for.
    #[arg(value_enum)]
    kind: KindArg,
    /// Nothing before this time: text such as 2026-04-20T10:15:00.000Z, or its beginning.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Nothing after this time; records of the time itself are shown.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Turns of this project or project key.
    #[arg(long, allow_hyphen_values = true)]
    project: Option<String>,
    /// Records of this session; relationships with it on either end.
    #[arg(long, allow_hyphen_values = true)]
    session: Option<String>,
    /// Records of this source.
    #[arg(long, allow_hyphen_values = true)]
    source: Option<String>,
    /// Turns whose stamps say this; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true, value_parser = with_equals_sign)]
    enrichment: Vec<String>,
    /// Where to look [default: archive for turns, ledger for other kinds]
    #[arg(long, value_enum)]
    from: Option<From>,
    /// Print one JSON document: an array.
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// Print one JSON record a line.
    #[arg(long)]
    jsonl: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    Turns,
    Compactions,
    Relationships,
    ToolResultEvents,
    UserTurns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// archive.sqlite: fast, and as of its last build.
    Archive,
    /// ledger.jsonl: every line, whatever the archive's state.
    Ledger,
}

fn with_equals_sign(pair: &str) -> Result<String, String> {
    if pair.contains('=') { Ok(pair.to_owned()) } else { Err("KEY=VALUE is needed".to_owned()) }
}

pub(super) fn run(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let kind = match args.kind {
        KindArg::Turns => RecordKind::Turn,
        KindArg::Compactions => RecordKind::Compaction,
        KindArg::Relationships => RecordKind::Relationship,
        KindArg::ToolResultEvents => RecordKind::ToolResultEvent,
        KindArg::UserTurns => RecordKind::UserTurn,
    };
    let is_turn = kind == RecordKind::Turn;
    let from = args.from.unwrap_or(if is_turn { From::Archive } else { From::Ledger });
    if from == From::Archive && matches!(kind, RecordKind::Relationship | RecordKind::UserTurn) {
        Cli::command()
            .error(
                clap::error::ErrorKind::ArgumentConflict,
                "relationships and user turns are not archived: leave out --from archive",
            )
            .exit();
    }
    if !is_turn && (args.project.is_some() || !args.enrichment.is_empty()) {
        warn("--project and --enrichment are for turns and have no effect here");
    }
    // Where there are several equals signs the key may end at each of them: all readings are tried on what is found.
    let (ambiguous, plain): (Vec<&String>, Vec<&String>) =
        args.enrichment.iter().partition(|pair| pair.matches('=').count() > 1);
    let filter = Filter {
        since: args.since.clone(),
        until: args.until.clone(),
        session: args.session.clone(),
        source: args.source.clone(),
        project: args.project.clone(),
        enrichment: plain.iter().filter_map(|pair| pair.split_once('=')).map(owned).collect(),
    };
    let mut out = Output::new(&args, kind);
    let mut written: io::Result<()> = Ok(());
    let mut document = Document::default();
    let mut sink = |record: &str| {
        if is_turn && !ambiguous.is_empty() && !has_all(&mut document, record, &ambiguous) {
            return ControlFlow::Continue(());
        }
        written = out.record(record);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let home = Home::from_env()?;
    let paths = Paths::of_home(&home);
    let asked: anyhow::Result<()> = match (from, kind) {
        (From::Ledger, _) => Ledger::new(home).query(kind, &filter, &mut sink).map_err(Into::into),
        (From::Archive, RecordKind::Compaction) => {
            query::compactions(&paths.archive, &filter, &mut sink).map_err(Into::into)
        }
        (From::Archive, RecordKind::ToolResultEvent) => {
            query::tool_result_events(&paths.archive, &filter, &mut sink).map_err(Into::into)
        }
        (From::Archive, _) => query::turns(&paths.archive, &filter, &mut sink).map_err(Into::into),
    };
    written.and_then(|()| out.finish(asked.is_ok())).context(STDOUT)?;
    asked?;
    if from == From::Archive {
        // The answer stands; only how far behind it is may be unknown.
        warn_if_behind(&paths).unwrap_or_else(|error| warn(&error.to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Whether the record's enrichment has each pair, read in one way or another.
fn has_all(document: &mut Document, record: &str, pairs: &[&String]) -> bool {
    let Ok(root) = document.parse(record.as_bytes()) else { return false };
    let Some(enrichment) = root.get("enrichment") else { return false };
    pairs.iter().all(|pair| {
        pair.match_indices('=').any(|(at, _)| {
            let found = enrichment.get(&pair[..at]).and_then(Value::as_js_str);
            found.is_some_and(|found| found == pair[at + 1..])
        })
    })
}

fn warn_if_behind(paths: &Paths) -> anyhow::Result<()> {
    let bytes = archive::query::lag_bytes(paths)?;
    if bytes > 0 {
        warn(&format!(
            "the archive lacks the last {} of the ledger; `burn state rebuild archive` takes them in",
            counted(bytes, "byte")
        ));
    }
    Ok(())
}

/// How many rows a table has before the next one begins: widths follow the rows, memory must not.
const TABLE_ROWS: usize = 500;

/// `2026-04-20T10:15:00`, an ellipsis, and two blanks.
const TIME_WIDTH: u16 = 22;

enum Form {
    Json { count: u64 },
    Lines,
    Table { kind: RecordKind, rows: Vec<Vec<String>>, document: Document },
}

struct Output {
    out: BufWriter<io::StdoutLock<'static>>,
    form: Form,
    has_records: bool,
}

impl Output {
    fn new(args: &QueryArgs, kind: RecordKind) -> Self {
        let form = match (args.json, args.jsonl) {
            (true, _) => Form::Json { count: 0 },
            (_, true) => Form::Lines,
            _ => Form::Table { kind, rows: Vec::new(), document: Document::default() },
        };
        Self { out: BufWriter::new(io::stdout().lock()), form, has_records: false }
    }

    fn record(&mut self, record: &str) -> io::Result<()> {
        self.has_records = true;
        match &mut self.form {
            Form::Json { count } => {
                self.out.write_all(if *count == 0 { b"[\n" } else { b",\n" })?;
                *count += 1;
                self.out.write_all(record.as_bytes())
            }
            Form::Lines => {
                self.out.write_all(record.as_bytes())?;
                self.out.write_all(b"\n")
            }
            Form::Table { kind, rows, document } => {
                if let Ok(root) = document.parse(record.as_bytes()) {
                    rows.push(columns(*kind).iter().map(|column| column.cell(root)).collect());
                }
                if rows.len() == TABLE_ROWS {
                    let table = table(*kind, std::mem::take(rows));
                    writeln!(self.out, "{table}\n")?;
                }
                Ok(())
            }
        }
    }

    /// What has begun is ended in any case; where the question failed, and nothing was found before, nothing is said.
    fn finish(mut self, is_answered: bool) -> io::Result<()> {
        if !is_answered && !self.has_records {
            return Ok(());
        }
        match self.form {
            Form::Json { count: 0 } => self.out.write_all(b"[]\n")?,
            Form::Json { .. } => self.out.write_all(b"\n]\n")?,
            Form::Lines => {}
            Form::Table { kind, rows, .. } => {
                if !rows.is_empty() {
                    writeln!(self.out, "{}", table(kind, rows))?;
                } else if !self.has_records {
                    warn("there is no such record; leave out conditions to see more");
                }
            }
        }
        self.out.flush()
    }
}

/// A column of a table: its title, and where its value stands in a record.
struct Column {
    title: &'static str,
    path: &'static [&'static str],
    is_number: bool,
}

impl Column {
    /// What a record has there; of an array, how many items.
    fn cell(&self, record: Value<'_>) -> String {
        let value = self.path.iter().try_fold(record, |value, key| value.get(key));
        match value {
            None => String::new(),
            Some(value) if value.kind() == Kind::Array => value.len().to_string(),
            Some(value) => value.as_str().map_or_else(|| value.to_string(), printable),
        }
    }
}

/// Text from a record, without what would move the cursor of a terminal.
fn printable(text: std::borrow::Cow<'_, str>) -> String {
    text.chars().map(|character| if character.is_control() { '\u{FFFD}' } else { character }).collect()
}

const fn text(title: &'static str, path: &'static [&'static str]) -> Column {
    Column { title, path, is_number: false }
}

const fn number(title: &'static str, path: &'static [&'static str]) -> Column {
    Column { title, path, is_number: true }
}

const TS: Column = text("time", &["ts"]);
const SOURCE: Column = text("source", &["source"]);
const SESSION: Column = text("session", &["sessionId"]);

const TURN_COLUMNS: &[Column] = &[
    TS,
    SOURCE,
    SESSION,
    text("model", &["model"]),
    number("input", &["usage", "input"]),
    number("output", &["usage", "output"]),
    number("cache read", &["usage", "cacheRead"]),
    number("calls", &["toolCalls"]),
    text("project", &["project"]),
];
const COMPACTION_COLUMNS: &[Column] =
    &[TS, SOURCE, SESSION, number("tokens before", &["tokensBeforeCompact"])];
const RELATIONSHIP_COLUMNS: &[Column] = &[
    TS,
    SOURCE,
    SESSION,
    text("type", &["relationshipType"]),
    text("related session", &["relatedSessionId"]),
    text("agent", &["agentId"]),
];
const EVENT_COLUMNS: &[Column] = &[
    TS,
    SOURCE,
    SESSION,
    text("tool use", &["toolUseId"]),
    number("event", &["eventIndex"]),
    text("status", &["status"]),
    number("bytes", &["contentLength"]),
];
const USER_TURN_COLUMNS: &[Column] =
    &[TS, SOURCE, SESSION, text("user turn", &["userUuid"]), number("blocks", &["blocks"])];

fn columns(kind: RecordKind) -> &'static [Column] {
    match kind {
        RecordKind::Turn => TURN_COLUMNS,
        RecordKind::Compaction => COMPACTION_COLUMNS,
        RecordKind::Relationship => RELATIONSHIP_COLUMNS,
        RecordKind::ToolResultEvent => EVENT_COLUMNS,
        RecordKind::UserTurn => USER_TURN_COLUMNS,
    }
}

fn one_line<T: ToString>(cells: impl IntoIterator<Item = T>) -> Row {
    let mut row = Row::from(cells.into_iter().map(|cell| cell.to_string()).collect::<Vec<_>>());
    row.max_height(1);
    row
}

/// Less of a text says nothing; in characters.
const TEXT_WIDTH: usize = 8;

/// Blanks between columns.
const GAP: usize = 2;

/// Which columns a terminal of `width` characters has room for, from the left; the first always.
fn fitting(columns: &[Column], rows: &[Vec<String>], width: usize) -> Vec<usize> {
    let mut left = width;
    let fits = |(at, column): (usize, &Column)| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        let longest = cells.chain([column.title.chars().count()]).max().unwrap_or(0);
        let needed = GAP
            + match column.is_number {
                true => longest,
                false if column.path == TS.path => usize::from(TIME_WIDTH) - GAP,
                false => longest.min(TEXT_WIDTH),
            };
        let has_room = needed <= left || at == 0;
        if has_room {
            left = left.saturating_sub(needed);
        }
        has_room.then_some(at)
    };
    columns.iter().enumerate().filter_map(fits).collect()
}

fn table(kind: RecordKind, mut rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut shown: Vec<&Column> = columns(kind).iter().collect();
    if let Some(width) = table.width() {
        let kept = fitting(columns(kind), &rows, usize::from(width));
        shown = kept.iter().map(|at| &columns(kind)[*at]).collect();
        for row in &mut rows {
            let mut at = 0;
            row.retain(|_| {
                at += 1;
                kept.contains(&(at - 1))
            });
        }
    }
    // On a terminal columns shrink to its width, and what is cut off ends in an ellipsis: a record is a line.
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_truncation_indicator("…");
    table.set_header(one_line(shown.iter().map(|column| column.title)));
    table.add_rows(rows.into_iter().map(one_line));
    for (column, described) in table.column_iter_mut().zip(shown) {
        column.set_padding((0, GAP as u16));
        // Half a number is a lie, and a time without its minutes is no use.
        if described.is_number {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::ContentWidth);
        } else if described.path == TS.path {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(TIME_WIDTH)));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_gets_the_columns_that_it_has_room_for() {
        let cells = [
            "2026-04-20T10:15:00.000Z",
            "claude-code",
            "session-1",
            "model-x",
            "12",
            "3",
            "145212",
            "1",
            "p",
        ];
        let rows = vec![cells.map(str::to_owned).to_vec()];
        let shown = |width| -> Vec<&str> {
            fitting(TURN_COLUMNS, &rows, width).into_iter().map(|at| TURN_COLUMNS[at].title).collect()
        };
        assert_eq!(shown(10), ["time"]);
        assert_eq!(shown(40), ["time", "source", "input"]);
        assert_eq!(shown(80), ["time", "source", "session", "model", "input", "output", "cache read"]);
        assert_eq!(shown(200).len(), TURN_COLUMNS.len());
    }
}

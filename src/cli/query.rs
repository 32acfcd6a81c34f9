//! `burn query`: records by time, session, source, project and enrichment, from the archive or from the ledger.
//!
//! Touches archive and ledger, for reading, and standard output and error. Guarantees: nothing is changed; a record is printed
//! whole or not at all.

mod columns;
mod kind;

use std::collections::VecDeque;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use self::columns::{QueryColumn, Totals};
use self::kind::KindArg;
use super::arguments::{FilterArgs, FromArg, HomeArg, JsonArg, TimeArgs, now, patterns};
use super::ledgers::{LedgersArgs, Wanted};
use super::table::{self, Heading};
use super::{STDOUT, counted, interrupt, warn, wrong_usage};
use crate::archive::query::Lag;
use crate::archive::{self, Paths, query};
use crate::ledger::{self, Filter, PassedOver, Pattern, RecordOrder};
use crate::record::time::Instant;
use crate::scan::json::{Document, JsStr, Value};

#[derive(Debug, Args)]
#[command(after_help = "\
Turns, sessions, stamps and tool calls are read from the archive, in the order of time; the other kinds from the ledger, in its \
order. A table leaves out columns that do not fit the terminal; --json and --jsonl print every member. Times and filters are those \
of `burn usage`: 7d is today and the six days before, a filter may be given again, x* matches a beginning, (none) matches records \
without a value.

--project is for turns, tool calls and sessions, --tag for turns. --session finds relationships with the session on either end.

Examples:
  burn query turns --since 2026-04-20 --project acme/api
  burn query turns --tag tier=gold --jsonl
  burn query tool-result-events --session s1 --json
  burn query sessions --since 7d
  burn query turns --from ledger --jsonl")]
pub(super) struct QueryArgs {
    /// The kind of record.
    #[arg(value_enum)]
    kind: KindArg,
    #[command(flatten)]
    times: TimeArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Where to read records [default: archive for turns, sessions, stamps and tool calls, ledger for other kinds]
    #[arg(long, value_enum)]
    from: Option<FromArg>,
    /// Print at most N records.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print the newest records first; from the ledger only with --limit.
    #[arg(long)]
    reverse: bool,
    /// Columns of the table: titles, or members such as usage.reasoning, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with_all = ["json", "jsonl"])]
    columns: Option<Vec<String>>,
    /// Print one JSON record a line.
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    files: LedgersArgs,
    #[command(flatten)]
    home: HomeArg,
}

pub(super) fn run(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let kind = args.kind;
    let is_turn = kind == KindArg::Turns;
    let is_in_archive_alone = kind.record().is_none();
    let usual = if is_turn || is_in_archive_alone { FromArg::Archive } else { FromArg::Ledger };
    let from = args.from.unwrap_or(usual);
    refuse_contradictions(&args, from);
    // Of several equals signs, each may end the key, so every record is compared with all readings.
    let (ambiguous, plain): (Vec<&String>, Vec<&String>) =
        args.filters.tag.iter().partition(|pair| pair.matches('=').count() > 1);
    let pattern_of = |(key, value): (&str, &str)| (key.to_owned(), Pattern::new(value));
    let times = args.times.read("query", now());
    if let Some([since, until]) = times.reversed() {
        warn(&format!("--since ({since}) is after --until ({until}): only records without a time are found"));
    }
    let filter = Filter {
        since: times.since.map(text_of),
        until: times.until.map(text_of),
        session: patterns(&args.filters.session),
        source: patterns(&args.filters.source),
        project: patterns(&args.filters.project),
        enrichment: plain.iter().filter_map(|pair| pair.split_once('=')).map(pattern_of).collect(),
        order: if args.reverse { RecordOrder::NewestFirst } else { RecordOrder::OldestFirst },
    };
    let columns = match &args.columns {
        None => columns::usual(kind),
        Some(names) => columns::named(kind, names)
            .unwrap_or_else(|error| wrong_usage(&["query"], &format!("--columns: {error}"))),
    };
    let mut out = QueryOutput::new(&args, columns);
    let mut written: io::Result<()> = Ok(());
    let mut left = args.limit.unwrap_or(usize::MAX);
    // The ledger is read in its own order, so the newest records are the last ones read.
    let mut newest = (from == FromArg::Ledger && args.reverse).then(VecDeque::new);
    let mut document = Document::default();
    let mut sink = |record: &str| {
        if is_turn && !ambiguous.is_empty() && !has_all(&mut document, record, &ambiguous) {
            return ControlFlow::Continue(());
        }
        if let Some(newest) = &mut newest {
            if newest.len() == left {
                newest.pop_front();
            }
            newest.push_back(record.to_owned());
            return ControlFlow::Continue(());
        }
        written = out.record(record);
        left -= 1;
        if written.is_ok() && left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let wanted = if from == FromArg::Archive { Wanted::Archive } else { Wanted::Ledger };
    let ledgers = args.files.open(&args.home, wanted, &["query"], interrupt::watch)?;
    let paths = &ledgers.paths;
    let asked: anyhow::Result<PassedOver> = match (from, kind.record()) {
        (FromArg::Ledger, Some(kind)) => {
            ledger::query(&paths.ledger, kind, &filter, &mut sink).map_err(Into::into)
        }
        _ => {
            let ask = match kind {
                KindArg::Compactions => query::compactions,
                KindArg::ToolResultEvents => query::tool_result_events,
                KindArg::Sessions => query::sessions,
                KindArg::Stamps => query::stamps,
                KindArg::ToolCalls => query::tool_calls,
                // The archive has no table of the last two, so they are asked of the ledger.
                KindArg::Turns | KindArg::Relationships | KindArg::UserTurns => query::turns,
            };
            ask(&paths.archive, &filter, &mut sink).map(|()| PassedOver::default()).map_err(Into::into)
        }
    };
    for record in newest.into_iter().flatten().rev() {
        written = written.and_then(|()| out.record(&record));
    }
    written.and_then(|()| out.finish(asked.is_ok())).context(STDOUT)?;
    if let PassedOver { malformed_lines, first: Some(first) } = asked? {
        warn(&format!(
            "{} at byte {} ({}): malformed, passed over{}; `burn ledger check` says what is wrong with the ledger",
            paths.ledger.display(),
            first.start,
            counted(first.end - first.start, "byte"),
            match malformed_lines {
                1 => String::new(),
                more => format!(", the first of {}", counted(more, "such line")),
            }
        ));
    }
    if from == FromArg::Ledger && !paths.ledger.try_exists().unwrap_or(true) {
        warn(&format!(
            "there is no ledger at {}; an empty answer is all that can be given",
            paths.ledger.display()
        ));
    }
    if from == FromArg::Archive {
        // The records are printed already; only the lag may be unknown.
        warn_if_behind(paths).unwrap_or_else(|error| warn(&error.to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the program where options contradict the kind of record or each other; warns where one has no effect.
fn refuse_contradictions(args: &QueryArgs, from: FromArg) {
    let kind = args.kind;
    if from == FromArg::Ledger && kind.record().is_none() {
        wrong_usage(
            &["query"],
            "sessions, stamps and tool calls come from the archive: leave out --from ledger",
        );
    }
    if kind == KindArg::Stamps && !args.filters.source.is_empty() {
        wrong_usage(&["query"], "stamps have no source: leave out --source");
    }
    if from == FromArg::Archive && matches!(kind, KindArg::Relationships | KindArg::UserTurns) {
        wrong_usage(&["query"], "relationships and user turns are not archived: leave out --from archive");
    }
    if args.limit == Some(0) {
        wrong_usage(&["query"], "--limit must be at least 1");
    }
    if from == FromArg::Ledger && args.reverse && args.limit.is_none() {
        wrong_usage(
            &["query"],
            "--reverse from the ledger needs --limit N, because the newest records are the last ones read",
        );
    }
    let has_project = matches!(kind, KindArg::Turns | KindArg::Sessions | KindArg::ToolCalls);
    if !has_project && !args.filters.project.is_empty() {
        wrong_usage(
            &["query"],
            "only turns have a project, and with them tool calls and sessions: leave out --project, or ask for turns",
        );
    }
    if let Some(pair) = args.filters.tag.iter().find(|pair| !pair.contains('=')) {
        wrong_usage(&["query"], &format!("--tag: {pair:?} is no KEY=VALUE"));
    }
    if kind != KindArg::Turns && !args.filters.tag.is_empty() {
        warn("--tag is for turns and has no effect here: records are shown whatever stamps say");
    }
}

/// A time as a filter has it. Times before the year 0 and after the year 9999 have no text that sorts with those of records.
fn text_of(at: Instant) -> String {
    const FIRST: &str = "0000-01-01T00:00:00.000Z";
    const LAST: &str = "9999-12-31T23:59:59.999999999Z";
    match (Instant::of_turn(FIRST), Instant::of_turn(LAST)) {
        (Some(first), Some(last)) => at.clamp(first, last).to_rfc3339(),
        _ => at.to_rfc3339(),
    }
}

/// Whether the enrichment of a record has each pair, with some `=` as the end of the key.
fn has_all(document: &mut Document, record: &str, pairs: &[&String]) -> bool {
    let Ok(root) = document.parse(record.as_bytes()) else { return false };
    let Some(enrichment) = root.get("enrichment") else { return false };
    pairs.iter().all(|pair| {
        pair.match_indices('=').any(|(at, _)| {
            let found = enrichment.get(&pair[..at]).and_then(Value::as_js_str);
            Pattern::new(&pair[at + 1..]).matches(found.map(JsStr::as_wtf8))
        })
    })
}

pub(super) fn warn_if_behind(paths: &Paths) -> anyhow::Result<()> {
    let lag = archive::query::lag(paths)?;
    if !paths.ledger.try_exists().unwrap_or(true) {
        let ledger = paths.ledger.display();
        warn(&format!(
            "there is no ledger at {ledger}; its archive alone answers, and nothing can build it again"
        ));
        return Ok(());
    }
    match lag {
        Lag::Nothing => {}
        Lag::Lines(bytes) => warn(&format!(
            "the archive lacks the last {} of the ledger; `burn state rebuild archive` adds them",
            counted(bytes, "byte")
        )),
        Lag::Rebuild(why) => warn(&format!(
            "the archive has what the ledger no longer has, because {why}; `burn state rebuild archive` builds it again"
        )),
    }
    Ok(())
}

/// The number of rows of a table before the next table begins, because memory must not grow with the number of rows.
const TABLE_ROWS: usize = 500;
/// The bytes of cells of a table before the next table begins.
const TABLE_BYTES: usize = 1 << 20;

enum Form {
    Json { count: u64 },
    Lines,
    Table(Box<TableForm>),
}

/// A table under way.
struct TableForm {
    columns: Vec<QueryColumn>,
    totals: Totals,
    rows: Vec<Vec<String>>,
    /// Of the cells in `rows`.
    bytes: usize,
    /// Places of columns that some part of the table had no room for.
    left_out: Vec<usize>,
    document: Document,
}

impl TableForm {
    fn new(columns: Vec<QueryColumn>) -> Self {
        let totals = Totals::new(&columns);
        Self {
            columns,
            totals,
            rows: Vec::new(),
            bytes: 0,
            left_out: Vec::new(),
            document: Document::default(),
        }
    }

    fn add(&mut self, record: &str) {
        if let Ok(root) = self.document.parse(record.as_bytes()) {
            let row: Vec<_> = self.columns.iter().map(|column| column.cell(root)).collect();
            self.bytes += row.iter().map(String::len).sum::<usize>();
            self.totals.add(&row);
            self.rows.push(row);
        }
    }

    /// The lines of the rows so far.
    fn text(&mut self) -> String {
        let headings: Vec<Heading<'_>> = self.columns.iter().map(QueryColumn::heading).collect();
        let (text, left_out) = table::text_and_left_out(&headings, &self.rows);
        self.left_out.extend(left_out);
        self.left_out.sort_unstable();
        self.left_out.dedup();
        self.rows.clear();
        self.bytes = 0;
        text
    }
}

struct QueryOutput {
    out: BufWriter<io::StdoutLock<'static>>,
    form: Form,
    has_records: bool,
}

impl QueryOutput {
    fn new(args: &QueryArgs, columns: Vec<QueryColumn>) -> Self {
        let form = match (args.form.json, args.jsonl) {
            (true, _) => Form::Json { count: 0 },
            (_, true) => Form::Lines,
            _ => Form::Table(Box::new(TableForm::new(columns))),
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
            Form::Table(table) => {
                // Printed before the next row is added, so that the last piece, which has the totals, has rows.
                if table.rows.len() == TABLE_ROWS || table.bytes >= TABLE_BYTES {
                    writeln!(self.out, "{}", table.text())?;
                }
                table.add(record);
                Ok(())
            }
        }
    }

    /// After a failure, an array that has begun is left open, because an array has no place for the failure, and a document that
    /// does not parse is not mistaken for an answer.
    fn finish(mut self, is_answered: bool) -> io::Result<()> {
        if !is_answered && (!self.has_records || matches!(self.form, Form::Json { .. })) {
            return self.out.flush();
        }
        match self.form {
            Form::Json { count: 0 } => self.out.write_all(b"[]\n")?,
            Form::Json { .. } => self.out.write_all(b"\n]\n")?,
            Form::Lines => {}
            Form::Table(mut table) => {
                let is_terminal = io::stdout().is_terminal();
                // A pipe gets no totals, because another program reads the rows.
                if is_terminal && self.has_records {
                    table.rows.extend(table.totals.row());
                }
                if !table.rows.is_empty() {
                    self.out.write_all(table.text().as_bytes())?;
                }
                if !self.has_records {
                    warn("no records match; leave out conditions to see more");
                } else if !table.left_out.is_empty() {
                    let titles: Vec<&str> =
                        table.left_out.iter().map(|at| table.columns[*at].heading().title).collect();
                    self.out.flush()?;
                    warn(&format!("no room for {}; --columns chooses", titles.join(", ")));
                }
            }
        }
        self.out.flush()
    }
}

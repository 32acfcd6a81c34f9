//! `burn query`: records by time, session, source, project and enrichment, from the archive or from the ledger.
//!
//! May touch: archive and ledger, for reading, and standard output and error. Promises: nothing is changed; a record is printed
//! whole, on a line of its own, or not at all.

mod columns;
mod kind;

use std::collections::VecDeque;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::columns::{Column, Totals};
use self::kind::KindArg;
use super::table::{self, Heading};
use super::{STDOUT, counted, time, warn, wrong_usage};
use crate::archive::{self, Paths, query};
use crate::home::Home;
use crate::ledger::{Filter, Ledger, PassedOver, RecordOrder};
use crate::scan::json::{Document, Value};

#[derive(Debug, Args)]
#[command(after_help = "\
Turns, sessions, stamps and tool calls come from the archive, by time; the other kinds from the ledger, in its order. A table \
leaves out what a terminal has no room for; --json and --jsonl leave out nothing.

Examples:
  burn query turns --since 2026-04-20 --project acme/api
  burn query turns --enrichment tier=gold --jsonl
  burn query tool-result-events --session s1 --json
  burn query sessions --since 7d
  burn query turns --from ledger --jsonl")]
pub(super) struct QueryArgs {
    /// What to ask for.
    #[arg(value_enum)]
    kind: KindArg,
    /// Nothing before this time: 2026-04-20T10:15:00Z, 2026-04-20T10:15, 2026-04-20, 7d, 24h, 4w, today, yesterday.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Nothing after this time; records of the time itself are shown, of a date all of its day.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The time zone of times without an offset and of days [default: that of the system]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// This project or project key; for turns, tool calls and sessions.
    #[arg(long, allow_hyphen_values = true)]
    project: Option<String>,
    /// Records of this session; relationships with it on either end.
    #[arg(long, allow_hyphen_values = true)]
    session: Option<String>,
    /// Records of this source.
    #[arg(long, allow_hyphen_values = true)]
    source: Option<String>,
    /// Turns whose stamps say this; for turns alone, may be given several times.
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true, value_parser = with_equals_sign)]
    enrichment: Vec<String>,
    /// Where to look [default: archive for turns, ledger for other kinds]
    #[arg(long, value_enum)]
    from: Option<From>,
    /// At most so many records.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The newest first; from the ledger only with --limit.
    #[arg(long)]
    reverse: bool,
    /// Columns of the table: titles, or members such as usage.reasoning, with commas between them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with_all = ["json", "jsonl"])]
    columns: Option<Vec<String>>,
    /// Print one JSON document: an array.
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// Print one JSON record a line.
    #[arg(long)]
    jsonl: bool,
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
    let kind = args.kind;
    let is_turn = kind == KindArg::Turns;
    let is_in_archive_alone = kind.record().is_none();
    let usual = if is_turn || is_in_archive_alone { From::Archive } else { From::Ledger };
    let from = args.from.unwrap_or(usual);
    refuse_contradictions(&args, from);
    // Where there are several equals signs the key may end at each of them: all readings are tried on what is found.
    let (ambiguous, plain): (Vec<&String>, Vec<&String>) =
        args.enrichment.iter().partition(|pair| pair.matches('=').count() > 1);
    let [since, until] = time_ranges(&args);
    let [since, until] = [since.map(|range| range.since()), until.map(|range| range.until())];
    if let (Some(since), Some(until)) = (&since, &until)
        && since > until
    {
        warn(&format!("--since ({since}) is after --until ({until}): only records without a time are found"));
    }
    let filter = Filter {
        since,
        until,
        session: args.session.clone(),
        source: args.source.clone(),
        project: args.project.clone(),
        enrichment: plain.iter().filter_map(|pair| pair.split_once('=')).map(owned).collect(),
        order: if args.reverse { RecordOrder::NewestFirst } else { RecordOrder::OldestFirst },
    };
    let columns = match &args.columns {
        None => columns::usual(kind),
        Some(names) => columns::named(kind, names)
            .unwrap_or_else(|error| wrong_usage(&["query"], &format!("--columns: {error}"))),
    };
    let mut out = Output::new(&args, columns);
    let mut written: io::Result<()> = Ok(());
    let mut left = args.limit.unwrap_or(usize::MAX);
    // The ledger is read in its own order: of the newest records the last ones read are kept.
    let mut newest = (from == From::Ledger && args.reverse).then(VecDeque::new);
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
    let home = Home::from_env()?;
    let paths = Paths::of_home(&home);
    let asked: anyhow::Result<PassedOver> = match (from, kind.record()) {
        (From::Ledger, Some(kind)) => Ledger::new(home).query(kind, &filter, &mut sink).map_err(Into::into),
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
    if from == From::Ledger && !paths.ledger.try_exists().unwrap_or(true) {
        warn(&format!(
            "there is no ledger at {}; an empty answer is all that can be given",
            paths.ledger.display()
        ));
    }
    if from == From::Archive {
        // The answer stands; only how far behind it is may be unknown.
        warn_if_behind(&paths).unwrap_or_else(|error| warn(&error.to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the program where options contradict the kind of record or each other; warns where one has no effect.
fn refuse_contradictions(args: &QueryArgs, from: From) {
    let kind = args.kind;
    if from == From::Ledger && kind.record().is_none() {
        wrong_usage(
            &["query"],
            "sessions, stamps and tool calls come from the archive: leave out --from ledger",
        );
    }
    if kind == KindArg::Stamps && args.source.is_some() {
        wrong_usage(&["query"], "stamps have no source: leave out --source");
    }
    if from == From::Archive && matches!(kind, KindArg::Relationships | KindArg::UserTurns) {
        wrong_usage(&["query"], "relationships and user turns are not archived: leave out --from archive");
    }
    if args.limit == Some(0) {
        wrong_usage(&["query"], "--limit must be at least 1");
    }
    if from == From::Ledger && args.reverse && args.limit.is_none() {
        wrong_usage(
            &["query"],
            "--reverse from the ledger needs --limit N, because the newest records are the last ones read",
        );
    }
    let has_project = matches!(kind, KindArg::Turns | KindArg::Sessions | KindArg::ToolCalls);
    if !has_project && args.project.is_some() {
        wrong_usage(
            &["query"],
            "only turns have a project, and with them tool calls and sessions: leave out --project, or ask for turns",
        );
    }
    if kind != KindArg::Turns && !args.enrichment.is_empty() {
        warn("--enrichment is for turns and has no effect here: records are shown whatever stamps say");
    }
}

/// What `--since` and `--until` name.
fn time_ranges(args: &QueryArgs) -> [Option<time::Range>; 2] {
    let refused = |reason: String| -> ! { wrong_usage(&["query"], &reason) };
    let zone = time::zone(args.tz.as_deref()).unwrap_or_else(|reason| refused(reason));
    let now = jiff::Timestamp::now();
    [("--since", &args.since), ("--until", &args.until)].map(|(option, text)| {
        let range = time::Range::parse(text.as_deref()?, &zone, now);
        Some(range.unwrap_or_else(|reason| refused(format!("{option}: {reason}"))))
    })
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

pub(super) fn warn_if_behind(paths: &Paths) -> anyhow::Result<()> {
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
/// How many bytes of cells it has at most, with one row more.
const TABLE_BYTES: usize = 1 << 20;

enum Form {
    Json { count: u64 },
    Lines,
    Table(Box<TableForm>),
}

/// A table under way.
struct TableForm {
    columns: Vec<Column>,
    totals: Totals,
    rows: Vec<Vec<String>>,
    /// Of the cells in `rows`.
    bytes: usize,
    /// Places of columns that some part of the table had no room for.
    left_out: Vec<usize>,
    document: Document,
}

impl TableForm {
    fn new(columns: Vec<Column>) -> Self {
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
        let headings: Vec<Heading<'_>> = self.columns.iter().map(Column::heading).collect();
        let (text, left_out) = table::text_and_left_out(&headings, &self.rows);
        self.left_out.extend(left_out);
        self.left_out.sort_unstable();
        self.left_out.dedup();
        self.rows.clear();
        self.bytes = 0;
        text
    }
}

struct Output {
    out: BufWriter<io::StdoutLock<'static>>,
    form: Form,
    has_records: bool,
}

impl Output {
    fn new(args: &QueryArgs, columns: Vec<Column>) -> Self {
        let form = match (args.json, args.jsonl) {
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
                // Before the next row, so that the last piece, which has the totals, is never without rows.
                if table.rows.len() == TABLE_ROWS || table.bytes >= TABLE_BYTES {
                    writeln!(self.out, "{}", table.text())?;
                }
                table.add(record);
                Ok(())
            }
        }
    }

    /// Where the question failed, an array that has begun is left open: it has no place for the failure, and what does not
    /// parse is not taken for an answer.
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
                // Other programs that read a table get records alone.
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

//! `burn usage`: totals and costs by period and dimension, as text, CSV or one JSON document.
//!
//! May touch: the archive, which it brings up to date first when its lock is free; the ledger and `prices.json` of the home, for
//! reading.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::arguments::{AskedTimes, FilterArgs, FromArg, HomeArg, JsonArg, TimeArgs, now, patterns};
use super::ledgers::{LedgersArgs, OpenLedgers, Wanted};
use super::output::left_out_line;
use super::usage_text::{self, TableLook};
use super::{
    counted, human_bytes, interrupt, print, print_json, print_text, query, state, warn, wrong_usage,
};
use crate::archive::query::Lag;
use crate::archive::{self, ArchiveError, Options, Paths};
use crate::interrupt::Interrupt;
use crate::lock::{self, LockError};
use crate::usage::{
    self, Answer, Bound, DIMENSIONS_MAX, Dimension, Filters, Instant, LinesLeftOut, LowerBounds, Pattern,
    Period, Prices, Question, SortKey, Sums, UsageError, Usd,
};

#[derive(Debug, Args)]
#[command(after_help = "\
PERIOD is hour, day, week, month, session or block (5 hours). Without PERIOD, --by, bounds and filters: the last 7 days by day.

Dimensions: model, provider, project, source, session, subagent, activity, machine, tool, weekday, hour-of-day, tag:KEY.

Times: now, today, yesterday, this-week, last-week, this-month, last-month, this-year, last-year, 7d, 2w, 36h, 2026, 2026-11, \
2026-11-05, 2026-11-05T10:07, with Z or an offset. 7d is today and the six days before.

A filter with several values passes turns with any of them; different filters must all pass. x* matches a beginning, (none) matches turns \
without a value.

Examples:
  burn usage
  burn usage --since today --by model
  burn usage month --by provider,model --tz Europe/Berlin --csv
  burn usage --by tag:workflowId --since 30d --sort usd --limit 10
  burn usage day --since 2026-10-01 --until 2026-10-31 --explain")]
pub(super) struct UsageArgs {
    /// Add up turns by period: hour, day, week, month, session or block.
    period: Option<String>,
    /// Add up turns by dimension: at most 4, separated by commas or given again.
    #[arg(long, value_name = "DIM", value_delimiter = ',', allow_hyphen_values = true)]
    by: Vec<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Sort rows by period, usd, tokens, turns, a class of tokens or a dimension, :asc or :desc.
    #[arg(long, value_name = "KEY[:asc|:desc]")]
    sort: Option<String>,
    /// Print at most N rows, and one row for all others.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    limit: Option<String>,
    /// Also print empty hours, days, weeks and months, as rows of zeros.
    #[arg(long)]
    fill: bool,
    /// Print the current block of five hours: time left, tokens and cost a minute.
    #[arg(long)]
    active: bool,
    /// List the turns of each row, with their byte offsets in the ledger.
    #[arg(long)]
    explain: bool,
    /// Where to read turns [default: archive]
    #[arg(long, value_enum)]
    from: Option<FromArg>,
    /// Print all digits of tokens and costs.
    #[arg(long, conflicts_with_all = ["json", "csv"])]
    exact: bool,
    /// Print CSV.
    #[arg(long, conflicts_with_all = ["json", "explain"])]
    csv: bool,
    #[command(flatten)]
    form: JsonArg,
}

/// Which turns, in which zone, at which prices: what commands about usage have in common.
#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    #[command(flatten)]
    times: TimeArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Only turns of this model.
    #[arg(long, allow_hyphen_values = true)]
    model: Vec<String>,
    /// Only turns with the prices of this provider.
    #[arg(long, allow_hyphen_values = true)]
    provider: Vec<String>,
    /// Only turns of this type of sub-agent; `subagent` is a sub-agent without a type, `main` no sub-agent.
    #[arg(long, allow_hyphen_values = true)]
    subagent: Vec<String>,
    /// Only turns of this activity.
    #[arg(long, allow_hyphen_values = true)]
    activity: Vec<String>,
    /// Only turns whose stamps name this machine.
    #[arg(long, allow_hyphen_values = true)]
    machine: Vec<String>,
    /// Do not bring the archive up to date first.
    #[arg(long)]
    pub(super) no_build: bool,
    /// Search this price table first, instead of prices.json of the home.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    files: LedgersArgs,
    #[command(flatten)]
    pub(super) home: HomeArg,
}

fn refused(reason: impl std::fmt::Display) -> ! {
    refused_by("usage", reason)
}

fn refused_by(command: &str, reason: impl std::fmt::Display) -> ! {
    wrong_usage(&[command], &reason.to_string())
}

pub(super) fn run(args: UsageArgs) -> anyhow::Result<ExitCode> {
    let now = now();
    let mut question = question(&args, now);
    let prices = args.selection.prices()?;
    let from = args.from.unwrap_or(FromArg::Archive);
    let interrupt = interrupt::watch();
    let ledgers = args.selection.ledgers("usage", from, &interrupt)?;
    let paths = &ledgers.paths;
    if from == FromArg::Archive && !args.selection.no_build {
        bring_up_to_date(paths, &interrupt)?;
    }
    let ask = |question: &Question| -> Result<Answer, UsageError> {
        match from {
            FromArg::Archive => usage::ask(paths, question, &prices, &interrupt),
            FromArg::Ledger => usage::ask_ledger(paths, question, &prices, &interrupt),
        }
    };
    let mut answer = ask(&question)?;
    let mut active = None;
    if args.active {
        let holds = |row: &&usage::AnswerRow| {
            let period = row.period.as_ref();
            period.is_some_and(|period| {
                period.start.is_some_and(|start| start <= now) && period.end.is_some_and(|end| now < end)
            })
        };
        let Some(period) = answer.rows.iter().find(holds).and_then(|row| row.period.clone()) else {
            if !args.form.json && !args.csv {
                warn("no block is under way");
                return Ok(ExitCode::SUCCESS);
            }
            let nothing = Answer {
                rows: Vec::new(),
                total: Sums::default(),
                cache_saved: Usd::ZERO,
                lower_bounds: LowerBounds::default(),
                unpriced: Vec::new(),
                undated_left_out: 0,
                last: None,
                invalid_turns: 0,
                other_rows: None,
                ..answer
            };
            return print_answer(&args, &nothing, now, None);
        };
        question.since = period.start;
        question.until = Some(now);
        answer = ask(&question)?;
        active = Some(period);
    }
    if answer.total.turns == 0 && !question.filters.is_empty() {
        let all = Question { filters: Filters::default(), explain: false, ..question.clone() };
        let turns = ask(&all)?.total.turns;
        let are = if turns == 1 { "is" } else { "are" };
        warn(&format!("no turn passes the filters; there {are} {} without them", counted(turns, "turn")));
    }
    print_answer(&args, &answer, now, active.as_ref())?;
    match from {
        FromArg::Archive => query::warn_if_behind(paths).unwrap_or_else(|error| warn(&error.to_string())),
        FromArg::Ledger => warn_of_left_out(&paths.ledger, &answer.lines_left_out),
    }
    Ok(ExitCode::SUCCESS)
}

fn warn_of_left_out(ledger: &Path, lines: &LinesLeftOut) {
    let Some(first) = &lines.first else { return };
    warn(&left_out_line(ledger, first));
    if lines.count > 1 {
        let more = counted(lines.count - 1, "more line");
        warn(&format!("and {more} left out; `burn ledger check` names every line that is wrong"));
    }
}

fn print_answer(
    args: &UsageArgs,
    answer: &Answer,
    now: Instant,
    active: Option<&usage::RowPeriod>,
) -> anyhow::Result<ExitCode> {
    if args.form.json {
        print_json(answer)?;
    } else if args.csv {
        let text = usage_text::csv(answer);
        // A terminal would obey what a name holds; a program gets it as it is.
        if std::io::stdout().is_terminal() { print_text(&text)? } else { print(text.as_bytes())? }
    } else {
        let look = TableLook::of_terminal(args.exact, std::io::stdout().is_terminal());
        let mut text = usage_text::table(answer, now, &look);
        if let Some(period) = active {
            text.push_str(&usage_text::active(answer, period, now));
        }
        print(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A build of so many bytes takes a moment that a reader notices.
const NOTICED_BYTES: u64 = 32 << 20;

/// Adds new lines of the ledger to the archive, unless another process builds it. Waits for a process that builds the first
/// archive.
pub(super) fn bring_up_to_date(paths: &Paths, interrupt: &Interrupt) -> anyhow::Result<()> {
    catch_up(paths, NOTICED_BYTES, interrupt)
}

/// As [`bring_up_to_date`]. A build of `noticed_bytes` of the ledger or more is announced.
pub(super) fn catch_up(paths: &Paths, noticed_bytes: u64, interrupt: &Interrupt) -> anyhow::Result<()> {
    let has_ledger = paths.ledger.try_exists().unwrap_or(true);
    let has_archive = paths.archive.try_exists().unwrap_or(true);
    if !has_ledger {
        if paths.ledger.is_symlink() {
            anyhow::bail!(
                "{} is a link to a file that is not there; put the file back, or move the link away",
                paths.ledger.display()
            );
        }
        if !has_archive {
            anyhow::bail!(
                "there is neither an archive nor a ledger at {}: nothing was used, or it was not recorded; `burn ingest` and \
                 `burn ledger append` record it",
                paths.ledger.display()
            );
        }
        return Ok(());
    }
    let ledger_bytes = || std::fs::metadata(&paths.ledger).map_or(0, |ledger| ledger.len());
    let (unread_bytes, why) = match archive::query::lag(paths) {
        Ok(Lag::Nothing) => return Ok(()),
        Ok(Lag::Lines(bytes)) => (bytes, "out of date"),
        Ok(Lag::Rebuild(_)) => (ledger_bytes(), "of another ledger"),
        Err(ArchiveError::Missing { .. }) => (ledger_bytes(), "missing"),
        // The question itself says what is wrong.
        Err(_) => return Ok(()),
    };
    if lock::is_held(&paths.lock) {
        if has_archive {
            return Ok(());
        }
        warn(&format!("another process builds {}, which is waited for", paths.archive.display()));
    } else if unread_bytes >= noticed_bytes {
        let bytes = human_bytes(unread_bytes);
        warn(&format!("{} is {why}: {bytes} of the ledger are read into it first", paths.archive.display()));
    }
    let options = Options { interrupt: interrupt.clone(), ..Options::default() };
    loop {
        let error = match state::build(paths, None, |observer| archive::build_tail(paths, &options, observer))
        {
            Ok(result) => return state::exit_code(paths, &result).map(drop),
            Err(error) => error,
        };
        let has_archive = paths.archive.try_exists().unwrap_or(true);
        match error.downcast_ref() {
            Some(ArchiveError::Interrupted) => return Err(error),
            // A wait for a lock ends after seconds, and a first build may take longer.
            Some(ArchiveError::Lock(LockError::Held { ahead, .. })) if !has_archive && ahead.is_zero() => {}
            _ if !has_archive => return Err(error),
            _ => {
                warn(&format!("the archive was not brought up to date: {error}"));
                return Ok(());
            }
        }
    }
}

fn question(args: &UsageArgs, now: Instant) -> Question {
    let mut period = args.period.as_deref().map(|word| {
        Period::named(word).unwrap_or_else(|| {
            refused(format!("{word:?} is no period; write hour, day, week, month, session or block"))
        })
    });
    if args.active {
        if period.is_some_and(|period| period != Period::Block) {
            refused("--active is for blocks");
        }
        period = Some(Period::Block);
    }
    let by: Vec<Dimension> = args
        .by
        .iter()
        .map(|word| {
            Dimension::named(word).unwrap_or_else(|| {
                refused(format!(
                    "{word:?} is no dimension; write model, provider, project, source, session, subagent, activity, \
                     machine, tool, weekday, hour-of-day or tag:KEY"
                ))
            })
        })
        .collect();
    if by.len() > DIMENSIONS_MAX {
        refused(format!("--by takes at most {DIMENSIONS_MAX} dimensions, not {}", by.len()));
    }
    if let Some(place) = (1..by.len()).find(|place| by[..*place].contains(&by[*place])) {
        refused(format!("--by names {} twice", by[place].name()));
    }
    let mut selected = args.selection.question("usage", now);
    let is_bound = selected.since.is_some() || selected.until.is_some();
    if period.is_none() && by.is_empty() && !is_bound && selected.filters.is_empty() {
        period = Some(Period::Day);
        selected.since = Bound::Since.parse("7d", &selected.zone, selected.week_start, now).ok();
    }
    if args.explain && args.active {
        refused("--explain is not for --active");
    }
    if args.fill && !matches!(period, Some(Period::Hour | Period::Day | Period::Week | Period::Month)) {
        warn("--fill only has an effect on rows of hours, days, weeks and months");
    }
    let limit = args.limit.as_ref().map(|text| {
        let number = text.parse::<usize>().ok().filter(|limit| *limit > 0);
        number.unwrap_or_else(|| refused(format!("--limit: {text:?} is no number of rows from 1")))
    });
    let sort = args.sort.as_ref().map(|text| sort(text, period, &by));
    Question { period, by, sort, limit, fill: args.fill, explain: args.explain, ..selected }
}

impl SelectionArgs {
    /// The table to ask first: the one that is named, else that of the home.
    pub(super) fn prices(&self) -> anyhow::Result<Prices> {
        Ok(match &self.prices {
            Some(path) => Prices::with_own(path)?,
            None => Prices::of_home(&self.home.home()?)?,
        })
    }

    /// Ledger and archive, made by merging if several ledgers are named.
    pub(super) fn ledgers(
        &self,
        command: &str,
        from: FromArg,
        interrupt: &Interrupt,
    ) -> anyhow::Result<OpenLedgers> {
        let wanted = match from {
            FromArg::Archive if self.no_build => Wanted::AsItIs,
            FromArg::Archive => Wanted::Archive,
            FromArg::Ledger => Wanted::Ledger,
        };
        self.files.open(&self.home, wanted, &[command], || interrupt.clone())
    }

    /// The question about these turns. What makes no sense ends the program with the usage of `command`.
    pub(super) fn question(&self, command: &str, now: Instant) -> Question {
        let times = self.times.read(command, now);
        if let Some([since, until]) = times.reversed() {
            refused_by(command, format!("--since is after --until: {since} and {until}"));
        }
        let AskedTimes { since, until, zone, week_start } = times;
        let filters = self.filters(command);
        Question {
            zone,
            week_start,
            since,
            until,
            filters,
            threads: self.threads.map_or(0, usize::from),
            ..Question::default()
        }
    }

    fn filters(&self, command: &str) -> Filters {
        let tag = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key.to_owned(), Pattern::new(value)),
            _ => refused_by(command, format!("--tag: {text:?} is no KEY=VALUE")),
        };
        Filters {
            model: patterns(&self.model),
            provider: patterns(&self.provider),
            project: patterns(&self.filters.project),
            source: patterns(&self.filters.source),
            session: patterns(&self.filters.session),
            subagent: patterns(&self.subagent),
            activity: patterns(&self.activity),
            machine: patterns(&self.machine),
            tag: self.filters.tag.iter().map(tag).collect(),
        }
    }
}

/// What rows are ordered by, and whether it descends.
fn sort(text: &str, period: Option<Period>, by: &[Dimension]) -> (SortKey, bool) {
    let (name, is_descending) = match text.rsplit_once(':') {
        Some((name, "asc")) => (name, Some(false)),
        Some((name, "desc")) => (name, Some(true)),
        _ => (text, None),
    };
    let (key, usual) = match name {
        "period" if period.is_some() => (SortKey::Period, false),
        "usd" => (SortKey::Usd, true),
        "tokens" => (SortKey::Tokens, true),
        "turns" => (SortKey::Turns, true),
        name => {
            let count = Sums::COUNTS.iter().position(|count| *count == name);
            let dimension = || by.iter().position(|dimension| dimension.name() == name);
            match count {
                Some(place) => (SortKey::Count(place), true),
                None => match dimension() {
                    Some(place) => (SortKey::Dimension(place), false),
                    None if name == "period" => refused("--sort period needs a PERIOD, such as day"),
                    None => refused(format!(
                        "--sort: {name:?} is none of period, usd, tokens, turns, {}, and no dimension of --by",
                        Sums::COUNTS.join(", ")
                    )),
                },
            }
        }
    };
    (key, is_descending.unwrap_or(usual))
}

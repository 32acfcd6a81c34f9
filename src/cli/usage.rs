//! `burn usage`: totals and costs by period and dimension, as text, CSV or one JSON document.
//!
//! May touch: the archive, which it brings up to date first when its lock is free; the ledger and `prices.json` of the home, for
//! reading.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::usage_text::{self, Look};
use super::{counted, interrupt, print, print_json, query, warn, wrong_usage};
use crate::archive::{self, ArchiveError, Options, Paths, Unobserved};
use crate::home::Home;
use crate::interrupt::Interrupt;
use crate::usage::{
    self, Answer, Bound, DIMENSIONS_MAX, Dimension, Filters, Instant, Pattern, Period, Prices, PricesError,
    Question, SortKey, Sums, UsageError, WeekStart, Zone,
};

#[derive(Debug, Args)]
#[command(after_help = "\
PERIOD is hour, day, week, month, session or block (5 hours). Without PERIOD, --by, bounds and filters: the last 7 days by day.

Dimensions: model, provider, project, source, session, subagent, activity, machine, tool, weekday, hour-of-day, tag:KEY.

Times: now, today, yesterday, this-week, last-week, this-month, last-month, this-year, last-year, 7d, 2w, 36h, 2026, 2026-11, \
2026-11-05, 2026-11-05T10:07, with Z or an offset. 7d is today and the six days before.

Filters given again mean any of them; different ones mean all of them. x* is a beginning, (none) is no value.

Examples:
  burn usage
  burn usage --since today --by model
  burn usage month --by provider,model --tz Europe/Berlin --csv
  burn usage --by tag:workflowId --since 30d --sort usd --limit 10
  burn usage day --since 2026-10-01 --until 2026-10-31 --explain")]
pub(super) struct UsageArgs {
    /// What turns are put together by: hour, day, week, month, session, block.
    period: Option<String>,
    /// What rows are told apart by, at most 4, with commas between them or given again.
    #[arg(long, value_name = "DIM", value_delimiter = ',', allow_hyphen_values = true)]
    by: Vec<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Order rows by period, usd, tokens, turns, a class of tokens or a dimension, :asc or :desc.
    #[arg(long, value_name = "KEY[:asc|:desc]")]
    sort: Option<String>,
    /// So many rows, and one for all others.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    limit: Option<String>,
    /// Rows of zeros for empty hours, days, weeks and months.
    #[arg(long)]
    fill: bool,
    /// The block of five hours that is under way: time left, tokens and cost a minute.
    #[arg(long)]
    active: bool,
    /// Name the turns behind each row, by their bytes in the ledger.
    #[arg(long)]
    explain: bool,
    /// Where turns come from [default: archive]
    #[arg(long, value_enum)]
    from: Option<From>,
    /// All digits of tokens and costs.
    #[arg(long, conflicts_with_all = ["json", "csv"])]
    exact: bool,
    /// Print CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Which turns, in which zone, at which prices: what commands about usage have in common.
#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// Nothing before this time.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Nothing after this time; a day, a week, a month and a year are meant with their end.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// The time zone of days and hours: Europe/Berlin, UTC, local, +05:45 [default: that of the system]
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true)]
    tz: Option<String>,
    /// The first day of a week: monday, sunday, saturday [default: monday]
    #[arg(long, value_name = "DAY")]
    week_start: Option<String>,
    /// Turns of this model.
    #[arg(long, allow_hyphen_values = true)]
    model: Vec<String>,
    /// Turns priced at this provider.
    #[arg(long, allow_hyphen_values = true)]
    provider: Vec<String>,
    /// Turns of this project or project key.
    #[arg(long, allow_hyphen_values = true)]
    project: Vec<String>,
    /// Turns of this source.
    #[arg(long, allow_hyphen_values = true)]
    source: Vec<String>,
    /// Turns of this session.
    #[arg(long, allow_hyphen_values = true)]
    session: Vec<String>,
    /// Turns of this type of subagent, of `subagent`, or of `main`.
    #[arg(long, allow_hyphen_values = true)]
    subagent: Vec<String>,
    /// Turns of this activity.
    #[arg(long, allow_hyphen_values = true)]
    activity: Vec<String>,
    /// Turns whose stamps name this machine.
    #[arg(long, allow_hyphen_values = true)]
    machine: Vec<String>,
    /// Turns whose stamps say this.
    #[arg(long, value_name = "KEY=VALUE", alias = "enrichment", allow_hyphen_values = true)]
    tag: Vec<String>,
    /// Do not bring the archive up to date first.
    #[arg(long)]
    pub(super) no_build: bool,
    /// A price table to ask first, instead of prices.json of the home.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(super) threads: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// archive.sqlite: fast.
    Archive,
    /// ledger.jsonl: no archive is needed.
    Ledger,
}

fn refused(reason: impl std::fmt::Display) -> ! {
    refused_by("usage", reason)
}

fn refused_by(command: &str, reason: impl std::fmt::Display) -> ! {
    wrong_usage(&[command], &reason.to_string())
}

/// Now; tests set it.
pub(super) fn now() -> Instant {
    let set = std::env::var("BURN_NOW").ok().and_then(|text| Instant::of_turn(&text));
    set.unwrap_or_else(|| {
        let now = jiff::Timestamp::now();
        Instant { seconds: now.as_second(), nanos: now.subsec_nanosecond().unsigned_abs() }
    })
}

pub(super) fn run(args: UsageArgs) -> anyhow::Result<ExitCode> {
    let now = now();
    let mut question = question(&args, now);
    let home = Home::from_env()?;
    let paths = Paths::of_home(&home);
    let prices = args.selection.prices(&home)?;
    let from = args.from.unwrap_or(From::Archive);
    let interrupt = interrupt::watch();
    if from == From::Archive && !args.selection.no_build {
        bring_up_to_date(&paths, &interrupt)?;
    }
    let ask = |question: &Question| -> Result<Answer, UsageError> {
        match from {
            From::Archive => usage::ask(&paths, question, &prices, &interrupt),
            From::Ledger => usage::ask_ledger(&paths, question, &prices, &interrupt),
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
            if !args.json && !args.csv {
                warn("no block is under way");
                return Ok(ExitCode::SUCCESS);
            }
            answer.rows.clear();
            answer.total = Sums::default();
            return print_answer(&args, &answer, now, None);
        };
        question.since = period.start;
        question.until = Some(now);
        answer = ask(&question)?;
        active = Some(period);
    }
    if answer.total.turns == 0 && !question.filters.is_empty() {
        let all = Question { filters: Filters::default(), explain: false, ..question.clone() };
        let turns = ask(&all)?.total.turns;
        warn(&format!("no turn passes the filters; there are {} without them", counted(turns, "turn")));
    }
    print_answer(&args, &answer, now, active.as_ref())?;
    if from == From::Archive {
        query::warn_if_behind(&paths).unwrap_or_else(|error| warn(&error.to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_answer(
    args: &UsageArgs,
    answer: &Answer,
    now: Instant,
    active: Option<&usage::RowPeriod>,
) -> anyhow::Result<ExitCode> {
    if args.json {
        print_json(answer)?;
    } else if args.csv {
        print(usage_text::csv(answer).as_bytes())?;
    } else {
        let look = Look::of_terminal(args.exact, std::io::stdout().is_terminal());
        let mut text = usage_text::table(answer, now, &look);
        if let Some(period) = active {
            text.push_str(&usage_text::active(answer, period, now));
        }
        print(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads into the archive what the ledger has more, if nobody else builds it.
pub(super) fn bring_up_to_date(paths: &Paths, interrupt: &Interrupt) -> anyhow::Result<()> {
    let has_ledger = paths.ledger.try_exists().unwrap_or(true);
    let has_archive = paths.archive.try_exists().unwrap_or(true);
    if !has_ledger {
        if !has_archive {
            anyhow::bail!(
                "there is neither an archive nor a ledger at {}: nothing was used, or it was not recorded; `burn ingest` and \
                 `burn ledger append` record it",
                paths.ledger.display()
            );
        }
        return Ok(());
    }
    let is_behind = match archive::query::lag_bytes(paths) {
        Ok(bytes) => bytes > 0,
        Err(ArchiveError::Missing { .. }) => true,
        // The question itself says what is wrong.
        Err(_) => return Ok(()),
    };
    if !is_behind || paths.lock.try_exists().unwrap_or(true) {
        return Ok(());
    }
    let options = Options { interrupt: interrupt.clone(), ..Options::default() };
    match archive::build_tail(paths, &options, &mut Unobserved) {
        Ok(_) => Ok(()),
        Err(error @ ArchiveError::Interrupted) => Err(error.into()),
        Err(error) if !has_archive => Err(error.into()),
        Err(error) => {
            warn(&format!("the archive was not brought up to date: {error}"));
            Ok(())
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
    let limit = args.limit.as_ref().map(|text| {
        let number = text.parse::<usize>().ok().filter(|limit| *limit > 0);
        number.unwrap_or_else(|| refused(format!("--limit: {text:?} is no number of rows from 1")))
    });
    let sort = args.sort.as_ref().map(|text| sort(text, period, &by));
    Question { period, by, sort, limit, fill: args.fill, explain: args.explain, ..selected }
}

impl SelectionArgs {
    /// The table to ask first: the one that is named, else that of the home.
    pub(super) fn prices(&self, home: &Home) -> Result<Prices, PricesError> {
        match &self.prices {
            Some(path) => Prices::with_own(path),
            None => Prices::of_home(home),
        }
    }

    /// The question about these turns. What makes no sense ends the program with the usage of `command`.
    pub(super) fn question(&self, command: &str, now: Instant) -> Question {
        let refused = |reason: String| -> ! { refused_by(command, reason) };
        let zone = match &self.tz {
            None => Zone::local(),
            Some(name) => Zone::named(name).unwrap_or_else(|reason| refused(format!("--tz: {reason}"))),
        };
        let week_start = match self.week_start.as_deref() {
            None | Some("monday") => WeekStart::Monday,
            Some("sunday") => WeekStart::Sunday,
            Some("saturday") => WeekStart::Saturday,
            Some(other) => refused(format!("--week-start: {other:?} is none of monday, sunday, saturday")),
        };
        let bound = |bound: Bound, option: &str, text: &Option<String>| {
            let parse = |text: &String| bound.parse(text, &zone, week_start, now);
            text.as_ref()
                .map(|text| parse(text).unwrap_or_else(|reason| refused(format!("{option}: {reason}"))))
        };
        let since = bound(Bound::Since, "--since", &self.since);
        let until = bound(Bound::Until, "--until", &self.until);
        if let (Some(first), Some(last)) = (since, until)
            && first > last
        {
            refused(format!(
                "--since is after --until: {} and {}",
                first.to_rfc3339_nanos(),
                last.to_rfc3339_nanos()
            ));
        }
        let filters = self.filters(command);
        Question { zone, week_start, since, until, filters, threads: self.threads, ..Question::default() }
    }

    fn filters(&self, command: &str) -> Filters {
        let patterns = |texts: &[String]| texts.iter().map(Pattern::new).collect();
        let tag = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key.to_owned(), Pattern::new(value)),
            _ => refused_by(command, format!("--tag: {text:?} is no KEY=VALUE")),
        };
        Filters {
            model: patterns(&self.model),
            provider: patterns(&self.provider),
            project: patterns(&self.project),
            source: patterns(&self.source),
            session: patterns(&self.session),
            subagent: patterns(&self.subagent),
            activity: patterns(&self.activity),
            machine: patterns(&self.machine),
            tag: self.tag.iter().map(tag).collect(),
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

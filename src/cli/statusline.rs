//! `burn statusline`: one line for Claude Code's `statusLine` command.
//!
//! Touches the archive and the end of the ledger, for reading; with `--import` the ledger, through [`Ingest::import_part`]. Guarantees: whatever
//! the input and the home, one line, exit code 0, nothing on standard error, and 100 ms at most: what is not known by then is left
//! out. `--check` says what is wrong instead. An import is a process of its own, so nobody waits for it.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant as Clock};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::arguments::{HomeArg, now, zone};
use super::{print_text, printable, usage_text, wrong_usage};
use crate::agents::{HookCall, Ingest, IngestOptions};
use crate::archive::Paths;
use crate::home::{Home, NoHome};
use crate::interrupt::Interrupt;
use crate::lock;
use crate::usage::shown::{cost, dollars};
use crate::usage::{
    self, ActiveBlock, Bound, Filters, Instant, Pattern, Prices, Question, Sums, WeekStart, Zone,
};

/// After this time the line is printed with the parts that are known.
const DEADLINE: Duration = Duration::from_millis(100);
/// How much of the input is read.
const INPUT_MAX_BYTES: u64 = 16 << 20;
/// The parts of a line, in the order in which they are shown.
const PARTS: [&str; 10] =
    ["session", "today", "month", "block", "ctx", "5h", "7d", "spend", "model", "project"];
/// An import ends after this time; the next one goes on.
const IMPORT_MAX: Duration = Duration::from_millis(200);
/// An import is asked to end this long before its limit, because it has locks to release.
const IMPORT_GRACE: Duration = Duration::from_millis(50);
/// An import reads for so long. The rest of its time is for appending the records.
const IMPORT_READS: Duration = Duration::from_millis(60);

#[derive(Debug, Args)]
#[command(after_help = "\
Standard input is the JSON document that Claude Code gives its status line. Parts: session, today, month, block, ctx, 5h, 7d, spend, model, project.

Examples:
  burn statusline --show session,today,5h
  burn statusline --format '{model}: {session}, {today}' --color
  burn statusline --import
  burn statusline --check < input.json")]
pub(super) struct StatuslineArgs {
    /// The parts to print, separated by commas.
    #[arg(long, value_name = "PART", value_delimiter = ',', default_value = "session,today,ctx,5h,7d,spend")]
    show: Vec<String>,
    /// A text with parts in braces, instead of --show.
    #[arg(long, value_name = "TEXT", conflicts_with = "show")]
    format: Option<String>,
    /// Print percentages of at least --limit-warn in yellow.
    #[arg(long)]
    color: bool,
    /// The percentage from which on --color applies.
    #[arg(long, value_name = "PERCENT", default_value_t = 80.0, value_parser = percent)]
    limit_warn: f64,
    /// The time zone of days and months: Europe/Berlin, UTC, local, +05:45 [default: that of the system]
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true)]
    tz: Option<String>,
    /// After the line, append the new lines of the session's log to the ledger, unless a process builds the archive.
    #[arg(long, conflicts_with = "check")]
    import: bool,
    /// Only import; for the process that --import starts.
    #[arg(long, hide = true)]
    import_alone: bool,
    /// Report what is wrong with the input and the home.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    home: HomeArg,
}

pub(super) fn run(args: StatuslineArgs) -> anyhow::Result<ExitCode> {
    if args.import_alone {
        import(&args.home);
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = Clock::now() + deadline();
    let parts = args.parts();
    let zone = zone(args.tz.as_deref(), "statusline");
    let wants = |wanted: &str| parts.iter().any(|part| part == wanted);
    let work = LineWork {
        home: args.home.home(),
        zone,
        now: now(),
        wants_costs: args.check || ["session", "today", "month"].into_iter().any(wants),
        wants_month: wants("month"),
        wants_block: wants("block"),
    };
    let (sender, receiver) = channel();
    if args.check {
        work.run(&sender);
        drop(sender);
        return check(&receiver);
    }
    // A failure of the thread is a part that is not known.
    std::panic::set_hook(Box::new(|_| {}));
    let now = work.now;
    let spawned = std::thread::Builder::new().spawn(move || work.run(&sender));
    let known =
        if spawned.is_ok() { KnownSoFar::receive(&receiver, deadline) } else { KnownSoFar::default() };
    let line = args.line(&parts, &known, now);
    let mut out = std::io::stdout().lock();
    // Nobody may be left to read it.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    if let (true, Ok(home)) = (args.import, args.home.home()) {
        start_import(&known.text, &home);
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the import of the session that the input names, and does not wait. The next import repeats what failed.
fn start_import(input: &[u8], home: &Home) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    command.args(["statusline", "--import-alone", "--home"]).arg(home.root()).stdin(Stdio::piped());
    let Ok(mut child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else { return };
    // The child may have nothing to do.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
}

/// Imports the log of the session that the input names. Does nothing if a lock is held, the input names no session, or the log
/// cannot be read, because nobody reads a message.
fn import(home: &HomeArg) {
    let started = Clock::now();
    let Ok(home) = home.home() else { return };
    if lock::is_held(&Paths::of_home(&home).lock) {
        return;
    }
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(INPUT_MAX_BYTES).read_to_end(&mut input);
    let Some(call) = read.ok().and_then(|_| HookCall::parse(&input).ok()).flatten() else { return };
    let interrupt = Interrupt::new();
    let (sender, done) = channel::<()>();
    let worker = {
        let interrupt = interrupt.clone();
        move || {
            // Nobody hears of a failure, and the next import tries again.
            let mut ingest = Ingest::new(home, IngestOptions::default());
            let _ = ingest.import_part(&call, started + IMPORT_READS, &interrupt);
            drop(sender);
        }
    };
    std::panic::set_hook(Box::new(|_| {}));
    if std::thread::Builder::new().spawn(worker).is_err() {
        return;
    }
    let wait = |until: Duration| done.recv_timeout(until.saturating_sub(started.elapsed()));
    if wait(IMPORT_MAX - IMPORT_GRACE) == Err(RecvTimeoutError::Timeout) {
        interrupt.request();
        let _ = wait(IMPORT_MAX);
    }
}

/// How long the line may take; tests on slow machines set it, in milliseconds.
fn deadline() -> Duration {
    let set = std::env::var("BURN_DEADLINE_MS").ok().and_then(|text| text.parse().ok());
    set.map_or(DEADLINE, Duration::from_millis)
}

/// Says what is wrong; exit code 1 if anything is.
fn check(receiver: &Receiver<LineMessage>) -> anyhow::Result<ExitCode> {
    let problems: Vec<String> = receiver
        .iter()
        .filter_map(|message| match message {
            LineMessage::Wrong(problem) => Some(format!("{problem}\n")),
            _ => None,
        })
        .collect();
    if problems.is_empty() {
        print_text("nothing is wrong\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    print_text(&problems.concat())?;
    Ok(ExitCode::FAILURE)
}

/// What becomes known, in the order in which it does.
enum LineMessage {
    Input { text: Vec<u8>, value: Value },
    Costs(Box<Costs>),
    Block(ActiveBlock),
    Wrong(String),
}

/// What turns cost, as far as it was asked.
#[derive(Default)]
struct Costs {
    session: Option<Sums>,
    today: Option<Sums>,
    month: Option<Sums>,
    is_behind: bool,
}

struct LineWork {
    home: Result<Home, NoHome>,
    zone: Zone,
    now: Instant,
    wants_costs: bool,
    wants_month: bool,
    wants_block: bool,
}

impl LineWork {
    /// Reads the input, then the home. A message that nobody receives any more does not matter.
    fn run(&self, to: &Sender<LineMessage>) {
        let mut input = Vec::new();
        let read = std::io::stdin().lock().take(INPUT_MAX_BYTES).read_to_end(&mut input);
        let parsed = read.map_err(|error| error.to_string()).and_then(|_| {
            serde_json::from_slice::<Value>(&input).map_err(|error| format!("it is no JSON: {error}"))
        });
        let mut session = None;
        match parsed {
            Ok(value) => {
                session = value["session_id"].as_str().map(str::to_owned);
                if session.is_none() {
                    let _ = to.send(LineMessage::Wrong(
                        "the input has no session_id, so no session is shown".to_owned(),
                    ));
                }
                let _ = to.send(LineMessage::Input { text: input, value });
            }
            Err(reason) => {
                let _ = to.send(LineMessage::Wrong(format!("the input cannot be used: {reason}")));
            }
        }
        if self.wants_costs {
            let costs = self.costs(session.as_deref());
            let _ = to.send(costs.map_or_else(
                |error| LineMessage::Wrong(error.to_string()),
                |costs| LineMessage::Costs(Box::new(costs)),
            ));
        }
        if self.wants_block {
            match self.block() {
                Ok(Some(block)) => drop(to.send(LineMessage::Block(block))),
                Ok(None) => {}
                Err(error) => drop(to.send(LineMessage::Wrong(error.to_string()))),
            }
        }
    }

    fn costs(&self, session: Option<&str>) -> anyhow::Result<Costs> {
        let home = self.home.as_ref().map_err(Clone::clone)?;
        let paths = Paths::of_home(home);
        let is_there =
            |path: &Path| path.try_exists().with_context(|| format!("cannot look at {}", path.display()));
        if !is_there(&paths.archive)? && !is_there(&paths.ledger)? {
            anyhow::bail!(
                "there is neither an archive nor a ledger in {}; `burn ingest` makes one",
                home.root().display()
            );
        }
        let prices = Prices::of_home(home)?;
        let since = |text: &str| Bound::Since.parse(text, &self.zone, WeekStart::Monday, self.now).ok();
        let base = Question { zone: self.zone.clone(), threads: 1, ..Question::default() };
        let mut questions = vec![Question { since: since("today"), ..base.clone() }];
        questions.extend(session.map(|id| Question {
            filters: Filters { session: vec![Pattern::exact(id)], ..Filters::default() },
            ..base.clone()
        }));
        if self.wants_month {
            questions.push(Question { since: since("this-month"), ..base });
        }
        let glance = usage::glance(&paths, &questions, &prices, &Interrupt::new())?;
        let mut sums = glance.sums.into_iter();
        Ok(Costs {
            today: sums.next(),
            session: session.and_then(|_| sums.next()),
            month: sums.next(),
            is_behind: glance.is_behind,
        })
    }

    /// The block that is under way. It may take longer than the other parts, because it depends on turns of many days.
    fn block(&self) -> anyhow::Result<Option<ActiveBlock>> {
        let home = self.home.as_ref().map_err(Clone::clone)?;
        let prices = Prices::of_home(home)?;
        Ok(usage::active_block(&Paths::of_home(home), &prices, self.now, &Interrupt::new())?)
    }
}

/// What is known when the line is printed.
#[derive(Default)]
struct KnownSoFar {
    /// The input as it came.
    text: Vec<u8>,
    input: Value,
    costs: Costs,
    block: Option<ActiveBlock>,
}

impl KnownSoFar {
    fn receive(receiver: &Receiver<LineMessage>, deadline: Clock) -> Self {
        let mut known = Self::default();
        while let Ok(message) = receiver.recv_timeout(deadline.saturating_duration_since(Clock::now())) {
            match message {
                LineMessage::Input { text, value } => (known.text, known.input) = (text, value),
                LineMessage::Costs(costs) => known.costs = *costs,
                LineMessage::Block(block) => known.block = Some(block),
                LineMessage::Wrong(_) => {}
            }
        }
        known
    }
}

impl StatuslineArgs {
    /// The parts that are asked for; others end the program.
    fn parts(&self) -> Vec<String> {
        let parts = match &self.format {
            None => self.show.clone(),
            Some(format) => PARTS
                .into_iter()
                .filter(|part| format.contains(&format!("{{{part}}}")))
                .map(str::to_owned)
                .collect(),
        };
        if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            let reason = format!("--show: {unknown:?} is no part; write {}", PARTS.join(", "));
            wrong_usage(&["statusline"], &reason);
        }
        parts
    }

    fn line(&self, parts: &[String], known: &KnownSoFar, now: Instant) -> String {
        let text = |part: &str| self.part(part, known, now);
        match &self.format {
            None => {
                let separator = if usage_text::is_unicode() { " · " } else { " | " };
                parts.iter().filter_map(|part| text(part)).collect::<Vec<_>>().join(separator)
            }
            Some(format) => {
                // In one pass, because a value may have braces of its own.
                let format = printable::line(format);
                let (mut line, mut rest) = (String::new(), &*format);
                while let Some(at) = rest.find('{') {
                    line.push_str(&rest[..at]);
                    rest = &rest[at..];
                    let end = rest.find('}').map_or(0, |end| end + 1);
                    let named = parts.iter().find(|part| end > 0 && rest[1..end - 1] == **part);
                    match named {
                        Some(part) => line.push_str(&text(part).unwrap_or_default()),
                        None => line.push('{'),
                    }
                    rest = &rest[if named.is_some() { end } else { 1 }..];
                }
                line + rest
            }
        }
    }

    /// A part as it is shown; `None` where it is not known.
    fn part(&self, part: &str, known: &KnownSoFar, now: Instant) -> Option<String> {
        let KnownSoFar { input, costs, .. } = known;
        let limits = &input["rate_limits"];
        match part {
            "session" => match costs.session.filter(|sums| sums.turns > 0) {
                Some(sums) => Some(format!("{} session", money(&sums, costs.is_behind))),
                None => {
                    let usd = number(&input["cost"]["total_cost_usd"], 1e9)?;
                    Some(format!("~${usd:.2} session"))
                }
            },
            "today" => Some(format!("{} today", money(&costs.today?, costs.is_behind))),
            "month" => Some(format!("{} month", money(&costs.month?, costs.is_behind))),
            "block" => {
                let block = known.block.as_ref()?;
                let cost = money(&block.sums, block.is_behind);
                Some(format!("{cost} block{}", time_left(block.end.seconds - now.seconds)))
            }
            "ctx" => self.percentage("ctx", &input["context_window"], now),
            "5h" => self.percentage("5h", &limits["five_hour"], now),
            "7d" => self.percentage("7d", &limits["seven_day"], now),
            "spend" => self.percentage("spend", &limits["spend_limit"], now),
            "model" => name(&[&input["model"]["display_name"], &input["model"]["id"]]),
            "project" => {
                let workspace = &input["workspace"];
                let path = name(&[&workspace["project_dir"], &workspace["current_dir"], &input["cwd"]])?;
                Some(path.rsplit(['/', '\\']).find(|name| !name.is_empty())?.to_owned())
            }
            _ => None,
        }
    }

    /// A percentage of the vendor's, and the time until it begins again.
    fn percentage(&self, name: &str, limit: &Value, now: Instant) -> Option<String> {
        let used = number(&limit["used_percentage"], 1e6)?;
        let resets = &limit["resets_at"];
        let resets = match resets.as_str() {
            Some(text) => Instant::of_turn(text).map(|at| at.seconds),
            None => number(resets, 1e12).map(|at| at as i64),
        };
        let left = resets.map(|at| at - now.seconds).filter(|left| *left > 0);
        let left = left.map_or(String::new(), time_left);
        let text = format!("{name} {used:.0} %{left}");
        let is_warned = self.color && used >= self.limit_warn;
        Some(if is_warned { format!("\u{1b}[33m{text}\u{1b}[0m") } else { text })
    }
}

/// A percentage of the command line.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "write a number from 0".to_owned())
}

/// A number from 0 to below `end`. -0.0 becomes 0, because it would be printed with its sign.
fn number(value: &Value, end: f64) -> Option<f64> {
    value.as_f64().filter(|number| (0.0..end).contains(number)).map(f64::abs)
}

/// ` (2h10m)`.
fn time_left(seconds: i64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, minutes) => format!(" ({minutes}m)"),
        (0, hours, minutes) => format!(" ({hours}h{minutes:02}m)"),
        (days, hours, _) => format!(" ({days}d{hours}h)"),
    }
}

/// A cost with `≥` before a lower bound and `+` after what is not all read.
fn money(sums: &Sums, is_behind: bool) -> String {
    let sign = if usage_text::is_unicode() { "≥ " } else { "> " };
    format!("{}{}", cost(sums, sign, dollars), if is_behind { "+" } else { "" })
}

/// The first of these that is a text, without what a terminal would obey, and at most 60 characters of it.
fn name(values: &[&Value]) -> Option<String> {
    const NAME_MAX: usize = 60;
    let text = values.iter().find_map(|value| value.as_str().filter(|text| !text.is_empty()))?;
    Some(printable::line(text).chars().rev().take(NAME_MAX).collect::<Vec<_>>().into_iter().rev().collect())
}

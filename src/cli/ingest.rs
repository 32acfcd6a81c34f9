//! `burn ingest`: session logs of coding agents into the ledger, once, again and again, or for one hook.

mod install;
mod json_text;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use super::arguments::{HomeArg, JsonArg};
use super::output::{command_line, target_of};
use super::progress::Spinner;
use super::{counted, grouped, human_bytes, interrupt, print, print_text, printable, warn, wrong_usage};
use crate::agents::{
    Agent, AgentsError, EventScope, EventStream, HookCall, Ingest, IngestObserver, IngestOptions,
    IngestProgress, IngestReport, NamedLine, StreamStep, keep_hook,
};
use crate::home::Home;
use crate::interrupt::Interrupt;

/// How often `--watch` looks when `--interval` does not say.
const INTERVAL_MS: u64 = 1000;

/// Read what coding agents have logged, and append it to the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Claude Code, Codex, OpenCode and Gemini CLI keep a log of every session. This command reads what is new in those logs, and \
appends each message, tool result and prompt to the ledger once, however often an agent wrote it. Logs are only read. A run \
that is ended at any moment is made good by the next.

Logs are looked for in ~/.claude/projects, ~/.codex/sessions, ~/.local/share/opencode and ~/.gemini, and in the places that \
CLAUDE_CONFIG_DIR, XDG_CONFIG_HOME, CODEX_HOME, XDG_DATA_HOME, OPENCODE_DB and GEMINI_CLI_HOME name. \
RELAYBURN_CONTENT_STORE=off keeps prompts and answers out of the home.

Examples:
  burn ingest                                take in what is new
  burn ingest --watch                        and go on until told to stop
  burn ingest --check                        say what would be read, write nothing
  burn ingest --report left-out.jsonl        name each line that made no record
  burn ingest --agent claude --root claude=/mnt/old/.claude/projects
  burn ingest --from-burn ~/.relayburn/burn.sqlite
                                             take in the records of burn 2 to 4
  burn ingest --hook claude < payload.json   for a hook of Claude Code
  burn ingest --install-hook claude          let Claude Code call it, after showing what changes
  burn ingest --install-statusline claude    let Claude Code show `burn statusline`")]
pub struct IngestArgs {
    /// Take in the logs of this agent: claude, codex, opencode or gemini. May repeat.
    #[arg(long, value_name = "AGENT", value_parser = parse_agent)]
    agent: Vec<Agent>,
    /// Look for an agent's logs in DIR instead. May repeat.
    #[arg(long, value_name = "AGENT=DIR", value_parser = parse_root)]
    root: Vec<(Agent, PathBuf)>,
    /// Read and count, as a JSON document, and write nothing. Exit code 1 when something could not be read.
    #[arg(long, conflicts_with_all = ["watch", "hook"])]
    check: bool,
    /// Write a JSON line to FILE for each line that made no record: its log, byte offset, length and reason.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "hook"])]
    report: Option<PathBuf>,
    /// Go on until SIGINT or SIGTERM.
    #[arg(long, conflicts_with_all = ["hook", "json"])]
    watch: bool,
    /// How long --watch waits between two runs, in milliseconds [default: 1000].
    #[arg(long, value_name = "MS")]
    interval: Option<String>,
    /// Read a hook's payload from standard input, and take in the session that it names. The only AGENT is claude.
    #[arg(long, value_name = "AGENT", conflicts_with = "json")]
    hook: Option<String>,
    /// Take in the records of FILE, the burn.sqlite of burn 2 to 4, and what its content.sqlite has. FILE is only read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "hook", "agent", "root", "as_reference"])]
    from_burn: Option<PathBuf>,
    #[command(flatten)]
    install: install::InstallArgs,
    /// No notes on stderr.
    #[arg(long)]
    quiet: bool,
    /// Make records as the TypeScript package does, defects included.
    #[arg(long, hide = true)]
    as_reference: bool,
    /// With --watch: follow the events of an OpenCode server, too.
    #[arg(long)]
    opencode_stream: bool,
    /// The OpenCode server [default: OPENCODE_SERVER_URL, else http://127.0.0.1:4096].
    #[arg(long, value_name = "URL")]
    opencode_url: Option<String>,
    /// Follow the events of all projects of the OpenCode server.
    #[arg(long)]
    opencode_global: bool,
    #[arg(long, hide = true)]
    daemon: bool,
    #[arg(long, hide = true, num_args = 0..=1)]
    runtime: Option<Option<String>>,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    home: HomeArg,
    /// What means nothing here. The TypeScript package passes it over.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

fn parse_agent(name: &str) -> Result<Agent, String> {
    Agent::parse(name).ok_or_else(|| "the agents are claude, codex, opencode and gemini".into())
}

fn parse_root(text: &str) -> Result<(Agent, PathBuf), String> {
    let (name, dir) =
        text.split_once('=').ok_or("AGENT=DIR is needed, such as claude=/mnt/old/.claude/projects")?;
    if dir.is_empty() {
        return Err("DIR is missing".into());
    }
    Ok((parse_agent(name)?, PathBuf::from(dir)))
}

/// Notes go to stderr, progress to a terminal.
struct Notes {
    is_quiet: bool,
    as_reference: bool,
    spinner: Spinner,
    /// When the logs of the agent at work were begun.
    started: Option<(Agent, Instant)>,
}

/// How far a run is: logs, bytes, and from the second second on the rate and the time left.
fn progress_text(progress: IngestProgress, elapsed: Duration) -> String {
    let IngestProgress { agent, done_logs, logs, done_bytes, bytes, .. } = progress;
    let mut text = format!("{}: {} of {}", agent.as_str(), grouped(done_logs), counted(logs, "log"));
    if bytes == 0 {
        return text;
    }
    text += &format!(", {} of {}", human_bytes(done_bytes), human_bytes(bytes));
    let rate = done_bytes as f64 / elapsed.as_secs_f64();
    if elapsed >= Duration::from_secs(1) && rate >= 1.0 {
        let left_seconds = bytes.saturating_sub(done_bytes) as f64 / rate;
        text += &format!(", {}/s, {left_seconds:.0} s left", human_bytes(rate as u64));
    }
    text
}

impl IngestObserver for Notes {
    fn note(&mut self, text: &str) {
        if self.is_quiet {
            return;
        }
        self.spinner.suspend(|| {
            // Notes are for people; a closed stderr is no reason to lose records.
            let _ = std::io::stderr().lock().write_all(printable::lines(&format!("{text}\n")).as_bytes());
        });
    }

    fn progress(&mut self, progress: IngestProgress) {
        let started = match self.started {
            Some((agent, started)) if agent == progress.agent => started,
            _ => {
                let now = Instant::now();
                self.started = Some((progress.agent, now));
                now
            }
        };
        self.spinner.say(|| progress_text(progress, started.elapsed()));
    }
}

impl IngestArgs {
    /// What cannot go together, and what has moved.
    fn check(&mut self) -> anyhow::Result<()> {
        let usage = |reason: &str| wrong_usage(&["ingest"], reason);
        let words = std::mem::take(&mut self.words);
        self.as_reference |= words.iter().any(|word| word == "--as-reference");
        self.quiet |= words.iter().any(|word| word == "--quiet");
        for word in words {
            let name = word.split('=').next().unwrap_or_default();
            match name {
                "--as-reference" | "--quiet" => {}
                "help" => {
                    let mut command = command_line();
                    command.build();
                    let help = command.find_subcommand_mut("ingest").map(|ingest| ingest.render_long_help());
                    print_text(&help.map(|help| help.to_string()).unwrap_or_default())?;
                    std::process::exit(0);
                }
                "--journal" | "--store" | "--once" | "--follow" => usage(
                    "draining a journal is now `burn journal drain [DIR] [--store DIR]`, where DIR replaces --journal DIR",
                ),
                "--opencode-stream" => usage("--opencode-stream does not take a value"),
                _ if self.as_reference => {}
                _ => usage(&format!("unexpected argument '{word}' found")),
            }
        }
        if self.runtime.is_some() {
            usage("--runtime is not supported; use --hook claude");
        }
        if let Some(agent) = &self.hook
            && agent != "claude"
        {
            usage(&format!("there are hooks of claude alone, not of {agent}"));
        }
        if self.install.is_consent_alone() {
            usage("--yes only has an effect with an option that changes the settings of Claude Code");
        }
        if self.install.is_given()
            && (self.watch || self.hook.is_some() || self.form.json || self.check || self.report.is_some())
        {
            usage(
                "changing the settings of Claude Code excludes --watch, --hook, --json, --check and --report",
            );
        }
        if self.watch && self.daemon {
            usage("--daemon is not supported; run --watch under a service manager");
        }
        if self.watch {
            self.interval_ms();
            return Ok(());
        }
        for (name, is_given) in [
            ("--interval", self.interval.is_some()),
            ("--opencode-stream", self.opencode_stream),
            ("--opencode-url", self.opencode_url.is_some()),
            ("--opencode-global", self.opencode_global),
            ("--daemon", self.daemon),
        ] {
            if is_given && !self.quiet {
                warn(&format!("{name} only has an effect with --watch"));
            }
        }
        Ok(())
    }

    fn interval_ms(&self) -> u64 {
        let Some(text) = &self.interval else { return INTERVAL_MS };
        match text.parse() {
            Ok(0) | Err(_) => {
                wrong_usage(&["ingest"], "--interval must be a positive integer in milliseconds")
            }
            Ok(ms) => ms,
        }
    }
}

/// Runs `burn ingest`.
pub fn run(mut args: IngestArgs) -> anyhow::Result<ExitCode> {
    args.check()?;
    if args.install.is_given() {
        return install::run(&args.install);
    }
    let interrupt = interrupt::watch();
    let home = match args.home.home() {
        Err(error) if args.hook.is_some() => {
            warn(&error.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        home => home?,
    };
    let options = IngestOptions {
        agents: if args.agent.is_empty() { Agent::ALL.to_vec() } else { args.agent.clone() },
        roots: args.root.clone(),
        as_reference: args.as_reference,
        check: args.check,
        name_lines: args.report.is_some(),
        threads: 0,
    };
    let mut ingest = Ingest::new(home.clone(), options);
    let mut notes = Notes {
        is_quiet: args.quiet,
        as_reference: args.as_reference,
        spinner: Spinner::new(),
        started: None,
    };
    if args.hook.is_some() {
        return Ok(hook(&args, home, ingest, notes, &interrupt));
    }
    if args.watch {
        return watch(&args, &mut ingest, &mut notes, &interrupt);
    }
    once(&args, &mut ingest, &mut notes, &interrupt)
}

/// Takes in a hook's call. A hook that fails or dawdles stops its agent, so this exits with 0 within a moment, and what could not be
/// taken in is kept for the next run. The TypeScript package takes the risk.
fn hook(args: &IngestArgs, home: Home, ingest: Ingest, notes: Notes, interrupt: &Interrupt) -> ExitCode {
    let (sender, told) = std::sync::mpsc::channel();
    let as_reference = args.as_reference;
    let budget = if as_reference { None } else { hook_budget() };
    let started = Instant::now();
    let interrupt = interrupt.clone();
    let worker = {
        let interrupt = interrupt.clone();
        move || take_hook(ingest, notes, &interrupt, &sender)
    };
    if std::thread::Builder::new().name("burn-hook".into()).spawn(worker).is_err() {
        return ExitCode::SUCCESS;
    }
    let mut call = None;
    let mut failures = Vec::new();
    let mut is_late = false;
    loop {
        let event = match budget {
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(budget) => {
                // Work that is asked to stop lets go of its locks, for which it has a little time.
                let until = if is_late { budget } else { budget * 3 / 4 };
                told.recv_timeout(until.saturating_sub(started.elapsed()))
            }
        };
        match event {
            Ok(HookEvent::Call(told)) => call = Some(told),
            Ok(HookEvent::Failed(failure)) => failures.push(failure),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if !is_late => {
                is_late = true;
                interrupt.request();
            }
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    if as_reference {
        return if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if is_late {
        failures = vec!["it took longer than a hook may take".into()];
    }
    if !failures.is_empty() && keep_hook(&home, call.as_ref(), &failures.join("; ")).is_err() && !args.quiet {
        warn("the hook's call is lost: the home cannot be written");
    }
    ExitCode::SUCCESS
}

/// What a hook's worker tells.
enum HookEvent {
    Call(HookCall),
    Failed(String),
}

/// Reads the call from standard input and takes it in.
fn take_hook(mut ingest: Ingest, mut notes: Notes, interrupt: &Interrupt, sender: &Sender<HookEvent>) {
    let mut payload = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut payload).map_err(|error| error.to_string());
    let parsed = read.and_then(|_| HookCall::parse(&payload).map_err(|error| error.to_string()));
    let is_null = payload.trim_ascii() == b"null";
    // Nobody listens any more when the time is over.
    let tell = |event| drop(sender.send(event));
    match parsed {
        Err(error) => {
            let failure = format!("the payload cannot be used: {error}");
            notes.note(&format!("[burn] ingest: {failure}"));
            tell(HookEvent::Failed(failure));
        }
        Ok(None) if is_null && notes.as_reference => tell(HookEvent::Failed("null".into())),
        Ok(None) => {
            notes.note("[burn] ingest: the payload names no session_id and transcript_path; nothing to do")
        }
        Ok(Some(call)) => {
            tell(HookEvent::Call(call.clone()));
            let report = ingest.hook(&call, &mut notes, interrupt);
            for failure in report.failures {
                notes.note(&format!("[burn] ingest: {failure}"));
                if !notes.as_reference {
                    tell(HookEvent::Failed(failure));
                }
            }
        }
    }
}

/// How long a hook may take; none: as long as it needs. A process has started by then, which takes some of the 50 ms.
fn hook_budget() -> Option<Duration> {
    const USUAL: Duration = Duration::from_millis(30);
    match std::env::var("RELAYBURN_HOOK_MS").ok().and_then(|text| text.parse().ok()) {
        Some(0) => None,
        Some(ms) => Some(Duration::from_millis(ms)),
        None => Some(USUAL),
    }
}

fn once(
    args: &IngestArgs,
    ingest: &mut Ingest,
    notes: &mut Notes,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    let report = match &args.from_burn {
        Some(path) => ingest.take_in_burn(path, notes, interrupt)?,
        None => ingest.run(notes, interrupt)?,
    };
    notes.spinner.clear();
    if let Some(path) = &args.report {
        write_lines(path, &report.lines)?;
    }
    if args.form.json || args.check {
        print(format!("{}\n", serde_json::to_string(&report)?).as_bytes())?;
    } else {
        print_text(&format!("{}\n", sentence(&report)))?;
        if !args.quiet {
            print_text(&summary(&report))?;
        }
    }
    if let Some(root) = report.unreadable_roots.first() {
        let error =
            report.unreadable.iter().find(|found| found.path == *root).map_or("", |found| &found.error);
        bail!(
            "cannot read {}: {error}; check its owner and mode, or name another with --root",
            root.display()
        );
    }
    let is_incomplete = !report.skipped_files.is_empty() || !report.unreadable.is_empty();
    Ok(if args.check && is_incomplete { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn watch(
    args: &IngestArgs,
    ingest: &mut Ingest,
    notes: &mut Notes,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    let interval_ms = args.interval_ms();
    if !args.quiet {
        notes.note(&format!(
            "[burn] ingest: watching every {} ms; SIGINT or SIGTERM ends it",
            grouped(interval_ms)
        ));
    }
    let mut stream = if args.opencode_stream { connect(args, ingest, notes, interrupt) } else { None };
    while !interrupt.is_requested() {
        match ingest.run(notes, interrupt) {
            Ok(report) if report.appended_turns > 0 => notes.note(&sentence(&report)),
            Ok(_) => {}
            Err(AgentsError::Interrupted) => break,
            Err(error) => notes.note(&format!("[burn] ingest: {error}")),
        }
        notes.spinner.clear();
        wait(Duration::from_millis(interval_ms), &mut stream, ingest, notes, interrupt);
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(
    args: &IngestArgs,
    ingest: &Ingest,
    notes: &mut Notes,
    interrupt: &Interrupt,
) -> Option<EventStream> {
    let scope = if args.opencode_global { EventScope::Global } else { EventScope::Project };
    let connected = ingest.connect(args.opencode_url.as_deref(), scope, interrupt);
    connected.map_err(|error| notes.note(&stream_is_over(&error.to_string()))).ok()
}

fn stream_is_over(reason: &str) -> String {
    format!("[burn] ingest: OpenCode event stream unavailable ({reason}); polling continues")
}

/// Waits for the next run. Events that come meanwhile are taken; those about sessions are a reason to run at once.
fn wait(
    interval: Duration,
    stream: &mut Option<EventStream>,
    ingest: &mut Ingest,
    notes: &mut Notes,
    interrupt: &Interrupt,
) {
    /// How long to wait at a time, so that an interrupt is seen.
    const SLICE: Duration = Duration::from_millis(50);
    let until = Instant::now() + interval;
    let mut is_wanted = false;
    while let Some(following) = stream {
        let left = until.saturating_duration_since(Instant::now());
        match ingest.follow(following, left.min(SLICE), notes, interrupt) {
            Ok(StreamStep::Taken { is_about_sessions }) => is_wanted |= is_about_sessions,
            Ok(StreamStep::Ended(reason)) => {
                if !interrupt.is_requested() {
                    notes.note(&stream_is_over(&reason));
                }
                *stream = None;
            }
            Ok(_) if is_wanted || left.is_zero() || interrupt.is_requested() => return,
            Ok(_) => {}
            Err(error) => {
                notes.note(&stream_is_over(&error.to_string()));
                *stream = None;
            }
        }
    }
    if !is_wanted {
        interrupt.sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// The sentence that other programs may look for.
fn sentence(report: &IngestReport) -> String {
    let (sessions, turns) = (report.ingested_sessions, report.appended_turns);
    format!("[burn] ingest: ingested {} (+{})", counted(sessions, "session"), counted(turns, "turn"))
}

/// What each agent gave.
fn summary(report: &IngestReport) -> String {
    let mut text = String::new();
    for agent in &report.agents {
        if agent.found_files == 0 {
            let roots: Vec<String> = agent.roots.iter().map(|root| root.display().to_string()).collect();
            text.push_str(&format!("  {:<9} no logs in {}\n", agent.agent, roots.join(", ")));
            continue;
        }
        text.push_str(&format!(
            "  {:<9} {}: {} read, {} unchanged, {} skipped; {} and {} new, {} known\n",
            agent.agent,
            counted(agent.found_files, "log"),
            grouped(agent.read_files),
            grouped(agent.unchanged_files),
            grouped(agent.skipped_files),
            counted(agent.appended.turns, "turn"),
            counted(agent.appended.total() - agent.appended.turns, "other record"),
            grouped(agent.duplicates),
        ));
        let left_out: Vec<String> =
            agent.left_out.iter().map(|(reason, count)| format!("{reason} {}", grouped(*count))).collect();
        if !left_out.is_empty() {
            text.push_str(&format!(
                "            {} in {}; without a record: {}\n",
                counted(agent.lines, "line"),
                human_bytes(agent.bytes_read),
                left_out.join(", ")
            ));
        }
    }
    text
}

/// Writes the lines that made no record.
fn write_lines(path: &std::path::Path, lines: &[NamedLine]) -> anyhow::Result<()> {
    let mut text = String::new();
    for line in lines {
        let document = json!({
            "path": line.path,
            "offset": line.offset,
            "length": line.len_bytes,
            "reason": line.reason.as_str(),
            "detail": line.detail,
        });
        text.push_str(&format!("{document}\n"));
    }
    crate::disk::replace(&target_of(path)?, text.as_bytes(), crate::disk::Replacing::Unsynced)
        .with_context(|| format!("cannot write the report to {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_rate_and_time_left_once_they_mean_something() {
        struct Last<'r>(&'r mut Option<IngestProgress>);
        impl IngestObserver for Last<'_> {
            fn note(&mut self, _text: &str) {}
            fn progress(&mut self, progress: IngestProgress) {
                if progress.done_logs == 1 && self.0.is_none() {
                    *self.0 = Some(progress);
                }
            }
        }
        let mut report = None;
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("projects/-w");
        std::fs::create_dir_all(&logs).unwrap();
        for name in ["a", "b"] {
            std::fs::write(logs.join(format!("{name}.jsonl")), "{}\n".repeat(1_000)).unwrap();
        }
        let roots = vec![(Agent::Claude, folder.path().join("projects"))];
        let options =
            IngestOptions { agents: vec![Agent::Claude], roots, check: true, ..IngestOptions::default() };
        let mut ingest = Ingest::new(Home::at(folder.path().join("home")), options);
        ingest.run(&mut Last(&mut report), &Interrupt::new()).unwrap();
        let progress = report.unwrap();
        assert_eq!((progress.logs, progress.bytes, progress.done_bytes), (2, 6_000, 3_000));
        let early = progress_text(progress, Duration::from_millis(200));
        assert_eq!(early, format!("claude: 1 of 2 logs, {} of {}", human_bytes(3_000), human_bytes(6_000)));
        let later = progress_text(progress, Duration::from_secs(2));
        assert_eq!(later, format!("{early}, {}/s, 2 s left", human_bytes(1_500)));
    }
}

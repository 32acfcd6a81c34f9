//! `burn ingest`: reads session logs of coding agents into the ledger, once, with `--watch` continually, or for one hook.

mod install;
mod json_text;
mod left_out;
mod notes;
mod watch;

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::bail;

use self::left_out::LeftOutFile;
use self::notes::{IngestNotes, sentence};
use super::arguments::{HomeArg, JsonArg};
use super::output::command_line;
use super::{counted, grouped, human_bytes, interrupt, print, print_text, warn, wrong_usage};
use crate::agents::{
    Agent, AgentsError, HookCall, Ingest, IngestObserver as _, IngestOptions, IngestReport, keep_hook,
};
use crate::home::Home;
use crate::interrupt::Interrupt;
use crate::store::{self, LEFTOVER_AGE};

/// Read what coding agents have logged, and append it to the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Claude Code, Codex, OpenCode and Gemini CLI keep a log of every session. This command reads what is new in those logs, and \
appends each message, tool result and prompt to the ledger once, however often an agent wrote it. Logs are only read. If a run \
is killed, the next run continues where it was. The exit code is 1 when a log or a directory could not be read; the others were \
read.

The default directories are ~/.claude/projects, ~/.config/claude/projects, ~/.codex, ~/.local/share/opencode and ~/.gemini. \
CLAUDE_CONFIG_DIR, XDG_DATA_HOME and OPENCODE_DB (an absolute path) add to them. CODEX_HOME replaces ~/.codex, GEMINI_CLI_HOME the \
home directory above .gemini, and XDG_CONFIG_HOME the directory ~/.config. \
With RELAYBURN_CONTENT_STORE=off no texts of prompts and answers are kept.

Examples:
  burn ingest                                read what is new in all logs
  burn ingest --watch                        follow the logs until SIGINT or SIGTERM
  burn ingest --check                        read and count; write nothing but the file of --report
  burn ingest --report left-out.jsonl        name each line that made no record
  burn ingest --agent claude --root claude=/mnt/old/.claude/projects
  burn ingest --from-burn ~/.relayburn/burn.sqlite
                                             read a database of burn 2 to 4
  burn ingest --hook claude < payload.json   for a hook of Claude Code
  burn ingest --install-hook claude          let Claude Code call it; shows the change first
  burn ingest --install-statusline claude    let Claude Code show `burn statusline`")]
pub struct IngestArgs {
    /// Read only the logs of this agent: claude, codex, opencode or gemini. May repeat.
    #[arg(long, value_name = "AGENT", value_parser = parse_agent)]
    agent: Vec<Agent>,
    /// Read an agent's logs in DIR instead. May repeat.
    #[arg(long, value_name = "AGENT=DIR", value_parser = parse_root)]
    root: Vec<(Agent, PathBuf)>,
    /// Read and count, print the counts as a JSON document, and write nothing but the file of --report.
    #[arg(long, conflicts_with_all = ["watch", "hook"])]
    check: bool,
    /// Write a JSON line to FILE for each line that made no record: its log, byte offset, length and reason. FILE must not
    /// exist yet.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "hook"])]
    report: Option<PathBuf>,
    /// Follow the logs until SIGINT or SIGTERM.
    #[arg(long, conflicts_with_all = ["hook", "json"])]
    watch: bool,
    /// Read a hook's payload from standard input, and the log of the session that it names. The only AGENT is claude.
    #[arg(long, value_name = "AGENT", conflicts_with = "json")]
    hook: Option<String>,
    /// Append the records of FILE, the burn.sqlite of burn 2 to 4, and of the content.sqlite beside it. FILE is only read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "hook", "agent", "root", "as_reference"])]
    from_burn: Option<PathBuf>,
    #[command(flatten)]
    install: install::InstallArgs,
    /// Print no notes on standard error.
    #[arg(long)]
    quiet: bool,
    /// Make records as the TypeScript package does, defects included.
    #[arg(long, hide = true)]
    as_reference: bool,
    #[command(flatten)]
    watching: watch::WatchArgs,
    #[arg(long, hide = true, num_args = 0..=1)]
    runtime: Option<Option<String>>,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    home: HomeArg,
    /// Words without a meaning here. The TypeScript package ignores them.
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

impl IngestArgs {
    /// Refuses options that exclude each other, and names the new place of options that have moved.
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
            usage(&format!("--hook takes claude alone, not {agent}"));
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
        self.warn_of_unread_roots();
        self.watching.check(self.watch, self.quiet);
        Ok(())
    }

    fn warn_of_unread_roots(&self) {
        for (agent, _) in &self.root {
            if !self.agent.is_empty() && !self.agent.contains(agent) && !self.quiet {
                let name = agent.as_str();
                warn(&format!(
                    "--root {name}=DIR only has an effect with --agent {name}, or without --agent"
                ));
            }
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
    let left_out = args.report.as_deref().map(|path| LeftOutFile::create(path, &home)).transpose()?;
    let mut ingest = Ingest::new(home.clone(), options);
    let mut notes = IngestNotes::new(args.quiet, left_out);
    if args.hook.is_some() {
        return Ok(hook(&args, home, ingest, notes, &interrupt));
    }
    if !args.check {
        remove_leftovers(&home);
    }
    if args.watch {
        return watch::run(&args.watching, &mut ingest, &mut notes, &interrupt);
    }
    once(&args, &mut ingest, &mut notes, &interrupt)
}

/// Deletes the temporary files that killed replacements left in the home. One that cannot be deleted does no harm.
fn remove_leftovers(home: &Home) {
    let replaced = [
        home.ids_index(),
        home.fingerprints_index(),
        home.cursors(),
        home.ingest_notes(),
        home.ingest_known(),
        home.machine(),
        home.export(),
    ];
    let names = replaced.iter().filter_map(|path| path.file_name());
    let prefixes: Vec<String> = names.map(|name| format!("{}.", name.to_string_lossy())).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let _ = store::remove_leftovers(home.root(), &prefixes, LEFTOVER_AGE);
}

/// Does the work of a hook's call. A hook that fails or is slow stops its agent, so this stops in time, exits with 0, and keeps a call
/// that it could not finish for the next run. The TypeScript package does not.
fn hook(
    args: &IngestArgs,
    home: Home,
    ingest: Ingest,
    notes: IngestNotes,
    interrupt: &Interrupt,
) -> ExitCode {
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
                // Work that is asked to stop gets the last quarter of the time to release its locks.
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

/// What a hook's worker reports.
enum HookEvent {
    Call(HookCall),
    Failed(String),
}

/// Reads the call from standard input and does its work.
fn take_hook(mut ingest: Ingest, mut notes: IngestNotes, interrupt: &Interrupt, sender: &Sender<HookEvent>) {
    let mut payload = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut payload).map_err(|error| error.to_string());
    let parsed = read.and_then(|_| HookCall::parse(&payload).map_err(|error| error.to_string()));
    let is_null = payload.trim_ascii() == b"null";
    // The receiver is gone when the time is over.
    let tell = |event| drop(sender.send(event));
    match parsed {
        Err(error) => {
            let failure = format!("the payload cannot be used: {error}");
            notes.note(&format!("[burn] ingest: {failure}"));
            tell(HookEvent::Failed(failure));
        }
        Ok(None) if is_null && ingest.as_reference() => tell(HookEvent::Failed("null".into())),
        Ok(None) => {
            notes.note("[burn] ingest: the payload names no session_id and transcript_path; nothing to do")
        }
        Ok(Some(call)) => {
            tell(HookEvent::Call(call.clone()));
            let report = ingest.hook(&call, &mut notes, interrupt);
            for failure in report.failures {
                notes.note(&format!("[burn] ingest: {failure}"));
                if !ingest.as_reference() {
                    tell(HookEvent::Failed(failure));
                }
            }
        }
    }
}

/// How long a hook may take; none: as long as it needs. The start and the end of the process take the rest of 50 ms.
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
    notes: &mut IngestNotes,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    let ran = match &args.from_burn {
        Some(path) => ingest.take_in_burn(path, notes, interrupt),
        None => ingest.run(notes, interrupt),
    };
    notes.spinner.clear();
    if let Some(left_out) = &notes.left_out {
        left_out.remove_if_unused(ran.is_err())?;
    }
    let report = match (ran, &args.report) {
        // As text, because a closed pipe here must not be mistaken for a closed stdout.
        (Err(error @ AgentsError::Unnamed(_)), Some(path)) => {
            bail!("cannot write the report {}: {error}", path.display());
        }
        (ran, _) => ran?,
    };
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
    // The TypeScript package ends with 0.
    if args.as_reference && !args.check {
        return Ok(ExitCode::SUCCESS);
    }
    let skipped = report.skipped_files.iter().map(|skipped| (&skipped.path, &skipped.error));
    let left_out: Vec<_> =
        skipped.chain(report.unreadable.iter().map(|found| (&found.path, &found.error))).collect();
    let remedy = match args.from_burn {
        Some(_) => "repair it and run this command again",
        None => "the next run tries again",
    };
    match left_out[..] {
        [] => Ok(ExitCode::SUCCESS),
        [(path, error)] => bail!("{} was not read: {error}; {remedy}", path.display()),
        [(path, error), ref others @ ..] => bail!(
            "{} and {} were not read: {error}; {remedy}",
            path.display(),
            counted(others.len() as u64, "other path")
        ),
    }
}

/// Returns the counts of each agent, as text.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_of_killed_replacements_are_deleted_an_hour_later() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let hex = "0123456789abcdef0123456789abcdef";
        let make = |name: String, is_old: bool| {
            let file = std::fs::File::create(directory.path().join(name)).unwrap();
            if is_old {
                file.set_modified(std::time::SystemTime::now() - 2 * LEFTOVER_AGE).unwrap();
            }
        };
        for name in ["ledger.idx", "ledger.content.idx", "cursors.json", "ingest.known", "machine.json"] {
            make(name.to_owned(), true);
            make(format!("{name}.{hex}.tmp"), true);
        }
        make(format!("ledger.idx.{}.tmp", hex.replace('0', "f")), false);
        make("notes.tmp".to_owned(), true);
        remove_leftovers(&home);
        let mut left: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".tmp"))
            .collect();
        left.sort();
        assert_eq!(left, ["ledger.idx.f123456789abcdeff123456789abcdef.tmp", "notes.tmp"]);
    }
}

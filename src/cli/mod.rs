//! The command line: one file a command, and what they share: output that survives a closed pipe, progress, sizes.
//!
//! Commands print results on stdout and everything else on stderr; with `--json` stdout is one JSON document. Exit codes: 0
//! done, 1 failed, 2 wrong usage (clap's own), 130 and 143 interrupted.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, CommandFactory, FromArgMatches as _, Parser, Subcommand};

use crate::printable;
use crate::usage::shown::grouped;

mod book;
mod clean;
mod dev;
mod ingest;
mod interrupt;
mod journal;
mod ledger;
mod manual;
mod price;
mod progress;
mod query;
mod report;
mod session;
mod state;
mod status;
mod statusline;
mod table;
mod time;
mod usage;
mod usage_text;

/// An append-only ledger of AI coding agents' work, and the archive derived from it.
#[derive(Debug, Parser)]
#[command(
    name = "burn",
    version,
    max_term_width = 100,
    help_template = "{about}\n\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}",
    after_help = "\
The home is $RELAYBURN_HOME, or ~/.relayburn when that is not set.

Examples:
  burn state                              what there is, and whether it is up to date
  burn state rebuild archive              take in what was appended since the last build
  burn ledger append --kind turns         append records from standard input, each once
  burn ledger check                       find everything that is wrong with the ledger
  burn query turns --since 2026-04-20     ask for records
  burn usage --since 7d --by model        what was used, and what it cost
  burn report                             the last year as one HTML page
  burn ingest                             take in what coding agents have logged"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at, rebuild and clean up what is derived from the ledger.
    State(state::StateArgs),
    /// Append to the ledger, and check it.
    Ledger(ledger::LedgerArgs),
    /// Ask for records.
    Query(query::QueryArgs),
    /// Add up tokens and costs, by period and by dimension.
    #[command(visible_alias = "summary")]
    Usage(Box<usage::UsageArgs>),
    /// Write one HTML page with charts and tables of usage and costs.
    Report(Box<report::ReportArgs>),
    /// Print one line about cost and limits, for Claude Code's status line.
    Statusline(statusline::StatuslineArgs),
    /// Show what a model costs at a time.
    Prices(price::PricesArgs),
    /// Append to, read, check and repair session stores.
    Session(session::SessionArgs),
    /// Double-entry books: accounts over an append-only log.
    Book(book::BookArgs),
    /// Append to, read, drain and recover write-ahead journals.
    Journal(journal::JournalArgs),
    /// Read what coding agents have logged, and append it to the ledger.
    Ingest(ingest::IngestArgs),
    /// Tools for benchmarks and tests.
    #[command(hide = true)]
    Dev(dev::DevArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, in roff.
    #[command(after_help = "\
Examples:
  burn man | man -l -
  burn man > ~/.local/share/man/man1/burn.1")]
    Man,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  burn completions bash > ~/.local/share/bash-completion/completions/burn
  burn completions zsh > ~/.zfunc/_burn
  burn completions fish > ~/.config/fish/completions/burn.fish")]
struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// The commands as the help lists them, in groups. The others are listed last.
const GROUPS: [(&str, &[&str]); 3] = [
    ("Everyday", &["ingest", "usage", "report", "query", "prices"]),
    ("Ledger and archive", &["state", "ledger"]),
    ("Other logs", &["session", "book", "journal"]),
];

/// The commands with what each is for, by group.
fn command_list(root: &clap::Command) -> String {
    let line = |command: &clap::Command| {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let aliases: Vec<&str> = command.get_visible_aliases().collect();
        let aliases =
            if aliases.is_empty() { String::new() } else { format!(" [alias: {}]", aliases.join(", ")) };
        format!("  {:<11}  {about}{aliases}\n", command.get_name())
    };
    let is_grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let mut list = String::new();
    for (title, names) in GROUPS {
        let commands = names.iter().filter_map(|name| root.find_subcommand(name));
        list.push_str(&format!("{title}:\n{}\n", commands.map(line).collect::<String>()));
    }
    let others =
        root.get_subcommands().filter(|command| !command.is_hide_set() && !is_grouped(command.get_name()));
    list + &format!("Others:\n{}", others.map(line).collect::<String>())
}

/// The whole command line, for parsing, help, completions and the manual page.
fn command_line() -> clap::Command {
    let root = Cli::command();
    let list = command_list(&root);
    root.before_help(list)
}

/// The command line of this process. One that makes no sense ends the process with exit code 2 and its usage; help and version are
/// printed, with exit code 0.
pub fn parse() -> Cli {
    let parsed = |words: Vec<OsString>| {
        let matches = command_line().try_get_matches_from(words)?;
        Cli::from_arg_matches(&matches)
    };
    let refused = match parsed(std::env::args_os().collect()) {
        Ok(cli) => return cli,
        Err(refused) => refused,
    };
    if !refused.use_stderr() {
        refused.exit();
    }
    // The message repeats words of the command line, and a terminal must not obey them: what is said is said of cleaned words.
    let words = std::env::args_os().map(|word| printable::line(&word.to_string_lossy()).into_owned().into());
    match parsed(words.collect()) {
        Err(error) if error.use_stderr() => error.exit(),
        _ => {
            let said = refused.render().to_string();
            let _ = io::stderr().lock().write_all(printable::lines(&said).as_bytes());
            std::process::exit(refused.exit_code())
        }
    }
}

/// Runs a parsed command line.
///
/// # Errors
/// Whatever the command could not do, in words that name paths, offsets and remedies.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // A ledger truncated under its map, or a file at its size limit, shall end in a message, not in a signal.
    crate::scan::truncation::install()?;
    ignore_file_size_signal();
    interrupt::guard();
    match cli.command {
        Command::State(args) => state::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Query(args) => query::run(args),
        Command::Usage(args) => usage::run(*args),
        Command::Report(args) => report::run(*args),
        Command::Statusline(args) => statusline::run(args),
        Command::Prices(args) => price::run(args),
        Command::Session(args) => session::run(args),
        Command::Book(args) => book::run(args),
        Command::Journal(args) => journal::run(args),
        Command::Ingest(args) => ingest::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "burn", &mut script);
            print(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            print(&manual::page()?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writing beyond the limit on file sizes (RLIMIT_FSIZE) is an error of the write from now on, and no SIGXFSZ.
fn ignore_file_size_signal() {
    #[cfg(unix)]
    // SAFETY: a plain call that sets no handler; without it the signal keeps its effect, which is to end the process.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Whether an error only says that nobody reads our output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The exit code of a command that failed: 130 or 143 when SIGINT or SIGTERM interrupted it, else 1.
pub fn failure_code() -> ExitCode {
    interrupt::failure_code()
}

/// Prints an error and its causes on stderr, each once.
///
/// # Errors
/// When stderr cannot be written.
pub fn print_error(error: &anyhow::Error) -> io::Result<()> {
    let mut text = String::from("burn: ");
    let mut last = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !last.is_empty() && !last.contains(&cause) {
            text.push_str(": ");
        }
        if !last.contains(&cause) {
            text.push_str(&cause);
        }
        last = text.clone();
    }
    io::stderr().lock().write_all(format!("{}\n", printable::line(&text)).as_bytes())
}

/// Ends the program as clap does for a command line that it understands and that makes no sense: exit code 2, with the
/// usage of the subcommand that `words` name.
fn wrong_usage(words: &[&str], reason: &str) -> ! {
    let mut command = Cli::command();
    command.build();
    for word in words {
        if let Some(named) = command.find_subcommand(word).cloned() {
            command = named;
        }
    }
    command.error(clap::error::ErrorKind::ArgumentConflict, printable::line(reason)).exit()
}

/// Writes text to stdout, without what a terminal would obey.
fn print_text(text: &str) -> anyhow::Result<()> {
    print(printable::lines(text).as_bytes())
}

/// Writes data to stdout as it is.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context(STDOUT)
}

/// What failed when results could not be written.
const STDOUT: &str = "cannot write to standard output";

/// Refuses a path where no `store` is: a mistyped name must not look like an empty one. `made_by` makes one. Of `signs`,
/// names in its directory, it has at least one; where there are none, any directory will do.
fn must_exist(dir: &std::path::Path, store: &str, made_by: &str, signs: &[&str]) -> anyhow::Result<()> {
    let none = || anyhow!("there is no {store} at {}; {made_by} makes one", dir.display());
    // Nothing but ENOENT counts as missing.
    let unseen = |path: &std::path::Path, error: io::Error| {
        anyhow!(
            "cannot look at {}: {error}; check the owner and the mode of {}",
            path.display(),
            dir.display()
        )
    };
    match std::fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            return Err(anyhow!(
                "{} is a file, not the directory of a {store}; name the directory",
                dir.display()
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
        Err(error) => return Err(unseen(dir, error)),
    }
    for sign in signs.iter().map(|name| dir.join(name)) {
        if sign.try_exists().map_err(|error| unseen(&sign, error))? {
            return Ok(());
        }
    }
    if signs.is_empty() { Ok(()) } else { Err(none()) }
}

/// The sentence for a file that recovery cut, whatever log it is of; what was not saved has a clause that says why.
fn cut_off(
    file: &dyn std::fmt::Display,
    from_length: u64,
    length: u64,
    reason: Option<&str>,
    saved_as: Result<&dyn std::fmt::Display, &str>,
) -> String {
    let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
    let saved = match saved_as {
        Ok(saved_as) => format!("what was cut is saved as {saved_as}"),
        Err(why_not) => why_not.to_owned(),
    };
    format!("{file} was cut from {from_length} to {length} bytes{reason}; {saved}")
}

/// Writes a warning to stderr.
fn warn(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = io::stderr().lock().write_all(format!("burn: {}\n", printable::line(text)).as_bytes());
}

/// A failure as documents have it: what kind, and what is said on standard error.
#[derive(Debug, serde::Serialize)]
struct Failure {
    class: &'static str,
    message: String,
    /// Of the input, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// Where that line begins, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Failure {
    fn new(class: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self { class, message: error.to_string(), line: None, offset: None }
    }

    fn in_line(self, number: u64, offset: u64) -> Self {
        Self { line: Some(number), offset: Some(offset), ..self }
    }
}

/// The name of a file of a store, as its reports have it: relative to the store's directory.
fn in_store(dir: &std::path::Path, file: &std::path::Path) -> std::path::PathBuf {
    file.strip_prefix(dir).unwrap_or(file).to_owned()
}

/// Writes one JSON document to stdout.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    print(&text)?;
    Ok(())
}

/// An array of a JSON document, printed element by element as [`print_json`] prints it whole. A failure leaves it open.
struct JsonArray {
    /// Blanks before an element.
    indent: usize,
    is_first: bool,
}

impl JsonArray {
    const fn new(indent: usize) -> Self {
        Self { indent, is_first: true }
    }

    /// Appends an element to `out`.
    fn push(&mut self, value: &impl serde::Serialize, out: &mut String) -> anyhow::Result<()> {
        let line_start = format!("\n{:1$}", "", self.indent);
        out.push(if std::mem::take(&mut self.is_first) { '[' } else { ',' });
        out.push_str(&line_start);
        // A line break within a text is escaped, so each one here is one of the layout.
        out.push_str(&serde_json::to_string_pretty(value)?.replace('\n', &line_start));
        Ok(())
    }

    /// The end of the array.
    fn end(self) -> String {
        if self.is_first { "[]".to_owned() } else { format!("\n{:1$}]", "", self.indent - 2) }
    }
}

/// Bytes for people: `1.5 GB`, `312.0 kB`, `17 bytes`.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match UNITS.iter().find(|(_, size)| bytes as f64 >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / size),
        None => format!("{bytes} bytes"),
    }
}

/// `1 turn`, `2 turns`; `2 entries`, `2 days`.
fn counted(number: u64, one: &str) -> String {
    let number = match number {
        1 => return format!("1 {one}"),
        more => grouped(more),
    };
    match one.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u'])) {
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {one}s"),
    }
}

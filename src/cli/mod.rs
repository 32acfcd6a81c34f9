//! The command line: one file a command; shared options, output, tables and progress.
//!
//! Commands print results on stdout and everything else on stderr; with `--json` stdout is one JSON document. Exit codes: 0
//! done, 1 failed, 2 wrong usage (clap's own), 130 and 143 interrupted.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory, FromArgMatches as _, Parser, Subcommand};

use crate::printable;
use crate::usage::shown::grouped;

mod arguments;
mod book;
mod clean;
mod dev;
mod export;
mod ingest;
mod interrupt;
mod journal;
mod ledger;
mod ledgers;
mod manual;
mod output;
mod overview;
mod price;
mod progress;
mod query;
mod report;
mod session;
mod state;
mod status;
mod statusline;
mod table;
mod usage;
mod usage_text;

use self::output::{
    COMMAND_LINE, JsonArray, JsonFailure, STDOUT, counted, cut_off, human_bytes, in_store, must_exist, print,
    print_json, print_result, print_text, refuse_foreign, tell_recovery, warn, wrong_usage,
};
pub use self::output::{is_closed_pipe, print_error};

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
  burn                                    show the usage of the last seven days
  burn state                              show which files exist and whether they are up to date
  burn state rebuild archive              bring the archive up to date
  burn ledger append --kind turns         append records from standard input, each once
  burn ledger check                       list the faults of the ledger
  burn query turns --since 2026-04-20     print records
  burn usage --since 7d --by model        show usage and costs by model
  burn report                             write the last year as one HTML page
  burn ingest                             read what is new in the agents' logs"
)]
pub struct Cli {
    /// Without a command: the last seven days.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show, rebuild and clean up the files derived from the ledger.
    State(state::StateArgs),
    /// Append to the ledger, merge ledgers, and check the ledger.
    Ledger(ledger::LedgerArgs),
    /// Print records of the archive or the ledger.
    Query(query::QueryArgs),
    /// Add up tokens and costs, by period and by dimension.
    #[command(visible_alias = "summary")]
    Usage(Box<usage::UsageArgs>),
    /// Write one HTML page with charts and tables of usage and costs.
    Report(Box<report::ReportArgs>),
    /// Print one line about cost and limits, for Claude Code's status line.
    Statusline(statusline::StatuslineArgs),
    /// Write the archive as Parquet files into a directory or a bucket, for engines that read many homes.
    Export(export::ExportCommandArgs),
    /// Show what a model costs at a time.
    Prices(price::PricesArgs),
    /// Append to, read, check and repair session stores.
    Session(session::SessionArgs),
    /// Double-entry books: accounts over an append-only log.
    Book(book::BookArgs),
    /// Append to, read, drain and recover write-ahead journals.
    Journal(journal::JournalArgs),
    /// Append what coding agents have logged to the ledger.
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
    ("Everyday", &["ingest", "usage", "report", "statusline", "query", "prices"]),
    ("Ledger and archive", &["state", "ledger", "export"]),
    ("Other logs", &["session", "book", "journal"]),
];

/// The commands with a sentence about each, by group.
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
    root.bin_name("burn").before_help(list)
}

/// Parses the command line of this process. Wrong usage ends the process with exit code 2; help and version end it with exit code 0.
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
        // `exit` would say nothing when standard output cannot be written.
        let printed = refused.print().and_then(|()| io::stdout().flush()).context(STDOUT);
        let failed = printed.err().filter(|error| !is_closed_pipe(error));
        let code = failed.map_or(0, |error| {
            let _ = print_error(&error);
            1
        });
        std::process::exit(code);
    }
    // The message repeats words of the command line, which a terminal must not obey, so cleaned words are parsed once more.
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
/// The failure of the command; the message names path, offset and remedy.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // A ledger that is truncated while it is mapped, or a file at its size limit, ends in a message, not in a signal.
    crate::scan::truncation::install()?;
    COMMAND_LINE.get_or_init(|| command_line);
    ignore_file_size_signal();
    keep_files_private();
    interrupt::guard();
    let Some(command) = cli.command else { return overview::week() };
    match command {
        Command::State(args) => state::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Query(args) => query::run(args),
        Command::Usage(args) => usage::run(*args),
        Command::Report(args) => report::run(*args),
        Command::Statusline(args) => statusline::run(args),
        Command::Export(args) => export::run(args),
        Command::Prices(args) => price::run(args),
        Command::Session(args) => session::run(args),
        Command::Book(args) => book::run(args),
        Command::Journal(args) => journal::run(args),
        Command::Ingest(args) => ingest::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut command_line(), "burn", &mut script);
            print(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            print(&manual::page(Cli::command())?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Makes a write beyond the limit on file sizes (RLIMIT_FSIZE) fail instead of raising SIGXFSZ.
fn ignore_file_size_signal() {
    #[cfg(unix)]
    // SAFETY: a plain call that sets no handler; without it the signal keeps its effect, which is to end the process.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Makes files that libraries create 0600 and directories 0700, as those that this program creates itself.
fn keep_files_private() {
    #[cfg(unix)]
    // SAFETY: a plain call that cannot fail; no other thread creates files yet.
    unsafe {
        libc::umask(0o077);
    }
}

/// The exit code of a command that failed: 130 or 143 when SIGINT or SIGTERM interrupted it, else 1.
pub fn failure_code() -> ExitCode {
    interrupt::failure_code()
}

//! The command line: one file a command.

use std::process::ExitCode;

mod ingest;
mod journal;

/// Append-only logs that can be trusted, and the stores derived from them.
#[derive(clap::Parser)]
#[command(name = "burn", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Journal(journal::JournalArgs),
    Ingest(ingest::IngestArgs),
}

/// Runs a command.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Journal(args) => journal::run(args),
        Command::Ingest(args) => ingest::run(args),
    }
}

/// Whether the reader of our output has gone: no failure of ours.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

//! `burn`: parse the command line, run the command, say what went wrong.

use std::process::ExitCode;

use clap::Parser;
use relayburn_ledger::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = cli::print_error(&error);
            cli::failure_code()
        }
    }
}

//! `burn`: parses the command line, runs the command, prints the error.

use std::process::ExitCode;

use relayburn_ledger::cli;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(code) => code,
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error is no further failure.
            let _ = cli::print_error(&error);
            cli::failure_code()
        }
    }
}

//! `burn`: parse the command line, run the command, say what went wrong.

use std::process::ExitCode;

use relayburn_ledger::cli;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(code) => code,
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = cli::print_error(&error);
            cli::failure_code()
        }
    }
}

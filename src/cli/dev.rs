//! `burn dev`: tools for benchmarks and tests.

mod naive;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{counted, human_bytes, print_text};
use crate::dev::{GenerateOptions, Profile, TEMPORARY_PREFIX, generate_file, parse_size};
use crate::disk;
use crate::store::{self, LEFTOVER_AGE};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  burn dev generate-ledger ledger.jsonl --size 64MB
  burn dev sqlite-options")]
pub(super) struct DevArgs {
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Write a synthetic ledger; the same seed, size and profile give the same bytes.
    #[command(after_help = "\
Examples:
  burn dev generate-ledger ledger.jsonl --size 64MB --seed 1
  burn dev generate-ledger odd.jsonl --size 5MB --profile adversarial --force")]
    GenerateLedger {
        /// The file to write.
        out: PathBuf,
        /// Size of the file: bytes, or with KB, MB, GB, KiB, MiB, GiB.
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// The same seed, size and profile give the same bytes.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The kinds of lines and their shares.
        #[arg(long, value_enum, default_value_t = Profile::Mixed)]
        profile: Profile,
        /// Replace an existing file.
        #[arg(long)]
        force: bool,
    },
    /// Load a ledger with one INSERT a row, for comparison with a rebuild; stamps are not folded.
    #[command(after_help = "Examples:\n  burn dev naive-load ledger.jsonl naive.sqlite")]
    NaiveLoad {
        /// The ledger.
        ledger: PathBuf,
        /// The database to make; it must not exist yet.
        out: PathBuf,
    },
    /// Read price cases from standard input, a JSON object a line, and print the charge of each.
    #[command(hide = true, after_help = "Examples:\n  burn dev price < prices.jsonl")]
    Price,
    /// Print SQLite's version and the options it was compiled with.
    #[command(after_help = "Examples:\n  burn dev sqlite-options")]
    SqliteOptions,
}

pub(super) fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    let (out, size, seed, profile, force) = match args.command {
        DevCommand::GenerateLedger { out, size, seed, profile, force } => (out, size, seed, profile, force),
        DevCommand::NaiveLoad { ledger, out } => {
            // Not SQLite, because it opens a file that is there, and gives a new one the mode of its directory.
            disk::File::create_new(&out)?;
            naive::load(&ledger, &out)?;
            return Ok(ExitCode::SUCCESS);
        }
        DevCommand::Price => return super::price::dev(),
        DevCommand::SqliteOptions => return sqlite_options(),
    };
    let options = GenerateOptions { size_bytes: size, seed, profile };
    let started = std::time::Instant::now();
    // A killed run left its file. One that cannot be deleted does no harm.
    let _ = store::remove_leftovers(disk::parent_of(&out), &[TEMPORARY_PREFIX], LEFTOVER_AGE);
    let summary = generate_file(&out, &options, force, |_| {})?;
    let seconds = started.elapsed().as_secs_f64().max(0.001);
    let text = format!(
        "{}: {}, {} in {seconds:.2} s ({}/s)\n",
        out.display(),
        counted(summary.lines, "line"),
        human_bytes(summary.bytes),
        human_bytes((summary.bytes as f64 / seconds) as u64)
    );
    print_text(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn sqlite_options() -> anyhow::Result<ExitCode> {
    let connection = rusqlite::Connection::open_in_memory()?;
    let mut text = format!("SQLite {}\n", rusqlite::version());
    let mut statement = connection.prepare("PRAGMA compile_options")?;
    for option in statement.query_map([], |row| row.get::<_, String>(0))? {
        text.push_str(&option?);
        text.push('\n');
    }
    print_text(&text)?;
    Ok(ExitCode::SUCCESS)
}

//! `burn ingest`: drain a journal into a store and the ledger.
//!
//! May touch: the journal's cursor, the store, and the ledger by its ordinary append path. Promises: stopped or killed
//! anywhere, the next run goes on where this one was, and nothing is missing or there twice.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::home::Home;
use crate::ingest::{HybridStore, Ingestor};
use crate::journal::JournalReader;
use serde_json::json;

/// How often `--follow` looks whether draining ended with an error.
const WATCH: Duration = Duration::from_millis(100);

/// Drain a journal: assertions, votes and epochs into a store, ledger lines into the ledger.
///
/// Records that cannot be understood are set aside in the store, under Q: and their offset, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  burn ingest --once
  burn ingest --journal ./log --store ./store --follow")]
pub struct IngestArgs {
    /// The journal's directory [default: journal in the home].
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// The store's directory; created when missing [default: ingest in the home].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Stop when the journal has nothing more. This is the default.
    #[arg(long, conflicts_with = "follow")]
    once: bool,
    /// Go on with records as they are appended, until killed.
    #[arg(long, conflicts_with = "json")]
    follow: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs `burn ingest`.
pub fn run(args: IngestArgs) -> anyhow::Result<ExitCode> {
    let journal = match args.journal {
        Some(journal) => journal,
        None => Home::from_env()?.journal_dir(),
    };
    let store = match args.store {
        Some(store) => store,
        None => Home::from_env()?.root().join("ingest"),
    };
    let mut ingestor = Ingestor::new(JournalReader::open(&journal)?, HybridStore::open(&store)?)?;
    if args.follow {
        ingestor.start()?;
        while ingestor.is_running() {
            std::thread::sleep(WATCH);
        }
        ingestor.into_store()?;
        return Ok(ExitCode::SUCCESS);
    }
    let drained = ingestor.drain()?;
    let lag_bytes = ingestor.lag()?;
    let mut output = io::stdout().lock();
    if args.json {
        let document = json!({
            "records": drained.records,
            "payloadBytes": drained.payload_bytes,
            "ledgerLines": drained.ledger_lines,
            "setAside": drained.set_aside,
            "lagBytes": lag_bytes,
        });
        writeln!(output, "{document}")?;
    } else {
        let (records, lines, aside) = (drained.records, drained.ledger_lines, drained.set_aside);
        writeln!(output, "{records} records drained: {lines} lines to the ledger, {aside} set aside")?;
    }
    Ok(ExitCode::SUCCESS)
}

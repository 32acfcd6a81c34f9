//! `burn journal drain`: drain a journal into a store and the ledger.
//!
//! May touch: the store's cursor in the journal and its file `DELIVERED`, the store, and the ledger by its ordinary append
//! path. Guarantees: after a stop or a kill the next run continues, and no record is lost or stored
//! twice.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::super::arguments::{HomeArg, JsonArg};
use super::super::{
    counted, grouped, human_bytes, interrupt, print, print_text, progress::Spinner, refuse_foreign, warn,
};
use super::common::require_journal;
use crate::ingest::{Drained, HybridStore, IngestError, Ingestor, ledger_sink};
use crate::interrupt::Interrupt;
use crate::journal::JournalReader;
use crate::ledger::Ledger;

/// How long `--follow` sleeps while the journal has no new records, and after the ledger did not accept lines.
const POLL: Duration = Duration::from_millis(20);
const LEDGER_RETRY: Duration = Duration::from_millis(500);

/// Most records that are named when they are set aside; the store has all of them.
const SET_ASIDE_SHOWN: u64 = 5;

/// Drain a journal: assertions, votes and epochs into a store, ledger lines into the ledger of the home.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Assertions, votes and epochs go to the store, lines queued by `burn ledger append --via-journal` to the ledger of the \
home, each once. Records that cannot be understood are set aside in the store, under Q: and their offset, with the \
reason. After a kill, the next run continues. `burn journal status` shows the store's cursor and how many bytes the store \
lacks. A store is filled from one journal: another journal is refused, also one that was begun again in the same directory.

Examples:
  burn journal drain
  burn journal drain ./log --store ./store --follow
  burn journal status ~/.relayburn/journal")]
pub struct DrainArgs {
    /// The journal's directory [default: journal in the home].
    dir: Option<PathBuf>,
    /// The store's directory; created when missing [default: ingest in the home].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// The default, which scripts may still name.
    #[arg(long, hide = true, conflicts_with = "follow")]
    once: bool,
    /// Go on with records as they are appended, until SIGINT or SIGTERM.
    #[arg(long, conflicts_with = "json")]
    follow: bool,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    home: HomeArg,
}

/// Runs `burn journal drain`.
pub fn run(args: DrainArgs) -> anyhow::Result<ExitCode> {
    let journal = match args.dir {
        Some(journal) => journal,
        None => args.home.home()?.journal_dir(),
    };
    let store = match args.store {
        Some(store) => store,
        None => args.home.home()?.root().join("ingest"),
    };
    watch_engines(store.clone());
    let interrupt = interrupt::watch();
    // The journal first: a mistyped name makes no store.
    require_journal(&journal)?;
    let reader = JournalReader::open(&journal)?;
    refuse_foreign(&store, "store of `burn journal drain`", |names| {
        let is_engine = |name: &String| name.starts_with("fjall") || name.starts_with("index.redb");
        names.iter().any(is_engine) || names.iter().all(|name| name == "LOCK")
    })?;
    let mut ingestor = Ingestor::new(reader, HybridStore::open(&store)?)?;
    // Without a home, a journal without lines for the ledger can be drained all the same.
    if let Ok(home) = args.home.home() {
        ingestor.set_ledger_sink(ledger_sink(Ledger::new(home), &journal, &interrupt))?;
    }
    let journal_name = journal.display().to_string();
    let mut told = 0;
    ingestor.on_set_aside(Box::new(move |aside| {
        told += 1;
        if told <= SET_ASIDE_SHOWN {
            warn(&format!(
                "{journal_name} at offset {} ({}): set aside: {}",
                aside.offset,
                counted(aside.len_bytes, "byte"),
                aside.reason
            ));
        }
    }))?;
    let drained = drain(&mut ingestor, args.follow, &interrupt);
    if let Ok(drained) = &drained
        && drained.set_aside > 0
    {
        let more = match drained.set_aside.saturating_sub(SET_ASIDE_SHOWN) {
            0 => String::new(),
            more => format!("{} set aside; ", counted(more, "more record")),
        };
        warn(&format!(
            "{more}what was set aside is kept in {}, under Q: and its offset in 16 hex digits: queue it again once it is right",
            store.display()
        ));
    }
    let drained = drained?;
    let lag_bytes = ingestor.lag()?;
    if args.form.json {
        let document = json!({
            "records": drained.records,
            "payloadBytes": drained.payload_bytes,
            "ledgerLines": drained.ledger_lines,
            "duplicates": drained.duplicates,
            "setAside": drained.set_aside,
            "lagBytes": lag_bytes,
        });
        print(format!("{document}\n").as_bytes())?;
    } else {
        let (lines, aside) = (counted(drained.ledger_lines, "line"), grouped(drained.set_aside));
        let duplicates = match drained.duplicates {
            0 => String::new(),
            duplicates => format!(", {}", counted(duplicates, "duplicate")),
        };
        let mut text = format!(
            "{} drained: {lines} to the ledger{duplicates}, {aside} set aside",
            counted(drained.records, "record")
        );
        if lag_bytes > 0 {
            text.push_str(&format!("; {} of the journal are left", human_bytes(lag_bytes)));
        }
        print_text(&format!("{text}\n"))?;
    }
    if interrupt.is_requested() && !args.follow && lag_bytes > 0 {
        bail!("interrupted; run it again to go on");
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps panics of the store's engines quiet, because they become errors. A second panic during the cleanup of the first
/// would end the process by a signal, so it ends the process with an error.
pub(super) fn watch_engines(store: PathBuf) {
    let tell = std::panic::take_hook();
    let first = std::sync::OnceLock::new();
    std::panic::set_hook(Box::new(move |panic| {
        if !crate::ingest::is_guarded() {
            return tell(panic);
        }
        let said = panic.payload().downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.payload().downcast_ref::<&str>().copied()).unwrap_or("an engine panicked");
        let said = said.replace("\n ", ",");
        if first.set(said).is_err() {
            warn(&format!(
                "the store at {} failed: {}; if its files are damaged, put a copy in its place, or move it away and let \
                 what the journal still has be drained again",
                store.display(),
                first.get().map_or("", String::as_str)
            ));
            std::process::exit(1);
        }
    }));
}

/// Drains until the journal has nothing more, with `follow` until interrupted; always to the end of a batch.
fn drain(
    ingestor: &mut Ingestor<HybridStore>,
    follow: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<Drained> {
    let spinner = Spinner::new();
    let mut total = Drained::default();
    let mut last_warning = String::new();
    while !interrupt.is_requested() {
        match ingestor.drain_batch() {
            Ok(drained) if drained.records > 0 => {
                total.add(drained);
                last_warning.clear();
            }
            Ok(_) if !follow => break,
            Ok(_) => {
                interrupt.sleep(POLL);
            }
            // The lines stay queued, and the command was asked to stop.
            Err(IngestError::Ledger { .. }) if follow && interrupt.is_requested() => break,
            Err(error @ IngestError::Ledger { .. }) if follow => {
                let warning = format!("{error}; trying again");
                if warning != last_warning {
                    warn(&warning);
                    last_warning = warning;
                }
                interrupt.sleep(LEDGER_RETRY);
            }
            Err(error) => return Err(error.into()),
        }
        spinner.say(|| {
            let lag = ingestor.lag().map_or_else(|error| error.to_string(), human_bytes);
            format!("{} drained, {lag} left", counted(total.records, "record"))
        });
    }
    spinner.clear();
    Ok(total)
}

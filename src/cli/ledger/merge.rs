//! `burn ledger merge`, `burn ledger export` and `burn ledger machine`: ledgers of several machines.

use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::cli::ledgers::{MergeSpeaker, NamedLedgers, merge_summary};
use crate::cli::{counted, interrupt, print_json, print_result, print_text, warn};
use crate::home::Home;
use crate::ledger::{Ledger, MachineName, MergeFinding, MergeReport};

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// The ledgers: homes, files, also of gzip or zstd, patterns in quotes, or - for standard input.
    #[arg(required = true, value_name = "LEDGER")]
    ledgers: Vec<PathBuf>,
    /// The home whose ledger gets the lines; it is made if it is missing, and may be one of the ledgers.
    #[arg(long, value_name = "HOME")]
    into: PathBuf,
}

pub(super) fn merge(args: &MergeArgs, json: bool) -> anyhow::Result<ExitCode> {
    if args.into.exists() && !args.into.is_dir() {
        bail!("{} is a file, not a home; name the directory of a home", args.into.display());
    }
    let named = NamedLedgers::open(&args.ledgers)?;
    let target = Ledger::new(Home::at(&args.into)).with_interrupt(&interrupt::watch());
    let mut said = MergeSpeaker::default();
    let mut findings: Vec<MergeFinding> = Vec::new();
    let report = target.merge(&named.inputs, &mut |finding| {
        said.say(&finding);
        if json {
            findings.push(finding);
        }
    })?;
    said.finish();
    #[derive(serde::Serialize)]
    struct Merged<'r> {
        findings: Vec<MergeFinding>,
        #[serde(flatten)]
        report: &'r MergeReport,
    }
    print_result(json, &Merged { findings, report: &report }, || {
        merge_summary(&report, &target.home().ledger())
    })
}

/// Writes the lines from `since` on to standard output, and says where the next export begins.
pub(super) fn export(home: Home, since: u64) -> anyhow::Result<ExitCode> {
    if !home.ledger().try_exists().unwrap_or(true) {
        bail!("there is no ledger at {}; --home names another home", home.ledger().display());
    }
    let mut out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
    let exported = Ledger::new(home).export(since, &mut out)?;
    warn(&format!(
        "{} exported; the next export begins with --since {}",
        counted(exported.lines, "line"),
        exported.end
    ));
    Ok(ExitCode::SUCCESS)
}

/// Prints the name of the home's machine, or sets it.
pub(super) fn machine(home: Home, name: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let ledger = Ledger::new(home);
    if let Some(name) = name {
        ledger.set_machine(&MachineName::new(name)?)?;
    }
    let machine = ledger.machine()?;
    let machine = machine.as_ref().map(MachineName::as_str);
    if json {
        print_json(&serde_json::json!({ "machine": machine }))?;
    } else if let Some(machine) = machine {
        print_text(&format!("{machine}\n"))?;
    } else {
        warn("this home's machine has no name; `burn ledger machine NAME` sets one");
    }
    Ok(ExitCode::SUCCESS)
}

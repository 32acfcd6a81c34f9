//! `burn report`: one HTML page with charts and tables of usage and costs.
//!
//! Touches the archive, which it first brings up to date as `burn usage` does, and the page. Guarantees: a file is replaced only if it is a
//! page of this command, or with `--force`; it is written beside its place and renamed. A symbolic link stays and leads to the new page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::value::RawValue;

use super::arguments::{FromArg, JsonArg, now};
use super::usage::{SelectionArgs, bring_up_to_date};
use super::{interrupt, print, print_json, print_text, query, warn, wrong_usage};
use crate::disk::{self, Replacing};
use crate::report::{self, MARKER, ReportNames, ReportOptions, ReportPage};

#[derive(Debug, Args)]
#[command(after_help = "\
Without --since: the last 365 days. Times and filters are those of `burn usage`.

Examples:
  burn report
  burn report --since this-month --out november.html
  burn report --project ~/work/kettle --redact --title 'Kettle' --out -")]
pub(super) struct ReportArgs {
    /// The page; - is standard output.
    #[arg(long, value_name = "FILE", default_value = "burn-report.html")]
    out: PathBuf,
    /// The heading [default: Agents' usage]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Numbers in place of projects, sessions, machines and tags, and of other names that are paths, addresses or ids.
    #[arg(long)]
    redact: bool,
    /// Replace a file that is no report.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    form: JsonArg,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct WrittenReport {
    path: String,
    bytes: usize,
    since: Option<String>,
    until: Option<String>,
    turns: u64,
    usd: Box<RawValue>,
}

pub(super) fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let now = now();
    let is_to_stdout = args.out.as_os_str() == "-";
    if is_to_stdout && args.form.json {
        wrong_usage(&["report"], "--json and the page cannot both be on standard output; give --out FILE");
    }
    let question = args.selection.question("report", now);
    if !is_to_stdout {
        refuse_others_file(&args.out, args.force)?;
    }
    let prices = args.selection.prices()?;
    let interrupt = interrupt::watch();
    let ledgers = args.selection.ledgers("report", FromArg::Archive, &interrupt)?;
    let paths = &ledgers.paths;
    if !args.selection.no_build {
        bring_up_to_date(paths, &interrupt)?;
    }
    let options = ReportOptions {
        title: args.title,
        names: if args.redact { ReportNames::Numbered } else { ReportNames::Recorded },
    };
    let page = report::make(paths, &question, &prices, now, &options, &interrupt)?;
    if is_to_stdout {
        print(page.html.as_bytes())?;
    } else {
        disk::replace(&disk::target_of(&args.out)?, page.html.as_bytes(), Replacing::Unsynced)?;
        if args.form.json {
            print_json(&WrittenReport::of(&page, &args.out)?)?;
        } else {
            print_text(&format!("{}\n", args.out.display()))?;
        }
    }
    if page.total.turns == 0 {
        warn("the page has no turns: none is in this time and passes the filters");
    }
    query::warn_if_behind(paths).unwrap_or_else(|error| warn(&error.to_string()));
    Ok(ExitCode::SUCCESS)
}

impl WrittenReport {
    fn of(page: &ReportPage, path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            path: path.to_string_lossy().into_owned(),
            bytes: page.html.len(),
            since: page.since.map(crate::usage::Instant::to_rfc3339_nanos),
            until: page.until.map(crate::usage::Instant::to_rfc3339_nanos),
            turns: page.total.turns,
            usd: RawValue::from_string(page.total.usd.to_string())?,
        })
    }
}

/// Refuses a file that exists and does not begin as a report does, unless it may be replaced; and what is no regular file.
fn refuse_others_file(path: &Path, may_replace: bool) -> anyhow::Result<()> {
    let opened = disk::if_there(disk::File::open_read(path)).context("cannot see whether it is a report")?;
    let Some(file) = opened.filter(|_| !may_replace) else { return Ok(()) };
    let mut start = [0; MARKER.len()];
    let len = file.read_at(&mut start, 0)?;
    if start[..len] != *MARKER.as_bytes() {
        bail!("{} exists and is no report; --force replaces it, --out names another file", path.display());
    }
    Ok(())
}

//! Options that several commands have, each declared and read here: the form of the answer, the home and its files, times, filters.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::{warn, wrong_usage};
use crate::archive::Paths;
use crate::home::{Home, NoHome};
use crate::record::Pattern;
use crate::record::time::{Bound, Instant, WeekStart, Zone};

/// The form of the answer. Commands that print no document do not have this option, so that they refuse it.
#[derive(Debug, Args)]
pub(super) struct JsonArg {
    /// Print one JSON document.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Which home.
#[derive(Debug, Args)]
pub(super) struct HomeArg {
    /// The home [default: $RELAYBURN_HOME, else ~/.relayburn]
    #[arg(long, value_name = "DIR", global = true)]
    home: Option<PathBuf>,
}

impl HomeArg {
    pub(super) fn home(&self) -> Result<Home, NoHome> {
        self.home.as_ref().map_or_else(Home::from_env, |root| Ok(Home::at(root)))
    }
}

/// Which ledger and archive.
#[derive(Debug, Args)]
pub(super) struct FilesArgs {
    /// This ledger instead of the home's (with --archive); nothing is appended to it.
    #[arg(long, value_name = "FILE", requires = "archive")]
    ledger: Option<PathBuf>,
    /// This archive instead of the home's (with --ledger).
    #[arg(long, value_name = "FILE", requires = "ledger")]
    archive: Option<PathBuf>,
}

impl FilesArgs {
    /// The two files, when they are named.
    pub(super) fn named(&self) -> anyhow::Result<Option<Paths>> {
        let (Some(ledger), Some(archive)) = (&self.ledger, &self.archive) else { return Ok(None) };
        if !ledger.try_exists().with_context(|| format!("cannot look at {}", ledger.display()))? {
            bail!("there is no ledger at {}; name a file that is there", ledger.display());
        }
        Ok(Some(Paths::offline(ledger.clone(), archive.clone())))
    }
}

/// Where records come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FromArg {
    /// archive.sqlite: fast, and as of its last build.
    Archive,
    /// ledger.jsonl: every line, whatever the archive's state.
    Ledger,
}

/// A span of time, and the zone of its days.
#[derive(Debug, Args)]
pub(super) struct TimeArgs {
    /// Only from this time on: 7d, 36h, today, last-week, 2026-11, 2026-11-05, 2026-11-05T10:07, with Z or an offset.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only up to this time, inclusive; a day, a week, a month and a year end with their last instant.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// The time zone of days and hours: Europe/Berlin, UTC, local, +05:45 [default: that of the system]
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true)]
    tz: Option<String>,
    /// The first day of a week: monday, sunday, saturday [default: monday]
    #[arg(long, value_name = "DAY")]
    week_start: Option<String>,
}

/// What [`TimeArgs`] say.
pub(super) struct AskedTimes {
    pub(super) since: Option<Instant>,
    pub(super) until: Option<Instant>,
    pub(super) zone: Zone,
    pub(super) week_start: WeekStart,
}

impl TimeArgs {
    /// Reads the options. Times that make no sense end the program with the usage of `command`.
    pub(super) fn read(&self, command: &str, now: Instant) -> AskedTimes {
        let refused = |reason: String| -> ! { wrong_usage(&[command], &reason) };
        let zone = zone(self.tz.as_deref(), command);
        if let (None, Some(value)) = (&self.tz, Zone::ignored_variable()) {
            warn(&format!("TZ is {value:?}, which names no time zone; days are those of {}", zone.name()));
        }
        let week_start = match self.week_start.as_deref() {
            None | Some("monday") => WeekStart::Monday,
            Some("sunday") => WeekStart::Sunday,
            Some("saturday") => WeekStart::Saturday,
            Some(other) => refused(format!("--week-start: {other:?} is none of monday, sunday, saturday")),
        };
        let bound = |bound: Bound, option: &str, text: &Option<String>| {
            let read = |text: &String| bound.parse(text, &zone, week_start, now);
            text.as_ref()
                .map(|text| read(text).unwrap_or_else(|reason| refused(format!("{option}: {reason}"))))
        };
        let since = bound(Bound::Since, "--since", &self.since);
        let until = bound(Bound::Until, "--until", &self.until);
        AskedTimes { since, until, zone, week_start }
    }
}

impl AskedTimes {
    /// The first and the last instant when the first is after the last, so that no time lies between them.
    pub(super) fn reversed(&self) -> Option<[String; 2]> {
        let (first, last) = (self.since?, self.until?);
        (first > last).then(|| [first, last].map(Instant::to_rfc3339_nanos))
    }
}

/// The zone that `--tz` names, else that of the system. A name of no zone ends the program with the usage of `command`.
pub(super) fn zone(name: Option<&str>, command: &str) -> Zone {
    match name {
        None => Zone::local(),
        Some(name) => {
            Zone::named(name).unwrap_or_else(|reason| wrong_usage(&[command], &format!("--tz: {reason}")))
        }
    }
}

/// Now. Tests set it by a variable that no help mentions.
pub(super) fn now() -> Instant {
    let set = std::env::var("BURN_NOW").ok().and_then(|text| Instant::of_turn(&text));
    set.unwrap_or_else(|| {
        let now = jiff::Timestamp::now();
        Instant { seconds: now.as_second(), nanos: now.subsec_nanosecond().unsigned_abs() }
    })
}

/// Which records: those that match one value of each option that is given. `x*` is a beginning, `(none)` is no value.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only records of this project or project key.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) project: Vec<String>,
    /// Only records of this source.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) source: Vec<String>,
    /// Only records of this session.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) session: Vec<String>,
    /// Turns whose stamps say this.
    #[arg(long, value_name = "KEY=VALUE", visible_alias = "enrichment", allow_hyphen_values = true)]
    pub(super) tag: Vec<String>,
}

/// The patterns that the values of an option are.
pub(super) fn patterns(texts: &[String]) -> Vec<Pattern> {
    texts.iter().map(Pattern::new).collect()
}

//! Makes one HTML page with charts and tables of usage and costs.
//!
//! [`make`] reads the archive's turns twice: once to choose the values that are shown by name, once for all numbers.
//! `gather` asks `usage`, `calendar` divides the span into bars, `chart` draws SVG, `tables` and `page` write HTML. The
//! page ends with the documents of `burn usage --json` that its numbers come from.
//!
//! Touches the archive, for reading. Guarantees: the page has no script, needs no network and no other file; a text
//! from a ledger never becomes an element or an attribute, because maud makes all HTML and escapes texts; the same
//! ledger, question and time give the same bytes; every cost equals the cost of `burn usage` with the same bounds.
//!
//! ```
//! use relayburn_ledger::archive::{self, Options, Paths, Unobserved};
//! use relayburn_ledger::home::Home;
//! use relayburn_ledger::interrupt::Interrupt;
//! use relayburn_ledger::report::{self, ReportOptions};
//! use relayburn_ledger::usage::{Instant, Prices, Question};
//!
//! let directory = tempfile::tempdir()?;
//! let home = Home::at(directory.path());
//! std::fs::write(
//!     home.ledger(),
//!     r#"{"v":1,"kind":"turn","record":{"source":"claude-code","sessionId":"s-1","messageId":"m-1","turnIndex":0,
//! "ts":"2026-11-20T10:00:00.000Z","model":"claude-opus-4-7","usage":{"input":1000,"output":200,"reasoning":0,"cacheRead":0,
//! "cacheCreate5m":0,"cacheCreate1h":0},"toolCalls":[]}}"#
//!         .replace('\n', "")
//!         + "\n",
//! )?;
//! let paths = Paths::of_home(&home);
//! archive::build_tail(&paths, &Options::default(), &mut Unobserved)?;
//!
//! let now = Instant::of_turn("2026-11-21T12:00:00Z").ok_or("no time")?;
//! let prices = Prices::of_home(&home)?;
//! let page =
//!     report::make(&paths, &Question::default(), &prices, now, &ReportOptions::default(), &Interrupt::new())?;
//! assert!(page.html.starts_with(report::MARKER));
//! assert_eq!(page.total.usd.to_string(), "0.01");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod calendar;
mod chart;
mod data;
mod gather;
mod page;
mod redact;
mod tables;
mod text;

pub use page::MARKER;

use gather::PageRequest;

use crate::archive::Paths;
use crate::interrupt::Interrupt;
use crate::usage::{Bound, Instant, Prices, Question, Sums, UsageError};

/// The number of days of a page if the question has no first instant.
const DAYS: &str = "365d";

/// Options of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportOptions {
    /// The heading; `Agents' usage` if it is `None`.
    pub title: Option<String>,
    /// The names of projects, sessions, machines and tags.
    pub names: ReportNames,
}

/// The names of projects, sessions, machines and tags on a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReportNames {
    /// The names of the ledger.
    #[default]
    Recorded,
    /// `project 1`, `session 1`, ..., numbered by cost. Other names that are paths, addresses or account ids are
    /// numbered too. The page then has no path and no id.
    Numbered,
}

/// A page with its bounds and totals.
#[derive(Debug, Clone)]
pub struct ReportPage {
    /// The page.
    pub html: String,
    /// The first instant of the page.
    pub since: Option<Instant>,
    /// The last instant of the page; `None` without a bound.
    pub until: Option<Instant>,
    /// The sums of all turns of the page.
    pub total: Sums,
}

/// Makes a page of the turns that a question selects by its filters, bounds and zone. The question's period,
/// dimensions, order and limit are ignored. Without a first instant, the page covers the last 365 days, and its charts
/// begin with the first turn.
///
/// # Errors
/// [`UsageError`].
pub fn make(
    paths: &Paths,
    question: &Question,
    prices: &Prices,
    now: Instant,
    options: &ReportOptions,
    interrupt: &Interrupt,
) -> Result<ReportPage, UsageError> {
    let default_since = || Bound::Since.parse(DAYS, &question.zone, question.week_start, now).ok();
    let since = question.since.or_else(default_since);
    let base = Question {
        since,
        period: None,
        by: Vec::new(),
        sort: None,
        limit: None,
        fill: false,
        explain: false,
        ..question.clone()
    };
    let until = base.until;
    let is_since_given = question.since.is_some();
    let mut gathered = gather::gather(&PageRequest { paths, base, is_since_given, prices, now, interrupt })?;
    if options.names == ReportNames::Numbered {
        redact::number_names(&mut gathered);
    }
    gathered.limit_projects()?;
    let html = page::page(&gathered, options.title.as_deref());
    Ok(ReportPage { html, since, until, total: gathered.total.total })
}

//! Usage and costs: totals over the turns of the archive, by period and by dimension.
//!
//! [`ask`] answers a [`Question`] from the archive, and [`ask_ledger`] from the ledger itself. Both return the same
//! [`Answer`]. No totals are stored: every answer is added up from the turns, on all cores.
//!
//! Guarantees: tokens and costs are whole numbers and exact ([`Usd`]); rows add up to their total to the last digit;
//! tokens without a price are counted and named; a cost that is only a lower bound is marked.
//!
//! The usage of a week:
//!
//! ```
//! use relayburn_ledger::archive::{self, Options, Paths, Unobserved};
//! use relayburn_ledger::home::Home;
//! use relayburn_ledger::interrupt::Interrupt;
//! use relayburn_ledger::usage::{self, Bound, Instant, Period, Prices, Question, WeekStart, Zone};
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
//! let zone = Zone::named("Europe/Berlin")?;
//! let now = Instant::of_turn("2026-11-21T12:00:00Z").ok_or("no time")?;
//! let since = Bound::Since.parse("7d", &zone, WeekStart::Monday, now)?;
//! let question = Question { period: Some(Period::Day), since: Some(since), zone, ..Question::default() };
//! let answer = usage::ask(&paths, &question, &Prices::of_home(&home)?, &Interrupt::new())?;
//! assert_eq!(answer.rows[0].period.as_ref().map(|day| &*day.key), Some("2026-11-20"));
//! assert_eq!(answer.total.usd.to_string(), "0.01");
//! assert_eq!(answer.total.unpriced_tokens, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod error;
mod from_ledger;
mod glance;
mod money;
pub mod prices;
mod question;
#[cfg(any(feature = "cli", feature = "report"))]
pub(crate) mod shown;
mod tally;
pub mod turn;

#[cfg(feature = "report")]
use std::collections::HashMap;
use std::ops::ControlFlow;

pub use answer::{Answer, AnswerRow, LedgerUsed, LinesLeftOut, PricesUsed, RowPeriod, Unpriced};
pub use error::UsageError;
pub use glance::{ActiveBlock, Glance, active_block, glance};
pub use money::{TooLarge, Usd};
pub use prices::{PriceTable, Prices, PricesError};
pub use question::{DIMENSIONS_MAX, Dimension, Filters, Period, Question, SortKey};
pub use tally::{ExplainedTurn, LowerBounds, PricedAs, Sums, UnpricedReason};

pub use crate::record::Pattern;
pub use crate::record::time::{Bound, Instant, TIME_FORMS, WeekStart, Zone};

use crate::archive::query::{TsBounds, TurnScan, scan_turns};
use crate::archive::{self, ArchiveError, Paths};
use crate::interrupt::Interrupt;
use crate::scan::{Io, ScanError, Source};
use tally::UsageTally;

/// Answers a question from the archive. A question that asks for explanations is answered from the part of the ledger
/// that the archive has read.
///
/// # Errors
/// [`UsageError`].
pub fn ask(
    paths: &Paths,
    question: &Question,
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<Answer, UsageError> {
    if question.explain {
        return explain(paths, question, prices, interrupt);
    }
    one(ask_all(paths, std::slice::from_ref(question), prices, interrupt)?)
}

/// Answers several questions from one state of the archive, and returns the answers in the order of the questions. Each
/// turn is read and priced once. Turns are not explained. The first question sets the number of threads.
///
/// # Errors
/// [`UsageError`].
pub fn ask_all(
    paths: &Paths,
    questions: &[Question],
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<Vec<Answer>, UsageError> {
    let questions: Vec<Question> =
        questions.iter().map(|question| Question { explain: false, ..question.completed() }).collect();
    let (ledger, tallies) =
        tally_archive(paths, &questions, interrupt, || UsageTally::new(&questions, prices))?;
    answers(&questions, prices, ledger, tallies)
}

/// Answers questions like [`ask_all`], and returns how many turns of the first question have each key of the
/// enrichment.
#[cfg(feature = "report")]
pub(crate) fn ask_all_and_keys(
    paths: &Paths,
    questions: &[Question],
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<(Vec<Answer>, HashMap<String, u64>), UsageError> {
    let (ledger, tallies) =
        tally_archive(paths, questions, interrupt, || UsageTally::new(questions, prices).counting_keys())?;
    let merged = answer::merge(tallies)?;
    let Some(mut merged) = merged else { return Ok((Vec::new(), HashMap::new())) };
    let answers = answer::finish(&mut merged, &prices_used(prices), &ledger)?;
    Ok((answers, merged.into_key_turns()))
}

fn tally_archive<'q>(
    paths: &Paths,
    questions: &[Question],
    interrupt: &Interrupt,
    new: impl Fn() -> UsageTally<'q> + Sync,
) -> Result<(LedgerUsed, Vec<UsageTally<'q>>), UsageError> {
    let scan = TurnScan {
        columns: UsageTally::columns(questions),
        between: between(questions),
        is_undated: &|ts| Instant::of_turn(ts).is_none(),
        threads: questions.first().map_or(0, |question| question.threads),
        interrupt,
    };
    let (state, tallies) = scan_turns(&paths.archive, &scan, new, |tally, turn| {
        tally.add(turn, None);
        if tally.error.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let bytes = std::fs::metadata(&paths.ledger).map_or(0, |ledger| ledger.len());
    let taken_in_bytes = u64::try_from(state.ledger_offset_bytes).unwrap_or(0);
    Ok((LedgerUsed { path: paths.ledger.clone(), taken_in_bytes, bytes }, tallies))
}

/// Answers a question from all complete lines of the ledger.
///
/// # Errors
/// [`UsageError`].
pub fn ask_ledger(
    paths: &Paths,
    question: &Question,
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<Answer, UsageError> {
    let source = open_ledger(paths)?;
    let end = source.line_end_before(0, source.len_bytes())?;
    from_source(&source, end, question, prices, interrupt)
}

fn explain(
    paths: &Paths,
    question: &Question,
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<Answer, UsageError> {
    let other = |reason: String| UsageError::OtherLedger { ledger: paths.ledger.clone(), reason };
    let Some(comparison) = archive::compare(paths)? else {
        return Err(match paths.archive.try_exists() {
            Ok(true) => other("the archive is of another version".to_owned()),
            _ => ArchiveError::Missing { path: paths.archive.clone() }.into(),
        });
    };
    if let Some(lost) = comparison.lost {
        return Err(other(lost.to_string()));
    }
    let source = open_ledger(paths)?;
    let end = comparison.cursor_bytes.min(source.len_bytes());
    from_source(&source, source.line_end_before(0, end)?, question, prices, interrupt)
}

fn open_ledger(paths: &Paths) -> Result<Source, UsageError> {
    match Source::open(&paths.ledger, Io::default()) {
        Err(ScanError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(UsageError::NoLedger { ledger: paths.ledger.clone() })
        }
        opened => Ok(opened?),
    }
}

fn from_source(
    source: &Source,
    end: u64,
    question: &Question,
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<Answer, UsageError> {
    let questions = [question.completed()];
    let new = || UsageTally::new(&questions, prices);
    let (tallies, lines_left_out) = from_ledger::tally_ledger(source, end, &questions[0], interrupt, new)?;
    let ledger =
        LedgerUsed { path: source.path().to_owned(), taken_in_bytes: end, bytes: source.len_bytes() };
    Ok(Answer { lines_left_out, ..one(answers(&questions, prices, ledger, tallies)?)? })
}

fn answers(
    questions: &[Question],
    prices: &Prices,
    ledger: LedgerUsed,
    tallies: Vec<UsageTally<'_>>,
) -> Result<Vec<Answer>, UsageError> {
    let mut merged = answer::merge(tallies)?.unwrap_or_else(|| UsageTally::new(questions, prices));
    answer::finish(&mut merged, &prices_used(prices), &ledger)
}

/// The only answer.
fn one(answers: Vec<Answer>) -> Result<Answer, UsageError> {
    answers.into_iter().next().ok_or(UsageError::Archive(ArchiveError::Interrupted))
}

fn prices_used(prices: &Prices) -> PricesUsed {
    let table = PriceTable::built_in();
    PricesUsed {
        package: table.package().to_owned(),
        version: table.version().to_owned(),
        sha256: table.sha256().to_owned(),
        own: prices.own().map(|(path, table)| (path.to_owned(), table.sha256().to_owned())),
    }
}

/// Bounds on the text of `ts` that all questions' turns lie within. `None` if a question has none.
fn between(questions: &[Question]) -> Option<TsBounds> {
    let bounds: Option<Vec<_>> = questions.iter().map(Question::ts_bounds).collect();
    let widest = |a: (String, String), b: (String, String)| (a.0.min(b.0), a.1.max(b.1));
    bounds?
        .into_iter()
        .reduce(|a, b| TsBounds { any_offset: widest(a.any_offset, b.any_offset), utc: widest(a.utc, b.utc) })
}

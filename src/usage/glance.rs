//! Adds up a few turns within milliseconds, for a status line.
//!
//! Touches the archive and the end of the ledger, for reading. Guarantees: nothing is written or built, and nothing
//! waits; no lock is taken while no other program has the archive open. Turns that the archive has not read yet count
//! if their lines have at most 4 MiB. Only stamps in these lines apply to these turns.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};

use super::answer::{BLOCK_SECONDS, block_starts, is_after_pause};
use super::error::UsageError;
use super::from_ledger::TurnLines;
use super::prices::Prices;
use super::question::{Period, Question};
use super::tally::{PeriodKey, Sums, UsageTally};
use crate::archive::query::{Glimpse, ReadBy, TsBounds, TurnColumns, TurnFields};
use crate::archive::{ArchiveError, Paths};
use crate::interrupt::Interrupt;
use crate::record::PatternKind;
use crate::record::time::{DAY_SECONDS, Instant};
use crate::scan::{Io, Source};

/// A longer unread part of the ledger is not read.
const UNREAD_MAX_BYTES: u64 = 4 << 20;
/// How often the archive is read at most, because another program changed it meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// Sums at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// The total of each question, in the order of the questions.
    pub sums: Vec<Sums>,
    /// Whether the ledger has bytes that were not read.
    pub is_behind: bool,
}

/// The active block of five hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveBlock {
    /// The beginning of the block.
    pub start: Instant,
    /// The end of the block.
    pub end: Instant,
    /// The sums of its turns so far.
    pub sums: Sums,
    /// Whether the ledger has bytes that were not read.
    pub is_behind: bool,
}

/// Answers questions by their totals. A question about one session, or with a first instant, is fast; any other
/// question reads all turns.
///
/// # Errors
/// [`UsageError`]. A home without an archive is no error.
pub fn glance(
    paths: &Paths,
    questions: &[Question],
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<Glance, UsageError> {
    let asked: Vec<_> = questions.iter().map(|question| (question, question.ts_bounds())).collect();
    let (tallies, is_behind) = look(paths, &asked, prices, interrupt)?;
    let sums = tallies.iter().map(|tally| Sums { calls: 0, ..tally.selections[0].total });
    Ok(Glance { sums: sums.collect(), is_behind })
}

/// The active block of Claude Code's turns, as in `burn usage --active`; `None` if there is none.
///
/// The start of a block depends on all turns since the last pause of five hours. So the turns of 1, 8 and 64 days are
/// read, until they include a pause.
///
/// # Errors
/// As [`glance`].
pub fn active_block(
    paths: &Paths,
    prices: &Prices,
    now: Instant,
    interrupt: &Interrupt,
) -> Result<Option<ActiveBlock>, UsageError> {
    const DAYS: [i64; 3] = [1, 8, 64];
    for days in DAYS {
        let from = Instant { seconds: now.seconds - days * DAY_SECONDS, ..now };
        if let Some(found) = block_since(paths, prices, Some(from), now, interrupt)? {
            return Ok(found);
        }
    }
    Ok(block_since(paths, prices, None, now, interrupt)?.flatten())
}

/// The active block, if it follows from the turns since `from`; otherwise the outer `None`.
fn block_since(
    paths: &Paths,
    prices: &Prices,
    from: Option<Instant>,
    now: Instant,
    interrupt: &Interrupt,
) -> Result<Option<Option<ActiveBlock>>, UsageError> {
    let of_blocks = Question { period: Some(Period::Block), until: Some(now), ..Question::default() };
    let of_blocks = of_blocks.completed();
    let bounds = Question { since: from, until: Some(now), ..Question::default() }.ts_bounds();
    let (tallies, is_behind) = look(paths, &[(&of_blocks, bounds)], prices, interrupt)?;
    let [tally] = &tallies[..] else { return Ok(None) };
    // Only some of the turns before `from` were read.
    let mut hours: Vec<_> = tally.selections[0]
        .hours
        .iter()
        .map(|(hour, times)| (*hour, *times))
        .filter(|(_, (first, last))| from.is_none_or(|from| *last >= from) && *first <= now)
        .collect();
    hours.sort_unstable();
    let Some((_, (_, last))) = hours.last() else { return Ok(Some(None)) };
    if is_after_pause(*last, now) {
        return Ok(Some(None));
    }
    let pause = hours.windows(2).rposition(|pair| is_after_pause(pair[0].1.1, pair[1].1.0));
    let first = match (pause, from) {
        (Some(before), _) => before + 1,
        (None, None) => 0,
        (None, Some(_)) => return Ok(None),
    };
    let starts = block_starts(&hours[first..]);
    let Some(start) = starts.last().copied().filter(|start| now.seconds < start * 3600 + BLOCK_SECONDS)
    else {
        return Ok(Some(None));
    };
    let mut sums = Sums::default();
    for ((period, _), row) in &tally.groups[0].rows {
        if matches!(period, PeriodKey::Block(hour) if *hour >= start) {
            sums.add(&row.sums)?;
        }
    }
    let (start, end) = (Instant::at(start * 3600), Instant::at(start * 3600 + BLOCK_SECONDS));
    Ok(Some(Some(ActiveBlock { start, end, sums: Sums { calls: 0, ..sums }, is_behind })))
}

/// A question, and bounds on the text of `ts` that include all its turns.
type Asked<'q> = (&'q Question, Option<TsBounds>);

/// Adds up the turns of each question. Returns whether the ledger has bytes that were not read.
fn look<'q>(
    paths: &Paths,
    asked: &[Asked<'q>],
    prices: &'q Prices,
    interrupt: &Interrupt,
) -> Result<(Vec<UsageTally<'q>>, bool), UsageError> {
    let (mut attempt, mut by) = (1, ReadBy::Pages);
    loop {
        match look_once(paths, asked, prices, by, interrupt) {
            Err(UsageError::Archive(ArchiveError::Changed { .. })) if attempt < ATTEMPTS_MAX => attempt += 1,
            Ok(None) => by = ReadBy::Sqlite,
            Ok(Some(looked)) => return Ok(looked),
            Err(error) => return Err(error),
        }
    }
}

/// Returns `None` when a page is unreadable.
fn look_once<'q>(
    paths: &Paths,
    asked: &[Asked<'q>],
    prices: &'q Prices,
    by: ReadBy,
    interrupt: &Interrupt,
) -> Result<Option<(Vec<UsageTally<'q>>, bool)>, UsageError> {
    let archive = match Glimpse::open(&paths.archive) {
        Ok(archive) => Some(archive),
        Err(ArchiveError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let cursor = archive.as_ref().map_or(0, Glimpse::cursor_bytes);
    let mut tallies: Vec<UsageTally<'_>> =
        asked.iter().map(|(question, _)| UsageTally::new(std::slice::from_ref(*question), prices)).collect();
    let hashes = (RandomState::new(), RandomState::new());
    let (unread, is_behind) = match unread(paths, cursor)? {
        Unread::Lines(source, range) if range.end - range.start <= UNREAD_MAX_BYTES => {
            (add_lines(&source, range, &mut tallies, &hashes, interrupt)?, false)
        }
        Unread::Lines(..) | Unread::Shorter => (HashMap::new(), true),
        Unread::Nothing => (HashMap::new(), false),
    };
    if let Some(archive) = archive {
        let all = TsBounds::all();
        let read = asked.iter().zip(&mut tallies).try_fold(true, |is_whole, ((question, bounds), tally)| {
            let mut add = |turn: &TurnFields<'_>| {
                if unread.is_empty()
                    || !unread.contains_key(&key(&hashes, turn.source, turn.session, turn.message))
                {
                    tally.add(turn, None);
                }
                if interrupt.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            // Turns of the lines that were read replace turns of the archive.
            let needed = UsageTally::columns(std::slice::from_ref(*question));
            let columns = TurnColumns { keys: needed.keys || !unread.is_empty(), ..needed };
            let is_read = match session_of(question) {
                Some(session) => archive.turns_of_session(columns, session, &mut add).map(|()| true),
                None => archive.turns_between(by, columns, bounds.as_ref().unwrap_or(&all), &mut add),
            };
            is_read.map(|is_read| is_whole && is_read)
        });
        if !archive.settle(read)? {
            return Ok(None);
        }
        if interrupt.is_requested() {
            return Err(ArchiveError::Interrupted.into());
        }
    }
    match tallies.iter().find_map(|tally| tally.error) {
        Some(error) => Err(error.into()),
        None => Ok(Some((tallies, is_behind))),
    }
}

/// The session of a question, if its filter names exactly one.
fn session_of(question: &Question) -> Option<&str> {
    match &question.filters.session[..] {
        [pattern] => match pattern.kind() {
            PatternKind::Whole(session) => Some(session),
            _ => None,
        },
        _ => None,
    }
}

/// What the ledger has that the archive does not cover.
enum Unread {
    Nothing,
    /// Complete lines.
    Lines(Source, Range<u64>),
    /// Unknown, because the ledger is shorter than the archive's cursor.
    Shorter,
}

fn unread(paths: &Paths, cursor: u64) -> Result<Unread, UsageError> {
    let Some(source) = Source::open_if_there(&paths.ledger, Io::Read)? else { return Ok(Unread::Nothing) };
    if source.len_bytes() < cursor {
        return Ok(Unread::Shorter);
    }
    let end = source.line_end_before(cursor, source.len_bytes())?;
    Ok(if end > cursor { Unread::Lines(source, cursor..end) } else { Unread::Nothing })
}

/// A key has two hashes with different seeds, so that two turns never share a key in practice.
type TurnKeyHash = (u64, u64);

fn key(hashes: &(RandomState, RandomState), source: &str, session: &str, message: &str) -> TurnKeyHash {
    let key = (source, session, message);
    (hashes.0.hash_one(key), hashes.1.hash_one(key))
}

/// Adds the turns of lines, each by its last line. Returns the keys of these turns with the offsets of their last
/// lines.
fn add_lines(
    source: &Source,
    range: Range<u64>,
    tallies: &mut [UsageTally<'_>],
    hashes: &(RandomState, RandomState),
    interrupt: &Interrupt,
) -> Result<HashMap<TurnKeyHash, u64>, UsageError> {
    let lines = TurnLines::read(source, range, interrupt)?;
    let key = |turn: &TurnFields<'_>| key(hashes, turn.source, turn.session, turn.message);
    let mut last = HashMap::new();
    lines.each(|offset, turn| {
        last.insert(key(turn), offset);
    });
    lines.each(|offset, turn| {
        if last.get(&key(turn)) == Some(&offset) {
            tallies.iter_mut().for_each(|tally| tally.add(turn, None));
        }
    });
    Ok(last)
}

//! Adds up a few turns within milliseconds, for a status line.
//!
//! Touches the archive and the end of the ledger, for reading. Guarantees: nothing is written or built, and nothing
//! waits; no lock is taken while no other program has the archive open. Turns that the archive has not read yet count
//! if their lines have at most 4 MiB. Only stamps in these lines apply to these turns.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};

use super::error::UsageError;
use super::from_ledger::TurnLines;
use super::prices::Prices;
use super::question::Question;
use super::tally::{Sums, Tally};
use crate::archive::query::{Glimpse, TurnColumns, TurnFields};
use crate::archive::{ArchiveError, Paths};
use crate::interrupt::Interrupt;
use crate::record::PatternKind;
use crate::scan::{Io, ScanError, Source};

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
    let mut attempt = 1;
    loop {
        match look(paths, questions, prices, interrupt) {
            Err(UsageError::Archive(ArchiveError::Changed { .. })) if attempt < ATTEMPTS_MAX => attempt += 1,
            looked => return looked,
        }
    }
}

fn look(
    paths: &Paths,
    questions: &[Question],
    prices: &Prices,
    interrupt: &Interrupt,
) -> Result<Glance, UsageError> {
    let archive = match Glimpse::open(&paths.archive) {
        Ok(archive) => Some(archive),
        Err(ArchiveError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let cursor = archive.as_ref().map_or(0, Glimpse::cursor_bytes);
    let mut tallies: Vec<Tally<'_>> =
        questions.iter().map(|question| Tally::new(std::slice::from_ref(question), prices)).collect();
    let hashes = (RandomState::new(), RandomState::new());
    let (unread, is_behind) = match unread_lines(paths, cursor)? {
        Some((source, range)) if range.end - range.start <= UNREAD_MAX_BYTES => {
            (add_lines(&source, range, &mut tallies, &hashes, interrupt)?, false)
        }
        Some(_) => (HashMap::new(), true),
        None => (HashMap::new(), false),
    };
    if let Some(archive) = archive {
        let columns =
            TurnColumns { keys: true, projects: true, activity: true, subagents: true, calls: false };
        let read = questions.iter().zip(&mut tallies).try_for_each(|(question, tally)| {
            let mut add = |turn: &TurnFields<'_>| {
                if unread.is_empty()
                    || !unread.contains_key(&key(&hashes, turn.source, turn.session, turn.message))
                {
                    tally.add(turn, None);
                }
                if interrupt.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            match (session_of(question), question.ts_bounds()) {
                (Some(session), _) => archive.turns_of_session(columns, session, &mut add),
                (None, Some((first, end))) => archive.turns_between(columns, (&first, &end), &mut add),
                (None, None) => archive.turns_between(columns, ("", "\u{10ffff}"), &mut add),
            }
        });
        archive.settle(read)?;
    }
    let sums = tallies.into_iter().map(|tally| match tally.error {
        Some(error) => Err(error),
        None => Ok(Sums { calls: 0, ..tally.selections[0].total }),
    });
    Ok(Glance { sums: sums.collect::<Result<_, _>>()?, is_behind })
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

/// The complete lines of the ledger that the archive has not read; `None` if there is no ledger, or if it is shorter
/// than the archive's cursor.
fn unread_lines(paths: &Paths, cursor: u64) -> Result<Option<(Source, Range<u64>)>, UsageError> {
    let source = match Source::open(&paths.ledger, Io::Read) {
        Ok(source) => source,
        Err(ScanError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if source.len_bytes() <= cursor {
        return Ok(None);
    }
    let end = source.line_end_before(cursor, source.len_bytes())?;
    Ok((end > cursor).then_some((source, cursor..end)))
}

/// A key has two hashes with different seeds, so that two turns never share a key in practice.
type TurnHash = (u64, u64);

fn key(hashes: &(RandomState, RandomState), source: &str, session: &str, message: &str) -> TurnHash {
    let key = (source, session, message);
    (hashes.0.hash_one(key), hashes.1.hash_one(key))
}

/// Adds the turns of lines, each by its last line. Returns the keys of these turns with the offsets of their last
/// lines.
fn add_lines(
    source: &Source,
    range: Range<u64>,
    tallies: &mut [Tally<'_>],
    hashes: &(RandomState, RandomState),
    interrupt: &Interrupt,
) -> Result<HashMap<TurnHash, u64>, UsageError> {
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

//! Refolding: finds archived turns that new stamps may change, and folds them again.
//!
//! A stamp refolds the turns of its session; without a session, the turns of its message; without a session and a
//! message, the turns of its time range. The rest of the stamp's selector is not compared. Every refolded turn is
//! folded again from all stamps.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rusqlite::{Connection, OptionalExtension, params};

use super::statement::Statement;
use super::survey::{TURN_KEYS_MAX, TurnKeys};
use crate::record::Cell;
use crate::record::columns::turns;
use crate::record::fold::{Enrichment, Fold, FoldScratch, Stamp};

/// The archived turns that a set of stamps refolds.
#[derive(Debug, Default)]
pub struct TurnsToRefold {
    /// Rowids of the turns, ascending.
    pub rowids: Vec<i64>,
    /// Session ids of the turns, by source.
    pub sessions: HashMap<String, HashSet<String>>,
}

/// Finds the archived turns that `stamps` refold.
///
/// # Errors
/// Any error of SQLite.
pub fn turns_to_refold(
    connection: &Connection,
    stamps: &[&Stamp<'_>],
) -> Result<TurnsToRefold, rusqlite::Error> {
    let mut found = TurnsToRefold::default();
    let sessions: HashSet<&str> = stamps.iter().filter_map(|stamp| stamp.selector.session).collect();
    let unbound = || stamps.iter().map(|stamp| stamp.selector).filter(|selector| selector.session.is_none());
    let messages: HashSet<&str> = unbound().filter_map(|selector| selector.message).collect();
    let ranges =
        unbound().filter(|selector| selector.message.is_none()).filter_map(|selector| selector.range);
    by_session(connection, &sessions, &mut found)?;
    by_message(connection, &messages, &mut found)?;
    by_range(connection, union(ranges.map(|range| (range.from, range.to))), &mut found)?;
    found.rowids.sort_unstable();
    found.rowids.dedup();
    Ok(found)
}

fn add(found: &mut TurnsToRefold, rowid: i64, source: &str, session: &str) {
    found.rowids.push(rowid);
    if !found.sessions.contains_key(source) {
        found.sessions.insert(source.to_string(), HashSet::new());
    }
    if let Some(sessions) = found.sessions.get_mut(source)
        && !sessions.contains(session)
    {
        sessions.insert(session.to_string());
    }
}

/// Adds the current row, whose first columns are rowid, source and session id.
fn add_row(found: &mut TurnsToRefold, row: &rusqlite::Row<'_>) -> Result<(), rusqlite::Error> {
    add(found, row.get(0)?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
    Ok(())
}

/// The index on turns leads with the source. With more sources than this, one scan through the index is faster than a
/// search for each source.
const SOURCES_MAX: usize = 16;

fn by_session(
    connection: &Connection,
    sessions: &HashSet<&str>,
    found: &mut TurnsToRefold,
) -> Result<(), rusqlite::Error> {
    if sessions.is_empty() {
        return Ok(());
    }
    let sources = sources(connection)?;
    if sources.len() > SOURCES_MAX {
        let mut statement = connection.prepare("SELECT rowid, source, session_id FROM turns")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let session = row.get_ref(2)?.as_bytes()?;
            if std::str::from_utf8(session).is_ok_and(|session| sessions.contains(session)) {
                add_row(found, row)?;
            }
        }
        return Ok(());
    }
    let mut turns = connection.prepare("SELECT rowid FROM turns WHERE source = ? AND session_id = ?")?;
    for source in sources {
        for session in sessions {
            let mut rows = turns.query(params![source, session])?;
            while let Some(row) = rows.next()? {
                add(found, row.get(0)?, &source, session);
            }
        }
    }
    Ok(())
}

/// Returns the distinct sources of all turns; skips through the index from one source to the next.
fn sources(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let mut sources: Vec<String> = Vec::new();
    let mut next = connection.prepare("SELECT source FROM turns WHERE source > ? ORDER BY source LIMIT 1")?;
    let mut first: Option<String> = connection
        .query_row("SELECT source FROM turns ORDER BY source LIMIT 1", [], |row| row.get(0))
        .optional()?;
    while let Some(source) = first {
        first = next.query_row([&source], |row| row.get(0)).optional()?;
        sources.push(source);
    }
    Ok(sources)
}

fn by_message(
    connection: &Connection,
    messages: &HashSet<&str>,
    found: &mut TurnsToRefold,
) -> Result<(), rusqlite::Error> {
    if messages.is_empty() {
        return Ok(());
    }
    // No index leads with the message, so the index of the primary key is scanned; it has all columns that the query
    // needs.
    let mut statement = connection.prepare("SELECT rowid, source, session_id, message_id FROM turns")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let message = row.get_ref(3)?.as_bytes()?;
        if std::str::from_utf8(message).is_ok_and(|message| messages.contains(message)) {
            add_row(found, row)?;
        }
    }
    Ok(())
}

/// Bounds of a range; `None` means no bound.
type Bounds<'a> = (Option<&'a str>, Option<&'a str>);

/// Merges overlapping ranges; returns them ascending.
fn union<'a>(ranges: impl Iterator<Item = Bounds<'a>>) -> Vec<Bounds<'a>> {
    let mut ranges: Vec<Bounds<'a>> = ranges
        .filter(|(from, to)| match (from, to) {
            (Some(from), Some(to)) => from <= to,
            _ => true,
        })
        .collect();
    // `None` as a lower bound sorts first, as it has to.
    ranges.sort_unstable();
    let mut union: Vec<Bounds<'a>> = Vec::new();
    for (from, to) in ranges {
        match union.last_mut() {
            Some((_, last)) if last.is_none_or(|last| from.is_none_or(|from| from <= last)) => {
                *last = match (*last, to) {
                    (Some(last), Some(to)) => Some(last.max(to)),
                    _ => None,
                };
            }
            _ => union.push((from, to)),
        }
    }
    union
}

/// The index on `ts` gives rowids alone. Source and session are read afterwards, in the order of the table.
fn by_range(
    connection: &Connection,
    ranges: Vec<Bounds<'_>>,
    found: &mut TurnsToRefold,
) -> Result<(), rusqlite::Error> {
    let mut rowids: Vec<i64> = Vec::new();
    for (from, to) in ranges {
        let mut statement = connection.prepare_cached(match (from, to) {
            (Some(_), Some(_)) => "SELECT rowid FROM turns WHERE ts >= ?1 AND ts <= ?2",
            (Some(_), None) => "SELECT rowid FROM turns WHERE ts >= ?1 AND ?2 IS NULL",
            (None, Some(_)) => "SELECT rowid FROM turns WHERE ?1 IS NULL AND ts <= ?2",
            (None, None) => "SELECT rowid FROM turns WHERE ?1 IS NULL AND ?2 IS NULL",
        })?;
        let mut rows = statement.query(params![from, to])?;
        while let Some(row) = rows.next()? {
            rowids.push(row.get(0)?);
        }
    }
    rowids.sort_unstable();
    rowids.dedup();
    let mut select = connection
        .prepare("SELECT rowid, source, session_id FROM turns WHERE rowid BETWEEN ? AND ? ORDER BY rowid")?;
    for run in runs(&rowids) {
        let mut rows = select.query([run[0], run[run.len() - 1]])?;
        let mut wanted = WantedRowids::new(run);
        while let Some(row) = rows.next()? {
            if wanted.has(row.get(0)?) {
                add_row(found, row)?;
            }
        }
    }
    Ok(())
}

/// Adds the keys of the turns at `rowids`, which ascend. With more than [`TURN_KEYS_MAX`] turns, drops message ids
/// and times instead.
///
/// # Errors
/// Any error of SQLite.
pub fn add_keys(connection: &Connection, rowids: &[i64], keys: &mut TurnKeys) -> Result<(), rusqlite::Error> {
    if rowids.len() > TURN_KEYS_MAX {
        keys.keep_sessions_only();
        return Ok(());
    }
    let mut select = connection.prepare("SELECT session_id, message_id, ts FROM turns WHERE rowid = ?")?;
    for rowid in rowids {
        let mut rows = select.query([rowid])?;
        while let Some(row) = rows.next()? {
            keys.add(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        }
    }
    Ok(())
}

/// Checks, for ascending rowids, whether each is in a run.
struct WantedRowids<'r> {
    /// The part of the run after the rowids that were checked.
    rest: &'r [i64],
}

impl<'r> WantedRowids<'r> {
    fn new(run: &'r [i64]) -> Self {
        Self { rest: run }
    }

    fn has(&mut self, rowid: i64) -> bool {
        while let [wanted, rest @ ..] = self.rest
            && *wanted <= rowid
        {
            self.rest = rest;
            if *wanted == rowid {
                return true;
            }
        }
        false
    }
}

/// Folds the turns at `rowids`, which ascend, again, and writes the turns that changed. This thread reads and writes;
/// `pool` folds a run while this thread writes the run before.
///
/// # Errors
/// Any error of SQLite.
pub fn refold(
    connection: &Connection,
    pool: &ThreadPool,
    rowids: &[i64],
    fold: &Fold<'_>,
) -> Result<(), rusqlite::Error> {
    let mut select = connection.prepare(
        "SELECT rowid, session_id, message_id, ts, enrichment_json FROM turns
         WHERE rowid BETWEEN ? AND ? ORDER BY rowid",
    )?;
    let columns = turns::enrichment::FIELDS.iter().map(|field| field.place).chain([turns::ENRICHMENT_JSON]);
    let set: Vec<String> = columns.map(|place| format!("{} = ?", turns::TABLE.columns[place])).collect();
    let mut update =
        Statement::new(connection, &format!("UPDATE turns SET {} WHERE rowid = ?", set.join(", ")))?;
    let mut folded: Vec<Changed> = Vec::new();
    for mut run in runs(rowids) {
        while !run.is_empty() {
            let mut turns = turns_of(&mut select, &mut run)?;
            while !turns.is_empty() {
                let mut next = Vec::new();
                pool.in_place_scope(|scope| {
                    scope.spawn(|_| next = fold_some(&mut turns, fold));
                    write(&mut update, &folded)
                })?;
                folded = next;
            }
        }
    }
    write(&mut update, &folded)
}

/// The columns of an archived turn that folding needs.
struct ArchivedTurn {
    rowid: i64,
    session: String,
    message: String,
    ts: String,
    enrichment_json: Option<String>,
}

/// Returns the turns of `run` that still exist, until they take more than [`RUN_BYTES`]; `run` is then the rest of
/// the run.
fn turns_of(
    select: &mut rusqlite::Statement<'_>,
    run: &mut &[i64],
) -> Result<Vec<ArchivedTurn>, rusqlite::Error> {
    let mut turns = Vec::with_capacity(run.len());
    let mut rows = select.query([run[0], run[run.len() - 1]])?;
    let mut wanted = WantedRowids::new(run);
    let mut len_bytes = 0;
    while let Some(row) = rows.next()? {
        let rowid = row.get(0)?;
        if wanted.has(rowid) {
            let turn = ArchivedTurn {
                rowid,
                session: row.get(1)?,
                message: row.get(2)?,
                ts: row.get(3)?,
                enrichment_json: row.get(4)?,
            };
            let texts = [&turn.session, &turn.message, &turn.ts].map(String::len);
            len_bytes += texts.iter().sum::<usize>() + turn.enrichment_json.as_ref().map_or(0, String::len);
            turns.push(turn);
            if len_bytes > RUN_BYTES {
                *run = wanted.rest;
                return Ok(turns);
            }
        }
    }
    *run = &[];
    Ok(turns)
}

/// Folds some of `turns` on the cores of the current pool, and removes them from `turns`: the first turn, and as many
/// other turns as take about [`RUN_BYTES`] where they changed. Returns the turns whose enrichment changed.
fn fold_some(turns: &mut Vec<ArchivedTurn>, fold: &Fold<'_>) -> Vec<Changed> {
    let taken_bytes = AtomicUsize::new(0);
    let folded: Vec<Option<Option<Changed>>> = turns
        .par_iter()
        .enumerate()
        .map_init(FoldScratch::default, |scratch, (place, turn)| {
            let is_first = place == 0;
            if !is_first && taken_bytes.load(Ordering::Relaxed) >= RUN_BYTES {
                return None;
            }
            let max_bytes = if is_first { usize::MAX } else { RUN_BYTES };
            let enrichment =
                fold.enrich_within(max_bytes, &turn.session, &turn.message, &turn.ts, scratch)?;
            // The columns follow from the object's text, so an equal text means an equal row.
            let is_changed = turn.enrichment_json.as_deref() != Some(enrichment.json);
            Some(is_changed.then(|| {
                taken_bytes.fetch_add(enrichment.json.len(), Ordering::Relaxed);
                Changed::new(turn.rowid, &enrichment)
            }))
        })
        .collect();
    let mut each = folded.iter();
    turns.retain(|_| each.next().is_none_or(Option::is_none));
    folded.into_iter().flatten().flatten().collect()
}

fn write(update: &mut Statement<'_>, folded: &[Changed]) -> Result<(), rusqlite::Error> {
    for Changed { rowid, columns, json } in folded {
        let columns = columns.each_ref().map(|value| Cell::text(value.as_deref()));
        update.execute(columns.iter().chain(&[Cell::Text(json), Cell::Int(*rowid)]))?;
    }
    Ok(())
}

/// An enrichment that a worker made and the writer has to write.
struct Changed {
    rowid: i64,
    columns: [Option<String>; turns::enrichment::FIELDS.len()],
    json: String,
}

impl Changed {
    fn new(rowid: i64, enrichment: &Enrichment<'_>) -> Self {
        let columns = enrichment.columns.map(|value| value.map(str::to_string));
        Self { rowid, columns, json: enrichment.json.to_string() }
    }
}

/// Limits of a run: turns that are read, folded and written at a time; bytes of the turns, and of their new
/// enrichments.
const RUN_TURNS: usize = 8192;
const RUN_BYTES: usize = 4 << 20;

/// Cuts rowids into runs that are each read as one range: of limited length, and with few other rows in between.
fn runs(rowids: &[i64]) -> impl Iterator<Item = &[i64]> {
    let mut rest = rowids;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let most = rest.len().min(RUN_TURNS);
        // A wider gap is cheaper to skip by a new search than to read through.
        const GAP_ROWS: i64 = 64;
        let mut last = first;
        let len = rest[..most]
            .iter()
            .position(|&rowid| {
                let is_far = rowid - last > GAP_ROWS;
                last = rowid;
                is_far
            })
            .unwrap_or(most);
        let (run, behind) = rest.split_at(len);
        rest = behind;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_every_rowid_once_and_never_span_a_wide_gap() {
        let rowids: Vec<i64> = (0..20_000).filter(|n| n % 7 != 0).chain([30_000, 30_001, 90_000]).collect();
        let all: Vec<i64> = runs(&rowids).flatten().copied().collect();
        assert_eq!(all, rowids);
        for run in runs(&rowids) {
            assert!(!run.is_empty() && run.len() <= RUN_TURNS);
            assert!(run.windows(2).all(|pair| pair[1] - pair[0] <= 64));
        }
        assert_eq!(runs(&[]).count(), 0);
    }
}

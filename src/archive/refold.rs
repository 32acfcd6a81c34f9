//! Refolding: turns that are in the archive already and that new stamps may change.
//!
//! A stamp refolds the turns of its session; without a session, those of its message; without either, those of its range,
//! whether or not the rest of its selector agrees. Every refolded turn is folded again from all stamps.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::fold::{Fold, Scratch, Stamp};

/// The archived turns that a set of stamps refolds.
#[derive(Debug, Default)]
pub struct TurnsToRefold {
    /// Their rowids, ascending.
    pub rowids: Vec<i64>,
    /// Their sessions: source and session id.
    pub sessions: HashSet<(String, String)>,
}

/// Finds the archived turns that `stamps` refold.
///
/// # Errors
/// What SQLite says.
pub fn turns_to_refold(
    connection: &Connection,
    stamps: &[Stamp<'_>],
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
    let key = (source.to_string(), session.to_string());
    found.sessions.insert(key);
}

/// The index on turns leads with the source: with more of them than this, one read through it beats asking for each.
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
                add(found, row.get(0)?, &row.get::<_, String>(1)?, &row.get::<_, String>(2)?);
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

/// The different sources of all turns, by skipping through the index from one to the next.
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
    // No index leads with the message: the one of the primary key holds all that is asked for and is read through.
    let mut statement = connection.prepare("SELECT rowid, source, session_id, message_id FROM turns")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let message = row.get_ref(3)?.as_bytes()?;
        if std::str::from_utf8(message).is_ok_and(|message| messages.contains(message)) {
            add(found, row.get(0)?, &row.get::<_, String>(1)?, &row.get::<_, String>(2)?);
        }
    }
    Ok(())
}

/// Bounds of a range; `None` does not bind.
type Bounds<'a> = (Option<&'a str>, Option<&'a str>);

/// The ranges put together where they overlap, ascending.
fn union<'a>(ranges: impl Iterator<Item = Bounds<'a>>) -> Vec<Bounds<'a>> {
    let mut ranges: Vec<Bounds<'a>> = ranges
        .filter(|(from, to)| match (from, to) {
            (Some(from), Some(to)) => from <= to,
            _ => true,
        })
        .collect();
    // `None` as a lower bound sorts first, as it should.
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

fn by_range(
    connection: &Connection,
    ranges: Vec<Bounds<'_>>,
    found: &mut TurnsToRefold,
) -> Result<(), rusqlite::Error> {
    for (from, to) in ranges {
        let mut statement = connection.prepare_cached(match (from, to) {
            (Some(_), Some(_)) => "SELECT rowid, source, session_id FROM turns WHERE ts >= ?1 AND ts <= ?2",
            (Some(_), None) => "SELECT rowid, source, session_id FROM turns WHERE ts >= ?1 AND ?2 IS NULL",
            (None, Some(_)) => "SELECT rowid, source, session_id FROM turns WHERE ?1 IS NULL AND ts <= ?2",
            (None, None) => "SELECT rowid, source, session_id FROM turns WHERE ?1 IS NULL AND ?2 IS NULL",
        })?;
        let mut rows = statement.query(params![from, to])?;
        while let Some(row) = rows.next()? {
            add(found, row.get(0)?, &row.get::<_, String>(1)?, &row.get::<_, String>(2)?);
        }
    }
    Ok(())
}

/// Folds the turns at `rowids` again and writes those that changed.
///
/// # Errors
/// What SQLite says.
pub fn refold<'f>(connection: &Connection, rowids: &[i64], fold: &Fold<'f>) -> Result<(), rusqlite::Error> {
    let mut scratch: Scratch<'f> = Scratch::default();
    let mut select = connection
        .prepare("SELECT session_id, message_id, ts, enrichment_json FROM turns WHERE rowid = ?")?;
    let mut update = connection.prepare(
        "UPDATE turns SET workflow_id = ?, agent_id = ?, persona = ?, tier = ?, enrichment_json = ? WHERE rowid = ?",
    )?;
    for rowid in rowids {
        let mut rows = select.query([rowid])?;
        let Some(row) = rows.next()? else { continue };
        let (session, message, ts) =
            (row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?);
        let enrichment = fold.enrich(&session, &message, &ts, &mut scratch);
        // The columns follow from the object's text, so an equal text means an equal row.
        if row.get_ref(3)?.as_bytes_or_null()? == Some(enrichment.json.as_bytes()) {
            continue;
        }
        update.execute(params![
            enrichment.workflow_id,
            enrichment.agent_id,
            enrichment.persona,
            enrichment.tier,
            enrichment.json,
            rowid
        ])?;
    }
    Ok(())
}

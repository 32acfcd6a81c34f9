//! Adds the ledger's tail to the live archive in one transaction: new rows, turns that new stamps refold, and the
//! sessions of both.
//!
//! Touches: the live archive. Guarantees: the whole tail is added, or nothing changes and the caller learns that it
//! has to rebuild.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use bumpalo::Bump;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::progress::Phase;
use super::run::{Build, Transaction, nothing_more, stamps_of};
use crate::archive::cursor::{self, Restart};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::load::InsertWriter;
use crate::archive::open::{self, State};
use crate::archive::refold;
use crate::archive::schema::VERSION;
use crate::archive::sessions;
use crate::archive::survey::{self, StampSet, TurnKeys};
use crate::publish;
use crate::record::fold::{Fold, Stamp};
use crate::record::maker::{stored_selector, stored_stamp};
use crate::scan::{Source, json};

impl Build<'_> {
    /// Adds the tail to the live archive. Returns [`Outcome::Restart`] where a full rebuild is faster, unless other
    /// processes have the archive open: publishing could then not rename, so publishing would write everything twice
    /// more and wait for these processes.
    pub(super) fn extend_or_restart(&mut self, connection: Connection) -> Result<Outcome, ArchiveError> {
        let path = &self.paths.archive;
        publish::sweep(path)?;
        let outcome = self.extend(&connection)?;
        // This process's own open connection would count as another reader.
        drop(connection);
        if !matches!(outcome, Outcome::Restart(Restart::RefoldsMost)) || publish::is_free(path)? {
            return Ok(outcome);
        }
        self.is_in_place = true;
        self.counted_from = 0;
        self.session_ids.clear();
        let connection = self.open_live()?;
        self.extend(&connection)
    }

    /// Adds the tail to the live archive in one transaction.
    fn extend(&mut self, connection: &Connection) -> Result<Outcome, ArchiveError> {
        let path = &self.paths.archive;
        let transaction = Transaction::begin(connection, path)?;
        open::complete(connection).context(path, "completing its schema")?;
        let Some(state) = open::read_state(connection, path)? else {
            return Err(ArchiveError::Damaged {
                path: path.clone(),
                reason: "it does not keep its state row".to_string(),
            });
        };
        let start = state.ledger_offset_bytes.max(0) as u64;
        let (mut mtime_ms, mut mark) = (state.ledger_mtime_ms, state.ledger_mark);
        // Another program may have stored rows that a rebuild would not store.
        let is_ours = cursor::is_marked(state.ledger_offset_bytes, mark);
        self.is_in_place |= !is_ours;
        if let Some(source) = self.source.take() {
            let mark_before = cursor::mark(&source, self.end)?;
            let outcome = self.extend_rows(connection, &source, start, is_ours);
            if let Outcome::Restart(reason) = outcome? {
                self.source = Some(source);
                return Ok(Outcome::Restart(reason));
            }
            mtime_ms = source.mtime_ms();
            mark = cursor::mark(&source, self.end)?;
            if mark != mark_before {
                return Err(ArchiveError::LedgerChanged { ledger: self.paths.ledger.clone() });
            }
            self.result.scanned_bytes = self.end - start;
            self.source = Some(source);
        }
        let state = State {
            ledger_offset_bytes: if self.source.is_some() {
                self.end as i64
            } else {
                state.ledger_offset_bytes
            },
            ledger_mtime_ms: mtime_ms,
            archive_version: VERSION,
            last_built_at: Some(self.timestamp()),
            last_rebuild_at: state.last_rebuild_at,
            ledger_mark: mark,
        };
        open::write_state(connection, &state).context(path, "writing its state")?;
        self.held.still_held()?;
        let committing = Instant::now();
        transaction.commit()?;
        self.result.timings.commit = committing.elapsed();
        Ok(Outcome::Done)
    }

    fn extend_rows(
        &mut self,
        connection: &Connection,
        source: &Source,
        start: u64,
        is_ours: bool,
    ) -> Result<Outcome, ArchiveError> {
        let path = &self.paths.archive;
        let input = self.input(source, start);
        if input.range.is_empty() {
            return Ok(Outcome::Done);
        }
        self.report(Phase::Survey, 0, &input)?;
        let surveying = Instant::now();
        // When the archive has few stamps, and all of them without a session, the stamps are loaded whatever the
        // turns of the tail are.
        let is_stamped = connection
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM stamps WHERE session_id <> '*')
                   OR EXISTS (SELECT 1 FROM stamps WHERE source = '*' AND session_id = '*' LIMIT 1 OFFSET ?)",
                [STAMPS_FEW],
                |row| row.get(0),
            )
            .context(path, "looking for stamps")?;
        let mut survey = survey::survey(&self.pool, &input, is_stamped)?;
        let mut wanted = std::mem::take(&mut survey.turns);
        if !is_stamped {
            wanted.forget_places();
        }
        let new: Vec<&Stamp<'_>> = stamps_of(&survey).collect();
        let candidates =
            refold::turns_to_refold(connection, &new).context(path, "looking for turns to refold")?;
        if !self.is_in_place && is_faster_rebuilt(candidates.rowids.len() as u64, self.end) {
            self.counted_from = start;
            candidates.sessions.values().flatten().for_each(|session| self.session_ids.insert(session));
            return Ok(Outcome::Restart(Restart::RefoldsMost));
        }
        wanted.sessions.extend(candidates.sessions.values().flatten().cloned());
        if !candidates.rowids.is_empty() {
            refold::add_keys(connection, &candidates.rowids, &mut wanted)
                .context(path, "looking for turns to refold")?;
        }
        let archived = match archived_stamps(connection, path, &wanted)? {
            Ok(archived) => archived,
            Err(unreadable) => return Ok(Outcome::Restart(unreadable)),
        };
        let fold = Fold::new(new.into_iter().chain(archived.borrow_dependent()));
        self.result.timings.survey = surveying.elapsed();

        let writing = Instant::now();
        let mut to_aggregate: HashSet<(String, String)> = candidates
            .sessions
            .into_iter()
            .flat_map(|(source, sessions)| sessions.into_iter().map(move |session| (source.clone(), session)))
            .collect();
        let mut additions =
            sessions::Additions::new(connection).context(path, "preparing to aggregate sessions")?;
        {
            let mut writer = InsertWriter::new(connection).context(path, "preparing to write rows")?;
            self.rows(&input, &fold, nothing_more, |rows| {
                for turn in &rows.turns {
                    additions.take(&turn.cells).context(path, "aggregating sessions")?;
                }
                writer.write(rows).context(path, "writing rows")
            })?;
        }
        self.result.timings.rows = writing.elapsed();

        self.report(Phase::Sessions, self.end - start, &input)?;
        let aggregating = Instant::now();
        refold::refold(connection, &self.pool, &candidates.rowids, &fold)
            .context(path, "folding stamps into turns")?;
        to_aggregate.iter().for_each(|(_, session)| self.session_ids.insert(session));
        for (key, is_aggregated) in additions.finish() {
            self.session_ids.insert(&key.1);
            // A row that another program wrote may have any content.
            if !(is_aggregated && is_ours) {
                to_aggregate.insert(key);
            }
        }
        let mut to_aggregate: Vec<(String, String)> = to_aggregate.into_iter().collect();
        to_aggregate.sort_unstable();
        sessions::some(connection, &to_aggregate).context(path, "aggregating sessions")?;
        self.result.timings.sessions = aggregating.elapsed();
        self.result.sessions_touched = self.session_ids.len();
        Ok(Outcome::Done)
    }
}

/// Whether refolding `turns` archived turns in place takes longer than rebuilding the archive of a ledger of
/// `ledger_bytes`. Measured: refolding a turn costs 5 to 7 µs in the live archive, a rebuild 2 to 3 ms a megabyte.
fn is_faster_rebuilt(turns: u64, ledger_bytes: u64) -> bool {
    const TURNS_MIN: u64 = 50_000;
    const BYTES_PER_TURN: u64 = 1536;
    turns >= TURNS_MIN && ledger_bytes / BYTES_PER_TURN < turns
}

/// Returns a stored text, or an error for any other value. A NULL selector is `{}`.
fn text<'r>(column: &str, value: ValueRef<'r>) -> Result<&'r str, String> {
    match value {
        ValueRef::Text(bytes) => str::from_utf8(bytes).map_err(|error| format!("{column}: {error}")),
        ValueRef::Null if column == "selector" => Ok("{}"),
        _ => Err(format!("{column}: it is no text")),
    }
}

/// The outcome of a tail build.
pub(super) enum Outcome {
    Done,
    Restart(Restart),
}

/// Up to this many stamps without a session are loaded without parsing the turns of the tail first.
const STAMPS_FEW: i64 = 1000;

/// Returns the archived stamps that may apply to the given turns, or the reason to restart when a stamp cannot be
/// read.
fn archived_stamps(
    connection: &Connection,
    path: &Path,
    wanted: &TurnKeys,
) -> Result<Result<StampSet, Restart>, ArchiveError> {
    let sql = "SELECT ts, selector_json, enrichment_json, ledger_offset_bytes FROM stamps
               WHERE source = '*' AND session_id = ?";
    let mut statement = connection.prepare(sql).context(path, "reading stamps")?;
    let mut document = json::Document::default();
    let (mut unreadable, mut scratch) = (None, Bump::new());
    let set = StampSet::try_new(Bump::new(), |arena| {
        let mut stamps = Vec::new();
        let sessions = wanted.sessions.iter().map(String::as_str).filter(|session| *session != "*");
        for session in std::iter::once("*").chain(sessions) {
            let mut rows = statement.query([session])?;
            while let Some(row) = rows.next()? {
                let (ts, selector) = (row.get_ref(0)?, row.get_ref(1)?);
                let (enrichment, offset) = (row.get_ref(2)?, row.get_ref(3)?);
                let offset = offset.as_i64().unwrap_or(0).max(0) as u64;
                // Another program may have stored any value: BLOBs, and texts that are not UTF-8.
                let stamp = text("ts", ts).and_then(|ts| {
                    let (selector, enrichment) =
                        (text("selector", selector)?, text("enrichment", enrichment)?);
                    scratch.reset();
                    if !wanted.may_match(&stored_selector(&mut document, selector, &scratch)?) {
                        return Ok(None);
                    }
                    stored_stamp(&mut document, ts, offset, selector, enrichment, arena).map(Some)
                });
                match stamp {
                    Ok(stamp) => stamps.extend(stamp),
                    Err(reason) => unreadable = Some(Restart::UnreadableStamp { offset, reason }),
                }
            }
        }
        Ok(stamps)
    })
    .context(path, "reading stamps")?;
    Ok(match unreadable {
        None => Ok(set),
        Some(unreadable) => Err(unreadable),
    })
}

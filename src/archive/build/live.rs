//! The live archive as the target of a build: one transaction adds new rows, refolds the turns that new stamps change,
//! and aggregates the sessions of both.
//!
//! Touches: the live archive. Guarantees: the whole tail is added, or nothing changes and the caller learns that it
//! has to rebuild.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bumpalo::Bump;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::progress::Phase;
use super::run::{Build, no_work};
use crate::archive::cursor::Restart;
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::load::InsertWriter;
use crate::archive::open::{self, ArchiveState};
use crate::archive::pipeline::PipelineInput;
use crate::archive::refold::{self, TurnsToRefold};
use crate::archive::sessions;
use crate::archive::survey::{self, StampSet, Survey, SurveyOf, stamps_of};
use crate::interrupt::Interrupt;
use crate::record::fold::{Fold, Stamp};
use crate::record::{stored_selector, stored_stamp};
use crate::scan::json;

/// The live archive in a transaction. An error drops the value, which closes the connection and so rolls back.
pub(super) struct LiveArchive {
    connection: Connection,
    path: PathBuf,
    /// Whether this crate built the archive up to its cursor. Another program may have stored any rows.
    is_ours: bool,
    /// The turns that the new stamps refold; `None` when there is nothing new.
    refolded: Option<TurnsToRefold>,
    /// The sessions of new turns, and whether their rows include the new turns.
    extended: Vec<((String, String), bool)>,
}

impl LiveArchive {
    /// Begins the transaction, adds what the archive's schema lacks, and returns the state row, too.
    pub(super) fn begin(
        path: &Path,
        connection: Connection,
        interrupt: &Interrupt,
    ) -> Result<(Self, ArchiveState), ArchiveError> {
        open::begin_writing(&connection, path, interrupt)?;
        open::complete(&connection).context(path, "completing its schema")?;
        let Some(state) = open::read_state(&connection, path)? else {
            let reason = "it does not keep its state row".to_string();
            return Err(ArchiveError::Damaged { path: path.to_path_buf(), reason });
        };
        let (path, is_ours) = (path.to_path_buf(), state.is_ours());
        Ok((Self { connection, path, is_ours, refolded: None, extended: Vec::new() }, state))
    }

    /// Finds the stamps that may apply to the turns of `input` and to the turns that new stamps refold, or the reason to
    /// restart.
    pub(super) fn survey(
        &mut self,
        build: &mut Build<'_>,
        input: &PipelineInput<'_>,
    ) -> Result<Survey, ArchiveError> {
        let Self { connection, path, .. } = self;
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
        let of = if is_stamped { SurveyOf::StampsAndTurnKeys } else { SurveyOf::Stamps };
        let mut survey = survey::survey(&build.pool, input, of)?;
        if !is_stamped {
            survey.turns.keep_sessions_only();
        }
        let doing = "looking for turns to refold";
        let new: Vec<&Stamp<'_>> = stamps_of(&survey.stamps).collect();
        let refolded = refold::turns_to_refold(connection, &new).context(path, doing)?;
        let sessions = refolded.sessions.values().flatten();
        // A rebuild would not store every row of another program.
        if self.is_ours && is_faster_rebuilt(refolded.rowids.len() as u64, input.range.end) {
            build.counted_from = input.range.start;
            sessions.for_each(|session| build.session_ids.insert(session));
            survey.restart = Some(Restart::RefoldsMost);
            return Ok(survey);
        }
        survey.turns.sessions.extend(sessions.cloned());
        refold::add_keys(connection, &refolded.rowids, &mut survey.turns).context(path, doing)?;
        self.refolded = Some(refolded);
        add_archived_stamps(connection, path, &mut survey)?;
        Ok(survey)
    }

    /// Inserts the rows of `input`, and adds turns to the sessions that permit it.
    pub(super) fn rows(
        &mut self,
        build: &mut Build<'_>,
        input: &PipelineInput<'_>,
        fold: &Fold<'_>,
    ) -> Result<(), ArchiveError> {
        let Self { connection, path, .. } = self;
        let mut additions =
            sessions::Additions::new(connection).context(path, "preparing to aggregate sessions")?;
        let mut writer = InsertWriter::new(connection).context(path, "preparing to write rows")?;
        build.rows(input, fold, no_work, |rows| {
            for turn in &rows.turns {
                additions.take(&turn.cells).context(path, "aggregating sessions")?;
            }
            writer.write(rows).context(path, "writing rows")
        })?;
        self.extended = additions.finish().collect();
        Ok(())
    }

    /// Refolds turns, and aggregates the sessions whose turns are new or refolded.
    pub(super) fn sessions(&mut self, build: &mut Build<'_>, fold: &Fold<'_>) -> Result<(), ArchiveError> {
        let Self { connection, path, .. } = self;
        let Some(refolded) = self.refolded.take() else { return Ok(()) };
        let added_bytes = build.result.scanned_bytes;
        build.report(Phase::Sessions, added_bytes, added_bytes)?;
        let aggregating = Instant::now();
        refold::refold(connection, &build.pool, &refolded.rowids, fold)
            .context(path, "folding stamps into turns")?;
        let mut outdated: BTreeSet<(String, String)> = BTreeSet::new();
        for (source, sessions) in refolded.sessions {
            sessions.iter().for_each(|session| build.session_ids.insert(session));
            outdated.extend(sessions.into_iter().map(|session| (source.clone(), session)));
        }
        for (key, is_added) in self.extended.drain(..) {
            build.session_ids.insert(&key.1);
            // A row that another program wrote may have any content.
            if !(is_added && self.is_ours) {
                outdated.insert(key);
            }
        }
        sessions::some(connection, &outdated).context(path, "aggregating sessions")?;
        build.result.timings.sessions = aggregating.elapsed();
        Ok(())
    }

    /// Writes the state row and commits.
    pub(super) fn commit(self, build: &mut Build<'_>, state: &ArchiveState) -> Result<(), ArchiveError> {
        open::write_state(&self.connection, state).context(&self.path, "writing its state")?;
        build.held.still_held()?;
        let committing = Instant::now();
        self.connection.execute_batch("COMMIT").context(&self.path, "committing")?;
        build.result.timings.commit = committing.elapsed();
        Ok(())
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

/// Up to this many stamps without a session are loaded without parsing the turns of the tail first.
const STAMPS_FEW: i64 = 1000;

/// Adds the archived stamps that may apply to the turns of `survey`. Restarts when a stamp cannot be read.
fn add_archived_stamps(
    connection: &Connection,
    path: &Path,
    survey: &mut Survey,
) -> Result<(), ArchiveError> {
    let sql = "SELECT ts, selector_json, enrichment_json, ledger_offset_bytes FROM stamps
               WHERE source = '*' AND session_id = ?";
    let mut statement = connection.prepare(sql).context(path, "reading stamps")?;
    let mut document = json::Document::default();
    let mut scratch = Bump::new();
    let Survey { turns: wanted, stamps: sets, restart } = survey;
    let archived = StampSet::try_new(Bump::new(), |arena| {
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
                    Err(reason) => *restart = Some(Restart::UnreadableStamp { offset, reason }),
                }
            }
        }
        Ok(stamps)
    });
    sets.push(archived.context(path, "reading stamps")?);
    Ok(())
}

//! Describes an archive and its lag behind the ledger; frees the space of deleted rows.
//!
//! The status takes no lock and changes nothing. An archive of another version or without a state row is described as
//! it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;

use super::build::Paths;
use super::cursor::Restart;
use super::error::{ArchiveError, SqliteContext};
use super::open::{self, ArchiveReader};
use super::schema::VERSION;
use super::stored::{self, StoredIndex};
use crate::interrupt::Interrupt;
use crate::publish;
use crate::scan::{Io, Source};

/// The state of an archive, compared with its ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The archive.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub archive_path: PathBuf,
    /// Whether the archive exists.
    pub exists: bool,
    /// Whether the file is a database of another program; builds do not change it. Not in the JSON, because the
    /// JSON has the reference's keys.
    #[serde(skip)]
    pub is_foreign: bool,
    /// The version of the archive's schema; `None` without a state row.
    pub archive_version: Option<i64>,
    /// Number of ledger bytes that the archive covers.
    pub ledger_offset_bytes: i64,
    /// Modification time of the ledger at the last build, in milliseconds since 1970.
    pub ledger_mtime_ms: i64,
    /// Current length of the ledger; `None` when there is no ledger.
    pub ledger_size_bytes: Option<u64>,
    /// Current modification time of the ledger, in milliseconds since 1970.
    pub ledger_mtime_ms_current: Option<i64>,
    /// Whether the archive has this version and covers every complete line of the ledger.
    pub up_to_date: bool,
    /// When the last build ended.
    pub last_built_at: Option<String>,
    /// When the last full rebuild ended.
    pub last_rebuild_at: Option<String>,
    /// Number of rows in the archive's tables.
    pub row_counts: RowCounts,
    /// Turns by class of fidelity; turns without a class that is a text count as `unknown`.
    pub fidelity_histogram: BTreeMap<String, u64>,
    /// Files beside the archive that builds kept for people: archives whose ledger lost lines that the archive has,
    /// and files that were not a database. In the JSON only when there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(serialize_with = "crate::disk::lossy::many")]
    pub set_aside: Vec<PathBuf>,
    /// Files beside the archive that a running rebuild uses or a killed rebuild left. The next build deletes them. In
    /// the JSON only when there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(serialize_with = "crate::disk::lossy::many")]
    pub leftovers: Vec<PathBuf>,
}

/// Number of rows in the tables of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RowCounts {
    pub sessions: u64,
    pub turns: u64,
    pub tool_calls: u64,
    pub tool_result_events: u64,
    pub compactions: u64,
}

/// The result of [`vacuum`], in bytes of the archive's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Vacuumed {
    /// The archive.
    #[serde(serialize_with = "crate::disk::lossy::one")]
    pub archive_path: PathBuf,
    /// Whether there was an archive.
    pub existed: bool,
    /// Length of the archive before the vacuum, after a checkpoint of its write-ahead log.
    pub before_bytes: u64,
    /// Length of the archive after the vacuum.
    pub after_bytes: u64,
    /// `before_bytes` minus `after_bytes`.
    pub reclaimed_bytes: i64,
}

/// Reads the state of an archive and its ledger.
///
/// # Errors
/// When the archive or the ledger exists and cannot be read, or the archive is damaged.
pub fn status(paths: &Paths) -> Result<Status, ArchiveError> {
    let path = &paths.archive;
    let mut status = Status {
        archive_path: path.clone(),
        exists: open::exists(path)?,
        set_aside: publish::kept(path)?,
        leftovers: publish::leftovers(path)?,
        ..Status::default()
    };
    if status.exists {
        read_archive(path, &mut status)?;
    }
    // The archive is read before the ledger. The archive never has more than the ledger has at that time, so a later
    // append makes the archive look behind, and nothing makes it look ahead.
    if let Some(source) = Source::open_if_there(&paths.ledger, Io::Read)? {
        let complete_bytes = source.line_end_before(0, source.len_bytes())?;
        status.ledger_size_bytes = Some(source.len_bytes());
        status.ledger_mtime_ms_current = Some(source.mtime_ms());
        status.up_to_date = status.archive_version == Some(VERSION)
            && u64::try_from(status.ledger_offset_bytes)
                .is_ok_and(|offset| (complete_bytes..=source.len_bytes()).contains(&offset));
    }
    Ok(status)
}

/// Returns the number of ledger bytes that the archive covers; 0 without an archive. Counts no rows, unlike [`status`].
///
/// # Errors
/// When the archive exists and cannot be read.
#[cfg(feature = "cli")]
pub(crate) fn ledger_offset_bytes(path: &Path) -> Result<i64, ArchiveError> {
    if !open::exists(path)? {
        return Ok(0);
    }
    let archive = open::open_read_only(path)?;
    let state = archive.settle(open::read_state(&archive, path))?;
    Ok(state.map_or(0, |state| state.ledger_offset_bytes))
}

/// How much of a ledger an archive covers, and whether the ledger still begins with the covered bytes.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The archive's cursor in the ledger.
    pub cursor_bytes: u64,
    /// Current length of the ledger.
    pub ledger_bytes: u64,
    /// Why the ledger no longer has the bytes that the archive covers; `None` when it has them.
    pub lost: Option<Restart>,
}

/// Compares an archive with its ledger. Returns `None` when there is no archive of this version.
///
/// # Errors
/// When the archive or the ledger exists and cannot be read.
pub(crate) fn compare(paths: &Paths) -> Result<Option<Comparison>, ArchiveError> {
    let path = &paths.archive;
    if !open::exists(path)? {
        return Ok(None);
    }
    let archive = open::open_read_only(path)?;
    let state = archive.settle(open::read_state(&archive, path))?;
    let Some(state) = state.filter(|state| state.archive_version == VERSION) else { return Ok(None) };
    let Ok(cursor_bytes) = u64::try_from(state.ledger_offset_bytes) else { return Ok(None) };
    // The ledger is opened after the archive, because an append and a build in between must not look like a
    // truncation.
    let source = Source::open_if_there(&paths.ledger, Io::Read)?;
    let lost = match &source {
        None => (cursor_bytes > 0).then_some(Restart::LedgerShrank),
        Some(source) => state.check(source)?,
    };
    Ok(Some(Comparison { cursor_bytes, ledger_bytes: source.map_or(0, |source| source.len_bytes()), lost }))
}

/// Reads the archive's part of a status from one snapshot.
fn read_archive(path: &Path, status: &mut Status) -> Result<(), ArchiveError> {
    let archive = open::open_read_only(path)?;
    archive.settle(read_tables(&archive, path, status))
}

fn read_tables(connection: &ArchiveReader, path: &Path, status: &mut Status) -> Result<(), ArchiveError> {
    connection.execute_batch("BEGIN").context(path, "beginning to read")?;
    status.is_foreign = open::is_foreign(connection, path)?;
    if let Some(state) = open::read_state(connection, path)? {
        status.archive_version = Some(state.archive_version);
        status.ledger_offset_bytes = state.ledger_offset_bytes;
        status.ledger_mtime_ms = state.ledger_mtime_ms;
        status.last_built_at = state.last_built_at;
        status.last_rebuild_at = state.last_rebuild_at;
    }
    let counting = "counting rows";
    status.fidelity_histogram = histogram(connection).context(path, counting)?;
    status.row_counts = RowCounts {
        sessions: count(connection, "sessions").context(path, counting)?,
        turns: status.fidelity_histogram.values().sum(),
        tool_calls: count(connection, "tool_calls").context(path, counting)?,
        tool_result_events: count(connection, "tool_result_events").context(path, counting)?,
        compactions: count(connection, "compactions").context(path, counting)?,
    };
    Ok(())
}

/// Returns the number of rows of a table; 0 when the table does not exist.
fn count(connection: &ArchiveReader, table: &str) -> Result<u64, rusqlite::Error> {
    if !open::has_table(connection, table)? {
        return Ok(0);
    }
    if let Some(rows) = stored::count(connection, table) {
        return Ok(rows);
    }
    let rows: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}

/// The class of turns without a class, and of turns whose class is no text: an archive of another program may have a BLOB there.
const UNKNOWN: &str = "unknown";

/// Returns the number of turns by class.
fn histogram(connection: &ArchiveReader) -> Result<BTreeMap<String, u64>, rusqlite::Error> {
    if !open::has_column(connection, "turns", "attribution_fidelity")? {
        let turns = count(connection, "turns")?;
        return Ok(if turns == 0 { BTreeMap::new() } else { BTreeMap::from([(UNKNOWN.to_string(), turns)]) });
    }
    if let Some(classes) = stored_histogram(connection) {
        return Ok(classes);
    }
    let mut classes = BTreeMap::new();
    let mut statement = connection.prepare("SELECT attribution_fidelity, count(*) FROM turns GROUP BY 1")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let class = class_of(row.get_ref(0)?).unwrap_or_else(|| UNKNOWN.to_owned());
        *classes.entry(class).or_insert(0) += row.get::<_, i64>(1)?.unsigned_abs();
    }
    Ok(classes)
}

/// The number of turns by class, from the pages of the index of classes; `None` when only SQLite can count.
fn stored_histogram(reader: &ArchiveReader) -> Option<BTreeMap<String, u64>> {
    let index = StoredIndex::open(reader, "idx_turns_attribution_fidelity", "turns", "attribution_fidelity")?;
    let mut classes = Some(BTreeMap::new());
    let counted = index.values(|class, turns| match (&mut classes, class_of(class)) {
        (Some(classes), Some(class)) => *classes.entry(class).or_insert(0) += turns,
        _ => classes = None,
    });
    counted.ok().and(classes)
}

/// A class as SQLite returns it; `None` for a value that is neither a text nor NULL.
fn class_of(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => Some(UNKNOWN.to_owned()),
        ValueRef::Text(text) => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    }
}

/// Rewrites the archive without the space of deleted rows, under the archive's lock.
///
/// # Errors
/// Any [`ArchiveError`]; the archive's content is then unchanged.
pub fn vacuum(paths: &Paths, interrupt: &Interrupt) -> Result<Vacuumed, ArchiveError> {
    paths.locked(interrupt, |held| {
        let path = &paths.archive;
        if !open::exists(path)? {
            return Ok(Vacuumed { archive_path: path.clone(), ..Vacuumed::default() });
        }
        let connection = open::open_for_build(path, interrupt)?;
        let checkpoint = || {
            let is_busy: bool = connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
                .context(path, "taking in its write-ahead log")?;
            if is_busy { Err(ArchiveError::InUse { path: path.clone() }) } else { Ok(()) }
        };
        checkpoint()?;
        let before_bytes = len_bytes(path)?;
        held.still_held()?;
        connection.execute_batch("VACUUM").context(path, "vacuuming")?;
        checkpoint()?;
        let after_bytes = len_bytes(path)?;
        Ok(Vacuumed {
            archive_path: path.clone(),
            existed: true,
            before_bytes,
            after_bytes,
            reclaimed_bytes: before_bytes as i64 - after_bytes as i64,
        })
    })
}

/// The length of the archive's file, not of a symbolic link that leads to the file.
fn len_bytes(path: &Path) -> Result<u64, ArchiveError> {
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Ok(crate::disk::metadata(&target)?.len_bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stored_classes_are_counted_as_sqlite_counts_them() {
        let directory = tempfile::tempdir().unwrap();
        // The index has one leaf page, or many.
        for rows in [0_u64, 10, 3000] {
            let path = directory.path().join(format!("{rows}.sqlite"));
            let writer = rusqlite::Connection::open(&path).unwrap();
            writer
                .execute_batch(&format!(
                    "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL;
                     CREATE TABLE turns(a TEXT, attribution_fidelity TEXT);
                     CREATE INDEX idx_turns_attribution_fidelity ON turns(attribution_fidelity);
                     WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                     INSERT INTO turns SELECT n, CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN 'unknown' WHEN 2 THEN 'full'
                       ELSE 'usage-only' END FROM n WHERE {rows} > 0;
                     PRAGMA wal_checkpoint(TRUNCATE);"
                ))
                .unwrap();
            let reader = open::open_read_only(&path).unwrap();
            reader.execute_batch("BEGIN; SELECT * FROM turns LIMIT 1").unwrap();
            let counts = [("full", rows / 5), ("unknown", 2 * rows / 5), ("usage-only", 2 * rows / 5)];
            let counts = counts.into_iter().filter(|(_, turns)| *turns > 0);
            let expected: BTreeMap<String, u64> =
                counts.map(|(class, turns)| (class.to_owned(), turns)).collect();
            assert_eq!(stored_histogram(&reader), Some(expected.clone()), "{rows}");
            drop(reader);
            // A class that is not a text is left to SQLite.
            writer
                .execute_batch("INSERT INTO turns VALUES ('b', x'00'); PRAGMA wal_checkpoint(TRUNCATE)")
                .unwrap();
            let reader = open::open_read_only(&path).unwrap();
            reader.execute_batch("BEGIN; SELECT * FROM turns LIMIT 1").unwrap();
            assert_eq!(stored_histogram(&reader), None, "{rows}");
            let mut expected = expected;
            *expected.entry(UNKNOWN.to_owned()).or_insert(0) += 1;
            assert_eq!(histogram(&reader).unwrap(), expected, "{rows}");
        }
    }
}

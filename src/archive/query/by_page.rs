//! Reads the rows of a table in the order of `ts` from the pages of the archive, without SQLite's virtual machine.
//!
//! Touches: reads the archive. Guarantees: the rows are those of [`ArchiveSnapshot::rows`](super::ArchiveSnapshot), in an
//! order that differs only among rows with the same `ts`. Whatever does not fit is [`UnreadablePage`], and the caller asks
//! SQLite. Memory: 16 bytes for each turn of which tool calls are read, 4 for each call, 40 for each row of a table without an
//! index on `ts`; SQLite reads larger archives ([`TURNS_MAX`], [`SORTED_MAX`]), and keeps files instead.
//!
//! ```text
//! turns          index on ts: (ts, row of the turn)                         the turn
//! tool calls     keys of turns and of calls, merged: rows of a turn's calls
//!                index on ts: (ts, row of the turn)                         the rows of its calls
//! other tables   all (ts, row), sorted                                      the row
//! ```
//!
//! In a profile of an export of 2.2 million rows on 2026-11-30, SQLite's virtual machine, its sorter and the calls that hand
//! over one value each took a third of the CPU time.

use std::ops::{ControlFlow, Range};

use rusqlite::types::ValueRef;

use super::AddedColumns;
use crate::archive::error::ArchiveError;
use crate::archive::open::ArchiveReader;
use crate::archive::stored::{OrderedIndex, PageBuffers, StoredRows, StoredTable};
use crate::interrupt::Interrupt;
use crate::record::columns::{Table, tool_calls, turns};
use crate::sqlite_file::UnreadablePage;

/// The largest rowid of a turn of which tool calls are read from pages: 128 MiB of memory.
const TURNS_MAX: usize = 1 << 24;
/// The most rows of a table without an index on `ts`: 80 MiB of memory.
const SORTED_MAX: usize = 1 << 21;
/// The most rows with one `ts` in a table without an index. The caller sorts them by their key, as far as they are in one
/// row group; SQLite sorts any number of them.
const TIES_MAX: usize = 8192;
/// Pages of a table that are read before the next look at the interrupt.
const LEAVES_AT_ONCE: usize = 128;
/// The longest form of a time: `2026-04-20T23:00:00.123456789+02:00`.
const TS_MAX_LEN: usize = 35;
/// The most values of a row: the columns of a table, and the `ts` of a tool call's turn.
pub(super) const VALUES_MAX: usize = turns::COLUMNS + 1;

/// Why rows stop.
enum RowStop<E> {
    Unreadable,
    Failed(E),
}

impl<E> From<UnreadablePage> for RowStop<E> {
    fn from(UnreadablePage: UnreadablePage) -> Self {
        Self::Unreadable
    }
}

/// The rows of a table that is read from pages.
pub(super) struct RowsByPage<'a> {
    pub reader: &'a ArchiveReader,
    pub added: &'a AddedColumns,
    pub table: &'static Table,
    pub interrupt: &'a Interrupt,
}

impl RowsByPage<'_> {
    /// Passes the rows to `each`. Returns `false` when only SQLite can read them; some rows may have been passed on then.
    pub(super) fn pass<E: From<ArchiveError>>(
        &self,
        mut each: impl FnMut(&[ValueRef<'_>]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let each = &mut |values: &[ValueRef<'_>]| {
            let uninterrupted =
                if self.interrupt.is_requested() { Err(ArchiveError::Interrupted.into()) } else { Ok(()) };
            uninterrupted.and_then(|()| each(values)).map_err(RowStop::Failed)
        };
        let passed = match self.table.name {
            name if name == turns::TABLE.name => self.turns(each),
            name if name == tool_calls::TABLE.name => self.calls(each),
            _ => self.sorted(each),
        };
        match passed {
            Ok(()) => Ok(true),
            Err(RowStop::Unreadable) => Ok(false),
            Err(RowStop::Failed(error)) => Err(error),
        }
    }

    fn rows(&self) -> Result<StoredRows<'_>, UnreadablePage> {
        let columns = self.table.columns.iter().copied().map(|column| self.added.known(self.table, column));
        StoredRows::open(self.reader, self.table.name, &columns.collect::<Vec<_>>()).ok_or(UnreadablePage)
    }

    /// The entries of the index on `ts`.
    fn turns_by_ts(&self) -> Result<OrderedIndex<'_, 1>, UnreadablePage> {
        let column = turns::TABLE.columns[turns::TS];
        OrderedIndex::open(self.reader, "idx_turns_ts", turns::TABLE.name, [column]).ok_or(UnreadablePage)
    }

    fn turns<E>(
        &self,
        each: &mut impl FnMut(&[ValueRef<'_>]) -> Result<(), RowStop<E>>,
    ) -> Result<(), RowStop<E>> {
        let (mut rows, mut turns) = (self.rows()?, self.turns_by_ts()?);
        while let Some(([ts], rowid)) = turns.next()? {
            let mut values = [ValueRef::Null; VALUES_MAX];
            let values = &mut values[..self.table.columns.len()];
            rows.read(rowid, values)?;
            // SQLite takes the value of the index, too.
            values[turns::TS] = ts;
            each(values)?;
        }
        Ok(())
    }

    fn calls<E>(
        &self,
        each: &mut impl FnMut(&[ValueRef<'_>]) -> Result<(), RowStop<E>>,
    ) -> Result<(), RowStop<E>> {
        let calls = CallsOfTurns::read(self.reader, self.interrupt)?;
        let (mut rows, mut turns) = (self.rows()?, self.turns_by_ts()?);
        let columns = self.table.columns.len();
        while let Some(([ts], turn)) = turns.next()? {
            for rowid in calls.of(turn) {
                let mut values = [ValueRef::Null; VALUES_MAX];
                rows.read(i64::from(*rowid), &mut values[..columns])?;
                values[columns] = ts;
                each(&values[..=columns])?;
            }
        }
        Ok(())
    }

    fn sorted<E>(
        &self,
        each: &mut impl FnMut(&[ValueRef<'_>]) -> Result<(), RowStop<E>>,
    ) -> Result<(), RowStop<E>> {
        let order = self.by_ts()?;
        let mut rows = self.rows()?;
        for RowByTs { rowid, .. } in order {
            let mut values = [ValueRef::Null; VALUES_MAX];
            let values = &mut values[..self.table.columns.len()];
            rows.read(i64::from(rowid), values)?;
            each(values)?;
        }
        Ok(())
    }

    /// All rows of a table without an index on `ts`, in order.
    fn by_ts(&self) -> Result<Vec<RowByTs>, UnreadablePage> {
        let table = StoredTable::open(self.reader, self.table.name, [Some("ts")]).ok_or(UnreadablePage)?;
        let (mut order, mut buffers) = (Vec::new(), PageBuffers::default());
        for first in (0..table.leaves()).step_by(LEAVES_AT_ONCE) {
            let last = table.leaves().min(first + LEAVES_AT_ONCE as i64) - 1;
            let flow =
                table.rows((first, last), &mut buffers, |rowid, [ts]| match RowByTs::new(*ts, rowid) {
                    Some(row) if order.len() < SORTED_MAX => {
                        order.push(row);
                        ControlFlow::Continue(())
                    }
                    _ => ControlFlow::Break(()),
                })?;
            // SQLite's way ends at its first row when the user has interrupted.
            if flow.is_break() || self.interrupt.is_requested() {
                return Err(UnreadablePage);
            }
        }
        order.sort_unstable();
        let has_few_ties = order.chunk_by(|one, other| one.ts == other.ts).all(|ties| ties.len() <= TIES_MAX);
        if has_few_ties { Ok(order) } else { Err(UnreadablePage) }
    }
}

/// A row of a table without an index. Sorts as SQLite sorts `ts`: NULL first, then texts by their bytes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct RowByTs {
    /// The text, filled up with 0, and then its length and 1; all 0 for NULL.
    ts: [u8; TS_MAX_LEN + 1],
    rowid: u32,
}

impl RowByTs {
    /// `None` for a `ts` of another type or length, and for a rowid that is too large.
    fn new(ts: ValueRef<'_>, rowid: i64) -> Option<Self> {
        let mut bytes = [0; TS_MAX_LEN + 1];
        match ts {
            ValueRef::Null => {}
            ValueRef::Text(text) if text.len() <= TS_MAX_LEN => {
                bytes[..text.len()].copy_from_slice(text);
                bytes[TS_MAX_LEN] = text.len() as u8 + 1;
            }
            _ => return None,
        }
        Some(Self { ts: bytes, rowid: rowid.try_into().ok()? })
    }
}

/// The rows of the tool calls of each turn, in the order of the calls.
struct CallsOfTurns {
    calls: Vec<u32>,
    /// By the rowid of the turn.
    turns: Vec<Range<u32>>,
}

impl CallsOfTurns {
    /// Merges the keys of turns with those of tool calls, which begin with the key of the turn.
    fn read(reader: &ArchiveReader, interrupt: &Interrupt) -> Result<Self, UnreadablePage> {
        const COLUMNS: [&str; 4] = {
            let columns = tool_calls::TABLE.columns;
            let [source, session, message] =
                [tool_calls::SOURCE, tool_calls::SESSION_ID, tool_calls::MESSAGE_ID];
            [columns[source], columns[session], columns[message], columns[tool_calls::CALL_INDEX]]
        };
        let [source, session, message, _] = COLUMNS;
        let of_turns = [source, session, message];
        let turns = OrderedIndex::open(reader, "sqlite_autoindex_turns_1", turns::TABLE.name, of_turns);
        let calls =
            OrderedIndex::open(reader, "sqlite_autoindex_tool_calls_1", tool_calls::TABLE.name, COLUMNS);
        let (mut turns, mut calls) = (turns.ok_or(UnreadablePage)?, calls.ok_or(UnreadablePage)?);
        let mut merged = Self { calls: Vec::new(), turns: Vec::new() };
        let mut turn = turns.next()?;
        let mut call = calls.next()?;
        while let (Some((of_turn, turn_row)), Some(([source, session, message, _], call_row))) = (turn, call)
        {
            // SQLite's way ends at its first row when the user has interrupted.
            if interrupt.is_requested() {
                return Err(UnreadablePage);
            }
            match texts(of_turn)?.cmp(&texts([source, session, message])?) {
                std::cmp::Ordering::Less => turn = turns.next()?,
                std::cmp::Ordering::Equal => {
                    merged.add(turn_row, call_row)?;
                    call = calls.next()?;
                }
                // A call without a turn is of another program, or an index is damaged.
                std::cmp::Ordering::Greater => return Err(UnreadablePage),
            }
        }
        if call.is_some() { Err(UnreadablePage) } else { Ok(merged) }
    }

    fn add(&mut self, turn: i64, call: i64) -> Result<(), UnreadablePage> {
        let turn = usize::try_from(turn).ok().filter(|turn| *turn < TURNS_MAX).ok_or(UnreadablePage)?;
        let at = u32::try_from(self.calls.len()).map_err(|_| UnreadablePage)?;
        self.calls.push(call.try_into().map_err(|_| UnreadablePage)?);
        if turn >= self.turns.len() {
            self.turns.resize(turn + 1, 0..0);
        }
        let of_turn = &mut self.turns[turn];
        if of_turn.start == of_turn.end {
            *of_turn = at..at;
        }
        let follows = of_turn.end == at;
        of_turn.end = at + 1;
        if follows { Ok(()) } else { Err(UnreadablePage) }
    }

    fn of(&self, turn: i64) -> &[u32] {
        let of_turn = usize::try_from(turn).ok().and_then(|turn| self.turns.get(turn));
        of_turn.map_or(&[], |of_turn| &self.calls[of_turn.start as usize..of_turn.end as usize])
    }
}

/// The bytes of a key, whose values are all texts.
fn texts(key: [ValueRef<'_>; 3]) -> Result<[&[u8]; 3], UnreadablePage> {
    let mut texts: [&[u8]; 3] = [&[]; 3];
    for (text, value) in texts.iter_mut().zip(key) {
        let ValueRef::Text(bytes) = value else { return Err(UnreadablePage) };
        *text = bytes;
    }
    Ok(texts)
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::query::{ArchiveSnapshot, RowReading};
    use crate::archive::schema;
    use crate::record::columns::{compactions, tool_result_events};
    use rusqlite::Connection;
    use std::path::Path;

    const TABLES: [&Table; 4] =
        [&turns::TABLE, &tool_calls::TABLE, &tool_result_events::TABLE, &compactions::TABLE];

    /// An archive with `turns` turns whose times are in another order than the rows; some turns have calls, events and compactions.
    fn archive(path: &Path, turns: u32) -> Connection {
        let db = Connection::open(path).unwrap();
        db.execute_batch(&format!("PRAGMA journal_mode = WAL; {};", schema::sql())).unwrap();
        db.execute_batch(&format!(
            "INSERT INTO archive_state (id, ledger_offset_bytes, ledger_mtime_ms, archive_version) VALUES (1, 10, 0, {version});
             CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {turns})
               SELECT i, printf('s-%d', i / 20) AS session, printf('m-%06d', i * 7919 % 1000003) AS message,
                 strftime('%Y-%m-%dT%H:%M:%S.000Z', 1776700000 + i * 7919 % 5003 * 60, 'unixepoch') AS ts FROM n;
             INSERT INTO turns (source, session_id, message_id, turn_index, ts, model, activity)
               SELECT 'claude-code', session, message, i, ts, 'model', CASE i % 3 WHEN 0 THEN printf('%.*c', i % 700 * 40, 'x') END FROM n;
             INSERT INTO tool_calls (source, session_id, message_id, call_index, tool_name)
               SELECT 'claude-code', session, message, 2 - k, 'Bash' || i FROM n, (SELECT 0 AS k UNION SELECT 1 UNION SELECT 2) WHERE k < i % 4;
             INSERT INTO tool_result_events (source, session_id, message_id, tool_use_id, call_index, event_index, ts)
               SELECT 'claude-code', session, message, 'use', 0, i,
                 CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN substr(ts, 1, 16) ELSE ts END FROM n WHERE i % 3 > 0;
             INSERT INTO compactions (source, session_id, ts) SELECT 'claude-code', session, ts FROM n WHERE i % 20 = 7;
             DELETE FROM turns WHERE turn_index % 11 = 0;
             DELETE FROM tool_calls WHERE (source, session_id, message_id) NOT IN (SELECT source, session_id, message_id FROM turns);
             PRAGMA wal_checkpoint(TRUNCATE);",
            version = schema::VERSION,
        ))
        .unwrap();
        db
    }

    /// The rows of a table by `ts`, and whether they could be read; rows with the same `ts` are sorted.
    fn rows(path: &Path, table: &'static Table, reading: RowReading) -> Option<Vec<(String, String)>> {
        let snapshot = ArchiveSnapshot::begin(path).unwrap();
        let ts = table.columns.iter().position(|column| *column == "ts").unwrap_or(table.columns.len());
        let mut rows: Vec<(String, String)> = Vec::new();
        let passed =
            snapshot.rows(reading, table, None, &Interrupt::new(), |values| -> Result<(), ArchiveError> {
                rows.push((format!("{:?}", values[ts]), format!("{values:?}")));
                Ok(())
            });
        rows.chunk_by_mut(|one, other| one.0 == other.0).for_each(<[_]>::sort);
        passed.unwrap().then_some(rows)
    }

    #[test]
    fn the_rows_of_pages_are_those_of_sqlite_in_the_same_order() {
        let directory = tempfile::tempdir().unwrap();
        for turns in [0, 1, 5000] {
            let path = directory.path().join(format!("{turns}.sqlite"));
            let db = archive(&path, turns);
            for table in TABLES {
                let expected = rows(&path, table, RowReading::Sqlite).unwrap();
                assert!(turns < 5000 || expected.len() > 200, "{}", table.name);
                assert!(
                    rows(&path, table, RowReading::Pages) == Some(expected),
                    "{} of {turns} turns",
                    table.name
                );
            }
            drop(db);
        }
    }

    #[test]
    fn rows_that_pages_do_not_have_in_this_order_are_left_to_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |name: &str, change: &str, refused: [bool; 4]| {
            let path = directory.path().join(name);
            let db = archive(&path, 500);
            db.execute_batch(change).unwrap();
            let are_refused = TABLES.map(|table| {
                let by_page = rows(&path, table, RowReading::Pages);
                let expected = rows(&path, table, RowReading::Sqlite).unwrap();
                by_page.is_none_or(|by_page| {
                    assert!(by_page == expected, "{name}: {}", table.name);
                    false
                })
            });
            assert_eq!(are_refused, refused, "{name}");
        };
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        refused("log", "UPDATE turns SET ts = '2026' WHERE turn_index = 5", [true; 4]);
        refused("index", &format!("DROP INDEX idx_turns_ts; {checkpoint}"), [true, true, false, false]);
        let orphan = "UPDATE tool_calls SET session_id = 'none' WHERE rowid = 3";
        refused("orphan", &format!("{orphan}; {checkpoint}"), [false, true, false, false]);
        let odd = "UPDATE tool_result_events SET ts = 7 WHERE rowid = 3; UPDATE compactions SET ts = printf('%.*c', 36, '2') WHERE rowid = 3";
        refused("odd", &format!("{odd}; {checkpoint}"), [false, false, false, true]);
        let far = format!(
            "UPDATE turns SET rowid = {TURNS_MAX} WHERE turn_index = 3; UPDATE compactions SET rowid = 1 << 32 WHERE rowid = 3"
        );
        refused("far", &format!("{far}; {checkpoint}"), [false, true, false, true]);
        let ties = format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {TIES_MAX})
             INSERT INTO tool_result_events (source, session_id, message_id, tool_use_id, call_index, event_index)
               SELECT 'codex', 's', 'm', 'u', 0, i FROM n"
        );
        refused("ties", &format!("{ties}; {checkpoint}"), [false, false, true, false]);
    }
}

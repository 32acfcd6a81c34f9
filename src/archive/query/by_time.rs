//! Reads the rows of a table in the order of `ts`, one transaction for all tables, for exports.
//!
//! Touches: reads the archive. Guarantees: all tables are read as of one commit. Memory is bounded: rows come from the pages of
//! the archive (`by_page`) as far as it is small enough, and else from SQLite, where an index gives the order, and where there
//! is no index, SQLite sorts with files.

use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;

use super::AddedColumns;
use super::by_page::{RowsByPage, VALUES_MAX};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open::ArchiveReader;
use crate::disk::{self, Identity};
use crate::interrupt::Interrupt;
use crate::record::columns::{Table, tool_calls, tool_result_events, turns};

/// The page cache of the transaction in KiB; by SQLite's rule its sorter has as much. The turns of a ledger that several
/// agents wrote are read out of the order of the file.
const CACHE_KIB: u32 = 32 * 1024;

/// What reads the rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowReading {
    /// This program, from the pages of the archive.
    Pages,
    Sqlite,
}

/// All tables of an archive as of one commit.
pub(crate) struct ArchiveSnapshot {
    reader: ArchiveReader,
    path: PathBuf,
    added: AddedColumns,
    ledger_offset_bytes: u64,
    /// The file that the path named before it was opened.
    identity: Option<Identity>,
}

impl ArchiveSnapshot {
    /// Opens an archive of this version and begins the transaction.
    ///
    /// # Errors
    /// As [`turns()`](super::turns()).
    pub(crate) fn begin(archive: &Path) -> Result<Self, ArchiveError> {
        let identity = disk::metadata_of_target(archive).ok().map(|found| found.identity);
        let reader = super::open_for_query(archive)?;
        let begin = || {
            let settings = format!("PRAGMA cache_size = -{CACHE_KIB}; BEGIN");
            reader.execute_batch(&settings).context(archive, "beginning to read")?;
            let state = super::check_version(&reader, archive)?;
            let added = AddedColumns::of(&reader).context(archive, "reading its schema")?;
            Ok((u64::try_from(state.ledger_offset_bytes).unwrap_or(0), added))
        };
        let (ledger_offset_bytes, added) = reader.settle(begin())?;
        Ok(Self { reader, path: archive.to_owned(), added, ledger_offset_bytes, identity })
    }

    /// The archive.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still names the file that it named before this snapshot opened it.
    pub(super) fn is_at_its_path(&self) -> bool {
        disk::metadata_of_target(&self.path).is_ok_and(|now| Some(now.identity) == self.identity)
    }

    /// The number of ledger bytes that the archive covers.
    pub(crate) fn ledger_offset_bytes(&self) -> u64 {
        self.ledger_offset_bytes
    }

    /// Passes the rows of a table to `each`, sorted by the bytes of `ts`; rows without `ts` are first. A row has the values of
    /// the table's columns; a tool call has the `ts` of its turn after them. With a date `since` (`YYYY-MM-DD`) some rows whose
    /// `ts` is on an earlier date in UTC are left out, but no other rows.
    ///
    /// Returns `false` when only SQLite can read the rows, which may be noticed after some rows were passed on.
    ///
    /// # Errors
    /// Those of `each`, any error of SQLite, and [`ArchiveError::Interrupted`].
    pub(crate) fn rows<E: From<ArchiveError>>(
        &self,
        reading: RowReading,
        table: &'static Table,
        since: Option<&str>,
        interrupt: &Interrupt,
        mut each: impl FnMut(&[ValueRef<'_>]) -> Result<(), E>,
    ) -> Result<bool, E> {
        if reading == RowReading::Pages {
            // With `since`, SQLite leaves out rows by a look at the index.
            let rows = RowsByPage { reader: &self.reader, added: &self.added, table, interrupt };
            return if since.is_none() { rows.pass(each) } else { Ok(false) };
        }
        let sql = self.select(table, since.is_some());
        let mut statement = self.reader.prepare(&sql).context(&self.path, "preparing a query")?;
        let columns = statement.column_count();
        let found = match since {
            Some(since) => statement.query([since]),
            None => statement.query([]),
        };
        let mut rows = found.context(&self.path, "querying it")?;
        while let Some(row) = rows.next().context(&self.path, "querying it")? {
            if interrupt.is_requested() {
                return Err(ArchiveError::Interrupted.into());
            }
            let mut values = [ValueRef::Null; VALUES_MAX];
            for (place, value) in values.iter_mut().enumerate().take(columns) {
                *value = row.get_ref(place).context(&self.path, "reading a row")?;
            }
            each(&values[..columns])?;
        }
        Ok(true)
    }

    /// Fails with [`ArchiveError::Changed`] when the archive was read without locks and changed meanwhile: the rows that
    /// were passed on are then invalid.
    pub(crate) fn settle(&self) -> Result<(), ArchiveError> {
        self.reader.settle(Ok(()))
    }

    fn select(&self, table: &'static Table, has_since: bool) -> String {
        let columns = |alias: &str| {
            let one = |column: &&'static str| match self.added.column(table, column) {
                "NULL" => "NULL".to_owned(),
                column => format!("{alias}.{column}"),
            };
            table.columns.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let condition = |ts: &str| match has_since {
            // The form of `ts` decides: text that is no plain time in UTC may be on a later date than it says. SQLite gives
            // NULL for what is no time, and with a modifier another day for the 30th of February.
            true => format!(
                " WHERE {ts} >= ?1 OR {ts} IS NULL
                  OR strftime('%Y-%m-%dT%H:%M', {ts}, '+0 days') IS NOT substr({ts}, 1, 16)"
            ),
            false => String::new(),
        };
        match table.name {
            // CROSS JOIN keeps the loops in this order, so that the index on `ts` gives the order.
            name if name == tool_calls::TABLE.name => format!(
                "SELECT {}, t.ts FROM turns t CROSS JOIN tool_calls c ON c.source = t.source
                   AND c.session_id = t.session_id AND c.message_id = t.message_id{} ORDER BY t.ts",
                columns("c"),
                condition("t.ts"),
            ),
            name if name == turns::TABLE.name => {
                format!("SELECT {} FROM turns t{} ORDER BY t.ts", columns("t"), condition("t.ts"))
            }
            // Without an index on `ts`, SQLite sorts, and the rest of the key costs little more. Events need it, because
            // any number of them may lack `ts`.
            name => {
                let key = match name == tool_result_events::TABLE.name {
                    true => "t.ts, t.source, t.session_id, t.message_id, t.tool_use_id, t.event_index",
                    false => "t.ts, t.source, t.session_id",
                };
                format!("SELECT {} FROM {name} t{} ORDER BY {key}", columns("t"), condition("t.ts"))
            }
        }
    }
}

//! The bulk loader of full rebuilds: writes rows into a database file that is built bottom-up.
//!
//! The workers that make rows also encode them, so the end of the load only merges sorted keys. Sessions are
//! aggregated while the turns are laid into pages. Sessions and the state row are few and are written through SQLite
//! afterwards. The rules for repeated keys are the rules of [`load`](super::load).

use std::path::Path;

use super::pipeline::RowsPlace;
use super::schema;
use super::session_rows::SessionRows;
use crate::interrupt::Interrupt;
use crate::record::Cell;
use crate::record::columns::{compactions, stamps, tool_calls, tool_result_events, turns};
use crate::record::rows::Rows;
use crate::sqlite_file::{self, Duplicates, Loaded, Loader, Schema, SqlValue, TableId};

/// Writes rows into a new archive. The workers share one writer.
pub(super) struct BulkWriter {
    loader: Loader,
    turns: TableId,
    calls: TableId,
    events: TableId,
    compactions: TableId,
    stamps: TableId,
}

impl BulkWriter {
    /// Creates the file at `path`, where no file may exist yet.
    pub(super) fn create(
        path: &Path,
        page_size: u32,
        memory_bytes: usize,
    ) -> Result<Self, sqlite_file::SqliteFileError> {
        let mut schema = Schema::from_sql(&schema::sql(), page_size)?;
        let turns = schema.table(turns::TABLE.name)?;
        let calls = schema.table(tool_calls::TABLE.name)?;
        let events = schema.table(tool_result_events::TABLE.name)?;
        let compactions = schema.table(compactions::TABLE.name)?;
        let stamps = schema.table(stamps::TABLE.name)?;
        schema.on_duplicate(turns, Duplicates::KeepLastAtFirst);
        for table in [calls, events, compactions, stamps] {
            schema.on_duplicate(table, Duplicates::KeepLast);
        }
        schema.children_of(calls, turns)?;
        let loader = Loader::create(path, schema, memory_bytes)?;
        Ok(Self { loader, turns, calls, events, compactions, stamps })
    }

    /// Writes the rows of one part of a chunk; parts may arrive in any order.
    pub(super) fn write(
        &self,
        rows: &Rows<'_>,
        place: RowsPlace,
    ) -> Result<(), sqlite_file::SqliteFileError> {
        let mut batch = self.loader.batch_part(place.chunk, place.part);
        for turn in &rows.turns {
            batch.push_cells(self.turns, &turn.cells)?;
            // The loader attaches these calls to the turn pushed before them.
            for call in &rows.calls[turn.calls.clone()] {
                batch.push_cells(self.calls, call)?;
            }
        }
        rows.events.iter().try_for_each(|row| batch.push_cells(self.events, row))?;
        rows.compactions.iter().try_for_each(|row| batch.push_cells(self.compactions, row))?;
        rows.stamps.iter().try_for_each(|stamp| batch.push_cells(self.stamps, &stamp.cells))?;
        if place.is_last { self.loader.submit(batch) } else { self.loader.submit_part(batch) }
    }

    /// Completes the file, on the rayon pool that the caller runs in, and adds every turn that is kept to `sessions`.
    pub(super) fn finish(
        self,
        sessions: &mut SessionRows,
        interrupt: &Interrupt,
    ) -> Result<Loaded, sqlite_file::SqliteFileError> {
        self.loader.finish_with(interrupt, Some((self.turns, &mut |turn| sessions.add(turn))))
    }
}

impl<'a> From<Cell<'a>> for SqlValue<'a> {
    fn from(cell: Cell<'a>) -> Self {
        match cell {
            Cell::Null => SqlValue::Null,
            Cell::Int(number) => SqlValue::Int(number),
            Cell::Real(number) => SqlValue::Real(number),
            Cell::Text(text) => SqlValue::Text(text.as_bytes()),
        }
    }
}

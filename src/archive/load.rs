//! The inserting writer: inserts rows into the tables of an open archive, many rows a statement.
//!
//! The inserting loader does tail builds, and full rebuilds with `Load::Insert`. It writes through the given
//! connection, inside the caller's transaction, and keeps the rules for repeated keys: the last turn with a key wins,
//! has the rowid of the first turn with the key, and only the last turn's tool calls stay. A repeated row of any
//! other table replaces the earlier row and gets a new rowid at the end.

use rusqlite::Connection;

use super::statement::Statement;
use crate::record::Cell;
use crate::record::columns::{Table, compactions, stamps, tool_calls, tool_result_events, turns};
use crate::record::rows::{Rows, TurnRow};

/// Rows a statement, largest first. The largest step stays below SQLite's limit of parameters for the widest table.
const STEPS: [usize; 3] = [64, 8, 1];

/// Inserts rows into an archive.
#[derive(Debug)]
pub struct InsertWriter<'c> {
    new_turns: SteppedInsert<'c>,
    upsert_turn: Statement<'c>,
    delete_calls: Statement<'c>,
    calls: SteppedInsert<'c>,
    events: SteppedInsert<'c>,
    compactions: SteppedInsert<'c>,
    stamps: SteppedInsert<'c>,
}

impl<'c> InsertWriter<'c> {
    /// Prepares the statements; the tables must exist.
    ///
    /// # Errors
    /// Any error of SQLite.
    pub fn new(connection: &'c Connection) -> Result<Self, rusqlite::Error> {
        let updates: Vec<String> = turns::TABLE.columns[turns::TURN_INDEX..]
            .iter()
            .map(|column| format!("{column}=excluded.{column}"))
            .collect();
        let upsert = format!(
            "{} ON CONFLICT(source, session_id, message_id) DO UPDATE SET {}",
            insert_sql("INSERT", &turns::TABLE, 1),
            updates.join(", ")
        );
        Ok(Self {
            new_turns: SteppedInsert::new(connection, "INSERT OR IGNORE", &turns::TABLE)?,
            upsert_turn: Statement::new(connection, &upsert)?,
            delete_calls: Statement::new(
                connection,
                "DELETE FROM tool_calls WHERE source = ? AND session_id = ? AND message_id = ?",
            )?,
            calls: SteppedInsert::new(connection, "INSERT OR REPLACE", &tool_calls::TABLE)?,
            events: SteppedInsert::new(connection, "INSERT OR REPLACE", &tool_result_events::TABLE)?,
            compactions: SteppedInsert::new(connection, "INSERT OR REPLACE", &compactions::TABLE)?,
            stamps: SteppedInsert::new(connection, "INSERT OR REPLACE", &stamps::TABLE)?,
        })
    }

    /// Inserts `rows`, in their order.
    ///
    /// # Errors
    /// Any error of SQLite; the caller must then roll the transaction back.
    pub fn write(&mut self, rows: &Rows<'_>) -> Result<(), rusqlite::Error> {
        self.turns(&rows.turns, &rows.calls)?;
        self.events.insert(&rows.events)?;
        self.compactions.insert(&rows.compactions)?;
        let stamps: Vec<_> = rows.stamps.iter().map(|stamp| stamp.cells).collect();
        self.stamps.insert(&stamps)
    }

    /// Inserts turns in groups; most turns are new. When some keys of a group exist already, the group is written
    /// again row by row; a row that the first write inserted is then updated to the same values.
    fn turns(
        &mut self,
        turns: &[TurnRow<'_>],
        calls: &[tool_calls::ToolCallCells<'_>],
    ) -> Result<(), rusqlite::Error> {
        let mut rest = turns;
        // The range of `calls` whose turns are inserted and whose calls are not.
        let mut pending = turns.first().map_or(0..0, |turn| turn.calls.start..turn.calls.start);
        for (step, &rows) in STEPS.iter().enumerate() {
            while rest.len() >= rows {
                let (group, after) = rest.split_at(rows);
                rest = after;
                let inserted = self.new_turns.insert_step(step, group.iter().map(|turn| &turn.cells))?;
                let end = group.last().map_or(pending.end, |turn| turn.calls.end);
                if inserted == rows as u64 {
                    pending.end = end;
                    continue;
                }
                self.calls.insert(&calls[pending])?;
                for turn in group {
                    self.upsert_turn.execute(&turn.cells)?;
                    self.delete_calls.execute(&turn.cells[..turns::TURN_INDEX])?;
                    self.calls.insert(&calls[turn.calls.clone()])?;
                }
                pending = end..end;
            }
        }
        self.calls.insert(&calls[pending])
    }
}

/// One INSERT, prepared for each number of rows in [`STEPS`].
#[derive(Debug)]
struct SteppedInsert<'c>(Vec<Statement<'c>>);

impl<'c> SteppedInsert<'c> {
    fn new(connection: &'c Connection, verb: &str, table: &Table) -> Result<Self, rusqlite::Error> {
        STEPS
            .iter()
            .map(|&rows| Statement::new(connection, &insert_sql(verb, table, rows)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn insert_step<'a, const N: usize>(
        &mut self,
        step: usize,
        rows: impl Iterator<Item = &'a [Cell<'a>; N]>,
    ) -> Result<u64, rusqlite::Error> {
        self.0[step].execute(rows.flatten())
    }

    fn insert<const N: usize>(&mut self, mut rows: &[[Cell<'_>; N]]) -> Result<(), rusqlite::Error> {
        for (step, &len) in STEPS.iter().enumerate() {
            while rows.len() >= len {
                let (group, after) = rows.split_at(len);
                self.insert_step(step, group.iter())?;
                rows = after;
            }
        }
        Ok(())
    }
}

/// Columns are named: a migrated archive has some columns in other positions.
fn insert_sql(verb: &str, table: &Table, rows: usize) -> String {
    let row = format!("({})", vec!["?"; table.columns.len()].join(","));
    format!(
        "{verb} INTO {} ({}) VALUES {}",
        table.name,
        table.columns.join(", "),
        vec![row.as_str(); rows].join(",")
    )
}

const _: () = assert!(STEPS[0] * turns::COLUMNS <= 32_766);

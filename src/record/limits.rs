//! Limits of a ledger line: the longest line, the longest text in an indexed column, the most rows.
//!
//! Pure functions over rows. The limits bound the memory of a build, whatever the ledger. A line beyond a limit is rejected,
//! like every other line that cannot be stored. A stamp that gives many turns a long enrichment is not limited here, because
//! the enrichment depends on more than the stamp's line.

use super::Cell;
use super::columns::{Table, compactions, stamps, tool_calls, tool_result_events, turns};
use super::fold::Stamp;

/// The longest line that is read, in bytes without its LF.
pub const LINE_MAX_BYTES: u64 = 16 << 20;
/// The longest text in an index of the archive, in bytes. Sort keys are made of such texts, several at a time.
pub const INDEXED_TEXT_MAX_BYTES: usize = 256 << 10;
/// The largest size of the rows of one line in bytes, texts and cells; a tool call repeats the ids of its turn.
pub const LINE_ROWS_MAX_BYTES: usize = 32 << 20;

/// The largest number of tool calls of a turn: with more calls, the cells alone exceed the limit of rows.
pub(super) const TOOL_CALLS_MAX: usize =
    LINE_ROWS_MAX_BYTES / size_of::<tool_calls::ToolCallCells<'static>>();

/// Size of a row in bytes: cells and their texts.
fn row_bytes(row: &[Cell<'_>]) -> usize {
    size_of_val(row)
        + row.iter().map(|cell| if let Cell::Text(text) = cell { text.len() } else { 0 }).sum::<usize>()
}

/// Size in bytes of a turn with its calls.
pub(super) fn turn(
    row: &turns::TurnCells<'_>,
    calls: &[tool_calls::ToolCallCells<'_>],
) -> Result<usize, String> {
    let mut bytes = short_texts(&turns::TABLE, row)?;
    for call in calls {
        bytes += short_texts(&tool_calls::TABLE, call)?;
    }
    if bytes > LINE_ROWS_MAX_BYTES {
        return Err(format!(
            "its rows take {bytes} bytes with {} tool calls, at most {LINE_ROWS_MAX_BYTES} are stored",
            calls.len()
        ));
    }
    Ok(bytes)
}

pub(super) fn event(row: &tool_result_events::ToolResultEventCells<'_>) -> Result<usize, String> {
    short_texts(&tool_result_events::TABLE, row)
}

pub(super) fn compaction(row: &compactions::CompactionCells<'_>) -> Result<usize, String> {
    short_texts(&compactions::TABLE, row)
}

/// A stamp counts twice, because its parts are kept for folding. The workflow that a stamp gives to a turn is checked here,
/// because the turn's workflow is indexed.
pub(super) fn stamp(row: &stamps::StampCells<'_>, stamp: &Stamp<'_>) -> Result<usize, String> {
    let workflow = &turns::enrichment::FIELDS[0];
    for entry in stamp.entries.iter().filter(|entry| entry.value.plain.len() > INDEXED_TEXT_MAX_BYTES) {
        if entry.key_json.trim_matches('"') == workflow.member {
            return Err(too_long_text(workflow.member, entry.value.plain.len()));
        }
    }
    Ok(2 * short_texts(&stamps::TABLE, row)?)
}

/// Size of the row in bytes, if none of its indexed texts is too long.
#[inline]
fn short_texts(table: &Table, row: &[Cell<'_>]) -> Result<usize, String> {
    let bytes = row_bytes(row);
    if bytes <= INDEXED_TEXT_MAX_BYTES {
        return Ok(bytes);
    }
    let long = table.indexed.iter().find(|place| row[**place].as_text().len() > INDEXED_TEXT_MAX_BYTES);
    match long {
        Some(place) => Err(too_long_text(table.columns[*place], row[*place].as_text().len())),
        None => Ok(bytes),
    }
}

fn too_long_text(name: &str, len_bytes: usize) -> String {
    format!("{name} has {len_bytes} bytes, at most {INDEXED_TEXT_MAX_BYTES} can be indexed")
}

const _: () = assert!(turns::enrichment::FIELDS[0].place == turns::WORKFLOW_ID);

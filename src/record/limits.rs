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

/// The texts among the columns of a primary key or an index.
pub(crate) const INDEXED_TEXTS: [(Table, &[usize]); 5] = [
    (
        turns::TABLE,
        &[
            turns::SOURCE,
            turns::SESSION_ID,
            turns::MESSAGE_ID,
            turns::TS,
            turns::MODEL,
            turns::PROJECT_KEY,
            turns::ACTIVITY,
            turns::WORKFLOW_ID,
            turns::ATTRIBUTION_FIDELITY,
        ],
    ),
    (
        tool_calls::TABLE,
        &[
            tool_calls::SOURCE,
            tool_calls::SESSION_ID,
            tool_calls::MESSAGE_ID,
            tool_calls::TOOL_USE_ID,
            tool_calls::TOOL_NAME,
        ],
    ),
    (
        tool_result_events::TABLE,
        &[
            tool_result_events::SOURCE,
            tool_result_events::SESSION_ID,
            tool_result_events::MESSAGE_ID,
            tool_result_events::TOOL_USE_ID,
            tool_result_events::SUBAGENT_SESSION_ID,
        ],
    ),
    (compactions::TABLE, &[compactions::SOURCE, compactions::SESSION_ID, compactions::TS]),
    (stamps::TABLE, &[stamps::SOURCE, stamps::SESSION_ID, stamps::TS]),
];

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
    let mut bytes = short_texts(0, row)?;
    for call in calls {
        bytes += short_texts(1, call)?;
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
    short_texts(2, row)
}

pub(super) fn compaction(row: &compactions::CompactionCells<'_>) -> Result<usize, String> {
    short_texts(3, row)
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
    Ok(2 * short_texts(4, row)?)
}

/// Size of the row in bytes, if none of its indexed texts is too long.
#[inline]
fn short_texts(table: usize, row: &[Cell<'_>]) -> Result<usize, String> {
    let bytes = row_bytes(row);
    if bytes <= INDEXED_TEXT_MAX_BYTES {
        return Ok(bytes);
    }
    let (table, indexed) = &INDEXED_TEXTS[table];
    let long = indexed.iter().find(|place| row[**place].as_text().len() > INDEXED_TEXT_MAX_BYTES);
    match long {
        Some(place) => Err(too_long_text(table.columns[*place], row[*place].as_text().len())),
        None => Ok(bytes),
    }
}

fn too_long_text(name: &str, len_bytes: usize) -> String {
    format!("{name} has {len_bytes} bytes, at most {INDEXED_TEXT_MAX_BYTES} can be indexed")
}

const _: () = assert!(turns::enrichment::FIELDS[0].place == turns::WORKFLOW_ID);

//! The fast path: simd-json's tape, strict types, every field in one walk.
//!
//! It answers only for lines about which nothing is unusual; for all others (an error of the parser, a wrong type, a
//! missing field, a number that is not an i64, a known key twice) it says nothing and the exact path decides. So a
//! refusal here is never a verdict.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

use super::{CallCells, Cell, Kind, Rows, Turn};
use crate::archive::fold::NOTHING;
use crate::scan::json::tape::{PADDING_BYTES, TapeParser, Walk, once};

mod cells;
mod stamp;

use cells::fill;
pub(super) use stamp::stamp_cells;
use stamp::{into_text, push_json_string, stamp};

/// Adds the row of `line`, or returns `None` with `rows` as they were. The text of its row lives in `bump`, where the line is
/// copied to: the parser unescapes strings in place.
pub(super) fn parse<'a>(
    tapes: &mut TapeParser,
    offset: u64,
    line: &[u8],
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Option<Kind> {
    let padded = bump.alloc_slice_fill_copy(line.len() + PADDING_BYTES, 0u8);
    padded[..line.len()].copy_from_slice(line);
    tapes.parse(padded, |walk| envelope(offset, walk, bump, rows))
}

fn envelope<'a>(offset: u64, mut walk: Walk<'_, 'a>, bump: &'a Bump, rows: &mut Rows<'a>) -> Option<Kind> {
    let members = walk.object()?;
    let mut seen = 0;
    let (mut version, mut kind) = (None, None);
    let (mut record, mut ts, mut selector, mut enrichment) = (None, None, None, None);
    for member in members {
        let (key, mut value) = member?;
        let place = match key {
            "v" => {
                once(&mut seen, 0)?;
                version = Some(value.int()?);
                continue;
            }
            "kind" => {
                once(&mut seen, 1)?;
                kind = Some(value.str()?);
                continue;
            }
            "record" => (2, &mut record),
            "ts" => (3, &mut ts),
            "selector" => (4, &mut selector),
            "enrichment" => (5, &mut enrichment),
            _ => continue,
        };
        once(&mut seen, place.0)?;
        *place.1 = Some(value);
    }
    if version? != Cell::Int(1) {
        return Some(Kind::Unknown);
    }
    match kind? {
        "turn" => turn(record?, bump, rows),
        "tool_result_event" => event(record?, rows),
        "compaction" => compaction(record?, rows),
        "stamp" => stamp(offset, ts?, selector?, enrichment?, bump, rows),
        "relationship" | "user_turn" => Some(Kind::Other),
        _ => Some(Kind::Unknown),
    }
}

fn turn<'a>(mut walk: Walk<'_, 'a>, bump: &'a Bump, rows: &mut Rows<'a>) -> Option<Kind> {
    let members = walk.object()?;
    let mut cells = [Cell::Null; 32];
    cells[28] = Cell::Text(NOTHING.json);
    let mut seen = 0u64;
    let (mut usage, mut calls) = (None, None);
    for member in members {
        let (key, mut value) = member?;
        let (place, cell) = match key {
            "source" => (0, value.text()?),
            "sessionId" => (1, value.text()?),
            "messageId" => (2, value.text()?),
            "turnIndex" => (3, value.int()?),
            "ts" => (4, value.text()?),
            "model" => (5, value.text()?),
            "project" => (6, value.text_or_null()?),
            "projectKey" => (7, value.text_or_null()?),
            "activity" => (8, value.text_or_null()?),
            "stopReason" => (9, value.text_or_null()?),
            "hasEdits" => (10, value.flag()?),
            "retries" => (11, value.int_or_null()?),
            "subagent" => {
                once(&mut seen, 12)?;
                subagent(value, &mut cells)?;
                continue;
            }
            "usage" => {
                once(&mut seen, 18)?;
                usage = Some(value);
                continue;
            }
            "toolCalls" => {
                once(&mut seen, 24)?;
                calls = Some(value);
                continue;
            }
            "fidelity" => {
                once(&mut seen, 29)?;
                fidelity(value, &mut cells)?;
                continue;
            }
            _ => continue,
        };
        once(&mut seen, place)?;
        cells[place as usize] = cell;
    }
    const REQUIRED: u64 = 0b11_1111;
    if seen & REQUIRED != REQUIRED {
        return None;
    }
    usage_cells(usage?, &mut cells)?;
    let start = rows.calls.len();
    if tool_calls(calls?, &cells, bump, rows).is_none() {
        rows.calls.truncate(start);
        return None;
    }
    rows.turns.push(Turn { cells, calls: start..rows.calls.len() });
    Some(Kind::Turn)
}

fn usage_cells<'a>(mut walk: Walk<'_, 'a>, cells: &mut [Cell<'a>; 32]) -> Option<()> {
    let members = walk.object()?;
    let mut seen = 0;
    for member in members {
        let (key, mut value) = member?;
        let place = match key {
            "input" => 0,
            "output" => 1,
            "reasoning" => 2,
            "cacheRead" => 3,
            "cacheCreate5m" => 4,
            "cacheCreate1h" => 5,
            _ => continue,
        };
        once(&mut seen, place)?;
        cells[18 + place as usize] = value.int()?;
    }
    (seen == 0b11_1111).then_some(())
}

fn subagent<'a>(mut walk: Walk<'_, 'a>, cells: &mut [Cell<'a>; 32]) -> Option<()> {
    let Some(members) = walk.object_or_null()? else { return Some(()) };
    cells[12] = Cell::Int(0);
    fill(members, cells, |key, mut value| {
        Some(Some(match key {
            "isSidechain" => (12, value.flag()?),
            "agentId" => (13, value.text_or_null()?),
            "parentAgentId" => (14, value.text_or_null()?),
            "parentToolUseId" => (15, value.text_or_null()?),
            "subagentType" => (16, value.text_or_null()?),
            "description" => (17, value.text_or_null()?),
            _ => return Some(None),
        }))
    })?;
    Some(())
}

fn fidelity<'a>(mut walk: Walk<'_, 'a>, cells: &mut [Cell<'a>; 32]) -> Option<()> {
    let Some(members) = walk.object_or_null()? else { return Some(()) };
    let mut seen = 0;
    let (mut class, mut granularity, mut tokens) = (None, None, None);
    for member in members {
        let (key, mut value) = member?;
        match key {
            "class" => {
                once(&mut seen, 0)?;
                class = Some(value.text()?);
            }
            "granularity" => {
                once(&mut seen, 1)?;
                granularity = Some(value.str()?);
            }
            "coverage" => {
                once(&mut seen, 2)?;
                tokens = Some(covers_tokens(value)?);
            }
            _ => {}
        }
    }
    cells[29] = class?;
    cells[30] = Cell::Int(i64::from(tokens?));
    cells[31] = Cell::Int(i64::from(granularity == Some("cost-only")));
    Some(())
}

fn covers_tokens(mut walk: Walk<'_, '_>) -> Option<bool> {
    let members = walk.object()?;
    let (mut seen, mut any) = (0, false);
    for member in members {
        let (key, mut value) = member?;
        let place = match key {
            "hasInputTokens" => 0,
            "hasOutputTokens" => 1,
            "hasReasoningTokens" => 2,
            _ => continue,
        };
        once(&mut seen, place)?;
        any |= value.bool()?;
    }
    Some(any)
}

fn tool_calls<'a>(
    mut walk: Walk<'_, 'a>,
    turn: &[Cell<'a>; 32],
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Option<()> {
    let calls = walk.array()?;
    for index in 0..calls {
        let mut call = walk.take()?;
        let members = call.object()?;
        let mut cells: CallCells<'a> = [Cell::Null; 11];
        cells[..3].copy_from_slice(&turn[..3]);
        cells[3] = Cell::Int(index as i64);
        fill(members, &mut cells, |key, mut value| {
            Some(Some(match key {
                "id" => (4, value.text_or_null()?),
                "name" => (5, value.text()?),
                "target" => (6, value.text_or_null()?),
                "argsHash" => (7, value.text_or_null()?),
                "isError" => (8, value.flag()?),
                "replacedTools" => (9, replaced_tools(value, bump)?),
                "collapsedCalls" => (10, above_zero(value.int_or_null()?)),
                _ => return Some(None),
            }))
        })?;
        if cells[5] == Cell::Null {
            return None;
        }
        rows.calls.push(cells);
    }
    Some(())
}

fn above_zero(cell: Cell<'_>) -> Cell<'_> {
    match cell {
        Cell::Int(n) if n > 0 => cell,
        _ => Cell::Null,
    }
}

fn replaced_tools<'a>(mut walk: Walk<'_, 'a>, bump: &'a Bump) -> Option<Cell<'a>> {
    if walk.is_null() {
        return Some(Cell::Null);
    }
    let len = walk.array()?;
    if len == 0 {
        return Some(Cell::Null);
    }
    let mut text = BumpVec::with_capacity_in(16 * len, bump);
    for index in 0..len {
        text.push(if index == 0 { b'[' } else { b',' });
        push_json_string(walk.str()?, &mut text);
    }
    text.push(b']');
    into_text(text).map(Cell::Text)
}

fn event<'a>(mut walk: Walk<'_, 'a>, rows: &mut Rows<'a>) -> Option<Kind> {
    let members = walk.object()?;
    let mut cells = [Cell::Null; 14];
    let seen = fill(members, &mut cells, |key, mut value| {
        Some(Some(match key {
            "source" => (0, value.text()?),
            "sessionId" => (1, value.text()?),
            "messageId" => (2, value.text_or_null()?),
            "toolUseId" => (3, value.text()?),
            "callIndex" => (4, value.int_or_null()?),
            "eventIndex" => (5, value.int()?),
            "status" => (6, value.text()?),
            "contentLength" => (7, value.int_or_null()?),
            "contentHash" => (8, value.text_or_null()?),
            "isError" => (9, value.flag()?),
            "subagentSessionId" => (10, value.text_or_null()?),
            "agentId" => (11, value.text_or_null()?),
            "eventSource" => (12, value.text()?),
            "ts" => (13, value.text_or_null()?),
            _ => return Some(None),
        }))
    })?;
    const REQUIRED: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 12;
    if seen & REQUIRED != REQUIRED {
        return None;
    }
    if cells[2] == Cell::Null {
        cells[2] = Cell::Text("");
    }
    if cells[4] == Cell::Null {
        cells[4] = Cell::Int(0);
    }
    rows.events.push(cells);
    Some(Kind::Event)
}

fn compaction<'a>(mut walk: Walk<'_, 'a>, rows: &mut Rows<'a>) -> Option<Kind> {
    let members = walk.object()?;
    let mut cells = [Cell::Null; 5];
    let seen = fill(members, &mut cells, |key, mut value| {
        Some(Some(match key {
            "source" => (0, value.text()?),
            "sessionId" => (1, value.text()?),
            "ts" => (2, value.text()?),
            "precedingMessageId" => (3, value.text_or_null()?),
            "tokensBeforeCompact" => (4, value.int_or_null()?),
            _ => return Some(None),
        }))
    })?;
    if seen & 0b111 != 0b111 {
        return None;
    }
    rows.compactions.push(cells);
    Some(Kind::Compaction)
}

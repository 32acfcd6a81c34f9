//! The fast reader: reads simd-json's tape with strict types, every member in one walk.
//!
//! Returns rows only for ordinary lines. For all others (an error of the parser, a wrong type, a missing member, a number that
//! is not an i64, a known key twice) returns `None`, and the exact reader decides. So `None` is never a verdict here.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use simd_json::{Node, StaticNode};

use super::columns::{OnTape, Reading, compactions, tool_calls, tool_result_events, turns};
use super::fold::NOTHING;
use super::limits::TOOL_CALLS_MAX;
use super::rows::{Rows, StoredKind, TurnRow};
use super::stamp::{into_text, push_json_string, stamp};
use super::unarchived::UnarchivedRecord;
use super::{Cell, LedgerLineKind, RecordKind};
use crate::scan::json::tape::{PADDING_BYTES, TapeMembers, TapeParser, Walk, once};

/// The type of a line, with walks over the parts that the line's kind needs.
pub(super) enum Envelope<'t, 'a> {
    Record(RecordKind, Option<Walk<'t, 'a>>),
    Stamp {
        ts: Walk<'t, 'a>,
        selector: Walk<'t, 'a>,
        enrichment: Walk<'t, 'a>,
    },
    /// Another version or kind.
    Unknown,
}

impl<'t, 'a> Envelope<'t, 'a> {
    /// Reads the members of a line.
    pub(super) fn read(mut walk: Walk<'t, 'a>) -> Option<Self> {
        let mut seen = 0;
        let (mut version, mut kind) = (None, None);
        let (mut record, mut ts, mut selector, mut enrichment) = (None, None, None, None);
        for member in walk.object()? {
            let (key, mut value) = member?;
            let (bit, part) = match key {
                "v" => {
                    once(&mut seen, 0)?;
                    version = Some(value.number()?);
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
            once(&mut seen, bit)?;
            *part = Some(value);
        }
        if version? != 1.0 {
            return Some(Self::Unknown);
        }
        Some(match LedgerLineKind::from_name(kind?) {
            Some(LedgerLineKind::Record(kind)) => Self::Record(kind, record),
            Some(LedgerLineKind::Stamp) => {
                Self::Stamp { ts: ts?, selector: selector?, enrichment: enrichment? }
            }
            None => Self::Unknown,
        })
    }
}

/// Adds the row of `line`, or returns `None` and leaves `rows` unchanged. The line is copied to `bump`, because the parser
/// unescapes strings in place; the texts of the row are in this copy.
pub(super) fn parse<'a>(
    tapes: &mut TapeParser,
    offset: u64,
    line: &[u8],
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Option<StoredKind> {
    let mut padded = BumpVec::with_capacity_in(line.len() + PADDING_BYTES, bump);
    padded.extend_from_slice_copy(line);
    padded.resize(line.len() + PADDING_BYTES, 0);
    tapes.parse(padded.into_bump_slice_mut(), |walk| match Envelope::read(walk)? {
        Envelope::Record(RecordKind::Turn, record) => turn(record?, bump, rows),
        Envelope::Record(RecordKind::ToolResultEvent, record) => {
            let row = row(record?, bump, tool_result_events::record::ABSENT, |key, value, bump| {
                tool_result_events::record::on_tape(key, value, bump)
            });
            rows.events.push(whole(row?, tool_result_events::record::REQUIRED)?);
            Some(StoredKind::Event)
        }
        Envelope::Record(RecordKind::Compaction, record) => {
            let row = row(record?, bump, compactions::record::ABSENT, |key, value, bump| {
                compactions::record::on_tape(key, value, bump)
            });
            rows.compactions.push(whole(row?, compactions::record::REQUIRED)?);
            Some(StoredKind::Compaction)
        }
        Envelope::Record(kind @ (RecordKind::Relationship | RecordKind::UserTurn), record) => {
            if let Some(unarchived) = &mut rows.unarchived {
                unarchived.push(UnarchivedRecord::read(kind, record?, bump)?);
            }
            Some(StoredKind::Nothing)
        }
        Envelope::Stamp { ts, selector, enrichment } => stamp(offset, ts, selector, enrichment, bump, rows),
        Envelope::Unknown => Some(StoredKind::Unknown),
    })
}

/// A row of the next object in `walk`, and the bits of the members present.
#[inline(always)]
fn row<'t, 'a, const COLUMNS: usize>(
    mut walk: Walk<'t, 'a>,
    bump: &'a Bump,
    absent: [Cell<'a>; COLUMNS],
    on_tape: impl Fn(&'a str, Walk<'t, 'a>, &'a Bump) -> OnTape<'a>,
) -> Option<([Cell<'a>; COLUMNS], u64)> {
    let mut cells = absent;
    let seen = fill(walk.object()?, bump, &mut cells, on_tape)?;
    Some((cells, seen))
}

/// Reads the members of an object into `cells`; returns a bit for each member present.
#[inline(always)]
fn fill<'t, 'a, const COLUMNS: usize>(
    members: TapeMembers<'_, 't, 'a>,
    bump: &'a Bump,
    cells: &mut [Cell<'a>; COLUMNS],
    on_tape: impl Fn(&'a str, Walk<'t, 'a>, &'a Bump) -> OnTape<'a>,
) -> Option<u64> {
    let mut seen = 0;
    for member in members {
        let (key, value) = member?;
        if let Some((place, cell)) = on_tape(key, value, bump)? {
            once(&mut seen, place as u32)?;
            cells[place] = cell;
        }
    }
    Some(seen)
}

/// The row, if all required members are present.
fn whole<const COLUMNS: usize>(
    (cells, seen): ([Cell<'_>; COLUMNS], u64),
    required: u64,
) -> Option<[Cell<'_>; COLUMNS]> {
    (seen & required == required).then_some(cells)
}

fn turn<'a>(mut walk: Walk<'_, 'a>, bump: &'a Bump, rows: &mut Rows<'a>) -> Option<StoredKind> {
    const FIDELITY: u32 = turns::COLUMNS as u32;
    let mut cells: turns::TurnCells<'a> = turns::record::ABSENT;
    cells[turns::ENRICHMENT_JSON] = Cell::Text(NOTHING.json);
    let mut seen = 0u64;
    let (mut subagent, mut usage, mut calls) = (None, None, None);
    for member in walk.object()? {
        let (key, value) = member?;
        if let Some((place, cell)) = turns::record::on_tape(key, value, bump)? {
            once(&mut seen, place as u32)?;
            cells[place] = cell;
            continue;
        }
        let (bit, part) = match key {
            "subagent" => (FIDELITY + 1, &mut subagent),
            "usage" => (FIDELITY + 2, &mut usage),
            "toolCalls" => (FIDELITY + 3, &mut calls),
            "fidelity" => {
                once(&mut seen, FIDELITY)?;
                fidelity(value, &mut cells)?;
                continue;
            }
            _ => continue,
        };
        once(&mut seen, bit)?;
        *part = Some(value);
    }
    let mut cells = whole((cells, seen), turns::record::REQUIRED)?;
    if let Some(mut subagent) = subagent
        && let Some(members) = subagent.object_or_null()?
    {
        cells[turns::IS_SIDECHAIN] = Reading::Flag.absent();
        fill(members, bump, &mut cells, turns::subagent::on_tape)?;
    }
    let seen = fill(usage?.object()?, bump, &mut cells, turns::usage::on_tape)?;
    whole((cells, seen), turns::usage::REQUIRED)?;
    let start = rows.calls.len();
    if tool_call_rows(calls?, &cells, bump, rows).is_none() {
        rows.calls.truncate(start);
        return None;
    }
    rows.turns.push(TurnRow { cells, calls: start..rows.calls.len() });
    Some(StoredKind::Turn)
}

fn fidelity<'a>(mut walk: Walk<'_, 'a>, cells: &mut turns::TurnCells<'a>) -> Option<()> {
    let Some(members) = walk.object_or_null()? else { return Some(()) };
    let mut seen = 0;
    let (mut class, mut granularity, mut tokens) = (None, None, None);
    for member in members {
        let (key, mut value) = member?;
        match key {
            "class" => {
                once(&mut seen, 0)?;
                class = Some(value.str()?);
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
    cells[turns::ATTRIBUTION_FIDELITY] = Cell::Text(class?);
    cells[turns::TOKENS_PRESENT] = Cell::Int(i64::from(tokens?));
    cells[turns::COST_PRESENT] = Cell::Int(i64::from(granularity == Some("cost-only")));
    Some(())
}

fn covers_tokens(mut walk: Walk<'_, '_>) -> Option<bool> {
    let (mut seen, mut any) = (0, false);
    for member in walk.object()? {
        let (key, mut value) = member?;
        let bit = match key {
            "hasInputTokens" => 0,
            "hasOutputTokens" => 1,
            "hasReasoningTokens" => 2,
            _ => continue,
        };
        once(&mut seen, bit)?;
        any |= value.bool()?;
    }
    Some(any)
}

fn tool_call_rows<'a>(
    mut walk: Walk<'_, 'a>,
    turn: &turns::TurnCells<'a>,
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Option<()> {
    let calls = walk.array()?;
    if calls > TOOL_CALLS_MAX {
        return None;
    }
    for index in 0..calls {
        let (mut cells, seen) = row(walk.take()?, bump, tool_calls::call::ABSENT, |key, value, bump| {
            tool_calls::call::on_tape(key, value, bump)
        })?;
        cells[..tool_calls::CALL_INDEX].copy_from_slice(&turn[..=turns::MESSAGE_ID]);
        cells[tool_calls::CALL_INDEX] = Cell::Int(index as i64);
        rows.calls.push(whole((cells, seen), tool_calls::call::REQUIRED)?);
    }
    Some(())
}

impl Reading {
    /// The cell of a value on the tape; `None` for a value that the exact reader has to decide.
    #[inline(always)]
    pub(super) fn on_tape<'a>(self, mut value: Walk<'_, 'a>, bump: &'a Bump) -> Option<Cell<'a>> {
        match self {
            // A null that is stored is rare, so the exact reader reads it.
            Self::Text | Self::NullableText => value.str().map(Cell::Text),
            Self::OptionalText | Self::TextOrEmpty => match value.next()? {
                Node::String(text) => Some(Cell::Text(text)),
                Node::Static(StaticNode::Null) => Some(self.absent()),
                _ => None,
            },
            Self::Number => value.integer().map(Cell::Int),
            Self::OptionalNumber | Self::NumberOrZero if value.is_null() => Some(self.absent()),
            Self::OptionalNumber | Self::NumberOrZero => value.integer().map(Cell::Int),
            Self::PositiveNumber if value.is_null() => Some(Cell::Null),
            Self::PositiveNumber => value.integer().map(|n| if n > 0 { Cell::Int(n) } else { Cell::Null }),
            Self::OptionalFlag | Self::Flag => match value.next()? {
                Node::Static(StaticNode::Bool(value)) => Some(Cell::Int(i64::from(value))),
                Node::Static(StaticNode::Null) => Some(Cell::Int(0)),
                _ => None,
            },
            Self::Strings if value.is_null() => Some(Cell::Null),
            Self::Strings => strings(value, bump),
        }
    }
}

/// An array of strings as JSON text.
fn strings<'a>(mut walk: Walk<'_, 'a>, bump: &'a Bump) -> Option<Cell<'a>> {
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

/// Numbers on the tape.
impl Walk<'_, '_> {
    /// The next number, as in JavaScript.
    pub(super) fn number(&mut self) -> Option<f64> {
        number_of(self.next()?)
    }

    fn integer(&mut self) -> Option<i64> {
        match self.next()? {
            Node::Static(StaticNode::I64(n)) => Some(n),
            Node::Static(StaticNode::U64(n)) => i64::try_from(n).ok(),
            _ => None,
        }
    }
}

/// The number of an integer node, as in JavaScript.
pub(super) fn number_of(node: Node<'_>) -> Option<f64> {
    match node {
        Node::Static(StaticNode::I64(number)) => Some(number as f64),
        Node::Static(StaticNode::U64(number)) => Some(number as f64),
        _ => None,
    }
}

//! The fast reader: reads the members of an ordinary line where they stand in the text, with strict types, each member once.
//!
//! Returns rows only for ordinary lines. For all others (a wrong type, a missing member, a number that is not an i64, a known key
//! twice, text that the walk refuses) returns `None`, and the exact reader decides. So `None` is never a verdict here.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

use super::columns::{FromWalk, Reading, compactions, tool_calls, tool_result_events, turns};
use super::fold::NOTHING;
use super::limits::TOOL_CALLS_MAX;
use super::rows::{Rows, StoredKind, TurnRow};
use super::stamp::{into_text, push_json_string, stamp};
use super::{Cell, LedgerLineKind, RecordKind};
use crate::scan::json::walk::{Walk, WalkMembers, once};

/// The type of a line, with what was read of it.
pub(super) enum Envelope<'a, T> {
    /// A record of the kind, and what was read of the record; `None` where the line has no record.
    Record(RecordKind, Option<T>),
    /// The values of a stamp.
    Stamp { ts: Walk<'a>, selector: Walk<'a>, enrichment: Walk<'a> },
    /// Another version or kind.
    Unknown,
}

impl<'a, T> Envelope<'a, T> {
    /// Reads the members of a line, and the record with `read`.
    #[inline(always)]
    pub(super) fn read(
        mut walk: Walk<'a>,
        mut read: impl FnMut(RecordKind, &mut Walk<'a>) -> Option<T>,
    ) -> Option<Self> {
        let mut seen = 0;
        let (mut version, mut kind) = (None, None);
        let (mut record, mut late_record, mut ts, mut selector, mut enrichment) =
            (None, None, None, None, None);
        let mut members = walk.object()?;
        while let Some(key) = members.next()? {
            let value = members.value();
            let (bit, part) = match key {
                "v" => {
                    once(&mut seen, 0)?;
                    version = Some(value.number()?);
                    continue;
                }
                "kind" => {
                    once(&mut seen, 1)?;
                    kind = Some(LedgerLineKind::from_name(value.str()?));
                    continue;
                }
                "record" => {
                    once(&mut seen, 2)?;
                    match (version, kind) {
                        (Some(1.0), Some(Some(LedgerLineKind::Record(kind)))) => {
                            record = Some(read(kind, value)?)
                        }
                        _ => late_record = Some(value.take()?),
                    }
                    continue;
                }
                "ts" => (3, &mut ts),
                "selector" => (4, &mut selector),
                "enrichment" => (5, &mut enrichment),
                _ => {
                    value.skip()?;
                    continue;
                }
            };
            once(&mut seen, bit)?;
            *part = Some(value.take()?);
        }
        if !walk.is_at_end() {
            return None;
        }
        if version? != 1.0 {
            return Some(Self::Unknown);
        }
        Some(match kind? {
            Some(LedgerLineKind::Record(kind)) => {
                if let Some(mut late) = late_record {
                    record = Some(read(kind, &mut late)?);
                }
                Self::Record(kind, record)
            }
            Some(LedgerLineKind::Stamp) => {
                Self::Stamp { ts: ts?, selector: selector?, enrichment: enrichment? }
            }
            None => Self::Unknown,
        })
    }
}

/// Adds the row of `line`, or returns `None` and leaves `rows` unchanged. The line is copied to `bump`, because bytes in a map
/// could change after they were checked; the texts of the row are in this copy.
pub(super) fn parse<'a>(offset: u64, line: &[u8], bump: &'a Bump, rows: &mut Rows<'a>) -> Option<StoredKind> {
    let text = simdutf8::basic::from_utf8(bump.alloc_slice_copy(line)).ok()?;
    let counts = rows.counts();
    let (compactions, stamps) = (rows.compactions.len(), rows.stamps.len());
    let stored = line_of(offset, Walk::new(text, bump), bump, rows);
    if stored.is_none() {
        // A row may precede the place where the line turned out to be unusual.
        rows.turns.truncate(counts[0]);
        rows.calls.truncate(counts[1]);
        rows.events.truncate(counts[2]);
        rows.compactions.truncate(compactions);
        rows.stamps.truncate(stamps);
    }
    stored
}

fn line_of<'a>(offset: u64, walk: Walk<'a>, bump: &'a Bump, rows: &mut Rows<'a>) -> Option<StoredKind> {
    let envelope = Envelope::read(walk, |kind, walk| match kind {
        RecordKind::Turn => turn(walk, bump, rows),
        RecordKind::ToolResultEvent => {
            let row = row(walk, bump, tool_result_events::record::ABSENT, |key, value, bump| {
                tool_result_events::record::from_walk(key, value, bump)
            });
            rows.events.push(whole(row?, tool_result_events::record::REQUIRED)?);
            Some(())
        }
        RecordKind::Compaction => {
            let row = row(walk, bump, compactions::record::ABSENT, |key, value, bump| {
                compactions::record::from_walk(key, value, bump)
            });
            rows.compactions.push(whole(row?, compactions::record::REQUIRED)?);
            Some(())
        }
        RecordKind::Relationship | RecordKind::UserTurn => walk.skip(),
    });
    match envelope? {
        Envelope::Record(RecordKind::Relationship | RecordKind::UserTurn, _) => Some(StoredKind::Nothing),
        Envelope::Record(RecordKind::Turn, record) => record.map(|()| StoredKind::Turn),
        Envelope::Record(RecordKind::ToolResultEvent, record) => record.map(|()| StoredKind::Event),
        Envelope::Record(RecordKind::Compaction, record) => record.map(|()| StoredKind::Compaction),
        Envelope::Stamp { ts, selector, enrichment } => stamp(offset, ts, selector, enrichment, bump, rows),
        Envelope::Unknown => Some(StoredKind::Unknown),
    }
}

/// A row of the next object in `walk`, and the bits of the members present.
#[inline(always)]
fn row<'a, const COLUMNS: usize>(
    walk: &mut Walk<'a>,
    bump: &'a Bump,
    absent: [Cell<'a>; COLUMNS],
    from_walk: impl Fn(&str, &mut Walk<'a>, &'a Bump) -> FromWalk<'a>,
) -> Option<([Cell<'a>; COLUMNS], u64)> {
    let mut cells = absent;
    let seen = fill(walk.object()?, bump, &mut cells, from_walk)?;
    Some((cells, seen))
}

/// Reads the members of an object into `cells`; returns a bit for each member present.
#[inline(always)]
fn fill<'a, const COLUMNS: usize>(
    mut members: WalkMembers<'_, 'a>,
    bump: &'a Bump,
    cells: &mut [Cell<'a>; COLUMNS],
    from_walk: impl Fn(&str, &mut Walk<'a>, &'a Bump) -> FromWalk<'a>,
) -> Option<u64> {
    let mut seen = 0;
    while let Some(key) = members.next()? {
        match from_walk(key, members.value(), bump)? {
            Some((place, cell)) => {
                once(&mut seen, place as u32)?;
                cells[place] = cell;
            }
            None => members.value().skip()?,
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

fn turn<'a>(walk: &mut Walk<'a>, bump: &'a Bump, rows: &mut Rows<'a>) -> Option<()> {
    const FIDELITY: u32 = turns::COLUMNS as u32;
    const SUBAGENT: u32 = FIDELITY + 1;
    const USAGE: u32 = FIDELITY + 2;
    const TOOL_CALLS: u32 = FIDELITY + 3;
    let mut cells: turns::TurnCells<'a> = turns::record::ABSENT;
    cells[turns::ENRICHMENT_JSON] = Cell::Text(NOTHING.json);
    let start = rows.calls.len();
    let mut seen = 0u64;
    let mut members = walk.object()?;
    while let Some(key) = members.next()? {
        let value = members.value();
        if let Some((place, cell)) = turns::record::from_walk(key, value, bump)? {
            once(&mut seen, place as u32)?;
            cells[place] = cell;
            continue;
        }
        match key {
            "fidelity" => {
                once(&mut seen, FIDELITY)?;
                fidelity(value, &mut cells)?;
            }
            "subagent" => {
                once(&mut seen, SUBAGENT)?;
                if !value.null() {
                    cells[turns::IS_SIDECHAIN] = Reading::Flag.absent();
                    fill(value.object()?, bump, &mut cells, turns::subagent::from_walk)?;
                }
            }
            "usage" => {
                once(&mut seen, USAGE)?;
                let of_usage = fill(value.object()?, bump, &mut cells, turns::usage::from_walk)?;
                if of_usage & turns::usage::REQUIRED != turns::usage::REQUIRED {
                    return None;
                }
            }
            "toolCalls" => {
                once(&mut seen, TOOL_CALLS)?;
                tool_call_rows(value, bump, rows)?;
            }
            _ => value.skip()?,
        }
    }
    let cells = whole((cells, seen), turns::record::REQUIRED | 1 << USAGE | 1 << TOOL_CALLS)?;
    for call in &mut rows.calls[start..] {
        call[..tool_calls::CALL_INDEX].copy_from_slice(&cells[..=turns::MESSAGE_ID]);
    }
    rows.turns.push(TurnRow { cells, calls: start..rows.calls.len() });
    Some(())
}

fn fidelity<'a>(walk: &mut Walk<'a>, cells: &mut turns::TurnCells<'a>) -> Option<()> {
    if walk.null() {
        return Some(());
    }
    let mut seen = 0;
    let (mut class, mut granularity, mut tokens) = (None, None, None);
    let mut members = walk.object()?;
    while let Some(key) = members.next()? {
        let value = members.value();
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
            _ => value.skip()?,
        }
    }
    cells[turns::ATTRIBUTION_FIDELITY] = Cell::Text(class?);
    cells[turns::TOKENS_PRESENT] = Cell::Int(i64::from(tokens?));
    cells[turns::COST_PRESENT] = Cell::Int(i64::from(granularity == Some("cost-only")));
    Some(())
}

fn covers_tokens(walk: &mut Walk<'_>) -> Option<bool> {
    let (mut seen, mut any) = (0, false);
    let mut members = walk.object()?;
    while let Some(key) = members.next()? {
        let bit = match key {
            "hasInputTokens" => 0,
            "hasOutputTokens" => 1,
            "hasReasoningTokens" => 2,
            _ => {
                members.value().skip()?;
                continue;
            }
        };
        once(&mut seen, bit)?;
        any |= members.value().bool()?;
    }
    Some(any)
}

/// Adds the rows of the calls, without the columns that a call shares with its turn.
fn tool_call_rows<'a>(walk: &mut Walk<'a>, bump: &'a Bump, rows: &mut Rows<'a>) -> Option<()> {
    let mut calls = walk.array()?;
    let mut index = 0;
    while calls.next()? {
        if index == TOOL_CALLS_MAX {
            return None;
        }
        let (mut cells, seen) = row(calls.value(), bump, tool_calls::call::ABSENT, |key, value, bump| {
            tool_calls::call::from_walk(key, value, bump)
        })?;
        cells[tool_calls::CALL_INDEX] = Cell::Int(index as i64);
        rows.calls.push(whole((cells, seen), tool_calls::call::REQUIRED)?);
        index += 1;
    }
    Some(())
}

impl Reading {
    /// The cell of the next value; `None` for a value that the exact reader has to decide.
    #[inline(always)]
    pub(super) fn cell<'a>(self, value: &mut Walk<'a>, bump: &'a Bump) -> Option<Cell<'a>> {
        match self {
            // A null that is stored is rare, so the exact reader reads it.
            Self::Text | Self::NullableText => value.str().map(Cell::Text),
            Self::Number => value.integer().map(Cell::Int),
            Self::OptionalFlag | Self::Flag if value.null() => Some(Cell::Int(0)),
            Self::OptionalFlag | Self::Flag => value.bool().map(|value| Cell::Int(i64::from(value))),
            _ if value.null() => Some(self.absent()),
            Self::OptionalText | Self::TextOrEmpty => value.str().map(Cell::Text),
            Self::OptionalNumber | Self::NumberOrZero => value.integer().map(Cell::Int),
            Self::PositiveNumber => value.integer().map(|n| if n > 0 { Cell::Int(n) } else { Cell::Null }),
            Self::Strings => strings(value, bump),
        }
    }
}

/// An array of strings as JSON text.
fn strings<'a>(walk: &mut Walk<'a>, bump: &'a Bump) -> Option<Cell<'a>> {
    let mut items = walk.array()?;
    let mut text = BumpVec::with_capacity_in(64, bump);
    while items.next()? {
        text.push(if text.is_empty() { b'[' } else { b',' });
        push_json_string(items.value().str()?, &mut text);
    }
    if text.is_empty() {
        return Some(Cell::Null);
    }
    text.push(b']');
    into_text(text).map(Cell::Text)
}

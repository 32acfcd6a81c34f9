//! Stamps: reads their selectors and entries, and makes the JSON texts that are stored.

use std::ops::Range;

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use memchr::memmem;

use super::Cell;
use super::columns::stamps;
use super::fold::{Assigned, Assignment, Selector, Stamp, TimeRange};
use super::rows::{Rows, StampRow, StoredKind};
use crate::scan::json;
use crate::scan::json::tape::{Walk, once};

/// Adds a stamp line. The selector and the enrichment are printed again, as JSON.stringify prints them.
pub(super) fn stamp<'a>(
    offset: u64,
    mut ts: Walk<'_, 'a>,
    mut selector: Walk<'_, 'a>,
    mut enrichment: Walk<'_, 'a>,
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Option<StoredKind> {
    let ts = ts.str()?;
    let mut fields = Selector::default();
    let mut selector_json = BumpVec::with_capacity_in(96, bump);
    let mut seen = 0;
    for (index, member) in selector.object()?.enumerate() {
        let (key, mut value) = member?;
        selector_json.push(if index == 0 { b'{' } else { b',' });
        push_json_string(key, &mut selector_json);
        selector_json.push(b':');
        match key {
            "sessionId" | "messageId" => {
                once(&mut seen, u32::from(key == "messageId"))?;
                let text = value.str()?;
                push_json_string(text, &mut selector_json);
                if key == "sessionId" {
                    fields.session = Some(text);
                } else {
                    fields.message = Some(text);
                }
            }
            "range" => {
                once(&mut seen, 2)?;
                fields.range = Some(range(value, &mut selector_json)?);
            }
            // Unknown members are kept in the text; the exact reader does that.
            _ => return None,
        }
    }
    close_object(&mut selector_json);

    let members = enrichment.object()?;
    // Keys are compared pair by pair here; the exact reader sorts them.
    const KEYS_MAX: usize = 32;
    let mut entries = BumpVec::with_capacity_in(members.len(), bump);
    let mut enrichment_json = BumpVec::with_capacity_in(64, bump);
    let mut keys = BumpVec::with_capacity_in(members.len(), bump);
    for (index, member) in members.enumerate() {
        let (key, mut value) = member?;
        let value = value.str()?;
        // The exact reader handles array indices (sorted to the front), `__proto__` and repeated keys.
        if keys.len() == KEYS_MAX
            || key.as_bytes().first().is_none_or(u8::is_ascii_digit)
            || key == "__proto__"
            || keys.contains(&key)
        {
            return None;
        }
        keys.push(key);
        enrichment_json.push(if index == 0 { b'{' } else { b',' });
        let entry = Assignment {
            key_json: json_string(key, bump)?,
            array_index: None,
            value: Assigned { json: json_string(value, bump)?, plain: value },
        };
        enrichment_json.extend_from_slice(entry.key_json.as_bytes());
        enrichment_json.push(b':');
        enrichment_json.extend_from_slice(entry.value.json.as_bytes());
        entries.push(entry);
    }
    close_object(&mut enrichment_json);
    let stamp = Stamp { ts, offset, selector: fields, entries: entries.into_bump_slice() };
    rows.stamps.push(StampRow {
        cells: stamp_cells(&stamp, into_text(selector_json)?, into_text(enrichment_json)?)?,
        stamp,
    });
    Some(StoredKind::Stamp)
}

/// The row of a stamp.
pub(super) fn stamp_cells<'a>(
    stamp: &Stamp<'a>,
    selector_json: &'a str,
    enrichment_json: &'a str,
) -> Option<stamps::StampCells<'a>> {
    let mut row = [Cell::Null; stamps::COLUMNS];
    row[stamps::SOURCE] = Cell::Text("*");
    row[stamps::SESSION_ID] = Cell::Text(stamp.selector.session.unwrap_or("*"));
    row[stamps::TS] = Cell::Text(stamp.ts);
    row[stamps::SELECTOR_JSON] = Cell::Text(selector_json);
    row[stamps::ENRICHMENT_JSON] = Cell::Text(enrichment_json);
    row[stamps::LEDGER_OFFSET_BYTES] = Cell::Int(i64::try_from(stamp.offset).ok()?);
    Some(row)
}

fn range<'a>(mut walk: Walk<'_, 'a>, json: &mut BumpVec<'_, u8>) -> Option<TimeRange<'a>> {
    let mut range = TimeRange::default();
    let mut seen = 0;
    for (index, member) in walk.object()?.enumerate() {
        let (key, mut value) = member?;
        let text = value.str()?;
        json.push(if index == 0 { b'{' } else { b',' });
        push_json_string(key, json);
        json.push(b':');
        push_json_string(text, json);
        let bound = Some(text).filter(|text| !text.is_empty());
        match key {
            "fromTs" => {
                once(&mut seen, 0)?;
                range.from = bound;
            }
            "toTs" => {
                once(&mut seen, 1)?;
                range.to = bound;
            }
            "fromMessageId" => once(&mut seen, 2)?,
            "toMessageId" => once(&mut seen, 3)?,
            _ => return None,
        }
    }
    close_object(json);
    Some(range)
}

fn close_object(json: &mut BumpVec<'_, u8>) {
    if json.is_empty() || json.last() == Some(&b':') {
        json.push(b'{');
    }
    json.push(b'}');
}

fn json_string<'a>(text: &str, bump: &'a Bump) -> Option<&'a str> {
    let mut out = BumpVec::with_capacity_in(text.len() + 2, bump);
    push_json_string(text, &mut out);
    into_text(out)
}

pub(super) fn into_text(bytes: BumpVec<'_, u8>) -> Option<&str> {
    std::str::from_utf8(bytes.into_bump_slice()).ok()
}

/// Appends `text` as JSON.stringify prints it.
pub(super) fn push_json_string(text: &str, out: &mut BumpVec<'_, u8>) {
    out.push(b'"');
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    let mut escaped = Vec::with_capacity(text.len() + 16);
    json::write_js_string(text.as_bytes(), &mut escaped);
    out.pop();
    out.extend_from_slice(&escaped);
}

/// The lines that may be stamps, in order. A letter of `stamp` can only be escaped as `\u006_` or `\u007_`.
pub(crate) fn possible_stamps(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut hits: Vec<usize> = memmem::find_iter(bytes, "\"stamp\"").collect();
    let escapes = memchr::memchr(b'\\', bytes).unwrap_or(bytes.len());
    let escaped = memmem::find_iter(&bytes[escapes..], "\\u00").map(|at| escapes + at);
    hits.extend(escaped.filter(|at| matches!(bytes.get(at + 4), Some(b'6' | b'7'))));
    hits.sort_unstable();
    let mut lines: Vec<Range<usize>> = Vec::new();
    for hit in hits {
        if lines.last().is_some_and(|line| hit < line.end) {
            continue;
        }
        let start = memchr::memrchr(b'\n', &bytes[..hit]).map_or(0, |at| at + 1);
        let end = memchr::memchr(b'\n', &bytes[hit..]).map_or(bytes.len(), |at| hit + at);
        lines.push(start..end);
    }
    lines
}

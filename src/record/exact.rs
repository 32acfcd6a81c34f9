//! The exact reader: reads any line that JavaScript can parse, field by field, and gives a reason for every value that cannot
//! be stored.
//!
//! Types are strict here too: a number instead of text is rejected, and not converted. JavaScript's rules are followed where
//! they decide: a flag is a value that is true in JavaScript; an integral number is an integer however it is spelled.

use std::borrow::Cow;

use bumpalo::Bump;

use super::columns::{Field, Reading, compactions, tool_calls, tool_result_events, turns};
use super::fold::{Assigned, Assignment, NOTHING, Selector, Stamp, TimeRange};
use super::limits::TOOL_CALLS_MAX;
use super::rows::{LineRefusal, Rows, StampRow, StoredKind, TurnRow, Verdict};
use super::stamp::stamp_cells;
use super::{Cell, ParsedLine, RecordKind, line_of};
use crate::scan::json::{
    Document, JsStr, Kind as JsonKind, Value, is_array_index_key, stringify, write_js_string,
};

/// Adds the row of `line`. The line is trimmed and not empty.
pub(super) fn parse<'a, 'd>(
    document: &'d mut Document,
    offset: u64,
    line: &'d [u8],
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Result<StoredKind, LineRefusal> {
    let root = document
        .parse(line)
        .map_err(|error| LineRefusal { verdict: Verdict::Malformed, reason: error.to_string() })?;
    let record = |kind: RecordKind| ExactFields::new(root, "record", kind.as_str(), bump);
    match line_of(root) {
        ParsedLine::Record(kind, _) | ParsedLine::Shapeless(kind) => match kind {
            RecordKind::Turn => turn(record(kind)?, rows),
            RecordKind::ToolResultEvent => {
                let mut row = tool_result_events::record::ABSENT;
                record(kind)?.fill(tool_result_events::record::FIELDS, &mut row)?;
                rows.events.push(row);
                Ok(StoredKind::Event)
            }
            RecordKind::Compaction => {
                let mut row = compactions::record::ABSENT;
                record(kind)?.fill(compactions::record::FIELDS, &mut row)?;
                rows.compactions.push(row);
                Ok(StoredKind::Compaction)
            }
            RecordKind::Relationship | RecordKind::UserTurn => Ok(StoredKind::Nothing),
        },
        ParsedLine::Stamp => stamp(offset, root, bump, rows),
        ParsedLine::Unknown => Ok(StoredKind::Unknown),
    }
}

fn rejected(reason: String) -> LineRefusal {
    LineRefusal { verdict: Verdict::Rejected, reason }
}

/// Text from a ledger in the form for a message: control characters escaped, at most 60 characters.
fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    let mut shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn kind_name(kind: JsonKind) -> &'static str {
    match kind {
        JsonKind::Null => "null",
        JsonKind::Bool => "a boolean",
        JsonKind::Number => "a number",
        JsonKind::String => "a string",
        JsonKind::Array => "an array",
        JsonKind::Object => "an object",
    }
}

/// The members of one object of a line, with the object's name for messages.
#[derive(Clone, Copy)]
struct ExactFields<'d, 'a> {
    object: Value<'d>,
    what: &'static str,
    bump: &'a Bump,
}

impl<'d, 'a> ExactFields<'d, 'a> {
    /// The object in the member `key` of `parent`; an error when the member is missing.
    fn new(parent: Value<'d>, key: &str, what: &'static str, bump: &'a Bump) -> Result<Self, LineRefusal> {
        match parent.get(key) {
            Some(object) if object.kind() == JsonKind::Object => Ok(Self { object, what, bump }),
            Some(other) => Err(rejected(format!(
                "{key} of the {what} is {}, an object is needed",
                kind_name(other.kind())
            ))),
            None => Err(rejected(format!("the {what} has no {key}"))),
        }
    }

    /// The object in the member `key`, if the member is present and not null.
    fn optional_object(&self, key: &str, what: &'static str) -> Result<Option<Self>, LineRefusal> {
        match self.object.get(key) {
            None => Ok(None),
            Some(value) if value.is_null() => Ok(None),
            Some(_) => Self::new(self.object, key, what, self.bump).map(Some),
        }
    }

    fn wrong(&self, key: &str, value: Value<'_>, needed: &str) -> LineRefusal {
        rejected(format!("{}.{key} is {}, {needed} is needed", self.what, kind_name(value.kind())))
    }

    fn required(&self, key: &str) -> Result<Value<'d>, LineRefusal> {
        self.object.get(key).ok_or_else(|| rejected(format!("the {} has no {key}", self.what)))
    }

    fn str(&self, key: &str) -> Result<&'a str, LineRefusal> {
        let value = self.required(key)?;
        let text = value.as_str().ok_or_else(|| self.wrong(key, value, "a string"))?;
        Ok(keep(text, self.bump))
    }

    fn optional_str(&self, key: &str) -> Result<Option<&'a str>, LineRefusal> {
        match self.object.get(key) {
            None => Ok(None),
            Some(value) if value.is_null() => Ok(None),
            Some(_) => self.str(key).map(Some),
        }
    }

    fn number(&self, key: &str, value: Value<'_>) -> Result<Cell<'a>, LineRefusal> {
        let number = value.as_number().ok_or_else(|| self.wrong(key, value, "a number"))?;
        Ok(number.as_i64().map_or_else(|| Cell::Real(number.as_f64()), Cell::Int))
    }

    /// Reads `fields` into the places of `row`.
    fn fill(&self, fields: &[Field], row: &mut [Cell<'a>]) -> Result<(), LineRefusal> {
        for field in fields {
            row[field.place] = self.cell(field)?;
        }
        Ok(())
    }

    fn cell(&self, field: &Field) -> Result<Cell<'a>, LineRefusal> {
        let (key, reading) = (field.member, field.reading);
        if reading.is_required() {
            self.required(key)?;
        }
        let Some(value) = self.object.get(key) else { return Ok(reading.absent()) };
        match reading {
            Reading::Flag | Reading::OptionalFlag => Ok(Cell::Int(i64::from(value.is_truthy()))),
            Reading::Text => self.str(key).map(Cell::Text),
            Reading::Number => self.number(key, value),
            _ if value.is_null() => Ok(reading.absent()),
            Reading::NullableText | Reading::OptionalText | Reading::TextOrEmpty => {
                self.str(key).map(Cell::Text)
            }
            Reading::OptionalNumber | Reading::NumberOrZero => self.number(key, value),
            Reading::PositiveNumber => Ok(match self.number(key, value)? {
                cell @ Cell::Int(1..) => cell,
                cell @ Cell::Real(number) if number > 0.0 => cell,
                _ => Cell::Null,
            }),
            Reading::Strings if value.kind() != JsonKind::Array => Err(self.wrong(key, value, "an array")),
            Reading::Strings if value.is_empty() => Ok(Cell::Null),
            Reading::Strings => Ok(Cell::Text(json_text(value, self.bump))),
        }
    }

    fn is_truthy(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_truthy)
    }
}

fn keep<'a>(text: Cow<'_, str>, bump: &'a Bump) -> &'a str {
    bump.alloc_str(&text)
}

fn json_text<'a>(value: Value<'_>, bump: &'a Bump) -> &'a str {
    let mut text = Vec::new();
    stringify(value, &mut text);
    bump.alloc_str(&String::from_utf8_lossy(&text))
}

fn json_string<'a>(text: JsStr<'_>, bump: &'a Bump) -> &'a str {
    let mut out = Vec::new();
    write_js_string(text.as_wtf8(), &mut out);
    bump.alloc_str(&String::from_utf8_lossy(&out))
}

fn turn<'a>(record: ExactFields<'_, 'a>, rows: &mut Rows<'a>) -> Result<StoredKind, LineRefusal> {
    let usage = ExactFields::new(record.object, "usage", "turn", record.bump)?;
    let mut cells: turns::TurnCells<'a> = turns::record::ABSENT;
    cells[turns::ENRICHMENT_JSON] = Cell::Text(NOTHING.json);
    record.fill(turns::record::FIELDS, &mut cells)?;
    ExactFields { what: "usage", ..usage }.fill(turns::usage::FIELDS, &mut cells)?;
    if let Some(subagent) = record.optional_object("subagent", "turn")? {
        ExactFields { what: "subagent", ..subagent }.fill(turns::subagent::FIELDS, &mut cells)?;
    }
    if let Some(fidelity) = record.optional_object("fidelity", "turn")? {
        let fidelity = ExactFields { what: "fidelity", ..fidelity };
        let coverage = ExactFields::new(fidelity.object, "coverage", "fidelity", record.bump)?;
        let tokens = ["hasInputTokens", "hasOutputTokens", "hasReasoningTokens"];
        let granularity = fidelity.object.get("granularity").and_then(Value::as_str);
        cells[turns::ATTRIBUTION_FIDELITY] = Cell::Text(fidelity.str("class")?);
        cells[turns::TOKENS_PRESENT] = Cell::Int(i64::from(tokens.iter().any(|key| coverage.is_truthy(key))));
        cells[turns::COST_PRESENT] = Cell::Int(i64::from(granularity.as_deref() == Some("cost-only")));
    }
    let start = rows.calls.len();
    if let Err(refusal) = tool_call_rows(&record, &cells, rows) {
        rows.calls.truncate(start);
        return Err(refusal);
    }
    rows.turns.push(TurnRow { cells, calls: start..rows.calls.len() });
    Ok(StoredKind::Turn)
}

fn tool_call_rows<'a>(
    record: &ExactFields<'_, 'a>,
    turn: &turns::TurnCells<'a>,
    rows: &mut Rows<'a>,
) -> Result<(), LineRefusal> {
    let list = record.required("toolCalls")?;
    if list.kind() != JsonKind::Array {
        return Err(record.wrong("toolCalls", list, "an array"));
    }
    if list.len() > TOOL_CALLS_MAX {
        return Err(rejected(format!(
            "the turn has {} tool calls, at most {TOOL_CALLS_MAX} are stored",
            list.len()
        )));
    }
    for (index, object) in list.items().enumerate() {
        let call = ExactFields { object, what: "tool call", bump: record.bump };
        if object.kind() != JsonKind::Object {
            return Err(rejected(format!(
                "toolCalls[{index}] is {}, an object is needed",
                kind_name(object.kind())
            )));
        }
        let mut cells: tool_calls::ToolCallCells<'a> = tool_calls::call::ABSENT;
        cells[..tool_calls::CALL_INDEX].copy_from_slice(&turn[..=turns::MESSAGE_ID]);
        cells[tool_calls::CALL_INDEX] = Cell::Int(index as i64);
        call.fill(tool_calls::call::FIELDS, &mut cells)?;
        rows.calls.push(cells);
    }
    Ok(())
}

fn stamp<'a>(
    offset: u64,
    root: Value<'_>,
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Result<StoredKind, LineRefusal> {
    let line = ExactFields { object: root, what: "stamp", bump };
    let (fields, selector_json) = selector(ExactFields::new(root, "selector", "stamp", bump)?)?;
    let enrichment = ExactFields::new(root, "enrichment", "stamp", bump)?.object;
    let entries = entries(enrichment, bump)?;
    let stamp = Stamp { ts: line.str("ts")?, offset, selector: fields, entries };
    let cells = stamp_cells(&stamp, selector_json, json_text(enrichment, bump))
        .ok_or_else(|| rejected("its offset does not fit a column".to_string()))?;
    rows.stamps.push(StampRow { cells, stamp });
    Ok(StoredKind::Stamp)
}

/// A selector from its object: fields and JSON text.
fn selector<'a>(selector: ExactFields<'_, 'a>) -> Result<(Selector<'a>, &'a str), LineRefusal> {
    let selector = ExactFields { what: "selector", ..selector };
    let optional = |key: &str| selector.object.get(key).map(|_| selector.str(key)).transpose();
    let range = match selector.object.get("range") {
        None => None,
        // `range: null` is a range without bounds.
        Some(value) if value.is_null() => Some(TimeRange::default()),
        Some(_) => {
            let range = ExactFields::new(selector.object, "range", "selector", selector.bump)?;
            let range = ExactFields { what: "range", ..range };
            let bound = |key: &str| Ok(range.optional_str(key)?.filter(|text| !text.is_empty()));
            Some(TimeRange { from: bound("fromTs")?, to: bound("toTs")? })
        }
    };
    let fields = Selector { session: optional("sessionId")?, message: optional("messageId")?, range };
    Ok((fields, json_text(selector.object, selector.bump)))
}

fn entries<'a>(enrichment: Value<'_>, bump: &'a Bump) -> Result<&'a [Assignment<'a>], LineRefusal> {
    let mut entries = Vec::with_capacity(enrichment.len());
    for (key, value) in enrichment.members_in_text_order() {
        if key == *"__proto__" {
            // In JavaScript, assigning `__proto__` changes no own key of an object, so the stamp could not be read back.
            return Err(rejected("enrichment has the key __proto__, which no object can hold".to_string()));
        }
        let Some(text) = value.as_js_str() else {
            return Err(rejected(format!(
                "enrichment.{} is {}, a string is needed",
                shown(&key.to_utf8_lossy()),
                kind_name(value.kind())
            )));
        };
        entries.push(Assignment {
            key_json: json_string(key, bump),
            array_index: is_array_index_key(key.as_wtf8()),
            value: Assigned { json: json_string(text, bump), plain: keep(text.to_utf8_lossy(), bump) },
        });
    }
    Ok(bump.alloc_slice_copy(&entries))
}

/// The selector of an archived stamp, or the reason why the selector cannot be read.
pub(crate) fn stored_selector<'a>(
    document: &mut Document,
    selector_json: &str,
    bump: &'a Bump,
) -> Result<Selector<'a>, String> {
    let fields = stored_object(document, selector_json, "selector", bump).and_then(selector);
    fields.map(|(fields, _)| fields).map_err(|refusal| refusal.reason)
}

/// An archived stamp, or the reason why the stamp cannot be folded: another program stored a value that a stamp line of this
/// crate cannot have.
pub(crate) fn stored_stamp<'a>(
    document: &mut Document,
    ts: &str,
    offset: u64,
    selector_json: &str,
    enrichment_json: &str,
    bump: &'a Bump,
) -> Result<Stamp<'a>, String> {
    let selector = stored_selector(document, selector_json, bump)?;
    let enrichment = stored_object(document, enrichment_json, "enrichment", bump);
    let entries = enrichment.and_then(|enrichment| entries(enrichment.object, bump));
    let entries = entries.map_err(|refusal| refusal.reason)?;
    Ok(Stamp { ts: bump.alloc_str(ts), offset, selector, entries })
}

fn stored_object<'d, 'a>(
    document: &'d mut Document,
    json: &'d str,
    what: &'static str,
    bump: &'a Bump,
) -> Result<ExactFields<'d, 'a>, LineRefusal> {
    match document.parse(json.as_bytes()) {
        Ok(object) if object.kind() == JsonKind::Object => Ok(ExactFields { object, what, bump }),
        Ok(other) => Err(rejected(format!("its {what} is {}, an object is needed", kind_name(other.kind())))),
        Err(error) => Err(rejected(format!("its {what} is {error}"))),
    }
}

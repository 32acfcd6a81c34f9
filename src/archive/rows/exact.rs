//! The exact path: any line that JavaScript can parse, field by field, with a reason for what cannot be stored.
//!
//! Types are strict here too: a number where text belongs is a rejection and not a guess. Where JavaScript's own rules
//! decide (a flag is what it calls true; an integral number is an integer however it is spelled) they are followed.

use std::borrow::Cow;

use bumpalo::Bump;

use super::fast::stamp_cells;
use super::{CallCells, Cell, Kind, Refusal, Rows, StampLine, Turn, Verdict};
use crate::archive::fold::{Assigned, Entry, NOTHING, Range, Selector, Stamp};
use crate::scan::json::{
    Document, JsStr, Kind as JsonKind, Value, is_array_index_key, stringify, write_js_string,
};

/// Adds the row of `line`, which is trimmed and not empty.
pub(super) fn parse<'a, 'd>(
    document: &'d mut Document,
    offset: u64,
    line: &'d [u8],
    bump: &'a Bump,
    rows: &mut Rows<'a>,
) -> Result<Kind, Refusal> {
    let root = document
        .parse(line)
        .map_err(|error| Refusal { verdict: Verdict::Malformed, reason: error.to_string() })?;
    let version = root.get("v").and_then(Value::as_number).map(|number| number.as_f64());
    let Some(kind) = root.get("kind").and_then(Value::as_str) else { return Ok(Kind::Unknown) };
    if version != Some(1.0) {
        return Ok(Kind::Unknown);
    }
    let record = |what| Fields::new(root, "record", what, bump);
    match &*kind {
        "turn" => turn(record("turn")?, rows),
        "tool_result_event" => event(record("tool_result_event")?, rows),
        "compaction" => compaction(record("compaction")?, rows),
        "stamp" => stamp(offset, root, bump, rows),
        "relationship" | "user_turn" => Ok(Kind::Other),
        _ => Ok(Kind::Unknown),
    }
}

fn rejected(reason: String) -> Refusal {
    Refusal { verdict: Verdict::Rejected, reason }
}

/// Text from a ledger as a message shows it: control characters escaped, at most 60 characters.
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
struct Fields<'d, 'a> {
    object: Value<'d>,
    what: &'static str,
    bump: &'a Bump,
}

impl<'d, 'a> Fields<'d, 'a> {
    /// The object that is the member `key` of `parent`; it must be there.
    fn new(parent: Value<'d>, key: &str, what: &'static str, bump: &'a Bump) -> Result<Self, Refusal> {
        match parent.get(key) {
            Some(object) if object.kind() == JsonKind::Object => Ok(Self { object, what, bump }),
            Some(other) => Err(rejected(format!(
                "{key} of the {what} is {}, an object is needed",
                kind_name(other.kind())
            ))),
            None => Err(rejected(format!("the {what} has no {key}"))),
        }
    }

    /// The object that is the member `key`, if there is one and it is not null.
    fn optional_object(&self, key: &str, what: &'static str) -> Result<Option<Self>, Refusal> {
        match self.object.get(key) {
            None => Ok(None),
            Some(value) if value.is_null() => Ok(None),
            Some(_) => Self::new(self.object, key, what, self.bump).map(Some),
        }
    }

    fn wrong(&self, key: &str, value: Value<'_>, needed: &str) -> Refusal {
        rejected(format!("{}.{key} is {}, {needed} is needed", self.what, kind_name(value.kind())))
    }

    fn required(&self, key: &str) -> Result<Value<'d>, Refusal> {
        self.object.get(key).ok_or_else(|| rejected(format!("the {} has no {key}", self.what)))
    }

    fn str(&self, key: &str) -> Result<&'a str, Refusal> {
        let value = self.required(key)?;
        let text = value.as_str().ok_or_else(|| self.wrong(key, value, "a string"))?;
        Ok(keep(text, self.bump))
    }

    fn text(&self, key: &str) -> Result<Cell<'a>, Refusal> {
        self.str(key).map(Cell::Text)
    }

    fn optional_str(&self, key: &str) -> Result<Option<&'a str>, Refusal> {
        match self.object.get(key) {
            None => Ok(None),
            Some(value) if value.is_null() => Ok(None),
            Some(_) => self.str(key).map(Some),
        }
    }

    fn optional_text(&self, key: &str) -> Result<Cell<'a>, Refusal> {
        self.optional_str(key).map(Cell::text)
    }

    fn number(&self, key: &str) -> Result<Cell<'a>, Refusal> {
        let value = self.required(key)?;
        let number = value.as_number().ok_or_else(|| self.wrong(key, value, "a number"))?;
        Ok(number.as_i64().map_or_else(|| Cell::Real(number.as_f64()), Cell::Int))
    }

    fn optional_number(&self, key: &str) -> Result<Cell<'a>, Refusal> {
        match self.object.get(key) {
            None => Ok(Cell::Null),
            Some(value) if value.is_null() => Ok(Cell::Null),
            Some(_) => self.number(key),
        }
    }

    /// Absent is NULL; null is 0; else what JavaScript calls true is 1.
    fn flag(&self, key: &str) -> Cell<'a> {
        self.object.get(key).map_or(Cell::Null, |value| Cell::Int(i64::from(value.is_truthy())))
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

fn turn<'a>(record: Fields<'_, 'a>, rows: &mut Rows<'a>) -> Result<Kind, Refusal> {
    let usage = Fields::new(record.object, "usage", "turn", record.bump)?;
    let usage = Fields { what: "usage", ..usage };
    let mut cells = [
        record.text("source")?,
        record.text("sessionId")?,
        record.text("messageId")?,
        record.number("turnIndex")?,
        record.text("ts")?,
        record.text("model")?,
        record.optional_text("project")?,
        record.optional_text("projectKey")?,
        record.optional_text("activity")?,
        record.optional_text("stopReason")?,
        record.flag("hasEdits"),
        record.optional_number("retries")?,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        usage.number("input")?,
        usage.number("output")?,
        usage.number("reasoning")?,
        usage.number("cacheRead")?,
        usage.number("cacheCreate5m")?,
        usage.number("cacheCreate1h")?,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Text(NOTHING.json),
        Cell::Null,
        Cell::Null,
        Cell::Null,
    ];
    if let Some(subagent) = record.optional_object("subagent", "turn")? {
        let subagent = Fields { what: "subagent", ..subagent };
        cells[12] = Cell::Int(i64::from(subagent.is_truthy("isSidechain")));
        cells[13] = subagent.optional_text("agentId")?;
        cells[14] = subagent.optional_text("parentAgentId")?;
        cells[15] = subagent.optional_text("parentToolUseId")?;
        cells[16] = subagent.optional_text("subagentType")?;
        cells[17] = subagent.optional_text("description")?;
    }
    if let Some(fidelity) = record.optional_object("fidelity", "turn")? {
        let fidelity = Fields { what: "fidelity", ..fidelity };
        let coverage = Fields::new(fidelity.object, "coverage", "fidelity", record.bump)?;
        let tokens = ["hasInputTokens", "hasOutputTokens", "hasReasoningTokens"];
        let cost_only = fidelity.object.get("granularity").and_then(Value::as_str);
        cells[29] = fidelity.text("class")?;
        cells[30] = Cell::Int(i64::from(tokens.iter().any(|key| coverage.is_truthy(key))));
        cells[31] = Cell::Int(i64::from(cost_only.as_deref() == Some("cost-only")));
    }
    let start = rows.calls.len();
    if let Err(refusal) = tool_calls(&record, &cells, rows) {
        rows.calls.truncate(start);
        return Err(refusal);
    }
    rows.turns.push(Turn { cells, calls: start..rows.calls.len() });
    Ok(Kind::Turn)
}

fn tool_calls<'a>(
    record: &Fields<'_, 'a>,
    turn: &[Cell<'a>; 32],
    rows: &mut Rows<'a>,
) -> Result<(), Refusal> {
    let list = record.required("toolCalls")?;
    if list.kind() != JsonKind::Array {
        return Err(record.wrong("toolCalls", list, "an array"));
    }
    for (index, object) in list.items().enumerate() {
        let call = Fields { object, what: "tool call", bump: record.bump };
        if object.kind() != JsonKind::Object {
            return Err(rejected(format!(
                "toolCalls[{index}] is {}, an object is needed",
                kind_name(object.kind())
            )));
        }
        let mut cells: CallCells<'a> = [Cell::Null; 11];
        cells[..3].copy_from_slice(&turn[..3]);
        cells[3] = Cell::Int(index as i64);
        cells[4] = call.optional_text("id")?;
        cells[5] = call.text("name")?;
        cells[6] = call.optional_text("target")?;
        cells[7] = call.optional_text("argsHash")?;
        cells[8] = call.flag("isError");
        cells[9] = replaced_tools(&call)?;
        cells[10] = match call.optional_number("collapsedCalls")? {
            cell @ Cell::Int(1..) => cell,
            cell @ Cell::Real(number) if number > 0.0 => cell,
            _ => Cell::Null,
        };
        rows.calls.push(cells);
    }
    Ok(())
}

fn replaced_tools<'a>(call: &Fields<'_, 'a>) -> Result<Cell<'a>, Refusal> {
    match call.object.get("replacedTools") {
        None => Ok(Cell::Null),
        Some(list) => match list.kind() {
            JsonKind::Null => Ok(Cell::Null),
            JsonKind::Array if list.is_empty() => Ok(Cell::Null),
            JsonKind::Array => Ok(Cell::Text(json_text(list, call.bump))),
            _ => Err(call.wrong("replacedTools", list, "an array")),
        },
    }
}

fn event<'a>(record: Fields<'_, 'a>, rows: &mut Rows<'a>) -> Result<Kind, Refusal> {
    // Null is stored where the column takes it; only an absent field is refused.
    let text_or_null = |key: &str| match record.required(key)? {
        value if value.is_null() => Ok(Cell::Null),
        _ => record.text(key),
    };
    let call_index = match record.optional_number("callIndex")? {
        Cell::Null => Cell::Int(0),
        number => number,
    };
    rows.events.push([
        record.text("source")?,
        record.text("sessionId")?,
        Cell::Text(record.optional_str("messageId")?.unwrap_or("")),
        record.text("toolUseId")?,
        call_index,
        record.number("eventIndex")?,
        text_or_null("status")?,
        record.optional_number("contentLength")?,
        record.optional_text("contentHash")?,
        record.flag("isError"),
        record.optional_text("subagentSessionId")?,
        record.optional_text("agentId")?,
        text_or_null("eventSource")?,
        record.optional_text("ts")?,
    ]);
    Ok(Kind::Event)
}

fn compaction<'a>(record: Fields<'_, 'a>, rows: &mut Rows<'a>) -> Result<Kind, Refusal> {
    rows.compactions.push([
        record.text("source")?,
        record.text("sessionId")?,
        record.text("ts")?,
        record.optional_text("precedingMessageId")?,
        record.optional_number("tokensBeforeCompact")?,
    ]);
    Ok(Kind::Compaction)
}

fn stamp<'a>(offset: u64, root: Value<'_>, bump: &'a Bump, rows: &mut Rows<'a>) -> Result<Kind, Refusal> {
    let line = Fields { object: root, what: "stamp", bump };
    let (fields, selector_json) = selector(Fields::new(root, "selector", "stamp", bump)?)?;
    let enrichment = Fields::new(root, "enrichment", "stamp", bump)?.object;
    let entries = entries(enrichment, bump)?;
    let stamp = Stamp { ts: line.str("ts")?, offset, selector: fields, entries };
    let cells = stamp_cells(&stamp, selector_json, json_text(enrichment, bump))
        .ok_or_else(|| rejected("its offset does not fit a column".to_string()))?;
    rows.stamps.push(StampLine { cells, stamp });
    Ok(Kind::Stamp)
}

/// A selector from its object: its fields and its JSON text.
fn selector<'a>(selector: Fields<'_, 'a>) -> Result<(Selector<'a>, &'a str), Refusal> {
    let selector = Fields { what: "selector", ..selector };
    let optional = |key: &str| selector.object.get(key).map(|_| selector.str(key)).transpose();
    let range = match selector.object.get("range") {
        None => None,
        // `range: null` is a range without bounds.
        Some(value) if value.is_null() => Some(Range::default()),
        Some(_) => {
            let range = Fields::new(selector.object, "range", "selector", selector.bump)?;
            let range = Fields { what: "range", ..range };
            let bound = |key: &str| Ok(range.optional_str(key)?.filter(|text| !text.is_empty()));
            Some(Range { from: bound("fromTs")?, to: bound("toTs")? })
        }
    };
    let fields = Selector { session: optional("sessionId")?, message: optional("messageId")?, range };
    Ok((fields, json_text(selector.object, selector.bump)))
}

fn entries<'a>(enrichment: Value<'_>, bump: &'a Bump) -> Result<&'a [Entry<'a>], Refusal> {
    let mut entries = Vec::with_capacity(enrichment.len());
    for (key, value) in enrichment.members_in_text_order() {
        if key == *"__proto__" {
            // Assigning it changes no object's own keys in JavaScript, so it could not be read back.
            return Err(rejected("enrichment has the key __proto__, which no object can hold".to_string()));
        }
        let Some(text) = value.as_js_str() else {
            return Err(rejected(format!(
                "enrichment.{} is {}, a string is needed",
                shown(&key.to_utf8_lossy()),
                kind_name(value.kind())
            )));
        };
        entries.push(Entry {
            key_json: json_string(key, bump),
            array_index: is_array_index_key(key.as_wtf8()),
            value: Assigned { json: json_string(text, bump), plain: keep(text.to_utf8_lossy(), bump) },
        });
    }
    Ok(bump.alloc_slice_copy(&entries))
}

/// A stamp from its archived row: selector and enrichment as JSON text.
pub(super) fn stored_stamp<'a>(
    document: &mut Document,
    ts: &str,
    offset: u64,
    selector_json: &str,
    enrichment_json: &str,
    bump: &'a Bump,
) -> Result<Stamp<'a>, Refusal> {
    let (fields, _) = selector(stored_object(document, selector_json, "selector", bump)?)?;
    let entries = entries(stored_object(document, enrichment_json, "enrichment", bump)?.object, bump)?;
    Ok(Stamp { ts: bump.alloc_str(ts), offset, selector: fields, entries })
}

fn stored_object<'d, 'a>(
    document: &'d mut Document,
    json: &'d str,
    what: &'static str,
    bump: &'a Bump,
) -> Result<Fields<'d, 'a>, Refusal> {
    match document.parse(json.as_bytes()) {
        Ok(object) if object.kind() == JsonKind::Object => Ok(Fields { object, what, bump }),
        Ok(other) => Err(rejected(format!("its {what} is {}, an object is needed", kind_name(other.kind())))),
        Err(error) => Err(rejected(format!("its {what} is {error}"))),
    }
}

//! Says which ids of messages are unique, so that turns with different ids are different turns.
//!
//! Computes from parsed records and touches nothing else.

use crate::scan::json::Value;

/// Whether an id names one message in all sessions. The ids of Codex's turns are UUIDs, and the ids of Anthropic's
/// messages have at least twenty random characters.
pub(crate) fn is_unique(source: &[u8], id: &[u8]) -> bool {
    match source {
        b"codex" => is_uuid(id),
        b"claude-code" => id.len() >= 24 && id.starts_with(b"msg_"),
        _ => false,
    }
}

/// Whether the text is a UUID of 36 characters.
pub(crate) fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse_ascii(text).is_ok()
}

/// The message id of a turn if the id tells the turn from all other turns, whoever wrote them. A turn with equal time, model
/// and counts and another such id is another turn. The turns of old rollouts of Codex are numbered, so that a fork repeats
/// them under their numbers.
pub(crate) fn certain_id(turn: Value<'_>) -> Option<&[u8]> {
    let text = |key| turn.get(key).and_then(Value::as_js_str).map_or(&b""[..], |text| text.as_wtf8());
    let (source, id) = (text("source"), text("messageId"));
    let is_certain = match source {
        b"codex" => {
            let (first, further) = parts_of_turn_id(id);
            further > 0 || is_unique(source, first)
        }
        b"opencode" => !id.is_empty(),
        b"gemini-cli" => is_uuid(id),
        source => is_unique(source, id),
    };
    is_certain.then_some(id)
}

/// The id under which a turn of Codex was first written, and the number after its `+`: 0 for the first part of the turn.
pub(crate) fn parts_of_turn_id(id: &[u8]) -> (&[u8], usize) {
    let further = memchr::memrchr(b'+', id).and_then(|at| {
        let digits = std::str::from_utf8(&id[at + 1..]).ok()?;
        let number: usize = digits.parse().ok().filter(|number| *number > 0)?;
        (number.to_string() == digits).then_some((&id[..at], number))
    });
    further.unwrap_or((id, 0))
}

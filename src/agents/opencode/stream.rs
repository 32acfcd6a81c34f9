//! Collects sessions from the events of an OpenCode server while the sessions go on.
//!
//! A session that the stream has seen from its beginning is kept in memory, and written when the server says that the
//! session is idle. The cursor names the written records, so a new connection writes nothing twice. Touches nothing by
//! itself.

use std::collections::{HashMap, HashSet};

use super::session::records::{Emitted, RecordRules};
use super::session::{Part, SessionHead, SessionMessage};
use crate::agents::GivenUp;
use crate::agents::js::{self, RecordText};
use crate::agents::pass::Gathered;
use crate::scan::json::{Document, Kind, Value};

/// The parts, each with the key under which a later part replaces it.
type Parts = Vec<(Vec<u8>, Vec<u8>, Part)>;

/// The state from all events so far.
#[derive(Debug, Default)]
pub(in crate::agents) struct StreamState {
    sessions: HashMap<Vec<u8>, SessionHead>,
    /// The sessions whose beginning the stream has seen.
    owned: HashSet<Vec<u8>>,
    /// Messages by session, in the order of arrival.
    messages: HashMap<Vec<u8>, Vec<SessionMessage>>,
    /// Parts by session and message.
    parts: HashMap<(Vec<u8>, Vec<u8>), Parts>,
    written: Vec<Vec<u8>>,
    emitted: Emitted,
    pub(in crate::agents) last_event: Option<Vec<u8>>,
}

/// The effect of an event.
#[derive(Debug, Default)]
pub(in crate::agents) struct EventEffect {
    /// The session to write.
    pub flushes: Option<Vec<u8>>,
    /// Whether the event was about messages or sessions, whose files may have changed.
    pub is_about_sessions: bool,
}

impl StreamState {
    /// Goes on from a cursor.
    pub(in crate::agents) fn resume(cursor: Value<'_>) -> Self {
        let texts = |key: &str| -> Vec<Vec<u8>> {
            let items = cursor.get(key).into_iter().flat_map(Value::items);
            items.filter_map(|item| js::wtf8(item).map(<[u8]>::to_vec)).collect()
        };
        let mut emitted = Emitted { results: texts("emittedToolEventIds"), next_numbers: Vec::new() };
        match cursor.get("nextToolEventIndexBySession") {
            Some(numbers) => {
                let number =
                    |value: Value<'_>| value.as_number().map_or(0, |number| number.as_f64() as usize);
                emitted.next_numbers =
                    numbers.members().map(|(id, value)| (id.as_wtf8().to_vec(), number(value))).collect();
            }
            None => emitted.next_numbers = numbers_of(&emitted.results),
        }
        StreamState {
            written: texts("emittedMessageIds"),
            emitted,
            last_event: js::text(cursor, "lastEventId").map(<[u8]>::to_vec),
            ..StreamState::default()
        }
    }

    /// Returns the cursor from which another stream goes on.
    pub(in crate::agents) fn cursor(&self) -> Vec<u8> {
        let mut cursor = RecordText::default();
        cursor.text("kind", b"opencode-stream");
        cursor.texts("emittedMessageIds", &self.written);
        cursor.texts("emittedToolEventIds", &self.emitted.results);
        cursor.maybe_text("lastEventId", self.last_event.as_deref());
        if !self.emitted.next_numbers.is_empty() {
            let mut numbers = RecordText::default();
            for (session, next) in &self.emitted.next_numbers {
                numbers.member(session, |out| js::write_number(*next as f64, out));
            }
            cursor.raw("nextToolEventIndexBySession", &numbers.finish());
        }
        cursor.finish()
    }

    /// Adds an event, a JSON text. Other text has no effect.
    pub(in crate::agents) fn apply_event(&mut self, data: &[u8], as_reference: bool) -> EventEffect {
        let mut document = Document::default();
        let Ok(mut event) = document.parse(data) else { return EventEffect::default() };
        while let Some(inner) = event.get("payload").filter(|inner| inner.kind() == Kind::Object) {
            event = inner;
        }
        let mut effect = EventEffect::default();
        let kind = js::any_text(event, "type").unwrap_or_default();
        let Some(properties) = event.get("properties").filter(|value| value.kind() == Kind::Object) else {
            return effect;
        };
        effect.is_about_sessions = kind.starts_with(b"message.") || kind.starts_with(b"session.");
        let info = properties.get("info").filter(|value| value.kind() == Kind::Object);
        match kind {
            b"session.created" | b"session.updated" => {
                if let Some(session) = info.and_then(SessionHead::of) {
                    if kind == b"session.created" {
                        self.owned.insert(session.id.clone());
                    }
                    self.sessions.insert(session.id.clone(), session);
                }
            }
            b"session.deleted" => {
                let id = info.and_then(|info| js::any_text(info, "id"));
                if let Some(id) = id.or(js::any_text(properties, "sessionID")) {
                    self.forget(id);
                }
            }
            b"message.updated" => {
                if let Some(message) =
                    info.and_then(SessionMessage::of).filter(|m| self.owned.contains(&m.session))
                {
                    let messages = self.messages.entry(message.session.clone()).or_default();
                    match messages.iter_mut().find(|known| known.id == message.id) {
                        Some(known) => *known = message,
                        None => messages.push(message),
                    }
                }
            }
            b"message.part.updated" => self.take_part(properties.get("part"), as_reference),
            b"message.part.removed" => {
                let text = |key| js::text(properties, key);
                if let (Some(session), Some(message), Some(part)) =
                    (text("sessionID"), text("messageID"), text("partID"))
                    && let Some(parts) = self.parts.get_mut(&(session.to_vec(), message.to_vec()))
                {
                    parts.retain(|(key, _, _)| key != part);
                }
            }
            b"session.idle" => effect.flushes = js::any_text(properties, "sessionID").map(<[u8]>::to_vec),
            b"session.status" => {
                let status = properties.get("status");
                let word = status.and_then(|status| js::wtf8(status).or(js::any_text(status, "type")));
                if word == Some(b"idle") {
                    effect.flushes = js::any_text(properties, "sessionID").map(<[u8]>::to_vec);
                }
            }
            _ => {}
        }
        effect.flushes = effect.flushes.filter(|session| self.owned.contains(session));
        effect
    }

    fn take_part(&mut self, part: Option<Value<'_>>, as_reference: bool) {
        let Some(part) = part.filter(|part| part.kind() == Kind::Object) else { return };
        let text = |key| js::any_text(part, key);
        let (Some(session), Some(message)) = (text("sessionID"), text("messageID")) else { return };
        if !self.owned.contains(session) {
            return;
        }
        let id = text("id").unwrap_or_default().to_vec();
        let key = if id.is_empty() {
            let kind = text("type").unwrap_or_default();
            [message, kind, js::utf16_len(&js::json(part)).to_string().as_bytes()].join(&b':')
        } else {
            id.clone()
        };
        let parts = self.parts.entry((session.to_vec(), message.to_vec())).or_default();
        let part = Part::of(part, as_reference);
        match parts.iter_mut().find(|(known, _, _)| *known == key) {
            Some(known) => *known = (key, id, part),
            None => parts.push((key, id, part)),
        }
    }

    fn forget(&mut self, session: &[u8]) {
        self.sessions.remove(session);
        self.owned.remove(session);
        self.messages.remove(session);
        self.parts.retain(|(of, _), _| of != session);
    }

    /// Returns the records that are new in a session.
    pub(in crate::agents) fn new_records(
        &mut self,
        id: &[u8],
        rules: &RecordRules<'_>,
    ) -> Result<Gathered, GivenUp> {
        let mut session = self.sessions.get(id).cloned().unwrap_or_default();
        session.messages = self.messages.get(id).cloned().unwrap_or_default();
        for message in &mut session.messages {
            let mut parts: Parts =
                self.parts.get(&(id.to_vec(), message.id.clone())).cloned().unwrap_or_default();
            parts.sort_by(|(_, a, _), (_, b, _)| js::compare_utf16(a, b));
            message.parts = parts.into_iter().map(|(_, _, part)| part).collect();
        }
        let mut gathered = Gathered::default();
        // When a session cannot be written, the cursor stays as it is.
        let (mut written, mut emitted) = (self.written.clone(), self.emitted.clone());
        session.flush(rules, &mut written, &mut emitted, &mut gathered)?;
        (self.written, self.emitted) = (written, emitted);
        Ok(gathered)
    }
}

/// The next event numbers for a cursor that lacks them. Keys end in a part id or in a call index: from `s|a|c|7` and
/// `s|a|c|part` follows 8 for session `s`.
fn numbers_of(keys: &[Vec<u8>]) -> Vec<(Vec<u8>, usize)> {
    let mut numbers: Vec<(Vec<u8>, usize)> = Vec::new();
    for key in keys {
        let mut fields = key.split(|byte| *byte == b'|');
        let (Some(session), Some(last)) = (fields.next(), fields.next_back()) else { continue };
        let digits: Vec<u8> = last.iter().copied().take_while(u8::is_ascii_digit).collect();
        let Some(number) = String::from_utf8(digits).ok().and_then(|text| text.parse::<usize>().ok()) else {
            continue;
        };
        let next = number.saturating_add(1);
        match numbers.iter_mut().find(|(known, _)| known == session) {
            Some((_, known)) => *known = next.max(*known),
            None => numbers.push((session.to_vec(), next)),
        }
    }
    numbers
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn events_that_say_nothing_are_passed_over() {
        let mut state = StreamState::default();
        for data in [
            "",
            "null",
            "[]",
            "{",
            r#"{"type":5}"#,
            r#"{"type":"session.created"}"#,
            r#"{"type":"session.created","properties":{"info":{"id":5}}}"#,
            r#"{"type":"message.part.updated","properties":{"part":[]}}"#,
            r#"{"payload":{"payload":{"payload":null}}}"#,
            r#"{"type":"session.idle","properties":{"sessionID":"never seen"}}"#,
        ] {
            assert!(state.apply_event(data.as_bytes(), false).flushes.is_none(), "{data}");
        }
        assert_eq!(
            state.cursor(),
            br#"{"kind":"opencode-stream","emittedMessageIds":[],"emittedToolEventIds":[]}"#
        );
    }

    #[test]
    fn a_cursor_without_numbers_derives_them_from_its_keys() {
        let text = br#"{"kind":"opencode-stream","emittedMessageIds":["a"],"emittedToolEventIds":["s|a|c|7","s|a|c|part","t|a|c|0"]}"#;
        let mut document = Document::default();
        let state = StreamState::resume(document.parse(text).unwrap());
        assert_eq!(state.emitted.next_numbers, [(b"s".to_vec(), 8), (b"t".to_vec(), 1)]);
    }
}

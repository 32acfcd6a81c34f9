//! Builds a chat from its file: head, messages in the order of their first lines, compactions.

use std::collections::HashMap;

use crate::agents::js::{self, RecordText};
use crate::scan::json::{Document, Kind, Value};

/// The last state of a message, as JSON text.
#[derive(Debug, Clone)]
pub(super) struct ChatMessage {
    pub id: Vec<u8>,
    pub text: Vec<u8>,
    /// Offset and length of the last line about the message, in bytes; of a chat of one object, of the whole file.
    pub span: (u64, u64),
    /// Whether the message left the conversation. It still counts: its tokens were spent.
    pub is_gone: bool,
}

/// A compaction: a shorter conversation replaced the conversation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Compaction {
    pub ts: Vec<u8>,
    pub preceding: Vec<u8>,
    pub cached: f64,
}

/// A chat.
#[derive(Debug, Default)]
pub(super) struct Chat {
    pub session: Vec<u8>,
    pub started: Option<Vec<u8>>,
    pub directory: Option<Vec<u8>>,
    pub parent: Option<Vec<u8>>,
    pub is_subagent: bool,
    pub messages: Vec<ChatMessage>,
    pub compactions: Vec<Compaction>,
    updated: Vec<u8>,
    place_of: HashMap<Vec<u8>, usize>,
}

impl Chat {
    /// Adds a file of one object.
    pub(super) fn take_whole(&mut self, value: Value<'_>, span: (u64, u64)) {
        self.take_head(value);
        for message in value.get("messages").into_iter().flat_map(Value::items) {
            self.take_message(message, span);
        }
    }

    /// Adds a line. Returns whether its kind is known.
    pub(super) fn take(&mut self, line: Value<'_>, span: (u64, u64)) -> bool {
        if let Some(target) = js::text(line, "$rewindTo") {
            if let Some(from) = self.place_of.get(target) {
                self.messages[*from..].iter_mut().for_each(|message| message.is_gone = true);
            }
            return true;
        }
        if let Some(set) = line.get("$set").filter(|set| set.kind() == Kind::Object) {
            self.take_head(set);
            if let Some(list) = set.get("messages").filter(|list| list.kind() == Kind::Array) {
                self.replace(list, span);
            }
            return true;
        }
        if js::any_text(line, "id").is_some() && js::any_text(line, "type").is_some() {
            self.take_message(line, span);
            return true;
        }
        if line.get("type").is_none() && js::text(line, "sessionId").is_some() {
            self.take_head(line);
            return true;
        }
        false
    }

    /// Whether a message with this id was taken.
    pub(super) fn has(&self, id: &[u8]) -> bool {
        self.place_of.contains_key(id)
    }

    fn take_head(&mut self, head: Value<'_>) {
        let text = |key| js::text(head, key).map(<[u8]>::to_vec);
        if let Some(session) = text("sessionId") {
            self.session = session;
        }
        self.started = text("startTime").or(self.started.take());
        self.updated = text("lastUpdated").unwrap_or(std::mem::take(&mut self.updated));
        self.parent = text("parentSessionId").or(self.parent.take());
        if let Some(kind) = text("kind") {
            self.is_subagent = kind == b"subagent";
        }
        let first = head.get("directories").and_then(|list| list.at(0)).and_then(js::wtf8);
        self.directory = first.map(<[u8]>::to_vec).or(self.directory.take());
    }

    /// Adds a message, or changes the members of a known message. Members that the line lacks are kept.
    fn take_message(&mut self, message: Value<'_>, span: (u64, u64)) {
        let id = js::any_text(message, "id").unwrap_or_default().to_vec();
        let known = self.place_of.get(&id).copied().filter(|_| !id.is_empty());
        let mut text = RecordText::default();
        text.members_of(message, |_, _| false);
        let Some(at) = known else {
            self.place_of.insert(id.clone(), self.messages.len());
            self.messages.push(ChatMessage { id, text: text.finish(), span, is_gone: false });
            return;
        };
        let mut document = Document::default();
        if let Ok(before) = document.parse(&self.messages[at].text) {
            text.members_of(before, |_, key| message.get(&js::to_utf8(key)).is_some());
        }
        let text = text.finish();
        self.messages[at].text = text;
        self.messages[at].span = span;
        self.messages[at].is_gone = false;
    }

    /// Replaces the conversation. Messages that are no longer in it still count.
    fn replace(&mut self, list: Value<'_>, span: (u64, u64)) {
        let before = self.messages.iter().filter(|message| !message.is_gone).count();
        if list.len() < before {
            let last = self.messages.iter().rev().filter(|message| !message.is_gone).find_map(|message| {
                let mut document = Document::default();
                let value = document.parse(&message.text).ok()?;
                let is_answer = js::any_text(value, "type") == Some(b"gemini");
                let cached =
                    value.get("tokens").and_then(|tokens| js::number(tokens, "cached")).unwrap_or(0.0);
                is_answer.then(|| (message.id.clone(), cached))
            });
            if let Some((preceding, cached)) = last {
                self.compactions.push(Compaction { ts: self.updated.clone(), preceding, cached });
            }
        }
        self.messages.iter_mut().for_each(|message| message.is_gone = true);
        for message in list.items() {
            self.take_message(message, span);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chat(lines: &[&str]) -> Chat {
        let mut chat = Chat::default();
        for line in lines {
            assert!(chat.take(Document::default().parse(line.as_bytes()).unwrap(), (0, 0)), "{line}");
        }
        chat
    }

    #[test]
    fn the_last_state_of_a_message_counts_in_its_first_place() {
        let chat = chat(&[
            r#"{"sessionId":"s","startTime":"t"}"#,
            r#"{"id":"a","type":"gemini","model":"m","tokens":{"output":0}}"#,
            r#"{"id":"b","type":"user"}"#,
            r#"{"id":"a","type":"gemini","tokens":{"output":5}}"#,
        ]);
        assert_eq!(chat.session, b"s");
        assert_eq!(chat.messages.len(), 2);
        assert_eq!(chat.messages[0].text, br#"{"id":"a","type":"gemini","tokens":{"output":5},"model":"m"}"#);
    }

    #[test]
    fn what_was_taken_back_stays() {
        let chat = chat(&[
            r#"{"id":"a","type":"gemini"}"#,
            r#"{"id":"b","type":"gemini"}"#,
            r#"{"$rewindTo":"b"}"#,
            r#"{"id":"c","type":"gemini"}"#,
        ]);
        let gone: Vec<bool> = chat.messages.iter().map(|message| message.is_gone).collect();
        assert_eq!(gone, [false, true, false]);
    }

    #[test]
    fn a_shorter_conversation_is_a_compaction() {
        let chat = chat(&[
            r#"{"id":"a","type":"gemini","tokens":{"cached":7}}"#,
            r#"{"id":"b","type":"user"}"#,
            r#"{"$set":{"lastUpdated":"u","messages":[{"id":"c","type":"user"}]}}"#,
        ]);
        let wanted = Compaction { ts: b"u".to_vec(), preceding: b"a".to_vec(), cached: 7.0 };
        assert_eq!(chat.compactions, [wanted]);
        assert_eq!(chat.messages.len(), 3);
    }

    #[test]
    fn lines_of_no_known_kind_are_told() {
        let mut chat = Chat::default();
        assert!(!chat.take(Document::default().parse(br#"{"x":1}"#).unwrap(), (0, 0)));
    }
}

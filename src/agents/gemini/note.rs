//! The note of the side file about a chat: what is written of its messages.

use std::collections::HashMap;

use crate::agents::fidelity::Usage;
use crate::agents::js::{self, RecordText};
use crate::agents::ledger_turns::LedgerTurns;
use crate::agents::pass::Stat;
use crate::scan::json::{Document, Value, write_js_string};

/// The note of the side file about a chat.
#[derive(Default)]
pub(super) struct ChatNote {
    pub stat: Stat,
    pub waits: bool,
    /// When the chat was first seen in its present state.
    pub changed_ms: Option<f64>,
    /// Empty for a chat without a session; none in a note of an earlier version.
    pub session: Option<Vec<u8>>,
    /// None for a message of which only the id was noted.
    pub written: HashMap<Vec<u8>, Option<WrittenMessage>>,
}

impl ChatNote {
    /// Reads what [`ChatNote::text`] wrote.
    pub(super) fn of(side: impl AsRef<[u8]>) -> Option<Self> {
        let mut document = Document::default();
        let side = document.parse(side.as_ref()).ok()?;
        let written = side.get("written").into_iter().flat_map(Value::items);
        Some(ChatNote {
            stat: Stat::of_note(side)?,
            waits: js::is_true(side, "waits"),
            changed_ms: js::number(side, "changedMs"),
            session: js::any_text(side, "session").map(<[u8]>::to_vec),
            written: written.filter_map(WrittenMessage::of_note).collect(),
        })
    }

    /// Returns the JSON text for the side file.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut side = RecordText::default();
        self.stat.write(&mut side);
        side.flag_if("waits", self.waits);
        side.maybe_number("changedMs", self.changed_ms);
        side.maybe_text("session", self.session.as_deref());
        let mut written: Vec<_> = self.written.iter().collect();
        written.sort_by_key(|(id, _)| *id);
        let entries = written.into_iter().map(|(id, written)| match written {
            Some(written) => written.entry(id),
            None => {
                let mut text = Vec::new();
                write_js_string(id, &mut text);
                text
            }
        });
        side.raw("written", &[b"[", &entries.collect::<Vec<_>>().join(&b',')[..], b"]"].concat());
        side.finish()
    }

    /// Adds what the ledger has of the session's messages. Returns whether the note lacked something.
    pub(super) fn add_written(&mut self, ledger: Option<&LedgerTurns>) -> bool {
        let (Some(ledger), Some(session)) = (ledger, &self.session) else { return false };
        let mut is_behind = false;
        for turn in ledger.of_session(session) {
            let entry = self.written.entry(turn.id.clone());
            // What was written of a message of which only the id was noted is not known.
            let Some(known) = entry.or_insert_with(|| Some(WrittenMessage::default())) else { continue };
            // The parts of a message are appended in order.
            if turn.number >= known.times {
                known.usage = known.usage.plus(turn.usage);
                known.times = turn.number + 1;
                known.calls += turn.calls;
                known.is_from_ledger = true;
                is_behind = true;
            }
        }
        is_behind
    }
}

/// The written part of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct WrittenMessage {
    /// The sum of its turns.
    pub usage: Usage,
    /// The number of its turns.
    pub times: usize,
    pub calls: usize,
    pub results: usize,
    /// Whether only the ledger tells of the message, which does not say whether its other records are written.
    pub is_from_ledger: bool,
}

impl WrittenMessage {
    /// Reads an entry of the note. An earlier version noted only the id.
    fn of_note(entry: Value<'_>) -> Option<(Vec<u8>, Option<Self>)> {
        if let Some(id) = js::wtf8(entry) {
            return Some((id.to_vec(), None));
        }
        let whole = |key| js::number(entry, key).unwrap_or(0.0) as usize;
        let written = WrittenMessage {
            usage: Usage::of(entry, js::number_or_nan),
            times: whole("times"),
            calls: whole("calls"),
            results: whole("results"),
            is_from_ledger: js::is_true(entry, "isFromLedger"),
        };
        Some((js::any_text(entry, "id")?.to_vec(), Some(written)))
    }

    fn entry(&self, id: &[u8]) -> Vec<u8> {
        let mut entry = RecordText::default();
        entry.text("id", id);
        // Messages of Gemini have no counts of tokens that were written to a cache.
        self.usage.counts().into_iter().take(4).for_each(|(key, count)| entry.number(key, count));
        entry.count("times", self.times);
        entry.count("calls", self.calls);
        entry.count("results", self.results);
        entry.flag_if("isFromLedger", self.is_from_ledger);
        entry.finish()
    }
}

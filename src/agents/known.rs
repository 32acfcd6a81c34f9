//! What the ledger already says, as far as readers must know it beyond ids.
//!
//! An id is made of a session and a message. Agents copy messages into new sessions when one is resumed, so that a message may come
//! under two ids; and a hook may have said what a log says later. This file reads the ledger, from where it was read before, and
//! keeps hashes: about 30 bytes for each turn and result.

use std::collections::{HashMap, HashSet};

use super::AgentsError;
use super::js;
use crate::disk;
use crate::home::Home;
use crate::scan::json::{Document, Value, trim_js};
use crate::scan::{self, Io, Source, chunks};

/// How much of the ledger is looked at at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Hashes of what the ledger has.
#[derive(Debug, Default)]
pub(super) struct Known {
    covered_bytes: u64,
    /// Messages by id and time, with the session that has them.
    messages: HashMap<u64, u64>,
    /// Results by session, line, call and hash, with the number of their event.
    results: HashMap<u64, f64>,
    /// Sessions of which hooks have told.
    hooked: HashSet<u64>,
}

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap_or_default())
}

/// A message by its source, id and time.
pub(super) fn message_key(source: &[u8], id: &[u8], ts: &[u8]) -> u64 {
    hash(&[source, id, ts])
}

fn result_key(event: Value<'_>) -> Option<u64> {
    let text = |key| js::any_text(event, key);
    let message = text("messageId")?;
    Some(hash(&[
        text("source")?,
        text("sessionId")?,
        message,
        text("toolUseId")?,
        text("eventSource")?,
        text("contentHash").unwrap_or_default(),
    ]))
}

impl Known {
    /// Reads what was appended since the last look. Its caller holds lock `ledger`, or does not mind to see less.
    pub(super) fn catch_up(&mut self, home: &Home) -> Result<(), AgentsError> {
        match disk::metadata_of_target(&home.ledger()) {
            Err(error) if error.is_not_found() => {
                *self = Known::default();
                return Ok(());
            }
            found => found?,
        };
        let source = Source::open(&home.ledger(), Io::default())?;
        let len_bytes = source.len_bytes();
        if len_bytes < self.covered_bytes {
            *self = Known::default();
        }
        let mut document = Document::default();
        let mut buffer = Vec::new();
        for chunk in chunks(&source, self.covered_bytes..len_bytes, CHUNK_BYTES) {
            let chunk = chunk?;
            let base = chunk.start;
            let bytes = source.bytes(chunk, &mut buffer)?;
            // What follows the last line feed is still being written.
            let whole = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
            for (_, line) in scan::lines(base, &bytes[..whole]) {
                self.take_line(line, &mut document);
            }
            self.covered_bytes = base + whole as u64;
        }
        source.check_len()?;
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], document: &mut Document) {
        let is_turn = memchr::memmem::find(line, b"\"turn\"").is_some();
        if !is_turn && memchr::memmem::find(line, b"\"tool_result_event\"").is_none() {
            return;
        }
        let Ok(root) = document.parse(trim_js(line)) else { return };
        let Some(record) = root.get("record") else { return };
        match js::any_text(root, "kind") {
            Some(b"turn") => self.add_turn(record),
            Some(b"tool_result_event") => self.add_result(record),
            _ => {}
        }
    }

    /// A turn that is in the ledger.
    pub(super) fn add_turn(&mut self, turn: Value<'_>) {
        let text = |key| js::any_text(turn, key);
        if let (Some(source), Some(session), Some(id), Some(ts)) =
            (text("source"), text("sessionId"), text("messageId"), text("ts"))
        {
            self.messages.entry(message_key(source, id, ts)).or_insert_with(|| hash(&[session]));
        }
    }

    /// A result that is in the ledger.
    pub(super) fn add_result(&mut self, event: Value<'_>) {
        match result_key(event) {
            Some(key) => {
                self.results.insert(key, js::number(event, "eventIndex").unwrap_or(0.0));
            }
            None => {
                // The lines of a log have a time.
                if let Some(session) = js::any_text(event, "sessionId")
                    && js::any_text(event, "source") == Some(b"claude-code")
                    && event.get("ts").is_none()
                {
                    self.hooked.insert(hash(&[session]));
                }
            }
        }
    }

    /// Whether another session than `session` has the message.
    pub(super) fn is_of_another(&self, turn: Value<'_>) -> bool {
        let text = |key| js::any_text(turn, key);
        let (Some(source), Some(session), Some(id), Some(ts)) =
            (text("source"), text("sessionId"), text("messageId"), text("ts"))
        else {
            return false;
        };
        !id.is_empty()
            && self.messages.get(&message_key(source, id, ts)).is_some_and(|known| *known != hash(&[session]))
    }

    /// Whether the result is known under another number: the log was written anew, and what stood before it has changed. Under
    /// its own number the append knows it by its id.
    pub(super) fn has_result(&self, event: Value<'_>) -> bool {
        let known = result_key(event).and_then(|key| self.results.get(&key));
        known.is_some_and(|number| js::number(event, "eventIndex") != Some(*number))
    }

    /// Whether hooks have told of the session.
    pub(super) fn is_hooked(&self, session: &[u8]) -> bool {
        self.hooked.contains(&hash(&[session]))
    }

    /// What was read is now the whole ledger of this length.
    pub(super) fn covers(&mut self, len_bytes: u64) {
        self.covered_bytes = len_bytes;
    }
}

//! What makes a message, a user line, a result and an event known: hashes of their parts.
//!
//! A note is made of the parsed record, or of the parts from which a reader prints the record.

use std::cell::RefCell;

use crate::agents::js;
use crate::record::message_id::{certain_id, is_unique, is_uuid};
use crate::record::{Id, RecordKind};
use crate::scan::json::Value;

pub(super) fn hash(parts: &[&[u8]]) -> u64 {
    // One text, because a hasher that takes parts has a state of two kilobytes. Most texts need no memory of their own.
    let len_bytes = parts.iter().map(|part| part.len() + 8).sum();
    let (mut short, mut long) = ([0; 256], Vec::new());
    let text = if len_bytes <= short.len() {
        &mut short[..len_bytes]
    } else {
        long.resize(len_bytes, 0);
        &mut long[..]
    };
    let mut at = 0;
    for part in parts {
        text[at..at + 8].copy_from_slice(&(part.len() as u64).to_le_bytes());
        text[at + 8..][..part.len()].copy_from_slice(part);
        at += 8 + part.len();
    }
    u64::from_le_bytes(blake3::hash(text).as_bytes()[..8].try_into().unwrap_or_default())
}

/// The hash of a session's id. Most records of a thread are of one session, whose hash is remembered.
pub(in crate::agents) fn session_key(session: &[u8]) -> u64 {
    thread_local! {
        static LAST: RefCell<(Vec<u8>, u64)> = RefCell::new((Vec::new(), hash(&[b""])));
    }
    LAST.with_borrow_mut(|(last, key)| {
        if last != session {
            (*last, *key) = (session.to_vec(), hash(&[session]));
        }
        *key
    })
}

/// The notes on a record, and its ids if a reader has made them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::agents) struct RecordNotes {
    pub turn: Option<TurnNote>,
    /// The user line of a user turn or of a result.
    pub line: Option<LineNote>,
    pub result: Option<ResultNote>,
    pub event: Option<EventNote>,
    /// The id and the fingerprint of a record that has all members of its kind, so that it need not be parsed.
    pub made: Option<(Id, Option<Id>)>,
}

impl RecordNotes {
    pub(in crate::agents) fn of(kind: RecordKind, record: Value<'_>) -> Self {
        let text = |key| js::any_text(record, key);
        let notes = RecordNotes::default();
        match kind {
            RecordKind::Turn => RecordNotes { turn: TurnNote::of(record), ..notes },
            RecordKind::UserTurn => RecordNotes { line: LineNote::of(record, "userUuid"), ..notes },
            RecordKind::ToolResultEvent => RecordNotes::of_event(&EventParts {
                source: text("source"),
                session: text("sessionId"),
                call: text("toolUseId"),
                event_source: text("eventSource"),
                message: text("messageId"),
                content_hash: text("contentHash"),
                number: js::number(record, "eventIndex").unwrap_or(0.0),
                has_ts: record.get("ts").is_some(),
            }),
            RecordKind::Compaction | RecordKind::Relationship => notes,
        }
    }

    pub(in crate::agents) fn of_event(parts: &EventParts<'_>) -> Self {
        RecordNotes {
            line: LineNote::of_parts(parts.source, parts.session, parts.message),
            result: ResultNote::of(parts),
            event: EventNote::of(parts),
            ..RecordNotes::default()
        }
    }
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agents) struct TurnNote {
    /// The hash of its source, id and time. Copies of a message whose id is unique may have other times.
    pub key: u64,
    /// The hash of its session.
    pub session: u64,
    pub has_id: bool,
    /// Whether its id tells it from all other turns: see [`certain_id`].
    pub has_certain_id: bool,
}

impl TurnNote {
    /// The note on a turn, or on a content record of a message; none without its four texts.
    pub(in crate::agents) fn of(turn: Value<'_>) -> Option<Self> {
        let text = |key| js::any_text(turn, key);
        let [source, session, id, ts] =
            [text("source")?, text("sessionId")?, text("messageId")?, text("ts")?];
        let has_certain_id = certain_id(turn).is_some();
        Some(TurnNote { has_certain_id, ..Self::of_parts(source, session, id, ts) })
    }

    pub(in crate::agents) fn of_parts(source: &[u8], session: &[u8], id: &[u8], ts: &[u8]) -> Self {
        let is_unique = is_unique(source, id);
        TurnNote {
            key: hash(&[source, id, if is_unique { b"" } else { ts }]),
            session: session_key(session),
            has_id: !id.is_empty(),
            has_certain_id: is_unique,
        }
    }
}

/// A prompt or a result line of Claude Code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agents) struct LineNote {
    /// The hash of its UUID, which a copy of the line in another session has, too.
    pub key: u64,
    /// The hash of its session.
    pub session: u64,
}

impl LineNote {
    /// The note on the line whose UUID is the member `key` of a record.
    pub(in crate::agents) fn of(record: Value<'_>, key: &str) -> Option<Self> {
        let text = |key| js::any_text(record, key);
        Self::of_parts(text("source"), text("sessionId"), text(key))
    }

    pub(in crate::agents) fn of_parts(
        source: Option<&[u8]>,
        session: Option<&[u8]>,
        uuid: Option<&[u8]>,
    ) -> Option<Self> {
        let uuid = uuid.filter(|uuid| source == Some(b"claude-code") && is_uuid(uuid))?;
        Some(LineNote { key: hash(&[b"claude-code", b"user line", uuid]), session: session_key(session?) })
    }
}

/// The members of an event that make its notes.
pub(in crate::agents) struct EventParts<'p> {
    pub source: Option<&'p [u8]>,
    pub session: Option<&'p [u8]>,
    pub call: Option<&'p [u8]>,
    pub event_source: Option<&'p [u8]>,
    pub message: Option<&'p [u8]>,
    pub content_hash: Option<&'p [u8]>,
    pub number: f64,
    pub has_ts: bool,
}

/// The entries of a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::agents) enum ResultNote {
    /// A result from a line of a log, with the number of its event. The key is what makes two results equal besides their
    /// numbers.
    OfLog { key: u64, number: f64 },
    /// A result that a hook has reported for a session.
    OfHook { session: u64 },
}

impl ResultNote {
    fn of(parts: &EventParts<'_>) -> Option<Self> {
        let of_log = || {
            let parts = [
                parts.source?,
                parts.session?,
                parts.message?,
                parts.call?,
                parts.event_source?,
                parts.content_hash.unwrap_or_default(),
            ];
            Some(hash(&parts))
        };
        if let Some(key) = of_log() {
            return Some(ResultNote::OfLog { key, number: parts.number });
        }
        // The lines of a log have a time.
        let is_of_hook = parts.source == Some(b"claude-code") && !parts.has_ts;
        let session = parts.session.filter(|_| is_of_hook)?;
        Some(ResultNote::OfHook { session: session_key(session) })
    }

    /// What makes two results of a log equal besides their numbers; none for an event without a message.
    pub(in crate::agents) fn key(self) -> Option<u64> {
        match self {
            ResultNote::OfLog { key, .. } => Some(key),
            ResultNote::OfHook { .. } => None,
        }
    }
}

/// The entries of an event of Claude Code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::agents) struct EventNote {
    /// The hash of the session and the tool use id.
    pub call: u64,
    pub session: u64,
    pub number: f64,
}

impl EventNote {
    fn of(parts: &EventParts<'_>) -> Option<Self> {
        if parts.source != Some(b"claude-code") {
            return None;
        }
        let (session, call) = (parts.session?, parts.call?);
        Some(EventNote { call: hash(&[session, call]), session: session_key(session), number: parts.number })
    }
}

//! The members of a line of a log that its records need.

use super::super::js;
use crate::scan::json::{Kind, Value};

/// A line that is an object, and its members. Texts are *string fields*: strings that are not empty.
///
/// All members are found in one pass over the line. Most members are used several times, and looking up a member that the
/// line lacks would compare the keys of all others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'d> {
    pub root: Value<'d>,
    /// The `type`. Unlike the other texts it may be empty, so that a report can tell an empty type from a
    /// missing one.
    pub kind: Option<&'d [u8]>,
    pub uuid: Option<&'d [u8]>,
    pub parent_uuid: Option<&'d [u8]>,
    pub session: Option<&'d [u8]>,
    pub timestamp: Option<&'d [u8]>,
    pub version: Option<&'d [u8]>,
    pub branch: Option<&'d [u8]>,
    pub agent_id: Option<&'d [u8]>,
    pub cwd: Option<Value<'d>>,
    pub is_side: bool,
    pub message: Option<Value<'d>>,
    /// The member `content` of the message.
    pub content: Option<Value<'d>>,
    /// The session that the session of the line is a fork of, and the session that it continues.
    pub fork: Option<&'d [u8]>,
    pub continued: Option<&'d [u8]>,
}

impl<'d> Line<'d> {
    /// Returns the members of an object; none for another value.
    pub(super) fn of(root: Value<'d>) -> Option<Self> {
        if root.kind() != Kind::Object {
            return None;
        }
        let mut line = Line {
            root,
            kind: None,
            uuid: None,
            parent_uuid: None,
            session: None,
            timestamp: None,
            version: None,
            branch: None,
            agent_id: None,
            cwd: None,
            is_side: false,
            message: None,
            content: None,
            fork: None,
            continued: None,
        };
        for (key, value) in root.members_in_text_order() {
            let text = || js::wtf8(value).filter(|text| !text.is_empty());
            match key.as_wtf8() {
                b"type" => line.kind = js::wtf8(value),
                b"uuid" => line.uuid = text(),
                b"parentUuid" => line.parent_uuid = text(),
                b"sessionId" => line.session = text(),
                b"timestamp" => line.timestamp = text(),
                b"version" => line.version = text(),
                b"gitBranch" => line.branch = text(),
                b"agentId" => line.agent_id = text(),
                b"cwd" => line.cwd = Some(value),
                b"isSidechain" => line.is_side = value.as_bool() == Some(true),
                b"message" => line.message = Some(value),
                b"forkSessionId" | b"fork_session_id" => {
                    line.fork = js::first_text(root, &["forkSessionId", "fork_session_id"]);
                }
                b"continuedFromSessionId" | b"continued_from_session_id" => {
                    let keys = ["continuedFromSessionId", "continued_from_session_id"];
                    line.continued = js::first_text(root, &keys);
                }
                _ => {}
            }
        }
        line.content = line.message.and_then(|message| message.get("content"));
        Some(line)
    }
}

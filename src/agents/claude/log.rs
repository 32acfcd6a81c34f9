//! The kind of a log, and the evidence in a log for its relationships to other logs.

use std::path::Path;

use super::key::Key;
use super::marker::marker;
use crate::agents::{js, walk};
use crate::scan::json::Value;

/// The session or sub-agent that a log belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogKind {
    Session,
    /// The log of a sub-agent, in the folder of its session. It is not a session.
    SubAgent,
}

impl LogKind {
    pub(super) fn of(path: &Path) -> Self {
        let folder = path.parent().and_then(Path::file_name);
        if folder.is_some_and(|name| name == "subagents") { LogKind::SubAgent } else { LogKind::Session }
    }

    pub(super) fn has_root(self) -> bool {
        self == LogKind::Session
    }
}

/// The evidence in a log for its relationships to other logs.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// The first session id that differs from the log's name.
    pub(super) foreign: Option<Vec<u8>>,
    pub(super) first_ts: Option<Vec<u8>>,
    pub(super) version: Option<Vec<u8>>,
    /// The parent of the first user line that is not on a side chain, once there is such a line.
    pub(super) first_parent: Option<Option<Key>>,
    /// Whether a marker resumed the session, and the session that the first marker names.
    pub(super) marker: Option<Option<Vec<u8>>>,
    /// Targets of explicit rows.
    pub(super) forks: Vec<Vec<u8>>,
    pub(super) continuations: Vec<Vec<u8>>,
}

impl Evidence {
    pub(super) fn take(&mut self, line: Value<'_>, base_name: &[u8]) {
        let session = js::text(line, "sessionId");
        if let Some(session) = session.filter(|session| *session != base_name)
            && self.foreign.is_none()
        {
            self.foreign = Some(session.to_vec());
        }
        let ts = js::text(line, "timestamp").filter(|_| session.is_some() && self.first_ts.is_none());
        if let Some(ts) = ts {
            self.first_ts = Some(ts.to_vec());
        }
        if self.version.is_none() {
            self.version = js::text(line, "version").map(<[u8]>::to_vec);
        }
        for (keys, targets) in [
            (["forkSessionId", "fork_session_id"], &mut self.forks),
            (["continuedFromSessionId", "continued_from_session_id"], &mut self.continuations),
        ] {
            if let Some(target) = js::first_text(line, &keys).filter(|_| session.is_some())
                && !targets.iter().any(|known| known == target)
            {
                targets.push(target.to_vec());
            }
        }
    }

    pub(super) fn take_user(&mut self, line: Value<'_>, text: &[u8], path: &Path, as_reference: bool) {
        if !js::is_true(line, "isSidechain") && self.first_parent.is_none() {
            self.first_parent = Some(js::text(line, "parentUuid").map(Key::of));
        }
        let Some(marker) = marker(text) else { return };
        let target = match as_reference {
            true => marker.word,
            false => {
                let is_session = |word: &&[u8]| {
                    let text = js::to_utf8(word);
                    uuid::Uuid::try_parse(&text).is_ok_and(|_| text.len() == 36)
                        || (!text.contains(['/', '\\']) && is_log(path, &format!("{text}.jsonl")))
                };
                marker.word.filter(|_| marker.has_boundary).filter(is_session)
            }
        };
        match &mut self.marker {
            None => self.marker = Some(target.map(<[u8]>::to_vec)),
            Some(known @ None) => *known = target.map(<[u8]>::to_vec),
            Some(Some(_)) => {}
        }
    }

    pub(super) fn foreign_session(&self) -> Option<&[u8]> {
        self.foreign.as_deref()
    }
}

/// Returns whether a project's folder has a log of this name.
fn is_log(path: &Path, name: &str) -> bool {
    let root = path.parent().and_then(Path::parent);
    let folders = root.map(|root| walk::folders(root, false, &mut Vec::new())).unwrap_or_default();
    folders.iter().any(|folder| folder.join(name).is_file())
}

/// Facts about a log for the run, besides its records.
#[derive(Debug, Default)]
pub(in crate::agents) struct Told {
    pub(super) base_name: Vec<u8>,
    pub(super) evidence: Evidence,
    pub(super) uuids: Vec<Key>,
}

pub(super) fn path_text(path: &Path) -> Vec<u8> {
    path.to_string_lossy().into_owned().into_bytes()
}

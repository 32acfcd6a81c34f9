//! The kind of a log, the agent that it belongs to, and the evidence in a log for its relationships to other logs.

use std::path::Path;

use super::line::Line;
use super::marker::marker;
use crate::agents::js::{self, RecordText};
use crate::agents::walk;
use crate::disk;
use crate::scan::json::{Document, Value, trim_js};

/// The session or sub-agent that a log belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogKind {
    Session,
    /// The log of a sub-agent. It is not a session. It is in the folder of its session; older versions put it beside
    /// the session.
    SubAgent,
}

impl LogKind {
    pub(super) fn of(path: &Path) -> Self {
        let folder = path.parent().and_then(Path::file_name);
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        match folder.is_some_and(|name| name == "subagents") || name.starts_with(b"agent-") {
            true => LogKind::SubAgent,
            false => LogKind::Session,
        }
    }
}

/// The type and the task of a sub-agent, from the file that newer versions write beside its log: `agent-ID.meta.json`.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentMeta {
    pub(super) kind: Option<Vec<u8>>,
    pub(super) description: Option<Vec<u8>>,
}

impl AgentMeta {
    /// A longer file is none of Claude Code's.
    const MAX_BYTES: u64 = 64 << 10;

    /// Reads the file beside a log. A missing or damaged file tells nothing.
    pub(super) fn beside(log: &Path) -> Self {
        let read = || {
            let file = disk::File::open_read(&log.with_extension("meta.json")).ok()?;
            let len_bytes = file.len_bytes().ok().filter(|len_bytes| *len_bytes <= Self::MAX_BYTES)?;
            let mut bytes = vec![0; len_bytes as usize];
            file.read_exact_at(&mut bytes, 0).ok()?;
            let mut document = Document::default();
            let root = document.parse(trim_js(&bytes)).ok()?;
            let text = |key| js::text(root, key).map(<[u8]>::to_vec);
            Some(AgentMeta { kind: text("agentType"), description: text("description") })
        };
        read().unwrap_or_default()
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
    pub(super) first_parent: Option<Option<Vec<u8>>>,
    /// Whether a marker resumed the session, and the session that the first marker names.
    pub(super) marker: Option<Option<Vec<u8>>>,
    /// Targets of explicit rows.
    pub(super) forks: Vec<Vec<u8>>,
    pub(super) continuations: Vec<Vec<u8>>,
    /// The log that has the parent of the first user line.
    pub(super) continues: Option<Vec<u8>>,
    /// Lines of other kinds before the first user line. A parent among them is not a line of another log.
    pub(super) own_lines: Vec<Vec<u8>>,
}

impl Evidence {
    pub(super) fn take(&mut self, line: &Line<'_>, base_name: &[u8]) {
        let session = line.session;
        if let Some(session) = session.filter(|session| *session != base_name)
            && self.foreign.is_none()
        {
            self.foreign = Some(session.to_vec());
        }
        let ts = line.timestamp.filter(|_| session.is_some() && self.first_ts.is_none());
        if let Some(ts) = ts {
            self.first_ts = Some(ts.to_vec());
        }
        if self.version.is_none() {
            self.version = line.version.map(<[u8]>::to_vec);
        }
        for (target, targets) in [(line.fork, &mut self.forks), (line.continued, &mut self.continuations)] {
            if let Some(target) = target.filter(|_| session.is_some())
                && !targets.iter().any(|known| known == target)
            {
                targets.push(target.to_vec());
            }
        }
    }

    /// Takes a line that is no message and no prompt.
    pub(super) fn take_other(&mut self, line: &Line<'_>) {
        if self.first_parent.is_none() {
            self.own_lines.extend(line.uuid.map(<[u8]>::to_vec));
        }
    }

    pub(super) fn take_user(&mut self, line: &Line<'_>, text: &[u8], path: &Path, as_reference: bool) {
        if !line.is_side && self.first_parent.is_none() {
            let parent = line.parent_uuid.map(<[u8]>::to_vec);
            let own_lines = std::mem::take(&mut self.own_lines);
            self.first_parent = Some(parent.filter(|parent| !own_lines.contains(parent)));
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

    /// The line by which the log that this log continues may be found; none if that log is known already.
    pub(super) fn sought_line(&self) -> Option<&[u8]> {
        self.first_parent.as_ref()?.as_deref().filter(|_| self.continues.is_none())
    }

    /// The evidence as JSON text for the side file; none if the log cannot belong to another log.
    pub(super) fn note(&self) -> Option<Vec<u8>> {
        let parent = self.first_parent.as_ref().and_then(Option::as_deref);
        if self.foreign.is_none() && parent.is_none() {
            return None;
        }
        let mut note = RecordText::default();
        note.maybe_text("foreign", self.foreign.as_deref());
        note.maybe_text("firstTs", self.first_ts.as_deref());
        note.maybe_text("version", self.version.as_deref());
        note.maybe_text("parent", parent);
        note.flag_if("hasMarker", self.marker.is_some());
        note.maybe_text("marker", self.marker.as_ref().and_then(Option::as_deref));
        note.texts("forks", &self.forks);
        note.texts("continuations", &self.continuations);
        note.maybe_text("continues", self.continues.as_deref());
        Some(note.finish())
    }

    /// Reads what [`Evidence::note`] wrote.
    pub(super) fn of_note(note: Value<'_>) -> Self {
        let text = |key| js::text(note, key).map(<[u8]>::to_vec);
        let texts = |key| {
            let items = note.get(key).into_iter().flat_map(Value::items);
            items.filter_map(|item| js::wtf8(item).map(<[u8]>::to_vec)).collect()
        };
        Evidence {
            foreign: text("foreign"),
            first_ts: text("firstTs"),
            version: text("version"),
            first_parent: Some(text("parent")),
            marker: js::is_true(note, "hasMarker").then(|| text("marker")),
            forks: texts("forks"),
            continuations: texts("continuations"),
            continues: text("continues"),
            own_lines: Vec::new(),
        }
    }
}

/// Returns whether a project's folder has a log of this name.
fn is_log(path: &Path, name: &str) -> bool {
    let root = path.parent().and_then(Path::parent);
    let folders = root.map(|root| walk::folders(root, false, &mut Vec::new())).unwrap_or_default();
    folders.iter().any(|folder| folder.join(name).is_file())
}

/// Facts about a log for the run, besides its records.
#[derive(Debug)]
pub(in crate::agents) struct LogFacts {
    pub(super) base_name: Vec<u8>,
    pub(super) evidence: Evidence,
    /// Whether the evidence was not compared with other logs yet.
    pub(super) is_new: bool,
    /// Halves of the hashes of the ids of the lines, because the ids of all lines of all logs would need much memory. A log that
    /// may have a line is read again. None for a log that was not read.
    pub(super) lines: Vec<u32>,
}

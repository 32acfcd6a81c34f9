//! Finds continuations and forks that show only when logs are compared with each other.
//!
//! A run compares the logs that it read with each other, and with the notes of earlier runs on other logs:
//! `ingest.side.json` has the evidence of each log that may belong to another log. The lines of a log that the run did
//! not read are searched only when a new log begins after a line that no log of the run has.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::super::js::{self, RecordText};
use super::super::lines::{Ending, LineSource};
use super::super::pass::Candidate;
use super::base_name;
use super::key::Key;
use super::log::{Evidence, LogFacts};
use crate::scan::json::{Document, trim_js};

/// The logs of a run.
#[derive(Default)]
pub(crate) struct Across {
    /// The logs that were read, then the logs that have notes alone.
    logs: Vec<ComparedLog>,
    read: HashSet<PathBuf>,
}

/// The known facts about a log.
struct ComparedLog {
    path: PathBuf,
    facts: LogFacts,
}

/// The result of the comparison.
#[derive(Default)]
pub(crate) struct LogComparison {
    /// Relationships between logs: all continuations, then all forks.
    pub rows: Vec<Vec<u8>>,
    /// Logs that need no further comparison, each with the name of the log that it continues.
    pub settled: Vec<(PathBuf, Option<Vec<u8>>)>,
}

impl Across {
    /// Adds a log that was read.
    pub(crate) fn add(&mut self, path: &Path, facts: LogFacts) {
        self.read.insert(path.to_owned());
        self.logs.push(ComparedLog { path: path.to_owned(), facts });
    }

    /// Adds the notes of a log that was not read. If the log was read, the notes are ignored.
    pub(crate) fn add_noted(&mut self, path: &Path, note: &[u8]) {
        if self.read.contains(path) {
            return;
        }
        let mut document = Document::default();
        let Ok(note) = document.parse(note) else { return };
        let Some(evidence) = note.get("evidence").map(Evidence::of_note) else { return };
        let is_new = !js::is_true(note, "isCompared");
        let facts = LogFacts { base_name: base_name(path), evidence, is_new, lines: Vec::new() };
        self.logs.push(ComparedLog { path: path.to_owned(), facts });
    }

    /// Compares the logs. `candidates` are all logs that were found.
    pub(crate) fn compare(&mut self, candidates: &[Candidate]) -> LogComparison {
        let mut found = LogComparison::default();
        // Most runs look for no line.
        if self.logs.iter().any(|log| log.facts.evidence.sought_line().is_some()) {
            self.logs.iter_mut().for_each(|log| log.facts.lines.sort_unstable());
        }
        let mut continued: HashMap<usize, Vec<u8>> = HashMap::new();
        for (index, log) in self.logs.iter().enumerate() {
            let Some((target, is_news)) = self.continues(index, candidates) else { continue };
            continued.insert(index, target.clone());
            let evidence = &log.facts.evidence;
            let is_known = evidence.marker.as_ref().is_some_and(|marker| marker.as_ref() == Some(&target))
                || evidence.continuations.contains(&target);
            if is_known || !is_news {
                continue;
            }
            let mut record = row(&log.facts.base_name, &target, "continuation");
            record.maybe_text("ts", evidence.first_ts.as_deref());
            record.maybe_text("sourceSessionId", evidence.foreign.as_deref());
            record.maybe_text("sourceVersion", evidence.version.as_deref());
            found.rows.push(record.finish());
        }
        for (source, members) in self.groups() {
            let facts = |index: &usize| &self.logs[*index].facts;
            let names: HashSet<&[u8]> = members.iter().map(|index| &facts(index).base_name[..]).collect();
            for index in &members {
                let LogFacts { base_name, evidence, .. } = facts(index);
                let continues = continued.get(index).is_some_and(|target| names.contains(&target[..]));
                if continues || evidence.forks.iter().any(|fork| fork == source) {
                    continue;
                }
                let mut record = row(base_name, source, "fork");
                record.text("sourceSessionId", source);
                record.maybe_text("ts", evidence.first_ts.as_deref());
                record.maybe_text("sourceVersion", evidence.version.as_deref());
                found.rows.push(record.finish());
            }
        }
        for (index, log) in self.logs.iter().enumerate() {
            let target = continued.remove(&index);
            if log.facts.is_new || target.is_some() && log.facts.evidence.continues.is_none() {
                found.settled.push((log.path.clone(), target));
            }
        }
        found
    }

    /// The log that another log continues, and whether this is new.
    fn continues(&self, index: usize, candidates: &[Candidate]) -> Option<(Vec<u8>, bool)> {
        let ComparedLog { path, facts: LogFacts { evidence, is_new, .. } } = &self.logs[index];
        if let Some(target) = &evidence.continues {
            return Some((target.clone(), false));
        }
        let parent = evidence.sought_line()?;
        let line = Key::of(parent).hash() as u32;
        let has_it =
            |log: &ComparedLog| log.facts.lines.binary_search(&line).is_ok() && has_line(&log.path, parent);
        match self.logs.iter().position(has_it) {
            Some(other) if other == index => None,
            Some(other) => Some((self.logs[other].facts.base_name.clone(), true)),
            None if !is_new => None,
            None => {
                let is_neighbour = |other: &&Candidate| {
                    other.path.parent() == path.parent()
                        && !self.read.contains(&other.path)
                        && other.path != *path
                };
                let mut neighbours = candidates.iter().filter(is_neighbour);
                let other = neighbours.find(|other| has_line(&other.path, parent))?;
                Some((base_name(&other.path), true))
            }
        }
    }

    /// Two or more logs of one foreign session, at least one of them new.
    fn groups(&self) -> Vec<(&[u8], Vec<usize>)> {
        let mut groups: Vec<(&[u8], Vec<usize>)> = Vec::new();
        for (index, log) in self.logs.iter().enumerate() {
            let Some(source) = log.facts.evidence.foreign.as_deref() else { continue };
            match groups.iter_mut().find(|(known, _)| *known == source) {
                Some((_, members)) => members.push(index),
                None => groups.push((source, vec![index])),
            }
        }
        groups.retain(|(_, members)| {
            members.len() > 1 && members.iter().any(|index| self.logs[*index].facts.is_new)
        });
        groups
    }
}

/// Whether a log has the line of a message or a prompt. A log that cannot be read has no such line here, and is
/// reported when it is read.
fn has_line(path: &Path, uuid: &[u8]) -> bool {
    let finder = memchr::memmem::Finder::new(uuid);
    let escapes = memchr::memmem::Finder::new(r"\u");
    // JSON may spell any character as `\u…`. These characters have other escapes, too.
    let has_other_escapes = uuid.iter().any(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\' | b'/'));
    let may_have_it =
        |line: &[u8]| has_other_escapes || finder.find(line).is_some() || escapes.find(line).is_some();
    let mut document = Document::default();
    let Ok(mut lines) = LineSource::open(path, 0, u64::MAX) else { return false };
    while let Ok(Some(line)) = lines.next() {
        if line.ending != Ending::Whole || !may_have_it(line.bytes) {
            continue;
        }
        let Ok(value) = document.parse(trim_js(line.bytes)) else { continue };
        let is_message = matches!(js::any_text(value, "type"), Some(b"assistant" | b"user"));
        if is_message && js::text(value, "uuid") == Some(uuid) {
            return true;
        }
    }
    false
}

/// The note of a log after it was compared.
pub(crate) fn settled_note(note: &[u8], continues: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut document = Document::default();
    let note = document.parse(note).ok()?;
    let mut evidence = Evidence::of_note(note.get("evidence")?);
    if let Some(target) = continues {
        evidence.continues = Some(target.to_vec());
    }
    let mut settled = RecordText::default();
    settled.members_of(note, |_, key| matches!(key, b"evidence" | b"isCompared"));
    settled.raw("evidence", &evidence.note()?);
    settled.flag("isCompared", true);
    Some(settled.finish())
}

fn row(name: &[u8], target: &[u8], kind: &str) -> RecordText {
    let mut record = RecordText::of("claude-code");
    record.text("sessionId", name);
    record.text("relatedSessionId", target);
    record.text("relationshipType", kind.as_bytes());
    record
}

//! Finds continuations and forks that show only when logs are compared with each other.

use std::collections::{HashMap, HashSet};

use super::super::js::RecordText;
use super::key::Key;
use super::log::{Evidence, Told};

/// The logs that a run has read.
#[derive(Default)]
pub(crate) struct Across {
    logs: Vec<(Vec<u8>, Evidence)>,
    /// The first log that has a line.
    lines: HashMap<Key, usize>,
}

impl Across {
    /// Adds a log.
    pub(crate) fn add(&mut self, told: &mut Told) {
        let index = self.logs.len();
        for uuid in std::mem::take(&mut told.uuids) {
            self.lines.entry(uuid).or_insert(index);
        }
        self.logs.push((told.base_name.clone(), told.evidence.clone()));
    }

    /// Returns the relationships between logs: all continuations, then all forks.
    pub(crate) fn rows(&self) -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        let mut continued: HashSet<(usize, usize)> = HashSet::new();
        for (index, (name, evidence)) in self.logs.iter().enumerate() {
            let Some(Some(parent)) = &evidence.first_parent else { continue };
            let Some(other) = self.lines.get(parent).filter(|other| **other != index) else { continue };
            continued.insert((index, *other));
            let target = &self.logs[*other].0;
            let is_known = evidence.marker.as_ref().is_some_and(|marker| marker.as_ref() == Some(target))
                || evidence.continuations.contains(target);
            if is_known {
                continue;
            }
            let mut record = row(name, target, "continuation");
            record.maybe_text("ts", evidence.first_ts.as_deref());
            record.maybe_text("sourceSessionId", evidence.foreign_session());
            record.maybe_text("sourceVersion", evidence.version.as_deref());
            rows.push(record.finish());
        }
        let mut groups: Vec<(&[u8], Vec<usize>)> = Vec::new();
        for (index, (_, evidence)) in self.logs.iter().enumerate() {
            let Some(source) = evidence.foreign_session() else { continue };
            match groups.iter_mut().find(|(known, _)| *known == source) {
                Some((_, members)) => members.push(index),
                None => groups.push((source, vec![index])),
            }
        }
        for (source, members) in groups.iter().filter(|(_, members)| members.len() > 1) {
            for index in members {
                let (name, evidence) = &self.logs[*index];
                let continues = members.iter().any(|other| continued.contains(&(*index, *other)));
                if continues || evidence.forks.iter().any(|fork| fork == source) {
                    continue;
                }
                let mut record = row(name, source, "fork");
                record.text("sourceSessionId", source);
                record.maybe_text("ts", evidence.first_ts.as_deref());
                record.maybe_text("sourceVersion", evidence.version.as_deref());
                rows.push(record.finish());
            }
        }
        rows
    }
}

fn row(name: &[u8], target: &[u8], kind: &str) -> RecordText {
    let mut record = RecordText::of("claude-code");
    record.text("sessionId", name);
    record.text("relatedSessionId", target);
    record.text("relationshipType", kind.as_bytes());
    record
}

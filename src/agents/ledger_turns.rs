//! Finds the parts of growing turns that are in the ledger already.
//!
//! The notes on the logs of Codex and Gemini CLI say how much of each turn is written, so that the further tokens of a turn
//! become a turn of their own. A note may be missing or old: the side file may be deleted, and a run may be
//! killed between its append and its notes. So each run reads the turns that were appended since the notes were saved, and
//! without notes the turns of the whole ledger.
//!
//! Example: the notes know the first 1,000 bytes of the ledger. A run that has only the logs of session A reads bytes 1,000
//! to 1,500, and finds turns of sessions A and B. The note on A gets A's turns. From then on the notes cover 1,500 bytes,
//! except for session B: `lacking` has B's first turn in this part, at byte 1,200. A run that has a log of session B reads
//! from byte 1,200 on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::AgentsError;
use super::fidelity::Usage;
use super::js::{self, RecordText};
use super::known::each_line_with;
use crate::home::Home;
use crate::record::message_id::{is_unique, parts_of_turn_id};
use crate::scan::json::Value;

/// How much of the ledger the notes on an agent's logs know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NotedLedger {
    /// The number of ledger bytes whose turns the notes have.
    pub bytes: u64,
    /// The sessions of which the notes lack turns before that, because no run since had their logs: each with the byte
    /// offset of the first such turn.
    pub lacking: BTreeMap<Vec<u8>, u64>,
}

impl NotedLedger {
    /// Reads what [`NotedLedger::text`] wrote.
    pub(super) fn of(value: Value<'_>) -> Self {
        let offsets = value.get("lacking").into_iter().flat_map(Value::members);
        let offsets = offsets.filter_map(|(session, offset)| {
            Some((session.as_wtf8().to_vec(), offset.as_number()?.as_f64() as u64))
        });
        NotedLedger { bytes: js::number(value, "bytes").unwrap_or(0.0) as u64, lacking: offsets.collect() }
    }

    /// Returns the JSON text for the side file.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut lacking = RecordText::default();
        for (session, offset) in &self.lacking {
            lacking.member(session, |out| out.extend_from_slice(offset.to_string().as_bytes()));
        }
        let mut text = RecordText::default();
        text.number("bytes", self.bytes as f64);
        text.raw("lacking", &lacking.finish());
        text.finish()
    }

    /// Returns the offset from which a run reads the ledger: the first turn that the notes lack in a session
    /// for which `may_have` is true, else the end of the noted bytes.
    pub(super) fn start(&self, may_have: impl Fn(&[u8]) -> bool) -> u64 {
        let lacking = self.lacking.iter().filter(|(session, _)| may_have(session));
        lacking.map(|(_, offset)| *offset).fold(self.bytes, u64::min)
    }
}

/// A turn of the ledger, or one of its parts.
#[derive(Debug)]
pub(super) struct LedgerTurn {
    /// The id of the first part.
    pub id: Vec<u8>,
    /// The number of the part, from 0.
    pub number: usize,
    /// Values that are not token counts are 0.
    pub usage: Usage,
    /// The number of its tool calls.
    pub calls: usize,
    offset: u64,
}

/// The turns of an agent in a part of the ledger.
#[derive(Debug, Default)]
pub(super) struct LedgerTurns {
    turns: Vec<LedgerTurn>,
    /// Indices of the turns of each session.
    of_session: HashMap<Vec<u8>, Vec<usize>>,
    /// Indices of the turns of each unique id, whatever their session.
    of_id: HashMap<Vec<u8>, Vec<usize>>,
    /// What the notes know without these turns.
    noted: NotedLedger,
    from: u64,
    end: u64,
    /// The sessions whose notes got their turns.
    taken: Mutex<HashSet<Vec<u8>>>,
}

impl LedgerTurns {
    /// Reads the turns of `source` from byte `from` of the ledger on. If the ledger is shorter than the notes say, it is
    /// another ledger, and all its turns are read.
    pub(super) fn read(
        home: &Home,
        source: &str,
        noted: &NotedLedger,
        from: u64,
    ) -> Result<Self, AgentsError> {
        let mut turns = LedgerTurns { noted: noted.clone(), from, ..LedgerTurns::default() };
        let word = format!("\"{source}\"");
        turns.end = each_line_with(home, from, word.as_bytes(), &mut |offset, line| {
            turns.take_line(source, offset, line);
        })?;
        if turns.end < noted.bytes {
            return Self::read(home, source, &NotedLedger::default(), 0);
        }
        Ok(turns)
    }

    fn take_line(&mut self, source: &str, offset: u64, line: Value<'_>) {
        let Some(turn) = line.get("record").filter(|_| js::any_text(line, "kind") == Some(b"turn")) else {
            return;
        };
        let text = |key| js::any_text(turn, key);
        let (Some(session), Some(id), Some(usage)) =
            (text("sessionId"), text("messageId"), turn.get("usage"))
        else {
            return;
        };
        if text("source") != Some(source.as_bytes()) {
            return;
        }
        let (id, number) = parts_of_turn_id(id);
        let turn = LedgerTurn {
            id: id.to_vec(),
            number,
            // A negative number stands for a value that is no count.
            usage: Usage::of(usage, |usage, key| js::number(usage, key).unwrap_or(0.0).max(0.0)),
            calls: turn.get("toolCalls").map_or(0, |calls| calls.items().count()),
            offset,
        };
        let at = self.turns.len();
        if is_unique(source.as_bytes(), id) {
            self.of_id.entry(id.to_vec()).or_default().push(at);
        }
        self.of_session.entry(session.to_vec()).or_default().push(at);
        self.turns.push(turn);
    }

    fn at<'t>(&'t self, indices: Option<&'t Vec<usize>>) -> impl Iterator<Item = &'t LedgerTurn> {
        indices.into_iter().flatten().map(|at| &self.turns[*at])
    }

    /// Returns the turns of a session in the order of the ledger. The note on the session's log gets them in this run.
    pub(super) fn of_session(&self, session: &[u8]) -> impl Iterator<Item = &LedgerTurn> {
        let turns = self.of_session.get(session);
        let has_all = self.noted.lacking.get(session).is_none_or(|offset| *offset >= self.from);
        if has_all && turns.is_some() {
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(session.to_vec());
        }
        self.at(turns)
    }

    /// Returns the parts of the turn with a unique id in the order of the ledger, whatever their session.
    pub(super) fn of_id(&self, id: &[u8]) -> impl Iterator<Item = &LedgerTurn> {
        self.at(self.of_id.get(id))
    }

    /// Returns what the notes know once they are saved with these turns.
    pub(super) fn noted(&self) -> NotedLedger {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lacking = self.noted.lacking.clone();
        lacking.retain(|session, _| !taken.contains(session));
        for (session, turns) in self.of_session.iter().filter(|(session, _)| !taken.contains(*session)) {
            let mut offsets = self.at(Some(turns)).map(|turn| turn.offset);
            let first = offsets.find(|offset| *offset >= self.noted.bytes);
            if let Some(offset) = first {
                lacking.entry(session.clone()).or_insert(offset);
            }
        }
        NotedLedger { bytes: self.end, lacking }
    }
}

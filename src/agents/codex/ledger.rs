//! Finds in the ledger what is written of Codex's turns.
//!
//! The note on a log says how much of each turn is written, so that the further tokens of a turn become a turn of their
//! own. A note may be missing or old: the side file is derived and may be deleted, and a run may be killed between its
//! append and its notes. So each run reads the turns that were appended since the notes were saved, and without a note
//! the turns of the whole ledger.

use std::collections::HashMap;

use super::engine::Written;
use super::parts::RolloutCounts;
use crate::agents::AgentsError;
use crate::agents::js;
use crate::agents::known::each_line_with;
use crate::home::Home;
use crate::record::message_id::parts_of_turn_id;
use crate::scan::json::Value;

/// A turn of the ledger, or one of its parts.
struct LedgerTurn {
    /// The id of the first part.
    id: Vec<u8>,
    /// The number of the part, from 0.
    number: usize,
    used: RolloutCounts,
    calls: usize,
}

/// Turns of Codex in a part of the ledger.
#[derive(Default)]
pub(super) struct LedgerTurns {
    of_session: HashMap<Vec<u8>, Vec<LedgerTurn>>,
    end: u64,
}

impl LedgerTurns {
    /// Reads the turns from byte `from` of the ledger on; of a shorter ledger all turns, because it is another ledger.
    pub(super) fn read(home: &Home, from: u64) -> Result<Self, AgentsError> {
        let mut turns = LedgerTurns::default();
        turns.end = each_line_with(home, from, b"\"codex\"", &mut |line| turns.take(line))?;
        if turns.end < from {
            return Self::read(home, 0);
        }
        Ok(turns)
    }

    /// The end of the part that was read, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn take(&mut self, line: Value<'_>) {
        let Some(turn) = line.get("record").filter(|_| js::any_text(line, "kind") == Some(b"turn")) else {
            return;
        };
        let text = |key| js::any_text(turn, key);
        let (Some(b"codex"), Some(session), Some(id), Some(usage)) =
            (text("source"), text("sessionId"), text("messageId"), turn.get("usage"))
        else {
            return;
        };
        let (id, number) = parts_of_turn_id(id);
        let turn = LedgerTurn {
            id: id.to_vec(),
            number,
            used: RolloutCounts::of_record(usage),
            calls: turn.get("toolCalls").map_or(0, |calls| calls.items().count()),
        };
        self.of_session.entry(session.to_vec()).or_default().push(turn);
    }

    /// Adds what the ledger has of a session's turns to what the note on its log has. Returns whether the note lacked
    /// something.
    pub(super) fn add_to(&self, written: &mut HashMap<Vec<u8>, Written>, session: &[u8]) -> bool {
        let mut is_behind = false;
        for turn in self.of_session.get(session).into_iter().flatten() {
            let known = written.entry(turn.id.clone()).or_default();
            // The parts of a turn are appended in order.
            if turn.number >= known.times {
                known.used = known.used.plus(turn.used);
                known.times = turn.number + 1;
                known.calls += turn.calls;
                known.is_from_ledger = true;
                is_behind = true;
            }
        }
        is_behind
    }
}

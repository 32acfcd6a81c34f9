//! Finds sessions with tool calls but without any result.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::agents::pass::{Agent, Gathered};

/// The sessions of an agent with tool calls but without any result.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    calls: BTreeMap<Vec<u8>, u64>,
    healed: HashSet<Vec<u8>>,
    warned: BTreeSet<Vec<u8>>,
}

impl Unanswered {
    /// Counts the calls and results of a pass.
    pub(super) fn add(&mut self, gathered: &Gathered) {
        let session = gathered.content_session.clone().or_else(|| gathered.session_id.clone());
        let Some(session) = session.filter(|_| gathered.read_turns > 0) else { return };
        if gathered.has_result_content {
            self.calls.remove(&session);
            self.healed.insert(session);
        } else if gathered.calls > 0 && !self.healed.contains(&session) {
            *self.calls.entry(session).or_default() += gathered.calls;
        }
    }

    /// Returns a warning of the sessions, if one of them is new.
    pub(super) fn warning(&mut self, agent: Agent) -> Option<String> {
        let sessions: BTreeSet<Vec<u8>> = self.calls.keys().cloned().collect();
        if sessions.is_subset(&self.warned) {
            return None;
        }
        let calls: u64 = self.calls.values().sum();
        let plural = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let warning = format!(
            "⚠ {}: {} logged tool calls without any observed tool_result content ({}).\n  \
             The tools may still run, or were ended before they answered.\n  \
             A later run takes the results as soon as the log has them; until then nothing\n  \
             is known of their size.",
            agent.as_str(),
            plural(sessions.len() as u64, "session"),
            plural(calls, "tool call")
        );
        self.warned = sessions;
        Some(warning)
    }
}

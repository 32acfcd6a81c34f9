//! Makes the records of a system line: compactions, and events of sub-agents that have ended.

use super::*;

impl Piece<'_> {
    pub(super) fn system(&mut self, state: &mut State<'_>, span: (u64, u64), line: &Line<'_>) {
        self.relationships(span.0, line);
        let mut made_record = self.notification(state, span, line.root);
        let subtype = js::any_text(line.root, "subtype");
        if let Some(session) = line.session.filter(|_| subtype == Some(b"compact_boundary")) {
            let preceding = self.last_message(state).map(|id| &*self.arena.alloc_slice_copy(id));
            let mut record = self.begin_record();
            record.text("sessionId", session);
            record.text("ts", line.timestamp.unwrap_or_default());
            record.maybe_text("precedingMessageId", preceding);
            let draft = self.keep_draft(record);
            self.compactions.push(Pending {
                at: span.0,
                len_bytes: span.1,
                draft,
                link: preceding,
                owner: None,
                notes: None,
            });
            made_record = true;
        }
        if !made_record {
            self.leave_out(span, Reason::UnknownType, || {
                let subtype = subtype.map(|name| js::to_utf8(name).into_owned());
                format!("type system, subtype {}", subtype.as_deref().unwrap_or("none"))
            });
        }
    }

    fn notification(&mut self, state: &State<'_>, (at, len_bytes): (u64, u64), line: Value<'_>) -> bool {
        let Some((session, id)) = notified(line) else { return false };
        let id = &*self.arena.alloc_slice_copy(id);
        let (call_index, event_index) = self.count_event(state, at, id);
        let status = status_of(line);
        let mut record = self.begin_record();
        record.text("sessionId", session);
        record.text("toolUseId", id);
        record.count("callIndex", call_index);
        record.count("eventIndex", event_index);
        record.text("status", status.as_bytes());
        record.text("eventSource", b"subagent_notification");
        record.maybe_text("ts", js::first_text(line, &["timestamp", "ts"]));
        record.maybe_text("agentId", js::first_text(line, &["agent_id", "agentId"]));
        record.maybe_text(
            "subagentSessionId",
            js::first_text(line, &["subagent_session_id", "subagentSessionId"]),
        );
        record.flag_if("isError", status == "errored");
        let content = ["content", "output", "result", "message"].iter().find_map(|key| line.get(key));
        measure::write_content_measures(measure::measured_text(content).as_deref(), &mut record);
        let draft = self.keep_draft(record);
        self.events.push(Pending { at, len_bytes, draft, link: None, owner: None, notes: None });
        true
    }
}

/// Returns the status of a notification, from its error flags, else from the first of its status words, else from its
/// success flag.
fn status_of(line: Value<'_>) -> &'static str {
    if js::is_true(line, "is_error") || js::is_true(line, "isError") {
        return "errored";
    }
    let word = js::first_text(line, &["status", "state", "result", "terminal_status", "terminalStatus"]);
    let by_word = word.and_then(status_of_word);
    by_word.unwrap_or_else(|| match line.get("success").and_then(Value::as_bool) {
        Some(true) => "completed",
        Some(false) => "errored",
        None => "unknown",
    })
}

/// The status that a word says, in upper or lower case, with `-` or white space in place of `_`.
fn status_of_word(word: &[u8]) -> Option<&'static str> {
    let word = js::to_utf8(word).to_lowercase().replace(|c: char| c == '-' || js::is_space(c), "_");
    Some(match &word[..] {
        "completed" | "complete" | "success" | "succeeded" | "done" => "completed",
        "error" | "errored" | "failed" | "failure" => "errored",
        "running" | "in_progress" | "queued" | "pending" | "started" => "running",
        "cancelled" | "canceled" | "aborted" => "cancelled",
        _ => return None,
    })
}

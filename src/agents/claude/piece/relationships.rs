//! Makes the relationships that the lines of a log state.

use super::*;

impl Piece<'_> {
    /// Adds the relationships of the lines before `end`.
    pub(super) fn add_relationships(
        &self,
        agents: &[Option<Rc<Invocation>>],
        from: u64,
        end: u64,
        state: &State<'_>,
        gathered: &mut Gathered,
    ) {
        let foreign = state.evidence.foreign.clone();
        let version = state.evidence.version.clone();
        let mut rows = RelationshipRows { log: self.log, foreign, version, rows: Vec::new() };
        for row in self.rows.iter().filter(|row| row.at < end) {
            rows.explicit(row);
        }
        let mut seen = HashSet::default();
        for (message, agent) in self.written(agents, end) {
            if let Some(agent) = agent.filter(|agent| seen.insert(&agent.agent_id)) {
                rows.subagent(message, agent);
            }
        }
        let marker_is_before =
            self.marker_at.map_or(state.evidence.marker.is_some(), |at| at < end || at < from);
        if marker_is_before && let Some(target) = &state.evidence.marker {
            rows.marker(target.as_deref(), state.evidence.first_ts.as_deref(), &self.explicit);
        }
        for row in rows.rows {
            let row = gathered.keep(&row);
            gathered.relationships.push(row);
        }
    }
}

/// Builds relationship records.
struct RelationshipRows<'r> {
    log: &'r Log<'r>,
    foreign: Option<Vec<u8>>,
    version: Option<Vec<u8>>,
    rows: Vec<Vec<u8>>,
}

impl RelationshipRows<'_> {
    fn explicit(&mut self, row: &PendingRow) {
        if row.kind == "root" && self.log.kind != LogKind::Session {
            return;
        }
        let mut record = RecordText::of("claude-code");
        record.text("sessionId", self.log.base_name);
        record.maybe_text("relatedSessionId", row.target.as_deref());
        record.text("relationshipType", row.kind.as_bytes());
        record.maybe_text("ts", row.ts.as_deref());
        record.maybe_text("sourceSessionId", row.source_session.as_deref());
        record.maybe_text("sourceVersion", row.source_version.as_deref());
        // Members that the line lacks come last.
        if row.source_session.is_none() {
            record.maybe_text("sourceSessionId", self.foreign.as_deref());
        }
        if row.source_version.is_none() {
            record.maybe_text("sourceVersion", self.version.as_deref());
        }
        self.rows.push(record.finish());
    }

    fn subagent(&mut self, message: &ClaudeMessage<'_>, agent: &Invocation) {
        let mut record = RecordText::of("native-claude");
        message.write_session("sessionId", &mut record);
        record.text("relationshipType", b"subagent");
        record.text("agentId", &agent.agent_id);
        match &agent.parent_agent_id {
            Some(parent) => record.text("relatedSessionId", parent),
            None => message.write_session("relatedSessionId", &mut record),
        }
        let tool = Some(&agent.parent_tool_use_id[..]).filter(|id| !id.is_empty());
        record.maybe_text("parentToolUseId", tool);
        record.maybe_text("subagentType", agent.subagent_type.as_deref());
        record.maybe_text("description", agent.description.as_deref());
        record.maybe_text("ts", message.ts);
        record.maybe_text("sourceSessionId", self.foreign.as_deref());
        record.maybe_text("sourceVersion", self.version.as_deref());
        self.rows.push(record.finish());
    }

    fn marker(
        &mut self,
        target: Option<&[u8]>,
        first_ts: Option<&[u8]>,
        explicit: &HashSet<(&'static str, Vec<u8>)>,
    ) {
        if target.is_some_and(|target| explicit.contains(&("continuation", target.to_vec()))) {
            return;
        }
        let mut record = RecordText::of("claude-code");
        record.text("sessionId", self.log.base_name);
        record.text("relationshipType", b"continuation");
        record.maybe_text("relatedSessionId", target);
        record.maybe_text("ts", first_ts);
        record.maybe_text("sourceSessionId", self.foreign.as_deref());
        record.maybe_text("sourceVersion", self.version.as_deref());
        self.rows.push(record.finish());
    }
}

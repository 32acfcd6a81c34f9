//! Collects the state that later lines need from the lines before a piece.

use super::*;
use crate::agents::fidelity::token_count;
use crate::agents::terms::branch_stamp;

impl State {
    /// Adds a line before the piece. Its records were written, so it makes no record.
    pub(in crate::agents::claude) fn pass_over(&mut self, line: Value<'_>, log: &Log<'_>) {
        if line.kind() != Kind::Object {
            return;
        }
        match js::any_text(line, "type") {
            Some(b"assistant") => {
                self.take_assistant(line, log);
                self.thread(line);
                let message = line.get("message");
                let Some(id) = message.and_then(|message| js::any_text(message, "id")) else { return };
                if !id.is_empty() {
                    self.last_message = Some(id.to_vec());
                }
                if log.options.as_reference {
                    return;
                }
                let usage = message.and_then(|message| message.get("usage"));
                let count = usage.map_or(0.0, |usage| token_count(usage, "cache_read_input_tokens"));
                let is_new = !self.known.contains_key(id);
                let known = self.known.entry(id.to_vec()).or_insert_with(|| KnownMessage {
                    cache_read: 0.0,
                    ts: super::super::message::as_is(line, "timestamp", log.options).into(),
                    session: js::text(line, "sessionId").map(Into::into),
                });
                known.cache_read = known.cache_read.max(count);
                let is_side = js::is_true(line, "isSidechain");
                if is_new
                    && is_side
                    && let Some(uuid) = js::text(line, "uuid")
                {
                    self.side_messages.push(Key::of(uuid));
                }
                let names_branch = is_new && !is_side && !id.is_empty();
                if names_branch && let Some((_, _, branch)) = branch_of(line) {
                    self.branch = Some(branch.to_vec());
                }
            }
            Some(b"user") => {
                let content = line.get("message").and_then(|message| message.get("content"));
                let text = plain_text(content);
                self.take_user(line, content, &text, log);
                if !text.is_empty() && !log.options.as_reference {
                    self.prompt = Some(Arc::from(&text[..]));
                }
                if js::text(line, "sessionId").is_none() {
                    return;
                }
                let results = content.into_iter().flat_map(Value::items);
                for result in results.filter(|block| js::any_text(*block, "type") == Some(b"tool_result")) {
                    if let Some(id) = js::text(result, "tool_use_id") {
                        *self.calls.entry(id.to_vec()).or_default() += 1;
                        self.events += 1;
                    }
                }
            }
            Some(b"system") => {
                self.take_other(line, log);
                if let Some((_, id)) = notified(line) {
                    *self.calls.entry(id.to_vec()).or_default() += 1;
                    self.events += 1;
                }
            }
            _ => self.take_other(line, log),
        }
    }

    /// Takes a line that is no message and no prompt.
    pub(super) fn take_other(&mut self, line: Value<'_>, log: &Log<'_>) {
        if !log.options.as_reference {
            self.evidence.take_other(line);
        }
    }

    pub(super) fn take_assistant(&mut self, line: Value<'_>, log: &Log<'_>) {
        self.evidence.take(line, log.base_name);
        if let Some(uuid) = js::text(line, "uuid") {
            let content = line.get("message").and_then(|message| message.get("content"));
            self.graph.add_assistant(
                uuid,
                js::text(line, "parentUuid"),
                js::is_true(line, "isSidechain"),
                content,
                !log.options.as_reference,
            );
        }
    }

    pub(super) fn take_user(
        &mut self,
        line: Value<'_>,
        content: Option<Value<'_>>,
        text: &[u8],
        log: &Log<'_>,
    ) {
        self.evidence.take(line, log.base_name);
        self.evidence.take_user(line, text, log.path, log.options.as_reference);
        let is_side = js::is_true(line, "isSidechain");
        if let Some(uuid) = js::text(line, "uuid") {
            self.graph.add_user(uuid, js::text(line, "parentUuid"), is_side, content, text);
        }
        if is_side {
            self.thread(line);
        }
    }

    /// The stamp of the branch of a message, if the branch differs from the branch of the message before.
    pub(super) fn branch_stamp(&mut self, message: &ClaudeMessage) -> Option<Vec<u8>> {
        let (session, ts, branch) = message.branch()?;
        if self.branch.as_deref() == Some(branch) {
            return None;
        }
        let is_first = self.branch.replace(branch.to_vec()).is_none();
        Some(branch_stamp(session, ts, branch, is_first))
    }

    /// Finds the agents of the messages on side chains. A message whose agent was found before is not looked at again,
    /// because the time would grow with the square of the log otherwise.
    pub(super) fn find_agents(&mut self, answers: &mut Answers) {
        let mut waiting = std::mem::take(&mut self.without_agent);
        waiting.extend_from_slice(&self.side_messages[self.looked_at..]);
        self.looked_at = self.side_messages.len();
        for uuid in waiting {
            match self.graph.invocation(&uuid, answers) {
                Some(agent) => {
                    self.agents.entry(agent.parent_tool_use_id).or_insert(agent.agent_id);
                }
                None => self.without_agent.push(uuid),
            }
        }
    }

    /// Returns the thread of a line.
    pub(super) fn thread(&mut self, line: Value<'_>) -> Thread {
        if !js::is_true(line, "isSidechain") {
            return Thread::Main;
        }
        if let Some(agent) = js::text(line, "agentId") {
            return Thread::Agent(agent.to_vec());
        }
        let uuid = js::text(line, "uuid").map(Key::of);
        let parent = js::text(line, "parentUuid").map(Key::of);
        let first = parent.and_then(|parent| self.chains.get(&parent).cloned()).or(uuid.clone());
        if let (Some(uuid), Some(first)) = (uuid, &first) {
            self.chains.insert(uuid, first.clone());
        }
        Thread::SideChain(first)
    }
}

/// The session, the time and the branch of a line that names all three.
fn branch_of(line: Value<'_>) -> Option<(&[u8], &[u8], &[u8])> {
    Some((js::text(line, "sessionId")?, js::text(line, "timestamp")?, js::text(line, "gitBranch")?))
}

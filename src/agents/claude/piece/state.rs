//! Collects the state that later lines need from the lines before a piece.

use super::*;
use crate::agents::fidelity::token_count;
use crate::agents::terms::branch_stamp;

impl<'t> State<'t> {
    /// The state before the first line. Its texts are put into the given memory.
    pub(in crate::agents::claude) fn new(texts: &'t Bump) -> Self {
        State {
            texts,
            graph: Graph::default(),
            evidence: Evidence::default(),
            calls: HashMap::default(),
            events: 0,
            last_message: None,
            prompt: None,
            known: HashMap::default(),
            session: None,
            side_messages: Vec::new(),
            agents: HashMap::default(),
            looked_at: 0,
            without_agent: Vec::new(),
            chains: HashMap::default(),
            marker_is_held: false,
            branches: BTreeMap::new(),
        }
    }

    /// Takes the state, and leaves the state before the first line.
    pub(in crate::agents::claude) fn take(&mut self) -> Self {
        std::mem::replace(self, State::new(self.texts))
    }

    /// The memory of the texts.
    pub(in crate::agents::claude) fn texts(&self) -> &'t Bump {
        self.texts
    }

    fn kept(&self, text: &[u8]) -> &'t [u8] {
        self.texts.alloc_slice_copy(text)
    }

    /// Counts an event of a tool use id.
    pub(super) fn count_event(&mut self, id: &[u8]) {
        match self.calls.get_mut(id) {
            Some(count) => *count += 1,
            None => drop(self.calls.insert(self.kept(id), 1)),
        }
        self.events += 1;
    }

    /// Adds a message, or the further lines of a message.
    pub(super) fn add_known(&mut self, id: &[u8], cache_read: f64, ts: &[u8], session: Option<&[u8]>) {
        if session != self.session {
            self.session = session.map(|session| self.kept(session));
        }
        let known = KnownMessage { cache_read, ts: self.kept(ts), session: self.session };
        self.known.insert(self.kept(id), known);
    }

    /// Adds a line before the piece. Its records were written, so it makes no record.
    pub(in crate::agents::claude) fn pass_over(&mut self, line: Value<'_>, log: &Log<'_>) {
        let Some(line) = Line::of(line) else { return };
        match line.kind {
            Some(b"assistant") => self.pass_over_assistant(&line, log),
            Some(b"user") => {
                let text = plain_text(line.content);
                self.take_user(&line, &text, log);
                if !text.is_empty() && !log.options.as_reference {
                    self.prompt = Some(Arc::from(&text[..]));
                }
                if line.session.is_none() {
                    return;
                }
                let results = line.content.into_iter().flat_map(Value::items);
                for result in results.filter(|block| js::any_text(*block, "type") == Some(b"tool_result")) {
                    if let Some(id) = js::text(result, "tool_use_id") {
                        self.count_event(id);
                    }
                }
            }
            Some(b"system") => {
                self.take_other(&line, log);
                if let Some((_, id)) = notified(line.root) {
                    self.count_event(id);
                }
            }
            _ => self.take_other(&line, log),
        }
    }

    fn pass_over_assistant(&mut self, line: &Line<'_>, log: &Log<'_>) {
        self.take_assistant(line, log);
        self.chain(line);
        let Some(id) = line.message.and_then(|message| js::any_text(message, "id")) else { return };
        if !id.is_empty() {
            self.last_message = Some(id.to_vec());
        }
        if log.options.as_reference {
            return;
        }
        let usage = line.message.and_then(|message| message.get("usage"));
        let count = usage.map_or(0.0, |usage| token_count(usage, "cache_read_input_tokens"));
        let is_new = !self.known.contains_key(id);
        match self.known.get_mut(id) {
            Some(known) => known.cache_read = known.cache_read.max(count),
            None => {
                self.add_known(id, 0_f64.max(count), line.timestamp.unwrap_or_default(), line.session);
            }
        }
        if is_new && line.is_side {
            self.side_messages.extend(line.uuid.map(|uuid| Key::of(uuid).kept(self.texts)));
        }
        let names_branch = is_new && !line.is_side && !id.is_empty();
        if let (Some(session), Some(branch)) = (line.session, line.branch)
            && names_branch
            && line.timestamp.is_some()
        {
            self.branches.insert(session.to_vec(), branch.to_vec());
        }
    }

    /// Takes a line that is no message and no prompt.
    pub(super) fn take_other(&mut self, line: &Line<'_>, log: &Log<'_>) {
        if !log.options.as_reference {
            self.evidence.take_other(line);
        }
    }

    pub(super) fn take_assistant(&mut self, line: &Line<'_>, log: &Log<'_>) {
        self.evidence.take(line, log.base_name);
        if line.uuid.is_some() {
            let every_spawn = !log.options.as_reference;
            self.graph.add_assistant(self.texts, line, every_spawn);
        }
    }

    pub(super) fn take_user(&mut self, line: &Line<'_>, text: &[u8], log: &Log<'_>) {
        self.evidence.take(line, log.base_name);
        self.evidence.take_user(line, text, log.path, log.options.as_reference);
        if line.uuid.is_some() {
            self.graph.add_user(self.texts, line, text);
        }
        self.chain(line);
    }

    /// The stamp of the branch of a message, if the branch differs from that of the session's message before. A log may begin with
    /// lines of another session.
    pub(super) fn branch_stamp(&mut self, message: &ClaudeMessage<'_>) -> Option<Vec<u8>> {
        let (session, ts, branch) = message.branch()?;
        let before = self.branches.get(session);
        if before.is_some_and(|before| before == branch) {
            return None;
        }
        let is_first = before.is_none();
        self.branches.insert(session.to_vec(), branch.to_vec());
        Some(branch_stamp(session, ts, branch, is_first))
    }

    /// Finds the agents of the messages on side chains. A message whose agent was found before is not looked at again,
    /// because the time would grow with the square of the log otherwise.
    pub(super) fn find_agents(&mut self, answers: &mut Answers<'t>) {
        let mut waiting = std::mem::take(&mut self.without_agent);
        waiting.extend_from_slice(&self.side_messages[self.looked_at..]);
        self.looked_at = self.side_messages.len();
        for uuid in waiting {
            match self.graph.invocation(uuid, answers) {
                Some(agent) => {
                    let call = agent.parent_tool_use_id.clone();
                    self.agents.entry(call).or_insert_with(|| agent.agent_id.clone());
                }
                None => self.without_agent.push(uuid),
            }
        }
    }

    /// Notes to which side chain a line belongs, and returns the first line of the chain. None for the main thread, and for an
    /// agent that the line names.
    pub(super) fn chain(&mut self, line: &Line<'_>) -> Option<Key<'t>> {
        if !line.is_side || line.agent_id.is_some() {
            return None;
        }
        let uuid = line.uuid.map(|uuid| Key::of(uuid).kept(self.texts));
        let parent = line.parent_uuid.map(Key::of);
        let first = parent.and_then(|parent| self.chains.get(&parent).copied()).or(uuid);
        if let (Some(uuid), Some(first)) = (uuid, first) {
            self.chains.insert(uuid, first);
        }
        first
    }
}

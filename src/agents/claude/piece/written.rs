//! Decides at the end of a piece which records are written, and completes them.

use super::*;

impl<'p> Piece<'p> {
    /// The offset up to which records are written. Later lines may still change.
    fn end(&self, whole: u64, waiting: PieceEnd) -> u64 {
        let first_of = |is_open: &dyn Fn(&ClaudeMessage<'_>) -> bool| {
            self.messages.iter().filter(|message| is_open(message)).map(|message| message.at).min()
        };
        if self.log.options.as_reference {
            return first_of(&|message| message.stop_reason.is_none()).unwrap_or(whole);
        }
        if waiting == PieceEnd::Nothing {
            return whole;
        }
        let is_done = |message: &ClaudeMessage<'_>| {
            waiting == PieceEnd::ForPrompts
                && message.unanswered.is_empty()
                && message.stop_reason.is_some_and(|reason| reason != b"tool_use")
        };
        let message = first_of(&|message| !message.is_closed && !is_done(message));
        let user_turn = self.unlinked.map(|unlinked| self.user_turns[unlinked].at);
        let mut end = message.into_iter().chain(user_turn).min().unwrap_or(whole).min(whole);
        // A prompt waits for its answer, because the answer shows whether another session has both already.
        for user_turn in self.user_turns.iter().rev().filter(|user_turn| user_turn.owner.is_some()) {
            let owner = user_turn.owner.map(|owner| &self.messages[owner as usize]);
            if user_turn.at < end && owner.is_some_and(|owner| owner.at >= end) {
                end = user_turn.at;
            }
        }
        end
    }

    /// Returns the records up to the first line that may still change, and the offset of that line. `whole` is the end
    /// of the last complete line. If the piece is not the last, the next piece begins at that offset and names the lines after
    /// it.
    pub(in crate::agents::claude) fn finish<'t>(
        mut self,
        state: &mut State<'t>,
        from: u64,
        whole: u64,
        waiting: PieceEnd,
        is_last: bool,
    ) -> Result<(Gathered, u64), AgentsError> {
        let end = self.end(whole, waiting);
        let mut answers = Answers::default();
        let agents: Vec<Option<Rc<Invocation>>> =
            self.messages.iter().map(|message| self.agent_of(message, state, &mut answers)).collect();
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.turns.reserve(self.messages.len());
        gathered.tool_result_events.reserve(self.events.len());
        gathered.user_turns.reserve(self.user_turns.len());
        self.add_turns(&agents, end, state, &mut gathered)?;
        self.add_compactions(end, state, &mut gathered);
        self.add_events(&agents, end, state, &mut answers, &mut gathered);
        self.add_content(end, &mut gathered);
        for pending in std::mem::take(&mut self.user_turns).into_iter().filter(|pending| pending.at < end) {
            let following = pending.link;
            gathered.user_turns.push(pending.finish(&mut gathered.texts, |record| {
                record.maybe_text("followingMessageId", following);
            }));
        }
        self.add_relationships(&agents, from, end, state, &mut gathered);
        let first = self.messages.iter().find(|message| self.log.is_written(message, end));
        gathered.content_session = first.and_then(|message| message.session.map(<[u8]>::to_vec));
        for line in self.left_out.drain(..).filter(|line| is_last || line.offset < end) {
            gathered.left_out.push(self.log.options, line);
        }
        self.pass_on(end, state);
        Ok((gathered, end))
    }

    /// The messages whose turns are written, each with the agent of its side chain.
    pub(super) fn written<'s>(
        &'s self,
        agents: &'s [Option<Rc<Invocation>>],
        end: u64,
    ) -> impl Iterator<Item = (&'s ClaudeMessage<'p>, Option<&'s Invocation>)> {
        let all = self.messages.iter().zip(agents.iter().map(Option::as_deref));
        all.filter(move |(message, _)| self.log.is_written(message, end))
    }

    fn add_turns(
        &mut self,
        agents: &[Option<Rc<Invocation>>],
        end: u64,
        state: &mut State<'_>,
        gathered: &mut Gathered,
    ) -> Result<(), AgentsError> {
        let log = self.log;
        let options = log.options;
        let path = log.path.to_string_lossy();
        let before = if options.as_reference { 0 } else { state.known.len() };
        let mut left_out = Vec::new();
        for (index, (message, agent)) in self.messages.iter_mut().zip(agents).enumerate() {
            message.take_results(&self.results);
            let message = &*message;
            let mut leave_out = |reason, detail: &str| {
                let place = (message.at, message.len_bytes);
                left_out.push((place, reason, format!("message {} {detail}", js::to_utf8(message.id))));
            };
            if !log.is_written(message, end) {
                gathered.open_messages += 1;
                leave_out(Reason::OpenMessage, "is not complete");
                continue;
            }
            let mut push = |message: &ClaudeMessage<'_>, branch| {
                let mut text = RecordText::after(std::mem::take(&mut gathered.texts), "claude-code");
                message
                    .write_turn(&mut text, before + index, path.as_bytes(), agent.as_deref(), log.projects)
                    .map_err(|given_up| given_up.at(log.path))?;
                let (texts, text) = text.finish_in();
                gathered.texts = texts;
                gathered.turns.push(PassRecord {
                    owner: Some(index as u32),
                    notes: message.notes(&mut self.hasher),
                    line: Some((message.at, message.len_bytes)),
                    stamp: if options.as_reference { None } else { message.stamp() },
                    branch,
                    ..PassRecord::at(text)
                });
                Ok::<_, AgentsError>(())
            };
            push(message, if options.as_reference { None } else { state.branch_stamp(message) })?;
            let mut invalid = message.counts.usage().invalid_counts();
            for advisor in message.of_advisors() {
                push(&advisor, None)?;
                invalid.extend(advisor.counts.usage().invalid_counts());
            }
            gathered.calls += message.calls.len() as u64;
            if !message.has_usage {
                leave_out(Reason::NoUsage, "has no usage; its turn has no tokens");
            } else if !invalid.is_empty() {
                leave_out(Reason::InvalidCount, &format!("has no count of {}", invalid.join(", ")));
            }
        }
        for (place, reason, detail) in left_out {
            self.leave_out(place, reason, || detail);
        }
        gathered.read_turns = gathered.turns.len() as u64;
        Ok(())
    }

    fn add_compactions(&mut self, end: u64, state: &State<'_>, gathered: &mut Gathered) {
        for pending in std::mem::take(&mut self.compactions).into_iter().filter(|pending| pending.at < end) {
            let count = pending.link.and_then(|id| self.cache_read_of(id, end, state));
            gathered.compactions.push(pending.finish(&mut gathered.texts, |record| {
                if let Some(count) = count {
                    record.raw("tokensBeforeCompact", &count);
                }
            }));
        }
    }

    /// The tokens that a written message read from the cache, as JSON text.
    fn cache_read_of(&self, id: &[u8], end: u64, state: &State<'_>) -> Option<Vec<u8>> {
        let options = self.log.options;
        let message = self.by_id.get(id).map(|index| &self.messages[*index]);
        if let Some(message) = message.filter(|message| self.log.is_written(message, end)) {
            return Some(message.cache_read_json());
        }
        let known = state.known.get(id).filter(|_| !options.as_reference)?;
        let mut out = Vec::new();
        js::write_number(known.cache_read, &mut out);
        Some(out)
    }

    /// Adds the events, each with the agent that its tool use spawned: in this piece, else in the lines before it.
    fn add_events<'t>(
        &mut self,
        agents: &[Option<Rc<Invocation>>],
        end: u64,
        state: &mut State<'t>,
        answers: &mut Answers<'t>,
        gathered: &mut Gathered,
    ) {
        let events = std::mem::take(&mut self.events);
        let mut by_tool: HashMap<&[u8], &[u8]> = HashMap::default();
        for (message, agent) in self.written(agents, end) {
            if let Some(agent) = agent.filter(|_| message.is_side) {
                by_tool.entry(&agent.parent_tool_use_id).or_insert(&agent.agent_id);
            }
        }
        // Most results answer no call that spawns an agent, and then the agents before the piece are not needed.
        let is_of_agent = |event: &Pending<'_>| event.link.is_some_and(|id| state.graph.is_spawn(id));
        if !self.log.options.as_reference && events.iter().any(is_of_agent) {
            state.find_agents(answers);
        }
        for pending in events.into_iter().filter(|pending| pending.at < end) {
            let agent = pending
                .link
                .and_then(|id| by_tool.get(id).copied().or_else(|| state.agents.get(id).map(Vec::as_slice)));
            gathered.tool_result_events.push(pending.finish(&mut gathered.texts, |record| {
                record.maybe_text("agentId", agent);
            }));
        }
    }

    fn add_content(&mut self, end: u64, gathered: &mut Gathered) {
        let mut content = std::mem::take(&mut self.content);
        content.sort_by_key(|pending| pending.at);
        for pending in content.into_iter().filter(|pending| pending.at < end) {
            let message = pending.message.map(|index| &self.messages[index as usize]);
            if message.is_none_or(|message| self.log.is_written(message, end)) {
                let owner = pending.user_turn.and_then(|turn| self.user_turns[turn].owner);
                let (line, owner) = (Some((pending.at, 0)), pending.message.or(owner));
                gathered.content.push(PassRecord { line, owner, ..PassRecord::at(pending.text) });
            }
        }
    }

    /// Brings the state to the lines before `end`.
    fn pass_on(self, end: u64, state: &mut State<'_>) {
        state.marker_is_held = self.marker_at.is_some_and(|at| at >= end);
        for (at, id) in self.event_calls {
            if at < end {
                state.count_event(id);
            }
        }
        if let Some((_, id)) = self.last_messages.into_iter().rfind(|(at, _)| *at < end) {
            state.last_message = Some(id.to_vec());
        }
        let prompt = match self.log.options.as_reference {
            true => self.prompts.last(),
            false => self.prompts.iter().rfind(|(at, _)| *at < end),
        };
        if let Some((_, prompt)) = prompt {
            state.prompt = Some(prompt.clone());
        }
        for message in self.messages.into_iter().filter(|message| message.at < end) {
            let uuid = message.uuid.filter(|_| message.is_side);
            state.side_messages.extend(uuid.map(|uuid| uuid.kept(state.texts)));
            let (cache_read, ts) =
                (message.counts.usage().or_zero().cache_read, message.ts.unwrap_or_default());
            state.add_known(message.id, cache_read, ts, message.session);
        }
    }

    /// The agent of a message on a side chain.
    fn agent_of<'t>(
        &self,
        message: &ClaudeMessage<'_>,
        state: &State<'t>,
        answers: &mut Answers<'t>,
    ) -> Option<Rc<Invocation>> {
        if !message.is_side {
            return None;
        }
        let uuid = message.uuid.map(|uuid| uuid.kept(state.texts));
        let invocation = uuid.and_then(|uuid| state.graph.invocation(uuid, answers));
        if invocation.is_some() || self.log.options.as_reference {
            return invocation;
        }
        Some(Rc::new(Invocation {
            agent_id: message.agent_id?.to_vec(),
            parent_tool_use_id: Vec::new(),
            subagent_type: self.log.agent.kind.clone(),
            description: self.log.agent.description.clone(),
            parent_agent_id: None,
        }))
    }
}

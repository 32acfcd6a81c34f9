//! Makes the content records of an assistant line, and adds the line to its message.

use super::*;

impl<'p> Piece<'p> {
    pub(super) fn assistant<'t: 'p>(&mut self, state: &mut State<'t>, at: (u64, u64), line: &Line<'_>) {
        let (options, arena) = (self.log.options, self.arena);
        let keeps_content = options.content == ContentMode::Full;
        state.take_assistant(line, self.log);
        self.relationships(at.0, line);
        let chain = state.chain(line);
        let thread = match line.agent_id {
            _ if !line.is_side => Thread::Main,
            Some(agent) => Thread::Agent(arena.alloc_slice_copy(agent)),
            None => Thread::SideChain(chain),
        };
        let Some(id) = line.message.and_then(|message| js::any_text(message, "id")) else {
            self.leave_out(at, Reason::NotARecord, || "an assistant line without message.id".into());
            return;
        };
        let id = match self.last_messages.last() {
            Some((_, last)) if *last == id => *last,
            _ => &*arena.alloc_slice_copy(id),
        };
        if !id.is_empty() {
            self.last_messages.push((at.0, id));
        }
        if !options.as_reference
            && let Some(known) = state.known.get(id)
        {
            // The turn is written and cannot change; only the content of the line is kept.
            if let Some(session) = known.session.filter(|_| keeps_content) {
                self.message_content((at.0, None), (session, id), &js::string(known.ts), line.content);
            }
            self.leave_out(at, Reason::Duplicate, || {
                format!("message {} is in the ledger already", js::to_utf8(id))
            });
            return;
        }
        let index = match self.by_id.get(id) {
            Some(index) => *index,
            None => {
                let index = self.messages.len();
                let is_linked = !id.is_empty();
                if is_linked && let Some(unlinked) = self.unlinked.take() {
                    self.user_turns[unlinked].link = Some(id);
                    self.user_turns[unlinked].owner = Some(index as u32);
                }
                self.open.retain(|earlier| {
                    let earlier = &mut self.messages[*earlier];
                    // An agent inside its caller's log has ended when the caller goes on.
                    let is_within = matches!(earlier.thread, Thread::SideChain(_)) && thread == Thread::Main;
                    earlier.is_closed = earlier.thread == thread || is_within;
                    !earlier.is_closed
                });
                self.open.push(index);
                let prompt = self.prompts.last().map(|(_, prompt)| prompt).or(state.prompt.as_ref());
                let prompt = prompt.cloned();
                self.messages.push(ClaudeMessage::begin(arena, id, at, line, thread, prompt, options));
                self.by_id.insert(id, index);
                index
            }
        };
        if self.messages[index].lines > 0 {
            self.leave_out(at, Reason::Duplicate, || {
                format!("a further line of message {}", js::to_utf8(id))
            });
        }
        let calls = self.messages[index].calls.len();
        self.messages[index].add(arena, line);
        for call in &self.messages[index].calls[calls..] {
            self.tool_owner.insert(call.id, index as u32);
        }
        let owner = &self.messages[index];
        if let Some(session) = owner.session.filter(|_| keeps_content && !id.is_empty()) {
            let (at, ts) = (owner.at, owner.ts_json());
            self.message_content((at, Some(index as u32)), (session, id), &ts, line.content);
        }
    }

    /// Adds the content records of a line of a message. `ts` is JSON text.
    fn message_content(
        &mut self,
        (at, message): (u64, Option<u32>),
        (session, id): (&[u8], &[u8]),
        ts: &[u8],
        content: Option<Value<'_>>,
    ) {
        let mut add = |kind: &[u8], write: &dyn Fn(&mut RecordText)| {
            let mut record = self.begin_record();
            record.text("sessionId", session);
            record.text("messageId", id);
            record.raw("ts", ts);
            record.text("role", b"assistant");
            record.text("kind", kind);
            write(&mut record);
            self.keep_content(at, message, None, record);
        };
        for block in content.into_iter().flat_map(Value::items) {
            match js::any_text(block, "type") {
                Some(kind @ (b"text" | b"thinking")) => {
                    let key = if kind == b"text" { "text" } else { "thinking" };
                    if let Some(text) = js::text(block, key) {
                        add(kind, &|record| record.text("text", text));
                    }
                }
                Some(kind @ b"tool_use") => {
                    let (Some(id), Some(name)) = (js::any_text(block, "id"), js::any_text(block, "name"))
                    else {
                        continue;
                    };
                    add(kind, &|record| {
                        record.object("toolUse", |call| {
                            call.text("id", id);
                            call.text("name", name);
                            match js::present(block, "input") {
                                Some(input) => call.value("input", input),
                                None => call.raw("input", b"{}"),
                            }
                        });
                    });
                }
                _ => {}
            }
        }
    }
}

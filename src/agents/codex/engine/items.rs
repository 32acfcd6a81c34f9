//! Handles the items of a response: messages, tool calls, tool results, and notifications of sub-agents.

use super::*;

impl Engine<'_> {
    /// Returns whether the item has something to keep.
    pub(super) fn response_item(&mut self, line: &RolloutLine<'_>) -> Result<bool, GivenUp> {
        let payload = line.payload;
        match line.payload_kind {
            b"message" => return self.message(line),
            b"function_call" | b"custom_tool_call" | b"local_shell_call" | b"web_search_call" => {
                self.close_gap_before();
            }
            _ => {}
        }
        match line.payload_kind {
            b"function_call_output" | b"custom_tool_call_output" => {
                let Some(call) = js::any_text(payload, "call_id") else { return Ok(false) };
                self.result(call, line)?;
            }
            b"reasoning" => {
                let text = parts::reasoning_text(payload);
                if self.open.is_none() || text.is_empty() {
                    return Ok(false);
                }
                self.add_content(line, "assistant", "thinking", ("text", text));
            }
            kind @ (b"function_call" | b"custom_tool_call" | b"local_shell_call" | b"web_search_call") => {
                self.has_activity = true;
                let as_reference = self.rules.as_reference;
                if self.open.is_none() {
                    return Ok(false);
                }
                let call = match kind {
                    b"function_call" => parts::function_call(payload, as_reference),
                    b"custom_tool_call" => parts::custom_call(payload, as_reference)?,
                    _ if as_reference => None,
                    kind => parts::builtin_call(payload, kind),
                };
                let Some(call) = call else { return Ok(false) };
                self.call(call, line);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn message(&mut self, line: &RolloutLine<'_>) -> Result<bool, GivenUp> {
        let is_user = match js::any_text(line.payload, "role") {
            Some(b"user") => true,
            Some(b"assistant") => false,
            _ => return Ok(false),
        };
        let (text, prompt) = parts::message_texts(line.payload, is_user);
        if text.is_empty() {
            return Ok(false);
        }
        if self.rules.has_no_turn_lines && is_user && (self.open.is_none() || self.is_behind_answer) {
            let id = format!("@{}", self.legacy_turns).into_bytes();
            self.legacy_turns += 1;
            self.start_turn(id, line)?;
        }
        if !is_user {
            self.close_gap_before();
            self.has_activity = true;
            self.is_behind_answer = true;
            let Some(turn) = &mut self.open else { return Ok(false) };
            js::add_line(&mut turn.answer, &text);
        } else {
            let words = if self.rules.as_reference { &text } else { &prompt };
            match &mut self.open {
                Some(turn) => js::add_line(&mut turn.prompt, words),
                None => js::add_line(&mut self.pending_prompt, words),
            }
            self.add_block(None, &text, line)?;
        }
        self.add_content(line, if is_user { "user" } else { "assistant" }, "text", ("text", text));
        Ok(true)
    }

    fn add_block(&mut self, call: Option<&[u8]>, text: &[u8], line: &RolloutLine<'_>) -> Result<(), GivenUp> {
        if self.rules.as_reference && measure::has_special_token(text) {
            return Err(GivenUp("a text with a special token"));
        }
        if self.is_in_replay() {
            return Ok(());
        }
        let block = Block {
            call: call.map(<[u8]>::to_vec),
            byte_len: text.len(),
            tokens: line.tokens_of(text),
            is_error: false,
            raw: None,
        };
        let before = self.open.as_mut().and_then(|turn| turn.before.as_mut()).filter(|_| call.is_none());
        before.unwrap_or(&mut self.now.gap).add(block, line.stamp);
        Ok(())
    }

    fn add_content(
        &mut self,
        line: &RolloutLine<'_>,
        role: &'static str,
        kind: &'static str,
        body: (&'static str, Vec<u8>),
    ) {
        if self.rules.content != ContentMode::Full || self.is_in_replay() {
            return;
        }
        let content =
            ContentLine { session: self.now.session.clone(), ts: line.stamp.to_vec(), role, kind, body };
        match &mut self.open {
            Some(turn) => turn.content.push(content),
            None => self.pending_content.push(content),
        }
    }

    fn call(&mut self, parsed: RolloutCall, line: &RolloutLine<'_>) {
        let RolloutCall { call, input, spawn } = parsed;
        let mut use_ = RecordText::default();
        use_.text("id", &call.id);
        use_.text("name", &call.name);
        use_.raw("input", &input);
        let Some(turn) = &mut self.open else { return };
        if !turn.call_ids.insert(call.id.clone()) {
            return;
        }
        let id = call.id.clone();
        turn.calls.push(call);
        if let Some(mut spawn) = spawn {
            spawn.ts = line.stamp.to_vec();
            turn.spawned.insert(id.clone(), spawn);
        }
        self.add_content(line, "assistant", "tool_use", ("toolUse", use_.finish()));
        self.add_spawn_row(&id, line);
    }

    /// Adds the relationship of a spawned agent once its id is known.
    fn add_spawn_row(&mut self, call: &[u8], line: &RolloutLine<'_>) {
        let Some(turn) = &mut self.open else { return };
        let Some(spawn) = turn.spawned.get_mut(call) else { return };
        let Some(id) = spawn.id.clone().filter(|_| !spawn.has_row) else { return };
        spawn.has_row = true;
        let mut row = RecordText::of("codex");
        row.text("sessionId", &id);
        row.text("relationshipType", b"subagent");
        row.text("relatedSessionId", &self.now.session);
        row.text("parentToolUseId", call);
        row.text("agentId", &id);
        row.maybe_text("subagentType", spawn.kind.as_deref());
        row.maybe_text("description", spawn.description.as_deref());
        let ts = if line.stamp.is_empty() { &spawn.ts } else { line.stamp };
        row.maybe_text("ts", Some(ts).filter(|ts| !ts.is_empty()));
        turn.rows.push(row.finish());
    }

    fn count_result(&mut self, call: &[u8]) -> (usize, usize) {
        let counter = self.counter_of.entry(call.to_vec()).or_default();
        let call_index = *counter;
        *counter += 1;
        self.counted.push(call.to_vec());
        self.now.counted = self.counted.len();
        let event_index = self.now.next_event;
        self.now.next_event += 1;
        (call_index, event_index)
    }

    fn result(&mut self, call: &[u8], line: &RolloutLine<'_>) -> Result<(), GivenUp> {
        if self.is_in_replay() {
            return Ok(());
        }
        self.close_gap_before();
        let output = line.payload.get("output");
        let measured = measure::measured_text(output);
        self.add_block(Some(call), measured.as_deref().unwrap_or_default(), line)?;
        let (call_index, event_index) = self.count_result(call);
        let mut agent = None;
        if let Some(turn) = &mut self.open {
            if !self.rules.as_reference && parts::output_failed(output) {
                turn.failed.insert(call.to_vec());
            }
            if let Some(spawn) = turn.spawned.get_mut(call) {
                agent = parts::agent_id_of_output(output);
                spawn.id = agent.clone().or(spawn.id.take());
            }
        }
        let has_failed = self.open.as_ref().is_some_and(|turn| turn.failed.contains(call));
        self.add_event(RolloutEvent {
            call: call.to_vec(),
            call_index,
            event_index,
            status: if has_failed { "errored" } else { "unknown" },
            source: "function_call_output",
            message: self.open.as_ref().map(|turn| turn.id.clone()),
            ts: line.stamp.to_vec(),
            is_error: has_failed,
            is_settled_error: false,
            measures: measured.as_deref().map(|text| (js::utf16_len(text), measure::hash16(text))),
            agent,
        });
        self.add_spawn_row(call, line);
        let mut result = RecordText::default();
        result.text("toolUseId", call);
        match output.filter(|output| !output.is_null()) {
            Some(output) => result.value("content", output),
            None => result.text("content", b""),
        }
        self.add_content(line, "tool_result", "tool_result", ("toolResult", result.finish()));
        Ok(())
    }

    pub(super) fn notification(&mut self, call: &[u8], line: &RolloutLine<'_>) {
        if self.is_in_replay() {
            return;
        }
        let payload = line.payload;
        let (call_index, event_index) = self.count_result(call);
        let word =
            js::any_text(payload, "status").map(|word| js::to_utf8(word).to_lowercase()).unwrap_or_default();
        let status = match payload.get("success").and_then(Value::as_bool) {
            Some(false) => "errored",
            Some(true) => "completed",
            None => match &word[..] {
                "errored" | "failed" | "error" => "errored",
                "cancelled" | "canceled" => "cancelled",
                _ => "completed",
            },
        };
        let agent = parts::agent_id(payload);
        if let Some(spawn) = self.open.as_mut().and_then(|turn| turn.spawned.get_mut(call)) {
            spawn.id = spawn.id.take().or_else(|| agent.clone());
        }
        self.add_event(RolloutEvent {
            call: call.to_vec(),
            call_index,
            event_index,
            status,
            source: "subagent_notification",
            message: self.open.as_ref().map(|turn| turn.id.clone()),
            ts: line.stamp.to_vec(),
            is_error: status == "errored",
            is_settled_error: false,
            measures: None,
            agent,
        });
        self.add_spawn_row(call, line);
    }

    fn add_event(&mut self, event: RolloutEvent) {
        match &mut self.open {
            Some(turn) => turn.events.push(event),
            None => {
                self.events.push(Made { what: event, at: 0 });
                self.now.events = self.events.len();
            }
        }
    }
}

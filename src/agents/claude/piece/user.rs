//! Makes the records of a user line: its user turn, the events of its results, and their content.

use std::borrow::Cow;

use super::*;
use crate::agents::measure::UserBlock;

/// A tool result of a user line, read once for the event, the user turn and the content made from it.
struct UserResult<'d> {
    /// The tool use id, which may be empty.
    call: Option<&'d [u8]>,
    is_error: bool,
    replacement: Option<Replacement>,
    /// The measured text of the content.
    text: Option<Cow<'d, [u8]>>,
}

impl<'d> UserResult<'d> {
    /// The block as a result; none if the block is something else.
    fn of(block: Value<'d>) -> Option<Self> {
        (js::any_text(block, "type") == Some(b"tool_result")).then(|| UserResult {
            call: js::any_text(block, "tool_use_id"),
            is_error: js::is_true(block, "is_error"),
            replacement: Replacement::of_result(block),
            text: measure::measured_text(block.get("content")),
        })
    }
}

impl Piece<'_> {
    pub(super) fn user(
        &mut self,
        state: &mut State<'_>,
        span: (u64, u64),
        line: &Line<'_>,
    ) -> Result<(), AgentsError> {
        let (log, arena) = (self.log, self.arena);
        let content = line.content;
        let text = plain_text(content);
        let marker_was = state.evidence.marker.is_some();
        state.take_user(line, &text, log);
        if !marker_was && state.evidence.marker.is_some() {
            self.marker_at = Some(span.0);
        }
        self.relationships(span.0, line);
        let results: Vec<_> = content.into_iter().flat_map(Value::items).filter_map(UserResult::of).collect();
        for result in &results {
            let Some(id) = result.call else { continue };
            if result.is_error {
                self.results.errors.insert(arena.alloc_slice_copy(id));
            }
            if let Some(replacement) = &result.replacement {
                self.results.replacements.insert(arena.alloc_slice_copy(id), replacement.clone());
            }
            if let Some(owner) = self.tool_owner.get(id) {
                self.messages[*owner as usize].unanswered.retain(|unanswered| *unanswered != id);
            }
            self.gathered.has_result_content |= result.text.is_some();
        }
        if !text.is_empty() {
            self.prompts.push((span.0, Arc::from(&text[..])));
        }
        let mut made_record = false;
        if let Some(session) = line.session {
            for result in &results {
                if let Some(id) = result.call.filter(|id| !id.is_empty()) {
                    self.result_event(state, span, line, (session, id), result);
                    made_record = true;
                }
            }
            if let Some(uuid) = line.uuid {
                made_record |= self.user_turn(state, span, line, (session, uuid), &results)?;
                self.user_content(span.0, line, session, uuid);
            }
        }
        if !made_record {
            self.leave_out(span, Reason::NothingToKeep, || match line.session {
                None => "a user line without sessionId".into(),
                Some(_) => "a user line without uuid or without text and results".into(),
            });
        }
        Ok(())
    }

    fn user_turn(
        &mut self,
        state: &State<'_>,
        (at, len_bytes): (u64, u64),
        line: &Line<'_>,
        (session, uuid): (&[u8], &[u8]),
        results: &[UserResult<'_>],
    ) -> Result<bool, AgentsError> {
        let mut blocks: Vec<UserBlock<'_>> = Vec::new();
        let (mut owner, mut results) = (None, results.iter());
        match line.content.map(|content| (content, content.kind())) {
            Some((content, Kind::String)) => {
                let text = js::wtf8(content).filter(|text| !text.is_empty());
                blocks.extend(text.map(UserBlock::of_text));
            }
            Some((content, Kind::Array)) => {
                for block in content.items() {
                    match js::any_text(block, "type") {
                        Some(b"text") => blocks.extend(js::text(block, "text").map(UserBlock::of_text)),
                        Some(b"tool_result") => {
                            let Some(result) = results.next() else { continue };
                            let Some(id) = result.call else { continue };
                            owner = owner.or(self.tool_owner.get(id).copied());
                            let text = result.text.as_deref().unwrap_or_default().into();
                            blocks.push(UserBlock { call: Some(id), text, is_error: result.is_error });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        if self.log.options.as_reference && blocks.iter().any(|block| measure::has_special_token(&block.text))
        {
            return Err(GivenUp("a special token of the tokenizer in a text").at(self.log.path));
        }
        if blocks.is_empty() {
            return Ok(false);
        }
        let mut record = self.begin_record();
        record.text("sessionId", session);
        record.text("userUuid", uuid);
        record.text("ts", line.timestamp.unwrap_or_default());
        record.objects("blocks", &blocks, UserBlock::write);
        let preceding = self.last_message(state);
        record.maybe_text("precedingMessageId", preceding);
        let draft = self.keep_draft(record);
        self.unlinked = Some(self.user_turns.len());
        let notes = (!self.log.options.as_reference).then(|| {
            let parts = [session, uuid].map(js::to_utf8);
            let id = self.hasher.id_of_parts(&["claude-code", &parts[0], &parts[1]]);
            let line = LineNote::of_parts(Some(b"claude-code"), Some(session), Some(uuid));
            RecordNotes { line, made: Some((id, None)), ..RecordNotes::default() }
        });
        self.user_turns.push(Pending { at, len_bytes, draft, link: None, owner, notes });
        Ok(true)
    }

    fn user_content(&mut self, at: u64, line: &Line<'_>, session: &[u8], uuid: &[u8]) {
        let Some(content) = line.content.filter(|_| self.log.options.content == ContentMode::Full) else {
            return;
        };
        let user_turn = self.user_turns.len().checked_sub(1);
        let mut add = |role: &[u8], kind: &[u8], write: &dyn Fn(&mut RecordText)| {
            let mut record = self.begin_record();
            record.text("sessionId", session);
            record.text("messageId", uuid);
            record.text("ts", line.timestamp.unwrap_or_default());
            record.text("role", role);
            record.text("kind", kind);
            write(&mut record);
            self.keep_content(at, None, user_turn, record);
        };
        if let Some(text) = js::wtf8(content).filter(|text| !text.is_empty()) {
            add(b"user", b"text", &|record| record.text("text", text));
        }
        for block in content.items() {
            match js::any_text(block, "type") {
                Some(b"text") => {
                    if let Some(text) = js::text(block, "text") {
                        add(b"user", b"text", &|record| record.text("text", text));
                    }
                }
                Some(b"tool_result") => {
                    let Some(id) = js::any_text(block, "tool_use_id") else { continue };
                    add(b"tool_result", b"tool_result", &|record| {
                        record.object("toolResult", |result| {
                            result.text("toolUseId", id);
                            match js::present(block, "content") {
                                Some(content) => result.value("content", content),
                                None => result.text("content", b""),
                            }
                            result.flag_if("isError", js::is_true(block, "is_error"));
                        });
                    });
                }
                _ => {}
            }
        }
    }

    fn result_event(
        &mut self,
        state: &State<'_>,
        (at, len_bytes): (u64, u64),
        line: &Line<'_>,
        (session, id): (&[u8], &[u8]),
        result: &UserResult<'_>,
    ) {
        let id = &*self.arena.alloc_slice_copy(id);
        let (call_index, event_index) = self.count_event(state, at, id);
        let is_error = result.is_error;
        let mut record = self.begin_record();
        record.text("sessionId", session);
        record.text("toolUseId", id);
        record.count("callIndex", call_index);
        record.count("eventIndex", event_index);
        record.text("status", if is_error { b"errored" } else { b"completed" });
        record.text("eventSource", b"tool_result");
        record.maybe_text("messageId", line.uuid);
        record.maybe_text("ts", line.timestamp);
        record.flag_if("isError", is_error);
        let content_hash = measure::write_content_measures(result.text.as_deref(), &mut record);
        let notes = (!self.log.options.as_reference).then(|| {
            let notes = RecordNotes::of_event(&EventParts {
                source: Some(b"claude-code"),
                session: Some(session),
                call: Some(id),
                event_source: Some(b"tool_result"),
                message: line.uuid,
                content_hash: content_hash.as_ref().map(|hash| &hash[..]),
                number: event_index as f64,
                has_ts: line.timestamp.is_some(),
            });
            let parts = [session, id].map(js::to_utf8);
            let mut number = itoa::Buffer::new();
            let parts = ["claude-code", &parts[0], &parts[1], number.format(event_index)];
            RecordNotes { made: Some((self.hasher.id_of_parts(&parts), None)), ..notes }
        });
        if let Some(replacement) = &result.replacement {
            replacement.write(&mut record);
        }
        let draft = self.keep_draft(record);
        let owner = self.tool_owner.get(id).copied();
        self.events.push(Pending { at, len_bytes, draft, link: Some(id), owner, notes });
    }
}

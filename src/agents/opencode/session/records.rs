//! Makes the records of a session: of all its answers, or of the answers that a stream has completed.

use std::collections::{HashMap, HashSet};

use super::{Folder, Part, SessionHead, SessionMessage, SpawningTask, Tool};
use crate::agents::GivenUp;
use crate::agents::activity::{TurnWords, classify};
use crate::agents::calls::{ToolCall, files_touched};
use crate::agents::content::ContentHead;
use crate::agents::fidelity::Usage;
use crate::agents::js::{self, RecordText};
use crate::agents::measure::{self, UserBlock};
use crate::agents::pass::{ContentMode, Gathered, ReadOptions};
use crate::agents::project::ProjectKeys;

/// How records are made.
pub(in crate::agents) struct RecordRules<'r> {
    pub as_reference: bool,
    pub content: ContentMode,
    pub projects: &'r ProjectKeys,
    pub session_path: Vec<u8>,
    pub awaited: Awaited,
    /// Whether the session comes from the stream of a server. Its records have another order of members.
    pub is_stream: bool,
}

/// What must come before an unfinished last answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agents) enum Awaited {
    Nothing,
    /// Its tokens. OpenCode writes the tokens of a step when its tools have ended, and a tool may run for hours.
    Tokens,
    End,
}

impl Awaited {
    /// For a session that was last written at `mtime_ms`, and was seen to change at `changed_ms`.
    pub(in crate::agents::opencode) fn of(
        options: &ReadOptions,
        mtime_ms: f64,
        changed_ms: Option<f64>,
    ) -> Self {
        if options.as_reference || options.has_ended(mtime_ms, changed_ms) {
            Self::Nothing
        } else if options.has_settled(mtime_ms, changed_ms) {
            Self::Tokens
        } else {
            Self::End
        }
    }
}

/// The results that a stream of events has written, and how far it has numbered the events of each session.
#[derive(Debug, Clone, Default)]
pub(in crate::agents::opencode) struct Emitted {
    /// Results as `SESSION|MESSAGE|CALL|PART`, in the order in which they were written.
    pub results: Vec<Vec<u8>>,
    /// The number of the next event of a session.
    pub next_numbers: Vec<(Vec<u8>, usize)>,
}

impl Emitted {
    fn next_number(&mut self, session: &[u8]) -> usize {
        let known = self.next_numbers.iter().position(|(id, _)| id == session);
        let place = known.unwrap_or_else(|| {
            self.next_numbers.push((session.to_vec(), 0));
            self.next_numbers.len() - 1
        });
        let next = &mut self.next_numbers[place].1;
        *next += 1;
        *next - 1
    }
}

/// The ids of the messages that a pass over a session has read, by outcome.
#[derive(Debug, Default)]
pub(in crate::agents) struct HandedMessages {
    /// The answers in the order of the pass, then the prompts with a compaction.
    pub seen: Vec<Vec<u8>>,
    /// Answers that are not finished.
    pub open: Vec<Vec<u8>>,
    /// Answers with values that are no counts, and the names of these values.
    pub invalid: Vec<(Vec<u8>, Vec<&'static str>)>,
    /// Messages whose creation time no JavaScript `Date` can hold.
    pub undated: Vec<Vec<u8>>,
}

impl SessionHead {
    /// Adds the records of all answers whose ids are not in `seen` to the pass.
    pub(in crate::agents::opencode) fn hand_over(
        &self,
        rules: &RecordRules<'_>,
        seen: &HashSet<Vec<u8>>,
        gathered: &mut Gathered,
    ) -> Result<HandedMessages, GivenUp> {
        let mut records = HandedMessages::default();
        let (answers, prompts) = (self.sorted(rules, true), self.sorted(rules, false));
        self.begin(rules, &answers, gathered)?;
        if !rules.as_reference {
            let undated = self.messages.iter().filter(|message| js::iso(message.created_ms).is_none());
            records.undated = undated.map(|message| message.id.clone()).collect();
        }

        let (mut call_counts, mut next_event) = (HashMap::<Vec<u8>, usize>::new(), 0);
        let mut taken: HashSet<&[u8]> = HashSet::new();
        for (index, answer) in answers.iter().enumerate() {
            let is_known = seen.contains(&answer.id);
            // OpenCode stores a prompt at once and answers it later, so a later prompt ends no answer.
            let is_open = !is_known && index + 1 == answers.len() && !answer.has_ended();
            if is_open && self.waits_for(rules, answer) {
                records.open.push(answer.id.clone());
                continue;
            }
            let is_new = !is_known && taken.insert(&answer.id);
            if !is_new {
                if !rules.as_reference {
                    // Calls of known answers are counted too, because call and event indices count through
                    // the whole session.
                    for tool in answer.shared_tools() {
                        *call_counts.entry(tool.call.clone().unwrap_or_default()).or_default() += 1;
                        next_event += 1;
                    }
                }
                continue;
            }
            let usage = self.usage_of(rules, answer);
            records.seen.push(answer.id.clone());
            let invalid = usage.invalid_counts();
            if !invalid.is_empty() {
                records.invalid.push((answer.id.clone(), invalid));
            }
            self.add_answer(rules, &answers, index, &prompts, gathered)?;
            let shared: Vec<&Tool> = answer.shared_tools().collect();
            for tool in &shared {
                let call_index = call_counts.entry(tool.call.clone().unwrap_or_default()).or_default();
                let numbers = (*call_index, next_event);
                let event = answer.event_record(rules, tool, usage, shared.len(), numbers)?;
                let event = gathered.keep(&event);
                gathered.tool_result_events.push(event);
                *call_index += 1;
                next_event += 1;
            }
        }

        for prompt in prompts.iter().filter(|prompt| prompt.has_compaction() && !seen.contains(&prompt.id)) {
            let before = answers.iter().rev().find(|answer| answer.created_ms < prompt.created_ms);
            let mut record = RecordText::of("opencode");
            record.text("sessionId", &self.id);
            record.text("ts", prompt.ts()?.as_bytes());
            if let Some(before) = before {
                record.text("precedingMessageId", &before.id);
                record.number("tokensBeforeCompact", before.usage.or_zero().cache_read);
            }
            let record = gathered.keep(&record.finish());
            gathered.compactions.push(record);
            records.seen.push(prompt.id.clone());
        }
        gathered.open_messages = records.open.len() as u64;
        Ok(records)
    }

    /// Whether an unfinished answer, the last of the session, waits to be written.
    fn waits_for(&self, rules: &RecordRules<'_>, answer: &SessionMessage) -> bool {
        match rules.awaited {
            Awaited::End => true,
            Awaited::Tokens => self.usage_of(rules, answer) == Usage::default(),
            Awaited::Nothing => false,
        }
    }

    /// Adds the records of a flush of a stream, and the ids of its answers to `seen`. An answer is written when it has tokens or
    /// a finished step.
    pub(in crate::agents::opencode) fn flush(
        &self,
        rules: &RecordRules<'_>,
        seen: &mut Vec<Vec<u8>>,
        emitted: &mut Emitted,
        gathered: &mut Gathered,
    ) -> Result<(), GivenUp> {
        let (answers, prompts) = (self.sorted(rules, true), self.sorted(rules, false));
        self.begin(rules, &answers, gathered)?;
        let mut call_counts = HashMap::<Vec<u8>, usize>::new();
        let known: HashSet<Vec<u8>> = emitted.results.iter().cloned().collect();
        for answer in answers.iter().filter(|answer| answer.is_final()) {
            let shared: Vec<&Tool> = answer.shared_tools().collect();
            for tool in &shared {
                let call = tool.call.clone().unwrap_or_default();
                let call_index = call_counts.entry(call.clone()).or_default();
                let index = *call_index;
                *call_index += 1;
                let part = tool.part.clone().unwrap_or_else(|| index.to_string().into_bytes());
                let key = [&self.id[..], &answer.id, &call, &part].join(&b'|');
                if known.contains(&key) {
                    continue;
                }
                emitted.results.push(key);
                let numbers = (index, emitted.next_number(&self.id));
                let usage = self.usage_of(rules, answer);
                let event = answer.event_record(rules, tool, usage, shared.len(), numbers)?;
                let event = gathered.keep(&event);
                gathered.tool_result_events.push(event);
            }
        }
        let known: HashSet<Vec<u8>> = seen.iter().cloned().collect();
        for (index, answer) in answers.iter().enumerate() {
            if answer.is_final() && !known.contains(&answer.id) {
                seen.push(answer.id.clone());
                self.add_answer(rules, &answers, index, &prompts, gathered)?;
            }
        }
        Ok(())
    }

    /// Adds the relationships and the session.
    fn begin(
        &self,
        rules: &RecordRules<'_>,
        answers: &[&SessionMessage],
        gathered: &mut Gathered,
    ) -> Result<(), GivenUp> {
        let first_ts = answers.first().map(|answer| answer.ts()).transpose()?;
        for row in self.relationships(rules, first_ts.as_deref()) {
            let row = gathered.keep(&row);
            gathered.relationships.push(row);
        }
        gathered.session_id = Some(self.id.clone());
        gathered.content_session = Some(self.id.clone());
        gathered.cwd.clone_from(&self.directory);
        Ok(())
    }

    /// Adds the turn of an answer, the user turn before it, and their content.
    fn add_answer(
        &self,
        rules: &RecordRules<'_>,
        answers: &[&SessionMessage],
        index: usize,
        prompts: &[&SessionMessage],
        gathered: &mut Gathered,
    ) -> Result<(), GivenUp> {
        let answer = answers[index];
        let before = index.checked_sub(1).map(|at| answers[at]);
        let prompt = prompts.iter().rev().find(|prompt| prompt.created_ms <= answer.created_ms).copied();
        let turn = gathered.keep(&self.turn_record(rules, answer, index, prompt)?);
        gathered.turns.push(turn);
        gathered.read_turns += 1;
        if let Some(user_turn) = self.user_turn(rules, answer, before, prompts, prompt)? {
            let user_turn = gathered.keep(&user_turn);
            gathered.user_turns.push(user_turn);
        }
        if rules.content == ContentMode::Full {
            self.add_content(rules, answer, prompt, gathered)?;
        }
        Ok(())
    }

    fn usage_of(&self, rules: &RecordRules<'_>, answer: &SessionMessage) -> Usage {
        match rules.as_reference {
            true => answer.usage.or_zero(),
            false => answer.settled_usage(self.version.as_deref()),
        }
    }

    /// The answers or the prompts, by creation time.
    fn sorted(&self, rules: &RecordRules<'_>, is_answer: bool) -> Vec<&SessionMessage> {
        let mut list: Vec<&SessionMessage> =
            self.messages.iter().filter(|message| message.is_answer == is_answer).collect();
        if !rules.as_reference {
            list.retain(|message| js::iso(message.created_ms).is_some());
        }
        list.sort_by(|a, b| a.created_ms.total_cmp(&b.created_ms));
        list
    }

    /// The session that began this one, if any.
    fn parent_session(&self) -> Option<&[u8]> {
        self.parent.as_deref().filter(|parent| !parent.is_empty())
    }

    /// Returns the relationships of the session: root, then parent, then fork.
    fn relationships(&self, rules: &RecordRules<'_>, first_ts: Option<&str>) -> Vec<Vec<u8>> {
        let mut root = RecordText::of("opencode");
        root.text("sessionId", &self.id);
        root.text("relationshipType", b"root");
        root.maybe_text("ts", first_ts.map(str::as_bytes));
        let mut rows = vec![root.finish()];
        if let Some(parent) = self.parent_session() {
            let mut row = RecordText::of("native-opencode");
            row.text("sessionId", &self.id);
            row.text("relatedSessionId", parent);
            row.text("relationshipType", b"subagent");
            if !rules.as_reference {
                row.text("agentId", &self.id);
                if let Some(task) = &self.task {
                    task.write(&mut row);
                }
            }
            row.maybe_text("ts", first_ts.map(str::as_bytes));
            rows.push(row.finish());
        }
        if let Some((source, _)) = &self.fork {
            let mut row = RecordText::of("opencode");
            row.text("sessionId", &self.id);
            row.text("relatedSessionId", source);
            row.text("relationshipType", b"fork");
            row.maybe_text("ts", first_ts.map(str::as_bytes));
            rows.push(row.finish());
        }
        rows
    }

    fn turn_record(
        &self,
        rules: &RecordRules<'_>,
        answer: &SessionMessage,
        index: usize,
        prompt: Option<&SessionMessage>,
    ) -> Result<Vec<u8>, GivenUp> {
        let usage = self.usage_of(rules, answer);
        let mut record = RecordText::of("opencode");
        record.text("sessionId", &answer.session);
        record.text("messageId", &answer.id);
        record.count("turnIndex", index);
        record.text("ts", answer.ts()?.as_bytes());
        record.text("model", &answer.model);
        usage.write(&mut record);
        let mut ids = HashSet::new();
        let mut calls = Vec::new();
        let mut has_failed = false;
        for tool in answer.tools() {
            let (Some(id), Some(name)) = (&tool.call, &tool.name) else { continue };
            if !ids.insert(id) {
                continue;
            }
            has_failed |= tool.has_failed;
            calls.push(ToolCall {
                id: id.clone(),
                name: name.clone(),
                args_hash: tool.args_hash,
                target: tool.target.clone(),
                skill_name: tool.skill.clone(),
                ..ToolCall::default()
            });
        }
        record.objects("toolCalls", &calls, ToolCall::write);
        let mut coverage = answer.coverage;
        for part in &answer.parts {
            if let Part::StepFinish { coverage: told, .. } = part {
                coverage.add(*told);
            }
        }
        if rules.is_stream {
            coverage.write_fidelity(&mut record);
        } else {
            record.text("sessionPath", &rules.session_path);
        }
        let project = match &answer.folder {
            Folder::Named(folder) => Some(folder),
            Folder::Session => self.directory.as_ref(),
            Folder::Odd if rules.as_reference => return Err(GivenUp("a folder that is no text")),
            Folder::Odd => None,
        };
        if let Some(project) = project {
            rules.projects.write(project, &mut record);
        }
        let touched = files_touched(&calls, |name| matches!(name, b"read" | b"write" | b"edit"), true);
        record.texts_if_any("filesTouched", &touched);
        if let Some(parent) = self.parent_session() {
            let mut subagent = RecordText::default();
            subagent.flag("isSidechain", true);
            if !rules.as_reference {
                subagent.text("agentId", &self.id);
                subagent.text("parentAgentId", parent);
                if let Some(task) = &self.task {
                    task.write(&mut subagent);
                }
            }
            record.raw("subagent", &subagent.finish());
        }
        let mut reasons = answer.parts.iter().filter_map(|part| match part {
            Part::StepFinish { reason, .. } => reason.as_deref(),
            _ => None,
        });
        record.maybe_text("stopReason", reasons.next_back());
        if !rules.is_stream {
            coverage.write_fidelity(&mut record);
        }
        let words = TurnWords {
            prompt: &prompt.map(SessionMessage::joined).unwrap_or_default(),
            answer: &answer.joined(),
            has_failed,
            has_reasoning: usage.reasoning > 0.0,
        };
        classify(calls.iter().map(ToolCall::for_activity), &words).write(&mut record);
        Ok(record.finish())
    }

    /// The user turn before an answer; none if it has no blocks.
    fn user_turn(
        &self,
        rules: &RecordRules<'_>,
        answer: &SessionMessage,
        before: Option<&SessionMessage>,
        prompts: &[&SessionMessage],
        prompt: Option<&SessionMessage>,
    ) -> Result<Option<Vec<u8>>, GivenUp> {
        let is_in_gap =
            |prompt: &SessionMessage| before.is_none_or(|before| prompt.created_ms > before.created_ms);
        let prompt = prompt.filter(|prompt| is_in_gap(prompt));
        let mut blocks = Vec::new();
        for tool in before.into_iter().flat_map(SessionMessage::tools) {
            if let (Some(call), Some((measured, _))) = (&tool.call, &tool.output)
                && !(rules.is_stream && call.is_empty())
            {
                let text = measured.as_deref().unwrap_or_default().into();
                blocks.push(UserBlock { call: Some(call), text, is_error: tool.has_failed });
            }
        }
        let asked: Vec<&SessionMessage> = if rules.as_reference {
            prompt.into_iter().collect()
        } else {
            let of_gap =
                prompts.iter().filter(|prompt| prompt.created_ms <= answer.created_ms && is_in_gap(prompt));
            of_gap.copied().collect()
        };
        for prompt in asked {
            blocks.extend(prompt.texts(true).map(UserBlock::of_text));
        }
        if rules.as_reference && blocks.iter().any(|block| measure::has_special_token(&block.text)) {
            return Err(GivenUp("a text with a special token"));
        }
        if blocks.is_empty() {
            return Ok(None);
        }
        let mut record = RecordText::of("opencode");
        record.text("sessionId", &self.id);
        let start = before.map_or(&b"start"[..], |before| &before.id);
        let gap = [&self.id[..], b":", start, b"->", &answer.id].concat();
        record.text("userUuid", prompt.map_or(&gap, |prompt| &prompt.id));
        record.text("ts", prompt.unwrap_or(answer).ts()?.as_bytes());
        record.objects("blocks", &blocks, UserBlock::write);
        record.text("followingMessageId", &answer.id);
        record.maybe_text("precedingMessageId", before.map(|before| &before.id[..]));
        Ok(Some(record.finish()))
    }

    fn add_content(
        &self,
        rules: &RecordRules<'_>,
        answer: &SessionMessage,
        prompt: Option<&SessionMessage>,
        gathered: &mut Gathered,
    ) -> Result<(), GivenUp> {
        let mut add = |record: Vec<u8>| {
            let record = gathered.keep(&record);
            gathered.content.push(record);
        };
        if let Some(prompt) = prompt {
            let session = match (rules.as_reference, rules.is_stream) {
                (true, false) => &answer.session,
                (false, false) => &prompt.session,
                (_, true) => &self.id,
            };
            let ts = prompt.ts()?;
            let head = ContentHead { source: "opencode", session, message: &prompt.id, ts: ts.as_bytes() };
            prompt.texts(false).for_each(|text| add(head.text("user", "text", text)));
        }
        let session = if rules.is_stream { &self.id } else { &answer.session };
        let ts = answer.ts()?;
        let head = ContentHead { source: "opencode", session, message: &answer.id, ts: ts.as_bytes() };
        let (mut calls, mut has_results) = (0, false);
        for part in &answer.parts {
            match part {
                Part::Text { text, is_synthetic: false } => add(head.text("assistant", "text", text)),
                Part::Reasoning(text) if !rules.as_reference => {
                    add(head.text("assistant", "thinking", text));
                }
                Part::Tool(tool) => {
                    let (Some(call), Some(name)) = (&tool.call, &tool.name) else { continue };
                    calls += 1;
                    add(head.tool_use(call, name, &tool.input));
                    if let Some((_, output)) = &tool.output {
                        has_results = true;
                        add(head.tool_result(call, output, tool.has_failed));
                    }
                }
                _ => (),
            }
        }
        gathered.calls += calls;
        gathered.has_result_content |= has_results;
        Ok(())
    }
}

impl SpawningTask {
    /// Appends the members that name the call.
    fn write(&self, record: &mut RecordText) {
        record.text("parentToolUseId", &self.call);
        record.maybe_text("subagentType", self.kind.as_deref());
        record.maybe_text("description", self.description.as_deref());
    }
}

impl SessionMessage {
    /// The time of the message.
    fn ts(&self) -> Result<String, GivenUp> {
        js::iso(self.created_ms).ok_or(GivenUp("a time that no Date holds"))
    }

    /// Returns the event of a tool's result. The tokens of the answer are divided equally among `shares`
    /// events.
    fn event_record(
        &self,
        rules: &RecordRules<'_>,
        tool: &Tool,
        usage: Usage,
        shares: usize,
        (call_index, event_index): (usize, usize),
    ) -> Result<Vec<u8>, GivenUp> {
        let mut event = RecordText::of("opencode");
        event.text("sessionId", &self.session);
        event.text("messageId", &self.id);
        event.text("toolUseId", tool.call.as_deref().unwrap_or_default());
        event.count("callIndex", call_index);
        if !rules.is_stream {
            event.count("eventIndex", event_index);
        }
        event.text("ts", self.ts()?.as_bytes());
        event.text("status", if tool.has_failed { b"errored" } else { b"completed" });
        event.text("eventSource", b"tool_result");
        event.flag_if("isError", tool.has_failed);
        usage.map(|count| count / shares as f64).write(&mut event);
        event.text("usageAttribution", if shares == 1 { b"single-tool-turn" } else { b"even-split-turn" });
        let measured = tool.output.as_ref().and_then(|(measured, _)| measured.as_deref());
        measure::write_content_measures(measured, &mut event);
        if rules.is_stream {
            event.count("eventIndex", event_index);
        }
        Ok(event.finish())
    }
}

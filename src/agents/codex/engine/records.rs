//! Hands over the records of all turns that ended, and notes the usage of turns that were written.

use super::*;

impl Engine<'_> {
    /// Adds all records whose turns ended after byte `from` to the pass. `written` has the usage of turns that were written
    /// before, by id, and is updated. Returns whether a written turn has used more tokens since, and may use more.
    pub(in crate::agents::codex) fn hand_over(
        &mut self,
        from: u64,
        written: &mut HashMap<Vec<u8>, Written>,
        is_at_rest: bool,
        gathered: &mut Gathered,
    ) -> bool {
        let mut waits = false;
        let frozen = self.frozen.clone();
        let mut turns = std::mem::take(&mut self.turns);
        turns.truncate(frozen.turns);
        // With our rules, the first turn of an id has the usage of all turns of that id.
        for at in 0..turns.len() {
            let Turn { used, has_usage, sizes, same_as, .. } = turns[at];
            if let Some(first) = same_as.map(|first| &mut turns[first]) {
                first.used = first.used.plus(used);
                first.has_usage |= has_usage;
                first.sizes.join(sizes);
            }
        }
        let last = turns.iter().rposition(|turn| turn.same_as.is_none());
        let mut written_now = HashMap::new();
        let mut index = 0;
        for (at, turn) in turns.iter().enumerate() {
            let turn_index = index;
            if !self.rules.as_reference && turn.same_as.is_some() {
                self.content_of(turn, from, gathered);
                continue;
            }
            index += 1;
            let is_in_log_of_ancestor = self.rules.own.is_in_log_of_ancestor(&turn.id, turn.place.0);
            if turn.is_replay && (turn.used.is_zero() || is_in_log_of_ancestor) {
                continue;
            }
            let before = written.get(&turn.id).copied().unwrap_or_default();
            let mut now =
                Written { used: turn.used, times: 1, calls: turn.calls.len(), is_from_ledger: false };
            let (mut usage, mut id, mut first_call) = (turn.used, turn.id.clone(), 0);
            let mut is_written = !self.rules.as_reference && before.times > 0;
            if is_written {
                // A written turn has gone on. Its further usage becomes a separate turn when no more can come.
                usage = usage.beyond(before.used);
                first_call = before.calls.min(turn.calls.len());
                now.times = before.times;
                let has_more = !usage.is_zero() || first_call < turn.calls.len() && !before.is_from_ledger;
                if has_more && (Some(at) != last || is_at_rest) {
                    id.extend_from_slice(format!("+{}", before.times).as_bytes());
                    now.times += 1;
                    is_written = false;
                } else {
                    waits |= has_more;
                    let calls = if has_more { before.calls } else { before.calls.max(now.calls) };
                    now = Written { calls, is_from_ledger: false, ..before };
                }
            }
            written_now.insert(turn.id.clone(), now);
            if !is_written {
                let place = TurnPlace { id: &id, index: turn_index, first_call };
                // A turn that the ledger has under another session is dropped.
                let owner = Some(gathered.turns.len() as u32);
                let stamp = self.stamp_of(turn, &id, usage);
                let record = gathered.keep(&self.turn_record(turn, &place, usage));
                gathered.turns.push(PassRecord { owner, stamp, ..record });
            }
            self.content_of(turn, from, gathered);
        }
        // Turns that a cut log has no more stay written.
        written.extend(written_now);
        for made in self.events[..frozen.events].iter().filter(|made| made.at > from) {
            let record = gathered.keep(&self.event_record(&made.what));
            gathered.tool_result_events.push(record);
        }
        for made in self.relationships[..frozen.relationships].iter().filter(|made| made.at > from) {
            let record = gathered.keep(&made.what);
            gathered.relationships.push(record);
        }
        for made in self.compactions[..frozen.compactions].iter().filter(|made| made.at > from) {
            let record = gathered.keep(&made.what);
            gathered.compactions.push(record);
        }
        for UserTurn { text, other_id } in
            self.user_turns[..frozen.user_turns].iter().filter(|made| made.at > from).map(|made| &made.what)
        {
            let record = gathered.keep(text);
            gathered.user_turns.push(PassRecord { other_id: *other_id, ..record });
        }
        gathered.read_turns = gathered.turns.len() as u64;
        gathered.session_id = Some(frozen.session).filter(|session| !session.is_empty());
        gathered.content_session.clone_from(&gathered.session_id);
        gathered.cwd = frozen.folder.or(gathered.cwd.take());
        waits
    }

    /// Adds the content of a turn, and its folder if no turn before it had one.
    fn content_of(&self, turn: &Turn, from: u64, gathered: &mut Gathered) {
        if turn.is_replay || (!self.rules.as_reference && turn.closed_at <= from) {
            return;
        }
        gathered.cwd = gathered.cwd.take().or_else(|| turn.project.clone());
        gathered.calls += turn.calls.len() as u64;
        if self.rules.content != ContentMode::Full {
            return;
        }
        for line in turn.content.iter().filter(|line| !line.session.is_empty()) {
            let head =
                ContentHead { source: "codex", session: &line.session, message: &turn.id, ts: &line.ts };
            let mut record = head.begin(line.role, line.kind);
            match line.body.0 {
                "text" => record.text("text", &line.body.1),
                key => record.raw(key, &line.body.1),
            }
            gathered.has_result_content |= line.kind == "tool_result";
            let record = gathered.keep(&record.finish());
            gathered.content.push(record);
        }
    }

    /// The stamp of a turn that is written under `id`. The settings of this log do not apply to a parent's turn.
    fn stamp_of(&self, turn: &Turn, id: &[u8], usage: RolloutCounts) -> Option<Vec<u8>> {
        if self.rules.as_reference || turn.is_replay {
            return None;
        }
        let terms = TurnTerms {
            provider: self.provider.clone(),
            service_tier: turn.tier.clone(),
            context_tokens: turn.sizes.telling(usage.input, self.provider.is_none()),
            ..TurnTerms::default()
        };
        terms.stamp(&self.frozen.session, id, &turn.ts)
    }

    fn turn_record(&self, turn: &Turn, place: &TurnPlace<'_>, used: RolloutCounts) -> Vec<u8> {
        let TurnPlace { id, index, first_call } = *place;
        let has_usage = turn.has_usage;
        let calls = &turn.calls[first_call..];
        let own = &self.rules.own;
        let usage = if self.rules.as_reference {
            let [input, output, cache_read, reasoning] =
                [0, 1, 2, 3].map(|at| (turn.end[at] - turn.start[at]).max(0.0));
            Usage { input, output, reasoning, cache_read, ..Usage::default() }
        } else {
            used.usage()
        };
        let mut record = RecordText::of("codex");
        let session = match (&own.parent, turn.is_replay) {
            (Some(parent), true) => parent,
            _ => &self.frozen.session,
        };
        record.text("sessionId", session);
        record.text("messageId", id);
        record.count("turnIndex", index);
        record.text("ts", &self.ts_of(turn));
        record.text("model", &turn.model);
        usage.write(&mut record);
        record.objects("toolCalls", calls, ToolCall::write);
        Coverage {
            has_input: has_usage,
            has_output: has_usage,
            has_reasoning: has_usage,
            has_cache_read: has_usage,
            has_cache_create: usage.cache_create_5m > 0.0,
        }
        .write_fidelity(&mut record);
        record.text("sessionPath", &self.rules.session_path);
        if let Some(project) = &turn.project {
            self.rules.projects.write(project, &mut record);
        }
        record.texts_if_any("filesTouched", &turn.touched);
        if own.is_child
            && !turn.is_replay
            && let Some(parent) = &own.parent
        {
            let mut subagent = RecordText::default();
            subagent.flag("isSidechain", true);
            subagent.text("agentId", &own.session);
            subagent.text("parentAgentId", parent);
            subagent.maybe_text("subagentType", own.agent_role.as_deref());
            record.raw("subagent", &subagent.finish());
        }
        let words = TurnWords {
            prompt: &turn.prompt,
            answer: &turn.answer,
            has_failed: turn.calls.iter().any(|call| turn.failed.contains(&call.id)),
            has_reasoning: usage.reasoning > 0.0,
        };
        classify(calls.iter().map(ToolCall::for_activity), &words).write(&mut record);
        record.finish()
    }

    /// The time of a replayed turn: the time of its id, if that is earlier than the time of the copied line.
    fn ts_of(&self, turn: &Turn) -> Vec<u8> {
        let told = parts::millis_of_uuid7(&turn.id).filter(|_| turn.is_replay);
        let older = told.filter(|told| parts::millis_of(&turn.ts).is_none_or(|stamped| *told < stamped));
        older.and_then(js::iso).map_or_else(|| turn.ts.clone(), String::into_bytes)
    }

    fn event_record(&self, event: &RolloutEvent) -> Vec<u8> {
        let mut record = RecordText::of("codex");
        record.text("sessionId", &self.frozen.session);
        record.text("toolUseId", &event.call);
        record.count("callIndex", event.call_index);
        record.count("eventIndex", event.event_index);
        record.text("status", event.status.as_bytes());
        record.text("eventSource", event.source.as_bytes());
        record.maybe_text("messageId", event.message.as_deref());
        record.maybe_text("ts", Some(&event.ts[..]).filter(|ts| !ts.is_empty()));
        record.flag_if("isError", event.is_error);
        if let Some((len, hash)) = &event.measures {
            record.count("contentLength", *len);
            record.text("contentHash", hash);
        }
        record.maybe_text("agentId", event.agent.as_deref());
        record.maybe_text("subagentSessionId", event.agent.as_deref());
        record.flag_if("isError", event.is_settled_error);
        record.finish()
    }

    /// Returns the cursor as the TypeScript package saves it.
    pub(in crate::agents::codex) fn cursor(&self, inode: f64, mtime_ms: f64) -> Vec<u8> {
        let frozen = &self.frozen;
        let mut cursor = RecordText::default();
        cursor.text("kind", b"codex");
        cursor.number("inode", inode);
        cursor.number("offsetBytes", frozen.offset as f64);
        cursor.number("mtimeMs", mtime_ms);
        let mut counters = RecordText::default();
        for (key, count) in ["input", "output", "cacheRead", "reasoning"].into_iter().zip(frozen.counters) {
            counters.number(key, count);
        }
        cursor.raw("cumulative", &counters.finish());
        cursor.text("sessionId", &frozen.session);
        let mut contexts: Vec<(&[u8], &[u8])> = Vec::new();
        let mut place: HashMap<&[u8], usize> = HashMap::new();
        for context in &self.contexts[..frozen.contexts] {
            match place.get(&context.id[..]) {
                Some(at) => contexts[*at].1 = &context.text,
                None => {
                    place.insert(&context.id, contexts.len());
                    contexts.push((&context.id, &context.text));
                }
            }
        }
        let text = object_text(contexts.into_iter().map(|(id, text)| (id, text.to_vec())).collect());
        cursor.raw("turnContexts", &text);
        cursor.maybe_text("sessionCwd", frozen.folder.as_deref());
        let mut slot = RecordText::default();
        slot.raw("blocks", &blocks_text(&frozen.gap.blocks));
        slot.text("ts", &frozen.gap.ts);
        slot.maybe_text("precedingMessageId", frozen.gap.preceding.as_deref());
        cursor.raw("userTurnSlot", &slot.finish());
        cursor.flag_if("rootSessionEmitted", frozen.has_root);
        cursor.count("nextEventIndex", frozen.next_event);
        let mut counts: Vec<(&[u8], usize)> =
            self.counters_before.iter().map(|(call, count)| (&call[..], *count)).collect();
        let mut place: HashMap<&[u8], usize> =
            counts.iter().enumerate().map(|(at, (call, _))| (*call, at)).collect();
        for call in &self.counted[..frozen.counted] {
            let at = *place.entry(call).or_insert_with(|| {
                counts.push((call, 0));
                counts.len() - 1
            });
            counts[at].1 += 1;
        }
        if !counts.is_empty() {
            let counts =
                counts.into_iter().map(|(call, count)| (call, count.to_string().into_bytes())).collect();
            cursor.raw("toolResultCounters", &object_text(counts));
        }
        if let Some((id, cache_read)) = &frozen.last {
            let mut last = RecordText::default();
            last.text("messageId", id);
            last.number("cacheRead", *cache_read);
            cursor.raw("lastCompletedTurn", &last.finish());
        }
        cursor.finish()
    }
}

/// An object's text in JavaScript's order of keys.
fn object_text(mut members: Vec<(&[u8], Vec<u8>)>) -> Vec<u8> {
    members.sort_by_key(|(key, _)| is_array_index_key(key).map_or(u64::MAX, u64::from));
    let mut object = RecordText::default();
    for (key, text) in &members {
        object.member(key, |out| out.extend_from_slice(text));
    }
    object.finish()
}

/// Returns the usage of written turns, as text for the side file.
pub(in crate::agents::codex) fn written_text(written: &HashMap<Vec<u8>, Written>) -> Vec<u8> {
    let mut all: Vec<_> = written.iter().collect();
    all.sort_by_key(|(id, _)| *id);
    let mut text = RecordText::default();
    text.objects("all", &all, |(id, written), object| {
        object.text("id", id);
        object.count("times", written.times);
        object.count("calls", written.calls);
        written.used.write(object);
    });
    text.finish()
}

/// Reads what [`written_text`] wrote.
pub(in crate::agents::codex) fn written_of(note: Value<'_>) -> HashMap<Vec<u8>, Written> {
    let all = note.get("all").into_iter().flat_map(Value::items);
    all.filter_map(|entry| {
        let times = js::number(entry, "times")? as usize;
        Some((
            js::any_text(entry, "id")?.to_vec(),
            Written {
                used: RolloutCounts::of(entry),
                times,
                calls: js::number(entry, "calls")? as usize,
                is_from_ledger: false,
            },
        ))
    })
    .collect()
}

//! The second half of a run: appends the records under lock `ledger`, without the records that the ledger has already.
//!
//! Guarantees: one append writes the records of a log with their stamps; a cursor moves only after its records are in
//! the ledger.

use super::*;
use crate::record::Id;

/// A batch that is being filled, with the kinds of its lines.
struct Filling {
    batch: Batch,
    /// The kind of each line of the batch, by its number; none for a stamp.
    kinds: Vec<Option<RecordKind>>,
    /// The number of content records.
    content: u64,
    /// Pending stamps of `burn run`, claimed for this batch.
    claims: Vec<Claimed>,
    /// Ids that the ledger has among [`PassRecord::other_id`].
    other_ids: HashSet<Id>,
}

impl Run<'_> {
    /// Appends the queued records.
    pub(in crate::agents) fn flush(&mut self, tally: &mut AgentReport) -> Result<(), AgentsError> {
        let queue = std::mem::take(&mut self.queue);
        self.queued_bytes = 0;
        if queue.is_empty() {
            return Ok(());
        }
        if self.ingest.options.check {
            return Ok(());
        }
        if queue.iter().any(|queued| !queued.gathered.has_no_records()) {
            disk::create_dir_all(self.ingest.home.root())?;
            let home = self.ingest.home.clone();
            let interrupt = self.interrupt.clone();
            with_lock_unless(&home.lock(LockName::Ledger), &interrupt, |_| self.append(&queue, tally))?;
        }
        for queued in queue {
            if let (Some(side), Some(agent)) = (queued.gathered.side, queued.agent) {
                self.side.set(note_key(agent, &queued.path), side);
            }
            if let Some(cursor) = queued.gathered.cursor {
                self.cursors.set(key_of(&queued.path), cursor);
            }
            if let Some((path, state)) = queued.gathered.state {
                // After a failure the next run reads the lines before the cursor again.
                let _ = disk::create_dir_all(disk::parent_of(&path))
                    .and_then(|()| disk::replace(&path, &state, disk::Replacing::Unsynced));
            }
        }
        if self.saved.elapsed() >= SAVE_EVERY {
            self.save()?;
        }
        Ok(())
    }

    /// Appends queued records, under lock `ledger`.
    fn append(&mut self, queue: &[Queued], tally: &mut AgentReport) -> Result<(), AgentsError> {
        let as_reference = self.options.as_reference;
        if !as_reference || self.is_hook {
            self.ingest.known.catch_up(&self.ingest.home)?;
        }
        let mut filling = Filling {
            batch: match (as_reference, self.is_strict) {
                (true, _) => Batch::unchecked(),
                (false, true) => Batch::strict(),
                (false, false) => Batch::new(),
            },
            kinds: Vec::new(),
            content: 0,
            claims: Vec::new(),
            other_ids: self.known_other_ids(queue)?,
        };
        for queued in queue {
            filling.batch.join_next();
            self.push_claimed_stamp(queued, &mut filling);
            self.push_records(queued, tally, &mut filling)?;
        }
        if !as_reference {
            // The results become known only now, because one line may have a result twice.
            for event in queue.iter().flat_map(|queued| &queued.gathered.tool_result_events) {
                with_record(&event.text, |event| self.ingest.known.add_result(event));
            }
        }
        for session in filling.batch.skipped_sessions() {
            self.observer
                .note(&format!("[burn] skipping content records with unsafe sessionId: {session:?}"));
        }
        self.write_batch(filling, tally)
    }

    /// The ids of user turns that the TypeScript package wrote under another `userUuid`.
    fn known_other_ids(&self, queue: &[Queued]) -> Result<HashSet<Id>, AgentsError> {
        let user_turns = queue.iter().flat_map(|queued| &queued.gathered.user_turns);
        let ids: Vec<Id> = user_turns.filter_map(|record| record.other_id).collect();
        Ok(Ledger::new(self.ingest.home.clone()).known_ids(&ids)?)
    }

    /// Pushes the pending stamp of `burn run` for the session, if there is one.
    fn push_claimed_stamp(&self, queued: &Queued, filling: &mut Filling) {
        let Some(stamp) = self.claim(queued) else { return };
        let before = filling.batch.entry_count();
        if filling.batch.push_stamp(&stamp.line).is_err() {
            stamp.give_back();
            return;
        }
        filling.kinds.push(None);
        let rows = filling.batch.entry_count() - before - 1;
        filling.kinds.extend(std::iter::repeat_n(Some(RecordKind::Relationship), rows));
        filling.claims.push(stamp);
    }

    /// Pushes the records of a log that the ledger does not have yet.
    fn push_records(
        &mut self,
        queued: &Queued,
        tally: &mut AgentReport,
        filling: &mut Filling,
    ) -> Result<(), AgentsError> {
        let gathered = &queued.gathered;
        let mut filter = RecordFilter::of(self, gathered);
        for stamp in &gathered.stamps {
            let before = filling.batch.entry_count();
            match filling.batch.push_stamp(&stamp.text) {
                Ok(()) => {
                    filling.kinds.push(None);
                    let rows = filling.batch.entry_count() - before - 1;
                    filling.kinds.extend(std::iter::repeat_n(Some(RecordKind::Relationship), rows));
                }
                Err(refusal) => self.refused(queued, stamp, &refusal.reason, tally),
            }
        }
        for (kind, records) in [
            (Some(RecordKind::Turn), &gathered.turns),
            (None, &gathered.content),
            (Some(RecordKind::Compaction), &gathered.compactions),
            (Some(RecordKind::Relationship), &gathered.relationships),
            (Some(RecordKind::ToolResultEvent), &gathered.tool_result_events),
            (Some(RecordKind::UserTurn), &gathered.user_turns),
        ] {
            for record in records {
                if record.other_id.is_some_and(|id| filling.other_ids.contains(&id)) {
                    *tally.left_out.entry(Reason::Duplicate.as_str()).or_default() += 1;
                    continue;
                }
                let Some(text) = filter.passes(self, kind, record)? else {
                    match record.row {
                        Some(row) => self.leave_out(queued, tally, Reason::Replay, || row_name(row)),
                        None => *tally.left_out.entry(Reason::Replay.as_str()).or_default() += 1,
                    }
                    if let Some(branch) = &record.branch {
                        self.branches.insert(queued.path.clone(), branch.clone());
                    }
                    continue;
                };
                if kind == Some(RecordKind::Turn) {
                    self.push_stamps_of_turn(&queued.path, record, &text, filling);
                }
                let pushed = match kind {
                    Some(kind) => filling.batch.push(kind, &text),
                    None => filling.batch.push_content(&text),
                };
                match (pushed, kind) {
                    (Ok(()), Some(kind)) => {
                        filling.kinds.push(Some(kind));
                        if kind == RecordKind::Turn && !self.options.as_reference {
                            with_record(&text, |turn| self.ingest.known.add_turn(turn));
                        }
                    }
                    (Ok(()), None) => filling.content += 1,
                    (Err(refusal), _) => self.refused(queued, record, &refusal.reason, tally),
                }
            }
        }
        Ok(())
    }

    /// Pushes the stamps of a new turn. They go before the turn, because the next run writes both again if this run is
    /// killed between the two.
    fn push_stamps_of_turn(&mut self, path: &Path, record: &PassRecord, text: &[u8], filling: &mut Filling) {
        let carried = self.branches.remove(path);
        if record.stamp.is_none() && record.branch.is_none() && carried.is_none() {
            return;
        }
        if with_record(text, |turn| self.ingest.known.has_message(turn)) != Some(false) {
            if let Some(carried) = carried {
                self.branches.insert(path.to_owned(), carried);
            }
            return;
        }
        let branch = record.branch.as_ref().or(carried.as_ref());
        for stamp in [branch, record.stamp.as_ref()].into_iter().flatten() {
            if filling.batch.push_stamp(stamp).is_ok() {
                filling.kinds.push(None);
            }
        }
    }

    fn refused(&mut self, queued: &Queued, record: &PassRecord, reason: &str, tally: &mut AgentReport) {
        let path = queued.path.display();
        let name = record.row.map_or("a record".to_owned(), row_name);
        self.observer.note(&format!("[burn] {path}: {name} is not written: {reason}"));
        self.leave_out(queued, tally, Reason::Refused, || match record.row {
            Some(_) => format!("{name}: {reason}"),
            None => reason.to_owned(),
        });
    }

    /// Counts a record that is not written, and names it if lines are named.
    fn leave_out(
        &mut self,
        queued: &Queued,
        tally: &mut AgentReport,
        reason: Reason,
        detail: impl FnOnce() -> String,
    ) {
        let mut left_out = LeftOut::default();
        left_out.add(&self.options, (0, 0), reason, detail);
        self.left_out(&queued.path, left_out, tally);
    }

    /// Appends a filled batch and counts what was written.
    fn write_batch(&mut self, filling: Filling, tally: &mut AgentReport) -> Result<(), AgentsError> {
        let Filling { batch, kinds, content, claims, .. } = filling;
        let content = content - batch.skipped().min(content);
        let mut written = Vec::new();
        let ledger = Ledger::new(self.ingest.home.clone()).with_interrupt(self.interrupt);
        let appended = match ledger.append_telling(&batch, &AppendOptions::default(), &mut written) {
            Ok(appended) => appended,
            Err(error) => {
                // If the line of a stamp was written, its claim shows this to the next run.
                drop(claims);
                self.ingest.known = Known::default();
                return Err(error.into());
            }
        };
        claims.into_iter().for_each(Claimed::applied);
        for number in &written {
            if let Some(Some(kind)) = kinds.get(*number as usize) {
                *tally.appended.of(*kind) += 1;
            }
        }
        let duplicates = appended.duplicates;
        let duplicate_lines = kinds.len() as u64 - (written.len() as u64).min(kinds.len() as u64);
        tally.duplicates += duplicates;
        tally.appended.content += content - duplicates.saturating_sub(duplicate_lines).min(content);
        Ok(())
    }

    /// Claims the pending stamp of a session.
    fn claim(&self, queued: &Queued) -> Option<Claimed> {
        let gathered = &queued.gathered;
        let agent = queued.agent.filter(|agent| matches!(agent, Agent::Codex | Agent::OpenCode))?;
        if gathered.turns.is_empty() {
            return None;
        }
        pending::claim(
            &self.ingest.home,
            &pending::StampTarget {
                agent,
                id: gathered.session_id.as_deref().filter(|id| !id.is_empty())?,
                cwd: gathered.cwd.as_deref(),
                path: &queued.path,
                mtime_ms: gathered.session_mtime_ms,
                as_reference: self.options.as_reference,
            },
        )
    }
}

fn row_name((table, number): (&str, i64)) -> String {
    format!("row {number} of {table}")
}

/// Selects the records of a pass to write. Leaves out messages of other sessions and known results.
struct RecordFilter {
    document: Document,
    dropped: HashSet<u32>,
    is_hook: bool,
    /// The highest number among the events of the pass.
    last_number: f64,
    /// The sessions with events of hooks.
    numbers: HashMap<Vec<u8>, hook::Numbers>,
}

impl RecordFilter {
    fn of(run: &Run<'_>, gathered: &Gathered) -> Self {
        let mut filter = RecordFilter {
            document: Document::default(),
            dropped: HashSet::new(),
            is_hook: run.is_hook,
            last_number: -1.0,
            numbers: HashMap::new(),
        };
        if run.options.as_reference {
            return filter;
        }
        for event in &gathered.tool_result_events {
            let number =
                filter.document.parse(&event.text).ok().and_then(|event| js::number(event, "eventIndex"));
            filter.last_number = filter.last_number.max(number.unwrap_or(-1.0));
        }
        for turn in &gathered.turns {
            let is_of_another =
                filter.document.parse(&turn.text).is_ok_and(|root| run.ingest.known.is_of_another(root));
            if let Some(owner) = turn.owner.filter(|_| is_of_another) {
                filter.dropped.insert(owner);
            }
        }
        filter
    }

    /// The text of a record to write; none if the record repeats a known message or result.
    fn passes<'t>(
        &mut self,
        run: &Run<'_>,
        kind: Option<RecordKind>,
        record: &'t PassRecord,
    ) -> Result<Option<Cow<'t, [u8]>>, AgentsError> {
        let is_reference = run.options.as_reference;
        if !is_reference && record.owner.is_some_and(|owner| self.dropped.contains(&owner)) {
            return Ok(None);
        }
        let text = Cow::Borrowed(&record.text[..]);
        if kind != Some(RecordKind::ToolResultEvent) || is_reference && !self.is_hook {
            return Ok(Some(text));
        }
        let Ok(event) = self.document.parse(&record.text) else { return Ok(Some(text)) };
        let known = &run.ingest.known;
        if !is_reference && known.has_result(event) {
            return Ok(None);
        }
        let session = js::any_text(event, "sessionId").unwrap_or_default();
        let is_claude = js::any_text(event, "source") == Some(b"claude-code");
        if !is_claude || !self.is_hook && !known.is_hooked(session) {
            return Ok(Some(text));
        }
        if !self.numbers.contains_key(session) {
            let mut numbers = hook::Numbers::of(known, session);
            if !self.is_hook {
                numbers.reserve(self.last_number);
            }
            self.numbers.insert(session.to_vec(), numbers);
        }
        let look = hook::Look { known, home: &run.ingest.home };
        match self.numbers.get_mut(session) {
            Some(numbers) => {
                let which = if self.is_hook { hook::Renumbered::All } else { hook::Renumbered::Taken };
                Ok(numbers.renumber(look, event, which)?.map(Cow::Owned))
            }
            None => Ok(Some(text)),
        }
    }
}

//! The second half of a run: appends the records under lock `ledger`, without the records that the ledger has already.
//!
//! Guarantees: one append writes the records of a log with their stamps; a cursor moves only after its records are in
//! the ledger.

use super::*;
use crate::agents::known::{EventNote, ResultNote, has_certain_id, result_key};
use crate::ledger::WrittenLines;
use crate::record::Id;
use crate::scan::json::trim_js;

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
    /// The results of the queue. They become known when all records are pushed, because one line may have a result twice.
    results: Vec<ResultNote>,
    /// Notes on events, by the number of their line.
    events: HashMap<u32, EventNote>,
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
        if !self.options.as_reference && !self.is_hook {
            self.ingest.known.save_if_many(&self.ingest.home)?;
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
            batch: match (as_reference, self.import.is_some()) {
                (true, _) => Batch::unchecked(),
                (false, true) => Batch::strict(),
                (false, false) => Batch::new(),
            },
            kinds: Vec::new(),
            content: 0,
            claims: Vec::new(),
            other_ids: self.known_other_ids(queue)?,
            results: Vec::new(),
            events: HashMap::new(),
        };
        for queued in queue {
            filling.batch.join_next();
            self.push_claimed_stamp(queued, &mut filling);
            self.push_records(queued, tally, &mut filling)?;
        }
        filling.results.drain(..).for_each(|note| self.ingest.known.add_result(note));
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
        let mut filter = RecordFilter { is_hook: self.is_hook, ..RecordFilter::default() };
        let mut document = Document::default();
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
                match kind {
                    None if filter.is_dropped(record) => self.is_replay(queued, record, tally),
                    None => self.push_content(queued, record, tally, filling),
                    // The record is parsed once for all that needs its members.
                    Some(kind) => match document.parse(trim_js(&record.text)) {
                        Ok(root) => {
                            self.push_record(queued, (kind, root), record, &mut filter, tally, filling)?;
                        }
                        // The batch says what is wrong with the text.
                        Err(_) => match filling.batch.push(kind, &record.text) {
                            Ok(()) => filling.kinds.push(Some(kind)),
                            Err(refusal) => self.refused(queued, record, &refusal.reason, tally),
                        },
                    },
                }
            }
        }
        Ok(())
    }

    fn push_content(
        &mut self,
        queued: &Queued,
        record: &PassRecord,
        tally: &mut AgentReport,
        filling: &mut Filling,
    ) {
        let pushed = match record.row {
            // Another program has printed the record.
            Some(_) => filling.batch.push_content(&record.text),
            None => filling.batch.push_printed_content(&record.text),
        };
        match pushed {
            Ok(()) => filling.content += 1,
            Err(refusal) => self.refused(queued, record, &refusal.reason, tally),
        }
    }

    /// Pushes a record of the ledger unless the ledger has it.
    fn push_record(
        &mut self,
        queued: &Queued,
        (kind, root): (RecordKind, Value<'_>),
        record: &PassRecord,
        filter: &mut RecordFilter,
        tally: &mut AgentReport,
        filling: &mut Filling,
    ) -> Result<(), AgentsError> {
        let learns = !self.options.as_reference;
        match kind {
            RecordKind::Turn if learns => filter.look_at_turn(self, record, root),
            RecordKind::ToolResultEvent if learns => filling.results.extend(ResultNote::of(root)),
            _ => {}
        }
        let Some(text) = filter.passes(self, kind, record, root, &queued.gathered)? else {
            self.is_replay(queued, record, tally);
            return Ok(());
        };
        if kind == RecordKind::Turn {
            self.push_stamps_of_turn(&queued.path, record, root, filling);
        }
        let number = filling.batch.entry_count() as u32;
        let pushed = match (&text, record.row) {
            (Cow::Borrowed(text), None) => filling.batch.push_printed(kind, text, root),
            _ => filling.batch.push(kind, &text),
        };
        if let Err(refusal) = pushed {
            self.refused(queued, record, &refusal.reason, tally);
            return Ok(());
        }
        filling.kinds.push(Some(kind));
        match (kind, &text) {
            _ if !learns => {}
            (RecordKind::Turn, _) => {
                if has_certain_id(root) {
                    filling.batch.compare_last_by_id_alone();
                }
                self.ingest.known.add_turn(root);
            }
            (RecordKind::ToolResultEvent, Cow::Borrowed(_)) => {
                filling.events.extend(EventNote::of(root).map(|note| (number, note)));
            }
            (RecordKind::ToolResultEvent, Cow::Owned(text)) => {
                let note = with_record(text, EventNote::of).flatten();
                filling.events.extend(note.map(|note| (number, note)));
            }
            _ => {}
        }
        Ok(())
    }

    /// Counts a record that repeats another session or a known result.
    fn is_replay(&mut self, queued: &Queued, record: &PassRecord, tally: &mut AgentReport) {
        match record.row {
            Some(row) => self.leave_out(queued, tally, Reason::Replay, || row_name(row)),
            None => *tally.left_out.entry(Reason::Replay.as_str()).or_default() += 1,
        }
        if let Some(branch) = &record.branch {
            self.branches.insert(queued.path.clone(), branch.clone());
        }
    }

    /// Pushes the stamps of a new turn. They go before the turn, because the next run writes both again if this run is
    /// killed between the two.
    fn push_stamps_of_turn(
        &mut self,
        path: &Path,
        record: &PassRecord,
        turn: Value<'_>,
        filling: &mut Filling,
    ) {
        let carried = self.branches.remove(path);
        if record.stamp.is_none() && record.branch.is_none() && carried.is_none() {
            return;
        }
        if self.ingest.known.has_message(turn) {
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
        let Filling { batch, kinds, content, claims, events, .. } = filling;
        let content = content - batch.skipped().min(content);
        let mut written = WrittenLines::default();
        let ledger = Ledger::new(self.ingest.home.clone()).with_interrupt(self.interrupt);
        let appended = match ledger.append_telling(
            &batch,
            &AppendOptions::default(),
            &mut self.sidecar_lines,
            &mut written,
        ) {
            Ok(appended) => appended,
            Err(error) => {
                // If the line of a stamp was written, its claim shows this to the next run.
                drop(claims);
                self.ingest.known = Known::default();
                return Err(error.into());
            }
        };
        claims.into_iter().for_each(Claimed::applied);
        if !self.options.as_reference {
            let line = |number: &u32| (batch.entry_len_bytes(*number), events.get(number).copied());
            let lines: Vec<_> = written.numbers.iter().map(line).collect();
            self.ingest.known.take_appended(written.end_bytes, &lines);
        }
        let written = written.numbers;
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
#[derive(Default)]
struct RecordFilter {
    /// The turns of the pass that repeat another session.
    dropped: HashSet<u32>,
    is_hook: bool,
    /// The sessions with events of hooks.
    numbers: HashMap<Vec<u8>, hook::Numbers>,
}

/// The highest number among the events of a pass.
fn last_number(gathered: &Gathered) -> f64 {
    let number = |event: &PassRecord| with_record(&event.text, |event| js::number(event, "eventIndex"));
    gathered.tool_result_events.iter().filter_map(number).flatten().fold(-1.0, f64::max)
}

impl RecordFilter {
    /// Notes whether a turn repeats another session. Turns come before the other records of their pass.
    fn look_at_turn(&mut self, run: &Run<'_>, record: &PassRecord, turn: Value<'_>) {
        if run.ingest.known.is_of_another(turn) {
            self.dropped.extend(record.owner);
        }
    }

    /// Whether the record belongs to a turn that repeats another session.
    fn is_dropped(&self, record: &PassRecord) -> bool {
        record.owner.is_some_and(|owner| self.dropped.contains(&owner))
    }

    /// The text of a record to write; none if the record repeats a known message or result.
    fn passes<'t>(
        &mut self,
        run: &mut Run<'_>,
        kind: RecordKind,
        record: &'t PassRecord,
        event: Value<'_>,
        gathered: &Gathered,
    ) -> Result<Option<Cow<'t, [u8]>>, AgentsError> {
        let is_reference = run.options.as_reference;
        if self.is_dropped(record) {
            return Ok(None);
        }
        let text = Cow::Borrowed(&record.text[..]);
        if kind != RecordKind::ToolResultEvent || is_reference && !self.is_hook {
            return Ok(Some(text));
        }
        let known = &run.ingest.known;
        let import = &mut run.import;
        let is_imported = import.as_ref().is_some_and(|import| import.has_result(event));
        if !is_reference && known.has_result(event) && !is_imported {
            return Ok(None);
        }
        let session = js::any_text(event, "sessionId").unwrap_or_default();
        let is_claude = js::any_text(event, "source") == Some(b"claude-code");
        let is_hooked = self.is_hook
            || known.is_hooked(session)
            || import.as_ref().is_some_and(|import| import.hooked.contains(session));
        let mut passed = Some(text);
        if is_claude && is_hooked {
            // The numbers of an import go on from one event to the next.
            let goes_on = import.is_some();
            let all = import.as_mut().map_or(&mut self.numbers, |import| &mut import.numbers);
            if !all.contains_key(session) {
                let mut numbers = hook::Numbers::of(known, session);
                if !self.is_hook && !goes_on {
                    numbers.reserve(last_number(gathered));
                }
                all.insert(session.to_vec(), numbers);
            }
            let look = hook::Look { known, home: &run.ingest.home };
            let which = if self.is_hook { hook::Renumbered::All } else { hook::Renumbered::Taken };
            if let Some(numbers) = all.get_mut(session) {
                passed = numbers.renumber(look, event, which)?.map(Cow::Owned);
            }
        }
        if let (Some(import), Some(_)) = (import, &passed) {
            import.results.extend(result_key(event));
        }
        Ok(passed)
    }
}

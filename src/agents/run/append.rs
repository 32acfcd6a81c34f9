//! The second half of a run: appends the records under lock `ledger`, without the records that the ledger has already.
//!
//! Guarantees: one append writes the records of a log with their stamps; a cursor moves only after its records are in
//! the ledger.

use rustc_hash::{FxHashMap, FxHashSet};

use super::*;
use crate::agents::claude::CARRIED;
use crate::agents::js::RecordText;
use crate::agents::known::{EventNote, LineNote, RecordNotes, ResultNote, TurnNote, session_key};
use crate::ledger::{Refusal, WrittenLines};
use crate::record::IdSet;
use crate::scan::json::trim_js;

/// A batch that is being filled, with the kinds of its lines.
#[derive(Default)]
struct Filling {
    batch: Batch,
    /// The kind of each line of the batch, by its number; none for a stamp.
    kinds: Vec<Option<RecordKind>>,
    /// The log's line of each line of the batch, by its number.
    line_of: Vec<Option<MadeLine>>,
    unwritten: UnwrittenLines,
    /// The results of the batch by their keys, each with its line.
    seen_results: FxHashMap<u64, MadeLine>,
    /// The number of content records.
    content: u64,
    /// Pending stamps of `burn run`, claimed for this batch.
    claims: Vec<Claimed>,
    /// Ids that the ledger has among [`PassRecord::other_id`].
    other_ids: IdSet,
    /// The results of the queue. They become known when all records are pushed, because one line may have a result twice.
    results: Vec<ResultNote>,
    /// The turns of the batch: the number of the line, and the index of the log in the queue.
    turns: Vec<(u32, usize)>,
    /// The logs in the queue of which the ledger has a turn under another session.
    elsewhere: Vec<usize>,
    /// Notes on events, by the number of their line.
    events: FxHashMap<u32, EventNote>,
}

impl Filling {
    /// Whether another line of the batch has the same result. One line may have a result twice.
    fn is_repeated(&mut self, line: Option<MadeLine>, result: Option<ResultNote>) -> bool {
        let (Some(line), Some(key)) = (line, result.and_then(ResultNote::key)) else { return false };
        *self.seen_results.entry(key).or_insert(line) != line
    }

    /// Pushes a stamp. The batch adds the relationships of some stamps.
    fn push_stamp(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let before = self.batch.entry_count();
        self.batch.push_stamp(line)?;
        self.kinds.push(None);
        let rows = self.batch.entry_count() - before - 1;
        self.kinds.extend(std::iter::repeat_n(Some(RecordKind::Relationship), rows));
        Ok(())
    }

    /// Notes the kind of a pushed record and its line.
    fn add_kind(&mut self, kind: RecordKind, line: Option<MadeLine>) {
        self.kinds.push(Some(kind));
        self.line_of.resize(self.kinds.len() - 1, None);
        self.line_of.push(line);
    }
}

/// A line of a log that made records: the log by its index in the queue, the offset and the length of the line in bytes.
type MadeLine = (usize, u64, u64);

/// The lines that made records of which some are not written.
#[derive(Default)]
struct UnwrittenLines {
    /// The lines in the order of the logs, each with the reason.
    lines: BTreeMap<MadeLine, Reason>,
    /// Those of which a record is refused. The refusal names the line.
    refused: HashSet<MadeLine>,
}

impl UnwrittenLines {
    /// Adds a line with a record that is not written.
    fn add(&mut self, line: MadeLine, reason: Reason) {
        let known = self.lines.entry(line).or_insert(reason);
        if reason == Reason::Replay {
            *known = reason;
        }
    }

    /// Removes the lines that are named already, and those of which a record is written.
    fn keep_unnamed(&mut self, written: impl Iterator<Item = MadeLine>) {
        if self.lines.is_empty() {
            return;
        }
        for line in self.refused.drain().chain(written) {
            self.lines.remove(&line);
        }
    }
}

/// A record that is pushed, with its notes and its line.
struct NotedRecord<'r> {
    /// The index of its log in the queue.
    log: usize,
    kind: RecordKind,
    record: &'r PassRecord,
    text: &'r [u8],
    notes: RecordNotes,
    /// The parsed text, unless the reader has made the notes.
    root: Option<Value<'r>>,
    line: Option<MadeLine>,
}

impl Run<'_> {
    /// Appends the queued records.
    pub(in crate::agents) fn flush(&mut self, tally: &mut AgentReport) -> Result<(), AgentsError> {
        let mut queue = std::mem::take(&mut self.queue);
        for queued in &mut queue {
            if let Some(line) = queued.gathered.carried.take() {
                self.branches.insert(queued.path.clone(), CarriedStamp::new(line));
            }
        }
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
            let appended = with_lock_unless(&home.lock(LockName::Ledger), &interrupt, |_| {
                self.append(&mut queue, tally)
            });
            if appended.is_err() {
                // It knows turns that are not written.
                self.ingest.known = Known::default();
            }
            appended?;
        }
        for mut queued in queue {
            if let (Some(mut side), Some(agent)) = (queued.gathered.side.take(), queued.agent) {
                if let Some(carried) = self.branches.get(&queued.path) {
                    side = with_member(&side, CARRIED, &carried.line);
                }
                self.side.set(note_key(agent, &queued.path), side);
            }
            if let Some(cursor) = queued.gathered.cursor {
                self.cursors.set(key_of(&queued.path), cursor);
            }
            if let Some((path, state)) = queued.gathered.state {
                let write = |file: &disk::File| {
                    // Without the allocation, ext4 writes the bytes to the disk before it renames the file, and the run waits. With
                    // it the file may have zeros after a power cut, which its checksum shows.
                    file.preallocate(state.len() as u64);
                    file.write_all(&state)
                };
                // After a failure the next run reads the lines before the cursor again.
                let _ = disk::create_dir_all(disk::parent_of(&path))
                    .and_then(|()| disk::replace_with(&path, disk::Replacing::Unsynced, write));
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
    fn append(&mut self, queue: &mut [Queued], tally: &mut AgentReport) -> Result<(), AgentsError> {
        let as_reference = self.options.as_reference;
        self.ingest.refuse_orphaned_ids()?;
        if !as_reference || self.is_hook {
            self.ingest.known.catch_up(&self.ingest.home)?;
        }
        let mut filling = Filling {
            batch: match (as_reference, self.import.is_some()) {
                (true, _) => Batch::unchecked(),
                (false, true) => Batch::strict(),
                (false, false) => Batch::new(),
            },
            other_ids: self.known_other_ids(queue)?,
            ..Filling::default()
        };
        for number in 0..queue.len() {
            filling.batch.join_next();
            self.push_claimed_stamp(&queue[number], &mut filling);
            self.push_records(queue, number, tally, &mut filling)?;
        }
        filling.results.drain(..).for_each(|note| self.ingest.known.add_result(note));
        for session in filling.batch.skipped_sessions() {
            self.observer
                .note(&format!("[burn] skipping content records with unsafe sessionId: {session:?}"));
        }
        let elsewhere = std::mem::take(&mut filling.elsewhere);
        self.lacks_turns |= !elsewhere.is_empty();
        let (unwritten, lost) = self.write_batch(filling, tally)?;
        for number in lost.into_iter().chain(elsewhere) {
            queue[number].gathered.side = None;
        }
        for ((number, offset, len_bytes), reason) in unwritten.lines.into_iter().filter(|_| !as_reference) {
            let detail = || match reason {
                Reason::Replay => "its records are known from another session or from a hook".to_owned(),
                _ => "the ledger has its records already".to_owned(),
            };
            self.leave_out(&queue[number], (offset, len_bytes), tally, reason, detail)?;
        }
        Ok(())
    }

    /// The ids of user turns that the TypeScript package wrote under another `userUuid`.
    fn known_other_ids(&self, queue: &[Queued]) -> Result<IdSet, AgentsError> {
        let user_turns = queue.iter().flat_map(|queued| &queued.gathered.user_turns);
        let ids: Vec<Id> = user_turns.filter_map(|record| record.other_id).collect();
        Ok(Ledger::new(self.ingest.home.clone()).known_ids(&ids)?)
    }

    /// Pushes the pending stamp of `burn run` for the session, if there is one.
    fn push_claimed_stamp(&self, queued: &Queued, filling: &mut Filling) {
        let Some(stamp) = self.claim(queued) else { return };
        match filling.push_stamp(&stamp.line) {
            Ok(()) => filling.claims.push(stamp),
            Err(_) => stamp.give_back(),
        }
    }

    /// Pushes the records of a log that the ledger does not have yet.
    fn push_records(
        &mut self,
        queue: &[Queued],
        number: usize,
        tally: &mut AgentReport,
        filling: &mut Filling,
    ) -> Result<(), AgentsError> {
        let queued = &queue[number];
        let gathered = &queued.gathered;
        let mut filter = RecordFilter {
            is_hook: self.is_hook,
            is_of_claude: queued.agent == Some(Agent::Claude) && !self.options.as_reference,
            ..RecordFilter::default()
        };
        let mut document = Document::default();
        for stamp in &gathered.stamps {
            if let Err(refusal) = filling.push_stamp(gathered.text_of(stamp)) {
                self.refused(queued, stamp, &refusal.reason, tally)?;
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
                let text = gathered.text_of(record);
                if record.other_id.is_some_and(|id| filling.other_ids.contains(&id)) {
                    *tally.left_out.entry(Reason::Duplicate.as_str()).or_default() += 1;
                    continue;
                }
                match kind {
                    None if filter.is_dropped(record) || filter.is_copied_content(self, record, text) => {
                        self.is_replay(queued, record, None, tally, filling)?;
                    }
                    None => self.push_content(queued, record, text, tally, filling)?,
                    Some(kind) => {
                        let (notes, root) = match record.notes {
                            Some(notes) => (notes, None),
                            None => match document.parse(trim_js(text)) {
                                Ok(root) => (RecordNotes::of(kind, root), Some(root)),
                                // The batch says what is wrong with the text.
                                Err(_) => (RecordNotes::default(), None),
                            },
                        };
                        let line = record.line.map(|(offset, len_bytes)| (number, offset, len_bytes));
                        let noted = NotedRecord { log: number, kind, record, text, notes, root, line };
                        self.push_record(queued, &noted, &mut filter, tally, filling)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn push_content(
        &mut self,
        queued: &Queued,
        record: &PassRecord,
        text: &[u8],
        tally: &mut AgentReport,
        filling: &mut Filling,
    ) -> Result<(), AgentsError> {
        let skipped = filling.batch.skipped_sessions_count();
        let pushed = match record.row {
            // Another program has printed the record.
            Some(_) => filling.batch.push_content(text),
            None => filling.batch.push_printed_content(text),
        };
        if let Err(refusal) = pushed {
            return self.refused(queued, record, &refusal.reason, tally);
        }
        filling.content += 1;
        if filling.batch.skipped_sessions_count() > skipped {
            let name = record.row.map_or("content".to_owned(), row_name);
            let detail = || format!("{name}: the session id cannot name a file");
            self.leave_out(queued, record.line.unwrap_or_default(), tally, Reason::Refused, detail)?;
        }
        Ok(())
    }

    /// Pushes a record of the ledger unless the ledger has it.
    fn push_record(
        &mut self,
        queued: &Queued,
        noted: &NotedRecord<'_>,
        filter: &mut RecordFilter,
        tally: &mut AgentReport,
        filling: &mut Filling,
    ) -> Result<(), AgentsError> {
        let NotedRecord { log, kind, record, notes, root, line, .. } = *noted;
        let learns = !self.options.as_reference;
        if learns {
            filter.look_at_turn(self, record, notes.turn);
            filling.results.extend(notes.result);
        }
        let Some(text) = filter.passes(self, noted, &queued.gathered)? else {
            if notes.turn.is_some_and(|turn| is_own_turn_of_codex(queued, turn)) {
                filling.elsewhere.push(log);
            }
            return self.is_replay(queued, record, line, tally, filling);
        };
        if learns && filling.is_repeated(line, notes.result) {
            line.into_iter().for_each(|line| filling.unwritten.add(line, Reason::Duplicate));
            return Ok(());
        }
        if kind == RecordKind::Turn {
            self.push_stamps_of_turn(&queued.path, record, notes.turn, filling);
        }
        let number = filling.batch.entry_count() as u32;
        let pushed = match (&text, root, notes.made) {
            (Cow::Borrowed(text), _, Some(made)) => filling.batch.push_made(kind, text, made),
            (Cow::Borrowed(text), Some(root), _) if record.row.is_none() => {
                filling.batch.push_printed(kind, text, root)
            }
            _ => filling.batch.push(kind, &text),
        };
        if let Err(refusal) = pushed {
            if let Some(line) = line {
                filling.unwritten.refused.insert(line);
            }
            return self.refused(queued, record, &refusal.reason, tally);
        }
        filling.add_kind(kind, line);
        if kind == RecordKind::Turn {
            filling.turns.push((number, log));
        }
        if !learns {
            return Ok(());
        }
        if let Some(turn) = notes.turn {
            let fingerprint = filling.batch.last_fingerprint();
            let import = self.import.as_mut();
            if import.is_some_and(|import| import.is_another_turn_of(turn.session, fingerprint))
                || is_certain(queued, turn)
            {
                filling.batch.compare_last_by_id_alone();
            }
            self.ingest.known.add_message(turn.key, turn.session);
        }
        if let Some(line) = notes.line.filter(|_| kind == RecordKind::UserTurn) {
            self.ingest.known.add_message(line.key, line.session);
        }
        let event = match &text {
            Cow::Borrowed(_) => notes.event,
            Cow::Owned(text) => with_record(text, |event| RecordNotes::of(kind, event).event).flatten(),
        };
        filling.events.extend(event.map(|event| (number, event)));
        Ok(())
    }

    /// Counts a record that repeats another session or a known result.
    fn is_replay(
        &mut self,
        queued: &Queued,
        record: &PassRecord,
        line: Option<MadeLine>,
        tally: &mut AgentReport,
        filling: &mut Filling,
    ) -> Result<(), AgentsError> {
        match (record.row, line) {
            (Some(row), _) => {
                self.leave_out(queued, (0, 0), tally, Reason::Replay, || row_name(row))?;
            }
            (None, Some(line)) => filling.unwritten.add(line, Reason::Replay),
            // Content is named with the other records of its line.
            (None, None) if record.line.is_some() => {}
            (None, None) => *tally.left_out.entry(Reason::Replay.as_str()).or_default() += 1,
        }
        if let Some(branch) = &record.branch {
            self.branches.insert(queued.path.clone(), CarriedStamp::new(branch.clone()));
        }
        Ok(())
    }

    /// Pushes the stamps of a new turn. They go before the turn, because the next run writes both again if this run is
    /// killed between the two.
    fn push_stamps_of_turn(
        &mut self,
        path: &Path,
        record: &PassRecord,
        turn: Option<TurnNote>,
        filling: &mut Filling,
    ) {
        // A look-up would hash the path for each turn.
        let carried = if self.branches.is_empty() { None } else { self.branches.remove(path) };
        if record.stamp.is_none() && record.branch.is_none() && carried.is_none() {
            return;
        }
        if turn.is_some_and(|turn| self.ingest.known.has_message(turn)) {
            // A stamp of its own, which was written with the turn, took the place of the one that was carried.
            if let Some(carried) = carried.filter(|_| record.branch.is_none()) {
                let carried = CarriedStamp { may_be_written: true, ..carried };
                self.branches.insert(path.to_owned(), carried);
            }
            return;
        }
        // The ledger is read only if the log was read from its beginning again.
        let is_written = |carried: &CarriedStamp| {
            carried.may_be_written && has_line(&self.ingest.home, &carried.line).unwrap_or(false)
        };
        let carried = carried.filter(|carried| record.branch.is_none() && !is_written(carried));
        let branch = record.branch.as_ref().or(carried.as_ref().map(|carried| &carried.line));
        for stamp in [branch, record.stamp.as_ref()].into_iter().flatten() {
            // A turn is written without a stamp that the ledger refuses.
            let _ = filling.push_stamp(stamp);
        }
    }

    fn refused(
        &mut self,
        queued: &Queued,
        record: &PassRecord,
        reason: &str,
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        let path = queued.path.display();
        let name = record.row.map_or("a record".to_owned(), row_name);
        self.observer.note(&format!("[burn] {path}: {name} is not written: {reason}"));
        self.leave_out(queued, record.line.unwrap_or_default(), tally, Reason::Refused, || match record.row {
            Some(_) => format!("{name}: {reason}"),
            None => reason.to_owned(),
        })
    }

    /// Counts a record that is not written, and names it if lines are named.
    fn leave_out(
        &mut self,
        queued: &Queued,
        place: (u64, u64),
        tally: &mut AgentReport,
        reason: Reason,
        detail: impl FnOnce() -> String,
    ) -> Result<(), AgentsError> {
        let mut left_out = LeftOut::default();
        left_out.add(&self.options, place, reason, detail);
        self.left_out(&queued.path, left_out, tally)
    }

    /// Appends a filled batch and counts what was written. Returns the lines without a written record, and the logs in the queue whose
    /// notes must not be saved: another run has written one of their turns at the same time, perhaps with other counts, and the
    /// note would call the counts of this run written. Without it, the next run takes the turn from the ledger.
    fn write_batch(
        &mut self,
        filling: Filling,
        tally: &mut AgentReport,
    ) -> Result<(UnwrittenLines, Vec<usize>), AgentsError> {
        let Filling { batch, kinds, line_of, mut unwritten, content, claims, turns, events, .. } = filling;
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
                return Err(error.into());
            }
        };
        claims.into_iter().for_each(Claimed::applied);
        if !self.options.as_reference {
            let line = |number: &u32| (batch.entry_len_bytes(*number), events.get(number).copied());
            let appended: Vec<_> = written.numbers.iter().map(line).collect();
            self.ingest.known.take_appended(written.end_bytes, &appended);
        }
        let len_bytes: u64 = written.numbers.iter().map(|number| batch.entry_len_bytes(*number)).sum();
        if let Some(own_end) = self.own_end.filter(|_| !kinds.is_empty()) {
            self.is_shared |= own_end + len_bytes != written.end_bytes;
            self.own_end = Some(written.end_bytes);
        }
        let written = written.numbers;
        for number in &written {
            if let Some(Some(kind)) = kinds.get(*number as usize) {
                *tally.appended.of(*kind) += 1;
            }
        }
        let line_of = |number: u32| line_of.get(number as usize).copied().flatten();
        if written.len() < kinds.len() {
            let there: FxHashSet<u32> = written.iter().copied().collect();
            let missing = (0..kinds.len() as u32).filter(|number| !there.contains(number));
            missing.filter_map(line_of).for_each(|line| unwritten.add(line, Reason::Duplicate));
        }
        unwritten.keep_unnamed(written.iter().copied().filter_map(line_of));
        let duplicates = appended.duplicates;
        let duplicate_lines = kinds.len() as u64 - (written.len() as u64).min(kinds.len() as u64);
        tally.duplicates += duplicates;
        tally.appended.content += content - duplicates.saturating_sub(duplicate_lines).min(content);
        let is_lost = |(number, _): &(u32, usize)| self.is_shared && !written.contains(number);
        Ok((unwritten, turns.into_iter().filter(is_lost).map(|(_, queued)| queued).collect()))
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

/// Whether a turn is told from all others by its id. Within the logs of an agent, different ids are different messages; the
/// numbered turns of old rollouts of Codex are none.
fn is_certain(queued: &Queued, turn: TurnNote) -> bool {
    match queued.agent {
        Some(Agent::Claude | Agent::OpenCode | Agent::Gemini) => turn.has_id,
        _ => turn.has_certain_id,
    }
}

/// Whether a turn of Codex with a certain id belongs to the session of its log, and repeats no parent. If the ledger has such a
/// turn under another session, the note on the log does not know with which counts, and the next run reads them from the ledger.
fn is_own_turn_of_codex(queued: &Queued, turn: TurnNote) -> bool {
    let session = queued.gathered.session_id.as_deref();
    queued.agent == Some(Agent::Codex)
        && turn.has_certain_id
        && session.is_some_and(|session| session_key(session) == turn.session)
}

/// The note with one more member.
fn with_member(note: &[u8], key: &'static str, json: &[u8]) -> Vec<u8> {
    let mut document = Document::default();
    let mut with = RecordText::default();
    if let Ok(note) = document.parse(note) {
        with.members_of(note, |_, _| false);
    }
    with.raw(key, json);
    with.finish()
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
    is_of_claude: bool,
    /// The sessions with events of hooks.
    numbers: HashMap<Vec<u8>, hook::Numbers>,
}

/// The highest number among the events of a pass.
fn last_number(gathered: &Gathered) -> f64 {
    let number = |event| with_record(gathered.text_of(event), |event| js::number(event, "eventIndex"));
    gathered.tool_result_events.iter().filter_map(number).flatten().fold(-1.0, f64::max)
}

impl RecordFilter {
    /// Notes whether a turn repeats another session. Turns come before the other records of their pass.
    fn look_at_turn(&mut self, run: &Run<'_>, record: &PassRecord, turn: Option<TurnNote>) {
        if turn.is_some_and(|turn| run.ingest.known.is_of_another(turn)) {
            self.dropped.extend(record.owner);
        }
    }

    /// Whether the record belongs to a turn that repeats another session.
    fn is_dropped(&self, record: &PassRecord) -> bool {
        record.owner.is_some_and(|owner| self.dropped.contains(&owner))
    }

    /// Whether a record of Claude Code is of a line that another session has. Its message is before the cursor, or still
    /// to come.
    fn is_copied(&self, run: &Run<'_>, record: &PassRecord, line: Option<LineNote>) -> bool {
        let is_without_owner = self.is_of_claude && record.owner.is_none();
        is_without_owner && line.is_some_and(|line| run.ingest.known.is_user_line_of_another(line))
    }

    fn is_copied_content(&self, run: &Run<'_>, record: &PassRecord, text: &[u8]) -> bool {
        let is_without_owner = self.is_of_claude && record.owner.is_none();
        let is_copied = |root: Value<'_>| match js::any_text(root, "role") {
            Some(b"assistant") => TurnNote::of(root).is_some_and(|turn| run.ingest.known.is_of_another(turn)),
            _ => self.is_copied(run, record, LineNote::of(root, "messageId")),
        };
        is_without_owner && with_record(text, is_copied) == Some(true)
    }

    /// The text of a record to write; none if the record repeats a known message or result.
    fn passes<'t>(
        &mut self,
        run: &mut Run<'_>,
        &NotedRecord { kind, record, text, notes, .. }: &NotedRecord<'t>,
        gathered: &Gathered,
    ) -> Result<Option<Cow<'t, [u8]>>, AgentsError> {
        let is_reference = run.options.as_reference;
        if self.is_dropped(record) || self.is_copied(run, record, notes.line) {
            return Ok(None);
        }
        if kind != RecordKind::ToolResultEvent || is_reference && !self.is_hook {
            return Ok(Some(Cow::Borrowed(text)));
        }
        let known = &run.ingest.known;
        let import = &mut run.import;
        let key = notes.result.and_then(ResultNote::key);
        let is_imported = import.as_ref().is_some_and(|import| import.has_result(key));
        if !is_reference && notes.result.is_some_and(|result| known.has_result(result)) && !is_imported {
            return Ok(None);
        }
        let is_hooked = notes.event.is_some_and(|event| {
            self.is_hook
                || known.is_hooked(event.session)
                || import.as_ref().is_some_and(|import| import.hooked.contains(&event.session))
        });
        let mut passed = Some(Cow::Borrowed(text));
        if is_hooked {
            // The numbers of an import go on from one event to the next.
            let goes_on = import.is_some();
            let all = import.as_mut().map_or(&mut self.numbers, |import| &mut import.numbers);
            let (look, is_hook) = (hook::Look { known, home: &run.ingest.home }, self.is_hook);
            let renumbered = with_record(text, |event| {
                let session = js::any_text(event, "sessionId").unwrap_or_default();
                let numbers = all.entry(session.to_vec()).or_insert_with(|| {
                    let mut numbers = hook::Numbers::of(known, session);
                    if !is_hook && !goes_on {
                        numbers.reserve(last_number(gathered));
                    }
                    numbers
                });
                let which = if is_hook { hook::Renumbered::All } else { hook::Renumbered::Taken };
                numbers.renumber(look, event, which)
            });
            if let Some(renumbered) = renumbered {
                passed = renumbered?.map(Cow::Owned);
            }
        }
        if let (Some(import), Some(_)) = (import, &passed) {
            import.results.extend(key);
        }
        Ok(passed)
    }
}

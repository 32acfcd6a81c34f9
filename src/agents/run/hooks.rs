//! Handles calls of hooks of Claude Code: appends their events, and reads the logs that they name.

use super::*;

/// A hook does not read more of the ledger than this.
const HOOK_BEHIND_MAX_BYTES: u64 = 16 << 20;

/// A hook does not rewrite a file `ingest.known` that is longer than this.
const HOOK_SAVE_MAX_BYTES: u64 = 8 << 20;

impl Ingest {
    /// Handles a call of a hook of Claude Code: appends its event, then reads the log that it names.
    ///
    /// A failure is in the report and is no error, because a failing hook can stop its agent. If more than 16 MiB of
    /// the ledger are not yet known, the hook does not read them, and the next run does.
    pub fn hook(
        &mut self,
        call: &HookCall,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> HookReport {
        let mut report = HookReport::default();
        let may_begin = settings::check_storage()
            .and_then(|()| self.check_near())
            .and_then(|()| self.refuse_lost_ledger())
            .and_then(|()| self.refuse_misfit(&call.transcript));
        if let Err(error) = may_begin {
            report.failures.push(error.to_string());
            return report;
        }
        if let Err(error) = self.hook_event(call, interrupt) {
            report.failures.push(format!("the hook's event is not written: {error}"));
        }
        let path = &call.transcript;
        match disk::metadata_of_target(path) {
            Err(error) if error.is_not_found() => {
                observer.note(&format!("[burn] ingest: no transcript at {}", path.display()));
            }
            Err(error) => report.failures.push(error.to_string()),
            Ok(found) if !found.is_file => {}
            Ok(_) => match self.transcript(path.clone(), None, observer, interrupt) {
                Ok((tally, skipped)) => {
                    report.read_turns = tally.read_turns;
                    report.failures.extend(skipped.into_iter().map(|skipped| skipped.error));
                    if tally.read_turns > 0 {
                        let turns = tally.read_turns;
                        observer.note(&format!("[burn] ingested {turns} turns from {}", path.display()));
                    }
                }
                Err(error) => report.failures.push(error.to_string()),
            },
        }
        report
    }

    /// Appends a part of the log that a call names: reads until `until`, at least one message and about 1 MiB at most.
    /// The next call goes on after this part.
    ///
    /// # Errors
    /// When more than 16 MiB of the ledger are not yet known, because `burn ingest` reads them; when the log cannot be
    /// read, or the ledger or the cursors cannot be written.
    #[cfg(feature = "cli")]
    pub(crate) fn import_part(
        &mut self,
        call: &HookCall,
        until: Instant,
        interrupt: &Interrupt,
    ) -> Result<(), AgentsError> {
        settings::check_storage()?;
        self.check_near()?;
        self.refuse_lost_ledger()?;
        self.refuse_misfit(&call.transcript)?;
        // The entries are saved before the log is read, because the process may be ended while the log is read. Otherwise
        // each part would begin with the same lines of the ledger.
        self.known.catch_up(&self.home)?;
        self.save_known_if_short()?;
        if disk::metadata_of_target(&call.transcript)?.is_file {
            self.transcript(call.transcript.clone(), Some(until), &mut super::super::NoObserver, interrupt)?;
        }
        Ok(())
    }

    /// Fails if more than [`HOOK_BEHIND_MAX_BYTES`] of the ledger are not yet known.
    fn check_near(&mut self) -> Result<(), AgentsError> {
        let behind_bytes = self.known.behind_bytes(&self.home)?;
        if self.options.as_reference || behind_bytes <= HOOK_BEHIND_MAX_BYTES {
            return Ok(());
        }
        Err(AgentsError::Unusable {
            path: self.home.ledger(),
            reason: format!(
                "{behind_bytes} bytes of it are too much to read for a hook; `burn ingest` reads them"
            ),
        })
    }

    fn hook_event(&mut self, call: &HookCall, interrupt: &Interrupt) -> Result<(), AgentsError> {
        let HookRecords { session, relationship, event } = &call.records;
        if relationship.is_none() && event.is_none() {
            return Ok(());
        }
        let home = self.home.clone();
        disk::create_dir_all(home.root())?;
        with_lock_unless(&home.lock(LockName::Ledger), interrupt, |_| {
            self.known.catch_up(&home)?;
            let mut numbers = hook::Numbers::of(&self.known, session);
            let look = hook::Look { known: &self.known, home: &home };
            let event =
                event.as_ref().and_then(|event| with_record(event, |event| numbers.number(look, event)));
            let event = event.transpose()?;
            let mut batch = Batch::new();
            let records = [
                (RecordKind::Relationship, relationship.clone()),
                (RecordKind::ToolResultEvent, event.flatten()),
            ];
            for (kind, record) in records {
                if let Some(record) = record {
                    batch.push(kind, &record).map_err(|refusal| AgentsError::Unusable {
                        path: PathBuf::from("the hook's payload"),
                        reason: refusal.reason,
                    })?;
                }
            }
            self.refuse_lost_ledger()?;
            let ledger = Ledger::new(home.clone()).with_interrupt(interrupt);
            ledger.append(&batch, &AppendOptions::default())?;
            Ok::<_, AgentsError>(())
        })
    }

    /// Handles the kept calls of hooks. Their logs are read with the others.
    pub(super) fn take_kept_hooks(
        &mut self,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<Vec<kept::Kept>, AgentsError> {
        let kept = kept::kept(&self.home, &mut |text| observer.note(text));
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        kept.iter().for_each(|kept| *reasons.entry(&kept.reason).or_default() += 1);
        for (reason, count) in reasons {
            let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
            observer.note(&format!("[burn] a hook left to this run ({times}): {reason}"));
        }
        for call in kept.iter().filter_map(|kept| kept.call.as_ref()) {
            match self.hook_event(call, interrupt) {
                // A call that the ledger refuses would be refused each time, so a note replaces it.
                Err(AgentsError::Unusable { path, reason }) => {
                    observer.note(&format!("[burn] ingest: {}: {reason}", path.display()));
                }
                told => told?,
            }
        }
        Ok(kept)
    }

    /// Reads one log, to its end or until `part_until`.
    fn transcript(
        &mut self,
        path: PathBuf,
        part_until: Option<Instant>,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<(AgentReport, Vec<SkippedFile>), AgentsError> {
        let candidate = Candidate { agent: Agent::Claude, path, extra: None };
        let mut run = Run::new(self, observer, interrupt)?;
        run.is_hook = true;
        run.options.part_until = part_until;
        let mut tally = AgentReport { agent: Agent::Claude.as_str(), ..AgentReport::default() };
        let read = run.read_all(Agent::Claude, std::slice::from_ref(&candidate), &mut tally);
        let read = read.and_then(|()| run.flush(&mut tally));
        // The cursor of appended records is saved even after an error, so that the lines are not read again.
        let saved = run.save();
        read.and(saved)?;
        run.warn(Agent::Claude);
        let skipped = run.report.skipped_files;
        self.save_known_if_short()?;
        Ok((tally, skipped))
    }

    /// Saves the entries for the next run if rewriting their file takes little time.
    fn save_known_if_short(&mut self) -> Result<(), AgentsError> {
        if !self.options.as_reference && self.known.base_len_bytes() <= HOOK_SAVE_MAX_BYTES {
            self.known.save(&self.home)?;
        }
        Ok(())
    }
}

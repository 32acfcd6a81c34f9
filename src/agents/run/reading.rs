//! Reads the logs of an agent, several at once, and queues their records in the order of the logs.

use super::*;

/// The greatest number of logs that are appended together.
const FLUSH_LOGS: usize = 256;

/// What reading a log has given so far.
#[derive(Debug, Default)]
struct LogOutcome {
    is_read: bool,
    is_skipped: bool,
    gave_turns: bool,
}

impl Run<'_> {
    pub(super) fn read_all(
        &mut self,
        agent: Agent,
        candidates: &[Candidate],
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        if candidates.is_empty() {
            return Ok(());
        }
        let options = self.options;
        let projects = std::mem::replace(&mut self.projects, ProjectKeys::new(options.as_reference));
        let reading = self.reading(agent, candidates, &options, &projects)?;
        let threads = match self.ingest.options.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let reading = &reading;
        self.own_end = reading.noted().map(|noted| noted.bytes);
        self.is_shared = false;
        // Most logs are as the last run has left them, and a look at them takes less time than giving them to a reader.
        let (unchanged, changed): (Vec<&Candidate>, Vec<_>) =
            candidates.iter().partition(|candidate| reading.is_unchanged(candidate));
        tally.unchanged_files += unchanged.len() as u64;
        let mut meter = Meter::new(agent, &changed, &reading.cursors);
        // A reader returns piece after piece, because a log of any length must not be in memory as a whole. As many logs are
        // read at once as there are permits, and each has a reader.
        let result = std::thread::scope(|scope| {
            let (jobs, waiting) = crossbeam_channel::unbounded::<(&Candidate, Sender<Handed>)>();
            for _ in 0..threads.min(changed.len()) {
                let waiting = waiting.clone();
                let reader = std::thread::Builder::new().name("burn-ingest".into());
                let started = reader.spawn_scoped(scope, move || {
                    for (candidate, sender) in waiting {
                        reading.read(candidate, &mut |handed| sender.send(handed).is_ok());
                    }
                });
                started.map_err(|source| WorkFailure::Work(AgentsError::Threads { source }))?;
            }
            in_order(
                Workers::Threads(1),
                vec![(); threads.max(1)],
                changed.iter().copied(),
                || (),
                |(), (), candidate, _| {
                    let (sender, receiver) = crossbeam_channel::bounded(1);
                    // The readers live as long as this channel.
                    let _ = jobs.send((candidate, sender));
                    Ok((candidate, receiver))
                },
                |(candidate, receiver)| {
                    let mut outcome = LogOutcome::default();
                    for handed in &receiver {
                        if self.interrupt.is_requested() {
                            return Err(AgentsError::Interrupted);
                        }
                        if let Handed::Piece(piece, _) = &handed {
                            self.observer.progress(meter.read(piece.bytes_read));
                        }
                        self.take(candidate, handed, &mut outcome, tally)?;
                    }
                    tally.read_files += u64::from(outcome.is_read && !outcome.is_skipped);
                    tally.sessions += u64::from(outcome.gave_turns);
                    self.observer.progress(meter.log_is_done());
                    Ok(ControlFlow::Continue(()))
                },
            )
        });
        self.noted = reading.noted();
        self.projects = projects;
        match result {
            Ok(()) => Ok(()),
            Err(WorkFailure::Work(error @ (AgentsError::Interrupted | AgentsError::Unnamed(_)))) => {
                // Append what is queued, because the report already names the lines of these logs; otherwise the next run would
                // name them again.
                self.flush(tally)?;
                Err(error)
            }
            Err(WorkFailure::Work(error)) => Err(error),
            Err(WorkFailure::Panic { .. }) => Err(AgentsError::RunPanicked),
        }
    }

    /// The data that readers need. Readers have copies of the cursors, because cursors change while logs are read; each
    /// log changes only its own cursor.
    fn reading<'c>(
        &self,
        agent: Agent,
        candidates: &'c [Candidate],
        options: &'c ReadOptions,
        projects: &'c ProjectKeys,
    ) -> Result<LogReading<'c>, AgentsError> {
        let cursor_of = |candidate: &'c Candidate| {
            let cursor = self.cursors.get(&candidate.path, agent.as_str())?;
            Some((candidate.path.as_path(), cursor.to_vec()))
        };
        let side_of = |candidate: &'c Candidate| {
            let note = self.side.get(&note_key(agent, &candidate.path))?;
            Some((candidate.path.as_path(), note.to_vec()))
        };
        let mut reading = LogReading {
            options,
            projects,
            cursors: candidates.iter().filter_map(cursor_of).collect(),
            sides: candidates.iter().filter_map(side_of).collect(),
            prepared: None,
            state_dir: self.state_dir.clone(),
            #[cfg(all(test, unix))]
            faults: disk::faults::current(),
        };
        let common = Common {
            options,
            home: &self.ingest.home,
            noted: self.side.noted(agent),
            side: &|path| reading.sides.get(path).cloned(),
        };
        reading.prepared = prepare(agent, &common, candidates)?;
        Ok(reading)
    }

    /// Adds the records of a piece to the queue.
    fn take(
        &mut self,
        candidate: &Candidate,
        handed: Handed,
        outcome: &mut LogOutcome,
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        match handed {
            Handed::Skipped(error) => {
                self.observer.note(&format!("[burn] skipping {}: {error}", candidate.path.display()));
                outcome.is_skipped = true;
                tally.skipped_files += 1;
                self.report
                    .skipped_files
                    .push(SkippedFile { path: candidate.path.clone(), error: error.to_string() });
                Ok(())
            }
            Handed::Unchanged(cursor) => {
                tally.unchanged_files += 1;
                if let Some(cursor) = cursor {
                    self.cursors.set(key_of(&candidate.path), cursor);
                }
                Ok(())
            }
            Handed::Piece(mut gathered, is_last) => {
                outcome.is_read = true;
                outcome.gave_turns |= gathered.read_turns > 0;
                tally.read_turns += gathered.read_turns;
                tally.lines += gathered.lines;
                tally.bytes_read += gathered.bytes_read;
                if is_last {
                    tally.open_messages += gathered.open_messages;
                }
                self.left_out(&candidate.path, std::mem::take(&mut gathered.left_out), tally)?;
                if self.options.content == ContentMode::Full {
                    self.ingest.unanswered.entry(candidate.agent).or_default().add(&gathered);
                }
                if let Some(facts) = gathered.claude_facts.take() {
                    self.across.add(&candidate.path, *facts);
                }
                self.queued_bytes += gathered.len_bytes();
                let (path, agent) = (candidate.path.clone(), Some(candidate.agent));
                self.queue.push(Queued { path, agent, gathered: *gathered });
                if self.queued_bytes >= self.flush_bytes || self.queue.len() >= FLUSH_LOGS {
                    self.flush(tally)?;
                }
                Ok(())
            }
        }
    }
}

/// The data that reading threads share.
struct LogReading<'c> {
    options: &'c ReadOptions,
    projects: &'c ProjectKeys,
    cursors: HashMap<&'c Path, Vec<u8>>,
    sides: HashMap<&'c Path, Vec<u8>>,
    prepared: Option<Prepared>,
    state_dir: Option<PathBuf>,
    #[cfg(all(test, unix))]
    faults: Option<disk::faults::Harness>,
}

impl LogReading<'_> {
    /// How much of the ledger the notes cover, including the turns read for this run.
    fn noted(&self) -> Option<NotedLedger> {
        self.prepared.as_ref().map(|prepared| prepared.written.noted())
    }

    /// Returns whether nothing is new in a log.
    fn is_unchanged(&self, candidate: &Candidate) -> bool {
        let cursor = self.cursors.get(candidate.path.as_path());
        cursor.is_some_and(|cursor| {
            Stat::of(&candidate.path).is_ok_and(|stat| is_unchanged(candidate.agent, stat, cursor))
        })
    }

    /// Reads a log. An error of its reader skips the log, and the other logs are read.
    fn read(&self, candidate: &Candidate, hand: &mut HandOver<'_>) {
        let read = || {
            #[cfg(all(test, unix))]
            if let Some(harness) = &self.faults {
                return harness.run(|| self.read_whole(candidate, hand));
            }
            self.read_whole(candidate, hand)
        };
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => drop(hand(Handed::Skipped(error))),
            Err(_) => drop(hand(Handed::Skipped(AgentsError::Panicked { path: candidate.path.clone() }))),
        }
    }

    fn read_whole(&self, candidate: &Candidate, hand: &mut HandOver<'_>) -> Result<(), AgentsError> {
        let pass = Pass {
            candidate,
            stat: Stat::of(&candidate.path)?,
            cursor: self.cursors.get(candidate.path.as_path()).map(Vec::as_slice),
            side: self.sides.get(candidate.path.as_path()).map(Vec::as_slice),
            options: self.options,
            projects: self.projects,
            prepared: self.prepared.as_ref(),
            state_dir: self.state_dir.as_deref(),
        };
        read_log(&pass, hand)
    }
}

//! One run: finds the logs, reads them in parallel, appends their records in the order in which the logs were found,
//! saves the cursors.
//!
//! Touches the ledger and its content through [`Ledger::append`], `cursors.json`, `ingest.side.json` and
//! `pending-stamps/`. Logs are only read. Guarantees: a cursor is saved only after the records of the bytes before it
//! are in the ledger. So after a run was killed, the next run reads the same lines and recognises the appended records
//! by their ids. Records are appended in the order of the logs, whatever the number of threads.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::claude::Across;
use super::cursors::{Cursors, Side, key_of};
use super::hook::HookRecords;
use super::js;
use super::kept::{self, HookCall};
use super::known::{Known, has_line};
use super::pass::{
    Agent, Candidate, Common, ContentMode, Gathered, HandOver, Handed, LeftOut, Pass, ReadOptions, Reason,
    Record, RootsOf, Stat,
};
use super::pending::{self, Claimed};
use super::project::ProjectKeys;
use super::readers::{discover, each_file_once, prepare, read_log, roots_of};
use super::report::{
    AgentReport, HookReport, IngestObserver, IngestOptions, IngestReport, NamedLine, SkippedFile,
};
use super::walk::Unreadable;
use super::{AgentsError, hook, settings};
use crate::disk;
use crate::home::{Home, LockName};
use crate::interrupt::Interrupt;
use crate::ledger::{AppendOptions, Batch, Ledger};
use crate::lock::with_lock_unless;
use crate::record::RecordKind;
use crate::scan::in_order::{WorkFailure, Workers, in_order};
use crate::scan::json::{Document, Value};

/// How many bytes of records are gathered before they are appended.
const FLUSH_BYTES: usize = 4 << 20;
/// The greatest number of logs that are appended together.
const FLUSH_LOGS: usize = 256;
/// How long changed cursors wait to be saved.
const SAVE_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// A hook does not read more of the ledger than this.
const HOOK_BEHIND_MAX_BYTES: u64 = 16 << 20;
/// A hook does not rewrite a file `ingest.known` that is longer than this.
const HOOK_SAVE_MAX_BYTES: u64 = 8 << 20;
/// States of readers that were not used for so long are deleted.
const STATE_KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// Sessions with tool calls but without any result.
#[derive(Debug, Default)]
struct Unanswered {
    calls: BTreeMap<Vec<u8>, u64>,
    healed: HashSet<Vec<u8>>,
    warned: BTreeSet<Vec<u8>>,
}

/// Reads logs into the ledger of a home, run after run.
#[derive(Debug)]
pub struct Ingest {
    home: Home,
    options: IngestOptions,
    unanswered: HashMap<Agent, Unanswered>,
    known: Known,
}

/// The part of a log that was read so far.
#[derive(Debug, Default)]
struct Taken {
    is_read: bool,
    is_skipped: bool,
    gave_turns: bool,
}

/// Records that wait to be appended.
struct Queued {
    candidate: Candidate,
    gathered: Gathered,
}

fn is_root_of(unreadable: &Unreadable, roots: &[PathBuf]) -> bool {
    roots.contains(&unreadable.path)
}

impl Ingest {
    /// Creates a reader for the ledger of a home. The home need not exist yet.
    pub fn new(home: Home, options: IngestOptions) -> Self {
        Ingest { home, options, unanswered: HashMap::new(), known: Known::default() }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(super) fn as_reference(&self) -> bool {
        self.options.as_reference
    }

    /// Reads the new lines of all logs and appends their records.
    ///
    /// # Errors
    /// When the ledger cannot be written or the cursors cannot be saved. A log or a folder that cannot be read is no
    /// error here: the report names it, and its cursor stays.
    pub fn run(
        &mut self,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<IngestReport, AgentsError> {
        let started = Instant::now();
        settings::check_storage()?;
        let user = settings::user_folder()?;
        if !self.options.check {
            pending::clean(&self.home);
            self.take_over_stamps();
        }
        let takes_hooks =
            !self.options.check && !self.options.as_reference && self.options.agents.contains(&Agent::Claude);
        let kept = if takes_hooks { self.take_kept_hooks(observer, interrupt)? } else { Vec::new() };
        let mut run = Run::new(self, observer, interrupt)?;
        run.transcripts =
            kept.iter().filter_map(|kept| kept.call.as_ref().map(|call| call.transcript.clone())).collect();
        let agents = Agent::ALL.into_iter().filter(|agent| run.ingest.options.agents.contains(agent));
        let mut result = Ok(());
        for agent in agents.collect::<Vec<_>>() {
            if agent == Agent::Gemini && run.options.as_reference {
                continue;
            }
            result = run.agent(agent, &user);
            if result.is_err() {
                break;
            }
        }
        // The cursors of appended records are saved even after an error, so that the lines are not read again.
        let saved = run.save();
        result.and(saved)?;
        let mut report = run.report;
        for kept in kept {
            disk::remove_file_if_exists(&kept.path)?;
        }
        if !self.options.check && !self.options.as_reference {
            self.known.save(&self.home)?;
            clean_states(&self.home);
        }
        for agent in &report.agents {
            report.scanned_sessions += agent.found_files;
            report.ingested_sessions += agent.sessions;
            report.appended_turns += agent.read_turns;
            report.duplicates += agent.duplicates;
            report.open_messages += agent.open_messages;
            report.bytes_read += agent.bytes_read;
            let (sum, part) = (&mut report.appended, &agent.appended);
            sum.turns += part.turns;
            sum.content += part.content;
            sum.compactions += part.compactions;
            sum.relationships += part.relationships;
            sum.tool_result_events += part.tool_result_events;
            sum.user_turns += part.user_turns;
            for (reason, count) in &agent.left_out {
                *report.left_out.entry(*reason).or_default() += count;
            }
        }
        report.malformed_lines = report.left_out.get(Reason::Malformed.as_str()).copied().unwrap_or(0);
        report.duration_ms = started.elapsed().as_millis() as u64;
        Ok(report)
    }

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
        let is_near = settings::check_storage().and_then(|()| self.check_near());
        if let Err(error) = is_near {
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
            Ok(_) => match self.transcript(path.clone(), observer, interrupt) {
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

    /// Returns whether only a few bytes of the ledger are not yet known.
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
            let ledger = Ledger::new(home.clone()).with_interrupt(interrupt);
            ledger.append(&batch, &AppendOptions::default())?;
            Ok::<_, AgentsError>(())
        })
    }

    /// Handles the kept calls of hooks. Their logs are read with the others.
    fn take_kept_hooks(
        &mut self,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<Vec<kept::Kept>, AgentsError> {
        let kept = kept::kept(&self.home);
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        kept.iter().for_each(|kept| *reasons.entry(&kept.reason).or_default() += 1);
        for (reason, count) in reasons {
            observer.note(&format!("[burn] a hook left to this run ({count} times): {reason}"));
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

    /// Reads one log.
    fn transcript(
        &mut self,
        path: PathBuf,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<(AgentReport, Vec<SkippedFile>), AgentsError> {
        let root = path.parent().map(Path::to_owned).unwrap_or_default();
        let candidate = Candidate { agent: Agent::Claude, path, root, extra: None };
        let mut run = Run::new(self, observer, interrupt)?;
        run.is_hook = true;
        let mut tally = AgentReport { agent: Agent::Claude.as_str(), ..AgentReport::default() };
        run.read_all(Agent::Claude, std::slice::from_ref(&candidate), &mut tally)?;
        run.flush(&mut tally)?;
        run.save()?;
        run.warn(Agent::Claude);
        let skipped = run.report.skipped_files;
        if !self.options.as_reference && self.known.base_len_bytes() <= HOOK_SAVE_MAX_BYTES {
            self.known.save(&self.home)?;
        }
        Ok((tally, skipped))
    }

    fn take_over_stamps(&self) {
        pending::take_over(&self.home, &mut |line| {
            // The ledger is read only if there is a claim of a dead process.
            has_line(&self.home, line).unwrap_or(false)
        });
    }
}

/// A run at work.
pub(super) struct Run<'r> {
    ingest: &'r mut Ingest,
    observer: &'r mut dyn IngestObserver,
    interrupt: &'r Interrupt,
    pub(super) options: ReadOptions,
    pub(super) projects: ProjectKeys,
    cursors: Cursors,
    side: Side,
    queue: Vec<Queued>,
    queued_bytes: usize,
    saved: Instant,
    report: IngestReport,
    across: Across,
    is_hook: bool,
    /// Logs that kept calls of hooks name.
    transcripts: Vec<PathBuf>,
    /// The folder of readers' states; none if states are not kept.
    state_dir: Option<PathBuf>,
}

impl<'r> Run<'r> {
    pub(super) fn new(
        ingest: &'r mut Ingest,
        observer: &'r mut dyn IngestObserver,
        interrupt: &'r Interrupt,
    ) -> Result<Self, AgentsError> {
        let as_reference = ingest.options.as_reference;
        let content = settings::content_mode(&ingest.home, &mut |text| {
            observer.note(&format!("[burn] warning: {text}"));
        });
        Ok(Run {
            options: ReadOptions {
                as_reference,
                content,
                now_ms: settings::now_ms(),
                name_lines: ingest.options.name_lines,
            },
            projects: ProjectKeys::new(as_reference),
            cursors: Cursors::load(&ingest.home)?,
            side: if as_reference { Side::default() } else { Side::load(&ingest.home) },
            queue: Vec::new(),
            queued_bytes: 0,
            saved: Instant::now(),
            report: IngestReport::default(),
            across: Across::default(),
            is_hook: false,
            transcripts: Vec::new(),
            state_dir: (!as_reference && !ingest.options.check).then(|| state_dir(&ingest.home)),
            ingest,
            observer,
            interrupt,
        })
    }

    fn agent(&mut self, agent: Agent, user: &Path) -> Result<(), AgentsError> {
        let given: Vec<PathBuf> = self
            .ingest
            .options
            .roots
            .iter()
            .filter(|(of, _)| *of == agent)
            .map(|(_, root)| root.clone())
            .collect();
        let of = RootsOf { user, as_reference: self.options.as_reference, variable: &settings::variable };
        let roots = if given.is_empty() { roots_of(agent, &of) } else { given };
        let mut unreadable = Vec::new();
        let mut candidates: Vec<Candidate> = Vec::new();
        for root in &roots {
            candidates.extend(discover(agent, root, self.options.as_reference, &mut unreadable));
        }
        if agent == Agent::Claude {
            let named = self.transcripts.iter().filter(|path| path.is_file()).map(|path| Candidate {
                agent,
                path: path.clone(),
                root: path.parent().map(Path::to_owned).unwrap_or_default(),
                extra: None,
            });
            candidates.extend(named);
        }
        if !self.options.as_reference {
            candidates = each_file_once(candidates);
        }
        for found in &unreadable {
            self.observer.note(&format!("[burn] cannot read {}: {}", found.path.display(), found.error));
            if is_root_of(found, &roots) {
                self.report.unreadable_roots.push(found.path.clone());
            }
        }
        self.report.unreadable.extend(unreadable);
        let mut tally = AgentReport {
            agent: agent.as_str(),
            found_files: candidates.len() as u64,
            roots,
            ..AgentReport::default()
        };
        self.report.agents.push(tally.clone());
        let read = self.read_all(agent, &candidates, &mut tally);
        let read = read.and_then(|()| self.flush(&mut tally));
        let read = read.and_then(|()| self.relations(agent, &mut tally));
        self.warn(agent);
        if let Some(last) = self.report.agents.last_mut() {
            *last = tally;
        }
        read
    }

    fn read_all(
        &mut self,
        agent: Agent,
        candidates: &[Candidate],
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        if candidates.is_empty() {
            return Ok(());
        }
        // Cursors change while logs are read, but each log changes only its own cursor.
        let cursors: HashMap<&Path, Vec<u8>> = candidates
            .iter()
            .filter_map(|candidate| {
                let cursor = self.cursors.get(&candidate.path, agent.as_str())?;
                Some((candidate.path.as_path(), cursor.to_vec()))
            })
            .collect();
        let sides: HashMap<&Path, Vec<u8>> = candidates
            .iter()
            .filter_map(|candidate| {
                Some((candidate.path.as_path(), self.side.get(&candidate.path)?.to_vec()))
            })
            .collect();
        let options = self.options;
        let projects = std::mem::replace(&mut self.projects, ProjectKeys::new(options.as_reference));
        let home = self.ingest.home.clone();
        let state_dir = self.state_dir.clone();
        let common = Common {
            options: &options,
            projects: &projects,
            home: &home,
            cursor: &|path| cursors.get(path).cloned(),
            side: &|path| sides.get(path).cloned(),
        };
        let prepared = prepare(agent, &common, candidates)?;
        let threads = match self.ingest.options.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let read = |candidate: &Candidate, hand: &mut HandOver<'_>| {
            let pass = |stat| Pass {
                candidate,
                stat,
                cursor: cursors.get(candidate.path.as_path()).map(Vec::as_slice),
                side: sides.get(candidate.path.as_path()).map(Vec::as_slice),
                options: &options,
                projects: &projects,
                prepared: prepared.as_ref(),
                state_dir: state_dir.as_deref(),
            };
            let read = Stat::of(&candidate.path).and_then(|stat| read_log(&pass(stat), hand));
            if let Err(error) = read {
                hand(Handed::Skipped(error));
            }
        };
        let guarded = |candidate: &Candidate, hand: &mut HandOver<'_>| {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(candidate, hand)));
            if caught.is_err() {
                hand(Handed::Skipped(AgentsError::Panicked { path: candidate.path.clone() }));
            }
        };
        let guarded = &guarded;
        let of = candidates.len() as u64;
        let mut done = 0;
        // Each log is read by its own thread, which returns piece after piece, because a log of any length must not be
        // in memory as a whole. There are as many of these threads as permits.
        let result = std::thread::scope(|scope| {
            in_order(
                Workers::Threads(1),
                vec![(); threads.max(1)],
                candidates.iter(),
                || (),
                |(), (), candidate, _| {
                    let (sender, receiver) = crossbeam_channel::bounded(1);
                    let reader = std::thread::Builder::new().name("burn-ingest".into());
                    let started = reader.spawn_scoped(scope, move || {
                        guarded(candidate, &mut |handed| sender.send(handed).is_ok());
                    });
                    match started {
                        Ok(_) => Ok((candidate, receiver)),
                        Err(source) => {
                            Err(AgentsError::Read { path: candidate.path.clone(), offset_bytes: 0, source })
                        }
                    }
                },
                |(candidate, receiver)| {
                    let mut taken = Taken::default();
                    for handed in &receiver {
                        if self.interrupt.is_requested() {
                            return Err(AgentsError::Interrupted);
                        }
                        self.take(candidate, handed, &mut taken, tally)?;
                    }
                    tally.read_files += u64::from(taken.is_read && !taken.is_skipped);
                    tally.sessions += u64::from(taken.gave_turns);
                    done += 1;
                    self.observer.progress(agent, done, of);
                    Ok(ControlFlow::Continue(()))
                },
            )
        });
        self.projects = projects;
        match result {
            Ok(()) => Ok(()),
            Err(WorkFailure::Work(AgentsError::Interrupted)) => {
                self.flush(tally)?;
                Err(AgentsError::Interrupted)
            }
            Err(WorkFailure::Work(error)) => Err(error),
            Err(WorkFailure::Panic { .. }) => Err(AgentsError::Panicked { path: PathBuf::from("the logs") }),
        }
    }

    /// Adds the records of a piece to the queue.
    fn take(
        &mut self,
        candidate: &Candidate,
        handed: Handed,
        taken: &mut Taken,
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        match handed {
            Handed::Skipped(error) => {
                self.observer.note(&format!("[burn] skipping {}: {error}", candidate.path.display()));
                taken.is_skipped = true;
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
                taken.is_read = true;
                taken.gave_turns |= gathered.read_turns > 0;
                tally.read_turns += gathered.read_turns;
                tally.lines += gathered.lines;
                tally.bytes_read += gathered.bytes_read;
                if is_last {
                    tally.open_messages += gathered.open_messages;
                }
                self.left_out(candidate, std::mem::take(&mut gathered.left_out), tally);
                self.answered(candidate.agent, &gathered);
                if let Some(told) = gathered.told.as_mut().filter(|_| is_last) {
                    self.across.add(told);
                }
                self.queued_bytes += gathered.len_bytes();
                self.queue.push(Queued { candidate: candidate.clone(), gathered: *gathered });
                if self.queued_bytes >= FLUSH_BYTES || self.queue.len() >= FLUSH_LOGS {
                    self.flush(tally)?;
                }
                Ok(())
            }
        }
    }

    fn left_out(&mut self, candidate: &Candidate, left_out: LeftOut, tally: &mut AgentReport) {
        for (reason, count) in left_out.counts {
            *tally.left_out.entry(reason.as_str()).or_default() += count;
        }
        self.report.lines.extend(left_out.lines.into_iter().map(|line| NamedLine {
            path: candidate.path.clone(),
            offset: line.offset,
            len_bytes: line.len_bytes,
            reason: line.reason,
            detail: line.detail,
        }));
    }

    /// Appends the queued records.
    fn flush(&mut self, tally: &mut AgentReport) -> Result<(), AgentsError> {
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
            let key = key_of(&queued.candidate.path);
            if let Some(side) = queued.gathered.side {
                self.side.set(key.clone(), side);
            }
            if let Some(cursor) = queued.gathered.cursor {
                self.cursors.set(key, cursor);
            }
        }
        if self.saved.elapsed() >= SAVE_EVERY {
            self.save()?;
        }
        Ok(())
    }

    /// Appends records from a stream, and saves its cursor.
    pub(super) fn write(
        &mut self,
        candidate: Candidate,
        gathered: Gathered,
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        self.queue.push(Queued { candidate, gathered });
        self.flush(tally)?;
        self.save()
    }

    fn save(&mut self) -> Result<(), AgentsError> {
        if self.ingest.options.check {
            return Ok(());
        }
        self.cursors.save(&self.ingest.home)?;
        // Without a home there are no notes.
        if self.ingest.home.root().is_dir() {
            self.side.save(&self.ingest.home)?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Appends queued records, under lock `ledger`.
    fn append(&mut self, queue: &[Queued], tally: &mut AgentReport) -> Result<(), AgentsError> {
        if !self.options.as_reference || self.is_hook {
            self.ingest.known.catch_up(&self.ingest.home)?;
        }
        let mut batch = if self.options.as_reference { Batch::unchecked() } else { Batch::new() };
        // The kind of each record of the batch, by its number.
        let mut kinds: Vec<Option<RecordKind>> = Vec::new();
        let mut content: u64 = 0;
        let mut stamps = Vec::new();
        for queued in queue {
            let gathered = &queued.gathered;
            batch.join_next();
            if let Some(stamp) = self.stamp(queued) {
                let before = batch.entry_count();
                if batch.push_stamp(&stamp.line).is_ok() {
                    kinds.push(None);
                    let rows = batch.entry_count() - before - 1;
                    kinds.extend(std::iter::repeat_n(Some(RecordKind::Relationship), rows));
                    stamps.push(stamp);
                } else {
                    stamp.give_back();
                }
            }
            let mut filter = Filter::of(self, gathered);
            for (kind, records) in [
                (Some(RecordKind::Turn), &gathered.turns),
                (None, &gathered.content),
                (Some(RecordKind::Compaction), &gathered.compactions),
                (Some(RecordKind::Relationship), &gathered.relationships),
                (Some(RecordKind::ToolResultEvent), &gathered.tool_result_events),
                (Some(RecordKind::UserTurn), &gathered.user_turns),
            ] {
                for record in records {
                    let Some(text) = filter.passes(self, kind, record)? else {
                        *tally.left_out.entry(Reason::Replay.as_str()).or_default() += 1;
                        continue;
                    };
                    // The stamp goes before its turn, because the next run writes both again if this run is killed
                    // between the two.
                    if let Some(stamp) = &record.stamp
                        && with_record(&text, |turn| self.ingest.known.has_message(turn)) == Some(false)
                        && batch.push_stamp(stamp).is_ok()
                    {
                        kinds.push(None);
                    }
                    let pushed = match kind {
                        Some(kind) => batch.push(kind, &text),
                        None => batch.push_content(&text),
                    };
                    match (pushed, kind) {
                        (Ok(()), Some(kind)) => {
                            kinds.push(Some(kind));
                            if kind == RecordKind::Turn && !self.options.as_reference {
                                with_record(&text, |turn| self.ingest.known.add_turn(turn));
                            }
                        }
                        (Ok(()), None) => content += 1,
                        (Err(refusal), _) => {
                            *tally.left_out.entry(Reason::Refused.as_str()).or_default() += 1;
                            let path = queued.candidate.path.display();
                            self.observer
                                .note(&format!("[burn] {path}: a record is not written: {}", refusal.reason));
                        }
                    }
                }
            }
        }
        if !self.options.as_reference {
            // The results become known only now, because one line may have a result twice.
            for event in queue.iter().flat_map(|queued| &queued.gathered.tool_result_events) {
                with_record(&event.text, |event| self.ingest.known.add_result(event));
            }
        }
        for session in batch.skipped_sessions() {
            self.observer
                .note(&format!("[burn] skipping content records with unsafe sessionId: {session:?}"));
        }
        content -= batch.skipped().min(content);
        let mut written = Vec::new();
        let ledger = Ledger::new(self.ingest.home.clone()).with_interrupt(self.interrupt);
        let appended = ledger.append_telling(&batch, &AppendOptions::default(), &mut written);
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                // If the line of a stamp was written, its claim shows this to the next run.
                drop(stamps);
                self.ingest.known = Known::default();
                return Err(error.into());
            }
        };
        stamps.into_iter().for_each(Claimed::applied);
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
    fn stamp(&self, queued: &Queued) -> Option<Claimed> {
        let gathered = &queued.gathered;
        let is_stamped = matches!(queued.candidate.agent, Agent::Codex | Agent::OpenCode);
        if gathered.turns.is_empty() || !is_stamped {
            return None;
        }
        pending::claim(
            &self.ingest.home,
            &pending::Session {
                agent: queued.candidate.agent,
                id: gathered.session_id.as_deref().filter(|id| !id.is_empty())?,
                cwd: gathered.cwd.as_deref(),
                path: &queued.candidate.path,
                mtime_ms: gathered.session_mtime_ms,
                as_reference: self.options.as_reference,
            },
        )
    }

    /// The relationships between logs.
    fn relations(&mut self, agent: Agent, tally: &mut AgentReport) -> Result<(), AgentsError> {
        if agent != Agent::Claude || self.ingest.options.check {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.across).rows();
        if rows.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for row in &rows {
            if let Err(refusal) = batch.push(RecordKind::Relationship, row) {
                self.observer.note(&format!("[burn] a relationship is not written: {}", refusal.reason));
            }
        }
        let appended = Ledger::new(self.ingest.home.clone()).append(&batch, &AppendOptions::default())?;
        tally.appended.relationships += appended.appended;
        tally.duplicates += appended.duplicates;
        Ok(())
    }

    /// Counts the calls and results of sessions.
    fn answered(&mut self, agent: Agent, gathered: &Gathered) {
        if self.options.content != ContentMode::Full || gathered.read_turns == 0 {
            return;
        }
        let session = gathered.content_session.clone().or_else(|| gathered.session_id.clone());
        let Some(session) = session else { return };
        let unanswered = self.ingest.unanswered.entry(agent).or_default();
        if gathered.has_result_content {
            unanswered.calls.remove(&session);
            unanswered.healed.insert(session);
        } else if gathered.calls > 0 && !unanswered.healed.contains(&session) {
            *unanswered.calls.entry(session).or_default() += gathered.calls;
        }
    }

    /// Warns of sessions without any result, if there is a new session of this kind.
    fn warn(&mut self, agent: Agent) {
        if self.options.content != ContentMode::Full {
            return;
        }
        let Some(unanswered) = self.ingest.unanswered.get_mut(&agent) else { return };
        let sessions: BTreeSet<Vec<u8>> = unanswered.calls.keys().cloned().collect();
        if sessions.is_subset(&unanswered.warned) {
            return;
        }
        let calls: u64 = unanswered.calls.values().sum();
        let plural = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        self.observer.note(&format!(
            "⚠ {}: {} logged tool calls without any observed tool_result content ({}).\n  \
             The tools may still run, or were ended before they answered.\n  \
             A later run takes the results as soon as the log has them; until then nothing\n  \
             is known of their size.",
            agent.as_str(),
            plural(sessions.len() as u64, "session"),
            plural(calls, "tool call")
        ));
        unanswered.warned = sessions;
    }
}

/// Selects the records of a pass to write. Leaves out messages of other sessions and known results.
struct Filter {
    document: Document,
    dropped: HashSet<u32>,
    is_hook: bool,
    /// The highest number among the events of the pass.
    last_number: f64,
    /// The sessions with events of hooks.
    numbers: HashMap<Vec<u8>, hook::Numbers>,
}

impl Filter {
    fn of(run: &Run<'_>, gathered: &Gathered) -> Self {
        let mut filter = Filter {
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
        record: &'t Record,
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

fn state_dir(home: &Home) -> PathBuf {
    home.root().join("ingest.state")
}

/// Deletes the states of logs that no longer grow. Errors are ignored, because the files are derived.
fn clean_states(home: &Home) {
    for path in disk::list(&state_dir(home)).unwrap_or_default() {
        let modified = disk::metadata(&path).ok().filter(|found| found.is_file).map(|found| found.modified);
        if modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > STATE_KEPT) {
            let _ = disk::remove_file(&path);
        }
    }
}

/// Passes the parsed record to a function.
pub(super) fn with_record<T>(text: &[u8], look: impl FnOnce(Value<'_>) -> T) -> Option<T> {
    let mut document = Document::default();
    document.parse(text).ok().map(look)
}

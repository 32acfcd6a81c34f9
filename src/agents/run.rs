//! One run: finds the logs, reads them in parallel, appends their records in the order in which the logs were found,
//! saves the cursors.
//!
//! Touches the ledger and its content through [`Ledger::append`], `cursors.json`, `ingest.side.json` and
//! `pending-stamps/`. Logs are only read. Guarantees: a cursor is saved only after the records of the bytes before it
//! are in the ledger. So after a run was killed, the next run reads the same lines and recognises the appended records
//! by their ids. Records are appended in the order of the logs, whatever the number of threads.

mod append;
mod hooks;
mod meter;
mod reading;
mod unanswered;

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use crossbeam_channel::Sender;

use self::meter::Meter;
use self::unanswered::Unanswered;
use super::claude::{Across, settled_note};
use super::cursors::{Cursors, Misfit, Side, is_ledger_lost, key_of, lacks_index, misfit};
use super::hook::HookRecords;
use super::js;
use super::kept::{self, HookCall};
use super::known::{Known, LedgerWitness, has_line};
use super::ledger_turns::NotedLedger;
use super::pass::{
    Agent, Candidate, Common, ContentMode, Gathered, HandOver, Handed, LeftOut, LeftOutLine, Pass,
    PassRecord, Prepared, ReadOptions, Reason, RootsOf, Stat,
};
use super::pending::{self, Claimed};
use super::project::ProjectKeys;
use super::readers::{
    discover, each_log_once, is_unchanged, log_folders, note_key, prepare, read_log, roots_of,
};
use super::report::{
    AgentReport, HookReport, IngestObserver, IngestOptions, IngestReport, NamedLine, SkippedFile,
};
use super::walk::Unreadable;
use super::{AgentsError, hook, settings};
use crate::disk;
use crate::home::{Home, LockName};
use crate::interrupt::Interrupt;
use crate::ledger::{AppendOptions, Batch, Ledger, SidecarLines};
use crate::lock::with_lock_unless;
use crate::record::{Id, RecordKind};
use crate::scan::in_order::{WorkFailure, Workers, in_order};
use crate::scan::json::{Document, Value};

/// How many bytes of records are gathered before they are appended.
const FLUSH_BYTES: usize = 2 << 20;
/// How long changed cursors wait to be saved.
const SAVE_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// States of readers that were unused for this long are deleted.
const STATE_KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// Reads logs into the ledger of a home, run after run.
#[derive(Debug)]
pub struct Ingest {
    home: Home,
    options: IngestOptions,
    unanswered: HashMap<Agent, Unanswered>,
    known: Known,
    /// What the home knew of another ledger was forgotten, so the next run begins without cursors and notes, which another run may
    /// have saved meanwhile.
    has_forgotten: bool,
    /// The logs whose cursors have moved although the ledger has not grown. A hook leaves them to the next run.
    moved: HashSet<Vec<u8>>,
}

/// Records that wait to be appended.
struct Queued {
    /// The log, or the name of a stream or database.
    path: PathBuf,
    /// The agent whose pending stamps may match the session.
    agent: Option<Agent>,
    gathered: Gathered,
}

/// Whether the unreadable folder is a root, or the folder of a root that has its logs.
fn is_root_of(unreadable: &Unreadable, agent: Agent, roots: &[PathBuf], as_reference: bool) -> bool {
    let mut folders = roots.iter().flat_map(|root| log_folders(agent, root, as_reference));
    roots.contains(&unreadable.path) || folders.any(|folder| folder.path == unreadable.path)
}

/// The absolute path of a root. Cursors, notes and records have the paths of logs, so each root has one path, however it was
/// spelt and wherever a run begins.
fn one_spelling(root: PathBuf) -> PathBuf {
    let absolute = std::path::absolute(&root).unwrap_or(root);
    // Only the file system knows what is above a link.
    match absolute.components().any(|part| part == Component::ParentDir) {
        true => std::fs::canonicalize(&absolute).unwrap_or(absolute),
        false => absolute,
    }
}

impl Ingest {
    /// Creates a reader for the ledger of a home. The home need not exist yet.
    pub fn new(home: Home, options: IngestOptions) -> Self {
        Ingest {
            home,
            options,
            unanswered: HashMap::new(),
            known: Known::default(),
            has_forgotten: false,
            moved: HashSet::new(),
        }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// The given roots of an agent, else its default roots, as absolute paths. `user` is the user's folder.
    pub(super) fn roots_of(&self, agent: Agent, user: &Path) -> Vec<PathBuf> {
        let given = self.options.roots.iter().filter(|(of, _)| *of == agent);
        let given: Vec<PathBuf> = given.map(|(_, root)| root.clone()).collect();
        let of = RootsOf { user, as_reference: self.options.as_reference, variable: &settings::variable };
        let roots = if given.is_empty() { roots_of(agent, &of) } else { given };
        if self.options.as_reference {
            return roots;
        }
        roots.into_iter().map(one_spelling).collect()
    }

    /// The agents whose logs a run reads, in order.
    pub(super) fn agents(&self) -> Vec<Agent> {
        let is_read = |agent: &Agent| {
            self.options.agents.contains(agent) && !(*agent == Agent::Gemini && self.options.as_reference)
        };
        Agent::ALL.into_iter().filter(is_read).collect()
    }

    pub(super) fn checks_only(&self) -> bool {
        self.options.check
    }

    pub(crate) fn as_reference(&self) -> bool {
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
        self.forget_without_ledger(observer, interrupt)?;
        if !self.options.as_reference && lacks_index(&self.home)? {
            observer.note(&format!(
                "[burn] warning: {} is missing or empty, so records that the ledger has are not recognised, and this run may write \
                 them again; `burn state rebuild index` builds it from the ledger",
                self.home.ids_index().display()
            ));
        }
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
        let mut result = Ok(());
        for agent in run.ingest.agents() {
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
        add_up(&mut report, started);
        Ok(report)
    }

    /// Refuses ids of a ledger that is missing or empty. With them, records would count as written, and the cursors would go past
    /// them.
    pub(super) fn refuse_orphaned_ids(&self) -> Result<(), AgentsError> {
        if self.options.as_reference || Ledger::new(self.home.clone()).orphaned_indexes()?.is_empty() {
            return Ok(());
        }
        let reason =
            "it is missing or empty, and was not when this run began; the next run reads all logs again";
        Err(AgentsError::Unusable { path: self.home.ledger(), reason: reason.into() })
    }

    /// Refuses a home that knows something of a ledger that is missing or empty. With the ids of the lost ledger, records would
    /// count as written; and whoever sees no messages must not decide that the ledger does not come back.
    pub(super) fn refuse_lost_ledger(&self) -> Result<(), AgentsError> {
        if self.options.as_reference || !Cursors::know_lost_ledger(&self.home)? {
            return Ok(());
        }
        let reason = "it is missing or empty, and was not before; put it back, or let `burn ingest` read all logs again";
        Err(AgentsError::Unusable { path: self.home.ledger(), reason: reason.into() })
    }

    /// Refuses a home that may know of lines that its ledger lacks, or of lines of this log, because a hook has no time to read
    /// logs again.
    pub(super) fn refuse_misfit(&mut self, log: &Path) -> Result<(), AgentsError> {
        let path = match misfit(&self.home)?.filter(|_| !self.options.as_reference) {
            Some(Misfit::Whole(path)) => path,
            Some(Misfit::Cursors(moved)) if moved.contains(&key_of(log)) => self.home.cursors(),
            Some(Misfit::Cursors(moved)) => {
                self.moved = moved;
                return Ok(());
            }
            None => return Ok(()),
        };
        let reason = "it is not as the last run left it; `burn ingest` reads the logs again";
        Err(AgentsError::Unusable { path, reason: reason.into() })
    }

    /// Forgets how far logs were read, and the ids of their records, when the ledger with these records is gone or may lack some of
    /// them. So the logs are read from their beginning, and their records are written again.
    pub(super) fn forget_without_ledger(
        &mut self,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<(), AgentsError> {
        if self.options.check || self.options.as_reference {
            return Ok(());
        }
        let mut forgotten = |file: PathBuf, what: &str, copies: Vec<PathBuf>| {
            self.has_forgotten = true;
            self.known = Known::default();
            observer.note(&format!(
                "[burn] ingest: {} {what}, so all logs are read from their beginning",
                file.display()
            ));
            for path in copies {
                observer
                    .note(&format!("[burn] ingest: ids of the lost lines are kept in {}", path.display()));
            }
        };
        if let Some(set_aside) = Cursors::forget_without_ledger(&self.home)? {
            forgotten(self.home.ledger(), "is missing or empty", set_aside);
        }
        if let Some((file, copies)) = Cursors::forget_lost_lines(&self.home, interrupt)? {
            let what = match file == self.home.ingest_notes() {
                true => "is missing or damaged",
                false => "is not as the last run left it",
            };
            forgotten(file, what, copies);
        }
        Ok(())
    }

    fn take_over_stamps(&self) {
        pending::take_over(&self.home, &mut |line| {
            // The ledger is read only if there is a claim of a dead process.
            has_line(&self.home, line).unwrap_or(false)
        });
    }
}

/// What a run that imports a database remembers of its events, so that it does not matter how many rows are appended
/// together.
#[derive(Debug, Default)]
pub(super) struct DatabaseImport {
    /// The keys of the sessions of the database with events of hooks.
    hooked: HashSet<u64>,
    /// The results that were imported. They are not compared with each other, because the rows of a database are
    /// different events.
    results: HashSet<u64>,
    /// The numbers of the sessions with events of hooks.
    numbers: HashMap<Vec<u8>, hook::Numbers>,
    /// The session of the first turn with each fingerprint.
    sessions: HashMap<Id, u64>,
}

impl DatabaseImport {
    pub(super) fn of(hooked: HashSet<u64>) -> Self {
        DatabaseImport { hooked, ..DatabaseImport::default() }
    }

    fn has_result(&self, key: Option<u64>) -> bool {
        key.is_some_and(|key| self.results.contains(&key))
    }

    /// Whether an earlier turn of the session had this fingerprint. Two rows of a session are two turns, while a row of
    /// another session may be a copy.
    fn is_another_turn_of(&mut self, session: u64, fingerprint: Option<Id>) -> bool {
        match fingerprint.map(|fingerprint| self.sessions.entry(fingerprint)) {
            Some(Entry::Occupied(first)) => *first.get() == session,
            Some(Entry::Vacant(none)) => {
                none.insert(session);
                false
            }
            None => false,
        }
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
    /// The ledger as it was when the run began, or last saved its cursors.
    began_with: LedgerWitness,
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
    /// For a run that imports a database, whose records must keep the strict rules.
    pub(super) import: Option<DatabaseImport>,
    /// How many bytes of records are gathered before they are appended.
    pub(super) flush_bytes: usize,
    /// How much of the ledger the notes of the agent at work will know once its records are appended.
    noted: Option<NotedLedger>,
    /// For an agent whose notes say what is written: where the ledger ends if only this run has appended to it since it was
    /// searched for turns.
    own_end: Option<u64>,
    /// Whether another program has appended since.
    is_shared: bool,
    /// Whether a log's note lacks a turn that the ledger has under another session. The next run reads the whole ledger.
    lacks_turns: bool,
    /// Stamps of branches whose turns repeat another session, by log. They go before the next turn.
    branches: HashMap<PathBuf, CarriedStamp>,
    sidecar_lines: SidecarLines,
}

/// The stamp of the branch of turns that repeat another session. It goes before the next turn of the log.
struct CarriedStamp {
    line: Vec<u8>,
    /// Whether a known turn of the log came after it, with which it may be in the ledger.
    may_be_written: bool,
}

impl CarriedStamp {
    fn new(line: Vec<u8>) -> Self {
        CarriedStamp { line, may_be_written: false }
    }
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
        let has_forgotten = std::mem::take(&mut ingest.has_forgotten);
        let mut side = if as_reference || has_forgotten { Side::default() } else { Side::load(&ingest.home) };
        side.leave(std::mem::take(&mut ingest.moved));
        // A check leaves the cursors of a home that has lost lines of its ledger as they are.
        let does_not_fit = || Ok::<_, AgentsError>(matches!(misfit(&ingest.home)?, Some(Misfit::Whole(_))));
        let ignores_cursors = has_forgotten
            || !as_reference && (is_ledger_lost(&ingest.home)? || ingest.options.check && does_not_fit()?);
        let cursors = match ignores_cursors {
            true => Cursors::default(),
            false => Cursors::load(&ingest.home, |text| {
                observer.note(&format!("[burn] warning: {text}"));
            })?,
        };
        let began_with = LedgerWitness::of(&ingest.home)?;
        Ok(Run {
            options: ReadOptions {
                as_reference,
                content,
                now_ms: settings::now_ms(),
                name_lines: ingest.options.name_lines,
                part_until: None,
            },
            projects: ProjectKeys::new(as_reference),
            cursors,
            side,
            began_with,
            queue: Vec::new(),
            queued_bytes: 0,
            saved: Instant::now(),
            report: IngestReport::default(),
            across: Across::default(),
            is_hook: false,
            transcripts: Vec::new(),
            state_dir: (!as_reference && !ingest.options.check).then(|| ingest.home.ingest_states_dir()),
            import: None,
            flush_bytes: FLUSH_BYTES,
            noted: None,
            own_end: None,
            is_shared: false,
            lacks_turns: false,
            branches: HashMap::new(),
            sidecar_lines: SidecarLines::default(),
            ingest,
            observer,
            interrupt,
        })
    }

    fn agent(&mut self, agent: Agent, user: &Path) -> Result<(), AgentsError> {
        let roots = self.ingest.roots_of(agent, user);
        let mut unreadable = Vec::new();
        let mut candidates: Vec<Candidate> = Vec::new();
        for root in &roots {
            candidates.extend(discover(agent, root, self.options.as_reference, &mut unreadable));
        }
        if agent == Agent::Claude {
            let named = self.transcripts.iter().filter(|path| path.is_file());
            candidates.extend(named.map(|path| Candidate { agent, path: path.clone(), extra: None }));
        }
        if !self.options.as_reference {
            candidates = each_log_once(agent, candidates, &mut unreadable);
        }
        for found in &unreadable {
            self.observer.note(&format!("[burn] cannot read {}: {}", found.path.display(), found.error));
            if is_root_of(found, agent, &roots, self.options.as_reference) {
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
        // The note on a log that was not read, or that another run has read at the same time, may lack turns of the ledger.
        let noted = self.noted.take().filter(|_| read.is_ok() && tally.skipped_files == 0 && !self.is_shared);
        let noted = if std::mem::take(&mut self.lacks_turns) { Some(NotedLedger::default()) } else { noted };
        if let Some(noted) = noted {
            self.side.set_noted(agent, noted);
        }
        let read = match agent {
            Agent::Claude if !self.ingest.options.check => {
                read.and_then(|()| self.relations(&candidates, &mut tally))
            }
            _ => read,
        };
        self.warn(agent);
        tally.reported_usd = self.reported_usd(&candidates);
        if let Some(last) = self.report.agents.last_mut() {
            *last = tally;
        }
        read
    }

    /// Counts and names lines that made no record.
    pub(super) fn left_out(
        &mut self,
        path: &Path,
        left_out: LeftOut,
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        for (reason, count) in left_out.counts {
            *tally.left_out.entry(reason.as_str()).or_default() += count;
        }
        if left_out.lines.is_empty() {
            return Ok(());
        }
        let named = |line: LeftOutLine| NamedLine {
            path: path.to_owned(),
            offset: line.offset,
            len_bytes: line.len_bytes,
            reason: line.reason,
            detail: line.detail,
        };
        let lines: Vec<NamedLine> = left_out.lines.into_iter().map(named).collect();
        self.observer.left_out(&lines).map_err(AgentsError::Unnamed)
    }

    /// Queues records from another source, and appends the queue when it is long enough.
    pub(super) fn queue(
        &mut self,
        path: &Path,
        gathered: Gathered,
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        self.queued_bytes += gathered.len_bytes();
        self.queue.push(Queued { path: path.to_owned(), agent: None, gathered });
        if self.queued_bytes >= self.flush_bytes { self.flush(tally) } else { Ok(()) }
    }

    /// Returns the report of the run.
    pub(super) fn into_report(self) -> IngestReport {
        self.report
    }

    /// Appends records from a stream, and saves its cursor.
    pub(super) fn write(
        &mut self,
        path: PathBuf,
        agent: Agent,
        gathered: Gathered,
        tally: &mut AgentReport,
    ) -> Result<(), AgentsError> {
        self.queue.push(Queued { path, agent: Some(agent), gathered });
        self.flush(tally)?;
        self.save()
    }

    fn save(&mut self) -> Result<(), AgentsError> {
        if self.ingest.options.check {
            return Ok(());
        }
        // If the ledger was replaced meanwhile, the cursors would go past records that it lacks.
        if self.options.as_reference || self.began_with.holds(&self.ingest.home)? {
            let side = (!self.options.as_reference).then_some(&mut self.side);
            self.cursors.save(&self.ingest.home, side)?;
            self.began_with = LedgerWitness::of(&self.ingest.home)?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Appends the relationships between logs.
    fn relations(&mut self, candidates: &[Candidate], tally: &mut AgentReport) -> Result<(), AgentsError> {
        let mut across = std::mem::take(&mut self.across);
        for candidate in candidates {
            if let Some(note) = self.side.get(&key_of(&candidate.path)) {
                across.add_noted(&candidate.path, note);
            }
        }
        // The TypeScript package compares only the logs that it has read.
        let compared = across.compare(if self.options.as_reference { &[] } else { candidates });
        if !compared.rows.is_empty() {
            let mut batch = Batch::new();
            for row in &compared.rows {
                if let Err(refusal) = batch.push(RecordKind::Relationship, row) {
                    self.observer.note(&format!("[burn] a relationship is not written: {}", refusal.reason));
                }
            }
            self.ingest.refuse_orphaned_ids()?;
            let ledger = Ledger::new(self.ingest.home.clone());
            let appended = ledger.append(&batch, &AppendOptions::default())?;
            tally.appended.relationships += appended.appended;
            tally.duplicates += appended.duplicates;
        }
        for (path, continues) in compared.settled {
            let key = key_of(&path);
            let note = self.side.get(&key).and_then(|note| settled_note(note, continues.as_deref()));
            if let Some(note) = note {
                self.side.set(key, note);
            }
        }
        Ok(())
    }

    /// The cost that an agent reports for the sessions in the logs that were read; none if it reports no cost.
    fn reported_usd(&self, candidates: &[Candidate]) -> Option<f64> {
        let mut document = Document::default();
        let mut of = |candidate: &Candidate| {
            js::number(document.parse(self.side.get(&key_of(&candidate.path))?).ok()?, "reportedUsd")
        };
        candidates
            .iter()
            .filter(|candidate| candidate.agent == Agent::OpenCode)
            .filter_map(&mut of)
            .fold(None, |sum, usd| Some(sum.unwrap_or(0.0) + usd))
    }

    /// Warns of sessions without any result, if there is a new session of this kind.
    fn warn(&mut self, agent: Agent) {
        let unanswered = self.ingest.unanswered.get_mut(&agent);
        let unanswered = unanswered.filter(|_| self.options.content == ContentMode::Full);
        if let Some(warning) = unanswered.and_then(|unanswered| unanswered.warning(agent)) {
            self.observer.note(&warning);
        }
    }
}

/// Adds up the counts of the agents.
pub(super) fn add_up(report: &mut IngestReport, started: Instant) {
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
}

/// Deletes the states of logs that no longer grow. The files are derived, so errors are ignored.
fn clean_states(home: &Home) {
    for path in disk::list(&home.ingest_states_dir()).unwrap_or_default() {
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

#[cfg(all(test, unix))]
mod tests;

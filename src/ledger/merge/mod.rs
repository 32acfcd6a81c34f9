//! Merges ledgers: appends to one ledger the lines of others that it lacks.
//!
//! | file | contents |
//! | --- | --- |
//! | `keys` | the lines of a ledger as keys of a fixed size |
//! | `labels` | the names of machines, as stamps |
//! | `plan` | which lines are appended, in which order |
//! | `versions` | which lines of a record have the same content, and which line counts |
//! | `same_turns` | which turns with one fingerprint are one turn |
//! | `stamps` | which stamps of one time contradict each other |
//! | `pieces` | the appends |
//! | `store`, `report` | lines by their places; the result |
//!
//! Guarantees: no line is lost. Every whole line of an input is in the target afterwards, except a line whose content the
//! target has, and a turn that is in the target under another id ([`MergeFinding::SameTurn`]). Turns that one ledger has
//! stay as many. What the archive of the target has depends on the set of lines alone: the order of the inputs, repetition and
//! a ledger that comes in parts change nothing, except which turns with one fingerprint are taken for one.
//! The inputs are only read, without their locks.

mod keys;
mod labels;
mod pieces;
mod plan;
mod report;
mod same_turns;
mod stamps;
mod store;
mod versions;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use self::report::{LedgerLineAt, MergeFinding, MergeReport, MergedInput};

use self::keys::{KeyPart, LABELS, LineKey, MergePlace, TARGET, UnreadableLine, read_keys};
use self::labels::machine_stamps;
use self::pieces::{PlanOutcome, TargetEnd};
use self::plan::Planner;
use self::store::{LineStore, OpenInput};
use super::machine::MachineName;
use super::{Ledger, LedgerError};
use crate::disk;
use crate::home::{Home, LockName};
use crate::scan::json::trim_js;
use crate::scan::{Io, Source};

/// After so many plans that another program's append made useless, the next plan is made under the lock `ledger`.
const PLANS_WITHOUT_LOCK: usize = 3;

/// The bytes of a file that is no ledger that an error shows.
const START_BYTES: u64 = 32;

/// A ledger to merge.
#[derive(Debug, Clone)]
pub struct MergeInput {
    ledger: PathBuf,
    copy: Option<Arc<File>>,
    machine: Option<MachineName>,
    content_of: Option<Home>,
}

impl MergeInput {
    /// The ledger of a home, with the name of its machine and its content sidecars.
    ///
    /// # Errors
    /// When the name of the machine cannot be read.
    pub fn of_home(home: &Home) -> Result<Self, LedgerError> {
        let content_of = Some(home.clone());
        Ok(Self { content_of, ..Self::of_file(home.ledger())? })
    }

    /// The ledger in a file. The name of its machine is that of the home whose ledger the file is, if the file is called
    /// `ledger.jsonl`, or so and `.gz` or `.zst`; content sidecars are not merged.
    ///
    /// # Errors
    /// When the name of the machine cannot be read.
    pub fn of_file(ledger: PathBuf) -> Result<Self, LedgerError> {
        let home = Home::at(disk::parent_of(&ledger));
        let own = home.ledger();
        let names = ["", ".gz", ".zst"].map(|suffix| disk::with_suffix(&own, suffix));
        let machine = match names.iter().any(|name| name.file_name() == ledger.file_name()) {
            true => Ledger::new(home).machine()?,
            false => None,
        };
        Ok(Self { ledger, copy: None, machine, content_of: None })
    }

    /// The same input without the content sidecars of its home: for a target that is asked about records alone.
    pub fn without_content(self) -> Self {
        Self { content_of: None, ..self }
    }

    /// The same input, read from `copy`: for a ledger that had to be decompressed. Reports name the ledger itself.
    pub fn read_from(self, copy: disk::File) -> Self {
        Self { copy: Some(Arc::new(copy.into_std())), ..self }
    }
}

/// The keys of all lines, and how far the target was read.
struct MergeState<'i> {
    inputs: Vec<OpenInput<'i>>,
    machines: Vec<Option<String>>,
    keys: Vec<LineKey>,
    target: Option<Source>,
    /// The offset in the target after the last line whose key is known.
    target_read: u64,
    told: [HashSet<u64>; 2],
    report: MergeReport,
}

impl Ledger {
    /// Appends the lines of `inputs` that this ledger lacks, and the lines of the content sidecars of inputs that are homes.
    /// Creates the home when the home is missing. This ledger may be one of the inputs.
    ///
    /// Lines with one id and different contents are all kept. The line with more output tokens counts, else the longer one,
    /// else the one with the greater hash; contents are compared without regard to spelling and order of members. Of stamps
    /// with one `ts` the same order decides. Turns with one fingerprint that different ledgers have are one turn, unless their
    /// message ids are unique and differ; the one that this ledger has stays, else the one with the least id.
    ///
    /// Memory is 80 bytes for each line of all ledgers, and 24 for each line to append and for each turn. The lines are appended in pieces of about 16 MiB, under the locks of
    /// an append, and are on stable storage when this function returns.
    ///
    /// # Errors
    /// [`LedgerError::NotALedger`]; when an input or this ledger cannot be read; and the errors of [`Ledger::append`]. Lines
    /// that were appended before the error stay. A merge of the same inputs completes the work.
    pub fn merge(
        &self,
        inputs: &[MergeInput],
        found: &mut dyn FnMut(MergeFinding),
    ) -> Result<MergeReport, LedgerError> {
        let started = Instant::now();
        let mut state = self.read_inputs(inputs, found)?;
        disk::create_dir_all(self.home().root())?;
        for plans in 0.. {
            let outcome = match plans < PLANS_WITHOUT_LOCK {
                true => self.merge_once(&mut state, found)?,
                false => self.locked(LockName::Ledger, |_| self.merge_once(&mut state, found))?,
            };
            if outcome == PlanOutcome::Done {
                break;
            }
        }
        let mut report = state.report;
        let homes: Vec<&Home> = inputs.iter().filter_map(|input| input.content_of.as_ref()).collect();
        report.content_lines = self.merge_content(&homes)?;
        report.duration_ms = started.elapsed().as_millis() as u64;
        Ok(report)
    }

    /// Returns the check for an interrupt: an error after `appended` lines.
    fn merge_stop(&self, appended: u64) -> impl Fn() -> Result<(), LedgerError> {
        move || match self.interrupt.is_requested() {
            true => Err(LedgerError::MergeInterrupted { ledger: self.home().ledger(), appended }),
            false => Ok(()),
        }
    }

    /// Opens the inputs and reads the keys of their lines.
    fn read_inputs<'i>(
        &self,
        inputs: &'i [MergeInput],
        found: &mut dyn FnMut(MergeFinding),
    ) -> Result<MergeState<'i>, LedgerError> {
        let target = Source::open_if_there(&self.home().ledger(), Io::Read)?;
        let mut state = MergeState {
            inputs: Vec::new(),
            machines: Vec::new(),
            keys: Vec::new(),
            target: None,
            target_read: 0,
            told: Default::default(),
            report: MergeReport::default(),
        };
        for MergeInput { ledger: name, copy, machine, .. } in inputs {
            let source = match copy {
                Some(copy) => Source::of_file(name, Arc::clone(copy), Io::default())?,
                None => Source::open(name, Io::default())?,
            };
            let machine = machine.as_ref().map(|machine| machine.as_str().to_owned());
            let is_target = target.as_ref().is_some_and(|target| target.is_same_file(&source));
            let mut input = MergedInput { ledger: name.clone(), machine, bytes: 0, lines: 0, is_target };
            if !is_target {
                let end = source.line_end_before(0, source.len_bytes())?;
                let open = OpenInput { name, source, end };
                let lines_before = state.keys.len();
                state.read_input(&open, self, found)?;
                (input.bytes, input.lines) = (end, (state.keys.len() - lines_before) as u64);
                state.inputs.push(open);
                state.machines.push(input.machine.clone());
            }
            state.report.inputs.push(input);
        }
        Ok(state)
    }

    /// Reads the new lines of the target, plans, and appends.
    fn merge_once(
        &self,
        state: &mut MergeState<'_>,
        found: &mut dyn FnMut(MergeFinding),
    ) -> Result<PlanOutcome, LedgerError> {
        let path = self.home().ledger();
        let target = Source::open_if_there(&path, Io::default())?;
        state.keys.retain(|line| line.place.input != LABELS);
        let is_known = match (&target, &state.target) {
            (Some(now), Some(before)) => now.is_same_file(before) && now.len_bytes() >= state.target_read,
            _ => false,
        };
        if !is_known {
            state.keys.retain(|line| line.place.input != TARGET);
            state.target_read = 0;
        }
        if let Some(target) = &target {
            let end = target.line_end_before(0, target.len_bytes())?;
            let range = state.target_read.min(end)..end;
            let keys = &mut state.keys;
            let stop = self.merge_stop(state.report.appended);
            read_keys(target, range, TARGET, &stop, |part| keys.extend(part.keys))?;
            state.target_read = end;
        }
        let MergeState { inputs, machines, keys, told, report, .. } = state;
        let mut store = LineStore { inputs, target: target.as_ref(), target_name: &path, labels: &[] };
        let stamps = machine_stamps(keys, machines, &store)?;
        keys.extend(&stamps.keys);
        store.labels = &stamps.text;
        let lines = Planner::new(&store, report, found, told).plan(keys)?;
        let len_bytes = target.as_ref().map_or(0, Source::len_bytes);
        let end = TargetEnd { source: target.as_ref(), len_bytes };
        let outcome = self.append_planned(&lines, keys, &store, end, report)?;
        state.target = target;
        Ok(outcome)
    }
}

impl MergeState<'_> {
    fn read_input(
        &mut self,
        open: &OpenInput<'_>,
        ledger: &Ledger,
        found: &mut dyn FnMut(MergeFinding),
    ) -> Result<(), LedgerError> {
        let at = |place: MergePlace| line_at(open.name, place);
        let Self { inputs, keys, report, .. } = self;
        let (number, lines_before) = (inputs.len() as u32, keys.len());
        // Findings wait for the first ledger line, because another program's file has nothing else.
        let (mut is_ledger, mut unreadable) = (false, Vec::new());
        read_keys(&open.source, 0..open.end, number, &ledger.merge_stop(0), |part: KeyPart| {
            keys.extend(part.keys);
            is_ledger |= part.has_ledger_line;
            unreadable.extend(part.unreadable);
            if is_ledger {
                report.malformed_lines += unreadable.len() as u64;
                for UnreadableLine { place, reason } in unreadable.drain(..) {
                    found(MergeFinding::Malformed { line: at(place), reason });
                }
            }
        })?;
        let len_bytes = open.source.len_bytes() - open.end;
        if !is_ledger {
            let mut buffer = Vec::new();
            let lines = (keys.len() - lines_before) as u64;
            let rest = open.source.read(open.end..open.end + len_bytes.min(START_BYTES), &mut buffer)?;
            let rest = trim_js(rest);
            // The first line of a new ledger may be unfinished.
            if lines > 0 || !(rest.is_empty() || rest.starts_with(b"{")) {
                let start = 0..open.source.len_bytes().min(START_BYTES);
                let start = String::from_utf8_lossy(open.source.read(start, &mut buffer)?).into_owned();
                return Err(LedgerError::NotALedger { path: open.name.to_owned(), lines, start });
            }
        }
        if len_bytes > 0 {
            report.unfinished_lines += 1;
            let place = MergePlace { input: number, offset: open.end, len_bytes };
            found(MergeFinding::Unfinished { line: at(place) });
        }
        Ok(())
    }
}

fn line_at(name: &Path, place: MergePlace) -> LedgerLineAt {
    LedgerLineAt { ledger: name.to_owned(), offset: place.offset, length: place.len_bytes }
}

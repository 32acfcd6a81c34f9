//! A running build, whatever its target: reads the ledger, counts rows and reports to the observer.
//!
//! Touches: reads the ledger. Guarantees: a build reads whole lines up to one end, counts each line once, and reports
//! findings in the order of the ledger.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use super::options::{Options, Paths};
use super::progress::{Observer, Phase, Progress};
use super::result::BuildResult;
use crate::archive::cursor::{self, CheckedPieces};
use crate::archive::error::ArchiveError;
use crate::archive::pipeline::{self, PipelineInput, RowsPlace};
use crate::lock::Held;
use crate::record::columns::turns;
use crate::record::fold::Fold;
use crate::record::rows::{Rows, TurnRow, Verdict};
use crate::record::time::Instant;
use crate::scan::Source;

/// The ledger as it was when the build began.
pub(super) struct MappedLedger {
    /// `None` when there is no ledger.
    pub source: Option<Source>,
    /// The offset after the last LF.
    pub end: u64,
    pub checked: CheckedPieces,
}

impl MappedLedger {
    pub(super) fn open(paths: &Paths, options: &Options) -> Result<Self, ArchiveError> {
        let source = Source::open_if_there(&paths.ledger, options.io)?;
        let end = source.as_ref().map_or(Ok(0), |source| source.line_end_before(0, source.len_bytes()))?;
        Ok(Self { source, end, checked: CheckedPieces::default() })
    }

    /// Returns the mark of the bytes before the end; 0 when there are none.
    pub(super) fn mark(&self) -> Result<i32, ArchiveError> {
        Ok(self.source.as_ref().map_or(Ok(0), |source| cursor::mark(source, self.end, &self.checked))?)
    }
}

/// What a build reads and reports, whatever its target.
pub(super) struct Build<'b> {
    pub(super) paths: &'b Paths,
    pub(super) options: &'b Options,
    pub(super) observer: &'b mut dyn Observer,
    pub(super) held: &'b Held,
    pub(super) ledger: &'b MappedLedger,
    pub(super) pool: rayon::ThreadPool,
    /// The cursor up to which this build does not count lines: 0, unless a tail build rebuilds only because a rebuild
    /// is faster.
    pub(super) counted_from: u64,
    /// Whether the `ts` of every turn that was read is a time.
    pub(super) are_turns_dated: bool,
    pub(super) result: BuildResult,
    pub(super) session_ids: Distinct,
}

impl Build<'_> {
    /// Runs the pipeline over `input`, counts rows and reports findings after `counted_from`, and passes rows to
    /// `write`. The workers pass the rows to `work` first.
    pub(super) fn rows(
        &mut self,
        input: &PipelineInput<'_>,
        fold: &Fold<'_>,
        work: impl Fn(&Rows<'_>, RowsPlace) -> Result<(), ArchiveError> + Sync,
        mut write: impl FnMut(&Rows<'_>) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let total_bytes = input.range.end - input.range.start;
        let mut strict_failure = None;
        let Self {
            pool, paths, options, observer, result, session_ids, counted_from, are_turns_dated, ..
        } = self;
        pipeline::run(pool, input, fold, work, |rows, end| {
            let is_dated = |turn: &TurnRow<'_>| Instant::of_turn(turn.cells[turns::TS].as_text()).is_some();
            *are_turns_dated = *are_turns_dated && rows.turns.iter().all(is_dated);
            if end > *counted_from {
                count(rows, result, session_ids);
                for finding in &rows.findings {
                    observer.finding(finding);
                    if options.strict && strict_failure.is_none() {
                        strict_failure = Some(ArchiveError::Strict {
                            ledger: paths.ledger.clone(),
                            offset: finding.offset,
                            length: finding.length,
                            verdict: finding.verdict.as_str(),
                            reason: finding.reason.clone(),
                        });
                    }
                }
            }
            // A strict build that has failed goes on parsing, so that its report is complete, but writes no more
            // rows.
            if strict_failure.is_none() {
                write(rows)?;
            }
            let done_bytes = end - input.range.start;
            go_on(observer.progress(Progress { phase: Phase::Rows, done_bytes, total_bytes }))
        })?;
        strict_failure.map_or(Ok(()), Err)
    }

    /// Reports that `phase` begins, after `done_bytes` of `total_bytes`.
    pub(super) fn report(
        &mut self,
        phase: Phase,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<(), ArchiveError> {
        if self.options.interrupt.is_requested() {
            return Err(ArchiveError::Interrupted);
        }
        go_on(self.observer.progress(Progress { phase, done_bytes, total_bytes }))
    }

    /// Reports that `phase` begins after all lines were read.
    pub(super) fn report_at_end(&mut self, phase: Phase) -> Result<(), ArchiveError> {
        self.report(phase, self.ledger.end, self.ledger.end)
    }
}

/// The `work` of builds whose workers only make rows.
pub(super) fn no_work(_: &Rows<'_>, _: RowsPlace) -> Result<(), ArchiveError> {
    Ok(())
}

/// Returns an error when the observer ends the build.
fn go_on(flow: ControlFlow<()>) -> Result<(), ArchiveError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ArchiveError::Interrupted),
    }
}

/// Adds `rows` to the counts of a result.
fn count(rows: &Rows<'_>, result: &mut BuildResult, session_ids: &mut Distinct) {
    result.turns_applied += rows.turns.len() as u64;
    result.stamps_applied += rows.stamps.len() as u64;
    result.compactions_applied += rows.compactions.len() as u64;
    result.tool_result_events_applied += rows.events.len() as u64;
    result.unknown_lines += rows.unknown_lines;
    result.exact_lines += rows.exact_lines;
    for finding in &rows.findings {
        match finding.verdict {
            Verdict::Malformed => result.malformed_lines += 1,
            Verdict::Rejected => result.rejected_lines += 1,
        }
    }
    let turn_sessions = rows.turns.iter().map(|turn| turn.cells[turns::SESSION_ID].as_text());
    let stamp_sessions = rows.stamps.iter().filter_map(|line| line.stamp.selector.session);
    let mut last = None;
    for session in turn_sessions.chain(stamp_sessions) {
        if last != Some(session) {
            session_ids.insert(session);
            last = Some(session);
        }
    }
}

/// Counts distinct texts without storing them: 128 bits of keyed hash identify a text.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    keys: [RandomState; 2],
    seen: HashSet<[u64; 2]>,
}

impl Distinct {
    pub(super) fn insert(&mut self, text: &str) {
        self.seen.insert(self.keys.each_ref().map(|key| key.hash_one(text)));
    }

    pub(super) fn len(&self) -> u64 {
        self.seen.len() as u64
    }
}

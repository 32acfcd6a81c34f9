//! Checks snapshots and runs against themselves and against the log.
//!
//! Reads snapshots, runs, and single frames of the log.

use std::path::Path;

use talea_core::types::Seq;

use super::log::LogEnd;
use super::report::BookFindingKind;
use super::subject::{BookCheck, NewestSnapshot};
use crate::book::error::BookError;
use crate::book::files::Listing;
use crate::book::frame::{self, Replayed, Split};
use crate::book::keys::{KeyOutcome, RunFile};
use crate::book::snapshot;
use crate::book::state::{Account, BookState};

/// Outcomes of one file that the log contradicts: how many, and the first.
#[derive(Default)]
struct Contradictions {
    count: u64,
    first: Option<String>,
}

impl Contradictions {
    fn add(&mut self, reason: String) {
        self.count += 1;
        self.first.get_or_insert(reason);
    }

    fn reason(self) -> Option<String> {
        let first = self.first?;
        Some(match self.count {
            1 => first,
            count => format!("{count} keys disagree with the log; the first: {first}"),
        })
    }
}

impl BookCheck<'_> {
    fn derived(&mut self, damaged: BookFindingKind, path: &Path, error: &BookError) {
        let (kind, offset, reason) = match error {
            BookError::Derived { offset, reason, .. } => (
                damaged,
                Some(*offset),
                format!("damaged: {reason}; it can be deleted, the log has everything"),
            ),
            other => (BookFindingKind::Unreadable, None, other.to_string()),
        };
        self.find(kind, path, offset, reason);
    }

    /// Compares a snapshot with the state at its event.
    pub(super) fn snapshot(&mut self, last: Seq, path: &Path) -> Result<(), BookError> {
        let (state, keys) = match snapshot::load(path, last, &std::env::temp_dir(), usize::MAX) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.derived(BookFindingKind::DamagedSnapshot, path, &error);
                return Ok(());
            }
        };
        if let Some(difference) = differences(&self.state, &state)? {
            let reason = format!("it disagrees with the log: {difference}");
            self.find(BookFindingKind::WrongSnapshot, path, None, reason);
        }
        let mut contradictions = Contradictions::default();
        for (key, outcome) in keys.hot() {
            if let Some(reason) = self.contradiction(key, outcome)? {
                contradictions.add(reason);
            }
        }
        if let Some(reason) = contradictions.reason() {
            self.find(BookFindingKind::WrongSnapshot, path, None, reason);
        }
        // Snapshots come in the order of their events, so the last one is the newest.
        self.newest = Some(NewestSnapshot { last, path: path.to_owned(), openings: self.openings, keys });
        Ok(())
    }

    /// Checks the snapshots whose events were not replayed.
    pub(super) fn snapshots_ahead(&mut self, listing: &Listing, end: LogEnd) {
        let replayed = self.replayed();
        for (last, path) in listing.snapshots.iter().filter(|(last, _)| *last > replayed) {
            if let Err(error) = snapshot::load(path, *last, &std::env::temp_dir(), usize::MAX) {
                self.derived(BookFindingKind::DamagedSnapshot, path, &error);
            } else if end.opens {
                let reason =
                    format!("it is of event {last}, the log ends at {replayed}; opening moves it aside");
                self.find(BookFindingKind::WrongSnapshot, path, None, reason);
            } else if *last > end.last_readable {
                let reason = format!("it is of event {last}, the log ends at {}", end.last_readable);
                self.find(BookFindingKind::WrongSnapshot, path, None, reason);
            }
        }
    }

    /// Returns how the log contradicts an outcome, if it does.
    fn contradiction(&mut self, key: &str, outcome: KeyOutcome) -> Result<Option<String>, BookError> {
        let KeyOutcome { txid, seq, at } = outcome;
        if seq < 1 || seq > self.replayed() {
            return Ok(Some(format!(
                "key {key:?} is said to be of event {seq}, which the log does not have"
            )));
        }
        let position = self.state.index.position(seq)?;
        let segment = self.segments.partition_point(|segment| segment.base <= position.base) - 1;
        let source = self.segments[segment].source()?;
        let mut buffer = Vec::new();
        let rest = source.bytes(position.offset..source.len_bytes(), &mut buffer)?;
        // The frame was replayed, so it is whole.
        let agrees = match frame::split(rest) {
            Split::Whole { payload, .. } => matches!(
                frame::replay(payload),
                Ok((_, found_at, Replayed::Posted(posted)))
                    if posted.key == key && posted.txid == txid && found_at == at
            ),
            _ => false,
        };
        Ok((!agrees).then(|| format!("key {key:?} is said to be of event {seq}, which is another one")))
    }

    /// Checks the runs; returns the events whose keys they have, in ascending order.
    pub(super) fn runs(&mut self, listing: &Listing, end: LogEnd) -> Result<Vec<Seq>, BookError> {
        let mut covered = Vec::new();
        for (_, path) in &listing.runs {
            let run = match RunFile::open(path) {
                Ok(run) => run,
                Err(error) => {
                    self.derived(BookFindingKind::DamagedRun, path, &error);
                    continue;
                }
            };
            let mut contradictions = Contradictions::default();
            for entry in run.entries(&mut Vec::new())? {
                let (key, outcome) = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.derived(BookFindingKind::DamagedRun, path, &error);
                        break;
                    }
                };
                // An event after damage cannot be compared.
                let is_behind = outcome.seq > self.replayed() && outcome.seq <= end.last_readable;
                if !is_behind && let Some(reason) = self.contradiction(&key, outcome)? {
                    contradictions.add(reason);
                    continue;
                }
                self.report.run_keys += 1;
                covered.push(outcome.seq);
            }
            if let Some(reason) = contradictions.reason() {
                self.find(BookFindingKind::WrongRun, path, None, reason);
            }
        }
        covered.sort_unstable();
        covered.dedup();
        Ok(covered)
    }

    pub(super) fn missing_keys(&mut self, covered: &[Seq]) {
        let Some(NewestSnapshot { last, path, openings, keys }) = self.newest.take() else { return };
        let in_runs = covered.partition_point(|seq| *seq <= last);
        let in_snapshot =
            keys.hot().filter(|(_, outcome)| covered.binary_search(&outcome.seq).is_err()).count();
        let missing = (last as u64 - openings).saturating_sub((in_runs + in_snapshot) as u64);
        if missing > 0 {
            let reason = format!(
                "{missing} idempotency keys from before this snapshot stand neither in it nor in a run; opening takes them from \
                 the log, talea-store-log 0.1.0 would post them again"
            );
            self.find(BookFindingKind::MissingKeys, &path, None, reason);
        }
    }

    pub(super) fn repeated_keys(&mut self) -> Result<(), BookError> {
        let scratch = self.state.scratch()?;
        for (first, second) in self.keys.repeated(&scratch)? {
            let position = self.state.index.position(second)?;
            let segment = self.segments.partition_point(|segment| segment.base <= position.base) - 1;
            let path = self.segments[segment].path.clone();
            let reason =
                format!("event {second} has the idempotency key of event {first}: it was posted twice");
            self.find(BookFindingKind::RepeatedKey, &path, Some(position.offset), reason);
        }
        Ok(())
    }
}

fn history_digest(state: &BookState, account: &Account) -> Result<blake3::Hash, BookError> {
    let mut digest = blake3::Hasher::new();
    let mut bytes = Vec::new();
    state.index.each_row(account, |row| {
        bytes.clear();
        row.write(&mut bytes);
        digest.update(&bytes);
        Ok(())
    })?;
    Ok(digest.finalize())
}

/// Returns the first difference between what the log and what a snapshot says.
fn differences(log: &BookState, snapshot: &BookState) -> Result<Option<String>, BookError> {
    if log.last_at != snapshot.last_at {
        return Ok(Some("the time of the last event".to_owned()));
    }
    if log.account_count() != snapshot.account_count() {
        return Ok(Some(format!(
            "{} accounts, the log has {}",
            snapshot.account_count(),
            log.account_count()
        )));
    }
    if log.trial_balance() != snapshot.trial_balance() {
        return Ok(Some("the sums of the assets".to_owned()));
    }
    for account in log.accounts() {
        let id = &account.opened.0.id;
        let Some(index) = snapshot.find(&id.book.0, &id.path) else {
            return Ok(Some(format!("account {:?} is missing", id.to_key())));
        };
        let said = snapshot.account(index);
        if said.opened != account.opened
            || said.debit_balance != account.debit_balance
            || said.updated_seq != account.updated_seq
        {
            return Ok(Some(format!("account {:?}", id.to_key())));
        }
        if history_digest(log, account)? != history_digest(snapshot, said)? {
            return Ok(Some(format!("the history of account {:?}", id.to_key())));
        }
    }
    let mut wrong = None;
    snapshot.index.each_txid(|txid, seq| {
        if log.latest_with_txid(txid)? != Some(seq) {
            wrong = Some(format!("transaction {txid}"));
        }
        Ok(())
    })?;
    Ok(wrong)
}

//! Checking a store without changing it: every segment, snapshot and run, against its checksum and against each other.
//!
//! Takes the lock, so that nobody writes meanwhile, and writes nothing into the store; scratch data goes to the temporary
//! directory. Promises: one finding for each thing that is wrong, with file and byte offset; damage in one file does not
//! keep the others from being looked at.

use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use talea_core::store::SYSTEM_BOOK;
use talea_core::types::Seq;

use super::error::BookError;
use super::files::{self, Listing};
use super::frame::{self, HEADER_BYTES, Replayed, Split};
use super::keys::{KeyHasher, Keys, Outcome, RunFile};
use super::scan::{self, Found};
use super::scratch::SeqIndex;
use super::snapshot;
use super::state::{Account, PostingRef, State};
use super::store::{book_names, take_lock};
use crate::scan::{Io, Source};

/// What a check found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CheckReport {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// One entry a book, by name.
    pub books: Vec<BookReport>,
    /// What is wrong, in the order it was found.
    pub findings: Vec<Finding>,
}

/// What a book holds.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BookReport {
    /// Its name.
    pub book: String,
    /// Events that could be read, in sequence.
    pub events: u64,
    /// Accounts.
    pub accounts: u64,
    /// Transactions.
    pub transactions: u64,
    /// Segments, and their length together in bytes.
    pub segments: u64,
    /// Length of all segments in bytes.
    pub segments_bytes: u64,
    /// Snapshots, good or bad.
    pub snapshots: u64,
    /// Idempotency runs, good or bad.
    pub runs: u64,
    /// Keys in good runs, each counted once a run.
    pub run_keys: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Finding {
    /// The book.
    pub book: String,
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes; absent where it concerns the whole file.
    pub offset: Option<u64>,
    /// What kind of thing.
    pub kind: FindingKind,
    /// What exactly, and what becomes of it.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Kinds of [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum FindingKind {
    /// A write that was cut short at the end of the log; opening removes it.
    TornTail,
    /// A frame that is damaged.
    DamagedFrame,
    /// Events that are missing between two others, or at the beginning.
    Gap,
    /// A balance that leaves the 64-bit range.
    Overflow,
    /// An event that is older than the one before it.
    TimeGoesBack,
    /// A key that two transactions have: one of them was posted twice.
    RepeatedKey,
    /// A snapshot that cannot be read.
    DamagedSnapshot,
    /// A snapshot that says something else than the log.
    WrongSnapshot,
    /// A run that cannot be read.
    DamagedRun,
    /// A run that says something else than the log.
    WrongRun,
    /// Keys from before the newest snapshot that stand neither in it nor in a run.
    MissingKeys,
    /// A file that could not be read.
    Unreadable,
}

/// Checks the store in `directory`. Of a store that does not exist nothing is created.
///
/// # Errors
/// When the store is in use, or is not there.
pub fn check(directory: &Path) -> Result<CheckReport, BookError> {
    let books_directory = directory.join("books");
    let names = book_names(&books_directory)?;
    let _lock = take_lock(directory)?;
    let mut report = CheckReport { ok: true, books: Vec::new(), findings: Vec::new() };
    for name in names {
        let mut check = Check::new(&name, &books_directory.join(&name), &mut report.findings);
        check.run()?;
        report.books.push(check.report);
    }
    report.ok = report.findings.is_empty();
    Ok(report)
}

struct Check<'a> {
    directory: PathBuf,
    findings: &'a mut Vec<Finding>,
    report: BookReport,
    state: State,
    hasher: KeyHasher,
    /// Every key of the log.
    keys: SeqIndex,
    openings: u64,
    last_at: Option<DateTime<Utc>>,
    /// Openings up to the newest snapshot, and the keys in it.
    newest: Option<(Seq, u64, Keys)>,
}

impl<'a> Check<'a> {
    fn new(name: &str, directory: &Path, findings: &'a mut Vec<Finding>) -> Self {
        Self {
            directory: directory.to_owned(),
            findings,
            report: BookReport { book: name.to_owned(), ..BookReport::default() },
            state: State::new(&std::env::temp_dir()),
            hasher: KeyHasher::default(),
            keys: SeqIndex::default(),
            openings: 0,
            last_at: None,
            newest: None,
        }
    }

    fn find(&mut self, kind: FindingKind, file: &Path, offset: Option<u64>, reason: String) {
        let book = self.report.book.clone();
        self.findings.push(Finding { book, file: file.to_owned(), offset, kind, reason });
    }

    fn run(&mut self) -> Result<(), BookError> {
        let listing = files::list(&self.directory)?;
        self.report.segments = listing.segments.len() as u64;
        self.report.snapshots = listing.snapshots.len() as u64;
        self.report.runs = listing.runs.len() as u64;
        for (_, path) in &listing.segments {
            self.report.segments_bytes += crate::disk::metadata(path)?.len_bytes;
        }
        self.log(&listing)?;
        self.report.events = (self.state.next_seq - 1) as u64;
        self.report.accounts = self.state.account_count() as u64;
        self.repeated_keys()?;
        let next_seq = self.state.next_seq;
        for (last, path) in listing.snapshots.iter().filter(|(last, _)| *last >= next_seq) {
            let reason = format!(
                "it is of event {last}, the log ends at {}; opening moves it aside",
                self.report.events
            );
            self.find(FindingKind::WrongSnapshot, path, None, reason);
        }
        let covered = self.runs(&listing)?;
        self.missing_keys(&listing, &covered);
        Ok(())
    }

    /// Replays the log, and looks at each snapshot when its event has come.
    fn log(&mut self, listing: &Listing) -> Result<(), BookError> {
        let scanned = scan::scan(&listing.segments, 1, |found| match found {
            Found::Segment(index) => {
                self.state.add_segment(listing.segments[index].0);
                Ok(())
            }
            Found::Event(index, frame) => {
                let path = &listing.segments[index].1;
                self.state.add_position(frame.offset);
                if let Some((at, event)) = &frame.event {
                    self.event(path, frame.offset, frame.seq, *at, event)?;
                }
                if self.state.is_flush_due() {
                    self.state.tidy();
                }
                for (last, path) in listing.snapshots.iter().filter(|(last, _)| *last == frame.seq) {
                    self.snapshot(*last, path, listing.snapshots[0].0 == *last)?;
                }
                Ok(())
            }
        });
        let rest = match scanned {
            Ok(None) => return Ok(()),
            Ok(Some(bad)) => {
                let path = &listing.segments[bad.segment].1;
                let is_last = bad.segment + 1 == listing.segments.len();
                let (kind, outlook) = match (is_last, bad.is_torn) {
                    (true, true) => (FindingKind::TornTail, "opening cuts the log here"),
                    (true, false) => {
                        (FindingKind::DamagedFrame, "opening cuts the log here and saves what it cuts")
                    }
                    (false, _) => (FindingKind::DamagedFrame, "the store cannot be opened"),
                };
                let reason = format!("damaged frame: {}; {outlook}", bad.reason);
                self.find(kind, path, Some(bad.offset), reason);
                bad.segment + 1
            }
            Err(BookError::Gap { path, offset, expected, found }) => {
                let reason =
                    format!("event {expected} should stand here, found {found}; the store cannot be opened");
                self.find(FindingKind::Gap, &path, Some(offset), reason);
                listing.segments.iter().position(|(_, segment)| *segment == path).map_or(0, |at| at + 1)
            }
            Err(BookError::ReplayOverflow { account, path, offset, .. }) => {
                let reason = format!("the balance of account {account:?} leaves the 64-bit range");
                self.find(FindingKind::Overflow, &path, Some(offset), reason);
                listing.segments.iter().position(|(_, segment)| *segment == path).map_or(0, |at| at + 1)
            }
            Err(error) => return Err(error),
        };
        // What comes behind cannot be replayed; its frames can still be looked at.
        for (_, path) in &listing.segments[rest..] {
            self.frames(path)?;
        }
        Ok(())
    }

    fn event(
        &mut self,
        path: &Path,
        offset: u64,
        seq: Seq,
        at: DateTime<Utc>,
        event: &Replayed<'_>,
    ) -> Result<(), BookError> {
        if self.last_at.is_some_and(|last| at < last) {
            let reason = format!("event {seq} is of {at}, which is before the event in front of it");
            self.find(FindingKind::TimeGoesBack, path, Some(offset), reason);
        }
        self.last_at = Some(at);
        match event {
            Replayed::Posted(posted) => {
                self.report.transactions += 1;
                self.state.post(seq, at, posted.txid, posted.postings.iter().map(PostingRef::from)).map_err(
                    |account| BookError::ReplayOverflow {
                        book: self.report.book.clone(),
                        account,
                        path: path.to_owned(),
                        offset,
                    },
                )?;
                self.keys.insert(self.hasher.hash(&posted.key), seq);
                if self.keys.is_flush_due() {
                    let scratch = self.state.scratch()?;
                    self.keys.flush(&scratch)?;
                }
            }
            Replayed::Account(def, cfg) => {
                self.openings += 1;
                self.state.add_account(def, cfg);
            }
            Replayed::Asset(_) => self.openings += 1,
        }
        self.state.advance(seq, at);
        Ok(())
    }

    fn frames(&mut self, path: &Path) -> Result<(), BookError> {
        let source = Source::open(path, Io::Mmap)?;
        let mut buffer = Vec::new();
        let bytes = source.bytes(0..source.len_bytes(), &mut buffer)?;
        let mut at = 0;
        let bad = loop {
            match frame::split(&bytes[at..]) {
                Split::End => break None,
                Split::Torn => break Some("it is cut short".to_owned()),
                Split::Whole { crc, payload } => {
                    if let Err(reason) =
                        frame::check(crc, payload).and_then(|()| frame::decode(payload).map(drop))
                    {
                        break Some(reason);
                    }
                    at += HEADER_BYTES + payload.len();
                }
            }
        };
        source.check_len()?;
        if let Some(reason) = bad {
            self.find(FindingKind::DamagedFrame, path, Some(at as u64), format!("damaged frame: {reason}"));
        }
        Ok(())
    }

    /// Compares a snapshot with the state at its event.
    fn snapshot(&mut self, last: Seq, path: &Path, is_newest: bool) -> Result<(), BookError> {
        let (state, keys) = match snapshot::load(path, last, &std::env::temp_dir(), usize::MAX) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.find(FindingKind::DamagedSnapshot, path, derived_offset(&error), error.to_string());
                return Ok(());
            }
        };
        if let Some(difference) = differences(&self.state, &state)? {
            self.find(
                FindingKind::WrongSnapshot,
                path,
                None,
                format!("it disagrees with the log: {difference}"),
            );
        }
        for (key, outcome) in keys.hot() {
            if let Some(reason) = self.contradiction(key, outcome)? {
                self.find(FindingKind::WrongSnapshot, path, None, reason);
            }
        }
        if is_newest && self.report.book != SYSTEM_BOOK {
            self.newest = Some((last, self.openings, keys));
        }
        Ok(())
    }

    /// What the log says against an outcome.
    fn contradiction(&self, key: &str, outcome: Outcome) -> Result<Option<String>, BookError> {
        if outcome.seq < 1 || outcome.seq >= self.state.next_seq {
            return Ok(Some(format!(
                "key {key:?} is said to be of event {}, which the log does not have",
                outcome.seq
            )));
        }
        let event = files::read_event(&self.directory, self.state.position(outcome.seq)?, outcome.seq)?;
        let agrees = matches!(&event.event, talea_core::events::LedgerEvent::TransactionPosted(transaction)
            if transaction.idempotency_key.0 == key && transaction.id.0 == outcome.txid && event.at == outcome.at);
        Ok((!agrees)
            .then(|| format!("key {key:?} is said to be of event {}, which is another one", outcome.seq)))
    }

    /// Looks at the runs; answers the events whose keys they hold.
    fn runs(&mut self, listing: &Listing) -> Result<Vec<Seq>, BookError> {
        let mut covered = Vec::new();
        for (_, path) in &listing.runs {
            let run = match RunFile::open(path) {
                Ok(run) => run,
                Err(error) => {
                    self.find(FindingKind::DamagedRun, path, derived_offset(&error), error.to_string());
                    continue;
                }
            };
            for entry in run.entries(&mut Vec::new())? {
                match entry {
                    Ok((key, outcome)) => match self.contradiction(&key, outcome)? {
                        Some(reason) => self.find(FindingKind::WrongRun, path, None, reason),
                        None => {
                            self.report.run_keys += 1;
                            covered.push(outcome.seq);
                        }
                    },
                    Err(error) => {
                        self.find(FindingKind::DamagedRun, path, derived_offset(&error), error.to_string());
                        break;
                    }
                }
            }
        }
        covered.sort_unstable();
        covered.dedup();
        Ok(covered)
    }

    fn missing_keys(&mut self, listing: &Listing, covered: &[Seq]) {
        let Some((last, openings, keys)) = self.newest.take() else { return };
        let in_runs = covered.partition_point(|seq| *seq <= last);
        let in_snapshot =
            keys.hot().filter(|(_, outcome)| covered.binary_search(&outcome.seq).is_err()).count();
        let missing = (last as u64 - openings).saturating_sub((in_runs + in_snapshot) as u64);
        if missing > 0 {
            let reason = format!(
                "{missing} idempotency keys from before this snapshot stand neither in it nor in a run; opening takes them from \
                 the log, talea-store-log 0.1.0 would post them again"
            );
            self.find(FindingKind::MissingKeys, &listing.snapshots[0].1, None, reason);
        }
    }

    fn repeated_keys(&mut self) -> Result<(), BookError> {
        let scratch = self.state.scratch()?;
        for (first, second) in self.keys.repeated(&scratch)? {
            let position = self.state.position(second)?;
            let path = files::segment_path(&self.directory, position.base);
            let reason =
                format!("event {second} has the idempotency key of event {first}: it was posted twice");
            self.find(FindingKind::RepeatedKey, &path, Some(position.offset), reason);
        }
        Ok(())
    }
}

fn derived_offset(error: &BookError) -> Option<u64> {
    match error {
        BookError::Derived { offset, .. } => Some(*offset),
        _ => None,
    }
}

fn history_digest(state: &State, account: &Account) -> Result<blake3::Hash, BookError> {
    let mut digest = blake3::Hasher::new();
    let mut bytes = Vec::new();
    state.each_row(account, |row| {
        bytes.clear();
        row.write(&mut bytes);
        digest.update(&bytes);
        Ok(())
    })?;
    Ok(digest.finalize())
}

/// The first difference between what the log and what a snapshot says.
fn differences(log: &State, snapshot: &State) -> Result<Option<String>, BookError> {
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
        if said.opened != account.opened || said.raw != account.raw || said.updated_seq != account.updated_seq
        {
            return Ok(Some(format!("account {:?}", id.to_key())));
        }
        if history_digest(log, account)? != history_digest(snapshot, said)? {
            return Ok(Some(format!("the history of account {:?}", id.to_key())));
        }
    }
    let mut wrong = None;
    snapshot.each_txid(|txid, seq| {
        if log.latest_with_txid(txid)? != Some(seq) {
            wrong = Some(format!("transaction {txid}"));
        }
        Ok(())
    })?;
    Ok(wrong)
}

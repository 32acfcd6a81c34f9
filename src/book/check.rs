//! Checking a store without changing it: every segment, snapshot and run, against its checksum and against each other.
//!
//! Holds the lock where there is one, so that nobody writes meanwhile, and writes nothing into the store; scratch data goes
//! to the temporary directory. Promises: everything that is wrong is found, with file and byte offset; damage in one file
//! does not keep the others, nor the rest of that file, from being looked at.

mod derived;
mod log;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use talea_core::store::TrialBalanceRow;
use talea_core::types::Seq;

use self::log::LogEnd;
use super::directory::{book_names, take_lock_if_there};
use super::error::BookError;
use super::files;
use super::keys::{KeyHasher, Keys};
use super::scratch::SeqIndex;
use super::state::State;
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
    /// What is wrong, in the order it was found. Of very many the later ones are only counted.
    pub findings: Vec<Finding>,
    /// Findings that are not in `findings`, because they would take too much memory.
    pub findings_left_out: u64,
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
    /// Assets of which debits and credits differ. No fault: a store takes transactions as they are posted.
    pub unbalanced: Vec<Unbalanced>,
    /// Copies that repairs kept of what they cut, and snapshots that were ahead of their log.
    pub set_aside: Vec<PathBuf>,
}

/// An asset of which a book's debits and credits differ, in minor units.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Unbalanced {
    /// The asset.
    pub asset: String,
    /// All debits.
    pub debits: i64,
    /// All credits.
    pub credits: i64,
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
    #[serde(rename = "verdict")]
    pub kind: FindingKind,
    /// What exactly, and what becomes of it.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        match self.offset {
            Some(offset) => write!(f, "{file} at byte {offset}: {}", self.reason),
            // What the system refused is told with the path.
            None if self.reason.contains(&file) => f.write_str(&self.reason),
            None => write!(f, "{file}: {}", self.reason),
        }
    }
}

/// Findings, as many as memory is given to.
#[derive(Default)]
struct Findings {
    kept: Vec<Finding>,
    /// What `kept` takes.
    kept_bytes: usize,
    left_out: u64,
}

impl Findings {
    /// Beyond this, findings are counted: damage can be of every event.
    const BYTES_MAX: usize = 16 << 20;

    fn push(&mut self, finding: Finding) {
        let texts = [finding.book.len(), finding.file.as_os_str().len(), finding.reason.len()];
        let bytes = size_of::<Finding>() + texts.iter().sum::<usize>();
        if self.kept_bytes + bytes > Self::BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.kept_bytes += bytes;
        self.kept.push(finding);
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
    /// Accounts that hold an asset of which there is no registration.
    UnregisteredAsset,
    /// A file or directory that could not be read.
    Unreadable,
}

/// Checks the store in `directory` and changes nothing.
///
/// # Errors
/// When the store is in use, or is not there.
pub fn check(directory: &Path) -> Result<CheckReport, BookError> {
    let lock = take_lock_if_there(directory)?;
    let books_directory = directory.join("books");
    // A new store from which somebody took the empty directory: opening makes it again.
    let names =
        if lock.is_some() && !books_directory.exists() { Vec::new() } else { book_names(&books_directory)? };
    let mut findings = Findings::default();
    let mut books = Vec::new();
    let mut assets = HashSet::new();
    let mut held = Vec::new();
    for name in names {
        let mut check = Check::new(&name, &books_directory.join(&name), &mut findings);
        if let Err(error) = check.run() {
            let directory = check.directory.clone();
            check.find(FindingKind::Unreadable, &directory, None, error.to_string());
        }
        assets.extend(check.assets);
        held.push((name, check.held));
        books.push(check.report);
    }
    for (book, held) in held {
        for (asset, Held { account, path, offset, more }) in
            held.into_iter().filter(|(asset, _)| !assets.contains(asset))
        {
            let more = if more > 0 { format!(" (and {more} more accounts)") } else { String::new() };
            findings.push(Finding {
                book: book.clone(),
                file: path,
                offset: Some(offset),
                kind: FindingKind::UnregisteredAsset,
                reason: format!(
                    "account {account} holds {asset}{more}, which is not registered; register it again with its precision, \
                     or restore the segments of _system from a backup"
                ),
            });
        }
    }
    let Findings { kept: findings, left_out: findings_left_out, .. } = findings;
    Ok(CheckReport { ok: findings.is_empty(), books, findings, findings_left_out })
}

/// A segment, opened when it is first wanted.
struct Segment {
    base: Seq,
    path: PathBuf,
    source: Option<Source>,
}

impl Segment {
    fn source(&mut self) -> Result<&Source, BookError> {
        match &mut self.source {
            Some(source) => Ok(source),
            empty => Ok(empty.insert(Source::open(&self.path, Io::Mmap)?)),
        }
    }
}

/// The newest snapshot that can be read and that the log reaches.
struct Newest {
    last: Seq,
    path: PathBuf,
    /// Events up to it that are no transactions.
    openings: u64,
    keys: Keys,
}

/// Who holds an asset.
struct Held {
    /// The first account.
    account: String,
    /// Where it was opened.
    path: PathBuf,
    offset: u64,
    /// How many accounts besides it.
    more: u64,
}

/// The check of one book.
struct Check<'a> {
    directory: PathBuf,
    findings: &'a mut Findings,
    report: BookReport,
    segments: Vec<Segment>,
    /// As replaying the log makes it.
    state: State,
    hasher: KeyHasher,
    /// Every key of the log.
    keys: SeqIndex,
    openings: u64,
    last_at: Option<DateTime<Utc>>,
    newest: Option<Newest>,
    /// Registered here.
    assets: HashSet<String>,
    /// By asset.
    held: BTreeMap<String, Held>,
}

impl<'a> Check<'a> {
    fn new(name: &str, directory: &Path, findings: &'a mut Findings) -> Self {
        Self {
            directory: directory.to_owned(),
            findings,
            report: BookReport { book: name.to_owned(), ..BookReport::default() },
            segments: Vec::new(),
            state: State::new(&std::env::temp_dir()),
            hasher: KeyHasher::default(),
            keys: SeqIndex::default(),
            openings: 0,
            last_at: None,
            newest: None,
            assets: HashSet::new(),
            held: BTreeMap::new(),
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
        for (base, path) in &listing.segments {
            self.report.segments_bytes += crate::disk::metadata(path)?.len_bytes;
            self.segments.push(Segment { base: *base, path: path.clone(), source: None });
        }
        self.report.set_aside.clone_from(&listing.set_aside);
        let end = self.log(&listing)?;
        for row in self.state.trial_balance().into_iter().filter(|row| row.debits != row.credits) {
            let TrialBalanceRow { asset, debits, credits } = row;
            self.report.unbalanced.push(Unbalanced { asset: asset.as_str().to_owned(), debits, credits });
        }
        self.report.events = self.replayed() as u64;
        self.report.accounts = self.state.account_count() as u64;
        self.repeated_keys()?;
        self.snapshots_ahead(&listing, end);
        let covered = self.runs(&listing, end)?;
        self.missing_keys(&covered);
        Ok(())
    }

    /// The last event that was replayed.
    fn replayed(&self) -> Seq {
        self.state.next_seq - 1
    }
}

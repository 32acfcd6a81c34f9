//! The report of a check. Touches nothing.

use std::path::PathBuf;

use serde::Serialize;

use crate::book::error::BookError;
use crate::book::files::Listing;
use crate::disk;
use crate::store::Finding;

/// What the books of a store hold.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BookStatus {
    /// One entry a book, by name.
    pub books: Vec<BookReport>,
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
    /// Number of segments.
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
    /// Files that repairs keep: copies of bytes that were cut off, and snapshots that name events after the end of the log.
    #[serde(serialize_with = "crate::disk::lossy::many")]
    pub set_aside: Vec<PathBuf>,
}

impl BookReport {
    /// What names and lengths of files say of a book.
    pub(super) fn of(book: String, listing: &Listing) -> Result<Self, BookError> {
        let mut segments_bytes = 0;
        for (_, path) in &listing.segments {
            segments_bytes += disk::metadata(path)?.len_bytes;
        }
        Ok(Self {
            book,
            segments: listing.segments.len() as u64,
            segments_bytes,
            snapshots: listing.snapshots.len() as u64,
            runs: listing.runs.len() as u64,
            set_aside: listing.set_aside.clone(),
            ..Self::default()
        })
    }
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

/// What a check found wrong with a book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BookProblem {
    /// The book.
    pub book: String,
    /// What kind of thing.
    #[serde(rename = "verdict")]
    pub kind: BookFindingKind,
}

/// Something that is wrong with a book.
pub type BookFinding = Finding<BookProblem>;

/// The kinds of [`BookProblem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum BookFindingKind {
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
    /// Keys from before the newest snapshot that are neither in it nor in a run.
    MissingKeys,
    /// Accounts that hold an asset of which there is no registration.
    UnregisteredAsset,
    /// A file or directory that could not be read.
    Unreadable,
}

/// Findings, up to a limit of memory.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) kept: Vec<BookFinding>,
    /// Memory of `kept`.
    kept_bytes: usize,
    pub(super) left_out: u64,
}

impl Findings {
    /// Above this, findings are only counted, because every event can be damaged.
    const BYTES_MAX: usize = 16 << 20;

    pub(super) fn push(&mut self, finding: BookFinding) {
        let texts = [finding.problem.book.len(), finding.file.as_os_str().len(), finding.reason.len()];
        let bytes = size_of::<BookFinding>() + texts.iter().sum::<usize>();
        if self.kept_bytes + bytes > Self::BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.kept_bytes += bytes;
        self.kept.push(finding);
    }
}

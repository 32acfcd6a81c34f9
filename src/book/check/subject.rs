//! One book while it is checked: what replaying has made of it so far, and what was found.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use talea_core::types::Seq;

use super::report::{BookFinding, BookFindingKind, BookProblem, BookReport, Findings};
use crate::book::error::BookError;
use crate::book::keys::{KeyHasher, Keys};
use crate::book::scratch::SeqIndex;
use crate::book::state::BookState;
use crate::disk;
use crate::scan::{Io, Source};

/// A segment, opened when it is first wanted.
pub(super) struct LogSegment {
    pub(super) base: Seq,
    pub(super) path: PathBuf,
    pub(super) source: Option<Source>,
}

impl LogSegment {
    pub(super) fn source(&mut self) -> Result<&Source, BookError> {
        let source = self.take_source()?;
        Ok(self.source.insert(source))
    }

    /// Returns the source, for a caller that puts it back.
    pub(super) fn take_source(&mut self) -> Result<Source, BookError> {
        if let Some(source) = self.source.take() {
            return Ok(source);
        }
        disk::metadata_of_regular_file(&self.path)?;
        Ok(Source::open(&self.path, Io::Mmap)?)
    }
}

/// The newest snapshot that can be read and that the log reaches.
pub(super) struct NewestSnapshot {
    pub(super) last: Seq,
    pub(super) path: PathBuf,
    /// Events up to it that are no transactions.
    pub(super) openings: u64,
    pub(super) keys: Keys,
}

/// Who holds an asset.
pub(super) struct HeldAsset {
    /// The first account.
    pub(super) account: String,
    /// Where it was opened.
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    /// How many accounts besides it.
    pub(super) more: u64,
}

/// The check of one book.
pub(super) struct BookCheck<'a> {
    pub(super) directory: PathBuf,
    pub(super) findings: &'a mut Findings,
    pub(super) report: BookReport,
    pub(super) segments: Vec<LogSegment>,
    /// As replaying the log makes it.
    pub(super) state: BookState,
    pub(super) hasher: KeyHasher,
    /// Every key of the log.
    pub(super) keys: SeqIndex,
    pub(super) openings: u64,
    pub(super) last_at: Option<DateTime<Utc>>,
    pub(super) newest: Option<NewestSnapshot>,
    /// Registered here.
    pub(super) assets: HashSet<String>,
    /// By asset.
    pub(super) held: BTreeMap<String, HeldAsset>,
}

impl<'a> BookCheck<'a> {
    pub(super) fn new(name: &str, directory: &Path, findings: &'a mut Findings) -> Self {
        Self {
            directory: directory.to_owned(),
            findings,
            report: BookReport { book: name.to_owned(), ..BookReport::default() },
            segments: Vec::new(),
            state: BookState::new(&std::env::temp_dir()),
            hasher: KeyHasher::default(),
            keys: SeqIndex::default(),
            openings: 0,
            last_at: None,
            newest: None,
            assets: HashSet::new(),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn find(&mut self, kind: BookFindingKind, file: &Path, offset: Option<u64>, reason: String) {
        let problem = BookProblem { book: self.report.book.clone(), kind };
        self.findings.push(BookFinding { file: file.to_owned(), offset, problem, reason });
    }

    /// Returns the last event that was replayed.
    pub(super) fn replayed(&self) -> Seq {
        self.state.next_seq - 1
    }
}

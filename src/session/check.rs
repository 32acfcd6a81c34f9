//! Describes a store by its index, and checks a store without changing it.
//!
//! Touches: reads the store.
//!
//! Guarantees: no lock is taken. A line that a writer is about to index is no finding, because unindexed lines are looked at
//! again until they have settled.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::error::{SessionError, SessionErrorClass};
use super::format::{IndexSummary, StoreHead};
use super::options::SessionOptions;
use super::reader::SessionReader;
use super::view::SessionView;
use super::writer::SessionStoreV2;
use crate::disk;
use crate::store::{Check, Finding};

/// How often, and after how long, unindexed lines are looked at again, because a writer writes a line before its row.
const LOOKS_MAX: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// A line that is unindexed for so many looks is not about to be indexed.
const LOOKS_TO_SETTLE: u32 = 4;

/// The state of a store by its index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SessionStatus {
    /// The sequence of the last entry, 0 for an empty store.
    pub entry_count: u64,
    /// The last entry, `None` for an empty store.
    pub head: Option<StoreHead>,
    /// The hash chain over all entries, when every frame was verified.
    pub chain_hash: Option<String>,
    /// The sum of the lengths of all lines in the index, in bytes.
    pub total_bytes: u64,
    /// The first and the last row of the index, `None` for an empty store.
    pub index_summary: Option<IndexSummary>,
    /// The ids of all rows, in order.
    pub entry_ids: Vec<String>,
}

/// What a check found wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "verdict")]
#[non_exhaustive]
pub enum SessionProblem {
    /// The first failure of validating what is in the index.
    Failed {
        /// The class of the failure.
        class: SessionErrorClass,
    },
    /// Bytes with whole lines that are in no row of the index.
    Unindexed {
        /// Number of bytes.
        length: u64,
    },
    /// Bytes of an unfinished write, which are no fault: a writer may be at work.
    Unfinished {
        /// Number of bytes.
        length: u64,
    },
}

impl SessionView {
    /// Returns the state of the store by its index, without the chain.
    pub fn status(&self) -> SessionStatus {
        SessionStatus {
            entry_count: self.entry_count(),
            head: self.head(),
            chain_hash: None,
            total_bytes: self.total_bytes(),
            index_summary: self.index_summary(),
            entry_ids: self.entry_ids().map(str::to_owned).collect(),
        }
    }
}

/// Returns the state of the store in `root` by its index. A store that does not exist is empty.
///
/// # Errors
/// As [`SessionReader::view`].
pub fn status(root: &Path) -> Result<SessionStatus, SessionError> {
    Ok(SessionStoreV2::open_for_inspection(root, &SessionOptions::default())?.view()?.status())
}

/// Checks the store in `root` and changes nothing: every frame that is in the index, ids and parents, which bytes the index lacks,
/// and that each checkpoint can be read.
///
/// # Errors
/// When the index or the segments cannot be read.
pub fn check(root: &Path) -> Result<Check<SessionStatus, SessionProblem>, SessionError> {
    let mut reader = SessionStoreV2::open_for_inspection(root, &SessionOptions::default())?;
    let mut findings = reader.unindexed()?;
    let view = reader.view()?;
    let mut status = view.status();
    match view.validate_integrity() {
        Ok(validated) => status.chain_hash = Some(validated.chain_hash),
        Err(error) => {
            let problem = SessionProblem::Failed { class: error.class() };
            let (file, reason) = (root.to_owned(), error.to_string());
            findings.insert(0, Finding { file, offset: None, problem, reason });
        }
    }
    for checkpoint_seq in view.checkpoints()? {
        if let Err(error) = view.read_checkpoint(checkpoint_seq) {
            let problem = SessionProblem::Failed { class: error.class() };
            let (file, reason) = (view.layout.checkpoint(checkpoint_seq), error.to_string());
            findings.push(Finding { file, offset: None, problem, reason });
        }
    }
    let is_fault = |finding: &Finding<_>| !matches!(finding.problem, SessionProblem::Unfinished { .. });
    let ok = !findings.iter().any(is_fault);
    Ok(Check { ok, ..Check::new(status, findings, 0) })
}

impl SessionReader {
    /// Returns the bytes that the index lacks, without the lines that a writer is about to index.
    ///
    /// # Errors
    /// As [`SessionReader::view`], and failures of the file system.
    pub fn unindexed(&mut self) -> Result<Vec<Finding<SessionProblem>>, SessionError> {
        let is_line = |finding: &&Finding<_>| matches!(finding.problem, SessionProblem::Unindexed { .. });
        let (mut before, mut settled) = (None, 0);
        for _ in 0..LOOKS_MAX {
            let ranges = self.view()?.unindexed()?;
            let found = ranges.into_iter().map(finding_of).collect::<Result<Vec<_>, _>>()?;
            let first = found.iter().find(is_line).map(|first| (first.file.clone(), first.offset));
            settled = if first == before { settled + 1 } else { 0 };
            if first.is_none() || settled == LOOKS_TO_SETTLE {
                return Ok(found);
            }
            before = first;
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Ok(Vec::new())
    }
}

fn finding_of((file, range): (PathBuf, Range<u64>)) -> Result<Finding<SessionProblem>, SessionError> {
    let length = range.end - range.start;
    let (problem, what) = if has_lines(&file, range.clone())? {
        (SessionProblem::Unindexed { length }, "in no row of the index")
    } else {
        (SessionProblem::Unfinished { length }, "an unfinished write")
    };
    // Between two entries nothing can be cut.
    let remedy = if range.end < disk::metadata(&file)?.len_bytes {
        "adds entries; if it does not, restore the segment from a copy"
    } else {
        "adds entries and sets the rest aside"
    };
    let reason = format!("{length} bytes are {what}; `burn session reindex` {remedy}");
    Ok(Finding { file, offset: Some(range.start), problem, reason })
}

/// Whether a line that is not blank ends in this range.
fn has_lines(path: &Path, range: Range<u64>) -> Result<bool, SessionError> {
    let (mut is_blank, mut has_lines) = (true, false);
    disk::File::open_read_no_follow(path)?.read_pieces(range, |piece| {
        has_lines = piece.iter().any(|byte| {
            is_blank &= byte.is_ascii_whitespace();
            *byte == b'\n' && !is_blank
        });
        !has_lines
    })?;
    Ok(has_lines)
}

//! How far a run is with the logs of an agent, for the observer.

use std::collections::HashMap;
use std::path::Path;

use crate::agents::js;
use crate::agents::pass::{Agent, Candidate};
use crate::agents::report::IngestProgress;
use crate::disk;
use crate::scan::json::Document;

/// Measures the progress of a run with the logs of an agent.
pub(super) struct Meter {
    progress: IngestProgress,
    /// The new bytes of each log, from its size and its cursor; the last log first.
    left: Vec<u64>,
    /// Bytes that were read from the current log.
    read: u64,
}

impl Meter {
    pub(super) fn new(agent: Agent, candidates: &[&Candidate], cursors: &HashMap<&Path, Vec<u8>>) -> Self {
        let mut document = Document::default();
        let mut new_bytes = |candidate: &&Candidate| {
            let size = disk::metadata_of_target(&candidate.path).map_or(0, |found| found.len_bytes);
            let cursor = cursors.get(candidate.path.as_path()).and_then(|cursor| document.parse(cursor).ok());
            let offset = cursor.and_then(|cursor| js::number(cursor, "offsetBytes")).unwrap_or(0.0) as u64;
            size.checked_sub(offset).unwrap_or(size)
        };
        let left: Vec<u64> = candidates.iter().rev().map(&mut new_bytes).collect();
        let (logs, bytes) = (candidates.len() as u64, left.iter().sum());
        Meter { progress: IngestProgress { agent, done_logs: 0, logs, done_bytes: 0, bytes }, left, read: 0 }
    }

    /// Counts bytes of the current log. Some readers read more than the new bytes.
    pub(super) fn read(&mut self, bytes: u64) -> IngestProgress {
        let left = self.left.last().copied().unwrap_or(0);
        self.read = (self.read + bytes).min(left);
        IngestProgress { done_bytes: self.progress.done_bytes + self.read, ..self.progress }
    }

    pub(super) fn log_is_done(&mut self) -> IngestProgress {
        self.read = 0;
        self.progress.done_logs += 1;
        self.progress.done_bytes += self.left.pop().unwrap_or(0);
        self.progress
    }
}

//! Reads the lines of an index for a check, and compares the index with the ledger.

use std::ops::Range;
use std::path::Path;

use rayon::slice::ParallelSliceMut;

use crate::ledger::LedgerError;
use crate::record::Id;
use crate::scan::{self, Io, Source};

#[derive(Default)]
pub(super) struct IndexLines {
    exists: bool,
    /// Ids with their offsets, sorted.
    ids: Vec<(Id, u64)>,
    /// Lines that are not ids, with their LFs.
    invalid: Vec<Range<u64>>,
}

impl IndexLines {
    /// Reads the index at `path`; returns no lines when the file is missing.
    pub(super) fn read(path: &Path) -> Result<Self, LedgerError> {
        let mut lines = Self::default();
        let Some(source) = Source::open_if_there(path, Io::Read)? else { return Ok(lines) };
        lines.exists = true;
        let mut buffer = Vec::new();
        let bytes = source.bytes(0..source.len_bytes(), &mut buffer)?;
        for (offset, line) in scan::lines(0, bytes) {
            let end = offset + line.len() as u64;
            match Id::parse(line) {
                Some(id) if end < bytes.len() as u64 => lines.ids.push((id, offset)),
                _ if line.is_empty() => {}
                _ => lines.invalid.push(offset..(end + 1).min(bytes.len() as u64)),
            }
        }
        lines.ids.par_sort_unstable();
        Ok(lines)
    }
}

/// The differences between ledger and index.
pub(super) struct IndexComparison {
    pub exists: bool,
    /// Number of different ids in the index.
    pub ids: u64,
    /// Ids that the index lacks, by offset in the ledger.
    pub missing: Vec<(Id, u64)>,
    /// Ids that the ledger lacks, by offset in the index.
    pub extra: Vec<(Id, u64)>,
    /// Ids that an earlier line of the index has already, by offset in the index.
    pub repeated: Vec<(Id, u64)>,
    /// Lines of the index that are not ids.
    pub invalid: Vec<Range<u64>>,
}

impl IndexComparison {
    /// Compares the ids of a ledger, which are sorted, with the index.
    pub(super) fn of(ledger: &[(Id, u64)], index: IndexLines) -> Self {
        let (mut missing, mut extra, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let mut ids = 0;
        let mut indexed = index
            .ids
            .chunk_by(|a, b| a.0 == b.0)
            .map(|lines| {
                ids += 1;
                repeated.extend_from_slice(&lines[1..]);
                lines[0]
            })
            .peekable();
        for lines in ledger.chunk_by(|a, b| a.0 == b.0) {
            let (id, offset) = lines[0];
            while let Some(other) = indexed.next_if(|(other, _)| *other < id) {
                extra.push(other);
            }
            if indexed.next_if(|(other, _)| *other == id).is_none() {
                missing.push((id, offset));
            }
        }
        extra.extend(indexed);
        for list in [&mut missing, &mut extra, &mut repeated] {
            list.sort_unstable_by_key(|(_, offset)| *offset);
        }
        Self { exists: index.exists, ids, missing, extra, repeated, invalid: index.invalid }
    }

    pub(super) fn agrees(&self) -> bool {
        [&self.missing, &self.extra, &self.repeated].iter().all(|list| list.is_empty())
            && self.invalid.is_empty()
    }
}

//! Reads the lines of an index for a check, and compares the index with the ledger.

use std::ops::Range;
use std::path::Path;

use rayon::slice::ParallelSliceMut;

use crate::disk::{self, File};
use crate::ledger::LedgerError;
use crate::ledger::sorted::each_piece;
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
        sort(&mut lines.ids);
        Ok(lines)
    }
}

/// Sorts ids by id, then by offset. Comparing one integer is faster than comparing two.
pub(super) fn sort(ids: &mut [(Id, u64)]) {
    ids.par_sort_unstable_by_key(|(id, offset)| u128::from(id.0) << 64 | u128::from(*offset));
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

/// Walks along the ids of a ledger and the lines of the index at `path`, both in the order of their lines. Returns the
/// lines of the ledger without which the two are the same; `None` when the index has an id or another line that the walk does
/// not meet in the ledger. A sound index has the ids of a ledger in this order, without the repeated ones.
pub(super) fn lines_left_out(
    ledger: &[(Id, u64)],
    path: &Path,
) -> Result<Option<Vec<(Id, u64)>>, LedgerError> {
    let Some(file) = disk::if_there(File::open_read(path))? else { return Ok(None) };
    let (mut left_out, mut rest) = (Vec::new(), ledger);
    let (mut end, mut is_met) = (0, true);
    each_piece(&file, 0, |base, piece| {
        end = base + piece.len() as u64;
        for (_, line) in scan::lines(base, piece).filter(|_| is_met) {
            let place = Id::parse(line).and_then(|id| rest.iter().position(|line| line.0 == id));
            let Some(place) = place else {
                is_met = false;
                return;
            };
            left_out.extend_from_slice(&rest[..place]);
            rest = &rest[place + 1..];
        }
    })?;
    left_out.extend_from_slice(rest);
    Ok((is_met && end == file.len_bytes()?).then_some(left_out))
}

impl IndexComparison {
    /// The comparison of a ledger, whose ids are sorted, with an index that has the ids of all lines but those of
    /// [`lines_left_out`]; `None` when index and ledger do not agree.
    pub(super) fn of_agreeing(ledger: &[(Id, u64)], left_out: &[(Id, u64)]) -> Option<Self> {
        let is_repeated = |line: &(Id, u64)| {
            let first = ledger.partition_point(|other| other.0 < line.0);
            ledger[first].0 == line.0 && ledger[first].1 < line.1
        };
        let ids = ledger.chunk_by(|a, b| a.0 == b.0).count();
        // Every first line of an id is in the index, so the index has an id twice only if it has more lines than there are ids.
        let agrees = ids == ledger.len() - left_out.len() && left_out.iter().all(is_repeated);
        let (missing, extra, repeated, invalid) = Default::default();
        agrees.then_some(Self { exists: true, ids: ids as u64, missing, extra, repeated, invalid })
    }

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::agreement::Rng;

    #[test]
    fn a_walk_agrees_only_where_sorted_ids_agree() {
        let mut random = Rng::of(1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.idx");
        let mut agreed = 0;
        for _ in 0..5_000 {
            let mut ledger: Vec<_> =
                (0..random.below(7)).map(|line| (Id(random.below(6) as u64), line as u64)).collect();
            let mut indexed: Vec<Id> = Vec::new();
            for (id, _) in &ledger {
                if !indexed.contains(id) {
                    indexed.push(*id);
                }
            }
            let is_sound = random.below(2) == 0;
            if !is_sound {
                indexed.retain(|_| random.below(8) > 0);
                let place = random.below(indexed.len() + 1);
                indexed.insert(place, Id(random.below(7) as u64));
            }
            let mut text = Vec::new();
            indexed.iter().for_each(|id| id.write_line(&mut text));
            std::fs::write(&path, &text).unwrap();
            let left_out = lines_left_out(&ledger, &path).unwrap();
            sort(&mut ledger);
            let walked = left_out.and_then(|left_out| IndexComparison::of_agreeing(&ledger, &left_out));
            let compared = IndexComparison::of(&ledger, IndexLines::read(&path).unwrap());
            match walked {
                Some(walked) => {
                    assert!(compared.agrees() && compared.ids == walked.ids, "{ledger:?} {indexed:?}")
                }
                None => assert!(!is_sound, "{ledger:?} {indexed:?}"),
            }
            agreed += u64::from(compared.agrees() && !is_sound);
        }
        assert!(agreed > 10, "{agreed}");
        for text in ["0000000000000000", "\n", "0000000000000000\nx\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(lines_left_out(&[(Id(0), 0)], &path).unwrap(), None, "{text:?}");
        }
    }
}

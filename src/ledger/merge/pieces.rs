//! Appends the planned lines to the target, piece by piece, as appends do.
//!
//! Writes at the end of the target's ledger and to its index files, under their locks; other programs may append between two
//! pieces. Guarantees: a piece is appended only if the target is as the plan knows it. Lines are whole. A merge that ends
//! early leaves the target with the first lines of the plan, and a later merge of the same inputs appends the others.

use super::super::append::{AppendOptions, append_lines, sync_lines};
use super::super::index::IdIndex;
use super::super::{Ledger, LedgerError};
use super::keys::{LABELS, LineClass, LineKey};
use super::plan::PlannedLine;
use super::report::MergeReport;
use super::store::LineStore;
use crate::home::LockName;
use crate::record::Id;
use crate::scan::{Io, Source};

/// The bytes of a piece. Each piece opens the index again.
const PIECE_BYTES: usize = 16 << 20;

/// The target as it was when it was read.
pub(super) struct TargetEnd<'t> {
    /// `None` when there was no ledger.
    pub source: Option<&'t Source>,
    /// The length in bytes, unfinished line and appended pieces included.
    pub len_bytes: u64,
}

impl TargetEnd<'_> {
    /// Whether no other program has replaced the ledger or appended to it.
    fn is_still(&self, now: &Source) -> bool {
        self.source.is_none_or(|source| source.is_same_file(now)) && now.len_bytes() == self.len_bytes
    }
}

/// Lines to append in one write.
#[derive(Default)]
struct MergePiece {
    text: Vec<u8>,
    /// Id and fingerprint of each line.
    ids: Vec<(Option<Id>, Option<Id>)>,
    again: u64,
    labels: u64,
}

impl MergePiece {
    fn add(
        &mut self,
        line: &LineKey,
        is_again: bool,
        store: &LineStore<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), LedgerError> {
        self.text.extend_from_slice(store.text(line.place, buffer)?);
        self.text.push(b'\n');
        self.ids.push(match line.class {
            LineClass::Record(_) => {
                (Some(Id(line.key)), Some(line.fingerprint).filter(|hash| *hash != 0).map(Id))
            }
            LineClass::Stamp | LineClass::Other => (None, None),
        });
        self.again += u64::from(is_again);
        self.labels += u64::from(line.place.input == LABELS);
        Ok(())
    }
}

/// How far the plan was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlanOutcome {
    Done,
    /// The target is no longer as the plan knows it.
    TargetChanged,
}

impl Ledger {
    /// Appends `lines`, which are numbers of `keys`, and makes everything that the ledger has durable.
    pub(super) fn append_planned(
        &self,
        lines: &[PlannedLine],
        keys: &[LineKey],
        store: &LineStore<'_>,
        mut target: TargetEnd<'_>,
        report: &mut MergeReport,
    ) -> Result<PlanOutcome, LedgerError> {
        let mut piece = MergePiece::default();
        let mut buffer = Vec::new();
        for (number, planned) in lines.iter().enumerate() {
            piece.add(&keys[planned.line], planned.is_again, store, &mut buffer)?;
            if piece.text.len() < PIECE_BYTES && number + 1 < lines.len() {
                continue;
            }
            self.merge_stop(report.appended)()?;
            store.check_lens()?;
            if !self.append_merge_piece(&piece, &mut target)? {
                return Ok(PlanOutcome::TargetChanged);
            }
            report.appended += piece.ids.len() as u64;
            report.again += piece.again;
            report.labels += piece.labels;
            piece = MergePiece::default();
        }
        // Also when no line was appended, because an earlier merge may have died before its sync.
        self.locked(LockName::Ledger, |_| sync_lines(&self.open_for_append()?, &AppendOptions::durable()))?;
        Ok(PlanOutcome::Done)
    }

    /// Appends one piece, unless the target has changed.
    fn append_merge_piece(
        &self,
        piece: &MergePiece,
        target: &mut TargetEnd<'_>,
    ) -> Result<bool, LedgerError> {
        self.locked(LockName::Ledger, |held| {
            self.locked(LockName::LedgerIndex, |index_held| {
                let mut ledger = self.open_for_append()?;
                let path = self.home().ledger();
                if !target.is_still(&Source::open(&path, Io::Read)?) {
                    return Ok(false);
                }
                let mut index = IdIndex::open(self.home(), &ledger)?;
                let mut known = index.known(piece.ids.iter().filter_map(|(id, _)| *id))?;
                index_held.still_held()?;
                held.still_held()?;
                let written =
                    append_lines(&mut ledger, &piece.text, piece.ids.len(), &AppendOptions::default());
                let landed = match &written {
                    Ok(()) => piece.ids.len(),
                    Err(LedgerError::Partial { landed, .. }) => *landed as usize,
                    Err(_) => 0,
                };
                let (mut ids, mut fingerprints) = (Vec::new(), Vec::new());
                for (id, fingerprint) in &piece.ids[..landed] {
                    ids.extend(id.filter(|id| known.insert(*id)));
                    fingerprints.extend(fingerprint);
                }
                let indexed = index.add(&ids, &fingerprints, &ledger, ledger.len_bytes());
                written?;
                indexed.map_err(|source| LedgerError::NotIndexed {
                    path,
                    landed: landed as u64,
                    source: Box::new(source),
                })?;
                target.len_bytes = ledger.len_bytes();
                Ok(true)
            })
        })
    }
}

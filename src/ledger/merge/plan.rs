//! Decides which lines a merge appends, and in which order.
//!
//! Reads a line again only when another line has the same id, or the same time if the line is a stamp. Writes nothing.
//!
//! An example: the target has version 2 of turn T, an input has versions 1 and 3 of T and a turn U. In the order of their
//! ranks the versions are 1, 2, 3. The merge appends 1, then 2 again, then 3, because the last line of a turn counts, and
//! because 1 must not be lost; and U.
//!
//! Guarantees: what the archive of the target has after the merge depends on the set of all lines alone, not on their order,
//! on how often a line is there, or on which ledger has it. Without lines in the target, the appended bytes do, too.

use std::collections::HashSet;

use rayon::slice::ParallelSliceMut;

use super::super::LedgerError;
use super::keys::{LineClass, LineKey, MergePlace, RecordPlace, TARGET};
use super::report::{MergeFinding, MergeReport, VERSIONS_NAMED};
use super::same_turns::SameTurns;
use super::stamps::{StampFacts, contested_sets};
use super::store::LineStore;
use super::versions::VersionRank;
use crate::record::{Hasher, Id, ParsedLine, RecordKind, line_of};
use crate::scan::json::{Document, Value};

/// A line to append.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedLine {
    /// The number of the line among the sorted keys.
    pub line: usize,
    /// Whether the target has the line already: a version that counts is written again after a version that does not.
    pub is_again: bool,
    /// The place among the lines of its key.
    place: u32,
    /// The time of the version that counts.
    at_us: i64,
}

const _: () =
    assert!(size_of::<PlannedLine>() == 24, "docs/merging.md states the memory of a line to append");

/// A text that some lines have.
#[derive(Debug, Clone)]
struct TextVersion {
    line: LineKey,
    /// The number of the line among the sorted keys.
    number: usize,
    /// The offset of the last line of the target that has the text.
    in_target: Option<u64>,
    rank: Option<VersionRank>,
}

/// The lines of a turn in a plan.
#[derive(Debug, Clone, Copy)]
struct PlannedTurn {
    /// The number of the version that counts among the sorted keys.
    counts: usize,
    /// The turn's lines among the lines of the plan.
    first: usize,
    count: u32,
    is_in_target: bool,
}

const _: () = assert!(size_of::<PlannedTurn>() == 24, "docs/merging.md states the memory of a turn");

/// Plans one merge.
pub(super) struct Planner<'s, 'f> {
    pub store: &'s LineStore<'s>,
    pub report: &'f mut MergeReport,
    pub found: &'f mut dyn FnMut(MergeFinding),
    /// What an earlier plan of this merge reported: keys of records with several contents, and of turns that are left out.
    pub told: &'f mut [HashSet<u64>; 2],
    lines: Vec<PlannedLine>,
    turns: Vec<PlannedTurn>,
    document: Document,
    buffer: Vec<u8>,
    text: Vec<u8>,
}

impl<'s, 'f> Planner<'s, 'f> {
    pub(super) fn new(
        store: &'s LineStore<'s>,
        report: &'f mut MergeReport,
        found: &'f mut dyn FnMut(MergeFinding),
        told: &'f mut [HashSet<u64>; 2],
    ) -> Self {
        let (lines, turns) = (Vec::new(), Vec::new());
        let (document, buffer, text) = (Document::default(), Vec::new(), Vec::new());
        Self { store, report, found, told, lines, turns, document, buffer, text }
    }

    /// The lines to append, in their order. Sorts `keys`, which has all lines of all ledgers.
    pub(super) fn plan(mut self, keys: &mut [LineKey]) -> Result<Vec<PlannedLine>, LedgerError> {
        // Lines of the target come last among equal texts, so that the last of them is the last of all.
        keys.par_sort_unstable_by_key(|line| {
            (line.class, line.key, line.text, line.place.input == TARGET, line.place)
        });
        let keys = &*keys;
        let mut number = 0;
        for group in keys.chunk_by(is_one_record) {
            let version = |lines: &[LineKey]| {
                number += lines.len();
                version_of(lines, number)
            };
            let versions = group.chunk_by(|a, b| a.text == b.text).filter_map(version).collect();
            match group[0].class {
                LineClass::Record(place) => self.record(keys, place.kind(), versions)?,
                LineClass::Stamp => self.stamps(versions)?,
                LineClass::Other => self.append_from(&versions, 0),
            }
        }
        self.leave_out_same_turns(keys);
        let mut lines = self.lines;
        lines.retain(|line| line.place != LEFT_OUT);
        lines.par_sort_unstable_by_key(|planned| {
            let line = &keys[planned.line];
            (planned.at_us, line.class, line.key, planned.place)
        });
        Ok(lines)
    }

    /// Plans the lines of one id.
    fn record(
        &mut self,
        keys: &[LineKey],
        kind: RecordKind,
        mut versions: Vec<TextVersion>,
    ) -> Result<(), LedgerError> {
        self.unite_spellings(&mut versions)?;
        if kind == RecordKind::Turn && versions.len() > 1 {
            self.heed_parts(keys, &mut versions)?;
        }
        let first = self.lines.len();
        self.append_from(&versions, places_kept(&versions));
        let Some(counts) = versions.last() else { return Ok(()) };
        if versions.len() > 1 && self.lines.len() > first && self.told[0].insert(counts.line.key) {
            self.report.conflicts += 1;
            let newest = versions.iter().rev().take(VERSIONS_NAMED);
            let finding = MergeFinding::Conflict {
                kind: kind.as_str(),
                id: Id(counts.line.key).to_string(),
                versions: versions.len(),
                lines: newest.map(|version| self.store.at(version.line.place)).collect(),
            };
            (self.found)(finding);
        }
        if kind == RecordKind::Turn && counts.line.fingerprint != 0 {
            self.turns.push(PlannedTurn {
                counts: counts.number,
                first,
                count: (self.lines.len() - first) as u32,
                is_in_target: versions.iter().any(|version| version.in_target.is_some()),
            });
        }
        Ok(())
    }

    /// Plans the stamps of one time. Only contested stamps need an order.
    fn stamps(&mut self, mut versions: Vec<TextVersion>) -> Result<(), LedgerError> {
        if versions.len() < 2 {
            self.append_from(&versions, places_kept(&versions));
            return Ok(());
        }
        self.unite_spellings(&mut versions)?;
        let mut facts = Vec::with_capacity(versions.len());
        for version in &versions {
            let line = self.store.text(version.line.place, &mut self.text)?;
            facts.push(self.document.parse(line).map(StampFacts::of).unwrap_or_default());
        }
        let sets = contested_sets(&facts);
        let mut of_set: Vec<(usize, usize)> = sets.into_iter().zip(0..).collect();
        of_set.sort_unstable();
        for set in of_set.chunk_by(|a, b| a.0 == b.0) {
            let of_set: Vec<TextVersion> = set.iter().map(|(_, stamp)| versions[*stamp].clone()).collect();
            let first = self.lines.len();
            self.append_from(&of_set, places_kept(&of_set));
            // Lines of all sets of one time are put together in the order of their ranks.
            for (planned, (_, stamp)) in self.lines[first..].iter_mut().rev().zip(set.iter().rev()) {
                planned.place = *stamp as u32;
            }
        }
        Ok(())
    }

    /// Ranks versions, and keeps one version of each content: one that the target has, else the one whose text is least.
    /// The versions are then in the order of their ranks.
    fn unite_spellings(&mut self, versions: &mut Vec<TextVersion>) -> Result<(), LedgerError> {
        if versions.len() < 2 {
            return Ok(());
        }
        for version in versions.iter_mut() {
            let line = self.store.text(version.line.place, &mut self.text)?;
            version.rank = Some(VersionRank::of_line(line, &mut self.document, &mut self.buffer));
        }
        // The last of the target's lines comes first among lines of equal content.
        versions.sort_unstable_by_key(|version| {
            (version.rank, std::cmp::Reverse(version.in_target), version.line.text)
        });
        versions.dedup_by_key(|version| version.rank);
        Ok(())
    }

    /// Puts the version last that counts beside the turn's parts. An example: one ledger has the turn `t` with 1,000 tokens and its
    /// part `t+1` with 5,000, because the log rested in between; another ledger has `t` with 6,000. The parts must not be added
    /// to the whole. So of the versions that some ledger has beside `t+1`, the one counts that has the least output and, with
    /// the parts, no less than any version. If there is none, nothing changes.
    fn heed_parts(&mut self, keys: &[LineKey], versions: &mut [TextVersion]) -> Result<(), LedgerError> {
        let mut parts_output = 0u64;
        let mut with_parts = Vec::new();
        for id in self.part_ids(versions[0].line.place)?.into_iter().flatten() {
            let lines = lines_of_turn(keys, id);
            if lines.is_empty() {
                break;
            }
            if with_parts.is_empty() {
                with_parts.extend(lines.iter().map(|line| line.place.input));
            }
            parts_output = parts_output.saturating_add(self.output_of(lines)?);
        }
        let output = |version: &TextVersion| version.rank.map_or(0, |rank| rank.output);
        let most = versions.last().map_or(0, output);
        // Of the versions of the target, the last is the one that its parts belong to.
        let last_of_target = versions.iter().filter_map(|version| version.in_target).max();
        let lines = lines_of_turn(keys, Id(versions[0].line.key));
        let is_beside_parts = |version: &TextVersion| {
            lines.iter().any(|line| {
                line.text == version.line.text
                    && with_parts.contains(&line.place.input)
                    && (line.place.input != TARGET || version.in_target == last_of_target)
            })
        };
        let is_enough = |version: &&TextVersion| {
            output(version).saturating_add(parts_output) >= most && is_beside_parts(version)
        };
        let least = versions.iter().find(is_enough).map(output);
        let counts = |version: &TextVersion| Some(output(version)) == least && is_beside_parts(version);
        if let Some(counts) = versions.iter().rposition(counts) {
            versions[counts..].rotate_left(1);
        }
        Ok(())
    }

    /// The ids that the parts of a turn have, in their order; none if the turn has no id of its own.
    fn part_ids(
        &mut self,
        turn: MergePlace,
    ) -> Result<Option<impl Iterator<Item = Id> + use<'s, 'f>>, LedgerError> {
        let line = self.store.text(turn, &mut self.text)?;
        let Ok(root) = self.document.parse(line) else { return Ok(None) };
        let ParsedLine::Record(_, record) = line_of(root) else { return Ok(None) };
        let texts = ["source", "sessionId", "messageId"].map(|key| record.get(key).and_then(Value::as_str));
        let [Some(source), Some(session), Some(message)] =
            texts.map(|text| text.map(|text| text.to_string()))
        else {
            return Ok(None);
        };
        let mut hasher = Hasher::default();
        Ok(Some(
            (1..).map(move |part| hasher.id_of_parts(&[&source, &session, &format!("{message}+{part}")])),
        ))
    }

    /// The greatest output of some lines of a turn.
    fn output_of(&mut self, lines: &[LineKey]) -> Result<u64, LedgerError> {
        let mut most = 0;
        for line in lines {
            let text = self.store.text(line.place, &mut self.text)?;
            most = most.max(VersionRank::of_line(text, &mut self.document, &mut self.buffer).output);
        }
        Ok(most)
    }

    /// Plans to append the versions from `kept` on.
    fn append_from(&mut self, versions: &[TextVersion], kept: usize) {
        let at_us = versions.last().map_or(0, |version| version.line.at_us);
        for (place, version) in versions.iter().enumerate().skip(kept) {
            let is_again = version.in_target.is_some();
            if version.line.class == LineClass::Other && is_again {
                continue;
            }
            let (line, place) = (version.number, place as u32);
            self.lines.push(PlannedLine { line, is_again, place, at_us });
        }
    }

    /// Leaves out turns that have the fingerprint of another turn, and its message id if that is certain: of a turn of the
    /// target, else of the turn with the least id. Turns that one ledger has stay apart.
    fn leave_out_same_turns(&mut self, keys: &[LineKey]) {
        let alike = |turn: &PlannedTurn| (keys[turn.counts].fingerprint, keys[turn.counts].message);
        self.turns.par_sort_unstable_by_key(|turn| (alike(turn), !turn.is_in_target, keys[turn.counts].key));
        for turns in self.turns.chunk_by(|a, b| alike(a) == alike(b)).filter(|turns| turns.len() > 1) {
            let mut same = SameTurns::default();
            for turn in turns {
                let Some(kept) = same.add(turn.counts, &ledgers_of(keys, turn.counts)) else { continue };
                for planned in &mut self.lines[turn.first..turn.first + turn.count as usize] {
                    planned.place = LEFT_OUT;
                }
                if !self.told[1].insert(keys[turn.counts].key) {
                    continue;
                }
                self.report.same_turns += 1;
                let [left_out, kept] = [turn.counts, kept].map(|number| self.store.at(keys[number].place));
                (self.found)(MergeFinding::SameTurn { left_out, kept });
            }
        }
    }
}

/// [`PlannedLine::place`] of a line that is not appended after all.
const LEFT_OUT: u32 = u32::MAX;

/// The lines of the turn with this id, among sorted keys.
fn lines_of_turn(keys: &[LineKey], id: Id) -> &[LineKey] {
    let turn = (LineClass::Record(RecordPlace::of(RecordKind::Turn)), id.0);
    let lines = &keys[keys.partition_point(|line| (line.class, line.key) < turn)..];
    &lines[..lines.partition_point(|line| (line.class, line.key) == turn)]
}

fn is_one_record(a: &LineKey, b: &LineKey) -> bool {
    (a.class, a.key) == (b.class, b.key)
}

/// The ledgers that have the record of the line with this number, each once.
fn ledgers_of(keys: &[LineKey], number: usize) -> Vec<u32> {
    let is_same = |line: &&LineKey| is_one_record(line, &keys[number]);
    let before = keys[..number].iter().rev().take_while(is_same);
    let lines = before.chain(keys[number..].iter().take_while(is_same));
    let mut ledgers: Vec<u32> = lines.map(|line| line.place.input).collect();
    ledgers.sort_unstable();
    ledgers.dedup();
    ledgers
}

/// The version that the lines of one text are: those of the target are last. `end` is the number after that of the last line.
fn version_of(lines: &[LineKey], end: usize) -> Option<TextVersion> {
    let (first, last) = (lines.first()?, lines.last()?);
    let in_target = (last.place.input == TARGET).then_some(last.place.offset);
    let (line, number) = match in_target {
        Some(_) => (*last, end - 1),
        None => (*first, end - lines.len()),
    };
    Some(TextVersion { line, number, in_target, rank: None })
}

/// How many of the versions, which are in the order of their ranks, the target has already in this order. The versions after
/// them are appended, also those that the target has, because they must come after those that it lacks.
fn places_kept(versions: &[TextVersion]) -> usize {
    let mut end = None;
    let is_in_order = |version: &&TextVersion| {
        let is_later = version.in_target.is_some() && version.in_target > end;
        end = version.in_target;
        is_later
    };
    versions.iter().take_while(is_in_order).count()
}

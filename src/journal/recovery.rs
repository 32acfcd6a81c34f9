//! Recovery: finds out which records are whole, cuts off what a torn write left, and sets damage aside on request.
//!
//! May touch: segments, SKIPS and `quarantine/` of a journal whose lock is held. Guarantees: bytes are cut or overwritten
//! only after a durable copy of them is under `quarantine/`, except zeros that were written ahead. Corruption changes nothing
//! unless the caller asks for it. After a run that was stopped anywhere, the next run ends in the same state. A second run
//! changes nothing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::check_segment::{CheckedSegment, SegmentExtent, TornEnd, check_segment};
use super::directory::{Directory, read_small};
use super::error::{Damage, DamageReason, JournalError, JournalProblem, QuarantineError, Result};
use super::format::{FileKind, HEADER_SIZE, HeaderFlaw, Skips};
use super::segment::{Segment, list};
use super::status::JournalStatus;
use crate::disk;
use crate::store::{self, Check, Cut, Finding, LEFTOVER_AGE, Recovery};

/// If a segment has at most this many damaged ranges, each is saved in a file of its own; otherwise one file has all bytes from
/// the first range to the last.
const SAVED_APART: usize = if cfg!(test) { 8 } else { 64 };

/// Which records opening a journal checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenCheck {
    /// Every record of every segment.
    #[default]
    Everything,
    /// The records after the synced mark, which takes as long for a large journal as for a small one. All of the segment with the mark, when
    /// anything but whole records follows the mark; everything, when there is no mark or the mark does not fit the files.
    FromSyncedMark,
}

/// What opening or recovering a journal found and did.
#[derive(Debug, Clone)]
pub struct RecoveryReport {
    /// Segment files.
    pub segments: usize,
    /// Offset of the first record, or where it will be.
    pub start: u64,
    /// Offset after the last record.
    pub end: u64,
    /// Records before this offset were not checked.
    pub checked_from: u64,
    /// Valid records among those that were checked.
    pub records: u64,
    /// Length of these records in bytes, with lengths and checksums.
    pub bytes: u64,
    /// Torn writes that were cut off, and files that were renamed.
    pub recovery: Recovery,
    /// Damaged ranges that were saved and marked. They stay in their files, but a damaged header is written again, and an overlap
    /// is cut.
    pub quarantined: Vec<SavedRange>,
    /// All ranges of offsets that reads step over, also those of earlier recoveries.
    pub skipped: Vec<Range<u64>>,
    /// How long it took.
    pub duration: Duration,
}

/// Bytes that recovery set aside, and where a copy of them is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRange {
    /// Where the bytes were and what was wrong.
    pub damage: Damage,
    /// Number of bytes of the file; 0 where no file had them.
    pub len_bytes: u64,
    /// The copy; `None` where no file had the bytes. Many ranges of one segment share a copy.
    pub saved: Option<PathBuf>,
}

/// A journal that is ready to be read and written.
#[derive(Debug)]
pub(super) struct RecoveredJournal {
    /// The segment that takes the next record; none when it must be created at `report.end`.
    pub(super) active: Option<Segment>,
    /// The synced mark, when it lies within the journal.
    pub(super) mark: Option<u64>,
    /// Whether nothing tells of an earlier record: no segment, no mark, no cursor.
    pub(super) is_new: bool,
    pub(super) report: RecoveryReport,
}

/// How recovery treats damage that no torn write explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruption {
    /// Fail with [`JournalError::Corrupt`] and change nothing.
    Refuse,
    /// Save the damaged bytes under `quarantine/` and let reads step over them.
    SetAside,
}

/// Checks a whole journal, cuts off torn writes, and refuses other damage or sets it aside, as `on_corruption` says.
///
/// # Errors
/// [`JournalError::Locked`] while a writer has the journal open; [`JournalError::Corrupt`] with [`OnCorruption::Refuse`], before
/// anything is changed; [`JournalError::Unsupported`]; [`JournalError::Quarantine`]; file operations that fail.
pub fn recover(directory: &Path, on_corruption: OnCorruption) -> Result<RecoveryReport> {
    let directory = Directory::at(directory);
    let _lock = directory.lock(Duration::ZERO)?;
    Ok(recover_locked(&directory, OpenCheck::Everything, on_corruption)?.report)
}

/// Checks a whole journal and changes nothing. A torn end is a finding, too; opening cuts it off.
///
/// # Errors
/// [`JournalError::Locked`] while a writer has the journal open; [`JournalError::Unsupported`] and [`JournalError::Damaged`]; file
/// operations that fail.
pub fn check(directory: &Path) -> Result<Check<JournalStatus, JournalProblem>> {
    let directory = Directory::at(directory);
    let _lock = directory.lock_if_there()?;
    let (skips, segments) = inventory(&directory)?;
    let survey = JournalSurvey::of(&directory, skips, segments, Scope::Everything)?;
    let torn = survey.torn.iter().map(|(damage, _)| damage.clone());
    let damages: Vec<Damage> =
        survey.damages.iter().cloned().chain(torn).chain(survey.torn_creation()).collect();
    let lost = damages.iter().find(|damage| damage.reason == DamageReason::LostEnd).cloned();
    let (start, end) = (survey.skips.advance(0), survey.skips.advance(survey.whole_end));
    let status = JournalStatus::of(&directory, start, end, lost)?;
    Ok(Check::new(status, damages.iter().map(Finding::from).collect(), 0))
}

/// Checks every record of one segment file, which lies in its journal's directory. At the end of the last segment, cuts off what a
/// torn write left. The records of other segments are not checked.
///
/// # Errors
/// As [`recover`] with [`OnCorruption::Refuse`]; [`JournalError::NotASegment`] for another name.
pub fn recover_file(path: &Path) -> Result<RecoveryReport> {
    let started = Instant::now();
    let directory = Directory::at(disk::parent_of(path));
    let _lock = directory.lock(Duration::ZERO)?;
    let (skips, segments) = inventory(&directory)?;
    let is_named = |segment: &Segment| path.file_name().is_some_and(|name| *name == *segment.file_name());
    let Some(at) = segments.iter().position(is_named) else {
        return Err(JournalError::NotASegment { path: path.to_owned() });
    };
    let segment = segments[at];
    let Some(next) = segments.get(at + 1) else {
        let survey = JournalSurvey::of(&directory, skips, segments, Scope::LastSegment)?;
        return Ok(survey.unless_corrupt()?.repair(Vec::new(), started)?.report);
    };
    // A sealed segment has no torn end, so there is nothing to repair.
    let extent = SegmentExtent { path, segment, next_base: Some(next.base), from: segment.base };
    let checked = check_segment(extent, &skips)?;
    if !checked.damages.is_empty() {
        return Err(JournalError::Corrupt {
            directory: directory.root().to_owned(),
            damages: checked.damages,
        });
    }
    Ok(RecoveryReport {
        segments: 1,
        start: skips.advance(segment.base),
        end: skips.advance(segment.end()),
        checked_from: segment.base,
        records: checked.records,
        bytes: checked.bytes,
        recovery: Recovery::default(),
        quarantined: Vec::new(),
        skipped: skips.ranges().to_vec(),
        duration: started.elapsed(),
    })
}

/// As [`recover`], for a holder of the lock.
pub(super) fn recover_locked(
    directory: &Directory,
    check: OpenCheck,
    on_corruption: OnCorruption,
) -> Result<RecoveredJournal> {
    let sets_aside = on_corruption == OnCorruption::SetAside;
    let started = Instant::now();
    remove_leftovers(directory)?;
    let mut quarantined = Vec::new();
    let (skips, segments) = match inventory(directory) {
        Err(JournalError::Damaged { path, .. }) if sets_aside => {
            quarantined.push(set_aside_skips(directory, &path)?);
            let segments = list(directory)?;
            let start = segments.first().map_or(0, |first| first.base);
            (Skips::starting_at(start), segments)
        }
        listed => listed?,
    };
    let scope = match check {
        OpenCheck::Everything => Scope::Everything,
        OpenCheck::FromSyncedMark => Scope::FromSyncedMark,
    };
    let mut survey = JournalSurvey::of(directory, skips, segments, scope)?;
    if !sets_aside {
        survey = survey.unless_corrupt()?;
    }
    survey.repair(quarantined, started)
}

/// Deletes what killed replacements of the journal's small files left. The writer's lock does not cover cursors and the note of
/// delivered lines, so a young file may belong to a program that runs.
fn remove_leftovers(directory: &Directory) -> Result<()> {
    store::remove_leftovers(directory.root(), &["SYNCED.", "SKIPS.", "IDENTITY."], Duration::ZERO)?;
    store::remove_leftovers(directory.root(), &["DELIVERED."], LEFTOVER_AGE)?;
    disk::if_there(store::remove_leftovers(&directory.cursors(), &[""], LEFTOVER_AGE))?;
    Ok(())
}

/// Returns the skips and the segments. Segments from before the start, which an interrupted cleanup leaves, do not count.
fn inventory(directory: &Directory) -> Result<(Skips, Vec<Segment>)> {
    let skips = directory.read_skips()?;
    let mut segments = list(directory)?;
    segments.retain(|segment| segment.base >= skips.start);
    Ok((skips, segments))
}

/// Which records a survey checks.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Everything,
    FromSyncedMark,
    LastSegment,
}

fn set_aside_skips(directory: &Directory, path: &Path) -> Result<SavedRange> {
    let file = disk::File::open_rw(path)?;
    let len_bytes = file.len_bytes()?;
    let saved = save_bytes(directory, &file, 0..len_bytes, "SKIPS")?;
    disk::remove_file(path)?;
    disk::sync_dir(directory.root())?;
    let damage =
        Damage { segment: path.to_owned(), position: 0, offsets: 0..0, reason: DamageReason::Checksum };
    Ok(SavedRange { damage, len_bytes, saved: Some(saved) })
}

/// The state of the directory, before anything is changed.
struct JournalSurvey<'d> {
    directory: &'d Directory,
    skips: Skips,
    segments: Vec<Segment>,
    mark: Option<u64>,
    /// A last segment that was never finished; not in `segments`.
    torn_creation: Option<Segment>,
    /// Corruption, in ascending order of offsets.
    damages: Vec<Damage>,
    torn: Option<(Damage, TornEnd)>,
    /// The furthest offset up to which the journal is known to have been synced or consumed.
    known_end: u64,
    /// Offset after the last whole record, before skips are counted.
    whole_end: u64,
    checked_from: u64,
    records: u64,
    bytes: u64,
}

impl<'d> JournalSurvey<'d> {
    fn of(directory: &'d Directory, skips: Skips, mut segments: Vec<Segment>, scope: Scope) -> Result<Self> {
        let torn_creation = match segments.last() {
            Some(last) if last.len_bytes <= HEADER_SIZE => {
                let header = read_small(&directory.segment(last.base))?.unwrap_or_default();
                let is_torn = FileKind::Segment.decode(&header) == Err(HeaderFlaw::Damaged);
                if is_torn { segments.pop() } else { None }
            }
            _ => None,
        };
        let mark = directory.read_mark()?;
        let furthest_cursor = directory.furthest_cursor()?;
        let listed_end = segments.last().map_or(skips.advance(0), |last| skips.advance(last.end()));
        let from = match (scope, mark) {
            (Scope::FromSyncedMark, Some(mark)) if mark <= listed_end && continues(&segments, &skips) => mark,
            (Scope::LastSegment, _) => segments.last().map_or(0, |last| last.base),
            _ => 0,
        };
        let mut survey = Self {
            directory,
            whole_end: segments.last().map_or(skips.advance(0), Segment::end),
            checked_from: skips.advance(from),
            skips,
            segments,
            mark,
            torn_creation,
            damages: Vec::new(),
            torn: None,
            known_end: mark.max(furthest_cursor).unwrap_or(0),
            records: 0,
            bytes: 0,
        };
        survey.check_segments(from)?;
        let base =
            survey.segments.iter().rfind(|segment| segment.base <= from).map_or(from, |found| found.base);
        if base < from && (survey.torn.is_some() || !survey.damages.is_empty()) {
            // Files that were restored may have another record across the mark, so only at a base does a record surely start.
            survey.forget_findings(base);
            survey.check_segments(base)?;
        }
        survey.check_start();
        survey.check_end();
        Ok(survey)
    }

    /// What is wrong with a last segment that was never finished.
    fn torn_creation(&self) -> Option<Damage> {
        let Segment { base, .. } = self.torn_creation?;
        let segment = self.directory.segment(base);
        Some(Damage { segment, position: 0, offsets: base..base, reason: DamageReason::Header })
    }

    fn unless_corrupt(self) -> Result<Self> {
        if self.damages.is_empty() {
            return Ok(self);
        }
        let directory = self.directory.root().to_owned();
        Err(JournalError::Corrupt { directory, damages: self.damages })
    }

    fn forget_findings(&mut self, from: u64) {
        self.damages.clear();
        (self.torn, self.mark) = (None, None);
        self.whole_end = self.segments.last().map_or(self.whole_end, Segment::end);
        self.checked_from = self.skips.advance(from);
        (self.records, self.bytes) = (0, 0);
    }

    fn check_start(&mut self) {
        let start = self.skips.advance(0);
        let Some(first) = self.segments.first().or(self.torn_creation.as_ref()) else { return };
        if first.base > start {
            let damage = Damage {
                segment: self.directory.segment(start),
                position: HEADER_SIZE,
                offsets: start..first.base,
                reason: DamageReason::Missing,
            };
            self.damages.insert(0, damage);
        }
    }

    fn check_segments(&mut self, from: u64) -> Result<()> {
        // The segment with the mark and those after it. A mark at the end of a segment belongs to that segment.
        let first = self.segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
        let torn_creation = self.torn_creation.map(|segment| segment.base);
        let next_bases = self.segments.iter().skip(1).map(|next| Some(next.base)).chain([torn_creation]);
        let extents: Vec<_> = self.segments.iter().zip(next_bases).skip(first).collect();
        let checked: Vec<CheckedSegment> = extents
            .into_par_iter()
            .map(|(&segment, next_base)| {
                let path = self.directory.segment(segment.base);
                check_segment(SegmentExtent { path: &path, segment, next_base, from }, &self.skips)
            })
            .collect::<Result<_, _>>()?;
        for (segment, found) in self.segments[first..].iter().zip(checked) {
            self.records += found.records;
            self.bytes += found.bytes;
            self.damages.extend(found.damages);
            if let Some(torn) = found.torn {
                self.whole_end = torn.offset;
                let damage = Damage {
                    segment: self.directory.segment(segment.base),
                    position: segment.position(torn.offset),
                    offsets: torn.offset..segment.end(),
                    reason: torn.reason,
                };
                self.torn = Some((damage, torn));
            }
        }
        Ok(())
    }

    fn check_end(&mut self) {
        let end = self.skips.advance(self.whole_end);
        if self.torn.is_none() && end < self.known_end {
            let last = self.segments.last();
            self.damages.push(Damage {
                segment: self.directory.segment(last.map_or(end, |last| last.base)),
                position: last.map_or(HEADER_SIZE, |last| last.len_bytes),
                offsets: end..self.known_end,
                reason: DamageReason::LostEnd,
            });
        }
    }

    /// Saves, enters skips, then cuts and writes. In this order the repair can be stopped anywhere.
    fn repair(mut self, mut quarantined: Vec<SavedRange>, started: Instant) -> Result<RecoveredJournal> {
        let mut truncated = Vec::new();
        let found_skips = self.skips.clone();
        let damages = std::mem::take(&mut self.damages);
        for damage in damages.iter().filter(|damage| damage.reason != DamageReason::Overlap) {
            self.skips.insert(damage.offsets.clone());
        }
        for of_one_segment in damages.chunk_by(|a, b| a.segment == b.segment) {
            self.save_all(of_one_segment, &mut quarantined)?;
        }
        if let Some((damage, torn)) = self.torn.take() {
            let lost = torn.offset..self.known_end;
            if lost.start < lost.end {
                self.skips.insert(lost);
            }
            let saved = damage.position..damage.position + torn.nonzero_bytes;
            truncated.push(self.save_cut(damage, saved, "record")?);
        }
        if let (Some(creation), Some(damage)) = (self.torn_creation, self.torn_creation()) {
            truncated.push(self.save_cut(damage, 0..creation.len_bytes, "header")?);
        }
        if self.skips != found_skips
            || quarantined.iter().any(|saved| saved.damage.segment == self.directory.skips())
        {
            self.directory.write_skips(&self.skips)?;
        }
        for saved in &quarantined {
            self.rewrite_header_or_cut(&saved.damage)?;
        }
        for cut in &truncated {
            if cut.length > 0 {
                cut.carry_out()?;
            } else {
                // A segment that was never finished: nothing is left of it.
                disk::remove_file(&cut.file)?;
                disk::sync_dir(self.directory.root())?;
            }
        }
        self.finish(Recovery { truncated, ..Recovery::default() }, quarantined, started)
    }

    fn finish(
        self,
        recovery: Recovery,
        quarantined: Vec<SavedRange>,
        started: Instant,
    ) -> Result<RecoveredJournal> {
        self.sync_inherited()?;
        let end = self.skips.advance(self.whole_end);
        let active = self.segments.last().and_then(|last| {
            let len_bytes = HEADER_SIZE + self.whole_end.checked_sub(last.base)?;
            // A segment that is skipped to its end stays as it is; one that is skipped whole may have the header of another.
            let is_skipped = last.base < self.whole_end && self.skips.advance(last.base) >= self.whole_end;
            (end == self.whole_end && !is_skipped).then_some(Segment { base: last.base, len_bytes })
        });
        let segments = self.segments.len();
        let report = RecoveryReport {
            segments,
            start: self.skips.advance(0),
            end,
            checked_from: self.checked_from,
            records: self.records,
            bytes: self.bytes,
            recovery,
            quarantined,
            skipped: self.skips.ranges().to_vec(),
            duration: started.elapsed(),
        };
        let is_new = segments == 0 && self.known_end == 0;
        Ok(RecoveredJournal { active, mark: self.mark.filter(|mark| *mark <= end), is_new, report })
    }

    /// Makes durable what a killed writer left after the mark: its records, and the name of the last segment. From now
    /// on they count as synced, and a sync of a later segment would not cover them.
    fn sync_inherited(&self) -> Result<()> {
        let Some(last) = self.segments.last() else { return Ok(()) };
        let is_after_mark = |offset: u64| self.mark.is_none_or(|mark| mark < offset);
        let file = is_after_mark(self.whole_end).then(|| self.directory.segment(last.base));
        let names = is_after_mark(last.base + 1).then(|| self.directory.root());
        Ok(store::sync_inherited(file, names)?)
    }

    /// Saves the damages of one segment: each in a file of its own, or very many as one copy of everything between the first and the last,
    /// because a file for each of a million would take an hour.
    fn save_all(&self, damages: &[Damage], saved: &mut Vec<SavedRange>) -> Result<()> {
        if damages.len() <= SAVED_APART {
            for damage in damages {
                saved.push(self.save(damage.clone())?);
            }
            return Ok(());
        }
        let file = disk::File::open_rw(&damages[0].segment)?;
        let file_len_bytes = file.len_bytes()?;
        let ranges: Vec<Range<u64>> =
            damages.iter().map(|damage| damaged_bytes(damage, file_len_bytes)).collect();
        let filled = || ranges.iter().filter(|range| !range.is_empty());
        let start = filled().map(|range| range.start).min().unwrap_or(0);
        let end = filled().map(|range| range.end).max().unwrap_or(0);
        let copy = self.quarantine(&file, start..end, "records")?;
        for (damage, range) in damages.iter().zip(&ranges) {
            let copy = (!range.is_empty()).then(|| copy.clone());
            let len_bytes = range.end - range.start;
            saved.push(SavedRange { damage: damage.clone(), len_bytes, saved: copy });
        }
        Ok(())
    }

    /// Copies the bytes of a damage under `quarantine/`.
    fn save(&self, damage: Damage) -> Result<SavedRange> {
        let why = match damage.reason {
            DamageReason::Missing | DamageReason::LostEnd => {
                return Ok(SavedRange { damage, len_bytes: 0, saved: None });
            }
            DamageReason::Header => "header",
            DamageReason::Base(_) => "renamed",
            DamageReason::Overlap => "overlap",
            DamageReason::Partial | DamageReason::Checksum | DamageReason::Hash => "record",
        };
        let file = disk::File::open_rw(&damage.segment)?;
        let range = damaged_bytes(&damage, file.len_bytes()?);
        let len_bytes = range.end - range.start;
        let saved = if range.is_empty() { None } else { Some(self.quarantine(&file, range, why)?) };
        Ok(SavedRange { damage, len_bytes, saved })
    }

    /// Copies the bytes `saved` of a torn end under `quarantine/`, and returns the cut to make.
    fn save_cut(&self, damage: Damage, saved: Range<u64>, why: &str) -> Result<Cut> {
        let Damage { segment, position, offsets, reason } = damage;
        let (directory, name) = (self.directory.quarantine(), copy_name(&segment, position, why));
        let cut = Cut::save(&segment, position, saved.clone(), (&directory, &name), reason.to_string());
        match cut {
            Ok(cut) => Ok(Cut { offsets: Some([offsets.start, offsets.end]), ..cut }),
            Err(error) => {
                Err(QuarantineError { file: segment, range: saved, source: Arc::new(error) }.into())
            }
        }
    }

    fn quarantine(&self, file: &disk::File, range: Range<u64>, why: &str) -> Result<PathBuf> {
        let name = copy_name(file.path(), range.start, why);
        save_bytes(self.directory, file, range, &name)
    }

    fn rewrite_header_or_cut(&self, damage: &Damage) -> Result<()> {
        match damage.reason {
            DamageReason::Header => {
                let file = disk::File::open_rw(&damage.segment)?;
                file.write_all_at(&FileKind::Segment.encode(damage.offsets.start), 0)?;
                file.sync_all()?;
            }
            DamageReason::Overlap => {
                let file = disk::File::open_rw(&damage.segment)?;
                file.set_len(damage.position)?;
                file.sync_all()?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns the name of a copy: that of the file, the position of the first byte, and why the bytes were saved.
fn copy_name(file: &Path, position: u64, why: &str) -> String {
    format!("{}@{position}.{why}", file.file_name().unwrap_or_default().to_string_lossy())
}

/// Saves bytes of a file under `quarantine/`, durably.
fn save_bytes(directory: &Directory, file: &disk::File, range: Range<u64>, name: &str) -> Result<PathBuf> {
    let saved = disk::quarantine(file, range.clone(), &directory.quarantine(), name);
    saved.map_err(|error| {
        QuarantineError { file: file.path().to_owned(), range, source: Arc::new(error) }.into()
    })
}

/// Returns the bytes of a segment's file that a damage is about.
fn damaged_bytes(damage: &Damage, file_len_bytes: u64) -> Range<u64> {
    match damage.reason {
        DamageReason::Missing | DamageReason::LostEnd => 0..0,
        DamageReason::Header => 0..HEADER_SIZE.min(file_len_bytes),
        DamageReason::Base(_) => 0..file_len_bytes,
        DamageReason::Partial | DamageReason::Checksum | DamageReason::Hash | DamageReason::Overlap => {
            damage.position..damage.position + (damage.offsets.end - damage.offsets.start)
        }
    }
}

/// Whether every segment ends where the next one begins.
fn continues(segments: &[Segment], skips: &Skips) -> bool {
    segments.windows(2).all(|pair| {
        let reaches_exactly = pair[0].end() <= pair[1].base && skips.advance(pair[0].end()) >= pair[1].base;
        reaches_exactly || skips.advance(pair[0].base) >= pair[1].base
    })
}

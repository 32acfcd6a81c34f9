//! Opening a journal: finding out what is whole, cutting off what a torn write left, setting damage aside on request.
//!
//! May touch: segments, SKIPS and `quarantine/` of a journal whose lock is held. Promises: bytes are cut or written over
//! only after a durable copy stands under `quarantine/`; corruption changes nothing unless the caller asks; stopped at
//! any point, the next run comes to the same end; run twice, the second run changes nothing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::check::{Checked, Extent, Torn, check_segment};
use super::directory::{Directory, SegmentFile, read_small};
use super::error::{Damage, DamageReason, JournalError};
use super::format::{HEADER_LEN_BYTES, Skips, Stamp, StampFlaw};
use crate::disk;

/// Up to so many damaged ranges of a segment are saved in a file each; more are saved as one copy from the first to the last.
const SAVED_APART: usize = if cfg!(test) { 8 } else { 64 };

/// Which records opening a journal checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenCheck {
    /// Every record of every segment.
    #[default]
    Everything,
    /// Those behind the synced mark: as quick for a large journal as for a small one. All of the segment with the mark, when
    /// anything else than whole records follows; everything, when there is no mark or it does not fit the files.
    FromSyncedMark,
}

/// What opening or recovering a journal found and did.
#[derive(Debug, Clone)]
pub struct RecoveryReport {
    /// Segment files.
    pub segments: usize,
    /// Offset of the first record, or where it will stand.
    pub start: u64,
    /// Offset behind the last record.
    pub end: u64,
    /// Records before this offset were not checked.
    pub checked_from: u64,
    /// Valid records among those checked.
    pub records: u64,
    /// Their bytes, overhead included.
    pub bytes: u64,
    /// Torn writes that were cut off.
    pub truncated: Vec<SavedRange>,
    /// Damage that was set aside.
    pub quarantined: Vec<SavedRange>,
    /// All ranges of offsets that reads step over, those of earlier recoveries too.
    pub skipped: Vec<Range<u64>>,
    /// How long it took.
    pub duration: Duration,
}

impl RecoveryReport {
    /// Bytes cut off after torn writes.
    pub fn truncated_bytes(&self) -> u64 {
        self.truncated.iter().map(|saved| saved.len_bytes).sum()
    }
}

/// Bytes that recovery cut off or set aside, and where a copy of them is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRange {
    /// Where they stood and what was wrong.
    pub damage: Damage,
    /// How many bytes of the file; 0 where no file had them.
    pub len_bytes: u64,
    /// The copy, without the zeros at the end of a torn write; none where there was nothing else. Ranges of a segment with
    /// many share a copy of all that lies between the first and the last.
    pub saved: Option<PathBuf>,
}

/// A journal that can be read and written from here on.
#[derive(Debug)]
pub(super) struct Recovered {
    /// The segment that takes the next record; none when it must be created at `report.end`.
    pub(super) active: Option<SegmentFile>,
    /// The synced mark, when it lies within the journal.
    pub(super) mark: Option<u64>,
    /// Whether nothing is known of any record before: no segment, no mark, no cursor.
    pub(super) is_new: bool,
    pub(super) report: RecoveryReport,
}

/// Checks a whole journal and repairs it: torn writes always, with `skip_corrupt` every other damage too.
///
/// # Errors
/// [`JournalError::Locked`] while a writer has it open; [`JournalError::Corrupt`] without `skip_corrupt`, before anything
/// is changed; [`JournalError::Unsupported`]; file operations that fail.
pub fn recover(directory: &Path, skip_corrupt: bool) -> Result<RecoveryReport, JournalError> {
    let directory = Directory::at(directory);
    let _lock = directory.lock(Duration::ZERO)?;
    Ok(recover_locked(&directory, OpenCheck::Everything, skip_corrupt)?.report)
}

/// As [`recover`], for who holds the lock.
pub(super) fn recover_locked(
    directory: &Directory,
    check: OpenCheck,
    skip_corrupt: bool,
) -> Result<Recovered, JournalError> {
    let started = Instant::now();
    directory.remove_temporary_files()?;
    let mut quarantined = Vec::new();
    let (skips, segments) = match directory.read_skips() {
        Err(JournalError::Damaged { path, .. }) if skip_corrupt => {
            quarantined.push(set_aside_skips(directory, &path)?);
            let segments = directory.segments()?;
            let start = segments.first().map_or(0, |first| first.base);
            (Skips::starting_at(start), segments)
        }
        skips => {
            let skips = skips?;
            let mut segments = directory.segments()?;
            // Those before the start are what an interrupted cleanup left.
            segments.retain(|segment| segment.base >= skips.start);
            (skips, segments)
        }
    };
    let survey = Survey::of(directory, skips, segments, check)?;
    if !survey.damages.is_empty() && !skip_corrupt {
        return Err(JournalError::Corrupt {
            directory: directory.root().to_owned(),
            damages: survey.damages,
        });
    }
    survey.repair(quarantined, started)
}

fn set_aside_skips(directory: &Directory, path: &Path) -> Result<SavedRange, JournalError> {
    let file = disk::File::open_rw(path)?;
    let len_bytes = file.len_bytes()?;
    let saved = disk::quarantine(&file, 0..len_bytes, &directory.quarantine(), "SKIPS")?;
    disk::remove_file(path)?;
    disk::sync_dir(directory.root())?;
    let damage =
        Damage { segment: path.to_owned(), position: 0, offsets: 0..0, reason: DamageReason::Checksum };
    Ok(SavedRange { damage, len_bytes, saved: Some(saved) })
}

/// What stands in the directory, before anything is changed.
struct Survey<'d> {
    directory: &'d Directory,
    skips: Skips,
    segments: Vec<SegmentFile>,
    mark: Option<u64>,
    /// A last segment that was never finished; not in `segments`.
    torn_creation: Option<SegmentFile>,
    /// Corruption, by ascending offset.
    damages: Vec<Damage>,
    torn: Option<(Damage, Torn)>,
    /// Where the journal was synced or consumed up to, as far as is known.
    known_end: u64,
    /// Offset behind the last whole record, before skips are counted.
    whole_end: u64,
    checked_from: u64,
    records: u64,
    bytes: u64,
}

impl<'d> Survey<'d> {
    fn of(
        directory: &'d Directory,
        skips: Skips,
        mut segments: Vec<SegmentFile>,
        check: OpenCheck,
    ) -> Result<Self, JournalError> {
        let torn_creation = match segments.last() {
            Some(last) if last.len_bytes <= HEADER_LEN_BYTES => {
                let header = read_small(&directory.segment(last.base))?.unwrap_or_default();
                let is_torn = Stamp::Segment.decode(&header) == Err(StampFlaw::Damaged);
                if is_torn { segments.pop() } else { None }
            }
            _ => None,
        };
        let mark = directory.read_mark()?;
        let furthest_cursor = directory.furthest_cursor()?;
        let listed_end = segments.last().map_or(skips.advance(0), |last| skips.advance(last.end()));
        let from = match (check, mark) {
            (OpenCheck::FromSyncedMark, Some(mark)) if mark <= listed_end && continues(&segments, &skips) => {
                mark
            }
            _ => 0,
        };
        let mut survey = Self {
            directory,
            whole_end: segments.last().map_or(skips.advance(0), SegmentFile::end),
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
            // Files that were restored may have another record across the mark: only from a base on is it known where one starts.
            survey.forget_findings(base);
            survey.check_segments(base)?;
        }
        survey.check_start();
        survey.check_end();
        Ok(survey)
    }

    fn forget_findings(&mut self, from: u64) {
        self.damages.clear();
        (self.torn, self.mark) = (None, None);
        self.whole_end = self.segments.last().map_or(self.whole_end, SegmentFile::end);
        self.checked_from = self.skips.advance(from);
        (self.records, self.bytes) = (0, 0);
    }

    fn check_start(&mut self) {
        let start = self.skips.advance(0);
        let Some(first) = self.segments.first().or(self.torn_creation.as_ref()) else { return };
        if first.base > start {
            let damage = Damage {
                segment: self.directory.segment(start),
                position: HEADER_LEN_BYTES,
                offsets: start..first.base,
                reason: DamageReason::Missing,
            };
            self.damages.insert(0, damage);
        }
    }

    fn check_segments(&mut self, from: u64) -> Result<(), JournalError> {
        // The segment with the mark and those behind it; a mark at the end of a segment belongs to that one.
        let first = self.segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
        let torn_creation = self.torn_creation.map(|segment| segment.base);
        let next_bases = self.segments.iter().skip(1).map(|next| Some(next.base)).chain([torn_creation]);
        let extents: Vec<_> = self.segments.iter().zip(next_bases).skip(first).collect();
        let checked: Vec<Checked> = extents
            .into_par_iter()
            .map(|(file, next_base)| {
                let path = self.directory.segment(file.base);
                check_segment(Extent { path: &path, file: *file, next_base, from }, &self.skips)
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
                position: last.map_or(HEADER_LEN_BYTES, |last| last.len_bytes),
                offsets: end..self.known_end,
                reason: DamageReason::LostEnd,
            });
        }
    }

    /// Saves, enters skips, then cuts and writes: the order that can be stopped anywhere.
    fn repair(mut self, quarantined: Vec<SavedRange>, started: Instant) -> Result<Recovered, JournalError> {
        let mut quarantined = quarantined;
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
            truncated.push(self.save(damage, torn.nonzero_bytes)?);
        }
        if let Some(creation) = self.torn_creation {
            let damage = Damage {
                segment: self.directory.segment(creation.base),
                position: 0,
                offsets: creation.base..creation.base,
                reason: DamageReason::Header,
            };
            truncated.push(self.save(damage, u64::MAX)?);
        }
        if self.skips != found_skips
            || quarantined.iter().any(|saved| saved.damage.segment == self.directory.skips())
        {
            self.directory.write_skips(&self.skips)?;
        }
        for saved in &quarantined {
            self.mend(&saved.damage)?;
        }
        for saved in &truncated {
            self.cut(saved)?;
        }
        self.finish(truncated, quarantined, started)
    }

    fn finish(
        self,
        truncated: Vec<SavedRange>,
        quarantined: Vec<SavedRange>,
        started: Instant,
    ) -> Result<Recovered, JournalError> {
        self.sync_inherited()?;
        let end = self.skips.advance(self.whole_end);
        let active = self.segments.last().and_then(|last| {
            let len_bytes = HEADER_LEN_BYTES + self.whole_end.checked_sub(last.base)?;
            // A segment that is skipped whole (its header may be another's) or at its end stays as it is.
            let is_skipped = last.base < self.whole_end && self.skips.advance(last.base) >= self.whole_end;
            (end == self.whole_end && !is_skipped).then_some(SegmentFile { base: last.base, len_bytes })
        });
        let segments = self.segments.len();
        let report = RecoveryReport {
            segments,
            start: self.skips.advance(0),
            end,
            checked_from: self.checked_from,
            records: self.records,
            bytes: self.bytes,
            truncated,
            quarantined,
            skipped: self.skips.ranges().to_vec(),
            duration: started.elapsed(),
        };
        let is_new = segments == 0 && self.known_end == 0;
        Ok(Recovered { active, mark: self.mark.filter(|mark| *mark <= end), is_new, report })
    }

    /// Makes durable what a writer that was killed left after the mark: its records, and the name of the last segment. From now
    /// on they count as synced, and a sync of a later segment would not cover them.
    fn sync_inherited(&self) -> Result<(), JournalError> {
        let Some(last) = self.segments.last() else { return Ok(()) };
        if self.mark.is_none_or(|mark| mark < self.whole_end) {
            disk::File::open_rw(&self.directory.segment(last.base))?.sync_data()?;
        }
        if self.mark.is_none_or(|mark| mark <= last.base) {
            disk::sync_dir(self.directory.root())?;
        }
        Ok(())
    }

    /// Saves the damages of one segment: each in a file of its own, or many as one copy of all between the first and the last,
    /// because a file for each of a million would take an hour.
    fn save_all(&self, damages: &[Damage], saved: &mut Vec<SavedRange>) -> Result<(), JournalError> {
        if damages.len() <= SAVED_APART {
            for damage in damages {
                saved.push(self.save(damage.clone(), u64::MAX)?);
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

    /// Copies the bytes of a damage under `quarantine/`, the first `limit_bytes` of them.
    fn save(&self, damage: Damage, limit_bytes: u64) -> Result<SavedRange, JournalError> {
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
        let copied = range.start..range.end.min(range.start.saturating_add(limit_bytes));
        let saved = match copied.is_empty() {
            true => None,
            false => Some(self.quarantine(&file, copied, why)?),
        };
        Ok(SavedRange { damage, len_bytes, saved })
    }

    fn quarantine(&self, file: &disk::File, range: Range<u64>, why: &str) -> Result<PathBuf, disk::Error> {
        let segment = file.path().file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{segment}@{}.{why}", range.start);
        disk::quarantine(file, range, &self.directory.quarantine(), &name)
    }

    fn mend(&self, damage: &Damage) -> Result<(), JournalError> {
        match damage.reason {
            DamageReason::Header => {
                let file = disk::File::open_rw(&damage.segment)?;
                file.write_all_at(&Stamp::Segment.encode(damage.offsets.start), 0)?;
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

    fn cut(&self, saved: &SavedRange) -> Result<(), JournalError> {
        let Damage { segment, position, .. } = &saved.damage;
        if saved.damage.reason == DamageReason::Header {
            disk::remove_file(segment)?;
            disk::sync_dir(self.directory.root())?;
        } else {
            let file = disk::File::open_rw(segment)?;
            file.set_len(*position)?;
            file.sync_all()?;
        }
        Ok(())
    }
}

/// The bytes of a segment's file that a damage is about.
fn damaged_bytes(damage: &Damage, file_len_bytes: u64) -> Range<u64> {
    match damage.reason {
        DamageReason::Missing | DamageReason::LostEnd => 0..0,
        DamageReason::Header => 0..HEADER_LEN_BYTES.min(file_len_bytes),
        DamageReason::Base(_) => 0..file_len_bytes,
        DamageReason::Partial | DamageReason::Checksum | DamageReason::Hash | DamageReason::Overlap => {
            damage.position..damage.position + (damage.offsets.end - damage.offsets.start)
        }
    }
}

/// Whether every segment ends where the next one begins.
fn continues(segments: &[SegmentFile], skips: &Skips) -> bool {
    segments.windows(2).all(|pair| {
        let reaches_exactly = pair[0].end() <= pair[1].base && skips.advance(pair[0].end()) >= pair[1].base;
        reaches_exactly || skips.advance(pair[0].base) >= pair[1].base
    })
}

//! Checks one segment: its header, its length against the next base, and its records.
//!
//! Touches nothing but the mapped file. Guarantees: every byte of the range is part of a verified record, part of a known skip, or
//! reported.

use super::error::{Damage, DamageReason, JournalError, Result};
use super::format::{FileKind, HEADER_SIZE, HeaderFlaw, RecordFlaw, Skips, checked_record, has_its_hash};
use super::resync::Resync;
use super::segment::Segment;
use crate::scan::{Io, Source};
use std::path::Path;

/// What the check of one segment found.
#[derive(Debug, Default)]
pub(super) struct CheckedSegment {
    pub(super) records: u64,
    /// Bytes of the records that were checked, overhead included.
    pub(super) bytes: u64,
    pub(super) damages: Vec<Damage>,
    /// In the last segment: bytes that are no record, with no record after them.
    pub(super) torn: Option<TornEnd>,
}

/// The end of the last segment, from the first byte that belongs to no record.
#[derive(Debug, Clone, Copy)]
pub(super) struct TornEnd {
    /// The global offset of that byte.
    pub(super) offset: u64,
    pub(super) reason: DamageReason,
    /// Number of bytes up to the last that is not zero, because a writer writes zeros ahead of its records.
    pub(super) nonzero_bytes: u64,
}

/// Which segment to check, and from where on.
#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentExtent<'a> {
    pub(super) path: &'a Path,
    pub(super) segment: Segment,
    /// Base of the next segment; none for the last one.
    pub(super) next_base: Option<u64>,
    /// Records before this offset are taken as checked.
    pub(super) from: u64,
}

impl SegmentExtent<'_> {
    fn end(&self) -> u64 {
        self.next_base.unwrap_or_else(|| self.segment.end())
    }

    fn damage(&self, position: u64, offsets: std::ops::Range<u64>, reason: DamageReason) -> Damage {
        Damage { segment: self.path.to_owned(), position, offsets, reason }
    }
}

/// Checks one segment.
pub(super) fn check_segment(extent: SegmentExtent<'_>, skips: &Skips) -> Result<CheckedSegment> {
    let mut checked = CheckedSegment::default();
    let Segment { base, .. } = extent.segment;
    if base < extent.end() && skips.advance(base) >= extent.end() {
        return Ok(checked);
    }
    let source = Source::open(extent.path, Io::Mmap)?;
    let mut buffer = Vec::new();
    // The length of the map. It differs from the listed length only when another program writes here.
    let segment = Segment { base, len_bytes: source.len_bytes() };
    let extent = SegmentExtent { segment, ..extent };
    let bytes = source.bytes(0..segment.len_bytes, &mut buffer)?;

    match FileKind::Segment.decode(bytes) {
        Ok(found) if found != base => {
            let offsets = base..extent.end();
            checked.damages.push(extent.damage(0, offsets, DamageReason::Base(found)));
            return Ok(checked);
        }
        Ok(_) => {}
        Err(HeaderFlaw::Unsupported { version, flags }) => {
            return Err(JournalError::Unsupported { path: extent.path.to_owned(), version, flags });
        }
        Err(HeaderFlaw::Damaged) => checked.damages.push(extent.damage(0, base..base, DamageReason::Header)),
    }
    check_records(extent, bytes, skips, &mut checked);
    if let Some(next_base) = extent.next_base {
        let end = skips.advance(segment.end());
        if segment.end() > next_base {
            let position = segment.position(next_base);
            checked.damages.push(extent.damage(position, next_base..segment.end(), DamageReason::Overlap));
        } else if end < next_base {
            checked.damages.push(extent.damage(segment.len_bytes, end..next_base, DamageReason::Missing));
        }
    }
    source.check_len()?;
    Ok(checked)
}

fn check_records(extent: SegmentExtent<'_>, bytes: &[u8], skips: &Skips, checked: &mut CheckedSegment) {
    let SegmentExtent { segment, next_base, from, .. } = extent;
    let end = extent.end().min(segment.end());
    let mut offset = skips.advance(from.max(segment.base));
    let mut resync: Option<(u64, Resync<'_>)> = None;
    while offset < end {
        // No record reaches into a skipped range.
        let bound = skips.next_after(offset).map_or(end, |range| range.start.min(end));
        let within = &bytes[..segment.position(bound) as usize];
        let position = segment.position(offset) as usize;
        let known = resync.as_ref().filter(|(known, _)| *known == bound);
        let found = known.map_or_else(
            || checked_record(&within[position..]),
            |(_, resync)| resync.checked_record(position),
        );
        let (flaw, search_from) = match found {
            Ok(len) if has_its_hash(&within[position..position + len]) => {
                checked.records += 1;
                checked.bytes += len as u64;
                offset = skips.advance(offset + len as u64);
                continue;
            }
            // The CRC covers the length, so the next record starts after this one and not inside it.
            Ok(len) => (DamageReason::Hash, position + len),
            Err(flaw) => (DamageReason::from(flaw), position + 1),
        };
        if known.is_none() {
            resync = Some((bound, Resync::new(within, position)));
        }
        let next = resync.as_mut().and_then(|(_, resync)| resync.next_record(search_from));
        match next {
            None if bound == end && next_base.is_none() => {
                let nonzero_bytes =
                    within[position..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
                checked.torn = Some(TornEnd { offset, reason: flaw, nonzero_bytes });
                return;
            }
            found => {
                let end = found.map_or(bound, |at| segment.base + at as u64 - HEADER_SIZE);
                checked.damages.push(extent.damage(position as u64, offset..end, flaw));
                offset = skips.advance(end);
            }
        }
    }
}

impl From<RecordFlaw> for DamageReason {
    fn from(flaw: RecordFlaw) -> Self {
        match flaw {
            RecordFlaw::Partial => Self::Partial,
            RecordFlaw::Checksum => Self::Checksum,
            RecordFlaw::Hash => Self::Hash,
        }
    }
}

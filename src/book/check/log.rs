//! Checks a log: replays it as opening does, and after the first damage goes on frame by frame.
//!
//! Reads segments only.

use std::path::Path;

use chrono::{DateTime, Utc};
use talea_core::types::Seq;

use super::report::{BookFinding, BookFindingKind, BookProblem};
use super::subject::{BookCheck, HeldAsset};
use crate::book::error::BookError;
use crate::book::files::Listing;
use crate::book::frame::{self, FrameFinder, HEADER_BYTES, Replayed, Split};
use crate::book::scan::{self, BadFrame, ScannedItem};
use crate::book::state::PostingRef;

/// How far the log reaches.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogEnd {
    /// The last event of the log that can be read, also after damage.
    pub(super) last_readable: Seq,
    /// Whether a store with this log opens. Opening then cuts what follows the replayed part.
    pub(super) opens: bool,
}

/// Where the walk frame by frame begins.
struct WalkFrom {
    segment: usize,
    offset: usize,
    /// The event that is expected there; unknown after damage.
    expected: Option<Seq>,
    /// Whether the damage there is reported already.
    is_known: bool,
}

impl WalkFrom {
    fn new(segment: usize, offset: u64) -> Self {
        Self { segment, offset: offset as usize, expected: None, is_known: false }
    }
}

/// The result of the walk frame by frame.
#[derive(Default)]
struct Walked {
    last: Seq,
    good_frames: bool,
}

impl BookCheck<'_> {
    /// Replays the log, and checks each snapshot after its event.
    pub(super) fn log(&mut self, listing: &Listing) -> Result<LogEnd, BookError> {
        let mut unreadable = None;
        for at in 0..self.segments.len() {
            if let Err(error) = self.segments[at].source() {
                let path = self.segments[at].path.clone();
                self.find(BookFindingKind::Unreadable, &path, None, error.to_string());
                unreadable.get_or_insert(at);
            }
        }
        let readable = &listing.segments[..unreadable.unwrap_or(listing.segments.len())];
        let scanned = scan::scan(readable, 1, |found| match found {
            ScannedItem::Segment(index) => {
                self.state.add_segment(listing.segments[index].0);
                Ok(())
            }
            ScannedItem::Event(index, frame) => {
                let path = &listing.segments[index].1;
                self.state.add_position(frame.offset);
                if let Some((at, event)) = &frame.event {
                    self.event(path, frame.offset, frame.seq, *at, event)?;
                }
                if self.state.is_flush_due() {
                    self.state.tidy();
                }
                for (last, path) in listing.snapshots.iter().filter(|(last, _)| *last == frame.seq) {
                    self.snapshot(*last, path)?;
                }
                Ok(())
            }
        });
        let place = |path: &Path| listing.segments.iter().position(|(_, segment)| segment == path);
        let mut bad_frame = None;
        let stop = match scanned {
            Ok(None) => unreadable.map(|at| WalkFrom { is_known: true, ..WalkFrom::new(at, 0) }),
            Ok(Some(bad)) => {
                let stop = WalkFrom { is_known: true, ..WalkFrom::new(bad.segment, bad.offset) };
                bad_frame = Some(bad);
                Some(stop)
            }
            Err(BookError::Gap { path, offset, expected, found }) => {
                self.gap(&path, offset, expected, found);
                place(&path)
                    .map(|segment| WalkFrom { expected: Some(found), ..WalkFrom::new(segment, offset) })
            }
            Err(BookError::ReplayOverflow { account, path, offset, .. }) => {
                let reason = format!(
                    "the balance of account {account:?} leaves the 64-bit range; the store cannot be opened"
                );
                self.find(BookFindingKind::Overflow, &path, Some(offset), reason);
                place(&path).map(|segment| WalkFrom::new(segment, offset))
            }
            Err(error) => return Err(error),
        };
        let last_segment = listing.segments.len().saturating_sub(1);
        let opens = match (&stop, &bad_frame) {
            (None, _) => true,
            (Some(_), Some(bad)) => bad.segment == last_segment && unreadable.is_none(),
            (Some(_), None) => false,
        };
        let first_finding = self.findings.kept.len();
        let walked = match stop {
            Some(stop) => self.walk(stop)?,
            None => Walked::default(),
        };
        if let Some(bad) = bad_frame {
            self.bad_frame(&bad, opens, walked.good_frames, first_finding)?;
        }
        Ok(LogEnd { last_readable: self.replayed().max(walked.last), opens })
    }

    fn gap(&mut self, path: &Path, offset: u64, expected: Seq, found: Seq) {
        let reason = format!("event {expected} should stand here, found {found}; the store cannot be opened");
        self.find(BookFindingKind::Gap, path, Some(offset), reason);
    }

    /// Reports the frame at which replaying stopped, before the findings of later frames.
    fn bad_frame(
        &mut self,
        bad: &BadFrame,
        opens: bool,
        good_behind: bool,
        place: usize,
    ) -> Result<(), BookError> {
        let source = self.segments[bad.segment].source()?;
        let mut buffer = Vec::new();
        let rest = source.bytes(bad.offset..source.len_bytes(), &mut buffer)?;
        let is_blank = rest.iter().all(|byte| *byte == 0);
        let (kind, outlook) = match (opens, good_behind) {
            (false, _) => (BookFindingKind::DamagedFrame, "the store cannot be opened"),
            (true, false) if bad.is_torn || is_blank => (
                BookFindingKind::TornTail,
                "opening cuts the log here, and saves what it cuts if a snapshot or a run knows of it",
            ),
            (true, _) => (BookFindingKind::DamagedFrame, "opening cuts the log here and saves what it cuts"),
        };
        let path = self.segments[bad.segment].path.clone();
        let reason = format!("damaged frame: {}; {outlook}", bad.reason);
        let problem = BookProblem { book: self.report.book.clone(), kind };
        // Kept even when there are too many findings, because only this one says whether the store opens.
        self.findings
            .kept
            .insert(place, BookFinding { file: path, offset: Some(bad.offset), problem, reason });
        Ok(())
    }

    fn event(
        &mut self,
        path: &Path,
        offset: u64,
        seq: Seq,
        at: DateTime<Utc>,
        event: &Replayed<'_>,
    ) -> Result<(), BookError> {
        if self.last_at.is_some_and(|last| at < last) {
            let reason = format!("event {seq} is of {at}, which is earlier than the event before it");
            self.find(BookFindingKind::TimeGoesBack, path, Some(offset), reason);
        }
        self.last_at = Some(at);
        match event {
            Replayed::Posted(posted) => {
                self.state.post(seq, at, posted.txid, posted.postings.iter().map(PostingRef::from)).map_err(
                    |account| BookError::ReplayOverflow {
                        book: self.report.book.clone(),
                        account,
                        path: path.to_owned(),
                        offset,
                    },
                )?;
                self.report.transactions += 1;
                self.keys.insert(self.hasher.hash(&posted.key), seq);
                if self.keys.is_flush_due() {
                    let scratch = self.state.scratch()?;
                    self.keys.flush(&scratch)?;
                }
            }
            Replayed::Account(def, cfg) => {
                self.openings += 1;
                let asset = def.asset.as_str();
                match self.held.get_mut(asset) {
                    Some(held) => held.more += 1,
                    None => {
                        let account = def.id.to_key();
                        let held = HeldAsset { account, path: path.to_owned(), offset, more: 0 };
                        self.held.insert(asset.to_owned(), held);
                    }
                }
                self.state.add_account(def, cfg);
            }
            Replayed::Asset(asset) => {
                self.openings += 1;
                self.assets.insert(asset.id.as_str().to_owned());
            }
        }
        self.state.advance(seq, at);
        Ok(())
    }

    /// Reads the frames from `stop` on without replaying them, and reports damaged frames and gaps.
    fn walk(&mut self, stop: WalkFrom) -> Result<Walked, BookError> {
        let mut walked = Walked::default();
        let WalkFrom { segment: first, offset, mut expected, mut is_known } = stop;
        for at in first..self.segments.len() {
            let (base, path) = (self.segments[at].base, self.segments[at].path.clone());
            // Taken out of `self`, because `frames` borrows `self` while it reads the segment.
            let Ok(source) = self.segments[at].take_source() else {
                expected = None;
                continue;
            };
            let mut buffer = Vec::new();
            let bytes = source.bytes(0..source.len_bytes(), &mut buffer)?;
            let from = if at == first { offset } else { 0 };
            if at > first {
                if let Some(expected) = expected.filter(|expected| *expected != base) {
                    self.gap(&path, 0, expected, base);
                }
                (expected, is_known) = (Some(base), false);
            }
            self.frames((&path, bytes), from, &mut expected, is_known, &mut walked);
            source.check_len()?;
            self.segments[at].source = Some(source);
        }
        Ok(walked)
    }

    /// Reads the frames of a segment from `at` on. After a bad frame it goes on at the next whole frame.
    fn frames(
        &mut self,
        (path, bytes): (&Path, &[u8]),
        mut at: usize,
        expected: &mut Option<Seq>,
        mut is_known: bool,
        walked: &mut Walked,
    ) {
        let mut finder = None;
        loop {
            let reason = match frame::split(&bytes[at..]) {
                Split::End => return,
                Split::Torn => format!("it is cut short: {} bytes are left", bytes.len() - at),
                Split::Whole { crc, payload } => {
                    match frame::check(crc, payload).and_then(|()| frame::replay(payload)) {
                        Ok((seq, ..)) => {
                            if let Some(expected) = expected.filter(|expected| *expected != seq) {
                                self.gap(path, at as u64, expected, seq);
                            }
                            *expected = seq.checked_add(1);
                            walked.last = walked.last.max(seq);
                            walked.good_frames = true;
                            is_known = false;
                            at += HEADER_BYTES + payload.len();
                            continue;
                        }
                        Err(reason) => reason,
                    }
                }
            };
            if !is_known {
                let reason = format!("damaged frame: {reason}");
                self.find(BookFindingKind::DamagedFrame, path, Some(at as u64), reason);
            }
            is_known = false;
            // The damaged bytes may have held any number of events.
            *expected = None;
            let finder = finder.get_or_insert_with(|| FrameFinder::new(bytes));
            match finder.next_whole(at + 1) {
                Some(next) => at = next,
                None => return,
            }
        }
    }
}

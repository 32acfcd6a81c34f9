//! Reading a segment line by line, without an index: what each line is.
//!
//! May map and read segments; writes nothing. Promises: every byte of the scanned range belongs to one line or to white
//! space; lines are judged by their bytes alone, on all cores; no judgement depends on how the file was cut into chunks.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::MAX_LINE_BYTES;
use super::error::Error;
use super::frame::{FrameLine, NotAFrame};
use super::integrity::{Kind, open_segment};
use super::layout::{Layout, SegmentFiles};
use crate::scan::{self, Source};

/// How much of a segment one task reads.
const CHUNK_BYTES: u64 = 1 << 20;
/// How many chunks are scanned while the ones before them are taken in.
const BATCH_CHUNKS: usize = 32;

/// A line that is not blank.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) offset: u64,
    /// LF included when there is one.
    pub(super) len_bytes: u64,
    pub(super) terminated: bool,
    pub(super) content: Content,
}

/// What a line is.
#[derive(Debug)]
pub(super) enum Content {
    Frame(ScannedFrame),
    /// Not a frame; `has_nul` tells a line that a power cut left half-written from one that was altered.
    Bad {
        reason: BadLine,
        has_nul: bool,
    },
}

/// Why a line is not a frame.
#[derive(Debug)]
pub(super) enum BadLine {
    NotText,
    TooLong,
    Json(String),
    Schema(String),
}

/// A frame as recovery needs it; texts are ranges of [`Scanned::text`].
#[derive(Debug)]
pub(super) struct ScannedFrame {
    pub(super) segment_seq: u64,
    pub(super) frame_seq: u64,
    pub(super) entry_seq: u64,
    pub(super) crc: u32,
    pub(super) kind: Kind,
    /// The payload's hash; `None` when header and payload disagree.
    pub(super) payload_sha256: Option<[u8; 32]>,
    /// With the hasher that the scan was given.
    pub(super) id_hash: u64,
    id: Range<u32>,
    parent: Option<Range<u32>>,
}

/// The lines of one chunk.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) lines: Vec<Line>,
    text: String,
}

impl Scanned {
    pub(super) fn id(&self, frame: &ScannedFrame) -> &str {
        &self.text[frame.id.start as usize..frame.id.end as usize]
    }

    pub(super) fn parent<'s>(&'s self, frame: &ScannedFrame) -> Option<&'s str> {
        frame.parent.as_ref().map(|parent| &self.text[parent.start as usize..parent.end as usize])
    }

    fn keep(&mut self, text: &str) -> Range<u32> {
        let start = self.text.len() as u32;
        self.text.push_str(text);
        start..self.text.len() as u32
    }
}

/// Part of a segment: as many chunks as are scanned at once.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) segment_seq: u64,
    pub(super) source: Arc<Source>,
    pub(super) scanned: Vec<Scanned>,
    /// Whether it reaches the end of the segment.
    pub(super) is_last: bool,
}

/// Segments in numeric order, batch by batch.
pub(super) struct Batches<'l> {
    layout: &'l Layout,
    /// Number, first byte to scan and length of the segments still to come, in reverse.
    segments: Vec<(u64, u64, u64)>,
    open: Option<(u64, Arc<Source>, std::vec::IntoIter<Range<u64>>)>,
    hasher: RandomState,
}

impl<'l> Batches<'l> {
    /// All segments from number `first`, that one from byte `from`; empty ones are passed over.
    pub(super) fn new(
        layout: &'l Layout,
        files: &SegmentFiles,
        first: u64,
        from: u64,
        hasher: RandomState,
    ) -> Self {
        let segments = files.len_bytes.range(first..).rev();
        let segments = segments
            .map(|(&segment_seq, &len_bytes)| {
                (segment_seq, if segment_seq == first { from } else { 0 }, len_bytes)
            })
            .filter(|(_, from, len_bytes)| from < len_bytes)
            .collect();
        Self { layout, segments, open: None, hasher }
    }

    /// Scans the next batch; none behind the last segment.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, Error> {
        loop {
            let (segment_seq, source, mut chunks) = match self.open.take() {
                Some(open) => open,
                None => {
                    let Some((segment_seq, from, len_bytes)) = self.segments.pop() else { return Ok(None) };
                    let source = Arc::new(open_segment(self.layout, segment_seq, len_bytes - from)?);
                    let end = source.len_bytes();
                    let chunks = scan::chunks(&source, from.min(end)..end, CHUNK_BYTES);
                    let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
                    (segment_seq, source, chunks.into_iter())
                }
            };
            let batch: Vec<Range<u64>> = chunks.by_ref().take(BATCH_CHUNKS).collect();
            if batch.is_empty() {
                continue;
            }
            let scanned = batch
                .into_par_iter()
                .map(|chunk| scan_chunk(&source, chunk, &self.hasher))
                .collect::<Result<Vec<_>, Error>>()?;
            source.check_len()?;
            let is_last = chunks.len() == 0;
            if !is_last {
                self.open = Some((segment_seq, Arc::clone(&source), chunks));
            }
            return Ok(Some(Batch { segment_seq, source, scanned, is_last }));
        }
    }
}

fn scan_chunk(source: &Source, chunk: Range<u64>, hasher: &RandomState) -> Result<Scanned, Error> {
    let mut buffer = Vec::new();
    let bytes = source.bytes(chunk.clone(), &mut buffer)?;
    let mut scanned = Scanned::default();
    for (offset, line) in scan::lines(chunk.start, bytes) {
        let behind = (offset - chunk.start) as usize + line.len();
        let terminated = behind < bytes.len();
        let whole = &bytes[(offset - chunk.start) as usize..behind + usize::from(terminated)];
        let bad = |reason| Content::Bad { reason, has_nul: memchr::memchr(0, line).is_some() };
        let content = if whole.len() as u64 > MAX_LINE_BYTES {
            bad(BadLine::TooLong)
        } else if is_blank(line) {
            continue;
        } else {
            match FrameLine::parse(line) {
                Ok(frame) => Content::Frame(ScannedFrame {
                    segment_seq: frame.segment_seq,
                    frame_seq: frame.frame_seq,
                    entry_seq: frame.entry_seq,
                    crc: crc32c::crc32c(whole),
                    kind: Kind::of(&frame.entry_type),
                    payload_sha256: frame.verify_payload().ok(),
                    id_hash: hasher.hash_one(&*frame.entry_id),
                    id: scanned.keep(&frame.entry_id),
                    parent: frame.parent_entry_id.as_deref().map(|parent| scanned.keep(parent)),
                }),
                Err(NotAFrame::NotText) => bad(BadLine::NotText),
                Err(NotAFrame::Json(reason)) => bad(BadLine::Json(reason)),
                Err(NotAFrame::Schema(found)) => bad(BadLine::Schema(found)),
            }
        };
        scanned.lines.push(Line { offset, len_bytes: whole.len() as u64, terminated, content });
    }
    Ok(scanned)
}

/// White space in the sense of Unicode, as other readers of the format have it.
fn is_blank(line: &[u8]) -> bool {
    match line.first() {
        Some(b'{') => false,
        _ => str::from_utf8(line).is_ok_and(|text| text.trim().is_empty()),
    }
}

/// Why the payload of the frame at `line` does not match its header.
pub(super) fn payload_fault(source: &Source, line: &Line) -> Result<String, Error> {
    let mut buffer = Vec::new();
    let bytes = source.bytes(line.offset..line.offset + line.len_bytes, &mut buffer)?;
    let fault = FrameLine::parse(bytes).ok().and_then(|frame| frame.verify_payload().err());
    Ok(fault.unwrap_or_else(|| "the payload does not match its header".to_owned()))
}

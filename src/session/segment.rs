//! Reading a segment line by line, without an index: what each line is.
//!
//! May map and read segments; writes nothing. Promises: every byte of the scanned range belongs to one line or to white
//! space; lines are judged by their bytes alone, on all cores; no judgement depends on how the file was cut into chunks.

use std::ops::Range;

use rayon::prelude::*;

use super::MAX_LINE_BYTES;
use super::error::Error;
use super::frame::{FrameLine, NotAFrame};
use super::integrity::{Kind, open_segment};
use super::layout::Layout;
use crate::scan::{self, Source};

/// How much of a segment one task reads.
const CHUNK_BYTES: u64 = 1 << 20;

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

/// The lines of a segment from `from` (the start of a line) to its end.
pub(super) fn scan(
    layout: &Layout,
    segment_seq: u64,
    from: u64,
    len_hint_bytes: u64,
) -> Result<(Source, Vec<Scanned>), Error> {
    let source = open_segment(layout, segment_seq, len_hint_bytes)?;
    let len_bytes = source.len_bytes();
    let chunks =
        scan::chunks(&source, from.min(len_bytes)..len_bytes, CHUNK_BYTES).collect::<Result<Vec<_>, _>>()?;
    let scanned =
        chunks.into_par_iter().map(|chunk| scan_chunk(&source, chunk)).collect::<Result<Vec<_>, Error>>()?;
    source.check_len()?;
    Ok((source, scanned))
}

fn scan_chunk(source: &Source, chunk: Range<u64>) -> Result<Scanned, Error> {
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

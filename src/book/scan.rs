//! Scans a book's segments when it is opened: mapped, once, in parallel. The one place that decides which frames are good.
//!
//! Reads only; the caller repairs or refuses damage. Guarantees: the caller gets every event once, in order;
//! memory is bounded by a window of chunks, for a log of any size.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use rayon::prelude::*;
use talea_core::types::Seq;

use super::error::BookError;
use super::frame::{self, HEADER_BYTES, Replayed, Split};
use crate::scan::{Io, Source};

/// Segments that are mapped at a time.
const GROUP_SEGMENTS: usize = 16;

/// Log bytes that one thread decodes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that are decoded together, while those before them are applied.
const WINDOW_CHUNKS: usize = 8;

/// Log bytes of these chunks. A frame longer than a chunk is a chunk of its own.
const WINDOW_BYTES: usize = WINDOW_CHUNKS * CHUNK_BYTES;

/// A good frame.
pub(super) struct GoodFrame<'a> {
    /// Its number, by its place in the log.
    pub seq: Seq,
    /// Where its header begins in its segment.
    pub offset: u64,
    /// Its event; absent where only the checksum is compared.
    pub event: Option<(DateTime<Utc>, Replayed<'a>)>,
}

/// What the scan passes to its caller, in the order of the log.
pub(super) enum ScannedItem<'f, 'a> {
    /// The segment with this index begins.
    Segment(usize),
    /// The next event, of the segment with this index.
    Event(usize, &'f GoodFrame<'a>),
}

/// The first bad frame.
#[derive(Debug)]
pub(super) struct BadFrame {
    /// Index of its segment.
    pub segment: usize,
    /// Where its header begins and the good part ends, in bytes.
    pub offset: u64,
    /// Whether it is only cut short.
    pub is_torn: bool,
    /// What is wrong.
    pub reason: String,
}

/// Consecutive frames of one segment.
struct Chunk<'a> {
    segment: usize,
    path: &'a PathBuf,
    bytes: &'a [u8],
    offset: u64,
    first_seq: Seq,
    is_first: bool,
}

struct Decoded<'a> {
    chunk: Chunk<'a>,
    frames: Vec<GoodFrame<'a>>,
    bad: Option<BadFrame>,
    gap: Option<BookError>,
}

/// Scans segments in ascending order of their first numbers. Of events before `decode_from` only checksums and
/// numbers are compared.
///
/// Returns the first bad frame; `sink` then got nothing after that frame.
///
/// # Errors
/// Those of `sink`; reading; [`BookError::Gap`] where numbers do not follow.
pub(super) fn scan(
    segments: &[(Seq, PathBuf)],
    decode_from: Seq,
    mut sink: impl FnMut(ScannedItem<'_, '_>) -> Result<(), BookError> + Send,
) -> Result<Option<BadFrame>, BookError> {
    let mut next = 1;
    for (group, members) in segments.chunks(GROUP_SEGMENTS).enumerate() {
        let sources: Vec<Source> =
            members.iter().map(|(_, path)| Source::open(path, Io::Mmap)).collect::<Result<_, _>>()?;
        let mut buffers = vec![Vec::new(); sources.len()];
        let mut walk =
            FrameWalk { next, torn: None, gap: None, segments: Vec::new(), at: 0, offset: 0, is_first: true };
        for ((source, buffer), (at, (base, path))) in
            sources.iter().zip(&mut buffers).zip(members.iter().enumerate())
        {
            let bytes = source.bytes(0..source.len_bytes(), buffer)?;
            walk.segments.push((group * GROUP_SEGMENTS + at, *base, path, bytes));
        }
        let bad = pass(&mut walk, decode_from, &mut sink);
        for source in &sources {
            source.check_len()?;
        }
        if let Some(bad) = bad? {
            return Ok(Some(bad));
        }
        next = walk.next;
    }
    Ok(None)
}

/// Scans one group of segments: while one window is applied, the next is decoded.
fn pass<'a>(
    walk: &mut FrameWalk<'a>,
    decode_from: Seq,
    sink: &mut (impl FnMut(ScannedItem<'_, '_>) -> Result<(), BookError> + Send),
) -> Result<Option<BadFrame>, BookError> {
    let decode = |window: Vec<Chunk<'a>>| -> Vec<Decoded<'a>> {
        window.into_par_iter().map(|chunk| decode_chunk(chunk, decode_from)).collect()
    };
    let mut decoded = decode(walk.window());
    while !decoded.is_empty() {
        let window = walk.window();
        let (applied, next) = rayon::join(|| apply(decoded, sink), || decode(window));
        if let Some(bad) = applied? {
            return Ok(Some(bad));
        }
        decoded = next;
    }
    if let Some(gap) = walk.gap.take() {
        return Err(gap);
    }
    Ok(walk.torn.take())
}

fn apply(
    decoded: Vec<Decoded<'_>>,
    sink: &mut impl FnMut(ScannedItem<'_, '_>) -> Result<(), BookError>,
) -> Result<Option<BadFrame>, BookError> {
    for Decoded { chunk, frames, bad, gap } in decoded {
        if chunk.is_first {
            sink(ScannedItem::Segment(chunk.segment))?;
        }
        for frame in &frames {
            sink(ScannedItem::Event(chunk.segment, frame))?;
        }
        if bad.is_some() {
            return Ok(bad);
        }
        if let Some(gap) = gap {
            return Err(gap);
        }
    }
    Ok(None)
}

/// A walk from header to header that divides segments into chunks.
struct FrameWalk<'a> {
    segments: Vec<(usize, Seq, &'a PathBuf, &'a [u8])>,
    at: usize,
    offset: usize,
    is_first: bool,
    next: Seq,
    torn: Option<BadFrame>,
    gap: Option<BookError>,
}

impl<'a> FrameWalk<'a> {
    fn window(&mut self) -> Vec<Chunk<'a>> {
        let mut chunks = Vec::new();
        let mut bytes = 0;
        while chunks.len() < WINDOW_CHUNKS
            && bytes < WINDOW_BYTES
            && self.torn.is_none()
            && self.gap.is_none()
            && self.at < self.segments.len()
        {
            let Some(chunk) = self.chunk() else { break };
            bytes += chunk.bytes.len();
            chunks.push(chunk);
        }
        chunks
    }

    /// Returns the next chunk; none where the next segment does not follow.
    fn chunk(&mut self) -> Option<Chunk<'a>> {
        let (segment, base, path, bytes) = self.segments[self.at];
        if self.is_first && base != self.next {
            self.gap =
                Some(BookError::Gap { path: path.clone(), offset: 0, expected: self.next, found: base });
            return None;
        }
        let (start, first_seq, is_first) = (self.offset, self.next, self.is_first);
        self.is_first = false;
        while self.offset - start < CHUNK_BYTES {
            match frame::split(&bytes[self.offset..]) {
                Split::Whole { payload, .. } => {
                    self.offset += HEADER_BYTES + payload.len();
                    self.next += 1;
                }
                Split::End => break,
                Split::Torn => {
                    let reason = format!("it is cut short: {} bytes are left", bytes.len() - self.offset);
                    self.torn = Some(BadFrame { segment, offset: self.offset as u64, is_torn: true, reason });
                    break;
                }
            }
        }
        let chunk = Chunk {
            segment,
            path,
            bytes: &bytes[start..self.offset],
            offset: start as u64,
            first_seq,
            is_first,
        };
        if self.offset == bytes.len() {
            self.at += 1;
            self.offset = 0;
            self.is_first = true;
        }
        Some(chunk)
    }
}

fn decode_chunk(chunk: Chunk<'_>, decode_from: Seq) -> Decoded<'_> {
    let mut decoded = Decoded { frames: Vec::new(), bad: None, gap: None, chunk };
    let mut at = 0;
    let mut seq = decoded.chunk.first_seq;
    while let Split::Whole { crc, payload } = frame::split(&decoded.chunk.bytes[at..]) {
        let offset = decoded.chunk.offset + at as u64;
        let read = frame::check(crc, payload).and_then(|()| match frame::leading_seq(payload) {
            Some(found) if found < decode_from => Ok((found, None)),
            _ => frame::replay(payload).map(|(found, at, event)| (found, Some((at, event)))),
        });
        match read {
            Ok((found, event)) if found == seq => decoded.frames.push(GoodFrame { seq, offset, event }),
            Ok((found, _)) => {
                let path = decoded.chunk.path.clone();
                decoded.gap = Some(BookError::Gap { path, offset, expected: seq, found });
                break;
            }
            Err(reason) => {
                let segment = decoded.chunk.segment;
                decoded.bad = Some(BadFrame { segment, offset, is_torn: false, reason });
                break;
            }
        }
        at += HEADER_BYTES + payload.len();
        seq += 1;
    }
    decoded
}

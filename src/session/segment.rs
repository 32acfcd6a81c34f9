//! Reading a segment line by line, without an index: what each line is.
//!
//! May map and read segments; writes nothing. Promises: every byte of the scanned range up to the first bad line of a chunk
//! belongs to one line or to white space; memory does not follow the number of bad lines; lines are judged by their bytes
//! alone, on all cores; no judgement depends on how the file was cut into chunks.

use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};
use std::panic::resume_unwind;
use std::sync::Arc;

use super::digest::digest_all;
use super::error::SessionError;
use super::format::MAX_LINE_BYTES;
use super::frame::{FrameLine, NotAFrame, hex};
use super::index::{CrcText, RowNumbers, write_row};
use super::integrity::{Kind, open_segment};
use super::layout::{Layout, SegmentFiles};
use super::skip::Skipper;
use crate::scan::in_order::{Failure, Workers, in_order};
use crate::scan::{self, Source};

/// How much of a segment is scanned at once: less than a core's second cache holds, for the bytes are gone over several times.
const CHUNK_BYTES: u64 = 256 * 1024;
/// Chunks under way for each worker: one being scanned, others waiting for those before them.
const CHUNKS_PER_WORKER: usize = 16;
/// Chunks under way at all. Each may hold another segment open and mapped, and `scan::truncation` watches 64 maps.
const MAX_CHUNKS: usize = 48;

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

/// The lines of one chunk of a segment.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) segment_seq: u64,
    /// The segment; always there when a chunk is taken, and only then: what waits for work keeps no file open.
    pub(super) source: Option<Arc<Source>>,
    /// How many bytes of the segment it is.
    pub(super) len_bytes: u64,
    /// Whether it reaches the end of the segment.
    pub(super) is_last: bool,
    pub(super) lines: Vec<Line>,
    /// The index rows of all frames, if they were asked for: good when every line was taken as it stands.
    pub(super) rows: Vec<u8>,
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

    /// Starts again, with the memory it has.
    fn clear(&mut self) {
        self.lines.clear();
        self.rows.clear();
        self.text.clear();
    }
}

/// What a scan does at a line that is not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadLines {
    /// Keeps it; the rest of its chunk is not scanned, for whoever takes the chunk stops there.
    EndChunk,
    /// Passes over it.
    Skip,
}

/// A scan of segments, in numeric order.
#[derive(Debug)]
pub(super) struct Scan<'l> {
    pub(super) layout: &'l Layout,
    pub(super) files: &'l SegmentFiles,
    /// The segment to start with, and the byte in it.
    pub(super) first: (u64, u64),
    /// What ids are hashed with.
    pub(super) hasher: RandomState,
    /// Whether the rows of the index are wanted as text.
    pub(super) with_rows: bool,
    /// What becomes of lines that are no frames.
    pub(super) bad_lines: BadLines,
}

impl Scan<'_> {
    /// Scans chunks on all cores and gives them to `take` on the calling thread, in order, until it breaks. Memory and the
    /// number of open files are those of the [`Scanned`] under way, which are used again.
    pub(super) fn run(
        &self,
        mut take: impl FnMut(&mut Scanned) -> Result<ControlFlow<()>, SessionError>,
    ) -> Result<(), SessionError> {
        let jobs = Jobs::new(self);
        let is_short = jobs.left_bytes() <= CHUNK_BYTES;
        let threads = if is_short { 0 } else { rayon::current_num_threads().min(MAX_CHUNKS) };
        let under_way = (threads * CHUNKS_PER_WORKER).clamp(1, MAX_CHUNKS);
        let done = in_order(
            Workers::Threads(threads),
            (0..under_way).map(|_| Scanned::default()).collect(),
            jobs,
            Worker::default,
            |worker, mut scanned, job, _| {
                worker.scan(&job?, self, &mut scanned)?;
                Ok(scanned)
            },
            |mut scanned| {
                let flow = take(&mut scanned)?;
                scanned.source = None;
                Ok(flow.map_continue(|()| scanned))
            },
        );
        match done {
            Ok(()) => Ok(()),
            Err(Failure::Work(error)) => Err(error),
            Err(Failure::Panic { payload, .. }) => resume_unwind(payload),
        }
    }
}

/// A chunk to scan.
#[derive(Debug)]
struct Job {
    segment_seq: u64,
    source: Arc<Source>,
    chunk: Range<u64>,
}

/// The chunks of all segments, in order.
struct Jobs<'l> {
    layout: &'l Layout,
    /// Number, first byte to scan and length of the segments still to come, in reverse.
    segments: Vec<(u64, u64, u64)>,
    open: Option<(u64, Arc<Source>, std::vec::IntoIter<Range<u64>>)>,
}

impl<'l> Jobs<'l> {
    /// Empty segments are passed over.
    fn new(scan: &Scan<'l>) -> Self {
        let (first, from) = scan.first;
        let segments = scan.files.len_bytes.range(first..).rev();
        let segments = segments
            .map(|(&segment_seq, &len_bytes)| {
                (segment_seq, if segment_seq == first { from } else { 0 }, len_bytes)
            })
            .filter(|(_, from, len_bytes)| from < len_bytes)
            .collect();
        Self { layout: scan.layout, segments, open: None }
    }

    fn left_bytes(&self) -> u64 {
        self.segments.iter().map(|(_, from, len_bytes)| len_bytes - from).sum()
    }
}

impl Iterator for Jobs<'_> {
    type Item = Result<Job, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((segment_seq, source, chunks)) = &mut self.open
                && let Some(chunk) = chunks.next()
            {
                return Some(Ok(Job { segment_seq: *segment_seq, source: Arc::clone(source), chunk }));
            }
            let (segment_seq, from, len_bytes) = self.segments.pop()?;
            let opened = open_segment(self.layout, segment_seq, len_bytes - from).and_then(|source| {
                let end = source.len_bytes();
                let chunks = scan::chunks(&source, from.min(end)..end, CHUNK_BYTES);
                let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
                Ok((segment_seq, Arc::new(source), chunks.into_iter()))
            });
            match opened {
                Ok(open) => self.open = Some(open),
                Err(error) => {
                    self.segments.clear();
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// What a thread keeps from chunk to chunk.
#[derive(Default)]
struct Worker {
    buffer: Vec<u8>,
    skipper: Skipper,
    digests: Vec<[u8; 32]>,
}

impl Worker {
    fn scan(&mut self, job: &Job, scan: &Scan<'_>, scanned: &mut Scanned) -> Result<(), SessionError> {
        scanned.clear();
        scanned.segment_seq = job.segment_seq;
        scanned.len_bytes = job.chunk.end - job.chunk.start;
        scanned.is_last = job.chunk.end == job.source.len_bytes();
        scanned.source = Some(Arc::clone(&job.source));
        let bytes = job.source.bytes(job.chunk.clone(), &mut self.buffer)?;
        let text = simdutf8::basic::from_utf8(bytes).ok();
        // Frames in the usual form whose payload is still to be hashed: line, payload, and what it should hash to.
        let (mut hashed_later, mut payloads) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < bytes.len() {
            let offset = job.chunk.start + at as u64;
            let first = text.and_then(|text| FrameLine::parse_first(&text[at..], &mut self.skipper));
            if let Some((frame, len)) = first.filter(|(_, len)| *len as u64 <= MAX_LINE_BYTES) {
                let crc = crc32c::crc32c(&bytes[at..at + len]);
                hashed_later.push((scanned.lines.len(), frame.payload_sha256.clone()));
                payloads.push(frame.payload.as_bytes());
                scanned.push(scan, offset, len, true, &frame, crc, None);
                at += len;
                continue;
            }
            let len = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len() - at, |end| end + 1);
            if scanned.push_exactly(scan, offset, &bytes[at..at + len]).is_break() {
                break;
            }
            at += len;
        }
        digest_all(&payloads, &mut self.digests);
        for ((line, expected), digest) in hashed_later.into_iter().zip(&self.digests) {
            if let Content::Frame(frame) = &mut scanned.lines[line].content
                && expected.as_bytes() == hex(digest)
            {
                frame.payload_sha256 = Some(*digest);
            }
        }
        // Zeros behind the end of a file cut under its map must not pass for damage.
        job.source.check_len()?;
        Ok(())
    }
}

impl Scanned {
    #[allow(clippy::too_many_arguments)] // All that is known of a line.
    fn push(
        &mut self,
        scan: &Scan<'_>,
        offset: u64,
        len: usize,
        terminated: bool,
        frame: &FrameLine<'_>,
        crc: u32,
        payload_sha256: Option<[u8; 32]>,
    ) {
        let len_bytes = len as u64;
        if scan.with_rows {
            let numbers = RowNumbers {
                entry_seq: frame.entry_seq,
                segment_seq: frame.segment_seq,
                frame_seq: frame.frame_seq,
                byte_offset: offset,
                byte_length: len_bytes,
                crc: CrcText::of(crc),
            };
            write_row(&numbers, &frame.entry_id, &mut self.rows);
        }
        let content = Content::Frame(ScannedFrame {
            segment_seq: frame.segment_seq,
            frame_seq: frame.frame_seq,
            entry_seq: frame.entry_seq,
            crc,
            kind: Kind::of(&frame.entry_type),
            payload_sha256,
            id_hash: scan.hasher.hash_one(&*frame.entry_id),
            id: self.keep(&frame.entry_id),
            parent: frame.parent_entry_id.as_deref().map(|parent| self.keep(parent)),
        });
        self.lines.push(Line { offset, len_bytes, terminated, content });
    }

    /// Takes a line, LF included when it has one, in whatever form it is. Breaks where the scan is to stop.
    fn push_exactly(&mut self, scan: &Scan<'_>, offset: u64, whole: &[u8]) -> ControlFlow<()> {
        let terminated = whole.ends_with(b"\n");
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        let reason = if whole.len() as u64 > MAX_LINE_BYTES {
            BadLine::TooLong
        } else if is_blank(line) {
            return ControlFlow::Continue(());
        } else {
            match FrameLine::parse(line) {
                Ok(frame) => {
                    let (crc, sha) = (crc32c::crc32c(whole), frame.verify_payload().ok());
                    self.push(scan, offset, whole.len(), terminated, &frame, crc, sha);
                    return ControlFlow::Continue(());
                }
                Err(NotAFrame::NotText) => BadLine::NotText,
                Err(NotAFrame::Json(reason)) => BadLine::Json(reason),
                Err(NotAFrame::Schema(found)) => BadLine::Schema(found),
            }
        };
        if scan.bad_lines == BadLines::Skip {
            return ControlFlow::Continue(());
        }
        let content = Content::Bad { reason, has_nul: memchr::memchr(0, line).is_some() };
        self.lines.push(Line { offset, len_bytes: whole.len() as u64, terminated, content });
        ControlFlow::Break(())
    }
}

/// White space in the sense of Unicode, as other readers of the format have it.
fn is_blank(line: &[u8]) -> bool {
    match line.first() {
        Some(b'{') => false,
        _ => str::from_utf8(line).is_ok_and(|text| text.trim().is_empty()),
    }
}

/// Why the payload of the frame at `line` does not match its header.
pub(super) fn payload_fault(source: &Source, line: &Line) -> Result<String, SessionError> {
    let mut buffer = Vec::new();
    let bytes = source.bytes(line.offset..line.offset + line.len_bytes, &mut buffer)?;
    let fault = FrameLine::parse(bytes).ok().and_then(|frame| frame.verify_payload().err());
    Ok(fault.unwrap_or_else(|| "the payload does not match its header".to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::session::{EntryPayload, NewEntry, SessionOptions, SessionStoreV2};

    /// A store of `count` entries with payloads of about 700 bytes.
    fn store(root: &std::path::Path, count: usize, max_segment_bytes: u64) -> Layout {
        let options = SessionOptions { max_segment_bytes, ..SessionOptions::default() };
        let payload = EntryPayload::from_value(&serde_json::json!({"text": "x".repeat(700)})).unwrap();
        let entries: Vec<NewEntry<'_>> = (0..count)
            .map(|number| NewEntry {
                id: format!("e{number}").into(),
                parent_id: None,
                entry_type: "message".into(),
                payload: payload.clone(),
            })
            .collect();
        SessionStoreV2::create(root, &options).unwrap().0.append_entries(&entries).unwrap();
        Layout { root: root.to_owned() }
    }

    fn scan<'l>(layout: &'l Layout, files: &'l SegmentFiles) -> Scan<'l> {
        Scan {
            layout,
            files,
            first: (0, 0),
            hasher: RandomState::new(),
            with_rows: false,
            bad_lines: BadLines::EndChunk,
        }
    }

    #[test]
    fn of_many_bad_lines_one_is_kept_and_frames_behind_them_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let layout = store(directory.path(), 2, u64::MAX);
        let path = layout.segment_file_path(1);
        let bytes = std::fs::read(&path).unwrap();
        let first = memchr::memchr(b'\n', &bytes).unwrap() + 1;
        std::fs::write(&path, [&bytes[..first], &b"x\n".repeat(50_000), &bytes[first..]].concat()).unwrap();
        let files = layout.segment_files().unwrap();
        let kept = |bad_lines| {
            let (mut frames, mut bad) = (Vec::new(), Vec::new());
            Scan { bad_lines, ..scan(&layout, &files) }
                .run(|chunk| {
                    for line in &chunk.lines {
                        match &line.content {
                            Content::Frame(frame) => {
                                frames.push((frame.entry_seq, frame.payload_sha256.is_some()))
                            }
                            Content::Bad { .. } => bad.push(line.offset),
                        }
                    }
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
            (frames, bad)
        };
        assert_eq!(kept(BadLines::EndChunk), (vec![(1, true)], vec![first as u64]));
        assert_eq!(kept(BadLines::Skip), (vec![(1, true), (2, true)], vec![]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn open_files_follow_neither_the_segments_nor_the_cores() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let layout = store(&root, 500, 1);
        let files = layout.segment_files().unwrap();
        assert_eq!(files.len_bytes.len(), 500);
        let open_segments = || {
            let handles = std::fs::read_dir("/proc/self/fd").unwrap();
            let targets = handles.filter_map(|handle| std::fs::read_link(handle.ok()?.path()).ok());
            targets.filter(|target| target.starts_with(&root)).count()
        };
        for threads in [2, 64] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (mut taken, mut most, mut left) = (0, 0, 0);
            pool.install(|| {
                scan(&layout, &files).run(|chunk| {
                    // Long enough for the others to fill every place there is.
                    if taken % 100 == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    left = open_segments();
                    most = most.max(left);
                    taken += chunk.lines.len();
                    Ok(ControlFlow::Continue(()))
                })
            })
            .unwrap();
            assert_eq!(taken, 500);
            // Those under way, and the one that chunks are being made of.
            assert!(most > 1 && most <= MAX_CHUNKS + 1, "{threads} threads: {most}");
            assert_eq!(
                left, 1,
                "{threads} threads: every chunk but this one was taken and gives its segment back"
            );
        }
    }
}

//! Reading a segment line by line, without an index.
//!
//! Touches: maps and reads segments.
//!
//! Guarantees: up to the first bad line of a chunk, every byte of the scanned range belongs to one line or to white space. What a
//! line is depends on its bytes alone, not on how the file was cut into chunks. Memory does not grow with the number of
//! bad lines.

use std::ops::{ControlFlow, Range};
use std::panic::resume_unwind;
use std::sync::Arc;

use super::error::SessionError;
use super::format::MAX_LINE_BYTES;
use super::frame::{FrameLine, NotAFrame};
use super::integrity::{EntryKind, open_segment};
use super::layout::{SegmentFiles, SessionLayout};
use crate::scan::in_order::{WorkFailure, Workers, in_order};
use crate::scan::{self, Source};

/// The part of a segment that is scanned at once. It fits into the second-level cache of a core, because the bytes of a line are
/// read several times: to find the end of the line, to parse the line, and to compute its CRC-32C and the hash of its payload.
const CHUNK_BYTES: u64 = 256 * 1024;
/// Chunks under way for each worker: one is scanned, the others wait for the chunks before them.
const CHUNKS_PER_WORKER: usize = 16;
/// Most chunks under way. Each may hold another segment open and mapped, and `scan::truncation` watches 64 maps.
const MAX_CHUNKS: usize = 48;

/// A line that is not blank.
#[derive(Debug)]
pub(super) struct SegmentLine {
    pub(super) offset: u64,
    /// LF included when there is one.
    pub(super) len_bytes: u64,
    pub(super) is_terminated: bool,
    pub(super) content: Content,
}

/// What a line is.
#[derive(Debug)]
pub(super) enum Content {
    Frame(ScannedFrame),
    /// Not a frame. `has_nul` tells a line that a power cut left half-written from a line that was altered.
    Bad {
        reason: NotAFrame,
        has_nul: bool,
    },
}

/// A frame as recovery needs it. Its texts are ranges of [`Scanned::text`].
#[derive(Debug)]
pub(super) struct ScannedFrame {
    pub(super) segment_seq: u64,
    pub(super) frame_seq: u64,
    pub(super) entry_seq: u64,
    pub(super) crc: u32,
    pub(super) kind: EntryKind,
    /// `None` when header and payload differ.
    pub(super) payload_sha256: Option<[u8; 32]>,
    id: Range<u32>,
    parent: Option<Range<u32>>,
}

/// The lines of one chunk of a segment.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) segment_seq: u64,
    /// The segment while the chunk is taken; a chunk that waits for work keeps no file open.
    pub(super) source: Option<Arc<Source>>,
    /// Whether the chunk reaches the end of the segment.
    pub(super) is_last: bool,
    pub(super) lines: Vec<SegmentLine>,
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

    fn scan(&mut self, job: &ScanJob, bad_lines: BadLines, buffer: &mut Vec<u8>) -> Result<(), SessionError> {
        self.lines.clear();
        self.text.clear();
        self.segment_seq = job.segment_seq;
        self.is_last = job.chunk.end == job.source.len_bytes();
        self.source = Some(Arc::clone(&job.source));
        let bytes = job.source.bytes(job.chunk.clone(), buffer)?;
        for (offset, line) in scan::lines(job.chunk.start, bytes) {
            let at = (offset - job.chunk.start) as usize;
            let is_terminated = at + line.len() < bytes.len();
            let whole = &bytes[at..at + line.len() + usize::from(is_terminated)];
            let Some(content) = self.content(line, whole) else { continue };
            let is_bad = matches!(content, Content::Bad { .. });
            if !is_bad || bad_lines == BadLines::EndChunk {
                let len_bytes = whole.len() as u64;
                self.lines.push(SegmentLine { offset, len_bytes, is_terminated, content });
            }
            if is_bad && bad_lines == BadLines::EndChunk {
                break;
            }
        }
        // Past the end of a file that was cut under its map there are zeros, which must not be reported as damage.
        job.source.check_len()?;
        Ok(())
    }

    /// Reads a line; `whole` has its LF, too. A blank line has no content.
    fn content(&mut self, line: &[u8], whole: &[u8]) -> Option<Content> {
        let reason = if whole.len() as u64 > MAX_LINE_BYTES {
            NotAFrame::TooLong
        } else if is_blank(line) {
            return None;
        } else {
            match FrameLine::parse(line) {
                Ok(frame) => {
                    return Some(Content::Frame(ScannedFrame {
                        segment_seq: frame.segment_seq,
                        frame_seq: frame.frame_seq,
                        entry_seq: frame.entry_seq,
                        crc: crc32c::crc32c(whole),
                        kind: EntryKind::of(&frame.entry_type),
                        payload_sha256: frame.verify_payload().ok(),
                        id: self.keep(&frame.entry_id),
                        parent: frame.parent_entry_id.as_deref().map(|parent| self.keep(parent)),
                    }));
                }
                Err(reason) => reason,
            }
        };
        Some(Content::Bad { reason, has_nul: memchr::memchr(0, line).is_some() })
    }
}

/// What a scan does at a line that is not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadLines {
    /// Keeps the line and leaves out the rest of its chunk, because the caller stops at the line.
    EndChunk,
    /// Skips the line.
    Skip,
}

/// A scan of segments, in numeric order.
#[derive(Debug)]
pub(super) struct Scan<'l> {
    pub(super) layout: &'l SessionLayout,
    pub(super) files: &'l SegmentFiles,
    /// The segment to start with, and the byte in it.
    pub(super) first: (u64, u64),
    pub(super) bad_lines: BadLines,
}

impl Scan<'_> {
    /// Scans chunks on all cores and passes them to `take` on the calling thread, in order, until `take` breaks. Memory and open
    /// files are bounded by the [`Scanned`] under way, which are used again.
    pub(super) fn run(
        &self,
        mut take: impl FnMut(&mut Scanned) -> Result<ControlFlow<()>, SessionError>,
    ) -> Result<(), SessionError> {
        let jobs = ScanJobs::new(self);
        let is_short = jobs.left_bytes() <= CHUNK_BYTES;
        let threads = if is_short { 0 } else { rayon::current_num_threads().min(MAX_CHUNKS) };
        let under_way = (threads * CHUNKS_PER_WORKER).clamp(1, MAX_CHUNKS);
        let done = in_order(
            Workers::Threads(threads),
            (0..under_way).map(|_| Scanned::default()).collect(),
            jobs,
            Vec::new,
            |buffer, mut scanned, job, _| {
                scanned.scan(&job?, self.bad_lines, buffer)?;
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
            Err(WorkFailure::Work(error)) => Err(error),
            Err(WorkFailure::Panic { payload, .. }) => resume_unwind(payload),
        }
    }
}

/// A chunk to scan.
#[derive(Debug)]
struct ScanJob {
    segment_seq: u64,
    source: Arc<Source>,
    chunk: Range<u64>,
}

/// The chunks of all segments, in order.
struct ScanJobs<'l> {
    layout: &'l SessionLayout,
    /// Number, first byte to scan and length of the segments that are left, in reverse.
    segments: Vec<(u64, u64, u64)>,
    open: Option<(u64, Arc<Source>, std::vec::IntoIter<Range<u64>>)>,
}

impl<'l> ScanJobs<'l> {
    /// Empty segments are left out.
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

impl Iterator for ScanJobs<'_> {
    type Item = Result<ScanJob, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((segment_seq, source, chunks)) = &mut self.open
                && let Some(chunk) = chunks.next()
            {
                return Some(Ok(ScanJob { segment_seq: *segment_seq, source: Arc::clone(source), chunk }));
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

/// Whether a line is white space in the sense of Unicode, as for other readers of the format.
fn is_blank(line: &[u8]) -> bool {
    match line.first() {
        Some(b'{') => false,
        _ => str::from_utf8(line).is_ok_and(|text| text.trim().is_empty()),
    }
}

/// Returns how the payload of the frame at `line` and its header differ.
pub(super) fn payload_fault(source: &Source, line: &SegmentLine) -> Result<String, SessionError> {
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
    fn store(root: &std::path::Path, count: usize, max_segment_bytes: u64) -> SessionLayout {
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
        SessionLayout { root: root.to_owned() }
    }

    fn scan<'l>(layout: &'l SessionLayout, files: &'l SegmentFiles) -> Scan<'l> {
        Scan { layout, files, first: (0, 0), bad_lines: BadLines::EndChunk }
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

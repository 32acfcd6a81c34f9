//! Reads the lines of a log, one at a time, with their offsets.
//!
//! Touches the given log, for reading. Guarantees: memory holds at most the longest kept line and [`PIECE_BYTES`] of
//! the log; a line of a file that is longer than [`LINE_MAX_BYTES`] is skipped, and memory holds at most
//! [`LOOK_AHEAD_BYTES`] of it. A compressed log cannot be looked ahead in, so there it is held until it is too long.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::AgentsError;
use super::pass::Reason;
use crate::disk;
use crate::scan::json::{Document, Value, trim_js};

/// How much is read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// The longest line that is kept. The result of a tool may have many megabytes, but an agent could not have read a
/// longer line.
pub(super) const LINE_MAX_BYTES: usize = 256 << 20;

/// After so many bytes of a line without its end, the end is searched in the file before more bytes are kept.
const LOOK_AHEAD_BYTES: usize = 4 << 20;

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a line feed.
    Whole,
    /// With the end of the log: the line is still being written, or was cut.
    Torn,
    /// The line is longer than [`LINE_MAX_BYTES`], and its bytes were not kept.
    TooLong,
}

/// A line of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawLine<'l> {
    /// Where it begins.
    pub offset: u64,
    /// The bytes of the line without the line feed.
    pub bytes: &'l [u8],
    /// Length of the line with the line feed.
    pub len_bytes: u64,
    pub ending: Ending,
}

impl<'l> RawLine<'l> {
    /// Byte offset of the next line.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.len_bytes
    }

    /// Parses the line. None for a blank line; an error says why the line has no value.
    pub(super) fn parse<'d>(&self, document: &'d mut Document) -> Option<Result<Value<'d>, (Reason, String)>>
    where
        'l: 'd,
    {
        let text = trim_js(self.bytes);
        match self.ending {
            Ending::Torn => Some(Err((Reason::Torn, "no line feed yet".to_owned()))),
            Ending::TooLong => Some(Err((Reason::TooLong, format!("a line of {} bytes", self.len_bytes)))),
            Ending::Whole if text.is_empty() => None,
            Ending::Whole => {
                Some(document.parse(text).map_err(|error| (Reason::Malformed, error.to_string())))
            }
        }
    }
}

/// A log that is read line by line.
pub(super) struct LineSource {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// The bytes of the buffer that were read and not yet returned.
    start: usize,
    filled: usize,
    /// Byte offset of `start` in the log.
    offset: u64,
    /// Where the lines of a file end; none for another reader.
    end: Option<u64>,
    line_max_bytes: usize,
    look_ahead_bytes: usize,
}

impl LineSource {
    /// Returns the lines from byte `from` to byte `to` of the file at `path`.
    pub(super) fn open(path: &Path, from: u64, to: u64) -> Result<Self, AgentsError> {
        let file = disk::File::open_read(path)?;
        let source = Self::of(path, Box::new(Range { file, at: from, end: to }), from);
        Ok(LineSource { end: Some(to), ..source })
    }

    /// Uses the memory of an earlier source for the next lines.
    pub(super) fn with_buffer(mut self, buffer: Vec<u8>) -> Self {
        self.buffer = buffer;
        self
    }

    /// Returns the memory for another source.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Returns the lines of `reader`, whose first byte is byte `from` of the log at `path`.
    pub(super) fn of(path: &Path, reader: Box<dyn Read + Send>, from: u64) -> Self {
        LineSource {
            path: path.to_owned(),
            reader,
            buffer: Vec::new(),
            start: 0,
            filled: 0,
            offset: from,
            end: None,
            line_max_bytes: LINE_MAX_BYTES,
            look_ahead_bytes: LOOK_AHEAD_BYTES,
        }
    }

    #[cfg(test)]
    fn with_line_max(mut self, len_bytes: usize) -> Self {
        self.line_max_bytes = len_bytes;
        self
    }

    /// Returns the next line; none at the end.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<RawLine<'_>>, AgentsError> {
        let offset = self.offset;
        // Skipped bytes of a line that is too long.
        let mut dropped: u64 = 0;
        let mut searched = 0;
        let (mut has_looked, mut is_skipped) = (false, false);
        loop {
            let pending = &self.buffer[self.start..self.filled];
            if let Some(at) = memchr::memchr(b'\n', &pending[searched..]) {
                let line = self.start..self.start + searched + at;
                self.start = line.end + 1;
                let len_bytes = dropped + (line.len() as u64) + 1;
                self.offset = offset + len_bytes;
                let is_long = dropped > 0 || line.len() > self.line_max_bytes;
                return Ok(Some(RawLine {
                    offset,
                    bytes: if is_long { &[] } else { &self.buffer[line] },
                    len_bytes,
                    ending: if is_long { Ending::TooLong } else { Ending::Whole },
                }));
            }
            searched = pending.len();
            if searched > self.look_ahead_bytes && !has_looked {
                has_looked = true;
                match self.line_len_ahead(searched)? {
                    Some(len_bytes) if len_bytes > self.line_max_bytes as u64 => is_skipped = true,
                    // The buffer grows once, to the length that the line needs.
                    Some(len_bytes) => {
                        let wanted = self.start + len_bytes as usize + PIECE_BYTES;
                        self.buffer.resize(self.buffer.len().max(wanted), 0);
                    }
                    None => {}
                }
            }
            if is_skipped || searched > self.line_max_bytes {
                dropped += searched as u64;
                self.start = self.filled;
                searched = 0;
            }
            if !self.fill()? {
                let line = self.start..self.filled;
                let len_bytes = dropped + line.len() as u64;
                self.start = self.filled;
                self.offset = offset + len_bytes;
                let bytes = if dropped > 0 { &[][..] } else { &self.buffer[line] };
                return Ok((len_bytes > 0).then_some(RawLine {
                    offset,
                    bytes,
                    len_bytes,
                    ending: Ending::Torn,
                }));
            }
        }
    }

    /// Returns the length of the line of which the buffer has `known` bytes and no end; none if the reader is no file.
    fn line_len_ahead(&self, known: usize) -> Result<Option<u64>, AgentsError> {
        let Some(end) = self.end else { return Ok(None) };
        let mut ahead =
            Range { file: disk::File::open_read(&self.path)?, at: self.offset + known as u64, end };
        let mut piece = vec![0; PIECE_BYTES];
        let mut len_bytes = known as u64;
        loop {
            let read = ahead.read(&mut piece).map_err(|source| AgentsError::Read {
                path: self.path.clone(),
                offset_bytes: self.offset + len_bytes,
                source,
            })?;
            let at = memchr::memchr(b'\n', &piece[..read]);
            len_bytes += at.unwrap_or(read) as u64;
            if at.is_some() || read == 0 {
                return Ok(Some(len_bytes));
            }
        }
    }

    /// Reads more bytes. Returns whether there were any.
    fn fill(&mut self) -> Result<bool, AgentsError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
        if self.filled == 0 && self.buffer.len() > 4 * PIECE_BYTES {
            self.buffer.truncate(PIECE_BYTES);
            self.buffer.shrink_to_fit();
        }
        // At most so many bytes are left: fewer within a line of which bytes were skipped, because `offset` is its start.
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.offset + self.filled as u64));
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let piece = left.min(PIECE_BYTES);
        if self.buffer.len() - self.filled < piece {
            // Doubling the buffer keeps the time for a long line linear.
            let wanted = (2 * self.filled).max(self.filled + piece).min(self.filled.saturating_add(left));
            if self.buffer.is_empty() {
                self.buffer = vec![0; wanted];
            } else {
                self.buffer.resize(wanted, 0);
            }
        }
        loop {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.filled += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(AgentsError::Read {
                        path: self.path.clone(),
                        offset_bytes: self.offset + (self.filled - self.start) as u64,
                        source,
                    });
                }
            }
        }
    }
}

/// A range of a file as a reader.
struct Range {
    file: disk::File,
    at: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted =
            buffer.len().min(usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..wanted], self.at).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A reader that returns a few bytes at a time.
    struct Drops(Vec<u8>, usize);

    impl Read for Drops {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    fn lines(text: &str, drop_bytes: usize, max: usize) -> Vec<(u64, String, u64, Ending)> {
        let reader = Box::new(Drops(text.into(), drop_bytes));
        let mut source = LineSource::of(Path::new("x"), reader, 100).with_line_max(max);
        let mut found = Vec::new();
        while let Some(line) = source.next().unwrap() {
            let text = String::from_utf8(line.bytes.to_vec()).unwrap();
            found.push((line.offset, text, line.len_bytes, line.ending));
        }
        found
    }

    #[test]
    fn lines_come_with_offsets_however_they_are_read() {
        for drop_bytes in 1..20 {
            assert_eq!(
                lines("ab\n\nlonger line\nend", drop_bytes, 100),
                [
                    (100, "ab".into(), 3, Ending::Whole),
                    (103, String::new(), 1, Ending::Whole),
                    (104, "longer line".into(), 12, Ending::Whole),
                    (116, "end".into(), 3, Ending::Torn),
                ]
            );
        }
        assert_eq!(lines("", 3, 100), []);
    }

    #[test]
    fn a_long_line_of_a_file_is_looked_at_before_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let long = "x".repeat(3 * PIECE_BYTES);
        let longer = "y".repeat(5 * PIECE_BYTES);
        std::fs::write(&path, format!("ab\n{long}\n{longer}\ncd\n{longer}")).unwrap();
        let mut source = LineSource::open(&path, 0, u64::MAX).unwrap().with_line_max(4 * PIECE_BYTES);
        source.look_ahead_bytes = 2 * PIECE_BYTES;
        let mut found = Vec::new();
        while let Some(line) = source.next().unwrap() {
            found.push((line.offset, line.bytes.len(), line.len_bytes, line.ending));
            assert!(source.buffer.len() <= 4 * PIECE_BYTES, "{} bytes", source.buffer.len());
        }
        let (long, longer) = (long.len() as u64, longer.len() as u64);
        assert_eq!(
            found,
            [
                (0, 2, 3, Ending::Whole),
                (3, long as usize, long + 1, Ending::Whole),
                (4 + long, 0, longer + 1, Ending::TooLong),
                (5 + long + longer, 2, 3, Ending::Whole),
                (8 + long + longer, 0, longer, Ending::Torn),
            ]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_named() {
        for drop_bytes in 1..20 {
            assert_eq!(
                lines("ab\n0123456789\ncd\n0123456789", drop_bytes, 4),
                [
                    (100, "ab".into(), 3, Ending::Whole),
                    (103, String::new(), 11, Ending::TooLong),
                    (114, "cd".into(), 3, Ending::Whole),
                    (117, String::new(), 10, Ending::Torn),
                ]
            );
        }
    }
}

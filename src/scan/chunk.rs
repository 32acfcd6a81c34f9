//! Cuts a range of a log into chunks that end at line ends, and a chunk into lines.
//!
//! Touches nothing but the bytes of its arguments. Guarantees: the chunks of a range follow each other without gap or overlap;
//! every chunk but the last ends directly after an LF; offsets are absolute.

use std::ops::Range;

use super::source::{ScanError, Source};

/// The chunks of a range, in order. See [`chunks`].
#[derive(Debug)]
pub struct Chunks<'s> {
    source: &'s Source,
    next: u64,
    end: u64,
    chunk_bytes: u64,
    /// Where the long line at the start of the next chunk ends, if that end is known.
    long_line_end: Option<u64>,
}

/// Whether a chunk from [`chunks`] is a single line of more than two chunks' length: no other chunk is so long. A caller can
/// treat such a line differently before the line is read.
pub fn is_long_line(chunk: &Range<u64>, chunk_bytes: u64) -> bool {
    (chunk.end - chunk.start) / 2 > chunk_bytes
}

/// Cuts `range` of `source` into chunks of about `chunk_bytes` (at least 1). Each chunk ends after the first LF at or after the
/// chunk's nominal end. A line longer than a chunk stays whole, and a long line is a chunk of its own: see [`is_long_line`].
pub fn chunks(source: &Source, range: Range<u64>, chunk_bytes: u64) -> Chunks<'_> {
    source.read_ahead(range.clone());
    let (next, end) = (range.start, range.end);
    Chunks { source, next, end, chunk_bytes: chunk_bytes.max(1), long_line_end: None }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Range<u64>, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let start = self.next;
        let chunk = match self.long_line_end.take() {
            Some(end) => Ok(start..end),
            None => self.cut(start),
        };
        self.next = chunk.as_ref().map_or(self.end, |chunk| chunk.end);
        Some(chunk)
    }
}

impl Chunks<'_> {
    /// The chunk that begins at `start`.
    fn cut(&mut self, start: u64) -> Result<Range<u64>, ScanError> {
        // The byte before the nominal end may be the LF that ends the chunk.
        let probe = start.saturating_add(self.chunk_bytes - 1);
        if probe >= self.end {
            return Ok(start..self.end);
        }
        let end = self.source.line_end_after(probe, self.end)?;
        if is_long_line(&(start..end), self.chunk_bytes) {
            let line_start = self.source.line_end_before(start, probe)?;
            if line_start > start {
                self.long_line_end = Some(end);
                return Ok(start..line_start);
            }
        }
        Ok(start..end)
    }
}

/// The lines of a chunk that starts at the absolute offset `base`: offset and bytes, without the LF. Bytes after the last LF
/// are returned as an unfinished last line.
pub fn lines(base: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut start = 0;
    let mut ends = memchr::memchr_iter(b'\n', bytes);
    std::iter::from_fn(move || {
        if start >= bytes.len() {
            return None;
        }
        let end = ends.next().unwrap_or(bytes.len());
        let line = (base + start as u64, &bytes[start..end]);
        start = end + 1;
        Some(line)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::Io;
    use proptest::prelude::*;
    use std::io::Write;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn chunks_cover_the_range_and_end_at_line_ends(
            lines_len in proptest::collection::vec(0usize..40, 0..60),
            tail in 0usize..20,
            chunk_bytes in prop_oneof![1u64..200, u64::MAX - 200..=u64::MAX],
            mapped in any::<bool>(),
        ) {
            let mut bytes = Vec::new();
            for len in lines_len {
                bytes.extend(std::iter::repeat_n(b'x', len));
                bytes.push(b'\n');
            }
            bytes.extend(std::iter::repeat_n(b'y', tail));
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            let source = Source::open(file.path(), if mapped { Io::Mmap } else { Io::Read }).unwrap();
            let mut at = 0;
            for chunk in chunks(&source, 0..bytes.len() as u64, chunk_bytes) {
                let chunk = chunk.unwrap();
                prop_assert_eq!(chunk.start, at);
                prop_assert!(chunk.end > chunk.start);
                prop_assert!(chunk.end == bytes.len() as u64 || bytes[chunk.end as usize - 1] == b'\n');
                let inside = &bytes[chunk.start as usize..chunk.end as usize];
                let lines = lines(0, inside).count();
                prop_assert!(lines == 1 || !is_long_line(&chunk, chunk_bytes));
                if lines > 1 {
                    let last = inside[..inside.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
                    prop_assert!((last as u64) < chunk_bytes, "a chunk goes on behind its nominal end");
                }
                at = chunk.end;
            }
            prop_assert_eq!(at, bytes.len() as u64);
            let rejoined: Vec<u8> =
                lines(7, &bytes).flat_map(|(_, line)| [line, b"\n"].concat()).collect();
            prop_assert_eq!(rejoined.len(), bytes.len() + usize::from(tail > 0));
            for (offset, line) in lines(7, &bytes) {
                prop_assert_eq!(&bytes[offset as usize - 7..][..line.len()], line);
            }
            let complete = source.line_end_before(0, bytes.len() as u64).unwrap();
            prop_assert_eq!(complete as usize, bytes.len() - tail);
        }
    }
}

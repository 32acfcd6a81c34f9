//! Writes a ledger's whole lines from an offset on, for another home that appends them. Reads without a lock.

use std::io::Write;

use super::{Ledger, LedgerError};
use crate::scan::{Io, Source};

/// How much is read and written at a time, in bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// The lines that an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedLines {
    /// The offset of the first line, in bytes.
    pub since: u64,
    /// The offset after the last line: where the next export begins.
    pub end: u64,
    /// Number of lines, blank lines included.
    pub lines: u64,
}

impl Ledger {
    /// Writes the whole lines from the offset `since_bytes` on to `out`, as they are. Bytes after the last LF are an
    /// unfinished line and are left for the next export.
    ///
    /// # Errors
    /// [`LedgerError::ExportFrom`] when no line begins at the offset; the output is then empty. Other errors when the ledger
    /// cannot be read, and [`LedgerError::Output`] when `out` cannot be written; `out` may then have a part.
    pub fn export(&self, since_bytes: u64, out: &mut dyn Write) -> Result<ExportedLines, LedgerError> {
        let path = self.home().ledger();
        let source = Source::open(&path, Io::default())?;
        let end = source.line_end_before(0, source.len_bytes())?;
        let mut buffer = Vec::new();
        let is_line_start = match since_bytes {
            0 => true,
            since if since > end => false,
            since => source.read(since - 1..since, &mut buffer)? == b"\n",
        };
        if !is_line_start {
            let next = if since_bytes > end { None } else { Some(source.line_end_after(since_bytes, end)?) };
            return Err(LedgerError::ExportFrom { path, offset: since_bytes, end, next });
        }
        let mut lines = 0;
        let mut start = since_bytes;
        while start < end {
            let stop = end.min(start + PIECE_BYTES);
            let piece = source.bytes(start..stop, &mut buffer)?;
            lines += memchr::memchr_iter(b'\n', piece).count() as u64;
            // A map of a file that was cut has zeros after its new end.
            let piece = piece.to_vec();
            source.check_len()?;
            out.write_all(&piece).map_err(LedgerError::Output)?;
            start = stop;
        }
        out.flush().map_err(LedgerError::Output)?;
        Ok(ExportedLines { since: since_bytes, end, lines })
    }
}

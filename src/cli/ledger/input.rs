//! The records on standard input of `burn ledger append`, all checked before the first is written, in little memory.
//!
//! Touches standard input and, of more than [`BATCH_BYTES`] of records, a file without a name in the home, which holds the
//! checked lines and goes with the process.
//!
//! Guarantees: a record that cannot be appended is an error before any batch is handed out; no more than one line and one batch are in
//! memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::kind::AppendKind;
use crate::cli::{grouped, warn};
use crate::disk;
use crate::ledger::{Batch, RecordKind};

/// The longest line that is taken, without its line end. Its parsed form takes several times as much memory.
const LINE_MAX_BYTES: u64 = 32 << 20;

/// How much memory the records of a batch take before the next batch begins.
const BATCH_BYTES: u64 = 16 << 20;

/// Checked records.
pub(super) struct CheckedInput {
    /// Content records that were skipped.
    pub skipped: u64,
    kind: AppendKind,
    held: Batch,
    spool: Option<Spool>,
}

impl CheckedInput {
    /// Reads and checks standard input. Records that memory cannot hold go to a file in `directory`, which is created then.
    pub(super) fn read(kind: AppendKind, lenient: bool, directory: &Path) -> anyhow::Result<Self> {
        let new_batch = || if lenient { Batch::new() } else { Batch::strict() };
        let mut input = Self { skipped: 0, kind, held: new_batch(), spool: None };
        let mut lines = InputLines::new("standard input", io::stdin().lock(), LINE_MAX_BYTES);
        while let Some(InputLine { number, offset, bytes }) = lines.next()? {
            push(&mut input.held, kind, bytes).map_err(|refusal| {
                let remedy = match refusal.is_strict {
                    true => "; correct the record, or append it as it is with --lenient",
                    false => "",
                };
                let reason = refusal.reason;
                anyhow!(
                    "standard input, line {number} (byte {offset}): {reason}; nothing was written{remedy}"
                )
            })?;
            if input.held.memory_bytes() >= BATCH_BYTES {
                let spool = match &mut input.spool {
                    Some(spool) => spool,
                    none => none.insert(Spool::new(directory)?),
                };
                spool.put(&input.held)?;
                input.skipped += told_of_skipped(&input.held);
                input.held = new_batch();
            }
        }
        input.skipped += told_of_skipped(&input.held);
        Ok(input)
    }

    /// Whether all of it is one batch.
    pub(super) fn is_one_batch(&self) -> bool {
        self.spool.is_none()
    }

    /// Hands the batches to `take`, in their order.
    pub(super) fn each_batch(self, mut take: impl FnMut(&Batch) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Some(mut spool) = self.spool else { return take(&self.held) };
        spool.put(&self.held)?;
        drop(self.held);
        let mut lines = spool.lines()?;
        let mut batch = Batch::new();
        while let Some(InputLine { number, bytes, .. }) = lines.next()? {
            let pushed = match self.kind {
                AppendKind::Content => batch.push_content(bytes),
                AppendKind::Lines => batch.push_exported_line(bytes),
                _ => batch.push_line(bytes),
            };
            pushed.map_err(|refusal| anyhow!("checked line {number}: {}", refusal.reason))?;
            if batch.memory_bytes() >= BATCH_BYTES {
                take(&batch)?;
                batch = Batch::new();
            }
        }
        take(&batch)
    }
}

fn push(batch: &mut Batch, kind: AppendKind, line: &[u8]) -> Result<(), crate::ledger::Refusal> {
    let is_asked_for = |record: &RecordKind| {
        kind == match record {
            RecordKind::Turn => AppendKind::Turns,
            RecordKind::Compaction => AppendKind::Compactions,
            RecordKind::Relationship => AppendKind::Relationships,
            RecordKind::ToolResultEvent => AppendKind::ToolResultEvents,
            RecordKind::UserTurn => AppendKind::UserTurns,
        }
    };
    match RecordKind::ALL.iter().copied().find(is_asked_for) {
        Some(record) => batch.push(record, line),
        None => match kind {
            AppendKind::Content => batch.push_content(line),
            AppendKind::Lines => batch.push_exported_line(line),
            _ => batch.push_stamp(line),
        },
    }
}

/// How many records of the batch were skipped; those with a session are named.
fn told_of_skipped(batch: &Batch) -> u64 {
    for session in batch.skipped_sessions() {
        warn(&format!("records of session {session:?} are skipped: that name cannot be a file's"));
    }
    batch.skipped()
}

/// A file without a name that holds the lines of batches.
struct Spool {
    directory: PathBuf,
    file: BufWriter<File>,
}

impl Spool {
    fn new(directory: &Path) -> anyhow::Result<Self> {
        disk::create_dir_all(directory)?;
        let file = tempfile::tempfile_in(directory).with_context(|| failed(directory))?;
        Ok(Self { directory: directory.to_owned(), file: BufWriter::with_capacity(1 << 18, file) })
    }

    fn put(&mut self, batch: &Batch) -> anyhow::Result<()> {
        for line in batch.lines().chain(batch.content_lines()) {
            let written = self.file.write_all(line).and_then(|()| self.file.write_all(b"\n"));
            written.with_context(|| failed(&self.directory))?;
        }
        Ok(())
    }

    fn lines(self) -> anyhow::Result<InputLines<BufReader<File>>> {
        let Self { directory, file } = self;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|mut file| {
            file.rewind()?;
            Ok(file)
        });
        // As they were checked, lines may be longer than they were given.
        Ok(InputLines::new(
            "the checked records",
            BufReader::with_capacity(1 << 18, file.with_context(|| failed(&directory))?),
            u64::MAX - 1,
        ))
    }
}

fn failed(directory: &Path) -> String {
    format!(
        "cannot keep the checked records in {}, which needs as much space as they take; nothing was written",
        directory.display()
    )
}

struct InputLine<'l> {
    /// From 1.
    number: u64,
    /// Where it starts, in bytes.
    offset: u64,
    /// Without its line end.
    bytes: &'l [u8],
}

/// The lines of an input, each read into the same memory.
struct InputLines<R> {
    /// What is read, in words.
    name: &'static str,
    input: R,
    max_bytes: u64,
    number: u64,
    offset: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> InputLines<R> {
    fn new(name: &'static str, input: R, max_bytes: u64) -> Self {
        Self { name, input, max_bytes, number: 0, offset: 0, buffer: Vec::new() }
    }

    fn next(&mut self) -> anyhow::Result<Option<InputLine<'_>>> {
        self.buffer.clear();
        let mut limited = self.input.by_ref().take(self.max_bytes + 1);
        let read = limited
            .read_until(b'\n', &mut self.buffer)
            .with_context(|| format!("cannot read {}", self.name))? as u64;
        if read == 0 {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += read;
        self.number += 1;
        let bytes = match self.buffer.strip_suffix(b"\n") {
            Some(bytes) => bytes,
            None if read > self.max_bytes => bail!(
                "{}, line {} (byte {offset}): longer than {} bytes, the most that a line may have; nothing was \
                 written; leave the record out",
                self.name,
                self.number,
                grouped(self.max_bytes)
            ),
            None => &self.buffer,
        };
        Ok(Some(InputLine { number: self.number, offset, bytes }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_place_and_one_that_is_too_long_is_an_error() {
        let mut lines = InputLines::new("input", &b"abcd\n\nab\r\nlast"[..], 4);
        for expected in [(1, 0, &b"abcd"[..]), (2, 5, b""), (3, 6, b"ab\r"), (4, 10, b"last")] {
            let line = lines.next().unwrap().unwrap();
            assert_eq!((line.number, line.offset, line.bytes), expected);
        }
        assert!(lines.next().unwrap().is_none());
        for input in [&b"a\nabcde\n"[..], b"a\nabcde"] {
            let mut lines = InputLines::new("input", input, 4);
            lines.next().unwrap();
            let said = lines.next().err().unwrap().to_string();
            assert!(said.contains("line 2 (byte 2): longer than 4 bytes"), "{said}");
        }
    }
}

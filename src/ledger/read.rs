//! Queries over the ledger: records in the order of the file, turns with the enrichment of their stamps.
//!
//! Reads only the ledger and takes no lock. Memory is bounded by the stamps, because all stamps must be known before the
//! first turn, and by a few chunks of the file and as many pieces of output, whatever the length of the file. Lines after
//! the last LF and lines that are not JSON are skipped, as in every reader; lines that are not JSON are counted. Records
//! that the archive would reject are returned as they are in the ledger.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use bumpalo::Bump;

use super::pipeline::{LedgerWork, in_order};
use super::{Ledger, LedgerError};
use crate::record::fold::{Builder, Fold, FoldScratch, Stamp};
use crate::record::maker::RowMaker;
use crate::record::rows::Rows;
use crate::record::stamp::possible_stamps;
use crate::record::{Filter, ParsedLine, RecordKind, TimeBounds, line_of, passes_tags};
use crate::scan::json::{Document, Value, is_in_braces, stringify, trim_js, write_js_string};
use crate::scan::{self, Io, Source};

/// Smaller than in other modules, because several chunks are in memory as text.
const CHUNK_BYTES: u64 = 256 << 10;
/// A worker makes this many bytes of text from the records of a chunk, and at most one record more; the calling thread
/// makes the rest, piece by piece. The limit bounds memory, because a stamp of 1 MB becomes part of every turn of its
/// session, and one chunk may have 800 such turns.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// More threads would add memory and no speed, because one thread writes the output.
const THREADS_MAX: usize = 4;

/// Lines that a query skipped because they are not JSON; their kinds are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// Number of skipped lines. A line in braces that does not have the name of the queried kind is not parsed and not counted.
    pub malformed_lines: u64,
    /// The byte range of the first skipped line in the ledger, LF included.
    pub first: Option<Range<u64>>,
}

impl PassedOver {
    fn add(&mut self, more: PassedOver) {
        self.malformed_lines += more.malformed_lines;
        self.first = self.first.take().or(more.first);
    }
}

impl Ledger {
    /// Passes the records of one kind that match `filter` to `sink`, as compact JSON text, in the order of the ledger,
    /// until `sink` breaks. Turns have the member `enrichment`, folded from the stamps of the whole ledger. A record
    /// that was written twice is passed twice. A missing ledger counts as an empty ledger. Returns the lines that were skipped.
    ///
    /// # Errors
    /// When the ledger cannot be read, or becomes shorter meanwhile.
    pub fn query(
        &self,
        kind: RecordKind,
        filter: &Filter,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<PassedOver, LedgerError> {
        query(&self.home().ledger(), kind, filter, sink)
    }
}

/// Does for a ledger of any name what [`Ledger::query`] does for the ledger of a home.
///
/// # Errors
/// As [`Ledger::query`].
pub fn query(
    ledger: &Path,
    kind: RecordKind,
    filter: &Filter,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<PassedOver, LedgerError> {
    let Some(source) = Source::open_if_there(ledger, Io::default())? else {
        return Ok(PassedOver::default());
    };
    let work = LedgerWork::whole(&source, CHUNK_BYTES, THREADS_MAX)?;
    if kind != RecordKind::Turn {
        return each_record(&work, kind, filter, &Fold::default(), sink);
    }
    let arena = Bump::new();
    let fold = fold_stamps(&work, &arena)?;
    each_record(&work, kind, filter, &fold, sink)
}

/// The byte range of a stamp line, and the time by which stamps are sorted.
struct StampPlace<'a> {
    ts: &'a str,
    offset: u64,
    len_bytes: u32,
}

/// Folds every stamp of the ledger. A first pass finds the stamps, and a second pass reads the stamps again in order of
/// time, so that only the byte range and the time of each stamp are kept between the passes.
fn fold_stamps<'a>(work: &LedgerWork<'_>, arena: &'a Bump) -> Result<Fold<'a>, LedgerError> {
    let places_arena = Bump::new();
    let mut places: Vec<StampPlace<'_>> = Vec::new();
    in_order(work, StampFinder::default, StampFinder::chunk, |found| {
        places.extend(found.into_iter().map(|(ts, offset, len_bytes)| StampPlace {
            ts: places_arena.alloc_str(&ts),
            offset,
            len_bytes,
        }));
        Ok(ControlFlow::Continue(()))
    })?;
    places.sort_unstable_by_key(|place| (place.ts, place.offset));
    let mut builder = Builder::new(arena);
    let mut finder = StampFinder::default();
    let mut buffer = Vec::new();
    for StampPlace { offset, len_bytes, .. } in places {
        let line = work.source.bytes(offset..offset + u64::from(len_bytes), &mut buffer)?;
        finder.stamp(offset, line, |stamp| builder.add(stamp));
    }
    work.source.check_len()?;
    Ok(builder.finish())
}

/// Finds stamps as the archive's builds do. Each thread has its own finder.
#[derive(Default)]
struct StampFinder {
    rows: RowMaker<'static>,
    arena: Bump,
}

impl StampFinder {
    /// Returns time, offset and length of every stamp line that folds.
    fn chunk(&mut self, base: u64, bytes: &[u8]) -> Vec<(String, u64, u32)> {
        let mut found = Vec::new();
        for line in possible_stamps(bytes) {
            let (offset, line) = (base + line.start as u64, &bytes[line]);
            if let Ok(len_bytes) = u32::try_from(line.len()) {
                self.stamp(offset, line, |stamp| found.push((stamp.ts.to_owned(), offset, len_bytes)));
            }
        }
        found
    }

    /// Passes the stamp of a line to `take`, if the line is a stamp.
    fn stamp(&mut self, offset: u64, line: &[u8], take: impl FnOnce(&Stamp<'_>)) {
        self.arena.reset();
        let mut rows = Rows::default();
        self.rows.add(offset, line, &Fold::default(), &self.arena, &mut rows);
        if let Some(line) = rows.stamps.first() {
            take(&line.stamp);
        }
    }
}

fn each_record(
    work: &LedgerWork<'_>,
    kind: RecordKind,
    filter: &Filter,
    fold: &Fold<'_>,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<PassedOver, LedgerError> {
    let quoted = format!("\"{}\"", kind.as_str());
    let times = filter.times();
    let reader = || RecordReader {
        kind,
        filter,
        times: &times,
        fold,
        name: memchr::memmem::Finder::new(quoted.as_bytes()),
        escape: memchr::memmem::Finder::new(b"\\u00"),
        document: Document::default(),
        enrichment: Document::default(),
        scratch: FoldScratch::default(),
    };
    let mut passed_over = PassedOver::default();
    let (mut own_reader, mut buffer) = (None, Vec::new());
    in_order(work, reader, RecordReader::piece, |mut piece| {
        loop {
            passed_over.add(piece.passed_over);
            for record in piece.records.lines() {
                if sink(record).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if piece.rest.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            let own_reader = own_reader.get_or_insert_with(reader);
            let start = piece.rest.start;
            piece = own_reader.piece(start, work.source.bytes(piece.rest, &mut buffer)?);
            work.source.check_len()?;
        }
    })?;
    Ok(passed_over)
}

/// The output of a reader for whole lines.
struct ReadPiece {
    /// The records that match the filter, each with an LF.
    records: String,
    passed_over: PassedOver,
    /// The byte range of the lines that were not read, because `records` was full.
    rest: Range<u64>,
}

/// Reads records of one kind. Each thread has its own reader.
struct RecordReader<'q, 'f> {
    kind: RecordKind,
    filter: &'q Filter,
    times: &'q TimeBounds,
    fold: &'q Fold<'f>,
    /// Finds the kind's name in quotes.
    name: memchr::memmem::Finder<'q>,
    /// Finds an escape that may be a letter of the kind's name.
    escape: memchr::memmem::Finder<'q>,
    document: Document,
    enrichment: Document,
    scratch: FoldScratch<'f>,
}

impl RecordReader<'_, '_> {
    /// Reads lines until the matching records have [`PIECE_BYTES_MAX`] of text.
    fn piece(&mut self, base: u64, bytes: &[u8]) -> ReadPiece {
        let mut out = Vec::new();
        let mut passed_over = PassedOver::default();
        let end = base + bytes.len() as u64;
        let mut rest = end..end;
        for (offset, line) in scan::lines(base, bytes) {
            if out.len() >= PIECE_BYTES_MAX {
                rest.start = offset;
                break;
            }
            let text = trim_js(line);
            let may_be_one = self.name.find(line).is_some() || self.escape.find(line).is_some();
            if (may_be_one || !is_in_braces(text)) && !text.is_empty() && !self.line(text, &mut out) {
                let first = Some(offset..offset + line.len() as u64 + 1);
                passed_over.add(PassedOver { malformed_lines: 1, first });
            }
        }
        // The text in `out` is always UTF-8.
        ReadPiece { records: String::from_utf8(out).unwrap_or_default(), passed_over, rest }
    }

    /// Writes the record of a line if the record matches the filter. Returns whether the line is JSON.
    fn line(&mut self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let Ok(root) = self.document.parse(text) else { return false };
        let ParsedLine::Record(kind, record) = line_of(root) else { return true };
        if kind != self.kind || !self.filter.passes(self.times, kind, record) {
            return true;
        }
        if kind != RecordKind::Turn {
            stringify(record, out);
            out.push(b'\n');
            return true;
        }
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let (session, message, ts) = (text("sessionId"), text("messageId"), text("ts"));
        let enriched = self.fold.enrich(&session, &message, &ts, &mut self.scratch).json;
        if !self.filter.enrichment.is_empty() {
            let Ok(object) = self.enrichment.parse(enriched.as_bytes()) else { return true };
            // Compared in the form that the archive's columns store: U+FFFD for a lone surrogate.
            if !passes_tags(&self.filter.enrichment, |key| object.get(key).and_then(Value::as_str)) {
                return true;
            }
        }
        write_enriched(record, enriched, out);
        out.push(b'\n');
        true
    }
}

/// Appends a turn with its enrichment, as `{...turn, enrichment}` would be printed.
fn write_enriched(turn: Value<'_>, enrichment: &str, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut is_written = false;
    for (key, value) in turn.members() {
        write_js_string(key.as_wtf8(), out);
        out.push(b':');
        if key == *"enrichment" {
            is_written = true;
            out.extend_from_slice(enrichment.as_bytes());
        } else {
            stringify(value, out);
        }
        out.push(b',');
    }
    if is_written {
        out.pop();
    } else {
        out.extend_from_slice(b"\"enrichment\":");
        out.extend_from_slice(enrichment.as_bytes());
    }
    out.push(b'}');
}

//! Queries over the ledger: records in the order of the file, turns with what stamps say of them.
//!
//! Reads the ledger and nothing else, takes no lock. Memory is bounded by the stamps, which must be known before the first
//! turn, by a few chunks of the file, whatever its length, and by as many pieces of output. Lines behind the last LF and lines that are not JSON are
//! passed over, as every reader does, the latter counted; records that the archive would reject come as they stand.

use std::ops::{ControlFlow, Range};

use bumpalo::Bump;

use super::index::open_ledger;
use super::pipeline::{Work, in_order};
use super::{Ledger, LedgerError};
use crate::record::fold::{Builder, Fold, Scratch, Stamp};
use crate::record::maker::RowMaker;
use crate::record::rows::Rows;
use crate::record::stamp::possible_stamps;
use crate::record::{Filter, Line, RecordKind, TimeBounds, line_of};
use crate::scan;
use crate::scan::json::{Document, Value, stringify, trim_js, write_js_string};

/// Smaller than elsewhere: several are in memory as text.
const CHUNK_BYTES: u64 = 256 << 10;
/// Of a chunk's records a worker makes this much text and at most one record more; the calling thread makes the rest, piece
/// by piece. A stamp of 1 MB becomes part of every turn of its session: 800 of them in one chunk.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// More would add memory and not speed: what is written is written by one thread.
const THREADS_MAX: usize = 4;

/// Lines that a query came by and that are not JSON: what they were is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// How many. Lines in braces that do not name the kind that was asked for are not looked into, and not counted.
    pub malformed_lines: u64,
    /// The first of them: its bytes in the ledger, LF included.
    pub first: Option<Range<u64>>,
}

impl PassedOver {
    fn add(&mut self, more: PassedOver) {
        self.malformed_lines += more.malformed_lines;
        self.first = self.first.take().or(more.first);
    }
}

impl Ledger {
    /// Hands the records of one kind that pass `filter` to `sink`, as compact JSON text, in the order of the ledger, until it
    /// breaks off. Turns have the member `enrichment`: what the stamps of the whole ledger make of them. A record
    /// that was written twice comes twice. No ledger is an empty one. Answers what was passed over on the way.
    ///
    /// # Errors
    /// When the ledger cannot be read, or shrinks meanwhile.
    pub fn query(
        &self,
        kind: RecordKind,
        filter: &Filter,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<PassedOver, LedgerError> {
        let Some(source) = open_ledger(self.home())? else { return Ok(PassedOver::default()) };
        let work = Work::whole(&source, CHUNK_BYTES, THREADS_MAX)?;
        if kind != RecordKind::Turn {
            return each_record(&work, kind, filter, &Fold::default(), sink);
        }
        let arena = Bump::new();
        let fold = fold_stamps(&work, &arena)?;
        each_record(&work, kind, filter, &fold, sink)
    }
}

/// The place of a stamp line, and what it sorts by.
struct Place<'a> {
    ts: &'a str,
    offset: u64,
    len_bytes: u32,
}

/// Folds every stamp of the ledger. They are found first and read again in their order, so that of each no more than its
/// place is kept until then.
fn fold_stamps<'a>(work: &Work<'_>, arena: &'a Bump) -> Result<Fold<'a>, LedgerError> {
    let places_arena = Bump::new();
    let mut places: Vec<Place<'_>> = Vec::new();
    in_order(work, StampFinder::default, StampFinder::chunk, |found| {
        places.extend(found.into_iter().map(|(ts, offset, len_bytes)| Place {
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
    for Place { offset, len_bytes, .. } in places {
        let line = work.source.bytes(offset..offset + u64::from(len_bytes), &mut buffer)?;
        finder.stamp(offset, line, |stamp| builder.add(stamp));
    }
    work.source.check_len()?;
    Ok(builder.finish())
}

/// Finds stamps as the archive's builds do; one per thread.
#[derive(Default)]
struct StampFinder {
    rows: RowMaker<'static>,
    arena: Bump,
}

impl StampFinder {
    /// Time, offset and length of every stamp line that folds.
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

    /// Hands the stamp of a line to `take`, if the line is one.
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
    work: &Work<'_>,
    kind: RecordKind,
    filter: &Filter,
    fold: &Fold<'_>,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<PassedOver, LedgerError> {
    let quoted = format!("\"{}\"", kind.as_str());
    let times = filter.times();
    let reader = || Reader {
        kind,
        filter,
        times: &times,
        fold,
        name: memchr::memmem::Finder::new(quoted.as_bytes()),
        escape: memchr::memmem::Finder::new(b"\\u00"),
        document: Document::default(),
        enrichment: Document::default(),
        scratch: Scratch::default(),
    };
    let mut passed_over = PassedOver::default();
    let (mut own_reader, mut buffer) = (None, Vec::new());
    in_order(work, reader, Reader::piece, |mut piece| {
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

/// What a reader made of whole lines.
struct Piece {
    /// The records that pass, each with an LF.
    records: String,
    passed_over: PassedOver,
    /// The lines that were left, because `records` was full.
    rest: Range<u64>,
}

/// Reads records of one kind; one per thread.
struct Reader<'q, 'f> {
    kind: RecordKind,
    filter: &'q Filter,
    times: &'q TimeBounds,
    fold: &'q Fold<'f>,
    /// Finds the kind's name in quotes.
    name: memchr::memmem::Finder<'q>,
    /// Finds what may spell a letter of the kind's name in another way.
    escape: memchr::memmem::Finder<'q>,
    document: Document,
    enrichment: Document,
    scratch: Scratch<'f>,
}

impl Reader<'_, '_> {
    /// The records that pass of the first lines, up to [`PIECE_BYTES_MAX`].
    fn piece(&mut self, base: u64, bytes: &[u8]) -> Piece {
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
            // Half a line, and two in one, mostly lack a brace: seen without parsing what is of other kinds.
            let is_odd = !(text.starts_with(b"{") && text.ends_with(b"}"));
            if (may_be_one || is_odd) && !text.is_empty() && !self.line(text, &mut out) {
                let first = Some(offset..offset + line.len() as u64 + 1);
                passed_over.add(PassedOver { malformed_lines: 1, first });
            }
        }
        // What is written here is UTF-8.
        Piece { records: String::from_utf8(out).unwrap_or_default(), passed_over, rest }
    }

    /// Writes the record of a line if it passes; whether the line is JSON.
    fn line(&mut self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let Ok(root) = self.document.parse(text) else { return false };
        let Line::Record(kind, record) = line_of(root) else { return true };
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
            let wanted = self.filter.enrichment.iter().map(|(key, value)| (&**key, &**value));
            if !Filter::passes_enrichment(object, wanted) {
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

//! Queries over the ledger: records in the order of the file, turns with what stamps say of them.
//!
//! Reads the ledger and nothing else, takes no lock. Memory is bounded by the stamps, which must be known before the first
//! turn, and by a few chunks of the file, whatever its length. Lines behind the last LF and lines that are not JSON are
//! passed over, as every reader does; records that the archive would reject come as they stand.

use std::ops::ControlFlow;

use super::index::open_ledger;
use super::pipeline::{Work, in_order};
use super::{Filter, Ledger, LedgerError, Line, RecordKind, line_of};
use crate::archive::fold::{Fold, Scratch};
use crate::archive::pipeline::{Input, workers};
use crate::archive::survey::{Survey, survey};
use crate::scan::json::{Document, Kind as JsonKind, Value, stringify, trim_js, write_js_string};
use crate::scan::{self, Source};

/// Smaller than elsewhere: several are in memory as text.
const CHUNK_BYTES: u64 = 256 << 10;
/// More would add memory and not speed: what is written is written by one thread.
const THREADS_MAX: usize = 4;

impl Ledger {
    /// Hands the records of one kind that pass `filter` to `sink`, as compact JSON text, in the order of the ledger, until it
    /// breaks off. Turns have the member `enrichment`: what the stamps of the whole ledger make of them. A record
    /// that was written twice comes twice. No ledger is an empty one.
    ///
    /// # Errors
    /// When the ledger cannot be read, or shrinks meanwhile.
    pub fn query(
        &self,
        kind: RecordKind,
        filter: &Filter,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), LedgerError> {
        let Some(source) = open_ledger(self.home())? else { return Ok(()) };
        let work = Work::whole(&source, CHUNK_BYTES, THREADS_MAX)?;
        if kind != RecordKind::Turn {
            return each_record(&work, kind, filter, &Fold::default(), sink);
        }
        let survey = stamps_of(&source, &work)?;
        let stamps = survey.stamps.iter().flat_map(|set| set.borrow_dependent().iter().copied());
        each_record(&work, kind, filter, &Fold::new(stamps.collect()), sink)
    }
}

fn stamps_of(source: &Source, work: &Work<'_>) -> Result<Survey, LedgerError> {
    let pool = workers(work.threads)?;
    let input = Input { source, range: work.range.clone(), chunk_bytes: work.chunk_bytes };
    Ok(survey(&pool, &input, false)?)
}

fn each_record(
    work: &Work<'_>,
    kind: RecordKind,
    filter: &Filter,
    fold: &Fold<'_>,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(), LedgerError> {
    let quoted = format!("\"{}\"", kind.as_str());
    let reader = || Reader {
        kind,
        filter,
        fold,
        name: memchr::memmem::Finder::new(quoted.as_bytes()),
        escape: memchr::memmem::Finder::new(b"\\u00"),
        document: Document::default(),
        enrichment: Document::default(),
        scratch: Scratch::default(),
    };
    in_order(work, reader, Reader::chunk, |found| {
        for record in found.lines() {
            if sink(record).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Reads records of one kind; one per thread.
struct Reader<'q, 'f> {
    kind: RecordKind,
    filter: &'q Filter,
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
    /// The records that pass, each with an LF.
    fn chunk(&mut self, _: u64, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        for (_, line) in scan::lines(0, bytes) {
            if self.name.find(line).is_some() || self.escape.find(line).is_some() {
                self.line(line, &mut out);
            }
        }
        // What is written here is UTF-8.
        String::from_utf8(out).unwrap_or_default()
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Ok(root) = self.document.parse(trim_js(line)) else { return };
        let Line::Record(kind, record) = line_of(root) else { return };
        if kind != self.kind || !passes(self.filter, kind, record) {
            return;
        }
        if kind != RecordKind::Turn {
            stringify(record, out);
            out.push(b'\n');
            return;
        }
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let (session, message, ts) = (text("sessionId"), text("messageId"), text("ts"));
        let enriched = self.fold.enrich(&session, &message, &ts, &mut self.scratch).json;
        if !self.filter.enrichment.is_empty() {
            let Ok(object) = self.enrichment.parse(enriched.as_bytes()) else { return };
            let has = |(key, value): &(String, String)| {
                object.get(key).and_then(Value::as_js_str).is_some_and(|found| found == **value)
            };
            if !self.filter.enrichment.iter().all(has) {
                return;
            }
        }
        write_enriched(record, enriched, out);
        out.push(b'\n');
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

/// Whether a record passes, enrichment left aside. Strings compare by their bytes; what has no ts passes any bounds.
fn passes(filter: &Filter, kind: RecordKind, record: Value<'_>) -> bool {
    let is = |key: &str, wanted: &str| {
        record.get(key).and_then(Value::as_js_str).is_some_and(|found| found == *wanted)
    };
    let ts = record.get("ts").filter(|ts| ts.kind() == JsonKind::String).and_then(Value::as_str);
    let in_time = ts.is_none_or(|ts| {
        filter.since.as_deref().is_none_or(|since| since.as_bytes() <= ts.as_bytes())
            && filter.until.as_deref().is_none_or(|until| ts.as_bytes() <= until.as_bytes())
    });
    let of_session = |session: &str| {
        is("sessionId", session) || (kind == RecordKind::Relationship && is("relatedSessionId", session))
    };
    in_time
        && filter.session.as_deref().is_none_or(of_session)
        && filter.source.as_deref().is_none_or(|source| is("source", source))
        && (kind != RecordKind::Turn
            || filter
                .project
                .as_deref()
                .is_none_or(|project| is("project", project) || is("projectKey", project)))
}

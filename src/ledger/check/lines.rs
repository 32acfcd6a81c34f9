//! Checks the lines of a chunk: finds problems, ids and times. Computes from bytes and touches nothing.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use bumpalo::Bump;
use memchr::memmem::Finder;
use rustc_hash::FxBuildHasher;

use super::problem::Problem;
use crate::record::columns::{compactions, stamps, tool_calls, tool_result_events, turns};
use crate::record::fold::Fold;
use crate::record::maker::RowMaker;
use crate::record::rows::{Rows, Verdict};
use crate::record::strict::{StrictRule, doubt_in_record, doubt_in_stamp, is_doubtful, is_time};
use crate::record::{Cell, Hasher, Id, ParsedLine, line_of};
use crate::scan;
use crate::scan::json::{Document, Value, trim_js, write_js_number};

/// A line with a problem.
pub(super) struct FoundProblem {
    pub offset: u64,
    /// Length of the line in bytes, LF included.
    pub length: u64,
    pub problem: Problem,
    pub reason: String,
}

/// The results of a worker for a chunk.
#[derive(Default)]
pub(super) struct CheckedPart {
    /// Number of lines that are not blank.
    pub lines: u64,
    pub findings: Vec<FoundProblem>,
    /// The kind of each line of an unknown kind.
    pub unknown: Vec<String>,
    /// The id of every record, with the offset of its line.
    pub ids: Vec<(Id, u64)>,
    /// Lines that break a strict rule, with their offsets.
    pub strict: Vec<(StrictRule, u64)>,
    /// The hash of source and session, and the ts, of each record.
    pub times: Vec<(u64, TsPrefix)>,
}

/// The first bytes of a ts, padded with zeros. The prefix is long enough to order all times that known writers write.
const TS_PREFIX_BYTES: usize = 40;
pub(super) type TsPrefix = [u8; TS_PREFIX_BYTES];

/// Made once, because making it takes as long as searching a short line.
static COLLAPSED_CALLS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"collapsedCalls"));

/// How much of the kind of a line is kept, in characters.
const KIND_CHARS: usize = 100;

impl CheckedPart {
    fn time(&mut self, source: &str, session: &str, ts: &str) {
        let mut prefix = [0; TS_PREFIX_BYTES];
        let len_bytes = ts.len().min(prefix.len());
        prefix[..len_bytes].copy_from_slice(&ts.as_bytes()[..len_bytes]);
        let session = FxBuildHasher.hash_one((source, session));
        self.times.push((session, prefix));
    }

    /// Adds a finding. `line` is without its LF.
    fn finding(&mut self, offset: u64, line: &[u8], problem: Problem, reason: String) {
        let length = line.len() as u64 + 1;
        self.findings.push(FoundProblem { offset, length, problem, reason });
    }
}

/// Checks lines. Each thread has its own checker.
#[derive(Default)]
pub(super) struct Checker {
    rows: RowMaker<'static>,
    document: Document,
    hasher: Hasher,
    arena: Bump,
    number: Vec<u8>,
}

impl Checker {
    /// Checks the lines of a chunk that starts at the absolute offset `base`.
    pub(super) fn chunk(&mut self, base: u64, bytes: &[u8]) -> CheckedPart {
        let Self { rows: maker, document, hasher, arena, number } = self;
        arena.reset();
        let nothing = Fold::default();
        let mut part = CheckedPart::default();
        let mut rows = Rows { unarchived: Some(Vec::new()), ..Rows::default() };
        for (offset, line) in scan::lines(base, bytes) {
            let (unknown, other, exact) = (rows.unknown_lines, rows.other_lines, rows.exact_lines);
            maker.add(offset, line, &nothing, arena, &mut rows);
            part.lines += 1;
            let mut is_faulty = false;
            let mut broken = None;
            if let Some(turn) = rows.turns.pop() {
                let [source, session, message] = [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID]
                    .map(|place| turn.cells[place].as_text());
                part.ids.push((hasher.id_of_parts(&[source, session, message]), offset));
                part.time(source, session, turn.cells[turns::TS].as_text());
                let is_doubtful = is_doubtful(&turn.cells, turns::record::FIELDS)
                    || is_doubtful(&turn.cells, turns::usage::FIELDS)
                    // A row has NULL for a `collapsedCalls` of 0 or less, so the line itself must be searched.
                    || !rows.calls.is_empty() && COLLAPSED_CALLS.find(line).is_some()
                    || rows.calls.iter().any(|call| is_doubtful(call, tool_calls::call::FIELDS));
                if is_doubtful {
                    broken = broken_rule(document, line);
                }
                rows.calls.clear();
            } else if let Some(event) = rows.events.pop() {
                let [source, session, tool_use] = [
                    tool_result_events::SOURCE,
                    tool_result_events::SESSION_ID,
                    tool_result_events::TOOL_USE_ID,
                ]
                .map(|place| event[place].as_text());
                number.clear();
                match event[tool_result_events::EVENT_INDEX] {
                    Cell::Int(index) => write_js_number(index as f64, number),
                    Cell::Real(index) => write_js_number(index, number),
                    Cell::Null | Cell::Text(_) => {}
                }
                let index = std::str::from_utf8(number).unwrap_or_default();
                part.ids.push((hasher.id_of_parts(&[source, session, tool_use, index]), offset));
                if let Cell::Text(ts) = event[tool_result_events::TS] {
                    part.time(source, session, ts);
                }
                if is_doubtful(&event, tool_result_events::record::FIELDS) {
                    broken = broken_rule(document, line);
                }
            } else if let Some(compaction) = rows.compactions.pop() {
                let [source, session, ts] = [compactions::SOURCE, compactions::SESSION_ID, compactions::TS]
                    .map(|place| compaction[place].as_text());
                part.ids.push((hasher.id_of_parts(&[source, session, ts]), offset));
                part.time(source, session, ts);
                if is_doubtful(&compaction, compactions::record::FIELDS) {
                    broken = broken_rule(document, line);
                }
            } else if let Some(stamp) = rows.stamps.pop() {
                if !is_time(stamp.cells[stamps::TS].as_text())
                    || memchr::memmem::find(line, b"range").is_some()
                {
                    broken = broken_rule(document, line);
                }
            } else if rows.other_lines > other {
                broken = match rows.unarchived.as_mut().and_then(Vec::pop) {
                    Some(record) => {
                        let parts = record.id_parts();
                        part.ids.push((hasher.id_of_parts(parts), offset));
                        if let Some(ts) = record.ts {
                            part.time(parts[0], parts[1], ts);
                        }
                        if record.is_doubtful { broken_rule(document, line) } else { None }
                    }
                    None => other_record(&mut part, document, hasher, offset, line),
                };
            } else if rows.unknown_lines > unknown {
                let mut kind = unknown_kind(document, line);
                if let Some((end, _)) = kind.char_indices().nth(KIND_CHARS) {
                    kind.truncate(end);
                    kind.push('…');
                }
                part.finding(offset, line, Problem::Unknown, kind.clone());
                part.unknown.push(kind);
            } else if let Some(finding) = rows.findings.pop() {
                is_faulty = true;
                let problem = match finding.verdict {
                    Verdict::Malformed => Problem::Malformed,
                    Verdict::Rejected => Problem::Rejected,
                };
                part.finding(offset, line, problem, finding.reason);
                if problem == Problem::Rejected {
                    other_record(&mut part, document, hasher, offset, line);
                }
            } else {
                // Blank.
                part.lines -= 1;
            }
            part.strict.extend(broken.map(|rule| (rule, offset)));
            // The fast reader reads no line with other bytes than UTF-8.
            if rows.exact_lines > exact
                && !is_faulty
                && let Err(error) = std::str::from_utf8(line)
            {
                let reason = format!("byte {} of the line is not UTF-8", error.valid_up_to());
                part.finding(offset, line, Problem::InvalidUtf8, reason);
            }
        }
        part
    }
}

/// Adds id and time of a record that has no row. Returns the first strict rule that the record breaks.
fn other_record(
    part: &mut CheckedPart,
    document: &mut Document,
    hasher: &mut Hasher,
    offset: u64,
    line: &[u8],
) -> Option<StrictRule> {
    let root = document.parse(trim_js(line)).ok()?;
    let ParsedLine::Record(kind, record) = line_of(root) else { return None };
    part.ids.push((hasher.id(kind, record), offset));
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    if let (Some(source), Some(session), Some(ts)) = (text("source"), text("sessionId"), text("ts")) {
        part.time(&source, &session, &ts);
    }
    doubt_in_record(kind, record).map(|doubt| doubt.rule)
}

/// Returns the first strict rule that a line breaks.
fn broken_rule(document: &mut Document, line: &[u8]) -> Option<StrictRule> {
    let root = document.parse(trim_js(line)).ok()?;
    let doubt = match line_of(root) {
        ParsedLine::Record(kind, record) => doubt_in_record(kind, record),
        ParsedLine::Stamp => doubt_in_stamp(root),
        ParsedLine::Shapeless(_) | ParsedLine::Unknown => None,
    };
    doubt.map(|doubt| doubt.rule)
}

/// Returns the kind of a line of an unknown kind, or what the line lacks.
fn unknown_kind(document: &mut Document, line: &[u8]) -> String {
    let Ok(root) = document.parse(trim_js(line)) else { return "no JSON".to_owned() };
    let version = root.get("v");
    match (version.and_then(Value::as_number).map(|version| version.as_f64()), root.get("kind")) {
        (Some(1.0), Some(kind)) => {
            kind.as_str().map_or("kind is no string".to_owned(), |kind| format!("kind {kind}"))
        }
        (Some(1.0), None) => "without a kind".to_owned(),
        (_, _) => version.map_or("without a version".to_owned(), |version| format!("version {version}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::agreement::{Rng, mutate};

    const BASES: [&str; 3] = [
        r#"{"v":1,"kind":"relationship","record":{"source":"c","sessionId":"s","relationshipType":"fork","relatedSessionId":"r","agentId":null,"parentToolUseId":"p","ts":"2026-04-20T00:00:02Z"}}"#,
        r#"{"v":1,"kind":"relationship","record":{"source":"c","sessionId":"s","relationshipType":"root"}}"#,
        r#"{"v":1,"kind":"user_turn","record":{"source":"c","sessionId":"s","userUuid":"u","ts":"2026-04-20T00:00:02Z","blocks":[{"kind":"text","byteLen":1,"approxTokens":1},{"kind":"text","byteLen":0,"approxTokens":2}]}}"#,
    ];

    #[test]
    fn a_record_without_a_row_is_read_alike_from_the_tape_and_exactly() {
        let mut random = Rng::of(1);
        let (mut checker, mut document, mut hasher) = Default::default();
        let (mut taken, mut broken) = (0, 0);
        for _ in 0..30_000 {
            let mut line = BASES[random.below(BASES.len())].as_bytes().to_vec();
            for _ in 0..1 + random.below(3) {
                mutate(&mut random, &mut line);
            }
            let (arena, mut rows) = (Bump::new(), Rows { unarchived: Some(Vec::new()), ..Rows::default() });
            RowMaker::default().add(0, &line, &Fold::default(), &arena, &mut rows);
            if line.contains(&b'\n') || rows.unarchived.is_none_or(|records| records.is_empty()) {
                continue;
            }
            let mut exactly = CheckedPart::default();
            let rule = other_record(&mut exactly, &mut document, &mut hasher, 0, &line);
            let found = Checker::chunk(&mut checker, 0, &[&line[..], b"\n"].concat());
            let text = String::from_utf8_lossy(&line);
            assert_eq!((found.ids, found.times), (exactly.ids, exactly.times), "{text}");
            assert_eq!(found.strict, rule.map(|rule| (rule, 0)).into_iter().collect::<Vec<_>>(), "{text}");
            (taken, broken) = (taken + 1, broken + usize::from(rule.is_some()));
        }
        assert!(taken > 3_000 && broken > 100, "{taken}, {broken}");
    }
}

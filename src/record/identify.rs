//! Finds ids and fingerprints of lines: with the fast reader for ordinary lines, with the exact parser for all others.
//!
//! Computes from bytes and touches nothing else. The two paths agree on every line that the first path reads. The first path
//! leaves every line that it does not fully understand to the second, so a refusal is never a verdict.

use bumpalo::Bump;

use super::fast::Envelope;
use super::id::{Fingerprinted, Hasher, Id, parts_of};
use super::{ParsedLine, RecordKind, line_of};
use crate::scan::json::walk::{Walk, once};
use crate::scan::{self, json};

/// The index entries of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineIds {
    pub id: Id,
    pub fingerprint: Option<Id>,
}

/// An arena that a long line grew beyond this size is dropped.
const KEEP_ARENA_BYTES: usize = 4 << 20;

/// Finds ids in a ledger; one per thread.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    /// The line that is read, and its strings without escapes.
    arena: Bump,
    document: json::Document,
    hasher: Hasher,
}

impl Finder {
    /// The index entries of the lines of `chunk`, and how many lines are not JSON.
    pub(crate) fn find(&mut self, chunk: &[u8]) -> (Vec<LineIds>, u64) {
        let mut found = Vec::new();
        let mut malformed = 0;
        for (_, line) in scan::lines(0, chunk) {
            match self.fast(line) {
                Some(of_line) => found.extend(of_line),
                None => match self.exact(line) {
                    Ok(of_line) => found.extend(of_line),
                    Err(_) => malformed += 1,
                },
            }
        }
        (found, malformed)
    }

    /// The index entries of `line`; `None` when the exact reader has to decide.
    #[expect(clippy::option_option, reason = "no answer, and the answer that there is nothing")]
    fn fast(&mut self, line: &[u8]) -> Option<Option<LineIds>> {
        let Self { arena, hasher, .. } = self;
        if arena.allocated_bytes() > KEEP_ARENA_BYTES {
            *arena = Bump::new();
        }
        arena.reset();
        let text = simdutf8::basic::from_utf8(arena.alloc_slice_copy(line)).ok()?;
        match Envelope::read(Walk::new(text, arena), |kind, walk| record(kind, walk, hasher))? {
            Envelope::Record(_, found) => found.map(Some),
            Envelope::Stamp { .. } | Envelope::Unknown => Some(None),
        }
    }

    /// The index entries of `line`.
    fn exact(&mut self, line: &[u8]) -> Result<Option<LineIds>, json::JsonError> {
        let line = json::trim_js(line);
        if line.is_empty() {
            return Ok(None);
        }
        let ParsedLine::Record(kind, record) = line_of(self.document.parse(line)?) else { return Ok(None) };
        let id = self.hasher.id(kind, record);
        let is_turn = kind == RecordKind::Turn;
        Ok(Some(LineIds { id, fingerprint: if is_turn { self.hasher.fingerprint(record) } else { None } }))
    }
}

/// A member that is part of an id.
#[derive(Clone, Copy)]
enum IdPart<'a> {
    Null,
    Text(&'a str),
    Number(f64),
}

impl<'a> IdPart<'a> {
    fn read(value: &mut Walk<'a>) -> Option<Self> {
        if value.null() {
            return Some(Self::Null);
        }
        if value.is_string() { value.str().map(Self::Text) } else { value.number().map(Self::Number) }
    }
}

fn record(kind: RecordKind, walk: &mut Walk<'_>, hasher: &mut Hasher) -> Option<LineIds> {
    let (keys, is_optional) = parts_of(kind);
    let mut seen = 0;
    let mut parts = [None; 6];
    let (mut ts, mut model, mut usage, mut args_hash) = (None, None, None, None);
    let mut members = walk.object()?;
    while let Some(key) = members.next()? {
        let value = members.value();
        if let Some(place) = keys.iter().position(|part| *part == key) {
            once(&mut seen, place as u32)?;
            parts[place] = Some(IdPart::read(value)?);
            continue;
        }
        match key {
            "ts" if kind == RecordKind::Turn => {
                once(&mut seen, 8)?;
                ts = Some(value.str()?);
            }
            "model" if kind == RecordKind::Turn => {
                once(&mut seen, 9)?;
                model = Some(value.str()?);
            }
            "usage" if kind == RecordKind::Turn => {
                once(&mut seen, 10)?;
                usage = Some(counts(value)?);
            }
            "toolCalls" if kind == RecordKind::Turn => {
                once(&mut seen, 11)?;
                args_hash = Some(first_args_hash(value)?);
            }
            _ => value.skip()?,
        }
    }
    let mut id = hasher.start();
    for part in &parts[..keys.len()] {
        match part {
            Some(IdPart::Text(text)) => id.text(text),
            Some(IdPart::Number(number)) => id.number(*number),
            Some(IdPart::Null) | None if is_optional => id.text(""),
            Some(IdPart::Null) | None => return None,
        }
    }
    let id = id.finish();
    let fingerprint = match kind {
        RecordKind::Turn => Some(hasher.fingerprint_of(&Fingerprinted {
            ts: ts?,
            model: model?,
            usage: usage?,
            first_args_hash: args_hash?,
        })),
        _ => None,
    };
    Some(LineIds { id, fingerprint })
}

/// input, output, cacheRead, cacheCreate5m, cacheCreate1h.
fn counts(walk: &mut Walk<'_>) -> Option<[f64; 5]> {
    let mut seen = 0;
    let mut counts = [0.0; 5];
    let mut members = walk.object()?;
    while let Some(key) = members.next()? {
        let place = match key {
            "input" => 0,
            "output" => 1,
            "cacheRead" => 2,
            "cacheCreate5m" => 3,
            "cacheCreate1h" => 4,
            _ => {
                members.value().skip()?;
                continue;
            }
        };
        once(&mut seen, place)?;
        counts[place as usize] = members.value().number()?;
    }
    (seen == 0b1_1111).then_some(counts)
}

fn first_args_hash<'a>(walk: &mut Walk<'a>) -> Option<&'a str> {
    let mut calls = walk.array()?;
    let mut hash = "";
    if !calls.next()? {
        return Some(hash);
    }
    let mut seen = 0;
    let mut members = calls.value().object()?;
    while let Some(key) = members.next()? {
        let value = members.value();
        if key != "argsHash" {
            value.skip()?;
            continue;
        }
        once(&mut seen, 0)?;
        if !value.null() {
            hash = value.str()?;
        }
    }
    while calls.next()? {
        calls.value().skip()?;
    }
    Some(hash)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::agreement::{BASES, Rng, mutate};

    /// Lines whose ids have parts that the rows do not have.
    const MORE: &[&str] = &[
        r#"{"v":1,"kind":"relationship","record":{"source":"c","sessionId":"s","relationshipType":"fork","relatedSessionId":"r","agentId":null,"parentToolUseId":"p","ts":"t"}}"#,
        r#"{"v":1,"kind":"relationship","record":{"source":"c","sessionId":"s","relationshipType":"root"}}"#,
        r#"{"v":1,"kind":"user_turn","record":{"source":"c","sessionId":"s","userUuid":"u","ts":"t","blocks":[{"kind":"text","byteLen":1,"approxTokens":1}]}}"#,
        r#"{"kind":"tool_result_event","record":{"source":"c","sessionId":7,"toolUseId":null,"eventIndex":1e21},"v":1}"#,
        r#"{"v":1,"kind":"turn","record":{"toolCalls":[{"argsHash":"ab\ud83d\ude00c","argsHash":"d"},{}],"usage":{"input":18446744073709551615,"output":9007199254740993,"cacheRead":-1,"cacheCreate5m":0,"cacheCreate1h":1},"model":"m","ts":"t","messageId":"m","sessionId":"s","source":"c"}}"#,
        r#"{"v":1,"kind":"turn","record":{"toolCalls":[{"argsHash":"ab\ud83d\ude00c"}],"usage":{"input":18446744073709551615,"output":-9223372036854775808,"cacheRead":9007199254740993,"cacheCreate5m":-0,"cacheCreate1h":-0},"model":"m","ts":"t","messageId":"m","sessionId":"s","source":"c"}}"#,
    ];

    /// Whether the fast path reads `line`; if so, the exact path must have the same result.
    fn is_taken(finder: &mut Finder, line: &[u8]) -> bool {
        let Some(fast) = finder.fast(line) else { return false };
        let exact = finder.exact(line);
        assert!(
            matches!(&exact, Ok(exact) if *exact == fast),
            "{}: {fast:?}, exactly {exact:?}",
            String::from_utf8_lossy(line)
        );
        true
    }

    #[test]
    fn what_the_fast_reader_answers_the_exact_parser_answers_alike() {
        let count: u64 = std::env::var("AGREEMENT_LINES").map_or(30_000, |count| count.parse().unwrap());
        let seed: u64 = std::env::var("AGREEMENT_SEED").map_or(1, |seed| seed.parse().unwrap());
        let bases: Vec<&str> = BASES.iter().chain(MORE).copied().collect();
        let mut random = Rng::of(seed);
        let mut finder = Finder::default();
        let mut taken = 0;
        for _ in 0..count {
            let mut line = bases[random.below(bases.len())].as_bytes().to_vec();
            for _ in 0..1 + random.below(3) {
                if !line.is_empty() {
                    mutate(&mut random, &mut line);
                }
            }
            taken += u64::from(is_taken(&mut finder, &line));
        }
        println!("{taken} of {count} lines taken by the fast reader");
        assert!(taken > count / 10 && taken < count * 9 / 10, "{taken} of {count}");
    }

    #[test]
    fn the_fast_reader_takes_usual_lines_and_agrees_on_odd_ones() {
        let mut finder = Finder::default();
        for base in
            BASES.iter().filter(|base| base.len() > 200).chain([&MORE[0], &MORE[1], &MORE[2], &MORE[5]])
        {
            assert!(is_taken(&mut finder, base.as_bytes()), "{base}");
        }
        // The odd lines of the reference, if the ledgers of their cases are present.
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder =
            std::env::var_os("BURN_GOLDEN").map_or_else(|| golden.join("../shared/golden"), Into::into);
        let Ok(text) = std::fs::read_to_string(folder.join("lines.jsonl")) else {
            eprintln!("no lines.jsonl in {}: nothing compared", folder.display());
            return;
        };
        let mut lines = 0;
        for case in text.lines() {
            let case: serde_json::Value =
                serde_json::from_str(&case.replace(": Infinity", ": null")).unwrap();
            let ledger = crate::scan::json::differential::base64(case["ledger_b64"].as_str().unwrap());
            for line in ledger.split(|byte| *byte == b'\n') {
                is_taken(&mut finder, line);
                lines += 1;
            }
        }
        assert!(lines > 100, "{lines}");
    }
}

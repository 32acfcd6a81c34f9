//! Finds ids and fingerprints of lines: with the tape for ordinary lines, with the exact parser for all others.
//!
//! Computes from bytes and touches nothing else. The two paths agree on every line that the first path reads. The first path
//! leaves every line that it does not fully understand to the second, so a refusal is never a verdict.

use simd_json::Node;

use super::id::{Fingerprinted, Hasher, Id, parts_of};
use super::tape::{Envelope, number_of};
use super::{ParsedLine, RecordKind, line_of};
use crate::scan::json::tape::{KEEP_LINE_BYTES, PADDING_BYTES, TapeParser, Walk, once};
use crate::scan::{self, json};

/// The index entries of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineIds {
    pub id: Id,
    pub fingerprint: Option<Id>,
}

/// Finds ids in a ledger; one per thread.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    tapes: TapeParser,
    padded: Vec<u8>,
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
        let Self { tapes, padded, hasher, .. } = self;
        padded.clear();
        padded.extend_from_slice(line);
        padded.resize(line.len() + PADDING_BYTES, 0);
        let found = tapes.parse(padded, |walk| self::line(walk, hasher));
        if padded.len() > KEEP_LINE_BYTES {
            *padded = Vec::new();
        }
        found
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

#[expect(clippy::option_option, reason = "as above")]
fn line(walk: Walk<'_, '_>, hasher: &mut Hasher) -> Option<Option<LineIds>> {
    match Envelope::read(walk)? {
        Envelope::Record(kind, record) => self::record(kind, record?, hasher).map(Some),
        Envelope::Stamp { .. } | Envelope::Unknown => Some(None),
    }
}

fn record(kind: RecordKind, mut walk: Walk<'_, '_>, hasher: &mut Hasher) -> Option<LineIds> {
    let (keys, is_optional) = parts_of(kind);
    let members = walk.object()?;
    let mut seen = 0;
    let mut parts = [None; 6];
    let (mut ts, mut model, mut usage, mut calls) = (None, None, None, None);
    for member in members {
        let (key, value) = member?;
        if let Some(place) = keys.iter().position(|part| *part == key) {
            once(&mut seen, place as u32)?;
            parts[place] = Some(value);
        } else if kind == RecordKind::Turn {
            let (bit, place) = match key {
                "ts" => (8, &mut ts),
                "model" => (9, &mut model),
                "usage" => (10, &mut usage),
                "toolCalls" => (11, &mut calls),
                _ => continue,
            };
            once(&mut seen, bit)?;
            *place = Some(value);
        }
    }
    let mut id = hasher.start();
    for value in &mut parts[..keys.len()] {
        match value {
            Some(value) if is_optional && value.is_null() => id.text(""),
            Some(value) => match value.next()? {
                Node::String(text) => id.text(text),
                node => id.number(number_of(node)?),
            },
            None if is_optional => id.text(""),
            None => return None,
        }
    }
    let id = id.finish();
    let fingerprint = match kind {
        RecordKind::Turn => Some(hasher.fingerprint_of(&Fingerprinted {
            ts: ts?.str()?,
            model: model?.str()?,
            usage: counts(usage?)?,
            first_args_hash: first_args_hash(calls?)?,
        })),
        _ => None,
    };
    Some(LineIds { id, fingerprint })
}

/// input, output, cacheRead, cacheCreate5m, cacheCreate1h.
fn counts(mut walk: Walk<'_, '_>) -> Option<[f64; 5]> {
    let members = walk.object()?;
    let mut seen = 0;
    let mut counts = [0.0; 5];
    for member in members {
        let (key, mut value) = member?;
        let place = match key {
            "input" => 0,
            "output" => 1,
            "cacheRead" => 2,
            "cacheCreate5m" => 3,
            "cacheCreate1h" => 4,
            _ => continue,
        };
        once(&mut seen, place)?;
        counts[place as usize] = value.number()?;
    }
    (seen == 0b1_1111).then_some(counts)
}

fn first_args_hash<'a>(mut calls: Walk<'_, 'a>) -> Option<&'a str> {
    if calls.array()? == 0 {
        return Some("");
    }
    let members = calls.object()?;
    let mut seen = 0;
    let mut hash = "";
    for member in members {
        let (key, mut value) = member?;
        if key == "argsHash" {
            once(&mut seen, 0)?;
            if !value.is_null() {
                hash = value.str()?;
            }
        }
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
    fn what_the_tape_answers_the_exact_parser_answers_alike() {
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
        println!("{taken} of {count} lines taken by the tape");
        assert!(taken > count / 10 && taken < count * 9 / 10, "{taken} of {count}");
    }

    #[test]
    fn the_tape_takes_usual_lines_and_agrees_on_odd_ones() {
        let mut finder = Finder::default();
        for base in
            BASES.iter().filter(|base| base.len() > 200).chain([&MORE[0], &MORE[1], &MORE[2], &MORE[5]])
        {
            assert!(is_taken(&mut finder, base.as_bytes()), "{base}");
        }
        let mut lines = 0;
        for (_, ledger) in crate::scan::json::differential::odd_lines() {
            for line in ledger.split(|byte| *byte == b'\n') {
                is_taken(&mut finder, line);
                lines += 1;
            }
        }
        assert!(lines > 100, "{lines}");
    }
}

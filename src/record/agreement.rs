//! Compares the two paths: the exact path reads every line that the fast path reads, with the same result, and a refusal of the
//! fast path leaves no trace. Lines are mutated by bytes, tokens, values and members.
//!
//! `AGREEMENT_LINES` sets how many lines are tried, `AGREEMENT_SEED` the random sequence.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use bumpalo::Bump;

use super::rows::*;
use super::*;
use crate::scan::json;

pub(crate) struct Rng(u64);
impl Rng {
    /// The `seed`th sequence.
    pub(crate) fn of(seed: u64) -> Self {
        Self(0x9E3779B97F4A7C15 ^ seed.wrapping_mul(0xD1B54A32D192ED03))
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }
}
pub(crate) const BASES: &[&str] = &[
    r#"{"v":1,"kind":"turn","record":{"source":"claude","sessionId":"s1","messageId":"m1","turnIndex":3,"ts":"2026-01-01T00:00:00.000Z","model":"x","project":"p","projectKey":null,"filesTouched":["a"],"activity":"a","stopReason":"end","hasEdits":true,"retries":2,"subagent":{"isSidechain":true,"agentId":"a","parentAgentId":null,"parentToolUseId":"t","subagentType":"q","description":"d\n"},"usage":{"input":1,"output":2,"reasoning":0,"cacheRead":-0,"cacheCreate5m":9223372036854775807,"cacheCreate1h":5},"toolCalls":[{"id":"i","name":"Bash","target":"x","argsHash":"h","isError":null,"replacedTools":["a","b\"\u0007"],"collapsedCalls":3},{"name":"N"}],"fidelity":{"granularity":"per-turn","class":"full","coverage":{"hasInputTokens":true,"hasOutputTokens":false,"hasReasoningTokens":false,"x":1}}}}"#,
    r#"{"v":1,"kind":"turn","record":{"source":"c","sessionId":"s","messageId":"m","turnIndex":0,"ts":"t","model":"x","usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":5},"toolCalls":[]}}"#,
    r#"{"v":1,"kind":"tool_result_event","record":{"source":"c","sessionId":"s","messageId":"m","toolUseId":"t","callIndex":1,"eventIndex":0,"status":"ok","contentLength":12,"contentHash":"h","isError":false,"subagentSessionId":"q","agentId":"a","eventSource":"e","ts":"t","replacedTools":[]}}"#,
    r#"{"v":1,"kind":"compaction","record":{"source":"c","sessionId":"s","ts":"t","precedingMessageId":"m","tokensBeforeCompact":100}}"#,
    r#"{"v":1,"kind":"stamp","ts":"t","selector":{"sessionId":"s","messageId":"m","range":{"fromTs":"a","toTs":"","fromMessageId":"x","toMessageId":"y"}},"enrichment":{"workflowId":"w","k":"v\u0000","é":"\ud83d\ude00"}}"#,
    r#"{"v":1,"kind":"stamp","ts":"t","selector":{"range":{}},"enrichment":{}}"#,
    r#"{"v":1,"kind":"stamp","ts":"t","selector":{},"enrichment":{"a":"b","c":"d"}}"#,
    r#"{"v":1,"kind":"relationship","record":{}}"#,
    r#"{"v":2,"kind":"turn"}"#,
];
/// Values, and texts that only look like values.
const VALUES: &str = r#"
null true false 0 -0 1 1.0 1e1 -1 1e999 01 - 1. 1.e1 .5 +1 0.0 -0.0 1E+2 1e-400 00 0x1 NaN 1_0 -00 0e0
18446744073709551615 18446744073709551616 9223372036854775808 -9223372036854775808 -9223372036854775809
123456789012345678901234567890 4294967296 100000000000000000000
"" "a" "\u0000" "\ud800" "\ud83d\ude00" "\udc00\ud800" "\/" "\x" "\u00" "\u0041" "\b\f\n\r\t\"\\" "cost-only" "full" "\u2028"
[] {} [1] {"a":1} ["a","b"] [[[[[]]]]] {"a":{"a":{}}} [1,] {,} {"a":1,} [,1] [null] ["a",1] [{}]
[{"name":"z"}] [{"name":"z","name":"y"}]
"#;
const MEMBERS: &str = r#"
"v":1 "v":2 "kind":"turn" "kind":"stamp" "kind":1 "ts":"z" "sessionId":"z" "session\u0049d":"z" "k\u0069nd":"compaction"
"__proto__":{} "__proto__":"x" "1":"x" "01":"x" "4294967295":"x" "4294967294":"x" "":"x" "-1":"x"
"record":{} "record":null "usage":{} "hasEdits":1 "hasEdits":null "isSidechain":"" "subagent":null "fidelity":null
"range":null "range":{} "fromTs":null "fromTs":"" "unknown":[1,{"a":[]}] "class":"x" "coverage":{} "k":"dup"
"messageId":null "messageId":"" "toolCalls":null "collapsedCalls":0 "collapsedCalls":1.5 "replacedTools":null
"#;
const ODD_TEXT: &str = "\"\u{7f}\u{80}é漢😀\"";
const MARKS: &[&str] = &[
    "\"\t\"", "\"\0\"", ",", " ", "\t", "\r", "\n", "\u{b}", "\u{c}", "\u{a0}", "\u{feff}", "\u{2028}", "\0",
    "}", "{", "]", "[", ":", "\"", "\\",
];
/// The texts that mutations put into a line: all, those that are JSON, and members.
struct Snips {
    all: Vec<&'static str>,
    values: Vec<&'static str>,
    members: Vec<&'static str>,
}
static SNIPS: LazyLock<Snips> = LazyLock::new(|| {
    let members: Vec<&str> = MEMBERS.split_whitespace().collect();
    let marks = MARKS.iter().copied().chain([ODD_TEXT]);
    let all: Vec<&str> = VALUES.split_whitespace().chain(marks).chain(members.clone()).collect();
    let is_json = |text: &&str| json::Document::default().parse(text.as_bytes()).is_ok();
    Snips { values: all.iter().copied().filter(is_json).collect(), all, members }
});
fn tokens(line: &[u8]) -> Vec<(usize, usize)> {
    let mut out = vec![];
    let mut i = 0;
    while i < line.len() {
        let s = i;
        match line[i] {
            b'"' => {
                i += 1;
                while i < line.len() && line[i] != b'"' {
                    if line[i] == b'\\' {
                        i += 1
                    }
                    i += 1
                }
                i = (i + 1).min(line.len());
            }
            c if c.is_ascii_alphanumeric() || c == b'-' => {
                while i < line.len() && (line[i].is_ascii_alphanumeric() || b"-+.".contains(&line[i])) {
                    i += 1
                }
            }
            _ => i += 1,
        }
        out.push((s, i));
    }
    out
}
fn value_span(line: &[u8], toks: &[(usize, usize)], at: usize) -> usize {
    let mut d = 0i32;
    let mut j = at;
    while j < toks.len() {
        match line[toks[j].0] {
            b'{' | b'[' => d += 1,
            b'}' | b']' => d -= 1,
            _ => {}
        }
        if d <= 0 {
            break;
        }
        j += 1;
    }
    (j + 1).min(toks.len())
}
/// Changes a line somewhere, usually so that the line stays JSON.
pub(crate) fn mutate(r: &mut Rng, line: &mut Vec<u8>) {
    let toks = tokens(line);
    if toks.is_empty() {
        return;
    }
    let Snips { all, values, members } = &*SNIPS;
    match [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7, 7, 7, 9, 9, 9, 9, 9, 9, 10, 10, 10, 10, 11][r.below(26)] {
        0 => {
            let i = r.below(line.len());
            line[i] = r.next() as u8;
        }
        1 => {
            let i = r.below(line.len());
            line[i] ^= 1 << r.below(8);
        }
        2 => {
            let i = r.below(line.len());
            line.remove(i);
        }
        3 => {
            let i = r.below(line.len() + 1);
            line.insert(i, r.next() as u8);
        }
        4 => {
            let i = r.below(line.len());
            line.truncate(i);
        }
        5 => {
            let i = r.below(line.len() + 1);
            let s = all[r.below(all.len())];
            line.splice(i..i, s.bytes());
        }
        6 => {
            let (a, b) = toks[r.below(toks.len())];
            let s = all[r.below(all.len())];
            line.splice(a..b, s.bytes());
        }
        7 | 8 => {
            // replace a value
            let c: Vec<usize> =
                (0..toks.len()).filter(|&t| t > 0 && b":[,".contains(&line[toks[t - 1].0])).collect();
            if c.is_empty() {
                return;
            }
            let t = c[r.below(c.len())];
            let e = value_span(line, &toks, t);
            let s = values[r.below(values.len())];
            line.splice(toks[t].0..toks[e - 1].1, s.bytes());
        }
        9 => {
            // insert a member
            let c: Vec<usize> = (0..toks.len()).filter(|&t| b"{,".contains(&line[toks[t].0])).collect();
            if c.is_empty() {
                return;
            }
            let p = toks[c[r.below(c.len())]].1;
            let s = if r.below(2) == 0 {
                format!("{},", members[r.below(members.len())])
            } else {
                let m = members[r.below(members.len())];
                let k = &m[..m[1..].find('"').unwrap() + 2];
                format!("{}:{},", k, values[r.below(values.len())])
            };
            line.splice(p..p, s.bytes());
        }
        10 => {
            // duplicate a member
            let c: Vec<usize> =
                (0..toks.len()).filter(|&t| line[toks[t].0] == b':' && t > 0 && t + 1 < toks.len()).collect();
            if c.is_empty() {
                return;
            }
            let t = c[r.below(c.len())];
            let e = value_span(line, &toks, t + 1);
            let mut m = line[toks[t - 1].0..toks[e - 1].1].to_vec();
            m.push(b',');
            let p = if r.below(2) == 0 {
                toks[t - 1].0
            } else {
                let d: Vec<usize> = (0..toks.len()).filter(|&t| line[toks[t].0] == b'{').collect();
                if d.is_empty() {
                    return;
                }
                toks[d[r.below(d.len())]].1
            };
            line.splice(p..p, m);
        }
        _ => {
            // swap two tokens / rename key
            let a = toks[r.below(toks.len())];
            let b = toks[r.below(toks.len())];
            let s = line[b.0..b.1].to_vec();
            line.splice(a.0..a.1, s);
        }
    }
}
fn show(rows: &Rows<'_>) -> String {
    // Every field is named, because then the compiler asks for the rows of a new kind.
    let Rows {
        turns,
        calls,
        events,
        compactions,
        stamps,
        unarchived: _,
        findings: _,
        unknown_lines: _,
        other_lines: _,
        exact_lines: _,
        len_bytes: _,
    } = rows;
    let st: Vec<String> = stamps
        .iter()
        .map(|s| {
            format!(
                "{:?} {:?} {:?} {} {:?}",
                s.cells, s.stamp.selector, s.stamp.ts, s.stamp.offset, s.stamp.entries
            )
        })
        .collect();
    format!("{:?}|{:?}|{:?}|{:?}|{:?}", turns, calls, events, compactions, st)
}
#[test]
fn what_the_fast_path_answers_the_exact_path_answers_alike() {
    let n: u64 = std::env::var("AGREEMENT_LINES").map_or(30_000, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("AGREEMENT_SEED").map_or(1, |n| n.parse().unwrap());
    let mut r = Rng::of(seed);
    let mut tapes = json::tape::TapeParser::default();
    let mut doc = json::Document::default();
    let (mut taken, mut diff, mut parsed) = (0u64, 0, 0u64);
    let mut kinds = [0u64; 6];
    let (mut b1, mut b2) = (Bump::new(), Bump::new());
    for i in 0..n {
        let mut line = BASES[r.below(BASES.len())].as_bytes().to_vec();
        for _ in 0..[1, 1, 1, 2, 2, 3][r.below(6)] {
            mutate(&mut r, &mut line);
            if line.is_empty() {
                break;
            }
        }
        b1.reset();
        b2.reset();
        let mut fr = Rows::default();
        let Some(k) = tape::parse(&mut tapes, 7, &line, &b1, &mut fr) else {
            assert!(
                show(&fr) == "[]|[]|[]|[]|[]",
                "rows left by a refusal: {}",
                String::from_utf8_lossy(&line)
            );
            continue;
        };
        taken += 1;
        kinds[k as usize] += 1;
        let t = json::trim_js(&line);
        let mut er = Rows::default();
        let e = exact::parse(&mut doc, 7, t, &b2, &mut er);
        if e.is_ok() {
            parsed += 1
        }
        let same = matches!(&e, Ok(ek) if *ek == k) && show(&fr) == show(&er);
        if !same {
            diff += 1;
            if diff < 20 {
                println!(
                    "DIFF {i}: {:?}\n fast {k:?} {}\n exact {:?} {}",
                    String::from_utf8_lossy(&line),
                    show(&fr),
                    e.map_err(|e| e.reason),
                    show(&er)
                );
            }
        }
    }
    println!("n {n} fast took {taken} exact ok {parsed} diffs {diff} kinds {kinds:?}");
    assert_eq!(diff, 0);
}

//! Generated ledgers, and functions over the lines of any ledger.

use relayburn_ledger::dev::{GenerateOptions, GeneratedSummary, Profile, generate};

/// Returns a generated ledger, in memory.
pub fn generated(profile: Profile, size_bytes: u64, seed: u64) -> (Vec<u8>, GeneratedSummary) {
    let mut ledger = Vec::new();
    let summary = generate(&GenerateOptions { size_bytes, seed, profile }, &mut ledger, |_| {}).unwrap();
    (ledger, summary)
}

/// Returns the complete lines of a ledger with their offsets, without the LF.
pub fn lines(ledger: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut offset = 0;
    ledger[..last_line_end(ledger)].split_inclusive(|byte| *byte == b'\n').map(move |line| {
        let start = offset;
        offset += line.len() as u64;
        (start, &line[..line.len() - 1])
    })
}

/// Returns the offset of the unfinished line, after the last LF.
pub fn last_line_end(ledger: &[u8]) -> usize {
    ledger.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

/// Returns whether a line has only characters that JavaScript's `trim` removes.
pub fn is_blank(line: &[u8]) -> bool {
    String::from_utf8_lossy(line).chars().all(|c| c == '\u{feff}' || (c != '\u{85}' && c.is_whitespace()))
}

/// Returns a turn line.
pub fn turn(session: &str, message: &str, ts: &str) -> String {
    turn_with(session, message, ts, "")
}

/// Returns a turn line with more members in its record: `,"name":value…`.
pub fn turn_with(session: &str, message: &str, ts: &str, more: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"v":1,"source":"codex","sessionId":"{session}","messageId":"{message}","turnIndex":0,"ts":"{ts}","model":"m","usage":{{"input":1,"output":2,"reasoning":3,"cacheRead":4,"cacheCreate5m":5,"cacheCreate1h":6}},"toolCalls":[]{more}}}}}"#
    ) + "\n"
}

/// Returns a stamp line; selector and enrichment are JSON.
pub fn stamp(ts: &str, selector: &str, enrichment: &str) -> String {
    format!(r#"{{"v":1,"kind":"stamp","ts":"{ts}","selector":{selector},"enrichment":{enrichment}}}"#) + "\n"
}

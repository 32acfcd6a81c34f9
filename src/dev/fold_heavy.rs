//! Turns under very many message and range stamps: the workload in which folding stamps turn by turn takes time in proportion
//! to turns x stamps. Every line depends only on the seed and the line's number, so the turns are the same with and without
//! stamps, and the stamps are the same wherever they are in the file.

use std::io::{self, Write};

use super::rng::mix;
use super::text::{START_MS, hex16, push, push_number, push_timestamp};

/// Milliseconds from a turn to the next.
const TURN_EVERY_MS: u64 = 1_000;
/// Turns of one session; sessions follow each other.
const TURNS_PER_SESSION: u64 = 60;
/// The enrichment keys: the four that have columns, two that JavaScript sorts as array indices, fourteen others.
const KEYS: [&str; 20] = [
    "workflowId",
    "agentId",
    "persona",
    "tier",
    "12",
    "7",
    "branch",
    "ticket",
    "team",
    "phase",
    "release",
    "region",
    "customer",
    "experiment",
    "reviewer",
    "goal",
    "queue",
    "origin",
    "budget",
    "mood",
];

/// A ledger of numbered turns and stamps. The default is 200 000 turns, 50 000 message stamps and 2 000 range
/// stamps with each turn inside 500 of the ranges: about 76 MB of turns and 11 MB of stamps.
///
/// Each stamp has 3 to 6 of 20 keys. The stamps' times are unrelated to their place in the file and to the turns, so the order
/// in the fold differs from the order of reading. All arrangements fold to the same turns, because the stamps keep their own
/// order in each:
///
/// - interleaved: [`FoldHeavy::write_interleaved`];
/// - all at the end: [`FoldHeavy::write_turns`], then [`FoldHeavy::write_stamps`] to the same sink;
/// - in a second file, or none: each of the two to a sink of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldHeavy {
    /// Determines ids, values and times.
    pub seed: u64,
    /// Turns, each written once.
    pub turns: u64,
    /// Stamps on the message id of one turn each, chosen at random.
    pub message_stamps: u64,
    /// Stamps on a range of time, without a session; their starts are evenly spaced.
    pub range_stamps: u64,
    /// How many ranges each turn is in, to within 1; must be below `range_stamps`, or every range covers all turns.
    pub ranges_per_turn: u64,
}

impl Default for FoldHeavy {
    fn default() -> Self {
        Self { seed: 0, turns: 200_000, message_stamps: 50_000, range_stamps: 2_000, ranges_per_turn: 500 }
    }
}

impl FoldHeavy {
    /// Writes the turns without stamps.
    ///
    /// # Errors
    ///
    /// Those of `out`. The two other functions have the same errors.
    pub fn write_turns(&self, out: &mut impl Write) -> io::Result<()> {
        write_each(self.turns, out, |line, number| self.push_turn(line, number))
    }

    /// Writes the stamps without turns.
    pub fn write_stamps(&self, out: &mut impl Write) -> io::Result<()> {
        write_each(self.stamps(), out, |line, number| self.push_stamp(line, number))
    }

    /// Writes turns and stamps, with the stamps evenly spread among the turns.
    pub fn write_interleaved(&self, out: &mut impl Write) -> io::Result<()> {
        write_each(self.turns, out, |lines, number| {
            self.push_turn(lines, number);
            let [from, to] = [number, number + 1].map(|number| share(self.stamps(), number, self.turns));
            (from..to).for_each(|number| self.push_stamp(lines, number));
        })
    }

    fn stamps(&self) -> u64 {
        self.message_stamps + self.range_stamps
    }

    /// A random word for each use and number.
    fn word(&self, purpose: u64, number: u64) -> u64 {
        mix(mix(self.seed ^ mix(purpose)).wrapping_add(number))
    }

    fn turn_ms(&self, number: u64) -> u64 {
        START_MS + number * TURN_EVERY_MS
    }

    fn push_message_id(&self, out: &mut Vec<u8>, turn: u64) {
        push!(out, "msg_", hex16(self.word(0, turn)));
    }

    fn push_turn(&self, out: &mut Vec<u8>, number: u64) {
        let session = hex16(self.word(1, number / TURNS_PER_SESSION));
        let usage = self.word(2, number);
        push!(
            out,
            r#"{"v":1,"kind":"turn","record":{"v":1,"source":"claude-code","sessionId":"fold-"#,
            session
        );
        push!(out, r#"","messageId":""#);
        self.push_message_id(out, number);
        push!(out, r#"","turnIndex":"#);
        push_number(out, number % TURNS_PER_SESSION);
        push!(out, r#","ts":""#);
        push_timestamp(out, self.turn_ms(number));
        push!(out, r#"","model":"claude-sonnet-4-6","usage":{"input":"#);
        push_number(out, usage % 4_000);
        push!(out, r#","output":"#);
        push_number(out, (usage >> 16) % 3_000);
        push!(out, r#","reasoning":0,"cacheRead":"#);
        push_number(out, (usage >> 32) % 150_000);
        push!(
            out,
            r#","cacheCreate5m":0,"cacheCreate1h":0},"toolCalls":[],"project":"/home/dev/fold"}}"#,
            "\n"
        );
    }

    fn push_stamp(&self, out: &mut Vec<u8>, number: u64) {
        let span_ms = self.turns.max(1) * TURN_EVERY_MS;
        push!(out, r#"{"v":1,"kind":"stamp","ts":""#);
        push_timestamp(out, START_MS + self.word(3, number) % span_ms);
        let ranges_before = share(self.range_stamps, number, self.stamps());
        if ranges_before < share(self.range_stamps, number + 1, self.stamps()) {
            let (from_ms, to_ms) = self.range_ms(ranges_before);
            push!(out, r#"","selector":{"range":{"fromTs":""#);
            push_timestamp(out, from_ms);
            push!(out, r#"","toTs":""#);
            push_timestamp(out, to_ms);
            push!(out, r#""}},"enrichment":{"#);
        } else {
            push!(out, r#"","selector":{"messageId":""#);
            self.push_message_id(out, self.word(4, number) % self.turns.max(1));
            push!(out, r#""},"enrichment":{"#);
        }
        let choice = self.word(5, number);
        // Steps of 3, 7, 9, 11 reach all 20 places, so the keys of a stamp are distinct.
        let step = [3, 7, 9, 11][(choice >> 8) as usize % 4];
        let key_count = 3 + (choice >> 16) % 4;
        for i in 0..key_count {
            let key = KEYS[((choice % 20 + i * step) % 20) as usize];
            push!(out, if i == 0 { "\"" } else { ",\"" }, key, r#"":"value-"#);
            push_number(out, (choice >> 32) % 1_000 + i);
            out.push(b'"');
        }
        push!(out, "}}\n");
    }

    /// The first and last instant of a range. With starts `d` apart, ranges of `ranges_per_turn` times `d` cover each turn that
    /// many times; the first ranges start before the first turn and the last ranges end after the last turn.
    fn range_ms(&self, range: u64) -> (u64, u64) {
        let turns_ms = self.turns * TURN_EVERY_MS;
        let outside = self.range_stamps.saturating_sub(self.ranges_per_turn);
        if outside == 0 {
            return (START_MS, START_MS + turns_ms);
        }
        let to_ms = START_MS + turns_ms * (range + 1) / outside;
        (to_ms.saturating_sub(turns_ms * self.ranges_per_turn / outside), to_ms)
    }
}

/// Writes what `push` appends for each number below `count`.
fn write_each(count: u64, out: &mut impl Write, push: impl Fn(&mut Vec<u8>, u64)) -> io::Result<()> {
    let mut lines = Vec::new();
    for number in 0..count {
        push(&mut lines, number);
        out.write_all(&lines)?;
        lines.clear();
    }
    out.flush()
}

/// How many of `total` evenly spread items come before step `step` of `steps`.
fn share(total: u64, step: u64, steps: u64) -> u64 {
    if steps == 0 { 0 } else { (u128::from(total) * u128::from(step) / u128::from(steps)) as u64 }
}

//! Stamps of one time: which of them contradict each other, so that their order matters.
//!
//! Computes from parsed lines. An example of four stamps with one `ts`:
//!
//! 1. session s1, tier gold
//! 2. session s1, tier silver, persona a
//! 3. session s2, tier iron
//! 4. session s2, tier iron, persona b
//!
//! 1 and 2 give the turns of s1 two tiers, so they are contested, and whichever is folded last counts. 3 and 4 agree about
//! the tier, and the personas are of different sessions. Guarantee: two stamps that are not of one set give the same
//! enrichment in either order, apart from the order of its keys.

use std::collections::HashMap;

use super::keys::{short_hash, text_of};
use crate::scan::json::{Kind, Value, stringify};

/// What a stamp assigns, and to which turns.
#[derive(Debug, Clone, Default)]
pub(super) struct StampFacts {
    session: Option<u64>,
    message: Option<u64>,
    /// Hashes of key and value.
    entries: Vec<(u64, u64)>,
}

impl StampFacts {
    pub(super) fn of(stamp: Value<'_>) -> Self {
        let selector = stamp.get("selector");
        let hash_of = |key| text_of(selector.and_then(|selector| selector.get(key))).map(short_hash);
        let enrichment = stamp.get("enrichment").filter(|value| value.kind() == Kind::Object);
        let mut text = Vec::new();
        let mut entry = |(key, value): (crate::scan::json::JsStr<'_>, Value<'_>)| {
            text.clear();
            stringify(value, &mut text);
            (short_hash(key.as_wtf8()), short_hash(&text))
        };
        Self {
            session: hash_of("sessionId"),
            message: hash_of("messageId"),
            entries: enrichment.into_iter().flat_map(Value::members).map(&mut entry).collect(),
        }
    }
}

/// Returns a number for each stamp: stamps whose order matters, directly or through others, have the same number.
pub(super) fn contested_sets(stamps: &[StampFacts]) -> Vec<usize> {
    let mut sets = DisjointSets((0..stamps.len()).collect());
    let mut of_key: HashMap<u64, Vec<AssignedKey>> = HashMap::new();
    for (stamp, facts) in stamps.iter().enumerate() {
        for (key, value) in &facts.entries {
            let selector = [facts.session, facts.message];
            of_key.entry(*key).or_default().push(AssignedKey { stamp, value: *value, selector });
        }
    }
    for assigned in of_key.into_values() {
        join_contested(&assigned, 0, &mut sets);
    }
    (0..stamps.len()).map(|stamp| sets.root(stamp)).collect()
}

/// A stamp that assigns a key.
#[derive(Debug, Clone, Copy)]
struct AssignedKey {
    stamp: usize,
    value: u64,
    /// Session and message.
    selector: [Option<u64>; 2],
}

/// Joins stamps that assign one key different values and may match one turn. Stamps that name different sessions, or
/// different messages of a session, match no common turn; `level` is the member of the selector to look at. Ranges of time
/// are taken to overlap.
fn join_contested(assigned: &[AssignedKey], level: usize, sets: &mut DisjointSets) {
    let [first, others @ ..] = assigned else { return };
    if others.iter().all(|other| other.value == first.value) {
        return;
    }
    let named: Option<Vec<u64>> =
        assigned.iter().map(|one| one.selector.get(level).copied().flatten()).collect();
    match named {
        None => others.iter().for_each(|other| sets.join(first.stamp, other.stamp)),
        Some(named) => {
            let mut of_name: HashMap<u64, Vec<AssignedKey>> = HashMap::new();
            for (name, one) in named.into_iter().zip(assigned) {
                of_name.entry(name).or_default().push(*one);
            }
            of_name.into_values().for_each(|assigned| join_contested(&assigned, level + 1, sets));
        }
    }
}

/// Each number leads to a smaller one of its set, or to itself.
struct DisjointSets(Vec<usize>);

impl DisjointSets {
    fn root(&mut self, mut number: usize) -> usize {
        while self.0[number] != number {
            self.0[number] = self.0[self.0[number]];
            number = self.0[number];
        }
        number
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    fn sets_of(stamps: &[(&str, &str)]) -> Vec<usize> {
        let facts = |(selector, enrichment): &(&str, &str)| {
            let line = format!(r#"{{"selector":{{{selector}}},"enrichment":{{{enrichment}}}}}"#);
            StampFacts::of(Document::default().parse(line.as_bytes()).unwrap())
        };
        contested_sets(&stamps.iter().map(facts).collect::<Vec<_>>())
    }

    #[test]
    fn stamps_are_contested_when_they_give_a_turn_two_values_of_one_key() {
        let [s1, s2] = [r#""sessionId":"s1""#, r#""sessionId":"s2""#];
        let gold = r#""tier":"gold""#;
        assert_eq!(
            sets_of(&[
                (s1, gold),
                (s1, r#""tier":"silver","persona":"a""#),
                (s2, gold),
                (s2, r#""persona":"b""#)
            ]),
            [0, 0, 2, 3]
        );
        // A range may hold turns of every session.
        let range = r#""range":{"fromTs":"2026"}"#;
        assert_eq!(sets_of(&[(s1, gold), (s2, gold), (range, r#""tier":"silver""#)]), [0, 0, 0]);
        let message = |m: u32| format!(r#"{s1},"messageId":"{m}""#);
        let (one, two) = (message(1), message(2));
        assert_eq!(sets_of(&[(&one, gold), (&two, r#""tier":"silver""#), (&one, gold)]), [0, 1, 2]);
        assert_eq!(sets_of(&[(&one, gold), (&two, r#""tier":"silver""#), (s1, gold)]), [0, 0, 0]);
        // Through a second key.
        assert_eq!(sets_of(&[(s1, gold), (s1, r#""tier":"x","p":"1""#), (s1, r#""p":"2""#)]), [0, 0, 0]);
    }
}

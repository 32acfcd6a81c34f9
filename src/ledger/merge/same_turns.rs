//! Decides which of the turns with one fingerprint are the same turn.
//!
//! Computes from numbers. Two turns of one ledger are two turns, because the program that wrote the ledger has compared them
//! already. An example: ledger 1 has the turns A and B, ledger 2 has C and D, all four with one fingerprint. A and B are kept.
//! C is taken for A, and D is taken for B and not for A, because C and D are two turns. So the merge keeps as many turns as
//! the ledger with the most.
//!
//! Guarantee: the answer depends on the order in which the turns are given and on which ledgers have them, and not on the
//! order of the ledgers. Turns that were kept once are kept again when the target has them, because the turns of the target
//! are given first and each of them is kept.

use std::collections::{HashMap, HashSet};

use super::keys::TARGET;

/// The turns that are kept, of those with one fingerprint.
#[derive(Default)]
pub(super) struct SameTurns<T> {
    kept: Vec<T>,
    /// Ledgers, each with the place in `kept` of a turn that one of its turns is or is taken for.
    taken: HashSet<(u32, usize)>,
    /// The least place that may be free of a ledger. Without it, many turns of one ledger would take the square of their number.
    first_free: HashMap<u32, usize>,
}

impl<T: Copy> SameTurns<T> {
    /// Adds a turn that `ledgers` have. Returns the kept turn that this turn is taken for; `None` when this turn is kept.
    pub(super) fn add(&mut self, turn: T, ledgers: &[u32]) -> Option<T> {
        let mut place = match ledgers.contains(&TARGET) {
            true => self.kept.len(),
            false => {
                ledgers.iter().filter_map(|ledger| self.first_free.get(ledger).copied()).max().unwrap_or(0)
            }
        };
        while ledgers.iter().any(|ledger| self.taken.contains(&(*ledger, place))) {
            place += 1;
        }
        for ledger in ledgers {
            self.taken.insert((*ledger, place));
            let free = self.first_free.entry(*ledger).or_insert(0);
            while self.taken.contains(&(*ledger, *free)) {
                *free += 1;
            }
        }
        let same = self.kept.get(place).copied();
        if same.is_none() {
            self.kept.push(turn);
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_of_one_ledger_stay_apart_and_those_of_two_are_paired() {
        let mut turns = SameTurns::default();
        assert_eq!(turns.add("a", &[1]), None);
        assert_eq!(turns.add("b", &[1]), None);
        assert_eq!(turns.add("c", &[2]), Some("a"));
        assert_eq!(turns.add("d", &[2, 3]), Some("b"));
        assert_eq!(turns.add("e", &[3]), Some("a"));
        assert_eq!(turns.add("f", &[1, 3]), None);
        assert_eq!(turns.add("g", &[2]), Some("f"));
    }

    #[test]
    fn what_was_kept_is_kept_again_in_the_target() {
        // First c is taken for a, and d is kept.
        let mut turns = SameTurns::default();
        assert_eq!(
            [("a", 1), ("c", 2), ("d", 2)].map(|(turn, ledger)| turns.add(turn, &[ledger])),
            [None, Some("a"), None]
        );
        let mut turns = SameTurns::default();
        assert_eq!(turns.add("a", &[1, TARGET]), None);
        assert_eq!(turns.add("d", &[2, TARGET]), None);
        assert_eq!(turns.add("c", &[2]), Some("a"));
    }

    #[test]
    fn many_turns_of_two_ledgers_are_paired() {
        let mut turns = SameTurns::default();
        for turn in 0..20_000 {
            assert_eq!(turns.add(turn, &[1]), None);
        }
        for turn in 0..20_000 {
            assert_eq!(turns.add(turn, &[2]), Some(turn));
        }
    }
}

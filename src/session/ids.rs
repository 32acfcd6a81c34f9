//! Rows found by the hash of their id: an open-addressed table that knows rows by number and leaves comparing ids to its owner.
//!
//! This file touches nothing but memory. A row costs 8 bytes of table, at most twice that after the table grew; with 32 bits
//! of the hash beside each row other rows are hardly ever asked for.

use std::hint::black_box;

/// A row for a slot to have; [`u32::MAX`] is none.
type Row = u32;

/// Rows by the hash of their id. Of rows with one id it holds the newest.
#[derive(Debug, Clone, Default)]
pub(super) struct IdTable {
    /// Upper half: the upper half of the hash. Lower half: row and 1, so that 0 is an empty slot. A power of two of them.
    slots: Vec<u64>,
    len: usize,
}

const fn slot_of(hash: u64, row: Row) -> u64 {
    (hash >> 32) << 32 | (row as u64 + 1)
}

const fn row_of(slot: u64) -> Row {
    (slot as u32).wrapping_sub(1)
}

impl IdTable {
    /// Where the search for a hash starts: at its upper bits, of which every slot has a copy.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// The slot of the row with this hash for which `is_it` holds, or the empty one where it would stand.
    fn seek(&self, hash: u64, mut is_it: impl FnMut(Row) -> bool) -> usize {
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == 0 || (slot >> 32 == hash >> 32 && is_it(row_of(slot))) {
                return at;
            }
            at = self.after(at);
        }
    }

    /// The row with this hash for which `is_it` holds.
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(Row) -> bool) -> Option<Row> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slots[self.seek(hash, is_it)];
        (slot != 0).then(|| row_of(slot))
    }

    /// As [`IdTable::reserve`], where memory allows.
    pub(super) fn try_reserve(&mut self, more: usize) {
        if Vec::<u64>::new().try_reserve(Self::slots_for(self.len + more)).is_ok() {
            self.reserve(more);
        }
    }

    /// The size of a table for so many rows: at most three quarters full, so one more for every three.
    fn slots_for(rows: usize) -> usize {
        (rows + rows / 3 + 1).next_power_of_two().max(8)
    }

    /// Room for `more` rows.
    pub(super) fn reserve(&mut self, more: usize) {
        let needed = Self::slots_for(self.len + more);
        if needed <= self.slots.len() {
            return;
        }
        let slots = vec![0; needed];
        let old = std::mem::replace(&mut self.slots, slots);
        for slot in old.into_iter().filter(|slot| *slot != 0) {
            let at = self.seek(slot, |_| false);
            self.slots[at] = slot;
        }
    }

    /// Looks at the places of many hashes at once, before they are put in one by one: the table is larger than the processor's
    /// caches, and one look would wait for the memory longer than everything else about a row takes.
    pub(super) fn look_ahead(&self, hashes: impl Iterator<Item = u64>) {
        if !self.slots.is_empty() {
            black_box(hashes.fold(0, |seen, hash| seen ^ self.slots[self.home(hash)]));
        }
    }

    /// Puts a row in; answers the one of the same id whose place it takes.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        row: Row,
        has_same_id: impl FnMut(Row) -> bool,
    ) -> Option<Row> {
        self.reserve(1);
        let at = self.seek(hash, has_same_id);
        let old = std::mem::replace(&mut self.slots[at], slot_of(hash, row));
        if old == 0 {
            self.len += 1;
            return None;
        }
        Some(row_of(old))
    }

    /// Takes a row out, and puts the one of the same id back whose place it took.
    pub(super) fn remove(&mut self, hash: u64, row: Row, before: Option<Row>) {
        let mut at = self.seek(hash, |found| found == row);
        if let Some(before) = before {
            self.slots[at] = slot_of(hash, before);
            return;
        }
        self.len -= 1;
        self.slots[at] = 0;
        // Rows behind the hole that were displaced over it move up, or no search would find them.
        let mask = self.slots.len() - 1;
        let mut next = self.after(at);
        while self.slots[next] != 0 {
            let home = self.home(self.slots[next]);
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(at) & mask {
                self.slots[at] = std::mem::take(&mut self.slots[next]);
                at = next;
            }
            next = self.after(next);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_found_as_in_a_list(
            // Few hashes, at both ends of the table and between: long searches, around the end too.
            ids in proptest::collection::vec((prop_oneof![Just(0u64), Just(u64::MAX), Just(1 << 63), Just(3 << 62), any::<u64>()], 0u8..3), 1..60),
            kept in 0usize..60,
        ) {
            let mut table = IdTable::default();
            let mut before = Vec::new();
            for (row, id) in ids.iter().enumerate() {
                before.push(table.insert(id.0, row as Row, |other| ids[other as usize] == *id));
                prop_assert_eq!(before[row].map(|row| row as usize), ids[..row].iter().rposition(|other| other == id));
            }
            for row in (kept..ids.len()).rev() {
                table.remove(ids[row].0, row as Row, before[row]);
            }
            let kept = &ids[..kept.min(ids.len())];
            for id in &ids {
                let found = table.find(id.0, |row| ids[row as usize] == *id);
                prop_assert_eq!(found.map(|row| row as usize), kept.iter().rposition(|other| other == id));
            }
        }
    }
}

//! What becomes of the rows of a table: which went, and which stand at another's place. Pure memory.

use std::collections::HashMap;

use super::schema::Duplicates;

/// The fates of one table's rows, which are counted from 0 in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// A bit for each row that went or moved.
    touched: Vec<u64>,
    /// The places of rows that stay elsewhere than they came.
    moved: HashMap<u32, u32>,
    pub gone: u64,
}

impl Fates {
    fn touch(&mut self, row: u32) {
        let word = row as usize / 64;
        if self.touched.len() <= word {
            self.touched.resize(word + 1, 0);
        }
        self.touched[word] |= 1 << (row % 64);
    }

    #[inline]
    pub fn is_touched(&self, row: u32) -> bool {
        self.touched.get(row as usize / 64).is_some_and(|bits| bits >> (row % 64) & 1 == 1)
    }

    /// Where the row's values stand, if they stay.
    #[inline]
    pub fn place(&self, row: u32) -> Option<u32> {
        if self.is_touched(row) { self.moved.get(&row).copied() } else { Some(row) }
    }

    /// For each place that another row moved to, that row.
    pub fn sources(&self) -> HashMap<u32, u32> {
        self.moved.iter().map(|(row, place)| (*place, *row)).collect()
    }

    pub fn lose(&mut self, row: u32) {
        self.touch(row);
        self.gone += 1;
    }

    /// Keeps one of two or more rows with the same key, given in order, and answers its place; `None` when the rule
    /// refuses them, or there is one.
    pub fn keep_one(&mut self, rows: &[u32], rule: Duplicates) -> Option<u32> {
        let [first, .., last] = *rows else { return None };
        let place = match rule {
            Duplicates::Refuse => return None,
            Duplicates::KeepLast => last,
            Duplicates::KeepLastAtFirst => {
                self.touch(last);
                self.moved.insert(last, first);
                first
            }
        };
        rows[..rows.len() - 1].iter().for_each(|row| self.lose(*row));
        Some(place)
    }
}

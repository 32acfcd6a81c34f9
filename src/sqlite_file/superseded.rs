//! Records what becomes of the rows of a table: which rows are removed, and which are stored at another row's place. Works in
//! memory alone.

use std::collections::HashMap;

use super::schema::Duplicates;

/// Which rows of a table are removed or moved, because of a repeated key. Rows are counted from 0 in order of arrival.
#[derive(Debug, Default)]
pub(super) struct SupersededRows {
    /// A bit for each row that was removed or moved.
    touched: Vec<u64>,
    /// The new places of rows that are stored elsewhere than where they arrived.
    moved: HashMap<u32, u32>,
    pub removed: u64,
}

impl SupersededRows {
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

    /// Where the row's values are stored, if the row is kept.
    #[inline]
    pub fn place(&self, row: u32) -> Option<u32> {
        if self.is_touched(row) { self.moved.get(&row).copied() } else { Some(row) }
    }

    /// For each place that another row moved to, the row that moved.
    pub fn sources(&self) -> HashMap<u32, u32> {
        self.moved.iter().map(|(row, place)| (*place, *row)).collect()
    }

    pub fn remove(&mut self, row: u32) {
        self.touch(row);
        self.removed += 1;
    }

    /// Keeps one of two or more rows with the same key, given in order, and returns the place of the row kept; `None` when the
    /// rule refuses repeated keys, or when there is only one row.
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
        rows[..rows.len() - 1].iter().for_each(|row| self.remove(*row));
        Some(place)
    }
}

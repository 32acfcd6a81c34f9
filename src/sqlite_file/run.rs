//! Runs: the keys of one index in one batch, sorted and packed, and the merge of many runs. Pure functions over byte buffers;
//! the layout is used in memory and in spill files, never in the database.
//!
//! A run has each distinct key once: varint number of bytes shared with the previous key, varint number of bytes that follow,
//! these bytes, varint count of rows, and the rows' places in the batch as varint differences. A long key is written in full,
//! so that it is read in place: the memory of a merge does not grow with the keys.

use super::record::{push_varint, read_varint};

/// A key of at least this many bytes is long.
const LONG_KEY_BYTES: usize = 1 << 10;

/// Byte strings, one after another.
#[derive(Debug, Default)]
pub(super) struct Strings {
    pub bytes: Vec<u8>,
    /// Where each string ends.
    pub ends: Vec<usize>,
}

impl Strings {
    /// No strings, with space for as many as `sizes` says: bytes, and strings.
    pub fn with_capacity((bytes, strings): (usize, usize)) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    /// How much space the strings need: bytes, and strings.
    pub fn sizes(&self) -> (usize, usize) {
        (self.bytes.len(), self.ends.len())
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub fn get(&self, place: u32) -> &[u8] {
        let place = place as usize;
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.bytes[start..self.ends[place]]
    }
}

/// How many leading bytes two keys share.
pub(super) fn shared_len(left: &[u8], right: &[u8]) -> usize {
    let both = left.len().min(right.len());
    let mut at = 0;
    while let (Some(a), Some(b)) = (left[at..both].first_chunk::<8>(), right[at..both].first_chunk::<8>()) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return at + differ.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + left[at..both].iter().zip(&right[at..both]).take_while(|(a, b)| a == b).count()
}

/// Sorts the keys of a batch, one for each row, and appends the keys to `out` as a run. `order` is scratch.
pub(super) fn pack(keys: &Strings, order: &mut Vec<u128>, out: &mut Vec<u8>) {
    order.clear();
    order.extend((0..keys.len() as u32).map(u128::from));
    sort(keys, order);
    let mut before: &[u8] = &[];
    let mut rest = &order[..];
    while let Some(first) = rest.first() {
        let key = keys.get(row_of(*first));
        let shared = shared_len(before, key);
        push_varint(out, shared as u64);
        let following = if key.len() < LONG_KEY_BYTES { &key[shared..] } else { key };
        push_varint(out, following.len() as u64);
        out.extend_from_slice(following);
        // Equal keys have equal numbers, and comparing these is cheaper.
        let is_same = |sorted: &&u128| **sorted >> 32 == first >> 32 && keys.get(row_of(**sorted)) == key;
        let rows = rest.iter().take_while(is_same).count();
        push_varint(out, rows as u64);
        let mut last = 0;
        for row in rest[..rows].iter().copied().map(row_of) {
            push_varint(out, u64::from(row - last));
            last = row;
        }
        rest = &rest[rows..];
        before = key;
    }
}

/// Sorts rows by key, then by row.
///
/// The prefix that all keys share is skipped, the next eight bytes are compared as a number, and rows with equal numbers are
/// sorted by the rest. There is no recursion, because the rest has as many levels as keys are long. Padding with zeros after a
/// key's end changes no order, because no key is a prefix of another.
///
/// Number and row are one integer, the row in the lower 32 bits, because comparing one integer takes no branch.
fn sort(keys: &Strings, order: &mut [u128]) {
    // Ranges of rows to sort, each with the number of leading bytes that the keys share.
    let mut unsorted = vec![(0..order.len(), 0)];
    while let Some((range, depth)) = unsorted.pop() {
        let mut start = range.start;
        let order = &mut order[range];
        let [first, _, ..] = *order else { continue };
        let first = keys.get(row_of(first));
        let shared = order.iter().fold(first.len(), |shared, sorted| {
            depth + shared_len(&first[depth..shared], &keys.get(row_of(*sorted))[depth..])
        });
        if shared == first.len() {
            // The keys do not differ anywhere, and the rows ascend.
            continue;
        }
        for sorted in order.iter_mut() {
            let row = row_of(*sorted);
            let rest = &keys.get(row)[shared..];
            let mut bytes = [0; 8];
            let length = rest.len().min(8);
            bytes[..length].copy_from_slice(&rest[..length]);
            *sorted = u128::from(u64::from_be_bytes(bytes)) << 32 | u128::from(row);
        }
        order.sort_unstable();
        for same in order.chunk_by(|a, b| a >> 32 == b >> 32) {
            if same.len() > 1 {
                unsorted.push((start..start + same.len(), shared));
            }
            start += same.len();
        }
    }
}

fn row_of(sorted: u128) -> u32 {
    sorted as u32
}

/// Reads a run key by key.
pub(super) struct RunCursor<'a> {
    rest: &'a [u8],
    short: Vec<u8>,
    /// The key, if long.
    long: Option<&'a [u8]>,
    /// The first of the table's rows in the run's part; places in the run are added to it.
    base: u32,
    /// Number of rows with the key. These rows must be read before the next key.
    rows: u64,
}

impl<'a> RunCursor<'a> {
    pub fn new(run: &'a [u8], base: u32) -> Self {
        Self { rest: run, short: Vec::new(), long: None, base, rows: 0 }
    }

    #[inline]
    pub fn key(&self) -> &[u8] {
        self.long.unwrap_or(&self.short)
    }

    /// Moves to the next key and returns how many bytes the key shares with the previous key; `None` at the run's end.
    pub fn advance(&mut self) -> Option<usize> {
        if self.rest.is_empty() {
            return None;
        }
        let mut at = 0;
        let shared = read_varint(self.rest, &mut at) as usize;
        let more = read_varint(self.rest, &mut at) as usize;
        let following = &self.rest[at..at + more];
        if more >= LONG_KEY_BYTES {
            self.long = Some(following);
        } else {
            if let Some(before) = self.long.take() {
                self.short.clear();
                self.short.extend_from_slice(&before[..shared]);
            }
            self.short.truncate(shared);
            self.short.extend_from_slice(following);
        }
        at += more;
        self.rows = read_varint(self.rest, &mut at);
        self.rest = &self.rest[at..];
        Some(shared)
    }

    /// Appends the rows of the table, counted from 0, that have the key.
    pub fn take_rows(&mut self, out: &mut Vec<u32>) {
        let mut at = 0;
        let mut row = self.base;
        for _ in 0..self.rows {
            row += read_varint(self.rest, &mut at) as u32;
            out.push(row);
        }
        self.rest = &self.rest[at..];
    }
}

/// Merges runs by a tournament of losers. Each loser remembers how many bytes it shares with the last winner, so most matches
/// are decided by comparing two lengths. Equal keys come in the order of their runs.
pub(super) struct Merge<'a> {
    cursors: Vec<RunCursor<'a>>,
    /// Place 0 is the winner, the others are the losers of the matches. The match of place n is between places 2n and 2n+1;
    /// places from the number of runs on are the runs themselves.
    places: Vec<Player>,
}

const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Player {
    run: u32,
    /// Bytes shared with the last winning key; -1 when the run is at its end.
    shared: i64,
}

impl<'a> Merge<'a> {
    pub fn new(runs: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let cursors: Vec<_> = runs.map(|(run, base)| RunCursor::new(run, base)).collect();
        let places = vec![Player { run: NOBODY, shared: -1 }; cursors.len().max(1)];
        let mut merge = Self { cursors, places };
        (0..merge.cursors.len()).for_each(|run| merge.advance_run(run));
        merge
    }

    /// The least key, with its rows still to be taken, and how many bytes the key shares with the previous key.
    pub fn peek(&mut self) -> Option<(&mut RunCursor<'a>, usize)> {
        let winner = self.places[0];
        let shared = usize::try_from(winner.shared).ok()?;
        Some((&mut self.cursors[winner.run as usize], shared))
    }

    /// Moves past the least key. The key's rows must have been taken.
    pub fn advance(&mut self) {
        self.advance_run(self.places[0].run as usize);
    }

    fn advance_run(&mut self, run: usize) {
        let shared = self.cursors[run].advance().map_or(-1, |shared| shared as i64);
        let mut winner = Player { run: run as u32, shared };
        let mut place = (run + self.cursors.len()) / 2;
        while place > 0 {
            let mut loser = self.places[place];
            if loser.run == NOBODY {
                // At the start: the opponent in this match comes later.
                self.places[place] = winner;
                return;
            }
            self.play(&mut winner, &mut loser);
            self.places[place] = loser;
            place /= 2;
        }
        self.places[0] = winner;
    }

    /// Makes `winner` the player with the lesser key. The player who shares more bytes with the last winner has the lesser key.
    #[inline]
    fn play(&self, winner: &mut Player, loser: &mut Player) {
        if winner.shared > loser.shared {
            return;
        }
        if winner.shared == loser.shared && winner.shared >= 0 {
            let agreed = winner.shared as usize;
            let left = self.cursors[winner.run as usize].key();
            let right = self.cursors[loser.run as usize].key();
            let shared = agreed + shared_len(&left[agreed..], &right[agreed..]);
            let order = left[shared..].first().cmp(&right[shared..].first()).then(winner.run.cmp(&loser.run));
            if order.is_lt() {
                loser.shared = shared as i64;
                return;
            }
            winner.shared = shared as i64;
        }
        std::mem::swap(winner, loser);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn runs_merge_into_the_order_of_all_keys(
            rows in prop::collection::vec(prop::collection::vec(0..3u8, 0..12), 1..80),
            cuts in prop::collection::vec(1..20usize, 1..8),
            long in 0..6usize,
        ) {
            // Some keys are long: each byte is repeated a few hundred times. The last byte occurs nowhere else, because no key
            // is a prefix of another.
            let key = |row: &Vec<u8>| {
                let times = if row.len() % 4 < long { 250 } else { 1 };
                [&row.iter().flat_map(|byte| vec![*byte; times]).collect::<Vec<u8>>()[..], &[9]].concat()
            };
            let mut runs = Vec::new();
            let mut base = 0;
            for cut in cuts.iter().cycle() {
                if base == rows.len() {
                    break;
                }
                let mut keys = Strings::default();
                let end = rows.len().min(base + cut);
                for row in &rows[base..end] {
                    keys.bytes.extend(key(row));
                    keys.ends.push(keys.bytes.len());
                }
                let mut run = Vec::new();
                pack(&keys, &mut Vec::new(), &mut run);
                runs.push((run, base as u32));
                base = end;
            }
            let mut merge = Merge::new(runs.iter().map(|(run, base)| (&run[..], *base)));
            let mut merged = Vec::new();
            while let Some((cursor, _)) = merge.peek() {
                let mut places = Vec::new();
                cursor.take_rows(&mut places);
                merged.extend(places.into_iter().map(|place| (cursor.key().to_vec(), place)));
                merge.advance();
            }
            let mut expected: Vec<_> = rows.iter().map(key).zip(0u32..).collect();
            expected.sort();
            prop_assert_eq!(merged, expected);
        }
    }
}

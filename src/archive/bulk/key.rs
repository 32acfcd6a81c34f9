//! Sort keys: index columns as bytes whose memcmp order is SQLite's order of the values, and runs of them, sorted and
//! packed. Pure functions over byte buffers; the layout lives in memory and in spill files, never in the database.
//!
//! A key is its columns one after another, each of them self-delimiting, so that no key's columns are a prefix of
//! another's. A text or blob is its tag, its bytes with 00 written as 00 FF, and 00 01. A number is a tag that says
//! sign and length of the integral magnitude, the magnitude, and 00 or 01 and the fraction as f64 bits; all of it but
//! the tag inverted when negative. Numbers of 2^64 and more are a tag and f64 bits. As equal numbers are equal keys, a
//! stored type that the number does not tell follows behind the columns: [`SHAPE`] and a byte a column.
//!
//! A run holds each distinct key once: varint bytes shared with the key before, varint bytes that follow, those bytes,
//! varint count of rows, and the rows' places in the batch as varint differences.

use super::Value;
use super::record::{is_short, push_varint, read_varint};
use super::schema::Affinity;

const NULL: u8 = 0x05;
const HUGE_NEGATIVE: u8 = 0x06;
/// Negative numbers of n magnitude bytes have the tag `NEGATIVE - n`, positive ones `POSITIVE + n`.
const NEGATIVE: u8 = 0x10;
const POSITIVE: u8 = 0x11;
const HUGE_POSITIVE: u8 = 0x1a;
const TEXT: u8 = 0x20;
const BLOB: u8 = 0x30;
/// Starts the stored types; more than any tag, less than the FF of an escaped 00.
const SHAPE: u8 = 0xfe;
const SHAPE_PLAIN: u8 = 1;
const SHAPE_REAL: u8 = 2;
const SHAPE_NEGATIVE_ZERO: u8 = 3;

/// Appends one affine column value.
#[inline]
pub(super) fn push_column(key: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Null => key.push(NULL),
        Value::Int(value) => push_number(key, value < 0, value.unsigned_abs(), 0.0),
        Value::Real(value) => {
            let size = value.abs();
            if size >= 18446744073709551616.0 {
                let bits = size.to_bits();
                let negative = value < 0.0;
                key.push(if negative { HUGE_NEGATIVE } else { HUGE_POSITIVE });
                key.extend_from_slice(&(if negative { !bits } else { bits }).to_be_bytes());
            } else {
                push_number(key, value < 0.0, size as u64, size - size.trunc());
            }
        }
        Value::Text(bytes) => push_bytes(key, TEXT, bytes),
        Value::Blob(bytes) => push_bytes(key, BLOB, bytes),
    }
}

#[inline]
fn push_bytes(key: &mut Vec<u8>, tag: u8, mut bytes: &[u8]) {
    key.push(tag);
    while let Some(zero) = memchr::memchr(0, bytes) {
        key.extend_from_slice(&bytes[..=zero]);
        key.push(0xff);
        bytes = &bytes[zero + 1..];
    }
    key.extend_from_slice(bytes);
    key.extend_from_slice(&[0, 1]);
}

fn push_number(key: &mut Vec<u8>, negative: bool, whole: u64, fraction: f64) {
    let length = 8 - whole.leading_zeros() as usize / 8;
    key.push(if negative { NEGATIVE - length as u8 } else { POSITIVE + length as u8 });
    let invert = if negative { u64::MAX } else { 0 };
    key.extend_from_slice(&(whole ^ invert).to_be_bytes()[8 - length..]);
    key.push(u8::from(fraction != 0.0) ^ invert as u8);
    if fraction != 0.0 {
        key.extend_from_slice(&(fraction.to_bits() ^ invert).to_be_bytes());
    }
}

/// What an affine value's key does not tell of how it is stored.
fn shape(value: Value<'_>, affinity: Affinity) -> u8 {
    match value {
        Value::Real(number) if affinity != Affinity::Real && number as i64 as f64 == number => match number {
            _ if number.to_bits() == (-0.0f64).to_bits() => SHAPE_NEGATIVE_ZERO,
            // 2^63 is no i64: only a real can be that.
            _ if number >= 9223372036854775808.0 => SHAPE_PLAIN,
            _ => SHAPE_REAL,
        },
        _ => SHAPE_PLAIN,
    }
}

/// Appends the stored types of a key whose columns are complete, if any of them needs it.
pub(super) fn push_shape<'a>(
    key: &mut Vec<u8>,
    columns: impl Iterator<Item = (Value<'a>, Affinity)> + Clone,
) {
    if columns.clone().any(|(value, affinity)| shape(value, affinity) != SHAPE_PLAIN) {
        key.push(SHAPE);
        key.extend(columns.map(|(value, affinity)| shape(value, affinity)));
    }
}

/// Calls `each` with every column's value as it is stored, and says how many bytes of the key are columns. `shapes` are
/// the bytes behind those and [`SHAPE`]: none at first, and where there are some, once more with them.
pub(super) fn decode(
    key: &[u8],
    affinities: &[Affinity],
    shapes: &[u8],
    mut each: impl FnMut(Value<'_>),
) -> usize {
    let mut at = 0;
    for (column, affinity) in affinities.iter().enumerate() {
        let tag = key[at];
        at += 1;
        match tag {
            NULL => each(Value::Null),
            TEXT | BLOB => {
                let start = at;
                at = bytes_end(key, at);
                let escaped = &key[start..at - 2];
                let value = if tag == TEXT { Value::Text } else { Value::Blob };
                if memchr::memchr(0, escaped).is_none() {
                    each(value(escaped));
                } else {
                    each(value(&unescape(escaped)));
                }
            }
            HUGE_NEGATIVE | HUGE_POSITIVE => {
                let bits = be_u64(&key[at..at + 8]);
                at += 8;
                let negative = tag == HUGE_NEGATIVE;
                each(Value::Real(if negative { -f64::from_bits(!bits) } else { f64::from_bits(bits) }));
            }
            _ => {
                let (number, end) = read_number(key, tag, at);
                at = end;
                each(match (number, shapes.get(column)) {
                    (Value::Int(_), Some(&SHAPE_NEGATIVE_ZERO)) => Value::Real(-0.0),
                    (Value::Int(whole), Some(&SHAPE_REAL)) => Value::Real(whole as f64),
                    (Value::Int(whole), _) if *affinity == Affinity::Real && !is_short(whole) => {
                        Value::Real(whole as f64)
                    }
                    (number, _) => number,
                });
            }
        }
    }
    at
}

/// The number as an integer if it is one in 64 bits, and where it ends.
fn read_number(key: &[u8], tag: u8, mut at: usize) -> (Value<'static>, usize) {
    let negative = tag <= NEGATIVE;
    let invert = if negative { u64::MAX } else { 0 };
    let length = usize::from(if negative { NEGATIVE - tag } else { tag - POSITIVE });
    let whole =
        key[at..at + length].iter().fold(invert, |whole, byte| whole << 8 | u64::from(*byte)) ^ invert;
    at += length + 1;
    let fraction = if key[at - 1] ^ invert as u8 == 0 {
        0.0
    } else {
        at += 8;
        f64::from_bits(be_u64(&key[at - 8..at]) ^ invert)
    };
    let signed = if negative { 0i64.checked_sub_unsigned(whole) } else { i64::try_from(whole).ok() };
    let value = match signed {
        Some(signed) if fraction == 0.0 => Value::Int(signed),
        _ => {
            let size = whole as f64 + fraction;
            Value::Real(if negative { -size } else { size })
        }
    };
    (value, at)
}

/// Where a text or blob that starts at `at` ends, its 00 01 included.
fn bytes_end(key: &[u8], mut at: usize) -> usize {
    loop {
        at += memchr::memchr(0, &key[at..]).unwrap_or(key.len()) + 2;
        if key[at - 1] == 1 {
            return at;
        }
    }
}

fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(zero) = memchr::memchr(0, rest) {
        plain.extend_from_slice(&rest[..=zero]);
        rest = &rest[zero + 2..];
    }
    plain.extend_from_slice(rest);
    plain
}

fn be_u64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
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

/// The keys of one index in one batch, in the order of its rows.
#[derive(Default)]
pub(super) struct Keys {
    pub bytes: Vec<u8>,
    /// Where each row's key ends.
    pub ends: Vec<usize>,
}

impl Keys {
    pub fn get(&self, row: u32) -> &[u8] {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.bytes[start..self.ends[row]]
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Sorts the keys and appends them to `out` as a run. `order` is scratch.
    pub fn pack(&self, order: &mut Vec<(u64, u32)>, out: &mut Vec<u8>) {
        order.clear();
        order.extend((0..self.ends.len() as u32).map(|row| (0, row)));
        sort(self, order, 0);
        let mut before: &[u8] = &[];
        let mut at = 0;
        while at < order.len() {
            let key = self.get(order[at].1);
            let shared = shared_len(before, key);
            push_varint(out, shared as u64);
            push_varint(out, (key.len() - shared) as u64);
            out.extend_from_slice(&key[shared..]);
            let rows = 1 + order[at + 1..].iter().take_while(|(_, row)| self.get(*row) == key).count();
            push_varint(out, rows as u64);
            let mut last = 0;
            for (_, row) in &order[at..at + rows] {
                push_varint(out, u64::from(row - last));
                last = *row;
            }
            at += rows;
            before = key;
        }
    }
}

/// Sorts rows by key, then by row. All keys agree in their first `depth` bytes.
///
/// What all share is skipped, the next eight bytes are compared as a number, and rows that agree in those are sorted
/// by the rest. Zeros behind a key's end do not confuse: where two keys differ, both have a byte, or one has [`SHAPE`].
fn sort(keys: &Keys, order: &mut [(u64, u32)], depth: usize) {
    if order.len() <= 8 {
        order.sort_unstable_by(|(_, a), (_, b)| {
            keys.get(*a)[depth..].cmp(&keys.get(*b)[depth..]).then(a.cmp(b))
        });
        return;
    }
    let first = &keys.get(order[0].1)[depth..];
    let mut shared = first.len();
    let mut longest = first.len();
    for (_, row) in &order[1..] {
        let key = &keys.get(*row)[depth..];
        longest = longest.max(key.len());
        shared = shared_len(&first[..shared], key);
    }
    if shared == longest {
        order.sort_unstable_by_key(|(_, row)| *row);
        return;
    }
    let depth = depth + shared;
    for (head, row) in order.iter_mut() {
        let rest = &keys.get(*row)[depth..];
        let mut bytes = [0; 8];
        let length = rest.len().min(8);
        bytes[..length].copy_from_slice(&rest[..length]);
        *head = u64::from_be_bytes(bytes);
    }
    order.sort_unstable();
    for same in order.chunk_by_mut(|a, b| a.0 == b.0) {
        if same.len() > 1 {
            let depth = depth + 8;
            if same.iter().any(|(_, row)| keys.get(*row).len() > depth) {
                sort(keys, same, depth);
            }
        }
    }
}

/// Reads a run key by key.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    pub key: Vec<u8>,
    /// The run counts its table's rows from this one.
    base: u32,
    /// How many rows have the key; they are read before the next key is.
    rows: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(run: &'a [u8], base: u32) -> Self {
        Self { rest: run, key: Vec::new(), base, rows: 0 }
    }

    /// Moves to the next key and says how many bytes it shares with the one before; `None` at the run's end.
    pub fn advance(&mut self) -> Option<usize> {
        if self.rest.is_empty() {
            return None;
        }
        let mut at = 0;
        let shared = read_varint(self.rest, &mut at) as usize;
        let more = read_varint(self.rest, &mut at) as usize;
        self.key.truncate(shared);
        self.key.extend_from_slice(&self.rest[at..at + more]);
        at += more;
        self.rows = read_varint(self.rest, &mut at);
        self.rest = &self.rest[at..];
        Some(shared)
    }

    /// Appends the table rows, counted from 0, that have the key.
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

/// Merges runs by a tournament of losers that remember what they share with the last winner, so that most matches are
/// decided by comparing two lengths. Equal keys come in the order of their runs.
pub(super) struct Merge<'a> {
    cursors: Vec<Cursor<'a>>,
    /// Place 0 is the winner, the others the losers of the matches; the match of place n is over those of 2n and 2n+1,
    /// and places from the number of runs on are the runs themselves.
    places: Vec<Player>,
}

#[derive(Clone, Copy)]
struct Player {
    run: u32,
    /// Bytes shared with the key that won last; -1 when the run is at its end.
    shared: i64,
}

impl<'a> Merge<'a> {
    pub fn new(runs: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let mut cursors: Vec<_> = runs.map(|(run, base)| Cursor::new(run, base)).collect();
        let count = cursors.len();
        let mut winners = vec![Player { run: 0, shared: -1 }; 2 * count];
        for (run, cursor) in cursors.iter_mut().enumerate() {
            let shared = if cursor.advance().is_some() { 0 } else { -1 };
            winners[count + run] = Player { run: run as u32, shared };
        }
        let mut merge = Self { cursors, places: vec![Player { run: 0, shared: -1 }; count.max(1)] };
        for place in (1..count).rev() {
            let mut winner = winners[2 * place];
            let mut loser = winners[2 * place + 1];
            merge.play(&mut winner, &mut loser);
            winners[place] = winner;
            merge.places[place] = loser;
        }
        if let Some(winner) = winners.get(1) {
            merge.places[0] = *winner;
        }
        merge
    }

    /// The least key, its rows still to be taken, and how many bytes it shares with the one before.
    pub fn peek(&mut self) -> Option<(&mut Cursor<'a>, usize)> {
        let winner = self.places[0];
        let shared = usize::try_from(winner.shared).ok()?;
        Some((&mut self.cursors[winner.run as usize], shared))
    }

    /// Moves on from the least key, whose rows must have been taken.
    pub fn advance(&mut self) {
        let mut winner = self.places[0];
        winner.shared = self.cursors[winner.run as usize].advance().map_or(-1, |shared| shared as i64);
        let mut place = (winner.run as usize + self.cursors.len()) / 2;
        while place > 0 {
            let mut loser = self.places[place];
            self.play(&mut winner, &mut loser);
            self.places[place] = loser;
            place /= 2;
        }
        self.places[0] = winner;
    }

    /// Makes `winner` the one of the two with the lesser key. Who shares more with the last winner is closer to it.
    #[inline]
    fn play(&self, winner: &mut Player, loser: &mut Player) {
        if winner.shared > loser.shared {
            return;
        }
        if winner.shared == loser.shared && winner.shared >= 0 {
            let agreed = winner.shared as usize;
            let left = &self.cursors[winner.run as usize].key;
            let right = &self.cursors[loser.run as usize].key;
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

    fn key(values: &[(Value<'_>, Affinity)]) -> Vec<u8> {
        let mut key = Vec::new();
        for (value, _) in values {
            push_column(&mut key, *value);
        }
        push_shape(&mut key, values.iter().copied());
        key
    }

    fn number() -> impl Strategy<Value = Value<'static>> {
        let near = (-70..70i32, -2..3i64).prop_map(|(bit, off)| {
            Value::Real((f64::from(bit.signum()) * 2f64.powi(bit.abs())) + off as f64 * 0.5)
        });
        prop_oneof![
            any::<i64>().prop_map(Value::Int),
            (-300..300i64).prop_map(Value::Int),
            (0..63u32, -2..3i64).prop_map(|(bit, off)| Value::Int((1i64 << bit).wrapping_add(off))),
            any::<f64>().prop_filter("a NaN is a NULL", |real| !real.is_nan()).prop_map(Value::Real),
            near,
            Just(Value::Real(-0.0)),
            Just(Value::Real(i64::MIN as f64)),
            Just(Value::Int(i64::MIN)),
        ]
    }

    /// SQLite's order of numbers: exact, whatever their types.
    fn compare(left: Value<'_>, right: Value<'_>) -> std::cmp::Ordering {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let sql = |value| match value {
            Value::Int(value) => rusqlite::types::Value::Integer(value),
            Value::Real(value) => rusqlite::types::Value::Real(value),
            other => panic!("{other:?} is no number"),
        };
        let answer: i64 =
            db.query_row("SELECT (?1 > ?2) - (?1 < ?2)", [sql(left), sql(right)], |row| row.get(0)).unwrap();
        answer.cmp(&0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn numbers_sort_as_in_sqlite_and_return(left in number(), right in number()) {
            let keys = [left, right].map(|value| key(&[(value, Affinity::Blob)]));
            let mut lengths = [0; 2];
            for ((value, key), columns_len) in [left, right].iter().zip(&keys).zip(&mut lengths) {
                *columns_len = decode(key, &[Affinity::Blob], &[], |_| ());
                let shapes = key.get(*columns_len + 1..).unwrap_or_default();
                decode(key, &[Affinity::Blob], shapes, |back| assert_eq!(format!("{value:?}"), format!("{back:?}")));
            }
            prop_assert_eq!(keys[0][..lengths[0]].cmp(&keys[1][..lengths[1]]), compare(left, right));
        }

        #[test]
        fn texts_sort_by_their_bytes_and_return(
            rows in prop::collection::vec(prop::collection::vec(prop::collection::vec(0..3u8, 0..6), 2), 1..60),
            cuts in prop::collection::vec(1..20usize, 1..8),
        ) {
            let affinities = [Affinity::Text, Affinity::Blob];
            let mut runs = Vec::new();
            let mut base = 0;
            for cut in cuts.iter().cycle() {
                if base == rows.len() {
                    break;
                }
                let mut keys = Keys::default();
                let end = rows.len().min(base + cut);
                for row in &rows[base..end] {
                    keys.bytes.extend(key(&[(Value::Text(&row[0]), affinities[0]), (Value::Blob(&row[1]), affinities[1])]));
                    keys.ends.push(keys.bytes.len());
                }
                let mut run = Vec::new();
                keys.pack(&mut Vec::new(), &mut run);
                runs.push((run, base as u32));
                base = end;
            }
            let mut merge = Merge::new(runs.iter().map(|(run, base)| (&run[..], *base)));
            let mut merged = Vec::new();
            while let Some((cursor, _)) = merge.peek() {
                let mut places = Vec::new();
                cursor.take_rows(&mut places);
                let mut values = Vec::new();
                decode(&cursor.key, &affinities, &[], |value| match value {
                    Value::Text(bytes) | Value::Blob(bytes) => values.push(bytes.to_vec()),
                    other => panic!("{other:?}"),
                });
                merged.extend(places.into_iter().map(|place| (values.clone(), place)));
                merge.advance();
            }
            let mut expected: Vec<_> = rows.iter().cloned().zip(0u32..).collect();
            expected.sort();
            prop_assert_eq!(merged, expected);
        }
    }
}

//! The encodings of Parquet that the files use: how values become the bytes of a page.
//!
//! Touches nothing. Guarantees: equal values give equal bytes. The formats are those of Parquet's document `Encodings.md`.

/// Values are packed in groups of so many.
const GROUP: usize = 8;
/// A shorter run of equal values is packed, because a run costs a header and ends the packed values before it.
const RUN_MIN: usize = 2 * GROUP;
/// The values of a block of deltas, and of the miniblocks that have a width of their own.
const BLOCK: usize = 128;
const MINIBLOCK: usize = 32;

/// Appends an unsigned number, seven bits a byte, the lowest first.
pub(super) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a signed number: 0, -1, 1, -2 … become 0, 1, 2, 3 ….
pub(super) fn zigzag(number: i64, out: &mut Vec<u8>) {
    varint(((number << 1) ^ (number >> 63)) as u64, out);
}

/// The bits of a number.
pub(super) fn width_of(number: u64) -> u32 {
    u64::BITS - number.leading_zeros()
}

/// Appends the lowest `width` bits of each value, without gaps, the first value lowest.
fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0_u128, 0);
    for value in values {
        bits |= u128::from(value) << filled;
        filled += width;
        if filled >= u64::BITS {
            out.extend_from_slice(&(bits as u64).to_le_bytes());
            bits >>= u64::BITS;
            filled -= u64::BITS;
        }
    }
    out.extend_from_slice(&(bits as u64).to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// Appends values of at most `width` bits: runs of equal values as length and value, other values packed.
pub(super) fn hybrid(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let pack_groups = |values: &[u32], out: &mut Vec<u8>| {
        if values.is_empty() {
            return;
        }
        let padded = values.len().next_multiple_of(GROUP);
        varint(((padded / GROUP) as u64) << 1 | 1, out);
        let padding = std::iter::repeat_n(0, padded - values.len());
        pack(values.iter().map(|value| u64::from(*value)).chain(padding), width, out);
    };
    let (mut packed_from, mut at) = (0, 0);
    while at < values.len() {
        let first = values[at];
        let run = values[at..].iter().take_while(|value| **value == first).count();
        if run < RUN_MIN {
            // Only whole groups may come before a run.
            at += GROUP;
            continue;
        }
        pack_groups(&values[packed_from..at], out);
        varint((run as u64) << 1, out);
        out.extend_from_slice(&first.to_le_bytes()[..width.div_ceil(8) as usize]);
        at += run;
        packed_from = at;
    }
    pack_groups(&values[packed_from..], out);
}

/// Appends numbers as differences (`DELTA_BINARY_PACKED`).
pub(super) fn deltas(numbers: &[i64], out: &mut Vec<u8>) {
    varint(BLOCK as u64, out);
    varint((BLOCK / MINIBLOCK) as u64, out);
    varint(numbers.len() as u64, out);
    zigzag(numbers.first().copied().unwrap_or(0), out);
    let mut differences = [0_i64; BLOCK];
    for block in
        numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect::<Vec<_>>().chunks(BLOCK)
    {
        differences[..block.len()].copy_from_slice(block);
        let least = block.iter().copied().min().unwrap_or(0);
        differences[block.len()..].fill(least);
        zigzag(least, out);
        let above = |difference: &i64| difference.wrapping_sub(least) as u64;
        let miniblocks = differences.chunks(MINIBLOCK);
        let widths: Vec<u32> = miniblocks
            .clone()
            .map(|of| width_of(of.iter().map(above).fold(0, |all, one| all | one)))
            .collect();
        out.extend(widths.iter().map(|width| *width as u8));
        // Miniblocks after the last value have no bytes.
        for (of, width) in miniblocks.zip(widths).take(block.len().div_ceil(MINIBLOCK)) {
            pack(of.iter().map(above), width, out);
        }
    }
}

/// Appends texts as their lengths and then their bytes (`DELTA_LENGTH_BYTE_ARRAY`).
pub(super) fn lengths_and_bytes<'t>(texts: impl Iterator<Item = &'t [u8]> + Clone, out: &mut Vec<u8>) {
    deltas(&texts.clone().map(|text| text.len() as i64).collect::<Vec<_>>(), out);
    texts.for_each(|text| out.extend_from_slice(text));
}

/// Appends texts as the lengths of what each shares with the one before it, and what follows (`DELTA_BYTE_ARRAY`).
pub(super) fn prefixes_and_rests<'t>(texts: impl Iterator<Item = &'t [u8]>, out: &mut Vec<u8>) {
    let (mut last, mut shared, mut rests): (&[u8], Vec<i64>, Vec<&[u8]>) = (b"", Vec::new(), Vec::new());
    for text in texts {
        let same = text.iter().zip(last).take_while(|(one, other)| one == other).count();
        shared.push(same as i64);
        rests.push(&text[same..]);
        last = text;
    }
    deltas(&shared, out);
    lengths_and_bytes(rests.iter().copied(), out);
}

/// Appends a text as its length and its bytes (`PLAIN`).
pub(super) fn plain_text(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

/// Appends flags, eight a byte (`PLAIN`).
pub(super) fn plain_flags(flags: &[bool], out: &mut Vec<u8>) {
    pack(flags.iter().map(|flag| u64::from(*flag)), 1, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    /// The examples of `Encodings.md`.
    #[test]
    fn values_become_the_bytes_of_the_format() {
        assert_eq!(bytes(|out| hybrid(&[0, 1, 2, 3, 4, 5, 6, 7], 3, out)), [3, 0x88, 0xC6, 0xFA]);
        assert_eq!(bytes(|out| hybrid(&[4; 100], 3, out)), [200, 1, 4]);
        assert_eq!(bytes(|out| zigzag(-2, out)), [3]);
        // Block size, miniblocks, count, first value; least difference, widths, and 32 differences of two bits.
        let head = [128, 1, 4, 8, 14, 3, 2, 0, 0, 0];
        assert_eq!(
            bytes(|out| deltas(&[7, 5, 3, 1, 2, 3, 4, 5], out)),
            [&head[..], &[0xC0, 0x3F, 0, 0, 0, 0, 0, 0]].concat()
        );
        assert_eq!(bytes(|out| plain_flags(&[true, false, true], out)), [5]);
        let words: [&[u8]; 4] = [b"axis", b"axle", b"babble", b"babyhood"];
        let [shared, lengths] =
            [[0, 2, 0, 3], [4, 2, 6, 5]].map(|numbers| bytes(|out| deltas(&numbers, out)));
        assert_eq!(
            bytes(|out| prefixes_and_rests(words.into_iter(), out)),
            [&shared[..], &lengths, b"axislebabbleyhood"].concat()
        );
    }

    #[test]
    fn runs_are_cut_where_groups_end() {
        let values: Vec<u32> = [1, 2, 3].into_iter().chain([9; 40]).chain([4]).collect();
        // Eight packed values, a run of the 35 that are left, and a padded group.
        let packed = bytes(|out| pack([1, 2, 3, 9, 9, 9, 9, 9].into_iter(), 4, out));
        let last = bytes(|out| pack([4, 0, 0, 0, 0, 0, 0, 0].into_iter(), 4, out));
        assert_eq!(bytes(|out| hybrid(&values, 4, out)), [&[3], &packed[..], &[70, 9], &[3], &last].concat());
    }
}

//! The vocabulary cl100k_base, and the classes of characters, as tables that need no loading.
//!
//! Touches `cl100k.bin`, which is part of the program: only the pages that a count needs are read. Numbers are little endian.
//!
//! | at | size | field |
//! | ---: | ---: | --- |
//! | 0 | 256 | the token of each byte; these tokens are below 256 |
//! | 256 | 65,536 | displacements of 32,768 buckets, 2 bytes each |
//! | 65,792 | 8 each | [`PAIR_SLOTS`] pairs: left token (17 bits), right token (17 bits), merged token (17 bits) |
//! | then | 4,352 | for each 256 characters from U+0000 the number of their block |
//! | then | 64 each | blocks: two bits for each character, [`CharacterClass`] in the order of its variants |
//!
//! A hash of the two tokens of a pair chooses a bucket, and the hash and the bucket's displacement choose the slot of the
//! pair. Displacements were chosen so that no two pairs share a slot. A slot without a pair has zeros.
//!
//! A token is merged from one pair only: from the two tokens that are left when its bytes merge as far as without this
//! token. Other tokens with the same bytes together never become neighbours, because one of them would have needed a byte
//! that a lower token has taken.
//!
//! The file is made from the data of the crate `bpe-openai` and the classes of the crate `regex`:
//! `BURN_WRITE_TOKENS=1 cargo test --lib the_table_in_the_program`. `NOTICE-cl100k.txt` has the license of the vocabulary.

/// The classes that the pattern of pieces distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CharacterClass {
    /// Punctuation, marks, symbols, control characters.
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`, line ends included.
    Space,
}

static TABLE: &[u8] = include_bytes!("cl100k.bin");

const BUCKET_BITS: u32 = 15;
/// Three hundredths more than pairs, because the last pairs would take long to find a slot otherwise.
const PAIR_SLOTS: usize = 103_000;

const BUCKETS_AT: usize = 256;
const PAIRS_AT: usize = BUCKETS_AT + (2 << BUCKET_BITS);
const BLOCK_NUMBERS_AT: usize = PAIRS_AT + 8 * PAIR_SLOTS;
const BLOCKS_AT: usize = BLOCK_NUMBERS_AT + 0x11_0000 / 256;

const TOKEN_BITS: u32 = 17;
const PAIR_BITS: u32 = 2 * TOKEN_BITS;

pub(super) fn token_of_byte(byte: u8) -> u32 {
    u32::from(TABLE[usize::from(byte)])
}

/// Returns the token that two tokens merge to.
pub(super) fn merged(left: u32, right: u32) -> Option<u32> {
    let pair = u64::from(left) | u64::from(right) << TOKEN_BITS;
    let hash = hash(pair);
    let at = PAIRS_AT + 8 * slot(hash, u16_at(BUCKETS_AT + 2 * bucket(hash)));
    let found = TABLE[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let is_same = found & ((1 << PAIR_BITS) - 1) == pair && found != 0;
    is_same.then_some((found >> PAIR_BITS) as u32)
}

fn hash(pair: u64) -> u64 {
    let hash = pair.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^ hash >> 32
}

fn bucket(hash: u64) -> usize {
    (hash >> (64 - BUCKET_BITS)) as usize
}

fn slot(hash: u64, displacement: u16) -> usize {
    let mixed = (hash as u32 ^ u32::from(displacement).wrapping_mul(0x85EB_CA6B)).wrapping_mul(0xC2B2_AE35);
    ((u64::from(mixed) * PAIR_SLOTS as u64) >> 32) as usize
}

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes([TABLE[at], TABLE[at + 1]])
}

/// Returns the class of a character.
pub(super) fn class_of(character: char) -> CharacterClass {
    let character = character as usize;
    let block = usize::from(TABLE[BLOCK_NUMBERS_AT + character / 256]);
    let four = TABLE[BLOCKS_AT + 64 * block + character % 256 / 4];
    match four >> (2 * (character % 4)) & 3 {
        0 => CharacterClass::Other,
        1 => CharacterClass::Letter,
        2 => CharacterClass::Number,
        _ => CharacterClass::Space,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use regex::Regex;

    use super::*;

    /// The two tokens that a token is merged from: its bytes, merged with all tokens that have lower numbers.
    fn pair_of(bytes: &[u8], token: u32, tokens: &HashMap<&[u8], u32>) -> (u32, u32) {
        let mut ends: Vec<usize> = (0..=bytes.len()).collect();
        while ends.len() > 3 {
            let lowest = (0..ends.len() - 2)
                .filter_map(|at| Some((*tokens.get(&bytes[ends[at]..ends[at + 2]])?, at)))
                .filter(|(merged, _)| *merged < token);
            let (_, at) = lowest.min().unwrap();
            ends.remove(at + 1);
        }
        (tokens[&bytes[..ends[1]]], tokens[&bytes[ends[1]..]])
    }

    /// Puts each pair into a slot of its own, the fullest buckets first.
    fn write_pairs(pairs: &[(u32, u32, u32)], out: &mut Vec<u8>) {
        let mut buckets: Vec<Vec<(u64, u64)>> = vec![Vec::new(); 1 << BUCKET_BITS];
        for (left, right, merged) in pairs {
            let pair = u64::from(*left) | u64::from(*right) << TOKEN_BITS;
            let hash = hash(pair);
            buckets[bucket(hash)].push((hash, pair | u64::from(*merged) << PAIR_BITS));
        }
        let mut order: Vec<usize> = (0..buckets.len()).collect();
        order.sort_by_key(|bucket| std::cmp::Reverse(buckets[*bucket].len()));
        let mut displacements = vec![0u16; buckets.len()];
        let mut slots = vec![0u64; PAIR_SLOTS];
        for number in order {
            let bucket = &buckets[number];
            let displacement = (0..=u16::MAX).find(|displacement| {
                let mut wanted: Vec<usize> =
                    bucket.iter().map(|(hash, _)| slot(*hash, *displacement)).collect();
                wanted.sort_unstable();
                wanted.dedup();
                wanted.len() == bucket.len() && wanted.iter().all(|slot| slots[*slot] == 0)
            });
            displacements[number] = displacement.unwrap();
            bucket.iter().for_each(|(hash, entry)| slots[slot(*hash, displacements[number])] = *entry);
        }
        displacements.iter().for_each(|displacement| out.extend(displacement.to_le_bytes()));
        slots.iter().for_each(|entry| out.extend(entry.to_le_bytes()));
    }

    fn write_classes(out: &mut Vec<u8>) {
        let patterns = [(r"\p{L}+", 1u8), (r"\p{N}+", 2), (r"\s+", 3)];
        let all: String = ('\0'..=char::MAX).collect();
        let mut classes = vec![0u8; 0x11_0000];
        for (pattern, class) in patterns {
            for found in Regex::new(pattern).unwrap().find_iter(&all) {
                found.as_str().chars().for_each(|character| classes[character as usize] = class);
            }
        }
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for characters in classes.chunks(256) {
            let packed =
                characters.chunks(4).map(|four| (0..4).fold(0, |byte, at| byte | four[at] << (2 * at)));
            let block: Vec<u8> = packed.collect();
            let number = blocks.iter().position(|known| *known == block).unwrap_or_else(|| {
                blocks.push(block);
                blocks.len() - 1
            });
            out.push(u8::try_from(number).unwrap());
        }
        out.extend(blocks.concat());
    }

    #[test]
    fn the_table_in_the_program_is_that_of_the_vocabulary() {
        let bpe = &bpe_openai::cl100k_base().bpe;
        let count = bpe.num_tokens() as u32;
        let tokens: HashMap<&[u8], u32> = (0..count).map(|token| (bpe.token_bytes(token), token)).collect();
        let mut made: Vec<u8> = (0..=255u8).map(|byte| u8::try_from(tokens[&[byte][..]]).unwrap()).collect();
        let long = (0..count).filter(|token| bpe.token_len(*token) > 1);
        let pairs: Vec<(u32, u32, u32)> = long
            .map(|token| {
                let (left, right) = pair_of(bpe.token_bytes(token), token, &tokens);
                (left, right, token)
            })
            .collect();
        assert!((0..count).all(|token| bpe.token_len(token) <= 128));
        write_pairs(&pairs, &mut made);
        write_classes(&mut made);
        if std::env::var_os("BURN_WRITE_TOKENS").is_some() {
            std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agents/tokens/cl100k.bin"), &made)
                .unwrap();
        }
        assert!(made == TABLE, "cl100k.bin is not the vocabulary's; BURN_WRITE_TOKENS=1 makes it again");
        assert!(pairs.iter().all(|(left, right, token)| merged(*left, *right) == Some(*token)));
    }
}

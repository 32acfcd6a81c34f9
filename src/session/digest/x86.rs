//! Two texts at once with the SHA instructions of x86-64.
//!
//! This file touches nothing but the bytes it is given. The order of instructions within a text is that of Intel's reference
//! for these instructions, as in the sha2 crate, whose digests the tests compare with.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

/// The constants of the 64 rounds (FIPS 180-4, section 4.2.2), four a row.
const ROUNDS: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// The words a, b, e, f and c, d, g, h of a state.
type Halves = [__m128i; 2];

#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn words(words: [u32; 4]) -> __m128i {
    let [a, b, c, d] = words.map(|word| word as i32);
    _mm_set_epi32(d, c, b, a)
}

#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn load_state(state: &[u32; 8]) -> Halves {
    let [a, b, c, d, e, f, g, h] = *state;
    [words([f, e, b, a]), words([h, g, d, c])]
}

#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn store_state(state: &mut [u32; 8], [abef, cdgh]: Halves) {
    let word = |word: i32| word as u32;
    *state = [
        word(_mm_extract_epi32::<3>(abef)),
        word(_mm_extract_epi32::<2>(abef)),
        word(_mm_extract_epi32::<3>(cdgh)),
        word(_mm_extract_epi32::<2>(cdgh)),
        word(_mm_extract_epi32::<1>(abef)),
        word(_mm_extract_epi32::<0>(abef)),
        word(_mm_extract_epi32::<1>(cdgh)),
        word(_mm_extract_epi32::<0>(cdgh)),
    ];
}

/// The sixteen words of a block, in this machine's byte order.
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn load_block(block: &[u8; 64]) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0C0D_0E0F_0809_0A0B, 0x0405_0607_0001_0203);
    let halves = block.as_chunks::<8>().0;
    let half = |at: usize| i64::from_le_bytes(halves[at]);
    [0, 2, 4, 6].map(|at| _mm_shuffle_epi8(_mm_set_epi64x(half(at + 1), half(at)), swap))
}

/// The next four words of the message schedule, in place of the oldest of the last sixteen.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn schedule(last: &mut [__m128i; 4], oldest: usize) {
    let next = |by: usize| last[(oldest + by) % 4];
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(next(0), next(1)), _mm_alignr_epi8::<4>(next(3), next(2)));
    last[oldest] = _mm_sha256msg2_epu32(sum, next(3));
}

/// Four rounds of each text.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn four_rounds(halves: &mut [Halves; 2], words_of: [__m128i; 2], constants: [u32; 4]) {
    let [[abef_1, cdgh_1], [abef_2, cdgh_2]] = halves;
    let constants = words(constants);
    let sums = words_of.map(|words| _mm_add_epi32(words, constants));
    *cdgh_1 = _mm_sha256rnds2_epu32(*cdgh_1, *abef_1, sums[0]);
    *cdgh_2 = _mm_sha256rnds2_epu32(*cdgh_2, *abef_2, sums[1]);
    let sums = sums.map(|sum| _mm_shuffle_epi32::<0x0E>(sum));
    *abef_1 = _mm_sha256rnds2_epu32(*abef_1, *cdgh_1, sums[0]);
    *abef_2 = _mm_sha256rnds2_epu32(*abef_2, *cdgh_2, sums[1]);
}

/// Sixteen rounds of each text, with the words that follow `words_1` and `words_2`.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn sixteen_rounds(
    halves: &mut [Halves; 2],
    words_1: &mut [__m128i; 4],
    words_2: &mut [__m128i; 4],
    first: usize,
) {
    for at in 0..4 {
        schedule(words_1, at);
        schedule(words_2, at);
        four_rounds(halves, [words_1[at], words_2[at]], ROUNDS[first + at]);
    }
}

/// Hashes equally many blocks of two texts.
#[target_feature(enable = "sha,sse4.1,ssse3")]
pub(super) fn compress_both(states: [&mut [u32; 8]; 2], blocks: [&[[u8; 64]]; 2]) {
    let mut halves = [load_state(states[0]), load_state(states[1])];
    for (block_1, block_2) in blocks[0].iter().zip(blocks[1]) {
        let before = halves;
        let (mut words_1, mut words_2) = (load_block(block_1), load_block(block_2));
        // Written out where loops would keep the words in memory instead of in registers.
        four_rounds(&mut halves, [words_1[0], words_2[0]], ROUNDS[0]);
        four_rounds(&mut halves, [words_1[1], words_2[1]], ROUNDS[1]);
        four_rounds(&mut halves, [words_1[2], words_2[2]], ROUNDS[2]);
        four_rounds(&mut halves, [words_1[3], words_2[3]], ROUNDS[3]);
        sixteen_rounds(&mut halves, &mut words_1, &mut words_2, 4);
        sixteen_rounds(&mut halves, &mut words_1, &mut words_2, 8);
        sixteen_rounds(&mut halves, &mut words_1, &mut words_2, 12);
        for (half, before) in halves.as_flattened_mut().iter_mut().zip(before.as_flattened()) {
            *half = _mm_add_epi32(*half, *before);
        }
    }
    let [state_1, state_2] = states;
    store_state(state_1, halves[0]);
    store_state(state_2, halves[1]);
}

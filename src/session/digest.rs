//! SHA-256 of many texts at once.
//!
//! This file touches nothing but the bytes it is given. It promises the digests that `Sha256` gives.
//!
//! A round of SHA-256 waits for the round before it, so one text at a time leaves half of the processor's SHA unit idle. Two
//! texts are hashed at once, a round of each in turn: twice as fast on processors that have such a unit.

use sha2::block_api::compress256;

const BLOCK_BYTES: usize = 64;
/// What a digest starts from (FIPS 180-4, section 5.3.3).
const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A text being hashed.
struct Lane<'a> {
    /// Which of the texts it is.
    number: usize,
    state: [u32; 8],
    /// Whole blocks not hashed yet.
    blocks: &'a [[u8; BLOCK_BYTES]],
    /// What stands behind the last whole block, with the padding, and how many blocks of it are not hashed yet.
    end: [[u8; BLOCK_BYTES]; 2],
    end_blocks: usize,
}

impl<'a> Lane<'a> {
    fn new(number: usize, text: &'a [u8]) -> Self {
        let (blocks, rest) = text.as_chunks();
        let mut end = [[0; BLOCK_BYTES]; 2];
        let bytes = end.as_flattened_mut();
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        let end_blocks = (rest.len() + 1 + 8).div_ceil(BLOCK_BYTES);
        let len_bits = text.len() as u64 * 8;
        bytes[end_blocks * BLOCK_BYTES - 8..end_blocks * BLOCK_BYTES]
            .copy_from_slice(&len_bits.to_be_bytes());
        Self { number, state: START, blocks, end, end_blocks }
    }

    fn finish(mut self, digests: &mut [[u8; 32]]) {
        compress256(&mut self.state, self.blocks);
        compress256(&mut self.state, &self.end[..self.end_blocks]);
        let digest = digests[self.number].as_chunks_mut().0;
        for (bytes, word) in digest.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
    }
}

/// Puts the digest of each text into `digests`, whose old content is lost.
pub(super) fn digest_all(texts: &[&[u8]], digests: &mut Vec<[u8; 32]>) {
    digests.clear();
    digests.resize(texts.len(), [0; 32]);
    let mut lanes = texts.iter().enumerate().map(|(number, text)| Lane::new(number, text));
    let (mut one, mut other) = (lanes.next(), lanes.next());
    while let (Some(a), Some(b)) = (&mut one, &mut other) {
        let both = a.blocks.len().min(b.blocks.len());
        let (of_a, of_b);
        ((of_a, a.blocks), (of_b, b.blocks)) = (a.blocks.split_at(both), b.blocks.split_at(both));
        compress_both([&mut a.state, &mut b.state], [of_a, of_b]);
        // Texts of one length end together, and the next two start together.
        if a.blocks.is_empty() && b.blocks.is_empty() && a.end_blocks == b.end_blocks {
            let ends = [&a.end[..a.end_blocks], &b.end[..b.end_blocks]];
            compress_both([&mut a.state, &mut b.state], ends);
            (a.end_blocks, b.end_blocks) = (0, 0);
        }
        for lane in [&mut one, &mut other] {
            if let Some(ended) = lane.take_if(|lane| lane.blocks.is_empty()) {
                ended.finish(digests);
                *lane = lanes.next();
            }
        }
    }
    for lane in [one, other].into_iter().flatten() {
        lane.finish(digests);
    }
}

/// Hashes equally many blocks of two texts.
fn compress_both(states: [&mut [u32; 8]; 2], blocks: [&[[u8; BLOCK_BYTES]]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sha")
        && std::arch::is_x86_feature_detected!("sse4.1")
        && std::arch::is_x86_feature_detected!("ssse3")
    {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { x86::compress_both(states, blocks) };
    }
    let [state_of_a, state_of_b] = states;
    for (block_of_a, block_of_b) in blocks[0].iter().zip(blocks[1]) {
        compress256(state_of_a, std::slice::from_ref(block_of_a));
        compress256(state_of_b, std::slice::from_ref(block_of_b));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    proptest! {
        #[test]
        fn digests_are_those_of_one_text_at_a_time(
            lens in proptest::collection::vec(prop_oneof![0usize..300, Just(1024)], 0..9),
        ) {
            let texts: Vec<Vec<u8>> =
                lens.iter().map(|len| (0..*len).map(|at| (at * 7 + len) as u8).collect()).collect();
            let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
            let mut digests = vec![[7; 32]];
            digest_all(&texts, &mut digests);
            let expected: Vec<[u8; 32]> = texts.iter().map(|text| Sha256::digest(text).into()).collect();
            prop_assert_eq!(digests, expected);
        }
    }
}

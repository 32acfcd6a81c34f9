//! Merges the bytes of a piece into tokens.
//!
//! At first each byte is a token. Then the two neighbours merge whose merged token has the lowest number, the leftmost of
//! equals first, until no two neighbours are a token together. Example, with the tokens `th` (1), `he` (2) and `the` (3):
//!
//! ```text
//! t h e h    th is 1, he is 2
//! th e h     the is 3
//! the h      the end: no token is "theh"
//! ```
//!
//! A long piece is merged window by window, because the time of the search grows with the square of the length. The tokens
//! of two windows belong together when the last token of the first and the first token of the second, merged from their
//! bytes, are these two tokens again: the tokens of a piece are right exactly if each two neighbours are. Otherwise the
//! second window begins some tokens earlier.

use super::table;

/// No pair of neighbours.
const NONE: u32 = u32::MAX;

/// The length of a window. A piece up to this length is one window.
const WINDOW_BYTES: usize = 64;

/// Merges pieces. The memory is used again for the next piece.
#[derive(Debug, Default)]
pub(super) struct Merger {
    tokens: Vec<u32>,
    /// The token that a token and its right neighbour are together.
    merged: Vec<u32>,
    /// The number of bytes of each token.
    len_bytes: Vec<u8>,
}

impl Merger {
    /// Returns the number of tokens of a piece.
    pub(super) fn count(&mut self, piece: &[u8]) -> usize {
        if piece.len() <= WINDOW_BYTES {
            self.merge(piece);
            return self.tokens.len();
        }
        // The lengths of the tokens before `end`.
        let mut before: Vec<u8> = Vec::new();
        let mut end = 0;
        while end < piece.len() {
            let next_end = piece.len().min(end + WINDOW_BYTES);
            let mut start = end;
            // The end of a window cuts a token, so its last tokens are merged again.
            let mut again = 2;
            loop {
                for len_bytes in before.drain(before.len().saturating_sub(again)..) {
                    start -= usize::from(len_bytes);
                }
                self.merge(&piece[start..next_end]);
                let first = usize::from(self.len_bytes[0]);
                let is_right = match before.last() {
                    None => true,
                    Some(last) => {
                        let pair = &piece[start - usize::from(*last)..start + first];
                        let mut other = Merger::default();
                        other.merge(pair);
                        other.len_bytes == [*last, first as u8]
                    }
                };
                if is_right {
                    break;
                }
                again *= 2;
            }
            before.extend_from_slice(&self.len_bytes);
            end = next_end;
        }
        before.len()
    }

    /// Merges the bytes of a window.
    fn merge(&mut self, bytes: &[u8]) {
        self.tokens.clear();
        self.tokens.extend(bytes.iter().map(|byte| table::token_of_byte(*byte)));
        self.merged.clear();
        self.merged.extend(self.tokens.windows(2).map(|pair| merged(pair[0], pair[1])));
        self.len_bytes.clear();
        self.len_bytes.resize(bytes.len(), 1);
        loop {
            let lowest = self.merged.iter().copied().min().unwrap_or(NONE);
            if lowest == NONE {
                return;
            }
            let Some(at) = self.merged.iter().position(|merged| *merged == lowest) else { return };
            self.tokens[at] = lowest;
            self.tokens.remove(at + 1);
            // No token has more than 128 bytes.
            self.len_bytes[at] += self.len_bytes.remove(at + 1);
            self.merged.remove(at);
            if at < self.merged.len() {
                self.merged[at] = merged(lowest, self.tokens[at + 1]);
            }
            if at > 0 {
                self.merged[at - 1] = merged(self.tokens[at - 1], lowest);
            }
        }
    }
}

fn merged(left: u32, right: u32) -> u32 {
    table::merged(left, right).unwrap_or(NONE)
}

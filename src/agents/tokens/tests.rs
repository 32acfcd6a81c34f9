//! Compares counts with those of the crate `bpe-openai`.

use proptest::prelude::*;

use super::*;

fn by_judge(text: &str) -> usize {
    bpe_openai::cl100k_base().count(text)
}

fn assert_same(text: &str) {
    let start: String = text.chars().take(200).collect();
    assert_eq!(count(text), by_judge(text), "{} bytes: {start:?}", text.len());
}

/// Asserts the pieces, and that the judge has the same.
fn assert_pieces(text: &str, expected: &[&str]) {
    let pieces: Vec<&str> = TextPieces::of(text).map(|piece| &text[piece.start..piece.end]).collect();
    assert_eq!(pieces, expected);
    assert_eq!(bpe_openai::cl100k_base().split(text).collect::<Vec<_>>(), expected);
}

#[test]
fn pieces_are_those_of_the_pattern() {
    assert_pieces("", &[]);
    assert_pieces("it's  12345!\n\n x", &["it", "'s", " ", " ", "123", "45", "!\n\n", " x"]);
    assert_pieces("I'LL 'tis we'Ve '\u{17F}o", &["I", "'LL", " '", "tis", " we", "'Ve", " '", "\u{17F}o"]);
    assert_pieces("'\u{17F}o'x'", &["'\u{17F}", "o", "'x", "'"]);
    assert_pieces(" \t\n \r\n   a", &[" \t\n \r\n", "  ", " a"]);
    assert_pieces("a   ", &["a", "   "]);
    assert_pieces("\n", &["\n"]);
    assert_pieces(
        "\t(x)\u{A0}\u{A0}y \u{3000}.",
        &["\t", "(x", ")", "\u{A0}", "\u{A0}y", " ", "\u{3000}", "."],
    );
    assert_pieces("e\u{301} ½٣4५ 日本語、x", &["e", "\u{301}", " ", "½٣4", "५", " 日本語", "、x"]);
}

#[test]
fn every_character_counts_as_by_the_judge() {
    let all: Vec<char> = ('\0'..=char::MAX).collect();
    // Puts each character between a letter, a digit, punctuation and white space, so that a wrong class
    // changes the pieces.
    for characters in all.chunks(64) {
        let text: String = characters
            .iter()
            .flat_map(|character| [*character, 'a', *character, '1', *character, '.', *character, ' '])
            .collect();
        assert_same(&text);
    }
}

#[test]
fn long_runs_count_as_by_the_judge() {
    let seeds = [
        "a", "ab", " ", "\n", "-", "=-", "日", "é", "0", "😀", "\t", "xyz", "aaab", "\u{300}", "()", "ſ",
        "_-",
    ];
    for seed in seeds {
        for len in [1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 66, 127, 128, 129, 130, 200, 1000, 4099] {
            assert_same(&seed.repeat(len));
            assert_same(&format!("x{}y", seed.repeat(len)));
        }
    }
}

#[test]
fn the_source_of_the_program_counts_as_by_the_judge() {
    for text in [include_str!("mod.rs"), include_str!("table.rs"), include_str!("../../../docs/agents.md")] {
        assert_same(text);
        let reversed: String = text.chars().rev().collect();
        assert_same(&reversed);
        let letters: String = text.chars().filter(|character| character.is_alphabetic()).collect();
        assert_same(&letters);
    }
}

/// Words of the vocabulary in any order, which merge across their ends more often than random letters.
fn vocabulary() -> impl Strategy<Value = String> {
    prop::collection::vec(0u32..100_000, 0..200).prop_map(|tokens| {
        let bytes = bpe_openai::cl100k_base().bpe.decode_tokens(&tokens);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

proptest! {
    #[test]
    fn texts_count_as_by_the_judge(text in prop_oneof![
        any::<String>(),
        vocabulary(),
        vocabulary().prop_map(|text| text.replace(|character: char| !character.is_alphabetic(), "")),
        "[ab]{0,400}",
        "[a-zA-Z]{0,400}",
        r"[\t\r\n .,'a-c0-2ſé\u{A0}]{0,80}",
        r"\PC{0,60}",
        r"[\p{L}\p{N}\p{M}\p{P}\p{Z}]{0,60}",
    ]) {
        assert_same(&text);
    }
}

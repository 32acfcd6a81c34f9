//! Properties of any line: odd documents, damaged documents, and comparison with serde_json.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::tests::{number, rewritten};
use super::*;

/// The text of a string between the quotes, in every spelling that matters.
fn odd_text() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"a",
        b"plain text of some length",
        b"0",
        b"\\u0061",
        b"\\uD83D",
        b"\\ude00",
        b"\\ud7FF",
        b"\\uE000",
        b"\\n",
        b"\\/",
        b"\\\"",
        b"\\\\",
        b"\\b\\f\\r\\t",
        b"\\u0000",
        b"\\u001f",
        b"\\u2028",
        b"\x7F",
        "é".as_bytes(),
        "😀".as_bytes(),
        "\u{D7FF}".as_bytes(),
        "\u{2028}".as_bytes(),
        "\u{FEFF}".as_bytes(),
        b"\xFF",
        b"\xE2\x82",
        b"\xF0\x9F\x98",
        b"\xF4\x90\x80\x80",
        b"\xED\xA0\x80",
        b"\xC0\xAF",
        b"\x80",
    ];
    vec(select(pieces), 0..5).prop_map(|pieces| pieces.concat())
}

fn odd_key() -> impl Strategy<Value = Vec<u8>> {
    let keys = "a b \\u0061 0 1 \\u0031 9 10 01 -0 -1 1e1 4294967294 4294967295 4294967296 9007199254740993 __proto__ \
                constructor toJSON length ";
    let keys: Vec<&str> = keys.split(' ').collect();
    prop_oneof![4 => select(keys).prop_map(|key| key.as_bytes().to_vec()), 1 => odd_text()]
}

fn odd_number() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => "-?(0|[1-9][0-9]{0,2})",
        9 => "-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,18})?([eE][-+]?[0-9]{1,3})?",
        1 => "-?[1-9][0-9]{14,24}",
    ]
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => select(vec![" ", "\t", "\r\n ", "   "])]
}

/// A JSON document as bytes: equal keys, index keys, odd numbers, escapes, broken UTF-8, white space.
fn odd_document() -> impl Strategy<Value = Vec<u8>> {
    let quoted = |text: Vec<u8>| [b"\"", &text[..], b"\""].concat();
    let leaf = prop_oneof![
        select(vec!["null", "true", "false", "[]", "{}", "\"\""]).prop_map(|word| word.as_bytes().to_vec()),
        odd_number().prop_map(String::into_bytes),
        odd_text().prop_map(quoted),
    ];
    leaf.prop_recursive(5, 60, 8, move |value| {
        let item = (space(), value.clone(), space())
            .prop_map(|(a, value, b)| [a.as_bytes(), &value, b.as_bytes()].concat())
            .boxed();
        let member = (space(), odd_key().prop_map(quoted), space(), item.clone())
            .prop_map(|(a, key, b, item)| [a.as_bytes(), &key, b.as_bytes(), b":", &item].concat())
            .boxed();
        prop_oneof![
            vec(item, 1..5).prop_map(|items| [b"[", &items.join(&b","[..])[..], b"]"].concat()),
            vec(member.clone(), 1..8).prop_map(|members| [b"{", &members.join(&b","[..])[..], b"}"].concat()),
            vec(member, 30..40).prop_map(|members| [b"{", &members.join(&b","[..])[..], b"}"].concat()),
        ]
    })
}

/// A document between white space of all kinds, often with a few bytes inserted, removed or overwritten.
pub(super) fn odd_line() -> impl Strategy<Value = Vec<u8>> {
    let around = || {
        let spaces: Vec<&[u8]> = vec![
            b"",
            b" ",
            b"\r",
            b"\x0B\x0C",
            "\u{FEFF}".as_bytes(),
            "\u{A0}\u{2009}".as_bytes(),
            "\u{3000}".as_bytes(),
            "\u{85}".as_bytes(),
            "\u{200B}".as_bytes(),
            b"\xE2\x80",
            b"\xA0",
            b"\xFF",
        ];
        prop_oneof![3 => Just(&b""[..]), 1 => select(spaces)]
    };
    let scraps: Vec<&[u8]> = vec![
        b"",
        b"",
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"0",
        b"-",
        b"+",
        b".",
        b"e",
        b"1e5",
        b"\\u",
        b"\\ud800",
        b"/",
        b"\n",
        b"\0",
        b"\x1F",
        b"\x7F",
        b"\xFF",
        b"\xE2",
        b"null",
        b"NaN",
        "\u{A0}".as_bytes(),
        "\u{2028}".as_bytes(),
    ];
    let edit = (any::<prop::sample::Index>(), 0..3usize, select(scraps));
    (around(), odd_document(), around(), prop_oneof![Just(vec![]), vec(edit, 1..4)]).prop_map(
        |(before, text, after, edits)| {
            let mut line = [before, &text, after].concat();
            for (place, cut, scrap) in edits {
                let at = place.index(line.len() + 1);
                let end = (at + cut).min(line.len());
                line.splice(at..end, scrap.iter().copied());
            }
            line
        },
    )
}

/// The value as serde_json has it, except for equal keys and surrogates.
fn to_serde(value: Value<'_>) -> serde_json::Value {
    match value.kind() {
        Kind::Null => serde_json::Value::Null,
        Kind::Bool => value.as_bool().unwrap().into(),
        Kind::Number => {
            let number = value.as_number().unwrap();
            match number.literal().parse::<i64>() {
                Ok(integer) => integer.into(),
                Err(_) => number.as_f64().into(),
            }
        }
        Kind::String => value.as_str().unwrap().into(),
        Kind::Array => value.items().map(to_serde).collect(),
        Kind::Object => {
            value.members().map(|(key, value)| (key.to_utf8_lossy().into_owned(), to_serde(value))).collect()
        }
    }
}

fn serde_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |value| {
        prop_oneof![
            vec(value.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("[0-9]{1,3}|\\PC{0,12}|a.{3}", value, 0..6)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_written_the_same_again(line in odd_line()) {
        if let Ok(text) = rewritten(&line) {
            prop_assert_eq!(rewritten(text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn an_unedited_odd_document_is_always_accepted(line in odd_document()) {
        prop_assert!(rewritten(&line).is_ok());
    }

    #[test]
    fn a_refusal_names_a_place_inside_the_line(line in vec(any::<u8>(), 0..40)) {
        if let Err(error) = Document::default().parse(&line) {
            prop_assert!(error.offset_bytes <= line.len());
        }
    }

    #[test]
    fn what_stands_before_the_named_place_is_not_to_blame(line in odd_line()) {
        let line = trim_js(&line);
        if let Err(error) = Document::default().parse(line) {
            let kept = &line[..error.offset_bytes];
            if let Err(again) = Document::default().parse(kept) {
                prop_assert_eq!(again, JsonError { offset_bytes: kept.len(), reason: JsonReason::UnexpectedEnd });
            }
        }
    }

    #[test]
    fn a_document_used_again_forgets_the_line_before(lines in vec(odd_line(), 2..5)) {
        let mut document = Document::default();
        for line in &lines {
            let again = document.parse(trim_js(line)).map(|value| value.to_string());
            prop_assert_eq!(again, rewritten(line));
        }
    }

    #[test]
    fn whatever_serde_json_accepts_is_accepted(line in odd_line()) {
        let line = trim_js(&line);
        if serde_json::from_slice::<serde_json::Value>(line).is_ok() {
            prop_assert!(Document::default().parse(line).is_ok());
        }
    }

    #[test]
    fn what_serde_json_writes_is_read_as_it_was_meant(value in serde_value()) {
        for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            let mut document = Document::default();
            prop_assert_eq!(&to_serde(document.parse(text.as_bytes()).unwrap()), &value);
        }
    }

    #[test]
    fn strings_are_written_as_serde_json_reads_them(text in any::<String>()) {
        let mut written = Vec::new();
        write_js_string(text.as_bytes(), &mut written);
        prop_assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), text);
    }

    #[test]
    fn numbers_are_written_so_that_they_come_back(value in any::<f64>()) {
        prop_assume!(value.is_finite());
        let mut written = Vec::new();
        write_js_number(value, &mut written);
        let text = String::from_utf8(written).unwrap();
        prop_assert_eq!(number(&text).1, value);
    }
}

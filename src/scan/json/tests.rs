//! The promises of this module, one sentence a test.

#![allow(clippy::unwrap_used)]

use super::*;

/// What [`stringify`] makes of a line, or why it is not JSON.
pub(super) fn rewritten(line: &[u8]) -> Result<String, JsonError> {
    Document::default().parse(trim_js(line)).map(|value| value.to_string())
}

#[track_caller]
fn assert_rewritten(line: impl AsRef<[u8]>, expected: &str) {
    assert_eq!(rewritten(line.as_ref()).as_deref(), Ok(expected));
}

#[track_caller]
fn assert_refused(line: impl AsRef<[u8]>, offset_bytes: usize, reason: JsonReason) {
    assert_eq!(rewritten(line.as_ref()), Err(JsonError { offset_bytes, reason }));
}

/// The value of a number literal, whole and as a double.
pub(super) fn number(literal: &str) -> (Option<i64>, f64) {
    let mut document = Document::default();
    let number = document.parse(literal.as_bytes()).unwrap().as_number().unwrap();
    (number.as_i64(), number.as_f64())
}

#[test]
fn a_compact_line_is_written_as_it_was_read() {
    let line = r#"{"v":1,"kind":"turn","record":{"a":[1,2.5,"x y",true,false,null,{},[],""]}}"#;
    assert_rewritten(line, line);
}

#[test]
fn white_space_between_tokens_is_dropped() {
    assert_rewritten("\t{ \"a\" :\r[ 1 , 2 ]\n, \"b\" : { } }", r#"{"a":[1,2],"b":{}}"#);
}

#[test]
fn every_javascript_white_space_is_trimmed_at_both_ends_and_nothing_else() {
    let spaces = "\t\n\u{B}\u{C}\r \u{A0}\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\u{2005}\u{2006}\u{2007}\
                  \u{2008}\u{2009}\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}";
    assert_eq!(trim_js(format!("{spaces}a b{spaces}").as_bytes()), b"a b");
    assert_eq!(trim_js(spaces.as_bytes()), b"");
    for other in ["\u{85}", "\u{180E}", "\u{200B}", "\u{2060}", "\u{1C}", "\0", "\u{3001}", "\u{2027}"] {
        assert_eq!(trim_js(other.as_bytes()), other.as_bytes(), "{other:?}");
    }
    for cut in [&b"\xC2"[..], b"\xE2\x80", b"\x80\x80", b"\xA0", b"\xBB\xBF"] {
        assert_eq!(trim_js(cut), cut);
    }
}

#[test]
fn the_last_of_equal_keys_wins_at_the_place_of_the_first() {
    assert_rewritten(r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#);
    assert_rewritten(r#"{"x":{"a":[1],"\u0061":{"b":1,"b":2},"a":[3]}}"#, r#"{"x":{"a":[3]}}"#);
    assert_rewritten(r#"{"2":1,"b":0,"1":{"k":1},"2":{"k":[2]}}"#, r#"{"1":{"k":1},"2":{"k":[2]},"b":0}"#);
}

#[test]
fn equal_keys_are_found_in_large_objects_too() {
    let members: Vec<String> = (0..1000).map(|n| format!(r#""k{}":{n}"#, n % 500)).collect();
    let expected: Vec<String> = (500..1000).map(|n| format!(r#""k{}":{n}"#, n - 500)).collect();
    assert_rewritten(format!("{{{}}}", members.join(",")), &format!("{{{}}}", expected.join(",")));
}

#[test]
fn members_are_counted_and_found_by_their_decoded_keys() {
    let line = br#"{"a":1,"\u0062":{"c":[10,20]},"a":2,"7":null}"#;
    let mut document = Document::default();
    let value = document.parse(line).unwrap();
    assert_eq!((value.kind(), value.len()), (Kind::Object, 3));
    assert_eq!(value.get("a").unwrap().as_number().unwrap().as_i64(), Some(2));
    assert_eq!(value.get("b").unwrap().get("c").unwrap().at(1).unwrap().to_string(), "20");
    assert!(value.get("7").unwrap().is_null());
    assert!(value.get("c").is_none() && value.at(0).is_none() && value.items().next().is_none());
    let keys = |members: ObjectMembers<'_>| {
        members.map(|(key, _)| key.to_utf8_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(value.members()), ["7", "a", "b"]);
    assert_eq!(keys(value.members_in_text_order()), ["a", "b", "7"]);
}

#[test]
fn array_index_keys_come_first_and_ascending() {
    assert_rewritten(
        r#"{"b":0,"10":1,"9":2,"01":3,"4294967295":4,"4294967294":5,"-1":6,"0":7,"1.5":8,"a":9}"#,
        r#"{"0":7,"9":2,"10":1,"4294967294":5,"b":0,"01":3,"4294967295":4,"-1":6,"1.5":8,"a":9}"#,
    );
    assert_eq!(is_array_index_key(b"0"), Some(0));
    assert_eq!(is_array_index_key(b"4294967294"), Some(u32::MAX - 1));
    for key in [
        "",
        "00",
        "01",
        "4294967295",
        "9999999999",
        "18446744073709551617",
        "+1",
        "-0",
        "1e1",
        "1 ",
        "\u{661}",
    ] {
        assert_eq!(is_array_index_key(key.as_bytes()), None, "{key}");
    }
}

#[test]
fn proto_is_a_key_like_any_other() {
    assert_rewritten(
        r#"{"__proto__":"x","a":{"__proto__":null}}"#,
        r#"{"__proto__":"x","a":{"__proto__":null}}"#,
    );
}

#[test]
fn lone_surrogates_are_kept_and_pairs_are_joined() {
    assert_rewritten(r#"["\uD83D","\ude00x","\ud83d\ud83d\ude00"]"#, r#"["\ud83d","\ude00x","\ud83d😀"]"#);
    assert_rewritten(
        r#"["\ud83d\\ude00","\ud83d \ude00","\ude00\ud83d"]"#,
        r#"["\ud83d\\ude00","\ud83d \ude00","\ude00\ud83d"]"#,
    );
    assert_rewritten(
        r#"["\ud800\udc00","\uDBFF\uDFFF","\udfff\udbff"]"#,
        "[\"\u{10000}\",\"\u{10FFFF}\",\"\\udfff\\udbff\"]",
    );
    let mut document = Document::default();
    let value = document.parse(br#""a\ud800\udbffb\udfff\u00e9""#).unwrap();
    assert_eq!(value.as_js_str().unwrap().as_wtf8(), b"a\xED\xA0\x80\xED\xAF\xBFb\xED\xBF\xBF\xC3\xA9");
    assert_eq!(value.as_str().unwrap(), "a\u{FFFD}\u{FFFD}b\u{FFFD}é");
}

#[test]
fn hangul_next_to_the_surrogate_range_is_not_escaped() {
    assert_rewritten(r#"["\ud7ff퟿","\ue000"]"#, "[\"\u{D7FF}\u{D7FF}\",\"\u{E000}\"]");
}

#[test]
fn every_escape_is_read_and_only_the_needed_ones_are_written() {
    assert_rewritten(
        r#""\"\\\/\b\f\n\r\t\u0000\u001F\u007f\u2028\u2029\u00E9é""#,
        "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\u{7F}\u{2028}\u{2029}éé\"",
    );
}

#[test]
fn long_strings_are_escaped_at_every_place() {
    for len in [0, 7, 31, 32, 33, 95, 96, 97, 160, 200] {
        for at in 0..=len {
            for special in ['\n', '"', '\\', '\u{1F}', ' ', '\u{7F}', 'é'] {
                let mut text = "x".repeat(len);
                text.insert(at, special);
                let line = serde_json::to_string(&text).unwrap();
                assert_rewritten(&line, &line);
            }
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_become_one_replacement_for_each_maximal_subpart() {
    assert_rewritten(
        b"[\"\xFF\xFE\",\"a\xE2\x82\",\"\xF0\x9F\x98\\n\",\"\xED\xA0\x80\",\"\xC0\xAF\",\"ok\"]",
        "[\"\u{FFFD}\u{FFFD}\",\"a\u{FFFD}\",\"\u{FFFD}\\n\",\"\u{FFFD}\u{FFFD}\u{FFFD}\",\"\u{FFFD}\u{FFFD}\",\"ok\"]",
    );
    assert_rewritten(b"{\"\xFF\":1,\"\xFE\":2}", "{\"\u{FFFD}\":2}");
    assert_refused(b"[1\xFF]", 2, JsonReason::ExpectedCommaOrBracket);
}

#[test]
fn strings_without_escapes_borrow_from_the_line() {
    let line = "[\"plain é\"]".as_bytes();
    let mut document = Document::default();
    let text = document.parse(line).unwrap().at(0).unwrap().as_js_str().unwrap().as_wtf8();
    assert!(line.as_ptr_range().contains(&text.as_ptr()));
}

#[test]
fn numbers_keep_their_value_however_they_are_spelled() {
    for (literal, integer, double) in [
        ("0", Some(0), 0.0),
        ("-0", Some(0), -0.0),
        ("-0.0", Some(0), -0.0),
        ("1e1", Some(10), 10.0),
        ("1.0", Some(1), 1.0),
        ("10E-1", Some(1), 1.0),
        ("1.5", None, 1.5),
        ("9007199254740993", Some(9_007_199_254_740_993), 9_007_199_254_740_992.0),
        ("9007199254740993.0", Some(9_007_199_254_740_992), 9_007_199_254_740_992.0),
        ("9223372036854775807", Some(i64::MAX), 9_223_372_036_854_775_808.0),
        ("-9223372036854775808", Some(i64::MIN), -9_223_372_036_854_775_808.0),
        ("9223372036854775808", None, 9_223_372_036_854_775_808.0),
        ("-9223372036854775809", None, -9_223_372_036_854_775_808.0),
        ("9223372036854775808.0", None, 9_223_372_036_854_775_808.0),
        ("-9223372036854775808e0", Some(i64::MIN), -9_223_372_036_854_775_808.0),
        ("1e300", None, 1e300),
        ("1e400", None, f64::INFINITY),
        ("-1e400", None, f64::NEG_INFINITY),
        ("1e-400", Some(0), 0.0),
        ("5e-324", None, 5e-324),
    ] {
        assert_eq!(number(literal).0, integer, "{literal}");
        assert_eq!(number(literal).1.to_bits(), double.to_bits(), "{literal}");
    }
}

#[test]
fn integers_are_written_digit_for_digit_and_floats_in_javascript_form() {
    assert_rewritten("[-0,-0.0,0e5,1e1,1.0,1.50,100e-2]", "[0,0,0,10,1,1.5,1]");
    assert_rewritten(
        "[9007199254740993,-123456789012345678901234567890]",
        "[9007199254740993,-123456789012345678901234567890]",
    );
    assert_rewritten(
        "[1e20,1e21,1E+21,1.5e300,1e-6,1e-7,123e-9]",
        "[100000000000000000000,1e+21,1e+21,1.5e+300,0.000001,1e-7,1.23e-7]",
    );
    assert_rewritten("[1e400,-1e400,1e-400]", "[null,null,0]");
    let digits = "7".repeat(400);
    assert_rewritten(&digits, &digits);
}

#[test]
fn numbers_print_as_javascript_prints_them() {
    let printed = |value| {
        let mut text = Vec::new();
        write_js_number(value, &mut text);
        String::from_utf8(text).unwrap()
    };
    let texts = [10.0, 1.5, 1e21, -0.0, 1e-7, f64::INFINITY, 9_007_199_254_740_993.0].map(printed);
    assert_eq!(texts, ["10", "1.5", "1e+21", "0", "1e-7", "Infinity", "9007199254740992"]);
}

#[test]
fn truth_is_javascripts() {
    for (line, truth) in [
        ("null", false),
        ("false", false),
        ("true", true),
        ("0", false),
        ("-0", false),
        ("0.0e9", false),
        ("1e-400", false),
        ("5e-324", true),
        ("1e400", true),
        (r#""""#, false),
        (r#""0""#, true),
        (r#""\ud800""#, true),
        ("[]", true),
        ("{}", true),
        (r#"{"0":0}"#, true),
    ] {
        assert_eq!(Document::default().parse(line.as_bytes()).unwrap().is_truthy(), truth, "{line}");
    }
}

#[test]
fn a_line_that_is_not_json_is_refused_with_place_and_reason() {
    use JsonReason::*;
    for (line, offset_bytes, reason) in [
        ("", 0, UnexpectedEnd),
        ("[1,2", 4, UnexpectedEnd),
        (r#"{"a""#, 4, UnexpectedEnd),
        (r#"{"a":"#, 5, UnexpectedEnd),
        (r#"{"a":1,"#, 7, UnexpectedEnd),
        (r#"["abc"#, 5, UnexpectedEnd),
        (r#"["abc\"#, 6, UnexpectedEnd),
        ("-", 1, UnexpectedEnd),
        ("[1.", 3, UnexpectedEnd),
        ("nul", 0, ExpectedValue),
        ("[1,]", 3, ExpectedValue),
        ("[,1]", 1, ExpectedValue),
        ("NaN", 0, ExpectedValue),
        ("+1", 0, ExpectedValue),
        (".5", 0, ExpectedValue),
        ("'a'", 0, ExpectedValue),
        ("{'a':1}", 1, ExpectedKey),
        (r#"{"a":1,}"#, 7, ExpectedKey),
        (r#"{"a" 1}"#, 5, ExpectedColon),
        (r#"{"a":1 "b":2}"#, 7, ExpectedCommaOrBrace),
        (r#"{"a":1]"#, 6, ExpectedCommaOrBrace),
        ("[1}", 2, ExpectedCommaOrBracket),
        ("[01]", 2, ExpectedCommaOrBracket),
        ("[-a]", 2, ExpectedDigit),
        ("[1.e1]", 3, ExpectedDigit),
        ("[1e+]", 4, ExpectedDigit),
        ("[\"a\tb\"]", 3, ControlCharacter),
        ("[\"a\0\"]", 3, ControlCharacter),
        (r#"["a\x"]"#, 3, UnknownEscape),
        (r#"["\u12g4"]"#, 2, ExpectedHexDigits),
        (r#"["\u+123"]"#, 2, ExpectedHexDigits),
        (r#"["\ud83d\u12"]"#, 8, ExpectedHexDigits),
        ("{}{}", 2, TrailingText),
        ("1 // one", 2, TrailingText),
        ("00", 1, TrailingText),
        ("truefalse", 4, TrailingText),
        ("\u{85}1", 0, ExpectedValue),
        ("[1,\u{A0}2]", 3, ExpectedValue),
    ] {
        assert_refused(line, offset_bytes, reason);
    }
    let error = rewritten(b"[1}").unwrap_err();
    assert_eq!(error.to_string(), "not JSON: expected ',' or ']' at byte 2 of the line");
    assert_eq!(JsonReason::ExpectedCommaOrBrace.to_string(), "expected ',' or '}'");
}

#[test]
fn a_million_levels_are_read_walked_and_written() {
    const LEVELS: usize = 1_000_000;
    let arrays = format!("{}{}", "[".repeat(LEVELS), "]".repeat(LEVELS));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(LEVELS), "}".repeat(LEVELS));
    let indexed = format!("{}1{}", r#"{"b":0,"1":"#.repeat(LEVELS), "}".repeat(LEVELS));
    let reordered = format!("{}1{}", r#"{"1":"#.repeat(LEVELS), r#","b":0}"#.repeat(LEVELS));
    let mut document = Document::default();
    for (line, expected) in [(&arrays, &arrays), (&objects, &objects), (&indexed, &reordered)] {
        assert_eq!(&document.parse(line.as_bytes()).unwrap().to_string(), expected);
    }
    let mut value = document.parse(objects.as_bytes()).unwrap();
    let mut depth = 0;
    while let Some(inner) = value.get("a") {
        value = inner;
        depth += 1;
    }
    assert_eq!((depth, value.kind()), (LEVELS, Kind::Number));
    assert_refused(&arrays[..LEVELS + 5], LEVELS + 5, JsonReason::UnexpectedEnd);
}

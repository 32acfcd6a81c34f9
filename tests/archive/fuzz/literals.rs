//! Literals for ledgers: boundary values, odd spellings, and texts that are no JSON.

/// String literals without their quotes.
#[rustfmt::skip]
pub const STRINGS: [&[u8]; 54] = [
    b"", b" ", b"*", b"a", b"A", b"aa", b"b", b"0", b"1", b"10", b"2", b"01", b"-1", b"1.5", b"4294967294",
    b"4294967295", b"99999999999", b"null", b"undefined", b"__proto__", b"constructor", b"workflowId", b"agentId",
    b"persona", b"tier", b"stamp", br"\u0000", br"a\u0000", br"a\u0000b", br"\u0001\u001f\u007f",
    br"\b\f\n\r\t\/\\\u0022", br#"\"quoted\""#, b"'; drop table turns; --", b"%_[0]$.a", b"../../etc/passwd",
    br"\ud800", br"\udfff", br"\udc00\ud800", br"x\ud83dy", br"\ud83d\ude00", br"\uD83D\uDE00", b"\xf0\x9f\x98\x80",
    b"\xef\xbf\xbd", b"\xff\xfe", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc3", b"\xc0\x80", b"\xef\xbb\xbfa",
    b"\xc2\x85", b"\xe2\x80\xa8", b"e\xcc\x81", b"\xc3\xa9", br"\u0061",
];

#[rustfmt::skip]
pub const NUMBERS: [&[u8]; 69] = [
    b"0", b"1", b"2", b"3", b"7", b"12", b"100", b"-1", b"-0", b"0.0", b"-0.0", b"0e5", b"1.0", b"1e0", b"1E+2",
    b"10e-1", b"1.5", b"-1.5", b"0.1", b"0.30000000000000004", b"127", b"128", b"-128", b"-129", b"32767", b"32768",
    b"8388608", b"-8388609", b"2147483648", b"4294967296", b"140737488355327", b"140737488355328",
    b"-140737488355329", b"9007199254740991", b"9007199254740992", b"9007199254740993", b"9007199254740993.0",
    b"-9007199254740993", b"9223372036854774784", b"9223372036854775807", b"9223372036854775807.0",
    b"9223372036854775808", b"9223372036854776000", b"18446744073709551615", b"18446744073709551616",
    b"9.223372036854774784e18", b"-9223372036854774784", b"-9223372036854775807", b"-9223372036854775808",
    b"-9223372036854775808.0", b"-9.223372036854775808e18", b"-9223372036854777856", b"-9223372036854776833",
    b"-9223372036854775809", b"-9223372036854776000", b"-9223372036854776832", b"-18446744073709551616", b"123456789012345678901234567890", b"1e20", b"1e21", b"1e-6", b"1e-7",
    b"1.7976931348623157e308", b"1e300", b"1e400", b"-1e400", b"1e-400", b"5e-324", b"123456789.12345678",
];

/// Values of other types, and texts that are no JSON.
#[rustfmt::skip]
pub const VALUES: [&[u8]; 33] = [
    b"null", b"null", b"null", b"true", b"false", b"[]", b"{}", b"[null]",
    b"[1,\"a\",{\"2\":0,\"b\":1e3,\"1\":-0.0}]", b"{\"a\":{\"a\":{}}}", b"{\"b\":1,\"1\":2,\"b\":3}", b"\"\"",
    b"\"0\"", b"\"x\"", b"\"full\"", b"\"cost-only\"", b"0", b"1",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", b" \t\r 1 ", b"01", b"+1",
    b"1.", b".5", b"-", b"NaN", b"Infinity", b"-Infinity", b"tru", b"\"\\x41\"", b"\"\t\"", b"\"\x00\"", b"[1,]",
];

#[rustfmt::skip]
pub const CLASSES: [&str; 8] = [
    "full", "usage-only", "partial", "aggregate-only", "cost-only", "Full", "", "\\u0066ull",
];

//! Writing JSON as `JSON.stringify` does, without spaces. Touches nothing but the buffer it appends to.

use super::document::Tag;
use super::text::plain_len_bytes;
use super::value::{Items, Members, Value};

/// Appends a value as `JSON.stringify` prints it: compact, keys in JavaScript's order.
///
/// The text is always UTF-8. Integer literals keep all their digits ([`Number::write_json`](super::Number::write_json)).
pub fn stringify(value: Value<'_>, out: &mut Vec<u8>) {
    enum Open<'d> {
        Array(Items<'d>),
        Object(Members<'d>),
    }
    let mut open = Vec::new();
    let mut value = value;
    loop {
        match value.node().tag {
            Tag::Array => {
                out.push(b'[');
                open.push(Open::Array(value.items()));
            }
            Tag::Object | Tag::IndexedObject => {
                out.push(b'{');
                open.push(Open::Object(value.members()));
            }
            Tag::Plain | Tag::Decoded => write_string(value, out),
            Tag::Number => value.number().write_json(out),
            Tag::True => out.extend_from_slice(b"true"),
            Tag::False => out.extend_from_slice(b"false"),
            Tag::Null => out.extend_from_slice(b"null"),
        }
        value = loop {
            // No value ends in an opening bracket, so one there means that nothing precedes the next item.
            let is_first = matches!(out.last(), Some(b'[' | b'{'));
            let next = match open.last_mut() {
                None => return,
                Some(Open::Array(items)) => items.next().map(|item| (None, item)),
                Some(Open::Object(members)) => members.next_pair().map(|(key, value)| (Some(key), value)),
            };
            if let Some((key, value)) = next {
                if !is_first {
                    out.push(b',');
                }
                if let Some(key) = key {
                    write_string(key, out);
                    out.push(b':');
                }
                break value;
            }
            out.push(if let Some(Open::Array(_)) = open.pop() { b']' } else { b'}' });
        };
    }
}

/// Appends a string node; one that stood in the line as it is needs no look at its bytes.
fn write_string(string: Value<'_>, out: &mut Vec<u8>) {
    let text = string.js_str().as_wtf8();
    if string.node().tag == Tag::Plain {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    } else {
        write_js_string(text, out);
    }
}

/// Appends a string in quotes as `JSON.stringify` prints it: `"`, `\` and everything below U+0020 escaped, a lone surrogate
/// as `\udxxx`, the rest as it is.
///
/// `wtf8` is UTF-8, or WTF-8 with surrogate pairs joined, as [`JsStr::as_wtf8`](super::JsStr::as_wtf8) gives it.
pub fn write_js_string(wtf8: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = wtf8;
    loop {
        let (plain, special) = rest.split_at(plain_len_bytes(rest));
        write_plain(plain, out);
        let [byte, behind @ ..] = special else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => write_unicode_escape(u16::from(*control), out),
        }
        rest = behind;
    }
    out.push(b'"');
}

/// Text in which surrogates alone need an escape: 0xED and then 0xA0 or more leads one.
fn write_plain(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(lead) = memchr::memchr(0xED, text) {
        let (before, from_lead) = text.split_at(lead);
        out.extend_from_slice(before);
        let (character, behind) = from_lead.split_at(from_lead.len().min(3));
        match character {
            [_, middle @ 0xA0..=0xBF, last] => {
                let unit = 0xD000 | u16::from(middle & 0x3F) << 6 | u16::from(last & 0x3F);
                write_unicode_escape(unit, out);
            }
            _ => out.extend_from_slice(character),
        }
        text = behind;
    }
    out.extend_from_slice(text);
}

fn write_unicode_escape(unit: u16, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(HEX[usize::from(unit >> shift & 0xF)]);
    }
}

/// Appends a number as JavaScript's `String(value)` prints it: `10`, `1.5`, `1e+21`, `0` for -0, `Infinity`.
pub fn write_js_number(value: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(ryu_js::Buffer::new().format(value).as_bytes());
}

//! Writes strings and numbers as `JSON.stringify` does. Touches nothing but the output buffer.

use super::text::{SURROGATE_LEAD, printable_len_bytes};

/// Appends a string in quotes as `JSON.stringify` prints it: `"`, `\` and everything below U+0020 escaped, a lone surrogate as
/// `\udxxx`, all else unchanged.
///
/// `wtf8` is UTF-8, or WTF-8 with surrogate pairs joined, as in [`JsStr::as_wtf8`](super::JsStr::as_wtf8).
pub fn write_js_string(wtf8: &[u8], out: &mut Vec<u8>) {
    // Most texts have few escapes.
    out.reserve(wtf8.len() + wtf8.len() / 16 + 2);
    out.push(b'"');
    let mut rest = wtf8;
    loop {
        let (plain, special) = rest.split_at(printable_len_bytes(rest));
        out.extend_from_slice(plain);
        let [byte, behind @ ..] = special else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            &SURROGATE_LEAD => {
                if let [middle @ 0xA0..=0xBF, last, after @ ..] = behind {
                    write_unicode_escape(
                        0xD000 | u16::from(middle & 0x3F) << 6 | u16::from(last & 0x3F),
                        out,
                    );
                    rest = after;
                    continue;
                }
                out.push(SURROGATE_LEAD);
            }
            control => write_unicode_escape(u16::from(*control), out),
        }
        rest = behind;
    }
    out.push(b'"');
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
    // Most numbers are whole, and JavaScript prints whole numbers as integers do.
    let whole = value as i64;
    if whole as f64 == value && whole.unsigned_abs() < 1 << 53 {
        return out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
    }
    out.extend_from_slice(ryu_js::Buffer::new().format(value).as_bytes());
}

//! JSON exactly as JavaScript reads and writes it: accepts what `JSON.parse` accepts, prints what `JSON.stringify` prints.
//!
//! The fast parser of the scan refuses some lines that the TypeScript package accepts: lone surrogate escapes, integers beyond
//! 64 bits, bytes that are not UTF-8, deep nesting. This module reads such lines, and every record that is written again.
//! Touches nothing but the bytes of its arguments. Guarantees:
//!
//! - [`Document::parse`] accepts a line exactly when `JSON.parse` accepts the line's text, at any nesting depth; nothing here
//!   recurses. Bytes that are not UTF-8 count as U+FFFD, one for each maximal subpart, as in WHATWG decoders.
//! - Strings keep lone surrogates (they are WTF-8 inside, [`JsStr`]), numbers keep their digits ([`JsonNumber`]).
//! - Of two equal keys in an object, the last gives the value and the first gives the place.
//! - [`stringify()`] prints what `JSON.stringify` prints, except that integer literals keep all their digits where JavaScript
//!   would round them.
//!
//! ```
//! use relayburn_ledger::scan::json::{Document, stringify, trim_js};
//!
//! let mut document = Document::default();
//! let line = trim_js(b"\xEF\xBB\xBF {\"b\": 1e1, \"2\": \"\\ud800\", \"1\": 9007199254740993, \"b\": 1.50}\r");
//! let value = document.parse(line)?;
//! assert_eq!(value.get("b").and_then(|b| b.as_number()).map(|n| n.as_f64()), Some(1.5));
//! let mut text = Vec::new();
//! stringify(value, &mut text);
//! assert_eq!(text, br#"{"1":9007199254740993,"2":"\ud800","b":1.5}"#);
//! # Ok::<(), relayburn_ledger::scan::json::JsonError>(())
//! ```

mod document;
mod parser;
pub(crate) mod tape;
mod text;
mod value;
mod write;

#[cfg(test)]
pub(crate) mod differential;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use document::Document;
pub use parser::LINE_MAX_BYTES;
pub(crate) use text::is_in_braces;
pub use text::{JsStr, is_array_index_key, trim_js};
pub use value::{Items, JsonNumber, Kind, ObjectMembers, Value, stringify};
pub use write::{write_js_number, write_js_string};

/// Why and where `JSON.parse` would refuse a line. The line is not JSON: skip the line and report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {reason} at byte {offset_bytes} of the line")]
pub struct JsonError {
    /// Offset of the offending byte in the bytes given to [`Document::parse`]; the length of the bytes when they end too early.
    pub offset_bytes: usize,
    /// What is wrong at the offset.
    pub reason: JsonReason,
}

/// Why a line is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonReason {
    /// The line ends inside a value, or has no value.
    #[error("unexpected end")]
    UnexpectedEnd,
    /// Another byte where a value must start.
    #[error("expected a value")]
    ExpectedValue,
    /// An object's member does not start with a string; also a trailing comma.
    #[error("expected a string as key")]
    ExpectedKey,
    /// No colon follows a key.
    #[error("expected ':'")]
    ExpectedColon,
    /// A member of an object is followed by neither a comma nor the object's end.
    #[error("expected ',' or '}}'")]
    ExpectedCommaOrBrace,
    /// An item of an array is followed by neither a comma nor the array's end.
    #[error("expected ',' or ']'")]
    ExpectedCommaOrBracket,
    /// A sign, a decimal point or an exponent without a digit after it.
    #[error("expected a digit")]
    ExpectedDigit,
    /// A byte below 0x20 inside a string.
    #[error("control character in string")]
    ControlCharacter,
    /// A backslash followed by none of `"\/bfnrtu`.
    #[error("unknown escape in string")]
    UnknownEscape,
    /// `\u` without four hexadecimal digits.
    #[error("expected four hexadecimal digits")]
    ExpectedHexDigits,
    /// Something other than white space follows the value.
    #[error("unexpected text after the value")]
    TrailingText,
    /// The line is longer than [`LINE_MAX_BYTES`]; offsets inside a document are 32 bits wide.
    #[error("line longer than 1.4 GB")]
    LineTooLong,
}

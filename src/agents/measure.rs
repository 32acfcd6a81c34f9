//! Measures texts: bytes, code units, hashes, tokens.
//!
//! Tokens are those of OpenAI's cl100k_base vocabulary (`tokens`).

use std::borrow::Cow;

use super::js::{self, RecordText};
use super::tokens;
use crate::record::Id;
use crate::scan::json::{Kind, Value};

/// Texts that the encoder of the TypeScript package refuses.
const SPECIAL_TOKENS: [&[u8]; 5] =
    [b"<|endoftext|>", b"<|fim_prefix|>", b"<|fim_middle|>", b"<|fim_suffix|>", b"<|endofprompt|>"];

/// Returns the *measured text* of a result: a string itself, none for null or an absent value, else the JSON text.
pub(super) fn measured_text(value: Option<Value<'_>>) -> Option<Cow<'_, [u8]>> {
    let value = value.filter(|value| !value.is_null())?;
    Some(match value.kind() {
        Kind::String => Cow::Borrowed(js::wtf8(value).unwrap_or_default()),
        _ => Cow::Owned(js::json(value)),
    })
}

/// The first 16 hex digits of a SHA-256.
pub(super) type HexDigits = [u8; 16];

/// Returns the first 16 hex digits of the SHA-256.
pub(super) fn hash16(wtf8: &[u8]) -> HexDigits {
    Id::of(js::to_utf8(wtf8).as_bytes()).digits()
}

/// Returns the number of cl100k_base tokens. Special tokens count as plain text.
pub(super) fn approx_tokens(wtf8: &[u8]) -> usize {
    tokens::count(&js::to_utf8(wtf8))
}

/// Returns whether the text has a special token, at which the TypeScript package gives a whole file up.
pub(super) fn has_special_token(wtf8: &[u8]) -> bool {
    memchr::memmem::find_iter(wtf8, b"<|")
        .any(|at| SPECIAL_TOKENS.iter().any(|token| wtf8[at..].starts_with(token)))
}

/// A text or a result of a user turn.
pub(super) struct UserBlock<'t> {
    /// The tool use id of a result.
    pub call: Option<&'t [u8]>,
    pub text: Cow<'t, [u8]>,
    pub is_error: bool,
}

impl<'t> UserBlock<'t> {
    /// A text of a prompt.
    pub(super) fn of_text(text: &'t [u8]) -> Self {
        UserBlock { call: None, text: text.into(), is_error: false }
    }

    /// Appends the members of the block.
    pub(super) fn write(&self, record: &mut RecordText) {
        record.text("kind", if self.call.is_some() { b"tool_result" } else { b"text" });
        record.maybe_text("toolUseId", self.call);
        // A lone surrogate has three bytes, like the U+FFFD that it becomes.
        record.count("byteLen", self.text.len());
        record.count("approxTokens", approx_tokens(&self.text));
        record.flag_if("isError", self.is_error);
    }
}

/// Appends `contentLength` and `contentHash` of a measured text, if there is one. Returns the hash.
pub(super) fn write_content_measures(text: Option<&[u8]>, record: &mut RecordText) -> Option<HexDigits> {
    let text = text?;
    let hash = hash16(text);
    record.count("contentLength", js::utf16_len(text));
    record.text("contentHash", &hash);
    Some(hash)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    #[test]
    fn hashes_and_tokens_of_known_texts() {
        assert_eq!(hash16(b"{}"), *b"44136fa355b3678a");
        assert_eq!(hash16(b"\xED\xA0\x80"), hash16("\u{FFFD}".as_bytes()));
        assert_eq!(approx_tokens(b""), 0);
        assert_eq!(approx_tokens(b"hello world"), 2);
        assert_eq!(approx_tokens(b"<|endoftext|>"), 7);
        assert!(has_special_token(b"x <| <|fim_middle|>") && !has_special_token(b"<|endoftext"));
    }

    #[test]
    fn a_run_of_one_letter_is_linear() {
        // A quadratic encoder would take a quarter of an hour.
        let text = vec![b'a'; 1_000_000];
        assert_eq!(approx_tokens(&text), 125_000);
    }

    #[test]
    fn results_are_measured_as_text_or_as_json() {
        let mut document = Document::default();
        let value = document.parse(br#"{"s":"x","n":null,"o":[1.0,{"b":1}],"z":0}"#).unwrap();
        let measured = |key| measured_text(value.get(key)).map(Cow::into_owned);
        assert_eq!(measured("s").unwrap(), b"x");
        assert_eq!(measured("n"), None);
        assert_eq!(measured("absent"), None);
        assert_eq!(measured("o").unwrap(), br#"[1,{"b":1}]"#);
        assert_eq!(measured("z").unwrap(), b"0");
    }
}

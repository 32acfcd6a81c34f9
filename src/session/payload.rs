//! Entries to be appended, and their payloads.
//!
//! Guarantees: the text of a payload is one JSON value without blanks between tokens, and therefore one line.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::error::SessionError;

/// The longest id of an entry to be appended, in bytes. Ids are limited because every handle holds all of them in memory.
pub const MAX_ID_BYTES: usize = 4096;

/// An entry to be appended.
#[derive(Debug, Clone)]
pub struct NewEntry<'a> {
    /// Unique in the store; any text.
    pub id: Cow<'a, str>,
    /// Id of the entry that this entry follows; `None` for a root.
    pub parent_id: Option<Cow<'a, str>>,
    /// `message`, `model_change` and so on; any text.
    pub entry_type: Cow<'a, str>,
    /// Any JSON value.
    pub payload: EntryPayload<'a>,
}

/// The compact JSON text of a payload, which is hashed and written.
#[derive(Debug, Clone)]
pub struct EntryPayload<'a>(Text<'a>);

#[derive(Debug, Clone)]
enum Text<'a> {
    Borrowed(&'a RawValue),
    Owned(Box<RawValue>),
}

fn invalid(error: &serde_json::Error) -> SessionError {
    SessionError::InvalidArgument { reason: format!("the payload is not JSON: {error}") }
}

fn owned(text: String) -> Result<EntryPayload<'static>, SessionError> {
    RawValue::from_string(text).map(|raw| EntryPayload(Text::Owned(raw))).map_err(|error| invalid(&error))
}

impl<'a> EntryPayload<'a> {
    /// Serialises a value as the format's other writers do: compact, object keys in byte order.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] when the value does not serialise to JSON.
    pub fn from_value(value: &impl Serialize) -> Result<EntryPayload<'static>, SessionError> {
        let text = serde_json::to_string(value).map_err(|error| invalid(&error))?;
        EntryPayload::sorted(&text)
    }

    /// Makes a JSON text compact and puts object keys into byte order. Of equal keys the last one is kept; numbers keep their digits.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] when the text is not one JSON value, or is nested more than 128 deep.
    pub fn sorted(text: &str) -> Result<EntryPayload<'static>, SessionError> {
        let mut out = String::with_capacity(text.len());
        sort(text.trim(), 128, &mut out)?;
        owned(out)
    }

    /// Takes a JSON text with its keys, numbers and escapes as they are, and removes only blanks between tokens.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] when the text is not one JSON value.
    pub fn verbatim(text: &'a str) -> Result<Self, SessionError> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| invalid(&error))?;
        Ok(match compact(raw.get()) {
            None => Self(Text::Borrowed(raw)),
            Some(text) => owned(text)?,
        })
    }

    /// Returns the text.
    pub fn get(&self) -> &str {
        self.as_raw().get()
    }

    /// Returns the number of bytes that the payload owns.
    #[cfg(feature = "cli")]
    pub(crate) fn copied_bytes(&self) -> u64 {
        match &self.0 {
            Text::Borrowed(_) => 0,
            Text::Owned(raw) => raw.get().len() as u64,
        }
    }

    pub(super) fn as_raw(&self) -> &RawValue {
        match &self.0 {
            Text::Borrowed(raw) => raw,
            Text::Owned(raw) => raw,
        }
    }
}

/// Returns `text` without blanks between tokens, or `None` when it has no such blanks.
fn compact(text: &str) -> Option<String> {
    let mut out: Option<String> = None;
    let (mut in_string, mut escaped, mut kept) = (false, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte == b'"' {
            in_string = true;
        } else if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            out.get_or_insert_default().push_str(&text[kept..at]);
            kept = at + 1;
        }
    }
    if let Some(out) = &mut out {
        out.push_str(&text[kept..]);
    }
    out
}

fn sort(text: &str, depth_left: u32, out: &mut String) -> Result<(), SessionError> {
    let deeper = || {
        depth_left.checked_sub(1).ok_or_else(|| SessionError::InvalidArgument {
            reason: "the payload is nested more than 128 deep".to_owned(),
        })
    };
    let failed = |error: serde_json::Error| invalid(&error);
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(failed)?;
            let depth_left = deeper()?;
            out.push('{');
            for (place, (key, value)) in members.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(&key).map_err(failed)?);
                out.push(':');
                sort(value.get(), depth_left, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(failed)?;
            let depth_left = deeper()?;
            out.push('[');
            for (place, value) in items.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                sort(value.get(), depth_left, out)?;
            }
            out.push(']');
        }
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(string) => out.push_str(&serde_json::to_string(&string).map_err(failed)?),
            // A lone surrogate has no other spelling than its escape.
            Err(_) => out.push_str(serde_json::from_str::<&RawValue>(text).map_err(failed)?.get()),
        },
        _ => out.push_str(serde_json::from_str::<&RawValue>(text).map_err(failed)?.get()),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sorted_payloads_read_as_the_other_writers_serialise() {
        for (text, sorted) in [
            (
                " { \"b\" : 1.50, \"a\" : [ 1 , { } , {\"z\":0,\"y\":[]} ] } ",
                "{\"a\":[1,{},{\"y\":[],\"z\":0}],\"b\":1.50}",
            ),
            ("{}", "{}"),
            ("[{},{}]", "[{},{}]"),
            ("\"\\u00e9\\/\\u0001\"", "\"é/\\u0001\""),
            ("\"\\ud800\"", "\"\\ud800\""),
            ("{\"a\":1,\"a\":2}", "{\"a\":2}"),
            ("12345678901234567890123", "12345678901234567890123"),
        ] {
            assert_eq!(EntryPayload::sorted(text).unwrap().get(), sorted);
        }
        for bad in ["", "{", "{} {}", "nul", "[1,]", "\"\n\""] {
            assert!(EntryPayload::sorted(bad).is_err() && EntryPayload::verbatim(bad).is_err(), "{bad}");
        }
        assert!(EntryPayload::sorted(&"[".repeat(200_000)).is_err());
        assert!(EntryPayload::sorted(&format!("{}{}", "[".repeat(129), "]".repeat(129))).is_err());
    }

    #[test]
    fn verbatim_payloads_lose_only_blanks() {
        let text = "{ \"b\\\" : \" : \"\\u00e9 x\\\\\",\n\"a\":\t1.0e+05 }";
        assert_eq!(
            EntryPayload::verbatim(text).unwrap().get(),
            "{\"b\\\" : \":\"\\u00e9 x\\\\\",\"a\":1.0e+05}"
        );
    }

    proptest! {
        #[test]
        fn sorting_is_what_a_value_prints(value in crate::session::tests::any_json()) {
            let text = serde_json::to_string_pretty(&value).unwrap();
            let sorted = EntryPayload::sorted(&text).unwrap();
            prop_assert_eq!(sorted.get(), serde_json::to_string(&value).unwrap());
            let kept = EntryPayload::verbatim(&text).unwrap();
            prop_assert_eq!(kept.get(), serde_json::to_string(&value).unwrap());
        }
    }
}

//! A line of a segment: reading it, writing it, and the hash of its payload.
//!
//! Touches: only the bytes it is given.
//!
//! Guarantees: the text of a payload is kept byte for byte as the line has it, because its hash is over that text.
//!
//! Rejected: a scanner that finds the end of a payload by a map of its quotes, and SHA-256 of two payloads at once. A rebuild of the
//! index was faster with them, but it is rare, and they were 600 lines, part of them `unsafe`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::error::{LinePlace, SessionError};
use super::format::{SEGMENT_FRAME_SCHEMA, SegmentFrame};
use super::payload::NewEntry;

/// A [`SegmentFrame`] that borrows from its line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FrameLine<'a> {
    #[serde(borrow)]
    schema: Cow<'a, str>,
    pub(super) segment_seq: u64,
    pub(super) frame_seq: u64,
    pub(super) entry_seq: u64,
    #[serde(borrow)]
    pub(super) entry_id: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) parent_entry_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) entry_type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    payload_sha256: Cow<'a, str>,
    payload_bytes: u64,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Why a line is not a frame.
#[derive(Debug)]
pub(super) enum NotAFrame {
    NotText,
    /// Only a scan of a segment looks at the length.
    TooLong,
    Json(String),
    Schema(String),
}

impl NotAFrame {
    /// Returns the error of a reader that expected a frame at this place.
    pub(super) fn at(self, place: LinePlace) -> SessionError {
        match self {
            Self::NotText => SessionError::Json { place, reason: "not UTF-8".to_owned() },
            Self::TooLong => SessionError::Json { place, reason: "too long".to_owned() },
            Self::Json(reason) => SessionError::Json { place, reason },
            Self::Schema(found) => SessionError::UnsupportedSchema { place, found },
        }
    }
}

impl<'a> FrameLine<'a> {
    /// Parses a line. LF, CR and blanks around the JSON text are allowed.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, NotAFrame> {
        let text = simdutf8::basic::from_utf8(line).map_err(|_| NotAFrame::NotText)?;
        let frame: Self = serde_json::from_str(text).map_err(|error| NotAFrame::Json(error.to_string()))?;
        if frame.schema != SEGMENT_FRAME_SCHEMA {
            return Err(NotAFrame::Schema(frame.schema.into_owned()));
        }
        Ok(frame)
    }

    /// Returns the SHA-256 of the payload, or how payload and header differ.
    pub(super) fn verify_payload(&self) -> Result<[u8; 32], String> {
        let payload = self.payload.get();
        if payload.len() as u64 != self.payload_bytes {
            let (found, said) = (payload.len(), self.payload_bytes);
            return Err(format!("the payload has {found} bytes, the header says {said}"));
        }
        let digest: [u8; 32] = Sha256::digest(payload).into();
        let found = hex(&digest);
        if self.payload_sha256.as_bytes() != found {
            let (found, said) = (String::from_utf8_lossy(&found), &self.payload_sha256);
            return Err(format!("the payload hashes to {found}, the header says {said}"));
        }
        Ok(digest)
    }

    pub(super) fn into_frame(self) -> SegmentFrame {
        SegmentFrame {
            schema: Cow::Borrowed(SEGMENT_FRAME_SCHEMA),
            segment_seq: self.segment_seq,
            frame_seq: self.frame_seq,
            entry_seq: self.entry_seq,
            entry_id: self.entry_id.into_owned(),
            parent_entry_id: self.parent_entry_id.map(Cow::into_owned),
            entry_type: self.entry_type.into_owned(),
            timestamp: self.timestamp.into_owned(),
            payload_sha256: self.payload_sha256.into_owned(),
            payload_bytes: self.payload_bytes,
            payload: self.payload.to_owned(),
        }
    }
}

/// The numbers of a frame that is about to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coordinates {
    pub(super) segment_seq: u64,
    pub(super) frame_seq: u64,
    pub(super) entry_seq: u64,
}

/// Appends the line of a frame, LF included.
pub(super) fn write_line(
    out: &mut Vec<u8>,
    at: Coordinates,
    entry: &NewEntry<'_>,
    timestamp: &str,
    payload_sha256: &[u8; 64],
) -> Result<(), serde_json::Error> {
    let payload = entry.payload.as_raw();
    let line = FrameLine {
        schema: Cow::Borrowed(SEGMENT_FRAME_SCHEMA),
        segment_seq: at.segment_seq,
        frame_seq: at.frame_seq,
        entry_seq: at.entry_seq,
        entry_id: Cow::Borrowed(&entry.id),
        parent_entry_id: entry.parent_id.as_deref().map(Cow::Borrowed),
        entry_type: Cow::Borrowed(&entry.entry_type),
        timestamp: Cow::Borrowed(timestamp),
        payload_sha256: String::from_utf8_lossy(payload_sha256),
        payload_bytes: payload.get().len() as u64,
        payload,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}

/// Returns 64 lower-case hex digits.
pub(super) fn hex(digest: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

pub(super) fn hex_text(digest: &[u8; 32]) -> String {
    String::from_utf8_lossy(&hex(digest)).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::session::{EntryPayload, NewEntry};

    fn line(payload: &str, parent: Option<&str>, id: &str) -> Vec<u8> {
        let payload = EntryPayload::verbatim(payload).unwrap();
        let sha = hex(&Sha256::digest(payload.as_raw().get()).into());
        let entry = NewEntry {
            id: id.into(),
            parent_id: parent.map(Into::into),
            entry_type: "message".into(),
            payload,
        };
        let mut out = Vec::new();
        let at = Coordinates { segment_seq: 1, frame_seq: 2, entry_seq: 3 };
        write_line(&mut out, at, &entry, "2026-11-21T00:09:09.577Z", &sha).unwrap();
        out
    }

    #[test]
    fn spaced_lines_read_as_those_that_writers_make() {
        for (payload, parent, id) in [
            ("{\"a\":1}", Some("p"), "id"),
            ("null", None, "é"),
            ("\"}\\n\"", Some("p"), "x"),
            ("[1,2.50]", None, "y"),
        ] {
            let line = line(payload, parent, id);
            let plain = FrameLine::parse(&line).unwrap();
            let spaced = str::from_utf8(&line).unwrap().replace("\"frameSeq\":2", "  \"frameSeq\" : 2 ");
            let spaced = FrameLine::parse(spaced.as_bytes()).unwrap();
            assert_eq!(format!("{plain:?}"), format!("{spaced:?}"));
            assert_eq!(plain.payload.get(), payload);
            plain.verify_payload().unwrap();
        }
    }

    #[test]
    fn keys_behind_the_payload_and_escapes_are_read_in_full() {
        let line = String::from_utf8(line("{\"a\":1}", Some("p"), "quote\"d")).unwrap();
        assert_eq!(FrameLine::parse(line.as_bytes()).unwrap().entry_id, "quote\"d");
        let more = line.replace("{\"a\":1}}", "{\"a\":1},\"later\":[{}]}");
        assert_eq!(FrameLine::parse(more.as_bytes()).unwrap().payload.get(), "{\"a\":1}");
        let nulled = line.replace("\"parentEntryId\":\"p\"", "\"parentEntryId\":null");
        assert_eq!(FrameLine::parse(nulled.as_bytes()).unwrap().parent_entry_id, None);
    }

    #[test]
    fn what_is_not_a_frame_says_why() {
        let good = String::from_utf8(line("{\"a\":1}", None, "id")).unwrap();
        let newer = good.replace("frame.v1", "frame.v9");
        assert!(
            matches!(FrameLine::parse(newer.as_bytes()), Err(NotAFrame::Schema(found)) if found.ends_with("v9"))
        );
        for bad in
            [&good[..good.len() / 2], "{}", "[]", &good.replace(":3,", ":-3,"), &good.replace(":1}", ":01}")]
        {
            assert!(matches!(FrameLine::parse(bad.as_bytes()), Err(NotAFrame::Json(_))), "{bad}");
        }
        assert!(matches!(FrameLine::parse(b"\xff"), Err(NotAFrame::NotText)));
    }

    #[test]
    fn altered_payloads_and_headers_are_found() {
        let good = String::from_utf8(line("{\"a\":1}", None, "id")).unwrap();
        for bad in
            [good.replace("\"a\":1", "\"a\":2"), good.replace("\"payloadBytes\":7", "\"payloadBytes\":8")]
        {
            FrameLine::parse(bad.as_bytes()).unwrap().verify_payload().unwrap_err();
        }
    }
}

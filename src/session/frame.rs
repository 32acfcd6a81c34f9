//! The frame: one line of a segment. Parsing it, writing it, and the hashes over it.
//!
//! This file touches nothing but the bytes it is given. It promises that a payload's text is kept byte for byte as it stands
//! in the line, and that a line in the form our writers give it and a line with other spacing or key order read the same.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::canonical::Canonical;
use super::format::{SEGMENT_FRAME_SCHEMA, SegmentFrame};
use super::payload::NewEntry;
use super::skip::{Skipper, is_value};

/// A frame as parsed, borrowing from its line.
#[derive(Debug)]
pub(super) struct FrameLine<'a> {
    pub(super) segment_seq: u64,
    pub(super) frame_seq: u64,
    pub(super) entry_seq: u64,
    pub(super) entry_id: Cow<'a, str>,
    pub(super) parent_entry_id: Option<Cow<'a, str>>,
    pub(super) entry_type: Cow<'a, str>,
    pub(super) timestamp: Cow<'a, str>,
    pub(super) payload_sha256: Cow<'a, str>,
    pub(super) payload_bytes: u64,
    /// One JSON value, without blanks around it.
    pub(super) payload: &'a str,
}

/// Why a line is not a frame.
#[derive(Debug)]
pub(super) enum NotAFrame {
    NotText,
    Json(String),
    Schema(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyOrder<'a> {
    #[serde(borrow)]
    schema: Cow<'a, str>,
    segment_seq: u64,
    frame_seq: u64,
    entry_seq: u64,
    #[serde(borrow)]
    entry_id: Cow<'a, str>,
    #[serde(default)]
    parent_entry_id: Option<String>,
    #[serde(borrow)]
    entry_type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    payload_sha256: Cow<'a, str>,
    payload_bytes: u64,
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl<'a> FrameLine<'a> {
    /// Parses a line; LF, CR and blanks around the JSON text are allowed.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, NotAFrame> {
        let text = std::str::from_utf8(line).map_err(|_| NotAFrame::NotText)?;
        if let Some(frame) = Self::parse_canonical(text) {
            return Ok(frame);
        }
        let any: AnyOrder<'a> =
            serde_json::from_str(text).map_err(|error| NotAFrame::Json(error.to_string()))?;
        if any.schema != SEGMENT_FRAME_SCHEMA {
            return Err(NotAFrame::Schema(any.schema.into_owned()));
        }
        Ok(Self {
            segment_seq: any.segment_seq,
            frame_seq: any.frame_seq,
            entry_seq: any.entry_seq,
            entry_id: any.entry_id,
            parent_entry_id: any.parent_entry_id.map(Cow::Owned),
            entry_type: any.entry_type,
            timestamp: any.timestamp,
            payload_sha256: any.payload_sha256,
            payload_bytes: any.payload_bytes,
            payload: any.payload.get(),
        })
    }

    /// The line that `text` starts with, LF included, and its length; `None` when it is not in the form writers give a frame,
    /// or its payload is not as long as its header says: then nothing is known of the line, not even where it ends.
    pub(super) fn parse_first(text: &'a str, skipper: &mut Skipper) -> Option<(Self, usize)> {
        let mut rest = Canonical::new(text);
        let mut frame = Self::parse_header(&mut rest)?;
        let rest = rest.rest();
        let payload_bytes = usize::try_from(frame.payload_bytes).ok()?;
        let payload = rest.get(..payload_bytes)?;
        // Neither the header nor the payload holds an LF, so this is the first one.
        if !rest.as_bytes()[payload_bytes..].starts_with(b"}\n") || !skipper.is_plain_value(payload) {
            return None;
        }
        frame.payload = payload;
        Some((frame, text.len() - rest.len() + payload_bytes + 2))
    }

    /// The form writers give a frame; `None` for any other, which need not be wrong.
    fn parse_canonical(text: &'a str) -> Option<Self> {
        let mut rest = Canonical::new(text.strip_suffix('\n').unwrap_or(text));
        let frame = Self::parse_header(&mut rest)?;
        // What stands before the last brace must be one value: with keys behind the payload it is not, and the line is
        // read in full, as with a payload that nests deep.
        let payload = rest.rest().strip_suffix('}').filter(|payload| is_value(payload) == Some(true))?;
        Some(Self { payload, ..frame })
    }

    /// Everything in front of the payload, in the form writers give it.
    #[inline]
    fn parse_header(rest: &mut Canonical<'a>) -> Option<Self> {
        rest.literal("{\"schema\":\"pi.session_store_v2.segment_frame.v1\",\"segmentSeq\":")?;
        let segment_seq = rest.number()?;
        rest.literal(",\"frameSeq\":")?;
        let frame_seq = rest.number()?;
        rest.literal(",\"entrySeq\":")?;
        let entry_seq = rest.number()?;
        rest.literal(",\"entryId\":")?;
        let entry_id = rest.string()?;
        let parent_entry_id = match rest.literal(",\"parentEntryId\":") {
            Some(()) => Some(Cow::Borrowed(rest.string()?)),
            None => None,
        };
        rest.literal(",\"entryType\":")?;
        let entry_type = rest.string()?;
        rest.literal(",\"timestamp\":")?;
        let timestamp = rest.string()?;
        rest.literal(",\"payloadSha256\":")?;
        let payload_sha256 = rest.string()?;
        rest.literal(",\"payloadBytes\":")?;
        let payload_bytes = rest.number()?;
        rest.literal(",\"payload\":")?;
        Some(Self {
            segment_seq,
            frame_seq,
            entry_seq,
            entry_id: Cow::Borrowed(entry_id),
            parent_entry_id,
            entry_type: Cow::Borrowed(entry_type),
            timestamp: Cow::Borrowed(timestamp),
            payload_sha256: Cow::Borrowed(payload_sha256),
            payload_bytes,
            payload: "",
        })
    }

    /// The SHA-256 of the payload, or in what way payload and header disagree.
    pub(super) fn verify_payload(&self) -> Result<[u8; 32], String> {
        let payload = self.payload;
        if payload.len() as u64 != self.payload_bytes {
            return Err(format!(
                "the payload has {} bytes, the header says {}",
                payload.len(),
                self.payload_bytes
            ));
        }
        let digest: [u8; 32] = Sha256::digest(payload).into();
        let found = hex(&digest);
        if self.payload_sha256.as_bytes() != found {
            return Err(format!(
                "the payload hashes to {}, the header says {}",
                String::from_utf8_lossy(&found),
                self.payload_sha256
            ));
        }
        Ok(digest)
    }

    /// An owned frame.
    pub(super) fn to_frame(&self) -> Result<SegmentFrame, String> {
        let payload = RawValue::from_string(self.payload.to_owned()).map_err(|error| error.to_string())?;
        Ok(SegmentFrame {
            schema: Cow::Borrowed(SEGMENT_FRAME_SCHEMA),
            segment_seq: self.segment_seq,
            frame_seq: self.frame_seq,
            entry_seq: self.entry_seq,
            entry_id: self.entry_id.clone().into_owned(),
            parent_entry_id: self.parent_entry_id.clone().map(Cow::into_owned),
            entry_type: self.entry_type.clone().into_owned(),
            timestamp: self.timestamp.clone().into_owned(),
            payload_sha256: self.payload_sha256.clone().into_owned(),
            payload_bytes: self.payload_bytes,
            payload,
        })
    }
}

/// Numbers of a frame about to be written.
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
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        schema: &'static str,
        segment_seq: u64,
        frame_seq: u64,
        entry_seq: u64,
        entry_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_entry_id: Option<&'a str>,
        entry_type: &'a str,
        timestamp: &'a str,
        payload_sha256: &'a str,
        payload_bytes: u64,
        payload: &'a RawValue,
    }
    let payload_sha256 = str::from_utf8(payload_sha256).unwrap_or_default();
    let payload = entry.payload.as_raw();
    let line = Line {
        schema: SEGMENT_FRAME_SCHEMA,
        segment_seq: at.segment_seq,
        frame_seq: at.frame_seq,
        entry_seq: at.entry_seq,
        entry_id: &entry.id,
        parent_entry_id: entry.parent_id.as_deref(),
        entry_type: &entry.entry_type,
        timestamp,
        payload_sha256,
        payload_bytes: payload.get().len() as u64,
        payload,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}

/// 64 lower-case hex digits.
pub(super) fn hex(digest: &[u8; 32]) -> [u8; 64] {
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
        for (digit, half) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            // By arithmetic, which vectorizes; a table does not.
            *digit = half + b'0' + u8::from(half > 9) * (b'a' - b'9' - 1);
        }
    }
    text
}

/// The hash over all payload hashes, in index order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain([u8; 64]);

impl Chain {
    /// The chain of an empty store: 64 zeros.
    pub(super) const GENESIS: Self = Self([b'0'; 64]);

    /// The chain with one more frame.
    pub(super) fn link(self, payload_sha256: &[u8; 32]) -> Self {
        let mut text = [0; 128];
        text[..64].copy_from_slice(&self.0);
        text[64..].copy_from_slice(&hex(payload_sha256));
        Self(hex(&Sha256::digest(text).into()))
    }
}

/// The chain over the rows of a store, linked when somebody asks for it: linking cannot be shared among threads, and few ask.
#[derive(Debug)]
pub(super) struct LazyChain {
    rows: usize,
    chain: Chain,
    /// The payload hashes of the rows that follow: 32 bytes a row until they are linked.
    next: Vec<[u8; 32]>,
}

impl LazyChain {
    /// The chain over rows with these payload hashes.
    pub(super) fn over(payload_hashes: Vec<[u8; 32]>) -> Self {
        Self { rows: 0, chain: Chain::GENESIS, next: payload_hashes }
    }

    /// How many rows it is over.
    pub(super) fn rows(&self) -> usize {
        self.rows + self.next.len()
    }

    pub(super) fn push(&mut self, payload_sha256: &[u8; 32]) {
        if self.next.is_empty() {
            (self.rows, self.chain) = (self.rows + 1, self.chain.link(payload_sha256));
        } else {
            self.next.push(*payload_sha256);
        }
    }

    /// The chain as far as it is linked, and over how many rows.
    pub(super) fn linked(&self) -> (usize, Chain) {
        (self.rows, self.chain)
    }

    /// Links all rows.
    pub(super) fn link(&mut self) -> Chain {
        self.rows = self.rows();
        let next = std::mem::take(&mut self.next);
        self.chain = next.iter().fold(self.chain, Chain::link);
        self.chain
    }

    /// Drops the rows from `rows` on; `linked` is what [`LazyChain::linked`] gave when there were no more.
    pub(super) fn truncate(&mut self, rows: usize, linked: (usize, Chain)) {
        if self.rows > rows {
            (self.rows, self.chain) = linked;
            self.next.clear();
        } else {
            self.next.truncate(rows - self.rows);
        }
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or_default())
    }
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
    fn lines_as_written_take_the_short_way_and_read_as_on_the_long_one() {
        for (payload, parent, id) in [
            ("{\"a\":1}", Some("p"), "id"),
            ("null", None, "é"),
            ("\"}\\n\"", Some("p"), "x"),
            ("[1,2.50]", None, "y"),
        ] {
            let line = line(payload, parent, id);
            let text = str::from_utf8(&line).unwrap();
            let short = FrameLine::parse_canonical(text).unwrap();
            let spaced = text.replace("\"frameSeq\":2", "  \"frameSeq\" : 2 ");
            assert!(FrameLine::parse_canonical(&spaced).is_none());
            let long = FrameLine::parse(spaced.as_bytes()).unwrap();
            assert_eq!(format!("{short:?}"), format!("{long:?}"));
            assert_eq!(short.payload, payload);
            short.verify_payload().unwrap();
        }
    }

    /// What [`FrameLine::parse_first`] makes of a text.
    fn first(text: &str) -> Option<(String, usize)> {
        let (frame, len) = FrameLine::parse_first(text, &mut Skipper::default())?;
        Some((format!("{frame:?}"), len))
    }

    #[test]
    fn lines_of_both_writers_are_read_in_one_go_and_as_on_the_exact_way() {
        let of_ours = line("{\"a\":[\"\\\"é\\n\",-1.5e3,{}]}", Some("p"), "é").repeat(3);
        let mut texts = vec![String::from_utf8(of_ours).unwrap()];
        for case in ["01-clean-single-segment", "02-several-segments", "03-branches"] {
            let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/session-store");
            for segment in std::fs::read_dir(fixtures.join(case).join("store/segments")).unwrap() {
                texts.push(std::fs::read_to_string(segment.unwrap().path()).unwrap());
            }
        }
        assert!(texts.len() > 4);
        for text in texts {
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let line = rest.split_inclusive('\n').next().unwrap();
                let exact = FrameLine::parse(line.as_bytes()).unwrap();
                assert_eq!(first(rest), Some((format!("{exact:?}"), line.len())));
                rest = &rest[line.len()..];
            }
        }
    }

    #[test]
    fn lines_in_any_other_form_are_left_to_the_exact_way() {
        let good = String::from_utf8(line("{\"a\":1}", Some("p"), "id")).unwrap();
        assert!(first(&good).is_some());
        for other in [
            &good[..good.len() - 1],
            &good.replace("}}\n", "}}\r\n"),
            &good.replace("}}\n", "} }\n"),
            &good.replace("{\"a\":1}}", "{\"a\":1},\"later\":1}"),
            &good.replace("payloadBytes\":7", "payloadBytes\":6"),
            &good.replace("payloadBytes\":7", "payloadBytes\":8"),
            &good.replace("payloadBytes\":7", "payloadBytes\":18446744073709551615"),
            // An LF between tokens is white space in JSON, and the end of a line here.
            &good.replace("{\"a\":1}", "{\"a\":\n}"),
            &good.replace("{\"a\":1}", "{\"a\":]}"),
            &good.replace("\"id\"", "\"i\\u0064\""),
            &good.replace("frame.v1", "frame.v9"),
            "",
        ] {
            assert_eq!(first(other), None, "{other}");
        }
    }

    #[test]
    fn keys_behind_the_payload_and_escapes_are_read_in_full() {
        let line = String::from_utf8(line("{\"a\":1}", Some("p"), "quote\"d")).unwrap();
        assert_eq!(FrameLine::parse(line.as_bytes()).unwrap().entry_id, "quote\"d");
        let more = line.replace("{\"a\":1}}", "{\"a\":1},\"later\":[{}]}");
        assert_eq!(FrameLine::parse(more.as_bytes()).unwrap().payload, "{\"a\":1}");
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

    #[test]
    fn a_chain_linked_late_is_the_chain() {
        let hashes: Vec<[u8; 32]> = (0..7).map(|byte| [byte; 32]).collect();
        let of = |rows: usize| hashes[..rows].iter().fold(Chain::GENESIS, Chain::link);
        for linked_at in 0..=5 {
            let mut lazy = LazyChain::over(hashes[..3].to_vec());
            let mut mark = (0, Chain::GENESIS);
            for (at, hash) in hashes.iter().enumerate().skip(3) {
                if at == 4 {
                    mark = lazy.linked();
                }
                if at == linked_at {
                    assert_eq!(lazy.link(), of(at));
                }
                lazy.push(hash);
            }
            assert_eq!(lazy.rows(), 7);
            lazy.truncate(4, mark);
            let known = lazy.rows();
            assert!(known == 4 || known == mark.0, "{linked_at}");
            assert_eq!(lazy.link(), of(known), "{linked_at}");
        }
    }

    #[test]
    fn the_chain_hashes_hex_texts() {
        let sha: [u8; 32] = Sha256::digest(b"{}").into();
        let text = [Chain::GENESIS.0, hex(&sha)].concat();
        assert_eq!(Chain::GENESIS.link(&sha).0, hex(&Sha256::digest(text).into()));
        assert_eq!(Chain::GENESIS.to_string(), "0".repeat(64));
    }
}

//! Frames and the events in them: `u32 LE length | u32 LE CRC-32 | JSON`, docs/books.md.
//!
//! Touches no file. Guarantees: [`decode`] and [`replay`] read what [`encode`] writes; [`replay`], the fast reader of
//! opening, accepts exactly what [`decode`] accepts.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Datelike, Utc};
use memchr::memmem;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use talea_core::events::LedgerEvent;
use talea_core::store::{AccountCfg, Sequenced};
use talea_core::types::{AccountDef, AssetDef, Direction, Seq, Transaction, TxId};
use uuid::Uuid;

use super::error::BookError;
use super::time;

/// Length and checksum before each payload.
pub(super) const HEADER_BYTES: usize = 8;

/// How deep a transaction's metadata may nest: readers give up at the 128th level, and frame and event take two.
const METADATA_DEPTH: usize = 125;

/// The beginning of the keys that `serde_json` keeps for itself: it reads an object whose first key is one of them as something else, or
/// not at all.
const PRIVATE_KEYS: &str = "$serde_json::private::";

/// The beginning of a piece of log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Split<'a> {
    /// No bytes left.
    End,
    /// Fewer bytes than a header, or fewer than the header says.
    Torn,
    /// A frame in full length, before its checksum is compared.
    Whole {
        /// The checksum in the header.
        crc: u32,
        /// The bytes that the checksum covers.
        payload: &'a [u8],
    },
}

/// Takes a frame from the front of `bytes`.
pub(super) fn split(bytes: &[u8]) -> Split<'_> {
    if bytes.is_empty() {
        return Split::End;
    }
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Split::Torn };
    let Some((crc, rest)) = rest.split_first_chunk::<4>() else { return Split::Torn };
    match rest.get(..u32::from_le_bytes(*len) as usize) {
        Some(payload) => Split::Whole { crc: u32::from_le_bytes(*crc), payload },
        None => Split::Torn,
    }
}

/// Checks a payload against its header. A frame of length 0, as in a run of zeros, is no event.
pub(super) fn check(crc: u32, payload: &[u8]) -> Result<(), String> {
    if payload.is_empty() {
        return Err("an empty payload".to_owned());
    }
    let found = crc32fast::hash(payload);
    if found == crc { Ok(()) } else { Err(format!("checksum {crc:08x}, content {found:08x}")) }
}

/// Finds whole frames after damage, where frames cannot be followed one by one.
///
/// A candidate is any place where a payload may begin. The length before it can reach to the end of the bytes, so
/// summing candidate by candidate would take the square of the length. Worked example, with `P(k)` the checksum of the first `k` bytes:
///
/// 1. The bytes are 10,000 long. One pass stores `P(0)`, `P(1024)`, `P(2048)`, and so on.
/// 2. A candidate at 3,000 claims 5,000 bytes of payload, from 3,008 to 8,008.
/// 3. `P(3008)` is `P(2048)` continued over 960 bytes, and `P(8008)` is `P(7168)` continued over 840 bytes.
/// 4. `P(3008)` shifted over 5,000 zeros differs from `P(8008)` by the checksum of the payload.
/// 5. So the candidate costs 1,800 bytes and a shift instead of 5,000 bytes: n bytes with c candidates take n + c log n.
pub(super) struct FrameFinder<'a> {
    bytes: &'a [u8],
    /// Of the first 0, 1, 2, … steps.
    prefixes: Vec<u32>,
}

/// Bytes between two stored checksums of a [`FrameFinder`].
const FINDER_STEP_BYTES: usize = 1 << 10;

impl<'a> FrameFinder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut prefix = crc32fast::Hasher::new();
        let mut prefixes = vec![0];
        for step in bytes.chunks_exact(FINDER_STEP_BYTES) {
            prefix.update(step);
            prefixes.push(prefix.clone().finalize());
        }
        Self { bytes, prefixes }
    }

    /// Where, from `from` on, the next frame begins whose checksum fits.
    pub(super) fn next_whole(&self, from: usize) -> Option<usize> {
        memmem::find_iter(&self.bytes[from..], b"{\"seq\":").find_map(|found| {
            let start = (from + found).checked_sub(HEADER_BYTES).filter(|start| *start >= from)?;
            let Split::Whole { crc, payload } = split(&self.bytes[start..]) else { return None };
            let fits = !payload.is_empty() && self.checksum(start + HEADER_BYTES, payload.len()) == crc;
            fits.then_some(start)
        })
    }

    /// Returns the checksum of `len` bytes from `start` on.
    fn checksum(&self, start: usize, len: usize) -> u32 {
        if len <= 2 * FINDER_STEP_BYTES {
            return crc32fast::hash(&self.bytes[start..start + len]);
        }
        // The prefix before the range, with zeros in the place of the range, differs by the range from the prefix with it.
        let mut before = crc32fast::Hasher::new_with_initial_len(self.prefix(start), start as u64);
        before.combine(&crc32fast::Hasher::new_with_initial_len(0, len as u64));
        before.finalize() ^ self.prefix(start + len)
    }

    fn prefix(&self, len: usize) -> u32 {
        let steps = len / FINDER_STEP_BYTES;
        let mut prefix = crc32fast::Hasher::new_with_initial(self.prefixes[steps]);
        prefix.update(&self.bytes[steps * FINDER_STEP_BYTES..len]);
        prefix.finalize()
    }
}

/// An event as it is serialized: the shape of `LedgerEvent`, by reference.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum EventOut<'a> {
    AssetRegistered(&'a AssetDef),
    AccountOpened { def: &'a AccountDef, cfg: &'a AccountCfg },
    TransactionPosted(&'a Transaction),
}

fn to_json(event: &EventOut<'_>) -> Result<Vec<u8>, BookError> {
    let mut json = Vec::with_capacity(512);
    serde_json::to_writer(&mut json, event).map_err(|error| unwritable(error.to_string()))?;
    Ok(json)
}

fn unwritable(reason: String) -> BookError {
    BookError::Unwritable { reason }
}

/// Returns the `event` part of an asset registration.
pub(super) fn asset_json(asset: &AssetDef) -> Result<Vec<u8>, BookError> {
    to_json(&EventOut::AssetRegistered(asset))
}

/// Returns the `event` part of an account opening.
pub(super) fn account_json(def: &AccountDef, cfg: &AccountCfg) -> Result<Vec<u8>, BookError> {
    to_json(&EventOut::AccountOpened { def, cfg })
}

/// Returns the `event` part of a transaction.
///
/// # Errors
/// [`BookError::Unwritable`] for one that could be written but not read again.
pub(super) fn transaction_json(transaction: &Transaction) -> Result<Vec<u8>, BookError> {
    check_metadata(&transaction.metadata)?;
    let json = to_json(&EventOut::TransactionPosted(transaction))?;
    // Years of more than four digits and leap seconds have forms of their own, so that they are read back before they are stored.
    let time = transaction.occurred_at;
    if !(0..=9999).contains(&time.year()) || time.timestamp_subsec_nanos() >= 1_000_000_000 {
        serde_json::from_slice::<LedgerEvent>(&json).map_err(|error| unwritable(error.to_string()))?;
    }
    // Sequence number, time and keys take less than 128 bytes.
    if json.len() + 128 > u32::MAX as usize {
        return Err(unwritable("it is longer than 4 GiB".to_owned()));
    }
    Ok(json)
}

/// Refuses metadata that could be written but not read again.
fn check_metadata(metadata: &serde_json::Value) -> Result<(), BookError> {
    // A stack of its own, because a value can nest deeper than the stack of this thread.
    let mut open = vec![(metadata, 1)];
    while let Some((value, depth)) = open.pop() {
        match value {
            serde_json::Value::Array(_) | serde_json::Value::Object(_) if depth > METADATA_DEPTH => {
                return Err(unwritable(format!("its metadata nests deeper than {METADATA_DEPTH} levels")));
            }
            serde_json::Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            serde_json::Value::Object(items) => {
                if let Some(key) = items.keys().find(|key| key.starts_with(PRIVATE_KEYS)) {
                    return Err(unwritable(format!(
                        "its metadata has the key {key:?}, which would be read back as something else"
                    )));
                }
                open.extend(items.values().map(|item| (item, depth + 1)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Appends a frame to `out`.
pub(super) fn encode(seq: Seq, at: DateTime<Utc>, event: &[u8], out: &mut Vec<u8>) -> Result<(), BookError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(b"{\"seq\":");
    out.extend_from_slice(seq.to_string().as_bytes());
    out.extend_from_slice(b",\"at\":");
    serde_json::to_writer(&mut *out, &at).map_err(|error| unwritable(error.to_string()))?;
    out.extend_from_slice(b",\"event\":");
    out.extend_from_slice(event);
    out.push(b'}');
    let payload = &out[start + HEADER_BYTES..];
    let (len, crc) = (payload.len() as u32, crc32fast::hash(payload));
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

#[derive(Deserialize)]
struct Wire {
    seq: Seq,
    at: DateTime<Utc>,
    event: LedgerEvent,
}

/// Reads a payload whole.
pub(super) fn decode(payload: &[u8]) -> Result<Sequenced<LedgerEvent>, String> {
    let Wire { seq, at, event } = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    Ok(Sequenced { seq, at, event })
}

/// Returns the sequence number of a payload whose keys are in the usual order; on `None` the caller uses [`decode`].
pub(super) fn leading_seq(payload: &[u8]) -> Option<Seq> {
    let digits = payload.strip_prefix(b"{\"seq\":")?;
    let end = digits.iter().take(20).position(|byte| *byte == b',')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// The parts of an event that replaying needs, borrowed from the log where possible.
#[derive(Debug)]
pub(super) enum Replayed<'a> {
    /// An asset registration.
    Asset(AssetDef),
    /// An account opening.
    Account(AccountDef, AccountCfg),
    /// A transaction.
    Posted(PostedIn<'a>),
}

/// The parts of a transaction that change a book.
#[derive(Debug)]
pub(super) struct PostedIn<'a> {
    /// Its id.
    pub txid: Uuid,
    /// Its idempotency key.
    pub key: Cow<'a, str>,
    /// Its postings.
    pub postings: Vec<PostingIn<'a>>,
}

/// One posting.
#[derive(Debug, Deserialize)]
pub(super) struct PostingIn<'a> {
    /// Account.
    #[serde(borrow)]
    pub account: AccountIn<'a>,
    /// Amount.
    #[serde(borrow)]
    pub amount: AmountIn<'a>,
    /// Side.
    pub direction: Direction,
}

/// An account's name.
#[derive(Debug, Deserialize)]
pub(super) struct AccountIn<'a> {
    /// Book.
    #[serde(borrow)]
    pub book: Cow<'a, str>,
    /// Path.
    #[serde(borrow)]
    pub path: Cow<'a, str>,
}

/// An amount.
#[derive(Debug, Deserialize)]
pub(super) struct AmountIn<'a> {
    /// Minor units.
    pub minor: i64,
    /// Asset.
    #[serde(borrow)]
    pub asset: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireIn<'a> {
    seq: Seq,
    #[serde(deserialize_with = "time::read")]
    at: DateTime<Utc>,
    #[serde(borrow)]
    event: TransactionIn<'a>,
}

#[derive(Deserialize)]
struct TransactionIn<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    id: TxId,
    #[serde(borrow)]
    #[allow(dead_code)]
    book: Cow<'a, str>,
    #[serde(borrow)]
    postings: Vec<PostingIn<'a>>,
    #[serde(borrow)]
    idempotency_key: Cow<'a, str>,
    #[serde(borrow)]
    #[allow(dead_code)]
    external_refs: Vec<ReferenceIn<'a>>,
    #[allow(dead_code)]
    metadata: AnyJson,
    #[serde(deserialize_with = "time::read")]
    #[allow(dead_code)]
    occurred_at: DateTime<Utc>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct ReferenceIn<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
}

/// Skips a value with the checks that reading it into a `serde_json::Value` makes: depth, numbers, text.
/// `IgnoredAny` makes none of these checks.
struct AnyJson;

impl<'de> Deserialize<'de> for AnyJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for AnyJson {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_key::<AnyJson>()?.is_some() {
            items.next_value::<Self>()?;
        }
        Ok(self)
    }
}

/// Reads the parts of an event that replaying needs. Transactions, nearly all of a log, are read without copying. Everything else,
/// and every transaction that this reader refuses, goes through [`decode`], which decides.
pub(super) fn replay(payload: &[u8]) -> Result<(Seq, DateTime<Utc>, Replayed<'_>), String> {
    if let Ok(WireIn { seq, at, event }) = serde_json::from_slice::<WireIn<'_>>(payload)
        && event.kind == "transaction_posted"
    {
        let TransactionIn { id, postings, idempotency_key, .. } = event;
        return Ok((seq, at, Replayed::Posted(PostedIn { txid: id.0, key: idempotency_key, postings })));
    }
    let Sequenced { seq, at, event } = decode(payload)?;
    let event = match event {
        LedgerEvent::AssetRegistered(asset) => Replayed::Asset(asset),
        LedgerEvent::AccountOpened { def, cfg } => Replayed::Account(def, cfg),
        LedgerEvent::TransactionPosted(transaction) => Replayed::Posted(PostedIn {
            txid: transaction.id.0,
            key: Cow::Owned(transaction.idempotency_key.0),
            postings: transaction.postings.into_iter().map(PostingIn::from).collect(),
        }),
    };
    Ok((seq, at, event))
}

impl From<talea_core::types::Posting> for PostingIn<'_> {
    fn from(posting: talea_core::types::Posting) -> Self {
        Self {
            amount: AmountIn {
                minor: posting.amount.minor(),
                asset: Cow::Owned(posting.amount.asset().as_str().to_owned()),
            },
            account: AccountIn {
                book: Cow::Owned(posting.account.book.0),
                path: Cow::Owned(posting.account.path),
            },
            direction: posting.direction,
        }
    }
}

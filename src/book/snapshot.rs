//! Snapshots: a book at one moment, so that opening replays only later events. Format: docs/books.md.
//!
//! Touches `snapshot-*.snap` files. Guarantees: a snapshot is written from a [`StateImage`] and read into a [`BookState`] as a
//! stream, so neither needs memory for the history; a new snapshot is durable before older ones are deleted.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use talea_core::store::AccountCfg;
use talea_core::types::{AccountDef, Direction, Seq, TxId};
use uuid::Uuid;

use super::error::BookError;
use super::files;
use super::keys::{Checksummed, KeyOutcome, Keys, RunFile};
use super::scratch::HistoryRow;
use super::state::{BookState, StateImage};
use super::time;
use crate::disk::{self, Replacing};

/// How many snapshots are kept.
const KEPT: usize = 2;

/// A posting as snapshots store it.
#[derive(Serialize, Deserialize)]
struct SnapshotPosting {
    seq: Seq,
    #[serde(deserialize_with = "time::read")]
    at: DateTime<Utc>,
    txid: TxId,
    minor: i64,
    direction: Direction,
    raw_after: i64,
}

/// Keys in memory at the moment of a snapshot, oldest first.
#[derive(Debug)]
pub(super) struct KeysImage {
    hot: Vec<(std::sync::Arc<str>, KeyOutcome)>,
    cap: usize,
}

impl KeysImage {
    pub(super) fn of(keys: &Keys) -> Self {
        Self {
            hot: keys.hot().map(|(key, outcome)| (std::sync::Arc::clone(key), outcome)).collect(),
            cap: keys.cap(),
        }
    }
}

/// Writes a snapshot and deletes all but the newest two.
pub(super) fn write(directory: &Path, image: &StateImage, keys: &KeysImage) -> Result<(), BookError> {
    let path = files::snapshot_path(directory, image.next_seq - 1);
    disk::replace_with(&path, Replacing::Durable, |file| {
        let mut out = Checksummed::new(file)?;
        write_json(&mut out, image, keys)?;
        out.finish()
    })?;
    for (_, old) in files::list(directory)?.snapshots.into_iter().skip(KEPT) {
        if let Err(error) = disk::remove_file_if_exists(&old) {
            tracing::warn!(%error, "an old snapshot stays");
        }
    }
    Ok(())
}

fn write_json(out: &mut Checksummed<'_>, image: &StateImage, keys: &KeysImage) -> Result<(), BookError> {
    out.member("{\"next_seq\":", &image.next_seq)?;
    out.text(",\"accounts\":{")?;
    for (number, account) in image.accounts.iter().enumerate() {
        let (def, cfg) = &*account.opened;
        out.item(number, &def.id.to_key())?;
        out.member(":{\"def\":", def)?;
        out.member(",\"cfg\":", cfg)?;
        out.member(",\"raw_balance\":", &account.debit_balance)?;
        out.member(",\"updated_seq\":", &account.updated_seq)?;
        out.text(",\"postings\":[")?;
        let mut postings = 0;
        image.index.each_row(account, |row| {
            postings += 1;
            out.item(
                postings - 1,
                &SnapshotPosting {
                    seq: row.seq,
                    at: row.at,
                    txid: TxId(row.txid),
                    minor: row.minor,
                    direction: if row.is_credit { Direction::Credit } else { Direction::Debit },
                    raw_after: row.raw_after,
                },
            )
        })?;
        out.text("]}")?;
    }
    out.text("},\"idem\":{\"hot\":{")?;
    for (number, (key, outcome)) in keys.hot.iter().enumerate() {
        out.item(number, &key.as_ref())?;
        out.member(":", outcome)?;
    }
    out.text("},\"order\":[")?;
    for (number, (key, _)) in keys.hot.iter().enumerate() {
        out.item(number, &key.as_ref())?;
    }
    out.member("],\"cap\":", &keys.cap)?;
    // An id that was used twice is written twice, the later use last, because readers keep the last.
    out.text("},\"txids\":{")?;
    let mut txids = 0;
    image.index.each_txid(|txid, seq| {
        let position = image.index.position(seq)?;
        out.item(txids, &txid)?;
        txids += 1;
        out.member(":", &(seq, (position.base, position.offset)))
    })?;
    out.text("},\"sums\":{")?;
    for (number, (asset, sums)) in image.sums.iter().enumerate() {
        out.item(number, asset)?;
        out.member(":", sums)?;
    }
    out.member("},\"last_at\":", &image.last_at)?;
    out.text("}")
}

/// Reads a snapshot of event `last` into a new state and new keys. It has neither positions nor segments.
pub(super) fn load(
    path: &Path,
    last: Seq,
    directory: &Path,
    cap: usize,
) -> Result<(BookState, Keys), BookError> {
    let file = RunFile::open(path)?;
    let mut buffer = Vec::new();
    let payload = file.payload(&mut buffer)?;
    let (mut state, mut keys) = (BookState::new(directory), Keys::new(directory, cap));
    let mut json = serde_json::Deserializer::from_slice(payload);
    SnapshotReader { part: SnapshotPart::Whole, state: &mut state, keys: &mut keys }
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|error| damaged(path, error.to_string()))?;
    if state.next_seq.checked_sub(1) != Some(last) {
        let reason = format!("its next event is {}, its name says that the last is {last}", state.next_seq);
        return Err(damaged(path, reason));
    }
    Ok((state, keys))
}

fn damaged(path: &Path, reason: String) -> BookError {
    BookError::Derived { path: path.to_owned(), offset: 4, reason }
}

#[derive(Deserialize)]
struct SnapshotKeys {
    hot: HashMap<String, KeyOutcome>,
    order: Vec<String>,
    /// Not used; a snapshot without it is refused as incomplete.
    #[allow(dead_code)]
    cap: usize,
}

/// A part of a snapshot.
#[derive(Debug, Clone, Copy)]
enum SnapshotPart {
    Whole,
    Accounts,
    Account,
    /// Of the account with this index.
    Postings(u32),
    Txids,
}

/// Reads a part of a snapshot, as a stream, into a state and keys.
struct SnapshotReader<'s> {
    part: SnapshotPart,
    state: &'s mut BookState,
    keys: &'s mut Keys,
}

impl<'de> DeserializeSeed<'de> for SnapshotReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.part {
            SnapshotPart::Postings(_) => deserializer.deserialize_seq(self),
            _ => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for SnapshotReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.part {
            SnapshotPart::Whole => "a snapshot",
            SnapshotPart::Accounts => "accounts by key",
            SnapshotPart::Account => "an account",
            SnapshotPart::Postings(_) => "postings in the order of their events",
            SnapshotPart::Txids => "transactions by id",
        })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        match self.part {
            SnapshotPart::Whole => return self.whole(fields),
            SnapshotPart::Account => return self.account(fields),
            SnapshotPart::Accounts => {
                while fields.next_key::<IgnoredAny>()?.is_some() {
                    fields.next_value_seed(self.part(SnapshotPart::Account))?;
                }
            }
            SnapshotPart::Postings(_) => return Err(A::Error::custom("an object in the place of an array")),
            SnapshotPart::Txids => {
                while let Some((txid, (seq, _))) = fields.next_entry::<Uuid, (Seq, (Seq, u64))>()? {
                    self.state.add_txid(txid, seq);
                    self.flush_if_due();
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut postings: A) -> Result<(), A::Error> {
        let SnapshotPart::Postings(account) = self.part else {
            return Err(A::Error::custom("an array in the place of an object"));
        };
        let mut last = 0;
        while let Some(posting) = postings.next_element::<SnapshotPosting>()? {
            let SnapshotPosting { seq, at, txid, minor, direction, raw_after } = posting;
            if seq < last {
                return Err(A::Error::custom(format!("posting of event {seq} after one of event {last}")));
            }
            last = seq;
            let is_credit = direction == Direction::Credit;
            self.state.add_row(account, HistoryRow { seq, at, txid: txid.0, minor, is_credit, raw_after });
            self.flush_if_due();
        }
        Ok(())
    }
}

impl SnapshotReader<'_> {
    fn part(&mut self, part: SnapshotPart) -> SnapshotReader<'_> {
        SnapshotReader { part, state: self.state, keys: self.keys }
    }

    fn flush_if_due(&mut self) {
        if self.state.is_flush_due() {
            self.state.tidy();
        }
    }

    fn whole<'de, A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        let mut missing = vec!["next_seq", "accounts", "idem", "txids", "sums", "last_at"];
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "next_seq" => self.state.next_seq = fields.next_value()?,
                "accounts" => fields.next_value_seed(self.part(SnapshotPart::Accounts))?,
                "idem" => {
                    let mut idem: SnapshotKeys = fields.next_value()?;
                    for key in idem.order {
                        if let Some(outcome) = idem.hot.remove(&key) {
                            self.keys.insert(key.into(), outcome);
                        }
                    }
                }
                "txids" => fields.next_value_seed(self.part(SnapshotPart::Txids))?,
                "sums" => {
                    for (asset, (debits, credits)) in fields.next_value::<HashMap<String, (i64, i64)>>()? {
                        self.state.restore_sums(asset, debits, credits);
                    }
                }
                "last_at" => self.state.last_at = fields.next_value()?,
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
            missing.retain(|field| *field != name);
        }
        match missing.first() {
            None => Ok(()),
            Some(field) => Err(A::Error::missing_field(field)),
        }
    }

    fn account<'de, A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        let (mut def, mut cfg) = (None::<AccountDef>, None::<AccountCfg>);
        let (mut debit_balance, mut updated_seq, mut index) = (None, None, None);
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "def" => def = Some(fields.next_value()?),
                "cfg" => cfg = Some(fields.next_value()?),
                "raw_balance" => debit_balance = Some(fields.next_value()?),
                "updated_seq" => updated_seq = Some(fields.next_value()?),
                // Postings come last in an account, so the account is known when its postings are read.
                "postings" => {
                    let (Some(def), Some(cfg)) = (&def, &cfg) else {
                        return Err(A::Error::custom("the postings come before their account's definition"));
                    };
                    if self.state.find(&def.id.book.0, &def.id.path).is_some() {
                        let key = def.id.to_key();
                        return Err(A::Error::custom(format!("account {key:?} occurs twice")));
                    }
                    let account = self.state.account_count() as u32;
                    self.state.add_account(def, cfg);
                    fields.next_value_seed(self.part(SnapshotPart::Postings(account)))?;
                    index = Some(account);
                }
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        let (Some(index), Some(debit_balance), Some(updated_seq)) = (index, debit_balance, updated_seq)
        else {
            return Err(A::Error::custom("an account lacks postings, raw_balance or updated_seq"));
        };
        self.state.restore_account(index, debit_balance, updated_seq);
        Ok(())
    }
}

//! `burn book post`: transactions from JSON Lines, committed together as they come.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read as _};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use chrono::{DateTime, Utc};
use crossbeam_channel::RecvTimeoutError;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use talea_core::store::{Committed, Store as _, StoreError};
use talea_core::types::{
    AccountId, Amount, AssetId, Book, Direction, ExternalRef, IdempotencyKey, Posting, Transaction, TxId,
};
use uuid::Uuid;

use super::common::{BookDir, class, in_words, open, parse_account};
use crate::book::{self, LogTaleaStore};
use crate::cli::{JsonArray, JsonFailure, interrupt, print, print_text, warn};
use crate::interrupt::Interrupt;

/// Lines read ahead of the batch that is being committed.
const LINES_AHEAD: usize = 4096;

/// Bytes of such lines, unless a line alone is longer.
const AHEAD_BYTES: usize = 8 << 20;

/// Bytes of lines, and of memory for their metadata, that are committed together, unless a line alone is longer.
const BATCH_BYTES: usize = 8 << 20;

/// The longest line, which is as long as a segment of the log.
const LINE_MAX_BYTES: usize = 128 << 20;

/// Memory that the metadata of a line may take.
const METADATA_MAX_BYTES: usize = 256 << 20;

/// How often a wait for lines looks whether it was interrupted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An account in a line: by its key or by its parts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "an account is a text such as \"shop:cash\", or an object with book and path")]
enum AccountLine {
    Key(String),
    Parts(AccountId),
}

#[derive(Deserialize)]
#[serde(expecting = "an object with minor and asset")]
struct AmountLine {
    minor: i64,
    asset: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with account, amount and direction")]
struct PostingLine {
    account: AccountLine,
    amount: AmountLine,
    direction: Direction,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with kind and value")]
struct ReferenceLine {
    kind: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with postings and idempotency_key")]
struct TransactionLine<'a> {
    #[serde(default, deserialize_with = "uuid")]
    id: Option<Uuid>,
    /// Stands in an event, which may be given as it is.
    #[allow(dead_code)]
    kind: Option<String>,
    book: Option<String>,
    postings: Vec<PostingLine>,
    idempotency_key: String,
    #[serde(default)]
    external_refs: Vec<ReferenceLine>,
    /// Read when it is known how much memory it takes.
    #[serde(borrow, default, deserialize_with = "given")]
    metadata: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "time")]
    occurred_at: Option<DateTime<Utc>>,
}

fn uuid<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Uuid>, D::Error> {
    Option::deserialize(json).map_err(|_| D::Error::custom("id is not a UUID"))
}

fn time<'de, D: Deserializer<'de>>(json: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    Option::deserialize(json)
        .map_err(|_| D::Error::custom("occurred_at is not a time such as \"2026-04-20T12:00:00Z\""))
}

/// `null` is metadata, too.
fn given<'de, D: Deserializer<'de>>(json: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

/// About as many bytes as a JSON value takes in memory, and no fewer: an object has room for eleven members from the first
/// on, an array for four elements; each further one takes a node's share and a text of its own.
fn memory_bytes(json: &str) -> usize {
    json.bytes()
        .map(|byte| match byte {
            b'{' => 640,
            b',' => 192,
            b'[' => 128,
            _ => 1,
        })
        .sum()
}

fn parse_metadata(json: &RawValue) -> anyhow::Result<Value> {
    let (json, memory_bytes) = (json.get(), memory_bytes(json.get()));
    if memory_bytes > METADATA_MAX_BYTES {
        bail!(
            "its metadata of {} bytes has so many parts that it takes about {memory_bytes} bytes of memory, {METADATA_MAX_BYTES} \
             are allowed; store it elsewhere and refer to it",
            json.len()
        );
    }
    serde_json::from_str(json).map_err(|error| anyhow!(refusal(&error, "its metadata")))
}

/// The sentence for JSON text that cannot be read. `of` is what was read. The error's own text has words of the parser and of Rust.
fn refusal(error: &serde_json::Error, of: &str) -> String {
    const WORDS: [(&str, &str); 2] =
        [("expected i64", "expected a whole number of 64 bits"), ("expected a sequence", "expected a list")];
    let text = error.to_string();
    let said = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
    let reason = match error.classify() {
        Category::Eof => return format!("{of} ends before its JSON text does"),
        Category::Data => {
            let said = said.replacen("invalid type: floating point", "invalid type: number", 1);
            let mut said = said.replacen("unknown variant", "unknown word", 1);
            for (end, words) in WORDS {
                if let Some(found) = said.strip_suffix(end) {
                    said = format!("{found}{words}");
                }
            }
            said
        }
        _ if said.starts_with("recursion limit") => "the JSON text nests too deep".to_owned(),
        _ if said.starts_with("number out of range") => "a number is too large".to_owned(),
        _ if said.ends_with("hex escape") => "a text has half of a surrogate pair".to_owned(),
        _ => "it is not JSON".to_owned(),
    };
    // The column is the number of bytes that were read, of which the last is the wrong one.
    format!("byte {} of {of}: {reason}", error.column().saturating_sub(1))
}

/// Answers the memory that its metadata takes, too.
fn parse_transaction(line: &str) -> anyhow::Result<(Transaction, usize)> {
    let line: TransactionLine<'_> =
        serde_json::from_str(line).map_err(|error| anyhow!(refusal(&error, "the line")))?;
    let mut postings = Vec::new();
    for posting in line.postings {
        let account = match posting.account {
            AccountLine::Parts(account) => account,
            AccountLine::Key(key) => {
                parse_account(&key).map_err(|reason| anyhow!("account {key:?}: {reason}"))?
            }
        };
        let amount = Amount::new(posting.amount.minor, AssetId::new(posting.amount.asset));
        postings.push(Posting { account, amount, direction: posting.direction });
    }
    let book = match (line.book, postings.first()) {
        (Some(book), _) => Book(book),
        (None, Some(posting)) => posting.account.book.clone(),
        (None, None) => bail!("without postings the book must be named"),
    };
    let metadata_bytes = line.metadata.map_or(0, |json| memory_bytes(json.get()));
    let transaction = Transaction {
        id: TxId(line.id.unwrap_or_else(Uuid::new_v4)),
        book,
        postings,
        idempotency_key: IdempotencyKey(line.idempotency_key),
        external_refs: line
            .external_refs
            .into_iter()
            .map(|ReferenceLine { kind, value }| ExternalRef { kind, value })
            .collect(),
        metadata: line.metadata.map_or_else(|| Ok(json!({})), parse_metadata)?,
        occurred_at: line.occurred_at.unwrap_or_else(talea_core::store::ledger_now),
    };
    Ok((transaction, metadata_bytes))
}

/// A line of standard input.
struct StdinLine {
    /// From 1.
    number: u64,
    /// First byte.
    offset: u64,
    len_bytes: u64,
    /// Empty when the line is longer than [`LINE_MAX_BYTES`].
    bytes: Vec<u8>,
}

impl StdinLine {
    fn text(&self) -> anyhow::Result<&str> {
        if self.len_bytes > LINE_MAX_BYTES as u64 {
            bail!(
                "the line has {} bytes, {LINE_MAX_BYTES} are allowed; split the transaction",
                self.len_bytes
            );
        }
        std::str::from_utf8(&self.bytes)
            .map_err(|error| anyhow!("byte {} is not UTF-8 text", self.offset + error.valid_up_to() as u64))
    }
}

/// Standard input, read on a thread of its own, so that what is waiting there can be committed together.
struct StdinLines {
    lines: crossbeam_channel::Receiver<io::Result<StdinLine>>,
    ahead: Arc<Ahead>,
}

/// Bytes of the lines that were read and not taken.
#[derive(Default)]
struct Ahead {
    bytes: Mutex<usize>,
    changed: Condvar,
}

impl Ahead {
    /// Waits until a line of `len` bytes may be read ahead, and counts it.
    fn add(&self, len: usize) {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |bytes: &mut usize| *bytes > 0 && *bytes + len > AHEAD_BYTES;
        let mut bytes = self.changed.wait_while(bytes, is_full).unwrap_or_else(PoisonError::into_inner);
        *bytes += len;
    }

    fn take(&self, len: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= len;
        self.changed.notify_one();
    }
}

impl StdinLines {
    fn of_stdin() -> anyhow::Result<Self> {
        let (send, lines) = crossbeam_channel::bounded(LINES_AHEAD);
        let ahead = Arc::new(Ahead::default());
        let read = {
            let ahead = Arc::clone(&ahead);
            move || {
                let mut input = io::stdin().lock();
                let (mut number, mut offset) = (0, 0);
                loop {
                    // Nobody may be left to hear of it; here and below.
                    let line = match next_line(&mut input, number + 1, offset) {
                        Ok(None) => return,
                        Ok(Some(line)) => line,
                        Err(error) => return drop(send.send(Err(error))),
                    };
                    (number, offset) = (line.number, line.offset + line.len_bytes);
                    let is_blank =
                        line.bytes.trim_ascii().is_empty() && line.len_bytes == line.bytes.len() as u64;
                    if !is_blank {
                        ahead.add(line.bytes.len());
                        if send.send(Ok(line)).is_err() {
                            return;
                        }
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(read)
            .context("cannot start a thread that reads standard input; raise the limit on threads")?;
        Ok(Self { lines, ahead })
    }

    fn taken(&self, line: io::Result<StdinLine>) -> anyhow::Result<StdinLine> {
        let line = line.context("cannot read standard input")?;
        self.ahead.take(line.bytes.len());
        Ok(line)
    }

    /// The next line; none at the end of the input, and when the wait for a line is interrupted.
    fn wait(&self, interrupt: &Interrupt) -> anyhow::Result<Option<StdinLine>> {
        loop {
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => return self.taken(line).map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if interrupt.is_requested() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The next line, if it was read already.
    fn next_waiting(&self) -> anyhow::Result<Option<StdinLine>> {
        self.lines.try_recv().ok().map(|line| self.taken(line)).transpose()
    }
}

/// Reads a line, of one that is too long only the length.
fn next_line(input: &mut impl BufRead, number: u64, offset: u64) -> io::Result<Option<StdinLine>> {
    let mut bytes = Vec::new();
    let most = LINE_MAX_BYTES as u64 + 1;
    let mut len_bytes = input.by_ref().take(most).read_until(b'\n', &mut bytes)? as u64;
    if len_bytes == 0 {
        return Ok(None);
    }
    if len_bytes == most && bytes.last() != Some(&b'\n') {
        bytes = Vec::new();
        loop {
            let buffer = input.fill_buf()?;
            let end = memchr::memchr(b'\n', buffer);
            let taken = end.map_or(buffer.len(), |end| end + 1);
            input.consume(taken);
            len_bytes += taken as u64;
            if end.is_some() || taken == 0 {
                break;
            }
        }
    }
    Ok(Some(StdinLine { number, offset, len_bytes, bytes }))
}

/// A transaction that was not committed.
struct Refused {
    key: Option<String>,
    class: &'static str,
    reason: String,
}

/// Of a line: the key and what was committed under it, or why not.
type LineOutcome = (StdinPlace, Result<(String, Committed), Refused>);

/// What the lines have come to.
struct PostingReport {
    committed: u64,
    rejected: u64,
    /// Of the JSON document.
    results: Option<JsonArray>,
}

impl PostingReport {
    fn new(json: bool) -> anyhow::Result<Self> {
        let results = json.then(|| JsonArray::new(4));
        if json {
            print(b"{\n  \"results\": ")?;
        }
        Ok(Self { committed: 0, rejected: 0, results })
    }

    /// Prints the outcomes of a batch.
    fn tell(&mut self, batch: Vec<LineOutcome>) -> anyhow::Result<()> {
        let mut text = String::new();
        for (StdinPlace { number, offset }, outcome) in batch {
            match (outcome, &mut self.results) {
                (Ok((key, Committed { txid, seq, at })), results) => {
                    self.committed += 1;
                    match results {
                        Some(results) => {
                            let result =
                                json!({"line": number, "key": key, "seq": seq, "txid": txid.0, "at": at});
                            results.push(&result, &mut text)?;
                        }
                        None => {
                            let at = serde_json::to_value(at)?;
                            writeln!(text, "{seq}\t{}\t{}", txid.0, at.as_str().unwrap_or_default())?;
                        }
                    }
                }
                (Err(Refused { key, class, reason }), results) => {
                    self.rejected += 1;
                    match results {
                        Some(results) => {
                            let error = JsonFailure::new(class, &reason).in_line(number, offset);
                            results.push(&json!({"line": number, "key": key, "error": error}), &mut text)?;
                        }
                        None => warn(&format!("standard input, line {number} (byte {offset}): {reason}")),
                    }
                }
            }
        }
        if self.results.is_some() { print(text.as_bytes()) } else { print_text(&text) }
    }

    /// The end of the document: what was committed before a failure is durable, and told, too.
    fn end(&mut self) -> anyhow::Result<()> {
        let Some(results) = self.results.take() else { return Ok(()) };
        let (end, committed, rejected) = (results.end(), self.committed, self.rejected);
        print(format!("{end},\n  \"committed\": {committed},\n  \"rejected\": {rejected}\n}}\n").as_bytes())
    }
}

/// Where a line stands in standard input.
#[derive(Clone, Copy)]
struct StdinPlace {
    number: u64,
    offset: u64,
}

/// Commits what is waiting, beginning with `first`; answers the error after which the store takes no more.
async fn commit(
    store: &LogTaleaStore,
    lines: &StdinLines,
    first: StdinLine,
    batch: usize,
    report: &mut PostingReport,
) -> anyhow::Result<Option<StoreError>> {
    let mut places = Vec::new();
    let mut transactions = Vec::new();
    let mut outcomes = Vec::new();
    let (mut next, mut count, mut bytes) = (Some(first), 0, 0);
    while let Some(line) = next {
        let place = StdinPlace { number: line.number, offset: line.offset };
        match line.text().and_then(parse_transaction) {
            Ok((transaction, metadata_bytes)) => {
                bytes += line.bytes.len() + metadata_bytes;
                places.push(place);
                transactions.push(transaction);
            }
            Err(error) => {
                let reason = error.to_string();
                outcomes.push((place, Err(Refused { key: None, class: "invalid_line", reason })));
            }
        }
        count += 1;
        drop(line);
        next = if count < batch && bytes < BATCH_BYTES { lines.next_waiting()? } else { None };
    }
    let mut broken = None;
    for ((outcome, transaction), place) in
        store.commit_batch(&transactions).await.into_iter().zip(transactions).zip(places)
    {
        let key = transaction.idempotency_key.0;
        let outcome = outcome.map(|committed| (key.clone(), committed)).map_err(|error| {
            let refused = Refused { key: Some(key), class: class(&error), reason: in_words(&error) };
            if is_final(&error) {
                broken = Some(error);
            }
            refused
        });
        outcomes.push((place, outcome));
    }
    outcomes.sort_by_key(|(place, _)| place.number);
    report.tell(outcomes)?;
    Ok(broken)
}

pub(super) async fn post(common: &BookDir, batch: usize) -> anyhow::Result<ExitCode> {
    let store = open(&common.dir).await?;
    // Until here nothing is answered, and the signal's own effect is the right one.
    let interrupt = interrupt::watch();
    let lines = StdinLines::of_stdin()?;
    let mut report = PostingReport::new(common.json)?;
    let mut failed = None;
    while failed.is_none()
        && !interrupt.is_requested()
        && let Some(first) = tokio::task::block_in_place(|| lines.wait(&interrupt))?
    {
        // A store that cannot write any more is not asked again and again.
        failed = commit(&store, &lines, first, batch, &mut report).await?;
    }
    store.shutdown().await;
    report.end()?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if interrupt.is_requested() {
        bail!(
            "interrupted; what was answered is committed, and posting all lines again commits only the others"
        );
    }
    Ok(if report.rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_final(error: &StoreError) -> bool {
    let StoreError::Io(inner) = error else { return false };
    matches!(inner.downcast_ref(), Some(book::BookError::Poisoned { .. } | book::BookError::ShutDown))
}

//! `burn book post`: transactions from JSON Lines, committed together as they come.

use std::fmt::Write as _;
use std::io::{self, BufRead as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use talea_core::store::{Store as _, StoreError};
use talea_core::types::{
    AccountId, Amount, Book, Direction, ExternalRef, IdempotencyKey, Posting, Transaction, TxId,
};
use uuid::Uuid;

use super::{Common, class, in_words, open, parse_account};
use crate::book;
use crate::cli::{Failure, print_json, print_text, warn};

/// Lines read ahead of the batch that is being committed.
const LINES_AHEAD: usize = 4096;

/// An account in a line: by its key or by its parts.
#[derive(Deserialize)]
#[serde(untagged)]
enum AccountLine {
    Key(String),
    Parts(AccountId),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostingLine {
    account: AccountLine,
    amount: Amount,
    direction: Direction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransactionLine {
    id: Option<Uuid>,
    /// Stands in an event, which may be given as it is.
    #[allow(dead_code)]
    kind: Option<String>,
    book: Option<String>,
    postings: Vec<PostingLine>,
    idempotency_key: String,
    #[serde(default)]
    external_refs: Vec<ExternalRef>,
    #[serde(default = "empty_object")]
    metadata: Value,
    occurred_at: Option<DateTime<Utc>>,
}

fn empty_object() -> Value {
    json!({})
}

fn parse_transaction(line: &str) -> anyhow::Result<Transaction> {
    let line: TransactionLine = serde_json::from_str(line)?;
    let mut postings = Vec::new();
    for posting in line.postings {
        let account = match posting.account {
            AccountLine::Parts(account) => account,
            AccountLine::Key(key) => {
                parse_account(&key).map_err(|reason| anyhow!("account {key:?}: {reason}"))?
            }
        };
        postings.push(Posting { account, amount: posting.amount, direction: posting.direction });
    }
    let book = match (line.book, postings.first()) {
        (Some(book), _) => Book(book),
        (None, Some(posting)) => posting.account.book.clone(),
        (None, None) => bail!("without postings the book must be named"),
    };
    Ok(Transaction {
        id: TxId(line.id.unwrap_or_else(Uuid::new_v4)),
        book,
        postings,
        idempotency_key: IdempotencyKey(line.idempotency_key),
        external_refs: line.external_refs,
        metadata: line.metadata,
        occurred_at: line.occurred_at.unwrap_or_else(talea_core::store::ledger_now),
    })
}

/// A line of standard input.
struct Line {
    /// From 1.
    number: u64,
    /// First byte.
    offset: u64,
    bytes: Vec<u8>,
}

impl Line {
    fn text(&self) -> anyhow::Result<&str> {
        std::str::from_utf8(&self.bytes)
            .map_err(|error| anyhow!("byte {} is not UTF-8 text", self.offset + error.valid_up_to() as u64))
    }
}

/// Reads standard input on a thread of its own, so that what is waiting there can be committed together.
fn lines() -> anyhow::Result<crossbeam_channel::Receiver<io::Result<Line>>> {
    let (send, lines) = crossbeam_channel::bounded(LINES_AHEAD);
    let read = move || {
        let mut input = io::stdin().lock();
        let (mut number, mut offset) = (0, 0);
        loop {
            let mut bytes = Vec::new();
            let read = match input.read_until(b'\n', &mut bytes) {
                Ok(0) => return,
                Ok(read) => read as u64,
                Err(error) => {
                    // Nobody may be left to hear of it; here and below.
                    let _ = send.send(Err(error));
                    return;
                }
            };
            number += 1;
            if !bytes.trim_ascii().is_empty() && send.send(Ok(Line { number, offset, bytes })).is_err() {
                return;
            }
            offset += read;
        }
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(read)
        .context("cannot start a thread that reads standard input; raise the limit on threads")?;
    Ok(lines)
}

pub(super) async fn post(common: &Common, batch: usize) -> anyhow::Result<ExitCode> {
    let store = open(&common.dir).await?;
    let lines = lines()?;
    let mut results = Vec::new();
    let (mut committed, mut rejected) = (0_u64, 0_u64);
    let mut failed = None;
    while let Ok(first) = tokio::task::block_in_place(|| lines.recv()) {
        let mut numbers = Vec::new();
        let mut transactions = Vec::new();
        let mut refused = Vec::new();
        for line in std::iter::once(first).chain(lines.try_iter().take(batch - 1)) {
            let line = line.context("cannot read standard input")?;
            match line.text().and_then(parse_transaction) {
                Ok(transaction) => {
                    numbers.push((line.number, line.offset));
                    transactions.push(transaction);
                }
                Err(error) => {
                    refused.push((line.number, line.offset, None, "invalid_line", error.to_string()))
                }
            }
        }
        let outcomes = store.commit_batch(&transactions).await;
        let mut text = String::new();
        let mut broken = None;
        for ((outcome, transaction), (number, offset)) in outcomes.into_iter().zip(&transactions).zip(numbers)
        {
            let key = &transaction.idempotency_key.0;
            match outcome {
                Ok(done) => {
                    committed += 1;
                    if common.json {
                        let (txid, seq, at) = (done.txid.0, done.seq, done.at);
                        results.push(json!({"line": number, "key": key, "seq": seq, "txid": txid, "at": at}));
                    } else {
                        let at = serde_json::to_value(done.at)?;
                        let at = at.as_str().unwrap_or_default();
                        writeln!(text, "{}\t{}\t{at}", done.seq, done.txid.0)?;
                    }
                }
                Err(error) => {
                    refused.push((number, offset, Some(key.clone()), class(&error), in_words(&error)));
                    if matches!(error, StoreError::Io(_)) {
                        broken = Some(error);
                    }
                }
            }
        }
        print_text(&text)?;
        refused.sort_by_key(|(number, ..)| *number);
        for (number, offset, key, class, reason) in refused {
            rejected += 1;
            if common.json {
                let error = Failure::new(class, &reason).in_line(number, offset);
                results.push(json!({"line": number, "key": key, "error": error}));
            } else {
                warn(&format!("standard input, line {number} (byte {offset}): {reason}"));
            }
        }
        // A store that cannot write any more is not asked again and again.
        if let Some(error) = broken.filter(is_final) {
            failed = Some(error);
            break;
        }
    }
    store.shutdown().await;
    if common.json {
        // What was committed before a failure is told too: it is durable.
        results.sort_by_key(|result| result["line"].as_u64());
        print_json(&json!({"committed": committed, "rejected": rejected, "results": results}))?;
    }
    match failed {
        Some(error) => Err(error.into()),
        None if rejected == 0 => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

fn is_final(error: &StoreError) -> bool {
    let StoreError::Io(inner) = error else { return false };
    matches!(inner.downcast_ref(), Some(book::BookError::Poisoned { .. } | book::BookError::ShutDown))
}

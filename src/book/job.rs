//! What callers ask of a book's writer, and how much of it makes a batch.
//!
//! Touches nothing.

use std::sync::Arc;

use talea_core::store::{AccountCfg, Committed, StoreError};
use talea_core::types::{AccountDef, AssetDef, Book as BookName, Posting, Transaction};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::error::BookError;
use super::frame;

/// Weight of the jobs that are validated, written and synced together.
pub(super) const BATCH_MAX: usize = 1024;

/// A job weighs 1, and 1 more for each of these bytes of its JSON or names: a batch has at most 8 MiB or one
/// job, a queue 32 MiB.
const WEIGHT_BYTES: usize = 8 << 10;

/// Where the answer to a job goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the writer of a book.
#[derive(Debug)]
pub(super) enum Job {
    Commit(Draft, Reply<Committed>),
    Open(AccountDef, AccountCfg, Reply<()>),
    Register(AssetDef, Reply<()>),
    /// Write a snapshot.
    Snapshot(Reply<()>),
}

impl Job {
    /// What the job counts against [`BATCH_MAX`].
    pub(super) fn weight(&self) -> usize {
        let bytes = match self {
            Self::Commit(draft, _) => draft.json.as_ref().map_or(0, Vec::len),
            Self::Open(def, ..) => def.id.book.0.len() + def.id.path.len(),
            Self::Register(asset, _) => asset.id.as_str().len() + asset.name.len(),
            Self::Snapshot(_) => 0,
        };
        (1 + bytes / WEIGHT_BYTES).min(BATCH_MAX)
    }

    /// Answers with an error. The caller may have stopped waiting.
    pub(super) fn refuse(self, error: BookError) {
        match self {
            Self::Commit(_, reply) => drop(reply.send(Err(error.into()))),
            Self::Open(_, _, reply) | Self::Register(_, reply) | Self::Snapshot(reply) => {
                drop(reply.send(Err(error.into())));
            }
        }
    }
}

/// What the writer needs of a transaction. The caller makes the JSON, so that many callers make theirs at once.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) txid: Uuid,
    pub(super) book: BookName,
    pub(super) key: Arc<str>,
    pub(super) postings: Vec<Posting>,
    pub(super) json: Result<Vec<u8>, BookError>,
}

impl Draft {
    pub(super) fn new(transaction: &Transaction) -> Self {
        Self {
            txid: transaction.id.0,
            book: transaction.book.clone(),
            key: transaction.idempotency_key.0.as_str().into(),
            postings: transaction.postings.clone(),
            json: frame::transaction_json(transaction),
        }
    }
}

/// Returns how many of the first jobs make the next batch, and their weight.
pub(super) fn batch_of(jobs: &[Job]) -> (usize, usize) {
    let (mut count, mut sum) = (0, 0);
    for weight in jobs.iter().map(Job::weight) {
        if sum + weight > BATCH_MAX {
            break;
        }
        sum += weight;
        count += 1;
    }
    (count, sum)
}

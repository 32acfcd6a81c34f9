//! [`LogTaleaStore`]: the public store, `talea_core`'s `Store` over the books of a directory.
//!
//! Touches nothing itself; see [`books`](super::books). Guarantees: a request to a missing book creates the book only if
//! the request will be accepted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use talea_core::events::LedgerEvent;
use talea_core::store::{
    AccountCfg, BalanceSnapshot, Committed, EventStream, PostingRecord, SYSTEM_BOOK, Sequenced, Store,
    StoreError, StoredTransaction, TrialBalanceRow,
};
use talea_core::types::{
    AccountDef, AccountId, Amount, AssetDef, AssetId, Book as BookName, Direction, Seq, Transaction, TxId,
};
use tokio::sync::oneshot;

#[cfg(feature = "cli")]
use super::books::PAGE_BYTES;
use super::books::{Books, blocking, read_page, reader};
use super::error::BookError;
use super::files;
use super::job::{BATCH_MAX, Draft, Job};
use super::options::LogStoreOptions;
use super::queue::OpenBook;
use super::scratch::HistoryRow;
use super::state::{PostingRef, add_to_side, normal_balance, trial_balance_rows};
use super::subscribe;
use crate::store::Recovery;

/// An implementation of [`Store`] over append-only logs, one for each book. A batch of commits is synced once, and no
/// commit is answered before its sync.
///
/// Its methods need a tokio runtime. One store at a time can have a directory open. Dropping the store finishes queued work
/// and releases the directory, and blocks the thread meanwhile; [`LogTaleaStore::shutdown`] does the same without blocking.
#[derive(Debug)]
pub struct LogTaleaStore {
    pub(super) books: Arc<Books>,
}

/// Opens the store in `directory`, creating it when it is missing, and returns what was cut or renamed.
///
/// # Errors
/// `StoreError::Io` with a [`BookError`] inside: the directory is in use, or a log is damaged before its end.
pub async fn open(
    directory: &Path,
    options: &LogStoreOptions,
) -> Result<(LogTaleaStore, Recovery), StoreError> {
    let (directory, options) = (directory.to_owned(), options.clone());
    let (books, recovery) = blocking(move || Books::open(&directory, options)).await?;
    Ok((LogTaleaStore { books: Arc::new(books) }, recovery))
}

impl LogTaleaStore {
    /// Opens the store in `directory` with default options, creating it when it is missing.
    ///
    /// # Errors
    /// As [`open`].
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with(directory, LogStoreOptions::default()).await
    }

    /// Opens the store in `directory`, creating it when it is missing. What was cut or renamed goes to the log of the program; [`open`]
    /// returns it.
    ///
    /// # Errors
    /// As [`open`].
    pub async fn open_with(directory: &Path, options: LogStoreOptions) -> Result<Self, StoreError> {
        let (store, recovery) = open(directory, &options).await?;
        recovery.log();
        Ok(store)
    }

    /// Writes a snapshot of a book, durably. A book without events gets none, and neither does `_system`, whose
    /// registrations are always read from the log.
    ///
    /// # Errors
    /// `StoreError::Io`: no such book, shut down, or writing failed.
    pub async fn snapshot_now(&self, book: &str) -> Result<(), StoreError> {
        let unknown = || BookError::UnknownBook { name: book.to_owned() };
        let found = self.books.find(book)?.ok_or_else(unknown)?;
        ask(&found, Job::Snapshot).await
    }

    /// Returns the names of all books, `_system` included, in byte order.
    ///
    /// # Errors
    /// `StoreError::Io` after shutdown.
    pub fn books(&self) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<String> = self.books.with_books(|books| books.keys().cloned().collect())?;
        names.sort();
        Ok(names)
    }

    /// Returns the accounts of a book as they were opened, in the order of their opening; empty for an unknown book.
    ///
    /// # Errors
    /// `StoreError::Io`: bad name, or shut down.
    pub fn accounts(&self, book: &str) -> Result<Vec<(AccountDef, AccountCfg)>, StoreError> {
        let Some(book) = self.books.find(book)? else { return Ok(Vec::new()) };
        let state = book.view.state();
        Ok(state.accounts().map(|account| (*account.opened).clone()).collect())
    }

    /// Returns accounts of a book from the one with index `from` on, in the order of their opening, at most `limit`.
    #[cfg(feature = "cli")]
    pub(crate) fn account_page(
        &self,
        book: &str,
        from: usize,
        limit: usize,
    ) -> Result<Vec<Arc<(AccountDef, AccountCfg)>>, StoreError> {
        let Some(book) = self.books.find(book)? else { return Ok(Vec::new()) };
        let state = book.view.state();
        Ok(state.accounts().skip(from).take(limit).map(|account| Arc::clone(&account.opened)).collect())
    }

    /// Returns events of a book from `from` on: at most `limit`, and at most [`PAGE_BYTES`] bytes.
    #[cfg(feature = "cli")]
    pub(crate) async fn event_page(
        &self,
        book: &str,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<Sequenced<LedgerEvent>>, StoreError> {
        let Some(book) = self.books.find(book)? else { return Ok(Vec::new()) };
        Ok(blocking(move || read_page(&book.view, from, limit, PAGE_BYTES)).await?)
    }

    /// Returns all registered assets in the order of their ids' bytes.
    pub fn assets(&self) -> Vec<AssetDef> {
        let mut assets: Vec<AssetDef> = self.books.assets().values().cloned().collect();
        assets.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        assets
    }

    /// Refuses new work, finishes queued work, ends subscriptions, and releases the directory. May be called again, and
    /// by several callers at once: the directory is released before any of them returns.
    pub async fn shutdown(&self) {
        let books = Arc::clone(&self.books);
        let ended = blocking(move || {
            books.shut_down();
            Ok(())
        });
        // A runtime that is shutting down cannot run this; dropping the store does the same.
        let _ = ended.await;
    }
}

impl Drop for LogTaleaStore {
    fn drop(&mut self) {
        self.books.shut_down();
    }
}

/// Queues a job and waits for its answer.
async fn ask<T>(
    book: &Arc<OpenBook>,
    job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    book.submit(vec![job(reply)]).await?;
    answered(book, answer).await
}

async fn submit(queues: Vec<(Arc<OpenBook>, Vec<Job>)>) {
    for (book, jobs) in queues {
        // A job that is not queued drops its reply, and its caller gets the error from there.
        let _ = book.submit(jobs).await;
    }
}

async fn answered<T>(
    book: &OpenBook,
    answer: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    answer.await.unwrap_or_else(|_| Err(book.closed_error().into()))
}

#[async_trait]
impl Store for LogTaleaStore {
    async fn register_asset(&self, asset: &AssetDef) -> Result<(), StoreError> {
        // Fails after shutdown, even for a known asset.
        self.books.find(SYSTEM_BOOK)?;
        let known = self.books.assets().get(&asset.id).cloned();
        match known {
            Some(known) if known == *asset => Ok(()),
            Some(_) => Err(StoreError::AlreadyExists { what: format!("asset {}", asset.id.as_str()) }),
            None => {
                let book = self.books.create(SYSTEM_BOOK).await?;
                ask(&book, |reply| Job::Register(asset.clone(), reply)).await
            }
        }
    }

    async fn open_account(&self, def: &AccountDef, cfg: &AccountCfg) -> Result<(), StoreError> {
        let name = &def.id.book;
        if name.is_reserved() {
            return Err(StoreError::InvalidBook(name.clone()));
        }
        if !self.books.assets().contains_key(&def.asset) {
            return Err(StoreError::UnknownAsset(def.asset.clone()));
        }
        let book = self.books.create(&name.0).await?;
        ask(&book, |reply| Job::Open(def.clone(), cfg.clone(), reply)).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed, StoreError> {
        let book = self.books.book_for(transaction).await?;
        ask(&book, |reply| Job::Commit(Draft::new(transaction), reply)).await
    }

    async fn commit_batch(&self, transactions: &[Transaction]) -> Vec<Result<Committed, StoreError>> {
        let mut queues: Vec<(Arc<OpenBook>, Vec<Job>)> = Vec::new();
        let mut waiting = Vec::with_capacity(transactions.len());
        // The weight of the jobs in `queues`. They are submitted at [`BATCH_MAX`], so that the drafts of a
        // long list are never all in memory.
        let mut pending = 0;
        for transaction in transactions {
            let book = match self.books.book_for(transaction).await {
                Ok(book) => book,
                Err(error) => {
                    waiting.push(Err(error));
                    continue;
                }
            };
            let (reply, answer) = oneshot::channel();
            let job = Job::Commit(Draft::new(transaction), reply);
            if pending + job.weight() > BATCH_MAX {
                submit(std::mem::take(&mut queues)).await;
                pending = 0;
            }
            pending += job.weight();
            match queues.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &book)) {
                Some((_, jobs)) => jobs.push(job),
                None => queues.push((Arc::clone(&book), vec![job])),
            }
            waiting.push(Ok((book, answer)));
        }
        submit(queues).await;
        let mut outcomes = Vec::with_capacity(waiting.len());
        for queued in waiting {
            outcomes.push(match queued {
                Ok((book, answer)) => answered(&book, answer).await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    async fn balance(
        &self,
        account: &AccountId,
        as_of: Option<DateTime<Utc>>,
    ) -> Result<BalanceSnapshot, StoreError> {
        let unknown = || StoreError::UnknownAccount(account.clone());
        let book = self.books.find(&account.book.0)?.ok_or_else(unknown)?;
        let (view, now) = {
            let state = book.view.state();
            let index = state.find(&account.book.0, &account.path).ok_or_else(unknown)?;
            let known = state.account(index);
            let now = (known.debit_balance, known.updated_seq);
            (
                as_of
                    .map(|time| (time, state.view_before(index, |row| row.at <= time)))
                    .ok_or(Arc::clone(&known.opened)),
                now,
            )
        };
        let (opened, (debit_balance, updated_seq)) = match view {
            Err(opened) => (opened, now),
            Ok((time, view)) => {
                let opened = Arc::clone(&view.opened);
                let row = blocking(move || view.last(|row| row.at <= time)).await?;
                (opened, row.map_or((0, 0), |row| (row.raw_after, row.seq)))
            }
        };
        let (def, cfg) = &*opened;
        let amount = normal_balance(debit_balance, cfg)
            .ok_or_else(|| BookError::Overflow { account: account.clone() })?;
        Ok(BalanceSnapshot { amount: Amount::new(amount, def.asset.clone()), updated_seq })
    }

    async fn asset(&self, id: &AssetId) -> Result<Option<AssetDef>, StoreError> {
        Ok(self.books.assets().get(id).cloned())
    }

    async fn account_history(
        &self,
        account: &AccountId,
        after_seq: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<PostingRecord>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let unknown = || StoreError::UnknownAccount(account.clone());
        let book = self.books.find(&account.book.0)?.ok_or_else(unknown)?;
        let after = after_seq.unwrap_or(0).max(0);
        let view = {
            let state = book.view.state();
            let index = state.find(&account.book.0, &account.path).ok_or_else(unknown)?;
            state.view_page(index, after, limit)
        };
        let asset = view.opened.0.asset.clone();
        let rows = blocking(move || view.page(after, limit)).await?;
        let record = |row: HistoryRow| PostingRecord {
            seq: row.seq,
            txid: TxId(row.txid),
            account: account.clone(),
            amount: Amount::new(row.minor, asset.clone()),
            direction: if row.is_credit { Direction::Credit } else { Direction::Debit },
            at: row.at,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    async fn transaction(&self, txid: &TxId) -> Result<Option<StoredTransaction>, StoreError> {
        let books: Vec<Arc<OpenBook>> = self.books.with_books(|books| books.values().cloned().collect())?;
        let txid = txid.0;
        let read = move || {
            let mut latest: Option<Sequenced<LedgerEvent>> = None;
            for book in &books {
                let found = {
                    let state = book.view.state();
                    let seq = state.latest_with_txid(txid)?;
                    seq.map(|seq| Ok::<_, BookError>((seq, state.index.position(seq)?))).transpose()?
                };
                let Some((seq, position)) = found else { continue };
                let event = files::read_event(&book.view.directory, position, seq)?;
                if latest.as_ref().is_none_or(|latest| latest.at <= event.at) {
                    latest = Some(event);
                }
            }
            Ok(latest)
        };
        Ok(blocking(read).await?.and_then(|Sequenced { seq, at, event }| match event {
            LedgerEvent::TransactionPosted(transaction) => Some(StoredTransaction { transaction, seq, at }),
            _ => None,
        }))
    }

    async fn trial_balance(
        &self,
        book: &BookName,
        as_of: Option<DateTime<Utc>>,
    ) -> Result<Vec<TrialBalanceRow>, StoreError> {
        let Some(book) = self.books.find(&book.0)? else { return Ok(Vec::new()) };
        let Some(time) = as_of else { return Ok(book.view.state().trial_balance()) };
        let read = move || {
            let last = book.view.last_seq();
            let mut sums: HashMap<String, (i64, i64)> = HashMap::new();
            if last == 0 {
                return Ok(Vec::new());
            }
            let mut reader = reader(&book.view, 1, last)?;
            // Times never go back, so no event after the first later one counts.
            while let Some(event) = reader.next_event()?.filter(|event| event.at <= time) {
                let LedgerEvent::TransactionPosted(transaction) = event.event else { continue };
                for posting in transaction.postings.iter().map(PostingRef::from) {
                    let sums = sums.entry(posting.asset.to_owned()).or_default();
                    add_to_side(sums, posting.minor, posting.is_credit);
                }
            }
            Ok(trial_balance_rows(&sums))
        };
        Ok(blocking(read).await?)
    }

    async fn read_events(
        &self,
        book: &BookName,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<Sequenced<LedgerEvent>>, StoreError> {
        let Some(book) = self.books.find(&book.0)? else { return Ok(Vec::new()) };
        Ok(blocking(move || read_page(&book.view, from, limit, u64::MAX)).await?)
    }

    fn subscribe(&self, book: &BookName, from: Seq) -> EventStream {
        subscribe::stream(Arc::clone(&self.books), &book.0, from)
    }
}

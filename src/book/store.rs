//! [`LogTaleaStore`]: the directory, its lock, its books, and `talea_core`'s `Store` over them.
//!
//! Touches `LOCK` and creates book directories; everything inside them is the business of other files here. Promises: the
//! lock is held from before anything is read until after everything is written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

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
use tokio::sync::{oneshot, watch};

use super::directory::{book_names, refuse_link, take_lock};
use super::error::BookError;
use super::files::{self, EventReader};
use super::open;
use super::queue::{Assets, BATCH_MAX, Book, Draft, Job};
use super::recovery::RecoveryReport;
use super::state::{PostingRef, add_to_side, effective, rows_of};
use super::subscribe;
use crate::disk::{self, KernelLock};

/// How a [`LogTaleaStore`] uses memory and disk. None of it is stored: a directory can be opened with other options.
#[derive(Debug, Clone)]
pub struct LogStoreOptions {
    /// Idempotency keys that each book keeps in memory; of more, the older half goes to a run file. Default 1 000 000.
    pub idem_hot_cap: usize,
    /// Events between automatic snapshots of a book; 0 turns them off. Default 100 000.
    pub snapshot_every: u64,
    /// Length in bytes from which a segment is followed by a new one. Default 128 MiB.
    pub segment_max: u64,
}

impl Default for LogStoreOptions {
    fn default() -> Self {
        Self { idem_hot_cap: 1_000_000, snapshot_every: 100_000, segment_max: 128 << 20 }
    }
}

/// An append-log implementation of [`Store`]: one log a book, group commit, answers after the sync.
///
/// Its methods need a tokio runtime. One store at a time can have a directory open. Dropping it finishes what is queued
/// and releases the directory, and blocks the thread meanwhile; [`LogTaleaStore::shutdown`] does the same without blocking it.
#[derive(Debug)]
pub struct LogTaleaStore {
    pub(super) shared: Arc<Shared>,
}

/// What the store and its subscriptions share.
#[derive(Debug)]
pub(super) struct Shared {
    directory: PathBuf,
    options: LogStoreOptions,
    /// Absent after shutdown, so that nothing can be created any more.
    books: RwLock<Option<HashMap<String, Arc<Book>>>>,
    assets: Arc<Assets>,
    /// How many books have been created, for those who wait for one; closed by shutdown.
    created: watch::Sender<Created>,
    /// Absent after shutdown, which holds the mutex from its beginning to its end.
    lock: Mutex<Option<KernelLock>>,
    /// What opening did.
    recovery: RecoveryReport,
}

/// What [`Shared::created`] tells.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Created {
    books: u64,
    /// Set by shutdown.
    pub closed: bool,
}

/// The log of each book is asked for by name; this says which names can be.
///
/// # Errors
/// [`BookError::BadName`].
pub(super) fn check_name(name: &str) -> Result<(), BookError> {
    if name.is_empty() || name == "." || name.contains("..") || name.contains(['/', '\\']) {
        return Err(BookError::BadName { name: name.to_owned() });
    }
    Ok(())
}

/// Runs what may wait for a disk where waiting is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, BookError> + Send + 'static,
) -> Result<T, BookError> {
    match tokio::task::spawn_blocking(disk::handed_over(run)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(BookError::Worker { what: "reading", reason: error.to_string() }),
    }
}

impl LogTaleaStore {
    /// Opens the store in `directory` with default options, creating it when it is missing.
    ///
    /// # Errors
    /// `StoreError::Io` with a [`BookError`] inside: the directory is in use, or its logs are damaged in a way that must
    /// not be repaired.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with(directory, LogStoreOptions::default()).await
    }

    /// Opens the store in `directory`, creating it when it is missing.
    ///
    /// # Errors
    /// As [`LogTaleaStore::open`].
    pub async fn open_with(directory: &Path, options: LogStoreOptions) -> Result<Self, StoreError> {
        let directory = directory.to_owned();
        let shared = blocking(move || Shared::open(&directory, options)).await?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What opening the store cut or renamed; empty when all was sound.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.shared.recovery
    }

    /// Writes a snapshot of a book; it is durable on return. Of a book without events, and of `_system`, whose
    /// registrations are always read from the log, none is written.
    ///
    /// # Errors
    /// `StoreError::Io`: no such book, shut down, or writing failed.
    pub async fn snapshot_now(&self, book: &str) -> Result<(), StoreError> {
        let unknown = || BookError::UnknownBook { name: book.to_owned() };
        let found = self.shared.find(book)?.ok_or_else(unknown)?;
        ask(&found, Job::Snapshot).await
    }

    /// The names of all books, `_system` included, in byte order.
    ///
    /// # Errors
    /// `StoreError::Io` after shutdown.
    pub fn books(&self) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<String> = self.shared.with_books(|books| books.keys().cloned().collect())?;
        names.sort();
        Ok(names)
    }

    /// The accounts of a book as they were opened, in the order of their opening; none of an unknown book.
    ///
    /// # Errors
    /// `StoreError::Io`: bad name, or shut down.
    pub fn accounts(&self, book: &str) -> Result<Vec<(AccountDef, AccountCfg)>, StoreError> {
        let Some(book) = self.shared.find(book)? else { return Ok(Vec::new()) };
        let state = book.state();
        Ok(state.accounts().map(|account| (*account.opened).clone()).collect())
    }

    /// Accounts of a book from the one with index `from` on, in the order of their opening, at most `limit`.
    #[cfg(feature = "cli")]
    pub(crate) fn account_page(
        &self,
        book: &str,
        from: usize,
        limit: usize,
    ) -> Result<Vec<Arc<(AccountDef, AccountCfg)>>, StoreError> {
        let Some(book) = self.shared.find(book)? else { return Ok(Vec::new()) };
        let state = book.state();
        Ok(state.accounts().skip(from).take(limit).map(|account| Arc::clone(&account.opened)).collect())
    }

    /// Events of a book from `from` on, at most `limit`, as many as make up a page in memory.
    #[cfg(feature = "cli")]
    pub(crate) async fn event_page(
        &self,
        book: &str,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<Sequenced<LedgerEvent>>, StoreError> {
        let Some(book) = self.shared.find(book)? else { return Ok(Vec::new()) };
        Ok(blocking(move || read_page(&book, from, limit, PAGE_BYTES)).await?)
    }

    /// All registered assets in the order of their ids' bytes.
    pub fn assets(&self) -> Vec<AssetDef> {
        let mut assets: Vec<AssetDef> = self.shared.assets().values().cloned().collect();
        assets.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        assets
    }

    /// Refuses new work, finishes what is queued, ends subscriptions, and releases the directory. May be called again, and
    /// by several at once: the directory is released when all of them return.
    pub async fn shutdown(&self) {
        let shared = Arc::clone(&self.shared);
        let ended = blocking(move || {
            shared.shut_down();
            Ok(())
        });
        // It reports nothing; a runtime that is going down cannot run it, and dropping the store does the same.
        let _ = ended.await;
    }
}

impl Drop for LogTaleaStore {
    fn drop(&mut self) {
        self.shared.shut_down();
    }
}

/// Queues a job and waits for its answer.
async fn ask<T>(
    book: &Arc<Book>,
    job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    book.submit(vec![job(reply)]).await?;
    answered(book, answer).await
}

async fn submit(queues: Vec<(Arc<Book>, Vec<Job>)>) {
    for (book, jobs) in queues {
        // Jobs that are not taken drop their replies, which is what their callers are told of.
        let _ = book.submit(jobs).await;
    }
}

async fn answered<T>(book: &Book, answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.await.unwrap_or_else(|_| Err(book.closed_error().into()))
}

impl Shared {
    fn open(directory: &Path, options: LogStoreOptions) -> Result<Self, BookError> {
        let books_directory = directory.join("books");
        disk::create_dir_all(&books_directory)?;
        let lock = take_lock(directory)?;
        // The names of both, and of the books, may be the work of a program that was killed before it synced them.
        disk::sync_dir(&books_directory)?;
        disk::sync_dir(directory)?;
        match disk::sync_dir(disk::parent_of(directory)) {
            // The parent may be one that this user can pass through and not open.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
        let mut books = HashMap::new();
        let assets = Arc::<Assets>::default();
        let mut recovery = RecoveryReport::default();
        // All are read before the first is cut: a book that is refused leaves the others as they are, and whatever is cut is
        // told of.
        let mut read = Vec::new();
        for name in book_names(&books_directory)? {
            read.push(open::read(&books_directory.join(&name), &name, &options)?);
        }
        for book in read {
            let (name, book_directory) = (book.name.clone(), book.directory.clone());
            let mut opened = book.finish()?;
            recovery.truncated.append(&mut opened.recovery.truncated);
            recovery.quarantined.append(&mut opened.recovery.quarantined);
            let registered = opened.assets.drain(..).map(|asset| (asset.id.clone(), asset));
            assets.write().unwrap_or_else(PoisonError::into_inner).extend(registered);
            let book = Arc::new(Book::new(&name, &book_directory, opened, &options, &assets));
            books.insert(name, book);
        }
        Ok(Self {
            directory: directory.to_owned(),
            options,
            books: RwLock::new(Some(books)),
            assets,
            created: watch::channel(Created::default()).0,
            lock: Mutex::new(Some(lock)),
            recovery,
        })
    }

    fn with_books<T>(&self, read: impl FnOnce(&HashMap<String, Arc<Book>>) -> T) -> Result<T, BookError> {
        let books = self.books.read().unwrap_or_else(PoisonError::into_inner);
        books.as_ref().map(read).ok_or(BookError::ShutDown)
    }

    fn assets(&self) -> std::sync::RwLockReadGuard<'_, HashMap<AssetId, AssetDef>> {
        self.assets.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a book up.
    ///
    /// # Errors
    /// A name that no book can have; shut down.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<Book>>, BookError> {
        let found = self.with_books(|books| books.get(name).cloned())?;
        check_name(name)?;
        Ok(found)
    }

    /// Tells of books that are created from now on.
    pub(super) fn follow(&self) -> watch::Receiver<Created> {
        self.created.subscribe()
    }

    /// Looks a book up, and creates it when it is missing. Only for what will be its first event.
    fn find_or_create(&self, name: &str) -> Result<Arc<Book>, BookError> {
        if let Some(book) = self.find(name)? {
            return Ok(book);
        }
        let mut books = self.books.write().unwrap_or_else(PoisonError::into_inner);
        // Looked at again under the lock: shutdown may have gone by, and another program may own the directory.
        let books = books.as_mut().ok_or(BookError::ShutDown)?;
        if let Some(book) = books.get(name) {
            return Ok(Arc::clone(book));
        }
        let directory = self.directory.join("books").join(name);
        disk::refuse_other_case(&directory)?;
        refuse_link(&directory)?;
        let opened = open::create(&directory, &self.options)?;
        let book = Arc::new(Book::new(name, &directory, opened, &self.options, &self.assets));
        books.insert(name.to_owned(), Arc::clone(&book));
        self.created.send_modify(|created| created.books += 1);
        Ok(book)
    }

    async fn create(self: &Arc<Self>, name: &str) -> Result<Arc<Book>, BookError> {
        if let Some(book) = self.find(name)? {
            return Ok(book);
        }
        let shared = Arc::clone(self);
        let name = name.to_owned();
        blocking(move || shared.find_or_create(&name)).await
    }

    /// The book that is to judge a transaction; for one that a missing book would reject, the rejection.
    async fn book_for(self: &Arc<Self>, transaction: &Transaction) -> Result<Arc<Book>, StoreError> {
        let name = &transaction.book;
        if let Some(book) = self.find(&name.0)? {
            return Ok(book);
        }
        if name.is_reserved() {
            return Err(StoreError::InvalidBook(name.clone()));
        }
        if let Some(posting) = transaction.postings.first() {
            return Err(StoreError::UnknownAccount(posting.account.clone()));
        }
        // Without postings there is nothing to reject but what cannot be stored.
        super::frame::transaction_json(transaction)?;
        Ok(self.create(&name.0).await?)
    }

    fn shut_down(&self) {
        // Held to the end: who comes second finds no books, and must not release the directory while the first still waits for
        // their writers.
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let books = self.books.write().unwrap_or_else(PoisonError::into_inner).take();
        for book in books.unwrap_or_default().values() {
            book.shut_down();
        }
        self.created.send_modify(|created| created.closed = true);
        lock.take();
    }
}

/// Reads events `first` to `last`, which the book has.
fn reader(book: &Book, first: Seq, last: Seq) -> Result<EventReader, BookError> {
    let state = book.state();
    EventReader::new(book.directory(), state.bases(), state.position(first)?, first, last)
}

/// Frames of a page, in bytes, after which no further event is added to it.
pub(super) const PAGE_BYTES: u64 = 4 << 20;

/// Reads at most `limit` events from `first` on, none above what is durable and applied, and none behind `max_bytes` of them.
pub(super) fn read_page(
    book: &Book,
    first: Seq,
    limit: usize,
    max_bytes: u64,
) -> Result<Vec<Sequenced<LedgerEvent>>, BookError> {
    let first = first.max(1);
    let last = book.last_seq().min(first.saturating_add(Seq::try_from(limit).unwrap_or(Seq::MAX)) - 1);
    if first > last {
        return Ok(Vec::new());
    }
    let mut reader = reader(book, first, last)?;
    let mut events = Vec::new();
    while reader.read_bytes < max_bytes
        && let Some(event) = reader.next_event()?
    {
        events.push(event);
    }
    Ok(events)
}

#[async_trait]
impl Store for LogTaleaStore {
    async fn register_asset(&self, asset: &AssetDef) -> Result<(), StoreError> {
        // Says so after shutdown, whatever is known.
        self.shared.find(SYSTEM_BOOK)?;
        let known = self.shared.assets().get(&asset.id).cloned();
        match known {
            Some(known) if known == *asset => Ok(()),
            Some(_) => Err(StoreError::AlreadyExists { what: format!("asset {}", asset.id.as_str()) }),
            None => {
                let book = self.shared.create(SYSTEM_BOOK).await?;
                ask(&book, |reply| Job::Register(asset.clone(), reply)).await
            }
        }
    }

    async fn open_account(&self, def: &AccountDef, cfg: &AccountCfg) -> Result<(), StoreError> {
        let name = &def.id.book;
        if name.is_reserved() {
            return Err(StoreError::InvalidBook(name.clone()));
        }
        if !self.shared.assets().contains_key(&def.asset) {
            return Err(StoreError::UnknownAsset(def.asset.clone()));
        }
        let book = self.shared.create(&name.0).await?;
        ask(&book, |reply| Job::Open(def.clone(), cfg.clone(), reply)).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed, StoreError> {
        let book = self.shared.book_for(transaction).await?;
        ask(&book, |reply| Job::Commit(Draft::new(transaction), reply)).await
    }

    async fn commit_batch(&self, transactions: &[Transaction]) -> Vec<Result<Committed, StoreError>> {
        let mut queues: Vec<(Arc<Book>, Vec<Job>)> = Vec::new();
        let mut waiting = Vec::with_capacity(transactions.len());
        // What the jobs in `queues` weigh together: what is written is made of the transactions piece by piece, in step with
        // the writers.
        let mut pending = 0;
        for transaction in transactions {
            let book = match self.shared.book_for(transaction).await {
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
        let book = self.shared.find(&account.book.0)?.ok_or_else(unknown)?;
        let (view, now) = {
            let state = book.state();
            let index = state.find(&account.book.0, &account.path).ok_or_else(unknown)?;
            let known = state.account(index);
            let now = (known.raw, known.updated_seq);
            (
                as_of
                    .map(|time| (time, state.view_before(index, |row| row.at <= time)))
                    .ok_or(Arc::clone(&known.opened)),
                now,
            )
        };
        let (opened, (raw, updated_seq)) = match view {
            Err(opened) => (opened, now),
            Ok((time, view)) => {
                let opened = Arc::clone(&view.opened);
                let row = blocking(move || view.last(|row| row.at <= time)).await?;
                (opened, row.map_or((0, 0), |row| (row.raw_after, row.seq)))
            }
        };
        let (def, cfg) = &*opened;
        let amount = effective(raw, cfg).ok_or_else(|| BookError::Overflow { account: account.clone() })?;
        Ok(BalanceSnapshot { amount: Amount::new(amount, def.asset.clone()), updated_seq })
    }

    async fn asset(&self, id: &AssetId) -> Result<Option<AssetDef>, StoreError> {
        Ok(self.shared.assets().get(id).cloned())
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
        let book = self.shared.find(&account.book.0)?.ok_or_else(unknown)?;
        let after = after_seq.unwrap_or(0).max(0);
        let view = {
            let state = book.state();
            let index = state.find(&account.book.0, &account.path).ok_or_else(unknown)?;
            state.view_page(index, after, limit)
        };
        let asset = view.opened.0.asset.clone();
        let rows = blocking(move || view.page(after, limit)).await?;
        let record = |row: super::scratch::Row| PostingRecord {
            seq: row.seq,
            txid: TxId(row.txid),
            account: account.clone(),
            amount: Amount::new(row.minor, asset.clone()),
            direction: if row.credit { Direction::Credit } else { Direction::Debit },
            at: row.at,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    async fn transaction(&self, txid: &TxId) -> Result<Option<StoredTransaction>, StoreError> {
        let books: Vec<Arc<Book>> = self.shared.with_books(|books| books.values().cloned().collect())?;
        let txid = txid.0;
        let read = move || {
            let mut latest: Option<Sequenced<LedgerEvent>> = None;
            for book in &books {
                let found = {
                    let state = book.state();
                    let seq = state.latest_with_txid(txid)?;
                    seq.map(|seq| Ok::<_, BookError>((seq, state.position(seq)?))).transpose()?
                };
                let Some((seq, position)) = found else { continue };
                let event = files::read_event(book.directory(), position, seq)?;
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
        let Some(book) = self.shared.find(&book.0)? else { return Ok(Vec::new()) };
        let Some(time) = as_of else { return Ok(book.state().trial_balance()) };
        let read = move || {
            let last = book.last_seq();
            let mut sums: HashMap<String, (i64, i64)> = HashMap::new();
            if last == 0 {
                return Ok(Vec::new());
            }
            let mut reader = reader(&book, 1, last)?;
            // Times never go back, so nothing behind the first later event counts.
            while let Some(event) = reader.next_event()?.filter(|event| event.at <= time) {
                let LedgerEvent::TransactionPosted(transaction) = event.event else { continue };
                for posting in transaction.postings.iter().map(PostingRef::from) {
                    let sums = sums.entry(posting.asset.to_owned()).or_default();
                    add_to_side(sums, posting.minor, posting.credit);
                }
            }
            Ok(rows_of(&sums))
        };
        Ok(blocking(read).await?)
    }

    async fn read_events(
        &self,
        book: &BookName,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<Sequenced<LedgerEvent>>, StoreError> {
        let Some(book) = self.shared.find(&book.0)? else { return Ok(Vec::new()) };
        Ok(blocking(move || read_page(&book, from, limit, u64::MAX)).await?)
    }

    fn subscribe(&self, book: &BookName, from: Seq) -> EventStream {
        subscribe::stream(Arc::clone(&self.shared), &book.0, from)
    }
}

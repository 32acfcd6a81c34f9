//! The books of an open store: the directory, its lock, and the map from names to books.
//!
//! Touches `LOCK`, and creates the directories of books. Guarantees: the lock is held from before anything is read until after
//! everything is written; a book is created under the lock of the map, so that none appears after shutdown.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use talea_core::events::LedgerEvent;
use talea_core::store::{Sequenced, StoreError};
use talea_core::types::{AssetDef, AssetId, Seq, Transaction};
use tokio::sync::watch;

use super::directory::{book_names, refuse_link, take_lock};
use super::error::BookError;
use super::files::EventReader;
use super::opening;
use super::options::LogStoreOptions;
use super::queue::OpenBook;
use super::view::{Assets, BookView};
use crate::disk::{self, KernelLock};
use crate::store::{self, Recovery};

/// All books of an open store, shared by the store and its subscriptions.
#[derive(Debug)]
pub(super) struct Books {
    directory: PathBuf,
    options: LogStoreOptions,
    /// Absent after shutdown, so that no book can be created after it.
    books: RwLock<Option<HashMap<String, Arc<OpenBook>>>>,
    assets: Arc<Assets>,
    /// Tells subscriptions that wait for a book that one was created, or that the store was shut down.
    created: watch::Sender<Created>,
    /// Absent after shutdown, which holds the mutex from its beginning to its end.
    lock: Mutex<Option<KernelLock>>,
}

/// How many books this store has created.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Created {
    books: u64,
    /// Set by shutdown.
    pub(super) closed: bool,
}

/// Refuses a name that no book can have.
///
/// # Errors
/// [`BookError::BadName`].
pub(super) fn check_name(name: &str) -> Result<(), BookError> {
    if name.is_empty() || name == "." || name.contains("..") || name.contains(['/', '\\']) {
        return Err(BookError::BadName { name: name.to_owned() });
    }
    Ok(())
}

/// Runs work that may wait for a disk on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, BookError> + Send + 'static,
) -> Result<T, BookError> {
    match tokio::task::spawn_blocking(disk::handed_over(run)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(BookError::Worker { what: "reading", reason: error.to_string() }),
    }
}

impl Books {
    pub(super) fn open(directory: &Path, options: LogStoreOptions) -> Result<(Self, Recovery), BookError> {
        let books_directory = directory.join("books");
        disk::create_dir_all(directory)?;
        let lock = take_lock(directory)?;
        disk::create_dir_all(&books_directory)?;
        // A program that was killed before it synced these directories may have left their names undurable.
        store::sync_inherited([""; 0], [&*books_directory, directory])?;
        store::sync_name_of(directory)?;
        let mut books = HashMap::new();
        let assets = Arc::<Assets>::default();
        let mut recovery = Recovery::default();
        // All books are read before the first is cut: a book that is refused leaves the others as they are, and every cut
        // is reported.
        let mut read = Vec::new();
        for name in book_names(&books_directory)? {
            read.push(opening::read(&books_directory.join(&name), &name, &options)?);
        }
        for book in read {
            let (name, book_directory) = (book.name.clone(), book.directory.clone());
            let mut opened = book.finish()?;
            recovery.append(std::mem::take(&mut opened.recovery));
            let registered = opened.assets.drain(..).map(|asset| (asset.id.clone(), asset));
            assets.write().unwrap_or_else(PoisonError::into_inner).extend(registered);
            let book = Arc::new(OpenBook::new(&name, &book_directory, opened, &options, &assets));
            books.insert(name, book);
        }
        let books = Self {
            directory: directory.to_owned(),
            options,
            books: RwLock::new(Some(books)),
            assets,
            created: watch::channel(Created::default()).0,
            lock: Mutex::new(Some(lock)),
        };
        Ok((books, recovery))
    }

    pub(super) fn with_books<T>(
        &self,
        read: impl FnOnce(&HashMap<String, Arc<OpenBook>>) -> T,
    ) -> Result<T, BookError> {
        let books = self.books.read().unwrap_or_else(PoisonError::into_inner);
        books.as_ref().map(read).ok_or(BookError::ShutDown)
    }

    pub(super) fn assets(&self) -> RwLockReadGuard<'_, HashMap<AssetId, AssetDef>> {
        self.assets.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a book up.
    ///
    /// # Errors
    /// A name that no book can have; shut down.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<OpenBook>>, BookError> {
        let found = self.with_books(|books| books.get(name).cloned())?;
        check_name(name)?;
        Ok(found)
    }

    /// Follows the creation of books.
    pub(super) fn follow(&self) -> watch::Receiver<Created> {
        self.created.subscribe()
    }

    /// Looks a book up, and creates it when it is missing. Call it only for an event that will be accepted.
    fn find_or_create(&self, name: &str) -> Result<Arc<OpenBook>, BookError> {
        if let Some(book) = self.find(name)? {
            return Ok(book);
        }
        let mut books = self.books.write().unwrap_or_else(PoisonError::into_inner);
        // Checked again under the lock: after a shutdown another program may own the directory.
        let books = books.as_mut().ok_or(BookError::ShutDown)?;
        if let Some(book) = books.get(name) {
            return Ok(Arc::clone(book));
        }
        let directory = self.directory.join("books").join(name);
        disk::refuse_other_case(&directory)?;
        refuse_link(&directory)?;
        let opened = opening::create(&directory, &self.options)?;
        let book = Arc::new(OpenBook::new(name, &directory, opened, &self.options, &self.assets));
        books.insert(name.to_owned(), Arc::clone(&book));
        self.created.send_modify(|created| created.books += 1);
        Ok(book)
    }

    pub(super) async fn create(self: &Arc<Self>, name: &str) -> Result<Arc<OpenBook>, BookError> {
        if let Some(book) = self.find(name)? {
            return Ok(book);
        }
        let shared = Arc::clone(self);
        let name = name.to_owned();
        blocking(move || shared.find_or_create(&name)).await
    }

    /// Returns the book that validates a transaction. Where the book is missing and would reject the transaction, the rejection.
    pub(super) async fn book_for(
        self: &Arc<Self>,
        transaction: &Transaction,
    ) -> Result<Arc<OpenBook>, StoreError> {
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
        // A transaction without postings is rejected only when it cannot be stored.
        super::frame::transaction_json(transaction)?;
        Ok(self.create(&name.0).await?)
    }

    pub(super) fn shut_down(&self) {
        // Held to the end: a second caller finds no books, and must not release the directory while the first still waits
        // for their writers.
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let books = self.books.write().unwrap_or_else(PoisonError::into_inner).take();
        for book in books.unwrap_or_default().values() {
            book.shut_down();
        }
        self.created.send_modify(|created| created.closed = true);
        lock.take();
    }
}

/// Returns a reader of events `first` to `last`, which the book has.
pub(super) fn reader(book: &BookView, first: Seq, last: Seq) -> Result<EventReader, BookError> {
    let state = book.state();
    EventReader::new(&book.directory, state.bases(), state.index.position(first)?, first, last)
}

/// Length of a page's frames in bytes from which no further event is added.
pub(super) const PAGE_BYTES: u64 = 4 << 20;

/// Reads at most `limit` events from `first` on, up to the last that is durable and applied, and until their frames have
/// `max_bytes`.
pub(super) fn read_page(
    book: &BookView,
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

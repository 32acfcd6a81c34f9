//! Subscriptions: a book's events from a number on, without end, read from the log as they become durable.
//!
//! A stream remembers the next number, reads pages up to the last durable event, and
//! sleeps until that event changes. It therefore has no gap and no repeat, and a slow reader delays neither the writer nor other readers.
//!
//! Reads only. Guarantees: a stream holds neither the queue nor the lock, so that shutdown ends it. Rejected:
//! a broadcast of events, because a reader that falls behind would need the log all the same.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use talea_core::events::LedgerEvent;
use talea_core::store::{EventStream, Sequenced, StoreError};
use talea_core::types::Seq;
use tokio::sync::watch;

use super::books::{Books, Created, PAGE_BYTES, blocking, check_name, read_page};
use super::error::BookError;
use super::queue::OpenBook;
use super::view::{BookProgress, Closed};

/// Events that are read at a time, unless their frames exceed a page.
const PAGE_EVENTS: usize = 512;

/// The stages of a subscription.
enum Stage {
    /// Nothing more is read; the error, if there is one, is the last item.
    Failed(Option<BookError>),
    /// The book has no event yet.
    Waiting(watch::Receiver<Created>),
    Reading(Arc<OpenBook>, watch::Receiver<BookProgress>),
}

struct Subscription {
    books: Arc<Books>,
    name: String,
    next: Seq,
    page: VecDeque<Sequenced<LedgerEvent>>,
    stage: Stage,
}

/// Returns the events of `name` from `from` on.
pub(super) fn stream(books: Arc<Books>, name: &str, from: Seq) -> EventStream {
    // Follows creations before the lookup, so that a book that is created in between is noticed.
    let created = books.follow();
    let stage = match check_name(name).and_then(|()| books.find(name)) {
        Ok(Some(book)) => reading(book),
        Ok(None) => Stage::Waiting(created),
        Err(error) => Stage::Failed(Some(error)),
    };
    let stream =
        Subscription { books, name: name.to_owned(), next: from.max(1), page: VecDeque::new(), stage };
    futures::stream::unfold(stream, |mut stream| async move {
        let item = match stream.step().await {
            Ok(event) => Ok(event?),
            Err(error) => {
                stream.stage = Stage::Failed(None);
                Err(StoreError::from(error))
            }
        };
        Some((item, stream))
    })
    .boxed()
}

impl Subscription {
    /// Returns the next event; `None` when the store was shut down.
    async fn step(&mut self) -> Result<Option<Sequenced<LedgerEvent>>, BookError> {
        loop {
            if let Some(event) = self.page.pop_front() {
                self.next = event.seq.saturating_add(1);
                return Ok(Some(event));
            }
            match &mut self.stage {
                Stage::Failed(error) => return error.take().map_or(Ok(None), Err),
                Stage::Waiting(created) => {
                    if created.changed().await.is_err() || created.borrow_and_update().closed {
                        return Ok(None);
                    }
                    match self.books.find(&self.name) {
                        Ok(Some(book)) => self.stage = reading(book),
                        Ok(None) => {}
                        Err(BookError::ShutDown) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                Stage::Reading(book, follow) => {
                    let BookProgress { last, closed } = follow.borrow_and_update().clone();
                    if self.next <= last {
                        let (book, next) = (Arc::clone(book), self.next);
                        self.page = blocking(move || read_page(&book.view, next, PAGE_EVENTS, PAGE_BYTES))
                            .await?
                            .into();
                        continue;
                    }
                    match closed {
                        None => {
                            if follow.changed().await.is_err() {
                                return Ok(None);
                            }
                        }
                        Some(Closed::ShutDown) => return Ok(None),
                        Some(Closed::Failed(_)) => return Err(book.closed_error()),
                    }
                }
            }
        }
    }
}

fn reading(book: Arc<OpenBook>) -> Stage {
    let follow = book.view.follow();
    Stage::Reading(book, follow)
}

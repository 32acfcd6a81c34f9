//! What readers see of an open book: its state, and how far they may read.
//!
//! Touches nothing. Guarantees: `progress` names an event only after that event is synced and applied to `state`. A reader that
//! asks for progress first and for the state after it therefore finds every event that it was promised.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use talea_core::types::{AssetDef, AssetId, Seq};
use tokio::sync::watch;

use super::error::BookError;
use super::state::BookState;

/// All registered assets, by id. Everybody reads them; the writer of the system book changes them.
pub(super) type Assets = RwLock<HashMap<AssetId, AssetDef>>;

/// Why a book accepts no more jobs.
#[derive(Debug, Clone)]
pub(super) enum Closed {
    /// The store was shut down.
    ShutDown,
    /// A write failed.
    Failed(Arc<str>),
}

/// How far readers may read, and whether more events can come.
#[derive(Debug, Clone)]
pub(super) struct BookProgress {
    /// The last event that is durable and applied.
    pub(super) last: Seq,
    /// Set when no more events will come.
    pub(super) closed: Option<Closed>,
}

/// The readers' side of an open book. Only the writer changes it.
#[derive(Debug)]
pub(super) struct BookView {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) assets: Arc<Assets>,
    pub(super) state: RwLock<BookState>,
    pub(super) progress: watch::Sender<BookProgress>,
}

impl BookView {
    /// Returns the state, for reading.
    pub(super) fn state(&self) -> RwLockReadGuard<'_, BookState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the last event that may be shown. Ask for it before the state, which then reaches at least as far.
    pub(super) fn last_seq(&self) -> Seq {
        self.progress.borrow().last
    }

    /// Follows the book's progress.
    pub(super) fn follow(&self) -> watch::Receiver<BookProgress> {
        self.progress.subscribe()
    }

    /// Returns the error of a caller that comes after the book was closed.
    pub(super) fn error_of(&self, closed: &Closed) -> BookError {
        match closed {
            Closed::ShutDown => BookError::ShutDown,
            Closed::Failed(reason) => {
                BookError::Poisoned { book: self.name.clone(), reason: reason.to_string() }
            }
        }
    }
}

//! Books: double-entry accounts over an append-only log, an implementation of `talea_core::store::Store`.
//!
//! A book is a log of events: accounts opened, transactions posted. Balances, sums and histories are derived from the log when the
//! book is opened. Each batch of commits is one write and one sync, and is acknowledged after the sync. A commit carries an
//! idempotency key, and a key takes effect once, for ever.
//!
//! Directories can be exchanged with those of the crate `talea-store-log` 0.1.0, in both directions. docs/books.md describes
//! the format and what recovery does about damage.
//!
//! ```
//! use relayburn_ledger::book::LogTaleaStore;
//! use talea_core::store::{AccountCfg, Store};
//! use talea_core::types::*;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let store = LogTaleaStore::open(directory.path()).await?;
//! let usd = AssetId::new("USD");
//! store
//!     .register_asset(&AssetDef { id: usd.clone(), class: AssetClass::Fiat, precision: 2, name: "US dollar".into() })
//!     .await?;
//! let account = |path: &str| AccountId { book: Book("shop".into()), path: path.into() };
//! for (path, kind) in [("cash", AccountKind::Asset), ("sales", AccountKind::Income)] {
//!     let cfg = AccountCfg { normal_side: kind.normal_side(), min_balance: None };
//!     store.open_account(&AccountDef { id: account(path), asset: usd.clone(), kind }, &cfg).await?;
//! }
//! let posting = |path: &str, direction| Posting {
//!     account: account(path),
//!     amount: Amount::new(1250, usd.clone()),
//!     direction,
//! };
//! let sale = Transaction {
//!     id: TxId(uuid::Uuid::new_v4()),
//!     book: Book("shop".into()),
//!     postings: vec![posting("cash", Direction::Debit), posting("sales", Direction::Credit)],
//!     idempotency_key: IdempotencyKey("receipt 1".into()),
//!     external_refs: vec![],
//!     metadata: serde_json::json!({}),
//!     occurred_at: chrono::Utc::now(),
//! };
//! let first = store.commit(&sale).await?;
//! assert_eq!(store.commit(&sale).await?, first);
//! assert_eq!(store.balance(&account("sales"), None).await?.amount.minor(), 1250);
//! store.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod books;
mod check;
mod directory;
mod error;
mod files;
mod frame;
mod job;
mod keys;
mod opening;
mod options;
mod queue;
mod scan;
mod scratch;
mod snapshot;
mod state;
mod store;
mod subscribe;
mod time;
mod validate;
mod view;
mod writer;

#[cfg(feature = "cli")]
pub(crate) use directory::{LINK_LEFT_OUT, linked_books};

pub use check::{
    BookFinding, BookFindingKind, BookProblem, BookReport, BookStatus, Unbalanced, check, status,
};
pub use error::BookError;
pub use options::LogStoreOptions;
pub use store::{LogTaleaStore, open};

#[cfg(all(test, unix))]
mod tests;

//! The ingestor: drains a journal of assertions, votes, epochs and ledger lines into a key-value store and the ledger.
//!
//! May touch: its store, its cursor in the journal, and the files that the ledger sink writes. Guarantees: a store is
//! filled from one journal only; every record takes effect exactly once in the store, across crashes; a record that cannot be
//! understood is set aside with the reason and stops nothing; archives are validated before they are read. `docs/drain.md` specifies
//! payloads, keys and values.
//!
//! ```
//! use relayburn_ledger::ingest::{Assertion, HybridStore, Ingestor, KVStore, serialize_assertion};
//! use relayburn_ledger::journal::Journal;
//!
//! let directory = tempfile::tempdir()?;
//! let journal = Journal::open(&directory.path().join("journal"))?;
//! journal.append(&serialize_assertion(&Assertion {
//!     subject: "water".into(),
//!     predicate: "boils at".into(),
//!     object: "100 °C".into(),
//!     source: "textbook".into(),
//!     confidence: 0.99,
//!     timestamp_ms: 1_790_000_000_000,
//! })?)?;
//!
//! let store = HybridStore::open(&directory.path().join("store"))?;
//! let mut ingestor = Ingestor::new(journal.reader()?, store)?;
//! ingestor.drain()?; // or start() and stop().await
//! let store = ingestor.into_store()?;
//! assert_eq!(store.get(b"S:water")?.map(|hashes| hashes.len()), Some(32));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod binding;
mod delivery;
mod error;
mod front_door;
mod hybrid;
mod ingestor;
mod payload;
mod sink;
mod store;
mod worker;

#[cfg(test)]
mod tests;

pub use delivery::{DeliveryError, ledger_sink};
pub use error::IngestError;
#[cfg(feature = "cli")]
pub(crate) use front_door::queue_batch;
pub use front_door::queue_ledger_lines;
pub use hybrid::HybridStore;
#[cfg(feature = "cli")]
pub(crate) use hybrid::is_guarded;
pub use ingestor::Ingestor;
pub use payload::{
    Assertion, Epoch, Payload, PayloadError, QueuedLine, RecordType, Vote, deserialize, serialize_assertion,
    serialize_epoch, serialize_ledger_line, serialize_vote,
};
pub use sink::{Delivered, LedgerEntry, LedgerSink, RefusedLine, SinkError};
pub use store::{KVStore, KeyValue, StoreError};
pub use worker::{Drained, SetAsideListener, SetAsideRecord};

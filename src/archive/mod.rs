//! The archive: `archive.sqlite`, derived from the ledger and from nothing else.

pub mod publish;

//! The archive: `archive.sqlite`, derived from the ledger and from nothing else.

pub mod fold;
pub mod rows;
pub mod schema;

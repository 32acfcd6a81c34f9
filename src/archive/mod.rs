//! The archive: a SQLite database derived from the ledger.

pub mod bulk;

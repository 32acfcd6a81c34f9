//! Append-only logs that can be trusted, and the stores derived from them.

pub mod archive;
pub mod disk;
pub mod home;
#[cfg(feature = "ingest")]
pub mod ingest;
pub mod journal;
pub mod scan;

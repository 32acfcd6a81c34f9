//! Append-only logs that can be trusted, and the stores derived from them.

pub mod archive;

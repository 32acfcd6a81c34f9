//! Append-only logs that can be trusted, and the stores derived from them.

pub mod archive;
#[cfg(feature = "book")]
pub mod book;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod dev;
pub mod disk;
pub mod home;
pub mod lock;
pub mod scan;

//! `burn export`: the files have the rows of the archive, a manifest is the old one or the new one whatever happens, and
//! wrong input is refused with exit code and remedy.
#![cfg(all(feature = "cli", feature = "parquet", unix))]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "s3")]
mod bucket;
mod contents;
mod kill;
mod rules;
#[cfg(feature = "s3")]
mod server;
mod support;

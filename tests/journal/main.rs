//! Tests of the journal and its ingestor, and of appends through both.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod command;
mod ingest_kill;
mod kill;
mod via_journal;

//! Tests of the readers of agents' logs.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod accounting_conformance;
mod codex_histories;
mod conformance;
mod hooks;
mod ingest;
mod install;
mod opencode_database;
mod stamps;

//! Tests of the readers of agents' logs.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod accounting_conformance;
mod burn_database;
mod claude_histories;
mod codex_histories;
mod conformance;
#[cfg(unix)]
mod histories;
mod hooks;
mod ingest;
mod install;
mod opencode_database;
mod stamps;

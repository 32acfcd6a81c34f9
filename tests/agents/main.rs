//! Tests of the readers of agents' logs.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod accounting_conformance;
#[cfg(unix)]
mod bad_input;
mod burn_database;
mod claude_histories;
mod codex_histories;
#[cfg(unix)]
mod codex_rules;
mod conformance;
#[cfg(unix)]
mod histories;
mod hooks;
mod ingest;
mod install;
#[cfg(unix)]
mod left_out;
#[cfg(unix)]
mod lost_ledger;
mod opencode_database;
#[cfg(unix)]
mod roots;
mod stamps;
#[cfg(target_os = "linux")]
mod watch;

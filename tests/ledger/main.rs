//! Tests of the ledger: appends, checks, clean-up, hostile records, locks between processes.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod append;
mod append_golden;
mod append_processes;
mod check;
mod clean;
mod hostile_records;
mod lock_processes;
mod merge;
mod merge_command;

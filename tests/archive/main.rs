//! Tests of the archive: builds, tails, damage, kills, memory, and queries.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod cold;
mod conformance;
mod faults;
mod findings;
mod fold_cost;
mod fuzz;
mod kill;
mod memory;
mod query_golden;
mod query_rules;
mod readers;
mod safety;
mod strangers;
mod tail;

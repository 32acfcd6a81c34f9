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

/// Runs `burn` with a home: its exit code, what it writes, and what it says to standard error.
fn burn(home: &std::path::Path, args: &[&str]) -> (i32, String, String) {
    let output = common::processes::burn(home).args(args).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

//! Tests of prices, totals and costs.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod command;
mod conformance;
mod prices_conformance;
mod properties;

use std::path::Path;
use std::process::Command;

/// `burn` with a home that is also the user's.
fn burn_of(home: &Path) -> Command {
    let mut command = common::processes::burn(home);
    command.env("HOME", home);
    command
}

/// Runs a command: its exit code, what it writes, and what it says to standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), stdout, stderr)
}

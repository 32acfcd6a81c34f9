//! Tests of the bulk loader against SQLite.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod fuzz;
mod rules;
mod speed;

//! Tests of prices, totals and costs.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod command;
mod conformance;
mod prices_conformance;
mod properties;
